/* random.h  Seeded random numbers for samples and starting points: the same on every machine, no state outside the struct. */
#ifndef SFFN_RANDOM_H
#define SFFN_RANDOM_H
#include <math.h>
#include <stdint.h>

struct sffn_random {
    uint64_t state;
};

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t sffn_random_next(struct sffn_random *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* [0, 1), 53 bits. */
static inline double sffn_random_uniform(struct sffn_random *r)
{
    return (double)(sffn_random_next(r) >> 11) * 0x1p-53;
}

/* [0, n), n > 0. The bias of the plain remainder is below n / 2^64. */
static inline uint64_t sffn_random_below(struct sffn_random *r, uint64_t n)
{
    return sffn_random_next(r) % n;
}

/* Standard normal (Box and Muller); the second number of the pair is not kept, so that the state is one word. */
static inline float sffn_random_normal(struct sffn_random *r)
{
    const double u = 1.0 - sffn_random_uniform(r), v = sffn_random_uniform(r);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

#endif /* SFFN_RANDOM_H */
