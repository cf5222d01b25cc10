/* context.h  What the rest of the library may know of a context. */
#ifndef SFFN_BASE_CONTEXT_H
#define SFFN_BASE_CONTEXT_H
#include <stddef.h>
#include <stdint.h>
#include "kernels/kernels.h"
#include "sparseffn/context.h"

#if defined(__GNUC__)
#define SFFN_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define SFFN_PRINTF(fmt, args)
#endif

/* Threads per call, whoever they belong to. */
#define SFFN_MAX_THREADS 512u

/* Stores the words of a failure in the context (ctx may be NULL: then per thread) and returns `status`. */
sffn_status sffn_fail(const sffn_context *ctx, sffn_status status, const char *format, ...)
    SFFN_PRINTF(3, 4);
/* Sends a line to the log callback, if any. */
void sffn_log(const sffn_context *ctx, int32_t level, const char *format, ...) SFFN_PRINTF(3, 4);

/* Memory of the context's allocator, 64-byte aligned; NULL when it has none. sffn_mem_free(ctx, NULL, n) is a no-op. */
void *sffn_mem_alloc(const sffn_context *ctx, size_t bytes);
void *sffn_mem_alloc_zero(const sffn_context *ctx, size_t bytes);
void sffn_mem_free(const sffn_context *ctx, void *ptr, size_t bytes);
/* Memory for packed weights: huge pages when the context asks for them and has no custom allocator. Counted in the context's info. */
void *sffn_mem_alloc_weights(const sffn_context *ctx, size_t bytes);
void sffn_mem_free_weights(const sffn_context *ctx, void *ptr, size_t bytes);

/* Copies a caller's sized struct over defaults already in *dst (dst_size bytes, struct_size first): a smaller source is an older caller;
 * a larger one is accepted when the tail we do not know is zero. `what` names the struct in the error text. */
sffn_status sffn_config_copy(const sffn_context *ctx, const char *what, void *dst, size_t dst_size,
                             const void *src);
/* The same towards the caller: fills min(dst->struct_size, src_size) bytes of *dst and keeps its struct_size. */
sffn_status sffn_info_copy(const sffn_context *ctx, const char *what, void *dst, const void *src,
                           size_t src_size);

const struct sffn_kernels *sffn_context_kernels(const sffn_context *ctx);
/* Shares of a call, and how many threads can work on them at a time: no more than there are CPUs. */
uint32_t sffn_context_n_threads(const sffn_context *ctx);
uint32_t sffn_context_n_workers(const sffn_context *ctx);
int sffn_context_collects_stats(const sffn_context *ctx);
/* The counters; NULL unless the context collects them. */
struct sffn_stats *sffn_context_stats(const sffn_context *ctx);
uint32_t sffn_context_recall_every(const sffn_context *ctx);
int sffn_context_uses_onednn(const sffn_context *ctx);
uint64_t sffn_now_ns(void);

/* Enters a call: SFFN_ERR_BUSY when another one is inside. Balanced by sffn_context_leave(). */
sffn_status sffn_context_enter(sffn_context *ctx);
void sffn_context_leave(sffn_context *ctx);

/* Scratch of the context, grown to at least `bytes` (64-byte aligned, contents kept undefined). */
sffn_status sffn_context_reserve_scratch(sffn_context *ctx, size_t bytes);
void *sffn_context_scratch(const sffn_context *ctx, size_t *bytes);

/* Runs phases 0 .. n_phases-1 of fn on the context's threads with a barrier between phases: own pool, or one parallel_for per phase. ith is a
 * share of the work: its thread may be another one in the next phase. */
typedef void (*sffn_phase_fn)(void *arg, uint32_t phase, uint32_t ith, uint32_t nth);
void sffn_context_run_phases(sffn_context *ctx, uint32_t n_phases, sffn_phase_fn fn, void *arg);

#endif /* SFFN_BASE_CONTEXT_H */
