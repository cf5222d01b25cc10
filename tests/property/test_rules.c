/* Rules that look at all neurons of a token (top-k, block top-k, statistical), on s and on h. What such a layer must do follows from the same
 * layer without a rule, bit for bit: its s or h, the set that sffn_active_set_set_values() takes from them, and its y with that set alone. So
 * neurons that the rule drops leave no trace, in the 15-bit scale of quantised down rows neither. */
#include <math.h>
#include <stdio.h>

#include "allocator.h"
#include "check.h"
#include "layer.h"
#include "threads.h"

#if defined(__SANITIZE_THREAD__)
static const uint32_t thread_counts[] = {1, 3, 4};
#else
static const uint32_t thread_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
#endif
#define N_COUNTS (sizeof thread_counts / sizeof thread_counts[0])

enum { D = 96, F = 11 * 32, TOKENS = 11 };

struct combination {
    int32_t type, rule, activation;
    int is_gated, has_set;
};

static int is_on_h(int32_t rule)
{
    return rule == SFFN_RULE_TOP_K_H || rule == SFFN_RULE_BLOCK_TOP_K_H ||
           rule == SFFN_RULE_STATISTICAL_H;
}

static sffn_value_rule value_rule_of(const sffn_ffn_config *config)
{
    sffn_value_rule rule = SFFN_VALUE_RULE_INIT;
    rule.kind = config->rule <= SFFN_RULE_TOP_K_H         ? SFFN_VALUE_TOP_K
                : config->rule <= SFFN_RULE_BLOCK_TOP_K_H ? SFFN_VALUE_BLOCK_TOP_K
                                                          : SFFN_VALUE_STATISTICAL_TOP_K;
    rule.tie = config->rule_tie;
    rule.k = config->rule_k;
    rule.m = config->rule_m;
    rule.sparsity = config->rule_sparsity;
    return rule;
}

/* The neurons of each token that the rule keeps of these values. */
static sffn_active_set *expected_set(sffn_context *ctx, const sffn_ffn_config *config,
                                     const float *values, size_t n_tokens)
{
    static float magnitudes[F];
    static uint8_t mask[TOKENS * F];
    const sffn_value_rule rule = value_rule_of(config);
    memset(mask, 1, sizeof mask);
    sffn_active_set *set = make_set(ctx, mask, n_tokens, F, 1);
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t i = 0; i < F; i++)
            magnitudes[i] = fabsf(values[t * F + i]);
        CHECK_OK(ctx, sffn_active_set_set_values(set, t, magnitudes, F, &rule));
        size_t n = 0;
        static uint32_t kept[F];
        for (uint32_t i = 0; i < F; i++)
            if (sffn_active_set_contains(set, t, i) && magnitudes[i] != 0)
                kept[n++] = i;
        CHECK_OK(ctx, sffn_active_set_set_indices(set, t, kept, n));
    }
    return set;
}

static int same_sets(const sffn_active_set *a, const sffn_active_set *b, size_t n_tokens)
{
    int same = 1;
    for (size_t t = 0; t < n_tokens; t++) {
        const size_t n = sffn_active_set_count(a, t);
        same &= n == sffn_active_set_count(b, t) &&
                (n == 0 || memcmp(sffn_active_set_indices(a, t), sffn_active_set_indices(b, t),
                                  n * sizeof(uint32_t)) == 0);
    }
    return same;
}

static size_t count_all(const sffn_active_set *set, size_t n_tokens)
{
    size_t n = 0;
    for (size_t t = 0; t < n_tokens; t++)
        n += sffn_active_set_count(set, t);
    return n;
}

static void forward(void **state)
{
    const struct combination *c = *state;
    char what[160];
    snprintf(what, sizeof what, "%s rule %d %s%s%s", sffn_dtype_name(c->type), (int)c->rule,
             sffn_activation_name(c->activation), c->is_gated ? "" : " ungated",
             c->has_set ? " active" : "");
    struct rng rng = rng_named(what);
    struct spec spec = SPEC_INIT(D, F, c->type);
    spec.is_gated = c->is_gated;
    spec.activation = c->activation;
    spec.has_bias = (int)rng_below(&rng, 2);
    if (is_quantised(c->type) && rng_below(&rng, 2)) {
        spec.down_layout = SFFN_LAYOUT_COLUMNS;
        spec.block_size = 32;
    }
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    const size_t n_tokens = rng_below(&rng, 2) ? 1 : TOKENS;
    sffn_context *ctx = make_context(1, NULL);
    float *x = draw_x(&layer.memory, &rng, n_tokens, D, 0);
    sffn_active_set *set = NULL;
    if (c->has_set)
        set = make_set(ctx, draw_mask(&layer.memory, &rng, n_tokens, F, 0.6), n_tokens, F, 1);
    sffn_ffn *plain = layer_create(ctx, &layer);
    layer.config.rule = c->rule;
    layer.config.rule_k = 1 + rng_below(&rng, 12);
    layer.config.rule_m = 12 + rng_below(&rng, 40);
    if (c->rule <= SFFN_RULE_TOP_K_H)
        layer.config.rule_k = 1 + rng_below(&rng, F);
    layer.config.rule_tie = (int32_t)rng_below(&rng, 2);
    layer.config.rule_sparsity = (float)(0.1 + 0.8 * rng_uniform(&rng));
    sffn_ffn *ffn = layer_create(ctx, &layer);

    /* the same layer without the rule, and what the rule makes of its values */
    struct result all, want;
    sffn_ffn_args args = result_args(&all, &layer.memory, ctx, &layer, x, n_tokens);
    args.select = c->has_set ? SFFN_SELECT_ACTIVE : SFFN_SELECT_GATE;
    args.active = set;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, plain, &args));
    static float s[TOKENS * F], s_rule[TOKENS * F], h_rule[TOKENS * F];
    CHECK_OK(ctx, sffn_ffn_gate(ctx, plain, x, n_tokens, set, s, NULL));
    const int is_h = is_on_h(c->rule);
    sffn_active_set *kept = expected_set(ctx, &layer.config, is_h ? all.h : s, n_tokens);
    args = result_args(&want, &layer.memory, ctx, &layer, x, n_tokens);
    args.select = SFFN_SELECT_ACTIVE;
    args.active = kept;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, plain, &args));
    CHECK_SAYS(count_all(kept, n_tokens) > 0, "%s: nothing is kept", what);

    /* every third number of threads here, the others in the cases of other types */
    for (size_t i = (size_t)c->type % 3; i < N_COUNTS; i += 3) {
        const enum threading kind = (enum threading)((i + (size_t)c->rule) % THREADING_COUNT);
        struct result got;
        sffn_context *own = threading_context(kind, thread_counts[i], NULL);
        CHECK_OK(own, sffn_ffn_reserve_threads(own, ffn, thread_counts[i]));
        args = result_args(&got, &layer.memory, ctx, &layer, x, n_tokens);
        args.select = c->has_set ? SFFN_SELECT_ACTIVE : SFFN_SELECT_GATE;
        args.active = set;
        CHECK_OK(own, threading_forward(kind, thread_counts[i], &rng, own, ffn, &args));
        CHECK_BITS(got.y, want.y, n_tokens * D, "%s: y, %u threads", what,
                   (unsigned)thread_counts[i]);
        CHECK_BITS(got.h, want.h, n_tokens * F, "%s: h, %u threads", what,
                   (unsigned)thread_counts[i]);
        const sffn_active_set *active = is_h && c->is_gated ? all.active : kept;
        CHECK_SAYS(same_sets(got.active, active, n_tokens), "%s: active neurons", what);
        CHECK_SAYS(got.stats.n_active == count_all(active, n_tokens) &&
                       got.stats.n_nonzero == want.stats.n_nonzero &&
                       got.stats.n_selected == all.stats.n_selected,
                   "%s: %zu active, %zu nonzero", what, (size_t)got.stats.n_active,
                   (size_t)got.stats.n_nonzero);
        result_free(&got);
        sffn_context_destroy(own);
    }

    /* the stages alone: the rule is the gate's, or that of up */
    sffn_active_set *active = expected_set(ctx, &layer.config, s, n_tokens);
    CHECK_OK(ctx, sffn_ffn_gate(ctx, ffn, x, n_tokens, set, s_rule, active));
    if (!is_h || !c->is_gated) {
        CHECK_SAYS(same_sets(active, kept, n_tokens), "%s: survivors of gate", what);
        for (size_t i = 0; i < n_tokens * F; i++)
            s[i] = sffn_active_set_contains(kept, i / F, (uint32_t)(i % F)) ? s[i] : 0;
    }
    CHECK_BITS(s_rule, s, n_tokens * F, "%s: s of gate", what);
    CHECK_OK(ctx, sffn_ffn_up(ctx, ffn, x, s_rule, n_tokens, active, h_rule));
    CHECK_BITS(h_rule, want.h, n_tokens * F, "%s: h of up", what);

    /* rows that are not needed are not read */
    if (n_tokens == 1) {
        for (uint32_t i = 0; i < F; i++) {
            const int is_kept = sffn_active_set_contains(kept, 0, i);
            if (!is_kept && !is_h && c->is_gated)
                layer_poison(&layer, i, PART_UP);
            if (!is_kept && spec.block_size == 1)
                layer_poison(&layer, i, PART_DOWN);
        }
        sffn_ffn *poisoned = layer_create(ctx, &layer);
        struct result got;
        args = result_args(&got, &layer.memory, ctx, &layer, x, n_tokens);
        args.select = c->has_set ? SFFN_SELECT_ACTIVE : SFFN_SELECT_GATE;
        args.active = set;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, poisoned, &args));
        CHECK_BITS(got.y, want.y, D, "%s: y with NaN in the rows that are dropped", what);
        result_free(&got);
        sffn_ffn_destroy(poisoned);
    }
    result_free(&all);
    result_free(&want);
    sffn_active_set_destroy(active);
    sffn_active_set_destroy(kept);
    sffn_active_set_destroy(set);
    sffn_ffn_destroy(plain);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    layer_free(&layer);
}

/* TEAL and Q-Sparse on a linear layer W [D][F]: x decides which rows of the transposed matrix are summed. Against float64. */
static void input_sparsity(void **state)
{
    const int32_t type = *(const int32_t *)*state;
    struct rng rng = rng_named("input sparsity");
    struct spec spec = SPEC_INIT(D, F, type);
    spec.down_layout = SFFN_LAYOUT_COLUMNS; /* W as stored is down as stored */
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    sffn_context *ctx = make_context(3, NULL);
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = F;
    config.n_cols = D;
    config.weights = layer.config.down;
    sffn_matmul *linear = NULL;
    CHECK_OK(ctx, sffn_matmul_create(ctx, &config, &linear));
    float *x = draw_x(&layer.memory, &rng, 1, F, 0);
    for (int32_t kind = SFFN_VALUE_ABOVE; kind <= SFFN_VALUE_STATISTICAL_TOP_K; kind++) {
        sffn_value_rule rule = SFFN_VALUE_RULE_INIT;
        static const uint8_t none[F];
        sffn_active_set *set = make_set(ctx, none, 1, F, 1);
        rule.kind = kind;
        rule.threshold = 0.5f;
        rule.k = kind == SFFN_VALUE_BLOCK_TOP_K ? 3 : F / 3;
        rule.m = 16;
        rule.sparsity = 0.7f;
        CHECK_OK(ctx, sffn_active_set_set_values(set, 0, x, F, &rule));
        double h[F], y[D], y_error[D];
        float got[D];
        for (uint32_t j = 0; j < F; j++)
            h[j] = sffn_active_set_contains(set, 0, j) ? (double)x[j] : 0;
        reference_down(&layer, h, NULL, y, y_error);
        CHECK_OK(ctx, sffn_matmul_rows_axpy(ctx, linear, x, F, 1, set, got, D));
        CHECK(sffn_active_set_count(set, 0) > 0 && sffn_active_set_count(set, 0) < F);
        for (size_t i = 0; i < D; i++)
            CHECK_WITHIN((double)got[i], y[i], y_error[i], "%s, rule %d, y[%zu]",
                         sffn_dtype_name(type), (int)kind, i);
        sffn_active_set_destroy(set);
    }
    sffn_matmul_destroy(linear);
    sffn_context_destroy(ctx);
    layer_free(&layer);
}

static void forward_does_not_allocate(void **state)
{
    (void)state;
    struct rng rng = rng_named("rules allocate");
    struct spec spec = SPEC_INIT(D, F, SFFN_Q8_0);
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    struct test_allocator allocator = TEST_ALLOCATOR_INIT;
    sffn_status status;
    sffn_context *ctx = allocator_context(&allocator, 2, &status);
    CHECK_OK(NULL, status);
    float *x = draw_x(&layer.memory, &rng, TOKENS, D, 0);
    static float y[TOKENS * D];
    for (int32_t rule = SFFN_RULE_TOP_K_SCORE; rule <= SFFN_RULE_STATISTICAL_H; rule++) {
        layer.config.rule = rule;
        layer.config.rule_k = 7;
        layer.config.rule_m = 65;
        layer.config.rule_sparsity = 0.5f;
        sffn_ffn *ffn = layer_create(ctx, &layer);
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = x;
        args.y = y;
        args.n_tokens = TOKENS;
        const size_t before = allocator.n_calls;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        CHECK(allocator.n_calls == before);
        sffn_ffn_destroy(ffn);
    }
    sffn_context_destroy(ctx);
    CHECK(allocator.live_blocks == 0 && allocator.n_wrong == 0);
    layer_free(&layer);
}

/* NaN is the largest of all, so it is kept and reaches y. */
static void nan_is_kept(void **state)
{
    (void)state;
    struct rng rng = rng_named("rules nan");
    struct spec spec = SPEC_INIT(D, F, SFFN_F32);
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    layer_poison(&layer, 200, PART_GATE);
    sffn_context *ctx = make_context(2, NULL);
    float *x = draw_x(&layer.memory, &rng, 1, D, 0);
    for (int32_t rule = SFFN_RULE_TOP_K_SCORE; rule <= SFFN_RULE_STATISTICAL_H; rule++) {
        layer.config.rule = rule;
        layer.config.rule_k = 1;
        layer.config.rule_m = F;
        layer.config.rule_sparsity = 0.99f;
        sffn_ffn *ffn = layer_create(ctx, &layer);
        struct result got;
        sffn_ffn_args args = result_args(&got, &layer.memory, ctx, &layer, x, 1);
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        CHECK(isnan(got.y[0]) && isnan(got.h[200]) && sffn_active_set_contains(got.active, 0, 200));
        CHECK(rule >= SFFN_RULE_STATISTICAL_SCORE || got.stats.n_nonzero == 1);
        result_free(&got);
        sffn_ffn_destroy(ffn);
    }
    sffn_context_destroy(ctx);
    layer_free(&layer);
}

int main(void)
{
    struct cases cases = {0};
    static const int32_t types[] = {SFFN_F32, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
    for (int32_t rule = SFFN_RULE_TOP_K_SCORE; rule <= SFFN_RULE_STATISTICAL_H; rule++)
        for (size_t t = 0; t < 4; t++)
            for (int bits = 0; bits < 8; bits++) {
                const struct combination c = {types[t], rule,
                                              bits & 1 ? SFFN_ACT_SILU : SFFN_ACT_RELU, !(bits & 2),
                                              bits >> 2};
                cases_add(&cases, forward, cases_keep(&cases, &c, sizeof c), "rule %d %s %d",
                          (int)rule, sffn_dtype_name(types[t]), bits);
            }
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        cases_add(&cases, input_sparsity, cases_keep(&cases, &type, sizeof type),
                  "input sparsity %s", sffn_dtype_name(type));
    CASE(&cases, forward_does_not_allocate);
    CASE(&cases, nan_is_kept);
    return cases_run(&cases, "rules");
}
