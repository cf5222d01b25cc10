/* ceilings.h  What this machine's memory gives at best, measured: streaming, and gathering pieces at a density.
 *
 * The readers touch every cache line once, which moves the same bytes from memory as reading all of it and leaves no arithmetic in the way.
 */
#ifndef BENCH_CEILINGS_H
#define BENCH_CEILINGS_H
#include <stddef.h>
#include <stdint.h>

struct ceilings; /* a large buffer and the results so far */

/* bytes: size of the buffer, to be well over the last-level cache. NULL without memory. */
struct ceilings *ceilings_create(size_t bytes, int want_huge);
void ceilings_destroy(struct ceilings *c);
uint64_t ceilings_bytes(const struct ceilings *c);
uint64_t ceilings_huge_bytes(const struct ceilings *c);

/* GB/s (1e9 bytes) of n_threads threads reading one long share each: best of several repeats of several prefetch distances.
 * Measured again at each call; the best ever seen for this thread count is returned. 0 when threads can't be had. */
double ceilings_stream_gbps(struct ceilings *c, uint32_t n_threads);
/* What the median pass of the best prefetch distance reached in the last two of those calls, before and after a row: a row's time is a median, too,
 * of the same minutes. 0 before the first call. */
double ceilings_stream_median_gbps(struct ceilings *c, uint32_t n_threads);
/* GB/s of reading a random share `density` of all pieces of piece_bytes, in order of address, cold, each thread one contiguous range:
 * best of several repeats of several ways to prefetch. The best way is remembered: a second call with the same arguments measures only that. */
double ceilings_gather_gbps(struct ceilings *c, uint32_t n_threads, size_t piece_bytes,
                            double density);
/* What its median pass reached in the last two of those calls; 0 before the first one. */
double ceilings_gather_median_gbps(struct ceilings *c, uint32_t n_threads, size_t piece_bytes,
                                   double density);
/* How the best gather was done, "burst into L2, 36 lines, 4 ahead"; of the last ceilings_gather_gbps(). */
const char *ceilings_gather_how(const struct ceilings *c);

#endif /* BENCH_CEILINGS_H */
