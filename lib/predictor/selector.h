/* selector.h  What predictors and routers share: x -> scores -> the rows that are let through.
 *
 * A selector is a short list of steps. Every thread runs every step on its share, with a barrier between steps and none inside: the
 * pipeline's SELECT stage occurs once per step. The last step writes the list. What a step leaves for the next one lies in the scratch of
 * struct sffn_select_scratch, and nothing is decided by who was faster, so the list does not depend on the number of threads.
 *
 * A threshold is decided where a score is made. What needs all scores first (top-k) gets two more steps: sffn_select_cut() finds where to
 * cut, sffn_select_keep() lists what lies above. */
#ifndef SFFN_SELECTOR_H
#define SFFN_SELECTOR_H
#include "active_set/top_k.h"
#include "matmul/rows.h"
#include "sparseffn/predictor.h"

/* A linear map and the limits its outputs are compared with. Row i is kept when score i > limit i (>= with keep_equal), or NaN. */
struct sffn_scorer {
    struct sffn_matmul m;
    float *bias;          /* [n_rows] or NULL */
    float *limits;        /* [n_rows], or NULL: */
    float limit;
    int keep_equal;
    /* The limit sinks by margin * error[i] * ||x||: doubt that grows with the row's error and the input. NULL: it does not. */
    float *error;
    float margin;
};

struct sffn_select_scratch {
    float *scores;         /* [SFFN_TILE_TOKENS][n_rows], when a later step wants them */
    struct sffn_cut *cuts; /* [SFFN_TILE_TOKENS] */
    uint8_t *own;          /* [nth][own_bytes]: quantised x and products, or a histogram */
    size_t own_bytes;
};

/* A tile on its way through a selector, as one thread sees it. */
struct sffn_selection {
    const struct sffn_kernels *k;
    const float *x; /* the selector's own input */
    size_t x_stride, n_tokens;
    float *scores;  /* [n_tokens] rows, scores_stride apart; NULL: nobody wants them */
    size_t scores_stride;
    struct sffn_list *list; /* the result; room for n_rows * expand entries and a segment per thread */
    uint32_t expand;        /* list rows per kept row: an expert's neurons, or 1 */
    struct sffn_select_scratch scratch;
    uint32_t ith, nth;
};

struct sffn_selector;
typedef void sffn_select_step_fn(const struct sffn_selector *s, const struct sffn_selection *run);
#define SFFN_SELECT_MAX_STEPS 4

struct sffn_selector {
    uint32_t n_inputs;   /* length of x */
    uint32_t n_rows;     /* scores of a token */
    uint32_t block_size; /* neurons per row: 1 for predictors, an expert's size for routers */
    struct sffn_scorer scorer;
    int32_t decision; /* enum sffn_decision */
    uint32_t top_k;   /* rounded up to its multiple already */
    sffn_select_step_fn *steps[SFFN_SELECT_MAX_STEPS];
    uint32_t n_steps;
};

/* ---- selector.c ---- */

#define SFFN_SCORE_CHUNK 256 /* rows scored before they are decided */

/* Appends a step; the kinds do this, then sffn_selector_add_decision() once. */
void sffn_selector_add_step(struct sffn_selector *s, sffn_select_step_fn *step);
/* Appends a row to a thread's segment of a list, as its `expand` neurons, unless no token keeps it. */
static inline void sffn_select_append(const struct sffn_selection *run, struct sffn_list *list,
                                      struct sffn_segment *segment, uint32_t row, unsigned mask)
{
    for (uint32_t e = 0; mask && e < run->expand; e++) {
        const size_t pos = segment->start + segment->n++;
        list->rows[pos] = row * run->expand + e;
        list->masks[pos] = (uint8_t)mask;
    }
}
/* The step of a linear map: s->scorer times x, decided at once unless the decision needs all scores. */
void sffn_select_linear(const struct sffn_selector *s, const struct sffn_selection *run);
/* Thread ith's share of the list `in` (one entry per row; rows NULL: every row): scores to run->scores when wanted, the kept rows to *out
 * (NULL: not decided here), which must not be `in`. So a later step can look only at what an earlier one let through. `input` is x, or what
 * an earlier step made of it. */
void sffn_score_rows(const struct sffn_selection *run, const struct sffn_scorer *scorer, const float *input,
                     size_t input_stride, const struct sffn_list *in, struct sffn_list *out);
/* Bytes of scratch for nth threads; with base, also fills *scratch. */
size_t sffn_select_scratch_layout(const struct sffn_selector *s, uint32_t nth, struct sffn_select_scratch *scratch,
                                  void *base);
/* The public call around it: all tokens, own scratch, results into a set. */
sffn_status sffn_selector_call(sffn_context *ctx, const struct sffn_selector *s, const float *x, size_t x_stride,
                               size_t n_tokens, float *scores, size_t scores_stride, sffn_active_set *active);
uint64_t sffn_selector_weight_bytes(const struct sffn_selector *s);
void sffn_selector_fini(const sffn_context *ctx, struct sffn_selector *s);
/* A copy of n floats, or NULL when v is NULL; *status tells an allocator that returned NULL. */
float *sffn_copy_floats(const sffn_context *ctx, const char *what, const float *v, size_t n, sffn_status *status);

/* ---- decide.c ---- */

/* Appends the steps that s->decision needs after the scores. */
void sffn_selector_add_decision(struct sffn_selector *s);
/* 1 when the decision is not made where the scores are: the scores must then all be kept. */
int sffn_selector_decides_later(const struct sffn_selector *s);
/* Scratch of one thread in these steps. */
size_t sffn_decide_own_bytes(const struct sffn_selector *s);

#endif /* SFFN_SELECTOR_H */
