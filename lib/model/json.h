/* json.h  A strict, bounded JSON reader (RFC 8259) for safetensors headers, config.json, index and
 * tokenizer files.
 *
 * Refused: duplicate keys in one object (compared after unescaping), invalid UTF-8, lone
 * surrogates, control characters in strings, byte order marks, nesting deeper than
 * SFFN_JSON_MAX_DEPTH, text after the value. No recursion. The text is copied first, so a
 * mapping that changes meanwhile cannot get between two looks. Memory: the text once more, and
 * 16 bytes per value and key. */
#ifndef SFFN_JSON_H
#define SFFN_JSON_H
#include <stddef.h>
#include <stdint.h>
#include "model/arena.h"
#include "model/filemap.h"

#define SFFN_JSON_MAX_DEPTH 64

enum sffn_json_kind {
    SFFN_JSON_NULL = 0,
    SFFN_JSON_FALSE,
    SFFN_JSON_TRUE,
    SFFN_JSON_NUMBER,
    SFFN_JSON_STRING,
    SFFN_JSON_ARRAY,
    SFFN_JSON_OBJECT
};

/* Values in document order. An object's children are key, value, key, value, ...; the next
 * sibling of value v is nodes[v].end. */
struct sffn_json_node {
    uint8_t kind;
    uint8_t is_plain; /* string that had escapes: `at` points into `plain` */
    uint16_t unused;
    uint32_t at;    /* of a string's or number's text; of a container's bracket */
    uint32_t bytes; /* of the text; containers: members or elements */
    uint32_t end;   /* one past the last node of this value */
};

struct sffn_json {
    const struct sffn_file *file; /* for error texts */
    size_t offset;                /* of the text in it */
    const char *text;
    const char *plain; /* unescaped strings */
    const struct sffn_json_node *nodes;
    uint32_t n_nodes;
};

/* Parses bytes [offset, offset + bytes) of the file; node 0 is the value. Everything lives in
 * the arena. SFFN_ERR_FORMAT: "PATH: offset 123: JSON: reason". */
sffn_status sffn_json_parse(const struct sffn_file *file, size_t offset, size_t bytes,
                            struct sffn_arena *arena, struct sffn_json *json);

/* Where a value stands in the file, for error texts. */
uint64_t sffn_json_offset(const struct sffn_json *json, uint32_t node);
/* The text of a string (unescaped) or number; not NUL-terminated. */
const char *sffn_json_text(const struct sffn_json *json, uint32_t node, size_t *bytes);
/* 1 when the node is the string `text`. */
int sffn_json_is(const struct sffn_json *json, uint32_t node, const char *text);
/* The value of a key of an object, or 0 (never a member) when there is none or `object` is no
 * object. Linear. */
uint32_t sffn_json_get(const struct sffn_json *json, uint32_t object, const char *key);
/* Numbers. 0 when the node is no number of that kind: u64 and i64 want an integer literal in
 * range; double wants a finite one and is within one unit in the last place (exact up to 2^53
 * and 10^22). Not locale-dependent. */
int sffn_json_u64(const struct sffn_json *json, uint32_t node, uint64_t *value);
int sffn_json_i64(const struct sffn_json *json, uint32_t node, int64_t *value);
int sffn_json_double(const struct sffn_json *json, uint32_t node, double *value);

/* 1 when the bytes are UTF-8: no overlong forms, no surrogates, nothing over U+10FFFF. */
int sffn_utf8_is_valid(const char *text, size_t bytes);

#endif /* SFFN_JSON_H */
