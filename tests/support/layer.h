/* layer.h  Random FFN layers for the library, and the same layers in float64 with derived error
 * bounds. */
#ifndef TEST_LAYER_H
#define TEST_LAYER_H
#include "check.h"
#include "guarded.h"
#include "weights.h"

/* ---------------------------------------------------------------- layers */

/* What a layer is. SPEC_INIT and then the fields that differ. */
struct spec {
    uint32_t d_model, d_ff;
    int is_gated, has_bias;
    int32_t gate_type, up_type, down_type; /* of the source */
    int32_t packed_type;                   /* config.dtype */
    int32_t down_layout, storage;
    uint32_t block_size;
    int32_t activation, act_tie, rule, rule_tie;
    float act_threshold, rule_threshold;
    int has_thresholds; /* a vector around rule_threshold instead */
    /* added to the biases that decide: +100 makes all neurons active, -100 none */
    float gate_shift;
    size_t tail; /* sources and inputs end this many bytes before a page: 1 makes them unaligned */
};
#define SPEC_INIT(d_model, d_ff, type)                                                             \
    {                                                                                              \
        d_model, d_ff, 1, 0, type, type, type, -1, SFFN_LAYOUT_ROWS, SFFN_STORAGE_COPY, 1u,        \
            SFFN_ACT_RELU, SFFN_TIE_KEEP, SFFN_RULE_NONE, SFFN_TIE_DROP, 0.0f, 0.0f, 0, 0.0f, 0    \
    }

/* A layer's sources (in guarded memory) and the floats that the library must compute with. */
struct layer {
    struct spec spec;
    struct guarded memory;
    sffn_ffn_config config; /* its pointers go to memory below */
    unsigned char *gate_source, *up_source, *down_source;
    float *gate, *up, *down; /* decoded after packing, [d_ff][d_model]; gate NULL: ungated */
    float *gate_bias, *up_bias, *down_bias, *thresholds;
    int32_t gate_packed, up_packed, down_packed; /* types after packing */
    /* quantised down without lossless blocks: its packed rows, else NULL */
    unsigned char *down_rows;
};
void layer_make(struct layer *layer, const struct spec *spec, struct rng *rng);
/* Decodes again after a change of the sources. */
void layer_decode(struct layer *layer);
void layer_free(struct layer *layer);
/* A whole row of a source of gate, up or down becomes NaN. down must be SFFN_LAYOUT_ROWS or not
 * quantised. */
enum layer_part { PART_GATE = 1, PART_UP = 2, PART_DOWN = 4 };
void layer_poison(struct layer *layer, uint32_t neuron, int parts);
/* The library's layer; the test fails when it can't be made. */
sffn_ffn *layer_create(sffn_context *ctx, const struct layer *layer);

/* n_tokens rows of d floats with some zeros, in the layer's memory, `tail` bytes before a page's
 * end. */
float *draw_x(struct guarded *memory, struct rng *rng, size_t n_tokens, size_t d, size_t tail);
/* n_tokens rows of d_ff bytes: 1 with probability `density`. */
uint8_t *draw_mask(struct guarded *memory, struct rng *rng, size_t n_tokens, size_t d_ff,
                   double density);
/* An active set of single neurons, or of blocks, with the masks' tokens; a block is active when its
 * first neuron is. */
sffn_active_set *make_set(sffn_context *ctx, const uint8_t *masks, size_t n_tokens,
                          uint32_t n_blocks, uint32_t block_size);

/* ---------------------------------------------------------------- the layer in float64 */

/* Values of each token, each with the largest error that the documented arithmetic may make. */
struct reference {
    size_t n_tokens;
    double *g, *s, *s_error, *u, *u_error; /* [n_tokens][d_ff] */
    double *h, *h_error;                   /* [n_tokens][d_ff] */
    /* [n_tokens][d_ff]: passes gate and rule for every / for some error; a rule on |h| counts for
     * ungated layers only */
    uint8_t *surely, *perhaps;
    double *y, *y_error; /* [n_tokens][d_model] */
};
/* candidates [n_tokens][d_ff]: neurons let through to the gate, NULL: all. is_dense: the rule is
 * not applied. */
void reference_make(struct reference *ref, struct guarded *memory, const struct layer *layer,
                    const float *x, size_t n_tokens, const uint8_t *candidates, int is_dense);
/* y = W_down h + b_down for one token with the error of the down product alone, given h and its
 * error (NULL: exact). */
void reference_down(const struct layer *layer, const double *h, const double *h_error, double *y,
                    double *y_error);

/* One dot product of n weights and x, and the largest error for weights of this type (x quantised
 * to int8 or not). */
double reference_dot(int32_t packed_type, const float *w, const float *x, size_t n, double bias,
                     double *error);

/* Bounds are worst cases. The roundings of int8 and of 15 bits are as good as independent and
 * uniform over a step, so the error of one sum has the variance returned here: a mean square of
 * many errors well above it is a fault, though each may be within its bound. Quantised weights. */
double reference_dot_variance(const float *w, const float *x, size_t n);
void reference_down_variance(const struct layer *layer, const double *h, double *variance);

/* -------------------------------------------------- one call and all that can be checked of it */

/* Results of one call, in guarded memory. */
struct result {
    float *y, *h;
    sffn_active_set *active;
    sffn_ffn_stats stats;
};
/* Arguments for layer, x and outputs; the outputs hold NaN before the call. */
sffn_ffn_args result_args(struct result *result, struct guarded *memory, sffn_context *ctx,
                          const struct layer *layer, const float *x, size_t n_tokens);
void result_free(struct result *result);
/* Compares everything that a call returned with the reference: members of the active set, h, y
 * given h, y, counts. */
void result_check(const struct result *result, const struct layer *layer,
                  const struct reference *ref, const uint8_t *candidates, int is_dense,
                  const char *what);

#endif /* TEST_LAYER_H */
