/* layer_options.h  The options that all commands about a whole layer share: ffn, stages, scaling, trace, compare. */
#ifndef BENCH_LAYER_OPTIONS_H
#define BENCH_LAYER_OPTIONS_H
#include <stddef.h>
#include <stdint.h>

#include "options.h"

#define MAX_LIST 32

enum select {
    SELECT_DENSE,
    SELECT_GATE,
    SELECT_SCREEN,
    SELECT_CASCADE,
    SELECT_SIGN,
    SELECT_LOW_RANK,
    SELECT_ORACLE,
    SELECT_ROUTER,
    N_SELECTS
};
extern const char *const select_names[N_SELECTS];
/* 1: a predictor of the library decides. */
int select_has_predictor(enum select s);

struct layer_options {
    const char *command; /* "sffn-bench ffn": begins error lines */
    const char *shape;
    uint32_t d_model, d_ff;
    int32_t dtypes[MAX_LIST];
    double densities[MAX_LIST];
    enum select selects[MAX_LIST];
    uint32_t threads[MAX_LIST];
    size_t tokens[MAX_LIST];
    size_t n_dtypes, n_densities, n_selects, n_threads, n_tokens;
    uint32_t dense_tokens; /* of the layer's config */
    uint64_t repeats;      /* 0: until the spread is known */
    uint64_t cold_bytes;   /* 0: by the size of the cache */
    double seconds;        /* most time for the samples of one row */
    const char *planted;   /* NULL: random weights */
    const char *trace;     /* NULL: none */
    uint32_t bits, step_bits;
    float margin;  /* screen and cascade */
    float columns; /* cascade */
    uint32_t rank;
    float alpha;   /* sign */
    double recall; /* sign and low_rank: wanted */
    int is_warm, as_json, has_onednn;
};

/* Lists that hold when the option is not given. threads NULL: 1, 2, 4 ... all cores. */
struct layer_defaults {
    const char *dtypes, *densities, *selects, *threads, *tokens;
};

/* Words of the shared options, for the help of a command. */
extern const char layer_options_help[];
/* Words of the JSON keys of rows that are about a whole layer. */
extern const char layer_keys_help[];

/* extra: options of this command alone, whose values are filled. Returns 0: run; 1: help was printed; EXIT_USAGE. */
int layer_options_parse(struct layer_options *o, const char *command, const char *help,
                        const struct layer_defaults *defaults, struct option_def *extra,
                        size_t n_extra, int argc, char **argv);

#endif /* BENCH_LAYER_OPTIONS_H */
