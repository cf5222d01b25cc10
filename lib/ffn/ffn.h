/* ffn.h  One layer, and the plan of one call, as the files of this folder see them. */
#ifndef SFFN_LIB_FFN_H
#define SFFN_LIB_FFN_H
#include "active_set/value_rule.h"
#include "base/stats.h"
#include "matmul/rows.h"
#include "predictor/predictor.h"
#include "router/router.h"
#include "sparseffn/ffn.h"

struct sffn_ffn {
    sffn_context *ctx;
    char name[64];
    uint32_t d_model, d_ff;
    int is_gated;
    struct sffn_matmul gate; /* the matrix whose product decides; W_up when ungated */
    struct sffn_matmul up;   /* gated only */
    struct sffn_matmul down; /* neuron-major */
    uint8_t *arena;          /* packed gate, up and down, one after the other */
    size_t arena_bytes;
    float *gate_bias, *up_bias, *down_bias;
    int32_t activation, act_tie;
    float act_threshold;
    int32_t rule;
    /* the values that the rule looks at */
    enum sffn_rule_on { SFFN_ON_NOTHING, SFFN_ON_S, SFFN_ON_H } rule_on;
    sffn_value_rule value_rule;
    float *rule_thresholds; /* of value_rule */
    const struct sffn_predictor *predictor;
    const struct sffn_router *router;
    struct sffn_predictor *owned_predictor; /* those that were made for this layer alone, or NULL */
    struct sffn_router *owned_router;
    int32_t select; /* what SFFN_SELECT_DEFAULT means */
    float max_density;
    uint32_t dense_tokens;
    uint64_t weight_bytes;
    uint64_t layer_id;                /* no other layer has or had it */
    struct sffn_stats_row *stats_row; /* in the statistics of ctx, or NULL */
};

/* The layer's predictor or router; NULL: none. */
static inline const struct sffn_selector *sffn_ffn_selector(const struct sffn_ffn *ffn)
{
    return ffn->predictor ? &ffn->predictor->selector : ffn->router ? &ffn->router->selector : NULL;
}

/* ---- activation.c ---- */

/* s = act(g) in place of n values. dReLU's up half is applied in the up stage. The bits of each depend on nothing but it and k. */
void sffn_activate(const struct sffn_kernels *k, const struct sffn_ffn *ffn, float *g, size_t n);
/* One value, with the scalar kernel, which is faster there: for what is not compared with a call's bits. */
static inline float sffn_activate_one(const struct sffn_ffn *ffn, float g)
{
    sffn_activate(sffn_kernels_isa_table(0), ffn, &g, 1);
    return g;
}
/* h = s * u with u's bias; dReLU rectifies u too. NaN stays. */
static inline float sffn_make_h(const struct sffn_ffn *ffn, uint32_t neuron, float s, float u)
{
    if (ffn->up_bias)
        u += ffn->up_bias[neuron];
    if (ffn->activation == SFFN_ACT_DRELU && u <= 0)
        u = 0;
    return s * u;
}
/* Takes the rule apart: value_rule and rule_on. Checks it. */
sffn_status sffn_ffn_set_rule(const sffn_context *ctx, const sffn_ffn_config *config,
                              const char *name, struct sffn_ffn *ffn);
/* 1 when the rule looks at all neurons of a token before it decides: CUT and KEEP then follow the stage that makes its values. */
static inline int sffn_rule_decides_later(const struct sffn_ffn *ffn)
{
    return ffn->rule_on != SFFN_ON_NOTHING && sffn_value_rule_needs_all(&ffn->value_rule);
}
/* 1 when the rule looks at one value at a time and drops this one. NaN passes, so that it is seen. */
int sffn_rule_drops(const struct sffn_ffn *ffn, uint32_t neuron, float v);
/* 1 when s is zero or the rule drops the neuron, as far as s alone decides. */
static inline int sffn_gate_drops(const struct sffn_ffn *ffn, uint32_t neuron, float s)
{
    return s == 0 || (ffn->rule_on == SFFN_ON_S && sffn_rule_drops(ffn, neuron, s));
}
/* The same for h, after the up product. */
static inline int sffn_h_drops(const struct sffn_ffn *ffn, uint32_t neuron, float h)
{
    return h == 0 || (ffn->rule_on == SFFN_ON_H && sffn_rule_drops(ffn, neuron, h));
}
/* A test of s, as far as s alone decides: the neuron is dropped if s < t, or |s| < t with use_abs, or <= unless keep_equal. NaN passes. is_gate: the same
 * of the gate product, bias included, which is s where it passes. */
struct sffn_score_floor {
    float t;
    int keep_equal, use_abs, is_gate;
};
/* 0: the layer has no such test. */
int sffn_score_floor(const struct sffn_ffn *ffn, struct sffn_score_floor *f);
/* 1 when some neurons can be skipped on the strength of the gate product. */
int sffn_gate_can_skip(const struct sffn_ffn *ffn);

/* ---- the plan of one call: a pure function of its arguments, made anew by every thread in every phase ---- */

enum sffn_stage {
    SFFN_STAGE_CLEAR, /* zero the optional full-width outputs */
    /* predictor, router or the caller's set -> selected; once per step of the selector */
    SFFN_STAGE_SELECT,
    SFFN_STAGE_GATE,    /* selected -> active, with s */
    SFFN_STAGE_GATE_UP, /* GATE and UP with nothing between them: selected -> active -> nonzero */
    SFFN_STAGE_IMPORT,  /* the caller's set and s -> active */
    SFFN_STAGE_UP,      /* active -> nonzero, with h */
    SFFN_STAGE_CUT,     /* all s or all h of each token -> where the rule cuts them */
    SFFN_STAGE_KEEP,    /* drops what the rule cuts off from active or nonzero */
    SFFN_STAGE_EXPORT,  /* active -> the caller's set */
    SFFN_STAGE_DENSE_H, /* everything -> h */
    SFFN_STAGE_DOWN,    /* nonzero -> partial sums */
    SFFN_STAGE_REDUCE   /* partial sums -> y */
};
#define SFFN_MAX_STAGES (7 + SFFN_SELECT_MAX_STEPS)

struct sffn_counters { /* of one thread, one cache line apart */
    uint64_t selected, selected_rows, active, active_rows, nonzero, nonzero_rows, selector_bytes,
        widened;
    uint64_t stage_ns[SFFN_STAGE_REDUCE + 1], mark_ns;
    /* what this one's GATE_UP took without waiting, and UP of it */
    uint64_t gate_up_ns, up_of_it_ns;
    uint64_t check_ns, sampled_tokens, sampled_true, sampled_selected, sampled_hits;
};

/* Scratch of one call, laid out for nth threads. */
struct sffn_workspace {
    struct sffn_turn *turns; /* [2][nth], of even and odd phases */
    /* of each thread's share; active and nonzero have a segment for each */
    uint32_t n_pieces;
    struct sffn_counters *counters; /* [nth] */
    uint8_t *x;                     /* [nth][x_bytes]: quantised x */
    struct sffn_select_scratch select;
    float *values; /* [nth][SFFN_CHUNK_VALUES]: products on their way to a list */
    struct sffn_list selected, active, nonzero;
    /* For rules that look at all neurons of a token: */
    /* [SFFN_TILE_TOKENS][d_ff]: |s| or |h|, 0 where there is none */
    float *rule_values;
    struct sffn_cut *cuts; /* [SFFN_TILE_TOKENS][n_cuts] */
    uint32_t *cut_scratch; /* [nth][cut_scratch_words]: counts and keys of sffn_top_k() */
    struct sffn_axpy_scratch axpy;
    size_t x_bytes, n_cuts, cut_scratch_words;
};
/* products made before they are decided: so many rows for one token, fewer for more. Every chunk
 * begins without rows fetched ahead */
#define SFFN_CHUNK_VALUES 8192

/* What a call wants besides the public arguments: stages run alone. */
struct sffn_call {
    const struct sffn_ffn *ffn;
    sffn_ffn_args args;   /* with every default filled in */
    int32_t select;       /* resolved: enum sffn_select without DEFAULT */
    int32_t dense_reason; /* enum sffn_dense_reason */
    int is_dense;
    const float *s_in; /* IMPORT */
    float *s_out;      /* GATE: [n_tokens][d_ff] */
    enum sffn_stage stages[SFFN_MAX_STAGES];
    uint32_t n_stages;     /* per tile */
    uint32_t select_stage; /* where the SELECT stages begin */
    uint32_t n_tiles;
    /* of the context when it collects and the call is a whole layer's, else NULL */
    struct sffn_stats *stats;
    struct sffn_stats_row *stats_row; /* the layer's, or NULL */
    uint32_t recall_every;            /* check every n-th token's selection; 0: none */
};

/* 1 when somebody chose the neurons that the gate looks at. */
static inline int sffn_call_selects(const struct sffn_call *call)
{
    return call->select == SFFN_SELECT_PREDICTOR || call->select == SFFN_SELECT_ROUTER ||
           call->select == SFFN_SELECT_ACTIVE;
}

/* Who decides in a call of n_tokens that says DEFAULT and hands in no set, and why when that is nobody. */
int32_t sffn_default_select(const struct sffn_ffn *ffn, size_t n_tokens, int32_t *dense_reason);
/* Checks the arguments and decides the stages of a whole layer. */
sffn_status sffn_call_plan(const sffn_context *ctx, const struct sffn_ffn *ffn,
                           const sffn_ffn_args *args, struct sffn_call *call);
/* Makes one stage of GATE and UP where nothing lies between them: a neuron's h needs no other one's s. For calls whose threads take each other's
 * pieces from the first phase on (sffn_call_begin()): where they can't, only dealing out `active` anew makes the up product even. */
void sffn_call_join_stages(struct sffn_call *call);
/* Appends what a rule that looks at all neurons needs, if the layer has one; returns how many stages there are now. */
uint32_t sffn_plan_rule(const struct sffn_ffn *ffn, enum sffn_stage *stages, uint32_t n);
/* Before the first phase, by one thread, when may_take is wanted there. */
void sffn_call_begin(const struct sffn_call *call, void *scratch, uint32_t nth);
/* The whole pipeline: forward.c. `scratch` holds sffn_workspace_layout() bytes. may_take: sffn_call_begin() was called. */
void sffn_call_run_phase(const struct sffn_kernels *k, const struct sffn_call *call, void *scratch,
                         int may_take, uint32_t phase, uint32_t ith, uint32_t nth,
                         int collects_stats);
/* Runs all phases on the context's threads. */
sffn_status sffn_call_run(sffn_context *ctx, const struct sffn_call *call);
/* Bytes of scratch; with base, also fills *w. */
size_t sffn_workspace_layout(const struct sffn_ffn *ffn, uint32_t nth, struct sffn_workspace *w,
                             void *base);

/* ---- stats.c ---- */

uint64_t sffn_new_layer_id(void);
/* The layer's row in the statistics of a context that collects; NULL: not registered. */
struct sffn_stats_row *sffn_ffn_stats_row(const sffn_context *ctx, const struct sffn_ffn *ffn);
/* Adds a finished call to the layer's row. sum: checks of all threads; NULL: none. */
void sffn_call_count(const struct sffn_call *call, const sffn_ffn_stats *s,
                     const struct sffn_counters *sum);

/* ---- dense.c ---- */

/* Long prompts through oneDNN, when the context uses it: neurons are decoded a block at a time, and two matrix products per block serve up
 * to SFFN_DENSE_TOKENS tokens. Writes y and args.h, and tells so in the stats. 0: not possible here, use the stages. */
int sffn_dense_onednn_forward(sffn_context *ctx, const struct sffn_call *call, void *scratch,
                              size_t scratch_bytes);
/* Scratch that it wants; 0 without oneDNN. */
size_t sffn_dense_onednn_scratch_bytes(const sffn_context *ctx, const struct sffn_ffn *ffn);
#define SFFN_DENSE_TOKENS  512
#define SFFN_DENSE_NEURONS 256

#endif /* SFFN_LIB_FFN_H */
