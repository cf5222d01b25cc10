/* match.h  Finds feed-forward layers in ggml graphs. Reads tensors, changes nothing. */
#ifndef SFFN_GGML_MATCH_H
#define SFFN_GGML_MATCH_H
#include <stdint.h>

#include "ggml.h"

enum { MATCH_MAX_INNER = 8 };

/* One FFN as a graph has it, from the input x to the result of the down product. */
struct ffn_match {
    /* [n_tokens][d_model]; with ids [n_tokens][1][d_model] (slowest first) */
    struct ggml_tensor *x;
    struct ggml_tensor *y; /* [n_tokens][d_model]; with ids [n_tokens][n_used][d_model] */
    /* weights; NULL: ungated, or gate and up are the halves of up */
    const struct ggml_tensor *gate;
    const struct ggml_tensor *up, *down;
    const struct ggml_tensor *gate_bias, *up_bias; /* NULL: none */
    const struct ggml_tensor *ids; /* [n_tokens][n_used] experts; NULL: no mixture of experts */
    int is_joined;                 /* up holds the rows of the gate, then those of up */
    int32_t activation;            /* enum sffn_activation */
    int64_t d_model, d_ff, n_experts, n_tokens, n_used;
    const struct ggml_tensor *inner[MATCH_MAX_INNER]; /* what is computed between x and y */
    int n_inner;
};

/* 1 when `node` is the down product of an FFN that one call can stand for. Else 0, and *reason says why (static storage). */
int match_ffn(struct ggml_tensor *node, struct ffn_match *match, const char **reason);
/* The product with weights that `node` is, or that it takes a step further within an FFN (bias, activation); NULL: it is neither. */
const struct ggml_tensor *match_part(const struct ggml_tensor *node);
/* 1 when the tensor is a matrix of weights: no result of an operation, and allocated as weights. */
int is_weight(const struct ggml_tensor *tensor);
/* Tokens that a product (or an element-wise operation on one) is computed for. */
int64_t tokens_of(const struct ggml_tensor *node);
#endif /* SFFN_GGML_MATCH_H */
