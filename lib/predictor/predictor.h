/* predictor.h  A predictor as ffn/ sees it. */
#ifndef SFFN_LIB_PREDICTOR_H
#define SFFN_LIB_PREDICTOR_H
#include "predictor/scorer.h"
#include "sparseffn/predictor.h"

struct sffn_predictor {
    const sffn_context *ctx;
    int32_t kind;
    struct sffn_scorer scorer;
};

/* One function per kind: fills p->scorer from a checked config (common fields are set already). */
sffn_status sffn_screened_gate_init(sffn_context *ctx, struct sffn_predictor *p, const sffn_predictor_config *config);

#endif /* SFFN_LIB_PREDICTOR_H */
