/* apart.h  Rows of q4_0 with the scales of all blocks first and then their quants (kernels.h), to and from ggml's blocks, without loss. */
#ifndef SFFN_APART_H
#define SFFN_APART_H
#include "kernels/kernels.h"

#define SFFN_Q4_0_BYTES       18 /* of a block */
#define SFFN_APART_SCALE_STEP 2  /* from one scale to the next */

/* A row of n_blocks blocks, in SFFN_APART_ROW_BYTES; the two must not overlap. */
void sffn_apart_from_blocks(const void *blocks, size_t n_blocks, void *row);
/* Blocks [first, first + n) of a row of n_blocks. */
void sffn_apart_to_blocks(const void *row, size_t n_blocks, size_t first, size_t n, void *blocks);

#endif /* SFFN_APART_H */
