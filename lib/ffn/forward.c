/* forward.c  The pipeline: x -> selected -> active -> h -> y. Read this first.
 *
 * A call is a list of stages per tile of up to 8 tokens. Every thread runs every stage on its share, and the caller of
 * sffn_call_run_phase() puts a barrier between stages, never inside one. Lists hand the work over: a share is cut into pieces, each with a
 * segment of its own, and the next stage deals out the concatenation evenly again. Threads that are early take pieces of the others, but what
 * is in a piece and where it goes is fixed, so the lists, and with them every bit of y, do not depend on the number of threads.
 */
#include <math.h>
#include <string.h>

#include "base/context.h"
#include "ffn/ffn.h"

/* One thread in one stage of one tile. */
struct worker {
    const struct sffn_kernels *k;
    const struct sffn_call *call;
    const struct sffn_ffn *ffn;
    struct sffn_workspace w;
    size_t token, tile; /* first token of the tile, and how many */
    uint32_t ith, nth;
    struct sffn_turn *turns; /* [nth]: of this phase; NULL: every thread keeps to its share */
    struct sffn_counters *counters;
    const float *weights; /* [tile] rows: of the experts of a mixture; NULL: none */
    size_t weights_stride;
    uint32_t expert_size;
    int collects_stats;
    struct sffn_segment all; /* the one segment of "every neuron" */
};

static const float *tile_x(const struct worker *w)
{
    return w->call->args.x + w->token * w->call->args.x_stride;
}

static struct sffn_x prepare_x(const struct worker *w, const struct sffn_matmul *m)
{
    return sffn_x_prepare(w->k, tile_x(w), w->call->args.x_stride, w->tile, m->n_cols,
                          sffn_is_quantized(m->dtype), w->w.x + w->ith * w->w.x_bytes);
}

/* x as the gate and the up rows want it. */
struct inputs {
    struct sffn_x gate, up;
    int is_ready;
};

/* Not before there is something to do: others may have taken all of a late thread's pieces. */
static void prepare_inputs(const struct worker *w, struct inputs *in, int for_gate, int for_up)
{
    const struct sffn_ffn *ffn = w->ffn;
    if (in->is_ready)
        return;
    in->is_ready = 1;
    if (for_gate)
        in->gate = prepare_x(w, &ffn->gate);
    if (for_up)
        in->up = for_gate && sffn_is_quantized(ffn->up.dtype) == sffn_is_quantized(ffn->gate.dtype)
                     ? in->gate
                     : prepare_x(w, &ffn->up);
}

/* Every neuron, in order. */
static struct sffn_list every_row(struct worker *w, float *values)
{
    w->all.start = 0;
    w->all.n = w->ffn->d_ff;
    const struct sffn_list list = {NULL, NULL, values, &w->all, 1};
    return list;
}

/* The neurons that the gate has to look at. */
static struct sffn_list selected_rows(struct worker *w)
{
    const struct sffn_call *call = w->call;
    const sffn_active_set *set = call->args.active;
    if (call->select == SFFN_SELECT_GATE)
        return every_row(w, NULL);
    struct sffn_list list = sffn_list_input(&w->w.selected, w->tile);
    if (call->select == SFFN_SELECT_ACTIVE && w->tile == 1 &&
        sffn_active_set_block_size(set) == 1) {
        /* The caller's own list serves as it is: nobody writes to an input list. */
        list = every_row(w, NULL);
        list.rows = (uint32_t *)sffn_active_set_indices(set, w->token);
        w->all.n = sffn_active_set_count(set, w->token);
    }
    /* A selection of nearly everything costs more than it saves. A router's choice is the model's and stays. */
    if (call->select != SFFN_SELECT_ROUTER && !w->weights &&
        (double)sffn_list_count(&list) > (double)w->ffn->max_density * w->ffn->d_ff)
        return every_row(w, NULL);
    return list;
}

static void clear_outputs(struct worker *w)
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

/* one step of the selector -> selected */
static void run_select(struct worker *w, uint32_t step)
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

/* This thread's segments behind the first n stay empty. */
static void clear_segments(const struct worker *w, struct sffn_list *list, uint32_t n)
{
    const struct sffn_segment none = {0, 0};
    for (uint32_t i = n; i < w->w.n_pieces; i++)
        list->segments[w->ith * w->w.n_pieces + i] = none;
}

/* Appends to one segment of a list. */
struct appender {
    struct sffn_list *list;
    struct sffn_segment *segment;
    size_t n_tokens;
};

static struct appender append_to(struct sffn_list *list, uint32_t segment, size_t start,
                                 size_t n_tokens)
{
    struct appender a = {list, &list->segments[segment], n_tokens};
    a.segment->start = start;
    a.segment->n = 0;
    return a;
}

static inline void append(struct appender *a, uint32_t row, unsigned mask, const float *values)
{
    const size_t pos = a->segment->start + a->segment->n++;
    a->list->rows[pos] = row;
    a->list->masks[pos] = (uint8_t)mask;
    memcpy(a->list->values + pos * a->n_tokens, values, a->n_tokens * sizeof(float));
}

/* The rows of a stage come in pieces (sffn_deal). Which thread did one is nowhere to be seen: it appends to the piece's own segment. */
struct pieces {
    const struct sffn_list *list;
    struct sffn_list *made; /* NULL: no list is made */
    size_t n_rows;          /* of list */
    uint32_t per_thread;
    struct sffn_deal deal;
    /* The piece: */
    struct sffn_walk walk;
    size_t passed;       /* of walk's stretch */
    uint32_t segment;    /* of the lists that are made */
    struct appender out; /* to this segment of `made` */
    /* Its next rows, at most SFFN_CHUNK_VALUES / tokens: */
    size_t start, n; /* positions in the list */
};

static struct pieces pieces_of(const struct worker *w, const struct sffn_list *list,
                               struct sffn_list *made, const struct sffn_matmul *m)
{
    struct pieces p = {.list = list, .made = made, .n_rows = sffn_list_count(list)};
    p.per_thread = sffn_pieces_per_thread((uint64_t)p.n_rows * m->row_bytes, w->w.n_pieces, w->nth);
    p.deal = sffn_deal_begin(w->turns, (size_t)w->nth * p.per_thread, w->ith, w->nth);
    if (made)
        clear_segments(w, made, p.per_thread);
    return p;
}

/* Takes the next piece, 0: there is none. */
static int next_piece(const struct worker *w, struct pieces *p)
{
    size_t first, last;
    if (!sffn_deal_next(&p->deal))
        return 0;
    const uint32_t piece = (uint32_t)p->deal.piece;
    sffn_share(p->n_rows, piece, w->nth * p->per_thread, &first, &last);
    p->walk = sffn_walk_begin(p->list, first, last);
    p->passed = 0;
    p->segment = piece / p->per_thread * w->w.n_pieces + piece % p->per_thread;
    if (p->made)
        p->out = append_to(p->made, p->segment, first, w->tile);
    return 1;
}

/* The next rows of the piece, 0: there are none. */
static int next_chunk(const struct worker *w, struct pieces *p)
{
    if (p->passed == p->walk.n) {
        if (!sffn_walk_next(&p->walk))
            return 0;
        p->passed = 0;
    }
    p->start = p->walk.start + p->passed;
    const size_t left = p->walk.n - p->passed, most = SFFN_CHUNK_VALUES / w->tile;
    p->n = left < most ? left : most;
    p->passed += p->n;
    return 1;
}

/* h times the weight of its expert. */
static inline float weigh(const struct worker *w, uint32_t row, size_t t, float h)
{
    return w->weights ? h * w->weights[t * w->weights_stride + row / w->expert_size] : h;
}

/* h of one row has been made: shows it to the caller, and returns what the down stage gets. */
static inline float note_h(struct worker *w, uint32_t row, size_t t, float h)
{
    if (w->call->args.h)
        w->call->args.h[(w->token + t) * w->call->args.h_stride + row] = h;
    return sffn_axpy_note(&w->ffn->down, row, h, w->w.axpy.h_max + w->ith * SFFN_TILE_TOKENS + t);
}

/* One token, and the gate value alone decides: the vector kernel finds the survivors of a chunk. g becomes s. */
static void keep_above_floor(struct worker *w, struct appender *out, const uint32_t *rows,
                             size_t start, float *g, size_t n, const struct sffn_gate_floor *f)
{
    const float *bias = w->ffn->gate_bias;
    const size_t at = out->segment->start + out->segment->n;
    uint32_t *kept = out->list->rows + at;
    for (size_t i = 0; bias && i < n; i++)
        g[i] += bias[rows ? rows[i] : start + i];
    const size_t n_kept = w->k->threshold.fn(kept, g, 0, n, f->t, f->keep_equal, f->use_abs);
    for (size_t i = 0; i < n_kept; i++) {
        const float s = g[kept[i]];
        kept[i] = rows ? rows[kept[i]] : (uint32_t)(start + kept[i]);
        out->list->masks[at + i] = 1;
        out->list->values[at + i] = w->ffn->is_gated ? s : note_h(w, kept[i], 0, s);
        if (w->call->s_out)
            w->call->s_out[w->token * w->ffn->d_ff + kept[i]] = s;
    }
    out->segment->n += n_kept;
    w->counters->active += n_kept;
}

/* 1 when what a stage makes waits for the rule: every value that is not zero goes on the list, and run_keep() does the rest. */
static int waits_for_rule(const struct worker *w, enum sffn_rule_on made)
{
    return sffn_rule_decides_later(w->ffn) && (w->ffn->rule_on == made || !w->ffn->is_gated);
}

/* How a layer's gate values are decided. */
struct gate_rule {
    struct sffn_gate_floor floor;
    int has_floor, is_simple; /* is_simple: keep_above_floor() is all */
    int waits;
};

static struct gate_rule gate_rule_of(const struct worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    struct gate_rule r = {.waits = waits_for_rule(w, SFFN_ON_S)};
    r.has_floor = sffn_gate_floor(ffn, &r.floor);
    r.is_simple = r.has_floor && r.floor.is_exact && w->tile == 1 &&
                  (ffn->is_gated || (ffn->rule == SFFN_RULE_NONE && !w->weights));
    return r;
}

/* The gate products g of some rows: those that stay go to p->out, with s. */
static void decide_gate(struct worker *w, const struct gate_rule *r, struct pieces *p, float *g)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list *list = p->list;
    if (r->is_simple) {
        w->counters->selected += p->n;
        keep_above_floor(w, &p->out, list->rows ? list->rows + p->start : NULL, p->start, g, p->n,
                         &r->floor);
        return;
    }
    for (size_t i = 0; i < p->n; i++) {
        const uint32_t row = list->rows ? list->rows[p->start + i] : (uint32_t)(p->start + i);
        const unsigned wanted = list->masks ? list->masks[p->start + i] : (1u << w->tile) - 1;
        const float bias = ffn->gate_bias ? ffn->gate_bias[row] : 0.0f;
        float s[SFFN_TILE_TOKENS] = {0};
        unsigned kept = 0;
        for (size_t t = 0; t < w->tile; t++) {
            if (!(wanted >> t & 1))
                continue;
            const float with_bias = g[i * w->tile + t] + bias;
            w->counters->selected++;
            if (r->has_floor && sffn_below_floor(&r->floor, with_bias))
                continue;
            const float v = sffn_activate(ffn, with_bias);
            const float h = ffn->is_gated ? 0 : weigh(w, row, t, v);
            if (sffn_gate_drops(ffn, row, v) || (!ffn->is_gated && sffn_h_drops(ffn, row, h)))
                continue;
            kept |= 1u << t;
            if (r->waits) {
                s[t] = v;
                w->w.rule_values[t * ffn->d_ff + row] = fabsf(ffn->rule_on == SFFN_ON_S ? v : h);
                continue;
            }
            s[t] = ffn->is_gated ? v : note_h(w, row, t, h);
            w->counters->active++;
            if (w->call->s_out)
                w->call->s_out[(w->token + t) * ffn->d_ff + row] = v;
        }
        if (kept)
            append(&p->out, row, kept, s);
    }
}

/* Rows of active: those whose h is not zero go to out. u: room for the up products. */
static void make_h(struct worker *w, const struct sffn_list *active, size_t start, size_t n,
                   const struct sffn_x *x, float *u, struct appender *out)
{
    const struct sffn_ffn *ffn = w->ffn;
    const int waits = waits_for_rule(w, SFFN_ON_H);
    sffn_rows_dot(w->k, &ffn->up, active, start, n, x, w->tile, u);
    for (size_t i = 0; i < n; i++) {
        const uint32_t row = active->rows[start + i];
        const unsigned wanted = active->masks ? active->masks[start + i] : 1u;
        float h[SFFN_TILE_TOKENS] = {0};
        unsigned kept = 0;
        for (size_t t = 0; t < w->tile; t++) {
            if (!(wanted >> t & 1))
                continue;
            const float v = weigh(w, row, t,
                                  sffn_make_h(ffn, row, active->values[(start + i) * w->tile + t],
                                              u[i * w->tile + t]));
            if (sffn_h_drops(ffn, row, v))
                continue;
            kept |= 1u << t;
            if (waits) {
                h[t] = v;
                w->w.rule_values[t * ffn->d_ff + row] = fabsf(v);
                continue;
            }
            h[t] = note_h(w, row, t, v);
            w->counters->nonzero++;
        }
        if (kept)
            append(out, row, kept, h);
    }
}

/* A segment of active -> the same one of nonzero. */
static void run_up_of(struct worker *w, const struct sffn_x *x, uint32_t segment)
{
    const struct sffn_list active = sffn_list_input(&w->w.active, w->tile);
    const struct sffn_segment from = active.segments[segment];
    struct appender out = append_to(&w->w.nonzero, segment, from.start, w->tile);
    float *u = w->w.values + w->ith * 2 * SFFN_CHUNK_VALUES;
    const size_t most = SFFN_CHUNK_VALUES / w->tile;
    const uint64_t begin = w->collects_stats ? sffn_now_ns() : 0;
    for (size_t done = 0; done < from.n; done += most)
        make_h(w, &active, from.start + done, from.n - done < most ? from.n - done : most, x, u,
               &out);
    if (!waits_for_rule(w, SFFN_ON_H))
        w->counters->nonzero_rows += out.segment->n;
    if (w->collects_stats)
        w->counters->up_of_it_ns += sffn_now_ns() - begin;
}

/* selected -> active, with s = act(g); for ungated layers s is h, and active is nonzero. with_up: -> nonzero, with h, piece by piece, without waiting
 * in between; active neurons that come in clusters make a piece's time at most twice that of its gate. */
static void run_gate(struct worker *w, int with_up)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list list = selected_rows(w);
    struct inputs in = {0};
    float *g = w->w.values + w->ith * 2 * SFFN_CHUNK_VALUES;
    const struct gate_rule rule = gate_rule_of(w);
    const uint64_t begin = with_up && w->collects_stats ? sffn_now_ns() : 0;
    if (w->ith == 0 && w->call->select != SFFN_SELECT_GATE && !list.rows)
        w->counters->widened += w->tile;
    struct pieces p = pieces_of(w, &list, ffn->is_gated ? &w->w.active : &w->w.nonzero, &ffn->gate);
    if (with_up)
        clear_segments(w, &w->w.nonzero, p.per_thread);
    while (next_piece(w, &p)) {
        prepare_inputs(w, &in, 1, with_up);
        while (next_chunk(w, &p)) {
            w->counters->selected_rows += p.n;
            sffn_rows_dot(w->k, &ffn->gate, &list, p.start, p.n, &in.gate, w->tile, g);
            decide_gate(w, &rule, &p, g);
        }
        if (!rule.waits)
            w->counters->active_rows += p.out.segment->n;
        if (with_up)
            run_up_of(w, &in.up, p.segment);
    }
    if (with_up && w->collects_stats)
        w->counters->gate_up_ns += sffn_now_ns() - begin;
}

/* the caller's set and s -> active (nonzero for ungated layers) */
static void run_import(struct worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    struct sffn_list *list = ffn->is_gated ? &w->w.active : &w->w.nonzero;
    const uint32_t only = w->ith * w->w.n_pieces;
    clear_segments(w, list, 1);
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
                ffn->is_gated ? v : note_h(w, row, t, weigh(w, row, t, v));
        }
    }
}

/* active -> nonzero, with h */
static void run_up(struct worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list list = sffn_list_input(&w->w.active, w->tile);
    struct inputs in = {0};
    float *u = w->w.values + w->ith * 2 * SFFN_CHUNK_VALUES;
    struct pieces p = pieces_of(w, &list, &w->w.nonzero, &ffn->up);
    while (next_piece(w, &p)) {
        prepare_inputs(w, &in, 0, 1);
        while (next_chunk(w, &p))
            make_h(w, &list, p.start, p.n, &in.up, u, &p.out);
        if (!waits_for_rule(w, SFFN_ON_H))
            w->counters->nonzero_rows += p.out.segment->n;
    }
}

/* all |s| or |h| of a token -> where the rule cuts them. The cuts are shared out: finding one is too short to be divided. */
static void run_cut(struct worker *w)
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

/* Drops from this thread's segment what lies below the cuts. Only now is it known which h goes into the sums, and their scale. */
static void run_keep(struct worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    const size_t stretch = sffn_value_rule_stretch(&ffn->value_rule, ffn->d_ff);
    const int is_h = !ffn->is_gated || ffn->rule_on == SFFN_ON_H;
    struct sffn_list *list = is_h ? &w->w.nonzero : &w->w.active;
    uint64_t n_kept = 0, n_rows = 0;
    for (uint32_t i = 0; i < w->w.n_pieces; i++) {
        const uint32_t segment = w->ith * w->w.n_pieces + i;
        const struct sffn_segment before = list->segments[segment];
        struct appender out = append_to(list, segment, before.start, w->tile);
        for (size_t pos = before.start; pos < before.start + before.n; pos++) {
            const uint32_t row = list->rows[pos];
            const unsigned wanted = list->masks[pos];
            float values[SFFN_TILE_TOKENS] = {0};
            unsigned kept = 0;
            for (size_t t = 0; t < w->tile; t++) {
                if (!(wanted >> t & 1))
                    continue;
                const float v = list->values[pos * w->tile + t];
                const float h = ffn->is_gated ? v : weigh(w, row, t, v);
                if (!sffn_value_rule_keeps(&ffn->value_rule,
                                           w->w.cuts[t * w->w.n_cuts + row / stretch], row,
                                           fabsf(ffn->rule_on == SFFN_ON_S ? v : h)))
                    continue;
                values[t] = is_h ? note_h(w, row, t, h) : v;
                kept |= 1u << t;
                n_kept++;
                if (w->call->s_out)
                    w->call->s_out[(w->token + t) * ffn->d_ff + row] = v;
            }
            if (kept)
                append(&out, row, kept, values);
        }
        n_rows += out.segment->n;
    }
    const int is_active = !ffn->is_gated || ffn->rule_on == SFFN_ON_S;
    *(is_active ? &w->counters->active : &w->counters->nonzero) += n_kept;
    *(is_active ? &w->counters->active_rows : &w->counters->nonzero_rows) += n_rows;
}

/* everything -> h, without lists; the post-gate rule is not applied */
static void run_dense_h(struct worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list list = every_row(w, w->w.nonzero.values);
    struct inputs in = {0};
    float *g = w->w.values + w->ith * 2 * SFFN_CHUNK_VALUES, *u = g + SFFN_CHUNK_VALUES;
    struct pieces p = pieces_of(w, &list, NULL, &ffn->gate);
    uint64_t n_rows = 0;
    while (next_piece(w, &p)) {
        prepare_inputs(w, &in, 1, ffn->is_gated);
        while (next_chunk(w, &p)) {
            n_rows += p.n;
            sffn_rows_dot(w->k, &ffn->gate, &list, p.start, p.n, &in.gate, w->tile, g);
            if (ffn->is_gated)
                sffn_rows_dot(w->k, &ffn->up, &list, p.start, p.n, &in.up, w->tile, u);
            for (size_t i = 0; i < p.n; i++) {
                const uint32_t row = (uint32_t)(p.start + i);
                for (size_t t = 0; t < w->tile; t++) {
                    const float s = sffn_activate(
                        ffn, g[i * w->tile + t] + (ffn->gate_bias ? ffn->gate_bias[row] : 0.0f));
                    const float h =
                        ffn->is_gated ? sffn_make_h(ffn, row, s, u[i * w->tile + t]) : s;
                    list.values[(size_t)row * w->tile + t] = note_h(w, row, t, h);
                }
            }
        }
    }
    const uint64_t n = n_rows * w->tile;
    w->counters->selected += n;
    w->counters->active += n;
    w->counters->nonzero += n;
    w->counters->selected_rows += n_rows;
    w->counters->active_rows += n_rows;
    w->counters->nonzero_rows += n_rows;
}

/* Writes the active neurons of this thread's tokens to the caller's set. */
static void export_active(struct worker *w)
{
    sffn_active_set *set = w->call->args.active_out;
    for (size_t t = w->ith; set && t < w->tile; t += w->nth) {
        uint32_t *indices = sffn_active_set_begin(set, w->token + t);
        size_t n = 0;
        const struct sffn_list list = w->call->is_dense  ? every_row(w, NULL)
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
            weights[indices[i]] = weigh(w, indices[i], t, 1.0f);
    }
}

/* nonzero -> partial sums */
static void run_down(struct worker *w)
{
    export_active(w);
    const struct sffn_list list = w->call->is_dense ? every_row(w, w->w.nonzero.values)
                                                    : sffn_list_input(&w->w.nonzero, w->tile);
    sffn_axpy_accumulate(w->k, &w->ffn->down, &list, w->tile, &w->w.axpy, w->turns, w->ith, w->nth);
}

/* partial sums -> y */
static void run_reduce(struct worker *w)
{
    const struct sffn_ffn_args *args = &w->call->args;
    sffn_axpy_reduce(&w->ffn->down, w->tile, &w->w.axpy, w->ffn->down_bias,
                     args->y + w->token * args->y_stride, args->y_stride, w->ith, w->nth);
}

/* Tells what the call did, in its own statistics and the layer's. */
static void finish_call(const struct worker *w, uint32_t nth)
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

/* Compares what was selected for one token with what the whole gate finds, in this thread's share of the neurons. */
static void check_token(struct worker *w, size_t t)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list selected = selected_rows(w), all = {.rows = NULL};
    const struct sffn_x x = sffn_x_prepare(
        w->k, tile_x(w) + t * w->call->args.x_stride, w->call->args.x_stride, 1, ffn->gate.n_cols,
        sffn_is_quantized(ffn->gate.dtype), w->w.x + w->ith * w->w.x_bytes);
    float *g = w->w.values + w->ith * 2 * SFFN_CHUNK_VALUES;
    struct sffn_walk walk = sffn_walk_begin(&selected, 0, ffn->d_ff);
    size_t pos = 0; /* of the walk's stretch */
    int is_listed = sffn_walk_next(&walk);
    size_t first, last;
    sffn_share(ffn->d_ff, w->ith, w->nth, &first, &last);
    for (size_t start = first; start < last; start += SFFN_CHUNK_VALUES) {
        const size_t n = last - start < SFFN_CHUNK_VALUES ? last - start : SFFN_CHUNK_VALUES;
        sffn_rows_dot(w->k, &ffn->gate, &all, start, n, &x, 1, g);
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
            const float s =
                sffn_activate(ffn, g[i] + (ffn->gate_bias ? ffn->gate_bias[row] : 0.0f));
            const int is_true =
                !sffn_gate_drops(ffn, row, s) && (ffn->is_gated || !sffn_h_drops(ffn, row, s));
            w->counters->sampled_selected += (uint64_t)is_selected;
            w->counters->sampled_true += (uint64_t)is_true;
            w->counters->sampled_hits += (uint64_t)(is_selected && is_true);
        }
    }
}

/* Checks the tile's tokens whose turn it is. The row is not written before the last phase, so all threads agree. */
static void check_selection(struct worker *w)
{
    const uint64_t seen = sffn_stat_get(w->call->stats_row, SFFN_STAT_SELECTABLE) + w->token;
    for (size_t t = 0; t < w->tile; t++) {
        if ((seen + t + 1) % w->call->recall_every != 0)
            continue;
        check_token(w, t);
        w->counters->sampled_tokens++;
    }
}

/* The weights that came with the selection, if any. */
static void find_weights(struct worker *w)
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

static void run_stage(struct worker *w, uint32_t stage)
{
    switch (w->call->stages[stage]) {
    case SFFN_STAGE_CLEAR:
        clear_outputs(w);
        break;
    case SFFN_STAGE_SELECT:
        run_select(w, stage - w->call->select_stage);
        break;
    case SFFN_STAGE_GATE:
        run_gate(w, 0);
        break;
    case SFFN_STAGE_GATE_UP:
        run_gate(w, 1);
        break;
    case SFFN_STAGE_IMPORT:
        run_import(w);
        break;
    case SFFN_STAGE_UP:
        run_up(w);
        break;
    case SFFN_STAGE_CUT:
        run_cut(w);
        break;
    case SFFN_STAGE_KEEP:
        run_keep(w);
        break;
    case SFFN_STAGE_EXPORT:
        export_active(w);
        break;
    case SFFN_STAGE_DENSE_H:
        run_dense_h(w);
        break;
    case SFFN_STAGE_DOWN:
        run_down(w);
        break;
    case SFFN_STAGE_REDUCE:
        run_reduce(w);
        break;
    }
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
    struct worker w = {.k = k, .call = call, .ffn = call->ffn, .ith = ith, .nth = nth};
    sffn_workspace_layout(call->ffn, nth, &w.w, scratch);
    /* Everybody is past the phase before this one, whose turns are those of the next. */
    w.turns = phase > 0 || may_take ? w.w.turns + phase % 2 * nth : NULL;
    atomic_store_explicit(&w.w.turns[(phase + 1) % 2 * nth + ith].taken, 0, memory_order_relaxed);
    const uint32_t tile = phase / call->n_stages, stage = phase % call->n_stages;
    w.token = (size_t)tile * SFFN_TILE_TOKENS;
    w.tile = call->args.n_tokens - w.token < SFFN_TILE_TOKENS ? call->args.n_tokens - w.token
                                                              : SFFN_TILE_TOKENS;
    w.counters = &w.w.counters[ith];
    find_weights(&w);
    const int is_last = phase + 1 == call->n_stages * call->n_tiles;
    if (phase == 0) {
        memset(w.counters, 0, sizeof(*w.counters));
        if (ith == 0 && call->args.active_out)
            sffn_active_set_clear(call->args.active_out, call->args.n_tokens);
    }
    if (stage == 0)
        memset(w.w.axpy.h_max + ith * SFFN_TILE_TOKENS, 0, SFFN_TILE_TOKENS * sizeof(float));
    /* A stage lasts until the next one begins: what is measured includes waiting for the other threads. */
    w.collects_stats = collects_stats;
    const int is_timed = collects_stats && ith == 0;
    if (is_timed) {
        const uint64_t now = sffn_now_ns();
        if (phase > 0)
            w.counters->stage_ns[call->stages[(stage + call->n_stages - 1) % call->n_stages]] +=
                now - w.counters->mark_ns;
        w.counters->mark_ns = now;
    }
    if (call->recall_every && sffn_call_selects(call) && call->stages[stage] == SFFN_STAGE_DOWN) {
        check_selection(&w);
        if (is_timed) {
            const uint64_t now = sffn_now_ns();
            w.counters->check_ns += now - w.counters->mark_ns;
            w.counters->mark_ns = now;
        }
    }
    run_stage(&w, stage);
    if (is_timed && is_last)
        w.counters->stage_ns[call->stages[stage]] += sffn_now_ns() - w.counters->mark_ns;
    if (is_last && ith == 0 && (call->args.stats || call->stats))
        finish_call(&w, nth);
}
