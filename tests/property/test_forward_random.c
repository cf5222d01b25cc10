/* Random layers of every weight type, activation, rule, tie, gated and ungated, with and without
 * biases, in odd shapes, layouts and alignments, on every ISA of this machine: gate-first, dense
 * and handed-in selections against float64 with derived bounds (support/layer.c writes them down).
 * Everything lies before an inaccessible page. */
#include <stdio.h>

#include "check.h"
#include "layer.h"

enum { MIXED = SFFN_DTYPE_COUNT_, MAX_ISAS = 16 };

/* What a case fixes; the rest is drawn. */
struct combination {
    int32_t type; /* MIXED: gate, up and down have types of their own */
    int32_t activation, rule, rule_tie;
    int has_thresholds, is_gated, has_bias;
    int is_large; /* thousands of neurons: chunks, column slices, accumulators that are emptied */
};

static sffn_context *contexts[MAX_ISAS];
static const char *isas[MAX_ISAS];
static size_t n_isas;

static const char *type_name(int32_t type)
{
    return type == MIXED ? "mixed" : sffn_dtype_name(type);
}

static void describe(const struct combination *c, char *text, size_t size)
{
    static const char *const rules[] = {"none", "score", "abs_score", "abs_h"};
    snprintf(text, size, "%s%s %s %s%s%s%s%s", c->is_large ? "large " : "", type_name(c->type),
             sffn_activation_name(c->activation), rules[c->rule],
             c->rule == SFFN_RULE_NONE      ? ""
             : c->rule_tie == SFFN_TIE_KEEP ? ">=t"
                                            : ">t",
             c->has_thresholds ? "_i" : "", c->is_gated ? "" : " ungated",
             c->has_bias ? " bias" : "");
}

static struct spec draw_spec(const struct combination *c, struct rng *rng)
{
    static const uint32_t any_d[] = {1,  2,  3,  5,  7,  8,   13,  16, 17,
                                     31, 33, 40, 64, 65, 100, 129, 257};
    static const uint32_t block_d[] = {32, 64, 96, 128, 160, 288},
                          some_f[] = {1, 2, 7, 31, 32, 33, 64, 100};
    struct spec spec = SPEC_INIT(0, 0, c->type);
    if (c->type == MIXED) {
        spec.gate_type = (int32_t)rng_below(rng, SFFN_DTYPE_COUNT_);
        spec.up_type = (int32_t)rng_below(rng, SFFN_DTYPE_COUNT_);
        spec.down_type = (int32_t)rng_below(rng, SFFN_DTYPE_COUNT_);
    }
    spec.is_gated = c->is_gated;
    int has_blocks = (c->is_gated && is_quantised(spec.gate_type)) || is_quantised(spec.up_type) ||
                     is_quantised(spec.down_type);
    if (!has_blocks && rng_below(rng, 4) == 0) { /* converted when packed */
        spec.packed_type = (int32_t)rng_below(rng, SFFN_DTYPE_COUNT_);
        has_blocks = is_quantised(spec.packed_type);
    }
    spec.d_model = has_blocks ? rng_pick(rng, block_d) : rng_pick(rng, any_d);
    spec.d_ff = rng_pick(rng, some_f);
    if (c->is_large) {
        spec.d_model = has_blocks ? 1056 : 1053;
        spec.d_ff = rng_below(rng, 2) ? 2432 : 2500;
    }
    if (rng_below(rng, 2) && (!is_quantised(spec.down_type) || spec.d_ff % BLOCK == 0))
        spec.down_layout = SFFN_LAYOUT_COLUMNS;
    if (spec.down_layout == SFFN_LAYOUT_COLUMNS && is_quantised(spec.down_type) &&
        rng_below(rng, 2))
        spec.block_size = BLOCK;
    if (spec.packed_type < 0 && rng_below(rng, 2))
        spec.storage = SFFN_STORAGE_BORROW;
    spec.has_bias = c->has_bias;
    spec.activation = c->activation;
    spec.act_tie = (int32_t)rng_below(rng, 2);
    spec.act_threshold = 0.3f;
    spec.rule = c->rule;
    spec.rule_tie = c->rule_tie;
    spec.rule_threshold = 0.2f;
    spec.has_thresholds = c->has_thresholds;
    spec.tail = rng_below(rng, 4);
    return spec;
}

static void forward(void **state)
{
    const struct combination *c = *state;
    char name[96], what[160];
    describe(c, name, sizeof name);
    struct rng rng = rng_named(name);
    struct spec spec = draw_spec(c, &rng);
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    static const size_t some_tokens[] = {1, 1, 2, 3, 5, 8, 9, 13};
    size_t n_tokens = c->is_large ? 1 + rng_below(&rng, 2) : rng_pick(&rng, some_tokens);
    float *x = draw_x(&layer.memory, &rng, n_tokens, spec.d_model, rng_below(&rng, 4));
    uint8_t *mask = draw_mask(&layer.memory, &rng, n_tokens, spec.d_ff, 0.5);
    uint32_t block_size = spec.d_ff % 32 == 0 && rng_below(&rng, 2) ? 32 : 1;
    for (size_t i = 0; i < n_tokens * spec.d_ff; i++)
        mask[i] = mask[i / block_size * block_size];
    sffn_active_set *set =
        make_set(contexts[0], mask, n_tokens, spec.d_ff / block_size, block_size);
    struct reference gate, dense, chosen;
    reference_make(&gate, &layer.memory, &layer, x, n_tokens, NULL, 0);
    reference_make(&dense, &layer.memory, &layer, x, n_tokens, NULL, 1);
    reference_make(&chosen, &layer.memory, &layer, x, n_tokens, mask, 0);
    const struct {
        const char *name;
        int32_t select;
        const sffn_active_set *active;
        const uint8_t *mask;
        const struct reference *ref;
    } ways[] = {
        {"default", SFFN_SELECT_DEFAULT, NULL, NULL, &gate},
        {"gate", SFFN_SELECT_GATE, NULL, NULL, &gate},
        {"dense", SFFN_SELECT_DENSE, NULL, NULL, &dense},
        {"active", SFFN_SELECT_ACTIVE, set, mask, &chosen},
        {"default active", SFFN_SELECT_DEFAULT, set, mask, &chosen},
    };
    sffn_ffn *ffn = layer_create(contexts[0], &layer);
    for (size_t i = 0; i < n_isas; i++) {
        CHECK_OK(contexts[i], sffn_ffn_reserve(contexts[i], ffn));
        for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
            struct result result;
            struct guarded memory = {0};
            snprintf(what, sizeof what, "%s %ux%ux%zu, %s, %s", name, (unsigned)spec.d_model,
                     (unsigned)spec.d_ff, n_tokens, isas[i], ways[w].name);
            sffn_ffn_args args = result_args(&result, &memory, contexts[0], &layer, x, n_tokens);
            args.select = ways[w].select;
            args.active = ways[w].active;
            CHECK_OK(contexts[i], sffn_ffn_forward(contexts[i], ffn, &args));
            /* the default runs dense when nothing can be skipped: no zeros and no rule */
            int is_dense = ways[w].select == SFFN_SELECT_DENSE ||
                           (ways[w].select == SFFN_SELECT_DEFAULT && !ways[w].mask &&
                            spec.rule == SFFN_RULE_NONE && c->activation >= SFFN_ACT_SILU &&
                            c->activation <= SFFN_ACT_GELU_TANH);
            CHECK_SAYS(result.stats.path == (is_dense ? SFFN_PATH_DENSE : SFFN_PATH_SPARSE),
                       "%s: path %d", what, (int)result.stats.path);
            result_check(&result, &layer, ways[w].ref, ways[w].mask, is_dense, what);
            result_free(&result);
            guarded_free(&memory);
        }
    }
    sffn_ffn_destroy(ffn);
    sffn_active_set_destroy(set);
    layer_free(&layer);
}

static void add_rules(struct cases *cases, struct combination c)
{
    for (c.rule = SFFN_RULE_NONE; c.rule <= SFFN_RULE_ABS_H; c.rule++)
        for (c.rule_tie = 0; c.rule_tie < (c.rule ? 2 : 1); c.rule_tie++)
            for (c.has_thresholds = 0; c.has_thresholds < (c.rule ? 2 : 1); c.has_thresholds++) {
                char name[96];
                describe(&c, name, sizeof name);
                cases_add(cases, forward, cases_keep(cases, &c, sizeof c), "%s", name);
            }
}

int main(void)
{
    struct cases cases = {0};
    n_isas = supported_isas(isas, MAX_ISAS);
    for (size_t i = 0; i < n_isas; i++) {
        sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
        config.max_isa = isas[i];
        config.n_threads = 1 + (uint32_t)i % 3;
        if (sffn_context_create(&config, &contexts[i]) != SFFN_OK)
            return 1;
    }
    struct combination c = {0};
    for (c.type = 0; c.type <= MIXED; c.type++)
        for (c.activation = SFFN_ACT_RELU; c.activation <= SFFN_ACT_SHIFTED_RELU; c.activation++)
            for (c.is_gated = c.activation == SFFN_ACT_DRELU; c.is_gated < 2; c.is_gated++)
                for (c.has_bias = 0; c.has_bias < 2; c.has_bias++)
                    add_rules(&cases, c);
    for (int32_t type = 0; type <= MIXED; type++)
        for (int has_rule = 0; has_rule < 2; has_rule++) {
            struct combination large = {.type = type,
                                        .activation = has_rule ? SFFN_ACT_SILU : SFFN_ACT_RELU,
                                        .is_gated = 1,
                                        .rule = has_rule ? SFFN_RULE_ABS_H : SFFN_RULE_NONE,
                                        .has_bias = 1,
                                        .is_large = 1};
            char name[96];
            describe(&large, name, sizeof name);
            cases_add(&cases, forward, cases_keep(&cases, &large, sizeof large), "%s", name);
        }
    int failed = cases_run(&cases, "forward_random");
    for (size_t i = 0; i < n_isas; i++)
        sffn_context_destroy(contexts[i]);
    return failed;
}
