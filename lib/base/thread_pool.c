#include "base/thread_pool.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* How a thread waits: so long it only looks, then lets others run between two looks, since one of them may be who it waits for (of 16 threads
 * that wake on 16 CPUs two often share one, until the kernel notices); then it sleeps. Within a call it looks so many times longer than an idle thread. */
#define LOOK_NS       4000u
#define CALL_PATIENCE 20u
/* A thread that has done its share gives the others so long to begin theirs before it does them itself. */
#define GRACE_NS      2000u

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

/* A share of the phases. */
struct share {
    _Alignas(64) atomic_uint taken; /* the last phase in which somebody took it */
};

struct worker {
    struct sffn_thread_pool *pool;
    uint32_t index;
    pthread_t thread;
};

struct sffn_thread_pool {
    /* The number of the phase that runs. A job's phases have odd numbers, each 2 more than the one before, also across jobs; between jobs the
     * number is even. So who sees a number knows what it stands for, and a thread that comes late with an old one finds all its shares taken. */
    _Alignas(64) atomic_uint phase;
    /* Threads that sleep until `phase` changes, so that nobody asks the kernel to wake nobody. */
    _Alignas(64) atomic_uint sleepers;
    _Alignas(64) atomic_uint done; /* shares of the phase */
    _Alignas(64) uint32_t n;       /* shares */
    uint32_t n_threads;
    uint64_t spin_ns;
    int (*bind)(uint32_t index);
    atomic_int is_stopping;
    /* The job. Only who has taken a share may look: until that is done nobody changes it. */
    unsigned first, last; /* phases */
    void (*fn)(void *arg, uint32_t phase, uint32_t ith, uint32_t nth);
    void *arg;
    struct worker *workers; /* [n_threads], behind the shares */
    struct share shares[];  /* [n] */
};

size_t sffn_thread_pool_bytes(uint32_t n)
{
    return sizeof(struct sffn_thread_pool) +
           (size_t)n * (sizeof(struct share) + sizeof(struct worker));
}

/* Looks at the phase for about `ns`, letting others run in between or not. 1: it is another one than `number`. */
static int look(struct sffn_thread_pool *pool, unsigned number, uint64_t ns, int lets_run)
{
    if (atomic_load_explicit(&pool->phase, memory_order_acquire) != number)
        return 1;
    const uint64_t start = ns > 0 ? sffn_now_ns() : 0;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&pool->phase, memory_order_acquire) != number)
                return 1;
            cpu_relax();
        }
        if (lets_run)
            sched_yield();
    } while (ns > 0 && sffn_now_ns() - start < ns);
    return 0;
}

/* Waits until another phase runs than `number`, and returns it. */
static unsigned wait_for_phase(struct sffn_thread_pool *pool, unsigned number)
{
    const uint64_t spin_ns = pool->spin_ns, looks_ns = spin_ns < LOOK_NS ? spin_ns : LOOK_NS;
    const uint64_t patience_ns = number & 1 ? CALL_PATIENCE * spin_ns : spin_ns;
    if (!look(pool, number, looks_ns, 0) &&
        (spin_ns == 0 || !look(pool, number, patience_ns - looks_ns, 1))) {
        /* Sequentially consistent on both sides: either the sleeper sees the new phase, or who set it sees the sleeper. */
        atomic_fetch_add(&pool->sleepers, 1);
        while (atomic_load(&pool->phase) == number)
            sleep_while_equal(&pool->phase, number);
        atomic_fetch_sub(&pool->sleepers, 1);
    }
    return atomic_load_explicit(&pool->phase, memory_order_acquire);
}

static void set_phase(struct sffn_thread_pool *pool, unsigned number)
{
    atomic_store(&pool->phase, number);
    if (atomic_load(&pool->sleepers) > 0)
        wake_all(&pool->phase);
}

/* Does share i of a phase unless somebody has taken it. Who finishes the last one begins the next phase. */
static int do_share(struct sffn_thread_pool *pool, unsigned number, uint32_t i)
{
    unsigned before = number - 2;
    if (atomic_load_explicit(&pool->shares[i].taken, memory_order_relaxed) != before ||
        !atomic_compare_exchange_strong_explicit(&pool->shares[i].taken, &before, number,
                                                 memory_order_relaxed, memory_order_relaxed))
        return 0;
    pool->fn(pool->arg, (number - pool->first) / 2, i, pool->n);
    const unsigned next = number == pool->last ? number + 1 : number + 2;
    if (atomic_fetch_add_explicit(&pool->done, 1, memory_order_acq_rel) + 1 == pool->n) {
        atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
        set_phase(pool, next);
    }
    return 1;
}

/* What thread `index` does in a phase: its own share (more where there are fewer threads than shares), then those whose threads are late. */
static void take_part(struct sffn_thread_pool *pool, unsigned number, uint32_t index)
{
    int has_begun = 0;
    for (uint32_t i = index; i < pool->n; i += pool->n_threads)
        has_begun |= do_share(pool, number, i);
    if (has_begun && pool->spin_ns > 0 && look(pool, number, GRACE_NS, 0))
        return;
    for (uint32_t i = 1; i < pool->n; i++)
        if (do_share(pool, number, (index + i) % pool->n) &&
            atomic_load_explicit(&pool->phase, memory_order_relaxed) != number)
            return;
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct sffn_thread_pool *pool = worker->pool;
    if (pool->bind)
        pool->bind(worker->index);
    for (unsigned number = 0;;) {
        number = wait_for_phase(pool, number);
        if (atomic_load_explicit(&pool->is_stopping, memory_order_relaxed))
            return NULL;
        if (number & 1)
            take_part(pool, number, worker->index);
    }
}

int sffn_thread_pool_start(struct sffn_thread_pool *pool, uint32_t n, uint32_t n_threads,
                           uint64_t spin_ns, int (*bind)(uint32_t index))
{
    pool->n = n;
    pool->n_threads = n_threads;
    pool->spin_ns = spin_ns;
    pool->bind = bind;
    pool->workers = (struct worker *)(pool->shares + n);
    atomic_init(&pool->phase, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->done, 0);
    atomic_init(&pool->is_stopping, 0);
    for (uint32_t i = 0; i < n; i++)
        atomic_init(&pool->shares[i].taken, (unsigned)-1);
    /* The caller's signals are the caller's: workers block them all. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = 0;
    uint32_t started = 1;
    for (; started < n_threads && !error; started += !error) {
        pool->workers[started].pool = pool;
        pool->workers[started].index = started;
        error = pthread_create(&pool->workers[started].thread, NULL, worker_main,
                               &pool->workers[started]);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error) {
        pool->n_threads = started; /* those that exist; the others look at it in jobs only */
        sffn_thread_pool_stop(pool);
    }
    return error;
}

void sffn_thread_pool_stop(struct sffn_thread_pool *pool)
{
    atomic_store_explicit(&pool->is_stopping, 1, memory_order_relaxed);
    set_phase(pool, atomic_load_explicit(&pool->phase, memory_order_relaxed) + 2);
    for (uint32_t i = 1; i < pool->n_threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
}

void sffn_thread_pool_run(struct sffn_thread_pool *pool, uint32_t n_phases,
                          void (*fn)(void *arg, uint32_t phase, uint32_t ith, uint32_t nth),
                          void *arg)
{
    if (n_phases == 0)
        return;
    unsigned number = atomic_load_explicit(&pool->phase, memory_order_relaxed) + 1;
    pool->fn = fn;
    pool->arg = arg;
    pool->first = number;
    pool->last = number + 2 * (n_phases - 1);
    const unsigned end = pool->last + 1;
    for (set_phase(pool, number); number != end; number = wait_for_phase(pool, number))
        take_part(pool, number, 0);
}
