/* The floor of a layer's scores (lib/ffn/ffn.h): it drops what activation and rule drop, no more and no less; and where it is one of the gate, what it
 * keeps is kept as it is. Every activation with every rule, at, just below and just above the thresholds. */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "check.h"
#include "ffn/ffn.h"

static sffn_context *ctx;

/* Rules have their negatives, too. */
static const float thresholds[] = {0.0f, 1e-30f, 0.3f, 1.0f, 7.0f};
#define N_THRESHOLDS (sizeof thresholds / sizeof *thresholds)

struct seen {
    unsigned layers, floors, of_gate, with_abs, dropped;
};

static int is_below(const struct sffn_score_floor *f, float v)
{
    if (f->use_abs)
        v = fabsf(v);
    return f->keep_equal ? v < f->t : v <= f->t;
}

static void check_gate(const struct sffn_ffn *ffn, const struct sffn_score_floor *f, float g,
                       struct seen *seen)
{
    const float s = sffn_activate_one(ffn, g);
    const int drops = sffn_gate_drops(ffn, 0, s), below = is_below(f, f->is_gate ? g : s);
    seen->dropped += (unsigned)below;
    CHECK_SAYS(below == drops, "%s, rule %s: the floor %g %s g = %g, and s = %g %s",
               sffn_activation_name(ffn->activation), sffn_rule_name(ffn->rule), (double)f->t,
               below ? "drops" : "keeps", (double)g, (double)s, drops ? "is dropped" : "counts");
    CHECK_SAYS(below || !f->is_gate || memcmp(&s, &g, sizeof s) == 0,
               "%s, rule %s: the floor %g is one of the gate, but of g = %g it makes s = %g",
               sffn_activation_name(ffn->activation), sffn_rule_name(ffn->rule), (double)f->t,
               (double)g, (double)s);
}

static void check_layer(const struct sffn_ffn *ffn, struct seen *seen)
{
    struct sffn_score_floor f;
    seen->layers++;
    if (!sffn_score_floor(ffn, &f))
        return;
    seen->floors++;
    seen->of_gate += (unsigned)f.is_gate;
    seen->with_abs += (unsigned)f.use_abs;
    const float special[] = {0.0f,    -0.0f,    NAN,         -NAN,    INFINITY, -INFINITY,
                             FLT_MIN, -FLT_MIN, FLT_MIN / 8, FLT_MAX, -FLT_MAX, 1e-20f};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        check_gate(ffn, &f, special[i], seen);
    for (size_t i = 0; i < N_THRESHOLDS; i++) {
        const float near[] = {thresholds[i], nextafterf(thresholds[i], -INFINITY),
                              nextafterf(thresholds[i], INFINITY)};
        for (size_t k = 0; k < 3; k++) {
            check_gate(ffn, &f, near[k], seen);
            check_gate(ffn, &f, -near[k], seen);
            check_gate(ffn, &f, sqrtf(near[k] > 0 ? near[k] : 0), seen);
        }
    }
    for (float g = -9.0f; g < 9.0f; g += 0.01f)
        check_gate(ffn, &f, g, seen);
}

static void drops_what_the_layer_drops(void **state)
{
    (void)state;
    static const float of_each[1] = {0.4f};
    const sffn_ffn_config init = SFFN_FFN_CONFIG_INIT;
    struct seen seen = {0, 0, 0, 0, 0};
    for (int32_t activation = SFFN_ACT_RELU;
         strcmp(sffn_activation_name(activation), "unknown") != 0; activation++)
        for (int32_t rule = SFFN_RULE_NONE; strcmp(sffn_rule_name(rule), "unknown") != 0; rule++)
            for (size_t a = 0; a < N_THRESHOLDS; a++)
                for (size_t r = 0; r < 2 * N_THRESHOLDS; r++)
                    for (int ties = 0; ties < 8; ties++) {
                        struct sffn_ffn ffn;
                        sffn_ffn_config c = init;
                        memset(&ffn, 0, sizeof ffn);
                        ffn.activation = activation;
                        ffn.act_threshold = thresholds[a];
                        ffn.act_tie = ties & 1 ? SFFN_TIE_KEEP : SFFN_TIE_DROP;
                        c.d_ff = 1;
                        c.rule = rule;
                        c.rule_tie = ties & 2 ? SFFN_TIE_KEEP : SFFN_TIE_DROP;
                        c.rule_threshold =
                            r < N_THRESHOLDS ? thresholds[r] : -thresholds[r - N_THRESHOLDS];
                        c.rule_thresholds = ties & 4 ? of_each : NULL;
                        c.rule_k = c.rule_m = 1;
                        c.rule_sparsity = 0.5f;
                        if (sffn_ffn_set_rule(ctx, &c, "test", &ffn) == SFFN_OK)
                            check_layer(&ffn, &seen);
                    }
    /* Every kind was there. */
    CHECK(seen.floors > seen.layers / 2 && seen.floors < seen.layers);
    CHECK(seen.of_gate > 0 && seen.with_abs > 0 && seen.dropped > seen.floors * 100);
}

int main(void)
{
    struct cases cases = {0};
    ctx = make_context(1, NULL);
    CASE(&cases, drops_what_the_layer_drops);
    const int failed = cases_run(&cases, "score floor");
    sffn_context_destroy(ctx);
    return failed;
}
