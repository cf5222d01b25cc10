/* rows_dot.c  rows_dot against exact arithmetic and against scalar; a result's bits must depend on its row and its token alone. */
#include "harness.h"
#include "base/fp16.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Inputs of n_tokens tokens, at the end or start of guarded memory, off any alignment now and then. */
static void draw_x(struct ck *ck, struct sffn_x *x, size_t n_tokens, size_t n, int quantised,
                   enum ck_values values, enum ck_where where)
{
    const size_t blocks = n / 32;
    const size_t odd = !quantised && ck_below(ck, 2) == 0 ? 1 : 0; /* bytes */
    const size_t last = n_tokens - 1;
    memset(x, 0, sizeof *x);
    x->streams = (int)ck_below(ck, 2);
    x->x_stride = n + ck_below(ck, 5);
    x->q_stride = n + 32 * ck_below(ck, 3);
    if (!quantised) {
        float *f = (float *)(void *)((char *)ck_guarded(
                                         ck, (last * x->x_stride + n) * sizeof *f + odd, where) +
                                     (where == CK_AT_START ? odd : 0));
        for (size_t t = 0; t < n_tokens; t++)
            ck_floats(ck, f + t * x->x_stride, n, values);
        x->x = f;
    } else {
        int8_t *q = ck_guarded(ck, last * x->q_stride + n, where);
        float *d = ck_guarded(ck, (last * (x->q_stride / 32) + blocks) * sizeof *d, where);
        int32_t *sum = ck_guarded(ck, (last * (x->q_stride / 32) + blocks) * sizeof *sum, where);
        float *f = malloc((n + 1) * sizeof *f);
        if (f == NULL)
            exit(2);
        for (size_t t = 0; t < n_tokens; t++) {
            const size_t at = t * (x->q_stride / 32);
            ck_floats(ck, f, n, values);
            if (values == CK_EXTREME) /* q = 127 or -127 throughout */
                for (size_t j = 0; j < n; j++)
                    f[j] = f[j / 32 * 32] < 0 ? -1.0f : 1.0f;
            ck->scalar->quantize_x.fn(q + t * x->q_stride, d + at, sum + at, f, n);
        }
        free(f);
        x->q = q;
        x->d = d;
        x->sum = sum;
    }
}

/* The dot product in double, and how far a float32 evaluation in any order may be from it (style.md 6). */
static double exact_dot(const struct ck_rows *rows, size_t i, const struct sffn_x *x, size_t token,
                        double *bound)
{
    const float *w = rows->decoded + i * rows->n;
    double sum = 0.0, magnitude = 0.0;
    if (rows->dtype < SFFN_Q8_0) {
        for (size_t j = 0; j < rows->n; j++) {
            const double p =
                (double)w[j] * (double)sffn_load_f32((const char *)x->x +
                                                     (token * x->x_stride + j) * sizeof(float));
            sum += p;
            magnitude += fabs(p);
        }
        /* each product may be rounded, and lie below the normal range where the error is absolute */
        *bound = ck_gamma(rows->n + 1) * magnitude + (double)rows->n * 0x1p-149;
        return sum;
    }
    *bound = 0.0;
    for (size_t b = 0; b < rows->n / 32; b++) {
        const double scale = (double)rows->scales[i * (rows->n / 32) + b] *
                             (double)x->d[token * (x->q_stride / 32) + b];
        double dot = 0.0;
        for (size_t k = 0; k < 32; k++)
            dot += (double)w[32 * b + k] * x->q[token * x->q_stride + 32 * b + k];
        sum += dot * scale;
        magnitude += fabs(dot * scale);
        *bound += (fabs(dot) + 1.0) * 0x1p-149;
    }
    *bound += ck_gamma(rows->n / 32 + 2) * magnitude;
    return sum;
}

static void check_values(struct ck *ck, sffn_rows_dot_fn *fn, const struct ck_rows *rows,
                         const struct sffn_x *x, const uint8_t *masks, size_t n_tokens,
                         enum ck_where where)
{
    const size_t count = rows->n_listed * n_tokens;
    float *out = ck_output(ck, count, sizeof *out, where);
    float *ref = ck_output(ck, count, sizeof *ref, where);
    uint32_t untouched;
    memset(&untouched, CK_PATTERN, sizeof untouched);
    fn(out, rows->w, rows->row_bytes, rows->rows, masks, rows->n_listed, x, n_tokens, rows->n);
    ck->scalar->rows_dot[rows->wtype].fn(ref, rows->w, rows->row_bytes, rows->rows, masks,
                                         rows->n_listed, x, n_tokens, rows->n);
    ck_expect(ck, ck_output_intact(out, count, sizeof *out, where), "wrote beside out", rows->n,
              rows->n_listed, 0);
    for (size_t i = 0; i < rows->n_listed; i++) {
        for (size_t t = 0; t < n_tokens; t++) {
            const size_t at = i * n_tokens + t;
            struct sffn_x alone = *x;
            double exact, bound;
            float single;
            if (masks != NULL && (masks[i] >> t & 1) == 0) {
                ck_expect(ck, sffn_f32_bits(out[at]) == untouched, "wrote a masked entry", rows->n,
                          rows->n_listed, at);
                continue;
            }
            exact = exact_dot(rows, i, x, t, &bound);
            if (!ck_within(out[at], exact, bound))
                ck_fail(ck,
                        "n = %zu, %zu rows, %zu tokens, row %zu, token %zu: %.9g, exactly %.12g +- "
                        "%.3g, scalar %.9g",
                        rows->n, rows->n_listed, n_tokens, i, t, out[at], exact, bound, ref[at]);
            ck_expect(ck, ck_within(out[at], (double)ref[at], 2.0 * bound), "differs from scalar",
                      rows->n, rows->n_listed, at);
            /* the same row and token without the others, fetched in the other way */
            alone.streams = !x->streams;
            if (x->x != NULL)
                alone.x = (const float *)(const void *)((const char *)x->x +
                                                        t * x->x_stride * sizeof(float));
            else {
                alone.q = x->q + t * x->q_stride;
                alone.d = x->d + t * (x->q_stride / 32);
                alone.sum = x->sum + t * (x->q_stride / 32);
            }
            fn(&single, rows->w + (rows->rows != NULL ? rows->rows[i] : i) * rows->row_bytes,
               rows->row_bytes, NULL, NULL, 1, &alone, 1, rows->n);
            ck_expect(ck, ck_same_float(single, out[at]), "depends on other rows or tokens",
                      rows->n, rows->n_listed, at);
        }
    }
}

struct bench_args {
    sffn_rows_dot_fn *fn;
    struct ck_bench_rows rows;
    struct sffn_x x;
    size_t n_tokens, n;
    float out[1024 * SFFN_TILE_TOKENS];
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    for (size_t r = 0; r < a->rows.n_rows; r += 1024) { /* as the library calls it */
        const size_t count = a->rows.n_rows - r < 1024 ? a->rows.n_rows - r : 1024;
        a->fn(a->out, a->rows.rows != NULL ? a->rows.w : a->rows.w + r * a->rows.row_bytes,
              a->rows.row_bytes, a->rows.rows != NULL ? a->rows.rows + r : NULL, NULL, count, &a->x,
              a->n_tokens, a->n);
    }
}

static void bench_rows_dot(struct ck *ck, sffn_rows_dot_fn *fn, int32_t wtype)
{
    static const struct {
        enum ck_mode mode;
        size_t n_tokens;
    } cases[] = {{CK_DENSE, 1}, {CK_GATHERED, 1}, {CK_WARM, 1},
                 {CK_DENSE, 4}, {CK_GATHERED, 4}, {CK_DENSE, 8}};
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char shape[64];
        a->fn = fn;
        a->n = 4096;
        a->n_tokens = cases[i].n_tokens;
        ck_bench_rows(ck, &a->rows, cases[i].mode, wtype, a->n);
        draw_x(ck, &a->x, a->n_tokens, a->n, wtype >= SFFN_Q8_0, CK_NORMAL, CK_AT_START);
        snprintf(shape, sizeof shape, "n=4096 tokens=%zu", a->n_tokens);
        ck_bench(ck, cases[i].mode, shape, a->rows.n_rows * a->rows.row_bytes, run_bench, a);
        ck_release(ck);
    }
    free(a);
}

/* Few, half, most or all tokens, changing every 16 rows; also bits past n_tokens, which mean
 * nothing. */
static void draw_masks(struct ck *ck, uint8_t *masks, size_t n_rows)
{
    size_t kind = 0;
    for (size_t r = 0; r < n_rows; r++) {
        if (r % 16 == 0)
            kind = ck_below(ck, 4);
        const uint64_t a = ck_random(ck), b = ck_random(ck), c = ck_random(ck);
        masks[r] = (uint8_t)(kind == 0 ? a & b : kind == 1 ? a : kind == 2 ? a | b | c : 0xff);
    }
}

void check_rows_dot(struct ck *ck, int32_t wtype)
{
    sffn_rows_dot_fn *fn = ck->table->rows_dot[wtype].fn;
    size_t n, n_rows;
    if (!ck_begin(ck, ck->table->rows_dot[wtype].name))
        return;
    if (ck->bench) {
        bench_rows_dot(ck, fn, wtype);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, wtype >= SFFN_Q8_0, &n); i++) {
        for (size_t k = 0; ck_row_count(ck, k, &n_rows); k++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const enum ck_values values = (enum ck_values)((i + k) % CK_N_VALUES);
            const size_t n_tokens = (i + 3 * k) % SFFN_TILE_TOKENS + 1;
            struct ck_rows rows;
            struct sffn_x x;
            uint8_t *masks = NULL;
            ck_draw_rows(ck, &rows, wtype, n, n_rows, values, where);
            draw_x(ck, &x, n_tokens, n, wtype >= SFFN_Q8_0, values, where);
            if (ck_below(ck, 3) != 0) {
                masks = ck_guarded(ck, n_rows, where);
                draw_masks(ck, masks, n_rows);
            }
            if (n > 0 && n_rows > 0 &&
                ck_below(ck, 4) == 0) { /* infinities and NaN, in a row or in an input */
                static const float special[] = {INFINITY, -INFINITY, NAN};
                const float value = special[ck_below(ck, 3)];
                if (ck_below(ck, 2) == 0)
                    ck_poison(&rows, ck_below(ck, n_rows), ck_below(ck, n), value);
                else if (wtype < SFFN_Q8_0)
                    sffn_store_f32((char *)(uintptr_t)x.x + ck_below(ck, n) * sizeof(float), value);
                else
                    sffn_store_f32((char *)(uintptr_t)x.d + ck_below(ck, n / 32) * sizeof(float),
                                   NAN); /* what quantize_x makes of them */
            }
            check_values(ck, fn, &rows, &x, masks, n_tokens, where);
            ck_release(ck);
        }
    }
    ck_end(ck);
}
