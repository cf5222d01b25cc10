/* rows_axpy_tmpl.h  Body of rows_axpy for f32, f16 and bf16 rows. Contract: kernels.h.
 * Parameters: ISA, WT, WT_BYTES, wt_load_two or wt_load_even_odd, wt_load_part, VF_LEN, AXPY_ROWS (4 or 8), AXPY_STEP, vf_*.
 *
 * AXPY_ROWS rows at a time, so that y is loaded and stored once for them; each y[j] still sees its multiply-adds one after the other in the
 * order of the rows. Two vectors of y per step give independent chains.
 */
#define AXPY_EACH(op) op(0) if (R > 1) { op(1) } if (R > 2) { op(2) op(3) } if (R > 4) { op(4) op(5) op(6) op(7) }

/* Two vectors of y and of a row, in an order of their own: even and odd elements where these take fewer instructions than halves do (bf16). */
#ifdef wt_load_even_odd
#define AXPY_LOAD(y, a, b)            vf_load_even_odd(y, &(a), &(b))
#define AXPY_WEIGHTS(row, j, a, b)    wt_load_even_odd(row, j, &(a), &(b))
#define AXPY_STORE(y, a, b)           vf_store_even_odd(y, a, b)
#else
#define AXPY_LOAD(y, a, b)            (a) = vf_load(y), (b) = vf_load((y) + VF_LEN)
#define AXPY_WEIGHTS(row, j, a, b)    wt_load_two(row, j, &(a), &(b))
#define AXPY_STORE(y, a, b)           vf_store(y, a), vf_store((y) + VF_LEN, b)
#endif

KERNEL_INLINE void KERNEL(axpy_rows)(const int R, float *y, const char *const *row, const struct ahead *ahead, const float *h, size_t n)
{
    vf hs[8]; /* as many as AXPY_EACH names */
    size_t i = 0;
    for (int r = 0; r < R; r++)
        hs[r] = vf_set1(h[r]);
    for (; i + AXPY_STEP <= n; i += AXPY_STEP) {
        for (int r = 0; r < R; r++)
            ahead_fetch(ahead + r, i * WT_BYTES, AXPY_STEP * WT_BYTES);
        for (size_t j = i; j < i + AXPY_STEP; j += 2 * VF_LEN) {
            vf y0, y1;
            AXPY_LOAD(y + j, y0, y1);
#define AXPY_ADD(r)                       \
    {                                     \
        vf w0, w1;                        \
        AXPY_WEIGHTS(row[r], j, w0, w1);  \
        y0 = vf_fma(hs[r], w0, y0);       \
        y1 = vf_fma(hs[r], w1, y1);       \
    }
            AXPY_EACH(AXPY_ADD)
#undef AXPY_ADD
            AXPY_STORE(y + j, y0, y1);
        }
    }
    while (i < n) {
        const size_t count = n - i < VF_LEN ? n - i : VF_LEN;
        vf y0 = vf_load_part(y + i, count);
#define AXPY_ADD(r) y0 = vf_fma(hs[r], wt_load_part(row[r], i, count), y0);
        AXPY_EACH(AXPY_ADD)
#undef AXPY_ADD
        vf_store_part(y + i, y0, count);
        i += count;
    }
}

/* R rows from position r; those up to position n_listed may be fetched. */
KERNEL_INLINE void KERNEL(axpy_from)(const int R, float *y, const void *w, size_t row_bytes, const uint32_t *rows, const float *h, size_t r,
                                     size_t n_listed, size_t n, const struct ahead_plan *plan)
{
    const char *row[AXPY_ROWS];
    struct ahead ahead[AXPY_ROWS];
    for (int i = 0; i < R; i++) {
        row[i] = row_at(w, row_bytes, rows, r + (size_t)i);
        ahead[i] = ahead_of(plan, row[i], w, row_bytes, rows, r + (size_t)i, n_listed);
    }
    KERNEL(axpy_rows)(R, y, row, ahead, h + r, n);
}

static void KERNEL(rows_axpy)(float *y, const void *w, size_t row_bytes, const uint32_t *rows, const float *h, size_t n_rows,
                              size_t n_ahead, size_t n)
{
    const size_t n_listed = n_rows + n_ahead;
    const struct ahead_plan plan = ahead_plan_of(w, row_bytes, rows, n_listed, AXPY_ROWS, n * WT_BYTES);
    size_t r = 0;
    for (; r + AXPY_ROWS <= n_rows; r += AXPY_ROWS)
        KERNEL(axpy_from)(AXPY_ROWS, y, w, row_bytes, rows, h, r, n_listed, n, &plan);
    for (; AXPY_ROWS > 4 && r + 4 <= n_rows; r += 4)
        KERNEL(axpy_from)(4, y, w, row_bytes, rows, h, r, n_listed, n, &plan);
    for (; r + 2 <= n_rows; r += 2)
        KERNEL(axpy_from)(2, y, w, row_bytes, rows, h, r, n_listed, n, &plan);
    if (r < n_rows)
        KERNEL(axpy_from)(1, y, w, row_bytes, rows, h, r, n_listed, n, &plan);
}

#undef AXPY_EACH
#undef AXPY_LOAD
#undef AXPY_WEIGHTS
#undef AXPY_STORE
