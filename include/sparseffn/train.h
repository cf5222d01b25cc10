/** @file train.h  What training recipes share with the library: the schedule of ProSparse's regulariser. */
#ifndef SFFN_TRAIN_H
#define SFFN_TRAIN_H
#include "sparseffn/status.h"
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
/** One stage of ProSparse (arXiv 2402.13516, section 3): the accumulated step at which it ends, stage 0 included, and the factor it ends with. */
typedef struct sffn_prosparse_stage {
    uint64_t end_step;
    double lambda;
} sffn_prosparse_stage;

/**
 * The factor of the L1 penalty on h at training step @p step (1 is the first step; 0, before it, gives stage 0's factor).
 * Stage 0, stages[0], is constant: activation substitution, usually with lambda 0. Stage 1 is constant at its own lambda, so that the factor jumps
 * at its start. A later stage i rises along half a sine wave, lambda_(i-1) + (lambda_i - lambda_(i-1)) * (1 - cos(pi * u)) / 2 with u the part of the
 * stage that is done, slope 0 at both ends. Behind the last stage the factor stays. At an end_step the value is that stage's lambda exactly.
 * @param stages   n_stages >= 1; end steps strictly ascending, factors finite, >= 0 and never descending
 * @param[out] lambda  untouched on error
 * @retval SFFN_ERR_INVALID_ARGUMENT  a NULL pointer, n_stages 0, or stages out of order
 * Thread-safe, no allocation, reads all of @p stages at each call. Since 0.1.
 */
SFFN_API sffn_status sffn_prosparse_lambda(const sffn_prosparse_stage *stages, size_t n_stages, uint64_t step, double *lambda);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_TRAIN_H */
