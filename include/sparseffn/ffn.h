/** @file ffn.h  sffn_ffn: one feed-forward layer, x -> y, reading only the weights of the neurons that matter. */
#ifndef SFFN_FFN_H
#define SFFN_FFN_H
#include "sparseffn/matmul.h"
#include "sparseffn/predictor.h"
#include "sparseffn/router.h"
#ifdef __cplusplus
extern "C" {
#endif
/**
 * One layer:  g = W_gate x + b_gate,  s = act(g),  u = W_up x + b_up,  h = s * u,  y = W_down h + b_down.
 * Ungated: g = W_up x + b_up, h = s = act(g). Immutable once created: share it freely between threads and contexts.
 */
typedef struct sffn_ffn sffn_ffn;

enum sffn_activation {
    SFFN_ACT_RELU = 0,       /**< max(0, g) */
    SFFN_ACT_FATRELU = 1,    /**< g when g >= t (tie keep) or g > t (tie drop), else 0. ProSparse, arXiv:2402.13516. t = act_threshold >= 0 */
    SFFN_ACT_RELU2 = 2,      /**< max(0, g)^2. arXiv:2402.03804 */
    SFFN_ACT_DRELU = 3,      /**< max(0, g) * max(0, u), gated only. Turbo Sparse, arXiv:2406.05955 */
    SFFN_ACT_SILU = 4,       /**< g * sigmoid(g) */
    SFFN_ACT_GELU_ERF = 5,   /**< g * Phi(g) */
    SFFN_ACT_GELU_TANH = 6,  /**< the tanh form of GELU */
    SFFN_ACT_SHIFTED_RELU = 7 /**< max(0, g - t): the value is shifted, unlike FATReLU */
};
/**
 * Post-gate rule: a further test that drops neurons. Zeros of the activation itself are always skipped, and NaN is always kept. The rules are those
 * of sffn_active_set_set_values(), applied to s, |s| or |h| of all d_ff neurons of a token; a neuron that was not computed counts as 0. Those on s
 * save the up and the down rows, those on h the down rows.
 */
enum sffn_rule {
    SFFN_RULE_NONE = 0,
    SFFN_RULE_SCORE = 1,     /**< keep when s_i > t_i (or >=) */
    SFFN_RULE_ABS_SCORE = 2, /**< keep when |s_i| > t_i (or >=): CATS arXiv:2404.08763, CHESS arXiv:2409.01366 */
    SFFN_RULE_ABS_H = 3,     /**< keep when |h_i| > t_i (or >=): CETT, arXiv:2402.03804 */
    SFFN_RULE_TOP_K_SCORE = 4, /**< keep the rule_k largest |s_i|; among equals the lowest i: Q-Sparse, arXiv:2407.10969 */
    SFFN_RULE_TOP_K_H = 5,
    SFFN_RULE_BLOCK_TOP_K_SCORE = 6, /**< the same among each rule_m consecutive neurons, and among the d_ff % rule_m at the end */
    SFFN_RULE_BLOCK_TOP_K_H = 7,
    SFFN_RULE_STATISTICAL_SCORE = 8, /**< keep when |s_i| > mean + std * Phi^-1(rule_sparsity) (or >=), mean and std of the token's |s|; infinities keep all */
    SFFN_RULE_STATISTICAL_H = 9
};

typedef struct sffn_ffn_config {
    size_t struct_size;
    uint32_t d_model;            /**< > 0; a multiple of 32 for q8_0 and q4_0 */
    uint32_t d_ff;               /**< neurons, > 0. A slice of a layer's neurons gives a partial y: sffn_ffn_config_slice() */
    sffn_weights gate;           /**< [d_ff][d_model]; data NULL: ungated */
    sffn_weights up;             /**< [d_ff][d_model] */
    sffn_weights down;           /**< SFFN_LAYOUT_COLUMNS: [d_model][d_ff] as engines store it; SFFN_LAYOUT_ROWS: [d_ff][d_model] */
    const float *gate_bias;      /**< [d_ff] or NULL; copied */
    const float *up_bias;        /**< [d_ff] or NULL; copied */
    const float *down_bias;      /**< [d_model] or NULL; copied */
    int32_t activation;          /**< enum sffn_activation */
    int32_t act_tie;             /**< enum sffn_tie, of FATReLU; default SFFN_TIE_KEEP, the paper's formula */
    float act_threshold;         /**< t of FATReLU and shifted ReLU, finite and >= 0 */
    int32_t rule;                /**< enum sffn_rule */
    int32_t rule_tie;            /**< enum sffn_tie; default SFFN_TIE_DROP */
    float rule_threshold;        /**< t for all neurons */
    const float *rule_thresholds;/**< [d_ff] t_i, instead of rule_threshold; NULL: none; copied */
    uint32_t rule_k;             /**< top-k rules: > 0; per block at most rule_m */
    uint32_t rule_m;             /**< block top-k: > 0 */
    float rule_sparsity;         /**< statistical rules: the share of neurons to drop, in (0, 1) */
    int32_t storage;             /**< enum sffn_storage, of gate and up, and of down when it is SFFN_LAYOUT_ROWS; default copy */
    int32_t dtype;               /**< packed type of all three; -1 (default): each keeps its own */
    uint32_t block_size;         /**< 32: keep q8_0/q4_0 down blocks of SFFN_LAYOUT_COLUMNS losslessly, experts of 32k neurons only (see matmul.h). Default 1 */
    const sffn_predictor *predictor; /**< of one layer; borrowed until destroy; NULL: none */
    const sffn_router *router;       /**< borrowed until destroy; NULL: none. Not together with a predictor */
    float max_density;           /**< fallback: when a predictor or a handed-in set lets through more than this share of the neurons (union over a tile of up to 8
                                      tokens), the gate looks at all of them instead. Default 1: never. Results are equal when the skipped neurons are true zeros */
    uint32_t dense_tokens;       /**< from how many tokens on a call is a long prompt. Default SFFN_DENSE_TOKENS_AUTO. A number: such calls of SFFN_SELECT_DEFAULT run
                                      dense where a gate or a predictor would select, never against a router or a handed-in set, and every dense call of that length
                                      goes through oneDNN when the context uses it. 0: no call does either */
    const char *name;            /**< for error texts, the log and statistics, e.g. "blk.3"; copied, up to 63 bytes; NULL: "ffn" */
    int32_t select;              /**< the layer's plan, enum sffn_select but not ACTIVE: what SFFN_SELECT_DEFAULT of a call means. DENSE, GATE, PREDICTOR or ROUTER;
                                      DEFAULT (default): the predictor, else the router, else the gate */
} sffn_ffn_config;
/**
 * What the library measured (bench/RESULTS.md). Their number alone makes no selection slower than our dense path: both take tokens in tiles of 8, and tiles that
 * need most rows take all of them by themselves, which keeps a selection within a tenth of it whatever the density. Of calls that run dense anyway, f32 is
 * faster through oneDNN from 128 tokens on, bf16 from 512, the others not for sure. f32 layers with 30 % and more active, in a context with use_onednn, may
 * want 128 here.
 */
#define SFFN_DENSE_TOKENS_AUTO UINT32_MAX
#define SFFN_FFN_CONFIG_INIT \
    { sizeof(sffn_ffn_config), 0u, 0u, SFFN_WEIGHTS_INIT, SFFN_WEIGHTS_INIT, SFFN_WEIGHTS_INIT, NULL, NULL, NULL, SFFN_ACT_RELU, SFFN_TIE_KEEP, \
      0.0f, SFFN_RULE_NONE, SFFN_TIE_DROP, 0.0f, NULL, 0u, 0u, 0.0f, SFFN_STORAGE_COPY, -1, 1u, NULL, NULL, 1.0f, SFFN_DENSE_TOKENS_AUTO, NULL, SFFN_SELECT_DEFAULT }

/**
 * Packs a layer. Reserves @p ctx's scratch for it.
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, zero size, unknown enum, NaN threshold, a negative one of the activation or of a rule on magnitudes, numbers of a rule out of range, dReLU without gate, both predictor and router,
 *                                    a plan (select) without its selector
 * @retval SFFN_ERR_SHAPE             sizes of weights, predictor or router don't fit
 * @retval SFFN_ERR_UNSUPPORTED       a predictor of several layers: call sffn_predictor_predict_layers() and hand the sets in; see also matmul.h
 * @retval SFFN_ERR_OUT_OF_MEMORY
 * Since 0.1.
 */
SFFN_API sffn_status sffn_ffn_create(sffn_context *ctx, const sffn_ffn_config *config, sffn_ffn **ffn);
/**
 * Slices, for layers spread over processes, NUMA nodes or machines (examples/sharding). A config of a whole layer becomes that of its neurons
 * [first, first + n_neurons): pointers move, nothing is copied, and the slice's own rows are all that creation packs. The sum of the y of
 * disjoint slices that cover the layer is the layer's y; h and who is active are the whole layer's, bit for bit. down_bias stays with the
 * slice of neuron 0. Set predictor or router afterwards, made from a slice of their own config.
 * @param ctx     for the words of an error only; NULL: they are this thread's, as with sffn_context_create()
 * @param config  initialised and filled in, without predictor and router; changed in place, left as it was on error
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, no neurons, neurons outside the layer, unknown type or layout, predictor or router already set
 * @retval SFFN_ERR_SHAPE             first and n_neurons no multiples of 32 with a q8_0 or q4_0 down in SFFN_LAYOUT_COLUMNS, or of rule_m with block top-k
 * @retval SFFN_ERR_UNSUPPORTED       a top-k or statistical rule, which compares all neurons of a token: no slice can decide it alone
 * Thread-safe. Since 0.1.
 */
SFFN_API sffn_status sffn_ffn_config_slice(const sffn_context *ctx, sffn_ffn_config *config, uint32_t first, uint32_t n_neurons);
/**
 * The same for a predictor: the slice selects what the whole predictor would select there. Of a cascade with a margin the neurons at its very edge may
 * differ: the part of the margin that covers the rounding of x comes from a mean over the rows at hand.
 * @retval SFFN_ERR_UNSUPPORTED  top-k, several layers, a callback, or the SVD of a gate (make its factors once, with sffn_fit_svd(), and slice them)
 * Errors otherwise as above. Since 0.1.
 */
SFFN_API sffn_status sffn_predictor_config_slice(const sffn_context *ctx, sffn_predictor_config *config, uint32_t first, uint32_t n_neurons);
/**
 * The same for a router, by neurons: first and n_neurons are multiples of block_size.
 * @retval SFFN_ERR_SHAPE        they are not
 * @retval SFFN_ERR_UNSUPPORTED  top-k, mass and softmax weights compare all experts: run the whole router everywhere and hand in sffn_active_set_set_slice()
 * Errors otherwise as above. Since 0.1.
 */
SFFN_API sffn_status sffn_router_config_slice(const sffn_context *ctx, sffn_router_config *config, uint32_t first, uint32_t n_neurons);
/** NULL is a no-op. Since 0.1. */
SFFN_API void sffn_ffn_destroy(sffn_ffn *ffn);
/** Takes the scratch that forward needs in a context other than the one the layer was made with. Since 0.1. */
SFFN_API sffn_status sffn_ffn_reserve(sffn_context *ctx, const sffn_ffn *ffn);
/** Bytes of scratch that forward needs with this context's thread count. Since 0.1. */
SFFN_API size_t sffn_ffn_query_scratch(const sffn_context *ctx, const sffn_ffn *ffn);

/** Who decides which neurons run, per call. */
enum sffn_select {
    SFFN_SELECT_DEFAULT = 0,   /**< args.active, else the layer's plan (sffn_ffn_config.select), else its predictor, its router, or gate-first exact. Dense when neither
                                    activation nor rule can make zeros, and from dense_tokens on where the layer has such a number */
    SFFN_SELECT_DENSE = 1,     /**< everything runs, the post-gate rule is not applied: the dense layer of the same weights */
    SFFN_SELECT_GATE = 2,      /**< gate-first: the full gate product decides. Exact for activations with true zeros */
    SFFN_SELECT_PREDICTOR = 3, /**< the layer's predictor, then the gate among those let through */
    SFFN_SELECT_ROUTER = 4,    /**< the layer's router, then the gate inside the chosen experts */
    SFFN_SELECT_ACTIVE = 5     /**< args.active, then the gate among those */
};
/** Which way a call went; sffn_ffn_stats.path. */
enum sffn_path { SFFN_PATH_SPARSE = 0, SFFN_PATH_DENSE = 1, SFFN_PATH_DENSE_ONEDNN = 2 };
/** Why a call ran dense, or would. sffn_ffn_stats has it per call, sffn_ffn_info before any call, sffn_layer_stats counts by it. */
enum sffn_dense_reason {
    SFFN_DENSE_NOT = 0,         /**< it is not dense */
    SFFN_DENSE_ASKED = 1,       /**< sffn_ffn_args.select was SFFN_SELECT_DENSE */
    SFFN_DENSE_PLAN = 2,        /**< sffn_ffn_config.select was */
    SFFN_DENSE_NO_ZEROS = 3,    /**< gate-first, and neither activation nor rule can make zeros: give the layer a rule, a predictor or a router */
    SFFN_DENSE_MANY_TOKENS = 4  /**< sffn_ffn_config.dense_tokens was reached */
};
/** "not", "asked", "plan", "no_zeros", "many_tokens"; "unknown" otherwise. Since 0.1. */
SFFN_API const char *sffn_dense_reason_name(int32_t reason);

/** What a call did. Filled at its end; n_* are summed over tokens, so n_active / (n_tokens * d_ff) is a density. */
typedef struct sffn_ffn_stats {
    size_t struct_size;
    int32_t path;            /**< enum sffn_path */
    uint64_t n_tokens;
    uint64_t n_selected;     /**< neurons let through to the gate; d_ff * n_tokens in gate-first and dense */
    uint64_t n_active;       /**< neurons whose up row was needed (passed gate and rule); ungated: those that passed every rule, |h| included */
    uint64_t n_nonzero;      /**< neurons whose down row was needed */
    uint64_t union_active;   /**< up rows really read, each once per up to 8 tokens */
    uint64_t touched_bytes;  /**< weight bytes read, selector included */
    uint64_t select_ns, gate_ns, up_ns, down_ns, total_ns; /**< 0 unless the context collects statistics. From stage to stage, waiting included; gate and
                                  up of a sparse sffn_ffn_forward() are one stage, whose time is divided as all threads' work in it was */
    uint64_t n_widened;      /**< tokens whose selection exceeded max_density, so that the gate looked at all neurons instead */
    int32_t select;          /**< who decided: enum sffn_select but not DEFAULT */
    int32_t dense_reason;    /**< enum sffn_dense_reason */
} sffn_ffn_stats;
#define SFFN_FFN_STATS_INIT { sizeof(sffn_ffn_stats), 0, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0, 0 }

/** Arguments of one call. Start from SFFN_FFN_ARGS_INIT. Everything is borrowed until the call returns. */
typedef struct sffn_ffn_args {
    size_t struct_size;
    const float *x;               /**< [n_tokens] rows of d_model floats, x_stride apart, aligned as floats are (4 bytes), like every float array of this API */
    size_t x_stride;              /**< elements; 0: d_model */
    float *y;                     /**< [n_tokens] rows of d_model floats, y_stride apart; overwritten; must not overlap x */
    size_t y_stride;              /**< elements; 0: d_model */
    size_t n_tokens;              /**< 0 is a no-op */
    const float *select_x;        /**< input of the predictor or router when it is not x, rows of that selector's d_model floats; NULL: x */
    size_t select_x_stride;       /**< 0: tightly packed */
    int32_t select;               /**< enum sffn_select */
    const sffn_active_set *active;/**< a selection made earlier; n_blocks * block_size == d_ff; its weights, if any, multiply h; NULL: none */
    float *h;                     /**< optional: [n_tokens] rows of d_ff floats, 0 where skipped, an expert's weight included; NULL: not wanted */
    size_t h_stride;              /**< 0: d_ff */
    sffn_active_set *active_out;  /**< optional: the neurons (block_size 1) whose up row was needed; must hold n_tokens; not the same set as active */
    sffn_ffn_stats *stats;        /**< optional */
} sffn_ffn_args;
#define SFFN_FFN_ARGS_INIT \
    { sizeof(sffn_ffn_args), NULL, 0u, NULL, 0u, 0u, NULL, 0u, SFFN_SELECT_DEFAULT, NULL, NULL, 0u, NULL, NULL }

/**
 * Runs the layer on the context's threads (own pool or parallel_for).
 * y is bit-identical for any number of threads, any kind of threading, and any grouping of the same tokens into sparse-path calls.
 * NaN and infinities in x follow IEEE rules in the neurons that are computed: a NaN gate counts as active, so it reaches y. With
 * q8_0 and q4_0 down rows a non-finite h makes the whole y of its token NaN.
 * @retval SFFN_ERR_INVALID_ARGUMENT, SFFN_ERR_SHAPE  bad args; y is untouched
 * @retval SFFN_ERR_UNSUPPORTED   a selector that the layer does not have
 * @retval SFFN_ERR_NOT_RESERVED  see sffn_ffn_reserve()
 * @retval SFFN_ERR_BUSY          another call is running in this context
 * A call that succeeds does not allocate, lock, log or call the system except to wake and wait for pool threads (oneDNN, when asked for, does
 * as it likes). Since 0.1.
 */
SFFN_API sffn_status sffn_ffn_forward(sffn_context *ctx, const sffn_ffn *ffn, const sffn_ffn_args *args);

/**
 * The same on the caller's own threads, in phases that never wait (a ggml node each, an OpenMP for, an ORT ParallelFor).
 * Every phase 0 .. n-1 must be run once for each ith in 0 .. nth-1, in any order or concurrently, and finished before the next phase
 * starts. args and nth must be the same in all of them. nth <= 512; it may exceed the context's n_threads when
 * sffn_ffn_reserve_threads() was told so. Every call checks args and returns the same status, before it touches anything.
 * sffn_ffn_n_phases() is 0 for bad args: run phase 0 to get the status and the words. These forms do not notice SFFN_ERR_BUSY: keep other
 * calls out of the context until the last phase is done. They never use oneDNN.
 * Since 0.1.
 */
SFFN_API uint32_t sffn_ffn_n_phases(const sffn_ffn *ffn, const sffn_ffn_args *args);
SFFN_API sffn_status sffn_ffn_forward_phase(sffn_context *ctx, const sffn_ffn *ffn, const sffn_ffn_args *args,
                                            uint32_t phase, uint32_t ith, uint32_t nth);
/** The same as one call that every one of the caller's nth threads makes; barrier(user) must make all of them wait for each other. Since 0.1. */
SFFN_API sffn_status sffn_ffn_forward_spmd(sffn_context *ctx, const sffn_ffn *ffn, const sffn_ffn_args *args,
                                           uint32_t ith, uint32_t nth, void (*barrier)(void *user), void *user);
/** Scratch for up to max_threads caller's threads. Since 0.1. */
SFFN_API sffn_status sffn_ffn_reserve_threads(sffn_context *ctx, const sffn_ffn *ffn, uint32_t max_threads);

/**
 * The stages alone. Rows of s, u and h are d_ff floats, x and y d_model floats, tightly packed [n_tokens][...].
 * select: the layer's selector -> active (blocks of the selector).  gate: -> s with zeros where skipped or dropped by the rule, and
 * the surviving neurons (block_size 1).  up: -> h = s * u for the given neurons, zeros elsewhere.  down: -> y.
 * Weights of active_in go into gate's active_out, which must then have room for them, and are multiplied into h by up.
 * active_in NULL: all neurons. Only gate's active_out may be NULL among the outputs. Errors as sffn_ffn_forward(). Since 0.1.
 */
SFFN_API sffn_status sffn_ffn_select(sffn_context *ctx, const sffn_ffn *ffn, const float *select_x, size_t n_tokens, sffn_active_set *active);
SFFN_API sffn_status sffn_ffn_gate(sffn_context *ctx, const sffn_ffn *ffn, const float *x, size_t n_tokens,
                                   const sffn_active_set *active_in, float *s, sffn_active_set *active_out);
SFFN_API sffn_status sffn_ffn_up(sffn_context *ctx, const sffn_ffn *ffn, const float *x, const float *s, size_t n_tokens,
                                 const sffn_active_set *active_in, float *h);
SFFN_API sffn_status sffn_ffn_down(sffn_context *ctx, const sffn_ffn *ffn, const float *h, size_t n_tokens,
                                   const sffn_active_set *active_in, float *y);

typedef struct sffn_ffn_info {
    size_t struct_size;
    uint32_t d_model, d_ff;
    int32_t is_gated, activation, rule, has_predictor, has_router;
    int32_t gate_dtype, up_dtype, down_dtype; /**< gate_dtype -1 when ungated */
    float act_threshold;
    uint64_t weight_bytes;    /**< what the dense layer must read */
    uint64_t selector_bytes;  /**< what the predictor or router reads */
    int32_t select_input;     /**< enum sffn_selector_input of the predictor or router: what to hand in as sffn_ffn_args.select_x; SFFN_INPUT_FFN: nothing */
    int32_t select;           /**< who decides for one token when args.select is DEFAULT and no set is handed in: enum sffn_select */
    int32_t dense_reason;     /**< enum sffn_dense_reason of such a call */
    uint32_t dense_tokens;    /**< such calls run dense from this many tokens on; 1: all do, 0: none does, however long */
    float max_density;        /**< as configured: selections of a larger share make the gate look at all neurons */
} sffn_ffn_info;
#define SFFN_FFN_INFO_INIT { sizeof(sffn_ffn_info), 0u, 0u, 0, 0, 0, 0, 0, 0, 0, 0, 0.0f, 0u, 0u, SFFN_INPUT_FFN, 0, 0, 0u, 0.0f }
/** What a layer is, and what will run dense in it. The log (SFFN_LOG_INFO) says the same in one line when the layer is made. Since 0.1. */
SFFN_API sffn_status sffn_ffn_get_info(const sffn_ffn *ffn, sffn_ffn_info *info);
/** "none", "score", "abs_score", "abs_h", "top_k_score", "top_k_h", "block_top_k_score", "block_top_k_h", "statistical_score", "statistical_h"; "unknown"
 * otherwise. Since 0.1. */
SFFN_API const char *sffn_rule_name(int32_t rule);
/** The rule of that name, or -1. Since 0.1. */
SFFN_API int32_t sffn_rule_from_name(const char *name);
/** "relu", "fatrelu", "relu2", "drelu", "silu", "gelu", "gelu_tanh", "shifted_relu"; "unknown" otherwise. Since 0.1. */
SFFN_API const char *sffn_activation_name(int32_t activation);
/** The activation of that name, or -1. Since 0.1. */
SFFN_API int32_t sffn_activation_from_name(const char *name);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_FFN_H */
