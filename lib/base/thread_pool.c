#include "base/thread_pool.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Whoever waits at a barrier is needed again within the call, and waking threads costs more than they wait: so long, in units of spin_ns,
 * they stay awake there. Idle threads sleep after spin_ns. */
#define BARRIER_YIELDS 20u

uint64_t sffn_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void sleep_while_equal(atomic_uint *word, unsigned value)
{
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
    (void)word, (void)value;
    sched_yield();
#endif
}

static void wake_all(atomic_uint *word)
{
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

/* Spins shortly, because phases of a decode step are microseconds apart; then, for yield_ns, lets others run between two looks, because
 * with more threads than cores a spinning waiter takes the core from the thread it waits for; then sleeps. */
static void signal_wait(struct sffn_signal *signal, unsigned value, uint64_t spin_ns,
                        uint64_t yield_ns)
{
    if (spin_ns > 0) {
        const uint64_t start = sffn_now_ns();
        uint64_t waited = 0;
        do {
            for (int i = 0; i < 64; i++) {
                if (atomic_load_explicit(&signal->value, memory_order_acquire) != value)
                    return;
                cpu_relax();
            }
            if (waited >= spin_ns)
                sched_yield();
            waited = sffn_now_ns() - start;
        } while (waited < spin_ns + yield_ns);
    }
    /* Sequentially consistent on both sides: either the sleeper sees the new value, or the setter sees the sleeper. */
    atomic_fetch_add(&signal->sleepers, 1);
    while (atomic_load(&signal->value) == value)
        sleep_while_equal(&signal->value, value);
    atomic_fetch_sub(&signal->sleepers, 1);
}

static void signal_set(struct sffn_signal *signal, unsigned value)
{
    atomic_store(&signal->value, value);
    if (atomic_load(&signal->sleepers) > 0)
        wake_all(&signal->value);
}

void sffn_barrier_init(struct sffn_barrier *barrier, uint32_t n, uint64_t spin_ns)
{
    atomic_init(&barrier->arrived, 0);
    atomic_init(&barrier->round.value, 0);
    atomic_init(&barrier->round.sleepers, 0);
    barrier->n = n;
    barrier->spin_ns = spin_ns;
}

void sffn_barrier_wait(struct sffn_barrier *barrier)
{
    const unsigned round = atomic_load_explicit(&barrier->round.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) + 1 == barrier->n) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        signal_set(&barrier->round, round + 1);
    } else {
        signal_wait(&barrier->round, round, barrier->spin_ns, BARRIER_YIELDS * barrier->spin_ns);
    }
}

struct worker {
    struct sffn_thread_pool *pool;
    uint32_t index;
    pthread_t thread;
};

struct sffn_thread_pool {
    struct sffn_barrier barrier;
    struct sffn_signal job; /* grows by one with every run; the workers wait on it */
    int is_stopping;
    uint32_t n, n_phases;
    uint64_t spin_ns;
    void (*fn)(void *arg, uint32_t phase, uint32_t ith, uint32_t nth);
    void *arg;
    int (*bind)(uint32_t index);
    struct worker workers[];
};

size_t sffn_thread_pool_bytes(uint32_t n)
{
    return sizeof(struct sffn_thread_pool) + (size_t)n * sizeof(struct worker);
}

static void run_phases(struct sffn_thread_pool *pool, uint32_t ith)
{
    const uint32_t n_phases = pool->n_phases;
    for (uint32_t phase = 0; phase < n_phases; phase++) {
        pool->fn(pool->arg, phase, ith, pool->n);
        sffn_barrier_wait(&pool->barrier);
    }
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct sffn_thread_pool *pool = worker->pool;
    if (pool->bind)
        pool->bind(worker->index);
    for (unsigned seen = 0;; seen++) {
        signal_wait(&pool->job, seen, pool->spin_ns, 0);
        if (pool->is_stopping)
            return NULL;
        run_phases(pool, worker->index);
    }
}

static void post_job(struct sffn_thread_pool *pool)
{
    signal_set(&pool->job, atomic_load_explicit(&pool->job.value, memory_order_relaxed) + 1);
}

int sffn_thread_pool_start(struct sffn_thread_pool *pool, uint32_t n, uint64_t spin_ns,
                           int (*bind)(uint32_t index))
{
    atomic_init(&pool->job.value, 0);
    atomic_init(&pool->job.sleepers, 0);
    sffn_barrier_init(&pool->barrier, n, spin_ns);
    pool->spin_ns = spin_ns;
    pool->bind = bind;
    pool->n = n;
    /* The caller's signals are the caller's: workers block them all. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = 0;
    for (uint32_t i = 1; i < n && !error; i++) {
        pool->workers[i].pool = pool;
        pool->workers[i].index = i;
        error = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
        if (error)
            pool->n = i; /* those that exist */
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        sffn_thread_pool_stop(pool);
    return error;
}

void sffn_thread_pool_stop(struct sffn_thread_pool *pool)
{
    pool->is_stopping = 1;
    post_job(pool);
    for (uint32_t i = 1; i < pool->n; i++)
        pthread_join(pool->workers[i].thread, NULL);
}

void sffn_thread_pool_run(struct sffn_thread_pool *pool, uint32_t n_phases,
                          void (*fn)(void *arg, uint32_t phase, uint32_t ith, uint32_t nth),
                          void *arg)
{
    if (n_phases == 0)
        return;
    pool->fn = fn;
    pool->arg = arg;
    pool->n_phases = n_phases;
    if (pool->n > 1)
        post_job(pool);
    run_phases(pool, 0);
}
