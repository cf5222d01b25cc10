#include <math.h>
#include <string.h>

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

/* 1 when v does not pass t. NaN passes, so that it is seen. */
static int fails(const struct sffn_ffn *ffn, uint32_t neuron, float v)
{
    const float t = ffn->rule_thresholds ? ffn->rule_thresholds[neuron] : ffn->rule_threshold;
    return ffn->rule_tie == SFFN_TIE_KEEP ? v < t : v <= t;
}

int sffn_gate_drops(const struct sffn_ffn *ffn, uint32_t neuron, float s)
{
    if (s == 0)
        return 1;
    switch (ffn->rule) {
    case SFFN_RULE_SCORE:
        return fails(ffn, neuron, s);
    case SFFN_RULE_ABS_SCORE:
        return fails(ffn, neuron, fabsf(s));
    default:
        return 0;
    }
}

int sffn_h_drops(const struct sffn_ffn *ffn, uint32_t neuron, float h)
{
    return h == 0 || (ffn->rule == SFFN_RULE_ABS_H && fails(ffn, neuron, fabsf(h)));
}

int sffn_gate_is_threshold(const struct sffn_ffn *ffn, float *t, int *keep_equal)
{
    if (ffn->rule == SFFN_RULE_SCORE || ffn->rule == SFFN_RULE_ABS_SCORE)
        return 0;
    *t = 0;
    *keep_equal = 0;
    switch (ffn->activation) {
    case SFFN_ACT_RELU:
    case SFFN_ACT_DRELU:
        return 1;
    case SFFN_ACT_FATRELU: /* at t = 0 an equal gate keeps a zero */
        *keep_equal = ffn->act_tie == SFFN_TIE_KEEP && ffn->act_threshold > 0;
        *t = ffn->act_threshold;
        return 1;
    default:
        return 0; /* ReLU2 and shifted ReLU can underflow to zero above their threshold: the general path sees that */
    }
}

int sffn_gate_can_skip(const struct sffn_ffn *ffn)
{
    return ffn->rule != SFFN_RULE_NONE ||
           (ffn->activation != SFFN_ACT_SILU && ffn->activation != SFFN_ACT_GELU_ERF &&
            ffn->activation != SFFN_ACT_GELU_TANH);
}
