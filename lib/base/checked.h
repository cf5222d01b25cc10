/* checked.h  The one place where sizes are added, multiplied and rounded. Each returns 0 and leaves *out alone on overflow. */
#ifndef SFFN_CHECKED_H
#define SFFN_CHECKED_H
#include <stddef.h>
#include <stdint.h>

static inline int sffn_checked_add(size_t a, size_t b, size_t *out)
{
    if (a > SIZE_MAX - b)
        return 0;
    *out = a + b;
    return 1;
}

static inline int sffn_checked_mul(size_t a, size_t b, size_t *out)
{
    if (b != 0 && a > SIZE_MAX / b)
        return 0;
    *out = a * b;
    return 1;
}

/* Rounds a up to a multiple of m; m is a power of two. */
static inline int sffn_checked_round_up(size_t a, size_t m, size_t *out)
{
    size_t sum;
    if (!sffn_checked_add(a, m - 1, &sum))
        return 0;
    *out = sum & ~(m - 1);
    return 1;
}

/* 64-bit forms for file contents, whatever size_t is. */
static inline int sffn_checked_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    if (a > UINT64_MAX - b)
        return 0;
    *out = a + b;
    return 1;
}

static inline int sffn_checked_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    if (b != 0 && a > UINT64_MAX / b)
        return 0;
    *out = a * b;
    return 1;
}

#endif /* SFFN_CHECKED_H */
