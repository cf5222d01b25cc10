/* quants_neon.h  8 blocks of q8_0 or q4_0 for the rows neon and dotprod of the ISA table: what instantiate_q.h asks for. Weights are decoded to signed bytes in the order of the elements, so there is no offset to correct.
 */
#ifndef SFFN_QUANTS_NEON_H
#define SFFN_QUANTS_NEON_H
#include "kernels/isa/neon/vec_neon.h"

#define QUANTS(op, type) KERNEL_JOIN3(op, type, ISA) /* quants_load_q8_0_neon */

struct bytes32 {
    int8x16_t v[2];
};

KERNEL_INLINE struct bytes32 load_bytes32(const void *p)
{
    const struct bytes32 b = { { load_s8(p), load_s8((const char *)p + 16) } };
    return b;
}

KERNEL_INLINE struct bytes32 bytes_of_q8_0(const char *block)
{
    return load_bytes32(block + 2);
}

KERNEL_INLINE struct bytes32 bytes_of_q4_0(const char *block)
{
    const uint8x16_t nibbles = load_u8(block + 2);
    const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(nibbles, vdupq_n_u8(15))), high = vreinterpretq_s8_u8(vshrq_n_u8(nibbles, 4));
    const struct bytes32 b = { { vsubq_s8(low, vdupq_n_s8(8)), vsubq_s8(high, vdupq_n_s8(8)) } };
    return b;
}

/* Four sums that add up to the product. A product is at most 128 * 127, so two of them fit a word. */
KERNEL_INLINE int32x4_t dot32(struct bytes32 w, struct bytes32 x)
{
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(vdotq_s32(vdupq_n_s32(0), w.v[0], x.v[0]), w.v[1], x.v[1]);
#else
    const int16x8_t a = vmlal_high_s8(vmull_s8(vget_low_s8(w.v[0]), vget_low_s8(x.v[0])), w.v[0], x.v[0]);
    const int16x8_t b = vmlal_high_s8(vmull_s8(vget_low_s8(w.v[1]), vget_low_s8(x.v[1])), w.v[1], x.v[1]);
    return vpadalq_s16(vpaddlq_s16(a), b);
#endif
}

/* Lane b: the sum of d[b]. */
KERNEL_INLINE vi sums_of_dwords(const int32x4_t d[8])
{
    const int32x4_t d01 = vpaddq_s32(d[0], d[1]), d23 = vpaddq_s32(d[2], d[3]);
    const int32x4_t d45 = vpaddq_s32(d[4], d[5]), d67 = vpaddq_s32(d[6], d[7]);
    const vi sums = { { vpaddq_s32(d01, d23), vpaddq_s32(d45, d67) } };
    return sums;
}

/* The f16 scales of 8 blocks, `stride` bytes apart. */
KERNEL_INLINE vf scales_of_blocks(const char *p, size_t stride)
{
    uint16_t d[8];
    for (size_t b = 0; b < 8; b++)
        memcpy(d + b, p + b * stride, sizeof *d);
    return vf_from_f16(d);
}

/* sum[k] += v * (columns 4k .. 4k + 3 of the block). */
KERNEL_INLINE void add_block(int32x4_t sum[8], struct bytes32 w, int16_t v)
{
    for (int half = 0; half < 2; half++) {
        const int16x8_t low = vmovl_s8(vget_low_s8(w.v[half])), high = vmovl_high_s8(w.v[half]);
        int32x4_t *const s = sum + 4 * half;
        s[0] = vmlal_n_s16(s[0], vget_low_s16(low), v);
        s[1] = vmlal_high_n_s16(s[1], low, v);
        s[2] = vmlal_n_s16(s[2], vget_low_s16(high), v);
        s[3] = vmlal_high_n_s16(s[3], high, v);
    }
}

/* Eight columns of an even and an odd row, for batch_axpy_int. */
typedef struct {
    int16x8_t even, odd;
} row_pairs;

KERNEL_INLINE vi pairs_add(vi acc, row_pairs w, int32_t v)
{
    const int16_t even = (int16_t)v, odd = (int16_t)(v >> 16);
    acc.v[0] = vmlal_n_s16(vmlal_n_s16(acc.v[0], vget_low_s16(w.even), even), vget_low_s16(w.odd), odd);
    acc.v[1] = vmlal_high_n_s16(vmlal_high_n_s16(acc.v[1], w.even, even), w.odd, odd);
    return acc;
}

KERNEL_INLINE void pairs_of_bytes(row_pairs w[2], struct bytes32 even, struct bytes32 odd, int half)
{
    w[0].even = vmovl_s8(vget_low_s8(even.v[half]));
    w[0].odd = vmovl_s8(vget_low_s8(odd.v[half]));
    w[1].even = vmovl_high_s8(even.v[half]);
    w[1].odd = vmovl_high_s8(odd.v[half]);
}

/* The functions of a type whose blocks of `bytes` bytes decode() makes signed bytes. */
#define QUANTS_OF(type, bytes, decode)                                                                                                     \
    struct QUANTS(quants, type) {                                                                                                          \
        struct bytes32 block[8];                                                                                                           \
    };                                                                                                                                     \
                                                                                                                                           \
    KERNEL_INLINE vf QUANTS(quants_scales, type)(const char *p)                                                                            \
    {                                                                                                                                      \
        return scales_of_blocks(p, bytes);                                                                                                 \
    }                                                                                                                                      \
                                                                                                                                           \
    KERNEL_INLINE void QUANTS(quants_load, type)(struct QUANTS(quants, type) * w, vf *scales, const char *p)                               \
    {                                                                                                                                      \
        for (int b = 0; b < 8; b++)                                                                                                        \
            w->block[b] = decode(p + (bytes) * b);                                                                                         \
        *scales = QUANTS(quants_scales, type)(p);                                                                                          \
    }                                                                                                                                      \
                                                                                                                                           \
    KERNEL_INLINE void QUANTS(quants_load_part, type)(struct QUANTS(quants, type) * w, vf *scales, const char *p, size_t count)            \
    {                                                                                                                                      \
        char padded[(bytes) * VF_LEN];                                                                                                     \
        memset(padded, 0, sizeof padded);                                                                                                  \
        memcpy(padded, p, (bytes) * count);                                                                                                \
        QUANTS(quants_load, type)(w, scales, padded);                                                                                      \
    }                                                                                                                                      \
                                                                                                                                           \
    KERNEL_INLINE void QUANTS(quants_arrange, type)(int8_t *to, const int8_t *from)                                                        \
    {                                                                                                                                      \
        memcpy(to, from, 32 * VF_LEN);                                                                                                     \
    }                                                                                                                                      \
                                                                                                                                           \
    KERNEL_INLINE vi QUANTS(quants_dot, type)(const struct QUANTS(quants, type) * w, const int8_t *q, const int32_t *offset)               \
    {                                                                                                                                      \
        int32x4_t d[8];                                                                                                                    \
        (void)offset;                                                                                                                      \
        for (int b = 0; b < 8; b++)                                                                                                        \
            d[b] = dot32(w->block[b], load_bytes32(q + 32 * b));                                                                           \
        return sums_of_dwords(d);                                                                                                          \
    }                                                                                                                                      \
                                                                                                                                           \
    KERNEL_INLINE vi QUANTS(quants_dot_same, type)(const struct QUANTS(quants, type) * w, const int8_t *q, int32_t offset)                 \
    {                                                                                                                                      \
        const struct bytes32 x = load_bytes32(q);                                                                                          \
        int32x4_t d[8];                                                                                                                    \
        (void)offset;                                                                                                                      \
        for (int b = 0; b < 8; b++)                                                                                                        \
            d[b] = dot32(w->block[b], x);                                                                                                  \
        return sums_of_dwords(d);                                                                                                          \
    }                                                                                                                                      \
                                                                                                                                           \
    KERNEL_INLINE void QUANTS(quants_pairs, type)(row_pairs w[2], const char *even, const char *odd, int half)                                  \
    {                                                                                                                                      \
        pairs_of_bytes(w, decode(even - 2), decode(odd - 2), half);                                                                        \
    }                                                                                                                                      \
                                                                                                                                           \
    KERNEL_INLINE void QUANTS(axpy_part, type)(const int P, int32_t *acc, const char *const *rows, size_t offset, const int32_t *v,        \
                                               const int32_t *sum)                                                                         \
    {                                                                                                                                      \
        int32x4_t sums[8];                                                                                                                 \
        (void)sum;                                                                                                                         \
        for (int k = 0; k < 8; k++)                                                                                                        \
            sums[k] = vld1q_s32(acc + 4 * k);                                                                                              \
        for (int p = 0; p < P; p++) {                                                                                                      \
            add_block(sums, decode(rows[2 * p] + offset), (int16_t)v[p * VF_LEN]);                                                         \
            add_block(sums, decode(rows[2 * p + 1] + offset), (int16_t)(v[p * VF_LEN] >> 16));                                             \
        }                                                                                                                                  \
        for (int k = 0; k < 8; k++)                                                                                                        \
            vst1q_s32(acc + 4 * k, sums[k]);                                                                                               \
    }

QUANTS_OF(q8_0, 34, bytes_of_q8_0)
QUANTS_OF(q4_0, 18, bytes_of_q4_0)

#define QUANTS_OFFSET_q8_0 0
#define QUANTS_OFFSET_q4_0 0
#define AXPY_BLOCKS_q8_0 1
#define AXPY_PAIRS_q8_0 4
#define AXPY_BLOCKS_q4_0 1
#define AXPY_PAIRS_q4_0 4

#endif /* SFFN_QUANTS_NEON_H */
