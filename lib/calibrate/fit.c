/* fit.c  Predictors and routers trained on the samples of a calibration. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "calibrate/calibration.h"
#include "calibrate/fit.h"
#include "calibrate/mlp.h"
#include "matmul/linalg.h"

#define CHUNK_TOKENS 64 /* whose activations are made at a time */

static sffn_status check_training(const sffn_context *ctx, const char *what, int32_t start,
                                  uint32_t batch_size, float learning_rate, float weight_decay,
                                  float density, float stop_recall)
{
    if (start < SFFN_FIT_START_AUTO || start > SFFN_FIT_START_PRIOR)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: start is %d; expected a value of enum sffn_fit_start", what,
                         (int)start);
    if (batch_size == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: batch_size is 0", what);
    if (!(learning_rate > 0) || !(weight_decay >= 0) || isinf(learning_rate) || isinf(weight_decay))
        return sffn_fail(
            ctx, SFFN_ERR_INVALID_ARGUMENT,
            "%s: learning_rate is %g, weight_decay %g; expected finite numbers > 0 and "
            ">= 0",
            what, (double)learning_rate, (double)weight_decay);
    if (!(density >= 0 && density <= 1) || !(stop_recall >= 0))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: density is %g, stop_recall %g; expected [0, 1] and >= 0", what,
                         (double)density, (double)stop_recall);
    return SFFN_OK;
}

/* Calls visit() with g and h of every sample. */
static sffn_status visit_activations(sffn_context *ctx, struct sffn_calibration *c, int wants_h,
                                     void (*visit)(void *arg, size_t sample, const float *g,
                                                   const float *h),
                                     void *arg)
{
    const size_t d = c->ffn->d_model, f = c->ffn->d_ff;
    const size_t bytes = CHUNK_TOKENS * 2 * f * sizeof(float);
    float *g = sffn_mem_alloc(ctx, bytes);
    if (!g)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "%s: the allocator returned NULL for activations", c->ffn->name);
    float *h = wants_h ? g + CHUNK_TOKENS * f : NULL;
    sffn_status status = SFFN_OK;
    for (size_t t = 0; t < c->n_samples && status == SFFN_OK; t += CHUNK_TOKENS) {
        const size_t n = c->n_samples - t < CHUNK_TOKENS ? c->n_samples - t : CHUNK_TOKENS;
        status = sffn_calibration_products(ctx, c, c->x + t * d, n, g, h, NULL);
        for (size_t i = 0; i < n && status == SFFN_OK; i++)
            visit(arg, t + i, g + i * f, h ? h + i * f : NULL);
    }
    sffn_mem_free(ctx, g, bytes);
    return status;
}

static void random_start(float *w, size_t rows, size_t columns, struct sffn_random *random)
{
    const double bound = 1 / sqrt((double)columns);
    for (size_t i = 0; i < rows * columns; i++)
        w[i] = (float)(bound * (2 * sffn_random_uniform(random) - 1));
}

static sffn_status decode_gate(sffn_context *ctx, const struct sffn_calibration *c, float **gate,
                               size_t *bytes)
{
    const size_t d = c->ffn->d_model;
    *bytes = c->ffn->d_ff * d * sizeof(float);
    if (!(*gate = sffn_mem_alloc(ctx, *bytes)))
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "%s: the allocator returned NULL for the gate", c->ffn->name);
    for (uint32_t i = 0; i < c->ffn->d_ff; i++)
        sffn_matmul_get_row(&c->ffn->gate, i, *gate + i * d);
    return SFFN_OK;
}

/* ---- low-rank predictors ---- */

struct labels {
    const struct sffn_calibration *c;
    const sffn_activity *activity;
    uint8_t *bits; /* [n_samples][row_bytes] */
    size_t row_bytes;
    double g_squares;
};

static void label_neurons(void *arg, size_t sample, const float *g, const float *h)
{
    struct labels *l = arg;
    uint8_t *bits = l->bits + sample * l->row_bytes;
    for (uint32_t i = 0; i < l->c->ffn->d_ff; i++) {
        const float value = sffn_activity_value(l->c, l->activity->kind, g[i], h ? h[i] : 0);
        const float limit = sffn_activity_limit(l->c, l->activity, i);
        bits[i / 8] |= (uint8_t)(sffn_activity_passes(value, limit, l->activity->tie) << i % 8);
        l->g_squares += (double)g[i] * g[i];
    }
}

static void read_labels(const void *arg, size_t sample, float *y)
{
    const struct labels *l = arg;
    const uint8_t *bits = l->bits + sample * l->row_bytes;
    for (uint32_t i = 0; i < l->c->ffn->d_ff; i++)
        y[i] = (float)(bits[i / 8] >> i % 8 & 1);
}

/* The gate's best factors, in units of the gate's typical size so that the logits start neither flat nor saturated. A ReLU layer holds each
 * direction twice, relu(v) - relu(-v) = v. */
static sffn_status svd_start(sffn_context *ctx, struct sffn_calibration *c,
                             const sffn_low_rank_config *config, double g_rms, float *params)
{
    const size_t d = c->ffn->d_model, f = c->ffn->d_ff, r = config->rank;
    const int is_paired = config->hidden_activation == SFFN_HIDDEN_RELU;
    size_t rank = is_paired ? r / 2 : r, gate_bytes = 0;
    rank = rank < d ? rank : d;
    rank = rank < f ? rank : f;
    const size_t bytes = (rank * (d + f) + (c->moment ? d * d : 0)) * sizeof(float);
    float *v = sffn_mem_alloc(ctx, bytes), *gate = NULL;
    if (!v)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the allocator returned NULL for factors",
                         c->ffn->name);
    float *u = v + rank * d, *moment = u + rank * f;
    sffn_status status = decode_gate(ctx, c, &gate, &gate_bytes);
    if (status == SFFN_OK && c->moment)
        status = sffn_calibration_get_second_moment(ctx, c, moment);
    const struct sffn_low_rank job = {.what = "predictor",
                                      .rows = f,
                                      .columns = d,
                                      .rank = rank,
                                      .w = gate,
                                      .second_moment = c->moment ? moment : NULL,
                                      .seed = config->seed,
                                      .progress = config->progress,
                                      .progress_user = config->progress_user};
    if (status == SFFN_OK && rank > 0)
        status = sffn_low_rank_factors(ctx, &job, v, u, NULL);
    if (status == SFFN_OK) {
        const struct sffn_mlp mlp = {d, r, f, config->hidden_activation, config->has_bias};
        const struct sffn_mlp_parts p = sffn_mlp_parts(&mlp);
        const float scale = g_rms > 0 ? (float)(2 / g_rms) : 1;
        /* what the factors do not fill keeps its random w1 and gets w2 = 0: it starts without a say */
        memcpy(params + p.w1, v, rank * d * sizeof(float));
        for (size_t i = 0; is_paired && i < rank * d; i++)
            params[p.w1 + rank * d + i] = -v[i];
        for (size_t i = 0; i < f; i++)
            for (size_t j = 0; j < r; j++)
                params[p.w2 + i * r + j] = j < rank ? scale * u[i * rank + j]
                                           : is_paired && j < 2 * rank
                                               ? -scale * u[i * rank + j - rank]
                                               : 0;
        for (size_t i = 0; config->has_bias && i < f; i++)
            params[p.b2 + i] = c->ffn->gate_bias ? scale * c->ffn->gate_bias[i] : 0;
    }
    sffn_mem_free(ctx, gate, gate_bytes);
    sffn_mem_free(ctx, v, bytes);
    return status;
}

static sffn_status check_low_rank(const sffn_context *ctx, const struct sffn_calibration *c,
                                  const sffn_low_rank_config *k, const float *b1, const float *b2,
                                  int *from_prior)
{
    const char *what = "predictor";
    if (k->rank == 0 || k->rank > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: rank is %u; expected 1..2147483647",
                         what, (unsigned)k->rank);
    if (k->hidden_activation < SFFN_HIDDEN_NONE || k->hidden_activation > SFFN_HIDDEN_TANH)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: hidden_activation is %d; expected a value of enum "
                         "sffn_hidden_activation",
                         what, (int)k->hidden_activation);
    if ((k->has_bias & ~1) || (k->has_bias != 0) != (b1 != NULL) ||
        (k->has_bias != 0) != (b2 != NULL))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: has_bias is %d, b1 %s, b2 %s; expected 1 and both, or 0 and none",
                         what, (int)k->has_bias, b1 ? "set" : "NULL", b2 ? "set" : "NULL");
    sffn_status status = check_training(ctx, what, k->start, k->batch_size, k->learning_rate,
                                        k->weight_decay, k->density, k->stop_recall);
    if (status == SFFN_OK)
        status = sffn_activity_check(ctx, c, &k->activity);
    if (status == SFFN_OK && k->activity.kind == SFFN_ACTIVE_INPUT)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: SFFN_ACTIVE_INPUT says nothing of neurons", what);
    const int has_prior = !c->select_d && k->hidden_activation != SFFN_HIDDEN_TANH;
    *from_prior = has_prior && k->start != SFFN_FIT_START_RANDOM;
    if (status == SFFN_OK && k->start == SFFN_FIT_START_PRIOR && !has_prior)
        return sffn_fail(
            ctx, SFFN_ERR_UNSUPPORTED,
            "%s: SFFN_FIT_START_PRIOR needs x as input (select_d_model is %u) and no or "
            "a ReLU hidden layer",
            what, (unsigned)c->select_d);
    return status;
}

static sffn_status fit_low_rank(sffn_context *ctx, struct sffn_calibration *c,
                                const sffn_low_rank_config *k, int from_prior,
                                struct labels *labels, float *params, sffn_fit_result *result)
{
    const size_t d = c->select_d ? c->select_d : c->ffn->d_model, f = c->ffn->d_ff;
    struct sffn_training job = {.what = "predictor",
                                .mlp = {d, k->rank, f, k->hidden_activation, k->has_bias},
                                .params = params,
                                .n = c->n_samples,
                                .x = c->select_d ? c->select_x : c->x,
                                .labels = read_labels,
                                .labels_arg = labels,
                                .is_weighted = 1,
                                .batch_size = k->batch_size,
                                .max_epochs = k->max_epochs,
                                .patience = k->patience,
                                .learning_rate = k->learning_rate,
                                .weight_decay = k->weight_decay,
                                .density = (double)k->density,
                                .stop_recall = k->stop_recall,
                                .seed = k->seed,
                                .progress = k->progress,
                                .progress_user = k->progress_user};
    const struct sffn_mlp_parts p = sffn_mlp_parts(&job.mlp);
    struct sffn_random random = {~k->seed}; /* another stream than the split's */
    const int wants_h =
        k->activity.kind == SFFN_ACTIVE_H || k->activity.kind == SFFN_ACTIVE_CONTRIBUTION;
    sffn_status status = SFFN_OK;
    if (k->activity.kind == SFFN_ACTIVE_CHESS) /* its scale is a mean over evaluated tokens */
        status = sffn_calibration_evaluate(ctx, c);
    if (status == SFFN_OK)
        status = visit_activations(ctx, c, wants_h, label_neurons, labels);
    random_start(params + p.w1, k->rank, d, &random);
    random_start(params + p.w2, f, k->rank, &random);
    if (status == SFFN_OK && from_prior)
        status = svd_start(ctx, c, k, sqrt(labels->g_squares / ((double)c->n_samples * (double)f)),
                           params);
    return status == SFFN_OK ? sffn_train(ctx, &job, result) : status;
}

sffn_status sffn_fit_low_rank(sffn_context *ctx, sffn_calibration *c,
                              const sffn_low_rank_config *config, float *w1, float *w2, float *b1,
                              float *b2, sffn_fit_result *result)
{
    if (!ctx || !c || !w1 || !w2)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !ctx ? "ctx"
                         : !c ? "calibration"
                         : w1 ? "w2"
                              : "w1");
    sffn_low_rank_config k = SFFN_LOW_RANK_CONFIG_INIT;
    sffn_fit_result r = SFFN_FIT_RESULT_INIT;
    int from_prior = 0;
    sffn_status status = sffn_config_copy(ctx, "sffn_low_rank_config", &k, sizeof(k), config);
    if (status == SFFN_OK)
        status = check_low_rank(ctx, c, &k, b1, b2, &from_prior);
    if (status != SFFN_OK)
        return status;
    const size_t d = c->select_d ? c->select_d : c->ffn->d_model, f = c->ffn->d_ff;
    const struct sffn_mlp mlp = {d, k.rank, f, k.hidden_activation, k.has_bias};
    const struct sffn_mlp_parts p = sffn_mlp_parts(&mlp);
    struct labels labels = {.c = c, .activity = &k.activity, .row_bytes = (f + 7) / 8};
    const size_t label_bytes = labels.row_bytes * c->n_samples, bytes = p.total * sizeof(float);
    float *params = sffn_mem_alloc_zero(ctx, bytes);
    labels.bits = sffn_mem_alloc_zero(ctx, label_bytes);
    if (!params || !labels.bits)
        status = sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                           "predictor: the allocator returned NULL for %zu parameters", p.total);
    else
        status = fit_low_rank(ctx, c, &k, from_prior, &labels, params, &r);
    if (status == SFFN_OK && result)
        status = sffn_info_copy(ctx, "sffn_fit_result", result, &r, sizeof(r));
    if (status == SFFN_OK) {
        memcpy(w1, params + p.w1, k.rank * d * sizeof(float));
        memcpy(w2, params + p.w2, f * k.rank * sizeof(float));
        if (b1 && b2) {
            memcpy(b1, params + p.b1, k.rank * sizeof(float));
            memcpy(b2, params + p.b2, f * sizeof(float));
        }
    }
    sffn_mem_free(ctx, labels.bits, label_bytes);
    sffn_mem_free(ctx, params, bytes);
    return status;
}

/* ---- routers ---- */

struct expert_labels {
    const struct sffn_calibration *c;
    const uint32_t *permutation; /* or NULL */
    size_t n_experts, block_size;
    int32_t score;
    float *y; /* [n_samples][n_experts] */
};

static uint32_t neuron_at(const struct expert_labels *l, size_t position)
{
    return l->permutation ? l->permutation[position] : (uint32_t)position;
}

/* Each expert's score over the token's highest. */
static void label_experts(void *arg, size_t sample, const float *g, const float *h)
{
    (void)g;
    struct expert_labels *l = arg;
    float *y = l->y + sample * l->n_experts, most = 0;
    for (size_t e = 0; e < l->n_experts; e++) {
        double sum = 0;
        for (size_t p = e * l->block_size; p < (e + 1) * l->block_size; p++) {
            const uint32_t i = neuron_at(l, p);
            const double scale =
                l->score == SFFN_EXPERT_SUM_CONTRIBUTION ? (double)l->c->down_norm[i] : 1.0;
            sum += fabs((double)h[i]) * scale;
        }
        y[e] = (float)sum;
        most = y[e] > most ? y[e] : most;
    }
    for (size_t e = 0; e < l->n_experts && most > 0; e++)
        y[e] /= most;
}

static void read_expert_labels(const void *arg, size_t sample, float *y)
{
    const struct expert_labels *l = arg;
    memcpy(y, l->y + sample * l->n_experts, l->n_experts * sizeof(float));
}

/* The experts' mean rows of the gate (MoEfication's parameter centres), scaled to length 1. */
static sffn_status center_start(sffn_context *ctx, const struct expert_labels *l, float *w)
{
    const size_t d = l->c->ffn->d_model;
    size_t bytes;
    float *gate = NULL;
    const sffn_status status = decode_gate(ctx, l->c, &gate, &bytes);
    if (status != SFFN_OK)
        return status;
    for (size_t e = 0; e < l->n_experts; e++) {
        float *center = w + e * d;
        double squares = 0;
        memset(center, 0, d * sizeof(float));
        for (size_t p = e * l->block_size; p < (e + 1) * l->block_size; p++)
            for (size_t j = 0; j < d; j++)
                center[j] += gate[neuron_at(l, p) * d + j];
        for (size_t j = 0; j < d; j++)
            squares += (double)center[j] * center[j];
        for (size_t j = 0; j < d && squares > 0; j++)
            center[j] = (float)(center[j] / sqrt(squares));
    }
    sffn_mem_free(ctx, gate, bytes);
    return SFFN_OK;
}

static sffn_status check_permutation(sffn_context *ctx, const uint32_t *permutation, uint32_t n)
{
    if (!permutation)
        return SFFN_OK;
    sffn_status status = SFFN_OK;
    uint8_t *seen = sffn_mem_alloc_zero(ctx, n);
    if (!seen)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "router: the allocator returned NULL");
    for (uint32_t i = 0; i < n && status == SFFN_OK; i++)
        if (permutation[i] >= n || seen[permutation[i]]++)
            status = sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                               "router: permutation[%u] is %u; expected each of 0..%u once",
                               (unsigned)i, (unsigned)permutation[i], (unsigned)n - 1);
    sffn_mem_free(ctx, seen, n);
    return status;
}

static sffn_status check_router(sffn_context *ctx, const struct sffn_calibration *c,
                                const sffn_router_fit_config *k, const float *hidden)
{
    const char *what = "router";
    if (k->block_size == 0 || c->ffn->d_ff % k->block_size)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "%s: block_size is %u; expected a divisor of the layer's %u neurons", what,
                         (unsigned)k->block_size, (unsigned)c->ffn->d_ff);
    if ((k->is_mlp | k->normalize_input | k->score) & ~1)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: is_mlp is %d, normalize_input %d, score %d; expected 0 or 1", what,
                         (int)k->is_mlp, (int)k->normalize_input, (int)k->score);
    if ((hidden != NULL) != (k->is_mlp != 0))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: is_mlp is %d and hidden %s", what,
                         (int)k->is_mlp, hidden ? "set" : "NULL");
    if (k->start == SFFN_FIT_START_PRIOR && c->select_d)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: SFFN_FIT_START_PRIOR needs x as input; select_d_model is %u", what,
                         (unsigned)c->select_d);
    const sffn_status status = check_training(ctx, what, k->start, k->batch_size, k->learning_rate,
                                              k->weight_decay, k->density, k->stop_recall);
    return status == SFFN_OK ? check_permutation(ctx, k->permutation, c->ffn->d_ff) : status;
}

static void normalise_inputs(const float *from, float *to, size_t n, size_t d)
{
    for (size_t t = 0; t < n; t++) {
        double squares = 0;
        for (size_t j = 0; j < d; j++)
            squares += (double)from[t * d + j] * from[t * d + j];
        for (size_t j = 0; j < d; j++)
            to[t * d + j] = squares > 0 ? (float)(from[t * d + j] / sqrt(squares)) : 0;
    }
}

static sffn_status fit_router(sffn_context *ctx, struct sffn_calibration *c,
                              const sffn_router_fit_config *k, struct expert_labels *labels,
                              float *params, float *own_x, sffn_fit_result *result)
{
    const size_t d = c->select_d ? c->select_d : c->ffn->d_model, n = labels->n_experts;
    const float *x = c->select_d ? c->select_x : c->x;
    struct sffn_training job = {.what = "router",
                                .mlp = {d, k->is_mlp ? n : 0, n, SFFN_HIDDEN_TANH, 0},
                                .params = params,
                                .n = c->n_samples,
                                .x = own_x ? own_x : x,
                                .labels = read_expert_labels,
                                .labels_arg = labels,
                                .batch_size = k->batch_size,
                                .max_epochs = k->max_epochs,
                                .patience = k->patience,
                                .learning_rate = k->learning_rate,
                                .weight_decay = k->weight_decay,
                                .density = (double)k->density,
                                .stop_recall = k->stop_recall,
                                .seed = k->seed,
                                .progress = k->progress,
                                .progress_user = k->progress_user};
    const struct sffn_mlp_parts p = sffn_mlp_parts(&job.mlp);
    struct sffn_random random = {~k->seed};
    float *first = params + (k->is_mlp ? p.w1 : p.w2);
    if (own_x)
        normalise_inputs(x, own_x, c->n_samples, d);
    sffn_status status = visit_activations(ctx, c, 1, label_experts, labels);
    random_start(first, n, d, &random);
    if (status == SFFN_OK && !c->select_d && k->start != SFFN_FIT_START_RANDOM)
        status = center_start(ctx, labels, first);
    for (size_t e = 0; k->is_mlp && e < n; e++) /* identity */
        params[p.w2 + e * n + e] = 1;
    return status == SFFN_OK ? sffn_train(ctx, &job, result) : status;
}

sffn_status sffn_fit_router(sffn_context *ctx, sffn_calibration *c,
                            const sffn_router_fit_config *config, float *hidden, float *weight,
                            sffn_fit_result *result)
{
    if (!ctx || !c || !weight)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !ctx ? "ctx"
                         : c  ? "weight"
                              : "calibration");
    sffn_router_fit_config k = SFFN_ROUTER_FIT_CONFIG_INIT;
    sffn_fit_result r = SFFN_FIT_RESULT_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_router_fit_config", &k, sizeof(k), config);
    if (status == SFFN_OK)
        status = check_router(ctx, c, &k, hidden);
    if (status != SFFN_OK)
        return status;
    const size_t d = c->select_d ? c->select_d : c->ffn->d_model, n = c->ffn->d_ff / k.block_size;
    struct expert_labels labels = {c, k.permutation, n, k.block_size, k.score, NULL};
    const size_t first = n * d, second = k.is_mlp ? n * n : 0;
    const size_t copies = k.normalize_input ? c->n_samples * d : 0;
    const size_t bytes = (first + second + c->n_samples * n + copies) * sizeof(float);
    float *params = sffn_mem_alloc_zero(ctx, bytes);
    if (!params)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "router: the allocator returned NULL for %zu experts", n);
    labels.y = params + first + second;
    status =
        fit_router(ctx, c, &k, &labels, params, copies ? labels.y + c->n_samples * n : NULL, &r);
    if (status == SFFN_OK && result)
        status = sffn_info_copy(ctx, "sffn_fit_result", result, &r, sizeof(r));
    if (status == SFFN_OK) {
        memcpy(hidden ? hidden : weight, params, first * sizeof(float));
        if (hidden)
            memcpy(weight, params + first, second * sizeof(float));
    }
    sffn_mem_free(ctx, params, bytes);
    return status;
}
