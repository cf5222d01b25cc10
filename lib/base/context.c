#include "base/context.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/stats.h"
#include "base/thread_pool.h"
#include "cpu/features.h"
#include "cpu/memory.h"
#include "cpu/topology.h"
#include "ffn/dense_onednn.h"

#define MIN_PAGES_BYTES ((size_t)64 << 10) /* smaller packed weights come from the allocator */

/* One block of packed weights, remembered so that huge pages can be counted. */
struct weight_block {
    void *ptr;
    size_t bytes;
    int is_pages;
    struct weight_block *next;
};

/* What const users of a context still change: errors and accounting, under one lock, never in the hot path. */
struct shared {
    pthread_mutex_t lock;
    char error[512];
    struct weight_block *blocks;
    uint64_t weight_bytes;
    struct sffn_stats stats;
};

struct sffn_context {
    sffn_context_config config;
    struct sffn_kernels kernels;
    size_t isa;
    uint64_t cpu;
    char cpu_text[256];
    struct sffn_topology topology;
    struct sffn_thread_pool *pool; /* NULL with one thread or a caller's parallel_for */
    void *scratch;
    size_t scratch_bytes;
    atomic_flag is_busy;
    struct shared *shared;
};

static _Thread_local char creation_error[512];

sffn_status sffn_fail(const sffn_context *ctx, sffn_status status, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!ctx || !ctx->shared) {
        memcpy(creation_error, text, sizeof(text));
    } else {
        pthread_mutex_lock(&ctx->shared->lock);
        memcpy(ctx->shared->error, text, sizeof(text));
        pthread_mutex_unlock(&ctx->shared->lock);
        sffn_log(ctx, SFFN_LOG_DEBUG, "%s: %s", sffn_status_name(status), text);
    }
    return status;
}

const char *sffn_context_last_error(const sffn_context *ctx)
{
    return ctx ? ctx->shared->error : creation_error;
}

void sffn_log(const sffn_context *ctx, int32_t level, const char *format, ...)
{
    if (!ctx || !ctx->config.log)
        return;
    char text[640];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    ctx->config.log(ctx->config.log_user, level, text);
}

/* ---- memory ---- */

static void *default_alloc(void *user, size_t bytes, size_t alignment)
{
    (void)user;
    void *ptr = NULL;
    if (alignment < sizeof(void *))
        alignment = sizeof(void *);
    return posix_memalign(&ptr, alignment, bytes ? bytes : 1) == 0 ? ptr : NULL;
}

static void default_free(void *user, void *ptr, size_t bytes)
{
    (void)user, (void)bytes;
    free(ptr);
}

void *sffn_mem_alloc(const sffn_context *ctx, size_t bytes)
{
    return ctx->config.allocator.alloc(ctx->config.allocator.user, bytes ? bytes : 1, 64);
}

void *sffn_mem_alloc_zero(const sffn_context *ctx, size_t bytes)
{
    void *ptr = sffn_mem_alloc(ctx, bytes);
    if (ptr)
        memset(ptr, 0, bytes);
    return ptr;
}

void sffn_mem_free(const sffn_context *ctx, void *ptr, size_t bytes)
{
    if (ptr)
        ctx->config.allocator.free(ctx->config.allocator.user, ptr, bytes ? bytes : 1);
}

void *sffn_mem_alloc_weights(const sffn_context *ctx, size_t bytes)
{
    struct weight_block *block = sffn_mem_alloc(ctx, sizeof(*block));
    if (!block)
        return NULL;
    /* A caller's allocator sees every byte; only our own default may go to the system for pages. */
    block->is_pages = ctx->config.allocator.alloc == default_alloc && bytes >= MIN_PAGES_BYTES;
    block->ptr = block->is_pages
                     ? sffn_pages_alloc(bytes, ctx->config.huge_pages == SFFN_HUGE_PAGES_AUTO)
                     : sffn_mem_alloc(ctx, bytes);
    block->bytes = bytes;
    if (!block->ptr) {
        sffn_mem_free(ctx, block, sizeof(*block));
        return NULL;
    }
    void *ptr = block->ptr;
    pthread_mutex_lock(&ctx->shared->lock);
    block->next = ctx->shared->blocks;
    ctx->shared->blocks = block;
    ctx->shared->weight_bytes += bytes;
    pthread_mutex_unlock(&ctx->shared->lock);
    return ptr;
}

void sffn_mem_free_weights(const sffn_context *ctx, void *ptr, size_t bytes)
{
    if (!ptr)
        return;
    pthread_mutex_lock(&ctx->shared->lock);
    struct weight_block **link = &ctx->shared->blocks;
    while (*link && (*link)->ptr != ptr)
        link = &(*link)->next;
    struct weight_block *block = *link;
    if (block) {
        *link = block->next;
        ctx->shared->weight_bytes -= block->bytes;
    }
    pthread_mutex_unlock(&ctx->shared->lock);
    if (!block)
        return;
    if (block->is_pages)
        sffn_pages_free(ptr, bytes);
    else
        sffn_mem_free(ctx, ptr, bytes);
    sffn_mem_free(ctx, block, sizeof(*block));
}

sffn_status sffn_context_reserve_scratch(sffn_context *ctx, size_t bytes)
{
    if (bytes <= ctx->scratch_bytes)
        return SFFN_OK;
    void *scratch = sffn_mem_alloc(ctx, bytes);
    if (!scratch)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for %zu bytes of scratch", bytes);
    sffn_mem_free(ctx, ctx->scratch, ctx->scratch_bytes);
    ctx->scratch = scratch;
    ctx->scratch_bytes = bytes;
    return SFFN_OK;
}

void *sffn_context_scratch(const sffn_context *ctx, size_t *bytes)
{
    *bytes = ctx->scratch_bytes;
    return ctx->scratch;
}

/* ---- sized structs ---- */

sffn_status sffn_config_copy(const sffn_context *ctx, const char *what, void *dst, size_t dst_size,
                             const void *src)
{
    if (!src)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", what);
    size_t src_size;
    memcpy(&src_size, src, sizeof(src_size));
    if (src_size < sizeof(size_t) || src_size > 65536)
        return sffn_fail(
            ctx, SFFN_ERR_INVALID_ARGUMENT,
            "%s.struct_size is %zu; expected sizeof(%s) = %zu: start from its _INIT macro", what,
            src_size, what, dst_size);
    const unsigned char *bytes = src;
    for (size_t i = dst_size; i < src_size; i++)
        if (bytes[i] != 0)
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "%s.struct_size is %zu, of a newer version, and byte %zu is set; this "
                             "library knows %zu",
                             what, src_size, i, dst_size);
    memcpy(dst, src, src_size < dst_size ? src_size : dst_size);
    memcpy(dst, &dst_size, sizeof(dst_size));
    return SFFN_OK;
}

sffn_status sffn_info_copy(const sffn_context *ctx, const char *what, void *dst, const void *src,
                           size_t src_size)
{
    if (!dst)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", what);
    size_t dst_size;
    memcpy(&dst_size, dst, sizeof(dst_size));
    if (dst_size < sizeof(size_t) || dst_size > 65536)
        return sffn_fail(
            ctx, SFFN_ERR_INVALID_ARGUMENT,
            "%s.struct_size is %zu; expected sizeof(%s) = %zu: start from its _INIT macro", what,
            dst_size, what, src_size);
    const size_t n = dst_size < src_size ? dst_size : src_size;
    memcpy((char *)dst + sizeof(size_t), (const char *)src + sizeof(size_t), n - sizeof(size_t));
    if (dst_size > n)
        memset((char *)dst + n, 0, dst_size - n);
    return SFFN_OK;
}

/* ---- life cycle ---- */

static sffn_status cap_isa(const char *source, const char *name, size_t *isa)
{
    char known[256] = "";
    for (size_t i = 0; sffn_kernels_isa_name(i); i++) {
        if (strcmp(sffn_kernels_isa_name(i), name) == 0) {
            if (i < *isa)
                *isa = i;
            return SFFN_OK;
        }
        const size_t used = strlen(known);
        snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "",
                 sffn_kernels_isa_name(i));
    }
    return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "%s is \"%s\"; this build has %s", source,
                     name, known);
}

static sffn_status check_config(const sffn_context_config *c)
{
    if (!c->allocator.alloc != !c->allocator.free)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT,
                         "allocator.%s is NULL: set both callbacks or none",
                         c->allocator.alloc ? "free" : "alloc");
    if (c->n_threads > SFFN_MAX_THREADS)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "n_threads is %u; expected 0..%u",
                         (unsigned)c->n_threads, SFFN_MAX_THREADS);
    if ((c->bind_threads | c->collect_stats | c->use_onednn) & ~1)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT,
                         "bind_threads is %d, collect_stats %d, use_onednn %d; expected 0 or 1",
                         (int)c->bind_threads, (int)c->collect_stats, (int)c->use_onednn);
    if (c->stats_recall_every > 0 && !c->collect_stats)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT,
                         "stats_recall_every is %u and collect_stats 0; expected collect_stats 1",
                         (unsigned)c->stats_recall_every);
    if (c->huge_pages != SFFN_HUGE_PAGES_AUTO && c->huge_pages != SFFN_HUGE_PAGES_OFF)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT,
                         "huge_pages is %d; expected a value of enum sffn_huge_pages",
                         (int)c->huge_pages);
    if (c->spin_us > 1000000u)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "spin_us is %u; expected at most 1000000",
                         (unsigned)c->spin_us);
    return SFFN_OK;
}

static sffn_status start_pool(sffn_context *ctx)
{
    const sffn_context_config *c = &ctx->config;
    if (c->parallel_for || c->n_threads <= 1)
        return SFFN_OK;
    const size_t bytes = sffn_thread_pool_bytes(c->n_threads);
    struct sffn_thread_pool *pool = sffn_mem_alloc(ctx, bytes);
    if (!pool)
        return sffn_fail(NULL, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for a pool of %u threads",
                         (unsigned)c->n_threads);
    /* More threads than CPUs would only take turns: the work is cut for n_threads, whose number is nowhere to be seen in y, and done by these. */
    const uint32_t n_started = sffn_context_n_workers(ctx);
    const int error =
        sffn_thread_pool_start(pool, c->n_threads, n_started, (uint64_t)c->spin_us * 1000,
                               c->bind_threads ? sffn_topology_bind_thread : NULL);
    if (error) {
        sffn_mem_free(ctx, pool, bytes);
        return sffn_fail(NULL, SFFN_ERR_THREAD, "the system refused one of %u threads: %s",
                         (unsigned)n_started - 1, strerror(error));
    }
    ctx->pool = pool;
    return SFFN_OK;
}

sffn_status sffn_context_create(const sffn_context_config *config, sffn_context **out)
{
    if (!out)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
    *out = NULL;
    sffn_context_config c = SFFN_CONTEXT_CONFIG_INIT;
    sffn_status status =
        config ? sffn_config_copy(NULL, "sffn_context_config", &c, sizeof(c), config) : SFFN_OK;
    if (status == SFFN_OK)
        status = check_config(&c);
    size_t isa = SIZE_MAX;
    if (status == SFFN_OK && c.max_isa)
        status = cap_isa("max_isa", c.max_isa, &isa);
    const char *env = getenv("SFFN_MAX_ISA");
    if (status == SFFN_OK && env && *env)
        status = cap_isa("environment variable SFFN_MAX_ISA", env, &isa);
    if (status != SFFN_OK)
        return status;

    if (!c.allocator.alloc) {
        c.allocator.alloc = default_alloc;
        c.allocator.free = default_free;
    }
    c.max_isa = NULL; /* borrowed only until here */
    sffn_context *ctx = c.allocator.alloc(c.allocator.user, sizeof(*ctx), 64);
    if (!ctx)
        return sffn_fail(NULL, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for the context");
    memset(ctx, 0, sizeof(*ctx));
    ctx->config = c;
    struct shared *shared = sffn_mem_alloc_zero(ctx, sizeof(*shared));
    if (!shared) {
        sffn_mem_free(ctx, ctx, sizeof(*ctx));
        return sffn_fail(NULL, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for the context");
    }
    pthread_mutex_init(&shared->lock, NULL);
    sffn_stats_init(&shared->stats);
    ctx->shared = shared;
    atomic_flag_clear(&ctx->is_busy);
    sffn_topology_detect(&ctx->topology);
    if (ctx->config.n_threads == 0)
        ctx->config.n_threads =
            ctx->topology.n_cpus < SFFN_MAX_THREADS ? ctx->topology.n_cpus : SFFN_MAX_THREADS;
    ctx->cpu = sffn_cpu_detect();
    sffn_cpu_describe(ctx->cpu, ctx->cpu_text, sizeof(ctx->cpu_text));
    ctx->isa = sffn_kernels_select(&ctx->kernels, ctx->cpu, isa);
    status = start_pool(ctx);
    if (status != SFFN_OK) {
        sffn_context_destroy(ctx);
        return status;
    }
    sffn_log(ctx, SFFN_LOG_INFO, "libsparseffn %s: %u threads, kernels %s (%s)",
             sffn_version_string(), (unsigned)ctx->config.n_threads,
             sffn_kernels_isa_name(ctx->isa), ctx->cpu_text);
    if (c.use_onednn && !sffn_context_uses_onednn(ctx))
        sffn_log(ctx, SFFN_LOG_WARNING,
                 "use_onednn is 1, but oneDNN is not built in or was not found: dense calls take "
                 "the library's own path");
    *out = ctx;
    return SFFN_OK;
}

void sffn_context_destroy(sffn_context *ctx)
{
    if (!ctx)
        return;
    if (ctx->pool) {
        sffn_thread_pool_stop(ctx->pool);
        sffn_mem_free(ctx, ctx->pool, sffn_thread_pool_bytes(ctx->config.n_threads));
    }
    sffn_mem_free(ctx, ctx->scratch, ctx->scratch_bytes);
    sffn_stats_fini(ctx, &ctx->shared->stats);
    pthread_mutex_destroy(&ctx->shared->lock);
    sffn_mem_free(ctx, ctx->shared, sizeof(*ctx->shared));
    const sffn_allocator allocator = ctx->config.allocator;
    allocator.free(allocator.user, ctx, sizeof(*ctx));
}

sffn_status sffn_context_get_info(const sffn_context *ctx, sffn_context_info *info)
{
    if (!ctx)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
    sffn_context_info i = SFFN_CONTEXT_INFO_INIT;
    i.isa = sffn_kernels_isa_name(ctx->isa);
    i.cpu_features = ctx->cpu_text;
    i.n_threads = ctx->config.n_threads;
    i.n_cpus = ctx->topology.n_cpus;
    i.n_cores = ctx->topology.n_cores;
    i.n_numa_nodes = ctx->topology.n_numa_nodes;
    i.l1d_bytes = ctx->topology.l1d_bytes;
    i.l2_bytes = ctx->topology.l2_bytes;
    i.llc_bytes = ctx->topology.llc_bytes;
    i.page_bytes = sffn_page_bytes();
    i.huge_page_bytes = ctx->config.huge_pages == SFFN_HUGE_PAGES_AUTO ? sffn_huge_page_bytes() : 0;
    i.has_hwloc = ctx->topology.has_hwloc;
    i.has_onednn = sffn_context_uses_onednn(ctx);
    i.scratch_bytes = ctx->scratch_bytes;
    pthread_mutex_lock(&ctx->shared->lock);
    i.weight_bytes = ctx->shared->weight_bytes;
    for (const struct weight_block *b = ctx->shared->blocks; b; b = b->next)
        if (b->is_pages)
            i.weight_huge_bytes += sffn_pages_huge_bytes(b->ptr, b->bytes);
    pthread_mutex_unlock(&ctx->shared->lock);
    return sffn_info_copy(ctx, "sffn_context_info", info, &i, sizeof(i));
}

size_t sffn_context_n_kernels(const sffn_context *ctx)
{
    size_t n = 0;
    while (ctx && sffn_kernels_entry_name(&ctx->kernels, n))
        n++;
    return n;
}

const char *sffn_context_kernel_name(const sffn_context *ctx, size_t index)
{
    return ctx ? sffn_kernels_entry_name(&ctx->kernels, index) : NULL;
}

const char *sffn_isa_name(size_t index)
{
    return sffn_kernels_isa_name(index);
}

int32_t sffn_isa_is_supported(size_t index)
{
    return sffn_kernels_isa_name(index) && sffn_kernels_isa_runs_on(index, sffn_cpu_detect());
}

const struct sffn_kernels *sffn_context_kernels(const sffn_context *ctx)
{
    return &ctx->kernels;
}

uint32_t sffn_context_n_threads(const sffn_context *ctx)
{
    return ctx->config.n_threads;
}

uint32_t sffn_context_n_workers(const sffn_context *ctx)
{
    const uint32_t n_cpus = ctx->topology.n_cpus > 0 ? ctx->topology.n_cpus : 1;
    return ctx->config.n_threads < n_cpus ? ctx->config.n_threads : n_cpus;
}

int sffn_context_collects_stats(const sffn_context *ctx)
{
    return ctx->config.collect_stats;
}

struct sffn_stats *sffn_context_stats(const sffn_context *ctx)
{
    return ctx->config.collect_stats ? &ctx->shared->stats : NULL;
}

uint32_t sffn_context_recall_every(const sffn_context *ctx)
{
    return ctx->config.stats_recall_every;
}

int sffn_context_uses_onednn(const sffn_context *ctx)
{
    return ctx->config.use_onednn && sffn_onednn_available();
}

sffn_status sffn_context_enter(sffn_context *ctx)
{
    if (atomic_flag_test_and_set_explicit(&ctx->is_busy, memory_order_acquire))
        return sffn_fail(
            ctx, SFFN_ERR_BUSY,
            "another call is running in this context: use one context per concurrent call");
    return SFFN_OK;
}

void sffn_context_leave(sffn_context *ctx)
{
    atomic_flag_clear_explicit(&ctx->is_busy, memory_order_release);
}

/* ---- running ---- */

struct phase_call {
    sffn_phase_fn fn;
    void *arg;
    uint32_t phase, nth;
};

static void run_one(void *arg, uint32_t i)
{
    const struct phase_call *call = arg;
    call->fn(call->arg, call->phase, i, call->nth);
}

void sffn_context_run_phases(sffn_context *ctx, uint32_t n_phases, sffn_phase_fn fn, void *arg)
{
    if (ctx->pool) {
        sffn_thread_pool_run(ctx->pool, n_phases, fn, arg);
        return;
    }
    struct phase_call call = {fn, arg, 0, ctx->config.parallel_for ? ctx->config.n_threads : 1};
    for (; call.phase < n_phases; call.phase++) {
        if (call.nth > 1)
            ctx->config.parallel_for(ctx->config.parallel_for_user, call.nth, run_one, &call);
        else
            run_one(&call, 0);
    }
}
