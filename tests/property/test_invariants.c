/* What must hold for any layer, whatever its numbers: methods.md 14.20 and design.md 4, for every
 * weight type. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "layer.h"

enum { MAX_TOKENS = 20 };

static sffn_context *ctx;

static const int32_t relus[] = {SFFN_ACT_RELU, SFFN_ACT_FATRELU, SFFN_ACT_RELU2, SFFN_ACT_DRELU,
                                SFFN_ACT_SHIFTED_RELU};

/* A layer of the state's weight type with an activation that has zeros, and its inputs. */
struct scene {
    int32_t type;
    struct rng rng;
    struct spec spec;
    struct layer layer;
    sffn_ffn *ffn;
    float *x;
    size_t n_tokens;
};

/* Draws shape, layout and activation; the caller changes scene->spec and calls scene_make(). */
static struct scene scene_of(void **state, const char *test, int round)
{
    static const uint32_t any_d[] = {1, 7, 33, 65, 96, 128}, block_d[] = {32, 64, 96, 160},
                          some_f[] = {1, 7, 32, 33, 96, 100};
    struct scene scene;
    char name[96];
    memset(&scene, 0, sizeof scene);
    scene.type = *(const int32_t *)*state;
    snprintf(name, sizeof name, "%s %s %d", test, sffn_dtype_name(scene.type), round);
    scene.rng = rng_named(name);
    struct rng *rng = &scene.rng;
    struct spec spec = SPEC_INIT(0, 0, scene.type);
    spec.d_model = is_quantised(scene.type) ? rng_pick(rng, block_d) : rng_pick(rng, any_d);
    spec.d_ff = rng_pick(rng, some_f);
    spec.activation = rng_pick(rng, relus);
    spec.act_threshold = 0.2f;
    spec.is_gated = spec.activation == SFFN_ACT_DRELU || rng_below(rng, 4) != 0;
    spec.has_bias = (int)rng_below(rng, 2);
    spec.storage = (int32_t)rng_below(rng, 2);
    spec.down_layout =
        !is_quantised(scene.type) && rng_below(rng, 2) ? SFFN_LAYOUT_COLUMNS : SFFN_LAYOUT_ROWS;
    scene.spec = spec;
    scene.n_tokens = 1 + rng_below(rng, 9);
    return scene;
}

static void scene_make(struct scene *scene)
{
    layer_make(&scene->layer, &scene->spec, &scene->rng);
    scene->x = draw_x(&scene->layer.memory, &scene->rng, scene->n_tokens, scene->spec.d_model,
                      rng_below(&scene->rng, 4));
}

static void scene_free(struct scene *scene)
{
    sffn_ffn_destroy(scene->ffn);
    layer_free(&scene->layer);
}

/* One call with everything asked for; rows of x lie x_stride floats apart. */
static struct result run_x(struct scene *scene, int32_t select, const sffn_active_set *active,
                           const float *x, size_t x_stride)
{
    struct result result;
    if (!scene->ffn)
        scene->ffn = layer_create(ctx, &scene->layer);
    sffn_ffn_args args =
        result_args(&result, &scene->layer.memory, ctx, &scene->layer, x, scene->n_tokens);
    args.x_stride = x_stride;
    args.select = select;
    args.active = active;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, scene->ffn, &args));
    return result;
}

static struct result run(struct scene *scene, int32_t select, const sffn_active_set *active)
{
    return run_x(scene, select, active, scene->x, scene->spec.d_model);
}

static size_t n_y(const struct scene *scene)
{
    return scene->n_tokens * scene->spec.d_model;
}

static size_t n_h(const struct scene *scene)
{
    return scene->n_tokens * scene->spec.d_ff;
}

#define ROUNDS(scene, state, n)                                                                    \
    for (int round_ = 0; round_ < (n); round_++)                                                   \
        for (struct scene scene = scene_of(state, __func__, round_), *once_ = &scene; once_;       \
             once_ = NULL, scene_free(&scene))

/* 14.20.1: all neurons active equals the dense call bit for bit, and handed in as a full set,
 * too. */
static void all_active_equals_dense(void **state)
{
    ROUNDS(scene, state, 30)
    {
        scene.spec.gate_shift = 100.0f;
        scene_make(&scene);
        struct result gate = run(&scene, SFFN_SELECT_GATE, NULL),
                      dense = run(&scene, SFFN_SELECT_DENSE, NULL);
        sffn_active_set *all = make_set(ctx, NULL, scene.n_tokens, scene.spec.d_ff, 1);
        for (size_t t = 0; t < scene.n_tokens; t++)
            CHECK_OK(ctx, sffn_active_set_set_all(all, t));
        struct result handed = run(&scene, SFFN_SELECT_ACTIVE, all);
        CHECK(gate.stats.n_active == n_h(&scene) && handed.stats.n_active == n_h(&scene));
        CHECK_BITS(gate.y, dense.y, n_y(&scene), "gate-first");
        CHECK_BITS(handed.y, dense.y, n_y(&scene), "full set");
        CHECK_BITS(gate.h, dense.h, n_h(&scene), "h");
        sffn_active_set_destroy(all);
        result_free(&gate);
        result_free(&dense);
        result_free(&handed);
    }
}

/* 14.20.2: none active gives the bias exactly, 0 without one; y and h are written. */
static void none_active_gives_the_bias(void **state)
{
    ROUNDS(scene, state, 30)
    {
        scene.spec.gate_shift = -100.0f;
        scene_make(&scene);
        sffn_active_set *nobody = make_set(ctx, NULL, scene.n_tokens, scene.spec.d_ff, 1);
        struct result results[2] = {run(&scene, SFFN_SELECT_GATE, NULL),
                                    run(&scene, SFFN_SELECT_ACTIVE, nobody)};
        for (size_t k = 0; k < 2; k++) {
            CHECK(results[k].stats.n_active == 0 && results[k].stats.n_nonzero == 0);
            CHECK(results[k].stats.n_selected == (k ? 0u : n_h(&scene)));
            for (size_t i = 0; i < n_h(&scene); i++)
                CHECK_SAYS(results[k].h[i] == 0.0f, "h[%zu] = %g", i, (double)results[k].h[i]);
            for (size_t t = 0; t < scene.n_tokens; t++)
                CHECK_BITS(results[k].y + t * scene.spec.d_model, scene.layer.down_bias,
                           scene.spec.d_model, "y is the bias");
            result_free(&results[k]);
        }
        scene.layer.config.down_bias = NULL; /* and without bias */
        sffn_ffn_destroy(scene.ffn);
        scene.ffn = NULL;
        struct result plain = run(&scene, SFFN_SELECT_GATE, NULL);
        for (size_t i = 0; i < n_y(&scene); i++)
            CHECK_SAYS(plain.y[i] == 0.0f && !signbit(plain.y[i]), "y[%zu] = %g", i,
                       (double)plain.y[i]);
        result_free(&plain);
        sffn_active_set_destroy(nobody);
    }
}

/* 14.20.3: a handed-in superset of the truly active neurons gives the exact result. */
static void supersets_give_the_same(void **state)
{
    ROUNDS(scene, state, 30)
    {
        scene_make(&scene);
        struct result exact = run(&scene, SFFN_SELECT_GATE, NULL);
        uint8_t *mask = draw_mask(&scene.layer.memory, &scene.rng, scene.n_tokens, scene.spec.d_ff,
                                  rng_uniform(&scene.rng));
        for (size_t t = 0; t < scene.n_tokens; t++)
            for (uint32_t i = 0; i < scene.spec.d_ff; i++)
                mask[t * scene.spec.d_ff + i] |=
                    (uint8_t)sffn_active_set_contains(exact.active, t, i);
        sffn_active_set *superset = make_set(ctx, mask, scene.n_tokens, scene.spec.d_ff, 1);
        struct result some = run(&scene, SFFN_SELECT_ACTIVE, superset);
        CHECK(some.stats.n_active == exact.stats.n_active &&
              some.stats.n_nonzero == exact.stats.n_nonzero);
        CHECK_BITS(some.y, exact.y, n_y(&scene), "y of a superset");
        CHECK_BITS(some.h, exact.h, n_h(&scene), "h of a superset");
        sffn_active_set_destroy(superset);
        result_free(&exact);
        result_free(&some);
    }
}

/* 14.20.7: weights of neurons that are not computed are never read: NaN there changes no bit.
 * Gate-first must read all gate rows; with a handed-in set not even those. */
static void nan_in_skipped_rows(void **state)
{
    static const char *const names[] = {"gate-first", "handed in", "dense rows behind a rule"};
    ROUNDS(scene, state, 90)
    {
        int way = round_ % 3;
        if (way == 2) { /* down rows that only the last test drops: u of dReLU, or |h| */
            scene.spec.is_gated = 1;
            scene.spec.activation = SFFN_ACT_DRELU;
            scene.spec.rule = round_ % 2 ? SFFN_RULE_ABS_H : SFFN_RULE_NONE;
            scene.spec.rule_threshold = 0.2f;
        }
        scene_make(&scene);
        size_t d_ff = scene.spec.d_ff, n_poisoned = 0;
        uint8_t *mask = draw_mask(&scene.layer.memory, &scene.rng, scene.n_tokens, d_ff, 0.3);
        sffn_active_set *set = make_set(ctx, mask, scene.n_tokens, scene.spec.d_ff, 1);
        int32_t select = way == 1 ? SFFN_SELECT_ACTIVE : SFFN_SELECT_GATE;
        struct result clean = run(&scene, select, set);
        for (uint32_t i = 0; i < d_ff; i++) {
            int is_needed = 0;
            for (size_t t = 0; t < scene.n_tokens; t++) {
                is_needed |= way == 0   ? sffn_active_set_contains(clean.active, t, i)
                             : way == 1 ? mask[t * d_ff + i]
                                        : clean.h[t * d_ff + i] != 0.0f;
            }
            if (is_needed)
                continue;
            int all_but_gate = scene.spec.is_gated ? PART_UP | PART_DOWN : PART_DOWN;
            layer_poison(&scene.layer, i,
                         way == 0   ? all_but_gate
                         : way == 1 ? all_but_gate | PART_UP | (scene.spec.is_gated ? PART_GATE : 0)
                                    : PART_DOWN);
            n_poisoned++;
        }
        sffn_ffn_destroy(scene.ffn);
        scene.ffn = NULL;
        struct result poisoned = run(&scene, select, set);
        for (size_t i = 0; i < n_y(&scene); i++)
            CHECK_SAYS(isfinite(poisoned.y[i]), "%s: y[%zu] = %g with %zu NaN neurons of %zu",
                       names[way], i, (double)poisoned.y[i], n_poisoned, d_ff);
        CHECK_BITS(poisoned.y, clean.y, n_y(&scene), "%s: y", names[way]);
        CHECK_BITS(poisoned.h, clean.h, n_h(&scene), "%s: h", names[way]);
        sffn_active_set_destroy(set);
        result_free(&clean);
        result_free(&poisoned);
    }
}

/* Masks are per token: NaN weights of a neuron that only token 1 has reach token 1 and nobody
 * else. */
static void nan_stays_with_its_token(void **state)
{
    ROUNDS(scene, state, 30)
    {
        scene.n_tokens = 5;
        scene.spec.gate_shift = 100.0f; /* whoever is let through is active */
        scene_make(&scene);
        size_t d_ff = scene.spec.d_ff, d = scene.spec.d_model;
        uint8_t *mask = draw_mask(&scene.layer.memory, &scene.rng, 5, d_ff, 0.5);
        uint32_t victim = rng_below(&scene.rng, (uint32_t)d_ff);
        for (size_t t = 0; t < 5; t++)
            mask[t * d_ff + victim] = t == 1;
        sffn_active_set *set = make_set(ctx, mask, 5, scene.spec.d_ff, 1);
        struct result clean = run(&scene, SFFN_SELECT_ACTIVE, set);
        static const int parts[] = {PART_UP, PART_DOWN};
        layer_poison(&scene.layer, victim, parts[round_ % 2]);
        sffn_ffn_destroy(scene.ffn);
        scene.ffn = NULL;
        struct result poisoned = run(&scene, SFFN_SELECT_ACTIVE, set);
        /* One column and x = 0 make h zero: its down row is not wanted by anybody. */
        int is_read = parts[round_ % 2] == PART_UP || clean.h[d_ff + victim] != 0;
        for (size_t t = 0; t < 5; t++)
            for (size_t j = 0; j < d; j++)
                CHECK_SAYS(isfinite(poisoned.y[t * d + j]) == (t != 1 || !is_read),
                           "token %zu y[%zu] = %g", t, j, (double)poisoned.y[t * d + j]);
        CHECK_BITS(poisoned.y, clean.y, d, "token 0");
        CHECK_BITS(poisoned.y + 2 * d, clean.y + 2 * d, 3 * d, "tokens 2 to 4");
        sffn_active_set_destroy(set);
        result_free(&clean);
        result_free(&poisoned);
    }
}

/* NaN and infinities in x reach y of their own token and no other, through every activation and
 * rule. */
static void bad_x_reaches_y(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    ROUNDS(scene, state, 120)
    {
        scene.n_tokens = 3;
        scene.spec.activation = round_ % 8;
        scene.spec.is_gated = scene.spec.activation == SFFN_ACT_DRELU || round_ / 8 % 2;
        scene.spec.rule = round_ / 16 % 4;
        scene.spec.rule_threshold = 0.1f;
        scene.spec.rule_tie = round_ / 64 % 2;
        scene_make(&scene);
        size_t d = scene.spec.d_model;
        struct result clean = run(&scene, SFFN_SELECT_GATE, NULL);
        int is_nan = round_ % 3 == 0;
        float value = bad[is_nan ? 0 : 1 + round_ % 2];
        memcpy((char *)scene.x + (d + rng_below(&scene.rng, (uint32_t)d)) * sizeof value, &value,
               sizeof value);
        static const int32_t selects[] = {SFFN_SELECT_GATE, SFFN_SELECT_DENSE};
        for (size_t k = 0; k < 2; k++) {
            struct result result = run(&scene, selects[k], NULL);
            for (size_t j = 0; j < d && is_nan; j++)
                CHECK_SAYS(isnan(result.y[d + j]), "%s rule %d: a NaN in x gives y[%zu] = %g",
                           sffn_activation_name(scene.spec.activation), (int)scene.spec.rule, j,
                           (double)result.y[d + j]);
            if (selects[k] == SFFN_SELECT_GATE) {
                CHECK_BITS(result.y, clean.y, d, "token 0 beside a bad one");
                CHECK_BITS(result.y + 2 * d, clean.y + 2 * d, d, "token 2 beside a bad one");
            }
            result_free(&result);
        }
        result_free(&clean);
    }
}

/* y(S u T) = y(S) + y(T) - bias for disjoint handed-in sets, within the bounds of the three. */
static void disjoint_sets_add(void **state)
{
    ROUNDS(scene, state, 30)
    {
        scene.spec.has_bias = 0;
        scene_make(&scene);
        size_t n = n_h(&scene);
        struct reference refs[3];
        struct result results[3];
        uint8_t *masks[3];
        for (size_t k = 0; k < 3; k++)
            masks[k] = guarded_alloc(&scene.layer.memory, n, 0);
        for (size_t i = 0; i < n; i++) {
            uint32_t side = rng_below(&scene.rng, 3);
            masks[0][i] = side == 0;
            masks[1][i] = side == 1;
            masks[2][i] = side < 2;
        }
        for (size_t k = 0; k < 3; k++) {
            sffn_active_set *set = make_set(ctx, masks[k], scene.n_tokens, scene.spec.d_ff, 1);
            results[k] = run(&scene, SFFN_SELECT_ACTIVE, set);
            sffn_active_set_destroy(set);
            reference_make(&refs[k], &scene.layer.memory, &scene.layer, scene.x, scene.n_tokens,
                           masks[k], 0);
        }
        /* the gates are computed alike, so h of the union is h of its parts */
        for (size_t i = 0; i < n; i++)
            CHECK(results[2].h[i] == results[0].h[i] + results[1].h[i]);
        CHECK(results[2].stats.n_active == results[0].stats.n_active + results[1].stats.n_active);
        /* what is left is the rounding of the three down products, each from its own h */
        size_t d = scene.spec.d_model;
        double *h = malloc(scene.spec.d_ff * sizeof *h), *y = malloc(d * sizeof *y),
               *error = malloc(3 * d * sizeof *error);
        CHECK(h && y && error);
        for (size_t t = 0; t < scene.n_tokens; t++) {
            for (size_t k = 0; k < 3; k++) {
                for (size_t i = 0; i < scene.spec.d_ff; i++)
                    h[i] = (double)results[k].h[t * scene.spec.d_ff + i];
                reference_down(&scene.layer, h, NULL, y, error + k * d);
            }
            for (size_t j = 0; j < d; j++) {
                double parts = (double)results[0].y[t * d + j] + (double)results[1].y[t * d + j];
                CHECK_WITHIN((double)results[2].y[t * d + j], parts,
                             error[j] + error[d + j] + error[2 * d + j],
                             "token %zu y[%zu] of a union", t, j);
            }
        }
        free(h);
        free(y);
        free(error);
        for (size_t k = 0; k < 3; k++)
            result_free(&results[k]);
    }
}

/* Raising the threshold of a rule or of FATReLU never adds a neuron. */
static void raising_a_threshold_never_adds(void **state)
{
    static const float thresholds[] = {0.0f, 0.01f, 0.05f, 0.2f, 0.5f, 1.0f, 3.0f, 1e30f};
    static const int32_t all[] = {SFFN_ACT_RELU, SFFN_ACT_FATRELU, SFFN_ACT_SILU,
                                  SFFN_ACT_GELU_ERF};
    ROUNDS(scene, state, 32)
    {
        scene.spec.rule = round_ % 4; /* NONE: FATReLU's own threshold */
        scene.spec.activation = scene.spec.rule ? all[round_ / 4 % 4] : SFFN_ACT_FATRELU;
        scene.spec.rule_tie = round_ / 16;
        scene.spec.act_tie = round_ / 16;
        scene.spec.has_thresholds = 0;
        scene_make(&scene);
        uint8_t *was = guarded_alloc(&scene.layer.memory, n_h(&scene), 0);
        uint64_t before = 0, first = 0;
        for (size_t k = 0; k < sizeof thresholds / sizeof thresholds[0]; k++) {
            *(scene.spec.rule ? &scene.layer.config.rule_threshold
                              : &scene.layer.config.act_threshold) = thresholds[k];
            sffn_ffn_destroy(scene.ffn);
            scene.ffn = NULL;
            struct result result = run(&scene, SFFN_SELECT_GATE, NULL);
            for (size_t i = 0; i < n_h(&scene); i++) {
                int is = result.h[i] != 0.0f;
                CHECK_SAYS(k == 0 || !is || was[i], "threshold %g adds h[%zu]",
                           (double)thresholds[k], i);
                was[i] = (uint8_t)is;
            }
            CHECK(k == 0 || result.stats.n_nonzero <= before);
            before = result.stats.n_nonzero;
            first = k == 0 ? before : first;
            result_free(&result);
        }
        CHECK(before == 0); /* nothing passes 1e30 */
    }
}

/* 14.20.6: a batch with its own masks equals single calls bit for bit, whatever the grouping; up to
 * 8 and 20 tokens. */
static void batches_equal_single_calls(void **state)
{
    static const size_t counts[] = {2, 3, 7, 8, 9, 16, 17, MAX_TOKENS}, groups[] = {1, 3, 8, 11};
    ROUNDS(scene, state, 40)
    {
        scene.n_tokens = counts[round_ % 8];
        scene.spec.rule = round_ % 4;
        scene.spec.rule_threshold = 0.1f;
        int is_handed_in = round_ / 4 % 2;
        uint32_t block_size = scene.spec.d_ff % 32 == 0 ? 32 : 1;
        scene_make(&scene);
        size_t d = scene.spec.d_model, f = scene.spec.d_ff, n_blocks = f / block_size;
        uint8_t *mask = draw_mask(&scene.layer.memory, &scene.rng, scene.n_tokens, f, 0.5);
        sffn_active_set *set = make_set(ctx, mask, scene.n_tokens, (uint32_t)n_blocks, block_size);
        struct result whole =
            run(&scene, is_handed_in ? SFFN_SELECT_ACTIVE : SFFN_SELECT_GATE, set);
        for (size_t g = 0; g < 4; g++)
            for (size_t first = 0; first < scene.n_tokens; first += groups[g]) {
                size_t n = scene.n_tokens - first < groups[g] ? scene.n_tokens - first : groups[g];
                struct result part;
                sffn_active_set *own =
                    make_set(ctx, mask + first * f, n, (uint32_t)n_blocks, block_size);
                sffn_ffn_args args = result_args(
                    &part, &scene.layer.memory, ctx, &scene.layer,
                    (const float *)(const void *)((const char *)scene.x + 4 * first * d), n);
                args.active = is_handed_in ? own : NULL;
                args.select = is_handed_in ? SFFN_SELECT_ACTIVE : SFFN_SELECT_GATE;
                CHECK_OK(ctx, sffn_ffn_forward(ctx, scene.ffn, &args));
                CHECK_BITS(part.y, whole.y + first * d, n * d,
                           "y of %zu tokens from token %zu of %zu", n, first, scene.n_tokens);
                CHECK_BITS(part.h, whole.h + first * f, n * f,
                           "h of %zu tokens from token %zu of %zu", n, first, scene.n_tokens);
                for (size_t t = 0; t < n; t++)
                    CHECK(sffn_active_set_count(part.active, t) ==
                          sffn_active_set_count(whole.active, first + t));
                result_free(&part);
                sffn_active_set_destroy(own);
            }
        result_free(&whole);
        sffn_active_set_destroy(set);
    }
}

/* 14.20.4: the same neurons in another order, with their masks, give y within twice the bound. */
static void permuted_neurons(void **state)
{
    ROUNDS(scene, state, 20)
    {
        scene.spec.down_layout = SFFN_LAYOUT_ROWS;
        scene_make(&scene);
        struct reference ref;
        struct result before = run(&scene, SFFN_SELECT_GATE, NULL);
        reference_make(&ref, &scene.layer.memory, &scene.layer, scene.x, scene.n_tokens, NULL, 0);
        size_t f = scene.spec.d_ff, row_bytes = weight_bytes(scene.type, scene.spec.d_model);
        unsigned char *row = malloc(row_bytes);
        CHECK(row != NULL);
        for (size_t i = f - 1; i > 0; i--) { /* shuffles all that belongs to a neuron */
            size_t k = rng_below(&scene.rng, (uint32_t)i + 1);
            unsigned char *const parts[] = {scene.layer.gate_source, scene.layer.up_source,
                                            scene.layer.down_source};
            float *const biases[] = {scene.layer.gate_bias, scene.layer.up_bias};
            for (size_t p = 0; p < 3; p++) {
                if (!parts[p] || k == i)
                    continue;
                memcpy(row, parts[p] + i * row_bytes, row_bytes);
                memcpy(parts[p] + i * row_bytes, parts[p] + k * row_bytes, row_bytes);
                memcpy(parts[p] + k * row_bytes, row, row_bytes);
            }
            for (size_t p = 0; p < 2; p++) {
                float bias = biases[p] ? biases[p][i] : 0.0f;
                if (biases[p]) {
                    biases[p][i] = biases[p][k];
                    biases[p][k] = bias;
                }
            }
        }
        free(row);
        sffn_ffn_destroy(scene.ffn);
        scene.ffn = NULL;
        struct result after = run(&scene, SFFN_SELECT_GATE, NULL);
        CHECK(after.stats.n_active == before.stats.n_active);
        for (size_t i = 0; i < n_y(&scene); i++)
            CHECK_WITHIN((double)after.y[i], (double)before.y[i], 2.0 * ref.y_error[i], "y[%zu]",
                         i);
        result_free(&before);
        result_free(&after);
    }
}

/* Borrowed, unaligned sources give the bits of copied ones; so do down columns and rows of the same
 * numbers (float types). */
static void storage_and_layout_change_no_bit(void **state)
{
    ROUNDS(scene, state, 30)
    {
        scene.spec.storage = SFFN_STORAGE_COPY;
        scene.spec.down_layout = SFFN_LAYOUT_ROWS;
        scene.spec.tail = 1 + rng_below(&scene.rng, 3);
        scene_make(&scene);
        struct result copied = run(&scene, SFFN_SELECT_GATE, NULL),
                      dense = run(&scene, SFFN_SELECT_DENSE, NULL);
        size_t d = scene.spec.d_model, f = scene.spec.d_ff, bytes = weight_bytes(scene.type, 1);
        for (int way = 0; way < 2; way++) {
            sffn_ffn_destroy(scene.ffn);
            scene.ffn = NULL;
            if (way == 0) {
                scene.layer.config.storage = SFFN_STORAGE_BORROW;
            } else {
                if (is_quantised(scene.type))
                    continue;
                unsigned char *columns = guarded_alloc(&scene.layer.memory, f * d * bytes, 1);
                for (size_t i = 0; i < f; i++)
                    for (size_t j = 0; j < d; j++)
                        memcpy(columns + (j * f + i) * bytes,
                               scene.layer.down_source + (i * d + j) * bytes, bytes);
                scene.layer.config.down.data = columns;
                scene.layer.config.down.layout = SFFN_LAYOUT_COLUMNS;
            }
            struct result other = run(&scene, SFFN_SELECT_GATE, NULL),
                          other_dense = run(&scene, SFFN_SELECT_DENSE, NULL);
            CHECK_BITS(other.y, copied.y, n_y(&scene), way ? "down as columns" : "borrowed");
            CHECK_BITS(other_dense.y, dense.y, n_y(&scene),
                       way ? "down as columns, dense" : "borrowed, dense");
            result_free(&other);
            result_free(&other_dense);
        }
        result_free(&copied);
        result_free(&dense);
    }
}

/* Inputs on cache lines are read where they lie, others from copies; types may differ between gate and up. */
static void place_of_x_changes_no_bit(void **state)
{
    static const size_t shifts[] = {0, 4, 16, 32, 61}; /* bytes past a cache line */
    ROUNDS(scene, state, 20)
    {
        if (scene.spec.is_gated && !is_quantised(scene.type) && scene.spec.d_model % 32 == 0 &&
            rng_below(&scene.rng, 2))
            scene.spec.up_type = SFFN_Q8_0;
        scene_make(&scene);
        const size_t d = scene.spec.d_model, n = scene.n_tokens, room = 16 * (d / 16 + 2);
        struct result gate = run(&scene, SFFN_SELECT_GATE, NULL),
                      dense = run(&scene, SFFN_SELECT_DENSE, NULL);
        unsigned char *memory = aligned_alloc(64, (n + 1) * room * sizeof(float));
        CHECK(memory != NULL);
        for (size_t k = 0; k < 10; k++) {
            const size_t stride = k % 2 ? 16 * ((d + 15) / 16) : d + rng_below(&scene.rng, 16);
            unsigned char *x = memory + shifts[k / 2];
            for (size_t t = 0; t < n; t++)
                memcpy(x + t * stride * sizeof(float),
                       (const unsigned char *)scene.x + t * d * sizeof(float), d * sizeof(float));
            struct result other =
                run_x(&scene, SFFN_SELECT_GATE, NULL, (const float *)(const void *)x, stride);
            CHECK_BITS(other.y, gate.y, n_y(&scene), "gate, stride %zu, way %zu", stride, k);
            CHECK_BITS(other.h, gate.h, n_h(&scene), "h, stride %zu, way %zu", stride, k);
            result_free(&other);
            other = run_x(&scene, SFFN_SELECT_DENSE, NULL, (const float *)(const void *)x, stride);
            CHECK_BITS(other.y, dense.y, n_y(&scene), "dense, stride %zu, way %zu", stride, k);
            result_free(&other);
        }
        free(memory);
        result_free(&gate);
        result_free(&dense);
    }
}

/* The stages called one by one equal the whole call bit for bit. */
static void stages_equal_forward(void **state)
{
    ROUNDS(scene, state, 64)
    {
        scene.spec.activation = round_ % 8;
        scene.spec.is_gated = scene.spec.activation == SFFN_ACT_DRELU || round_ / 8 % 2;
        scene.spec.rule = round_ / 16 % 4;
        scene.spec.rule_threshold = 0.1f;
        scene_make(&scene);
        size_t d = scene.spec.d_model, f = scene.spec.d_ff, n = scene.n_tokens;
        int is_handed_in = (int)rng_below(&scene.rng, 2);
        uint8_t *mask = draw_mask(&scene.layer.memory, &scene.rng, n, f, 0.5);
        sffn_active_set *set = make_set(ctx, mask, n, scene.spec.d_ff, 1),
                        *survivors = make_set(ctx, NULL, n, scene.spec.d_ff, 1);
        const sffn_active_set *in = is_handed_in ? set : NULL;
        struct result whole = run(&scene, is_handed_in ? SFFN_SELECT_ACTIVE : SFFN_SELECT_GATE, in);
        float *s = GUARDED_FLOATS(&scene.layer.memory, n * f),
              *h = GUARDED_FLOATS(&scene.layer.memory, n * f);
        float *y = GUARDED_FLOATS(&scene.layer.memory, n * d);
        for (size_t i = 0; i < n * f; i++)
            s[i] = h[i] = NAN;
        CHECK_OK(ctx, sffn_ffn_gate(ctx, scene.ffn, scene.x, n, in, s, survivors));
        for (size_t t = 0; t < n; t++)
            for (uint32_t i = 0; i < f; i++) {
                CHECK_SAYS(sffn_active_set_contains(survivors, t, i) ==
                               sffn_active_set_contains(whole.active, t, i),
                           "token %zu neuron %u", t, (unsigned)i);
                CHECK(sffn_active_set_contains(survivors, t, i) || s[t * f + i] == 0.0f);
            }
        CHECK_OK(ctx, sffn_ffn_up(ctx, scene.ffn, scene.x, s, n, survivors, h));
        CHECK_BITS(h, whole.h, n * f, "h, rule %d", (int)scene.spec.rule);
        CHECK_OK(ctx, sffn_ffn_down(ctx, scene.ffn, h, n, survivors, y));
        CHECK_BITS(y, whole.y, n * d, "y, rule %d", (int)scene.spec.rule);
        sffn_active_set_destroy(set);
        sffn_active_set_destroy(survivors);
        result_free(&whole);
    }
}

/* Optional outputs change nothing: y alone has the same bits. */
static void optional_outputs(void **state)
{
    ROUNDS(scene, state, 16)
    {
        scene_make(&scene);
        struct result all = run(&scene, SFFN_SELECT_GATE, NULL);
        float *y = GUARDED_FLOATS(&scene.layer.memory, n_y(&scene));
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = scene.x;
        args.y = y;
        args.n_tokens = scene.n_tokens;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, scene.ffn, &args));
        CHECK_BITS(y, all.y, n_y(&scene), "y alone");
        result_free(&all);
    }
}

int main(void)
{
    static int32_t types[] = {SFFN_F32, SFFN_F16, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
#define TEST(function)                                                                             \
    {                                                                                              \
#function, function                                                                        \
    }
    static const struct {
        const char *name;
        CMUnitTestFunction function;
    } tests[] = {
        TEST(all_active_equals_dense),
        TEST(none_active_gives_the_bias),
        TEST(supersets_give_the_same),
        TEST(nan_in_skipped_rows),
        TEST(nan_stays_with_its_token),
        TEST(bad_x_reaches_y),
        TEST(disjoint_sets_add),
        TEST(raising_a_threshold_never_adds),
        TEST(batches_equal_single_calls),
        TEST(permuted_neurons),
        TEST(storage_and_layout_change_no_bit),
        TEST(place_of_x_changes_no_bit),
        TEST(stages_equal_forward),
        TEST(optional_outputs),
    };
    struct cases cases = {0};
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
            cases_add(&cases, tests[i].function, &types[type], "%s %s", tests[i].name,
                      sffn_dtype_name(type));
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = 3;
    sffn_status status = sffn_context_create(&config, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "invariants");
    sffn_context_destroy(ctx);
    return failed;
}
