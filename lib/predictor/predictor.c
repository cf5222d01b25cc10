#include "predictor/predictor.h"

#include <math.h>

#include "base/context.h"

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
    if (isnan(c->threshold))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "predictor: threshold is NaN");
    if (!(c->margin >= 0) || isinf(c->margin))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: margin is %g; expected a finite number >= 0",
                         (double)c->margin);
    for (uint32_t i = 0; c->thresholds && i < c->d_ff; i++)
        if (isnan(c->thresholds[i]))
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "predictor: thresholds[%u] is NaN",
                             (unsigned)i);
    return SFFN_OK;
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
    p->scorer.block_size = 1;
    p->scorer.limit = c.threshold;
    p->scorer.margin = c.margin;
    switch (c.kind) {
    case SFFN_PREDICTOR_SCREENED_GATE:
        status = sffn_screened_gate_init(ctx, p, &c);
        break;
    }
    p->scorer.bias = sffn_copy_floats(ctx, "gate_bias", c.gate_bias, c.d_ff, &status);
    p->scorer.limits = sffn_copy_floats(ctx, "thresholds", c.thresholds, c.d_ff, &status);
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
    sffn_scorer_fini(p->ctx, &p->scorer);
    sffn_mem_free(p->ctx, p, sizeof(*p));
}

sffn_status sffn_predictor_predict(sffn_context *ctx, const sffn_predictor *p, const float *x,
                                   size_t x_stride, size_t n_tokens, float *scores,
                                   size_t scores_stride, sffn_active_set *active)
{
    if (!ctx || !p)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "predictor" : "ctx");
    return sffn_scorer_call(ctx, &p->scorer, x, x_stride, n_tokens, scores, scores_stride, active);
}

uint64_t sffn_predictor_weight_bytes(const sffn_predictor *p)
{
    return p ? sffn_scorer_weight_bytes(&p->scorer) : 0;
}
