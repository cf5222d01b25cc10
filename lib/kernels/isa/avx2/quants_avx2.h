/* quants_avx2.h  8 blocks of q8_0 or q4_0 for the rows avx2, avx_vnni and avx512vl_vnni of the ISA table: what instantiate_q.h asks for. VNNI's
 * vpdpbusd and vpdpwssd multiply and add what takes two or three instructions without it.
 */
#ifndef SFFN_QUANTS_AVX2_H
#define SFFN_QUANTS_AVX2_H
#include "kernels/isa/avx2/vec_avx2.h"

#define QUANTS(op, type) KERNEL_JOIN3(op, type, ISA) /* quants_load_q8_0_avx2 */

#if defined(__AVXVNNI__)
#define DPBUSD _mm256_dpbusd_avx_epi32
#define DPWSSD _mm256_dpwssd_avx_epi32
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define DPBUSD _mm256_dpbusd_epi32
#define DPWSSD _mm256_dpwssd_epi32
#endif

/* The f16 scales of 8 blocks, `stride` bytes apart. */
KERNEL_INLINE vf scales_of_blocks(const char *p, size_t stride)
{
    uint16_t d[8];
    for (size_t b = 0; b < 8; b++)
        memcpy(d + b, p + b * stride, sizeof *d);
    return _mm256_cvtph_ps(_mm_setr_epi16((short)d[0], (short)d[1], (short)d[2], (short)d[3], (short)d[4], (short)d[5], (short)d[6],
                                          (short)d[7]));
}

/* Lane 0 of a and lane 0 of b; lane 1 of both. */
#define LANES_0(a, b) _mm256_permute2x128_si256(a, b, 0x20)
#define LANES_1(a, b) _mm256_permute2x128_si256(a, b, 0x31)

/* In each lane, dword k: the sum of vector k's dwords there. */
KERNEL_INLINE vi sums_of_dwords(vi a, vi b, vi c, vi d)
{
    const vi ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    const vi cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

/* Products of four bits and int8, added up in dwords or, where that takes an instruction more, in words: two of at most 2 * 15 * 127 = 3810, and four of
 * those sums fit one. */
KERNEL_INLINE vi add_nibbles(vi sum, vi w, vi x)
{
#ifdef DPBUSD
    return DPBUSD(sum, w, x);
#else
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
#endif
}

/* sums_of_dwords() of what add_nibbles() made. */
KERNEL_INLINE vi sums_of_nibbles(vi a, vi b, vi c, vi d)
{
#ifdef DPBUSD
    return sums_of_dwords(a, b, c, d);
#else
    const vi ab = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    const vi cd = _mm256_add_epi16(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_madd_epi16(_mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd)), _mm256_set1_epi16(1));
#endif
}

/* The sum of each vector, from those of its lanes. */
KERNEL_INLINE vi add_lanes(vi first_four, vi last_four)
{
    return _mm256_add_epi32(LANES_0(first_four, last_four), LANES_1(first_four, last_four));
}

/* ---- q4_0 ---- */

struct QUANTS(quants, q4_0) {
    vi block[8]; /* nibbles in the order of the elements */
};

KERNEL_INLINE vf QUANTS(quants_scales, q4_0)(const char *p)
{
    return scales_of_blocks(p, 18);
}

KERNEL_INLINE void QUANTS(quants_load, q4_0)(struct QUANTS(quants, q4_0) *w, vf *scales, const char *p)
{
    const vi shift = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
    for (int b = 0; b < 8; b++) {
        const vi bytes = _mm256_broadcastsi128_si256(load128(p + 18 * b + 2));
        w->block[b] = _mm256_and_si256(_mm256_srlv_epi32(bytes, shift), _mm256_set1_epi8(15));
    }
    *scales = QUANTS(quants_scales, q4_0)(p);
}

KERNEL_INLINE void QUANTS(quants_load_part, q4_0)(struct QUANTS(quants, q4_0) *w, vf *scales, const char *p, size_t count)
{
    char padded[18 * VF_LEN];
    memset(padded, 0, sizeof padded);
    memcpy(padded, p, 18 * count);
    QUANTS(quants_load, q4_0)(w, scales, padded);
}

KERNEL_INLINE void QUANTS(quants_arrange, q4_0)(int8_t *to, const int8_t *from)
{
    memcpy(to, from, 32 * VF_LEN);
}

KERNEL_INLINE vi sums_of_q4_0(const vi d[8])
{
    return add_lanes(sums_of_nibbles(d[0], d[1], d[2], d[3]), sums_of_nibbles(d[4], d[5], d[6], d[7]));
}

KERNEL_INLINE vi QUANTS(quants_dot, q4_0)(const struct QUANTS(quants, q4_0) *w, const int8_t *q, const int32_t *offset)
{
    vi d[8];
    for (int b = 0; b < 8; b++)
        d[b] = add_nibbles(vi_zero(), w->block[b], load256(q + 32 * b));
    return _mm256_sub_epi32(sums_of_q4_0(d), load256(offset));
}

KERNEL_INLINE vi QUANTS(quants_dot_same, q4_0)(const struct QUANTS(quants, q4_0) *w, const int8_t *q, int32_t offset)
{
    const vi x = load256(q);
    vi d[8];
    for (int b = 0; b < 8; b++)
        d[b] = add_nibbles(vi_zero(), w->block[b], x);
    return _mm256_sub_epi32(sums_of_q4_0(d), _mm256_set1_epi32(offset));
}

#define QUANTS_OFFSET_q4_0 8
#define AXPY_BLOCKS_q4_0 2
#define AXPY_PAIRS_q4_0 4

KERNEL_INLINE vi add_products(vi sum, vi a, vi b)
{
#ifdef DPWSSD
    return DPWSSD(sum, a, b);
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}

/* ---- pairs of rows, for batch_axpy_int ---- */

typedef vi row_pairs;

KERNEL_INLINE vi pairs_add(vi acc, row_pairs w, int32_t v)
{
    return add_products(acc, w, _mm256_set1_epi32(v));
}

/* 16 bytes in an order that widening and interleaving turn into that of the columns. */
KERNEL_INLINE __m128i bytes_for_pairs(const char *quants)
{
    return _mm_shuffle_epi32(load128(quants), _MM_SHUFFLE(3, 1, 2, 0));
}

KERNEL_INLINE vi q4_nibbles(const char *quants, int half)
{
    const vi bytes = _mm256_cvtepu8_epi16(bytes_for_pairs(quants));
    return _mm256_sub_epi16(half ? _mm256_srli_epi16(bytes, 4) : _mm256_and_si256(bytes, _mm256_set1_epi16(15)), _mm256_set1_epi16(8));
}

KERNEL_INLINE void QUANTS(quants_pairs, q4_0)(row_pairs w[2], const char *even, const char *odd, int half)
{
    const vi a = q4_nibbles(even, half), b = q4_nibbles(odd, half);
    w[0] = _mm256_unpacklo_epi16(a, b);
    w[1] = _mm256_unpackhi_epi16(a, b);
}

KERNEL_INLINE void QUANTS(quants_pairs, q8_0)(row_pairs w[2], const char *even, const char *odd, int half)
{
    const vi a = _mm256_cvtepi8_epi16(bytes_for_pairs(even + 16 * half)), b = _mm256_cvtepi8_epi16(bytes_for_pairs(odd + 16 * half));
    w[0] = _mm256_unpacklo_epi16(a, b);
    w[1] = _mm256_unpackhi_epi16(a, b);
}

/* Dword 0 in lane 0, dword 1 in lane 1. */
KERNEL_INLINE vi dword_per_lane(const int32_t *p)
{
    int64_t both;
    memcpy(&both, p, sizeof both);
    const vi lane = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    return _mm256_castps_si256(_mm256_permutevar_ps(_mm256_castsi256_ps(_mm256_set1_epi64x(both)), lane));
}

/* low and high: columns c .. c + 3 and c + 4 .. c + 7 of two blocks, one per lane. */
KERNEL_INLINE void accumulate_lanes(int32_t *acc, size_t c, vi low, vi high)
{
    vi_accumulate(acc + c, LANES_0(low, high));
    vi_accumulate(acc + 32 + c, LANES_1(low, high));
}

/* The quants of two neighbours. */
KERNEL_INLINE vi two_blocks(const int is_apart, const char *p)
{
    return is_apart ? load256(p) : _mm256_inserti128_si256(_mm256_castsi128_si256(load128(p + 2)), load128(p + 20), 1);
}

/* A word holds four weights: columns 2c, 2c + 16, 2c + 1, 2c + 17 from low to high. Sums over growing parts of the word
 *     a = sum v * (w & 0xf), ab = sum v * (w & 0xff), abc = sum v * (w & 0xfff), d = sum v * (w >> 12)
 * spare the shifts: the second column's sum is (ab - a) / 16, the third's (abc - ab) / 256, both exact; 16 rows of 16256 * 4095 fit 32
 * bits. */
KERNEL_INLINE void axpy_two_blocks(const int P, const int is_apart, int32_t *acc, const char *const *rows, size_t offset, const int32_t *v,
                                   const int32_t *sum)
{
    const vi mask_a = _mm256_set1_epi16(0x000f), mask_ab = _mm256_set1_epi16(0x00ff), mask_abc = _mm256_set1_epi16(0x0fff);
    /* nibble - 8: the sums start at -8 * sum of v, in the scale of each part */
    const vi start = _mm256_slli_epi32(_mm256_sub_epi32(_mm256_setzero_si256(), dword_per_lane(sum)), 3);
    const vi start_ab = _mm256_add_epi32(start, _mm256_slli_epi32(start, 4));
    const vi start_abc = _mm256_add_epi32(start_ab, _mm256_slli_epi32(start, 8));
    vi a0 = start, ab0 = start_ab, abc0 = start_abc, d0 = start, a1 = start, ab1 = start_ab, abc1 = start_abc, d1 = start;
    vi b0, b1, c0, c1;
    for (int p = 0; p < P; p++) {
        const vi even = two_blocks(is_apart, rows[2 * p] + offset), odd = two_blocks(is_apart, rows[2 * p + 1] + offset);
        const vi w0 = _mm256_unpacklo_epi16(even, odd), w1 = _mm256_unpackhi_epi16(even, odd);
        const vi vs = dword_per_lane(v + p * VF_LEN);
        a0 = add_products(a0, _mm256_and_si256(w0, mask_a), vs);
        a1 = add_products(a1, _mm256_and_si256(w1, mask_a), vs);
        ab0 = add_products(ab0, _mm256_and_si256(w0, mask_ab), vs);
        ab1 = add_products(ab1, _mm256_and_si256(w1, mask_ab), vs);
        abc0 = add_products(abc0, _mm256_and_si256(w0, mask_abc), vs);
        abc1 = add_products(abc1, _mm256_and_si256(w1, mask_abc), vs);
        d0 = add_products(d0, _mm256_srli_epi16(w0, 12), vs);
        d1 = add_products(d1, _mm256_srli_epi16(w1, 12), vs);
    }
    b0 = _mm256_srai_epi32(_mm256_sub_epi32(ab0, a0), 4);
    b1 = _mm256_srai_epi32(_mm256_sub_epi32(ab1, a1), 4);
    c0 = _mm256_srai_epi32(_mm256_sub_epi32(abc0, ab0), 8);
    c1 = _mm256_srai_epi32(_mm256_sub_epi32(abc1, ab1), 8);
    accumulate_lanes(acc, 0, _mm256_unpacklo_epi32(a0, c0), _mm256_unpackhi_epi32(a0, c0));
    accumulate_lanes(acc, 8, _mm256_unpacklo_epi32(a1, c1), _mm256_unpackhi_epi32(a1, c1));
    accumulate_lanes(acc, 16, _mm256_unpacklo_epi32(b0, d0), _mm256_unpackhi_epi32(b0, d0));
    accumulate_lanes(acc, 24, _mm256_unpacklo_epi32(b1, d1), _mm256_unpackhi_epi32(b1, d1));
}

KERNEL_INLINE void QUANTS(axpy_part, q4_0)(const int P, int32_t *acc, const char *const *rows, size_t offset, const int32_t *v,
                                           const int32_t *sum)
{
    axpy_two_blocks(P, 0, acc, rows, offset, v, sum);
}

/* ---- q4_0, apart: 8 scales and 128 bytes of quants; two blocks a vector, one in each lane ---- */

struct QUANTS(quants, q4_0_apart) {
    vi low[4], high[4]; /* the first and the second halves of blocks 2k and 2k + 1 */
};

KERNEL_INLINE vf QUANTS(quants_scales, q4_0_apart)(const char *scales)
{
    return _mm256_cvtph_ps(load128(scales));
}

KERNEL_INLINE void QUANTS(quants_load, q4_0_apart)(struct QUANTS(quants, q4_0_apart) *w, vf *scales, const char *scale, const char *quants)
{
    const vi mask = _mm256_set1_epi8(15);
    for (int k = 0; k < 4; k++) {
        const vi bytes = load256(quants + 32 * k);
        w->low[k] = _mm256_and_si256(bytes, mask);
        w->high[k] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    }
    *scales = QUANTS(quants_scales, q4_0_apart)(scale);
}

KERNEL_INLINE void QUANTS(quants_load_part, q4_0_apart)(struct QUANTS(quants, q4_0_apart) *w, vf *scales, const char *scale, const char *quants,
                                                        size_t count)
{
    char padded_scales[2 * VF_LEN] = { 0 }, padded[16 * VF_LEN] = { 0 };
    memcpy(padded_scales, scale, 2 * count);
    memcpy(padded, quants, 16 * count);
    QUANTS(quants_load, q4_0_apart)(w, scales, padded_scales, padded);
}

/* Two blocks: their first halves, then their second halves. */
KERNEL_INLINE void QUANTS(quants_arrange, q4_0_apart)(int8_t *to, const int8_t *from)
{
    for (int k = 0; k < 4; k++) {
        const vi even = load256(from + 64 * k), odd = load256(from + 64 * k + 32);
        _mm256_storeu_si256((__m256i *)(void *)(to + 64 * k), LANES_0(even, odd));
        _mm256_storeu_si256((__m256i *)(void *)(to + 64 * k + 32), LANES_1(even, odd));
    }
}

KERNEL_INLINE vi QUANTS(quants_dot, q4_0_apart)(const struct QUANTS(quants, q4_0_apart) *w, const int8_t *q, const int32_t *offset)
{
    vi d[4];
    for (int k = 0; k < 4; k++)
        d[k] = add_nibbles(add_nibbles(vi_zero(), w->low[k], load256(q + 64 * k)), w->high[k], load256(q + 64 * k + 32));
    const vi sums = sums_of_nibbles(d[0], d[1], d[2], d[3]); /* of the even blocks, then of the odd ones */
    return _mm256_sub_epi32(_mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)), load256(offset));
}

KERNEL_INLINE void QUANTS(quants_pairs, q4_0_apart)(row_pairs w[2], const char *even, const char *odd, int half)
{
    QUANTS(quants_pairs, q4_0)(w, even, odd, half);
}

#define QUANTS_OFFSET_q4_0_apart QUANTS_OFFSET_q4_0
#define AXPY_BLOCKS_q4_0_apart 2
#define AXPY_PAIRS_q4_0_apart 8

KERNEL_INLINE void QUANTS(axpy_part, q4_0_apart)(const int P, int32_t *acc, const char *const *rows, size_t offset, const int32_t *v,
                                                 const int32_t *sum)
{
    axpy_two_blocks(P, 1, acc, rows, offset, v, sum);
}

/* ---- q8_0 ---- */

struct QUANTS(quants, q8_0) {
    vi block[8];
};

KERNEL_INLINE vf QUANTS(quants_scales, q8_0)(const char *p)
{
    return scales_of_blocks(p, 34);
}

KERNEL_INLINE void QUANTS(quants_load, q8_0)(struct QUANTS(quants, q8_0) *w, vf *scales, const char *p)
{
    for (int b = 0; b < 8; b++)
        w->block[b] = load256(p + 34 * b + 2);
    *scales = QUANTS(quants_scales, q8_0)(p);
}

/* |w| * (x with the sign of w): unsigned x signed. -128 becomes 128, x is at least -127, and 2 * 128 * 127 fits a word. */
KERNEL_INLINE vi products_q8_0(vi w, vi x)
{
#ifdef DPBUSD
    return DPBUSD(vi_zero(), _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)), _mm256_set1_epi16(1));
#endif
}

KERNEL_INLINE vi sums_of_q8_0(const vi d[8])
{
    return add_lanes(sums_of_dwords(d[0], d[1], d[2], d[3]), sums_of_dwords(d[4], d[5], d[6], d[7]));
}

KERNEL_INLINE void QUANTS(quants_load_part, q8_0)(struct QUANTS(quants, q8_0) *w, vf *scales, const char *p, size_t count)
{
    char padded[34 * VF_LEN];
    memset(padded, 0, sizeof padded);
    memcpy(padded, p, 34 * count);
    QUANTS(quants_load, q8_0)(w, scales, padded);
}

KERNEL_INLINE void QUANTS(quants_arrange, q8_0)(int8_t *to, const int8_t *from)
{
    memcpy(to, from, 32 * VF_LEN);
}

KERNEL_INLINE vi QUANTS(quants_dot, q8_0)(const struct QUANTS(quants, q8_0) *w, const int8_t *q, const int32_t *offset)
{
    vi d[8];
    (void)offset;
    for (int b = 0; b < 8; b++)
        d[b] = products_q8_0(w->block[b], load256(q + 32 * b));
    return sums_of_q8_0(d);
}

KERNEL_INLINE vi QUANTS(quants_dot_same, q8_0)(const struct QUANTS(quants, q8_0) *w, const int8_t *q, int32_t offset)
{
    const vi x = load256(q);
    vi d[8];
    (void)offset;
    for (int b = 0; b < 8; b++)
        d[b] = products_q8_0(w->block[b], x);
    return sums_of_q8_0(d);
}

#define QUANTS_OFFSET_q8_0 0
#define AXPY_BLOCKS_q8_0 2
#define AXPY_PAIRS_q8_0 4

KERNEL_INLINE void QUANTS(axpy_part, q8_0)(const int P, int32_t *acc, const char *const *rows, size_t offset, const int32_t *v,
                                       const int32_t *sum)
{
    (void)sum;
    for (int half = 0; half < 2 * AXPY_BLOCKS_q8_0; half++) {
        const size_t at = offset + (size_t)(half / 2 * 34 + 2 + half % 2 * 16);
        vi low = vi_zero(), high = vi_zero();
        for (int p = 0; p < P; p++) {
            const vi even = _mm256_cvtepi8_epi16(load128(rows[2 * p] + at)), odd = _mm256_cvtepi8_epi16(load128(rows[2 * p + 1] + at));
            const vi vs = _mm256_set1_epi32(v[p * VF_LEN + half / 2]);
            low = add_products(low, _mm256_unpacklo_epi16(even, odd), vs);
            high = add_products(high, _mm256_unpackhi_epi16(even, odd), vs);
        }
        vi_accumulate(acc + 16 * half, LANES_0(low, high));
        vi_accumulate(acc + 16 * half + 8, LANES_1(low, high));
    }
}

#endif /* SFFN_QUANTS_AVX2_H */
