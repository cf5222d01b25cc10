/*
 * measure.h  What a selection catches and loses in one layer, against the dense layer of the same weights.
 * For each token, with S the neurons that the sparse call used and h the activations of the dense call:
 *   density            share of neurons that are truly active (the full gate decides)
 *   predicted density  share that the selector let through to the gate
 *   recall             share of the truly active neurons that were used; 1 when there are none
 *   precision          share of the neurons let through that were truly active; 1 when none was let through
 *   CETT               || sum of h_i down_i over i not in S || / || y_dense ||: the error of what was skipped, no rounding in it
 *   relative error     || y_sparse - y_dense || / || y_dense ||, with rounding; over all tokens together
 */
#ifndef SFFN_CLI_MEASURE_H
#define SFFN_CLI_MEASURE_H
#include "selection.h"

struct measure_sums {
    double recall, precision, cett; /* sums over tokens */
    double error2, y2;
    double later_bytes; /* of a selector, beyond what it reads for any token; of n_later tokens */
    uint64_t n_tokens, n_later, n_selected, n_active, n_used, n_nonzero;
};

struct measure {
    sffn_context *ctx;
    uint32_t d_model, d_ff, max_tokens;
    sffn_active_set *used, *truth;
    float *h_dense, *h_sparse, *h_skipped; /* [max_tokens][d_ff] */
    float *y_dense, *y_sparse, *y_skipped; /* [max_tokens][d_model] */
    int against_gate; /* 1: the gate-first call, with the layer's rule, takes the dense call's place */
    const sffn_ffn *ffn;       /* of the batch that measure_begin() started */
    const float *x, *select_x; /* select_x: of the layer's own selector; NULL: x */
    size_t n_tokens;
    uint64_t n_active;
};

/* Buffers for batches of max_tokens. CLI_FAILED after an error line; free in both cases. */
int measure_create(struct measure *measure, sffn_context *ctx, uint32_t d_model, uint32_t d_ff,
                   uint32_t max_tokens);
void measure_free(struct measure *measure);
/* Runs a batch dense and gate-first: what the selections are compared with. measure->truth and y_dense are valid afterwards. */
sffn_status measure_begin(struct measure *measure, const sffn_ffn *ffn, const float *x,
                          const float *select_x, size_t n_tokens);
/* Adds what a selection does on that batch. ffn: a layer of the same weights with another selector, or NULL. down_bias is the layer's, or NULL. */
sffn_status measure_add(struct measure *measure, const sffn_ffn *ffn,
                        const struct selectors *selectors, uint32_t layer, const float *down_bias,
                        struct measure_sums *sums);

/* Means over tokens. */
struct measure_row {
    double density, predicted_density, recall, precision, cett, relative_error;
    /* share of the neurons whose down row was read: a rule on h saves those alone */
    double down_density;
    double bytes,
        dense_bytes; /* weights read per token when tokens come one by one; a batch shares the rows that it reads */
    double ns,
        dense_ns; /* of the layer per token, one by one, selection included; NAN: not measured */
};
void measure_row(const struct measure_sums *sums, const sffn_ffn *ffn,
                 const struct selector *selector, struct measure_row *row);
#endif /* SFFN_CLI_MEASURE_H */
