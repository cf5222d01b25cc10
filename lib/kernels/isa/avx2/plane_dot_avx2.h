/* plane_dot_avx2.h  What plane_dot_tmpl.h asks for, with vpmaddubsw.
 *
 * Code b of 32 bytes, in the lower half of a byte, is 2^(b * bits) times itself: as an unsigned factor it needs no shift, when each has sums of its
 * own, which are shifted at the end. The upper four bits are moved down and join them. A word takes 2 * 2 * 2^3 * 127 = 4064 per 32 bytes of single
 * bits, and 2 * 2 * 12 * 127 = 6096 of pairs, so four times 32 bytes fit of either; then the words go to dwords.
 */
#ifndef SFFN_PLANE_DOT_AVX2_H
#define SFFN_PLANE_DOT_AVX2_H
#include "kernels/isa/avx2/vec_avx2.h"

#define PLANE_GROUPS 2 /* four times 32 bytes */

struct plane_sums_avx2 {
    vi words[4], dwords[4];
};

KERNEL_INLINE void plane_sums_clear_avx2(struct plane_sums_avx2 *s)
{
    for (int b = 0; b < 4; b++)
        s->words[b] = s->dwords[b] = vi_zero();
}

KERNEL_INLINE void plane_sums_half_avx2(const unsigned bits, struct plane_sums_avx2 *s, vi v, const int8_t *q, size_t stride)
{
    const vi upper = _mm256_srli_epi16(v, 4);
    for (unsigned b = 0; b < 4 / bits; b++) {
        const vi code = _mm256_set1_epi8((char)(((1u << bits) - 1u) << b * bits));
        s->words[b] = _mm256_add_epi16(s->words[b], _mm256_maddubs_epi16(_mm256_and_si256(v, code), load256(q + b * stride)));
        s->words[b] = _mm256_add_epi16(s->words[b], _mm256_maddubs_epi16(_mm256_and_si256(upper, code), load256(q + (b + 4 / bits) * stride)));
    }
}

KERNEL_INLINE void plane_sums_flush_avx2(struct plane_sums_avx2 *s)
{
    for (int b = 0; b < 4; b++) {
        s->dwords[b] = vi_add(s->dwords[b], _mm256_madd_epi16(s->words[b], _mm256_set1_epi16(1)));
        s->words[b] = vi_zero();
    }
}

KERNEL_INLINE void plane_sums_group_avx2(const unsigned bits, struct plane_sums_avx2 *s, const char *row, const int8_t *q, size_t stride)
{
    plane_sums_half_avx2(bits, s, load256(row), q, stride);
    plane_sums_half_avx2(bits, s, load256(row + 32), q + 32, stride);
}

KERNEL_INLINE int32_t plane_sums_all_avx2(const unsigned bits, struct plane_sums_avx2 *s)
{
    vi total;
    plane_sums_flush_avx2(s);
    total = s->dwords[0];
    for (unsigned b = 1; b < 4 / bits; b++)
        total = vi_add(total, _mm256_srai_epi32(s->dwords[b], (int)(b * bits)));
    return vi_sum(total);
}

#endif /* SFFN_PLANE_DOT_AVX2_H */
