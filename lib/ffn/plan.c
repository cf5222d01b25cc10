/* plan.c  Checks the arguments of a call, decides its stages, and lays out its scratch. */
#include "active_set/active_set.h"
#include "base/context.h"
#include "ffn/ffn.h"

int32_t sffn_default_select(const struct sffn_ffn *ffn, size_t n_tokens, int32_t *dense_reason)
{
    const int32_t select = ffn->select != SFFN_SELECT_DEFAULT ? ffn->select
                           : ffn->predictor                   ? SFFN_SELECT_PREDICTOR
                           : ffn->router                      ? SFFN_SELECT_ROUTER
                                                              : SFFN_SELECT_GATE;
    /* Density decides, tile by tile (rows.c, kernels), not the number of tokens. A router's choice is not ours to widen. */
    const int is_long = ffn->dense_tokens != SFFN_DENSE_TOKENS_AUTO && ffn->dense_tokens > 0 &&
                        n_tokens >= ffn->dense_tokens;
    *dense_reason = select == SFFN_SELECT_DENSE                              ? SFFN_DENSE_PLAN
                    : select == SFFN_SELECT_GATE && !sffn_gate_can_skip(ffn) ? SFFN_DENSE_NO_ZEROS
                    : select != SFFN_SELECT_ROUTER && is_long ? SFFN_DENSE_MANY_TOKENS
                                                              : SFFN_DENSE_NOT;
    return *dense_reason ? SFFN_SELECT_DENSE : select;
}

static sffn_status resolve_select(const sffn_context *ctx, const struct sffn_ffn *ffn,
                                  struct sffn_call *call)
{
    const sffn_ffn_args *args = &call->args;
    int32_t select = args->select;
    call->dense_reason = select == SFFN_SELECT_DENSE ? SFFN_DENSE_ASKED : SFFN_DENSE_NOT;
    if (select == SFFN_SELECT_DEFAULT) /* a caller's set is not ours to widen */
        select = args->active ? SFFN_SELECT_ACTIVE
                              : sffn_default_select(ffn, args->n_tokens, &call->dense_reason);
    const struct {
        int32_t select;
        const void *needed;
        const char *what;
    } needs[] = {{SFFN_SELECT_PREDICTOR, ffn->predictor,
                  "SFFN_SELECT_PREDICTOR: the layer has no predictor"},
                 {SFFN_SELECT_ROUTER, ffn->router, "SFFN_SELECT_ROUTER: the layer has no router"}};
    for (size_t i = 0; i < sizeof(needs) / sizeof(*needs); i++)
        if (select == needs[i].select && !needs[i].needed)
            return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED, "%s: %s", ffn->name, needs[i].what);
    if (select == SFFN_SELECT_ACTIVE && !args->active)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: SFFN_SELECT_ACTIVE: args.active is NULL", ffn->name);
    call->select = select;
    call->is_dense = select == SFFN_SELECT_DENSE;
    return SFFN_OK;
}

static sffn_status check_strides(const sffn_context *ctx, const struct sffn_ffn *ffn,
                                 sffn_ffn_args *args, size_t select_width)
{
    struct {
        const char *name;
        size_t *stride, width;
    } rows[] = {{"x_stride", &args->x_stride, ffn->d_model},
                {"y_stride", &args->y_stride, ffn->d_model},
                {"select_x_stride", &args->select_x_stride, select_width},
                {"h_stride", &args->h_stride, ffn->d_ff}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        if (*rows[i].stride == 0)
            *rows[i].stride = rows[i].width;
        if (*rows[i].stride < rows[i].width)
            return sffn_fail(ctx, SFFN_ERR_SHAPE, "%s: args.%s is %zu; a row has %zu elements",
                             ffn->name, rows[i].name, *rows[i].stride, rows[i].width);
    }
    return SFFN_OK;
}

uint32_t sffn_plan_rule(const struct sffn_ffn *ffn, enum sffn_stage *stages, uint32_t n)
{
    if (sffn_rule_decides_later(ffn)) {
        stages[n++] = SFFN_STAGE_CUT;
        stages[n++] = SFFN_STAGE_KEEP;
    }
    return n;
}

sffn_status sffn_call_plan(const sffn_context *ctx, const struct sffn_ffn *ffn,
                           const sffn_ffn_args *public_args, struct sffn_call *call)
{
    const sffn_ffn_args init = SFFN_FFN_ARGS_INIT;
    sffn_ffn_args *args = &call->args;
    *args = init;
    call->ffn = ffn;
    call->s_in = NULL;
    call->s_out = NULL;
    call->n_stages = 0;
    call->select_stage = 0;
    call->stats = sffn_context_stats(ctx);
    call->stats_row = call->stats ? sffn_ffn_stats_row(ctx, ffn) : NULL;
    call->recall_every = call->stats_row ? sffn_context_recall_every(ctx) : 0;
    sffn_status status = sffn_config_copy(ctx, "sffn_ffn_args", args, sizeof(*args), public_args);
    if (status != SFFN_OK)
        return status;
    if (args->select < 0 || args->select > SFFN_SELECT_ACTIVE)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: args.select is %d; expected a value of enum sffn_select", ffn->name,
                         (int)args->select);
    if (args->n_tokens > UINT32_MAX / SFFN_MAX_STAGES)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: args.n_tokens is %zu", ffn->name,
                         args->n_tokens);
    if (args->n_tokens > 0 && (!args->x || !args->y))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: args.%s is NULL", ffn->name,
                         args->x ? "y" : "x");
    if (args->stats && args->stats->struct_size < sizeof(size_t))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: args.stats->struct_size is %zu: start from SFFN_FFN_STATS_INIT",
                         ffn->name, args->stats->struct_size);
    if ((status = resolve_select(ctx, ffn, call)) != SFFN_OK)
        return status;
    const struct sffn_selector *selector =
        call->select == SFFN_SELECT_PREDICTOR || call->select == SFFN_SELECT_ROUTER
            ? sffn_ffn_selector(ffn)
            : NULL;
    if (selector && !args->select_x) {
        if (selector->n_inputs != ffn->d_model)
            return sffn_fail(
                ctx, SFFN_ERR_SHAPE,
                "%s: args.select_x is NULL, and the selector's input has %u elements, not x's %u",
                ffn->name, (unsigned)selector->n_inputs, (unsigned)ffn->d_model);
        args->select_x = args->x;
        args->select_x_stride = args->x_stride;
    }
    if ((status = check_strides(ctx, ffn, args, selector ? selector->n_inputs : 0)) != SFFN_OK)
        return status;
    if (call->select == SFFN_SELECT_ACTIVE) {
        status = sffn_active_set_check(ctx, args->active, "args.active", ffn->d_ff, args->n_tokens);
        if (status != SFFN_OK)
            return status;
    }
    if (args->active_out) {
        status = sffn_active_set_check_output(ctx, args->active_out, "args.active_out", ffn->d_ff,
                                              1, args->n_tokens);
        if (status != SFFN_OK)
            return status;
        if (args->active_out == args->active)
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "%s: args.active and args.active_out are the same set", ffn->name);
    }
    call->n_tiles = (uint32_t)((args->n_tokens + SFFN_TILE_TOKENS - 1) / SFFN_TILE_TOKENS);
    enum sffn_stage *stages = call->stages;
    uint32_t n = 0;
    const int decides_later = !call->is_dense && sffn_rule_decides_later(ffn);
    if (args->h || decides_later)
        stages[n++] = SFFN_STAGE_CLEAR;
    if (call->is_dense) {
        stages[n++] = SFFN_STAGE_DENSE_H;
    } else {
        /* One token's neurons are a list already. */
        const int is_list = call->select == SFFN_SELECT_ACTIVE && args->n_tokens == 1 &&
                            sffn_active_set_block_size(args->active) == 1;
        const uint32_t n_steps = selector ? selector->n_steps : 1;
        call->select_stage = n;
        for (uint32_t i = 0; call->select != SFFN_SELECT_GATE && !is_list && i < n_steps; i++)
            stages[n++] = SFFN_STAGE_SELECT;
        stages[n++] = SFFN_STAGE_GATE;
        if (ffn->is_gated && ffn->rule_on == SFFN_ON_S)
            n = sffn_plan_rule(ffn, stages, n);
        if (ffn->is_gated)
            stages[n++] = SFFN_STAGE_UP;
        if (!ffn->is_gated || ffn->rule_on == SFFN_ON_H)
            n = sffn_plan_rule(ffn, stages, n);
    }
    stages[n++] = SFFN_STAGE_DOWN;
    stages[n++] = SFFN_STAGE_REDUCE;
    call->n_stages = n;
    return SFFN_OK;
}

void sffn_call_join_stages(struct sffn_call *call)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < call->n_stages; i++) {
        if (n > 0 && call->stages[n - 1] == SFFN_STAGE_GATE && call->stages[i] == SFFN_STAGE_UP)
            call->stages[n - 1] = SFFN_STAGE_GATE_UP;
        else
            call->stages[n++] = call->stages[i];
    }
    call->n_stages = n;
}

size_t sffn_workspace_layout(const struct sffn_ffn *ffn, uint32_t nth, struct sffn_workspace *w,
                             void *base)
{
    uint8_t *p = base;
    size_t used = 0;
    const struct sffn_selector *selector = sffn_ffn_selector(ffn);
    const size_t x_bytes = sffn_x_scratch_bytes(ffn->d_model);
#define TAKE(field, count, size)                                                                   \
    do {                                                                                           \
        if (base)                                                                                  \
            w->field = (void *)(p + used);                                                         \
        used += ((size_t)(count) * (size) + 63) & ~(size_t)63;                                     \
    } while (0)
    const uint64_t share = (uint64_t)ffn->d_ff * ffn->gate.row_bytes / nth / (2 * SFFN_PIECE_BYTES);
    const uint32_t n_pieces = nth == 1 || share < 2      ? 1
                              : share > SFFN_MOST_PIECES ? SFFN_MOST_PIECES
                                                         : (uint32_t)share;
    const size_t n_segments = (size_t)nth * n_pieces;
    TAKE(turns, 2 * (size_t)nth, sizeof(struct sffn_turn));
    TAKE(counters, nth, sizeof(struct sffn_counters));
    TAKE(x, nth, x_bytes);
    TAKE(values, nth, SFFN_CHUNK_VALUES * sizeof(float));
    TAKE(selected.rows, ffn->d_ff, sizeof(uint32_t));
    TAKE(selected.masks, ffn->d_ff, 1);
    TAKE(selected.segments, nth, sizeof(struct sffn_segment));
    TAKE(active.rows, ffn->d_ff, sizeof(uint32_t));
    TAKE(active.masks, ffn->d_ff, 1);
    TAKE(active.values, ffn->d_ff, SFFN_TILE_TOKENS * sizeof(float));
    TAKE(active.segments, n_segments, sizeof(struct sffn_segment));
    TAKE(nonzero.rows, ffn->d_ff, sizeof(uint32_t));
    TAKE(nonzero.masks, ffn->d_ff, 1);
    TAKE(nonzero.values, ffn->d_ff, SFFN_TILE_TOKENS * sizeof(float));
    TAKE(nonzero.segments, n_segments, sizeof(struct sffn_segment));
    size_t n_cuts = 0;
    if (sffn_rule_decides_later(ffn)) {
        const size_t stretch = sffn_value_rule_stretch(&ffn->value_rule, ffn->d_ff);
        const size_t n_keys = stretch < ffn->d_ff ? stretch : ffn->d_ff;
        n_cuts = ((size_t)ffn->d_ff + stretch - 1) / stretch;
        TAKE(rule_values, ffn->d_ff, SFFN_TILE_TOKENS * sizeof(float));
        TAKE(cuts, n_cuts, SFFN_TILE_TOKENS * sizeof(struct sffn_cut));
        TAKE(cut_scratch, nth, (SFFN_TOP_K_COUNTS + n_keys) * sizeof(uint32_t));
        if (base)
            w->cut_scratch_words = SFFN_TOP_K_COUNTS + n_keys;
    }
#undef TAKE
    if (selector)
        used += sffn_select_scratch_layout(selector, nth, base ? &w->select : NULL,
                                           base ? p + used : NULL);
    used += sffn_axpy_scratch_layout(ffn->down.dtype, ffn->down.block_size, ffn->d_ff, ffn->d_model,
                                     nth, base ? &w->axpy : NULL, base ? p + used : NULL);
    if (base) {
        w->selected.values = NULL;
        w->selected.n_segments = nth;
        w->active.n_segments = w->nonzero.n_segments = (uint32_t)n_segments;
        w->n_pieces = n_pieces;
        w->x_bytes = x_bytes;
        w->n_cuts = n_cuts;
    }
    return used;
}
