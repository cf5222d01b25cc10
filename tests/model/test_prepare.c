/* sffn_prepare(): what the file has, that its layers compute what the source's do, and how it
 * fails. The bytes themselves are checked against other people's packages in test_interop.py. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <dirent.h>
#include <cmocka.h>

#include "build.h"
#include "model/json.h"
#include "prepare/dequantise.h"

enum { D_MODEL = 64, D_FF = 160, HEADS = 4 };

struct fixture {
    struct heap heap;
    sffn_context *ctx;
    size_t base;
    const char *folder, *source;
};

static const char tokenizer_json[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true}],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
    "\"post_processor\":null,"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"\\u0120\":4},"
    "\"merges\":[\"a b\",[\"\\u0120\",\"ab\"],[\"a \",\"b\"]]}}";

static void write_source(const struct fixture *f, const char *config_extra, const char *tokenizer)
{
    static const struct {
        const char *name;
        int rows, cols;
    } tensors[] = {
        {"model.embed_tokens.weight", 8, D_MODEL},
        {"model.norm.weight", D_MODEL, 0},
        {"model.layers.0.self_attn.q_proj.weight", D_MODEL, D_MODEL},
        {"model.layers.0.self_attn.k_proj.weight", D_MODEL / 2, D_MODEL},
        {"model.layers.0.mlp.gate_proj.weight", D_FF, D_MODEL},
        {"model.layers.0.mlp.up_proj.weight", D_FF, D_MODEL},
        {"model.layers.0.mlp.down_proj.weight", D_MODEL, D_FF},
        {"model.layers.0.self_attn.rotary_emb.inv_freq", 8, 0},
    };
    struct buf b = {NULL, 0, 0};
    char header[4096], config[1024];
    size_t at = 0, n = 0;
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++) {
        const size_t bytes =
            2 * (size_t)tensors[i].rows * (size_t)(tensors[i].cols ? tensors[i].cols : 1);
        char shape[32];
        snprintf(shape, sizeof(shape), tensors[i].cols ? "%d,%d" : "%d", tensors[i].rows,
                 tensors[i].cols);
        at += (size_t)snprintf(
            header + at, sizeof(header) - at,
            "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
            i ? "," : "{", tensors[i].name, shape, n, n + bytes);
        n += bytes;
    }
    snprintf(header + at, sizeof(header) - at, "}");
    s_file(&b, header, 0);
    for (size_t i = 0; i < n / 2; i++) {
        uint16_t half;
        const float value = (float)(int)(i * 2654435761u % 1999) / 1000.0f - 1.0f;
        assert_int_equal(sffn_dtype_from_f32(SFFN_BF16, &value, 1, &half), SFFN_OK);
        b_u8(&b, (uint8_t)half), b_u8(&b, (uint8_t)(half >> 8));
    }
    file_write(path_of(f->source, "model.safetensors"), b.data, b.n);
    b_free(&b);
    snprintf(config, sizeof(config),
             "{\"model_type\":\"llama\",\"hidden_act\":\"relu\",\"hidden_size\":%d,\"intermediate_"
             "size\":%d,\"num_hidden_layers\":1,"
             "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"vocab_size\":8,\"bos_token_"
             "id\":0%s}",
             D_MODEL, D_FF, HEADS, HEADS / 2, config_extra);
    file_write_text(path_of(f->source, "config.json"), config);
    if (tokenizer)
        file_write_text(path_of(f->source, "tokenizer.json"), tokenizer);
    else
        remove(path_of(f->source, "tokenizer.json"));
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    static char folder[256], source[256];
    f->ctx = heap_context(&f->heap, 2);
    f->base = f->heap.live;
    snprintf(folder, sizeof(folder), "%s", folder_make());
    snprintf(source, sizeof(source), "%s", folder_make());
    f->folder = folder;
    f->source = source;
    write_source(f, "", tokenizer_json);
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
    folder_remove(f->source);
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

static sffn_model *open_path(const struct fixture *f, const char *path)
{
    sffn_model *m = NULL;
    if (sffn_model_open(f->ctx, path, &m) != SFFN_OK)
        fail_msg("%s", error_of(f));
    return m;
}

static size_t files_in(const char *folder)
{
    size_t n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e = readdir(dir); e; e = readdir(dir))
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void check_text(sffn_model *m, const char *key, size_t index, const char *expected)
{
    const char *text;
    size_t bytes;
    assert_int_equal(sffn_model_get_string(m, key, index, &text, &bytes), SFFN_OK);
    if (bytes != strlen(expected) || memcmp(text, expected, bytes) != 0)
        fail_msg("%s[%zu] is '%.*s', expected '%s'", key, index, (int)bytes, text, expected);
}

static void contents(void **state)
{
    struct fixture *f = *state;
    sffn_model *source = open_path(f, f->source);
    const char *out = path_of(f->folder, "out.gguf");
    sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
    config.dtype = SFFN_Q8_0;
    assert_int_equal(sffn_prepare(f->ctx, source, out, &config), SFFN_OK);
    assert_int_equal(files_in(f->folder), 1);
    sffn_model *m = open_path(f, out);
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    assert_int_equal(sffn_model_get_info(m, &info), SFFN_OK);
    assert_int_equal(info.n_tensors, 7); /* inv_freq is left out */
    assert_true(info.rope_is_permuted == 1 && info.is_tied == 1 && info.n_vocab == 8 &&
                info.activation == SFFN_ACT_RELU);
    check_text(m, "tokenizer.ggml.model", 0, "gpt2");
    check_text(m, "tokenizer.ggml.pre", 0, "gpt-2");
    assert_int_equal(sffn_model_meta_count(m, "tokenizer.ggml.tokens"), 8);
    check_text(m, "tokenizer.ggml.tokens", 3, "ab");
    check_text(m, "tokenizer.ggml.tokens", 7, "[PAD7]");
    check_text(m, "tokenizer.ggml.merges", 0, "a b");
    check_text(m, "tokenizer.ggml.merges", 1, "\xc4\xa0 ab");
    check_text(m, "tokenizer.ggml.merges", 2, "a\xc4\xa0 b");
    check_text(m, "sffn.version", 0, sffn_version_string());
    check_text(m, "sffn.source", 0, strrchr(f->source, '/') + 1);
    int64_t type;
    static const int64_t types[] = {3, 1, 1, 1, 1, 5, 5, 5};
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(sffn_model_get_int(m, "tokenizer.ggml.token_type", i, &type), SFFN_OK);
        assert_true(type == types[i]);
    }
    /* The same without a config, in one call more and with the same bytes each time. */
    assert_int_equal(sffn_prepare(f->ctx, source, path_of(f->folder, "same.gguf"), NULL), SFFN_OK);
    sffn_model *same = open_path(f, path_of(f->folder, "same.gguf"));
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    assert_int_equal(sffn_model_find_tensor(same, "blk.0.ffn_down_t.weight", &t), SFFN_OK);
    assert_int_equal(t.dtype, SFFN_BF16);
    assert_true(t.dims[0] == D_FF && t.dims[1] == D_MODEL);
    assert_true((uintptr_t)t.data % 32 == 0);
    sffn_model_close(same);
    sffn_model_close(m);
    sffn_model_close(source);
    struct stat st;
    assert_int_equal(stat(out, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0666 & ~022); /* the umask's rights, not mkstemp's */
}

/* The layers of the prepared file are those of the source: the same bits for types that keep
 * their values. */
static void same_layers(void **state)
{
    struct fixture *f = *state;
    sffn_model *models[3];
    float y[3][2 * D_MODEL], x[2 * D_MODEL];
    sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
    models[0] = open_path(f, f->source);
    assert_int_equal(sffn_prepare(f->ctx, models[0], path_of(f->folder, "a.gguf"), &config),
                     SFFN_OK);
    config.act_threshold = 0.5f;
    assert_int_equal(sffn_prepare(f->ctx, models[0], path_of(f->folder, "b.gguf"), &config),
                     SFFN_OK);
    models[1] = open_path(f, path_of(f->folder, "a.gguf"));
    models[2] = open_path(f, path_of(f->folder, "b.gguf"));
    for (size_t i = 0; i < 2 * D_MODEL; i++)
        x[i] = (float)(int)(i * 40503u % 257) / 128.0f - 1.0f;
    for (int i = 0; i < 3; i++) {
        sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
        sffn_ffn *ffn = NULL;
        assert_int_equal(sffn_model_layer_config(models[i], 0, &layer), SFFN_OK);
        assert_int_equal(layer.down.layout, i == 0 ? SFFN_LAYOUT_COLUMNS : SFFN_LAYOUT_ROWS);
        assert_int_equal(layer.activation, i == 2 ? SFFN_ACT_FATRELU : SFFN_ACT_RELU);
        if (sffn_ffn_create(f->ctx, &layer, &ffn) != SFFN_OK)
            fail_msg("%s", error_of(f));
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = x;
        args.y = y[i];
        args.n_tokens = 2;
        if (sffn_ffn_forward(f->ctx, ffn, &args) != SFFN_OK)
            fail_msg("%s", error_of(f));
        sffn_ffn_destroy(ffn);
    }
    assert_memory_equal(y[0], y[1], sizeof(y[0]));
    assert_true(memcmp(y[0], y[2], sizeof(y[0])) != 0);
    for (int i = 0; i < 3; i++)
        sffn_model_close(models[i]);
    /* The context's scratch has grown: that is no leak. */
    sffn_context_destroy(f->ctx);
    f->ctx = heap_context(&f->heap, 2);
    f->base = f->heap.live;
}

static int32_t stop_at_once(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what, (void)done, (void)total;
    ++*(int *)user;
    return 1;
}

struct nested {
    sffn_context *ctx;
    const sffn_model *model;
    const char *path;
    sffn_status status;
};

static int32_t call_again(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct nested *nested = user;
    (void)what, (void)done, (void)total;
    nested->status = sffn_prepare(nested->ctx, nested->model, nested->path, NULL);
    return 0;
}

static void failures(void **state)
{
    struct fixture *f = *state;
    sffn_model *m = open_path(f, f->source);
    const char *out = path_of(f->folder, "out.gguf");
    sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
    assert_int_equal(sffn_prepare(NULL, m, out, &config), SFFN_ERR_INVALID_ARGUMENT);
    CHECK_ERROR(f, sffn_prepare(f->ctx, NULL, out, &config), SFFN_ERR_INVALID_ARGUMENT,
                "model is NULL");
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, NULL, &config), SFFN_ERR_INVALID_ARGUMENT,
                "out_path is NULL");
    config.dtype = 5;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, &config), SFFN_ERR_INVALID_ARGUMENT, "dtype is 5");
    config.dtype = -2;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, &config), SFFN_ERR_INVALID_ARGUMENT, "dtype is -2");
    config.dtype = -1;
    config.keep_embeddings = 2;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, &config), SFFN_ERR_INVALID_ARGUMENT,
                "keep_embeddings is 2");
    config.keep_embeddings = 1;
    config.act_threshold = NAN;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, &config), SFFN_ERR_INVALID_ARGUMENT,
                "act_threshold");
    config.act_threshold = INFINITY;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, &config), SFFN_ERR_INVALID_ARGUMENT,
                "act_threshold");
    config.act_threshold = -1.0f;
    config.struct_size = 1;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, &config), SFFN_ERR_INVALID_ARGUMENT, "struct_size");
    config.struct_size = sizeof(config);
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, path_of(f->folder, "no/out.gguf"), &config), SFFN_ERR_IO,
                "no/out.gguf: create a temporary file beside it: No such file");
    assert_int_equal(mkdir(path_of(f->folder, "taken"), 0700), 0);
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, path_of(f->folder, "taken"), &config), SFFN_ERR_IO,
                "rename");
    rmdir(path_of(f->folder, "taken"));

    int calls = 0;
    config.progress = stop_at_once;
    config.progress_user = &calls;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, &config), SFFN_ERR_INTERRUPTED, "progress");
    assert_int_equal(calls, 1);
    struct nested nested = {f->ctx, m, out, SFFN_OK};
    config.progress = call_again;
    config.progress_user = &nested;
    assert_int_equal(sffn_prepare(f->ctx, m, path_of(f->folder, "other.gguf"), &config), SFFN_OK);
    assert_int_equal(nested.status, SFFN_ERR_BUSY);
    remove(path_of(f->folder, "other.gguf"));
    config.progress = NULL;
    assert_int_equal(files_in(f->folder), 0);

    /* A full disk, as far as a test can have one: a limit on the file's size. */
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    for (rlim_t limit = 0; limit < 40000; limit = limit * 3 + 100) {
        small = old;
        small.rlim_cur = limit;
        setrlimit(RLIMIT_FSIZE, &small);
        const sffn_status status = sffn_prepare(f->ctx, m, out, &config);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(status, SFFN_ERR_IO);
        assert_non_null(strstr(error_of(f), "write: File too large"));
        assert_int_equal(files_in(f->folder), 0);
    }
    sffn_model_close(m);
}

/* Every allocation fails once: a status, no file, nothing left in memory. */
static void fails_without_memory(void **state)
{
    struct fixture *f = *state;
    for (int kind = 0; kind < 3; kind++) {
        sffn_model *m = open_path(f, f->source);
        sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
        config.dtype = kind == 0 ? -1 : kind == 1 ? SFFN_Q8_0 : SFFN_Q4_0;
        const size_t before = f->heap.live;
        size_t k = 1;
        for (;; k++) {
            heap_mark(&f->heap);
            f->heap.fail_at = k;
            const sffn_status status =
                sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), &config);
            f->heap.fail_at = 0;
            assert_int_equal(f->heap.live, before);
            if (status == SFFN_OK)
                break;
            assert_int_equal(status, SFFN_ERR_OUT_OF_MEMORY);
            assert_int_equal(files_in(f->folder), 0);
        }
        assert_true(k > 10);
        remove(path_of(f->folder, "out.gguf"));
        sffn_model_close(m);
    }
}

static void refuses_sources(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *config, *tokenizer;
        sffn_status status;
        const char *words;
    } bad[] = {
        {",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}", NULL, SFFN_ERR_UNSUPPORTED,
         "rope_scaling other than linear"},
        {",\"rope_scaling\":{\"type\":\"linear\"}", NULL, SFFN_ERR_UNSUPPORTED,
         "rope_scaling other than linear"},
        {"", "[]", SFFN_ERR_FORMAT, "the tokenizer is no object"},
        {"", "{}", SFFN_ERR_FORMAT, "the tokenizer has no model"},
        {"", "{\"model\":{\"type\":\"BPE\"},\"decoder\":{\"type\":\"ByteLevel\"}}", SFFN_ERR_FORMAT,
         "no vocab and merges"},
        {"", "{\"model\":{\"vocab\":{},\"merges\":{}},\"decoder\":{\"type\":\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "no vocab and merges"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":\"x\"},\"merges\":[]},\"decoder\":{\"type\":\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "a token's id is no number"},
        {"", "{\"model\":{\"vocab\":{\"a\":8},\"merges\":[]},\"decoder\":{\"type\":\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "token id 8, but the model has 8 tokens"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]},\"decoder\":{\"type\":"
         "\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "token id 1 is given to two tokens"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[\"ab\"]},\"decoder\":{\"type\":\"ByteLevel\"}"
         "}",
         SFFN_ERR_FORMAT, "a merge is no pair"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[\" "
         "b\"]},\"decoder\":{\"type\":\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "a merge is no pair"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[[\"a\",1]]},\"decoder\":{\"type\":"
         "\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "a merge is no pair"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[[\"a\",\"\"]]},\"decoder\":{\"type\":"
         "\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "a merge is no pair"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[]},\"added_tokens\":{},\"decoder\":{\"type\":"
         "\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "added_tokens is no array"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[]},\"added_tokens\":[1],\"decoder\":{"
         "\"type\":\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "an added token has no content"},
        {"",
         "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[]},\"added_tokens\":[{\"content\":\"b\","
         "\"id\":1}],\"decoder\":{\"type\":\"ByteLevel\"}}",
         SFFN_ERR_FORMAT, "given to two tokens"},
        {"", "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[]},", SFFN_ERR_FORMAT,
         "tokenizer.json: offset 39: JSON"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        write_source(f, bad[i].config, bad[i].tokenizer);
        sffn_model *m = open_path(f, f->source);
        CHECK_ERROR(f, sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), NULL), bad[i].status,
                    bad[i].words);
        assert_int_equal(files_in(f->folder), 0);
        sffn_model_close(m);
    }
    /* Kinds of tokenizers that we don't carry over are left out, the model is still good. */
    static const char *const others[] = {
        NULL, "{\"model\":{\"type\":\"Unigram\"}}",
        "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        write_source(f, "", others[i]);
        sffn_model *m = open_path(f, f->source);
        if (sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), NULL) != SFFN_OK)
            fail_msg("%s", error_of(f));
        sffn_model_close(m);
        m = open_path(f, path_of(f->folder, "out.gguf"));
        assert_int_equal(sffn_model_meta_count(m, "tokenizer.ggml.model"), 0);
        sffn_model_close(m);
    }
    /* Heads that cannot share the rows of q. */
    write_source(f, ",\"x\":0", NULL);
    struct buf b = {NULL, 0, 0};
    s_file(&b,
           "{\"model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"F32\",\"shape\":[12,1],\"data_"
           "offsets\":[0,48]}}",
           48);
    file_write(path_of(f->source, "model.safetensors"), b.data, b.n);
    b_free(&b);
    sffn_model *m = open_path(f, f->source);
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), NULL), SFFN_ERR_SHAPE,
                "has 12 rows, which 4 heads cannot share");
    sffn_model_close(m);
    /* Names that GGUF cannot have. */
    for (int n = 0; n <= 256; n += 256) {
        char header[512];
        snprintf(header, sizeof(header),
                 "{\"%0*d\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", n ? n : 1,
                 0);
        if (n == 0)
            memmove(header + 2, header + 3, strlen(header + 3) + 1);
        s_file(&b, header, 4);
        file_write(path_of(f->source, "model.safetensors"), b.data, b.n);
        b_free(&b);
        m = open_path(f, f->source);
        CHECK_ERROR(f, sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), NULL),
                    SFFN_ERR_UNSUPPORTED, "names of 1 to 255 bytes");
        sffn_model_close(m);
    }
    /* Types that GGUF lacks, tensors without elements. */
    s_file(&b, "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
    file_write(path_of(f->source, "model.safetensors"), b.data, b.n);
    b_free(&b);
    m = open_path(f, f->source);
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), NULL),
                SFFN_ERR_UNSUPPORTED, "'a' of type U8");
    sffn_model_close(m);
    s_file(&b, "{\"a\":{\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[0,0]}}", 0);
    file_write(path_of(f->source, "model.safetensors"), b.data, b.n);
    b_free(&b);
    m = open_path(f, f->source);
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), NULL),
                SFFN_ERR_UNSUPPORTED, "with 0 bytes");
    sffn_model_close(m);
}

/* A table of billions of tokens must not follow from a shape without bytes. */
static void bounded_tokens(void **state)
{
    struct fixture *f = *state;
    struct buf b = {NULL, 0, 0};
    s_file(&b,
           "{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[4000000000,0],\"data_"
           "offsets\":[0,0]}}",
           0);
    file_write(path_of(f->source, "model.safetensors"), b.data, b.n);
    b_free(&b);
    sffn_model *m = open_path(f, f->source);
    heap_mark(&f->heap);
    assert_true(sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), NULL) != SFFN_OK);
    assert_true(f->heap.peak - f->base < 1 << 20);
    sffn_model_close(m);
    /* The same through ids. */
    s_file(&b, "{}", 0);
    file_write(path_of(f->source, "model.safetensors"), b.data, b.n);
    b_free(&b);
    file_write_text(path_of(f->source, "tokenizer.json"),
                    "{\"model\":{\"vocab\":{\"a\":4000000000},\"merges\":[]},\"decoder\":{\"type\":"
                    "\"ByteLevel\"}}");
    m = open_path(f, f->source);
    heap_mark(&f->heap);
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, path_of(f->folder, "out.gguf"), NULL), SFFN_ERR_FORMAT,
                "1 tokens named, but 4000000001 expected");
    assert_true(f->heap.peak - f->base < 1 << 20);
    sffn_model_close(m);
}

int main(void)
{
    umask(022);
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(contents),        TEST(same_layers),    TEST(failures), TEST(fails_without_memory),
        TEST(refuses_sources), TEST(bounded_tokens),
    };
    return cmocka_run_group_tests_name("prepare", tests, NULL, NULL);
}
