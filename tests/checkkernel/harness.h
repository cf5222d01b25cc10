/* harness.h  What the checks of all ops share: options, random inputs, guarded memory, comparison, timing. */
#ifndef CHECKKERNEL_HARNESS_H
#define CHECKKERNEL_HARNESS_H
#include "kernels/kernels.h"
#include <stddef.h>
#include <stdint.h>

struct ck {
    /* options */
    const char *filter, *isa;
    uint64_t seed;
    int bench, list, json, quick;
    size_t bench_bytes;

    /* the kernel at hand */
    const struct sffn_kernels *table, *scalar;
    const char *name;
    size_t failures; /* of this kernel */

    uint64_t random;
    size_t n_kernels, n_failed, n_comparisons;
    double stream_gbps;
};

/* 0 when the kernel is absent or filtered out. Otherwise seeds the inputs, so that each kernel's are its own. */
int ck_begin(struct ck *ck, const char *name);
void ck_end(struct ck *ck);
/* Counts and prints the first few failures of a kernel. */
void ck_fail(struct ck *ck, const char *format, ...);
/* A comparison that must hold; `what` says which. */
void ck_expect(struct ck *ck, int holds, const char *what, size_t n, size_t n_rows, size_t at);

uint64_t ck_random(struct ck *ck);
size_t ck_below(struct ck *ck, size_t limit); /* 0 .. limit - 1; limit > 0 */
float ck_uniform(struct ck *ck);              /* [-1, 1) */

/* Memory between inaccessible pages. AT_END: its last byte is the page's last. AT_START: its first byte is the page's first.
 * Freed together by ck_release(). Contents are a pattern. */
enum ck_where { CK_AT_END, CK_AT_START };
void *ck_guarded(struct ck *ck, size_t bytes, enum ck_where where);
void ck_release(struct ck *ck);
/* Outputs: a guarded array of `count` elements of `size` bytes with `margin` more of pattern on the side that has no guard. */
void *ck_output(struct ck *ck, size_t count, size_t size, enum ck_where where);
/* Whether the pattern beside an output is intact. */
int ck_output_intact(const void *output, size_t count, size_t size, enum ck_where where);
/* The pattern byte, also found in fresh memory. */
#define CK_PATTERN 0xa5

/* What to put into rows and inputs. */
enum ck_values {
    CK_NORMAL,  /* around 1 */
    CK_WIDE,    /* exponents all over the range that cannot overflow a sum of products */
    CK_TINY,    /* denormals and zeros */
    CK_EXTREME, /* the largest integers of a block; for floats the same as CK_NORMAL */
    CK_N_VALUES
};
void ck_floats(struct ck *ck, float *x, size_t n, enum ck_values values);

/* Rows of a matrix, some of which are listed. The others hold NaN. */
struct ck_rows {
    int32_t wtype; /* what the kernel is for */
    int32_t dtype; /* what its rows hold */
    size_t n, n_rows, n_listed, row_bytes, size;
    /* the row's first byte: any alignment; the last row ends, or the first starts, at a guard
     * page */
    const char *w;
    const uint32_t *rows; /* n_listed entries; NULL: all */
    float *decoded;       /* [n_listed][n], values without the block's scale for quantised types */
    float *scales;        /* [n_listed][n / 32] for quantised types */
};
void ck_draw_rows(struct ck *ck, struct ck_rows *rows, int32_t wtype, size_t n, size_t n_listed,
                  enum ck_values values, enum ck_where where);
/* n_rows rows of one block (a single block is the same apart), whose scale is 1 and whose weights are all at the lower, or upper, end of their range. */
void ck_limit_rows(struct ck *ck, struct ck_rows *rows, int32_t wtype, size_t n_rows, int is_low);
/* Overwrites element j of the i-th listed row's floats, or the scale of its block, with `value`. */
void ck_poison(struct ck_rows *rows, size_t i, size_t j, float value);

/* The same bits, or both NaN. */
int ck_same_float(float a, float b);
/* |a - exact| <= bound, or both infinite of the same sign, or both NaN. */
int ck_within(float a, double exact, double bound);
/* n * u / (1 - n * u), u = 2^-24 */
double ck_gamma(size_t n);

/* Bytes of a row of n weights. */
size_t ck_row_bytes(int32_t wtype, size_t n);
/* enum sffn_dtype of an enum sffn_wtype. */
int32_t ck_dtype(int32_t wtype);
/* A row of ggml's blocks as the kernels of a type want it, which may be as it is. */
void ck_pack_row(int32_t wtype, const void *row, size_t n, void *packed);

/* Lengths to try: multiples of 32 when `blocks`. Returns 0 past the end. */
size_t ck_length(const struct ck *ck, size_t index, int blocks, size_t *n);
size_t ck_row_count(const struct ck *ck, size_t index, size_t *n_rows);

/* ---- benchmarks ---- */

/* An arena larger than any cache, in huge pages where the system gives them, filled with rows of `wtype`. */
const char *ck_arena(struct ck *ck, int32_t wtype, size_t row_elements, size_t *bytes);

enum ck_mode { CK_DENSE, CK_GATHERED, CK_WARM };
/* The rows that a mode reads: *rows is NULL for all. The rows are `row_bytes` long and lie next to each other. */
struct ck_bench_rows {
    const char *w;
    size_t row_bytes;
    uint32_t *rows;
    size_t n_rows;
};
void ck_bench_rows(struct ck *ck, struct ck_bench_rows *out, enum ck_mode mode, int32_t wtype,
                   size_t row_elements);
/* Times run(arg), which reads `bytes` bytes, and prints a row. shape names sizes, "n=4096 tokens=1". */
void ck_bench(struct ck *ck, enum ck_mode mode, const char *shape, size_t bytes,
              void (*run)(void *arg), void *arg);
/* GB/s of a plain read of the arena from one end to the other, and of gathered pieces; measured once per run. */
void ck_bench_ceilings(struct ck *ck);

/* One per op: weight ops take the type. */
#define SFFN_WEIGHT_OP(op) void check_##op(struct ck *ck, int32_t wtype);
#include "kernels/weight_ops.inc"
#define SFFN_PLAIN_OP(op) void check_##op(struct ck *ck);
#include "kernels/plain_ops.inc"

#endif /* CHECKKERNEL_HARNESS_H */
