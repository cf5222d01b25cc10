/* dequantise.h  Decoders for ggml types that the library has no kernels for: models come in
 * them, and are converted at preparation. */
#ifndef SFFN_DEQUANTISE_H
#define SFFN_DEQUANTISE_H
#include <stddef.h>
#include "model/tensor_types.h"

/* 1 when sffn_dequantise() takes the type: those of enum sffn_dtype and Q4_1, Q5_0, Q5_1, Q4_K,
 * Q5_K, Q6_K. */
int sffn_can_dequantise(const struct sffn_tensor_type *type);
/* n elements, a multiple of the type's block, from any alignment. The values are ggml's, bit for
 * bit where ggml's own order of operations is fixed (d * q, d * q + m, d * sc * q - dmin * m). */
void sffn_dequantise(const struct sffn_tensor_type *type, const void *src, size_t n, float *dst);

#endif /* SFFN_DEQUANTISE_H */
