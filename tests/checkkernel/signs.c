/* signs.c  pack_signs and count_signs: the same bits and counts as a loop over single elements. */
#include "harness.h"
#include "base/fp16.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float special[] = {0.0f,      -0.0f,      NAN,       -NAN,      INFINITY,
                                -INFINITY, -0x1p-149f, 0x1p-149f, -0x1p-126f};

struct bench_pack {
    sffn_pack_signs_fn *fn;
    float x[4096];
    uint8_t bits[512];
};

static void run_bench_pack(void *arg)
{
    struct bench_pack *a = arg;
    a->fn(a->bits, a->x, 4096);
}

void check_pack_signs(struct ck *ck)
{
    sffn_pack_signs_fn *fn = ck->table->pack_signs.fn;
    size_t n;
    if (!ck_begin(ck, ck->table->pack_signs.name))
        return;
    if (ck->bench) {
        struct bench_pack *a = calloc(1, sizeof *a);
        if (a == NULL)
            exit(2);
        a->fn = fn;
        ck_floats(ck, a->x, 4096, CK_NORMAL);
        ck_bench(ck, CK_WARM, "n=4096", sizeof a->x, run_bench_pack, a);
        free(a);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 0, &n); i++)
        for (int kind = 0; kind < 8; kind++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const size_t odd = ck_below(ck, 4), n_bytes = (n + 7) / 8; /* bytes off alignment */
            char *x = (char *)ck_guarded(ck, n * sizeof(float) + odd, where) +
                      (where == CK_AT_START ? odd : 0);
            uint8_t *bits = ck_output(ck, n_bytes, 1, where),
                    *ref = ck_output(ck, n_bytes, 1, where);
            ck_floats(ck, (float *)(void *)x, n, (enum ck_values)(kind % CK_N_VALUES));
            for (size_t j = 0; j < n && kind >= 4; j++)
                if (ck_below(ck, 3) == 0)
                    sffn_store_f32(x + j * sizeof(float),
                                   special[ck_below(ck, sizeof special / sizeof *special)]);
            fn(bits, (const float *)(const void *)x, n);
            ck->scalar->pack_signs.fn(ref, (const float *)(const void *)x, n);
            ck_expect(ck, ck_output_intact(bits, n_bytes, 1, where), "wrote beside bits", n, 0, 0);
            ck_expect(ck, memcmp(bits, ref, n_bytes) == 0, "differs from scalar", n, 0, 0);
            for (size_t j = 0; j < 8 * n_bytes; j++)
                ck_expect(ck,
                          (bits[j / 8] >> j % 8 & 1) ==
                              (j < n && sffn_load_f32(x + j * sizeof(float)) < 0.0f),
                          "bit", n, 0, j);
            ck_release(ck);
        }
    ck_end(ck);
}

struct bench_count {
    sffn_count_signs_fn *fn;
    const uint8_t *w;
    uint8_t x[512];
    uint32_t *out;
    size_t n_rows;
};

static void run_bench_count(void *arg)
{
    struct bench_count *a = arg;
    a->fn(a->out, a->w, a->n_rows, a->x, 1, sizeof a->x);
}

static void bench_count_signs(struct ck *ck, sffn_count_signs_fn *fn)
{
    struct bench_count *a = calloc(1, sizeof *a);
    size_t bytes;
    if (a == NULL)
        exit(2);
    a->fn = fn;
    a->w = (const uint8_t *)ck_arena(ck, SFFN_F32, 4096, &bytes);
    a->n_rows = bytes / sizeof a->x;
    a->out = calloc(a->n_rows, sizeof *a->out);
    if (a->out == NULL)
        exit(2);
    for (size_t i = 0; i < sizeof a->x; i++)
        a->x[i] = (uint8_t)ck_below(ck, 256);
    ck_bench(ck, CK_DENSE, "n=4096 tokens=1", a->n_rows * sizeof a->x, run_bench_count, a);
    free(a->out);
    free(a);
}

void check_count_signs(struct ck *ck)
{
    sffn_count_signs_fn *fn = ck->table->count_signs.fn;
    size_t n, n_rows;
    if (!ck_begin(ck, ck->table->count_signs.name))
        return;
    if (ck->bench) {
        bench_count_signs(ck, fn);
        return;
    }
    for (size_t i = 0; ck_length(ck, i, 0, &n); i++)
        for (size_t k = 0; ck_row_count(ck, k, &n_rows); k++) {
            const enum ck_where where = ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START;
            const size_t n_bytes = (n + 63) / 64 * 8, n_tokens = 1 + ck_below(ck, 8);
            uint8_t *w = ck_guarded(ck, n_rows * n_bytes, where),
                    *x = ck_guarded(ck, n_tokens * n_bytes, where);
            uint32_t *out = ck_output(ck, n_rows * n_tokens, sizeof *out, where),
                     *ref = ck_output(ck, n_rows * n_tokens, sizeof *ref, where);
            const size_t kind = ck_below(ck, 4); /* 0: all bits differ, 1: none */
            for (size_t j = 0; j < n_rows * n_bytes; j++)
                w[j] = (uint8_t)(kind < 2 ? 0xff : ck_below(ck, 256));
            for (size_t j = 0; j < n_tokens * n_bytes; j++)
                x[j] = (uint8_t)(kind < 2 ? 0xff * kind : ck_below(ck, 256));
            fn(out, w, n_rows, x, n_tokens, n_bytes);
            ck->scalar->count_signs.fn(ref, w, n_rows, x, n_tokens, n_bytes);
            ck_expect(ck, ck_output_intact(out, n_rows * n_tokens, sizeof *out, where),
                      "wrote beside out", n, n_rows, 0);
            ck_expect(ck, memcmp(out, ref, n_rows * n_tokens * sizeof *out) == 0,
                      "differs from scalar", n, n_rows, 0);
            for (size_t r = 0; r < n_rows; r++)
                for (size_t t = 0; t < n_tokens; t++) {
                    uint32_t count = 0;
                    for (size_t j = 0; j < n_bytes * 8; j++)
                        count += (w[r * n_bytes + j / 8] ^ x[t * n_bytes + j / 8]) >> j % 8 & 1;
                    ck_expect(ck, out[r * n_tokens + t] == count, "count", n, n_rows, r);
                }
            ck_release(ck);
        }
    ck_end(ck);
}
