/* plane_dot_neon.h  What plane_dot_tmpl.h asks for, for the rows neon and dotprod of the ISA table.
 *
 * A single bit becomes a mask of its byte of q. With the dot product those bytes are added as they are, times one; without it they go to words, of
 * which each takes 8 * 2 * 127 per group. Pairs of bits are multiplied; without the dot product a word takes 4 * 2 * 3 * 127 = 3048 per group: ten fit.
 */
#ifndef SFFN_PLANE_DOT_NEON_H
#define SFFN_PLANE_DOT_NEON_H
#include "kernels/isa/neon/vec_neon.h"

#define PLANE_GROUPS 8

struct PLAIN_KERNEL(plane_sums) {
    int32x4_t dwords[4];
    int16x8_t words[4]; /* one per 16 bytes of a row */
};

KERNEL_INLINE void PLAIN_KERNEL(plane_sums_clear)(struct PLAIN_KERNEL(plane_sums) * s)
{
    for (int k = 0; k < 4; k++) {
        s->dwords[k] = vdupq_n_s32(0);
        s->words[k] = vdupq_n_s16(0);
    }
}

KERNEL_INLINE void PLAIN_KERNEL(plane_sums_flush)(struct PLAIN_KERNEL(plane_sums) * s)
{
    for (int k = 0; k < 4; k++) {
        s->dwords[k] = vpadalq_s16(s->dwords[k], s->words[k]);
        s->words[k] = vdupq_n_s16(0);
    }
}

/* 64 bytes of the row; code b of byte k belongs to q[b * stride + k]. */
KERNEL_INLINE void PLAIN_KERNEL(plane_sums_group)(const unsigned bits, struct PLAIN_KERNEL(plane_sums) * s, const char *row, const int8_t *q,
                                                  size_t stride)
{
    for (size_t k = 0; k < 4; k++) {
        const uint8x16_t bytes = load_u8(row + 16 * k);
        for (unsigned b = 0; b < 8 / bits; b++) {
            const int8x16_t x = load_s8(q + b * stride + 16 * k);
            if (bits == 1) {
                const int8x16_t kept = vandq_s8(vreinterpretq_s8_u8(vtstq_u8(bytes, vdupq_n_u8((uint8_t)(1u << b)))), x);
#ifdef __ARM_FEATURE_DOTPROD
                s->dwords[k] = vdotq_s32(s->dwords[k], kept, vdupq_n_s8(1));
#else
                s->words[k] = vpadalq_s8(s->words[k], kept);
#endif
            } else {
                const uint8x16_t moved = vshlq_u8(bytes, vdupq_n_s8((int8_t)(-2 * (int)b)));
                const int8x16_t code = vreinterpretq_s8_u8(vandq_u8(moved, vdupq_n_u8(3)));
#ifdef __ARM_FEATURE_DOTPROD
                s->dwords[k] = vdotq_s32(s->dwords[k], code, x);
#else
                s->words[k] = vmlal_s8(s->words[k], vget_low_s8(code), vget_low_s8(x));
                s->words[k] = vmlal_s8(s->words[k], vget_high_s8(code), vget_high_s8(x));
#endif
            }
        }
    }
}

KERNEL_INLINE int32_t PLAIN_KERNEL(plane_sums_all)(const unsigned bits, struct PLAIN_KERNEL(plane_sums) * s)
{
    (void)bits;
    PLAIN_KERNEL(plane_sums_flush)(s);
    return vaddvq_s32(vaddq_s32(vaddq_s32(s->dwords[0], s->dwords[1]), vaddq_s32(s->dwords[2], s->dwords[3])));
}

#endif /* SFFN_PLANE_DOT_NEON_H */
