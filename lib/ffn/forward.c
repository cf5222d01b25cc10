/* forward.c  The pipeline: x -> selected -> active -> h -> y. Read this first.
 *
 * A call is a list of stages per tile of up to 8 tokens (plan.c). Every thread runs every stage on its share, and the caller of
 * sffn_call_run_phase() puts a barrier between stages, never inside one. Lists hand the work over: a share is cut into pieces, each with a
 * segment of its own, and the next stage deals out the concatenation evenly again. Threads that are early take pieces of the others, but what
 * is in a piece and where it goes is fixed, so the lists, and with them every bit of y, do not depend on the number of threads.
 */
#include <string.h>

#include "base/context.h"
#include "ffn/worker.h"

/* nonzero -> partial sums */
static void run_down(struct sffn_worker *w)
{
    sffn_run_export(w);
    const struct sffn_list list = w->call->is_dense ? sffn_every_row(w, w->w.nonzero.values)
                                                    : sffn_list_input(&w->w.nonzero, w->tile);
    sffn_axpy_accumulate(w->k, &w->ffn->down, &list, w->tile, &w->w.axpy, w->turns, w->ith, w->nth);
}

/* partial sums -> y */
static void run_reduce(struct sffn_worker *w)
{
    const struct sffn_ffn_args *args = &w->call->args;
    sffn_axpy_reduce(&w->ffn->down, w->tile, &w->w.axpy, w->ffn->down_bias,
                     args->y + w->token * args->y_stride, args->y_stride, w->ith, w->nth);
}

static void run_stage(struct sffn_worker *w, uint32_t stage)
{
    switch (w->call->stages[stage]) {
    case SFFN_STAGE_CLEAR:
        sffn_run_clear(w);
        break;
    case SFFN_STAGE_SELECT: /* x -> selected */
        sffn_run_select(w, stage - w->call->select_stage);
        break;
    case SFFN_STAGE_GATE: /* selected -> active, with s = act(g) */
        sffn_run_gate(w, 0);
        break;
    case SFFN_STAGE_UP: /* active -> nonzero, with h = s * u */
        sffn_run_up(w);
        break;
    case SFFN_STAGE_GATE_UP: /* both, piece by piece */
        sffn_run_gate(w, 1);
        break;
    case SFFN_STAGE_CUT: /* a rule that compares a token's neurons: where it cuts ... */
        sffn_run_cut(w);
        break;
    case SFFN_STAGE_KEEP: /* ... and what stays of active or nonzero */
        sffn_run_keep(w);
        break;
    case SFFN_STAGE_DENSE_H: /* x -> h of every neuron */
        sffn_run_dense_h(w);
        break;
    case SFFN_STAGE_DOWN: /* nonzero -> partial sums */
        run_down(w);
        break;
    case SFFN_STAGE_REDUCE: /* partial sums -> y */
        run_reduce(w);
        break;
    case SFFN_STAGE_IMPORT: /* a stage run alone begins with the caller's lists ... */
        sffn_run_import(w);
        break;
    case SFFN_STAGE_EXPORT: /* ... and ends there */
        sffn_run_export(w);
        break;
    }
}

/* The weights that came with the selection, if any. */
static void find_weights(struct sffn_worker *w)
{
    const struct sffn_call *call = w->call;
    if (call->select == SFFN_SELECT_ROUTER && w->ffn->router->selector.weighting) {
        w->weights = w->w.select.weights;
        w->weights_stride = w->ffn->router->selector.n_rows;
        w->expert_size = w->ffn->router->selector.block_size;
    } else if (call->select == SFFN_SELECT_ACTIVE) {
        w->weights = sffn_active_set_weights(call->args.active, w->token);
        w->weights_stride = sffn_active_set_n_blocks(call->args.active);
        w->expert_size = sffn_active_set_block_size(call->args.active);
    }
}

/* The time since the last mark, which this one replaces. */
static uint64_t mark_time(struct sffn_counters *c)
{
    const uint64_t before = c->mark_ns;
    c->mark_ns = sffn_now_ns();
    return c->mark_ns - before;
}

void sffn_call_begin(const struct sffn_call *call, void *scratch, uint32_t nth)
{
    struct sffn_workspace w;
    sffn_workspace_layout(call->ffn, nth, &w, scratch);
    for (uint32_t i = 0; i < nth; i++)
        atomic_store_explicit(&w.turns[i].taken, 0, memory_order_relaxed);
}

void sffn_call_run_phase(const struct sffn_kernels *k, const struct sffn_call *call, void *scratch,
                         int may_take, uint32_t phase, uint32_t ith, uint32_t nth,
                         int collects_stats)
{
    const uint32_t tile = phase / call->n_stages, stage = phase % call->n_stages;
    const int is_last = phase + 1 == call->n_stages * call->n_tiles;
    const int is_timed = collects_stats && ith == 0;
    struct sffn_worker w = {.k = k,
                            .call = call,
                            .ffn = call->ffn,
                            .ith = ith,
                            .nth = nth,
                            .collects_stats = collects_stats,
                            .token = (size_t)tile * SFFN_TILE_TOKENS};
    w.tile = call->args.n_tokens - w.token;
    if (w.tile > SFFN_TILE_TOKENS)
        w.tile = SFFN_TILE_TOKENS;
    sffn_workspace_layout(call->ffn, nth, &w.w, scratch);
    /* Everybody is past the phase before this one, whose turns are those of the next. */
    w.turns = phase > 0 || may_take ? w.w.turns + phase % 2 * nth : NULL;
    atomic_store_explicit(&w.w.turns[(phase + 1) % 2 * nth + ith].taken, 0, memory_order_relaxed);
    w.counters = &w.w.counters[ith];
    find_weights(&w);
    if (phase == 0) {
        memset(w.counters, 0, sizeof(*w.counters));
        if (ith == 0 && call->args.active_out)
            sffn_active_set_clear(call->args.active_out, call->args.n_tokens);
    }
    if (stage == 0)
        memset(w.w.axpy.h_max + ith * SFFN_TILE_TOKENS, 0, SFFN_TILE_TOKENS * sizeof(float));
    /* A stage lasts until the next one begins: what is measured includes waiting for the other threads. */
    if (is_timed) {
        const uint32_t before = (stage + call->n_stages - 1) % call->n_stages;
        const uint64_t ns = mark_time(w.counters);
        w.counters->stage_ns[call->stages[before]] += phase > 0 ? ns : 0;
    }
    if (call->recall_every && sffn_call_selects(call) && call->stages[stage] == SFFN_STAGE_DOWN) {
        sffn_check_selection(&w);
        w.counters->check_ns += is_timed ? mark_time(w.counters) : 0;
    }
    run_stage(&w, stage);
    if (is_timed && is_last)
        w.counters->stage_ns[call->stages[stage]] += mark_time(w.counters);
    if (is_last && ith == 0 && (call->args.stats || call->stats))
        sffn_finish_call(&w, nth);
}
