#include "active_set/top_k.h"

#define FEW 64 /* up to here clearing the counts would cost more than sorting */

/* Both return the k-th largest key, and in *k how many of the entries equal to it are among the k largest. */

/* Keeps the k largest so far in order. */
static uint32_t nth_of_few(const uint32_t *keys, size_t n, size_t *k)
{
    uint32_t largest[FEW];
    size_t n_held = 0;
    for (size_t i = 0; i < n; i++) {
        if (n_held == *k && keys[i] <= largest[n_held - 1])
            continue;
        size_t at = n_held < *k ? n_held++ : n_held - 1;
        for (; at > 0 && largest[at - 1] < keys[i]; at--)
            largest[at] = largest[at - 1];
        largest[at] = keys[i];
    }
    const uint32_t key = largest[n_held - 1];
    for (*k = 0; n_held > 0 && largest[n_held - 1] == key; n_held--)
        ++*k;
    return key;
}

/* By the upper 11 bits, then among those that share them by the next 11, then by the last 10. The keys are overwritten. */
static uint32_t nth_of_many(uint32_t *keys, size_t n, size_t *k, uint32_t *counts)
{
    static const struct {
        unsigned shift, bits;
    } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t key = 0;
    for (size_t d = 0; d < sizeof(digits) / sizeof(*digits); d++) {
        const unsigned shift = digits[d].shift;
        const uint32_t mask = (1u << digits[d].bits) - 1;
        memset(counts, 0, SFFN_TOP_K_COUNTS * sizeof(*counts));
        for (size_t i = 0; i < n; i++)
            counts[keys[i] >> shift & mask]++;
        uint32_t digit = mask;
        while (counts[digit] < *k)
            *k -= counts[digit--];
        key |= digit << shift;
        size_t n_left = 0;
        for (size_t i = 0; i < n; i++) { /* no branch: which keys share a digit can't be foreseen */
            const uint32_t candidate = keys[i];
            keys[n_left] = candidate;
            n_left += (candidate >> shift & mask) == digit;
        }
        n = n_left;
    }
    return key;
}

struct sffn_cut sffn_top_k(const float *v, size_t first, size_t n, size_t k, int by_abs,
                           uint32_t *counts, uint32_t *keys)
{
    const struct sffn_cut none = {UINT32_MAX, 0}, all = {0, UINT32_MAX};
    if (k == 0)
        return none;
    if (k >= n)
        return all;
    for (size_t i = 0; i < n; i++)
        keys[i] = by_abs ? sffn_float_abs_key(v[i]) : sffn_float_key(v[i]);
    struct sffn_cut cut = all;
    cut.key = n <= FEW ? nth_of_few(keys, n, &k) : nth_of_many(keys, n, &k, counts);
    for (size_t i = 0; i < n; i++)
        if ((by_abs ? sffn_float_abs_key(v[i]) : sffn_float_key(v[i])) == cut.key && --k == 0) {
            cut.end = (uint32_t)(first + i + 1);
            break;
        }
    return cut;
}
