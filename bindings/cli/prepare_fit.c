#include "prepare_fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const double default_recall = 0.99;

static void *keep(struct fitted *f, int array, size_t bytes)
{
    f->arrays[array] = cli_alloc(bytes, 1);
    f->bytes[array] = bytes;
    return f->arrays[array];
}

void fit_point(struct fitted *f, const sffn_ffn_config *ffn)
{
    int is_gated = ffn->gate.data != NULL;
    f->predictor.gate = is_gated ? ffn->gate : ffn->up;
    f->predictor.gate_bias = is_gated ? ffn->gate_bias : ffn->up_bias;
    f->predictor.thresholds = NULL;
    f->predictor.w1.data = f->arrays[FIT_W1];
    f->predictor.w2.data = f->arrays[FIT_W2];
    f->predictor.b1 = NULL;
    f->predictor.b2 = f->arrays[FIT_B2];
    f->predictor.input_mean = f->arrays[FIT_MEAN];
    f->router.weights.data = f->arrays[FIT_ROUTER];
    f->router.bias = NULL;
    f->router.hidden_weights.data = NULL;
    f->router.hidden_bias = NULL;
}

void fit_free(struct fitted *f)
{
    for (int i = 0; i < FIT_N_ARRAYS; i++)
        free(f->arrays[i]);
    memset(f, 0, sizeof *f);
}

static sffn_status second_moment(sffn_context *ctx, sffn_calibration *calibration, uint32_t d,
                                 float **out)
{
    *out = cli_alloc((size_t)d * d, sizeof **out);
    return sffn_calibration_get_second_moment(ctx, calibration, *out);
}

/* Floats to packed rows: a predictor must not cost more bytes than it saves. */
static sffn_status pack(struct fitted *f, int array, const float *rows, uint32_t n_rows,
                        uint32_t n_cols, int32_t dtype, sffn_weights *weights)
{
    sffn_status status = SFFN_OK;
    size_t row_bytes = sffn_dtype_row_bytes(dtype, n_cols);
    char *to = keep(f, array, n_rows * row_bytes);
    for (uint32_t i = 0; status == SFFN_OK && i < n_rows; i++)
        status = sffn_dtype_from_f32(dtype, rows + (size_t)i * n_cols, n_cols, to + i * row_bytes);
    weights->data = to;
    weights->dtype = dtype;
    weights->layout = SFFN_LAYOUT_ROWS;
    weights->row_bytes = 0;
    return status;
}

/* W1 and W2: from the gate alone, or trained. */
static int fit_matrices(sffn_context *ctx, sffn_calibration *calibration, const struct selection *s,
                        const struct fit_options *o, struct fitted *f)
{
    static const sffn_predictor_config defaults = SFFN_PREDICTOR_CONFIG_INIT;
    const sffn_ffn_config *ffn = o->ffn;
    uint32_t d = ffn->d_model, n = ffn->d_ff, rank = (uint32_t)s->rank;
    int32_t dtype = selection_dtype(s);
    float *w1, *w2;
    sffn_status status;
    w1 = cli_alloc((size_t)rank * d, sizeof *w1);
    w2 = cli_alloc((size_t)n * rank, sizeof *w2);
    f->predictor = defaults;
    f->has_predictor = 1;
    f->predictor.kind = SFFN_PREDICTOR_LOW_RANK;
    f->predictor.d_model = d;
    f->predictor.d_ff = n;
    f->predictor.rank = rank;
    f->predictor.input = selection_input(s);
    f->predictor.threshold = 0.0f;
    if (strcmp(s->kind, "svd") == 0) {
        sffn_svd_config config = SFFN_SVD_CONFIG_INIT;
        const float *bias = ffn->gate.data != NULL ? ffn->gate_bias : ffn->up_bias;
        float *moment = NULL;
        config.weights = ffn->gate.data != NULL ? ffn->gate : ffn->up;
        config.n_rows = n;
        config.n_cols = d;
        config.rank = rank;
        config.seed = o->seed;
        config.progress = o->progress;
        config.progress_user = o->progress_user;
        status = second_moment(ctx, calibration, d, &moment);
        config.second_moment = moment;
        if (status == SFFN_OK)
            status = sffn_fit_svd(ctx, &config, w1, w2, NULL);
        free(moment);
        if (bias != NULL)
            memcpy(keep(f, FIT_B2, n * sizeof *bias), bias, n * sizeof *bias);
        f->predictor.threshold = ffn->act_threshold;
    } else {
        sffn_low_rank_config config = SFFN_LOW_RANK_CONFIG_INIT;
        int is_mlp = strcmp(s->kind, "mlp") == 0;
        config.rank = rank;
        config.hidden_activation = is_mlp ? SFFN_HIDDEN_RELU : SFFN_HIDDEN_NONE;
        config.activity = *o->activity;
        config.seed = o->seed;
        config.progress = o->progress;
        config.progress_user = o->progress_user;
        f->predictor.hidden_activation = config.hidden_activation;
        status = sffn_fit_low_rank(ctx, calibration, &config, w1, w2, NULL, NULL, NULL);
    }
    if (status == SFFN_OK)
        status = pack(f, FIT_W1, w1, rank, d, dtype, &f->predictor.w1);
    if (status == SFFN_OK)
        status = pack(f, FIT_W2, w2, n, rank, dtype, &f->predictor.w2);
    free(w1);
    free(w2);
    return status == SFFN_OK ? CLI_OK : cli_fail_status(ctx, status, s->text);
}

/* The threshold, or the screen's margin, that lets the wanted share of the active neurons through. */
static int set_recall(sffn_context *ctx, sffn_calibration *calibration, const struct selection *s,
                      const struct fit_options *o, struct fitted *f)
{
    double recall = isnan(s->recall) ? default_recall : s->recall;
    int is_screen = f->predictor.kind == SFFN_PREDICTOR_SCREENED_GATE;
    sffn_predictor *predictor = NULL;
    sffn_status status;
    fit_point(f, o->ffn);
    status = sffn_predictor_create(ctx, &f->predictor, &predictor);
    if (status == SFFN_OK)
        status =
            sffn_calibration_selector_threshold(ctx, calibration, predictor, NULL, o->activity,
                                                recall, is_screen ? NULL : &f->predictor.threshold,
                                                NULL, is_screen ? &f->predictor.margin : NULL);
    sffn_predictor_destroy(predictor);
    return status == SFFN_OK ? CLI_OK : cli_fail_status(ctx, status, s->text);
}

/* ---------------------------------------------------------------- experts and their router */

static void *permute_rows(const void *rows, size_t row_bytes, uint32_t n,
                          const uint32_t *permutation)
{
    char *out;
    if (rows == NULL)
        return NULL;
    out = cli_alloc(n, row_bytes);
    for (uint32_t i = 0; i < n; i++)
        memcpy(out + i * row_bytes, (const char *)rows + permutation[i] * row_bytes, row_bytes);
    return out;
}

int permute_layer(const sffn_ffn_config *ffn, const uint32_t *permutation, struct permuted *out)
{
    const float *vectors[3] = {ffn->gate_bias, ffn->up_bias, ffn->rule_thresholds};
    sffn_weights *matrices[3];
    memset(out, 0, sizeof *out);
    out->config = *ffn;
    matrices[0] = &out->config.gate;
    matrices[1] = &out->config.up;
    matrices[2] = &out->config.down;
    for (int i = 0; i < 3; i++) {
        size_t row_bytes = matrices[i]->row_bytes != 0
                               ? matrices[i]->row_bytes
                               : sffn_dtype_row_bytes(matrices[i]->dtype, ffn->d_model);
        if (matrices[i]->data != NULL && matrices[i]->layout != SFFN_LAYOUT_ROWS)
            return cli_fail("the down matrix is stored by columns, expected by neurons");
        matrices[i]->data = out->arrays[i] =
            permute_rows(matrices[i]->data, row_bytes, ffn->d_ff, permutation);
        out->arrays[3 + i] = permute_rows(vectors[i], sizeof(float), ffn->d_ff, permutation);
    }
    out->config.gate_bias = out->arrays[3];
    out->config.up_bias = out->arrays[4];
    out->config.rule_thresholds = out->arrays[5];
    return CLI_OK;
}

void permuted_free(struct permuted *p)
{
    for (size_t i = 0; i < sizeof p->arrays / sizeof p->arrays[0]; i++)
        free(p->arrays[i]);
    memset(p, 0, sizeof *p);
}

/* Fits the router on a calibration of the permuted layer, whose experts are blocks. */
static sffn_status fit_permuted(sffn_context *ctx, const struct selection *s,
                                const struct fit_options *o, const struct permuted *layer,
                                uint32_t size, float *weight, float *threshold)
{
    sffn_calibration_config config = SFFN_CALIBRATION_CONFIG_INIT;
    sffn_router_fit_config fit = SFFN_ROUTER_FIT_CONFIG_INIT;
    sffn_router_config router_config = SFFN_ROUTER_CONFIG_INIT;
    sffn_calibration *calibration = NULL;
    sffn_router *router = NULL;
    sffn_ffn *ffn = NULL;
    sffn_status status = sffn_ffn_create(ctx, &layer->config, &ffn);
    config.ffn = ffn;
    config.max_samples = (uint32_t)o->n;
    config.eval_samples = o->n < 512 ? (uint32_t)o->n : 512;
    config.seed = o->seed;
    config.select_d_model = o->select_x != NULL ? layer->config.d_model : 0;
    fit.block_size = size;
    fit.seed = o->seed;
    fit.progress = o->progress;
    fit.progress_user = o->progress_user;
    if (status == SFFN_OK)
        status = sffn_calibration_create(ctx, &config, &calibration);
    if (status == SFFN_OK)
        status = sffn_calibration_add(ctx, calibration, o->x, layer->config.d_model, o->select_x,
                                      layer->config.d_model, o->n);
    if (status == SFFN_OK)
        status = sffn_fit_router(ctx, calibration, &fit, NULL, weight, NULL);
    router_config.d_model = layer->config.d_model;
    router_config.n_experts = layer->config.d_ff / size;
    router_config.block_size = size;
    router_config.weights.data = weight;
    if (status == SFFN_OK)
        status = sffn_router_create(ctx, &router_config, &router);
    if (status == SFFN_OK)
        status = sffn_calibration_selector_threshold(ctx, calibration, NULL, router, o->activity,
                                                     isnan(s->recall) ? default_recall : s->recall,
                                                     threshold, NULL, NULL);
    sffn_router_destroy(router);
    sffn_calibration_destroy(calibration);
    sffn_ffn_destroy(ffn);
    return status;
}

static int fit_experts(sffn_context *ctx, const struct selection *s, const struct fit_options *o,
                       struct fitted *f)
{
    static const sffn_router_config defaults = SFFN_ROUTER_CONFIG_INIT;
    const sffn_ffn_config *ffn = o->ffn;
    sffn_cluster_config cluster = SFFN_CLUSTER_CONFIG_INIT;
    struct permuted permuted;
    uint32_t size = isnan(s->size) ? 32u : (uint32_t)s->size, n_experts;
    uint32_t *permutation = keep(f, FIT_PERMUTATION, ffn->d_ff * sizeof *permutation);
    float *weight, threshold = 0.0f;
    sffn_status status;
    n_experts = ffn->d_ff / size;
    cluster.weights = ffn->gate.data != NULL ? ffn->gate : ffn->up;
    cluster.n_rows = ffn->d_ff;
    cluster.n_cols = ffn->d_model;
    cluster.group_size = size;
    cluster.seed = o->seed;
    cluster.progress = o->progress;
    cluster.progress_user = o->progress_user;
    status = sffn_cluster_neurons(ctx, &cluster, permutation, NULL);
    if (status != SFFN_OK)
        return cli_fail_status(ctx, status, s->text);
    if (permute_layer(ffn, permutation, &permuted) != CLI_OK) {
        permuted_free(&permuted);
        return CLI_FAILED;
    }
    weight = keep(f, FIT_ROUTER, (size_t)n_experts * ffn->d_model * sizeof *weight);
    status = fit_permuted(ctx, s, o, &permuted, size, weight, &threshold);
    permuted_free(&permuted);
    if (status != SFFN_OK)
        return cli_fail_status(ctx, status, s->text);
    f->has_router = 1;
    f->router = defaults;
    f->router.d_model = ffn->d_model;
    f->router.n_experts = n_experts;
    f->router.block_size = size;
    f->router.input = selection_input(s);
    f->router.threshold =
        fminf(fmaxf(1.0f / (1.0f + expf(-threshold)), 1e-30f), 0.999999f); /* inside (0, 1) */
    return CLI_OK;
}

int fit_check(const struct selection *s, uint32_t layer, const sffn_ffn_config *ffn)
{
    sffn_predictor_config config;
    uint32_t d = ffn->d_model, n = ffn->d_ff;
    int is_router = strcmp(s->kind, "router") == 0;
    if (is_router && !isnan(s->size) && n % (uint32_t)s->size != 0)
        return cli_fail(
            "layer %u, %s: experts of %.0f neurons, expected a divisor of the layer's %u",
            (unsigned)layer, s->text, s->size, (unsigned)n);
    if (!isnan(s->rank) && (s->rank > d || s->rank > n))
        return cli_fail(
            "layer %u, %s: rank %.0f, expected at most the layer's %u inputs and %u neurons",
            (unsigned)layer, s->text, s->rank, (unsigned)d, (unsigned)n);
    if (!isnan(s->rank) && sffn_dtype_block_size(selection_dtype(s)) > 1 &&
        ((uint32_t)s->rank % 32 != 0 || d % 32 != 0))
        return cli_fail(
            "layer %u, %s: rank %.0f with %u inputs, expected multiples of 32 for 4 and 8 bits",
            (unsigned)layer, s->text, s->rank, (unsigned)d);
    return is_router ? CLI_OK : selection_predictor_config(s, layer, ffn, &config);
}

/* What a cascade takes off its inputs. */
static void fit_mean(const struct fit_options *o, struct fitted *f)
{
    size_t d = o->ffn->d_model;
    float *mean = keep(f, FIT_MEAN, d * sizeof *mean);
    for (size_t j = 0; j < d; j++) {
        double sum = 0.0;
        for (size_t i = 0; i < o->n; i++)
            sum += (double)o->x[i * d + j];
        mean[j] = (float)(sum / (double)o->n);
    }
}

int fit_selection(sffn_context *ctx, sffn_calibration *calibration, const struct selection *s,
                  uint32_t layer, const struct fit_options *o, struct fitted *out)
{
    int status = CLI_OK;
    memset(out, 0, sizeof *out);
    if (strcmp(s->kind, "router") == 0) {
        status = fit_experts(ctx, s, o, out);
    } else if (strcmp(s->kind, "screen") == 0 || strcmp(s->kind, "cascade") == 0 ||
               strcmp(s->kind, "sign") == 0) {
        out->has_predictor = 1;
        if (strcmp(s->kind, "cascade") == 0)
            fit_mean(o, out);
        status = selection_predictor_config(s, layer, o->ffn, &out->predictor);
        if (status == CLI_OK && !isnan(s->recall))
            status = set_recall(ctx, calibration, s, o, out);
    } else {
        status = fit_matrices(ctx, calibration, s, o, out);
        if (status == CLI_OK && isnan(s->density) && isnan(s->threshold))
            status = set_recall(ctx, calibration, s, o, out);
        if (status == CLI_OK)
            selection_decide(s, &out->predictor);
    }
    fit_point(out, o->ffn);
    return status;
}
