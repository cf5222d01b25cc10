/* example.h  What the examples share and an engine has already: an error check, random numbers, a clock. */
#ifndef EXAMPLE_H
#define EXAMPLE_H
#include <math.h>
#include <sparseffn/sparseffn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Every call returns a status; the context has the words that go with it. */
static inline void must(const sffn_context *ctx, sffn_status status)
{
    if (status == SFFN_OK)
        return;
    fprintf(stderr, "%s: %s\n", sffn_status_name(status), sffn_context_last_error(ctx));
    exit(1);
}

/* n floats, uniform, mean 0, standard deviation `scale`. Owned by the caller. */
static inline float *random_floats(size_t n, float scale)
{
    static unsigned state = 1;
    float *v = malloc(n * sizeof *v);
    if (v == NULL)
        exit(1);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        v[i] = ((float)(state >> 8) / 8388608.0f - 1.0f) * sqrtf(3.0f) * scale;
    }
    return v;
}

/* || a - b || / || b || */
static inline double relative_difference(const float *a, const float *b, size_t n)
{
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return norm > 0.0 ? sqrt(difference / norm) : difference;
}

static inline double now_us(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}
#endif /* EXAMPLE_H */
