#include "weights.h"

#include <math.h>
#include <string.h>

#define Q8_BYTES 34
#define Q4_BYTES 18

/* ---------------------------------------------------------------- 16-bit floats */

uint16_t f16_of_float(float value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (isnan(value))
        return (uint16_t)(sign | 0x7e00);
    double a = fabs((double)value);
    if (a >= 65520.0) /* half-way between the largest f16 and what would follow */
        return (uint16_t)(sign | 0x7c00);
    if (a == 0.0)
        return sign;
    int exponent = ilogb(a) < -14 ? -14 : ilogb(a);
    double steps =
        nearbyint(ldexp(a, 10 - exponent)); /* multiples of the last place, nearest even */
    /* 1024 steps are the hidden bit; a carry to 2048 moves to the next exponent by itself */
    return (uint16_t)(sign | (((unsigned)(exponent + 14) << 10) + (unsigned)steps));
}

float float_of_f16(uint16_t bits)
{
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double a = exponent == 31  ? (mantissa ? (double)NAN : (double)INFINITY)
               : exponent == 0 ? ldexp(mantissa, -24)
                               : ldexp(1024 + mantissa, exponent - 25);
    return (float)(bits & 0x8000 ? -a : a);
}

uint16_t bf16_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value))
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float float_of_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void put16(unsigned char *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

static uint16_t get16(const unsigned char *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

/* ---------------------------------------------------------------- blocks */

static void encode_q8_0(const float *x, unsigned char *block)
{
    float amax = 0.0f;
    for (int i = 0; i < BLOCK; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    float d = amax / 127.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
    put16(block, f16_of_float(d));
    for (int i = 0; i < BLOCK; i++)
        block[2 + i] = (unsigned char)(int8_t)roundf(x[i] * inverse);
}

static void encode_q4_0(const float *x, unsigned char *block)
{
    float largest = 0.0f;
    for (int i = 0; i < BLOCK; i++)
        if (fabsf(x[i]) > fabsf(largest))
            largest = x[i];
    float d = largest / -8.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
    put16(block, f16_of_float(d));
    memset(block + 2, 0, BLOCK / 2);
    for (int i = 0; i < BLOCK; i++) {
        int nibble = (int)(x[i] * inverse + 8.5f);
        nibble = nibble > 15 ? 15 : nibble;
        block[2 + i % 16] |= (unsigned char)(i < 16 ? nibble : nibble << 4);
    }
}

static int q4_nibble(const unsigned char *block, int i)
{
    return i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4;
}

/* ---------------------------------------------------------------- rows */

int is_quantised(int32_t type)
{
    return type == SFFN_Q8_0 || type == SFFN_Q4_0;
}

static size_t block_bytes(int32_t type)
{
    return type == SFFN_Q8_0 ? Q8_BYTES : Q4_BYTES;
}

size_t weight_bytes(int32_t type, size_t n)
{
    return is_quantised(type) ? n / BLOCK * block_bytes(type) : type == SFFN_F32 ? 4 * n : 2 * n;
}

void weight_encode(int32_t type, const float *values, size_t n, void *row)
{
    unsigned char *out = row;
    if (type == SFFN_F32)
        memcpy(out, values, 4 * n);
    else if (is_quantised(type))
        for (size_t b = 0; b < n / BLOCK; b++)
            (type == SFFN_Q8_0 ? encode_q8_0 : encode_q4_0)(values + b * BLOCK,
                                                            out + b * block_bytes(type));
    else
        for (size_t i = 0; i < n; i++)
            put16(out + 2 * i,
                  type == SFFN_F16 ? f16_of_float(values[i]) : bf16_of_float(values[i]));
}

float weight_scale(int32_t type, const void *row, size_t b)
{
    return float_of_f16(get16((const unsigned char *)row + b * block_bytes(type)));
}

void weight_decode(int32_t type, const void *row, size_t n, float *values)
{
    const unsigned char *in = row;
    for (size_t i = 0; i < n; i++) {
        if (type == SFFN_F32)
            memcpy(values + i, in + 4 * i, 4);
        else if (!is_quantised(type))
            values[i] = type == SFFN_F16 ? float_of_f16(get16(in + 2 * i))
                                         : float_of_bf16(get16(in + 2 * i));
        else {
            const unsigned char *block = in + i / BLOCK * block_bytes(type);
            int k = (int)(i % BLOCK),
                q = type == SFFN_Q8_0 ? (int8_t)block[2 + k] : q4_nibble(block, k) - 8;
            values[i] = (float)q * weight_scale(type, row, i / BLOCK); /* exact: 11 bits times 8 */
        }
    }
}

void weight_poison(int32_t type, void *row, size_t first, size_t n)
{
    static const uint32_t nan_f32 = 0x7fc00000u;
    unsigned char *out = row;
    for (size_t i = first; i < first + n; i++) {
        if (type == SFFN_F32)
            memcpy(out + 4 * i, &nan_f32, 4);
        else if (is_quantised(type))
            put16(out + i / BLOCK * block_bytes(type), 0x7e00);
        else
            put16(out + 2 * i, type == SFFN_F16 ? 0x7e00 : 0x7fc0);
    }
}
