/* llama_load.c  Makes a decoder's objects from a model file. The FFN layers are made in load_ffn(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "llama.h"

static int find_tensor(const struct llama *m, const char *name, uint64_t rows, uint64_t cols,
                       sffn_tensor_info *t)
{
    sffn_status status = sffn_model_find_tensor(m->model, name, t);
    if (status != SFFN_OK)
        return cli_fail_status(m->ctx, status, NULL);
    if (t->dims[0] != rows || t->dims[1] != cols || t->dims[2] != 1 || t->dims[3] != 1)
        return cli_fail("tensor %s is %llu x %llu, expected %llu x %llu", name,
                        (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                        (unsigned long long)rows, (unsigned long long)cols);
    if (t->dtype < 0)
        return cli_fail("tensor %s has type %s, expected f32, f16, bf16, q8_0 or q4_0: 'sffn "
                        "prepare' converts it",
                        name, t->type_name);
    return CLI_OK;
}

/* Tensors of layer i, or of the whole model when i is NO_LAYER. */
#define NO_LAYER UINT32_MAX
static void tensor_name(uint32_t i, const char *name, char out[64])
{
    if (i == NO_LAYER)
        snprintf(out, 64, "%s", name);
    else
        snprintf(out, 64, "blk.%u.%s", (unsigned)i, name);
}

static int load_vector(const struct llama *m, uint32_t i, const char *short_name, uint32_t n,
                       float **out)
{
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    char name[64];
    tensor_name(i, short_name, name);
    if (find_tensor(m, name, n, 1, &t) != CLI_OK)
        return CLI_FAILED;
    *out = cli_alloc(n, sizeof **out);
    if (sffn_dtype_to_f32(t.dtype, t.data, n, *out) != SFFN_OK)
        return cli_fail("tensor %s of type %s cannot be decoded", name, t.type_name);
    return CLI_OK;
}

static int load_matrix(const struct llama *m, uint32_t i, const char *short_name, uint32_t rows,
                       uint32_t cols, sffn_matmul **out)
{
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    sffn_status status;
    char name[64];
    tensor_name(i, short_name, name);
    if (find_tensor(m, name, rows, cols, &t) != CLI_OK)
        return CLI_FAILED;
    config.n_rows = rows;
    config.n_cols = cols;
    config.weights.data = t.data;
    config.weights.dtype = t.dtype;
    status = sffn_matmul_create(m->ctx, &config, out);
    return status == SFFN_OK ? CLI_OK : cli_fail_status(m->ctx, status, name);
}

/*
 * The FFN: one call makes the layer with the rule, the selector and the plan that the file says. The config is only what the engine
 * wants otherwise.
 */
static int load_ffn(struct llama *m, uint32_t i, const struct llama_options *options)
{
    static const sffn_ffn_config defaults = SFFN_FFN_CONFIG_INIT;
    struct llama_layer *layer = &m->layers[i];
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    sffn_ffn_info info = SFFN_FFN_INFO_INIT;
    sffn_status status;
    layer->config = defaults;
    status = sffn_model_layer_config(m->model, i, &layer->config);
    if (status == SFFN_OK && options->selection != NULL) {
        layer->predictor = selection_predictor(m->ctx, options->selection, i, &layer->config);
        if (layer->predictor == NULL)
            return CLI_FAILED;
        config.predictor = layer->predictor;
        config.select = SFFN_SELECT_PREDICTOR;
    }
    config.dense_tokens = options->dense_tokens;
    if (status == SFFN_OK)
        status = sffn_ffn_create_from_model(m->ctx, m->model, i, &config, &layer->ffn);
    if (status != SFFN_OK)
        return cli_fail_status(m->ctx, status, NULL);
    sffn_ffn_get_info(layer->ffn, &info);
    layer->select_input = info.select_input;
    if (info.select_input == SFFN_INPUT_FIRST_LAYER)
        return cli_fail("the selector of layer %u reads the first layer's input, which this "
                        "program does not keep",
                        (unsigned)i);
    if (layer->config.d_model != m->info.d_model)
        return cli_fail("layer %u has d_model %u, expected %u", (unsigned)i,
                        (unsigned)layer->config.d_model, (unsigned)m->info.d_model);
    return CLI_OK;
}

static int load_layer(struct llama *m, uint32_t i, const struct llama_options *options)
{
    struct llama_layer *layer = &m->layers[i];
    uint32_t d = m->info.d_model;
    return load_vector(m, i, "attn_norm.weight", d, &layer->attn_norm) ||
           load_matrix(m, i, "attn_q.weight", m->q_dim, d, &layer->q) ||
           load_matrix(m, i, "attn_k.weight", m->kv_dim, d, &layer->k) ||
           load_matrix(m, i, "attn_v.weight", m->kv_dim, d, &layer->v) ||
           load_matrix(m, i, "attn_output.weight", d, m->q_dim, &layer->o) ||
           load_vector(m, i, "ffn_norm.weight", d, &layer->ffn_norm) || load_ffn(m, i, options);
}

/* cos and sin of position * theta^(-2 i / head_dim), in double before rounding. */
static int make_rope(struct llama *m)
{
    uint32_t half = m->info.head_dim / 2;
    float *divisors = NULL; /* per frequency, of models trained for longer contexts */
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    if (sffn_model_find_tensor(m->model, "rope_freqs.weight", &t) == SFFN_OK &&
        load_vector(m, NO_LAYER, "rope_freqs.weight", half, &divisors) != CLI_OK)
        return CLI_FAILED;
    m->rope_cos = cli_alloc((size_t)m->n_positions * half, sizeof *m->rope_cos);
    m->rope_sin = cli_alloc((size_t)m->n_positions * half, sizeof *m->rope_sin);
    for (uint32_t position = 0; position < m->n_positions; position++)
        for (uint32_t i = 0; i < half; i++) {
            double angle = position * pow(m->info.rope_theta, -2.0 * i / m->info.head_dim);
            if (divisors != NULL)
                angle /= divisors[i];
            m->rope_cos[(size_t)position * half + i] = (float)cos(angle);
            m->rope_sin[(size_t)position * half + i] = (float)sin(angle);
        }
    free(divisors);
    return CLI_OK;
}

/* Refuses what this decoder would get wrong silently. */
static int check_model(const struct llama *m)
{
    static const char *const known[] = {"attn_norm.weight", "attn_q.weight",      "attn_k.weight",
                                        "attn_v.weight",    "attn_output.weight", "ffn_norm.weight",
                                        "attn_rot_embd"};
    static const char *const scaling_keys[] = {"llama.rope.scaling.type", "rope_scaling.type",
                                               "rope_scaling.rope_type"};
    const sffn_model_info *info = &m->info;
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    const char *scaling;
    size_t n_bytes;
    int64_t rope_dim;
    if (strcmp(info->architecture, "llama") != 0)
        return cli_fail("the model's architecture is '%s', expected 'llama'", info->architecture);
    if (info->n_layers > info->n_tensors)
        return cli_fail("the file names %u layers but has %zu tensors only",
                        (unsigned)info->n_layers, info->n_tensors);
    if (info->n_layers == 0 || info->n_heads == 0 || info->n_kv_heads == 0 ||
        info->n_heads % info->n_kv_heads != 0 || info->head_dim == 0 || info->head_dim % 2 != 0 ||
        (uint64_t)info->n_heads * info->head_dim > INT32_MAX || !(info->rope_theta > 0.0f) ||
        !(info->rms_norm_eps >= 0.0f))
        return cli_fail("the model has %u layers, %u heads, %u key-value heads of %u, rope theta "
                        "%g, expected heads a multiple of "
                        "key-value heads, an even size, and all above 0",
                        (unsigned)info->n_layers, (unsigned)info->n_heads,
                        (unsigned)info->n_kv_heads, (unsigned)info->head_dim,
                        (double)info->rope_theta);
    if (sffn_model_get_int(m->model, "llama.rope.dimension_count", 0, &rope_dim) == SFFN_OK &&
        rope_dim != (int64_t)info->head_dim)
        return cli_fail("llama.rope.dimension_count is %lld, expected the head size %u",
                        (long long)rope_dim, (unsigned)info->head_dim);
    for (size_t i = 0; i < sizeof scaling_keys / sizeof scaling_keys[0]; i++)
        if (sffn_model_get_string(m->model, scaling_keys[i], 0, &scaling, &n_bytes) == SFFN_OK &&
            !(n_bytes == 4 && memcmp(scaling, "none", 4) == 0) &&
            !(n_bytes == 7 && memcmp(scaling, "default", 7) == 0))
            return cli_fail("%s is '%.*s', expected none", scaling_keys[i],
                            (int)(n_bytes < 64 ? n_bytes : 64), scaling);
    for (size_t i = 0; i < info->n_tensors && sffn_model_get_tensor(m->model, i, &t) == SFFN_OK;
         i++) {
        const char *name = strncmp(t.name, "blk.0.attn_", 11) == 0 ? t.name + 6 : NULL;
        for (size_t j = 0; name != NULL && j < sizeof known / sizeof known[0]; j++)
            if (strncmp(name, known[j], strlen(known[j])) == 0)
                name = NULL;
        if (name != NULL)
            return cli_fail("tensor %s is not part of the llama layers that this program runs",
                            t.name);
    }
    return CLI_OK;
}

struct llama *llama_create(sffn_context *ctx, const sffn_model *model,
                           const struct llama_options *options)
{
    static const sffn_model_info no_info = SFFN_MODEL_INFO_INIT;
    struct llama *m = cli_alloc(1, sizeof *m);
    sffn_status status;
    size_t cache;
    int failed;
    m->ctx = ctx;
    m->model = model;
    m->info = no_info;
    m->select = SFFN_SELECT_DEFAULT;
    m->n_positions = options->n_positions;
    status = sffn_model_get_info(model, &m->info);
    failed = status != SFFN_OK ? cli_fail_status(ctx, status, NULL) : check_model(m);
    if (failed) {
        free(m);
        return NULL;
    }
    m->q_dim = m->info.n_heads * m->info.head_dim;
    m->kv_dim = m->info.n_kv_heads * m->info.head_dim;
    m->group = m->info.n_heads / m->info.n_kv_heads;
    m->layers = cli_alloc(m->info.n_layers, sizeof *m->layers);
    m->stats = cli_alloc(m->info.n_layers, sizeof *m->stats);
    failed = load_matrix(m, NO_LAYER, "token_embd.weight", m->info.n_vocab, m->info.d_model,
                         &m->embedding) ||
             load_vector(m, NO_LAYER, "output_norm.weight", m->info.d_model, &m->norm);
    if (!failed && m->info.is_tied)
        m->output = m->embedding;
    else if (!failed)
        failed =
            load_matrix(m, NO_LAYER, "output.weight", m->info.n_vocab, m->info.d_model, &m->output);
    for (uint32_t i = 0; !failed && i < m->info.n_layers; i++)
        failed = load_layer(m, i, options);
    if (failed || make_rope(m) != CLI_OK) {
        llama_destroy(m);
        return NULL;
    }
    cache = (size_t)m->info.n_layers * m->n_positions;
    m->k_cache = cli_alloc(cache, m->kv_dim * sizeof(float));
    m->v_cache = cli_alloc(cache, m->kv_dim * sizeof(float));
    m->x = cli_alloc(LLAMA_MAX_BATCH, m->info.d_model * sizeof(float));
    m->x_norm = cli_alloc(LLAMA_MAX_BATCH, m->info.d_model * sizeof(float));
    m->select_x = cli_alloc(LLAMA_MAX_BATCH, m->info.d_model * sizeof(float));
    m->y = cli_alloc(LLAMA_MAX_BATCH, m->info.d_model * sizeof(float));
    m->q = cli_alloc(LLAMA_MAX_BATCH, m->q_dim * sizeof(float));
    m->attention = cli_alloc(LLAMA_MAX_BATCH, m->q_dim * sizeof(float));
    m->scores = cli_alloc(m->n_positions, sizeof(float));
    return m;
}

void llama_destroy(struct llama *m)
{
    if (m == NULL)
        return;
    for (uint32_t i = 0; i < m->info.n_layers; i++) {
        struct llama_layer *layer = &m->layers[i];
        free(layer->attn_norm);
        free(layer->ffn_norm);
        sffn_matmul_destroy(layer->q);
        sffn_matmul_destroy(layer->k);
        sffn_matmul_destroy(layer->v);
        sffn_matmul_destroy(layer->o);
        sffn_ffn_destroy(layer->ffn);
        sffn_predictor_destroy(layer->predictor);
    }
    if (m->output != m->embedding)
        sffn_matmul_destroy(m->output);
    sffn_matmul_destroy(m->embedding);
    float *const floats[] = {m->norm,      m->rope_cos, m->rope_sin, m->k_cache,
                             m->v_cache,   m->x,        m->x_norm,   m->q,
                             m->attention, m->y,        m->scores,   m->select_x};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++)
        free(floats[i]);
    free(m->layers);
    free(m->stats);
    free(m);
}
