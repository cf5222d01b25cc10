/* match.c  From the down product backwards: y = down * h, h = act(gate * x) . (up * x). */
#include "match.h"

#include <string.h>

#include "ggml-backend.h"

#include "sparseffn/ffn.h"

int is_weight(const struct ggml_tensor *tensor)
{
    return tensor && tensor->op == GGML_OP_NONE && !tensor->view_src && tensor->buffer &&
           tensor->data &&
           ggml_backend_buffer_get_usage(tensor->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

static int is_product(const struct ggml_tensor *t)
{
    return t && (t->op == GGML_OP_MUL_MAT || t->op == GGML_OP_MUL_MAT_ID) && is_weight(t->src[0]) &&
           t->op_params[1] == 0 && /* no hint that the weights are something else than a matrix */
           t->op_params[3] == 0;   /* and nothing said about how far src[1] may be rounded */
}

int64_t tokens_of(const struct ggml_tensor *node)
{
    return node->ne[1] * node->ne[2] * node->ne[3];
}

/* A vector of weights that is added to every row of `sum`. */
static const struct ggml_tensor *bias_of(const struct ggml_tensor *sum)
{
    const struct ggml_tensor *b = sum->src[1];
    return sum->op == GGML_OP_ADD && is_weight(b) && b->type == GGML_TYPE_F32 &&
                   ggml_nelements(b) == b->ne[0] && b->ne[0] == sum->ne[0] && ggml_is_contiguous(b)
               ? b
               : NULL;
}

static int add_inner(struct ffn_match *m, const struct ggml_tensor *t)
{
    if (m->n_inner == MATCH_MAX_INNER || t->flags & GGML_TENSOR_FLAG_OUTPUT)
        return 0;
    m->inner[m->n_inner++] = t;
    return 1;
}

/* product, or product + bias. The product's weights and bias; its input must be the one of the products seen before. */
static int take_product(struct ffn_match *m, const struct ggml_tensor *t,
                        const struct ggml_tensor **weights, const struct ggml_tensor **bias)
{
    *bias = bias_of(t);
    if (*bias) {
        if (!add_inner(m, t))
            return 0;
        t = t->src[0];
    }
    if (!is_product(t) || t->op != m->y->op || !add_inner(m, t) || (m->x && m->x != t->src[1]) ||
        t->src[2] != m->ids)
        return 0;
    *weights = t->src[0];
    m->x = t->src[1];
    return 1;
}

static int32_t glu_activation(const struct ggml_tensor *t)
{
    switch (ggml_get_glu_op(t)) {
    case GGML_GLU_OP_REGLU:
        return SFFN_ACT_RELU;
    case GGML_GLU_OP_SWIGLU:
        return SFFN_ACT_SILU;
    case GGML_GLU_OP_GEGLU:
        return SFFN_ACT_GELU_TANH;
    case GGML_GLU_OP_GEGLU_ERF:
        return SFFN_ACT_GELU_ERF;
    default:
        return -1;
    }
}

/* act(z), relu(z)^2 included: its activation and z, or -1. */
static int32_t unary_activation(struct ffn_match *m, const struct ggml_tensor *t,
                                const struct ggml_tensor **z)
{
    const int is_square = t->op == GGML_OP_SQR;
    if (is_square) {
        if (!add_inner(m, t))
            return -1;
        t = t->src[0];
    }
    if (t->op != GGML_OP_UNARY || !add_inner(m, t))
        return -1;
    *z = t->src[0];
    switch (ggml_get_unary_op(t)) {
    case GGML_UNARY_OP_RELU:
        return is_square ? SFFN_ACT_RELU2 : SFFN_ACT_RELU;
    case GGML_UNARY_OP_SILU:
        return is_square ? -1 : SFFN_ACT_SILU;
    case GGML_UNARY_OP_GELU:
        return is_square ? -1 : SFFN_ACT_GELU_TANH;
    case GGML_UNARY_OP_GELU_ERF:
        return is_square ? -1 : SFFN_ACT_GELU_ERF;
    default:
        return -1;
    }
}

static int is_activated(const struct ggml_tensor *t)
{
    return t->op == GGML_OP_UNARY || t->op == GGML_OP_SQR;
}

/* act(gate x) * (up x), in two nodes; dReLU has an activation on both sides. */
static int take_multiplied(struct ffn_match *m, const struct ggml_tensor *h)
{
    const struct ggml_tensor *a = h->src[0], *b = h->src[1], *z, *u;
    if (!ggml_are_same_shape(a, b))
        return 0;
    if (!is_activated(a)) {
        const struct ggml_tensor *t = a;
        a = b;
        b = t;
    }
    if (!is_activated(a))
        return 0;
    m->activation = unary_activation(m, a, &z);
    u = b;
    if (is_activated(b)) {
        const int32_t other = unary_activation(m, b, &u);
        if (m->activation != SFFN_ACT_RELU || other != SFFN_ACT_RELU)
            return 0;
        m->activation = SFFN_ACT_DRELU;
    }
    return m->activation >= 0 && take_product(m, z, &m->gate, &m->gate_bias) &&
           take_product(m, u, &m->up, &m->up_bias);
}

static int take_h(struct ffn_match *m, const struct ggml_tensor *h)
{
    if (!h || !add_inner(m, h))
        return 0;
    if (h->op == GGML_OP_GLU) {
        m->activation = glu_activation(h);
        if (m->activation < 0)
            return 0;
        if (h->src[1])
            return take_product(m, h->src[0], &m->gate, &m->gate_bias) &&
                   take_product(m, h->src[1], &m->up, &m->up_bias);
        m->is_joined = 1;
        return h->op_params[1] == 0 && take_product(m, h->src[0], &m->up, &m->up_bias);
    }
    if (h->op == GGML_OP_MUL)
        return take_multiplied(m, h);
    if (is_activated(h)) {
        const struct ggml_tensor *z;
        m->n_inner = 0; /* unary_activation() adds it */
        m->activation = unary_activation(m, h, &z);
        return m->activation >= 0 && take_product(m, z, &m->up, &m->up_bias);
    }
    return 0;
}

static int has_rows_of_floats(const struct ggml_tensor *t)
{
    return t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->nb[1] % sizeof(float) == 0 &&
           t->nb[2] % sizeof(float) == 0;
}

static int fits(struct ffn_match *m)
{
    const struct ggml_tensor *x = m->x, *y = m->y, *up = m->up, *gate = m->gate ? m->gate : m->up;
    m->d_model = x->ne[0];
    m->d_ff = m->down->ne[0];
    m->n_experts = m->ids ? m->down->ne[2] : 1;
    m->n_tokens = m->ids ? x->ne[2] : x->ne[1];
    m->n_used = m->ids ? m->ids->ne[0] : 1;
    const int64_t rows = m->is_joined ? 2 * m->d_ff : m->d_ff;
    const int64_t third = m->ids ? m->n_experts : 1;
    return up->ne[0] == m->d_model && gate->ne[0] == m->d_model && up->ne[1] == rows &&
           gate->ne[1] == rows && m->down->ne[1] == m->d_model && up->ne[2] == third &&
           gate->ne[2] == third && m->down->ne[2] == third && up->ne[3] == 1 && gate->ne[3] == 1 &&
           m->down->ne[3] == 1 && x->ne[3] == 1 && x->ne[m->ids ? 1 : 2] == 1 &&
           has_rows_of_floats(x) && has_rows_of_floats(y) && ggml_is_contiguous(m->down) &&
           ggml_is_contiguous(up) && ggml_is_contiguous(gate) &&
           (!m->ids || (m->ids->type == GGML_TYPE_I32 && m->ids->nb[0] == sizeof(int32_t))) &&
           m->d_ff <= INT32_MAX && m->d_model <= INT32_MAX;
}

int match_ffn(struct ggml_tensor *node, struct ffn_match *m, const char **reason)
{
    memset(m, 0, sizeof *m);
    if (!is_product(node)) {
        *reason = "not a product with weights";
        return 0;
    }
    m->y = node;
    m->down = node->src[0];
    m->ids = node->src[2];
    if (!take_h(m, node->src[1])) {
        *reason = "what comes before the down product is not an activation of products with "
                  "weights (a LoRA adapter, a scale, or an activation without kernels)";
        return 0;
    }
    if (!fits(m)) {
        *reason = "shapes or types of the products do not make one feed-forward layer";
        return 0;
    }
    return 1;
}

const struct ggml_tensor *match_part(const struct ggml_tensor *node)
{
    for (int depth = 0; node && depth < 5; depth++) {
        if (is_product(node))
            return node;
        const int is_step = node->op == GGML_OP_GLU || is_activated(node) ||
                            node->op == GGML_OP_MUL || bias_of(node) != NULL;
        if (!is_step)
            return NULL;
        node = node->src[0];
    }
    return NULL;
}
