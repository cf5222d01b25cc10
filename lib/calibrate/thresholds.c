/* thresholds.c  Which T meets a target, and what a T does to the layer. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/context.h"
#include "base/fp16.h"
#include "calibrate/calibration.h"
#include "matmul/linalg.h"

/* ---- values and limits ---- */

static int has_zeros(int32_t activation)
{
    return activation != SFFN_ACT_SILU && activation != SFFN_ACT_GELU_ERF &&
           activation != SFFN_ACT_GELU_TANH;
}

static sffn_status check_kind(const sffn_context *ctx, const struct sffn_calibration *c,
                              int32_t kind)
{
    if (kind < SFFN_ACTIVE_SCORE || kind > SFFN_ACTIVE_INPUT)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: kind is %d; expected a value of enum sffn_active_kind", c->ffn->name,
                         (int)kind);
    if (kind == SFFN_ACTIVE_GATE && !has_zeros(c->ffn->activation))
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: the gate of %s does not decide what is zero: use SFFN_ACTIVE_SCORE",
                         c->ffn->name, sffn_activation_name(c->ffn->activation));
    return SFFN_OK;
}

sffn_status sffn_activity_check(const sffn_context *ctx, const struct sffn_calibration *c,
                                const sffn_activity *a)
{
    if (!a)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: activity is NULL", c->ffn->name);
    const sffn_status status = check_kind(ctx, c, a->kind);
    if (status != SFFN_OK)
        return status;
    if (a->tie != SFFN_TIE_DROP && a->tie != SFFN_TIE_KEEP)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: tie is %d; expected a value of enum sffn_tie", c->ffn->name,
                         (int)a->tie);
    if (!(a->threshold >= 0))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: threshold is %g; expected >= 0",
                         c->ffn->name, (double)a->threshold);
    if (a->thresholds && a->kind == SFFN_ACTIVE_INPUT)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: thresholds is set; SFFN_ACTIVE_INPUT has one for all elements",
                         c->ffn->name);
    for (uint32_t i = 0; a->thresholds && i < c->ffn->d_ff; i++)
        if (!(a->thresholds[i] >= 0))
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "%s: thresholds[%u] is %g; expected >= 0", c->ffn->name, (unsigned)i,
                             (double)a->thresholds[i]);
    return SFFN_OK;
}

/* c_i of enum sffn_active_kind. */
static float scale_of(const struct sffn_calibration *c, int32_t kind, uint32_t neuron)
{
    return kind == SFFN_ACTIVE_CONTRIBUTION ? c->down_norm[neuron]
           : kind == SFFN_ACTIVE_CHESS      ? c->mean_u[neuron]
                                            : 1.0f;
}

static float limit_of(const struct sffn_calibration *c, int32_t kind, float threshold,
                      uint32_t neuron)
{
    if (threshold == 0)
        return 0;
    const float limit = threshold / scale_of(c, kind, neuron);
    return limit < FLT_MAX ? limit : FLT_MAX;
}

float sffn_activity_limit(const struct sffn_calibration *c, const sffn_activity *a, uint32_t neuron)
{
    return a->thresholds ? a->thresholds[neuron] : limit_of(c, a->kind, a->threshold, neuron);
}

float sffn_activity_value(const struct sffn_calibration *c, int32_t kind, float g, float h)
{
    switch (kind) {
    case SFFN_ACTIVE_H:
    case SFFN_ACTIVE_CONTRIBUTION:
        return fabsf(h);
    case SFFN_ACTIVE_GATE:
        return g > 0 ? g : 0;
    default:
        return fabsf(sffn_activate_one(c->ffn, g));
    }
}

static float value_at(const struct sffn_calibration *c, int32_t kind, size_t token, uint32_t neuron)
{
    const size_t at = token * c->ffn->d_ff + neuron;
    return sffn_activity_value(c, kind, c->g[at], c->h[at]);
}

/* ---- measuring ---- */

struct passes_arg {
    const struct sffn_calibration *c;
    const sffn_activity *activity;
};

static uint32_t passes_level(const void *arg, size_t token, uint32_t neuron)
{
    const struct passes_arg *p = arg;
    const float value = value_at(p->c, p->activity->kind, token, neuron);
    return (uint32_t)sffn_activity_passes(value, sffn_activity_limit(p->c, p->activity, neuron),
                                          p->activity->tie);
}

static sffn_status measure_neurons(sffn_context *ctx, const struct sffn_calibration *c,
                                   const sffn_activity *activity, sffn_measured *m)
{
    const struct passes_arg arg = {c, activity};
    const size_t bytes = c->n_eval * (sizeof(double) + sizeof(uint32_t));
    double *error = sffn_mem_alloc(ctx, bytes);
    if (!error)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the allocator returned NULL",
                         c->ffn->name);
    const struct sffn_drop drop = {1, passes_level, &arg, error, (uint32_t *)(error + c->n_eval)};
    const sffn_status status = sffn_calibration_drop(ctx, c, &drop);
    if (status == SFFN_OK)
        sffn_calibration_summary(c, &drop, 0, m);
    sffn_mem_free(ctx, error, bytes);
    return status;
}

/* The layer itself on the thresholded x, a few tokens at a time. */
static sffn_status measure_input(sffn_context *ctx, const struct sffn_calibration *c,
                                 const sffn_activity *a, sffn_measured *m)
{
    enum { TOKENS = 32 };
    const size_t d = c->ffn->d_model, f = c->ffn->d_ff;
    const size_t bytes = TOKENS * (2 * d + 2 * f) * sizeof(float);
    double errors = 0, sizes = 0;
    uint64_t n_kept = 0;
    float *x = sffn_mem_alloc(ctx, bytes);
    if (!x)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the allocator returned NULL",
                         c->ffn->name);
    float *y = x + TOKENS * d, *g = y + TOKENS * d, *h = g + TOKENS * f;
    sffn_status status = SFFN_OK;
    m->cett = m->max_cett = 0;
    for (size_t t0 = 0; t0 < c->n_eval && status == SFFN_OK; t0 += TOKENS) {
        const size_t n = c->n_eval - t0 < TOKENS ? c->n_eval - t0 : TOKENS;
        for (size_t i = 0; i < n * d; i++) {
            const float v = c->eval_x[t0 * d + i];
            const int passes = sffn_activity_passes(fabsf(v), a->threshold, a->tie);
            x[i] = passes ? v : 0;
            n_kept += (uint64_t)passes;
        }
        status = sffn_calibration_products(ctx, c, x, n, g, h, NULL);
        if (status == SFFN_OK)
            status = sffn_matmul_rows_axpy(ctx, &c->ffn->down, h, f, n, NULL, y, d);
        for (size_t t = 0; t < n && status == SFFN_OK; t++) {
            double error = 0, size = 0;
            for (size_t j = 0; j < d; j++) {
                const double want = (double)c->y[(t0 + t) * d + j];
                const double bias = c->ffn->down_bias ? (double)c->ffn->down_bias[j] : 0;
                error += (y[t * d + j] - want) * (y[t * d + j] - want);
                size += want * want;
                sizes += (want + bias) * (want + bias);
            }
            const double cett = size > 0 ? sqrt(error / size) : 0;
            errors += error;
            m->cett += cett / c->n_eval;
            m->max_cett = cett > m->max_cett ? cett : m->max_cett;
        }
    }
    sffn_mem_free(ctx, x, bytes);
    m->n_tokens = c->n_eval;
    m->density = (double)n_kept / ((double)c->n_eval * d);
    m->relative_error = sizes > 0 ? sqrt(errors / sizes) : 0;
    return status;
}

static sffn_status measure(sffn_context *ctx, const struct sffn_calibration *c,
                           const sffn_activity *a, sffn_measured *m)
{
    return a->kind == SFFN_ACTIVE_INPUT ? measure_input(ctx, c, a, m)
                                        : measure_neurons(ctx, c, a, m);
}

sffn_status sffn_calibration_measure(sffn_context *ctx, sffn_calibration *c,
                                     const sffn_activity *activity, sffn_measured *measured)
{
    if (!ctx || !c)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "calibration" : "ctx");
    sffn_measured m = SFFN_MEASURED_INIT;
    sffn_status status = sffn_activity_check(ctx, c, activity);
    if (status == SFFN_OK)
        status = sffn_calibration_evaluate(ctx, c);
    if (status == SFFN_OK)
        status = measure(ctx, c, activity, &m);
    return status == SFFN_OK ? sffn_info_copy(ctx, "sffn_measured", measured, &m, sizeof(m))
                             : status;
}

/* ---- a target density: selection ---- */

/* Floats in the order of their bits, negative ones below. */
static uint32_t ordered(float v)
{
    const uint32_t bits = sffn_f32_bits(v);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

float sffn_select_largest(const float *v, size_t n, size_t k, size_t *counts)
{
    uint32_t high = 0, key = 0;
    for (int part = 0; part < 2;
         part++) { /* the upper halves decide the bin, the lower ones the number */
        memset(counts, 0, SFFN_SELECT_COUNTS * sizeof(*counts));
        for (size_t i = 0; i < n; i++) {
            const uint32_t o = ordered(v[i]);
            if (part == 0)
                counts[o >> 16]++;
            else if (o >> 16 == high)
                counts[o & 0xffffu]++;
        }
        uint32_t bin = SFFN_SELECT_COUNTS - 1;
        for (; counts[bin] <= k; bin--)
            k -= counts[bin];
        if (part == 0)
            high = bin;
        key = high << 16 | bin;
    }
    return sffn_f32_from_bits(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* The numbers that T is compared with: value times scale. */
static size_t collect(const struct sffn_calibration *c, int32_t kind, float *v)
{
    const size_t d = c->ffn->d_model, f = c->ffn->d_ff;
    size_t n = 0;
    if (kind == SFFN_ACTIVE_INPUT) {
        for (; n < c->n_eval * d; n++)
            v[n] = fabsf(c->eval_x[n]);
        return n;
    }
    for (size_t t = 0; t < c->n_eval; t++)
        for (uint32_t i = 0; i < f; i++)
            v[n++] = value_at(c, kind, t, i) * scale_of(c, kind, i);
    return n;
}

static float for_density(const struct sffn_calibration *c, int32_t kind, int32_t tie,
                         double density, float *v, size_t *counts)
{
    const size_t n = collect(c, kind, v);
    const size_t k = (size_t)(density * (double)n);
    if (k >= n)
        return 0;
    if (tie == SFFN_TIE_DROP)
        return sffn_select_largest(v, n, k, counts);
    return k > 0 ? sffn_select_largest(v, n, k - 1, counts)
                 : nextafterf(sffn_select_largest(v, n, 0, counts), INFINITY);
}

/* ---- a target CETT: search among the floats ---- */

#define LEVELS 32

struct search {
    const struct sffn_calibration *c;
    int32_t kind, tie;
    float *limits; /* [d_ff][LEVELS], ascending */
};

static uint32_t search_level(const void *arg, size_t token, uint32_t neuron)
{
    const struct search *s = arg;
    const float value = value_at(s->c, s->kind, token, neuron),
                *limits = s->limits + neuron * LEVELS;
    uint32_t first = 0, last = LEVELS; /* dropped at the levels from `first` on */
    while (first < last) {
        const uint32_t middle = (first + last) / 2;
        if (sffn_activity_passes(value, limits[middle], s->tie))
            first = middle + 1;
        else
            last = middle;
    }
    return first;
}

static sffn_status for_cett(sffn_context *ctx, const struct search *s,
                            const sffn_threshold_config *config, double target, float largest,
                            float *found)
{
    const struct sffn_calibration *c = s->c;
    const size_t bytes = c->n_eval * LEVELS * (sizeof(double) + sizeof(uint32_t));
    double *error = sffn_mem_alloc(ctx, bytes);
    if (!error)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the allocator returned NULL",
                         c->ffn->name);
    const struct sffn_drop drop = {LEVELS, search_level, s, error,
                                   (uint32_t *)(error + c->n_eval * LEVELS)};
    /* Bits of floats >= 0 are in the order of the floats. T = 0 drops nothing and passes; `high` is known to fail from the second pass on. */
    uint64_t low = 0, high = sffn_f32_bits(nextafterf(largest, INFINITY));
    sffn_status status = SFFN_OK;
    for (uint64_t pass = 0; high - low > (pass > 0) && status == SFFN_OK; pass++) {
        uint64_t bits[LEVELS];
        for (uint32_t l = 0; l < LEVELS; l++) {
            bits[l] = low + (high - low) * (l + 1) / LEVELS;
            for (uint32_t i = 0; i < c->ffn->d_ff; i++)
                s->limits[(size_t)i * LEVELS + l] =
                    limit_of(c, s->kind, sffn_f32_from_bits((uint32_t)bits[l]), i);
        }
        status = sffn_progress_report(ctx, config->progress, config->progress_user, "threshold",
                                      pass, 8);
        if (status == SFFN_OK)
            status = sffn_calibration_drop(ctx, c, &drop);
        uint32_t l = LEVELS;
        for (; l > 0 && status == SFFN_OK; l--) {
            sffn_measured m;
            sffn_calibration_summary(c, &drop, l - 1, &m);
            if (m.cett <= target)
                break;
        }
        const uint64_t next = l < LEVELS ? bits[l] : high;
        low = l > 0 ? bits[l - 1] : low;
        high = next;
        if (l == LEVELS)
            break; /* everything may go */
    }
    *found = sffn_f32_from_bits((uint32_t)low);
    sffn_mem_free(ctx, error, bytes);
    return status;
}

/* ---- both ---- */

static int32_t usual_tie(const struct sffn_calibration *c, int32_t kind)
{
    if (kind == SFFN_ACTIVE_GATE)
        return c->ffn->activation == SFFN_ACT_FATRELU ? c->ffn->act_tie : SFFN_TIE_KEEP;
    return kind == SFFN_ACTIVE_CONTRIBUTION || kind == SFFN_ACTIVE_CHESS ? SFFN_TIE_KEEP
                                                                         : SFFN_TIE_DROP;
}

static sffn_status check_targets(const sffn_context *ctx, const struct sffn_calibration *c,
                                 const sffn_threshold_config *config, const float *thresholds)
{
    const char *name = c->ffn->name;
    const float cett = config->target_cett, density = config->target_density;
    if (!(cett <= 1) || !(density <= 1))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: target_cett is %g, target_density %g; expected at most 1", name,
                         (double)cett, (double)density);
    if ((cett >= 0) == (density >= 0))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: target_cett is %g, target_density %g; expected one of them in [0, 1]",
                         name, (double)cett, (double)density);
    const sffn_status status = check_kind(ctx, c, config->kind);
    if (status != SFFN_OK || config->kind != SFFN_ACTIVE_INPUT)
        return status;
    if (thresholds)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: thresholds is set; SFFN_ACTIVE_INPUT has one for all elements", name);
    if (cett >= 0)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: SFFN_ACTIVE_INPUT takes target_density only", name);
    return SFFN_OK;
}

/* T, and what it does. The search adds dropped rows in another order than the measurement, so the last bits may differ: aim a little lower
 * until the measurement agrees. */
static sffn_status find(sffn_context *ctx, const struct search *s,
                        const sffn_threshold_config *config, float *v, size_t *counts,
                        sffn_activity *a, sffn_measured *m)
{
    const struct sffn_calibration *c = s->c;
    if (config->target_density >= 0) {
        a->threshold = for_density(c, s->kind, s->tie, (double)config->target_density, v, counts);
        return measure(ctx, c, a, m);
    }
    const double target = (double)config->target_cett;
    const float largest = sffn_select_largest(v, collect(c, s->kind, v), 0, counts);
    for (double slack = 0; slack<1e-3; slack = slack> 0 ? 8 * slack : 1e-7) {
        sffn_status status = for_cett(ctx, s, config, target * (1 - slack), largest, &a->threshold);
        if (status == SFFN_OK)
            status = measure(ctx, c, a, m);
        if (status != SFFN_OK || m->cett <= target)
            return status;
    }
    a->threshold = 0;
    return measure(ctx, c, a, m);
}

sffn_status sffn_calibration_find_threshold(sffn_context *ctx, sffn_calibration *c,
                                            const sffn_threshold_config *config,
                                            sffn_activity *activity, float *thresholds,
                                            sffn_measured *measured)
{
    if (!ctx || !c || !activity)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !ctx ? "ctx"
                         : c  ? "activity"
                              : "calibration");
    sffn_threshold_config own = SFFN_THRESHOLD_CONFIG_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_threshold_config", &own, sizeof(own), config);
    if (status == SFFN_OK)
        status = check_targets(ctx, c, &own, thresholds);
    if (status == SFFN_OK)
        status = sffn_calibration_evaluate(ctx, c);
    if (status != SFFN_OK)
        return status;
    const size_t d = c->ffn->d_model, f = c->ffn->d_ff;
    const size_t values = c->n_eval * (own.kind == SFFN_ACTIVE_INPUT ? d : f);
    const size_t bytes =
        SFFN_SELECT_COUNTS * sizeof(size_t) + (values + f * LEVELS) * sizeof(float);
    size_t *counts = sffn_mem_alloc(ctx, bytes);
    if (!counts)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the allocator returned NULL",
                         c->ffn->name);
    float *v = (float *)(counts + SFFN_SELECT_COUNTS);
    const struct search s = {c, own.kind, usual_tie(c, own.kind), v + values};
    sffn_activity a = {own.kind, s.tie, 0, NULL};
    sffn_measured m = SFFN_MEASURED_INIT;
    status = find(ctx, &s, &own, v, counts, &a, &m);
    if (status == SFFN_OK && measured)
        status = sffn_info_copy(ctx, "sffn_measured", measured, &m, sizeof(m));
    if (status == SFFN_OK) {
        *activity = a;
        for (uint32_t i = 0; thresholds && i < f; i++)
            thresholds[i] = sffn_activity_limit(c, &a, i);
    }
    sffn_mem_free(ctx, counts, bytes);
    return status;
}
