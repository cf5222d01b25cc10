/* Many tiny forwards cut for 1 to 9 threads (of which no more run than there are CPUs), contexts created and
 * destroyed in between, layers shared by contexts in several threads: for the thread sanitizer, and
 * for races that only show when threads sleep at the wrong moment.
 *
 *     pool_stress [SECONDS]     default 5
 */
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "check.h"
#include "layer.h"
#include "threads.h"

enum { N_LAYERS = SFFN_DTYPE_COUNT_, MAX_THREADS = 9, MAX_TOKENS = 3, N_STREAMS = 3 };

/* Layers, inputs and right answers, made once; read by everybody. */
static struct layer layers[N_LAYERS];
static sffn_ffn *ffns[N_LAYERS];
static float *xs[N_LAYERS], *ys[N_LAYERS];
static double seconds = 5.0;
static unsigned long n_calls[N_STREAMS];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One context with n threads makes `calls` calls. Returns 0 when one failed or gave other bits. */
static int run_context(uint32_t n, uint32_t spin_us, uint32_t first_layer, int calls,
                       unsigned long *count)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    sffn_context *ctx = NULL;
    float y[MAX_TOKENS * 64];
    int is_right = 1;
    config.n_threads = n;
    config.spin_us = spin_us;
    if (sffn_context_create(&config, &ctx) != SFFN_OK)
        return 0;
    for (int k = 0; k < calls && is_right; k++) {
        size_t l = (first_layer + (uint32_t)k) % N_LAYERS;
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = xs[l];
        args.y = y;
        args.n_tokens = 1 + (size_t)k % MAX_TOKENS;
        is_right = sffn_ffn_reserve(ctx, ffns[l]) == SFFN_OK &&
                   sffn_ffn_forward(ctx, ffns[l], &args) == SFFN_OK &&
                   memcmp(y, ys[l], args.n_tokens * 64 * sizeof *y) == 0;
        ++*count;
    }
    sffn_context_destroy(ctx);
    return is_right;
}

static int failed[N_STREAMS];

static void run_stream(void *arg, uint32_t i)
{
    static const uint32_t spins[] = {0, 1, 50, 1000};
    double end = *(const double *)arg;
    for (uint32_t round = i; now() < end && !failed[i]; round++) {
        uint32_t n = 1 + round % MAX_THREADS;
        /* few calls: creation and destruction; many: sleeping and waking */
        failed[i] = !run_context(n, spins[round / 2 % 4], round,
                                 round % 5 == 0 ? 200 : (int)(round % 4), &n_calls[i]);
    }
}

static void streams(void **state)
{
    (void)state;
    double end = now() + seconds;
    CHECK(run_threads(N_STREAMS, run_stream, &end));
    unsigned long sum = 0;
    for (size_t i = 0; i < N_STREAMS; i++) {
        CHECK_SAYS(!failed[i], "stream %zu failed after %lu calls", i, n_calls[i]);
        sum += n_calls[i];
    }
    print_message("%lu calls\n", sum);
    CHECK(sum > 0);
}

/* The caller's threads and barrier, call after call without a pause, more threads than CPUs. */
static void spmd(void **state)
{
    (void)state;
    struct rng rng = rng_named("spmd");
    double end = now() + seconds / 4.0;
    for (uint32_t round = 0; now() < end || round < 6 * N_LAYERS; round++) {
        size_t l = round % N_LAYERS;
        uint32_t n = 1 + round % MAX_THREADS;
        enum threading kind = round % 2 ? THREADING_SPMD : THREADING_PHASES_THREADS;
        float y[MAX_TOKENS * 64];
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = xs[l];
        args.y = y;
        args.n_tokens = MAX_TOKENS;
        sffn_context *ctx = threading_context(kind, n, NULL);
        CHECK_OK(ctx, sffn_ffn_reserve(ctx, ffns[l]));
        CHECK_OK(ctx, threading_forward(kind, n, &rng, ctx, ffns[l], &args));
        CHECK_BITS(y, ys[l], MAX_TOKENS * 64, "%s with %u threads", threading_names[kind],
                   (unsigned)n);
        sffn_context_destroy(ctx);
    }
}

/* Objects made and destroyed by many threads at once in one context's allocator and log. */
static sffn_context *shared_ctx;

static void make_and_destroy(void *arg, uint32_t i)
{
    double end = *(const double *)arg;
    for (uint32_t round = i; now() < end && !failed[i]; round++) {
        sffn_active_set_config set_config = SFFN_ACTIVE_SET_CONFIG_INIT;
        sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
        sffn_active_set *set = NULL;
        sffn_matmul *matmul = NULL;
        set_config.n_blocks = 1 + round % 100;
        config.n_rows = layers[0].spec.d_ff;
        config.n_cols = layers[0].spec.d_model;
        config.weights = layers[round % N_LAYERS].config.up;
        if (sffn_active_set_create(shared_ctx, &set_config, &set) != SFFN_OK)
            failed[i] = 1;
        sffn_status status = sffn_matmul_create(shared_ctx, &config, &matmul);
        if (status != SFFN_OK && status != SFFN_ERR_BUSY) /* packing uses the context's threads */
            failed[i] = 1;
        sffn_active_set_destroy(set);
        sffn_matmul_destroy(matmul);
    }
}

static void creation_in_threads(void **state)
{
    (void)state;
    double end = now() + seconds / 4.0;
    shared_ctx = make_context(2, NULL);
    memset(failed, 0, sizeof failed);
    CHECK(run_threads(N_STREAMS, make_and_destroy, &end));
    for (size_t i = 0; i < N_STREAMS; i++)
        CHECK_SAYS(!failed[i], "thread %zu failed", i);
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    CHECK_OK(shared_ctx, sffn_context_get_info(shared_ctx, &info));
    CHECK_SAYS(info.weight_bytes == 0, "%llu bytes of weights are still counted",
               (unsigned long long)info.weight_bytes);
    sffn_context_destroy(shared_ctx);
}

int main(int argc, char **argv)
{
    struct cases cases = {0};
    struct rng rng = rng_named("stress");
    seconds = argc > 1 ? strtod(argv[1], NULL) : seconds;
    sffn_context *ctx = NULL;
    if (sffn_context_create(NULL, &ctx) != SFFN_OK)
        return 1;
    for (int32_t l = 0; l < N_LAYERS; l++) {
        struct spec spec = SPEC_INIT(64, 200, l);
        layer_make(&layers[l], &spec, &rng);
        xs[l] = draw_x(&layers[l].memory, &rng, MAX_TOKENS, 64, 0);
        ys[l] = GUARDED_FLOATS(&layers[l].memory, MAX_TOKENS * 64);
        ffns[l] = layer_create(ctx, &layers[l]);
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = xs[l];
        args.y = ys[l];
        args.n_tokens = MAX_TOKENS;
        if (sffn_ffn_forward(ctx, ffns[l], &args) != SFFN_OK)
            return 1;
    }
    CASE(&cases, streams);
    CASE(&cases, spmd);
    CASE(&cases, creation_in_threads);
    int is_failed = cases_run(&cases, "pool_stress");
    for (size_t l = 0; l < N_LAYERS; l++) {
        sffn_ffn_destroy(ffns[l]);
        layer_free(&layers[l]);
    }
    sffn_context_destroy(ctx);
    return is_failed;
}
