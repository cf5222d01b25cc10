/* 02_own_threads.c  The layer runs on the caller's threads; the library creates none.
 *
 * Two ways. With a barrier: every thread makes the same call with its number ith of nth, as a ggml graph does. In phases: a phase never
 * waits, so any scheduler that can run "for ith in 0 .. nth-1" will do (OpenMP for, a task queue, one graph node per phase).
 * y has the same bits in both, and for every number of threads.
 */
#include "example.h"

#include <pthread.h>
#include <string.h>

enum { D_MODEL = 384, D_FF = 1536, N_THREADS = 4 };

struct job {
    sffn_context *ctx;
    const sffn_ffn *ffn;
    sffn_ffn_args args;
    pthread_barrier_t barrier;
    uint32_t phase;
};
struct worker {
    struct job *job;
    uint32_t ith;
};

static void wait_for_all(void *user)
{
    pthread_barrier_wait(user);
}

static void *run_with_barrier(void *arg)
{
    struct worker *w = arg;
    struct job *j = w->job;
    must(j->ctx, sffn_ffn_forward_spmd(j->ctx, j->ffn, &j->args, w->ith, N_THREADS, wait_for_all,
                                       &j->barrier));
    return NULL;
}

static void *run_one_phase(void *arg)
{
    struct worker *w = arg;
    struct job *j = w->job;
    must(j->ctx, sffn_ffn_forward_phase(j->ctx, j->ffn, &j->args, j->phase, w->ith, N_THREADS));
    return NULL;
}

/* Starts threads and waits for their end. An engine has threads already. */
static void on_threads(struct job *job, void *(*run)(void *))
{
    pthread_t threads[N_THREADS];
    struct worker workers[N_THREADS];
    for (uint32_t i = 0; i < N_THREADS; i++) {
        workers[i] = (struct worker){job, i};
        if (pthread_create(&threads[i], NULL, run, &workers[i]) != 0)
            exit(1);
    }
    for (uint32_t i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    float *weights = random_floats(3 * D_FF * D_MODEL, 1.0f / sqrtf(D_MODEL)),
          *x = random_floats(D_MODEL, 1.0f);
    float y[3][D_MODEL];
    sffn_ffn *ffn;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = D_MODEL;
    config.d_ff = D_FF;
    config.gate.data = weights;
    config.up.data = weights + D_FF * D_MODEL;
    /* [d_ff][d_model] here, which is the default layout */
    config.down.data = weights + 2 * D_FF * D_MODEL;
    struct job job = {NULL, NULL, SFFN_FFN_ARGS_INIT, {{0}}, 0};
    must(NULL, sffn_context_create(NULL, &job.ctx)); /* NULL: all defaults, among them one thread */
    must(job.ctx, sffn_ffn_create(job.ctx, &config, &ffn));
    /* scratch for more threads than the context's own */
    must(job.ctx, sffn_ffn_reserve_threads(job.ctx, ffn, N_THREADS));
    job.ffn = ffn;
    job.args.n_tokens = 1;
    job.args.x = x;
    job.args.y = y[0];
    must(job.ctx, sffn_ffn_forward(job.ctx, ffn, &job.args));

    job.args.y = y[1];
    pthread_barrier_init(&job.barrier, NULL, N_THREADS);
    on_threads(&job, run_with_barrier);
    pthread_barrier_destroy(&job.barrier);

    job.args.y = y[2];
    const uint32_t n_phases = sffn_ffn_n_phases(ffn, &job.args);
    for (job.phase = 0; job.phase < n_phases; job.phase++)
        on_threads(&job, run_one_phase);

    const int is_same =
        memcmp(y[0], y[1], sizeof y[0]) == 0 && memcmp(y[0], y[2], sizeof y[0]) == 0;
    printf("1 thread, %d threads with a barrier, %d threads in %u phases: y %s\n", N_THREADS,
           N_THREADS, n_phases, is_same ? "is the same, bit for bit" : "DIFFERS");
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(job.ctx);
    free(weights), free(x);
    return is_same ? 0 : 1;
}
