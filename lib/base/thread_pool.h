/* thread_pool.h  Own threads and the barrier between phases. Knows nothing of contexts. */
#ifndef SFFN_THREAD_POOL_H
#define SFFN_THREAD_POOL_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* A counter that threads wait on, and how many of them sleep, so that nobody asks the kernel to wake nobody. */
struct sffn_signal {
    atomic_uint value;
    atomic_uint sleepers;
};

/* All `n` threads that call sffn_barrier_wait() leave it together. Waiters spin for spin_ns, then let other threads run for some time, then sleep
 * in the kernel. */
struct sffn_barrier {
    atomic_uint arrived;
    struct sffn_signal round;
    uint32_t n;
    uint64_t spin_ns;
};
void sffn_barrier_init(struct sffn_barrier *barrier, uint32_t n, uint64_t spin_ns);
void sffn_barrier_wait(struct sffn_barrier *barrier);

struct sffn_thread_pool;
/* The memory for a pool of n threads, zeroed by the caller. */
size_t sffn_thread_pool_bytes(uint32_t n);
/* Starts n - 1 threads (n >= 1; the caller of run() is thread 0). bind: NULL or a function that ties thread i to a core.
 * Returns 0, or an errno value after stopping those already started. */
int sffn_thread_pool_start(struct sffn_thread_pool *pool, uint32_t n, uint64_t spin_ns, int (*bind)(uint32_t index));
void sffn_thread_pool_stop(struct sffn_thread_pool *pool);
/* Runs fn(arg, phase, ith, n) for each phase with a barrier after each. One run at a time. */
void sffn_thread_pool_run(struct sffn_thread_pool *pool, uint32_t n_phases,
                          void (*fn)(void *arg, uint32_t phase, uint32_t ith, uint32_t nth), void *arg);
uint64_t sffn_now_ns(void);

#endif /* SFFN_THREAD_POOL_H */
