/* 01_layer.c  One feed-forward layer: create, forward, destroy.
 *
 * The weights are random. A negative gate bias makes about a tenth of the neurons active, as in a ReLU-fied language model;
 * a trained model has that in its weights and needs no bias.
 */
#include "example.h"

enum { D_MODEL = 512, D_FF = 2048 };

int main(void)
{
    /* [d_ff][d_model]: one row is one neuron */
    float *gate = random_floats(D_FF * D_MODEL, 1.0f / sqrtf(D_MODEL));
    float *up = random_floats(D_FF * D_MODEL, 1.0f / sqrtf(D_MODEL)); /* the same */
    /* [d_model][d_ff]: one column is one neuron */
    float *down = random_floats(D_MODEL * D_FF, 1.0f / sqrtf(D_FF));
    float *x = random_floats(D_MODEL, 1.0f), y[D_MODEL], y_dense[D_MODEL], bias[D_FF];
    for (size_t i = 0; i < D_FF; i++)
        bias[i] = -1.25f;

    /* The context holds what is not the layer: threads, kernels for this CPU, scratch memory, the text of the last error. */
    sffn_context *ctx;
    sffn_context_config context_config = SFFN_CONTEXT_CONFIG_INIT;
    context_config.n_threads = 2;
    must(NULL, sffn_context_create(&context_config, &ctx));

    /* The layer copies and packs its weights: up and down of one neuron side by side, down transposed. */
    sffn_ffn *ffn;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = D_MODEL;
    config.d_ff = D_FF;
    config.gate.data = gate;
    config.up.data = up;
    config.down.data = down;
    config.down.layout = SFFN_LAYOUT_COLUMNS;
    config.gate_bias = bias;
    config.activation = SFFN_ACT_RELU;
    must(ctx, sffn_ffn_create(ctx, &config, &ffn));

    /* Sparse is the default: all gate rows are read, then only the up and down rows of neurons with a positive gate. */
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = y;
    args.n_tokens = 1;
    args.stats = &stats;
    must(ctx, sffn_ffn_forward(ctx, ffn, &args));

    /* The same layer, all of it. */
    sffn_ffn_stats dense_stats = SFFN_FFN_STATS_INIT;
    args.y = y_dense;
    args.select = SFFN_SELECT_DENSE;
    args.stats = &dense_stats;
    must(ctx, sffn_ffn_forward(ctx, ffn, &args));

    const double density = (double)stats.n_active / D_FF,
                 difference = relative_difference(y, y_dense, D_MODEL);
    printf("density            %.3f (%u of %d neurons are active)\n", density,
           (unsigned)stats.n_active, D_FF);
    printf("weight bytes read  %llu sparse, %llu dense\n", (unsigned long long)stats.touched_bytes,
           (unsigned long long)dense_stats.touched_bytes);
    printf("difference of y    %.1e of its norm\n", difference);

    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    free(gate);
    free(up);
    free(down);
    free(x);
    return density < 0.2 && difference < 1e-5 ? 0 : 1;
}
