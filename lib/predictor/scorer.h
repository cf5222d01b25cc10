/* scorer.h  What predictors and routers share: a linear map whose outputs are compared with limits. Score i > limit i keeps row i. */
#ifndef SFFN_SCORER_H
#define SFFN_SCORER_H
#include "matmul/rows.h"

struct sffn_scorer {
    struct sffn_matmul m;
    uint32_t block_size;  /* neurons per row: 1 for predictors, an expert's size for routers */
    float *bias;          /* [n_rows] or NULL */
    float *limits;        /* [n_rows], or NULL: */
    float limit;
    /* The limit sinks by margin * error[i] * ||x||: doubt that grows with the row's error and the input. NULL: it does not. */
    float *error;
    float margin;
};

#define SFFN_SCORE_CHUNK 256 /* rows scored before they are decided */

/* Scratch of one thread, in bytes. */
size_t sffn_scorer_scratch_bytes(const struct sffn_scorer *s);
/* Thread ith's rows for the tile's tokens: scores, when wanted, to scores[t * scores_stride + row]; the kept ones, each as `expand`
 * consecutive list rows, to its segment of *list (NULL: not wanted). NaN is kept, so that it is seen. */
void sffn_scorer_run(const struct sffn_kernels *k, const struct sffn_scorer *s, const float *x, size_t x_stride,
                     size_t n_tokens, float *scores, size_t scores_stride, struct sffn_list *list, uint32_t expand,
                     void *scratch, uint32_t ith, uint32_t nth);
/* The public call around it: all tokens, own scratch, results into a set. */
sffn_status sffn_scorer_call(sffn_context *ctx, const struct sffn_scorer *s, const float *x, size_t x_stride,
                             size_t n_tokens, float *scores, size_t scores_stride, sffn_active_set *active);
uint64_t sffn_scorer_weight_bytes(const struct sffn_scorer *s);
void sffn_scorer_fini(const sffn_context *ctx, struct sffn_scorer *s);
/* A copy of n floats, or NULL when v is NULL; *status tells an allocator that returned NULL. */
float *sffn_copy_floats(const sffn_context *ctx, const char *what, const float *v, size_t n, sffn_status *status);

#endif /* SFFN_SCORER_H */
