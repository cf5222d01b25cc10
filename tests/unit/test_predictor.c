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
    REFUSED(config.kind = 1, SFFN_ERR_INVALID_ARGUMENT, "kind 1");
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

static void top_k(void **state)
{
    (void)state;
    /* x picks column 0, and the gate's rows are 0: the biases are the scores */
    static const float scores[][8] = {
        {3, 1, 2, 2, 2, -1, 0, 5},
        {-0.0f, 0.0f, -0.0f, 0.0f, -1, -2, -3, -4},
        {1, 1, 1, 1, 1, 1, 1, 1},
        {NAN, 1, -NAN, INFINITY, -INFINITY, 2, 3e-45f, -3e-45f},
        {-1, -2, -3, -4, -1.0000001f, -1e38f, -1e-38f, -INFINITY},
    };
    static const uint32_t multiples[] = {1, 2, 3, 128};
    memset(gate, 0, sizeof gate);
    float x[64] = {1.0f};
    for (size_t c = 0; c < sizeof scores / sizeof scores[0]; c++)
        for (uint32_t k = 1; k <= 8; k++)
            for (size_t m = 0; m < 4; m++) {
                sffn_predictor_config config = config_of(8, 64);
                config.gate_bias = scores[c];
                config.decision = SFFN_DECIDE_TOP_K;
                config.top_k = k;
                config.top_k_multiple = multiples[m];
                sffn_predictor *predictor = NULL;
                sffn_active_set *set = make_set(ctx, NULL, 1, 8, 1);
                CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
                CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, 64, 1, NULL, 0, set));
                const uint32_t rounded = (k + multiples[m] - 1) / multiples[m] * multiples[m];
                for (uint32_t i = 0; i < 8; i++)
                    CHECK_SAYS(sffn_active_set_contains(set, 0, i) ==
                                   is_in_top_k(scores[c], 8, i, rounded),
                               "scores %zu, k %u up to a multiple of %u: neuron %u", c, (unsigned)k,
                               (unsigned)multiples[m], (unsigned)i);
                sffn_active_set_destroy(set);
                sffn_predictor_destroy(predictor);
            }
}

static void tie(void **state)
{
    (void)state;
    static const float biases[8] = {-1, 0, 1, 2, NAN, 1, -INFINITY, INFINITY};
    memset(gate, 0, sizeof gate);
    float x[64] = {0};
    for (int32_t tie = SFFN_TIE_DROP; tie <= SFFN_TIE_KEEP; tie++) {
        sffn_predictor_config config = config_of(8, 64);
        config.gate_bias = biases;
        config.threshold = 1.0f;
        config.tie = tie;
        sffn_predictor *predictor = NULL;
        sffn_active_set *set = make_set(ctx, NULL, 1, 8, 1);
        CHECK_OK(ctx, sffn_predictor_create(ctx, &config, &predictor));
        CHECK_OK(ctx, sffn_predictor_predict(ctx, predictor, x, 64, 1, NULL, 0, set));
        uint8_t bitmap;
        CHECK_OK(ctx, sffn_active_set_get_bitmap(set, 0, &bitmap));
        CHECK(bitmap == (tie == SFFN_TIE_KEEP ? 0xBC : 0x98));
        sffn_active_set_destroy(set);
        sffn_predictor_destroy(predictor);
    }
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
    CASE(&cases, tie);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "predictor");
    sffn_context_destroy(ctx);
    return failed;
}
