#include "matmul/apart.h"

#include <stdint.h>
#include <string.h>

enum { SCALE_BYTES = SFFN_APART_SCALE_STEP, QUANT_BYTES = SFFN_Q4_0_BYTES - SCALE_BYTES };

void sffn_apart_from_blocks(const void *blocks, size_t n_blocks, void *row)
{
    const uint8_t *block = blocks;
    uint8_t *scales = row, *quants = scales + SFFN_APART_QUANTS(n_blocks);
    memset(scales + SCALE_BYTES * n_blocks, 0, (size_t)(quants - scales) - SCALE_BYTES * n_blocks);
    for (size_t b = 0; b < n_blocks; b++, block += SFFN_Q4_0_BYTES) {
        memcpy(scales + SCALE_BYTES * b, block, SCALE_BYTES);
        memcpy(quants + QUANT_BYTES * b, block + SCALE_BYTES, QUANT_BYTES);
    }
}

void sffn_apart_to_blocks(const void *row, size_t n_blocks, size_t first, size_t n, void *blocks)
{
    const uint8_t *scales = row, *quants = scales + SFFN_APART_QUANTS(n_blocks);
    uint8_t *block = blocks;
    for (size_t b = first; b < first + n; b++, block += SFFN_Q4_0_BYTES) {
        memcpy(block, scales + SCALE_BYTES * b, SCALE_BYTES);
        memcpy(block + SCALE_BYTES, quants + QUANT_BYTES * b, QUANT_BYTES);
    }
}
