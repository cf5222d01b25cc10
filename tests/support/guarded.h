/* guarded.h  Memory with an inaccessible page on each side, all of it freed at once.
 *
 * A block ends `tail` bytes before the inaccessible page; these bytes, and those between the page's
 * start and the block, are canaries. So a kernel that reads past a row crashes, and one that writes
 * past an output is found by guarded_check().
 *
 * With SFFN_TEST_EMULATED set the pages can be read: QEMU 7.2 reads all of a masked load
 * (VMASKMOVPS), where a CPU reads the unmasked elements only. */
#ifndef TEST_GUARDED_H
#define TEST_GUARDED_H
#include <stddef.h>

struct guarded_block;
struct guarded {
    struct guarded_block *blocks;
};

/* `bytes` bytes, zero; the address is `tail` bytes before an alignment of 4096 minus bytes: tail 1
 * makes it odd. */
void *guarded_alloc(struct guarded *memory, size_t bytes, size_t tail);
#define GUARDED_FLOATS(memory, n) ((float *)guarded_alloc(memory, (n) * sizeof(float), 0))
/* Fails the test when a canary has changed. */
void guarded_check(const struct guarded *memory);
/* Checks, and frees all blocks. */
void guarded_free(struct guarded *memory);

#endif /* TEST_GUARDED_H */
