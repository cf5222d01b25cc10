#include "prepare/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "model/name_index.h"

/* llama.cpp's token types. */
enum {
    TYPE_NONE = 0,
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6
};

#define UNREACHABLE_SCORE (-1e9f)

struct token {
    const char *text; /* NULL: not named by the file */
    size_t bytes;
    uint32_t type;
    float score;
};

struct tokens {
    const struct sffn_json *json;
    struct token *tokens;
    uint32_t n;
};

static sffn_status fail_at(const struct sffn_json *json, uint32_t node, const char *reason)
{
    return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, node), "%s", reason);
}

static int is_true(const struct sffn_json *json, uint32_t object, const char *key, int otherwise)
{
    const uint32_t node = sffn_json_get(json, object, key);
    if (!node || json->nodes[node].kind == SFFN_JSON_NULL)
        return otherwise;
    return json->nodes[node].kind == SFFN_JSON_TRUE;
}

static int is_type(const struct sffn_json *json, uint32_t object, const char *type)
{
    const uint32_t node = sffn_json_get(json, object, "type");
    return node && sffn_json_is(json, node, type);
}

/* The steps of a normalizer, pre-tokenizer, decoder or post-processor, which is one step or a
 * Sequence of them: up to `max` nodes. */
static size_t take_steps(const struct sffn_json *json, const char *key, const char *list,
                         uint32_t *steps, size_t max)
{
    const uint32_t object = sffn_json_get(json, 0, key);
    if (!object || json->nodes[object].kind != SFFN_JSON_OBJECT)
        return 0;
    if (!is_type(json, object, "Sequence")) {
        steps[0] = object;
        return 1;
    }
    const uint32_t array = sffn_json_get(json, object, list);
    size_t n = 0;
    if (!array || json->nodes[array].kind != SFFN_JSON_ARRAY)
        return 0;
    for (uint32_t i = array + 1; i < json->nodes[array].end; i = json->nodes[i].end) {
        if (n < max)
            steps[n] = i;
        n++;
    }
    return n <= max ? n : 0;
}

/* ---- which kind ---- */

static int has_step(const struct sffn_json *json, const char *key, const char *list,
                    const char *type)
{
    uint32_t steps[16];
    const size_t n = take_steps(json, key, list, steps, 16);
    for (size_t i = 0; i < n; i++)
        if (is_type(json, steps[i], type))
            return 1;
    return 0;
}

static const char *split_name(const struct sffn_json *json, uint32_t step)
{
    static const char *const known[][2] = {
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
         "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         "llama-bpe"},
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
         "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         "qwen2"},
    };
    const uint32_t pattern = sffn_json_get(json, step, "pattern"),
                   behaviour = sffn_json_get(json, step, "behavior");
    const uint32_t regex = pattern ? sffn_json_get(json, pattern, "Regex") : 0;
    if (!is_type(json, step, "Split") || !regex || !behaviour ||
        !sffn_json_is(json, behaviour, "Isolated") || is_true(json, step, "invert", 0))
        return NULL;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (sffn_json_is(json, regex, known[i][0]))
            return known[i][1];
    return NULL;
}

/* llama.cpp's name of what happens before the merges, or NULL. */
static const char *pre_name(const struct sffn_json *json)
{
    uint32_t steps[3], normal[2];
    const size_t n = take_steps(json, "pre_tokenizer", "pretokenizers", steps, 3);
    const size_t n_normal = take_steps(json, "normalizer", "normalizers", normal, 2);
    const uint32_t normalizer = sffn_json_get(json, 0, "normalizer");
    const int is_plain = !normalizer || json->nodes[normalizer].kind == SFFN_JSON_NULL;
    const int is_nfc = n_normal == 1 && is_type(json, normal[0], "NFC");
    if (n == 0 || !is_type(json, steps[n - 1], "ByteLevel"))
        return NULL;
    const int has_regex = is_true(json, steps[n - 1], "use_regex", 1);
    if (n == 1 && has_regex && is_plain)
        return "gpt-2";
    if (n == 2 && has_regex && is_plain && is_type(json, steps[0], "Digits") &&
        is_true(json, steps[0], "individual_digits", 0))
        return "starcoder";
    const char *name = n == 2 && !has_regex ? split_name(json, steps[0]) : NULL;
    /* llama.cpp does no Unicode normalisation; Qwen2's NFC is left out there as well. */
    return name && (is_plain || (is_nfc && strcmp(name, "qwen2") == 0)) ? name : NULL;
}

/* ---- tokens ---- */

static struct sffn_name token_name(const void *items, uint32_t i)
{
    const struct token *tokens = items;
    return (struct sffn_name){tokens[i].text, tokens[i].bytes};
}

static sffn_status set_token(struct tokens *t, uint32_t node, uint32_t id_node, uint32_t type,
                             int may_be_set)
{
    uint64_t id;
    if (!id_node || !sffn_json_u64(t->json, id_node, &id))
        return fail_at(t->json, id_node ? id_node : node, "a token's id is no number");
    if (id >= t->n)
        return sffn_file_fail(t->json->file, SFFN_ERR_FORMAT, sffn_json_offset(t->json, id_node),
                              "token id %llu, but the model has %u tokens", (unsigned long long)id,
                              (unsigned)t->n);
    struct token *token = &t->tokens[id];
    struct sffn_name name;
    name.text = sffn_json_text(t->json, node, &name.bytes);
    if (token->text &&
        (!may_be_set || sffn_name_compare(name, token_name(t->tokens, (uint32_t)id)) != 0))
        return sffn_file_fail(t->json->file, SFFN_ERR_FORMAT, sffn_json_offset(t->json, id_node),
                              "token id %llu is given to two tokens", (unsigned long long)id);
    token->text = name.text;
    token->bytes = name.bytes;
    token->type = type;
    return SFFN_OK;
}

static int is_byte_token(const struct token *token)
{
    return token->bytes == 6 && memcmp(token->text, "<0x", 3) == 0 && token->text[5] == '>';
}

static sffn_status take_tokens(struct tokens *t, uint32_t vocab, uint32_t added, uint32_t n_vocab,
                               int has_bytes, struct sffn_arena *arena)
{
    const struct sffn_json *json = t->json;
    uint64_t most = 0, id, n_named = json->nodes[vocab].bytes;
    for (uint32_t key = vocab + 1; key < json->nodes[vocab].end; key = json->nodes[key + 1].end)
        if (sffn_json_u64(json, key + 1, &id) && id >= most)
            most = id + 1;
    if (added) {
        n_named += json->nodes[added].bytes;
        for (uint32_t i = added + 1; i < json->nodes[added].end; i = json->nodes[i].end) {
            const uint32_t node = sffn_json_get(json, i, "id");
            if (node && sffn_json_u64(json, node, &id) && id >= most)
                most = id + 1;
        }
    }
    const uint64_t n = n_vocab ? n_vocab : most;
    /* Some padding is usual; a table of billions out of a few bytes is not. */
    if (n > 2 * n_named + 65536 || n > UINT32_MAX)
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, vocab),
                              "%llu tokens named, but %llu expected", (unsigned long long)n_named,
                              (unsigned long long)n);
    t->n = (uint32_t)n;
    t->tokens = sffn_arena_alloc(arena, t->n, sizeof(*t->tokens));
    if (!t->tokens)
        return sffn_no_memory(json->file->ctx, json->file->path);
    sffn_status status = SFFN_OK;
    for (uint32_t key = vocab + 1; key < json->nodes[vocab].end && status == SFFN_OK;
         key = json->nodes[key + 1].end)
        status = set_token(t, key, key + 1, TYPE_NORMAL, 0);
    for (uint32_t i = added + 1; added && i < json->nodes[added].end && status == SFFN_OK;
         i = json->nodes[i].end) {
        const uint32_t content = sffn_json_get(json, i, "content");
        if (!content || json->nodes[content].kind != SFFN_JSON_STRING)
            return fail_at(json, i, "an added token has no content");
        status = set_token(t, content, sffn_json_get(json, i, "id"),
                           is_true(json, i, "special", 0) ? TYPE_CONTROL : TYPE_USER, 1);
    }
    const uint32_t unknown = sffn_json_get(json, sffn_json_get(json, 0, "model"), "unk_token");
    for (uint32_t i = 0; i < t->n && status == SFFN_OK; i++) {
        struct token *token = &t->tokens[i];
        if (!token->text) {
            char pad[32];
            snprintf(pad, sizeof(pad), "[PAD%u]", (unsigned)i);
            token->text = sffn_arena_text(arena, pad, strlen(pad));
            if (!token->text)
                return sffn_no_memory(json->file->ctx, json->file->path);
            token->bytes = strlen(pad);
            token->type = TYPE_UNUSED;
        } else if (has_bytes && is_byte_token(token)) {
            token->type = TYPE_BYTE;
        } else if (has_bytes && unknown && json->nodes[unknown].kind == SFFN_JSON_STRING) {
            struct sffn_name name;
            name.text = sffn_json_text(json, unknown, &name.bytes);
            if (sffn_name_compare(name, token_name(t->tokens, i)) == 0)
                token->type = TYPE_UNKNOWN;
        }
    }
    return status;
}

/* ---- merges ---- */

/* The two halves of a merge: "a b", or ["a", "b"]. */
static sffn_status take_merge(const struct sffn_json *json, uint32_t node, struct sffn_name half[2])
{
    if (json->nodes[node].kind == SFFN_JSON_STRING) {
        size_t bytes;
        const char *text = sffn_json_text(json, node, &bytes);
        const char *space = memchr(text, ' ', bytes);
        if (!space || space == text || space == text + bytes - 1)
            return fail_at(json, node, "a merge is no pair of tokens");
        half[0] = (struct sffn_name){text, (size_t)(space - text)};
        half[1] = (struct sffn_name){space + 1, bytes - half[0].bytes - 1};
        return SFFN_OK;
    }
    if (json->nodes[node].kind != SFFN_JSON_ARRAY || json->nodes[node].bytes != 2 ||
        json->nodes[node + 1].kind != SFFN_JSON_STRING ||
        json->nodes[node + 2].kind != SFFN_JSON_STRING)
        return fail_at(json, node, "a merge is no pair of tokens");
    for (int i = 0; i < 2; i++)
        half[i].text = sffn_json_text(json, node + 1 + (uint32_t)i, &half[i].bytes);
    if (half[0].bytes == 0 || half[1].bytes == 0)
        return fail_at(json, node, "a merge is no pair of tokens");
    return SFFN_OK;
}

/* GGUF keeps a merge as one string with a space in the middle; a space inside a half becomes
 * U+0120, as gguf-py and llama.cpp have it. `out` has room for every half at double length and
 * the space. */
static size_t join(const struct sffn_name half[2], char *out)
{
    size_t n = 0;
    for (int h = 0; h < 2; h++) {
        if (h)
            out[n++] = ' ';
        for (size_t i = 0; i < half[h].bytes; i++) {
            if (half[h].text[i] == ' ') {
                out[n++] = (char)0xc4;
                out[n++] = (char)0xa0;
            } else {
                out[n++] = half[h].text[i];
            }
        }
    }
    return n;
}

/* Calls `use` for each merge with its number. */
typedef void (*merge_fn)(void *arg, uint32_t rank, const struct sffn_name half[2], char *buffer);

static sffn_status each_merge(const struct sffn_json *json, uint32_t merges, merge_fn use,
                              void *arg)
{
    struct sffn_name half[2];
    size_t longest = 0, bytes;
    for (uint32_t i = merges + 1; i < json->nodes[merges].end; i = json->nodes[i].end) {
        const sffn_status status = take_merge(json, i, half);
        if (status != SFFN_OK)
            return status;
        if (half[0].bytes + half[1].bytes > longest)
            longest = half[0].bytes + half[1].bytes;
    }
    if (!sffn_checked_mul(longest, 2, &bytes) || !sffn_checked_add(bytes, 1, &bytes))
        return sffn_no_memory(json->file->ctx, json->file->path);
    char *buffer = sffn_mem_alloc(json->file->ctx, bytes);
    if (!buffer)
        return sffn_no_memory(json->file->ctx, json->file->path);
    uint32_t rank = 0;
    for (uint32_t i = merges + 1; i < json->nodes[merges].end; i = json->nodes[i].end)
        if (take_merge(json, i, half) == SFFN_OK)
            use(arg, rank++, half, buffer);
    sffn_mem_free(json->file->ctx, buffer, bytes);
    return SFFN_OK;
}

static void write_merge(void *arg, uint32_t rank, const struct sffn_name half[2], char *buffer)
{
    (void)rank;
    sffn_gguf_put_text(arg, buffer, join(half, buffer));
}

struct scoring {
    struct tokens *tokens;
    const struct sffn_name_entry *order;
};

/* A piece is as good as the first merge that makes it: sentencepiece's greedy order by score is
 * then the merges' order by rank. */
static void score_merge(void *arg, uint32_t rank, const struct sffn_name half[2], char *buffer)
{
    const struct scoring *scoring = arg;
    uint32_t id;
    memcpy(buffer, half[0].text, half[0].bytes);
    memcpy(buffer + half[0].bytes, half[1].text, half[1].bytes);
    const struct sffn_name name = {buffer, half[0].bytes + half[1].bytes};
    if (!sffn_name_find(scoring->tokens->tokens, token_name, scoring->order, scoring->tokens->n,
                        name, &id))
        return;
    struct token *token = &scoring->tokens->tokens[id];
    if (token->type == TYPE_NORMAL && token->score == UNREACHABLE_SCORE)
        token->score = -(float)rank;
}

static sffn_status write_scores(struct tokens *t, uint32_t merges, struct sffn_arena *arena,
                                struct sffn_gguf_writer *w)
{
    struct sffn_name_entry *order = sffn_arena_alloc(arena, t->n, 2 * sizeof(*order));
    if (!order)
        return sffn_no_memory(w->ctx, w->path);
    for (uint32_t i = 0; i < t->n; i++) {
        order[i].item = i;
        t->tokens[i].score = t->tokens[i].type == TYPE_NORMAL ? UNREACHABLE_SCORE : 0.0f;
    }
    uint32_t twice[2];
    (void)sffn_name_sort(t->tokens, token_name, order, order + t->n, t->n, twice);
    struct scoring scoring = {t, order};
    const sffn_status status = each_merge(t->json, merges, score_merge, &scoring);
    if (status != SFFN_OK)
        return status;
    sffn_gguf_write_array(w, "tokenizer.ggml.scores", SFFN_GGUF_F32, t->n);
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t bits;
        memcpy(&bits, &t->tokens[i].score, sizeof(bits));
        sffn_gguf_put_u32(w, bits);
    }
    return SFFN_OK;
}

/* ---- special tokens ---- */

static void write_special(const struct sffn_json *config, const char *json_key, const char *key,
                          uint32_t n, struct sffn_gguf_writer *w)
{
    uint32_t node = config ? sffn_json_get(config, 0, json_key) : 0;
    uint64_t id;
    if (node && config->nodes[node].kind == SFFN_JSON_ARRAY && config->nodes[node].bytes)
        node++; /* several: the first is the main one */
    if (!node || !sffn_json_u64(config, node, &id))
        return;
    if (id < n)
        sffn_gguf_write_u32(w, key, (uint32_t)id);
    else
        sffn_log(w->ctx, SFFN_LOG_WARNING, "%s: %s is %llu, but there are %u tokens: left out",
                 config->file->path, json_key, (unsigned long long)id, (unsigned)n);
}

static int adds_bos(const struct sffn_json *json, const struct sffn_json *config,
                    const struct sffn_json *settings)
{
    uint32_t steps[8];
    const uint32_t said = settings ? sffn_json_get(settings, 0, "add_bos_token") : 0;
    if (said && settings->nodes[said].kind != SFFN_JSON_NULL)
        return settings->nodes[said].kind == SFFN_JSON_TRUE;
    const size_t n = take_steps(json, "post_processor", "processors", steps, 8);
    for (size_t i = 0; i < n; i++) {
        const uint32_t single = is_type(json, steps[i], "TemplateProcessing")
                                    ? sffn_json_get(json, steps[i], "single")
                                    : 0;
        if (single && json->nodes[single].kind == SFFN_JSON_ARRAY && json->nodes[single].bytes)
            return sffn_json_get(json, single + 1, "SpecialToken") != 0;
    }
    const uint32_t post = sffn_json_get(json, 0, "post_processor");
    const uint32_t bos = config ? sffn_json_get(config, 0, "bos_token_id") : 0;
    return (!post || json->nodes[post].kind == SFFN_JSON_NULL) && bos &&
           config->nodes[bos].kind == SFFN_JSON_NUMBER;
}

sffn_status sffn_tokenizer_write(const struct sffn_json *json, const struct sffn_json *config,
                                 const struct sffn_json *settings, uint32_t n_vocab,
                                 struct sffn_arena *arena, struct sffn_gguf_writer *w)
{
    if (json->nodes[0].kind != SFFN_JSON_OBJECT)
        return fail_at(json, 0, "the tokenizer is no object");
    const uint32_t model = sffn_json_get(json, 0, "model");
    if (!model || json->nodes[model].kind != SFFN_JSON_OBJECT)
        return fail_at(json, model, "the tokenizer has no model");
    const uint32_t type = sffn_json_get(json, model, "type"),
                   vocab = sffn_json_get(json, model, "vocab"),
                   merges = sffn_json_get(json, model, "merges");
    uint32_t added = sffn_json_get(json, 0, "added_tokens");
    const int is_byte_level = has_step(json, "pre_tokenizer", "pretokenizers", "ByteLevel") ||
                              has_step(json, "decoder", "decoders", "ByteLevel");
    const int has_fallback = !is_byte_level && is_true(json, model, "byte_fallback", 0);
    if ((type && !sffn_json_is(json, type, "BPE")) || (!is_byte_level && !has_fallback)) {
        sffn_log(w->ctx, SFFN_LOG_WARNING,
                 "%s: no BPE of bytes or with byte fallback: the tokenizer is left out",
                 json->file->path);
        return SFFN_OK;
    }
    if (!vocab || json->nodes[vocab].kind != SFFN_JSON_OBJECT || !merges ||
        json->nodes[merges].kind != SFFN_JSON_ARRAY)
        return fail_at(json, model, "the tokenizer's model has no vocab and merges");
    if (added && json->nodes[added].kind == SFFN_JSON_NULL)
        added = 0;
    if (added && json->nodes[added].kind != SFFN_JSON_ARRAY)
        return fail_at(json, added, "added_tokens is no array");

    struct tokens t = {json, NULL, 0};
    sffn_status status = take_tokens(&t, vocab, added, n_vocab, has_fallback, arena);
    if (status != SFFN_OK)
        return status;
    const char *kind = has_fallback ? "llama" : "gpt2";
    const char *pre = has_fallback ? "default" : pre_name(json);
    sffn_gguf_write_text(w, "tokenizer.ggml.model", kind, strlen(kind));
    if (pre)
        sffn_gguf_write_text(w, "tokenizer.ggml.pre", pre, strlen(pre));
    else
        sffn_log(w->ctx, SFFN_LOG_WARNING,
                 "%s: a pre-tokenizer that has no name in GGUF: tokenizer.ggml.pre is left out",
                 json->file->path);
    sffn_gguf_write_array(w, "tokenizer.ggml.tokens", SFFN_GGUF_STRING, t.n);
    for (uint32_t i = 0; i < t.n; i++)
        sffn_gguf_put_text(w, t.tokens[i].text, t.tokens[i].bytes);
    if (has_fallback)
        status = write_scores(&t, merges, arena, w);
    sffn_gguf_write_array(w, "tokenizer.ggml.token_type", SFFN_GGUF_I32, t.n);
    for (uint32_t i = 0; i < t.n; i++)
        sffn_gguf_put_u32(w, t.tokens[i].type);
    if (!has_fallback) {
        sffn_gguf_write_array(w, "tokenizer.ggml.merges", SFFN_GGUF_STRING,
                              json->nodes[merges].bytes);
        status = each_merge(json, merges, write_merge, w);
    }
    if (status != SFFN_OK)
        return status;
    write_special(config, "bos_token_id", "tokenizer.ggml.bos_token_id", t.n, w);
    write_special(config, "eos_token_id", "tokenizer.ggml.eos_token_id", t.n, w);
    write_special(config, "pad_token_id", "tokenizer.ggml.padding_token_id", t.n, w);
    for (uint32_t i = 0; has_fallback && i < t.n; i++) {
        if (t.tokens[i].type == TYPE_UNKNOWN) {
            sffn_gguf_write_u32(w, "tokenizer.ggml.unknown_token_id", i);
            break;
        }
    }
    sffn_gguf_write_bool(w, "tokenizer.ggml.add_bos_token", adds_bos(json, config, settings));
    if (settings && sffn_json_get(settings, 0, "add_eos_token"))
        sffn_gguf_write_bool(w, "tokenizer.ggml.add_eos_token",
                             is_true(settings, 0, "add_eos_token", 0));
    uint32_t steps[8];
    const size_t n_steps = take_steps(json, "pre_tokenizer", "pretokenizers", steps, 8);
    for (size_t i = 0; i < n_steps; i++)
        if (is_type(json, steps[i], "ByteLevel") && is_true(json, steps[i], "add_prefix_space", 0))
            sffn_gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", 1);
    return w->status;
}
