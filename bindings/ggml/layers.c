/* layers.c  Packs the FFN layers of ggml models, from ggml's tensors or from a GGUF file of ours, and tells about them. */
#include "layers.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"

#include "sffn_ggml.h"

struct settings settings;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int n_users;
static sffn_context *owner; /* of the packed layers */
static sffn_model *model;   /* settings.model, open; NULL: none */
static struct layer **layers;
static size_t n_layers;
static atomic_uint generation;

void log_line(int level, const char *format, ...)
{
    ggml_log_callback callback;
    void *user;
    char text[1024];
    va_list args;
    const int start = snprintf(text, sizeof text, "sparseffn: ");
    va_start(args, format);
    vsnprintf(text + start, sizeof text - (size_t)start - 1, format, args);
    va_end(args);
    strcat(text, "\n");
    ggml_log_get(&callback, &user);
    if (callback)
        callback((enum ggml_log_level)level, text, user);
}

void settings_read(void)
{
    const char *from = getenv("SFFN_GGML_DENSE_FROM"), *all = getenv("SFFN_GGML_ALL");
    const char *path = getenv("SFFN_GGML_MODEL");
    free(settings.model);
    settings.model = path && path[0] ? strdup(path) : NULL;
    settings.dense_from = from ? strtoll(from, NULL, 10) : 8;
    settings.with_dense = all && strcmp(all, "0") != 0;
    if (settings.dense_from < 1) {
        log_line(GGML_LOG_LEVEL_ERROR,
                 "SFFN_GGML_DENSE_FROM is '%s'; expected a number of tokens > 0. Using 8", from);
        settings.dense_from = 8;
    }
}

static void close_all(void)
{
    for (size_t i = 0; i < n_layers; i++) {
        for (uint32_t e = 0; layers[i]->experts && e < layers[i]->n_experts; e++)
            sffn_ffn_destroy(layers[i]->experts[e]);
        free(layers[i]->experts);
        free(layers[i]);
    }
    free(layers);
    layers = NULL;
    n_layers = 0;
    sffn_model_close(model);
    model = NULL;
    sffn_context_destroy(owner);
    owner = NULL;
}

static int open_all(void)
{
    if (sffn_context_create(NULL, &owner) != SFFN_OK) {
        log_line(GGML_LOG_LEVEL_ERROR, "%s", sffn_context_last_error(NULL));
        return 0;
    }
    /* A file that was asked for and cannot be used is an error: the model would run with other thresholds than intended. */
    if (settings.model && sffn_model_open(owner, settings.model, &model) != SFFN_OK) {
        log_line(GGML_LOG_LEVEL_ERROR, "SFFN_GGML_MODEL: %s", sffn_context_last_error(owner));
        close_all();
        return 0;
    }
    return 1;
}

int layers_open(void)
{
    pthread_mutex_lock(&lock);
    const int is_open = n_users > 0 || open_all();
    n_users += is_open;
    pthread_mutex_unlock(&lock);
    return is_open;
}

void layers_close(void)
{
    pthread_mutex_lock(&lock);
    if (--n_users == 0)
        close_all();
    pthread_mutex_unlock(&lock);
}

/* ---- who a layer is ---- */

static uint64_t hash_some(uint64_t hash, const struct ggml_tensor *t)
{
    enum { PLACES = 4, BYTES = 16 };
    const size_t bytes = ggml_nbytes(t);
    for (size_t place = 0; place < PLACES && bytes >= BYTES; place++) {
        const unsigned char *at =
            (const unsigned char *)t->data + (bytes - BYTES) / (PLACES - 1) * place;
        for (size_t i = 0; i < BYTES; i++)
            hash = (hash ^ at[i]) * 0x100000001b3u;
    }
    return hash;
}

static uint64_t hash_down(const struct ggml_tensor *down)
{
    return hash_some(0xcbf29ce484222325u, down);
}

static uint64_t hash_inner(const struct ffn_match *m)
{
    const uint64_t hash = hash_some(0xcbf29ce484222325u + (uint64_t)m->activation, m->up);
    return m->gate ? hash_some(hash, m->gate) : hash;
}

static struct layer *lookup(const struct ffn_match *m)
{
    for (size_t i = 0; i < n_layers; i++)
        if (layers[i]->down == m->down->data && layers[i]->up == m->up->data &&
            layers[i]->gate == (m->gate ? m->gate->data : NULL))
            return layers[i];
    return NULL;
}

/* A layer that has only been seen with something else around its products. */
static struct layer *lookup_refused(const struct ggml_tensor *down)
{
    for (size_t i = 0; i < n_layers; i++)
        if (layers[i]->down == down->data && !layers[i]->up)
            return layers[i];
    return NULL;
}

/* ---- packing ---- */

/* "blk.7.ffn_down.weight" -> "blk.7" */
static void name_layer(struct layer *layer, const struct ggml_tensor *down)
{
    const char *end = strstr(down->name, ".ffn_");
    const size_t length = end ? (size_t)(end - down->name) : strlen(down->name);
    snprintf(layer->name, sizeof layer->name, "%.*s", (int)length, down->name);
    if (!layer->name[0])
        snprintf(layer->name, sizeof layer->name, "ffn");
}

static void refuse(struct layer *layer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void refuse(struct layer *layer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(layer->reason, sizeof layer->reason, format, args);
    va_end(args);
}

static int sffn_type(enum ggml_type type)
{
    switch (type) {
    case GGML_TYPE_F32:
        return SFFN_F32;
    case GGML_TYPE_F16:
        return SFFN_F16;
    case GGML_TYPE_BF16:
        return SFFN_BF16;
    case GGML_TYPE_Q8_0:
        return SFFN_Q8_0;
    case GGML_TYPE_Q4_0:
        return SFFN_Q4_0;
    default:
        return -1;
    }
}

/* Rows of one of ggml's matrices, or copies of them as q8_0 when there are no kernels for their type. */
static int take_rows(const struct ggml_tensor *t, const char *data, int64_t n_rows, sffn_weights *w,
                     void **copy)
{
    w->dtype = sffn_type(t->type);
    w->row_bytes = t->nb[1];
    w->data = data;
    if (w->dtype >= 0)
        return 1;
    const size_t n = (size_t)t->ne[0], row_bytes = sffn_dtype_row_bytes(SFFN_Q8_0, n);
    char *rows = malloc(row_bytes * (size_t)n_rows);
    float *floats = malloc(n * sizeof *floats);
    int is_done = rows && floats && row_bytes;
    for (int64_t r = 0; is_done && r < n_rows; r++) {
        ggml_get_type_traits(t->type)->to_float(data + (size_t)r * t->nb[1], floats, t->ne[0]);
        is_done =
            sffn_dtype_from_f32(SFFN_Q8_0, floats, n, rows + (size_t)r * row_bytes) == SFFN_OK;
    }
    free(floats);
    *copy = rows;
    w->data = rows;
    w->dtype = SFFN_Q8_0;
    w->row_bytes = 0;
    return is_done;
}

/* The down matrix [d_model][d_ff]. It has to be turned, which rounds quantised weights again: to q8_0, because a second rounding to four bits would cost too much. */
static int take_down(const struct ggml_tensor *t, const char *data, sffn_weights *w, void **copy)
{
    const size_t d_ff = (size_t)t->ne[0], d_model = (size_t)t->ne[1];
    w->dtype = sffn_type(t->type);
    w->row_bytes = t->nb[1];
    w->layout = SFFN_LAYOUT_COLUMNS;
    w->data = data;
    if (w->dtype >= 0 && w->dtype != SFFN_Q4_0)
        return 1;
    const size_t row_bytes = sffn_dtype_row_bytes(SFFN_Q8_0, d_model);
    float *turned = malloc(d_ff * d_model * sizeof *turned), *row = malloc(d_ff * sizeof *row);
    char *rows = malloc(row_bytes * d_ff);
    int is_done = turned && row && rows && row_bytes;
    for (size_t j = 0; is_done && j < d_model; j++) {
        ggml_get_type_traits(t->type)->to_float(data + j * t->nb[1], row, t->ne[0]);
        for (size_t i = 0; i < d_ff; i++)
            turned[i * d_model + j] = row[i];
    }
    for (size_t i = 0; is_done && i < d_ff; i++)
        is_done = sffn_dtype_from_f32(SFFN_Q8_0, turned + i * d_model, d_model,
                                      rows + i * row_bytes) == SFFN_OK;
    free(turned);
    free(row);
    *copy = rows;
    w->data = rows;
    w->dtype = SFFN_Q8_0;
    w->layout = SFFN_LAYOUT_ROWS;
    w->row_bytes = 0;
    return is_done;
}

static int is_readable(const struct ggml_tensor *t)
{
    return !t || (ggml_backend_buffer_is_host(t->buffer) &&
                  (sffn_type(t->type) >= 0 || ggml_get_type_traits(t->type)->to_float));
}

static const float *floats_of(const struct ggml_tensor *bias)
{
    return bias ? (const float *)bias->data : NULL;
}

static sffn_status pack_expert(const struct layer *layer, const struct ffn_match *m, int64_t expert,
                               sffn_ffn **ffn)
{
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    void *copies[3] = {NULL, NULL, NULL};
    const char *up = (const char *)m->up->data + (size_t)expert * m->up->nb[2];
    const struct ggml_tensor *gate = m->is_joined ? m->up : m->gate;
    config.d_model = (uint32_t)m->d_model;
    config.d_ff = (uint32_t)m->d_ff;
    config.name = layer->name;
    config.activation = m->activation;
    config.dense_tokens = 0;
    config.gate_bias = floats_of(m->gate_bias);
    config.up_bias = floats_of(m->up_bias);
    if (m->is_joined && m->up_bias) {
        config.gate_bias = floats_of(m->up_bias);
        config.up_bias = floats_of(m->up_bias) + m->d_ff;
    }
    int is_done = 1;
    if (gate)
        is_done = take_rows(
            gate, m->is_joined ? up : (const char *)gate->data + (size_t)expert * gate->nb[2],
            m->d_ff, &config.gate, &copies[0]);
    is_done = is_done &&
              take_rows(m->up, m->is_joined ? up + (size_t)m->d_ff * m->up->nb[1] : up, m->d_ff,
                        &config.up, &copies[1]) &&
              take_down(m->down, (const char *)m->down->data + (size_t)expert * m->down->nb[2],
                        &config.down, &copies[2]);
    const sffn_status status =
        is_done ? sffn_ffn_create(owner, &config, ffn) : SFFN_ERR_OUT_OF_MEMORY;
    for (int i = 0; i < 3; i++)
        free(copies[i]);
    return status;
}

static int is_relu(int32_t activation)
{
    return activation == SFFN_ACT_RELU || activation == SFFN_ACT_FATRELU;
}

/* A layer of the file beside the model, with its thresholds and selectors. 0: failed, layer->reason says why. */
static int pack_from_file(struct layer *layer, const struct ffn_match *m, unsigned number)
{
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    if (sffn_model_layer_config(model, number, &config) != SFFN_OK) {
        refuse(layer, "%s", sffn_context_last_error(owner));
        return 0;
    }
    if (config.d_model != m->d_model || config.d_ff != m->d_ff || m->n_experts != 1 ||
        (config.gate.data != NULL) != (m->gate || m->is_joined)) {
        refuse(layer,
               "%s: layer %u has d_model %u, d_ff %u%s; the model's has %lld, %lld%s, %lld experts",
               settings.model, number, config.d_model, config.d_ff,
               config.gate.data ? "" : ", no gate", (long long)m->d_model, (long long)m->d_ff,
               m->gate || m->is_joined ? "" : ", no gate", (long long)m->n_experts);
        return 0;
    }
    if (config.activation != m->activation &&
        !(is_relu(config.activation) && is_relu(m->activation))) {
        refuse(layer, "%s has the activation %s, the model's graph %s", settings.model,
               sffn_activation_name(config.activation), sffn_activation_name(m->activation));
        return 0;
    }
    sffn_ffn_config options = SFFN_FFN_CONFIG_INIT;
    options.name = layer->name;
    options.dense_tokens = 0;
    if (sffn_ffn_create_from_model(owner, model, number, &options, &layer->experts[0]) != SFFN_OK) {
        refuse(layer, "%s", sffn_context_last_error(owner));
        return 0;
    }
    return 1;
}

static int pack_from_ggml(struct layer *layer, const struct ffn_match *m)
{
    if (!is_readable(m->up) || !is_readable(m->gate) || !is_readable(m->down)) {
        refuse(layer,
               "its weights are in a %s buffer, in an order of its own: load the model without "
               "extra buffer types (use_extra_bufts = false, "
               "--no-repack), or name its GGUF file in SFFN_GGML_MODEL",
               ggml_backend_buffer_name(m->up->buffer));
        return 0;
    }
    for (int64_t e = 0; e < m->n_experts; e++)
        if (pack_expert(layer, m, e, &layer->experts[e]) != SFFN_OK) {
            refuse(layer, "%s", sffn_context_last_error(owner));
            return 0;
        }
    return 1;
}

static int has_zeros(int32_t activation)
{
    return is_relu(activation) || activation == SFFN_ACT_RELU2 || activation == SFFN_ACT_DRELU;
}

static const char *selector_name(const sffn_ffn_info *info)
{
    switch (info->select) {
    case SFFN_SELECT_PREDICTOR:
        return "predictor";
    case SFFN_SELECT_ROUTER:
        return "router";
    case SFFN_SELECT_GATE:
        return "gate";
    default:
        return "none";
    }
}

static uint64_t packed_bytes(void)
{
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    return sffn_context_get_info(owner, &info) == SFFN_OK ? info.weight_bytes : 0;
}

static int pack(struct layer *layer, const struct ffn_match *m)
{
    unsigned number = 0;
    const sffn_ffn_info init = SFFN_FFN_INFO_INIT;
    const uint64_t before = packed_bytes();
    const int in_file = model && sscanf(m->down->name, "blk.%u.", &number) == 1;
    layer->info = init;
    layer->n_experts = (uint32_t)m->n_experts;
    layer->experts = calloc(layer->n_experts, sizeof(*layer->experts));
    if (!layer->experts) {
        refuse(layer, "out of memory");
        return 0;
    }
    if (!in_file && !has_zeros(m->activation) && !settings.with_dense) {
        refuse(layer, "%s has no zeros, and there is no file with thresholds (SFFN_GGML_MODEL)",
               sffn_activation_name(m->activation));
        return 0;
    }
    if (!(in_file ? pack_from_file(layer, m, number) : pack_from_ggml(layer, m)))
        return 0;
    sffn_ffn_get_info(layer->experts[0], &layer->info);
    if (layer->info.select_input != SFFN_INPUT_FFN) {
        refuse(layer, "its selector reads another tensor than the input of the FFN");
        return 0;
    }
    if (layer->info.dense_reason != SFFN_DENSE_NOT && !settings.with_dense) {
        refuse(layer,
               layer->info.dense_reason == SFFN_DENSE_PLAN
                   ? "the plan of %s says dense (%s)"
                   : "%s has no thresholds and no selector for it, and %s has no zeros",
               settings.model, sffn_activation_name(layer->info.activation));
        return 0;
    }
    layer->packed_bytes = packed_bytes() - before;
    return 1;
}

static struct layer *add_layer(void)
{
    struct layer **grown = realloc(layers, (n_layers + 1) * sizeof(*layers));
    struct layer *layer = calloc(1, sizeof *layer);
    if (grown)
        layers = grown;
    if (!grown || !layer) {
        free(layer);
        return NULL;
    }
    layers[n_layers++] = layer;
    return layer;
}

static void drop_experts(struct layer *layer)
{
    for (uint32_t e = 0; layer->experts && e < layer->n_experts; e++)
        sffn_ffn_destroy(layer->experts[e]);
    free(layer->experts);
    layer->experts = NULL;
}

/* Its model is gone, and other weights lie where its weights were. */
static void retire(struct layer *layer)
{
    drop_experts(layer);
    layer->gate = layer->up = layer->down = NULL;
    layer->is_whole = 0;
    refuse(layer, "its model was freed");
}

static void retire_stale(const struct ggml_tensor *down)
{
    for (size_t i = 0; i < n_layers; i++)
        if (layers[i]->down == down->data && layers[i]->down_hash != hash_down(down))
            retire(layers[i]);
}

static void begin_layer(struct layer *layer, const struct ggml_tensor *down)
{
    name_layer(layer, down);
    layer->down = down->data;
    layer->down_hash = hash_down(down);
}

struct layer *layers_pack(const struct ffn_match *m)
{
    pthread_mutex_lock(&lock);
    retire_stale(m->down);
    struct layer *layer = n_users > 0 ? lookup(m) : NULL;
    if (layer && layer->inner_hash != hash_inner(m)) {
        retire(layer);
        layer = NULL;
    }
    if (!layer && n_users > 0 &&
        ((layer = lookup_refused(m->down)) != NULL || (layer = add_layer()) != NULL)) {
        begin_layer(layer, m->down);
        layer->gate = m->gate ? m->gate->data : NULL;
        layer->up = m->up->data;
        layer->inner_hash = hash_inner(m);
        if (pack(layer, m)) {
            atomic_fetch_add(&generation, 1);
            log_line(GGML_LOG_LEVEL_INFO,
                     "%s: %u x %u, %s, selector %s; packed in %.1f MB, %.1f MB so far", layer->name,
                     layer->info.d_model, layer->info.d_ff,
                     sffn_activation_name(layer->info.activation), selector_name(&layer->info),
                     (double)layer->packed_bytes / 1e6, (double)packed_bytes() / 1e6);
        } else {
            drop_experts(layer);
            log_line(GGML_LOG_LEVEL_WARN, "%s runs dense in ggml: %s", layer->name, layer->reason);
        }
    }
    pthread_mutex_unlock(&lock);
    return layer;
}

struct layer *layers_find(const struct ffn_match *m)
{
    pthread_mutex_lock(&lock);
    struct layer *layer = lookup(m);
    pthread_mutex_unlock(&lock);
    return layer && layer->experts ? layer : NULL;
}

int layers_has_inner(const struct ggml_tensor *weights)
{
    int is_known = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_layers && !is_known; i++)
        is_known = (layers[i]->up == weights->data || layers[i]->gate == weights->data) &&
                   layers[i]->experts && layers[i]->is_whole;
    pthread_mutex_unlock(&lock);
    return is_known;
}

void layers_refuse(const struct ggml_tensor *down, const char *reason)
{
    if (!strstr(down->name, "ffn_down"))
        return;
    pthread_mutex_lock(&lock);
    retire_stale(down);
    struct layer *layer = NULL;
    for (size_t i = 0; i < n_layers; i++)
        if (layers[i]->down == down->data)
            layer = layers[i];
    const int is_new = !layer;
    if (is_new && n_users > 0 && (layer = add_layer()) != NULL)
        begin_layer(layer, down);
    if (layer && (is_new || layer->is_whole)) {
        layer->is_whole = 0;
        refuse(layer, "%s", reason);
        log_line(GGML_LOG_LEVEL_WARN, "%s runs dense in ggml: %s", layer->name, reason);
    }
    pthread_mutex_unlock(&lock);
}

unsigned layers_generation(void)
{
    return atomic_load(&generation);
}

int layers_reserve(sffn_context *ctx, uint32_t n_threads)
{
    int is_done = 1;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_layers; i++)
        for (uint32_t e = 0; is_done && layers[i]->experts && e < layers[i]->n_experts; e++)
            is_done = sffn_ffn_reserve_threads(ctx, layers[i]->experts[e], n_threads) == SFFN_OK;
    pthread_mutex_unlock(&lock);
    return is_done;
}

/* ---- the report ---- */

struct text {
    char *at;
    size_t bytes, length;
};

static void put(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct text *t, const char *format, ...)
{
    va_list args;
    const size_t used = t->length < t->bytes ? t->length : t->bytes;
    va_start(args, format);
    const int n = vsnprintf(t->bytes > used ? t->at + used : NULL, t->bytes - used, format, args);
    va_end(args);
    t->length += n > 0 ? (size_t)n : 0;
}

static void put_string(struct text *t, const char *s)
{
    put(t, "\"");
    for (; *s; s++)
        if ((unsigned char)*s < 32 || *s == '"' || *s == '\\')
            put(t, "\\u%04x", (unsigned char)*s);
        else
            put(t, "%c", *s);
    put(t, "\"");
}

static void put_layer(struct text *t, struct layer *layer)
{
    const sffn_ffn_info *info = &layer->info;
    const int is_sparse = layer->experts && layer->is_whole;
    const uint64_t n_tokens = layer->n_tokens;
    put(t, "{\"name\": ");
    put_string(t, layer->name);
    put(t, ", \"path\": \"%s\", \"reason\": ", is_sparse ? "sparse" : "dense");
    put_string(t, is_sparse ? "" : layer->reason);
    if (layer->experts)
        put(t,
            ", \"selector\": \"%s\", \"activation\": \"%s\", \"d_model\": %u, \"d_ff\": %u, "
            "\"n_experts\": %u, "
            "\"gate_dtype\": \"%s\", \"up_dtype\": \"%s\", \"down_dtype\": \"%s\", "
            "\"packed_bytes\": %llu, \"n_calls\": "
            "%llu, \"n_tokens\": %llu, \"density\": %.6f",
            selector_name(info), sffn_activation_name(info->activation), info->d_model, info->d_ff,
            layer->n_experts, info->is_gated ? sffn_dtype_name(info->gate_dtype) : "none",
            sffn_dtype_name(info->up_dtype), sffn_dtype_name(info->down_dtype),
            (unsigned long long)layer->packed_bytes, (unsigned long long)layer->n_calls,
            (unsigned long long)n_tokens,
            n_tokens ? (double)layer->n_active / (double)n_tokens / info->d_ff : 0.0);
    put(t, "}");
}

size_t sffn_ggml_report(char *out, size_t bytes)
{
    struct text t = {out, bytes, 0};
    pthread_mutex_lock(&lock);
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    if (owner)
        sffn_context_get_info(owner, &info);
    put(&t,
        "{\"ggml\": \"%s\", \"sparseffn\": \"%s\", \"isa\": \"%s\", \"packed_bytes\": %llu, "
        "\"dense_from\": %lld, \"layers\": [",
        ggml_version(), sffn_version_string(), info.isa ? info.isa : "",
        (unsigned long long)info.weight_bytes, (long long)settings.dense_from);
    for (size_t i = 0; i < n_layers; i++) {
        put(&t, i ? ", " : "");
        put_layer(&t, layers[i]);
    }
    put(&t, "]}");
    pthread_mutex_unlock(&lock);
    return t.length;
}
