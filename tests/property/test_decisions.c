/* Every predictor kind, router rule and decision, drawn at random: scores against float64, the selection against a plain sort of the
 * scores, the same bits for any threads and any batches, permuted neurons, and layers behind any of them in every call form. */
#include <math.h>
#include <stdio.h>

#include "allocator.h"
#include "check.h"
#include "layer.h"
#include "threads.h"

#if defined(__SANITIZE_THREAD__)
static const uint32_t thread_counts[] = {1, 3, 4};
#else
static const uint32_t thread_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
#endif
#define N_COUNTS (sizeof thread_counts / sizeof thread_counts[0])

static sffn_context *ctx;

/* What is drawn. Weights are floats as the library packs them. */
struct drawn {
    struct rng rng;
    struct guarded memory;
    int is_router;
    sffn_predictor_config predictor;
    sffn_router_config router;
    uint32_t d, hidden, n_rows, n_groups, block_size;
    float *w1, *w2, *b1, *b2, *limits;
    unsigned char *packed1, *packed2;
    size_t n_tokens;
    float *x;
};

static float *draw_matrix(struct drawn *s, int32_t type, uint32_t n_rows, uint32_t n_cols,
                          unsigned char **packed)
{
    const size_t bytes = weight_bytes(type, n_cols);
    float *w = GUARDED_FLOATS(&s->memory, (size_t)n_rows * n_cols);
    *packed = guarded_alloc(&s->memory, n_rows * bytes, 1);
    for (uint32_t r = 0; r < n_rows; r++) {
        for (uint32_t j = 0; j < n_cols; j++)
            w[r * n_cols + j] = rng_normal(&s->rng) / sqrtf((float)n_cols);
        weight_encode(type, w + r * n_cols, n_cols, *packed + r * bytes);
        weight_decode(type, *packed + r * bytes, n_cols, w + r * n_cols);
    }
    return w;
}

static float *draw_vector(struct drawn *s, size_t n)
{
    float *v = GUARDED_FLOATS(&s->memory, n);
    for (size_t i = 0; i < n; i++)
        v[i] = 0.5f * rng_normal(&s->rng);
    return v;
}

/* The callback's scores are W2 x of the drawn matrix in double, rounded. */
static void callback(void *user, const float *x, uint32_t n_x, float *scores, uint32_t n_scores)
{
    const struct drawn *s = user;
    for (uint32_t i = 0; i < n_scores; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < n_x; j++)
            sum += (double)s->w2[i * n_x + j] * load_float(x + j);
        scores[i] = (float)sum;
    }
}

static void draw_predictor(struct drawn *s, int32_t kind, uint32_t d_ff)
{
    sffn_predictor_config *c = &s->predictor;
    const int has_layers = kind == SFFN_PREDICTOR_LOW_RANK || kind == SFFN_PREDICTOR_CALLBACK;
    const int32_t type =
        kind == SFFN_PREDICTOR_CALLBACK ? SFFN_F32 : (int32_t)rng_below(&s->rng, SFFN_DTYPE_COUNT_);
    *c = (sffn_predictor_config)SFFN_PREDICTOR_CONFIG_INIT;
    s->n_groups = has_layers && d_ff == 0 && rng_below(&s->rng, 3) == 0 ? 3 : 1;
    c->d_ff = d_ff ? d_ff : 1 + rng_below(&s->rng, 150);
    s->n_rows = s->n_groups * c->d_ff;
    s->block_size = 1;
    c->kind = kind;
    c->d_model = s->d;
    c->n_layers = s->n_groups;
    if (kind == SFFN_PREDICTOR_LOW_RANK) {
        c->rank = s->hidden = 32 * (1 + rng_below(&s->rng, 2));
        c->hidden_activation = (int32_t)rng_below(&s->rng, 3);
        s->w1 = draw_matrix(s, type, s->hidden, s->d, &s->packed1);
        s->w2 = draw_matrix(s, type, s->n_rows, s->hidden, &s->packed2);
        c->w1.data = s->packed1;
        c->w2.data = s->packed2;
        c->w1.dtype = c->w2.dtype = type;
        c->b1 = s->b1 = rng_below(&s->rng, 2) ? draw_vector(s, s->hidden) : NULL;
        c->b2 = s->b2 = rng_below(&s->rng, 2) ? draw_vector(s, s->n_rows) : NULL;
    } else {
        s->w2 = draw_matrix(s, type, s->n_rows, s->d, &s->packed2);
        c->gate.data = s->packed2;
        c->gate.dtype = type;
        c->callback = callback;
        c->callback_user = s;
        c->alpha = 1.0f + (float)rng_below(&s->rng, 10) / 64.0f;
        c->rank = s->d < c->d_ff ? s->d : c->d_ff;
        c->dtype = SFFN_F32;
    }
    c->tie = (int32_t)rng_below(&s->rng, 2);
    switch (rng_below(&s->rng, 3)) {
    case 0:
        c->decision = SFFN_DECIDE_TOP_K;
        c->top_k = 1 + rng_below(&s->rng, c->d_ff);
        c->top_k_multiple = 1 + rng_below(&s->rng, 20);
        break;
    case 1:
        c->thresholds = s->limits = draw_vector(s, s->n_rows);
        break;
    case 2:
        c->threshold = 0.3f * rng_normal(&s->rng);
    }
}

static void draw_router(struct drawn *s, uint32_t d_ff)
{
    static const uint32_t sizes[] = {8, 16, 32, 96};
    sffn_router_config *c = &s->router;
    const int32_t type = (int32_t)rng_below(&s->rng, SFFN_DTYPE_COUNT_);
    *c = (sffn_router_config)SFFN_ROUTER_CONFIG_INIT;
    s->n_groups = 1;
    s->block_size = c->block_size = rng_pick(&s->rng, sizes);
    s->n_rows = c->n_experts = d_ff ? d_ff / s->block_size : 1 + rng_below(&s->rng, 60);
    c->d_model = s->d;
    if (rng_below(&s->rng, 2)) {
        c->n_hidden = s->hidden = 32;
        s->w1 = draw_matrix(s, type, s->hidden, s->d, &s->packed1);
        c->hidden_weights.data = s->packed1;
        c->hidden_weights.dtype = type;
        c->hidden_bias = s->b1 = rng_below(&s->rng, 2) ? draw_vector(s, s->hidden) : NULL;
    }
    s->w2 = draw_matrix(s, type, s->n_rows, s->hidden ? s->hidden : s->d, &s->packed2);
    c->weights.data = s->packed2;
    c->weights.dtype = type;
    c->bias = s->b2 = rng_below(&s->rng, 2) ? draw_vector(s, s->n_rows) : NULL;
    c->rule = (int32_t)rng_below(&s->rng, 3);
    c->threshold = 0.3f + 0.4f * (float)rng_uniform(&s->rng);
    c->top_k = 1 + rng_below(&s->rng, s->n_rows);
    c->mass = 0.1f + 0.85f * (float)rng_uniform(&s->rng);
    c->normalize_input = (int32_t)rng_below(&s->rng, 2);
    c->weighting = (int32_t)rng_below(&s->rng, 4);
}

enum { N_KINDS = 6 }; /* predictor kinds, and a router */

static void draw(struct drawn *s, const char *test, int round, uint32_t d_ff)
{
    char name[96];
    memset(s, 0, sizeof *s);
    snprintf(name, sizeof name, "%s %d", test, round);
    s->rng = rng_named(name);
    s->d = 32 * (1 + rng_below(&s->rng, 4));
    s->is_router = round % N_KINDS == 5;
    if (s->is_router)
        draw_router(s, d_ff);
    else
        draw_predictor(s, round % N_KINDS, d_ff);
    if (!s->is_router && s->predictor.kind == SFFN_PREDICTOR_SCREENED_GATE &&
        s->predictor.gate.dtype ==
            SFFN_Q4_0) { /* has no cheaper copy: the same floats as they are */
        s->predictor.gate.dtype = SFFN_F32;
        s->predictor.gate.data = s->w2;
    }
    s->n_tokens = 1 + rng_below(&s->rng, 20);
    s->x = draw_x(&s->memory, &s->rng, s->n_tokens, s->d, 0);
}

struct made {
    sffn_predictor *predictor;
    sffn_router *router;
};

static struct made make(const struct drawn *s)
{
    struct made m = {NULL, NULL};
    if (s->is_router)
        CHECK_OK(ctx, sffn_router_create(ctx, &s->router, &m.router));
    else
        CHECK_OK(ctx, sffn_predictor_create(ctx, &s->predictor, &m.predictor));
    return m;
}

static void unmake(struct made m)
{
    sffn_predictor_destroy(m.predictor);
    sffn_router_destroy(m.router);
}

static sffn_active_set *new_set(const struct drawn *s, size_t n_tokens)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    sffn_active_set *set = NULL;
    config.n_blocks = s->n_rows / s->n_groups;
    config.block_size = s->block_size;
    config.max_tokens = (uint32_t)n_tokens;
    config.has_weights = s->is_router;
    CHECK_OK(ctx, sffn_active_set_create(ctx, &config, &set));
    return set;
}

/* All scores and sets of tokens [first, first + n). */
static void select_tokens(sffn_context *with, const struct drawn *s, struct made m, size_t first,
                          size_t n, float *scores, sffn_active_set **sets)
{
    const float *x = s->x + first * s->d;
    if (m.router) {
        CHECK_OK(with, sffn_router_select(with, m.router, x, s->d, n, scores, s->n_rows, sets[0]));
        return;
    }
    CHECK_OK(with, sffn_predictor_predict(with, m.predictor, x, s->d, n, scores, s->n_rows,
                                          s->n_groups == 1 ? sets[0] : NULL));
    if (s->n_groups > 1)
        CHECK_OK(with, sffn_predictor_predict_layers(with, m.predictor, x, s->d, n, sets));
}

/* ---------------------------------------------------------------- scores */

static float activated(int32_t activation, double v, double *slope)
{
    *slope = activation == SFFN_HIDDEN_RELU && v < 0 ? 0 : 1;
    return (float)(activation == SFFN_HIDDEN_TANH   ? tanh(v)
                   : activation == SFFN_HIDDEN_RELU ? fmax(v, 0)
                                                    : v);
}

/* One token's scores in float64 and how far the library's may be. A kind without a formula in float64 (the gate's decomposition, its
 * 4-bit copy) is compared with what it approximates in tests/unit/test_predictor.c and test_selectors.c. */
static void reference_scores(const struct drawn *s, const float *x, double *scores, double *bounds)
{
    const uint32_t n_in = s->hidden ? s->hidden : s->d;
    const int32_t type = s->is_router ? s->router.weights.dtype
                         : s->hidden  ? s->predictor.w2.dtype
                                      : SFFN_F32;
    double norm = 0, hidden_error[64] = {0}, largest = 0, error, slope;
    float in[128], hidden[64];
    for (uint32_t j = 0; j < s->d; j++)
        norm += (double)x[j] * x[j];
    const double scale =
        s->is_router && s->router.normalize_input ? 1 / fmax(sqrt(norm), 1e-12) : 1;
    for (uint32_t h = 0; h < s->hidden; h++) {
        const double v = scale * reference_dot(type, s->w1 + h * s->d, x, s->d, 0.0, &error),
                     bias = s->b1 ? (double)s->b1[h] : 0;
        hidden[h] = activated(s->is_router ? SFFN_HIDDEN_TANH : s->predictor.hidden_activation,
                              v + bias, &slope);
        hidden_error[h] =
            scale * error + 8 * UNIT_ROUNDOFF * (fabs(v) + fabs(bias) + fabs((double)hidden[h]));
        largest = fmax(largest, fabs((double)hidden[h]) + hidden_error[h]);
    }
    for (uint32_t j = 0; j < n_in; j++)
        in[j] = s->hidden ? hidden[j] : x[j];
    for (uint32_t i = 0; i < s->n_rows; i++) {
        const float *w = s->w2 + i * n_in;
        const double bias = s->b2 ? (double)s->b2[i] : 0, first = s->hidden ? 1 : scale;
        const double v = first * reference_dot(type, w, in, n_in, 0.0, &error);
        scores[i] = v + bias;
        bounds[i] = first * error + 8 * UNIT_ROUNDOFF * (fabs(v) + fabs(bias));
        /* another hidden vector, which int8 may also round to the next step */
        for (uint32_t j = 0; j < s->hidden; j++)
            bounds[i] +=
                fabs((double)w[j]) * (hidden_error[j] + (is_quantised(type) ? largest / 127 : 0));
    }
}

static void scores_in_float64(void **state)
{
    (void)state;
    static double want[512], bounds[512];
    for (int round = 0; round < 120; round++) {
        if (round % N_KINDS != SFFN_PREDICTOR_LOW_RANK && round % N_KINDS != 5)
            continue;
        struct drawn s;
        draw(&s, __func__, round, 0);
        struct made m = make(&s);
        float *scores = GUARDED_FLOATS(&s.memory, s.n_tokens * s.n_rows);
        sffn_active_set *sets[3];
        for (uint32_t g = 0; g < s.n_groups; g++)
            sets[g] = new_set(&s, s.n_tokens);
        CHECK(s.n_rows <= 512);
        select_tokens(ctx, &s, m, 0, s.n_tokens, scores, sets);
        for (size_t t = 0; t < s.n_tokens; t++) {
            reference_scores(&s, s.x + t * s.d, want, bounds);
            for (uint32_t i = 0; i < s.n_rows; i++)
                CHECK_WITHIN((double)scores[t * s.n_rows + i], want[i], bounds[i],
                             "round %d token %zu score %u", round, t, (unsigned)i);
        }
        for (uint32_t g = 0; g < s.n_groups; g++)
            sffn_active_set_destroy(sets[g]);
        unmake(m);
        guarded_free(&s.memory);
    }
}

/* ---------------------------------------------------------------- decisions */

/* Whether row i is kept, by counting who comes before it. */
static int is_kept(const struct drawn *s, const float *scores, uint32_t n, uint32_t i, uint32_t row)
{
    uint32_t rank = 0;
    double total = 0, before = 0, max = -INFINITY;
    for (uint32_t j = 0; j < n; j++)
        max = fmax(max, (double)scores[j]);
    for (uint32_t j = 0; j < n; j++) {
        const double share = exp((double)scores[j] - max);
        const int is_before = scores[j] > scores[i] || (scores[j] == scores[i] && j < i);
        rank += (uint32_t)is_before;
        total += share;
        before += is_before ? share : 0;
    }
    if (s->is_router)
        switch (s->router.rule) {
        case SFFN_ROUTER_SIGMOID:
            return scores[i] >
                   (float)log((double)s->router.threshold / (1.0 - (double)s->router.threshold));
        case SFFN_ROUTER_TOP_K:
            return rank < s->router.top_k;
        default:
            return fabs(before - (double)s->router.mass * total) < 1e-12 * total
                       ? -1 /* decided by the last bit of a sum */
                       : before < (double)s->router.mass * total;
        }
    const sffn_predictor_config *c = &s->predictor;
    const float limit = c->thresholds ? c->thresholds[row] : c->threshold;
    if (c->decision == SFFN_DECIDE_TOP_K)
        return rank < (c->top_k + c->top_k_multiple - 1) / c->top_k_multiple * c->top_k_multiple;
    return scores[i] > limit ||
           (scores[i] == limit && (c->tie == SFFN_TIE_KEEP || c->kind == SFFN_PREDICTOR_SIGN));
}

static void decisions_by_counting(void **state)
{
    (void)state;
    for (int round = 0; round < 240; round++) {
        struct drawn s;
        draw(&s, __func__, round, 0);
        s.predictor.margin = 0;
        if (round / N_KINDS % 2) /* ties in plenty */
            for (size_t k = 0; k < s.n_tokens * s.d; k++)
                s.x[k] = 0;
        struct made m = make(&s);
        const uint32_t n = s.n_rows / s.n_groups;
        float *scores = GUARDED_FLOATS(&s.memory, s.n_tokens * s.n_rows);
        sffn_active_set *sets[3];
        for (uint32_t g = 0; g < s.n_groups; g++)
            sets[g] = new_set(&s, s.n_tokens);
        select_tokens(ctx, &s, m, 0, s.n_tokens, scores, sets);
        for (size_t t = 0; t < s.n_tokens; t++)
            for (uint32_t row = 0; row < s.n_rows; row++) {
                const int want = is_kept(&s, scores + t * s.n_rows + row / n * n, n, row % n, row);
                const int got = sffn_active_set_contains(sets[row / n], t, row % n);
                CHECK_SAYS(want < 0 || got == want, "round %d token %zu row %u: %s", round, t,
                           (unsigned)row, got ? "kept" : "dropped");
                if (s.is_router && !got && s.router.weighting)
                    CHECK(sffn_active_set_weights(sets[0], t)[row] == 0.0f);
            }
        for (uint32_t g = 0; g < s.n_groups; g++)
            sffn_active_set_destroy(sets[g]);
        unmake(m);
        guarded_free(&s.memory);
    }
}

/* The same scores, sets and weights from any number of threads, and from each token alone. */
static void threads_and_batches(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        struct drawn s;
        draw(&s, __func__, round, 0);
        struct made m = make(&s);
        const size_t n_scores = s.n_tokens * s.n_rows;
        float *want = GUARDED_FLOATS(&s.memory, n_scores),
              *got = GUARDED_FLOATS(&s.memory, n_scores);
        sffn_active_set *sets[3], *others[3];
        for (uint32_t g = 0; g < s.n_groups; g++) {
            sets[g] = new_set(&s, s.n_tokens);
            others[g] = new_set(&s, s.n_tokens);
        }
        select_tokens(ctx, &s, m, 0, s.n_tokens, want, sets);
        for (size_t c = 0; c < N_COUNTS + s.n_tokens; c++) {
            sffn_context *with = c < N_COUNTS ? make_context(thread_counts[c], NULL) : NULL;
            const size_t first = with ? 0 : c - N_COUNTS, n = with ? s.n_tokens : 1;
            select_tokens(with ? with : ctx, &s, m, first, n, got, others);
            CHECK_BITS(got, want + first * s.n_rows, n * s.n_rows, "scores");
            for (uint32_t g = 0; g < s.n_groups; g++)
                for (size_t t = 0; t < n; t++) {
                    const size_t count = sffn_active_set_count(sets[g], first + t);
                    CHECK_SAYS(
                        sffn_active_set_count(others[g], t) == count &&
                            (count == 0 || memcmp(sffn_active_set_indices(others[g], t),
                                                  sffn_active_set_indices(sets[g], first + t),
                                                  count * sizeof(uint32_t)) == 0),
                        "round %d: other members of token %zu", round, first + t);
                    if (s.is_router)
                        CHECK_BITS(sffn_active_set_weights(others[g], t),
                                   sffn_active_set_weights(sets[g], first + t), s.n_rows,
                                   "weights");
                }
            sffn_context_destroy(with);
        }
        for (uint32_t g = 0; g < s.n_groups; g++) {
            sffn_active_set_destroy(sets[g]);
            sffn_active_set_destroy(others[g]);
        }
        unmake(m);
        guarded_free(&s.memory);
    }
}

/* ---------------------------------------------------------------- layers */

static struct result run_layer(enum threading kind, uint32_t n, struct rng *rng, sffn_context *with,
                               struct layer *layer, const sffn_ffn *ffn, const struct drawn *s,
                               const float *x, const sffn_active_set *active)
{
    struct result result;
    sffn_ffn_args args = result_args(&result, &layer->memory, ctx, layer, x, s->n_tokens);
    args.select_x = s->x;
    args.active = active;
    CHECK_OK(with, threading_forward(kind, n, rng, with, ffn, &args));
    return result;
}

/* A layer behind any selector: in every call form the same bits as with the set handed in, and nothing is read of what nobody selected. */
static void layers_behind_any_selector(void **state)
{
    (void)state;
    for (int round = 0; round < 36; round++) {
        struct drawn s;
        const uint32_t d_ff = 96 * 3;
        draw(&s, __func__, round, d_ff);
        struct made m = make(&s);
        struct layer layer;
        struct spec spec = SPEC_INIT(64, d_ff, (int32_t)rng_below(&s.rng, SFFN_DTYPE_COUNT_));
        spec.is_gated = rng_below(&s.rng, 3) != 0;
        spec.activation = rng_below(&s.rng, 2) ? SFFN_ACT_RELU : SFFN_ACT_SILU;
        layer_make(&layer, &spec, &s.rng);
        layer.config.predictor = m.predictor;
        layer.config.router = m.router;
        const float *x = draw_x(&layer.memory, &s.rng, s.n_tokens, 64, 0);
        const size_t n_y = s.n_tokens * 64;
        sffn_ffn *ffn = layer_create(ctx, &layer);
        sffn_active_set *set = new_set(&s, s.n_tokens);
        CHECK_OK(ctx, sffn_ffn_select(ctx, ffn, s.x, s.n_tokens, set));
        struct result want = run_layer(THREADING_POOL, 1, &s.rng, ctx, &layer, ffn, &s, x, NULL),
                      early = run_layer(THREADING_POOL, 1, &s.rng, ctx, &layer, ffn, &s, x, set);
        CHECK_BITS(early.y, want.y, n_y, "y of an early selection");
        CHECK(early.stats.n_selected == want.stats.n_selected);
        for (enum threading kind = 0; kind < THREADING_COUNT; kind++) {
            const uint32_t n = thread_counts[rng_below(&s.rng, N_COUNTS)];
            sffn_context *with = threading_context(kind, n, NULL);
            CHECK_OK(with, sffn_ffn_reserve(with, ffn));
            struct result got = run_layer(kind, n, &s.rng, with, &layer, ffn, &s, x, NULL);
            CHECK_BITS(got.y, want.y, n_y, "round %d: %s with %u threads", round,
                       threading_names[kind], (unsigned)n);
            CHECK_BITS(got.h, want.h, s.n_tokens * d_ff, "h");
            result_free(&got);
            sffn_context_destroy(with);
        }
        struct test_allocator allocator = TEST_ALLOCATOR_INIT;
        sffn_status status;
        sffn_context *counted = allocator_context(&allocator, 2, &status);
        CHECK_OK(counted, sffn_ffn_reserve(counted, ffn));
        const size_t n_calls = allocator.n_calls;
        struct result silent =
            run_layer(THREADING_POOL, 2, &s.rng, counted, &layer, ffn, &s, x, NULL);
        CHECK_SAYS(allocator.n_calls == n_calls, "forward allocates");
        CHECK_BITS(silent.y, want.y, n_y, "y with an allocator of its own");
        result_free(&silent);
        sffn_context_destroy(counted);
        for (uint32_t i = 0; i < d_ff; i++) {
            int is_needed = 0;
            for (size_t t = 0; t < s.n_tokens; t++)
                is_needed |= sffn_active_set_contains(set, t, i / s.block_size);
            if (!is_needed)
                layer_poison(&layer, i, PART_UP | PART_DOWN | (spec.is_gated ? PART_GATE : 0));
        }
        sffn_ffn_destroy(ffn);
        ffn = layer_create(ctx, &layer);
        struct result poisoned =
            run_layer(THREADING_POOL, 1, &s.rng, ctx, &layer, ffn, &s, x, NULL);
        CHECK_BITS(poisoned.y, want.y, n_y, "y with NaN in what nobody selected");
        result_free(&want);
        result_free(&early);
        result_free(&poisoned);
        sffn_active_set_destroy(set);
        sffn_ffn_destroy(ffn);
        unmake(m);
        layer_free(&layer);
        guarded_free(&s.memory);
    }
}

/* Neurons in another order: the same ones are selected. */
static void permuted_neurons(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        struct drawn s;
        draw(&s, __func__, round, 0);
        if (s.n_groups > 1 || (!s.is_router && (s.predictor.kind == SFFN_PREDICTOR_GATE_SVD ||
                                                s.predictor.kind == SFFN_PREDICTOR_CALLBACK))) {
            guarded_free(&s.memory); /* the decomposition of permuted rows has other roundings */
            continue;
        }
        const uint32_t n = s.n_rows;
        const int32_t type = s.is_router ? s.router.weights.dtype
                             : s.hidden  ? s.predictor.w2.dtype
                                         : s.predictor.gate.dtype;
        const size_t bytes = weight_bytes(type, s.hidden ? s.hidden : s.d);
        const unsigned char *from = s.is_router ? s.router.weights.data
                                    : s.hidden  ? s.predictor.w2.data
                                                : s.predictor.gate.data;
        uint32_t *order = guarded_alloc(&s.memory, n * sizeof *order, 0);
        unsigned char *rows = guarded_alloc(&s.memory, n * bytes, 1);
        float *b2 = GUARDED_FLOATS(&s.memory, n), *limits = GUARDED_FLOATS(&s.memory, n);
        for (uint32_t i = 0; i < n; i++)
            order[i] = i;
        for (uint32_t i = n; i-- > 1;) {
            const uint32_t j = rng_below(&s.rng, i + 1), swapped = order[i];
            order[i] = order[j];
            order[j] = swapped;
        }
        for (uint32_t i = 0; i < n; i++) {
            memcpy(rows + i * bytes, from + order[i] * bytes, bytes);
            b2[i] = s.b2 ? s.b2[order[i]] : 0;
            limits[i] = s.limits ? s.limits[order[i]] : 0;
        }
        struct drawn p = s;
        p.router.weights.data = p.predictor.w2.data = p.predictor.gate.data = rows;
        p.router.bias = p.predictor.b2 = s.b2 ? b2 : NULL;
        p.predictor.thresholds = s.limits ? limits : NULL;
        struct made a = make(&s), b = make(&p);
        float *scores = GUARDED_FLOATS(&s.memory, s.n_tokens * n),
              *moved = GUARDED_FLOATS(&s.memory, s.n_tokens * n);
        sffn_active_set *sets[2] = {new_set(&s, s.n_tokens), new_set(&s, s.n_tokens)};
        select_tokens(ctx, &s, a, 0, s.n_tokens, scores, &sets[0]);
        select_tokens(ctx, &p, b, 0, s.n_tokens, moved, &sets[1]);
        for (size_t t = 0; t < s.n_tokens; t++) {
            uint32_t n_equal = 0; /* equal scores are decided by the order itself */
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j < i; j++)
                    n_equal += scores[t * n + i] == scores[t * n + j];
            for (uint32_t i = 0; i < n; i++) {
                CHECK_BITS(&moved[t * n + i], &scores[t * n + order[i]], 1, "score");
                CHECK_SAYS(n_equal > 0 || sffn_active_set_contains(sets[1], t, i) ==
                                              sffn_active_set_contains(sets[0], t, order[i]),
                           "round %d token %zu neuron %u", round, t, (unsigned)i);
            }
        }
        sffn_active_set_destroy(sets[0]);
        sffn_active_set_destroy(sets[1]);
        unmake(a);
        unmake(b);
        guarded_free(&s.memory);
    }
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, scores_in_float64);
    CASE(&cases, decisions_by_counting);
    CASE(&cases, threads_and_batches);
    CASE(&cases, layers_behind_any_selector);
    CASE(&cases, permuted_neurons);
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = 2;
    sffn_status status = sffn_context_create(&config, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "decisions");
    sffn_context_destroy(ctx);
    return failed;
}
