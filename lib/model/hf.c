#include "model/hf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/name_index.h"
#include "sparseffn/ffn.h"

/* ---- names ---- */

static const char *const top_names[][2] = {
    {"embed_tokens.", "token_embd."},
    {"embed_positions.", "position_embd."},
    {"norm.", "output_norm."},
    {"final_layer_norm.", "output_norm."},
};

static const char *const layer_names[][2] = {
    {"mlp.gate_proj.", "ffn_gate."},
    {"mlp.up_proj.", "ffn_up."},
    {"mlp.down_proj.", "ffn_down."},
    {"self_attn.q_proj.", "attn_q."},
    {"self_attn.k_proj.", "attn_k."},
    {"self_attn.v_proj.", "attn_v."},
    {"self_attn.o_proj.", "attn_output."},
    {"self_attn.q_norm.", "attn_q_norm."},
    {"self_attn.k_norm.", "attn_k_norm."},
    {"input_layernorm.", "attn_norm."},
    {"post_attention_layernorm.", "ffn_norm."},
    /* OPT */
    {"fc1.", "ffn_up."},
    {"fc2.", "ffn_down."},
    {"self_attn.out_proj.", "attn_output."},
    {"self_attn_layer_norm.", "attn_norm."},
    {"final_layer_norm.", "ffn_norm."},
};

/* The rest of `name` after `prefix`, or NULL. */
static const char *after(const char *name, const char *prefix)
{
    const size_t bytes = strlen(prefix);
    return strncmp(name, prefix, bytes) == 0 ? name + bytes : NULL;
}

static const char *translate(const char *name, const char *const (*table)[2], size_t n,
                             const char **suffix)
{
    for (size_t i = 0; i < n; i++) {
        *suffix = after(name, table[i][0]);
        if (*suffix && (strcmp(*suffix, "weight") == 0 || strcmp(*suffix, "bias") == 0))
            return table[i][1];
    }
    return NULL;
}

int sffn_hf_gguf_name(const char *name, char out[SFFN_HF_MAX_NAME])
{
    static const char *const prefixes[] = {"model.decoder.", "model.", "decoder."};
    const char *suffix = NULL, *rest = NULL;
    if (strcmp(name, "lm_head.weight") == 0 || strcmp(name, "lm_head.bias") == 0) {
        snprintf(out, SFFN_HF_MAX_NAME, "output.%s", name + strlen("lm_head."));
        return 1;
    }
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]) && !rest; i++)
        rest = after(name, prefixes[i]);
    if (!rest)
        rest = name;
    const char *layer = after(rest, "layers.");
    if (!layer) {
        const char *top =
            translate(rest, top_names, sizeof(top_names) / sizeof(top_names[0]), &suffix);
        if (!top)
            return 0;
        snprintf(out, SFFN_HF_MAX_NAME, "%s%s", top, suffix);
        return 1;
    }
    size_t digits = 0;
    while (layer[digits] >= '0' && layer[digits] <= '9')
        digits++;
    if (digits == 0 || digits > 6 || layer[digits] != '.' || (digits > 1 && layer[0] == '0'))
        return 0;
    const char *part = translate(layer + digits + 1, layer_names,
                                 sizeof(layer_names) / sizeof(layer_names[0]), &suffix);
    if (!part)
        return 0;
    snprintf(out, SFFN_HF_MAX_NAME, "blk.%.*s.%s%s", (int)digits, layer, part, suffix);
    return 1;
}

char *sffn_hf_path(struct sffn_arena *arena, const char *folder, const char *name)
{
    const size_t folder_bytes = strlen(folder), name_bytes = strlen(name);
    char *path = sffn_arena_alloc(arena, folder_bytes + name_bytes + 2, 1);
    if (!path)
        return NULL;
    memcpy(path, folder, folder_bytes);
    path[folder_bytes] = '/';
    memcpy(path + folder_bytes + 1, name, name_bytes);
    return path;
}

/* ---- model.safetensors.index.json ---- */

static struct sffn_name shard_name(const void *items, uint32_t i)
{
    struct sffn_name name;
    name.text = sffn_json_text(items, i, &name.bytes);
    return name;
}

static int compare_shards(const void *items, uint32_t a, uint32_t b)
{
    return sffn_name_compare(shard_name(items, a), shard_name(items, b));
}

/* The index may only point into its own folder. */
static int is_plain_file_name(struct sffn_name name)
{
    if (name.bytes == 0 || name.bytes > 255 || name.text[0] == '.')
        return 0;
    for (size_t i = 0; i < name.bytes; i++)
        if (name.text[i] == '/' || name.text[i] == '\\' || (unsigned char)name.text[i] < 0x20)
            return 0;
    return 1;
}

sffn_status sffn_hf_read_index(const struct sffn_file *file, struct sffn_arena *arena,
                               struct sffn_hf_index *index)
{
    memset(index, 0, sizeof(*index));
    sffn_status status = sffn_json_parse(file, 0, file->bytes, arena, &index->json);
    if (status != SFFN_OK)
        return status;
    const struct sffn_json *json = &index->json;
    index->map = sffn_json_get(json, 0, "weight_map");
    if (!index->map || json->nodes[index->map].kind != SFFN_JSON_OBJECT)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, sffn_json_offset(json, index->map),
                              "weight_map is no object");
    const uint32_t n = json->nodes[index->map].bytes;
    uint32_t *order = sffn_arena_alloc(arena, n, 2 * sizeof(*order));
    if (!order)
        return sffn_no_memory(file->ctx, file->path);
    size_t n_values = 0;
    struct sffn_quoted text;
    for (uint32_t key = index->map + 1; key < json->nodes[index->map].end;
         key = json->nodes[key + 1].end) {
        if (json->nodes[key + 1].kind != SFFN_JSON_STRING)
            return sffn_file_fail(file, SFFN_ERR_FORMAT, sffn_json_offset(json, key + 1),
                                  "a value of weight_map is no string");
        const struct sffn_name name = shard_name(json, key + 1);
        if (!is_plain_file_name(name))
            return sffn_file_fail(file, SFFN_ERR_FORMAT, sffn_json_offset(json, key + 1),
                                  "shard '%s' is no plain file name",
                                  sffn_quote(&text, name.text, name.bytes));
        order[n_values++] = key + 1;
    }
    sffn_index_sort(json, compare_shards, order, order + n, n_values);
    for (size_t i = 0; i < n_values; i++)
        if (i == 0 || compare_shards(json, order[i - 1], order[i]) != 0)
            order[index->n_shards++] = order[i];
    if (index->n_shards == 0 || index->n_shards > SFFN_HF_MAX_SHARDS)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, sffn_json_offset(json, index->map),
                              "weight_map names %zu shards, expected 1 to %d", index->n_shards,
                              SFFN_HF_MAX_SHARDS);
    index->shards = sffn_arena_alloc(arena, index->n_shards, sizeof(*index->shards));
    if (!index->shards)
        return sffn_no_memory(file->ctx, file->path);
    for (size_t i = 0; i < index->n_shards; i++) {
        const struct sffn_name name = shard_name(json, order[i]);
        index->shards[i] = sffn_arena_text(arena, name.text, name.bytes);
        if (!index->shards[i])
            return sffn_no_memory(file->ctx, file->path);
    }
    return SFFN_OK;
}

/* ---- config.json ---- */

int32_t sffn_hf_activation(const char *name, size_t bytes)
{
    static const struct {
        const char *name;
        int32_t activation;
    } table[] = {
        {"relu", SFFN_ACT_RELU},
        {"fatrelu", SFFN_ACT_FATRELU},
        {"shifted_relu", SFFN_ACT_SHIFTED_RELU},
        {"relu2", SFFN_ACT_RELU2},
        {"relu_squared", SFFN_ACT_RELU2},
        {"drelu", SFFN_ACT_DRELU},
        {"silu", SFFN_ACT_SILU},
        {"swish", SFFN_ACT_SILU},
        {"gelu", SFFN_ACT_GELU_ERF},
        {"gelu_new", SFFN_ACT_GELU_TANH},
        {"gelu_fast", SFFN_ACT_GELU_TANH},
        {"gelu_tanh", SFFN_ACT_GELU_TANH},
        {"gelu_pytorch_tanh", SFFN_ACT_GELU_TANH},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strlen(table[i].name) == bytes && memcmp(table[i].name, name, bytes) == 0)
            return table[i].activation;
    return -1;
}

/* Missing and null leave *value alone. */
static sffn_status take_u32(const struct sffn_json *json, uint32_t object, const char *key,
                            uint32_t *value)
{
    const uint32_t node = sffn_json_get(json, object, key);
    uint64_t wide;
    if (!node || json->nodes[node].kind == SFFN_JSON_NULL)
        return SFFN_OK;
    if (!sffn_json_u64(json, node, &wide) || wide > UINT32_MAX)
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, node),
                              "%s is no size below 2^32", key);
    *value = (uint32_t)wide;
    return SFFN_OK;
}

static sffn_status take_float(const struct sffn_json *json, uint32_t object, const char *key,
                              float *value)
{
    const uint32_t node = sffn_json_get(json, object, key);
    double wide;
    if (!node || json->nodes[node].kind == SFFN_JSON_NULL)
        return SFFN_OK;
    if (!sffn_json_double(json, node, &wide) || fabs(wide) > 3.4e38)
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, node),
                              "%s is no float", key);
    *value = (float)wide;
    return SFFN_OK;
}

/* Some families keep the name "relu" for max(0, gate) * max(0, up). */
static int is_drelu_family(const char *model_type)
{
    return strncmp(model_type, "bamboo", 6) == 0 || strncmp(model_type, "turbosparse", 11) == 0;
}

/* model_type, under GGUF's name where the architecture is llama's; without one, what
 * architectures[0] says. */
static sffn_status take_architecture(const struct sffn_json *json, struct sffn_arena *arena,
                                     sffn_model_info *info)
{
    static const char *const llamas[] = {"llama", "sparsellama", "mistral"};
    static const char *const classes[] = {"LlamaForCausalLM", "SparseLlamaForCausalLM",
                                          "MistralForCausalLM"};
    const uint32_t model_type = sffn_json_get(json, 0, "model_type"),
                   list = sffn_json_get(json, 0, "architectures");
    size_t bytes = 0;
    const char *text = "";
    if (model_type && json->nodes[model_type].kind == SFFN_JSON_STRING) {
        text = sffn_json_text(json, model_type, &bytes);
    } else if (list && json->nodes[list].kind == SFFN_JSON_ARRAY && json->nodes[list].bytes) {
        for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
            if (sffn_json_is(json, list + 1, classes[i]))
                text = "llama", bytes = 5;
    }
    /* It becomes the prefix of GGUF keys. */
    for (size_t i = 0; i < bytes; i++)
        if (bytes > 63 || text[i] <= ' ' || text[i] >= 0x7f)
            return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, model_type),
                                  "model_type is no plain name");
    for (size_t i = 0; i < sizeof(llamas) / sizeof(llamas[0]); i++)
        if (bytes == strlen(llamas[i]) && memcmp(llamas[i], text, bytes) == 0)
            text = "llama", bytes = 5;
    info->architecture = sffn_arena_text(arena, text, bytes);
    return info->architecture ? SFFN_OK : sffn_no_memory(json->file->ctx, json->file->path);
}

static sffn_status take_activation(const struct sffn_json *json, struct sffn_arena *arena,
                                   sffn_model_info *info, const char **unknown_activation)
{
    static const char *const keys[] = {"hidden_activation", "hidden_act", "activation_function"};
    uint32_t node = 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]) && !node; i++) {
        node = sffn_json_get(json, 0, keys[i]);
        if (node && json->nodes[node].kind == SFFN_JSON_NULL)
            node = 0;
    }
    if (!node)
        return SFFN_OK;
    if (json->nodes[node].kind != SFFN_JSON_STRING)
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, node),
                              "the activation's name is no string");
    size_t bytes;
    const char *name = sffn_json_text(json, node, &bytes);
    info->activation = sffn_hf_activation(name, bytes);
    if (info->activation < 0) {
        struct sffn_quoted text;
        sffn_quote(&text, name, bytes);
        *unknown_activation = sffn_arena_text(arena, text.text, strlen(text.text));
        return *unknown_activation ? SFFN_OK : sffn_no_memory(json->file->ctx, json->file->path);
    }
    if (info->activation == SFFN_ACT_RELU && is_drelu_family(info->architecture))
        info->activation = SFFN_ACT_DRELU;
    if (info->activation != SFFN_ACT_FATRELU && info->activation != SFFN_ACT_SHIFTED_RELU)
        return SFFN_OK;
    /* A threshold of 0 in place of a forgotten one would run, and be wrong. */
    const uint32_t param = sffn_json_get(json, 0, "hidden_act_param");
    if (!param || json->nodes[param].kind == SFFN_JSON_NULL)
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, node),
                              "the activation has a threshold, but there is no hidden_act_param");
    const sffn_status status = take_float(json, 0, "hidden_act_param", &info->act_threshold);
    if (status == SFFN_OK && !(info->act_threshold >= 0.0f))
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, param),
                              "hidden_act_param is negative");
    return status;
}

sffn_status sffn_hf_read_config(const struct sffn_json *config, struct sffn_arena *arena,
                                sffn_model_info *info, const char **unknown_activation)
{
    const struct {
        const char *key;
        uint32_t *value;
    } sizes[] = {
        {"num_hidden_layers", &info->n_layers},
        {"hidden_size", &info->d_model},
        {"ffn_dim", &info->d_ff},
        {"intermediate_size", &info->d_ff},
        {"num_attention_heads", &info->n_heads},
        {"num_key_value_heads", &info->n_kv_heads},
        {"head_dim", &info->head_dim},
        {"vocab_size", &info->n_vocab},
        {"max_position_embeddings", &info->n_context},
    };
    *unknown_activation = NULL;
    if (config->nodes[0].kind != SFFN_JSON_OBJECT)
        return sffn_file_fail(config->file, SFFN_ERR_FORMAT, 0, "config.json is no object");
    sffn_status status = take_architecture(config, arena, info);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && status == SFFN_OK; i++)
        status = take_u32(config, 0, sizes[i].key, sizes[i].value);
    if (status == SFFN_OK)
        status = take_float(config, 0, "rms_norm_eps", &info->rms_norm_eps);
    if (status == SFFN_OK)
        status = take_float(config, 0, "rope_theta", &info->rope_theta);
    /* Newer configs keep it in an object. */
    const uint32_t rope = sffn_json_get(config, 0, "rope_parameters");
    if (status == SFFN_OK && rope && config->nodes[rope].kind == SFFN_JSON_OBJECT)
        status = take_float(config, rope, "rope_theta", &info->rope_theta);
    if (status != SFFN_OK)
        return status;
    if (!info->n_kv_heads)
        info->n_kv_heads = info->n_heads;
    if (!info->head_dim && info->n_heads && info->d_model % info->n_heads == 0)
        info->head_dim = info->d_model / info->n_heads;
    return take_activation(config, arena, info, unknown_activation);
}

int32_t sffn_hf_meta_kind(const struct sffn_json *json, uint32_t node)
{
    int64_t value;
    switch (json->nodes[node].kind) {
    case SFFN_JSON_FALSE:
    case SFFN_JSON_TRUE:
        return SFFN_META_BOOL;
    case SFFN_JSON_NUMBER:
        return sffn_json_i64(json, node, &value) ? SFFN_META_INT : SFFN_META_FLOAT;
    case SFFN_JSON_STRING:
        return SFFN_META_STRING;
    case SFFN_JSON_ARRAY:
        return SFFN_META_ARRAY;
    default:
        return SFFN_META_NONE;
    }
}

#define MAX_KEY 255

/* Depth is bounded by the parser's. `prefix` has `used` bytes and room for MAX_KEY. */
static sffn_status add_metas(const struct sffn_json *json, uint32_t object, char *prefix,
                             size_t used, struct sffn_arena *arena, struct sffn_parts *parts)
{
    for (uint32_t key = object + 1; key < json->nodes[object].end; key = json->nodes[key + 1].end) {
        size_t bytes;
        const uint32_t node = key + 1;
        const char *text = sffn_json_text(json, key, &bytes);
        if (bytes >= MAX_KEY - used || memchr(text, 0, bytes))
            return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, key),
                                  "a key is longer than %d bytes or has a zero byte", MAX_KEY);
        memcpy(prefix + used, text, bytes);
        if (json->nodes[node].kind == SFFN_JSON_OBJECT) {
            prefix[used + bytes] = '.';
            const sffn_status status =
                add_metas(json, node, prefix, used + bytes + 1, arena, parts);
            if (status != SFFN_OK)
                return status;
            continue;
        }
        struct sffn_meta *meta = &parts->metas[parts->n_metas++];
        meta->key = sffn_arena_text(arena, prefix, used + bytes);
        if (!meta->key)
            return sffn_no_memory(json->file->ctx, json->file->path);
        meta->json = json;
        meta->node = node;
        meta->kind = sffn_hf_meta_kind(json, node);
        meta->n = 1;
        if (meta->kind != SFFN_META_ARRAY)
            continue;
        const uint32_t n = json->nodes[node].bytes;
        meta->n = n;
        for (uint32_t i = node + 1; i < json->nodes[node].end; i = json->nodes[i].end) {
            const int32_t kind = sffn_hf_meta_kind(json, i);
            if (i == node + 1)
                meta->element_kind = kind;
            else if (meta->element_kind != kind)
                meta->element_kind = SFFN_META_NONE;
        }
    }
    return SFFN_OK;
}

sffn_status sffn_hf_read_metas(const struct sffn_json *config, struct sffn_arena *arena,
                               struct sffn_parts *parts)
{
    char prefix[MAX_KEY + 1];
    size_t n = 0;
    for (uint32_t i = 0; i < config->n_nodes; i++)
        if (config->nodes[i].kind == SFFN_JSON_OBJECT)
            n += config->nodes[i].bytes;
    parts->metas = sffn_arena_alloc(arena, n, sizeof(*parts->metas));
    if (!parts->metas)
        return sffn_no_memory(config->file->ctx, config->file->path);
    parts->n_metas = 0;
    return add_metas(config, 0, prefix, 0, arena, parts);
}
