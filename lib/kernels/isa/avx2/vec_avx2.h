/* vec_avx2.h  What a vector is with AVX2, FMA and F16C. */
#ifndef SFFN_VEC_AVX2_H
#define SFFN_VEC_AVX2_H
#include "kernels/tmpl/compress4.h"
#include "kernels/tmpl/kernel.h"
#include <immintrin.h>

typedef __m256 vf;
typedef __m256i vi;
#define VF_LEN 8
#define VF_ROWS 4    /* side by side for one token */
#define VF_TOKENS 2  /* for two rows at a time: 2 x 2 pairs of accumulators, 4 weights and x of 16 registers */
#define VF_CHAINS 2  /* per row and token */
#define AXPY_ROWS 4  /* side by side */
#define BATCH_TOKENS 4 /* and two vectors of columns: 8 accumulators, 2 weights and h of 16 registers */
#define AXPY_STEP 32 /* elements between two rounds of prefetching */

#define vf_prefetch(address) _mm_prefetch((const char *)(address), _MM_HINT_T1) /* ahead.h says why the second level */

KERNEL_INLINE __m128i load128(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

KERNEL_INLINE __m256i load256(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

/* The lowest `count` < 8 lanes. */
KERNEL_INLINE __m256i vec_part(size_t count)
{
    static const int32_t ones[16] = { -1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0 };
    return load256(ones + 8 - count);
}

KERNEL_INLINE vf vf_zero(void)
{
    return _mm256_setzero_ps();
}

KERNEL_INLINE vf vf_set1(float f)
{
    return _mm256_set1_ps(f);
}

KERNEL_INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

KERNEL_INLINE vf vf_load_part(const float *p, size_t count)
{
    return _mm256_maskload_ps(p, vec_part(count));
}

KERNEL_INLINE void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}

KERNEL_INLINE void vf_store_part(float *p, vf v, size_t count)
{
    _mm256_maskstore_ps(p, vec_part(count), v);
}

KERNEL_INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

KERNEL_INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

KERNEL_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

KERNEL_INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

/* b when it is NaN. */
KERNEL_INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

KERNEL_INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

KERNEL_INLINE vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

KERNEL_INLINE float vf_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

KERNEL_INLINE vf vf_from_f16(const void *p)
{
    return _mm256_cvtph_ps(load128(p));
}

KERNEL_INLINE vf vf_from_bf16(const void *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
}

/* AVX2 has no masked loads of words: through a copy. */
KERNEL_INLINE vf vf_from_f16_part(const void *p, size_t count)
{
    uint16_t words[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    memcpy(words, p, count * sizeof *words);
    return vf_from_f16(words);
}

KERNEL_INLINE vf vf_from_bf16_part(const void *p, size_t count)
{
    uint16_t words[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    memcpy(words, p, count * sizeof *words);
    return vf_from_bf16(words);
}

KERNEL_INLINE unsigned vf_not_below(vf a, vf t, int keep_equal)
{
    return (unsigned)_mm256_movemask_ps(keep_equal ? _mm256_cmp_ps(a, t, _CMP_NLT_UQ) : _mm256_cmp_ps(a, t, _CMP_NLE_UQ));
}

KERNEL_INLINE vf vf_from_vi(vi a)
{
    return _mm256_cvtepi32_ps(a);
}

/* To nearest even. */
KERNEL_INLINE vi vi_from_vf(vf a)
{
    return _mm256_cvtps_epi32(a);
}

/* a * 2^n, |n| <= 200, in two factors. */
KERNEL_INLINE vf vf_scale(vf a, vi n)
{
    const __m256i half = _mm256_srai_epi32(n, 1), bias = _mm256_set1_epi32(127);
    const __m256i rest = _mm256_sub_epi32(n, half);
    const vf first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, first), _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

KERNEL_INLINE vi vi_zero(void)
{
    return _mm256_setzero_si256();
}

KERNEL_INLINE vi vi_set1(int32_t i)
{
    return _mm256_set1_epi32(i);
}

KERNEL_INLINE vi vi_ramp(void)
{
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

KERNEL_INLINE vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}

KERNEL_INLINE vi vi_max(vi a, vi b)
{
    return _mm256_max_epi32(a, b);
}

KERNEL_INLINE int32_t vi_max_all(vi a)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

KERNEL_INLINE int32_t vi_sum(vi a)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

KERNEL_INLINE vi vi_abs_bits(vf a)
{
    return _mm256_castps_si256(vf_abs(a));
}

KERNEL_INLINE void vi_store(int32_t *p, vi a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, a);
}

KERNEL_INLINE void vi_accumulate(int32_t *p, vi a)
{
    vi_store(p, vi_add(load256(p), a));
}

/* Per lane a pair of words: the low halves of even and odd. */
KERNEL_INLINE vi vi_pair16(vi even, vi odd)
{
    return _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
}

KERNEL_INLINE void vi_store_i8(int8_t *p, vi a)
{
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(words, words));
}

/* ---- bits ---- */

#define VI_BYTES 32

KERNEL_INLINE unsigned vf_below_zero(vf a)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_LT_OQ));
}

/* Bits are counted by nibbles, through a table. */
KERNEL_INLINE vi vi_add_differing(vi acc, const void *a, const void *b)
{
    const __m256i ones = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i nibble = _mm256_set1_epi8(15), v = _mm256_xor_si256(load256(a), load256(b));
    const __m256i low = _mm256_shuffle_epi8(ones, _mm256_and_si256(v, nibble));
    const __m256i high = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
    return _mm256_add_epi64(acc, _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256()));
}

KERNEL_INLINE uint64_t vi_sum64(vi a)
{
    const __m128i s = _mm_add_epi64(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return (uint64_t)_mm_cvtsi128_si64(_mm_add_epi64(s, _mm_unpackhi_epi64(s, s)));
}

KERNEL_INLINE uint64_t differing64(const void *a, const void *b)
{
    uint64_t v, w;
    memcpy(&v, a, sizeof v);
    memcpy(&w, b, sizeof w);
    return (uint64_t)_mm_popcnt_u64(v ^ w);
}

/* AVX2 has no compress: four lanes at a time through a table of byte shuffles. */
KERNEL_INLINE size_t vi_store_kept(uint32_t *p, vi a, unsigned kept)
{
    const unsigned low = kept & 15, high = kept >> 4;
    const size_t n_low = (size_t)_mm_popcnt_u32(low);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_shuffle_epi8(_mm256_castsi256_si128(a), load128(compress4_order[low])));
    _mm_storeu_si128((__m128i *)(void *)(p + n_low), _mm_shuffle_epi8(_mm256_extracti128_si256(a, 1), load128(compress4_order[high])));
    return n_low + (size_t)_mm_popcnt_u32(high);
}

#endif /* SFFN_VEC_AVX2_H */
