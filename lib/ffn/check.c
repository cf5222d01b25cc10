/* check.c  Sampled recall: now and then the whole gate is read, to see what the selection missed. */
#include "ffn/worker.h"

/* Compares what was selected for one token with what the whole gate finds, in this thread's share of the neurons. */
static void check_token(struct sffn_worker *w, size_t t)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list selected = sffn_selected_rows(w), all = {.rows = NULL};
    const struct sffn_x x = sffn_x_prepare(
        w->k, sffn_tile_x(w) + t * w->call->args.x_stride, w->call->args.x_stride, 1,
        ffn->gate.n_cols, sffn_is_quantized(ffn->gate.dtype), w->w.x + w->ith * w->w.x_bytes);
    float *g = sffn_products(w);
    struct sffn_walk walk = sffn_walk_begin(&selected, 0, ffn->d_ff);
    size_t pos = 0; /* of the walk's stretch */
    int is_listed = sffn_walk_next(&walk);
    size_t first, last;
    sffn_share(ffn->d_ff, w->ith, w->nth, &first, &last);
    for (size_t start = first; start < last; start += SFFN_CHUNK_VALUES) {
        const size_t n = last - start < SFFN_CHUNK_VALUES ? last - start : SFFN_CHUNK_VALUES;
        sffn_rows_dot(w->k, &ffn->gate, &all, start, n, &x, 1, g);
        for (size_t i = 0; ffn->gate_bias && i < n; i++)
            g[i] += ffn->gate_bias[start + i];
        sffn_activate(w->k, ffn, g, n);
        for (size_t i = 0; i < n; i++) {
            const uint32_t row = (uint32_t)(start + i);
            size_t listed = 0;
            while (is_listed) {
                listed = selected.rows ? selected.rows[walk.start + pos] : walk.start + pos;
                if (listed >= row)
                    break;
                if (++pos == walk.n) {
                    is_listed = sffn_walk_next(&walk);
                    pos = 0;
                }
            }
            const int is_selected =
                is_listed && listed == row &&
                (!selected.masks || (selected.masks[walk.start + pos] >> t & 1));
            const float s = g[i];
            const int is_true =
                !sffn_gate_drops(ffn, row, s) && (ffn->is_gated || !sffn_h_drops(ffn, row, s));
            w->counters->sampled_selected += (uint64_t)is_selected;
            w->counters->sampled_true += (uint64_t)is_true;
            w->counters->sampled_hits += (uint64_t)(is_selected && is_true);
        }
    }
}

/* Checks the tile's tokens whose turn it is. The row is not written before the last phase, so all threads agree. */
void sffn_check_selection(struct sffn_worker *w)
{
    const uint64_t seen = sffn_stat_get(w->call->stats_row, SFFN_STAT_SELECTABLE) + w->token;
    for (size_t t = 0; t < w->tile; t++) {
        if ((seen + t + 1) % w->call->recall_every != 0)
            continue;
        check_token(w, t);
        w->counters->sampled_tokens++;
    }
}
