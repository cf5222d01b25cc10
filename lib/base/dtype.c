/* dtype.c  Names, block sizes and row conversions of the weight types. */
#include "sparseffn/dtype.h"
#include "base/checked.h"
#include "base/fp16.h"
#include <math.h>
#include <string.h>

enum { BLOCK = 32 };

static const struct {
    const char *name;
    size_t block_size, block_bytes;
} dtypes[SFFN_DTYPE_COUNT_] = {
    [SFFN_F32] = {"f32", 1, 4},
    [SFFN_F16] = {"f16", 1, 2},
    [SFFN_BF16] = {"bf16", 1, 2},
    [SFFN_Q8_0] = {"q8_0", BLOCK, 2 + BLOCK},
    [SFFN_Q4_0] = {"q4_0", BLOCK, 2 + BLOCK / 2},
};

static int is_known(int32_t dtype)
{
    return dtype >= 0 && dtype < SFFN_DTYPE_COUNT_;
}

const char *sffn_dtype_name(int32_t dtype)
{
    return is_known(dtype) ? dtypes[dtype].name : "unknown";
}

int32_t sffn_dtype_from_name(const char *name)
{
    if (name == NULL)
        return -1;
    for (int32_t i = 0; i < SFFN_DTYPE_COUNT_; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            return i;
    return -1;
}

size_t sffn_dtype_block_size(int32_t dtype)
{
    return is_known(dtype) ? dtypes[dtype].block_size : 0;
}

size_t sffn_dtype_row_bytes(int32_t dtype, size_t n)
{
    size_t bytes;
    if (!is_known(dtype) || n % dtypes[dtype].block_size != 0)
        return 0;
    return sffn_checked_mul(n / dtypes[dtype].block_size, dtypes[dtype].block_bytes, &bytes) ? bytes
                                                                                             : 0;
}

static void store_u16(unsigned char *dst, uint16_t value)
{
    memcpy(dst, &value, sizeof value);
}

/* ggml's reference leaves the conversion of NaN and of out-of-range values to the compiler; x86 makes them 0, and so do we everywhere.
 * They arise from NaN, from infinity, and from a block whose largest value is so small that 1 / d overflows. */
static int32_t to_int(float x)
{
    return x > -256.0f && x < 256.0f ? (int32_t)x : 0;
}

static void encode_q8_0(unsigned char *dst, const float *x)
{
    float amax = 0.0f;
    for (int j = 0; j < BLOCK; j++) {
        const float a = fabsf(x[j]);
        amax = amax > a ? amax : a; /* in this order: what a NaN does depends on it */
    }
    const float d = amax / 127.0f;
    const float id = d != 0.0f ? 1.0f / d : 0.0f;
    store_u16(dst, sffn_f32_to_f16(d));
    for (int j = 0; j < BLOCK; j++)
        dst[2 + j] = (unsigned char)to_int(roundf(x[j] * id));
}

static void encode_q4_0(unsigned char *dst, const float *x)
{
    float amax = 0.0f, max = 0.0f; /* max keeps the sign: it becomes -8 exactly */
    for (int j = 0; j < BLOCK; j++) {
        if (amax < fabsf(x[j])) {
            amax = fabsf(x[j]);
            max = x[j];
        }
    }
    const float d = max / -8.0f;
    const float id = d != 0.0f ? 1.0f / d : 0.0f;
    store_u16(dst, sffn_f32_to_f16(d));
    for (int j = 0; j < BLOCK / 2; j++) {
        /* Two roundings, as ggml's C has them: this file must not be compiled with contraction of a * b + c. */
        const float scaled_lo = x[j] * id, scaled_hi = x[j + BLOCK / 2] * id;
        const int32_t lo = to_int(scaled_lo + 8.5f), hi = to_int(scaled_hi + 8.5f);
        dst[2 + j] = (unsigned char)((lo < 15 ? lo : 15) | (hi < 15 ? hi : 15) << 4);
    }
}

sffn_status sffn_dtype_from_f32(int32_t dtype, const float *src, size_t n, void *dst)
{
    unsigned char *out = dst;
    if (!is_known(dtype) || (n > 0 && (src == NULL || dst == NULL)))
        return SFFN_ERR_INVALID_ARGUMENT;
    if (n % dtypes[dtype].block_size != 0)
        return SFFN_ERR_SHAPE;
    switch ((sffn_dtype)dtype) {
    case SFFN_F32:
        if (n > 0)
            memcpy(dst, src, n * sizeof *src);
        break;
    case SFFN_F16:
        for (size_t i = 0; i < n; i++)
            store_u16(out + 2 * i, sffn_f32_to_f16(src[i]));
        break;
    case SFFN_BF16:
        for (size_t i = 0; i < n; i++)
            store_u16(out + 2 * i, sffn_f32_to_bf16(src[i]));
        break;
    case SFFN_Q8_0:
        for (size_t i = 0; i < n; i += BLOCK, out += 34)
            encode_q8_0(out, src + i);
        break;
    case SFFN_Q4_0:
        for (size_t i = 0; i < n; i += BLOCK, out += 18)
            encode_q4_0(out, src + i);
        break;
    default:
        return SFFN_ERR_INVALID_ARGUMENT;
    }
    return SFFN_OK;
}

sffn_status sffn_dtype_to_f32(int32_t dtype, const void *src, size_t n, float *dst)
{
    const unsigned char *in = src;
    if (!is_known(dtype) || (n > 0 && (src == NULL || dst == NULL)))
        return SFFN_ERR_INVALID_ARGUMENT;
    if (n % dtypes[dtype].block_size != 0)
        return SFFN_ERR_SHAPE;
    switch ((sffn_dtype)dtype) {
    case SFFN_F32:
        if (n > 0)
            memcpy(dst, src, n * sizeof *dst);
        break;
    case SFFN_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = sffn_load_f16(in + 2 * i);
        break;
    case SFFN_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = sffn_load_bf16(in + 2 * i);
        break;
    case SFFN_Q8_0: /* an 8-bit integer times an 11-bit significand is exact in f32 */
        for (size_t i = 0; i < n; i += BLOCK, in += 34) {
            const float d = sffn_load_f16(in);
            for (size_t j = 0; j < BLOCK; j++)
                dst[i + j] = d * (float)(int8_t)in[2 + j];
        }
        break;
    case SFFN_Q4_0:
        for (size_t i = 0; i < n; i += BLOCK, in += 18) {
            const float d = sffn_load_f16(in);
            for (size_t j = 0; j < BLOCK / 2; j++) {
                dst[i + j] = d * (float)((in[2 + j] & 15) - 8);
                dst[i + j + BLOCK / 2] = d * (float)((in[2 + j] >> 4) - 8);
            }
        }
        break;
    default:
        return SFFN_ERR_INVALID_ARGUMENT;
    }
    return SFFN_OK;
}
