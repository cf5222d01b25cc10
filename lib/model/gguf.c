#include "model/gguf.h"

#include <string.h>

#include "base/checked.h"
#include "model/name_index.h"
#include "sparseffn/model.h"

#define HEADER_BYTES     24
#define MIN_KEY_BYTES    14 /* length, one character, type, one byte */
#define MIN_TENSOR_BYTES 25 /* length, one character, n_dims, type, offset */

struct cursor {
    const struct sffn_file *file;
    size_t pos; /* never beyond the file's end */
};

static size_t left(const struct cursor *c)
{
    return c->file->bytes - c->pos;
}

static sffn_status need(const struct cursor *c, uint64_t bytes, const char *what)
{
    if (bytes <= left(c))
        return SFFN_OK;
    return sffn_file_fail(c->file, SFFN_ERR_FORMAT, c->pos, "%s: %llu bytes expected, %zu left",
                          what, (unsigned long long)bytes, left(c));
}

static sffn_status take_u32(struct cursor *c, const char *what, uint32_t *value)
{
    const sffn_status status = need(c, 4, what);
    if (status == SFFN_OK) {
        *value = sffn_load_u32(c->file->data + c->pos);
        c->pos += 4;
    }
    return status;
}

static sffn_status take_u64(struct cursor *c, const char *what, uint64_t *value)
{
    const sffn_status status = need(c, 8, what);
    if (status == SFFN_OK) {
        *value = sffn_load_u64(c->file->data + c->pos);
        c->pos += 8;
    }
    return status;
}

/* A length word and the bytes after it. */
static sffn_status take_text(struct cursor *c, const char *what, size_t *at, size_t *bytes)
{
    uint64_t n = 0;
    const size_t start = c->pos;
    sffn_status status = take_u64(c, what, &n);
    if (status != SFFN_OK)
        return status;
    if (n > left(c))
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, start,
                              "%s: a length of %llu, but %zu bytes are left", what,
                              (unsigned long long)n, left(c));
    *at = c->pos;
    *bytes = (size_t)n;
    c->pos += (size_t)n;
    return SFFN_OK;
}

/* A name as a private, NUL-terminated copy. */
static sffn_status take_name(struct cursor *c, const char *what, size_t max_bytes,
                             struct sffn_arena *arena, const char **name)
{
    const size_t start = c->pos;
    size_t at = 0, bytes = 0;
    const sffn_status status = take_text(c, what, &at, &bytes);
    if (status != SFFN_OK)
        return status;
    if (bytes == 0 || bytes > max_bytes)
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, start, "%s: %zu bytes, expected 1 to %zu",
                              what, bytes, max_bytes);
    char *copy = sffn_arena_text(arena, c->file->data + at, bytes);
    if (!copy)
        return sffn_no_memory(c->file->ctx, c->file->path);
    struct sffn_quoted text;
    if (memchr(copy, 0, bytes))
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, at, "%s '%s' has a zero byte", what,
                              sffn_quote(&text, copy, bytes));
    if (!sffn_utf8_is_valid(copy, bytes))
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, at, "%s '%s' is not UTF-8", what,
                              sffn_quote(&text, copy, bytes));
    *name = copy;
    return SFFN_OK;
}

size_t sffn_gguf_kind_bytes(uint32_t type)
{
    static const uint8_t bytes[SFFN_GGUF_KIND_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < SFFN_GGUF_KIND_COUNT ? bytes[type] : 0;
}

static int32_t meta_kind(uint32_t type)
{
    switch (type) {
    case SFFN_GGUF_F32:
    case SFFN_GGUF_F64:
        return SFFN_META_FLOAT;
    case SFFN_GGUF_BOOL:
        return SFFN_META_BOOL;
    case SFFN_GGUF_STRING:
        return SFFN_META_STRING;
    case SFFN_GGUF_ARRAY:
        return SFFN_META_ARRAY;
    default:
        return SFFN_META_INT;
    }
}

static sffn_status check_bools(const struct cursor *c, const char *key, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (c->file->data[c->pos + i] > 1)
            return sffn_file_fail(c->file, SFFN_ERR_FORMAT, c->pos + i,
                                  "key '%s': %u is no boolean", key, c->file->data[c->pos + i]);
    return SFFN_OK;
}

static sffn_status take_value(struct cursor *c, uint32_t type, uint32_t nesting, const char *key,
                              struct sffn_arena *arena, struct sffn_meta *meta);

/* `meta` is NULL in arrays inside arrays, whose elements nobody can ask for. */
static sffn_status take_array(struct cursor *c, uint32_t nesting, const char *key,
                              struct sffn_arena *arena, struct sffn_meta *meta)
{
    const size_t start = c->pos;
    uint32_t type = 0;
    uint64_t n = 0;
    if (nesting > SFFN_GGUF_MAX_NESTING)
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, start, "key '%s': arrays nested too deeply",
                              key);
    sffn_status status = take_u32(c, key, &type);
    if (status == SFFN_OK)
        status = take_u64(c, key, &n);
    if (status != SFFN_OK)
        return status;
    if (type >= SFFN_GGUF_KIND_COUNT)
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, start,
                              "key '%s': element type %u is unknown", key, (unsigned)type);
    /* The least an element takes: a string its length, an array its type and count. */
    const size_t size = sffn_gguf_kind_bytes(type);
    const size_t least = size ? size : type == SFFN_GGUF_STRING ? 8 : 12;
    if (n > left(c) / least)
        return sffn_file_fail(
            c->file, SFFN_ERR_FORMAT, start + 4,
            "key '%s': %llu elements, larger than the file allows (%zu bytes are left)", key,
            (unsigned long long)n, left(c));
    if (meta) {
        meta->element_type = type;
        meta->element_kind = meta_kind(type);
        meta->n = n;
        meta->at = c->pos;
    }
    if (size) {
        if (type == SFFN_GGUF_BOOL)
            status = check_bools(c, key, (size_t)n);
        c->pos += (size_t)n * size;
        return status;
    }
    uint64_t *strings = NULL;
    if (meta && type == SFFN_GGUF_STRING) {
        meta->strings = strings = sffn_arena_alloc(arena, (size_t)n, sizeof(*strings));
        if (!strings)
            return sffn_no_memory(c->file->ctx, c->file->path);
    }
    for (uint64_t i = 0; i < n && status == SFFN_OK; i++) {
        if (strings)
            strings[i] = c->pos;
        status = take_value(c, type, nesting + 1, key, arena, NULL);
    }
    return status;
}

static sffn_status take_value(struct cursor *c, uint32_t type, uint32_t nesting, const char *key,
                              struct sffn_arena *arena, struct sffn_meta *meta)
{
    const size_t size = sffn_gguf_kind_bytes(type);
    size_t at, bytes;
    if (meta) {
        meta->at = c->pos;
        meta->n = 1;
    }
    if (type == SFFN_GGUF_ARRAY)
        return take_array(c, nesting, key, arena, meta);
    if (type == SFFN_GGUF_STRING)
        return take_text(c, key, &at, &bytes);
    sffn_status status = need(c, size, key);
    if (status == SFFN_OK && type == SFFN_GGUF_BOOL)
        status = check_bools(c, key, 1);
    if (status == SFFN_OK)
        c->pos += size;
    return status;
}

static sffn_status take_meta(struct cursor *c, struct sffn_arena *arena, struct sffn_meta *meta)
{
    meta->file = c->file;
    sffn_status status = take_name(c, "key", SFFN_GGUF_MAX_KEY, arena, &meta->key);
    if (status != SFFN_OK)
        return status;
    struct sffn_quoted key;
    sffn_quote(&key, meta->key, strlen(meta->key));
    meta->raw = c->pos;
    status = take_u32(c, key.text, &meta->type);
    if (status != SFFN_OK)
        return status;
    if (meta->type >= SFFN_GGUF_KIND_COUNT)
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, meta->raw, "key '%s': type %u is unknown",
                              key.text, (unsigned)meta->type);
    meta->kind = meta_kind(meta->type);
    status = take_value(c, meta->type, 0, key.text, arena, meta);
    meta->raw_bytes = c->pos - meta->raw;
    return status;
}

static struct sffn_name meta_name(const void *items, uint32_t i)
{
    const struct sffn_meta *metas = items;
    return (struct sffn_name){metas[i].key, strlen(metas[i].key)};
}

static sffn_status refuse_duplicate_keys(const struct sffn_file *file,
                                         const struct sffn_meta *metas, size_t n)
{
    struct sffn_arena scratch = {file->ctx, NULL, 0};
    struct sffn_name_entry *order = sffn_arena_alloc(&scratch, n, 2 * sizeof(*order));
    uint32_t twice[2];
    int is_duplicate = 0;
    if (order && n <= UINT32_MAX) {
        for (size_t i = 0; i < n; i++)
            order[i].item = (uint32_t)i;
        is_duplicate = sffn_name_sort(metas, meta_name, order, order + n, n, twice);
    }
    sffn_arena_free(&scratch);
    if (!order || n > UINT32_MAX)
        return sffn_no_memory(file->ctx, file->path);
    if (!is_duplicate)
        return SFFN_OK;
    struct sffn_quoted text;
    const char *key = metas[twice[1]].key;
    return sffn_file_fail(file, SFFN_ERR_FORMAT, metas[twice[1]].raw, "key '%s' appears twice",
                          sffn_quote(&text, key, strlen(key)));
}

static sffn_status find_alignment(const struct sffn_file *file, const struct sffn_parts *parts,
                                  size_t *alignment)
{
    *alignment = 32;
    for (size_t i = 0; i < parts->n_metas; i++) {
        const struct sffn_meta *meta = &parts->metas[i];
        if (strcmp(meta->key, "general.alignment") != 0)
            continue;
        if (meta->type != SFFN_GGUF_U32)
            return sffn_file_fail(file, SFFN_ERR_FORMAT, meta->raw,
                                  "general.alignment has type %u, expected %u (u32)",
                                  (unsigned)meta->type, (unsigned)SFFN_GGUF_U32);
        const uint32_t value = sffn_load_u32(file->data + meta->at);
        if (value == 0 || (value & (value - 1)) != 0 || value > SFFN_GGUF_MAX_ALIGNMENT)
            return sffn_file_fail(file, SFFN_ERR_FORMAT, meta->at,
                                  "general.alignment is %u, expected a power of two up to %u",
                                  (unsigned)value, (unsigned)SFFN_GGUF_MAX_ALIGNMENT);
        *alignment = value;
    }
    return SFFN_OK;
}

const char *sffn_tensor_bytes(const struct sffn_tensor_type *type, const uint64_t *dims,
                              uint32_t n_dims, uint64_t *bytes)
{
    uint64_t n = 1, bits;
    for (uint32_t i = 0; i < n_dims; i++)
        if (!sffn_checked_mul_u64(n, dims[i], &n))
            return "the product of its dimensions overflows";
    if (n_dims && type->block > 1 && dims[n_dims - 1] % type->block != 0)
        return "its row length is no multiple of the type's block";
    if (!n_dims && type->block > 1)
        return "a single value of a type with blocks";
    if (!sffn_checked_mul_u64(n / type->block, type->bits, &bits))
        return "its size overflows";
    if (bits % 8 != 0)
        return "its size is no whole number of bytes";
    *bytes = bits / 8;
    return NULL;
}

/* Fills everything but the data pointer; `offset` is relative to the data section. */
static sffn_status take_tensor(struct cursor *c, struct sffn_arena *arena,
                               struct sffn_tensor *tensor, uint64_t *offset, size_t *offset_at)
{
    const size_t start = c->pos;
    uint32_t n_dims = 0, type = 0;
    uint64_t file_dims[4] = {1, 1, 1, 1};
    sffn_status status = take_name(c, "tensor name", SFFN_GGUF_MAX_NAME, arena, &tensor->name);
    if (status != SFFN_OK)
        return status;
    tensor->file_name = tensor->name;
    struct sffn_quoted name;
    sffn_quote(&name, tensor->name, strlen(tensor->name));
    const size_t n_dims_at = c->pos;
    status = take_u32(c, name.text, &n_dims);
    if (status != SFFN_OK)
        return status;
    if (n_dims > 4)
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, n_dims_at,
                              "tensor '%s': %u dimensions, expected at most 4", name.text,
                              (unsigned)n_dims);
    for (uint32_t i = 0; i < n_dims; i++) {
        const size_t at = c->pos;
        status = take_u64(c, name.text, &file_dims[i]);
        if (status != SFFN_OK)
            return status;
        /* No type packs more than 8 elements into a byte. */
        if (file_dims[i] == 0 || file_dims[i] / 8 > c->file->bytes)
            return sffn_file_fail(
                c->file, SFFN_ERR_FORMAT, at, "tensor '%s': dimension %u is %llu, %s", name.text,
                (unsigned)i, (unsigned long long)file_dims[i],
                file_dims[i] ? "larger than the file allows" : "expected at least 1");
    }
    const size_t type_at = c->pos;
    status = take_u32(c, name.text, &type);
    if (status != SFFN_OK)
        return status;
    tensor->type = sffn_gguf_type(type);
    if (!tensor->type)
        return sffn_file_fail(c->file, SFFN_ERR_UNSUPPORTED, type_at, "tensor '%s': type %u is %s",
                              name.text, (unsigned)type,
                              type < SFFN_GGML_TYPE_COUNT ? "a removed one"
                                                          : "newer than this library");
    *offset_at = c->pos;
    status = take_u64(c, name.text, offset);
    if (status != SFFN_OK)
        return status;
    tensor->n_dims = n_dims ? n_dims : 1;
    for (uint32_t i = 0; i < 4; i++)
        tensor->dims[i] = i < tensor->n_dims ? file_dims[tensor->n_dims - 1 - i] : 1;
    uint64_t bytes = 0;
    const char *reason = sffn_tensor_bytes(tensor->type, tensor->dims, tensor->n_dims, &bytes);
    if (reason || bytes > c->file->bytes)
        return sffn_file_fail(c->file, SFFN_ERR_FORMAT, start, "tensor '%s' (%s): %s", name.text,
                              tensor->type->name, reason ? reason : "larger than the file");
    tensor->bytes = (size_t)bytes;
    return SFFN_OK;
}

int sffn_gguf_is_magic(const uint8_t *data, size_t bytes)
{
    return bytes >= 4 && (memcmp(data, "GGUF", 4) == 0 || memcmp(data, "PWRI", 4) == 0);
}

int sffn_gguf_is_powerinfer(const struct sffn_file *file)
{
    return file->bytes >= 4 && memcmp(file->data, "PWRI", 4) == 0;
}

static sffn_status check_version(const struct sffn_file *file, uint32_t version)
{
    if (version == 2 || version == 3)
        return SFFN_OK;
    if ((version & 0xffff) == 0 && version != 0)
        return sffn_file_fail(file, SFFN_ERR_UNSUPPORTED, 4, "a big-endian file (version 0x%08x)",
                              (unsigned)version);
    return sffn_file_fail(file, version == 0 ? SFFN_ERR_FORMAT : SFFN_ERR_UNSUPPORTED, 4,
                          "GGUF version %u, expected 2 or 3", (unsigned)version);
}

sffn_status sffn_gguf_parse(const struct sffn_file *file, struct sffn_arena *arena,
                            struct sffn_parts *parts)
{
    struct cursor c = {file, 0};
    *parts = (struct sffn_parts){NULL, 0, NULL, 0};
    sffn_status status = need(&c, HEADER_BYTES, "header");
    if (status == SFFN_OK)
        status = check_version(file, sffn_load_u32(file->data + 4));
    if (status != SFFN_OK)
        return status;
    const uint64_t n_tensors = sffn_load_u64(file->data + 8),
                   n_metas = sffn_load_u64(file->data + 16);
    c.pos = HEADER_BYTES;
    if (n_tensors > left(&c) / MIN_TENSOR_BYTES)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, 8, "%llu tensors, larger than the file allows",
                              (unsigned long long)n_tensors);
    if (n_metas > left(&c) / MIN_KEY_BYTES)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, 16, "%llu keys, larger than the file allows",
                              (unsigned long long)n_metas);

    parts->metas = sffn_arena_alloc(arena, (size_t)n_metas, sizeof(*parts->metas));
    if (!parts->metas)
        return sffn_no_memory(file->ctx, file->path);
    parts->n_metas = (size_t)n_metas;
    for (size_t i = 0; i < parts->n_metas && status == SFFN_OK; i++)
        status = take_meta(&c, arena, &parts->metas[i]);
    if (status == SFFN_OK)
        status = refuse_duplicate_keys(file, parts->metas, parts->n_metas);
    size_t alignment = 32;
    if (status == SFFN_OK)
        status = find_alignment(file, parts, &alignment);
    if (status != SFFN_OK)
        return status;

    if (n_tensors > left(&c) / MIN_TENSOR_BYTES)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, 8, "%llu tensors, larger than the file allows",
                              (unsigned long long)n_tensors);
    parts->tensors = sffn_arena_alloc(arena, (size_t)n_tensors, sizeof(*parts->tensors));
    if (!parts->tensors)
        return sffn_no_memory(file->ctx, file->path);
    parts->n_tensors = (size_t)n_tensors;
    /* End of the data so far, padded, relative to the data section: where the next tensor is. */
    size_t end = 0;
    for (size_t i = 0; i < parts->n_tensors; i++) {
        struct sffn_tensor *tensor = &parts->tensors[i];
        uint64_t offset = 0;
        size_t offset_at = 0, next = 0;
        status = take_tensor(&c, arena, tensor, &offset, &offset_at);
        if (status != SFFN_OK)
            return status;
        struct sffn_quoted name;
        if (offset != end)
            return sffn_file_fail(file, SFFN_ERR_FORMAT, offset_at,
                                  "tensor '%s': data offset %llu, expected %zu",
                                  sffn_quote(&name, tensor->name, strlen(tensor->name)),
                                  (unsigned long long)offset, end);
        if (!sffn_checked_add(end, tensor->bytes, &next) ||
            !sffn_checked_round_up(next, alignment, &next))
            return sffn_file_fail(file, SFFN_ERR_FORMAT, offset_at,
                                  "tensor '%s': the sizes' sum overflows",
                                  sffn_quote(&name, tensor->name, strlen(tensor->name)));
        end = next;
    }

    size_t start = 0, at = 0;
    if (!sffn_checked_round_up(c.pos, alignment, &start))
        return sffn_file_fail(file, SFFN_ERR_FORMAT, c.pos, "the start of the data overflows");
    for (size_t i = 0; i < parts->n_tensors; i++) {
        struct sffn_tensor *tensor = &parts->tensors[i];
        struct sffn_quoted name;
        if (start > file->bytes || at > file->bytes - start ||
            tensor->bytes > file->bytes - start - at)
            return sffn_file_fail(file, SFFN_ERR_FORMAT, (uint64_t)start + at,
                                  "tensor '%s': %zu bytes of data expected, the file ends at %zu",
                                  sffn_quote(&name, tensor->name, strlen(tensor->name)),
                                  tensor->bytes, file->bytes);
        tensor->data = file->data + start + at;
        sffn_checked_round_up(at + tensor->bytes, alignment, &at); /* the sum was checked above */
    }
    return SFFN_OK;
}

int64_t sffn_gguf_load_int(const struct sffn_file *file, uint32_t type, size_t at,
                           int *is_too_large)
{
    const uint8_t *p = file->data + at;
    *is_too_large = 0;
    switch (type) {
    case SFFN_GGUF_U8:
        return p[0];
    case SFFN_GGUF_BOOL:
        return p[0] != 0;
    case SFFN_GGUF_I8:
        return (int8_t)p[0];
    case SFFN_GGUF_U16:
        return sffn_load_u16(p);
    case SFFN_GGUF_I16:
        return (int16_t)sffn_load_u16(p);
    case SFFN_GGUF_U32:
        return sffn_load_u32(p);
    case SFFN_GGUF_I32:
        return (int32_t)sffn_load_u32(p);
    default: {
        const uint64_t value = sffn_load_u64(p);
        *is_too_large = type == SFFN_GGUF_U64 && value > INT64_MAX;
        return (int64_t)value;
    }
    }
}

double sffn_gguf_load_float(const struct sffn_file *file, uint32_t type, size_t at)
{
    const uint8_t *p = file->data + at;
    if (type == SFFN_GGUF_F32) {
        const uint32_t bits = sffn_load_u32(p);
        float value;
        memcpy(&value, &bits, sizeof(value));
        return value;
    }
    const uint64_t bits = sffn_load_u64(p);
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

int sffn_gguf_string(const struct sffn_file *file, size_t at, const char **text, size_t *bytes)
{
    const uint64_t n = sffn_load_u64(file->data + at);
    if (n > file->bytes - at - 8)
        return 0;
    *text = (const char *)file->data + at + 8;
    *bytes = (size_t)n;
    return 1;
}
