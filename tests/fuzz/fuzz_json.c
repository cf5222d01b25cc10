/* JSON and what is made of it. The first byte chooses: the text alone, config.json, an index, or
 * a tokenizer whose keys must then be readable. */
#include <string.h>

#include "fuzz.h"
#include "model/gguf.h"
#include "model/hf.h"
#include "model/json.h"
#include "prepare/tokenizer.h"

static void walk_json(const struct sffn_json *json)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < json->n_nodes; i++) {
        const struct sffn_json_node *node = &json->nodes[i];
        size_t bytes;
        uint64_t u = 0;
        int64_t s = 0;
        double d = 0.0;
        FUZZ_REQUIRE(node->end > i && node->end <= json->n_nodes);
        FUZZ_REQUIRE(sffn_json_offset(json, i) <= json->file->bytes);
        if (node->kind == SFFN_JSON_STRING || node->kind == SFFN_JSON_NUMBER) {
            const char *text = sffn_json_text(json, i, &bytes);
            FUZZ_REQUIRE(sffn_utf8_is_valid(text, bytes));
            sum += bytes ? (uint8_t)text[bytes - 1] : 0;
        }
        sum += (uint64_t)(sffn_json_u64(json, i, &u) + sffn_json_i64(json, i, &s) +
                          sffn_json_double(json, i, &d));
        if (node->kind == SFFN_JSON_OBJECT || node->kind == SFFN_JSON_ARRAY) {
            /* Children tile the container exactly. */
            uint32_t at = i + 1, n = 0;
            for (; at < node->end; n++) {
                if (node->kind == SFFN_JSON_OBJECT)
                    FUZZ_REQUIRE(json->nodes[at++].kind == SFFN_JSON_STRING && at < node->end);
                at = json->nodes[at].end;
            }
            FUZZ_REQUIRE(at == node->end && n == node->bytes);
        }
        sum += sffn_json_get(json, i, "a");
    }
    FUZZ_REQUIRE(sum != 1 || sum == 1);
}

static void check_config(const struct sffn_json *json, struct sffn_arena *arena)
{
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    struct sffn_parts parts = {NULL, 0, NULL, 0};
    const char *unknown;
    if (sffn_hf_read_config(json, arena, &info, &unknown) == SFFN_OK &&
        sffn_hf_read_metas(json, arena, &parts) == SFFN_OK)
        for (size_t i = 0; i < parts.n_metas; i++)
            FUZZ_REQUIRE(strlen(parts.metas[i].key) <= 255);
}

static void check_index(const struct sffn_file *file, struct sffn_arena *arena)
{
    struct sffn_hf_index index;
    if (sffn_hf_read_index(file, arena, &index) == SFFN_OK)
        for (size_t i = 0; i < index.n_shards; i++)
            FUZZ_REQUIRE(!strchr(index.shards[i], '/') && strcmp(index.shards[i], "..") != 0 &&
                         index.shards[i][0]);
}

/* What the tokenizer writes is a GGUF key section: read it back. */
static void check_tokenizer(sffn_context *ctx, const struct sffn_json *json, uint32_t n_vocab,
                            struct sffn_arena *arena)
{
    struct sffn_gguf_writer w;
    sffn_gguf_write_init(&w, ctx, "fuzz");
    if (sffn_tokenizer_write(json, json, json, n_vocab, arena, &w) == SFFN_OK) {
        struct buf b = {NULL, 0, 0};
        struct sffn_parts parts;
        g_head(&b, 3, 0, w.n_metas);
        b_raw(&b, w.head, w.head_bytes);
        const struct sffn_file file = {ctx, "keys", b.data, b.n, SFFN_FILE_BORROWED};
        FUZZ_REQUIRE(sffn_gguf_parse(&file, arena, &parts) == SFFN_OK &&
                     parts.n_metas == w.n_metas);
        b_free(&b);
    }
    sffn_gguf_write_close(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct heap *heap;
    sffn_context *ctx = fuzz_context(&heap);
    const size_t before = heap->live;
    if (size < 1)
        return 0;
    struct sffn_arena arena = {ctx, NULL, 0};
    const struct sffn_file file = {ctx, "fuzz", data + 1, size - 1, SFFN_FILE_BORROWED};
    struct sffn_json json;
    if (data[0] % 4 == 2) {
        check_index(&file, &arena);
    } else {
        const sffn_status status = sffn_json_parse(&file, 0, file.bytes, &arena, &json);
        FUZZ_REQUIRE(status == SFFN_OK || status == SFFN_ERR_FORMAT);
        FUZZ_REQUIRE(heap->peak - before <= FUZZ_BOUND(size));
        if (status == SFFN_OK) {
            walk_json(&json);
            if (data[0] % 4 == 1)
                check_config(&json, &arena);
            if (data[0] % 4 == 3)
                check_tokenizer(ctx, &json, data[0] / 4, &arena);
        }
    }
    sffn_arena_free(&arena);
    FUZZ_REQUIRE(heap->live == before);
    return 0;
}
