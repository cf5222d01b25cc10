/* rows_dot_tmpl.h  Body of rows_dot for f32, f16 and bf16 rows. Contract: kernels.h.
 * Parameters: ISA, WT, WT_BYTES, wt_load, wt_load_part, perhaps wt_load_two, VF_LEN, VF_ROWS (1, 4 or 8), VF_TOKENS (2 or 4), VF_CHAINS (1
 * or 2), vf_*.
 *
 * Each (row, token) has VF_CHAINS accumulators, whatever else is computed with it, so its bits depend on n alone. Rows and tokens go in
 * blocks of such cells, whose chains hide the latency of the multiply-add: VF_ROWS rows for one token, DOT_BLOCK rows x VF_TOKENS
 * tokens, so that what is loaded and converted is used again (4 tokens, bf16 on Zen 4, one / two / four rows: 13.8 / 17.6 / 20 GB/s; f32, which
 * needs no conversion, 23.7 with two rows and 20 with four). Tokens beyond VF_TOKENS find the row in the cache, where four rows are better for f32, too
 * (8 tokens x1.08 to 1.16). Named accumulators, never
 * arrays: SVE vectors have no compile-time size.
 *
 * Several tokens: DOT_ROWS rows go through one tile of columns after the other, for VF_TOKENS tokens at a time, so that their inputs stay in the
 * first-level cache, and the accumulators wait in memory between the tiles, which changes no bit. Where each row has only one or two tokens
 * (masks), VF_ROWS (row, token) pairs go side by side instead, each with its own input (8 tokens of 10.7 % each, bf16 on Zen 4: 10.7 -> 18 GB/s).
 * Where a row has more tokens than that, tiles make its products with all of them, and drop those that nobody asked for: blocks of rows gain more than the
 * products cost (8 tokens, 30 % active for each, Zen 4: f32 14.1 -> 11.8 ms, as dense; 4 tokens of 50 % f32 x1.2, bf16 x1.09; bf16 of 8 x1.0;
 * AVX2 x1.0).
 * Tiles serve gathered rows of one token, too, where VF_ROWS is 1 (ahead.h, is_gather()): on Zen 4 f32 rows of any length, 18.8 -> 20.7 GB/s, and
 * short rows of the other types, f16 of 2 KiB 13.9 -> 15.6; f16 of 8 KiB would lose, 20.6 -> 18.0.
 *
 * Listed rows of one token go VF_ROWS at a time, their accumulators in registers as far as they reach (a mask of 10.7 % on Zen 4, 4 rows / 8 rows:
 * f32 x1.15 / x1.22, bf16 x1.0 / x1.08).
 *
 * All rows for one token, where the hardware reads a stream best (sffn_x.streams, Zen 4): while x stays in the first-level cache
 * (is_left_to_hardware()) two at a time, one from each half, without prefetches (11008 rows of 2048, single rows with prefetches -> so: bf16 22 -> 31
 * GB/s, f32 27 -> 29). Longer ones VF_ROWS side by side, which reads x once for all of them, each fetching its place in the next VF_ROWS rows (bf16
 * of 4096 22 -> 25, of 8192 14 -> 25, f32 of 4096 26 -> 27). On other CPUs VF_ROWS side by side, too, and nothing is fetched: Emerald Rapids, one /
 * four threads, bf16 16 -> 19 / 46 -> 62 GB/s, f32 16 -> 20 / 50 -> 55, and 5 to 10 % less with prefetches.
 *
 * A loop whose additions wait for one another until it is just as fast as the memory reads a stream best: its loads run far ahead, in order. So bf16
 * and f16 rows whose x is not much larger than the first-level cache go one by one, with prefetches, where a row has a single chain of vectors
 * of 64 bytes (about 30 GB/s from the cache; of 4096 26 -> 28, of 5120 26.5 -> 29, but with two chains 22), or two of half the width (AVX2, of 4096
 * 23 -> 27). A single chain serves blocks, too, whose cells are chains enough (8 tokens x1.03, one token on Emerald Rapids x1.0 to 1.05).
 */
#ifndef DOT_ROWS
#define DOT_ROWS 8
#define DOT_GATHER_BYTES 1024   /* of a gathered row before its neighbours' turn: whole steps of every type */
#define DOT_TILE_FLOATS 4096    /* of x, all tokens of a group together: 16 KiB */
#define DOT_VECTOR (4 * VF_LEN) /* columns per step; tiles are whole steps */
#define DOT_BLOCK (VF_CHAINS == 1 && VF_TOKENS == 4 ? 4 : 2) /* most rows for VF_TOKENS tokens */
#define DOT_IS_SHORT (VF_LEN * WT_BYTES < 32) /* a vector of weights */
#define DOT_FOR_ALL 4 /* from a fourth of all (row, token) pairs on tiles make all of them */
#define DOT_CHAIN_X_BYTES 20480u /* x of rows that go one by one */
/* The accumulator of a step's second vector. */
#if VF_CHAINS > 1
#define DOT_SECOND(acc) acc##1
#else
#define DOT_SECOND(acc) acc##0
#endif
#endif

/* n columns of R rows and T tokens, constants with R * T <= 16: cell c is row c % R and token c / R, or for pairs (T = 1) row c with an x of its
 * own. state[c] holds its accumulators between tiles, and is not used with a single one; out is written with the last one. Fetched
 * meanwhile: `ahead` for each row, or if NULL, what lies `next` bytes further, or if 0, nothing. */
KERNEL_INLINE void KERNEL(dot_cells)(const int R, const int T, const int pairs, int is_first, int is_last, float *const *state, float *const *out,
                                     const char *const *row, const struct ahead *ahead, size_t next, const float *const *x, size_t n)
{
    size_t i = 0;
#define DOT_X(cell) (pairs ? (cell) : (cell) / R)
#define DOT_EACH(op)                                     \
    op(a, 0)                                             \
    if (R * T > 1) { op(b, 1) }                          \
    if (R * T > 2) { op(c, 2) }                          \
    if (R * T > 3) { op(d, 3) }                          \
    if (R * T > 4) { op(e, 4) }                          \
    if (R * T > 5) { op(f, 5) }                          \
    if (R * T > 6) { op(g, 6) }                          \
    if (R * T > 7) { op(h, 7) }                          \
    if (R * T > 8) { op(k, 8) }                          \
    if (R * T > 9) { op(l, 9) }                          \
    if (R * T > 10) { op(m, 10) }                        \
    if (R * T > 11) { op(o, 11) }                        \
    if (R * T > 12) { op(p, 12) }                        \
    if (R * T > 13) { op(q, 13) }                        \
    if (R * T > 14) { op(s, 14) }                        \
    if (R * T > 15) { op(t, 15) }
#define DOT_ZERO(acc) vf acc##0 = vf_zero(), acc##1 = vf_zero();
    DOT_ZERO(a) DOT_ZERO(b) DOT_ZERO(c) DOT_ZERO(d) DOT_ZERO(e) DOT_ZERO(f) DOT_ZERO(g) DOT_ZERO(h)
    DOT_ZERO(k) DOT_ZERO(l) DOT_ZERO(m) DOT_ZERO(o) DOT_ZERO(p) DOT_ZERO(q) DOT_ZERO(s) DOT_ZERO(t)
#undef DOT_ZERO
    if (!is_first) {
#define DOT_LOAD(acc, cell)              \
    acc##0 = vf_load(state[cell]);       \
    if (VF_CHAINS > 1)                   \
        acc##1 = vf_load(state[cell] + VF_LEN);
        DOT_EACH(DOT_LOAD)
#undef DOT_LOAD
    }
    for (; i + DOT_VECTOR <= n; i += DOT_VECTOR) {
        for (int r = 0; r < R; r++) {
            if (ahead != NULL)
                ahead_fetch(ahead + r, i * WT_BYTES, DOT_VECTOR * WT_BYTES);
            else if (next != 0)
                fetch_lines((uintptr_t)row[r] + next + i * WT_BYTES, DOT_VECTOR * WT_BYTES);
        }
#define DOT_STEP(acc, cell)                                                           \
    {                                                                                 \
        vf low, high;                                                                 \
        if (T == 1) /* bf16 of 4096 on Zen 4: 24 -> 26 GB/s; several tokens lose */   \
            wt_load_two(row[cell % R], at, &low, &high);                              \
        else                                                                          \
            wt_load_each(row[cell % R], at, &low, &high);                             \
        acc##0 = vf_fma(low, vf_load(x[DOT_X(cell)] + at), acc##0);                   \
        DOT_SECOND(acc) = vf_fma(high, vf_load(x[DOT_X(cell)] + at + VF_LEN), DOT_SECOND(acc));   \
    }
        for (size_t at = i; at < i + DOT_VECTOR; at += 2 * VF_LEN) {
            DOT_EACH(DOT_STEP)
        }
#undef DOT_STEP
    }
    if (!is_last) {
#define DOT_STORE(acc, cell)             \
    vf_store(state[cell], acc##0);       \
    if (VF_CHAINS > 1)                   \
        vf_store(state[cell] + VF_LEN, acc##1);
        DOT_EACH(DOT_STORE)
#undef DOT_STORE
        return;
    }
    for (; i + VF_LEN <= n; i += VF_LEN) {
#define DOT_REST(acc, cell) acc##0 = vf_fma(wt_load(row[cell % R], i), vf_load(x[DOT_X(cell)] + i), acc##0);
        DOT_EACH(DOT_REST)
#undef DOT_REST
    }
    if (i < n) {
#define DOT_PART(acc, cell) \
    DOT_SECOND(acc) = vf_fma(wt_load_part(row[cell % R], i, n - i), vf_load_part(x[DOT_X(cell)] + i, n - i), DOT_SECOND(acc));
        DOT_EACH(DOT_PART)
#undef DOT_PART
    }
#define DOT_SUM(acc, cell) *out[cell] = vf_sum(VF_CHAINS > 1 ? vf_add(acc##0, acc##1) : acc##0);
    DOT_EACH(DOT_SUM)
#undef DOT_SUM
#undef DOT_EACH
#undef DOT_X
}

/* The tokens of one row and tile, VF_TOKENS at a time. state: [n_tokens][VF_CHAINS * VF_LEN]. */
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
            states[i] = state != NULL ? state + token * VF_CHAINS * VF_LEN : NULL;
            outs[i] = out + token;
            xs[i] = x + token * x_stride;
        }
        switch (count) {
        case 1:
            KERNEL(dot_cells)(1, 1, 0, is_first, is_last, states, outs, &row, fetch, 0, xs, n);
            break;
#if VF_TOKENS > 2
        case 3:
            KERNEL(dot_cells)(1, 3, 0, is_first, is_last, states, outs, &row, fetch, 0, xs, n);
            break;
        case 4:
            KERNEL(dot_cells)(1, 4, 0, is_first, is_last, states, outs, &row, fetch, 0, xs, n);
            break;
#endif
        default:
            KERNEL(dot_cells)(1, 2, 0, is_first, is_last, states, outs, &row, fetch, 0, xs, n);
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

/* R neighbours and T tokens in one tile. What a row's mask leaves out is made and dropped; masks NULL: nothing. */
KERNEL_INLINE void KERNEL(dot_block)(const int R, const int T, int is_first, int is_last, float *state, float *out, size_t n_tokens,
                                     const char *const *row, const uint8_t *masks, size_t token, const struct ahead *ahead, const float *x,
                                     size_t x_stride, size_t n)
{
    float *states[DOT_BLOCK * VF_TOKENS], *outs[DOT_BLOCK * VF_TOKENS], dropped;
    const float *xs[VF_TOKENS];
    for (int t = 0; t < T; t++) {
        for (int r = 0; r < R; r++) {
            states[R * t + r] = state + (r * VF_TOKENS + t) * VF_CHAINS * VF_LEN;
            outs[R * t + r] = out + (size_t)r * n_tokens + t;
            if (masks != NULL && (masks[r] >> (token + (size_t)t) & 1u) == 0)
                outs[R * t + r] = &dropped;
        }
        xs[t] = x + (size_t)t * x_stride;
    }
    KERNEL(dot_cells)(R, T, 0, is_first, is_last, states, outs, row, ahead, 0, xs, n);
}

/* Rows [first, last), DOT_ROWS at most, through tiles of `tile` columns. */
static void KERNEL(dot_tiles)(const struct KERNEL(dot_job) *job, size_t first, size_t last, size_t group, size_t tile)
{
    float state[DOT_ROWS][VF_TOKENS * VF_CHAINS * VF_LEN];
    for (size_t token = 0; token < job->n_tokens; token += group) {
        const size_t n_tokens = job->n_tokens - token < group ? job->n_tokens - token : group;
        const unsigned all = (1u << n_tokens) - 1u;
        const int may_pair = job->n_tokens > 1 && n_tokens <= VF_TOKENS;
        size_t col = 0, n_pairs = 0;
        for (size_t r = first; job->masks != NULL && r < last; r++)
            n_pairs += count_tokens((unsigned)job->masks[r] >> token & all);
        const int for_all = job->masks == NULL || DOT_FOR_ALL * n_pairs >= n_tokens * (last - first);
        do {
            const size_t n = job->n - col < tile ? job->n - col : tile;
            const int is_first = col == 0, is_last = job->n - col <= tile;
            const float *x = job->x->x + token * job->x->x_stride + col;
            for (size_t r = first; r < last; r++) {
                float *out = job->out + r * job->n_tokens + token, *kept = state[r - first];
                const unsigned mask = KERNEL(dot_mask)(job, r) >> token & all;
                const char *row[DOT_BLOCK];
                const uint8_t *masks = job->masks != NULL ? job->masks + r : NULL;
                struct ahead ahead[DOT_BLOCK];
                size_t side = 0; /* neighbours that go with all tokens */
                while (may_pair && side < DOT_BLOCK && r + side < last &&
                       (for_all || ((unsigned)masks[side] >> token & all) == all))
                    side++;
                for (size_t i = 0; i < DOT_BLOCK; i++) {
                    /* the same tile of the row that takes this one's place among the next rows */
                    const size_t at = r + i < last ? r + i : last - 1, next = at + DOT_ROWS < job->n_rows ? at + DOT_ROWS : at;
                    row[i] = row_at(job->w, job->row_bytes, job->rows, at) + col * WT_BYTES;
                    ahead[i].split = ahead[i].near = 0;
                    ahead[i].far = (uintptr_t)row_at(job->w, job->row_bytes, job->rows, next) + col * WT_BYTES;
                }
                const struct ahead *fetch = token == 0 ? ahead : NULL;
                if (DOT_BLOCK == 4 && side == 4 && (WT_BYTES == 2 || token > 0) && (n_tokens == VF_TOKENS || n_tokens == 1)) {
                    if (n_tokens == 1)
                        KERNEL(dot_block)(DOT_BLOCK, 1, is_first, is_last, kept, out, job->n_tokens, row, masks, token, fetch, x, job->x->x_stride, n);
                    else
                        KERNEL(dot_block)(DOT_BLOCK, VF_TOKENS, is_first, is_last, kept, out, job->n_tokens, row, masks, token, fetch, x, job->x->x_stride, n);
                    r += DOT_BLOCK - 1;
                } else if (side >= 2) {
                    switch (n_tokens) {
                    case 1:
                        KERNEL(dot_block)(2, 1, is_first, is_last, kept, out, job->n_tokens, row, masks, token, fetch, x, job->x->x_stride, n);
                        break;
#if VF_TOKENS > 2
                    case 3:
                        KERNEL(dot_block)(2, 3, is_first, is_last, kept, out, job->n_tokens, row, masks, token, fetch, x, job->x->x_stride, n);
                        break;
                    case 4:
                        KERNEL(dot_block)(2, 4, is_first, is_last, kept, out, job->n_tokens, row, masks, token, fetch, x, job->x->x_stride, n);
                        break;
#endif
                    default:
                        KERNEL(dot_block)(2, 2, is_first, is_last, kept, out, job->n_tokens, row, masks, token, fetch, x, job->x->x_stride, n);
                        break;
                    }
                    r++;
                } else {
                    KERNEL(dot_row)(is_first, is_last, kept, out, row[0], fetch, x, job->x->x_stride, mask, n_tokens, n);
                }
            }
            col += tile;
        } while (col < job->n);
    }
}

#if VF_ROWS > 1
/* Rows with a token each, waiting to be VF_ROWS. */
struct KERNEL(dot_pairs) {
    size_t n;
    const char *row[VF_ROWS];
    const float *x[VF_ROWS];
    float *out[VF_ROWS];
    struct ahead ahead[VF_ROWS];
};

static void KERNEL(dot_flush)(const struct KERNEL(dot_job) *job, struct KERNEL(dot_pairs) *p)
{
    if (p->n == VF_ROWS)
        KERNEL(dot_cells)(VF_ROWS, 1, 1, 1, 1, p->out, p->out, p->row, p->ahead, 0, p->x, job->n);
    else
        for (size_t i = 0; i < p->n; i++)
            KERNEL(dot_cells)(1, 1, 0, 1, 1, p->out + i, p->out + i, p->row + i, p->ahead + i, 0, p->x + i, job->n);
    p->n = 0;
}

/* Rows [first, last) of several tokens, of which each row has few: every row with every token of its own, unless there are too many. */
static int KERNEL(dot_few_tokens)(const struct KERNEL(dot_job) *job, size_t first, size_t last, struct KERNEL(dot_pairs) *p)
{
    size_t n = 0;
    for (size_t r = first; r < last; r++)
        for (unsigned mask = job->masks[r]; mask != 0; mask &= mask - 1u)
            n++;
    if (n > 2 * (last - first))
        return 0;
    for (size_t r = first; r < last; r++) {
        const char *row = row_at(job->w, job->row_bytes, job->rows, r);
        struct ahead ahead = ahead_of(&job->plan, row, job->w, job->row_bytes, job->rows, r, job->n_rows);
        for (size_t t = 0; t < job->n_tokens; t++) {
            if ((job->masks[r] >> t & 1u) == 0)
                continue;
            p->row[p->n] = row;
            p->x[p->n] = job->x->x + t * job->x->x_stride;
            p->out[p->n] = job->out + r * job->n_tokens + t;
            p->ahead[p->n] = ahead;
            if (++p->n == VF_ROWS)
                KERNEL(dot_flush)(job, p);
            ahead.near = ahead.far = (uintptr_t)row; /* once is enough */
        }
    }
    return 1;
}
#endif

/* Rows of one token that are better not read one by one with prefetches; returns the first row that is left for that. */
static size_t KERNEL(dot_one_token)(const struct KERNEL(dot_job) *job)
{
    const int is_chained = VF_CHAINS == 1 && WT_BYTES == 2 && job->x->streams && job->n * sizeof(float) <= DOT_CHAIN_X_BYTES;
    size_t first = 0;
    if (job->rows == NULL && is_left_to_hardware(job->x, job->n * sizeof(float))) {
        const size_t half = job->n_rows / 2;
        for (; first < half; first++) {
            const char *const row[2] = { row_at(job->w, job->row_bytes, NULL, first), row_at(job->w, job->row_bytes, NULL, first + half) };
            float *const out[2] = { job->out + first, job->out + first + half };
            KERNEL(dot_cells)(2, 1, 0, 1, 1, out, out, row, NULL, 0, &job->x->x, job->n);
        }
        return 2 * half;
    }
    if (VF_ROWS == 1 || (job->rows == NULL && (DOT_IS_SHORT || is_chained)))
        return first;
    for (; job->n_rows - first >= VF_ROWS; first += VF_ROWS) {
        const char *row[VF_ROWS];
        float *out[VF_ROWS];
        struct ahead ahead[VF_ROWS];
        for (size_t r = 0; r < VF_ROWS; r++) {
            row[r] = row_at(job->w, job->row_bytes, job->rows, first + r);
            out[r] = job->out + first + r;
            ahead[r] = ahead_of(&job->plan, row[r], job->w, job->row_bytes, job->rows, first + r, job->n_rows);
        }
        if (job->rows != NULL)
            KERNEL(dot_cells)(VF_ROWS, 1, 0, 1, 1, out, out, row, ahead, 0, &job->x->x, job->n);
        else if (job->x->streams)
            KERNEL(dot_cells)(VF_ROWS, 1, 0, 1, 1, out, out, row, NULL, VF_ROWS * job->row_bytes, &job->x->x, job->n);
        else
            KERNEL(dot_cells)(VF_ROWS, 1, 0, 1, 1, out, out, row, NULL, 0, &job->x->x, job->n);
    }
    return first;
}

static void KERNEL(rows_dot)(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks, size_t n_rows,
                             const struct sffn_x *x, size_t n_tokens, size_t n)
{
    const int is_abreast = VF_ROWS > 1 && rows != NULL && (masks != NULL || n_tokens == 1);
    const struct KERNEL(dot_job) job = {
        out, w, row_bytes, rows, masks, n_rows, x, n_tokens, n,
        ahead_plan_of(w, row_bytes, rows, n_rows, is_abreast ? VF_ROWS : 1, n * WT_BYTES),
    };
    const size_t group = n_tokens < VF_TOKENS ? n_tokens : VF_TOKENS;
    const int may_gather = n * WT_BYTES > DOT_GATHER_BYTES && (WT_BYTES == 4 || n * WT_BYTES <= 4096);
    size_t begin = 0;
#if VF_ROWS > 1
    struct KERNEL(dot_pairs) pairs;
    pairs.n = 0;
#endif
    if (masks == NULL && n_tokens == 1)
        begin = KERNEL(dot_one_token)(&job);
    for (size_t first = begin; first < n_rows; first += DOT_ROWS) {
        const size_t last = n_rows - first < DOT_ROWS ? n_rows : first + DOT_ROWS;
#if VF_ROWS > 1
        if (n_tokens > 1 && masks != NULL && KERNEL(dot_few_tokens)(&job, first, last, &pairs))
            continue;
#endif
        if (n_tokens > 1) {
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
#if VF_ROWS > 1
    KERNEL(dot_flush)(&job, &pairs);
#endif
}
