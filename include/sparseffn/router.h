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
    SFFN_ROUTER_SIGMOID = 0
};

/** Start from SFFN_ROUTER_CONFIG_INIT, then set what differs. */
typedef struct sffn_router_config {
    size_t struct_size;
    uint32_t d_model;     /**< length of the router's input, > 0 */
    uint32_t n_experts;   /**< > 0 */
    uint32_t block_size;  /**< neurons per expert, > 0; default 32 */
    int32_t rule;         /**< enum sffn_router_rule; default SFFN_ROUTER_SIGMOID */
    float threshold;      /**< of SFFN_ROUTER_SIGMOID, in (0, 1); default 0.5: score > 0 */
    sffn_weights weights; /**< [n_experts][d_model], SFFN_LAYOUT_ROWS; copied */
    const float *bias;    /**< [n_experts] or NULL; copied */
} sffn_router_config;
#define SFFN_ROUTER_CONFIG_INIT \
    { sizeof(sffn_router_config), 0u, 0u, 32u, SFFN_ROUTER_SIGMOID, 0.5f, SFFN_WEIGHTS_INIT, NULL }

/** @retval SFFN_ERR_INVALID_ARGUMENT (also for SFFN_LAYOUT_COLUMNS), SFFN_ERR_SHAPE, SFFN_ERR_OUT_OF_MEMORY; *router is NULL then. Since 0.1. */
SFFN_API sffn_status sffn_router_create(sffn_context *ctx, const sffn_router_config *config, sffn_router **router);
/** NULL is a no-op. Since 0.1. */
SFFN_API void sffn_router_destroy(sffn_router *router);
/**
 * Keeps, for each token, the experts that the rule selects.
 * @param      x       [n_tokens] rows of d_model floats, x_stride apart: the router's own input, which need not be the FFN's
 * @param      scores  [n_tokens] rows of n_experts floats (before the sigmoid), scores_stride apart, or NULL
 * @param[out] active  made for n_experts blocks of block_size, or NULL; overwritten
 * @retval SFFN_ERR_SHAPE  active was made for another layer shape; it is left as it was
 * A NaN score keeps its expert, so that the NaN is seen. Thread-safe with one context per thread. Since 0.1.
 */
SFFN_API sffn_status sffn_router_select(sffn_context *ctx, const sffn_router *router, const float *x, size_t x_stride,
                                        size_t n_tokens, float *scores, size_t scores_stride, sffn_active_set *active);
/** Bytes that one selection reads. Since 0.1. */
SFFN_API uint64_t sffn_router_weight_bytes(const sffn_router *router);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_ROUTER_H */
