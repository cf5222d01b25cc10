/* harness.c  See harness.h. */
#include "harness.h"
#include "base/fp16.h"
#include "matmul/apart.h"
#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- bookkeeping ---- */

int ck_begin(struct ck *ck, const char *name)
{
    if (name == NULL || (ck->filter != NULL && fnmatch(ck->filter, name, 0) != 0))
        return 0;
    ck->name = name;
    ck->failures = 0;
    ck->random = ck->seed;
    for (const char *c = name; *c != '\0';
         c++) /* not the address of the ISA's suffix: inputs differ by kernel */
        ck->random = (ck->random ^ (unsigned char)*c) * 0x100000001b3u;
    ck->n_kernels++;
    if (ck->list) {
        printf("%s\n", name);
        return 0;
    }
    return 1;
}

void ck_end(struct ck *ck)
{
    ck_release(ck);
    if (ck->failures > 0) {
        ck->n_failed++;
        fprintf(stderr, "FAIL %s: %zu comparisons\n", ck->name, ck->failures);
    } else if (!ck->json && !ck->bench) {
        printf("ok   %s\n", ck->name);
    }
    fflush(stdout);
}

void ck_fail(struct ck *ck, const char *format, ...)
{
    va_list args;
    if (ck->failures++ >= 5)
        return;
    fprintf(stderr, "%s: ", ck->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void ck_expect(struct ck *ck, int holds, const char *what, size_t n, size_t n_rows, size_t at)
{
    ck->n_comparisons++;
    if (!holds)
        ck_fail(ck, "%s (n = %zu, n_rows = %zu, at %zu)", what, n, n_rows, at);
}

/* ---- random numbers: splitmix64 ---- */

uint64_t ck_random(struct ck *ck)
{
    uint64_t z = ck->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

size_t ck_below(struct ck *ck, size_t limit)
{
    return (size_t)(ck_random(ck) % limit);
}

float ck_uniform(struct ck *ck)
{
    return (float)(int32_t)(ck_random(ck) >> 40) * 0x1p-23f - 1.0f;
}

void ck_floats(struct ck *ck, float *x, size_t n, enum ck_values values)
{
    for (size_t i = 0; i < n; i++) {
        float v = ck_uniform(ck);
        switch (values) {
        case CK_WIDE:
            v = ldexpf(v, (int)ck_below(ck, 60) - 30);
            break;
        case CK_TINY:
            v = ck_below(ck, 4) == 0 ? 0.0f : ldexpf(v, -130 - (int)ck_below(ck, 19));
            break;
        default:
            break;
        }
        sffn_store_f32((char *)x + i * sizeof *x, v);
    }
}

/* ---- guarded memory ---- */

static struct {
    void *map;
    size_t bytes;
} maps[256];
static size_t n_maps;

void *ck_guarded(struct ck *ck, size_t bytes, enum ck_where where)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t body = (bytes + page - 1) / page * page + (bytes == 0 ? page : 0);
    char *map;
    (void)ck;
    if (n_maps == sizeof maps / sizeof *maps) {
        fputs("checkkernel: too many arrays in one check\n", stderr);
        exit(2);
    }
    map = mmap(NULL, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* QEMU 7.2 reads all of a masked load, where a CPU reads the unmasked elements only: emulated, the page behind can be read. */
    if (map == MAP_FAILED || mprotect(map + page, body, PROT_READ | PROT_WRITE) != 0 ||
        (getenv("SFFN_TEST_EMULATED") != NULL &&
         mprotect(map + page + body, page, PROT_READ) != 0)) {
        perror("checkkernel: mmap");
        exit(2);
    }
    maps[n_maps].map = map;
    maps[n_maps++].bytes = body + 2 * page;
    memset(map + page, CK_PATTERN, body);
    return where == CK_AT_END ? map + page + body - bytes : map + page;
}

void ck_release(struct ck *ck)
{
    (void)ck;
    while (n_maps > 0) {
        n_maps--;
        munmap(maps[n_maps].map, maps[n_maps].bytes);
    }
}

enum { MARGIN = 192 };

void *ck_output(struct ck *ck, size_t count, size_t size, enum ck_where where)
{
    char *p = ck_guarded(ck, count * size + MARGIN, where);
    return where == CK_AT_END ? p + MARGIN : p;
}

int ck_output_intact(const void *output, size_t count, size_t size, enum ck_where where)
{
    const unsigned char *p = (const unsigned char *)output;
    p = where == CK_AT_END ? p - MARGIN : p + count * size;
    for (size_t i = 0; i < MARGIN; i++)
        if (p[i] != CK_PATTERN)
            return 0;
    return 1;
}

/* ---- types ---- */

int32_t ck_dtype(int32_t wtype)
{
    return wtype == SFFN_W_Q4_0_APART ? SFFN_Q4_0 : wtype;
}

size_t ck_row_bytes(int32_t wtype, size_t n)
{
    return wtype == SFFN_W_Q4_0_APART ? SFFN_APART_ROW_BYTES(n / 32)
                                      : sffn_dtype_row_bytes(wtype, n);
}

void ck_pack_row(int32_t wtype, const void *row, size_t n, void *packed)
{
    if (wtype == SFFN_W_Q4_0_APART)
        sffn_apart_from_blocks(row, n / 32, packed);
    else
        memmove(packed, row, sffn_dtype_row_bytes(wtype, n));
}

/* ---- rows ---- */

static void draw_row(struct ck *ck, const struct ck_rows *rows, char *packed, enum ck_values values)
{
    char *row = malloc(rows->size + 1);
    const int quantised = sffn_dtype_block_size(rows->dtype) != 1;
    float *x = malloc((rows->n + 1) * sizeof *x);
    if (x == NULL || row == NULL)
        exit(2);
    ck_floats(ck, x, rows->n, values);
    if (values == CK_WIDE && rows->dtype != SFFN_F32 && rows->dtype != SFFN_BF16)
        for (size_t j = 0; j < rows->n; j++)
            x[j] =
                fminf(fmaxf(x[j], -6e4f), 6e4f); /* the range of f16, also of the blocks' scales */
    sffn_dtype_from_f32(rows->dtype, x, rows->n, row);
    if (rows->dtype == SFFN_F16 && values == CK_TINY) {
        for (size_t j = 0; j < rows->n; j++) { /* f16's own denormals */
            const uint16_t h = (uint16_t)(ck_random(ck) & 0x83ffu);
            memcpy(row + 2 * j, &h, sizeof h);
        }
    }
    if (quantised &&
        (values == CK_EXTREME ||
         values == CK_TINY)) { /* all byte values, which the quantiser never gives: -128 in q8_0 */
        const size_t block_bytes = rows->dtype == SFFN_Q8_0 ? 34 : 18;
        const unsigned pick = (unsigned)ck_below(ck, 3);
        const unsigned char lowest = rows->dtype == SFFN_Q8_0 ? 0x80 : 0x00,
                            highest = rows->dtype == SFFN_Q8_0 ? 0x7f : 0xff;
        for (size_t b = 0; b < rows->n / 32; b++) {
            unsigned char *block = (unsigned char *)row + b * block_bytes;
            const uint16_t d = values == CK_TINY ? (uint16_t)(ck_random(ck) & 0x83ffu)
                                                 : sffn_f32_to_f16(ck_uniform(ck) + 1.5f);
            memcpy(block, &d, sizeof d);
            for (size_t k = 2; k < block_bytes; k++)
                block[k] = pick == 0 ? (unsigned char)ck_random(ck) : pick == 1 ? lowest : highest;
        }
    }
    ck_pack_row(rows->wtype, row, rows->n, packed);
    free(row);
    free(x);
}

static void decode_row(const struct ck_rows *rows, const char *row, float *decoded, float *scales)
{
    if (sffn_dtype_block_size(rows->dtype) == 1) {
        sffn_dtype_to_f32(rows->dtype, row, rows->n, decoded);
        return;
    }
    char *blocks = malloc(rows->size + 1);
    if (blocks == NULL)
        exit(2);
    if (rows->wtype == SFFN_W_Q4_0_APART)
        sffn_apart_to_blocks(row, rows->n / 32, 0, rows->n / 32, blocks);
    else
        memcpy(blocks, row, rows->size);
    for (size_t b = 0; b < rows->n / 32; b++) {
        const unsigned char *block =
            (const unsigned char *)blocks + b * (rows->dtype == SFFN_Q8_0 ? 34 : 18);
        scales[b] = sffn_load_f16(block);
        for (size_t k = 0; k < 32; k++) {
            if (rows->dtype == SFFN_Q8_0)
                decoded[32 * b + k] =
                    (float)(block[2 + k] < 128 ? block[2 + k] : block[2 + k] - 256);
            else
                decoded[32 * b + k] =
                    (float)((k < 16 ? block[2 + k] % 16 : block[2 + k - 16] / 16) - 8);
        }
    }
    free(blocks);
}

/* NaN in every element, or in every block's scale. */
static void fill_nan(const struct ck_rows *rows, char *row)
{
    memset(row, 0xff, rows->size); /* a NaN in f32, f16 and bf16 */
}

void ck_draw_rows(struct ck *ck, struct ck_rows *rows, int32_t wtype, size_t n, size_t n_listed,
                  enum ck_values values, enum ck_where where)
{
    const int32_t dtype = ck_dtype(wtype);
    const int all = ck_below(ck, 3) == 0;
    const size_t padding = ck_below(ck, 2) == 0 ? 0 : 1 + ck_below(ck, 70);
    uint32_t *list = NULL;
    char *w;
    rows->wtype = wtype;
    rows->dtype = dtype;
    rows->n = n;
    rows->n_listed = n_listed;
    rows->n_rows =
        all ? n_listed
            : n_listed + 1 + ck_below(ck, 4 * n_listed + 3); /* listed densely, or scattered */
    rows->size = ck_row_bytes(wtype, n);
    rows->row_bytes = rows->size + padding;
    w = ck_guarded(ck, rows->n_rows == 0 ? 0 : (rows->n_rows - 1) * rows->row_bytes + rows->size,
                   where);
    rows->w = w;
    rows->decoded = ck_guarded(ck, n_listed * n * sizeof(float), CK_AT_START);
    rows->scales = ck_guarded(ck, n_listed * (n / 32) * sizeof(float), CK_AT_START);
    for (size_t r = 0; r < rows->n_rows; r++)
        fill_nan(rows, w + r * rows->row_bytes);
    if (!all) {
        /* Ascending, as in practice, and now and then in any order. */
        const int shuffled = ck_below(ck, 4) == 0;
        size_t left = n_listed;
        list = ck_guarded(ck, n_listed * sizeof *list, where);
        for (size_t r = 0, at = 0; r < rows->n_rows && left > 0; r++) {
            const size_t rest = rows->n_rows - r;
            if (ck_below(ck, rest) < left) {
                list[at++] = (uint32_t)r;
                left--;
            }
        }
        for (size_t i = n_listed; shuffled && i > 1; i--) {
            const size_t j = ck_below(ck, i);
            const uint32_t swap = list[i - 1];
            list[i - 1] = list[j];
            list[j] = swap;
        }
    }
    rows->rows = list;
    for (size_t i = 0; i < n_listed; i++) {
        char *row = w + (list != NULL ? list[i] : i) * rows->row_bytes;
        draw_row(ck, rows, row, values);
        decode_row(rows, row, rows->decoded + i * n, rows->scales + i * (n / 32));
    }
}

void ck_limit_rows(struct ck *ck, struct ck_rows *rows, int32_t wtype, size_t n_rows, int is_low)
{
    const int32_t dtype = ck_dtype(wtype);
    const int is_q8_0 = dtype == SFFN_Q8_0;
    const size_t row_bytes = sffn_dtype_row_bytes(dtype, 32);
    const uint16_t one = sffn_f32_to_f16(1.0f);
    const float weight = is_q8_0 ? (is_low ? -128.0f : 127.0f) : (is_low ? -8.0f : 7.0f);
    unsigned char *w = ck_guarded(ck, n_rows * row_bytes, CK_AT_END);
    memset(rows, 0, sizeof *rows);
    rows->wtype = wtype;
    rows->dtype = dtype;
    rows->n = 32;
    rows->n_rows = rows->n_listed = n_rows;
    rows->row_bytes = rows->size = row_bytes;
    rows->w = (const char *)w;
    rows->decoded = ck_guarded(ck, n_rows * 32 * sizeof(float), CK_AT_START);
    rows->scales = ck_guarded(ck, n_rows * sizeof(float), CK_AT_START);
    for (size_t r = 0; r < n_rows; r++) {
        memcpy(w + r * row_bytes, &one, sizeof one);
        memset(w + r * row_bytes + 2, is_q8_0 ? (is_low ? 0x80 : 0x7f) : (is_low ? 0x00 : 0xff),
               row_bytes - 2);
        rows->scales[r] = 1.0f;
        for (size_t j = 0; j < 32; j++)
            rows->decoded[32 * r + j] = weight;
    }
}

void ck_poison(struct ck_rows *rows, size_t i, size_t j, float value)
{
    char *row =
        (char *)(uintptr_t)rows->w + (rows->rows != NULL ? rows->rows[i] : i) * rows->row_bytes;
    const uint16_t half = sffn_f32_to_f16(value), brain = sffn_f32_to_bf16(value);
    switch (rows->wtype) {
    case SFFN_F32:
        memcpy(row + 4 * j, &value, 4);
        break;
    case SFFN_F16:
        memcpy(row + 2 * j, &half, 2);
        break;
    case SFFN_BF16:
        memcpy(row + 2 * j, &brain, 2);
        break;
    case SFFN_Q8_0:
        memcpy(row + j / 32 * 34, &half, 2);
        break;
    case SFFN_W_Q4_0_APART:
        memcpy(row + j / 32 * 2, &half, 2);
        break;
    default:
        memcpy(row + j / 32 * 18, &half, 2);
        break;
    }
    decode_row(rows, row, rows->decoded + i * rows->n, rows->scales + i * (rows->n / 32));
}

/* ---- comparison ---- */

int ck_same_float(float a, float b)
{
    return sffn_f32_bits(a) == sffn_f32_bits(b) || (isnan(a) && isnan(b));
}

int ck_within(float a, double exact, double bound)
{
    if (isnan(exact))
        return isnan(a);
    if (isinf(exact))
        return isinf(a) && (a > 0) == (exact > 0);
    return fabs((double)a - exact) <= bound;
}

double ck_gamma(size_t n)
{
    const double nu = (double)n * 0x1p-24;
    return nu / (1.0 - nu);
}

size_t ck_length(const struct ck *ck, size_t index, int blocks, size_t *n)
{
    static const size_t elements[] = {1,   17,  64,  131, 1000, 0,   2,   3,   7,  8,
                                      9,   15,  16,  31,  32,   33,  63,  65,  95, 96,
                                      127, 128, 129, 255, 257,  384, 511, 4099};
    static const size_t n_blocks[] = {1,  5,  16, 23,  33,  0,   2,    3,   4,  6,
                                      7,  8,  9,  12,  15,  17,  18,   20,  24, 28,
                                      31, 32, 40, 128, 129, 515, 1036, 1037};
    const size_t count = ck->quick ? 5
                         : blocks  ? sizeof n_blocks / sizeof *n_blocks
                                   : sizeof elements / sizeof *elements;
    if (index >= count)
        return 0;
    *n = blocks ? 32 * n_blocks[index] : elements[index];
    return 1;
}

size_t ck_row_count(const struct ck *ck, size_t index, size_t *n_rows)
{
    static const size_t counts[] = {1, 9, 0, 2, 3, 4, 5, 7, 8, 16, 27, 41, 59, 75};
    if (index >= (ck->quick ? 3 : sizeof counts / sizeof *counts))
        return 0;
    *n_rows = counts[index];
    return 1;
}

/* ---- benchmarks ---- */

/* The thread's own time: kernels run on one thread and never wait, and a neighbour that takes the CPU away must not count. */
static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static char *arena;
static int32_t arena_wtype = -1;
static size_t arena_elements;

const char *ck_arena(struct ck *ck, int32_t wtype, size_t row_elements, size_t *bytes)
{
    const int32_t dtype = ck_dtype(wtype);
    const size_t row_bytes = ck_row_bytes(wtype, row_elements);
    *bytes = ck->bench_bytes;
    if (arena == NULL) {
        const size_t huge = (size_t)2 << 20;
        char *map = mmap(NULL, ck->bench_bytes + huge, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) {
            perror("checkkernel: mmap of the benchmark's rows");
            exit(2);
        }
        arena = map + (huge - (uintptr_t)map % huge);
#if defined(MADV_HUGEPAGE)
        madvise(arena, ck->bench_bytes, MADV_HUGEPAGE);
#endif
    }
    if (arena_wtype != wtype || arena_elements != row_elements) {
        size_t filled = 0;
        float *x = malloc(row_elements * sizeof *x);
        char *row = malloc(row_bytes);
        if (x == NULL || row == NULL)
            exit(2);
        while (filled + row_bytes <= ck->bench_bytes) {
            if (filled < ((size_t)4 << 20)) {
                ck_floats(ck, x, row_elements, CK_NORMAL);
                sffn_dtype_from_f32(dtype, x, row_elements, row);
                ck_pack_row(wtype, row, row_elements, arena + filled);
            } else {
                memcpy(arena + filled, arena + filled % (((size_t)4 << 20) / row_bytes * row_bytes),
                       row_bytes);
            }
            filled += row_bytes;
        }
        free(row);
        free(x);
        arena_wtype = wtype;
        arena_elements = row_elements;
    }
    return arena;
}

void ck_bench_rows(struct ck *ck, struct ck_bench_rows *out, enum ck_mode mode, int32_t wtype,
                   size_t row_elements)
{
    size_t bytes;
    out->w = ck_arena(ck, wtype, row_elements, &bytes);
    out->row_bytes = ck_row_bytes(wtype, row_elements);
    out->n_rows = bytes / out->row_bytes;
    out->rows = NULL;
    if (mode == CK_WARM) {
        const size_t warm = ((size_t)256 << 10) / out->row_bytes;
        out->n_rows = warm > 0 ? warm : 1;
    }
    if (mode == CK_GATHERED) {
        size_t count = 0;
        out->rows = ck_guarded(ck, out->n_rows * sizeof *out->rows, CK_AT_START);
        for (size_t r = 0; r < out->n_rows; r++)
            if (ck_below(ck, 1000) < 107)
                out->rows[count++] = (uint32_t)r;
        out->n_rows = count;
    }
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { REPEATS = 11, WARM_REPEATS = 301 };

static void time_it(double *times, size_t repeats, void (*run)(void *arg), void *arg, size_t inner)
{
    run(arg);
    for (size_t i = 0; i < repeats; i++) {
        const double start = now_ns();
        for (size_t k = 0; k < inner; k++)
            run(arg);
        times[i] = (now_ns() - start) / (double)inner;
    }
    qsort(times, repeats, sizeof *times, compare_doubles);
}

void ck_bench(struct ck *ck, enum ck_mode mode, const char *shape, size_t bytes,
              void (*run)(void *arg), void *arg)
{
    static const char *const names[] = {"dense", "gathered", "warm"};
    const size_t repeats = mode == CK_WARM ? WARM_REPEATS : REPEATS;
    double times[WARM_REPEATS], gbps;
    time_it(times, repeats, run, arg, mode == CK_WARM ? 8 : 1);
    gbps = (double)bytes / times[repeats / 2];
    if (ck->json)
        printf("{\"name\": \"%s\", \"mode\": \"%s\", \"shape\": \"%s\", \"bytes\": %zu, "
               "\"median_ns\": %.0f, \"min_ns\": %.0f, "
               "\"max_ns\": %.0f, \"effective_gbps\": %.2f, \"stream_gbps\": %.2f}\n",
               ck->name, names[mode], shape, bytes, times[repeats / 2], times[0],
               times[repeats - 1], gbps, ck->stream_gbps);
    else
        printf(
            "%-32s %-9s %-20s %10.1f us  %7.2f GB/s (best %7.2f, worst %7.2f)  %5.2f of stream\n",
            ck->name, names[mode], shape, times[repeats / 2] * 1e-3, gbps, (double)bytes / times[0],
            (double)bytes / times[repeats - 1], gbps / ck->stream_gbps);
    fflush(stdout);
}

struct read_args {
    struct ck_bench_rows rows;
    uint64_t sum;
};

#if defined(__GNUC__)
#define PREFETCH(address)                                                                          \
    __builtin_prefetch((const void *)(address), 0, 2) /* to the second level, see tmpl/kernel.h */
#else
#define PREFETCH(address) ((void)(address))
#endif

static void read_rows(void *arg)
{
    struct read_args *a = arg;
    const size_t lookahead = 16384 / a->rows.row_bytes + 1;
    uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (size_t r = 0; r < a->rows.n_rows; r++) {
        const size_t size = a->rows.row_bytes / 64 * 64;
        const size_t next = r + lookahead < a->rows.n_rows ? r + lookahead : r;
        const char *p =
            a->rows.w + (a->rows.rows != NULL ? a->rows.rows[r] : r) * a->rows.row_bytes;
        const uintptr_t ahead =
            (uintptr_t)a->rows.w +
            (a->rows.rows != NULL ? a->rows.rows[next] : next) * a->rows.row_bytes;
        for (size_t i = 0; i < size; i += 64) {
            uint64_t line[8];
            memcpy(line, p + i, sizeof line);
            PREFETCH(ahead + i);
            s0 += line[0] + line[4];
            s1 += line[1] + line[5];
            s2 += line[2] + line[6];
            s3 += line[3] + line[7];
        }
    }
    a->sum += s0 + s1 + s2 + s3;
}

void ck_bench_ceilings(struct ck *ck)
{
    static const size_t elements[] = {4096, 8192, 16384,
                                      32768}; /* of q4_0: pieces of 2304 .. 18432 bytes */
    struct read_args a;
    a.sum = 0;
    ck->name = "read";
    ck->random = ck->seed;
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++) {
        char shape[64];
        double times[REPEATS];
        ck_bench_rows(ck, &a.rows, CK_DENSE, SFFN_Q4_0, elements[i]);
        if (i == 0) {
            time_it(times, REPEATS, read_rows, &a, 1);
            ck->stream_gbps = (double)(a.rows.n_rows * a.rows.row_bytes) / times[REPEATS / 2];
            ck_bench(ck, CK_DENSE, "plain read", a.rows.n_rows * a.rows.row_bytes, read_rows, &a);
        }
        snprintf(shape, sizeof shape, "pieces of %zu", a.rows.row_bytes);
        ck_bench_rows(ck, &a.rows, CK_GATHERED, SFFN_Q4_0, elements[i]);
        ck_bench(ck, CK_GATHERED, shape, a.rows.n_rows * a.rows.row_bytes, read_rows, &a);
        ck_release(ck);
    }
    if (a.sum == 1) /* keeps the reads */
        puts("");
}
