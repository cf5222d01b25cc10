/* sampler.h  Picks the next token: the most likely one, or at random by temperature with a seed. */
#ifndef SFFN_CLI_SAMPLER_H
#define SFFN_CLI_SAMPLER_H
#include <stdint.h>

struct sampler {
    double temperature; /* 0: greedy */
    uint64_t state;     /* of the random numbers; starts as the seed */
};
/* n > 0 logits, overwritten when the temperature is above 0. Equal logits: the smallest id. */
int32_t sampler_pick(struct sampler *sampler, float *logits, uint32_t n);
#endif /* SFFN_CLI_SAMPLER_H */
