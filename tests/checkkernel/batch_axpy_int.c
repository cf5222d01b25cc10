/* batch_axpy_int.c  batch_axpy_int: for each token exact integers, as rows_axpy_int.c checks them for one. */
#include "harness.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_values(struct ck *ck, sffn_batch_axpy_int_fn *fn, const struct ck_rows *rows,
                         const float *h, const float *inv, size_t n_tokens, enum ck_where where)
{
    const size_t n = rows->n, stride = n + ck_below(ck, 20), length = (n_tokens - 1) * stride + n;
    int32_t *acc = ck_output(ck, length, sizeof *acc, where);
    int32_t *ref = malloc((length + 1) * sizeof *ref);
    int64_t *sum = malloc((length + 1) * sizeof *sum);
    if (ref == NULL || sum == NULL)
        exit(2);
    for (size_t j = 0; j < length; j++) {
        ref[j] = rows->n_listed > 100 ? 0 : (int32_t)ck_below(ck, 2000001) - 1000000;
        sum[j] = ref[j];
    }
    memcpy(acc, ref, length * sizeof *acc);
    fn(acc, stride, rows->w, rows->row_bytes, rows->rows, h, inv, rows->n_listed, n_tokens, n);
    ck->scalar->batch_axpy_int[rows->wtype].fn(ref, stride, rows->w, rows->row_bytes, rows->rows, h,
                                               inv, rows->n_listed, n_tokens, n);
    ck_expect(ck, ck_output_intact(acc, length, sizeof *acc, where), "wrote beside acc", n,
              rows->n_listed, n_tokens);
    for (size_t i = 0; i < rows->n_listed; i++) {
        for (size_t t = 0; t < n_tokens; t++) {
            const float scaled = h[i * n_tokens + t] * inv[t];
            for (size_t j = 0; j < n; j++) {
                const float v =
                    inv[t] == 0.0f ? 0.0f : rintf(scaled * rows->scales[i * (n / 32) + j / 32]);
                sum[t * stride + j] += (int64_t)v * (int64_t)rows->decoded[i * n + j];
            }
        }
    }
    for (size_t j = 0; j < length; j++) {
        if (j % stride < n && inv[j / stride] == 0.0f)
            continue; /* anything */
        ck_expect(ck, acc[j] == ref[j], "differs from scalar", n, rows->n_listed, j);
        ck_expect(ck, acc[j] == sum[j], "differs from 64-bit arithmetic", n, rows->n_listed, j);
    }
    free(ref);
    free(sum);
}

/* The largest inv that keeps every token's |v| within the limit. */
static void pick_inv(const struct ck_rows *rows, const float *h, size_t n_tokens, float *inv)
{
    for (size_t t = 0; t < n_tokens; t++) {
        float max = 0.0f;
        for (size_t i = 0; i < rows->n_listed; i++)
            for (size_t b = 0; b < rows->n / 32; b++)
                max = fmaxf(max, fabsf(h[i * n_tokens + t] * rows->scales[i * (rows->n / 32) + b]));
        inv[t] = max < 1e-30f ? 1.0f : (float)SFFN_AXPY_V_MAX / max * (1.0f - 0x1p-20f);
    }
}

struct bench_args {
    sffn_batch_axpy_int_fn *fn;
    struct ck_bench_rows rows;
    size_t n;
    float *h; /* [1024][SFFN_TILE_TOKENS] */
    /* [SFFN_TILE_TOKENS][n + 32]: as in the library, not in the same places of a cache */
    int32_t *acc;
};

static void run_bench(void *arg)
{
    static const float inv[SFFN_TILE_TOKENS] = {1, 1, 1, 1, 1, 1, 1, 1};
    struct bench_args *a = arg;
    for (size_t r = 0; r < a->rows.n_rows; r += 1024) {
        const size_t count = a->rows.n_rows - r < 1024 ? a->rows.n_rows - r : 1024;
        a->fn(a->acc, a->n + 32,
              a->rows.rows != NULL ? a->rows.w : a->rows.w + r * a->rows.row_bytes,
              a->rows.row_bytes, a->rows.rows != NULL ? a->rows.rows + r : NULL, a->h, inv, count,
              SFFN_TILE_TOKENS, a->n);
        memset(a->acc, 0, SFFN_TILE_TOKENS * (a->n + 32) * sizeof *a->acc);
    }
}

static void bench_batch_axpy_int(struct ck *ck, sffn_batch_axpy_int_fn *fn, int32_t wtype)
{
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    for (int mode = CK_DENSE; mode <= CK_WARM; mode++) {
        const size_t n_h = (size_t)1024 * SFFN_TILE_TOKENS;
        a->fn = fn;
        a->n = 4096;
        a->h = ck_guarded(ck, n_h * sizeof *a->h, CK_AT_START);
        a->acc = ck_guarded(ck, SFFN_TILE_TOKENS * (a->n + 32) * sizeof *a->acc, CK_AT_START);
        memset(a->acc, 0, SFFN_TILE_TOKENS * (a->n + 32) * sizeof *a->acc);
        ck_floats(ck, a->h, n_h, CK_NORMAL);
        for (size_t i = 0; i < n_h; i++)
            a->h[i] *= 1e4f;
        ck_bench_rows(ck, &a->rows, (enum ck_mode)mode, wtype, a->n);
        ck_bench(ck, (enum ck_mode)mode, "n=4096 tokens=8", a->rows.n_rows * a->rows.row_bytes,
                 run_bench, a);
        ck_release(ck);
    }
    free(a);
}

void check_batch_axpy_int(struct ck *ck, int32_t wtype)
{
    const int32_t dtype = ck_dtype(wtype);
    sffn_batch_axpy_int_fn *fn = ck->table->batch_axpy_int[wtype].fn;
    float inv[SFFN_TILE_TOKENS];
    size_t n, n_rows;
    struct ck_rows rows;
    if (!ck_begin(ck, ck->table->batch_axpy_int[wtype].name))
        return;
    if (ck->bench) {
        bench_batch_axpy_int(ck, fn, wtype);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 1, &n); i++) {
        for (size_t k = 0; ck_row_count(ck, k, &n_rows); k++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const enum ck_values values = (enum ck_values)((i + k) % CK_N_VALUES);
            const size_t n_tokens = 1 + (i + 3 * k) % SFFN_TILE_TOKENS, n_h = n_rows * n_tokens;
            ck_draw_rows(ck, &rows, wtype, n, n_rows, values, where);
            float *h = ck_guarded(ck, n_h * sizeof *h, where);
            ck_floats(ck, h, n_h, values == CK_TINY ? CK_NORMAL : values);
            pick_inv(&rows, h, n_tokens, inv);
            if (n_h > 0 && ck_below(ck, 4) == 0) { /* a token whose products are not finite */
                static const float special[] = {INFINITY, -INFINITY, NAN};
                const size_t at = ck_below(ck, n_h);
                h[at] = special[ck_below(ck, 3)];
                inv[at % n_tokens] = 0.0f;
            }
            check_values(ck, fn, &rows, h, inv, n_tokens, where);
            ck_release(ck);
        }
    }
    /* The most rows of the largest products before acc must be emptied: every v at the limit, every weight at its end of the range. */
    n_rows = dtype == SFFN_Q8_0 ? SFFN_AXPY_ROWS_MAX_Q8_0 : SFFN_AXPY_ROWS_MAX_Q4_0;
    for (int low = 0; low < 2; low++) {
        const size_t n_tokens = 8;
        const float limit = SFFN_AXPY_V_MAX;
        const float h_of[8] = {limit, -limit, 1, limit, limit, -limit, 0, -limit};
        ck_limit_rows(ck, &rows, wtype, n_rows, low);
        float *h = ck_guarded(ck, n_rows * n_tokens * sizeof *h, CK_AT_END);
        for (size_t r = 0; r < n_rows; r++)
            memcpy(h + r * n_tokens, h_of, sizeof h_of);
        for (size_t t = 0; t < n_tokens; t++)
            inv[t] = 1.0f;
        check_values(ck, fn, &rows, h, inv, n_tokens, CK_AT_END);
        ck_release(ck);
    }
    ck_end(ck);
}
