#include "matmul/matmul.h"

#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "matmul/apart.h"
#include "matmul/rows.h"

sffn_status sffn_matmul_create(sffn_context *ctx, const sffn_matmul_config *config,
                               sffn_matmul **out)
{
    if (!ctx || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "matmul" : "ctx");
    *out = NULL;
    sffn_matmul_config c = SFFN_MATMUL_CONFIG_INIT;
    struct sffn_pack_plan plan;
    sffn_status status = sffn_config_copy(ctx, "sffn_matmul_config", &c, sizeof(c), config);
    if (status == SFFN_OK)
        status = sffn_pack_plan(ctx, "matmul", &c, &plan);
    if (status != SFFN_OK)
        return status;
    sffn_matmul *m = sffn_mem_alloc_zero(ctx, sizeof(*m));
    if (!m)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "the allocator returned NULL for a matrix");
    size_t stride = c.weights.row_bytes ? c.weights.row_bytes : plan.row_bytes, bytes = 0;
    const uint8_t *data = c.weights.data;
    m->ctx = ctx;
    if (c.storage == SFFN_STORAGE_COPY) {
        if (!sffn_row_stride(plan.packed_bytes, &stride) ||
            !sffn_checked_mul(stride, plan.n_stored_rows, &bytes))
            status = sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                               "matmul: %u rows of %zu bytes do not fit in memory",
                               (unsigned)plan.n_stored_rows, plan.row_bytes);
        else if (!(m->owned = sffn_mem_alloc_weights(ctx, bytes)))
            status = sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                               "the allocator returned NULL for %zu bytes of weights", bytes);
        m->owned_bytes = bytes;
        data = m->owned;
        if (status == SFFN_OK)
            status = sffn_pack(ctx, &c, &plan, m->owned, stride);
    }
    if (status == SFFN_OK)
        status = sffn_matmul_init(ctx, m, &c, &plan, data, stride, 1);
    if (status != SFFN_OK) {
        sffn_matmul_destroy(m);
        return status;
    }
    *out = m;
    return SFFN_OK;
}

void sffn_matmul_destroy(sffn_matmul *m)
{
    if (!m)
        return;
    const sffn_context *ctx = m->ctx;
    if (m->n_rows == 0) /* creation failed before init: only owned memory exists */
        sffn_mem_free_weights(ctx, m->owned, m->owned_bytes);
    else
        sffn_matmul_fini(m);
    sffn_mem_free(ctx, m, sizeof(*m));
}

/* ---- products ---- */

struct product {
    const struct sffn_kernels *k;
    const struct sffn_matmul *m;
    const sffn_active_set *active;
    const float *in; /* x, or h */
    float *out;
    size_t in_stride, out_stride, n_tokens, token; /* token: first of the tile */
    size_t tile;                                   /* tokens in it */
    struct sffn_list list;
    struct sffn_turn *turns; /* [nth], of the phase that reads the weights */
    uint8_t *x_scratch;      /* per thread */
    float *values;           /* rows_dot: per thread; rows_axpy: [n_rows][tile] */
    struct sffn_axpy_scratch axpy;
};

#define DOT_CHUNK 256 /* rows whose results wait in the cache to be scattered */

static void build_list(struct product *p, uint32_t ith, uint32_t nth)
{
    if (p->active)
        sffn_list_from_set(p->active, p->token, p->tile, p->m->n_rows, &p->list, ith, nth);
}

static void scatter(const struct product *p, size_t start, size_t n, const float *values)
{
    for (size_t i = 0; i < n; i++) {
        const size_t row = p->list.rows ? p->list.rows[start + i] : start + i;
        const unsigned mask = p->list.masks ? p->list.masks[start + i] : 0xffu;
        for (size_t t = 0; t < p->tile; t++)
            if (mask >> t & 1)
                p->out[(p->token + t) * p->out_stride + row] = values[i * p->tile + t];
    }
}

static void dot_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    struct product *p = arg;
    size_t first, last;
    if (p->active && phase == 0) {
        build_list(p, ith, nth);
        sffn_share(p->m->n_rows, ith, nth, &first, &last);
        for (size_t t = 0; t < p->tile; t++)
            memset(p->out + (p->token + t) * p->out_stride + first, 0,
                   (last - first) * sizeof(float));
        return;
    }
    struct sffn_x x = {.x = NULL}; /* not made before there is a piece to do */
    float *values = p->values + ith * DOT_CHUNK * SFFN_TILE_TOKENS;
    const struct sffn_list list = sffn_list_input(&p->list, p->tile);
    struct sffn_dealt dealt = sffn_dealt_begin(&list, p->m->row_bytes, p->turns, ith, nth);
    while (sffn_dealt_next(&dealt)) {
        const size_t start = dealt.walk.start, n_rows = dealt.walk.n;
        if (!x.x)
            x = sffn_x_prepare(p->k, p->in + p->token * p->in_stride, p->in_stride, p->tile,
                               p->m->n_cols, sffn_is_quantized(p->m->dtype),
                               p->x_scratch + ith * sffn_x_scratch_bytes(p->m->n_cols));
        if (!list.rows && p->tile == 1) { /* dense decode: straight into out */
            sffn_rows_dot(p->k, p->m, &list, start, n_rows, &x, 1,
                          p->out + p->token * p->out_stride + start);
            continue;
        }
        for (size_t done = 0; done < n_rows; done += DOT_CHUNK) {
            const size_t n = n_rows - done < DOT_CHUNK ? n_rows - done : DOT_CHUNK;
            sffn_rows_dot(p->k, p->m, &list, start + done, n, &x, p->tile, values);
            scatter(p, start + done, n, values);
        }
    }
}

static void axpy_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    struct product *p = arg;
    const struct sffn_matmul *m = p->m;
    if (phase == 1) {
        const struct sffn_list list = sffn_list_input(&p->list, p->tile);
        sffn_axpy_accumulate(p->k, m, &list, p->tile, &p->axpy, p->turns, ith, nth);
        return;
    }
    if (phase == 2) {
        sffn_axpy_reduce(m, p->tile, &p->axpy, NULL, p->out + p->token * p->out_stride,
                         p->out_stride, ith, nth);
        return;
    }
    build_list(p, ith, nth);
    struct sffn_segment segment;
    if (p->active) {
        segment = p->list.segments[ith];
    } else {
        size_t last;
        sffn_share(m->n_rows, ith, nth, &segment.start, &last);
        segment.n = last - segment.start;
    }
    float *h_max = p->axpy.h_max + ith * SFFN_TILE_TOKENS;
    memset(h_max, 0, SFFN_TILE_TOKENS * sizeof(float));
    for (size_t pos = segment.start; pos < segment.start + segment.n; pos++) {
        const uint32_t row = p->list.rows ? p->list.rows[pos] : (uint32_t)pos;
        for (size_t t = 0; t < p->tile; t++) {
            p->values[pos * p->tile + t] = 0;
            if (p->list.masks && !(p->list.masks[pos] >> t & 1))
                continue;
            p->values[pos * p->tile + t] =
                sffn_axpy_note(m, row, p->in[(p->token + t) * p->in_stride + row], &h_max[t]);
        }
    }
}

/* Scratch of one product; with base, also points *p into it. */
static size_t layout(struct product *p, uint32_t nth, int is_axpy, uint8_t *base)
{
    const struct sffn_matmul *m = p->m;
    size_t used = 0;
#define TAKE(ptr, bytes)                                                                           \
    do {                                                                                           \
        if (base)                                                                                  \
            ptr = (void *)(base + used);                                                           \
        used += ((bytes) + 63) & ~(size_t)63;                                                      \
    } while (0)
    TAKE(p->turns, nth * sizeof(struct sffn_turn));
    TAKE(p->list.segments, nth * sizeof(struct sffn_segment));
    if (p->active) {
        TAKE(p->list.rows, m->n_rows * sizeof(uint32_t));
        TAKE(p->list.masks, (size_t)m->n_rows);
    }
    if (is_axpy) {
        TAKE(p->values, (size_t)m->n_rows * SFFN_TILE_TOKENS * sizeof(float));
        used += sffn_axpy_scratch_layout(m->dtype, m->block_size, m->n_rows, m->n_cols, nth,
                                         &p->axpy, base ? base + used : NULL);
    } else {
        TAKE(p->values, nth * DOT_CHUNK * SFFN_TILE_TOKENS * sizeof(float));
        TAKE(p->x_scratch, nth * sffn_x_scratch_bytes(m->n_cols));
    }
#undef TAKE
    return used;
}

static sffn_status check_product(const sffn_context *ctx, const sffn_matmul *m, const char *in_name,
                                 const float *in, size_t in_stride, size_t in_length,
                                 size_t n_tokens, const sffn_active_set *active,
                                 const char *out_name, const float *out, size_t out_stride,
                                 size_t out_length)
{
    if (!m)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "matmul is NULL");
    if (n_tokens == 0)
        return SFFN_OK;
    if (!in || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", in ? out_name : in_name);
    if (in_stride < in_length)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "%s_stride is %zu; a row has %zu elements", in_name,
                         in_stride, in_length);
    if (out_stride < out_length)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "%s_stride is %zu; a row has %zu elements", out_name,
                         out_stride, out_length);
    if (active) {
        const sffn_status status =
            sffn_active_set_check(ctx, active, "active", m->n_rows, n_tokens);
        if (status != SFFN_OK)
            return status;
        if (sffn_active_set_block_size(active) % m->block_size)
            return sffn_fail(ctx, SFFN_ERR_SHAPE,
                             "active has blocks of %u neurons; this matrix keeps blocks of %u",
                             (unsigned)sffn_active_set_block_size(active), (unsigned)m->block_size);
    }
    return SFFN_OK;
}

static sffn_status run_product(sffn_context *ctx, struct product *p, int is_axpy)
{
    if (p->n_tokens == 0)
        return SFFN_OK;
    const uint32_t nth = sffn_context_n_threads(ctx);
    sffn_status status = sffn_context_enter(ctx);
    if (status != SFFN_OK)
        return status;
    p->k = sffn_context_kernels(ctx);
    status = sffn_context_reserve_scratch(ctx, layout(p, nth, is_axpy, NULL));
    if (status == SFFN_OK) {
        size_t bytes;
        layout(p, nth, is_axpy, sffn_context_scratch(ctx, &bytes));
        p->list.values = p->values;
        for (p->token = 0; p->token < p->n_tokens; p->token += p->tile) {
            const size_t left = p->n_tokens - p->token;
            p->tile = left < SFFN_TILE_TOKENS ? left : SFFN_TILE_TOKENS;
            p->list.n_segments = p->active ? nth : 1;
            p->list.segments[0].start = 0;
            p->list.segments[0].n = p->m->n_rows;
            for (uint32_t i = 0; i < nth; i++)
                atomic_store_explicit(&p->turns[i].taken, 0, memory_order_relaxed);
            if (is_axpy)
                sffn_context_run_phases(ctx, 3, axpy_phase, p);
            else /* without a set there is no list to make */
                sffn_context_run_phases(ctx, p->active ? 2 : 1, dot_phase, p);
        }
    }
    sffn_context_leave(ctx);
    return status;
}

sffn_status sffn_matmul_rows_dot(sffn_context *ctx, const sffn_matmul *m, const float *x,
                                 size_t x_stride, size_t n_tokens, const sffn_active_set *active,
                                 float *out, size_t out_stride)
{
    if (!ctx)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
    const sffn_status status = check_product(ctx, m, "x", x, x_stride, m ? m->n_cols : 0, n_tokens,
                                             active, "out", out, out_stride, m ? m->n_rows : 0);
    if (status != SFFN_OK)
        return status;
    if (m->block_size != 1)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "a matrix with lossless blocks of 32 has rows_axpy only");
    struct product p = {.m = m,
                        .active = active,
                        .in = x,
                        .out = out,
                        .in_stride = x_stride,
                        .out_stride = out_stride,
                        .n_tokens = n_tokens};
    return run_product(ctx, &p, 0);
}

sffn_status sffn_matmul_rows_axpy(sffn_context *ctx, const sffn_matmul *m, const float *h,
                                  size_t h_stride, size_t n_tokens, const sffn_active_set *active,
                                  float *y, size_t y_stride)
{
    if (!ctx)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
    const sffn_status status = check_product(ctx, m, "h", h, h_stride, m ? m->n_rows : 0, n_tokens,
                                             active, "y", y, y_stride, m ? m->n_cols : 0);
    if (status != SFFN_OK)
        return status;
    struct product p = {.m = m,
                        .active = active,
                        .in = h,
                        .out = y,
                        .in_stride = h_stride,
                        .out_stride = y_stride,
                        .n_tokens = n_tokens};
    return run_product(ctx, &p, 1);
}

/* Apart rows 32 blocks at a time. */
static sffn_status get_plain_row(const struct sffn_matmul *m, uint32_t row, float *out)
{
    const uint8_t *from = m->data + row * m->stride;
    if (m->wtype != SFFN_W_Q4_0_APART)
        return sffn_dtype_to_f32(m->dtype, from, m->n_cols, out);
    const size_t n_blocks = m->n_cols / 32;
    for (size_t first = 0; first < n_blocks; first += 32) {
        const size_t n = n_blocks - first < 32 ? n_blocks - first : 32;
        uint8_t blocks[32 * SFFN_Q4_0_BYTES];
        sffn_apart_to_blocks(from, n_blocks, first, n, blocks);
        sffn_dtype_to_f32(m->dtype, blocks, 32 * n, out + 32 * first);
    }
    return SFFN_OK;
}

sffn_status sffn_matmul_get_row(const sffn_matmul *m, uint32_t row, float *out)
{
    if (!m || !out)
        return sffn_fail(m ? m->ctx : NULL, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         m ? "out" : "matmul");
    if (row >= m->n_rows)
        return sffn_fail(m->ctx, SFFN_ERR_SHAPE, "row is %u; the matrix has %u rows", (unsigned)row,
                         (unsigned)m->n_rows);
    if (m->block_size == 1)
        return get_plain_row(m, row, out);
    const size_t block_bytes = m->row_bytes / m->n_cols;
    for (uint32_t j = 0; j < m->n_cols; j++) {
        float block[32];
        sffn_dtype_to_f32(m->dtype, m->data + row / 32 * m->stride + j * block_bytes, 32, block);
        out[j] = block[row % 32];
    }
    return SFFN_OK;
}

sffn_status sffn_matmul_get_info(const sffn_matmul *m, sffn_matmul_info *info)
{
    if (!m)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "matmul is NULL");
    sffn_matmul_info i = SFFN_MATMUL_INFO_INIT;
    i.n_rows = m->n_rows;
    i.n_cols = m->n_cols;
    i.block_size = m->block_size;
    i.dtype = m->dtype;
    i.storage = m->storage;
    i.weight_bytes = (uint64_t)m->row_bytes * (m->n_rows / m->block_size);
    i.row_bytes = m->stride;
    return sffn_info_copy(m->ctx, "sffn_matmul_info", info, &i, sizeof(i));
}
