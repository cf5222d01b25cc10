/* arena.h  Memory that lives and dies with one owner: everything a model keeps, or one parse
 * needs. */
#ifndef SFFN_ARENA_H
#define SFFN_ARENA_H
#include <stddef.h>
#include "sparseffn/context.h"

struct sffn_arena_chunk;

/* Start from { ctx, NULL, 0 }. Not for concurrent use. */
struct sffn_arena {
    const sffn_context *ctx;
    struct sffn_arena_chunk *head;
    size_t used; /* of the head chunk */
};

/* n elements of `size` bytes, zeroed, 16-byte aligned; NULL when the product overflows or the
 * allocator has no more. n or size 0 gives a valid pointer. Chunks double up to 1 MiB and larger
 * requests get their own, so at most twice the requested sum (plus 4 KiB) is taken. */
void *sffn_arena_alloc(struct sffn_arena *arena, size_t n, size_t size);
/* A NUL-terminated copy. */
char *sffn_arena_text(struct sffn_arena *arena, const void *text, size_t bytes);
void sffn_arena_free(struct sffn_arena *arena);

#endif /* SFFN_ARENA_H */
