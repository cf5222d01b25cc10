/* kernels_scalar.c  The specification of every kernel, and the fallback: plain C, no tricks, checked against nothing but mathematics.
 * The contracts are in kernels.h. Must be compiled without contraction of a * b + c (-ffp-contract=off).
 */
#include "kernels/kernels.h"
#include "base/fp16.h"
#include "sparseffn/ffn.h"
#include <math.h>
#include <string.h>

enum { BLOCK = 32, Q8_0_BYTES = 34, Q4_0_BYTES = 18 };

static const unsigned char *row_at(const void *w, size_t row_bytes, const uint32_t *rows, size_t r)
{
    return (const unsigned char *)w + (rows != NULL ? rows[r] : r) * row_bytes;
}

/* ---- float weights: `load` decodes one element of `size` bytes ---- */

typedef float load_fn(const void *element);

static inline void rows_dot_float(load_fn *load, size_t size, float *out, const void *w, size_t row_bytes,
                                  const uint32_t *rows, const uint8_t *masks, size_t n_rows, const struct sffn_x *x,
                                  size_t n_tokens, size_t n)
{
    for (size_t r = 0; r < n_rows; r++) {
        const unsigned char *row = row_at(w, row_bytes, rows, r);
        for (size_t t = 0; t < n_tokens; t++) {
            const float *xt = x->x + t * x->x_stride;
            float sum = 0.0f;
            if (masks != NULL && (masks[r] >> t & 1) == 0)
                continue;
            for (size_t j = 0; j < n; j++)
                sum += load(row + j * size) * sffn_load_f32(xt + j);
            out[r * n_tokens + t] = sum;
        }
    }
}

static inline void rows_axpy_float(load_fn *load, size_t size, float *y, const void *w, size_t row_bytes,
                                   const uint32_t *rows, const float *h, size_t n_rows, size_t n)
{
    for (size_t r = 0; r < n_rows; r++) {
        const unsigned char *row = row_at(w, row_bytes, rows, r);
        for (size_t j = 0; j < n; j++)
            sffn_store_f32(y + j, fmaf(h[r], load(row + j * size), sffn_load_f32(y + j)));
    }
}

static inline void batch_axpy_float(load_fn *load, size_t size, float *y, size_t y_stride, const void *w, size_t row_bytes,
                                    const uint32_t *rows, const float *h, size_t n_rows, size_t n_tokens, size_t n)
{
    for (size_t r = 0; r < n_rows; r++) {
        const unsigned char *row = row_at(w, row_bytes, rows, r);
        for (size_t t = 0; t < n_tokens; t++) {
            float *yt = y + t * y_stride;
            for (size_t j = 0; j < n; j++)
                sffn_store_f32(yt + j, fmaf(h[r * n_tokens + t], load(row + j * size), sffn_load_f32(yt + j)));
        }
    }
}

static void rows_dot_f32_scalar(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                                size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    rows_dot_float(sffn_load_f32, 4, out, w, row_bytes, rows, masks, n_rows, x, n_tokens, n);
}

static void rows_dot_f16_scalar(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                                size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    rows_dot_float(sffn_load_f16, 2, out, w, row_bytes, rows, masks, n_rows, x, n_tokens, n);
}

static void rows_dot_bf16_scalar(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                                 size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    rows_dot_float(sffn_load_bf16, 2, out, w, row_bytes, rows, masks, n_rows, x, n_tokens, n);
}

static void rows_axpy_f32_scalar(float *y, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                 size_t n_rows, size_t n_ahead, size_t n)
{
    (void)n_ahead;
    rows_axpy_float(sffn_load_f32, 4, y, w, row_bytes, rows, h, n_rows, n);
}

static void rows_axpy_f16_scalar(float *y, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                 size_t n_rows, size_t n_ahead, size_t n)
{
    (void)n_ahead;
    rows_axpy_float(sffn_load_f16, 2, y, w, row_bytes, rows, h, n_rows, n);
}

static void rows_axpy_bf16_scalar(float *y, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                  size_t n_rows, size_t n_ahead, size_t n)
{
    (void)n_ahead;
    rows_axpy_float(sffn_load_bf16, 2, y, w, row_bytes, rows, h, n_rows, n);
}

static void batch_axpy_f32_scalar(float *y, size_t y_stride, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                  size_t n_rows, size_t n_tokens, size_t n)
{
    batch_axpy_float(sffn_load_f32, 4, y, y_stride, w, row_bytes, rows, h, n_rows, n_tokens, n);
}

static void batch_axpy_f16_scalar(float *y, size_t y_stride, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                  size_t n_rows, size_t n_tokens, size_t n)
{
    batch_axpy_float(sffn_load_f16, 2, y, y_stride, w, row_bytes, rows, h, n_rows, n_tokens, n);
}

static void batch_axpy_bf16_scalar(float *y, size_t y_stride, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                   size_t n_rows, size_t n_tokens, size_t n)
{
    batch_axpy_float(sffn_load_bf16, 2, y, y_stride, w, row_bytes, rows, h, n_rows, n_tokens, n);
}

/* ---- quantised weights: `decode` gives the 32 integers of one block's quants ---- */

typedef void decode_fn(int8_t q[BLOCK], const unsigned char *quants);

/* Where block b of a row is: its f16 scale at b * scale_step, its quants at quants + b * quants_step. */
struct places {
    size_t scale_step, quants, quants_step;
};

static struct places together(size_t block_bytes)
{
    const struct places p = { block_bytes, 2, block_bytes };
    return p;
}

static struct places apart(size_t block_bytes, size_t n)
{
    const struct places p = { 2, SFFN_APART_QUANTS(n / BLOCK), block_bytes - 2 };
    return p;
}

static void decode_q8_0(int8_t q[BLOCK], const unsigned char *quants)
{
    for (int k = 0; k < BLOCK; k++)
        q[k] = (int8_t)quants[k];
}

static void decode_q4_0(int8_t q[BLOCK], const unsigned char *quants)
{
    for (int k = 0; k < BLOCK / 2; k++) {
        q[k] = (int8_t)((quants[k] & 15) - 8);
        q[k + BLOCK / 2] = (int8_t)((quants[k] >> 4) - 8);
    }
}

static int32_t dot_block(const int8_t a[BLOCK], const int8_t b[BLOCK])
{
    int32_t sum = 0;
    for (int k = 0; k < BLOCK; k++)
        sum += a[k] * b[k];
    return sum;
}

static inline void rows_dot_blocks(decode_fn *decode, struct places at, float *out, const void *w, size_t row_bytes,
                                   const uint32_t *rows, const uint8_t *masks, size_t n_rows, const struct sffn_x *x,
                                   size_t n_tokens, size_t n)
{
    for (size_t r = 0; r < n_rows; r++) {
        const unsigned char *row = row_at(w, row_bytes, rows, r);
        for (size_t t = 0; t < n_tokens; t++) {
            const int8_t *xq = x->q + t * x->q_stride;
            const float *xd = x->d + t * (x->q_stride / BLOCK);
            float sum = 0.0f;
            if (masks != NULL && (masks[r] >> t & 1) == 0)
                continue;
            for (size_t b = 0; b < n / BLOCK; b++) {
                int8_t q[BLOCK];
                decode(q, row + at.quants + b * at.quants_step);
                sum += (float)dot_block(q, xq + b * BLOCK) * (sffn_load_f16(row + b * at.scale_step) * xd[b]);
            }
            out[r * n_tokens + t] = sum;
        }
    }
}

static inline void rows_axpy_int_blocks(decode_fn *decode, struct places at, int32_t *acc, const void *w, size_t row_bytes,
                                        const uint32_t *rows, const float *h, float inv, size_t n_rows, size_t n)
{
    for (size_t r = 0; r < n_rows; r++) {
        const unsigned char *row = row_at(w, row_bytes, rows, r);
        const float scaled = h[r] * inv;
        for (size_t b = 0; b < n / BLOCK; b++) {
            const float rounded = rintf(scaled * sffn_load_f16(row + b * at.scale_step));
            /* The caller keeps |v| within SFFN_AXPY_V_MAX; the test only spares C's undefined conversion where it did not. */
            const int32_t v = fabsf(rounded) <= 32767.0f ? (int32_t)rounded : 0;
            int8_t q[BLOCK];
            decode(q, row + at.quants + b * at.quants_step);
            for (size_t k = 0; k < BLOCK; k++)
                acc[b * BLOCK + k] += v * q[k];
        }
    }
}

static inline void batch_axpy_int_blocks(decode_fn *decode, struct places at, int32_t *acc, size_t acc_stride, const void *w,
                                         size_t row_bytes, const uint32_t *rows, const float *h, const float *inv, size_t n_rows,
                                         size_t n_tokens, size_t n)
{
    for (size_t r = 0; r < n_rows; r++) {
        const unsigned char *row = row_at(w, row_bytes, rows, r);
        for (size_t b = 0; b < n / BLOCK; b++) {
            const float d = sffn_load_f16(row + b * at.scale_step);
            int8_t q[BLOCK];
            decode(q, row + at.quants + b * at.quants_step);
            for (size_t t = 0; t < n_tokens; t++) {
                const float scaled = h[r * n_tokens + t] * inv[t], rounded = rintf(scaled * d);
                /* as in rows_axpy_int_blocks() */
                const int32_t v = fabsf(rounded) <= 32767.0f ? (int32_t)rounded : 0;
                for (size_t k = 0; k < BLOCK; k++)
                    acc[t * acc_stride + b * BLOCK + k] += v * q[k];
            }
        }
    }
}

static inline void blocks_axpy_blocks(decode_fn *decode, struct places at, float *y, const void *w, size_t row_bytes,
                                      const uint32_t *blocks, const struct sffn_x *h, size_t n_blocks, size_t n)
{
    for (size_t e = 0; e < n_blocks; e++) {
        const unsigned char *row = row_at(w, row_bytes, blocks, e);
        for (size_t j = 0; j < n; j++) {
            int8_t q[BLOCK];
            decode(q, row + at.quants + j * at.quants_step);
            sffn_store_f32(y + j, fmaf((float)dot_block(q, h->q + e * BLOCK), sffn_load_f16(row + j * at.scale_step) * h->d[e],
                                       sffn_load_f32(y + j)));
        }
    }
}

static void rows_dot_q8_0_scalar(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                                 size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    rows_dot_blocks(decode_q8_0, together(Q8_0_BYTES), out, w, row_bytes, rows, masks, n_rows, x, n_tokens, n);
}

static void rows_dot_q4_0_scalar(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                                 size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    rows_dot_blocks(decode_q4_0, together(Q4_0_BYTES), out, w, row_bytes, rows, masks, n_rows, x, n_tokens, n);
}

static void rows_dot_q4_0_apart_scalar(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                                       size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    rows_dot_blocks(decode_q4_0, apart(Q4_0_BYTES, n), out, w, row_bytes, rows, masks, n_rows, x, n_tokens, n);
}

static void rows_axpy_int_q8_0_scalar(int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                      float inv, size_t n_rows, size_t n)
{
    rows_axpy_int_blocks(decode_q8_0, together(Q8_0_BYTES), acc, w, row_bytes, rows, h, inv, n_rows, n);
}

static void rows_axpy_int_q4_0_scalar(int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                      float inv, size_t n_rows, size_t n)
{
    rows_axpy_int_blocks(decode_q4_0, together(Q4_0_BYTES), acc, w, row_bytes, rows, h, inv, n_rows, n);
}

static void rows_axpy_int_q4_0_apart_scalar(int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                            float inv, size_t n_rows, size_t n)
{
    rows_axpy_int_blocks(decode_q4_0, apart(Q4_0_BYTES, n), acc, w, row_bytes, rows, h, inv, n_rows, n);
}

static void batch_axpy_int_q8_0_scalar(int32_t *acc, size_t acc_stride, const void *w, size_t row_bytes, const uint32_t *rows,
                                       const float *h, const float *inv, size_t n_rows, size_t n_tokens, size_t n)
{
    batch_axpy_int_blocks(decode_q8_0, together(Q8_0_BYTES), acc, acc_stride, w, row_bytes, rows, h, inv, n_rows, n_tokens, n);
}

static void batch_axpy_int_q4_0_scalar(int32_t *acc, size_t acc_stride, const void *w, size_t row_bytes, const uint32_t *rows,
                                       const float *h, const float *inv, size_t n_rows, size_t n_tokens, size_t n)
{
    batch_axpy_int_blocks(decode_q4_0, together(Q4_0_BYTES), acc, acc_stride, w, row_bytes, rows, h, inv, n_rows, n_tokens, n);
}

static void batch_axpy_int_q4_0_apart_scalar(int32_t *acc, size_t acc_stride, const void *w, size_t row_bytes, const uint32_t *rows,
                                             const float *h, const float *inv, size_t n_rows, size_t n_tokens, size_t n)
{
    batch_axpy_int_blocks(decode_q4_0, apart(Q4_0_BYTES, n), acc, acc_stride, w, row_bytes, rows, h, inv, n_rows, n_tokens, n);
}

static void blocks_axpy_q8_0_scalar(float *y, const void *w, size_t row_bytes, const uint32_t *blocks,
                                    const struct sffn_x *h, size_t n_blocks, size_t n)
{
    blocks_axpy_blocks(decode_q8_0, together(Q8_0_BYTES), y, w, row_bytes, blocks, h, n_blocks, n);
}

static void blocks_axpy_q4_0_scalar(float *y, const void *w, size_t row_bytes, const uint32_t *blocks,
                                    const struct sffn_x *h, size_t n_blocks, size_t n)
{
    blocks_axpy_blocks(decode_q4_0, together(Q4_0_BYTES), y, w, row_bytes, blocks, h, n_blocks, n);
}

/* ---- planes ---- */

static void plane_dot_scalar(int32_t *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                             size_t n_rows, const int8_t *q, size_t q_stride, size_t n_tokens, size_t n, unsigned bits)
{
    const size_t total = n / 8 * bits, per_byte = 8 / bits;
    for (size_t r = 0; r < n_rows; r++) {
        const unsigned char *row = row_at(w, row_bytes, rows, r);
        for (size_t t = 0; t < n_tokens; t++) {
            int32_t sum = 0;
            if (masks != NULL && (masks[r] >> t & 1) == 0)
                continue;
            for (size_t first = 0; first < total; first += 64) {
                const size_t bytes = total - first < 64 ? total - first : 64;
                for (size_t b = 0; b < per_byte; b++)
                    for (size_t k = 0; k < bytes; k++)
                        sum += (row[first + k] >> b * bits & ((1 << bits) - 1)) * q[t * q_stride + per_byte * first + b * bytes + k];
            }
            out[r * n_tokens + t] = sum;
        }
    }
}

static void columns_axpy_scalar(int32_t *out, const void *codes, size_t column_bytes, const uint32_t *columns, const int8_t *q,
                                size_t n_columns, size_t n_rows)
{
    memset(out, 0, n_rows * sizeof *out);
    for (size_t i = 0; i < n_columns; i++) {
        const unsigned char *column = (const unsigned char *)codes + columns[i] * column_bytes;
        for (size_t at = 0; at < n_rows / 4; at++) {
            const size_t k = at % 64, row = 4 * (at - k) + 16 * (k / 4 % 4) + 4 * (k / 16) + k % 4;
            for (size_t b = 0; b < 4; b++)
                out[row + 64 * b] += q[i] * (column[at] >> 2 * b & 3);
        }
    }
}

/* ---- ops that read no weights ---- */

static void quantize_x_scalar(int8_t *q, float *d, int32_t *sum, const float *x, size_t n)
{
    for (size_t b = 0; b < n / BLOCK; b++, x += BLOCK, q += BLOCK) {
        float amax = 0.0f, scale = 0.0f;
        int is_finite = 1;
        int32_t total = 0;
        for (int k = 0; k < BLOCK; k++) {
            const float a = fabsf(sffn_load_f32(x + k));
            if (!(a <= 3.402823466e+38f))
                is_finite = 0;
            if (a > amax)
                amax = a;
        }
        if (!is_finite) {
            d[b] = sffn_f32_from_bits(0x7fc00000u);
        } else if (amax < 0x1p-100f) {
            d[b] = 0.0f;
        } else {
            d[b] = amax / 127.0f;
            scale = 127.0f / amax;
        }
        for (int k = 0; k < BLOCK; k++) {
            q[k] = scale == 0.0f ? 0 : (int8_t)rintf(sffn_load_f32(x + k) * scale);
            total += q[k];
        }
        sum[b] = total;
    }
}

static size_t threshold_scalar(uint32_t *rows, const float *v, uint32_t first, size_t n, float t, int keep_equal,
                               int use_abs)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const float value = sffn_load_f32(v + i);
        const float a = use_abs ? fabsf(value) : value;
        if (keep_equal ? a < t : a <= t) /* false for NaN */
            continue;
        rows[count++] = first + (uint32_t)i;
    }
    return count;
}

static void activate_scalar(float *s, size_t n, int32_t activation)
{
    for (size_t i = 0; i < n; i++) {
        const float g = sffn_load_f32(s + i);
        const float z = activation == SFFN_ACT_GELU_TANH ? g * (1.59576912160573f + 0.0713548162726f * (g * g)) : g;
        sffn_store_f32(s + i, activation == SFFN_ACT_GELU_ERF ? 0.5f * g * (1.0f + erff(g * 0.70710678118654752f)) : g / (1.0f + expf(-z)));
    }
}

static void pack_signs_scalar(uint8_t *bits, const float *x, size_t n)
{
    memset(bits, 0, (n + 7) / 8);
    for (size_t k = 0; k < n; k++)
        bits[k / 8] |= (uint8_t)((sffn_load_f32(x + k) < 0.0f) << k % 8);
}

/* The number of set bits: pairs, then fours, then bytes, and their sum in the highest byte. */
static uint32_t popcount64(uint64_t v)
{
    v -= v >> 1 & 0x5555555555555555u;
    v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (uint32_t)(v * 0x0101010101010101u >> 56);
}

static void count_signs_scalar(uint32_t *out, const uint8_t *w, size_t n_rows, const uint8_t *x, size_t n_tokens,
                               size_t n_bytes)
{
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++) {
            uint32_t count = 0;
            for (size_t i = 0; i < n_bytes; i += 8) {
                uint64_t a, b;
                memcpy(&a, w + r * n_bytes + i, sizeof(a));
                memcpy(&b, x + t * n_bytes + i, sizeof(b));
                count += popcount64(a ^ b);
            }
            out[r * n_tokens + t] = count;
        }
}

const struct sffn_kernels sffn_kernels_scalar = {
    .rows_dot = {
        [SFFN_F32] = { rows_dot_f32_scalar, "rows_dot_f32_scalar" },
        [SFFN_F16] = { rows_dot_f16_scalar, "rows_dot_f16_scalar" },
        [SFFN_BF16] = { rows_dot_bf16_scalar, "rows_dot_bf16_scalar" },
        [SFFN_Q8_0] = { rows_dot_q8_0_scalar, "rows_dot_q8_0_scalar" },
        [SFFN_Q4_0] = { rows_dot_q4_0_scalar, "rows_dot_q4_0_scalar" },
        [SFFN_W_Q4_0_APART] = { rows_dot_q4_0_apart_scalar, "rows_dot_q4_0_apart_scalar" },
    },
    .rows_axpy = {
        [SFFN_F32] = { rows_axpy_f32_scalar, "rows_axpy_f32_scalar" },
        [SFFN_F16] = { rows_axpy_f16_scalar, "rows_axpy_f16_scalar" },
        [SFFN_BF16] = { rows_axpy_bf16_scalar, "rows_axpy_bf16_scalar" },
    },
    .batch_axpy = {
        [SFFN_F32] = { batch_axpy_f32_scalar, "batch_axpy_f32_scalar" },
        [SFFN_F16] = { batch_axpy_f16_scalar, "batch_axpy_f16_scalar" },
        [SFFN_BF16] = { batch_axpy_bf16_scalar, "batch_axpy_bf16_scalar" },
    },
    .rows_axpy_int = {
        [SFFN_Q8_0] = { rows_axpy_int_q8_0_scalar, "rows_axpy_int_q8_0_scalar" },
        [SFFN_Q4_0] = { rows_axpy_int_q4_0_scalar, "rows_axpy_int_q4_0_scalar" },
        [SFFN_W_Q4_0_APART] = { rows_axpy_int_q4_0_apart_scalar, "rows_axpy_int_q4_0_apart_scalar" },
    },
    .batch_axpy_int = {
        [SFFN_Q8_0] = { batch_axpy_int_q8_0_scalar, "batch_axpy_int_q8_0_scalar" },
        [SFFN_Q4_0] = { batch_axpy_int_q4_0_scalar, "batch_axpy_int_q4_0_scalar" },
        [SFFN_W_Q4_0_APART] = { batch_axpy_int_q4_0_apart_scalar, "batch_axpy_int_q4_0_apart_scalar" },
    },
    .blocks_axpy = {
        [SFFN_Q8_0] = { blocks_axpy_q8_0_scalar, "blocks_axpy_q8_0_scalar" },
        [SFFN_Q4_0] = { blocks_axpy_q4_0_scalar, "blocks_axpy_q4_0_scalar" },
    },
    .quantize_x = { quantize_x_scalar, "quantize_x_scalar" },
    .threshold = { threshold_scalar, "threshold_scalar" },
    .activate = { activate_scalar, "activate_scalar" },
    .pack_signs = { pack_signs_scalar, "pack_signs_scalar" },
    .count_signs = { count_signs_scalar, "count_signs_scalar" },
    .plane_dot = { plane_dot_scalar, "plane_dot_scalar" },
    .columns_axpy = { columns_axpy_scalar, "columns_axpy_scalar" },
};
