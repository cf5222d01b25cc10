/* threshold.c  threshold: the same indices as the rule gives, ties, NaN and infinities included. */
#include "harness.h"
#include "base/fp16.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_values(struct ck *ck, sffn_threshold_fn *fn, const float *v, size_t n, float t,
                         int keep_equal, int use_abs, enum ck_where where)
{
    uint32_t *rows = ck_output(ck, n, sizeof *rows, where),
             *ref = ck_output(ck, n, sizeof *ref, where);
    const uint32_t first = (uint32_t)ck_below(ck, 1u << 30);
    const size_t count = fn(rows, v, first, n, t, keep_equal, use_abs);
    const size_t expected = ck->scalar->threshold.fn(ref, v, first, n, t, keep_equal, use_abs);
    size_t at = 0;
    ck_expect(ck, ck_output_intact(rows, n, sizeof *rows, where), "wrote beside rows", n, 0, 0);
    ck_expect(ck, count == expected && memcmp(rows, ref, count * sizeof *rows) == 0,
              "differs from scalar", n, count, expected);
    for (size_t i = 0; i < n; i++) {
        const float a = use_abs ? fabsf(v[i]) : v[i];
        const int kept = isnan(a) || isnan(t) || a > t || (keep_equal && a == t);
        if (kept) {
            ck_expect(ck, at < count && rows[at] == first + i, "index", n, count, i);
            at++;
        }
    }
    ck_expect(ck, at == count, "count", n, count, at);
}

struct bench_args {
    sffn_threshold_fn *fn;
    float v[16384];
    uint32_t rows[16384];
    size_t n;
    float t;
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    a->fn(a->rows, a->v, 0, a->n, a->t, 0, 0);
}

static void bench_threshold(struct ck *ck, sffn_threshold_fn *fn)
{
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    a->fn = fn;
    a->n = 11008;
    a->t = 0.786f; /* keeps 10.7 % */
    ck_floats(ck, a->v, 16384, CK_NORMAL);
    ck_bench(ck, CK_WARM, "n=11008", a->n * sizeof(float), run_bench, a);
    free(a);
}

void check_threshold(struct ck *ck)
{
    static const float thresholds[] = {0.0f,      0.5f,     -0.5f,     -0.0f,
                                       0x1p-140f, INFINITY, -INFINITY, NAN};
    sffn_threshold_fn *fn = ck->table->threshold.fn;
    size_t n;
    if (!ck_begin(ck, ck->table->threshold.name))
        return;
    if (ck->bench) {
        bench_threshold(ck, fn);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 0, &n); i++) {
        for (size_t k = 0; k < sizeof thresholds / sizeof *thresholds; k++) {
            for (int rule = 0; rule < 4; rule++) {
                const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
                const size_t dense = ck_below(ck, 5); /* share of values that are above */
                float *v = ck_guarded(ck, n * sizeof *v, where);
                ck_floats(ck, v, n, (enum ck_values)((i + k) % CK_N_VALUES));
                for (size_t j = 0; j < n; j++) {
                    if (ck_below(ck, 3) == 0)
                        v[j] = ck_below(ck, 2) == 0 ? thresholds[ck_below(ck, 8)] : thresholds[k];
                    else if (dense == 0 || dense == 4)
                        v[j] = dense == 0 ? -2.0f : 2.0f;
                }
                check_values(ck, fn, v, n, thresholds[k], rule & 1, rule >> 1, where);
                ck_release(ck);
            }
        }
    }
    ck_end(ck);
}
