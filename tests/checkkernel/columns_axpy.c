/* columns_axpy.c  columns_axpy: exact sums, from the bits that the contract names. */
#include "harness.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_COLUMNS = 4096, BENCH_ROWS = 11264, BENCH_BLOCKS = 6 };

struct bench_args {
    sffn_columns_axpy_fn *fn;
    const unsigned char *codes;
    size_t n_blocks; /* read one after the other */
    uint32_t columns[N_COLUMNS / 2];
    int8_t q[N_COLUMNS / 2];
    int32_t out[BENCH_ROWS];
};

static void run_bench(void *arg)
{
    struct bench_args *a = arg;
    for (size_t b = 0; b < a->n_blocks; b++)
        a->fn(a->out, a->codes + b * N_COLUMNS * (BENCH_ROWS / 4), BENCH_ROWS / 4, a->columns, a->q,
              N_COLUMNS / 2, BENCH_ROWS);
}

/* Half of the columns, at random. */
static void bench_columns_axpy(struct ck *ck, sffn_columns_axpy_fn *fn)
{
    const size_t block = N_COLUMNS * (BENCH_ROWS / 4);
    struct bench_args *a = calloc(1, sizeof *a);
    unsigned char *codes = malloc(BENCH_BLOCKS * block);
    if (a == NULL || codes == NULL)
        exit(2);
    memset(codes, 0x5a, BENCH_BLOCKS * block);
    a->fn = fn;
    a->codes = codes;
    for (uint32_t i = 0, j = 0; i < N_COLUMNS / 2; j++)
        if (ck_below(ck, N_COLUMNS - j) < N_COLUMNS / 2 - i) {
            a->columns[i] = j;
            a->q[i++] = (int8_t)((int)ck_below(ck, 255) - 127);
        }
    for (a->n_blocks = BENCH_BLOCKS; a->n_blocks != 0; a->n_blocks = a->n_blocks > 1 ? 1 : 0)
        ck_bench(ck, a->n_blocks > 1 ? CK_GATHERED : CK_WARM, "columns=2048 of 4096 rows=11264",
                 a->n_blocks * block / 2, run_bench, a);
    free(codes);
    free(a);
}

/* extreme: the largest sums. */
static void check_values(struct ck *ck, sffn_columns_axpy_fn *fn, size_t n_rows, size_t n_columns,
                         int extreme, enum ck_where where)
{
    const size_t n_stored = 2 * n_columns + 1, column_bytes = n_rows / 4;
    unsigned char *codes = ck_guarded(ck, n_stored * column_bytes, where);
    uint32_t *columns = ck_guarded(ck, n_columns * sizeof *columns, where);
    int8_t *q = ck_guarded(ck, n_columns, where);
    int32_t *out = ck_output(ck, n_rows, sizeof *out, where);
    for (size_t i = 0; i < n_stored * column_bytes; i++)
        codes[i] = extreme ? 0xff : (unsigned char)ck_random(ck);
    for (size_t i = 0; i < n_columns; i++) {
        columns[i] = (uint32_t)(2 * i + ck_below(ck, 3));
        q[i] = (int8_t)(extreme ? 127 : (int)ck_below(ck, 255) - 127);
    }
    for (size_t r = 0; r < n_rows; r++)
        out[r] = (int32_t)r * 1000 - 7; /* it does not add */
    fn(out, codes, column_bytes, columns, q, n_columns, n_rows);
    ck_expect(ck, ck_output_intact(out, n_rows, sizeof *out, where), "wrote beside out", n_rows,
              n_columns, 0);
    for (size_t r = 0; r < n_rows; r++) {
        const size_t in = r % 256,
                     byte = r / 256 * 64 + 16 * (in / 4 % 4) + 4 * (in / 16 % 4) + in % 4;
        int64_t exact = 0;
        for (size_t i = 0; i < n_columns; i++)
            exact += q[i] * (codes[columns[i] * column_bytes + byte] >> in / 64 * 2 & 3);
        if (out[r] != exact)
            ck_fail(ck, "%zu rows, %zu columns, row %zu: %d, exactly %lld", n_rows, n_columns, r,
                    (int)out[r], (long long)exact);
    }
}

void check_columns_axpy(struct ck *ck)
{
    sffn_columns_axpy_fn *fn = ck->table->columns_axpy.fn;
    if (!ck_begin(ck, ck->table->columns_axpy.name))
        return;
    if (ck->bench) {
        bench_columns_axpy(ck, fn);
        return;
    }
    for (size_t groups = 0; groups <= 5; groups++)
        for (size_t n_columns = 0; n_columns <= 5 * SFFN_COLUMNS_STEP;
             n_columns += SFFN_COLUMNS_STEP) {
            check_values(ck, fn, groups * SFFN_COLUMNS_ROWS, n_columns, ck_below(ck, 4) == 0,
                         ck_below(ck, 2) == 0 ? CK_AT_END : CK_AT_START);
            ck_release(ck);
        }
    check_values(ck, fn, SFFN_COLUMNS_ROWS, SFFN_COLUMNS_MAX, 1, CK_AT_END);
    ck_release(ck);
    ck_end(ck);
}
