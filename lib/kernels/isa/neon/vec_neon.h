/* vec_neon.h  What a vector is with NEON: two registers, so that there is a lane for each of eight blocks, as with AVX2. */
#ifndef SFFN_VEC_NEON_H
#define SFFN_VEC_NEON_H
#include "kernels/tmpl/compress4.h"
#include "kernels/tmpl/kernel.h"
#include <arm_neon.h>

typedef struct {
    float32x4_t v[2];
} vf;
typedef struct {
    int32x4_t v[2];
} vi;
#define VF_LEN 8
#define VF_ROWS 1    /* side by side for one token: not measured */
#define VF_TOKENS 2  /* for two rows at a time: 2 x 2 pairs of accumulators, 4 weights and x, of two registers each; 32 are there */
#define VF_CHAINS 2  /* per row and token */
#define AXPY_ROWS 4  /* side by side */
#define BATCH_TOKENS 4 /* and two vectors of columns: 8 accumulators, 2 weights and h, of two registers each */
#define AXPY_STEP 32 /* elements between two rounds of prefetching */

#define vf_prefetch(address) __builtin_prefetch((const void *)(address), 0, 2) /* ahead.h says why the second level */

/* At any alignment: as bytes. */
KERNEL_INLINE uint8x16_t load_u8(const void *p)
{
    return vld1q_u8((const uint8_t *)p);
}

KERNEL_INLINE int8x16_t load_s8(const void *p)
{
    return vld1q_s8((const int8_t *)p);
}

KERNEL_INLINE vf vf_set1(float f)
{
    const vf a = { { vdupq_n_f32(f), vdupq_n_f32(f) } };
    return a;
}

KERNEL_INLINE vf vf_zero(void)
{
    return vf_set1(0.0f);
}

KERNEL_INLINE vf vf_load(const float *p)
{
    const char *bytes = (const char *)p;
    const vf a = { { vreinterpretq_f32_u8(load_u8(bytes)), vreinterpretq_f32_u8(load_u8(bytes + 16)) } };
    return a;
}

KERNEL_INLINE void vf_store(float *p, vf a)
{
    vst1q_u8((uint8_t *)p, vreinterpretq_u8_f32(a.v[0]));
    vst1q_u8((uint8_t *)p + 16, vreinterpretq_u8_f32(a.v[1]));
}

KERNEL_INLINE vf vf_load_part(const float *p, size_t count)
{
    float padded[8] = { 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f };
    memcpy(padded, p, count * sizeof *padded);
    return vf_load(padded);
}

KERNEL_INLINE void vf_store_part(float *p, vf a, size_t count)
{
    float padded[8];
    vf_store(padded, a);
    memcpy(p, padded, count * sizeof *padded);
}

KERNEL_INLINE vf vf_add(vf a, vf b)
{
    const vf c = { { vaddq_f32(a.v[0], b.v[0]), vaddq_f32(a.v[1], b.v[1]) } };
    return c;
}

KERNEL_INLINE vf vf_mul(vf a, vf b)
{
    const vf c = { { vmulq_f32(a.v[0], b.v[0]), vmulq_f32(a.v[1], b.v[1]) } };
    return c;
}

KERNEL_INLINE vf vf_fma(vf a, vf b, vf c)
{
    const vf d = { { vfmaq_f32(c.v[0], a.v[0], b.v[0]), vfmaq_f32(c.v[1], a.v[1], b.v[1]) } };
    return d;
}

KERNEL_INLINE vf vf_abs(vf a)
{
    const vf b = { { vabsq_f32(a.v[0]), vabsq_f32(a.v[1]) } };
    return b;
}

KERNEL_INLINE float vf_sum(vf a)
{
    return vaddvq_f32(vaddq_f32(a.v[0], a.v[1]));
}

KERNEL_INLINE vf vf_from_f16(const void *p)
{
    const float16x8_t h = vreinterpretq_f16_u8(load_u8(p));
    const vf a = { { vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h) } };
    return a;
}

KERNEL_INLINE vf vf_from_bf16(const void *p)
{
    const uint16x8_t h = vreinterpretq_u16_u8(load_u8(p));
    const vf a = { { vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(h, 16)) } };
    return a;
}

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

/* A bit per lane of two masks. */
KERNEL_INLINE unsigned bits_of_masks(uint32x4_t low, uint32x4_t high)
{
    static const uint32_t bit[8] = { 1, 2, 4, 8, 16, 32, 64, 128 };
    return vaddvq_u32(vorrq_u32(vandq_u32(low, vld1q_u32(bit)), vandq_u32(high, vld1q_u32(bit + 4))));
}

KERNEL_INLINE unsigned vf_not_below(vf a, vf t, int keep_equal)
{
    return 0xffu ^ (keep_equal ? bits_of_masks(vcltq_f32(a.v[0], t.v[0]), vcltq_f32(a.v[1], t.v[1]))
                               : bits_of_masks(vcleq_f32(a.v[0], t.v[0]), vcleq_f32(a.v[1], t.v[1])));
}

KERNEL_INLINE vf vf_from_vi(vi a)
{
    const vf b = { { vcvtq_f32_s32(a.v[0]), vcvtq_f32_s32(a.v[1]) } };
    return b;
}

/* To nearest even. */
KERNEL_INLINE vi vi_from_vf(vf a)
{
    const vi b = { { vcvtnq_s32_f32(a.v[0]), vcvtnq_s32_f32(a.v[1]) } };
    return b;
}

KERNEL_INLINE vf vf_div(vf a, vf b)
{
    const vf c = { { vdivq_f32(a.v[0], b.v[0]), vdivq_f32(a.v[1], b.v[1]) } };
    return c;
}

/* NaN when either is. */
KERNEL_INLINE vf vf_min(vf a, vf b)
{
    const vf c = { { vminq_f32(a.v[0], b.v[0]), vminq_f32(a.v[1], b.v[1]) } };
    return c;
}

KERNEL_INLINE vf vf_max(vf a, vf b)
{
    const vf c = { { vmaxq_f32(a.v[0], b.v[0]), vmaxq_f32(a.v[1], b.v[1]) } };
    return c;
}

KERNEL_INLINE float32x4_t scale_by(float32x4_t a, int32x4_t n)
{
    const int32x4_t half = vshrq_n_s32(n, 1), bias = vdupq_n_s32(127);
    const float32x4_t first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    return vmulq_f32(vmulq_f32(a, first), vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(n, half), bias), 23)));
}

/* a * 2^n, |n| <= 200, in two factors. */
KERNEL_INLINE vf vf_scale(vf a, vi n)
{
    const vf c = { { scale_by(a.v[0], n.v[0]), scale_by(a.v[1], n.v[1]) } };
    return c;
}

KERNEL_INLINE vi vi_set1(int32_t i)
{
    const vi a = { { vdupq_n_s32(i), vdupq_n_s32(i) } };
    return a;
}

KERNEL_INLINE vi vi_zero(void)
{
    return vi_set1(0);
}

KERNEL_INLINE vi vi_ramp(void)
{
    static const int32_t ramp[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    const vi a = { { vld1q_s32(ramp), vld1q_s32(ramp + 4) } };
    return a;
}

KERNEL_INLINE vi vi_add(vi a, vi b)
{
    const vi c = { { vaddq_s32(a.v[0], b.v[0]), vaddq_s32(a.v[1], b.v[1]) } };
    return c;
}

KERNEL_INLINE vi vi_max(vi a, vi b)
{
    const vi c = { { vmaxq_s32(a.v[0], b.v[0]), vmaxq_s32(a.v[1], b.v[1]) } };
    return c;
}

KERNEL_INLINE int32_t vi_max_all(vi a)
{
    return vmaxvq_s32(vmaxq_s32(a.v[0], a.v[1]));
}

KERNEL_INLINE int32_t vi_sum(vi a)
{
    return vaddvq_s32(vaddq_s32(a.v[0], a.v[1]));
}

KERNEL_INLINE vi vi_abs_bits(vf a)
{
    const vf b = vf_abs(a);
    const vi c = { { vreinterpretq_s32_f32(b.v[0]), vreinterpretq_s32_f32(b.v[1]) } };
    return c;
}

KERNEL_INLINE void vi_store(int32_t *p, vi a)
{
    vst1q_s32(p, a.v[0]);
    vst1q_s32(p + 4, a.v[1]);
}

KERNEL_INLINE void vi_accumulate(int32_t *p, vi a)
{
    vst1q_s32(p, vaddq_s32(vld1q_s32(p), a.v[0]));
    vst1q_s32(p + 4, vaddq_s32(vld1q_s32(p + 4), a.v[1]));
}

/* Per lane a pair of words: the low halves of even and odd. */
KERNEL_INLINE vi vi_pair16(vi even, vi odd)
{
    const vi a = { { vsliq_n_s32(even.v[0], odd.v[0], 16), vsliq_n_s32(even.v[1], odd.v[1], 16) } };
    return a;
}

KERNEL_INLINE void vi_store_i8(int8_t *p, vi a)
{
    vst1_s8(p, vqmovn_s16(vcombine_s16(vqmovn_s32(a.v[0]), vqmovn_s32(a.v[1]))));
}

/* ---- bits ---- */

#define VI_BYTES 32

KERNEL_INLINE unsigned vf_below_zero(vf a)
{
    return bits_of_masks(vcltzq_f32(a.v[0]), vcltzq_f32(a.v[1]));
}

KERNEL_INLINE int32x4_t add_differing(int32x4_t acc, const void *a, const void *b)
{
    const uint32x4_t ones = vpaddlq_u16(vpaddlq_u8(vcntq_u8(veorq_u8(load_u8(a), load_u8(b)))));
    return vreinterpretq_s32_u64(vpadalq_u32(vreinterpretq_u64_s32(acc), ones));
}

KERNEL_INLINE vi vi_add_differing(vi acc, const void *a, const void *b)
{
    const vi sum = { { add_differing(acc.v[0], a, b), add_differing(acc.v[1], (const char *)a + 16, (const char *)b + 16) } };
    return sum;
}

KERNEL_INLINE uint64_t vi_sum64(vi a)
{
    return vaddvq_u64(vaddq_u64(vreinterpretq_u64_s32(a.v[0]), vreinterpretq_u64_s32(a.v[1])));
}

KERNEL_INLINE uint64_t differing64(const void *a, const void *b)
{
    return vaddv_u8(vcnt_u8(veor_u8(vld1_u8((const uint8_t *)a), vld1_u8((const uint8_t *)b))));
}

/* NEON has no compress: four lanes at a time through a table of byte shuffles. */
KERNEL_INLINE size_t vi_store_kept(uint32_t *p, vi a, unsigned kept)
{
    static const uint8_t count[16] = { 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4 };
    const unsigned low = kept & 15, high = kept >> 4;
    vst1q_u8((uint8_t *)p, vqtbl1q_u8(vreinterpretq_u8_s32(a.v[0]), vld1q_u8(compress4_order[low])));
    vst1q_u8((uint8_t *)(p + count[low]), vqtbl1q_u8(vreinterpretq_u8_s32(a.v[1]), vld1q_u8(compress4_order[high])));
    return (size_t)count[low] + count[high];
}

#endif /* SFFN_VEC_NEON_H */
