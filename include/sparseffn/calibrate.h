/** @file calibrate.h  What preparation learns from a model's activations: thresholds, experts, predictors, routers. */
#ifndef SFFN_CALIBRATE_H
#define SFFN_CALIBRATE_H
#include "sparseffn/ffn.h"
#ifdef __cplusplus
extern "C" {
#endif
/*
 * Everything here is for preparation: it allocates (through the context's allocator) and takes seconds to minutes. It runs on the context's threads, and its
 * results have the same bits for any number of them; another ISA may change the last bits of sums. Callbacks of type sffn_progress_fn are called on the
 * calling thread; when one asks to stop, the call returns SFFN_ERR_INTERRUPTED and outputs hold what they held before.
 */

/** Samples of the inputs of one layer, and what the layer makes of them. Mutable: one thread at a time. */
typedef struct sffn_calibration sffn_calibration;

typedef struct sffn_calibration_config {
    size_t struct_size;
    const sffn_ffn *ffn;        /**< the layer; borrowed until destroy. Its post-gate rule and its selectors are not looked at */
    uint32_t max_samples;       /**< tokens kept, > 0; default 4096. When more are added, a uniform random sample of all stays (reservoir) */
    uint32_t eval_samples;      /**< of these, how many thresholds and measurements look at, > 0; default 512: evenly spaced ones */
    uint32_t select_d_model;    /**< length of the selector's own input, kept beside x; 0 (default): selectors see x */
    int32_t keep_second_moment; /**< 1: the mean of x x' over all tokens is kept; default 0 */
    uint64_t seed;              /**< of the sample; default 0 */
} sffn_calibration_config;
#define SFFN_CALIBRATION_CONFIG_INIT { sizeof(sffn_calibration_config), NULL, 4096u, 512u, 0u, 0, 0u }

/**
 * Memory, whatever the number of tokens added: 4 max_samples (d_model + select_d_model) bytes, 8 eval_samples (d_ff + d_model) from the first
 * evaluation on, and 8 d_model^2 + 1024 d_model for the second moment. Functions below take as much again as they say.
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, a zero size, a flag other than 0 and 1, NaN or infinity in a down row of the layer
 * @retval SFFN_ERR_OUT_OF_MEMORY
 * Since 0.1.
 */
SFFN_API sffn_status sffn_calibration_create(sffn_context *ctx, const sffn_calibration_config *config, sffn_calibration **calibration);
/** NULL is a no-op. Since 0.1. */
SFFN_API void sffn_calibration_destroy(sffn_calibration *calibration);
/**
 * Streams tokens in. What is kept depends on the tokens and the seed, not on how they are cut into calls.
 * @param x         [n_tokens] rows of d_model floats, x_stride apart: the layer's normalised input
 * @param select_x  [n_tokens] rows of select_d_model floats, select_x_stride apart; NULL exactly when select_d_model is 0
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL; a NaN or infinity, which is named. Nothing was added then
 * @retval SFFN_ERR_SHAPE             a stride smaller than its row
 * Since 0.1.
 */
SFFN_API sffn_status sffn_calibration_add(sffn_context *ctx, sffn_calibration *calibration, const float *x, size_t x_stride, const float *select_x,
                                          size_t select_x_stride, size_t n_tokens);

typedef struct sffn_calibration_info {
    size_t struct_size;
    uint32_t d_model, d_ff, select_d_model;
    uint32_t n_samples;  /**< tokens kept */
    uint32_t n_eval;     /**< tokens that measurements look at */
    uint64_t n_tokens;   /**< tokens added */
    uint64_t bytes;      /**< of memory held */
} sffn_calibration_info;
#define SFFN_CALIBRATION_INFO_INIT { sizeof(sffn_calibration_info), 0u, 0u, 0u, 0u, 0u, 0u, 0u }
/** Since 0.1. */
SFFN_API sffn_status sffn_calibration_get_info(const sffn_calibration *calibration, sffn_calibration_info *info);
/** Copies the sample: x [n_samples][d_model], select_x [n_samples][select_d_model] or NULL. Since 0.1. */
SFFN_API sffn_status sffn_calibration_get_samples(const sffn_calibration *calibration, float *x, float *select_x);
/** @param[out] second_moment  [d_model][d_model]: mean of x x'. @retval SFFN_ERR_UNSUPPORTED it was not kept; SFFN_ERR_INVALID_ARGUMENT no tokens. Since 0.1. */
SFFN_API sffn_status sffn_calibration_get_second_moment(sffn_context *ctx, sffn_calibration *calibration, float *second_moment);

/** What is compared with a threshold. T is one number per layer; where a kind has a scale c_i, neuron i's threshold is t_i = T / c_i. */
enum sffn_active_kind {
    SFFN_ACTIVE_SCORE = 0,        /**< |s_i|: CATS, arXiv:2404.08763. For SFFN_RULE_ABS_SCORE */
    SFFN_ACTIVE_H = 1,            /**< |h_i|. For SFFN_RULE_ABS_H */
    SFFN_ACTIVE_CONTRIBUTION = 2, /**< |h_i|, c_i = ||down row i||: T is the eps of CETT, arXiv:2402.03804. For SFFN_RULE_ABS_H */
    SFFN_ACTIVE_CHESS = 3,        /**< |s_i|, c_i = mean |u_i|: arXiv:2409.01366. For SFFN_RULE_ABS_SCORE */
    SFFN_ACTIVE_GATE = 4,         /**< g_i > 0: T is the act_threshold of FATReLU, arXiv:2402.13516 */
    SFFN_ACTIVE_INPUT = 5         /**< |x_j|, elements of x instead of neurons: TEAL, arXiv:2408.14690 */
};
/** Which neurons count as active for a token: value above threshold. Zeros never count. The default: s is not zero. */
typedef struct sffn_activity {
    int32_t kind;            /**< enum sffn_active_kind */
    int32_t tie;             /**< enum sffn_tie: at equality the neuron is dropped or kept */
    float threshold;         /**< T >= 0 */
    const float *thresholds; /**< [d_ff] t_i instead of T / c_i, in the kind's value; not for SFFN_ACTIVE_INPUT; NULL: none */
} sffn_activity;
#define SFFN_ACTIVITY_INIT { SFFN_ACTIVE_SCORE, SFFN_TIE_DROP, 0.0f, NULL }

/** What dropping the rest does to the layer, over the n_eval tokens. */
typedef struct sffn_measured {
    size_t struct_size;
    uint64_t n_tokens;
    double density;        /**< active / (tokens * d_ff); of elements of x for SFFN_ACTIVE_INPUT */
    double cett;           /**< mean over tokens of ||sum of the dropped h_i row_i|| / ||y without bias||; 0 for a token whose y is 0 */
    double max_cett;       /**< of one token */
    double relative_error; /**< sqrt(sum of squared errors of y / sum of squared y), bias included */
} sffn_measured;
#define SFFN_MEASURED_INIT { sizeof(sffn_measured), 0u, 0.0, 0.0, 0.0, 0.0 }
/**
 * @retval SFFN_ERR_INVALID_ARGUMENT  unknown kind or tie, a negative or NaN threshold, no tokens yet, NaN or infinity in a product of the layer
 * @retval SFFN_ERR_UNSUPPORTED       SFFN_ACTIVE_GATE with an activation without zeros
 * Memory: 600 KiB + 64 d_model bytes per thread. Since 0.1.
 */
SFFN_API sffn_status sffn_calibration_measure(sffn_context *ctx, sffn_calibration *calibration, const sffn_activity *activity, sffn_measured *measured);

typedef struct sffn_threshold_config {
    size_t struct_size;
    int32_t kind;               /**< enum sffn_active_kind; default SFFN_ACTIVE_CONTRIBUTION */
    float target_cett;          /**< in [0, 1]: the largest T whose mean CETT is at most this; negative (default): not asked */
    float target_density;       /**< in [0, 1]: the density that stays, at most; negative (default): not asked. One of the two is set */
    sffn_progress_fn progress;  /**< NULL: none */
    void *progress_user;
} sffn_threshold_config;
#define SFFN_THRESHOLD_CONFIG_INIT { sizeof(sffn_threshold_config), SFFN_ACTIVE_CONTRIBUTION, -1.0f, -1.0f, NULL, NULL }
/**
 * Finds T for a target. CETT is measured with the rule as forward applies it (|h_i| against the rounded t_i), at 32 values of T at a time from 0 to the largest
 * value, then between the largest that passes and its neighbour, down to neighbouring floats. Mean CETT need not grow with T, so what is returned
 * is a T that was measured to pass, not a bound that was inferred; 0 when nothing passes. A density is met by selection, exactly up to ties.
 * @param[out] activity    kind, tie (as the kind's authors have it: CONTRIBUTION and CHESS keep, GATE as the layer, others drop), T; thresholds is NULL
 * @param[out] thresholds  [d_ff] t_i, for sffn_ffn_config.rule_thresholds; FLT_MAX where c_i is 0 and T is not; NULL: not wanted
 * @param[out] measured    of the found T; NULL: not wanted
 * @retval SFFN_ERR_INVALID_ARGUMENT  as above, and: no target or two, a target out of range, thresholds with SFFN_ACTIVE_INPUT
 * @retval SFFN_ERR_UNSUPPORTED       as above; target_cett with SFFN_ACTIVE_INPUT
 * @retval SFFN_ERR_INTERRUPTED
 * Memory: 2 MiB + 4 eval_samples d_ff bytes, or 2 KiB d_model per thread. Since 0.1.
 */
SFFN_API sffn_status sffn_calibration_find_threshold(sffn_context *ctx, sffn_calibration *calibration, const sffn_threshold_config *config,
                                                     sffn_activity *activity, float *thresholds, sffn_measured *measured);

typedef struct sffn_cluster_config {
    size_t struct_size;
    sffn_weights weights;       /**< [n_rows][n_cols], one row per neuron, any type: the gate, or up of an ungated layer */
    uint32_t n_rows;            /**< d_ff */
    uint32_t n_cols;            /**< d_model */
    uint32_t group_size;        /**< neurons per expert, > 0; divides n_rows; default 32 */
    int32_t normalize;          /**< 1 (default): rows are scaled to length 1 (MoEfication); 0: as they are */
    uint32_t max_rounds;        /**< of improvement; default 30. Ends earlier when hardly any row moves */
    uint64_t seed;              /**< default 0 */
    sffn_progress_fn progress;  /**< NULL: none */
    void *progress_user;
} sffn_cluster_config;
#define SFFN_CLUSTER_CONFIG_INIT { sizeof(sffn_cluster_config), SFFN_WEIGHTS_INIT, 0u, 0u, 32u, 1, 30u, 0u, NULL, NULL }
/**
 * Balanced k-means: n_rows / group_size experts of exactly group_size neurons each, with a small sum of squared distances to the experts' means
 * (LTE, arXiv:2402.06126, 2.1; MoEfication, arXiv:2110.01786). Starts from k-means++ seeds and an assignment by regret, then swaps pairs of rows between
 * experts while that lowers the sum: each swap is checked exactly, so the sum never rises. A local minimum, the same for any number of threads.
 * @param[out] permutation  [n_rows]: new position -> neuron. Expert e is positions e * group_size and on; inside an expert neurons ascend, and experts are in
 *                          the order of their first neuron
 * @param[out] cost         sum over rows of the squared distance to their expert's mean; NULL: not wanted
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, a zero size, a NaN or infinity in a row, normalize other than 0 and 1
 * @retval SFFN_ERR_SHAPE             group_size does not divide n_rows; weights as in sffn_matmul_create()
 * @retval SFFN_ERR_INTERRUPTED, SFFN_ERR_OUT_OF_MEMORY, SFFN_ERR_BUSY
 * Memory: 4 n_rows (n_cols + (n_cols + n_rows) / group_size + 11) bytes. Since 0.1.
 */
SFFN_API sffn_status sffn_cluster_neurons(sffn_context *ctx, const sffn_cluster_config *config, uint32_t *permutation, double *cost);

typedef struct sffn_svd_config {
    size_t struct_size;
    sffn_weights weights;       /**< [n_rows][n_cols]: the gate, any type */
    uint32_t n_rows;            /**< d_ff */
    uint32_t n_cols;            /**< d_model */
    uint32_t rank;              /**< 1 .. min(n_rows, n_cols) */
    const float *second_moment; /**< [n_cols][n_cols] C, see sffn_calibration_get_second_moment(): the factors then lose least on these inputs; NULL: plain */
    uint64_t seed;              /**< of the start of the iteration; default 0 */
    sffn_progress_fn progress;  /**< NULL: none */
    void *progress_user;
} sffn_svd_config;
#define SFFN_SVD_CONFIG_INIT { sizeof(sffn_svd_config), SFFN_WEIGHTS_INIT, 0u, 0u, 0u, NULL, 0u, NULL, NULL }
/**
 * W ~ w2 w1 of the given rank with the least ||W - w2 w1||, or with C the least mean ||(W - w2 w1) x||^2 (truncation-aware SVD, arXiv:2603.14110). w2 has
 * orthonormal columns and w1 = w2' W, so C may be singular. Exact to float rounding up to min(n_rows, n_cols) = 1024; above by subspace iteration
 * (arXiv:0909.4061), whose error is close to the least.
 * @param[out] w1        [rank][n_cols]: the first layer of a low-rank predictor, whose scores estimate the gate
 * @param[out] w2        [n_rows][rank]
 * @param[out] captured  share of the squared norm that the factors keep, in [0, 1]; NULL: not wanted
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, a zero size, rank out of range, NaN or infinity
 * @retval SFFN_ERR_SHAPE             weights as in sffn_matmul_create()
 * @retval SFFN_ERR_INTERRUPTED, SFFN_ERR_OUT_OF_MEMORY, SFFN_ERR_BUSY
 * Memory: 4 (n_rows n_cols + l (2 n_rows + 2 n_cols + 3 l + 6)) bytes, l = rank + 32 or the smaller side when exact. Since 0.1.
 */
SFFN_API sffn_status sffn_fit_svd(sffn_context *ctx, const sffn_svd_config *config, float *w1, float *w2, double *captured);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_CALIBRATE_H */
