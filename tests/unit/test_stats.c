/* stats.h: exact counts on layers worked out by hand, sampled recall, rows that come and go, texts. That the texts are JSON and Prometheus's
 * format is checked by their parsers in tests/python/test_stats.py. */
#include <stdio.h>

#include "allocator.h"
#include "check.h"
#include "layer.h"
#include "threads.h"

static sffn_context *make_collecting(uint32_t n_threads, uint32_t recall_every)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = n_threads;
    config.collect_stats = 1;
    config.stats_recall_every = recall_every;
    sffn_context *ctx = NULL;
    CHECK_OK(NULL, sffn_context_create(&config, &ctx));
    return ctx;
}

/* d_model 1: neuron i is active when signs[i] * x > 0; up and down are ones. */
static sffn_ffn *make_toy(sffn_context *ctx, const char *name, uint32_t d_ff, const float *signs)
{
    static const float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = 1;
    config.d_ff = d_ff;
    config.gate.data = signs;
    config.up.data = config.down.data = ones;
    config.name = name;
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
    return ffn;
}

static sffn_layer_stats stats_of(const sffn_context *ctx, const sffn_ffn *ffn)
{
    sffn_layer_stats stats = SFFN_LAYER_STATS_INIT;
    CHECK_OK(ctx, sffn_context_get_layer_stats(ctx, ffn, &stats));
    return stats;
}

static float y_of_toy;

static void run_toy(sffn_context *ctx, const sffn_ffn *ffn, float x, int32_t select,
                    const sffn_active_set *active)
{
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = &x;
    args.y = &y_of_toy;
    args.n_tokens = 1;
    args.select = select;
    args.active = active;
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
}

/* {1, 4, 7} are active for x > 0, the seven others for x < 0: 14.6. */
static const float signs[10] = {-1, 1, -1, -1, 1, -1, -1, 1, -1, -1};

static void exact_counts(void **state)
{
    (void)state;
    sffn_context *ctx = make_collecting(1, 0);
    sffn_ffn *ffn = make_toy(ctx, "blk.0", 10, signs);
    run_toy(ctx, ffn, 1, SFFN_SELECT_GATE, NULL);
    run_toy(ctx, ffn, -1, SFFN_SELECT_GATE, NULL);
    run_toy(ctx, ffn, 2, SFFN_SELECT_DENSE, NULL);
    CHECK(y_of_toy == 12); /* three times s = u = 2 */
    const uint8_t mask[10] = {0, 1, 0, 0, 1, 1, 0, 0, 0, 1};
    sffn_active_set *set = make_set(ctx, mask, 1, 10, 1);
    run_toy(ctx, ffn, 1, SFFN_SELECT_ACTIVE, set);
    CHECK(y_of_toy == 2);
    sffn_layer_stats s = stats_of(ctx, ffn);
    CHECK(s.calls_sparse == 3 && s.calls_dense == 1 && s.calls_onednn == 0 && s.n_tokens == 4);
    CHECK(s.n_selected == 10 + 10 + 10 + 4);
    CHECK(s.n_active == 3 + 7 + 10 + 2 && s.n_nonzero == s.n_active);
    CHECK(s.touched_bytes == 4 * (s.n_selected + s.n_active + s.n_nonzero)); /* one float per row */
    CHECK(s.sampled_tokens == 0 && s.recall == 1 && s.precision == 1 && s.check_ns == 0);
    CHECK(s.total_ns >= s.select_ns + s.gate_ns + s.up_ns + s.down_ns && s.total_ns > 0);
    /* an older caller's struct is filled as far as it goes */
    sffn_layer_stats old = s;
    memset(&old, 0x5A, sizeof old);
    old.struct_size = offsetof(sffn_layer_stats, calls_onednn);
    CHECK_OK(ctx, sffn_context_get_layer_stats(ctx, ffn, &old));
    CHECK(old.calls_sparse == 3 && old.calls_dense == 1 && old.calls_onednn == 0x5A5A5A5A5A5A5A5Au);
    old.struct_size = 3;
    CHECK_ERROR(ctx, sffn_context_get_layer_stats(ctx, ffn, &old), SFFN_ERR_INVALID_ARGUMENT,
                "sffn_layer_stats.struct_size 3");
    /* stages alone are no calls, nor are calls that fail or have nothing to do */
    float h[10], x = 1;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    CHECK_OK(ctx, sffn_ffn_gate(ctx, ffn, &x, 1, NULL, h, NULL));
    CHECK_OK(ctx, sffn_ffn_up(ctx, ffn, &x, h, 1, NULL, h));
    CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
    args.n_tokens = 1;
    CHECK_FAILS(ctx, sffn_ffn_forward(ctx, ffn, &args), "x");
    CHECK(stats_of(ctx, ffn).n_tokens == 4);
    CHECK_OK(ctx, sffn_context_reset_stats(ctx));
    s = stats_of(ctx, ffn);
    const sffn_layer_stats zero = SFFN_LAYER_STATS_INIT;
    CHECK(memcmp(&s, &zero, sizeof s) == 0);
    run_toy(ctx, ffn, 1, SFFN_SELECT_GATE, NULL);
    CHECK(stats_of(ctx, ffn).n_active == 3);
    sffn_active_set_destroy(set);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
}

/* The line that the log gets when a layer is made. */
static char layer_line[256];

static void keep_line(void *user, int32_t level, const char *text)
{
    (void)user;
    if (level == SFFN_LOG_INFO && strstr(text, ", selection "))
        snprintf(layer_line, sizeof layer_line, "%s", strstr(text, ", selection ") + 2);
}

/* Why a layer or a call runs dense: before any call, per call, in sums, and in the log. */
static void why_dense(void **state)
{
    (void)state;
    enum { T = 3 };
    static const struct {
        const char *what, *line;
        int32_t activation, plan, has_router, rule;
        uint32_t dense_tokens;
        int32_t select, reason;     /* of one token */
        uint32_t from;              /* what info says */
        int32_t select_3, reason_3; /* of T tokens */
    } layers[] = {
        {"default", "selection gate, dense from 3 tokens on", SFFN_ACT_RELU, SFFN_SELECT_DEFAULT, 0,
         0, T, SFFN_SELECT_GATE, SFFN_DENSE_NOT, T, SFFN_SELECT_DENSE, SFFN_DENSE_MANY_TOKENS},
        {"no number", "selection gate", SFFN_ACT_RELU, SFFN_SELECT_DEFAULT, 0, 0,
         SFFN_DENSE_TOKENS_AUTO, SFFN_SELECT_GATE, SFFN_DENSE_NOT, 0, SFFN_SELECT_GATE,
         SFFN_DENSE_NOT},
        {"never", "selection gate", SFFN_ACT_RELU, SFFN_SELECT_DEFAULT, 0, 0, 0, SFFN_SELECT_GATE,
         SFFN_DENSE_NOT, 0, SFFN_SELECT_GATE, SFFN_DENSE_NOT},
        {"always", "selection none: dense, because dense_tokens is 1", SFFN_ACT_RELU,
         SFFN_SELECT_GATE, 0, 0, 1, SFFN_SELECT_DENSE, SFFN_DENSE_MANY_TOKENS, 1, SFFN_SELECT_DENSE,
         SFFN_DENSE_MANY_TOKENS},
        {"silu", "selection none: dense, because silu has no zeros and no rule is set",
         SFFN_ACT_SILU, SFFN_SELECT_DEFAULT, 0, 0, T, SFFN_SELECT_DENSE, SFFN_DENSE_NO_ZEROS, 1,
         SFFN_SELECT_DENSE, SFFN_DENSE_NO_ZEROS},
        {"silu with a rule", "selection gate, dense from 3 tokens on", SFFN_ACT_SILU,
         SFFN_SELECT_DEFAULT, 0, SFFN_RULE_ABS_SCORE, T, SFFN_SELECT_GATE, SFFN_DENSE_NOT, T,
         SFFN_SELECT_DENSE, SFFN_DENSE_MANY_TOKENS},
        {"plan", "selection none: dense by plan", SFFN_ACT_RELU, SFFN_SELECT_DENSE, 1, 0, T,
         SFFN_SELECT_DENSE, SFFN_DENSE_PLAN, 1, SFFN_SELECT_DENSE, SFFN_DENSE_PLAN},
        {"router", "selection router", SFFN_ACT_SILU, SFFN_SELECT_DEFAULT, 1, 0, T,
         SFFN_SELECT_ROUTER, SFFN_DENSE_NOT, 0, SFFN_SELECT_ROUTER, SFFN_DENSE_NOT},
    };
    static const float ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, x[T] = {1, 1, 1};
    sffn_context_config context_config = SFFN_CONTEXT_CONFIG_INIT;
    context_config.collect_stats = 1;
    context_config.log = keep_line;
    sffn_context *ctx = NULL;
    CHECK_OK(NULL, sffn_context_create(&context_config, &ctx));
    sffn_router *router = NULL;
    sffn_router_config router_config = SFFN_ROUTER_CONFIG_INIT;
    router_config.d_model = 1;
    router_config.n_experts = 2;
    router_config.block_size = 5;
    router_config.weights.data = ones;
    CHECK_OK(ctx, sffn_router_create(ctx, &router_config, &router));
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
        config.d_model = 1;
        config.d_ff = 10;
        config.gate.data = signs;
        config.up.data = config.down.data = ones;
        config.activation = layers[i].activation;
        config.select = layers[i].plan;
        config.rule = layers[i].rule;
        config.router = layers[i].has_router ? router : NULL;
        config.dense_tokens = layers[i].dense_tokens;
        config.max_density = 0.5f;
        sffn_ffn *ffn = NULL;
        CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
        CHECK_TEXT(layer_line, layers[i].line);
        sffn_ffn_info info = SFFN_FFN_INFO_INIT;
        CHECK_OK(ctx, sffn_ffn_get_info(ffn, &info));
        CHECK_SAYS(info.select == layers[i].select && info.dense_reason == layers[i].reason &&
                       info.dense_tokens == layers[i].from && info.max_density == 0.5f,
                   "%s: select %d, reason %d, from %u tokens", layers[i].what, (int)info.select,
                   (int)info.dense_reason, (unsigned)info.dense_tokens);
        uint64_t counts[SFFN_DENSE_MANY_TOKENS + 1] = {0};
        float y[T];
        for (size_t n = 1; n <= T; n += T - 1)
            for (int32_t asked = 0; asked < 2; asked++) {
                sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
                sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
                args.x = x;
                args.y = y;
                args.n_tokens = n;
                args.select = asked ? SFFN_SELECT_DENSE : SFFN_SELECT_DEFAULT;
                args.stats = &stats;
                CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
                const int32_t reason = asked    ? SFFN_DENSE_ASKED
                                       : n == 1 ? layers[i].reason
                                                : layers[i].reason_3;
                const int32_t select = asked    ? SFFN_SELECT_DENSE
                                       : n == 1 ? layers[i].select
                                                : layers[i].select_3;
                CHECK_SAYS(stats.dense_reason == reason && stats.select == select &&
                               (stats.path == SFFN_PATH_SPARSE) == (reason == SFFN_DENSE_NOT),
                           "%s, %zu tokens: select %d, reason %d", layers[i].what, n,
                           (int)stats.select, (int)stats.dense_reason);
                CHECK(stats.n_widened == 0);
                counts[reason]++;
            }
        const sffn_layer_stats s = stats_of(ctx, ffn);
        CHECK_SAYS(s.dense_asked == counts[SFFN_DENSE_ASKED] &&
                       s.dense_plan == counts[SFFN_DENSE_PLAN] &&
                       s.dense_no_zeros == counts[SFFN_DENSE_NO_ZEROS] &&
                       s.dense_many_tokens == counts[SFFN_DENSE_MANY_TOKENS] &&
                       s.calls_dense ==
                           s.dense_asked + s.dense_plan + s.dense_no_zeros + s.dense_many_tokens,
                   "%s: counts by reason", layers[i].what);
        /* six of ten neurons are more than max_density: the gate looks at all */
        const uint8_t masks[2 * 10] = {0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1};
        sffn_active_set *sets[3] = {make_set(ctx, masks, 1, 10, 1),
                                    make_set(ctx, masks + 10, 1, 10, 1),
                                    make_set(ctx, masks, 2, 10, 1)};
        static const uint64_t widened[3] = {1, 0, 2};
        for (int k = 0; k < 3; k++) {
            sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            args.x = x;
            args.y = y;
            args.n_tokens = k == 2 ? 2 : 1;
            args.active = sets[k];
            args.stats = &stats;
            CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
            CHECK_SAYS(stats.n_widened == widened[k] && stats.select == SFFN_SELECT_ACTIVE &&
                           stats.n_selected == (widened[k] ? 10 * args.n_tokens : 4),
                       "set %d: %zu widened, %zu selected", k, (size_t)stats.n_widened,
                       (size_t)stats.n_selected);
            sffn_active_set_destroy(sets[k]);
        }
        CHECK(stats_of(ctx, ffn).n_widened == 3);
        sffn_ffn_destroy(ffn);
    }
    CHECK_TEXT(sffn_dense_reason_name(SFFN_DENSE_NOT), "not");
    CHECK_TEXT(sffn_dense_reason_name(SFFN_DENSE_NO_ZEROS), "no_zeros");
    CHECK_TEXT(sffn_dense_reason_name(SFFN_DENSE_MANY_TOKENS), "many_tokens");
    CHECK_TEXT(sffn_dense_reason_name(-1), "unknown");
    CHECK_TEXT(sffn_dense_reason_name(SFFN_DENSE_MANY_TOKENS + 1), "unknown");
    sffn_router_destroy(router);
    sffn_context_destroy(ctx);
}

/* A selection that is wrong in a known way: {1,4,5,9} where {1,4,7} are active. */
static void sampled_recall(void **state)
{
    (void)state;
    sffn_context *ctx = make_collecting(2, 3);
    sffn_ffn *ffn = make_toy(ctx, "blk.0", 10, signs);
    const uint8_t mask[10] = {0, 1, 0, 0, 1, 1, 0, 0, 0, 1};
    sffn_active_set *set = make_set(ctx, mask, 1, 10, 1);
    for (int i = 0; i < 7; i++) { /* tokens 2 and 5 are checked; gate-first calls are not counted */
        run_toy(ctx, ffn, 1, SFFN_SELECT_ACTIVE, set);
        run_toy(ctx, ffn, 1, SFFN_SELECT_GATE, NULL);
        run_toy(ctx, ffn, 1, SFFN_SELECT_DENSE, NULL);
    }
    sffn_layer_stats s = stats_of(ctx, ffn);
    CHECK(s.sampled_tokens == 2 && s.sampled_true == 6 && s.sampled_selected == 8 &&
          s.sampled_hits == 4);
    CHECK_WITHIN(s.recall, 2.0 / 3.0, 1e-15, "recall");
    CHECK(s.precision == 0.5);
    CHECK(s.n_tokens == 21 && s.n_selected == 7 * (4 + 10 + 10));
    CHECK(s.check_ns <= s.total_ns);
    /* nothing is active: recall of nothing is 1 */
    CHECK_OK(ctx, sffn_context_reset_stats(ctx));
    for (int i = 0; i < 3; i++)
        run_toy(ctx, ffn, 0, SFFN_SELECT_ACTIVE, set);
    s = stats_of(ctx, ffn);
    CHECK(s.sampled_tokens == 1 && s.sampled_true == 0 && s.recall == 1 && s.precision == 0);
    sffn_active_set_destroy(set);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
}

/* A larger layer, several tokens a tile, every way to lend threads: the same y with and without statistics, and the same samples as counted
 * here from the sets. */
static void samples_whatever_the_threads(void **state)
{
    (void)state;
    enum { D = 64, F = 700, TOKENS = 21, EVERY = 4 };
    struct rng rng = rng_named("samples");
    for (int32_t type = SFFN_F32; type < SFFN_DTYPE_COUNT_; type += 3) {
        struct spec spec = SPEC_INIT(D, F, type);
        spec.has_bias = 1;
        struct layer layer;
        layer_make(&layer, &spec, &rng);
        sffn_context *plain = make_context(1, NULL);
        sffn_ffn *ffn = layer_create(plain, &layer);
        float *x = draw_x(&layer.memory, &rng, TOKENS, D, 0);
        uint8_t *mask = draw_mask(&layer.memory, &rng, TOKENS, F, 0.5);
        sffn_active_set *set = make_set(plain, mask, TOKENS, F, 1);
        struct result all, want;
        sffn_ffn_args args = result_args(&all, &layer.memory, plain, &layer, x, TOKENS);
        args.select = SFFN_SELECT_GATE;
        CHECK_OK(plain, sffn_ffn_forward(plain, ffn, &args));
        args = result_args(&want, &layer.memory, plain, &layer, x, TOKENS);
        args.active = set;
        CHECK_OK(plain, sffn_ffn_forward(plain, ffn, &args));
        uint64_t n_true = 0, n_selected = 0, n_hits = 0;
        for (size_t t = EVERY - 1; t < TOKENS; t += EVERY)
            for (uint32_t i = 0; i < F; i++) {
                const int is_true = sffn_active_set_contains(all.active, t, i);
                n_true += (uint64_t)is_true;
                n_selected += mask[t * F + i];
                n_hits += (uint64_t)(is_true && mask[t * F + i]);
            }
        for (uint32_t n = 1; n <= 9; n++) {
            sffn_context *ctx = make_collecting(n, EVERY);
            const enum threading kind = n % 3 == 0   ? THREADING_POOL
                                        : n % 3 == 1 ? THREADING_SPMD
                                                     : THREADING_PHASES_SHUFFLED;
            CHECK_OK(ctx, sffn_ffn_reserve_threads(ctx, ffn, n));
            struct result got;
            args = result_args(&got, &layer.memory, plain, &layer, x, TOKENS);
            args.active = set;
            CHECK_OK(ctx, threading_forward(kind, n, &rng, ctx, ffn, &args));
            CHECK_BITS(got.y, want.y, TOKENS * D, "y with statistics, %u threads", (unsigned)n);
            CHECK_BITS(got.h, want.h, TOKENS * F, "h with statistics, %u threads", (unsigned)n);
            const sffn_layer_stats s = stats_of(ctx, ffn);
            CHECK_SAYS(s.sampled_tokens == TOKENS / EVERY && s.sampled_true == n_true &&
                           s.sampled_selected == n_selected && s.sampled_hits == n_hits,
                       "%u threads: %zu of %zu true, %zu selected, %zu hits", (unsigned)n,
                       (size_t)s.sampled_true, (size_t)n_true, (size_t)s.sampled_selected,
                       (size_t)s.sampled_hits);
            CHECK(s.n_active == want.stats.n_active && s.n_selected == want.stats.n_selected &&
                  s.touched_bytes == want.stats.touched_bytes && s.calls_sparse == 1);
            result_free(&got);
            sffn_context_destroy(ctx);
        }
        result_free(&all);
        result_free(&want);
        sffn_active_set_destroy(set);
        sffn_ffn_destroy(ffn);
        sffn_context_destroy(plain);
        layer_free(&layer);
    }
}

static void errors(void **state)
{
    (void)state;
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.stats_recall_every = 5;
    sffn_context *ctx = NULL;
    CHECK_ERROR(NULL, sffn_context_create(&config, &ctx), SFFN_ERR_INVALID_ARGUMENT,
                "stats_recall_every 5 collect_stats 0");
    sffn_context *off = make_context(1, NULL);
    ctx = make_collecting(1, 0);
    sffn_ffn *ffn = make_toy(off, NULL, 10, signs);
    sffn_layer_stats s = SFFN_LAYER_STATS_INIT;
    char text[64] = "x";
    size_t needed = 0;
    CHECK_ERROR(off, sffn_context_get_layer_stats(off, ffn, &s), SFFN_ERR_UNSUPPORTED,
                "collect_stats");
    CHECK_ERROR(off, sffn_context_reset_stats(off), SFFN_ERR_UNSUPPORTED, "collect_stats");
    CHECK_ERROR(off, sffn_context_write_stats(off, SFFN_STATS_JSON, NULL, 0, &needed),
                SFFN_ERR_UNSUPPORTED, "collect_stats");
    CHECK_ERROR(ctx, sffn_context_get_layer_stats(ctx, ffn, &s), SFFN_ERR_NOT_FOUND,
                "ffn sffn_ffn_reserve");
    CHECK_ERROR(ctx, sffn_context_get_layer_stats(ctx, NULL, &s), SFFN_ERR_INVALID_ARGUMENT,
                "ffn NULL");
    CHECK_OK(ctx, sffn_ffn_reserve(ctx, ffn));
    CHECK_ERROR(ctx, sffn_context_get_layer_stats(ctx, ffn, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "sffn_layer_stats NULL");
    CHECK_ERROR(ctx, sffn_context_write_stats(ctx, 2, text, sizeof text, &needed),
                SFFN_ERR_INVALID_ARGUMENT, "format 2");
    CHECK_ERROR(ctx, sffn_context_write_stats(ctx, SFFN_STATS_JSON, NULL, 5, &needed),
                SFFN_ERR_INVALID_ARGUMENT, "buffer NULL 5");
    CHECK(text[0] == 'x');
    CHECK_ERROR(ctx, sffn_context_write_stats(ctx, SFFN_STATS_JSON, text, sizeof text, &needed),
                SFFN_ERR_SHAPE, "bytes 64");
    CHECK(text[0] == 0 && needed > sizeof text);
    CHECK(sffn_context_get_layer_stats(NULL, ffn, &s) == SFFN_ERR_INVALID_ARGUMENT &&
          sffn_context_reset_stats(NULL) == SFFN_ERR_INVALID_ARGUMENT &&
          sffn_context_write_stats(NULL, 0, NULL, 0, NULL) == SFFN_ERR_INVALID_ARGUMENT);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    sffn_context_destroy(off);
}

/* The text, in memory of its own size. */
static char *text_of(const sffn_context *ctx, int32_t format)
{
    size_t needed = 0, again = 0;
    CHECK_OK(ctx, sffn_context_write_stats(ctx, format, NULL, 0, &needed));
    char *text = malloc(needed);
    CHECK(text != NULL);
    CHECK_OK(ctx, sffn_context_write_stats(ctx, format, text, needed, &again));
    CHECK(again == needed && strlen(text) == needed - 1);
    CHECK_ERROR(ctx, sffn_context_write_stats(ctx, format, text + needed, 0, NULL), SFFN_ERR_SHAPE,
                "bytes 0");
    char *small = malloc(needed - 1);
    CHECK(small != NULL);
    CHECK_ERROR(ctx, sffn_context_write_stats(ctx, format, small, needed - 1, &again),
                SFFN_ERR_SHAPE, NULL);
    CHECK(small[0] == 0 && again == needed);
    free(small);
    return text;
}

static size_t count_of(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at++)
        n++;
    return n;
}

static void rows_come_and_go(void **state)
{
    (void)state;
    enum { N = 200 };
    sffn_context *ctx = make_collecting(1, 0), *other = make_collecting(1, 0);
    static sffn_ffn *layers[N];
    char name[32];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%d", i);
        layers[i] = make_toy(ctx, name, 10, signs);
    }
    for (int i = 0; i < N; i++)
        for (int k = 0; k <= i % 3; k++)
            run_toy(ctx, layers[i], 1, SFFN_SELECT_GATE, NULL);
    for (int i = 0; i < N; i++)
        CHECK(stats_of(ctx, layers[i]).calls_sparse == (uint64_t)(i % 3 + 1));
    char *text = text_of(ctx, SFFN_STATS_JSON);
    CHECK(count_of(text, "\"name\"") == N && count_of(text, "\"blk.199\"") == 1);
    free(text);
    /* a second context has rows of its own, for the layers that it reserved; others are counted in one number */
    CHECK_OK(other, sffn_ffn_reserve(other, layers[7]));
    run_toy(other, layers[7], 1, SFFN_SELECT_GATE, NULL);
    run_toy(other, layers[8], 1, SFFN_SELECT_GATE, NULL);
    CHECK(stats_of(other, layers[7]).calls_sparse == 1 &&
          stats_of(ctx, layers[7]).calls_sparse == 2);
    text = text_of(other, SFFN_STATS_JSON);
    CHECK(count_of(text, "\"name\"") == 1 && count_of(text, "\"unregistered_calls\":1,") == 1);
    free(text);
    /* a layer's end is its row's, and a new layer starts from 0 whatever its address */
    for (int i = 0; i < N; i += 2)
        sffn_ffn_destroy(layers[i]);
    text = text_of(ctx, SFFN_STATS_PROMETHEUS);
    CHECK(count_of(text, "sffn_layer_tokens_total{layer=") == N / 2 &&
          count_of(text, "sffn_layer_tokens_total{layer=\"blk.7\"} 2\n") == 1);
    free(text);
    for (int i = 0; i < N; i += 2) {
        layers[i] = make_toy(ctx, "blk.7", 10, signs); /* a name that another one has */
        CHECK(stats_of(ctx, layers[i]).calls_sparse == 0);
    }
    text = text_of(ctx, SFFN_STATS_PROMETHEUS);
    CHECK(count_of(text, "sffn_layer_tokens_total{layer=") == N &&
          count_of(text, "sffn_layer_tokens_total{layer=\"blk.7#2\"} 0\n") == 1 &&
          count_of(text, "sffn_layer_tokens_total{layer=\"blk.7#101\"} 0\n") == 1);
    free(text);
    for (int i = 0; i < N; i++)
        sffn_ffn_destroy(layers[i]);
    text = text_of(other, SFFN_STATS_JSON); /* a row that outlives its layer */
    CHECK(count_of(text, "\"name\":\"blk.7\"") == 1);
    free(text);
    sffn_context_destroy(other);
    sffn_context_destroy(ctx);
}

static void names_are_escaped(void **state)
{
    (void)state;
    sffn_context *ctx = make_collecting(1, 0);
    sffn_ffn *layers[] = {make_toy(ctx, "a\"b\\c\nd\te", 10, signs),
                          make_toy(ctx, "caf\xc3\xa9 \xe2\x82\xac", 10, signs),
                          make_toy(ctx, "bad \xff\xc3 \xed\xa0\x80", 10, signs)};
    char *text = text_of(ctx, SFFN_STATS_JSON);
    CHECK(count_of(text, "\"a\\\"b\\\\c\\nd\\u0009e\"") == 1);
    CHECK(count_of(text, "\"caf\xc3\xa9 \xe2\x82\xac\"") == 1);
    CHECK(count_of(text, "\"bad ?? ???\"") == 1);
    free(text);
    text = text_of(ctx, SFFN_STATS_PROMETHEUS);
    CHECK(count_of(text, "sffn_layer_tokens_total{layer=\"a\\\"b\\\\c\\nd\te\"} 0\n") == 1);
    free(text);
    for (size_t i = 0; i < 3; i++)
        sffn_ffn_destroy(layers[i]);
    sffn_context_destroy(ctx);
}

static void forward_does_not_allocate(void **state)
{
    (void)state;
    struct test_allocator allocator = TEST_ALLOCATOR_INIT;
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.allocator = allocator_of(&allocator);
    config.collect_stats = 1;
    config.stats_recall_every = 1;
    sffn_context *ctx = NULL;
    CHECK_OK(NULL, sffn_context_create(&config, &ctx));
    sffn_ffn *ffn = make_toy(ctx, "blk.0", 10, signs);
    const uint8_t mask[10] = {0, 1, 0, 0, 1, 1, 0, 0, 0, 1};
    sffn_active_set *set = make_set(ctx, mask, 1, 10, 1);
    const size_t calls = allocator.n_calls;
    run_toy(ctx, ffn, 1, SFFN_SELECT_ACTIVE, set);
    char text[8192];
    CHECK_OK(ctx, sffn_context_write_stats(ctx, SFFN_STATS_PROMETHEUS, text, sizeof text, NULL));
    CHECK(allocator.n_calls == calls && stats_of(ctx, ffn).sampled_tokens == 1);
    /* no memory for a row: creation says so and leaves nothing */
    const size_t live = allocator.live_blocks;
    for (size_t at = 0;; at++) {
        sffn_ffn_config layer = SFFN_FFN_CONFIG_INIT;
        layer.d_model = 1;
        layer.d_ff = 10;
        layer.up.data = layer.down.data = signs;
        allocator.fail_at = allocator.n_calls + at;
        allocator.n_failed = 0;
        sffn_ffn *more = NULL;
        const sffn_status status = sffn_ffn_create(ctx, &layer, &more);
        if (allocator.n_failed == 0) {
            CHECK(status == SFFN_OK);
            sffn_ffn_destroy(more);
            break;
        }
        CHECK(status == SFFN_ERR_OUT_OF_MEMORY && allocator.live_blocks == live);
    }
    sffn_active_set_destroy(set);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    CHECK(allocator.live_blocks == 0 && allocator.n_wrong == 0);
}

/* ---- a reader while calls run ---- */

struct pair {
    sffn_context *ctx;
    const sffn_ffn *ffn;
    int n_failed;
};

static void read_or_run(void *arg, uint32_t i)
{
    struct pair *pair = arg;
    static char text[16384];
    for (int round = 0; round < 300; round++) {
        if (i == 1) {
            sffn_layer_stats s = SFFN_LAYER_STATS_INIT;
            pair->n_failed +=
                sffn_context_get_layer_stats(pair->ctx, pair->ffn, &s) != SFFN_OK ||
                sffn_context_write_stats(pair->ctx, round & 1, text, sizeof text, NULL) != SFFN_OK;
        } else {
            float x = 1, y = 0;
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            args.x = &x;
            args.y = &y;
            args.n_tokens = 1;
            (void)!sffn_ffn_forward(pair->ctx, pair->ffn, &args);
        }
    }
}

static void read_while_running(void **state)
{
    (void)state;
    struct pair pair = {make_collecting(1, 0), NULL, 0};
    sffn_ffn *ffn = make_toy(pair.ctx, "blk.0", 10, signs);
    pair.ffn = ffn;
    CHECK(run_threads(2, read_or_run, &pair));
    CHECK(pair.n_failed == 0 && stats_of(pair.ctx, ffn).calls_sparse == 300);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(pair.ctx);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, exact_counts);
    CASE(&cases, why_dense);
    CASE(&cases, sampled_recall);
    CASE(&cases, samples_whatever_the_threads);
    CASE(&cases, errors);
    CASE(&cases, rows_come_and_go);
    CASE(&cases, names_are_escaped);
    CASE(&cases, forward_does_not_allocate);
    CASE(&cases, read_while_running);
    return cases_run(&cases, "stats");
}
