/* plane_dot_avx512_vnni.h  What plane_dot_tmpl.h asks for, with vpdpbusd.
 *
 * Bit b of 64 bytes is 0 or 2^b: as an unsigned factor it needs no shift, when each bit has sums of its own, which are shifted at the end.
 * They fit: 2^7 * 127 * n / 8 < 2^31 for n up to 2^20.
 */
#ifndef SFFN_PLANE_DOT_AVX512_VNNI_H
#define SFFN_PLANE_DOT_AVX512_VNNI_H
#include "kernels/isa/avx512/vec_avx512.h"

struct plane_sums_avx512_vnni {
    vi bit[8];
};

KERNEL_INLINE void plane_sums_clear_avx512_vnni(struct plane_sums_avx512_vnni *s)
{
    for (int b = 0; b < 8; b++)
        s->bit[b] = vi_zero();
}

KERNEL_INLINE void plane_sums_add_avx512_vnni(struct plane_sums_avx512_vnni *s, const char *row, const int8_t *q)
{
    const vi v = _mm512_loadu_si512(row);
    for (int b = 0; b < 8; b++)
        s->bit[b] = _mm512_dpbusd_epi32(s->bit[b], _mm512_and_si512(v, _mm512_set1_epi8((char)(1 << b))), _mm512_loadu_si512(q + 64 * b));
}

KERNEL_INLINE void plane_sums_part_avx512_vnni(struct plane_sums_avx512_vnni *s, const char *row, const int8_t *q, size_t bytes)
{
    const vi v = _mm512_maskz_loadu_epi32((__mmask16)((1u << bytes / 4) - 1u), row);
    for (size_t b = 0; b < 8; b++) /* what lies behind a part of q meets zeros */
        s->bit[b] = _mm512_dpbusd_epi32(s->bit[b], _mm512_and_si512(v, _mm512_set1_epi8((char)(1 << b))), _mm512_loadu_si512(q + bytes * b));
}

KERNEL_INLINE int32_t plane_sums_all_avx512_vnni(const struct plane_sums_avx512_vnni *s)
{
    vi total = s->bit[0];
    for (unsigned b = 1; b < 8; b++)
        total = vi_add(total, _mm512_srai_epi32(s->bit[b], b));
    return vi_sum(total);
}

#endif /* SFFN_PLANE_DOT_AVX512_VNNI_H */
