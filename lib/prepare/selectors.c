#include "prepare/selectors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "model/selectors.h"

const struct sffn_tensor_type *sffn_type_of_dtype(int32_t dtype)
{
    static const uint32_t numbers[SFFN_DTYPE_COUNT_] = {
        [SFFN_F32] = SFFN_GGML_F32,   [SFFN_F16] = SFFN_GGML_F16,   [SFFN_BF16] = SFFN_GGML_BF16,
        [SFFN_Q8_0] = SFFN_GGML_Q8_0, [SFFN_Q4_0] = SFFN_GGML_Q4_0,
    };
    return sffn_gguf_type(numbers[dtype]);
}

int sffn_is_selector_key(const char *key)
{
    static const char *const starts[] = {"sffn.plan", "sffn.rule", "sffn.predictor.",
                                         "sffn.router.", "powerinfer.sparse_threshold"};
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
        if (strncmp(key, starts[i], strlen(starts[i])) == 0)
            return 1;
    return 0;
}

int sffn_is_selector_part(const char *part)
{
    static const char *const starts[] = {"sffn_rule.", "sffn_predictor", "sffn_router", "fc1.",
                                         "fc2."};
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
        if (strncmp(part, starts[i], strlen(starts[i])) == 0)
            return 1;
    return 0;
}

/* ---- checks ---- */

struct taker {
    sffn_context *ctx;
    const sffn_model *model;
    struct sffn_arena *arena;
    struct sffn_results *results;
    uint32_t layer;
};

static sffn_status check_fields(const struct taker *t, const char *what,
                                const struct sffn_fields *fields, const void *config)
{
    for (size_t i = 0; i < fields->n; i++) {
        const struct sffn_field *field = &fields->rows[i];
        int32_t integer;
        float number;
        memcpy(&integer, (const char *)config + field->offset, sizeof(integer));
        memcpy(&number, (const char *)config + field->offset, sizeof(number));
        if (field->kind == SFFN_FIELD_NAME && !sffn_field_name(field, integer))
            return sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "layers[%u]%s: the value %d of %s has no name in a file",
                             (unsigned)t->layer, what, (int)integer, field->key);
        if (field->kind == SFFN_FIELD_F32 && isnan(number))
            return sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT, "layers[%u]%s: %s is NaN",
                             (unsigned)t->layer, what, field->key);
    }
    return SFFN_OK;
}

static sffn_status check_thresholds(const struct taker *t, const char *what, const float *values,
                                    uint32_t n)
{
    for (uint32_t i = 0; values && i < n; i++)
        if (isnan(values[i]))
            return sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT, "layers[%u]%s[%u] is NaN",
                             (unsigned)t->layer, what, (unsigned)i);
    return SFFN_OK;
}

static sffn_status wrong_size(const struct taker *t, const char *what, uint64_t value,
                              const char *wanted_of, uint64_t wanted)
{
    return sffn_fail(t->ctx, SFFN_ERR_SHAPE, "layers[%u].%s is %llu; the layer's %s is %llu",
                     (unsigned)t->layer, what, (unsigned long long)value, wanted_of,
                     (unsigned long long)wanted);
}

static sffn_status check_order(const struct taker *t, const uint32_t *order, uint32_t n)
{
    uint8_t *is_used = sffn_mem_alloc_zero(t->ctx, n);
    sffn_status status = is_used ? SFFN_OK : sffn_no_memory(t->ctx, t->model->path);
    for (uint32_t i = 0; i < n && status == SFFN_OK; i++) {
        if (order[i] >= n || is_used[order[i]])
            status = sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT,
                               "layers[%u].permutation[%u] is %u%s; expected each of 0..%u once",
                               (unsigned)t->layer, (unsigned)i, (unsigned)order[i],
                               order[i] < n ? " again" : "", (unsigned)n - 1);
        else
            is_used[order[i]] = 1;
    }
    sffn_mem_free(t->ctx, is_used, n);
    return status;
}

/* ---- tensors ---- */

static sffn_status add_tensor(struct taker *t, const char *part,
                              const struct sffn_tensor_type *type, uint32_t n_dims, uint64_t n_rows,
                              uint64_t n_cols, const void *data, size_t row_bytes,
                              const uint32_t *order)
{
    char name[64];
    uint64_t bytes = 0;
    snprintf(name, sizeof(name), "blk.%u.%s", (unsigned)t->layer, part);
    struct sffn_new_tensor *new = &t->results->tensors[t->results->n_tensors++];
    *new = (struct sffn_new_tensor){
        {NULL, NULL, type, n_dims, {n_rows, n_cols, 1, 1}, data, 0}, row_bytes, order};
    new->tensor.name = new->tensor.file_name = sffn_arena_text(t->arena, name, strlen(name));
    if (!new->tensor.name)
        return sffn_no_memory(t->ctx, t->model->path);
    const char *reason = sffn_tensor_bytes(type, new->tensor.dims, n_dims, &bytes);
    if (reason || bytes > SIZE_MAX / 2)
        return sffn_fail(t->ctx, SFFN_ERR_SHAPE, "layers[%u]: tensor '%s' of %llu x %llu: %s",
                         (unsigned)t->layer, name, (unsigned long long)n_rows,
                         (unsigned long long)n_cols, reason ? reason : "too large");
    new->tensor.bytes = (size_t)bytes;
    return SFFN_OK;
}

/* NULL is no vector, and fine. */
static sffn_status add_vector(struct taker *t, const char *part, const float *data, uint32_t n,
                              const uint32_t *order)
{
    return data ? add_tensor(t, part, sffn_type_of_dtype(SFFN_F32), 1, n, 1, data, 0, order)
                : SFFN_OK;
}

static sffn_status add_matrix(struct taker *t, const char *what, const char *part,
                              const sffn_weights *w, uint32_t n_rows, uint32_t n_cols,
                              const uint32_t *order)
{
    if (!w->data || w->layout != SFFN_LAYOUT_ROWS || w->dtype < 0 || w->dtype >= SFFN_DTYPE_COUNT_)
        return sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "layers[%u].%s: %s; expected rows of a type of enum sffn_dtype",
                         (unsigned)t->layer, what,
                         !w->data                        ? "data is NULL"
                         : w->layout != SFFN_LAYOUT_ROWS ? "layout is not SFFN_LAYOUT_ROWS"
                                                         : "dtype is unknown");
    const size_t packed = sffn_dtype_row_bytes(w->dtype, n_cols);
    if (w->row_bytes && w->row_bytes < packed)
        return wrong_size(t, what, w->row_bytes, "row in bytes", packed);
    return add_tensor(t, part, sffn_type_of_dtype(w->dtype), 2, n_rows, n_cols, w->data,
                      w->row_bytes, order);
}

/* What the file's own permutation and the new one come to. */
static sffn_status add_permutation(struct taker *t, const struct sffn_layer_result *r)
{
    char name[64];
    snprintf(name, sizeof(name), "blk.%u.sffn_permutation", (unsigned)t->layer);
    uint32_t *both = sffn_arena_alloc(t->arena, r->d_ff, sizeof(*both));
    uint32_t *old = sffn_arena_alloc(t->arena, r->d_ff, sizeof(*old));
    if (!both || !old)
        return sffn_no_memory(t->ctx, t->model->path);
    const int has_old = sffn_model_tensor(t->model, name) != NULL;
    const sffn_status status =
        has_old ? sffn_model_layer_permutation(t->model, t->layer, old) : SFFN_OK;
    if (status != SFFN_OK)
        return status;
    for (uint32_t i = 0; i < r->d_ff; i++)
        both[i] = has_old ? old[r->order[i]] : r->order[i];
    return add_tensor(t, "sffn_permutation", sffn_gguf_type(SFFN_GGML_I32), 1, r->d_ff, 1, both, 0,
                      NULL);
}

/* ---- one layer ---- */

static sffn_status add_low_rank(struct taker *t, const sffn_predictor_config *c,
                                const struct sffn_layer_result *r)
{
    if (c->rank == 0)
        return sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "layers[%u].predictor->rank is 0; expected the rows of w1",
                         (unsigned)t->layer);
    sffn_status status = add_matrix(t, "predictor->w1", "sffn_predictor_w1.weight", &c->w1, c->rank,
                                    c->d_model, NULL);
    if (status == SFFN_OK)
        status = add_vector(t, "sffn_predictor_w1.bias", c->b1, c->rank, NULL);
    if (status == SFFN_OK)
        status = add_matrix(t, "predictor->w2", "sffn_predictor_w2.weight", &c->w2, r->d_ff,
                            c->rank, r->order);
    return status == SFFN_OK ? add_vector(t, "sffn_predictor_w2.bias", c->b2, r->d_ff, r->order)
                             : status;
}

static sffn_status take_predictor(struct taker *t, const sffn_predictor_config *source,
                                  struct sffn_layer_result *r)
{
    const sffn_predictor_config init = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_predictor_config *c = &r->predictor;
    *c = init;
    if (!source)
        return SFFN_OK;
    r->has_predictor = 1;
    sffn_status status = sffn_config_copy(t->ctx, "sffn_predictor_config", c, sizeof(*c), source);
    if (status == SFFN_OK && (c->kind == SFFN_PREDICTOR_CALLBACK || c->n_layers != 1))
        return sffn_fail(t->ctx, SFFN_ERR_UNSUPPORTED, "layers[%u].predictor: %s cannot be written",
                         (unsigned)t->layer,
                         c->n_layers != 1 ? "one of several layers" : "a callback");
    if (status == SFFN_OK)
        status = check_fields(t, ".predictor", &sffn_predictor_fields, c);
    if (status != SFFN_OK)
        return status;
    if (c->d_ff != r->d_ff) /* first: the arrays below have this length */
        return wrong_size(t, "predictor->d_ff", c->d_ff, "d_ff", r->d_ff);
    if (c->d_model != t->model->info.d_model)
        return wrong_size(t, "predictor->d_model", c->d_model, "d_model", t->model->info.d_model);
    status = check_thresholds(t, ".predictor->thresholds", c->thresholds, r->d_ff);
    if (status == SFFN_OK)
        status = add_vector(t, "sffn_predictor.threshold", c->thresholds, r->d_ff, r->order);
    if (status == SFFN_OK && c->kind == SFFN_PREDICTOR_CASCADE)
        status = add_vector(t, "sffn_predictor.input_mean", c->input_mean, c->d_model, NULL);
    return status == SFFN_OK && c->kind == SFFN_PREDICTOR_LOW_RANK ? add_low_rank(t, c, r) : status;
}

static sffn_status take_router(struct taker *t, const sffn_router_config *source,
                               struct sffn_layer_result *r)
{
    const sffn_router_config init = SFFN_ROUTER_CONFIG_INIT;
    sffn_router_config *c = &r->router;
    *c = init;
    if (!source)
        return SFFN_OK;
    r->has_router = 1;
    sffn_status status = sffn_config_copy(t->ctx, "sffn_router_config", c, sizeof(*c), source);
    if (status == SFFN_OK)
        status = check_fields(t, ".router", &sffn_router_fields, c);
    if (status != SFFN_OK)
        return status;
    if ((uint64_t)c->n_experts * c->block_size != r->d_ff)
        return wrong_size(t, "router->n_experts * block_size",
                          (uint64_t)c->n_experts * c->block_size, "d_ff", r->d_ff);
    if (c->d_model != t->model->info.d_model)
        return wrong_size(t, "router->d_model", c->d_model, "d_model", t->model->info.d_model);
    status = add_matrix(t, "router->weights", "sffn_router.weight", &c->weights, c->n_experts,
                        c->n_hidden ? c->n_hidden : c->d_model, NULL);
    if (status == SFFN_OK)
        status = add_vector(t, "sffn_router.bias", c->bias, c->n_experts, NULL);
    if (status != SFFN_OK || !c->n_hidden)
        return status;
    status = add_matrix(t, "router->hidden_weights", "sffn_router_hidden.weight",
                        &c->hidden_weights, c->n_hidden, c->d_model, NULL);
    return status == SFFN_OK
               ? add_vector(t, "sffn_router_hidden.bias", c->hidden_bias, c->n_hidden, NULL)
               : status;
}

static sffn_status take_layer(struct taker *t, const sffn_prepare_layer *source,
                              struct sffn_layer_result *r)
{
    const struct sffn_fields plan = {&sffn_plan_field, 1};
    const sffn_ffn_config init = SFFN_FFN_CONFIG_INIT;
    sffn_prepare_layer layer = SFFN_PREPARE_LAYER_INIT;
    char name[64];
    sffn_status status =
        sffn_config_copy(t->ctx, "sffn_prepare_layer", &layer, sizeof(layer), source);
    if (status != SFFN_OK)
        return status;
    snprintf(name, sizeof(name), "blk.%u.ffn_up.weight", (unsigned)t->layer);
    const struct sffn_tensor *up = sffn_model_tensor(t->model, name);
    if (!up || up->n_dims != 2 || up->dims[0] > UINT32_MAX)
        return sffn_fail(t->ctx, SFFN_ERR_NOT_FOUND, "%s: no matrix '%s'", t->model->path, name);
    r->d_ff = (uint32_t)up->dims[0];
    r->plan = layer.plan;
    r->order = layer.permutation;
    r->ffn = init;
    r->ffn.rule = layer.rule;
    r->ffn.rule_tie = layer.rule_tie;
    r->ffn.rule_threshold = layer.rule_threshold;
    r->ffn.rule_thresholds = layer.rule_thresholds;
    r->ffn.rule_k = layer.rule_k;
    r->ffn.rule_m = layer.rule_m;
    r->ffn.rule_sparsity = layer.rule_sparsity;
    status = check_fields(t, "", &plan, &layer.plan);
    if (status == SFFN_OK)
        status = check_fields(t, "", &sffn_rule_fields, &r->ffn);
    if (status == SFFN_OK)
        status = check_thresholds(t, ".rule_thresholds", layer.rule_thresholds, r->d_ff);
    if (status == SFFN_OK && layer.permutation)
        status = check_order(t, layer.permutation, r->d_ff);
    if (status == SFFN_OK && layer.permutation)
        status = add_permutation(t, r);
    if (status == SFFN_OK && layer.rule != SFFN_RULE_NONE)
        status = add_vector(t, "sffn_rule.threshold", layer.rule_thresholds, r->d_ff, r->order);
    if (status == SFFN_OK)
        status = take_predictor(t, layer.predictor, r);
    if (status == SFFN_OK)
        status = take_router(t, layer.router, r);
    if (status == SFFN_OK && ((layer.plan == SFFN_SELECT_PREDICTOR && !layer.predictor) ||
                              (layer.plan == SFFN_SELECT_ROUTER && !layer.router)))
        status = sffn_fail(t->ctx, SFFN_ERR_INVALID_ARGUMENT,
                           "layers[%u].plan is '%s', but that is NULL", (unsigned)t->layer,
                           sffn_field_name(&sffn_plan_field, layer.plan));
    return status;
}

sffn_status sffn_results_take(sffn_context *ctx, const sffn_model *model,
                              const sffn_prepare_config *config, struct sffn_arena *arena,
                              struct sffn_results *results)
{
    const uint32_t n = model->info.n_layers;
    *results = (struct sffn_results){NULL, 0, NULL, 0};
    if (!config->layers)
        return SFFN_OK;
    if (n > model->info.n_tensors) /* so that memory is bounded by the file's size */
        return sffn_fail(ctx, SFFN_ERR_FORMAT, "%s: %u layers, but %zu tensors", model->path,
                         (unsigned)n, model->info.n_tensors);
    if (config->n_layers != n)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "n_layers is %u; %s has %u",
                         (unsigned)config->n_layers, model->path, (unsigned)n);
    results->n_layers = n;
    results->layers = sffn_arena_alloc(arena, n, sizeof(*results->layers));
    results->tensors =
        sffn_arena_alloc(arena, (size_t)n * SFFN_NEW_TENSORS_PER_LAYER, sizeof(*results->tensors));
    if (!results->layers || !results->tensors)
        return sffn_no_memory(ctx, model->path);
    struct taker t = {ctx, model, arena, results, 0};
    /* An older caller's structs are smaller: its struct_size is their distance. */
    const size_t stride = n ? config->layers[0].struct_size : 0;
    sffn_status status = SFFN_OK;
    for (; t.layer < n && status == SFFN_OK; t.layer++) {
        const sffn_prepare_layer *source =
            (const void *)((const char *)config->layers + t.layer * stride);
        if (source->struct_size != stride)
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "layers[%u].struct_size is %zu; that of layers[0] is %zu",
                             (unsigned)t.layer, source->struct_size, stride);
        status = take_layer(&t, source, &results->layers[t.layer]);
    }
    return status;
}

/* ---- keys ---- */

/* One array: the field of every layer's config, `stride` bytes apart; is_there NULL: of all. */
static void write_field(const struct sffn_results *results, struct sffn_gguf_writer *w,
                        const struct sffn_field *field, size_t config, size_t is_there)
{
    static const uint32_t kinds[] = {[SFFN_FIELD_NAME] = SFFN_GGUF_STRING,
                                     [SFFN_FIELD_U32] = SFFN_GGUF_U32,
                                     [SFFN_FIELD_F32] = SFFN_GGUF_F32};
    sffn_gguf_write_array(w, field->key, kinds[field->kind], results->n_layers);
    for (uint32_t i = 0; i < results->n_layers; i++) {
        const char *layer = (const char *)&results->layers[i];
        uint32_t bits;
        int has = 1;
        memcpy(&bits, layer + config + field->offset, sizeof(bits));
        if (is_there)
            memcpy(&has, layer + is_there, sizeof(has));
        const char *name = field->kind != SFFN_FIELD_NAME ? NULL
                           : has                          ? sffn_field_name(field, (int32_t)bits)
                                                          : SFFN_FIELD_NO_SELECTOR;
        if (name)
            sffn_gguf_put_text(w, name, strlen(name));
        else
            sffn_gguf_put_u32(w, bits);
    }
}

static void write_fields(const struct sffn_results *results, struct sffn_gguf_writer *w,
                         const struct sffn_fields *fields, size_t config, size_t is_there)
{
    for (size_t i = 0; i < fields->n; i++)
        write_field(results, w, &fields->rows[i], config, i == 0 ? is_there : 0);
}

void sffn_results_write_keys(const struct sffn_results *results, struct sffn_gguf_writer *w)
{
    int has_plan = 0, has_rule = 0, has_predictor = 0, has_router = 0;
    for (uint32_t i = 0; i < results->n_layers; i++) {
        const struct sffn_layer_result *r = &results->layers[i];
        has_plan |= r->plan != SFFN_SELECT_DEFAULT;
        has_rule |= r->ffn.rule != SFFN_RULE_NONE;
        has_predictor |= r->has_predictor;
        has_router |= r->has_router;
    }
    if (has_plan)
        write_field(results, w, &sffn_plan_field, offsetof(struct sffn_layer_result, plan), 0);
    if (has_rule)
        write_fields(results, w, &sffn_rule_fields, offsetof(struct sffn_layer_result, ffn), 0);
    if (has_predictor)
        write_fields(results, w, &sffn_predictor_fields,
                     offsetof(struct sffn_layer_result, predictor),
                     offsetof(struct sffn_layer_result, has_predictor));
    if (has_router)
        write_fields(results, w, &sffn_router_fields, offsetof(struct sffn_layer_result, router),
                     offsetof(struct sffn_layer_result, has_router));
}
