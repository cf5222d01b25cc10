/* plane_dot_avx2.h  What plane_dot_tmpl.h asks for, with vpmaddubsw.
 *
 * Bit b of 32 bytes, b = 0 .. 3, is 0 or 2^b: as an unsigned factor it needs no shift, when each bit has sums of its own, which are
 * shifted at the end. The upper four bits are moved down and join them. A word takes 2 * 2 * 2^3 * 127 = 4064 per 32 bytes, so eight times
 * 32 bytes fit; then the words go to dwords.
 */
#ifndef SFFN_PLANE_DOT_AVX2_H
#define SFFN_PLANE_DOT_AVX2_H
#include "kernels/isa/avx2/vec_avx2.h"

#define PLANE_GROUPS 4 /* of 64 bytes, until the words are full */

struct plane_sums_avx2 {
    vi words[4], dwords[4];
    int n_groups; /* in the words */
};

KERNEL_INLINE void plane_sums_clear_avx2(struct plane_sums_avx2 *s)
{
    for (int b = 0; b < 4; b++)
        s->words[b] = s->dwords[b] = vi_zero();
    s->n_groups = 0;
}

KERNEL_INLINE void plane_sums_half_avx2(struct plane_sums_avx2 *s, vi v, const int8_t *q, size_t stride)
{
    const vi upper = _mm256_srli_epi16(v, 4);
    for (size_t b = 0; b < 4; b++) {
        const vi bit = _mm256_set1_epi8((char)(1 << b));
        s->words[b] = _mm256_add_epi16(s->words[b], _mm256_maddubs_epi16(_mm256_and_si256(v, bit), load256(q + b * stride)));
        s->words[b] = _mm256_add_epi16(s->words[b], _mm256_maddubs_epi16(_mm256_and_si256(upper, bit), load256(q + (b + 4) * stride)));
    }
}

KERNEL_INLINE void plane_sums_flush_avx2(struct plane_sums_avx2 *s)
{
    for (int b = 0; b < 4; b++) {
        s->dwords[b] = vi_add(s->dwords[b], _mm256_madd_epi16(s->words[b], _mm256_set1_epi16(1)));
        s->words[b] = vi_zero();
    }
    s->n_groups = 0;
}

KERNEL_INLINE void plane_sums_add_avx2(struct plane_sums_avx2 *s, const char *row, const int8_t *q)
{
    plane_sums_half_avx2(s, load256(row), q, 64);
    plane_sums_half_avx2(s, load256(row + 32), q + 32, 64);
    if (++s->n_groups == PLANE_GROUPS)
        plane_sums_flush_avx2(s);
}

KERNEL_INLINE void plane_sums_part_avx2(struct plane_sums_avx2 *s, const char *row, const int8_t *q, size_t bytes)
{
    char padded[64]; /* what lies behind a part of q meets zeros */
    memset(padded, 0, sizeof padded);
    memcpy(padded, row, bytes);
    plane_sums_half_avx2(s, load256(padded), q, bytes);
    plane_sums_half_avx2(s, load256(padded + 32), q + 32, bytes);
}

KERNEL_INLINE int32_t plane_sums_all_avx2(struct plane_sums_avx2 *s)
{
    vi total;
    plane_sums_flush_avx2(s);
    total = s->dwords[0];
    for (int b = 1; b < 4; b++)
        total = vi_add(total, _mm256_srai_epi32(s->dwords[b], b));
    return vi_sum(total);
}

#undef PLANE_GROUPS

#endif /* SFFN_PLANE_DOT_AVX2_H */
