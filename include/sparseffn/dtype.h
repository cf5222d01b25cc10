/** @file dtype.h  Weight types, their block sizes, and conversion of single rows. */
#ifndef SFFN_DTYPE_H
#define SFFN_DTYPE_H
#include <stddef.h>
#include <stdint.h>
#include "sparseffn/status.h"
#ifdef __cplusplus
extern "C" {
#endif
/** Element types of weights. The quantised ones are ggml's blocks, bit for bit. */
typedef enum sffn_dtype {
    SFFN_F32 = 0,
    SFFN_F16 = 1,   /**< IEEE binary16 */
    SFFN_BF16 = 2,  /**< upper half of binary32 */
    SFFN_Q8_0 = 3,  /**< blocks of 32: f16 scale d, 32 x int8 q; value q * d; 34 bytes */
    SFFN_Q4_0 = 4,  /**< blocks of 32: f16 scale d, 16 bytes, byte j = element j | element j+16 << 4; value (q - 8) * d; 18 bytes */
    SFFN_DTYPE_COUNT_ = 5,
    SFFN_DTYPE_MAX_ = 0x7fffffff
} sffn_dtype;

/** "f32", "f16", "bf16", "q8_0", "q4_0"; "unknown" otherwise. Since 0.1. */
SFFN_API const char *sffn_dtype_name(int32_t dtype);
/** The type of that name, or -1. NULL gives -1. Since 0.1. */
SFFN_API int32_t sffn_dtype_from_name(const char *name);
/** Elements per block: 1, or 32 for the quantised types; 0 for an unknown type. Since 0.1. */
SFFN_API size_t sffn_dtype_block_size(int32_t dtype);
/** Bytes of a row of n elements without padding; 0 for an unknown type, when n is not a multiple of the block size, or on overflow. Since 0.1. */
SFFN_API size_t sffn_dtype_row_bytes(int32_t dtype, size_t n);
/**
 * Converts n floats to one row of @p dtype. f16 and bf16 round to nearest even; q8_0 and q4_0 give the blocks that
 * ggml's reference quantisers give.
 * @param dst  sffn_dtype_row_bytes(dtype, n) bytes, any alignment, not overlapping @p src
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL pointer (n > 0), unknown type
 * @retval SFFN_ERR_SHAPE             n is not a multiple of the block size
 * Thread-safe, no allocation. Since 0.1.
 */
SFFN_API sffn_status sffn_dtype_from_f32(int32_t dtype, const float *src, size_t n, void *dst);
/** The inverse: decodes one row to floats, exactly. Same errors. Since 0.1. */
SFFN_API sffn_status sffn_dtype_to_f32(int32_t dtype, const void *src, size_t n, float *dst);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_DTYPE_H */
