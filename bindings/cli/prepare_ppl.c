/*
 * prepare_ppl.c  PPL-p% of the Sparsing Law (arXiv:2411.02335): the largest CETT, one for all layers, whose perplexity is at most (1 + p %)
 * times dense. Bisection; every step finds all thresholds anew and runs the validation text.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "heldout.h"
#include "prepare_job.h"

/* CETT to about a thousandth: finer steps would tell the sample's noise, not the model's. */
enum { N_STEPS = 10 };
static const char steps_name[] =
    "perplexity.txt"; /* lines of CETT and perplexity; CETT -1: dense */

struct steps {
    char text[64 * (N_STEPS + 2)];
    size_t n;
};

static int known_step(const struct steps *steps, double cett, double *perplexity)
{
    const char *line = steps->text;
    double a, b;
    while (sscanf(line, "%lf %lf", &a, &b) == 2) {
        if (a == cett) {
            *perplexity = b;
            return 1;
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return 0;
}

/* Gives every layer the rule that meets the target. */
static int set_rules(const struct prepare_request *q, struct llama *m, const struct work *work,
                     double cett)
{
    int status = CLI_OK;
    for (uint32_t i = 0; status == CLI_OK && i < m->info.n_layers; i++) {
        struct prepared_layer layer;
        sffn_ffn_config config = m->layers[i].config;
        sffn_ffn *ffn = NULL;
        memset(&layer, 0, sizeof layer);
        status = prepare_rule(q, m, i, work, cett, &layer);
        prepared_rule(&layer, &config);
        config.dense_tokens = 0;
        if (status == CLI_OK) {
            sffn_status made = sffn_ffn_create(m->ctx, &config, &ffn);
            status = made == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, made, NULL);
        }
        if (status == CLI_OK) {
            sffn_ffn_destroy(m->layers[i].ffn);
            m->layers[i].ffn = ffn;
        }
        prepared_layer_free(&layer);
    }
    return status;
}

static int step(const struct prepare_request *q, struct llama *m, const struct work *work,
                const struct validation *text, struct steps *steps, double cett, double *perplexity)
{
    struct perplexity result;
    char what[48];
    int status = CLI_OK;
    if (known_step(steps, cett, perplexity))
        return CLI_OK;
    m->select = cett < 0.0 ? SFFN_SELECT_DENSE : SFFN_SELECT_GATE;
    snprintf(what, sizeof what, cett < 0.0 ? "validation, dense" : "validation, CETT %.4f", cett);
    if (cett >= 0.0)
        status = set_rules(q, m, work, cett);
    if (status == CLI_OK)
        status =
            heldout_perplexity(m, text->tokens, text->n, text->window, text->bos, what, &result);
    if (status != CLI_OK)
        return status;
    *perplexity = result.value;
    steps->n += (size_t)snprintf(steps->text + steps->n, sizeof steps->text - steps->n,
                                 "%.17g %.17g\n", cett, result.value);
    return work_write(work, steps_name, steps->text, steps->n);
}

int prepare_find_cett(const struct prepare_request *q, struct llama *m, const struct work *work,
                      const struct validation *text, double *cett)
{
    struct steps steps;
    double dense = 0.0, sparse = 0.0, low = 0.0, high = 1.0, limit;
    size_t bytes = 0;
    char *known = work_read(work, steps_name, &bytes);
    int status;
    memset(&steps, 0, sizeof steps);
    if (known != NULL && bytes < sizeof steps.text) {
        memcpy(steps.text, known, bytes);
        steps.n = bytes;
    }
    free(known);
    status = step(q, m, work, text, &steps, -1.0, &dense);
    limit = dense * (1.0 + q->target_ppl / 100.0);
    for (int i = 0; status == CLI_OK && i < N_STEPS; i++) {
        double middle = (low + high) / 2.0;
        status = step(q, m, work, text, &steps, middle, &sparse);
        if (sparse <= limit)
            low = middle;
        else
            high = middle;
    }
    *cett = low;
    return status;
}
