/* columns_axpy_avx512_vnni.h  What columns_axpy_tmpl.h asks for, with vpdpbusd: four columns (a quad) at a time, a byte of each beside the others.
 *
 * Four codes lie in a byte. The sums keep q times the byte's lowest 2, 4, 6 and 8 bits, which spares shifting the codes out of it: at the end
 * what a sum has more than the one before is 4, 16 or 64 times the code's. 16 columns for each load and store of a sum, and the next 16
 * fetched into the second-level cache, never into the first (ahead.h): on Zen 4 8 columns, codes shifted out 14, so 22 GB/s.
 */
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

/* The sums of rows [0, 16), and of those 64, 128 and 192 behind them: what the lowest 2, 4, 6 and 8 bits add up to. */
struct column_sums_avx512_vnni {
    vi bits[4];
};

KERNEL_INLINE struct column_sums_avx512_vnni column_sums_load_avx512_vnni(const int32_t *out)
{
    const struct column_sums_avx512_vnni s = { { _mm512_loadu_si512(out), _mm512_loadu_si512(out + 64), _mm512_loadu_si512(out + 128),
                                                 _mm512_loadu_si512(out + 192) } };
    return s;
}

KERNEL_INLINE void column_sums_store_avx512_vnni(int32_t *out, const struct column_sums_avx512_vnni *s)
{
    for (int b = 0; b < 4; b++)
        _mm512_storeu_si512(out + 64 * b, s->bits[b]);
}

/* The step's columns, starting at column[c]; where the next step's start: next[c]. */
KERNEL_INLINE void columns_step_avx512_vnni(int32_t *out, const char *const *column, const char *const *next, const int8_t *q, size_t n_rows)
{
    vi f[SFFN_COLUMNS_QUADS];
    for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
        int32_t factors;
        memcpy(&factors, q + 4 * k, sizeof factors);
        f[k] = vi_set1(factors);
    }
    for (size_t at = 0; at < n_rows / 4; at += 64) {
        vi v[SFFN_COLUMNS_QUADS][4];
        for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
            for (size_t c = 0; c < 4; c++)
                vf_prefetch(next[4 * k + c] + at);
            columns_interleave_avx512_vnni(v[k], column + 4 * k, at);
        }
        for (size_t j = 0; j < 4; j++) {
            struct column_sums_avx512_vnni s = column_sums_load_avx512_vnni(out + 4 * at + 16 * j);
            for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
                for (int b = 0; b < 3; b++)
                    s.bits[b] = _mm512_dpbusd_epi32(s.bits[b], _mm512_and_si512(v[k][j], _mm512_set1_epi8((char)((4 << 2 * b) - 1))), f[k]);
                s.bits[3] = _mm512_dpbusd_epi32(s.bits[3], v[k][j], f[k]);
            }
            column_sums_store_avx512_vnni(out + 4 * at + 16 * j, &s);
        }
    }
}

#define COLUMNS_FINISH
KERNEL_INLINE void columns_finish_avx512_vnni(int32_t *out, size_t n_rows)
{
    for (size_t row = 0; row < n_rows; row += SFFN_COLUMNS_ROWS)
        for (size_t j = 0; j < 4; j++) {
            struct column_sums_avx512_vnni s = column_sums_load_avx512_vnni(out + row + 16 * j);
            for (unsigned b = 3; b > 0; b--) /* SFFN_COLUMNS_MAX: 64 times a sum fits */
                s.bits[b] = _mm512_srai_epi32(_mm512_sub_epi32(s.bits[b], s.bits[b - 1]), 2 * b);
            column_sums_store_avx512_vnni(out + row + 16 * j, &s);
        }
}

#endif /* SFFN_COLUMNS_AXPY_AVX512_VNNI_H */
