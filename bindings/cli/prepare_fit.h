/* prepare_fit.h  A predictor or router made from a layer's sampled inputs, with the arrays that it needs. */
#ifndef SFFN_CLI_PREPARE_FIT_H
#define SFFN_CLI_PREPARE_FIT_H
#include "selection.h"
#include "sparseffn/sparseffn.h"

enum fit_array { FIT_W1, FIT_W2, FIT_B2, FIT_ROUTER, FIT_PERMUTATION, FIT_MEAN, FIT_N_ARRAYS };

/* Plain data but for the arrays: fit_point() sets the pointers of the configs. */
struct fitted {
    sffn_predictor_config predictor; /* kind and all, when has_predictor */
    sffn_router_config router;
    int has_predictor, has_router;
    void *arrays[FIT_N_ARRAYS];
    size_t bytes[FIT_N_ARRAYS];
};

struct fit_options {
    const sffn_ffn_config *ffn;    /* the layer, down in SFFN_LAYOUT_ROWS */
    const sffn_activity *activity; /* what counts as active */
    const float *x;                /* [n][d_model], the sample */
    /* [n][d_model]: what a selection with an input of its own reads; else NULL */
    const float *select_x;
    size_t n;
    uint64_t seed;
    sffn_progress_fn progress;
    void *progress_user;
};

/* Whether the layer can have it, before hours are spent. CLI_FAILED after an error line. */
int fit_check(const struct selection *selection, uint32_t layer, const sffn_ffn_config *ffn);
/* Makes what `selection` says. The calibration has the sample, with select_x unless that is NULL, and its second moment. CLI_FAILED after an error line. */
int fit_selection(sffn_context *ctx, sffn_calibration *calibration,
                  const struct selection *selection, uint32_t layer,
                  const struct fit_options *options, struct fitted *out);
/* Makes the configs point to the arrays, and to the layer's gate. */
void fit_point(struct fitted *fitted, const sffn_ffn_config *ffn);
void fit_free(struct fitted *fitted);

/* The layer with its neurons in another order: matrices, biases and thresholds. */
struct permuted {
    sffn_ffn_config config;
    void *arrays[6];
};
int permute_layer(const sffn_ffn_config *ffn, const uint32_t *permutation, struct permuted *out);
void permuted_free(struct permuted *permuted);
#endif /* SFFN_CLI_PREPARE_FIT_H */
