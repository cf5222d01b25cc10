/* stats.h  Counters of a context, one row per layer. Forward adds to its layer's row without a lock: one call runs in a context at a time,
 * so there is one writer; readers may come at any time and see each counter whole. */
#ifndef SFFN_BASE_STATS_H
#define SFFN_BASE_STATS_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include "sparseffn/context.h"

enum sffn_stat {
    SFFN_STAT_CALLS_SPARSE, /* in the order of enum sffn_path */
    SFFN_STAT_CALLS_DENSE,
    SFFN_STAT_CALLS_ONEDNN,
    SFFN_STAT_TOKENS,
    SFFN_STAT_SELECTED,
    SFFN_STAT_ACTIVE,
    SFFN_STAT_NONZERO,
    SFFN_STAT_BYTES,
    SFFN_STAT_SELECT_NS,
    SFFN_STAT_GATE_NS,
    SFFN_STAT_UP_NS,
    SFFN_STAT_DOWN_NS,
    SFFN_STAT_CHECK_NS,
    SFFN_STAT_TOTAL_NS,
    SFFN_STAT_SELECTABLE, /* tokens that a selection was made for: every n-th is checked */
    SFFN_STAT_SAMPLED_TOKENS,
    SFFN_STAT_SAMPLED_TRUE,
    SFFN_STAT_SAMPLED_SELECTED,
    SFFN_STAT_SAMPLED_HITS,
    SFFN_STAT_DENSE_ASKED, /* in the order of enum sffn_dense_reason */
    SFFN_STAT_DENSE_PLAN,
    SFFN_STAT_DENSE_NO_ZEROS,
    SFFN_STAT_DENSE_MANY_TOKENS,
    SFFN_STAT_WIDENED,
    SFFN_STAT_COUNT
};

/* Rows are never freed before the context, so that forward can walk the list while others change it; a dead layer's row is used again. */
struct sffn_stats_row {
    _Atomic(struct sffn_stats_row *) next;
    _Atomic uint64_t layer_id; /* 0: free */
    _Atomic uint64_t values[SFFN_STAT_COUNT];
    uint32_t d_ff;
    char name[80]; /* UTF-8, no other row of a living layer has it */
};

struct sffn_stats {
    pthread_mutex_t lock; /* rows that come and go, and readers of names */
    _Atomic(struct sffn_stats_row *) rows;
    _Atomic uint64_t unregistered_calls;
};

void sffn_stats_init(struct sffn_stats *stats);
void sffn_stats_fini(const sffn_context *ctx, struct sffn_stats *stats);
/* The row of a layer, or NULL. No lock. */
struct sffn_stats_row *sffn_stats_find(struct sffn_stats *stats, uint64_t layer_id);
/* Makes the row of a layer unless there is one. */
sffn_status sffn_stats_register(const sffn_context *ctx, struct sffn_stats *stats,
                                uint64_t layer_id, const char *name, uint32_t d_ff);
/* The layer is gone. */
void sffn_stats_forget(struct sffn_stats *stats, uint64_t layer_id);

/* By the one call that runs in the context. */
static inline void sffn_stat_add(_Atomic uint64_t *value, uint64_t n)
{
    atomic_store_explicit(value, atomic_load_explicit(value, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
static inline uint64_t sffn_stat_get(const struct sffn_stats_row *row, enum sffn_stat which)
{
    return atomic_load_explicit(&row->values[which], memory_order_relaxed);
}

#endif /* SFFN_BASE_STATS_H */
