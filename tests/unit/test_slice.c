/* Slices of a layer's neurons: sffn_ffn_config_slice(), its selectors' and sffn_active_set_set_slice(). The slices' h and members are the
 * whole layer's, bit for bit, and their y add up to its y. */
#include "check.h"
#include "layer.h"

enum { D = 64, F = 160, T = 3, N_SLICES = 3 };

static sffn_context *ctx;
static const uint32_t anywhere[N_SLICES + 1] = {0, 1, 34, F}, blocks[N_SLICES + 1] = {0, 32, 96, F};

static struct result run(const sffn_ffn *ffn, struct layer *layer, uint32_t d_ff, const float *x,
                         int32_t select, const sffn_active_set *active)
{
    struct result result;
    sffn_ffn_args args = result_args(&result, &layer->memory, ctx, layer, x, T);
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    sffn_active_set_destroy(result.active);
    config.n_blocks = d_ff;
    config.max_tokens = T;
    CHECK_OK(ctx, sffn_active_set_create(ctx, &config, &result.active));
    args.active_out = result.active;
    args.h_stride = d_ff;
    args.select = select;
    args.active = active;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    return result;
}

/* Compares a slice with its part of the whole, and adds its y. */
static void check_part(const struct result *part, const struct result *whole, uint32_t first,
                       uint32_t n, double *sum, const char *what)
{
    for (size_t t = 0; t < T; t++) {
        CHECK_BITS(part->h + t * n, whole->h + t * F + first, n, "%s: h from %u on", what,
                   (unsigned)first);
        for (uint32_t i = 0; i < n; i++)
            CHECK_SAYS(sffn_active_set_contains(part->active, t, i) ==
                           sffn_active_set_contains(whole->active, t, first + i),
                       "%s: token %zu, neuron %u", what, t, (unsigned)(first + i));
    }
    for (size_t i = 0; i < T * D; i++)
        sum[i] += (double)part->y[i];
}

/* Both y carry the error of the down product that is derived in reference_down(); a slice's own is no larger than its share of the whole's. */
static void check_sum(const struct layer *layer, const struct result *whole, const double *sum,
                      const char *what)
{
    for (size_t t = 0; t < T; t++) {
        double h[F], y[D], error[D];
        for (size_t i = 0; i < F; i++)
            h[i] = (double)whole->h[t * F + i];
        reference_down(layer, h, NULL, y, error);
        for (size_t j = 0; j < D; j++) {
            CHECK_WITHIN((double)whole->y[t * D + j], y[j], error[j], "%s: y[%zu]", what, j);
            CHECK_WITHIN(sum[t * D + j], y[j], error[j], "%s: sum of slices, y[%zu]", what, j);
        }
    }
}

/* Every type, layout and form of the layer. */
static void slices_add_up(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        int is_gated;
        int32_t activation, rule, select;
        float threshold;
    } forms[] = {{"gated relu", 1, SFFN_ACT_RELU, SFFN_RULE_NONE, SFFN_SELECT_GATE, 0},
                 {"ungated relu2", 0, SFFN_ACT_RELU2, SFFN_RULE_NONE, SFFN_SELECT_GATE, 0},
                 {"silu, |s|", 1, SFFN_ACT_SILU, SFFN_RULE_ABS_SCORE, SFFN_SELECT_GATE, 0.3f},
                 {"dense", 1, SFFN_ACT_SILU, SFFN_RULE_NONE, SFFN_SELECT_DENSE, 0}};
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        for (int kind = 0; kind < 3; kind++) /* rows, columns, columns in lossless blocks */
            for (size_t form = 0; form < sizeof forms / sizeof forms[0]; form++) {
                if (kind == 2 && !is_quantised(type))
                    continue;
                struct spec spec = SPEC_INIT(D, F, type);
                spec.is_gated = forms[form].is_gated;
                spec.activation = forms[form].activation;
                spec.rule = forms[form].rule;
                spec.rule_threshold = forms[form].threshold;
                spec.has_thresholds = forms[form].threshold > 0;
                spec.has_bias = 1;
                spec.down_layout = kind ? SFFN_LAYOUT_COLUMNS : SFFN_LAYOUT_ROWS;
                spec.block_size = kind == 2 ? 32 : 1;
                struct rng rng = rng_named("slices");
                struct layer layer;
                layer_make(&layer, &spec, &rng);
                float *x = draw_x(&layer.memory, &rng, T, D, 0);
                const uint32_t *start = kind && is_quantised(type) ? blocks : anywhere;
                double sum[T * D] = {0};
                sffn_ffn *ffn = layer_create(ctx, &layer);
                struct result whole = run(ffn, &layer, F, x, forms[form].select, NULL);
                sffn_ffn_destroy(ffn);
                for (size_t s = 0; s < N_SLICES; s++) {
                    sffn_ffn_config config = layer.config;
                    const uint32_t n = start[s + 1] - start[s];
                    CHECK_OK(ctx, sffn_ffn_config_slice(ctx, &config, start[s], n));
                    CHECK(config.d_ff == n && (config.down_bias != NULL) == (s == 0));
                    CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
                    struct result part = run(ffn, &layer, n, x, forms[form].select, NULL);
                    check_part(&part, &whole, start[s], n, sum, forms[form].what);
                    result_free(&part);
                    sffn_ffn_destroy(ffn);
                }
                check_sum(&layer, &whole, sum, forms[form].what);
                result_free(&whole);
                layer_free(&layer);
            }
}

/* Predictors and a router, each made from a slice of the whole one's config. */
static void selectors(void **state)
{
    (void)state;
    enum { RANK = 32, EXPERT = 32, N_EXPERTS = F / EXPERT, ROUTER = 4, N_SELECTORS };
    static const char *const names[] = {"screened gate", "sign", "cascade", "low rank", "router"};
    for (int kind = 0; kind < N_SELECTORS; kind++) {
        struct spec spec = SPEC_INIT(D, F, SFFN_Q8_0);
        struct rng rng = rng_named("slices of selectors");
        struct layer layer;
        spec.has_bias = 1;
        layer_make(&layer, &spec, &rng);
        float *x = draw_x(&layer.memory, &rng, T, D, 0);
        float *w1 = rng_normals("w1", RANK * D), *w2 = rng_normals("w2", F * RANK),
              *b2 = rng_normals("b2", F), *weights = rng_normals("router", N_EXPERTS * D);
        sffn_predictor_config p = SFFN_PREDICTOR_CONFIG_INIT;
        static const int32_t kinds[] = {SFFN_PREDICTOR_SCREENED_GATE, SFFN_PREDICTOR_SIGN,
                                        SFFN_PREDICTOR_CASCADE, SFFN_PREDICTOR_LOW_RANK};
        p.kind = kinds[kind % ROUTER];
        p.d_model = D;
        p.d_ff = F;
        p.gate = layer.config.gate;
        p.rank = RANK;
        p.w1.data = w1;
        p.w2.data = w2;
        p.b2 = b2;
        if (p.kind == SFFN_PREDICTOR_LOW_RANK)
            p.thresholds = b2;
        else if (p.kind != SFFN_PREDICTOR_SIGN)
            p.gate_bias = layer.gate_bias;
        if (p.kind == SFFN_PREDICTOR_CASCADE)
            p.margin = 0; /* whose size depends on all rows */
        sffn_router_config r = SFFN_ROUTER_CONFIG_INIT;
        r.d_model = D;
        r.n_experts = N_EXPERTS;
        r.block_size = EXPERT;
        r.weights.data = weights;
        r.bias = b2;
        r.weighting = SFFN_WEIGHTING_SIGMOID;
        const uint32_t *start = kind == ROUTER ? blocks : anywhere;
        struct result whole = {0};
        double sum[T * D] = {0};
        for (size_t s = 0; s <= N_SLICES; s++) { /* the whole layer first */
            const uint32_t first = s ? start[s - 1] : 0, n = s ? start[s] - first : F;
            sffn_ffn_config config = layer.config;
            sffn_predictor_config p_slice = p;
            sffn_router_config r_slice = r;
            sffn_predictor *predictor = NULL;
            sffn_router *router = NULL;
            sffn_ffn *ffn = NULL;
            CHECK_OK(ctx, sffn_ffn_config_slice(ctx, &config, first, n));
            if (kind == ROUTER) {
                CHECK_OK(ctx, sffn_router_config_slice(ctx, &r_slice, first, n));
                CHECK_OK(ctx, sffn_router_create(ctx, &r_slice, &router));
            } else {
                CHECK_OK(ctx, sffn_predictor_config_slice(ctx, &p_slice, first, n));
                CHECK_OK(ctx, sffn_predictor_create(ctx, &p_slice, &predictor));
            }
            config.predictor = predictor;
            config.router = router;
            CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
            struct result part = run(ffn, &layer, n, x, SFFN_SELECT_DEFAULT, NULL);
            if (s == 0) {
                whole = part;
                CHECK_SAYS(part.stats.n_selected > 0 && part.stats.n_selected < T * F,
                           "%s: selects %zu", names[kind], (size_t)part.stats.n_selected);
            } else {
                check_part(&part, &whole, first, n, sum, names[kind]);
                result_free(&part);
            }
            sffn_ffn_destroy(ffn);
            sffn_predictor_destroy(predictor);
            sffn_router_destroy(router);
        }
        check_sum(&layer, &whole, sum, names[kind]);
        result_free(&whole);
        free(w1);
        free(w2);
        free(b2);
        free(weights);
        layer_free(&layer);
    }
}

/* What compares all neurons is decided once and handed to the slices: a top-k router with softmax weights. */
static void handed_in(void **state)
{
    (void)state;
    enum { EXPERT = 16, N_EXPERTS = F / EXPERT };
    struct spec spec = SPEC_INIT(D, F, SFFN_F32);
    struct rng rng = rng_named("handed in");
    struct layer layer;
    spec.activation = SFFN_ACT_SILU;
    layer_make(&layer, &spec, &rng);
    float *x = draw_x(&layer.memory, &rng, T, D, 0);
    float *weights = rng_normals("router", N_EXPERTS * D);
    sffn_router_config r = SFFN_ROUTER_CONFIG_INIT;
    r.d_model = D;
    r.n_experts = N_EXPERTS;
    r.block_size = EXPERT;
    r.weights.data = weights;
    r.rule = SFFN_ROUTER_TOP_K;
    r.top_k = 4;
    r.weighting = SFFN_WEIGHTING_SOFTMAX_SELECTED;
    sffn_router *router = NULL;
    sffn_active_set *chosen = NULL;
    sffn_active_set_config set_config = SFFN_ACTIVE_SET_CONFIG_INIT;
    set_config.n_blocks = N_EXPERTS;
    set_config.block_size = EXPERT;
    set_config.max_tokens = T;
    set_config.has_weights = 1;
    CHECK_OK(ctx, sffn_router_create(ctx, &r, &router));
    CHECK_OK(ctx, sffn_active_set_create(ctx, &set_config, &chosen));
    CHECK_OK(ctx, sffn_router_select(ctx, router, x, D, T, NULL, 0, chosen));
    sffn_ffn *ffn = layer_create(ctx, &layer);
    struct result whole = run(ffn, &layer, F, x, SFFN_SELECT_ACTIVE, chosen);
    sffn_ffn_destroy(ffn);
    double sum[T * D] = {0};
    size_t n_chosen = 0;
    for (size_t s = 0; s < N_SLICES; s++) {
        const uint32_t first = blocks[s], n = blocks[s + 1] - first;
        sffn_ffn_config config = layer.config;
        sffn_active_set *part_set = NULL;
        set_config.n_blocks = n / EXPERT;
        CHECK_OK(ctx, sffn_active_set_create(ctx, &set_config, &part_set));
        CHECK_OK(ctx, sffn_active_set_set_slice(part_set, chosen, first / EXPERT));
        CHECK(sffn_active_set_n_tokens(part_set) == T);
        for (size_t t = 0; t < T; t++)
            n_chosen += sffn_active_set_count(part_set, t);
        CHECK_OK(ctx, sffn_ffn_config_slice(ctx, &config, first, n));
        CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
        struct result part = run(ffn, &layer, n, x, SFFN_SELECT_DEFAULT, part_set);
        check_part(&part, &whole, first, n, sum, "handed in");
        result_free(&part);
        sffn_ffn_destroy(ffn);
        sffn_active_set_destroy(part_set);
    }
    CHECK(n_chosen == 4 * T);
    check_sum(&layer, &whole, sum, "handed in");
    result_free(&whole);
    sffn_active_set_destroy(chosen);
    sffn_router_destroy(router);
    free(weights);
    layer_free(&layer);
}

static void ffn_errors(void **state)
{
    (void)state;
    static const float w[4] = {0};
#define REFUSED(change, first, n, status, words)                                                   \
    do {                                                                                           \
        sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;                                             \
        config.d_model = 32;                                                                       \
        config.d_ff = 96;                                                                          \
        config.up.data = config.down.data = w;                                                     \
        config.down.layout = SFFN_LAYOUT_COLUMNS;                                                  \
        change;                                                                                    \
        const sffn_ffn_config before = config;                                                     \
        CHECK_ERROR(ctx, sffn_ffn_config_slice(ctx, &config, first, n), status, words);            \
        CHECK(memcmp(&config, &before, sizeof config) == 0);                                       \
    } while (0)
    REFUSED((void)0, 0, 0, SFFN_ERR_INVALID_ARGUMENT, "n_neurons 0 96");
    REFUSED((void)0, 97, 1, SFFN_ERR_INVALID_ARGUMENT, "first 97 96");
    REFUSED((void)0, 90, 7, SFFN_ERR_INVALID_ARGUMENT, "first 90 n_neurons 7 96");
    REFUSED((void)0, 1, UINT32_MAX, SFFN_ERR_INVALID_ARGUMENT, "n_neurons 4294967295");
    REFUSED(config.up.dtype = 17, 0, 1, SFFN_ERR_INVALID_ARGUMENT, "up.dtype 17");
    REFUSED(config.down.layout = 2, 0, 1, SFFN_ERR_INVALID_ARGUMENT, "down.layout 2");
    REFUSED((config.up.dtype = SFFN_Q4_0, config.d_model = 33), 0, 1, SFFN_ERR_SHAPE, "up 33 32");
    REFUSED(config.down.dtype = SFFN_Q8_0, 16, 32, SFFN_ERR_SHAPE, "first 16 32 down q8_0");
    REFUSED(config.down.dtype = SFFN_Q8_0, 32, 33, SFFN_ERR_SHAPE, "n_neurons 33 32 down q8_0");
    REFUSED(config.up.row_bytes = SIZE_MAX / 2, 3, 1, SFFN_ERR_SHAPE, "up memory");
    REFUSED(config.rule = SFFN_RULE_TOP_K_SCORE, 0, 32, SFFN_ERR_UNSUPPORTED, "rule top_k_score");
    REFUSED(config.rule = SFFN_RULE_STATISTICAL_H, 0, 32, SFFN_ERR_UNSUPPORTED,
            "rule statistical_h");
    REFUSED((config.rule = SFFN_RULE_BLOCK_TOP_K_H, config.rule_m = 12), 6, 12, SFFN_ERR_SHAPE,
            "first 6 rule_m 12");
    REFUSED((config.rule = SFFN_RULE_BLOCK_TOP_K_H, config.rule_m = 12), 12, 13, SFFN_ERR_SHAPE,
            "n_neurons 13 rule_m 12");
    REFUSED(config.struct_size = 3, 0, 1, SFFN_ERR_INVALID_ARGUMENT, "struct_size 3");
    CHECK_ERROR(ctx, sffn_ffn_config_slice(ctx, NULL, 0, 1), SFFN_ERR_INVALID_ARGUMENT,
                "sffn_ffn_config NULL");
#undef REFUSED
    /* the last block of a block top-k may be shorter */
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = 32;
    config.d_ff = 100;
    config.rule = SFFN_RULE_BLOCK_TOP_K_H;
    config.rule_m = 12;
    config.rule_k = 3;
    config.up.data = config.down.data = w;
    CHECK_OK(ctx, sffn_ffn_config_slice(ctx, &config, 84, 16));
    /* a selector of the whole layer does not fit a part of it */
    struct rng rng = rng_named("selector set");
    struct spec spec = SPEC_INIT(D, F, SFFN_F32);
    struct layer layer;
    sffn_predictor_config p = SFFN_PREDICTOR_CONFIG_INIT;
    layer_make(&layer, &spec, &rng);
    p.d_model = D;
    p.d_ff = F;
    p.gate = layer.config.gate;
    sffn_predictor *predictor = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &p, &predictor));
    layer.config.predictor = predictor;
    CHECK_ERROR(ctx, sffn_ffn_config_slice(ctx, &layer.config, 0, 32), SFFN_ERR_INVALID_ARGUMENT,
                "config.predictor");
    sffn_predictor_destroy(predictor);
    layer_free(&layer);
}

static void selector_errors(void **state)
{
    (void)state;
    static const float w[4] = {0};
#define REFUSED(change, first, n, status, words)                                                   \
    do {                                                                                           \
        sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;                                 \
        config.d_model = 32;                                                                       \
        config.d_ff = 96;                                                                          \
        config.gate.data = config.w1.data = config.w2.data = w;                                    \
        change;                                                                                    \
        const sffn_predictor_config before = config;                                               \
        CHECK_ERROR(ctx, sffn_predictor_config_slice(ctx, &config, first, n), status, words);      \
        CHECK(memcmp(&config, &before, sizeof config) == 0);                                       \
    } while (0)
    REFUSED((void)0, 90, 7, SFFN_ERR_INVALID_ARGUMENT, "first 90 n_neurons 7 96");
    REFUSED(config.gate.dtype = 17, 0, 1, SFFN_ERR_INVALID_ARGUMENT, "gate.dtype 17");
    REFUSED(config.decision = SFFN_DECIDE_TOP_K, 0, 32, SFFN_ERR_UNSUPPORTED, "decision 1");
    REFUSED(config.n_layers = 2, 0, 32, SFFN_ERR_UNSUPPORTED, "n_layers 2");
    REFUSED(config.kind = SFFN_PREDICTOR_CALLBACK, 0, 32, SFFN_ERR_UNSUPPORTED, "kind 4");
    REFUSED(config.kind = SFFN_PREDICTOR_GATE_SVD, 0, 32, SFFN_ERR_UNSUPPORTED, "kind 2");
    CHECK_ERROR(ctx, sffn_predictor_config_slice(ctx, NULL, 0, 1), SFFN_ERR_INVALID_ARGUMENT,
                "sffn_predictor_config NULL");
#undef REFUSED
#define REFUSED(change, first, n, status, words)                                                   \
    do {                                                                                           \
        sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;                                       \
        config.d_model = 32;                                                                       \
        config.n_experts = 3;                                                                      \
        config.weights.data = w;                                                                   \
        change;                                                                                    \
        const sffn_router_config before = config;                                                  \
        CHECK_ERROR(ctx, sffn_router_config_slice(ctx, &config, first, n), status, words);         \
        CHECK(memcmp(&config, &before, sizeof config) == 0);                                       \
    } while (0)
    REFUSED((void)0, 64, 64, SFFN_ERR_INVALID_ARGUMENT, "first 64 n_neurons 64 96");
    REFUSED(config.block_size = 0, 0, 32, SFFN_ERR_INVALID_ARGUMENT, "n_neurons 32 0");
    REFUSED(config.n_experts = UINT32_MAX, 0, 32, SFFN_ERR_INVALID_ARGUMENT, "4294967295");
    REFUSED((void)0, 16, 32, SFFN_ERR_SHAPE, "first 16 block_size 32");
    REFUSED((void)0, 32, 16, SFFN_ERR_SHAPE, "n_neurons 16 block_size 32");
    REFUSED(config.rule = SFFN_ROUTER_TOP_K, 0, 32, SFFN_ERR_UNSUPPORTED, "rule 1 set_slice");
    REFUSED(config.weighting = SFFN_WEIGHTING_SOFTMAX, 0, 32, SFFN_ERR_UNSUPPORTED, "weighting 2");
    CHECK_ERROR(ctx, sffn_router_config_slice(ctx, NULL, 0, 1), SFFN_ERR_INVALID_ARGUMENT,
                "sffn_router_config NULL");
}

static void set_errors(void **state)
{
    (void)state;
    sffn_active_set *sets[4];
    static const struct {
        uint32_t n_blocks, block_size, max_tokens;
        int32_t has_weights;
    } shapes[4] = {{10, 2, 3, 0}, {4, 2, 2, 0}, {4, 1, 3, 0}, {10, 2, 3, 1}};
    for (int i = 0; i < 4; i++) {
        sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
        config.n_blocks = shapes[i].n_blocks;
        config.block_size = shapes[i].block_size;
        config.max_tokens = shapes[i].max_tokens;
        config.has_weights = shapes[i].has_weights;
        CHECK_OK(ctx, sffn_active_set_create(ctx, &config, &sets[i]));
    }
    sffn_active_set *whole = sets[0], *part = sets[1];
    CHECK_OK(ctx, sffn_active_set_clear(whole, 2));
    const uint32_t indices[] = {0, 3, 6, 7, 9};
    CHECK_OK(ctx, sffn_active_set_set_indices(whole, 1, indices, 5));
    CHECK_OK(ctx, sffn_active_set_set_slice(part, whole, 6));
    CHECK(sffn_active_set_n_tokens(part) == 2 && sffn_active_set_count(part, 0) == 0 &&
          sffn_active_set_count(part, 1) == 3);
    const uint32_t *got = sffn_active_set_indices(part, 1);
    CHECK(got[0] == 0 && got[1] == 1 && got[2] == 3);
    CHECK(sffn_active_set_contains(part, 1, 3) && !sffn_active_set_contains(part, 1, 2));
    CHECK_ERROR(ctx, sffn_active_set_set_slice(part, whole, 7), SFFN_ERR_SHAPE,
                "first_block 7 4 10");
    CHECK_ERROR(ctx, sffn_active_set_set_slice(part, whole, 11), SFFN_ERR_SHAPE, "first_block 11");
    CHECK_ERROR(ctx, sffn_active_set_set_slice(sets[2], whole, 0), SFFN_ERR_SHAPE,
                "set has 4 blocks of 1 10 of 2");
    CHECK_OK(ctx, sffn_active_set_clear(whole, 3));
    CHECK_ERROR(ctx, sffn_active_set_set_slice(part, whole, 0), SFFN_ERR_SHAPE, "n_tokens 3 2");
    CHECK_ERROR(ctx, sffn_active_set_set_slice(part, sets[3], 0), SFFN_ERR_INVALID_ARGUMENT,
                "weights");
    CHECK_ERROR(ctx, sffn_active_set_set_slice(part, part, 0), SFFN_ERR_INVALID_ARGUMENT, "same");
    CHECK_ERROR(ctx, sffn_active_set_set_slice(part, NULL, 0), SFFN_ERR_INVALID_ARGUMENT,
                "whole NULL");
    CHECK(sffn_active_set_set_slice(NULL, whole, 0) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_n_tokens(part) == 2 && sffn_active_set_count(part, 1) == 3);
    /* a set with weights takes those of a set without as 1 */
    const float ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, twos[10] = {2};
    CHECK_OK(ctx, sffn_active_set_clear(sets[3], 1));
    CHECK_OK(ctx, sffn_active_set_set_weights(sets[3], 0, twos));
    CHECK_OK(ctx, sffn_active_set_set_slice(sets[3], whole, 0));
    CHECK_BITS(sffn_active_set_weights(sets[3], 0), ones, 10, "weights");
    for (int i = 0; i < 4; i++)
        sffn_active_set_destroy(sets[i]);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, slices_add_up);
    CASE(&cases, selectors);
    CASE(&cases, handed_in);
    CASE(&cases, ffn_errors);
    CASE(&cases, selector_errors);
    CASE(&cases, set_errors);
    ctx = make_context(2, NULL);
    const int failed = cases_run(&cases, "slice");
    sffn_context_destroy(ctx);
    return failed;
}
