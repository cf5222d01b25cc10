/** @file predictor.h  Which neurons will be active? Scores per neuron, and the decision. */
#ifndef SFFN_PREDICTOR_H
#define SFFN_PREDICTOR_H
#include "sparseffn/matmul.h"
#ifdef __cplusplus
extern "C" {
#endif
/** Predictor of one layer. Immutable once created: share it freely between threads. */
typedef struct sffn_predictor sffn_predictor;

enum sffn_predictor_kind {
    /**
     * A 4-bit copy of the gate (q4_0) scores all neurons; the full gate then decides among those let through. No training.
     * Its input is the layer's own x. Neuron i passes when score_i + margin * e_i * ||x|| > threshold_i, e_i being the
     * root mean square error of row i's 4-bit copy: the standard deviation of the score's error for an x without structure.
     */
    SFFN_PREDICTOR_SCREENED_GATE = 0
};

/** How scores become a selection. A NaN score is kept in every case, so that it is seen. */
enum sffn_decision {
    SFFN_DECIDE_THRESHOLD = 0, /**< keep score_i > threshold_i (tie drop) or >= (tie keep); PowerInfer and NimbleEdge keep at equality */
    SFFN_DECIDE_TOP_K = 1      /**< keep the top_k largest scores, NaN first; among equal ones those of the lowest neurons. Deja Vu, arXiv:2310.17157 */
};

typedef struct sffn_predictor_config {
    size_t struct_size;
    int32_t kind;             /**< enum sffn_predictor_kind */
    uint32_t d_model;         /**< length of the predictor's input */
    uint32_t d_ff;            /**< neurons */
    sffn_weights gate;        /**< screened gate: the gate, SFFN_LAYOUT_ROWS [d_ff][d_model], any type; only read during creation */
    const float *gate_bias;   /**< [d_ff] added to the scores, or NULL; copied */
    int32_t decision;         /**< enum sffn_decision; default SFFN_DECIDE_THRESHOLD */
    int32_t tie;              /**< enum sffn_tie, of SFFN_DECIDE_THRESHOLD; default SFFN_TIE_DROP */
    float threshold;          /**< a neuron passes when its score exceeds it; default 0. Use the layer's own gate threshold */
    const float *thresholds;  /**< [d_ff] per neuron, instead of threshold; NULL: none; copied */
    float margin;             /**< >= 0, in standard deviations of the 4-bit error; default 1.5; 0: the bare score decides */
    uint32_t top_k;           /**< SFFN_DECIDE_TOP_K: 1..d_ff; margin then has no say */
    uint32_t top_k_multiple;  /**< top_k is rounded up to a multiple of this, at most d_ff; default 1. Deja Vu uses 128 */
} sffn_predictor_config;
#define SFFN_PREDICTOR_CONFIG_INIT \
    { sizeof(sffn_predictor_config), SFFN_PREDICTOR_SCREENED_GATE, 0u, 0u, SFFN_WEIGHTS_INIT, NULL, SFFN_DECIDE_THRESHOLD, SFFN_TIE_DROP, \
      0.0f, NULL, 1.5f, 0u, 1u }

/**
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, zero size, unknown kind, decision or tie, NaN threshold or margin, top_k out of range or with thresholds
 * @retval SFFN_ERR_SHAPE             d_model no multiple of 32 (screened gate)
 * @retval SFFN_ERR_UNSUPPORTED       a q4_0 gate: its 4-bit copy would cost as many bytes as the gate itself; a gate in SFFN_LAYOUT_COLUMNS
 * @retval SFFN_ERR_OUT_OF_MEMORY
 * Since 0.1.
 */
SFFN_API sffn_status sffn_predictor_create(sffn_context *ctx, const sffn_predictor_config *config, sffn_predictor **predictor);
/** NULL is a no-op. Since 0.1. */
SFFN_API void sffn_predictor_destroy(sffn_predictor *predictor);
/**
 * Scores all neurons for each token and, when asked, keeps those that pass.
 * @param x       [n_tokens] rows of d_model floats, x_stride apart: the predictor's own input
 * @param scores  [n_tokens] rows of d_ff floats, scores_stride apart, or NULL
 * @param active  of d_ff blocks of size 1 and at least n_tokens tokens, or NULL; overwritten
 * @retval SFFN_ERR_SHAPE, SFFN_ERR_INVALID_ARGUMENT, SFFN_ERR_BUSY; outputs are untouched
 * Thread-safe with one context per thread. Does not allocate once the context served this size. Since 0.1.
 */
SFFN_API sffn_status sffn_predictor_predict(sffn_context *ctx, const sffn_predictor *predictor, const float *x, size_t x_stride,
                                            size_t n_tokens, float *scores, size_t scores_stride, sffn_active_set *active);
/** Bytes that one prediction reads. Since 0.1. */
SFFN_API uint64_t sffn_predictor_weight_bytes(const sffn_predictor *predictor);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_PREDICTOR_H */
