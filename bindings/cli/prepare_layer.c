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
    /* enum sffn_active_kind; of a rule that compares a token's neurons: by what it compares */
    int32_t kind;
    int32_t rule; /* enum sffn_rule that applies it */
} rules[] = {
    {"cett", SFFN_ACTIVE_CONTRIBUTION, SFFN_RULE_ABS_H},
    {"abs_h", SFFN_ACTIVE_H, SFFN_RULE_ABS_H},
    {"cats", SFFN_ACTIVE_SCORE, SFFN_RULE_ABS_SCORE},
    {"chess", SFFN_ACTIVE_CHESS, SFFN_RULE_ABS_SCORE},
    {"top_k_h", SFFN_ACTIVE_H, SFFN_RULE_TOP_K_H},
    {"top_k_score", SFFN_ACTIVE_SCORE, SFFN_RULE_TOP_K_SCORE},
    {"block_top_k_h", SFFN_ACTIVE_H, SFFN_RULE_BLOCK_TOP_K_H},
    {"block_top_k_score", SFFN_ACTIVE_SCORE, SFFN_RULE_BLOCK_TOP_K_SCORE},
    {"statistical_h", SFFN_ACTIVE_H, SFFN_RULE_STATISTICAL_H},
    {"statistical_score", SFFN_ACTIVE_SCORE, SFFN_RULE_STATISTICAL_SCORE},
};
enum {
    RULE_BLOCK = 32,
    SPARSITY_STEPS = 1024
}; /* neurons of a block of block top-k; shares that are tried */

/* The sample of a layer, as the library's fits want it. */
struct sample {
    float *x, *select_x; /* select_x NULL: nobody reads it */
    size_t n;
    sffn_calibration *calibration, *of_select; /* of_select: of predictors that read select_x */
};

static sffn_status calibrate(const struct prepare_request *q, struct llama *m, uint32_t i,
                             int wants_moment, const struct sample *sample, const float *select_x,
                             sffn_calibration **out)
{
    sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
    uint32_t d_model = m->info.d_model;
    sffn_status status;
    config.ffn = m->layers[i].ffn;
    config.max_samples = (uint32_t)sample->n;
    config.eval_samples = sample->n < MAX_MEASURED ? (uint32_t)sample->n : MAX_MEASURED;
    config.select_d_model = select_x != NULL ? d_model : 0;
    config.keep_second_moment = wants_moment;
    config.seed = q->seed;
    status = sffn_calibration_create(m->ctx, &config, out);
    return status == SFFN_OK ? sffn_calibration_add(m->ctx, *out, sample->x, d_model, select_x,
                                                    d_model, sample->n)
                             : status;
}

static int open_sample(const struct prepare_request *q, struct llama *m, uint32_t i,
                       const struct work *work, int wants_moment, struct sample *out)
{
    sffn_status status;
    size_t n_select = 0;
    char what[32];
    memset(out, 0, sizeof *out);
    out->x = collect_read(work, i, 0, m->info.d_model, &out->n);
    if (out->x == NULL)
        return CLI_FAILED;
    if (q->select_input != SFFN_INPUT_FFN) {
        out->select_x = collect_read(work, i, 1, m->info.d_model, &n_select);
        if (out->select_x == NULL)
            return CLI_FAILED;
        if (n_select != out->n)
            return cli_fail("'%s' has %zu inputs and %zu inputs of selectors for layer %u; remove "
                            "the folder and start again",
                            work->folder, out->n, n_select, (unsigned)i);
    }
    status = calibrate(q, m, i, wants_moment, out, NULL, &out->calibration);
    if (status == SFFN_OK && out->select_x != NULL)
        status = calibrate(q, m, i, 0, out, out->select_x, &out->of_select);
    snprintf(what, sizeof what, "layer %u", (unsigned)i);
    return status == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, status, what);
}

static void close_sample(struct sample *sample)
{
    sffn_calibration_destroy(sample->calibration);
    sffn_calibration_destroy(sample->of_select);
    free(sample->x);
    free(sample->select_x);
}

void prepared_rule(const struct prepared_layer *layer, sffn_ffn_config *config)
{
    if (layer->rule == SFFN_RULE_NONE)
        return;
    config->rule = layer->rule;
    config->rule_tie = layer->rule_tie;
    config->rule_threshold = 0.0f;
    config->rule_thresholds = layer->rule_thresholds;
    config->rule_k = layer->rule_k;
    config->rule_m = layer->rule_m;
    config->rule_sparsity = layer->rule_sparsity;
}

/* Of n steps, step `at` of a rule that compares a token's neurons: the larger, the more it keeps. Returns n. */
static uint32_t set_step(uint32_t d_ff, uint32_t at, struct prepared_layer *out)
{
    uint32_t m = d_ff < RULE_BLOCK ? d_ff : RULE_BLOCK;
    switch (out->rule) {
    case SFFN_RULE_STATISTICAL_H:
    case SFFN_RULE_STATISTICAL_SCORE:
        out->rule_sparsity = 1.0f - (float)at / SPARSITY_STEPS;
        out->rule_value = (double)out->rule_sparsity;
        return SPARSITY_STEPS - 1;
    case SFFN_RULE_BLOCK_TOP_K_H:
    case SFFN_RULE_BLOCK_TOP_K_SCORE:
        out->rule_m = m;
        out->rule_k = at;
        out->rule_value = at;
        return m;
    default:
        out->rule_k = at;
        out->rule_value = at;
        return d_ff;
    }
}

/* What step `at` drops: CETT and density over the sample's evenly spaced tokens. */
static int measure_step(struct llama *m, uint32_t i, const struct sample *sample, uint32_t at,
                        struct measure *measure, struct prepared_layer *out)
{
    static const struct selector gate = {SFFN_SELECT_GATE, NULL};
    sffn_ffn_config config = m->layers[i].config;
    struct selector selector = gate;
    struct selectors one = {1, config.d_model, &selector, NULL};
    struct measure_sums sums;
    struct measure_row row;
    sffn_ffn *ffn = NULL;
    sffn_status status;
    size_t n = sample->n < MAX_MEASURED ? sample->n : MAX_MEASURED;
    memset(&sums, 0, sizeof sums);
    set_step(config.d_ff, at, out);
    prepared_rule(out, &config);
    config.predictor = NULL;
    config.router = NULL;
    config.dense_tokens = 0;
    status = sffn_ffn_create(m->ctx, &config, &ffn);
    for (size_t t = 0; status == SFFN_OK && t < n; t += LLAMA_MAX_BATCH) {
        size_t batch = n - t < LLAMA_MAX_BATCH ? n - t : LLAMA_MAX_BATCH;
        status = measure_begin(measure, ffn, sample->x + t * config.d_model, NULL, batch);
        if (status == SFFN_OK)
            status = measure_add(measure, NULL, &one, 0, config.down_bias, &sums);
    }
    if (status == SFFN_OK) {
        measure_row(&sums, ffn, &selector, &row);
        out->rule_cett = row.cett;
        out->rule_density = row.down_density;
    }
    sffn_ffn_destroy(ffn);
    return status == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, status, NULL);
}

/*
 * Top-k, block top-k and statistical top-k: the fewest that meet a CETT, or the most that meet a density, by bisection. What is returned was
 * measured. When not even everything that the activation leaves meets the density, k is the smallest.
 */
static int find_step(const struct prepare_request *q, struct llama *m, uint32_t i,
                     const struct sample *sample, double cett, const struct rule_name *rule,
                     struct prepared_layer *out)
{
    uint32_t d_ff = m->layers[i].config.d_ff, low = 1, high;
    struct measure measure;
    int status = measure_create(&measure, m->ctx, m->info.d_model, d_ff, LLAMA_MAX_BATCH);
    out->rule = rule->rule;
    out->rule_tie = SFFN_TIE_DROP;
    high = set_step(d_ff, 1, out);
    while (status == CLI_OK && low < high) {
        uint32_t middle = cett >= 0.0 ? low + (high - low) / 2 : low + (high - low + 1) / 2;
        status = measure_step(m, i, sample, middle, &measure, out);
        if (status == CLI_OK && cli_interrupted())
            status = CLI_FAILED;
        if (cett >= 0.0) {
            if (out->rule_cett <= cett)
                high = middle;
            else
                low = middle + 1;
        } else if (out->rule_density <= q->target_density) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    if (status == CLI_OK)
        status = measure_step(m, i, sample, low, &measure, out);
    measure_free(&measure);
    return status;
}

static int find_rule(const struct prepare_request *q, struct llama *m, uint32_t i,
                     const struct sample *sample, double cett, struct prepared_layer *out)
{
    sffn_threshold_config target = SFFN_THRESHOLD_CONFIG_INIT;
    sffn_measured measured = SFFN_MEASURED_INIT;
    const struct rule_name *rule = &rules[0];
    sffn_status status;
    char what[32];
    for (size_t r = 0; r < sizeof rules / sizeof rules[0]; r++)
        if (strcmp(rules[r].name, q->rule) == 0)
            rule = &rules[r];
    target.kind = rule->kind;
    snprintf(what, sizeof what, "layer %u", (unsigned)i);
    if (rule->rule != SFFN_RULE_ABS_H && rule->rule != SFFN_RULE_ABS_SCORE) {
        if (find_step(q, m, i, sample, cett, rule, out) != CLI_OK)
            return CLI_FAILED;
        /* Fits take for active what a threshold keeps that leaves as many. */
        target.target_density = (float)out->rule_density;
        status = sffn_calibration_find_threshold(m->ctx, sample->calibration, &target,
                                                 &out->activity, NULL, NULL);
        return status == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, status, what);
    }
    if (cett >= 0.0)
        target.target_cett = (float)cett;
    else
        target.target_density = (float)q->target_density;
    out->rule = rule->rule;
    out->rule_thresholds = cli_alloc(m->layers[i].config.d_ff, sizeof(float));
    status = sffn_calibration_find_threshold(m->ctx, sample->calibration, &target, &out->activity,
                                             out->rule_thresholds, &measured);
    out->rule_tie = out->activity.tie;
    out->rule_value = out->activity.threshold;
    out->rule_cett = measured.cett;
    out->rule_density = measured.density;
    return status == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, status, what);
}

int prepare_rule(const struct prepare_request *q, struct llama *m, uint32_t i,
                 const struct work *work, double cett, struct prepared_layer *out)
{
    struct sample sample;
    int status = open_sample(q, m, i, work, 0, &sample);
    if (status == CLI_OK)
        status = find_rule(q, m, i, &sample, cett, out);
    close_sample(&sample);
    return status;
}

/* ---------------------------------------------------------------- candidates */

struct trial {
    struct fitted fitted;
    struct permuted permuted; /* of a router */
    sffn_predictor *predictor;
    sffn_router *router;
    sffn_ffn *reference;   /* the layer in the router's order of neurons; NULL: the layer itself */
    sffn_ffn *ffn;         /* of a candidate that needs its own; else NULL */
    const float *select_x; /* [n][d_model]: what its selector reads instead of x; NULL: x */
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
            if (trials[c].select_x != NULL)
                args.select_x = trials[c].select_x + r % n * m->info.d_model;
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

/* Whether a predictor can help this layer at all, when nobody insists on it. A screen, 4 bits, costs as much as a q4_0 gate; a cascade's rows
 * are whole blocks of 32. */
static int is_worth_trying(const struct selection *predictor, const sffn_ffn_config *config)
{
    int32_t gate = config->gate.data != NULL ? config->gate.dtype : config->up.dtype;
    int is_possible =
        strcmp(predictor->kind, "cascade") == 0 ? config->d_model % 32 == 0 : gate != SFFN_Q4_0;
    return is_possible && config->activation != SFFN_ACT_SILU &&
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
    for (size_t p = 0; p < q->predictors.n; p++) {
        int is_router = strcmp(q->predictors.data[p].kind, "router") == 0;
        if (strcmp(q->plan, is_router ? "router" : "predictor") == 0 ||
            (is_auto &&
             (p >= q->n_default_predictors || is_worth_trying(&q->predictors.data[p], config))))
            add_candidate(out, q->predictors.data[p].text,
                          is_router ? SFFN_SELECT_ROUTER : SFFN_SELECT_PREDICTOR)
                ->predictor = (uint32_t)p;
    }
}

/* The selector of one candidate, and the layer that uses it. */
static int create_trial(const struct prepare_request *q, struct llama *m, uint32_t i,
                        const sffn_ffn_config *config, const struct sample *sample,
                        const struct prepared_layer *layer, const struct candidate *candidate,
                        struct trial *t)
{
    const struct selection *selection = &q->predictors.data[candidate->predictor];
    int is_own = selection_input(selection) != SFFN_INPUT_FFN;
    struct fit_options options = {config,    &layer->activity, sample->x,   NULL,
                                  sample->n, q->seed,          q->progress, q->progress_user};
    sffn_ffn_config own = *config;
    sffn_status status;
    int result;
    options.select_x = t->select_x = is_own ? sample->select_x : NULL;
    result = fit_selection(m->ctx, is_own ? sample->of_select : sample->calibration, selection, i,
                           &options, &t->fitted);
    if (result != CLI_OK)
        return result;
    if (t->fitted.has_router) {
        result = permute_layer(config, t->fitted.arrays[FIT_PERMUTATION], &t->permuted);
        if (result != CLI_OK)
            return result;
        own = t->permuted.config;
        status = sffn_ffn_create(m->ctx, &own, &t->reference);
        if (status == SFFN_OK)
            status = sffn_router_create(m->ctx, &t->fitted.router, &t->router);
    } else {
        status = sffn_predictor_create(m->ctx, &t->fitted.predictor, &t->predictor);
    }
    own.predictor = t->predictor;
    own.router = t->router;
    if (status == SFFN_OK)
        status = sffn_ffn_create(m->ctx, &own, &t->ffn);
    return status == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, status, candidate->name);
}

static void destroy_trial(struct trial *t)
{
    sffn_ffn_destroy(t->ffn);
    sffn_ffn_destroy(t->reference);
    sffn_predictor_destroy(t->predictor);
    sffn_router_destroy(t->router);
    permuted_free(&t->permuted);
    fit_free(&t->fitted);
}

static int measure_trials(struct llama *m, uint32_t i, sffn_ffn *base, const float *x, size_t n,
                          struct prepared_layer *out, struct trial *trials)
{
    const sffn_ffn_config *config = &m->layers[i].config;
    struct measure measure;
    sffn_status status = SFFN_OK;
    int failed = measure_create(&measure, m->ctx, config->d_model, config->d_ff, LLAMA_MAX_BATCH);
    measure.against_gate = 1;
    for (size_t at = 0; !failed && status == SFFN_OK && at < n; at += LLAMA_MAX_BATCH) {
        size_t batch = n - at < LLAMA_MAX_BATCH ? n - at : LLAMA_MAX_BATCH;
        const sffn_ffn *reference = NULL;
        for (uint32_t c = 0; status == SFFN_OK && c < out->n_candidates; c++) {
            struct selectors one = {1, config->d_model, &trials[c].selector, NULL};
            const sffn_ffn *wanted = trials[c].reference != NULL ? trials[c].reference : base;
            if (wanted !=
                reference) /* neurons are compared one by one, so they must be in the same order */
                status = measure_begin(&measure, wanted, x + at * config->d_model, NULL, batch);
            reference = wanted;
            measure.select_x =
                trials[c].select_x != NULL ? trials[c].select_x + at * config->d_model : NULL;
            if (status == SFFN_OK)
                status = measure_add(&measure, trials[c].ffn, &one, 0, config->down_bias,
                                     &trials[c].sums);
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
        if (trials[c].router != NULL)
            candidate->bytes += (double)sffn_router_weight_bytes(trials[c].router);
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

static int find_plan(const struct prepare_request *q, struct llama *m, uint32_t i,
                     const struct sample *sample, struct prepared_layer *out)
{
    struct trial *trials = cli_alloc(MAX_CANDIDATES, sizeof *trials);
    sffn_ffn_config config = m->layers[i].config;
    sffn_ffn *base = NULL;
    sffn_status status;
    int result;
    config.predictor = NULL;
    config.router = NULL;
    prepared_rule(out, &config);
    list_candidates(q, &config, out);
    status = sffn_ffn_create(m->ctx, &config, &base);
    result = status == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, status, NULL);
    for (uint32_t c = 0; result == CLI_OK && c < out->n_candidates; c++) {
        int32_t plan = trials[c].selector.select = out->candidates[c].plan;
        if (plan == SFFN_SELECT_PREDICTOR || plan == SFFN_SELECT_ROUTER)
            result = create_trial(q, m, i, &config, sample, out, &out->candidates[c], &trials[c]);
    }
    if (result == CLI_OK)
        result = measure_trials(m, i, base, sample->x,
                                sample->n < MAX_MEASURED ? sample->n : MAX_MEASURED, out, trials);
    if (result == CLI_OK) {
        choose(q, out);
        out->fitted = trials[out->chosen].fitted; /* with its arrays */
        memset(&trials[out->chosen].fitted, 0, sizeof out->fitted);
    }
    for (uint32_t c = 0; c < out->n_candidates; c++)
        destroy_trial(&trials[c]);
    sffn_ffn_destroy(base);
    free(trials);
    return result;
}

/* ---------------------------------------------------------------- the work folder */

/* A file is the struct, without what its pointers point to, and then the arrays. The job's text holds the program's version. */
static int read_result(const struct work *work, const char *name, uint32_t d_ff,
                       struct prepared_layer *out)
{
    size_t bytes = 0, at = sizeof *out, wanted = sizeof *out;
    char *data = work_read(work, name, &bytes);
    int is_good = data != NULL && bytes >= sizeof *out, has_thresholds = 0;
    if (is_good) {
        memcpy(out, data, sizeof *out);
        has_thresholds = out->rule_thresholds != NULL;
        wanted += has_thresholds ? d_ff * sizeof(float) : 0;
        for (int a = 0; a < FIT_N_ARRAYS; a++)
            wanted += out->fitted.bytes[a];
        is_good = bytes == wanted;
    }
    if (is_good && has_thresholds) {
        out->rule_thresholds = cli_alloc(d_ff, sizeof(float));
        memcpy(out->rule_thresholds, data + at, d_ff * sizeof(float));
        at += d_ff * sizeof(float);
    }
    for (int a = 0; is_good && a < FIT_N_ARRAYS; a++) {
        out->fitted.arrays[a] = NULL;
        if (out->fitted.bytes[a] == 0)
            continue;
        out->fitted.arrays[a] = cli_alloc(out->fitted.bytes[a], 1);
        memcpy(out->fitted.arrays[a], data + at, out->fitted.bytes[a]);
        at += out->fitted.bytes[a];
    }
    free(data);
    return is_good;
}

static int write_result(const struct work *work, const char *name, uint32_t d_ff,
                        const struct prepared_layer *layer)
{
    size_t n_thresholds = layer->rule_thresholds != NULL ? d_ff : 0,
           bytes = sizeof *layer + n_thresholds * sizeof(float), at = sizeof *layer;
    char *data;
    int status;
    for (int a = 0; a < FIT_N_ARRAYS; a++)
        bytes += layer->fitted.bytes[a];
    data = cli_alloc(bytes, 1);
    memcpy(data, layer, sizeof *layer);
    if (n_thresholds != 0)
        memcpy(data + at, layer->rule_thresholds, n_thresholds * sizeof(float));
    at += n_thresholds * sizeof(float);
    for (int a = 0; a < FIT_N_ARRAYS; a++) {
        if (layer->fitted.bytes[a] != 0)
            memcpy(data + at, layer->fitted.arrays[a], layer->fitted.bytes[a]);
        at += layer->fitted.bytes[a];
    }
    status = work_write(work, name, data, bytes);
    free(data);
    return status;
}

/* Fits weighted by the inputs need what the inputs are like. */
static int wants_moment(const struct prepare_request *q)
{
    int wanted = 0;
    for (size_t p = 0; p < q->predictors.n; p++)
        wanted |= !isnan(q->predictors.data[p].rank);
    return wanted;
}

int prepare_layer(const struct prepare_request *q, struct llama *m, uint32_t i,
                  const struct work *work, double cett, struct prepared_layer *out)
{
    static const sffn_activity no_activity = SFFN_ACTIVITY_INIT;
    uint32_t d_ff = m->layers[i].config.d_ff;
    struct sample sample;
    char name[32];
    int status;
    snprintf(name, sizeof name, "layer-%u.result", (unsigned)i);
    memset(out, 0, sizeof *out);
    if (read_result(work, name, d_ff, out)) {
        fit_point(&out->fitted, &m->layers[i].config);
        return CLI_OK;
    }
    memset(out, 0, sizeof *out);
    out->activity = no_activity;
    out->rule_value = out->rule_cett = out->rule_density = NAN;
    status = open_sample(q, m, i, work, wants_moment(q), &sample);
    if (status == CLI_OK && (cett >= 0.0 || q->target_density >= 0.0))
        status = find_rule(q, m, i, &sample, cett, out);
    if (status == CLI_OK)
        status = find_plan(q, m, i, &sample, out);
    close_sample(&sample);
    return status == CLI_OK ? write_result(work, name, d_ff, out) : status;
}

void prepared_layer_free(struct prepared_layer *layer)
{
    free(layer->rule_thresholds);
    fit_free(&layer->fitted);
}
