/* plane_dot_avx512_vnni.h  What plane_dot_tmpl.h asks for, with vpdpbusd.
 *
 * Code b of 64 bytes, where it lies, is 2^(b * bits) times itself: as an unsigned factor it needs no shift, when each code of a byte has sums of its
 * own, which are shifted at the end. They fit: (2^bits - 1) * 2^(8 - bits) * 127 * n * bits / 8 / 16 < 2^31 for n up to 2^20.
 */
#ifndef SFFN_PLANE_DOT_AVX512_VNNI_H
#define SFFN_PLANE_DOT_AVX512_VNNI_H
#include "kernels/isa/avx512/vec_avx512.h"

struct plane_sums_avx512_vnni {
    vi code[8];
};

KERNEL_INLINE void plane_sums_clear_avx512_vnni(struct plane_sums_avx512_vnni *s)
{
    for (int b = 0; b < 8; b++)
        s->code[b] = vi_zero();
}

KERNEL_INLINE void plane_sums_group_avx512_vnni(const unsigned bits, struct plane_sums_avx512_vnni *s, const char *row, const int8_t *q, size_t stride)
{
    const vi v = _mm512_loadu_si512(row);
    for (unsigned b = 0; b < 8 / bits; b++) {
        const vi code = _mm512_and_si512(v, _mm512_set1_epi8((char)(((1u << bits) - 1u) << b * bits)));
        s->code[b] = _mm512_dpbusd_epi32(s->code[b], code, _mm512_loadu_si512(q + stride * b));
    }
}

KERNEL_INLINE int32_t plane_sums_all_avx512_vnni(const unsigned bits, const struct plane_sums_avx512_vnni *s)
{
    vi total = s->code[0];
    for (unsigned b = 1; b < 8 / bits; b++)
        total = vi_add(total, _mm512_srai_epi32(s->code[b], b * bits));
    return vi_sum(total);
}

#endif /* SFFN_PLANE_DOT_AVX512_VNNI_H */
