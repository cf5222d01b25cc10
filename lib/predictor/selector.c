#include "predictor/selector.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/context.h"

void sffn_selector_add_step(struct sffn_selector *s, sffn_select_step_fn *step)
{
    assert(s->n_steps < SFFN_SELECT_MAX_STEPS);
    s->steps[s->n_steps++] = step;
}

/* ---- scores ---- */

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

static int passes(const struct sffn_scorer *scorer, size_t row, float score, float doubt)
{
    float limit = scorer->limits ? scorer->limits[row] : scorer->limit;
    if (scorer->error)
        limit -= doubt * scorer->error[row];
    return scorer->keep_equal ? !(score < limit) : !(score <= limit); /* NaN passes */
}

void sffn_score_rows(const struct sffn_selection *run, const struct sffn_scorer *scorer,
                     const float *input, size_t input_stride, const struct sffn_list *in,
                     struct sffn_list *out)
{
    const struct sffn_matmul *m = &scorer->m;
    const size_t n_tokens = run->n_tokens;
    float *values = (float *)(run->scratch.own + run->ith * run->scratch.own_bytes);
    const struct sffn_x prepared =
        sffn_x_prepare(run->k, input, input_stride, n_tokens, m->n_cols,
                       sffn_is_quantized(m->dtype), values + SFFN_SCORE_CHUNK * SFFN_TILE_TOKENS);
    float doubt[SFFN_TILE_TOKENS] = {0};
    for (size_t t = 0; scorer->error && t < n_tokens; t++)
        doubt[t] = scorer->margin * norm(input + t * input_stride, m->n_cols);
    size_t first, last;
    sffn_share(sffn_list_count(in), run->ith, run->nth, &first, &last);
    struct sffn_segment kept = {first * run->expand, 0};
    struct sffn_walk walk = sffn_walk_begin(in, first, last);
    while (sffn_walk_next(&walk)) {
        for (size_t done = 0; done < walk.n; done += SFFN_SCORE_CHUNK) {
            const size_t start = walk.start + done,
                         n = walk.n - done < SFFN_SCORE_CHUNK ? walk.n - done : SFFN_SCORE_CHUNK;
            sffn_rows_dot(run->k, m, in, start, n, &prepared, n_tokens, values);
            for (size_t i = 0; i < n; i++) {
                const size_t row = in->rows ? in->rows[start + i] : start + i;
                const unsigned wanted = in->masks ? in->masks[start + i] : (1u << n_tokens) - 1;
                unsigned mask = 0;
                for (size_t t = 0; t < n_tokens; t++) {
                    if (!(wanted >> t & 1))
                        continue;
                    const float score =
                        values[i * n_tokens + t] + (scorer->bias ? scorer->bias[row] : 0.0f);
                    if (run->scores)
                        run->scores[t * run->scores_stride + row] = score;
                    mask |= (unsigned)passes(scorer, row, score, doubt[t]) << t;
                }
                if (out)
                    sffn_select_append(run, out, &kept, (uint32_t)row, mask);
            }
        }
    }
    if (out)
        out->segments[run->ith] = kept;
}

void sffn_select_linear(const struct sffn_selector *s, const struct sffn_selection *run)
{
    struct sffn_segment every_row = {0, s->n_rows};
    const struct sffn_list all = {NULL, NULL, NULL, &every_row, 1};
    sffn_score_rows(run, &s->scorer, run->x, run->x_stride, &all,
                    sffn_selector_decides_later(s) ? NULL : run->list);
}

/* ---- calls ---- */

static size_t round_up_64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

size_t sffn_select_scratch_layout(const struct sffn_selector *s, uint32_t nth,
                                  struct sffn_select_scratch *scratch, void *base)
{
    uint8_t *p = base;
    size_t used = 0;
    size_t own_bytes = SFFN_SCORE_CHUNK * SFFN_TILE_TOKENS * sizeof(float) +
                       sffn_x_scratch_bytes(s->scorer.m.n_cols);
    if (own_bytes < sffn_decide_own_bytes(s))
        own_bytes = sffn_decide_own_bytes(s);
    own_bytes = round_up_64(own_bytes);
    const struct sffn_select_scratch none = {NULL, NULL, NULL, own_bytes};
    if (base)
        *scratch = none;
#define TAKE(field, count)                                                                         \
    do {                                                                                           \
        if (base)                                                                                  \
            scratch->field = (void *)(p + used);                                                   \
        used += round_up_64((size_t)(count) * sizeof(*scratch->field));                            \
    } while (0)
    TAKE(own, nth * own_bytes);
    if (sffn_selector_decides_later(s)) {
        TAKE(scores, (size_t)SFFN_TILE_TOKENS * s->n_rows);
        TAKE(cuts, SFFN_TILE_TOKENS);
    }
#undef TAKE
    return used;
}

struct selector_call {
    const struct sffn_selector *s;
    sffn_active_set *active;
    const float *x;
    float *scores;
    size_t token;
    struct sffn_selection run; /* of the tile; ith and nth are the threads' own */
};

static void write_set(const struct selector_call *c, uint32_t ith, uint32_t nth)
{
    for (size_t t = ith; c->active && t < c->run.n_tokens; t += nth) {
        uint32_t *indices = sffn_active_set_begin(c->active, c->token + t);
        size_t n = 0;
        struct sffn_walk walk = sffn_walk_begin(c->run.list, 0, c->s->n_rows);
        while (sffn_walk_next(&walk))
            for (size_t pos = walk.start; pos < walk.start + walk.n; pos++)
                if (c->run.list->masks[pos] >> t & 1)
                    indices[n++] = c->run.list->rows[pos];
        sffn_active_set_commit(c->active, c->token + t, n);
    }
}

static void call_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    const struct selector_call *c = arg;
    struct sffn_selection run = c->run;
    run.ith = ith;
    run.nth = nth;
    if (phase < c->s->n_steps)
        c->s->steps[phase](c->s, &run);
    else
        write_set(c, ith, nth);
}

sffn_status sffn_selector_call(sffn_context *ctx, const struct sffn_selector *s, const float *x,
                               size_t x_stride, size_t n_tokens, float *scores,
                               size_t scores_stride, sffn_active_set *active)
{
    sffn_status status = SFFN_OK;
    if (n_tokens > 0 && !x)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "x is NULL");
    if (n_tokens > 0 && x_stride < s->n_inputs)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "x_stride is %zu; a row has %u elements", x_stride,
                         (unsigned)s->n_inputs);
    if (scores && scores_stride < s->n_rows)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "scores_stride is %zu; a row has %u elements",
                         scores_stride, (unsigned)s->n_rows);
    if (active)
        status =
            sffn_active_set_check_output(ctx, active, "active", s->n_rows, s->block_size, n_tokens);
    if (status == SFFN_OK)
        status = sffn_context_enter(ctx);
    if (status != SFFN_OK)
        return status;
    const uint32_t nth = sffn_context_n_threads(ctx);
    struct sffn_list list = {.n_segments = nth};
    struct selector_call c = {.s = s, .active = active, .x = x, .scores = scores};
    c.run.k = sffn_context_kernels(ctx);
    c.run.x_stride = x_stride;
    c.run.scores_stride = scores_stride;
    c.run.list = &list;
    c.run.expand = 1;
    const size_t scratch_bytes = sffn_select_scratch_layout(s, nth, NULL, NULL);
    const size_t list_bytes =
        nth * sizeof(struct sffn_segment) + s->n_rows * (sizeof(uint32_t) + 1);
    status = sffn_context_reserve_scratch(ctx, scratch_bytes + list_bytes);
    if (status == SFFN_OK) {
        size_t bytes;
        uint8_t *scratch = sffn_context_scratch(ctx, &bytes);
        sffn_select_scratch_layout(s, nth, &c.run.scratch, scratch);
        list.segments = (struct sffn_segment *)(scratch + scratch_bytes);
        list.rows = (uint32_t *)(list.segments + nth);
        list.masks = (uint8_t *)(list.rows + s->n_rows);
        if (active)
            sffn_active_set_clear(active, n_tokens);
        if (!scores && c.run.scratch.scores)
            c.run.scores_stride = s->n_rows;
        for (; c.token < n_tokens; c.token += c.run.n_tokens) {
            c.run.n_tokens =
                n_tokens - c.token < SFFN_TILE_TOKENS ? n_tokens - c.token : SFFN_TILE_TOKENS;
            c.run.x = x + c.token * x_stride;
            c.run.scores = scores ? scores + c.token * scores_stride : c.run.scratch.scores;
            sffn_context_run_phases(ctx, s->n_steps + 1, call_phase, &c);
        }
    }
    sffn_context_leave(ctx);
    return status;
}

uint64_t sffn_selector_weight_bytes(const struct sffn_selector *s)
{
    const struct sffn_scorer *scorer = &s->scorer;
    const uint64_t n = s->n_rows;
    return n * scorer->m.row_bytes +
           n * sizeof(float) *
               ((scorer->bias != NULL) + (scorer->limits != NULL) + (scorer->error != NULL));
}

void sffn_selector_fini(const sffn_context *ctx, struct sffn_selector *s)
{
    const size_t bytes = s->n_rows * sizeof(float);
    sffn_mem_free(ctx, s->scorer.bias, bytes);
    sffn_mem_free(ctx, s->scorer.limits, bytes);
    sffn_mem_free(ctx, s->scorer.error, bytes);
    sffn_matmul_fini(&s->scorer.m);
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
