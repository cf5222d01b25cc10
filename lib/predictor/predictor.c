#include "predictor/predictor.h"

#include <math.h>

#include "base/context.h"

/* How kinds differ in what they ask of a config. */
static const struct {
    int32_t kind;
    int has_rank, has_layers;
    sffn_status (*init)(sffn_context *ctx, struct sffn_predictor *p,
                        const sffn_predictor_config *config);
} kinds[] = {
    {SFFN_PREDICTOR_SCREENED_GATE, 0, 0, sffn_screened_gate_init},
    {SFFN_PREDICTOR_LOW_RANK, 1, 1, sffn_low_rank_init},
    {SFFN_PREDICTOR_GATE_SVD, 1, 0, sffn_gate_svd_init},
    {SFFN_PREDICTOR_SIGN, 0, 0, sffn_signs_init},
    {SFFN_PREDICTOR_CALLBACK, 0, 1, sffn_callback_init},
    {SFFN_PREDICTOR_CASCADE, 0, 0, sffn_cascade_init},
};
enum { N_KINDS = sizeof(kinds) / sizeof(*kinds) };

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
    if (c->decision != SFFN_DECIDE_TOP_K)
        return sffn_check_no_nan(ctx, "predictor", "thresholds", c->thresholds,
                                 (size_t)c->n_layers * c->d_ff);
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
    const uint64_t rounded = ((uint64_t)k + multiple - 1) / multiple * multiple;
    return rounded < n ? (uint32_t)rounded : n;
}

static sffn_status check_config(const sffn_context *ctx, const sffn_predictor_config *c, int kind)
{
    if (c->d_model == 0 || c->d_ff == 0 || c->d_model > INT32_MAX || c->d_ff > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: d_model %u, d_ff %u; expected 1..2147483647",
                         (unsigned)c->d_model, (unsigned)c->d_ff);
    if (c->n_layers == 0 || (uint64_t)c->n_layers * c->d_ff > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: n_layers %u, d_ff %u; expected 1..2147483647 neurons in all",
                         (unsigned)c->n_layers, (unsigned)c->d_ff);
    if (c->n_layers > 1 && !kinds[kind].has_layers)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: n_layers is %u; this kind scores one layer",
                         (unsigned)c->n_layers);
    if (kinds[kind].has_rank && (c->rank == 0 || c->rank > INT32_MAX))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: rank is %u; expected 1..2147483647", (unsigned)c->rank);
    if (!(c->margin >= 0) || isinf(c->margin))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: margin is %g; expected a finite number >= 0",
                         (double)c->margin);
    if (c->input < 0 || c->input > SFFN_INPUT_FIRST_LAYER)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: input is %d; expected a value of enum sffn_selector_input",
                         (int)c->input);
    const struct {
        const char *what;
        const float *v;
        size_t n;
    } biases[] = {{"gate_bias", c->gate_bias, c->d_ff},
                  {"b1", c->b1, c->rank},
                  {"b2", c->b2, (size_t)c->n_layers * c->d_ff}};
    sffn_status status = check_decision(ctx, c);
    for (size_t i = 0; i < sizeof(biases) / sizeof(*biases) && status == SFFN_OK; i++)
        status = sffn_check_no_nan(ctx, "predictor", biases[i].what, biases[i].v, biases[i].n);
    return status;
}

sffn_status sffn_check_gate(const sffn_context *ctx, const sffn_predictor_config *c,
                            size_t *row_bytes)
{
    const sffn_weights *gate = &c->gate;
    const size_t min_bytes = sffn_dtype_row_bytes(gate->dtype, c->d_model);
    *row_bytes = gate->row_bytes ? gate->row_bytes : min_bytes;
    if (!gate->data)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "predictor: gate.data is NULL");
    if (sffn_dtype_block_size(gate->dtype) == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: gate.dtype is %d; expected a value of enum sffn_dtype",
                         (int)gate->dtype);
    if (gate->layout != SFFN_LAYOUT_ROWS)
        return sffn_fail(
            ctx,
            gate->layout == SFFN_LAYOUT_COLUMNS ? SFFN_ERR_UNSUPPORTED : SFFN_ERR_INVALID_ARGUMENT,
            "predictor: gate.layout is %d; expected SFFN_LAYOUT_ROWS", (int)gate->layout);
    if (min_bytes == 0)
        return sffn_fail(
            ctx, SFFN_ERR_SHAPE, "predictor: d_model is %u; a gate of %s needs a multiple of %zu",
            (unsigned)c->d_model, sffn_dtype_name(gate->dtype), sffn_dtype_block_size(gate->dtype));
    if (*row_bytes < min_bytes)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "predictor: gate.row_bytes is %zu; %u %s elements take %zu", *row_bytes,
                         (unsigned)c->d_model, sffn_dtype_name(gate->dtype), min_bytes);
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
    if (status != SFFN_OK)
        return status;
    int kind = 0;
    while (kind < N_KINDS && kinds[kind].kind != c.kind)
        kind++;
    if (kind == N_KINDS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: kind is %d; expected a value of enum sffn_predictor_kind",
                         (int)c.kind);
    status = check_config(ctx, &c, kind);
    if (status != SFFN_OK)
        return status;
    sffn_predictor *p = sffn_mem_alloc_zero(ctx, sizeof(*p));
    if (!p)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for a predictor");
    p->ctx = ctx;
    p->info.kind = c.kind;
    p->info.decision = c.decision;
    p->info.input = c.input;
    struct sffn_selector *s = &p->selector;
    s->n_inputs = c.d_model;
    s->n_rows = c.n_layers * c.d_ff;
    s->n_groups = c.n_layers;
    s->block_size = 1;
    s->scorer.limit = c.threshold;
    s->scorer.keep_equal = c.tie == SFFN_TIE_KEEP;
    s->rule = (enum sffn_select_rule)c.decision;
    if (c.decision == SFFN_DECIDE_TOP_K) {
        s->top_k = round_up(c.top_k, c.top_k_multiple, c.d_ff);
        c.margin = 0; /* of a threshold: nobody would read what it needs */
    }
    s->decides_later = c.decision != SFFN_DECIDE_THRESHOLD;
    status = kinds[kind].init(ctx, p, &c);
    s->scorer.limits = sffn_copy_floats(ctx, "thresholds", c.thresholds, s->n_rows, &status);
    sffn_selector_add_decision(s);
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

static sffn_status check_handles(const sffn_context *ctx, const sffn_predictor *p)
{
    if (!ctx || !p)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "predictor" : "ctx");
    return SFFN_OK;
}

sffn_status sffn_predictor_predict(sffn_context *ctx, const sffn_predictor *p, const float *x,
                                   size_t x_stride, size_t n_tokens, float *scores,
                                   size_t scores_stride, sffn_active_set *active)
{
    const sffn_status status = check_handles(ctx, p);
    if (status != SFFN_OK)
        return status;
    if (active && p->selector.n_groups > 1)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "active is one set, and this predictor scores %u layers: use "
                         "sffn_predictor_predict_layers()",
                         (unsigned)p->selector.n_groups);
    return sffn_selector_call(ctx, &p->selector, x, x_stride, n_tokens, scores, scores_stride,
                              active ? &active : NULL, NULL);
}

sffn_status sffn_predictor_predict_layers(sffn_context *ctx, const sffn_predictor *p,
                                          const float *x, size_t x_stride, size_t n_tokens,
                                          sffn_active_set *const *active)
{
    const sffn_status status = check_handles(ctx, p);
    if (status != SFFN_OK)
        return status;
    if (!active)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "active is NULL");
    return sffn_selector_call(ctx, &p->selector, x, x_stride, n_tokens, NULL, 0, active, NULL);
}

sffn_status sffn_predictor_count_bytes(sffn_context *ctx, const sffn_predictor *p, const float *x,
                                       size_t x_stride, size_t n_tokens, uint64_t *bytes)
{
    const sffn_status status = check_handles(ctx, p);
    if (status != SFFN_OK)
        return status;
    if (!bytes)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "bytes is NULL");
    return sffn_selector_call(ctx, &p->selector, x, x_stride, n_tokens, NULL, 0, NULL, bytes);
}

uint64_t sffn_predictor_weight_bytes(const sffn_predictor *p)
{
    return p ? sffn_selector_weight_bytes(&p->selector) : 0;
}

sffn_status sffn_predictor_get_info(const sffn_predictor *p, sffn_predictor_info *info)
{
    if (!p)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "predictor is NULL");
    const struct sffn_selector *s = &p->selector;
    sffn_predictor_info i = p->info;
    i.struct_size = sizeof(i);
    i.d_model = s->n_inputs;
    i.d_ff = s->n_rows / s->n_groups;
    i.n_layers = s->n_groups;
    i.rank = s->hidden.n_rows;
    i.dtype = s->scorer.m.n_rows ? s->scorer.m.dtype : -1;
    i.hidden_activation = s->hidden_activation;
    i.tie = s->scorer.keep_equal ? SFFN_TIE_KEEP : SFFN_TIE_DROP;
    i.threshold = s->scorer.limit;
    i.has_thresholds = s->scorer.limits != NULL;
    i.top_k = s->top_k;
    i.margin = s->scorer.margin;
    if (s->cascade)
        sffn_cascade_get_bits(s, &i.bits, &i.step_bits, &i.column_share);
    i.weight_bytes = sffn_selector_weight_bytes(s);
    return sffn_info_copy(p->ctx, "sffn_predictor_info", info, &i, sizeof(i));
}
