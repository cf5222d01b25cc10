/* calibrate.h: samples, thresholds and what they do; the toys of CETT, CHESS, CATS and TEAL by hand;
 * random layers against sums in double. */
#include <float.h>
#include <math.h>

#include "check.h"

static sffn_context *ctx;

/* A gated ReLU layer whose weights are 0: s and u are the biases, whatever x is. down [n][d]. */
static sffn_ffn *constant_layer(uint32_t n, uint32_t d, const float *s, const float *u,
                                const float *down)
{
    static const float zeros[64];
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = d;
    config.d_ff = n;
    config.gate.data = config.up.data = zeros;
    config.down.data = down;
    config.gate_bias = s;
    config.up_bias = u;
    config.name = "toy";
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
    return ffn;
}

static sffn_calibration *calibration_of(sffn_context *c, const sffn_ffn *ffn, uint32_t max_samples,
                                        uint32_t eval_samples, int32_t keep_second_moment)
{
    sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
    config.ffn = ffn;
    config.max_samples = max_samples;
    config.eval_samples = eval_samples;
    config.keep_second_moment = keep_second_moment;
    config.seed = 7;
    sffn_calibration *cal = NULL;
    CHECK_OK(c, sffn_calibration_create(c, &config, &cal));
    return cal;
}

static sffn_measured measured_at(sffn_calibration *cal, int32_t kind, int32_t tie, float threshold,
                                 const float *thresholds)
{
    const sffn_activity activity = {kind, tie, threshold, thresholds};
    sffn_measured m = SFFN_MEASURED_INIT;
    CHECK_OK(ctx, sffn_calibration_measure(ctx, cal, &activity, &m));
    return m;
}

static sffn_activity found_for(sffn_calibration *cal, int32_t kind, float cett, float density,
                               float *thresholds, sffn_measured *m)
{
    sffn_threshold_config config = SFFN_THRESHOLD_CONFIG_INIT;
    sffn_activity activity = SFFN_ACTIVITY_INIT;
    config.kind = kind;
    config.target_cett = cett;
    config.target_density = density;
    CHECK_OK(ctx, sffn_calibration_find_threshold(ctx, cal, &config, &activity, thresholds, m));
    CHECK(activity.kind == kind && !activity.thresholds);
    return activity;
}

/* methods 14.10, toy A: the table, and what targets give. */
static void cett_toy_a(void **state)
{
    (void)state;
    static const float ones[4] = {1, 1, 1, 1}, h[4] = {3, 4, 0.6f, 0.8f}, x[2];
    static const float down[8] = {1, 0, 0, 1, 1, 0, 0, -1};
    sffn_ffn *ffn = constant_layer(4, 2, h, ones, down);
    sffn_calibration *cal = calibration_of(ctx, ffn, 4, 4, 0);
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, x, 2, NULL, 0, 1));
    static const struct {
        float eps;
        double cett, density;
    } table[] = {{0.6f, 0, 1},
                 {0.7f, 0.1245682, 0.75},
                 {0.8f, 0.1245682, 0.75},
                 {0.81f, 0.2076137, 0.5},
                 {1, 0.2076137, 0.5},
                 {3, 0.2076137, 0.5},
                 {3.5f, 0.7656415, 0.25},
                 {4, 0.7656415, 0.25},
                 {5, 1, 0}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sffn_measured m =
            measured_at(cal, SFFN_ACTIVE_CONTRIBUTION, SFFN_TIE_KEEP, table[i].eps, NULL);
        CHECK_WITHIN(m.cett, table[i].cett, 1e-6, "eps %g", (double)table[i].eps);
        CHECK_WITHIN(m.relative_error, table[i].cett, 1e-6, "eps %g", (double)table[i].eps);
        CHECK_WITHIN(m.max_cett, table[i].cett, 1e-6, "eps %g", (double)table[i].eps);
        CHECK(m.density == table[i].density && m.n_tokens == 1);
    }
    static const struct {
        float target, eps;
        double density;
    } found[] = {
        {0.2f, 0.8f, 0.75}, {0.21f, 3, 0.5}, {0.05f, 0.6f, 1}, {0, 0.6f, 1}, {0.8f, 4, 0.25}};
    for (size_t i = 0; i < sizeof found / sizeof *found; i++) {
        float t[4];
        sffn_measured m = SFFN_MEASURED_INIT;
        sffn_activity a = found_for(cal, SFFN_ACTIVE_CONTRIBUTION, found[i].target, -1, t, &m);
        CHECK_SAYS(a.threshold == found[i].eps, "target %g: eps %.9g", (double)found[i].target,
                   (double)a.threshold);
        CHECK(a.tie == SFFN_TIE_KEEP && m.density == found[i].density);
        CHECK(m.cett <= (double)found[i].target);
        for (int j = 0; j < 4; j++)
            CHECK(t[j] == found[i].eps);
    }
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

/* Toy B: CETT falls again between 1.2 and 3. The largest eps that passes is found, not the first. */
static void cett_toy_b(void **state)
{
    (void)state;
    static const float ones[3] = {1, 1, 1}, u[3] = {1, -1.2f, 3}, down[3] = {1, 1, 1}, x[1];
    sffn_ffn *ffn = constant_layer(3, 1, ones, u, down);
    sffn_calibration *cal = calibration_of(ctx, ffn, 1, 1, 0);
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, x, 1, NULL, 0, 1));
    static const float eps[] = {1.1f, 1.5f, 4};
    static const double cett[] = {0.3571429, 0.0714286, 1};
    for (int i = 0; i < 3; i++)
        CHECK_WITHIN(measured_at(cal, SFFN_ACTIVE_CONTRIBUTION, SFFN_TIE_KEEP, eps[i], NULL).cett,
                     cett[i], 1e-6, "eps %g", (double)eps[i]);
    CHECK(found_for(cal, SFFN_ACTIVE_CONTRIBUTION, 0.1f, -1, NULL, NULL).threshold == 3.0f);
    CHECK(found_for(cal, SFFN_ACTIVE_CONTRIBUTION, 0.05f, -1, NULL, NULL).threshold == 1.0f);
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

/* eps = 0.6 and norms (1, 2, 0.5): t_i = (0.6, 0.3, 1.2). A row without norm gets FLT_MAX. */
static void per_neuron_thresholds(void **state)
{
    (void)state;
    static const float ones[4] = {1, 1, 1, 1}, u[4] = {0.5f, -0.5f, 1, 9}, x[1];
    static const float down[4] = {1, -2, 0.5f, 0};
    sffn_ffn *ffn = constant_layer(4, 1, ones, u, down);
    sffn_calibration *cal = calibration_of(ctx, ffn, 1, 1, 0);
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, x, 1, NULL, 0, 1));
    CHECK(measured_at(cal, SFFN_ACTIVE_CONTRIBUTION, SFFN_TIE_KEEP, 0.6f, NULL).density == 0.25);
    static const float t[4] = {0.6f, 0.3f, 1.2f, FLT_MAX};
    CHECK(measured_at(cal, SFFN_ACTIVE_H, SFFN_TIE_KEEP, 0, t).density == 0.25);
    float found[4]; /* one of four neurons may stay: the one of the largest norm, 1 */
    sffn_activity a = found_for(cal, SFFN_ACTIVE_CONTRIBUTION, -1, 0.25f, found, NULL);
    CHECK(a.threshold == 1.0f);
    CHECK(found[0] == 1.0f && found[1] == 0.5f && found[2] == 2.0f && found[3] == FLT_MAX);
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

/* methods 14.16. */
static void quantile_toys(void **state)
{
    (void)state;
    static const float s[3] = {0.4f, 0.3f, 0.1f}, u[3] = {1, 2, -4}, down[3] = {1, 1, 1}, x[1];
    sffn_ffn *ffn = constant_layer(3, 1, s, u, down);
    sffn_calibration *cal = calibration_of(ctx, ffn, 1, 1, 0);
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, x, 1, NULL, 0, 1));
    const sffn_measured chess = measured_at(cal, SFFN_ACTIVE_CHESS, SFFN_TIE_KEEP, 0.5f, NULL);
    CHECK_WITHIN(chess.density, 1.0 / 3, 1e-12, "only neuron 1 stays");
    CHECK_WITHIN(chess.cett, 0.0 / 0.6, 1e-6, "0.4 and -0.4 cancel");
    const sffn_measured cats = measured_at(cal, SFFN_ACTIVE_SCORE, SFFN_TIE_DROP, 0.25f, NULL);
    CHECK_WITHIN(cats.density, 2.0 / 3, 1e-12, "neurons 0 and 1 stay");
    float t[3];
    sffn_activity a = found_for(cal, SFFN_ACTIVE_CHESS, -1, 0.34f, t, NULL);
    CHECK(a.tie == SFFN_TIE_KEEP && a.threshold == 0.6f); /* the product of neuron 1 */
    CHECK_WITHIN((double)t[0], 0.6, 1e-7, "t");
    CHECK_WITHIN((double)t[1], 0.3, 1e-7, "t");
    CHECK_WITHIN((double)t[2], 0.15, 1e-7, "t");
    a = found_for(cal, SFFN_ACTIVE_SCORE, -1, 0.67f, NULL, NULL);
    CHECK(a.tie == SFFN_TIE_DROP && a.threshold == 0.1f);
    a = found_for(cal, SFFN_ACTIVE_GATE, -1, 0.67f, NULL, NULL);
    CHECK(a.tie == SFFN_TIE_KEEP && a.threshold == 0.3f);
    a = found_for(cal, SFFN_ACTIVE_SCORE, -1, 1, NULL, NULL);
    CHECK(a.threshold == 0);
    sffn_measured m = SFFN_MEASURED_INIT;
    found_for(cal, SFFN_ACTIVE_CHESS, -1, 0, NULL, &m);
    CHECK(m.density == 0 && m.cett == 1);
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

static double normal_quantile(double p)
{
    double low = -10, high = 10;
    for (int i = 0; i < 200; i++) {
        const double middle = (low + high) / 2;
        *(0.5 * erfc(-middle * 0.70710678118654752) < p ? &low : &high) = middle;
    }
    return low;
}

/* Inputs at the quantiles of a standard normal: sparsity 0.25, 0.4, 0.5, 0.9. */
static void teal_on_a_normal(void **state)
{
    (void)state;
    enum { D = 4000 };
    static float x[D], zeros[D];
    for (int j = 0; j < D; j++)
        x[j] = (float)normal_quantile((j + 0.5) / D);
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = D;
    config.d_ff = 1;
    config.up.data = config.down.data = zeros;
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
    sffn_calibration *cal = calibration_of(ctx, ffn, 1, 1, 0);
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, x, D, NULL, 0, 1));
    static const double sparsity[] = {0.25, 0.4, 0.5, 0.9},
                        t[] = {0.3186394, 0.5244005, 0.6744898, 1.6448536};
    for (int i = 0; i < 4; i++) {
        sffn_measured m = SFFN_MEASURED_INIT;
        const sffn_activity a =
            found_for(cal, SFFN_ACTIVE_INPUT, -1, (float)(1 - sparsity[i]), NULL, &m);
        /* the grid's steps are 1 / (D phi(t)) wide, and pairs of equal size are dropped together */
        CHECK_WITHIN((double)a.threshold, t[i], 2 / (D * 0.1), "sparsity %g", sparsity[i]);
        CHECK_WITHIN(m.density, 1 - sparsity[i], 2.0 / D + 1e-6, "sparsity %g", sparsity[i]);
        CHECK(m.cett == 0); /* y is 0 */
    }
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

/* ---- random layers ---- */

enum { D = 64, F = 96, T = 40 };
static float gate[F * D], up[F * D], down[F * D], bias[F], down_bias[D], inputs[T * D];

static sffn_ffn *random_layer(int32_t activation, int32_t dtype, const float *thresholds)
{
    struct rng rng = rng_named("calibrate");
    for (int i = 0; i < F * D; i++) {
        gate[i] = rng_normal(&rng) / 8;
        up[i] = rng_normal(&rng) / 8;
        down[i] = rng_normal(&rng) * (float)(1 + i / D % 7);
    }
    for (int i = 0; i < F; i++)
        bias[i] = rng_normal(&rng) / 4;
    for (int i = 0; i < D; i++)
        down_bias[i] = rng_normal(&rng);
    for (int i = 0; i < T * D; i++)
        inputs[i] = rng_normal(&rng);
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = D;
    config.d_ff = F;
    config.gate.data = gate;
    config.up.data = up;
    config.down.data = down;
    config.down.layout = SFFN_LAYOUT_ROWS;
    config.gate_bias = bias;
    config.up_bias = bias;
    config.down_bias = down_bias;
    config.activation = activation;
    config.dtype = dtype;
    if (thresholds) {
        config.rule = SFFN_RULE_ABS_H;
        config.rule_tie = SFFN_TIE_KEEP;
        config.rule_thresholds = thresholds;
    }
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
    return ffn;
}

static void forward(const sffn_ffn *ffn, int32_t select, float *y, float *h)
{
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = inputs;
    args.y = y;
    args.h = h;
    args.n_tokens = T;
    args.select = select;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
}

/* The found thresholds, run by forward(): the error that was promised. */
static void forward_keeps_the_promise(void **state)
{
    (void)state;
    static const int32_t activations[] = {SFFN_ACT_RELU, SFFN_ACT_SILU, SFFN_ACT_DRELU};
    static float y[T * D], dense[T * D], h[T * F], thresholds[F];
    for (int a = 0; a < 6; a++) {
        const int32_t activation = activations[a % 3], dtype = a < 3 ? SFFN_F32 : SFFN_Q8_0;
        sffn_ffn *ffn = random_layer(activation, dtype, NULL);
        sffn_calibration *cal = calibration_of(ctx, ffn, T, T, 0);
        CHECK_OK(ctx, sffn_calibration_add(ctx, cal, inputs, D, NULL, 0, T));
        sffn_measured m = SFFN_MEASURED_INIT;
        found_for(cal, SFFN_ACTIVE_CONTRIBUTION, 0.15f, -1, thresholds, &m);
        forward(ffn, SFFN_SELECT_DENSE, dense, h);
        sffn_calibration_destroy(cal);
        sffn_ffn_destroy(ffn);
        ffn = random_layer(activation, dtype, thresholds);
        forward(ffn, SFFN_SELECT_GATE, y, h);
        double cett = 0, errors = 0, sizes = 0, kept = 0;
        for (int t = 0; t < T; t++) {
            double error = 0, size = 0;
            for (int j = 0; j < D; j++) {
                const double want = (double)dense[t * D + j], bare = want - (double)down_bias[j];
                const double e = (double)y[t * D + j] - want;
                error += e * e;
                size += bare * bare;
                sizes += want * want;
            }
            errors += error;
            cett += sqrt(error / size) / T;
        }
        for (int i = 0; i < T * F; i++)
            kept += h[i] != 0;
        /* q8_0 down products round h to 15 bits; the calibration multiplies in float */
        const double bound = dtype == SFFN_F32 ? 1e-5 : 1e-3;
        CHECK(m.cett <= 0.15 && m.cett > 0.13);
        CHECK_WITHIN(cett, m.cett, bound, "cett of %d", a);
        CHECK_WITHIN(sqrt(errors / sizes), m.relative_error, bound, "relative error of %d", a);
        CHECK_WITHIN(kept / (T * F), m.density, 1e-12, "density of %d", a);
        sffn_ffn_destroy(ffn);
    }
}

/* A density is met exactly: values differ. T and the measurement do not depend on threads. */
static void densities_and_threads(void **state)
{
    (void)state;
    sffn_ffn *ffn = random_layer(SFFN_ACT_SILU, SFFN_F32, NULL);
    static const int32_t kinds[] = {SFFN_ACTIVE_SCORE, SFFN_ACTIVE_H, SFFN_ACTIVE_CONTRIBUTION,
                                    SFFN_ACTIVE_CHESS, SFFN_ACTIVE_INPUT};
    for (size_t k = 0; k < 5; k++)
        for (int by_cett = 0; by_cett < 2; by_cett++) {
            if (by_cett && kinds[k] == SFFN_ACTIVE_INPUT)
                continue;
            sffn_threshold_config config = SFFN_THRESHOLD_CONFIG_INIT;
            config.kind = kinds[k];
            *(by_cett ? &config.target_cett : &config.target_density) = 0.3f;
            float first[F], t[F];
            sffn_measured m1 = SFFN_MEASURED_INIT;
            for (uint32_t n_threads = 1; n_threads <= 9; n_threads++) {
                sffn_context *c = make_context(n_threads, NULL);
                sffn_calibration *cal = calibration_of(c, ffn, T, 33, 0);
                CHECK_OK(c, sffn_calibration_add(c, cal, inputs, D, NULL, 0, T));
                sffn_measured m = SFFN_MEASURED_INIT;
                sffn_activity a;
                memset(t, 0, sizeof t);
                CHECK_OK(c, sffn_calibration_find_threshold(
                                c, cal, &config, &a, kinds[k] == SFFN_ACTIVE_INPUT ? NULL : t, &m));
                if (n_threads == 1) {
                    memcpy(first, t, sizeof t);
                    m1 = m;
                    if (!by_cett) {
                        const double n = 33.0 * (kinds[k] == SFFN_ACTIVE_INPUT ? D : F);
                        CHECK_WITHIN(m.density, floor((double)0.3f * n) / n, 1.01 / n, "kind %zu",
                                     k);
                    } else {
                        CHECK(m.cett <= (double)0.3f && m.cett > 0.28 && m.max_cett >= m.cett);
                    }
                }
                CHECK_BITS(t, first, F, "kind %zu, %u threads", k, (unsigned)n_threads);
                CHECK(memcmp(&m, &m1, sizeof m) == 0);
                sffn_calibration_destroy(cal);
                sffn_context_destroy(c);
            }
        }
    sffn_ffn_destroy(ffn);
}

/* ---- the sample ---- */

static void samples_and_moment(void **state)
{
    (void)state;
    enum { N = 3000, KEPT = 100 };
    sffn_ffn *ffn = random_layer(SFFN_ACT_RELU, SFFN_F32, NULL);
    struct rng rng = rng_named("stream");
    float *x = malloc(N * (D + 3) * sizeof *x), *index = malloc(N * sizeof *index);
    for (int t = 0; t < N; t++) {
        index[t] = (float)t;
        for (int j = 0; j < D + 3; j++)
            x[t * (D + 3) + j] = j < D ? rng_normal(&rng) : NAN;
    }
    float *kept[2], *select[2], *moment[2];
    for (int way = 0; way < 2; way++) {
        sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
        config.ffn = ffn;
        config.max_samples = KEPT;
        config.select_d_model = 1;
        config.keep_second_moment = 1;
        config.seed = 3;
        sffn_calibration *cal = NULL;
        CHECK_OK(ctx, sffn_calibration_create(ctx, &config, &cal));
        moment[way] = malloc(D * D * sizeof(float));
        for (int t = 0, n; t < N;
             t += n) { /* all at once, or in odd pieces with questions between */
            n = way == 0 ? N : 1 + t % 37;
            n = t + n > N ? N - t : n;
            CHECK_OK(ctx, sffn_calibration_add(ctx, cal, x + t * (D + 3), D + 3, index + t, 1,
                                               (size_t)n));
            if (way == 1 && t % 5 == 0)
                CHECK_OK(ctx, sffn_calibration_get_second_moment(ctx, cal, moment[way]));
        }
        sffn_calibration_info info = SFFN_CALIBRATION_INFO_INIT;
        CHECK_OK(ctx, sffn_calibration_get_info(cal, &info));
        CHECK(info.n_tokens == N && info.n_samples == KEPT && info.n_eval == KEPT);
        CHECK(info.d_model == D && info.d_ff == F && info.select_d_model == 1 && info.bytes > 0);
        kept[way] = malloc(KEPT * D * sizeof(float));
        select[way] = malloc(KEPT * sizeof(float));
        CHECK_OK(ctx, sffn_calibration_get_samples(cal, kept[way], select[way]));
        CHECK_OK(ctx, sffn_calibration_get_second_moment(ctx, cal, moment[way]));
        sffn_calibration_destroy(cal);
    }
    CHECK_BITS(kept[1], kept[0], KEPT * D, "sample");
    CHECK_BITS(select[1], select[0], KEPT, "selector's sample");
    CHECK_BITS(moment[1], moment[0], D * D, "moment");
    double mean = 0;
    for (int i = 0; i < KEPT; i++) {
        const int t = (int)select[0][i];
        mean += t / (double)KEPT;
        CHECK_BITS(kept[0] + i * D, x + t * (D + 3), D, "row %d and its selector input", i);
        for (int k = 0; k < i; k++)
            CHECK((int)select[0][k] != t);
    }
    /* uniform on 0 .. N-1: standard deviation of the mean of 100 is N / sqrt(1200) = 87 */
    CHECK_WITHIN(mean, N / 2.0, 5 * 87.0, "mean index");
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) {
            double sum = 0, size = 0;
            for (int t = 0; t < N; t++) {
                const double p = (double)x[t * (D + 3) + i] * (double)x[t * (D + 3) + j];
                sum += p;
                size += fabs(p);
            }
            CHECK_WITHIN((double)moment[0][i * D + j], sum / N, gamma_n(257) * size / N, "moment");
        }
    for (int way = 0; way < 2; way++)
        free(kept[way]), free(select[way]), free(moment[way]);
    free(x), free(index);
    sffn_ffn_destroy(ffn);
}

/* ---- errors ---- */

static int32_t stop_at_once(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user, (void)what;
    return done < total;
}

static void errors(void **state)
{
    (void)state;
    sffn_ffn *ffn = random_layer(SFFN_ACT_SILU, SFFN_F32, NULL);
    sffn_calibration *cal = (sffn_calibration *)(uintptr_t)1;
    sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
#define REFUSED(change, words)                                                                     \
    do {                                                                                           \
        sffn_calibration_config c = config;                                                        \
        c.ffn = ffn;                                                                               \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_calibration_create(ctx, &c, &cal), SFFN_ERR_INVALID_ARGUMENT,        \
                    words);                                                                        \
        CHECK(!cal);                                                                               \
    } while (0)
    REFUSED(c.ffn = NULL, "ffn NULL");
    REFUSED(c.max_samples = 0, "max_samples 0");
    REFUSED(c.eval_samples = 0, "eval_samples 0");
    REFUSED(c.keep_second_moment = 2, "keep_second_moment 2");
    REFUSED(c.struct_size = 1, "struct_size 1");
    CHECK_ERROR(ctx, sffn_calibration_create(ctx, NULL, &cal), SFFN_ERR_INVALID_ARGUMENT, "NULL");
    CHECK(sffn_calibration_create(NULL, &config, &cal) == SFFN_ERR_INVALID_ARGUMENT);
    sffn_calibration_destroy(NULL);

    cal = calibration_of(ctx, ffn, 8, 8, 0);
    sffn_activity a = SFFN_ACTIVITY_INIT;
    sffn_measured m = SFFN_MEASURED_INIT;
    sffn_threshold_config find = SFFN_THRESHOLD_CONFIG_INIT;
    find.target_cett = 0.1f;
#define FAILS(call, status, words) CHECK_ERROR(ctx, call, status, words)
#define BAD                        SFFN_ERR_INVALID_ARGUMENT
    FAILS(sffn_calibration_measure(ctx, cal, &a, &m), BAD, "no tokens");
    FAILS(sffn_calibration_find_threshold(ctx, cal, &find, &a, NULL, NULL), BAD, "no tokens");
    FAILS(sffn_calibration_add(ctx, cal, NULL, D, NULL, 0, 1), BAD, "x NULL");
    FAILS(sffn_calibration_add(ctx, cal, inputs, D - 1, NULL, 0, 1), SFFN_ERR_SHAPE, "x_stride 63");
    FAILS(sffn_calibration_add(ctx, cal, inputs, D, inputs, D, 1), BAD, "select_x");
    FAILS(sffn_calibration_add(ctx, NULL, inputs, D, NULL, 0, 1), BAD, "calibration NULL");
    inputs[2 * D + 5] = INFINITY;
    FAILS(sffn_calibration_add(ctx, cal, inputs, D, NULL, 0, 4), BAD, "x[2][5] inf");
    sffn_calibration_info info = SFFN_CALIBRATION_INFO_INIT;
    CHECK_OK(ctx, sffn_calibration_get_info(cal, &info));
    CHECK(info.n_tokens == 0);
    float moment[1];
    FAILS(sffn_calibration_get_second_moment(ctx, cal, moment), SFFN_ERR_UNSUPPORTED,
          "keep_second_moment");
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, inputs, D, NULL, 0, 2));
    FAILS(sffn_calibration_measure(ctx, cal, NULL, &m), BAD, "activity NULL");
    FAILS(sffn_calibration_measure(ctx, cal, &a, NULL), BAD, "sffn_measured NULL");
#define MEASURE_FAILS(change, status, words)                                                       \
    do {                                                                                           \
        a = (sffn_activity)SFFN_ACTIVITY_INIT;                                                     \
        change;                                                                                    \
        FAILS(sffn_calibration_measure(ctx, cal, &a, &m), status, words);                          \
    } while (0)
    float t[F] = {0};
    t[3] = NAN;
    MEASURE_FAILS(a.kind = 6, BAD, "kind 6");
    MEASURE_FAILS(a.tie = 2, BAD, "tie 2");
    MEASURE_FAILS(a.threshold = -1, BAD, "threshold -1");
    MEASURE_FAILS(a.threshold = NAN, BAD, "threshold nan");
    MEASURE_FAILS(a.thresholds = t, BAD, "thresholds[3] nan");
    MEASURE_FAILS((a.kind = SFFN_ACTIVE_INPUT, a.thresholds = t), BAD, "thresholds INPUT");
    MEASURE_FAILS(a.kind = SFFN_ACTIVE_GATE, SFFN_ERR_UNSUPPORTED, "silu");
#define FIND_FAILS(change, thresholds, status, words)                                              \
    do {                                                                                           \
        sffn_threshold_config c = find;                                                            \
        change;                                                                                    \
        FAILS(sffn_calibration_find_threshold(ctx, cal, &c, &a, thresholds, &m), status, words);   \
    } while (0)
    FIND_FAILS(c.kind = -1, NULL, BAD, "kind -1");
    FIND_FAILS(c.target_cett = -1, NULL, BAD, "target_cett -1 target_density -1");
    FIND_FAILS(c.target_density = 0.5f, NULL, BAD, "target_density 0.5");
    FIND_FAILS(c.target_cett = 1.5f, NULL, BAD, "target_cett 1.5");
    FIND_FAILS(c.target_cett = NAN, NULL, BAD, "target_cett nan");
    FIND_FAILS(c.kind = SFFN_ACTIVE_INPUT, NULL, SFFN_ERR_UNSUPPORTED, "target_density");
    FIND_FAILS(c.kind = SFFN_ACTIVE_INPUT, t, BAD, "thresholds");
    FIND_FAILS(c.kind = SFFN_ACTIVE_GATE, NULL, SFFN_ERR_UNSUPPORTED, "silu");
    FIND_FAILS(c.progress = stop_at_once, NULL, SFFN_ERR_INTERRUPTED, "threshold");
    FAILS(sffn_calibration_find_threshold(ctx, cal, &find, NULL, NULL, NULL), BAD, "activity");
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);

    /* NaN weights: in down they are found at once, in gate and up when they are used */
    static const float one[1] = {1};
    float bad[2] = {1, NAN}, good[2] = {1, 1}, x[1] = {1};
    ffn = constant_layer(2, 1, good, good, bad);
    config.ffn = ffn;
    FAILS(sffn_calibration_create(ctx, &config, &cal), BAD, "down row 1");
    sffn_ffn_destroy(ffn);
    ffn = constant_layer(2, 1, good, bad, good);
    cal = calibration_of(ctx, ffn, 1, 1, 0);
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, one, 1, NULL, 0, 1));
    a = (sffn_activity)SFFN_ACTIVITY_INIT;
    FAILS(sffn_calibration_measure(ctx, cal, &a, &m), BAD, "neuron 1 token 0 nan");
    CHECK_OK(ctx, sffn_calibration_add(ctx, cal, x, 1, NULL, 0, 1));
    sffn_calibration_destroy(cal);
    sffn_ffn_destroy(ffn);
}

int main(void)
{
    struct cases cases = {0};
    ctx = make_context(1, NULL);
    CASE(&cases, cett_toy_a);
    CASE(&cases, cett_toy_b);
    CASE(&cases, per_neuron_thresholds);
    CASE(&cases, quantile_toys);
    CASE(&cases, teal_on_a_normal);
    CASE(&cases, forward_keeps_the_promise);
    CASE(&cases, densities_and_threads);
    CASE(&cases, samples_and_moment);
    CASE(&cases, errors);
    const int failed = cases_run(&cases, "calibrate");
    sffn_context_destroy(ctx);
    return failed;
}
