/* columns_axpy_avx512_vnni.h  columns_axpy with vpdpbusd: four columns at a time, a byte of each beside the others.
 * The next columns are fetched into the second-level cache: into the first level, as ahead.h has it, 8.8 instead of 14.2 GB/s on Zen 4. */
#ifndef SFFN_COLUMNS_AXPY_AVX512_VNNI_H
#define SFFN_COLUMNS_AXPY_AVX512_VNNI_H
#include "kernels/isa/avx512/vec_avx512.h"

/* 64 bytes of four columns -> v[j], whose dword i holds the bytes of rows 16 j + i (and 64, 128, 192 behind them). The order of bytes that
 * the contract names is what these four shuffles leave behind. */
KERNEL_INLINE void columns_interleave_avx512_vnni(vi v[4], const char *const columns[4], size_t at)
{
    const vi a = _mm512_loadu_si512(columns[0] + at), b = _mm512_loadu_si512(columns[1] + at);
    const vi c = _mm512_loadu_si512(columns[2] + at), d = _mm512_loadu_si512(columns[3] + at);
    const vi ab_lo = _mm512_unpacklo_epi8(a, b), ab_hi = _mm512_unpackhi_epi8(a, b);
    const vi cd_lo = _mm512_unpacklo_epi8(c, d), cd_hi = _mm512_unpackhi_epi8(c, d);
    v[0] = _mm512_unpacklo_epi16(ab_lo, cd_lo);
    v[1] = _mm512_unpackhi_epi16(ab_lo, cd_lo);
    v[2] = _mm512_unpacklo_epi16(ab_hi, cd_hi);
    v[3] = _mm512_unpackhi_epi16(ab_hi, cd_hi);
}

static void columns_axpy_avx512_vnni(int32_t *out, const void *codes, size_t column_bytes, const uint32_t *columns, const int8_t *q,
                                     size_t n_columns, size_t n_rows)
{
    const vi three = _mm512_set1_epi8(3);
    for (size_t i = 0; i < n_columns; i += 8) {
        const char *first[4], *second[4], *next[8];
        int32_t factors[2];
        memcpy(factors, q + i, sizeof factors);
        for (size_t c = 0; c < 4; c++) {
            first[c] = (const char *)codes + columns[i + c] * column_bytes;
            second[c] = (const char *)codes + columns[i + 4 + c] * column_bytes;
        }
        for (size_t c = 0; c < 8; c++)
            next[c] = (const char *)codes + columns[i + 8 + c < n_columns ? i + 8 + c : i + c] * column_bytes;
        const vi f = _mm512_set1_epi32(factors[0]), g = _mm512_set1_epi32(factors[1]);
        for (size_t at = 0; at < n_rows / 4; at += 64) {
            vi v[4], w[4];
            for (size_t c = 0; c < 8; c++)
                vf_prefetch(next[c] + at);
            columns_interleave_avx512_vnni(v, first, at);
            columns_interleave_avx512_vnni(w, second, at);
            for (unsigned b = 0; b < 4; b++)
                for (size_t j = 0; j < 4; j++) {
                    int32_t *sums = out + 4 * at + 64 * b + 16 * j;
                    vi sum = _mm512_loadu_si512(sums);
                    sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16(v[j], 2 * b), three), f);
                    sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16(w[j], 2 * b), three), g);
                    _mm512_storeu_si512(sums, sum);
                }
        }
    }
}

#endif /* SFFN_COLUMNS_AXPY_AVX512_VNNI_H */
