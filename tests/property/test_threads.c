/* y is bit-identical for 1 to 9 threads and for every kind of threading; layers are shared between
 * contexts. */
#include <math.h>
#include <stdio.h>

#include "check.h"
#include "layer.h"
#include "threads.h"

/* The thread sanitizer is slow, and a race does not wait for a certain number. */
#if defined(__SANITIZE_THREAD__)
static const uint32_t thread_counts[] = {2, 5, 9};
#else
static const uint32_t thread_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
#endif
#define N_COUNTS (sizeof thread_counts / sizeof thread_counts[0])

/* A layer large enough to be cut up, its inputs, and what one thread of a default context makes of
 * them. */
struct scene {
    struct rng rng;
    struct layer layer;
    sffn_context *ctx;
    sffn_ffn *ffn;
    sffn_router *router;
    sffn_predictor *predictor;
    float *x;
    sffn_active_set *set;
    const char *isa;
};

struct way {
    const char *name;
    int32_t select;
    size_t n_tokens;
    int size;     /* 1: threads take pieces of each other's shares; 2: with integer sums, too */
    int has_no_h; /* then nothing comes before the gate */
    int32_t rule; /* 0: |h| against a threshold */
};
static const struct way ways[] = {
    {"gate 1 token", SFFN_SELECT_GATE, 1, 0, 0, 0},
    {"gate 8 tokens", SFFN_SELECT_GATE, 8, 0, 0, 0},
    {"gate 20 tokens", SFFN_SELECT_GATE, 20, 0, 0, 0},
    {"dense 1 token", SFFN_SELECT_DENSE, 1, 0, 0, 0},
    {"dense 9 tokens", SFFN_SELECT_DENSE, 9, 0, 0, 0},
    {"active 1 token", SFFN_SELECT_ACTIVE, 1, 0, 0, 0},
    {"active 5 tokens", SFFN_SELECT_ACTIVE, 5, 0, 0, 0},
    {"active 20 tokens", SFFN_SELECT_ACTIVE, 20, 0, 0, 0},
    {"router 1 token", SFFN_SELECT_ROUTER, 1, 0, 0, 0},
    {"router 20 tokens", SFFN_SELECT_ROUTER, 20, 0, 0, 0},
    {"predictor 1 token", SFFN_SELECT_PREDICTOR, 1, 0, 0, 0},
    {"predictor 20 tokens", SFFN_SELECT_PREDICTOR, 20, 0, 0, 0},
    {"gate 1 token, large", SFFN_SELECT_GATE, 1, 1, 0, 0},
    {"gate 3 tokens, large", SFFN_SELECT_GATE, 3, 1, 0, 0},
    {"dense 2 tokens, large", SFFN_SELECT_DENSE, 2, 1, 0, 0},
    {"active 1 token, large", SFFN_SELECT_ACTIVE, 1, 1, 0, 0},
    {"gate 1 token, large, no h", SFFN_SELECT_GATE, 1, 1, 1, 0},
    {"gate 2 tokens, large, no h", SFFN_SELECT_GATE, 2, 1, 1, 0},
    {"active 1 token, large, no h", SFFN_SELECT_ACTIVE, 1, 1, 1, 0},
    {"gate 1 token, large, top-k of s", SFFN_SELECT_GATE, 1, 1, 1, SFFN_RULE_TOP_K_SCORE},
    {"gate 2 tokens, large, top-k of h", SFFN_SELECT_GATE, 2, 1, 1, SFFN_RULE_TOP_K_H},
    {"dense 2 tokens, largest", SFFN_SELECT_DENSE, 2, 2, 1, 0},
    {"active 2 tokens, largest", SFFN_SELECT_ACTIVE, 2, 2, 1, 0},
};

static void scene_make(struct scene *scene, int32_t type, const struct way *way, const char *name)
{
    struct spec spec = SPEC_INIT(0, 0, type);
    memset(scene, 0, sizeof *scene);
    scene->rng = rng_named(name);
    spec.d_model = is_quantised(type) ? 256 : 203;
    if (way->select == SFFN_SELECT_PREDICTOR)
        spec.d_model = 256;
    static const uint32_t n_experts[] = {17, 70, 160};
    spec.d_ff = n_experts[way->size] * 32;
    spec.has_bias = 1;
    spec.rule = SFFN_RULE_ABS_H;
    spec.rule_threshold = 0.05f;
    if (way->rule)
        spec.rule = way->rule;
    layer_make(&scene->layer, &spec, &scene->rng);
    if (way->rule)
        scene->layer.config.rule_k = spec.d_ff / 5;
    /* every ISA of this machine has its turn */
    const char *isas[16];
    scene->isa = isas[rng_next(&scene->rng) % supported_isas(isas, 16)];
    scene->ctx = make_context(1, scene->isa);
    if (way->select == SFFN_SELECT_ROUTER) {
        sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
        float *weights = draw_x(&scene->layer.memory, &scene->rng, 17, spec.d_model, 0);
        config.d_model = spec.d_model;
        config.n_experts = 17;
        config.weights.data = weights;
        CHECK_OK(scene->ctx, sffn_router_create(scene->ctx, &config, &scene->router));
        scene->layer.config.router = scene->router;
    }
    if (way->select == SFFN_SELECT_PREDICTOR) {
        sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
        config.d_model = spec.d_model;
        config.d_ff = spec.d_ff;
        config.gate.data = scene->layer.gate;
        config.gate_bias = scene->layer.gate_bias;
        CHECK_OK(scene->ctx, sffn_predictor_create(scene->ctx, &config, &scene->predictor));
        scene->layer.config.predictor = scene->predictor;
    }
    scene->ffn = layer_create(scene->ctx, &scene->layer);
    scene->x = draw_x(&scene->layer.memory, &scene->rng, way->n_tokens, spec.d_model, 1);
    if (way->select == SFFN_SELECT_ACTIVE) {
        uint8_t *mask = draw_mask(&scene->layer.memory, &scene->rng, way->n_tokens, spec.d_ff, 0.4);
        scene->set = make_set(scene->ctx, mask, way->n_tokens, spec.d_ff, 1);
    }
}

static void scene_free(struct scene *scene)
{
    sffn_active_set_destroy(scene->set);
    sffn_ffn_destroy(scene->ffn);
    sffn_router_destroy(scene->router);
    sffn_predictor_destroy(scene->predictor);
    sffn_context_destroy(scene->ctx);
    layer_free(&scene->layer);
}

static struct result run(struct scene *scene, const struct way *way, enum threading kind,
                         uint32_t n, sffn_context *ctx)
{
    struct result result;
    sffn_ffn_args args = result_args(&result, &scene->layer.memory, scene->ctx, &scene->layer,
                                     scene->x, way->n_tokens);
    args.select = way->select;
    args.active = scene->set;
    if (way->has_no_h)
        args.h = NULL;
    CHECK_OK(ctx, threading_forward(kind, n, &scene->rng, ctx, scene->ffn, &args));
    return result;
}

static void same_result(const struct scene *scene, const struct way *way, const struct result *got,
                        const struct result *want, const char *what)
{
    CHECK_BITS(got->y, want->y, way->n_tokens * scene->layer.spec.d_model, "%s: y", what);
    CHECK_BITS(got->h, want->h, way->n_tokens * scene->layer.spec.d_ff, "%s: h", what);
    for (size_t t = 0; t < way->n_tokens; t++) {
        size_t n = sffn_active_set_count(want->active, t);
        CHECK(sffn_active_set_count(got->active, t) == n);
        CHECK_SAYS(n == 0 ||
                       memcmp(sffn_active_set_indices(got->active, t),
                              sffn_active_set_indices(want->active, t), n * sizeof(uint32_t)) == 0,
                   "%s: active neurons of token %zu", what, t);
    }
    CHECK_SAYS(memcmp(&got->stats, &want->stats, offsetof(sffn_ffn_stats, select_ns)) == 0,
               "%s: statistics", what);
}

struct thread_case {
    int32_t type;
    const struct way *way;
};

static void any_threads_same_bits(void **state)
{
    const struct thread_case *c = *state;
    struct scene scene;
    char what[128];
    snprintf(what, sizeof what, "%s %s", sffn_dtype_name(c->type), c->way->name);
    scene_make(&scene, c->type, c->way, what);
    struct result want = run(&scene, c->way, THREADING_POOL, 1, scene.ctx);
    size_t n_active = want.stats.n_active;
    CHECK_SAYS(n_active > 0 && (c->way->select == SFFN_SELECT_DENSE ||
                                n_active < c->way->n_tokens * scene.layer.spec.d_ff),
               "%zu active neurons test nothing", n_active);
    for (enum threading kind = 0; kind < THREADING_COUNT; kind++)
        for (size_t c_n = 0; c_n < N_COUNTS; c_n++) {
            uint32_t n = thread_counts[c_n];
            sffn_context *ctx = threading_context(kind, n, scene.isa);
            CHECK_OK(ctx, sffn_ffn_reserve(ctx, scene.ffn));
            struct result got = run(&scene, c->way, kind, n, ctx);
            snprintf(what, sizeof what, "%s %s, %s: %s with %u threads", sffn_dtype_name(c->type),
                     c->way->name, scene.isa, threading_names[kind], (unsigned)n);
            same_result(&scene, c->way, &got, &want, what);
            result_free(&got);
            sffn_context_destroy(ctx);
        }
    result_free(&want);
    scene_free(&scene);
}

/* Products of single matrices: the same bits for 1 to 9 threads, through the pool and both
 * parallel_fors. In large ones threads take pieces of each other's shares. */
static void matmul_same_bits_of(int32_t type, uint32_t n_rows, size_t n_tokens)
{
    enum { COLS = 224 };
    struct rng rng = rng_named(sffn_dtype_name(type));
    struct spec spec = SPEC_INIT(COLS, n_rows, type);
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    sffn_context *ctx = make_context(1, NULL);
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = n_rows;
    config.n_cols = COLS;
    config.weights = layer.config.up;
    sffn_matmul *matmul = NULL;
    CHECK_OK(ctx, sffn_matmul_create(ctx, &config, &matmul));
    float *x = draw_x(&layer.memory, &rng, n_tokens, COLS, 0),
          *h = draw_x(&layer.memory, &rng, n_tokens, n_rows, 0);
    uint8_t *mask = draw_mask(&layer.memory, &rng, n_tokens, n_rows, 0.3);
    sffn_active_set *set = make_set(ctx, mask, n_tokens, n_rows, 1);
    float *dot = GUARDED_FLOATS(&layer.memory, n_tokens * n_rows),
          *y = GUARDED_FLOATS(&layer.memory, n_tokens * COLS);
    float *dot1 = GUARDED_FLOATS(&layer.memory, n_tokens * n_rows),
          *y1 = GUARDED_FLOATS(&layer.memory, n_tokens * COLS);
    for (int is_sparse = 0; is_sparse < 2; is_sparse++) {
        const sffn_active_set *active = is_sparse ? set : NULL;
        CHECK_OK(ctx, sffn_matmul_rows_dot(ctx, matmul, x, COLS, n_tokens, active, dot1, n_rows));
        CHECK_OK(ctx, sffn_matmul_rows_axpy(ctx, matmul, h, n_rows, n_tokens, active, y1, COLS));
        for (enum threading kind = THREADING_POOL; kind <= THREADING_FOR_THREADS; kind++)
            for (size_t c_n = 0; c_n < N_COUNTS; c_n++) {
                uint32_t n = thread_counts[c_n];
                sffn_context *other = threading_context(kind, n, NULL);
                CHECK_OK(other, sffn_matmul_rows_dot(other, matmul, x, COLS, n_tokens, active, dot,
                                                     n_rows));
                CHECK_OK(other, sffn_matmul_rows_axpy(other, matmul, h, n_rows, n_tokens, active, y,
                                                      COLS));
                CHECK_BITS(dot, dot1, n_tokens * n_rows, "rows_dot, %s with %u threads",
                           threading_names[kind], (unsigned)n);
                CHECK_BITS(y, y1, n_tokens * COLS, "rows_axpy, %s with %u threads",
                           threading_names[kind], (unsigned)n);
                sffn_context_destroy(other);
            }
    }
    sffn_active_set_destroy(set);
    sffn_matmul_destroy(matmul);
    sffn_context_destroy(ctx);
    layer_free(&layer);
}

static void matmul_same_bits(void **state)
{
    int32_t type = *(const int32_t *)*state;
    matmul_same_bits_of(type, 300, 11);
    matmul_same_bits_of(type, 5000, 1);
    matmul_same_bits_of(type, 5000, 2);
}

/* One layer in several contexts at once, each on its own thread, many times: nobody disturbs
 * anybody. */
enum { N_STREAMS = 4, N_CALLS = 200 };
struct stream {
    sffn_context *ctx;
    sffn_ffn_args args;
    const sffn_ffn *ffn;
    const float *want;
    size_t n;
    int n_wrong;
};

static void run_stream(void *arg, uint32_t i)
{
    struct stream *s = (struct stream *)arg + i;
    for (int k = 0; k < N_CALLS; k++) {
        memset(s->args.y, 0xFF, s->n * sizeof(float));
        if (sffn_ffn_forward(s->ctx, s->ffn, &s->args) != SFFN_OK ||
            memcmp(s->args.y, s->want, s->n * sizeof(float)) != 0)
            s->n_wrong++;
    }
}

static void contexts_share_a_layer(void **state)
{
    int32_t type = *(const int32_t *)*state;
    struct scene scene;
    const struct way *way = &ways[1];
    struct stream streams[N_STREAMS];
    struct result results[N_STREAMS], want[N_STREAMS];
    scene_make(&scene, type, way, "contexts_share_a_layer");
    for (uint32_t i = 0; i < N_STREAMS; i++) {
        scene.x =
            draw_x(&scene.layer.memory, &scene.rng, way->n_tokens, scene.layer.spec.d_model, 0);
        want[i] = run(&scene, way, THREADING_POOL, 1, scene.ctx);
        streams[i].ctx = make_context(1 + i % 2, scene.isa);
        CHECK_OK(streams[i].ctx, sffn_ffn_reserve(streams[i].ctx, scene.ffn));
        streams[i].args = result_args(&results[i], &scene.layer.memory, scene.ctx, &scene.layer,
                                      scene.x, way->n_tokens);
        streams[i].ffn = scene.ffn;
        streams[i].want = want[i].y;
        streams[i].n = way->n_tokens * scene.layer.spec.d_model;
        streams[i].n_wrong = 0;
    }
    CHECK(run_threads(N_STREAMS, run_stream, streams));
    for (size_t i = 0; i < N_STREAMS; i++) {
        CHECK_SAYS(streams[i].n_wrong == 0, "stream %zu was wrong in %d of %d calls", i,
                   streams[i].n_wrong, N_CALLS);
        sffn_context_destroy(streams[i].ctx);
        result_free(&results[i]);
        result_free(&want[i]);
    }
    scene_free(&scene);
}

/* Threads that hammer one context: every call either succeeds with the right bits or says BUSY. */
struct hammer {
    sffn_context *ctx;
    const sffn_ffn *ffn;
    sffn_ffn_args args[N_STREAMS];
    const float *want;
    size_t n;
    int n_ok[N_STREAMS], n_busy[N_STREAMS], n_wrong[N_STREAMS];
};

static void run_hammer(void *arg, uint32_t i)
{
    struct hammer *hammer = arg;
    for (int k = 0; k < N_CALLS; k++) {
        sffn_status status = sffn_ffn_forward(hammer->ctx, hammer->ffn, &hammer->args[i]);
        if (status == SFFN_ERR_BUSY)
            hammer->n_busy[i]++;
        else if (status != SFFN_OK ||
                 memcmp(hammer->args[i].y, hammer->want, hammer->n * sizeof(float)) != 0)
            hammer->n_wrong[i]++;
        else
            hammer->n_ok[i]++;
    }
}

static void one_context_hammered(void **state)
{
    int32_t type = *(const int32_t *)*state;
    struct scene scene;
    const struct way *way = &ways[0];
    struct hammer hammer = {0};
    struct result results[N_STREAMS];
    scene_make(&scene, type, way, "one_context_hammered");
    struct result want = run(&scene, way, THREADING_POOL, 1, scene.ctx);
    hammer.ctx = scene.ctx;
    hammer.ffn = scene.ffn;
    hammer.want = want.y;
    hammer.n = scene.layer.spec.d_model;
    for (size_t i = 0; i < N_STREAMS; i++)
        hammer.args[i] =
            result_args(&results[i], &scene.layer.memory, scene.ctx, &scene.layer, scene.x, 1);
    CHECK(run_threads(N_STREAMS, run_hammer, &hammer));
    int n_ok = 0;
    for (size_t i = 0; i < N_STREAMS; i++) {
        CHECK_SAYS(hammer.n_wrong[i] == 0, "thread %zu was wrong in %d of %d calls", i,
                   hammer.n_wrong[i], N_CALLS);
        n_ok += hammer.n_ok[i];
        result_free(&results[i]);
    }
    CHECK(n_ok > 0);
    result_free(&want);
    scene_free(&scene);
}

int main(void)
{
    static int32_t types[] = {SFFN_F32, SFFN_F16, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
    struct cases cases = {0};
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++)
        for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++) {
            struct thread_case c = {type, &ways[w]};
            if (ways[w].select == SFFN_SELECT_PREDICTOR && type == SFFN_Q4_0)
                continue; /* a 4-bit gate has no 4-bit copy */
            cases_add(&cases, any_threads_same_bits, cases_keep(&cases, &c, sizeof c), "%s %s",
                      sffn_dtype_name(type), ways[w].name);
        }
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++) {
        cases_add(&cases, matmul_same_bits, &types[type], "matmul_same_bits %s",
                  sffn_dtype_name(type));
        cases_add(&cases, contexts_share_a_layer, &types[type], "contexts_share_a_layer %s",
                  sffn_dtype_name(type));
        cases_add(&cases, one_context_hammered, &types[type], "one_context_hammered %s",
                  sffn_dtype_name(type));
    }
    return cases_run(&cases, "threads");
}
