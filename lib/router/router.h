/* router.h  A router as ffn/ sees it. */
#ifndef SFFN_LIB_ROUTER_H
#define SFFN_LIB_ROUTER_H
#include "predictor/selector.h"
#include "sparseffn/router.h"

struct sffn_router {
    const sffn_context *ctx;
    struct sffn_selector selector; /* rows are experts, block_size neurons each */
    float threshold;
    int32_t input;
};

#endif /* SFFN_LIB_ROUTER_H */
