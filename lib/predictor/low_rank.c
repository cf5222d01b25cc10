/* Two linear maps, with or without an activation between them: trained ones, or the gate's own decomposition. */
#include "base/context.h"
#include "matmul/linalg.h"
#include "predictor/predictor.h"

static sffn_status pack_maps(sffn_context *ctx, struct sffn_selector *s, uint32_t rank,
                             const sffn_weights *w1, const sffn_weights *w2, int32_t dtype)
{
    sffn_status status =
        sffn_selector_pack(ctx, "predictor: w1", w1, rank, s->n_inputs, dtype, &s->hidden);
    if (status == SFFN_OK)
        status = sffn_selector_pack(ctx, "predictor: w2", w2, s->n_rows, rank, dtype, &s->scorer.m);
    sffn_selector_add_step(s, sffn_select_hidden);
    sffn_selector_add_step(s, sffn_select_from_hidden);
    return status;
}

sffn_status sffn_low_rank_init(sffn_context *ctx, struct sffn_predictor *p,
                               const sffn_predictor_config *c)
{
    struct sffn_selector *s = &p->selector;
    sffn_status status = SFFN_OK;
    if (c->hidden_activation < 0 || c->hidden_activation > SFFN_HIDDEN_TANH)
        return sffn_fail(
            ctx, SFFN_ERR_INVALID_ARGUMENT,
            "predictor: hidden_activation is %d; expected a value of enum sffn_hidden_activation",
            (int)c->hidden_activation);
    if (c->gate_bias)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: gate_bias is set; a low-rank predictor takes b2");
    s->hidden_activation = c->hidden_activation;
    status = pack_maps(ctx, s, c->rank, &c->w1, &c->w2, c->dtype);
    s->hidden_bias = sffn_copy_floats(ctx, "b1", c->b1, c->rank, &status);
    s->scorer.bias = sffn_copy_floats(ctx, "b2", c->b2, s->n_rows, &status);
    return status;
}

sffn_status sffn_gate_svd_init(sffn_context *ctx, struct sffn_predictor *p,
                               const sffn_predictor_config *c)
{
    const size_t d = c->d_model, f = c->d_ff, rank = c->rank;
    const size_t floats = (d + rank) * f + rank * d;
    const sffn_weights *gate = &c->gate;
    size_t row_bytes;
    sffn_status status = sffn_check_gate(ctx, c, &row_bytes);
    if (status != SFFN_OK)
        return status;
    if (rank > d || rank > f)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: rank is %zu; a gate of %zu x %zu has at most %zu", rank, f, d,
                         d < f ? d : f);
    float *rows = sffn_mem_alloc(ctx, floats * sizeof(float));
    if (!rows)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for %zu bytes to decompose the gate",
                         floats * sizeof(float));
    float *w2 = rows + d * f, *w1 = w2 + rank * f;
    for (size_t i = 0; i < f; i++)
        sffn_dtype_to_f32(gate->dtype, (const uint8_t *)gate->data + i * row_bytes, d,
                          rows + i * d);
    const struct sffn_low_rank job = {
        .what = "predictor: gate", .rows = f, .columns = d, .rank = rank, .w = rows, .seed = 1};
    status = sffn_low_rank_factors(ctx, &job, w1, w2, NULL);
    const sffn_weights first = {w1, SFFN_F32, SFFN_LAYOUT_ROWS, 0},
                       second = {w2, SFFN_F32, SFFN_LAYOUT_ROWS, 0};
    if (status == SFFN_OK)
        status = pack_maps(ctx, &p->selector, c->rank, &first, &second,
                           c->dtype == -1 ? SFFN_Q8_0 : c->dtype);
    p->selector.scorer.bias = sffn_copy_floats(ctx, "gate_bias", c->gate_bias, f, &status);
    sffn_mem_free(ctx, rows, floats * sizeof(float));
    return status;
}
