/** @file router.h  x -> the experts of one FFN layer that compute it. */
#ifndef SFFN_ROUTER_H
#define SFFN_ROUTER_H
#include "sparseffn/matmul.h"
#ifdef __cplusplus
extern "C" {
#endif
/** Router of one layer. Immutable once created: share it freely between threads. */
typedef struct sffn_router sffn_router;

enum sffn_router_rule {
    /** Keep expert e when sigmoid(score_e) > threshold; the score does not multiply the output.
        LTE: Zheng et al. 2024, arXiv:2402.06126, hard mode. At equality the expert is dropped. No exponential is computed. */
    SFFN_ROUTER_SIGMOID = 0,
    /** Keep the top_k experts with the largest scores, NaN first; among equal ones the lowest. The order of a softmax is that of its scores.
        Mixture of experts; MoEfication: Zhang et al. 2021, arXiv:2110.01786. */
    SFFN_ROUTER_TOP_K = 1,
    /** Softmax over all experts, taken in order of falling probability until their sum reaches `mass`; the expert that crosses it is kept, and
        among equal ones the lowest. PrunePath, arXiv:2605.28283. mass 1 keeps all. A NaN score has no share and is kept. */
    SFFN_ROUTER_MASS = 2
};

/** What multiplies h of an expert's neurons; the post-gate rules on |h| then see the product. Only mixtures of experts want this. */
enum sffn_weighting {
    SFFN_WEIGHTING_NONE = 0,
    SFFN_WEIGHTING_SIGMOID = 1,          /**< sigmoid(score_e) */
    SFFN_WEIGHTING_SOFTMAX = 2,          /**< softmax over all experts */
    SFFN_WEIGHTING_SOFTMAX_SELECTED = 3  /**< softmax over the kept experts: their weights add up to 1 */
};

/** Start from SFFN_ROUTER_CONFIG_INIT, then set what differs. */
typedef struct sffn_router_config {
    size_t struct_size;
    uint32_t d_model;     /**< length of the router's input, > 0 */
    uint32_t n_experts;   /**< > 0 */
    uint32_t block_size;  /**< neurons per expert, > 0; default 32 (LTE); a whole MoE expert may have thousands */
    int32_t rule;         /**< enum sffn_router_rule; default SFFN_ROUTER_SIGMOID */
    float threshold;      /**< of SFFN_ROUTER_SIGMOID, in (0, 1); default 0.5: score > 0 */
    sffn_weights weights; /**< [n_experts][n_hidden, or d_model without a hidden layer], SFFN_LAYOUT_ROWS; copied */
    const float *bias;    /**< [n_experts] or NULL; copied */
    uint32_t top_k;       /**< of SFFN_ROUTER_TOP_K: 1..n_experts */
    float mass;           /**< of SFFN_ROUTER_MASS, in (0, 1]; default 0.9 */
    uint32_t n_hidden;    /**< 0 (default): a linear router. Else scores = weights tanh(hidden_weights x + hidden_bias) + bias (MoEfication) */
    sffn_weights hidden_weights; /**< [n_hidden][d_model], SFFN_LAYOUT_ROWS; copied */
    const float *hidden_bias;    /**< [n_hidden] or NULL; copied */
    int32_t normalize_input;     /**< 1: x counts as x / max(||x||, 1e-12) (MoEfication). Default 0 */
    int32_t weighting;    /**< enum sffn_weighting; default SFFN_WEIGHTING_NONE */
    int32_t input;        /**< enum sffn_selector_input (predictor.h); default SFFN_INPUT_FFN; only remembered */
} sffn_router_config;
#define SFFN_ROUTER_CONFIG_INIT \
    { sizeof(sffn_router_config), 0u, 0u, 32u, SFFN_ROUTER_SIGMOID, 0.5f, SFFN_WEIGHTS_INIT, NULL, 0u, 0.9f, 0u, SFFN_WEIGHTS_INIT, NULL, 0, \
      SFFN_WEIGHTING_NONE, 0 }

/**
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, zero size, unknown enum value, weights in SFFN_LAYOUT_COLUMNS, NaN in weights or biases, threshold, top_k
 *                                    or mass out of range
 * @retval SFFN_ERR_SHAPE             d_model or n_hidden no multiple of the type's block, row_bytes too small
 * @retval SFFN_ERR_OUT_OF_MEMORY
 * *router is NULL then. Since 0.1.
 */
SFFN_API sffn_status sffn_router_create(sffn_context *ctx, const sffn_router_config *config, sffn_router **router);
/** NULL is a no-op. Since 0.1. */
SFFN_API void sffn_router_destroy(sffn_router *router);
/**
 * Keeps, for each token, the experts that the rule selects.
 * @param      x       [n_tokens] rows of d_model floats, x_stride apart: the router's own input, which need not be the FFN's
 * @param      scores  [n_tokens] rows of n_experts floats (before the sigmoid), scores_stride apart, or NULL
 * @param[out] active  made for n_experts blocks of block_size, or NULL; overwritten. With a weighting it must have been made with has_weights,
 *                     and gets the weights of the kept experts, 0 for the others
 * @retval SFFN_ERR_SHAPE  active was made for another layer shape; it is left as it was
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL; a weighting, and active made without weights
 * A NaN score keeps its expert, so that the NaN is seen. Thread-safe with one context per thread. Since 0.1.
 */
SFFN_API sffn_status sffn_router_select(sffn_context *ctx, const sffn_router *router, const float *x, size_t x_stride,
                                        size_t n_tokens, float *scores, size_t scores_stride, sffn_active_set *active);
/** Bytes that one selection reads. Since 0.1. */
SFFN_API uint64_t sffn_router_weight_bytes(const sffn_router *router);

/** What a router is. Set struct_size before the call. */
typedef struct sffn_router_info {
    size_t struct_size;
    uint32_t d_model, n_experts, block_size;
    uint32_t n_hidden;      /**< 0: linear */
    int32_t dtype;          /**< of weights */
    int32_t rule;           /**< enum sffn_router_rule */
    float threshold;        /**< of SFFN_ROUTER_SIGMOID; 0 otherwise */
    uint32_t top_k;         /**< of SFFN_ROUTER_TOP_K; 0 otherwise */
    float mass;             /**< of SFFN_ROUTER_MASS; 0 otherwise */
    int32_t weighting;      /**< enum sffn_weighting */
    int32_t normalize_input;
    int32_t input;          /**< enum sffn_selector_input */
    uint64_t weight_bytes;  /**< as sffn_router_weight_bytes() */
} sffn_router_info;
#define SFFN_ROUTER_INFO_INIT { sizeof(sffn_router_info), 0u, 0u, 0u, 0u, 0, 0, 0.0f, 0u, 0.0f, 0, 0, 0, 0u }
/** @retval SFFN_ERR_INVALID_ARGUMENT  NULL. Since 0.1. */
SFFN_API sffn_status sffn_router_get_info(const sffn_router *router, sffn_router_info *info);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_ROUTER_H */
