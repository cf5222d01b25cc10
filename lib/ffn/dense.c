#include "ffn/ffn.h"

int sffn_dense_onednn_forward(sffn_context *ctx, const struct sffn_call *call)
{
    (void)ctx, (void)call;
    return 0;
}
