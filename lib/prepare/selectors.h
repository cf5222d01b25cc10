/* selectors.h  What the caller found out about each layer: checked, and as keys and tensors of the
 * output. */
#ifndef SFFN_PREPARE_SELECTORS_H
#define SFFN_PREPARE_SELECTORS_H
#include "model/model.h"
#include "prepare/gguf_write.h"
#include "sparseffn/prepare.h"

struct sffn_layer_result {
    int32_t plan;
    int has_predictor, has_router;
    sffn_ffn_config ffn; /* only the rule's fields are set */
    sffn_predictor_config predictor;
    sffn_router_config router;
    const uint32_t *order; /* the caller's permutation, or NULL */
    uint32_t d_ff;
};

/* A tensor that the source does not have. */
struct sffn_new_tensor {
    struct sffn_tensor tensor; /* its data are the caller's, or in the arena */
    size_t row_bytes;          /* distance of rows in data; 0: packed */
    const uint32_t *order;     /* rows are reordered by it; NULL: not */
};
#define SFFN_NEW_TENSORS_PER_LAYER 12

struct sffn_results {
    struct sffn_layer_result *layers; /* NULL: the source's selectors are carried over */
    uint32_t n_layers;
    struct sffn_new_tensor *tensors;
    size_t n_tensors;
};

/* Checks and copies config->layers. Caller's arrays are borrowed, the rest is in the arena. */
sffn_status sffn_results_take(sffn_context *ctx, const sffn_model *model,
                              const sffn_prepare_config *config, struct sffn_arena *arena,
                              struct sffn_results *results);
void sffn_results_write_keys(const struct sffn_results *results, struct sffn_gguf_writer *w);

/* Whether a key, or the part of a tensor's name after "blk.N.", belongs to a selector, a rule or a plan. */
int sffn_is_selector_key(const char *key);
int sffn_is_selector_part(const char *part);

/* The ggml type of an enum sffn_dtype. */
const struct sffn_tensor_type *sffn_type_of_dtype(int32_t dtype);

#endif /* SFFN_PREPARE_SELECTORS_H */
