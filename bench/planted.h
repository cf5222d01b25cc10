/* planted.h  A layer of any size with the gate statistics of a real model.
 *
 * x is made of the layer inputs of several tokens of a small model side by side, a gate row of one real row in the place of one of them and
 * zeros elsewhere: x = R [x1; x2; ...; xn; 0], row i = R [0; .. row; .. 0]. R, random signs and an orthonormal Walsh-Hadamard transform, makes
 * them dense and keeps every product, so gate pre-activations, their density and the relative noise of rounding are the real ones. Up rows are
 * made alike. Down rows are random with the real rows' norms.
 */
#ifndef BENCH_PLANTED_H
#define BENCH_PLANTED_H
#include "layer.h"

/* model: a GGUF file beside which lies layer<N>_inputs.f32, rows of float32: inputs of its layer PLANTED_LAYER. d_model: a power of two.
 * 0: failed, said on standard error. */
#define PLANTED_LAYER 3
int planted_layer_create(struct layer *l, sffn_context *ctx, const char *model, uint32_t d_model,
                         uint32_t d_ff, int32_t dtype);
/* Inputs of different tokens, their mean, and the share of neurons that they make active. */
int planted_inputs_create(struct inputs *in, sffn_context *ctx, const char *model,
                          const struct layer *l, size_t n_sets, size_t n_tokens);

#endif /* BENCH_PLANTED_H */
