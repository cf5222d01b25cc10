/* tensor_types.h  The element types of model files: how many bytes a row has, and which of them
 * we have kernels for. */
#ifndef SFFN_TENSOR_TYPES_H
#define SFFN_TENSOR_TYPES_H
#include <stddef.h>
#include <stdint.h>

/* GGUF's numbers for the types that the library handles by name; the table knows all of 0 .. 42. */
enum sffn_ggml_type {
    SFFN_GGML_NONE = -1, /* a safetensors type that GGUF lacks */
    SFFN_GGML_F32 = 0,
    SFFN_GGML_F16 = 1,
    SFFN_GGML_Q4_0 = 2,
    SFFN_GGML_Q4_1 = 3,
    SFFN_GGML_Q5_0 = 6,
    SFFN_GGML_Q5_1 = 7,
    SFFN_GGML_Q8_0 = 8,
    SFFN_GGML_Q4_K = 12,
    SFFN_GGML_Q5_K = 13,
    SFFN_GGML_Q6_K = 14,
    SFFN_GGML_I8 = 24,
    SFFN_GGML_I16 = 25,
    SFFN_GGML_I32 = 26,
    SFFN_GGML_I64 = 27,
    SFFN_GGML_F64 = 28,
    SFFN_GGML_BF16 = 30,
    SFFN_GGML_TYPE_COUNT = 43
};

struct sffn_tensor_type {
    const char *name;
    int32_t ggml;   /* enum sffn_ggml_type */
    int32_t dtype;  /* enum sffn_dtype, or -1: no kernels */
    uint32_t block; /* elements per block */
    uint32_t bits;  /* per block; safetensors has types below a byte */
};

/* NULL: a number that ggml never used or has removed. */
const struct sffn_tensor_type *sffn_gguf_type(uint32_t number);
/* By its name in a safetensors header, or NULL. */
const struct sffn_tensor_type *sffn_safetensors_type(const char *name, size_t bytes);

#endif /* SFFN_TENSOR_TYPES_H */
