/** @file prepare.h  Makes one GGUF file with neuron-major down rows, and the selectors of its layers, from a model. */
#ifndef SFFN_PREPARE_H
#define SFFN_PREPARE_H
#include "sparseffn/model.h"
#ifdef __cplusplus
extern "C" {
#endif
/**
 * What was found out about one layer. Everything is in the order of the source's neurons: sffn_prepare() applies the permutation itself. Start from
 * SFFN_PREPARE_LAYER_INIT.
 */
typedef struct sffn_prepare_layer {
    size_t struct_size;
    int32_t plan;                 /**< enum sffn_select but not ACTIVE; SFFN_SELECT_DEFAULT: not said */
    int32_t rule;                 /**< enum sffn_rule */
    int32_t rule_tie;             /**< enum sffn_tie */
    float rule_threshold;
    const float *rule_thresholds; /**< [d_ff] or NULL */
    uint32_t rule_k, rule_m;      /**< blocks of rule_m are those after the permutation */
    float rule_sparsity;
    const sffn_predictor_config *predictor; /**< NULL: none. Its gate is not written: that of the file is used when the predictor is made */
    const sffn_router_config *router;       /**< NULL: none. Its experts are the blocks of neurons after the permutation */
    const uint32_t *permutation;  /**< [d_ff]: new neuron i is the source's permutation[i]. NULL: as they are */
} sffn_prepare_layer;
#define SFFN_PREPARE_LAYER_INIT \
    { sizeof(sffn_prepare_layer), SFFN_SELECT_DEFAULT, SFFN_RULE_NONE, SFFN_TIE_DROP, 0.0f, NULL, 0u, 0u, 0.0f, NULL, NULL, NULL }

typedef struct sffn_prepare_config {
    size_t struct_size;
    int32_t dtype;              /**< type of all matrices (2 dimensions, columns a multiple of its block): bf16, q8_0, q4_0, f16 or f32; -1: as they are, but
                                     q8_0 for types without kernels (Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K). Vectors stay f32, selectors keep their type */
    int32_t keep_embeddings;    /**< 1 (default): the token embedding and output matrix are not brought below q8_0 */
    float act_threshold;        /**< >= 0: writes fatrelu with this threshold in place of relu; negative (default): what the source says */
    sffn_progress_fn progress;  /**< NULL: none */
    void *progress_user;
    const sffn_prepare_layer *layers; /**< [n_layers], all with the same struct_size; they replace every selector, rule and plan that the source has.
                                           NULL (default): the source's are carried over */
    uint32_t n_layers;          /**< of the model, with layers */
    const char *command;        /**< how the file was made, for sffn.prepare.command; NULL: what the source says */
    const char *notes;          /**< anything else worth knowing, for sffn.prepare.notes; NULL: what the source says */
} sffn_prepare_config;
#define SFFN_PREPARE_CONFIG_INIT { sizeof(sffn_prepare_config), -1, 1, -1.0f, NULL, NULL, NULL, 0u, NULL, NULL }

/**
 * Writes @p out_path (through a temporary file beside it, renamed at the end: an interrupted run leaves nothing half done) as a GGUF v3 with the
 * source's tensors under GGUF names; each blk.N.ffn_down.weight becomes blk.N.ffn_down_t.weight [d_ff][d_model]; q and k are in GGUF's llama
 * order; the tokenizer is carried over (tokenizer.json of a Hugging Face folder becomes tokenizer.ggml.*). Ours are the keys sffn.*: sffn.version,
 * sffn.activation, sffn.act_threshold, sffn.act_tie, sffn.source, sffn.prepare.command, sffn.prepare.notes.
 * Same-type rows are copied bit for bit. A quantised down is decoded and quantised again along the other direction.
 *
 * Selectors: one array key per config field, with one element per layer, sffn.plan, sffn.rule*, sffn.predictor.*, sffn.router.*; enums are strings, and a
 * layer without predictor or router has "none" as its kind or rule. Tensors: blk.N.sffn_rule.threshold, blk.N.sffn_predictor.threshold,
 * blk.N.sffn_router.weight and .bias, blk.N.sffn_permutation (I32). A permutation moves rows of gate, up and down, their biases, thresholds per
 * neuron and the predictor's outputs; quantised gate and up rows keep their bits.
 * @retval SFFN_ERR_INVALID_ARGUMENT  a value out of range, NaN thresholds, permutation[] that is none, a plan without its selector; the text names the layer
 * @retval SFFN_ERR_SHAPE             n_layers, or a selector that does not fit its layer
 * @retval SFFN_ERR_UNSUPPORTED       a type that cannot be converted, a selector that cannot be written
 * @retval SFFN_ERR_IO, SFFN_ERR_FORMAT, SFFN_ERR_OUT_OF_MEMORY, SFFN_ERR_INTERRUPTED
 * Since 0.1.
 */
SFFN_API sffn_status sffn_prepare(sffn_context *ctx, const sffn_model *model, const char *out_path, const sffn_prepare_config *config);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_PREPARE_H */
