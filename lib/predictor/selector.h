/* selector.h  What predictors and routers share: x -> scores -> the rows that are let through.
 *
 * A selector is a short list of steps. Every thread runs every step on its share, with a barrier between steps and none inside: the
 * pipeline's SELECT stage occurs once per step. The last step writes the list. What a step leaves for the next one lies in the scratch of
 * struct sffn_select_scratch, and nothing is decided by who was faster, so the list does not depend on the number of threads.
 *
 * A threshold is decided where a score is made. What needs all scores first (top-k, mass, weights) is decided by steps of its own, which
 * sffn_selector_add_decision() appends. */
#ifndef SFFN_SELECTOR_H
#define SFFN_SELECTOR_H
#include "active_set/top_k.h"
#include "matmul/rows.h"
#include "sparseffn/predictor.h"
#include "sparseffn/router.h"

/* A linear map and the limits its outputs are compared with. Row i is kept when score i > limit i (>= with keep_equal), or NaN. */
struct sffn_scorer {
    struct sffn_matmul m;
    float *bias;   /* [n_rows] or NULL */
    float *limits; /* [n_rows], or NULL: */
    float limit;
    int keep_equal;
    /* The limit sinks by margin * error[i] * ||x||: doubt that grows with the row's error and the input. NULL: it does not. */
    float *error;
    float margin;
};

struct sffn_select_scratch {
    float *hidden;         /* [SFFN_TILE_TOKENS][n_hidden]: what lies between two linear maps */
    float *scores;         /* [SFFN_TILE_TOKENS][n_rows], when a later step wants them */
    struct sffn_cut *cuts; /* [SFFN_TILE_TOKENS][n_groups], rows counted from the group's first */
    float *weights;        /* [SFFN_TILE_TOKENS][n_rows], with weighting */
    uint8_t *own;          /* [nth][own_bytes]: quantised x and products, or a histogram */
    size_t own_bytes;
};

/* A tile on its way through a selector, as one thread sees it. */
struct sffn_selection {
    const struct sffn_kernels *k;
    const float *x; /* the selector's own input */
    size_t x_stride, n_tokens;
    float *scores; /* [n_tokens] rows, scores_stride apart; NULL: nobody wants them */
    size_t scores_stride;
    /* where this thread adds what it read besides sffn_selector_weight_bytes(); NULL: nobody
     * asks */
    uint64_t *later_bytes;
    /* the result; room for n_rows * expand entries and a segment per thread */
    struct sffn_list *list;
    uint32_t expand; /* list rows per kept row: an expert's neurons, or 1 */
    struct sffn_select_scratch scratch;
    uint32_t ith, nth;
};

struct sffn_selector;
typedef void sffn_select_step_fn(const struct sffn_selector *s, const struct sffn_selection *run);
#define SFFN_SELECT_MAX_STEPS 4

/* enum sffn_decision and enum sffn_router_rule have the same values where they mean the same. */
enum sffn_select_rule { SFFN_SELECT_THRESHOLD = 0, SFFN_SELECT_TOP_K = 1, SFFN_SELECT_MASS = 2 };

struct sffn_selector {
    uint32_t n_inputs;   /* length of x */
    uint32_t n_rows;     /* scores of a token */
    uint32_t n_groups;   /* layers, decided apart from each other: n_rows / n_groups rows each */
    uint32_t block_size; /* neurons per row: 1 for predictors, an expert's size for routers */
    struct sffn_matmul hidden; /* the first of two linear maps; n_rows 0: there is one */
    float *hidden_bias;        /* [hidden.n_rows] or NULL */
    int32_t hidden_activation; /* enum sffn_hidden_activation */
    int normalizes;            /* x counts as x / ||x|| */
    struct sffn_scorer scorer;
    uint8_t *signs; /* makes the scores instead: packed sign bits of the rows */
    size_t signs_bytes;
    int64_t alpha;
    struct sffn_cascade *cascade;     /* the same; cascade.c */
    sffn_predictor_callback callback; /* the same */
    void *callback_user;
    enum sffn_select_rule rule;
    uint32_t top_k; /* rounded up to its multiple already */
    float mass;
    int32_t weighting; /* enum sffn_weighting */
    /* scores are kept for steps of their own: any rule but a threshold, weights, scores that
     * come all at once */
    int decides_later;
    sffn_select_step_fn *steps[SFFN_SELECT_MAX_STEPS];
    uint32_t n_steps;
};

/* ---- selector.c ---- */

#define SFFN_SCORE_CHUNK 256 /* rows scored before they are decided */

/* Appends a step; the kinds do this, then sffn_selector_add_decision() once. */
void sffn_selector_add_step(struct sffn_selector *s, sffn_select_step_fn *step);
/* NaN passes. */
static inline int sffn_score_passes(const struct sffn_scorer *scorer, size_t row, float score,
                                    float doubt)
{
    float limit = scorer->limits ? scorer->limits[row] : scorer->limit;
    if (scorer->error)
        limit -= doubt * scorer->error[row];
    return scorer->keep_equal ? !(score < limit) : !(score <= limit);
}
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
/* Steps: s->scorer times x ... */
void sffn_select_linear(const struct sffn_selector *s, const struct sffn_selection *run);
/* ... or s->hidden times x with its activation, then s->scorer times that. Both decide at once unless s->decides_later. */
void sffn_select_hidden(const struct sffn_selector *s, const struct sffn_selection *run);
void sffn_select_from_hidden(const struct sffn_selector *s, const struct sffn_selection *run);
/* Thread ith's share of the list `in` (one entry per row; rows NULL: every row): scores to run->scores when wanted, the kept rows to *out
 * (NULL: not decided here), which must not be `in`. So a later step can look only at what an earlier one let through. `input` is x, or what
 * an earlier step made of it; products are multiplied by scale[t] (NULL: 1). */
void sffn_score_rows(const struct sffn_selection *run, const struct sffn_scorer *scorer,
                     const float *input, size_t input_stride, const float *scale,
                     const struct sffn_list *in, struct sffn_list *out);
/* Bytes of scratch for nth threads; with base, also fills *scratch. */
size_t sffn_select_scratch_layout(const struct sffn_selector *s, uint32_t nth,
                                  struct sffn_select_scratch *scratch, void *base);
/* The public call around it: all tokens, own scratch, results into one set per group. active NULL: not wanted. bytes NULL, or what the
 * tokens read when they come one by one. */
sffn_status sffn_selector_call(sffn_context *ctx, const struct sffn_selector *s, const float *x,
                               size_t x_stride, size_t n_tokens, float *scores,
                               size_t scores_stride, sffn_active_set *const *active,
                               uint64_t *bytes);
/* Packs one of a selector's matrices into memory of its own; `what` names it in error texts. A NaN in it is an error. */
sffn_status sffn_selector_pack(sffn_context *ctx, const char *what, const sffn_weights *weights,
                               uint32_t n_rows, uint32_t n_cols, int32_t dtype,
                               struct sffn_matmul *m);
/* The same without that look. */
sffn_status sffn_selector_pack_unchecked(sffn_context *ctx, const char *what,
                                         const sffn_weights *weights, uint32_t n_rows,
                                         uint32_t n_cols, int32_t dtype, struct sffn_matmul *m);
/* Of a cascade: what its first step reads, which is the same for any x. */
uint64_t sffn_selector_weight_bytes(const struct sffn_selector *s);
void sffn_selector_fini(const sffn_context *ctx, struct sffn_selector *s);
/* A NaN among n thresholds or biases (v NULL: none) would let its row through for ever: an error. */
sffn_status sffn_check_no_nan(const sffn_context *ctx, const char *object, const char *what,
                              const float *v, size_t n);
/* A copy of n floats, or NULL when v is NULL; *status tells an allocator that returned NULL. */
float *sffn_copy_floats(const sffn_context *ctx, const char *what, const float *v, size_t n,
                        sffn_status *status);

/* ---- signs.c ---- */

/* Scratch of one thread in the step that counts signs. */
size_t sffn_signs_own_bytes(const struct sffn_selector *s);
/* ---- cascade.c ---- */

/* The step that runs all of a cascade's steps: each thread's rows go through them on their own. */
void sffn_select_cascade(const struct sffn_selector *s, const struct sffn_selection *run);
/* Scratch of one thread in it; 0 without a cascade. */
size_t sffn_cascade_own_bytes(const struct sffn_selector *s);
/* What step `step` of it reads of one row for one token, SFFN_CASCADE_COLUMNS being the one before the planes. */
#define SFFN_CASCADE_COLUMNS UINT32_MAX
uint64_t sffn_cascade_row_bytes(const struct sffn_selector *s, uint32_t step);
void sffn_cascade_get_bits(const struct sffn_selector *s, uint32_t *bits, uint32_t *step_bits,
                           float *column_share);
/* What its first step reads, which is the same for any x. */
uint64_t sffn_cascade_first_bytes(const struct sffn_selector *s);
void sffn_cascade_fini(const sffn_context *ctx, struct sffn_selector *s);

/* ---- decide.c ---- */

/* Appends the steps that the rule needs after the scores; the last one. */
void sffn_selector_add_decision(struct sffn_selector *s);
/* Scratch of one thread in these steps. */
size_t sffn_decide_own_bytes(const struct sffn_selector *s);

#endif /* SFFN_SELECTOR_H */
