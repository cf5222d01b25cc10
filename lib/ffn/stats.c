/* stats.c  What a call did: its own statistics, and its layer's row in those of the context. */
#include "base/context.h"
#include "base/stats.h"
#include "ffn/worker.h"
#include "sparseffn/stats.h"

/* Identifies layers whatever address they have. */
static _Atomic uint64_t last_layer_id;

uint64_t sffn_new_layer_id(void)
{
    return atomic_fetch_add(&last_layer_id, 1) + 1;
}

struct sffn_stats_row *sffn_ffn_stats_row(const sffn_context *ctx, const struct sffn_ffn *ffn)
{
    return ctx == ffn->ctx ? ffn->stats_row
                           : sffn_stats_find(sffn_context_stats(ctx), ffn->layer_id);
}

void sffn_call_count(const struct sffn_call *call, const sffn_ffn_stats *s,
                     const struct sffn_counters *sum)
{
    struct sffn_stats_row *row = call->stats_row;
    if (!call->stats)
        return;
    if (!row) {
        sffn_stat_add(&call->stats->unregistered_calls, 1);
        return;
    }
    const struct {
        enum sffn_stat stat;
        uint64_t n;
    } counts[] = {{(enum sffn_stat)(SFFN_STAT_CALLS_SPARSE + s->path), 1},
                  {SFFN_STAT_TOKENS, s->n_tokens},
                  {SFFN_STAT_SELECTED, s->n_selected},
                  {SFFN_STAT_ACTIVE, s->n_active},
                  {SFFN_STAT_NONZERO, s->n_nonzero},
                  {SFFN_STAT_BYTES, s->touched_bytes},
                  {SFFN_STAT_SELECT_NS, s->select_ns},
                  {SFFN_STAT_GATE_NS, s->gate_ns},
                  {SFFN_STAT_UP_NS, s->up_ns},
                  {SFFN_STAT_DOWN_NS, s->down_ns},
                  {SFFN_STAT_CHECK_NS, sum ? sum->check_ns : 0},
                  {SFFN_STAT_TOTAL_NS, s->total_ns + (sum ? sum->check_ns : 0)},
                  {SFFN_STAT_WIDENED, s->n_widened},
                  {SFFN_STAT_SELECTABLE, sffn_call_selects(call) ? s->n_tokens : 0},
                  {SFFN_STAT_SAMPLED_TOKENS, sum ? sum->sampled_tokens : 0},
                  {SFFN_STAT_SAMPLED_TRUE, sum ? sum->sampled_true : 0},
                  {SFFN_STAT_SAMPLED_SELECTED, sum ? sum->sampled_selected : 0},
                  {SFFN_STAT_SAMPLED_HITS, sum ? sum->sampled_hits : 0}};
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
        sffn_stat_add(&row->values[counts[i].stat], counts[i].n);
    if (s->dense_reason != SFFN_DENSE_NOT)
        sffn_stat_add(&row->values[SFFN_STAT_DENSE_ASKED + s->dense_reason - SFFN_DENSE_ASKED], 1);
}

void sffn_finish_call(const struct sffn_worker *w, uint32_t nth)
{
    const struct sffn_ffn *ffn = w->ffn;
    sffn_ffn_stats s = SFFN_FFN_STATS_INIT;
    struct sffn_counters sum = {0};
    for (uint32_t i = 0; i < nth; i++) {
        const struct sffn_counters *c = &w->w.counters[i];
        sum.selected += c->selected;
        sum.selected_rows += c->selected_rows;
        sum.active += c->active;
        sum.active_rows += c->active_rows;
        sum.nonzero += c->nonzero;
        sum.nonzero_rows += c->nonzero_rows;
        sum.selector_bytes += c->selector_bytes;
        sum.widened += c->widened;
        sum.sampled_true += c->sampled_true;
        sum.sampled_selected += c->sampled_selected;
        sum.sampled_hits += c->sampled_hits;
        sum.gate_up_ns += c->gate_up_ns;
        sum.up_of_it_ns += c->up_of_it_ns;
    }
    sum.sampled_tokens = w->w.counters[0].sampled_tokens;
    sum.check_ns = w->w.counters[0].check_ns;
    if (!ffn->is_gated) { /* one product makes both lists */
        sum.nonzero = sum.active;
        sum.nonzero_rows = sum.active_rows;
    }
    s.path = w->call->is_dense ? SFFN_PATH_DENSE : SFFN_PATH_SPARSE;
    s.select = w->call->select;
    s.dense_reason = w->call->dense_reason;
    s.n_tokens = w->call->args.n_tokens;
    s.n_widened = sum.widened;
    s.n_selected = sum.selected;
    s.n_active = sum.active;
    s.n_nonzero = sum.nonzero;
    s.union_active = sum.active_rows;
    s.touched_bytes = sum.selected_rows * ffn->gate.row_bytes +
                      (ffn->is_gated ? sum.active_rows * ffn->up.row_bytes : 0) +
                      sum.nonzero_rows * ffn->down.row_bytes / ffn->down.block_size;
    if (w->call->select == SFFN_SELECT_PREDICTOR || w->call->select == SFFN_SELECT_ROUTER)
        s.touched_bytes += w->call->n_tiles * sffn_selector_weight_bytes(sffn_ffn_selector(ffn)) +
                           sum.selector_bytes;
    const uint64_t *ns = w->w.counters[0].stage_ns;
    s.select_ns = ns[SFFN_STAGE_SELECT];
    /* GATE_UP's time, waiting included, in the ratio of what all threads did in it. */
    const double up_share =
        sum.gate_up_ns > 0 ? (double)sum.up_of_it_ns / (double)sum.gate_up_ns : 0.0;
    const uint64_t up_of_it = (uint64_t)(up_share * (double)ns[SFFN_STAGE_GATE_UP]);
    s.gate_ns = ns[SFFN_STAGE_GATE] + ns[SFFN_STAGE_GATE_UP] - up_of_it + ns[SFFN_STAGE_DENSE_H];
    s.up_ns = ns[SFFN_STAGE_UP] + up_of_it;
    *(ffn->rule_on == SFFN_ON_H && ffn->is_gated ? &s.up_ns : &s.gate_ns) +=
        ns[SFFN_STAGE_CUT] + ns[SFFN_STAGE_KEEP];
    s.down_ns = ns[SFFN_STAGE_DOWN] + ns[SFFN_STAGE_REDUCE];
    s.total_ns = s.select_ns + s.gate_ns + s.up_ns + s.down_ns + ns[SFFN_STAGE_CLEAR] +
                 ns[SFFN_STAGE_IMPORT];
    if (w->call->args.stats)
        sffn_info_copy(ffn->ctx, "sffn_ffn_stats", w->call->args.stats, &s, sizeof(s));
    sffn_call_count(w->call, &s, &sum);
}

sffn_status sffn_context_get_layer_stats(const sffn_context *ctx, const sffn_ffn *ffn,
                                         sffn_layer_stats *out)
{
    if (!ctx || !ffn)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "ffn" : "ctx");
    if (!sffn_context_stats(ctx))
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "this context collects no statistics: set collect_stats when it is made");
    const struct sffn_stats_row *row = sffn_ffn_stats_row(ctx, ffn);
    if (!row)
        return sffn_fail(ctx, SFFN_ERR_NOT_FOUND,
                         "%s: not registered with this context: call sffn_ffn_reserve() first",
                         ffn->name);
    sffn_layer_stats s = SFFN_LAYER_STATS_INIT;
    const struct {
        uint64_t *to;
        enum sffn_stat from;
    } fields[] = {{&s.calls_sparse, SFFN_STAT_CALLS_SPARSE},
                  {&s.calls_dense, SFFN_STAT_CALLS_DENSE},
                  {&s.calls_onednn, SFFN_STAT_CALLS_ONEDNN},
                  {&s.n_tokens, SFFN_STAT_TOKENS},
                  {&s.n_selected, SFFN_STAT_SELECTED},
                  {&s.n_active, SFFN_STAT_ACTIVE},
                  {&s.n_nonzero, SFFN_STAT_NONZERO},
                  {&s.touched_bytes, SFFN_STAT_BYTES},
                  {&s.select_ns, SFFN_STAT_SELECT_NS},
                  {&s.gate_ns, SFFN_STAT_GATE_NS},
                  {&s.up_ns, SFFN_STAT_UP_NS},
                  {&s.down_ns, SFFN_STAT_DOWN_NS},
                  {&s.check_ns, SFFN_STAT_CHECK_NS},
                  {&s.total_ns, SFFN_STAT_TOTAL_NS},
                  {&s.sampled_tokens, SFFN_STAT_SAMPLED_TOKENS},
                  {&s.sampled_true, SFFN_STAT_SAMPLED_TRUE},
                  {&s.sampled_selected, SFFN_STAT_SAMPLED_SELECTED},
                  {&s.sampled_hits, SFFN_STAT_SAMPLED_HITS},
                  {&s.dense_asked, SFFN_STAT_DENSE_ASKED},
                  {&s.dense_plan, SFFN_STAT_DENSE_PLAN},
                  {&s.dense_no_zeros, SFFN_STAT_DENSE_NO_ZEROS},
                  {&s.dense_many_tokens, SFFN_STAT_DENSE_MANY_TOKENS},
                  {&s.n_widened, SFFN_STAT_WIDENED}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
        *fields[i].to = sffn_stat_get(row, fields[i].from);
    if (s.sampled_true)
        s.recall = (double)s.sampled_hits / (double)s.sampled_true;
    if (s.sampled_selected)
        s.precision = (double)s.sampled_hits / (double)s.sampled_selected;
    return sffn_info_copy(ctx, "sffn_layer_stats", out, &s, sizeof(s));
}
