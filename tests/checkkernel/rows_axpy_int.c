/* rows_axpy_int.c  rows_axpy_int: exact integers. */
#include "harness.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_values(struct ck *ck, sffn_rows_axpy_int_fn *fn, const struct ck_rows *rows,
                         const float *h, float inv, enum ck_where where)
{
    const size_t n = rows->n;
    int32_t *acc = ck_output(ck, n, sizeof *acc, where),
            *ref = ck_output(ck, n, sizeof *ref, where);
    int32_t *start = malloc((n + 1) * sizeof *start);
    if (start == NULL)
        exit(2);
    for (size_t j = 0; j < n; j++)
        start[j] = rows->n_listed > 100 ? 0 : (int32_t)ck_below(ck, 2000001) - 1000000;
    memcpy(acc, start, n * sizeof *acc);
    memcpy(ref, start, n * sizeof *ref);
    fn(acc, rows->w, rows->row_bytes, rows->rows, h, inv, rows->n_listed, n);
    ck->scalar->rows_axpy_int[rows->wtype].fn(ref, rows->w, rows->row_bytes, rows->rows, h, inv,
                                              rows->n_listed, n);
    ck_expect(ck, ck_output_intact(acc, n, sizeof *acc, where), "wrote beside acc", n,
              rows->n_listed, 0);
    for (size_t j = 0; j < n; j++) {
        int64_t sum = start[j];
        for (size_t i = 0; i < rows->n_listed; i++) {
            const float scaled = h[i] * inv; /* two float32 products, as the contract says */
            const float v = rintf(scaled * rows->scales[i * (n / 32) + j / 32]);
            sum += (int64_t)v * (int64_t)rows->decoded[i * n + j];
        }
        ck_expect(ck, acc[j] == ref[j], "differs from scalar", n, rows->n_listed, j);
        ck_expect(ck, acc[j] == sum, "differs from 64-bit arithmetic", n, rows->n_listed, j);
    }
    free(start);
}

/* The largest inv that keeps |v| within the limit. */
static float pick_inv(const struct ck_rows *rows, const float *h)
{
    float max = 0.0f;
    for (size_t i = 0; i < rows->n_listed; i++)
        for (size_t b = 0; b < rows->n / 32; b++)
            max = fmaxf(max, fabsf(h[i] * rows->scales[i * (rows->n / 32) + b]));
    return max < 1e-30f ? 1.0f : (float)SFFN_AXPY_V_MAX / max * (1.0f - 0x1p-20f);
}

struct bench_args {
    sffn_rows_axpy_int_fn *fn;
    struct ck_bench_rows rows;
    size_t n;
    float *h;     /* 1024 */
    int32_t *acc; /* n */
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    for (size_t r = 0; r < a->rows.n_rows; r += 1024) {
        const size_t count = a->rows.n_rows - r < 1024 ? a->rows.n_rows - r : 1024;
        a->fn(a->acc, a->rows.rows != NULL ? a->rows.w : a->rows.w + r * a->rows.row_bytes,
              a->rows.row_bytes, a->rows.rows != NULL ? a->rows.rows + r : NULL, a->h, 1.0f, count,
              a->n);
        memset(a->acc, 0,
               a->n * sizeof *a->acc); /* as the library does, which moves it on to wider sums */
    }
}

static void bench_rows_axpy_int(struct ck *ck, sffn_rows_axpy_int_fn *fn, int32_t wtype)
{
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    for (int mode = CK_DENSE; mode <= CK_WARM; mode++) {
        a->fn = fn;
        a->n = 4096;
        a->h = ck_guarded(ck, 1024 * sizeof *a->h, CK_AT_START);
        a->acc = ck_guarded(ck, a->n * sizeof *a->acc, CK_AT_START);
        memset(a->acc, 0, a->n * sizeof *a->acc);
        ck_floats(ck, a->h, 1024, CK_NORMAL);
        for (size_t i = 0; i < 1024; i++)
            a->h[i] *= 1e4f;
        ck_bench_rows(ck, &a->rows, (enum ck_mode)mode, wtype, a->n);
        ck_bench(ck, (enum ck_mode)mode, "n=4096", a->rows.n_rows * a->rows.row_bytes, run_bench,
                 a);
        ck_release(ck);
    }
    free(a);
}

void check_rows_axpy_int(struct ck *ck, int32_t wtype)
{
    const int32_t dtype = ck_dtype(wtype);
    sffn_rows_axpy_int_fn *fn = ck->table->rows_axpy_int[wtype].fn;
    size_t n, n_rows;
    struct ck_rows rows;
    float *h;
    if (!ck_begin(ck, ck->table->rows_axpy_int[wtype].name))
        return;
    if (ck->bench) {
        bench_rows_axpy_int(ck, fn, wtype);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 1, &n); i++) {
        for (size_t k = 0; ck_row_count(ck, k, &n_rows); k++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const enum ck_values values = (enum ck_values)((i + k) % CK_N_VALUES);
            ck_draw_rows(ck, &rows, wtype, n, n_rows, values, where);
            h = ck_guarded(ck, n_rows * sizeof *h, where);
            ck_floats(ck, h, n_rows, values == CK_TINY ? CK_NORMAL : values);
            check_values(ck, fn, &rows, h, pick_inv(&rows, h), where);
            ck_release(ck);
        }
    }
    /* The most rows of the largest products before acc must be emptied: every v at the limit, every weight at its end of the range. */
    n_rows = dtype == SFFN_Q8_0 ? SFFN_AXPY_ROWS_MAX_Q8_0 : SFFN_AXPY_ROWS_MAX_Q4_0;
    for (int pattern = 0; pattern < 4; pattern++) {
        ck_limit_rows(ck, &rows, wtype, n_rows, pattern < 2);
        h = ck_guarded(ck, n_rows * sizeof *h, CK_AT_END);
        for (size_t r = 0; r < n_rows; r++)
            h[r] = pattern % 2 != 0 ? -(float)SFFN_AXPY_V_MAX : (float)SFFN_AXPY_V_MAX;
        check_values(ck, fn, &rows, h, 1.0f, CK_AT_END);
        ck_release(ck);
    }
    ck_end(ck);
}
