/** @file active_set.h  sffn_active_set: the neurons or blocks that each token computes, and their union. */
#ifndef SFFN_ACTIVE_SET_H
#define SFFN_ACTIVE_SET_H
#include "sparseffn/context.h"
#ifdef __cplusplus
extern "C" {
#endif
/** What happens to a value that equals its threshold; the field disagrees. */
enum sffn_tie { SFFN_TIE_DROP = 0, SFFN_TIE_KEEP = 1 };

/**
 * For each of n_tokens tokens a subset of n_blocks blocks of block_size consecutive neurons; block_size 1 means neurons.
 * Mutable: one per thread while it is written; any number of readers afterwards. All memory is taken at creation.
 */
typedef struct sffn_active_set sffn_active_set;

typedef struct sffn_active_set_config {
    size_t struct_size;
    uint32_t n_blocks;    /**< > 0 */
    uint32_t block_size;  /**< neurons per block, > 0; default 1 */
    uint32_t max_tokens;  /**< > 0; default 1 */
    int32_t has_weights;  /**< 1: a weight per token and block travels with the selection, see sffn_active_set_set_weights(). Default 0 */
} sffn_active_set_config;
#define SFFN_ACTIVE_SET_CONFIG_INIT { sizeof(sffn_active_set_config), 0u, 1u, 1u, 0 }

/** @retval SFFN_ERR_INVALID_ARGUMENT a zero size, n_blocks * block_size over 2^31 - 1. The new set has 0 tokens. Since 0.1. */
SFFN_API sffn_status sffn_active_set_create(sffn_context *ctx, const sffn_active_set_config *config, sffn_active_set **set);
/** NULL is a no-op. Since 0.1. */
SFFN_API void sffn_active_set_destroy(sffn_active_set *set);

/** Sets the number of tokens to n_tokens and empties every token's subset. @retval SFFN_ERR_SHAPE more than max_tokens. Since 0.1. */
SFFN_API sffn_status sffn_active_set_clear(sffn_active_set *set, size_t n_tokens);
/**
 * Replaces the subset of one token (token < n_tokens) by the blocks listed, in any order; repeats count once.
 * @retval SFFN_ERR_INVALID_ARGUMENT  an index >= n_blocks, token >= n_tokens; the set is left as it was
 * Does not allocate. Since 0.1.
 */
SFFN_API sffn_status sffn_active_set_set_indices(sffn_active_set *set, size_t token, const uint32_t *blocks, size_t n);
/** The same from a bitmap: block b is bit b % 8 of byte b / 8; (n_blocks + 7) / 8 bytes; bits past the end are ignored. Since 0.1. */
SFFN_API sffn_status sffn_active_set_set_bitmap(sffn_active_set *set, size_t token, const uint8_t *bitmap);
/** The same from bytes: block b is active when mask[b] != 0; n_blocks bytes. Since 0.1. */
SFFN_API sffn_status sffn_active_set_set_mask(sffn_active_set *set, size_t token, const uint8_t *mask);
/** All blocks of one token. Since 0.1. */
SFFN_API sffn_status sffn_active_set_set_all(sffn_active_set *set, size_t token);

/** How a value decides whether it is kept. In every kind NaN is kept, so that it is seen. */
enum sffn_value_rule_kind {
    SFFN_VALUE_ABOVE = 0,       /**< v_i > t_i (>= with tie keep) */
    SFFN_VALUE_ABS_ABOVE = 1,   /**< |v_i| > t_i (>=): CATS arXiv:2404.08763, CHESS arXiv:2409.01366, CETT arXiv:2402.03804, TEAL arXiv:2408.14690 */
    SFFN_VALUE_TOP_K = 2,       /**< the k largest |v_i|; among equals the lowest i: Q-Sparse, arXiv:2407.10969 */
    SFFN_VALUE_BLOCK_TOP_K = 3, /**< the same among each m consecutive values, and among the n % m at the end: Block Q-Sparse */
    SFFN_VALUE_STATISTICAL_TOP_K = 4 /**< v_i > mean + std * Phi^-1(sparsity) (>=), mean and population std of the n signed values, one pass in double,
                                          the threshold rounded to float: Gemma 3n. The share kept is 1 - sparsity only as far as the values are
                                          normal. A value that is not finite leaves no threshold: all are kept */
};
/** A rule over n values. Start from SFFN_VALUE_RULE_INIT. */
typedef struct sffn_value_rule {
    size_t struct_size;
    int32_t kind;            /**< enum sffn_value_rule_kind */
    int32_t tie;             /**< enum sffn_tie, where a threshold decides; default SFFN_TIE_DROP */
    float threshold;         /**< ABOVE, ABS_ABOVE: t for all; >= 0 for ABS_ABOVE */
    const float *thresholds; /**< [n] t_i instead of threshold; NULL: none; borrowed */
    uint32_t k;              /**< TOP_K: 0 keeps none, k >= n all. BLOCK_TOP_K: 0..m */
    uint32_t m;              /**< BLOCK_TOP_K: > 0 */
    float sparsity;          /**< STATISTICAL_TOP_K: share to drop, in (0, 1) */
} sffn_value_rule;
#define SFFN_VALUE_RULE_INIT { sizeof(sffn_value_rule), SFFN_VALUE_ABOVE, SFFN_TIE_DROP, 0.0f, NULL, 0u, 0u, 0.0f }
/**
 * Replaces the subset of one token by the blocks whose value passes: scores of neurons or experts, or the inputs x of any linear layer, whose product
 * then is sffn_matmul_rows_axpy() of the transposed matrix (examples/05_input_sparsity.c).
 * @param values  n floats, one per block
 * @retval SFFN_ERR_SHAPE             n is not n_blocks
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, token >= n_tokens, a field of the rule out of its range; the set is left as it was
 * Does not allocate. Since 0.1.
 */
SFFN_API sffn_status sffn_active_set_set_values(sffn_active_set *set, size_t token, const float *values, size_t n, const sffn_value_rule *rule);
/**
 * Phi^-1(p) of the standard normal distribution, within 1e-14 relative; -inf at 0, inf at 1, NaN outside [0, 1]. A TEAL threshold for sparsity p of
 * values with mean 0 and standard deviation sigma is sigma * sffn_normal_quantile(0.5 + p / 2). Since 0.1.
 */
SFFN_API double sffn_normal_quantile(double p);
/**
 * The weights of one token's blocks: a layer that is handed this set multiplies h of block b's neurons by weights[b] (mixture of experts).
 * A router that weighs its experts writes them; sffn_active_set_clear() makes them 1, and a changed subset leaves them as they are.
 * @param weights  n_blocks floats, copied
 * @retval SFFN_ERR_INVALID_ARGUMENT  a set made without weights, token >= n_tokens
 * Since 0.1.
 */
SFFN_API sffn_status sffn_active_set_set_weights(sffn_active_set *set, size_t token, const float *weights);
/** The weights of one token, n_blocks floats, valid until the set changes; NULL when token >= n_tokens or the set was made without. Since 0.1. */
SFFN_API const float *sffn_active_set_weights(const sffn_active_set *set, size_t token);
/** 1 when the set was made with weights. Since 0.1. */
SFFN_API int32_t sffn_active_set_has_weights(const sffn_active_set *set);

/**
 * Cuts a selection of a whole layer down to the blocks [first_block, first_block + n_blocks of @p set): what a part of the layer's neurons gets handed
 * in (sffn_ffn_config_slice()). Replaces all tokens of @p set; weights come along.
 * @param whole  another set of the same block_size
 * @retval SFFN_ERR_SHAPE             whole has other blocks, fewer of them, or more tokens than set was made for; set is left as it was
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, the same set twice, or weights that set has no room for
 * Does not allocate. Since 0.1.
 */
SFFN_API sffn_status sffn_active_set_set_slice(sffn_active_set *set, const sffn_active_set *whole, uint32_t first_block);

SFFN_API uint32_t sffn_active_set_n_blocks(const sffn_active_set *set);
SFFN_API uint32_t sffn_active_set_block_size(const sffn_active_set *set);
SFFN_API uint32_t sffn_active_set_max_tokens(const sffn_active_set *set);
SFFN_API size_t sffn_active_set_n_tokens(const sffn_active_set *set);
/** Active blocks of one token; 0 when token >= n_tokens. Since 0.1. */
SFFN_API size_t sffn_active_set_count(const sffn_active_set *set, size_t token);
/** Their indices, ascending, valid until the set changes; NULL when token >= n_tokens. Since 0.1. */
SFFN_API const uint32_t *sffn_active_set_indices(const sffn_active_set *set, size_t token);
/** 1 when the block is active for the token, else 0 (also out of range). Since 0.1. */
SFFN_API int32_t sffn_active_set_contains(const sffn_active_set *set, size_t token, uint32_t block);
/** Writes the bitmap described above, (n_blocks + 7) / 8 bytes. Since 0.1. */
SFFN_API sffn_status sffn_active_set_get_bitmap(const sffn_active_set *set, size_t token, uint8_t *bitmap);
/** Number of blocks that at least one token has. Since 0.1. */
SFFN_API size_t sffn_active_set_union_count(const sffn_active_set *set);
/** Mean over tokens of active / n_blocks, in [0, 1]; 0 without tokens. Since 0.1. */
SFFN_API double sffn_active_set_density(const sffn_active_set *set);
/**
 * Predictor recall of one token: |predicted and truth| / |truth|, 1 when truth is empty (methods: 0/0 is 1).
 * Both sets must have the same n_blocks and block_size. @retval SFFN_ERR_SHAPE otherwise. Since 0.1.
 */
SFFN_API sffn_status sffn_active_set_recall(const sffn_active_set *predicted, const sffn_active_set *truth, size_t token, double *recall);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_ACTIVE_SET_H */
