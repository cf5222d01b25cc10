/* layers.c  The FFN layers of a model, and who selects their neurons, as configs whose pointers lead into
 * the file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "ffn/ffn.h"
#include "model/gguf.h"
#include "model/selectors.h"

struct layer {
    const sffn_model *model;
    uint32_t number;
    sffn_status status; /* of the first failure */
};

static const struct sffn_tensor *layer_tensor(const struct layer *layer, const char *part)
{
    char name[64];
    snprintf(name, sizeof(name), "blk.%u.%s", (unsigned)layer->number, part);
    return sffn_model_tensor(layer->model, name);
}

/* "PATH: offset 123: tensor 'name' ...": where the tensor's data begin, plus `at`. */
static sffn_status tensor_fail(struct layer *layer, sffn_status status,
                               const struct sffn_tensor *tensor, size_t at, const char *reason)
{
    const sffn_model *model = layer->model;
    layer->status =
        sffn_fail(model->ctx, status, "%s: tensor '%s' %s", model->path, tensor->name, reason);
    for (size_t i = 0; i < model->n_files; i++) {
        const struct sffn_file *file = &model->files[i];
        const uintptr_t start = (uintptr_t)file->data, data = (uintptr_t)tensor->data;
        if (data >= start && data - start < file->bytes)
            sffn_file_fail(file, status, data - start + at, "tensor '%s' %s", tensor->name, reason);
    }
    return status;
}

/* if_missing is what a file without the tensor gets; SFFN_OK: nothing. */
static const struct sffn_tensor *find_part(struct layer *layer, const char *part,
                                           sffn_status if_missing)
{
    if (layer->status != SFFN_OK)
        return NULL;
    const struct sffn_tensor *tensor = layer_tensor(layer, part);
    if (!tensor && if_missing != SFFN_OK)
        layer->status = sffn_fail(layer->model->ctx, if_missing, "%s: no tensor 'blk.%u.%s'",
                                  layer->model->path, (unsigned)layer->number, part);
    return tensor;
}

static int has_kernels(struct layer *layer, const struct sffn_tensor *tensor)
{
    char reason[128];
    if (tensor->type->dtype >= 0)
        return 1;
    snprintf(
        reason, sizeof(reason),
        "has type %s, for which there are no kernels: `sffn prepare` (sffn_prepare()) converts it",
        tensor->type->name);
    tensor_fail(layer, SFFN_ERR_UNSUPPORTED, tensor, 0, reason);
    return 0;
}

/* Checks a matrix of n_rows x n_cols (0: any) and fills `weights`; returns its tensor. */
static const struct sffn_tensor *take_matrix(struct layer *layer, const char *part,
                                             uint32_t *n_rows, uint32_t *n_cols,
                                             sffn_status if_missing, sffn_weights *weights)
{
    const struct sffn_tensor *tensor = find_part(layer, part, if_missing);
    if (!tensor)
        return NULL;
    if (tensor->n_dims != 2 || tensor->dims[0] == 0 || tensor->dims[1] == 0 ||
        tensor->dims[0] > UINT32_MAX || tensor->dims[1] > UINT32_MAX ||
        (*n_rows && tensor->dims[0] != *n_rows) || (*n_cols && tensor->dims[1] != *n_cols)) {
        char reason[160];
        snprintf(reason, sizeof(reason),
                 "has %u dimensions, %llu x %llu; expected a matrix of %u x %u (0: any)",
                 (unsigned)tensor->n_dims, (unsigned long long)tensor->dims[0],
                 (unsigned long long)tensor->dims[1], (unsigned)*n_rows, (unsigned)*n_cols);
        tensor_fail(layer, SFFN_ERR_SHAPE, tensor, 0, reason);
        return NULL;
    }
    if (!has_kernels(layer, tensor))
        return NULL;
    *n_rows = (uint32_t)tensor->dims[0];
    *n_cols = (uint32_t)tensor->dims[1];
    weights->data = tensor->data;
    weights->dtype = tensor->type->dtype;
    weights->layout = SFFN_LAYOUT_ROWS;
    weights->row_bytes = 0;
    return tensor;
}

/* n floats; NULL in *vector when the file has none. */
static const struct sffn_tensor *take_vector(struct layer *layer, const char *part, uint32_t n,
                                             const float **vector)
{
    const sffn_model *model = layer->model;
    const struct sffn_tensor *tensor = find_part(layer, part, SFFN_OK);
    if (!tensor)
        return NULL;
    if (tensor->n_dims != 1 || tensor->dims[0] != n) {
        char reason[128];
        snprintf(reason, sizeof(reason),
                 "has %u dimensions, %llu elements in the first; expected %u elements",
                 (unsigned)tensor->n_dims, (unsigned long long)tensor->dims[0], (unsigned)n);
        tensor_fail(layer, SFFN_ERR_SHAPE, tensor, 0, reason);
        return NULL;
    }
    if (!has_kernels(layer, tensor))
        return NULL;
    const float *copy = model->vectors[tensor - model->parts.tensors];
    *vector = copy ? copy : (const float *)(const void *)tensor->data; /* aligned: copy_vectors() */
    return tensor;
}

static void take_thresholds(struct layer *layer, const char *part, uint32_t n,
                            const float **thresholds)
{
    const struct sffn_tensor *tensor = take_vector(layer, part, n, thresholds);
    for (uint32_t i = 0; tensor && i < n; i++) {
        char reason[48];
        if (!isnan((*thresholds)[i]))
            continue;
        snprintf(reason, sizeof(reason), "has NaN as element %u", (unsigned)i);
        tensor_fail(layer, SFFN_ERR_FORMAT, tensor, tensor->bytes / n * i, reason);
        return;
    }
}

/* d_ff of one layer where the metadata have an array of them; else the common one. */
static uint32_t layer_d_ff(const sffn_model *model, uint32_t layer)
{
    const struct sffn_meta *meta = model->info.format == SFFN_FILE_GGUF
                                       ? sffn_model_arch_meta(model, "feed_forward_length")
                                       : NULL;
    if (!meta || meta->kind != SFFN_META_ARRAY)
        return model->info.d_ff;
    int64_t value = 0;
    int is_too_large = 0;
    if (layer < meta->n && meta->element_kind == SFFN_META_INT)
        value = sffn_gguf_load_int(meta->file, meta->element_type,
                                   meta->at + layer * sffn_gguf_kind_bytes(meta->element_type),
                                   &is_too_large);
    return value > 0 && value <= UINT32_MAX && !is_too_large ? (uint32_t)value : 0;
}

static sffn_status check_layer(const sffn_model *model, uint32_t number)
{
    if (!model)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "model is NULL");
    if (number >= model->info.n_layers)
        return sffn_fail(model->ctx, SFFN_ERR_NOT_FOUND, "%s: layer %u of %u", model->path,
                         (unsigned)number, (unsigned)model->info.n_layers);
    return SFFN_OK;
}

sffn_status sffn_model_layer_config(const sffn_model *model, uint32_t layer_number,
                                    sffn_ffn_config *out)
{
    sffn_status status = check_layer(model, layer_number);
    if (status != SFFN_OK)
        return status;
    const sffn_model_info *info = &model->info;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    status = sffn_config_copy(model->ctx, "sffn_ffn_config", &config, sizeof(config), out);
    if (status != SFFN_OK)
        return status;
    if (model->unknown_activation)
        return sffn_fail(model->ctx, SFFN_ERR_UNSUPPORTED, "%s: activation '%s' is unknown",
                         model->path, model->unknown_activation);

    struct layer layer = {model, layer_number, SFFN_OK};
    const sffn_weights none = SFFN_WEIGHTS_INIT;
    uint32_t d_model = info->d_model, d_ff = layer_d_ff(model, layer_number);
    int has_rule = 0;
    config.gate = config.up = config.down = none;
    config.gate_bias = config.up_bias = config.down_bias = NULL;
    take_matrix(&layer, "ffn_up.weight", &d_ff, &d_model, SFFN_ERR_NOT_FOUND, &config.up);
    take_matrix(&layer, "ffn_gate.weight", &d_ff, &d_model,
                model->is_gated ? SFFN_ERR_NOT_FOUND : SFFN_OK, &config.gate);
    /* Neuron-major down rows, ours and PowerInfer's, are the better ones when a file has both. */
    if (!take_matrix(&layer, "ffn_down_t.weight", &d_ff, &d_model, SFFN_OK, &config.down)) {
        take_matrix(&layer, "ffn_down.weight", &d_model, &d_ff, SFFN_ERR_NOT_FOUND, &config.down);
        config.down.layout = SFFN_LAYOUT_COLUMNS;
    }
    take_vector(&layer, "ffn_gate.bias", d_ff, &config.gate_bias);
    take_vector(&layer, "ffn_up.bias", d_ff, &config.up_bias);
    take_vector(&layer, "ffn_down.bias", d_model, &config.down_bias);
    if (layer.status == SFFN_OK)
        layer.status = sffn_fields_read(model, &sffn_rule_fields, layer_number, &config, &has_rule);
    if (has_rule) {
        config.rule_thresholds = NULL;
        take_thresholds(&layer, "sffn_rule.threshold", d_ff, &config.rule_thresholds);
    }
    if (layer.status != SFFN_OK)
        return layer.status;
    config.d_model = d_model;
    config.d_ff = d_ff;
    if (info->activation >= 0) {
        config.activation = info->activation;
        config.act_threshold = info->act_threshold;
        config.act_tie = info->act_tie;
    }
    return sffn_info_copy(model->ctx, "sffn_ffn_config", out, &config, sizeof(config));
}

/* ---- selectors ---- */

static sffn_status no_selector(const sffn_model *model, uint32_t layer, const char *what)
{
    return sffn_fail(model->ctx, SFFN_ERR_NOT_FOUND, "%s: layer %u has no %s", model->path,
                     (unsigned)layer, what);
}

/* A predictor as PowerInfer's files have it: blk.N.fc1.weight and fc2.weight, ReLU between them, one threshold for the
 * logits, kept at equality. Its engine feeds the residual stream before the FFN's norm; Falcon's layers have no such place
 * and use their own input. */
static sffn_status read_powerinfer(const sffn_model *model, uint32_t number,
                                   sffn_predictor_config *config, int *is_there)
{
    const struct layer layer = {model, number, SFFN_OK};
    const struct sffn_meta *meta = sffn_model_meta(model, "powerinfer.sparse_threshold");
    *is_there = layer_tensor(&layer, "fc1.weight") || layer_tensor(&layer, "fc2.weight");
    if (!*is_there)
        return SFFN_OK;
    config->kind = SFFN_PREDICTOR_LOW_RANK;
    config->decision = SFFN_DECIDE_THRESHOLD;
    config->tie = SFFN_TIE_KEEP;
    config->threshold = 0;
    config->rank = 0; /* fc1's rows */
    config->hidden_activation = SFFN_HIDDEN_RELU;
    config->input =
        strcmp(model->info.architecture, "falcon") == 0 ? SFFN_INPUT_LAYER : SFFN_INPUT_RESIDUAL;
    return sffn_model_float_key(meta, &config->threshold);
}

/* Fills in what keys say; of tensors only whether they are there. */
static sffn_status read_predictor(const sffn_model *model, uint32_t layer,
                                  sffn_predictor_config *config, int *is_there)
{
    const sffn_status status =
        sffn_fields_read(model, &sffn_predictor_fields, layer, config, is_there);
    if (status != SFFN_OK || *is_there || model->info.format != SFFN_FILE_GGUF ||
        sffn_model_meta(model, sffn_predictor_fields.rows[0].key))
        return status;
    return read_powerinfer(model, layer, config, is_there);
}

static void take_low_rank(struct layer *layer, sffn_predictor_config *config)
{
    const int is_ours = sffn_model_meta(layer->model, sffn_predictor_fields.rows[0].key) != NULL;
    take_matrix(layer, is_ours ? "sffn_predictor_w1.weight" : "fc1.weight", &config->rank,
                &config->d_model, SFFN_ERR_FORMAT, &config->w1);
    take_matrix(layer, is_ours ? "sffn_predictor_w2.weight" : "fc2.weight", &config->d_ff,
                &config->rank, SFFN_ERR_FORMAT, &config->w2);
    config->b1 = config->b2 = NULL;
    take_vector(layer, "sffn_predictor_w1.bias", config->rank, &config->b1);
    take_vector(layer, "sffn_predictor_w2.bias", config->d_ff, &config->b2);
}

sffn_status sffn_model_layer_predictor_config(const sffn_model *model, uint32_t layer_number,
                                              sffn_predictor_config *out)
{
    sffn_status status = check_layer(model, layer_number);
    if (status != SFFN_OK)
        return status;
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    status = sffn_config_copy(model->ctx, "sffn_predictor_config", &config, sizeof(config), out);
    int is_there = 0;
    if (status == SFFN_OK)
        status = read_predictor(model, layer_number, &config, &is_there);
    sffn_ffn_config ffn = SFFN_FFN_CONFIG_INIT;
    if (status == SFFN_OK)
        status = is_there ? sffn_model_layer_config(model, layer_number, &ffn)
                          : no_selector(model, layer_number, "predictor");
    if (status != SFFN_OK)
        return status;
    struct layer layer = {model, layer_number, SFFN_OK};
    config.d_model = ffn.d_model;
    config.d_ff = ffn.d_ff;
    /* What an ungated layer decides by is its up product. */
    config.gate = ffn.gate.data ? ffn.gate : ffn.up;
    config.gate_bias = ffn.gate.data ? ffn.gate_bias : ffn.up_bias;
    config.thresholds = NULL;
    take_thresholds(&layer, "sffn_predictor.threshold", ffn.d_ff, &config.thresholds);
    config.input_mean = NULL;
    if (config.kind == SFFN_PREDICTOR_CASCADE)
        take_vector(&layer, "sffn_predictor.input_mean", ffn.d_model, &config.input_mean);
    if (config.kind == SFFN_PREDICTOR_LOW_RANK)
        take_low_rank(&layer, &config);
    return layer.status != SFFN_OK
               ? layer.status
               : sffn_info_copy(model->ctx, "sffn_predictor_config", out, &config, sizeof(config));
}

sffn_status sffn_model_layer_router_config(const sffn_model *model, uint32_t layer_number,
                                           sffn_router_config *out)
{
    sffn_status status = check_layer(model, layer_number);
    if (status != SFFN_OK)
        return status;
    sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
    status = sffn_config_copy(model->ctx, "sffn_router_config", &config, sizeof(config), out);
    int is_there = 0;
    if (status == SFFN_OK)
        status = sffn_fields_read(model, &sffn_router_fields, layer_number, &config, &is_there);
    sffn_ffn_config ffn = SFFN_FFN_CONFIG_INIT;
    if (status == SFFN_OK)
        status = is_there ? sffn_model_layer_config(model, layer_number, &ffn)
                          : no_selector(model, layer_number, "router");
    if (status != SFFN_OK)
        return status;
    struct layer layer = {model, layer_number, SFFN_OK};
    uint32_t n_experts = 0, n_hidden = 0, d_model = ffn.d_model;
    config.bias = config.hidden_bias = NULL;
    if (take_matrix(&layer, "sffn_router_hidden.weight", &n_hidden, &d_model, SFFN_OK,
                    &config.hidden_weights))
        take_vector(&layer, "sffn_router_hidden.bias", n_hidden, &config.hidden_bias);
    const struct sffn_tensor *tensor =
        take_matrix(&layer, "sffn_router.weight", &n_experts, n_hidden ? &n_hidden : &d_model,
                    SFFN_ERR_FORMAT, &config.weights);
    if (tensor && (uint64_t)n_experts * config.block_size != ffn.d_ff) {
        char reason[128];
        snprintf(reason, sizeof(reason), "has %u experts of %u neurons; the layer has %u neurons",
                 (unsigned)n_experts, (unsigned)config.block_size, (unsigned)ffn.d_ff);
        tensor_fail(&layer, SFFN_ERR_SHAPE, tensor, 0, reason);
    }
    take_vector(&layer, "sffn_router.bias", n_experts, &config.bias);
    config.d_model = d_model;
    config.n_hidden = n_hidden;
    config.n_experts = n_experts;
    return layer.status != SFFN_OK
               ? layer.status
               : sffn_info_copy(model->ctx, "sffn_router_config", out, &config, sizeof(config));
}

sffn_status sffn_model_layer_plan(const sffn_model *model, uint32_t layer, int32_t *select)
{
    const sffn_status status = check_layer(model, layer);
    if (status != SFFN_OK)
        return status;
    if (!select)
        return sffn_fail(model->ctx, SFFN_ERR_INVALID_ARGUMENT, "select is NULL");
    int32_t value = SFFN_SELECT_DEFAULT;
    const sffn_status read = sffn_field_read(model, &sffn_plan_field, layer, &value, NULL);
    if (read == SFFN_OK)
        *select = value;
    return read;
}

sffn_status sffn_model_layer_permutation(const sffn_model *model, uint32_t layer_number,
                                         uint32_t *permutation)
{
    const sffn_status status = check_layer(model, layer_number);
    if (status != SFFN_OK)
        return status;
    if (!permutation)
        return sffn_fail(model->ctx, SFFN_ERR_INVALID_ARGUMENT, "permutation is NULL");
    struct layer layer = {model, layer_number, SFFN_OK};
    const struct sffn_tensor *up = find_part(&layer, "ffn_up.weight", SFFN_ERR_NOT_FOUND);
    const struct sffn_tensor *tensor = layer_tensor(&layer, "sffn_permutation");
    if (layer.status != SFFN_OK)
        return layer.status;
    if (!tensor)
        return no_selector(model, layer_number, "permutation");
    const uint64_t n = up->dims[0];
    char reason[128];
    if (tensor->type->ggml != SFFN_GGML_I32 || tensor->n_dims != 1 || tensor->dims[0] != n) {
        snprintf(
            reason, sizeof(reason),
            "has type %s, %u dimensions, %llu elements in the first; expected %llu elements of I32",
            tensor->type->name, (unsigned)tensor->n_dims, (unsigned long long)tensor->dims[0],
            (unsigned long long)n);
        return tensor_fail(&layer, SFFN_ERR_SHAPE, tensor, 0, reason);
    }
    uint8_t *is_used = sffn_mem_alloc_zero(model->ctx, (size_t)n);
    if (!is_used)
        return sffn_no_memory(model->ctx, model->path);
    for (size_t i = 0; i < n && layer.status == SFFN_OK; i++) {
        const uint32_t neuron = sffn_load_u32(tensor->data + 4 * i);
        if (neuron >= n || is_used[neuron]) {
            snprintf(reason, sizeof(reason), "is no permutation: element %zu is %d%s", i,
                     (int)(int32_t)neuron, neuron < n ? ", for the second time" : "");
            tensor_fail(&layer, SFFN_ERR_FORMAT, tensor, 4 * i, reason);
        } else {
            is_used[neuron] = 1;
        }
    }
    for (size_t i = 0; i < n && layer.status == SFFN_OK; i++)
        permutation[i] = sffn_load_u32(tensor->data + 4 * i);
    sffn_mem_free(model->ctx, is_used, (size_t)n);
    return layer.status;
}

/* ---- a layer ready to run ---- */

/* What is wrong with a file stands in the model's context; the caller looks into its own. */
static sffn_status passed_on(sffn_context *ctx, const sffn_model *model, sffn_status status)
{
    return status != SFFN_OK && ctx != model->ctx
               ? sffn_fail(ctx, status, "%s", sffn_context_last_error(model->ctx))
               : status;
}

/* Copies of the gate tell on which side of a threshold it lies, which says nothing when both sides count. */
static int is_copy_of_gate(int32_t kind)
{
    return kind != SFFN_PREDICTOR_LOW_RANK && kind != SFFN_PREDICTOR_CALLBACK;
}

static sffn_status make_predictor(sffn_context *ctx, const sffn_model *model, uint32_t layer,
                                  const sffn_ffn_config *ffn, sffn_predictor **predictor)
{
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    const sffn_status status =
        passed_on(ctx, model, sffn_model_layer_predictor_config(model, layer, &config));
    if (status == SFFN_OK && is_copy_of_gate(config.kind) && ffn->rule == SFFN_RULE_NONE &&
        (ffn->activation == SFFN_ACT_SILU || ffn->activation == SFFN_ACT_GELU_ERF ||
         ffn->activation == SFFN_ACT_GELU_TANH))
        return sffn_fail(ctx, SFFN_ERR_FORMAT,
                         "%s: the predictor of layer %u looks for gates above a threshold, and its "
                         "activation %s has no zeros: expected a rule, or another activation",
                         model->path, (unsigned)layer, sffn_activation_name(ffn->activation));
    return status == SFFN_OK ? sffn_predictor_create(ctx, &config, predictor) : status;
}

static sffn_status make_router(sffn_context *ctx, const sffn_model *model, uint32_t layer,
                               sffn_router **router)
{
    sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
    const sffn_status status =
        passed_on(ctx, model, sffn_model_layer_router_config(model, layer, &config));
    return status == SFFN_OK ? sffn_router_create(ctx, &config, router) : status;
}

/* What the plan names; without a plan, what there is. */
static sffn_status make_selector(sffn_context *ctx, const sffn_model *model, uint32_t layer,
                                 const sffn_ffn_config *ffn, sffn_predictor **predictor,
                                 sffn_router **router)
{
    const int32_t select = ffn->select;
    sffn_predictor_config predictor_config = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_router_config router_config = SFFN_ROUTER_CONFIG_INIT;
    int has_predictor = 0, has_router = 0;
    sffn_status status = read_predictor(model, layer, &predictor_config, &has_predictor);
    if (status == SFFN_OK)
        status = sffn_fields_read(model, &sffn_router_fields, layer, &router_config, &has_router);
    if (status != SFFN_OK)
        return passed_on(ctx, model, status);
    if ((select == SFFN_SELECT_PREDICTOR && !has_predictor) ||
        (select == SFFN_SELECT_ROUTER && !has_router))
        return sffn_fail(ctx, SFFN_ERR_FORMAT, "%s: the plan of layer %u is '%s', but it has none",
                         model->path, (unsigned)layer, sffn_field_name(&sffn_plan_field, select));
    if (select == SFFN_SELECT_PREDICTOR || (select == SFFN_SELECT_DEFAULT && has_predictor))
        return make_predictor(ctx, model, layer, ffn, predictor);
    if (select == SFFN_SELECT_ROUTER || (select == SFFN_SELECT_DEFAULT && has_router))
        return make_router(ctx, model, layer, router);
    return SFFN_OK;
}

static sffn_status create_layer(sffn_context *ctx, const sffn_model *model, uint32_t layer,
                                sffn_ffn_config *c, sffn_predictor **predictor,
                                sffn_router **router, sffn_ffn **out)
{
    sffn_status status = passed_on(ctx, model, sffn_model_layer_config(model, layer, c));
    if (status == SFFN_OK && !c->predictor && !c->router) {
        if (c->select == SFFN_SELECT_DEFAULT)
            status = passed_on(ctx, model, sffn_model_layer_plan(model, layer, &c->select));
        if (status == SFFN_OK)
            status = make_selector(ctx, model, layer, c, predictor, router);
        c->predictor = *predictor;
        c->router = *router;
    }
    return status == SFFN_OK ? sffn_ffn_create(ctx, c, out) : status;
}

sffn_status sffn_ffn_create_from_model(sffn_context *ctx, const sffn_model *model, uint32_t layer,
                                       const sffn_ffn_config *config, sffn_ffn **out)
{
    if (!ctx || !model || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !ctx     ? "ctx"
                         : !model ? "model"
                                  : "ffn");
    *out = NULL;
    sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
    sffn_status status =
        config ? sffn_config_copy(ctx, "sffn_ffn_config", &c, sizeof(c), config) : SFFN_OK;
    if (status != SFFN_OK)
        return status;
    char name[32];
    snprintf(name, sizeof(name), "blk.%u", (unsigned)layer);
    c.name = c.name ? c.name : name;
    sffn_predictor *predictor = NULL;
    sffn_router *router = NULL;
    status = create_layer(ctx, model, layer, &c, &predictor, &router, out);
    if (status == SFFN_OK) {
        (*out)->owned_predictor = predictor;
        (*out)->owned_router = router;
        return SFFN_OK;
    }
    sffn_predictor_destroy(predictor);
    sffn_router_destroy(router);
    return status;
}
