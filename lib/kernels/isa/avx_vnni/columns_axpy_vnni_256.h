/* columns_axpy_vnni_256.h  What columns_axpy_tmpl.h asks for, for the rows avx_vnni and avx512vl_vnni of the ISA table: avx2's order of bytes with
 * avx512_vnni's sums, of the lowest 2, 4, 6 and 8 bits.
 */
#ifndef SFFN_COLUMNS_AXPY_VNNI_256_H
#define SFFN_COLUMNS_AXPY_VNNI_256_H
#include "kernels/isa/avx2/columns_axpy_avx2.h"
#include "kernels/isa/avx2/quants_avx2.h"

KERNEL_INLINE void PLAIN_KERNEL(columns_step)(int32_t *out, const char *const *column, const char *const *next, const int8_t *q, size_t n_rows)
{
    vi f[SFFN_COLUMNS_QUADS];
    for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
        int32_t factors;
        memcpy(&factors, q + 4 * k, sizeof factors);
        f[k] = vi_set1(factors);
    }
    for (size_t at = 0; at < n_rows / 4; at += 32) {
        vi v[SFFN_COLUMNS_QUADS][4];
        columns_load_avx2(v, column, next, at);
        for (size_t j = 0; j < 4; j++) {
            int32_t *to = out + 4 * (at & ~(size_t)63) + 16 * j + (at & 32) / 4;
            vi sums[4] = { load256(to), load256(to + 64), load256(to + 128), load256(to + 192) };
            for (size_t k = 0; k < SFFN_COLUMNS_QUADS; k++) {
                for (int b = 0; b < 3; b++)
                    sums[b] = DPBUSD(sums[b], _mm256_and_si256(v[k][j], _mm256_set1_epi8((char)((4 << 2 * b) - 1))), f[k]);
                sums[3] = DPBUSD(sums[3], v[k][j], f[k]);
            }
            for (int b = 0; b < 4; b++)
                vi_store(to + 64 * b, sums[b]);
        }
    }
}

#define COLUMNS_FINISH
KERNEL_INLINE void PLAIN_KERNEL(columns_finish)(int32_t *out, size_t n_rows)
{
    for (size_t row = 0; row < n_rows; row += SFFN_COLUMNS_ROWS)
        for (size_t i = row; i < row + 64; i += 8)
            for (int b = 3; b > 0; b--) { /* SFFN_COLUMNS_MAX: 64 times a sum fits */
                const vi more = _mm256_sub_epi32(load256(out + i + 64 * b), load256(out + i + 64 * (b - 1)));
                vi_store(out + i + 64 * b, _mm256_srai_epi32(more, 2 * b));
            }
}

#endif /* SFFN_COLUMNS_AXPY_VNNI_256_H */
