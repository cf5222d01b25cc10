/* calibration.h  Samples of one layer, as the files of this folder see them. */
#ifndef SFFN_LIB_CALIBRATION_H
#define SFFN_LIB_CALIBRATION_H
#include "base/random.h"
#include "ffn/ffn.h"
#include "sparseffn/calibrate.h"

struct sffn_calibration {
    const sffn_context *ctx; /* allocator and error words */
    const struct sffn_ffn *ffn;
    uint32_t max_samples, eval_samples, select_d;
    uint64_t n_tokens;
    uint32_t n_samples;
    struct sffn_random random;
    float *x, *select_x; /* [max_samples][...] */
    float *down_norm;    /* [d_ff] */
    double *moment;      /* [d_model][d_model]: sums over whole blocks of tokens, or NULL */
    float *pending;      /* [MOMENT_TOKENS][d_model]: the block that is filling */
    uint32_t n_pending;
    /* The evaluated tokens; n_eval 0: not evaluated since the last token came. */
    uint32_t n_eval;
    float *eval_x; /* [eval_samples][d_model] */
    float *g, *h;  /* [eval_samples][d_ff] */
    float *y;      /* [eval_samples][d_model], without bias */
    float *mean_u; /* [d_ff]: mean |u_i| */
};

/* Where an evaluated token lies among the samples. */
static inline size_t sffn_calibration_slot(const struct sffn_calibration *c, size_t token)
{
    return (size_t)((uint64_t)token * c->n_samples / c->n_eval);
}

/* Fills g, h, y, mean_u unless that is done. */
sffn_status sffn_calibration_evaluate(sffn_context *ctx, struct sffn_calibration *c);
/* g, and h when wanted (else NULL), of n inputs x: the layer without its rule. SFFN_ERR_INVALID_ARGUMENT for a NaN or infinity. mean_u: NULL, or
 * [d_ff] to which |u| is added. */
sffn_status sffn_calibration_products(sffn_context *ctx, const struct sffn_calibration *c,
                                      const float *x, size_t n, float *g, float *h, double *sum_u);

sffn_status sffn_activity_check(const sffn_context *ctx, const struct sffn_calibration *c,
                                const sffn_activity *a);
/* What neuron i's value is compared with. */
float sffn_activity_limit(const struct sffn_calibration *c, const sffn_activity *a,
                          uint32_t neuron);
/* The value of neuron i, >= 0, from its g and h. */
float sffn_activity_value(const struct sffn_calibration *c, int32_t kind, float g, float h);
static inline int sffn_activity_passes(float value, float limit, int32_t tie)
{
    return value > 0 && (tie == SFFN_TIE_KEEP ? value >= limit : value > limit);
}

/* One pass over the down rows for all evaluated tokens. level() says at which of n_levels steps neuron i of a token is dropped (n_levels or
 * more: never); what is dropped at a step stays dropped at the later ones. */
struct sffn_drop {
    uint32_t n_levels;
    uint32_t (*level)(const void *arg, size_t token, uint32_t neuron);
    const void *arg;
    double *error;     /* [n_eval][n_levels]: ||sum of what is dropped up to this step|| */
    uint32_t *dropped; /* [n_eval][n_levels]: how many neurons */
};
sffn_status sffn_calibration_drop(sffn_context *ctx, const struct sffn_calibration *c,
                                  const struct sffn_drop *drop);
/* Means over tokens, from one step of a pass; the density is of what stays. */
void sffn_calibration_summary(const struct sffn_calibration *c, const struct sffn_drop *drop,
                              uint32_t level, sffn_measured *m);

/* The k-th largest (0: the largest) of n numbers without NaN. counts: 65536 words of scratch. */
float sffn_select_largest(const float *v, size_t n, size_t k, size_t *counts);
#define SFFN_SELECT_COUNTS 65536

#endif /* SFFN_LIB_CALIBRATION_H */
