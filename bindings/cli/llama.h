/*
 * llama.h  A small decoder for llama-architecture models: the example of how an engine uses libsparseffn.
 * Its feed-forward layers are one call of sffn_ffn_forward(); its other products are sffn_matmul_rows_dot() with all rows.
 */
#ifndef SFFN_CLI_LLAMA_H
#define SFFN_CLI_LLAMA_H
#include <stddef.h>
#include <stdint.h>
#include "selection.h"

enum { LLAMA_MAX_BATCH = 64 }; /* tokens that run through a layer together */

struct llama_options {
    /* of the key-value cache: prompt and generated tokens; at most the model's context */
    uint32_t n_positions;
    uint32_t dense_tokens; /* see sffn_ffn_config */
    /* gives each layer the predictor that it names; NULL: none */
    const struct selection *selection;
};

/* Sums over the FFN calls of one layer. */
struct llama_layer_stats {
    uint64_t n_tokens, n_selected, n_active, n_nonzero, touched_bytes, ns;
    uint64_t n_dense;     /* tokens of calls that ran dense */
    int32_t dense_reason; /* enum sffn_dense_reason of the last of them */
};

struct llama_layer {
    float *attn_norm, *ffn_norm; /* [d_model] */
    sffn_matmul *q, *k, *v, *o;
    sffn_predictor *predictor; /* NULL: none */
    sffn_ffn *ffn;
    sffn_ffn_config
        config;           /* what the file says of its weights and rule; pointers into the model */
    int32_t select_input; /* enum sffn_selector_input: what its selector reads */
};

struct llama {
    sffn_context *ctx;
    const sffn_model *model;
    sffn_model_info info;
    sffn_matmul *embedding, *output; /* [n_vocab][d_model]; the same object when tied */
    float *norm;                     /* [d_model], before the output */
    struct llama_layer *layers;
    uint32_t n_positions, n_past;
    uint32_t group; /* query heads per key-value head */
    uint32_t q_dim, kv_dim;
    float *rope_cos, *rope_sin;                     /* [n_positions][head_dim / 2] */
    float *k_cache, *v_cache;                       /* [n_layers][n_positions][kv_dim] */
    float *x, *x_norm, *q, *attention, *y, *scores; /* of one batch */
    /* of one batch: what a selector reads that x no longer holds when its FFN runs */
    float *select_x;

    int32_t select;                  /* enum sffn_select of the FFN; may change between calls */
    struct llama_layer_stats *stats; /* per layer; memset to 0 to start anew */
    uint64_t ffn_ns;                 /* time of the FFN calls, before_ffn included */
    /* Called before each FFN call with its arguments, to change them, for example to select early. NULL: none. */
    sffn_status (*before_ffn)(void *user, uint32_t layer, sffn_ffn_args *args);
    void *before_ffn_user;
    /* Called after each FFN call with its arguments, y written. SFFN_ERR_INTERRUPTED stops llama_eval() without an error line. NULL: none. */
    sffn_status (*on_ffn)(void *user, uint32_t layer, const sffn_ffn_args *args);
    void *on_ffn_user;
};

/* Loads the weights. NULL after an error line. The model must outlive it. */
struct llama *llama_create(sffn_context *ctx, const sffn_model *model,
                           const struct llama_options *options);
void llama_destroy(struct llama *llama);
/* Forgets all tokens. */
void llama_reset(struct llama *llama);
/*
 * Runs n tokens after those before, and writes the logits of the last n_logits of them, [n_logits][n_vocab].
 * Returns 0, or CLI_FAILED after an error line.
 */
int llama_eval(struct llama *llama, const int32_t *tokens, size_t n, size_t n_logits,
               float *logits);
#endif /* SFFN_CLI_LLAMA_H */
