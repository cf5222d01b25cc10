#include "matmul/rows.h"

#include <float.h>
#include <math.h>
#include <string.h>

int sffn_walk_next(struct sffn_walk *w)
{
    const struct sffn_list *list = w->list;
    while (w->segment < list->n_segments && w->passed < w->last) {
        const struct sffn_segment s = list->segments[w->segment++];
        const size_t begin = w->passed > w->first ? w->passed : w->first;
        const size_t end = w->passed + s.n < w->last ? w->passed + s.n : w->last;
        const size_t skip = begin - w->passed;
        w->passed += s.n;
        if (begin < end) {
            w->start = s.start + skip;
            w->n = end - begin;
            return 1;
        }
    }
    return 0;
}

size_t sffn_list_count(const struct sffn_list *list)
{
    size_t n = 0;
    for (uint32_t i = 0; i < list->n_segments; i++)
        n += list->segments[i].n;
    return n;
}

void sffn_share(size_t n, uint32_t ith, uint32_t nth, size_t *first, size_t *last)
{
    *first = (size_t)((uint64_t)n * ith / nth);
    *last = (size_t)((uint64_t)n * (ith + 1) / nth);
}

int sffn_deal_next(struct sffn_deal *d)
{
    for (; d->owner < (d->turns ? d->nth : 1); d->owner++) {
        const uint32_t owner = (d->ith + d->owner) % d->nth;
        atomic_uint *taken = d->turns ? &d->turns[owner].taken : NULL;
        size_t first;
        sffn_share(d->n, owner, d->nth, &first, &d->last);
        /* Looking costs the others nothing where all is taken. */
        if (taken && atomic_load_explicit(taken, memory_order_relaxed) >= d->last - first)
            continue;
        d->piece = first +
                   (taken ? atomic_fetch_add_explicit(taken, 1, memory_order_relaxed) : d->taken++);
        if (d->piece < d->last)
            return 1;
    }
    return 0;
}

struct sffn_dealt sffn_dealt_begin(const struct sffn_list *list, size_t row_bytes,
                                   struct sffn_turn *turns, uint32_t ith, uint32_t nth)
{
    struct sffn_dealt d = {.n_rows = sffn_list_count(list), .walk = sffn_walk_begin(list, 0, 0)};
    const uint32_t per_thread =
        sffn_pieces_per_thread((uint64_t)d.n_rows * row_bytes, SFFN_MOST_PIECES, nth);
    d.deal = sffn_deal_begin(turns, (size_t)nth * per_thread, ith, nth);
    return d;
}

int sffn_dealt_next(struct sffn_dealt *d)
{
    while (!sffn_walk_next(&d->walk)) {
        size_t first, last;
        if (!sffn_deal_next(&d->deal))
            return 0;
        sffn_share(d->n_rows, (uint32_t)d->deal.piece, (uint32_t)d->deal.n, &first, &last);
        d->walk = sffn_walk_begin(d->walk.list, first, last);
    }
    return 1;
}

static size_t round_up_64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* From one token's numbers, n of them, to the next one's. Not the multiple of 4 KiB that they take with the usual n: the same columns of all tokens
 * would compete for a few places of the first-level cache. */
static size_t token_stride(size_t n)
{
    return n + 64;
}

/* Of a tile's x in blocks of 8 bits, and of its floats with every token on a cache line; side by side, since a layer may have both. */
static size_t x_blocks_bytes(size_t n)
{
    const size_t per_token =
        token_stride(n) + token_stride(n) / 32 * (sizeof(float) + sizeof(int32_t));
    return round_up_64(per_token * SFFN_TILE_TOKENS + 192);
}

size_t sffn_x_scratch_bytes(size_t n)
{
    return x_blocks_bytes(n) + round_up_64(n * sizeof(float)) * SFFN_TILE_TOKENS;
}

/* Vectors that straddle two cache lines cost a third of the rate (4 tokens, bf16 on Zen 4: 17 -> 12 GB/s). */
static void align_x(struct sffn_x *x, size_t n_tokens, size_t n, float *scratch)
{
    const size_t stride = round_up_64(n * sizeof(float)) / sizeof(float);
    for (size_t t = 0; t < n_tokens; t++)
        memcpy(scratch + t * stride, x->x + t * x->x_stride, n * sizeof(float));
    x->x = scratch;
    x->x_stride = stride;
}

struct sffn_x sffn_x_prepare(const struct sffn_kernels *k, const float *x, size_t x_stride,
                             size_t n_tokens, size_t n, int wants_q8, void *scratch)
{
    struct sffn_x out = {.x = x, .x_stride = x_stride, .streams = k->streams};
    if (!wants_q8) {
        if ((uintptr_t)x % 64 != 0 || (n_tokens > 1 && x_stride % 16 != 0))
            align_x(&out, n_tokens, n, (float *)((uint8_t *)scratch + x_blocks_bytes(n)));
        return out;
    }
    const size_t stride = token_stride(n), n_blocks = stride / 32;
    int8_t *q = scratch;
    float *d = (float *)(q + round_up_64(stride * SFFN_TILE_TOKENS));
    int32_t *sum = (int32_t *)(d + n_blocks * SFFN_TILE_TOKENS);
    for (size_t t = 0; t < n_tokens; t++)
        k->quantize_x.fn(q + t * stride, d + t * n_blocks, sum + t * n_blocks, x + t * x_stride, n);
    out.q = q;
    out.d = d;
    out.sum = sum;
    out.q_stride = stride;
    return out;
}

void sffn_rows_dot(const struct sffn_kernels *k, const struct sffn_matmul *m,
                   const struct sffn_list *list, size_t start, size_t n, const struct sffn_x *x,
                   size_t n_tokens, float *out)
{
    const uint8_t *w = list->rows ? m->data : m->data + start * m->stride;
    k->rows_dot[m->wtype].fn(out, w, m->stride, list->rows ? list->rows + start : NULL,
                             list->masks ? list->masks + start : NULL, n, x, n_tokens, m->n_cols);
}

/* ---- axpy ---- */

static size_t blocks_per_partition(uint32_t n_rows)
{
    return (n_rows / 32 + SFFN_PARTITIONS - 1) / SFFN_PARTITIONS + 1;
}

static int32_t *acc_of(const struct sffn_axpy_scratch *s, size_t n_cols, uint32_t ith, size_t t)
{
    return s->acc + (ith * SFFN_TILE_TOKENS + t) * token_stride(n_cols);
}

static int64_t *sum_of(const struct sffn_axpy_scratch *s, size_t n_cols, uint32_t ith, size_t t)
{
    return s->sum + (ith * SFFN_TILE_TOKENS + t) * token_stride(n_cols);
}

static float *partial_of(const struct sffn_axpy_scratch *s, size_t n_cols, size_t t, uint32_t p)
{
    return s->partial + t * token_stride(SFFN_PARTITIONS * n_cols) + p * n_cols;
}

size_t sffn_axpy_scratch_layout(int32_t dtype, uint32_t block_size, uint32_t n_rows,
                                uint32_t n_cols, uint32_t nth, struct sffn_axpy_scratch *s,
                                void *base)
{
    uint8_t *p = base;
    size_t used = 0;
#define TAKE(field, count)                                                                         \
    do {                                                                                           \
        if (base)                                                                                  \
            s->field = (void *)(p + used);                                                         \
        used += round_up_64((size_t)(count) * sizeof(*s->field));                                  \
    } while (0)
    if (sffn_is_quantized(dtype) && block_size == 1) {
        TAKE(acc, nth * SFFN_TILE_TOKENS * token_stride(n_cols));
        TAKE(sum, nth * SFFN_TILE_TOKENS * token_stride(n_cols));
        TAKE(has_sum, nth);
    } else {
        TAKE(partial, SFFN_TILE_TOKENS * token_stride((size_t)SFFN_PARTITIONS * n_cols));
    }
    if (block_size == 32) {
        const size_t n = nth * blocks_per_partition(n_rows);
        TAKE(hq, n * 32);
        TAKE(hq_d, n);
        TAKE(hq_sum, n);
    }
    TAKE(gather_h, (size_t)nth * SFFN_GATHER_ROWS);
    TAKE(gather_rows, (size_t)nth * SFFN_GATHER_ROWS);
    TAKE(h_max, (size_t)nth * SFFN_TILE_TOKENS);
#undef TAKE
    return used;
}

/* The tile's scale: v = rint(h * inv * d) fits SFFN_AXPY_V_MAX. 0: every product is zero (or below 1e-30, which is taken for zero);
 * NaN: something was not finite. */
static float tile_max(const struct sffn_axpy_scratch *s, size_t t, uint32_t nth)
{
    float max = 0;
    for (uint32_t i = 0; i < nth; i++)
        max = sffn_max_nan(max, s->h_max[i * SFFN_TILE_TOKENS + t]);
    if (!(max <= FLT_MAX))
        return NAN;
    return max < 1e-30f ? 0 : max;
}

static void drain(int32_t *acc, int64_t *sum, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        sum[j] += acc[j];
        acc[j] = 0;
    }
}

/* From which share of all (row, token) pairs on a batch with masks is faster when every token takes every listed row, with h = 0 where it does not
 * need it. Zen 4, 8 tokens, 11008 rows of 4096, of which each token needs 20 / 40 / 60 % (all together 83 / 98 / 100 %), token by token -> together:
 * q8_0 3.3 -> 4.5, 5.8 -> 5.8, 8.3 -> 5.3 ms; q4_0 1.8 -> 3.9, 3.2 -> 4.3, 4.6 -> 5.1; f32 of 30 % 11.2 -> 9.6, of 50 % 16.9 -> 9.8; bf16 of 50 % 9.0 -> 8.5. 4 tokens
 * cross at the same shares, AVX2's q8_0 somewhat later, 3 of f32 (x0.9 with 37 % of the pairs) too. Not measured on NEON. */
static double together_from(int32_t dtype, size_t n_tokens)
{
    return dtype == SFFN_Q4_0 ? 0.8 : dtype == SFFN_F32 && n_tokens >= 4 ? 0.3 : 0.5;
}

/* Whether entries [start, start + n) go that way. 0 * infinity would reach tokens that have no business with the row: not where one of the rows has an
 * infinite scale, or floats are not known to be finite. */
static int is_together(const struct sffn_matmul *m, const struct sffn_list *list, size_t start,
                       size_t n, size_t n_tokens)
{
    size_t n_pairs = 0;
    if (n_tokens == 1 || !list->masks)
        return n_tokens > 1;
    if (!m->row_scale_max && !m->is_finite)
        return 0;
    for (size_t pos = start; pos < start + n; pos++) {
        const size_t row = list->rows ? list->rows[pos] : pos;
        if (m->row_scale_max && !(m->row_scale_max[row] <= FLT_MAX))
            return 0;
        for (unsigned mask = list->masks[pos]; mask != 0; mask &= mask - 1)
            n_pairs++;
    }
    return (double)n_pairs >= together_from(m->dtype, n_tokens) * (double)(n * n_tokens);
}

/* The rows that token t needs among entries [start, start + n) of a list, n <= SFFN_GATHER_ROWS, with their h. Without masks every token needs all of
 * them, and the list itself serves, h[row * n_tokens + t]; else they are copied to a thread's buffers, h[row]. */
struct needed {
    const uint32_t *rows; /* NULL: consecutive, from first */
    const float *h;
    size_t first, n;
};

static struct needed all_rows(const struct sffn_list *list, size_t start, size_t n, size_t n_tokens)
{
    const struct needed all = {list->rows ? list->rows + start : NULL,
                               list->values + start * n_tokens, list->rows ? 0 : start, n};
    return all;
}

static struct needed needed_rows(const struct sffn_list *list, size_t start, size_t n, size_t t,
                                 size_t n_tokens, const struct sffn_axpy_scratch *s, uint32_t ith)
{
    if (!list->masks)
        return all_rows(list, start, n, n_tokens);
    uint32_t *rows = s->gather_rows + ith * SFFN_GATHER_ROWS;
    float *h = s->gather_h + ith * SFFN_GATHER_ROWS;
    size_t found = 0;
    for (size_t pos = start; pos < start + n; pos++) {
        if (!(list->masks[pos] >> t & 1))
            continue;
        rows[found] = list->rows ? list->rows[pos] : (uint32_t)pos;
        h[found++] = list->values[pos * n_tokens + t];
    }
    const struct needed some = {rows, h, 0, found};
    return some;
}

static void accumulate_int(const struct sffn_kernels *k, const struct sffn_matmul *m,
                           const struct sffn_list *list, size_t n_tokens,
                           const struct sffn_axpy_scratch *s, struct sffn_turn *turns, uint32_t ith,
                           uint32_t nth)
{
    const size_t n = m->n_cols, step = sffn_gather_rows(m, list);
    const size_t rows_max =
        m->dtype == SFFN_Q8_0 ? SFFN_AXPY_ROWS_MAX_Q8_0 : SFFN_AXPY_ROWS_MAX_Q4_0;
    float inv[SFFN_TILE_TOKENS];
    for (size_t t = 0; t < n_tokens; t++) {
        const float max = tile_max(s, t, nth);
        inv[t] = max > 0 ? SFFN_AXPY_V_MAX / max : 0;
        memset(acc_of(s, n, ith, t), 0, n * sizeof(*s->acc));
    }
    s->has_sum[ith] = 0;
    size_t since_drain = 0;
    struct sffn_dealt dealt = sffn_dealt_begin(list, m->stride, turns, ith, nth);
    while (sffn_dealt_next(&dealt)) {
        const struct sffn_walk walk = dealt.walk;
        for (size_t done = 0; done < walk.n; done += step) {
            const size_t chunk = walk.n - done < step ? walk.n - done : step;
            if (since_drain + chunk > rows_max) {
                for (size_t t = 0; t < n_tokens; t++) {
                    if (!s->has_sum[ith])
                        memset(sum_of(s, n, ith, t), 0, n * sizeof(*s->sum));
                    drain(acc_of(s, n, ith, t), sum_of(s, n, ith, t), n);
                }
                s->has_sum[ith] = 1;
                since_drain = 0;
            }
            since_drain += chunk;
            if (is_together(m, list, walk.start + done, chunk, n_tokens)) {
                const struct needed r = all_rows(list, walk.start + done, chunk, n_tokens);
                k->batch_axpy_int[m->wtype].fn(acc_of(s, n, ith, 0), token_stride(n),
                                               m->data + r.first * m->stride, m->stride, r.rows,
                                               r.h, inv, r.n, n_tokens, n);
                continue;
            }
            for (size_t t = 0; t < n_tokens; t++) {
                const struct needed r =
                    needed_rows(list, walk.start + done, chunk, t, n_tokens, s, ith);
                if (inv[t] > 0)
                    k->rows_axpy_int[m->wtype].fn(acc_of(s, n, ith, t),
                                                  m->data + r.first * m->stride, m->stride, r.rows,
                                                  r.h, inv[t], r.n, n);
            }
        }
    }
}

/* First position of a segment whose row is >= row. */
static size_t lower_bound(const struct sffn_list *list, struct sffn_segment s, uint32_t row)
{
    size_t lo = 0, hi = s.n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const size_t pos = s.start + mid;
        if ((list->rows ? list->rows[pos] : pos) < row)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Neurons of partition p: a fixed cut, in whole blocks. */
static uint32_t partition_first(const struct sffn_matmul *m, uint32_t p)
{
    const uint64_t n = m->n_rows / m->block_size;
    return (uint32_t)(n * p / SFFN_PARTITIONS) * m->block_size;
}

/* Into how many column slices a partition is cut so that nth threads are evenly busy with long pieces: two at least for each, or eight where they
 * can't be the same number. */
static uint32_t n_slices(size_t n_cols, uint32_t nth)
{
    uint32_t slices = 1;
    const uint32_t least = SFFN_PARTITIONS % nth == 0 ? 2 : 8;
    while (SFFN_PARTITIONS * slices < least * nth && n_cols / (slices * 2) >= 256)
        slices *= 2;
    return slices;
}

/* Columns [col, col + n) of partition p. The rows of those up to p_end come next, unless others take them, and may be fetched. */
static void accumulate_rows(const struct sffn_kernels *k, const struct sffn_matmul *m,
                            const struct sffn_list *list, size_t n_tokens,
                            const struct sffn_axpy_scratch *s, uint32_t ith, uint32_t p,
                            uint32_t p_end, size_t col, size_t n)
{
    const size_t n_cols = m->n_cols, step = sffn_gather_rows(m, list);
    const int is_whole = n_tokens == 1 && !list->masks; /* the list itself serves */
    const uint8_t *w = m->data + sffn_dtype_row_bytes(m->dtype, col);
    for (size_t t = 0; t < n_tokens; t++)
        memset(partial_of(s, n_cols, t, p) + col, 0, n * sizeof(float));
    for (uint32_t g = 0; g < list->n_segments; g++) {
        const struct sffn_segment segment = list->segments[g];
        const size_t first = lower_bound(list, segment, partition_first(m, p));
        const size_t last = lower_bound(list, segment, partition_first(m, p + 1));
        const size_t end = is_whole ? lower_bound(list, segment, partition_first(m, p_end)) : last;
        for (size_t done = first; done < last; done += step) {
            const size_t chunk = last - done < step ? last - done : step;
            if (is_together(m, list, segment.start + done, chunk, n_tokens)) {
                const struct needed r = all_rows(list, segment.start + done, chunk, n_tokens);
                k->batch_axpy[m->dtype].fn(
                    partial_of(s, n_cols, 0, p) + col, token_stride(SFFN_PARTITIONS * n_cols),
                    w + r.first * m->stride, m->stride, r.rows, r.h, r.n, n_tokens, n);
                continue;
            }
            for (size_t t = 0; t < n_tokens; t++) {
                const struct needed r =
                    needed_rows(list, segment.start + done, chunk, t, n_tokens, s, ith);
                k->rows_axpy[m->dtype].fn(partial_of(s, n_cols, t, p) + col,
                                          w + r.first * m->stride, m->stride, r.rows, r.h, r.n,
                                          is_whole ? end - done - chunk : 0, n);
            }
        }
    }
}

/* Lossless blocks: h of an expert is quantised to one block of 32, as ggml does, and meets the expert's n_cols blocks. */
static void accumulate_blocks(const struct sffn_kernels *k, const struct sffn_matmul *m,
                              const struct sffn_list *list, size_t n_tokens,
                              const struct sffn_axpy_scratch *s, uint32_t ith, uint32_t p,
                              size_t col, size_t n)
{
    const size_t room = blocks_per_partition(m->n_rows), n_cols = m->n_cols;
    int8_t *q = s->hq + ith * room * 32;
    float *d = s->hq_d + ith * room;
    int32_t *sum = s->hq_sum + ith * room;
    const uint32_t begin = partition_first(m, p), end = partition_first(m, p + 1);
    const uint8_t *w = m->data + sffn_dtype_row_bytes(m->dtype, col * 32);
    for (size_t t = 0; t < n_tokens; t++) {
        float *y = partial_of(s, n_cols, t, p) + col;
        memset(y, 0, n * sizeof(float));
        float h[32];
        uint32_t blocks[SFFN_GATHER_ROWS], n_blocks = 0, current = UINT32_MAX;
        const struct sffn_x x = {.q = q, .d = d, .sum = sum};
        for (uint32_t g = 0; g <= list->n_segments; g++) {
            const struct sffn_segment none = {0, 0};
            const struct sffn_segment segment = g < list->n_segments ? list->segments[g] : none;
            const size_t first = lower_bound(list, segment, begin),
                         last = lower_bound(list, segment, end);
            for (size_t i = first; i <= last; i++) {
                const size_t pos = segment.start + i;
                const int at_end = i == last;
                if (at_end && g < list->n_segments)
                    break;
                if (!at_end && list->masks && !(list->masks[pos] >> t & 1))
                    continue;
                const uint32_t row = at_end ? 0 : list->rows ? list->rows[pos] : (uint32_t)pos;
                const uint32_t block = at_end ? UINT32_MAX : row / 32;
                if (block != current) {
                    if (current != UINT32_MAX) {
                        blocks[n_blocks] = current;
                        k->quantize_x.fn(q + n_blocks * 32, d + n_blocks, sum + n_blocks, h, 32);
                        n_blocks++;
                    }
                    if (n_blocks == SFFN_GATHER_ROWS || n_blocks == room || at_end) {
                        k->blocks_axpy[m->dtype].fn(y, w, m->stride, blocks, &x, n_blocks, n);
                        n_blocks = 0;
                    }
                    memset(h, 0, sizeof(h));
                    current = block;
                }
                if (!at_end)
                    h[row % 32] = list->values[pos * n_tokens + t];
            }
        }
    }
}

void sffn_axpy_accumulate(const struct sffn_kernels *k, const struct sffn_matmul *m,
                          const struct sffn_list *list, size_t n_tokens,
                          const struct sffn_axpy_scratch *s, struct sffn_turn *turns, uint32_t ith,
                          uint32_t nth)
{
    if (sffn_is_quantized(m->dtype) && m->block_size == 1) {
        accumulate_int(k, m, list, n_tokens, s, turns, ith, nth);
        return;
    }
    const uint32_t slices = n_slices(m->n_cols, nth);
    const uint64_t bytes = (uint64_t)sffn_list_count(list) * m->stride / m->block_size;
    struct sffn_deal deal =
        sffn_deal_begin(sffn_pieces_per_thread(bytes, 2, nth) > 1 ? turns : NULL,
                        SFFN_PARTITIONS * slices, ith, nth);
    while (sffn_deal_next(&deal)) {
        const uint32_t p = (uint32_t)deal.piece / slices, slice = (uint32_t)deal.piece % slices;
        /* Slices begin on cache lines of every type. */
        const size_t unit = 64, n_units = (m->n_cols + unit - 1) / unit;
        const size_t col = n_units * slice / slices * unit;
        const size_t end = slice + 1 == slices ? m->n_cols : n_units * (slice + 1) / slices * unit;
        if (m->block_size == 32)
            accumulate_blocks(k, m, list, n_tokens, s, ith, p, col, end - col);
        else
            accumulate_rows(k, m, list, n_tokens, s, ith, p,
                            slices == 1 ? (uint32_t)deal.last : p + 1, col, end - col);
    }
}

enum { REDUCE_COLUMNS = 256 };

/* In doubles, which hold every one of these integers: at most 2^32 rows of 2^21 each. Conversions of 32 bits are vectors everywhere. */
static void reduce_int(const struct sffn_matmul *m, size_t t, const struct sffn_axpy_scratch *s,
                       const float *bias, float *y, size_t first, size_t last, uint32_t nth)
{
    const float max = tile_max(s, t, nth);
    const float inv = max > 0 ? SFFN_AXPY_V_MAX / max : 0;
    const double scale = max > 0 ? 1.0 / (double)inv : (double)max;
    double total[REDUCE_COLUMNS];
    for (size_t from = first; from < last; from += REDUCE_COLUMNS) {
        const size_t n = last - from < REDUCE_COLUMNS ? last - from : REDUCE_COLUMNS;
        memset(total, 0, sizeof(total));
        for (uint32_t i = 0; i < nth; i++) {
            const int32_t *acc = acc_of(s, m->n_cols, i, t) + from;
            const int64_t *sum = sum_of(s, m->n_cols, i, t) + from;
            for (size_t j = 0; j < n; j++)
                total[j] += acc[j];
            for (size_t j = 0; s->has_sum[i] && j < n; j++)
                total[j] += (double)sum[j];
        }
        for (size_t j = 0; j < n; j++)
            y[from + j] = (float)(total[j] * scale);
        for (size_t j = 0; bias && j < n; j++)
            y[from + j] += bias[from + j];
    }
}

/* Five partitions at a time: y is loaded and stored three times instead of fifteen. */
_Static_assert(SFFN_PARTITIONS % 5 == 1, "the first one, then fives");
static void reduce_float(const struct sffn_matmul *m, size_t t, const struct sffn_axpy_scratch *s,
                         const float *bias, float *restrict y, size_t first, size_t last)
{
    const size_t n = m->n_cols;
    const float *partial = partial_of(s, n, t, 0);
    for (size_t j = first; j < last; j++)
        y[j] = partial[j] + 0.0f; /* never -0, which h = 0 times a row would make 0 */
    for (uint32_t p = 1; p < SFFN_PARTITIONS; p += 5) {
        const float *from = partial + p * n;
        for (size_t j = first; j < last; j++)
            y[j] = ((((y[j] + from[j]) + from[n + j]) + from[2 * n + j]) + from[3 * n + j]) +
                   from[4 * n + j];
    }
    for (size_t j = first; bias && j < last; j++)
        y[j] += bias[j];
}

void sffn_axpy_reduce(const struct sffn_matmul *m, size_t n_tokens,
                      const struct sffn_axpy_scratch *s, const float *bias, float *y,
                      size_t y_stride, uint32_t ith, uint32_t nth)
{
    size_t first, last;
    sffn_share((m->n_cols + 15) / 16, ith, nth, &first, &last);
    first *= 16;
    last = last * 16 < m->n_cols ? last * 16 : m->n_cols;
    for (size_t t = 0; t < n_tokens; t++) {
        if (sffn_is_quantized(m->dtype) && m->block_size == 1)
            reduce_int(m, t, s, bias, y + t * y_stride, first, last, nth);
        else
            reduce_float(m, t, s, bias, y + t * y_stride, first, last);
    }
}

/* ---- lists from sets ---- */

size_t sffn_lower_bound(const uint32_t *v, size_t n, uint32_t key)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (v[mid] < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void sffn_list_from_set(const sffn_active_set *set, size_t token, size_t n_tokens, uint32_t n_rows,
                        struct sffn_list *list, uint32_t ith, uint32_t nth)
{
    const uint32_t block_size = sffn_active_set_block_size(set);
    size_t first, last;
    sffn_share(n_rows / block_size, ith, nth, &first, &last);
    const size_t base = first * block_size;
    /* Masks of the share by row first; then only the rows with a bit stay. */
    uint8_t *masks = list->masks + base;
    memset(masks, 0, (last - first) * block_size);
    for (size_t t = 0; t < n_tokens; t++) {
        const uint32_t *blocks = sffn_active_set_indices(set, token + t);
        const size_t n = sffn_active_set_count(set, token + t);
        for (size_t i = sffn_lower_bound(blocks, n, (uint32_t)first); i < n && blocks[i] < last;
             i++)
            for (uint32_t r = 0; r < block_size; r++)
                masks[(blocks[i] - first) * block_size + r] |= (uint8_t)(1u << t);
    }
    size_t n = 0;
    for (size_t i = 0; i < (last - first) * block_size; i++) {
        const uint8_t mask = masks[i];
        masks[n] = mask;
        list->rows[base + n] = (uint32_t)(base + i);
        n += mask != 0;
    }
    list->segments[ith].start = base;
    list->segments[ith].n = n;
}
