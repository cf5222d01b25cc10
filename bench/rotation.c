#include "rotation.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/memory.h"

#define LEAST_BYTES ((size_t)32 << 10)
#define HUGE_BYTES  ((size_t)2 << 20)

struct block {
    char *at; /* where the objects see it */
    size_t asked_bytes, bytes;
    /* [n_copies] of `bytes` each: where a copy waits; that of the current one is reserved */
    char *homes;
    char *reserved;
    size_t reserved_bytes;
};

struct rotation {
    pthread_mutex_t lock; /* objects may be made on several threads */
    struct block *blocks;
    size_t n_blocks, max_blocks;
    size_t n_copies, current;
};

struct rotation *rotation_create(void)
{
    struct rotation *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->n_copies = 1;
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void rotation_destroy(struct rotation *r)
{
    if (!r)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r->blocks);
    free(r);
}

/* ---- allocator ---- */

static size_t mapped_bytes(size_t bytes) /* as sffn_pages_alloc() does */
{
    const size_t unit = bytes >= HUGE_BYTES ? HUGE_BYTES : (size_t)sffn_page_bytes();
    return (bytes + unit - 1) / unit * unit;
}

static void *add_block(struct rotation *r, size_t bytes)
{
    if (r->n_blocks == r->max_blocks) {
        const size_t wanted = r->max_blocks ? 2 * r->max_blocks : 16;
        struct block *blocks = realloc(r->blocks, wanted * sizeof *blocks);
        if (!blocks)
            return NULL;
        r->blocks = blocks;
        r->max_blocks = wanted;
    }
    char *at = sffn_pages_alloc(bytes, 1);
    if (at)
        r->blocks[r->n_blocks++] = (struct block){at, bytes, mapped_bytes(bytes), NULL, NULL, 0};
    return at;
}

static void *rotation_alloc(void *user, size_t bytes, size_t alignment)
{
    struct rotation *r = user;
    void *ptr = NULL;
    if (bytes < LEAST_BYTES)
        return posix_memalign(&ptr, alignment < sizeof ptr ? sizeof ptr : alignment, bytes) == 0
                   ? ptr
                   : NULL;
    pthread_mutex_lock(&r->lock);
    ptr = add_block(r, bytes);
    pthread_mutex_unlock(&r->lock);
    return ptr;
}

static void rotation_free(void *user, void *ptr, size_t bytes)
{
    struct rotation *r = user;
    if (bytes < LEAST_BYTES) {
        free(ptr);
        return;
    }
    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < r->n_blocks; i++) {
        struct block *b = &r->blocks[i];
        if (b->at != ptr)
            continue;
        sffn_pages_free(b->at, b->asked_bytes);
        if (b->reserved)
            munmap(b->reserved, b->reserved_bytes);
        *b = r->blocks[--r->n_blocks];
        break;
    }
    pthread_mutex_unlock(&r->lock);
}

sffn_allocator rotation_allocator(struct rotation *r)
{
    return (sffn_allocator){r, rotation_alloc, rotation_free};
}

uint64_t rotation_bytes(const struct rotation *r)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < r->n_blocks; i++)
        bytes += r->blocks[i].bytes;
    return bytes;
}

uint64_t rotation_huge_bytes(const struct rotation *r)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < r->n_blocks; i++)
        bytes += sffn_pages_huge_bytes(r->blocks[i].at, r->blocks[i].asked_bytes);
    return bytes;
}

size_t rotation_n_copies(const struct rotation *r)
{
    return r->n_copies;
}

/* ---- copies ---- */

static void *reserve(void *at, size_t bytes)
{
    void *p = mmap(at, bytes, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Reserves the homes and fills all but the first. */
static int copy_block(struct block *b, size_t n)
{
    b->reserved_bytes = n * b->bytes + HUGE_BYTES;
    b->reserved = reserve(NULL, b->reserved_bytes);
    if (!b->reserved)
        return 0;
    b->homes = b->reserved + (HUGE_BYTES - (uintptr_t)b->reserved % HUGE_BYTES) % HUGE_BYTES;
    for (size_t i = 1; i < n; i++) {
        char *home = b->homes + i * b->bytes;
        if (mmap(home, b->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                 -1, 0) == MAP_FAILED)
            return 0;
#ifdef MADV_HUGEPAGE
        if (b->bytes >= HUGE_BYTES)
            madvise(home, b->bytes, MADV_HUGEPAGE);
#endif
        memcpy(home, b->at, b->asked_bytes);
    }
    return 1;
}

int rotation_copy(struct rotation *r, size_t n)
{
#ifdef MREMAP_FIXED
    int ok = r->n_copies == 1;
    for (size_t i = 0; ok && n > 1 && i < r->n_blocks; i++)
        ok = copy_block(&r->blocks[i], n);
    for (size_t i = 0; !ok && i < r->n_blocks; i++) {
        if (r->blocks[i].reserved)
            munmap(r->blocks[i].reserved, r->blocks[i].reserved_bytes);
        r->blocks[i].reserved = NULL;
    }
    if (ok)
        r->n_copies = n;
    return ok;
#else
    return n == 1;
#endif
}

int rotation_next(struct rotation *r)
{
#ifdef MREMAP_FIXED
    const size_t next = (r->current + 1) % r->n_copies;
    if (next == r->current)
        return 1;
    for (size_t i = 0; i < r->n_blocks; i++) {
        struct block *b = &r->blocks[i];
        char *old_home = b->homes + r->current * b->bytes, *home = b->homes + next * b->bytes;
        if (mremap(b->at, b->bytes, b->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, old_home) ==
                MAP_FAILED ||
            mremap(home, b->bytes, b->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, b->at) == MAP_FAILED ||
            !reserve(home, b->bytes)) /* or others would be given the address */
            return 0;
    }
    r->current = next;
#endif
    return 1;
}
