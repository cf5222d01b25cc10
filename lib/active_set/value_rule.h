/* value_rule.h  A rule over a vector of values, for sets and for layers. ABOVE and ABS_ABOVE look at one value; the others at all first. */
#ifndef SFFN_LIB_VALUE_RULE_H
#define SFFN_LIB_VALUE_RULE_H
#include <math.h>
#include "active_set/top_k.h"
#include "sparseffn/active_set.h"

/* Checks a rule for n values; `what` names it in the error text: "rule.", or a layer's "blk.3: rule_". */
sffn_status sffn_value_rule_check(const sffn_context *ctx, const char *what,
                                  const sffn_value_rule *rule, size_t n);

static inline int sffn_value_rule_needs_all(const sffn_value_rule *rule)
{
    return rule->kind >= SFFN_VALUE_TOP_K;
}

/* ABOVE, ABS_ABOVE: does v, the i-th value, pass? NaN does, so that it is seen. */
static inline int sffn_value_passes(const sffn_value_rule *rule, size_t i, float v)
{
    const float t = rule->thresholds ? rule->thresholds[i] : rule->threshold;
    if (rule->kind == SFFN_VALUE_ABS_ABOVE)
        v = fabsf(v);
    return rule->tie == SFFN_TIE_KEEP ? !(v < t) : !(v <= t);
}

/* The others: values are cut in stretches, one for all or one per block of m. */
static inline size_t sffn_value_rule_stretch(const sffn_value_rule *rule, size_t n)
{
    return rule->kind == SFFN_VALUE_BLOCK_TOP_K ? rule->m : n;
}
/* The cut of the values [first, first + n) of v, a whole stretch. Scratch as sffn_top_k(). */
struct sffn_cut sffn_value_rule_cut(const sffn_value_rule *rule, const float *v, size_t first,
                                    size_t n, uint32_t *counts, uint32_t *keys);
static inline int sffn_value_rule_keeps(const sffn_value_rule *rule, struct sffn_cut cut, size_t i,
                                        float v)
{
    return sffn_cut_keeps(
        cut, rule->kind == SFFN_VALUE_STATISTICAL_TOP_K ? sffn_float_key(v) : sffn_float_abs_key(v),
        i);
}

#endif /* SFFN_LIB_VALUE_RULE_H */
