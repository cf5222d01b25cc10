/* 04_model_layer.c  A layer of a model file, dense and sparse.    04_model_layer [MODEL.gguf LAYER INPUTS.f32]
 *
 * The file is memory-mapped and the layer reads the mapping in place, so nothing is copied. INPUTS.f32 holds what the layer sees for some
 * tokens of a text, d_model floats each. Sparsity depends on them: random inputs would wake far more neurons.
 */
#include "example.h"

enum { MAX_TOKENS = 64 };

static float *read_inputs(const char *path, size_t d_model, uint32_t *n_tokens)
{
    float *x = random_floats(MAX_TOKENS * d_model, 0.0f);
    FILE *file = fopen(path, "rb");
    *n_tokens =
        file != NULL ? (uint32_t)(fread(x, sizeof *x, MAX_TOKENS * d_model, file) / d_model) : 0;
    if (*n_tokens == 0) {
        fprintf(stderr, "%s: cannot be read, or holds less than one token of %zu floats\n", path,
                d_model);
        exit(1);
    }
    fclose(file);
    return x;
}

int main(int argc, char **argv)
{
    const char *path = argc == 4 ? argv[1] : "examples/models/reglu-33m.gguf";
    const char *inputs = argc == 4 ? argv[3] : "examples/models/layer3_inputs.f32";
    const uint32_t layer = argc == 4 ? (uint32_t)strtoul(argv[2], NULL, 10) : 3;
    sffn_context *ctx;
    sffn_model *model;
    must(NULL, sffn_context_create(NULL, &ctx));
    must(ctx, sffn_model_open(ctx, path, &model));

    /* The file decides shapes, types, activation and thresholds; the caller decides the rest. */
    sffn_ffn *ffn;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    must(ctx, sffn_model_layer_config(model, layer, &config));
    if (config.down.layout == SFFN_LAYOUT_ROWS) /* as sffn prepare stores it */
        /* without this the rows are packed into huge pages */
        config.storage = SFFN_STORAGE_BORROW;
    must(ctx, sffn_ffn_create(ctx, &config, &ffn));

    uint32_t n_tokens;
    float *x = read_inputs(inputs, config.d_model, &n_tokens);
    float *y[2] = {random_floats(config.d_model, 0.0f), random_floats(config.d_model, 0.0f)};
    double us[2] = {0, 0}, bytes[2] = {0, 0}, density[2] = {0, 0}, worst = 0.0;
    for (uint32_t t = 0; t < n_tokens; t++) {
        for (int sparse = 0; sparse < 2; sparse++) {
            sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            args.x = x + t * config.d_model;
            args.y = y[sparse];
            args.n_tokens = 1;
            args.select = sparse ? SFFN_SELECT_GATE : SFFN_SELECT_DENSE;
            args.stats = &stats;
            const double start = now_us();
            must(ctx, sffn_ffn_forward(ctx, ffn, &args));
            us[sparse] += (now_us() - start) / n_tokens;
            bytes[sparse] += (double)stats.touched_bytes / n_tokens;
            density[sparse] += (double)stats.n_active / config.d_ff / n_tokens;
        }
        worst = fmax(worst, relative_difference(y[1], y[0], config.d_model));
    }
    printf("%s, layer %u: %u neurons of width %u, %s, activation %s\n", path, layer, config.d_ff,
           config.d_model, sffn_dtype_name(config.up.dtype),
           sffn_activation_name(config.activation));
    printf("mean of %u tokens    dense     sparse\n", n_tokens);
    printf("density          %9.3f  %9.3f\n", density[0], density[1]);
    printf("bytes read       %9.0f  %9.0f\n", bytes[0], bytes[1]);
    printf("microseconds     %9.1f  %9.1f\n", us[0], us[1]);
    printf("largest difference of y: %.1e of its norm\n", worst);
    sffn_ffn_destroy(ffn);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    free(x);
    free(y[0]);
    free(y[1]);
    return worst < 1e-4 ? 0 : 1;
}
