/* quants_avx512_vnni.h  16 blocks of q8_0 or q4_0 with vpdpbusd and vpdpwssd; what instantiate_q.h asks for.
 *
 * vpdpbusd wants unsigned x signed: q4_0 uses its nibbles 0 .. 15 and q8_0 flips the sign bit, which adds 8 or 128 to each weight; 8 or 128
 * times the sum of x is taken off again. An even number of bytes per block lets word permutations collect the quants of four blocks.
 */
#ifndef SFFN_QUANTS_AVX512_VNNI_H
#define SFFN_QUANTS_AVX512_VNNI_H
#include "kernels/isa/avx512/vec_avx512.h"

#define Q8_PAIR_BYTES 68 /* two blocks */

/* a0 .. a3: four dwords for each of four blocks, lane L of ag being block 4g + L. The sum of each, in the order of the blocks. */
KERNEL_INLINE vi sums_of_blocks(vi a0, vi a1, vi a2, vi a3)
{
    const vi order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const vi s01 = _mm512_add_epi32(_mm512_unpacklo_epi32(a0, a1), _mm512_unpackhi_epi32(a0, a1));
    const vi s23 = _mm512_add_epi32(_mm512_unpacklo_epi32(a2, a3), _mm512_unpackhi_epi32(a2, a3));
    const vi sums = _mm512_add_epi32(_mm512_unpacklo_epi64(s01, s23), _mm512_unpackhi_epi64(s01, s23));
    return _mm512_permutexvar_epi32(order, sums);
}

/* ---- q4_0 ---- */

struct quants_q4_0_avx512_vnni {
    vi low[4], high[4]; /* lane L of element g: the low or high nibbles of block 4g + L */
};

#define WORDS_8(at) (at) + 7, (at) + 6, (at) + 5, (at) + 4, (at) + 3, (at) + 2, (at) + 1, (at)
/* The words of four blocks when the first starts at word `at` of a pair of registers. */
#define WORDS_OF_BLOCKS(at) _mm512_set_epi16(WORDS_8((at) + 28), WORDS_8((at) + 19), WORDS_8((at) + 10), WORDS_8((at) + 1))

/* b0 .. b3: the bytes of four blocks each. */
KERNEL_INLINE void quants_split_q4_0(struct quants_q4_0_avx512_vnni *w, vi b0, vi b1, vi b2, vi b3)
{
    const vi mask = _mm512_set1_epi8(15);
    w->low[0] = _mm512_and_si512(b0, mask);
    w->low[1] = _mm512_and_si512(b1, mask);
    w->low[2] = _mm512_and_si512(b2, mask);
    w->low[3] = _mm512_and_si512(b3, mask);
    w->high[0] = _mm512_and_si512(_mm512_srli_epi16(b0, 4), mask);
    w->high[1] = _mm512_and_si512(_mm512_srli_epi16(b1, 4), mask);
    w->high[2] = _mm512_and_si512(_mm512_srli_epi16(b2, 4), mask);
    w->high[3] = _mm512_and_si512(_mm512_srli_epi16(b3, 4), mask);
}

/* The scales of 16 blocks in r0 .. r4, as below: block b's is word 9b, so eight of them lie in r0 and r1, seven in r2 and r3, the last in r4. */
KERNEL_INLINE vf scales_of_q4_0(vi r0, vi r1, vi r2, vi r3, vi r4)
{
    const vi first = _mm512_castsi128_si512(_mm_setr_epi16(0, 9, 18, 27, 36, 45, 54, 63));
    const vi second = _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 0, 0, 0, 0, 0, 0, 8, 17, 26, 35, 44, 53, 62, 0));
    const vi s01 = _mm512_permutex2var_epi16(r0, first, r1), s23 = _mm512_permutex2var_epi16(r2, second, r3);
    const vi s = _mm512_mask_permutexvar_epi16(_mm512_mask_blend_epi16(0xff00u, s01, s23), 0x8000u, _mm512_set1_epi16(7), r4);
    return _mm512_cvtph_ps(_mm512_castsi512_si256(s));
}

/* r0 .. r4: 16 blocks, 288 bytes, four and a half registers. Nearly every load crosses a cache line and costs two, so each is done once. */
KERNEL_INLINE void quants_decode_q4_0(struct quants_q4_0_avx512_vnni *w, vf *scales, vi r0, vi r1, vi r2, vi r3, vi r4)
{
    /* group g's four blocks start at word 4g of register g */
    const vi b0 = _mm512_permutex2var_epi16(r0, WORDS_OF_BLOCKS(0), r1);
    const vi b1 = _mm512_permutex2var_epi16(r1, WORDS_OF_BLOCKS(4), r2);
    const vi b2 = _mm512_permutex2var_epi16(r2, WORDS_OF_BLOCKS(8), r3);
    const vi b3 = _mm512_permutex2var_epi16(r3, WORDS_OF_BLOCKS(12), r4);
    *scales = scales_of_q4_0(r0, r1, r2, r3, r4);
    quants_split_q4_0(w, b0, b1, b2, b3);
}

KERNEL_INLINE void quants_load_q4_0_avx512_vnni(struct quants_q4_0_avx512_vnni *w, vf *scales, const char *p)
{
    const vi r4 = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)(p + 256)));
    quants_decode_q4_0(w, scales, _mm512_loadu_si512(p), _mm512_loadu_si512(p + 64), _mm512_loadu_si512(p + 128),
                       _mm512_loadu_si512(p + 192), r4);
}

KERNEL_INLINE vf quants_scales_q4_0_avx512_vnni(const char *p)
{
    const vi r4 = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)(p + 256)));
    return scales_of_q4_0(_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64), _mm512_loadu_si512(p + 128), _mm512_loadu_si512(p + 192), r4);
}

/* The words below n_words of the 64 bytes at p; the others are zero and not read. */
KERNEL_INLINE vi load_words(const char *p, size_t n_words)
{
    return _mm512_maskz_loadu_epi16(n_words < 32 ? (__mmask32)((1u << n_words) - 1u) : 0xffffffffu, p);
}

KERNEL_INLINE size_t words_past(size_t n_words, size_t skip)
{
    return n_words > skip ? n_words - skip : 0;
}

KERNEL_INLINE void quants_load_part_q4_0_avx512_vnni(struct quants_q4_0_avx512_vnni *w, vf *scales, const char *p, size_t count)
{
    const size_t n = 9 * count;
    quants_decode_q4_0(w, scales, load_words(p, n), load_words(p + 64, words_past(n, 32)), load_words(p + 128, words_past(n, 64)),
                       load_words(p + 192, words_past(n, 96)), load_words(p + 256, words_past(n, 128)));
}

/* Four blocks: their first halves, then their second halves. */
KERNEL_INLINE void quants_arrange_q4_0_avx512_vnni(int8_t *to, const int8_t *from)
{
    for (int g = 0; g < 4; g++) {
        const vi x01 = _mm512_loadu_si512(from + 128 * g), x23 = _mm512_loadu_si512(from + 128 * g + 64);
        _mm512_storeu_si512(to + 128 * g, _mm512_shuffle_i32x4(x01, x23, 0x88));
        _mm512_storeu_si512(to + 128 * g + 64, _mm512_shuffle_i32x4(x01, x23, 0xdd));
    }
}

KERNEL_INLINE vi quants_dot_q4_0_avx512_vnni(const struct quants_q4_0_avx512_vnni *w, const int8_t *q, const int32_t *offset)
{
    vi a[4];
    for (int g = 0; g < 4; g++) {
        a[g] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w->low[g], _mm512_loadu_si512(q + 128 * g));
        a[g] = _mm512_dpbusd_epi32(a[g], w->high[g], _mm512_loadu_si512(q + 128 * g + 64));
    }
    return _mm512_sub_epi32(sums_of_blocks(a[0], a[1], a[2], a[3]), _mm512_loadu_si512(offset));
}

KERNEL_INLINE vi quants_dot_same_q4_0_avx512_vnni(const struct quants_q4_0_avx512_vnni *w, const int8_t *q, int32_t offset)
{
    const vi x_low = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)q));
    const vi x_high = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(q + 16)));
    vi a[4];
    for (int g = 0; g < 4; g++)
        a[g] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w->low[g], x_low), w->high[g], x_high);
    return _mm512_sub_epi32(sums_of_blocks(a[0], a[1], a[2], a[3]), _mm512_set1_epi32(offset));
}

#define QUANTS_OFFSET_q4_0 8

/* ---- pairs of rows, for batch_axpy_int ---- */

typedef vi row_pairs;

KERNEL_INLINE vi pairs_add(vi acc, row_pairs w, int32_t v)
{
    return _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(v));
}

KERNEL_INLINE vi q4_dwords(const char *quants)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)quants));
}

KERNEL_INLINE void quants_pairs_q4_0_avx512_vnni(row_pairs w[2], const char *even, const char *odd, int half)
{
    const vi bytes = _mm512_or_si512(q4_dwords(even), _mm512_slli_epi32(q4_dwords(odd), 16)), eight = _mm512_set1_epi16(8);
    (void)half;
    w[0] = _mm512_sub_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(15)), eight);
    w[1] = _mm512_sub_epi16(_mm512_srli_epi16(bytes, 4), eight);
}


/* ---- q4_0, apart: the same from 16 scales and 256 bytes of quants ---- */

#define quants_q4_0_apart_avx512_vnni quants_q4_0_avx512_vnni
#define quants_arrange_q4_0_apart_avx512_vnni quants_arrange_q4_0_avx512_vnni
#define quants_dot_q4_0_apart_avx512_vnni quants_dot_q4_0_avx512_vnni
#define quants_pairs_q4_0_apart_avx512_vnni quants_pairs_q4_0_avx512_vnni
#define QUANTS_OFFSET_q4_0_apart QUANTS_OFFSET_q4_0

KERNEL_INLINE vf quants_scales_q4_0_apart_avx512_vnni(const char *scales)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)scales));
}

KERNEL_INLINE void quants_load_q4_0_apart_avx512_vnni(struct quants_q4_0_avx512_vnni *w, vf *scales, const char *scale, const char *quants)
{
    *scales = quants_scales_q4_0_apart_avx512_vnni(scale);
    quants_split_q4_0(w, _mm512_loadu_si512(quants), _mm512_loadu_si512(quants + 64), _mm512_loadu_si512(quants + 128),
                      _mm512_loadu_si512(quants + 192));
}

KERNEL_INLINE void quants_load_part_q4_0_apart_avx512_vnni(struct quants_q4_0_avx512_vnni *w, vf *scales, const char *scale,
                                                           const char *quants, size_t count)
{
    const size_t n = 8 * count;
    *scales = _mm512_cvtph_ps(_mm512_castsi512_si256(load_words(scale, count)));
    quants_split_q4_0(w, load_words(quants, n), load_words(quants + 64, words_past(n, 32)), load_words(quants + 128, words_past(n, 64)),
                      load_words(quants + 192, words_past(n, 96)));
}

/* ---- q8_0 ---- */

struct quants_q8_0_avx512_vnni {
    vi pair[8]; /* blocks 2k and 2k + 1, plus 128 */
};

/* The scales are words 0 and 17 of each pair of blocks. */
KERNEL_INLINE vf quants_scales_q8_0_avx512_vnni(const char *p)
{
    const vi words = _mm512_set1_epi32(17 << 16);
    vi s = _mm512_maskz_permutexvar_epi16(0x0003u, words, _mm512_loadu_si512(p));
    s = _mm512_mask_permutexvar_epi16(s, 0x000cu, words, _mm512_loadu_si512(p + Q8_PAIR_BYTES));
    s = _mm512_mask_permutexvar_epi16(s, 0x0030u, words, _mm512_loadu_si512(p + 2 * Q8_PAIR_BYTES));
    s = _mm512_mask_permutexvar_epi16(s, 0x00c0u, words, _mm512_loadu_si512(p + 3 * Q8_PAIR_BYTES));
    s = _mm512_mask_permutexvar_epi16(s, 0x0300u, words, _mm512_loadu_si512(p + 4 * Q8_PAIR_BYTES));
    s = _mm512_mask_permutexvar_epi16(s, 0x0c00u, words, _mm512_loadu_si512(p + 5 * Q8_PAIR_BYTES));
    s = _mm512_mask_permutexvar_epi16(s, 0x3000u, words, _mm512_loadu_si512(p + 6 * Q8_PAIR_BYTES));
    s = _mm512_mask_permutexvar_epi16(s, 0xc000u, words, _mm512_loadu_si512(p + 7 * Q8_PAIR_BYTES));
    return _mm512_cvtph_ps(_mm512_castsi512_si256(s));
}

KERNEL_INLINE vi quants_pair_q8_0(__m256i first, __m256i second)
{
    return _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1), _mm512_set1_epi8(-128));
}

KERNEL_INLINE void quants_load_q8_0_avx512_vnni(struct quants_q8_0_avx512_vnni *w, vf *scales, const char *p)
{
    for (int k = 0; k < 8; k++) {
        const char *pair = p + k * Q8_PAIR_BYTES;
        w->pair[k] = quants_pair_q8_0(_mm256_loadu_si256((const __m256i *)(const void *)(pair + 2)),
                                      _mm256_loadu_si256((const __m256i *)(const void *)(pair + 36)));
    }
    *scales = quants_scales_q8_0_avx512_vnni(p);
}

KERNEL_INLINE void quants_load_part_q8_0_avx512_vnni(struct quants_q8_0_avx512_vnni *w, vf *scales, const char *p, size_t count)
{
    const vi words = _mm512_set1_epi32(17 << 16);
    vi s = vi_zero();
    for (size_t k = 0; k < 8; k++) {
        const char *pair = p + k * Q8_PAIR_BYTES;
        const __mmask16 has_first = 2 * k < count ? 0xffffu : 0, has_second = 2 * k + 1 < count ? 0xffffu : 0;
        const vi scale_words = load_words(pair, 17 * words_past(count, 2 * k));
        w->pair[k] = quants_pair_q8_0(_mm256_maskz_loadu_epi16(has_first, pair + 2), _mm256_maskz_loadu_epi16(has_second, pair + 36));
        s = _mm512_mask_permutexvar_epi16(s, (__mmask32)(3u << 2 * k), words, scale_words);
    }
    *scales = _mm512_cvtph_ps(_mm512_castsi512_si256(s));
}

/* d[k]: eight dwords for each of blocks 2k and 2k + 1. */
KERNEL_INLINE vi sums_of_pairs(const vi d[8])
{
    vi a[4];
    for (int g = 0; g < 4; g++)
        a[g] = _mm512_add_epi32(_mm512_shuffle_i32x4(d[2 * g], d[2 * g + 1], 0x88), _mm512_shuffle_i32x4(d[2 * g], d[2 * g + 1], 0xdd));
    return sums_of_blocks(a[0], a[1], a[2], a[3]);
}

KERNEL_INLINE void quants_arrange_q8_0_avx512_vnni(int8_t *to, const int8_t *from)
{
    memcpy(to, from, 32 * VF_LEN);
}

KERNEL_INLINE vi quants_dot_q8_0_avx512_vnni(const struct quants_q8_0_avx512_vnni *w, const int8_t *q, const int32_t *offset)
{
    vi d[8];
    for (int k = 0; k < 8; k++)
        d[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w->pair[k], _mm512_loadu_si512(q + 64 * k));
    return _mm512_sub_epi32(sums_of_pairs(d), _mm512_loadu_si512(offset));
}

KERNEL_INLINE vi quants_dot_same_q8_0_avx512_vnni(const struct quants_q8_0_avx512_vnni *w, const int8_t *q, int32_t offset)
{
    const vi x = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)q));
    vi d[8];
    for (int k = 0; k < 8; k++)
        d[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w->pair[k], x);
    return _mm512_sub_epi32(sums_of_pairs(d), _mm512_set1_epi32(offset));
}

#define QUANTS_OFFSET_q8_0 128
#define AXPY_BLOCKS_q8_0 2
#define AXPY_PAIRS_q8_0 4

KERNEL_INLINE vi q8_words(const char *block)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(block + 2)));
}

KERNEL_INLINE void axpy_part_q8_0_avx512_vnni(const int P, int32_t *acc, const char *const *rows, size_t offset, const int32_t *v,
                                              const int32_t *sum)
{
    const vi first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    (void)sum;
    for (int b = 0; b < AXPY_BLOCKS_q8_0; b++) {
        vi low = vi_zero(), high = vi_zero();
        for (int p = 0; p < P; p++) {
            const vi even = q8_words(rows[2 * p] + offset + 34 * b), odd = q8_words(rows[2 * p + 1] + offset + 34 * b);
            const vi vs = _mm512_set1_epi32(v[p * VF_LEN + b]);
            low = _mm512_dpwssd_epi32(low, _mm512_unpacklo_epi16(even, odd), vs);
            high = _mm512_dpwssd_epi32(high, _mm512_unpackhi_epi16(even, odd), vs);
        }
        vi_accumulate(acc + 32 * b, _mm512_permutex2var_epi64(low, first, high));
        vi_accumulate(acc + 32 * b + 16, _mm512_permutex2var_epi64(low, second, high));
    }
}

/* Lanes of four dwords in an order that interleaving turns into that of the columns. */
KERNEL_INLINE vi q8_words_for_pairs(const char *quants)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm512_cvtepi8_epi16(_mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)(const void *)quants), order));
}

KERNEL_INLINE void quants_pairs_q8_0_avx512_vnni(row_pairs w[2], const char *even, const char *odd, int half)
{
    const vi a = q8_words_for_pairs(even), b = q8_words_for_pairs(odd);
    (void)half;
    w[0] = _mm512_unpacklo_epi16(a, b);
    w[1] = _mm512_unpackhi_epi16(a, b);
}

#endif /* SFFN_QUANTS_AVX512_VNNI_H */
