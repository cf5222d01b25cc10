/* The rules of struct_size, the same for every sized struct: an older caller's smaller struct takes
 * defaults for what it lacks, a newer caller's larger one is accepted when the tail we do not know
 * is zero, and refused when it is not. */
#include <stdalign.h>

#include "check.h"

enum { ROOM = 1024, TAIL = 24 };

static sffn_context *ctx;
static float weights[32 * 32];

/* -------------------------------------------------------------- structs that the library reads */

static sffn_status use_context(const void *config)
{
    sffn_context *made = NULL;
    sffn_status status = sffn_context_create(config, &made);
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    if (made && sffn_context_get_info(made, &info) == SFFN_OK && info.n_threads != 1)
        status = SFFN_ERR_INTERNAL; /* the default of what an older caller lacks */
    sffn_context_destroy(made);
    return status;
}

#define USE(noun, type)                                                                            \
    static sffn_status use_##noun(const void *config)                                              \
    {                                                                                              \
        type *made = NULL;                                                                         \
        sffn_status status = sffn_##noun##_create(ctx, config, &made);                             \
        if ((status == SFFN_OK) != (made != NULL))                                                 \
            status = SFFN_ERR_INTERNAL;                                                            \
        sffn_##noun##_destroy(made);                                                               \
        return status;                                                                             \
    }
USE(active_set, sffn_active_set)
USE(matmul, sffn_matmul)
USE(predictor, sffn_predictor)
USE(router, sffn_router)
USE(ffn, sffn_ffn)
USE(calibration, sffn_calibration)

static sffn_status use_args(const void *args)
{
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = config.d_ff = 32;
    config.up.data = config.down.data = weights;
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
    sffn_status status = sffn_ffn_forward(ctx, ffn, args);
    sffn_ffn_destroy(ffn);
    return status;
}

static sffn_calibration *calibration;

static sffn_status use_threshold(const void *config)
{
    sffn_activity activity = SFFN_ACTIVITY_INIT;
    return sffn_calibration_find_threshold(ctx, calibration, config, &activity, NULL, NULL);
}

static sffn_status use_rule(const void *rule)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    config.n_blocks = 32;
    sffn_active_set *set = NULL;
    CHECK_OK(ctx, sffn_active_set_create(ctx, &config, &set));
    CHECK_OK(ctx, sffn_active_set_clear(set, 1));
    sffn_status status = sffn_active_set_set_values(set, 0, weights, 32, rule);
    sffn_active_set_destroy(set);
    return status;
}

static sffn_status use_cluster(const void *config)
{
    uint32_t permutation[32];
    return sffn_cluster_neurons(ctx, config, permutation, NULL);
}

static sffn_status use_svd(const void *config)
{
    float w1[32], w2[32];
    return sffn_fit_svd(ctx, config, w1, w2, NULL);
}

static sffn_calibration *fit_samples; /* enough for a fit */

static sffn_status use_low_rank(const void *config)
{
    float w1[32], w2[32];
    return sffn_fit_low_rank(ctx, fit_samples, config, w1, w2, NULL, NULL, NULL);
}

static sffn_status use_router_fit(const void *config)
{
    float weight[32];
    return sffn_fit_router(ctx, fit_samples, config, NULL, weight, NULL);
}

static const sffn_context_config context_config = SFFN_CONTEXT_CONFIG_INIT;
static const sffn_value_rule value_rule = SFFN_VALUE_RULE_INIT;
static const sffn_active_set_config active_set_config = {sizeof(sffn_active_set_config), 5, 1, 1,
                                                         0};
static sffn_matmul_config matmul_config = SFFN_MATMUL_CONFIG_INIT;
static sffn_predictor_config predictor_config = SFFN_PREDICTOR_CONFIG_INIT;
static sffn_router_config router_config = SFFN_ROUTER_CONFIG_INIT;
static sffn_ffn_config ffn_config = SFFN_FFN_CONFIG_INIT;
static sffn_ffn_args ffn_args = SFFN_FFN_ARGS_INIT;
static sffn_calibration_config calibration_config = SFFN_CALIBRATION_CONFIG_INIT;
static sffn_threshold_config threshold_config = SFFN_THRESHOLD_CONFIG_INIT;
static sffn_cluster_config cluster_config = SFFN_CLUSTER_CONFIG_INIT;
static sffn_svd_config svd_config = SFFN_SVD_CONFIG_INIT;
static sffn_low_rank_config low_rank_config = SFFN_LOW_RANK_CONFIG_INIT;
static sffn_router_fit_config router_fit_config = SFFN_ROUTER_FIT_CONFIG_INIT;
static float x[32], y[32];

/* A valid struct, and the offset from which on its fields may be missing. */
struct sized {
    const char *name;
    const void *valid;
    size_t size, required;
    sffn_status (*use)(const void *);
};
static const struct sized sized[] = {
    {"sffn_context_config", &context_config, sizeof context_config, sizeof(size_t), use_context},
    {"sffn_active_set_config", &active_set_config, sizeof active_set_config,
     offsetof(sffn_active_set_config, block_size), use_active_set},
    {"sffn_value_rule", &value_rule, sizeof value_rule, sizeof(size_t), use_rule},
    {"sffn_matmul_config", &matmul_config, sizeof matmul_config,
     offsetof(sffn_matmul_config, storage), use_matmul},
    {"sffn_predictor_config", &predictor_config, sizeof predictor_config,
     offsetof(sffn_predictor_config, gate_bias), use_predictor},
    {"sffn_router_config", &router_config, sizeof router_config, offsetof(sffn_router_config, bias),
     use_router},
    {"sffn_ffn_config", &ffn_config, sizeof ffn_config, offsetof(sffn_ffn_config, gate_bias),
     use_ffn},
    {"sffn_ffn_args", &ffn_args, sizeof ffn_args, offsetof(sffn_ffn_args, select_x), use_args},
    {"sffn_calibration_config", &calibration_config, sizeof calibration_config,
     offsetof(sffn_calibration_config, max_samples), use_calibration},
    {"sffn_threshold_config", &threshold_config, sizeof threshold_config,
     offsetof(sffn_threshold_config, target_density), use_threshold},
    {"sffn_cluster_config", &cluster_config, sizeof cluster_config,
     offsetof(sffn_cluster_config, group_size), use_cluster},
    {"sffn_svd_config", &svd_config, sizeof svd_config, offsetof(sffn_svd_config, second_moment),
     use_svd},
    {"sffn_low_rank_config", &low_rank_config, sizeof low_rank_config,
     offsetof(sffn_low_rank_config, hidden_activation), use_low_rank},
    {"sffn_router_fit_config", &router_fit_config, sizeof router_fit_config,
     offsetof(sffn_router_fit_config, block_size), use_router_fit},
};

/* The struct in a larger buffer whose other bytes are `fill`, with another struct_size. */
static const void *resized(const struct sized *s, size_t size, int fill, size_t kept)
{
    static alignas(16) unsigned char buffer[ROOM];
    CHECK(size <= ROOM && kept <= s->size && kept < ROOM);
    kept = kept < ROOM ? kept : ROOM; /* for the compiler */
    memset(buffer, fill, sizeof buffer);
    memcpy(buffer, s->valid, kept);
    memcpy(buffer, &size, sizeof size);
    return buffer;
}

static void input_struct(void **state)
{
    const struct sized *s = *state;
    const sffn_context *words = s->use == use_context ? NULL : ctx;
    CHECK_OK(words, s->use(resized(s, s->size, 0xFF, s->size)));
    /* a newer caller */
    CHECK_OK(words, s->use(resized(s, s->size + TAIL, 0, s->size)));
    for (size_t at = s->size; at < s->size + TAIL; at += TAIL - 1) {
        unsigned char *newer = (unsigned char *)(uintptr_t)resized(s, s->size + TAIL, 0, s->size);
        newer[at] = 1;
        CHECK_ERROR(words, s->use(newer), SFFN_ERR_INVALID_ARGUMENT, "struct_size");
        newer[at] = 0;
        newer[s->size + TAIL] = 1; /* past its end */
        CHECK_OK(words, s->use(newer));
    }
    /* an older caller: bytes past its end are garbage and must not be read */
    for (size_t size = s->size; size >= s->required; size -= 4)
        CHECK_OK(words, s->use(resized(s, size, 0xFF, size)));
    /* no struct at all */
    static const size_t absurd[] = {0, 1, sizeof(size_t) - 1};
    for (size_t i = 0; i < 3; i++)
        CHECK_ERROR(words, s->use(resized(s, absurd[i], 0xFF, s->size)), SFFN_ERR_INVALID_ARGUMENT,
                    "struct_size");
}

/* An older caller whose struct ends before a required field gets the words for its default, not a
 * crash. */
static void missing_required_fields(void **state)
{
    (void)state;
    for (size_t i = 1; i < sizeof sized / sizeof sized[0]; i++) {
        if (sized[i].use == use_args || sized[i].use == use_rule || sized[i].use == use_router_fit)
            continue; /* no tokens: a no-op; above 0: every field has a default */
        CHECK_ERROR(ctx, sized[i].use(resized(&sized[i], sizeof(size_t), 0xFF, sizeof(size_t))),
                    SFFN_ERR_INVALID_ARGUMENT, NULL);
    }
}

/* -------------------------------------------------------------- structs that the library fills */

static const sffn_ffn *ffn;
static const sffn_matmul *matmul;
static const sffn_predictor *predictor;
static const sffn_router *router;

static sffn_status get_context_info(void *info)
{
    return sffn_context_get_info(ctx, info);
}

static sffn_status get_matmul_info(void *info)
{
    return sffn_matmul_get_info(matmul, info);
}

static sffn_status get_predictor_info(void *info)
{
    return sffn_predictor_get_info(predictor, info);
}

static sffn_status get_router_info(void *info)
{
    return sffn_router_get_info(router, info);
}

static sffn_status get_ffn_info(void *info)
{
    return sffn_ffn_get_info(ffn, info);
}

static sffn_status get_ffn_stats(void *stats)
{
    sffn_ffn_args args = ffn_args;
    args.stats = stats;
    return sffn_ffn_forward(ctx, ffn, &args);
}

static sffn_status get_calibration_info(void *info)
{
    return sffn_calibration_get_info(calibration, info);
}

static sffn_status get_measured(void *measured)
{
    const sffn_activity activity = SFFN_ACTIVITY_INIT;
    return sffn_calibration_measure(ctx, calibration, &activity, measured);
}

struct filled {
    const char *name;
    size_t size;
    sffn_status (*get)(void *);
};
static const struct filled filled[] = {
    {"sffn_context_info", sizeof(sffn_context_info), get_context_info},
    {"sffn_matmul_info", sizeof(sffn_matmul_info), get_matmul_info},
    {"sffn_predictor_info", sizeof(sffn_predictor_info), get_predictor_info},
    {"sffn_router_info", sizeof(sffn_router_info), get_router_info},
    {"sffn_ffn_info", sizeof(sffn_ffn_info), get_ffn_info},
    {"sffn_ffn_stats", sizeof(sffn_ffn_stats), get_ffn_stats},
    {"sffn_calibration_info", sizeof(sffn_calibration_info), get_calibration_info},
    {"sffn_measured", sizeof(sffn_measured), get_measured},
};

static void output_struct(void **state)
{
    const struct filled *f = *state;
    alignas(16) unsigned char full[ROOM], buffer[ROOM];
    memset(full, 0, sizeof full);
    memcpy(full, &f->size, sizeof f->size);
    CHECK_OK(ctx, f->get(full));
    for (size_t size = sizeof(size_t); size <= f->size + TAIL; size += 4) {
        memset(buffer, 0xA7, sizeof buffer);
        memcpy(buffer, &size, sizeof size);
        CHECK_OK(ctx, f->get(buffer));
        size_t known = size < f->size ? size : f->size, kept = 0;
        memcpy(&kept, buffer, sizeof kept);
        CHECK_SAYS(kept == size, "%s: struct_size %zu became %zu", f->name, size, kept);
        CHECK_SAYS(memcmp(buffer + sizeof size, full + sizeof size, known - sizeof size) == 0,
                   "%s: size %zu has other values", f->name, size);
        for (size_t i = size; i < ROOM; i++)
            CHECK_SAYS(buffer[i] == 0xA7, "%s: byte %zu past struct_size %zu was written", f->name,
                       i, size);
    }
    static const size_t absurd[] = {0, sizeof(size_t) - 1};
    for (size_t i = 0; i < 2; i++) {
        memcpy(buffer, &absurd[i], sizeof absurd[i]);
        CHECK_ERROR(ctx, f->get(buffer), SFFN_ERR_INVALID_ARGUMENT, "struct_size");
    }
}

int main(void)
{
    struct cases cases = {0};
    for (size_t i = 0; i < sizeof sized / sizeof sized[0]; i++)
        cases_add(&cases, input_struct, (void *)(uintptr_t)&sized[i], "%s", sized[i].name);
    CASE(&cases, missing_required_fields);
    for (size_t i = 0; i < sizeof filled / sizeof filled[0]; i++)
        cases_add(&cases, output_struct, (void *)(uintptr_t)&filled[i], "%s", filled[i].name);

    matmul_config.n_rows = matmul_config.n_cols = 32;
    cluster_config.n_rows = cluster_config.n_cols = svd_config.n_rows = svd_config.n_cols = 32;
    cluster_config.weights.data = svd_config.weights.data = weights;
    svd_config.rank = 1;
    matmul_config.weights.data = predictor_config.gate.data = router_config.weights.data = weights;
    predictor_config.d_model = predictor_config.d_ff = 32;
    router_config.d_model = router_config.n_experts = 32;
    ffn_config.d_model = ffn_config.d_ff = 32;
    ffn_config.up.data = ffn_config.down.data = weights;
    ffn_args.x = x;
    ffn_args.y = y;
    ffn_args.n_tokens = 1;
    sffn_matmul *own_matmul = NULL;
    sffn_predictor *own_predictor = NULL;
    sffn_router *own_router = NULL;
    sffn_ffn *own_ffn = NULL;
    int failed = sffn_context_create(NULL, &ctx) != SFFN_OK ||
                 sffn_ffn_create(ctx, &ffn_config, &own_ffn) != SFFN_OK ||
                 sffn_predictor_create(ctx, &predictor_config, &own_predictor) != SFFN_OK ||
                 sffn_router_create(ctx, &router_config, &own_router) != SFFN_OK ||
                 sffn_matmul_create(ctx, &matmul_config, &own_matmul) != SFFN_OK;
    ffn = own_ffn;
    calibration_config.ffn = own_ffn;
    threshold_config.target_cett = 0.1f;
    failed = failed || sffn_calibration_create(ctx, &calibration_config, &calibration) != SFFN_OK ||
             sffn_calibration_add(ctx, calibration, x, 32, NULL, 0, 1) != SFFN_OK;
    static float ones[32]; /* a bias: something must be active */
    sffn_ffn_config active_config = ffn_config;
    sffn_ffn *active_ffn = NULL;
    active_config.up_bias = ones;
    for (int i = 0; i < 32; i++)
        ones[i] = 1;
    failed = failed || sffn_ffn_create(ctx, &active_config, &active_ffn) != SFFN_OK;
    calibration_config.ffn = active_ffn;
    failed = failed || sffn_calibration_create(ctx, &calibration_config, &fit_samples) != SFFN_OK;
    for (int t = 0; t < 40 && !failed; t++)
        failed = sffn_calibration_add(ctx, fit_samples, x, 32, NULL, 0, 1) != SFFN_OK;
    low_rank_config.rank = 1;
    predictor = own_predictor;
    router = own_router;
    matmul = own_matmul;
    failed = failed || cases_run(&cases, "struct_size");
    sffn_calibration_destroy(calibration);
    sffn_calibration_destroy(fit_samples);
    sffn_ffn_destroy(active_ffn);
    sffn_ffn_destroy(own_ffn);
    sffn_matmul_destroy(own_matmul);
    sffn_predictor_destroy(own_predictor);
    sffn_router_destroy(own_router);
    sffn_context_destroy(ctx);
    return failed;
}
