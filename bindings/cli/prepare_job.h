/* prepare_job.h  What the parts of `sffn prepare` share: the request, and what was found out about one layer. */
#ifndef SFFN_CLI_PREPARE_JOB_H
#define SFFN_CLI_PREPARE_JOB_H
#include "args.h"
#include "llama.h"
#include "measure.h"
#include "prepare_fit.h"
#include "work.h"

enum { MAX_CANDIDATES = 20, CANDIDATE_NAME = 48 };

struct prepare_request {
    const char *model_path, *out_path, *dtype, *text_path, *tokens_path, *rule, *plan, *isa;
    double act_threshold, target_cett, target_density, target_ppl,
        max_error; /* negative: not said */
    struct arg_list predictor_texts;
    struct selections predictors; /* what they say */
    uint32_t n_tokens, window, n_samples, n_threads;
    uint64_t seed;
    uint32_t expert_size; /* 0: not said */
    /* enum sffn_selector_input: what some predictor reads besides the FFN's input */
    int32_t select_input;
    int small_embeddings, is_resumed, json_wanted;
    /* nobody named a predictor: the first ones are tried where a layer allows it */
    uint32_t n_default_predictors;
    sffn_progress_fn progress; /* of fits */
    void *progress_user;
};

/* A way to run the layer that was measured. Plain data: it is written to the work folder as it is. */
struct candidate {
    char name[CANDIDATE_NAME]; /* "dense", "gate", or a selection */
    int32_t plan;              /* enum sffn_select */
    uint32_t predictor; /* index into request.predictors, of SFFN_SELECT_PREDICTOR and ROUTER */
    double predicted_density, recall,
        error;        /* error: relative, of y against the full gate with the same rule */
    double bytes, ns; /* per token */
    int32_t is_chosen;
};

struct prepared_layer {
    int32_t rule, rule_tie;
    sffn_activity activity; /* what the rule keeps */
    float *rule_thresholds; /* [d_ff]; NULL: none */
    uint32_t rule_k, rule_m;
    float rule_sparsity;
    double rule_value, rule_cett,
        /* one number for the layer, see enum sffn_active_kind, or the rule's k or share; what it
         * does; NAN: no rule */
        rule_density;
    struct candidate candidates[MAX_CANDIDATES];
    uint32_t n_candidates, chosen;
    struct fitted fitted; /* of the chosen one */
};

/* Fills the rule of layer i for a target: cett, or the request's density when that is negative. CLI_OK, or CLI_FAILED after an error line. */
int prepare_rule(const struct prepare_request *request, struct llama *llama, uint32_t i,
                 const struct work *work, double cett, struct prepared_layer *out);
/* The text that a search for a CETT looks at. */
struct validation {
    const int32_t *tokens;
    size_t n;
    uint32_t window;
    int32_t bos;
};
/*
 * The largest CETT whose perplexity on the validation text is within request->target_ppl per cent of dense; the layers' FFNs are replaced on
 * the way. What was measured is kept in the work folder. CLI_OK, or CLI_FAILED after an error line.
 */
int prepare_find_cett(const struct prepare_request *request, struct llama *llama,
                      const struct work *work, const struct validation *text, double *cett);
/*
 * Finds out what layer i is to do, from the sample of its inputs in the work folder, or reads it when that was done before.
 * cett is the target for the rule, negative: none. CLI_OK, or CLI_FAILED after an error line.
 */
int prepare_layer(const struct prepare_request *request, struct llama *llama, uint32_t i,
                  const struct work *work, double cett, struct prepared_layer *out);
/* Puts the layer's rule into a config; none: the config keeps its own. */
void prepared_rule(const struct prepared_layer *layer, sffn_ffn_config *config);
void prepared_layer_free(struct prepared_layer *layer);
#endif /* SFFN_CLI_PREPARE_JOB_H */
