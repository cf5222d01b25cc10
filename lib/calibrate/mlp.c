#include "calibrate/mlp.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "base/random.h"
#include "calibrate/calibration.h"
#include "matmul/linalg.h"
#include "matmul/rows.h"

struct sffn_mlp_parts sffn_mlp_parts(const struct sffn_mlp *m)
{
    const size_t inner = m->n_hidden ? m->n_hidden : m->n_in;
    struct sffn_mlp_parts p = {0};
    p.b1 = m->n_hidden * m->n_in;
    p.w2 = p.b1 + (m->has_bias ? m->n_hidden : 0);
    p.b2 = p.w2 + m->n_out * inner;
    p.total = p.b2 + (m->has_bias ? m->n_out : 0);
    return p;
}

/* ---- elementwise work, shared out by rows or by parameters ---- */

static sffn_status run_shared(sffn_context *ctx, sffn_phase_fn fn, void *arg)
{
    const sffn_status status = sffn_context_enter(ctx);
    if (status == SFFN_OK) {
        sffn_context_run_phases(ctx, 1, fn, arg);
        sffn_context_leave(ctx);
    }
    return status;
}

struct rows_job {
    size_t n, width;
    float *v;           /* [n][width] */
    const float *bias;  /* [width] or NULL */
    int32_t activation; /* of activate_rows */
    const float *y;     /* of loss_rows and backward_rows */
    float mean_weight;  /* m, or 1 */
    double *row_loss;
};

static void activate_rows(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct rows_job *job = arg;
    size_t first, last;
    sffn_share(job->n, ith, nth, &first, &last);
    for (size_t i = first; i < last; i++)
        for (size_t j = 0; j < job->width; j++) {
            float *v = job->v + i * job->width + j;
            if (job->bias)
                *v += job->bias[j];
            if (job->activation == SFFN_HIDDEN_RELU && *v < 0)
                *v = 0;
            if (job->activation == SFFN_HIDDEN_TANH)
                *v = tanhf(*v);
        }
}

/* z becomes the gradient of the summed loss, times 1 / n. */
static void loss_rows(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct rows_job *job = arg;
    const float m = job->mean_weight;
    size_t first, last;
    sffn_share(job->n, ith, nth, &first, &last);
    for (size_t i = first; i < last; i++) {
        double sum = 0;
        for (size_t j = 0; j < job->width; j++) {
            float *z = job->v + i * job->width + j;
            const float y = job->y[i * job->width + j], w = y * (1 - m) + m;
            const float e = expf(-fabsf(*z)); /* never overflows */
            sum += (double)(w * ((*z > 0 ? *z : 0) - *z * y + log1pf(e)));
            const float sigmoid = *z >= 0 ? 1 / (1 + e) : e / (1 + e);
            *z = w * (sigmoid - y) / (float)job->n;
        }
        job->row_loss[i] = sum;
    }
}

/* v, the gradient of the hidden layer's output y, becomes that of its input. */
static void backward_rows(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct rows_job *job = arg;
    size_t first, last;
    sffn_share(job->n, ith, nth, &first, &last);
    for (size_t i = first * job->width; i < last * job->width; i++) {
        if (job->activation == SFFN_HIDDEN_RELU && job->y[i] == 0)
            job->v[i] = 0;
        if (job->activation == SFFN_HIDDEN_TANH)
            job->v[i] *= 1 - job->y[i] * job->y[i];
    }
}

/* ---- the network ---- */

size_t sffn_mlp_scratch_floats(const struct sffn_mlp *m, size_t n)
{
    const size_t wider = m->n_hidden > m->n_out ? m->n_hidden : m->n_out;
    return n * (2 * m->n_hidden + m->n_out + wider);
}

sffn_status sffn_mlp_forward(sffn_context *ctx, const struct sffn_mlp *m, const float *params,
                             const float *x, size_t n, float *scratch, float *z)
{
    const struct sffn_mlp_parts p = sffn_mlp_parts(m);
    const size_t inner = m->n_hidden ? m->n_hidden : m->n_in;
    sffn_status status = SFFN_OK;
    if (m->n_hidden) {
        struct rows_job job = {.n = n, .width = m->n_hidden, .v = scratch};
        job.bias = m->has_bias ? params + p.b1 : NULL;
        job.activation = m->hidden_activation;
        status = sffn_gemm_nt(ctx, n, m->n_hidden, m->n_in, x, m->n_in, params + p.w1, m->n_in,
                              scratch, m->n_hidden);
        if (status == SFFN_OK)
            status = run_shared(ctx, activate_rows, &job);
        x = scratch;
    }
    if (status == SFFN_OK)
        status = sffn_gemm_nt(ctx, n, m->n_out, inner, x, inner, params + p.w2, inner, z, m->n_out);
    if (status == SFFN_OK && m->has_bias) {
        struct rows_job job = {.n = n, .width = m->n_out, .v = z, .bias = params + p.b2};
        status = run_shared(ctx, activate_rows, &job);
    }
    return status;
}

static void sum_columns(size_t n, size_t width, const float *v, float *out)
{
    for (size_t j = 0; j < width; j++)
        out[j] = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < width; j++)
            out[j] += v[i * width + j];
}

sffn_status sffn_mlp_gradient(sffn_context *ctx, const struct sffn_mlp *m, const float *params,
                              const float *x, const float *y, size_t n, int is_weighted,
                              float *scratch, double *row_loss, float *gradient, double *loss)
{
    const struct sffn_mlp_parts p = sffn_mlp_parts(m);
    const size_t r = m->n_hidden, inner = r ? r : m->n_in, f = m->n_out;
    float *hidden = scratch, *d_hidden = hidden + n * r, *z = d_hidden + n * r;
    float *transposed = z + n * f;
    sffn_status status = sffn_mlp_forward(ctx, m, params, x, n, hidden, z);
    struct rows_job job = {.n = n, .width = f, .v = z, .y = y, .row_loss = row_loss};
    double mean = 0;
    for (size_t i = 0; i < n * f; i++)
        mean += (double)y[i];
    job.mean_weight = is_weighted ? (float)(mean / (double)(n * f)) + 0.005f : 1.0f;
    if (status == SFFN_OK)
        status = run_shared(ctx, loss_rows, &job);
    if (status != SFFN_OK)
        return status;
    *loss = 0;
    for (size_t i = 0; i < n; i++)
        *loss += row_loss[i] / (double)(n * f);
    sffn_transpose(n, f, z, transposed);
    status = sffn_gemm_nn(ctx, f, inner, n, 1.0f, transposed, n, r ? hidden : x, inner, 0,
                          gradient + p.w2, inner);
    if (m->has_bias)
        sum_columns(n, f, z, gradient + p.b2);
    if (!r || status != SFFN_OK)
        return status;
    status = sffn_gemm_nn(ctx, n, r, f, 1.0f, z, f, params + p.w2, r, 0, d_hidden, r);
    struct rows_job back = {.n = n, .width = r, .v = d_hidden, .y = hidden};
    back.activation = m->hidden_activation;
    if (status == SFFN_OK)
        status = run_shared(ctx, backward_rows, &back);
    if (m->has_bias)
        sum_columns(n, r, d_hidden, gradient + p.b1);
    sffn_transpose(n, r, d_hidden, transposed);
    if (status == SFFN_OK)
        status = sffn_gemm_nn(ctx, r, m->n_in, n, 1.0f, transposed, n, x, m->n_in, 0,
                              gradient + p.w1, m->n_in);
    return status;
}

/* ---- AdamW (Loshchilov, Hutter, arXiv:1711.05101) ---- */

struct adam {
    size_t n;
    float *params, *gradient, *mean, *square;
    float rate, decay, correct_mean, correct_square;
};

static void adam_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct adam *a = arg;
    size_t first, last;
    sffn_share(a->n, ith, nth, &first, &last);
    for (size_t i = first; i < last; i++) {
        const float g = a->gradient[i];
        a->mean[i] = 0.9f * a->mean[i] + 0.1f * g;
        a->square[i] = 0.999f * a->square[i] + 0.001f * g * g;
        const float step =
            a->mean[i] * a->correct_mean / (sqrtf(a->square[i] * a->correct_square) + 1e-8f);
        a->params[i] -= a->rate * (step + a->decay * a->params[i]);
    }
}

/* ---- training ---- */

#define EVAL_TOKENS 256

struct trainer {
    sffn_context *ctx;
    struct sffn_training *job;
    size_t n_held, n_train, batch, n_params;
    uint32_t *order; /* [n]: the held-out samples first */
    float *params, *best, *gradient, *mean, *square;
    float *x, *y; /* [batch or EVAL_TOKENS][...] */
    float *scratch;
    double *row_loss;
    float *held_z, *held_y; /* [n_held][n_out] */
    size_t *counts;
    double density, label_sum;
    float threshold;
};

static int trainer_layout(struct trainer *t, char *base, size_t *bytes)
{
    const struct sffn_mlp *m = &t->job->mlp;
    const size_t rows = t->batch > EVAL_TOKENS ? t->batch : EVAL_TOKENS;
    const struct {
        void **where;
        size_t count, size;
    } parts[] = {{(void **)&t->order, t->job->n, sizeof(uint32_t)},
                 {(void **)&t->params, t->n_params, sizeof(float)},
                 {(void **)&t->best, t->n_params, sizeof(float)},
                 {(void **)&t->gradient, t->n_params, sizeof(float)},
                 {(void **)&t->mean, t->n_params, sizeof(float)},
                 {(void **)&t->square, t->n_params, sizeof(float)},
                 {(void **)&t->x, rows * m->n_in, sizeof(float)},
                 {(void **)&t->y, rows * m->n_out, sizeof(float)},
                 {(void **)&t->scratch, sffn_mlp_scratch_floats(m, rows), sizeof(float)},
                 {(void **)&t->row_loss, rows, sizeof(double)},
                 {(void **)&t->held_z, t->n_held * m->n_out, sizeof(float)},
                 {(void **)&t->held_y, t->n_held * m->n_out, sizeof(float)},
                 {(void **)&t->counts, SFFN_SELECT_COUNTS, sizeof(size_t)}};
    size_t used = 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        size_t part;
        if (base)
            *parts[i].where = base + used;
        if (!sffn_checked_mul(parts[i].count, parts[i].size, &part) ||
            !sffn_checked_round_up(part, 64, &part) || !sffn_checked_add(used, part, &used))
            return 0;
    }
    *bytes = used;
    return 1;
}

static void shuffle(uint32_t *v, size_t n, struct sffn_random *random)
{
    for (size_t i = n; i > 1; i--) {
        const size_t j = (size_t)sffn_random_below(random, i);
        const uint32_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

static void gather(const struct trainer *t, size_t first, size_t n, float *x, float *y)
{
    const struct sffn_mlp *m = &t->job->mlp;
    for (size_t i = 0; i < n; i++) {
        const size_t sample = t->order[first + i];
        if (x)
            memcpy(x + i * m->n_in, t->job->x + sample * m->n_in, m->n_in * sizeof(float));
        t->job->labels(t->job->labels_arg, sample, y + i * m->n_out);
    }
}

/* The share of the held-out labels that the highest outputs hold, and where these begin. */
static sffn_status score(struct trainer *t, double *recall)
{
    const size_t f = t->job->mlp.n_out, n = t->n_held * f;
    for (size_t i = 0; i < t->n_held; i += EVAL_TOKENS) {
        const size_t rows = t->n_held - i < EVAL_TOKENS ? t->n_held - i : EVAL_TOKENS;
        gather(t, i, rows, t->x, t->y);
        const sffn_status status = sffn_mlp_forward(t->ctx, &t->job->mlp, t->params, t->x, rows,
                                                    t->scratch, t->held_z + i * f);
        if (status != SFFN_OK)
            return status;
    }
    for (size_t i = 0; i < n; i++)
        if (!isfinite(t->held_z[i]))
            return sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "%s: training diverged: an output is %g; lower learning_rate (%g)",
                             t->job->what, (double)t->held_z[i], (double)t->job->learning_rate);
    const size_t k = (size_t)(t->density * (double)n);
    t->threshold = k >= n ? -INFINITY : sffn_select_largest(t->held_z, n, k, t->counts);
    double found = 0;
    for (size_t i = 0; i < n; i++)
        found += t->held_z[i] > t->threshold ? (double)t->held_y[i] : 0;
    *recall = t->label_sum > 0 ? found / t->label_sum : 1;
    return SFFN_OK;
}

static sffn_status run_epoch(struct trainer *t, uint32_t epoch, uint64_t *step, double *loss)
{
    struct sffn_training *job = t->job;
    const size_t n_batches = (t->n_train + t->batch - 1) / t->batch;
    const uint64_t total = (uint64_t)n_batches * job->max_epochs;
    *loss = 0;
    for (size_t b = 0; b < n_batches; b++) {
        const size_t first = b * t->batch;
        const size_t n = t->n_train - first < t->batch ? t->n_train - first : t->batch;
        sffn_status status = sffn_progress_report(t->ctx, job->progress, job->progress_user,
                                                  job->what, epoch * n_batches + b, total);
        if (status != SFFN_OK)
            return status;
        double batch_loss = 0;
        gather(t, t->n_held + first, n, t->x, t->y);
        status = sffn_mlp_gradient(t->ctx, &job->mlp, t->params, t->x, t->y, n, job->is_weighted,
                                   t->scratch, t->row_loss, t->gradient, &batch_loss);
        *loss += batch_loss * (double)n / (double)t->n_train;
        const double done = (double)++*step;
        struct adam adam = {.n = t->n_params,
                            .params = t->params,
                            .gradient = t->gradient,
                            .mean = t->mean,
                            .square = t->square,
                            .decay = job->weight_decay,
                            /* falls to a tenth, so that the last epochs settle */
                            .rate =
                                job->learning_rate * (float)(1 - 0.9 * (done - 1) / (double)total),
                            .correct_mean = (float)(1 / (1 - pow(0.9, done))),
                            .correct_square = (float)(1 / (1 - pow(0.999, done)))};
        if (status == SFFN_OK)
            status = run_shared(t->ctx, adam_phase, &adam);
        if (status != SFFN_OK)
            return status;
    }
    return SFFN_OK;
}

static sffn_status train(struct trainer *t, sffn_fit_result *r)
{
    struct sffn_training *job = t->job;
    struct sffn_random random = {job->seed};
    const size_t f = job->mlp.n_out;
    double all = 0;
    for (size_t i = 0; i < job->n; i++)
        t->order[i] = (uint32_t)i;
    shuffle(t->order, job->n, &random);
    for (size_t i = 0; i < job->n; i++) {
        float *y = i < t->n_held ? t->held_y + i * f : t->y;
        gather(t, i, 1, NULL, y);
        for (size_t j = 0; j < f; j++) {
            all += (double)y[j];
            t->label_sum += i < t->n_held ? (double)y[j] : 0;
        }
    }
    r->label_density = all / ((double)job->n * (double)f);
    if (all == 0)
        return sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: nothing is active in %zu samples: there is nothing to learn",
                         job->what, job->n);
    t->density = job->density > 0 ? job->density : 2 * r->label_density;
    t->density = t->density < 1 ? t->density : 1;
    memcpy(t->params, job->params, t->n_params * sizeof(float));
    memcpy(t->best, job->params, t->n_params * sizeof(float));
    sffn_status status = score(t, &r->start_recall);
    uint64_t step = 0;
    r->recall = r->start_recall;
    r->threshold = t->threshold;
    for (uint32_t epoch = 0, worse = 0; status == SFFN_OK && epoch < job->max_epochs; epoch++) {
        double recall = 0;
        if (worse > job->patience || r->recall >= (double)job->stop_recall)
            break;
        shuffle(t->order + t->n_held, t->n_train, &random);
        status = run_epoch(t, epoch, &step, &r->loss);
        if (status == SFFN_OK)
            status = score(t, &recall);
        r->n_epochs = epoch + 1;
        worse++;
        if (status == SFFN_OK && recall > r->recall) {
            r->recall = recall;
            r->threshold = t->threshold;
            memcpy(t->best, t->params, t->n_params * sizeof(float));
            worse = 0;
        }
    }
    r->n_train = t->n_train;
    r->n_held_out = t->n_held;
    r->density = t->density;
    if (status == SFFN_OK)
        memcpy(job->params, t->best, t->n_params * sizeof(float));
    return status;
}

sffn_status sffn_train(sffn_context *ctx, struct sffn_training *job, sffn_fit_result *result)
{
    enum { FEWEST = 40 }; /* two held-out samples */
    if (job->n < FEWEST)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: the calibration has %zu samples; a fit needs at least %d", job->what,
                         job->n, FEWEST);
    struct trainer t = {.ctx = ctx, .job = job};
    t.n_held = job->n / 20;
    t.n_train = job->n - t.n_held;
    t.batch = job->batch_size < t.n_train ? job->batch_size : t.n_train;
    t.n_params = sffn_mlp_parts(&job->mlp).total;
    size_t bytes;
    char *scratch = trainer_layout(&t, NULL, &bytes) ? sffn_mem_alloc_zero(ctx, bytes) : NULL;
    if (!scratch)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "%s: the allocator returned NULL for the training of %zu parameters",
                         job->what, t.n_params);
    trainer_layout(&t, scratch, &bytes);
    const sffn_status status = train(&t, result);
    sffn_mem_free(ctx, scratch, bytes);
    return status;
}
