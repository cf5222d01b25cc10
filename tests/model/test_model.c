/* sffn_model: getters, layers, every kind of wrong file, truncation, changed bytes, memory that
 * runs out, memory that stays bounded. */
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "bad_files.h"
#include "model/model.h"

/* What opening n bytes may take: the fuzz targets hold the library to the same. */
#define BOUND(n) (65536 + 48 * (size_t)(n))

struct fixture {
    struct heap heap;
    sffn_context *ctx;
    size_t base; /* live bytes of the context alone */
    const char *folder;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->ctx = heap_context(&f->heap, 1);
    f->base = f->heap.live;
    f->folder = folder_make();
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(f->heap.live, f->base);
    sffn_context_destroy(f->ctx);
    assert_int_equal(f->heap.live, 0);
    folder_remove(f->folder);
    free(f);
    return 0;
}

static const char *error_of(const struct fixture *f)
{
    return sffn_context_last_error(f->ctx);
}

#define CHECK_ERROR(f, call, wanted, words)                                                        \
    do {                                                                                           \
        const sffn_status status_ = (call);                                                        \
        if (status_ != (wanted) || !strstr(error_of(f), words))                                    \
            fail_msg("%s: %s: \"%s\", expected %s: \"%s\"", #call, sffn_status_name(status_),      \
                     error_of(f), sffn_status_name(wanted), words);                                \
    } while (0)

/* Opens an exact copy on the heap, so that the sanitizer sees a look beyond the end. Frees
 * nothing when it succeeds. */
static sffn_status open_copy(struct fixture *f, const void *data, size_t n, sffn_model **model,
                             void **copy)
{
    *copy = malloc(n ? n : 1);
    memcpy(*copy, data, n);
    return sffn_model_open_memory(f->ctx, "file", *copy, n, model);
}

static sffn_model *open_valid(struct fixture *f, void (*make)(struct buf *), const char *name)
{
    struct buf b = {NULL, 0, 0};
    sffn_model *model = NULL;
    make(&b);
    const char *path = path_of(f->folder, name);
    file_write(path, b.data, b.n);
    b_free(&b);
    if (sffn_model_open(f->ctx, path, &model) != SFFN_OK)
        fail_msg("%s", error_of(f));
    return model;
}

/* ---- right files ---- */

static void gguf_getters(void **state)
{
    struct fixture *f = *state;
    sffn_model *m = open_valid(f, g_valid, "a.gguf");
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    assert_int_equal(sffn_model_get_info(m, &info), SFFN_OK);
    assert_int_equal(info.format, SFFN_FILE_GGUF);
    assert_string_equal(info.architecture, "llama");
    assert_string_equal(info.name, "small");
    assert_int_equal(info.n_layers, 2);
    assert_int_equal(info.d_model, 32);
    assert_int_equal(info.d_ff, 64);
    assert_int_equal(info.activation, SFFN_ACT_FATRELU);
    assert_true(info.act_threshold == 0.25f);
    assert_int_equal(info.act_tie, SFFN_TIE_DROP);
    assert_int_equal(info.n_tensors, 8);
    assert_int_equal(info.rope_is_permuted, 1);
    assert_int_equal(info.is_tied, 0); /* there is no embedding at all */

    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"k.u8", 200}, {"k.i8", -128},       {"k.u16", 65535}, {"k.i16", -32768},
                {"k.i32", -2}, {"k.i64", INT64_MIN}, {"k.bool", 1},    {"llama.block_count", 2}};
    int64_t integer;
    double number;
    const char *text;
    size_t bytes;
    for (size_t i = 0; i < sizeof(ints) / sizeof(ints[0]); i++) {
        assert_int_equal(sffn_model_get_int(m, ints[i].key, 0, &integer), SFFN_OK);
        assert_true(integer == ints[i].value);
        assert_int_equal(sffn_model_get_float(m, ints[i].key, 0, &number), SFFN_OK);
        assert_true(number == (double)ints[i].value);
        CHECK_ERROR(f, sffn_model_get_string(m, ints[i].key, 0, &text, &bytes), SFFN_ERR_DTYPE,
                    ints[i].key);
        CHECK_ERROR(f, sffn_model_get_int(m, ints[i].key, 1, &integer), SFFN_ERR_NOT_FOUND,
                    ints[i].key);
    }
    CHECK_ERROR(f, sffn_model_get_int(m, "k.u64", 0, &integer), SFFN_ERR_DTYPE, "k.u64");
    assert_int_equal(sffn_model_get_float(m, "k.u64", 0, &number), SFFN_OK);
    assert_true(number == 18446744073709551616.0);
    assert_int_equal(sffn_model_get_float(m, "k.f64", 0, &number), SFFN_OK);
    assert_true(number == 0.5);
    CHECK_ERROR(f, sffn_model_get_int(m, "k.f64", 0, &integer), SFFN_ERR_DTYPE, "k.f64");
    CHECK_ERROR(f, sffn_model_get_float(m, "general.name", 0, &number), SFFN_ERR_DTYPE,
                "general.name");
    CHECK_ERROR(f, sffn_model_get_int(m, "k.none", 0, &integer), SFFN_ERR_NOT_FOUND,
                "no key 'k.none'");
    assert_int_equal(sffn_model_get_string(m, "k.texts", 2, &text, &bytes), SFFN_OK);
    assert_true(bytes == 5 && memcmp(text, "three", 5) == 0);
    assert_int_equal(sffn_model_get_string(m, "k.texts", 1, &text, &bytes), SFFN_OK);
    assert_int_equal(bytes, 0);
    CHECK_ERROR(f, sffn_model_get_string(m, "k.texts", 3, &text, &bytes), SFFN_ERR_NOT_FOUND,
                "k.texts");
    CHECK_ERROR(f, sffn_model_get_string(m, "k.texts", SIZE_MAX, &text, &bytes), SFFN_ERR_NOT_FOUND,
                "k.texts");
    assert_int_equal(sffn_model_get_int(m, "k.ints", 1, &integer), SFFN_OK);
    assert_true(integer == -1);
    assert_int_equal(sffn_model_get_float(m, "k.floats", 1, &number), SFFN_OK);
    assert_true(number == -2.0);
    CHECK_ERROR(f, sffn_model_get_int(m, "k.nested", 0, &integer), SFFN_ERR_DTYPE, "k.nested");
    CHECK_ERROR(f, sffn_model_get_string(m, "k.empty", 0, &text, &bytes), SFFN_ERR_NOT_FOUND,
                "k.empty");
    assert_int_equal(sffn_model_meta_count(m, "k.texts"), 3);
    assert_int_equal(sffn_model_meta_count(m, "k.empty"), 0);
    assert_int_equal(sffn_model_meta_count(m, "k.u8"), 1);
    assert_int_equal(sffn_model_meta_count(m, "k.none"), 0);
    assert_int_equal(sffn_model_meta_count(NULL, "k"), 0);

    const char *key;
    int32_t kind, element;
    uint64_t n;
    assert_int_equal(sffn_model_get_meta(m, 20, &key, &kind, &element, &n), SFFN_OK);
    assert_string_equal(key, "k.nested");
    assert_int_equal(kind, SFFN_META_ARRAY);
    assert_int_equal(element, SFFN_META_ARRAY);
    assert_int_equal(n, 2);
    assert_int_equal(sffn_model_get_meta(m, 0, NULL, NULL, NULL, NULL), SFFN_OK);
    CHECK_ERROR(f, sffn_model_get_meta(m, 22, &key, &kind, &element, &n), SFFN_ERR_NOT_FOUND,
                "key 22 of 22");

    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    assert_int_equal(sffn_model_find_tensor(m, "blk.1.ffn_down.weight", &t), SFFN_OK);
    assert_int_equal(t.n_dims, 2);
    assert_true(t.dims[0] == 32 && t.dims[1] == 64 && t.dims[2] == 1 && t.dims[3] == 1);
    assert_int_equal(t.bytes, 32 * 64 * 4);
    assert_int_equal(t.dtype, SFFN_F32);
    assert_string_equal(t.type_name, "F32");
    CHECK_ERROR(f, sffn_model_find_tensor(m, "blk.2.ffn_down.weight", &t), SFFN_ERR_NOT_FOUND,
                "no tensor 'blk.2.ffn_down.weight'");
    CHECK_ERROR(f, sffn_model_get_tensor(m, 8, &t), SFFN_ERR_NOT_FOUND, "tensor 8 of 8");

    /* arguments */
    CHECK_ERROR(f, sffn_model_find_tensor(m, NULL, &t), SFFN_ERR_INVALID_ARGUMENT, "name is NULL");
    CHECK_ERROR(f, sffn_model_get_int(m, NULL, 0, &integer), SFFN_ERR_INVALID_ARGUMENT,
                "key is NULL");
    CHECK_ERROR(f, sffn_model_get_int(m, "k.u8", 0, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "output is NULL");
    CHECK_ERROR(f, sffn_model_get_string(m, "k.texts", 0, &text, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "output is NULL");
    CHECK_ERROR(f, sffn_model_get_info(m, NULL), SFFN_ERR_INVALID_ARGUMENT, "NULL");
    assert_int_equal(sffn_model_get_info(NULL, &info), SFFN_ERR_INVALID_ARGUMENT);
    assert_int_equal(sffn_model_get_tensor(NULL, 0, &t), SFFN_ERR_INVALID_ARGUMENT);
    assert_int_equal(sffn_model_find_tensor(NULL, "x", &t), SFFN_ERR_INVALID_ARGUMENT);
    assert_int_equal(sffn_model_get_meta(NULL, 0, &key, &kind, &element, &n),
                     SFFN_ERR_INVALID_ARGUMENT);
    assert_int_equal(sffn_model_get_int(NULL, "k", 0, &integer), SFFN_ERR_INVALID_ARGUMENT);
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    assert_int_equal(sffn_model_layer_config(NULL, 0, &config), SFFN_ERR_INVALID_ARGUMENT);
    CHECK_ERROR(f, sffn_model_layer_config(m, 0, NULL), SFFN_ERR_INVALID_ARGUMENT, "NULL");
    info.struct_size = 3;
    CHECK_ERROR(f, sffn_model_get_info(m, &info), SFFN_ERR_INVALID_ARGUMENT, "struct_size");
    model_walk(m);
    sffn_model_close(m);
    sffn_model_close(NULL);
}

static void safetensors_getters(void **state)
{
    struct fixture *f = *state;
    sffn_model *m = open_valid(f, s_valid, "a.safetensors");
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    assert_int_equal(sffn_model_get_info(m, &info), SFFN_OK);
    assert_int_equal(info.format, SFFN_FILE_SAFETENSORS);
    assert_string_equal(info.name, "a.safetensors");
    assert_string_equal(info.architecture, "");
    assert_int_equal(info.activation, -1);
    assert_int_equal(info.n_layers, 1); /* from the tensors */
    assert_int_equal(info.d_model, 3);
    assert_int_equal(info.d_ff, 4);
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT, by_file_name = SFFN_TENSOR_INFO_INIT;
    assert_int_equal(sffn_model_find_tensor(m, "blk.0.ffn_down.weight", &t), SFFN_OK);
    assert_int_equal(
        sffn_model_find_tensor(m, "model.layers.0.mlp.down_proj.weight", &by_file_name), SFFN_OK);
    assert_ptr_equal(t.data, by_file_name.data);
    assert_string_equal(t.file_name, "model.layers.0.mlp.down_proj.weight");
    assert_int_equal(t.dtype, SFFN_BF16);
    assert_int_equal(sffn_model_find_tensor(m, "scalar", &t), SFFN_OK);
    assert_true(t.n_dims == 1 && t.dims[0] == 1 && t.bytes == 8 && t.dtype == -1);
    assert_string_equal(t.type_name, "I64");
    assert_int_equal(sffn_model_find_tensor(m, "nothing", &t), SFFN_OK);
    assert_true(t.n_dims == 2 && t.dims[0] == 0 && t.dims[1] == 7 && t.bytes == 0);
    const char *text;
    size_t bytes;
    assert_int_equal(sffn_model_get_string(m, "note", 0, &text, &bytes), SFFN_OK);
    assert_true(bytes == 3 && memcmp(text, "\xc3\xa4\n", 3) == 0);
    model_walk(m);
    sffn_model_close(m);
}

static void opening(void **state)
{
    struct fixture *f = *state;
    sffn_model *m = (sffn_model *)f;
    CHECK_ERROR(f, sffn_model_open(f->ctx, path_of(f->folder, "none"), &m), SFFN_ERR_IO,
                "No such file");
    assert_null(m);
    CHECK_ERROR(f, sffn_model_open(f->ctx, NULL, &m), SFFN_ERR_INVALID_ARGUMENT, "path is NULL");
    CHECK_ERROR(f, sffn_model_open(f->ctx, "x", NULL), SFFN_ERR_INVALID_ARGUMENT, "model is NULL");
    assert_int_equal(sffn_model_open(NULL, "x", &m), SFFN_ERR_INVALID_ARGUMENT);
    file_write(path_of(f->folder, "empty"), "", 0);
    CHECK_ERROR(f, sffn_model_open(f->ctx, path_of(f->folder, "empty"), &m), SFFN_ERR_FORMAT,
                "empty: offset 0: the file is empty");
    /* A FIFO must not hang the caller. */
    assert_int_equal(mkfifo(path_of(f->folder, "fifo"), 0600), 0);
    CHECK_ERROR(f, sffn_model_open(f->ctx, path_of(f->folder, "fifo"), &m), SFFN_ERR_IO,
                "not a regular file");
    CHECK_ERROR(f, sffn_model_open(f->ctx, "/dev/null", &m), SFFN_ERR_IO, "not a regular file");
    CHECK_ERROR(f, sffn_model_open(f->ctx, f->folder, &m), SFFN_ERR_IO, "config.json: open");
}

/* GGUF v2 and PowerInfer's magic are the same bytes. */
static void other_heads(void **state)
{
    struct fixture *f = *state;
    struct buf b = {NULL, 0, 0};
    sffn_model *m;
    void *copy;
    g_valid(&b);
    b.data[4] = 2;
    assert_int_equal(open_copy(f, b.data, b.n, &m, &copy), SFFN_OK);
    const uint64_t sum = model_walk(m);
    sffn_model_close(m);
    free(copy);
    memcpy(b.data, "PWRI", 4);
    assert_int_equal(open_copy(f, b.data, b.n, &m, &copy), SFFN_OK);
    assert_true(model_walk(m) == sum);
    sffn_model_close(m);
    free(copy);
    b_free(&b);
}

/* ---- layers ---- */

struct part {
    const char *name;
    uint32_t n_dims;
    uint64_t ne[2];
    uint32_t type;
};

/* A llama GGUF with the given tensors; architecture NULL: none. */
static sffn_model *open_parts(struct fixture *f, const char *architecture, uint32_t d_model,
                              uint32_t d_ff, const struct part *parts, size_t n, void **copy)
{
    struct buf b = {NULL, 0, 0};
    g_head(&b, 3, n, architecture ? 4 : 0);
    if (architecture) {
        char key[64];
        g_key_text(&b, "general.architecture", architecture);
        snprintf(key, sizeof(key), "%s.block_count", architecture), g_key_u32(&b, key, 2);
        snprintf(key, sizeof(key), "%s.embedding_length", architecture),
            g_key_u32(&b, key, d_model);
        snprintf(key, sizeof(key), "%s.feed_forward_length", architecture),
            g_key_u32(&b, key, d_ff);
    }
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t elements = parts[i].ne[0] * (parts[i].n_dims > 1 ? parts[i].ne[1] : 1);
        const uint64_t bytes = parts[i].type == 0    ? elements * 4
                               : parts[i].type == 12 ? elements / 256 * 144
                                                     : elements * 2;
        g_tensor(&b, parts[i].name, parts[i].n_dims, parts[i].ne, parts[i].type, offset);
        offset = (offset + bytes + 31) / 32 * 32;
    }
    b_pad(&b, 32);
    b_fill(&b, offset);
    sffn_model *m = NULL;
    if (open_copy(f, b.data, b.n, &m, copy) != SFFN_OK)
        fail_msg("%s", error_of(f));
    b_free(&b);
    return m;
}

static void layers(void **state)
{
    struct fixture *f = *state;
    sffn_model *m = open_valid(f, g_valid, "a.gguf");
    sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
    c.dense_tokens = 77; /* not the file's business: stays */
    c.name = "mine";
    assert_int_equal(sffn_model_layer_config(m, 1, &c), SFFN_OK);
    assert_true(c.d_model == 32 && c.d_ff == 64 && c.dense_tokens == 77);
    assert_string_equal(c.name, "mine");
    assert_int_equal(c.activation, SFFN_ACT_FATRELU);
    assert_int_equal(c.act_tie, SFFN_TIE_DROP);
    assert_true(c.act_threshold == 0.25f);
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    assert_int_equal(sffn_model_find_tensor(m, "blk.1.ffn_up.weight", &t), SFFN_OK);
    assert_ptr_equal(c.up.data, t.data);
    assert_int_equal(c.gate.layout, SFFN_LAYOUT_ROWS);
    assert_int_equal(c.down.layout, SFFN_LAYOUT_COLUMNS);
    assert_non_null(c.gate.data);
    assert_null(c.up_bias);
    assert_int_equal(sffn_model_find_tensor(m, "blk.1.ffn_down.bias", &t), SFFN_OK);
    assert_ptr_equal(c.down_bias, t.data);
    CHECK_ERROR(f, sffn_model_layer_config(m, 2, &c), SFFN_ERR_NOT_FOUND, "layer 2 of 2");
    /* An older caller's struct: nothing is written behind its end. */
    struct {
        sffn_ffn_config config;
        char guard[16];
    } small = {SFFN_FFN_CONFIG_INIT, "guard"};
    small.config.struct_size = offsetof(sffn_ffn_config, rule);
    small.config.rule = 12345;
    assert_int_equal(sffn_model_layer_config(m, 0, &small.config), SFFN_OK);
    assert_int_equal(small.config.rule, 12345);
    assert_int_equal(small.config.struct_size, offsetof(sffn_ffn_config, rule));
    assert_int_equal(small.config.d_ff, 64);
    sffn_model_close(m);
}

static void odd_layers(void **state)
{
    struct fixture *f = *state;
    void *copy;
    sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
    const struct part gate = {"blk.0.ffn_gate.weight", 2, {32, 64}, 0},
                      up = {"blk.0.ffn_up.weight", 2, {32, 64}, 0},
                      down = {"blk.0.ffn_down.weight", 2, {64, 32}, 0},
                      down_t = {"blk.0.ffn_down_t.weight", 2, {32, 64}, 0};
#define OPEN(architecture, d, ff, ...)                                                             \
    const struct part parts[] = {__VA_ARGS__};                                                     \
    sffn_model *m =                                                                                \
        open_parts(f, architecture, d, ff, parts, sizeof(parts) / sizeof(parts[0]), &copy)
#define CLOSE() sffn_model_close(m), free(copy)
    { /* both forms of down: the rows win */
        OPEN("llama", 32, 64, gate, up, down, down_t);
        assert_int_equal(sffn_model_layer_config(m, 0, &c), SFFN_OK);
        assert_int_equal(c.down.layout, SFFN_LAYOUT_ROWS);
        assert_int_equal(c.activation, SFFN_ACT_SILU);
        CHECK_ERROR(f, sffn_model_layer_config(m, 1, &c), SFFN_ERR_NOT_FOUND,
                    "no tensor 'blk.1.ffn_up.weight'");
        CLOSE();
    }
    { /* llama is gated */
        OPEN("llama", 32, 64, up, down);
        CHECK_ERROR(f, sffn_model_layer_config(m, 0, &c), SFFN_ERR_NOT_FOUND,
                    "no tensor 'blk.0.ffn_gate.weight'");
        CLOSE();
    }
    { /* where one layer has a gate, all have */
        OPEN("other", 32, 64, up, down, {"blk.1.ffn_gate.weight", 2, {32, 64}, 0});
        CHECK_ERROR(f, sffn_model_layer_config(m, 0, &c), SFFN_ERR_NOT_FOUND,
                    "no tensor 'blk.0.ffn_gate.weight'");
        CLOSE();
    }
    { /* ungated, with biases of 16 bits, activation not said */
        OPEN("other", 32, 64, up, down, {"blk.0.ffn_up.bias", 1, {64}, 30},
             {"blk.0.ffn_down.bias", 1, {32}, 1});
        c.activation = SFFN_ACT_RELU2;
        assert_int_equal(sffn_model_layer_config(m, 0, &c), SFFN_OK);
        assert_null(c.gate.data);
        assert_int_equal(c.activation, SFFN_ACT_RELU2);
        sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
        assert_int_equal(sffn_model_find_tensor(m, "blk.0.ffn_up.bias", &t), SFFN_OK);
        float expected[64];
        assert_int_equal(sffn_dtype_to_f32(SFFN_BF16, t.data, 64, expected), SFFN_OK);
        assert_memory_equal(c.up_bias, expected, sizeof(expected));
        assert_int_equal(sffn_model_find_tensor(m, "blk.0.ffn_down.bias", &t), SFFN_OK);
        assert_int_equal(sffn_dtype_to_f32(SFFN_F16, t.data, 32, expected), SFFN_OK);
        assert_memory_equal(c.down_bias, expected, 32 * sizeof(float));
        CLOSE();
    }
    {
        OPEN("llama", 32, 65, gate, up, down);
        CHECK_ERROR(f, sffn_model_layer_config(m, 0, &c), SFFN_ERR_SHAPE,
                    "expected a matrix of 65 x 32");
        CLOSE();
    }
    {
        OPEN("llama", 32, 64, gate, up, {"blk.0.ffn_down.weight", 2, {32, 64}, 0});
        CHECK_ERROR(f, sffn_model_layer_config(m, 0, &c), SFFN_ERR_SHAPE,
                    "'blk.0.ffn_down.weight' has 2 dimensions, 64 x 32");
        CLOSE();
    }
    {
        OPEN("llama", 32, 64, gate, {"blk.0.ffn_up.weight", 1, {2048}, 0}, down);
        CHECK_ERROR(f, sffn_model_layer_config(m, 0, &c), SFFN_ERR_SHAPE,
                    "'blk.0.ffn_up.weight' has 1 dimensions");
        CLOSE();
    }
    {
        OPEN("llama", 32, 64, gate, up, down, {"blk.0.ffn_gate.bias", 1, {32}, 0});
        CHECK_ERROR(
            f, sffn_model_layer_config(m, 0, &c), SFFN_ERR_SHAPE,
            "'blk.0.ffn_gate.bias' has 1 dimensions, 32 elements in the first; expected 64");
        CLOSE();
    }
    {
        OPEN("llama", 256, 64, {"blk.0.ffn_gate.weight", 2, {256, 64}, 12},
             {"blk.0.ffn_up.weight", 2, {256, 64}, 0}, {"blk.0.ffn_down.weight", 2, {64, 256}, 0});
        CHECK_ERROR(f, sffn_model_layer_config(m, 0, &c), SFFN_ERR_UNSUPPORTED,
                    "'blk.0.ffn_gate.weight' has type Q4_K");
        CLOSE();
    }
    { /* sizes from the tensors */
        OPEN(NULL, 0, 0, gate, up, down);
        sffn_model_info info = SFFN_MODEL_INFO_INIT;
        assert_int_equal(sffn_model_get_info(m, &info), SFFN_OK);
        assert_true(info.n_layers == 1 && info.d_model == 32 && info.d_ff == 64 &&
                    info.activation == -1);
        assert_int_equal(sffn_model_layer_config(m, 0, &c), SFFN_OK);
        CLOSE();
    }
}

static void misaligned_biases(void **state)
{
    /* safetensors puts data anywhere: one byte before the bias. */
    struct fixture *f = *state;
    struct buf b = {NULL, 0, 0};
    void *copy;
    sffn_model *m;
    s_file(
        &b,
        "{\"model.layers.0.fc1.weight\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
        "\"model.layers.0.fc2.weight\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[8,16]},"
        "\"pad\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[16,17]},"
        "\"model.layers.0.fc1.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[17,25]}}",
        0);
    for (int i = 0; i < 4; i++)
        b_f32(&b, 1.0f);
    b_u8(&b, 7), b_f32(&b, 2.5f), b_f32(&b, -3.5f);
    for (size_t shift = 0; shift < 4; shift++) {
        /* and the whole file at any address */
        uint8_t *place = malloc(b.n + shift);
        memcpy(place + shift, b.data, b.n);
        copy = place;
        assert_int_equal(sffn_model_open_memory(f->ctx, "file", place + shift, b.n, &m), SFFN_OK);
        sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
        assert_int_equal(sffn_model_layer_config(m, 0, &c), SFFN_OK);
        assert_true((uintptr_t)c.up_bias % sizeof(float) == 0 && c.up_bias[0] == 2.5f &&
                    c.up_bias[1] == -3.5f);
        sffn_model_close(m);
        free(copy);
    }
    b_free(&b);
}

/* ---- wrong files ---- */

static void refuses_bad_files(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < n_bad_files; i++) {
        const struct bad_file *bad = &bad_files[i];
        struct buf b = {NULL, 0, 0};
        void *copy;
        sffn_model *m = (sffn_model *)f;
        bad->make(&b);
        heap_mark(&f->heap);
        sffn_status status = open_copy(f, b.data, b.n, &m, &copy);
        if (status != bad->status || !strstr(error_of(f), bad->words) ||
            !strstr(error_of(f), "file: offset "))
            fail_msg("%s: %s: \"%s\", expected %s: \"%s\"", bad->name, sffn_status_name(status),
                     error_of(f), sffn_status_name(bad->status), bad->words);
        assert_null(m);
        assert_int_equal(f->heap.live, f->base);
        if (f->heap.peak - f->base > BOUND(b.n))
            fail_msg("%s: %zu bytes taken for a file of %zu", bad->name, f->heap.peak - f->base,
                     b.n);
        free(copy);
        /* The same through a mapping. */
        const char *path = path_of(f->folder, "bad");
        file_write(path, b.data, b.n);
        status = sffn_model_open(f->ctx, path, &m);
        if (status != bad->status || strncmp(error_of(f), path, strlen(path)) != 0)
            fail_msg("%s: %s: \"%s\"", bad->name, sffn_status_name(status), error_of(f));
        b_free(&b);
    }
    print_message("%zu wrong files refused\n", n_bad_files);
    assert_true(n_bad_files >= 60);
}

/* Opens it, whatever it is; asks it everything if it opens; checks that nothing stays. */
static sffn_status try_bytes(struct fixture *f, const void *data, size_t n)
{
    void *copy;
    sffn_model *m;
    heap_mark(&f->heap);
    const sffn_status status = open_copy(f, data, n, &m, &copy);
    assert_true(f->heap.peak - f->base <= BOUND(n));
    if (status == SFFN_OK)
        model_walk(m);
    else
        assert_true(status == SFFN_ERR_FORMAT || status == SFFN_ERR_UNSUPPORTED);
    sffn_model_close(m);
    free(copy);
    assert_int_equal(f->heap.live, f->base);
    return status;
}

static void survives_truncation(void **state)
{
    struct fixture *f = *state;
    struct buf b = {NULL, 0, 0};
    g_valid(&b);
    for (size_t n = 0; n < b.n; n++)
        assert_int_equal(try_bytes(f, b.data, n), SFFN_ERR_FORMAT);
    assert_int_equal(try_bytes(f, b.data, b.n), SFFN_OK);
    b_free(&b);
    s_valid(&b);
    for (size_t n = 0; n < b.n; n++)
        assert_int_equal(try_bytes(f, b.data, n), SFFN_ERR_FORMAT);
    assert_int_equal(try_bytes(f, b.data, b.n), SFFN_OK);
    b_free(&b);
}

/* Every byte of the header in turn becomes several others: any status, no crash, no leak, no
 * large allocation. */
static void survives_changed_bytes(void **state)
{
    struct fixture *f = *state;
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '"', '{', ']', '9'};
    for (int format = 0; format < 2; format++) {
        struct buf b = {NULL, 0, 0};
        format ? s_valid(&b) : g_valid(&b);
        const size_t end = b.n < 1400 ? b.n : 1400;
        for (size_t i = 0; i < end; i++) {
            const uint8_t old = b.data[i];
            for (size_t k = 0; k < sizeof(values); k++) {
                b.data[i] = values[k];
                try_bytes(f, b.data, b.n);
            }
            b.data[i] = old ^ 0x20;
            try_bytes(f, b.data, b.n);
            b.data[i] = old;
        }
        b_free(&b);
    }
}

/* ---- Hugging Face folders ---- */

static const char config_json[] = "{\"model_type\":\"llama\",\"hidden_act\":\"relu\",\"hidden_"
                                  "size\":3,\"intermediate_size\":4,\"num_hidden_layers\":1,"
                                  "\"num_attention_heads\":1,\"extra\":{\"list\":[1,2,3],\"none\":"
                                  "null,\"mixed\":[1,\"a\"],\"deep\":[[1]]}}";

static void write_folder(const struct fixture *f, const char *config, const char *index)
{
    struct buf b = {NULL, 0, 0};
    if (config)
        file_write_text(path_of(f->folder, "config.json"), config);
    remove(path_of(f->folder, "model.safetensors"));
    remove(path_of(f->folder, "model.safetensors.index.json"));
    s_file(&b,
           "{\"model.layers.0.mlp.up_proj.weight\":{\"dtype\":\"F32\",\"shape\":[4,3],\"data_"
           "offsets\":[0,48]}}",
           48);
    file_write(path_of(f->folder, index ? "one.safetensors" : "model.safetensors"), b.data, b.n);
    b_free(&b);
    s_file(&b,
           "{\"model.layers.0.mlp.down_proj.weight\":{\"dtype\":\"F32\",\"shape\":[3,4],\"data_"
           "offsets\":[0,48]}}",
           48);
    file_write(path_of(f->folder, "two.safetensors"), b.data, b.n);
    b_free(&b);
    if (index)
        file_write_text(path_of(f->folder, "model.safetensors.index.json"), index);
}

#define UP   "\"model.layers.0.mlp.up_proj.weight\""
#define DOWN "\"model.layers.0.mlp.down_proj.weight\""

static void folders(void **state)
{
    struct fixture *f = *state;
    sffn_model *m;
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    write_folder(f, config_json, NULL);
    if (sffn_model_open(f->ctx, f->folder, &m) != SFFN_OK)
        fail_msg("%s", error_of(f));
    assert_int_equal(sffn_model_get_info(m, &info), SFFN_OK);
    assert_true(info.format == SFFN_FILE_HF_FOLDER && info.n_tensors == 1 &&
                info.activation == SFFN_ACT_RELU && info.rope_is_permuted == 0);
    assert_string_equal(info.architecture, "llama");
    assert_string_equal(info.name, strrchr(f->folder, '/') + 1);
    int64_t value;
    assert_int_equal(sffn_model_get_int(m, "extra.list", 2, &value), SFFN_OK);
    assert_true(value == 3);
    assert_int_equal(sffn_model_meta_count(m, "extra.list"), 3);
    CHECK_ERROR(f, sffn_model_get_int(m, "extra.none", 0, &value), SFFN_ERR_DTYPE, "extra.none");
    assert_int_equal(sffn_model_get_int(m, "extra.mixed", 0, &value), SFFN_OK);
    CHECK_ERROR(f, sffn_model_get_int(m, "extra.mixed", 1, &value), SFFN_ERR_DTYPE, "extra.mixed");
    CHECK_ERROR(f, sffn_model_get_int(m, "extra.deep", 0, &value), SFFN_ERR_DTYPE, "extra.deep");
    model_walk(m);
    sffn_model_close(m);

    write_folder(f, config_json,
                 "{\"weight_map\":{" UP ":\"one.safetensors\"," DOWN ":\"two.safetensors\"}}");
    if (sffn_model_open(f->ctx, f->folder, &m) != SFFN_OK)
        fail_msg("%s", error_of(f));
    assert_int_equal(sffn_model_get_info(m, &info), SFFN_OK);
    assert_int_equal(info.n_tensors, 2);
    model_walk(m);
    sffn_model_close(m);

    static const struct {
        const char *index;
        sffn_status status;
        const char *words;
    } bad_indexes[] = {
        {"{}", SFFN_ERR_FORMAT, "weight_map is no object"},
        {"[]", SFFN_ERR_FORMAT, "weight_map is no object"},
        {"{\"weight_map\":[]}", SFFN_ERR_FORMAT, "weight_map is no object"},
        {"{\"weight_map\":{}}", SFFN_ERR_FORMAT, "weight_map names 0 shards"},
        {"{\"weight_map\":{" UP ":1}}", SFFN_ERR_FORMAT, "a value of weight_map is no string"},
        {"{\"weight_map\":{" UP ":\"../one.safetensors\"}}", SFFN_ERR_FORMAT,
         "shard '../one.safetensors' is no plain file name"},
        {"{\"weight_map\":{" UP ":\"/etc/passwd\"}}", SFFN_ERR_FORMAT, "is no plain file name"},
        {"{\"weight_map\":{" UP ":\"a/b\"}}", SFFN_ERR_FORMAT, "is no plain file name"},
        {"{\"weight_map\":{" UP ":\"a\\\\b\"}}", SFFN_ERR_FORMAT, "is no plain file name"},
        {"{\"weight_map\":{" UP ":\"..\"}}", SFFN_ERR_FORMAT, "is no plain file name"},
        {"{\"weight_map\":{" UP ":\"\"}}", SFFN_ERR_FORMAT, "is no plain file name"},
        {"{\"weight_map\":{" UP ":\"one.safetensors\\u0000x\"}}", SFFN_ERR_FORMAT,
         "is no plain file name"},
        {"{\"weight_map\":{" UP ":\"three.safetensors\"}}", SFFN_ERR_IO,
         "three.safetensors: open: No such file"},
        {"{\"weight_map\":{" UP ":\"config.json\"}}", SFFN_ERR_FORMAT,
         "config.json: offset 0: a header of"},
        {"{\"weight_map\":{\"missing\":\"one.safetensors\"}}", SFFN_ERR_FORMAT,
         "tensor 'missing' is in no shard"},
        {"{\"weight_map\":{" UP ":\"one.safetensors\"", SFFN_ERR_FORMAT,
         "JSON: expected ',' or '}'"},
    };
    for (size_t i = 0; i < sizeof(bad_indexes) / sizeof(bad_indexes[0]); i++) {
        write_folder(f, config_json, bad_indexes[i].index);
        CHECK_ERROR(f, sffn_model_open(f->ctx, f->folder, &m), bad_indexes[i].status,
                    bad_indexes[i].words);
        assert_null(m);
        assert_int_equal(f->heap.live, f->base);
    }
    /* one name in two shards */
    write_folder(f, config_json,
                 "{\"weight_map\":{" UP ":\"one.safetensors\"," DOWN ":\"copy.safetensors\"}}");
    struct buf b = {NULL, 0, 0};
    s_file(&b, "{" UP ":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    file_write(path_of(f->folder, "copy.safetensors"), b.data, b.n);
    b_free(&b);
    CHECK_ERROR(f, sffn_model_open(f->ctx, f->folder, &m), SFFN_ERR_FORMAT,
                "tensor 'blk.0.ffn_up.weight' is there twice");

    static const struct {
        const char *config, *words;
    } bad_configs[] = {
        {"[]", "config.json is no object"},
        {"{", "JSON: expected a key"},
        {"{\"model_type\":\"a b\"}", "model_type is no plain name"},
        {"{\"model_type\":\"\\n\"}", "model_type is no plain name"},
        {"{\"hidden_size\":-1}", "hidden_size is no size"},
        {"{\"hidden_size\":4294967296}", "hidden_size is no size"},
        {"{\"hidden_size\":\"3\"}", "hidden_size is no size"},
        {"{\"num_hidden_layers\":2.5}", "num_hidden_layers is no size"},
        {"{\"rms_norm_eps\":1e39}", "rms_norm_eps is no float"},
        {"{\"rope_theta\":\"x\"}", "rope_theta is no float"},
        {"{\"hidden_act\":3}", "the activation's name is no string"},
        {"{\"hidden_act\":\"fatrelu\"}", "there is no hidden_act_param"},
        {"{\"hidden_act\":\"shifted_relu\",\"hidden_act_param\":null}",
         "there is no hidden_act_param"},
        {"{\"hidden_act\":\"fatrelu\",\"hidden_act_param\":-0.5}", "hidden_act_param is negative"},
        {"{\"hidden_act\":\"fatrelu\",\"hidden_act_param\":[]}", "hidden_act_param is no float"},
        {"{\"a\\u0000\":1}", "a key is longer than 255 bytes or has a zero byte"},
    };
    for (size_t i = 0; i < sizeof(bad_configs) / sizeof(bad_configs[0]); i++) {
        write_folder(f, bad_configs[i].config, NULL);
        CHECK_ERROR(f, sffn_model_open(f->ctx, f->folder, &m), SFFN_ERR_FORMAT,
                    bad_configs[i].words);
        assert_non_null(strstr(error_of(f), "/config.json: offset "));
        assert_null(m);
    }
    /* an activation that we don't know is a matter of the layers */
    write_folder(f, "{\"hidden_act\":\"quick_gelu\"}", NULL);
    assert_int_equal(sffn_model_open(f->ctx, f->folder, &m), SFFN_OK);
    sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
    CHECK_ERROR(f, sffn_model_layer_config(m, 0, &c), SFFN_ERR_UNSUPPORTED,
                "activation 'quick_gelu' is unknown");
    sffn_model_close(m);
    char *large = malloc((1 << 20) + 16);
    memset(large, ' ', 1 << 20);
    strcpy(large + (1 << 20), "{}");
    write_folder(f, large, NULL);
    CHECK_ERROR(f, sffn_model_open(f->ctx, f->folder, &m), SFFN_ERR_FORMAT,
                "more than a file of this kind may have");
    free(large);
}

/* ---- memory ---- */

static void fails_without_memory(void **state)
{
    struct fixture *f = *state;
    struct buf b = {NULL, 0, 0};
    g_valid(&b), file_write(path_of(f->folder, "a.gguf"), b.data, b.n), b_free(&b);
    s_valid(&b), file_write(path_of(f->folder, "a.safetensors"), b.data, b.n), b_free(&b);
    write_folder(f, config_json,
                 "{\"weight_map\":{" UP ":\"one.safetensors\"," DOWN ":\"two.safetensors\"}}");
    char paths[3][640];
    snprintf(paths[0], 640, "%s", path_of(f->folder, "a.gguf"));
    snprintf(paths[1], 640, "%s", path_of(f->folder, "a.safetensors"));
    snprintf(paths[2], 640, "%s", f->folder);
    for (int i = 0; i < 3; i++) {
        size_t k = 1;
        for (;; k++) {
            sffn_model *m = (sffn_model *)f;
            heap_mark(&f->heap);
            f->heap.fail_at = k;
            const sffn_status status = sffn_model_open(f->ctx, paths[i], &m);
            f->heap.fail_at = 0;
            if (status == SFFN_OK) {
                sffn_model_close(m);
                break;
            }
            assert_int_equal(status, SFFN_ERR_OUT_OF_MEMORY);
            assert_null(m);
            assert_int_equal(f->heap.live, f->base);
        }
        assert_true(k > 3);
    }
}

/* 100,000 tokens: opened in a blink, each found at once. */
static void large_arrays(void **state)
{
    struct fixture *f = *state;
    struct buf b = {NULL, 0, 0};
    const uint64_t n = 100000;
    g_head(&b, 3, 0, 1);
    g_key_array(&b, "tokenizer.ggml.tokens", K_STRING, n);
    for (uint64_t i = 0; i < n; i++) {
        char text[32];
        snprintf(text, sizeof(text), "t%llu", (unsigned long long)i);
        b_text(&b, text);
    }
    sffn_model *m;
    void *copy;
    heap_mark(&f->heap);
    assert_int_equal(open_copy(f, b.data, b.n, &m, &copy), SFFN_OK);
    assert_true(f->heap.peak - f->base <= BOUND(b.n));
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    assert_int_equal(sffn_model_get_info(m, &info), SFFN_OK);
    assert_int_equal(info.n_vocab, n);
    for (uint64_t i = 0; i < n; i++) {
        const char *text;
        size_t bytes;
        char expected[32];
        const uint64_t k = (i * 7919) % n;
        snprintf(expected, sizeof(expected), "t%llu", (unsigned long long)k);
        assert_int_equal(
            sffn_model_get_string(m, "tokenizer.ggml.tokens", (size_t)k, &text, &bytes), SFFN_OK);
        assert_true(bytes == strlen(expected) && memcmp(text, expected, bytes) == 0);
    }
    sffn_model_close(m);
    free(copy);
    b_free(&b);
}

struct reader {
    const sffn_model *model;
    uint64_t sum;
};

static void *read_model(void *arg)
{
    struct reader *reader = arg;
    for (int i = 0; i < 20; i++)
        reader->sum = model_walk(reader->model); /* look-ups that fail are part of it */
    return NULL;
}

/* One model, many threads, as the header promises; for the thread sanitizer. */
static void shared_between_threads(void **state)
{
    struct fixture *f = *state;
    sffn_model *m = open_valid(f, g_valid, "a.gguf");
    struct reader readers[4];
    pthread_t threads[4];
    const uint64_t sum = model_walk(m);
    for (int i = 0; i < 4; i++) {
        readers[i] = (struct reader){m, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, read_model, &readers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(readers[i].sum == sum);
    }
    sffn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(gguf_getters),
        TEST(safetensors_getters),
        TEST(opening),
        TEST(other_heads),
        TEST(layers),
        TEST(odd_layers),
        TEST(misaligned_biases),
        TEST(refuses_bad_files),
        TEST(survives_truncation),
        TEST(survives_changed_bytes),
        TEST(folders),
        TEST(fails_without_memory),
        TEST(large_arrays),
        TEST(shared_between_threads),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
