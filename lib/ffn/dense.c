/* dense.c  Long prompts: every neuron for every token, as matrix products. With few tokens the stages of forward.c are as good. */
#include <string.h>

#include "base/context.h"
#include "ffn/dense_onednn.h"
#include "ffn/ffn.h"

struct dense {
    const struct sffn_kernels *k;
    const struct sffn_ffn *ffn;
    const struct sffn_call *call;
    float *gate, *up, *down; /* [SFFN_DENSE_NEURONS][d_model], decoded */
    float *g, *u;            /* [tokens][SFFN_DENSE_NEURONS] */
    size_t token, n_tokens;
    uint32_t neuron, n_neurons;
};

static int is_either(const struct sffn_ffn *ffn, int32_t a, int32_t b)
{
    const struct sffn_matmul *const matrices[] = {&ffn->gate, ffn->is_gated ? &ffn->up : &ffn->gate,
                                                  &ffn->down};
    for (int i = 0; i < 3; i++)
        if (matrices[i]->dtype != a && matrices[i]->dtype != b)
            return 0;
    return 1;
}

/* From how many tokens on dense calls go this way; 0: none does. Its products of floats against the kernels of the decode path, which read weights as they are,
 * 4096 x 11008 on Zen 4, one / two threads, time of oneDNN 2.6.3 over ours: f32 0.87 / 1.21 with 64 tokens, 0.70 / 0.97 with 128, 0.67 / 0.66 with 512; bf16 0.91 /
 * 1.24, 0.86 / 0.89 with 512; f16 1.37 / 2.18, 0.93 / 1.08 with 512; q8_0 1.6 / 2.0 and q4_0 1.8 / 2.2 with 512. */
static uint32_t onednn_from(const struct sffn_ffn *ffn)
{
    return ffn->dense_tokens != SFFN_DENSE_TOKENS_AUTO ? ffn->dense_tokens
           : is_either(ffn, SFFN_F32, SFFN_F32)        ? 128
           : is_either(ffn, SFFN_F32, SFFN_BF16)       ? 512
                                                       : 0;
}

size_t sffn_dense_onednn_scratch_bytes(const sffn_context *ctx, const struct sffn_ffn *ffn)
{
    if (!sffn_context_uses_onednn(ctx) || onednn_from(ffn) == 0)
        return 0;
    return SFFN_DENSE_NEURONS * ((size_t)3 * ffn->d_model + 2 * SFFN_DENSE_TOKENS) * sizeof(float);
}

/* Neurons [neuron, neuron + n_neurons) to floats. */
static void decode_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct dense *d = arg;
    const struct sffn_matmul *matrices[3] = {&d->ffn->gate, d->ffn->is_gated ? &d->ffn->up : NULL,
                                             &d->ffn->down};
    float *const rows[3] = {d->gate, d->up, d->down};
    const size_t n_cols = d->ffn->d_model;
    size_t first, last;
    sffn_share(d->n_neurons, ith, nth, &first, &last);
    for (int m = 0; m < 3; m++)
        for (size_t i = first; matrices[m] && i < last; i++)
            sffn_matmul_get_row(matrices[m], d->neuron + (uint32_t)i, rows[m] + i * n_cols);
}

/* g, u -> h in g's place */
static void activate_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct dense *d = arg;
    const struct sffn_ffn *ffn = d->ffn;
    const sffn_ffn_args *args = &d->call->args;
    size_t first, last;
    sffn_share(d->n_tokens, ith, nth, &first, &last);
    for (size_t t = first; t < last; t++) {
        float *g = d->g + t * SFFN_DENSE_NEURONS, *u = d->u + t * SFFN_DENSE_NEURONS;
        for (uint32_t i = 0; ffn->gate_bias && i < d->n_neurons; i++)
            g[i] += ffn->gate_bias[d->neuron + i];
        sffn_activate(d->k, ffn, g, d->n_neurons);
        for (uint32_t i = 0; ffn->is_gated && i < d->n_neurons; i++)
            g[i] = sffn_make_h(ffn, d->neuron + i, g[i], u[i]);
        if (args->h)
            memcpy(args->h + (d->token + t) * args->h_stride + d->neuron, g,
                   d->n_neurons * sizeof(float));
    }
}

static int run_block(sffn_context *ctx, struct dense *d)
{
    const struct sffn_ffn *ffn = d->ffn;
    const sffn_ffn_args *args = &d->call->args;
    const size_t m = d->n_tokens, n = d->n_neurons, k = ffn->d_model, block = SFFN_DENSE_NEURONS;
    const float *x = args->x + d->token * args->x_stride;
    float *y = args->y + d->token * args->y_stride;
    sffn_context_run_phases(ctx, 1, decode_phase, d);
    if (!sffn_onednn_sgemm(0, m, n, k, x, args->x_stride, d->gate, k, 0, d->g, block) ||
        (ffn->is_gated &&
         !sffn_onednn_sgemm(0, m, n, k, x, args->x_stride, d->up, k, 0, d->u, block)))
        return 0;
    sffn_context_run_phases(ctx, 1, activate_phase, d);
    return sffn_onednn_sgemm(1, m, k, n, d->g, block, d->down, k, 1, y, args->y_stride);
}

static void finish(const struct sffn_call *call, uint64_t total_ns)
{
    const struct sffn_ffn *ffn = call->ffn;
    const uint64_t n = call->args.n_tokens;
    sffn_ffn_stats s = SFFN_FFN_STATS_INIT;
    s.path = SFFN_PATH_DENSE_ONEDNN;
    s.select = call->select;
    s.dense_reason = call->dense_reason;
    s.n_tokens = n;
    s.n_selected = s.n_active = s.n_nonzero = n * ffn->d_ff;
    s.union_active = (n + SFFN_DENSE_TOKENS - 1) / SFFN_DENSE_TOKENS * ffn->d_ff;
    s.touched_bytes = (n + SFFN_DENSE_TOKENS - 1) / SFFN_DENSE_TOKENS * ffn->weight_bytes;
    s.total_ns = total_ns;
    if (call->args.stats)
        sffn_info_copy(ffn->ctx, "sffn_ffn_stats", call->args.stats, &s, sizeof(s));
    sffn_call_count(call, &s, NULL);
}

int sffn_dense_onednn_forward(sffn_context *ctx, const struct sffn_call *call, void *scratch,
                              size_t scratch_bytes)
{
    const struct sffn_ffn *ffn = call->ffn;
    const sffn_ffn_args *args = &call->args;
    /* A layer that runs dense because it has nothing to skip still decodes through the stages. */
    const uint32_t from = onednn_from(ffn);
    if (!sffn_context_uses_onednn(ctx) || from == 0 || args->n_tokens < from || args->active_out ||
        scratch_bytes < sffn_dense_onednn_scratch_bytes(ctx, ffn))
        return 0;
    const int is_timed = sffn_context_collects_stats(ctx);
    const uint64_t begin = is_timed ? sffn_now_ns() : 0;
    const int threads_before = sffn_onednn_set_threads((int)sffn_context_n_workers(ctx));
    struct dense d = {.k = sffn_context_kernels(ctx), .ffn = ffn, .call = call, .gate = scratch};
    d.up = d.gate + SFFN_DENSE_NEURONS * (size_t)ffn->d_model;
    d.down = d.up + SFFN_DENSE_NEURONS * (size_t)ffn->d_model;
    d.g = d.down + SFFN_DENSE_NEURONS * (size_t)ffn->d_model;
    d.u = d.g + (size_t)SFFN_DENSE_TOKENS * SFFN_DENSE_NEURONS;
    int ok = 1;
    for (; ok && d.token < args->n_tokens; d.token += d.n_tokens) {
        const size_t left = args->n_tokens - d.token;
        d.n_tokens = left < SFFN_DENSE_TOKENS ? left : SFFN_DENSE_TOKENS;
        for (size_t t = d.token; t < d.token + d.n_tokens; t++)
            for (size_t j = 0; j < ffn->d_model; j++)
                args->y[t * args->y_stride + j] = ffn->down_bias ? ffn->down_bias[j] : 0.0f;
        for (d.neuron = 0; ok && d.neuron < ffn->d_ff; d.neuron += d.n_neurons) {
            d.n_neurons = ffn->d_ff - d.neuron < SFFN_DENSE_NEURONS ? ffn->d_ff - d.neuron
                                                                    : SFFN_DENSE_NEURONS;
            ok = run_block(ctx, &d);
        }
    }
    if (threads_before > 0)
        sffn_onednn_set_threads(threads_before);
    if (ok)
        finish(call, is_timed ? sffn_now_ns() - begin : 0);
    return ok;
}
