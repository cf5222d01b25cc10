#include "predictor/scorer.h"

#include <math.h>
#include <string.h>

#include "base/context.h"

size_t sffn_scorer_scratch_bytes(const struct sffn_scorer *s)
{
    return SFFN_SCORE_CHUNK * SFFN_TILE_TOKENS * sizeof(float) + sffn_x_scratch_bytes(s->m.n_cols);
}

static float norm(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        float v; /* like the kernels, for any address that the CPU can read */
        memcpy(&v, (const char *)x + i * sizeof(v), sizeof(v));
        sum += (double)v * v;
    }
    return (float)sqrt(sum);
}

static float limit_of(const struct sffn_scorer *s, size_t row, float doubt)
{
    const float limit = s->limits ? s->limits[row] : s->limit;
    return s->error ? limit - doubt * s->error[row] : limit;
}

void sffn_scorer_run(const struct sffn_kernels *k, const struct sffn_scorer *s, const float *x,
                     size_t x_stride, size_t n_tokens, float *scores, size_t scores_stride,
                     struct sffn_list *list, uint32_t expand, void *scratch, uint32_t ith,
                     uint32_t nth)
{
    const struct sffn_matmul *m = &s->m;
    float *values = scratch;
    const struct sffn_x prepared =
        sffn_x_prepare(k, x, x_stride, n_tokens, m->n_cols, sffn_is_quantized(m->dtype),
                       values + SFFN_SCORE_CHUNK * SFFN_TILE_TOKENS);
    float doubt[SFFN_TILE_TOKENS] = {0};
    for (size_t t = 0; s->error && t < n_tokens; t++)
        doubt[t] = s->margin * norm(x + t * x_stride, m->n_cols);
    size_t first, last, n_kept;
    sffn_share(m->n_rows, ith, nth, &first, &last);
    n_kept = first * expand; /* where this thread's segment begins */
    for (size_t row = first; row < last; row += SFFN_SCORE_CHUNK) {
        const size_t n = last - row < SFFN_SCORE_CHUNK ? last - row : SFFN_SCORE_CHUNK;
        const struct sffn_list all = {.rows = NULL};
        sffn_rows_dot(k, m, &all, row, n, &prepared, n_tokens, values);
        for (size_t i = 0; i < n; i++) {
            unsigned mask = 0;
            for (size_t t = 0; t < n_tokens; t++) {
                const float score = values[i * n_tokens + t] + (s->bias ? s->bias[row + i] : 0.0f);
                if (scores)
                    scores[t * scores_stride + row + i] = score;
                mask |= (unsigned)!(score <= limit_of(s, row + i, doubt[t])) << t;
            }
            for (uint32_t e = 0; list && mask && e < expand; e++) {
                list->rows[n_kept] = (uint32_t)(row + i) * expand + e;
                list->masks[n_kept++] = (uint8_t)mask;
            }
        }
    }
    if (list) {
        list->segments[ith].start = first * expand;
        list->segments[ith].n = n_kept - first * expand;
    }
}

struct scorer_call {
    const struct sffn_kernels *k;
    const struct sffn_scorer *s;
    const float *x;
    float *scores;
    sffn_active_set *active;
    size_t x_stride, scores_stride, token, tile, thread_bytes;
    struct sffn_list list;
    uint8_t *scratch;
};

static void call_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    struct scorer_call *c = arg;
    if (phase == 0) {
        sffn_scorer_run(c->k, c->s, c->x + c->token * c->x_stride, c->x_stride, c->tile,
                        c->scores ? c->scores + c->token * c->scores_stride : NULL,
                        c->scores_stride, &c->list, 1, c->scratch + ith * c->thread_bytes, ith,
                        nth);
        return;
    }
    for (size_t t = ith; c->active && t < c->tile; t += nth) {
        uint32_t *indices = sffn_active_set_begin(c->active, c->token + t);
        size_t n = 0;
        struct sffn_walk walk = sffn_walk_begin(&c->list, 0, c->s->m.n_rows);
        while (sffn_walk_next(&walk))
            for (size_t pos = walk.start; pos < walk.start + walk.n; pos++)
                if (c->list.masks[pos] >> t & 1)
                    indices[n++] = c->list.rows[pos];
        sffn_active_set_commit(c->active, c->token + t, n);
    }
}

sffn_status sffn_scorer_call(sffn_context *ctx, const struct sffn_scorer *s, const float *x,
                             size_t x_stride, size_t n_tokens, float *scores, size_t scores_stride,
                             sffn_active_set *active)
{
    const uint32_t n_rows = s->m.n_rows;
    sffn_status status = SFFN_OK;
    if (n_tokens > 0 && !x)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "x is NULL");
    if (n_tokens > 0 && x_stride < s->m.n_cols)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "x_stride is %zu; a row has %u elements", x_stride,
                         (unsigned)s->m.n_cols);
    if (scores && scores_stride < n_rows)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "scores_stride is %zu; a row has %u elements",
                         scores_stride, (unsigned)n_rows);
    if (active)
        status =
            sffn_active_set_check_output(ctx, active, "active", n_rows, s->block_size, n_tokens);
    if (status == SFFN_OK)
        status = sffn_context_enter(ctx);
    if (status != SFFN_OK)
        return status;
    const uint32_t nth = sffn_context_n_threads(ctx);
    struct scorer_call c = {.k = sffn_context_kernels(ctx),
                            .s = s,
                            .x = x,
                            .scores = scores,
                            .active = active,
                            .x_stride = x_stride,
                            .scores_stride = scores_stride};
    c.thread_bytes = (sffn_scorer_scratch_bytes(s) + 63) & ~(size_t)63;
    const size_t list_bytes = nth * sizeof(struct sffn_segment) + n_rows * (sizeof(uint32_t) + 1);
    status = sffn_context_reserve_scratch(ctx, nth * c.thread_bytes + list_bytes);
    if (status == SFFN_OK) {
        size_t bytes;
        c.scratch = sffn_context_scratch(ctx, &bytes);
        c.list.segments = (struct sffn_segment *)(c.scratch + nth * c.thread_bytes);
        c.list.rows = (uint32_t *)(c.list.segments + nth);
        c.list.masks = (uint8_t *)(c.list.rows + n_rows);
        c.list.n_segments = nth;
        if (active)
            sffn_active_set_clear(active, n_tokens);
        for (; c.token < n_tokens; c.token += c.tile) {
            c.tile = n_tokens - c.token < SFFN_TILE_TOKENS ? n_tokens - c.token : SFFN_TILE_TOKENS;
            sffn_context_run_phases(ctx, 2, call_phase, &c);
        }
    }
    sffn_context_leave(ctx);
    return status;
}

uint64_t sffn_scorer_weight_bytes(const struct sffn_scorer *s)
{
    const uint64_t n = s->m.n_rows;
    return n * s->m.row_bytes +
           n * sizeof(float) * ((s->bias != NULL) + (s->limits != NULL) + (s->error != NULL));
}

void sffn_scorer_fini(const sffn_context *ctx, struct sffn_scorer *s)
{
    const size_t bytes = s->m.n_rows * sizeof(float);
    sffn_mem_free(ctx, s->bias, bytes);
    sffn_mem_free(ctx, s->limits, bytes);
    sffn_mem_free(ctx, s->error, bytes);
    sffn_matmul_fini(&s->m);
}

float *sffn_copy_floats(const sffn_context *ctx, const char *what, const float *v, size_t n,
                        sffn_status *status)
{
    if (!v || *status != SFFN_OK)
        return NULL;
    float *copy = sffn_mem_alloc(ctx, n * sizeof(float));
    if (copy)
        memcpy(copy, v, n * sizeof(float));
    else
        *status =
            sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                      "the allocator returned NULL for %zu bytes of %s", n * sizeof(float), what);
    return copy;
}
