/* The pool (lib/base/thread_pool.h): every share of every phase once, phases one after the other, whatever the numbers of shares and threads, also
 * while threads are late. Threads count what is wrong, the tests check it. The source is included, for threads that come with an old number. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/thread_pool.c"
#include "check.h"

enum { MOST_SHARES = 64, MOST_PHASES = 6 };

/* A job: share i of phase p > 0 wants what share i + 1 of phase p - 1 has left in a plain variable, which a data race would spoil. */
struct job {
    uint32_t n, n_phases;
    unsigned slow; /* one share in so many takes its time; 0: none */
    unsigned number;
    unsigned left[MOST_PHASES][MOST_SHARES];
    atomic_uint runs[MOST_PHASES][MOST_SHARES], done[MOST_PHASES], wrong;
};

/* Counts without ordering anything: that is the pool's part. */
static void add_one(atomic_uint *count)
{
    atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
}

static unsigned count_of(atomic_uint *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

static unsigned mark(const struct job *job, uint32_t phase, uint32_t i)
{
    return 1 + job->number * 1000003u + phase * 1009u + i;
}

static void run_share(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    struct job *job = arg;
    if (nth != job->n || phase >= job->n_phases || ith >= nth) {
        add_one(&job->wrong);
        return;
    }
    const uint32_t next = (ith + 1) % nth;
    if (phase > 0 && (count_of(&job->done[phase - 1]) != nth ||
                      job->left[phase - 1][next] != mark(job, phase - 1, next)))
        add_one(&job->wrong);
    if (job->slow && mark(job, phase, ith) % job->slow == 0)
        usleep(200);
    job->left[phase][ith] = mark(job, phase, ith);
    add_one(&job->runs[phase][ith]);
    add_one(&job->done[phase]);
}

static void run_job(struct sffn_thread_pool *pool, struct job *job, uint32_t n, uint32_t n_phases,
                    unsigned number, unsigned slow)
{
    memset(job, 0, sizeof *job);
    job->n = n;
    job->n_phases = n_phases;
    job->number = number;
    job->slow = slow;
    sffn_thread_pool_run(pool, n_phases, run_share, job);
    CHECK_SAYS(job->wrong == 0, "%u shares of job %u came too early or with wrong numbers",
               (unsigned)job->wrong, number);
    for (uint32_t p = 0; p < n_phases; p++)
        for (uint32_t i = 0; i < n; i++)
            CHECK_SAYS(job->runs[p][i] == 1, "job %u: share %u of phase %u ran %u times", number,
                       (unsigned)i, (unsigned)p, (unsigned)job->runs[p][i]);
}

static struct sffn_thread_pool *start(uint32_t n, uint32_t n_threads, uint64_t spin_ns,
                                      int (*bind)(uint32_t))
{
    struct sffn_thread_pool *pool = aligned_alloc(64, (sffn_thread_pool_bytes(n) + 63) / 64 * 64);
    CHECK(pool != NULL);
    memset(pool, 0xa5, sffn_thread_pool_bytes(n)); /* whatever was there */
    CHECK(sffn_thread_pool_start(pool, n, n_threads, spin_ns, bind) == 0);
    return pool;
}

static void stop(struct sffn_thread_pool *pool)
{
    sffn_thread_pool_stop(pool);
    free(pool);
}

static void every_share_once(void **state)
{
    (void)state;
    static struct job job;
    static const uint32_t shares[] = {1, 2, 3, 5, 16, MOST_SHARES}, threads[] = {1, 2, 3, 8};
    static const uint64_t spins[] = {0, 3000, 50000};
    for (size_t s = 0; s < sizeof shares / sizeof *shares; s++)
        for (size_t t = 0; t < sizeof threads / sizeof *threads && threads[t] <= shares[s]; t++)
            for (size_t k = 0; k < sizeof spins / sizeof *spins; k++) {
                struct sffn_thread_pool *pool = start(shares[s], threads[t], spins[k], NULL);
                for (unsigned number = 0; number < 60; number++) {
                    run_job(pool, &job, shares[s], number % MOST_PHASES + 1, number,
                            number % 3 == 0 ? 7 : 0);
                    if (number % 16 == 0)
                        usleep(300); /* they fall asleep */
                }
                stop(pool);
            }
}

/* Threads that don't come before they are let in. */
static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;

static int wait_at_door(uint32_t index)
{
    (void)index;
    pthread_mutex_lock(&door);
    pthread_mutex_unlock(&door);
    return 1;
}

static void nobody_waits_for_the_late(void **state)
{
    (void)state;
    static struct job job;
    for (uint32_t n_threads = 2; n_threads <= 5; n_threads++) {
        pthread_mutex_lock(&door);
        struct sffn_thread_pool *pool = start(5, n_threads, 20000, wait_at_door);
        for (unsigned number = 0; number < 20; number++)
            run_job(pool, &job, 5, MOST_PHASES, number, 0);
        pthread_mutex_unlock(&door); /* now they come */
        for (unsigned number = 20; number < 200; number++)
            run_job(pool, &job, 5, MOST_PHASES, number, number % 5 == 0 ? 11 : 0);
        stop(pool);
    }
}

/* Every share waits until all have begun: only threads that all come, and all at their own share, get through. */
static void meet(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    atomic_uint *present = arg;
    (void)ith;
    (*present)++;
    while (*present < (phase + 1) * nth)
        sched_yield();
}

static void everybody_comes(void **state)
{
    (void)state;
    static const uint64_t spins[] = {0, 1000, 50000};
    for (size_t k = 0; k < sizeof spins / sizeof *spins; k++) {
        struct sffn_thread_pool *pool = start(4, 4, spins[k], NULL);
        for (int run = 0; run < 20; run++) {
            atomic_uint present = 0;
            sffn_thread_pool_run(pool, 3, meet, &present);
            CHECK(present == 12);
            usleep(run % 4 == 0 ? 2000 : 0); /* asleep, or not */
        }
        stop(pool);
    }
}

/* Share 0 waits for the others, of which one has no thread: the worker has to take it. */
static void wait_for_others(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    atomic_uint *done = arg;
    while (ith == 0 && *done < (phase + 1) * (nth - 1))
        sched_yield();
    if (ith > 0)
        (*done)++;
}

static void workers_help_the_caller(void **state)
{
    (void)state;
    for (uint64_t spin_ns = 0; spin_ns <= 20000; spin_ns += 10000) {
        struct sffn_thread_pool *pool = start(3, 2, spin_ns, NULL);
        for (int run = 0; run < 20; run++) {
            atomic_uint done = 0;
            sffn_thread_pool_run(pool, 4, wait_for_others, &done);
            CHECK(done == 8);
        }
        stop(pool);
    }
}

/* A thread with the number of a phase that is over, or of the one before all numbers wrap around, does nothing. */
static void old_numbers_do_nothing(void **state)
{
    (void)state;
    static struct job job;
    static const unsigned starts[] = {0, 1000, UINT_MAX - 7, UINT_MAX - 1};
    for (size_t k = 0; k < sizeof starts / sizeof *starts; k++) {
        struct sffn_thread_pool *pool = start(5, 1, 0, NULL);
        pool->phase = starts[k];
        for (uint32_t i = 0; i < 5; i++)
            pool->shares[i].taken = starts[k] - 1;
        for (unsigned number = 0; number < 6; number++) {
            run_job(pool, &job, 5, 3, number, 0);
            for (unsigned old = pool->phase - 13; old != pool->phase + 1; old += 2) /* odd */
                for (uint32_t i = 0; i < 5; i++)
                    take_part(pool, old, i);
            for (uint32_t p = 0; p < 3; p++)
                for (uint32_t i = 0; i < 5; i++)
                    CHECK(job.runs[p][i] == 1);
            CHECK(pool->done == 0);
        }
        stop(pool);
    }
}

static void stops_at_once(void **state)
{
    (void)state;
    static struct job job;
    const uint64_t begin = sffn_now_ns();
    struct sffn_thread_pool *pool = start(4, 4, 60000000000u, NULL); /* spins for a minute */
    run_job(pool, &job, 4, 2, 1, 0);
    stop(pool);
    stop(start(4, 4, 0, NULL));
    CHECK(sffn_now_ns() - begin < 30000000000u);
    pool = start(3, 2, 1000, NULL);
    sffn_thread_pool_run(pool, 0, run_share, NULL); /* nothing to do */
    stop(pool);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, every_share_once);
    CASE(&cases, nobody_waits_for_the_late);
    CASE(&cases, everybody_comes);
    CASE(&cases, workers_help_the_caller);
    CASE(&cases, old_numbers_do_nothing);
    CASE(&cases, stops_at_once);
    return cases_run(&cases, "thread pool");
}
