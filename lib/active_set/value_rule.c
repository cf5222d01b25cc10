/* value_rule.c  Sets from the values themselves: thresholds, top-k, k of every m, and the Gaussian estimate of top-k. */
#include "active_set/value_rule.h"

#include "active_set/active_set.h"
#include "base/context.h"

sffn_status sffn_value_rule_check(const sffn_context *ctx, const char *what,
                                  const sffn_value_rule *rule, size_t n)
{
    const int is_threshold = rule->kind == SFFN_VALUE_ABOVE || rule->kind == SFFN_VALUE_ABS_ABOVE;
    if (rule->kind < 0 || rule->kind > SFFN_VALUE_STATISTICAL_TOP_K)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%skind is %d; expected a value of enum sffn_value_rule_kind", what,
                         (int)rule->kind);
    if (rule->tie != SFFN_TIE_DROP && rule->tie != SFFN_TIE_KEEP)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%stie is %d; expected 0..1", what,
                         (int)rule->tie);
    if (is_threshold && isnan(rule->threshold))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%sthreshold is NaN", what);
    if (rule->kind == SFFN_VALUE_ABS_ABOVE && rule->threshold < 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%sthreshold is %g; a magnitude rule expects >= 0", what,
                         (double)rule->threshold);
    for (size_t i = 0; is_threshold && rule->thresholds && i < n; i++)
        if (isnan(rule->thresholds[i]))
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%sthresholds[%zu] is NaN", what, i);
    if (rule->kind == SFFN_VALUE_BLOCK_TOP_K && (rule->m == 0 || rule->k > rule->m))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%sk is %u, %sm %u; expected k of every m values, k <= m and m > 0", what,
                         (unsigned)rule->k, what, (unsigned)rule->m);
    if (rule->kind == SFFN_VALUE_STATISTICAL_TOP_K && !(rule->sparsity > 0 && rule->sparsity < 1))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%ssparsity is %g; expected a number in (0, 1)", what,
                         (double)rule->sparsity);
    return SFFN_OK;
}

/* Acklam's rational approximation for the lower half, then one step of Halley's method against erfc: full precision. */
static double lower_quantile(double p)
{
    static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,
                               -2.759285104469687e+02, 1.383577518672690e+02,
                               -3.066479806614716e+01, 2.506628277459239e+00};
    static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02,
                               -1.556989798598866e+02, 6.680131188771972e+01,
                               -1.328068155288572e+01};
    static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01,
                               -2.400758277161838e+00, -2.549732539343734e+00,
                               4.374664141464968e+00,  2.938163982698783e+00};
    static const double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                               3.754408661907416e+00};
    double x;
    if (p < 0.02425) {
        const double q = sqrt(-2 * log(p));
        x = (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
            ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
    } else {
        const double q = p - 0.5, r = q * q;
        x = (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
            (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
    }
    const double error = 0.5 * erfc(-x * 0.70710678118654752) - p;
    const double step = error * 2.5066282746310005 * exp(x * x / 2);
    return x - step / (1 + x * step / 2);
}

double sffn_normal_quantile(double p)
{
    if (!(p >= 0 && p <= 1))
        return NAN;
    if (p == 0 || p == 1)
        return p == 0 ? -INFINITY : INFINITY;
    return p <= 0.5 ? lower_quantile(p) : -lower_quantile(1 - p); /* 1 - p is exact here */
}

/* mean + std * Phi^-1(sparsity), in one pass; NaN when a value is not finite. */
static float gaussian_threshold(const float *v, size_t n, double sparsity)
{
    /* Distances from the first value: their squares don't drown in a large mean. */
    const double origin = (double)v[0];
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)v[i] - origin;
        sum += d;
        squares += d * d;
    }
    const double mean = sum / (double)n, variance = squares / (double)n - mean * mean;
    return (float)(origin + mean +
                   sqrt(variance < 0 ? 0 : variance) * sffn_normal_quantile(sparsity));
}

struct sffn_cut sffn_value_rule_cut(const sffn_value_rule *rule, const float *v, size_t first,
                                    size_t n, uint32_t *counts, uint32_t *keys)
{
    if (rule->kind != SFFN_VALUE_STATISTICAL_TOP_K)
        return sffn_top_k(v + first, first, n, rule->k, 1, counts, keys);
    const float t = gaussian_threshold(v + first, n, (double)rule->sparsity);
    const struct sffn_cut all = {0, UINT32_MAX};
    const struct sffn_cut above = {sffn_float_key(t), rule->tie == SFFN_TIE_KEEP ? UINT32_MAX : 0};
    return isnan(t) ? all : above;
}

sffn_status sffn_active_set_set_values(sffn_active_set *set, size_t token, const float *values,
                                       size_t n, const sffn_value_rule *public_rule)
{
    sffn_value_rule rule = SFFN_VALUE_RULE_INIT;
    sffn_status status = sffn_active_set_check_token(set, token, values, "values");
    if (status != SFFN_OK)
        return status;
    const sffn_context *ctx = sffn_active_set_context(set);
    if (n != sffn_active_set_n_blocks(set))
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "n is %zu; the set has %u blocks", n,
                         (unsigned)sffn_active_set_n_blocks(set));
    status = sffn_config_copy(ctx, "sffn_value_rule", &rule, sizeof(rule), public_rule);
    if (status == SFFN_OK)
        status = sffn_value_rule_check(ctx, "rule.", &rule, n);
    if (status != SFFN_OK)
        return status;
    uint32_t *indices = sffn_active_set_begin(set, token);
    size_t n_kept = 0;
    if (sffn_value_rule_needs_all(&rule)) {
        uint32_t counts[SFFN_TOP_K_COUNTS];
        const size_t stretch = sffn_value_rule_stretch(&rule, n);
        for (size_t first = 0; first < n; first += stretch) {
            const size_t size = n - first < stretch ? n - first : stretch;
            /* The room for this stretch's indices serves as scratch until they are written: no more can have been kept than came before. */
            const struct sffn_cut cut =
                sffn_value_rule_cut(&rule, values, first, size, counts, indices + first);
            for (size_t i = first; i < first + size; i++)
                if (sffn_value_rule_keeps(&rule, cut, i, values[i]))
                    indices[n_kept++] = (uint32_t)i;
        }
    } else if (!rule.thresholds) {
        n_kept = sffn_context_kernels(ctx)->threshold.fn(indices, values, 0, n, rule.threshold,
                                                         rule.tie == SFFN_TIE_KEEP,
                                                         rule.kind == SFFN_VALUE_ABS_ABOVE);
    } else {
        for (size_t i = 0; i < n; i++)
            if (sffn_value_passes(&rule, i, values[i]))
                indices[n_kept++] = (uint32_t)i;
    }
    sffn_active_set_commit(set, token, n_kept);
    return SFFN_OK;
}
