/* selectors.c  How well a predictor or router finds the active neurons, and where to cut its scores. */
#include <math.h>
#include <string.h>

#include "base/context.h"
#include "calibrate/calibration.h"

/* A predictor or a router, seen alike. */
struct selector {
    const sffn_predictor *predictor;
    const sffn_router *router;
    const struct sffn_selector *inner;
    size_t n_inputs, n_rows, block_size;
};

static sffn_status open_selector(const sffn_context *ctx, const struct sffn_calibration *c,
                                 const sffn_predictor *predictor, const sffn_router *router,
                                 struct selector *s)
{
    if (!predictor == !router)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: %s predictor and router are set; expected one of them", c->ffn->name,
                         predictor ? "both" : "neither");
    s->predictor = predictor;
    s->router = router;
    s->inner = predictor ? &predictor->selector : &router->selector;
    s->n_inputs = s->inner->n_inputs;
    s->n_rows = s->inner->n_rows;
    s->block_size = s->inner->block_size;
    const size_t d = c->select_d ? c->select_d : c->ffn->d_model;
    if (s->inner->n_groups > 1)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: a predictor of %u layers; measure one of one layer", c->ffn->name,
                         (unsigned)s->inner->n_groups);
    if (s->inner->weighting != SFFN_WEIGHTING_NONE)
        return sffn_fail(
            ctx, SFFN_ERR_UNSUPPORTED,
            "%s: a router whose scores multiply h changes the layer, not only what is skipped",
            c->ffn->name);
    if (s->n_inputs != d)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "%s: the selector reads %zu elements; the calibration keeps %zu",
                         c->ffn->name, s->n_inputs, d);
    if (s->n_rows * s->block_size != c->ffn->d_ff)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "%s: the selector decides %zu x %zu neurons; the layer has %u",
                         c->ffn->name, s->n_rows, s->block_size, (unsigned)c->ffn->d_ff);
    return SFFN_OK;
}

/* The evaluated tokens as the selector sees them: *owned is freed by the caller, NULL when x itself serves. */
static sffn_status selector_input(const sffn_context *ctx, const struct sffn_calibration *c,
                                  const float **x, float **owned)
{
    *owned = NULL;
    *x = c->eval_x;
    if (!c->select_d)
        return SFFN_OK;
    float *rows = sffn_mem_alloc(ctx, (size_t)c->n_eval * c->select_d * sizeof(float));
    if (!rows)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "%s: the allocator returned NULL for the selector's input", c->ffn->name);
    for (size_t t = 0; t < c->n_eval; t++)
        memcpy(rows + t * c->select_d, c->select_x + sffn_calibration_slot(c, t) * c->select_d,
               c->select_d * sizeof(float));
    *x = *owned = rows;
    return SFFN_OK;
}

static sffn_status run_selector(sffn_context *ctx, const struct sffn_calibration *c,
                                const struct selector *s, const float *x, float *scores,
                                sffn_active_set *active)
{
    return s->predictor ? sffn_predictor_predict(ctx, s->predictor, x, s->n_inputs, c->n_eval,
                                                 scores, s->n_rows, active)
                        : sffn_router_select(ctx, s->router, x, s->n_inputs, c->n_eval, scores,
                                             s->n_rows, active);
}

static int is_active(const struct sffn_calibration *c, const sffn_activity *a, size_t token,
                     uint32_t neuron)
{
    const size_t at = token * c->ffn->d_ff + neuron;
    return sffn_activity_passes(sffn_activity_value(c, a->kind, c->g[at], c->h[at]),
                                sffn_activity_limit(c, a, neuron), a->tie);
}

/* What both functions check, and the evaluated sample. */
static sffn_status begin(sffn_context *ctx, struct sffn_calibration *c,
                         const sffn_predictor *predictor, const sffn_router *router,
                         const sffn_activity *activity, struct selector *s)
{
    if (!ctx || !c)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "calibration" : "ctx");
    sffn_status status = sffn_activity_check(ctx, c, activity);
    if (status == SFFN_OK && activity->kind == SFFN_ACTIVE_INPUT)
        status = sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                           "%s: SFFN_ACTIVE_INPUT says nothing of neurons", c->ffn->name);
    if (status == SFFN_OK)
        status = open_selector(ctx, c, predictor, router, s);
    return status == SFFN_OK ? sffn_calibration_evaluate(ctx, c) : status;
}

/* ---- the report ---- */

struct selected_arg {
    const sffn_active_set *active;
    uint32_t block_size;
};

static uint32_t selected_level(const void *arg, size_t token, uint32_t neuron)
{
    const struct selected_arg *s = arg;
    return (uint32_t)sffn_active_set_contains(s->active, token, neuron / s->block_size);
}

static void count(const struct sffn_calibration *c, const sffn_activity *activity,
                  const struct selected_arg *selected, sffn_selector_report *r)
{
    uint64_t n_active = 0, n_selected = 0, n_both = 0;
    for (size_t t = 0; t < c->n_eval; t++)
        for (uint32_t i = 0; i < c->ffn->d_ff; i++) {
            const int active = is_active(c, activity, t, i);
            const int chosen = selected_level(selected, t, i) != 0;
            n_active += (uint64_t)active;
            n_selected += (uint64_t)chosen;
            n_both += (uint64_t)(active && chosen);
        }
    const double all = (double)c->n_eval * c->ffn->d_ff;
    r->true_density = (double)n_active / all;
    r->density = (double)n_selected / all;
    r->recall = n_active ? (double)n_both / (double)n_active : 1;
    r->precision = n_selected ? (double)n_both / (double)n_selected : 1;
}

static sffn_status fill_report(sffn_context *ctx, const struct sffn_calibration *c,
                               const struct selector *s, const float *x,
                               const sffn_activity *activity, sffn_selector_report *r)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    sffn_active_set *active = NULL;
    config.n_blocks = (uint32_t)s->n_rows;
    config.block_size = (uint32_t)s->block_size;
    config.max_tokens = c->n_eval;
    const size_t bytes = c->n_eval * (sizeof(double) + sizeof(uint32_t));
    double *error = sffn_mem_alloc(ctx, bytes);
    if (!error)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the allocator returned NULL",
                         c->ffn->name);
    sffn_status status = sffn_active_set_create(ctx, &config, &active);
    if (status == SFFN_OK)
        status = run_selector(ctx, c, s, x, NULL, active);
    const struct selected_arg arg = {active, (uint32_t)s->block_size};
    const struct sffn_drop drop = {1, selected_level, &arg, error, (uint32_t *)(error + c->n_eval)};
    if (status == SFFN_OK)
        status = sffn_calibration_drop(ctx, c, &drop);
    if (status == SFFN_OK) {
        sffn_measured m = SFFN_MEASURED_INIT;
        sffn_calibration_summary(c, &drop, 0, &m);
        count(c, activity, &arg, r);
        r->n_tokens = m.n_tokens;
        r->cett = m.cett;
        r->max_cett = m.max_cett;
        r->relative_error = m.relative_error;
    }
    sffn_active_set_destroy(active);
    sffn_mem_free(ctx, error, bytes);
    return status;
}

sffn_status sffn_calibration_measure_selector(sffn_context *ctx, sffn_calibration *c,
                                              const sffn_predictor *predictor,
                                              const sffn_router *router,
                                              const sffn_activity *activity,
                                              sffn_selector_report *report)
{
    static const sffn_activity usual = SFFN_ACTIVITY_INIT;
    struct selector s = {0};
    sffn_selector_report r = SFFN_SELECTOR_REPORT_INIT;
    const float *x;
    float *owned = NULL;
    activity = activity ? activity : &usual;
    sffn_status status = begin(ctx, c, predictor, router, activity, &s);
    if (status == SFFN_OK)
        status = selector_input(ctx, c, &x, &owned);
    if (status != SFFN_OK)
        return status;
    status = fill_report(ctx, c, &s, x, activity, &r);
    sffn_mem_free(ctx, owned, (size_t)c->n_eval * c->select_d * sizeof(float));
    return status == SFFN_OK ? sffn_info_copy(ctx, "sffn_selector_report", report, &r, sizeof(r))
                             : status;
}

/* ---- where to cut ---- */

#define FEW_TOKENS 8

struct cut {
    const struct sffn_calibration *c;
    const struct selector *s;
    const sffn_activity *activity;
    const float *x;
    float *scores; /* [n_eval][n_rows], the doubt's share included */
    float *values; /* [n_eval][d_ff] */
    size_t *counts;
    double recall;
};

static float input_norm(const struct cut *cut, size_t token)
{
    const float *x = cut->x + token * cut->s->n_inputs;
    double sum = 0;
    for (size_t j = 0; j < cut->s->n_inputs; j++)
        sum += (double)x[j] * x[j];
    return (float)sqrt(sum);
}

/* The highest threshold at which `share` of the n values pass. */
static float lowest_passing(const struct cut *cut, size_t n)
{
    const size_t k = (size_t)ceil(cut->recall * (double)n);
    const float v = sffn_select_largest(cut->values, n, k > 0 ? k - 1 : 0, cut->counts);
    return cut->s->inner->scorer.keep_equal ? v : nextafterf(v, -INFINITY);
}

static size_t active_scores(const struct cut *cut)
{
    const struct sffn_calibration *c = cut->c;
    size_t n = 0;
    for (size_t t = 0; t < c->n_eval; t++)
        for (uint32_t i = 0; i < c->ffn->d_ff; i++)
            if (is_active(c, cut->activity, t, i))
                cut->values[n++] = cut->scores[t * cut->s->n_rows + i / cut->s->block_size];
    return n;
}

static void cut_each(const struct cut *cut, float scalar, float *thresholds)
{
    const struct sffn_calibration *c = cut->c;
    for (uint32_t i = 0; i < c->ffn->d_ff; i++) {
        size_t n = 0;
        for (size_t t = 0; t < c->n_eval; t++)
            if (is_active(c, cut->activity, t, i))
                cut->values[n++] = cut->scores[t * cut->s->n_rows + i];
        struct cut all = *cut;
        if (n < FEW_TOKENS)
            all.recall = 1;
        thresholds[i] = n ? lowest_passing(&all, n) : scalar;
        if (n < FEW_TOKENS && scalar < thresholds[i])
            thresholds[i] = scalar;
    }
}

/* Row i passes when score > limit - margin * e_i * ||x||: each active neuron asks for a margin, and the recall-quantile of these serves. */
static float smallest_margin(const struct cut *cut)
{
    const struct sffn_calibration *c = cut->c;
    const struct sffn_scorer *scorer = &cut->s->inner->scorer;
    size_t n = 0;
    for (size_t t = 0; t < c->n_eval; t++) {
        const float norm = input_norm(cut, t);
        for (uint32_t i = 0; i < c->ffn->d_ff; i++) {
            if (!is_active(c, cut->activity, t, i))
                continue;
            const float limit = scorer->limits ? scorer->limits[i] : scorer->limit;
            const float missing = limit - (cut->scores[t * cut->s->n_rows + i] -
                                           scorer->margin * norm * scorer->error[i]);
            const float doubt = norm * scorer->error[i];
            /* the smallest is asked for: negate, because selection goes from the largest */
            cut->values[n++] = missing < 0 ? 0 : doubt > 0 ? -missing / doubt : -INFINITY;
        }
    }
    const size_t k = (size_t)ceil(cut->recall * (double)n);
    const float margin = -sffn_select_largest(cut->values, n, k - 1, cut->counts);
    return margin > 0 ? margin * (1 + 1e-5f) : 0; /* beyond the rounding of forward's limit */
}

static sffn_status make_scores(sffn_context *ctx, const struct cut *cut)
{
    const struct sffn_calibration *c = cut->c;
    const struct sffn_scorer *scorer = &cut->s->inner->scorer;
    const sffn_status status = run_selector(ctx, c, cut->s, cut->x, cut->scores, NULL);
    for (size_t t = 0; t < c->n_eval && status == SFFN_OK; t++) {
        const float doubt = scorer->error ? scorer->margin * input_norm(cut, t) : 0;
        for (size_t i = 0; i < cut->s->n_rows; i++) {
            float *v = cut->scores + t * cut->s->n_rows + i;
            if (isnan(*v))
                return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                                 "%s: the score of row %zu for sampled token %zu is NaN",
                                 c->ffn->name, i, t);
            if (scorer->error)
                *v += doubt * scorer->error[i];
        }
    }
    return status;
}

static sffn_status find_cuts(sffn_context *ctx, const struct cut *cut, float *threshold,
                             float *thresholds, float *margin)
{
    const sffn_status status = make_scores(ctx, cut);
    if (status != SFFN_OK)
        return status;
    const size_t n = active_scores(cut);
    if (n == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: no neuron is active in %u tokens: every threshold has recall 1",
                         cut->c->ffn->name, (unsigned)cut->c->n_eval);
    const float scalar = lowest_passing(cut, n);
    if (threshold)
        *threshold = scalar;
    if (thresholds)
        cut_each(cut, scalar, thresholds);
    if (margin && isinf(*margin = smallest_margin(cut)))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: no margin reaches recall %g: exact rows miss their thresholds",
                         cut->c->ffn->name, cut->recall);
    return SFFN_OK;
}

sffn_status sffn_calibration_selector_threshold(sffn_context *ctx, sffn_calibration *c,
                                                const sffn_predictor *predictor,
                                                const sffn_router *router,
                                                const sffn_activity *activity, double recall,
                                                float *threshold, float *thresholds, float *margin)
{
    static const sffn_activity usual = SFFN_ACTIVITY_INIT;
    struct selector s = {0};
    float *owned = NULL;
    struct cut cut = {.c = c, .s = &s, .activity = activity ? activity : &usual, .recall = recall};
    sffn_status status = begin(ctx, c, predictor, router, cut.activity, &s);
    if (status != SFFN_OK)
        return status;
    if (!(recall > 0 && recall <= 1))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: recall is %g; expected (0, 1]",
                         c->ffn->name, recall);
    if (thresholds && router)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: thresholds is set; a router has one for all experts", c->ffn->name);
    if (margin && !s.inner->scorer.error)
        return sffn_fail(
            ctx, SFFN_ERR_UNSUPPORTED,
            "%s: margin is asked for; this selector is no screened gate with a margin over 0",
            c->ffn->name);
    const size_t scores = (size_t)c->n_eval * s.n_rows, values = (size_t)c->n_eval * c->ffn->d_ff;
    const size_t bytes = SFFN_SELECT_COUNTS * sizeof(size_t) + (scores + values) * sizeof(float);
    if (!(cut.counts = sffn_mem_alloc(ctx, bytes)))
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the allocator returned NULL for scores",
                         c->ffn->name);
    cut.scores = (float *)(cut.counts + SFFN_SELECT_COUNTS);
    cut.values = cut.scores + scores;
    status = selector_input(ctx, c, &cut.x, &owned);
    if (status == SFFN_OK)
        status = find_cuts(ctx, &cut, threshold, thresholds, margin);
    sffn_mem_free(ctx, owned, (size_t)c->n_eval * c->select_d * sizeof(float));
    sffn_mem_free(ctx, cut.counts, bytes);
    return status;
}
