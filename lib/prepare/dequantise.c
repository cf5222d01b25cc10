#include "prepare/dequantise.h"

#include <stdint.h>

#include "base/fp16.h"
#include "sparseffn/dtype.h"

/* Blocks of 32. Byte j has element j in its low nibble and element j + 16 in its high one; of
 * 5-bit types, bit j of qh is the fifth bit. */
static void block_q4_1(const uint8_t *src, float *dst)
{
    const float d = sffn_load_f16(src), m = sffn_load_f16(src + 2);
    for (int j = 0; j < 16; j++) {
        dst[j] = d * (float)(src[4 + j] & 15) + m;
        dst[j + 16] = d * (float)(src[4 + j] >> 4) + m;
    }
}

static uint32_t fifth_bits(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void block_q5_0(const uint8_t *src, float *dst)
{
    const float d = sffn_load_f16(src);
    const uint32_t qh = fifth_bits(src + 2);
    for (int j = 0; j < 16; j++) {
        dst[j] = d * (float)((int)((src[6 + j] & 15) | (qh >> j & 1) << 4) - 16);
        dst[j + 16] = d * (float)((int)((src[6 + j] >> 4) | (qh >> (j + 16) & 1) << 4) - 16);
    }
}

static void block_q5_1(const uint8_t *src, float *dst)
{
    const float d = sffn_load_f16(src), m = sffn_load_f16(src + 2);
    const uint32_t qh = fifth_bits(src + 4);
    for (int j = 0; j < 16; j++) {
        dst[j] = d * (float)((src[8 + j] & 15) | (qh >> j & 1) << 4) + m;
        dst[j + 16] = d * (float)((src[8 + j] >> 4) | (qh >> (j + 16) & 1) << 4) + m;
    }
}

/* The 12 bytes of q4_K and q5_K hold eight 6-bit scales and eight 6-bit minima. The first four
 * of each are the low six bits of bytes 0-3 and 4-7; of the others, the low four bits are the
 * nibbles of bytes 8-11 and the upper two the spare bits of bytes 0-3 and 4-7. */
static void k_scale(const uint8_t *p, int i, float *scale, float *min)
{
    if (i < 4) {
        *scale = (float)(p[i] & 63);
        *min = (float)(p[i + 4] & 63);
    } else {
        *scale = (float)((p[i + 4] & 15) | (p[i - 4] >> 6) << 4);
        *min = (float)((p[i + 4] >> 4) | (p[i] >> 6) << 4);
    }
}

/* Blocks of 256: f16 d, f16 dmin, 12 bytes of scales, [q5_K: 32 bytes of fifth bits], 128 bytes
 * of nibbles. 64 elements at a time: the low nibbles of 32 bytes, then the high ones. Bit i of
 * byte l of the fifth bits belongs to group i of 32. */
static void block_q4_k(const uint8_t *src, float *dst, int has_fifth)
{
    const float d = sffn_load_f16(src), dmin = sffn_load_f16(src + 2);
    const uint8_t *scales = src + 4, *qh = src + 16, *q = has_fifth ? src + 48 : src + 16;
    for (int group = 0; group < 8; group++) {
        float scale, min;
        k_scale(scales, group, &scale, &min);
        scale *= d;
        min *= dmin;
        const uint8_t *bytes = q + group / 2 * 32;
        for (int l = 0; l < 32; l++) {
            int value = group % 2 ? bytes[l] >> 4 : bytes[l] & 15;
            if (has_fifth)
                value += (qh[l] >> group & 1) << 4;
            dst[group * 32 + l] = scale * (float)value - min;
        }
    }
}

/* Blocks of 256: 128 bytes of low nibbles, 64 bytes of upper two bits, 16 int8 scales, f16 d. In
 * each half of 128, element l of quarter k has its nibble in byte l + 32 * (k % 2) (high one for
 * k >= 2), and its upper bits at 2 * k of byte l. */
static void block_q6_k(const uint8_t *src, float *dst)
{
    const float d = sffn_load_f16(src + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *ql = src + half * 64, *qh = src + 128 + half * 32;
        const int8_t *scales = (const int8_t *)(src + 192 + half * 8);
        for (int k = 0; k < 4; k++) {
            for (int l = 0; l < 32; l++) {
                const int low = k < 2 ? ql[l + 32 * (k % 2)] & 15 : ql[l + 32 * (k % 2)] >> 4;
                const int value = (low | (qh[l] >> (2 * k) & 3) << 4) - 32;
                dst[half * 128 + k * 32 + l] = d * (float)scales[k * 2 + l / 16] * (float)value;
            }
        }
    }
}

int sffn_can_dequantise(const struct sffn_tensor_type *type)
{
    switch (type->ggml) {
    case SFFN_GGML_Q4_1:
    case SFFN_GGML_Q5_0:
    case SFFN_GGML_Q5_1:
    case SFFN_GGML_Q4_K:
    case SFFN_GGML_Q5_K:
    case SFFN_GGML_Q6_K:
        return 1;
    default:
        return type->dtype >= 0;
    }
}

void sffn_dequantise(const struct sffn_tensor_type *type, const void *src, size_t n, float *dst)
{
    if (type->dtype >= 0) {
        (void)sffn_dtype_to_f32(type->dtype, src, n, dst); /* n is a multiple of the block */
        return;
    }
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += type->block, p += type->bits / 8) {
        switch (type->ggml) {
        case SFFN_GGML_Q4_1:
            block_q4_1(p, dst + i);
            break;
        case SFFN_GGML_Q5_0:
            block_q5_0(p, dst + i);
            break;
        case SFFN_GGML_Q5_1:
            block_q5_1(p, dst + i);
            break;
        case SFFN_GGML_Q4_K:
            block_q4_k(p, dst + i, 0);
            break;
        case SFFN_GGML_Q5_K:
            block_q4_k(p, dst + i, 1);
            break;
        case SFFN_GGML_Q6_K:
            block_q6_k(p, dst + i);
            break;
        default:
            break;
        }
    }
}
