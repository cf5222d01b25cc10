/* layer_run.h  One layer under one selection, with cold weights: what the commands about whole layers measure. */
#ifndef BENCH_LAYER_RUN_H
#define BENCH_LAYER_RUN_H
#include "ceilings.h"
#include "layer.h"
#include "layer_options.h"
#include "mask_trace.h"
#include "report.h"
#include "rotation.h"

#define MAX_SETS 256

/* What the rows of one command share. */
struct workbench {
    const struct layer_options *o;
    struct layer layer;
    int has_layer, layer_for_router;
    float *w1,
        *w2; /* the gate's factors, of select low_rank; made once: the weights of all types are drawn alike */
    struct ceilings *ceilings;
    struct mask_trace trace;
};
/* Reads the trace, if there is one, and takes memory for the ceilings. 0: failed, said. */
int workbench_create(struct workbench *w, const struct layer_options *o);
void workbench_destroy(struct workbench *w);
/* The layer of this type becomes the current one. 0: failed, said. */
int workbench_use_layer(struct workbench *w, int32_t dtype, int for_router);
/* Bytes that must be read between two reads of the same byte for weights to be cold: see --cold; 0 with --warm. */
uint64_t workbench_cold_bytes(const struct workbench *w);

struct layer_run {
    struct workbench *w;
    sffn_context *ctx;   /* runs the calls */
    sffn_context *owner; /* made the objects, with the rotation's memory */
    struct rotation *rotation;
    uint32_t n_threads;
    size_t n_tokens, turn;
    enum select select;
    uint32_t trace_layer;
    struct inputs inputs;
    sffn_predictor *predictor;
    sffn_router *router;
    sffn_ffn *ffn;
    size_t n_sets;                     /* of inputs, or of masks */
    sffn_active_set *active[MAX_SETS]; /* oracle */
    double density;                    /* planted, or of the trace's masks */
    float *y, *y_dense;
};

/* density is that of neurons (experts for a router); with a trace, trace_layer says whose masks are replayed. 0: failed, said; destroy all the same. */
int layer_run_create(struct layer_run *run, struct workbench *w, enum select select, double density,
                     uint32_t trace_layer, size_t n_tokens, uint32_t n_threads, int collect_stats);
void layer_run_destroy(struct layer_run *run);
/* An error line about the library's last failure; returns 0. */
int layer_run_fail(const struct layer_run *run, const char *what, sffn_status status);

/* Of a row's name, where the weights are --planted ones; bench/results.py looks for it. */
#define PLANTED_WORDS "real rows and inputs, rotated to this shape"
/* What differs from a selection's defaults, as part of a row's name: " columns 0.5 bits 0", or "". */
void layer_run_options(const struct layer_run *run, char *text, size_t size);

/* Of the context that made the objects, with the weights' huge pages counted. */
void layer_run_info(const struct layer_run *run, sffn_context_info *info);

/* One call; select is the run's or dense. */
sffn_status layer_run_forward(struct layer_run *run, size_t set, enum select select, float *y,
                              sffn_active_set *active_out, sffn_ffn_stats *stats);
/* The next copy of the weights, then a call with the next inputs, timed. stats may be NULL. */
sffn_status layer_run_sample(struct layer_run *run, enum select select, struct samples *samples,
                             sffn_ffn_stats *stats);

/* Bytes of a call, mean over the inputs. */
struct traffic {
    double touched, streamed;
    double gate_gathered, active_gathered; /* gate rows; up and down rows of the active neurons */
    double gate_density, active_density;   /* shares of all rows, per tile of tokens */
    double active;                         /* share of neurons whose up row ran */
    double let_through;                    /* share of neurons whose gate row was read */
    double selector; /* predictor or router; part of streamed and gate_gathered */
    int is_sparse;
};
int layer_run_traffic(struct layer_run *run, struct traffic *t);
/* GB/s at which this traffic's gathers can be done, measured again at each call; 0 where there are none. */
double layer_run_gate_gbps(struct layer_run *run, const struct traffic *t);
double layer_run_active_gbps(struct layer_run *run, const struct traffic *t);
/* The time that they take at those rates, and at the rates of the median passes of the last two calls. */
struct gather_times {
    double ns, median_ns;
};
struct gather_times layer_run_gather_times(struct layer_run *run, const struct traffic *t);

struct errors {
    double reference, dense,
        recall; /* against float64, against the own dense path; NaN: not known */
};
int layer_run_errors(struct layer_run *run, struct errors *e);

#endif /* BENCH_LAYER_RUN_H */
