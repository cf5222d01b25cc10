/* A 4-bit copy of the gate scores all neurons, and the full gate decides among those let through. */
#include <math.h>

#include "base/context.h"
#include "predictor/predictor.h"

/* The standard deviation of a score's error is error[i] * ||x|| when the copy's errors have nothing to do with x. */
static sffn_status measure_errors(sffn_context *ctx, struct sffn_scorer *s,
                                  const sffn_weights *gate)
{
    const size_t n = s->m.n_cols, row_bytes = gate->row_bytes
                                                  ? gate->row_bytes
                                                  : sffn_dtype_row_bytes(gate->dtype, n);
    float *rows = sffn_mem_alloc(ctx, 2 * n * sizeof(float));
    s->error = sffn_mem_alloc(ctx, s->m.n_rows * sizeof(float));
    if (!rows || !s->error) {
        sffn_mem_free(ctx, rows, 2 * n * sizeof(float));
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for the screened gate's errors");
    }
    for (size_t r = 0; r < s->m.n_rows; r++) {
        sffn_dtype_to_f32(gate->dtype, (const uint8_t *)gate->data + r * row_bytes, n, rows);
        sffn_matmul_get_row(&s->m, (uint32_t)r, rows + n);
        double sum = 0;
        for (size_t j = 0; j < n; j++)
            sum += ((double)rows[j] - rows[n + j]) * ((double)rows[j] - rows[n + j]);
        s->error[r] = (float)sqrt(sum / (double)n);
    }
    sffn_mem_free(ctx, rows, 2 * n * sizeof(float));
    return SFFN_OK;
}

sffn_status sffn_screened_gate_init(sffn_context *ctx, struct sffn_predictor *p,
                                    const sffn_predictor_config *config)
{
    struct sffn_scorer *s = &p->selector.scorer;
    if (config->gate.dtype == SFFN_Q4_0)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "screened gate: the gate is q4_0, and its 4-bit copy would cost as many "
                         "bytes as the gate itself");
    if (config->d_model % 32)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "screened gate: d_model is %u; its 4-bit copy needs a multiple of 32",
                         (unsigned)config->d_model);
    if (config->gate.layout == SFFN_LAYOUT_COLUMNS)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "screened gate: gate.layout must be SFFN_LAYOUT_ROWS");
    /* NaN may stay: rows of neurons that are never active can be anything. */
    sffn_status status = sffn_selector_pack_unchecked(
        ctx, "screened gate", &config->gate, config->d_ff, config->d_model, SFFN_Q4_0, &s->m);
    if (status == SFFN_OK && config->margin > 0)
        status = measure_errors(ctx, s, &config->gate);
    s->margin = config->margin;
    s->bias = sffn_copy_floats(ctx, "gate_bias", config->gate_bias, config->d_ff, &status);
    sffn_selector_add_step(&p->selector, sffn_select_linear);
    return status;
}
