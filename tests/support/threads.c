#include "threads.h"

#include <pthread.h>

const char *const threading_names[THREADING_COUNT] = {
    "pool", "for_reversed", "for_threads", "phases_shuffled", "phases_threads", "spmd"};

/* ---------------------------------------------------------------- threads */

struct job {
    pthread_t thread;
    void (*fn)(void *arg, uint32_t i);
    void *arg;
    uint32_t i;
};

static void *run_job(void *arg)
{
    struct job *job = arg;
    job->fn(job->arg, job->i);
    return NULL;
}

int run_threads(uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
    struct job *jobs = calloc(n, sizeof *jobs);
    if (!jobs)
        return 0;
    uint32_t n_started = 0;
    for (uint32_t i = 0; i < n; i++) {
        jobs[i] = (struct job){.fn = fn, .arg = arg, .i = i};
        if (pthread_create(&jobs[i].thread, NULL, run_job, &jobs[i]) != 0)
            break;
        n_started++;
    }
    for (uint32_t i = 0; i < n_started; i++)
        pthread_join(jobs[i].thread, NULL);
    free(jobs);
    return n_started == n;
}

void parallel_for_reversed(void *user, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
    (void)user;
    while (n-- > 0)
        fn(arg, n);
}

void parallel_for_threads(void *user, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
    (void)user;
    if (!run_threads(n, fn, arg))
        abort(); /* the contract has no way to report it */
}

/* ------------------------------------------------------------- forward on the caller's threads */

sffn_context *threading_context(enum threading kind, uint32_t n, const char *max_isa)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.max_isa = max_isa;
    if (kind == THREADING_POOL || kind == THREADING_FOR_REVERSED || kind == THREADING_FOR_THREADS)
        config.n_threads = n;
    if (kind == THREADING_FOR_REVERSED)
        config.parallel_for = parallel_for_reversed;
    if (kind == THREADING_FOR_THREADS)
        config.parallel_for = parallel_for_threads;
    sffn_context *ctx = NULL;
    CHECK_OK(NULL, sffn_context_create(&config, &ctx));
    return ctx;
}

struct team {
    sffn_context *ctx;
    const sffn_ffn *ffn;
    const sffn_ffn_args *args;
    uint32_t n_phases, n;
    pthread_barrier_t barrier;
    sffn_status *status; /* of each thread */
};

static void wait_for_team(void *user)
{
    struct team *team = user;
    pthread_barrier_wait(&team->barrier);
}

static void run_spmd(void *arg, uint32_t i)
{
    struct team *team = arg;
    team->status[i] =
        sffn_ffn_forward_spmd(team->ctx, team->ffn, team->args, i, team->n, wait_for_team, team);
}

static void run_phases(void *arg, uint32_t i)
{
    struct team *team = arg;
    for (uint32_t phase = 0; phase < team->n_phases; phase++) {
        sffn_status status =
            sffn_ffn_forward_phase(team->ctx, team->ffn, team->args, phase, i, team->n);
        if (team->status[i] == SFFN_OK)
            team->status[i] = status;
        wait_for_team(team);
    }
}

static void run_phases_shuffled(struct team *team, struct rng *rng)
{
    uint32_t *order = malloc(team->n * sizeof *order);
    CHECK(order != NULL);
    for (uint32_t phase = 0; phase < team->n_phases; phase++) {
        for (uint32_t i = 0; i < team->n; i++) { /* inside-out shuffle */
            uint32_t k = rng_below(rng, i + 1);
            order[i] = order[k];
            order[k] = i;
        }
        for (uint32_t i = 0; i < team->n; i++) {
            uint32_t ith = order[i];
            sffn_status status =
                sffn_ffn_forward_phase(team->ctx, team->ffn, team->args, phase, ith, team->n);
            if (team->status[ith] == SFFN_OK)
                team->status[ith] = status;
        }
    }
    free(order);
}

sffn_status threading_forward(enum threading kind, uint32_t n, struct rng *rng, sffn_context *ctx,
                              const sffn_ffn *ffn, const sffn_ffn_args *args)
{
    if (kind == THREADING_POOL || kind == THREADING_FOR_REVERSED || kind == THREADING_FOR_THREADS)
        return sffn_ffn_forward(ctx, ffn, args);
    struct team team = {.ctx = ctx, .ffn = ffn, .args = args, .n = n};
    CHECK_OK(ctx, sffn_ffn_reserve_threads(ctx, ffn, n));
    team.n_phases = sffn_ffn_n_phases(ffn, args);
    if (team.n_phases == 0 && args->n_tokens > 0)
        team.n_phases = 1; /* bad arguments: the first phase says which */
    team.status = calloc(n, sizeof *team.status);
    CHECK(team.status != NULL);
    if (kind == THREADING_PHASES_SHUFFLED) {
        run_phases_shuffled(&team, rng);
    } else {
        CHECK(pthread_barrier_init(&team.barrier, NULL, n) == 0);
        CHECK(run_threads(n, kind == THREADING_SPMD ? run_spmd : run_phases, &team));
        pthread_barrier_destroy(&team.barrier);
    }
    sffn_status first = SFFN_OK;
    for (uint32_t i = 0; i < n && first == SFFN_OK; i++)
        first = team.status[i];
    free(team.status);
    return first;
}
