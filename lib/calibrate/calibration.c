/* calibration.c  The sample: what is kept of a stream of tokens, and what the layer makes of it. */
#include "calibrate/calibration.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "matmul/linalg.h"

#define MOMENT_TOKENS                                                                              \
    256 /* the second moment grows by blocks of this many tokens, however they were added */

static void *alloc(const struct sffn_calibration *c, size_t rows, size_t columns, size_t size)
{
    size_t bytes;
    if (!sffn_checked_mul(rows, columns, &bytes) || !sffn_checked_mul(bytes, size, &bytes))
        return NULL;
    return sffn_mem_alloc_zero(c->ctx, bytes);
}

static sffn_status no_memory(const sffn_context *ctx, const struct sffn_calibration *c,
                             const char *what)
{
    return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the allocator returned NULL for the %s",
                     c->ffn->name, what);
}

static sffn_status check_config(const sffn_context *ctx, const sffn_calibration_config *c)
{
    if (!c->ffn)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "calibration: ffn is NULL");
    if (c->max_samples == 0 || c->eval_samples == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "calibration: max_samples is %u, eval_samples %u; expected at least 1",
                         (unsigned)c->max_samples, (unsigned)c->eval_samples);
    if (c->keep_second_moment & ~1)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "calibration: keep_second_moment is %d; expected 0 or 1",
                         (int)c->keep_second_moment);
    return SFFN_OK;
}

static sffn_status measure_down_rows(struct sffn_calibration *c, float *row)
{
    const uint32_t d = c->ffn->d_model;
    for (uint32_t i = 0; i < c->ffn->d_ff; i++) {
        double sum = 0;
        sffn_matmul_get_row(&c->ffn->down, i, row);
        for (uint32_t j = 0; j < d; j++)
            sum += (double)row[j] * row[j];
        c->down_norm[i] = (float)sqrt(sum);
        if (!isfinite(c->down_norm[i]))
            return sffn_fail(c->ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "%s: down row %u holds a NaN or infinity", c->ffn->name, (unsigned)i);
    }
    return SFFN_OK;
}

sffn_status sffn_calibration_create(sffn_context *ctx, const sffn_calibration_config *config,
                                    sffn_calibration **out)
{
    if (!ctx || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "calibration" : "ctx");
    *out = NULL;
    sffn_calibration_config config_copy = SFFN_CALIBRATION_CONFIG_INIT;
    sffn_status status =
        sffn_config_copy(ctx, "sffn_calibration_config", &config_copy, sizeof(config_copy), config);
    if (status == SFFN_OK)
        status = check_config(ctx, &config_copy);
    if (status != SFFN_OK)
        return status;
    struct sffn_calibration *c = sffn_mem_alloc_zero(ctx, sizeof(*c));
    if (!c)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for a calibration");
    c->ctx = ctx;
    c->ffn = config_copy.ffn;
    c->max_samples = config_copy.max_samples;
    c->eval_samples =
        config_copy.eval_samples < c->max_samples ? config_copy.eval_samples : c->max_samples;
    c->select_d = config_copy.select_d_model;
    c->random.state = config_copy.seed;
    const size_t d = c->ffn->d_model;
    c->x = alloc(c, c->max_samples, d, sizeof(float));
    if (c->select_d)
        c->select_x = alloc(c, c->max_samples, c->select_d, sizeof(float));
    c->down_norm = alloc(c, c->ffn->d_ff, 1, sizeof(float));
    if (config_copy.keep_second_moment) {
        c->moment = alloc(c, d, d, sizeof(double));
        c->pending = alloc(c, MOMENT_TOKENS, d, sizeof(float));
    }
    if (!c->x || (c->select_d && !c->select_x) || !c->down_norm ||
        (config_copy.keep_second_moment && (!c->moment || !c->pending)))
        status = no_memory(ctx, c, "samples");
    if (status == SFFN_OK)
        status = measure_down_rows(c, c->x); /* x is free until the first token */
    if (status != SFFN_OK) {
        sffn_calibration_destroy(c);
        return status;
    }
    *out = c;
    return SFFN_OK;
}

static size_t moment_bytes(const struct sffn_calibration *c)
{
    const size_t d = c->ffn->d_model;
    return c->moment ? d * d * sizeof(double) + MOMENT_TOKENS * d * sizeof(float) : 0;
}

void sffn_calibration_destroy(sffn_calibration *c)
{
    if (!c)
        return;
    const size_t d = c->ffn->d_model, n = c->ffn->d_ff;
    sffn_mem_free(c->ctx, c->x, c->max_samples * d * sizeof(float));
    sffn_mem_free(c->ctx, c->select_x, (size_t)c->max_samples * c->select_d * sizeof(float));
    sffn_mem_free(c->ctx, c->down_norm, n * sizeof(float));
    sffn_mem_free(c->ctx, c->moment, d * d * sizeof(double));
    sffn_mem_free(c->ctx, c->pending, MOMENT_TOKENS * d * sizeof(float));
    sffn_mem_free(c->ctx, c->eval_x, c->eval_samples * d * sizeof(float));
    sffn_mem_free(c->ctx, c->g, c->eval_samples * n * sizeof(float));
    sffn_mem_free(c->ctx, c->h, c->eval_samples * n * sizeof(float));
    sffn_mem_free(c->ctx, c->y, c->eval_samples * d * sizeof(float));
    sffn_mem_free(c->ctx, c->mean_u, n * sizeof(float));
    sffn_mem_free(c->ctx, c, sizeof(*c));
}

/* ---- adding ---- */

static sffn_status check_rows(const sffn_context *ctx, const struct sffn_calibration *c,
                              const char *name, const float *x, size_t stride, size_t n_tokens,
                              size_t d)
{
    if (stride < d)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "%s: %s_stride is %zu; a row has %zu elements",
                         c->ffn->name, name, stride, d);
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t j = 0; j < d; j++)
            if (!isfinite(x[t * stride + j]))
                return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                                 "%s: %s[%zu][%zu] is %g; expected a finite number", c->ffn->name,
                                 name, t, j, (double)x[t * stride + j]);
    return SFFN_OK;
}

/* Adds the pending tokens to the sums. `scratch` holds their transpose and the product. */
static sffn_status flush_moment(sffn_context *ctx, struct sffn_calibration *c)
{
    const size_t d = c->ffn->d_model, n = c->n_pending;
    const size_t floats = d * MOMENT_TOKENS + d * d;
    if (n == 0)
        return SFFN_OK;
    float *transposed = sffn_mem_alloc(ctx, floats * sizeof(float));
    if (!transposed)
        return no_memory(ctx, c, "second moment");
    float *product = transposed + d * MOMENT_TOKENS;
    sffn_transpose(n, d, c->pending, transposed);
    const sffn_status status = sffn_gemm_nt(ctx, d, d, n, transposed, n, transposed, n, product, d);
    for (size_t i = 0; i < d * d && status == SFFN_OK; i++)
        c->moment[i] += (double)product[i];
    sffn_mem_free(ctx, transposed, floats * sizeof(float));
    if (status == SFFN_OK)
        c->n_pending = 0;
    return status;
}

/* Vitter's algorithm R: token t of the stream takes the place of a random one with probability max_samples / (t + 1). */
static void keep(struct sffn_calibration *c, const float *x, const float *select_x)
{
    size_t slot = c->n_tokens;
    if (c->n_tokens >= c->max_samples)
        slot = (size_t)sffn_random_below(&c->random, c->n_tokens + 1);
    c->n_tokens++;
    if (slot >= c->max_samples)
        return;
    const size_t d = c->ffn->d_model;
    memcpy(c->x + slot * d, x, d * sizeof(float));
    if (c->select_d)
        memcpy(c->select_x + slot * c->select_d, select_x, c->select_d * sizeof(float));
    if (slot >= c->n_samples)
        c->n_samples = (uint32_t)slot + 1;
}

sffn_status sffn_calibration_add(sffn_context *ctx, sffn_calibration *c, const float *x,
                                 size_t x_stride, const float *select_x, size_t select_x_stride,
                                 size_t n_tokens)
{
    if (!ctx || !c)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "calibration" : "ctx");
    if (n_tokens == 0)
        return SFFN_OK;
    const size_t d = c->ffn->d_model;
    if (!x)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: x is NULL", c->ffn->name);
    if (!select_x != (c->select_d == 0))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: select_x is %s; this calibration has select_d_model %u", c->ffn->name,
                         select_x ? "set" : "NULL", (unsigned)c->select_d);
    sffn_status status = check_rows(ctx, c, "x", x, x_stride, n_tokens, d);
    if (status == SFFN_OK && select_x)
        status = check_rows(ctx, c, "select_x", select_x, select_x_stride, n_tokens, c->select_d);
    for (size_t t = 0; t < n_tokens && status == SFFN_OK; t++) {
        if (c->moment && c->n_pending == MOMENT_TOKENS)
            status = flush_moment(ctx, c);
        if (status != SFFN_OK)
            break;
        if (c->moment)
            memcpy(c->pending + c->n_pending++ * d, x + t * x_stride, d * sizeof(float));
        keep(c, x + t * x_stride, select_x ? select_x + t * select_x_stride : NULL);
    }
    c->n_eval = 0;
    return status;
}

/* ---- reading ---- */

sffn_status sffn_calibration_get_info(const sffn_calibration *c, sffn_calibration_info *info)
{
    if (!c)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "calibration is NULL");
    sffn_calibration_info i = SFFN_CALIBRATION_INFO_INIT;
    const uint64_t d = c->ffn->d_model, n = c->ffn->d_ff;
    i.d_model = c->ffn->d_model;
    i.d_ff = c->ffn->d_ff;
    i.select_d_model = c->select_d;
    i.n_samples = c->n_samples;
    i.n_eval = c->n_samples < c->eval_samples ? c->n_samples : c->eval_samples;
    i.n_tokens = c->n_tokens;
    i.bytes =
        sizeof(*c) + (c->max_samples * (d + c->select_d) + n) * sizeof(float) + moment_bytes(c);
    if (c->g)
        i.bytes += (2 * c->eval_samples * (d + n) + n) * sizeof(float);
    return sffn_info_copy(c->ctx, "sffn_calibration_info", info, &i, sizeof(i));
}

sffn_status sffn_calibration_get_samples(const sffn_calibration *c, float *x, float *select_x)
{
    if (!c || !x)
        return sffn_fail(c ? c->ctx : NULL, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         c ? "x" : "calibration");
    if (select_x && !c->select_d)
        return sffn_fail(c->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: select_x is set; this calibration has select_d_model 0",
                         c->ffn->name);
    memcpy(x, c->x, (size_t)c->n_samples * c->ffn->d_model * sizeof(float));
    if (select_x)
        memcpy(select_x, c->select_x, (size_t)c->n_samples * c->select_d * sizeof(float));
    return SFFN_OK;
}

sffn_status sffn_calibration_get_second_moment(sffn_context *ctx, sffn_calibration *c, float *out)
{
    if (!ctx || !c || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !ctx ? "ctx"
                         : c  ? "second_moment"
                              : "calibration");
    if (!c->moment)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: the second moment was not kept: set keep_second_moment",
                         c->ffn->name);
    if (c->n_tokens == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: no tokens were added", c->ffn->name);
    /* What is pending must not become a block of its own: the sums would then depend on when somebody asked. */
    const size_t d = c->ffn->d_model;
    double *saved = sffn_mem_alloc(ctx, d * d * sizeof(double));
    if (!saved)
        return no_memory(ctx, c, "second moment");
    memcpy(saved, c->moment, d * d * sizeof(double));
    const uint32_t n_pending = c->n_pending;
    const sffn_status status = flush_moment(ctx, c);
    for (size_t i = 0; i < d * d && status == SFFN_OK; i++)
        out[i] = (float)(c->moment[i] / (double)c->n_tokens);
    memcpy(c->moment, saved, d * d * sizeof(double));
    c->n_pending = n_pending;
    sffn_mem_free(ctx, saved, d * d * sizeof(double));
    return status;
}

/* ---- evaluating ---- */

sffn_status sffn_calibration_products(sffn_context *ctx, const struct sffn_calibration *c,
                                      const float *x, size_t n, float *g, float *h, double *sum_u)
{
    const struct sffn_ffn *ffn = c->ffn;
    const size_t d = ffn->d_model, f = ffn->d_ff;
    sffn_status status = sffn_matmul_rows_dot(ctx, &ffn->gate, x, d, n, NULL, g, f);
    if (status == SFFN_OK && h && ffn->is_gated)
        status = sffn_matmul_rows_dot(ctx, &ffn->up, x, d, n, NULL, h, f);
    for (size_t t = 0; t < n && status == SFFN_OK; t++)
        for (uint32_t i = 0; i < f; i++) {
            float *gi = g + t * f + i, *hi = h ? h + t * f + i : NULL;
            *gi += ffn->gate_bias ? ffn->gate_bias[i] : 0.0f;
            const float s = sffn_activate_one(ffn, *gi);
            if (hi && sum_u) {
                const float u = ffn->is_gated ? *hi + (ffn->up_bias ? ffn->up_bias[i] : 0.0f) : 1;
                sum_u[i] += fabs((double)u);
            }
            if (hi)
                *hi = ffn->is_gated ? sffn_make_h(ffn, i, s, *hi) : s;
            if (!isfinite(*gi) || (hi && !isfinite(*hi)))
                return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                                 "%s: neuron %u of sampled token %zu has gate %g and h %g: the "
                                 "weights hold a NaN or infinity, or overflow",
                                 ffn->name, (unsigned)i, t, (double)*gi, hi ? (double)*hi : 0.0);
        }
    return status;
}

static uint32_t first_level(const void *arg, size_t token, uint32_t neuron)
{
    (void)arg, (void)token, (void)neuron;
    return 0;
}

sffn_status sffn_calibration_evaluate(sffn_context *ctx, struct sffn_calibration *c)
{
    const size_t d = c->ffn->d_model, f = c->ffn->d_ff;
    if (c->n_eval)
        return SFFN_OK;
    if (c->n_samples == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: no tokens were added", c->ffn->name);
    const struct {
        float **where;
        size_t rows, columns;
    } parts[] = {{&c->eval_x, c->eval_samples, d},
                 {&c->g, c->eval_samples, f},
                 {&c->h, c->eval_samples, f},
                 {&c->y, c->eval_samples, d},
                 {&c->mean_u, 1, f}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        if (!*parts[i].where &&
            !(*parts[i].where = alloc(c, parts[i].rows, parts[i].columns, sizeof(float))))
            return no_memory(ctx, c, "activations");
    double *sum_u = alloc(c, f, 1, sizeof(double));
    if (!sum_u)
        return no_memory(ctx, c, "activations");
    c->n_eval = c->n_samples < c->eval_samples ? c->n_samples : c->eval_samples;
    for (size_t t = 0; t < c->n_eval; t++)
        memcpy(c->eval_x + t * d, c->x + sffn_calibration_slot(c, t) * d, d * sizeof(float));
    sffn_status status = sffn_calibration_products(ctx, c, c->eval_x, c->n_eval, c->g, c->h, sum_u);
    for (size_t i = 0; i < f; i++)
        c->mean_u[i] = (float)(sum_u[i] / c->n_eval);
    sffn_mem_free(ctx, sum_u, f * sizeof(double));
    /* "Dropping" everything leaves the sum itself in y. */
    const struct sffn_drop all = {1, first_level, NULL, NULL, NULL};
    if (status == SFFN_OK)
        status = sffn_calibration_drop(ctx, c, &all);
    if (status != SFFN_OK)
        c->n_eval = 0;
    return status;
}

/* ---- dropping ---- */

#define DROP_TOKENS 16 /* that one decoded down row serves */

struct drop_call {
    const struct sffn_kernels *k;
    const struct sffn_calibration *c;
    const struct sffn_drop *drop;
    float *scratch; /* per thread: a decoded row, then [DROP_TOKENS][n_levels][d] sums */
    size_t thread_floats;
};

static double sum_of_squares(const float *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)v[i] * v[i];
    return sum;
}

/* Tokens are shared out: each has sums of its own, over neurons in ascending order. */
static void drop_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct drop_call *call = arg;
    const struct sffn_calibration *c = call->c;
    const struct sffn_drop *drop = call->drop;
    const size_t d = c->ffn->d_model, f = c->ffn->d_ff, n_levels = drop->n_levels;
    float *row = call->scratch + ith * call->thread_floats, *sums = row + d;
    size_t first, last;
    sffn_share(c->n_eval, ith, nth, &first, &last);
    for (size_t t0 = first; t0 < last; t0 += DROP_TOKENS) {
        const size_t n = last - t0 < DROP_TOKENS ? last - t0 : DROP_TOKENS;
        memset(sums, 0, n * n_levels * d * sizeof(float));
        if (drop->dropped)
            memset(drop->dropped + t0 * n_levels, 0, n * n_levels * sizeof(uint32_t));
        for (uint32_t i = 0; i < f; i++) {
            int is_decoded = 0;
            for (size_t t = t0; t < t0 + n; t++) {
                const uint32_t level = drop->level(drop->arg, t, i), zero = 0;
                if (level >= n_levels)
                    continue;
                if (drop->dropped)
                    drop->dropped[t * n_levels + level]++;
                const float *h = c->h + t * f + i;
                if (*h == 0)
                    continue;
                if (!is_decoded)
                    sffn_matmul_get_row(&c->ffn->down, i, row);
                is_decoded = 1;
                call->k->rows_axpy[SFFN_F32].fn(sums + ((t - t0) * n_levels + level) * d, row, 0,
                                                &zero, h, 1, 0, d);
            }
        }
        for (size_t t = t0; t < t0 + n; t++) {
            float *sum = sums + (t - t0) * n_levels * d;
            for (size_t l = 0; l < n_levels; l++) {
                for (size_t j = 0; l > 0 && j < d; j++)
                    sum[l * d + j] += sum[(l - 1) * d + j];
                if (l > 0 && drop->dropped)
                    drop->dropped[t * n_levels + l] += drop->dropped[t * n_levels + l - 1];
                if (drop->error)
                    drop->error[t * n_levels + l] = sqrt(sum_of_squares(sum + l * d, d));
            }
            if (!drop->error) /* evaluate() wants the sum itself */
                memcpy(c->y + t * d, sum, d * sizeof(float));
        }
    }
}

sffn_status sffn_calibration_drop(sffn_context *ctx, const struct sffn_calibration *c,
                                  const struct sffn_drop *drop)
{
    struct drop_call call = {.c = c, .drop = drop};
    const size_t d = c->ffn->d_model, nth = sffn_context_n_threads(ctx);
    call.thread_floats = d * (1 + (size_t)DROP_TOKENS * drop->n_levels);
    const size_t bytes = call.thread_floats * nth * sizeof(float);
    if (!(call.scratch = sffn_mem_alloc(ctx, bytes)))
        return no_memory(ctx, c, "sums");
    const sffn_status status = sffn_context_enter(ctx);
    if (status == SFFN_OK) {
        call.k = sffn_context_kernels(ctx);
        sffn_context_run_phases(ctx, 1, drop_phase, &call);
        sffn_context_leave(ctx);
    }
    sffn_mem_free(ctx, call.scratch, bytes);
    return status;
}

void sffn_calibration_summary(const struct sffn_calibration *c, const struct sffn_drop *drop,
                              uint32_t level, sffn_measured *m)
{
    const size_t d = c->ffn->d_model;
    const float *bias = c->ffn->down_bias;
    double errors = 0, sizes = 0;
    uint64_t dropped = 0;
    m->cett = m->max_cett = 0;
    m->n_tokens = c->n_eval;
    for (size_t t = 0; t < c->n_eval; t++) {
        const float *y = c->y + t * d;
        const double error = drop->error[t * drop->n_levels + level];
        const double size = sqrt(sum_of_squares(y, d));
        const double cett = size > 0 ? error / size : 0;
        m->cett += cett;
        m->max_cett = cett > m->max_cett ? cett : m->max_cett;
        errors += error * error;
        for (size_t j = 0; j < d; j++) {
            const double v = (double)y[j] + (bias ? (double)bias[j] : 0.0);
            sizes += v * v;
        }
        dropped += drop->dropped[t * drop->n_levels + level];
    }
    m->cett /= c->n_eval;
    m->relative_error = sizes > 0 ? sqrt(errors / sizes) : 0;
    m->density = 1 - (double)dropped / ((double)c->n_eval * c->ffn->d_ff);
}
