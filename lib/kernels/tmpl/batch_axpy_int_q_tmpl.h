/* batch_axpy_int_q_tmpl.h  Body of batch_axpy_int for q8_0 and q4_0. Contract: kernels.h. Parameters: instantiate_q.h, BATCH_TOKENS (4 or 8), and
 *     vf quants_scales_<s>(p)              the scales of VF_LEN blocks
 *     row_pairs, vi pairs_add(acc, w, v)   a vector of pairs of words; acc += w * v, v a pair, both products of a lane added
 *     quants_pairs_<s>(w, even, odd, half) w[0], w[1]: the weights of two blocks, whose quants begin at even and odd, in pairs: columns
 *                                          2 * VF_LEN * half + 0 .. VF_LEN - 1 and the next VF_LEN
 *
 * Rows go in pairs as in rows_axpy_int: weights are widened and interleaved once for all tokens, whose sums over the rows of a batch stay in
 * registers, two vectors for each of BATCH_TOKENS. v comes first, VF_LEN blocks at a time, lane b for block b.
 */
#include "kernels/tmpl/batch.h"

#define BATCH_UNROLLED 8 /* pairs */
#define BATCH_PAIRS 16
_Static_assert(BATCH_UNROLLED == 8 && BATCH_PAIRS % BATCH_UNROLLED == 0, "what is written out below");

/* Up to 2 * BATCH_PAIRS rows. */
struct KERNEL(batch) {
    size_t n_pairs;
    const char *row[2 * BATCH_PAIRS];
    struct ahead ahead[2 * BATCH_PAIRS];
    float scaled[2 * BATCH_PAIRS][SFFN_TILE_TOKENS]; /* h * inv */
    size_t n_blocks, quants, quants_step;            /* of a row: to its first block's quants, from one block's to the next one's */
};

/* The scales of `count` <= VF_LEN blocks. */
KERNEL_INLINE vf KERNEL(batch_scales)(const char *scales, size_t count)
{
    uint16_t words[VF_LEN] = { 0 };
    if (count == VF_LEN)
        return KERNEL(quants_scales)(scales);
    for (size_t b = 0; b < count; b++)
        memcpy(words + b, scales + b * WT_SCALE_STEP, sizeof *words);
    return vf_from_f16(words);
}

/* v[p][t][b]: of pair p and token t for block first + b. */
KERNEL_INLINE void KERNEL(batch_v)(const int T, int32_t v[][BATCH_TOKENS][VF_LEN], const struct KERNEL(batch) *rows, size_t token, size_t first,
                                   size_t count)
{
    for (size_t p = 0; p < rows->n_pairs; p++) {
        const vf even = KERNEL(batch_scales)(rows->row[2 * p] + first * WT_SCALE_STEP, count);
        const vf odd = KERNEL(batch_scales)(rows->row[2 * p + 1] + first * WT_SCALE_STEP, count);
        for (int t = 0; t < T; t++) {
            const vi low = vi_from_vf(vf_mul(vf_set1(rows->scaled[2 * p][token + (size_t)t]), even));
            const vi high = vi_from_vf(vf_mul(vf_set1(rows->scaled[2 * p + 1][token + (size_t)t]), odd));
            vi_store(v[p][t], vi_pair16(low, high));
        }
    }
}

/* The T tokens (1, 2, 4 or 8, a constant) from `token` on, to acc; P: BATCH_UNROLLED where n_pairs is a multiple of it, or 1. */
KERNEL_INLINE void KERNEL(batch_rows)(const int P, const int T, int32_t *acc, size_t acc_stride, const struct KERNEL(batch) *rows, size_t token)
{
    _Alignas(64) int32_t v[BATCH_PAIRS][BATCH_TOKENS][VF_LEN];
    for (size_t block = 0; block < rows->n_blocks; block++, acc += 32) {
        const size_t b = block % VF_LEN, at = rows->quants + block * rows->quants_step, left = rows->n_blocks - (block - b);
        const size_t count = left < VF_LEN ? left : VF_LEN;
        if (b == 0)
            KERNEL(batch_v)(T, v, rows, token, block, count);
        /* Each block fetches a share of the rows' next STEP_BYTES. */
        for (size_t r = 2 * b * rows->n_pairs / count; token == 0 && r < 2 * (b + 1) * rows->n_pairs / count; r++)
            ahead_fetch(rows->ahead + r, (block - b) * WT_BLOCK_BYTES, STEP_BYTES);
        for (int half = 0; half < 16 / VF_LEN; half++) {
            vi a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7;
#define BATCH_ZERO(t) a##t = b##t = vi_zero();
            BATCH_EACH(BATCH_ZERO)
#undef BATCH_ZERO
            for (size_t first = 0; first < rows->n_pairs; first += (size_t)P) {
                /* P pairs without a loop: compilers would copy the sums at each turn */
                const char *const *const row = rows->row + 2 * first;
#define BATCH_ADD(t) a##t = pairs_add(a##t, w[0], vs[t][b]), b##t = pairs_add(b##t, w[1], vs[t][b]);
#define BATCH_PAIR(p)                                                              \
    {                                                                              \
        int32_t (*const vs)[VF_LEN] = v[first + (p)];                              \
        row_pairs w[2];                                                            \
        KERNEL(quants_pairs)(w, row[2 * (p)] + at, row[2 * (p) + 1] + at, half);   \
        BATCH_EACH(BATCH_ADD)                                                      \
    }
                BATCH_PAIR(0)
                if (P > 1) {
                    BATCH_PAIR(1) BATCH_PAIR(2) BATCH_PAIR(3) BATCH_PAIR(4) BATCH_PAIR(5) BATCH_PAIR(6) BATCH_PAIR(7)
                }
#undef BATCH_PAIR
#undef BATCH_ADD
            }
#define BATCH_FINISH(t)                                                  \
    {                                                                    \
        int32_t *const out = acc + t * acc_stride + 2 * VF_LEN * half;   \
        vi_accumulate(out, a##t);                                        \
        vi_accumulate(out + VF_LEN, b##t);                               \
    }
            BATCH_EACH(BATCH_FINISH)
#undef BATCH_FINISH
        }
    }
}

static void KERNEL(batch_axpy_int)(int32_t *acc, size_t acc_stride, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                   const float *inv, size_t n_rows, size_t n_tokens, size_t n)
{
    const size_t len = n / 32 * WT_BLOCK_BYTES;
    struct ahead_plan plan = ahead_plan_of(w, row_bytes, rows, n_rows, 2 * BATCH_PAIRS, len);
    if (plan.split != 0) { /* whole steps, so that none fetches past the row's end and leaves out lines of the next one */
        plan.split -= plan.split % STEP_BYTES;
        plan.distance = len - plan.split;
    }
    struct KERNEL(batch) batch;
    size_t count;
    batch.n_blocks = n / 32;
    batch.quants = WT_IS_APART ? SFFN_APART_QUANTS(n / 32) : 2;
    batch.quants_step = WT_IS_APART ? WT_BLOCK_BYTES - WT_SCALE_STEP : WT_BLOCK_BYTES;
    for (size_t first = 0; first < n_rows; first += count) {
        const size_t left = n_rows - first, whole = left / (2 * BATCH_UNROLLED) * (2 * BATCH_UNROLLED);
        /* whole multiples of BATCH_UNROLLED pairs, then the others, the last row perhaps twice, with v = 0 */
        count = whole == 0 ? (left + 1) / 2 * 2 : whole < 2 * BATCH_PAIRS ? whole : 2 * BATCH_PAIRS;
        batch.n_pairs = count / 2;
        for (size_t r = 0; r < count; r++) {
            const size_t at = r < left ? first + r : n_rows - 1;
            batch.row[r] = row_at(w, row_bytes, rows, at);
            batch.ahead[r] = ahead_of(&plan, batch.row[r], w, row_bytes, rows, at, n_rows);
            for (size_t t = 0; t < n_tokens; t++)
                batch.scaled[r][t] = r < left ? h[at * n_tokens + t] * inv[t] : 0.0f;
        }
        for (size_t t = 0, n_done; t < n_tokens; t += n_done) {
            const size_t n_left = n_tokens - t;
            int32_t *const to = acc + t * acc_stride;
#define BATCH_CASE(T)                                                           \
    do {                                                                        \
        if (whole != 0)                                                         \
            KERNEL(batch_rows)(BATCH_UNROLLED, T, to, acc_stride, &batch, t);   \
        else                                                                    \
            KERNEL(batch_rows)(1, T, to, acc_stride, &batch, t);                \
    } while (0)
            BATCH_GROUP(n_left, n_done, BATCH_CASE);
#undef BATCH_CASE
        }
    }
}

#undef BATCH_UNROLLED
#undef BATCH_PAIRS
