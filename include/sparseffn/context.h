/** @file context.h  sffn_context: threads, memory, chosen kernels, log, last error, scratch. */
#ifndef SFFN_CONTEXT_H
#define SFFN_CONTEXT_H
#include <stddef.h>
#include <stdint.h>
#include "sparseffn/dtype.h"
#include "sparseffn/status.h"
#ifdef __cplusplus
extern "C" {
#endif
/**
 * Everything that a call needs besides the layer: kernels chosen for this CPU, threads, scratch memory, error text.
 * Objects made with one context (matrices, layers, sets) are immutable and can be used with any other; they borrow the
 * allocator and the log of the context that made them, which must outlive them. One context runs one call at a time;
 * a second concurrent call gets SFFN_ERR_BUSY. Use one context per concurrent stream.
 */
typedef struct sffn_context sffn_context;

enum sffn_log_level { SFFN_LOG_ERROR = 0, SFFN_LOG_WARNING = 1, SFFN_LOG_INFO = 2, SFFN_LOG_DEBUG = 3 };

/** Memory callbacks. Both or none must be set. Called from any thread that creates or destroys objects, never from forward. */
typedef struct sffn_allocator {
    void *user;
    /** @return @p bytes bytes aligned to @p alignment (a power of two <= 4096), or NULL; contents undefined */
    void *(*alloc)(void *user, size_t bytes, size_t alignment);
    /** @param bytes what was asked for; ptr is never NULL */
    void (*free)(void *user, void *ptr, size_t bytes);
} sffn_allocator;

/** Runs fn(arg, i) for every i in [0, n), in any order, on any threads, and returns when all are done. No two calls need to run at the same time. */
typedef void (*sffn_parallel_for_fn)(void *user, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);

/** Progress of long work: done of total units of what is named. Return 0 to go on, anything else to stop with SFFN_ERR_INTERRUPTED. */
typedef int32_t (*sffn_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

/** Whether to ask the system for 2 MiB pages for packed weights. */
enum sffn_huge_pages {
    SFFN_HUGE_PAGES_AUTO = 0,  /**< transparent huge pages where allowed; the context reports what was obtained */
    SFFN_HUGE_PAGES_OFF = 1
};

/** Start from SFFN_CONTEXT_CONFIG_INIT, then set what differs. Copied. */
typedef struct sffn_context_config {
    size_t struct_size;          /**< sizeof(sffn_context_config) as the caller was compiled */
    sffn_allocator allocator;    /**< all NULL: the C library's. With a custom allocator huge pages are the caller's business */
    void (*log)(void *user, int32_t level, const char *text); /**< NULL: silent. Never called from forward's hot path */
    void *log_user;
    uint32_t n_threads;          /**< own pool and parallel_for: a call's work is cut into so many shares, 1..512; 0 = the CPUs this process may use. Default 1 */
    sffn_parallel_for_fn parallel_for; /**< NULL: own pool of n_threads - 1 threads plus the caller's, but no more than the CPUs this process may use when the
                                      context is made. No call waits for a thread of it that has not begun. Else no thread is ever created */
    void *parallel_for_user;
    const char *max_isa;         /**< NULL: best this CPU runs. Else a row of the ISA table, "scalar", "avx2", "avx_vnni", "avx512vl_vnni", "avx512", "avx512_vnni", on AArch64 "neon", "dotprod", as a cap */
    int32_t huge_pages;          /**< enum sffn_huge_pages */
    int32_t bind_threads;        /**< 1: own pool threads are bound to one core each (hwloc or OS). Default 0 */
    uint32_t spin_us;            /**< how long idle pool threads stay awake before they sleep, microseconds, at most 1000000. Default 50. Threads that wait for
                                      others within a call stay awake 20 times as long. After 4 us they give way (sched_yield) to whoever wants to run. 0: sleep after a look */
    int32_t collect_stats;       /**< 1: forward measures the time of its stages, and counts by layer (stats.h). Default 0 */
    int32_t use_onednn;          /**< 1: long dense calls (sffn_ffn_config.dense_tokens) go through oneDNN where built in and found. It brings its own
                                      OpenMP threads into the process, so the default is 0: our own dense path. Not found: the log has a warning, and
                                      sffn_context_info.has_onednn is 0 */
    uint32_t stats_recall_every; /**< with collect_stats: every n-th selected token is checked against the whole gate (stats.h). 0 (default): none */
} sffn_context_config;
#define SFFN_CONTEXT_CONFIG_INIT \
    { sizeof(sffn_context_config), { NULL, NULL, NULL }, NULL, NULL, 1u, NULL, NULL, NULL, SFFN_HUGE_PAGES_AUTO, 0, 50u, 0, 0, 0u }

/**
 * Creates a context. The environment variable SFFN_MAX_ISA, read here and nowhere else, caps the ISA further.
 * @param config  NULL means all defaults
 * @param[out] ctx  owned by the caller; NULL on error. The text of a failed creation: sffn_context_last_error(NULL), per thread
 * @retval SFFN_ERR_INVALID_ARGUMENT  field out of range, unknown ISA name, one of alloc and free missing
 * @retval SFFN_ERR_OUT_OF_MEMORY, SFFN_ERR_THREAD
 * Since 0.1.
 */
SFFN_API sffn_status sffn_context_create(const sffn_context_config *config, sffn_context **ctx);
/** Joins the pool and frees scratch. Objects made with this context must be gone. NULL is a no-op. Since 0.1. */
SFFN_API void sffn_context_destroy(sffn_context *ctx);
/**
 * The words of the last call that failed with this context: argument, value, expectation. "" when none has.
 * A function that takes an object but no context leaves its words in the context that made the object. The text is overwritten by the next failure,
 * so read it on the thread whose call failed, before other threads use the same context. Failures are also logged at SFFN_LOG_DEBUG.
 * Valid until the next failing call with the same context. ctx NULL: the last failed sffn_context_create() of this thread. Since 0.1.
 */
SFFN_API const char *sffn_context_last_error(const sffn_context *ctx);

/** What a context got. Set struct_size before the call. */
typedef struct sffn_context_info {
    size_t struct_size;
    const char *isa;             /**< strongest ISA row in use, "avx512_vnni"; static storage */
    const char *cpu_features;    /**< space separated, of this CPU; owned by the context */
    uint32_t n_threads;          /**< shares that a call's work is cut into: config.n_threads */
    uint32_t n_cpus;             /**< CPUs this process may use */
    uint32_t n_cores;            /**< physical cores among them */
    uint32_t n_numa_nodes;
    uint64_t l1d_bytes, l2_bytes, llc_bytes; /**< data caches; llc_bytes is of one cache; 0 = unknown */
    uint64_t page_bytes;         /**< base page */
    uint64_t huge_page_bytes;    /**< 0: the system has none or the context does not ask for them */
    uint64_t weight_bytes;       /**< packed weights alive that were made with this context */
    uint64_t weight_huge_bytes;  /**< of these, how many the system really put in huge pages, last time it was counted */
    uint64_t scratch_bytes;
    int32_t has_hwloc;           /**< 1: topology comes from hwloc */
    int32_t has_onednn;          /**< 1: asked for with use_onednn, built in and found */
} sffn_context_info;
#define SFFN_CONTEXT_INFO_INIT { sizeof(sffn_context_info), NULL, NULL, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0, 0 }
/** Fills @p info. Walks the process's memory map to count huge pages: not for the hot path. Since 0.1. */
SFFN_API sffn_status sffn_context_get_info(const sffn_context *ctx, sffn_context_info *info);
/** Number of kernels of the chosen table. Since 0.1. */
SFFN_API size_t sffn_context_n_kernels(const sffn_context *ctx);
/** Name of kernel @p index, "rows_dot_q8_0_avx512_vnni", or NULL past the end. Static storage. Since 0.1. */
SFFN_API const char *sffn_context_kernel_name(const sffn_context *ctx, size_t index);

/** Names of the ISAs built into this library, weakest first ("scalar" is 0), NULL past the end; whether this CPU runs it. Since 0.1. */
SFFN_API const char *sffn_isa_name(size_t index);
SFFN_API int32_t sffn_isa_is_supported(size_t index);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_CONTEXT_H */
