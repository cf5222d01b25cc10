/* rows_dot_tmpl.h  Body of rows_dot for f32, f16 and bf16 rows. Contract: kernels.h.
 * Parameters: ISA, WT, WT_BYTES, wt_load, wt_load_part, VF_LEN, VF_TOKENS (1 .. 4), VF_ROWS (2 or 8), vf_*.
 *
 * Each (row, token) has four accumulators, whatever the number of tokens, so its bits depend on n alone: four chains hide the latency of
 * the multiply-add. Tokens beyond VF_TOKENS find the row in the cache. Named accumulators, never arrays: SVE vectors have no
 * compile-time size.
 *
 * When the inputs of all tokens are more than the first-level cache holds, DOT_ROWS rows go through one tile of columns after the other,
 * for a group of tokens at a time, and the accumulators wait in memory between the tiles, which changes no bit. The same serves gathered
 * rows of several tokens, and of one where VF_ROWS is 2 (ahead.h, is_gather()): on Zen 4 f32 rows of any length, 18.8 -> 20.7 GB/s, and short
 * rows of the other types, f16 of 2 KiB 13.9 -> 15.6; f16 of 8 KiB would lose, 20.6 -> 18.0.
 *
 * Listed rows of one token go VF_ROWS at a time, their accumulators in registers as far as they reach (a mask of 10.7 % on Zen 4, 4 rows / 8 rows:
 * f32 x1.15 / x1.22, bf16 x1.0 / x1.08).
 *
 * All rows for one token: on CPUs that follow one stream best (sffn_x.streams) one row after the other; f32 two at a time, one from each half,
 * so that x, which f32 rows push out of the first-level cache, is read once for two, and without prefetches (Zen 4 21 -> 24 GB/s). f16 and
 * bf16 keep the prefetches: without them 26 instead of 22 GB/s where x lies well, but 13 to 15 where its pages do not. On the others VF_ROWS
 * neighbours, where an ISA has the registers, side by side, without prefetches: Emerald Rapids, one / four threads, bf16 16 -> 19 / 46 -> 62
 * GB/s, f32 16 -> 20 / 50 -> 55. Neither way suits the other CPU: neighbours side by side fall from 21 to 18 on Zen 4, single rows without prefetches
 * from 11 to 8.5 on Emerald Rapids.
 */
#ifndef DOT_ROWS
#define DOT_ROWS 8
#define DOT_GROUP 4             /* tokens at a time there */
#define DOT_GATHER_BYTES 1024   /* of a gathered row before its neighbours' turn: whole steps of every type */
#define DOT_TILE_FLOATS 4096    /* of x, all tokens of a group together: 16 KiB */
#define DOT_VECTOR (4 * VF_LEN) /* columns per step; tiles are whole steps */
#endif

/* One tile of a row: n columns. T = n_tokens as a constant. state[t] holds the four accumulators of a token between tiles; out is written
 * with the last one. What T does not reach is not read. */
KERNEL_INLINE void KERNEL(dot_tokens)(const int T, int is_first, int is_last, float *const *state, float *const *out, const char *row,
                                      const struct ahead *ahead, const float *const *x, size_t n)
{
    const float *const x0 = x[0], *const x1 = T > 1 ? x[1] : NULL, *const x2 = T > 2 ? x[2] : NULL, *const x3 = T > 3 ? x[3] : NULL;
    vf a0 = vf_zero(), a1 = vf_zero(), a2 = vf_zero(), a3 = vf_zero();
    vf b0 = vf_zero(), b1 = vf_zero(), b2 = vf_zero(), b3 = vf_zero();
    vf c0 = vf_zero(), c1 = vf_zero(), c2 = vf_zero(), c3 = vf_zero();
    vf d0 = vf_zero(), d1 = vf_zero(), d2 = vf_zero(), d3 = vf_zero();
    size_t i = 0;
#define DOT_EACH(op) op(a, 0) if (T > 1) { op(b, 1) } if (T > 2) { op(c, 2) } if (T > 3) { op(d, 3) }
    if (!is_first) {
#define DOT_LOAD(acc, t)                             \
    acc##0 = vf_load(state[t]);                      \
    acc##1 = vf_load(state[t] + VF_LEN);             \
    acc##2 = vf_load(state[t] + 2 * VF_LEN);         \
    acc##3 = vf_load(state[t] + 3 * VF_LEN);
        DOT_EACH(DOT_LOAD)
#undef DOT_LOAD
    }
    for (; i + DOT_VECTOR <= n; i += DOT_VECTOR) {
        const vf w0 = wt_load(row, i), w1 = wt_load(row, i + VF_LEN);
        const vf w2 = wt_load(row, i + 2 * VF_LEN), w3 = wt_load(row, i + 3 * VF_LEN);
        if (ahead != NULL)
            ahead_fetch(ahead, i * WT_BYTES, DOT_VECTOR * WT_BYTES);
#define DOT_STEP(acc, t)                                          \
    acc##0 = vf_fma(w0, vf_load(x##t + i), acc##0);               \
    acc##1 = vf_fma(w1, vf_load(x##t + i + VF_LEN), acc##1);      \
    acc##2 = vf_fma(w2, vf_load(x##t + i + 2 * VF_LEN), acc##2);  \
    acc##3 = vf_fma(w3, vf_load(x##t + i + 3 * VF_LEN), acc##3);
        DOT_EACH(DOT_STEP)
#undef DOT_STEP
    }
    if (!is_last) {
#define DOT_STORE(acc, t)                            \
    vf_store(state[t], acc##0);                      \
    vf_store(state[t] + VF_LEN, acc##1);             \
    vf_store(state[t] + 2 * VF_LEN, acc##2);         \
    vf_store(state[t] + 3 * VF_LEN, acc##3);
        DOT_EACH(DOT_STORE)
#undef DOT_STORE
        return;
    }
    for (; i + VF_LEN <= n; i += VF_LEN) {
        const vf w0 = wt_load(row, i);
#define DOT_REST(acc, t) acc##0 = vf_fma(w0, vf_load(x##t + i), acc##0);
        DOT_EACH(DOT_REST)
#undef DOT_REST
    }
    if (i < n) {
        const vf w1 = wt_load_part(row, i, n - i);
#define DOT_PART(acc, t) acc##1 = vf_fma(w1, vf_load_part(x##t + i, n - i), acc##1);
        DOT_EACH(DOT_PART)
#undef DOT_PART
    }
#define DOT_SUM(acc, t) *out[t] = vf_sum(vf_add(vf_add(acc##0, acc##1), vf_add(acc##2, acc##3)));
    DOT_EACH(DOT_SUM)
#undef DOT_SUM
#undef DOT_EACH
}

/* R rows (2 or VF_ROWS) side by side, one token: for each the same sums as dot_tokens(1). ahead: NULL, or what to fetch for each. */
KERNEL_INLINE void KERNEL(dot_abreast)(const int R, float *const *out, const char *const *row, const struct ahead *ahead, const float *x,
                                       size_t n)
{
    size_t i = 0;
#define DOT_EACH(op)                                \
    op(a, 0) op(b, 1) if (R > 2)                    \
    {                                               \
        op(c, 2) op(d, 3)                           \
    }                                               \
    if (R > 4) {                                    \
        op(e, 4) op(f, 5) op(g, 6) op(h, 7)         \
    }
#define DOT_ZERO(acc, r) vf acc##0 = vf_zero(), acc##1 = vf_zero(), acc##2 = vf_zero(), acc##3 = vf_zero();
    DOT_ZERO(a, 0) DOT_ZERO(b, 1) DOT_ZERO(c, 2) DOT_ZERO(d, 3) DOT_ZERO(e, 4) DOT_ZERO(f, 5) DOT_ZERO(g, 6) DOT_ZERO(h, 7)
#undef DOT_ZERO
    for (; i + DOT_VECTOR <= n; i += DOT_VECTOR) {
        const vf x0 = vf_load(x + i), x1 = vf_load(x + i + VF_LEN);
        const vf x2 = vf_load(x + i + 2 * VF_LEN), x3 = vf_load(x + i + 3 * VF_LEN);
#define DOT_STEP(acc, r)                                                \
    acc##0 = vf_fma(wt_load(row[r], i), x0, acc##0);                    \
    acc##1 = vf_fma(wt_load(row[r], i + VF_LEN), x1, acc##1);           \
    acc##2 = vf_fma(wt_load(row[r], i + 2 * VF_LEN), x2, acc##2);       \
    acc##3 = vf_fma(wt_load(row[r], i + 3 * VF_LEN), x3, acc##3);       \
    if (ahead != NULL)                                                  \
        ahead_fetch(ahead + r, i * WT_BYTES, DOT_VECTOR * WT_BYTES);
        DOT_EACH(DOT_STEP)
#undef DOT_STEP
    }
    for (; i + VF_LEN <= n; i += VF_LEN) {
        const vf x0 = vf_load(x + i);
#define DOT_REST(acc, r) acc##0 = vf_fma(wt_load(row[r], i), x0, acc##0);
        DOT_EACH(DOT_REST)
#undef DOT_REST
    }
    if (i < n) {
        const vf x1 = vf_load_part(x + i, n - i);
#define DOT_PART(acc, r) acc##1 = vf_fma(wt_load_part(row[r], i, n - i), x1, acc##1);
        DOT_EACH(DOT_PART)
#undef DOT_PART
    }
#define DOT_SUM(acc, r) *out[r] = vf_sum(vf_add(vf_add(acc##0, acc##1), vf_add(acc##2, acc##3)));
    DOT_EACH(DOT_SUM)
#undef DOT_SUM
#undef DOT_EACH
}

/* The tokens of one row and tile, VF_TOKENS at a time. state: [n_tokens][DOT_VECTOR]. */
KERNEL_INLINE void KERNEL(dot_row)(int is_first, int is_last, float *state, float *out, const char *row, const struct ahead *ahead,
                                   const float *x, size_t x_stride, unsigned mask, size_t n_tokens, size_t n)
{
    struct row_tokens t;
    row_tokens_of(&t, mask, n_tokens);
    for (size_t k = 0; k < t.count; k += VF_TOKENS) {
        const size_t count = t.count - k < VF_TOKENS ? t.count - k : VF_TOKENS;
        float *states[VF_TOKENS], *outs[VF_TOKENS];
        const float *xs[VF_TOKENS];
        const struct ahead *fetch = k == 0 ? ahead : NULL;
        for (size_t i = 0; i < count; i++) {
            const size_t token = t.token[k + i];
            states[i] = state != NULL ? state + token * DOT_VECTOR : NULL;
            outs[i] = out + token;
            xs[i] = x + token * x_stride;
        }
        switch (count) {
        case 1:
            KERNEL(dot_tokens)(1, is_first, is_last, states, outs, row, fetch, xs, n);
            break;
#if VF_TOKENS > 2
        case 3:
            KERNEL(dot_tokens)(3, is_first, is_last, states, outs, row, fetch, xs, n);
            break;
        case 4:
            KERNEL(dot_tokens)(4, is_first, is_last, states, outs, row, fetch, xs, n);
            break;
#endif
        default:
            KERNEL(dot_tokens)(2, is_first, is_last, states, outs, row, fetch, xs, n);
            break;
        }
    }
}

/* One call. */
struct KERNEL(dot_job) {
    float *out;
    const void *w;
    size_t row_bytes;
    const uint32_t *rows;
    const uint8_t *masks;
    size_t n_rows;
    const struct sffn_x *x;
    size_t n_tokens, n;
    struct ahead_plan plan;
};

KERNEL_INLINE unsigned KERNEL(dot_mask)(const struct KERNEL(dot_job) *job, size_t r)
{
    return job->masks != NULL ? (unsigned)job->masks[r] : 0xffu;
}

/* Rows [first, last), DOT_ROWS at most, through tiles of `tile` columns. */
static void KERNEL(dot_tiles)(const struct KERNEL(dot_job) *job, size_t first, size_t last, size_t group, size_t tile)
{
    float state[DOT_ROWS][DOT_GROUP * DOT_VECTOR];
    for (size_t token = 0; token < job->n_tokens; token += group) {
        const size_t n_tokens = job->n_tokens - token < group ? job->n_tokens - token : group;
        for (size_t col = 0; col < job->n; col += tile) {
            const size_t n = job->n - col < tile ? job->n - col : tile;
            for (size_t r = first; r < last; r++) {
                /* the same tile of the row that takes this one's place among the next rows */
                const size_t next = r + DOT_ROWS < job->n_rows ? r + DOT_ROWS : r;
                const struct ahead ahead = { 0, (uintptr_t)row_at(job->w, job->row_bytes, job->rows, next) + col * WT_BYTES, 0 };
                KERNEL(dot_row)(col == 0, job->n - col <= tile, state[r - first], job->out + r * job->n_tokens + token,
                                row_at(job->w, job->row_bytes, job->rows, r) + col * WT_BYTES, token == 0 ? &ahead : NULL,
                                job->x->x + token * job->x->x_stride + col, job->x->x_stride, KERNEL(dot_mask)(job, r) >> token, n_tokens,
                                n);
            }
        }
    }
}

/* Rows of one token that are better read side by side; the others are left. Returns the first row that is. */
static size_t KERNEL(dot_one_token)(const struct KERNEL(dot_job) *job)
{
    const int streams = job->x->streams;
    const char *row[VF_ROWS];
    float *out[VF_ROWS];
    struct ahead ahead[VF_ROWS];
    size_t first = 0;
    if (job->rows == NULL && streams && WT_BYTES == 4) {
        const size_t half = job->n_rows / 2;
        for (; first < half; first++) {
            for (size_t r = 0; r < 2; r++) {
                row[r] = row_at(job->w, job->row_bytes, NULL, first + r * half);
                out[r] = job->out + first + r * half;
            }
            KERNEL(dot_abreast)(2, out, row, NULL, job->x->x, job->n);
        }
        return 2 * half;
    }
    if (VF_ROWS > 2 && (job->rows != NULL || !streams)) {
        for (; job->n_rows - first >= VF_ROWS; first += VF_ROWS) {
            for (size_t r = 0; r < VF_ROWS; r++) {
                row[r] = row_at(job->w, job->row_bytes, job->rows, first + r);
                out[r] = job->out + first + r;
                ahead[r] = ahead_of(&job->plan, row[r], job->w, job->row_bytes, job->rows, first + r, job->n_rows);
            }
            if (job->rows == NULL)
                KERNEL(dot_abreast)(VF_ROWS, out, row, NULL, job->x->x, job->n);
            else
                KERNEL(dot_abreast)(VF_ROWS, out, row, ahead, job->x->x, job->n);
        }
    }
    return first;
}

static void KERNEL(rows_dot)(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks, size_t n_rows,
                             const struct sffn_x *x, size_t n_tokens, size_t n)
{
    const int is_abreast = VF_ROWS > 2 && rows != NULL && masks == NULL && n_tokens == 1;
    const struct KERNEL(dot_job) job = {
        out, w, row_bytes, rows, masks, n_rows, x, n_tokens, n,
        ahead_plan_of(w, row_bytes, rows, n_rows, is_abreast ? VF_ROWS : 1, n * WT_BYTES),
    };
    const size_t group = n_tokens < DOT_GROUP ? n_tokens : DOT_GROUP;
    const int may_gather = n * WT_BYTES > DOT_GATHER_BYTES && (WT_BYTES == 4 || n * WT_BYTES <= 4096);
    size_t begin = 0;
    if (masks == NULL && n_tokens == 1)
        begin = KERNEL(dot_one_token)(&job);
    for (size_t first = begin; first < n_rows; first += DOT_ROWS) {
        const size_t last = n_rows - first < DOT_ROWS ? n_rows : first + DOT_ROWS;
        if (n_tokens > 1 && n * n_tokens > DOT_TILE_FLOATS) {
            KERNEL(dot_tiles)(&job, first, last, group, DOT_TILE_FLOATS / group / DOT_VECTOR * DOT_VECTOR);
        } else if (may_gather && last - first == DOT_ROWS && is_gather(rows, first, DOT_ROWS)) {
            KERNEL(dot_tiles)(&job, first, last, group, DOT_GATHER_BYTES / WT_BYTES);
        } else {
            for (size_t r = first; r < last; r++) {
                const char *row = row_at(w, row_bytes, rows, r);
                const struct ahead ahead = ahead_of(&job.plan, row, w, row_bytes, rows, r, n_rows);
                KERNEL(dot_row)(1, 1, NULL, out + r * n_tokens, row, &ahead, x->x, x->x_stride, KERNEL(dot_mask)(&job, r), n_tokens, n);
            }
        }
    }
}
