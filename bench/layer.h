/* layer.h  A random layer with a planted density, and what its y should be in float64.
 *
 * Weights are independent and bell-shaped (sums of eight uniforms), gate and up of standard deviation 1 / sqrt(d_model), down 1 / sqrt(d_ff); x is
 * of the same shape with standard deviation 1. So gate products are bell-shaped with deviation 1, and subtracting their quantile from all of them
 * (a constant gate bias) leaves exactly the wanted share positive, spread at random. Further inputs are scaled so that the same bias
 * gives each of them the same share.
 */
#ifndef BENCH_LAYER_H
#define BENCH_LAYER_H
#include <stddef.h>
#include <stdint.h>

#include "sparseffn/sparseffn.h"

#define EXPERT_NEURONS 32u

/* The weights as a file would hold them. */
struct layer {
    uint32_t d_model, d_ff;
    int32_t dtype, router_dtype;
    size_t row_bytes, down_row_bytes, router_row_bytes;
    uint8_t *gate, *up; /* [d_ff][d_model] */
    /* [d_ff][d_model], one row per neuron; or [d_model][d_ff] when down_is_columns */
    uint8_t *down;
    int down_is_columns;
    uint8_t *router;       /* [d_ff / 32][d_model], or NULL */
    uint64_t weight_bytes; /* gate, up and down */
    uint64_t router_bytes;
};

/* down_is_columns and a router are what select router needs. 0: no memory, or sizes that the type can't have; says so on standard error. */
int layer_create(struct layer *l, uint32_t d_model, uint32_t d_ff, int32_t dtype, int for_router);
void layer_destroy(struct layer *l);

enum layer_matrix { LAYER_GATE, LAYER_UP, LAYER_DOWN };
/* A matrix as floats, [outputs][inputs] as engines have it: gate and up [d_ff][d_model], down [d_model][d_ff]. To be freed; NULL without memory. */
float *layer_decode(const struct layer *l, enum layer_matrix which);

/* Inputs for which the layer has the wanted density. */
struct inputs {
    size_t n_sets, n_tokens;
    float *x;           /* [n_sets][n_tokens][d_model] */
    float bias;         /* of every gate, or of every router score */
    float *gate_bias;   /* [d_ff] times bias, or NULL for a router */
    float *router_bias; /* [n_experts] times bias, or NULL */
    float *mean;        /* [d_model] of inputs that have one, or NULL */
    /* the mean share over sets and tokens that was planted: active neurons, or experts */
    double density;
};
/* wanted_sets is lowered to 1 where inputs can't be scaled to the same density (near one half). 0: failed, said on standard error. */
int inputs_create(struct inputs *in, sffn_context *ctx, const struct layer *l, double density,
                  size_t wanted_sets, size_t n_tokens, int for_router);
void inputs_destroy(struct inputs *in);

/* y[n_tokens][d_model] in float64 from the decoded weights, for set 0 of the inputs and its first n_tokens tokens. active: the blocks that a token
 * computes; NULL: all neurons. The activation is ReLU, or SiLU. 0: no memory. */
int layer_reference(const struct layer *l, const struct inputs *in, size_t n_tokens,
                    const sffn_active_set *active, int is_silu, double *y);
/* |a - b| / |b| in the 2-norm. */
double relative_error(const float *a, const double *b, size_t n);

#endif /* BENCH_LAYER_H */
