#include "predictor/columns.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define GROUP SFFN_COLUMNS_ROWS
#define BLOCK SFFN_COLUMNS_BLOCK

static size_t groups(size_t n_rows)
{
    return (n_rows + GROUP - 1) / GROUP;
}

/* Of one column in the block that row lies in: the last block may be shorter. */
static size_t column_bytes(uint32_t n_rows, uint32_t row)
{
    const uint32_t left = n_rows - row / BLOCK * BLOCK;
    return groups(left < BLOCK ? left : BLOCK) * (GROUP / 4);
}

static size_t block_offset(uint32_t n_inputs, uint32_t row)
{
    return (size_t)(row / BLOCK) * (BLOCK / 4) * n_inputs;
}

size_t sffn_columns_bytes(uint32_t n_rows, uint32_t n_inputs)
{
    size_t bytes;
    return sffn_checked_mul(groups(n_rows) * (GROUP / 4), n_inputs, &bytes) ? bytes : 0;
}

void sffn_columns_store(uint8_t *codes, uint32_t n_rows, uint32_t n_inputs, uint32_t row,
                        const uint8_t *u)
{
    const uint32_t r = row % GROUP;
    const size_t step = column_bytes(n_rows, row);
    uint8_t *at = codes + block_offset(n_inputs, row) + row % BLOCK / GROUP * (GROUP / 4) +
                  16 * (r / 4 % 4) + 4 * (r / 16 % 4) + r % 4;
    for (size_t j = 0; j < n_inputs; j++)
        at[j * step] = (uint8_t)(at[j * step] | u[j] << 2 * (r / 64));
}

void sffn_columns_pick(const int8_t *q, uint32_t n, uint32_t n_columns, struct sffn_picked *out)
{
    uint32_t counts[128] = {0}, above = 0, ties;
    int limit = 127; /* all that are larger are picked, and the first ones that are equal */
    for (uint32_t j = 0; j < n; j++)
        counts[abs(q[j])]++;
    while (limit > 0 && above + counts[limit] < n_columns)
        above += counts[limit--];
    ties = n_columns - above;
    out->n = 0;
    out->sum = 0;
    out->rest = 0;
    for (uint32_t j = 0; j < n; j++) {
        const int size = abs(q[j]);
        if (size < limit || (size == limit && ties == 0)) {
            out->rest += size * size;
            continue;
        }
        ties -= size == limit;
        out->columns[out->n] = j;
        out->q[out->n++] = q[j];
        out->sum += q[j];
    }
    for (; out->n % SFFN_COLUMNS_STEP != 0; out->n++) {
        out->columns[out->n] = out->columns[out->n - 1];
        out->q[out->n] = 0;
    }
}

void sffn_columns_sums(const struct sffn_kernels *k, const uint8_t *codes, uint32_t n_rows,
                       uint32_t n_inputs, const struct sffn_picked *picked, uint32_t first,
                       uint32_t last, int32_t *sums)
{
    const size_t n = groups(last - first) * GROUP;
    k->columns_axpy.fn(sums,
                       codes + block_offset(n_inputs, first) + first % BLOCK / GROUP * (GROUP / 4),
                       column_bytes(n_rows, first), picked->columns, picked->q, picked->n, n);
}
