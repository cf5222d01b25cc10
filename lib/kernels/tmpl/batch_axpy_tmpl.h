/* batch_axpy_tmpl.h  Body of batch_axpy for f32, f16 and bf16 rows. Contract: kernels.h.
 * Parameters: ISA, WT, WT_BYTES, wt_load, wt_load_part, VF_LEN, BATCH_TOKENS (4 or 8), vf_*.
 *
 * Two vectors of columns of up to BATCH_TOKENS tokens stay in registers over BATCH_ROWS rows, so a weight is loaded and converted once for all of
 * them, and y loaded and stored once for all rows; each y[t][j] still sees its multiply-adds in the order of the rows, as in rows_axpy.
 */
#include "kernels/tmpl/batch.h"

#define BATCH_ROWS 8

/* T tokens (1, 2, 4 or 8, a constant) of n_tokens. */
KERNEL_INLINE void KERNEL(batch_columns)(const int T, float *y, size_t y_stride, const char *const *row, const struct ahead *ahead, const float *h,
                                         size_t n_tokens, size_t n_rows, size_t n)
{
    vf a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7;
    size_t i = 0;
    for (; i + 2 * VF_LEN <= n; i += 2 * VF_LEN) {
#define BATCH_LOAD(t) a##t = vf_load(y + t * y_stride + i), b##t = vf_load(y + t * y_stride + i + VF_LEN);
        BATCH_EACH(BATCH_LOAD)
#undef BATCH_LOAD
        for (size_t r = 0; r < n_rows; r++) {
            const vf w0 = wt_load(row[r], i), w1 = wt_load(row[r], i + VF_LEN);
            if (ahead != NULL)
                ahead_fetch(ahead + r, i * WT_BYTES, 2 * VF_LEN * WT_BYTES);
#define BATCH_ADD(t)                                  \
    {                                                 \
        const vf hs = vf_set1(h[r * n_tokens + t]);   \
        a##t = vf_fma(hs, w0, a##t);                  \
        b##t = vf_fma(hs, w1, b##t);                  \
    }
            BATCH_EACH(BATCH_ADD)
#undef BATCH_ADD
        }
#define BATCH_STORE(t) vf_store(y + t * y_stride + i, a##t), vf_store(y + t * y_stride + i + VF_LEN, b##t);
        BATCH_EACH(BATCH_STORE)
#undef BATCH_STORE
    }
    while (i < n) {
        const size_t count = n - i < VF_LEN ? n - i : VF_LEN;
#define BATCH_LOAD(t) a##t = vf_load_part(y + t * y_stride + i, count);
        BATCH_EACH(BATCH_LOAD)
#undef BATCH_LOAD
        for (size_t r = 0; r < n_rows; r++) {
            const vf w0 = wt_load_part(row[r], i, count);
#define BATCH_ADD(t) a##t = vf_fma(vf_set1(h[r * n_tokens + t]), w0, a##t);
            BATCH_EACH(BATCH_ADD)
#undef BATCH_ADD
        }
#define BATCH_STORE(t) vf_store_part(y + t * y_stride + i, a##t, count);
        BATCH_EACH(BATCH_STORE)
#undef BATCH_STORE
        i += count;
    }
}

static void KERNEL(batch_axpy)(float *y, size_t y_stride, const void *w, size_t row_bytes, const uint32_t *rows, const float *h, size_t n_rows,
                               size_t n_tokens, size_t n)
{
    const struct ahead_plan plan = ahead_plan_of(w, row_bytes, rows, n_rows, BATCH_ROWS, n * WT_BYTES);
    for (size_t first = 0; first < n_rows; first += BATCH_ROWS) {
        const size_t count = n_rows - first < BATCH_ROWS ? n_rows - first : BATCH_ROWS;
        const char *row[BATCH_ROWS];
        struct ahead ahead[BATCH_ROWS];
        for (size_t r = 0; r < count; r++) {
            row[r] = row_at(w, row_bytes, rows, first + r);
            ahead[r] = ahead_of(&plan, row[r], w, row_bytes, rows, first + r, n_rows);
        }
        for (size_t t = 0, n_done; t < n_tokens; t += n_done) {
            const size_t n_left = n_tokens - t;
            const struct ahead *fetch = t == 0 ? ahead : NULL;
            float *const to = y + t * y_stride;
            const float *const by = h + first * n_tokens + t;
#define BATCH_CASE(T) KERNEL(batch_columns)(T, to, y_stride, row, fetch, by, n_tokens, count, n)
            BATCH_GROUP(n_left, n_done, BATCH_CASE);
#undef BATCH_CASE
        }
    }
}

#undef BATCH_ROWS
