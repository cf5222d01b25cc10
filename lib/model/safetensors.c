#include "model/safetensors.h"

#include <string.h>

#include "base/checked.h"
#include "model/name_index.h"
#include "sparseffn/model.h"

/* Offsets as the header has them, until they are known to be contiguous. */
struct span {
    uint64_t begin, end;
    uint32_t node;
};

int sffn_safetensors_is_likely(const uint8_t *data, size_t bytes)
{
    return bytes >= 9 && data[8] == '{';
}

static sffn_status fail_at(const struct sffn_json *json, uint32_t node, const char *name,
                           const char *reason)
{
    struct sffn_quoted text;
    return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, node),
                          "tensor '%s': %s", sffn_quote(&text, name, strlen(name)), reason);
}

static sffn_status take_name(const struct sffn_json *json, uint32_t node, const char *what,
                             struct sffn_arena *arena, const char **name)
{
    size_t bytes;
    const char *text = sffn_json_text(json, node, &bytes);
    struct sffn_quoted quoted;
    if (memchr(text, 0, bytes))
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, node),
                              "%s '%s' has a zero byte", what, sffn_quote(&quoted, text, bytes));
    *name = sffn_arena_text(arena, text, bytes);
    return *name ? SFFN_OK : sffn_no_memory(json->file->ctx, json->file->path);
}

static sffn_status take_metadata(const struct sffn_json *json, uint32_t object, int keep,
                                 struct sffn_arena *arena, struct sffn_parts *parts)
{
    const struct sffn_json_node *node = &json->nodes[object];
    if (node->kind != SFFN_JSON_OBJECT)
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, object),
                              "__metadata__ is no object");
    struct sffn_meta *metas = NULL;
    if (keep) {
        parts->metas = metas = sffn_arena_alloc(arena, node->bytes, sizeof(*metas));
        if (!metas)
            return sffn_no_memory(json->file->ctx, json->file->path);
    }
    for (uint32_t key = object + 1; key < node->end; key = json->nodes[key + 1].end) {
        if (json->nodes[key + 1].kind != SFFN_JSON_STRING)
            return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, key + 1),
                                  "a value of __metadata__ is no string");
        if (!keep)
            continue;
        struct sffn_meta *meta = &metas[parts->n_metas];
        const sffn_status status = take_name(json, key, "key", arena, &meta->key);
        if (status != SFFN_OK)
            return status;
        meta->kind = SFFN_META_STRING;
        meta->n = 1;
        meta->json = json;
        meta->node = key + 1;
        parts->n_metas++;
    }
    return SFFN_OK;
}

static sffn_status take_tensor(const struct sffn_json *json, uint32_t key, struct sffn_arena *arena,
                               struct sffn_tensor *tensor, struct span *span)
{
    const uint32_t value = key + 1;
    const sffn_status status = take_name(json, key, "tensor", arena, &tensor->name);
    if (status != SFFN_OK)
        return status;
    const char *name = tensor->file_name = tensor->name;
    if (json->nodes[value].kind != SFFN_JSON_OBJECT)
        return fail_at(json, value, name, "its description is no object");
    const uint32_t dtype = sffn_json_get(json, value, "dtype"),
                   shape = sffn_json_get(json, value, "shape"),
                   offsets = sffn_json_get(json, value, "data_offsets");
    if (!dtype || json->nodes[dtype].kind != SFFN_JSON_STRING)
        return fail_at(json, value, name, "no dtype");
    if (!shape || json->nodes[shape].kind != SFFN_JSON_ARRAY)
        return fail_at(json, value, name, "no shape");
    if (!offsets || json->nodes[offsets].kind != SFFN_JSON_ARRAY ||
        json->nodes[offsets].bytes != 2 || !sffn_json_u64(json, offsets + 1, &span->begin) ||
        !sffn_json_u64(json, offsets + 2, &span->end))
        return fail_at(json, offsets ? offsets : value, name, "data_offsets is no pair of sizes");

    size_t bytes;
    struct sffn_quoted text;
    const char *type = sffn_json_text(json, dtype, &bytes);
    tensor->type = sffn_safetensors_type(type, bytes);
    if (!tensor->type)
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, dtype),
                              "a tensor's dtype '%s' is unknown", sffn_quote(&text, type, bytes));

    const uint32_t n_dims = json->nodes[shape].bytes;
    for (int i = 0; i < 4; i++)
        tensor->dims[i] = 1;
    if (json->nodes[shape].end != shape + 1 + n_dims)
        return fail_at(json, shape, name, "its shape has something else than sizes");
    uint64_t n = 1, dim = 0, size;
    for (uint32_t i = 0; i < n_dims; i++) {
        if (!sffn_json_u64(json, shape + 1 + i, &dim))
            return fail_at(json, shape + 1 + i, name, "its shape has something else than sizes");
        if (!sffn_checked_mul_u64(n, dim, &n))
            return sffn_file_fail(
                json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, shape + 1 + i),
                "tensor '%s': dimension %u is %llu: the product overflows",
                sffn_quote(&text, name, strlen(name)), (unsigned)i, (unsigned long long)dim);
        if (i < 4)
            tensor->dims[i] = dim;
    }
    if (n_dims > 4)
        return sffn_file_fail(json->file, SFFN_ERR_UNSUPPORTED, sffn_json_offset(json, shape),
                              "tensor '%s' has %u dimensions, at most 4 are supported",
                              sffn_quote(&text, name, strlen(name)), (unsigned)n_dims);
    tensor->n_dims = n_dims ? n_dims : 1;
    const char *reason = sffn_tensor_bytes(tensor->type, tensor->dims, n_dims, &size);
    if (reason)
        return fail_at(json, shape, name, reason);
    if (span->begin > span->end || span->end - span->begin != size)
        return sffn_file_fail(
            json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, offsets),
            "tensor '%s': data_offsets %llu to %llu do not hold the %llu bytes of its shape",
            sffn_quote(&text, name, strlen(name)), (unsigned long long)span->begin,
            (unsigned long long)span->end, (unsigned long long)size);
    if (size > json->file->bytes)
        return sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, shape),
                              "tensor '%s': %llu bytes, larger than the file",
                              sffn_quote(&text, name, strlen(name)), (unsigned long long)size);
    tensor->bytes = (size_t)size;
    span->node = offsets;
    return SFFN_OK;
}

static int compare_spans(const void *items, uint32_t a, uint32_t b)
{
    const struct span *spans = items;
    if (spans[a].begin != spans[b].begin)
        return spans[a].begin < spans[b].begin ? -1 : 1;
    return spans[a].end < spans[b].end ? -1 : spans[a].end > spans[b].end;
}

/* Tensors follow each other without holes or overlaps, from the header's end to the file's. */
static sffn_status place_tensors(const struct sffn_json *json, size_t data_at,
                                 const struct span *spans, const uint32_t *order,
                                 struct sffn_parts *parts)
{
    const struct sffn_file *file = json->file;
    const size_t data_bytes = file->bytes - data_at;
    struct sffn_quoted text;
    uint64_t end = 0;
    for (size_t i = 0; i < parts->n_tensors; i++) {
        const struct span *span = &spans[order[i]];
        struct sffn_tensor *tensor = &parts->tensors[order[i]];
        sffn_quote(&text, tensor->name, strlen(tensor->name));
        if (span->begin != end)
            return sffn_file_fail(file, SFFN_ERR_FORMAT, sffn_json_offset(json, span->node),
                                  "tensor '%s': its data starts at %llu, %s", text.text,
                                  (unsigned long long)span->begin,
                                  span->begin < end ? "inside another tensor's" : "after a hole");
        end = span->end;
        if (end > data_bytes)
            return sffn_file_fail(file, SFFN_ERR_FORMAT, sffn_json_offset(json, span->node),
                                  "tensor '%s': its data ends at %llu of %zu bytes", text.text,
                                  (unsigned long long)end, data_bytes);
        tensor->data = file->data + data_at + (size_t)span->begin;
    }
    if (end != data_bytes)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, data_at + end,
                              "%llu bytes after the last tensor",
                              (unsigned long long)(data_bytes - end));
    return SFFN_OK;
}

static sffn_status take_header(const struct sffn_json *json, size_t data_at, int keep_metas,
                               struct sffn_arena *arena, struct sffn_parts *parts)
{
    const struct sffn_file *file = json->file;
    const size_t n = json->nodes[0].bytes;
    struct sffn_arena scratch = {file->ctx, NULL, 0};
    parts->tensors = sffn_arena_alloc(arena, n, sizeof(*parts->tensors));
    struct span *spans = sffn_arena_alloc(&scratch, n, sizeof(*spans));
    uint32_t *order = sffn_arena_alloc(&scratch, n, 2 * sizeof(*order));
    sffn_status status = SFFN_OK;
    if (!parts->tensors || !spans || !order)
        status = sffn_no_memory(file->ctx, file->path);
    for (uint32_t key = 1; key < json->nodes[0].end && status == SFFN_OK;
         key = json->nodes[key + 1].end) {
        if (sffn_json_is(json, key, "__metadata__")) {
            status = take_metadata(json, key + 1, keep_metas, arena, parts);
            continue;
        }
        const size_t i = parts->n_tensors++;
        order[i] = (uint32_t)i;
        status = take_tensor(json, key, arena, &parts->tensors[i], &spans[i]);
    }
    if (status == SFFN_OK) {
        sffn_index_sort(spans, compare_spans, order, order + n, parts->n_tensors);
        status = place_tensors(json, data_at, spans, order, parts);
    }
    sffn_arena_free(&scratch);
    return status;
}

sffn_status sffn_safetensors_parse(const struct sffn_file *file, int keep_metas,
                                   struct sffn_arena *arena, struct sffn_parts *parts)
{
    *parts = (struct sffn_parts){NULL, 0, NULL, 0};
    if (file->bytes < 8)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, 0,
                              "%zu bytes, the header's length alone takes 8", file->bytes);
    const uint64_t n = sffn_load_u64(file->data);
    if (n > SFFN_SAFETENSORS_MAX_HEADER)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, 0,
                              "a header of %llu bytes, at most %u are allowed",
                              (unsigned long long)n, SFFN_SAFETENSORS_MAX_HEADER);
    if (n > file->bytes - 8)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, 0, "a header of %llu bytes, but %zu are left",
                              (unsigned long long)n, file->bytes - 8);
    if (n == 0 || file->data[8] != '{')
        return sffn_file_fail(file, SFFN_ERR_FORMAT, 8, "the header does not start with '{'");
    /* __metadata__ is read out of the parsed header later, so the parse stays with the model
     * when it is wanted. */
    struct sffn_arena parse_arena = {file->ctx, NULL, 0};
    struct sffn_arena *json_arena = keep_metas ? arena : &parse_arena;
    struct sffn_json *json = sffn_arena_alloc(arena, 1, sizeof(*json));
    sffn_status status = json ? sffn_json_parse(file, 8, (size_t)n, json_arena, json)
                              : sffn_no_memory(file->ctx, file->path);
    if (status == SFFN_OK && json->nodes[0].kind != SFFN_JSON_OBJECT)
        status = sffn_file_fail(file, SFFN_ERR_FORMAT, 8, "the header is no object");
    if (status == SFFN_OK)
        status = take_header(json, 8 + (size_t)n, keep_metas, arena, parts);
    sffn_arena_free(&parse_arena);
    return status;
}
