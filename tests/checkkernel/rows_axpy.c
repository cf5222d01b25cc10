/* rows_axpy.c  rows_axpy: the same bits as scalar, and scalar within its bound of exact arithmetic. */
#include "harness.h"
#include "base/fp16.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_values(struct ck *ck, sffn_rows_axpy_fn *fn, const struct ck_rows *rows,
                         const float *h, enum ck_where where)
{
    const size_t n = rows->n;
    float *y = ck_output(ck, n, sizeof *y, where), *ref = ck_output(ck, n, sizeof *ref, where);
    float *start = malloc((n + 1) * sizeof *start);
    if (start == NULL)
        exit(2);
    ck_floats(ck, start, n, CK_NORMAL);
    memcpy(y, start, n * sizeof *y);
    memcpy(ref, start, n * sizeof *ref);
    /* in two calls, the first of which may fetch what the second takes */
    const size_t n_first =
        rows->rows != NULL ? ck_below(ck, (uint32_t)rows->n_listed + 1) : rows->n_listed;
    fn(y, rows->w, rows->row_bytes, rows->rows, h, n_first, rows->n_listed - n_first, n);
    if (n_first < rows->n_listed)
        fn(y, rows->w, rows->row_bytes, rows->rows + n_first, h + n_first, rows->n_listed - n_first,
           0, n);
    ck->scalar->rows_axpy[rows->dtype].fn(ref, rows->w, rows->row_bytes, rows->rows, h,
                                          rows->n_listed, 0, n);
    ck_expect(ck, ck_output_intact(y, n, sizeof *y, where), "wrote beside y", n, rows->n_listed, 0);
    for (size_t j = 0; j < n; j++) {
        double sum = (double)start[j], magnitude = fabs(sum);
        for (size_t i = 0; i < rows->n_listed; i++) {
            const double p = (double)h[i] * (double)rows->decoded[i * n + j];
            sum += p;
            magnitude += fabs(p);
        }
        ck_expect(ck, ck_same_float(y[j], ref[j]), "differs from scalar", n, rows->n_listed, j);
        ck_expect(
            ck,
            ck_within(y[j], sum,
                      ck_gamma(rows->n_listed + 1) * magnitude + (double)rows->n_listed * 0x1p-149),
            "out of bound", n, rows->n_listed, j);
    }
    free(start);
}

struct bench_args {
    sffn_rows_axpy_fn *fn;
    struct ck_bench_rows rows;
    size_t n;
    float *h, *y; /* 1024, n */
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    for (size_t r = 0; r < a->rows.n_rows; r += 1024) {
        const size_t count = a->rows.n_rows - r < 1024 ? a->rows.n_rows - r : 1024;
        a->fn(a->y, a->rows.rows != NULL ? a->rows.w : a->rows.w + r * a->rows.row_bytes,
              a->rows.row_bytes, a->rows.rows != NULL ? a->rows.rows + r : NULL, a->h, count,
              a->rows.n_rows - r - count, a->n);
    }
}

static void bench_rows_axpy(struct ck *ck, sffn_rows_axpy_fn *fn, int32_t dtype)
{
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    for (int mode = CK_DENSE; mode <= CK_WARM; mode++) {
        a->fn = fn;
        a->n = 4096;
        a->h = ck_guarded(ck, 1024 * sizeof *a->h, CK_AT_START);
        a->y = ck_guarded(ck, a->n * sizeof *a->y, CK_AT_START);
        ck_floats(ck, a->h, 1024, CK_NORMAL);
        memset(a->y, 0, a->n * sizeof *a->y);
        ck_bench_rows(ck, &a->rows, (enum ck_mode)mode, dtype, a->n);
        ck_bench(ck, (enum ck_mode)mode, "n=4096", a->rows.n_rows * a->rows.row_bytes, run_bench,
                 a);
        ck_release(ck);
    }
    free(a);
}

void check_rows_axpy(struct ck *ck, int32_t dtype)
{
    sffn_rows_axpy_fn *fn = ck->table->rows_axpy[dtype].fn;
    size_t n, n_rows;
    if (!ck_begin(ck, ck->table->rows_axpy[dtype].name))
        return;
    if (ck->bench) {
        bench_rows_axpy(ck, fn, dtype);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 0, &n); i++) {
        for (size_t k = 0; ck_row_count(ck, k, &n_rows); k++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const enum ck_values values = (enum ck_values)((i + k) % CK_N_VALUES);
            struct ck_rows rows;
            float *h;
            ck_draw_rows(ck, &rows, dtype, n, n_rows, values, where);
            h = ck_guarded(ck, n_rows * sizeof *h, where);
            ck_floats(ck, h, n_rows, values);
            if (n > 0 && n_rows > 0 && ck_below(ck, 4) == 0) {
                static const float special[] = {INFINITY, -INFINITY, NAN};
                const float value = special[ck_below(ck, 3)];
                if (ck_below(ck, 2) == 0)
                    ck_poison(&rows, ck_below(ck, n_rows), ck_below(ck, n), value);
                else
                    h[ck_below(ck, n_rows)] = value;
            }
            check_values(ck, fn, &rows, h, where);
            ck_release(ck);
        }
    }
    ck_end(ck);
}
