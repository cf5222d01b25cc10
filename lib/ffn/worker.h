/* worker.h  One thread in one stage of one tile, and what the stages that forward.c runs have in common. */
#ifndef SFFN_FFN_WORKER_H
#define SFFN_FFN_WORKER_H
#include <string.h>

#include "ffn/ffn.h"

struct sffn_worker {
    const struct sffn_kernels *k;
    const struct sffn_call *call;
    const struct sffn_ffn *ffn;
    struct sffn_workspace w;
    size_t token, tile; /* first token of the tile, and how many */
    uint32_t ith, nth;
    struct sffn_turn *turns; /* [nth]: of this phase; NULL: every thread keeps to its share */
    struct sffn_counters *counters;
    const float *weights; /* [tile] rows: of the experts of a mixture; NULL: none */
    size_t weights_stride;
    uint32_t expert_size;
    int collects_stats;
    struct sffn_segment all; /* the one segment of "every neuron" */
};

static inline const float *sffn_tile_x(const struct sffn_worker *w)
{
    return w->call->args.x + w->token * w->call->args.x_stride;
}

/* Room for SFFN_CHUNK_VALUES products. */
static inline float *sffn_products(const struct sffn_worker *w)
{
    return w->w.values + w->ith * SFFN_CHUNK_VALUES;
}

/* ---- lists ---- */

/* Every neuron, in order. */
static inline struct sffn_list sffn_every_row(struct sffn_worker *w, float *values)
{
    w->all.start = 0;
    w->all.n = w->ffn->d_ff;
    const struct sffn_list list = {NULL, NULL, values, &w->all, 1};
    return list;
}

/* This thread's segments behind the first n stay empty. */
static inline void sffn_clear_segments(const struct sffn_worker *w, struct sffn_list *list,
                                       uint32_t n)
{
    const struct sffn_segment none = {0, 0};
    for (uint32_t i = n; i < w->w.n_pieces; i++)
        list->segments[w->ith * w->w.n_pieces + i] = none;
}

/* Appends to one segment of a list. */
struct sffn_appender {
    struct sffn_list *list;
    struct sffn_segment *segment;
};

static inline struct sffn_appender sffn_append_to(struct sffn_list *list, uint32_t segment,
                                                  size_t start)
{
    struct sffn_appender a = {list, &list->segments[segment]};
    a.segment->start = start;
    a.segment->n = 0;
    return a;
}

/* n_tokens: the tile's. */
static inline void sffn_append(struct sffn_appender *a, uint32_t row, unsigned mask,
                               const float *values, size_t n_tokens)
{
    const size_t pos = a->segment->start + a->segment->n++;
    a->list->rows[pos] = row;
    a->list->masks[pos] = (uint8_t)mask;
    memcpy(a->list->values + pos * n_tokens, values, n_tokens * sizeof(float));
}

/* ---- values on their way to a list ---- */

/* h times the weight of its expert. */
static inline float sffn_weigh(const struct sffn_worker *w, uint32_t row, size_t t, float h)
{
    return w->weights ? h * w->weights[t * w->weights_stride + row / w->expert_size] : h;
}

/* h of one row has been made: shows it to the caller, and returns what the down stage gets. */
static inline float sffn_note_h(struct sffn_worker *w, uint32_t row, size_t t, float h)
{
    if (w->call->args.h)
        w->call->args.h[(w->token + t) * w->call->args.h_stride + row] = h;
    return sffn_axpy_note(&w->ffn->down, row, h, w->w.axpy.h_max + w->ith * SFFN_TILE_TOKENS + t);
}

/* 1 when what a stage makes waits for the rule: every value that is not zero goes on the list, and sffn_run_keep() does the rest. */
static inline int sffn_waits_for_rule(const struct sffn_worker *w, enum sffn_rule_on made)
{
    return sffn_rule_decides_later(w->ffn) && (w->ffn->rule_on == made || !w->ffn->is_gated);
}

/* ---- lists.c ---- */

/* The neurons that the gate has to look at. */
struct sffn_list sffn_selected_rows(struct sffn_worker *w);
/* zeros -> h and s where the caller wants all of them, and the values that a rule waits for */
void sffn_run_clear(struct sffn_worker *w);
/* one step of the selector, or the caller's set -> selected */
void sffn_run_select(struct sffn_worker *w, uint32_t step);
/* the caller's set and s -> active (nonzero for ungated layers) */
void sffn_run_import(struct sffn_worker *w);
/* all |s| or |h| of a token -> where the rule cuts them. The cuts are shared out: finding one is too short to be divided. */
void sffn_run_cut(struct sffn_worker *w);
/* active or nonzero -> the same without what lies below the cuts. Only now is it known which h goes into the sums, and their scale. */
void sffn_run_keep(struct sffn_worker *w);
/* active -> the caller's set, if there is one */
void sffn_run_export(struct sffn_worker *w);

/* ---- gate_up.c ---- */

/* selected -> active, with s = act(g); for ungated layers s is h, and active is nonzero. with_up: -> nonzero, with h, piece by piece, without waiting
 * in between; active neurons that come in clusters make a piece's time at most twice that of its gate. */
void sffn_run_gate(struct sffn_worker *w, int with_up);
/* active -> nonzero, with h = s * u */
void sffn_run_up(struct sffn_worker *w);
/* everything -> h, without lists; the rule is not applied */
void sffn_run_dense_h(struct sffn_worker *w);

/* ---- check.c ---- */

/* Compares the selection of those tokens of the tile whose turn it is with what the whole gate finds. */
void sffn_check_selection(struct sffn_worker *w);

/* ---- stats.c ---- */

/* Tells what the call did, in its own statistics and the layer's. One thread, after the last stage. */
void sffn_finish_call(const struct sffn_worker *w, uint32_t nth);

#endif /* SFFN_FFN_WORKER_H */
