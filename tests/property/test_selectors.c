/* Predictors and routers in front of a layer: scores and decisions against float64, the gate behind
 * them, selections made early and handed in, inputs of their own, weights that are never read. */
#include <math.h>
#include <stdio.h>

#include "check.h"
#include "layer.h"

static sffn_context *ctx;

/* A layer with a selector, its inputs, and the selector's input. */
struct scene {
    struct rng rng;
    struct spec spec;
    struct layer layer;
    sffn_ffn *ffn;
    sffn_predictor *predictor;
    sffn_router *router;
    uint32_t top_k; /* of the predictor; 0: a threshold decides */
    float *x, *select_x, *selector_weights, *selector_bias;
    unsigned char *selector_source;
    uint32_t select_d, n_blocks, block_size;
    size_t n_tokens;
};

static void scene_begin(struct scene *scene, void **state, const char *test, int round)
{
    char name[96];
    int32_t type = *(const int32_t *)*state;
    memset(scene, 0, sizeof *scene);
    snprintf(name, sizeof name, "%s %s %d", test, sffn_dtype_name(type), round);
    scene->rng = rng_named(name);
    struct spec spec = SPEC_INIT(64, 96, type);
    spec.d_model = 32 * (1 + rng_below(&scene->rng, 4));
    spec.d_ff = 32 * (1 + rng_below(&scene->rng, 6));
    spec.is_gated = rng_below(&scene->rng, 4) != 0;
    spec.has_bias = (int)rng_below(&scene->rng, 2);
    scene->spec = spec;
    scene->select_d = spec.d_model;
    scene->n_tokens = 1 + rng_below(&scene->rng, 12);
}

static void scene_layer(struct scene *scene)
{
    layer_make(&scene->layer, &scene->spec, &scene->rng);
    scene->x = draw_x(&scene->layer.memory, &scene->rng, scene->n_tokens, scene->spec.d_model, 0);
    scene->select_x = scene->x;
}

/* A predictor for the layer's own gate, or, with another select_d, for a gate of its own. */
static void scene_predictor(struct scene *scene, float margin, float threshold)
{
    const struct layer *layer = &scene->layer;
    struct guarded *memory = &scene->layer.memory;
    int32_t type = scene->spec.is_gated ? scene->spec.gate_type : scene->spec.up_type;
    const void *own = scene->spec.is_gated ? layer->gate_source : layer->up_source;
    size_t f = scene->spec.d_ff, d = scene->select_d;
    if (!scene->selector_weights) {
        scene->selector_weights = GUARDED_FLOATS(memory, f * d);
        scene->selector_source = guarded_alloc(memory, f * weight_bytes(type, d), 1);
        if (d == scene->spec.d_model)
            memcpy(scene->selector_source, own, f * weight_bytes(type, d));
        else
            for (size_t i = 0; i < f; i++) {
                for (size_t j = 0; j < d; j++)
                    scene->selector_weights[i * d + j] = rng_normal(&scene->rng) / sqrtf((float)d);
                weight_encode(type, scene->selector_weights + i * d, d,
                              scene->selector_source + i * weight_bytes(type, d));
            }
        for (size_t i = 0; i < f; i++)
            weight_decode(type, scene->selector_source + i * weight_bytes(type, d), d,
                          scene->selector_weights + i * d);
        scene->selector_bias = scene->spec.is_gated ? layer->gate_bias : layer->up_bias;
    }
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.d_model = scene->select_d;
    config.d_ff = scene->spec.d_ff;
    config.gate.data = scene->selector_source;
    config.gate.dtype = type;
    config.gate_bias = scene->selector_bias;
    config.threshold = threshold;
    config.margin = margin;
    if (scene->top_k > 0) {
        config.decision = SFFN_DECIDE_TOP_K;
        config.top_k = scene->top_k;
        config.top_k_multiple = 8;
    }
    sffn_predictor_destroy(scene->predictor);
    scene->predictor = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &scene->predictor));
    scene->layer.config.predictor = scene->predictor;
    scene->n_blocks = scene->spec.d_ff;
    scene->block_size = 1;
}

static void scene_router(struct scene *scene, uint32_t block_size)
{
    struct guarded *memory = &scene->layer.memory;
    uint32_t n = scene->spec.d_ff / block_size;
    scene->selector_weights = draw_x(memory, &scene->rng, n, scene->select_d, 0);
    scene->selector_bias = draw_x(memory, &scene->rng, 1, n, 0);
    sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
    config.d_model = scene->select_d;
    config.n_experts = n;
    config.block_size = block_size;
    config.weights.data = scene->selector_weights;
    config.bias = scene->selector_bias;
    CHECK_OK(ctx, sffn_router_create(ctx, &config, &scene->router));
    scene->layer.config.router = scene->router;
    scene->n_blocks = n;
    scene->block_size = block_size;
}

static void scene_free(struct scene *scene)
{
    sffn_ffn_destroy(scene->ffn);
    sffn_predictor_destroy(scene->predictor);
    sffn_router_destroy(scene->router);
    layer_free(&scene->layer);
}

static struct result run(struct scene *scene, int32_t select, const sffn_active_set *active)
{
    struct result result;
    if (!scene->ffn)
        scene->ffn = layer_create(ctx, &scene->layer);
    sffn_ffn_args args =
        result_args(&result, &scene->layer.memory, ctx, &scene->layer, scene->x, scene->n_tokens);
    args.select = select;
    args.active = active;
    args.select_x = scene->select_x == scene->x ? NULL : scene->select_x;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, scene->ffn, &args));
    return result;
}

/* The selection, made early by the selector's own call; scores may be NULL. */
static sffn_active_set *select_early(struct scene *scene, float *scores)
{
    sffn_active_set *set = make_set(ctx, NULL, scene->n_tokens, scene->n_blocks, scene->block_size);
    if (scene->predictor)
        CHECK_OK(ctx,
                 sffn_predictor_predict(ctx, scene->predictor, scene->select_x, scene->select_d,
                                        scene->n_tokens, scores, scene->n_blocks, set));
    else
        CHECK_OK(ctx, sffn_router_select(ctx, scene->router, scene->select_x, scene->select_d,
                                         scene->n_tokens, scores, scene->n_blocks, set));
    return set;
}

static void same_sets(const sffn_active_set *a, const sffn_active_set *b, const char *what)
{
    CHECK_SAYS(sffn_active_set_n_tokens(a) == sffn_active_set_n_tokens(b), "%s: tokens", what);
    for (size_t t = 0; t < sffn_active_set_n_tokens(a); t++) {
        size_t n = sffn_active_set_count(a, t);
        CHECK_SAYS(n == sffn_active_set_count(b, t), "%s: count of token %zu", what, t);
        CHECK_SAYS(n == 0 || memcmp(sffn_active_set_indices(a, t), sffn_active_set_indices(b, t),
                                    n * sizeof(uint32_t)) == 0,
                   "%s: members of token %zu", what, t);
    }
}

/* ---------------------------------------------------------------- the screened gate */

/* Row i in 4 bits, its score for x with the largest error of that dot product, and e_i ||x||. */
static double screen_score(const struct scene *scene, size_t i, const float *x, double *error,
                           double *deviation)
{
    size_t d = scene->select_d;
    const float *w = scene->selector_weights + i * d;
    unsigned char row[18 * 8];
    float w4[32 * 8];
    CHECK(d <= 32 * 8);
    weight_encode(SFFN_Q4_0, w, d, row);
    weight_decode(SFFN_Q4_0, row, d, w4);
    double squares = 0.0, norm = 0.0;
    for (size_t j = 0; j < d; j++) {
        squares += ((double)w[j] - w4[j]) * ((double)w[j] - w4[j]);
        norm += (double)x[j] * x[j];
    }
    *deviation = sqrt(squares / (double)d) * sqrt(norm);
    return reference_dot(SFFN_Q4_0, w4, x, d,
                         scene->selector_bias ? (double)scene->selector_bias[i] : 0.0, error);
}

/* score_i + margin e_i ||x|| > threshold, decided wherever rounding leaves no doubt. */
static void screen_decides(void **state)
{
    static const float margins[] = {0.0f, 0.5f, 1.5f, 4.0f}, thresholds[] = {0.0f, 0.3f, -0.3f};
    for (int round = 0; round < 24; round++) {
        struct scene scene;
        scene_begin(&scene, state, __func__, round);
        if (round % 3 == 2) { /* an input of its own, of another length */
            scene.select_d = 64;
            scene.spec.d_model = 96;
        }
        scene_layer(&scene);
        if (round % 3 == 2)
            scene.select_x =
                draw_x(&scene.layer.memory, &scene.rng, scene.n_tokens, scene.select_d, 0);
        float margin = margins[round % 4], threshold = thresholds[round / 8];
        scene_predictor(&scene, margin, threshold);
        size_t f = scene.spec.d_ff, n_doubtful = 0;
        float *scores = GUARDED_FLOATS(&scene.layer.memory, scene.n_tokens * f);
        sffn_active_set *set = select_early(&scene, scores);
        for (size_t t = 0; t < scene.n_tokens; t++)
            for (uint32_t i = 0; i < f; i++) {
                double error, deviation,
                    score = screen_score(&scene, i, scene.select_x + t * scene.select_d, &error,
                                         &deviation);
                double got = (double)scores[t * f + i];
                CHECK_WITHIN(got, score, error, "score of token %zu neuron %u", t, (unsigned)i);
                /* decided from its own score: e_i and ||x|| are floats, a few roundings each over d
                 * terms */
                double distance = got + margin * deviation - threshold,
                       doubt = 1e-5 * (fabs(got) + margin * deviation + 1.0);
                int is_member = sffn_active_set_contains(set, t, i);
                if (fabs(distance) <= doubt)
                    n_doubtful++;
                else
                    CHECK_SAYS(is_member == (distance > 0.0),
                               "token %zu neuron %u: score %g + %g * %g against %g is %s", t,
                               (unsigned)i, got, (double)margin, deviation, (double)threshold,
                               is_member ? "let through" : "dropped");
            }
        CHECK(n_doubtful < 1 + scene.n_tokens * f / 100);
        sffn_active_set_destroy(set);
        scene_free(&scene);
    }
}

/* e_i is what it says: the standard deviation of the score's error. Recall grows with the margin as
 * normal errors would have it. */
static void margin_and_recall(void **state)
{
    static const float margins[] = {0.0f, 0.5f, 1.0f, 1.5f, 3.0f};
    struct scene scene;
    scene_begin(&scene, state, __func__, 0);
    scene.spec.d_model = scene.select_d = 256;
    scene.spec.d_ff = 1024;
    scene.spec.is_gated = 1;
    scene.spec.has_bias = 0;
    scene.n_tokens = 8;
    scene_layer(&scene);
    double before = 0.0, squares = 0.0, recalls[5], densities[5];
    size_t f = scene.spec.d_ff, n = scene.n_tokens * f;
    float *scores = GUARDED_FLOATS(&scene.layer.memory, n);
    for (size_t m = 0; m < 5; m++) {
        scene_predictor(&scene, margins[m], 0.0f);
        sffn_ffn_destroy(scene.ffn);
        scene.ffn = NULL;
        sffn_active_set *set = select_early(&scene, scores);
        struct result exact = run(&scene, SFFN_SELECT_GATE, NULL);
        recalls[m] = 0.0;
        for (size_t t = 0; t < scene.n_tokens; t++) {
            double recall;
            CHECK_OK(ctx, sffn_active_set_recall(set, exact.active, t, &recall));
            recalls[m] += recall / (double)scene.n_tokens;
        }
        densities[m] = sffn_active_set_density(set);
        CHECK_SAYS(m == 0 || (recalls[m] >= before && densities[m] > densities[m - 1]),
                   "margin %g: recall %g after %g", (double)margins[m], recalls[m], before);
        before = recalls[m];
        sffn_active_set_destroy(set);
        result_free(&exact);
    }
    /* (score - g) / (e_i ||x||) has variance 1; 8192 of them, correlated within a row only by x: 10
     * % is far away */
    for (size_t t = 0; t < scene.n_tokens; t++)
        for (size_t i = 0; i < f; i++) {
            double error, deviation, g_error;
            const float *x = scene.x + t * scene.spec.d_model;
            screen_score(&scene, i, x, &error, &deviation);
            double g = reference_dot(SFFN_F32, scene.layer.gate + i * scene.spec.d_model, x,
                                     scene.spec.d_model, 0.0, &g_error);
            double miss = ((double)scores[t * f + i] - g) / deviation;
            squares += miss * miss / (double)n;
        }
    CHECK_WITHIN(squares, 1.0, 0.1, "variance of the score's error");
    /* the 4-bit error is about 0.1 of g's deviation: half of what lies below zero by less than that
     * is missed at margin 0 */
    CHECK_SAYS(recalls[0] > 0.93 && recalls[0] < 0.995, "recall %g without margin", recalls[0]);
    CHECK_SAYS(recalls[3] > 0.995 && recalls[4] > 0.9995, "recall %g and %g with margins 1.5 and 3",
               recalls[3], recalls[4]);
    CHECK_SAYS(densities[4] < 0.75, "margin 3 lets %g through", densities[4]);
    scene_free(&scene);
}

/* The gate decides behind the screen: what was let through and is not active is dropped, what was
 * not let through never comes back. With a wide margin the result is the exact one, bit for bit. */
static void gate_decides_behind_the_screen(void **state)
{
    for (int round = 0; round < 24; round++) {
        struct scene scene;
        scene_begin(&scene, state, __func__, round);
        scene.spec.activation = round % 2 ? SFFN_ACT_FATRELU : SFFN_ACT_RELU;
        scene.spec.act_threshold = 0.2f;
        scene_layer(&scene);
        int is_wide = round % 4 == 3;
        scene_predictor(&scene, is_wide ? 1e4f : 1.5f,
                        scene.spec.activation == SFFN_ACT_FATRELU ? 0.2f : 0.0f);
        struct result exact = run(&scene, SFFN_SELECT_GATE, NULL),
                      screened = run(&scene, SFFN_SELECT_PREDICTOR, NULL);
        struct result by_default = run(&scene, SFFN_SELECT_DEFAULT, NULL);
        sffn_active_set *set = select_early(&scene, NULL);
        size_t f = scene.spec.d_ff, d = scene.spec.d_model, n_selected = 0;
        for (size_t t = 0; t < scene.n_tokens; t++) {
            n_selected += sffn_active_set_count(set, t);
            for (uint32_t i = 0; i < f; i++) {
                int is_wanted = sffn_active_set_contains(set, t, i) &&
                                sffn_active_set_contains(exact.active, t, i);
                CHECK(sffn_active_set_contains(screened.active, t, i) == is_wanted);
                CHECK_BITS(&screened.h[t * f + i],
                           is_wanted ? &exact.h[t * f + i] : &(const float){0.0f}, 1, "h[%u]",
                           (unsigned)i);
            }
        }
        CHECK(screened.stats.n_selected == n_selected &&
              exact.stats.n_selected == scene.n_tokens * f);
        CHECK(screened.stats.n_active <= n_selected);
        CHECK_BITS(by_default.y, screened.y, scene.n_tokens * d, "the default is the predictor");
        if (is_wide) {
            CHECK(n_selected == scene.n_tokens * f);
            CHECK_BITS(screened.y, exact.y, scene.n_tokens * d, "a wide margin is exact");
        }
        if (scene.n_tokens == 1) {
            const struct layer *l = &scene.layer;
            uint64_t bytes = sffn_predictor_weight_bytes(scene.predictor) +
                             screened.stats.n_nonzero * weight_bytes(l->down_packed, d);
            if (scene.spec.is_gated)
                bytes += n_selected * weight_bytes(l->gate_packed, d) +
                         screened.stats.n_active * weight_bytes(l->up_packed, d);
            else
                bytes += n_selected * weight_bytes(l->up_packed, d);
            CHECK_SAYS(screened.stats.touched_bytes == bytes, "touched_bytes %llu, expected %llu",
                       (unsigned long long)screened.stats.touched_bytes, (unsigned long long)bytes);
        }
        sffn_active_set_destroy(set);
        result_free(&exact);
        result_free(&screened);
        result_free(&by_default);
        scene_free(&scene);
    }
}

/* ---------------------------------------------------------------- any selector */

static void with_selector(struct scene *scene, void **state, const char *test, int round)
{
    scene_begin(scene, state, test, round);
    int has_predictor = round % 2 && scene->spec.gate_type != SFFN_Q4_0;
    int is_lossless = !has_predictor && is_quantised(scene->spec.down_type) && round % 4 == 2;
    if (is_lossless) { /* experts of 32 keep the down blocks of the source */
        scene->spec.down_layout = SFFN_LAYOUT_COLUMNS;
        scene->spec.block_size = BLOCK;
    }
    int has_own_input = round % 3 == 0;
    if (has_own_input)
        scene->select_d = 32;
    scene_layer(scene);
    if (has_own_input)
        scene->select_x =
            draw_x(&scene->layer.memory, &scene->rng, scene->n_tokens, scene->select_d, 0);
    if (has_predictor && rng_below(&scene->rng, 2))
        scene->top_k = 1 + rng_below(&scene->rng, scene->spec.d_ff / 2);
    if (has_predictor)
        scene_predictor(scene, 1.5f, 0.0f);
    else
        scene_router(scene, is_lossless || round % 4 < 3 ? 32 : 8);
}

/* A selection made early and handed in, the stage call, and the built-in selector are the same. */
static void early_selection_equals_built_in(void **state)
{
    for (int round = 0; round < 32; round++) {
        struct scene scene;
        with_selector(&scene, state, __func__, round);
        struct result built_in =
            run(&scene, scene.predictor ? SFFN_SELECT_PREDICTOR : SFFN_SELECT_ROUTER, NULL);
        struct result by_default = run(&scene, SFFN_SELECT_DEFAULT, NULL);
        sffn_active_set *early = select_early(&scene, NULL),
                        *stage =
                            make_set(ctx, NULL, scene.n_tokens, scene.n_blocks, scene.block_size);
        CHECK_OK(ctx, sffn_ffn_select(ctx, scene.ffn, scene.select_x, scene.n_tokens, stage));
        same_sets(stage, early, "sffn_ffn_select()");
        struct result handed_in =
            run(&scene, SFFN_SELECT_DEFAULT, early); /* args.active comes first */
        size_t n_y = scene.n_tokens * scene.spec.d_model, n_h = scene.n_tokens * scene.spec.d_ff;
        CHECK_BITS(handed_in.y, built_in.y, n_y, "y of an early selection");
        CHECK_BITS(handed_in.h, built_in.h, n_h, "h of an early selection");
        CHECK_BITS(by_default.y, built_in.y, n_y, "y of the default");
        CHECK(handed_in.stats.n_selected == built_in.stats.n_selected);
        CHECK(handed_in.stats.touched_bytes <
              built_in.stats.touched_bytes); /* the selector's own bytes */
        same_sets(handed_in.active, built_in.active, "active_out");
        /* the selector's input in rows with gaps */
        size_t wide = scene.select_d + 3;
        float *gapped =
            GUARDED_FLOATS(&scene.layer.memory, wide * (scene.n_tokens - 1) + scene.select_d);
        for (size_t k = 0; k < wide * (scene.n_tokens - 1) + scene.select_d; k++)
            gapped[k] = k % wide < scene.select_d
                            ? scene.select_x[k / wide * scene.select_d + k % wide]
                            : NAN;
        struct result strided;
        sffn_ffn_args args =
            result_args(&strided, &scene.layer.memory, ctx, &scene.layer, scene.x, scene.n_tokens);
        args.select_x = gapped;
        args.select_x_stride = wide;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, scene.ffn, &args));
        CHECK_BITS(strided.y, built_in.y, n_y, "y with a strided select_x");
        result_free(&strided);
        /* against float64, with the selection as candidates */
        struct reference ref;
        uint8_t *mask = guarded_alloc(&scene.layer.memory, n_h, 0);
        for (size_t k = 0; k < n_h; k++)
            mask[k] = (uint8_t)sffn_active_set_contains(
                early, k / scene.spec.d_ff, (uint32_t)(k % scene.spec.d_ff) / scene.block_size);
        reference_make(&ref, &scene.layer.memory, &scene.layer, scene.x, scene.n_tokens, mask, 0);
        result_check(&built_in, &scene.layer, &ref, mask, 0,
                     scene.predictor ? "predictor" : "router");
        result_free(&built_in);
        result_free(&by_default);
        result_free(&handed_in);
        sffn_active_set_destroy(early);
        sffn_active_set_destroy(stage);
        scene_free(&scene);
    }
}

/* Neurons that nobody selected: gate, up and down are not read. With lossless blocks a poisoned
 * down block is a whole expert's. */
static void nan_where_not_selected(void **state)
{
    for (int round = 0; round < 32; round++) {
        struct scene scene;
        with_selector(&scene, state, __func__, round);
        int32_t select = scene.predictor ? SFFN_SELECT_PREDICTOR : SFFN_SELECT_ROUTER;
        struct result clean = run(&scene, select, NULL);
        sffn_active_set *set = select_early(&scene, NULL);
        for (uint32_t i = 0; i < scene.spec.d_ff; i++) {
            int is_needed = 0;
            for (size_t t = 0; t < scene.n_tokens; t++)
                is_needed |= sffn_active_set_contains(set, t, i / scene.block_size);
            if (!is_needed)
                layer_poison(&scene.layer, i,
                             PART_UP | PART_DOWN | (scene.spec.is_gated ? PART_GATE : 0));
        }
        sffn_ffn_destroy(scene.ffn);
        scene.ffn = NULL;
        struct result poisoned = run(&scene, select, NULL);
        CHECK_BITS(poisoned.y, clean.y, scene.n_tokens * scene.spec.d_model, "y");
        CHECK(isfinite(poisoned.y[0]));
        result_free(&clean);
        result_free(&poisoned);
        sffn_active_set_destroy(set);
        scene_free(&scene);
    }
}

/* A NaN in x keeps what the selector can't judge, and reaches y of its token alone. */
static void nan_in_x_passes_the_selector(void **state)
{
    for (int round = 1; round < 15; round++) {
        struct scene scene;
        if (round % 3 == 0)
            continue; /* an input of its own */
        with_selector(&scene, state, __func__, round);
        CHECK(scene.select_x == scene.x);
        int32_t select = scene.predictor ? SFFN_SELECT_PREDICTOR : SFFN_SELECT_ROUTER;
        struct result clean = run(&scene, select, NULL);
        size_t d = scene.spec.d_model, bad = scene.n_tokens - 1;
        scene.x[bad * d + rng_below(&scene.rng, (uint32_t)d)] = NAN;
        struct result result = run(&scene, select, NULL);
        for (size_t j = 0; j < d; j++)
            CHECK_SAYS(isnan(result.y[bad * d + j]), "y[%zu] = %g", j,
                       (double)result.y[bad * d + j]);
        CHECK_BITS(result.y, clean.y, bad * d, "the other tokens");
        result_free(&clean);
        result_free(&result);
        scene_free(&scene);
    }
}

int main(void)
{
    static int32_t types[] = {SFFN_F32, SFFN_F16, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
#define TEST(function, needs_screen)                                                               \
    {                                                                                              \
#function, function, needs_screen                                                          \
    }
    static const struct {
        const char *name;
        CMUnitTestFunction function;
        int needs_screen;
    } tests[] = {
        TEST(screen_decides, 1),
        TEST(margin_and_recall, 1),
        TEST(gate_decides_behind_the_screen, 1),
        TEST(early_selection_equals_built_in, 0),
        TEST(nan_where_not_selected, 0),
        TEST(nan_in_x_passes_the_selector, 0),
    };
    struct cases cases = {0};
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
            if (!(tests[i].needs_screen &&
                  type == SFFN_Q4_0)) /* a 4-bit gate has no cheaper copy */
                cases_add(&cases, tests[i].function, &types[type], "%s %s", tests[i].name,
                          sffn_dtype_name(type));
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = 2;
    sffn_status status = sffn_context_create(&config, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "selectors");
    sffn_context_destroy(ctx);
    return failed;
}
