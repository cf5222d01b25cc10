/* 03_early_selection.c  A router chooses the experts of the next layer while this one is still running.
 *
 * The router reads the input of layer 0, as routers that look ahead do, and runs on its own thread in its own context. Its choice is an
 * active set, which layer 1 gets handed in later. Each token has its own experts.
 */
#include "example.h"

#include <pthread.h>

enum { D_MODEL = 256, EXPERT = 32, N_EXPERTS = 64, D_FF = EXPERT * N_EXPERTS, N_TOKENS = 3 };

struct selection {
    /* one context runs one call at a time, so a second thread needs a second one */
    sffn_context *ctx;
    const sffn_router *router;
    const float *x;
    sffn_active_set *active;
};

static void *select_experts(void *arg)
{
    struct selection *s = arg;
    must(s->ctx,
         sffn_router_select(s->ctx, s->router, s->x, D_MODEL, N_TOKENS, NULL, 0, s->active));
    return NULL;
}

static sffn_ffn *make_layer(sffn_context *ctx)
{
    sffn_ffn *ffn;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    float *weights = random_floats(3 * D_FF * D_MODEL, 1.0f / sqrtf(D_MODEL));
    config.d_model = D_MODEL, config.d_ff = D_FF;
    config.gate.data = weights;
    config.up.data = weights + D_FF * D_MODEL;
    config.down.data = weights + 2 * D_FF * D_MODEL;
    config.activation =
        SFFN_ACT_SILU; /* no zeros of its own: here it is the router that makes the layer sparse */
    must(ctx, sffn_ffn_create(ctx, &config, &ffn));
    free(weights); /* copied */
    return ffn;
}

int main(void)
{
    sffn_context *ctx;
    struct selection s = {0};
    must(NULL, sffn_context_create(NULL, &ctx));
    must(NULL, sffn_context_create(NULL, &s.ctx));

    float *router_weights = random_floats(N_EXPERTS * D_MODEL, 1.0f / sqrtf(D_MODEL)),
          bias[N_EXPERTS];
    for (int i = 0; i < N_EXPERTS; i++)
        bias[i] =
            -1.0f; /* keeps about a sixth of the experts; a trained router has learned whom to keep */
    sffn_router *router;
    sffn_router_config router_config = SFFN_ROUTER_CONFIG_INIT;
    router_config.d_model = D_MODEL;
    router_config.n_experts = N_EXPERTS;
    router_config.block_size = EXPERT;
    router_config.weights.data = router_weights;
    router_config.bias = bias;
    must(ctx, sffn_router_create(ctx, &router_config, &router));
    sffn_active_set_config set_config = SFFN_ACTIVE_SET_CONFIG_INIT;
    set_config.n_blocks = N_EXPERTS;
    set_config.block_size = EXPERT;
    set_config.max_tokens = N_TOKENS;
    must(ctx, sffn_active_set_create(ctx, &set_config, &s.active));
    sffn_ffn *layers[2] = {make_layer(ctx), make_layer(ctx)};
    float *x = random_floats(N_TOKENS * D_MODEL, 1.0f), hidden[N_TOKENS * D_MODEL],
          y[N_TOKENS * D_MODEL];

    /* Layer 0 runs here, dense; the selection for layer 1 runs beside it. */
    s.router = router;
    s.x = x;
    pthread_t thread;
    if (pthread_create(&thread, NULL, select_experts, &s) != 0)
        return 1;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = hidden;
    args.n_tokens = N_TOKENS;
    args.select = SFFN_SELECT_DENSE;
    must(ctx, sffn_ffn_forward(ctx, layers[0], &args));
    pthread_join(thread, NULL);

    /* Layer 1 reads its chosen experts only. */
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    args.x = hidden;
    args.y = y;
    args.select = SFFN_SELECT_DEFAULT;
    args.active = s.active;
    args.stats = &stats;
    must(ctx, sffn_ffn_forward(ctx, layers[1], &args));

    for (size_t t = 0; t < N_TOKENS; t++)
        printf("token %zu: %zu of %d experts\n", t, sffn_active_set_count(s.active, t), N_EXPERTS);
    printf("layer 1 computed %.3f of the neurons per token\n",
           (double)stats.n_active / (N_TOKENS * D_FF));
    const int is_right =
        stats.n_selected == (uint64_t)(sffn_active_set_density(s.active) * N_TOKENS * D_FF + 0.5);
    sffn_ffn_destroy(layers[0]);
    sffn_ffn_destroy(layers[1]);
    sffn_router_destroy(router);
    sffn_active_set_destroy(s.active);
    sffn_context_destroy(s.ctx);
    sffn_context_destroy(ctx);
    free(router_weights), free(x);
    return is_right ? 0 : 1;
}
