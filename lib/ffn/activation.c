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

float sffn_activate(const struct sffn_ffn *ffn, float g)
{
    switch (ffn->activation) {
    case SFFN_ACT_FATRELU: /* the value is kept, not shifted */
        return (ffn->act_tie == SFFN_TIE_KEEP ? g < ffn->act_threshold : g <= ffn->act_threshold)
                   ? 0.0f
                   : g;
    case SFFN_ACT_SHIFTED_RELU:
        return g <= ffn->act_threshold ? 0.0f : g - ffn->act_threshold;
    case SFFN_ACT_RELU2:
        return g <= 0 ? 0.0f : g * g;
    case SFFN_ACT_SILU:
        return g / (1.0f + expf(-g));
    case SFFN_ACT_GELU_ERF:
        return 0.5f * g * (1.0f + erff(g * 0.70710678118654752f));
    case SFFN_ACT_GELU_TANH:
        return 0.5f * g * (1.0f + tanhf(0.79788456080286536f * g * (1.0f + 0.044715f * g * g)));
    default:
        return g <= 0 ? 0.0f : g; /* ReLU, dReLU */
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

int sffn_gate_floor(const struct sffn_ffn *ffn, struct sffn_gate_floor *f)
{
    const struct sffn_gate_floor zero = {.t = 0};
    int has_zeros = 1, is_bounded = 0; /* is_bounded: |s| <= |g|, and s has the sign of g */
    *f = zero;
    switch (ffn->activation) {
    case SFFN_ACT_RELU:
    case SFFN_ACT_DRELU:
        f->is_exact = is_bounded = 1;
        break;
    case SFFN_ACT_FATRELU: /* at t = 0 an equal gate keeps a zero */
        f->keep_equal = ffn->act_tie == SFFN_TIE_KEEP && ffn->act_threshold > 0;
        f->t = ffn->act_threshold;
        f->is_exact = is_bounded = 1;
        break;
    case SFFN_ACT_RELU2: /* these two can underflow to zero above it */
        break;
    case SFFN_ACT_SHIFTED_RELU:
        f->t = ffn->act_threshold;
        break;
    case SFFN_ACT_SILU:
    case SFFN_ACT_GELU_ERF:
    case SFFN_ACT_GELU_TANH:
        has_zeros = 0;
        is_bounded = 1;
        break;
    default:
        return 0;
    }
    if (ffn->rule_on != SFFN_ON_S)
        return has_zeros;
    f->is_exact = 0;
    const sffn_value_rule *rule = &ffn->value_rule;
    if (!is_bounded || sffn_value_rule_needs_all(rule) || rule->thresholds ||
        !(rule->threshold > f->t))
        return has_zeros;
    /* s > t needs g >= t, and |s| > t needs |g| >= t. */
    f->t = rule->threshold;
    f->keep_equal = 1;
    f->keep_infinite = !has_zeros;
    f->use_abs = !has_zeros && rule->kind == SFFN_VALUE_ABS_ABOVE;
    return 1;
}

int sffn_gate_can_skip(const struct sffn_ffn *ffn)
{
    return ffn->rule != SFFN_RULE_NONE ||
           (ffn->activation != SFFN_ACT_SILU && ffn->activation != SFFN_ACT_GELU_ERF &&
            ffn->activation != SFFN_ACT_GELU_TANH);
}
