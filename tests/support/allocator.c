#include "allocator.h"

#include <pthread.h>

struct test_block {
    struct test_block *next;
    void *ptr;
    size_t bytes;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *counted_alloc(void *user, size_t bytes, size_t alignment)
{
    struct test_allocator *a = user;
    struct test_block *block = NULL;
    pthread_mutex_lock(&mutex);
    size_t call = a->n_calls++;
    if (bytes == 0 || alignment == 0 || alignment > 4096 || (alignment & (alignment - 1)) != 0)
        a->n_wrong++;
    if (call == a->fail_at || (a->fails_on && call > a->fail_at)) {
        a->n_failed++;
    } else {
        block = malloc(sizeof *block);
        size_t aligned = alignment < sizeof(void *) ? sizeof(void *) : alignment;
        if (!block || posix_memalign(&block->ptr, aligned, bytes ? bytes : 1) != 0)
            abort();
        memset(block->ptr, 0xA5, bytes); /* contents are undefined: nobody may rely on zeros */
        block->bytes = bytes;
        block->next = a->blocks;
        a->blocks = block;
        a->live_bytes += bytes;
        a->live_blocks++;
    }
    pthread_mutex_unlock(&mutex);
    return block ? block->ptr : NULL;
}

static void counted_free(void *user, void *ptr, size_t bytes)
{
    struct test_allocator *a = user;
    pthread_mutex_lock(&mutex);
    struct test_block **link = &a->blocks;
    while (*link && (*link)->ptr != ptr)
        link = &(*link)->next;
    struct test_block *block = *link;
    if (!block || block->bytes != bytes)
        a->n_wrong++;
    if (block) {
        a->live_bytes -= block->bytes;
        a->live_blocks--;
        *link = block->next;
        free(block->ptr);
        free(block);
    }
    pthread_mutex_unlock(&mutex);
}

sffn_allocator allocator_of(struct test_allocator *allocator)
{
    return (sffn_allocator){allocator, counted_alloc, counted_free};
}

sffn_context *allocator_context(struct test_allocator *allocator, uint32_t n_threads,
                                sffn_status *status)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.allocator = allocator_of(allocator);
    config.n_threads = n_threads;
    sffn_context *ctx = NULL;
    *status = sffn_context_create(&config, &ctx);
    return ctx;
}
