/* Every allocation of every creating call fails once, and then all from there on:
 * SFFN_ERR_OUT_OF_MEMORY, outputs NULL, nothing leaks, the context goes on working. Forward never
 * allocates at all. Threads that the system refuses: SFFN_ERR_THREAD. */
#include <stdio.h>
#include <unistd.h>

#include "allocator.h"
#include "check.h"
#include "layer.h"
#include "threads.h"
#include "tiny_gguf.h"
#include "wrap.h"

enum { D = 64, F = 96, MAX_CALLS = 2000 };

static char model_path[64], out_path[80];
static struct layer layers[SFFN_DTYPE_COUNT_];
static float *x;

/* What an operation may use; made before anything fails. */
struct world {
    sffn_context *ctx;  /* whose allocations fail */
    sffn_context *calm; /* another one */
    sffn_ffn *ffn;      /* of the calm context */
    sffn_predictor *predictor;
    sffn_router *router;
    sffn_matmul *matmul;
    sffn_model *model;
    sffn_active_set *set;
    float y[4 * D], h[4 * F];
};

/* A call that may run out of memory. What it made goes to *made, which must be NULL after an
 * error. */
struct operation {
    const char *name;
    sffn_status (*run)(struct world *world, void **made);
    void (*destroy)(void *made);
};

#define DESTROY(noun)                                                                              \
    static void destroy_##noun(void *made)                                                         \
    {                                                                                              \
        sffn_##noun##_destroy(made);                                                               \
    }
DESTROY(active_set)
DESTROY(matmul)
DESTROY(predictor)
DESTROY(router)
DESTROY(ffn)

static void close_model(void *made)
{
    sffn_model_close(made);
}

static void keep(void *made)
{
    (void)made;
}

static sffn_status make_active_set(struct world *w, void **made)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    config.n_blocks = 500;
    config.max_tokens = 7;
    return sffn_active_set_create(w->ctx, &config, (sffn_active_set **)made);
}

static sffn_status make_matmul_of(struct world *w, void **made, int32_t type, int32_t layout,
                                  int32_t storage, int32_t to, uint32_t block_size)
{
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = layout ? D : F; /* the f x d source, as it lies or as columns */
    config.n_cols = layout ? F : D;
    config.weights.data = layers[type].up_source;
    config.weights.dtype = type;
    config.weights.layout = layout;
    config.storage = storage;
    config.dtype = to;
    config.block_size = block_size;
    return sffn_matmul_create(w->ctx, &config, (sffn_matmul **)made);
}

static sffn_status make_matmul_copied(struct world *w, void **made)
{
    return make_matmul_of(w, made, SFFN_F16, SFFN_LAYOUT_ROWS, SFFN_STORAGE_COPY, -1, 1);
}

static sffn_status make_matmul_borrowed(struct world *w, void **made)
{
    return make_matmul_of(w, made, SFFN_Q4_0, SFFN_LAYOUT_ROWS, SFFN_STORAGE_BORROW, -1, 1);
}

static sffn_status make_matmul_transposed(struct world *w, void **made)
{
    return make_matmul_of(w, made, SFFN_Q8_0, SFFN_LAYOUT_COLUMNS, SFFN_STORAGE_COPY, -1, 1);
}

static sffn_status make_matmul_converted(struct world *w, void **made)
{
    return make_matmul_of(w, made, SFFN_F32, SFFN_LAYOUT_COLUMNS, SFFN_STORAGE_COPY, SFFN_Q4_0, 1);
}

static sffn_status make_matmul_lossless(struct world *w, void **made)
{
    return make_matmul_of(w, made, SFFN_Q8_0, SFFN_LAYOUT_COLUMNS, SFFN_STORAGE_COPY, -1, 32);
}

static sffn_status make_predictor(struct world *w, void **made)
{
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.d_model = D;
    config.d_ff = F;
    config.gate = layers[SFFN_BF16].config.gate;
    config.gate_bias = config.thresholds = layers[SFFN_BF16].gate_bias;
    return sffn_predictor_create(w->ctx, &config, (sffn_predictor **)made);
}

static sffn_status make_predictor_of(struct world *w, void **made, int32_t kind)
{
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.kind = kind;
    config.d_model = D;
    config.d_ff = F;
    config.rank = 32;
    config.gate = layers[SFFN_F32].config.gate;
    config.w1 = layers[SFFN_F32].config.gate; /* more rows than needed */
    config.w2 = layers[SFFN_F32].config.up;
    config.w2.row_bytes = D * sizeof(float); /* and longer ones */
    config.dtype = SFFN_Q8_0;
    if (kind == SFFN_PREDICTOR_LOW_RANK)
        config.b1 = config.b2 = layers[SFFN_BF16].gate_bias;
    config.decision = SFFN_DECIDE_TOP_K;
    config.top_k = 9;
    return sffn_predictor_create(w->ctx, &config, (sffn_predictor **)made);
}

static sffn_status make_low_rank(struct world *w, void **made)
{
    return make_predictor_of(w, made, SFFN_PREDICTOR_LOW_RANK);
}

static sffn_status make_gate_svd(struct world *w, void **made)
{
    return make_predictor_of(w, made, SFFN_PREDICTOR_GATE_SVD);
}

static sffn_status make_signs(struct world *w, void **made)
{
    return make_predictor_of(w, made, SFFN_PREDICTOR_SIGN);
}

static sffn_status make_mlp_router(struct world *w, void **made)
{
    sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
    config.d_model = D;
    config.n_experts = F / 32;
    config.n_hidden = 8;
    config.hidden_weights = layers[SFFN_F32].config.gate;
    config.hidden_bias = config.bias = x;
    config.weights.data = x;
    config.rule = SFFN_ROUTER_MASS;
    config.weighting = SFFN_WEIGHTING_SOFTMAX;
    return sffn_router_create(w->ctx, &config, (sffn_router **)made);
}

static sffn_status make_router(struct world *w, void **made)
{
    sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
    config.d_model = D;
    config.n_experts = F / 32;
    config.weights.data = x;
    config.bias = x;
    return sffn_router_create(w->ctx, &config, (sffn_router **)made);
}

static sffn_status make_ffn_of(struct world *w, void **made, int32_t type, int32_t storage,
                               const sffn_predictor *predictor, const sffn_router *router)
{
    sffn_ffn_config config = layers[type].config;
    config.storage = storage;
    config.predictor = predictor;
    config.router = router;
    config.dense_tokens = 32; /* some calls are longer */
    config.name = "blk.0";
    return sffn_ffn_create(w->ctx, &config, (sffn_ffn **)made);
}

static sffn_status make_ffn_f32(struct world *w, void **made)
{
    return make_ffn_of(w, made, SFFN_F32, SFFN_STORAGE_COPY, NULL, NULL);
}

static sffn_status make_ffn_q8_0_with_predictor(struct world *w, void **made)
{
    return make_ffn_of(w, made, SFFN_Q8_0, SFFN_STORAGE_COPY, w->predictor, NULL);
}

static sffn_status make_ffn_borrowed_with_router(struct world *w, void **made)
{
    return make_ffn_of(w, made, SFFN_Q4_0, SFFN_STORAGE_BORROW, NULL, w->router);
}

static sffn_status reserve(struct world *w, void **made)
{
    (void)made;
    return sffn_ffn_reserve(w->ctx, w->ffn);
}

static sffn_status reserve_threads(struct world *w, void **made)
{
    (void)made;
    return sffn_ffn_reserve_threads(w->ctx, w->ffn, 64);
}

static sffn_status rows_dot(struct world *w, void **made)
{
    (void)made;
    return sffn_matmul_rows_dot(w->ctx, w->matmul, x, D, 2, NULL, w->h, F);
}

static sffn_status rows_axpy(struct world *w, void **made)
{
    (void)made;
    return sffn_matmul_rows_axpy(w->ctx, w->matmul, x, F, 2, NULL, w->y, D);
}

static sffn_status predict(struct world *w, void **made)
{
    (void)made;
    return sffn_predictor_predict(w->ctx, w->predictor, x, D, 2, w->h, F, w->set);
}

static sffn_status route(struct world *w, void **made)
{
    (void)made;
    return sffn_router_select(w->ctx, w->router, x, D, 2, w->h, F / 32, NULL);
}

static sffn_status open_model(struct world *w, void **made)
{
    return sffn_model_open(w->ctx, model_path, (sffn_model **)made);
}

static sffn_status prepare_model(struct world *w, void **made)
{
    sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
    (void)made;
    config.dtype = SFFN_Q8_0;
    return sffn_prepare(w->ctx, w->model, out_path, &config);
}

/* Everything that a calibration can do, with the layer, predictor and router of the calm context. */
static sffn_status use_calibration(struct world *w, sffn_calibration *cal)
{
    static float w1[4 * D], w2[F * 4], weight[F / 32 * D], thresholds[F], moment[D * D];
    sffn_threshold_config find = SFFN_THRESHOLD_CONFIG_INIT;
    sffn_low_rank_config low_rank = SFFN_LOW_RANK_CONFIG_INIT;
    sffn_router_fit_config router = SFFN_ROUTER_FIT_CONFIG_INIT;
    sffn_activity activity = SFFN_ACTIVITY_INIT;
    sffn_measured measured = SFFN_MEASURED_INIT;
    sffn_selector_report report = SFFN_SELECTOR_REPORT_INIT;
    const sffn_activity input = {SFFN_ACTIVE_INPUT, SFFN_TIE_DROP, 0.1f, NULL};
    float threshold;
    sffn_status status = SFFN_OK;
    find.target_cett = 0.1f;
    low_rank.rank = 4;
    router.normalize_input = 1;
    low_rank.max_epochs = router.max_epochs = 1;
    for (int t = 0; t < 40 && status == SFFN_OK; t++)
        status = sffn_calibration_add(w->ctx, cal, x + t % 4 * D, D, x + t % 4 * D, D, 1);
    if (status == SFFN_OK)
        status = sffn_calibration_find_threshold(w->ctx, cal, &find, &activity, thresholds, NULL);
    if (status == SFFN_OK)
        status = sffn_calibration_measure(w->ctx, cal, &input, &measured);
    if (status == SFFN_OK)
        status = sffn_calibration_measure_selector(w->ctx, cal, w->predictor, NULL, NULL, &report);
    if (status == SFFN_OK)
        status = sffn_calibration_selector_threshold(w->ctx, cal, w->predictor, NULL, NULL, 0.9,
                                                     &threshold, thresholds, NULL);
    if (status == SFFN_OK)
        status = sffn_calibration_get_second_moment(w->ctx, cal, moment);
    if (status == SFFN_OK)
        status = sffn_fit_low_rank(w->ctx, cal, &low_rank, w1, w2, NULL, NULL, NULL);
    if (status == SFFN_OK)
        status = sffn_fit_router(w->ctx, cal, &router, NULL, weight, NULL);
    return status;
}

static sffn_status calibrate(struct world *w, void **made)
{
    (void)made;
    sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
    sffn_calibration *cal = NULL;
    config.ffn = w->ffn;
    config.max_samples = 64;
    config.select_d_model = D;
    config.keep_second_moment = 1;
    sffn_status status = sffn_calibration_create(w->ctx, &config, &cal);
    if (status == SFFN_OK)
        status = use_calibration(w, cal);
    sffn_calibration_destroy(cal);
    return status;
}

/* With the layer's own x the predictor starts from the gate's factors. */
static sffn_status fit_from_gate(struct world *w, void **made)
{
    (void)made;
    static float w1[4 * D], w2[F * 4];
    sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
    sffn_low_rank_config low_rank = SFFN_LOW_RANK_CONFIG_INIT;
    sffn_calibration *cal = NULL;
    config.ffn = w->ffn;
    config.max_samples = 64;
    config.keep_second_moment = 1;
    low_rank.rank = 4;
    low_rank.max_epochs = 0;
    sffn_status status = sffn_calibration_create(w->ctx, &config, &cal);
    for (int t = 0; t < 40 && status == SFFN_OK; t++)
        status = sffn_calibration_add(w->ctx, cal, x + t % 4 * D, D, NULL, 0, 1);
    if (status == SFFN_OK)
        status = sffn_fit_low_rank(w->ctx, cal, &low_rank, w1, w2, NULL, NULL, NULL);
    sffn_calibration_destroy(cal);
    return status;
}

static sffn_status cluster(struct world *w, void **made)
{
    (void)made;
    uint32_t permutation[F];
    sffn_cluster_config config = SFFN_CLUSTER_CONFIG_INIT;
    config.weights = layers[SFFN_BF16].config.gate;
    config.n_rows = F;
    config.n_cols = D;
    return sffn_cluster_neurons(w->ctx, &config, permutation, NULL);
}

static sffn_status factor(struct world *w, void **made)
{
    (void)made;
    float w1[4 * D], w2[F * 4];
    sffn_svd_config config = SFFN_SVD_CONFIG_INIT;
    config.weights = layers[SFFN_BF16].config.gate;
    config.n_rows = F;
    config.n_cols = D;
    config.rank = 4;
    return sffn_fit_svd(w->ctx, &config, w1, w2, NULL);
}

static const struct operation operations[] = {
    {"active_set_create", make_active_set, destroy_active_set},
    {"matmul_create copied", make_matmul_copied, destroy_matmul},
    {"matmul_create borrowed", make_matmul_borrowed, destroy_matmul},
    {"matmul_create transposed", make_matmul_transposed, destroy_matmul},
    {"matmul_create converted", make_matmul_converted, destroy_matmul},
    {"matmul_create lossless", make_matmul_lossless, destroy_matmul},
    {"predictor_create", make_predictor, destroy_predictor},
    {"predictor_create low rank", make_low_rank, destroy_predictor},
    {"predictor_create gate svd", make_gate_svd, destroy_predictor},
    {"predictor_create signs", make_signs, destroy_predictor},
    {"router_create", make_router, destroy_router},
    {"router_create with a hidden layer", make_mlp_router, destroy_router},
    {"ffn_create f32", make_ffn_f32, destroy_ffn},
    {"ffn_create q8_0 with predictor", make_ffn_q8_0_with_predictor, destroy_ffn},
    {"ffn_create borrowed with router", make_ffn_borrowed_with_router, destroy_ffn},
    {"ffn_reserve", reserve, keep},
    {"ffn_reserve_threads", reserve_threads, keep},
    {"matmul_rows_dot", rows_dot, keep},
    {"matmul_rows_axpy", rows_axpy, keep},
    {"predictor_predict", predict, keep},
    {"router_select", route, keep},
    {"model_open", open_model, close_model},
    {"prepare", prepare_model, keep},
    {"calibrate", calibrate, keep},
    {"fit from the gate", fit_from_gate, keep},
    {"cluster_neurons", cluster, keep},
    {"fit_svd", factor, keep},
};

/* ---------------------------------------------------------------- worlds */

static void world_make(struct world *w, sffn_context *ctx)
{
    memset(w, 0, sizeof *w);
    w->ctx = ctx;
    struct world calm = {.ctx = make_context(1, NULL)};
    w->calm = calm.ctx;
    CHECK_OK(calm.ctx, make_predictor(&calm, (void **)&w->predictor));
    CHECK_OK(calm.ctx, make_router(&calm, (void **)&w->router));
    CHECK_OK(calm.ctx, make_ffn_of(&calm, (void **)&w->ffn, SFFN_Q8_0, SFFN_STORAGE_COPY,
                                   w->predictor, NULL));
    CHECK_OK(calm.ctx, make_matmul_of(&calm, (void **)&w->matmul, SFFN_Q8_0, SFFN_LAYOUT_ROWS,
                                      SFFN_STORAGE_COPY, -1, 1));
    CHECK_OK(calm.ctx, sffn_model_open(calm.ctx, model_path, &w->model));
    w->set = make_set(calm.ctx, NULL, 4, F, 1);
}

static void world_free(struct world *w)
{
    sffn_active_set_destroy(w->set);
    sffn_model_close(w->model);
    sffn_matmul_destroy(w->matmul);
    sffn_ffn_destroy(w->ffn);
    sffn_router_destroy(w->router);
    sffn_predictor_destroy(w->predictor);
    sffn_context_destroy(w->calm);
}

/* ---------------------------------------------------------------- the caller's allocator fails */

/* Runs the operation with the k-th allocation failing. Returns how many failed: 0 ends the loop
 * over k. */
static size_t run_failing(const struct operation *op, size_t k, int fails_on)
{
    struct test_allocator allocator = TEST_ALLOCATOR_INIT;
    struct world world;
    sffn_status status;
    sffn_context *ctx = allocator_context(&allocator, 2, &status);
    CHECK_OK(NULL, status);
    world_make(&world, ctx);
    for (size_t i = 0; i < 4 * D; i++)
        world.y[i] = 7.0f;
    allocator.fail_at = allocator.n_calls + k;
    allocator.fails_on = fails_on;
    void *made = op->destroy == keep ? NULL : (void *)(uintptr_t)8;
    status = op->run(&world, &made);
    size_t n_failed = allocator.n_failed;
    allocator.fail_at = SIZE_MAX;
    allocator.fails_on = 0;
    if (n_failed > 0) {
        CHECK_SAYS(status == SFFN_ERR_OUT_OF_MEMORY, "%s, allocation %zu: %s", op->name, k,
                   sffn_status_name(status));
        CHECK_SAYS(sffn_context_last_error(ctx)[0] != 0, "%s, allocation %zu: no words", op->name,
                   k);
        CHECK_SAYS(made == NULL, "%s, allocation %zu: the output is not NULL", op->name, k);
        for (size_t i = 0; i < 4 * D; i++)
            CHECK_SAYS(world.y[i] == 7.0f, "%s, allocation %zu: y was touched", op->name, k);
        CHECK_SAYS(access(out_path, F_OK) != 0, "%s, allocation %zu: half a file was left",
                   op->name, k);
        made = NULL;
        CHECK_OK(ctx, op->run(&world, &made)); /* and now there is memory again */
    } else {
        CHECK_SAYS(status == SFFN_OK, "%s: %s", op->name, sffn_status_name(status));
    }
    unlink(out_path);
    op->destroy(made);
    world_free(&world);
    sffn_context_destroy(ctx);
    CHECK_SAYS(allocator.live_blocks == 0, "%s, allocation %zu: %zu bytes in %zu blocks leaked",
               op->name, k, allocator.live_bytes, allocator.live_blocks);
    CHECK_SAYS(allocator.n_wrong == 0, "%s, allocation %zu: %d wrong frees or requests", op->name,
               k, allocator.n_wrong);
    return n_failed;
}

static void every_allocation_fails(void **state)
{
    const struct operation *op = *state;
    for (int fails_on = 0; fails_on < 2; fails_on++) {
        size_t k = 0;
        while (run_failing(op, k, fails_on) > 0)
            CHECK(++k < MAX_CALLS);
        CHECK_SAYS(k > 0, "%s never asks the context's allocator", op->name);
    }
}

static void context_create_fails(void **state)
{
    (void)state;
    for (int fails_on = 0; fails_on < 2; fails_on++)
        for (uint32_t n_threads = 1; n_threads <= 4; n_threads += 3) {
            size_t n_failed = 1, k;
            for (k = 0; n_failed > 0; k++) {
                struct test_allocator allocator = TEST_ALLOCATOR_INIT;
                sffn_status status;
                allocator.fail_at = k;
                allocator.fails_on = fails_on;
                sffn_context *ctx = allocator_context(&allocator, n_threads, &status);
                n_failed = allocator.n_failed;
                CHECK_SAYS(status == (n_failed ? SFFN_ERR_OUT_OF_MEMORY : SFFN_OK),
                           "allocation %zu: %s", k, sffn_status_name(status));
                CHECK((ctx == NULL) == (n_failed > 0));
                sffn_context_destroy(ctx);
                CHECK_SAYS(allocator.live_blocks == 0 && allocator.n_wrong == 0,
                           "allocation %zu: %zu blocks leaked", k, allocator.live_blocks);
                CHECK(k < MAX_CALLS);
            }
            CHECK(k > 1);
        }
}

/* ---------------------------------------------------------------- the C library fails */

/* With the default allocator: malloc and its kin fail, or mmap does. Small helpers may do without;
 * nothing crashes, and an error leaves no output. Leaks are for the address sanitizer to find. */
static void system_memory_fails(void **state)
{
    const struct operation *op = *state;
    for (enum wrapped kind = WRAP_MALLOC; kind <= WRAP_MMAP; kind++)
        for (int fails_on = 0; fails_on < 2; fails_on++) {
            size_t n_failed = 1;
            for (size_t k = 0; n_failed > 0; k++) {
                struct world world;
                sffn_context *ctx = make_context(2, NULL);
                world_make(&world, ctx);
                void *made = op->destroy == keep ? NULL : (void *)(uintptr_t)8;
                wrap_begin(kind, k, fails_on);
                sffn_status status = op->run(&world, &made);
                n_failed = wrap_end();
                int is_ok = status == SFFN_OK ||
                            (n_failed > 0 && status == SFFN_ERR_OUT_OF_MEMORY) ||
                            (n_failed > 0 && kind == WRAP_MMAP &&
                             status == SFFN_ERR_IO); /* a file that can't be mapped */
                CHECK_SAYS(is_ok, "%s, %s %zu: %s", op->name,
                           kind == WRAP_MALLOC ? "malloc" : "mmap", k, sffn_status_name(status));
                if (status != SFFN_OK) {
                    CHECK_SAYS(made == NULL, "%s, call %zu: the output is not NULL", op->name, k);
                    CHECK_OK(ctx, op->run(&world, &made));
                }
                unlink(out_path);
                op->destroy(made);
                world_free(&world);
                sffn_context_destroy(ctx);
                CHECK(k < MAX_CALLS);
            }
        }
}

static void context_create_without_system_memory(void **state)
{
    (void)state;
    for (enum wrapped kind = WRAP_MALLOC; kind <= WRAP_MMAP; kind++)
        for (int fails_on = 0; fails_on < 2; fails_on++) {
            size_t n_failed = 1;
            for (size_t k = 0; n_failed > 0; k++) {
                sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
                sffn_context *ctx = (sffn_context *)(uintptr_t)8;
                config.n_threads = 3;
                wrap_begin(kind, k, fails_on);
                sffn_status status = sffn_context_create(&config, &ctx);
                n_failed = wrap_end();
                CHECK_SAYS(status == SFFN_OK || (n_failed > 0 && status == SFFN_ERR_OUT_OF_MEMORY),
                           "call %zu: %s", k, sffn_status_name(status));
                CHECK((ctx == NULL) == (status != SFFN_OK));
                sffn_context_destroy(ctx);
                CHECK(k < MAX_CALLS);
            }
        }
}

static void threads_are_refused(void **state)
{
    (void)state;
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    sffn_context *any = make_context(1, NULL);
    CHECK_OK(any, sffn_context_get_info(any, &info));
    sffn_context_destroy(any);
    const uint32_t n_threads = info.n_cpus < 5 ? info.n_cpus : 5; /* no more are started */
    for (size_t k = 0; k < 5; k++) {
        sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
        sffn_context *ctx = (sffn_context *)(uintptr_t)8;
        config.n_threads = 5;
        wrap_begin(WRAP_THREAD, k, 0);
        sffn_status status = sffn_context_create(&config, &ctx);
        size_t n_failed = wrap_end();
        CHECK(n_failed == (k + 1 < n_threads));
        CHECK_SAYS(status == (n_failed ? SFFN_ERR_THREAD : SFFN_OK), "thread %zu: %s", k,
                   sffn_status_name(status));
        CHECK((ctx == NULL) == (n_failed > 0));
        CHECK(n_failed == 0 || strstr(sffn_context_last_error(NULL), "thread") != NULL);
        sffn_context_destroy(ctx);
    }
}

/* ---------------------------------------------------------------- forward never allocates */

static void no_allocation_in_calls(void **state)
{
    int32_t type = *(const int32_t *)*state;
    struct test_allocator allocator = TEST_ALLOCATOR_INIT;
    sffn_status status;
    struct rng rng = rng_named("no_allocation");
    sffn_context *ctx = allocator_context(&allocator, 3, &status);
    CHECK_OK(NULL, status);
    struct world world = {.ctx = ctx};
    CHECK_OK(ctx, make_predictor(&world, (void **)&world.predictor));
    CHECK_OK(ctx, make_ffn_of(&world, (void **)&world.ffn, type, SFFN_STORAGE_COPY,
                              type == SFFN_Q4_0 ? NULL : world.predictor, NULL));
    CHECK_OK(ctx, make_matmul_of(&world, (void **)&world.matmul, type, SFFN_LAYOUT_ROWS,
                                 SFFN_STORAGE_COPY, -1, 1));
    CHECK_OK(ctx, sffn_ffn_reserve_threads(ctx, world.ffn, 9));
    enum { T = 40 };
    struct guarded memory = {0};
    float *many_x = draw_x(&memory, &rng, T, D, 0), *y = GUARDED_FLOATS(&memory, T * D),
          *h = GUARDED_FLOATS(&memory, T * F);
    uint8_t *mask = draw_mask(&memory, &rng, T, F, 0.5);
    sffn_active_set *set = make_set(ctx, mask, T, F, 1), *out = make_set(ctx, NULL, T, F, 1);
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    static const int32_t selects[] = {SFFN_SELECT_DEFAULT, SFFN_SELECT_DENSE, SFFN_SELECT_GATE,
                                      SFFN_SELECT_ACTIVE, SFFN_SELECT_PREDICTOR};
    static const size_t counts[] = {1, 5, 20, T};
    /* rows_dot, rows_axpy, predict and the stages may take scratch in their first call of a size */
    for (int pass = 0; pass < 2; pass++) {
        size_t before = allocator.n_calls;
        wrap_begin(WRAP_MALLOC, SIZE_MAX, 0);
        for (size_t c = 0; c < 4; c++) {
            for (size_t s = 0; s < 5; s++) {
                if (selects[s] == SFFN_SELECT_PREDICTOR && type == SFFN_Q4_0)
                    continue;
                sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
                args.x = many_x;
                args.y = y;
                args.h = h;
                args.n_tokens = counts[c];
                args.select = selects[s];
                args.active = selects[s] == SFFN_SELECT_ACTIVE ? set : NULL;
                args.active_out = out;
                args.stats = &stats;
                size_t calls = allocator.n_calls, mallocs = wrap_calls(WRAP_MALLOC),
                       maps = wrap_calls(WRAP_MMAP);
                size_t threads = wrap_calls(WRAP_THREAD);
                CHECK_OK(ctx, sffn_ffn_forward(ctx, world.ffn, &args));
                for (uint32_t phase = 0; phase < sffn_ffn_n_phases(world.ffn, &args); phase++)
                    for (uint32_t ith = 0; ith < 9; ith++)
                        CHECK_OK(ctx, sffn_ffn_forward_phase(ctx, world.ffn, &args, phase, ith, 9));
                CHECK_SAYS(allocator.n_calls == calls, "forward allocates: select %d, %zu tokens",
                           (int)selects[s], counts[c]);
                CHECK_SAYS(
                    stats.path == SFFN_PATH_DENSE_ONEDNN || /* oneDNN itself is another library */
                        (wrap_calls(WRAP_MALLOC) == mallocs && wrap_calls(WRAP_MMAP) == maps),
                    "forward calls malloc: select %d, %zu tokens", (int)selects[s], counts[c]);
                CHECK(wrap_calls(WRAP_THREAD) == threads);
            }
            size_t n = counts[c];
            CHECK_OK(ctx, sffn_matmul_rows_dot(ctx, world.matmul, many_x, D, n, set, h, F));
            CHECK_OK(ctx, sffn_matmul_rows_axpy(ctx, world.matmul, h, F, n, set, y, D));
            CHECK_OK(ctx, sffn_predictor_predict(ctx, world.predictor, many_x, D, n, h, F, out));
            CHECK_OK(ctx, sffn_ffn_gate(ctx, world.ffn, many_x, n, set, h, out));
            CHECK_OK(ctx, sffn_ffn_up(ctx, world.ffn, many_x, h, n, out, h));
            CHECK_OK(ctx, sffn_ffn_down(ctx, world.ffn, h, n, out, y));
        }
        wrap_end();
        CHECK_SAYS(pass == 0 || (allocator.n_calls == before && wrap_calls(WRAP_MALLOC) == 0),
                   "%zu allocations in the second pass", allocator.n_calls - before);
    }
    sffn_active_set_destroy(set);
    sffn_active_set_destroy(out);
    sffn_matmul_destroy(world.matmul);
    sffn_ffn_destroy(world.ffn);
    sffn_predictor_destroy(world.predictor);
    sffn_context_destroy(ctx);
    guarded_free(&memory);
    CHECK(allocator.live_blocks == 0 && allocator.n_wrong == 0);
}

int main(void)
{
    static int32_t types[] = {SFFN_F32, SFFN_F16, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
    struct cases cases = {0};
    struct guarded memory = {0};
    struct rng rng = rng_named("faults");
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++) {
        struct spec spec = SPEC_INIT(D, F, type);
        spec.has_bias = 1;
        spec.has_thresholds = 1;
        spec.rule = SFFN_RULE_ABS_H;
        layer_make(&layers[type], &spec, &rng);
    }
    x = draw_x(&memory, &rng, 4, F > D ? F : D, 0);
    if (!tiny_gguf_write(model_path, D, F)) {
        print_error("no temporary file\n");
        return 1;
    }
    snprintf(out_path, sizeof out_path, "%s.out", model_path);
    size_t n = sizeof operations / sizeof operations[0];
    for (size_t i = 0; i < n; i++)
        cases_add(&cases, every_allocation_fails, (void *)(uintptr_t)&operations[i],
                  "allocator: %s", operations[i].name);
    CASE(&cases, context_create_fails);
    for (size_t i = 0; i < n; i++)
        cases_add(&cases, system_memory_fails, (void *)(uintptr_t)&operations[i], "system: %s",
                  operations[i].name);
    CASE(&cases, context_create_without_system_memory);
    CASE(&cases, threads_are_refused);
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        cases_add(&cases, no_allocation_in_calls, &types[type], "no_allocation_in_calls %s",
                  sffn_dtype_name(type));
    int failed = cases_run(&cases, "faults");
    unlink(model_path);
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        layer_free(&layers[type]);
    guarded_free(&memory);
    return failed;
}
