#include "sparseffn/prepare.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "model/gguf.h"
#include "model/hf.h"
#include "model/model.h"
#include "prepare/dequantise.h"
#include "prepare/gguf_write.h"
#include "prepare/selectors.h"
#include "prepare/tokenizer.h"

#define CHUNK_BYTES  ((size_t)4 << 20) /* of output held in memory, as long as a row is smaller */
#define GROUP        64 /* neurons transposed together: a cache line and more of every source row */
/* The same with a permutation, where each group decodes whole source rows: fewer decodings, 4 MiB per thread. */
#define ORDER_GROUP  256
#define MAX_SETTINGS ((size_t)16 << 20)

/* What becomes of one tensor. */
enum how {
    HOW_COPY,     /* byte for byte */
    HOW_ROWS,     /* row by row: another type, or another order of rows */
    HOW_TRANSPOSE /* rows of the output are columns of the source */
};

struct plan {
    const struct sffn_tensor *source;
    const char *name;
    const struct sffn_tensor_type *type;
    enum how how;
    uint32_t n_heads; /* > 0: rows go into GGUF's llama order */
    /* or: row i of the output is row (HOW_TRANSPOSE: column) order[i] of the source */
    const uint32_t *order;
    uint32_t n_dims;
    uint64_t dims[4]; /* of the output */
    size_t n_rows, n_cols, row_bytes;
    size_t source_row_bytes; /* distance of the source's rows */
    size_t bytes;
};

struct preparation {
    sffn_context *ctx;
    const sffn_model *model;
    sffn_prepare_config config;
    struct sffn_arena arena;
    struct sffn_gguf_writer writer;
    struct sffn_results results;
    struct plan *plans;
    size_t n_plans;
    int32_t file_type;    /* for general.file_type, or -1 */
    int is_retyped;       /* some matrix changes its type */
    uint64_t done, total; /* bytes, for the progress callback */
};

/* ---- what becomes of each tensor ---- */

static int ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static int is_layer_part(const char *name, const char *part, uint32_t *layer)
{
    const char *rest;
    return sffn_model_layer_of(name, layer, &rest) && strcmp(rest, part) == 0;
}

/* The type that a matrix gets, NULL with an error. */
static const struct sffn_tensor_type *choose_type(const struct preparation *p,
                                                  const struct sffn_tensor *tensor,
                                                  int is_transposed, uint64_t n_cols)
{
    const struct sffn_tensor_type *source = tensor->type;
    const int is_integer = source->ggml >= SFFN_GGML_I8 && source->ggml <= SFFN_GGML_I64;
    uint32_t layer;
    const char *part;
    const int is_selector =
        sffn_model_layer_of(tensor->name, &layer, &part) && sffn_is_selector_part(part);
    if (!sffn_can_dequantise(source)) {
        if (!is_transposed && (p->config.dtype < 0 || is_integer || source->ggml == SFFN_GGML_F64))
            return source;
        sffn_fail(p->ctx, SFFN_ERR_UNSUPPORTED,
                  "%s: tensor '%s' has type %s, which cannot be converted", p->model->path,
                  tensor->name, source->name);
        return NULL;
    }
    /* Types without kernels would be of no use in a prepared file: those we can decode become
     * q8_0. */
    int32_t dtype = p->config.dtype >= 0 && !is_selector ? p->config.dtype
                    : source->dtype >= 0                 ? source->dtype
                                                         : (int32_t)SFFN_Q8_0;
    const int is_embedding = strcmp(tensor->name, "token_embd.weight") == 0 ||
                             strcmp(tensor->name, "output.weight") == 0;
    if (dtype == SFFN_Q4_0 && source->dtype != SFFN_Q4_0 && is_embedding &&
        p->config.keep_embeddings)
        dtype = SFFN_Q8_0;
    if (n_cols % sffn_dtype_block_size(dtype) == 0)
        return sffn_type_of_dtype(dtype);
    /* Rows that blocks do not fit: stay as they are, if that can be. */
    if (source->dtype >= 0 && n_cols % source->block == 0)
        return source;
    return sffn_type_of_dtype(SFFN_F16);
}

static sffn_status plan_heads(const struct preparation *p, struct plan *plan)
{
    const sffn_model_info *info = &p->model->info;
    uint32_t layer;
    const char *rest;
    if (info->format != SFFN_FILE_HF_FOLDER || !sffn_rope_is_permuted(info->architecture) ||
        !sffn_model_layer_of(plan->name, &layer, &rest))
        return SFFN_OK;
    if (strcmp(rest, "attn_q.weight") == 0 || strcmp(rest, "attn_q.bias") == 0)
        plan->n_heads = info->n_heads;
    else if (strcmp(rest, "attn_k.weight") == 0 || strcmp(rest, "attn_k.bias") == 0)
        plan->n_heads = info->n_kv_heads;
    else
        return SFFN_OK;
    const uint64_t n_rows = plan->dims[0];
    if (plan->n_dims > 2 || plan->n_heads == 0 || n_rows % plan->n_heads != 0 ||
        n_rows / plan->n_heads % 2 != 0)
        return sffn_fail(p->ctx, SFFN_ERR_SHAPE,
                         "%s: tensor '%s' has %llu rows, which %u heads cannot share in pairs",
                         p->model->path, plan->name, (unsigned long long)n_rows,
                         (unsigned)plan->n_heads);
    return SFFN_OK;
}

/* The new order of a tensor whose rows (of ffn_down: columns) are neurons. */
static sffn_status plan_order(const struct preparation *p, const struct sffn_tensor *tensor,
                              struct plan *plan)
{
    static const char *const by_neuron[] = {"ffn_gate.weight",   "ffn_up.weight", "ffn_down.weight",
                                            "ffn_down_t.weight", "ffn_gate.bias", "ffn_up.bias"};
    static const char *const others[] = {"ffn_down.bias", "ffn_norm.weight", "ffn_norm.bias",
                                         "ffn_pre_norm.weight", "ffn_post_norm.weight"};
    uint32_t layer;
    const char *part;
    if (!sffn_model_layer_of(tensor->name, &layer, &part) || layer >= p->results.n_layers ||
        !p->results.layers[layer].order)
        return SFFN_OK;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (strcmp(part, others[i]) == 0)
            return SFFN_OK;
    for (size_t i = 0; i < sizeof(by_neuron) / sizeof(by_neuron[0]); i++)
        if (strcmp(part, by_neuron[i]) == 0)
            plan->order = p->results.layers[layer].order;
    if (strncmp(part, "ffn_", 4) != 0)
        return SFFN_OK;
    const uint64_t n = tensor->dims[strcmp(part, "ffn_down.weight") == 0];
    if (!plan->order || n != p->results.layers[layer].d_ff)
        return sffn_fail(p->ctx, plan->order ? SFFN_ERR_SHAPE : SFFN_ERR_UNSUPPORTED,
                         "%s: tensor '%s' of %llu neurons: layers[%u].permutation %s",
                         p->model->path, tensor->name, (unsigned long long)n, (unsigned)layer,
                         plan->order ? "has another length" : "does not know how to reorder it");
    return SFFN_OK;
}

static sffn_status plan_tensor(struct preparation *p, const struct sffn_tensor *tensor,
                               struct plan *plan)
{
    const struct sffn_tensor_type *source = tensor->type;
    char name[SFFN_HF_MAX_NAME];
    uint32_t layer = 0;
    *plan = (struct plan){.source = tensor,
                          .name = tensor->name,
                          .type = source,
                          .how = HOW_COPY,
                          .n_dims = tensor->n_dims,
                          .bytes = tensor->bytes};
    memcpy(plan->dims, tensor->dims, sizeof(plan->dims));
    const size_t name_bytes = strlen(tensor->name);
    if (name_bytes == 0 || name_bytes > SFFN_GGUF_MAX_NAME) {
        struct sffn_quoted quoted;
        return sffn_fail(p->ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: tensor '%s': GGUF wants names of 1 to %d bytes", p->model->path,
                         sffn_quote(&quoted, tensor->name, name_bytes), SFFN_GGUF_MAX_NAME);
    }
    if (source->ggml == SFFN_GGML_NONE || tensor->bytes == 0)
        return sffn_fail(p->ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: tensor '%s' of type %s with %zu bytes has no place in a GGUF file",
                         p->model->path, tensor->name, source->name, tensor->bytes);
    sffn_status status = plan_heads(p, plan);
    if (status == SFFN_OK)
        status = plan_order(p, tensor, plan);
    if (status != SFFN_OK)
        return status;
    if (tensor->n_dims == 1) {
        const int is_half = source->dtype == SFFN_F16 || source->dtype == SFFN_BF16;
        if (!is_half && !plan->n_heads && !plan->order)
            return SFFN_OK;
        plan->type = is_half ? sffn_type_of_dtype(SFFN_F32) : source;
        plan->dims[1] = 1; /* rows of one column; not written, n_dims stays 1 */
        if (source->block != 1)
            return sffn_fail(p->ctx, SFFN_ERR_UNSUPPORTED,
                             "%s: tensor '%s' of type %s cannot be reordered", p->model->path,
                             tensor->name, source->name);
    } else if (tensor->n_dims == 2) {
        int is_transposed = is_layer_part(tensor->name, "ffn_down.weight", &layer);
        if (is_transposed) {
            snprintf(name, sizeof(name), "blk.%u.ffn_down_t.weight", (unsigned)layer);
            is_transposed = sffn_model_tensor(p->model, name) == NULL;
        }
        if (is_transposed) {
            plan->name = sffn_arena_text(&p->arena, name, strlen(name));
            if (!plan->name)
                return sffn_no_memory(p->ctx, p->model->path);
            plan->dims[0] = tensor->dims[1];
            plan->dims[1] = tensor->dims[0];
        }
        plan->type = choose_type(p, tensor, is_transposed, plan->dims[1]);
        if (!plan->type)
            return SFFN_ERR_UNSUPPORTED;
        if (is_transposed)
            plan->how = HOW_TRANSPOSE;
        else if (plan->type == source && !plan->n_heads && !plan->order)
            return SFFN_OK;
    } else {
        return SFFN_OK;
    }
    if (plan->how == HOW_COPY)
        plan->how = HOW_ROWS;
    uint64_t bytes = 0, row_bytes = 0;
    const char *reason = sffn_tensor_bytes(plan->type, plan->dims, 2, &bytes);
    if (!reason)
        reason = sffn_tensor_bytes(plan->type, &plan->dims[1], 1, &row_bytes);
    if (reason || bytes > SIZE_MAX / 2)
        return sffn_fail(p->ctx, SFFN_ERR_SHAPE, "%s: tensor '%s' as %s: %s", p->model->path,
                         plan->name, plan->type->name, reason ? reason : "too large");
    plan->n_rows = (size_t)plan->dims[0];
    plan->n_cols = (size_t)plan->dims[1];
    plan->row_bytes = (size_t)row_bytes;
    plan->source_row_bytes =
        (size_t)((plan->how == HOW_TRANSPOSE ? plan->n_rows : plan->n_cols) / source->block) *
        (source->bits / 8);
    plan->bytes = (size_t)bytes;
    return SFFN_OK;
}

/* A tensor that comes from the caller: as it is, but for the order and distance of its rows. */
static void plan_new(const struct sffn_new_tensor *new, struct plan *plan)
{
    const struct sffn_tensor *tensor = &new->tensor;
    const uint64_t n_cols = tensor->n_dims == 2 ? tensor->dims[1] : 1;
    *plan = (struct plan){.source = tensor,
                          .name = tensor->name,
                          .type = tensor->type,
                          .how = HOW_COPY,
                          .order = new->order,
                          .n_dims = tensor->n_dims,
                          .n_rows = (size_t)tensor->dims[0],
                          .n_cols = (size_t)n_cols,
                          .bytes = tensor->bytes};
    memcpy(plan->dims, tensor->dims, sizeof(plan->dims));
    plan->row_bytes = tensor->bytes / plan->n_rows;
    plan->source_row_bytes = new->row_bytes ? new->row_bytes : plan->row_bytes;
    if (new->order || plan->source_row_bytes != plan->row_bytes)
        plan->how = HOW_ROWS;
}

/* With results of the caller's, the source's selectors are left out; a permutation stays when there is no new one. */
static int is_left_out(const struct preparation *p, const char *name)
{
    uint32_t layer;
    const char *part;
    if (!p->results.layers || !sffn_model_layer_of(name, &layer, &part))
        return 0;
    if (sffn_is_selector_part(part))
        return 1;
    if (layer >= p->results.n_layers || !p->results.layers[layer].order)
        return 0;
    if (strcmp(part, "ffn_down.weight") == 0) { /* of two forms of down one is enough to reorder */
        char transposed[64];
        snprintf(transposed, sizeof(transposed), "blk.%u.ffn_down_t.weight", (unsigned)layer);
        return sffn_model_tensor(p->model, transposed) != NULL;
    }
    return strcmp(part, "sffn_permutation") == 0;
}

/* llama.cpp's number for the type that most elements of matrices have, or -1. */
static int32_t find_file_type(const struct preparation *p)
{
    static const struct {
        int32_t ggml, number;
    } types[] = {{SFFN_GGML_F32, 0},
                 {SFFN_GGML_F16, 1},
                 {SFFN_GGML_Q4_0, 2},
                 {SFFN_GGML_Q8_0, 7},
                 {SFFN_GGML_BF16, 32}};
    uint64_t counts[SFFN_GGML_TYPE_COUNT] = {0}, most = 0;
    int32_t best = -1, number = -1;
    for (size_t i = 0; i < p->n_plans; i++) {
        const struct plan *plan = &p->plans[i];
        if (plan->n_dims > 1)
            counts[plan->type->ggml] += plan->bytes / plan->type->bits * 8 * plan->type->block;
    }
    for (int32_t i = 0; i < SFFN_GGML_TYPE_COUNT; i++) {
        if (counts[i] > most) {
            most = counts[i];
            best = i;
        }
    }
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (types[i].ggml == best)
            number = types[i].number;
    return number;
}

static sffn_status plan_all(struct preparation *p)
{
    const struct sffn_parts *parts = &p->model->parts;
    sffn_status status = sffn_results_take(p->ctx, p->model, &p->config, &p->arena, &p->results);
    if (status != SFFN_OK)
        return status;
    p->plans =
        sffn_arena_alloc(&p->arena, parts->n_tensors + p->results.n_tensors, sizeof(*p->plans));
    if (!p->plans)
        return sffn_no_memory(p->ctx, p->model->path);
    for (size_t i = 0; i < parts->n_tensors; i++) {
        /* A buffer of old checkpoints that follows from rope_theta; engines stumble over it. */
        if (p->model->info.format != SFFN_FILE_GGUF &&
            ends_with(parts->tensors[i].name, ".rotary_emb.inv_freq"))
            continue;
        if (is_left_out(p, parts->tensors[i].name))
            continue;
        struct plan *plan = &p->plans[p->n_plans++];
        status = plan_tensor(p, &parts->tensors[i], plan);
        if (status != SFFN_OK)
            return status;
        p->total += plan->bytes;
        if (plan->n_dims > 1 && plan->type->ggml != plan->source->type->ggml)
            p->is_retyped = 1;
    }
    p->file_type = find_file_type(p);
    for (size_t i = 0; i < p->results.n_tensors; i++) {
        plan_new(&p->results.tensors[i], &p->plans[p->n_plans]);
        p->total += p->plans[p->n_plans++].bytes;
    }
    return SFFN_OK;
}

/* ---- keys ---- */

static void write_text(struct sffn_gguf_writer *w, const char *key, const char *text)
{
    sffn_gguf_write_text(w, key, text, strlen(text));
}

static sffn_status write_own_keys(struct preparation *p)
{
    struct sffn_gguf_writer *w = &p->writer;
    const sffn_model_info *info = &p->model->info;
    int32_t activation = info->activation;
    float threshold = info->act_threshold;
    if (p->config.act_threshold >= 0.0f) {
        const int is_relu = activation == SFFN_ACT_RELU || activation == SFFN_ACT_FATRELU;
        if (!is_relu && (activation >= 0 || p->model->unknown_activation))
            return sffn_fail(p->ctx, SFFN_ERR_UNSUPPORTED,
                             "act_threshold is %g, but the activation of %s is %s, not relu",
                             (double)p->config.act_threshold, p->model->path,
                             p->model->unknown_activation ? p->model->unknown_activation
                                                          : sffn_activation_name(activation));
        activation = SFFN_ACT_FATRELU;
        threshold = p->config.act_threshold;
    }
    write_text(w, "sffn.version", sffn_version_string());
    if (activation >= 0 || p->model->unknown_activation)
        write_text(w, "sffn.activation",
                   activation >= 0 ? sffn_activation_name(activation)
                                   : p->model->unknown_activation);
    if (activation >= 0) {
        sffn_gguf_write_f32(w, "sffn.act_threshold", threshold);
        sffn_gguf_write_u32(w, "sffn.act_tie", (uint32_t)info->act_tie);
    }
    /* Only the last part: a path tells more about its owner than about the model. */
    size_t end = strlen(p->model->path), start;
    while (end > 1 && p->model->path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && p->model->path[start - 1] != '/';)
        start--;
    sffn_gguf_write_text(w, "sffn.source", p->model->path + start, end - start);
    if (p->config.command)
        write_text(w, "sffn.prepare.command", p->config.command);
    if (p->config.notes)
        write_text(w, "sffn.prepare.notes", p->config.notes);
    sffn_results_write_keys(&p->results, w);
    return w->status;
}

static int is_replaced(const struct preparation *p, const char *key)
{
    static const char *const own[] = {"sffn.version", "sffn.activation", "sffn.act_threshold",
                                      "sffn.act_tie", "sffn.source",     "general.alignment"};
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        if (strcmp(own[i], key) == 0)
            return 1;
    if ((p->config.command && strcmp(key, "sffn.prepare.command") == 0) ||
        (p->config.notes && strcmp(key, "sffn.prepare.notes") == 0) ||
        (p->results.layers && sffn_is_selector_key(key)))
        return 1;
    return strcmp(key, "general.file_type") == 0 && p->is_retyped && p->file_type >= 0;
}

static sffn_status write_gguf_keys(struct preparation *p)
{
    struct sffn_gguf_writer *w = &p->writer;
    const struct sffn_parts *parts = &p->model->parts;
    for (size_t i = 0; i < parts->n_metas; i++) {
        const struct sffn_meta *meta = &parts->metas[i];
        if (!is_replaced(p, meta->key))
            sffn_gguf_write_raw(w, meta->key, meta->file->data + meta->raw, meta->raw_bytes);
    }
    if (p->is_retyped && p->file_type >= 0)
        sffn_gguf_write_u32(w, "general.file_type", (uint32_t)p->file_type);
    return w->status;
}

static void write_size(struct preparation *p, const char *suffix, uint32_t value)
{
    char key[128];
    snprintf(key, sizeof(key), "%s.%s", p->model->info.architecture, suffix);
    if (value)
        sffn_gguf_write_u32(&p->writer, key, value);
}

static void write_float(struct preparation *p, const char *suffix, float value)
{
    char key[128];
    snprintf(key, sizeof(key), "%s.%s", p->model->info.architecture, suffix);
    if (value > 0.0f)
        sffn_gguf_write_f32(&p->writer, key, value);
}

/* Only what GGUF can say in keys; a model that needs more than that must not look as if it were
 * whole. */
static sffn_status write_rope_scaling(struct preparation *p)
{
    static const char *const objects[] = {"rope_scaling", "rope_parameters"};
    const struct sffn_json *config = p->model->config;
    for (int i = 0; i < 2; i++) {
        const uint32_t object = sffn_json_get(config, 0, objects[i]);
        if (!object || config->nodes[object].kind != SFFN_JSON_OBJECT)
            continue;
        uint32_t type = sffn_json_get(config, object, "rope_type");
        type = type ? type : sffn_json_get(config, object, "type");
        double factor = 0.0;
        const uint32_t node = sffn_json_get(config, object, "factor");
        if (!type || sffn_json_is(config, type, "default"))
            continue;
        if (!sffn_json_is(config, type, "linear") || !node ||
            !sffn_json_double(config, node, &factor) || !(factor > 0.0))
            return sffn_file_fail(
                config->file, SFFN_ERR_UNSUPPORTED, sffn_json_offset(config, object),
                "%s other than linear with a factor is not carried over", objects[i]);
        char key[128];
        snprintf(key, sizeof(key), "%s.rope.scaling.type", p->model->info.architecture);
        write_text(&p->writer, key, "linear");
        write_float(p, "rope.scaling.factor", (float)factor);
    }
    return SFFN_OK;
}

/* tokenizer.json, if the folder has one. */
static sffn_status write_tokenizer(struct preparation *p)
{
    static const char *const names[2] = {"tokenizer.json", "tokenizer_config.json"};
    static const size_t limits[2] = {SFFN_HF_MAX_TOKENIZER, MAX_SETTINGS};
    struct sffn_arena scratch = {p->ctx, NULL, 0};
    struct sffn_file files[2];
    struct sffn_json json[2];
    int is_there[2] = {0, 0};
    sffn_status status = SFFN_OK;
    for (int i = 0; i < 2 && status == SFFN_OK; i++) {
        const char *path = sffn_hf_path(&scratch, p->model->path, names[i]);
        if (!path) {
            status = sffn_no_memory(p->ctx, p->model->path);
            break;
        }
        if (!sffn_file_exists(path))
            continue;
        status = sffn_file_open(p->ctx, path, limits[i], &files[i]);
        if (status != SFFN_OK)
            break;
        status = sffn_json_parse(&files[i], 0, files[i].bytes, &scratch, &json[i]);
        sffn_file_close(&files[i]); /* the parse has its own copy */
        is_there[i] = 1;
    }
    if (status == SFFN_OK && is_there[0]) {
        const struct sffn_tensor *embedding = sffn_model_tensor(p->model, "token_embd.weight");
        const uint64_t n = embedding ? embedding->dims[0] : 0;
        status = sffn_tokenizer_write(&json[0], p->model->config, is_there[1] ? &json[1] : NULL,
                                      n <= UINT32_MAX ? (uint32_t)n : 0, &scratch, &p->writer);
    } else if (status == SFFN_OK) {
        sffn_log(p->ctx, SFFN_LOG_WARNING, "%s: no tokenizer.json, so the file gets no tokenizer",
                 p->model->path);
    }
    sffn_arena_free(&scratch);
    return status;
}

static sffn_status write_hf_keys(struct preparation *p)
{
    struct sffn_gguf_writer *w = &p->writer;
    const sffn_model_info *info = &p->model->info;
    if (info->architecture[0])
        write_text(w, "general.architecture", info->architecture);
    write_text(w, "general.type", "model");
    if (info->name[0] && sffn_utf8_is_valid(info->name, strlen(info->name)))
        write_text(w, "general.name", info->name);
    if (p->file_type >= 0)
        sffn_gguf_write_u32(w, "general.file_type", (uint32_t)p->file_type);
    sffn_gguf_write_u32(w, "general.quantization_version", 2);
    if (!info->architecture[0])
        return w->status;
    write_size(p, "context_length", info->n_context);
    write_size(p, "embedding_length", info->d_model);
    write_size(p, "block_count", info->n_layers);
    write_size(p, "feed_forward_length", info->d_ff);
    write_size(p, "rope.dimension_count", info->head_dim);
    write_size(p, "attention.head_count", info->n_heads);
    write_size(p, "attention.head_count_kv", info->n_kv_heads);
    if ((uint64_t)info->head_dim * info->n_heads != info->d_model) {
        write_size(p, "attention.key_length", info->head_dim);
        write_size(p, "attention.value_length", info->head_dim);
    }
    write_float(p, "attention.layer_norm_rms_epsilon", info->rms_norm_eps);
    write_float(p, "rope.freq_base", info->rope_theta);
    write_size(p, "vocab_size", info->n_vocab);
    if (!p->model->config)
        return w->status;
    const sffn_status status = write_rope_scaling(p);
    return status == SFFN_OK ? write_tokenizer(p) : status;
}

/* ---- data ---- */

struct job {
    const struct plan *plan;
    uint8_t *out;
    size_t first, n; /* rows of the output in this chunk */
    float *scratch;
    size_t scratch_floats; /* per thread */
};

/* Rows of one head: (half, pair) -> (pair, half), so that neighbours rotate together. */
static size_t source_row(const struct plan *plan, size_t row)
{
    if (plan->order)
        return plan->order[row];
    if (!plan->n_heads)
        return row;
    const size_t head_rows = plan->n_rows / plan->n_heads;
    const size_t head = row / head_rows, at = row % head_rows;
    return head * head_rows + at % 2 * (head_rows / 2) + at / 2;
}

static void encode(const struct plan *plan, const float *row, uint8_t *out)
{
    (void)sffn_dtype_from_f32(plan->type->dtype, row, plan->n_cols,
                              out); /* columns fit the blocks, see choose_type() */
}

static void convert_rows(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    const struct job *job = arg;
    const struct plan *plan = job->plan;
    const size_t share = (job->n + nth - 1) / nth;
    const size_t begin = share * ith < job->n ? share * ith : job->n;
    const size_t end = job->n - begin < share ? job->n : begin + share;
    float *scratch = job->scratch + ith * job->scratch_floats;
    (void)phase;
    for (size_t i = begin; i < end; i++) {
        const uint8_t *row =
            plan->source->data + source_row(plan, job->first + i) * plan->source_row_bytes;
        uint8_t *out = job->out + i * plan->row_bytes;
        if (plan->type == plan->source->type || plan->type->ggml == plan->source->type->ggml) {
            memcpy(out, row, plan->row_bytes);
        } else {
            sffn_dequantise(plan->source->type, row, plan->n_cols, scratch);
            encode(plan, scratch, out);
        }
    }
}

static size_t group_of(const struct plan *plan)
{
    return plan->order                         ? ORDER_GROUP
           : plan->source->type->block > GROUP ? plan->source->type->block
                                               : GROUP;
}

/* Columns [first, first + n) of the source, or those that `order` names, as rows at `out`; types of the same
 * elements keep their bits. */
static void transpose_raw(const struct job *job, size_t first, size_t n, uint8_t *out)
{
    const struct plan *plan = job->plan;
    const size_t size = plan->type->bits / 8;
    for (size_t j = 0; j < plan->n_cols; j++) {
        const uint8_t *source = plan->source->data + j * plan->source_row_bytes;
        for (size_t i = 0; i < n; i++) {
            const size_t column = plan->order ? plan->order[first + i] : first + i;
            memcpy(out + i * plan->row_bytes + j * size, source + column * size, size);
        }
    }
}

/* Floats of a source row that are decoded for one group. */
static size_t piece_of(const struct plan *plan)
{
    return plan->order ? plan->n_rows : group_of(plan);
}

static void transpose_decoded(const struct job *job, size_t first, size_t n, float *scratch,
                              uint8_t *out)
{
    const struct plan *plan = job->plan;
    const struct sffn_tensor_type *type = plan->source->type;
    const size_t start = plan->order ? 0 : first, n_decoded = plan->order ? plan->n_rows : n;
    float *piece = scratch, *tile = scratch + piece_of(plan);
    for (size_t j = 0; j < plan->n_cols; j++) {
        sffn_dequantise(type,
                        plan->source->data + j * plan->source_row_bytes +
                            start / type->block * (type->bits / 8),
                        n_decoded, piece);
        for (size_t i = 0; i < n; i++)
            tile[i * plan->n_cols + j] = piece[plan->order ? plan->order[first + i] : i];
    }
    for (size_t i = 0; i < n; i++)
        encode(plan, tile + i * plan->n_cols, out + i * plan->row_bytes);
}

static void transpose_rows(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    const struct job *job = arg;
    const struct plan *plan = job->plan;
    const size_t group = group_of(plan);
    const int is_raw = plan->type->ggml == plan->source->type->ggml && plan->type->block == 1;
    (void)phase;
    for (size_t at = ith * group; at < job->n; at += nth * group) {
        const size_t n = job->n - at < group ? job->n - at : group;
        uint8_t *out = job->out + at * plan->row_bytes;
        if (is_raw)
            transpose_raw(job, job->first + at, n, out);
        else
            transpose_decoded(job, job->first + at, n, job->scratch + ith * job->scratch_floats,
                              out);
    }
}

static sffn_status report(struct preparation *p, size_t bytes)
{
    p->done += bytes;
    if (p->config.progress &&
        p->config.progress(p->config.progress_user, "write", p->done, p->total) != 0)
        return sffn_fail(p->ctx, SFFN_ERR_INTERRUPTED, "%s: the progress callback asked to stop",
                         p->writer.path);
    return SFFN_OK;
}

static sffn_status copy_tensor(struct preparation *p, const struct plan *plan)
{
    sffn_status status = SFFN_OK;
    for (size_t at = 0; at < plan->bytes && status == SFFN_OK; at += CHUNK_BYTES) {
        const size_t n = plan->bytes - at < CHUNK_BYTES ? plan->bytes - at : CHUNK_BYTES;
        status = sffn_gguf_write_data(&p->writer, plan->source->data + at, n);
        if (status == SFFN_OK)
            status = report(p, n);
    }
    return status;
}

static sffn_status convert_tensor(struct preparation *p, const struct plan *plan)
{
    const uint32_t n_threads = sffn_context_n_threads(p->ctx);
    const int is_transposed = plan->how == HOW_TRANSPOSE;
    const size_t group = is_transposed ? group_of(plan) : 1;
    struct job job = {plan, NULL, 0, 0, NULL, plan->n_cols};

    /* Chunks have whole groups, and work for every thread. */
    size_t rows = CHUNK_BYTES / plan->row_bytes / group * group;
    if (rows < group * n_threads)
        rows = group * n_threads;
    if (rows > plan->n_rows)
        rows = plan->n_rows;
    const size_t tile_rows = group < plan->n_rows ? group : plan->n_rows;
    size_t out_bytes = 0, scratch_bytes = 0;
    int fits = sffn_checked_mul(rows, plan->row_bytes, &out_bytes);
    if (is_transposed)
        fits = fits && sffn_checked_mul(tile_rows, plan->n_cols, &job.scratch_floats) &&
               sffn_checked_add(job.scratch_floats, piece_of(plan), &job.scratch_floats);
    fits = fits && sffn_checked_mul(job.scratch_floats, sizeof(float), &scratch_bytes) &&
           sffn_checked_mul(scratch_bytes, n_threads, &scratch_bytes);
    job.out = fits ? sffn_mem_alloc(p->ctx, out_bytes) : NULL;
    job.scratch = job.out ? sffn_mem_alloc(p->ctx, scratch_bytes) : NULL;
    sffn_status status = job.scratch ? SFFN_OK : sffn_no_memory(p->ctx, p->writer.path);
    for (; job.first < plan->n_rows && status == SFFN_OK; job.first += rows) {
        job.n = plan->n_rows - job.first < rows ? plan->n_rows - job.first : rows;
        sffn_context_run_phases(p->ctx, 1, is_transposed ? transpose_rows : convert_rows, &job);
        status = sffn_gguf_write_data(&p->writer, job.out, job.n * plan->row_bytes);
        if (status == SFFN_OK)
            status = report(p, job.n * plan->row_bytes);
    }
    if (job.out)
        sffn_mem_free(p->ctx, job.out, out_bytes);
    if (job.scratch)
        sffn_mem_free(p->ctx, job.scratch, scratch_bytes);
    return status;
}

static sffn_status write_file(struct preparation *p)
{
    struct sffn_gguf_writer *w = &p->writer;
    sffn_status status =
        p->model->info.format == SFFN_FILE_GGUF ? write_gguf_keys(p) : write_hf_keys(p);
    if (status == SFFN_OK)
        status = write_own_keys(p);
    if (status != SFFN_OK)
        return status;
    sffn_gguf_write_u32(w, "general.alignment", SFFN_GGUF_WRITE_ALIGNMENT);
    for (size_t i = 0; i < p->n_plans; i++) {
        const struct plan *plan = &p->plans[i];
        sffn_gguf_write_tensor(w, plan->name, plan->type, plan->n_dims, plan->dims, plan->bytes);
    }
    status = sffn_gguf_write_begin(w);
    if (status == SFFN_OK)
        status = report(p, 0);
    for (size_t i = 0; i < p->n_plans && status == SFFN_OK; i++) {
        const struct plan *plan = &p->plans[i];
        status = plan->how == HOW_COPY ? copy_tensor(p, plan) : convert_tensor(p, plan);
        if (status == SFFN_OK)
            status = sffn_gguf_write_pad(w);
    }
    return status == SFFN_OK ? sffn_gguf_write_finish(w) : status;
}

static sffn_status check_config(sffn_context *ctx, const sffn_prepare_config *c)
{
    if (c->dtype < -1 || c->dtype >= SFFN_DTYPE_COUNT_)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "dtype is %d; expected -1 or a value of enum sffn_dtype", (int)c->dtype);
    if (c->keep_embeddings != 0 && c->keep_embeddings != 1)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "keep_embeddings is %d; expected 0 or 1",
                         (int)c->keep_embeddings);
    if (isnan(c->act_threshold) || c->act_threshold > 3.4e38f)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "act_threshold is %g; expected a finite number", (double)c->act_threshold);
    return SFFN_OK;
}

sffn_status sffn_prepare(sffn_context *ctx, const sffn_model *model, const char *out_path,
                         const sffn_prepare_config *config)
{
    if (!ctx || !model || !out_path)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !ctx     ? "ctx"
                         : !model ? "model"
                                  : "out_path");
    const sffn_prepare_config defaults = SFFN_PREPARE_CONFIG_INIT;
    struct preparation p = {
        .ctx = ctx, .model = model, .config = defaults, .arena = {ctx, NULL, 0}};
    sffn_status status =
        config ? sffn_config_copy(ctx, "sffn_prepare_config", &p.config, sizeof(p.config), config)
               : SFFN_OK;
    if (status == SFFN_OK)
        status = check_config(ctx, &p.config);
    if (status == SFFN_OK)
        status = sffn_context_enter(ctx);
    if (status != SFFN_OK)
        return status;
    sffn_gguf_write_init(&p.writer, ctx, out_path);
    status = plan_all(&p);
    if (status == SFFN_OK)
        status = write_file(&p);
    sffn_gguf_write_close(&p.writer);
    sffn_arena_free(&p.arena);
    sffn_context_leave(ctx);
    return status;
}
