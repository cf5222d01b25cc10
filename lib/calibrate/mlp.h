/* mlp.h  A small network, linear or with one hidden layer, trained against labels in [0, 1]: predictors and routers. */
#ifndef SFFN_LIB_MLP_H
#define SFFN_LIB_MLP_H
#include "sparseffn/calibrate.h"

/* z = w2 act(w1 x + b1) + b2; n_hidden 0: z = w2 x + b2. */
struct sffn_mlp {
    size_t n_in, n_hidden, n_out;
    int32_t hidden_activation; /* enum sffn_hidden_activation */
    int has_bias;
};
/* The parameters lie in one block: w1 [n_hidden][n_in], b1, w2 [n_out][n_hidden or n_in], b2. Offsets in floats; the biases exist only with has_bias. */
struct sffn_mlp_parts {
    size_t w1, b1, w2, b2, total;
};
struct sffn_mlp_parts sffn_mlp_parts(const struct sffn_mlp *mlp);
/* Floats of scratch for n inputs. */
size_t sffn_mlp_scratch_floats(const struct sffn_mlp *mlp, size_t n);
/* z [n][n_out] of tight inputs x. */
sffn_status sffn_mlp_forward(sffn_context *ctx, const struct sffn_mlp *mlp, const float *params,
                             const float *x, size_t n, float *scratch, float *z);
/* Mean over n x n_out of the binary cross-entropy of sigmoid(z) against y [n][n_out]; is_weighted: each element has the weight y (1 - m) + m,
 * m = mean y + 0.005 (Deja Vu, methods 5.1). gradient [total], of n_out times that loss, so that its size does not fall with the width. row_loss:
 * n doubles. */
sffn_status sffn_mlp_gradient(sffn_context *ctx, const struct sffn_mlp *mlp, const float *params,
                              const float *x, const float *y, size_t n, int is_weighted,
                              float *scratch, double *row_loss, float *gradient, double *loss);

struct sffn_training {
    const char *what; /* in error texts and progress */
    struct sffn_mlp mlp;
    float *params;  /* in: the start; out: those with the best score */
    size_t n;       /* samples */
    const float *x; /* [n][n_in] */
    void (*labels)(const void *arg, size_t sample, float *y);
    const void *labels_arg;
    int is_weighted;
    uint32_t batch_size, max_epochs, patience;
    float learning_rate, weight_decay;
    /* share of the outputs that may be let through when a held-out score is taken; <= 0: twice
     * the labels' mean, at most 1 */
    double density;
    float stop_recall;
    uint64_t seed;
    sffn_progress_fn progress;
    void *progress_user;
};
/* AdamW on 95 % of the samples; after each epoch the share of the held-out labels' sum that lies in the highest `density` of the outputs (for 0/1
 * labels: recall). Nothing of the job changes when it fails. */
sffn_status sffn_train(sffn_context *ctx, struct sffn_training *job, sffn_fit_result *result);

#endif /* SFFN_LIB_MLP_H */
