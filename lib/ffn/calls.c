/* calls.c  The public ways to run a layer or one of its stages; the work is in forward.c. */
#include <string.h>

#include "base/context.h"
#include "ffn/ffn.h"

struct run {
    const struct sffn_kernels *k;
    const struct sffn_call *call;
    void *scratch;
    int collects_stats;
    int may_take; /* in the first phase, too */
};

static void run_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    const struct run *run = arg;
    sffn_call_run_phase(run->k, run->call, run->scratch, run->may_take, phase, ith, nth,
                        run->collects_stats);
}

/* The scratch for nth threads, or an error that says how to get it. */
static sffn_status find_scratch(const sffn_context *ctx, const struct sffn_ffn *ffn, uint32_t nth,
                                void **scratch)
{
    size_t bytes;
    *scratch = sffn_context_scratch(ctx, &bytes);
    const size_t needed = sffn_workspace_layout(ffn, nth, NULL, NULL);
    if (bytes < needed)
        return sffn_fail(ctx, SFFN_ERR_NOT_RESERVED,
                         "%s: %u threads need %zu bytes of scratch and this context has %zu: call "
                         "sffn_ffn_reserve_threads() first",
                         ffn->name, (unsigned)nth, needed, bytes);
    return SFFN_OK;
}

sffn_status sffn_call_run(sffn_context *ctx, const struct sffn_call *call)
{
    struct run run = {sffn_context_kernels(ctx), call, NULL, sffn_context_collects_stats(ctx), 1};
    sffn_status status = sffn_context_enter(ctx);
    if (status != SFFN_OK)
        return status;
    status = find_scratch(ctx, call->ffn, sffn_context_n_threads(ctx), &run.scratch);
    if (status == SFFN_OK) {
        size_t bytes;
        sffn_context_scratch(ctx, &bytes);
        /* oneDNN's path uses the same scratch, and may give up halfway: the stages begin after it. */
        if (!call->is_dense || !sffn_dense_onednn_forward(ctx, call, run.scratch, bytes)) {
            sffn_call_begin(call, run.scratch, sffn_context_n_threads(ctx));
            sffn_context_run_phases(ctx, call->n_stages * call->n_tiles, run_phase, &run);
        }
    }
    sffn_context_leave(ctx);
    return status;
}

static sffn_status check_handles(const sffn_context *ctx, const struct sffn_ffn *ffn)
{
    if (!ctx || !ffn)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "ffn" : "ctx");
    return SFFN_OK;
}

sffn_status sffn_ffn_forward(sffn_context *ctx, const sffn_ffn *ffn, const sffn_ffn_args *args)
{
    struct sffn_call call;
    sffn_status status = check_handles(ctx, ffn);
    if (status == SFFN_OK)
        status = sffn_call_plan(ctx, ffn, args, &call);
    if (status != SFFN_OK || call.n_tiles == 0)
        return status;
    sffn_call_join_stages(&call);
    return sffn_call_run(ctx, &call);
}

uint32_t sffn_ffn_n_phases(const sffn_ffn *ffn, const sffn_ffn_args *args)
{
    struct sffn_call call;
    if (!ffn || sffn_call_plan(ffn->ctx, ffn, args, &call) != SFFN_OK)
        return 0;
    return call.n_stages * call.n_tiles;
}

/* What every thread checks on entry, with the same outcome. */
static sffn_status begin_shared(sffn_context *ctx, const sffn_ffn *ffn, const sffn_ffn_args *args,
                                uint32_t ith, uint32_t nth, struct sffn_call *call, struct run *run)
{
    sffn_status status = check_handles(ctx, ffn);
    if (status != SFFN_OK)
        return status;
    if (nth == 0 || nth > SFFN_MAX_THREADS || ith >= nth)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: ith is %u, nth %u; expected ith < nth and nth in 1..%u", ffn->name,
                         (unsigned)ith, (unsigned)nth, SFFN_MAX_THREADS);
    if ((status = sffn_call_plan(ctx, ffn, args, call)) != SFFN_OK)
        return status;
    run->k = sffn_context_kernels(ctx);
    run->call = call;
    run->collects_stats = sffn_context_collects_stats(ctx);
    return find_scratch(ctx, ffn, nth, &run->scratch);
}

sffn_status sffn_ffn_forward_phase(sffn_context *ctx, const sffn_ffn *ffn,
                                   const sffn_ffn_args *args, uint32_t phase, uint32_t ith,
                                   uint32_t nth)
{
    struct sffn_call call;
    struct run run = {0};
    const sffn_status status = begin_shared(ctx, ffn, args, ith, nth, &call, &run);
    if (status != SFFN_OK)
        return status;
    if (phase >= call.n_stages * call.n_tiles)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: phase is %u; this call has %u phases",
                         ffn->name, (unsigned)phase, (unsigned)(call.n_stages * call.n_tiles));
    run_phase(&run, phase, ith, nth);
    return SFFN_OK;
}

sffn_status sffn_ffn_forward_spmd(sffn_context *ctx, const sffn_ffn *ffn, const sffn_ffn_args *args,
                                  uint32_t ith, uint32_t nth, void (*barrier)(void *user),
                                  void *user)
{
    struct sffn_call call;
    struct run run = {0};
    if (!barrier && nth > 1)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "barrier is NULL with %u threads",
                         (unsigned)nth);
    const sffn_status status = begin_shared(ctx, ffn, args, ith, nth, &call, &run);
    for (uint32_t phase = 0; status == SFFN_OK && phase < call.n_stages * call.n_tiles; phase++) {
        run_phase(&run, phase, ith, nth);
        if (nth > 1)
            barrier(user); /* also after the last phase: y is complete when any thread returns */
    }
    return status;
}

/* ---- stages alone ---- */

sffn_status sffn_ffn_select(sffn_context *ctx, const sffn_ffn *ffn, const float *select_x,
                            size_t n_tokens, sffn_active_set *active)
{
    const sffn_status status = check_handles(ctx, ffn);
    if (status != SFFN_OK)
        return status;
    const struct sffn_selector *s = sffn_ffn_selector(ffn);
    if (!s)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "%s: the layer has neither predictor nor router", ffn->name);
    if (!active)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: active is NULL", ffn->name);
    return sffn_selector_call(ctx, s, select_x, s->n_inputs, n_tokens, NULL, 0, &active, NULL);
}

/* A plan for some stages: y is not written, but the planner wants to see it. */
static sffn_status plan_stages(sffn_context *ctx, const sffn_ffn *ffn, const float *x, float *out,
                               size_t n_tokens, const sffn_active_set *active_in,
                               struct sffn_call *call)
{
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    const sffn_status status = check_handles(ctx, ffn);
    if (status != SFFN_OK)
        return status;
    if (n_tokens > 0 && (!x || !out))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: %s is NULL", ffn->name,
                         x ? "the output" : "x");
    args.x = x;
    args.y = out;
    args.n_tokens = n_tokens;
    args.active = active_in;
    args.select = active_in ? SFFN_SELECT_ACTIVE : SFFN_SELECT_GATE;
    const sffn_status planned = sffn_call_plan(ctx, ffn, &args, call);
    call->stats = NULL; /* a stage alone is no call of the layer */
    call->recall_every = 0;
    return planned;
}

sffn_status sffn_ffn_gate(sffn_context *ctx, const sffn_ffn *ffn, const float *x, size_t n_tokens,
                          const sffn_active_set *active_in, float *s, sffn_active_set *active_out)
{
    struct sffn_call call;
    sffn_status status = plan_stages(ctx, ffn, x, s, n_tokens, active_in, &call);
    if (status == SFFN_OK && active_out)
        status =
            sffn_active_set_check_output(ctx, active_out, "active_out", ffn->d_ff, 1, n_tokens);
    if (status != SFFN_OK || n_tokens == 0)
        return status;
    if (active_out && active_out == active_in)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: active_in and active_out are the same set", ffn->name);
    if (active_out && active_in && sffn_active_set_has_weights(active_in) &&
        !sffn_active_set_has_weights(active_out))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: active_in has weights and active_out was made without: they would be "
                         "lost",
                         ffn->name);
    call.s_out = s;
    call.args.active_out = active_out;
    call.n_stages = 0;
    call.stages[call.n_stages++] = SFFN_STAGE_CLEAR;
    call.select_stage = call.n_stages;
    if (active_in)
        call.stages[call.n_stages++] = SFFN_STAGE_SELECT;
    call.stages[call.n_stages++] = SFFN_STAGE_GATE;
    if (!ffn->is_gated || ffn->rule_on == SFFN_ON_S)
        call.n_stages = sffn_plan_rule(ffn, call.stages, call.n_stages);
    call.stages[call.n_stages++] = SFFN_STAGE_EXPORT;
    return sffn_call_run(ctx, &call);
}

sffn_status sffn_ffn_up(sffn_context *ctx, const sffn_ffn *ffn, const float *x, const float *s,
                        size_t n_tokens, const sffn_active_set *active_in, float *h)
{
    struct sffn_call call;
    const sffn_status status = plan_stages(ctx, ffn, x, h, n_tokens, active_in, &call);
    if (status != SFFN_OK || n_tokens == 0)
        return status;
    if (!s)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: s is NULL", ffn->name);
    call.s_in = s;
    call.args.h = h;
    call.args.h_stride = ffn->d_ff;
    call.n_stages = 0;
    call.stages[call.n_stages++] = SFFN_STAGE_CLEAR;
    call.stages[call.n_stages++] = SFFN_STAGE_IMPORT;
    if (ffn->is_gated) {
        call.stages[call.n_stages++] = SFFN_STAGE_UP;
        if (ffn->rule_on == SFFN_ON_H)
            call.n_stages = sffn_plan_rule(ffn, call.stages, call.n_stages);
    }
    return sffn_call_run(ctx, &call);
}

sffn_status sffn_ffn_down(sffn_context *ctx, const sffn_ffn *ffn, const float *h, size_t n_tokens,
                          const sffn_active_set *active_in, float *y)
{
    sffn_status status = check_handles(ctx, ffn);
    if (status == SFFN_OK)
        status = sffn_matmul_rows_axpy(ctx, &ffn->down, h, ffn->d_ff, n_tokens, active_in, y,
                                       ffn->d_model);
    for (size_t t = 0; status == SFFN_OK && ffn->down_bias && t < n_tokens; t++)
        for (size_t j = 0; j < ffn->d_model; j++)
            y[t * ffn->d_model + j] += ffn->down_bias[j];
    return status;
}
