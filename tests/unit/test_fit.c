/* calibrate.h: experts by balanced k-means, low-rank factors of a gate, and their errors. */
#include <math.h>

#include "check.h"

static sffn_context *ctx;

static int32_t stop_at(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    CHECK(done < total);
    return done == *(const uint64_t *)user;
}

/* ---- experts ---- */

static sffn_cluster_config cluster_config(const float *rows, uint32_t n, uint32_t d, uint32_t size)
{
    sffn_cluster_config config = SFFN_CLUSTER_CONFIG_INIT;
    config.weights.data = rows;
    config.n_rows = n;
    config.n_cols = d;
    config.group_size = size;
    return config;
}

/* methods 14.9, from any seed. */
static void cluster_toys(void **state)
{
    (void)state;
    static const float a[4] = {0, 1, 10, 11}, b[4] = {0, 1, 2, 10}, c[6] = {11, 0, 1, 12, 0.5f, 10};
    for (uint64_t seed = 0; seed < 50; seed++) {
        uint32_t p[6];
        double cost;
        sffn_cluster_config config = cluster_config(a, 4, 1, 2);
        config.normalize = 0;
        config.seed = seed;
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
        CHECK(p[0] == 0 && p[1] == 1 && p[2] == 2 && p[3] == 3 && cost == 1);
        config.weights.data = b;
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
        CHECK(p[0] == 0 && p[1] == 1 && p[2] == 2 && p[3] == 3 && cost == 32.5);
        config.weights.data = c;
        config.n_rows = 6;
        config.group_size = 3;
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
        CHECK(p[0] == 0 && p[1] == 3 && p[2] == 5 && p[3] == 1 && p[4] == 2 && p[5] == 4);
        CHECK(cost == 2.5);
        config.group_size = 6; /* one expert, and experts of one neuron */
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, NULL));
        for (uint32_t i = 0; i < 6; i++)
            CHECK(p[i] == i);
        config.group_size = 1;
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
        for (uint32_t i = 0; i < 6; i++)
            CHECK(p[i] == i);
        CHECK(cost == 0);
    }
}

static double cost_of(const float *rows, size_t n, size_t d, size_t size, const uint32_t *p)
{
    double cost = 0;
    for (size_t e = 0; e < n; e += size)
        for (size_t j = 0; j < d; j++) {
            double mean = 0;
            for (size_t i = e; i < e + size; i++)
                mean += (double)rows[p[i] * d + j] / (double)size;
            for (size_t i = e; i < e + size; i++)
                cost += pow((double)rows[p[i] * d + j] - mean, 2);
        }
    return cost;
}

/* Well separated groups of equal size, scattered: they are found again; whatever the threads. */
static void planted_experts(void **state)
{
    (void)state;
    enum { N = 192, DIM = 24, SIZE = 16 };
    float *centers = rng_normals("centers", N / SIZE * DIM), *rows = rng_normals("rows", N * DIM);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < DIM; j++)
            rows[i * DIM + j] = 0.1f * rows[i * DIM + j] + centers[i * 7 % N / SIZE * DIM + j];
    uint32_t p[N], again[N];
    double cost, cost_again;
    sffn_cluster_config config = cluster_config(rows, N, DIM, SIZE);
    config.normalize = 0;
    CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
    CHECK_WITHIN(cost, cost_of(rows, N, DIM, SIZE, p), 1e-9 * cost, "cost");
    for (size_t i = 0; i < N; i++) {
        CHECK_SAYS(p[i] * 7 % N / SIZE == p[i / SIZE * SIZE] * 7 % N / SIZE, "row %u",
                   (unsigned)p[i]);
        CHECK(i % SIZE == 0 || p[i] > p[i - 1]);
        CHECK(i % SIZE != 0 || i == 0 || p[i] > p[i - SIZE]);
    }
    for (uint32_t n_threads = 2; n_threads <= 9; n_threads++) {
        sffn_context *other = make_context(n_threads, NULL);
        CHECK_OK(other, sffn_cluster_neurons(other, &config, again, &cost_again));
        CHECK(memcmp(p, again, sizeof p) == 0 && cost == cost_again);
        sffn_context_destroy(other);
    }
    free(centers), free(rows);
}

/* Rows without structure: a permutation, cheaper than random groups; rounds help; bf16 is read. */
static void experts_of_random_rows(void **state)
{
    (void)state;
    enum { N = 240, DIM = 64, SIZE = 8 };
    float *rows = rng_normals("unstructured", N * DIM);
    uint16_t *halves = malloc(N * DIM * sizeof *halves);
    CHECK(sffn_dtype_from_f32(SFFN_BF16, rows, N * DIM, halves) == SFFN_OK);
    CHECK(sffn_dtype_to_f32(SFFN_BF16, halves, N * DIM, rows) == SFFN_OK);
    for (size_t i = 0; i < DIM; i++)
        rows[5 * DIM + i] = rows[6 * DIM + i] = rows[7 * DIM + i] = 0; /* no direction, and equal */
    CHECK(sffn_dtype_from_f32(SFFN_BF16, rows, N * DIM, halves) == SFFN_OK);
    sffn_cluster_config config = cluster_config(rows, N, DIM, SIZE);
    uint32_t p[N], q[N];
    double start, cost, first = 0;
    config.max_rounds = 0;
    CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &start));
    config.max_rounds = 30;
    CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
    CHECK(cost < start);
    for (size_t i = 0; i < N; i++) { /* of unit rows, in the order of the file */
        double norm = 0;
        for (size_t j = 0; j < DIM; j++)
            norm += pow((double)rows[i * DIM + j], 2);
        for (size_t j = 0; j < DIM && norm > 0; j++)
            rows[i * DIM + j] = (float)((double)rows[i * DIM + j] / sqrt(norm));
        q[i] = (uint32_t)i;
    }
    first = cost_of(rows, N, DIM, SIZE, q);
    CHECK(cost < 0.9 * first);
    CHECK_WITHIN(cost, cost_of(rows, N, DIM, SIZE, p), 1e-6 * cost, "cost of unit rows");
    uint8_t seen[N] = {0};
    for (size_t i = 0; i < N; i++)
        CHECK(p[i] < N && !seen[p[i]]++);
    config.weights.data = halves;
    config.weights.dtype = SFFN_BF16;
    CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, q, NULL));
    CHECK(memcmp(p, q, sizeof p) == 0);
    free(rows), free(halves);
}

static void cluster_errors(void **state)
{
    (void)state;
    float rows[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint32_t p[4] = {9, 9, 9, 9};
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_cluster_config config = cluster_config(rows, 4, 2, 2);                                \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_cluster_neurons(ctx, &config, p, NULL), status, words);              \
        CHECK(p[0] == 9 && p[3] == 9);                                                             \
    } while (0)
    uint64_t stop = 0;
    REFUSED(config.weights.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "weights.data NULL");
    REFUSED(config.n_cols = 0, SFFN_ERR_INVALID_ARGUMENT, "n_cols 0");
    REFUSED(config.group_size = 0, SFFN_ERR_INVALID_ARGUMENT, "group_size 0");
    REFUSED(config.group_size = 3, SFFN_ERR_SHAPE, "group_size 3 4");
    REFUSED(config.normalize = 2, SFFN_ERR_INVALID_ARGUMENT, "normalize 2");
    REFUSED(config.weights.row_bytes = 4, SFFN_ERR_SHAPE, "row_bytes 4 8");
    REFUSED((config.progress = stop_at, config.progress_user = &stop), SFFN_ERR_INTERRUPTED,
            "experts 0");
    stop = 1;
    REFUSED((config.progress = stop_at, config.progress_user = &stop), SFFN_ERR_INTERRUPTED,
            "experts 1");
    rows[5] = NAN;
    REFUSED((void)config, SFFN_ERR_INVALID_ARGUMENT, "weights[2][1] nan");
    sffn_cluster_config config = cluster_config(rows, 4, 2, 2);
    CHECK_ERROR(ctx, sffn_cluster_neurons(ctx, &config, NULL, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "permutation NULL");
    CHECK_ERROR(ctx, sffn_cluster_neurons(ctx, NULL, p, NULL), SFFN_ERR_INVALID_ARGUMENT, "NULL");
    CHECK(sffn_cluster_neurons(NULL, &config, p, NULL) == SFFN_ERR_INVALID_ARGUMENT);
#undef REFUSED
}

/* ---- factors ---- */

/* A gate of rank 3 in bf16 comes back from 3 factors; a smaller rank loses what it must. */
static void svd(void **state)
{
    (void)state;
    enum { N = 40, DIM = 24, R = 3 };
    float w[N * DIM], w1[R * DIM], w2[N * R];
    uint16_t halves[N * DIM];
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < DIM; j++) /* orthogonal patterns of length 1, times 3, 2, 1 */
            w[i * DIM + j] = (float)((i % 4 == j % 3) * (3 - (int)(j % 3)));
    CHECK(sffn_dtype_from_f32(SFFN_BF16, w, N * DIM, halves) == SFFN_OK);
    sffn_svd_config config = SFFN_SVD_CONFIG_INIT;
    config.weights.data = halves;
    config.weights.dtype = SFFN_BF16;
    config.n_rows = N;
    config.n_cols = DIM;
    double captured;
    for (uint32_t rank = 1; rank <= R; rank++) {
        config.rank = rank;
        CHECK_OK(ctx, sffn_fit_svd(ctx, &config, w1, w2, &captured));
        double error = 0, total = 0, lost = 0;
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < DIM; j++) {
                double v = (double)w[i * DIM + j];
                total += v * v;
                lost += j % 3 >= rank ? v * v : 0;
                for (size_t l = 0; l < rank; l++)
                    v -= (double)w2[i * rank + l] * w1[l * DIM + j];
                error += v * v;
            }
        CHECK_WITHIN(error, lost, 1e-5 * total, "rank %u", (unsigned)rank);
        CHECK_WITHIN(captured, 1 - lost / total, 1e-5, "rank %u", (unsigned)rank);
    }
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_svd_config c = config;                                                                \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_fit_svd(ctx, &c, w1, w2, NULL), status, words);                      \
    } while (0)
    float moment[DIM * DIM] = {0};
    moment[DIM + 1] = NAN;
    REFUSED(c.rank = 0, SFFN_ERR_INVALID_ARGUMENT, "rank 0");
    REFUSED(c.rank = 25, SFFN_ERR_INVALID_ARGUMENT, "rank 25 24");
    REFUSED(c.weights.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "weights.data NULL");
    REFUSED(c.n_rows = 0, SFFN_ERR_INVALID_ARGUMENT, "n_rows 0");
    REFUSED(c.weights.dtype = SFFN_Q8_0, SFFN_ERR_SHAPE, "24 32");
    REFUSED(c.second_moment = moment, SFFN_ERR_INVALID_ARGUMENT, "second_moment[1][1] nan");
    halves[3 * DIM + 2] = 0x7fc0;
    REFUSED((void)c, SFFN_ERR_INVALID_ARGUMENT, "weights[3][2] nan");
    CHECK_ERROR(ctx, sffn_fit_svd(ctx, &config, NULL, w2, NULL), SFFN_ERR_INVALID_ARGUMENT, "w1");
    CHECK_ERROR(ctx, sffn_fit_svd(ctx, &config, w1, NULL, NULL), SFFN_ERR_INVALID_ARGUMENT, "w2");
    CHECK(sffn_fit_svd(NULL, &config, w1, w2, NULL) == SFFN_ERR_INVALID_ARGUMENT);
#undef REFUSED
}

/* ---- fits ---- */

enum { D = 32, F = 64, RANK = 4, T = 2000, EXPERT = 8 };
static float gate[F * D], up[F * D], down[F * D], inputs[T * D];

/* Experts of EXPERT neurons that fire together: their gate rows share a direction. Inputs are a few of these directions and noise. */
static sffn_ffn *planted_layer(float bias)
{
    struct rng rng = rng_named("fit layer");
    static float centers[F / EXPERT * D], biases[F];
    for (int i = 0; i < F / EXPERT * D; i++)
        centers[i] = rng_normal(&rng);
    for (int i = 0; i < F * D; i++) {
        gate[i] = 0.5f * rng_normal(&rng) + centers[i / D / EXPERT * D + i % D];
        up[i] = rng_normal(&rng);
        down[i] = rng_normal(&rng);
    }
    for (int t = 0; t < T; t++) {
        const uint32_t a = rng_below(&rng, F / EXPERT), b = rng_below(&rng, F / EXPERT);
        for (int j = 0; j < D; j++)
            inputs[t * D + j] =
                centers[a * D + (uint32_t)j] + centers[b * D + (uint32_t)j] + rng_normal(&rng);
    }
    for (int i = 0; i < F; i++)
        biases[i] = bias;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = D;
    config.d_ff = F;
    config.gate.data = gate;
    config.up.data = up;
    config.down.data = down;
    config.down.layout = SFFN_LAYOUT_ROWS;
    config.gate_bias = biases;
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
    return ffn;
}

static sffn_calibration *sampled(sffn_context *c, const sffn_ffn *ffn, uint32_t n,
                                 uint32_t select_d)
{
    sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
    sffn_calibration *cal = NULL;
    config.ffn = ffn;
    config.keep_second_moment = 1;
    config.select_d_model = select_d;
    CHECK_OK(c, sffn_calibration_create(c, &config, &cal));
    CHECK_OK(c, sffn_calibration_add(c, cal, inputs, D, select_d ? inputs : NULL, D, n));
    return cal;
}

static void low_rank(void **state)
{
    (void)state;
    sffn_ffn *ffn = planted_layer(-25);
    static float w1[RANK * D], w2[F * RANK], b1[RANK], b2[F];
    static float again1[RANK * D], again2[F * RANK], again_b1[RANK], again_b2[F];
    static const int32_t hidden[] = {SFFN_HIDDEN_NONE, SFFN_HIDDEN_RELU, SFFN_HIDDEN_TANH};
    for (int variant = 0; variant < 6; variant++) {
        sffn_low_rank_config config = SFFN_LOW_RANK_CONFIG_INIT;
        config.rank = RANK;
        config.hidden_activation = hidden[variant % 3];
        config.has_bias = variant >= 3;
        config.batch_size = 64;
        config.max_epochs = 6;
        config.learning_rate = 0.01f;
        float *bias1 = config.has_bias ? b1 : NULL, *bias2 = config.has_bias ? b2 : NULL;
        double start_recall[2] = {0, 0};
        for (uint32_t n_threads = 1; n_threads <= 9; n_threads += 4) {
            sffn_context *c = make_context(n_threads, NULL);
            sffn_calibration *cal = sampled(c, ffn, T, 0);
            sffn_fit_result r = SFFN_FIT_RESULT_INIT;
            CHECK_OK(c, sffn_fit_low_rank(c, cal, &config, w1, w2, bias1, bias2, &r));
            CHECK(r.n_train == T - T / 20 && r.n_held_out == T / 20 && r.n_epochs > 0);
            CHECK(r.n_epochs <= 6 && r.label_density > 0.02 && r.label_density < 0.3);
            CHECK(r.density == 2 * r.label_density && r.loss > 0);
            /* without a bias the SVD is hard to beat for linear labels: it is then kept */
            CHECK_SAYS(r.recall > r.start_recall || (variant == 0 && r.recall == r.start_recall),
                       "variant %d: %g -> %g", variant, r.start_recall, r.recall);
            CHECK_SAYS(r.recall > 0.8, "variant %d: %g", variant, r.recall);
            start_recall[0] = r.start_recall;
            if (n_threads == 1) {
                memcpy(again1, w1, sizeof w1);
                memcpy(again2, w2, sizeof w2);
                memcpy(again_b1, b1, sizeof b1);
                memcpy(again_b2, b2, sizeof b2);
                /* the predictor of these weights, with the threshold that came with them */
                sffn_predictor_config p = SFFN_PREDICTOR_CONFIG_INIT;
                p.kind = SFFN_PREDICTOR_LOW_RANK;
                p.d_model = D;
                p.d_ff = F;
                p.rank = RANK;
                p.w1.data = w1;
                p.w2.data = w2;
                p.b1 = bias1;
                p.b2 = bias2;
                p.hidden_activation = config.hidden_activation;
                p.threshold = r.threshold;
                sffn_predictor *predictor = NULL;
                sffn_selector_report report = SFFN_SELECTOR_REPORT_INIT;
                CHECK_OK(c, sffn_predictor_create(c, &p, &predictor));
                CHECK_OK(c,
                         sffn_calibration_measure_selector(c, cal, predictor, NULL, NULL, &report));
                CHECK_WITHIN(report.recall, r.recall, 0.05, "variant %d", variant);
                CHECK_WITHIN(report.density, r.density, 0.2 * r.density, "variant %d", variant);
                sffn_predictor_destroy(predictor);
                /* a random start begins lower */
                sffn_low_rank_config random = config;
                random.start = SFFN_FIT_START_RANDOM;
                random.max_epochs = 0;
                CHECK_OK(c, sffn_fit_low_rank(c, cal, &random, w1, w2, bias1, bias2, &r));
                CHECK(r.n_epochs == 0 && r.recall == r.start_recall);
                start_recall[1] = r.start_recall;
                CHECK(variant % 3 == 2 || start_recall[0] > start_recall[1] + 0.2);
            } else {
                CHECK_BITS(w1, again1, RANK * D, "w1, %u threads", (unsigned)n_threads);
                CHECK_BITS(w2, again2, F * RANK, "w2, %u threads", (unsigned)n_threads);
                CHECK_BITS(b1, again_b1, RANK, "b1, %u threads", (unsigned)n_threads);
                CHECK_BITS(b2, again_b2, F, "b2, %u threads", (unsigned)n_threads);
            }
            sffn_calibration_destroy(cal);
            sffn_context_destroy(c);
        }
    }
    /* a selector's own input; labels by contribution */
    sffn_calibration *cal = sampled(ctx, ffn, T, D);
    sffn_low_rank_config config = SFFN_LOW_RANK_CONFIG_INIT;
    sffn_fit_result r = SFFN_FIT_RESULT_INIT;
    sffn_threshold_config target = SFFN_THRESHOLD_CONFIG_INIT;
    target.target_cett = 0.1f;
    config.rank = RANK;
    config.learning_rate = 0.01f;
    CHECK_OK(ctx, sffn_calibration_find_threshold(ctx, cal, &target, &config.activity, NULL, NULL));
    CHECK_OK(ctx, sffn_fit_low_rank(ctx, cal, &config, w1, w2, NULL, NULL, &r));
    CHECK(r.start_recall < 0.6 && r.recall > 0.8);
    config.start = SFFN_FIT_START_PRIOR;
    CHECK_ERROR(ctx, sffn_fit_low_rank(ctx, cal, &config, w1, w2, NULL, NULL, NULL),
                SFFN_ERR_UNSUPPORTED, "select_d_model 32");
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

static void low_rank_errors(void **state)
{
    (void)state;
    sffn_ffn *ffn = planted_layer(-25), *dead = planted_layer(-1e6f);
    sffn_calibration *cal = sampled(ctx, ffn, 100, 0), *few = sampled(ctx, ffn, 39, 0);
    sffn_calibration *silent = sampled(ctx, dead, 100, 0);
    static float w1[RANK * D], w2[F * RANK], b1[RANK], b2[F], before[F * RANK];
    for (int i = 0; i < F * RANK; i++)
        w2[i] = before[i] = (float)i;
    uint64_t stop = 1;
#define REFUSED(cal, change, b1, b2, status, words)                                                \
    do {                                                                                           \
        sffn_low_rank_config config = SFFN_LOW_RANK_CONFIG_INIT;                                   \
        config.rank = RANK;                                                                        \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_fit_low_rank(ctx, cal, &config, w1, w2, b1, b2, NULL), status,       \
                    words);                                                                        \
        CHECK_BITS(w2, before, F *RANK, "after an error");                                         \
    } while (0)
#define BAD SFFN_ERR_INVALID_ARGUMENT
    REFUSED(cal, config.rank = 0, NULL, NULL, BAD, "rank 0");
    REFUSED(cal, config.hidden_activation = 3, NULL, NULL, BAD, "hidden_activation 3");
    REFUSED(cal, config.has_bias = 1, b1, NULL, BAD, "has_bias 1 b2 NULL");
    REFUSED(cal, (void)config, NULL, b2, BAD, "has_bias 0 b2 set");
    REFUSED(cal, config.start = 3, NULL, NULL, BAD, "start 3");
    REFUSED(cal, config.batch_size = 0, NULL, NULL, BAD, "batch_size 0");
    REFUSED(cal, config.learning_rate = 0, NULL, NULL, BAD, "learning_rate 0");
    REFUSED(cal, config.weight_decay = NAN, NULL, NULL, BAD, "weight_decay nan");
    REFUSED(cal, config.density = 1.5f, NULL, NULL, BAD, "density 1.5");
    REFUSED(cal, config.stop_recall = -1, NULL, NULL, BAD, "stop_recall -1");
    REFUSED(cal, config.activity.kind = 9, NULL, NULL, BAD, "kind 9");
    REFUSED(cal, config.activity.kind = SFFN_ACTIVE_INPUT, NULL, NULL, BAD, "INPUT");
    REFUSED(cal, (config.start = SFFN_FIT_START_RANDOM, config.learning_rate = 1e38f), NULL, NULL,
            BAD, "diverged learning_rate");
    REFUSED(few, (void)config, NULL, NULL, BAD, "39 samples 40");
    REFUSED(silent, config.start = SFFN_FIT_START_RANDOM, NULL, NULL, BAD, "nothing active");
    REFUSED(cal, (config.hidden_activation = SFFN_HIDDEN_TANH, config.start = SFFN_FIT_START_PRIOR),
            NULL, NULL, SFFN_ERR_UNSUPPORTED, "PRIOR");
    REFUSED(cal,
            (config.start = SFFN_FIT_START_RANDOM, config.progress = stop_at,
             config.progress_user = &stop),
            NULL, NULL, SFFN_ERR_INTERRUPTED, "predictor 1");
    sffn_low_rank_config config = SFFN_LOW_RANK_CONFIG_INIT;
    CHECK_ERROR(ctx, sffn_fit_low_rank(ctx, NULL, &config, w1, w2, NULL, NULL, NULL), BAD,
                "calibration NULL");
    CHECK_ERROR(ctx, sffn_fit_low_rank(ctx, cal, &config, NULL, w2, NULL, NULL, NULL), BAD, "w1");
    CHECK_ERROR(ctx, sffn_fit_low_rank(ctx, cal, NULL, w1, w2, NULL, NULL, NULL), BAD, "NULL");
#undef REFUSED
    sffn_calibration_destroy(cal);
    sffn_calibration_destroy(few);
    sffn_calibration_destroy(silent);
    sffn_ffn_destroy(ffn);
    sffn_ffn_destroy(dead);
}

static void routers(void **state)
{
    (void)state;
    enum { N = F / EXPERT };
    sffn_ffn *ffn = planted_layer(-25);
    static float hidden[N * D], weight[N * D], again[N * D];
    static uint32_t backwards[F];
    for (uint32_t i = 0; i < F; i++)
        backwards[i] = F - 1 - i;
    for (int variant = 0; variant < 8; variant++) {
        sffn_router_fit_config config = SFFN_ROUTER_FIT_CONFIG_INIT;
        config.block_size = EXPERT;
        config.is_mlp = variant & 1;
        config.normalize_input = variant >> 1 & 1;
        config.permutation = variant & 4 ? backwards : NULL;
        config.score = variant & 4 ? SFFN_EXPERT_SUM_CONTRIBUTION : SFFN_EXPERT_SUM_H;
        config.density = 0.25f; /* two experts of eight, as the inputs have it */
        config.max_epochs = 8;
        sffn_fit_result r = SFFN_FIT_RESULT_INIT;
        for (uint32_t n_threads = 1; n_threads <= 5; n_threads += 4) {
            sffn_context *c = make_context(n_threads, NULL);
            sffn_calibration *cal = sampled(c, ffn, T, 0);
            CHECK_OK(c,
                     sffn_fit_router(c, cal, &config, config.is_mlp ? hidden : NULL, weight, &r));
            CHECK_SAYS(r.recall >= r.start_recall && r.recall > 0.93, "variant %d: %g -> %g",
                       variant, r.start_recall, r.recall);
            if (n_threads > 1)
                CHECK_BITS(weight, again, (size_t)(config.is_mlp ? N * N : N * D), "%d", variant);
            memcpy(again, weight, sizeof weight);
            if (n_threads > 1 && !config.permutation && !config.normalize_input) {
                sffn_router_config router_config = SFFN_ROUTER_CONFIG_INIT;
                router_config.d_model = D;
                router_config.n_experts = N;
                router_config.block_size = EXPERT;
                router_config.rule = SFFN_ROUTER_TOP_K;
                router_config.top_k = 2;
                router_config.weights.data = weight;
                router_config.n_hidden = config.is_mlp ? N : 0;
                router_config.hidden_weights.data = config.is_mlp ? hidden : NULL;
                sffn_router *router = NULL;
                sffn_selector_report report = SFFN_SELECTOR_REPORT_INIT;
                float cut, tau;
                CHECK_OK(c, sffn_router_create(c, &router_config, &router));
                CHECK_OK(c, sffn_calibration_measure_selector(c, cal, NULL, router, NULL, &report));
                CHECK(report.density == 0.25 && report.recall > 0.85);
                CHECK_OK(c, sffn_calibration_selector_threshold(c, cal, NULL, router, NULL, 0.95,
                                                                &cut, NULL, NULL));
                sffn_router_destroy(router);
                tau = 1 / (1 + expf(-cut));
                router_config.rule = SFFN_ROUTER_SIGMOID;
                router_config.threshold = tau * (1 - 1e-6f);
                CHECK_OK(c, sffn_router_create(c, &router_config, &router));
                CHECK_OK(c, sffn_calibration_measure_selector(c, cal, NULL, router, NULL, &report));
                CHECK_SAYS(report.recall >= 0.95 && report.recall < 0.97, "recall %g",
                           report.recall);
                sffn_router_destroy(router);
            }
            sffn_calibration_destroy(cal);
            sffn_context_destroy(c);
        }
        if (variant == 0) { /* parameter centres, without training */
            sffn_calibration *cal = sampled(ctx, ffn, T, 0);
            config.max_epochs = 0;
            CHECK_OK(ctx, sffn_fit_router(ctx, cal, &config, NULL, weight, &r));
            CHECK(r.n_epochs == 0 && r.recall == r.start_recall);
            for (int e = 0; e < N; e++) {
                double mean[D] = {0}, norm = 0;
                for (int j = 0; j < D; j++) {
                    for (int i = 0; i < EXPERT; i++)
                        mean[j] += (double)gate[(e * EXPERT + i) * D + j];
                    norm += mean[j] * mean[j];
                }
                for (int j = 0; j < D; j++)
                    CHECK_WITHIN((double)weight[e * D + j], mean[j] / sqrt(norm), 1e-6, "center");
            }
            sffn_calibration_destroy(cal);
        }
    }
    sffn_calibration *cal = sampled(ctx, ffn, 100, 0), *other = sampled(ctx, ffn, 100, D);
#define REFUSED(cal, change, hidden, status, words)                                                \
    do {                                                                                           \
        sffn_router_fit_config config = SFFN_ROUTER_FIT_CONFIG_INIT;                               \
        config.block_size = EXPERT;                                                                \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_fit_router(ctx, cal, &config, hidden, weight, NULL), status, words); \
    } while (0)
    uint64_t stop = 0;
    backwards[3] = 7;
    REFUSED(cal, config.block_size = 0, NULL, SFFN_ERR_SHAPE, "block_size 0");
    REFUSED(cal, config.block_size = 24, NULL, SFFN_ERR_SHAPE, "block_size 24 64");
    REFUSED(cal, config.is_mlp = 2, NULL, BAD, "is_mlp 2");
    REFUSED(cal, config.score = 4, NULL, BAD, "score 4");
    REFUSED(cal, config.normalize_input = -1, NULL, BAD, "normalize_input -1");
    REFUSED(cal, config.is_mlp = 1, NULL, BAD, "hidden NULL");
    REFUSED(cal, (void)config, hidden, BAD, "hidden set");
    REFUSED(cal, config.permutation = backwards, NULL, BAD, "permutation[56] 7");
    REFUSED(cal, config.batch_size = 0, NULL, BAD, "batch_size 0");
    REFUSED(other, config.start = SFFN_FIT_START_PRIOR, NULL, SFFN_ERR_UNSUPPORTED, "PRIOR");
    REFUSED(cal,
            (config.start = SFFN_FIT_START_RANDOM, config.progress = stop_at,
             config.progress_user = &stop),
            NULL, SFFN_ERR_INTERRUPTED, "router 0");
    sffn_calibration_destroy(cal);
    sffn_calibration_destroy(other);
    sffn_ffn_destroy(ffn);
#undef REFUSED
}

/* ---- selectors ---- */

/* methods 14.6: ten neurons, active {1, 4, 7}, predicted {1, 4, 5, 9}. */
static void predictor_accounting(void **state)
{
    (void)state;
    static const float zeros[10 * 4], x[4] = {1};
    static const float h[10] = {0, 3, 0, 0, 1, 0, 0, 2, 0, 0};
    static const float scores[10] = {-1, 1, -1, -1, 1, 1, -1, -1, -1, 1};
    float rows[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = 1;
    config.d_ff = 10;
    config.up.data = zeros;
    config.down.data = rows;
    config.up_bias = h;
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
    sffn_calibration_config sample = SFFN_CALIBRATION_CONFIG_INIT;
    sffn_calibration *cal = NULL;
    sample.ffn = ffn;
    CHECK_OK(ctx, sffn_calibration_create(ctx, &sample, &cal));
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, x, 1, NULL, 0, 1));
    sffn_predictor_config p = SFFN_PREDICTOR_CONFIG_INIT;
    p.kind = SFFN_PREDICTOR_LOW_RANK;
    p.d_model = 1;
    p.d_ff = 10;
    p.rank = 1;
    p.w1.data = p.w2.data = zeros;
    p.b2 = scores;
    sffn_predictor *predictor = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &p, &predictor));
    sffn_selector_report r = SFFN_SELECTOR_REPORT_INIT;
    CHECK_OK(ctx, sffn_calibration_measure_selector(ctx, cal, predictor, NULL, NULL, &r));
    CHECK_WITHIN(r.recall, 2.0 / 3, 1e-12, "recall");
    CHECK_WITHIN(r.precision, 0.5, 1e-12, "precision");
    CHECK_WITHIN(1 - r.density, 0.6, 1e-12, "predicted sparsity");
    CHECK_WITHIN(1 - r.true_density, 0.7, 1e-12, "true sparsity");
    CHECK_WITHIN(r.relative_error, 2.0 / 6, 1e-6, "neuron 7 is missed");
    CHECK_WITHIN(r.cett, 2.0 / 6, 1e-6, "neuron 7 is missed");
    /* nothing active: recall is 0/0, and 1 by definition */
    const sffn_activity never = {SFFN_ACTIVE_H, SFFN_TIE_DROP, 9, NULL};
    CHECK_OK(ctx, sffn_calibration_measure_selector(ctx, cal, predictor, NULL, &never, &r));
    CHECK(r.recall == 1 && r.true_density == 0 && r.precision == 0);
    float threshold = 7;
    CHECK_ERROR(ctx,
                sffn_calibration_selector_threshold(ctx, cal, predictor, NULL, &never, 0.9,
                                                    &threshold, NULL, NULL),
                BAD, "no neuron active");
    /* all three active ones pass below -1 */
    CHECK_OK(ctx, sffn_calibration_selector_threshold(ctx, cal, predictor, NULL, NULL, 1,
                                                      &threshold, NULL, NULL));
    CHECK(threshold == nextafterf(-1, -INFINITY));
    CHECK_OK(ctx, sffn_calibration_selector_threshold(ctx, cal, predictor, NULL, NULL, 0.66,
                                                      &threshold, NULL, NULL));
    CHECK(threshold == nextafterf(1, -INFINITY));
    sffn_predictor_destroy(predictor);
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

/* A screened gate and a noisy copy of the gate: what is found keeps its promise on the sample. */
static void recall_targets(void **state)
{
    (void)state;
    sffn_ffn *ffn = planted_layer(-25);
    sffn_calibration *cal = sampled(ctx, ffn, T, 0);
    static float identity[D * D], noisy[F * D], biases[F], thresholds[F];
    struct rng rng = rng_named("noise");
    for (int j = 0; j < D; j++)
        identity[j * D + j] = 1;
    for (int i = 0; i < F * D; i++)
        noisy[i] = gate[i] + 0.5f * rng_normal(&rng);
    for (int i = 0; i < F; i++)
        biases[i] = -25;
    for (int kind = 0; kind < 4; kind++) {
        sffn_predictor_config p = SFFN_PREDICTOR_CONFIG_INIT;
        p.kind = kind < 2 ? SFFN_PREDICTOR_LOW_RANK : SFFN_PREDICTOR_SCREENED_GATE;
        p.tie = kind & 1 ? SFFN_TIE_KEEP : SFFN_TIE_DROP;
        p.d_model = D;
        p.d_ff = F;
        p.rank = D;
        p.w1.data = identity;
        p.w2.data = noisy;
        p.gate.data = noisy;
        p.gate_bias = kind < 2 ? NULL : biases;
        p.margin = 0.5f;
        for (int target = 0; target < 2; target++) {
            const double recall = target ? 0.99 : 0.9;
            sffn_predictor *predictor = NULL;
            sffn_selector_report r = SFFN_SELECTOR_REPORT_INIT;
            float threshold, margin = 0;
            p.threshold = 0;
            p.thresholds = NULL;
            p.margin = 0.5f;
            CHECK_OK(ctx, sffn_predictor_create(ctx, &p, &predictor));
            CHECK_OK(ctx, sffn_calibration_selector_threshold(ctx, cal, predictor, NULL, NULL,
                                                              recall, &threshold, thresholds,
                                                              kind < 2 ? NULL : &margin));
            sffn_predictor_destroy(predictor);
            double density[3] = {0, 0, 0};
            for (int way = 0; way < (kind < 2 ? 2 : 3); way++) {
                p.threshold = way == 0 ? threshold : 0;
                p.thresholds = way == 1 ? thresholds : NULL;
                p.margin = way == 2 ? margin : 0.5f;
                CHECK_OK(ctx, sffn_predictor_create(ctx, &p, &predictor));
                CHECK_OK(ctx,
                         sffn_calibration_measure_selector(ctx, cal, predictor, NULL, NULL, &r));
                /* 512 tokens have some thousand active neurons; a per-neuron quantile rounds up for each */
                CHECK_SAYS(r.recall >= recall && r.recall < recall + (way == 1 ? 0.02 : 0.002),
                           "kind %d way %d: recall %g for %g", kind, way, r.recall, recall);
                density[way] = r.density;
                CHECK(r.density > r.true_density * recall);
                sffn_predictor_destroy(predictor);
            }
            CHECK(kind < 2 || density[2] > 0);
        }
    }
    /* what does not fit */
    sffn_predictor_config p = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_predictor *wide = NULL, *good = NULL;
    sffn_selector_report r = SFFN_SELECTOR_REPORT_INIT;
    sffn_activity activity = {SFFN_ACTIVE_INPUT, 0, 0, NULL};
    float threshold;
    p.kind = SFFN_PREDICTOR_LOW_RANK;
    p.d_model = D / 2;
    p.d_ff = F;
    p.rank = D / 2;
    p.w1.data = identity;
    p.w2.data = noisy;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &p, &wide));
    p.d_model = p.rank = D;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &p, &good));
#define MEASURE(p, r, a) sffn_calibration_measure_selector(ctx, cal, p, r, a, &report)
    sffn_selector_report report = r;
    CHECK_ERROR(ctx, MEASURE(NULL, NULL, NULL), BAD, "neither");
    CHECK_ERROR(ctx, MEASURE(wide, NULL, NULL), SFFN_ERR_SHAPE, "16 32");
    CHECK_ERROR(ctx, MEASURE(good, NULL, &activity), BAD, "INPUT");
    CHECK_ERROR(ctx, sffn_calibration_measure_selector(ctx, NULL, good, NULL, NULL, &r), BAD,
                "calibration NULL");
#define CUT(recall, threshold, margin)                                                             \
    sffn_calibration_selector_threshold(ctx, cal, good, NULL, NULL, recall, threshold, NULL, margin)
    CHECK_ERROR(ctx, CUT(0, &threshold, NULL), BAD, "recall 0");
    CHECK_ERROR(ctx, CUT(1.5, &threshold, NULL), BAD, "recall 1.5");
    CHECK_ERROR(ctx, CUT(0.9, NULL, &threshold), SFFN_ERR_UNSUPPORTED, "margin");
    sffn_predictor_destroy(wide);
    sffn_predictor_destroy(good);
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

int main(void)
{
    struct cases cases = {0};
    ctx = make_context(1, NULL);
    CASE(&cases, cluster_toys);
    CASE(&cases, planted_experts);
    CASE(&cases, experts_of_random_rows);
    CASE(&cases, cluster_errors);
    CASE(&cases, svd);
    CASE(&cases, low_rank);
    CASE(&cases, low_rank_errors);
    CASE(&cases, routers);
    CASE(&cases, predictor_accounting);
    CASE(&cases, recall_targets);
    const int failed = cases_run(&cases, "fit");
    sffn_context_destroy(ctx);
    return failed;
}
