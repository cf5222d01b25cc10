#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "model/gguf.h"
#include "model/hf.h"
#include "model/name_index.h"
#include "model/safetensors.h"

#define MAX_LAYERS 1000000u

/* ---- look-up ---- */

static struct sffn_name tensor_name(const void *items, uint32_t i)
{
    const struct sffn_tensor *tensors = items;
    return (struct sffn_name){tensors[i].name, strlen(tensors[i].name)};
}

static struct sffn_name tensor_file_name(const void *items, uint32_t i)
{
    const struct sffn_tensor *tensors = items;
    return (struct sffn_name){tensors[i].file_name, strlen(tensors[i].file_name)};
}

static struct sffn_name meta_key(const void *items, uint32_t i)
{
    const struct sffn_meta *metas = items;
    return (struct sffn_name){metas[i].key, strlen(metas[i].key)};
}

static const struct sffn_tensor *find_by(const sffn_model *model, sffn_name_fn name_of,
                                         const struct sffn_name_entry *order, const char *name)
{
    uint32_t i;
    const struct sffn_name wanted = {name, strlen(name)};
    return sffn_name_find(model->parts.tensors, name_of, order, model->parts.n_tensors, wanted, &i)
               ? &model->parts.tensors[i]
               : NULL;
}

const struct sffn_tensor *sffn_model_tensor(const sffn_model *model, const char *name)
{
    return find_by(model, tensor_name, model->name_order, name);
}

const struct sffn_meta *sffn_model_meta(const sffn_model *model, const char *key)
{
    uint32_t i;
    const struct sffn_name wanted = {key, strlen(key)};
    return sffn_name_find(model->parts.metas, meta_key, model->meta_order, model->parts.n_metas,
                          wanted, &i)
               ? &model->parts.metas[i]
               : NULL;
}

int sffn_model_layer_of(const char *name, uint32_t *layer, const char **rest)
{
    if (strncmp(name, "blk.", 4) != 0)
        return 0;
    uint32_t n = 0;
    size_t i = 4;
    for (; name[i] >= '0' && name[i] <= '9' && n < MAX_LAYERS; i++)
        n = n * 10 + (uint32_t)(name[i] - '0');
    if (i == 4 || name[i] != '.' || n >= MAX_LAYERS || (name[4] == '0' && i > 5))
        return 0;
    *layer = n;
    *rest = name + i + 1;
    return 1;
}

/* An index of all n items; NULL without memory. */
static struct sffn_name_entry *make_order(struct sffn_arena *arena, const void *items,
                                          sffn_name_fn name, size_t n, int *is_duplicate,
                                          uint32_t duplicate[2])
{
    if (n > UINT32_MAX)
        return NULL;
    struct sffn_arena scratch_arena = {arena->ctx, NULL, 0};
    struct sffn_name_entry *order = sffn_arena_alloc(arena, n, sizeof(*order));
    struct sffn_name_entry *scratch = sffn_arena_alloc(&scratch_arena, n, sizeof(*scratch));
    if (order && scratch) {
        for (size_t i = 0; i < n; i++)
            order[i].item = (uint32_t)i;
        *is_duplicate = sffn_name_sort(items, name, order, scratch, n, duplicate);
    }
    sffn_arena_free(&scratch_arena);
    return scratch ? order : NULL;
}

static sffn_status index_names(sffn_model *model)
{
    struct sffn_parts *parts = &model->parts;
    int is_duplicate = 0;
    uint32_t twice[2] = {0, 0};
    /* Metas: GGUF's reader refuses duplicates itself; "a.b" beside {"a": {"b"}} in a config.json
     * harms nobody, the first wins. */
    model->meta_order =
        make_order(&model->arena, parts->metas, meta_key, parts->n_metas, &is_duplicate, twice);
    if (!model->meta_order)
        return sffn_no_memory(model->ctx, model->path);
    model->name_order = make_order(&model->arena, parts->tensors, tensor_name, parts->n_tensors,
                                   &is_duplicate, twice);
    if (!model->name_order)
        return sffn_no_memory(model->ctx, model->path);
    if (is_duplicate) {
        struct sffn_quoted name, first, second;
        const struct sffn_tensor *a = &parts->tensors[twice[0]], *b = &parts->tensors[twice[1]];
        return sffn_fail(model->ctx, SFFN_ERR_FORMAT,
                         "%s: offset 0: tensor '%s' is there twice, as '%s' and '%s' in the file",
                         model->path, sffn_quote(&name, a->name, strlen(a->name)),
                         sffn_quote(&first, a->file_name, strlen(a->file_name)),
                         sffn_quote(&second, b->file_name, strlen(b->file_name)));
    }
    int is_renamed = 0;
    for (size_t i = 0; i < parts->n_tensors && !is_renamed; i++)
        is_renamed = parts->tensors[i].name != parts->tensors[i].file_name;
    model->file_name_order = model->name_order;
    if (!is_renamed)
        return SFFN_OK;
    model->file_name_order = make_order(&model->arena, parts->tensors, tensor_file_name,
                                        parts->n_tensors, &is_duplicate, twice);
    return model->file_name_order ? SFFN_OK : sffn_no_memory(model->ctx, model->path);
}

static sffn_status rename_tensors(sffn_model *model)
{
    char name[SFFN_HF_MAX_NAME];
    for (size_t i = 0; i < model->parts.n_tensors; i++) {
        struct sffn_tensor *tensor = &model->parts.tensors[i];
        if (!sffn_hf_gguf_name(tensor->file_name, name))
            continue;
        tensor->name = sffn_arena_text(&model->arena, name, strlen(name));
        if (!tensor->name)
            return sffn_no_memory(model->ctx, model->path);
    }
    return SFFN_OK;
}

/* ---- GGUF's hyper-parameters ---- */

const struct sffn_meta *sffn_model_arch_meta(const sffn_model *model, const char *suffix)
{
    char key[192];
    snprintf(key, sizeof(key), "%s.%s", model->info.architecture, suffix);
    return sffn_model_meta(model, key);
}

/* A missing key leaves *value alone. Arrays (one value per layer, in some architectures) give
 * their first. */
static sffn_status take_u32(const sffn_model *model, const char *suffix, uint32_t *value)
{
    const struct sffn_meta *meta = sffn_model_arch_meta(model, suffix);
    if (!meta || (meta->kind == SFFN_META_ARRAY && meta->n == 0))
        return SFFN_OK;
    const int is_array = meta->kind == SFFN_META_ARRAY;
    int is_too_large = 0;
    int64_t wide = -1;
    if ((is_array ? meta->element_kind : meta->kind) == SFFN_META_INT)
        wide = sffn_gguf_load_int(meta->file, is_array ? meta->element_type : meta->type, meta->at,
                                  &is_too_large);
    struct sffn_quoted text;
    if (wide < 0 || wide > UINT32_MAX || is_too_large)
        return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, meta->raw,
                              "key '%s' is no size below 2^32",
                              sffn_quote(&text, meta->key, strlen(meta->key)));
    *value = (uint32_t)wide;
    return SFFN_OK;
}

sffn_status sffn_model_float_key(const struct sffn_meta *meta, float *value)
{
    struct sffn_quoted text;
    if (!meta)
        return SFFN_OK;
    if (meta->kind != SFFN_META_FLOAT ||
        !isfinite((float)sffn_gguf_load_float(meta->file, meta->type, meta->at)))
        return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, meta->raw, "key '%s' is no finite float",
                              sffn_quote(&text, meta->key, strlen(meta->key)));
    *value = (float)sffn_gguf_load_float(meta->file, meta->type, meta->at);
    return SFFN_OK;
}

static int gguf_text(const struct sffn_meta *meta, const char **text, size_t *bytes)
{
    return meta && meta->kind == SFFN_META_STRING &&
           sffn_gguf_string(meta->file, meta->at, text, bytes);
}

/* What the FFN of an architecture computes when no key says so. Only where there is no doubt. */
static int32_t activation_of(const char *architecture, int is_powerinfer)
{
    static const struct {
        const char *architecture;
        int32_t activation;
    } table[] = {
        {"llama", SFFN_ACT_SILU},
        {"llama4", SFFN_ACT_SILU},
        {"mistral", SFFN_ACT_SILU},
        {"qwen2", SFFN_ACT_SILU},
        {"qwen3", SFFN_ACT_SILU},
        {"phi3", SFFN_ACT_SILU},
        {"minicpm", SFFN_ACT_SILU},
        {"internlm2", SFFN_ACT_SILU},
        {"baichuan", SFFN_ACT_SILU},
        {"olmo", SFFN_ACT_SILU},
        {"olmo2", SFFN_ACT_SILU},
        {"stablelm", SFFN_ACT_SILU},
        {"smollm3", SFFN_ACT_SILU},
        {"granite", SFFN_ACT_SILU},
        {"gemma", SFFN_ACT_GELU_TANH},
        {"gemma2", SFFN_ACT_GELU_TANH},
        {"gemma3", SFFN_ACT_GELU_TANH},
        {"gpt2", SFFN_ACT_GELU_TANH},
        {"starcoder", SFFN_ACT_GELU_TANH},
        {"nemotron", SFFN_ACT_RELU2},
        {"opt", SFFN_ACT_RELU},
        {"bamboo", SFFN_ACT_DRELU},
    };
    /* PowerInfer's engine runs ReLU whatever the original had: its llama files are ReluLLaMA and
     * ProSparse. */
    if (is_powerinfer &&
        (strcmp(architecture, "llama") == 0 || strcmp(architecture, "falcon") == 0))
        return SFFN_ACT_RELU;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strcmp(table[i].architecture, architecture) == 0)
            return table[i].activation;
    return -1;
}

static sffn_status take_gguf_activation(sffn_model *model)
{
    sffn_model_info *info = &model->info;
    const char *text = NULL;
    size_t bytes = 0;
    struct sffn_quoted quoted;
    const struct sffn_meta *own = sffn_model_meta(model, "sffn.activation");
    const struct sffn_meta *meta = own ? own : sffn_model_arch_meta(model, "hidden_activation");
    if (!meta) {
        info->activation =
            activation_of(info->architecture, sffn_gguf_is_powerinfer(&model->files[0]));
        return SFFN_OK;
    }
    if (!gguf_text(meta, &text, &bytes))
        return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, meta->raw, "key '%s' is no string",
                              sffn_quote(&quoted, meta->key, strlen(meta->key)));
    sffn_quote(&quoted, text, bytes);
    info->activation =
        own ? sffn_activation_from_name(quoted.text) : sffn_hf_activation(text, bytes);
    if (info->activation < 0) {
        model->unknown_activation =
            sffn_arena_text(&model->arena, quoted.text, strlen(quoted.text));
        return model->unknown_activation ? SFFN_OK : sffn_no_memory(model->ctx, model->path);
    }
    meta = sffn_model_meta(model, "sffn.act_threshold");
    sffn_status status = sffn_model_float_key(meta, &info->act_threshold);
    if (status == SFFN_OK && !(info->act_threshold >= 0.0f))
        return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, meta->raw,
                              "sffn.act_threshold is negative");
    if (status == SFFN_OK && !meta &&
        (info->activation == SFFN_ACT_FATRELU || info->activation == SFFN_ACT_SHIFTED_RELU))
        return sffn_file_fail(&model->files[0], SFFN_ERR_FORMAT, own ? own->raw : 0,
                              "the activation has a threshold, but there is no sffn.act_threshold");
    meta = sffn_model_meta(model, "sffn.act_tie");
    if (status == SFFN_OK && meta) {
        int is_too_large = 0;
        const int64_t tie =
            meta->kind == SFFN_META_INT
                ? sffn_gguf_load_int(meta->file, meta->type, meta->at, &is_too_large)
                : -1;
        if (tie != SFFN_TIE_DROP && tie != SFFN_TIE_KEEP)
            return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, meta->raw,
                                  "sffn.act_tie is no tie rule");
        info->act_tie = (int32_t)tie;
    }
    return status;
}

int sffn_rope_is_permuted(const char *architecture)
{
    static const char *const names[] = {"llama",   "llama4", "mistral3", "baichuan", "internlm2",
                                        "minicpm", "xverse", "bamboo",   "granite",  "smollm3"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(architecture, names[i]) == 0)
            return 1;
    return 0;
}

static sffn_status take_gguf_info(sffn_model *model)
{
    sffn_model_info *info = &model->info;
    const struct sffn_meta *meta = sffn_model_meta(model, "general.architecture");
    const char *text = NULL;
    size_t bytes = 0;
    if (meta) {
        if (!gguf_text(meta, &text, &bytes) || bytes == 0 || bytes > 63)
            return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, meta->raw,
                                  "general.architecture is no string of 1 to 63 bytes");
        struct sffn_quoted quoted;
        info->architecture =
            sffn_arena_text(&model->arena, sffn_quote(&quoted, text, bytes), bytes);
        if (!info->architecture)
            return sffn_no_memory(model->ctx, model->path);
    }
    meta = sffn_model_meta(model, "split.count");
    if (meta && meta->kind == SFFN_META_INT) {
        int is_too_large = 0;
        if (sffn_gguf_load_int(meta->file, meta->type, meta->at, &is_too_large) > 1)
            return sffn_file_fail(
                meta->file, SFFN_ERR_UNSUPPORTED, meta->raw,
                "one part of a split GGUF file: merge the parts first (llama-gguf-split --merge)");
    }
    meta = sffn_model_meta(model, "general.name");
    if (gguf_text(meta, &text, &bytes)) {
        struct sffn_quoted quoted;
        const char *name = sffn_arena_text(&model->arena, text, bytes < 255 ? bytes : 0);
        if (name && (bytes >= 255 || memchr(name, 0, bytes) || !sffn_utf8_is_valid(name, bytes))) {
            sffn_quote(&quoted, text, bytes);
            name = sffn_arena_text(&model->arena, quoted.text, strlen(quoted.text));
        }
        if (!name)
            return sffn_no_memory(model->ctx, model->path);
        info->name = name;
    }
    const struct {
        const char *suffix;
        uint32_t *value;
    } sizes[] = {
        {"block_count", &info->n_layers},
        {"embedding_length", &info->d_model},
        {"feed_forward_length", &info->d_ff},
        {"attention.head_count", &info->n_heads},
        {"attention.head_count_kv", &info->n_kv_heads},
        {"attention.key_length", &info->head_dim},
        {"vocab_size", &info->n_vocab},
        {"context_length", &info->n_context},
    };
    sffn_status status = SFFN_OK;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && status == SFFN_OK; i++)
        status = take_u32(model, sizes[i].suffix, sizes[i].value);
    if (status == SFFN_OK)
        status = sffn_model_float_key(
            sffn_model_arch_meta(model, "attention.layer_norm_rms_epsilon"), &info->rms_norm_eps);
    if (status == SFFN_OK)
        status =
            sffn_model_float_key(sffn_model_arch_meta(model, "rope.freq_base"), &info->rope_theta);
    if (status != SFFN_OK)
        return status;
    if (!info->n_kv_heads)
        info->n_kv_heads = info->n_heads;
    if (!info->head_dim && info->n_heads && info->d_model % info->n_heads == 0)
        info->head_dim = info->d_model / info->n_heads;
    if (!info->n_vocab) {
        const size_t n = sffn_model_meta_count(model, "tokenizer.ggml.tokens");
        info->n_vocab = n <= UINT32_MAX ? (uint32_t)n : 0;
    }
    info->rope_is_permuted = sffn_rope_is_permuted(info->architecture);
    return take_gguf_activation(model);
}

/* ---- what the tensors say ---- */

static uint32_t small_dim(uint64_t dim)
{
    return dim <= UINT32_MAX ? (uint32_t)dim : 0;
}

/* Fills what no key said, and looks whether the model is gated: then a layer without a gate is
 * one with a missing tensor. */
static void take_info_of_tensors(sffn_model *model)
{
    static const char *const gated[] = {"llama", "bamboo", "qwen2", "qwen3"};
    sffn_model_info *info = &model->info;
    uint32_t n_layers = 0;
    for (size_t i = 0; i < sizeof(gated) / sizeof(gated[0]); i++)
        if (strcmp(gated[i], info->architecture) == 0)
            model->is_gated = 1;
    for (size_t i = 0; i < model->parts.n_tensors; i++) {
        const struct sffn_tensor *tensor = &model->parts.tensors[i];
        uint32_t layer;
        const char *rest;
        if (!sffn_model_layer_of(tensor->name, &layer, &rest))
            continue;
        if (layer >= n_layers)
            n_layers = layer + 1;
        if (strcmp(rest, "ffn_gate.weight") == 0)
            model->is_gated = 1;
        if (strcmp(rest, "ffn_up.weight") == 0 && tensor->n_dims == 2) {
            if (!info->d_ff)
                info->d_ff = small_dim(tensor->dims[0]);
            if (!info->d_model)
                info->d_model = small_dim(tensor->dims[1]);
        }
    }
    if (!info->n_layers)
        info->n_layers = n_layers;
    const struct sffn_tensor *embedding = sffn_model_tensor(model, "token_embd.weight");
    if (embedding && !info->n_vocab)
        info->n_vocab = small_dim(embedding->dims[0]);
    info->is_tied = embedding && !sffn_model_tensor(model, "output.weight");
    info->n_tensors = model->parts.n_tensors;
    info->n_meta = model->parts.n_metas;
}

/* The vectors that layer, predictor and router configs point to. */
static int is_config_vector(const char *name)
{
    static const char *const parts[] = {"ffn_gate.bias",           "ffn_up.bias",
                                        "ffn_down.bias",           "sffn_rule.threshold",
                                        "sffn_router.bias",        "sffn_predictor.threshold",
                                        "sffn_predictor_w1.bias",  "sffn_predictor_w2.bias",
                                        "sffn_router_hidden.bias", "sffn_predictor.input_mean"};
    uint32_t layer;
    const char *rest;
    if (!sffn_model_layer_of(name, &layer, &rest))
        return 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (strcmp(rest, parts[i]) == 0)
            return 1;
    return 0;
}

/* Configs want vectors as aligned floats; files may have them in 16 bits or anywhere. Done at
 * opening, so that a model never changes. */
static sffn_status copy_vectors(sffn_model *model)
{
    model->vectors =
        sffn_arena_alloc(&model->arena, model->parts.n_tensors, sizeof(*model->vectors));
    if (!model->vectors)
        return sffn_no_memory(model->ctx, model->path);
    for (size_t i = 0; i < model->parts.n_tensors; i++) {
        const struct sffn_tensor *tensor = &model->parts.tensors[i];
        const int32_t dtype = tensor->type->dtype;
        if (!is_config_vector(tensor->name) || tensor->n_dims != 1 || dtype < 0 ||
            tensor->bytes == 0)
            continue;
        if (dtype == SFFN_F32 && (uintptr_t)tensor->data % sizeof(float) == 0)
            continue;
        const size_t n = (size_t)tensor->dims[0]; /* its bytes are in the file, so n fits */
        model->vectors[i] = sffn_arena_alloc(&model->arena, n, sizeof(float));
        if (!model->vectors[i])
            return sffn_no_memory(model->ctx, model->path);
        const sffn_status status = sffn_dtype_to_f32(dtype, tensor->data, n, model->vectors[i]);
        if (status != SFFN_OK)
            return sffn_fail(model->ctx, status, "%s: tensor '%s' cannot be converted", model->path,
                             tensor->name);
    }
    return SFFN_OK;
}

/* ---- opening ---- */

static sffn_status name_after_path(sffn_model *model)
{
    size_t end = strlen(model->path);
    while (end > 1 && model->path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && model->path[start - 1] != '/')
        start--;
    model->info.name = sffn_arena_text(&model->arena, model->path + start, end - start);
    return model->info.name ? SFFN_OK : sffn_no_memory(model->ctx, model->path);
}

/* Files[0] is open. */
static sffn_status read_single(sffn_model *model)
{
    struct sffn_file *file = &model->files[0];
    model->info.file_bytes = file->bytes;
    if (sffn_gguf_is_magic(file->data, file->bytes)) {
        model->info.format = SFFN_FILE_GGUF;
        return sffn_gguf_parse(file, &model->arena, &model->parts);
    }
    if (!sffn_safetensors_is_likely(file->data, file->bytes))
        return sffn_file_fail(file, SFFN_ERR_FORMAT, 0, "neither a GGUF nor a safetensors file");
    model->info.format = SFFN_FILE_SAFETENSORS;
    sffn_status status = sffn_safetensors_parse(file, 1, &model->arena, &model->parts);
    if (status == SFFN_OK)
        status = rename_tensors(model);
    if (status == SFFN_OK)
        status = name_after_path(model);
    return status;
}

static sffn_status read_shards(sffn_model *model, const char *const *names, size_t n)
{
    struct sffn_parts *shards = sffn_arena_alloc(&model->arena, n, sizeof(*shards));
    if (!shards)
        return sffn_no_memory(model->ctx, model->path);
    size_t n_tensors = 0;
    for (size_t i = 0; i < n; i++) {
        const char *path = sffn_hf_path(&model->arena, model->path, names[i]);
        if (!path)
            return sffn_no_memory(model->ctx, model->path);
        struct sffn_file *file = &model->files[model->n_files];
        sffn_status status = sffn_file_open(model->ctx, path, SIZE_MAX, file);
        if (status != SFFN_OK)
            return status;
        model->n_files++;
        model->info.file_bytes += file->bytes;
        status = sffn_safetensors_parse(file, 0, &model->arena, &shards[i]);
        if (status != SFFN_OK)
            return status;
        n_tensors += shards[i].n_tensors; /* each has its own bytes in memory */
    }
    model->parts.tensors = sffn_arena_alloc(&model->arena, n_tensors, sizeof(struct sffn_tensor));
    if (!model->parts.tensors)
        return sffn_no_memory(model->ctx, model->path);
    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < shards[i].n_tensors; t++)
            model->parts.tensors[model->parts.n_tensors++] = shards[i].tensors[t];
    return SFFN_OK;
}

/* Every tensor that the index promises is there. (In another shard than it says? Then it is
 * found all the same.) */
static sffn_status check_index(const sffn_model *model, const struct sffn_hf_index *index,
                               struct sffn_arena *scratch)
{
    const struct sffn_json *json = &index->json;
    for (uint32_t key = index->map + 1; key < json->nodes[index->map].end;
         key = json->nodes[key + 1].end) {
        size_t bytes;
        const char *text = sffn_json_text(json, key, &bytes);
        const char *name = sffn_arena_text(scratch, text, bytes);
        if (!name)
            return sffn_no_memory(model->ctx, model->path);
        struct sffn_quoted quoted;
        if (!find_by(model, tensor_file_name, model->file_name_order, name))
            return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, key),
                                  "tensor '%s' is in no shard", sffn_quote(&quoted, text, bytes));
    }
    return SFFN_OK;
}

static sffn_status read_config(sffn_model *model)
{
    const char *path = sffn_hf_path(&model->arena, model->path, "config.json");
    struct sffn_json *config = sffn_arena_alloc(&model->arena, 1, sizeof(*config));
    struct sffn_file *file = sffn_arena_alloc(&model->arena, 1, sizeof(*file));
    if (!path || !config || !file)
        return sffn_no_memory(model->ctx, model->path);
    sffn_status status = sffn_file_open(model->ctx, path, SFFN_HF_MAX_CONFIG, file);
    if (status != SFFN_OK)
        return status;
    status = sffn_json_parse(file, 0, file->bytes, &model->arena, config);
    sffn_file_close(file); /* the parse has its own copy; the name is still good for error texts */
    if (status != SFFN_OK)
        return status;
    model->config = config;
    status = sffn_hf_read_config(config, &model->arena, &model->info, &model->unknown_activation);
    return status == SFFN_OK ? sffn_hf_read_metas(config, &model->arena, &model->parts) : status;
}

static sffn_status index_folder(sffn_model *model)
{
    sffn_status status = rename_tensors(model);
    return status == SFFN_OK ? index_names(model) : status;
}

static sffn_status read_folder(sffn_model *model)
{
    static const char *const single[] = {"model.safetensors"};
    struct sffn_arena scratch = {model->ctx, NULL, 0};
    struct sffn_file index_file = {model->ctx, "", NULL, 0, SFFN_FILE_BORROWED};
    struct sffn_hf_index index = {.shards = NULL};
    model->info.format = SFFN_FILE_HF_FOLDER;
    sffn_status status = name_after_path(model);
    if (status == SFFN_OK)
        status = read_config(model);
    const char *single_path = sffn_hf_path(&scratch, model->path, single[0]);
    const char *index_path = sffn_hf_path(&scratch, model->path, "model.safetensors.index.json");
    if (status == SFFN_OK && (!single_path || !index_path))
        status = sffn_no_memory(model->ctx, model->path);
    /* As in transformers, the one file wins when both are there. */
    const int is_sharded =
        status == SFFN_OK && !sffn_file_exists(single_path) && sffn_file_exists(index_path);
    const char *const *names = single;
    size_t n = 1;
    if (is_sharded) {
        status = sffn_file_open(model->ctx, index_path, SFFN_HF_MAX_INDEX, &index_file);
        if (status == SFFN_OK)
            status = sffn_hf_read_index(&index_file, &scratch, &index);
        names = index.shards;
        n = index.n_shards;
    }
    if (status == SFFN_OK) {
        model->files = sffn_arena_alloc(&model->arena, n, sizeof(*model->files));
        status =
            model->files ? read_shards(model, names, n) : sffn_no_memory(model->ctx, model->path);
    }
    if (status == SFFN_OK)
        status = index_folder(model);
    if (status == SFFN_OK && is_sharded)
        status = check_index(model, &index, &scratch);
    sffn_file_close(&index_file);
    sffn_arena_free(&scratch);
    return status;
}

static sffn_status finish(sffn_model *model)
{
    sffn_status status = SFFN_OK;
    if (model->info.format != SFFN_FILE_HF_FOLDER)
        status = index_names(model);
    if (status == SFFN_OK && model->info.format == SFFN_FILE_GGUF)
        status = take_gguf_info(model);
    if (status == SFFN_OK) {
        take_info_of_tensors(model);
        status = copy_vectors(model);
    }
    return status;
}

static sffn_status create(sffn_context *ctx, const char *path, sffn_model **out)
{
    /* Tensor data is used in place and GGUF and safetensors are little-endian. */
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    if (first != 1)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED, "%s: model files need a little-endian machine",
                         path);
    sffn_model *model = sffn_mem_alloc_zero(ctx, sizeof(*model));
    if (!model)
        return sffn_no_memory(ctx, path);
    const sffn_model_info info = SFFN_MODEL_INFO_INIT;
    model->ctx = ctx;
    model->arena.ctx = ctx;
    model->info = info;
    model->info.architecture = model->info.name = "";
    model->info.act_tie = SFFN_TIE_KEEP;
    model->path = sffn_arena_text(&model->arena, path, strlen(path));
    if (!model->path) {
        sffn_model_close(model);
        return sffn_no_memory(ctx, path);
    }
    *out = model;
    return SFFN_OK;
}

static sffn_status create_with_file(sffn_context *ctx, const char *path, sffn_model **out)
{
    sffn_status status = create(ctx, path, out);
    if (status != SFFN_OK)
        return status;
    (*out)->files = sffn_arena_alloc(&(*out)->arena, 1, sizeof(*(*out)->files));
    return (*out)->files ? SFFN_OK : sffn_no_memory(ctx, path);
}

static sffn_status give(sffn_status status, sffn_model *model, sffn_model **out)
{
    if (status == SFFN_OK)
        status = finish(model);
    if (status == SFFN_OK)
        *out = model;
    else
        sffn_model_close(model);
    return status;
}

sffn_status sffn_model_open(sffn_context *ctx, const char *path, sffn_model **out)
{
    if (out)
        *out = NULL;
    if (!ctx || !path || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !ctx    ? "ctx"
                         : !path ? "path"
                                 : "model");
    sffn_model *model = NULL;
    sffn_status status;
    if (sffn_file_is_folder(path)) {
        status = create(ctx, path, &model);
        if (status == SFFN_OK)
            status = read_folder(model);
        return give(status, model, out);
    }
    status = create_with_file(ctx, path, &model);
    if (status == SFFN_OK) {
        status = sffn_file_open(ctx, model->path, SIZE_MAX, &model->files[0]);
        model->n_files = status == SFFN_OK;
    }
    if (status == SFFN_OK)
        status = read_single(model);
    return give(status, model, out);
}

sffn_status sffn_model_open_memory(sffn_context *ctx, const char *name, const void *data,
                                   size_t bytes, sffn_model **out)
{
    sffn_model *model = NULL;
    *out = NULL;
    sffn_status status = create_with_file(ctx, name, &model);
    if (status == SFFN_OK) {
        model->files[0] = (struct sffn_file){ctx, model->path, data, bytes, SFFN_FILE_BORROWED};
        model->n_files = 1;
        status = read_single(model);
    }
    return give(status, model, out);
}

void sffn_model_close(sffn_model *model)
{
    if (!model)
        return;
    for (size_t i = 0; i < model->n_files; i++)
        sffn_file_close(&model->files[i]);
    sffn_arena_free(&model->arena);
    sffn_mem_free(model->ctx, model, sizeof(*model));
}

/* ---- getters ---- */

sffn_status sffn_model_get_info(const sffn_model *model, sffn_model_info *info)
{
    if (!model)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "model is NULL");
    return sffn_info_copy(model->ctx, "sffn_model_info", info, &model->info, sizeof(model->info));
}

static sffn_status give_tensor(const sffn_model *model, const struct sffn_tensor *tensor,
                               sffn_tensor_info *info)
{
    sffn_tensor_info out = SFFN_TENSOR_INFO_INIT;
    out.name = tensor->name;
    out.file_name = tensor->file_name;
    out.type_name = tensor->type->name;
    out.dtype = tensor->type->dtype;
    out.n_dims = tensor->n_dims;
    memcpy(out.dims, tensor->dims, sizeof(out.dims));
    out.data = tensor->data;
    out.bytes = tensor->bytes;
    return sffn_info_copy(model->ctx, "sffn_tensor_info", info, &out, sizeof(out));
}

sffn_status sffn_model_get_tensor(const sffn_model *model, size_t index, sffn_tensor_info *info)
{
    if (!model)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "model is NULL");
    if (index >= model->parts.n_tensors)
        return sffn_fail(model->ctx, SFFN_ERR_NOT_FOUND, "%s: tensor %zu of %zu", model->path,
                         index, model->parts.n_tensors);
    return give_tensor(model, &model->parts.tensors[index], info);
}

sffn_status sffn_model_find_tensor(const sffn_model *model, const char *name,
                                   sffn_tensor_info *info)
{
    if (!model || !name)
        return sffn_fail(model ? model->ctx : NULL, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         model ? "name" : "model");
    const struct sffn_tensor *tensor = sffn_model_tensor(model, name);
    if (!tensor)
        tensor = find_by(model, tensor_file_name, model->file_name_order, name);
    if (!tensor)
        return sffn_fail(model->ctx, SFFN_ERR_NOT_FOUND, "%s: no tensor '%s'", model->path, name);
    return give_tensor(model, tensor, info);
}

sffn_status sffn_model_get_meta(const sffn_model *model, size_t index, const char **key,
                                int32_t *kind, int32_t *element_kind, uint64_t *n)
{
    if (!model)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "model is NULL");
    if (index >= model->parts.n_metas)
        return sffn_fail(model->ctx, SFFN_ERR_NOT_FOUND, "%s: key %zu of %zu", model->path, index,
                         model->parts.n_metas);
    const struct sffn_meta *meta = &model->parts.metas[index];
    if (key)
        *key = meta->key;
    if (kind)
        *kind = meta->kind;
    if (element_kind)
        *element_kind = meta->element_kind;
    if (n)
        *n = meta->n;
    return SFFN_OK;
}

size_t sffn_model_meta_count(const sffn_model *model, const char *key)
{
    const struct sffn_meta *meta = model && key ? sffn_model_meta(model, key) : NULL;
    return meta ? (size_t)meta->n : 0;
}

/* One value, wherever it is. */
struct value {
    const struct sffn_meta *meta;
    int32_t kind;
    uint32_t type; /* GGUF */
    size_t at;
    uint32_t node; /* JSON */
};

static sffn_status find_value(const sffn_model *model, const char *key, size_t index,
                              const void *out, struct value *value)
{
    if (!model || !key || !out)
        return sffn_fail(model ? model->ctx : NULL, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !model ? "model"
                         : !key ? "key"
                                : "the output");
    const struct sffn_meta *meta = sffn_model_meta(model, key);
    if (!meta || index >= meta->n)
        return sffn_fail(model->ctx, SFFN_ERR_NOT_FOUND, "%s: %s '%s'", model->path,
                         meta ? "no such element of key" : "no key", key);
    const int is_array = meta->kind == SFFN_META_ARRAY;
    *value = (struct value){meta, is_array ? meta->element_kind : meta->kind, 0, 0, 0};
    if (meta->json) {
        value->node = meta->node;
        if (is_array) {
            /* Elements follow each other when none of them has parts. */
            const struct sffn_json_node *node = &meta->json->nodes[meta->node];
            value->node = meta->node + 1 + (uint32_t)index;
            value->kind = node->end == meta->node + 1 + node->bytes
                              ? sffn_hf_meta_kind(meta->json, value->node)
                              : (int32_t)SFFN_META_ARRAY;
        }
        return SFFN_OK;
    }
    value->type = is_array ? meta->element_type : meta->type;
    if (meta->strings)
        value->at = (size_t)meta->strings[index];
    else
        value->at = meta->at + index * sffn_gguf_kind_bytes(value->type);
    return SFFN_OK;
}

static sffn_status wrong_kind(const sffn_model *model, const char *key, const char *wanted)
{
    return sffn_fail(model->ctx, SFFN_ERR_DTYPE, "%s: the value of key '%s' is no %s", model->path,
                     key, wanted);
}

/* Integers and booleans. */
static int load_int(const struct value *value, int64_t *out)
{
    int is_too_large = 0;
    if (value->kind != SFFN_META_INT && value->kind != SFFN_META_BOOL)
        return 0;
    if (!value->meta->json) {
        *out = sffn_gguf_load_int(value->meta->file, value->type, value->at, &is_too_large);
        return !is_too_large;
    }
    if (value->kind == SFFN_META_INT)
        return sffn_json_i64(value->meta->json, value->node, out);
    *out = value->meta->json->nodes[value->node].kind == SFFN_JSON_TRUE;
    return 1;
}

sffn_status sffn_model_get_int(const sffn_model *model, const char *key, size_t index, int64_t *out)
{
    struct value value = {0};
    const sffn_status status = find_value(model, key, index, out, &value);
    if (status != SFFN_OK)
        return status;
    int64_t result;
    if (!load_int(&value, &result))
        return wrong_kind(model, key, "integer below 2^63");
    *out = result;
    return SFFN_OK;
}

sffn_status sffn_model_get_float(const sffn_model *model, const char *key, size_t index,
                                 double *out)
{
    struct value value = {0};
    const sffn_status status = find_value(model, key, index, out, &value);
    if (status != SFFN_OK)
        return status;
    const struct sffn_meta *meta = value.meta;
    int64_t integer;
    double number;
    if (value.kind == SFFN_META_FLOAT && !meta->json)
        number = sffn_gguf_load_float(meta->file, value.type, value.at);
    else if (value.kind == SFFN_META_FLOAT && sffn_json_double(meta->json, value.node, &number))
        ;
    else if (load_int(&value, &integer))
        number = (double)integer;
    else if (value.kind == SFFN_META_INT && !meta->json) /* over 2^63 */
        number = (double)sffn_load_u64(meta->file->data + value.at);
    else
        return wrong_kind(model, key, "number");
    *out = number;
    return SFFN_OK;
}

sffn_status sffn_model_get_string(const sffn_model *model, const char *key, size_t index,
                                  const char **text, size_t *bytes)
{
    struct value value = {0};
    const sffn_status status = find_value(model, key, index, text && bytes ? text : NULL, &value);
    if (status != SFFN_OK)
        return status;
    if (value.kind != SFFN_META_STRING)
        return wrong_kind(model, key, "string");
    if (value.meta->json) {
        *text = sffn_json_text(value.meta->json, value.node, bytes);
        return SFFN_OK;
    }
    if (!sffn_gguf_string(value.meta->file, value.at, text, bytes))
        return sffn_file_fail(value.meta->file, SFFN_ERR_FORMAT, value.at,
                              "the file changed while it was open");
    return SFFN_OK;
}
