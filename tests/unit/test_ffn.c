/* ffn.h: config and argument checks, ownership, contexts, threads' identities, dense paths,
 * slices. */
#include <math.h>

#include "allocator.h"
#include "check.h"
#include "layer.h"
#include "threads.h"

enum { D = 32, F = 64 };

static sffn_context *ctx;

/* A plain f32 layer, the same in each test. */
static void make_plain(struct layer *layer)
{
    struct spec spec = SPEC_INIT(D, F, SFFN_F32);
    struct rng rng = rng_named("plain layer");
    spec.has_bias = 1;
    layer_make(layer, &spec, &rng);
}

/* ---------------------------------------------------------------- creation */

static sffn_router *make_router(uint32_t n_experts, uint32_t block_size, uint32_t d_model)
{
    static const float zeros[64 * 64];
    sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
    config.d_model = d_model;
    config.n_experts = n_experts;
    config.block_size = block_size;
    config.weights.data = zeros;
    sffn_router *router = NULL;
    CHECK_OK(ctx, sffn_router_create(ctx, &config, &router));
    return router;
}

static sffn_predictor *make_predictor(uint32_t d_ff, uint32_t d_model)
{
    static const float zeros[128 * 64];
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.d_model = d_model;
    config.d_ff = d_ff;
    config.gate.data = zeros;
    sffn_predictor *predictor = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    return predictor;
}

static void config_errors(void **state)
{
    (void)state;
    struct layer layer;
    make_plain(&layer);
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_ffn_config config = layer.config;                                                     \
        sffn_ffn *ffn = (sffn_ffn *)(uintptr_t)1;                                                  \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_ffn_create(ctx, &config, &ffn), status, words);                      \
        CHECK(ffn == NULL);                                                                        \
    } while (0)
#define INVALID(change, words) REFUSED(change, SFFN_ERR_INVALID_ARGUMENT, words)
    INVALID(config.d_model = 0, "d_model 0");
    INVALID(config.d_ff = 0, "d_ff 0");
    INVALID(config.up.data = NULL, "up NULL");
    INVALID(config.down.data = NULL, "down NULL");
    INVALID(config.activation = 8, "activation 8");
    INVALID(config.activation = -1, "activation -1");
    INVALID(config.act_tie = 2, "act_tie 2");
    INVALID((config.activation = SFFN_ACT_FATRELU, config.act_threshold = NAN),
            "act_threshold nan");
    INVALID((config.activation = SFFN_ACT_FATRELU, config.act_threshold = -0.5f),
            "act_threshold -0.5");
    INVALID((config.activation = SFFN_ACT_FATRELU, config.act_threshold = INFINITY),
            "act_threshold inf");
    INVALID((config.activation = SFFN_ACT_SHIFTED_RELU, config.act_threshold = -2.0f),
            "act_threshold -2");
    INVALID(config.rule = 10, "rule 10");
    INVALID(config.rule = -1, "rule -1");
    INVALID(config.rule_tie = -1, "rule_tie -1");
    INVALID((config.rule = SFFN_RULE_SCORE, config.rule_threshold = NAN), "rule_threshold nan");
    INVALID((config.rule = SFFN_RULE_ABS_SCORE, config.rule_threshold = -1.5f),
            "rule_threshold -1.5");
    INVALID((config.rule = SFFN_RULE_ABS_H, config.rule_threshold = -1.5f), "rule_threshold -1.5");
    static float thresholds[F];
    thresholds[17] = NAN;
    INVALID((config.rule = SFFN_RULE_ABS_H, config.rule_thresholds = thresholds),
            "rule_thresholds 17");
    INVALID(config.rule = SFFN_RULE_TOP_K_SCORE, "rule_k 0 top_k_score");
    INVALID((config.rule = SFFN_RULE_BLOCK_TOP_K_H, config.rule_k = 0), "rule_k 0");
    INVALID((config.rule = SFFN_RULE_BLOCK_TOP_K_H, config.rule_k = 5, config.rule_m = 4),
            "rule_k 5 rule_m 4");
    INVALID((config.rule = SFFN_RULE_STATISTICAL_H, config.rule_sparsity = 1.5f),
            "rule_sparsity 1.5 (0, 1)");
    INVALID(config.storage = 2, "storage 2");
    INVALID(config.dtype = 5, "dtype 5");
    INVALID(config.dtype = -2, "dtype -2");
    INVALID(config.gate.dtype = 9, "gate 9");
    INVALID(config.up.dtype = -1, "up -1");
    INVALID(config.down.dtype = 100, "down 100");
    INVALID(config.down.layout = 3, "down layout 3");
    INVALID(config.max_density = NAN, "max_density nan");
    INVALID(config.max_density = -0.1f, "max_density -0.1");
    INVALID((config.gate.data = NULL, config.gate_bias = NULL, config.activation = SFFN_ACT_DRELU),
            "gate");
    REFUSED((config.dtype = SFFN_Q4_0, config.d_model = 31), SFFN_ERR_SHAPE, "31 32");
    REFUSED((config.up.dtype = SFFN_Q8_0, config.d_model = 48), SFFN_ERR_SHAPE, "48");
    REFUSED(config.gate.row_bytes = 4 * D - 1, SFFN_ERR_SHAPE, "gate row_bytes 127 128");
    REFUSED(config.up.row_bytes = 5, SFFN_ERR_SHAPE, "up row_bytes 5");
    REFUSED((config.down.layout = SFFN_LAYOUT_COLUMNS, config.down.row_bytes = 4 * F - 1),
            SFFN_ERR_SHAPE, "down row_bytes 255 256");
    REFUSED((config.storage = SFFN_STORAGE_BORROW, config.dtype = SFFN_BF16), SFFN_ERR_UNSUPPORTED,
            NULL);

    sffn_router *router = make_router(F / 32, 32, D), *wrong_router = make_router(3, 32, D);
    sffn_predictor *predictor = make_predictor(F, D), *wrong_predictor = make_predictor(F + 1, D);
    INVALID((config.router = router, config.predictor = predictor), "predictor router");
    REFUSED(config.router = wrong_router, SFFN_ERR_SHAPE, "router 3 32 64");
    REFUSED(config.predictor = wrong_predictor, SFFN_ERR_SHAPE, "predictor 65 64");
    sffn_router_destroy(router);
    sffn_router_destroy(wrong_router);
    sffn_predictor_destroy(predictor);
    sffn_predictor_destroy(wrong_predictor);

    sffn_ffn *ffn = (sffn_ffn *)(uintptr_t)1;
    CHECK_ERROR(ctx, sffn_ffn_create(ctx, NULL, &ffn), SFFN_ERR_INVALID_ARGUMENT, "config NULL");
    CHECK(ffn == NULL);
    CHECK_ERROR(ctx, sffn_ffn_create(ctx, &layer.config, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "ffn NULL");
    CHECK(sffn_ffn_create(NULL, &layer.config, &ffn) == SFFN_ERR_INVALID_ARGUMENT);
    sffn_ffn_destroy(NULL);
    layer_free(&layer);
}

/* The name of the layer is in the texts of its errors. */
static void errors_name_the_layer(void **state)
{
    (void)state;
    struct layer layer;
    make_plain(&layer);
    char name[] = "blk.17";
    layer.config.name = name;
    sffn_ffn_config bad = layer.config;
    sffn_ffn *ffn = NULL;
    bad.rule = 77;
    CHECK_ERROR(ctx, sffn_ffn_create(ctx, &bad, &ffn), SFFN_ERR_INVALID_ARGUMENT, "blk.17 rule 77");
    ffn = layer_create(ctx, &layer);
    memset(name, 'X', sizeof name - 1); /* copied */
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.n_tokens = 1;
    CHECK_ERROR(ctx, sffn_ffn_forward(ctx, ffn, &args), SFFN_ERR_INVALID_ARGUMENT, "blk.17 x NULL");
    sffn_ffn_destroy(ffn);
    layer_free(&layer);
}

static void activation_names(void **state)
{
    (void)state;
    static const char *const names[] = {"relu", "fatrelu", "relu2",     "drelu",
                                        "silu", "gelu",    "gelu_tanh", "shifted_relu"};
    for (int32_t a = 0; a < 8; a++) {
        CHECK_TEXT(sffn_activation_name(a), names[a]);
        CHECK(sffn_activation_from_name(names[a]) == a);
    }
    CHECK_TEXT(sffn_activation_name(8), "unknown");
    CHECK_TEXT(sffn_activation_name(-1), "unknown");
    CHECK(sffn_activation_from_name("unknown") == -1);
    CHECK(sffn_activation_from_name("") == -1);
    CHECK(sffn_activation_from_name(NULL) == -1);
}

static void info(void **state)
{
    (void)state;
    static const int32_t types[][3] = {{SFFN_F32, SFFN_F32, SFFN_F32},
                                       {SFFN_Q8_0, SFFN_F16, SFFN_BF16},
                                       {-1, SFFN_Q4_0, SFFN_F32}};
    for (size_t k = 0; k < 3; k++) {
        struct spec spec = SPEC_INIT(64, 40, SFFN_F32);
        struct rng rng = rng_named("info");
        struct layer layer;
        spec.is_gated = types[k][0] >= 0;
        spec.gate_type = types[k][0];
        spec.up_type = types[k][1];
        spec.down_type = types[k][2];
        spec.activation = SFFN_ACT_FATRELU;
        spec.act_threshold = 0.25f;
        spec.rule = SFFN_RULE_ABS_H;
        layer_make(&layer, &spec, &rng);
        sffn_ffn *ffn = layer_create(ctx, &layer);
        sffn_ffn_info got = SFFN_FFN_INFO_INIT;
        CHECK_OK(ctx, sffn_ffn_get_info(ffn, &got));
        CHECK(got.d_model == 64 && got.d_ff == 40 && got.is_gated == spec.is_gated);
        CHECK(got.activation == SFFN_ACT_FATRELU && got.rule == SFFN_RULE_ABS_H &&
              got.act_threshold == 0.25f);
        CHECK(got.has_predictor == 0 && got.has_router == 0 && got.selector_bytes == 0);
        CHECK(got.gate_dtype == types[k][0] && got.up_dtype == types[k][1] &&
              got.down_dtype == types[k][2]);
        uint64_t bytes = 0;
        for (int i = 0; i < 3; i++)
            bytes += types[k][i] < 0 ? 0 : 40 * weight_bytes(types[k][i], 64);
        CHECK_SAYS(got.weight_bytes == bytes, "%llu bytes, expected %llu",
                   (unsigned long long)got.weight_bytes, (unsigned long long)bytes);
        CHECK(sffn_ffn_get_info(NULL, &got) == SFFN_ERR_INVALID_ARGUMENT);
        CHECK(sffn_ffn_get_info(ffn, NULL) == SFFN_ERR_INVALID_ARGUMENT);
        sffn_ffn_destroy(ffn);
        layer_free(&layer);
    }
    struct layer layer;
    make_plain(&layer);
    sffn_router *router = make_router(F / 32, 32, D);
    layer.config.router = router;
    sffn_ffn *ffn = layer_create(ctx, &layer);
    sffn_ffn_info got = SFFN_FFN_INFO_INIT;
    CHECK_OK(ctx, sffn_ffn_get_info(ffn, &got));
    CHECK(got.has_router == 1 && got.has_predictor == 0 &&
          got.selector_bytes == sffn_router_weight_bytes(router));
    sffn_ffn_destroy(ffn);
    sffn_router_destroy(router);
    layer_free(&layer);
}

/* Config, weights, biases and thresholds may go away after creation with SFFN_STORAGE_COPY. */
static void everything_is_copied(void **state)
{
    (void)state;
    struct rng rng = rng_named("everything_is_copied");
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++) {
        struct spec spec = SPEC_INIT(64, 32, type);
        struct layer layer;
        struct result kept, fresh;
        spec.has_bias = 1;
        spec.rule = SFFN_RULE_ABS_H;
        spec.rule_threshold = 0.1f;
        spec.has_thresholds = 1;
        layer_make(&layer, &spec, &rng);
        float *x = draw_x(&layer.memory, &rng, 2, 64, 0);
        sffn_ffn *ffn = layer_create(ctx, &layer);
        sffn_ffn_args args = result_args(&kept, &layer.memory, ctx, &layer, x, 2);
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        size_t bytes = 32 * weight_bytes(type, 64);
        memset(layer.gate_source, 0xFF, bytes);
        memset(layer.up_source, 0xFF, bytes);
        memset(layer.down_source, 0xFF, bytes);
        memset(layer.gate_bias, 0xFF, 32 * sizeof(float));
        memset(layer.up_bias, 0xFF, 32 * sizeof(float));
        memset(layer.down_bias, 0xFF, 64 * sizeof(float));
        memset(layer.thresholds, 0xFF, 32 * sizeof(float));
        memset(&layer.config, 0xFF, sizeof layer.config);
        args = result_args(&fresh, &layer.memory, ctx, &layer, x, 2);
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        CHECK_BITS(fresh.y, kept.y, 128, "after the sources were overwritten");
        CHECK(is_finite((double)kept.y[0]));
        result_free(&kept);
        result_free(&fresh);
        sffn_ffn_destroy(ffn);
        layer_free(&layer);
    }
}

/* ---------------------------------------------------------------- calls */

static void argument_errors(void **state)
{
    (void)state;
    struct layer layer;
    struct result result;
    make_plain(&layer);
    struct rng rng = rng_named("argument_errors");
    sffn_ffn *ffn = layer_create(ctx, &layer);
    float *x = draw_x(&layer.memory, &rng, 2, D, 0);
    const sffn_ffn_args good = result_args(&result, &layer.memory, ctx, &layer, x, 2);
    sffn_active_set *longer = make_set(ctx, NULL, 2, F + 1, 1),
                    *brief = make_set(ctx, NULL, 1, F, 1);
    sffn_active_set *blocks = make_set(ctx, NULL, 2, F / 32, 32),
                    *out = make_set(ctx, NULL, 2, F, 1);
    for (size_t i = 0; i < 2 * D; i++)
        result.y[i] = (float)i;
    float before[2 * D];
    memcpy(before, result.y, sizeof before);
#define REFUSED_CALL(change, status, words)                                                        \
    do {                                                                                           \
        sffn_ffn_args args = good;                                                                 \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_ffn_forward(ctx, ffn, &args), status, words);                        \
        CHECK_BITS(result.y, before, 2 * D, "y after an error");                                   \
    } while (0)
    REFUSED_CALL(args.x = NULL, SFFN_ERR_INVALID_ARGUMENT, "x NULL");
    REFUSED_CALL(args.y = NULL, SFFN_ERR_INVALID_ARGUMENT, "y NULL");
    REFUSED_CALL(args.select = 6, SFFN_ERR_INVALID_ARGUMENT, "select 6");
    REFUSED_CALL(args.select = -1, SFFN_ERR_INVALID_ARGUMENT, "select -1");
    REFUSED_CALL(args.select = SFFN_SELECT_ACTIVE, SFFN_ERR_INVALID_ARGUMENT, "active NULL");
    REFUSED_CALL(args.select = SFFN_SELECT_PREDICTOR, SFFN_ERR_UNSUPPORTED, "predictor");
    REFUSED_CALL(args.select = SFFN_SELECT_ROUTER, SFFN_ERR_UNSUPPORTED, "router");
    REFUSED_CALL(args.active = longer, SFFN_ERR_SHAPE, "active 65 64");
    REFUSED_CALL(args.active = brief, SFFN_ERR_SHAPE, "active 1 2");
    REFUSED_CALL(args.active_out = longer, SFFN_ERR_SHAPE, "active_out 65 64");
    REFUSED_CALL(args.active_out = blocks, SFFN_ERR_SHAPE, "active_out 32");
    REFUSED_CALL(args.active_out = brief, SFFN_ERR_SHAPE, "active_out 1 2");
    REFUSED_CALL(args.struct_size = 0, SFFN_ERR_INVALID_ARGUMENT, "struct_size 0");
    sffn_ffn_stats bad_stats = SFFN_FFN_STATS_INIT;
    bad_stats.struct_size = 0;
    REFUSED_CALL(args.stats = &bad_stats, SFFN_ERR_INVALID_ARGUMENT, "struct_size 0");
#define REFUSED_SOMEHOW(change, words)                                                             \
    do {                                                                                           \
        sffn_ffn_args args = good;                                                                 \
        change;                                                                                    \
        CHECK_FAILS(ctx, sffn_ffn_forward(ctx, ffn, &args), words);                                \
        CHECK_BITS(result.y, before, 2 * D, "y after an error");                                   \
    } while (0)
    REFUSED_SOMEHOW(args.x_stride = D - 1, "x_stride 31 32");
    REFUSED_SOMEHOW(args.y_stride = D - 1, "y_stride 31 32");
    REFUSED_SOMEHOW(args.h_stride = F - 1, "h_stride 63 64");
    CHECK_ERROR(ctx, sffn_ffn_forward(ctx, ffn, NULL), SFFN_ERR_INVALID_ARGUMENT, "args NULL");
    CHECK_ERROR(ctx, sffn_ffn_forward(ctx, NULL, &good), SFFN_ERR_INVALID_ARGUMENT, "ffn NULL");
    CHECK(sffn_ffn_forward(NULL, ffn, &good) == SFFN_ERR_INVALID_ARGUMENT);
    /* no tokens: a no-op, whatever the pointers are */
    sffn_ffn_args none = SFFN_FFN_ARGS_INIT;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &none));
    CHECK_BITS(result.y, before, 2 * D, "y after no tokens");
    /* and the good arguments work after all these failures */
    sffn_ffn_args args = good;
    args.active_out = out;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    sffn_active_set *const sets[] = {longer, brief, blocks, out};
    for (size_t i = 0; i < 4; i++)
        sffn_active_set_destroy(sets[i]);
    result_free(&result);
    sffn_ffn_destroy(ffn);
    layer_free(&layer);
}

/* Strides of every pointer: rows in the gaps' middle, the gaps untouched. */
static void strides(void **state)
{
    (void)state;
    enum { T = 3, XS = D + 3, YS = D + 5, HS = F + 7 };
    struct layer layer;
    struct result packed;
    make_plain(&layer);
    struct rng rng = rng_named("strides");
    sffn_ffn *ffn = layer_create(ctx, &layer);
    float *x = draw_x(&layer.memory, &rng, T, D, 0);
    sffn_ffn_args args = result_args(&packed, &layer.memory, ctx, &layer, x, T);
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    float *wide_x = GUARDED_FLOATS(&layer.memory, XS * (T - 1) + D),
          *wide_y = GUARDED_FLOATS(&layer.memory, YS * (T - 1) + D);
    float *wide_h = GUARDED_FLOATS(&layer.memory, HS * (T - 1) + F);
    for (size_t i = 0; i < XS * (T - 1) + D; i++)
        wide_x[i] = NAN; /* a read of a gap would show */
    for (size_t t = 0; t < T; t++)
        memcpy(wide_x + t * XS, x + t * D, D * sizeof *x);
    args.x = wide_x;
    args.x_stride = XS;
    args.y = wide_y;
    args.y_stride = YS;
    args.h = wide_h;
    args.h_stride = HS;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    for (size_t t = 0; t < T; t++) {
        CHECK_BITS(wide_y + t * YS, packed.y + t * D, D, "y of token %zu", t);
        CHECK_BITS(wide_h + t * HS, packed.h + t * F, F, "h of token %zu", t);
        for (size_t i = D; t + 1 < T && i < YS; i++)
            CHECK(wide_y[t * YS + i] == 0.0f);
        for (size_t i = F; t + 1 < T && i < HS; i++)
            CHECK(wide_h[t * HS + i] == 0.0f);
    }
    result_free(&packed);
    sffn_ffn_destroy(ffn);
    layer_free(&layer);
}

/* ---------------------------------------------------------------- contexts and threads */

static void other_contexts_must_reserve(void **state)
{
    (void)state;
    struct layer layer;
    struct result result, expected;
    make_plain(&layer);
    struct rng rng = rng_named("reserve");
    sffn_ffn *ffn = layer_create(ctx, &layer);
    float *x = draw_x(&layer.memory, &rng, 1, D, 0);
    sffn_context *other = make_context(2, NULL);
    sffn_ffn_args args = result_args(&result, &layer.memory, ctx, &layer, x, 1);
    CHECK_ERROR(other, sffn_ffn_forward(other, ffn, &args), SFFN_ERR_NOT_RESERVED,
                "sffn_ffn_reserve");
    CHECK(isnan(result.y[0])); /* untouched */
    size_t scratch = sffn_ffn_query_scratch(other, ffn);
    CHECK(scratch > 0);
    CHECK_OK(other, sffn_ffn_reserve(other, ffn));
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    CHECK_OK(other, sffn_context_get_info(other, &info));
    CHECK_SAYS(info.scratch_bytes == scratch, "the context took %llu bytes, query said %zu",
               (unsigned long long)info.scratch_bytes, scratch);
    CHECK_OK(other, sffn_ffn_forward(other, ffn, &args));
    args = result_args(&expected, &layer.memory, ctx, &layer, x, 1);
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    CHECK_BITS(result.y, expected.y, D, "two contexts");
    CHECK(sffn_ffn_reserve(NULL, ffn) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK_ERROR(other, sffn_ffn_reserve(other, NULL), SFFN_ERR_INVALID_ARGUMENT, "ffn NULL");
    /* a dense path of its own needs more */
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.use_onednn = 1;
    sffn_context *with_onednn = NULL;
    CHECK_OK(NULL, sffn_context_create(&config, &with_onednn));
    scratch = sffn_ffn_query_scratch(with_onednn, ffn);
    CHECK_OK(with_onednn, sffn_ffn_reserve(with_onednn, ffn));
    CHECK_OK(with_onednn, sffn_context_get_info(with_onednn, &info));
    CHECK_SAYS(info.scratch_bytes == scratch, "with oneDNN %llu bytes, query said %zu",
               (unsigned long long)info.scratch_bytes, scratch);
    sffn_context_destroy(with_onednn);
    result_free(&result);
    result_free(&expected);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(other);
    layer_free(&layer);
}

static void no_barrier(void *user)
{
    (void)user;
}

static void bad_identities(void **state)
{
    (void)state;
    struct layer layer;
    struct result result;
    make_plain(&layer);
    struct rng rng = rng_named("identities");
    sffn_ffn *ffn = layer_create(ctx, &layer);
    float *x = draw_x(&layer.memory, &rng, 1, D, 0);
    sffn_ffn_args args = result_args(&result, &layer.memory, ctx, &layer, x, 1);
    uint32_t n_phases = sffn_ffn_n_phases(ffn, &args);
    CHECK(n_phases >= 1 && n_phases < 64);
    CHECK_OK(ctx, sffn_ffn_reserve_threads(ctx, ffn, 4));
    CHECK_ERROR(ctx, sffn_ffn_forward_phase(ctx, ffn, &args, 0, 4, 4), SFFN_ERR_INVALID_ARGUMENT,
                "ith 4");
    CHECK_ERROR(ctx, sffn_ffn_forward_phase(ctx, ffn, &args, 0, 0, 0), SFFN_ERR_INVALID_ARGUMENT,
                "nth 0");
    CHECK_ERROR(ctx, sffn_ffn_forward_phase(ctx, ffn, &args, 0, 0, 513), SFFN_ERR_INVALID_ARGUMENT,
                "nth 513");
    CHECK_ERROR(ctx, sffn_ffn_forward_phase(ctx, ffn, &args, n_phases, 0, 1),
                SFFN_ERR_INVALID_ARGUMENT, "phase");
    CHECK_ERROR(ctx, sffn_ffn_forward_spmd(ctx, ffn, &args, 1, 1, no_barrier, NULL),
                SFFN_ERR_INVALID_ARGUMENT, "ith 1");
    CHECK_ERROR(ctx, sffn_ffn_forward_spmd(ctx, ffn, &args, 0, 513, no_barrier, NULL),
                SFFN_ERR_INVALID_ARGUMENT, "nth 513");
    CHECK_ERROR(ctx, sffn_ffn_forward_spmd(ctx, ffn, &args, 0, 2, NULL, NULL),
                SFFN_ERR_INVALID_ARGUMENT, "barrier NULL");
    CHECK_ERROR(ctx, sffn_ffn_reserve_threads(ctx, ffn, 513), SFFN_ERR_INVALID_ARGUMENT, "513");
    CHECK_ERROR(ctx, sffn_ffn_reserve_threads(ctx, ffn, 0), SFFN_ERR_INVALID_ARGUMENT, "0");
    CHECK(isnan(result.y[0]));
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args)); /* none of these left the context busy */
    result_free(&result);
    sffn_ffn_destroy(ffn);
    layer_free(&layer);
}

/* More callers' threads than were reserved: refused; the context's own number and what was reserved
 * are enough. */
static void threads_must_be_reserved(void **state)
{
    (void)state;
    struct layer layer;
    struct result result;
    make_plain(&layer);
    struct rng rng = rng_named("threads");
    sffn_context *own = make_context(1, NULL);
    sffn_ffn *ffn = layer_create(own, &layer);
    float *x = draw_x(&layer.memory, &rng, 1, D, 0);
    sffn_ffn_args args = result_args(&result, &layer.memory, ctx, &layer, x, 1);
    sffn_status status = sffn_ffn_forward_phase(own, ffn, &args, 0, 0, 64);
    CHECK_SAYS(status == SFFN_ERR_NOT_RESERVED, "%s", sffn_status_name(status));
    for (uint32_t nth = 1; nth <= 64; nth *= 8) {
        CHECK_OK(own, sffn_ffn_reserve_threads(own, ffn, nth));
        CHECK_OK(own, threading_forward(THREADING_PHASES_SHUFFLED, nth, &rng, own, ffn, &args));
    }
    result_free(&result);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(own);
    layer_free(&layer);
}

/* Phase 0 with ith 0 validates; every later phase of every thread reports what it found, and y
 * stays untouched. */
static void phases_report_the_first_error(void **state)
{
    (void)state;
    struct layer layer;
    struct result result;
    make_plain(&layer);
    struct rng rng = rng_named("phases");
    sffn_ffn *ffn = layer_create(ctx, &layer);
    CHECK_OK(ctx, sffn_ffn_reserve_threads(ctx, ffn, 3));
    float *x = draw_x(&layer.memory, &rng, 1, D, 0);
    sffn_ffn_args good = result_args(&result, &layer.memory, ctx, &layer, x, 1), bad = good;
    bad.select = SFFN_SELECT_ROUTER;
    uint32_t n_phases = sffn_ffn_n_phases(ffn, &good);
    CHECK_ERROR(ctx, sffn_ffn_forward_phase(ctx, ffn, &bad, 0, 0, 3), SFFN_ERR_UNSUPPORTED,
                "router");
    for (uint32_t phase = 0; phase < n_phases; phase++)
        for (uint32_t ith = phase == 0; ith < 3; ith++)
            CHECK(sffn_ffn_forward_phase(ctx, ffn, &bad, phase, ith, 3) == SFFN_ERR_UNSUPPORTED);
    CHECK(isnan(result.y[0]) && isnan(result.h[0]));
    CHECK_OK(ctx, threading_forward(THREADING_PHASES_SHUFFLED, 3, &rng, ctx, ffn,
                                    &good)); /* and then all is well */
    CHECK(is_finite((double)result.y[0]));
    for (enum threading kind = THREADING_PHASES_SHUFFLED; kind < THREADING_COUNT; kind++) {
        result.y[0] = NAN;
        sffn_status status = threading_forward(kind, 3, &rng, ctx, ffn, &bad);
        CHECK_SAYS(status == SFFN_ERR_UNSUPPORTED, "%s: %s", threading_names[kind],
                   sffn_status_name(status));
        CHECK(isnan(result.y[0]));
        CHECK_OK(ctx, threading_forward(kind, 3, &rng, ctx, ffn, &good));
        CHECK(is_finite((double)result.y[0]));
    }
    result_free(&result);
    sffn_ffn_destroy(ffn);
    layer_free(&layer);
}

/* A call from inside a call of the same context, through its parallel_for, is refused; another
 * context is free. */
struct nested {
    sffn_context *ctx, *free_ctx;
    const sffn_ffn *ffn;
    const sffn_ffn_args *args;
    const sffn_matmul *matmul;
    sffn_active_set *set;
    int n_calls, n_busy, n_free_ok;
    size_t n_kinds;
};

static void parallel_for_nested(void *user, uint32_t n, void (*fn)(void *arg, uint32_t i),
                                void *arg)
{
    struct nested *nested = user;
    if (nested->ffn && nested->n_calls++ == 0) { /* not while the layer is being packed */
        static float x[F], out[F];
        const sffn_status statuses[] = {
            sffn_ffn_forward(nested->ctx, nested->ffn, nested->args),
            sffn_ffn_gate(nested->ctx, nested->ffn, x, 1, NULL, out, NULL),
            sffn_matmul_rows_dot(nested->ctx, nested->matmul, x, 4, 1, NULL, out, 4),
            sffn_matmul_rows_axpy(nested->ctx, nested->matmul, x, 4, 1, NULL, out, 4),
        };
        nested->n_kinds = sizeof statuses / sizeof statuses[0];
        for (size_t i = 0; i < nested->n_kinds; i++) {
            nested->n_busy += statuses[i] == SFFN_ERR_BUSY;
            if (statuses[i] != SFFN_ERR_BUSY)
                print_error("kind %zu: %s\n", i, sffn_status_name(statuses[i]));
        }
        nested->n_free_ok += sffn_matmul_rows_dot(nested->free_ctx, nested->matmul, x, 4, 1, NULL,
                                                  out, 4) == SFFN_OK;
    }
    for (uint32_t i = 0; i < n; i++)
        fn(arg, i);
}

static void busy(void **state)
{
    (void)state;
    struct layer layer;
    struct result result, inner;
    make_plain(&layer);
    struct rng rng = rng_named("busy");
    float *x = draw_x(&layer.memory, &rng, 1, D, 0);
    static const float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    sffn_matmul_config matrix = SFFN_MATMUL_CONFIG_INIT;
    matrix.n_rows = matrix.n_cols = 4;
    matrix.weights.data = ones;
    sffn_matmul *matmul = NULL;
    CHECK_OK(ctx, sffn_matmul_create(ctx, &matrix, &matmul));
    struct nested nested = {.free_ctx = ctx, .matmul = matmul};
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = 2;
    config.parallel_for = parallel_for_nested;
    config.parallel_for_user = &nested;
    CHECK_OK(NULL, sffn_context_create(&config, &nested.ctx));
    sffn_ffn *ffn = layer_create(nested.ctx, &layer);
    sffn_ffn_args inner_args = result_args(&inner, &layer.memory, ctx, &layer, x, 1);
    sffn_ffn_args args = result_args(&result, &layer.memory, ctx, &layer, x, 1);
    nested.ffn = ffn;
    nested.args = &inner_args;
    CHECK_OK(nested.ctx, sffn_ffn_forward(nested.ctx, ffn, &args));
    CHECK(nested.n_calls > 0);
    CHECK_SAYS(nested.n_busy == (int)nested.n_kinds, "%d of %zu kinds of calls were refused",
               nested.n_busy, nested.n_kinds);
    CHECK(nested.n_free_ok == 1);
    CHECK(isnan(inner.y[0])); /* untouched */
    CHECK(is_finite((double)result.y[0]));
    CHECK_OK(nested.ctx, sffn_ffn_forward(nested.ctx, ffn, &args)); /* busy no longer */
    result_free(&result);
    result_free(&inner);
    sffn_ffn_destroy(ffn);
    sffn_matmul_destroy(matmul);
    sffn_context_destroy(nested.ctx);
    layer_free(&layer);
}

/* ------------------------------------------------------------- dense paths, slices, statistics */

/* Runs once and returns what the call did. */
static struct result run_once(sffn_context *own, const sffn_ffn *ffn, struct layer *layer,
                              const float *x, size_t n_tokens, int32_t select,
                              const sffn_active_set *active)
{
    struct result result;
    sffn_ffn_args args = result_args(&result, &layer->memory, ctx, layer, x, n_tokens);
    args.select = select;
    args.active = active;
    CHECK_OK(own, sffn_ffn_forward(own, ffn, &args));
    return result;
}

/* A handed-in set over max_density (union over a tile of tokens): the gate looks at all neurons
 * instead. */
static void max_density_falls_back_to_the_gate(void **state)
{
    (void)state;
    for (size_t n_tokens = 1; n_tokens <= 8; n_tokens += 7)
        for (int is_over = 0; is_over < 2; is_over++) {
            struct layer layer;
            make_plain(&layer);
            struct rng rng = rng_named("max_density");
            float *x = draw_x(&layer.memory, &rng, n_tokens, D, 0);
            uint8_t *mask = guarded_alloc(&layer.memory, n_tokens * F, 0);
            for (size_t t = 0; t < n_tokens; t++) /* every token the same 32 of 64, or one more */
                memset(mask + t * F + 3, 1, 32 + is_over);
            sffn_active_set *set = make_set(ctx, mask, n_tokens, F, 1);
            layer.config.max_density = 0.5f;
            sffn_ffn *ffn = layer_create(ctx, &layer);
            struct result chosen = run_once(ctx, ffn, &layer, x, n_tokens, SFFN_SELECT_ACTIVE, set);
            struct result gate = run_once(ctx, ffn, &layer, x, n_tokens, SFFN_SELECT_GATE, NULL);
            CHECK_SAYS(chosen.stats.n_selected == n_tokens * (is_over ? F : 32u),
                       "%zu tokens, %d over: n_selected %llu", n_tokens, is_over,
                       (unsigned long long)chosen.stats.n_selected);
            CHECK(chosen.stats.path == SFFN_PATH_SPARSE);
            if (is_over)
                CHECK_BITS(chosen.y, gate.y, n_tokens * D, "y of the gate's choice");
            else
                CHECK(memcmp(chosen.y, gate.y, n_tokens * D * sizeof(float)) != 0);
            result_free(&chosen);
            result_free(&gate);
            sffn_ffn_destroy(ffn);
            sffn_active_set_destroy(set);
            layer_free(&layer);
        }
}

/* From a number for dense_tokens on the default runs dense, never against a handed-in set; without and with
 * oneDNN. */
static void long_prompts_run_dense(void **state)
{
    (void)state;
    enum { T = 4, MANY = 600 };
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        for (int32_t use_onednn = 0; use_onednn < 2; use_onednn++) {
            struct spec spec = SPEC_INIT(D, MANY, type); /* oneDNN gets 256 neurons at a time */
            struct rng rng = rng_named("long prompts");
            struct layer layer;
            struct reference ref;
            spec.has_bias = 1;
            layer_make(&layer, &spec, &rng);
            float *x = draw_x(&layer.memory, &rng, T, D, 0);
            uint8_t *mask = draw_mask(&layer.memory, &rng, T, MANY, 0.5);
            sffn_active_set *set = make_set(ctx, mask, T, MANY, 1);
            reference_make(&ref, &layer.memory, &layer, x, T, NULL, 1);
            sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
            sffn_context *own = NULL;
            config.use_onednn = use_onednn;
            CHECK_OK(NULL, sffn_context_create(&config, &own));
            layer.config.dense_tokens = T;
            sffn_ffn *ffn = layer_create(own, &layer);
            struct result results[] = {
                run_once(own, ffn, &layer, x, T, SFFN_SELECT_DEFAULT, NULL),
                run_once(own, ffn, &layer, x, T - 1, SFFN_SELECT_DEFAULT, NULL),
                run_once(own, ffn, &layer, x, T, SFFN_SELECT_GATE, NULL),
                run_once(own, ffn, &layer, x, T, SFFN_SELECT_DEFAULT, set)};
            sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
            CHECK_OK(own, sffn_context_get_info(own, &info));
            int32_t path = results[0].stats.path;
            CHECK_SAYS(path == SFFN_PATH_DENSE ||
                           (use_onednn && info.has_onednn && path == SFFN_PATH_DENSE_ONEDNN),
                       "%d tokens ran on path %d", T, (int)path);
            for (size_t i = 0; i < T * D; i++)
                CHECK_WITHIN((double)results[0].y[i], ref.y[i], ref.y_error[i],
                             "%s y[%zu] on path %d", sffn_dtype_name(type), i, (int)path);
            for (size_t k = 1; k < 4; k++)
                CHECK_SAYS(results[k].stats.path == SFFN_PATH_SPARSE, "call %zu ran on path %d", k,
                           (int)results[k].stats.path);
            for (size_t k = 0; k < 4; k++)
                result_free(&results[k]);
            sffn_ffn_destroy(ffn);
            sffn_active_set_destroy(set);
            sffn_context_destroy(own);
            layer_free(&layer);
        }
}

/* Without a number for dense_tokens no length makes a call dense, and dense calls go through oneDNN
 * only where that is faster. */
static void the_length_decides_nothing_by_itself(void **state)
{
    (void)state;
    enum { MOST = 513 };
    static const struct {
        int32_t type;
        uint32_t dense_tokens, onednn_from; /* 0: never */
    } cases[] = {
        {SFFN_F32, SFFN_DENSE_TOKENS_AUTO, 128},
        {SFFN_BF16, SFFN_DENSE_TOKENS_AUTO, 512},
        {SFFN_F16, SFFN_DENSE_TOKENS_AUTO, 0},
        {SFFN_Q8_0, SFFN_DENSE_TOKENS_AUTO, 0},
        {SFFN_Q4_0, SFFN_DENSE_TOKENS_AUTO, 0},
        {SFFN_F32, 0, 0},
        {SFFN_Q8_0, 40, 40},
    };
    const sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    CHECK(config.dense_tokens == SFFN_DENSE_TOKENS_AUTO);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int32_t use_onednn = 0; use_onednn < 2; use_onednn++) {
            struct spec spec = SPEC_INIT(D, F, cases[i].type);
            struct rng rng = rng_named("no length");
            struct layer layer;
            layer_make(&layer, &spec, &rng);
            struct reference ref;
            const float *x = draw_x(&layer.memory, &rng, MOST, D, 0);
            reference_make(&ref, &layer.memory, &layer, x, MOST, NULL, 1);
            sffn_context_config context_config = SFFN_CONTEXT_CONFIG_INIT;
            sffn_context *own = NULL;
            context_config.use_onednn = use_onednn;
            CHECK_OK(NULL, sffn_context_create(&context_config, &own));
            sffn_context_info context_info = SFFN_CONTEXT_INFO_INIT;
            CHECK_OK(own, sffn_context_get_info(own, &context_info));
            layer.config.dense_tokens = cases[i].dense_tokens;
            sffn_ffn *ffn = layer_create(own, &layer);
            sffn_ffn_info info = SFFN_FFN_INFO_INIT;
            CHECK_OK(own, sffn_ffn_get_info(ffn, &info));
            const uint32_t dense_from = cases[i].dense_tokens == 40 ? 40 : 0;
            CHECK(info.dense_reason == SFFN_DENSE_NOT && info.dense_tokens == dense_from);
            static const size_t counts[] = {39, 40, 127, 128, 511, 512, MOST};
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                const size_t n = counts[c];
                const int is_onednn = use_onednn && context_info.has_onednn &&
                                      cases[i].onednn_from && n >= cases[i].onednn_from;
                struct result plain, dense;
                sffn_ffn_args args = result_args(&plain, &layer.memory, own, &layer, x, n);
                args.active_out = NULL; /* which oneDNN does not fill */
                CHECK_OK(own, sffn_ffn_forward(own, ffn, &args));
                const int is_long = dense_from && n >= dense_from;
                CHECK_SAYS(plain.stats.dense_reason ==
                                   (is_long ? SFFN_DENSE_MANY_TOKENS : SFFN_DENSE_NOT) &&
                               (plain.stats.path != SFFN_PATH_SPARSE) == is_long,
                           "case %zu, %zu tokens: path %d, reason %d", i, n, (int)plain.stats.path,
                           (int)plain.stats.dense_reason);
                args = result_args(&dense, &layer.memory, own, &layer, x, n);
                args.active_out = NULL;
                args.select = SFFN_SELECT_DENSE;
                CHECK_OK(own, sffn_ffn_forward(own, ffn, &args));
                CHECK_SAYS(dense.stats.path ==
                               (is_onednn ? SFFN_PATH_DENSE_ONEDNN : SFFN_PATH_DENSE),
                           "case %zu, dense, %zu tokens: path %d", i, n, (int)dense.stats.path);
                for (size_t j = 0; j < n * D; j++)
                    CHECK_WITHIN((double)dense.y[j], ref.y[j], ref.y_error[j],
                                 "case %zu, %zu tokens: y[%zu]", i, n, j);
                result_free(&plain);
                result_free(&dense);
            }
            sffn_ffn_destroy(ffn);
            sffn_context_destroy(own);
            layer_free(&layer);
        }
}

/* A batch whose tokens need most rows takes all rows for all of them: y of each keeps its bits, and
 * rows that are not finite stay with the tokens that need them. */
static void batches_that_need_most_rows(void **state)
{
    (void)state;
    enum { T = 8, WIDTH = 96, N = 1300, ONLY_0 = 7, NOBODY = 9 }; /* the first 1024 rows together */
    static const double densities[] = {0.3, 0.5, 0.85, 1};
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        for (size_t i = 0; i < 16; i++) {
            const int is_poisoned = i & 1;
            struct spec spec = SPEC_INIT(WIDTH, N, type);
            struct rng rng = rng_named("most rows");
            struct layer layer;
            spec.has_bias = 1;
            spec.gate_shift = 100;
            spec.storage = i & 2 ? SFFN_STORAGE_BORROW : SFFN_STORAGE_COPY;
            layer_make(&layer, &spec, &rng);
            const float *x = draw_x(&layer.memory, &rng, T, WIDTH, 0);
            uint8_t *mask = draw_mask(&layer.memory, &rng, T, N, densities[i / 4]);
            for (size_t t = 0; t < T; t++) {
                mask[t * N + ONLY_0] = t == 0;
                mask[t * N + NOBODY] = 0;
            }
            for (uint32_t row = ONLY_0; is_poisoned && row <= NOBODY; row += NOBODY - ONLY_0)
                layer_poison(&layer, row, PART_GATE | PART_UP | PART_DOWN);
            sffn_ffn *ffn = layer_create(ctx, &layer);
            for (size_t n = T; n > 1; n = n == T ? 5 : n == 5 ? 2 : 1) {
                sffn_active_set *set = make_set(ctx, mask, n, N, 1);
                struct result all = run_once(ctx, ffn, &layer, x, n, SFFN_SELECT_ACTIVE, set);
                for (size_t t = 0; t < n; t++) {
                    sffn_active_set *own = make_set(ctx, mask + t * N, 1, N, 1);
                    struct result one =
                        run_once(ctx, ffn, &layer, x + t * WIDTH, 1, SFFN_SELECT_ACTIVE, own);
                    for (size_t j = 0; j < WIDTH; j++)
                        CHECK(isfinite(one.y[j]) || (is_poisoned && t == 0));
                    if (t > 0 || !is_poisoned)
                        CHECK_BITS(all.y + t * WIDTH, one.y, WIDTH, "y of a token alone");
                    result_free(&one);
                    sffn_active_set_destroy(own);
                }
                result_free(&all);
                sffn_active_set_destroy(set);
            }
            sffn_ffn_destroy(ffn);
            layer_free(&layer);
        }
}

static void times_only_when_asked(void **state)
{
    (void)state;
    struct spec spec = SPEC_INIT(256, 1000, SFFN_F32);
    struct layer layer;
    struct rng rng = rng_named("times");
    layer_make(&layer, &spec, &rng);
    float *x = draw_x(&layer.memory, &rng, 4, 256, 0);
    for (int32_t collects = 0; collects < 2; collects++) {
        sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
        sffn_context *own = NULL;
        struct result result;
        config.collect_stats = collects;
        CHECK_OK(NULL, sffn_context_create(&config, &own));
        sffn_ffn *ffn = layer_create(own, &layer);
        sffn_ffn_args args = result_args(&result, &layer.memory, ctx, &layer, x, 4);
        CHECK_OK(own, sffn_ffn_forward(own, ffn, &args));
        const sffn_ffn_stats *s = &result.stats;
        uint64_t parts = s->select_ns + s->gate_ns + s->up_ns + s->down_ns;
        if (collects)
            CHECK_SAYS(s->total_ns > 0 && s->gate_ns > 0 && s->down_ns > 0 && parts <= s->total_ns,
                       "%llu of %llu ns", (unsigned long long)parts,
                       (unsigned long long)s->total_ns);
        else
            CHECK(s->total_ns == 0 && parts == 0);
        result_free(&result);
        sffn_ffn_destroy(ffn);
        sffn_context_destroy(own);
    }
    layer_free(&layer);
}

/* ---------------------------------------------------------------- stages */

static void stage_errors(void **state)
{
    (void)state;
    struct layer layer;
    make_plain(&layer);
    sffn_ffn *ffn = layer_create(ctx, &layer);
    float x[D] = {0}, s[F] = {0}, h[F] = {0}, y[D], before[D];
    for (size_t i = 0; i < D; i++)
        y[i] = before[i] = (float)i;
    sffn_active_set *wrong = make_set(ctx, NULL, 1, F + 1, 1), *good = make_set(ctx, NULL, 1, F, 1);
    CHECK_ERROR(ctx, sffn_ffn_select(ctx, ffn, x, 1, good), SFFN_ERR_UNSUPPORTED,
                NULL); /* no selector */
    CHECK_ERROR(ctx, sffn_ffn_gate(ctx, ffn, NULL, 1, NULL, s, good), SFFN_ERR_INVALID_ARGUMENT,
                "x NULL");
    CHECK_ERROR(ctx, sffn_ffn_gate(ctx, ffn, x, 1, NULL, NULL, good), SFFN_ERR_INVALID_ARGUMENT,
                "s NULL");
    CHECK_ERROR(ctx, sffn_ffn_gate(ctx, ffn, x, 1, wrong, s, good), SFFN_ERR_SHAPE, "65 64");
    CHECK_ERROR(ctx, sffn_ffn_gate(ctx, ffn, x, 1, NULL, s, wrong), SFFN_ERR_SHAPE, "65 64");
    CHECK_ERROR(ctx, sffn_ffn_up(ctx, ffn, NULL, s, 1, NULL, h), SFFN_ERR_INVALID_ARGUMENT,
                "x NULL");
    CHECK_ERROR(ctx, sffn_ffn_up(ctx, ffn, x, NULL, 1, NULL, h), SFFN_ERR_INVALID_ARGUMENT,
                "s NULL");
    CHECK_ERROR(ctx, sffn_ffn_up(ctx, ffn, x, s, 1, NULL, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "h NULL");
    CHECK_ERROR(ctx, sffn_ffn_up(ctx, ffn, x, s, 1, wrong, h), SFFN_ERR_SHAPE, "65 64");
    CHECK_ERROR(ctx, sffn_ffn_down(ctx, ffn, NULL, 1, NULL, y), SFFN_ERR_INVALID_ARGUMENT,
                "h NULL");
    CHECK_ERROR(ctx, sffn_ffn_down(ctx, ffn, h, 1, NULL, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "y NULL");
    CHECK_ERROR(ctx, sffn_ffn_down(ctx, ffn, h, 1, wrong, y), SFFN_ERR_SHAPE, "65 64");
    CHECK_BITS(y, before, D, "y after errors");
    CHECK_OK(ctx, sffn_ffn_down(ctx, ffn, h, 1, NULL, y)); /* h = 0: the bias */
    CHECK_BITS(y, layer.down_bias, D, "down of zeros");
    CHECK_OK(ctx, sffn_ffn_down(ctx, ffn, NULL, 0, NULL, NULL));
    sffn_active_set_destroy(wrong);
    sffn_active_set_destroy(good);
    sffn_ffn_destroy(ffn);
    layer_free(&layer);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, config_errors);
    CASE(&cases, errors_name_the_layer);
    CASE(&cases, activation_names);
    CASE(&cases, info);
    CASE(&cases, everything_is_copied);
    CASE(&cases, argument_errors);
    CASE(&cases, strides);
    CASE(&cases, other_contexts_must_reserve);
    CASE(&cases, bad_identities);
    CASE(&cases, threads_must_be_reserved);
    CASE(&cases, phases_report_the_first_error);
    CASE(&cases, busy);
    CASE(&cases, max_density_falls_back_to_the_gate);
    CASE(&cases, long_prompts_run_dense);
    CASE(&cases, the_length_decides_nothing_by_itself);
    CASE(&cases, batches_that_need_most_rows);
    CASE(&cases, times_only_when_asked);
    CASE(&cases, stage_errors);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "ffn");
    sffn_context_destroy(ctx);
    return failed;
}
