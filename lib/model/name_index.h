/* name_index.h  Sorts item numbers, finds one of n names in O(log n) and two equal ones in
 * O(n log n), whatever the names are: hashes only save comparisons, so colliding ones cost little.
 */
#ifndef SFFN_NAME_INDEX_H
#define SFFN_NAME_INDEX_H
#include <stddef.h>
#include <stdint.h>

/* Negative, 0 or positive as item a comes before, with or after item b. */
typedef int (*sffn_compare_fn)(const void *items, uint32_t a, uint32_t b);
/* Sorts the n item numbers of `order`; equal items keep their order. `scratch` holds n numbers.
 * n log n in the worst case, no recursion, and no memory of its own (qsort may call malloc). */
void sffn_index_sort(const void *items, sffn_compare_fn compare, uint32_t *order, uint32_t *scratch,
                     size_t n);

struct sffn_name {
    const char *text;
    size_t bytes;
};
/* Shorter first, then by bytes. */
int sffn_name_compare(struct sffn_name a, struct sffn_name b);
/* The name of item i. */
typedef struct sffn_name (*sffn_name_fn)(const void *items, uint32_t i);

/* A name index is an array of these, in the order of hashes, then names, then items. */
struct sffn_name_entry {
    uint64_t hash;
    uint32_t item;
};
/* Sorts n entries whose items are set. `scratch` holds n more. Returns 1 and the two items
 * (first < second) when two names are equal, else 0. */
int sffn_name_sort(const void *items, sffn_name_fn name, struct sffn_name_entry *entries,
                   struct sffn_name_entry *scratch, size_t n, uint32_t duplicate[2]);
/* Returns 1 and the item, or 0. Of equal names the one with the lowest number. */
int sffn_name_find(const void *items, sffn_name_fn name, const struct sffn_name_entry *entries,
                   size_t n, struct sffn_name wanted, uint32_t *item);

#endif /* SFFN_NAME_INDEX_H */
