/* predictor.h: SFFN_PREDICTOR_CASCADE by hand, its planes, its bytes, and its recall on a real layer.
 * Argument: the folder with reglu-33m.gguf and layer3_inputs.f32. */
#include <math.h>
#include <stdio.h>

#include "check.h"
#include "layer.h"

static sffn_context *ctx;
static const char *models;

enum { F = 8, D = 64 };
static float gate[F * D];

static sffn_predictor_config config_of(uint32_t d_ff, uint32_t d_model, const float *weights)
{
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.kind = SFFN_PREDICTOR_CASCADE;
    config.d_model = d_model;
    config.d_ff = d_ff;
    config.gate.data = weights;
    return config;
}

static void config_errors(void **state)
{
    (void)state;
    static float mean[D];
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_predictor_config config = config_of(F, D, gate);                                      \
        sffn_predictor *predictor = (sffn_predictor *)(uintptr_t)1;                                \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_predictor_create(ctx, &config, &predictor), status, words);          \
        CHECK(predictor == NULL);                                                                  \
    } while (0)
    REFUSED(config.bits = 0, SFFN_ERR_INVALID_ARGUMENT, "bits 0 1..4");
    REFUSED(config.bits = 5, SFFN_ERR_INVALID_ARGUMENT, "bits 5 1..4");
    REFUSED(config.step_bits = 0, SFFN_ERR_INVALID_ARGUMENT, "step_bits 0 1..4");
    REFUSED(config.step_bits = 5, SFFN_ERR_INVALID_ARGUMENT, "step_bits 5 1..4");
    REFUSED(config.column_share = -0.1f, SFFN_ERR_INVALID_ARGUMENT, "column_share -0.1 [0, 1]");
    REFUSED(config.column_share = 1.5f, SFFN_ERR_INVALID_ARGUMENT, "column_share 1.5");
    REFUSED(config.column_share = NAN, SFFN_ERR_INVALID_ARGUMENT, "column_share nan");
    REFUSED((config.column_share = 0.5f, config.bits = 5), SFFN_ERR_INVALID_ARGUMENT, "bits 5");
    REFUSED(config.gate.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "data NULL");
    REFUSED(config.d_model = 48, SFFN_ERR_SHAPE, "d_model 48 32");
    REFUSED(config.d_model = (1u << 20) + 32, SFFN_ERR_SHAPE, "d_model 1048608");
    REFUSED(config.gate.layout = SFFN_LAYOUT_COLUMNS, SFFN_ERR_UNSUPPORTED, "layout");
    REFUSED((config.decision = SFFN_DECIDE_TOP_K, config.top_k = 1), SFFN_ERR_UNSUPPORTED,
            "decision THRESHOLD");
    REFUSED((mean[7] = NAN, config.input_mean = mean), SFFN_ERR_INVALID_ARGUMENT,
            "input_mean 7 finite");
    gate[5 * D + 3] = INFINITY;
    REFUSED((void)0, SFFN_ERR_INVALID_ARGUMENT, "row 5 finite");
    gate[5 * D + 3] = 0;
#undef REFUSED
}

/* Rows of one magnitude are exact in one bit: w = +-2^k, and x that is exact in int8. */
static void one_bit_by_hand(void **state)
{
    (void)state;
    float x[D], mean[D], bias[F], limits[F], scores[F];
    double exact[F];
    for (int j = 0; j < D; j++) {
        mean[j] = (float)(j % 5) - 2;
        x[j] = (float)(j * 37 % 127) + mean[j];
    }
    x[9] = 127 + mean[9]; /* so that the scale of x - mean is 1 */
    for (int i = 0; i < F; i++) {
        bias[i] = (float)(i - 4) * 0.5f;
        exact[i] = (double)bias[i];
        for (int j = 0; j < D; j++) {
            gate[i * D + j] = ((i * 7 + j) * 2654435761u >> 16 & 1) ? 0.25f : -0.25f;
            exact[i] += (double)gate[i * D + j] * (double)x[j];
        }
        limits[i] = (float)exact[i]; /* equal: drops or keeps */
    }
    limits[2] -= 0.5f;
    limits[3] += 0.5f;
    for (int tie = 0; tie < 2; tie++) {
        sffn_predictor_config config = config_of(F, D, gate);
        sffn_predictor *predictor = NULL;
        sffn_active_set *active = make_set(ctx, NULL, 1, F, 1);
        config.bits = config.step_bits = 1;
        config.gate_bias = bias;
        config.input_mean = mean;
        config.thresholds = limits;
        config.tie = tie ? SFFN_TIE_KEEP : SFFN_TIE_DROP;
        config.margin = 100; /* of no error and no rounding: none */
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, D, 1, scores, F, active));
        for (int i = 0; i < F; i++) {
            CHECK_SAYS((double)scores[i] == exact[i], "score %d: %g, by hand %g", i,
                       (double)scores[i], exact[i]);
            CHECK(sffn_active_set_contains(active, 0, (uint32_t)i) == (i == 2 || (tie && i != 3)));
        }
        CHECK(sffn_predictor_weight_bytes(predictor) == F * (D / 8 + 8 + sizeof(float)));
        sffn_predictor_destroy(predictor);
        config.thresholds = NULL; /* of all: row 5 ties */
        config.threshold = limits[5];
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, D, 1, scores, F, active));
        for (int i = 0; i < F; i++)
            CHECK(sffn_active_set_contains(active, 0, (uint32_t)i) ==
                  (tie ? scores[i] >= limits[5] : scores[i] > limits[5]));
        sffn_predictor_info info = SFFN_PREDICTOR_INFO_INIT;
        CHECK_OK(ctx, sffn_predictor_get_info(predictor, &info));
        CHECK(info.kind == SFFN_PREDICTOR_CASCADE && info.bits == 1 && info.step_bits == 1);
        sffn_active_set_destroy(active);
        sffn_predictor_destroy(predictor);
    }
}

/* The score made of planes is the score made at once, bit for bit; lengths with and without whole groups of 512. */
static void planes_nest(void **state)
{
    (void)state;
    static const uint32_t widths[] = {32, 96, 512, 544, 1504};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        const uint32_t d = widths[w], f = 40;
        struct rng rng = rng_named("planes nest");
        float *weights = calloc((size_t)f * d, sizeof *weights), *x = calloc(3 * d, sizeof *x);
        float once[3 * 40], steps[3 * 40];
        for (size_t i = 0; i < (size_t)f * d; i++)
            weights[i] = rng_normal(&rng);
        for (size_t j = 0; j < 3 * (size_t)d; j++)
            x[j] = rng_normal(&rng);
        memset(weights + 5 * (size_t)d, 0, d * sizeof *weights); /* a row of zeros */
        for (uint32_t bits = 2; bits <= 4; bits++) {
            for (uint32_t step = bits; step >= 1; step--) {
                sffn_predictor_config config = config_of(f, d, weights);
                sffn_predictor *predictor = NULL;
                config.bits = bits;
                config.step_bits = step;
                config.threshold = -INFINITY; /* everything passes every step */
                CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
                CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, d, 3,
                                                     step == bits ? once : steps, f, NULL));
                if (step < bits)
                    CHECK_BITS(steps, once, 3 * f, "d %u, %u bits, %u at a time", (unsigned)d,
                               (unsigned)bits, (unsigned)step);
                sffn_predictor_destroy(predictor);
            }
        }
        CHECK(once[5] == 0);
        free(weights);
        free(x);
    }
}

/* A token alone and among eight: the same neurons and scores, bit for bit, over more rows than go through the steps at once. */
static void alone_as_among_others(void **state)
{
    (void)state;
    enum { ROWS = 5000, W = 160, N = 8 };
    struct rng rng = rng_named("cascade alone");
    static float weights[ROWS * W], limits[ROWS], together[N * ROWS], alone[ROWS], x[N * W];
    for (size_t i = 0; i < ROWS * W; i++)
        weights[i] = rng_normal(&rng);
    for (size_t j = 0; j < N * W; j++)
        x[j] = rng_normal(&rng);
    for (size_t i = 0; i < ROWS; i++)
        limits[i] = 10 + rng_normal(&rng);
    x[3 * W + 7] = NAN; /* lets everything of its token through */
    for (uint32_t step = 1; step <= 4; step++)
        for (int per_row = 0; per_row < 2; per_row++) {
            sffn_predictor_config config = config_of(ROWS, W, weights);
            sffn_predictor *predictor = NULL;
            sffn_active_set *all = make_set(ctx, NULL, N, ROWS, 1);
            sffn_active_set *one = make_set(ctx, NULL, 1, ROWS, 1);
            sffn_predictor_info info = SFFN_PREDICTOR_INFO_INIT;
            config.bits = 3;
            config.step_bits = step;
            config.threshold = 10;
            config.thresholds = per_row ? limits : NULL;
            CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
            CHECK_OK(ctx, sffn_predictor_get_info(predictor, &info));
            CHECK(info.step_bits == (step < 3 ? step : 3));
            CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, W, N, together, ROWS, all));
            for (size_t t = 0; t < N; t++) {
                const size_t n = sffn_active_set_count(all, t);
                CHECK(t == 3 ? n == ROWS : n > ROWS / 20 && n < ROWS / 2);
                CHECK_OK(ctx,
                         sffn_predictor_predict(ctx, predictor, x + t * W, W, 1, alone, ROWS, one));
                CHECK_BITS(alone, together + t * ROWS, t == 3 ? 0 : ROWS, "scores of token %zu", t);
                CHECK(sffn_active_set_count(one, 0) == n);
                CHECK(memcmp(sffn_active_set_indices(one, 0), sffn_active_set_indices(all, t),
                             n * sizeof(uint32_t)) == 0);
            }
            sffn_active_set_destroy(all);
            sffn_active_set_destroy(one);
            sffn_predictor_destroy(predictor);
        }
}

/* All columns in 2 bits are two planes, bit for bit; half of them are the columns where |x| is largest, the others counting as the mean. */
static void columns(void **state)
{
    (void)state;
    enum { ROWS = 4096 + 300, W = 96, N = 3 }; /* two blocks, the last of them in two groups */
    struct rng rng = rng_named("cascade columns");
    static float weights[ROWS * W], planes[N * ROWS], all[N * ROWS], half[N * ROWS],
        by_hand[N * ROWS];
    float x[N * W], mean[W], picked[N * W];
    for (size_t i = 0; i < (size_t)ROWS * W; i++)
        weights[i] = rng_normal(&rng);
    memset(weights + 5 * W, 0, W * sizeof *weights); /* a row of zeros */
    for (int j = 0; j < W; j++)
        mean[j] = (float)(j % 3) - 1;
    for (int j = 0; j < N * W; j++) /* different sizes, two of which are equal */
        x[j] = mean[j % W] + (float)((j * 37 + j / W) % 95 + 1) * (j % 2 ? -1.0f : 1.0f);
    for (int t = 0; t < N; t++)
        for (int j = 0; j < W; j++) {
            int n_larger = 0;
            const float size = fabsf(x[t * W + j] - mean[j]);
            for (int i = 0; i < W; i++) {
                const float other = fabsf(x[t * W + i] - mean[i]);
                n_larger += other > size || (other == size && i < j);
            }
            picked[t * W + j] = n_larger < 40 ? x[t * W + j] : mean[j];
        }
    const struct {
        uint32_t bits;
        float share;
        const float *x;
        float *scores;
    } runs[] = {
        {2, 0, x, planes}, {0, 1, x, all}, {0, 40.0f / W, x, half}, {0, 1, picked, by_hand}};
    for (size_t k = 0; k < sizeof runs / sizeof *runs; k++) {
        sffn_predictor_config config = config_of(ROWS, W, weights);
        sffn_predictor_info info = SFFN_PREDICTOR_INFO_INIT;
        sffn_predictor *predictor = NULL;
        config.bits = config.step_bits = runs[k].bits;
        config.column_share = runs[k].share;
        config.input_mean = mean;
        config.threshold = -INFINITY;
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        CHECK_OK(ctx, sffn_predictor_get_info(predictor, &info));
        CHECK(info.column_share == runs[k].share && info.bits == runs[k].bits);
        CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, runs[k].x, W, N, runs[k].scores, ROWS,
                                             NULL));
        sffn_predictor_destroy(predictor);
    }
    CHECK_BITS(all, planes, N * ROWS, "all columns");
    CHECK_BITS(half, by_hand, N * ROWS, "the largest columns");
    CHECK(half[5] == 0 && memcmp(half, all, sizeof half) != 0);
}

/* Neurons that a wide margin keeps are all that are active; what is not read makes the doubt larger. */
static void doubt_of_columns(void **state)
{
    (void)state;
    enum { ROWS = 512, W = 256, N = 8 };
    struct rng rng = rng_named("cascade doubt");
    static float weights[ROWS * W], x[N * W];
    for (size_t i = 0; i < (size_t)ROWS * W; i++)
        weights[i] = rng_normal(&rng);
    for (int j = 0; j < N * W; j++)
        x[j] = rng_normal(&rng);
    size_t counts[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        sffn_predictor_config config = config_of(ROWS, W, weights);
        sffn_predictor *predictor = NULL;
        sffn_active_set *kept = make_set(ctx, NULL, N, ROWS, 1);
        config.bits = 0;
        config.column_share = k ? 0.25f : 1.0f;
        config.threshold = 16; /* one standard deviation of the scores */
        config.margin = 3;
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, W, N, NULL, 0, kept));
        for (int t = 0; t < N; t++) {
            counts[k] += sffn_active_set_count(kept, (size_t)t);
            for (int i = 0; i < ROWS; i++) {
                double exact = 0;
                for (int j = 0; j < W; j++)
                    exact += (double)weights[i * W + j] * (double)x[t * W + j];
                CHECK(exact <= 16 || sffn_active_set_contains(kept, (size_t)t, (uint32_t)i));
            }
        }
        sffn_active_set_destroy(kept);
        sffn_predictor_destroy(predictor);
    }
    CHECK_SAYS(counts[0] < counts[1] && counts[1] < N * ROWS, "%zu, then %zu", counts[0],
               counts[1]);
}

/* Threads and the grouping of tokens change nothing; NaN lets everything of its token through. */
static void check_threads(float column_share)
{
    enum { N = 11, W = 160, ROWS = 700 };
    struct rng rng = rng_named("cascade threads");
    float *weights = calloc((size_t)ROWS * W, sizeof *weights), x[N * W];
    static float want[N * ROWS], got[N * ROWS];
    for (size_t i = 0; i < (size_t)ROWS * W; i++)
        weights[i] = rng_normal(&rng);
    for (size_t j = 0; j < N * W; j++)
        x[j] = rng_normal(&rng) - 0.2f;
    x[4 * W + 17] = NAN;
    x[6 * W] = INFINITY;
    sffn_active_set *first = make_set(ctx, NULL, N, ROWS, 1),
                    *set = make_set(ctx, NULL, N, ROWS, 1);
    for (uint32_t n_threads = 1; n_threads <= 9; n_threads++) {
        sffn_context_config threads = SFFN_CONTEXT_CONFIG_INIT;
        sffn_context *own = NULL;
        sffn_predictor_config config = config_of(ROWS, W, weights);
        sffn_predictor *predictor = NULL;
        config.column_share = column_share;
        threads.n_threads = n_threads;
        CHECK_OK(NULL, sffn_context_create(&threads, &own));
        CHECK_OK(own, sffn_predictor_create(own, &config, &predictor));
        CHECK_OK(own, sffn_predictor_predict(own, predictor, x, W, N, n_threads == 1 ? want : got,
                                             ROWS, n_threads == 1 ? first : set));
        for (size_t t = 0; n_threads > 1 && t < N; t++) {
            CHECK_BITS(got + t * ROWS, want + t * ROWS, t == 4 || t == 6 ? 0 : ROWS, "scores");
            CHECK(sffn_active_set_count(set, t) == sffn_active_set_count(first, t) &&
                  memcmp(sffn_active_set_indices(set, t), sffn_active_set_indices(first, t),
                         sffn_active_set_count(first, t) * sizeof(uint32_t)) == 0);
        }
        for (size_t t = 0; n_threads == 3 && t < N; t++) { /* alone */
            CHECK_OK(own, sffn_predictor_predict(own, predictor, x + t * W, W, 1, got, ROWS, NULL));
            CHECK_BITS(got, want + t * ROWS, t == 4 || t == 6 ? 0 : ROWS, "token %zu alone", t);
        }
        sffn_predictor_destroy(predictor);
        sffn_context_destroy(own);
    }
    CHECK(sffn_active_set_count(first, 4) == ROWS && sffn_active_set_count(first, 6) == ROWS);
    CHECK(sffn_active_set_count(first, 0) > 0 && sffn_active_set_count(first, 0) < ROWS);
    sffn_active_set_destroy(first);
    sffn_active_set_destroy(set);
    free(weights);
}

static void threads_and_batches(void **state)
{
    (void)state;
    check_threads(0);
}

static void threads_and_columns(void **state)
{
    (void)state;
    check_threads(0.4f);
}

/* A layer whose neurons 0 .. 31 are out of the question at the first step, 32 .. 63 active: every byte counted; what is skipped may be NaN. */
static void bytes_and_skipped_rows(void **state)
{
    (void)state;
    enum { ROWS = 64, W = 96 };
    static float g[ROWS * W], up[ROWS * W], down[ROWS * W];
    float x[W], y[W];
    struct rng rng = rng_named("cascade bytes");
    for (int j = 0; j < W; j++)
        x[j] = rng_normal(&rng);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < W; j++) {
            g[i * W + j] = (i < 32 ? -1 : 1) * x[j] + 0.01f * rng_normal(&rng);
            up[i * W + j] = rng_normal(&rng);
            down[i * W + j] = rng_normal(&rng);
        }
    sffn_predictor_config config = config_of(ROWS, W, g);
    sffn_predictor *predictor = NULL;
    config.bits = 3;
    config.step_bits = 2;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    for (int i = 0; i < 32 * W; i++)
        g[i] = up[i] = down[i] = NAN;
    sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
    sffn_ffn *ffn = NULL;
    layer.d_model = W;
    layer.d_ff = ROWS;
    layer.gate.data = g;
    layer.up.data = up;
    layer.down.data = down;
    layer.predictor = predictor;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &layer, &ffn));
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    args.x = x;
    args.y = y;
    args.n_tokens = 1;
    args.stats = &stats;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    CHECK(stats.n_selected == 32 && stats.n_active == 32);
    for (int j = 0; j < W; j++)
        CHECK(isfinite(y[j]));
    const uint64_t step0 = 2 * W / 8 + 8, step1 = W / 8 + 8, row = W * sizeof(float);
    uint64_t bytes = 0;
    CHECK(stats.touched_bytes == 64 * step0 + 32 * step1 + 32 * 3 * row);
    CHECK_OK(ctx, sffn_predictor_count_bytes(ctx, predictor, x, W, 1, &bytes));
    CHECK(bytes == 64 * step0 + 32 * step1);
    CHECK_ERROR(ctx, sffn_predictor_count_bytes(ctx, predictor, x, W, 1, NULL),
                SFFN_ERR_INVALID_ARGUMENT, "bytes NULL");
    sffn_ffn_destroy(ffn);
    sffn_predictor_destroy(predictor);
    /* With a first step that reads half of the columns. Tokens read their own, so that two of them read twice. */
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < W; j++)
            g[i * W + j] = -x[j];
    config.column_share = 0.5f;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK_OK(ctx, sffn_predictor_count_bytes(ctx, predictor, x, W, 1, &bytes));
    const uint64_t first = 64 * (W / 2 / 4 + 8);
    CHECK(bytes == first + 32 * step0 + 32 * step1);
    CHECK(sffn_predictor_weight_bytes(predictor) == first);
    float two[2 * W], y_two[2 * W];
    memcpy(two, x, sizeof x);
    memcpy(two + W, x, sizeof x);
    CHECK_OK(ctx, sffn_predictor_count_bytes(ctx, predictor, two, W, 2, &bytes));
    CHECK(bytes == 2 * (first + 32 * step0 + 32 * step1));
    layer.predictor = predictor;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &layer, &ffn));
    args.x = two;
    args.y = y_two;
    args.n_tokens = 2;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    CHECK(stats.touched_bytes == 2 * first + 32 * step0 + 32 * step1 + 32 * 3 * row);
    CHECK_BITS(y_two, y, W, "the same token");
    sffn_ffn_destroy(ffn);
    sffn_predictor_destroy(predictor);
}

/* bench/research/golden_cascade.py computes these without the library. They differ by bf16 scales and errors, and by float32 sums. */
static void real_layer(void **state)
{
    (void)state;
    static const struct {
        uint32_t bits, step_bits;
        double let_through, recall, error;
    } want[] = {{3, 1, 0.1226, 0.9918, 0.0063},
                {3, 2, 0.1233, 0.9940, 0.0031},
                {4, 2, 0.0986, 0.9938, 0.0027},
                {2, 2, 0.2042, 0.9972, 0.0019},
                {4, 4, 0.0992, 0.9963, 0.0009}};
    enum { N = 64, W = 512 };
    char path[4096];
    static float x[N * W], mean[W], y[N * W], exact[N * W];
    snprintf(path, sizeof path, "%s/layer3_inputs.f32", models);
    FILE *file = fopen(path, "rb");
    CHECK(file && fread(x, sizeof x, 1, file) == 1);
    fclose(file);
    for (int i = 0; i < N * W; i++)
        mean[i % W] += x[i] / N;
    snprintf(path, sizeof path, "%s/reglu-33m.gguf", models);
    sffn_model *model = NULL;
    sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
    CHECK_OK(ctx, sffn_model_open(ctx, path, &model));
    CHECK_OK(ctx, sffn_model_layer_config(model, 3, &layer));
    layer.dense_tokens = 0;
    sffn_active_set *truth = make_set(ctx, NULL, N, layer.d_ff, 1);
    sffn_active_set *kept = make_set(ctx, NULL, N, layer.d_ff, 1);
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        sffn_predictor_config config = config_of(layer.d_ff, W, NULL);
        sffn_predictor *predictor = NULL;
        sffn_ffn *ffn = NULL;
        config.gate = layer.gate;
        config.bits = want[k].bits;
        config.step_bits = want[k].step_bits;
        config.input_mean = mean;
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        layer.predictor = predictor;
        CHECK_OK(ctx, sffn_ffn_create(ctx, &layer, &ffn));
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        args.x = x;
        args.n_tokens = N;
        args.y = exact;
        args.select = SFFN_SELECT_GATE;
        args.active_out = truth;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        args.y = y;
        args.select = SFFN_SELECT_PREDICTOR;
        args.active_out = kept;
        args.stats = &stats;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        size_t active = 0, found = 0;
        double difference = 0, norm = 0;
        for (size_t t = 0; t < N;
             t++) { /* the full gate decides at last: kept is a part of truth */
            active += sffn_active_set_count(truth, t);
            found += sffn_active_set_count(kept, t);
        }
        for (int i = 0; i < N * W; i++) {
            difference += ((double)y[i] - (double)exact[i]) * ((double)y[i] - (double)exact[i]);
            norm += (double)exact[i] * (double)exact[i];
        }
        const double let_through = (double)stats.n_selected / ((double)N * layer.d_ff);
        CHECK_WITHIN(let_through, want[k].let_through, 0.002, "let through, %u bits", config.bits);
        CHECK_WITHIN((double)found / (double)active, want[k].recall, 0.001, "recall, %u bits",
                     config.bits);
        CHECK_WITHIN(sqrt(difference / norm), want[k].error, 0.001, "error, %u bits", config.bits);
        sffn_ffn_destroy(ffn);
        sffn_predictor_destroy(predictor);
    }
    sffn_active_set_destroy(truth);
    sffn_active_set_destroy(kept);
    sffn_model_close(model);
}

int main(int argc, char **argv)
{
    struct cases cases = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    models = argv[1];
    CASE(&cases, config_errors);
    CASE(&cases, one_bit_by_hand);
    CASE(&cases, planes_nest);
    CASE(&cases, alone_as_among_others);
    CASE(&cases, columns);
    CASE(&cases, doubt_of_columns);
    CASE(&cases, threads_and_batches);
    CASE(&cases, threads_and_columns);
    CASE(&cases, bytes_and_skipped_rows);
    CASE(&cases, real_layer);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "cascade");
    sffn_context_destroy(ctx);
    return failed;
}
