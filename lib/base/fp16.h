/* fp16.h  Scalar conversions of binary16 and bfloat16 in integer arithmetic: the same bits on every compiler, whatever the FPU's flags.
 *
 * Widening is exact; a signalling f16 NaN becomes quiet, as vcvtph2ps and fcvt make it. Narrowing rounds to nearest even, overflows to
 * infinity, keeps denormals, and keeps the upper payload bits of a NaN, which becomes quiet.
 */
#ifndef SFFN_FP16_H
#define SFFN_FP16_H
#include <stdint.h>
#include <string.h>

static inline uint32_t sffn_f32_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float sffn_f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float sffn_bf16_to_f32(uint16_t h)
{
    return sffn_f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t sffn_f32_to_bf16(float f)
{
    const uint32_t bits = sffn_f32_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float sffn_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = h >> 10 & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    if (exponent == 31)
        return sffn_f32_from_bits(sign | 0x7f800000u | mantissa << 13 |
                                  (mantissa != 0 ? 0x400000u : 0));
    if (exponent == 0) {
        if (mantissa == 0)
            return sffn_f32_from_bits(sign);
        /* mantissa * 2^-24: shift the leading one up to bit 10; each step halves the exponent's weight. */
        exponent = 1;
        while ((mantissa & 0x400u) == 0) {
            mantissa <<= 1;
            exponent--; /* may wrap below zero; the sum below brings it back */
        }
        mantissa &= 0x3ffu;
    }
    return sffn_f32_from_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
}

static inline uint16_t sffn_f32_to_f16(float f)
{
    const uint32_t bits = sffn_f32_bits(f);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520, halfway to 2^16, and up */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) /* 2^-14 and up: normal */
        return (uint16_t)(sign | (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13);
    if (magnitude < 0x33000000u) /* below 2^-25, half of the smallest denormal */
        return (uint16_t)sign;
    {
        /* 14 .. 24: what is left counts units of 2^-24 */
        const uint32_t shift = 126u - (magnitude >> 23);
        const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        const uint32_t whole = mantissa >> shift;
        const uint32_t rest = mantissa & ((1u << shift) - 1u);
        const uint32_t half = 1u << (shift - 1u);
        return (uint16_t)(sign | (whole + (rest > half || (rest == half && (whole & 1u) != 0))));
    }
}

/* Unaligned loads and stores: rows, and the blocks in them, start anywhere. */
static inline float sffn_load_f16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return sffn_f16_to_f32(h);
}

static inline float sffn_load_bf16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return sffn_bf16_to_f32(h);
}

static inline float sffn_load_f32(const void *p)
{
    float f;
    memcpy(&f, p, sizeof f);
    return f;
}

static inline void sffn_store_f32(void *p, float f)
{
    memcpy(p, &f, sizeof f);
}

#endif /* SFFN_FP16_H */
