#include "predictor/selector.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
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

void sffn_score_rows(const struct sffn_selection *run, const struct sffn_scorer *scorer,
                     const float *input, size_t input_stride, const float *scale,
                     const struct sffn_list *in, struct sffn_list *out)
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
                    const float score = values[i * n_tokens + t] * (scale ? scale[t] : 1.0f) +
                                        (scorer->bias ? scorer->bias[row] : 0.0f);
                    if (run->scores)
                        run->scores[t * run->scores_stride + row] = score;
                    mask |= (unsigned)sffn_score_passes(scorer, row, score, doubt[t]) << t;
                }
                if (out)
                    sffn_select_append(run, out, &kept, (uint32_t)row, mask);
            }
        }
    }
    if (out)
        out->segments[run->ith] = kept;
}

/* scale[t] = 1 / ||x||, as x / max(||x||, 1e-12) has it; NULL when x counts as it is. */
static const float *input_scale(const struct sffn_selector *s, const struct sffn_selection *run,
                                float *scale)
{
    for (size_t t = 0; s->normalizes && t < run->n_tokens; t++) {
        const float length = norm(run->x + t * run->x_stride, s->n_inputs);
        scale[t] = 1.0f / (length < 1e-12f ? 1e-12f : length);
    }
    return s->normalizes ? scale : NULL;
}

static void score_every_row(const struct sffn_selector *s, const struct sffn_selection *run,
                            const float *input, size_t input_stride, const float *scale)
{
    struct sffn_segment every_row = {0, s->n_rows};
    const struct sffn_list all = {NULL, NULL, NULL, &every_row, 1};
    sffn_score_rows(run, &s->scorer, input, input_stride, scale, &all,
                    s->decides_later ? NULL : run->list);
}

void sffn_select_linear(const struct sffn_selector *s, const struct sffn_selection *run)
{
    float scale[SFFN_TILE_TOKENS];
    score_every_row(s, run, run->x, run->x_stride, input_scale(s, run, scale));
}

static float activate(int32_t activation, float v)
{
    switch (activation) {
    case SFFN_HIDDEN_RELU:
        return v < 0 ? 0 : v; /* NaN stays */
    case SFFN_HIDDEN_TANH:
        return tanhf(v);
    }
    return v;
}

void sffn_select_hidden(const struct sffn_selector *s, const struct sffn_selection *run)
{
    float scales[SFFN_TILE_TOKENS];
    const float *scale = input_scale(s, run, scales);
    float *values = (float *)(run->scratch.own + run->ith * run->scratch.own_bytes);
    const struct sffn_list all = {.rows = NULL};
    const struct sffn_x x = sffn_x_prepare(run->k, run->x, run->x_stride, run->n_tokens,
                                           s->n_inputs, sffn_is_quantized(s->hidden.dtype),
                                           values + SFFN_SCORE_CHUNK * SFFN_TILE_TOKENS);
    size_t first, last;
    sffn_share(s->hidden.n_rows, run->ith, run->nth, &first, &last);
    for (size_t start = first; start < last; start += SFFN_SCORE_CHUNK) {
        const size_t n = last - start < SFFN_SCORE_CHUNK ? last - start : SFFN_SCORE_CHUNK;
        sffn_rows_dot(run->k, &s->hidden, &all, start, n, &x, run->n_tokens, values);
        for (size_t i = 0; i < n; i++)
            for (size_t t = 0; t < run->n_tokens; t++) {
                const float v = values[i * run->n_tokens + t] * (scale ? scale[t] : 1.0f) +
                                (s->hidden_bias ? s->hidden_bias[start + i] : 0.0f);
                run->scratch.hidden[t * s->hidden.n_rows + start + i] =
                    activate(s->hidden_activation, v);
            }
    }
}

void sffn_select_from_hidden(const struct sffn_selector *s, const struct sffn_selection *run)
{
    score_every_row(s, run, run->scratch.hidden, s->hidden.n_rows, NULL);
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
    const uint32_t n_hidden = s->hidden.n_rows;
    size_t own_bytes = SFFN_SCORE_CHUNK * SFFN_TILE_TOKENS * sizeof(float) +
                       sffn_x_scratch_bytes(n_hidden > s->n_inputs ? n_hidden : s->n_inputs);
    if (own_bytes < sffn_cascade_own_bytes(s))
        own_bytes = sffn_cascade_own_bytes(s);
    if (own_bytes < sffn_decide_own_bytes(s))
        own_bytes = sffn_decide_own_bytes(s);
    if (own_bytes < sffn_signs_own_bytes(s))
        own_bytes = sffn_signs_own_bytes(s);
    own_bytes = round_up_64(own_bytes);
    const struct sffn_select_scratch none = {NULL, NULL, NULL, NULL, NULL, own_bytes};
    if (base)
        *scratch = none;
#define TAKE(field, count)                                                                         \
    do {                                                                                           \
        if (base)                                                                                  \
            scratch->field = (void *)(p + used);                                                   \
        used += round_up_64((size_t)(count) * sizeof(*scratch->field));                            \
    } while (0)
    TAKE(own, nth * own_bytes);
    TAKE(hidden, (size_t)SFFN_TILE_TOKENS * n_hidden);
    if (s->decides_later) {
        TAKE(scores, (size_t)SFFN_TILE_TOKENS * s->n_rows);
        TAKE(cuts, (size_t)SFFN_TILE_TOKENS * s->n_groups);
    }
    if (s->weighting)
        TAKE(weights, (size_t)SFFN_TILE_TOKENS * s->n_rows);
#undef TAKE
    return used;
}

struct selector_call {
    const struct sffn_selector *s;
    sffn_active_set *const *active; /* [n_groups], or NULL */
    uint64_t *later_bytes;          /* [nth], or NULL */
    size_t token;
    struct sffn_selection run; /* of the tile; ith and nth are the threads' own */
};

/* One token of one group: its rows are a stretch of the list, counted from the group's first row. */
static void write_set(const struct selector_call *c, size_t t, uint32_t group)
{
    const uint32_t n_rows = c->s->n_rows / c->s->n_groups, first = group * n_rows;
    const struct sffn_list *list = c->run.list;
    sffn_active_set *set = c->active[group];
    uint32_t *indices = sffn_active_set_begin(set, c->token + t);
    size_t n = 0;
    struct sffn_walk walk = sffn_walk_begin(list, 0, c->s->n_rows);
    while (sffn_walk_next(&walk)) {
        const uint32_t *rows = list->rows + walk.start;
        for (size_t i = sffn_lower_bound(rows, walk.n, first);
             i < walk.n && rows[i] < first + n_rows; i++)
            if (list->masks[walk.start + i] >> t & 1)
                indices[n++] = rows[i] - first;
    }
    sffn_active_set_commit(set, c->token + t, n);
    if (c->s->weighting)
        sffn_active_set_set_weights(set, c->token + t, c->run.scratch.weights + t * n_rows);
}

static void call_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    const struct selector_call *c = arg;
    struct sffn_selection run = c->run;
    run.ith = ith;
    run.nth = nth;
    run.later_bytes = c->later_bytes ? c->later_bytes + ith : NULL;
    if (phase < c->s->n_steps)
        c->s->steps[phase](c->s, &run);
    else if (c->active)
        for (size_t i = ith; i < run.n_tokens * c->s->n_groups; i += nth)
            write_set(c, i / c->s->n_groups, (uint32_t)(i % c->s->n_groups));
}

static sffn_status check_outputs(const sffn_context *ctx, const struct sffn_selector *s,
                                 sffn_active_set *const *active, size_t n_tokens)
{
    for (uint32_t i = 0; active && i < s->n_groups; i++) {
        char what[32] = "active";
        if (s->n_groups > 1)
            snprintf(what, sizeof(what), "active[%u]", (unsigned)i);
        if (!active[i])
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", what);
        for (uint32_t j = 0; j < i; j++)
            if (active[j] == active[i])
                return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                                 "active[%u] and active[%u] are the same set", (unsigned)j,
                                 (unsigned)i);
        const sffn_status status = sffn_active_set_check_output(
            ctx, active[i], what, s->n_rows / s->n_groups, s->block_size, n_tokens);
        if (status != SFFN_OK)
            return status;
        if (s->weighting && !sffn_active_set_has_weights(active[i]))
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "%s was made without weights, and this router weighs its experts: set "
                             "sffn_active_set_config.has_weights",
                             what);
    }
    return SFFN_OK;
}

sffn_status sffn_selector_call(sffn_context *ctx, const struct sffn_selector *s, const float *x,
                               size_t x_stride, size_t n_tokens, float *scores,
                               size_t scores_stride, sffn_active_set *const *active,
                               uint64_t *bytes)
{
    if (n_tokens > 0 && !x)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "x is NULL");
    if (n_tokens > 0 && x_stride < s->n_inputs)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "x_stride is %zu; a row has %u elements", x_stride,
                         (unsigned)s->n_inputs);
    if (scores && scores_stride < s->n_rows)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "scores_stride is %zu; a row has %u elements",
                         scores_stride, (unsigned)s->n_rows);
    sffn_status status = check_outputs(ctx, s, active, n_tokens);
    if (status == SFFN_OK)
        status = sffn_context_enter(ctx);
    if (status != SFFN_OK)
        return status;
    const uint32_t nth = sffn_context_n_threads(ctx);
    struct sffn_list list = {.n_segments = nth};
    struct selector_call c = {.s = s, .active = active};
    c.run.k = sffn_context_kernels(ctx);
    c.run.x_stride = x_stride;
    c.run.scores_stride = scores_stride;
    c.run.list = &list;
    c.run.expand = 1;
    const size_t scratch_bytes = sffn_select_scratch_layout(s, nth, NULL, NULL);
    const size_t tile =
        bytes ? 1 : SFFN_TILE_TOKENS; /* tokens that come one by one share nothing */
    const size_t list_bytes =
        nth * (sizeof(struct sffn_segment) + sizeof(uint64_t)) + s->n_rows * (sizeof(uint32_t) + 1);
    status = sffn_context_reserve_scratch(ctx, scratch_bytes + list_bytes);
    if (status == SFFN_OK) {
        size_t room;
        uint8_t *scratch = sffn_context_scratch(ctx, &room);
        sffn_select_scratch_layout(s, nth, &c.run.scratch, scratch);
        list.segments = (struct sffn_segment *)(scratch + scratch_bytes);
        uint64_t *later = (uint64_t *)(list.segments + nth);
        memset(later, 0, nth * sizeof(*later));
        c.later_bytes = bytes ? later : NULL;
        list.rows = (uint32_t *)(later + nth);
        list.masks = (uint8_t *)(list.rows + s->n_rows);
        for (uint32_t i = 0; active && i < s->n_groups; i++)
            sffn_active_set_clear(active[i], n_tokens);
        if (!scores && c.run.scratch.scores)
            c.run.scores_stride = s->n_rows;
        for (; c.token < n_tokens; c.token += c.run.n_tokens) {
            c.run.n_tokens = n_tokens - c.token < tile ? n_tokens - c.token : tile;
            c.run.x = x + c.token * x_stride;
            c.run.scores = scores ? scores + c.token * scores_stride : c.run.scratch.scores;
            sffn_context_run_phases(ctx, s->n_steps + 1, call_phase, &c);
        }
        if (bytes) {
            *bytes = n_tokens * sffn_selector_weight_bytes(s);
            for (uint32_t i = 0; i < nth; i++)
                *bytes += later[i];
        }
    }
    sffn_context_leave(ctx);
    return status;
}

static sffn_status check_weights(const sffn_context *ctx, const char *what,
                                 const struct sffn_matmul *m)
{
    const size_t bytes = m->n_cols * sizeof(float);
    float *row = sffn_mem_alloc(ctx, bytes);
    sffn_status status = SFFN_OK;
    if (!row)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for %zu bytes to check %s", bytes, what);
    for (uint32_t r = 0; r < m->n_rows && status == SFFN_OK; r++) {
        sffn_matmul_get_row(m, r, row);
        for (uint32_t j = 0; j < m->n_cols && status == SFFN_OK; j++)
            if (isnan(row[j]))
                status = sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                                   "%s: element %u of row %u is NaN: it would let everything "
                                   "through",
                                   what, (unsigned)j, (unsigned)r);
    }
    sffn_mem_free(ctx, row, bytes);
    return status;
}

sffn_status sffn_selector_pack_unchecked(sffn_context *ctx, const char *what,
                                         const sffn_weights *weights, uint32_t n_rows,
                                         uint32_t n_cols, int32_t dtype, struct sffn_matmul *m)
{
    sffn_matmul_config c = SFFN_MATMUL_CONFIG_INIT;
    struct sffn_pack_plan plan;
    size_t bytes;
    uint8_t *data = NULL;
    c.n_rows = n_rows;
    c.n_cols = n_cols;
    c.weights = *weights;
    c.dtype = dtype;
    sffn_status status = sffn_pack_plan(ctx, what, &c, &plan);
    if (status != SFFN_OK)
        return status;
    if (weights->layout != SFFN_LAYOUT_ROWS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: weights.layout is %d; expected SFFN_LAYOUT_ROWS", what,
                         (int)weights->layout);
    /* Rows are read from end to end: no gaps between them. */
    if (!sffn_checked_mul(plan.packed_bytes, plan.n_stored_rows, &bytes) ||
        !(data = sffn_mem_alloc_weights(ctx, bytes)))
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for %u rows of %zu bytes of %s",
                         (unsigned)n_rows, plan.packed_bytes, what);
    sffn_matmul_init(ctx, m, &c, &plan, data, plan.packed_bytes, 0);
    m->owned = data;
    m->owned_bytes = bytes;
    return sffn_pack(ctx, &c, &plan, data, plan.packed_bytes);
}

sffn_status sffn_selector_pack(sffn_context *ctx, const char *what, const sffn_weights *weights,
                               uint32_t n_rows, uint32_t n_cols, int32_t dtype,
                               struct sffn_matmul *m)
{
    const sffn_status status =
        sffn_selector_pack_unchecked(ctx, what, weights, n_rows, n_cols, dtype, m);
    return status == SFFN_OK ? check_weights(ctx, what, m) : status;
}

uint64_t sffn_selector_weight_bytes(const struct sffn_selector *s)
{
    const struct sffn_scorer *scorer = &s->scorer;
    if (s->cascade)
        return sffn_cascade_first_bytes(s);
    const uint64_t n = s->n_rows, n_hidden = s->hidden.n_rows;
    return n_hidden * s->hidden.row_bytes + (s->hidden_bias ? n_hidden * sizeof(float) : 0) +
           n * scorer->m.row_bytes + s->signs_bytes +
           n * sizeof(float) *
               ((scorer->bias != NULL) + (scorer->limits != NULL) + (scorer->error != NULL));
}

void sffn_selector_fini(const sffn_context *ctx, struct sffn_selector *s)
{
    const size_t bytes = s->n_rows * sizeof(float);
    sffn_mem_free(ctx, s->hidden_bias, s->hidden.n_rows * sizeof(float));
    sffn_matmul_fini(&s->hidden);
    sffn_mem_free(ctx, s->scorer.bias, bytes);
    sffn_mem_free(ctx, s->scorer.limits, bytes);
    sffn_mem_free(ctx, s->scorer.error, bytes);
    sffn_matmul_fini(&s->scorer.m);
    sffn_mem_free_weights(ctx, s->signs, s->signs_bytes);
    sffn_cascade_fini(ctx, s);
}

sffn_status sffn_check_no_nan(const sffn_context *ctx, const char *object, const char *what,
                              const float *v, size_t n)
{
    for (size_t i = 0; v && i < n; i++)
        if (isnan(v[i]))
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: %s[%zu] is NaN", object, what, i);
    return SFFN_OK;
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
