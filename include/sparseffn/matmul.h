/** @file matmul.h  sffn_matmul: one packed weight matrix, rows = neurons, and its block-sparse products. */
#ifndef SFFN_MATMUL_H
#define SFFN_MATMUL_H
#include "sparseffn/active_set.h"
#include "sparseffn/context.h"
#ifdef __cplusplus
extern "C" {
#endif
/** A packed matrix of n_rows rows (neurons) and n_cols columns. Immutable once created: share it freely between threads. */
typedef struct sffn_matmul sffn_matmul;

/** How a source matrix lies in memory. */
enum sffn_layout {
    SFFN_LAYOUT_ROWS = 0,    /**< [n_rows][n_cols]: one neuron is one row (gate and up of every engine; ffn_down_t) */
    SFFN_LAYOUT_COLUMNS = 1  /**< [n_cols][n_rows]: one neuron is one column (down of every engine: [d_model][d_ff]) */
};
enum sffn_storage {
    SFFN_STORAGE_COPY = 0,   /**< packed into the context's memory (huge pages, aligned rows); the source may go away */
    SFFN_STORAGE_BORROW = 1  /**< the source is read in place, at any alignment, and must outlive every user. SFFN_LAYOUT_ROWS, no conversion */
};

/** A weight matrix as the caller has it: any alignment, memory-mapped files welcome. */
typedef struct sffn_weights {
    const void *data;   /**< NULL: absent */
    int32_t dtype;      /**< enum sffn_dtype */
    int32_t layout;     /**< enum sffn_layout */
    size_t row_bytes;   /**< distance of two stored rows in bytes; 0 = packed without gaps */
} sffn_weights;
#define SFFN_WEIGHTS_INIT { NULL, SFFN_F32, SFFN_LAYOUT_ROWS, 0u }

typedef struct sffn_matmul_config {
    size_t struct_size;
    uint32_t n_rows;      /**< neurons, > 0 */
    uint32_t n_cols;      /**< > 0; a multiple of 32 for packed q8_0 and q4_0 rows */
    sffn_weights weights;
    int32_t storage;      /**< enum sffn_storage; default SFFN_STORAGE_COPY */
    int32_t dtype;        /**< packed type; -1 (default) keeps the source's. Rows of the same type keep their values, bit for bit */
    uint32_t block_size;  /**< 32 with a q8_0 or q4_0 source in SFFN_LAYOUT_COLUMNS, n_rows a multiple of 32 and unchanged type: the source's blocks
                               are kept losslessly, [n_rows / 32][n_cols], and rows are active in whole blocks of 32. 1 (default): row by row */
} sffn_matmul_config;
#define SFFN_MATMUL_CONFIG_INIT { sizeof(sffn_matmul_config), 0u, 0u, SFFN_WEIGHTS_INIT, SFFN_STORAGE_COPY, -1, 1u }

/**
 * Packs a matrix. A source in SFFN_LAYOUT_COLUMNS is transposed; quantised types are then decoded and quantised again
 * along the other direction, except with block_size 32.
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, zero size, unknown enum value, block_size other than 1 and 32
 * @retval SFFN_ERR_SHAPE             n_cols (packed) or the stored row length (source) is no multiple of the type's block; row_bytes too small
 * @retval SFFN_ERR_UNSUPPORTED       borrow with another layout or type than the source's
 * @retval SFFN_ERR_OUT_OF_MEMORY
 * Since 0.1.
 */
SFFN_API sffn_status sffn_matmul_create(sffn_context *ctx, const sffn_matmul_config *config, sffn_matmul **matmul);
/** NULL is a no-op. Since 0.1. */
SFFN_API void sffn_matmul_destroy(sffn_matmul *matmul);

/**
 * out[t][r] = dot(row r, x[t]) for the active rows r of token t, 0 for the others, whose weights are not read.
 * x is quantised to blocks of 32 int8 for q8_0 and q4_0 weights, as ggml does; a block whose largest |x| is below 2^-100 counts as 0.
 * @param x       [n_tokens] rows of n_cols floats, x_stride elements apart
 * @param active  NULL: all rows. Else n_blocks * block_size == n_rows, at least n_tokens tokens
 * @param out     [n_tokens] rows of n_rows floats, out_stride apart; must not overlap x
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL; SFFN_ERR_SHAPE a stride smaller than its row, or active made for another shape; SFFN_ERR_BUSY; out is untouched
 * @retval SFFN_ERR_UNSUPPORTED  a matrix with lossless blocks of 32 (those have rows_axpy only)
 * No allocation after the first call of a larger n_cols in this context. Bit-identical for any number of threads. Since 0.1.
 */
SFFN_API sffn_status sffn_matmul_rows_dot(sffn_context *ctx, const sffn_matmul *matmul, const float *x, size_t x_stride,
                                          size_t n_tokens, const sffn_active_set *active, float *out, size_t out_stride);
/**
 * y[t] = sum over the active rows r of h[t][r] * row r; all zero when none is active. h of inactive rows is not read.
 * For q8_0 and q4_0 rows h is rounded to 15 bits of the largest |h * scale| of the token, and sums are exact integers: a NaN or
 * infinity among the token's active h makes that token's y NaN, and a token whose every |h * scale| is below 1e-30 gives 0. With lossless blocks of 32, h is quantised to one block of int8 per 32
 * neurons instead, as ggml does.
 * @param h  [n_tokens] rows of n_rows floats, h_stride apart
 * @param y  [n_tokens] rows of n_cols floats, y_stride apart; overwritten; must not overlap h
 * Errors as above. Since 0.1.
 */
SFFN_API sffn_status sffn_matmul_rows_axpy(sffn_context *ctx, const sffn_matmul *matmul, const float *h, size_t h_stride,
                                           size_t n_tokens, const sffn_active_set *active, float *y, size_t y_stride);
/** Decodes row @p row (n_cols floats), e.g. an embedding. @retval SFFN_ERR_SHAPE row >= n_rows. Thread-safe. Since 0.1. */
SFFN_API sffn_status sffn_matmul_get_row(const sffn_matmul *matmul, uint32_t row, float *out);

typedef struct sffn_matmul_info {
    size_t struct_size;
    uint32_t n_rows, n_cols, block_size;
    int32_t dtype, storage;
    uint64_t weight_bytes;  /**< without padding: what a dense product must read */
    uint64_t row_bytes;     /**< distance of two rows in memory */
} sffn_matmul_info;
#define SFFN_MATMUL_INFO_INIT { sizeof(sffn_matmul_info), 0u, 0u, 0u, 0, 0, 0u, 0u }
SFFN_API sffn_status sffn_matmul_get_info(const sffn_matmul *matmul, sffn_matmul_info *info);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_MATMUL_H */
