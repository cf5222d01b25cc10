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

/* FNV-1a. */
static uint64_t hash_of(struct sffn_name name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < name.bytes; i++)
        hash = (hash ^ (uint8_t)name.text[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static int comes_before(const void *items, sffn_name_fn name, struct sffn_name_entry a,
                        struct sffn_name_entry b)
{
    if (a.hash != b.hash)
        return a.hash < b.hash;
    const int order = sffn_name_compare(name(items, a.item), name(items, b.item));
    return order ? order < 0 : a.item < b.item;
}

int sffn_name_sort(const void *items, sffn_name_fn name, struct sffn_name_entry *entries,
                   struct sffn_name_entry *scratch, size_t n, uint32_t duplicate[2])
{
    struct sffn_name_entry *from = entries, *to = scratch;
    for (size_t i = 0; i < n; i++)
        entries[i].hash = hash_of(name(items, entries[i].item));
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t start = 0; start < n;) {
            const size_t mid = n - start > width ? start + width : n;
            const size_t end = n - mid > width ? mid + width : n;
            size_t a = start, b = mid;
            for (size_t i = start; i < end; i++) {
                if (a < mid && (b == end || !comes_before(items, name, from[b], from[a])))
                    to[i] = from[a++];
                else
                    to[i] = from[b++];
            }
            start = end;
        }
        struct sffn_name_entry *swap = from;
        from = to;
        to = swap;
    }
    if (from != entries)
        memcpy(entries, from, n * sizeof(*entries));
    for (size_t i = 1; i < n; i++) {
        if (entries[i - 1].hash == entries[i].hash &&
            sffn_name_compare(name(items, entries[i - 1].item), name(items, entries[i].item)) ==
                0) {
            duplicate[0] = entries[i - 1].item;
            duplicate[1] = entries[i].item;
            return 1;
        }
    }
    return 0;
}

int sffn_name_find(const void *items, sffn_name_fn name, const struct sffn_name_entry *entries,
                   size_t n, struct sffn_name wanted, uint32_t *item)
{
    const uint64_t hash = hash_of(wanted);
    size_t low = 0, high = n;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        const int is_before = entries[mid].hash != hash
                                  ? entries[mid].hash < hash
                                  : sffn_name_compare(name(items, entries[mid].item), wanted) < 0;
        if (is_before)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == n || entries[low].hash != hash ||
        sffn_name_compare(name(items, entries[low].item), wanted) != 0)
        return 0;
    *item = entries[low].item;
    return 1;
}
