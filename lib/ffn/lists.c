/* lists.c  Stages that make lists of neurons without reading gate, up or down: what selects, what rules cut, what callers see. */
#include <math.h>

#include "ffn/worker.h"

struct sffn_list sffn_selected_rows(struct sffn_worker *w)
{
    const struct sffn_call *call = w->call;
    const sffn_active_set *set = call->args.active;
    if (call->select == SFFN_SELECT_GATE)
        return sffn_every_row(w, NULL);
    struct sffn_list list = sffn_list_input(&w->w.selected, w->tile);
    if (call->select == SFFN_SELECT_ACTIVE && w->tile == 1 &&
        sffn_active_set_block_size(set) == 1) {
        /* The caller's own list serves as it is: nobody writes to an input list. */
        list = sffn_every_row(w, NULL);
        list.rows = (uint32_t *)sffn_active_set_indices(set, w->token);
        w->all.n = sffn_active_set_count(set, w->token);
    }
    /* A selection of nearly everything costs more than it saves. A router's choice is the model's and stays. */
    if (call->select != SFFN_SELECT_ROUTER && !w->weights &&
        (double)sffn_list_count(&list) > (double)w->ffn->max_density * w->ffn->d_ff)
        return sffn_every_row(w, NULL);
    return list;
}

void sffn_run_clear(struct sffn_worker *w)
{
    const struct sffn_ffn_args *args = &w->call->args;
    size_t first, last;
    sffn_share(w->ffn->d_ff, w->ith, w->nth, &first, &last);
    for (size_t t = w->token; t < w->token + w->tile; t++) {
        if (args->h)
            memset(args->h + t * args->h_stride + first, 0, (last - first) * sizeof(float));
        if (w->call->s_out)
            memset(w->call->s_out + t * w->ffn->d_ff + first, 0, (last - first) * sizeof(float));
    }
    for (size_t t = 0; t < w->tile && sffn_rule_decides_later(w->ffn); t++)
        memset(w->w.rule_values + t * w->ffn->d_ff + first, 0, (last - first) * sizeof(float));
}

void sffn_run_select(struct sffn_worker *w, uint32_t step)
{
    const struct sffn_ffn_args *args = &w->call->args;
    if (w->call->select == SFFN_SELECT_ACTIVE) {
        sffn_list_from_set(args->active, w->token, w->tile, w->ffn->d_ff, &w->w.selected, w->ith,
                           w->nth);
        return;
    }
    const struct sffn_selector *s = sffn_ffn_selector(w->ffn);
    const struct sffn_selection run = {.k = w->k,
                                       .x = args->select_x + w->token * args->select_x_stride,
                                       .x_stride = args->select_x_stride,
                                       .n_tokens = w->tile,
                                       .scores = w->w.select.scores,
                                       .scores_stride = s->n_rows,
                                       .later_bytes = &w->counters->selector_bytes,
                                       .list = &w->w.selected,
                                       .expand = s->block_size,
                                       .scratch = w->w.select,
                                       .ith = w->ith,
                                       .nth = w->nth};
    s->steps[step](s, &run);
}

void sffn_run_import(struct sffn_worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    struct sffn_list *list = ffn->is_gated ? &w->w.active : &w->w.nonzero;
    const uint32_t only = w->ith * w->w.n_pieces;
    sffn_clear_segments(w, list, 1);
    if (w->call->args.active) {
        struct sffn_list own = *list; /* whose segment [ith] is this thread's only one */
        own.segments = list->segments + only - w->ith;
        sffn_list_from_set(w->call->args.active, w->token, w->tile, ffn->d_ff, &own, w->ith,
                           w->nth);
    } else {
        size_t first, last;
        sffn_share(ffn->d_ff, w->ith, w->nth, &first, &last);
        list->segments[only].start = first;
        list->segments[only].n = last - first;
        for (size_t row = first; row < last; row++) {
            list->rows[row] = (uint32_t)row;
            list->masks[row] = (uint8_t)((1u << w->tile) - 1);
        }
    }
    const struct sffn_segment s = list->segments[only];
    for (size_t pos = s.start; pos < s.start + s.n; pos++) {
        for (size_t t = 0; t < w->tile; t++) {
            list->values[pos * w->tile + t] = 0;
            if (!(list->masks[pos] >> t & 1))
                continue;
            const uint32_t row = list->rows[pos];
            const float v = w->call->s_in[(w->token + t) * ffn->d_ff + row];
            list->values[pos * w->tile + t] =
                ffn->is_gated ? v : sffn_note_h(w, row, t, sffn_weigh(w, row, t, v));
        }
    }
}

void sffn_run_cut(struct sffn_worker *w)
{
    const sffn_value_rule *rule = &w->ffn->value_rule;
    const size_t d_ff = w->ffn->d_ff, stretch = sffn_value_rule_stretch(rule, d_ff);
    uint32_t *scratch = w->w.cut_scratch + w->ith * w->w.cut_scratch_words;
    size_t begin, end;
    sffn_share(w->tile * w->w.n_cuts, w->ith, w->nth, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const size_t first = i % w->w.n_cuts * stretch;
        w->w.cuts[i] = sffn_value_rule_cut(rule, w->w.rule_values + i / w->w.n_cuts * d_ff, first,
                                           d_ff - first < stretch ? d_ff - first : stretch, scratch,
                                           scratch + SFFN_TOP_K_COUNTS);
    }
}

void sffn_run_keep(struct sffn_worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    const size_t stretch = sffn_value_rule_stretch(&ffn->value_rule, ffn->d_ff);
    const int is_h = !ffn->is_gated || ffn->rule_on == SFFN_ON_H;
    struct sffn_list *list = is_h ? &w->w.nonzero : &w->w.active;
    uint64_t n_kept = 0, n_rows = 0;
    for (uint32_t i = 0; i < w->w.n_pieces; i++) {
        const uint32_t segment = w->ith * w->w.n_pieces + i;
        const struct sffn_segment before = list->segments[segment];
        struct sffn_appender out = sffn_append_to(list, segment, before.start);
        for (size_t pos = before.start; pos < before.start + before.n; pos++) {
            const uint32_t row = list->rows[pos];
            const unsigned wanted = list->masks[pos];
            float values[SFFN_TILE_TOKENS] = {0};
            unsigned kept = 0;
            for (size_t t = 0; t < w->tile; t++) {
                if (!(wanted >> t & 1))
                    continue;
                const float v = list->values[pos * w->tile + t];
                const float h = ffn->is_gated ? v : sffn_weigh(w, row, t, v);
                if (!sffn_value_rule_keeps(&ffn->value_rule,
                                           w->w.cuts[t * w->w.n_cuts + row / stretch], row,
                                           fabsf(ffn->rule_on == SFFN_ON_S ? v : h)))
                    continue;
                values[t] = is_h ? sffn_note_h(w, row, t, h) : v;
                kept |= 1u << t;
                n_kept++;
                if (w->call->s_out)
                    w->call->s_out[(w->token + t) * ffn->d_ff + row] = v;
            }
            if (kept)
                sffn_append(&out, row, kept, values, w->tile);
        }
        n_rows += out.segment->n;
    }
    const int is_active = !ffn->is_gated || ffn->rule_on == SFFN_ON_S;
    *(is_active ? &w->counters->active : &w->counters->nonzero) += n_kept;
    *(is_active ? &w->counters->active_rows : &w->counters->nonzero_rows) += n_rows;
}

void sffn_run_export(struct sffn_worker *w)
{
    sffn_active_set *set = w->call->args.active_out;
    for (size_t t = w->ith; set && t < w->tile; t += w->nth) {
        uint32_t *indices = sffn_active_set_begin(set, w->token + t);
        size_t n = 0;
        const struct sffn_list list = w->call->is_dense  ? sffn_every_row(w, NULL)
                                      : w->ffn->is_gated ? w->w.active
                                                         : w->w.nonzero;
        struct sffn_walk walk = sffn_walk_begin(&list, 0, w->ffn->d_ff);
        while (sffn_walk_next(&walk))
            for (size_t pos = walk.start; pos < walk.start + walk.n; pos++)
                if (!list.masks || (list.masks[pos] >> t & 1))
                    indices[n++] = list.rows ? list.rows[pos] : (uint32_t)pos;
        sffn_active_set_commit(set, w->token + t, n);
        float *weights = sffn_active_set_begin_weights(set, w->token + t);
        for (size_t i = 0; weights && w->weights && i < n; i++)
            weights[indices[i]] = sffn_weigh(w, indices[i], t, 1.0f);
    }
}
