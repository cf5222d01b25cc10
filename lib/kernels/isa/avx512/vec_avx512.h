/* vec_avx512.h  What a vector is with AVX-512 F, BW, DQ, VL. */
#ifndef SFFN_VEC_AVX512_H
#define SFFN_VEC_AVX512_H
#include "kernels/tmpl/kernel.h"
#include <immintrin.h>

typedef __m512 vf;
typedef __m512i vi;
#define VF_LEN 16
#define VF_ROWS 8    /* side by side for one token */
#define VF_TOKENS 4  /* for two or four rows at a time: up to 16 accumulators, 4 weights and x of 32 registers */
#define VF_CHAINS 1  /* per row and token: eight cells hide the latency, and a single row shall take it (rows_dot_tmpl.h) */
#define AXPY_ROWS 8  /* side by side */
#define BATCH_TOKENS 8 /* and two vectors of columns: 16 accumulators, 2 weights and h of 32 registers */
#define AXPY_STEP 64 /* elements between two rounds of prefetching */

#define vf_prefetch(address) _mm_prefetch((const char *)(address), _MM_HINT_T1) /* ahead.h says why the second level */

/* The lowest `count` < 16 lanes; masked-out lanes touch no memory. */
KERNEL_INLINE __mmask16 vec_part(size_t count)
{
    return (__mmask16)((1u << count) - 1u);
}

KERNEL_INLINE vf vf_zero(void)
{
    return _mm512_setzero_ps();
}

KERNEL_INLINE vf vf_set1(float f)
{
    return _mm512_set1_ps(f);
}

KERNEL_INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

KERNEL_INLINE vf vf_load_part(const float *p, size_t count)
{
    return _mm512_maskz_loadu_ps(vec_part(count), p);
}

KERNEL_INLINE void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

KERNEL_INLINE void vf_store_part(float *p, vf v, size_t count)
{
    _mm512_mask_storeu_ps(p, vec_part(count), v);
}

KERNEL_INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

KERNEL_INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

KERNEL_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

KERNEL_INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

/* b when it is NaN. */
KERNEL_INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

KERNEL_INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

KERNEL_INLINE vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}

KERNEL_INLINE float vf_sum(vf a)
{
    return _mm512_reduce_add_ps(a);
}

KERNEL_INLINE vf vf_from_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

KERNEL_INLINE vf vf_from_f16_part(const void *p, size_t count)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_part(count), p));
}

KERNEL_INLINE vf vf_from_bf16(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}

KERNEL_INLINE vf vf_from_bf16_part(const void *p, size_t count)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(vec_part(count), p)), 16));
}

#define VF_TWO /* rows_dot_tmpl.h, rows_axpy_tmpl.h */
/* Two vectors from one load, so that a line that misses the first level is asked for once. */
KERNEL_INLINE void vf_from_f16_two(const void *p, vf *a, vf *b)
{
    const __m512i both = _mm512_loadu_si512(p);
    *a = _mm512_cvtph_ps(_mm512_castsi512_si256(both));
    *b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(both, 1));
}

KERNEL_INLINE void vf_from_bf16_two(const void *p, vf *a, vf *b)
{
    const __m512i both = _mm512_loadu_si512(p);
    *a = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(both)), 16));
    *b = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1)), 16));
}

#define VF_EVEN_ODD /* rows_axpy_tmpl.h */
/* 32 elements, the even ones and the odd ones. */
KERNEL_INLINE void vf_from_bf16_even_odd(const void *p, vf *even, vf *odd)
{
    const __m512i both = _mm512_loadu_si512(p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000u)));
}

KERNEL_INLINE void vf_load_even_odd(const float *p, vf *even, vf *odd)
{
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const vf a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
    *even = _mm512_permutex2var_ps(a, evens, b);
    *odd = _mm512_permutex2var_ps(a, odds, b);
}

KERNEL_INLINE void vf_store_even_odd(float *p, vf even, vf odd)
{
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(even, first, odd));
    _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(even, second, odd));
}

KERNEL_INLINE unsigned vf_not_below(vf a, vf t, int keep_equal)
{
    return keep_equal ? _mm512_cmp_ps_mask(a, t, _CMP_NLT_UQ) : _mm512_cmp_ps_mask(a, t, _CMP_NLE_UQ);
}

KERNEL_INLINE vi vi_zero(void)
{
    return _mm512_setzero_si512();
}

KERNEL_INLINE vi vi_set1(int32_t i)
{
    return _mm512_set1_epi32(i);
}

KERNEL_INLINE vi vi_ramp(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

KERNEL_INLINE vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}

KERNEL_INLINE vi vi_max(vi a, vi b)
{
    return _mm512_max_epi32(a, b);
}

KERNEL_INLINE int32_t vi_max_all(vi a)
{
    return _mm512_reduce_max_epi32(a);
}

KERNEL_INLINE int32_t vi_sum(vi a)
{
    return _mm512_reduce_add_epi32(a);
}

KERNEL_INLINE vi vi_abs_bits(vf a)
{
    return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
}

KERNEL_INLINE vf vf_from_vi(vi a)
{
    return _mm512_cvtepi32_ps(a);
}

/* To nearest even. */
KERNEL_INLINE vi vi_from_vf(vf a)
{
    return _mm512_cvtps_epi32(a);
}

/* a * 2^n */
KERNEL_INLINE vf vf_scale(vf a, vi n)
{
    return _mm512_scalef_ps(a, _mm512_cvtepi32_ps(n));
}

KERNEL_INLINE void vi_store(int32_t *p, vi a)
{
    _mm512_storeu_si512(p, a);
}

KERNEL_INLINE void vi_accumulate(int32_t *p, vi a)
{
    _mm512_storeu_si512(p, _mm512_add_epi32(_mm512_loadu_si512(p), a));
}

/* Per lane a pair of words: the low halves of even and odd. */
KERNEL_INLINE vi vi_pair16(vi even, vi odd)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaau, even, _mm512_slli_epi32(odd, 16));
}

KERNEL_INLINE void vi_store_i8(int8_t *p, vi a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}

/* ---- bits ---- */

#define VI_BYTES 64

KERNEL_INLINE unsigned vf_below_zero(vf a)
{
    return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ);
}

/* By nibbles, through a table: VPOPCNTDQ is not among what this ISA needs. */
KERNEL_INLINE vi vi_add_differing(vi acc, const void *a, const void *b)
{
    const __m512i ones = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i nibble = _mm512_set1_epi8(15), v = _mm512_xor_si512(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
    const __m512i low = _mm512_shuffle_epi8(ones, _mm512_and_si512(v, nibble));
    const __m512i high = _mm512_shuffle_epi8(ones, _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble));
    return _mm512_add_epi64(acc, _mm512_sad_epu8(_mm512_add_epi8(low, high), _mm512_setzero_si512()));
}

KERNEL_INLINE uint64_t vi_sum64(vi a)
{
    return (uint64_t)_mm512_reduce_add_epi64(a);
}

KERNEL_INLINE uint64_t differing64(const void *a, const void *b)
{
    uint64_t v, w;
    memcpy(&v, a, sizeof v);
    memcpy(&w, b, sizeof w);
    return (uint64_t)_mm_popcnt_u64(v ^ w);
}

/* Compressed in a register: vpcompressd to memory is microcode on Zen 4. */
KERNEL_INLINE size_t vi_store_kept(uint32_t *p, vi a, unsigned kept)
{
    _mm512_storeu_si512(p, _mm512_maskz_compress_epi32((__mmask16)kept, a));
    return (size_t)_mm_popcnt_u32(kept);
}

#endif /* SFFN_VEC_AVX512_H */
