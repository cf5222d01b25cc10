/* plane_dot.c  plane_dot: exact sums, from the codes that the contract names. */
#include "harness.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLACK 64 /* readable bytes behind q */

/* Code of input j in a row. */
static int code_of(const unsigned char *row, size_t n, size_t j, unsigned bits)
{
    const size_t group = 512 / bits, first = j / group * group;
    const size_t bytes = (n - first < group ? n - first : group) / 8 * bits;
    const unsigned byte = row[first / 8 * bits + (j - first) % bytes];
    return (int)(byte >> (j - first) / bytes * bits & ((1u << bits) - 1));
}

struct bench_args {
    sffn_plane_dot_fn *fn;
    struct ck_bench_rows rows;
    const int8_t *q;
    size_t n_tokens, n;
    unsigned bits;
    int32_t out[1024 * SFFN_TILE_TOKENS];
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    for (size_t r = 0; r < a->rows.n_rows; r += 1024) {
        const size_t count = a->rows.n_rows - r < 1024 ? a->rows.n_rows - r : 1024;
        a->fn(a->out, a->rows.rows != NULL ? a->rows.w : a->rows.w + r * a->rows.row_bytes,
              a->rows.row_bytes, a->rows.rows != NULL ? a->rows.rows + r : NULL, NULL, count, a->q,
              a->n, a->n_tokens, a->n, a->bits);
    }
}

static void bench_plane_dot(struct ck *ck, sffn_plane_dot_fn *fn)
{
    static const struct {
        enum ck_mode mode;
        size_t n_tokens;
        unsigned bits;
    } cases[] = {{CK_DENSE, 1, 1}, {CK_GATHERED, 1, 1}, {CK_WARM, 1, 1}, {CK_DENSE, 4, 1},
                 {CK_DENSE, 1, 2}, {CK_GATHERED, 1, 2}, {CK_WARM, 1, 2}};
    struct bench_args *a = calloc(1, sizeof *a);
    if (a == NULL)
        exit(2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char shape[64];
        a->fn = fn;
        a->n = 4096;
        a->n_tokens = cases[i].n_tokens;
        a->bits = cases[i].bits;
        a->q = ck_guarded(ck, a->n * a->n_tokens + SLACK, CK_AT_START);
        ck_bench_rows(ck, &a->rows, cases[i].mode, SFFN_F32,
                      a->n / 32 * a->bits); /* rows of n / 8 bytes for each bit */
        snprintf(shape, sizeof shape, "n=4096 tokens=%zu bits=%u", a->n_tokens, a->bits);
        ck_bench(ck, cases[i].mode, shape, a->rows.n_rows * a->rows.row_bytes, run_bench, a);
        ck_release(ck);
    }
    free(a);
}

/* extreme: 127 or -127 as every q, with the largest codes: the largest sums; 0: random ones. */
static void check_values(struct ck *ck, sffn_plane_dot_fn *fn, unsigned bits, size_t n,
                         size_t n_listed, size_t n_tokens, int extreme, enum ck_where where)
{
    const size_t n_rows = 2 * n_listed + 1, row_bytes = n / 8 * bits;
    const size_t q_stride = n + 32 * ck_below(ck, 3);
    const size_t q_bytes = (n_tokens - 1) * q_stride + n + SLACK, count = n_listed * n_tokens;
    unsigned char *w = ck_guarded(ck, n_rows * row_bytes, where);
    int8_t *q = ck_guarded(ck, q_bytes, where);
    uint32_t *rows = ck_below(ck, 3) != 0 ? ck_guarded(ck, n_listed * sizeof *rows, where) : NULL;
    uint8_t *masks = ck_below(ck, 3) != 0 ? ck_guarded(ck, n_listed, where) : NULL;
    int32_t *out = ck_output(ck, count, sizeof *out, where), untouched;
    memset(&untouched, CK_PATTERN, sizeof untouched);
    for (size_t i = 0; i < n_rows * row_bytes; i++)
        w[i] = extreme ? 0xff : (unsigned char)ck_random(ck);
    for (size_t i = 0; i < q_bytes; i++)
        q[i] = (int8_t)(extreme ? extreme : (int)ck_below(ck, 255) - 127);
    for (size_t i = 0; rows != NULL && i < n_listed; i++)
        rows[i] = (uint32_t)(2 * i + ck_below(ck, 3)); /* the first, the last, neighbours, gaps */
    for (size_t i = 0; masks != NULL && i < n_listed; i++)
        masks[i] = (uint8_t)ck_random(ck); /* also bits past n_tokens, which mean nothing */
    fn(out, w, row_bytes, rows, masks, n_listed, q, q_stride, n_tokens, n, bits);
    ck_expect(ck, ck_output_intact(out, count, sizeof *out, where), "wrote beside out", n, n_listed,
              0);
    for (size_t i = 0; i < n_listed; i++)
        for (size_t t = 0; t < n_tokens; t++) {
            const unsigned char *row = w + (rows != NULL ? rows[i] : i) * row_bytes;
            int64_t exact = 0;
            for (size_t j = 0; j < n; j++)
                exact += code_of(row, n, j, bits) * q[t * q_stride + j];
            if (masks != NULL && (masks[i] >> t & 1) == 0)
                exact = untouched;
            if (out[i * n_tokens + t] != exact)
                ck_fail(ck,
                        "%u bits, n = %zu, %zu rows, %zu tokens, row %zu, token %zu: %d, "
                        "exactly %lld",
                        bits, n, n_listed, n_tokens, i, t, (int)out[i * n_tokens + t],
                        (long long)exact);
        }
}

void check_plane_dot(struct ck *ck)
{
    sffn_plane_dot_fn *fn = ck->table->plane_dot.fn;
    size_t n, n_rows;
    if (!ck_begin(ck, ck->table->plane_dot.name))
        return;
    if (ck->bench) {
        bench_plane_dot(ck, fn);
        return;
    }
    for (unsigned bits = 1; bits <= 2; bits++) {
        for (size_t i = 0; ck_length(ck, i, 1, &n); i++)
            for (size_t k = 0; ck_row_count(ck, k, &n_rows); k++) {
                const int extreme = ck_below(ck, 4) != 0 ? 0 : ck_below(ck, 2) != 0 ? 127 : -127;
                check_values(ck, fn, bits, n, n_rows, (i + 3 * k) % SFFN_TILE_TOKENS + 1, extreme,
                             ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START);
                ck_release(ck);
            }
        for (int extreme = -127; extreme <= 127; extreme += 127) {
            check_values(ck, fn, bits, SFFN_PLANE_INPUTS_MAX, 2, 1, extreme, CK_AT_END);
            ck_release(ck);
        }
    }
    ck_end(ck);
}
