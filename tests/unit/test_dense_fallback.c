/* oneDNN's path shares the stages' scratch, and may give up when it has written there. __wrap_ functions stand for the library's, by the linker. */
#include <string.h>

#include "check.h"
#include "layer.h"

enum { D = 256, F = 4000, N_TOKENS = 128 }; /* from so many on f32 goes through oneDNN */

static int n_calls;

int __wrap_sffn_onednn_available(void);
int __wrap_sffn_onednn_available(void)
{
    return 1;
}

int __wrap_sffn_onednn_sgemm(int b_is_kn, size_t m, size_t n, size_t k, const float *a, size_t lda,
                             const float *b, size_t ldb, float beta, float *c, size_t ldc);
int __wrap_sffn_onednn_sgemm(int b_is_kn, size_t m, size_t n, size_t k, const float *a, size_t lda,
                             const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    (void)b_is_kn, (void)m, (void)n, (void)k, (void)a, (void)lda;
    (void)b, (void)ldb, (void)beta, (void)c, (void)ldc;
    n_calls++;
    return 0;
}

/* y of all tokens, dense. */
static void run_dense(int32_t use_onednn, uint32_t n_threads, float *y)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    sffn_context *ctx = NULL;
    sffn_ffn *ffn = NULL;
    struct spec spec = SPEC_INIT(D, F, SFFN_F32);
    struct rng rng = rng_named("dense fallback");
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    float *x = malloc(N_TOKENS * D * sizeof(*x));
    for (size_t i = 0; i < N_TOKENS * D; i++)
        x[i] = rng_normal(&rng);
    config.use_onednn = use_onednn;
    config.n_threads = n_threads;
    CHECK_OK(NULL, sffn_context_create(&config, &ctx));
    CHECK_OK(ctx, sffn_ffn_create(ctx, &layer.config, &ffn));
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = y;
    args.n_tokens = N_TOKENS;
    args.select = SFFN_SELECT_DENSE;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    layer_free(&layer);
    free(x);
}

static void when_onednn_gives_up_the_stages_are_right(void **state)
{
    static float wanted[N_TOKENS * D], got[N_TOKENS * D];
    (void)state;
    run_dense(0, 1, wanted);
    assert_int_equal(n_calls, 0);
    run_dense(1, 4, got);
    assert_true(n_calls > 0);
    assert_memory_equal(got, wanted, sizeof wanted);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, when_onednn_gives_up_the_stages_are_right);
    return cases_run(&cases, "dense fallback");
}
