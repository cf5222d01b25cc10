/* model.h  What lib/prepare may know of an open model. */
#ifndef SFFN_MODEL_INTERNAL_H
#define SFFN_MODEL_INTERNAL_H
#include "model/name_index.h"
#include "model/parts.h"
#include "sparseffn/model.h"

struct sffn_model {
    const sffn_context *ctx; /* lends allocator and error text */
    struct sffn_arena arena; /* everything below */
    const char *path;        /* as it was opened */
    sffn_model_info info;
    struct sffn_file *files; /* every file that stays open */
    size_t n_files;
    struct sffn_parts parts;
    struct sffn_name_entry *meta_order, *name_order, *file_name_order; /* for look-up */
    /* per tensor: f32 copy of a config's vector that cannot be used in place, or NULL */
    float **vectors;
    const char *unknown_activation; /* the file names one that we don't know; else NULL */
    int is_gated;                   /* some layer has a gate, so all must */
    const struct sffn_json *config; /* of a Hugging Face folder; else NULL */
};

/* The same as sffn_model_open() for a file's bytes (GGUF or safetensors), which must outlive the
 * model. `name` is used in error texts. */
sffn_status sffn_model_open_memory(sffn_context *ctx, const char *name, const void *data,
                                   size_t bytes, sffn_model **model);

/* Look-ups that are allowed to find nothing, without an error text. */
const struct sffn_tensor *sffn_model_tensor(const sffn_model *model, const char *name);
const struct sffn_meta *sffn_model_meta(const sffn_model *model, const char *key);
/* The key "<architecture>.<suffix>". */
const struct sffn_meta *sffn_model_arch_meta(const sffn_model *model, const char *suffix);

/* A key's finite float. Without the key (NULL) *value stays. */
sffn_status sffn_model_float_key(const struct sffn_meta *meta, float *value);

/* 1 for GGUF architectures whose q and k rows llama.cpp's converter reorders, so that
 * neighbouring pairs rotate. */
int sffn_rope_is_permuted(const char *architecture);

/* "blk.12.rest" -> 1, the layer, and where the rest starts. */
int sffn_model_layer_of(const char *name, uint32_t *layer, const char **rest);

#endif /* SFFN_MODEL_INTERNAL_H */
