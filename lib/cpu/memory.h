/* memory.h  Pages from the system: huge where wanted and given, and what was obtained. */
#ifndef SFFN_CPU_MEMORY_H
#define SFFN_CPU_MEMORY_H
#include <stddef.h>
#include <stdint.h>

/* Zeroed private memory, page aligned. With want_huge and bytes >= 2 MiB: aligned to 2 MiB, a multiple of it long, and the kernel is asked
 * for huge pages, which it gives at first touch or never. NULL when bytes is 0 or the system refuses. */
void *sffn_pages_alloc(size_t bytes, int want_huge);
/* bytes as it was asked for. ptr NULL is a no-op. */
void sffn_pages_free(void *ptr, size_t bytes);
/* How much of the range is in huge pages now; 0 when unknown. Reads /proc/self/smaps: milliseconds. Where the kernel has merged the range
 * with its neighbours into one mapping, this is the range's proportional share. */
uint64_t sffn_pages_huge_bytes(const void *ptr, size_t bytes);
/* Asks that pages of the range not touched yet come from NUMA node `node` (the system's number), touched ones move there. A hint. */
void sffn_pages_bind(void *ptr, size_t bytes, uint32_t node);

uint64_t sffn_page_bytes(void);
/* Size of a transparent huge page; 0 when the system has none or they are switched off ("never"). */
uint64_t sffn_huge_page_bytes(void);

#endif /* SFFN_CPU_MEMORY_H */
