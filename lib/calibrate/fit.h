/* fit.h  What clustering and the fits share. */
#ifndef SFFN_LIB_FIT_H
#define SFFN_LIB_FIT_H
#include "sparseffn/calibrate.h"

/* A matrix as floats [n_rows][n_cols]: allocated, of *bytes bytes, the caller frees it. NaN and infinity are refused. `what` names it in texts. */
sffn_status sffn_decode_weights(sffn_context *ctx, const char *what, const sffn_weights *weights,
                                uint32_t n_rows, uint32_t n_cols, float **out, size_t *bytes);

#endif /* SFFN_LIB_FIT_H */
