/* blocks_axpy.c  blocks_axpy: the same bits as scalar, and scalar within its bound of exact arithmetic. */
#include "harness.h"
#include "base/fp16.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* h of n_blocks listed experts, quantised. */
static void draw_h(struct ck *ck, struct sffn_x *h, size_t n_blocks, enum ck_values values,
                   enum ck_where where)
{
    int8_t *q = ck_guarded(ck, 32 * n_blocks, where);
    float *d = ck_guarded(ck, n_blocks * sizeof *d, where);
    int32_t *sum = ck_guarded(ck, n_blocks * sizeof *sum, where);
    float *f = malloc((32 * n_blocks + 1) * sizeof *f);
    if (f == NULL)
        exit(2);
    memset(h, 0, sizeof *h);
    ck_floats(ck, f, 32 * n_blocks, values);
    ck->scalar->quantize_x.fn(q, d, sum, f, 32 * n_blocks);
    free(f);
    h->q = q;
    h->d = d;
    h->sum = sum;
    h->q_stride = 32 * n_blocks;
}

/* rows: listed rows of 32 * n weights, n outputs. */
static void check_values(struct ck *ck, sffn_blocks_axpy_fn *fn, const struct ck_rows *rows,
                         const struct sffn_x *h, enum ck_where where)
{
    const size_t n = rows->n / 32;
    float *y = ck_output(ck, n, sizeof *y, where), *ref = ck_output(ck, n, sizeof *ref, where);
    float *start = malloc((n + 1) * sizeof *start);
    if (start == NULL)
        exit(2);
    ck_floats(ck, start, n, CK_NORMAL);
    memcpy(y, start, n * sizeof *y);
    memcpy(ref, start, n * sizeof *ref);
    fn(y, rows->w, rows->row_bytes, rows->rows, h, rows->n_listed, n);
    ck->scalar->blocks_axpy[rows->dtype].fn(ref, rows->w, rows->row_bytes, rows->rows, h,
                                            rows->n_listed, n);
    ck_expect(ck, ck_output_intact(y, n, sizeof *y, where), "wrote beside y", n, rows->n_listed, 0);
    for (size_t j = 0; j < n; j++) {
        double total = (double)start[j], magnitude = fabs(total), tiny = 0.0;
        for (size_t e = 0; e < rows->n_listed; e++) {
            const double scale = (double)rows->scales[e * n + j] * (double)h->d[e];
            double dot = 0.0;
            for (size_t k = 0; k < 32; k++)
                dot += (double)rows->decoded[e * rows->n + 32 * j + k] * h->q[32 * e + k];
            total += dot * scale;
            magnitude += fabs(dot * scale);
            tiny += (fabs(dot) + 1.0) * 0x1p-149;
        }
        ck_expect(ck, ck_same_float(y[j], ref[j]), "differs from scalar", n, rows->n_listed, j);
        ck_expect(ck, ck_within(y[j], total, ck_gamma(rows->n_listed + 2) * magnitude + tiny),
                  "out of bound", n, rows->n_listed, j);
    }
    free(start);
}

struct bench_args {
    sffn_blocks_axpy_fn *fn;
    struct ck_bench_rows rows;
    struct sffn_x h;
    size_t n;
    float *y; /* n */
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    a->fn(a->y, a->rows.w, a->rows.row_bytes, a->rows.rows, &a->h, a->rows.n_rows, a->n);
}

static void bench_blocks_axpy(struct ck *ck, sffn_blocks_axpy_fn *fn, int32_t dtype)
{
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    for (int mode = CK_DENSE; mode <= CK_WARM; mode++) {
        a->fn = fn;
        a->n = 4096;
        a->y = ck_guarded(ck, a->n * sizeof *a->y, CK_AT_START);
        memset(a->y, 0, a->n * sizeof *a->y);
        ck_bench_rows(ck, &a->rows, (enum ck_mode)mode, dtype, 32 * a->n);
        draw_h(ck, &a->h, a->rows.n_rows, CK_NORMAL, CK_AT_START);
        ck_bench(ck, (enum ck_mode)mode, "n=4096", a->rows.n_rows * a->rows.row_bytes, run_bench,
                 a);
        ck_release(ck);
    }
    free(a);
}

void check_blocks_axpy(struct ck *ck, int32_t dtype)
{
    sffn_blocks_axpy_fn *fn = ck->table->blocks_axpy[dtype].fn;
    size_t n, n_blocks;
    if (!ck_begin(ck, ck->table->blocks_axpy[dtype].name))
        return;
    if (ck->bench) {
        bench_blocks_axpy(ck, fn, dtype);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 0, &n); i++) {
        for (size_t k = 0; ck_row_count(ck, k, &n_blocks); k++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const enum ck_values values = (enum ck_values)((i + k) % CK_N_VALUES);
            struct ck_rows rows;
            struct sffn_x h;
            if (n * n_blocks > 9000) /* seconds of double arithmetic otherwise */
                continue;
            ck_draw_rows(ck, &rows, dtype, 32 * n, n_blocks, values, where);
            draw_h(ck, &h, n_blocks, values, where);
            if (n > 0 && n_blocks > 0 && ck_below(ck, 4) == 0) {
                if (ck_below(ck, 2) == 0)
                    ck_poison(&rows, ck_below(ck, n_blocks), ck_below(ck, 32 * n),
                              ck_below(ck, 2) == 0 ? INFINITY : NAN);
                else
                    sffn_store_f32((char *)(uintptr_t)h.d + ck_below(ck, n_blocks) * sizeof(float),
                                   NAN);
            }
            check_values(ck, fn, &rows, &h, where);
            ck_release(ck);
        }
    }
    ck_end(ck);
}
