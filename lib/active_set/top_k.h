/* top_k.h  The k largest of n floats, as a cut: nothing is sorted, and everyone who holds the cut can tell who is kept. */
#ifndef SFFN_TOP_K_H
#define SFFN_TOP_K_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Entries with a greater key are kept, and those with this key at an index below `end`: equal values go to the lowest. */
struct sffn_cut {
    uint32_t key, end;
};

/* Floats in the order of integers; -0 equals 0, and NaN is the largest, so that it is seen. */
static inline uint32_t sffn_float_key(float v)
{
    uint32_t bits;
    if (v != v)
        return UINT32_MAX;
    v += 0.0f; /* -0 becomes 0 */
    memcpy(&bits, &v, sizeof(bits));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The same for |v|. */
static inline uint32_t sffn_float_abs_key(float v)
{
    return sffn_float_key(v < 0 ? -v : v);
}

static inline int sffn_cut_keeps(struct sffn_cut cut, uint32_t key, size_t index)
{
    return key > cut.key || (key == cut.key && index < cut.end);
}

#define SFFN_TOP_K_COUNTS 2048

/* Keeps the k largest of v (of |v|) by value, then by index; all with k >= n, none with k = 0. `first` is the index of v[0] in the cut. Scratch:
 * counts[SFFN_TOP_K_COUNTS], keys[n]. n < 2^32. */
struct sffn_cut sffn_top_k(const float *v, size_t first, size_t n, size_t k, int by_abs,
                           uint32_t *counts, uint32_t *keys);

#endif /* SFFN_TOP_K_H */
