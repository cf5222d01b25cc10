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
    REFUSED(config.rule = 3, SFFN_ERR_INVALID_ARGUMENT, "rule 3");
    REFUSED(config.rule = -1, SFFN_ERR_INVALID_ARGUMENT, "rule -1");
    REFUSED(config.rule = SFFN_ROUTER_TOP_K, SFFN_ERR_INVALID_ARGUMENT, "top_k 0 4");
    REFUSED((config.rule = SFFN_ROUTER_TOP_K, config.top_k = 5), SFFN_ERR_INVALID_ARGUMENT,
            "top_k 5 4");
    static const float masses[] = {0.0f, -1.0f, 1.5f, NAN};
    for (size_t i = 0; i < 4; i++)
        REFUSED((config.rule = SFFN_ROUTER_MASS, config.mass = masses[i]),
                SFFN_ERR_INVALID_ARGUMENT, "mass (0, 1]");
    REFUSED(config.weighting = 4, SFFN_ERR_INVALID_ARGUMENT, "weighting 4");
    REFUSED(config.normalize_input = 2, SFFN_ERR_INVALID_ARGUMENT, "normalize_input 2");
    REFUSED(config.input = 5, SFFN_ERR_INVALID_ARGUMENT, "input 5");
    static float nan[32] = {1, 2, NAN};
    REFUSED(config.bias = nan, SFFN_ERR_INVALID_ARGUMENT, "bias 2 nan");
    REFUSED((config.n_experts = 1, config.weights.data = nan), SFFN_ERR_INVALID_ARGUMENT,
            "weights element 2 row 0 nan");
    REFUSED(config.hidden_bias = nan, SFFN_ERR_INVALID_ARGUMENT, "n_hidden hidden_bias");
    REFUSED(config.hidden_weights.data = weights, SFFN_ERR_INVALID_ARGUMENT,
            "n_hidden hidden_weights");
    REFUSED(config.n_hidden = 4, SFFN_ERR_INVALID_ARGUMENT, "hidden_weights NULL");
    REFUSED((config.n_hidden = 4, config.hidden_weights.data = weights, config.hidden_bias = nan),
            SFFN_ERR_INVALID_ARGUMENT, "hidden_bias 2 nan");
    REFUSED((config.n_hidden = 4, config.hidden_weights.data = weights,
             config.weights.dtype = SFFN_Q8_0),
            SFFN_ERR_SHAPE, "weights 4 q8_0");
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
        float scores[2] = {(float)(table[k].logit - 2e-6), (float)(table[k].logit + 2e-6)},
              x = 1.0f;
        sffn_router *router = make_constant(scores, 2, 1, table[k].tau);
        sffn_active_set *set = make_set(ctx, NULL, 1, 2, 1);
        CHECK_OK(ctx, sffn_router_select(ctx, router, &x, 1, 1, NULL, 0, set));
        CHECK(sffn_active_set_contains(set, 0, 0) == 0 && sffn_active_set_contains(set, 0, 1) == 1);
        x = NAN; /* a NaN score keeps its expert */
        CHECK_OK(ctx, sffn_router_select(ctx, router, &x, 1, 1, NULL, 0, set));
        CHECK(sffn_active_set_count(set, 0) == 2);
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

/* ---------------------------------------------------------------- rules by hand */

/* Experts (8 of one neuron) that a rule keeps of these scores, as bits; weights may be NULL. */
static unsigned select_bits(sffn_router_config config, const float *scores, float *expert_weights)
{
    static float x = 1.0f;
    sffn_active_set_config set_config = SFFN_ACTIVE_SET_CONFIG_INIT;
    sffn_router *router = NULL;
    sffn_active_set *set = NULL;
    uint8_t bits;
    config.d_model = 1;
    config.n_experts = set_config.n_blocks = 8;
    config.block_size = 1;
    config.weights.data = scores;
    set_config.has_weights = expert_weights != NULL;
    CHECK_OK(ctx, sffn_active_set_create(ctx, &set_config, &set));
    CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
    CHECK_OK(ctx, sffn_router_select(ctx, router, &x, 1, 1, NULL, 0, set));
    CHECK_OK(ctx, sffn_active_set_get_bitmap(set, 0, &bits));
    if (expert_weights)
        memcpy(expert_weights, sffn_active_set_weights(set, 0), 8 * sizeof(float));
    sffn_active_set_destroy(set);
    sffn_router_destroy(router);
    return bits;
}

/* methods.md 14.17: p = (0.5, 0.25, 0.125, 0.125), here with four experts more that have none. */
static void toy_14_17_mass(void **state)
{
    (void)state;
    const float l = 0.69314718f,
                scores[8] = {-3 * l, -l, -300, -2 * l, -INFINITY, -INFINITY, -400, -3 * l};
    static const struct {
        float mass;
        unsigned bits;
    } table[] = {{0.01f, 0x02},  {0.5f, 0x02},  {0.51f, 0x0A},  {0.75f, 0x0A}, {0.76f, 0x0B},
                 {0.875f, 0x0B}, {0.88f, 0x8B}, {0.999f, 0x8B}, {1.0f, 0xFF}};
    sffn_router_config config = config_of(8, 1);
    config.rule = SFFN_ROUTER_MASS;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        config.mass = table[i].mass;
        CHECK_SAYS(select_bits(config, scores, NULL) == table[i].bits, "mass %g",
                   (double)table[i].mass);
    }
    /* the lowest of equals; one infinite score has all the mass, two share it */
    static const float equal[8] = {1, 1, 1, 1, 1, 1, 1, 1},
                       huge[8] = {0, INFINITY, 3e38f, 0, 0, INFINITY, 0, 0};
    config.mass = 0.5f;
    CHECK(select_bits(config, equal, NULL) == 0x0F);
    CHECK(select_bits(config, huge, NULL) == 0x02);
    config.mass = 0.501f;
    CHECK(select_bits(config, equal, NULL) == 0x1F);
    CHECK(select_bits(config, huge, NULL) == 0x22);
    config.mass = 0.999f;
    CHECK(select_bits(config, huge, NULL) == 0x22);
}

static void top_k_rule(void **state)
{
    (void)state;
    static const float scores[8] = {3, 1, 2, 2, 2, -1, 0, 5};
    static const unsigned bits[] = {0x80, 0x81, 0x85, 0x8D, 0x9D, 0x9F, 0xDF, 0xFF};
    sffn_router_config config = config_of(8, 1);
    config.rule = SFFN_ROUTER_TOP_K;
    for (uint32_t k = 1; k <= 8; k++) {
        config.top_k = k;
        CHECK_SAYS(select_bits(config, scores, NULL) == bits[k - 1], "top %u", (unsigned)k);
    }
}

/* Weights against float64, one rounding each. */
static void weightings(void **state)
{
    (void)state;
    static const float scores[8] = {3, 1, 2, 2, 2, -1, 0, 5};
    for (int32_t rule = SFFN_ROUTER_SIGMOID; rule <= SFFN_ROUTER_MASS; rule++)
        for (int32_t kind = SFFN_WEIGHTING_SIGMOID; kind <= SFFN_WEIGHTING_SOFTMAX_SELECTED;
             kind++) {
            sffn_router_config config = config_of(8, 1);
            config.rule = rule;
            config.top_k = 3;
            config.mass = 0.9f;
            config.weighting = kind;
            float got[8];
            const unsigned bits = select_bits(config, scores, got);
            CHECK(bits == (rule == SFFN_ROUTER_SIGMOID ? 0x9Fu
                           : rule == SFFN_ROUTER_TOP_K ? 0x85u
                                                       : 0x85u));
            double total = 0;
            for (int e = 0; e < 8; e++)
                if (kind != SFFN_WEIGHTING_SOFTMAX_SELECTED || bits >> e & 1)
                    total += exp((double)scores[e]);
            for (int e = 0; e < 8; e++) {
                const double z = (double)scores[e], weight = kind == SFFN_WEIGHTING_SIGMOID
                                                                 ? 1 / (1 + exp(-z))
                                                                 : exp(z) / total;
                CHECK_WITHIN((double)got[e], bits >> e & 1 ? weight : 0, 1e-7 * weight,
                             "rule %d weighting %d expert %d", (int)rule, (int)kind, e);
            }
        }
}

/* MoEfication's router: tanh between two maps, the input normalised. */
static void mlp_router(void **state)
{
    (void)state;
    enum { D = 6, H = 5, N = 4, T = 10 };
    float w1[H * D], w2[N * H], b1[H], b2[N], x[T * D], scores[T * N];
    struct rng rng = rng_named(__func__);
    for (size_t i = 0; i < H * D; i++)
        w1[i] = rng_normal(&rng);
    for (size_t i = 0; i < N * H; i++)
        w2[i] = rng_normal(&rng);
    for (size_t i = 0; i < H; i++)
        b1[i] = rng_normal(&rng);
    for (size_t i = 0; i < N; i++)
        b2[i] = rng_normal(&rng);
    for (size_t i = 0; i < T * D; i++)
        x[i] = 3 * rng_normal(&rng);
    memset(x + 2 * D, 0, D * sizeof *x); /* no direction: hidden is tanh(b1) */
    for (int normalizes = 0; normalizes < 2; normalizes++) {
        sffn_router_config config = config_of(N, D);
        config.rule = SFFN_ROUTER_TOP_K;
        config.top_k = 2;
        config.n_hidden = H;
        config.hidden_weights.data = w1;
        config.hidden_bias = b1;
        config.weights.data = w2;
        config.bias = b2;
        config.normalize_input = normalizes;
        sffn_router *router = NULL;
        sffn_active_set *set = make_set(ctx, NULL, T, N, 32);
        CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
        CHECK_OK(ctx, sffn_router_select(ctx, router, x, D, T, scores, N, set));
        for (size_t t = 0; t < T; t++) {
            CHECK(sffn_active_set_count(set, t) == 2);
            double norm = 0;
            for (size_t j = 0; j < D; j++)
                norm += (double)x[t * D + j] * x[t * D + j];
            norm = normalizes ? fmax(sqrt(norm), 1e-12) : 1;
            for (size_t e = 0; e < N; e++) {
                double score = b2[e], magnitude = fabs((double)b2[e]);
                for (size_t h = 0; h < H; h++) {
                    double v = 0;
                    for (size_t j = 0; j < D; j++)
                        v += (double)w1[h * D + j] * x[t * D + j] / norm;
                    score += (double)w2[e * H + h] * tanh(v + b1[h]);
                    magnitude += fabs((double)w2[e * H + h]) * (1 + fabs(v));
                }
                CHECK_WITHIN((double)scores[t * N + e], score, 64 * UNIT_ROUNDOFF * magnitude,
                             "score");
            }
        }
        sffn_router_info info = SFFN_ROUTER_INFO_INIT;
        CHECK_OK(ctx, sffn_router_get_info(router, &info));
        CHECK(info.d_model == D && info.n_experts == N && info.block_size == 32);
        CHECK(info.n_hidden == H && info.dtype == SFFN_F32 && info.rule == SFFN_ROUTER_TOP_K);
        CHECK(info.top_k == 2 && info.threshold == 0.0f && info.mass == 0.0f);
        CHECK(info.normalize_input == normalizes && info.weighting == SFFN_WEIGHTING_NONE);
        CHECK(info.weight_bytes == 4 * (H * D + H + N * H + N));
        CHECK(sffn_router_get_info(NULL, &info) == SFFN_ERR_INVALID_ARGUMENT);
        sffn_active_set_destroy(set);
        sffn_router_destroy(router);
    }
}

/* A mixture: y is the sum of the kept experts' outputs times their weights, whoever selects. */
static void weighted_mixture(void **state)
{
    (void)state;
    enum { D = 8, N = 6, SIZE = 40, F = N * SIZE, T = 11 };
    static float gate[F * D], up[F * D], down[F * D], router_weights[N * D], x[T * D];
    static float y[T * D], h[T * F], y2[T * D], s[T * F], h2[T * F], y3[T * D];
    struct rng rng = rng_named(__func__);
    for (size_t i = 0; i < F * D; i++) {
        gate[i] = rng_normal(&rng);
        up[i] = rng_normal(&rng);
        down[i] = rng_normal(&rng);
    }
    for (size_t i = 0; i < N * D; i++)
        router_weights[i] = rng_normal(&rng);
    for (size_t i = 0; i < T * D; i++)
        x[i] = rng_normal(&rng);
    for (int is_gated = 0; is_gated < 2; is_gated++) {
        sffn_router_config config = config_of(N, D);
        config.block_size = SIZE;
        config.weights.data = router_weights;
        config.rule = SFFN_ROUTER_TOP_K;
        config.top_k = 2;
        config.weighting = SFFN_WEIGHTING_SOFTMAX_SELECTED;
        sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
        layer.d_model = D;
        layer.d_ff = F;
        layer.gate.data = is_gated ? gate : NULL;
        layer.up.data = up;
        layer.down.data = down;
        layer.down.layout = SFFN_LAYOUT_ROWS;
        layer.activation = SFFN_ACT_SILU;
        layer.max_density = 0.1f; /* never widens a weighted selection */
        sffn_router *router = NULL;
        sffn_ffn *ffn = NULL;
        CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
        layer.router = router;
        CHECK_OK(ctx, sffn_ffn_create(ctx, &layer, &ffn));
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = x;
        args.y = y;
        args.h = h;
        args.n_tokens = T;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        sffn_active_set_config set_config = SFFN_ACTIVE_SET_CONFIG_INIT;
        sffn_active_set *set = NULL, *neurons = NULL, *bare = make_set(ctx, NULL, T, N, SIZE),
                        *bare_neurons = make_set(ctx, NULL, T, F, 1);
        set_config.n_blocks = N;
        set_config.block_size = SIZE;
        set_config.max_tokens = T;
        set_config.has_weights = 1;
        CHECK_OK(ctx, sffn_active_set_create(ctx, &set_config, &set));
        set_config.n_blocks = F;
        set_config.block_size = 1;
        CHECK_OK(ctx, sffn_active_set_create(ctx, &set_config, &neurons));
        CHECK_ERROR(ctx, sffn_router_select(ctx, router, x, D, T, NULL, 0, bare),
                    SFFN_ERR_INVALID_ARGUMENT, "has_weights");
        CHECK_OK(ctx, sffn_router_select(ctx, router, x, D, T, NULL, 0, set));
        for (size_t t = 0; t < T; t++) {
            double want[D] = {0}, bound[D] = {0};
            for (uint32_t i = 0; i < F; i++) {
                if (!sffn_active_set_contains(set, t, i / SIZE)) {
                    CHECK(h[t * F + i] == 0.0f);
                    continue;
                }
                double g = 0, u = 0;
                for (size_t j = 0; j < D; j++) {
                    g += (double)(is_gated ? gate : up)[i * D + j] * x[t * D + j];
                    u += (double)up[i * D + j] * x[t * D + j];
                }
                const double weight = (double)sffn_active_set_weights(set, t)[i / SIZE],
                             v = weight * g / (1 + exp(-g)) * (is_gated ? u : 1);
                for (size_t j = 0; j < D; j++) {
                    want[j] += v * down[i * D + j];
                    bound[j] += (fabs(v) + weight) * fabs((double)down[i * D + j]) * 1e-5;
                }
            }
            for (size_t j = 0; j < D; j++)
                CHECK_WITHIN((double)y[t * D + j], want[j], bound[j], "y");
        }
        /* handed in */
        args.active = set;
        args.y = y2;
        args.h = h2;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        CHECK_BITS(y2, y, T * D, "y of a set with weights");
        CHECK_BITS(h2, h, T * F, "h of a set with weights");
        /* stage by stage */
        CHECK_ERROR(ctx, sffn_ffn_gate(ctx, ffn, x, T, set, s, bare_neurons),
                    SFFN_ERR_INVALID_ARGUMENT, "weights lost");
        CHECK_OK(ctx, sffn_ffn_gate(ctx, ffn, x, T, set, s, neurons));
        CHECK_OK(ctx, sffn_ffn_up(ctx, ffn, x, s, T, neurons, h2));
        CHECK_BITS(h2, h, T * F, "h of the stages");
        CHECK_OK(ctx, sffn_ffn_down(ctx, ffn, h2, T, neurons, y3));
        CHECK_BITS(y3, y, T * D, "y of the stages");
        /* a rule that looks at all |s| sees them without weights, one that looks at |h| with */
        for (int on_h = 0; on_h < 2; on_h++) {
            layer.rule = on_h ? SFFN_RULE_TOP_K_H : SFFN_RULE_TOP_K_SCORE;
            layer.rule_k = 7;
            sffn_ffn *ruled = NULL;
            CHECK_OK(ctx, sffn_ffn_create(ctx, &layer, &ruled));
            args.active = NULL;
            args.h = h2;
            CHECK_OK(ctx, sffn_ffn_forward(ctx, ruled, &args));
            for (size_t t = 0; t < T; t++)
                for (size_t i = 0; i < F; i++) {
                    const float *by = (on_h ? h : s) + t * F;
                    size_t n_larger = 0;
                    for (size_t j = 0; j < F; j++)
                        n_larger += fabsf(by[j]) > fabsf(by[i]);
                    CHECK_BITS(&h2[t * F + i], n_larger < 7 ? &h[t * F + i] : &(const float){0.0f},
                               1, "h of a rule on %s", on_h ? "h" : "s");
                }
            sffn_ffn_destroy(ruled);
        }
        args.active = set;
        /* without weights it is another sum */
        for (size_t t = 0; t < T; t++)
            CHECK_OK(ctx, sffn_active_set_set_indices(bare, t, sffn_active_set_indices(set, t), 2));
        args.active = bare;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        for (size_t t = 0; t < T; t++)
            for (uint32_t i = 0; i < F; i++) {
                if (!sffn_active_set_contains(set, t, i / SIZE))
                    continue; /* a selection without weights is widened beyond max_density */
                const float weighted = h2[t * F + i] * sffn_active_set_weights(set, t)[i / SIZE];
                CHECK_BITS(&weighted, &h[t * F + i], 1, "h times weight");
            }
        sffn_active_set *const sets[] = {set, neurons, bare, bare_neurons};
        for (size_t i = 0; i < 4; i++)
            sffn_active_set_destroy(sets[i]);
        sffn_ffn_destroy(ffn);
        sffn_router_destroy(router);
    }
}

/* Whole experts of a mixture, thousands of neurons each; what is not chosen is not read. */
static void whole_experts(void **state)
{
    (void)state;
    enum { D = 32, N = 5, SIZE = 3000, F = N * SIZE, T = 9 };
    float *w = malloc((size_t)F * D * sizeof *w), x[T * D], y[T * D], want[T * D];
    static float router_weights[N * D];
    struct rng rng = rng_named(__func__);
    CHECK(w != NULL);
    for (size_t i = 0; i < (size_t)F * D; i++)
        w[i] = 0.1f * rng_normal(&rng);
    for (size_t i = 0; i < T * D; i++)
        x[i] = rng_normal(&rng);
    for (size_t e = 0; e < N; e++) /* experts 1 and 3 win whenever x[0] > 0, 2 and 4 else */
        router_weights[e * D] = e == 0 ? 0.0f : e % 2 ? 1.0f : -1.0f;
    for (size_t t = 0; t < T; t++)
        x[t * D] = fabsf(x[t * D]) + 1.0f;
    sffn_router_config config = config_of(N, D);
    config.block_size = SIZE;
    config.weights.data = router_weights;
    config.rule = SFFN_ROUTER_TOP_K;
    config.top_k = 2;
    config.weighting = SFFN_WEIGHTING_SOFTMAX_SELECTED; /* equal scores: a half each */
    sffn_router *router = NULL;
    CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
    for (int is_poisoned = 0; is_poisoned < 2; is_poisoned++) {
        for (size_t i = 0; is_poisoned && i < (size_t)F * D; i++)
            if (i / D / SIZE % 2 == 0)
                w[i] = NAN;
        sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
        layer.d_model = D;
        layer.d_ff = F;
        layer.gate.data = layer.up.data = layer.down.data = w;
        layer.down.layout = SFFN_LAYOUT_ROWS;
        layer.router = router;
        sffn_ffn *ffn = NULL;
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        CHECK_OK(ctx, sffn_ffn_create(ctx, &layer, &ffn));
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = x;
        args.y = is_poisoned ? y : want;
        args.n_tokens = T;
        args.stats = &stats;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        CHECK(stats.n_selected == 2 * SIZE * T);
        sffn_ffn_destroy(ffn);
    }
    CHECK_BITS(y, want, T * D, "y");
    CHECK(isfinite(y[0]) && y[0] != 0.0f);
    sffn_router_destroy(router);
    free(w);
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
    CASE(&cases, toy_14_17_mass);
    CASE(&cases, top_k_rule);
    CASE(&cases, weightings);
    CASE(&cases, mlp_router);
    CASE(&cases, weighted_mixture);
    CASE(&cases, whole_experts);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "router");
    sffn_context_destroy(ctx);
    return failed;
}
