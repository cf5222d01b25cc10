/* peer_onednn.h  The same dense layer through oneDNN: relu(x W_gate) * (x W_up), times W_down, in every type that it offers here. */
#ifndef BENCH_PEER_ONEDNN_H
#define BENCH_PEER_ONEDNN_H
#include <stddef.h>
#include <stdint.h>

#include "layer.h"

struct peer_onednn {
    double median_ns; /* of the best type; NaN when there is none */
    char what
        [160]; /* "oneDNN 2.6.3 s8 2.98 ms (f32 15.7, bf16 7.81); brg:avx512_core_vnni; error 0.008"; or why there is none */
};

/* Measures with n_threads threads on copies of the layer's weights that together exceed cold_bytes, as far as most_bytes allow.
 * repeats 0: until the spread is known. Inputs are set 0. */
void peer_onednn_measure(struct peer_onednn *result, const struct layer *l, const struct inputs *in,
                         uint32_t n_threads, uint64_t cold_bytes, uint64_t most_bytes,
                         uint64_t repeats);

#endif /* BENCH_PEER_ONEDNN_H */
