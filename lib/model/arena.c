#include "model/arena.h"

#include <string.h>

#include "base/checked.h"
#include "base/context.h"

#define FIRST_BYTES ((size_t)4096)
#define LAST_BYTES  ((size_t)1 << 20)
#define ALIGN       ((size_t)16)

struct sffn_arena_chunk {
    struct sffn_arena_chunk *next;
    size_t bytes; /* of the whole chunk */
};
#define HEADER_BYTES ((sizeof(struct sffn_arena_chunk) + ALIGN - 1) / ALIGN * ALIGN)

static struct sffn_arena_chunk *add_chunk(struct sffn_arena *arena, size_t bytes)
{
    struct sffn_arena_chunk *chunk = sffn_mem_alloc(arena->ctx, bytes);
    if (chunk)
        chunk->bytes = bytes;
    return chunk;
}

void *sffn_arena_alloc(struct sffn_arena *arena, size_t n, size_t size)
{
    size_t need, whole;
    if (!sffn_checked_mul(n, size, &need) || !sffn_checked_round_up(need, ALIGN, &need) ||
        !sffn_checked_add(need, HEADER_BYTES, &whole))
        return NULL;
    struct sffn_arena_chunk *head = arena->head;
    if (head && need <= head->bytes - arena->used) {
        void *ptr = (char *)head + arena->used;
        arena->used += need;
        return memset(ptr, 0, need);
    }
    size_t bytes = head ? head->bytes : FIRST_BYTES / 2;
    bytes = bytes < LAST_BYTES ? bytes * 2 : LAST_BYTES;
    if (whole > bytes / 2) {
        /* A large piece gets a chunk of its own, behind the head, which stays open for small
         * ones. */
        struct sffn_arena_chunk *chunk = add_chunk(arena, whole);
        if (!chunk)
            return NULL;
        chunk->next = head ? head->next : NULL;
        if (head) {
            head->next = chunk;
        } else {
            arena->head = chunk;
            arena->used = whole;
        }
        return memset((char *)chunk + HEADER_BYTES, 0, need);
    }
    struct sffn_arena_chunk *chunk = add_chunk(arena, bytes);
    if (!chunk)
        return NULL;
    chunk->next = head;
    arena->head = chunk;
    arena->used = whole;
    return memset((char *)chunk + HEADER_BYTES, 0, need);
}

char *sffn_arena_text(struct sffn_arena *arena, const void *text, size_t bytes)
{
    size_t whole;
    if (!sffn_checked_add(bytes, 1, &whole))
        return NULL;
    char *copy = sffn_arena_alloc(arena, whole, 1);
    if (copy && bytes)
        memcpy(copy, text, bytes);
    return copy;
}

void sffn_arena_free(struct sffn_arena *arena)
{
    struct sffn_arena_chunk *chunk = arena->head;
    while (chunk) {
        struct sffn_arena_chunk *next = chunk->next;
        sffn_mem_free(arena->ctx, chunk, chunk->bytes);
        chunk = next;
    }
    arena->head = NULL;
    arena->used = 0;
}
