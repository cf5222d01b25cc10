/* plane_dot_vnni_256.h  What plane_dot_tmpl.h asks for, for the rows avx_vnni and avx512vl_vnni of the ISA table: avx512_vnni's sums, which fit as well
 * in half as many lanes, over 32 bytes at a time.
 */
#ifndef SFFN_PLANE_DOT_VNNI_256_H
#define SFFN_PLANE_DOT_VNNI_256_H
#include "kernels/isa/avx2/quants_avx2.h"

struct PLAIN_KERNEL(plane_sums) {
    vi code[8];
};

KERNEL_INLINE void PLAIN_KERNEL(plane_sums_clear)(struct PLAIN_KERNEL(plane_sums) * s)
{
    for (int b = 0; b < 8; b++)
        s->code[b] = vi_zero();
}

KERNEL_INLINE void PLAIN_KERNEL(plane_sums_group)(const unsigned bits, struct PLAIN_KERNEL(plane_sums) * s, const char *row, const int8_t *q,
                                                  size_t stride)
{
    for (size_t half = 0; half < 64; half += 32) {
        const vi v = load256(row + half);
        for (unsigned b = 0; b < 8 / bits; b++) {
            const vi code = _mm256_and_si256(v, _mm256_set1_epi8((char)(((1u << bits) - 1u) << b * bits)));
            s->code[b] = DPBUSD(s->code[b], code, load256(q + half + stride * b));
        }
    }
}

KERNEL_INLINE int32_t PLAIN_KERNEL(plane_sums_all)(const unsigned bits, const struct PLAIN_KERNEL(plane_sums) * s)
{
    vi total = s->code[0];
    for (unsigned b = 1; b < 8 / bits; b++)
        total = vi_add(total, _mm256_srai_epi32(s->code[b], (int)(b * bits)));
    return vi_sum(total);
}

#endif /* SFFN_PLANE_DOT_VNNI_256_H */
