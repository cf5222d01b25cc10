/* plane_dot_neon.h  What plane_dot_tmpl.h asks for, for the rows neon and dotprod of the ISA table.
 *
 * A bit becomes a mask of its byte of q. With the dot product those bytes are added as they are, times one; without it they go to words, which
 * take 2 * 127 per vector: 128 vectors fit.
 */
#ifndef SFFN_PLANE_DOT_NEON_H
#define SFFN_PLANE_DOT_NEON_H
#include "kernels/isa/neon/vec_neon.h"

#define PLANE_GROUPS 16 /* of 64 bytes, until the words are full: 8 bits each */

struct PLAIN_KERNEL(plane_sums) {
    int32x4_t dwords[4];
    int16x8_t words[4]; /* one per 16 bytes of a row */
    int n_groups;       /* in the words */
};

KERNEL_INLINE void PLAIN_KERNEL(plane_sums_clear)(struct PLAIN_KERNEL(plane_sums) * s)
{
    for (int k = 0; k < 4; k++) {
        s->dwords[k] = vdupq_n_s32(0);
        s->words[k] = vdupq_n_s16(0);
    }
    s->n_groups = 0;
}

KERNEL_INLINE void PLAIN_KERNEL(plane_sums_flush)(struct PLAIN_KERNEL(plane_sums) * s)
{
    for (int k = 0; k < 4; k++) {
        s->dwords[k] = vpadalq_s16(s->dwords[k], s->words[k]);
        s->words[k] = vdupq_n_s16(0);
    }
    s->n_groups = 0;
}

/* 64 bytes of the row; bit b of byte k belongs to q[b * stride + k]. */
KERNEL_INLINE void PLAIN_KERNEL(plane_sums_group)(struct PLAIN_KERNEL(plane_sums) * s, const char *row, const int8_t *q, size_t stride)
{
    for (size_t k = 0; k < 4; k++) {
        const uint8x16_t bits = load_u8(row + 16 * k);
        for (size_t b = 0; b < 8; b++) {
            const uint8x16_t mask = vtstq_u8(bits, vdupq_n_u8((uint8_t)(1u << b)));
            const int8x16_t kept = vandq_s8(vreinterpretq_s8_u8(mask), load_s8(q + b * stride + 16 * k));
#ifdef __ARM_FEATURE_DOTPROD
            s->dwords[k] = vdotq_s32(s->dwords[k], kept, vdupq_n_s8(1));
#else
            s->words[k] = vpadalq_s8(s->words[k], kept);
#endif
        }
    }
    if (++s->n_groups == PLANE_GROUPS)
        PLAIN_KERNEL(plane_sums_flush)(s);
}

KERNEL_INLINE void PLAIN_KERNEL(plane_sums_add)(struct PLAIN_KERNEL(plane_sums) * s, const char *row, const int8_t *q)
{
    PLAIN_KERNEL(plane_sums_group)(s, row, q, 64);
}

KERNEL_INLINE void PLAIN_KERNEL(plane_sums_part)(struct PLAIN_KERNEL(plane_sums) * s, const char *row, const int8_t *q, size_t bytes)
{
    char padded[64]; /* what lies behind a part of q meets zeros */
    memset(padded, 0, sizeof padded);
    memcpy(padded, row, bytes);
    PLAIN_KERNEL(plane_sums_group)(s, padded, q, bytes);
}

KERNEL_INLINE int32_t PLAIN_KERNEL(plane_sums_all)(struct PLAIN_KERNEL(plane_sums) * s)
{
    PLAIN_KERNEL(plane_sums_flush)(s);
    return vaddvq_s32(vaddq_s32(vaddq_s32(s->dwords[0], s->dwords[1]), vaddq_s32(s->dwords[2], s->dwords[3])));
}

#undef PLANE_GROUPS

#endif /* SFFN_PLANE_DOT_NEON_H */
