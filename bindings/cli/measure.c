#include "measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static sffn_active_set *make_set(sffn_context *ctx, uint32_t n_blocks, uint32_t max_tokens)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    sffn_active_set *set = NULL;
    sffn_status status;
    config.n_blocks = n_blocks;
    config.max_tokens = max_tokens;
    status = sffn_active_set_create(ctx, &config, &set);
    if (status != SFFN_OK)
        cli_fail_status(ctx, status, NULL);
    return set;
}

int measure_create(struct measure *m, sffn_context *ctx, uint32_t d_model, uint32_t d_ff,
                   uint32_t max_tokens)
{
    memset(m, 0, sizeof *m);
    m->ctx = ctx;
    m->d_model = d_model;
    m->d_ff = d_ff;
    m->max_tokens = max_tokens;
    m->h_dense = cli_alloc(max_tokens, d_ff * sizeof(float));
    m->h_sparse = cli_alloc(max_tokens, d_ff * sizeof(float));
    m->h_skipped = cli_alloc(max_tokens, d_ff * sizeof(float));
    m->y_dense = cli_alloc(max_tokens, d_model * sizeof(float));
    m->y_sparse = cli_alloc(max_tokens, d_model * sizeof(float));
    m->y_skipped = cli_alloc(max_tokens, d_model * sizeof(float));
    m->used = make_set(ctx, d_ff, max_tokens);
    m->truth = m->used != NULL ? make_set(ctx, d_ff, max_tokens) : NULL;
    return m->truth != NULL ? CLI_OK : CLI_FAILED;
}

void measure_free(struct measure *m)
{
    sffn_active_set_destroy(m->used);
    sffn_active_set_destroy(m->truth);
    free(m->h_dense);
    free(m->h_sparse);
    free(m->h_skipped);
    free(m->y_dense);
    free(m->y_sparse);
    free(m->y_skipped);
    memset(m, 0, sizeof *m);
}

/* Of a token for which so many rows of gate, up and down are read. */
static double row_bytes(const sffn_ffn_info *info, double selected, double used, double nonzero)
{
    double gate = (double)sffn_dtype_row_bytes(info->gate_dtype, info->d_model),
           up = (double)sffn_dtype_row_bytes(info->up_dtype, info->d_model),
           down = (double)sffn_dtype_row_bytes(info->down_dtype, info->d_model);
    return (info->is_gated ? selected * gate + used * up : selected * up) + nonzero * down;
}

/* Square of || a - b ||; b may be NULL. */
static double norm2(const float *a, const float *b, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        double value = (double)a[i] - (b != NULL ? (double)b[i] : 0.0);
        sum += value * value;
    }
    return sum;
}

sffn_status measure_begin(struct measure *m, const sffn_ffn *ffn, const float *x,
                          const float *select_x, size_t n_tokens)
{
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    sffn_status status;
    m->ffn = ffn;
    m->x = x;
    m->select_x = select_x;
    m->n_tokens = n_tokens;
    args.x = x;
    args.n_tokens = n_tokens;
    args.stats = &stats;
    args.y = m->y_dense;
    args.h = m->h_dense;
    if (!m->against_gate) {
        args.select = SFFN_SELECT_DENSE;
        status = sffn_ffn_forward(m->ctx, ffn, &args);
        if (status != SFFN_OK)
            return status;
        args.y = m->y_sparse;
        args.h = NULL;
    }
    args.select = SFFN_SELECT_GATE;
    args.active_out = m->truth;
    status = sffn_ffn_forward(m->ctx, ffn, &args);
    m->n_active = stats.n_active;
    return status;
}

/* What the neurons contribute that only the dense call has. */
static sffn_status add_cett(struct measure *m, const float *down_bias, struct measure_sums *sums)
{
    sffn_status status = SFFN_OK;
    size_t n = m->n_tokens * m->d_ff;
    int has_skipped = 0;
    for (size_t i = 0; i < n; i++) {
        m->h_skipped[i] = m->h_sparse[i] != 0.0f ? 0.0f : m->h_dense[i];
        has_skipped |= m->h_skipped[i] != 0.0f;
    }
    if (!has_skipped)
        return SFFN_OK;
    status = sffn_ffn_down(m->ctx, m->ffn, m->h_skipped, m->n_tokens, NULL, m->y_skipped);
    for (size_t t = 0; status == SFFN_OK && t < m->n_tokens; t++) {
        double y2 = norm2(m->y_dense + t * m->d_model, NULL, m->d_model);
        if (y2 > 0.0)
            sums->cett += sqrt(norm2(m->y_skipped + t * m->d_model, down_bias, m->d_model) / y2);
    }
    return status;
}

enum { LATER_EVERY = 8 }; /* tokens; each is a call of its own */

/* What a call on one token reads besides the rows that were selected, and the selector's first step: of a cascade, its later ones. */
static sffn_status add_later_bytes(struct measure *m, const sffn_ffn *ffn,
                                   const sffn_ffn_args *batch, struct measure_sums *sums)
{
    sffn_ffn_args args = *batch;
    sffn_ffn_info info = SFFN_FFN_INFO_INIT;
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    sffn_status status = SFFN_OK;
    sffn_ffn_get_info(ffn, &info);
    args.n_tokens = 1;
    args.h = NULL;
    args.active_out = NULL;
    args.y = m->y_skipped;
    args.stats = &stats;
    for (size_t t = 0; status == SFFN_OK && t < batch->n_tokens; t += LATER_EVERY) {
        args.x = batch->x + t * m->d_model;
        args.select_x = batch->select_x != NULL ? batch->select_x + t * m->d_model : NULL;
        status = sffn_ffn_forward(m->ctx, ffn, &args);
        if (status != SFFN_OK || stats.path != SFFN_PATH_SPARSE)
            continue;
        sums->later_bytes += (double)stats.touched_bytes - (double)info.selector_bytes -
                             row_bytes(&info, (double)stats.n_selected, (double)stats.n_active,
                                       (double)stats.n_nonzero);
        sums->n_later++;
    }
    return status;
}

sffn_status measure_add(struct measure *m, const sffn_ffn *ffn, const struct selectors *selectors,
                        uint32_t layer, const float *down_bias, struct measure_sums *sums)
{
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    sffn_status status;
    args.x = m->x;
    args.select_x = m->select_x;
    args.n_tokens = m->n_tokens;
    status = selector_run(m->ctx, selectors, layer, &args);
    args.stats = &stats;
    args.y = m->y_sparse;
    args.h = m->h_sparse;
    args.active_out = m->used;
    if (status == SFFN_OK)
        status = sffn_ffn_forward(m->ctx, ffn != NULL ? ffn : m->ffn, &args);
    for (size_t t = 0; status == SFFN_OK && t < m->n_tokens; t++) {
        const float *y_dense = m->y_dense + t * m->d_model;
        double recall = 1.0;
        size_t used = sffn_active_set_count(m->used, t);
        /* Without a set of its own, the call only tells the batch's sum. */
        double selected = args.active != NULL ? (double)sffn_active_set_count(args.active, t) *
                                                    sffn_active_set_block_size(args.active)
                                              : (double)stats.n_selected / (double)m->n_tokens;
        status = sffn_active_set_recall(m->used, m->truth, t, &recall);
        sums->recall += recall;
        sums->precision += selected > 0.0 ? (double)used / selected : 1.0;
        sums->error2 += norm2(m->y_sparse + t * m->d_model, y_dense, m->d_model);
        sums->y2 += norm2(y_dense, NULL, m->d_model);
    }
    if (status == SFFN_OK && args.active != NULL) {
        uint64_t bytes = 0;
        const sffn_predictor *predictor = selectors->layers[layer].predictor;
        status =
            sffn_predictor_count_bytes(m->ctx, predictor, m->x, m->d_model, m->n_tokens, &bytes);
        sums->later_bytes +=
            (double)bytes - (double)(m->n_tokens * sffn_predictor_weight_bytes(predictor));
        sums->n_later += m->n_tokens;
    } else if (status == SFFN_OK && args.select != SFFN_SELECT_GATE &&
               args.select != SFFN_SELECT_DENSE) {
        status = add_later_bytes(m, ffn != NULL ? ffn : m->ffn, &args, sums);
    }
    if (status == SFFN_OK)
        status = add_cett(m, down_bias, sums);
    sums->n_tokens += m->n_tokens;
    sums->n_active += m->n_active;
    sums->n_selected += stats.n_selected;
    sums->n_used += stats.n_active;
    sums->n_nonzero += stats.n_nonzero;
    return status;
}

void measure_row(const struct measure_sums *s, const sffn_ffn *ffn, const struct selector *selector,
                 struct measure_row *row)
{
    sffn_ffn_info info = SFFN_FFN_INFO_INIT;
    double n = s->n_tokens != 0 ? (double)s->n_tokens : 1.0;
    double selected = (double)s->n_selected / n, used = (double)s->n_used / n;
    sffn_ffn_get_info(ffn, &info);
    row->density = (double)s->n_active / n / info.d_ff;
    row->predicted_density = selected / info.d_ff;
    row->down_density = (double)s->n_nonzero / n / info.d_ff;
    row->recall = s->recall / n;
    row->precision = s->precision / n;
    row->cett = s->cett / n;
    row->relative_error = s->y2 > 0.0 ? sqrt(s->error2 / s->y2) : 0.0;
    row->bytes = row_bytes(&info, selected, used, (double)s->n_nonzero / n);
    if (s->n_later != 0)
        row->bytes += s->later_bytes / (double)s->n_later;
    row->bytes += (double)(selector->predictor == NULL && selector->select != SFFN_SELECT_GATE
                               ? info.selector_bytes
                               : selector_bytes(selector));
    row->dense_bytes = (double)info.weight_bytes;
    row->ns = row->dense_ns = NAN;
}
