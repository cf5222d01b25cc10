/*
 * selection.h  Who decides which neurons of a layer run, as a command line says it: "KIND[,KEY=VALUE]...", for example
 * "gate" or "screen,margin=1". A list of values, "margin=0:1:2", means one selection per value: the points of a curve.
 */
#ifndef SFFN_CLI_SELECTION_H
#define SFFN_CLI_SELECTION_H
#include "sparseffn/sparseffn.h"

/* One point: every value is single. */
struct selection {
    char *text; /* "screen,margin=1" */
    /* the value that differs from its neighbours: "margin=1"; "" when there is one point only */
    char *point_text;
    const char *kind; /* static */
    size_t series;    /* points from one command line text have the same number */
    int is_curve;     /* 1: nobody asked for it, it is there to draw a curve */
    /* NAN: not said */
    double margin, alpha, density, threshold, rank, bits, step, recall, size;
    double columns; /* share that a cascade reads first */
    double input;   /* enum sffn_selector_input */
};

struct selections {
    struct selection *data;
    size_t n, capacity;
};

/*
 * Adds what `text` says. with_curve: a selection that has a knob and no list of values gets further points with the usual values of
 * that knob. is_for_prepare: error lines name what `sffn prepare` takes, else what can be had without activations. CLI_USAGE after an error line
 * that names the part that is wrong.
 */
int selections_add(struct selections *all, const char *text, int with_curve, int is_for_prepare);
void selections_free(struct selections *all);
/* The kinds and their keys, for help texts behind a headline: those for which nothing is made, and the others. */
extern const char selection_own_help[];
extern const char selection_help[];
#define SELECTION_HEADLINE "Selections (SEL), who decides which neurons run:\n"
/* The same of what only `sffn prepare` makes. */
extern const char selection_fitted_help[];

/* What a selection needs at run time in one layer. */
struct selector {
    /* enum sffn_select of the call; SFFN_SELECT_ACTIVE: selector_run() makes the set */
    int32_t select;
    sffn_predictor *predictor;
};
/* Of all layers of a model. */
struct selectors {
    uint32_t n_layers, d_model;
    struct selector *layers;
    sffn_active_set *set; /* what selector_run() found last; NULL when no layer needs one */
};

/* 1: a predictor or router that can be made for a layer. */
int selection_is_predictor(const struct selection *selection);
/* 1: the layer brings what it needs, *select (enum sffn_select) being how it is called; "router" is then the file's, without values. */
int selection_is_own(const struct selection *selection, int32_t *select);
/* Whether the layer does bring it. CLI_FAILED after an error line. */
int selection_check_own(const struct selection *selection, uint32_t layer, const sffn_ffn *ffn);
/* 1: made from activations, by `sffn prepare` only. */
int selection_is_fitted(const struct selection *selection);
/* enum sffn_selector_input: what it reads. */
int32_t selection_input(const struct selection *selection);
/* Type of a low-rank predictor's matrices. */
int32_t selection_dtype(const struct selection *selection);
/* threshold= and density= into a config whose d_ff is set. */
void selection_decide(const struct selection *selection, sffn_predictor_config *config);
/* The predictor of layer `layer`, which `ffn` describes. CLI_FAILED after an error line. */
int selection_predictor_config(const struct selection *selection, uint32_t layer,
                               const sffn_ffn_config *ffn, sffn_predictor_config *config);
/* The same, made. NULL after an error line. */
sffn_predictor *selection_predictor(sffn_context *ctx, const struct selection *selection,
                                    uint32_t layer, const sffn_ffn_config *ffn);
/* CLI_OK, or CLI_FAILED after an error line; free in both cases. */
int selectors_create(sffn_context *ctx, const struct selection *selection,
                     const sffn_ffn_config *const *layers, uint32_t n_layers, uint32_t max_tokens,
                     struct selectors *out);
void selectors_free(struct selectors *selectors);
/* Decides early, on args->x, and puts into args how the layer is to be called. */
sffn_status selector_run(sffn_context *ctx, const struct selectors *selectors, uint32_t layer,
                         sffn_ffn_args *args);
/* Bytes that one decision reads. */
uint64_t selector_bytes(const struct selector *selector);
#endif /* SFFN_CLI_SELECTION_H */
