/* SparseInfer (arXiv:2411.12692): the sign of a dot product, guessed from how many of its products are negative. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "predictor/predictor.h"

/* alpha in four decimals: the vote is then decided in integers. */
#define ALPHA_UNIT 10000

static size_t packed_bytes(uint32_t n)
{
    return ((size_t)n + 63) / 64 * 8;
}

size_t sffn_signs_own_bytes(const struct sffn_selector *s)
{
    return s->signs ? SFFN_SCORE_CHUNK * SFFN_TILE_TOKENS * sizeof(uint32_t) +
                          SFFN_TILE_TOKENS * packed_bytes(s->n_inputs)
                    : 0;
}

/* NaN when x has one, else 0: signs alone would hide it. */
static float nan_of(const float *x, size_t n)
{
    int has_nan = 0;
    for (size_t i = 0; i < n; i++) {
        float v; /* any alignment */
        memcpy(&v, (const char *)x + i * sizeof(v), sizeof(v));
        has_nan |= v != v;
    }
    return has_nan ? NAN : 0.0f;
}

/* score = alpha * positive products - negative ones, rounded once: its sign is exact. */
static void vote(const struct sffn_selector *s, const struct sffn_selection *run)
{
    const size_t n_tokens = run->n_tokens, n_bytes = packed_bytes(s->n_inputs);
    uint32_t *counts = (uint32_t *)(run->scratch.own + run->ith * run->scratch.own_bytes);
    uint8_t *x = (uint8_t *)(counts + SFFN_SCORE_CHUNK * SFFN_TILE_TOKENS);
    float nan[SFFN_TILE_TOKENS];
    for (size_t t = 0; t < n_tokens; t++) {
        memset(x + t * n_bytes, 0, n_bytes);
        run->k->pack_signs.fn(x + t * n_bytes, run->x + t * run->x_stride, s->n_inputs);
        nan[t] = nan_of(run->x + t * run->x_stride, s->n_inputs);
    }
    size_t first, last;
    sffn_share(s->n_rows, run->ith, run->nth, &first, &last);
    struct sffn_segment kept = {first * run->expand, 0};
    for (size_t start = first; start < last; start += SFFN_SCORE_CHUNK) {
        const size_t n = last - start < SFFN_SCORE_CHUNK ? last - start : SFFN_SCORE_CHUNK;
        run->k->count_signs.fn(counts, s->signs + start * n_bytes, n, x, n_tokens, n_bytes);
        for (size_t i = 0; i < n; i++) {
            unsigned mask = 0;
            for (size_t t = 0; t < n_tokens; t++) {
                const int64_t negative = counts[i * n_tokens + t],
                              positive = s->n_inputs - negative;
                const float score =
                    (float)((double)(s->alpha * positive - ALPHA_UNIT * negative) / ALPHA_UNIT) +
                    nan[t];
                if (run->scores)
                    run->scores[t * run->scores_stride + start + i] = score;
                mask |= (unsigned)sffn_score_passes(&s->scorer, start + i, score, 0) << t;
            }
            if (!s->decides_later)
                sffn_select_append(run, run->list, &kept, (uint32_t)(start + i), mask);
        }
    }
    if (!s->decides_later)
        run->list->segments[run->ith] = kept;
}

static sffn_status pack_gate(sffn_context *ctx, struct sffn_selector *s, const sffn_weights *gate,
                             size_t row_bytes)
{
    const size_t n_bytes = packed_bytes(s->n_inputs), d = s->n_inputs;
    float *row = sffn_mem_alloc(ctx, d * sizeof(float));
    if (sffn_checked_mul(n_bytes, s->n_rows, &s->signs_bytes))
        s->signs = sffn_mem_alloc_weights(ctx, s->signs_bytes);
    sffn_status status = SFFN_OK;
    if (!row || !s->signs)
        status = sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                           "the allocator returned NULL for %u x %zu bytes of signs",
                           (unsigned)s->n_rows, n_bytes);
    for (size_t r = 0; r < s->n_rows && status == SFFN_OK; r++) {
        uint8_t *bits = s->signs + r * n_bytes;
        sffn_dtype_to_f32(gate->dtype, (const uint8_t *)gate->data + r * row_bytes, d, row);
        for (size_t j = 0; j < d && status == SFFN_OK; j++)
            if (isnan(row[j]))
                status = sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                                   "predictor: gate: element %zu of row %zu is NaN and has no sign",
                                   j, r);
        memset(bits, 0, n_bytes);
        sffn_context_kernels(ctx)->pack_signs.fn(bits, row, d);
    }
    sffn_mem_free(ctx, row, d * sizeof(float));
    return status;
}

sffn_status sffn_signs_init(sffn_context *ctx, struct sffn_predictor *p,
                            const sffn_predictor_config *c)
{
    struct sffn_selector *s = &p->selector;
    size_t row_bytes;
    if (!(c->alpha > 0 && c->alpha <= 1000))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: alpha is %g; expected a number in (0, 1000]",
                         (double)c->alpha);
    if (c->gate_bias)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "predictor: gate_bias is set; signs have no use for it");
    const sffn_status status = sffn_check_gate(ctx, c, &row_bytes);
    if (status != SFFN_OK)
        return status;
    p->info.alpha = c->alpha;
    s->alpha = (int64_t)llround((double)c->alpha * ALPHA_UNIT);
    s->scorer.keep_equal = 1; /* an equal vote is no vote against */
    sffn_selector_add_step(s, vote);
    return pack_gate(ctx, s, &c->gate, row_bytes);
}
