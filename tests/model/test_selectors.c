/* Selectors, rules, plans and permutations: what sffn_prepare() writes comes back, layers run with
 * it, and a file that has them wrong is told so. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "build.h"
#include "model/model.h"
#include "model/selectors.h"

enum { D_MODEL = 32, D_FF = 64, LAYERS = 2 }; /* g_valid()'s */

static sffn_context *ctx;
static struct heap heap;
static const char *folder;

static int set_up(void **state)
{
    (void)state;
    ctx = heap_context(&heap, 2);
    folder = folder_make();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    sffn_context_destroy(ctx);
    assert_int_equal(heap.live, 0);
    folder_remove(folder);
    return 0;
}

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != SFFN_OK)                                                                     \
            fail_msg("%s: %s", #call, sffn_context_last_error(ctx));                               \
    } while (0)
#define ERROR(call, wanted, words)                                                                 \
    do {                                                                                           \
        const sffn_status status_ = (call);                                                        \
        if (status_ != (wanted) || !strstr(sffn_context_last_error(ctx), words))                   \
            fail_msg("%s: %s: \"%s\", expected %s: \"%s\"", #call, sffn_status_name(status_),      \
                     sffn_context_last_error(ctx), sffn_status_name(wanted), words);               \
    } while (0)

/* ---- sources ---- */

static sffn_model *open_buf(const struct buf *b, const char *name)
{
    sffn_model *m = NULL;
    file_write(path_of(folder, name), b->data, b->n);
    OK(sffn_model_open(ctx, path_of(folder, name), &m));
    return m;
}

static sffn_model *open_valid(void)
{
    struct buf b = {NULL, 0, 0};
    g_valid(&b);
    sffn_model *m = open_buf(&b, "source.gguf");
    b_free(&b);
    return m;
}

static sffn_model *prepare(const sffn_model *source, const char *name,
                           const sffn_prepare_config *config)
{
    sffn_model *m = NULL;
    OK(sffn_prepare(ctx, source, path_of(folder, name), config));
    OK(sffn_model_open(ctx, path_of(folder, name), &m));
    return m;
}

static float value(size_t i)
{
    return (float)(int)(i * 2654435761u % 401) / 200.0f - 1.0f;
}

static void shuffle(uint32_t *order, uint32_t seed)
{
    for (uint32_t i = 0; i < D_FF; i++)
        order[i] = i;
    for (uint32_t i = D_FF - 1; i > 0; i--) {
        seed = seed * 1664525u + 1013904223u;
        const uint32_t j = (seed >> 8) % (i + 1), swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

static float thresholds[D_FF], router_weights[2 * D_MODEL], router_bias[2];
static uint32_t orders[LAYERS][D_FF];

/* Layer 0: a predictor, thresholds and a permutation. Layer 1: a router and a rule. */
static void make_results(sffn_prepare_layer layers[LAYERS], sffn_predictor_config *predictor,
                         sffn_router_config *router)
{
    const sffn_prepare_layer init = SFFN_PREPARE_LAYER_INIT;
    const sffn_predictor_config predictor_init = SFFN_PREDICTOR_CONFIG_INIT;
    const sffn_router_config router_init = SFFN_ROUTER_CONFIG_INIT;
    for (uint32_t i = 0; i < D_FF; i++)
        thresholds[i] = value(i + 7) / 8;
    for (uint32_t i = 0; i < 2 * D_MODEL; i++)
        router_weights[i] = value(i + 99);
    router_bias[0] = 0.125f, router_bias[1] = -0.25f;
    shuffle(orders[0], 1);
    shuffle(orders[1], 2);
    *predictor = predictor_init;
    predictor->d_model = D_MODEL;
    predictor->d_ff = D_FF;
    predictor->threshold = 0.25f;
    predictor->thresholds = thresholds;
    predictor->margin = 0.75f;
    predictor->tie = SFFN_TIE_KEEP;
    predictor->top_k = 7;
    predictor->top_k_multiple = 4;
    *router = router_init;
    router->d_model = D_MODEL;
    router->n_experts = 2;
    router->threshold = 0.375f;
    router->weights.data = router_weights;
    router->bias = router_bias;
    layers[0] = layers[1] = init;
    layers[0].plan = SFFN_SELECT_PREDICTOR;
    layers[0].predictor = predictor;
    layers[0].permutation = orders[0];
    layers[1].plan = SFFN_SELECT_ROUTER;
    layers[1].router = router;
    layers[1].rule = SFFN_RULE_ABS_H;
    layers[1].rule_tie = SFFN_TIE_KEEP;
    layers[1].rule_threshold = 0.0625f;
    layers[1].rule_thresholds = thresholds;
    layers[1].rule_k = 3;
    layers[1].rule_m = 16;
    layers[1].rule_sparsity = 0.75f;
}

static sffn_prepare_config config_with(const sffn_prepare_layer *layers)
{
    sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
    config.layers = layers;
    config.n_layers = LAYERS;
    config.command = "prepare source.gguf";
    config.notes = "for a test";
    return config;
}

static const void *tensor_data(const sffn_model *m, const char *name)
{
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    OK(sffn_model_find_tensor(m, name, &t));
    return t.data;
}

static void check_text(const sffn_model *m, const char *key, size_t i, const char *expected)
{
    const char *text;
    size_t bytes;
    OK(sffn_model_get_string(m, key, i, &text, &bytes));
    if (bytes != strlen(expected) || memcmp(text, expected, bytes) != 0)
        fail_msg("%s[%zu] is '%.*s', expected '%s'", key, i, (int)bytes, text, expected);
}

/* ---- out and in ---- */

static void comes_back(void **state)
{
    (void)state;
    sffn_prepare_layer layers[LAYERS];
    sffn_predictor_config predictor, read = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_router_config router, read_router = SFFN_ROUTER_CONFIG_INIT;
    sffn_ffn_config ffn = SFFN_FFN_CONFIG_INIT;
    uint32_t order[D_FF];
    int32_t plan = -1;
    make_results(layers, &predictor, &router);
    const sffn_prepare_config config = config_with(layers);
    sffn_model *source = open_valid(), *m = prepare(source, "out.gguf", &config);
    check_text(m, "sffn.prepare.command", 0, "prepare source.gguf");
    check_text(m, "sffn.prepare.notes", 0, "for a test");
    check_text(m, "sffn.plan", 0, "predictor");
    check_text(m, "sffn.plan", 1, "router");
    check_text(m, "sffn.rule", 0, "none");
    check_text(m, "sffn.rule", 1, "abs_h");
    check_text(m, "sffn.predictor.kind", 0, "screened_gate");
    check_text(m, "sffn.predictor.kind", 1, "none");
    check_text(m, "sffn.router.rule", 0, "none");
    check_text(m, "sffn.router.rule", 1, "sigmoid");

    OK(sffn_model_layer_plan(m, 0, &plan));
    assert_int_equal(plan, SFFN_SELECT_PREDICTOR);
    OK(sffn_model_layer_predictor_config(m, 0, &read));
    assert_true(read.kind == SFFN_PREDICTOR_SCREENED_GATE && read.threshold == 0.25f &&
                read.margin == 0.75f && read.decision == SFFN_DECIDE_THRESHOLD &&
                read.tie == SFFN_TIE_KEEP && read.top_k == 7 && read.top_k_multiple == 4 &&
                read.d_model == D_MODEL && read.d_ff == D_FF);
    for (uint32_t i = 0; i < D_FF; i++)
        assert_true(read.thresholds[i] == thresholds[orders[0][i]]);
    assert_ptr_equal(read.gate.data, tensor_data(m, "blk.0.ffn_gate.weight"));
    ERROR(sffn_model_layer_predictor_config(m, 1, &read), SFFN_ERR_NOT_FOUND,
          "layer 1 has no predictor");
    OK(sffn_model_layer_permutation(m, 0, order));
    assert_memory_equal(order, orders[0], sizeof(order));
    ERROR(sffn_model_layer_permutation(m, 1, order), SFFN_ERR_NOT_FOUND,
          "layer 1 has no permutation");

    OK(sffn_model_layer_plan(m, 1, &plan));
    assert_int_equal(plan, SFFN_SELECT_ROUTER);
    OK(sffn_model_layer_router_config(m, 1, &read_router));
    assert_true(read_router.rule == SFFN_ROUTER_SIGMOID && read_router.threshold == 0.375f &&
                read_router.block_size == 32 && read_router.n_experts == 2 &&
                read_router.d_model == D_MODEL);
    assert_memory_equal(read_router.weights.data, router_weights, sizeof(router_weights));
    assert_memory_equal(read_router.bias, router_bias, sizeof(router_bias));
    ERROR(sffn_model_layer_router_config(m, 0, &read_router), SFFN_ERR_NOT_FOUND,
          "layer 0 has no router");
    OK(sffn_model_layer_config(m, 1, &ffn));
    assert_true(ffn.rule == SFFN_RULE_ABS_H && ffn.rule_tie == SFFN_TIE_KEEP &&
                ffn.rule_threshold == 0.0625f && ffn.rule_k == 3 && ffn.rule_m == 16 &&
                ffn.rule_sparsity == 0.75f);
    assert_memory_equal(ffn.rule_thresholds, thresholds, sizeof(thresholds));
    OK(sffn_model_layer_config(m, 0, &ffn));
    assert_true(ffn.rule == SFFN_RULE_NONE && !ffn.rule_thresholds);

    /* Rows of all three matrices moved together, bit for bit. */
    const float *gate = tensor_data(source, "blk.0.ffn_gate.weight"),
                *new_gate = tensor_data(m, "blk.0.ffn_gate.weight");
    const float *up = tensor_data(source, "blk.0.ffn_up.weight"),
                *new_up = tensor_data(m, "blk.0.ffn_up.weight");
    const float *down = tensor_data(source, "blk.0.ffn_down.weight"),
                *new_down = tensor_data(m, "blk.0.ffn_down_t.weight");
    for (uint32_t i = 0; i < D_FF; i++) {
        const uint32_t old = orders[0][i];
        assert_memory_equal(new_gate + i * D_MODEL, gate + old * D_MODEL, D_MODEL * sizeof(float));
        assert_memory_equal(new_up + i * D_MODEL, up + old * D_MODEL, D_MODEL * sizeof(float));
        for (uint32_t j = 0; j < D_MODEL; j++)
            assert_true(new_down[i * D_MODEL + j] == down[j * D_FF + old]);
    }

    /* Prepared again without results: everything stays. With others: what was there goes, and permutations add up. */
    sffn_model *again = prepare(m, "again.gguf", NULL);
    check_text(again, "sffn.prepare.command", 0, "prepare source.gguf");
    check_text(again, "sffn.plan", 1, "router");
    sffn_model_info info = SFFN_MODEL_INFO_INIT, info_again = SFFN_MODEL_INFO_INIT;
    OK(sffn_model_get_info(m, &info));
    OK(sffn_model_get_info(again, &info_again));
    assert_true(info.n_tensors == info_again.n_tensors && info.n_meta == info_again.n_meta);
    OK(sffn_model_layer_predictor_config(again, 0, &read));
    assert_true(read.thresholds[0] == thresholds[orders[0][0]]);
    const sffn_prepare_layer none = SFFN_PREPARE_LAYER_INIT;
    layers[0] = layers[1] = none;
    layers[0].permutation = orders[1];
    sffn_model *third = prepare(m, "third.gguf", &config);
    OK(sffn_model_layer_permutation(third, 0, order));
    for (uint32_t i = 0; i < D_FF; i++)
        assert_int_equal(order[i], orders[0][orders[1][i]]);
    OK(sffn_model_layer_plan(third, 0, &plan));
    assert_int_equal(plan, SFFN_SELECT_DEFAULT);
    assert_int_equal(sffn_model_meta_count(third, "sffn.predictor.kind"), 0);
    ERROR(sffn_model_layer_router_config(third, 1, &read_router), SFFN_ERR_NOT_FOUND, "no router");
    /* A layer without a new permutation keeps the old one. */
    layers[0].permutation = NULL;
    sffn_model *fourth = prepare(m, "fourth.gguf", &config);
    OK(sffn_model_layer_permutation(fourth, 0, order));
    assert_memory_equal(order, orders[0], sizeof(order));
    sffn_model *all[] = {fourth, third, again, m, source};
    for (size_t i = 0; i < 5; i++)
        sffn_model_close(all[i]);
}

/* A permuted layer computes the source's values: f32 sums in another order, bounded by the number of terms. */
static void permuted_layers(void **state)
{
    (void)state;
    sffn_prepare_layer layers[LAYERS];
    sffn_predictor_config predictor;
    sffn_router_config router;
    float x[3 * D_MODEL], y[2][3 * D_MODEL], h[2][3 * D_FF];
    for (size_t i = 0; i < 3 * D_MODEL; i++)
        x[i] = value(i + 5);
    static const int32_t types[] = {-1, SFFN_F16, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
    sffn_model *source = open_valid();
    for (size_t type = 0; type < sizeof(types) / sizeof(types[0]); type++) {
        make_results(layers, &predictor, &router);
        layers[0].plan = layers[1].plan = SFFN_SELECT_GATE;
        layers[1].permutation = orders[1];
        layers[1].rule = SFFN_RULE_NONE;
        sffn_prepare_config config = config_with(layers);
        config.dtype = types[type];
        sffn_model *models[2];
        models[1] = prepare(source, "permuted.gguf", &config);
        layers[0].permutation = layers[1].permutation = NULL;
        models[0] = prepare(source, "plain.gguf", &config);
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            for (int i = 0; i < 2; i++) {
                sffn_ffn *ffn = NULL;
                sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
                OK(sffn_ffn_create_from_model(ctx, models[i], layer, NULL, &ffn));
                args.x = x, args.y = y[i], args.h = h[i], args.n_tokens = 3;
                OK(sffn_ffn_forward(ctx, ffn, &args));
                sffn_ffn_destroy(ffn);
            }
            for (size_t t = 0; t < 3; t++) {
                float largest = 0;
                for (size_t i = 0; i < D_FF; i++) {
                    assert_true(h[1][t * D_FF + i] == h[0][t * D_FF + orders[layer][i]]);
                    largest = fmaxf(largest, fabsf(h[0][t * D_FF + i]));
                }
                /* Two orders of D_FF fused multiply-adds, each off by at most D_FF * 2^-24 of the sum of |h * down|;
                 * |down| <= 1, and 9/8 when it was rounded. */
                const float bound = 2 * D_FF * 0x1p-24f * (D_FF * largest * 1.125f);
                for (size_t i = 0; i < D_MODEL; i++)
                    assert_true(fabsf(y[0][t * D_MODEL + i] - y[1][t * D_MODEL + i]) <= bound);
            }
        }
        sffn_model_close(models[0]);
        sffn_model_close(models[1]);
    }
    sffn_model_close(source);
}

/* One call makes a layer that does what the plan says. */
static void ready_layers(void **state)
{
    (void)state;
    sffn_prepare_layer layers[LAYERS];
    sffn_predictor_config predictor;
    sffn_router_config router;
    make_results(layers, &predictor, &router);
    sffn_prepare_config config = config_with(layers);
    sffn_model *source = open_valid(), *m = prepare(source, "ready.gguf", &config);
    float x[D_MODEL], y[2][D_MODEL];
    for (size_t i = 0; i < D_MODEL; i++)
        x[i] = value(i + 3);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        sffn_ffn *ready = NULL, *by_hand = NULL;
        sffn_predictor *p = NULL;
        sffn_router *r = NULL;
        sffn_predictor_config pc = SFFN_PREDICTOR_CONFIG_INIT;
        sffn_router_config rc = SFFN_ROUTER_CONFIG_INIT;
        sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
        sffn_ffn_info info = SFFN_FFN_INFO_INIT;
        OK(sffn_ffn_create_from_model(ctx, m, layer, NULL, &ready));
        OK(sffn_ffn_get_info(ready, &info));
        assert_true(info.has_predictor == (layer == 0) && info.has_router == (layer == 1));
        if (layer == 0) {
            OK(sffn_model_layer_predictor_config(m, layer, &pc));
            OK(sffn_predictor_create(ctx, &pc, &p));
        } else {
            OK(sffn_model_layer_router_config(m, layer, &rc));
            OK(sffn_router_create(ctx, &rc, &r));
        }
        OK(sffn_model_layer_config(m, layer, &c));
        c.predictor = p;
        c.router = r;
        OK(sffn_ffn_create(ctx, &c, &by_hand));
        const sffn_ffn *both[] = {ready, by_hand};
        sffn_ffn_stats stats[2] = {SFFN_FFN_STATS_INIT, SFFN_FFN_STATS_INIT};
        for (int i = 0; i < 2; i++) {
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            args.x = x, args.y = y[i], args.n_tokens = 1, args.stats = &stats[i];
            OK(sffn_ffn_forward(ctx, both[i], &args));
        }
        assert_memory_equal(y[0], y[1], sizeof(y[0]));
        assert_true(stats[0].n_selected == stats[1].n_selected && stats[0].n_selected < D_FF);
        sffn_ffn_destroy(ready);
        sffn_ffn_destroy(by_hand);
        sffn_predictor_destroy(p);
        sffn_router_destroy(r);
    }
    sffn_model_close(m);

    /* Plans without a selector. The caller's own choice comes first. */
    layers[0].plan = SFFN_SELECT_DENSE;
    layers[1].plan = SFFN_SELECT_GATE;
    m = prepare(source, "plans.gguf", &config);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (int32_t select = SFFN_SELECT_DEFAULT; select <= SFFN_SELECT_GATE; select++) {
            sffn_ffn *ffn = NULL;
            sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
            sffn_ffn_info info = SFFN_FFN_INFO_INIT;
            sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            c.select = select;
            OK(sffn_ffn_create_from_model(ctx, m, layer, &c, &ffn));
            OK(sffn_ffn_get_info(ffn, &info));
            assert_true(!info.has_predictor && !info.has_router);
            args.x = x, args.y = y[0], args.n_tokens = 1, args.stats = &stats;
            OK(sffn_ffn_forward(ctx, ffn, &args));
            const int is_dense =
                select == SFFN_SELECT_DENSE || (select == SFFN_SELECT_DEFAULT && layer == 0);
            assert_int_equal(stats.path, is_dense ? SFFN_PATH_DENSE : SFFN_PATH_SPARSE);
            sffn_ffn_destroy(ffn);
        }
    }
    /* Bad arguments, and no memory at any point. */
    sffn_ffn *ffn = (sffn_ffn *)m;
    ERROR(sffn_ffn_create_from_model(ctx, NULL, 0, NULL, &ffn), SFFN_ERR_INVALID_ARGUMENT,
          "model is NULL");
    ERROR(sffn_ffn_create_from_model(ctx, m, 0, NULL, NULL), SFFN_ERR_INVALID_ARGUMENT,
          "ffn is NULL");
    ERROR(sffn_ffn_create_from_model(ctx, m, 2, NULL, &ffn), SFFN_ERR_NOT_FOUND, "layer 2 of 2");
    assert_null(ffn);
    sffn_model_close(m);
    layers[0].plan = SFFN_SELECT_PREDICTOR;
    m = prepare(source, "memory.gguf", &config);
    OK(sffn_ffn_create_from_model(ctx, m, 0, NULL,
                                  &ffn)); /* the context's scratch has its size now */
    sffn_ffn_destroy(ffn);
    const size_t live = heap.live;
    for (size_t n = 1;; n++) {
        heap_mark(&heap);
        heap.fail_at = n;
        const sffn_status status = sffn_ffn_create_from_model(ctx, m, 0, NULL, &ffn);
        heap.fail_at = 0;
        if (status == SFFN_OK)
            break;
        assert_int_equal(status, SFFN_ERR_OUT_OF_MEMORY);
        assert_null(ffn);
        assert_int_equal(heap.live, live);
        assert_true(n < 100);
    }
    sffn_ffn_destroy(ffn);
    sffn_model_close(m);
    sffn_model_close(source);
}

/* Each field of the configs, with a value that is not its default, and every tensor. */
static void every_field(void **state)
{
    (void)state;
    enum { RANK = 12, HIDDEN = 6, EXPERTS = 4 };
    const sffn_prepare_layer init = SFFN_PREPARE_LAYER_INIT;
    sffn_prepare_layer layers[LAYERS] = {init, init};
    sffn_predictor_config p = SFFN_PREDICTOR_CONFIG_INIT, p_read = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_router_config r = SFFN_ROUTER_CONFIG_INIT, r_read = SFFN_ROUTER_CONFIG_INIT;
    float w1[RANK * D_MODEL], b1[RANK], b2[D_FF], hidden[HIDDEN * D_MODEL], hidden_bias[HIDDEN];
    float experts[EXPERTS * HIDDEN], bias[EXPERTS];
    uint16_t w2[D_FF * RANK];
    float *const all[] = {w1, b1, b2, hidden, hidden_bias, experts, bias, thresholds};
    const size_t sizes[] = {RANK * D_MODEL,   RANK,    D_FF, HIDDEN * D_MODEL, HIDDEN,
                            EXPERTS * HIDDEN, EXPERTS, D_FF};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        for (size_t j = 0; j < sizes[i]; j++)
            all[i][j] = value(j * 7 + i);
    for (size_t i = 0; i < D_FF * RANK; i++)
        w2[i] = (uint16_t)(0x3c00 + i); /* f16 */
    shuffle(orders[0], 3);
    p.kind = SFFN_PREDICTOR_LOW_RANK;
    p.d_model = D_MODEL;
    p.d_ff = D_FF;
    p.decision = SFFN_DECIDE_TOP_K;
    p.tie = SFFN_TIE_KEEP;
    p.threshold = -0.5f;
    p.thresholds = thresholds;
    p.margin = 0.25f;
    p.top_k = 20;
    p.top_k_multiple = 8;
    p.rank = RANK;
    p.w1.data = w1;
    p.w2.data = w2;
    p.w2.dtype = SFFN_F16;
    p.b1 = b1;
    p.b2 = b2;
    p.hidden_activation = SFFN_HIDDEN_TANH;
    p.dtype = SFFN_BF16;
    p.input = SFFN_INPUT_LAYER_NORM;
    p.alpha = 1.25f;
    p.bits = 4;
    p.step_bits = 2;
    p.column_share = 0.375f;
    r.d_model = D_MODEL;
    r.n_experts = EXPERTS;
    r.block_size = D_FF / EXPERTS;
    r.rule = SFFN_ROUTER_MASS;
    r.threshold = 0.25f;
    r.weights.data = experts;
    r.bias = bias;
    r.top_k = 3;
    r.mass = 0.75f;
    r.n_hidden = HIDDEN;
    r.hidden_weights.data = hidden;
    r.hidden_bias = hidden_bias;
    r.normalize_input = 1;
    r.weighting = SFFN_WEIGHTING_SOFTMAX_SELECTED;
    r.input = SFFN_INPUT_LAYER;
    layers[0].predictor = &p;
    layers[0].permutation = orders[0];
    layers[1].router = &r;
    layers[0].rule = SFFN_RULE_STATISTICAL_H;
    layers[0].rule_tie = SFFN_TIE_KEEP;
    layers[0].rule_threshold = 0.5f;
    layers[0].rule_k = 3;
    layers[0].rule_m = 16;
    layers[0].rule_sparsity = 0.875f;
    layers[1].rule = SFFN_RULE_BLOCK_TOP_K_SCORE;
    layers[1].rule_k = 5;
    layers[1].rule_m = 7;
    sffn_prepare_config config = config_with(layers);
    config.dtype = SFFN_Q8_0; /* selectors keep their types */
    sffn_model *source = open_valid(), *m = prepare(source, "fields.gguf", &config);
    sffn_prepare_config again = SFFN_PREPARE_CONFIG_INIT;
    again.dtype = SFFN_Q4_0;
    for (int pass = 0; pass < 2; pass++) { /* and when they are carried over */
        OK(sffn_model_layer_predictor_config(m, 0, &p_read));
        OK(sffn_model_layer_router_config(m, 1, &r_read));
        for (uint32_t i = 0; i < LAYERS; i++) {
            sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
            OK(sffn_model_layer_config(m, i, &c));
            assert_true(c.rule == layers[i].rule && c.rule_tie == layers[i].rule_tie &&
                        c.rule_threshold == layers[i].rule_threshold &&
                        c.rule_k == layers[i].rule_k && c.rule_m == layers[i].rule_m &&
                        c.rule_sparsity == layers[i].rule_sparsity);
        }
#define SAME(field) assert_true(p_read.field == p.field)
        SAME(kind), SAME(d_model), SAME(d_ff), SAME(decision), SAME(tie), SAME(threshold);
        SAME(margin), SAME(top_k), SAME(top_k_multiple), SAME(rank), SAME(hidden_activation);
        SAME(dtype), SAME(input), SAME(alpha), SAME(bits), SAME(step_bits), SAME(column_share),
            SAME(w1.dtype), SAME(w2.dtype), SAME(n_layers);
#undef SAME
#define SAME(field) assert_true(r_read.field == r.field)
        SAME(d_model), SAME(n_experts), SAME(block_size), SAME(rule), SAME(threshold), SAME(top_k);
        SAME(mass), SAME(n_hidden), SAME(normalize_input), SAME(weighting), SAME(input);
        assert_memory_equal(p_read.w1.data, w1, sizeof(w1));
        assert_memory_equal(p_read.b1, b1, sizeof(b1));
        for (uint32_t i = 0; i < D_FF; i++) {
            const uint32_t old = orders[0][i];
            assert_memory_equal((const uint16_t *)p_read.w2.data + i * RANK, w2 + old * RANK,
                                RANK * sizeof(*w2));
            assert_true(p_read.b2[i] == b2[old] && p_read.thresholds[i] == thresholds[old]);
        }
        assert_memory_equal(r_read.weights.data, experts, sizeof(experts));
        assert_memory_equal(r_read.bias, bias, sizeof(bias));
        assert_memory_equal(r_read.hidden_weights.data, hidden, sizeof(hidden));
        assert_memory_equal(r_read.hidden_bias, hidden_bias, sizeof(hidden_bias));
        sffn_model *next = prepare(m, pass ? "last.gguf" : "next.gguf", &again);
        sffn_model_close(m);
        m = next;
    }
    sffn_model_close(m);
    /* A cascade has a vector of its own, in the order of the inputs. */
    layers[0].permutation = orders[0];
    p.kind = SFFN_PREDICTOR_CASCADE;
    p.decision = SFFN_DECIDE_THRESHOLD;
    p.input_mean = w1;
    const sffn_predictor_config init_predictor = SFFN_PREDICTOR_CONFIG_INIT;
    p_read = init_predictor;
    m = prepare(source, "cascade.gguf", &config);
    OK(sffn_model_layer_predictor_config(m, 0, &p_read));
    assert_true(p_read.kind == SFFN_PREDICTOR_CASCADE && !p_read.w1.data);
    assert_memory_equal(p_read.input_mean, w1, D_MODEL * sizeof(float));
    sffn_model_close(m);
    sffn_model_close(source);
}

/* The library has names for some values: files use the same. */
static void names(void **state)
{
    (void)state;
    for (int32_t rule = 0; sffn_rule_from_name(sffn_rule_name(rule)) == rule; rule++)
        assert_string_equal(sffn_field_name(&sffn_rule_fields.rows[0], rule), sffn_rule_name(rule));
    const struct sffn_field *dtype = NULL;
    for (size_t i = 0; i < sffn_predictor_fields.n; i++)
        if (strcmp(sffn_predictor_fields.rows[i].key, "sffn.predictor.dtype") == 0)
            dtype = &sffn_predictor_fields.rows[i];
    assert_non_null(dtype);
    for (int32_t i = 0; i < SFFN_DTYPE_COUNT_; i++)
        assert_string_equal(sffn_field_name(dtype, i), sffn_dtype_name(i));
    assert_null(sffn_field_name(&sffn_plan_field, SFFN_SELECT_ACTIVE));
    assert_null(sffn_field_name(&sffn_predictor_fields.rows[0], SFFN_PREDICTOR_CALLBACK));
}

/* ---- PowerInfer's files ---- */

enum { RANK = 32 };

static const uint64_t gate_ne[] = {D_MODEL, D_FF}, fc1_ne[] = {D_MODEL, RANK},
                      fc2_ne[] = {RANK, D_FF}, long_ne[] = {RANK, 2 * D_FF},
                      wide_ne[] = {2 * D_MODEL, RANK};

static void g_powerinfer(struct buf *b, const char *architecture, uint32_t dtype, uint32_t ggml,
                         const uint64_t *ne1, const uint64_t *ne2, int has_threshold)
{
    static const char *const parts[] = {"ffn_gate", "ffn_up", "ffn_down_t", "fc1", "fc2"};
    const uint64_t *const ne[] = {gate_ne, gate_ne, gate_ne, ne1, ne2};
    const int n = ne2 ? 5 : 4;
    uint64_t offset = 0;
    g_head(b, 3, (uint64_t)n, 1 + (uint64_t)has_threshold);
    memcpy(b->data, "PWRI", 4);
    g_key_text(b, "general.architecture", architecture);
    if (has_threshold)
        g_key_f32(b, "powerinfer.sparse_threshold", 0.125f);
    for (int i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.0.%s.weight", parts[i]);
        g_tensor(b, name, 2, ne[i], i < 3 ? 0 : ggml, offset);
        offset += i < 3       ? D_MODEL * D_FF * 4
                  : ggml == 6 ? ne[i][0] * ne[i][1] / 32 * 22
                              : sffn_dtype_row_bytes((int32_t)dtype, ne[i][0]) * ne[i][1];
        offset = (offset + 31) & ~UINT64_C(31);
    }
    b_pad(b, 32);
    for (int i = 0; i < n; i++) {
        for (uint64_t row = 0; row < ne[i][1]; row++) {
            float x[2 * D_MODEL];
            uint8_t packed[2 * D_MODEL * sizeof(float)];
            const size_t cols = (size_t)ne[i][0];
            for (size_t j = 0; j < cols; j++)
                x[j] = value(row * cols + j + (size_t)i * 1000);
            if (i >= 3 && ggml == 6)
                b_fill(b, cols / 32 * 22);
            else if (sffn_dtype_from_f32(i < 3 ? SFFN_F32 : (int32_t)dtype, x, cols, packed) ==
                     SFFN_OK)
                b_raw(b, packed, sffn_dtype_row_bytes(i < 3 ? SFFN_F32 : (int32_t)dtype, cols));
        }
        b_pad(b, 32);
    }
}

static void powerinfer(void **state)
{
    (void)state;
    static const struct {
        int32_t dtype;
        uint32_t ggml;
    } types[] = {{SFFN_F32, 0}, {SFFN_F16, 1}, {SFFN_Q8_0, 8}, {SFFN_Q4_0, 2}};
    sffn_predictor_config c = SFFN_PREDICTOR_CONFIG_INIT;
    struct buf b = {NULL, 0, 0};
    float x[D_MODEL], y[2][D_MODEL], scores[D_FF], rows[2][RANK * D_MODEL], fc2[D_FF * RANK];
    for (size_t i = 0; i < D_MODEL; i++)
        x[i] = value(i + 17);
    for (size_t i = 0; i < 4; i++) {
        sffn_ffn *ffn = NULL;
        sffn_predictor *predictor = NULL;
        sffn_ffn_config fc = SFFN_FFN_CONFIG_INIT;
        sffn_ffn_info info = SFFN_FFN_INFO_INIT;
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        g_powerinfer(&b, "llama", (uint32_t)types[i].dtype, types[i].ggml, fc1_ne, fc2_ne, i > 0);
        sffn_model *m = open_buf(&b, "powerinfer.gguf");
        OK(sffn_model_layer_predictor_config(m, 0, &c));
        assert_true(c.kind == SFFN_PREDICTOR_LOW_RANK && c.rank == RANK && c.d_model == D_MODEL &&
                    c.d_ff == D_FF && c.tie == SFFN_TIE_KEEP && c.w1.dtype == types[i].dtype &&
                    c.decision == SFFN_DECIDE_THRESHOLD &&
                    c.hidden_activation == SFFN_HIDDEN_RELU && c.input == SFFN_INPUT_RESIDUAL &&
                    !c.b1 && !c.b2 && !c.thresholds);
        assert_true(c.threshold == (i > 0 ? 0.125f : 0.0f));
        OK(sffn_model_layer_config(m, 0, &fc));
        assert_true(fc.activation == SFFN_ACT_RELU && fc.down.layout == SFFN_LAYOUT_ROWS);
        /* fc2 relu(fc1 x), in double */
        for (size_t r = 0; r < RANK; r++)
            OK(sffn_dtype_to_f32(c.w1.dtype,
                                 (const uint8_t *)c.w1.data +
                                     r * sffn_dtype_row_bytes(c.w1.dtype, D_MODEL),
                                 D_MODEL, rows[0] + r * D_MODEL));
        OK(sffn_dtype_to_f32(c.w2.dtype, c.w2.data, D_FF * RANK, fc2));
        OK(sffn_predictor_create(ctx, &c, &predictor));
        OK(sffn_predictor_predict(ctx, predictor, x, D_MODEL, 1, scores, D_FF, NULL));
        double hidden[RANK];
        float largest = 0;
        for (size_t r = 0; r < RANK; r++) {
            hidden[r] = 0;
            for (size_t j = 0; j < D_MODEL; j++)
                hidden[r] += (double)rows[0][r * D_MODEL + j] * (double)x[j];
            hidden[r] = hidden[r] > 0 ? hidden[r] : 0;
            largest = fmaxf(largest, (float)hidden[r]);
        }
        for (size_t n = 0; n < D_FF; n++) {
            double score = 0;
            for (size_t r = 0; r < RANK; r++)
                score += (double)fc2[n * RANK + r] * hidden[r];
            /* Quantised weights meet an x and a hidden vector in 8 bits: half a step, 1/254 of the largest, in each term. */
            const double step = types[i].dtype >= SFFN_Q8_0 ? 1.0 / 254 : 0x1p-20;
            const double in_hidden = step * D_MODEL * 1.125;
            assert_true(fabs(score - (double)scores[n]) <=
                        RANK * 1.125 * (in_hidden + step * ((double)largest + in_hidden)));
        }
        sffn_predictor_destroy(predictor);
        /* Ready to run, with the residual stream as the predictor's own input. */
        OK(sffn_ffn_create_from_model(ctx, m, 0, NULL, &ffn));
        OK(sffn_ffn_get_info(ffn, &info));
        assert_true(info.has_predictor && info.select_input == SFFN_INPUT_RESIDUAL);
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = x, args.y = y[0], args.n_tokens = 1, args.select_x = x, args.stats = &stats;
        OK(sffn_ffn_forward(ctx, ffn, &args));
        uint64_t kept = 0;
        for (size_t n = 0; n < D_FF; n++)
            kept += scores[n] >= c.threshold;
        assert_true(stats.n_selected == kept && kept > 0 && kept < D_FF);
        sffn_ffn_destroy(ffn);
        /* Prepared, it is a GGUF file with the same predictor. */
        sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
        config.dtype = SFFN_Q8_0;
        sffn_model *again = prepare(m, "again.gguf", &config);
        sffn_predictor_config carried = SFFN_PREDICTOR_CONFIG_INIT;
        OK(sffn_model_layer_predictor_config(again, 0, &carried));
        assert_true(carried.w1.dtype == types[i].dtype && carried.threshold == c.threshold &&
                    carried.tie == SFFN_TIE_KEEP);
        assert_memory_equal(carried.w2.data, c.w2.data,
                            sffn_dtype_row_bytes(c.w2.dtype, D_FF * RANK));
        sffn_model_close(again);
        sffn_model_close(m);
        b_free(&b);
    }
    g_powerinfer(&b, "falcon", SFFN_F16, 1, fc1_ne, fc2_ne, 0);
    sffn_model *m = open_buf(&b, "powerinfer.gguf");
    OK(sffn_model_layer_predictor_config(m, 0, &c));
    assert_int_equal(c.input, SFFN_INPUT_LAYER);
    sffn_model_close(m);
    b_free(&b);
    static const struct {
        uint32_t ggml;
        const uint64_t *ne1, *ne2;
        sffn_status status;
        const char *words;
    } bad[] = {
        {6, fc1_ne, fc2_ne, SFFN_ERR_UNSUPPORTED,
         "tensor 'blk.0.fc1.weight' has type Q5_0, for which there are no kernels: `sffn prepare`"},
        {1, wide_ne, fc2_ne, SFFN_ERR_SHAPE, "tensor 'blk.0.fc1.weight' has 2 dimensions, 32 x 64"},
        {1, fc1_ne, long_ne, SFFN_ERR_SHAPE,
         "tensor 'blk.0.fc2.weight' has 2 dimensions, 128 x 32"},
        {1, fc1_ne, fc1_ne, SFFN_ERR_SHAPE, "tensor 'blk.0.fc2.weight' has 2 dimensions, 32 x 32"},
        {1, fc1_ne, NULL, SFFN_ERR_FORMAT, "no tensor 'blk.0.fc2.weight'"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        g_powerinfer(&b, "llama", SFFN_F16, bad[i].ggml, bad[i].ne1, bad[i].ne2, 1);
        m = open_buf(&b, "powerinfer.gguf");
        ERROR(sffn_model_layer_predictor_config(m, 0, &c), bad[i].status, bad[i].words);
        if (i == 0) { /* prepare converts it */
            sffn_model *again = prepare(m, "again.gguf", NULL);
            OK(sffn_model_layer_predictor_config(again, 0, &c));
            assert_int_equal(c.w1.dtype, SFFN_Q8_0);
            sffn_model_close(again);
        }
        sffn_model_close(m);
        b_free(&b);
    }
}

/* ---- threads and memory ---- */

static void read_file(const char *path, struct buf *b)
{
    uint8_t bytes[4096];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    for (size_t n; (n = fread(bytes, 1, sizeof(bytes), file)) > 0;)
        b_raw(b, bytes, n);
    fclose(file);
}

/* The same bytes for any number of threads, also where a quantised down is decoded, permuted and packed again. */
static void threads(void **state)
{
    (void)state;
    sffn_prepare_layer layers[LAYERS];
    sffn_predictor_config predictor;
    sffn_router_config router;
    make_results(layers, &predictor, &router);
    sffn_model *source = open_valid();
    struct buf k = {NULL, 0, 0};
    static const uint64_t gate[] = {256, 512}, down[] = {512, 256};
    g_head(&k, 3, 3, 2);
    g_key_text(&k, "general.architecture", "llama");
    g_key_u32(&k, "llama.block_count", 1);
    g_tensor(&k, "blk.0.ffn_gate.weight", 2, gate, 12, 0);
    g_tensor(&k, "blk.0.ffn_up.weight", 2, gate, 12, 144 * 512);
    g_tensor(&k, "blk.0.ffn_down.weight", 2, down, 12, 2 * 144 * 512);
    b_pad(&k, 32);
    for (size_t i = 0; i < 3 * 512; i++) /* d 1, dmin 0.5, then a pattern */
        b_raw(&k, "\0\x3c\0\x38", 4), b_fill(&k, 140);
    sffn_model *quantised = open_buf(&k, "q4_k.gguf");
    b_free(&k);
    uint32_t reverse[512];
    for (uint32_t i = 0; i < 512; i++)
        reverse[i] = (i * 77 + 5) % 512;
    sffn_prepare_layer one = SFFN_PREPARE_LAYER_INIT;
    one.permutation = reverse;
    struct buf first[2] = {{NULL, 0, 0}, {NULL, 0, 0}};
    for (uint32_t n = 1; n <= 9; n++) {
        struct heap own;
        sffn_context *using = heap_context(&own, n);
        sffn_prepare_config configs[2] = {config_with(layers), config_with(&one)};
        configs[1].n_layers = 1;
        for (int i = 0; i < 2; i++) {
            struct buf b = {NULL, 0, 0};
            const char *path = path_of(folder, "threads.gguf");
            assert_int_equal(sffn_prepare(using, i ? quantised : source, path, &configs[i]),
                             SFFN_OK);
            read_file(path, &b);
            if (n == 1) {
                first[i] = b;
                continue;
            }
            assert_int_equal(b.n, first[i].n);
            assert_memory_equal(b.data, first[i].data, b.n);
            b_free(&b);
        }
        sffn_context_destroy(using);
    }
    b_free(&first[0]);
    b_free(&first[1]);
    /* And the right ones: row i of the new down is the q8_0 of column reverse[i] of the old one. */
    sffn_prepare_config plain = SFFN_PREPARE_CONFIG_INIT;
    sffn_model *a = prepare(quantised, "plain.gguf", &plain), *b = NULL;
    OK(sffn_model_open(ctx, path_of(folder, "threads.gguf"), &b));
    static const char *const parts[] = {"blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",
                                        "blk.0.ffn_down_t.weight"};
    for (size_t i = 0; i < 3; i++)
        for (uint32_t row = 0; row < 512; row++)
            assert_memory_equal((const uint8_t *)tensor_data(b, parts[i]) + row * 272,
                                (const uint8_t *)tensor_data(a, parts[i]) + reverse[row] * 272,
                                272);
    sffn_model_close(a);
    sffn_model_close(b);
    sffn_model_close(quantised);
    sffn_model_close(source);
}

static void no_memory(void **state)
{
    (void)state;
    sffn_prepare_layer layers[LAYERS];
    sffn_predictor_config predictor;
    sffn_router_config router;
    make_results(layers, &predictor, &router);
    const sffn_prepare_config config = config_with(layers);
    sffn_model *source = open_valid();
    const char *path = path_of(folder, "memory.gguf");
    const size_t live = heap.live;
    for (size_t n = 1;; n++) {
        heap_mark(&heap);
        heap.fail_at = n;
        const sffn_status status = sffn_prepare(ctx, source, path, &config);
        heap.fail_at = 0;
        assert_int_equal(heap.live, live);
        if (status == SFFN_OK)
            break;
        assert_int_equal(status, SFFN_ERR_OUT_OF_MEMORY);
        assert_false(file_is_there(path));
        assert_true(n < 1000);
    }
    sffn_model_close(source);
}

/* ---- wrong results ---- */

static void refuses_results(void **state)
{
    (void)state;
    sffn_prepare_layer layers[LAYERS];
    sffn_predictor_config predictor;
    sffn_router_config router;
    sffn_model *source = open_valid();
    const char *path = path_of(folder, "no.gguf");
    float bad[D_FF] = {0};
    sffn_prepare_config config = config_with(layers);
#define REFUSES(change, status, words)                                                             \
    do {                                                                                           \
        make_results(layers, &predictor, &router);                                                 \
        change;                                                                                    \
        ERROR(sffn_prepare(ctx, source, path, &config), status, words);                            \
        assert_false(file_is_there(path));                                                         \
    } while (0)
    REFUSES(layers[1].plan = SFFN_SELECT_ACTIVE, SFFN_ERR_INVALID_ARGUMENT,
            "layers[1]: the value 5 of sffn.plan");
    REFUSES(layers[0].predictor = NULL, SFFN_ERR_INVALID_ARGUMENT,
            "layers[0].plan is 'predictor', but that is NULL");
    REFUSES(layers[1].router = NULL, SFFN_ERR_INVALID_ARGUMENT,
            "layers[1].plan is 'router', but that is NULL");
    REFUSES(layers[0].rule = 99, SFFN_ERR_INVALID_ARGUMENT, "the value 99 of sffn.rule");
    REFUSES(layers[0].rule_tie = 2, SFFN_ERR_INVALID_ARGUMENT, "the value 2 of sffn.rule_tie");
    REFUSES(layers[1].rule_threshold = NAN, SFFN_ERR_INVALID_ARGUMENT,
            "layers[1]: sffn.rule_threshold is NaN");
    REFUSES((bad[63] = NAN, layers[1].rule_thresholds = bad), SFFN_ERR_INVALID_ARGUMENT,
            "layers[1].rule_thresholds[63] is NaN");
    REFUSES(predictor.kind = 77, SFFN_ERR_INVALID_ARGUMENT,
            "layers[0].predictor: the value 77 of sffn.predictor.kind");
    REFUSES(predictor.margin = NAN, SFFN_ERR_INVALID_ARGUMENT, "sffn.predictor.margin is NaN");
    REFUSES(predictor.thresholds = bad, SFFN_ERR_INVALID_ARGUMENT,
            "layers[0].predictor->thresholds[63] is NaN");
    REFUSES(predictor.d_ff = 65, SFFN_ERR_SHAPE,
            "layers[0].predictor->d_ff is 65; the layer's d_ff is 64");
    REFUSES((predictor.d_ff = 32, predictor.thresholds = bad + 48), SFFN_ERR_SHAPE,
            "predictor->d_ff is 32"); /* and not a float beyond the 16 that are there */
    REFUSES(predictor.d_model = 64, SFFN_ERR_SHAPE, "predictor->d_model is 64");
    REFUSES(predictor.kind = SFFN_PREDICTOR_CALLBACK, SFFN_ERR_UNSUPPORTED,
            "layers[0].predictor: a callback cannot be written");
    REFUSES(predictor.n_layers = 2, SFFN_ERR_UNSUPPORTED,
            "one of several layers cannot be written");
    REFUSES(predictor.kind = SFFN_PREDICTOR_LOW_RANK, SFFN_ERR_INVALID_ARGUMENT,
            "layers[0].predictor->rank is 0");
    REFUSES((predictor.kind = SFFN_PREDICTOR_LOW_RANK, predictor.rank = 2),
            SFFN_ERR_INVALID_ARGUMENT, "layers[0].predictor->w1: data is NULL");
    REFUSES(predictor.hidden_activation = 3, SFFN_ERR_INVALID_ARGUMENT,
            "the value 3 of sffn.predictor.hidden_activation");
    REFUSES(predictor.dtype = -2, SFFN_ERR_INVALID_ARGUMENT,
            "the value -2 of sffn.predictor.dtype");
    REFUSES(router.n_hidden = 5, SFFN_ERR_INVALID_ARGUMENT, "router->hidden_weights: data is NULL");
    REFUSES(router.mass = NAN, SFFN_ERR_INVALID_ARGUMENT, "sffn.router.mass is NaN");
    REFUSES(predictor.struct_size = 3, SFFN_ERR_INVALID_ARGUMENT, "sffn_predictor_config");
    REFUSES(router.n_experts = 3, SFFN_ERR_SHAPE,
            "layers[1].router->n_experts * block_size is 96; the layer's d_ff is 64");
    REFUSES(router.d_model = 31, SFFN_ERR_SHAPE, "router->d_model is 31");
    REFUSES(router.rule = 9, SFFN_ERR_INVALID_ARGUMENT, "the value 9 of sffn.router.rule");
    REFUSES(router.weights.data = NULL, SFFN_ERR_INVALID_ARGUMENT,
            "layers[1].router->weights: data is NULL");
    REFUSES(router.weights.layout = SFFN_LAYOUT_COLUMNS, SFFN_ERR_INVALID_ARGUMENT, "layout");
    REFUSES(router.weights.dtype = 5, SFFN_ERR_INVALID_ARGUMENT, "dtype is unknown");
    REFUSES(router.weights.row_bytes = 127, SFFN_ERR_SHAPE, "router->weights is 127");
    REFUSES(orders[0][5] = 64, SFFN_ERR_INVALID_ARGUMENT,
            "layers[0].permutation[5] is 64; expected");
    REFUSES(orders[0][5] = orders[0][4], SFFN_ERR_INVALID_ARGUMENT,
            " again; expected each of 0..63");
    REFUSES(layers[0].struct_size = 4, SFFN_ERR_INVALID_ARGUMENT, "struct_size");
    REFUSES(layers[1].struct_size -= 8, SFFN_ERR_INVALID_ARGUMENT, "layers[1].struct_size");
    config.n_layers = 3;
    REFUSES((void)0, SFFN_ERR_SHAPE, "n_layers is 3; ");
    config.n_layers = 0;
    REFUSES((void)0, SFFN_ERR_SHAPE, "n_layers is 0; ");
    sffn_model_close(source);
}

/* Rows further apart than packed, and an older caller's smaller structs. */
static void strides(void **state)
{
    (void)state;
    sffn_prepare_layer layers[LAYERS];
    sffn_predictor_config predictor;
    sffn_router_config router, read = SFFN_ROUTER_CONFIG_INIT;
    float wide[2 * 40];
    make_results(layers, &predictor, &router);
    for (int i = 0; i < 80; i++)
        wide[i] = i % 40 < D_MODEL ? router_weights[i / 40 * D_MODEL + i % 40] : NAN;
    router.weights.data = wide;
    router.weights.row_bytes = 40 * sizeof(float);
    struct {
        unsigned char bytes[2][offsetof(sffn_prepare_layer, permutation)];
    } old;
    layers[0].permutation = NULL;
    for (int i = 0; i < 2; i++) {
        layers[i].struct_size = sizeof(old.bytes[i]);
        memcpy(old.bytes[i], &layers[i], sizeof(old.bytes[i]));
    }
    const sffn_prepare_config config = config_with((const void *)&old);
    sffn_model *source = open_valid(), *m = prepare(source, "strides.gguf", &config);
    OK(sffn_model_layer_router_config(m, 1, &read));
    assert_memory_equal(read.weights.data, router_weights, sizeof(router_weights));
    sffn_model_close(m);
    sffn_model_close(source);
}

/* ---- wrong files ---- */

static const uint64_t vector[] = {D_FF}, short_vector[] = {D_FF - 1}, experts[] = {D_MODEL, 2},
                      narrow[] = {16, 2}, three[] = {D_MODEL, 3};

/* A layer and, as its fourth tensor, `name`. */
static void g_layer(struct buf *b, void (*keys)(struct buf *), uint64_t n_keys, const char *name,
                    uint32_t n_dims, const uint64_t *ne, uint32_t type, const void *data, size_t n)
{
    static const uint64_t gate[] = {D_MODEL, D_FF};
    static const char *const parts[] = {"ffn_gate", "ffn_up", "ffn_down_t"};
    char full[64];
    g_head(b, 3, 3 + (name != NULL), 4 + n_keys);
    g_key_text(b, "general.architecture", "llama");
    g_key_text(b, "sffn.activation", "relu");
    g_key_u32(b, "sffn.act_tie", 1);
    g_key_f32(b, "sffn.act_threshold", 0);
    if (keys)
        keys(b);
    for (uint64_t i = 0; i < 3; i++) {
        snprintf(full, sizeof(full), "blk.0.%s.weight", parts[i]);
        g_tensor(b, full, 2, gate, 0, i * D_MODEL * D_FF * 4);
    }
    if (name) {
        snprintf(full, sizeof(full), "blk.0.%s", name);
        g_tensor(b, full, n_dims, ne, type, 3 * D_MODEL * D_FF * 4);
    }
    b_pad(b, 32);
    for (size_t i = 0; i < 3 * D_MODEL * D_FF; i++)
        b_f32(b, value(i));
    b_raw(b, data, n);
}

#define KEY_NAME(function, key, text)                                                              \
    static void function(struct buf *b)                                                            \
    {                                                                                              \
        g_key_array(b, key, K_STRING, 1), b_text(b, text);                                         \
    }
KEY_NAME(plan_unknown, "sffn.plan", "gats")
KEY_NAME(plan_empty, "sffn.plan", "")
KEY_NAME(plan_predictor, "sffn.plan", "predictor")
KEY_NAME(rule_unknown, "sffn.rule", "abs")
KEY_NAME(rule_score, "sffn.rule", "score")
KEY_NAME(kind_unknown, "sffn.predictor.kind", "oracle")
KEY_NAME(kind_screen, "sffn.predictor.kind", "screened_gate")
KEY_NAME(kind_low_rank, "sffn.predictor.kind", "low_rank")
KEY_NAME(kind_cascade, "sffn.predictor.kind", "cascade")
KEY_NAME(kind_empty, "sffn.predictor.kind", "")
KEY_NAME(router_unknown, "sffn.router.rule", "softmax")
KEY_NAME(router_sigmoid, "sffn.router.rule", "sigmoid")
static void plan_scalar(struct buf *b)
{
    g_key_text(b, "sffn.plan", "gate");
}
static void plan_long(struct buf *b)
{
    g_key_array(b, "sffn.plan", K_STRING, 2), b_text(b, "gate"), b_text(b, "gate");
}
static void plan_none(struct buf *b)
{
    g_key_array(b, "sffn.plan", K_STRING, 0);
}
static void plan_ints(struct buf *b)
{
    g_key_array(b, "sffn.plan", K_I32, 1), b_u32(b, 2);
}
static void rank_of_3(struct buf *b)
{
    kind_low_rank(b);
    g_key_array(b, "sffn.predictor.rank", K_U32, 1), b_u32(b, 3);
}
static void threshold_nan(struct buf *b)
{
    kind_screen(b);
    g_key_array(b, "sffn.predictor.threshold", K_F32, 1), b_f32(b, NAN);
}
static void threshold_text(struct buf *b)
{
    kind_screen(b);
    g_key_array(b, "sffn.predictor.threshold", K_STRING, 1), b_text(b, "0");
}
static void block_negative(struct buf *b)
{
    router_sigmoid(b);
    g_key_array(b, "sffn.router.block_size", K_I32, 1), b_u32(b, (uint32_t)-32);
}
static void block_huge(struct buf *b)
{
    router_sigmoid(b);
    g_key_array(b, "sffn.router.block_size", K_U64, 1), b_u64(b, UINT64_MAX);
}

static sffn_status ask_plan(const sffn_model *m)
{
    int32_t plan;
    return sffn_model_layer_plan(m, 0, &plan);
}
static sffn_status ask_layer(const sffn_model *m)
{
    sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
    return sffn_model_layer_config(m, 0, &c);
}
static sffn_status ask_predictor(const sffn_model *m)
{
    sffn_predictor_config c = SFFN_PREDICTOR_CONFIG_INIT;
    return sffn_model_layer_predictor_config(m, 0, &c);
}
static sffn_status ask_router(const sffn_model *m)
{
    sffn_router_config c = SFFN_ROUTER_CONFIG_INIT;
    return sffn_model_layer_router_config(m, 0, &c);
}
static sffn_status ask_permutation(const sffn_model *m)
{
    uint32_t order[D_FF];
    return sffn_model_layer_permutation(m, 0, order);
}
static sffn_status ask_ready(const sffn_model *m)
{
    sffn_ffn *ffn = NULL;
    const sffn_status status = sffn_ffn_create_from_model(ctx, m, 0, NULL, &ffn);
    sffn_ffn_destroy(ffn);
    return status;
}

static void refuses_files(void **state)
{
    (void)state;
    float nan_vector[D_FF] = {0};
    int32_t twice[D_FF], outside[D_FF], negative[D_FF];
    nan_vector[3] = NAN;
    for (int32_t i = 0; i < D_FF; i++)
        twice[i] = outside[i] = negative[i] = D_FF - 1 - i;
    twice[9] = twice[8];
    outside[0] = D_FF;
    negative[D_FF - 1] = -1;
    const struct {
        const char *name; /* of the tensor, or NULL */
        uint32_t n_dims;
        const uint64_t *ne;
        uint32_t type;
        const void *data;
        size_t n;
        void (*keys)(struct buf *);
        uint64_t n_keys;
        sffn_status (*ask)(const sffn_model *);
        sffn_status status;
        const char *words;
    } bad[] = {
        {NULL, 0, NULL, 0, NULL, 0, plan_unknown, 1, ask_plan, SFFN_ERR_FORMAT,
         "sffn.plan of layer 0 is 'gats', which is unknown"},
        {NULL, 0, NULL, 0, NULL, 0, plan_empty, 1, ask_plan, SFFN_ERR_FORMAT,
         "sffn.plan of layer 0 is ''"},
        {NULL, 0, NULL, 0, NULL, 0, plan_scalar, 1, ask_plan, SFFN_ERR_FORMAT,
         "key 'sffn.plan' is no array of 1 strings, one per layer"},
        {NULL, 0, NULL, 0, NULL, 0, plan_long, 1, ask_plan, SFFN_ERR_FORMAT, "no array of 1"},
        {NULL, 0, NULL, 0, NULL, 0, plan_none, 1, ask_plan, SFFN_ERR_FORMAT, "no array of 1"},
        {NULL, 0, NULL, 0, NULL, 0, plan_ints, 1, ask_plan, SFFN_ERR_FORMAT, "no array of 1"},
        {NULL, 0, NULL, 0, NULL, 0, plan_unknown, 1, ask_ready, SFFN_ERR_FORMAT, "'gats'"},
        {NULL, 0, NULL, 0, NULL, 0, rule_unknown, 1, ask_layer, SFFN_ERR_FORMAT,
         "sffn.rule of layer 0 is 'abs'"},
        {NULL, 0, NULL, 0, NULL, 0, kind_unknown, 1, ask_predictor, SFFN_ERR_FORMAT,
         "sffn.predictor.kind of layer 0 is 'oracle'"},
        {NULL, 0, NULL, 0, NULL, 0, kind_empty, 1, ask_predictor, SFFN_ERR_FORMAT,
         "sffn.predictor.kind of layer 0 is ''"},
        {NULL, 0, NULL, 0, NULL, 0, kind_unknown, 1, ask_ready, SFFN_ERR_FORMAT, "'oracle'"},
        {NULL, 0, NULL, 0, NULL, 0, threshold_nan, 2, ask_predictor, SFFN_ERR_FORMAT,
         "sffn.predictor.threshold of layer 0 is NaN"},
        {NULL, 0, NULL, 0, NULL, 0, threshold_text, 2, ask_predictor, SFFN_ERR_FORMAT,
         "key 'sffn.predictor.threshold' is no array of 1 floats"},
        {NULL, 0, NULL, 0, NULL, 0, router_unknown, 1, ask_router, SFFN_ERR_FORMAT,
         "sffn.router.rule of layer 0 is 'softmax'"},
        {NULL, 0, NULL, 0, NULL, 0, block_negative, 2, ask_router, SFFN_ERR_FORMAT,
         "sffn.router.block_size of layer 0 is no number"},
        {NULL, 0, NULL, 0, NULL, 0, block_huge, 2, ask_router, SFFN_ERR_FORMAT,
         "sffn.router.block_size of layer 0 is no number"},
        {"sffn_predictor.threshold", 1, short_vector, 0, nan_vector, 4 * (D_FF - 1), kind_screen, 1,
         ask_predictor, SFFN_ERR_SHAPE,
         "tensor 'blk.0.sffn_predictor.threshold' has 1 dimensions, 63 elements"},
        {"sffn_predictor.threshold", 1, vector, 0, nan_vector, 4 * D_FF, kind_screen, 1,
         ask_predictor, SFFN_ERR_FORMAT,
         "tensor 'blk.0.sffn_predictor.threshold' has NaN as element 3"},
        {"sffn_predictor.threshold", 1, vector, 26, twice, 4 * D_FF, kind_screen, 1, ask_predictor,
         SFFN_ERR_UNSUPPORTED, "has type I32, for which there are no kernels"},
        {"sffn_rule.threshold", 1, vector, 0, nan_vector, 4 * D_FF, rule_score, 1, ask_layer,
         SFFN_ERR_FORMAT, "tensor 'blk.0.sffn_rule.threshold' has NaN as element 3"},
        {"sffn_rule.threshold", 2, experts, 0, nan_vector, 4 * D_FF, rule_score, 1, ask_layer,
         SFFN_ERR_SHAPE, "tensor 'blk.0.sffn_rule.threshold' has 2 dimensions"},
        {"sffn_router.weight", 2, three, 0, twice, 4 * 96, router_sigmoid, 1, ask_router,
         SFFN_ERR_SHAPE, "has 3 experts of 32 neurons; the layer has 64 neurons"},
        {"sffn_router.weight", 2, narrow, 0, twice, 4 * 32, router_sigmoid, 1, ask_router,
         SFFN_ERR_SHAPE, "tensor 'blk.0.sffn_router.weight' has 2 dimensions, 2 x 16"},
        {"sffn_router_hidden.weight", 2, narrow, 0, twice, 4 * 32, router_sigmoid, 1, ask_router,
         SFFN_ERR_SHAPE, "tensor 'blk.0.sffn_router_hidden.weight' has 2 dimensions, 2 x 16"},
        {"sffn_predictor.input_mean", 1, vector, 0, nan_vector, 4 * D_FF, kind_cascade, 1,
         ask_predictor, SFFN_ERR_SHAPE,
         "tensor 'blk.0.sffn_predictor.input_mean' has 1 dimensions, 64 elements"},
        {"sffn_predictor_w1.weight", 2, narrow, 0, twice, 4 * 32, kind_low_rank, 1, ask_predictor,
         SFFN_ERR_SHAPE, "tensor 'blk.0.sffn_predictor_w1.weight' has 2 dimensions, 2 x 16"},
        {"sffn_predictor_w1.weight", 2, experts, 0, twice, 4 * 64, rank_of_3, 2, ask_predictor,
         SFFN_ERR_SHAPE, "2 x 32; expected a matrix of 3 x 32"},
        {"sffn_permutation", 1, vector, 26, twice, 4 * D_FF, NULL, 0, ask_permutation,
         SFFN_ERR_FORMAT,
         "tensor 'blk.0.sffn_permutation' is no permutation: element 9 is 55, for the second time"},
        {"sffn_permutation", 1, vector, 26, outside, 4 * D_FF, NULL, 0, ask_permutation,
         SFFN_ERR_FORMAT, "is no permutation: element 0 is 64"},
        {"sffn_permutation", 1, vector, 26, negative, 4 * D_FF, NULL, 0, ask_permutation,
         SFFN_ERR_FORMAT, "is no permutation: element 63 is -1"},
        {"sffn_permutation", 1, short_vector, 26, twice, 4 * (D_FF - 1), NULL, 0, ask_permutation,
         SFFN_ERR_SHAPE, "expected 64 elements of I32"},
        {"sffn_permutation", 1, vector, 0, nan_vector, 4 * D_FF, NULL, 0, ask_permutation,
         SFFN_ERR_SHAPE, "has type F32"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct buf b = {NULL, 0, 0};
        const size_t n = bad[i].n < sizeof(twice) ? bad[i].n : sizeof(twice);
        g_layer(&b, bad[i].keys, bad[i].n_keys, bad[i].name, bad[i].n_dims, bad[i].ne, bad[i].type,
                bad[i].data, n);
        b_fill(&b, bad[i].n - n);
        sffn_model *m = open_buf(&b, "bad.gguf");
        ERROR(bad[i].ask(m), bad[i].status, bad[i].words);
        ERROR(bad[i].ask(m), bad[i].status, "bad.gguf: offset ");
        sffn_model_close(m);
        b_free(&b);
    }
    /* What is promised but missing has no offset. */
    struct buf b = {NULL, 0, 0};
    g_layer(&b, router_sigmoid, 1, NULL, 0, NULL, 0, NULL, 0);
    sffn_model *m = open_buf(&b, "bad.gguf");
    ERROR(ask_router(m), SFFN_ERR_FORMAT, "no tensor 'blk.0.sffn_router.weight'");
    ERROR(ask_ready(m), SFFN_ERR_FORMAT, "no tensor 'blk.0.sffn_router.weight'");
    ERROR(ask_predictor(m), SFFN_ERR_NOT_FOUND, "layer 0 has no predictor");
    ERROR(sffn_model_layer_plan(m, 1, NULL), SFFN_ERR_NOT_FOUND, "layer 1 of 1");
    ERROR(sffn_model_layer_plan(m, 0, NULL), SFFN_ERR_INVALID_ARGUMENT, "select is NULL");
    ERROR(sffn_model_layer_permutation(m, 0, NULL), SFFN_ERR_INVALID_ARGUMENT,
          "permutation is NULL");
    assert_int_equal(sffn_model_layer_plan(NULL, 0, NULL), SFFN_ERR_INVALID_ARGUMENT);
    assert_int_equal(sffn_model_layer_predictor_config(NULL, 0, NULL), SFFN_ERR_INVALID_ARGUMENT);
    ERROR(sffn_model_layer_predictor_config(m, 0, NULL), SFFN_ERR_INVALID_ARGUMENT,
          "sffn_predictor_config is NULL");
    ERROR(sffn_model_layer_router_config(m, 0, NULL), SFFN_ERR_INVALID_ARGUMENT,
          "sffn_router_config is NULL");
    sffn_model_close(m);
    b_free(&b);
    g_layer(&b, plan_predictor, 1, NULL, 0, NULL, 0, NULL, 0);
    m = open_buf(&b, "bad.gguf");
    ERROR(ask_ready(m), SFFN_ERR_FORMAT, "the plan of layer 0 is 'predictor', but it has none");
    sffn_model_close(m);
    b_free(&b);
}

/* The words come to the context that the caller used, also when another one opened the model. */
static void words_in_both_contexts(void **state)
{
    (void)state;
    struct heap other_heap;
    sffn_context *other = heap_context(&other_heap, 1);
    struct buf b = {NULL, 0, 0};
    sffn_ffn *ffn;
    g_layer(&b, plan_unknown, 1, NULL, 0, NULL, 0, NULL, 0);
    sffn_model *m = open_buf(&b, "bad.gguf");
    assert_int_equal(sffn_ffn_create_from_model(other, m, 0, NULL, &ffn), SFFN_ERR_FORMAT);
    assert_non_null(strstr(sffn_context_last_error(other), "'gats'"));
    sffn_model_close(m);
    b_free(&b);
    sffn_context_destroy(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(comes_back),
        TEST(permuted_layers),
        TEST(ready_layers),
        TEST(refuses_results),
        TEST(strides),
        TEST(refuses_files),
        TEST(words_in_both_contexts),
        TEST(every_field),
        TEST(names),
        TEST(threads),
        TEST(no_memory),
        TEST(powerinfer),
    };
    return cmocka_run_group_tests_name("selectors", tests, NULL, NULL);
}
