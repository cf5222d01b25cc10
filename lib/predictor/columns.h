/* columns.h  A matrix of 2-bit codes of which only the columns that matter to an x are read. A column's codes of many rows lie together, so what
 * is read is long pieces, and which columns may differ from token to token. */
#ifndef SFFN_COLUMNS_H
#define SFFN_COLUMNS_H
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* Rows whose codes of a column lie together: 4 KiB. Shorter pieces are gathered slower (one thread, half of the columns of 11264 rows, Zen 4:
 * blocks of 4096 rows 18 to 22 GB/s, of 11264 24 to 29), though the sums, 4 bytes a row, then leave the first-level cache. */
#define SFFN_COLUMNS_BLOCK 16384u

/* Of all codes, for any n_rows; 0: too large. */
size_t sffn_columns_bytes(uint32_t n_rows, uint32_t n_inputs);
/* Adds a row's codes to a matrix that was filled with zeros. Rows of one group of SFFN_COLUMNS_ROWS must not be stored at the same time. */
void sffn_columns_store(uint8_t *codes, uint32_t n_rows, uint32_t n_inputs, uint32_t row,
                        const uint8_t *u);

/* The columns that one token reads. */
struct sffn_picked {
    uint32_t *columns; /* room for n_columns, rounded up to SFFN_COLUMNS_STEP */
    int8_t *q;
    size_t n;     /* rounded up: what is too much has q 0 */
    int32_t sum;  /* of q */
    int64_t rest; /* sum of the squares of what was not picked */
};
/* The n_columns of n inputs with the largest |q|, among equal ones the first. */
void sffn_columns_pick(const int8_t *q, uint32_t n, uint32_t n_columns, struct sffn_picked *out);
/* sums[r - first] = sum of q times code over the picked columns, for rows [first, last), a range inside a block that begins at a group; sums has
 * room for whole groups. */
void sffn_columns_sums(const struct sffn_kernels *k, const uint8_t *codes, uint32_t n_rows,
                       uint32_t n_inputs, const struct sffn_picked *picked, uint32_t first,
                       uint32_t last, int32_t *sums);

#endif /* SFFN_COLUMNS_H */
