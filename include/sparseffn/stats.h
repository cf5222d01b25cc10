/** @file stats.h  What the layers of a context did since it was made or reset: by layer, as JSON, as Prometheus text. */
#ifndef SFFN_STATS_H
#define SFFN_STATS_H
#include "sparseffn/ffn.h"
#ifdef __cplusplus
extern "C" {
#endif
/**
 * Statistics of a context made with collect_stats. sffn_ffn_create() and sffn_ffn_reserve() register a layer with the context; whole-layer calls of any
 * form are then added to its counters when they end. That takes no lock and no memory, and without collect_stats nothing at all. The layer's destruction
 * ends its row in the context that made it; in other contexts the row stays until they are destroyed.
 *
 * With stats_recall_every = n, every n-th token that a predictor, a router or a handed-in set selects for is checked in the same call: the whole gate is
 * computed once more for it, and the selection compared with the neurons that pass activation and thresholds (what a top-k, block top-k or statistical rule
 * drops afterwards counts as active). y does not change; the call reads the gate's bytes in addition, which touched_bytes does not count.
 */

/** Sums over all calls of one layer in one context. */
typedef struct sffn_layer_stats {
    size_t struct_size;
    uint64_t calls_sparse, calls_dense, calls_onednn; /**< by enum sffn_path */
    uint64_t n_tokens;
    uint64_t n_selected;        /**< this and the next two as in sffn_ffn_stats; over n_tokens * d_ff they are densities */
    uint64_t n_active;
    uint64_t n_nonzero;
    uint64_t touched_bytes;     /**< weight bytes read, selector included */
    uint64_t select_ns, gate_ns, up_ns, down_ns; /**< as in sffn_ffn_stats; with oneDNN only the total */
    uint64_t check_ns;          /**< of the checks for sampled recall */
    uint64_t total_ns;
    uint64_t sampled_tokens;    /**< whose selection was checked */
    uint64_t sampled_true;      /**< neurons of these tokens that are active by the gate */
    uint64_t sampled_selected;  /**< that the selection let through */
    uint64_t sampled_hits;      /**< both */
    double recall;              /**< sampled_hits / sampled_true; 1 when there is none */
    double precision;           /**< sampled_hits / sampled_selected; 1 when there is none */
    uint64_t dense_asked, dense_plan, dense_no_zeros, dense_many_tokens; /**< calls by enum sffn_dense_reason: calls_dense + calls_onednn in all */
    uint64_t n_widened;         /**< as in sffn_ffn_stats */
} sffn_layer_stats;
#define SFFN_LAYER_STATS_INIT \
    { sizeof(sffn_layer_stats), 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 1.0, 1.0, 0u, 0u, 0u, 0u, 0u }

/**
 * One layer's counters. From any thread, also while a call runs; then some of that call's counters may be there and others not yet.
 * @retval SFFN_ERR_UNSUPPORTED  the context does not collect; SFFN_ERR_NOT_FOUND the layer was not reserved with it; SFFN_ERR_INVALID_ARGUMENT NULL
 * Since 0.1.
 */
SFFN_API sffn_status sffn_context_get_layer_stats(const sffn_context *ctx, const sffn_ffn *ffn, sffn_layer_stats *stats);
/** Sets every counter to 0. @retval SFFN_ERR_BUSY a call is running in the context; SFFN_ERR_UNSUPPORTED as above. Since 0.1. */
SFFN_API sffn_status sffn_context_reset_stats(sffn_context *ctx);

enum sffn_stats_format {
    SFFN_STATS_JSON = 0,      /**< {"version", "unregistered_calls", "layers": [{"name", "d_ff", "calls": {"sparse", "dense", "onednn"}, "dense_reasons":
                                   {"asked", "plan", "no_zeros", "many_tokens"}, "tokens", "widened", "neurons", "selected", "active", "nonzero", "weight_bytes", "seconds": {"select", "gate", "up", "down", "check", "other", "total"},
                                   "sampled": {"tokens", "true", "selected", "hits", "recall", "precision"}}]}; recall and precision are null without samples */
    SFFN_STATS_PROMETHEUS = 1 /**< text exposition format 0.0.4: counters sffn_layer_*_total with the label layer, and path, reason or stage */
};
/**
 * The counters of all layers of the context as UTF-8 text. A layer is called by its name (sffn_ffn_config.name); of several with the same name the later
 * ones are name#2, name#3. Calls of layers that were not registered are counted in unregistered_calls and nowhere else. From any thread.
 * @param buffer  receives the text and a terminating 0; NULL with bytes 0: only *needed is wanted
 * @param needed  bytes that the text takes, with its 0; it grows as counters do. NULL: not wanted
 * @retval SFFN_ERR_SHAPE  bytes is too small; buffer is an empty string
 * @retval SFFN_ERR_INVALID_ARGUMENT  NULL, unknown format; SFFN_ERR_UNSUPPORTED the context does not collect
 * Does not allocate. Since 0.1.
 */
SFFN_API sffn_status sffn_context_write_stats(const sffn_context *ctx, int32_t format, char *buffer, size_t bytes, size_t *needed);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_STATS_H */
