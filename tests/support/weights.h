/* weights.h  The weight types again, written for the tests alone: encode as ggml's reference does,
 * decode exactly. */
#ifndef TEST_WEIGHTS_H
#define TEST_WEIGHTS_H
#include <stddef.h>
#include <stdint.h>
#include "sparseffn/dtype.h"

#define BLOCK 32 /* elements of one q8_0 or q4_0 block */

int is_quantised(int32_t type);
/* Bytes of n elements; n is a multiple of the block. */
size_t weight_bytes(int32_t type, size_t n);
/* n floats -> one row. */
void weight_encode(int32_t type, const float *values, size_t n, void *row);
/* One row -> n floats. */
void weight_decode(int32_t type, const void *row, size_t n, float *values);
/* Scale of block b of a q8_0 or q4_0 row. */
float weight_scale(int32_t type, const void *row, size_t b);
/* Makes n elements from element `first` NaN; whole blocks of the quantised types (their scale
 * becomes NaN). */
void weight_poison(int32_t type, void *row, size_t first, size_t n);

uint16_t f16_of_float(float value);
float float_of_f16(uint16_t bits);
uint16_t bf16_of_float(float value);
float float_of_bf16(uint16_t bits);

#endif /* TEST_WEIGHTS_H */
