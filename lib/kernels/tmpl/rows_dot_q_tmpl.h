/* rows_dot_q_tmpl.h  Body of rows_dot for q8_0 and q4_0. Contract: kernels.h. Parameters: instantiate_q.h.
 *
 * VF_LEN blocks at a time: decoded once for all tokens of the row, one lane per block, so a (row, token) has a single accumulator whose
 * additions depend on n alone. The inputs are first copied in the order that quants_dot() wants, padded with zeros to whole steps; that
 * pays after a few rows, but has to fit the stack and the cache: PANEL_BLOCKS blocks, so longer rows are cut into panels of columns whose
 * sums are added in order, and more tokens go in groups over a few rows at a time.
 *
 * Gathered rows of one token go DOT_SIDE at a time (ahead.h, is_gather()), and so do all rows for one token where the CPU does not follow a
 * single stream best and an ISA has the registers (VF_ROWS): Emerald Rapids, one thread, q4_0 13.1 -> 14.5 GB/s, q8_0 no worse. Where it does,
 * they go one by one, without prefetches unless the panel is large (is_left_to_hardware()). An ISA may have DOT_TOGETHER neighbours at a time for
 * many tokens: dot_together_<s>(), same sums, where at least DOT_TOGETHER_PAIRS_<type>(n_tokens) of their products are wanted.
 */
#define PANEL_BLOCKS 1024
#define DOT_SIDE 8

struct KERNEL(panel) {
    _Alignas(64) int8_t q[32 * PANEL_BLOCKS];
    _Alignas(64) float d[PANEL_BLOCKS];
    _Alignas(64) int32_t offset[PANEL_BLOCKS];
    size_t quants; /* of a row: from the scale of the panel's first block to its quants, where they are apart */
};

/* The tokens of a group, `stride` blocks apart in the panel. */
static void KERNEL(panel_fill)(struct KERNEL(panel) *panel, const struct sffn_x *x, size_t first_token, size_t n_tokens,
                               size_t first_block, size_t n_blocks, size_t stride)
{
    for (size_t t = 0; t < n_tokens; t++) {
        const size_t from = (first_token + t) * (x->q_stride / 32) + first_block, to = t * stride;
        const size_t whole = n_blocks / VF_LEN * VF_LEN;
        memset(panel->d + to + whole, 0, (stride - whole) * sizeof *panel->d);
        memcpy(panel->d + to, x->d + from, n_blocks * sizeof *panel->d);
        memset(panel->offset + to + whole, 0, (stride - whole) * sizeof *panel->offset);
        for (size_t b = 0; b < n_blocks; b++)
            panel->offset[to + b] = x->sum[from + b] * KERNEL_JOIN2(QUANTS_OFFSET, WT);
        for (size_t b = 0; b < whole; b += VF_LEN)
            KERNEL(quants_arrange)(panel->q + 32 * (to + b), x->q + 32 * (from + b));
        if (whole < stride) {
            int8_t padded[32 * VF_LEN];
            memset(padded, 0, sizeof padded);
            memcpy(padded, x->q + 32 * (from + whole), 32 * (n_blocks - whole));
            KERNEL(quants_arrange)(panel->q + 32 * (to + whole), padded);
        }
    }
}

/* T = the number of tokens as a constant; add: to what an earlier panel left in out. */
KERNEL_INLINE void KERNEL(dot_row)(const size_t T, float *out, int add, const char *row, const struct ahead *ahead,
                                   const struct KERNEL(panel) *panel, const uint8_t *token, size_t n_blocks, size_t stride)
{
    vf acc[SFFN_TILE_TOKENS];
    struct KERNEL(quants) w;
    size_t block = 0, t;
    for (t = 0; t < T; t++)
        acc[t] = vf_zero();
    for (; block + VF_LEN <= n_blocks; block += VF_LEN) {
        vf scales;
        QUANTS_LOAD(&w, &scales, row, block, panel->quants);
        if (ahead != NULL)
            ahead_fetch(ahead, block * WT_BLOCK_BYTES, STEP_BYTES);
        for (t = 0; t < T; t++) {
            const size_t at = token[t] * stride + block;
            const vi dot = KERNEL(quants_dot)(&w, panel->q + 32 * at, panel->offset + at);
            acc[t] = vf_fma(vf_from_vi(dot), vf_mul(scales, vf_load(panel->d + at)), acc[t]);
        }
    }
    if (block < n_blocks) {
        vf scales;
        QUANTS_LOAD_PART(&w, &scales, row, block, panel->quants, n_blocks - block);
        if (ahead != NULL)
            ahead_fetch(ahead, block * WT_BLOCK_BYTES, STEP_BYTES);
        for (t = 0; t < T; t++) {
            const size_t at = token[t] * stride + block;
            const vi dot = KERNEL(quants_dot)(&w, panel->q + 32 * at, panel->offset + at);
            acc[t] = vf_fma(vf_from_vi(dot), vf_mul(scales, vf_load(panel->d + at)), acc[t]);
        }
    }
    for (t = 0; t < T; t++)
        out[token[t]] = add ? out[token[t]] + vf_sum(acc[t]) : vf_sum(acc[t]);
}

/* DOT_SIDE rows side by side, each with one token, whose first block in the panel is first[r]: the same sums as dot_row(1). */
KERNEL_INLINE void KERNEL(dot_rows)(float *const *out, int add, const char *const *row, const struct ahead *ahead,
                                    const struct KERNEL(panel) *panel, const size_t *first, size_t n_blocks)
{
    vf acc[DOT_SIDE];
    struct KERNEL(quants) w;
    vf scales;
    size_t block = 0, r;
    for (r = 0; r < DOT_SIDE; r++)
        acc[r] = vf_zero();
    for (; block + VF_LEN <= n_blocks; block += VF_LEN) {
        for (r = 0; r < DOT_SIDE; r++) {
            vi dot;
            QUANTS_LOAD(&w, &scales, row[r], block, panel->quants);
            ahead_fetch(ahead + r, block * WT_BLOCK_BYTES, STEP_BYTES);
            dot = KERNEL(quants_dot)(&w, panel->q + 32 * (first[r] + block), panel->offset + first[r] + block);
            acc[r] = vf_fma(vf_from_vi(dot), vf_mul(scales, vf_load(panel->d + first[r] + block)), acc[r]);
        }
    }
    for (r = 0; r < DOT_SIDE && block < n_blocks; r++) {
        vi dot;
        QUANTS_LOAD_PART(&w, &scales, row[r], block, panel->quants, n_blocks - block);
        ahead_fetch(ahead + r, block * WT_BLOCK_BYTES, STEP_BYTES);
        dot = KERNEL(quants_dot)(&w, panel->q + 32 * (first[r] + block), panel->offset + first[r] + block);
        acc[r] = vf_fma(vf_from_vi(dot), vf_mul(scales, vf_load(panel->d + first[r] + block)), acc[r]);
    }
    for (r = 0; r < DOT_SIDE; r++)
        *out[r] = add ? *out[r] + vf_sum(acc[r]) : vf_sum(acc[r]);
}

/* One call and one panel of columns. */
struct KERNEL(dot_job) {
    float *out;
    int add;
    const char *w; /* the panel's first column */
    size_t row_bytes;
    const uint32_t *rows;
    const uint8_t *masks;
    size_t n_rows, n_tokens, n_blocks, stride;
    int is_plain, is_abreast; /* all rows for one token: without prefetches, side by side */
    struct ahead_plan plan;
};

/* DOT_SIDE rows from position r. */
static void KERNEL(dot_side)(const struct KERNEL(dot_job) *job, const struct KERNEL(panel) *panel, float *const *out, const size_t *at,
                             size_t r)
{
    const char *row[DOT_SIDE];
    struct ahead ahead[DOT_SIDE];
    for (size_t i = 0; i < DOT_SIDE; i++) {
        row[i] = row_at(job->w, job->row_bytes, job->rows, r + i);
        ahead[i] = ahead_of(&job->plan, row[i], job->w, job->row_bytes, job->rows, r + i, job->n_rows);
    }
    KERNEL(dot_rows)(out, job->add, row, ahead, panel, at, job->n_blocks);
}

/* The row at position r x the tokens [token, token + count), which are in the panel. */
static void KERNEL(dot_one)(const struct KERNEL(dot_job) *job, const struct KERNEL(panel) *panel, size_t r, size_t token, size_t count)
{
    const char *row = row_at(job->w, job->row_bytes, job->rows, r);
    const struct ahead ahead = ahead_of(&job->plan, row, job->w, job->row_bytes, job->rows, r, job->n_rows);
    const struct ahead *fetch = token == 0 && !job->is_plain ? &ahead : NULL;
    float *out = job->out + r * job->n_tokens + token;
    struct row_tokens t;
    row_tokens_of(&t, (job->masks != NULL ? (unsigned)job->masks[r] : 0xffu) >> token, count);
    switch (t.count) {
    case 1:
        KERNEL(dot_row)(1, out, job->add, row, fetch, panel, t.token, job->n_blocks, job->stride);
        break;
    case 2:
        KERNEL(dot_row)(2, out, job->add, row, fetch, panel, t.token, job->n_blocks, job->stride);
        break;
    case 3:
        KERNEL(dot_row)(3, out, job->add, row, fetch, panel, t.token, job->n_blocks, job->stride);
        break;
    case 4:
        KERNEL(dot_row)(4, out, job->add, row, fetch, panel, t.token, job->n_blocks, job->stride);
        break;
    case 5:
        KERNEL(dot_row)(5, out, job->add, row, fetch, panel, t.token, job->n_blocks, job->stride);
        break;
    case 6:
        KERNEL(dot_row)(6, out, job->add, row, fetch, panel, t.token, job->n_blocks, job->stride);
        break;
    case 7:
        KERNEL(dot_row)(7, out, job->add, row, fetch, panel, t.token, job->n_blocks, job->stride);
        break;
    case 8:
        KERNEL(dot_row)(8, out, job->add, row, fetch, panel, t.token, job->n_blocks, job->stride);
        break;
    default:
        break;
    }
}

/* Rows [first, last) x the tokens [token, token + count), which are in the panel. */
static void KERNEL(dot_panel)(const struct KERNEL(dot_job) *job, const struct KERNEL(panel) *panel, size_t first, size_t last, size_t token,
                              size_t count)
{
    size_t r = first;
    while (r < last) {
        if (last - r >= DOT_SIDE && (job->is_abreast || is_gather(job->rows, r, DOT_SIDE))) {
            float *out[DOT_SIDE];
            size_t at[DOT_SIDE], side;
            for (side = 0; side < DOT_SIDE; side++) {
                const unsigned mask = ((job->masks != NULL ? (unsigned)job->masks[r + side] : 0xffu) >> token) & ((1u << count) - 1u);
                size_t t = 0;
                if (mask == 0 || (mask & (mask - 1)) != 0)
                    break; /* not exactly one token */
                while ((mask >> t & 1u) == 0)
                    t++;
                out[side] = job->out + (r + side) * job->n_tokens + token + t;
                at[side] = t * job->stride;
            }
            if (side == DOT_SIDE) {
                KERNEL(dot_side)(job, panel, out, at, r);
                r += DOT_SIDE;
                continue;
            }
        }
        KERNEL(dot_one)(job, panel, r, token, count);
        r++;
    }
}

#ifdef DOT_TOGETHER
/* Whether the DOT_TOGETHER rows from position r lie together and are better taken together, for all tokens. */
KERNEL_INLINE int KERNEL(are_together)(const struct KERNEL(dot_job) *job, size_t r)
{
    const size_t least = KERNEL_JOIN2(DOT_TOGETHER_PAIRS, WT)(job->n_tokens);
    size_t n_pairs = DOT_TOGETHER * job->n_tokens;
    if (job->n_tokens == 1 || n_pairs < least || job->n_rows - r < DOT_TOGETHER)
        return 0;
    for (size_t i = 0; job->rows != NULL && i < DOT_TOGETHER; i++)
        if (job->rows[r + i] != job->rows[r] + i)
            return 0;
    for (size_t i = 0; job->masks != NULL && i < DOT_TOGETHER; i++)
        n_pairs -= job->n_tokens - count_tokens(job->masks[r + i] & ((1u << job->n_tokens) - 1u));
    return n_pairs >= least;
}

static void KERNEL(dot_neighbours)(const struct KERNEL(dot_job) *job, const struct KERNEL(panel) *panel, const struct sffn_x *x, size_t block,
                                   size_t r)
{
    const char *row = row_at(job->w, job->row_bytes, job->rows, r);
    const char *next = job->n_rows - r >= 2 * DOT_TOGETHER ? row_at(job->w, job->row_bytes, job->rows, r + DOT_TOGETHER) : row;
    KERNEL(dot_together)(job->out + r * job->n_tokens, job->add, row, job->masks != NULL ? job->masks + r : NULL, job->row_bytes, (uintptr_t)next,
                         panel->quants, x, block, job->n_tokens, job->n_blocks);
}
#endif

static void KERNEL(rows_dot)(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                             size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    const int is_dense = rows == NULL && masks == NULL && n_tokens == 1;
    struct KERNEL(panel) panel;
    size_t block = 0;
    do {
        const size_t left = n / 32 - block, n_blocks = left < PANEL_BLOCKS ? left : PANEL_BLOCKS;
        const size_t stride = (n_blocks + VF_LEN - 1) / VF_LEN * VF_LEN;
        const size_t fit = stride != 0 ? PANEL_BLOCKS / stride : n_tokens, group = fit < n_tokens ? fit : n_tokens;
        const size_t chunk = group == n_tokens ? n_rows : 32; /* rows that stay in the cache for all groups */
        const char *const from = (const char *)w + block * WT_SCALE_STEP;
        const struct KERNEL(dot_job) job = {
            out, block != 0, from, row_bytes, rows, masks, n_rows, n_tokens, n_blocks, stride,
            is_dense && is_left_to_hardware(x, stride * (32 + sizeof(float) + sizeof(int32_t))), is_dense && !x->streams && VF_ROWS == 8,
            ahead_plan_of(from, row_bytes, rows, n_rows, rows != NULL ? DOT_SIDE : 1, n_blocks * WT_BLOCK_BYTES),
        };
        size_t in_panel = 0, last; /* tokens: those before this one, the last that were filled in */
        /* where they are apart: the scales of all blocks, and the quants of those before, less their scales */
        panel.quants = WT_IS_APART ? SFFN_APART_QUANTS(n / 32) + block * WT_BLOCK_BYTES - 2 * block * WT_SCALE_STEP : 0;
        for (size_t first = 0; first < n_rows; first = last) {
            last = n_rows - first < chunk ? n_rows : first + chunk;
#ifdef DOT_TOGETHER
            if (KERNEL(are_together)(&job, first)) {
                last = first + DOT_TOGETHER;
                KERNEL(dot_neighbours)(&job, &panel, x, block, first);
                continue;
            }
            for (size_t r = first + DOT_TOGETHER; r < last; r += DOT_TOGETHER)
                if (KERNEL(are_together)(&job, r))
                    last = r;
#endif
            for (size_t token = 0; token < n_tokens; token += group) {
                const size_t count = n_tokens - token < group ? n_tokens - token : group;
                if (in_panel != token + count)
                    KERNEL(panel_fill)(&panel, x, token, count, block, n_blocks, stride);
                in_panel = token + count;
                KERNEL(dot_panel)(&job, &panel, first, last, token, count);
            }
        }
        block += n_blocks;
    } while (block < n / 32);
}

#undef PANEL_BLOCKS
#undef DOT_SIDE
