/* ahead.h  What to prefetch while rows are read. Included after vec_<isa>.h, for vf_prefetch.
 *
 * Gathered rows are bound by the latency of their first lines, which the hardware cannot guess, and a burst of prefetches at a row's start
 * fills the line buffers; so they are spread over the reads, a fixed distance ahead in the sequence of rows. They go to the second-level
 * cache: a prefetch to the first level holds one of its few miss buffers until memory answers, which limited Zen 4 to two thirds of the
 * rate or less (10.7 % of f16 rows of 8 KiB: 9.3 against 17.9 GB/s; of q4_0 rows of 2.3 KiB: 7.4 against 11.3). The distance: 4 KiB is
 * too short and 64 KiB too long for single rows; rows read side by side gain from having the whole next group fetched. Every line of a row
 * has to be named once: what is left out waits for memory.
 *
 * Rows that lie together need none of this on CPUs that follow one or two streams at the memory's rate (SFFN_CPU_STREAMS), while x stays in
 * the first-level cache: prefetches compete with the stream (11008 rows for one token on Zen 4, with and without: q8_0 of 4096 24 -> 29 GB/s, bf16
 * of 2048 22 -> 31). Where x does not stay, the hardware takes it for another stream and halves the first (q8_0 of 13824 27 -> 18 without prefetches,
 * bf16 of 8192 21 -> 13; an x of 16 KiB is now and then one, now and then the other). Nothing may break the stream: a gap of one line between
 * two rows cost a third, which is why packed rows have none. Side by side, and with several tokens, prefetches pay for contiguous rows, too, and
 * Emerald Rapids wants them with single rows as well (q8_0 12.5 GB/s, without them 8.5).
 */
#ifndef SFFN_TMPL_AHEAD_H
#define SFFN_TMPL_AHEAD_H
#include "kernels/tmpl/kernel.h"

#define PREFETCH_BYTES 16384u      /* at least so far ahead */
#define PREFETCH_MOST_BYTES 65536u /* rows side by side: at most so far */
#define STREAM_X_BYTES 14336u      /* is_left_to_hardware() */

/* The same for all rows of a call: in the first `split` bytes of a row fetch what is `distance` bytes further in it, then the start of the
 * row that is `rows` places further in the list. */
struct ahead_plan {
    size_t distance, split, rows;
};

/* Rows of `len` bytes, `step` of them read side by side. Also fetches the starts of the first rows, which nothing was ahead of. */
KERNEL_INLINE struct ahead_plan ahead_plan_of(const void *w, size_t row_bytes, const uint32_t *rows, size_t n_rows, size_t step, size_t len)
{
    const size_t most = (step == 1 ? PREFETCH_BYTES : PREFETCH_MOST_BYTES) / step;
    struct ahead_plan plan = { 0, 0, step };
    if (len > most) {
        plan.distance = most;
        plan.split = len - most;
    } else if (len != 0) {
        /* whole groups; in a short list fewer, since nothing is ahead of the first ones */
        const size_t enough = (PREFETCH_BYTES + len * step - 1) / (len * step), few = n_rows / (8 * step) + 1;
        plan.rows = (enough < few ? enough : few) * step;
    }
    for (size_t r = 0; r < plan.rows && r < n_rows; r++) {
        const uintptr_t row = (uintptr_t)row_at(w, row_bytes, rows, r);
        for (size_t k = 0; k < len && k < 256; k += 64)
            vf_prefetch(row + k);
    }
    return plan;
}

/* For one row: at offset i < split the line at near + i, later the one at far + i. Addresses, not pointers: they may lie past an end. */
struct ahead {
    uintptr_t near, far;
    size_t split;
};

KERNEL_INLINE struct ahead ahead_of(const struct ahead_plan *plan, const char *row, const void *w, size_t row_bytes, const uint32_t *rows,
                                    size_t r, size_t n_rows)
{
    const size_t next = r + plan->rows;
    struct ahead a;
    a.split = plan->split;
    a.near = (uintptr_t)row + plan->distance;
    a.far = (next < n_rows ? (uintptr_t)row_at(w, row_bytes, rows, next) : (uintptr_t)row) - plan->split;
    return a;
}

/* Whether the `side` rows from position r are scattered, and better read side by side than one after the other. The hardware's prefetcher runs
 * past the end of each row that it takes for a stream; with several rows at once it takes fewer for one (q4_0 rows of 2.3 KiB on Zen 4:
 * 12.3 -> 16.7 GB/s with 8). Rows that lie together are a stream, which side by side would break (21 -> 19 GB/s). */
KERNEL_INLINE int is_gather(const uint32_t *rows, size_t r, size_t side)
{
    return rows != NULL && (rows[r + side - 1] < rows[r] || rows[r + side - 1] - rows[r] >= 2 * side);
}

/* Whether rows that lie together are read without prefetches: where the hardware follows such a stream at the memory's rate, and x, of x_bytes,
 * stays in the first-level cache beside it. */
KERNEL_INLINE int is_left_to_hardware(const struct sffn_x *x, size_t x_bytes)
{
    return x->streams && x_bytes <= STREAM_X_BYTES;
}

/* The lines of `bytes` (a constant) bytes, when called for one such piece after the other. */
KERNEL_INLINE void fetch_lines(uintptr_t at, size_t bytes)
{
    for (size_t k = 0; k < bytes; k += 64)
        vf_prefetch(at + k);
}

/* Fetches the lines that belong to `bytes` (a constant) bytes at offset: each line of a row once. */
KERNEL_INLINE void ahead_fetch(const struct ahead *a, size_t offset, size_t bytes)
{
    const uintptr_t base = offset < a->split ? a->near : a->far;
    const uintptr_t line = base + (offset + 63) / 64 * 64, end = base + offset + bytes;
    for (size_t k = 0; k < bytes / 64 * 64; k += 64)
        vf_prefetch(line + k);
    if (line + bytes / 64 * 64 < end)
        vf_prefetch(line + bytes / 64 * 64);
}

#endif /* SFFN_TMPL_AHEAD_H */
