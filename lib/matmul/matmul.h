/* matmul.h  One packed matrix as its users inside the library see it. */
#ifndef SFFN_LIB_MATMUL_H
#define SFFN_LIB_MATMUL_H
#include "sparseffn/matmul.h"

struct sffn_matmul {
    const sffn_context *ctx; /* allocator and log; made with it */
    uint32_t n_rows, n_cols;
    uint32_t block_size; /* 32: lossless blocks, see below; else 1 */
    int32_t dtype, storage;
    /* what the kernels see: dtype, or a form that only packed copies have (enum sffn_wtype) */
    int32_t wtype;
    /* Row r starts at data + r * stride. With block_size 32, "row" e holds the n_cols blocks of neurons 32 e .. 32 e + 31. */
    const uint8_t *data;
    size_t stride;
    size_t row_bytes; /* bytes of one row that count, without padding */
    /* q8_0 and q4_0 with block_size 1: the largest |scale| of each row (infinite when one is not finite), for the integer axpy. */
    float *row_scale_max;
    /* every weight, for the float axpy; 0: one is not, or nobody looked, as with borrowed ones */
    int is_finite;
    void *owned; /* NULL: data is borrowed, or part of another allocation */
    size_t owned_bytes;
};

/* pack.c: the caller's weights -> neuron-major rows. */
struct sffn_pack_plan {
    int32_t dtype, wtype;
    uint32_t n_stored_rows; /* n_rows, or n_rows / 32 */
    size_t row_bytes;       /* of weights */
    /* of a packed row, gaps inside it included: the smallest distance of two */
    size_t packed_bytes;
};
/* Checks a config and says what its packed rows are. `what` names the matrix in error texts. */
sffn_status sffn_pack_plan(const sffn_context *ctx, const char *what,
                           const sffn_matmul_config *config, struct sffn_pack_plan *plan);
/* Distance of packed rows of `bytes` bytes each: whole cache lines and nothing between them, since a gap breaks the stream that reads all rows
 * (ahead.h). 0 on overflow. */
int sffn_row_stride(size_t bytes, size_t *stride);
/* Writes the packed rows, `stride` bytes apart, at dst. */
sffn_status sffn_pack(sffn_context *ctx, const sffn_matmul_config *config,
                      const struct sffn_pack_plan *plan, uint8_t *dst, size_t stride);
/* Makes *m describe packed (or borrowed) rows at data. for_axpy: fills row_scale_max and, of copies, is_finite. */
sffn_status sffn_matmul_init(sffn_context *ctx, struct sffn_matmul *m,
                             const sffn_matmul_config *config, const struct sffn_pack_plan *plan,
                             const uint8_t *data, size_t stride, int for_axpy);
void sffn_matmul_fini(struct sffn_matmul *m);

static inline int sffn_is_quantized(int32_t dtype)
{
    return dtype == SFFN_Q8_0 || dtype == SFFN_Q4_0;
}

#endif /* SFFN_LIB_MATMUL_H */
