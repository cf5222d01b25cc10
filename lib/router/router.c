#include "router/router.h"

#include <math.h>

#include "base/checked.h"
#include "base/context.h"

static sffn_status check_config(const sffn_context *ctx, const sffn_router_config *c)
{
    if (c->rule != SFFN_ROUTER_SIGMOID)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: rule is %d; expected a value of enum sffn_router_rule",
                         (int)c->rule);
    if (!(c->threshold > 0 && c->threshold < 1))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: threshold is %g; expected a number in (0, 1)",
                         (double)c->threshold);
    if (c->n_experts == 0 || c->d_model == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: n_experts %u, d_model %u; expected both > 0",
                         (unsigned)c->n_experts, (unsigned)c->d_model);
    if (c->block_size == 0 || (uint64_t)c->n_experts * c->block_size > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: n_experts %u, block_size %u; expected 1..2147483647 neurons",
                         (unsigned)c->n_experts, (unsigned)c->block_size);
    if (c->weights.layout != SFFN_LAYOUT_ROWS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "router: weights.layout is %d; expected SFFN_LAYOUT_ROWS",
                         (int)c->weights.layout);
    return SFFN_OK;
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
    sffn_matmul_config mc = SFFN_MATMUL_CONFIG_INIT;
    mc.n_rows = c.n_experts;
    mc.n_cols = c.d_model;
    mc.weights = c.weights;
    struct sffn_pack_plan plan;
    if (status == SFFN_OK)
        status = sffn_pack_plan(ctx, "router", &mc, &plan);
    if (status != SFFN_OK)
        return status;
    sffn_router *r = sffn_mem_alloc_zero(ctx, sizeof(*r));
    if (!r)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "the allocator returned NULL for a router");
    r->ctx = ctx;
    struct sffn_selector *s = &r->selector;
    s->n_inputs = c.d_model;
    s->n_rows = c.n_experts;
    s->block_size = c.block_size;
    /* sigmoid(score) > threshold, without an exponential */
    s->scorer.limit = (float)log((double)c.threshold / (1.0 - (double)c.threshold));
    size_t bytes;
    uint8_t *data = NULL;
    if (!sffn_checked_mul(plan.row_bytes, plan.n_stored_rows, &bytes) ||
        !(data = sffn_mem_alloc_weights(ctx, bytes))) {
        status = sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                           "the allocator returned NULL for the router's weights");
    } else {
        sffn_matmul_init(ctx, &s->scorer.m, &mc, &plan, data, plan.row_bytes, 0);
        s->scorer.m.owned = data;
        s->scorer.m.owned_bytes = bytes;
        status = sffn_pack(ctx, &mc, &plan, data, plan.row_bytes);
    }
    sffn_selector_add_step(s, sffn_select_linear);
    sffn_selector_add_decision(s);
    s->scorer.bias = sffn_copy_floats(ctx, "bias", c.bias, c.n_experts, &status);
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
                              active);
}

uint64_t sffn_router_weight_bytes(const sffn_router *r)
{
    return r ? sffn_selector_weight_bytes(&r->selector) : 0;
}
