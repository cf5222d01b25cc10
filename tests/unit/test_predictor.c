/* predictor.h: config and argument checks, scores and decision of the screened gate by hand.
 * Random layers are in tests/property/test_selectors.c. */
#include <math.h>

#include "check.h"
#include "guarded.h"
#include "layer.h"
#include "weights.h"

static sffn_context *ctx;
static float gate[8 * 64];

static sffn_predictor_config config_of(uint32_t d_ff, uint32_t d_model)
{
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.d_model = d_model;
    config.d_ff = d_ff;
    config.gate.data = gate;
    return config;
}

static void config_errors(void **state)
{
    (void)state;
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_predictor_config config = config_of(8, 64);                                           \
        sffn_predictor *predictor = (sffn_predictor *)(uintptr_t)1;                                \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_predictor_create(ctx, &config, &predictor), status, words);          \
        CHECK(predictor == NULL);                                                                  \
    } while (0)
    static float thresholds[8];
    REFUSED(config.kind = 99, SFFN_ERR_INVALID_ARGUMENT, "kind 99");
    REFUSED(config.kind = -1, SFFN_ERR_INVALID_ARGUMENT, "kind -1");
    REFUSED(config.d_model = 0, SFFN_ERR_INVALID_ARGUMENT, "d_model 0");
    REFUSED(config.d_ff = 0, SFFN_ERR_INVALID_ARGUMENT, "d_ff 0");
    REFUSED(config.gate.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "gate NULL");
    REFUSED(config.gate.dtype = 17, SFFN_ERR_INVALID_ARGUMENT, "dtype 17");
    REFUSED(config.gate.layout = 9, SFFN_ERR_INVALID_ARGUMENT, "layout 9");
    REFUSED(config.threshold = NAN, SFFN_ERR_INVALID_ARGUMENT, "threshold nan");
    REFUSED((thresholds[5] = NAN, config.thresholds = thresholds), SFFN_ERR_INVALID_ARGUMENT,
            "thresholds 5");
    REFUSED(config.margin = NAN, SFFN_ERR_INVALID_ARGUMENT, "margin nan");
    REFUSED(config.margin = -0.5f, SFFN_ERR_INVALID_ARGUMENT, "margin -0.5");
    REFUSED(config.d_model = 63, SFFN_ERR_SHAPE, "d_model 63 32");
    REFUSED(config.gate.row_bytes = 255, SFFN_ERR_SHAPE, "row_bytes 255 256");
    REFUSED(config.gate.dtype = SFFN_Q4_0, SFFN_ERR_UNSUPPORTED, "q4_0");
    REFUSED(config.decision = 2, SFFN_ERR_INVALID_ARGUMENT, "decision 2");
    REFUSED(config.tie = 2, SFFN_ERR_INVALID_ARGUMENT, "tie 2");
    REFUSED(config.decision = SFFN_DECIDE_TOP_K, SFFN_ERR_INVALID_ARGUMENT, "top_k 0 8");
    REFUSED((config.decision = SFFN_DECIDE_TOP_K, config.top_k = 9), SFFN_ERR_INVALID_ARGUMENT,
            "top_k 9 8");
    REFUSED((config.decision = SFFN_DECIDE_TOP_K, config.top_k = 1, config.top_k_multiple = 0),
            SFFN_ERR_INVALID_ARGUMENT, "top_k_multiple 0");
    REFUSED((config.decision = SFFN_DECIDE_TOP_K, config.top_k = 1, thresholds[5] = 0,
             config.thresholds = thresholds),
            SFFN_ERR_INVALID_ARGUMENT, "thresholds TOP_K");
    sffn_predictor_config config = config_of(8, 64);
    sffn_predictor *predictor = (sffn_predictor *)(uintptr_t)1;
    config.gate.layout =
        SFFN_LAYOUT_COLUMNS; /* "SFFN_LAYOUT_ROWS" in the contract, without a status */
    CHECK_FAILS(ctx, sffn_predictor_create(ctx, &config, &predictor), "layout");
    CHECK(predictor == NULL);
    CHECK_ERROR(ctx, sffn_predictor_create(ctx, NULL, &predictor), SFFN_ERR_INVALID_ARGUMENT,
                "config NULL");
    CHECK_ERROR(ctx, sffn_predictor_create(ctx, &config, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "predictor NULL");
    CHECK(sffn_predictor_create(NULL, &config, &predictor) == SFFN_ERR_INVALID_ARGUMENT);
    sffn_predictor_destroy(NULL);
}

static void argument_errors(void **state)
{
    (void)state;
    sffn_predictor_config config = config_of(8, 64);
    sffn_predictor *predictor = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    float x[128] = {0}, scores[16], before[16];
    for (int i = 0; i < 16; i++)
        scores[i] = before[i] = (float)i;
    sffn_active_set *other = make_set(ctx, NULL, 2, 9, 1), *blocks = make_set(ctx, NULL, 2, 8, 2);
    sffn_active_set *brief = make_set(ctx, NULL, 1, 8, 1), *good = make_set(ctx, NULL, 2, 8, 1);
    CHECK_OK(ctx, sffn_active_set_set_all(other, 1));
#define PREDICT(p, x, x_stride, scores, scores_stride, active)                                     \
    sffn_predictor_predict(ctx, p, x, x_stride, 2, scores, scores_stride, active)
    CHECK_ERROR(ctx, PREDICT(NULL, x, 64, scores, 8, good), SFFN_ERR_INVALID_ARGUMENT,
                "predictor NULL");
    CHECK_ERROR(ctx, PREDICT(predictor, NULL, 64, scores, 8, good), SFFN_ERR_INVALID_ARGUMENT,
                "x NULL");
    CHECK_FAILS(ctx, PREDICT(predictor, x, 63, scores, 8, good), "x_stride 63");
    CHECK_FAILS(ctx, PREDICT(predictor, x, 64, scores, 7, good), "scores_stride 7");
    CHECK_ERROR(ctx, PREDICT(predictor, x, 64, scores, 8, other), SFFN_ERR_SHAPE, "9 8");
    CHECK_ERROR(ctx, PREDICT(predictor, x, 64, scores, 8, blocks), SFFN_ERR_SHAPE, "active 2 1");
    CHECK_ERROR(ctx, PREDICT(predictor, x, 64, scores, 8, brief), SFFN_ERR_SHAPE, "1");
    CHECK_BITS(scores, before, 16, "after errors");
    CHECK(sffn_active_set_count(other, 1) == 9 && sffn_active_set_n_tokens(other) == 2);
    CHECK(sffn_predictor_predict(NULL, predictor, x, 64, 1, scores, 8, good) ==
          SFFN_ERR_INVALID_ARGUMENT);
    CHECK_OK(ctx, PREDICT(predictor, x, 64, NULL, 0, good));
    CHECK_OK(ctx, PREDICT(predictor, x, 64, scores, 8, NULL));
    CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, NULL, 0, 0, NULL, 0, good));
    CHECK(sffn_active_set_n_tokens(good) == 0); /* no tokens: the empty set */
    sffn_active_set *const sets[] = {other, blocks, brief, good};
    for (size_t i = 0; i < 4; i++)
        sffn_active_set_destroy(sets[i]);
    sffn_predictor_destroy(predictor);
}

static void weight_bytes_are_the_copys(void **state)
{
    (void)state;
    sffn_predictor_config config = config_of(8, 64);
    sffn_predictor *predictor = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    uint64_t copy = 8 * weight_bytes(SFFN_Q4_0, 64), got = sffn_predictor_weight_bytes(predictor);
    CHECK_SAYS(got >= copy && got <= copy + 8 * sizeof(float),
               "%llu bytes, the 4-bit copy has %llu", (unsigned long long)got,
               (unsigned long long)copy);
    sffn_predictor_destroy(predictor);
}

/* Rows that 4 bits hold exactly have e_i = 0: the margin does not matter, and equality with the
 * threshold does not pass. */
static void exact_rows_by_hand(void **state)
{
    (void)state;
    /* row i is i - 4 in element 0 and -8 in element 1, so its scale is 1; x is 1 in element 0 and 0
     * elsewhere */
    for (size_t i = 0; i < 8; i++) {
        memset(gate + 64 * i, 0, 64 * sizeof *gate);
        gate[64 * i] = (float)i - 4.0f;
        gate[64 * i + 1] = -8.0f;
    }
    float x[64] = {1.0f}, scores[8];
    static const float biases[8] = {0, 0, 0, 0, 0, 0, 0, -3.0f},
                       per_neuron[8] = {-5, -3, -2, 0, -1, 1, 1, 1};
    for (int variant = 0; variant < 3; variant++) {
        sffn_predictor_config config = config_of(8, 64);
        config.margin = 100.0f;
        config.gate_bias = biases;
        config.threshold = variant == 1 ? 1.0f : 0.0f;
        config.thresholds = variant == 2 ? per_neuron : NULL;
        sffn_predictor *predictor = NULL;
        sffn_active_set *set = make_set(ctx, NULL, 1, 8, 1);
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, 64, 1, scores, 8, set));
        CHECK(sffn_active_set_n_tokens(set) == 1);
        for (uint32_t i = 0; i < 8; i++) {
            float score = (float)i - 4.0f + biases[i],
                  threshold = variant == 2 ? per_neuron[i] : config.threshold;
            CHECK_WITHIN((double)scores[i], (double)score, 4.0 * 0x1p-24, "score %u", (unsigned)i);
            if (fabsf(score - threshold) > 0.5f ||
                i == 4) /* neuron 4 meets 0 exactly: its weight is 0 */
                CHECK_SAYS(sffn_active_set_contains(set, 0, i) == (score > threshold),
                           "variant %d neuron %u", variant, (unsigned)i);
        }
        sffn_active_set_destroy(set);
        sffn_predictor_destroy(predictor);
    }
}

/* What the top-k of these scores is: NaN first, then the largest, the lowest neurons among equals. */
static int is_in_top_k(const float *scores, uint32_t n, uint32_t i, uint32_t k)
{
    uint32_t n_better = 0;
    for (uint32_t j = 0; j < n; j++) {
        const float a = scores[j], b = scores[i];
        const int is_equal = a == b || (isnan(a) && isnan(b));
        n_better += is_equal ? j < i : isnan(a) || a > b;
    }
    return n_better < k;
}

/* The scores are what the callback's user points at, whatever x is. */
static void copy_scores(void *user, const float *x, uint32_t n_x, float *scores, uint32_t n_scores)
{
    CHECK(x && n_x == 64);
    memcpy(scores, user, n_scores * sizeof *scores);
}

/* The bitmap of 8 neurons that a config with these scores selects. */
static unsigned bits_of(sffn_predictor_config config, const float *scores)
{
    config.kind = SFFN_PREDICTOR_CALLBACK;
    config.callback = copy_scores;
    config.callback_user = (void *)(uintptr_t)scores;
    float x[64] = {0}, got[8];
    uint8_t bitmap;
    sffn_predictor *predictor = NULL;
    sffn_active_set *set = make_set(ctx, NULL, 1, 8, 1);
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, 64, 1, got, 8, set));
    CHECK_BITS(got, scores, 8, "scores");
    CHECK_OK(ctx, sffn_active_set_get_bitmap(set, 0, &bitmap));
    sffn_active_set_destroy(set);
    sffn_predictor_destroy(predictor);
    return bitmap;
}

static void top_k(void **state)
{
    (void)state;
    static const float scores[][8] = {
        {3, 1, 2, 2, 2, -1, 0, 5},
        {-0.0f, 0.0f, -0.0f, 0.0f, -1, -2, -3, -4},
        {1, 1, 1, 1, 1, 1, 1, 1},
        {NAN, 1, -NAN, INFINITY, -INFINITY, 2, 3e-45f, -3e-45f},
        {-1, -2, -3, -4, -1.0000001f, -1e38f, -1e-38f, -INFINITY},
    };
    static const uint32_t multiples[] = {1, 2, 3, 128};
    /* the margin of a threshold costs top-k nothing */
    sffn_predictor_config screened = config_of(8, 64);
    screened.decision = SFFN_DECIDE_TOP_K;
    screened.top_k = 1;
    sffn_predictor *predictor = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &screened, &predictor));
    CHECK(sffn_predictor_weight_bytes(predictor) == 8 * weight_bytes(SFFN_Q4_0, 64));
    sffn_predictor_destroy(predictor);
    for (size_t c = 0; c < sizeof scores / sizeof scores[0]; c++)
        for (uint32_t k = 1; k <= 8; k++)
            for (size_t m = 0; m < 4; m++) {
                sffn_predictor_config config = config_of(8, 64);
                config.decision = SFFN_DECIDE_TOP_K;
                config.top_k = k;
                config.top_k_multiple = multiples[m];
                const unsigned bits = bits_of(config, scores[c]);
                const uint32_t rounded = (k + multiples[m] - 1) / multiples[m] * multiples[m];
                for (uint32_t i = 0; i < 8; i++)
                    CHECK_SAYS((int)(bits >> i & 1) == is_in_top_k(scores[c], 8, i, rounded),
                               "scores %zu, k %u up to a multiple of %u: neuron %u", c, (unsigned)k,
                               (unsigned)multiples[m], (unsigned)i);
            }
}

static void thresholds_and_ties(void **state)
{
    (void)state;
    static const float scores[8] = {-1, 0, 1, 2, NAN, 1, -INFINITY, INFINITY},
                       own[8] = {-1, -1, 2, 2, 5, 0.5f, -INFINITY, INFINITY};
    sffn_predictor_config config = config_of(8, 64);
    config.threshold = 1.0f;
    CHECK(bits_of(config, scores) == 0x98);
    config.tie = SFFN_TIE_KEEP;
    CHECK(bits_of(config, scores) == 0xBC);
    config.thresholds = own;
    CHECK(bits_of(config, scores) == 0xFB);
    config.tie = SFFN_TIE_DROP;
    CHECK(bits_of(config, scores) == 0x32);
    /* methods.md 14.6: recall of {1, 4, 5, 9} for {1, 4, 7} is in test_active_set.c */
}

/* A score that the callback leaves alone lets its neuron through; tokens come in order, one call each. */
struct calls {
    const float *x;
    size_t n;
};

static void note_call(void *user, const float *x, uint32_t n_x, float *scores, uint32_t n_scores)
{
    struct calls *calls = user;
    CHECK(x == calls->x + calls->n++ * 64 && n_x == 64 && n_scores == 8);
    for (uint32_t i = 0; i < 6; i++)
        scores[i] = x[i];
}

static void callback(void **state)
{
    (void)state;
    static float x[19 * 64];
    struct calls calls = {x, 0};
    sffn_predictor_config config = config_of(8, 64);
    config.kind = SFFN_PREDICTOR_CALLBACK;
    sffn_predictor *predictor = NULL;
    CHECK_ERROR(ctx, sffn_predictor_create(ctx, &config, &predictor), SFFN_ERR_INVALID_ARGUMENT,
                "callback NULL");
    config.callback = note_call;
    config.callback_user = &calls;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK(sffn_predictor_weight_bytes(predictor) == 0);
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = (float)(i % 7) - 3.0f;
    sffn_active_set *set = make_set(ctx, NULL, 19, 8, 1);
    CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, 64, 19, NULL, 0, set));
    CHECK(calls.n == 19);
    for (size_t t = 0; t < 19; t++)
        for (uint32_t i = 0; i < 8; i++)
            CHECK(sffn_active_set_contains(set, t, i) == (i >= 6 || x[t * 64 + i] > 0));
    sffn_active_set_destroy(set);
    sffn_predictor_destroy(predictor);
}

static sffn_predictor_config low_rank_of(uint32_t d_model, uint32_t d_ff, uint32_t rank,
                                         const float *w1, const float *w2)
{
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.kind = SFFN_PREDICTOR_LOW_RANK;
    config.d_model = d_model;
    config.d_ff = d_ff;
    config.rank = rank;
    config.w1.data = w1;
    config.w2.data = w2;
    return config;
}

/* methods.md 14.13: W1 p = (2, -3); without ReLU the logits are (-1, 2, 1, -3) and {1, 2} are kept
 * at >= 0, with it (2, 2, -2, 0) and {0, 1, 3}, neuron 3 on the tie. */
static void toy_14_13_relu_inside(void **state)
{
    (void)state;
    static const float w1[] = {2, -3}, w2[] = {1, 1, 1, 0, -1, -1, 0, 1}, p = 1.0f,
                       logits[2][4] = {{-1, 2, 1, -3}, {2, 2, -2, 0}};
    static const uint8_t kept[2][2] = {{0x6, 0x6}, {0x3, 0xB}}; /* tie drop, keep */
    for (int relu = 0; relu < 2; relu++)
        for (int32_t tie = 0; tie < 2; tie++) {
            sffn_predictor_config config = low_rank_of(1, 4, 2, w1, w2);
            config.hidden_activation = relu ? SFFN_HIDDEN_RELU : SFFN_HIDDEN_NONE;
            config.tie = tie;
            sffn_predictor *predictor = NULL;
            sffn_active_set *set = make_set(ctx, NULL, 1, 4, 1);
            float scores[4];
            uint8_t bitmap;
            CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
            CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, &p, 1, 1, scores, 4, set));
            CHECK_BITS(scores, logits[relu], 4, "logits");
            CHECK_OK(ctx, sffn_active_set_get_bitmap(set, 0, &bitmap));
            CHECK(bitmap == kept[relu][tie]);
            sffn_active_set_destroy(set);
            sffn_predictor_destroy(predictor);
        }
}

static void low_rank_errors(void **state)
{
    (void)state;
    static float w1[32 * 64], w2[16 * 32], bias[32];
#undef REFUSED
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_predictor_config config = low_rank_of(64, 8, 32, w1, w2);                             \
        sffn_predictor *predictor = (sffn_predictor *)(uintptr_t)1;                                \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_predictor_create(ctx, &config, &predictor), status, words);          \
        CHECK(predictor == NULL);                                                                  \
    } while (0)
    REFUSED(config.rank = 0, SFFN_ERR_INVALID_ARGUMENT, "rank 0");
    REFUSED(config.w1.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "w1 NULL");
    REFUSED(config.w2.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "w2 NULL");
    REFUSED(config.w1.layout = SFFN_LAYOUT_COLUMNS, SFFN_ERR_INVALID_ARGUMENT, "w1 layout");
    REFUSED((config.rank = 31, config.dtype = SFFN_Q8_0), SFFN_ERR_SHAPE, "w2 31 q8_0 32");
    REFUSED((config.d_model = 63, config.dtype = SFFN_Q4_0), SFFN_ERR_SHAPE, "w1 63 q4_0 32");
    REFUSED(config.dtype = 77, SFFN_ERR_INVALID_ARGUMENT, "dtype 77");
    REFUSED(config.w2.row_bytes = 127, SFFN_ERR_SHAPE, "w2 row_bytes 127 128");
    REFUSED(config.hidden_activation = 3, SFFN_ERR_INVALID_ARGUMENT, "hidden_activation 3");
    REFUSED(config.gate_bias = bias, SFFN_ERR_INVALID_ARGUMENT, "gate_bias b2");
    REFUSED(config.n_layers = 0, SFFN_ERR_INVALID_ARGUMENT, "n_layers 0");
    REFUSED((config.n_layers = 0x10000, config.d_ff = 0x8000), SFFN_ERR_INVALID_ARGUMENT,
            "n_layers 65536");
    REFUSED(config.input = 5, SFFN_ERR_INVALID_ARGUMENT, "input 5");
    REFUSED((config.kind = SFFN_PREDICTOR_SCREENED_GATE, config.n_layers = 2),
            SFFN_ERR_INVALID_ARGUMENT, "n_layers 2 one");
    bias[3] = NAN;
    REFUSED(config.b1 = bias, SFFN_ERR_INVALID_ARGUMENT, "b1 3 nan");
    REFUSED(config.b2 = bias, SFFN_ERR_INVALID_ARGUMENT, "b2 3 nan");
    w2[5 * 32 + 7] = NAN;
    REFUSED((void)0, SFFN_ERR_INVALID_ARGUMENT, "w2 element 7 row 5 nan");
    w2[5 * 32 + 7] = 0;
    w1[64] = NAN;
    REFUSED((void)0, SFFN_ERR_INVALID_ARGUMENT, "w1 element 0 row 1 nan");
    w1[64] = 0;
}

/* One predictor for three layers, and a layer that it is handed to as if it were its own. */
static void several_layers(void **state)
{
    (void)state;
    enum { D = 4, F = 5, R = 3, L = 3, T = 11 };
    float w1[R * D], w2[L * F * R], thresholds[L * F], x[T * D], scores[T * L * F];
    struct rng rng = rng_named(__func__);
    for (size_t i = 0; i < R * D; i++)
        w1[i] = rng_normal(&rng);
    for (size_t i = 0; i < L * F * R; i++)
        w2[i] = rng_normal(&rng);
    for (size_t i = 0; i < L * F; i++)
        thresholds[i] = 0.3f * rng_normal(&rng);
    for (size_t i = 0; i < T * D; i++)
        x[i] = rng_normal(&rng);
    for (int is_top_k = 0; is_top_k < 2; is_top_k++) {
        sffn_predictor_config config = low_rank_of(D, F, R, w1, w2);
        config.n_layers = L;
        config.thresholds = is_top_k ? NULL : thresholds;
        config.decision = is_top_k ? SFFN_DECIDE_TOP_K : SFFN_DECIDE_THRESHOLD;
        config.top_k = 2;
        sffn_predictor *predictor = NULL;
        sffn_active_set *sets[L], *wrong[L];
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        for (size_t l = 0; l < L; l++)
            wrong[l] = sets[l] = make_set(ctx, NULL, T, F, 1);
        CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, D, T, scores, L * F, NULL));
        CHECK_OK(ctx, sffn_predictor_predict_layers(ctx, predictor, x, D, T, sets));
        for (size_t t = 0; t < T; t++)
            for (uint32_t i = 0; i < L * F; i++) {
                const float *of_layer = scores + t * L * F + i / F * F;
                const int want =
                    is_top_k ? is_in_top_k(of_layer, F, i % F, 2) : of_layer[i % F] > thresholds[i];
                CHECK(sffn_active_set_contains(sets[i / F], t, i % F) == want);
            }
        CHECK_ERROR(ctx, sffn_predictor_predict(ctx, predictor, x, D, T, NULL, 0, sets[0]),
                    SFFN_ERR_UNSUPPORTED, "3 layers sffn_predictor_predict_layers");
        CHECK_ERROR(ctx, sffn_predictor_predict_layers(ctx, predictor, x, D, T, NULL),
                    SFFN_ERR_INVALID_ARGUMENT, "active NULL");
        wrong[2] = NULL;
        CHECK_ERROR(ctx, sffn_predictor_predict_layers(ctx, predictor, x, D, T, wrong),
                    SFFN_ERR_INVALID_ARGUMENT, "active[2] NULL");
        wrong[2] = sets[1];
        CHECK_ERROR(ctx, sffn_predictor_predict_layers(ctx, predictor, x, D, T, wrong),
                    SFFN_ERR_INVALID_ARGUMENT, "active[1] active[2] same");
        sffn_active_set *other = wrong[2] = make_set(ctx, NULL, T, F + 1, 1);
        CHECK_ERROR(ctx, sffn_predictor_predict_layers(ctx, predictor, x, D, T, wrong),
                    SFFN_ERR_SHAPE, "active[2] 6 5");
        sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
        static const float zeros[D * F];
        layer.d_model = D;
        layer.d_ff = F;
        layer.up.data = layer.down.data = zeros;
        layer.predictor = predictor;
        sffn_ffn *ffn = NULL;
        CHECK_ERROR(ctx, sffn_ffn_create(ctx, &layer, &ffn), SFFN_ERR_UNSUPPORTED,
                    "3 layers sffn_predictor_predict_layers hand in");
        sffn_active_set_destroy(other);
        for (size_t l = 0; l < L; l++)
            sffn_active_set_destroy(sets[l]);
        sffn_predictor_destroy(predictor);
    }
}

/* At full rank the decomposition is the gate; below, it is its best approximation, in q8_0. */
static void gate_svd(void **state)
{
    (void)state;
    enum { D = 64, F = 96, T = 9 };
    static float w[F * D], bias[F], x[T * D], full[T * F], low[T * F];
    struct rng rng = rng_named(__func__);
    for (size_t i = 0; i < F * D; i++) /* the first 16 columns carry nearly everything */
        w[i] = rng_normal(&rng) * (i % D < 16 ? 1.0f : 0.01f);
    for (size_t i = 0; i < F; i++)
        bias[i] = rng_normal(&rng);
    for (size_t i = 0; i < T * D; i++)
        x[i] = rng_normal(&rng);
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.kind = SFFN_PREDICTOR_GATE_SVD;
    config.d_model = D;
    config.d_ff = F;
    config.gate.data = w;
    config.gate_bias = bias;
    config.rank = D;
    config.dtype = SFFN_F32;
    sffn_predictor *predictor = NULL, *again = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, D, T, full, F, NULL));
    sffn_predictor_destroy(predictor);
    config.rank = 32;
    config.dtype = -1;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &again));
    CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, D, T, low, F, NULL));
    double squares = 0, missed = 0;
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < F; i++) {
            double g = bias[i], magnitude = fabs((double)bias[i]);
            for (size_t j = 0; j < D; j++) {
                g += (double)w[i * D + j] * x[t * D + j];
                magnitude += fabs((double)w[i * D + j] * x[t * D + j]);
            }
            CHECK_WITHIN((double)full[t * F + i], g, 1e-4 * magnitude, "full rank");
            squares += (g - bias[i]) * (g - bias[i]);
            missed += ((double)low[t * F + i] - g) * ((double)low[t * F + i] - g);
        }
    /* what the 48 weak columns add is 1 % of the rest, q8_0 of both maps and of x rounds by another */
    CHECK_SAYS(sqrt(missed / squares) < 0.03, "rank 32 misses %g", sqrt(missed / squares));
    CHECK_OK(ctx, sffn_predictor_predict(ctx, again, x, D, T, full, F, NULL));
    CHECK_BITS(full, low, T * F, "made twice");
    sffn_predictor_info info = SFFN_PREDICTOR_INFO_INIT;
    CHECK_OK(ctx, sffn_predictor_get_info(again, &info));
    CHECK(info.kind == SFFN_PREDICTOR_GATE_SVD && info.dtype == SFFN_Q8_0 && info.rank == 32);
    CHECK(info.weight_bytes ==
          32 * weight_bytes(SFFN_Q8_0, D) + F * weight_bytes(SFFN_Q8_0, 32) + F * sizeof(float));
    sffn_predictor_destroy(predictor);
    sffn_predictor_destroy(again);
#undef REFUSED
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_predictor_config wrong = config;                                                      \
        sffn_predictor *none = (sffn_predictor *)(uintptr_t)1;                                     \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_predictor_create(ctx, &wrong, &none), status, words);                \
        CHECK(none == NULL);                                                                       \
    } while (0)
    REFUSED(wrong.rank = 0, SFFN_ERR_INVALID_ARGUMENT, "rank 0");
    REFUSED(wrong.rank = D + 1, SFFN_ERR_INVALID_ARGUMENT, "rank 65 64");
    REFUSED(wrong.rank = 31, SFFN_ERR_SHAPE, "w2 31 q8_0");
    REFUSED(wrong.gate.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "gate NULL");
    REFUSED(wrong.gate.dtype = 9, SFFN_ERR_INVALID_ARGUMENT, "gate dtype 9");
    REFUSED(wrong.gate.layout = SFFN_LAYOUT_COLUMNS, SFFN_ERR_UNSUPPORTED, "gate layout");
    REFUSED(wrong.gate.row_bytes = 255, SFFN_ERR_SHAPE, "gate row_bytes 255 256");
    REFUSED(wrong.n_layers = 2, SFFN_ERR_INVALID_ARGUMENT, "n_layers 2");
    w[77] = NAN;
    REFUSED((void)0, SFFN_ERR_INVALID_ARGUMENT, "gate nan");
    w[77] = 0;
}

static sffn_predictor_config signs_of(uint32_t d_model, uint32_t d_ff, const float *w, float alpha)
{
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.kind = SFFN_PREDICTOR_SIGN;
    config.d_model = d_model;
    config.d_ff = d_ff;
    config.gate.data = w;
    config.alpha = alpha;
    return config;
}

/* Scores of at most 8 rows for one x; returns the selected ones as bits. */
static unsigned vote_of(sffn_predictor_config config, const float *x, float *scores)
{
    sffn_predictor *predictor = NULL;
    sffn_active_set *set = make_set(ctx, NULL, 1, config.d_ff, 1);
    uint8_t bits;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, config.d_model, 1, scores, config.d_ff,
                                         set));
    CHECK_OK(ctx, sffn_active_set_get_bitmap(set, 0, &bits));
    sffn_active_set_destroy(set);
    sffn_predictor_destroy(predictor);
    return bits;
}

/* methods.md 14.14: of (-1, 0, -0.0, 3, -2, 5, 1, -7) the elements 0, 4, 7 are negative, 0x91, on
 * either side of the product; the sign bit would count -0.0, too. */
static void toy_14_14_sign_packing(void **state)
{
    (void)state;
    static const float toy[8] = {-1, 0, -0.0f, 3, -2, 5, 1, -7}, ones[8] = {1, 1, 1, 1, 1, 1, 1, 1},
                       nans[8] = {-1, NAN, -NAN, 3, -2, 5, 1, -7};
    float score, rows[8 * 8];
    vote_of(signs_of(8, 1, ones, 1.0f), toy, &score);
    CHECK(score == 5.0f - 3.0f);
    vote_of(signs_of(8, 1, toy, 1.0f), ones, &score);
    CHECK(score == 5.0f - 3.0f);
    vote_of(signs_of(8, 1, toy, 1.0f), toy, &score);
    CHECK(score == 8.0f);
    CHECK(vote_of(signs_of(8, 1, toy, 0.001f), nans, &score) == 1 && isnan(score)); /* is seen */
    /* bit by bit: row i is -1 at i, and differs from x there or agrees */
    for (int i = 0; i < 64; i++)
        rows[i] = i / 8 == i % 8 ? -1.0f : 1.0f;
    float scores[8];
    vote_of(signs_of(8, 8, rows, 1.0f), toy, scores);
    for (int i = 0; i < 8; i++)
        CHECK(scores[i] == (0x91 >> i & 1 ? 6.0f - 2.0f : 4.0f - 4.0f));
}

/* methods.md 14.15: the smallest number of negative products that is predicted inactive. */
static void toy_14_15_vote(void **state)
{
    (void)state;
    static const float alphas[5] = {1.0f, 1.01f, 1.02f, 1.03f, 1.05f};
    static const struct {
        uint32_t d, n_negative[5];
    } table[] = {{8, {5, 5, 5, 5, 5}},
                 {4096, {2049, 2059, 2069, 2079, 2098}},
                 {5120, {2561, 2573, 2586, 2598, 2623}},
                 {203, {102, 103, 103, 104, 104}}}; /* 103 of 203 is a tie at 1.03 exactly */
    static float w[2 * 5120], x[5120];
    float scores[2];
    for (size_t j = 0; j < 5120; j++)
        x[j] = 1.0f;
    for (size_t k = 0; k < sizeof table / sizeof table[0]; k++)
        for (size_t a = 0; a < 5; a++) {
            const uint32_t d = table[k].d, n = table[k].n_negative[a];
            for (uint32_t j = 0; j < d; j++) {
                w[j] = j < n - 1 ? -1.0f : 1.0f;
                w[d + j] = j < n ? -0.5f : 0.0f;
            }
            CHECK_SAYS(vote_of(signs_of(d, 2, w, alphas[a]), x, scores) == 1,
                       "D %u alpha %g: %u negative products", (unsigned)d, (double)alphas[a],
                       (unsigned)n);
        }
    /* an equal vote is active; an outlier makes it wrong, both ways: the gates are 0, -5 and 5 */
    static const float toys[12] = {1, 1, -1, -1, 1, 1, 1, -8, -1, -1, -1, 8};
    CHECK(vote_of(signs_of(4, 3, toys, 1.0f), x, w) == 3);
}

static void signs(void **state)
{
    (void)state;
    enum { D = 100, F = 7, T = 10 }; /* rows of 16 bytes, the last of them in part */
    float w[F * D], x[T * D], scores[T * F];
    struct rng rng = rng_named(__func__);
    for (size_t i = 0; i < F * D; i++)
        w[i] = rng_normal(&rng);
    for (size_t i = 0; i < T * D; i++)
        x[i] = rng_normal(&rng);
    sffn_predictor_config config = signs_of(D, F, w, 1.25f);
    sffn_predictor *predictor = NULL;
    sffn_active_set *set = make_set(ctx, NULL, T, F, 1);
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, D, T, scores, F, set));
    for (size_t t = 0; t < T; t++)
        for (uint32_t i = 0; i < F; i++) {
            int negative = 0;
            for (size_t j = 0; j < D; j++)
                negative += (w[i * D + j] < 0) != (x[t * D + j] < 0);
            CHECK(scores[t * F + i] == 1.25f * (float)(D - negative) - (float)negative);
            CHECK(sffn_active_set_contains(set, t, i) == (scores[t * F + i] >= 0));
        }
    sffn_predictor_info info = SFFN_PREDICTOR_INFO_INIT;
    CHECK_OK(ctx, sffn_predictor_get_info(predictor, &info));
    CHECK(info.kind == SFFN_PREDICTOR_SIGN && info.alpha == 1.25f && info.dtype == -1);
    CHECK(info.tie == SFFN_TIE_KEEP && info.weight_bytes == F * 16);
    sffn_predictor_destroy(predictor);
    /* methods.md 14.19: 5 636 096 bytes for a layer of 11008 x 4096 */
    uint16_t *bf16 = calloc((size_t)11008 * 4096, sizeof *bf16);
    CHECK(bf16 != NULL);
    config = signs_of(4096, 11008, NULL, 1.03f);
    config.gate.data = bf16;
    config.gate.dtype = SFFN_BF16;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK(sffn_predictor_weight_bytes(predictor) == 5636096);
    sffn_predictor_destroy(predictor);
    free(bf16);
    sffn_active_set_destroy(set);
    const sffn_predictor_config good = signs_of(D, F, w, 1.0f);
#undef REFUSED
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_predictor_config wrong = good;                                                        \
        sffn_predictor *none = (sffn_predictor *)(uintptr_t)1;                                     \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_predictor_create(ctx, &wrong, &none), status, words);                \
        CHECK(none == NULL);                                                                       \
    } while (0)
    REFUSED(wrong.alpha = NAN, SFFN_ERR_INVALID_ARGUMENT, "alpha nan");
    REFUSED(wrong.alpha = 0.0f, SFFN_ERR_INVALID_ARGUMENT, "alpha 0");
    REFUSED(wrong.alpha = -1.0f, SFFN_ERR_INVALID_ARGUMENT, "alpha -1");
    REFUSED(wrong.alpha = INFINITY, SFFN_ERR_INVALID_ARGUMENT, "alpha inf");
    REFUSED(wrong.gate_bias = w, SFFN_ERR_INVALID_ARGUMENT, "gate_bias");
    REFUSED(wrong.gate.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "gate NULL");
    REFUSED(wrong.gate.layout = SFFN_LAYOUT_COLUMNS, SFFN_ERR_UNSUPPORTED, "gate layout");
    REFUSED(wrong.gate.dtype = SFFN_Q8_0, SFFN_ERR_SHAPE, "d_model 100 q8_0 32");
    REFUSED(wrong.gate.row_bytes = 399, SFFN_ERR_SHAPE, "row_bytes 399 400");
    REFUSED(wrong.n_layers = 2, SFFN_ERR_INVALID_ARGUMENT, "n_layers 2");
    w[2 * D + 5] = NAN;
    REFUSED((void)0, SFFN_ERR_INVALID_ARGUMENT, "gate element 5 row 2 nan");
}

/* methods.md 14.19: what gate-first and a low-rank predictor read, of the layer's bytes. The shapes of 7B and 13B divided by 64 have their shares. */
static void toy_14_19_cost(void **state)
{
    (void)state;
    static const struct {
        uint32_t d, f, rank;
        double share;
    } shapes[] = {{64, 172, 16, 0.11434109}, {80, 216, 16, 0.09135802}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        float *zeros = calloc((size_t)shapes[k].d * shapes[k].f, sizeof *zeros);
        sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
        sffn_predictor *predictor = NULL;
        config.kind = SFFN_PREDICTOR_LOW_RANK;
        config.d_model = shapes[k].d;
        config.d_ff = shapes[k].f;
        config.rank = shapes[k].rank;
        config.w1.data = config.w2.data = zeros;
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        CHECK_WITHIN((double)sffn_predictor_weight_bytes(predictor) /
                         (3.0 * 4 * shapes[k].d * shapes[k].f),
                     shapes[k].share, 1e-8, "rank %u", (unsigned)shapes[k].rank);
        sffn_predictor_destroy(predictor);
        free(zeros);
    }
    enum { W = 32, ROWS = 2500 };
    static const struct {
        uint32_t n_active;
        double share;
    } cases[] = {{267, 0.4045333}, {0, 1 / 3.0}, {ROWS, 1}};
    float *rows = calloc((size_t)W * ROWS, sizeof *rows),
          *ones = calloc((size_t)W * ROWS, sizeof *ones);
    float x[W], y[W];
    for (int j = 0; j < W; j++)
        x[j] = 1;
    for (size_t i = 0; i < (size_t)W * ROWS; i++)
        ones[i] = 1;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        sffn_ffn *ffn = NULL;
        for (size_t i = 0; i < ROWS; i++)
            rows[i * W] = i < cases[k].n_active ? 1.0f : -1.0f;
        layer.d_model = W;
        layer.d_ff = ROWS;
        layer.gate.data = rows;
        layer.up.data = layer.down.data = ones;
        layer.down.layout = SFFN_LAYOUT_ROWS;
        CHECK_OK(ctx, sffn_ffn_create(ctx, &layer, &ffn));
        args.x = x;
        args.y = y;
        args.n_tokens = 1;
        args.stats = &stats;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        CHECK_WITHIN((double)stats.touched_bytes / (3.0 * 4 * W * ROWS), cases[k].share, 1e-7,
                     "%u active", (unsigned)cases[k].n_active);
        sffn_ffn_destroy(ffn);
    }
    free(rows);
    free(ones);
}

static void info(void **state)
{
    (void)state;
    static float w1[32 * 64], w2[8 * 32];
    sffn_predictor_config config = low_rank_of(64, 8, 32, w1, w2);
    config.decision = SFFN_DECIDE_TOP_K;
    config.top_k = 3;
    config.top_k_multiple = 4;
    config.dtype = SFFN_BF16;
    config.hidden_activation = SFFN_HIDDEN_TANH;
    config.input = SFFN_INPUT_RESIDUAL;
    config.tie = SFFN_TIE_KEEP;
    config.threshold = 0.25f;
    sffn_predictor *predictor = NULL;
    sffn_predictor_info info = SFFN_PREDICTOR_INFO_INIT;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    CHECK_OK(ctx, sffn_predictor_get_info(predictor, &info));
    CHECK(info.kind == SFFN_PREDICTOR_LOW_RANK && info.d_model == 64 && info.d_ff == 8);
    CHECK(info.n_layers == 1 && info.rank == 32 && info.dtype == SFFN_BF16 && info.top_k == 4);
    CHECK(info.hidden_activation == SFFN_HIDDEN_TANH && info.input == SFFN_INPUT_RESIDUAL);
    CHECK(info.decision == SFFN_DECIDE_TOP_K && info.tie == SFFN_TIE_KEEP);
    CHECK(info.threshold == 0.25f && !info.has_thresholds && info.margin == 0.0f);
    CHECK(info.weight_bytes == 2 * (32 * 64 + 8 * 32));
    CHECK(info.weight_bytes == sffn_predictor_weight_bytes(predictor));
    CHECK_ERROR(ctx, sffn_predictor_get_info(predictor, NULL), SFFN_ERR_INVALID_ARGUMENT, "NULL");
    CHECK(sffn_predictor_get_info(NULL, &info) == SFFN_ERR_INVALID_ARGUMENT);
    sffn_predictor_destroy(predictor);
}

/* The config, its arrays and the gate may go away after creation. */
static void everything_is_copied(void **state)
{
    (void)state;
    float *rows = malloc(8 * 64 * sizeof *rows), *bias = malloc(8 * sizeof *bias),
          *thresholds = malloc(8 * sizeof *thresholds);
    CHECK(rows && bias && thresholds);
    for (size_t i = 0; i < 8 * 64; i++)
        rows[i] = (float)(i % 7) - 3.0f;
    for (size_t i = 0; i < 8; i++) {
        bias[i] = (float)i;
        thresholds[i] = 3.5f;
    }
    sffn_predictor_config config = config_of(8, 64);
    config.gate.data = rows;
    config.gate_bias = bias;
    config.thresholds = thresholds;
    sffn_predictor *predictor = NULL;
    CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
    memset(rows, 0xFF, 8 * 64 * sizeof *rows);
    memset(bias, 0xFF, 8 * sizeof *bias);
    memset(thresholds, 0xFF, 8 * sizeof *thresholds);
    free(rows);
    free(bias);
    free(thresholds);
    float x[64] = {0}, scores[8];
    sffn_active_set *set = make_set(ctx, NULL, 1, 8, 1);
    CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, 64, 1, scores, 8, set));
    for (uint32_t i = 0; i < 8; i++) /* x = 0: the score is the bias */
        CHECK(scores[i] == (float)i && sffn_active_set_contains(set, 0, i) == (i > 3));
    sffn_active_set_destroy(set);
    sffn_predictor_destroy(predictor);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, config_errors);
    CASE(&cases, argument_errors);
    CASE(&cases, weight_bytes_are_the_copys);
    CASE(&cases, exact_rows_by_hand);
    CASE(&cases, everything_is_copied);
    CASE(&cases, top_k);
    CASE(&cases, thresholds_and_ties);
    CASE(&cases, callback);
    CASE(&cases, toy_14_13_relu_inside);
    CASE(&cases, low_rank_errors);
    CASE(&cases, several_layers);
    CASE(&cases, gate_svd);
    CASE(&cases, toy_14_14_sign_packing);
    CASE(&cases, toy_14_15_vote);
    CASE(&cases, signs);
    CASE(&cases, toy_14_19_cost);
    CASE(&cases, info);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "predictor");
    sffn_context_destroy(ctx);
    return failed;
}
