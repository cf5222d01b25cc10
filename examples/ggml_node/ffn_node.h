/* ffn_node.h  A feed-forward layer as nodes of a ggml graph that run on ggml's threads. Copy it into your engine.
 *
 * A call of the library is a few phases that never wait (gate, up, down, sum). Each phase is one GGML_OP_CUSTOM node: all nth threads of ggml enter it, and ggml's
 * barrier stands between nodes. No thread is created, and ggml and the library never wait for each other.
 */
#ifndef FFN_NODE_H
#define FFN_NODE_H
#include <sparseffn/sparseffn.h>

#include "ggml.h"

/* 4 per 8 tokens, and one or two more with a selector or a rule */
enum { FFN_NODE_MAX_PHASES = 64 };

/* What the nodes of one layer share. It must live as long as the graph; contexts run one call at a time, so one ctx serves all layers of a graph. */
struct ffn_node {
    sffn_context *ctx;
    const sffn_ffn *ffn;
    struct ggml_tensor *x, *y;
    struct ffn_phase {
        struct ffn_node *node;
        uint32_t number;
    } phases[FFN_NODE_MAX_PHASES];
};

static sffn_ffn_args ffn_node_args(const struct ffn_node *node)
{
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = node->x->data;
    args.x_stride = node->x->nb[1] / sizeof(float);
    args.y = node->y->data;
    args.y_stride = node->y->nb[1] / sizeof(float);
    args.n_tokens = (size_t)node->x->ne[1];
    return args;
}

static void ffn_node_run(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    const struct ffn_phase *phase = user;
    const sffn_ffn_args args = ffn_node_args(phase->node);
    (void)dst;
    /* ggml has no way to report an error from here: ffn_node() has checked what could be wrong. */
    (void)sffn_ffn_forward_phase(phase->node->ctx, phase->node->ffn, &args, phase->number,
                                 (uint32_t)ith, (uint32_t)nth);
}

/* y [n_tokens][d_model] of x [n_tokens][d_model], f32. NULL: x does not fit, or there are too many tokens; then use ggml's own products.
 * Beforehand, once: sffn_ffn_reserve_threads(ctx, ffn, the largest number of threads that ggml will use). */
static struct ggml_tensor *ffn_node(struct ggml_context *g, struct ffn_node *node,
                                    sffn_context *ctx, const sffn_ffn *ffn, struct ggml_tensor *x)
{
    sffn_ffn_info info = SFFN_FFN_INFO_INIT;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    float any;
    args.x = args.y = &any; /* only counted here: ggml allocates x and y later */
    args.n_tokens = (size_t)x->ne[1];
    const uint32_t n_phases = sffn_ffn_n_phases(ffn, &args);
    if (sffn_ffn_get_info(ffn, &info) != SFFN_OK || x->type != GGML_TYPE_F32 ||
        x->ne[0] != info.d_model || x->ne[2] * x->ne[3] != 1 || x->nb[0] != sizeof(float) ||
        n_phases == 0 || n_phases > FFN_NODE_MAX_PHASES)
        return NULL;
    node->ctx = ctx;
    node->ffn = ffn;
    node->x = x;
    struct ggml_tensor *y = NULL;
    for (uint32_t i = 0; i < n_phases; i++) {
        node->phases[i] = (struct ffn_phase){node, i};
        /* x is a source of every phase, so that its memory is not given away before the last one. The later nodes are views of the first one's result. */
        y = i == 0 ? ggml_custom_4d(g, GGML_TYPE_F32, x->ne[0], x->ne[1], 1, 1, &x, 1, ffn_node_run,
                                    GGML_N_TASKS_MAX, &node->phases[i])
                   : ggml_custom_inplace(g, y, &x, 1, ffn_node_run, GGML_N_TASKS_MAX,
                                         &node->phases[i]);
        if (i == 0)
            node->y = y;
    }
    return y;
}
#endif /* FFN_NODE_H */
