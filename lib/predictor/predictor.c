#include "predictor/predictor.h"

#include <math.h>

#include "base/context.h"

static sffn_status check_decision(const sffn_context *ctx, const sffn_predictor_config *c)
{
    if (c->decision < 0 || c->decision > SFFN_DECIDE_TOP_K)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: decision is %d; expected a value of enum sffn_decision",
                         (int)c->decision);
    if (c->tie != SFFN_TIE_DROP && c->tie != SFFN_TIE_KEEP)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: tie is %d; expected a value of enum sffn_tie", (int)c->tie);
    if (isnan(c->threshold))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "predictor: threshold is NaN");
    for (uint32_t i = 0; c->thresholds && i < c->d_ff; i++)
        if (isnan(c->thresholds[i]))
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "predictor: thresholds[%u] is NaN",
                             (unsigned)i);
    if (c->decision != SFFN_DECIDE_TOP_K)
        return SFFN_OK;
    if (c->thresholds)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: thresholds are set, and SFFN_DECIDE_TOP_K has none");
    if (c->top_k == 0 || c->top_k > c->d_ff)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: top_k is %u; expected 1..%u, the neurons", (unsigned)c->top_k,
                         (unsigned)c->d_ff);
    if (c->top_k_multiple == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: top_k_multiple is 0; expected at least 1");
    return SFFN_OK;
}

/* k rounded up to a multiple, at most n. */
static uint32_t round_up(uint32_t k, uint32_t multiple, uint32_t n)
{
    const uint64_t rounded = multiple ? ((uint64_t)k + multiple - 1) / multiple * multiple : k;
    return rounded < n ? (uint32_t)rounded : n;
}

static sffn_status check_config(const sffn_context *ctx, const sffn_predictor_config *c)
{
    if (c->kind != SFFN_PREDICTOR_SCREENED_GATE)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: kind is %d; expected a value of enum sffn_predictor_kind",
                         (int)c->kind);
    if (c->d_model == 0 || c->d_ff == 0 || c->d_model > INT32_MAX || c->d_ff > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: d_model %u, d_ff %u; expected 1..2147483647",
                         (unsigned)c->d_model, (unsigned)c->d_ff);
    if (!(c->margin >= 0) || isinf(c->margin))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: margin is %g; expected a finite number >= 0",
                         (double)c->margin);
    return check_decision(ctx, c);
}

sffn_status sffn_predictor_create(sffn_context *ctx, const sffn_predictor_config *config,
                                  sffn_predictor **out)
{
    if (!ctx || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "predictor" : "ctx");
    *out = NULL;
    sffn_predictor_config c = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_predictor_config", &c, sizeof(c), config);
    if (status == SFFN_OK)
        status = check_config(ctx, &c);
    if (status != SFFN_OK)
        return status;
    sffn_predictor *p = sffn_mem_alloc_zero(ctx, sizeof(*p));
    if (!p)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for a predictor");
    p->ctx = ctx;
    p->kind = c.kind;
    struct sffn_selector *s = &p->selector;
    s->n_inputs = c.d_model;
    s->n_rows = c.d_ff;
    s->block_size = 1;
    s->scorer.limit = c.threshold;
    s->scorer.keep_equal = c.tie == SFFN_TIE_KEEP;
    s->scorer.margin = c.margin;
    s->decision = c.decision;
    s->top_k = round_up(c.top_k, c.top_k_multiple, c.d_ff);
    switch (c.kind) {
    case SFFN_PREDICTOR_SCREENED_GATE:
        status = sffn_screened_gate_init(ctx, p, &c);
        break;
    }
    sffn_selector_add_decision(s);
    s->scorer.bias = sffn_copy_floats(ctx, "gate_bias", c.gate_bias, c.d_ff, &status);
    s->scorer.limits = sffn_copy_floats(ctx, "thresholds", c.thresholds, c.d_ff, &status);
    if (status != SFFN_OK) {
        sffn_predictor_destroy(p);
        return status;
    }
    *out = p;
    return SFFN_OK;
}

void sffn_predictor_destroy(sffn_predictor *p)
{
    if (!p)
        return;
    sffn_selector_fini(p->ctx, &p->selector);
    sffn_mem_free(p->ctx, p, sizeof(*p));
}

sffn_status sffn_predictor_predict(sffn_context *ctx, const sffn_predictor *p, const float *x,
                                   size_t x_stride, size_t n_tokens, float *scores,
                                   size_t scores_stride, sffn_active_set *active)
{
    if (!ctx || !p)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "predictor" : "ctx");
    return sffn_selector_call(ctx, &p->selector, x, x_stride, n_tokens, scores, scores_stride,
                              active);
}

uint64_t sffn_predictor_weight_bytes(const sffn_predictor *p)
{
    return p ? sffn_selector_weight_bytes(&p->selector) : 0;
}
