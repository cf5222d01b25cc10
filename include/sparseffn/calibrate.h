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
 * Memory: 72 d_model bytes per thread; SFFN_ACTIVE_INPUT: 256 (d_model + d_ff) bytes. Since 0.1.
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
 * Memory: 512 KiB + 4 d_ff (eval_samples + 32) bytes, and 2052 d_model per thread for a CETT. Since 0.1.
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

/** How well a selector finds the active neurons, over the n_eval tokens. */
typedef struct sffn_selector_report {
    size_t struct_size;
    uint64_t n_tokens;
    double true_density;   /**< active / (tokens * d_ff) */
    double density;        /**< let through / (tokens * d_ff); an expert counts with all its neurons */
    double recall;         /**< of all tokens together: active and let through / active; 1 when none is active */
    double precision;      /**< active and let through / let through; 1 when nothing is */
    double cett, max_cett, relative_error; /**< as in sffn_measured, of y when exactly what is not let through is dropped */
} sffn_selector_report;
#define SFFN_SELECTOR_REPORT_INIT { sizeof(sffn_selector_report), 0u, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0 }
/**
 * @param predictor, router  one of them, of this layer's shape; the other is NULL. It reads select_x where the calibration keeps it, else x
 * @param activity           what counts as active; NULL: s is not zero
 * @retval SFFN_ERR_INVALID_ARGUMENT  as in sffn_calibration_measure(); none or two selectors; SFFN_ACTIVE_INPUT
 * @retval SFFN_ERR_SHAPE             the selector's input or neurons are not the layer's
 * @retval SFFN_ERR_UNSUPPORTED       as in sffn_calibration_measure(); a predictor of several layers; a router whose scores multiply h
 * Memory: that of an active set of n_eval tokens. Since 0.1.
 */
SFFN_API sffn_status sffn_calibration_measure_selector(sffn_context *ctx, sffn_calibration *calibration, const sffn_predictor *predictor,
                                                       const sffn_router *router, const sffn_activity *activity, sffn_selector_report *report);
/**
 * Where a selector's scores must be cut to let through a share of the active neurons of the sample. Each output is an answer of its own; NULL: not wanted.
 * @param recall           in (0, 1]: share of all active neurons
 * @param[out] threshold   the largest threshold of the scores that reaches it, with the margin and the tie rule that the selector has. A router's is one of
 *                         the logit: tau = 1 / (1 + exp(-threshold)) for SFFN_ROUTER_SIGMOID
 * @param[out] thresholds  predictors: [d_ff], the same per neuron; a neuron that is active in fewer than 8 tokens gets the lower one of *threshold and what all of
 *                         its tokens need
 * @param[out] margin      screened gates made with a margin over 0: the smallest margin that reaches it with the thresholds that the predictor has
 * @retval SFFN_ERR_INVALID_ARGUMENT  as in sffn_calibration_measure_selector(); recall out of range; no neuron is active; a NaN score; thresholds with a router
 * @retval SFFN_ERR_UNSUPPORTED       margin with another selector
 * Memory: 512 KiB + 8 n_eval d_ff bytes. Since 0.1.
 */
SFFN_API sffn_status sffn_calibration_selector_threshold(sffn_context *ctx, sffn_calibration *calibration, const sffn_predictor *predictor,
                                                         const sffn_router *router, const sffn_activity *activity, double recall, float *threshold,
                                                         float *thresholds, float *margin);

/** What a fit reached. */
typedef struct sffn_fit_result {
    size_t struct_size;
    uint64_t n_train, n_held_out; /**< samples; every 20th is held out */
    uint32_t n_epochs;            /**< that ran */
    double label_density;         /**< mean label */
    double density;               /**< let through in the measure below */
    double start_recall;          /**< before training */
    double recall;                /**< of what is returned: share of the held-out labels (0 or 1: of the active ones) in the highest outputs, density of all of them */
    double loss;                  /**< of the last epoch */
    float threshold;              /**< of the outputs (logits): what exceeds it is that density of the held-out samples */
} sffn_fit_result;
#define SFFN_FIT_RESULT_INIT { sizeof(sffn_fit_result), 0u, 0u, 0u, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0f }

/** Where training starts. */
enum sffn_fit_start {
    SFFN_FIT_START_AUTO = 0,   /**< PRIOR where there is one, else RANDOM */
    SFFN_FIT_START_RANDOM = 1, /**< uniform in +-1 / sqrt(inputs) */
    SFFN_FIT_START_PRIOR = 2   /**< predictors: the SVD of the gate, weighted by the second moment when the calibration keeps it; needs x as input and no
                                    or a ReLU hidden layer. Routers: the experts' mean rows of the gate; needs x as input */
};

typedef struct sffn_low_rank_config {
    size_t struct_size;
    uint32_t rank;              /**< of the hidden layer, > 0 */
    int32_t hidden_activation;  /**< enum sffn_hidden_activation: none is Deja Vu's, ReLU PowerInfer's; default none */
    int32_t has_bias;           /**< 1: b1 and b2 are fitted; default 0 */
    sffn_activity activity;     /**< what is to be predicted; default: s is not zero */
    int32_t start;              /**< enum sffn_fit_start; default AUTO */
    uint32_t batch_size;        /**< tokens; default 256 */
    uint32_t max_epochs;        /**< default 20; 0: the start is returned as it is */
    uint32_t patience;          /**< epochs without better recall before it stops; default 5 */
    float learning_rate;        /**< of AdamW, falls linearly to a tenth; default 0.001 */
    float weight_decay;         /**< default 0.01 */
    float density;              /**< budget at which recall is taken, in (0, 1]; 0 (default): twice the labels' density */
    float stop_recall;          /**< training ends at this recall; default 0.999 */
    uint64_t seed;              /**< of the split, the order and a random start; default 0 */
    sffn_progress_fn progress;  /**< NULL: none */
    void *progress_user;
} sffn_low_rank_config;
#define SFFN_LOW_RANK_CONFIG_INIT \
    { sizeof(sffn_low_rank_config), 0u, 0, 0, SFFN_ACTIVITY_INIT, SFFN_FIT_START_AUTO, 256u, 20u, 5u, 0.001f, 0.01f, 0.0f, 0.999f, 0u, NULL, NULL }
/**
 * Trains a low-rank predictor on the samples: weighted binary cross-entropy as in Deja Vu (arXiv:2310.17157; the many inactive neurons weigh little), AdamW,
 * 95 % of the samples. What is returned had the best held-out recall at the density budget, the start included. In float; the same bits for any number
 * of threads.
 * @param[out] w1  [rank][d]; d is select_d_model when the calibration keeps select_x, else d_model
 * @param[out] w2  [d_ff][rank]
 * @param[out] b1, b2  [rank], [d_ff] with has_bias, else NULL
 * @param[out] result  NULL: not wanted
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, a field out of range, fewer than 40 samples, nothing active in them, NaN weights, outputs that diverge
 * @retval SFFN_ERR_UNSUPPORTED       SFFN_FIT_START_PRIOR where there is none; activity as in sffn_calibration_measure()
 * @retval SFFN_ERR_INTERRUPTED, SFFN_ERR_OUT_OF_MEMORY, SFFN_ERR_BUSY; outputs are as they were
 * Memory: 20 (rank + 1) (d + d_ff) bytes, 4 max(batch_size, 256) (d + 3 d_ff + 2 rank), a twentieth of the samples times 8 d_ff, a bit per sample and neuron. Since 0.1.
 */
SFFN_API sffn_status sffn_fit_low_rank(sffn_context *ctx, sffn_calibration *calibration, const sffn_low_rank_config *config, float *w1, float *w2,
                                       float *b1, float *b2, sffn_fit_result *result);

/** What an expert's neurons add up to, as the label of a router. */
enum sffn_expert_score {
    SFFN_EXPERT_SUM_H = 0,           /**< sum of |h_i| (MoEfication, arXiv:2110.01786) */
    SFFN_EXPERT_SUM_CONTRIBUTION = 1 /**< sum of |h_i| ||down row i|| */
};

typedef struct sffn_router_fit_config {
    size_t struct_size;
    uint32_t block_size;         /**< neurons per expert, > 0; divides d_ff; default 32 */
    const uint32_t *permutation; /**< [d_ff] from sffn_cluster_neurons(): experts are blocks of new positions; NULL: of the layer's own order */
    int32_t score;               /**< enum sffn_expert_score; default SFFN_EXPERT_SUM_H */
    int32_t is_mlp;              /**< 0 (default): linear. 1: Linear - tanh - Linear of n_experts hidden units, both without bias (MoEfication) */
    int32_t normalize_input;     /**< 1: the input is scaled to length 1 (MoEfication); default 0 */
    int32_t start;               /**< enum sffn_fit_start; default AUTO. With max_epochs 0 and PRIOR: the parameter-centre router, without training */
    uint32_t batch_size;         /**< tokens; default 256 */
    uint32_t max_epochs;         /**< default 30 */
    uint32_t patience;           /**< default 5 */
    float learning_rate;         /**< default 0.01 */
    float weight_decay;          /**< default 0 */
    float density;               /**< share of the experts at which recall is taken, in (0, 1]; default 0.2 */
    float stop_recall;           /**< default 0.999 */
    uint64_t seed;               /**< default 0 */
    sffn_progress_fn progress;   /**< NULL: none */
    void *progress_user;
} sffn_router_fit_config;
#define SFFN_ROUTER_FIT_CONFIG_INIT \
    { sizeof(sffn_router_fit_config), 32u, NULL, SFFN_EXPERT_SUM_H, 0, 0, SFFN_FIT_START_AUTO, 256u, 30u, 5u, 0.01f, 0.0f, 0.2f, 0.999f, 0u, NULL, NULL }
/**
 * Trains a router for experts of a dense layer after the fact (MoEfication, arXiv:2110.01786): binary cross-entropy of the logits against each expert's
 * score divided by the token's highest. result->recall is the share of the scores that the highest logits hold.
 * @param[out] hidden  MLP: [n_experts][d], else NULL. d is select_d_model when the calibration keeps select_x, else d_model
 * @param[out] weight  linear: [n_experts][d]; MLP: [n_experts][n_experts]
 * @param[out] result  NULL: not wanted
 * @retval SFFN_ERR_SHAPE  block_size does not divide d_ff
 * @retval SFFN_ERR_INVALID_ARGUMENT  also: permutation is none of 0 .. d_ff - 1. Other errors and memory as sffn_fit_low_rank(). Since 0.1.
 */
SFFN_API sffn_status sffn_fit_router(sffn_context *ctx, sffn_calibration *calibration, const sffn_router_fit_config *config, float *hidden, float *weight,
                                     sffn_fit_result *result);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_CALIBRATE_H */
