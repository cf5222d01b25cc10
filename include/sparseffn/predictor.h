/** @file predictor.h  Which neurons will be active? Scores per neuron, and the decision. */
#ifndef SFFN_PREDICTOR_H
#define SFFN_PREDICTOR_H
#include "sparseffn/matmul.h"
#ifdef __cplusplus
extern "C" {
#endif
/** Predictor of one layer, or of several at once. Immutable once created: share it freely between threads. */
typedef struct sffn_predictor sffn_predictor;

/** How scores are made. Fields of sffn_predictor_config that a kind does not name are not used by it. */
enum sffn_predictor_kind {
    /**
     * A 4-bit copy of the gate (q4_0) scores all neurons; the full gate then decides among those let through. No training.
     * Its input is the layer's own x. Neuron i passes when score_i + margin * e_i * ||x|| > threshold_i, e_i being the
     * root mean square error of row i's 4-bit copy: the standard deviation of the score's error for an x without structure.
     * Uses gate, gate_bias, margin.
     */
    SFFN_PREDICTOR_SCREENED_GATE = 0,
    /**
     * score = W2 act(W1 x + b1) + b2. No activation: Deja Vu (arXiv:2310.17157), NimbleEdge; ReLU: PowerInfer (arXiv:2312.12456) and
     * ShadowLLM (arXiv:2406.16635), which scores the neurons of several layers at once. Uses rank, w1, w2, b1, b2, hidden_activation, dtype, n_layers.
     */
    SFFN_PREDICTOR_LOW_RANK = 1,
    /**
     * The best linear map of this rank in the place of the gate, from its singular value decomposition (as in arXiv:2603.14110, without
     * weighting by the inputs). No training; made at creation, with a fixed seed where the decomposition is randomised: the same gate, context and
     * ISA give the same predictor. Its input is the layer's own x. Uses gate, gate_bias, rank, dtype (-1: q8_0).
     */
    SFFN_PREDICTOR_GATE_SVD = 2,
    /**
     * Sign bits: score = alpha * P - N, where N of the d_model products gate_ij * x_j are negative and P are not (a zero has no sign and counts as
     * positive: "< 0" on both sides). Neuron i passes when score >= threshold_i; with 0, unless N > alpha * P. Decided in integers, alpha being
     * taken to four decimals; equality passes, whatever tie says. A NaN in x makes
     * every score NaN. One bit per gate weight; for activations that are zero below 0. No training.
     * SparseInfer, arXiv:2411.12692. Its input is the layer's own x. Uses gate, alpha.
     */
    SFFN_PREDICTOR_SIGN = 3,
    /** The caller's function makes the scores. Uses callback, callback_user, n_layers. */
    SFFN_PREDICTOR_CALLBACK = 4,
    /**
     * A copy of the gate in 1 to 4 bits per weight, kept as bit planes: every neuron is scored with the first step_bits bits, those still in doubt with
     * the next ones, and so on; the full gate decides among those that pass all steps. No training. With step_bits 1 it reads the fewest bytes of all
     * kinds here, with the default of 2 it takes less time than with 1: bench/research/SCREENS.md. With the same bits and any step_bits, the last
     * step's scores are the same, bit for bit, on every ISA.
     * After the step that ends with bit k a neuron passes when score_i + margin * c_k * e_ik * (||x'|| + r_k ||x' - rounded x'||) > threshold_i, where
     * x' = x - input_mean, e_ik is the root mean square error of row i in k bits, c = 1.9, 1.7, 1.3, 1 for k = 1 .. 4, and r_k is how many times the
     * rows are larger than their errors. The score of a neuron that did not pass a step is that step's. A token with an infinity or a NaN lets
     * everything through. Its input is the layer's own x. Decides by threshold only. Uses gate, gate_bias, margin, bits, step_bits, input_mean,
     * column_share.
     *
     * With column_share the first step is another one: a copy in 2 bits, kept by columns, of which a token reads only those where |x'| is largest. Half of
     * the columns hold most of x', so that this tells more than one bit of all, at the same bytes. A neuron passes when
     * score_i + margin * c * e_i * sqrt(read^2 + r^2 (unread^2 + ||x' - rounded x'||^2)) > threshold_i, read and unread being the norms of x' in the columns
     * that were read and in the others, c = 1.45 without planes behind it and 1.7 with them. column_share 0.5 with bits 0
     * reads the fewest bytes with a q4_0 gate, and takes the least time of all predictors with q4_0 and q8_0 gates (bench/RESULTS.md).
     *
     * The c are fitted: on 2,048 tokens of one small model, for 99 % recall. On another model the same c gave 98.7 % (96.6 % in its worst layer): a
     * model's own tokens tell the margin that it needs, "sffn eval --select cascade,margin=1:1.5:2" shows it.
     */
    SFFN_PREDICTOR_CASCADE = 5
};

/** How scores become a selection. A NaN score is kept in every case, so that it is seen. */
enum sffn_decision {
    SFFN_DECIDE_THRESHOLD = 0, /**< keep score_i > threshold_i (tie drop) or >= (tie keep); PowerInfer and NimbleEdge keep at equality */
    SFFN_DECIDE_TOP_K = 1      /**< keep the top_k largest scores, NaN first; among equal ones those of the lowest neurons. Deja Vu, arXiv:2310.17157 */
};

/** Between the two linear maps of SFFN_PREDICTOR_LOW_RANK. */
enum sffn_hidden_activation { SFFN_HIDDEN_NONE = 0, SFFN_HIDDEN_RELU = 1, SFFN_HIDDEN_TANH = 2 };

/** Which tensor a selector reads. The library does not look at it: it tells the engine what to hand in, as sffn_ffn_args.select_x for instance. */
enum sffn_selector_input {
    SFFN_INPUT_FFN = 0,        /**< the FFN's own normalised x */
    SFFN_INPUT_RESIDUAL = 1,   /**< the residual stream after attention, before the FFN's norm (PowerInfer) */
    SFFN_INPUT_LAYER = 2,      /**< what enters the transformer layer (Deja Vu; PowerInfer with Falcon) */
    SFFN_INPUT_LAYER_NORM = 3, /**< output of the layer's input norm, before attention (NimbleEdge) */
    SFFN_INPUT_FIRST_LAYER = 4 /**< what enters the first layer (ShadowLLM) */
};

/**
 * Writes all n_scores scores for one token's x; a score left alone is NaN, which lets its neuron through. x may lie at any address.
 * It is called once per token, in order, by one of the threads that run the prediction: never twice at the same time for one call. It must not call
 * the library with the context that runs the prediction.
 */
typedef void (*sffn_predictor_callback)(void *user, const float *x, uint32_t n_x, float *scores, uint32_t n_scores);

/** Start from SFFN_PREDICTOR_CONFIG_INIT, then set what differs. */
typedef struct sffn_predictor_config {
    size_t struct_size;
    int32_t kind;             /**< enum sffn_predictor_kind */
    uint32_t d_model;         /**< length of the predictor's input */
    uint32_t d_ff;            /**< neurons (of one layer) */
    sffn_weights gate;        /**< the gate, SFFN_LAYOUT_ROWS [d_ff][d_model], any type; only read during creation */
    const float *gate_bias;   /**< [d_ff] added to the scores, or NULL; copied */
    int32_t decision;         /**< enum sffn_decision; default SFFN_DECIDE_THRESHOLD */
    int32_t tie;              /**< enum sffn_tie, of SFFN_DECIDE_THRESHOLD; default SFFN_TIE_DROP */
    float threshold;          /**< of the scores; default 0. With a copy of the gate, use the layer's own gate threshold */
    const float *thresholds;  /**< [n_layers][d_ff] per neuron, instead of threshold; NULL: none; copied */
    float margin;             /**< copies of the gate: >= 0, in standard deviations of the copy's error; default 1.5; 0: the bare score decides */
    uint32_t top_k;           /**< SFFN_DECIDE_TOP_K: 1..d_ff, per layer; margin then has no say */
    uint32_t top_k_multiple;  /**< top_k is rounded up to a multiple of this, at most d_ff; default 1. Deja Vu uses 128 */
    uint32_t n_layers;        /**< default 1. More: one call scores the neurons of all of them, see sffn_predictor_predict_layers() */
    uint32_t rank;            /**< rows of w1: 1..2^31-1; a multiple of 32 when w2 is packed as q8_0 or q4_0. SVD: at most min(d_model, d_ff) */
    sffn_weights w1;          /**< [rank][d_model], SFFN_LAYOUT_ROWS; copied */
    sffn_weights w2;          /**< [n_layers * d_ff][rank], SFFN_LAYOUT_ROWS; copied */
    const float *b1;          /**< [rank] or NULL; copied */
    const float *b2;          /**< [n_layers * d_ff] or NULL; copied */
    int32_t hidden_activation;/**< enum sffn_hidden_activation; default SFFN_HIDDEN_NONE */
    int32_t dtype;            /**< packed type of w1 and w2; -1 (default) keeps each as it is, SVD: q8_0. They should cost far fewer bytes than the gate */
    sffn_predictor_callback callback;
    void *callback_user;
    int32_t input;            /**< enum sffn_selector_input; default SFFN_INPUT_FFN; only remembered */
    float alpha;              /**< sign bits: in (0, 1000], larger keeps more neurons; default 1.03, as in the paper's code */
    uint32_t bits;            /**< cascade: bits of the copy, 1..4; default 3 */
    uint32_t step_bits;       /**< cascade: bits that a step reads, 1..4; default 2, which take no longer to multiply than one. The last step reads what is left;
                                   bits or more: one step */
    const float *input_mean;  /**< cascade: [d_model] mean of the inputs, of a few hundred tokens or more, or NULL for zero; copied. What real inputs have
                                   in common is a large part of them, is then multiplied exactly, and no longer blurs the scores */
    float column_share;       /**< cascade: in [0, 1]; above 0: a first step before the planes, with a copy of its own in 2 bits. Of that a token reads only this share
                                   of the columns, those where |x'| is largest, for all neurons. bits may be 0 then: no planes. Default 0: no such step */
} sffn_predictor_config;
#define SFFN_PREDICTOR_CONFIG_INIT \
    { sizeof(sffn_predictor_config), SFFN_PREDICTOR_SCREENED_GATE, 0u, 0u, SFFN_WEIGHTS_INIT, NULL, SFFN_DECIDE_THRESHOLD, SFFN_TIE_DROP, \
      0.0f, NULL, 1.5f, 0u, 1u, 1u, 0u, SFFN_WEIGHTS_INIT, SFFN_WEIGHTS_INIT, NULL, NULL, SFFN_HIDDEN_NONE, -1, NULL, NULL, SFFN_INPUT_FFN, \
      1.03f, 3u, 2u, NULL, 0.0f }

/**
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, zero size, unknown enum value, NaN or out of range threshold, bias, margin or alpha, NaN in weights, top_k out of range or with thresholds, rank
 *                                    out of range, w1 or w2 in SFFN_LAYOUT_COLUMNS, n_layers over 1 with a kind that scores one layer
 * @retval SFFN_ERR_SHAPE             d_model no multiple of 32 (screened gate, cascade; q8_0 and q4_0 w1), rank no multiple of 32 (q8_0 and q4_0 w2), row_bytes too
 *                                    small; cascade: d_model over 1048576, or column_share more than 65536 columns
 * @retval SFFN_ERR_UNSUPPORTED       screened gate: a q4_0 gate, whose 4-bit copy would cost as many bytes as the gate itself; a gate in SFFN_LAYOUT_COLUMNS;
 *                                    cascade: another decision than by threshold
 * @retval SFFN_ERR_OUT_OF_MEMORY
 * SVD: holds the gate as floats for the time of the creation, and takes far longer than packing it: for large layers make the factors once, with
 * sffn_fit_svd() (calibrate.h), and store them as SFFN_PREDICTOR_LOW_RANK. Since 0.1.
 */
SFFN_API sffn_status sffn_predictor_create(sffn_context *ctx, const sffn_predictor_config *config, sffn_predictor **predictor);
/** NULL is a no-op. Since 0.1. */
SFFN_API void sffn_predictor_destroy(sffn_predictor *predictor);
/**
 * Scores all neurons for each token and, when asked, keeps those that pass.
 * @param x       [n_tokens] rows of d_model floats, x_stride apart: the predictor's own input
 * @param scores  [n_tokens] rows of n_layers * d_ff floats, scores_stride apart, or NULL
 * @param active  of d_ff blocks of size 1 and at least n_tokens tokens, or NULL; overwritten. NULL with a predictor of several layers
 * @retval SFFN_ERR_SHAPE, SFFN_ERR_INVALID_ARGUMENT, SFFN_ERR_BUSY; outputs are untouched
 * @retval SFFN_ERR_UNSUPPORTED  active with a predictor of several layers
 * Thread-safe with one context per thread. Does not allocate once the context served this size. The selection has the same members for any number
 * of threads and any grouping of tokens into calls. Since 0.1.
 */
SFFN_API sffn_status sffn_predictor_predict(sffn_context *ctx, const sffn_predictor *predictor, const float *x, size_t x_stride,
                                            size_t n_tokens, float *scores, size_t scores_stride, sffn_active_set *active);
/**
 * The selections of all layers in one call: one predictor for a whole model (ShadowLLM).
 * @param active  n_layers different sets, each as in sffn_predictor_predict(); hand active[l] to layer l as sffn_ffn_args.active
 * Errors and threads as sffn_predictor_predict(). Since 0.1.
 */
SFFN_API sffn_status sffn_predictor_predict_layers(sffn_context *ctx, const sffn_predictor *predictor, const float *x, size_t x_stride,
                                                   size_t n_tokens, sffn_active_set *const *active);
/**
 * Runs the prediction and tells what weights it read: a cascade reads more for one x than for another.
 * @param[out] bytes  of all tokens together, each of them predicted alone
 * Errors and threads as sffn_predictor_predict(). Since 0.1.
 */
SFFN_API sffn_status sffn_predictor_count_bytes(sffn_context *ctx, const sffn_predictor *predictor, const float *x, size_t x_stride,
                                                size_t n_tokens, uint64_t *bytes);
/** Bytes that one prediction reads, of a cascade in its first step (sffn_predictor_count_bytes() and sffn_ffn_stats.touched_bytes have all): weights, biases and thresholds; 0 for a callback without thresholds. Since 0.1. */
SFFN_API uint64_t sffn_predictor_weight_bytes(const sffn_predictor *predictor);

/** What a predictor is. Set struct_size before the call. */
typedef struct sffn_predictor_info {
    size_t struct_size;
    int32_t kind;             /**< enum sffn_predictor_kind */
    uint32_t d_model, d_ff, n_layers;
    uint32_t rank;            /**< 0: no hidden layer */
    int32_t dtype;            /**< packed type of what makes the scores (w2); -1: no weights */
    int32_t hidden_activation;
    int32_t decision, tie;
    float threshold;          /**< of all neurons; meaningless when has_thresholds */
    int32_t has_thresholds;
    uint32_t top_k;           /**< rounded up already; 0 with SFFN_DECIDE_THRESHOLD */
    float margin;             /**< screened gate and cascade; 0 otherwise */
    int32_t input;            /**< enum sffn_selector_input */
    uint64_t weight_bytes;    /**< as sffn_predictor_weight_bytes() */
    float alpha;              /**< sign bits; 0 otherwise */
    uint32_t bits, step_bits; /**< cascade, step_bits being at most bits; 0 otherwise */
    float column_share;       /**< cascade: of the columns that its first step reads, as a whole number of them; 0 otherwise */
} sffn_predictor_info;
#define SFFN_PREDICTOR_INFO_INIT { sizeof(sffn_predictor_info), 0, 0u, 0u, 0u, 0u, 0, 0, 0, 0, 0.0f, 0, 0u, 0.0f, 0, 0u, 0.0f, 0u, 0u, 0.0f }
/** @retval SFFN_ERR_INVALID_ARGUMENT  NULL. Since 0.1. */
SFFN_API sffn_status sffn_predictor_get_info(const sffn_predictor *predictor, sffn_predictor_info *info);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_PREDICTOR_H */
