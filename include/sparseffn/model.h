/** @file model.h  sffn_model: tensors, metadata and FFN layers of a model file. */
#ifndef SFFN_MODEL_H
#define SFFN_MODEL_H
#include "sparseffn/ffn.h"
#ifdef __cplusplus
extern "C" {
#endif
/**
 * A memory-mapped GGUF file (v2, v3), a safetensors file, or a Hugging Face folder (config.json and model.safetensors, or
 * model.safetensors.index.json with its shards). Immutable once open: share it freely between threads. File contents are hostile input: every size
 * is checked against the file before it is used. A file truncated by somebody else while it is mapped raises SIGBUS.
 */
typedef struct sffn_model sffn_model;

/** @param path UTF-8. @retval SFFN_ERR_IO, SFFN_ERR_FORMAT (text: path, offset, reason), SFFN_ERR_UNSUPPORTED, SFFN_ERR_OUT_OF_MEMORY. Since 0.1. */
SFFN_API sffn_status sffn_model_open(sffn_context *ctx, const char *path, sffn_model **model);
/** Unmaps. Borrowing layers must be gone. NULL is a no-op. Since 0.1. */
SFFN_API void sffn_model_close(sffn_model *model);

enum sffn_file_format { SFFN_FILE_GGUF = 0, SFFN_FILE_SAFETENSORS = 1, SFFN_FILE_HF_FOLDER = 2 };

/** Hyper-parameters, from GGUF metadata or config.json; 0, -1 or "" when the file does not say. */
typedef struct sffn_model_info {
    size_t struct_size;
    int32_t format;            /**< enum sffn_file_format */
    const char *architecture;  /**< "llama"; owned by the model */
    const char *name;          /**< general.name or the folder's name */
    uint32_t n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_context;
    float rms_norm_eps, rope_theta;
    int32_t activation;        /**< enum sffn_activation; -1 = not said */
    float act_threshold;
    int32_t act_tie;           /**< enum sffn_tie */
    int32_t is_tied;           /**< 1: no output matrix of its own */
    int32_t rope_is_permuted;  /**< 1: q and k rows are in GGUF's llama order (neighbouring pairs rotate); 0: Hugging Face's (halves) */
    size_t n_tensors;
    uint64_t file_bytes;
    size_t n_meta;             /**< metadata keys, see sffn_model_get_meta() */
} sffn_model_info;
#define SFFN_MODEL_INFO_INIT \
    { sizeof(sffn_model_info), 0, NULL, NULL, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0.0f, 0.0f, -1, 0.0f, 1, 0, 0, 0u, 0u, 0u }
SFFN_API sffn_status sffn_model_get_info(const sffn_model *model, sffn_model_info *info);

typedef struct sffn_tensor_info {
    size_t struct_size;
    const char *name;       /**< GGUF's name, also for Hugging Face files ("blk.0.ffn_gate.weight"); names we don't know stay. Owned by the model */
    const char *file_name;  /**< the name in the file */
    const char *type_name;  /**< "F32", "Q4_K", ... as the file's format calls it */
    int32_t dtype;          /**< enum sffn_dtype, or -1 for a type without kernels */
    uint32_t n_dims;        /**< 1..4 (0-dimensional tensors have 1 of size 1) */
    uint64_t dims[4];       /**< slowest first: [rows][columns]; unused ones are 1 */
    const void *data;       /**< mapped, read-only, any alignment */
    uint64_t bytes;
} sffn_tensor_info;
#define SFFN_TENSOR_INFO_INIT { sizeof(sffn_tensor_info), NULL, NULL, NULL, -1, 0u, { 0u, 0u, 0u, 0u }, NULL, 0u }
/** @retval SFFN_ERR_NOT_FOUND index >= n_tensors. Since 0.1. */
SFFN_API sffn_status sffn_model_get_tensor(const sffn_model *model, size_t index, sffn_tensor_info *info);
/** By GGUF name (or the file's own). @retval SFFN_ERR_NOT_FOUND the text has the name. Since 0.1. */
SFFN_API sffn_status sffn_model_find_tensor(const sffn_model *model, const char *name, sffn_tensor_info *info);

/** Kinds of metadata values. Integers of all widths are widened. */
enum sffn_meta_kind { SFFN_META_NONE = 0, SFFN_META_INT = 1, SFFN_META_FLOAT = 2, SFFN_META_BOOL = 3, SFFN_META_STRING = 4, SFFN_META_ARRAY = 5 };
/** Metadata by index, for listings: key (owned by the model) and kind, of arrays also the elements' kind and count. @retval SFFN_ERR_NOT_FOUND. Since 0.1. */
SFFN_API sffn_status sffn_model_get_meta(const sffn_model *model, size_t index, const char **key, int32_t *kind, int32_t *element_kind, uint64_t *n);
/** Single values, and elements of arrays with index > 0 or on array keys; scalars have only index 0. Integers and bools convert to each other and to double.
    @retval SFFN_ERR_NOT_FOUND no such key or element; SFFN_ERR_DTYPE another kind. Since 0.1. */
SFFN_API sffn_status sffn_model_get_int(const sffn_model *model, const char *key, size_t index, int64_t *value);
SFFN_API sffn_status sffn_model_get_float(const sffn_model *model, const char *key, size_t index, double *value);
/** @param[out] text not NUL-terminated, mapped; @p bytes long. Since 0.1. */
SFFN_API sffn_status sffn_model_get_string(const sffn_model *model, const char *key, size_t index, const char **text, size_t *bytes);
/** Elements of an array key, 1 for a scalar, 0 when there is no such key. Since 0.1. */
SFFN_API size_t sffn_model_meta_count(const sffn_model *model, const char *key);

/**
 * Fills a config with what the file says of layer @p layer: weights (borrowed from the mapping), biases, activation, thresholds. config->data pointers
 * live as long as the model. @p config must have been initialised; fields the file does not decide keep their values.
 * @retval SFFN_ERR_NOT_FOUND  layer out of range or a tensor is missing; the text has its name
 * @retval SFFN_ERR_SHAPE      a tensor's size contradicts the metadata
 * @retval SFFN_ERR_UNSUPPORTED an activation or type without kernels; the text names it. `sffn prepare` converts Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K
 * @retval SFFN_ERR_FORMAT     a malformed rule (keys sffn.rule*, tensor blk.N.sffn_rule.threshold); the text has key or tensor, offset and reason
 * Since 0.1.
 */
SFFN_API sffn_status sffn_model_layer_config(const sffn_model *model, uint32_t layer, sffn_ffn_config *config);

/**
 * The layer's predictor, as a config that sffn_predictor_create() takes. Pointers lead into the file and live as long as the model. Sources: our keys
 * sffn.predictor.* with the tensors blk.N.sffn_predictor*; copies of the gate have no tensors of their own and are made from the layer's gate. Or
 * PowerInfer's blk.N.fc1.weight and fc2.weight (arXiv:2312.12456) with powerinfer.sparse_threshold: low rank, ReLU, kept at equality, from the residual
 * stream (Falcon: the layer's input).
 * @p config must have been initialised; fields the file does not decide keep their values.
 * @retval SFFN_ERR_NOT_FOUND   the layer has no predictor, or is out of range
 * @retval SFFN_ERR_FORMAT      an array of the wrong length or kind, an unknown name, a NaN threshold, a missing tensor; the text has key or tensor, offset
 *                              and reason
 * @retval SFFN_ERR_SHAPE       a tensor does not fit this layer
 * @retval SFFN_ERR_UNSUPPORTED a type without kernels
 * Since 0.1.
 */
SFFN_API sffn_status sffn_model_layer_predictor_config(const sffn_model *model, uint32_t layer, sffn_predictor_config *config);
/** The same for the layer's router: keys sffn.router.*, tensors blk.N.sffn_router*. Since 0.1. */
SFFN_API sffn_status sffn_model_layer_router_config(const sffn_model *model, uint32_t layer, sffn_router_config *config);
/** The layer's plan, key sffn.plan: enum sffn_select; SFFN_SELECT_DEFAULT when the file has none. @retval SFFN_ERR_FORMAT, SFFN_ERR_NOT_FOUND. Since 0.1. */
SFFN_API sffn_status sffn_model_layer_plan(const sffn_model *model, uint32_t layer, int32_t *select);
/**
 * Where the layer's neurons were before preparation, tensor blk.N.sffn_permutation: the file's neuron i was neuron permutation[i]. Rows in the file are
 * already permuted; a layer runs without knowing.
 * @param[out] permutation  [d_ff]; untouched on error
 * @retval SFFN_ERR_NOT_FOUND  never permuted;  SFFN_ERR_FORMAT  no permutation;  SFFN_ERR_SHAPE. Since 0.1.
 */
SFFN_API sffn_status sffn_model_layer_permutation(const sffn_model *model, uint32_t layer, uint32_t *permutation);

/**
 * Makes layer @p layer with the selector that its plan names (without a plan: its predictor, else its router, if it has one) and with the plan as meaning
 * of SFFN_SELECT_DEFAULT: sffn_ffn_forward() with default arguments then does what the file says. The layer owns its selector.
 * @param config  what the file does not decide: storage, dtype, block_size, max_density, dense_tokens, name (NULL: "blk.N"). A predictor, router or select
 *                set here is used in place of the file's. NULL: defaults
 * @retval as sffn_model_layer_config(), the selectors' configs and creation, and sffn_ffn_create()
 * A selector that wants another input than x (sffn_ffn_info.select_input says which) gets it by sffn_ffn_args.select_x. Since 0.1.
 */
SFFN_API sffn_status sffn_ffn_create_from_model(sffn_context *ctx, const sffn_model *model, uint32_t layer, const sffn_ffn_config *config,
                                                sffn_ffn **ffn);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_MODEL_H */
