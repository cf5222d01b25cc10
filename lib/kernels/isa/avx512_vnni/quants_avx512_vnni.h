/* quants_avx512_vnni.h  16 blocks of q8_0 or q4_0 with vpdpbusd and vpdpwssd; what instantiate_q.h asks for.
 *
 * Four q4_0 blocks are 72 bytes = 36 words: two loads (the first and the last 64 bytes) and one two-source word permutation collect any 32
 * of them, so nothing outside the blocks is read. vpdpbusd wants unsigned x signed: q4_0 uses its nibbles 0 .. 15 and q8_0 flips the sign
 * bit, which adds 8 or 128 to each weight; 8 or 128 times the sum of x is taken off again.
 */
#ifndef SFFN_QUANTS_AVX512_VNNI_H
#define SFFN_QUANTS_AVX512_VNNI_H
#include "kernels/isa/avx512/vec_avx512.h"

#define Q4_GROUP_BYTES 72 /* four blocks */
#define Q8_PAIR_BYTES 68  /* two blocks */

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

/* 32 words of the four blocks at p, chosen by `words`: word i of the 36 is i below 32, and i + 28 from 32 on. */
KERNEL_INLINE vi q4_words(const char *p, vi words)
{
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(p), words, _mm512_loadu_si512(p + Q4_GROUP_BYTES - 64));
}

KERNEL_INLINE void quants_load_q4_0_avx512_vnni(struct quants_q4_0_avx512_vnni *w, const char *p)
{
    /* block k of four: words 9k + 1 .. 9k + 8 */
    const vi words = _mm512_set_epi16(63, 62, 61, 60, 31, 30, 29, 28, 26, 25, 24, 23, 22, 21, 20, 19, 17, 16, 15, 14, 13, 12, 11, 10, 8,
                                      7, 6, 5, 4, 3, 2, 1);
    const vi mask = _mm512_set1_epi8(15);
    for (int g = 0; g < 4; g++) {
        const vi bytes = q4_words(p + g * Q4_GROUP_BYTES, words);
        w->low[g] = _mm512_and_si512(bytes, mask);
        w->high[g] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
    }
}

KERNEL_INLINE vf quants_scales_q4_0_avx512_vnni(const char *p)
{
    /* The scales of four blocks are words 0, 9, 18, 27 of their first 64 bytes. */
    const vi words = _mm512_broadcastq_epi64(_mm_setr_epi16(0, 9, 18, 27, 0, 0, 0, 0));
    vi s = _mm512_maskz_permutexvar_epi16(0x000fu, words, _mm512_loadu_si512(p));
    s = _mm512_mask_permutexvar_epi16(s, 0x00f0u, words, _mm512_loadu_si512(p + Q4_GROUP_BYTES));
    s = _mm512_mask_permutexvar_epi16(s, 0x0f00u, words, _mm512_loadu_si512(p + 2 * Q4_GROUP_BYTES));
    s = _mm512_mask_permutexvar_epi16(s, 0xf000u, words, _mm512_loadu_si512(p + 3 * Q4_GROUP_BYTES));
    return _mm512_cvtph_ps(_mm512_castsi512_si256(s));
}

KERNEL_INLINE vi quants_dot_q4_0_avx512_vnni(const struct quants_q4_0_avx512_vnni *w, const int8_t *q, const int32_t *sum)
{
    vi a[4];
    for (int g = 0; g < 4; g++) {
        const vi x01 = _mm512_loadu_si512(q + 128 * g), x23 = _mm512_loadu_si512(q + 128 * g + 64);
        a[g] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w->low[g], _mm512_shuffle_i32x4(x01, x23, 0x88));
        a[g] = _mm512_dpbusd_epi32(a[g], w->high[g], _mm512_shuffle_i32x4(x01, x23, 0xdd));
    }
    return _mm512_sub_epi32(sums_of_blocks(a[0], a[1], a[2], a[3]), _mm512_slli_epi32(_mm512_loadu_si512(sum), 3));
}

KERNEL_INLINE vi quants_dot_same_q4_0_avx512_vnni(const struct quants_q4_0_avx512_vnni *w, const int8_t *q, int32_t sum)
{
    const vi x_low = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)q));
    const vi x_high = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(q + 16)));
    vi a[4];
    for (int g = 0; g < 4; g++)
        a[g] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w->low[g], x_low), w->high[g], x_high);
    return _mm512_sub_epi32(sums_of_blocks(a[0], a[1], a[2], a[3]), _mm512_set1_epi32(8 * sum));
}

#define AXPY_BLOCKS_q4_0 4

/* A word holds four weights: columns 2c, 2c + 16, 2c + 1, 2c + 17 from low to high. Sums over growing parts of the word
 *     a = sum v * (w & 0xf), ab = sum v * (w & 0xff), abc = sum v * (w & 0xfff), d = sum v * (w >> 12)
 * spare the shifts: the second column's sum is (ab - a) / 16, the third's (abc - ab) / 256, both exact; 8 rows of 16256 * 4095 fit 32 bits. */
KERNEL_INLINE void axpy_part_q4_0_avx512_vnni(const int P, int32_t *acc, const char *const *rows, size_t offset, const int32_t *v,
                                              const int32_t *sum)
{
    /* Lane L, words 2k and 2k + 1: words 2L and 2L + 1 of block k. Interleaving then leaves the columns in their order. */
    const vi words = _mm512_set_epi16(63, 62, 26, 25, 17, 16, 8, 7,  61, 60, 24, 23, 15, 14, 6, 5,  31, 30, 22, 21, 13, 12, 4, 3,
                                      29, 28, 20, 19, 11, 10, 2, 1);
    const vi mask_a = _mm512_set1_epi16(0x000f), mask_ab = _mm512_set1_epi16(0x00ff), mask_abc = _mm512_set1_epi16(0x0fff);
    /* nibble - 8: the sums start at -8 * sum of v, in the scale of each part */
    const vi sums = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)sum));
    const vi start = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), sums), 3);
    vi a01 = _mm512_shuffle_epi32(start, (_MM_PERM_ENUM)0x50), a23 = _mm512_shuffle_epi32(start, (_MM_PERM_ENUM)0xfa);
    vi d01 = a01, d23 = a23;
    vi ab01 = _mm512_add_epi32(a01, _mm512_slli_epi32(a01, 4)), ab23 = _mm512_add_epi32(a23, _mm512_slli_epi32(a23, 4));
    vi abc01 = _mm512_add_epi32(ab01, _mm512_slli_epi32(a01, 8)), abc23 = _mm512_add_epi32(ab23, _mm512_slli_epi32(a23, 8));
    vi b01, b23, c01, c23;
    for (int p = 0; p < P; p++) {
        const vi even = q4_words(rows[2 * p] + offset, words), odd = q4_words(rows[2 * p + 1] + offset, words);
        const vi w01 = _mm512_unpacklo_epi16(even, odd), w23 = _mm512_unpackhi_epi16(even, odd);
        const vi vs = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(v + p * VF_LEN)));
        const vi v01 = _mm512_shuffle_epi32(vs, (_MM_PERM_ENUM)0x50), v23 = _mm512_shuffle_epi32(vs, (_MM_PERM_ENUM)0xfa);
        a01 = _mm512_dpwssd_epi32(a01, _mm512_and_si512(w01, mask_a), v01);
        a23 = _mm512_dpwssd_epi32(a23, _mm512_and_si512(w23, mask_a), v23);
        ab01 = _mm512_dpwssd_epi32(ab01, _mm512_and_si512(w01, mask_ab), v01);
        ab23 = _mm512_dpwssd_epi32(ab23, _mm512_and_si512(w23, mask_ab), v23);
        abc01 = _mm512_dpwssd_epi32(abc01, _mm512_and_si512(w01, mask_abc), v01);
        abc23 = _mm512_dpwssd_epi32(abc23, _mm512_and_si512(w23, mask_abc), v23);
        d01 = _mm512_dpwssd_epi32(d01, _mm512_srli_epi16(w01, 12), v01);
        d23 = _mm512_dpwssd_epi32(d23, _mm512_srli_epi16(w23, 12), v23);
    }
    b01 = _mm512_srai_epi32(_mm512_sub_epi32(ab01, a01), 4);
    b23 = _mm512_srai_epi32(_mm512_sub_epi32(ab23, a23), 4);
    c01 = _mm512_srai_epi32(_mm512_sub_epi32(abc01, ab01), 8);
    c23 = _mm512_srai_epi32(_mm512_sub_epi32(abc23, ab23), 8);
    vi_accumulate(acc, _mm512_unpacklo_epi32(a01, c01));
    vi_accumulate(acc + 16, _mm512_unpacklo_epi32(b01, d01));
    vi_accumulate(acc + 32, _mm512_unpackhi_epi32(a01, c01));
    vi_accumulate(acc + 48, _mm512_unpackhi_epi32(b01, d01));
    vi_accumulate(acc + 64, _mm512_unpacklo_epi32(a23, c23));
    vi_accumulate(acc + 80, _mm512_unpacklo_epi32(b23, d23));
    vi_accumulate(acc + 96, _mm512_unpackhi_epi32(a23, c23));
    vi_accumulate(acc + 112, _mm512_unpackhi_epi32(b23, d23));
}

/* ---- q8_0 ---- */

struct quants_q8_0_avx512_vnni {
    vi pair[8]; /* blocks 2k and 2k + 1, plus 128 */
};

KERNEL_INLINE void quants_load_q8_0_avx512_vnni(struct quants_q8_0_avx512_vnni *w, const char *p)
{
    for (int k = 0; k < 8; k++) {
        const char *pair = p + k * Q8_PAIR_BYTES;
        const __m256i first = _mm256_loadu_si256((const __m256i *)(const void *)(pair + 2));
        const __m256i second = _mm256_loadu_si256((const __m256i *)(const void *)(pair + 36));
        w->pair[k] = _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1), _mm512_set1_epi8(-128));
    }
}

KERNEL_INLINE vf quants_scales_q8_0_avx512_vnni(const char *p)
{
    /* Words 0 and 17 of each pair of blocks. */
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

/* d[k]: eight dwords for each of blocks 2k and 2k + 1. */
KERNEL_INLINE vi sums_of_pairs(const vi d[8])
{
    vi a[4];
    for (int g = 0; g < 4; g++)
        a[g] = _mm512_add_epi32(_mm512_shuffle_i32x4(d[2 * g], d[2 * g + 1], 0x88), _mm512_shuffle_i32x4(d[2 * g], d[2 * g + 1], 0xdd));
    return sums_of_blocks(a[0], a[1], a[2], a[3]);
}

KERNEL_INLINE vi quants_dot_q8_0_avx512_vnni(const struct quants_q8_0_avx512_vnni *w, const int8_t *q, const int32_t *sum)
{
    vi d[8];
    for (int k = 0; k < 8; k++)
        d[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w->pair[k], _mm512_loadu_si512(q + 64 * k));
    return _mm512_sub_epi32(sums_of_pairs(d), _mm512_slli_epi32(_mm512_loadu_si512(sum), 7));
}

KERNEL_INLINE vi quants_dot_same_q8_0_avx512_vnni(const struct quants_q8_0_avx512_vnni *w, const int8_t *q, int32_t sum)
{
    const vi x = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)q));
    vi d[8];
    for (int k = 0; k < 8; k++)
        d[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w->pair[k], x);
    return _mm512_sub_epi32(sums_of_pairs(d), _mm512_set1_epi32(128 * sum));
}

#define AXPY_BLOCKS_q8_0 2

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

#endif /* SFFN_QUANTS_AVX512_VNNI_H */
