#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "ffn/ffn.h"

static const char *const names[] = {"relu", "fatrelu", "relu2",     "drelu",
                                    "silu", "gelu",    "gelu_tanh", "shifted_relu"};

const char *sffn_activation_name(int32_t activation)
{
    return activation >= 0 && activation < (int32_t)(sizeof(names) / sizeof(*names))
               ? names[activation]
               : "unknown";
}

int32_t sffn_activation_from_name(const char *name)
{
    for (int32_t i = 0; name && i < (int32_t)(sizeof(names) / sizeof(*names)); i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

void sffn_activate(const struct sffn_kernels *k, const struct sffn_ffn *ffn, float *g, size_t n)
{
    const float t = ffn->act_threshold;
    switch (ffn->activation) {
    case SFFN_ACT_FATRELU: /* the value is kept, not shifted */
        for (size_t i = 0; ffn->act_tie == SFFN_TIE_KEEP && i < n; i++)
            g[i] = g[i] < t ? 0.0f : g[i];
        for (size_t i = 0; ffn->act_tie != SFFN_TIE_KEEP && i < n; i++)
            g[i] = g[i] <= t ? 0.0f : g[i];
        break;
    case SFFN_ACT_SHIFTED_RELU:
        for (size_t i = 0; i < n; i++)
            g[i] = g[i] <= t ? 0.0f : g[i] - t;
        break;
    case SFFN_ACT_RELU2:
        for (size_t i = 0; i < n; i++)
            g[i] = g[i] <= 0 ? 0.0f : g[i] * g[i];
        break;
    case SFFN_ACT_SILU:
    case SFFN_ACT_GELU_ERF:
    case SFFN_ACT_GELU_TANH:
        k->activate.fn(g, n, ffn->activation);
        break;
    default: /* ReLU, dReLU */
        for (size_t i = 0; i < n; i++)
            g[i] = g[i] <= 0 ? 0.0f : g[i];
    }
}

/* In the order of enum sffn_rule. */
static const struct {
    const char *name;
    enum sffn_rule_on on;
    int32_t kind;
} rules[] = {
    {"none", SFFN_ON_NOTHING, SFFN_VALUE_ABOVE},
    {"score", SFFN_ON_S, SFFN_VALUE_ABOVE},
    {"abs_score", SFFN_ON_S, SFFN_VALUE_ABS_ABOVE},
    {"abs_h", SFFN_ON_H, SFFN_VALUE_ABS_ABOVE},
    {"top_k_score", SFFN_ON_S, SFFN_VALUE_TOP_K},
    {"top_k_h", SFFN_ON_H, SFFN_VALUE_TOP_K},
    {"block_top_k_score", SFFN_ON_S, SFFN_VALUE_BLOCK_TOP_K},
    {"block_top_k_h", SFFN_ON_H, SFFN_VALUE_BLOCK_TOP_K},
    {"statistical_score", SFFN_ON_S, SFFN_VALUE_STATISTICAL_TOP_K},
    {"statistical_h", SFFN_ON_H, SFFN_VALUE_STATISTICAL_TOP_K},
};

const char *sffn_rule_name(int32_t rule)
{
    return rule >= 0 && rule < (int32_t)(sizeof(rules) / sizeof(*rules)) ? rules[rule].name
                                                                         : "unknown";
}

int32_t sffn_rule_from_name(const char *name)
{
    for (int32_t i = 0; name && i < (int32_t)(sizeof(rules) / sizeof(*rules)); i++)
        if (strcmp(name, rules[i].name) == 0)
            return i;
    return -1;
}

sffn_status sffn_ffn_set_rule(const sffn_context *ctx, const sffn_ffn_config *c, const char *name,
                              struct sffn_ffn *ffn)
{
    const sffn_value_rule init = SFFN_VALUE_RULE_INIT;
    char what[96];
    ffn->rule = c->rule;
    ffn->rule_on = rules[c->rule].on;
    ffn->value_rule = init;
    ffn->value_rule.kind = rules[c->rule].kind;
    ffn->value_rule.tie = c->rule_tie;
    ffn->value_rule.threshold = c->rule_threshold;
    ffn->value_rule.thresholds = c->rule_thresholds;
    ffn->value_rule.k = c->rule_k;
    ffn->value_rule.m = c->rule_m;
    ffn->value_rule.sparsity = c->rule_sparsity;
    const int is_top_k =
        ffn->value_rule.kind == SFFN_VALUE_TOP_K || ffn->value_rule.kind == SFFN_VALUE_BLOCK_TOP_K;
    if (is_top_k && c->rule_k == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: rule_k is 0: rule %s would keep nothing; expected > 0", name,
                         rules[c->rule].name);
    snprintf(what, sizeof(what), "%s: rule_", name);
    return sffn_value_rule_check(ctx, what, &ffn->value_rule, c->d_ff);
}

int sffn_rule_drops(const struct sffn_ffn *ffn, uint32_t neuron, float v)
{
    return !sffn_value_rule_needs_all(&ffn->value_rule) &&
           !sffn_value_passes(&ffn->value_rule, neuron, v);
}

int sffn_score_floor(const struct sffn_ffn *ffn, struct sffn_score_floor *f)
{
    const sffn_value_rule *rule = &ffn->value_rule;
    const struct sffn_score_floor not_zero = {.use_abs = 1}, positive = {.is_gate = 1};
    *f = not_zero;
    if (ffn->activation == SFFN_ACT_RELU || ffn->activation == SFFN_ACT_DRELU ||
        ffn->activation == SFFN_ACT_FATRELU)
        *f = positive;
    if (ffn->activation == SFFN_ACT_FATRELU) { /* at t = 0 an equal gate keeps a zero */
        f->t = ffn->act_threshold;
        f->keep_equal = ffn->act_tie == SFFN_TIE_KEEP && ffn->act_threshold > 0;
    }
    if (ffn->rule_on != SFFN_ON_S)
        return 1;
    if (sffn_value_rule_needs_all(rule) || rule->thresholds)
        return 0;
    const int has_sign = rule->kind == SFFN_VALUE_ABOVE && !f->is_gate;
    if (has_sign && !(rule->threshold >= 0)) /* all but zero above a number below it */
        return 0;
    const int keep_equal = rule->tie == SFFN_TIE_KEEP;
    if (rule->threshold > f->t) {
        f->t = rule->threshold;
        f->keep_equal = keep_equal;
    } else if (rule->threshold == f->t) {
        f->keep_equal = f->keep_equal && keep_equal;
    }
    f->use_abs = f->use_abs && !has_sign;
    return 1;
}

int sffn_gate_can_skip(const struct sffn_ffn *ffn)
{
    return ffn->rule != SFFN_RULE_NONE ||
           (ffn->activation != SFFN_ACT_SILU && ffn->activation != SFFN_ACT_GELU_ERF &&
            ffn->activation != SFFN_ACT_GELU_TANH);
}
