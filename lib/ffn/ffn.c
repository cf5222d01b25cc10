#include "ffn/ffn.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"

static sffn_status check_enums(const sffn_context *ctx, const sffn_ffn_config *c, const char *name)
{
    const struct {
        const char *field;
        int32_t value, count;
    } enums[] = {{"activation", c->activation, SFFN_ACT_SHIFTED_RELU + 1},
                 {"act_tie", c->act_tie, 2},
                 {"rule", c->rule, SFFN_RULE_STATISTICAL_H + 1},
                 {"rule_tie", c->rule_tie, 2},
                 {"storage", c->storage, 2},
                 {"select", c->select, SFFN_SELECT_ROUTER + 1}};
    for (size_t i = 0; i < sizeof(enums) / sizeof(*enums); i++)
        if (enums[i].value < 0 || enums[i].value >= enums[i].count)
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: %s is %d; expected 0..%d", name,
                             enums[i].field, (int)enums[i].value, (int)enums[i].count - 1);
    return SFFN_OK;
}

static sffn_status check_config(const sffn_context *ctx, const sffn_ffn_config *c, const char *name)
{
    const sffn_status status = check_enums(ctx, c, name);
    if (status != SFFN_OK)
        return status;
    if (c->d_model == 0 || c->d_ff == 0 || c->d_model > INT32_MAX || c->d_ff > INT32_MAX)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: d_model %u, d_ff %u; expected 1..2147483647", name,
                         (unsigned)c->d_model, (unsigned)c->d_ff);
    if (!c->up.data || !c->down.data)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: %s.data is NULL", name,
                         c->up.data ? "down" : "up");
    if (c->gate.data && c->gate.layout != SFFN_LAYOUT_ROWS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: gate.layout is %d; expected SFFN_LAYOUT_ROWS", name,
                         (int)c->gate.layout);
    if (c->up.layout != SFFN_LAYOUT_ROWS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: up.layout is %d; expected SFFN_LAYOUT_ROWS", name, (int)c->up.layout);
    if (!(c->act_threshold >= 0) || isinf(c->act_threshold))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: act_threshold is %g; expected a finite number >= 0", name,
                         (double)c->act_threshold);
    if (c->activation == SFFN_ACT_DRELU && !c->gate.data)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: drelu needs a gate; gate.data is NULL", name);
    if (c->gate_bias && !c->gate.data)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: gate_bias without a gate: an ungated layer uses up_bias", name);
    if (!(c->max_density > 0 && c->max_density <= 1))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: max_density is %g; expected a number in (0, 1]", name,
                         (double)c->max_density);
    if (c->predictor && c->router)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: both predictor and router are set; a layer has one selector", name);
    if ((c->select == SFFN_SELECT_PREDICTOR && !c->predictor) ||
        (c->select == SFFN_SELECT_ROUTER && !c->router))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s: select is %d, but %s is NULL", name,
                         (int)c->select, c->select == SFFN_SELECT_ROUTER ? "router" : "predictor");
    if (c->predictor && c->predictor->selector.n_groups != 1)
        return sffn_fail(
            ctx, SFFN_ERR_UNSUPPORTED,
            "%s: the predictor scores %u layers; a layer takes a predictor of its own. "
            "Call sffn_predictor_predict_layers() and hand in the sets",
            name, (unsigned)c->predictor->selector.n_groups);
    if (c->predictor && c->predictor->selector.n_rows != c->d_ff)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "%s: the predictor scores %u neurons; the layer has %u", name,
                         (unsigned)c->predictor->selector.n_rows, (unsigned)c->d_ff);
    if (c->router) {
        const struct sffn_selector *s = &c->router->selector;
        if ((uint64_t)s->n_rows * s->block_size != c->d_ff)
            return sffn_fail(
                ctx, SFFN_ERR_SHAPE,
                "%s: the router has %u experts of %u neurons; the layer has %u neurons", name,
                (unsigned)s->n_rows, (unsigned)s->block_size, (unsigned)c->d_ff);
    }
    return SFFN_OK;
}

/* The three matrices of a layer on their way into it. */
struct source {
    sffn_matmul_config config;
    struct sffn_pack_plan plan;
    struct sffn_matmul *matmul;
    char what[96];
    size_t offset, stride; /* in the arena; copied matrices only */
};

static sffn_status plan_source(const sffn_context *ctx, struct source *s,
                               const struct sffn_ffn *ffn, const char *which,
                               const sffn_weights *weights, const sffn_ffn_config *c)
{
    const sffn_matmul_config init = SFFN_MATMUL_CONFIG_INIT;
    s->config = init;
    s->config.n_rows = c->d_ff;
    s->config.n_cols = c->d_model;
    s->config.weights = *weights;
    s->config.dtype = c->dtype;
    s->config.storage = c->storage;
    if (s->matmul == &ffn->down) {
        s->config.block_size = c->block_size;
        if (weights->layout == SFFN_LAYOUT_COLUMNS)
            s->config.storage = SFFN_STORAGE_COPY;
    }
    snprintf(s->what, sizeof(s->what), "%s: %s", ffn->name, which);
    return sffn_pack_plan(ctx, s->what, &s->config, &s->plan);
}

/* Each matrix lies together: stages read one matrix at a time, gate and dense layers from end to end. */
static int layout_arena(struct source *const sources[3], size_t *bytes)
{
    size_t used = 0;
    for (int i = 0; i < 3; i++) {
        struct source *s = sources[i];
        size_t total;
        if (!s || s->config.storage != SFFN_STORAGE_COPY)
            continue;
        if (!sffn_checked_round_up(used, 4096, &used) ||
            !sffn_row_stride(s->plan.packed_bytes, &s->stride) ||
            !sffn_checked_mul(s->stride, s->plan.n_stored_rows, &total))
            return 0;
        s->offset = used;
        if (!sffn_checked_add(used, total, &used))
            return 0;
    }
    *bytes = used;
    return 1;
}

static sffn_status pack_layer(sffn_context *ctx, struct sffn_ffn *ffn, const sffn_ffn_config *c)
{
    struct source gate = {.matmul = &ffn->gate}, up = {.matmul = &ffn->up},
                  down = {.matmul = &ffn->down};
    struct source *sources[3] = {&gate, ffn->is_gated ? &up : NULL, &down};
    sffn_status status = ffn->is_gated ? plan_source(ctx, &gate, ffn, "gate", &c->gate, c)
                                       : plan_source(ctx, &gate, ffn, "up", &c->up, c);
    if (status == SFFN_OK && ffn->is_gated)
        status = plan_source(ctx, &up, ffn, "up", &c->up, c);
    if (status == SFFN_OK)
        status = plan_source(ctx, &down, ffn, "down", &c->down, c);
    if (status != SFFN_OK)
        return status;
    if (!layout_arena(sources, &ffn->arena_bytes))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: %u neurons of %u columns do not fit in memory", ffn->name,
                         (unsigned)c->d_ff, (unsigned)c->d_model);
    if (ffn->arena_bytes && !(ffn->arena = sffn_mem_alloc_weights(ctx, ffn->arena_bytes)))
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "%s: the allocator returned NULL for %zu bytes of weights", ffn->name,
                         ffn->arena_bytes);
    for (int i = 0; i < 3 && status == SFFN_OK; i++) {
        struct source *s = sources[i];
        if (!s)
            continue;
        const uint8_t *data = s->config.weights.data;
        size_t stride =
            s->config.weights.row_bytes ? s->config.weights.row_bytes : s->plan.row_bytes;
        if (s->config.storage == SFFN_STORAGE_COPY) {
            data = ffn->arena + s->offset;
            stride = s->stride;
            status = sffn_pack(ctx, &s->config, &s->plan, ffn->arena + s->offset, stride);
        }
        if (status == SFFN_OK)
            status =
                sffn_matmul_init(ctx, s->matmul, &s->config, &s->plan, data, stride, s == &down);
        ffn->weight_bytes += (uint64_t)s->plan.row_bytes * s->plan.n_stored_rows;
    }
    return status;
}

static const char *select_name(int32_t select)
{
    return select == SFFN_SELECT_PREDICTOR ? "predictor"
           : select == SFFN_SELECT_ROUTER  ? "router"
           : select == SFFN_SELECT_GATE    ? "gate"
                                           : "none";
}

/* From how many tokens on a default call runs dense; 0: never. */
static uint32_t dense_from(const struct sffn_ffn *ffn)
{
    int32_t reason;
    sffn_default_select(ffn, 1, &reason);
    if (reason)
        return 1;
    sffn_default_select(ffn, UINT32_MAX, &reason);
    return reason ? ffn->dense_tokens : 0; /* a number, then */
}

/* What the layer is, and what will run dense in it. */
static void log_layer(const sffn_context *ctx, const struct sffn_ffn *ffn)
{
    int32_t reason;
    const int32_t select = sffn_default_select(ffn, 1, &reason);
    const uint32_t tokens = dense_from(ffn);
    char dense[96] = "";
    if (reason == SFFN_DENSE_NO_ZEROS)
        snprintf(dense, sizeof(dense), ": dense, because %s has no zeros and no rule is set",
                 sffn_activation_name(ffn->activation));
    else if (reason)
        snprintf(dense, sizeof(dense), ": dense%s",
                 reason == SFFN_DENSE_PLAN ? " by plan" : ", because dense_tokens is 1");
    else if (tokens)
        snprintf(dense, sizeof(dense), ", dense from %u tokens on", (unsigned)tokens);
    sffn_log(ctx, SFFN_LOG_INFO, "%s: %u x %u, %s%s, gate %s, up %s, down %s, selection %s%s",
             ffn->name, (unsigned)ffn->d_model, (unsigned)ffn->d_ff,
             sffn_activation_name(ffn->activation), ffn->is_gated ? "" : " ungated",
             ffn->is_gated ? sffn_dtype_name(ffn->gate.dtype) : "none",
             sffn_dtype_name(ffn->is_gated ? ffn->up.dtype : ffn->gate.dtype),
             sffn_dtype_name(ffn->down.dtype), select_name(select), dense);
}

sffn_status sffn_ffn_create(sffn_context *ctx, const sffn_ffn_config *config, sffn_ffn **out)
{
    if (!ctx || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "ffn" : "ctx");
    *out = NULL;
    sffn_ffn_config c = SFFN_FFN_CONFIG_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_ffn_config", &c, sizeof(c), config);
    if (status == SFFN_OK)
        status = check_config(ctx, &c, c.name ? c.name : "ffn");
    if (status != SFFN_OK)
        return status;
    struct sffn_ffn *ffn = sffn_mem_alloc_zero(ctx, sizeof(*ffn));
    if (!ffn)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "the allocator returned NULL for a layer");
    ffn->ctx = ctx;
    ffn->layer_id = sffn_new_layer_id();
    snprintf(ffn->name, sizeof(ffn->name), "%s", c.name ? c.name : "ffn");
    ffn->d_model = c.d_model;
    ffn->d_ff = c.d_ff;
    ffn->is_gated = c.gate.data != NULL;
    ffn->activation = c.activation;
    ffn->act_tie = c.act_tie;
    ffn->act_threshold = c.act_threshold;
    ffn->predictor = c.predictor;
    ffn->router = c.router;
    ffn->select = c.select;
    ffn->max_density = c.max_density;
    ffn->dense_tokens = c.dense_tokens;
    status = sffn_ffn_set_rule(ctx, &c, ffn->name, ffn);
    if (status == SFFN_OK)
        status = pack_layer(ctx, ffn, &c);
    ffn->gate_bias = sffn_copy_floats(ctx, "gate_bias", ffn->is_gated ? c.gate_bias : c.up_bias,
                                      c.d_ff, &status);
    ffn->up_bias =
        sffn_copy_floats(ctx, "up_bias", ffn->is_gated ? c.up_bias : NULL, c.d_ff, &status);
    ffn->down_bias = sffn_copy_floats(ctx, "down_bias", c.down_bias, c.d_model, &status);
    ffn->rule_thresholds =
        sffn_copy_floats(ctx, "rule_thresholds", c.rule_thresholds, c.d_ff, &status);
    ffn->value_rule.thresholds = ffn->rule_thresholds;
    if (status == SFFN_OK)
        status = sffn_ffn_reserve(ctx, ffn);
    if (status == SFFN_OK && sffn_context_stats(ctx))
        ffn->stats_row = sffn_stats_find(sffn_context_stats(ctx), ffn->layer_id);
    if (status != SFFN_OK) {
        sffn_ffn_destroy(ffn);
        return status;
    }
    log_layer(ctx, ffn);
    *out = ffn;
    return SFFN_OK;
}

void sffn_ffn_destroy(sffn_ffn *ffn)
{
    if (!ffn)
        return;
    const sffn_context *ctx = ffn->ctx;
    if (ffn->stats_row)
        sffn_stats_forget(sffn_context_stats(ctx), ffn->layer_id);
    sffn_matmul_fini(&ffn->gate);
    sffn_matmul_fini(&ffn->up);
    sffn_matmul_fini(&ffn->down);
    sffn_mem_free_weights(ctx, ffn->arena, ffn->arena_bytes);
    sffn_predictor_destroy(ffn->owned_predictor);
    sffn_router_destroy(ffn->owned_router);
    sffn_mem_free(ctx, ffn->gate_bias, ffn->d_ff * sizeof(float));
    sffn_mem_free(ctx, ffn->up_bias, ffn->d_ff * sizeof(float));
    sffn_mem_free(ctx, ffn->down_bias, ffn->d_model * sizeof(float));
    sffn_mem_free(ctx, ffn->rule_thresholds, ffn->d_ff * sizeof(float));
    sffn_mem_free(ctx, ffn, sizeof(*ffn));
}

/* Of the larger of both paths: they never run at the same time. */
static size_t scratch_bytes(const sffn_context *ctx, const sffn_ffn *ffn, uint32_t n_threads)
{
    const size_t sparse = sffn_workspace_layout(ffn, n_threads, NULL, NULL);
    const size_t dense = sffn_dense_onednn_scratch_bytes(ctx, ffn);
    return dense > sparse ? dense : sparse;
}

sffn_status sffn_ffn_reserve_threads(sffn_context *ctx, const sffn_ffn *ffn, uint32_t max_threads)
{
    if (!ctx || !ffn)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "ffn" : "ctx");
    if (max_threads == 0 || max_threads > SFFN_MAX_THREADS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "max_threads is %u; expected 1..%u",
                         (unsigned)max_threads, SFFN_MAX_THREADS);
    sffn_status status = sffn_context_enter(ctx);
    if (status == SFFN_OK) {
        status = sffn_context_reserve_scratch(ctx, scratch_bytes(ctx, ffn, max_threads));
        sffn_context_leave(ctx);
    }
    if (status == SFFN_OK && sffn_context_stats(ctx))
        status =
            sffn_stats_register(ctx, sffn_context_stats(ctx), ffn->layer_id, ffn->name, ffn->d_ff);
    return status;
}

sffn_status sffn_ffn_reserve(sffn_context *ctx, const sffn_ffn *ffn)
{
    return sffn_ffn_reserve_threads(ctx, ffn, ctx ? sffn_context_n_threads(ctx) : 1);
}

size_t sffn_ffn_query_scratch(const sffn_context *ctx, const sffn_ffn *ffn)
{
    return ctx && ffn ? scratch_bytes(ctx, ffn, sffn_context_n_threads(ctx)) : 0;
}

sffn_status sffn_ffn_get_info(const sffn_ffn *ffn, sffn_ffn_info *info)
{
    if (!ffn)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "ffn is NULL");
    sffn_ffn_info i = SFFN_FFN_INFO_INIT;
    i.d_model = ffn->d_model;
    i.d_ff = ffn->d_ff;
    i.is_gated = ffn->is_gated;
    i.activation = ffn->activation;
    i.rule = ffn->rule;
    i.has_predictor = ffn->predictor != NULL;
    i.has_router = ffn->router != NULL;
    i.gate_dtype = ffn->is_gated ? ffn->gate.dtype : -1;
    i.up_dtype = ffn->is_gated ? ffn->up.dtype : ffn->gate.dtype;
    i.down_dtype = ffn->down.dtype;
    i.act_threshold = ffn->act_threshold;
    i.weight_bytes = ffn->weight_bytes;
    const struct sffn_selector *selector = sffn_ffn_selector(ffn);
    i.selector_bytes = selector ? sffn_selector_weight_bytes(selector) : 0;
    i.select = sffn_default_select(ffn, 1, &i.dense_reason);
    i.dense_tokens = dense_from(ffn);
    i.max_density = ffn->max_density;
    i.select_input = ffn->predictor ? ffn->predictor->info.input
                     : ffn->router  ? ffn->router->input
                                    : (int32_t)SFFN_INPUT_FFN;
    return sffn_info_copy(ffn->ctx, "sffn_ffn_info", info, &i, sizeof(i));
}
