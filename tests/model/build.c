#include "build.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void die(const char *what)
{
    fprintf(stderr, "test set-up failed: %s\n", what);
    abort();
}

void b_raw(struct buf *b, const void *data, size_t n)
{
    if (b->n + n > b->capacity) {
        b->capacity = (b->n + n) * 2;
        b->data = realloc(b->data, b->capacity);
        if (!b->data)
            die("memory");
    }
    if (n)
        memcpy(b->data + b->n, data, n);
    b->n += n;
}

void b_u8(struct buf *b, uint8_t v)
{
    b_raw(b, &v, 1);
}

void b_u32(struct buf *b, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        b_u8(b, (uint8_t)(v >> (8 * i)));
}

void b_u64(struct buf *b, uint64_t v)
{
    b_u32(b, (uint32_t)v);
    b_u32(b, (uint32_t)(v >> 32));
}

void b_f32(struct buf *b, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    b_u32(b, bits);
}

void b_fill(struct buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        b_u8(b, (uint8_t)(i * 37 + 11));
}

void b_pad(struct buf *b, size_t alignment)
{
    while (b->n % alignment)
        b_u8(b, 0);
}

void b_text(struct buf *b, const char *text)
{
    b_u64(b, strlen(text));
    b_raw(b, text, strlen(text));
}

void b_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){NULL, 0, 0};
}

void g_head(struct buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    b_raw(b, "GGUF", 4);
    b_u32(b, version);
    b_u64(b, n_tensors);
    b_u64(b, n_keys);
}

void g_key(struct buf *b, const char *key, uint32_t type)
{
    b_text(b, key);
    b_u32(b, type);
}

void g_key_u32(struct buf *b, const char *key, uint32_t v)
{
    g_key(b, key, K_U32);
    b_u32(b, v);
}

void g_key_f32(struct buf *b, const char *key, float v)
{
    g_key(b, key, K_F32);
    b_f32(b, v);
}

void g_key_text(struct buf *b, const char *key, const char *v)
{
    g_key(b, key, K_STRING);
    b_text(b, v);
}

void g_key_array(struct buf *b, const char *key, uint32_t type, uint64_t n)
{
    g_key(b, key, K_ARRAY);
    b_u32(b, type);
    b_u64(b, n);
}

void g_tensor(struct buf *b, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
              uint64_t offset)
{
    b_text(b, name);
    b_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        b_u64(b, ne[i]);
    b_u32(b, type);
    b_u64(b, offset);
}

void g_valid(struct buf *b)
{
    static const char *const parts[] = {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight",
                                        "ffn_down.bias"};
    static const uint64_t shapes[][2] = {{32, 64}, {32, 64}, {64, 32}, {32, 1}};
    g_head(b, 3, 8, 22);
    g_key_text(b, "general.architecture", "llama");
    g_key_text(b, "general.name", "small");
    g_key_u32(b, "llama.block_count", 2);
    g_key_u32(b, "llama.embedding_length", 32);
    g_key_u32(b, "llama.feed_forward_length", 64);
    g_key_text(b, "sffn.activation", "fatrelu");
    g_key_f32(b, "sffn.act_threshold", 0.25f);
    g_key_u32(b, "sffn.act_tie", 0);
    g_key(b, "k.u8", K_U8), b_u8(b, 200);
    g_key(b, "k.i8", K_I8), b_u8(b, 0x80);
    g_key(b, "k.u16", K_U16), b_u8(b, 0xff), b_u8(b, 0xff);
    g_key(b, "k.i16", K_I16), b_u8(b, 0x00), b_u8(b, 0x80);
    g_key(b, "k.i32", K_I32), b_u32(b, 0xfffffffeu);
    g_key(b, "k.u64", K_U64), b_u64(b, UINT64_MAX);
    g_key(b, "k.i64", K_I64), b_u64(b, (uint64_t)INT64_MIN);
    g_key(b, "k.f64", K_F64), b_u64(b, UINT64_C(0x3fe0000000000000)); /* 0.5 */
    g_key(b, "k.bool", K_BOOL), b_u8(b, 1);
    g_key_array(b, "k.texts", K_STRING, 3), b_text(b, "one"), b_text(b, ""), b_text(b, "three");
    g_key_array(b, "k.ints", K_I16, 2), b_raw(b, "\1\0\377\377", 4);
    g_key_array(b, "k.floats", K_F32, 2), b_f32(b, 1.5f), b_f32(b, -2.0f);
    g_key_array(b, "k.nested", K_ARRAY, 2);
    b_u32(b, K_U8), b_u64(b, 2), b_raw(b, "ab", 2);
    b_u32(b, K_STRING), b_u64(b, 1), b_text(b, "deep");
    g_key_array(b, "k.empty", K_STRING, 0);
    uint64_t offset = 0;
    for (int layer = 0; layer < 2; layer++) {
        for (int i = 0; i < 4; i++) {
            char name[64];
            snprintf(name, sizeof(name), "blk.%d.%s", layer, parts[i]);
            g_tensor(b, name, i == 3 ? 1 : 2, shapes[i], 0, offset);
            offset += shapes[i][0] * shapes[i][1] * 4;
        }
    }
    b_pad(b, 32);
    for (uint64_t i = 0; i < offset / 4; i++)
        b_f32(b, (float)(int)(i * 2654435761u % 201) / 100.0f - 1.0f);
}

void s_file(struct buf *b, const char *header, size_t n)
{
    b_text(b, header);
    b_fill(b, n);
}

void s_valid(struct buf *b)
{
    s_file(b,
           "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"\\u00e4\\n\"},"
           "\"model.layers.0.mlp.up_proj.weight\":{\"dtype\":\"F32\",\"shape\":[4,3],\"data_"
           "offsets\":[0,48]},"
           "\"model.layers.0.mlp.down_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[3,4],\"data_"
           "offsets\":[48,72]},"
           "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[72,80]},"
           "\"nothing\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[80,80]}}   ",
           80);
}

/* ---- files ---- */

const char *folder_make(void)
{
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    const char *base = getenv("TMPDIR");
    snprintf(path, 256, "%s/sffn-model-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(path))
        die("mkdtemp");
    return path;
}

void folder_remove(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove(path_of(folder, e->d_name));
    if (dir)
        closedir(dir);
    rmdir(folder);
}

const char *path_of(const char *folder, const char *name)
{
    static char paths[8][640];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, 640, "%s/%s", folder, name);
    return path;
}

void file_write(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || (n && fwrite(data, 1, n, f) != n) || fclose(f) != 0)
        die(path);
}

void file_write_text(const char *path, const char *text)
{
    file_write(path, text, strlen(text));
}

int file_is_there(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

/* ---- allocator ---- */

static void *heap_alloc(void *user, size_t bytes, size_t alignment)
{
    struct heap *heap = user;
    void *ptr = NULL;
    heap->calls++;
    if (heap->calls == heap->fail_at || posix_memalign(&ptr, alignment, bytes) != 0)
        return NULL;
    memset(ptr, 0xa5, bytes < 65536 ? bytes : 65536);
    heap->live += bytes;
    if (heap->live > heap->peak)
        heap->peak = heap->live;
    return ptr;
}

static void heap_free(void *user, void *ptr, size_t bytes)
{
    struct heap *heap = user;
    heap->live -= bytes;
    free(ptr);
}

sffn_context *heap_context(struct heap *heap, uint32_t n_threads)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    sffn_context *ctx = NULL;
    *heap = (struct heap){0, 0, 0, 0};
    config.allocator.user = heap;
    config.allocator.alloc = heap_alloc;
    config.allocator.free = heap_free;
    config.n_threads = n_threads;
    if (sffn_context_create(&config, &ctx) != SFFN_OK)
        die(sffn_context_last_error(NULL));
    heap_mark(heap);
    return ctx;
}

void heap_mark(struct heap *heap)
{
    heap->peak = heap->live;
    heap->calls = 0;
}

/* ---- walking ---- */

static uint64_t sum_bytes(uint64_t sum, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++)
        sum = sum * 31 + p[i];
    return sum;
}

static uint64_t sum_floats(uint64_t sum, const float *v, size_t n)
{
    return v ? sum_bytes(sum, v, n * sizeof(*v)) : sum;
}

static uint64_t sum_matrix(uint64_t sum, const sffn_weights *w, size_t n_rows, size_t n_cols)
{
    return w->data ? sum_bytes(sum, w->data, n_rows * sffn_dtype_row_bytes(w->dtype, n_cols)) : sum;
}

/* Whatever the configs point to lies in the file or in the model's memory: read it. */
static uint64_t walk_selectors(const sffn_model *model, uint32_t layer)
{
    sffn_predictor_config predictor = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_router_config router = SFFN_ROUTER_CONFIG_INIT;
    sffn_tensor_info up = SFFN_TENSOR_INFO_INIT;
    int32_t plan = 0;
    char name[64];
    uint64_t sum = (uint64_t)sffn_model_layer_plan(model, layer, &plan) + (uint64_t)plan;
    if (sffn_model_layer_predictor_config(model, layer, &predictor) == SFFN_OK) {
        const sffn_predictor_config *p = &predictor;
        sum = sum_floats(sum, p->thresholds, p->d_ff);
        sum = sum_floats(sum, p->b1, p->rank);
        sum = sum_floats(sum, p->b2, p->d_ff);
        sum = sum_matrix(sum, &p->w1, p->rank, p->d_model);
        sum = sum_matrix(sum, &p->w2, p->d_ff, p->rank);
    }
    if (sffn_model_layer_router_config(model, layer, &router) == SFFN_OK) {
        const sffn_router_config *r = &router;
        sum = sum_floats(sum, r->bias, r->n_experts);
        sum = sum_floats(sum, r->hidden_bias, r->n_hidden);
        sum = sum_matrix(sum, &r->weights, r->n_experts, r->n_hidden ? r->n_hidden : r->d_model);
        sum = sum_matrix(sum, &r->hidden_weights, r->n_hidden, r->d_model);
    }
    snprintf(name, sizeof(name), "blk.%u.ffn_up.weight", (unsigned)layer);
    if (sffn_model_find_tensor(model, name, &up) == SFFN_OK && up.dims[0] <= 65536) {
        uint32_t *order = calloc((size_t)up.dims[0], sizeof(*order));
        if (!order)
            die("calloc");
        if (sffn_model_layer_permutation(model, layer, order) == SFFN_OK)
            sum = sum_bytes(sum, order, (size_t)up.dims[0] * sizeof(*order));
        free(order);
    }
    return sum;
}

uint64_t model_walk(const sffn_model *model)
{
    uint64_t sum = 0;
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    if (sffn_model_get_info(model, &info) != SFFN_OK)
        die("get_info");
    sum = sum_bytes(sum, info.architecture, strlen(info.architecture));
    sum = sum_bytes(sum, info.name, strlen(info.name));
    for (size_t i = 0; i < info.n_tensors; i++) {
        sffn_tensor_info t = SFFN_TENSOR_INFO_INIT, again = SFFN_TENSOR_INFO_INIT;
        if (sffn_model_get_tensor(model, i, &t) != SFFN_OK)
            die("get_tensor");
        sum = sum_bytes(sum, t.data, (size_t)t.bytes);
        sum =
            sum_bytes(sum, t.name, strlen(t.name)) + sum_bytes(0, t.file_name, strlen(t.file_name));
        if (sffn_model_find_tensor(model, t.name, &again) != SFFN_OK || again.data != t.data ||
            sffn_model_find_tensor(model, t.file_name, &again) != SFFN_OK)
            die("find_tensor");
    }
    const char *key;
    int32_t kind, element;
    uint64_t n;
    for (size_t i = 0; sffn_model_get_meta(model, i, &key, &kind, &element, &n) == SFFN_OK; i++) {
        /* The first elements, the last, and one too many. */
        for (uint64_t e = 0; e <= n; e = e < 4 || e + 1 >= n ? e + 1 : n - 1) {
            int64_t integer = 0;
            double number = 0.0;
            const char *text = NULL;
            size_t bytes = 0;
            sum +=
                (uint64_t)sffn_model_get_int(model, key, (size_t)e, &integer) + (uint64_t)integer;
            sum += (uint64_t)sffn_model_get_float(model, key, (size_t)e, &number);
            if (sffn_model_get_string(model, key, (size_t)e, &text, &bytes) == SFFN_OK)
                sum = sum_bytes(sum, text, bytes);
        }
        sum += sffn_model_meta_count(model, key);
    }
    for (uint32_t layer = 0; layer < info.n_layers && layer < 4; layer++) {
        sum += walk_selectors(model, layer);
        sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
        if (sffn_model_layer_config(model, layer, &config) != SFFN_OK)
            continue;
        const sffn_weights *weights[3] = {&config.gate, &config.up, &config.down};
        for (int i = 0; i < 3; i++)
            if (weights[i]->data)
                sum = sum_bytes(
                    sum, weights[i]->data,
                    sffn_dtype_row_bytes(weights[i]->dtype, (size_t)config.d_model * config.d_ff));
        if (config.gate_bias)
            sum = sum_bytes(sum, config.gate_bias, config.d_ff * sizeof(float));
        if (config.up_bias)
            sum = sum_bytes(sum, config.up_bias, config.d_ff * sizeof(float));
        if (config.down_bias)
            sum = sum_bytes(sum, config.down_bias, config.d_model * sizeof(float));
    }
    return sum;
}
