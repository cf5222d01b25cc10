/* predictor.h  A predictor as ffn/ sees it. */
#ifndef SFFN_LIB_PREDICTOR_H
#define SFFN_LIB_PREDICTOR_H
#include "predictor/selector.h"
#include "sparseffn/predictor.h"

struct sffn_predictor {
    const sffn_context *ctx;
    int32_t kind;
    struct sffn_selector selector;
};

/* One function per kind: fills p->selector from a checked config (common fields are set already) and adds its steps. */
sffn_status sffn_screened_gate_init(sffn_context *ctx, struct sffn_predictor *p, const sffn_predictor_config *config);

#endif /* SFFN_LIB_PREDICTOR_H */
