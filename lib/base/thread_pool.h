/* thread_pool.h  Own threads, and the phases that they run together. Knows nothing of contexts. */
#ifndef SFFN_THREAD_POOL_H
#define SFFN_THREAD_POOL_H
#include <stddef.h>
#include <stdint.h>

struct sffn_thread_pool;
/* The memory for a pool of n shares, on a cache line. */
size_t sffn_thread_pool_bytes(uint32_t n);
/* A pool that cuts work into n shares for n_threads threads, at most n: it starts n_threads - 1, and the caller of run() is thread 0. Idle threads stay
 * awake for spin_ns before they sleep in the kernel, after some microseconds giving way to others; threads that wait within a run 20 times as long. bind: NULL or a function that ties thread i to a core. Returns 0, or an errno value after stopping
 * those already started. */
int sffn_thread_pool_start(struct sffn_thread_pool *pool, uint32_t n, uint32_t n_threads,
                           uint64_t spin_ns, int (*bind)(uint32_t index));
void sffn_thread_pool_stop(struct sffn_thread_pool *pool);
/* Runs fn(arg, phase, ith, n) for each share ith of each phase; a phase begins when all shares of the one before are done. Thread i does share i when
 * it comes in time, else one that has nothing to do, so a share's thread may be another one in the next phase: no phase waits for a thread that has not
 * begun. One run at a time. */
void sffn_thread_pool_run(struct sffn_thread_pool *pool, uint32_t n_phases,
                          void (*fn)(void *arg, uint32_t phase, uint32_t ith, uint32_t nth),
                          void *arg);
uint64_t sffn_now_ns(void);

#endif /* SFFN_THREAD_POOL_H */
