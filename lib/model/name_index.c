#include "model/name_index.h"

#include <string.h>

void sffn_index_sort(const void *items, sffn_compare_fn compare, uint32_t *order, uint32_t *scratch,
                     size_t n)
{
    uint32_t *from = order, *to = scratch;
    /* Bottom-up merge sort: runs of `width` numbers become runs twice as long. */
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t start = 0; start < n;) {
            const size_t mid = n - start > width ? start + width : n;
            const size_t end = n - mid > width ? mid + width : n;
            size_t a = start, b = mid;
            for (size_t i = start; i < end; i++) {
                if (a < mid && (b == end || compare(items, from[a], from[b]) <= 0))
                    to[i] = from[a++];
                else
                    to[i] = from[b++];
            }
            start = end;
        }
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != order)
        memcpy(order, from, n * sizeof(*order));
}

int sffn_name_compare(struct sffn_name a, struct sffn_name b)
{
    if (a.bytes != b.bytes)
        return a.bytes < b.bytes ? -1 : 1;
    return a.bytes ? memcmp(a.text, b.text, a.bytes) : 0;
}

struct named {
    const void *items;
    sffn_name_fn name;
};

static int compare_named(const void *items, uint32_t a, uint32_t b)
{
    const struct named *named = items;
    return sffn_name_compare(named->name(named->items, a), named->name(named->items, b));
}

int sffn_name_sort(const void *items, sffn_name_fn name, uint32_t *order, uint32_t *scratch,
                   size_t n, uint32_t duplicate[2])
{
    const struct named named = {items, name};
    sffn_index_sort(&named, compare_named, order, scratch, n);
    for (size_t i = 1; i < n; i++) {
        if (compare_named(&named, order[i - 1], order[i]) == 0) {
            duplicate[0] = order[i - 1];
            duplicate[1] = order[i];
            return 1;
        }
    }
    return 0;
}

int sffn_name_find(const void *items, sffn_name_fn name, const uint32_t *order, size_t n,
                   struct sffn_name wanted, uint32_t *item)
{
    size_t low = 0, high = n;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (sffn_name_compare(name(items, order[mid]), wanted) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == n || sffn_name_compare(name(items, order[low]), wanted) != 0)
        return 0;
    *item = order[low];
    return 1;
}
