/* slice.c  Configs of a layer and its selector, cut down to some of the neurons. */
#include "base/checked.h"
#include "base/context.h"
#include "sparseffn/ffn.h"

struct slice {
    const sffn_context *ctx;
    const char *name;
    uint32_t d_ff, first, n; /* neurons */
};

static sffn_status check_slice(const struct slice *s)
{
    if (s->n == 0 || s->first > s->d_ff || s->n > s->d_ff - s->first)
        return sffn_fail(s->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: first is %u, n_neurons %u; expected neurons among the layer's %u",
                         s->name, (unsigned)s->first, (unsigned)s->n, (unsigned)s->d_ff);
    return SFFN_OK;
}

/* Moves *w to its rows, or columns, [first, first + n) of `whole`. n_cols: elements of a neuron. */
static sffn_status cut_weights(const struct slice *s, const char *which, uint32_t first, uint32_t n,
                               uint32_t whole, uint32_t n_cols, sffn_weights *w)
{
    if (!w->data)
        return SFFN_OK;
    const size_t block = sffn_dtype_block_size(w->dtype);
    const int is_rows = w->layout == SFFN_LAYOUT_ROWS;
    if (block == 0 || (!is_rows && w->layout != SFFN_LAYOUT_COLUMNS))
        return sffn_fail(s->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: %s.dtype is %d, %s.layout %d; expected values of enum sffn_dtype and "
                         "enum sffn_layout",
                         s->name, which, (int)w->dtype, which, (int)w->layout);
    if (!is_rows && (first % block != 0 || n % block != 0))
        return sffn_fail(
            s->ctx, SFFN_ERR_SHAPE,
            "%s: first is %u, n_neurons %u; expected multiples of %zu: %s is %s, and a "
            "block holds so many neurons",
            s->name, (unsigned)first, (unsigned)n, block, which, sffn_dtype_name(w->dtype));
    const size_t length = is_rows ? n_cols : whole; /* of a stored row, in elements */
    const size_t row_bytes = w->row_bytes ? w->row_bytes : sffn_dtype_row_bytes(w->dtype, length);
    size_t offset = is_rows ? 0 : sffn_dtype_row_bytes(w->dtype, first);
    if (row_bytes == 0 || (is_rows && !sffn_checked_mul(first, row_bytes, &offset)))
        return sffn_fail(s->ctx, SFFN_ERR_SHAPE,
                         "%s: %s has stored rows of %zu elements of %s; expected a multiple of %zu "
                         "that fits in memory",
                         s->name, which, length, sffn_dtype_name(w->dtype), block);
    w->data = (const uint8_t *)w->data + offset;
    w->row_bytes = row_bytes;
    return SFFN_OK;
}

static const float *cut_floats(const float *v, uint32_t first)
{
    return v ? v + first : NULL;
}

/* A rule that compares the neurons of a token with each other sees only the slice's. */
static sffn_status check_rule(const struct slice *s, const sffn_ffn_config *c)
{
    switch (c->rule) {
    case SFFN_RULE_TOP_K_SCORE:
    case SFFN_RULE_TOP_K_H:
    case SFFN_RULE_STATISTICAL_SCORE:
    case SFFN_RULE_STATISTICAL_H:
        return sffn_fail(s->ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: rule %s compares all neurons of a token; a slice cannot decide it",
                         s->name, sffn_rule_name(c->rule));
    case SFFN_RULE_BLOCK_TOP_K_SCORE:
    case SFFN_RULE_BLOCK_TOP_K_H:
        if (c->rule_m == 0 || s->first % c->rule_m != 0 ||
            (s->n % c->rule_m != 0 && s->n != s->d_ff - s->first))
            return sffn_fail(s->ctx, SFFN_ERR_SHAPE,
                             "%s: first is %u, n_neurons %u; expected multiples of rule_m = %u",
                             s->name, (unsigned)s->first, (unsigned)s->n, (unsigned)c->rule_m);
        return SFFN_OK;
    default:
        return SFFN_OK;
    }
}

sffn_status sffn_ffn_config_slice(const sffn_context *ctx, sffn_ffn_config *config, uint32_t first,
                                  uint32_t n_neurons)
{
    sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_ffn_config", &c, sizeof(c), config);
    if (status != SFFN_OK)
        return status;
    const struct slice s = {ctx, c.name ? c.name : "ffn", c.d_ff, first, n_neurons};
    if ((status = check_slice(&s)) != SFFN_OK || (status = check_rule(&s, &c)) != SFFN_OK)
        return status;
    if (c.predictor || c.router)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: config.%s is set, and it is the whole layer's: set one made from a "
                         "slice afterwards",
                         s.name, c.predictor ? "predictor" : "router");
    const struct {
        const char *which;
        sffn_weights *weights;
    } parts[] = {{"gate", &c.gate}, {"up", &c.up}, {"down", &c.down}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        if ((status = cut_weights(&s, parts[i].which, first, n_neurons, c.d_ff, c.d_model,
                                  parts[i].weights)) != SFFN_OK)
            return status;
    c.gate_bias = cut_floats(c.gate_bias, first);
    c.up_bias = cut_floats(c.up_bias, first);
    c.rule_thresholds = cut_floats(c.rule_thresholds, first);
    if (first > 0) /* added once */
        c.down_bias = NULL;
    c.d_ff = n_neurons;
    return sffn_info_copy(ctx, "sffn_ffn_config", config, &c, sizeof(c));
}

sffn_status sffn_predictor_config_slice(const sffn_context *ctx, sffn_predictor_config *config,
                                        uint32_t first, uint32_t n_neurons)
{
    sffn_predictor_config c = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_predictor_config", &c, sizeof(c), config);
    if (status != SFFN_OK)
        return status;
    const struct slice s = {ctx, "predictor", c.d_ff, first, n_neurons};
    if ((status = check_slice(&s)) != SFFN_OK)
        return status;
    if (c.decision == SFFN_DECIDE_TOP_K || c.n_layers != 1 || c.kind == SFFN_PREDICTOR_CALLBACK ||
        c.kind == SFFN_PREDICTOR_GATE_SVD)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "predictor: kind is %d, decision %d, n_layers %u; expected a threshold, "
                         "one layer, and neither a callback nor an SVD that is yet to be made",
                         (int)c.kind, (int)c.decision, (unsigned)c.n_layers);
    const int is_low_rank = c.kind == SFFN_PREDICTOR_LOW_RANK;
    status = cut_weights(&s, is_low_rank ? "w2" : "gate", first, n_neurons, c.d_ff,
                         is_low_rank ? c.rank : c.d_model, is_low_rank ? &c.w2 : &c.gate);
    if (status != SFFN_OK)
        return status;
    c.gate_bias = cut_floats(c.gate_bias, first);
    c.thresholds = cut_floats(c.thresholds, first);
    c.b2 = cut_floats(c.b2, first);
    c.d_ff = n_neurons;
    return sffn_info_copy(ctx, "sffn_predictor_config", config, &c, sizeof(c));
}

sffn_status sffn_router_config_slice(const sffn_context *ctx, sffn_router_config *config,
                                     uint32_t first, uint32_t n_neurons)
{
    sffn_router_config c = SFFN_ROUTER_CONFIG_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_router_config", &c, sizeof(c), config);
    if (status != SFFN_OK)
        return status;
    const uint64_t d_ff = (uint64_t)c.n_experts * c.block_size;
    if (d_ff > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: %u experts of %u neurons; expected at most 2147483647 neurons",
                         (unsigned)c.n_experts, (unsigned)c.block_size);
    const struct slice s = {ctx, "router", (uint32_t)d_ff, first, n_neurons};
    if ((status = check_slice(&s)) != SFFN_OK)
        return status;
    if (first % c.block_size != 0 || n_neurons % c.block_size != 0)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "router: first is %u, n_neurons %u; expected multiples of block_size = %u",
                         (unsigned)first, (unsigned)n_neurons, (unsigned)c.block_size);
    if (c.rule != SFFN_ROUTER_SIGMOID ||
        (c.weighting != SFFN_WEIGHTING_NONE && c.weighting != SFFN_WEIGHTING_SIGMOID))
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "router: rule is %d, weighting %d, which compare all experts; run the "
                         "whole router and hand in sffn_active_set_set_slice()",
                         (int)c.rule, (int)c.weighting);
    const uint32_t expert = first / c.block_size, n_experts = n_neurons / c.block_size;
    status = cut_weights(&s, "weights", expert, n_experts, c.n_experts,
                         c.n_hidden ? c.n_hidden : c.d_model, &c.weights);
    if (status != SFFN_OK)
        return status;
    c.bias = cut_floats(c.bias, expert);
    c.n_experts = n_experts;
    return sffn_info_copy(ctx, "sffn_router_config", config, &c, sizeof(c));
}
