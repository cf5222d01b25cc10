/* The toy layers of methods.md 14 that a forward pass can show: values, thresholds and ties
 * computed by hand. */
#include <math.h>

#include "check.h"

static sffn_context *ctx;

/* A layer of d_model 1 and identity-like weights: g_i = gate[i] * x, u_i = up[i] * x, y = sum h_i
 * down[i]. */
struct toy {
    sffn_ffn_config config;
    const float *gate, *up, *down; /* [F]; gate NULL: ungated */
    float h[16], y[16];
    sffn_ffn_stats stats;
    sffn_active_set *active;
};

static struct toy toy_of(uint32_t d_ff, const float *gate, const float *up, const float *down)
{
    static const float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    struct toy toy = {.config = SFFN_FFN_CONFIG_INIT, .stats = SFFN_FFN_STATS_INIT};
    toy.config.d_model = 1;
    toy.config.d_ff = d_ff;
    toy.config.gate.data = gate;
    toy.config.up.data = up ? up : ones;
    toy.config.down.data = down ? down : ones;
    return toy;
}

static void toy_run(struct toy *toy, const float *x)
{
    sffn_active_set_config set = SFFN_ACTIVE_SET_CONFIG_INIT;
    set.n_blocks = toy->config.d_ff;
    CHECK_OK(ctx, sffn_active_set_create(ctx, &set, &toy->active));
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &toy->config, &ffn));
    for (int i = 0; i < 16; i++)
        toy->h[i] = toy->y[i] = NAN;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = toy->y;
    args.h = toy->h;
    args.n_tokens = 1;
    args.stats = &toy->stats;
    args.active_out = toy->active;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    sffn_ffn_destroy(ffn);
}

static void toy_free(struct toy *toy)
{
    sffn_active_set_destroy(toy->active);
}

/* Neurons that are active, as bits. */
static unsigned active_bits(const struct toy *toy)
{
    unsigned bits = 0;
    for (uint32_t i = 0; i < toy->config.d_ff; i++)
        bits |= (unsigned)sffn_active_set_contains(toy->active, 0, i) << i;
    return bits;
}

static const float one = 1.0f;

/* 14.2: t = 0.01. The paper keeps a tie, the released kernel drops it. */
static void toy_14_2_fatrelu_ties(void **state)
{
    (void)state;
    static const float g[] = {-1.0f, 0.0f, 0.005f, 0.01f, 0.02f};
    static const float paper[] = {0, 0, 0, 0.01f, 0.02f}, kernel[] = {0, 0, 0, 0, 0.02f};
    for (int32_t tie = SFFN_TIE_DROP; tie <= SFFN_TIE_KEEP; tie++)
        for (int is_gated = 0; is_gated < 2; is_gated++) {
            struct toy toy = toy_of(5, is_gated ? g : NULL, is_gated ? NULL : g, NULL);
            toy.config.activation = SFFN_ACT_FATRELU;
            toy.config.act_threshold = 0.01f;
            toy.config.act_tie = tie;
            toy_run(&toy, &one);
            CHECK_BITS(toy.h, tie == SFFN_TIE_KEEP ? paper : kernel, 5, "tie %d, gated %d",
                       (int)tie, is_gated);
            CHECK(active_bits(&toy) == (tie == SFFN_TIE_KEEP ? 0x18u : 0x10u));
            CHECK(toy.stats.n_active == (tie == SFFN_TIE_KEEP ? 2u : 1u));
            toy_free(&toy);
        }
    struct toy toy = toy_of(5, g, NULL, NULL); /* KEEP, the paper's formula, is the default */
    CHECK(toy.config.act_tie == SFFN_TIE_KEEP);
    /* in bf16, 0.01 is 0.010009765625: above t = 0.01f, and tied with t of the same value */
    static const uint16_t bf16 = 0x3c24;
    for (int32_t tie = SFFN_TIE_DROP; tie <= SFFN_TIE_KEEP; tie++)
        for (int is_tied = 0; is_tied < 2; is_tied++) {
            toy = toy_of(1, NULL, NULL, NULL);
            toy.config.up.data = &bf16;
            toy.config.up.dtype = SFFN_BF16;
            toy.config.activation = SFFN_ACT_FATRELU;
            toy.config.act_threshold = is_tied ? 0.010009765625f : 0.01f;
            toy.config.act_tie = tie;
            toy_run(&toy, &one);
            CHECK(toy.y[0] == (is_tied && tie == SFFN_TIE_DROP ? 0.0f : 0.010009765625f));
            toy_free(&toy);
        }
}

/* 14.2: g >= t and g > t are both false for NaN; it must be kept all the same, by every activation
 * and rule. */
static void toy_14_2_nan_is_kept(void **state)
{
    (void)state;
    static const float g[] = {-1.0f, NAN, 1.0f};
    static const int32_t rules[] = {SFFN_RULE_NONE, SFFN_RULE_SCORE, SFFN_RULE_ABS_SCORE,
                                    SFFN_RULE_ABS_H};
    for (int32_t act = SFFN_ACT_RELU; act <= SFFN_ACT_SHIFTED_RELU; act++)
        for (size_t r = 0; r < 4; r++)
            for (int32_t tie = 0; tie < 2; tie++) {
                struct toy toy = toy_of(3, g, NULL, NULL);
                toy.config.activation = act;
                toy.config.act_threshold = 0.01f;
                toy.config.act_tie = tie;
                toy.config.rule = rules[r];
                toy.config.rule_tie = tie;
                toy.config.rule_threshold = 0.25f;
                toy_run(&toy, &one);
                CHECK_SAYS(isnan(toy.h[1]) && isnan(toy.y[0]) && (active_bits(&toy) & 2u),
                           "activation %s, rule %d, tie %d: h = %g, y = %g",
                           sffn_activation_name(act), (int)rules[r], (int)tie, (double)toy.h[1],
                           (double)toy.y[0]);
                CHECK(toy.h[2] > 0.5f && !isnan(toy.h[0]));
                toy_free(&toy);
            }
}

/* 14.2: ShiftedReLU subtracts, FATReLU does not. */
static void toy_14_2_shifted_relu(void **state)
{
    (void)state;
    static const float g[] = {0.02f, 0.01f, 0.005f};
    struct toy toy = toy_of(3, g, NULL, NULL);
    toy.config.activation = SFFN_ACT_SHIFTED_RELU;
    toy.config.act_threshold = 0.01f;
    toy_run(&toy, &one);
    CHECK_WITHIN((double)toy.h[0], 0.01, 1e-6 * 0.01, "0.02 shifted by 0.01");
    CHECK(toy.h[1] == 0.0f && toy.h[2] == 0.0f);
    toy_free(&toy);
}

/* 14.3: d = 2, F = 3, in every layout of down. */
static void toy_14_3_gated_layer(void **state)
{
    (void)state;
    static const float x[] = {1, 2}, gate[] = {1, 0, -1, 0, 0, 0.004f}, up[] = {1, 1, 2, 0, -1, 1};
    static const float down_rows[] = {1, 0, 5, 5, 100, 0}, down_columns[] = {1, 5, 100, 0, 5, 0};
    for (int32_t layout = 0; layout < 2; layout++)
        for (int is_fat = 0; is_fat < 2; is_fat++) {
            struct toy toy = toy_of(3, gate, up, layout ? down_columns : down_rows);
            toy.config.d_model = 2;
            toy.config.down.layout = layout;
            toy.config.activation = is_fat ? SFFN_ACT_FATRELU : SFFN_ACT_RELU;
            toy.config.act_threshold = 0.01f;
            toy_run(&toy, x);
            CHECK_WITHIN((double)toy.h[0], 3.0, 0.0, "h[0]");
            CHECK_WITHIN((double)toy.h[1], 0.0, 0.0, "h[1]");
            CHECK_WITHIN((double)toy.h[2], is_fat ? 0.0 : 0.008, 1e-6 * 0.008, "h[2]");
            CHECK_WITHIN((double)toy.y[0], is_fat ? 3.0 : 3.8, 1e-6 * 3.8, "y[0]");
            CHECK_WITHIN((double)toy.y[1], 0.0, 0.0, "y[1]");
            CHECK(toy.stats.n_selected == 3 &&
                  toy.stats.n_active == (is_fat ? 1u : 2u)); /* zeros of h: 2/3, 1/3 */
            double l1 = (double)toy.h[0] + (double)toy.h[1] + (double)toy.h[2];
            CHECK_WITHIN(l1, is_fat ? 3.0 : 3.008, 1e-6, "L1 norm of h");
            if (is_fat) /* the CETT of D = {neuron 2} */
                CHECK_WITHIN((3.8 - (double)toy.y[0]) / 3.8, 0.2105263, 1e-6, "relative error");
            toy_free(&toy);
        }
}

/* 14.4: activation values. */
static void toy_14_4_activations(void **state)
{
    (void)state;
    static const float g[] = {1, -1, 2, -0.5f}, u[] = {-2, 3, 4, -1};
    struct toy toy = toy_of(4, g, u, NULL);
    toy.config.activation = SFFN_ACT_DRELU;
    toy_run(&toy, &one);
    CHECK_BITS(toy.h, ((const float[]){0, 0, 8, 0}), 4, "dReLU");
    CHECK(toy.stats.n_active == 2 &&
          toy.stats.n_nonzero == 1); /* up for two survivors, down for one */
    toy_free(&toy);
    toy = toy_of(4, g, u, NULL);
    toy_run(&toy, &one);
    CHECK_BITS(toy.h, ((const float[]){-2, 0, 8, 0}), 4, "ReGLU");
    CHECK(toy.stats.n_active == 2 && toy.stats.n_nonzero == 2);
    toy_free(&toy);

    static const float squares[] = {-1, 0.5f, 2};
    toy = toy_of(3, NULL, squares, NULL);
    toy.config.activation = SFFN_ACT_RELU2;
    toy_run(&toy, &one);
    CHECK_BITS(toy.h, ((const float[]){0, 0.25f, 4}), 3, "ReLU2");
    toy_free(&toy);
    static const float half = 0.5f, minus_three = -3;
    toy = toy_of(1, &half, &minus_three, NULL);
    toy.config.activation = SFFN_ACT_RELU2;
    toy_run(&toy, &one);
    CHECK(toy.h[0] == -0.75f); /* ReLU2-GLU */
    toy_free(&toy);
}

/* 14.4 and the textbook values of the smooth activations, to 1e-6. */
static void toy_14_4_smooth(void **state)
{
    (void)state;
    /* clang-format off */
    static const struct {
        int32_t activation;
        float g[4];
        double s[4];
    } table[] = {
        {SFFN_ACT_SILU, {1, -1, -1.2784645f, 0}, {0.7310585786, -0.2689414214, -0.2784645428, 0}},
        {SFFN_ACT_SILU, {20, -20, 88, -88}, {19.999999959, -4.122307e-8, 88, -5.328e-37}},
        {SFFN_ACT_GELU_ERF, {1, -1, 3, -3}, {0.8413447461, -0.1586552539, 2.9959503059, -0.0040496941}},
        {SFFN_ACT_GELU_TANH, {1, -1, 3, -3}, {0.8411919906, -0.1588080094, 2.9963626079, -0.0036373921}},
        {SFFN_ACT_GELU_ERF, {0.25f, -0.25f, 40, -40}, {0.1496765814, -0.1003234186, 40, 0}},
        {SFFN_ACT_GELU_TANH, {0.25f, -0.25f, 40, -40}, {0.1496753507, -0.1003246493, 40, 0}},
    };
    /* clang-format on */
    for (size_t k = 0; k < sizeof table / sizeof table[0]; k++) {
        struct toy toy = toy_of(4, NULL, table[k].g, NULL);
        toy.config.activation = table[k].activation;
        toy_run(&toy, &one);
        for (int i = 0; i < 4; i++)
            CHECK_WITHIN((double)toy.h[i], table[k].s[i], 1e-6 * fmax(1.0, fabs(table[k].s[i])),
                         "%s(%g)", sffn_activation_name(table[k].activation),
                         (double)table[k].g[i]);
        toy_free(&toy);
    }
}

/* Infinite gates: the limits of the smooth activations, no NaN where there is a limit on the
 * positive side. */
static void infinite_gates(void **state)
{
    (void)state;
    static const int32_t with_limit[] = {SFFN_ACT_RELU, SFFN_ACT_FATRELU, SFFN_ACT_RELU2,
                                         SFFN_ACT_DRELU, SFFN_ACT_SHIFTED_RELU};
    static const float g[] = {INFINITY, -INFINITY};
    for (size_t k = 0; k < 5; k++) {
        struct toy toy = toy_of(2, g, NULL, NULL);
        toy.config.activation = with_limit[k];
        toy_run(&toy, &one);
        CHECK_SAYS(toy.h[0] == INFINITY && toy.h[1] == 0.0f, "%s",
                   sffn_activation_name(with_limit[k]));
        CHECK(toy.y[0] == INFINITY); /* the inactive one is skipped */
        toy_free(&toy);
    }
}

/* 14.5: s = (1,0,2,0), u = (0,5,1,7): zeros of s 50 %, zeros of h 75 %. */
static void toy_14_5_zeros(void **state)
{
    (void)state;
    static const float s[] = {1, 0, 2, 0}, u[] = {0, 5, 1, 7};
    struct toy toy = toy_of(4, s, u, NULL);
    toy_run(&toy, &one);
    CHECK(active_bits(&toy) == 0x5u && toy.stats.n_active == 2);
    int zeros = 0;
    for (int i = 0; i < 4; i++)
        zeros += toy.h[i] == 0.0f;
    CHECK(zeros == 3 && toy.h[2] == 2.0f && toy.y[0] == 2.0f);
    toy_free(&toy);
}

/* 14.10, toy A: the norms |h_i| * ||column i|| are 3, 4, 0.6, 0.8; what is below eps (strictly) is
 * dropped. */
static void toy_14_10_cett(void **state)
{
    (void)state;
    static const float h[] = {3, 4, 0.6f, 0.8f}, columns[] = {1, 0, 0, 1, 1, 0, 0, -1},
                       x[] = {1, 0};
    static const float up[] = {3, 0, 4, 0, 0.6f, 0, 0.8f, 0}, gate[] = {1, 0, 1, 0, 1, 0, 1, 0};
    static const struct {
        float eps;
        unsigned kept;
        double cett;
    } table[] = {
        {0.6f, 0xf, 0},          {0.7f, 0xb, 0.1245682}, {0.8f, 0xb, 0.1245682},
        {0.81f, 0x3, 0.2076137}, {1, 0x3, 0.2076137},    {3, 0x3, 0.2076137},
        {3.5f, 0x2, 0.7656415},  {4, 0x2, 0.7656415},    {5, 0x0, 1},
    };
    double full[2] = {3.6, 3.2}, norm = 4.8166378;
    for (size_t k = 0; k < sizeof table / sizeof table[0]; k++)
        for (int is_vector = 0; is_vector < 2; is_vector++) {
            float thresholds[4] = {table[k].eps, table[k].eps, table[k].eps, table[k].eps};
            struct toy toy = toy_of(4, gate, up, columns);
            toy.config.d_model = 2;
            toy.config.rule = SFFN_RULE_ABS_H;
            toy.config.rule_tie = SFFN_TIE_KEEP;
            toy.config.rule_threshold = is_vector ? 1e9f : table[k].eps;
            toy.config.rule_thresholds = is_vector ? thresholds : NULL;
            toy_run(&toy, x);
            unsigned n_kept = 0;
            for (unsigned i = 0; i < 4; i++) {
                CHECK_SAYS(toy.h[i] == (table[k].kept >> i & 1 ? h[i] : 0.0f), "eps %g: h[%u] = %g",
                           (double)table[k].eps, i, (double)toy.h[i]);
                n_kept += table[k].kept >> i & 1;
            }
            CHECK(toy.stats.n_nonzero == n_kept &&
                  toy.stats.n_active == 4); /* the rule saves only down rows */
            double lost = hypot(full[0] - (double)toy.y[0], full[1] - (double)toy.y[1]) / norm;
            CHECK_WITHIN(lost, table[k].cett, 2e-6, "CETT of eps %g", (double)table[k].eps);
            toy_free(&toy);
        }
}

/* 14.10: eps 0.6 over column norms (1, 2, 0.5) gives t = (0.6, 0.3, 1.2); h = (0.5, -0.5, 1.0)
 * keeps only neuron 1. */
static void toy_14_10_per_neuron_thresholds(void **state)
{
    (void)state;
    static const float h[] = {0.5f, -0.5f, 1.0f}, gate[] = {1, 1, 1},
                       thresholds[] = {0.6f, 0.3f, 1.2f}, down[] = {1, 2, 0.5f};
    struct toy toy = toy_of(3, gate, h, down);
    toy.config.rule = SFFN_RULE_ABS_H;
    toy.config.rule_thresholds = thresholds;
    toy_run(&toy, &one);
    CHECK_BITS(toy.h, ((const float[]){0, -0.5f, 0}), 3, "h");
    CHECK(toy.y[0] == -1.0f);
    toy_free(&toy);
}

/* 14.16: CHESS thresholds (0.5, 0.25, 0.125) on |s| = (0.4, 0.3, 0.1) keep neuron 1; CATS with 0.25
 * keeps 0 and 1. */
static void toy_14_16_chess_and_cats(void **state)
{
    (void)state;
    static const float s[] = {0.4f, 0.3f, 0.1f}, chess[] = {0.5f, 0.25f, 0.125f};
    static const int32_t rules[] = {SFFN_RULE_SCORE, SFFN_RULE_ABS_SCORE, SFFN_RULE_ABS_H};
    for (size_t r = 0; r < 3; r++) {
        struct toy toy = toy_of(3, s, NULL, NULL);
        toy.config.rule = rules[r];
        toy.config.rule_thresholds = chess;
        toy_run(&toy, &one);
        CHECK_BITS(toy.h, ((const float[]){0, 0.3f, 0}), 3, "CHESS with rule %d", (int)rules[r]);
        toy_free(&toy);
        toy = toy_of(3, s, NULL, NULL);
        toy.config.rule = rules[r];
        toy.config.rule_threshold = 0.25f;
        toy_run(&toy, &one);
        CHECK_BITS(toy.h, ((const float[]){0.4f, 0.3f, 0}), 3, "CATS with rule %d", (int)rules[r]);
        toy_free(&toy);
    }
}

/* Exact ties of every rule: CATS drops (>), CHESS keeps (>=); default is drop. SCORE looks at the
 * sign, ABS_SCORE does not. */
static void rule_ties(void **state)
{
    (void)state;
    static const float g[] = {0.5f, 0.25f, 0.75f}, t = 0.5f;
    static const int32_t rules[] = {SFFN_RULE_SCORE, SFFN_RULE_ABS_SCORE, SFFN_RULE_ABS_H};
    for (size_t r = 0; r < 3; r++)
        for (int32_t tie = 0; tie < 2; tie++)
            for (int is_vector = 0; is_vector < 2; is_vector++) {
                const float thresholds[] = {t, t, t};
                struct toy toy = toy_of(3, g, NULL, NULL);
                CHECK(toy.config.rule_tie == SFFN_TIE_DROP);
                toy.config.rule = rules[r];
                toy.config.rule_tie = tie;
                toy.config.rule_threshold = is_vector ? 0.0f : t;
                toy.config.rule_thresholds = is_vector ? thresholds : NULL;
                toy_run(&toy, &one);
                CHECK_SAYS(toy.h[0] == (tie == SFFN_TIE_KEEP ? 0.5f : 0.0f) && toy.h[1] == 0.0f &&
                               toy.h[2] == 0.75f,
                           "rule %d, tie %d, vector %d: %g %g %g", (int)rules[r], (int)tie,
                           is_vector, (double)toy.h[0], (double)toy.h[1], (double)toy.h[2]);
                toy_free(&toy);
            }
    /* SiLU(-1) = -0.2689: |s| passes 0.25, s does not; h = s * u with u = -1 has the same size */
    static const float minus[] = {-1};
    static const unsigned kept[] = {0, 1, 1};
    for (size_t r = 0; r < 3; r++) {
        struct toy toy = toy_of(1, minus, minus, NULL);
        toy.config.activation = SFFN_ACT_SILU;
        toy.config.rule = rules[r];
        toy.config.rule_threshold = 0.25f;
        toy_run(&toy, &one);
        CHECK_SAYS((toy.h[0] != 0.0f) == kept[r], "rule %d: h = %g", (int)rules[r],
                   (double)toy.h[0]);
        toy_free(&toy);
    }
}

/* A zero of the activation is skipped even by a rule that would keep zero. */
static void zeros_of_the_activation_are_skipped(void **state)
{
    (void)state;
    static const float g[] = {-1, 0, 1};
    static const int32_t rules[] = {SFFN_RULE_SCORE, SFFN_RULE_ABS_SCORE, SFFN_RULE_ABS_H};
    for (size_t r = 0; r < 3; r++) {
        struct toy toy = toy_of(3, g, NULL, NULL);
        toy.config.rule = rules[r];
        toy.config.rule_tie = SFFN_TIE_KEEP;
        toy.config.rule_threshold = 0.0f;
        toy_run(&toy, &one);
        CHECK_SAYS(active_bits(&toy) == 0x4u && toy.stats.n_active == 1, "rule %d: active %x",
                   (int)rules[r], active_bits(&toy));
        toy_free(&toy);
    }
}

/* Dense runs everything and does not apply the rule; the activation's own threshold stays. */
static void dense_ignores_the_rule(void **state)
{
    (void)state;
    static const float g[] = {0.5f, 2, 3}, x = 1.0f;
    struct toy toy = toy_of(3, g, NULL, NULL);
    toy.config.activation = SFFN_ACT_FATRELU;
    toy.config.act_threshold = 1.0f;
    toy.config.rule = SFFN_RULE_SCORE;
    toy.config.rule_threshold = 2.5f;
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &toy.config, &ffn));
    static const struct {
        int32_t select;
        float h[3], y;
    } table[] = {{SFFN_SELECT_DEFAULT, {0, 0, 3}, 3},
                 {SFFN_SELECT_GATE, {0, 0, 3}, 3},
                 {SFFN_SELECT_DENSE, {0, 2, 3}, 5}};
    for (size_t k = 0; k < 3; k++) {
        float h[3], y;
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = &x;
        args.y = &y;
        args.h = h;
        args.n_tokens = 1;
        args.select = table[k].select;
        args.stats = &toy.stats;
        CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
        CHECK_BITS(h, table[k].h, 3, "select %d", (int)table[k].select);
        CHECK(y == table[k].y);
        CHECK((toy.stats.path == SFFN_PATH_SPARSE) == (table[k].select != SFFN_SELECT_DENSE));
        CHECK(toy.stats.n_selected == 3);
    }
    sffn_ffn_destroy(ffn);
}

/* 14.11 as a rule on h = 1 * v, gated, and on s. */
static void toy_14_11_rules(void **state)
{
    (void)state;
    static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    static const float v[8] = {1, -3, 2, 0.5f, -0.2f, 0.1f, 0.3f, -4}, tied[3] = {2, -2, 2};
    static const struct {
        int32_t rule;
        uint32_t k, m;
        unsigned want; /* of v */
    } table[] = {{SFFN_RULE_TOP_K_H, 4, 0, 0x87u},
                 {SFFN_RULE_TOP_K_H, 9, 0, 0xFFu},
                 {SFFN_RULE_BLOCK_TOP_K_H, 2, 4, 0xC6u},
                 {SFFN_RULE_BLOCK_TOP_K_H, 1, 5, 0x82u}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct toy toy = toy_of(8, ones, v, NULL);
        toy.config.rule = table[i].rule;
        toy.config.rule_k = table[i].k;
        toy.config.rule_m = table[i].m;
        toy_run(&toy, &one);
        float sum = 0;
        for (unsigned n = 0; n < 8; n++) {
            const float h = table[i].want >> n & 1 ? v[n] : 0;
            CHECK_SAYS(toy.h[n] == h, "case %zu: h[%u] %g", i, n, (double)toy.h[n]);
            sum += h;
        }
        CHECK_WITHIN((double)toy.y[0], (double)sum, 1e-6, "case %zu", i);
        CHECK(active_bits(&toy) == 0xFFu && toy.stats.n_active == 8);
        toy_free(&toy);
    }
    struct toy toy = toy_of(3, ones, tied, NULL);
    toy.config.rule = SFFN_RULE_TOP_K_H;
    toy.config.rule_k = 2;
    toy_run(&toy, &one);
    CHECK(toy.h[0] == 2 && toy.h[1] == -2 && toy.h[2] == 0 && toy.stats.n_nonzero == 2);
    toy_free(&toy);
    /* s: ReLU leaves {1, 2, 0.5, 0.1, 0.3}; the up rows of the others are not needed */
    toy = toy_of(8, v, NULL, NULL);
    toy.config.rule = SFFN_RULE_TOP_K_SCORE;
    toy.config.rule_k = 2;
    toy_run(&toy, &one);
    CHECK(active_bits(&toy) == 0x05u && toy.stats.n_active == 2 && toy.stats.n_nonzero == 2);
    CHECK(toy.y[0] == 3);
    toy_free(&toy);
    /* zeros count: mean of {2, 0, 0, 0} is 0.5, its std 0.866 */
    static const float g[4] = {2, -1, -1, 0};
    toy = toy_of(4, g, NULL, NULL);
    toy.config.rule = SFFN_RULE_STATISTICAL_SCORE;
    toy.config.rule_sparsity = 0.95f; /* 0.5 + 0.866 * 1.645 = 1.92 */
    toy_run(&toy, &one);
    CHECK(active_bits(&toy) == 1u);
    toy_free(&toy);
    toy.config.rule_sparsity = 0.96f; /* 0.5 + 0.866 * 1.751 = 2.02 */
    toy_run(&toy, &one);
    CHECK(active_bits(&toy) == 0u && toy.y[0] == 0);
    toy_free(&toy);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, toy_14_2_fatrelu_ties);
    CASE(&cases, toy_14_2_nan_is_kept);
    CASE(&cases, toy_14_2_shifted_relu);
    CASE(&cases, toy_14_3_gated_layer);
    CASE(&cases, toy_14_4_activations);
    CASE(&cases, toy_14_4_smooth);
    CASE(&cases, infinite_gates);
    CASE(&cases, toy_14_5_zeros);
    CASE(&cases, toy_14_10_cett);
    CASE(&cases, toy_14_10_per_neuron_thresholds);
    CASE(&cases, toy_14_16_chess_and_cats);
    CASE(&cases, rule_ties);
    CASE(&cases, toy_14_11_rules);
    CASE(&cases, zeros_of_the_activation_are_skipped);
    CASE(&cases, dense_ignores_the_rule);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "toys");
    sffn_context_destroy(ctx);
    return failed;
}
