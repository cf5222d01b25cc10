#include "model/tensor_types.h"

#include <string.h>

#include "sparseffn/dtype.h"

#define GGML(number, name, block, bytes, dtype) [number] = {name, number, dtype, block, (bytes)*8u}

/* ggml d99724f (0.21). Numbers 4, 5, 31-33 and 36-38 were removed from the format. Q2_0 is
 * upstream's: blocks of 64; a fork of llama.cpp writes blocks of 128 under the same number, and
 * such a file fails the size checks. */
static const struct sffn_tensor_type gguf_types[SFFN_GGML_TYPE_COUNT] = {
    GGML(0, "F32", 1, 4, SFFN_F32),     GGML(1, "F16", 1, 2, SFFN_F16),
    GGML(2, "Q4_0", 32, 18, SFFN_Q4_0), GGML(3, "Q4_1", 32, 20, -1),
    GGML(6, "Q5_0", 32, 22, -1),        GGML(7, "Q5_1", 32, 24, -1),
    GGML(8, "Q8_0", 32, 34, SFFN_Q8_0), GGML(9, "Q8_1", 32, 36, -1),
    GGML(10, "Q2_K", 256, 84, -1),      GGML(11, "Q3_K", 256, 110, -1),
    GGML(12, "Q4_K", 256, 144, -1),     GGML(13, "Q5_K", 256, 176, -1),
    GGML(14, "Q6_K", 256, 210, -1),     GGML(15, "Q8_K", 256, 292, -1),
    GGML(16, "IQ2_XXS", 256, 66, -1),   GGML(17, "IQ2_XS", 256, 74, -1),
    GGML(18, "IQ3_XXS", 256, 98, -1),   GGML(19, "IQ1_S", 256, 50, -1),
    GGML(20, "IQ4_NL", 32, 18, -1),     GGML(21, "IQ3_S", 256, 110, -1),
    GGML(22, "IQ2_S", 256, 82, -1),     GGML(23, "IQ4_XS", 256, 136, -1),
    GGML(24, "I8", 1, 1, -1),           GGML(25, "I16", 1, 2, -1),
    GGML(26, "I32", 1, 4, -1),          GGML(27, "I64", 1, 8, -1),
    GGML(28, "F64", 1, 8, -1),          GGML(29, "IQ1_M", 256, 56, -1),
    GGML(30, "BF16", 1, 2, SFFN_BF16),  GGML(34, "TQ1_0", 256, 54, -1),
    GGML(35, "TQ2_0", 256, 66, -1),     GGML(39, "MXFP4", 32, 17, -1),
    GGML(40, "NVFP4", 64, 36, -1),      GGML(41, "Q1_0", 128, 18, -1),
    GGML(42, "Q2_0", 64, 18, -1),
};

static const struct sffn_tensor_type safetensors_types[] = {
    {"BOOL", SFFN_GGML_NONE, -1, 1, 8},         {"F4", SFFN_GGML_NONE, -1, 1, 4},
    {"F6_E2M3", SFFN_GGML_NONE, -1, 1, 6},      {"F6_E3M2", SFFN_GGML_NONE, -1, 1, 6},
    {"U8", SFFN_GGML_NONE, -1, 1, 8},           {"I8", SFFN_GGML_I8, -1, 1, 8},
    {"F8_E5M2", SFFN_GGML_NONE, -1, 1, 8},      {"F8_E4M3", SFFN_GGML_NONE, -1, 1, 8},
    {"F8_E8M0", SFFN_GGML_NONE, -1, 1, 8},      {"F8_E4M3FNUZ", SFFN_GGML_NONE, -1, 1, 8},
    {"F8_E5M2FNUZ", SFFN_GGML_NONE, -1, 1, 8},  {"I16", SFFN_GGML_I16, -1, 1, 16},
    {"U16", SFFN_GGML_NONE, -1, 1, 16},         {"F16", SFFN_GGML_F16, SFFN_F16, 1, 16},
    {"BF16", SFFN_GGML_BF16, SFFN_BF16, 1, 16}, {"I32", SFFN_GGML_I32, -1, 1, 32},
    {"U32", SFFN_GGML_NONE, -1, 1, 32},         {"F32", SFFN_GGML_F32, SFFN_F32, 1, 32},
    {"C64", SFFN_GGML_NONE, -1, 1, 64},         {"F64", SFFN_GGML_F64, -1, 1, 64},
    {"I64", SFFN_GGML_I64, -1, 1, 64},          {"U64", SFFN_GGML_NONE, -1, 1, 64},
};

const struct sffn_tensor_type *sffn_gguf_type(uint32_t number)
{
    return number < SFFN_GGML_TYPE_COUNT && gguf_types[number].name ? &gguf_types[number] : NULL;
}

const struct sffn_tensor_type *sffn_safetensors_type(const char *name, size_t bytes)
{
    for (size_t i = 0; i < sizeof(safetensors_types) / sizeof(safetensors_types[0]); i++)
        if (strlen(safetensors_types[i].name) == bytes &&
            memcmp(safetensors_types[i].name, name, bytes) == 0)
            return &safetensors_types[i];
    return NULL;
}
