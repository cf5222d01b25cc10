/* Sizes and offsets of the public structs against layout_x86_64.inc. A field that moves or a struct
 * that grows is a change of the ABI: do it on purpose, at the end of the struct, and change the
 * file with it. */
#include "check.h"

#if defined(__x86_64__) && defined(__LP64__)

struct pinned {
    const char *name;
    size_t got, want, got_size, want_size;
};
#define SIZE(type, bytes) {#type, sizeof(type), bytes, 0, 0},
#define FIELD(type, field, offset, bytes)                                                          \
    {#type "." #field, offsetof(type, field), offset, sizeof(((type *)0)->field), bytes},
static const struct pinned pinned[] = {
#include "layout_x86_64.inc"
};

static void layout(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pinned / sizeof pinned[0]; i++)
        CHECK_SAYS(pinned[i].got == pinned[i].want && pinned[i].got_size == pinned[i].want_size,
                   "%s: %zu (%zu bytes), pinned %zu (%zu bytes)", pinned[i].name, pinned[i].got,
                   pinned[i].got_size, pinned[i].want, pinned[i].want_size);
}

#else

static void layout(void **state)
{
    (void)state;
    skip();
}

#endif

/* struct_size comes first in every sized struct, and the INIT macros say the size. */
static void init_macros(void **state)
{
    (void)state;
#define INIT(type, init)                                                                           \
    do {                                                                                           \
        const type value = init;                                                                   \
        CHECK_SAYS(offsetof(type, struct_size) == 0 && value.struct_size == sizeof value, #type);  \
    } while (0)
    INIT(sffn_context_config, SFFN_CONTEXT_CONFIG_INIT);
    INIT(sffn_context_info, SFFN_CONTEXT_INFO_INIT);
    INIT(sffn_active_set_config, SFFN_ACTIVE_SET_CONFIG_INIT);
    INIT(sffn_value_rule, SFFN_VALUE_RULE_INIT);
    INIT(sffn_matmul_config, SFFN_MATMUL_CONFIG_INIT);
    INIT(sffn_matmul_info, SFFN_MATMUL_INFO_INIT);
    INIT(sffn_predictor_config, SFFN_PREDICTOR_CONFIG_INIT);
    INIT(sffn_predictor_info, SFFN_PREDICTOR_INFO_INIT);
    INIT(sffn_router_config, SFFN_ROUTER_CONFIG_INIT);
    INIT(sffn_router_info, SFFN_ROUTER_INFO_INIT);
    INIT(sffn_ffn_config, SFFN_FFN_CONFIG_INIT);
    INIT(sffn_ffn_args, SFFN_FFN_ARGS_INIT);
    INIT(sffn_ffn_stats, SFFN_FFN_STATS_INIT);
    INIT(sffn_layer_stats, SFFN_LAYER_STATS_INIT);
    INIT(sffn_ffn_info, SFFN_FFN_INFO_INIT);
    INIT(sffn_model_info, SFFN_MODEL_INFO_INIT);
    INIT(sffn_tensor_info, SFFN_TENSOR_INFO_INIT);
    INIT(sffn_prepare_layer, SFFN_PREPARE_LAYER_INIT);
    INIT(sffn_prepare_config, SFFN_PREPARE_CONFIG_INIT);
    INIT(sffn_calibration_config, SFFN_CALIBRATION_CONFIG_INIT);
    INIT(sffn_calibration_info, SFFN_CALIBRATION_INFO_INIT);
    INIT(sffn_measured, SFFN_MEASURED_INIT);
    INIT(sffn_threshold_config, SFFN_THRESHOLD_CONFIG_INIT);
    INIT(sffn_cluster_config, SFFN_CLUSTER_CONFIG_INIT);
    INIT(sffn_svd_config, SFFN_SVD_CONFIG_INIT);
    INIT(sffn_selector_report, SFFN_SELECTOR_REPORT_INIT);
    INIT(sffn_fit_result, SFFN_FIT_RESULT_INIT);
    INIT(sffn_low_rank_config, SFFN_LOW_RANK_CONFIG_INIT);
    INIT(sffn_router_fit_config, SFFN_ROUTER_FIT_CONFIG_INIT);
}

/* The documented defaults. */
static void defaults(void **state)
{
    (void)state;
    const sffn_context_config context = SFFN_CONTEXT_CONFIG_INIT;
    CHECK(!context.allocator.user && !context.allocator.alloc && !context.allocator.free &&
          !context.log && !context.log_user);
    CHECK(context.n_threads == 1 && !context.parallel_for && !context.parallel_for_user &&
          !context.max_isa);
    CHECK(context.huge_pages == SFFN_HUGE_PAGES_AUTO && context.bind_threads == 0 &&
          context.spin_us == 50);
    CHECK(context.collect_stats == 0 && context.use_onednn == 0);
    const sffn_active_set_config set = SFFN_ACTIVE_SET_CONFIG_INIT;
    CHECK(set.n_blocks == 0 && set.block_size == 1 && set.max_tokens == 1);
    const sffn_matmul_config matmul = SFFN_MATMUL_CONFIG_INIT;
    CHECK(matmul.n_rows == 0 && matmul.n_cols == 0 && !matmul.weights.data &&
          matmul.weights.dtype == SFFN_F32);
    CHECK(matmul.weights.layout == SFFN_LAYOUT_ROWS && matmul.weights.row_bytes == 0);
    CHECK(matmul.storage == SFFN_STORAGE_COPY && matmul.dtype == -1 && matmul.block_size == 1);
    const sffn_predictor_config predictor = SFFN_PREDICTOR_CONFIG_INIT;
    CHECK(predictor.kind == SFFN_PREDICTOR_SCREENED_GATE && predictor.threshold == 0.0f &&
          !predictor.thresholds);
    CHECK(predictor.margin == 1.5f && !predictor.gate.data && !predictor.gate_bias);
    const sffn_router_config router = SFFN_ROUTER_CONFIG_INIT;
    CHECK(router.block_size == 32 && router.rule == SFFN_ROUTER_SIGMOID &&
          router.threshold == 0.5f && !router.bias);
    const sffn_ffn_config ffn = SFFN_FFN_CONFIG_INIT;
    CHECK(!ffn.gate.data && !ffn.up.data && !ffn.down.data && !ffn.gate_bias && !ffn.up_bias &&
          !ffn.down_bias);
    CHECK(ffn.activation == SFFN_ACT_RELU && ffn.act_tie == SFFN_TIE_KEEP &&
          ffn.act_threshold == 0.0f);
    CHECK(ffn.rule == SFFN_RULE_NONE && ffn.rule_tie == SFFN_TIE_DROP &&
          ffn.rule_threshold == 0.0f && !ffn.rule_thresholds);
    CHECK(ffn.storage == SFFN_STORAGE_COPY && ffn.dtype == -1 && ffn.block_size == 1 &&
          !ffn.predictor && !ffn.router);
    CHECK(ffn.max_density == 1.0f && ffn.dense_tokens == SFFN_DENSE_TOKENS_AUTO && !ffn.name &&
          ffn.select == SFFN_SELECT_DEFAULT);
    const sffn_calibration_config calibration = SFFN_CALIBRATION_CONFIG_INIT;
    CHECK(!calibration.ffn && calibration.max_samples == 4096 && calibration.eval_samples == 512 &&
          calibration.select_d_model == 0 && calibration.keep_second_moment == 0 &&
          calibration.seed == 0);
    const sffn_threshold_config threshold = SFFN_THRESHOLD_CONFIG_INIT;
    CHECK(threshold.kind == SFFN_ACTIVE_CONTRIBUTION && threshold.target_cett < 0 &&
          threshold.target_density < 0 && !threshold.progress);
    const sffn_cluster_config cluster = SFFN_CLUSTER_CONFIG_INIT;
    CHECK(!cluster.weights.data && cluster.group_size == 32 && cluster.normalize == 1 &&
          cluster.max_rounds == 30 && cluster.seed == 0 && !cluster.progress);
    const sffn_svd_config svd = SFFN_SVD_CONFIG_INIT;
    CHECK(!svd.weights.data && svd.rank == 0 && !svd.second_moment && !svd.progress);
    const sffn_low_rank_config low_rank = SFFN_LOW_RANK_CONFIG_INIT;
    CHECK(low_rank.rank == 0 && low_rank.hidden_activation == SFFN_HIDDEN_NONE &&
          !low_rank.has_bias && low_rank.activity.kind == SFFN_ACTIVE_SCORE &&
          low_rank.start == SFFN_FIT_START_AUTO && low_rank.batch_size == 256 &&
          low_rank.max_epochs == 20 && low_rank.patience == 5 && low_rank.learning_rate == 0.001f &&
          low_rank.weight_decay == 0.01f && low_rank.density == 0 &&
          low_rank.stop_recall == 0.999f && low_rank.seed == 0 && !low_rank.progress);
    const sffn_router_fit_config router_fit = SFFN_ROUTER_FIT_CONFIG_INIT;
    CHECK(router_fit.block_size == 32 && !router_fit.permutation &&
          router_fit.score == SFFN_EXPERT_SUM_H && !router_fit.is_mlp &&
          !router_fit.normalize_input && router_fit.start == SFFN_FIT_START_AUTO &&
          router_fit.batch_size == 256 && router_fit.max_epochs == 30 && router_fit.patience == 5 &&
          router_fit.learning_rate == 0.01f && router_fit.weight_decay == 0 &&
          router_fit.density == 0.2f && router_fit.stop_recall == 0.999f && !router_fit.progress);
    const sffn_activity activity = SFFN_ACTIVITY_INIT;
    CHECK(activity.kind == SFFN_ACTIVE_SCORE && activity.tie == SFFN_TIE_DROP &&
          activity.threshold == 0 && !activity.thresholds);
    const sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    CHECK(!args.x && !args.y && args.n_tokens == 0 && !args.select_x &&
          args.select == SFFN_SELECT_DEFAULT);
    CHECK(!args.active && !args.h && !args.active_out && !args.stats);
    CHECK(args.x_stride == 0 && args.y_stride == 0 && args.h_stride == 0 &&
          args.select_x_stride == 0);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, layout);
    CASE(&cases, init_macros);
    CASE(&cases, defaults);
    return cases_run(&cases, "layout");
}
