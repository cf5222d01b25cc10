#include "matmul/matmul.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "base/fp16.h"
#include "kernels/kernels.h"
#include "matmul/apart.h"

/* Columns transposed at a time: one decoded source row contributes 64 bytes to each of many destination rows. */
#define TRANSPOSE_ROWS 64

static size_t stored_row_length(const sffn_matmul_config *c)
{
    return c->weights.layout == SFFN_LAYOUT_COLUMNS ? c->n_rows : c->n_cols;
}

static sffn_status check_weights(const sffn_context *ctx, const char *what,
                                 const sffn_matmul_config *c)
{
    const sffn_weights *w = &c->weights;
    if (!w->data)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: weights.data is NULL", what);
    if (c->n_rows == 0 || c->n_cols == 0 || c->n_rows > INT32_MAX || c->n_cols > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: n_rows %u, n_cols %u; expected 1..2147483647 of each", what,
                         (unsigned)c->n_rows, (unsigned)c->n_cols);
    if (sffn_dtype_block_size(w->dtype) == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: weights.dtype is %d; expected a value of enum sffn_dtype", what,
                         (int)w->dtype);
    if (c->dtype != -1 && sffn_dtype_block_size(c->dtype) == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: dtype is %d; expected -1 or a value of enum sffn_dtype", what,
                         (int)c->dtype);
    if (w->layout != SFFN_LAYOUT_ROWS && w->layout != SFFN_LAYOUT_COLUMNS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: weights.layout is %d; expected a value of enum sffn_layout", what,
                         (int)w->layout);
    if (c->storage != SFFN_STORAGE_COPY && c->storage != SFFN_STORAGE_BORROW)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: storage is %d; expected a value of enum sffn_storage", what,
                         (int)c->storage);
    if (c->block_size != 1 && c->block_size != 32)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: block_size is %u; expected 1 or 32",
                         what, (unsigned)c->block_size);
    const size_t length = stored_row_length(c);
    const size_t min_bytes = sffn_dtype_row_bytes(w->dtype, length);
    if (min_bytes == 0)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "%s: stored rows have %zu elements; %s needs a multiple of %zu", what,
                         length, sffn_dtype_name(w->dtype), sffn_dtype_block_size(w->dtype));
    if (w->row_bytes != 0 && w->row_bytes < min_bytes)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "%s: weights.row_bytes is %zu; %zu %s elements take %zu", what,
                         w->row_bytes, length, sffn_dtype_name(w->dtype), min_bytes);
    return SFFN_OK;
}

/* Scalar code reads apart rows, too, but only kernels for them make them worth having. */
static int has_apart_kernels(const sffn_context *ctx)
{
    return sffn_context_kernels(ctx)->rows_dot[SFFN_W_Q4_0_APART].fn !=
           sffn_kernels_isa_table(0)->rows_dot[SFFN_W_Q4_0_APART].fn;
}

sffn_status sffn_pack_plan(const sffn_context *ctx, const char *what, const sffn_matmul_config *c,
                           struct sffn_pack_plan *plan)
{
    const sffn_status status = check_weights(ctx, what, c);
    if (status != SFFN_OK)
        return status;
    plan->dtype = c->dtype == -1 ? c->weights.dtype : c->dtype;
    if (c->storage == SFFN_STORAGE_BORROW &&
        (c->weights.layout != SFFN_LAYOUT_ROWS || plan->dtype != c->weights.dtype))
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: borrowed weights must be rows of their final type; these are %s in "
                         "%s order, wanted as %s",
                         what, sffn_dtype_name(c->weights.dtype),
                         c->weights.layout == SFFN_LAYOUT_ROWS ? "row" : "column",
                         sffn_dtype_name(plan->dtype));
    if (c->block_size == 32) {
        if (!sffn_is_quantized(c->weights.dtype) || plan->dtype != c->weights.dtype ||
            c->weights.layout != SFFN_LAYOUT_COLUMNS)
            return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                             "%s: block_size 32 keeps q8_0 or q4_0 blocks of column order and "
                             "their type; these are %s in %s order, wanted as %s",
                             what, sffn_dtype_name(c->weights.dtype),
                             c->weights.layout == SFFN_LAYOUT_ROWS ? "row" : "column",
                             sffn_dtype_name(plan->dtype));
        plan->n_stored_rows = c->n_rows / 32;
        size_t length;
        if (!sffn_checked_mul(c->n_cols, 32, &length))
            length = 0;
        plan->row_bytes = sffn_dtype_row_bytes(plan->dtype, length);
    } else {
        plan->n_stored_rows = c->n_rows;
        plan->row_bytes = sffn_dtype_row_bytes(plan->dtype, c->n_cols);
    }
    plan->wtype = plan->dtype;
    if (c->storage == SFFN_STORAGE_COPY && c->block_size == 1 && plan->dtype == SFFN_Q4_0 &&
        has_apart_kernels(ctx))
        plan->wtype = SFFN_W_Q4_0_APART;
    plan->packed_bytes =
        plan->wtype == SFFN_W_Q4_0_APART ? SFFN_APART_ROW_BYTES(c->n_cols / 32) : plan->row_bytes;
    if (plan->row_bytes == 0)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "%s: packed rows have %u elements; %s needs a multiple of %zu", what,
                         (unsigned)c->n_cols, sffn_dtype_name(plan->dtype),
                         sffn_dtype_block_size(plan->dtype));
    return SFFN_OK;
}

int sffn_row_stride(size_t bytes, size_t *stride)
{
    return sffn_checked_round_up(bytes, 64, stride);
}

struct pack_job {
    const sffn_matmul_config *config;
    const struct sffn_pack_plan *plan;
    uint8_t *dst;
    size_t stride, src_stride;
    float *scratch; /* per thread: a source row, TRANSPOSE_ROWS destination rows, one in blocks */
    size_t scratch_floats;
};

/* One destination row from floats; blocks: room for one. */
static void put_row(const struct pack_job *job, const float *row, void *blocks, uint8_t *to)
{
    const int32_t dtype = job->plan->dtype;
    const size_t n = job->config->n_cols;
    if (job->plan->wtype == SFFN_W_Q4_0_APART) {
        sffn_dtype_from_f32(dtype, row, n, blocks);
        sffn_apart_from_blocks(blocks, n / 32, to);
    } else {
        sffn_dtype_from_f32(dtype, row, n, to);
    }
}

static void pack_rows(const struct pack_job *job, uint32_t first, uint32_t last, float *decoded)
{
    const sffn_matmul_config *c = job->config;
    const uint8_t *src = c->weights.data;
    for (uint32_t r = first; r < last; r++) {
        const uint8_t *from = src + r * job->src_stride;
        uint8_t *to = job->dst + r * job->stride;
        if (job->plan->wtype == c->weights.dtype) {
            memcpy(to, from, job->plan->row_bytes);
        } else if (job->plan->dtype == c->weights.dtype) {
            sffn_apart_from_blocks(from, c->n_cols / 32, to);
        } else {
            sffn_dtype_to_f32(c->weights.dtype, from, c->n_cols, decoded);
            put_row(job, decoded, decoded + c->n_cols, to);
        }
    }
}

/* ggml's down blocks cover 32 neurons of one output: moving whole blocks to [expert][output] loses nothing. */
static void pack_blocks(const struct pack_job *job, uint32_t first, uint32_t last)
{
    const sffn_matmul_config *c = job->config;
    const uint8_t *src = c->weights.data;
    const size_t block_bytes = sffn_dtype_row_bytes(c->weights.dtype, 32);
    for (uint32_t e = first; e < last; e++)
        for (uint32_t j = 0; j < c->n_cols; j++)
            memcpy(job->dst + e * job->stride + j * block_bytes,
                   src + j * job->src_stride + e * block_bytes, block_bytes);
}

/* Destination rows [first, last) of a transposition, TRANSPOSE_ROWS at a time. */
static void pack_columns(const struct pack_job *job, uint32_t first, uint32_t last, float *scratch)
{
    const sffn_matmul_config *c = job->config;
    const uint8_t *src = c->weights.data;
    const size_t block = sffn_dtype_block_size(c->weights.dtype);
    float *decoded = scratch, *rows = scratch + TRANSPOSE_ROWS + 64;
    float *blocks = rows + (size_t)TRANSPOSE_ROWS * c->n_cols;
    for (uint32_t r0 = first; r0 < last; r0 += TRANSPOSE_ROWS) {
        const uint32_t n = last - r0 < TRANSPOSE_ROWS ? last - r0 : TRANSPOSE_ROWS;
        const size_t from = r0 / block * block; /* whole source blocks around [r0, r0 + n) */
        const size_t to = (r0 + n + block - 1) / block * block;
        for (uint32_t j = 0; j < c->n_cols; j++) {
            const uint8_t *row =
                src + j * job->src_stride + sffn_dtype_row_bytes(c->weights.dtype, from);
            sffn_dtype_to_f32(c->weights.dtype, row, to - from, decoded);
            for (uint32_t i = 0; i < n; i++)
                rows[(size_t)i * c->n_cols + j] = decoded[r0 - from + i];
        }
        for (uint32_t i = 0; i < n; i++)
            put_row(job, rows + (size_t)i * c->n_cols, blocks, job->dst + (r0 + i) * job->stride);
    }
}

static void pack_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct pack_job *job = arg;
    const uint64_t n = job->plan->n_stored_rows;
    const uint32_t first = (uint32_t)(n * ith / nth), last = (uint32_t)(n * (ith + 1) / nth);
    float *scratch = job->scratch + ith * job->scratch_floats;
    if (job->config->block_size == 32)
        pack_blocks(job, first, last);
    else if (job->config->weights.layout == SFFN_LAYOUT_COLUMNS)
        pack_columns(job, first, last, scratch);
    else
        pack_rows(job, first, last, scratch);
}

sffn_status sffn_pack(sffn_context *ctx, const sffn_matmul_config *config,
                      const struct sffn_pack_plan *plan, uint8_t *dst, size_t stride)
{
    struct pack_job job = {.config = config, .plan = plan, .dst = dst, .stride = stride};
    const sffn_weights *w = &config->weights;
    assert(stride >= plan->packed_bytes);
    job.src_stride =
        w->row_bytes ? w->row_bytes : sffn_dtype_row_bytes(w->dtype, stored_row_length(config));
    job.scratch_floats = (TRANSPOSE_ROWS + 2) * ((size_t)config->n_cols + 64);
    const size_t bytes = job.scratch_floats * sizeof(float) * sffn_context_n_threads(ctx);
    job.scratch = sffn_mem_alloc(ctx, bytes);
    if (!job.scratch)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for %zu bytes of packing scratch", bytes);
    const sffn_status status = sffn_context_enter(ctx);
    if (status == SFFN_OK) {
        sffn_context_run_phases(ctx, 1, pack_phase, &job);
        sffn_context_leave(ctx);
    }
    sffn_mem_free(ctx, job.scratch, bytes);
    return status;
}

/* The largest |scale| of n_blocks of them, `step` bytes apart; infinite when one is not finite. */
static float max_scale(const uint8_t *row, size_t n_blocks, size_t step)
{
    float max = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        uint16_t half;
        memcpy(&half, row + b * step, sizeof(half));
        const float scale = fabsf(sffn_f16_to_f32(half));
        if (!(scale <= FLT_MAX))
            return INFINITY;
        max = scale > max ? scale : max;
    }
    return max;
}

/* Whether all n numbers are finite: none has an exponent of ones. */
static int are_finite_32(const uint8_t *row, size_t n)
{
    uint32_t n_odd = 0, word;
    for (size_t i = 0; i < n; i++) {
        memcpy(&word, row + 4 * i, 4);
        n_odd += (word & 0x7f800000u) == 0x7f800000u;
    }
    return n_odd == 0;
}

static int are_finite_16(const uint8_t *row, size_t n, uint16_t ones)
{
    uint16_t word, odd = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(&word, row + 2 * i, 2);
        odd |= (uint16_t)((word & ones) == ones);
    }
    return !odd;
}

static int is_finite_row(int32_t dtype, const uint8_t *row, size_t n)
{
    return dtype == SFFN_F32 ? are_finite_32(row, n)
                             : are_finite_16(row, n, dtype == SFFN_F16 ? 0x7c00u : 0x7f80u);
}

sffn_status sffn_matmul_init(sffn_context *ctx, struct sffn_matmul *m,
                             const sffn_matmul_config *config, const struct sffn_pack_plan *plan,
                             const uint8_t *data, size_t stride, int for_axpy)
{
    m->ctx = ctx;
    m->n_rows = config->n_rows;
    m->n_cols = config->n_cols;
    m->block_size = config->block_size;
    m->dtype = plan->dtype;
    m->wtype = plan->wtype;
    m->storage = config->storage;
    m->data = data;
    m->stride = stride;
    m->row_bytes = plan->row_bytes;
    if (!for_axpy || config->block_size != 1)
        return SFFN_OK;
    if (!sffn_is_quantized(plan->dtype)) {
        m->is_finite =
            config->storage ==
            SFFN_STORAGE_COPY; /* borrowed weights stay where they are, perhaps on a disk */
        for (uint32_t r = 0; m->is_finite && r < m->n_rows; r++)
            m->is_finite = is_finite_row(plan->dtype, data + r * stride, m->n_cols);
        return SFFN_OK;
    }
    m->row_scale_max = sffn_mem_alloc(ctx, m->n_rows * sizeof(float));
    if (!m->row_scale_max)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for %u row scales", (unsigned)m->n_rows);
    const size_t step = m->wtype == SFFN_W_Q4_0_APART ? SFFN_APART_SCALE_STEP
                                                      : sffn_dtype_row_bytes(plan->dtype, 32);
    for (uint32_t r = 0; r < m->n_rows; r++)
        m->row_scale_max[r] = max_scale(data + r * stride, m->n_cols / 32, step);
    return SFFN_OK;
}

void sffn_matmul_fini(struct sffn_matmul *m)
{
    if (!m->ctx)
        return;
    sffn_mem_free(m->ctx, m->row_scale_max, m->n_rows * sizeof(float));
    sffn_mem_free_weights(m->ctx, m->owned, m->owned_bytes);
    memset(m, 0, sizeof(*m));
}
