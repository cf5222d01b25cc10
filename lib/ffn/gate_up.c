/* gate_up.c  Stages that read the gate and the up matrix: from neurons to their h. */
#include <math.h>

#include "base/context.h"
#include "ffn/worker.h"

static struct sffn_x prepare_x(const struct sffn_worker *w, const struct sffn_matmul *m)
{
    return sffn_x_prepare(w->k, sffn_tile_x(w), w->call->args.x_stride, w->tile, m->n_cols,
                          sffn_is_quantized(m->dtype), w->w.x + w->ith * w->w.x_bytes);
}

/* x as the gate and the up rows want it. */
struct inputs {
    struct sffn_x gate, up;
    int is_ready;
};

/* Not before there is something to do: others may have taken all of a late thread's pieces. */
static void prepare_inputs(const struct sffn_worker *w, struct inputs *in, int for_gate, int for_up)
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

/* The rows of a stage come in pieces (sffn_deal). Which thread did one is nowhere to be seen: it appends to the piece's own segment. */
struct pieces {
    const struct sffn_list *list;
    struct sffn_list *made; /* NULL: no list is made */
    size_t n_rows;          /* of list */
    uint32_t per_thread;
    struct sffn_deal deal;
    /* The piece: */
    struct sffn_walk walk;
    size_t passed;            /* of walk's stretch */
    uint32_t segment;         /* of the lists that are made */
    struct sffn_appender out; /* to this segment of `made` */
    /* Its next rows, at most SFFN_CHUNK_VALUES / tokens: */
    size_t start, n; /* positions in the list */
};

static struct pieces pieces_of(const struct sffn_worker *w, const struct sffn_list *list,
                               struct sffn_list *made, const struct sffn_matmul *m)
{
    struct pieces p = {.list = list, .made = made, .n_rows = sffn_list_count(list)};
    p.per_thread = sffn_pieces_per_thread((uint64_t)p.n_rows * m->row_bytes, w->w.n_pieces, w->nth);
    p.deal = sffn_deal_begin(w->turns, (size_t)w->nth * p.per_thread, w->ith, w->nth);
    if (made)
        sffn_clear_segments(w, made, p.per_thread);
    return p;
}

/* Takes the next piece, 0: there is none. */
static int next_piece(const struct sffn_worker *w, struct pieces *p)
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
        p->out = sffn_append_to(p->made, p->segment, first);
    return 1;
}

/* The next rows of the piece, 0: there are none. */
static int next_chunk(const struct sffn_worker *w, struct pieces *p)
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

/* v[i][t] += the bias of row i; rows NULL: start + i. */
static void add_bias(const float *bias, const uint32_t *rows, size_t start, size_t n,
                     size_t n_tokens, float *v)
{
    if (!bias)
        return;
    if (!rows && n_tokens == 1) {
        for (size_t i = 0; i < n; i++)
            v[i] += bias[start + i];
        return;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < n_tokens; t++)
            v[i * n_tokens + t] += bias[rows ? rows[i] : start + i];
}

/* How a layer's gate values are decided. */
struct gate_rule {
    struct sffn_score_floor floor;
    int is_simple; /* the floor is all */
    int waits;
};

static struct gate_rule gate_rule_of(const struct sffn_worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    struct gate_rule r = {.waits = sffn_waits_for_rule(w, SFFN_ON_S)};
    r.is_simple = sffn_score_floor(ffn, &r.floor) && w->tile == 1 &&
                  (ffn->is_gated || (ffn->rule == SFFN_RULE_NONE && !w->weights));
    return r;
}

/* One token, and s alone decides: the vector kernel finds the survivors of a chunk. */
static void keep_above_floor(struct sffn_worker *w, struct sffn_appender *out, const uint32_t *rows,
                             size_t start, const float *s, size_t n,
                             const struct sffn_score_floor *f)
{
    const size_t at = out->segment->start + out->segment->n;
    uint32_t *kept = out->list->rows + at;
    const size_t n_kept = w->k->threshold.fn(kept, s, 0, n, f->t, f->keep_equal, f->use_abs);
    for (size_t i = 0; i < n_kept; i++) {
        const float v = s[kept[i]];
        kept[i] = rows ? rows[kept[i]] : (uint32_t)(start + kept[i]);
        out->list->masks[at + i] = 1;
        out->list->values[at + i] = w->ffn->is_gated ? v : sffn_note_h(w, kept[i], 0, v);
        if (w->call->s_out)
            w->call->s_out[w->token * w->ffn->d_ff + kept[i]] = v;
    }
    out->segment->n += n_kept;
    w->counters->active += n_kept;
    w->counters->selected += n;
}

/* The same for any rule and n_tokens, which is the tile's, as a constant where it is 1. */
static inline void keep_by_rule(struct sffn_worker *w, const struct gate_rule *r, struct pieces *p,
                                const float *s, const size_t n_tokens)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list *list = p->list;
    for (size_t i = 0; i < p->n; i++) {
        const uint32_t row = list->rows ? list->rows[p->start + i] : (uint32_t)(p->start + i);
        const unsigned wanted = list->masks ? list->masks[p->start + i] : (1u << n_tokens) - 1;
        float made[SFFN_TILE_TOKENS] = {0};
        unsigned kept = 0;
        for (size_t t = 0; t < n_tokens; t++) {
            if (!(wanted >> t & 1))
                continue;
            const float v = s[i * n_tokens + t];
            const float h = ffn->is_gated ? 0 : sffn_weigh(w, row, t, v);
            w->counters->selected++;
            if (sffn_gate_drops(ffn, row, v) || (!ffn->is_gated && sffn_h_drops(ffn, row, h)))
                continue;
            kept |= 1u << t;
            if (r->waits) {
                made[t] = v;
                w->w.rule_values[t * ffn->d_ff + row] = fabsf(ffn->rule_on == SFFN_ON_S ? v : h);
                continue;
            }
            made[t] = ffn->is_gated ? v : sffn_note_h(w, row, t, h);
            w->counters->active++;
            if (w->call->s_out)
                w->call->s_out[(w->token + t) * ffn->d_ff + row] = v;
        }
        if (kept)
            sffn_append(&p->out, row, kept, made, n_tokens);
    }
}

/* The gate products g of some rows: those that stay go to p->out, with s. */
static void decide_gate(struct sffn_worker *w, const struct gate_rule *r, struct pieces *p,
                        float *g)
{
    const uint32_t *rows = p->list->rows ? p->list->rows + p->start : NULL;
    add_bias(w->ffn->gate_bias, rows, p->start, p->n, w->tile, g);
    if (!r->is_simple || !r->floor.is_gate)
        sffn_activate(w->k, w->ffn, g, p->n * w->tile);
    if (r->is_simple)
        keep_above_floor(w, &p->out, rows, p->start, g, p->n, &r->floor);
    else if (w->tile == 1)
        keep_by_rule(w, r, p, g, 1);
    else
        keep_by_rule(w, r, p, g, w->tile);
}

/* Rows of active with their up products u: those whose h is not zero go to out. n_tokens: as in keep_by_rule(). */
static inline void keep_nonzero(struct sffn_worker *w, const struct sffn_list *active, size_t start,
                                size_t n, const float *u, struct sffn_appender *out,
                                const size_t n_tokens)
{
    const struct sffn_ffn *ffn = w->ffn;
    const int waits = sffn_waits_for_rule(w, SFFN_ON_H);
    for (size_t i = 0; i < n; i++) {
        const uint32_t row = active->rows[start + i];
        const unsigned wanted = active->masks ? active->masks[start + i] : 1u;
        float h[SFFN_TILE_TOKENS] = {0};
        unsigned kept = 0;
        for (size_t t = 0; t < n_tokens; t++) {
            if (!(wanted >> t & 1))
                continue;
            const float s = active->values[(start + i) * n_tokens + t];
            const float v = sffn_weigh(w, row, t, sffn_make_h(ffn, row, s, u[i * n_tokens + t]));
            if (sffn_h_drops(ffn, row, v))
                continue;
            kept |= 1u << t;
            if (waits) {
                h[t] = v;
                w->w.rule_values[t * ffn->d_ff + row] = fabsf(v);
                continue;
            }
            h[t] = sffn_note_h(w, row, t, v);
            w->counters->nonzero++;
        }
        if (kept)
            sffn_append(out, row, kept, h, n_tokens);
    }
}

/* The up products of rows of active; u: room for them. */
static void make_h(struct sffn_worker *w, const struct sffn_list *active, size_t start, size_t n,
                   const struct sffn_x *x, float *u, struct sffn_appender *out)
{
    sffn_rows_dot(w->k, &w->ffn->up, active, start, n, x, w->tile, u);
    if (w->tile == 1)
        keep_nonzero(w, active, start, n, u, out, 1);
    else
        keep_nonzero(w, active, start, n, u, out, w->tile);
}

/* A segment of active -> the same one of nonzero. */
static void run_up_of(struct sffn_worker *w, const struct sffn_x *x, uint32_t segment)
{
    const struct sffn_list active = sffn_list_input(&w->w.active, w->tile);
    const struct sffn_segment from = active.segments[segment];
    struct sffn_appender out = sffn_append_to(&w->w.nonzero, segment, from.start);
    float *u = sffn_products(w);
    const size_t most = SFFN_CHUNK_VALUES / w->tile;
    const uint64_t begin = w->collects_stats ? sffn_now_ns() : 0;
    for (size_t done = 0; done < from.n; done += most)
        make_h(w, &active, from.start + done, from.n - done < most ? from.n - done : most, x, u,
               &out);
    if (!sffn_waits_for_rule(w, SFFN_ON_H))
        w->counters->nonzero_rows += out.segment->n;
    if (w->collects_stats)
        w->counters->up_of_it_ns += sffn_now_ns() - begin;
}

void sffn_run_gate(struct sffn_worker *w, int with_up)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list list = sffn_selected_rows(w);
    struct inputs in = {0};
    float *g = sffn_products(w);
    const struct gate_rule rule = gate_rule_of(w);
    const uint64_t begin = with_up && w->collects_stats ? sffn_now_ns() : 0;
    if (w->ith == 0 && w->call->select != SFFN_SELECT_GATE && !list.rows)
        w->counters->widened += w->tile;
    struct pieces p = pieces_of(w, &list, ffn->is_gated ? &w->w.active : &w->w.nonzero, &ffn->gate);
    if (with_up)
        sffn_clear_segments(w, &w->w.nonzero, p.per_thread);
    while (next_piece(w, &p)) {
        prepare_inputs(w, &in, 1, with_up);
        while (next_chunk(w, &p)) {
            w->counters->selected_rows += p.n;
            if (list.masks) /* products that nobody asked for are not made, but activated */
                memset(g, 0, p.n * w->tile * sizeof(float));
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

void sffn_run_up(struct sffn_worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list list = sffn_list_input(&w->w.active, w->tile);
    struct inputs in = {0};
    float *u = sffn_products(w);
    struct pieces p = pieces_of(w, &list, &w->w.nonzero, &ffn->up);
    while (next_piece(w, &p)) {
        prepare_inputs(w, &in, 0, 1);
        while (next_chunk(w, &p))
            make_h(w, &list, p.start, p.n, &in.up, u, &p.out);
        if (!sffn_waits_for_rule(w, SFFN_ON_H))
            w->counters->nonzero_rows += p.out.segment->n;
    }
}

/* s * u of n_tokens values for each row from `start` on -> h, in s's place; n_tokens: as in keep_by_rule(). u NULL: s is h. */
static inline void note_all(struct sffn_worker *w, float *s, const float *u, size_t start, size_t n,
                            const size_t n_tokens)
{
    const struct sffn_ffn_args *args = &w->call->args;
    const float *scale = w->ffn->down.row_scale_max;
    for (size_t i = 0; u && w->ffn->activation == SFFN_ACT_DRELU && i < n * n_tokens; i++)
        s[i] *= u[i] <= 0 ? 0.0f : u[i];
    for (size_t i = 0; u && w->ffn->activation != SFFN_ACT_DRELU && i < n * n_tokens; i++)
        s[i] *= u[i];
    for (size_t t = 0; args->h && t < n_tokens; t++)
        for (size_t i = 0; i < n; i++)
            args->h[(w->token + t) * args->h_stride + start + i] = s[i * n_tokens + t];
    if (!scale)
        return;
    /* sffn_axpy_note() for all, in integers: floats without a sign are in the order of their bits, and NaN comes last. */
    int32_t max[SFFN_TILE_TOKENS] = {0};
    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < n_tokens; t++) {
            const float v = scale[start + i] * s[i * n_tokens + t];
            int32_t bits;
            memcpy(&bits, &v, sizeof bits);
            bits &= INT32_MAX;
            max[t] = bits > max[t] ? bits : max[t];
            s[i * n_tokens + t] = scale[start + i] == 0 ? 0 : s[i * n_tokens + t];
        }
    for (size_t t = 0; t < n_tokens; t++) {
        float *h_max = w->w.axpy.h_max + w->ith * SFFN_TILE_TOKENS + t, v;
        memcpy(&v, &max[t], sizeof v);
        *h_max = sffn_max_nan(*h_max, v);
    }
}

void sffn_run_dense_h(struct sffn_worker *w)
{
    const struct sffn_ffn *ffn = w->ffn;
    const struct sffn_list list = sffn_every_row(w, w->w.nonzero.values);
    struct inputs in = {0};
    float *room = ffn->is_gated ? sffn_products(w) : NULL;
    struct pieces p = pieces_of(w, &list, NULL, &ffn->gate);
    uint64_t n_rows = 0;
    while (next_piece(w, &p)) {
        prepare_inputs(w, &in, 1, ffn->is_gated);
        while (next_chunk(w, &p)) {
            float *s = list.values + p.start * w->tile, *u = room;
            n_rows += p.n;
            sffn_rows_dot(w->k, &ffn->gate, &list, p.start, p.n, &in.gate, w->tile, s);
            add_bias(ffn->gate_bias, NULL, p.start, p.n, w->tile, s);
            sffn_activate(w->k, ffn, s, p.n * w->tile);
            if (u) {
                sffn_rows_dot(w->k, &ffn->up, &list, p.start, p.n, &in.up, w->tile, u);
                add_bias(ffn->up_bias, NULL, p.start, p.n, w->tile, u);
            }
            if (w->tile == 1)
                note_all(w, s, u, p.start, p.n, 1);
            else
                note_all(w, s, u, p.start, p.n, w->tile);
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
