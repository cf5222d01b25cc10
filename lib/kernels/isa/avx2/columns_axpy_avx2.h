/* columns_axpy_avx2.h  columns_axpy with vpmaddubsw: four columns at a time, a byte of each beside the others. */
#ifndef SFFN_COLUMNS_AXPY_AVX2_H
#define SFFN_COLUMNS_AXPY_AVX2_H
#include "kernels/isa/avx2/vec_avx2.h"

static void columns_axpy_avx2(int32_t *out, const void *codes, size_t column_bytes, const uint32_t *columns, const int8_t *q,
                              size_t n_columns, size_t n_rows)
{
    const vi three = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    for (size_t i = 0; i < n_columns; i += 4) {
        const char *column[4], *next[4];
        int32_t factors;
        memcpy(&factors, q + i, sizeof factors);
        for (size_t c = 0; c < 4; c++) {
            column[c] = (const char *)codes + columns[i + c] * column_bytes;
            next[c] = (const char *)codes + columns[i + 4 + c < n_columns ? i + 4 + c : i + c] * column_bytes;
        }
        const vi f = _mm256_set1_epi32(factors);
        for (size_t at = 0; at < n_rows / 4; at += 32) { /* half of 64 bytes: the rows of eight dwords of each sixteen */
            const vi a = load256(column[0] + at), b = load256(column[1] + at);
            const vi c = load256(column[2] + at), d = load256(column[3] + at);
            const vi ab_lo = _mm256_unpacklo_epi8(a, b), ab_hi = _mm256_unpackhi_epi8(a, b);
            const vi cd_lo = _mm256_unpacklo_epi8(c, d), cd_hi = _mm256_unpackhi_epi8(c, d);
            const vi v[4] = {_mm256_unpacklo_epi16(ab_lo, cd_lo), _mm256_unpackhi_epi16(ab_lo, cd_lo), _mm256_unpacklo_epi16(ab_hi, cd_hi),
                             _mm256_unpackhi_epi16(ab_hi, cd_hi)};
            if (at % 64 == 0)
                for (size_t k = 0; k < 4; k++)
                    vf_prefetch(next[k] + at);
            for (int bits = 0; bits < 4; bits++)
                for (size_t j = 0; j < 4; j++) {
                    int32_t *sums = out + 4 * (at & ~(size_t)63) + 64 * (size_t)bits + 16 * j + (at & 32) / 4;
                    const vi codes_of = _mm256_and_si256(_mm256_srli_epi16(v[j], 2 * bits), three);
                    const vi products = _mm256_madd_epi16(_mm256_maddubs_epi16(codes_of, f), ones);
                    _mm256_storeu_si256((__m256i *)(void *)sums, _mm256_add_epi32(load256(sums), products));
                }
        }
    }
}

#endif /* SFFN_COLUMNS_AXPY_AVX2_H */
