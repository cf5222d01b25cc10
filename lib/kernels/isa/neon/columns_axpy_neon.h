/* columns_axpy_neon.h  What columns_axpy_tmpl.h asks for, for the rows neon and dotprod of the ISA table: four columns (a quad) at a time, a byte
 * of each beside the others. Without the dot product a step's products stay in words: 3 * 127 for each quad. */
#ifndef SFFN_COLUMNS_AXPY_NEON_H
#define SFFN_COLUMNS_AXPY_NEON_H
#include "kernels/isa/neon/vec_neon.h"

/* 16 bytes of four columns -> v[j], dword i of which holds byte 4 j + i of each. */
KERNEL_INLINE void PLAIN_KERNEL(columns_interleave)(uint8x16_t v[4], const char *const columns[4], size_t at)
{
    const uint8x16_t a = load_u8(columns[0] + at), b = load_u8(columns[1] + at), c = load_u8(columns[2] + at), d = load_u8(columns[3] + at);
    const uint16x8_t ab_lo = vreinterpretq_u16_u8(vzip1q_u8(a, b)), ab_hi = vreinterpretq_u16_u8(vzip2q_u8(a, b));
    const uint16x8_t cd_lo = vreinterpretq_u16_u8(vzip1q_u8(c, d)), cd_hi = vreinterpretq_u16_u8(vzip2q_u8(c, d));
    v[0] = vreinterpretq_u8_u16(vzip1q_u16(ab_lo, cd_lo));
    v[1] = vreinterpretq_u8_u16(vzip2q_u16(ab_lo, cd_lo));
    v[2] = vreinterpretq_u8_u16(vzip1q_u16(ab_hi, cd_hi));
    v[3] = vreinterpretq_u8_u16(vzip2q_u16(ab_hi, cd_hi));
}

/* out[i] += the products of dword i of codes[k] and q of quad k, over all quads. */
KERNEL_INLINE void PLAIN_KERNEL(columns_add)(int32_t *out, const int8x16_t codes[SFFN_COLUMNS_QUADS], const int8x16_t q[SFFN_COLUMNS_QUADS])
{
    int32x4_t sum = vld1q_s32(out);
#ifdef __ARM_FEATURE_DOTPROD
    for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++)
        sum = vdotq_s32(sum, codes[k], q[k]);
#else
    int16x8_t low = vdupq_n_s16(0), high = vdupq_n_s16(0); /* of rows 0 and 1, of rows 2 and 3 */
    for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
        low = vmlal_s8(low, vget_low_s8(codes[k]), vget_low_s8(q[k]));
        high = vmlal_high_s8(high, codes[k], q[k]);
    }
    sum = vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
    vst1q_s32(out, sum);
}

KERNEL_INLINE void PLAIN_KERNEL(columns_step)(int32_t *out, const char *const *column, const char *const *next, const int8_t *q, size_t n_rows)
{
    int8x16_t factors[SFFN_COLUMNS_QUADS];
    for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
        int32_t four;
        memcpy(&four, q + 4 * k, sizeof four);
        factors[k] = vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
    for (size_t at = 0; at < n_rows / 4; at += 16) {
        int32_t *sums = out + 4 * (at & ~(size_t)63) + at % 64 / 4;
        uint8x16_t v[SFFN_COLUMNS_QUADS][4];
        for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
            if (at % 64 == 0)
                for (size_t c = 0; c < 4; c++)
                    vf_prefetch(next[4 * k + c] + at);
            PLAIN_KERNEL(columns_interleave)(v[k], column + 4 * k, at);
        }
        for (size_t j = 0; j < 4; j++)
            for (size_t b = 0; b < 4; b++) {
                int8x16_t codes[SFFN_COLUMNS_QUADS];
                for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++)
                    codes[k] = vreinterpretq_s8_u8(vandq_u8(vshlq_u8(v[k][j], vdupq_n_s8((int8_t)(-2 * (int)b))), vdupq_n_u8(3)));
                PLAIN_KERNEL(columns_add)(sums + 64 * b + 16 * j, codes, factors);
            }
    }
}

#endif /* SFFN_COLUMNS_AXPY_NEON_H */
