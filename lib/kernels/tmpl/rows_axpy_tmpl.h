/* rows_axpy_tmpl.h  Body of rows_axpy for f32, f16 and bf16 rows. Contract: kernels.h.
 * Parameters: ISA, WT, WT_BYTES, wt_load, wt_load_part, VF_LEN, vf_*.
 *
 * Four rows at a time, so that y is loaded and stored once for four; each y[j] still sees its multiply-adds one after the other in the
 * order of the rows. Two vectors of y per step give independent chains.
 */
KERNEL_INLINE void KERNEL(axpy_rows)(int R, float *y, const char *row0, const char *row1, const char *row2, const char *row3,
                                     const struct ahead *ahead0, const struct ahead *ahead1, const struct ahead *ahead2,
                                     const struct ahead *ahead3, const float *h, size_t n)
{
    const vf h0 = vf_set1(h[0]);
    const vf h1 = vf_set1(R > 1 ? h[1] : 0.0f);
    const vf h2 = vf_set1(R > 1 ? h[2] : 0.0f);
    const vf h3 = vf_set1(R > 1 ? h[3] : 0.0f);
    size_t i = 0;
    for (; i + AXPY_STEP <= n; i += AXPY_STEP) {
        ahead_fetch(ahead0, i * WT_BYTES, AXPY_STEP * WT_BYTES);
        if (R > 1) {
            ahead_fetch(ahead1, i * WT_BYTES, AXPY_STEP * WT_BYTES);
            ahead_fetch(ahead2, i * WT_BYTES, AXPY_STEP * WT_BYTES);
            ahead_fetch(ahead3, i * WT_BYTES, AXPY_STEP * WT_BYTES);
        }
        for (size_t j = i; j < i + AXPY_STEP; j += 2 * VF_LEN) {
            vf y0 = vf_load(y + j), y1 = vf_load(y + j + VF_LEN);
            y0 = vf_fma(h0, wt_load(row0, j), y0);
            y1 = vf_fma(h0, wt_load(row0, j + VF_LEN), y1);
            if (R > 1) {
                y0 = vf_fma(h1, wt_load(row1, j), y0);
                y1 = vf_fma(h1, wt_load(row1, j + VF_LEN), y1);
                y0 = vf_fma(h2, wt_load(row2, j), y0);
                y1 = vf_fma(h2, wt_load(row2, j + VF_LEN), y1);
                y0 = vf_fma(h3, wt_load(row3, j), y0);
                y1 = vf_fma(h3, wt_load(row3, j + VF_LEN), y1);
            }
            vf_store(y + j, y0);
            vf_store(y + j + VF_LEN, y1);
        }
    }
    while (i < n) {
        const size_t count = n - i < VF_LEN ? n - i : VF_LEN;
        vf y0 = vf_load_part(y + i, count);
        y0 = vf_fma(h0, wt_load_part(row0, i, count), y0);
        if (R > 1) {
            y0 = vf_fma(h1, wt_load_part(row1, i, count), y0);
            y0 = vf_fma(h2, wt_load_part(row2, i, count), y0);
            y0 = vf_fma(h3, wt_load_part(row3, i, count), y0);
        }
        vf_store_part(y + i, y0, count);
        i += count;
    }
}

static void KERNEL(rows_axpy)(float *y, const void *w, size_t row_bytes, const uint32_t *rows, const float *h, size_t n_rows,
                              size_t n)
{
    const struct ahead_plan four = ahead_plan_of(w, row_bytes, rows, n_rows, 4, n * WT_BYTES);
    size_t r = 0;
    for (; r + 4 <= n_rows; r += 4) {
        const char *row0 = row_at(w, row_bytes, rows, r), *row1 = row_at(w, row_bytes, rows, r + 1);
        const char *row2 = row_at(w, row_bytes, rows, r + 2), *row3 = row_at(w, row_bytes, rows, r + 3);
        const struct ahead ahead0 = ahead_of(&four, row0, w, row_bytes, rows, r, n_rows);
        const struct ahead ahead1 = ahead_of(&four, row1, w, row_bytes, rows, r + 1, n_rows);
        const struct ahead ahead2 = ahead_of(&four, row2, w, row_bytes, rows, r + 2, n_rows);
        const struct ahead ahead3 = ahead_of(&four, row3, w, row_bytes, rows, r + 3, n_rows);
        KERNEL(axpy_rows)(4, y, row0, row1, row2, row3, &ahead0, &ahead1, &ahead2, &ahead3, h + r, n);
    }
    for (; r < n_rows; r++) {
        const char *row = row_at(w, row_bytes, rows, r);
        const struct ahead ahead = ahead_of(&four, row, w, row_bytes, rows, r, n_rows);
        KERNEL(axpy_rows)(1, y, row, NULL, NULL, NULL, &ahead, NULL, NULL, NULL, h + r, n);
    }
}
