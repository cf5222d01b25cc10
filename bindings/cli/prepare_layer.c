/*
 * prepare_layer.c  What one layer is to do: the rule that meets the target, then the fastest selection on this machine among those whose error
 * is within the budget. Both look at a sample of the layer's inputs.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "collect.h"
#include "prepare_job.h"

enum {
    MAX_MEASURED = 512, /* tokens that candidates are judged by */
    N_TIMINGS = 21,     /* calls per candidate, one token each */
};
/* A selection with more parts must be faster than a simpler one by this much: less is noise. */
static const double worth_it = 0.97;

/* ---------------------------------------------------------------- rules */

static const struct rule_name {
    const char *name;
    int32_t kind; /* enum sffn_active_kind */
    int32_t rule; /* enum sffn_rule that applies it */
} rules[] = {
    {"cett", SFFN_ACTIVE_CONTRIBUTION, SFFN_RULE_ABS_H},
    {"abs_h", SFFN_ACTIVE_H, SFFN_RULE_ABS_H},
    {"cats", SFFN_ACTIVE_SCORE, SFFN_RULE_ABS_SCORE},
    {"chess", SFFN_ACTIVE_CHESS, SFFN_RULE_ABS_SCORE},
};

int prepare_rule(const struct prepare_request *q, struct llama *m, uint32_t i,
                 const struct work *work, double cett, struct prepared_layer *out)
{
    sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
    sffn_threshold_config target = SFFN_THRESHOLD_CONFIG_INIT;
    sffn_calibration *calibration = NULL;
    sffn_activity activity = SFFN_ACTIVITY_INIT;
    sffn_measured measured = SFFN_MEASURED_INIT;
    const struct rule_name *rule = &rules[0];
    sffn_status status;
    size_t n = 0;
    float *x = collect_read(work, i, m->info.d_model, &n);
    char what[32];
    if (x == NULL)
        return CLI_FAILED;
    for (size_t r = 0; r < sizeof rules / sizeof rules[0]; r++)
        if (q->rule != NULL && strcmp(rules[r].name, q->rule) == 0)
            rule = &rules[r];
    config.ffn = m->layers[i].ffn;
    config.max_samples = (uint32_t)n;
    config.eval_samples = n < MAX_MEASURED ? (uint32_t)n : MAX_MEASURED;
    config.seed = q->seed;
    target.kind = rule->kind;
    if (cett >= 0.0)
        target.target_cett = (float)cett;
    else
        target.target_density = (float)q->target_density;
    out->rule = rule->rule;
    out->rule_thresholds = cli_alloc(m->layers[i].config.d_ff, sizeof(float));
    status = sffn_calibration_create(m->ctx, &config, &calibration);
    if (status == SFFN_OK)
        status = sffn_calibration_add(m->ctx, calibration, x, m->info.d_model, NULL, 0, n);
    if (status == SFFN_OK)
        status = sffn_calibration_find_threshold(m->ctx, calibration, &target, &activity,
                                                 out->rule_thresholds, &measured);
    snprintf(what, sizeof what, "layer %u", (unsigned)i);
    if (status != SFFN_OK)
        cli_fail_status(m->ctx, status, what);
    sffn_calibration_destroy(calibration);
    free(x);
    out->rule_tie = activity.tie;
    out->rule_value = activity.threshold;
    out->rule_cett = measured.cett;
    out->rule_density = measured.density;
    return status == SFFN_OK ? CLI_OK : CLI_FAILED;
}

/* ---------------------------------------------------------------- candidates */

struct trial {
    sffn_predictor *predictor;
    sffn_ffn *ffn; /* of a candidate that needs its own; else NULL */
    struct selector selector;
    struct measure_sums sums;
    double times[N_TIMINGS];
};

/* Calls of other layers would have pushed this one's weights out of the caches by the time it runs again. */
static void empty_caches(unsigned char *junk, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        junk[i]++;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static sffn_status time_trials(struct llama *m, const sffn_ffn *base, struct trial *trials,
                               struct prepared_layer *out, const float *x, size_t n)
{
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    size_t junk_bytes;
    unsigned char *junk;
    float *y = cli_alloc(m->info.d_model, sizeof *y);
    sffn_status status = sffn_context_get_info(m->ctx, &info);
    junk_bytes = (size_t)(info.llc_bytes + info.l2_bytes);
    if (junk_bytes == 0 || junk_bytes > (size_t)64 << 20)
        junk_bytes = (size_t)64 << 20;
    junk = cli_alloc(junk_bytes, 1);
    /* In turns, so that what slows the machine down for a while slows all of them. */
    for (uint32_t r = 0; r < N_TIMINGS; r++)
        for (uint32_t c = 0; status == SFFN_OK && c < out->n_candidates; c++) {
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            uint64_t start_ns;
            args.x = x + r % n * m->info.d_model;
            args.y = y;
            args.n_tokens = 1;
            args.select = out->candidates[c].plan;
            empty_caches(junk, junk_bytes);
            start_ns = cli_now_ns();
            status = sffn_ffn_forward(m->ctx, trials[c].ffn != NULL ? trials[c].ffn : base, &args);
            trials[c].times[r] = (double)(cli_now_ns() - start_ns);
        }
    for (uint32_t c = 0; c < out->n_candidates; c++) {
        qsort(trials[c].times, N_TIMINGS, sizeof(double), by_value);
        out->candidates[c].ns = trials[c].times[N_TIMINGS / 2];
    }
    free(junk);
    free(y);
    return status;
}

static struct candidate *add_candidate(struct prepared_layer *out, const char *name, int32_t plan)
{
    struct candidate *c = &out->candidates[out->n_candidates++];
    snprintf(c->name, sizeof c->name, "%s", name);
    c->plan = plan;
    return c;
}

/* Whether a predictor can help this layer at all, when nobody insists on it. */
static int is_worth_trying(const sffn_ffn_config *config)
{
    int32_t gate = config->gate.data != NULL ? config->gate.dtype : config->up.dtype;
    return gate != SFFN_Q4_0 && config->activation != SFFN_ACT_SILU &&
           config->activation != SFFN_ACT_GELU_ERF && config->activation != SFFN_ACT_GELU_TANH;
}

static void list_candidates(const struct prepare_request *q, const sffn_ffn_config *config,
                            struct prepared_layer *out)
{
    int is_auto = strcmp(q->plan, "auto") == 0;
    if (is_auto || strcmp(q->plan, "dense") == 0)
        add_candidate(out, "dense", SFFN_SELECT_DENSE);
    if (is_auto || strcmp(q->plan, "gate") == 0)
        add_candidate(out, "gate", SFFN_SELECT_GATE);
    for (size_t p = 0; p < q->predictors.n; p++)
        if (strcmp(q->plan, "predictor") == 0 ||
            (is_auto && (q->predictor_texts.n != 0 || is_worth_trying(config))))
            add_candidate(out, q->predictors.data[p].text, SFFN_SELECT_PREDICTOR)->predictor =
                (uint32_t)p;
}

static int create_trials(const struct prepare_request *q, struct llama *m, uint32_t i,
                         const sffn_ffn_config *config, struct prepared_layer *out,
                         struct trial *trials)
{
    for (uint32_t c = 0; c < out->n_candidates; c++) {
        sffn_ffn_config own = *config;
        sffn_status status;
        trials[c].selector.select = out->candidates[c].plan;
        if (out->candidates[c].plan != SFFN_SELECT_PREDICTOR)
            continue;
        trials[c].predictor = selection_predictor(
            m->ctx, &q->predictors.data[out->candidates[c].predictor], i, config);
        if (trials[c].predictor == NULL)
            return CLI_FAILED;
        own.predictor = trials[c].predictor;
        status = sffn_ffn_create(m->ctx, &own, &trials[c].ffn);
        if (status != SFFN_OK)
            return cli_fail_status(m->ctx, status, out->candidates[c].name);
    }
    return CLI_OK;
}

static int measure_trials(struct llama *m, uint32_t i, const sffn_ffn *base, const float *x,
                          size_t n, struct prepared_layer *out, struct trial *trials)
{
    const sffn_ffn_config *config = &m->layers[i].config;
    struct measure measure;
    sffn_status status = SFFN_OK;
    int failed = measure_create(&measure, m->ctx, config->d_model, config->d_ff, LLAMA_MAX_BATCH);
    measure.against_gate = 1;
    for (size_t at = 0; !failed && status == SFFN_OK && at < n; at += LLAMA_MAX_BATCH) {
        size_t batch = n - at < LLAMA_MAX_BATCH ? n - at : LLAMA_MAX_BATCH;
        status = measure_begin(&measure, base, x + at * config->d_model, batch);
        for (uint32_t c = 0; status == SFFN_OK && c < out->n_candidates; c++) {
            struct selectors one = {1, config->d_model, &trials[c].selector, NULL};
            status =
                measure_add(&measure, trials[c].ffn, &one, 0, config->down_bias, &trials[c].sums);
        }
    }
    for (uint32_t c = 0; !failed && status == SFFN_OK && c < out->n_candidates; c++) {
        struct candidate *candidate = &out->candidates[c];
        struct measure_row row;
        measure_row(&trials[c].sums, base, &trials[c].selector, &row);
        candidate->predicted_density = row.predicted_density;
        candidate->recall = row.recall;
        candidate->error = row.relative_error;
        candidate->bytes = row.bytes;
        if (trials[c].predictor != NULL)
            candidate->bytes += (double)sffn_predictor_weight_bytes(trials[c].predictor);
        if (candidate->plan ==
            SFFN_SELECT_DENSE) { /* leaves the rule out, so it cannot be compared with it; it loses nothing */
            candidate->bytes = row.dense_bytes;
            candidate->error = 0.0;
        }
    }
    if (!failed && status == SFFN_OK)
        status = time_trials(m, base, trials, out, x, n);
    measure_free(&measure);
    return failed ? CLI_FAILED : status == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, status, NULL);
}

/* The fastest within the error budget; with a single candidate there is no choice. */
static void choose(const struct prepare_request *q, struct prepared_layer *out)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t c = 0; c < out->n_candidates; c++) {
        const struct candidate *candidate = &out->candidates[c];
        if (strcmp(q->plan, "auto") == 0 && candidate->error > q->max_error)
            continue;
        if (best == UINT32_MAX || candidate->ns < out->candidates[best].ns * worth_it)
            best = c;
    }
    out->chosen = best;
    out->candidates[best].is_chosen = 1;
}

static int find_plan(const struct prepare_request *q, struct llama *m, uint32_t i, const float *x,
                     size_t n, struct prepared_layer *out)
{
    struct trial *trials = cli_alloc(MAX_CANDIDATES, sizeof *trials);
    sffn_ffn_config config = m->layers[i].config;
    sffn_ffn *base = NULL;
    sffn_status status;
    int result;
    config.predictor = NULL;
    config.router = NULL;
    config.rule = out->rule;
    config.rule_tie = out->rule_tie;
    config.rule_thresholds = out->rule_thresholds;
    list_candidates(q, &config, out);
    status = sffn_ffn_create(m->ctx, &config, &base);
    result = status == SFFN_OK ? create_trials(q, m, i, &config, out, trials)
                               : cli_fail_status(m->ctx, status, NULL);
    if (result == CLI_OK)
        result = measure_trials(m, i, base, x, n < MAX_MEASURED ? n : MAX_MEASURED, out, trials);
    if (result == CLI_OK)
        choose(q, out);
    for (uint32_t c = 0; c < out->n_candidates; c++) {
        sffn_ffn_destroy(trials[c].ffn);
        sffn_predictor_destroy(trials[c].predictor);
    }
    sffn_ffn_destroy(base);
    free(trials);
    return result;
}

/* ---------------------------------------------------------------- the work folder */

/* A file is the struct, without what its pointers point to, and then the thresholds. The job's text holds the program's version. */
static int read_result(const struct work *work, const char *name, uint32_t d_ff,
                       struct prepared_layer *out)
{
    size_t bytes = 0, n_thresholds;
    char *data = work_read(work, name, &bytes);
    int is_good = data != NULL && bytes >= sizeof *out;
    if (is_good) {
        memcpy(out, data, sizeof *out);
        n_thresholds = out->rule_thresholds != NULL ? d_ff : 0;
        is_good = bytes == sizeof *out + n_thresholds * sizeof(float);
        out->rule_thresholds = NULL;
        if (is_good && n_thresholds != 0) {
            out->rule_thresholds = cli_alloc(n_thresholds, sizeof(float));
            memcpy(out->rule_thresholds, data + sizeof *out, n_thresholds * sizeof(float));
        }
    }
    free(data);
    return is_good;
}

static int write_result(const struct work *work, const char *name, uint32_t d_ff,
                        const struct prepared_layer *layer)
{
    size_t n_thresholds = layer->rule_thresholds != NULL ? d_ff : 0,
           bytes = sizeof *layer + n_thresholds * sizeof(float);
    char *data = cli_alloc(bytes, 1);
    int status;
    memcpy(data, layer, sizeof *layer);
    if (n_thresholds != 0)
        memcpy(data + sizeof *layer, layer->rule_thresholds, n_thresholds * sizeof(float));
    status = work_write(work, name, data, bytes);
    free(data);
    return status;
}

int prepare_layer(const struct prepare_request *q, struct llama *m, uint32_t i,
                  const struct work *work, double cett, struct prepared_layer *out)
{
    uint32_t d_ff = m->layers[i].config.d_ff;
    size_t n = 0;
    float *x;
    char name[32];
    int status = CLI_OK;
    snprintf(name, sizeof name, "layer-%u.result", (unsigned)i);
    memset(out, 0, sizeof *out);
    if (read_result(work, name, d_ff, out))
        return CLI_OK;
    memset(out, 0, sizeof *out);
    out->rule_value = out->rule_cett = out->rule_density = NAN;
    if (cett >= 0.0 || q->target_density >= 0.0)
        status = prepare_rule(q, m, i, work, cett, out);
    x = status == CLI_OK ? collect_read(work, i, m->info.d_model, &n) : NULL;
    status = x != NULL ? find_plan(q, m, i, x, n, out) : CLI_FAILED;
    free(x);
    return status == CLI_OK ? write_result(work, name, d_ff, out) : status;
}

void prepared_layer_free(struct prepared_layer *layer)
{
    free(layer->rule_thresholds);
}
