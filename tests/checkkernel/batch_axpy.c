/* batch_axpy.c  batch_axpy: for each token the bits of the scalar rows_axpy, which rows_axpy.c holds against exact arithmetic. */
#include "harness.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_values(struct ck *ck, sffn_batch_axpy_fn *fn, const struct ck_rows *rows,
                         const float *h, size_t n_tokens, enum ck_where where)
{
    const size_t n = rows->n, stride = n + ck_below(ck, 20), length = (n_tokens - 1) * stride + n;
    float *y = ck_output(ck, length, sizeof *y, where);
    float *ref = malloc((length + 1) * sizeof *ref),
          *own = malloc((rows->n_listed + 1) * sizeof *own);
    if (ref == NULL || own == NULL)
        exit(2);
    ck_floats(ck, ref, length, CK_NORMAL);
    memcpy(y, ref, length * sizeof *y);
    fn(y, stride, rows->w, rows->row_bytes, rows->rows, h, rows->n_listed, n_tokens, n);
    ck_expect(ck, ck_output_intact(y, length, sizeof *y, where), "wrote beside y", n,
              rows->n_listed, n_tokens);
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t i = 0; i < rows->n_listed; i++)
            own[i] = h[i * n_tokens + t];
        ck->scalar->rows_axpy[rows->dtype].fn(ref + t * stride, rows->w, rows->row_bytes,
                                              rows->rows, own, rows->n_listed, 0, n);
    }
    /* what lies between the tokens' rows included */
    for (size_t j = 0; j < length; j++)
        ck_expect(ck, ck_same_float(y[j], ref[j]), "differs from scalar rows_axpy", n,
                  rows->n_listed, j);
    free(ref);
    free(own);
}

struct bench_args {
    sffn_batch_axpy_fn *fn;
    struct ck_bench_rows rows;
    size_t n;
    float *h,
        *y; /* [1024][SFFN_TILE_TOKENS], [SFFN_TILE_TOKENS][n + 32]: as in the library, not in the same places of a cache */
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    for (size_t r = 0; r < a->rows.n_rows; r += 1024) {
        const size_t count = a->rows.n_rows - r < 1024 ? a->rows.n_rows - r : 1024;
        a->fn(a->y, a->n + 32, a->rows.rows != NULL ? a->rows.w : a->rows.w + r * a->rows.row_bytes,
              a->rows.row_bytes, a->rows.rows != NULL ? a->rows.rows + r : NULL, a->h, count,
              SFFN_TILE_TOKENS, a->n);
    }
}

static void bench_batch_axpy(struct ck *ck, sffn_batch_axpy_fn *fn, int32_t dtype)
{
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    for (int mode = CK_DENSE; mode <= CK_WARM; mode++) {
        const size_t n_h = (size_t)1024 * SFFN_TILE_TOKENS;
        a->fn = fn;
        a->n = 4096;
        a->h = ck_guarded(ck, n_h * sizeof *a->h, CK_AT_START);
        a->y = ck_guarded(ck, SFFN_TILE_TOKENS * (a->n + 32) * sizeof *a->y, CK_AT_START);
        ck_floats(ck, a->h, n_h, CK_NORMAL);
        memset(a->y, 0, SFFN_TILE_TOKENS * (a->n + 32) * sizeof *a->y);
        ck_bench_rows(ck, &a->rows, (enum ck_mode)mode, dtype, a->n);
        ck_bench(ck, (enum ck_mode)mode, "n=4096 tokens=8", a->rows.n_rows * a->rows.row_bytes,
                 run_bench, a);
        ck_release(ck);
    }
    free(a);
}

void check_batch_axpy(struct ck *ck, int32_t dtype)
{
    sffn_batch_axpy_fn *fn = ck->table->batch_axpy[dtype].fn;
    size_t n, n_rows;
    if (!ck_begin(ck, ck->table->batch_axpy[dtype].name))
        return;
    if (ck->bench) {
        bench_batch_axpy(ck, fn, dtype);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 0, &n); i++) {
        for (size_t k = 0; ck_row_count(ck, k, &n_rows); k++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const enum ck_values values = (enum ck_values)((i + k) % CK_N_VALUES);
            const size_t n_tokens = 1 + (i + 3 * k) % SFFN_TILE_TOKENS;
            struct ck_rows rows;
            ck_draw_rows(ck, &rows, dtype, n, n_rows, values, where);
            float *h = ck_guarded(ck, n_rows * n_tokens * sizeof *h, where);
            ck_floats(ck, h, n_rows * n_tokens, values);
            if (n > 0 && n_rows > 0 && ck_below(ck, 4) == 0)
                ck_poison(&rows, ck_below(ck, n_rows), ck_below(ck, n), NAN);
            check_values(ck, fn, &rows, h, n_tokens, where);
            ck_release(ck);
        }
    }
    ck_end(ck);
}
