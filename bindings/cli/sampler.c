#include "sampler.h"

#include <math.h>

/* splitmix64: one 64-bit state, passes the usual tests, the same on every machine. */
static double next_uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53; /* [0, 1) */
}

int32_t sampler_pick(struct sampler *sampler, float *logits, uint32_t n)
{
    uint32_t best = 0;
    double sum = 0.0, target, max;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    if (!(sampler->temperature > 0.0))
        return (int32_t)best;
    max = (double)logits[best];
    for (uint32_t i = 0; i < n; i++) {
        logits[i] = (float)exp(((double)logits[i] - max) / sampler->temperature);
        sum += (double)logits[i];
    }
    target = next_uniform(&sampler->state) * sum;
    for (uint32_t i = 0; i < n; i++) {
        target -= (double)logits[i];
        if (target < 0.0)
            return (int32_t)i;
    }
    return (int32_t)best; /* rounding used the sum up */
}
