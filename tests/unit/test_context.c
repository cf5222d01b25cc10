/* context.h */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "allocator.h"
#include "check.h"
#include "threads.h"

static sffn_status create(sffn_context_config config)
{
    sffn_context *ctx = (sffn_context *)(uintptr_t)1;
    sffn_status status = sffn_context_create(&config, &ctx);
    CHECK_SAYS((status == SFFN_OK) == (ctx != NULL), "the context is %s after %s",
               ctx ? "set" : "NULL", sffn_status_name(status));
    sffn_context_destroy(ctx);
    return status;
}

static sffn_context_info info_of(const sffn_context *ctx)
{
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    CHECK_OK(ctx, sffn_context_get_info(ctx, &info));
    CHECK(info.struct_size == sizeof info);
    return info;
}

static void defaults(void **state)
{
    (void)state;
    sffn_context *ctx = NULL;
    CHECK_OK(NULL, sffn_context_create(NULL, &ctx));
    CHECK_TEXT(sffn_context_last_error(ctx), "");
    sffn_context_info info = info_of(ctx);
    CHECK(info.n_threads == 1);
    CHECK(info.n_cpus >= 1 && info.n_cores >= 1 && info.n_cores <= info.n_cpus &&
          info.n_numa_nodes >= 1);
    CHECK(info.page_bytes == (uint64_t)sysconf(_SC_PAGESIZE));
    CHECK(info.weight_bytes == 0 && info.weight_huge_bytes == 0);
    CHECK(info.isa && info.cpu_features);
    CHECK(info.has_hwloc == 0 || info.has_hwloc == 1);
    CHECK(info.has_onednn == 0 || info.has_onednn == 1);
    sffn_context_destroy(ctx);
    sffn_context_destroy(NULL);
}

static void null_arguments(void **state)
{
    (void)state;
    CHECK_ERROR(NULL, sffn_context_create(NULL, NULL), SFFN_ERR_INVALID_ARGUMENT, "ctx NULL");
    sffn_context *ctx = make_context(1, NULL);
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    CHECK(sffn_context_get_info(NULL, &info) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK_ERROR(ctx, sffn_context_get_info(ctx, NULL), SFFN_ERR_INVALID_ARGUMENT, "info NULL");
    sffn_context_destroy(ctx);
}

static void *plain_alloc(void *user, size_t bytes, size_t alignment)
{
    (void)user;
    (void)bytes;
    (void)alignment;
    return NULL;
}

static void plain_free(void *user, void *ptr, size_t bytes)
{
    (void)user;
    (void)ptr;
    (void)bytes;
}

static void config_errors(void **state)
{
    (void)state;
    const sffn_context_config init = SFFN_CONTEXT_CONFIG_INIT;
    sffn_context_config config;
#define REFUSED(change, words)                                                                     \
    do {                                                                                           \
        config = init;                                                                             \
        change;                                                                                    \
        CHECK_ERROR(NULL, create(config), SFFN_ERR_INVALID_ARGUMENT, words);                       \
    } while (0)
    REFUSED(config.n_threads = 513, "n_threads 513 512");
    REFUSED(config.n_threads = UINT32_MAX, "n_threads 4294967295");
    REFUSED(config.max_isa = "sse17", "max_isa sse17");
    REFUSED(config.max_isa = "", "max_isa");
    REFUSED(config.max_isa = "AVX2", "max_isa AVX2");
    REFUSED(config.huge_pages = 2, "huge_pages 2");
    REFUSED(config.huge_pages = -1, "huge_pages -1");
    REFUSED(config.bind_threads = 2, "bind_threads 2");
    REFUSED(config.collect_stats = -1, "collect_stats -1");
    REFUSED(config.allocator.alloc = plain_alloc, "alloc");
    REFUSED(config.allocator.free = plain_free, "alloc NULL");
    REFUSED(config.spin_us = 1000001, "spin_us 1000001 1000000");
    REFUSED(config.use_onednn = 2, "use_onednn 2");
    /* every ISA name of the table is accepted, whatever this CPU is */
    for (size_t i = 0; sffn_isa_name(i); i++) {
        config = init;
        config.max_isa = sffn_isa_name(i);
        CHECK_OK(NULL, create(config));
    }
}

static void out_of_memory(void **state)
{
    (void)state;
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.allocator.alloc = plain_alloc;
    config.allocator.free = plain_free;
    CHECK_ERROR(NULL, create(config), SFFN_ERR_OUT_OF_MEMORY, NULL);
    CHECK(sffn_context_last_error(NULL)[0] != 0);
}

static void last_error_is_per_context(void **state)
{
    (void)state;
    sffn_context *a = make_context(1, NULL), *b = make_context(1, NULL);
    sffn_active_set *set = NULL;
    CHECK_ERROR(a, sffn_active_set_create(a, NULL, &set), SFFN_ERR_INVALID_ARGUMENT, "config NULL");
    CHECK_TEXT(sffn_context_last_error(b), "");
    char text[256];
    snprintf(text, sizeof text, "%s", sffn_context_last_error(a));
    /* a later success does not erase it */
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    config.n_blocks = 3;
    CHECK_OK(a, sffn_active_set_create(a, &config, &set));
    CHECK_TEXT(sffn_context_last_error(a), text);
    sffn_active_set_destroy(set);
    sffn_context_destroy(a);
    sffn_context_destroy(b);
}

static void fail_in_thread(void *arg, uint32_t i)
{
    char(*texts)[128] = arg;
    char isa[32];
    snprintf(isa, sizeof isa, "nonsense%u", (unsigned)i);
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.max_isa = isa;
    sffn_context *ctx = NULL;
    if (sffn_context_create(&config, &ctx) != SFFN_OK)
        snprintf(texts[i], sizeof texts[i], "%s", sffn_context_last_error(NULL));
}

static void create_error_is_per_thread(void **state)
{
    (void)state;
    static char texts[4][128];
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.max_isa = "mine";
    CHECK_ERROR(NULL, create(config), SFFN_ERR_INVALID_ARGUMENT, "mine");
    CHECK(run_threads(4, fail_in_thread, texts));
    for (unsigned i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "nonsense%u", i);
        CHECK_SAYS(strstr(texts[i], name) != NULL, "thread %u got \"%s\"", i, texts[i]);
    }
    CHECK(strstr(sffn_context_last_error(NULL), "mine") != NULL);
}

static void isa_table(void **state)
{
    (void)state;
    CHECK_TEXT(sffn_isa_name(0), "scalar");
    CHECK(sffn_isa_is_supported(0) == 1);
    size_t n = 0;
    while (sffn_isa_name(n))
        n++;
    CHECK(n >= 1 && n < 32);
    CHECK(sffn_isa_name(n) == NULL && sffn_isa_name(SIZE_MAX) == NULL);
    CHECK(sffn_isa_is_supported(n) == 0 && sffn_isa_is_supported(SIZE_MAX) == 0);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++)
            CHECK_SAYS(strcmp(sffn_isa_name(i), sffn_isa_name(k)) != 0, "%s is there twice",
                       sffn_isa_name(i));
}

/* Index of the ISA at the end of a kernel's name, or -1. */
static int isa_of_kernel(const char *kernel)
{
    int best = -1;
    size_t best_length = 0;
    for (int i = 0; sffn_isa_name((size_t)i); i++) {
        const char *isa = sffn_isa_name((size_t)i);
        size_t length = strlen(isa);
        if (strlen(kernel) > length + 1 && kernel[strlen(kernel) - length - 1] == '_' &&
            strcmp(kernel + strlen(kernel) - length, isa) == 0 && length > best_length) {
            best = i;
            best_length = length;
        }
    }
    return best;
}

static void isa_cap(void **state)
{
    (void)state;
    if (getenv("SFFN_MAX_ISA")) /* caps what this test asks for */
        skip();
    int strongest = 0;
    for (int i = 0; sffn_isa_name((size_t)i); i++) {
        strongest = sffn_isa_is_supported((size_t)i) ? i : strongest;
        sffn_context *ctx = make_context(1, sffn_isa_name((size_t)i));
        sffn_context_info info = info_of(ctx);
        CHECK_TEXT(info.isa, sffn_isa_name((size_t)strongest));
        size_t n = sffn_context_n_kernels(ctx);
        CHECK(n > 10 && sffn_context_kernel_name(ctx, n) == NULL &&
              sffn_context_kernel_name(ctx, SIZE_MAX) == NULL);
        int best = -1;
        for (size_t k = 0; k < n; k++) {
            const char *name = sffn_context_kernel_name(ctx, k);
            int isa = isa_of_kernel(name);
            CHECK_SAYS(isa >= 0 && isa <= i && sffn_isa_is_supported((size_t)isa),
                       "kernel %s under cap %s", name, sffn_isa_name((size_t)i));
            best = isa > best ? isa : best;
        }
        CHECK(best == strongest);
        sffn_context_destroy(ctx);
    }
}

static void environment_cap(void **state)
{
    (void)state;
    const char *before = getenv("SFFN_MAX_ISA");
    char *saved = before ? strdup(before) : NULL;
    setenv("SFFN_MAX_ISA", "scalar", 1);
    sffn_context *ctx = make_context(1, NULL);
    setenv("SFFN_MAX_ISA", "avx2", 1);
    CHECK_TEXT(info_of(ctx).isa, "scalar"); /* read at creation only */
    sffn_context_destroy(ctx);
    ctx = make_context(1, "scalar"); /* the lower cap counts */
    CHECK_TEXT(info_of(ctx).isa, "scalar");
    sffn_context_destroy(ctx);
    setenv("SFFN_MAX_ISA", "scalar", 1);
    ctx = make_context(1, "avx2");
    CHECK_TEXT(info_of(ctx).isa, "scalar");
    sffn_context_destroy(ctx);
    if (saved)
        setenv("SFFN_MAX_ISA", saved, 1);
    else
        unsetenv("SFFN_MAX_ISA");
    free(saved);
}

static void thread_counts(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 2, 3, 9, 64};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        sffn_context *ctx = make_context(counts[i], NULL);
        CHECK(info_of(ctx).n_threads == counts[i]);
        sffn_context_destroy(ctx);
    }
    sffn_context *ctx = make_context(0, NULL);
    sffn_context_info info = info_of(ctx);
    CHECK(info.n_threads == info.n_cpus);
    sffn_context_destroy(ctx);
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = 512;
    config.parallel_for = parallel_for_reversed;
    CHECK_OK(NULL, create(config));
    config.parallel_for = NULL;
    config.n_threads = 2;
    config.bind_threads = 1;
    config.spin_us = 0;
    CHECK_OK(NULL, create(config));
    config.spin_us = 1000000; /* destroy must not wait for it */
    config.bind_threads = 0;
    CHECK_OK(NULL, create(config));
}

static size_t count_threads(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[128];
    unsigned long n = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "Threads:", 8) == 0)
            n = strtoul(line + 8, NULL, 10);
    if (f)
        fclose(f);
    return n;
}

static void pool_threads_come_and_go(void **state)
{
    (void)state;
    size_t before = count_threads();
    if (before == 0 || getenv("SFFN_TEST_EMULATED")) /* the emulator has threads of its own */
        skip();
    sffn_context *ctx = make_context(5, NULL);
    const size_t n_cpus = info_of(ctx).n_cpus, n = n_cpus < 5 ? n_cpus : 5;
    CHECK(info_of(ctx).n_threads == 5);
    CHECK(count_threads() == before + n - 1); /* the caller is one; no more than there are CPUs */
    sffn_context_destroy(ctx);
    /* a joined thread may be listed for a moment longer */
    for (int i = 0; i < 1000 && count_threads() != before; i++)
        usleep(1000);
    CHECK(count_threads() == before);
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = 5;
    config.parallel_for = parallel_for_reversed;
    ctx = NULL;
    CHECK_OK(NULL, sffn_context_create(&config, &ctx));
    CHECK(count_threads() == before); /* a caller's parallel_for: no thread is ever created */
    sffn_context_destroy(ctx);
}

static sffn_matmul *make_matmul(sffn_context *ctx, int32_t storage)
{
    static float weights[64 * 64];
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = config.n_cols = 64;
    config.weights.data = weights;
    config.storage = storage;
    sffn_matmul *matmul = NULL;
    CHECK_OK(ctx, sffn_matmul_create(ctx, &config, &matmul));
    return matmul;
}

static void memory_is_accounted(void **state)
{
    (void)state;
    sffn_context *ctx = make_context(1, NULL);
    sffn_matmul *copied = make_matmul(ctx, SFFN_STORAGE_COPY);
    uint64_t bytes = info_of(ctx).weight_bytes;
    CHECK(bytes >= 64 * 64 * 4);
    sffn_matmul *borrowed = make_matmul(ctx, SFFN_STORAGE_BORROW);
    CHECK(info_of(ctx).weight_bytes == bytes); /* borrowed weights are not packed ones */
    CHECK(info_of(ctx).weight_huge_bytes <= bytes);
    sffn_matmul_destroy(borrowed);
    sffn_matmul_destroy(copied);
    CHECK(info_of(ctx).weight_bytes == 0);
    sffn_context_destroy(ctx);

    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.huge_pages = SFFN_HUGE_PAGES_OFF;
    ctx = NULL;
    CHECK_OK(NULL, sffn_context_create(&config, &ctx));
    CHECK(info_of(ctx).huge_page_bytes == 0);
    sffn_context_destroy(ctx);
}

/* A layer's weights of 8 MiB: with huge pages asked for, the context says what it really got, and
 * never more than there is. */
static void huge_pages_are_counted(void **state)
{
    (void)state;
    sffn_context *ctx = make_context(1, NULL);
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = 4096;
    config.n_cols = 512;
    float *weights = calloc((size_t)config.n_rows * config.n_cols, sizeof *weights);
    CHECK(weights != NULL);
    config.weights.data = weights;
    sffn_matmul *matmul = NULL;
    CHECK_OK(ctx, sffn_matmul_create(ctx, &config, &matmul));
    sffn_context_info info = info_of(ctx);
    CHECK(info.weight_bytes >= 4096u * 512u * 4u);
    CHECK(info.huge_page_bytes != 0 || info.weight_huge_bytes == 0);
    sffn_matmul_destroy(matmul);
    sffn_context_destroy(ctx);
    free(weights);
}

static void allocator_gets_everything_back(void **state)
{
    (void)state;
    struct test_allocator allocator = TEST_ALLOCATOR_INIT;
    sffn_status status;
    sffn_context *ctx = allocator_context(&allocator, 3, &status);
    CHECK_OK(NULL, status);
    CHECK(allocator.n_calls > 0);
    size_t calls = allocator.n_calls;
    sffn_matmul *matmul = make_matmul(ctx, SFFN_STORAGE_COPY);
    CHECK(allocator.n_calls > calls && allocator.live_bytes >= 64 * 64 * 4);
    sffn_matmul_destroy(matmul);
    sffn_context_destroy(ctx);
    CHECK(allocator.live_blocks == 0 && allocator.live_bytes == 0 && allocator.n_wrong == 0);
}

static void count_warnings(void *user, int32_t level, const char *text)
{
    *(int *)user += level == SFFN_LOG_WARNING && strstr(text, "oneDNN") != NULL;
}

/* oneDNN that was asked for and is not there is said once, when the context is made. */
static void says_what_is_missing(void **state)
{
    (void)state;
    for (int32_t use = 0; use < 2; use++) {
        int n_warnings = 0;
        sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
        sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
        sffn_context *ctx = NULL;
        config.use_onednn = use;
        config.log = count_warnings;
        config.log_user = &n_warnings;
        CHECK_OK(NULL, sffn_context_create(&config, &ctx));
        CHECK_OK(ctx, sffn_context_get_info(ctx, &info));
        CHECK_SAYS(n_warnings == (use && !info.has_onednn), "use_onednn %d, has_onednn %d: %d",
                   (int)use, (int)info.has_onednn, n_warnings);
        sffn_context_destroy(ctx);
    }
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, defaults);
    CASE(&cases, null_arguments);
    CASE(&cases, config_errors);
    CASE(&cases, out_of_memory);
    CASE(&cases, last_error_is_per_context);
    CASE(&cases, create_error_is_per_thread);
    CASE(&cases, isa_table);
    CASE(&cases, isa_cap);
    CASE(&cases, environment_cap);
    CASE(&cases, thread_counts);
    CASE(&cases, pool_threads_come_and_go);
    CASE(&cases, memory_is_accounted);
    CASE(&cases, huge_pages_are_counted);
    CASE(&cases, allocator_gets_everything_back);
    CASE(&cases, says_what_is_missing);
    return cases_run(&cases, "context");
}
