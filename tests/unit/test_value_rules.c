/* sffn_active_set_set_values(), with the toy cases 14.2, 14.10, 14.11 and 14.16 of methods.md, and
 * against a sort. */
#include <math.h>

#include "allocator.h"
#include "check.h"

static sffn_context *ctx;

static sffn_active_set *make(uint32_t n)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    config.n_blocks = n;
    config.max_tokens = 2;
    sffn_active_set *set = NULL;
    CHECK_OK(ctx, sffn_active_set_create(ctx, &config, &set));
    CHECK_OK(ctx, sffn_active_set_clear(set, 2));
    return set;
}

static sffn_value_rule rule_of(int32_t kind)
{
    sffn_value_rule rule = SFFN_VALUE_RULE_INIT;
    rule.kind = kind;
    return rule;
}

/* The neurons that a rule keeps of at most 32 values, as bits. */
static unsigned kept_bits(const float *v, uint32_t n, const sffn_value_rule *rule)
{
    sffn_active_set *set = make(n);
    unsigned bits = 0;
    CHECK_OK(ctx, sffn_active_set_set_values(set, 1, v, n, rule));
    for (uint32_t i = 0; i < n; i++)
        bits |= (unsigned)sffn_active_set_contains(set, 1, i) << i;
    CHECK(sffn_active_set_count(set, 0) == 0);
    sffn_active_set_destroy(set);
    return bits;
}

static void errors_leave_the_set(void **state)
{
    (void)state;
    static const float v[3] = {1, 2, 3}, bad[3] = {0, NAN, 0};
    static const uint32_t one[1] = {1};
    sffn_active_set *set = make(3);
    CHECK_OK(ctx, sffn_active_set_set_indices(set, 0, one, 1));
    static const struct {
        sffn_value_rule rule;
        const char *words;
    } table[] = {
        {{sizeof(sffn_value_rule), -1, 0, 0, NULL, 0, 0, 0}, "rule.kind -1"},
        {{sizeof(sffn_value_rule), 5, 0, 0, NULL, 0, 0, 0}, "rule.kind 5"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_ABOVE, 2, 0, NULL, 0, 0, 0}, "rule.tie 2"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_ABOVE, 0, NAN, NULL, 0, 0, 0}, "rule.threshold NaN"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_ABS_ABOVE, 0, -1, NULL, 0, 0, 0},
         "rule.threshold -1 >= 0"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_ABOVE, 0, 0, bad, 0, 0, 0}, "rule.thresholds[1] NaN"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_BLOCK_TOP_K, 0, 0, NULL, 1, 0, 0}, "rule.m 0"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_BLOCK_TOP_K, 0, 0, NULL, 5, 4, 0},
         "rule.k 5 rule.m 4"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_STATISTICAL_TOP_K, 0, 0, NULL, 0, 0, 0},
         "rule.sparsity 0 (0, 1)"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_STATISTICAL_TOP_K, 0, 0, NULL, 0, 0, 1},
         "rule.sparsity 1"},
        {{sizeof(sffn_value_rule), SFFN_VALUE_STATISTICAL_TOP_K, 0, 0, NULL, 0, 0, NAN},
         "rule.sparsity nan"},
        {{0, 0, 0, 0, NULL, 0, 0, 0}, "sffn_value_rule.struct_size 0"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        CHECK_ERROR(ctx, sffn_active_set_set_values(set, 0, v, 3, &table[i].rule),
                    SFFN_ERR_INVALID_ARGUMENT, table[i].words);
    sffn_value_rule rule = rule_of(SFFN_VALUE_ABOVE);
    CHECK_ERROR(ctx, sffn_active_set_set_values(set, 0, NULL, 3, &rule), SFFN_ERR_INVALID_ARGUMENT,
                "values NULL");
    CHECK_ERROR(ctx, sffn_active_set_set_values(set, 2, v, 3, &rule), SFFN_ERR_INVALID_ARGUMENT,
                "token 2");
    CHECK_ERROR(ctx, sffn_active_set_set_values(set, 0, v, 4, &rule), SFFN_ERR_SHAPE, "n 4 3");
    CHECK_ERROR(ctx, sffn_active_set_set_values(set, 0, v, 3, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "sffn_value_rule NULL");
    CHECK(sffn_active_set_set_values(NULL, 0, v, 3, &rule) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_count(set, 0) == 1 && sffn_active_set_contains(set, 0, 1));
    sffn_active_set_destroy(set);
}

/* 14.2 on values: 0.01 is a tie. */
static void toy_14_2_ties(void **state)
{
    (void)state;
    static const float v[] = {-1.0f, 0.0f, 0.005f, 0.01f, 0.02f, -0.01f, -0.02f};
    static const float thresholds[] = {0.01f, 0.01f, 0.01f, 0.01f, 0.01f, 0.01f, 0.01f};
    static const unsigned want[2][2] = {{0x10, 0x18}, {0x51, 0x79}};
    for (int32_t kind = SFFN_VALUE_ABOVE; kind <= SFFN_VALUE_ABS_ABOVE; kind++)
        for (int32_t tie = SFFN_TIE_DROP; tie <= SFFN_TIE_KEEP; tie++) {
            sffn_value_rule rule = rule_of(kind);
            rule.tie = tie;
            rule.threshold = 0.01f;
            CHECK(kept_bits(v, 7, &rule) == want[kind][tie]);
            rule.threshold = 5; /* not looked at */
            rule.thresholds = thresholds;
            CHECK(kept_bits(v, 7, &rule) == want[kind][tie]);
        }
}

/* 14.10: t_i = eps / ||W_down column i||. */
static void toy_14_10_per_neuron_threshold(void **state)
{
    (void)state;
    static const float h[] = {0.5f, -0.5f, 1.0f}, t[] = {0.6f, 0.3f, 1.2f};
    sffn_value_rule rule = rule_of(SFFN_VALUE_ABS_ABOVE);
    rule.thresholds = t;
    CHECK(kept_bits(h, 3, &rule) == 2u);
}

static double kept_norm(const float *v, uint32_t n, unsigned bits)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += bits >> i & 1 ? (double)v[i] * (double)v[i] : 0;
    return sqrt(sum);
}

static void toy_14_11_top_k(void **state)
{
    (void)state;
    static const float v[] = {1, -3, 2, 0.5f, -0.2f, 0.1f, 0.3f, -4}, tie[] = {2, -2, 2};
    sffn_value_rule rule = rule_of(SFFN_VALUE_TOP_K);
    rule.k = 4;
    CHECK(kept_bits(v, 8, &rule) == 0x87u);
    CHECK_WITHIN(kept_norm(v, 8, 0x87u), 5.4772256, 1e-6, "top 4");
    rule.k = 2;
    CHECK(kept_bits(tie, 3, &rule) == 3u);
    rule.k = 0;
    CHECK(kept_bits(v, 8, &rule) == 0u);
    for (rule.k = 8; rule.k <= 9; rule.k++)
        CHECK(kept_bits(v, 8, &rule) == 0xFFu);
    rule = rule_of(SFFN_VALUE_BLOCK_TOP_K);
    rule.k = 2;
    rule.m = 4;
    CHECK(kept_bits(v, 8, &rule) == 0xC6u);
    CHECK_WITHIN(kept_norm(v, 8, 0xC6u), 5.3935146, 1e-6, "2 of 4");
    CHECK(kept_bits(v, 7, &rule) == 0x56u); /* of the last three, -0.2 and 0.3 */
    CHECK(kept_bits(v, 5, &rule) == 0x16u); /* of the last one, itself */
    rule.k = 0;
    CHECK(kept_bits(v, 8, &rule) == 0u);
}

static void toy_14_11_statistical(void **state)
{
    (void)state;
    static const double table[][2] = {
        {0.5, 0}, {0.8, 0.8416212}, {0.9, 1.2815516}, {0.95, 1.6448536}};
    for (size_t i = 0; i < 4; i++)
        CHECK_WITHIN(sffn_normal_quantile(table[i][0]), table[i][1], 5e-8, "p %g", table[i][0]);
    /* mean 10, population std 2: the threshold is 10 + 2 * 0.8416212 = 11.683 */
    static const float v[] = {8, 12, 8, 12, 8, 12, 8, 12};
    sffn_value_rule rule = rule_of(SFFN_VALUE_STATISTICAL_TOP_K);
    rule.sparsity = 0.8f;
    CHECK(kept_bits(v, 8, &rule) == 0xAAu);
    rule.sparsity = 0.85f; /* 12.07 */
    CHECK(kept_bits(v, 8, &rule) == 0u);
    /* signs count; at sparsity 0.5 the threshold is the mean, and every value ties when all are equal */
    static const float w[] = {-3, -1, 1, 3}, same[] = {7, 7, 7};
    rule.sparsity = 0.5f;
    CHECK(kept_bits(w, 4, &rule) == 0xCu);
    CHECK(kept_bits(same, 3, &rule) == 0u);
    rule.tie = SFFN_TIE_KEEP;
    CHECK(kept_bits(same, 3, &rule) == 7u);
    /* no threshold can be told: nothing is hidden */
    static const float odd[] = {1, NAN, 3}, infinite[] = {1, INFINITY, 3};
    CHECK(kept_bits(odd, 3, &rule) == 7u);
    CHECK(kept_bits(infinite, 3, &rule) == 7u);
    /* a standard normal loses the share asked for, within five standard deviations */
    enum { n = 100000 };
    struct rng rng = rng_named("statistical");
    float *normal = malloc(n * sizeof *normal);
    CHECK(normal != NULL);
    for (size_t i = 0; i < n; i++)
        normal[i] = 100 + 3 * rng_normal(&rng);
    sffn_active_set *set = make(n);
    for (size_t i = 0; i < 4; i++) {
        const double p = table[i][0];
        rule.sparsity = (float)p;
        CHECK_OK(ctx, sffn_active_set_set_values(set, 0, normal, n, &rule));
        CHECK_WITHIN((double)sffn_active_set_count(set, 0) / n, 1 - p, 5 * sqrt(p * (1 - p) / n),
                     "sparsity %g", p);
    }
    sffn_active_set_destroy(set);
    free(normal);
}

static void quantiles(void **state)
{
    (void)state;
    CHECK(sffn_normal_quantile(0) == -INFINITY && sffn_normal_quantile(1) == INFINITY);
    CHECK(isnan(sffn_normal_quantile(-0.1)) && isnan(sffn_normal_quantile(1.1)) &&
          isnan(sffn_normal_quantile(NAN)));
    CHECK(sffn_normal_quantile(0.5) == 0);
    for (double p = 1e-300; p < 0.5; p = p < 1e-3 ? p * 10 : p + 0.01) {
        const double x = sffn_normal_quantile(p), back = 0.5 * erfc(-x / sqrt(2.0));
        /* erfc and exp are good to a few units in the last place, magnified by x^2 in its argument */
        CHECK_WITHIN(back / p, 1, 1e-15 * (20 + 4 * x * x), "p %g", p);
        if (p > 1e-3)
            CHECK_WITHIN(sffn_normal_quantile(1 - p), -x, 1e-12, "1 - %g", p);
    }
}

static void toy_14_16_quantile_thresholds(void **state)
{
    (void)state;
    static const double teal[][2] = {
        {0.25, 0.3186394}, {0.4, 0.5244005}, {0.5, 0.6744898}, {0.9, 1.6448536}};
    for (size_t i = 0; i < 4; i++)
        CHECK_WITHIN(sffn_normal_quantile(0.5 + teal[i][0] / 2), teal[i][1], 5e-8, "TEAL %g",
                     teal[i][0]);
    static const float s[] = {0.4f, 0.3f, 0.1f}, chess[] = {0.5f, 0.25f, 0.125f};
    sffn_value_rule rule = rule_of(SFFN_VALUE_ABS_ABOVE);
    rule.tie = SFFN_TIE_KEEP;
    rule.thresholds = chess;
    CHECK(kept_bits(s, 3, &rule) == 2u);
    rule = rule_of(SFFN_VALUE_ABS_ABOVE);
    rule.threshold = 0.25f;
    CHECK(kept_bits(s, 3, &rule) == 3u);
}

static void nan_is_seen(void **state)
{
    (void)state;
    static const float v[] = {1, NAN, 3, -INFINITY, -NAN, 2};
    sffn_value_rule rule = rule_of(SFFN_VALUE_ABOVE);
    rule.threshold = 2;
    CHECK(kept_bits(v, 6, &rule) == 0x16u);
    rule.kind = SFFN_VALUE_ABS_ABOVE;
    CHECK(kept_bits(v, 6, &rule) == 0x1Eu);
    rule = rule_of(SFFN_VALUE_TOP_K);
    rule.k = 1; /* NaN first, whatever its sign; then infinity */
    CHECK(kept_bits(v, 6, &rule) == 0x02u);
    rule.k = 3;
    CHECK(kept_bits(v, 6, &rule) == 0x1Au);
    rule = rule_of(SFFN_VALUE_BLOCK_TOP_K);
    rule.k = 1;
    rule.m = 3;
    CHECK(kept_bits(v, 6, &rule) == 0x12u);
}

/* ---- against a sort ---- */

static const float *compared;

static int larger_first(const void *a, const void *b)
{
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    const float x = fabsf(compared[i]), y = fabsf(compared[j]);
    if (isnan(x) != isnan(y))
        return isnan(x) ? -1 : 1;
    if (!isnan(x) && x != y)
        return x > y ? -1 : 1;
    return i < j ? -1 : 1;
}

static void agrees_with_a_sort(void **state)
{
    (void)state;
    struct rng rng = rng_named("sort");
    static const uint32_t sizes[] = {1, 2, 7, 255, 256, 257, 1000, 11008};
    static float v[11008];
    static uint32_t order[11008];
    static uint8_t want[11008];
    for (int round = 0; round < 160; round++) {
        const uint32_t n = sizes[round % 8], how = rng_below(&rng, 5);
        for (uint32_t i = 0; i < n; i++) {
            v[i] = rng_normal(&rng);
            if (how == 1) /* few different values, zeros of both signs */
                v[i] = (float)(int)(v[i] * 2) * (rng_below(&rng, 2) ? 1.0f : -1.0f);
            if (how == 2 && rng_below(&rng, 3) == 0)
                v[i] = rng_below(&rng, 2) ? NAN : -INFINITY;
            if (how == 3) /* all in one bucket of the first digit, and denormals */
                v[i] = 1.0f + v[i] * 0x1p-22f;
            if (how == 4)
                v[i] *= 0x1p-140f;
        }
        sffn_active_set *set = make(n);
        sffn_value_rule rule = rule_of(SFFN_VALUE_TOP_K);
        for (int step = 0; step < 8; step++) {
            rule.kind = step % 2 ? SFFN_VALUE_BLOCK_TOP_K : SFFN_VALUE_TOP_K;
            rule.m = step % 2 ? 1 + rng_below(&rng, step == 1 ? 8 : n) : n;
            rule.k = rng_below(&rng, rule.m + 1);
            memset(want, 0, sizeof want);
            for (uint32_t first = 0; first < n; first += rule.m) {
                const uint32_t size = n - first < rule.m ? n - first : rule.m;
                for (uint32_t i = 0; i < size; i++)
                    order[i] = first + i;
                compared = v;
                qsort(order, size, sizeof *order, larger_first);
                for (uint32_t i = 0; i < size && i < rule.k; i++)
                    want[order[i]] = 1;
            }
            CHECK_OK(ctx, sffn_active_set_set_values(set, 0, v, n, &rule));
            size_t n_wrong = 0, n_listed = 0;
            for (uint32_t i = 0; i < n; i++) {
                n_wrong += sffn_active_set_contains(set, 0, i) != want[i];
                n_listed += want[i];
            }
            const uint32_t *listed = sffn_active_set_indices(set, 0);
            for (size_t i = 0; i < sffn_active_set_count(set, 0); i++)
                n_wrong += !want[listed[i]] || (i && listed[i - 1] >= listed[i]);
            CHECK_SAYS(n_wrong == 0 && n_listed == sffn_active_set_count(set, 0),
                       "round %d: n %u, k %u of %u, values %u: %zu wrong", round, (unsigned)n,
                       (unsigned)rule.k, (unsigned)rule.m, (unsigned)how, n_wrong);
        }
        sffn_active_set_destroy(set);
    }
}

static void never_allocates(void **state)
{
    (void)state;
    struct test_allocator allocator = TEST_ALLOCATOR_INIT;
    sffn_status status;
    sffn_context *own = allocator_context(&allocator, 1, &status);
    CHECK_OK(NULL, status);
    sffn_active_set_config set_config = SFFN_ACTIVE_SET_CONFIG_INIT;
    set_config.n_blocks = 1000;
    sffn_active_set *set = NULL;
    CHECK_OK(own, sffn_active_set_create(own, &set_config, &set));
    CHECK_OK(own, sffn_active_set_clear(set, 1));
    static float v[1000];
    struct rng rng = rng_named("allocates");
    for (size_t i = 0; i < 1000; i++)
        v[i] = rng_normal(&rng);
    const size_t before = allocator.n_calls;
    for (int32_t kind = 0; kind <= SFFN_VALUE_STATISTICAL_TOP_K; kind++) {
        sffn_value_rule rule = rule_of(kind);
        rule.k = 300;
        rule.m = 400;
        rule.sparsity = 0.5f;
        CHECK_OK(own, sffn_active_set_set_values(set, 0, v, 1000, &rule));
        CHECK(sffn_active_set_count(set, 0) > 0);
    }
    CHECK(allocator.n_calls == before);
    sffn_active_set_destroy(set);
    sffn_context_destroy(own);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, errors_leave_the_set);
    CASE(&cases, toy_14_2_ties);
    CASE(&cases, toy_14_10_per_neuron_threshold);
    CASE(&cases, toy_14_11_top_k);
    CASE(&cases, toy_14_11_statistical);
    CASE(&cases, quantiles);
    CASE(&cases, toy_14_16_quantile_thresholds);
    CASE(&cases, nan_is_seen);
    CASE(&cases, agrees_with_a_sort);
    CASE(&cases, never_allocates);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "value_rules");
    sffn_context_destroy(ctx);
    return failed;
}
