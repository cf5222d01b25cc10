/* router.h, with the toy case 14.7 of methods.md and the router's share of 14.8. */
#include <math.h>

#include "check.h"
#include "guarded.h"
#include "layer.h"
#include "weights.h"

static sffn_context *ctx;
static float weights[4 * 32];

static sffn_router_config config_of(uint32_t n_experts, uint32_t d_model)
{
    sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
    config.d_model = d_model;
    config.n_experts = n_experts;
    config.weights.data = weights;
    return config;
}

static void config_errors(void **state)
{
    (void)state;
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_router_config config = config_of(4, 32);                                              \
        sffn_router *router = (sffn_router *)(uintptr_t)1;                                         \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_router_create(ctx, &config, &router), status, words);                \
        CHECK(router == NULL);                                                                     \
    } while (0)
    REFUSED(config.d_model = 0, SFFN_ERR_INVALID_ARGUMENT, "d_model 0");
    REFUSED(config.n_experts = 0, SFFN_ERR_INVALID_ARGUMENT, "n_experts 0");
    REFUSED(config.block_size = 0, SFFN_ERR_INVALID_ARGUMENT, "block_size 0");
    REFUSED(config.rule = 1, SFFN_ERR_INVALID_ARGUMENT, "rule 1");
    REFUSED(config.threshold = 0.0f, SFFN_ERR_INVALID_ARGUMENT, "threshold 0");
    REFUSED(config.threshold = 1.0f, SFFN_ERR_INVALID_ARGUMENT, "threshold 1");
    REFUSED(config.threshold = -0.25f, SFFN_ERR_INVALID_ARGUMENT, "threshold -0.25");
    REFUSED(config.threshold = NAN, SFFN_ERR_INVALID_ARGUMENT, "threshold nan");
    REFUSED(config.weights.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "weights NULL");
    REFUSED(config.weights.dtype = 8, SFFN_ERR_INVALID_ARGUMENT, "dtype 8");
    REFUSED((config.weights.dtype = SFFN_Q8_0, config.d_model = 31), SFFN_ERR_SHAPE, "31");
    REFUSED(config.weights.row_bytes = 127, SFFN_ERR_SHAPE, "row_bytes 127 128");
    sffn_router_config config = config_of(4, 32);
    sffn_router *router = (sffn_router *)(uintptr_t)1;
    config.block_size = 0x40000000u; /* 4 * 2^30 neurons: more than an active set can have */
    CHECK_FAILS(ctx, sffn_router_create(ctx, &config, &router), "block_size 1073741824");
    CHECK(router == NULL);
    config = config_of(4, 32);
    config.weights.layout = SFFN_LAYOUT_COLUMNS;
    CHECK_FAILS(ctx, sffn_router_create(ctx, &config, &router), "layout");
    CHECK_ERROR(ctx, sffn_router_create(ctx, NULL, &router), SFFN_ERR_INVALID_ARGUMENT,
                "config NULL");
    CHECK_ERROR(ctx, sffn_router_create(ctx, &config, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "router NULL");
    CHECK(sffn_router_create(NULL, &config, &router) == SFFN_ERR_INVALID_ARGUMENT);
    sffn_router_destroy(NULL);
}

static void argument_errors(void **state)
{
    (void)state;
    sffn_router_config config = config_of(4, 32);
    sffn_router *router = NULL;
    CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
    float x[64] = {0}, scores[8], before[8];
    for (int i = 0; i < 8; i++)
        scores[i] = before[i] = (float)i;
    sffn_active_set *other = make_set(ctx, NULL, 2, 5, 32), *blocks = make_set(ctx, NULL, 2, 4, 16);
    sffn_active_set *brief = make_set(ctx, NULL, 1, 4, 32), *good = make_set(ctx, NULL, 2, 4, 32);
    CHECK_OK(ctx, sffn_active_set_set_all(blocks, 0));
#define SELECT(r, x, x_stride, scores, scores_stride, active)                                      \
    sffn_router_select(ctx, r, x, x_stride, 2, scores, scores_stride, active)
    CHECK_ERROR(ctx, SELECT(NULL, x, 32, scores, 4, good), SFFN_ERR_INVALID_ARGUMENT,
                "router NULL");
    CHECK_ERROR(ctx, SELECT(router, NULL, 32, scores, 4, good), SFFN_ERR_INVALID_ARGUMENT,
                "x NULL");
    CHECK_FAILS(ctx, SELECT(router, x, 31, scores, 4, good), "x_stride 31");
    CHECK_FAILS(ctx, SELECT(router, x, 32, scores, 3, good), "scores_stride 3");
    CHECK_ERROR(ctx, SELECT(router, x, 32, scores, 4, other), SFFN_ERR_SHAPE, "5 4");
    CHECK_ERROR(ctx, SELECT(router, x, 32, scores, 4, blocks), SFFN_ERR_SHAPE, "16 32");
    CHECK_ERROR(ctx, SELECT(router, x, 32, scores, 4, brief), SFFN_ERR_SHAPE, "1");
    CHECK_BITS(scores, before, 8, "after errors");
    CHECK(sffn_active_set_count(blocks, 0) == 4 &&
          sffn_active_set_n_tokens(blocks) == 2); /* left as it was */
    CHECK(sffn_router_select(NULL, router, x, 32, 1, scores, 4, good) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK_OK(ctx, SELECT(router, x, 32, NULL, 0, good));
    CHECK(sffn_active_set_n_tokens(good) == 2 &&
          sffn_active_set_union_count(good) == 0); /* all scores 0: dropped */
    CHECK_OK(ctx, SELECT(router, x, 32, scores, 4, NULL));
    CHECK(scores[0] == 0.0f && scores[7] == 0.0f);
    CHECK_OK(ctx, sffn_router_select(ctx, router, NULL, 0, 0, NULL, 0, good));
    CHECK(sffn_active_set_n_tokens(good) == 0);
    sffn_active_set *const sets[] = {other, blocks, brief, good};
    for (size_t i = 0; i < 4; i++)
        sffn_active_set_destroy(sets[i]);
    sffn_router_destroy(router);
}

/* A router of n experts whose scores are the biases: the weights are zero. */
static sffn_router *make_constant(const float *bias, uint32_t n, uint32_t block_size,
                                  float threshold)
{
    static const float zeros[64];
    sffn_router_config config = config_of(n, 1);
    config.weights.data = zeros;
    config.block_size = block_size;
    config.threshold = threshold;
    config.bias = bias;
    sffn_router *router = NULL;
    CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
    return router;
}

/* methods.md 14.7: logit thresholds 0, 0.8472979, 2.1972246 of tau 0.5, 0.7, 0.9; and -0.8472979 of
 * 0.3. */
static void toy_14_7_logit_thresholds(void **state)
{
    (void)state;
    static const struct {
        float tau;
        double logit;
    } table[] = {{0.5f, 0.0}, {0.7f, 0.8472979}, {0.9f, 2.1972246}, {0.3f, -0.8472979}};
    for (size_t k = 0; k < 4; k++) {
        /* just below and above; tau as a float moves the logit by 3e-7 at most */
        float scores[3] = {(float)(table[k].logit - 2e-6), (float)(table[k].logit + 2e-6), NAN},
              x = 1.0f;
        sffn_router *router = make_constant(scores, 3, 1, table[k].tau);
        sffn_active_set *set = make_set(ctx, NULL, 1, 3, 1);
        CHECK_OK(ctx, sffn_router_select(ctx, router, &x, 1, 1, NULL, 0, set));
        CHECK(sffn_active_set_contains(set, 0, 0) == 0 && sffn_active_set_contains(set, 0, 1) == 1);
        CHECK(sffn_active_set_contains(set, 0, 2) == 1); /* a NaN score keeps its expert */
        sffn_active_set_destroy(set);
        sffn_router_destroy(router);
    }
    /* at equality the expert is dropped; -0 equals 0; the smallest number above passes */
    static const float edges[4] = {0.0f, -0.0f, 1e-45f, -1e-45f};
    float x = 1.0f;
    sffn_router *router = make_constant(edges, 4, 1, 0.5f);
    sffn_active_set *set = make_set(ctx, NULL, 1, 4, 1);
    CHECK_OK(ctx, sffn_router_select(ctx, router, &x, 1, 1, NULL, 0, set));
    CHECK(sffn_active_set_count(set, 0) == 1 && sffn_active_set_contains(set, 0, 2) == 1);
    sffn_active_set_destroy(set);
    sffn_router_destroy(router);
}

/* methods.md 14.7: G = (0.9, 0.1, 0.7, 0.2), expert outputs (1,0), (10,0), (0,2), (0,30): hard y =
 * (1, 2). The scores do not multiply: (1.9, 7.4) would be the soft mode, (0.9, 1.4) the mistake. */
static void toy_14_7_hard_mode(void **state)
{
    (void)state;
    enum { block = 3, n_experts = 4, d_ff = block * n_experts };
    static const float g[n_experts] = {0.9f, 0.1f, 0.7f, 0.2f};
    static const float outputs[n_experts][2] = {{1, 0}, {10, 0}, {0, 2}, {0, 30}};
    float logits[n_experts], up_bias[d_ff], down[d_ff][2];
    for (size_t e = 0; e < n_experts; e++) {
        logits[e] = logf(g[e] / (1.0f - g[e]));
        for (size_t i = e * block; i < (e + 1) * block; i++) { /* thirds: h = 1/4, 1/4, 1/2 */
            up_bias[i] = i % block == block - 1 ? 0.5f : 0.25f;
            down[i][0] = outputs[e][0];
            down[i][1] = outputs[e][1];
        }
    }
    /* d_model 2 for y; the router reads its own input of the same length */
    static const float router_weights[n_experts][2], up[d_ff][2];
    sffn_router_config config = config_of(n_experts, 2);
    config.weights.data = router_weights;
    config.block_size = block;
    config.bias = logits;
    sffn_router *router = NULL;
    CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
    sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
    layer.d_model = 2;
    layer.d_ff = d_ff;
    layer.up.data = up;
    layer.down.data = down;
    layer.up_bias = up_bias;
    layer.router = router;
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &layer, &ffn));
    float x[2] = {5, 7}, y[2], scores[n_experts];
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = y;
    args.n_tokens = 1;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    CHECK_BITS(y, ((const float[]){1, 2}), 2, "hard mode");
    sffn_active_set *set = make_set(ctx, NULL, 1, n_experts, block);
    CHECK_OK(ctx, sffn_router_select(ctx, router, x, 2, 1, scores, n_experts, set));
    CHECK_BITS(scores, logits, n_experts, "scores are before the sigmoid");
    CHECK(sffn_active_set_count(set, 0) == 2);
    CHECK(sffn_active_set_contains(set, 0, 0) == 1 && sffn_active_set_contains(set, 0, 2) == 1);
    sffn_active_set_destroy(set);
    sffn_ffn_destroy(ffn);
    sffn_router_destroy(router);
}

/* methods.md 14.8: the router of a 7B layer has 1 409 024 weights, 1/96 of its FFN. */
static void toy_14_8_router_share(void **state)
{
    (void)state;
    const uint32_t d_model = 4096, n_experts = 11008 / 32;
    uint16_t *bf16 = calloc((size_t)n_experts * d_model, sizeof *bf16);
    CHECK(bf16 != NULL);
    sffn_router_config config = config_of(n_experts, d_model);
    config.weights.data = bf16;
    config.weights.dtype = SFFN_BF16;
    sffn_router *router = NULL;
    CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
    uint64_t bytes = sffn_router_weight_bytes(router);
    CHECK_SAYS(bytes == 2 * 1409024u, "%llu bytes", (unsigned long long)bytes);
    CHECK_WITHIN((double)bytes / 2.0 / 135266304.0, 1.0 / 96.0, 1e-12, "share of a gated FFN");
    sffn_router_destroy(router);
    free(bf16);
}

/* Scores of random routers in every type, with and without bias, within the bound of one dot
 * product; the decision follows. */
static void random_scores(void **state)
{
    (void)state;
    struct rng rng = rng_named("router scores");
    for (size_t k = 0; k < 100; k++) {
        struct guarded memory = {0};
        int32_t type = (int32_t)rng_below(&rng, SFFN_DTYPE_COUNT_);
        uint32_t n = 1 + rng_below(&rng, 40),
                 d = is_quantised(type) ? 32 * (1 + rng_below(&rng, 3)) : 1 + rng_below(&rng, 90);
        size_t n_tokens = 1 + rng_below(&rng, 20), row_bytes = weight_bytes(type, d);
        unsigned char *source = guarded_alloc(&memory, n * row_bytes, 1);
        float *w = GUARDED_FLOATS(&memory, (size_t)n * d), *bias = GUARDED_FLOATS(&memory, n);
        for (uint32_t e = 0; e < n; e++) {
            for (uint32_t i = 0; i < d; i++)
                w[e * d + i] = rng_normal(&rng);
            weight_encode(type, w + e * d, d, source + e * row_bytes);
            weight_decode(type, source + e * row_bytes, d, w + e * d);
            bias[e] = rng_normal(&rng);
        }
        float *x = draw_x(&memory, &rng, n_tokens, d, 1),
              *scores = GUARDED_FLOATS(&memory, n_tokens * n);
        sffn_router_config config = config_of(n, d);
        config.weights.data = source;
        config.weights.dtype = type;
        config.bias = k % 2 ? bias : NULL;
        sffn_router *router = NULL;
        CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
        memset(source, 0xFF, n * row_bytes); /* copied */
        sffn_active_set *set = make_set(ctx, NULL, n_tokens, n, 32);
        CHECK_OK(ctx, sffn_router_select(ctx, router, x, d, n_tokens, scores, n, set));
        for (size_t t = 0; t < n_tokens; t++)
            for (uint32_t e = 0; e < n; e++) {
                double error,
                    want = reference_dot(type, w + e * d,
                                         (const float *)(const void *)((const char *)x + 4 * t * d),
                                         d, config.bias ? (double)bias[e] : 0.0, &error);
                double got = (double)scores[t * n + e];
                CHECK_WITHIN(got, want, error, "%s expert %u", sffn_dtype_name(type), (unsigned)e);
                CHECK(sffn_active_set_contains(set, t, e) == (got > 0.0));
            }
        sffn_active_set_destroy(set);
        sffn_router_destroy(router);
        guarded_free(&memory);
    }
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, config_errors);
    CASE(&cases, argument_errors);
    CASE(&cases, toy_14_7_logit_thresholds);
    CASE(&cases, toy_14_7_hard_mode);
    CASE(&cases, toy_14_8_router_share);
    CASE(&cases, random_scores);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "router");
    sffn_context_destroy(ctx);
    return failed;
}
