/* The floor of a layer's gate (lib/ffn/ffn.h): what it drops is dropped by activation and rule as well, and where it says that it is exact, all
 * else is kept as it is. Every activation with every rule, at, just below and just above the thresholds. */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "check.h"
#include "ffn/ffn.h"

static sffn_context *ctx;

static const float thresholds[] = {0.0f, 1e-30f, 0.3f, 1.0f, 7.0f};
#define N_THRESHOLDS (sizeof thresholds / sizeof *thresholds)

struct seen {
    unsigned layers, floors, exact, with_abs, dropped;
};

static void check_gate(const struct sffn_ffn *ffn, const struct sffn_gate_floor *f, float g,
                       struct seen *seen)
{
    const float s = sffn_activate(ffn, g);
    const int drops = sffn_gate_drops(ffn, 0, s), is_below = sffn_below_floor(f, g);
    seen->dropped += (unsigned)is_below;
    CHECK_SAYS(!is_below || drops, "%s, rule %s: the floor %g drops g = %g, whose s = %g counts",
               sffn_activation_name(ffn->activation), sffn_rule_name(ffn->rule), (double)f->t,
               (double)g, (double)s);
    CHECK_SAYS(is_below || !f->is_exact || (!drops && memcmp(&s, &g, sizeof s) == 0),
               "%s, rule %s: the exact floor %g keeps g = %g, but s = %g%s",
               sffn_activation_name(ffn->activation), sffn_rule_name(ffn->rule), (double)f->t,
               (double)g, (double)s, drops ? " is dropped" : "");
}

static void check_layer(const struct sffn_ffn *ffn, struct seen *seen)
{
    struct sffn_gate_floor f;
    seen->layers++;
    if (!sffn_gate_floor(ffn, &f))
        return;
    seen->floors++;
    seen->exact += (unsigned)f.is_exact;
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
                for (size_t r = 0; r < N_THRESHOLDS; r++)
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
                        c.rule_threshold = thresholds[r];
                        c.rule_thresholds = ties & 4 ? of_each : NULL;
                        c.rule_k = c.rule_m = 1;
                        c.rule_sparsity = 0.5f;
                        if (sffn_ffn_set_rule(ctx, &c, "test", &ffn) == SFFN_OK)
                            check_layer(&ffn, &seen);
                    }
    /* Every kind was there. */
    CHECK(seen.floors > seen.layers / 2 && seen.floors < seen.layers);
    CHECK(seen.exact > 0 && seen.with_abs > 0 && seen.dropped > seen.floors * 100);
}

int main(void)
{
    struct cases cases = {0};
    ctx = make_context(1, NULL);
    CASE(&cases, drops_what_the_layer_drops);
    const int failed = cases_run(&cases, "gate floor");
    sffn_context_destroy(ctx);
    return failed;
}
