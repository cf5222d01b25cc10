/* predictor.h  A predictor as ffn/ sees it. */
#ifndef SFFN_LIB_PREDICTOR_H
#define SFFN_LIB_PREDICTOR_H
#include "predictor/selector.h"
#include "sparseffn/predictor.h"

struct sffn_predictor {
    const sffn_context *ctx;
    struct sffn_selector selector; /* rows are the neurons of all layers */
    sffn_predictor_info info;      /* without what the selector knows */
};

/* Checks config->gate as rows of d_ff x d_model that are only read, and gives their distance. */
sffn_status sffn_check_gate(const sffn_context *ctx, const sffn_predictor_config *config,
                            size_t *row_bytes);
/* One function per kind: fills p->selector from a checked config (common fields are set already) and adds its steps. */
sffn_status sffn_screened_gate_init(sffn_context *ctx, struct sffn_predictor *p,
                                    const sffn_predictor_config *config);
sffn_status sffn_low_rank_init(sffn_context *ctx, struct sffn_predictor *p,
                               const sffn_predictor_config *config);
sffn_status sffn_gate_svd_init(sffn_context *ctx, struct sffn_predictor *p,
                               const sffn_predictor_config *config);
sffn_status sffn_signs_init(sffn_context *ctx, struct sffn_predictor *p,
                            const sffn_predictor_config *config);
sffn_status sffn_cascade_init(sffn_context *ctx, struct sffn_predictor *p,
                              const sffn_predictor_config *config);
sffn_status sffn_callback_init(sffn_context *ctx, struct sffn_predictor *p,
                               const sffn_predictor_config *config);

#endif /* SFFN_LIB_PREDICTOR_H */
