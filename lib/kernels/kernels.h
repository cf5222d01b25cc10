/* kernels.h  Signatures of the kernels and the table that a context fills once.
 *
 * Scalar (isa/scalar/) is the specification: readable C, no tricks. An ISA overlays only what it improves; NULL means
 * "nothing better". Kernels know nothing of threads, layers or memory: they get rows, and touch exactly the rows listed.
 *
 * Weights are rows of ggml's element order (or apart, below) at any alignment, row_bytes apart: row r starts at w + r * row_bytes. A kernel never
 * reads outside [row, row + sffn_dtype_row_bytes(type, n)), or SFFN_APART_ROW_BYTES, not even to fill a vector, because borrowed rows may end at a page's end.
 * It may prefetch any address. `rows` lists row indices (ascending in practice); rows == NULL means 0 .. n_rows-1.
 */
#ifndef SFFN_KERNELS_H
#define SFFN_KERNELS_H
#include <stddef.h>
#include <stdint.h>
#include "sparseffn/dtype.h"

#define SFFN_TILE_TOKENS 8  /* most tokens per rows_dot call: one bit each in its masks */

/* Weight types as kernels know them: those of sffn_dtype, and forms that only packed copies have.
 *
 * Apart: a row of q4_0, first the f16 scales of all its blocks, then from SFFN_APART_QUANTS on their 16 bytes of quants. So vectors of quants need
 * no shuffling into place, and in packed rows of a multiple of 128 weights they lie on whole cache lines, which costs no line where rows are whole
 * lines apart. Not in rows of less than 1024 weights, of which predictors have many side by side. Scales behind the quants, with which nothing would need padding, break the stream that reads all rows (x0.75 to 0.9 on Zen 4). */
enum sffn_wtype {
    SFFN_W_Q4_0_APART = SFFN_DTYPE_COUNT_,
    SFFN_N_WTYPES
};
#define SFFN_APART_QUANTS(n_blocks) ((n_blocks) % 4 == 0 && (n_blocks) >= 32 ? ((size_t)(n_blocks) * 2 + 63) / 64 * 64 : (size_t)(n_blocks) * 2)
#define SFFN_APART_ROW_BYTES(n_blocks) (SFFN_APART_QUANTS(n_blocks) + (size_t)(n_blocks) * 16)

/* The inputs of up to SFFN_TILE_TOKENS tokens, prepared once per call. Token t's vectors start at x + t * x_stride, q + t * q_stride,
 * d + t * (q_stride / 32), sum + t * (q_stride / 32). */
struct sffn_x {
    const float *x;       /* f32, f16, bf16 weights read this, any alignment */
    size_t x_stride;
    const int8_t *q;      /* q8_0, q4_0 weights read these: blocks of 32 ... */
    const float *d;       /* ... with value q * d ... */
    const int32_t *sum;   /* ... and sum = sum of the block's q (for q4_0's offset of 8, and unsigned byte products) */
    size_t q_stride;      /* a multiple of 32 */
    int streams;          /* 1: SFFN_CPU_STREAMS. Changes how rows that lie together are fetched, and no result */
};

/* out[r * n_tokens + t] = dot(row rows[r], x[t]) for every token t of masks[r] (bit t; masks == NULL: all); other entries of out are
 * left alone. n is the row length. For one (row, token) pair the result's bits do not depend on the other rows, tokens or masks.
 * Float types: f32 products and sums in any fixed order. Integer types: for each block b of 32
 *     I_b = sum_k q_w[k] * q_x[k]   exact in int32     (q4_0: q_w = nibble - 8)
 * and the dot is sum_b (float)I_b * (d_w[b] * d_x[b]) in f32, any fixed order. */
typedef void sffn_rows_dot_fn(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                              size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n);

/* y[j] = fma(h[r], w[rows[r]][j], y[j]) for r = 0, 1, ..., n_rows-1 in this order, j in [0, n): identical bits on every ISA with FMA (scalar uses fmaf).
 * f32, f16, bf16 only. One token. The caller slices columns by offsetting w and y. The list goes on for n_ahead rows, which next calls take:
 * they may be fetched. */
typedef void sffn_rows_axpy_fn(float *y, const void *w, size_t row_bytes, const uint32_t *rows, const float *h, size_t n_rows, size_t n_ahead,
                               size_t n);

/* The same for 1 to SFFN_TILE_TOKENS tokens that all need every row, h[r * n_tokens + t] and y[t * y_stride + j]: the bits of rows_axpy for each. Tokens'
 * y do not overlap, and what lies between them is not written. */
typedef void sffn_batch_axpy_fn(float *y, size_t y_stride, const void *w, size_t row_bytes, const uint32_t *rows, const float *h, size_t n_rows,
                                size_t n_tokens, size_t n);

/* Exact integer form for q8_0 and q4_0. One token. With d[r][b] the scale of block b of row rows[r]:
 *     v[r][b] = (int) rint((h[r] * inv) * d[r][b])        f32 products, nearest even
 *     acc[j] += sum_r v[r][j / 32] * q[r][j]              exact in int32 (q4_0: nibble - 8)
 * The caller chooses inv so that |v| <= SFFN_AXPY_V_MAX, and empties acc before it can overflow (SFFN_AXPY_ROWS_MAX_*).
 * All h are finite. Results are identical on every ISA, whatever the order of rows. n is a multiple of 32. */
#define SFFN_AXPY_V_MAX 16256         /* 127 * 128: v = 128 * hi + lo with hi, lo in int8 */
#define SFFN_AXPY_ROWS_MAX_Q8_0 1024  /* 1024 * 128 * 16320 < 2^31 */
#define SFFN_AXPY_ROWS_MAX_Q4_0 16384 /* 16384 * 8 * 16320 < 2^31 */
typedef void sffn_rows_axpy_int_fn(int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows, const float *h, float inv,
                                   size_t n_rows, size_t n);

/* The same for 1 to SFFN_TILE_TOKENS tokens that all need every row: h[r * n_tokens + t], inv[t] and acc[t * acc_stride + j], which
 * do not overlap, and nothing between them is written. A token with inv = 0 may have h that are not finite, and then any acc. */
typedef void sffn_batch_axpy_int_fn(int32_t *acc, size_t acc_stride, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                    const float *inv, size_t n_rows, size_t n_tokens, size_t n);

/* Lossless blocks of 32 neurons (q8_0, q4_0): "row" e holds n blocks, block j being the weights of the expert's 32 neurons for output j.
 *     y[j] = fma((float)I_ej, d_w[e][j] * d_h[e], y[j]) for e = 0, 1, ... in this order, I_ej = sum_k q_w * q_h exact
 * h of expert blocks[e] is h->q + e * 32, h->d[e], h->sum[e] (position in the list, not index). One token. */
typedef void sffn_blocks_axpy_fn(float *y, const void *w, size_t row_bytes, const uint32_t *blocks, const struct sffn_x *h, size_t n_blocks,
                                 size_t n);

/* Quantises n floats (a multiple of 32) to blocks of 32: amax = max |x|; amax < 2^-100: q = 0, d = 0, sum = 0; amax infinite or any NaN:
 * q = 0, d = NaN, sum = 0; else d = amax / 127, q = rint(x * (127 / amax)) nearest even, sum = sum of q. So q lies in [-127, 127], which
 * the integer products rely on. Identical on every ISA. */
typedef void sffn_quantize_x_fn(int8_t *q, float *d, int32_t *sum, const float *x, size_t n);

/* Planes: codes of `bits` bits, 1 or 2, one per input: n * bits / 8 bytes per row, n a multiple of 32 and at most SFFN_PLANE_INPUTS_MAX. Inputs are
 * taken in groups that fill 64 bytes, the last of which may be shorter; in a group of g bytes the bits from b * bits on of byte k are the code of its
 * input b * g + k.
 *     out[r * n_tokens + t] = sum of q[t][j] * code j of row rows[r]     exact in int32
 * for every token t of masks[r] (NULL: all); other entries of out are left alone. Token t's q starts at q + t * q_stride, lies in [-127, 127],
 * and 64 bytes behind the last one are readable. rows NULL: 0 .. n_rows-1. Identical on every ISA. */
#define SFFN_PLANE_INPUTS_MAX (1u << 20)
typedef void sffn_plane_dot_fn(int32_t *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks, size_t n_rows,
                               const int8_t *q, size_t q_stride, size_t n_tokens, size_t n, unsigned bits);

/* Codes of 2 bits, by columns: a matrix of which only some columns are read. n_rows is a multiple of 256; a group of 256 rows takes 64 bytes of a
 * column: bits 2 b and 2 b + 1 of byte 16 l + 4 j + i of the group are the code of its row 64 b + 16 j + 4 l + i (b, l, j, i in 0 .. 3).
 *     out[r] = sum of q[i] * code of row r in column columns[i], i in [0, n_columns)     exact in int32
 * Column c starts at codes + c * column_bytes. q lies in [-127, 127], n_columns is a multiple of 16 and at most SFFN_COLUMNS_MAX: whoever has fewer
 * repeats a column with q = 0. Identical on every ISA. */
#define SFFN_COLUMNS_ROWS 256u
#define SFFN_COLUMNS_STEP 16u
#define SFFN_COLUMNS_QUADS (SFFN_COLUMNS_STEP / 4)
#define SFFN_COLUMNS_MAX (1u << 16)
typedef void sffn_columns_axpy_fn(int32_t *out, const void *codes, size_t column_bytes, const uint32_t *columns, const int8_t *q, size_t n_columns,
                                  size_t n_rows);

/* Writes first + i to rows for each i in [0, n), ascending, unless v[i] < t (keep_equal) or v[i] <= t (else): NaN is kept.
 * use_abs compares |v[i]|. Returns how many. rows has room for n entries; whole-vector stores past the count are allowed up to rows + n. */
typedef size_t sffn_threshold_fn(uint32_t *rows, const float *v, uint32_t first, size_t n, float t, int keep_equal, int use_abs);

/* In place, s[i] from g:
 *   SFFN_ACT_SILU, SFFN_ACT_GELU_TANH   g / (1 + exp(-z)), where z is g, or 2 sqrt(2 / pi) (g + 0.044715 g^3), with which this is 0.5 g (1 + tanh(z / 2))
 *                                       without its cancellation. With u = 2^-24 the error is at most ((4 |z| + 5) u e^-z / (1 + e^-z) + 2 u) |s| +
 *                                       2^-125 |g| + 2^-150 (SiLU: without 4 |z|), and s = -0 where exp(-z) overflows.
 *   SFFN_ACT_GELU_ERF                   0.5 g (1 + erf(g / sqrt(2))), within 6 u |g| + 2^-150.
 * NaN stays, -infinity becomes NaN. Bits depend on g alone, not on its place. */
typedef void sffn_activate_fn(float *s, size_t n, int32_t activation);

/* Bit k % 8 of bits[k / 8] is x[k] < 0, so 0 for -0 and NaN; (n + 7) / 8 bytes, the unused bits of the last one 0. */
typedef void sffn_pack_signs_fn(uint8_t *bits, const float *x, size_t n);

/* out[r * n_tokens + t] = in how many bits row w + r * n_bytes and token x + t * n_bytes differ. n_bytes is a multiple of 8 below 2^29. */
typedef void sffn_count_signs_fn(uint32_t *out, const uint8_t *w, size_t n_rows, const uint8_t *x, size_t n_tokens, size_t n_bytes);

/* One entry per op and weight type; fn NULL: the op is not defined for the type. name: "rows_dot_q8_0_avx512_vnni". */
#define SFFN_KERNEL_ENTRY(op) \
    struct sffn_##op##_kernel { \
        sffn_##op##_fn *fn; \
        const char *name; \
    }
SFFN_KERNEL_ENTRY(rows_dot);
SFFN_KERNEL_ENTRY(rows_axpy);
SFFN_KERNEL_ENTRY(batch_axpy);
SFFN_KERNEL_ENTRY(rows_axpy_int);
SFFN_KERNEL_ENTRY(batch_axpy_int);
SFFN_KERNEL_ENTRY(blocks_axpy);
SFFN_KERNEL_ENTRY(quantize_x);
SFFN_KERNEL_ENTRY(threshold);
SFFN_KERNEL_ENTRY(activate);
SFFN_KERNEL_ENTRY(pack_signs);
SFFN_KERNEL_ENTRY(count_signs);
SFFN_KERNEL_ENTRY(plane_dot);
SFFN_KERNEL_ENTRY(columns_axpy);

struct sffn_kernels {
    int streams; /* for sffn_x */
#define SFFN_WEIGHT_OP(op) struct sffn_##op##_kernel op[SFFN_N_WTYPES];
#include "kernels/weight_ops.inc"
#define SFFN_PLAIN_OP(op) struct sffn_##op##_kernel op;
#include "kernels/plain_ops.inc"
};

/* Fills *out with the best kernels for the capability bits `cpu` (cpu/features.h), considering only the first max_isa + 1 rows of the ISA
 * table (row 0 is scalar). Returns the index of the strongest row that was used. */
size_t sffn_kernels_select(struct sffn_kernels *out, uint64_t cpu, size_t max_isa);
/* The ISA table, weakest first: name and bits, NULL past the end. */
const char *sffn_kernels_isa_name(size_t index);
int sffn_kernels_isa_runs_on(size_t index, uint64_t cpu);
/* The table of one ISA alone, NULL entries included, for checkkernel; NULL past the end. */
const struct sffn_kernels *sffn_kernels_isa_table(size_t index);
/* Entry `index` of a filled table as "op_type_isa", skipping undefined ones; NULL past the end. */
const char *sffn_kernels_entry_name(const struct sffn_kernels *k, size_t index);

#endif /* SFFN_KERNELS_H */
