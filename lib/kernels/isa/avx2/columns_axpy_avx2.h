/* columns_axpy_avx2.h  What columns_axpy_tmpl.h asks for, with vpmaddubsw: four columns (a quad) at a time, a byte of each beside the others.
 *
 * Products stay in 16 bits until all of a step's quads are added: SFFN_COLUMNS_QUADS * 2 * 127 * 12 is below 2^15. With 12: a code in bits 2 and 3 is
 * multiplied where it lies, and the sum shifted, so that one shift of the byte serves four codes.
 */
#ifndef SFFN_COLUMNS_AXPY_AVX2_H
#define SFFN_COLUMNS_AXPY_AVX2_H
#include "kernels/isa/avx2/vec_avx2.h"

_Static_assert(SFFN_COLUMNS_QUADS * 2 * 127 * 12 < 1 << 15, "the products of a step fit 16 bits");

/* 32 bytes of four columns -> v[j]: half of what the contract's 64 bytes hold, the rows of eight dwords of each sixteen. */
KERNEL_INLINE void columns_interleave_avx2(vi v[4], const char *const columns[4], size_t at)
{
    const vi a = load256(columns[0] + at), b = load256(columns[1] + at), c = load256(columns[2] + at), d = load256(columns[3] + at);
    const vi ab_lo = _mm256_unpacklo_epi8(a, b), ab_hi = _mm256_unpackhi_epi8(a, b);
    const vi cd_lo = _mm256_unpacklo_epi8(c, d), cd_hi = _mm256_unpackhi_epi8(c, d);
    v[0] = _mm256_unpacklo_epi16(ab_lo, cd_lo);
    v[1] = _mm256_unpackhi_epi16(ab_lo, cd_lo);
    v[2] = _mm256_unpacklo_epi16(ab_hi, cd_hi);
    v[3] = _mm256_unpackhi_epi16(ab_hi, cd_hi);
}

/* The same of all columns of a step, with the prefetches of the next one's. */
KERNEL_INLINE void columns_load_avx2(vi v[SFFN_COLUMNS_QUADS][4], const char *const *column, const char *const *next, size_t at)
{
    for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
        if (at % 64 == 0)
            for (size_t c = 0; c < 4; c++)
                vf_prefetch(next[4 * k + c] + at);
        columns_interleave_avx2(v[k], column + 4 * k, at);
    }
}

/* out += the sums of 16-bit pairs, shifted right: eight rows. */
KERNEL_INLINE void column_sums_add_avx2(int32_t *out, vi pairs, int shift)
{
    const vi sums = _mm256_srai_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), shift);
    _mm256_storeu_si256((__m256i *)(void *)out, _mm256_add_epi32(load256(out), sums));
}

KERNEL_INLINE void columns_step_avx2(int32_t *out, const char *const *column, const char *const *next, const int8_t *q, size_t n_rows)
{
    const vi low = _mm256_set1_epi8(3), high = _mm256_set1_epi8(12);
    for (size_t at = 0; at < n_rows / 4; at += 32) {
        vi v[SFFN_COLUMNS_QUADS][4];
        columns_load_avx2(v, column, next, at);
        for (size_t j = 0; j < 4; j++) {
            int32_t *sums = out + 4 * (at & ~(size_t)63) + 16 * j + (at & 32) / 4;
            vi pairs[4] = { vi_zero(), vi_zero(), vi_zero(), vi_zero() };
            for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
                const vi shifted = _mm256_srli_epi16(v[k][j], 4);
                int32_t factors;
                memcpy(&factors, q + 4 * k, sizeof factors);
                const vi f = vi_set1(factors);
                pairs[0] = _mm256_add_epi16(pairs[0], _mm256_maddubs_epi16(_mm256_and_si256(v[k][j], low), f));
                pairs[1] = _mm256_add_epi16(pairs[1], _mm256_maddubs_epi16(_mm256_and_si256(v[k][j], high), f));
                pairs[2] = _mm256_add_epi16(pairs[2], _mm256_maddubs_epi16(_mm256_and_si256(shifted, low), f));
                pairs[3] = _mm256_add_epi16(pairs[3], _mm256_maddubs_epi16(_mm256_and_si256(shifted, high), f));
            }
            for (size_t b = 0; b < 4; b++)
                column_sums_add_avx2(sums + 64 * b, pairs[b], b % 2 == 0 ? 0 : 2);
        }
    }
}

#endif /* SFFN_COLUMNS_AXPY_AVX2_H */
