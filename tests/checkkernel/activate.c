/* activate.c  activate: within its bound of float64 on the whole range, NaN and infinities included, and the same bits wherever a value lies. */
#include "harness.h"
#include "base/fp16.h"
#include "sparseffn/ffn.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

/* The bounds of kernels.h, where they come from. SiLU, GELU (tanh): e = exp(-z) has 0.7 u from its reduction, 2.8 u from the polynomial and one for each rounding of p and 1 + p; the sum and the quotient have
 * one each. z of GELU: two constants' and three roundings, at most 4 u, which exp multiplies by |z|. The rest: where e overflows, and denormal quotients.
 * GELU (erf): 1.3 u from the formula, about as much from rounding its terms, and two from the products with g. */
static void check_value(struct ck *ck, int32_t activation, float g, float s, size_t n, size_t i)
{
    const int is_gelu = activation == SFFN_ACT_GELU_TANH;
    const double x = g, z = is_gelu ? 2.0 * sqrt(2.0 / pi) * (x + 0.044715 * x * x * x) : x;
    const double e = exp(-z), u = 0x1p-24, share = isinf(e) ? 1.0 : e / (1.0 + e);
    double exact = x / (1.0 + e),
           bound = (((is_gelu ? 4.0 * fabs(z) : 0.0) + 5.0) * u * share + 2.0 * u) * fabs(exact) +
                   0x1p-125 * fabs(x);
    if (activation == SFFN_ACT_GELU_ERF) {
        exact = 0.5 * x * erfc(-x * sqrt(0.5));
        bound = 6.0 * u * fabs(x);
    }
    if (isnan(g) || g == -INFINITY)
        ck_expect(ck, isnan(s), "NaN or -infinity", n, 0, i);
    else if (g == INFINITY)
        ck_expect(ck, s == INFINITY, "infinity", n, 0, i);
    else
        ck_expect(ck, fabs((double)s - exact) <= bound + 0x1p-150, "too far from float64", n, 0, i);
    if (g < -130.0f && isfinite(g))
        ck_expect(ck, s == 0 && signbit(s), "not -0 far below zero", n, 0, i);
}

static void check_values(struct ck *ck, sffn_activate_fn *fn, const float *g, size_t n,
                         enum ck_where where)
{
    static const int32_t activations[] = {SFFN_ACT_SILU, SFFN_ACT_GELU_TANH, SFFN_ACT_GELU_ERF};
    for (size_t a = 0; a < 3; a++) {
        float *s = ck_output(ck, n, sizeof *s, where);
        memcpy(s, g, n * sizeof *s);
        fn(s, n, activations[a]);
        ck_expect(ck, ck_output_intact(s, n, sizeof *s, where), "wrote beside the values", n, 0, 0);
        for (size_t i = 0; i < n; i++) {
            float alone = g[i];
            fn(&alone, 1, activations[a]);
            ck_expect(ck, ck_same_float(alone, s[i]), "depends on its place", n, 0, i);
            check_value(ck, activations[a], g[i], s[i], n, i);
        }
    }
}

struct bench_args {
    sffn_activate_fn *fn;
    float g[11008], s[11008];
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    memcpy(a->s, a->g, sizeof a->s);
    a->fn(a->s, 11008, SFFN_ACT_SILU);
}

static void bench_activate(struct ck *ck, sffn_activate_fn *fn)
{
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    a->fn = fn;
    ck_floats(ck, a->g, 11008, CK_NORMAL);
    ck_bench(ck, CK_WARM, "silu n=11008", sizeof a->g, run_bench, a);
    free(a);
}

void check_activate(struct ck *ck)
{
    static const float special[] = {0.0f,       -0.0f,   INFINITY, -INFINITY, NAN,    0x1p-149f,
                                    -0x1p-130f, 88.0f,   -87.0f,   -88.5f,    -89.0f, -103.5f,
                                    -104.0f,    -127.9f, -128.1f,  -200.0f,   -1e10f, 1e10f,
                                    -1e20f,     1e20f,   3e38f,    -3e38f,    -5.5f,  -10.0f};
    sffn_activate_fn *fn = ck->table->activate.fn;
    size_t n;
    if (!ck_begin(ck, ck->table->activate.name))
        return;
    if (ck->bench) {
        bench_activate(ck, fn);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 0, &n); i++) {
        for (int kind = 0; kind < CK_N_VALUES + 2; kind++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            float *g = ck_guarded(ck, n * sizeof *g, where);
            ck_floats(ck, g, n, (enum ck_values)(kind % CK_N_VALUES));
            for (size_t j = 0; j < n; j++) {
                if (kind == CK_N_VALUES) /* where exp neither vanishes nor overflows */
                    g[j] = 100.0f * ck_uniform(ck);
                else if (ck_below(ck, 8) == 0)
                    g[j] = special[ck_below(ck, sizeof special / sizeof *special)];
            }
            check_values(ck, fn, g, n, where);
            ck_release(ck);
        }
    }
    ck_end(ck);
}
