/* rotation.h  Cold weights: an allocator whose memory can be replaced, between two calls, by a copy of itself.
 *
 * A layer that runs again and again stays in the caches. Here its objects are made once, with this allocator; then their memory is copied many
 * times, and before each call the pages of another copy are moved to where the objects are. Addresses stay, so the objects are valid, but the
 * memory behind them is one that was not touched for as long as all other copies took, and no address translation is cached either. Pages keep
 * their size: 2 MiB where the system gives them. Packing a layer, or making a predictor, is paid once instead of once for each copy.
 *
 * Blocks below 32 KiB are the C library's: structures, biases of small layers.
 */
#ifndef BENCH_ROTATION_H
#define BENCH_ROTATION_H
#include <stddef.h>
#include <stdint.h>

#include "sparseffn/context.h"

struct rotation;

struct rotation *rotation_create(void); /* NULL without memory */
/* Everything made with the allocator must be gone. NULL is a no-op. */
void rotation_destroy(struct rotation *r);
/* For sffn_context_config of a context that makes objects and runs no call after rotation_copy(). */
sffn_allocator rotation_allocator(struct rotation *r);
/* Bytes of one copy. */
uint64_t rotation_bytes(const struct rotation *r);
/* How many of them are in huge pages, now. */
uint64_t rotation_huge_bytes(const struct rotation *r);
/* n copies in all, the original included, of what is allocated now. Once; until it is called there is one. 0: no memory, then there is one. */
int rotation_copy(struct rotation *r, size_t n);
size_t rotation_n_copies(const struct rotation *r);
/* Moves the next copy in. No other thread may read the objects meanwhile. 0: the system refused, and the objects are lost. */
int rotation_next(struct rotation *r);

#endif /* BENCH_ROTATION_H */
