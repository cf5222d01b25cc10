/* hf.h  Hugging Face folders: names of tensors, config.json, shards. */
#ifndef SFFN_HF_H
#define SFFN_HF_H
#include "model/parts.h"
#include "sparseffn/model.h"

#define SFFN_HF_MAX_CONFIG    ((size_t)1 << 20) /* real ones have a few kilobytes */
#define SFFN_HF_MAX_INDEX     ((size_t)64 << 20)
#define SFFN_HF_MAX_TOKENIZER ((size_t)256 << 20)
#define SFFN_HF_MAX_SHARDS    4096
#define SFFN_HF_MAX_NAME      96 /* of a GGUF name that we make */

/* "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight". Returns 0 and leaves `out` alone
 * for names that have no GGUF name. */
int sffn_hf_gguf_name(const char *name, char out[SFFN_HF_MAX_NAME]);

/* "FOLDER/NAME" in the arena; NULL without memory. */
char *sffn_hf_path(struct sffn_arena *arena, const char *folder, const char *name);

/* The distinct shard names of model.safetensors.index.json, and that every one is a plain file
 * name. Whether the shards have what the map says is for the caller to see, who reads them. */
struct sffn_hf_index {
    struct sffn_json json;
    uint32_t map; /* node of weight_map */
    const char **shards;
    size_t n_shards;
};
sffn_status sffn_hf_read_index(const struct sffn_file *file, struct sffn_arena *arena,
                               struct sffn_hf_index *index);

/* Hyper-parameters of config.json into `info`; `unknown_activation` gets the name of one that we
 * don't know, else NULL. */
sffn_status sffn_hf_read_config(const struct sffn_json *config, struct sffn_arena *arena,
                                sffn_model_info *info, const char **unknown_activation);
/* config.json as metadata; keys of nested objects are joined with a dot. */
sffn_status sffn_hf_read_metas(const struct sffn_json *config, struct sffn_arena *arena,
                               struct sffn_parts *parts);
/* Hugging Face's name of an activation ("gelu_new") -> enum sffn_activation, or -1. */
int32_t sffn_hf_activation(const char *name, size_t bytes);
/* Kind of a JSON value as metadata. */
int32_t sffn_hf_meta_kind(const struct sffn_json *json, uint32_t node);

#endif /* SFFN_HF_H */
