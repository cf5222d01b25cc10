/* kernel.h  What every kernel body needs: inlining, names, row addresses and the prefetch plan. Included before a vec_<isa>.h. */
#ifndef SFFN_TMPL_KERNEL_H
#define SFFN_TMPL_KERNEL_H
#include "kernels/kernels.h"
#include <string.h>

/* Bodies are written once with a constant number of tokens or rows, and must be inlined to become that. */
#if defined(_MSC_VER)
#define KERNEL_INLINE static __forceinline
#elif defined(__GNUC__)
#define KERNEL_INLINE static inline __attribute__((always_inline))
#else
#define KERNEL_INLINE static inline
#endif

/* KERNEL(rows_dot) is rows_dot_f16_avx2 in an instantiation with WT f16 and ISA avx2; PLAIN_KERNEL(threshold) is threshold_avx2. */
#define KERNEL_JOIN3_(a, b, c) a##_##b##_##c
#define KERNEL_JOIN3(a, b, c) KERNEL_JOIN3_(a, b, c)
#define KERNEL_JOIN2_(a, b) a##_##b
#define KERNEL_JOIN2(a, b) KERNEL_JOIN2_(a, b)
#define KERNEL(op) KERNEL_JOIN3(op, WT, ISA)
#define PLAIN_KERNEL(op) KERNEL_JOIN2(op, ISA)
/* A table entry: the function and its own name. */
#define KERNEL_ENTRY_(fn) { fn, #fn }
#define KERNEL_ENTRY(fn) KERNEL_ENTRY_(fn)

KERNEL_INLINE const char *row_at(const void *w, size_t row_bytes, const uint32_t *rows, size_t r)
{
    return (const char *)w + (rows != NULL ? (size_t)rows[r] : r) * row_bytes;
}

/* What to prefetch while a row is read: at offset i < split the line at near + i, later the one at far + i. Addresses, not pointers: they
 * may lie past an end.
 *
 * Gathered rows are bound by the latency of their first lines, which the hardware cannot guess, and a burst of prefetches at a row's start
 * fills the line buffers; so they are spread over the reads, a fixed distance ahead in the sequence of rows. They go to the second-level
 * cache (vf_prefetch): a prefetch to the first level holds one of its few miss buffers until memory answers, which limited Zen 4 to two
 * thirds of the rate (10.8 % of f16 rows of 8 KiB: 9.6 against 17.5 GB/s; q4_0 of 2.3 KiB: 7.4 against 11.3). The distance: 4 KiB is too
 * short, 64 KiB for a single row too long; rows read side by side gain from having the whole next group fetched.
 */
#ifndef PREFETCH_BYTES
#define PREFETCH_BYTES 16384u
#endif
#ifndef PREFETCH_GROUP_BYTES
#define PREFETCH_GROUP_BYTES 65536u
#endif
struct ahead {
    uintptr_t near, far;
    size_t split;
};

/* For row r of n_rows, which is `row` and `len` bytes long; groups of `step` rows are read side by side. */
KERNEL_INLINE struct ahead ahead_of(const char *row, const void *w, size_t row_bytes, const uint32_t *rows, size_t r,
                                    size_t n_rows, size_t step, size_t len)
{
    const size_t distance = step == 1 ? PREFETCH_BYTES : PREFETCH_GROUP_BYTES / step;
    struct ahead a;
    size_t next = r + step;
    if (len > distance) {
        a.split = len - distance;
        a.near = (uintptr_t)row + distance;
    } else {
        while (len != 0 && (next - r) / step * len < distance && next + step < n_rows)
            next += step;
        a.split = 0;
        a.near = (uintptr_t)row;
    }
    a.far = (next < n_rows ? (uintptr_t)row_at(w, row_bytes, rows, next) : (uintptr_t)row) - a.split;
    return a;
}

/* Fetches the lines that belong to `bytes` (a constant) bytes at offset: each line of a row once. */
#define AHEAD_FETCH(a, offset, bytes)                                                            \
    do {                                                                                         \
        const uintptr_t base_ = (offset) < (a)->split ? (a)->near : (a)->far;                    \
        const uintptr_t line_ = base_ + ((offset) + 63) / 64 * 64, end_ = base_ + (offset) + (bytes); \
        for (size_t k_ = 0; k_ < (bytes) / 64 * 64; k_ += 64)                                    \
            vf_prefetch(line_ + k_);                                                             \
        if (line_ + (bytes) / 64 * 64 < end_)                                                    \
            vf_prefetch(line_ + (bytes) / 64 * 64);                                              \
    } while (0)

/* The tokens of a row: their numbers, and how many. */
struct row_tokens {
    size_t count;
    uint8_t token[SFFN_TILE_TOKENS];
};

KERNEL_INLINE void row_tokens_of(struct row_tokens *t, unsigned mask, size_t n_tokens)
{
    t->count = 0;
    for (size_t i = 0; i < n_tokens; i++) {
        t->token[t->count] = (uint8_t)i;
        t->count += mask >> i & 1u;
    }
}

#endif /* SFFN_TMPL_KERNEL_H */
