/* quantize_x.c  quantize_x: the same bits as scalar, and what the contract says of every block. */
#include "harness.h"
#include "base/fp16.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_block(struct ck *ck, const char *x, const int8_t *q, float d, int32_t sum,
                        size_t n, size_t b)
{
    float amax = 0.0f;
    int32_t total = 0;
    int finite = 1;
    for (size_t k = 0; k < 32; k++) {
        const float v = sffn_load_f32(x + k * sizeof v);
        finite &= isfinite(v) != 0;
        amax = fmaxf(amax, fabsf(v));
        total += q[k];
    }
    ck_expect(ck, total == sum, "sum", n, 0, b);
    if (!finite || amax < 0x1p-100f) {
        ck_expect(ck, finite ? sffn_f32_bits(d) == 0 : isnan(d), "d of a special block", n, 0, b);
        for (size_t k = 0; k < 32; k++)
            ck_expect(ck, q[k] == 0, "q of a special block", n, 0, 32 * b + k);
        return;
    }
    ck_expect(ck, d == amax / 127.0f, "d", n, 0, b);
    for (size_t k = 0; k < 32; k++) {
        /* three roundings: 127 / amax, its product with x, and d */
        const double x_d = (double)sffn_load_f32(x + k * sizeof(float)) * 127.0 / (double)amax;
        ck_expect(ck, q[k] >= -127 && fabs(q[k] - x_d) <= 0.5 + ck_gamma(3) * fabs(x_d), "q", n, 0,
                  32 * b + k);
    }
}

struct bench_args {
    sffn_quantize_x_fn *fn;
    size_t n;
    float x[16384], d[512];
    int8_t q[16384];
    int32_t sum[512];
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    a->fn(a->q, a->d, a->sum, a->x, a->n);
}

static void bench_quantize_x(struct ck *ck, sffn_quantize_x_fn *fn)
{
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    a->fn = fn;
    a->n = 4096;
    ck_floats(ck, a->x, 16384, CK_NORMAL);
    ck_bench(ck, CK_WARM, "n=4096", a->n * sizeof(float), run_bench, a);
    free(a);
}

void check_quantize_x(struct ck *ck)
{
    sffn_quantize_x_fn *fn = ck->table->quantize_x.fn;
    size_t n;
    if (!ck_begin(ck, ck->table->quantize_x.name))
        return;
    if (ck->bench) {
        bench_quantize_x(ck, fn);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 1, &n); i++) {
        for (int kind = 0; kind < 12; kind++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const size_t odd = ck_below(ck, 2); /* bytes off alignment */
            char *x = (char *)ck_guarded(ck, n * sizeof(float) + odd, where) +
                      (where == CK_AT_START ? odd : 0);
            int8_t *q[2];
            float *d[2];
            int32_t *sum[2];
            ck_floats(ck, (float *)(void *)x, n, (enum ck_values)(kind % CK_N_VALUES));
            for (size_t b = 0; b < n / 32 && kind >= 4; b++) {
                static const float special[] = {
                    INFINITY,          -INFINITY,        NAN,       0x1p-100f,
                    -0x1.fffffep-101f, 3.4028234664e38f, 0x1p-149f, -0.0f};
                for (size_t k = 0; k < 32 && kind % 3 != 0; k++)
                    sffn_store_f32(x + (32 * b + k) * sizeof(float),
                                   kind % 3 == 1
                                       ? 0.0f
                                       : ((float)ck_below(ck, 255) - 127.0f) * 0.5f); /* ties */
                if (kind < 10)
                    sffn_store_f32(x + (32 * b + ck_below(ck, 32)) * sizeof(float),
                                   special[ck_below(ck, 8)]);
            }
            for (int side = 0; side < 2; side++) {
                q[side] = ck_output(ck, n, 1, where);
                d[side] = ck_output(ck, n / 32, sizeof(float), where);
                sum[side] = ck_output(ck, n / 32, sizeof(int32_t), where);
                (side == 0 ? ck->scalar->quantize_x.fn : fn)(q[side], d[side], sum[side],
                                                             (const float *)(const void *)x, n);
            }
            ck_expect(ck,
                      ck_output_intact(q[1], n, 1, where) &&
                          ck_output_intact(d[1], n / 32, sizeof(float), where) &&
                          ck_output_intact(sum[1], n / 32, sizeof(int32_t), where),
                      "wrote beside an output", n, 0, 0);
            ck_expect(ck, memcmp(q[0], q[1], n) == 0, "q differs from scalar", n, 0, 0);
            for (size_t b = 0; b < n / 32; b++) {
                ck_expect(ck, ck_same_float(d[0][b], d[1][b]) && sum[0][b] == sum[1][b],
                          "d or sum differs from scalar", n, 0, b);
                check_block(ck, x + 32 * b * sizeof(float), q[1] + 32 * b, d[1][b], sum[1][b], n,
                            b);
            }
            ck_release(ck);
        }
    }
    ck_end(ck);
}
