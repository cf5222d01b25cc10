/* parts.h  What a model is made of, whichever file it came from. Parsers fill these; model.c
 * puts them together. */
#ifndef SFFN_MODEL_PARTS_H
#define SFFN_MODEL_PARTS_H
#include <stddef.h>
#include <stdint.h>
#include "model/arena.h"
#include "model/filemap.h"
#include "model/json.h"
#include "model/tensor_types.h"

/* GGUF's numbers for kinds of values. */
enum sffn_gguf_kind {
    SFFN_GGUF_U8 = 0,
    SFFN_GGUF_I8 = 1,
    SFFN_GGUF_U16 = 2,
    SFFN_GGUF_I16 = 3,
    SFFN_GGUF_U32 = 4,
    SFFN_GGUF_I32 = 5,
    SFFN_GGUF_F32 = 6,
    SFFN_GGUF_BOOL = 7,
    SFFN_GGUF_STRING = 8,
    SFFN_GGUF_ARRAY = 9,
    SFFN_GGUF_U64 = 10,
    SFFN_GGUF_I64 = 11,
    SFFN_GGUF_F64 = 12,
    SFFN_GGUF_KIND_COUNT = 13
};

/* One key. Its value stays in the file: at an offset (GGUF) or as a node (JSON). */
struct sffn_meta {
    const char *key;      /* NUL-terminated, UTF-8 */
    int32_t kind;         /* enum sffn_meta_kind */
    int32_t element_kind; /* of arrays; SFFN_META_NONE: empty or mixed */
    uint64_t n;           /* elements; 1 for a scalar */
    /* GGUF */
    const struct sffn_file *file;
    uint32_t type, element_type; /* enum sffn_gguf_kind */
    size_t at;                   /* of the scalar, or of the first element */
    size_t raw, raw_bytes;       /* type word and everything after it, for copying */
    const uint64_t *strings;     /* arrays of strings: offset of each element's length word */
    /* JSON */
    const struct sffn_json *json; /* NULL: GGUF */
    uint32_t node;
};

struct sffn_tensor {
    const char *name;      /* GGUF's */
    const char *file_name; /* may be the same pointer */
    const struct sffn_tensor_type *type;
    uint32_t n_dims;
    uint64_t dims[4]; /* slowest first */
    const uint8_t *data;
    size_t bytes;
};

struct sffn_parts {
    struct sffn_meta *metas;
    size_t n_metas;
    struct sffn_tensor *tensors;
    size_t n_tensors;
};

/* Bytes of n_dims dimensions, slowest first, of a type. Returns NULL, or why it cannot be: the
 * words go into an error text. */
const char *sffn_tensor_bytes(const struct sffn_tensor_type *type, const uint64_t *dims,
                              uint32_t n_dims, uint64_t *bytes);

#endif /* SFFN_MODEL_PARTS_H */
