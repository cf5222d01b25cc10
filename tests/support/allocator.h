/* allocator.h  An allocator that counts, checks what is freed, and fails when told to. */
#ifndef TEST_ALLOCATOR_H
#define TEST_ALLOCATOR_H
#include "check.h"

/* Every block is kept in a list, so that a wrong pointer or size given to free() is found.
 * Thread-safe. */
struct test_allocator {
    struct test_block *blocks;
    size_t n_calls; /* of alloc */
    size_t live_bytes, live_blocks;
    size_t fail_at; /* this call of alloc, counted from 0, returns NULL ... */
    int fails_on;   /* ... and with 1 all later ones, too */
    size_t n_failed;
    int n_wrong; /* frees of unknown pointers or with other sizes, odd requests */
};
#define TEST_ALLOCATOR_INIT                                                                        \
    {                                                                                              \
        NULL, 0u, 0u, 0u, SIZE_MAX, 0, 0u, 0                                                       \
    }

sffn_allocator allocator_of(struct test_allocator *allocator);
/* A context with this allocator, or NULL; the status goes to *status. */
sffn_context *allocator_context(struct test_allocator *allocator, uint32_t n_threads,
                                sffn_status *status);

#endif /* TEST_ALLOCATOR_H */
