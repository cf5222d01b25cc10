#include "router/router.h"

#include <math.h>

#include "base/context.h"

static sffn_status check_rule(const sffn_context *ctx, const sffn_router_config *c)
{
    switch (c->rule) {
    case SFFN_ROUTER_SIGMOID:
        if (c->threshold > 0 && c->threshold < 1)
            return SFFN_OK;
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: threshold is %g; expected a number in (0, 1)",
                         (double)c->threshold);
    case SFFN_ROUTER_TOP_K:
        if (c->top_k >= 1 && c->top_k <= c->n_experts)
            return SFFN_OK;
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: top_k is %u; expected 1..%u, the experts", (unsigned)c->top_k,
                         (unsigned)c->n_experts);
    case SFFN_ROUTER_MASS:
        if (c->mass > 0 && c->mass <= 1)
            return SFFN_OK;
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: mass is %g; expected a number in (0, 1]", (double)c->mass);
    }
    return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                     "router: rule is %d; expected a value of enum sffn_router_rule", (int)c->rule);
}

static sffn_status check_config(const sffn_context *ctx, const sffn_router_config *c)
{
    const struct {
        const char *field;
        int32_t value, count;
    } enums[] = {{"normalize_input", c->normalize_input, 2},
                 {"weighting", c->weighting, SFFN_WEIGHTING_SOFTMAX_SELECTED + 1},
                 {"input", c->input, SFFN_INPUT_FIRST_LAYER + 1}};
    if (c->n_experts == 0 || c->d_model == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: n_experts %u, d_model %u; expected both > 0",
                         (unsigned)c->n_experts, (unsigned)c->d_model);
    if (c->block_size == 0 || (uint64_t)c->n_experts * c->block_size > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: n_experts %u, block_size %u; expected 1..2147483647 neurons",
                         (unsigned)c->n_experts, (unsigned)c->block_size);
    for (size_t i = 0; i < sizeof(enums) / sizeof(*enums); i++)
        if (enums[i].value < 0 || enums[i].value >= enums[i].count)
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "router: %s is %d; expected 0..%d",
                             enums[i].field, (int)enums[i].value, (int)enums[i].count - 1);
    if (c->n_hidden == 0 && (c->hidden_weights.data || c->hidden_bias))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: n_hidden is 0, and hidden_weights or hidden_bias is set");
    sffn_status status = check_rule(ctx, c);
    if (status == SFFN_OK)
        status = sffn_check_no_nan(ctx, "router", "bias", c->bias, c->n_experts);
    if (status == SFFN_OK)
        status = sffn_check_no_nan(ctx, "router", "hidden_bias", c->hidden_bias, c->n_hidden);
    return status;
}

static sffn_status init_selector(sffn_context *ctx, struct sffn_selector *s,
                                 const sffn_router_config *c)
{
    sffn_status status = SFFN_OK;
    s->n_inputs = c->d_model;
    s->n_rows = c->n_experts;
    s->n_groups = 1;
    s->block_size = c->block_size;
    s->normalizes = c->normalize_input;
    s->hidden_activation = SFFN_HIDDEN_TANH;
    s->rule = (enum sffn_select_rule)c->rule;
    /* sigmoid(score) > threshold, without an exponential */
    if (c->rule == SFFN_ROUTER_SIGMOID)
        s->scorer.limit = (float)log((double)c->threshold / (1.0 - (double)c->threshold));
    s->top_k = c->top_k;
    s->mass = c->mass;
    s->weighting = c->weighting;
    s->decides_later = c->rule != SFFN_ROUTER_SIGMOID || c->weighting != SFFN_WEIGHTING_NONE;
    if (c->n_hidden > 0) {
        status = sffn_selector_pack(ctx, "router: hidden_weights", &c->hidden_weights, c->n_hidden,
                                    c->d_model, -1, &s->hidden);
        sffn_selector_add_step(s, sffn_select_hidden);
    }
    if (status == SFFN_OK)
        status = sffn_selector_pack(ctx, "router: weights", &c->weights, c->n_experts,
                                    c->n_hidden > 0 ? c->n_hidden : c->d_model, -1, &s->scorer.m);
    sffn_selector_add_step(s, c->n_hidden > 0 ? sffn_select_from_hidden : sffn_select_linear);
    sffn_selector_add_decision(s);
    s->hidden_bias = sffn_copy_floats(ctx, "hidden_bias", c->hidden_bias, c->n_hidden, &status);
    s->scorer.bias = sffn_copy_floats(ctx, "bias", c->bias, c->n_experts, &status);
    return status;
}

sffn_status sffn_router_create(sffn_context *ctx, const sffn_router_config *config,
                               sffn_router **out)
{
    if (!ctx || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "router" : "ctx");
    *out = NULL;
    sffn_router_config c = SFFN_ROUTER_CONFIG_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_router_config", &c, sizeof(c), config);
    if (status == SFFN_OK)
        status = check_config(ctx, &c);
    if (status != SFFN_OK)
        return status;
    sffn_router *r = sffn_mem_alloc_zero(ctx, sizeof(*r));
    if (!r)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "the allocator returned NULL for a router");
    r->ctx = ctx;
    r->threshold = c.threshold;
    r->input = c.input;
    status = init_selector(ctx, &r->selector, &c);
    if (status != SFFN_OK) {
        sffn_router_destroy(r);
        return status;
    }
    *out = r;
    return SFFN_OK;
}

void sffn_router_destroy(sffn_router *r)
{
    if (!r)
        return;
    sffn_selector_fini(r->ctx, &r->selector);
    sffn_mem_free(r->ctx, r, sizeof(*r));
}

sffn_status sffn_router_select(sffn_context *ctx, const sffn_router *r, const float *x,
                               size_t x_stride, size_t n_tokens, float *scores,
                               size_t scores_stride, sffn_active_set *active)
{
    if (!ctx || !r)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "router" : "ctx");
    return sffn_selector_call(ctx, &r->selector, x, x_stride, n_tokens, scores, scores_stride,
                              active ? &active : NULL, NULL);
}

uint64_t sffn_router_weight_bytes(const sffn_router *r)
{
    return r ? sffn_selector_weight_bytes(&r->selector) : 0;
}

sffn_status sffn_router_get_info(const sffn_router *r, sffn_router_info *info)
{
    if (!r)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "router is NULL");
    const struct sffn_selector *s = &r->selector;
    sffn_router_info i = SFFN_ROUTER_INFO_INIT;
    i.d_model = s->n_inputs;
    i.n_experts = s->n_rows;
    i.block_size = s->block_size;
    i.n_hidden = s->hidden.n_rows;
    i.dtype = s->scorer.m.dtype;
    i.rule = (int32_t)s->rule;
    i.threshold = s->rule == SFFN_SELECT_THRESHOLD ? r->threshold : 0;
    i.top_k = s->rule == SFFN_SELECT_TOP_K ? s->top_k : 0;
    i.mass = s->rule == SFFN_SELECT_MASS ? s->mass : 0;
    i.weighting = s->weighting;
    i.normalize_input = s->normalizes;
    i.input = r->input;
    i.weight_bytes = sffn_selector_weight_bytes(s);
    return sffn_info_copy(r->ctx, "sffn_router_info", info, &i, sizeof(i));
}
