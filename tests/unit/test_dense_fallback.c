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
static void run_layer(const struct layer *layer, int32_t use_onednn, uint32_t n_threads,
                      size_t n_tokens, float *y)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    sffn_context *ctx = NULL;
    sffn_ffn *ffn = NULL;
    struct rng rng = rng_named("dense inputs");
    const size_t d = layer->config.d_model;
    float *x = malloc(n_tokens * d * sizeof(*x));
    for (size_t i = 0; i < n_tokens * d; i++)
        x[i] = rng_normal(&rng);
    config.use_onednn = use_onednn;
    config.n_threads = n_threads;
    CHECK_OK(NULL, sffn_context_create(&config, &ctx));
    CHECK_OK(ctx, sffn_ffn_create(ctx, &layer->config, &ffn));
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = y;
    args.n_tokens = n_tokens;
    args.select = SFFN_SELECT_DENSE;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    free(x);
}

static void run_dense(int32_t use_onednn, uint32_t n_threads, float *y)
{
    struct spec spec = SPEC_INIT(D, F, SFFN_F32);
    struct rng rng = rng_named("dense fallback");
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    run_layer(&layer, use_onednn, n_threads, N_TOKENS, y);
    layer_free(&layer);
}

/* From how many tokens on dense calls ask oneDNN, by the types of gate and up, and of down. */
static void the_length_that_asks_onednn(void **state)
{
    enum { WIDTH = 32, NEURONS = 64, MOST = 600 };
    static const struct {
        int32_t type, down_type, is_gated;
        uint32_t dense_tokens;
        size_t from; /* 0: never */
    } cases[] = {
        {SFFN_F32, SFFN_F32, 1, SFFN_DENSE_TOKENS_AUTO, 128},
        {SFFN_F32, SFFN_F32, 0, SFFN_DENSE_TOKENS_AUTO, 128},
        {SFFN_BF16, SFFN_BF16, 1, SFFN_DENSE_TOKENS_AUTO, 512},
        {SFFN_F32, SFFN_BF16, 1, SFFN_DENSE_TOKENS_AUTO, 512},
        {SFFN_BF16, SFFN_F32, 0, SFFN_DENSE_TOKENS_AUTO, 512},
        {SFFN_F32, SFFN_Q8_0, 1, SFFN_DENSE_TOKENS_AUTO, 0},
        {SFFN_F16, SFFN_F16, 1, SFFN_DENSE_TOKENS_AUTO, 0},
        {SFFN_Q4_0, SFFN_Q4_0, 1, SFFN_DENSE_TOKENS_AUTO, 0},
        {SFFN_F32, SFFN_F32, 1, 0, 0},
        {SFFN_Q8_0, SFFN_Q8_0, 1, 3, 3},
    };
    static float y[MOST * WIDTH];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct spec spec = SPEC_INIT(WIDTH, NEURONS, cases[i].type);
        struct rng rng = rng_named("asks");
        struct layer layer;
        spec.is_gated = cases[i].is_gated;
        spec.down_type = cases[i].down_type;
        layer_make(&layer, &spec, &rng);
        layer.config.dense_tokens = cases[i].dense_tokens;
        const size_t from = cases[i].from, counts[] = {from ? from - 1 : 1, from ? from : MOST};
        for (size_t c = 0; c < 2; c++) {
            n_calls = 0;
            run_layer(&layer, 1, 1, counts[c], y);
            CHECK_SAYS((n_calls > 0) == (from && counts[c] >= from),
                       "case %zu, %zu tokens: %d calls", i, counts[c], n_calls);
        }
        layer_free(&layer);
    }
}

static void when_onednn_gives_up_the_stages_are_right(void **state)
{
    static float wanted[N_TOKENS * D], got[N_TOKENS * D];
    (void)state;
    n_calls = 0;
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
    CASE(&cases, the_length_that_asks_onednn);
    return cases_run(&cases, "dense fallback");
}
