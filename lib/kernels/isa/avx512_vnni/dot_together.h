/* dot_together.h  DOT_TOGETHER neighbouring rows for several tokens: what rows_dot_q_tmpl.h asks for.
 *
 * One row needs 15 shuffles per token to add up what vpdpbusd leaves of 16 blocks. Here the weights are turned once for all tokens instead, so
 * that a lane holds a row, and a block of 16 rows takes 8 vpdpbusd and nothing else per token. The sums are those of dot_row(): 16 per (row,
 * token), block b going to the one of number b % 16, added up in the order of vf_sum().
 *
 * Turning costs what three (q8_0) to six (q4_0) tokens gain. Gate of 11008 x 4096 on Zen 4, against row by row, for 2, 4, 8 tokens: q8_0 x1.0,
 * x1.3, x1.6; q4_0 x0.75, x0.95, x1.2. So where tokens have masks, most of the products must be wanted: 8 tokens that each need 50 / 60 / 90 %
 * of the rows, q8_0 x0.97, x1.08, x1.55, q4_0 x0.73, x0.83, x1.27; 4 tokens of 60 / 90 % q8_0 x0.91, x1.18. Rows that do not lie together gained
 * less (a pointer for each). Parts of registers are filled by inserts for q8_0 (with masked broadcasts 2.6 instead of 2.2 ms for four tokens), by
 * masked broadcasts for q4_0 (inserts 2.4 instead of 2.1).
 */
#ifndef SFFN_DOT_TOGETHER_H
#define SFFN_DOT_TOGETHER_H
#include "kernels/isa/avx512_vnni/quants_avx512_vnni.h"

#define DOT_TOGETHER 16             /* rows */
/* From how many of the 16 * n_tokens (row, token) pairs on, below. */
#define DOT_TOGETHER_PAIRS_q8_0(n_tokens) (36 + (n_tokens) * 7 / 2)
#define DOT_TOGETHER_PAIRS_q4_0(n_tokens) (88 + (n_tokens))
#define DOT_TOGETHER_PAIRS_q4_0_apart DOT_TOGETHER_PAIRS_q4_0

/* a, b, c, d: dwords 0 .. 3 of four rows in each 128 bits. v[k]: dword k of all of them. */
KERNEL_INLINE void turn_dwords(vi v[4], vi a, vi b, vi c, vi d)
{
    const vi ab_lo = _mm512_unpacklo_epi32(a, b), ab_hi = _mm512_unpackhi_epi32(a, b);
    const vi cd_lo = _mm512_unpacklo_epi32(c, d), cd_hi = _mm512_unpackhi_epi32(c, d);
    v[0] = _mm512_unpacklo_epi64(ab_lo, cd_lo);
    v[1] = _mm512_unpackhi_epi64(ab_lo, cd_lo);
    v[2] = _mm512_unpacklo_epi64(ab_hi, cd_hi);
    v[3] = _mm512_unpackhi_epi64(ab_hi, cd_hi);
}

KERNEL_INLINE __m256i load_32(const char *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* v[k], lane r: the four weights of dword k of the block with quants at p + r * distance, plus QUANTS_OFFSET. */
KERNEL_INLINE void turn_q8_0(vi v[8], const char *p, size_t distance)
{
    vi a[8], top[4], bottom[4];
    for (size_t i = 0; i < 8; i++) {
        const char *row = p + (i % 4 + i / 4 * 8) * distance;
        a[i] = _mm512_inserti64x4(_mm512_castsi256_si512(load_32(row)), load_32(row + 4 * distance), 1);
    }
    turn_dwords(top, a[0], a[1], a[2], a[3]);    /* rows 0 .. 3: dword k, k + 4; rows 4 .. 7: dword k, k + 4 */
    turn_dwords(bottom, a[4], a[5], a[6], a[7]); /* rows 8 .. 15 */
    for (int k = 0; k < 4; k++) {
        v[k] = _mm512_xor_si512(_mm512_shuffle_i32x4(top[k], bottom[k], 0x88), _mm512_set1_epi8(-128));
        v[k + 4] = _mm512_xor_si512(_mm512_shuffle_i32x4(top[k], bottom[k], 0xdd), _mm512_set1_epi8(-128));
    }
}

/* 16 bytes of rows 0, 4, 8 and 12. */
KERNEL_INLINE vi load_4_rows(const char *p, size_t distance)
{
    vi v = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0u, _mm_loadu_si128((const __m128i *)(const void *)(p + 4 * distance)));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00u, _mm_loadu_si128((const __m128i *)(const void *)(p + 8 * distance)));
    return _mm512_mask_broadcast_i32x4(v, 0xf000u, _mm_loadu_si128((const __m128i *)(const void *)(p + 12 * distance)));
}

KERNEL_INLINE void turn_q4_0(vi v[8], const char *p, size_t distance)
{
    vi bytes[4];
    turn_dwords(bytes, load_4_rows(p, distance), load_4_rows(p + distance, distance), load_4_rows(p + 2 * distance, distance),
                load_4_rows(p + 3 * distance, distance));
    for (int k = 0; k < 4; k++) {
        v[k] = _mm512_and_si512(bytes[k], _mm512_set1_epi8(15));
        v[k + 4] = _mm512_and_si512(_mm512_srli_epi16(bytes[k], 4), _mm512_set1_epi8(15));
    }
}

KERNEL_INLINE short scale_at(const char *p, size_t row, size_t distance)
{
    short s;
    memcpy(&s, p + row * distance, sizeof s);
    return s;
}

/* Lane r: the scale at p + r * distance. */
KERNEL_INLINE vf turn_scales(const char *p, size_t d)
{
    return _mm512_cvtph_ps(_mm256_setr_epi16(scale_at(p, 0, d), scale_at(p, 1, d), scale_at(p, 2, d), scale_at(p, 3, d), scale_at(p, 4, d),
                                             scale_at(p, 5, d), scale_at(p, 6, d), scale_at(p, 7, d), scale_at(p, 8, d), scale_at(p, 9, d),
                                             scale_at(p, 10, d), scale_at(p, 11, d), scale_at(p, 12, d), scale_at(p, 13, d),
                                             scale_at(p, 14, d), scale_at(p, 15, d)));
}

KERNEL_INLINE vi dword_at(const char *p)
{
    int32_t d;
    memcpy(&d, p, sizeof d);
    return vi_set1(d);
}

/* Where block b of a row is: its scale at b * scale_step, its quants at quants + b * quants_step. */
struct block_places {
    size_t scale_step, quants, quants_step, block_bytes;
};

/* out[r * n_tokens + t] = (add: +=) the dots of the 16 rows at `row` with the tokens of their masks (NULL: all) over n_blocks blocks, from
 * block `first` of x on. next: what to fetch meanwhile, as long as these rows. */
KERNEL_INLINE void dot_together(void turn(vi *, const char *, size_t), int offset_shift, struct block_places at_block, float *out, int add,
                                const char *row, const uint8_t *masks, size_t distance, uintptr_t next, const struct sffn_x *x, size_t first,
                                size_t n_tokens, size_t n_blocks)
{
    const size_t step = 16 * at_block.block_bytes;
    _Alignas(64) float sums[SFFN_TILE_TOKENS][16][16];
    const size_t stride = x->q_stride / 32;
    memset(sums, 0, n_tokens * sizeof *sums);
    for (size_t b = 0; b < n_blocks; b++) {
        const vf scales = turn_scales(row + b * at_block.scale_step, distance);
        vi v[8];
        turn(v, row + at_block.quants + b * at_block.quants_step, distance);
        for (uintptr_t line = (next + b * step + 63) / 64 * 64; line < next + (b + 1) * step; line += 64)
            vf_prefetch(line);
        for (size_t t = 0; t < n_tokens; t++) {
            const size_t at = t * stride + first + b;
            const char *q = (const char *)x->q + 32 * at;
            float *const sum = sums[t][b % 16];
            /* two chains hide the latency of one */
            vi even = _mm512_sub_epi32(vi_zero(), _mm512_slli_epi32(vi_set1(x->sum[at]), (unsigned)offset_shift)), odd = vi_zero();
            for (int k = 0; k < 8; k += 2) {
                even = _mm512_dpbusd_epi32(even, v[k], dword_at(q + 4 * k));
                odd = _mm512_dpbusd_epi32(odd, v[k + 1], dword_at(q + 4 * k + 4));
            }
            vf_store(sum, vf_fma(vf_from_vi(_mm512_add_epi32(even, odd)), vf_mul(scales, vf_set1(x->d[at])), vf_load(sum)));
        }
    }
    for (size_t t = 0; t < n_tokens; t++) {
        float all[16];
        for (size_t half = 8; half > 0; half /= 2)
            for (size_t i = 0; i < half; i++)
                vf_store(sums[t][i], vf_add(vf_load(sums[t][i]), vf_load(sums[t][i + half])));
        vf_store(all, vf_load(sums[t][0]));
        for (size_t r = 0; r < 16; r++)
            if (masks == NULL || (masks[r] >> t & 1u) != 0)
                out[r * n_tokens + t] = add ? out[r * n_tokens + t] + all[r] : all[r];
    }
}

static void dot_together_q8_0_avx512_vnni(float *out, int add, const char *row, const uint8_t *masks, size_t distance, uintptr_t next,
                                          size_t quants, const struct sffn_x *x, size_t first, size_t n_tokens, size_t n_blocks)
{
    const struct block_places at = { 34, 2, 34, 34 };
    (void)quants;
    dot_together(turn_q8_0, 7, at, out, add, row, masks, distance, next, x, first, n_tokens, n_blocks);
}

static void dot_together_q4_0_avx512_vnni(float *out, int add, const char *row, const uint8_t *masks, size_t distance, uintptr_t next,
                                          size_t quants, const struct sffn_x *x, size_t first, size_t n_tokens, size_t n_blocks)
{
    const struct block_places at = { 18, 2, 18, 18 };
    (void)quants;
    dot_together(turn_q4_0, 3, at, out, add, row, masks, distance, next, x, first, n_tokens, n_blocks);
}

static void dot_together_q4_0_apart_avx512_vnni(float *out, int add, const char *row, const uint8_t *masks, size_t distance, uintptr_t next,
                                                size_t quants, const struct sffn_x *x, size_t first, size_t n_tokens, size_t n_blocks)
{
    const struct block_places at = { 2, quants, 16, 18 };
    dot_together(turn_q4_0, 3, at, out, add, row, masks, distance, next, x, first, n_tokens, n_blocks);
}

#endif /* SFFN_DOT_TOGETHER_H */
