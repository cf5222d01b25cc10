/** @file prepare.h  Makes one GGUF file with neuron-major down rows from a model. */
#ifndef SFFN_PREPARE_H
#define SFFN_PREPARE_H
#include "sparseffn/model.h"
#ifdef __cplusplus
extern "C" {
#endif
typedef struct sffn_prepare_config {
    size_t struct_size;
    int32_t dtype;              /**< type of all matrices (2 dimensions, columns a multiple of its block): bf16, q8_0, q4_0, f16 or f32; -1: as they are.
                                     Vectors stay f32 */
    int32_t keep_embeddings;    /**< 1 (default): the token embedding and output matrix are not brought below q8_0 */
    float act_threshold;        /**< >= 0: writes fatrelu with this threshold in place of relu; negative (default): what the source says */
    sffn_progress_fn progress;  /**< NULL: none */
    void *progress_user;
} sffn_prepare_config;
#define SFFN_PREPARE_CONFIG_INIT { sizeof(sffn_prepare_config), -1, 1, -1.0f, NULL, NULL }

/**
 * Writes @p out_path (through a temporary file beside it, renamed at the end: an interrupted run leaves nothing half done) as a GGUF v3 with the
 * source's tensors under GGUF names; each blk.N.ffn_down.weight becomes blk.N.ffn_down_t.weight [d_ff][d_model]; q and k are in GGUF's llama
 * order; the tokenizer is carried over (tokenizer.json of a Hugging Face folder becomes tokenizer.ggml.*). Ours are the keys sffn.*: sffn.version,
 * sffn.activation, sffn.act_threshold, sffn.act_tie, sffn.source.
 * Same-type rows are copied bit for bit. A quantised down is decoded and quantised again along the other direction.
 * @retval SFFN_ERR_IO, SFFN_ERR_FORMAT, SFFN_ERR_SHAPE, SFFN_ERR_UNSUPPORTED, SFFN_ERR_OUT_OF_MEMORY, SFFN_ERR_INTERRUPTED
 * Since 0.1.
 */
SFFN_API sffn_status sffn_prepare(sffn_context *ctx, const sffn_model *model, const char *out_path, const sffn_prepare_config *config);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_PREPARE_H */
