/* ffn.c  sffn-bench ffn, scaling and trace: rows about one feed-forward layer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "layer_run.h"
#include "peer.h"

static const char help_ffn[] =
    "Usage: sffn-bench ffn [OPTIONS]\n"
    "\n"
    "Times one gated feed-forward layer with random weights of which exactly the wanted share of "
    "neurons is active, beside\n"
    "the same layer dense, oneDNN, and what the memory allows. Weights are cold: so many copies of "
    "the layer are used in turn\n"
    "that they exceed four times the last-level cache, and at least 512 MiB.\n"
    "Lists are separated by commas; every combination is one row. Defaults: shape llama2-7b, dtype "
    "q4_0, density 0.107, select\n"
    "gate, tokens 1, threads 1.\n"
    "\n"
    "  --trace FILE         the active neurons are those recorded by sffn eval --record FILE, one "
    "row for each of its layers;\n"
    "                       --select oracle (default) or dense; --density has no say\n";

static const char help_scaling[] =
    "Usage: sffn-bench scaling [OPTIONS]\n"
    "\n"
    "The rows of sffn-bench ffn on 1, 2, 4 ... all cores, with the memory's limit for each number "
    "of threads; speedup_vs_first\n"
    "is against the first number in the list. Defaults: shape llama2-7b, dtype q4_0,q8_0,bf16, "
    "density 0.107, select\n"
    "dense,gate,cascade, tokens 1, threads 1, 2, 4 ... all cores. oneDNN is left out.\n"
    "\n";

static const char help_trace[] =
    "Usage: sffn-bench trace FILE [OPTIONS]\n"
    "\n"
    "Replays the activation masks that sffn eval --record FILE wrote, with cold weights: for each "
    "layer of the file, a layer of\n"
    "this shape whose active neurons are the recorded ones of up to 256 tokens from all over the "
    "text. Where the shape has more\n"
    "neurons than the file, the masks of following tokens lie side by side. density is that of the "
    "masks. Defaults: shape\n"
    "llama2-7b, dtype q4_0, select oracle, tokens 1, threads 1.\n"
    "\n";

enum command { COMMAND_FFN, COMMAND_SCALING, COMMAND_TRACE };

struct rows {
    enum command command;
    const struct layer_options *o;
    struct workbench w;
    struct onednn_best *peers; /* [tokens][threads]; not measured yet where `what` is empty */
    struct onednn_best *peer;  /* the row's */
    int has_header;
};

struct row {
    struct summary own, dense;
    struct traffic traffic;
    struct errors errors;
    double stream_gbps, stream_median_gbps, gather_gbps, gather_median_gbps, ideal_ns,
        median_ideal_ns, speedup_vs_first;
};

/* ---- measuring ---- */

static int measure_times(struct layer_run *run, struct row *row)
{
    const struct layer_options *o = run->w->o;
    const struct stop_rule rule = {o->repeats, o->seconds};
    const enum select turns[2] = {SELECT_DENSE, run->select};
    const size_t n_turns = run->select == SELECT_DENSE ? 1 : 2;
    struct samples samples[2] = {{NULL, 0, 0.0}, {NULL, 0, 0.0}};
    sffn_status status = SFFN_OK;
    if (!samples_init(&samples[0]) || !samples_init(&samples[1]))
        return layer_run_fail(run, "measuring", SFFN_ERR_OUT_OF_MEMORY);
    for (int i = 0; status == SFFN_OK && i < 3; i++) /* code, threads, scratch */
        status = layer_run_forward(run, 0, run->select, run->y, NULL, NULL);
    for (int round = 0, goes_on = 1; status == SFFN_OK && goes_on; round++) {
        goes_on = 0;
        for (size_t i = 0; i < n_turns; i++) {
            const double begin = now_ns();
            progress("measuring %s, round %d", select_names[turns[i]], round + 1);
            for (size_t n = 0;
                 status == SFFN_OK && round_goes_on(&rule, round, &samples[i], n, begin); n++)
                status = layer_run_sample(run, turns[i], &samples[i], NULL);
        }
        for (size_t i = 0; i < n_turns; i++)
            goes_on |= needs_round(&rule, round + 1, &samples[i]);
    }
    progress(NULL);
    row->dense = samples_summary(&samples[0]);
    row->own = samples_summary(&samples[n_turns - 1]);
    samples_free(&samples[0]);
    samples_free(&samples[1]);
    return status == SFFN_OK ? 1 : layer_run_fail(run, "running the layer", status);
}

static int measure_row(struct layer_run *run, struct row *row)
{
    const struct traffic *t = &row->traffic;
    struct ceilings *ceilings = run->w->ceilings;
    memset(row, 0, sizeof *row);
    progress("measuring the memory");
    ceilings_stream_gbps(ceilings, run->n_threads);
    if (!layer_run_traffic(run, &row->traffic))
        return 0;
    layer_run_gather_times(run, t);
    if (!measure_times(run, row) || !layer_run_errors(run, &row->errors))
        return 0;
    progress("measuring the memory");
    row->stream_gbps =
        ceilings_stream_gbps(ceilings, run->n_threads); /* the best of before and after */
    row->stream_median_gbps = ceilings_stream_median_gbps(ceilings, run->n_threads);
    const struct gather_times gather = layer_run_gather_times(run, t);
    const double gathered = t->gate_gathered + t->active_gathered;
    row->gather_gbps = gathered > 0.0 ? gathered / gather.ns : (double)NAN;
    row->gather_median_gbps = gathered > 0.0 ? gathered / gather.median_ns : (double)NAN;
    row->ideal_ns = t->streamed / row->stream_gbps + gather.ns;
    row->median_ideal_ns = t->streamed / row->stream_median_gbps + gather.median_ns;
    return 1;
}

/* ---- reporting ---- */

static void print_header(const struct rows *rows, const struct layer_run *run, FILE *out)
{
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    layer_run_info(run, &info);
    print_machine(out, &info);
    fprintf(out, "\n");
    warn_when_busy(rows->o->command, info.n_cpus);
}

static const char *weights_words(const struct rows *rows)
{
    return rows->o->planted ? PLANTED_WORDS
           : rows->o->trace
               ? "random weights; recorded masks"
               : "random and bell-shaped; density planted by a constant bias at the quantile";
}

static void print_table_row(const struct rows *rows, const struct layer_run *run,
                            const struct row *r)
{
    const double ms = 1e-6;
    printf("%-8s %-5s %7.4f %6zu %7u %9.4f %9.4f %9.4f %6zu", select_names[run->select],
           sffn_dtype_name(run->w->layer.dtype), run->density, run->n_tokens, run->n_threads,
           r->own.median * ms, r->own.min * ms, r->own.max * ms, r->own.n);
    print_cell(6, "%.3f", r->own.error);
    print_cell(9, "%.2f", r->traffic.touched * 1e-6);
    print_cell(7, "%.1f", r->traffic.touched / r->own.median);
    print_cell(7, "%.1f", r->stream_gbps);
    print_cell(7, "%.1f", r->gather_gbps);
    print_cell(6, "%.3f", r->traffic.touched / r->stream_gbps / r->own.median);
    print_cell(6, "%.3f", r->ideal_ns / r->own.median);
    print_cell(8, "%.2fx", r->dense.median / r->own.median);
    print_cell(8, "%.2fx", rows->peer->median_ns / r->own.median);
    print_cell(6, "%.3f", r->errors.recall);
    print_cell(9, "%.2e", r->errors.reference);
    print_cell(9, "%.2e", r->errors.dense);
    if (rows->command == COMMAND_SCALING)
        print_cell(7, "%.2fx", r->speedup_vs_first);
    printf("\n");
    fflush(stdout);
}

static void print_json_row(const struct rows *rows, const struct layer_run *run,
                           const struct row *r)
{
    const struct layer_options *o = rows->o;
    const struct layer *l = &run->w->layer;
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    struct json j;
    char name[320], layer[32] = "", options[64];
    const char *planted = o->planted ? "real rows and inputs, rotated to this shape"
                          : o->trace ? "recorded masks"
                          : run->select == SELECT_ROUTER
                              ? "router bias at the score quantile, SiLU experts of 32"
                              : "gate bias at the gate quantile, ReLU";
    sffn_context_get_info(run->ctx, &info);
    if (o->trace)
        snprintf(layer, sizeof layer, " layer %u", run->trace_layer);
    layer_run_options(run, options, sizeof options);
    snprintf(name, sizeof name, "%s %s %s %s%s density %.4g tokens %zu threads %u%s %s; %s%s",
             o->command + strlen("sffn-bench "), o->shape, sffn_dtype_name(l->dtype),
             select_names[run->select], options, run->density, run->n_tokens, run->n_threads, layer,
             o->is_warm ? "warm" : "cold", o->planted ? "" : "random bell-shaped weights, ",
             planted);
    json_begin(&j);
    json_string(&j, "name", name);
    json_string(&j, "shape", o->shape);
    json_uint(&j, "d_model", o->d_model);
    json_uint(&j, "d_ff", o->d_ff);
    json_string(&j, "dtype", sffn_dtype_name(l->dtype));
    json_string(&j, "select", select_names[run->select]);
    json_number(&j, "density", run->density);
    json_number(&j, "let_through", r->traffic.let_through);
    json_number(&j, "recall", r->errors.recall);
    json_uint(&j, "n_tokens", run->n_tokens);
    json_uint(&j, "n_threads", run->n_threads);
    json_string(&j, "isa", info.isa);
    json_summary(&j, &r->own);
    json_uint(&j, "weight_bytes", l->weight_bytes);
    json_uint(&j, "touched_bytes", (uint64_t)(r->traffic.touched + 0.5));
    json_number(&j, "effective_gbps", r->traffic.touched / r->own.median);
    json_number(&j, "stream_gbps", r->stream_gbps);
    json_number(&j, "stream_median_gbps", r->stream_median_gbps);
    json_number(&j, "gather_gbps", r->gather_gbps);
    json_number(&j, "gather_median_gbps", r->gather_median_gbps);
    json_number(&j, "limit_fraction", r->traffic.touched / r->stream_gbps / r->own.median);
    json_number(&j, "median_limit_fraction",
                r->traffic.touched / r->stream_median_gbps / r->own.median);
    json_number(&j, "gather_fraction", r->ideal_ns / r->own.median);
    json_number(&j, "median_gather_fraction", r->median_ideal_ns / r->own.median);
    json_number(&j, "speedup_vs_dense", r->dense.median / r->own.median);
    json_number(&j, "speedup_vs_onednn", rows->peer->median_ns / r->own.median);
    json_number(&j, "relative_error", r->errors.reference);
    if (o->trace)
        json_uint(&j, "trace_layer", run->trace_layer);
    if (rows->command == COMMAND_SCALING)
        json_number(&j, "speedup_vs_first", r->speedup_vs_first);
    json_end(&j);
}

static void print_row(struct rows *rows, const struct layer_run *run, const struct row *r)
{
    const struct layer_options *o = rows->o;
    if (!rows->has_header)
        print_header(rows, run, o->as_json ? stderr : stdout);
    if (!rows->has_header && !o->as_json) {
        printf("shape %s (%u x %u), %s weights, %s\n", o->shape, o->d_model, o->d_ff,
               o->is_warm ? "warm" : "cold", weights_words(rows));
        printf("%u threads, %zu tokens: %s\n", run->n_threads, run->n_tokens, rows->peer->what);
        printf("\n%-8s %-5s %7s %6s %7s %9s %9s %9s %6s %6s %9s %7s %7s %7s %6s %6s %8s %8s %6s "
               "%9s %9s%s\n",
               "select", "dtype", "density", "tokens", "threads", "median ms", "min", "max", "n",
               "+-", "read MB", "GB/s", "stream", "gather", "limit", "gather", "dense", "oneDNN",
               "recall", "error", "vs dense", rows->command == COMMAND_SCALING ? "   first" : "");
    }
    rows->has_header = 1;
    warn_when_noisy(o->command, select_names[run->select], &r->own);
    if (o->as_json)
        print_json_row(rows, run, r);
    else
        print_table_row(rows, run, r);
}

/* ---- all rows ---- */

/* Once per number of threads and tokens, before our own copies take the memory. */
static int use_peer(struct rows *rows, size_t tokens_at, size_t threads_at)
{
    const struct layer_options *o = rows->o;
    const size_t n_tokens = o->tokens[tokens_at];
    const uint32_t n_threads = o->threads[threads_at];
    sffn_context *ctx;
    struct inputs inputs;
    rows->peer = &rows->peers[tokens_at * o->n_threads + threads_at];
    if (rows->peer->what[0])
        return 1;
    rows->peer->median_ns = (double)NAN;
    snprintf(rows->peer->what, sizeof rows->peer->what, "oneDNN is left out");
    if (!o->has_onednn)
        return 1;
    if (sffn_context_create(NULL, &ctx) != SFFN_OK)
        return 0;
    const int ok = inputs_create(&inputs, ctx, &rows->w.layer, 1.0, 1, n_tokens, 0);
    sffn_context_destroy(ctx);
    if (!ok)
        return 0;
    const struct peer_layer of = {&rows->w.layer,
                                  inputs.x,
                                  n_tokens,
                                  n_threads,
                                  workbench_cold_bytes(&rows->w),
                                  available_memory_bytes() / 10 * 7,
                                  NULL,
                                  NULL};
    const struct stop_rule rule = {o->repeats, o->seconds};
    onednn_best_measure(rows->peer, &of, &rule);
    inputs_destroy(&inputs);
    if (rows->has_header && !o->as_json)
        printf("%u threads, %zu tokens: %s\n", n_threads, n_tokens, rows->peer->what);
    return 1;
}

/* A combination that the library refuses has said so; the others go on. */
static int run_row(struct rows *rows, int32_t dtype, enum select select, double density,
                   uint32_t trace_layer, size_t tokens_at, size_t threads_at, double *first_ns)
{
    const size_t n_tokens = rows->o->tokens[tokens_at];
    const uint32_t n_threads = rows->o->threads[threads_at];
    struct layer_run run;
    struct row row;
    if (!workbench_use_layer(&rows->w, dtype, select == SELECT_ROUTER) ||
        !use_peer(rows, tokens_at, threads_at))
        return 0;
    const int ok =
        layer_run_create(&run, &rows->w, select, density, trace_layer, n_tokens, n_threads, 0) &&
        measure_row(&run, &row);
    if (ok) {
        if (!(*first_ns > 0.0))
            *first_ns = row.own.median;
        row.speedup_vs_first = *first_ns / row.own.median;
        print_row(rows, &run, &row);
    }
    layer_run_destroy(&run);
    return ok;
}

/* Types first, so that a layer is made once; threads last, so that each number of them has the first to compare with. */
static int run_rows(struct rows *rows)
{
    const struct layer_options *o = rows->o;
    const size_t n_masks = o->trace ? rows->w.trace.n_layers : o->n_densities;
    int all_ok = 1;
    for (size_t d = 0; d < o->n_dtypes; d++)
        for (size_t to = 0; to < o->n_tokens; to++)
            for (size_t m = 0; m < n_masks; m++)
                for (size_t s = 0; s < o->n_selects; s++) {
                    double first_ns = 0.0;
                    for (size_t th = 0; th < o->n_threads; th++)
                        all_ok &= run_row(rows, o->dtypes[d], o->selects[s],
                                          o->trace ? 1.0 : o->densities[m],
                                          o->trace ? (uint32_t)m : 0, to, th, &first_ns);
                }
    return all_ok;
}

static int run_command(enum command command, struct layer_options *o)
{
    struct rows rows;
    memset(&rows, 0, sizeof rows);
    rows.command = command;
    rows.o = o;
    rows.peers = calloc(o->n_tokens * o->n_threads, sizeof *rows.peers);
    if (!rows.peers)
        fprintf(stderr, "%s: no memory\n", o->command);
    const int ok = rows.peers && workbench_create(&rows.w, o) && run_rows(&rows);
    progress(NULL);
    free(rows.peers);
    workbench_destroy(&rows.w);
    return ok ? 0 : 1;
}

int bench_ffn(int argc, char **argv)
{
    static const struct layer_defaults defaults = {"q4_0", "0.107", "gate", "1", "1"};
    struct layer_options o;
    const int status =
        layer_options_parse(&o, "sffn-bench ffn", help_ffn, &defaults, NULL, 0, argc, argv);
    if (status != 0)
        return status == 1 ? 0 : status;
    return run_command(o.trace ? COMMAND_TRACE : COMMAND_FFN, &o);
}

int bench_scaling(int argc, char **argv)
{
    static const struct layer_defaults defaults = {"q4_0,q8_0,bf16", "0.107", "dense,gate,cascade",
                                                   NULL, "1"};
    struct layer_options o;
    const int status =
        layer_options_parse(&o, "sffn-bench scaling", help_scaling, &defaults, NULL, 0, argc, argv);
    if (status != 0)
        return status == 1 ? 0 : status;
    if (o.trace)
        return usage_error(o.command, "--trace belongs to sffn-bench trace");
    o.has_onednn = 0;
    return run_command(COMMAND_SCALING, &o);
}

int bench_trace(int argc, char **argv)
{
    static const struct layer_defaults defaults = {"q4_0", "0.107", "oracle", "1", "1"};
    struct layer_options o;
    const char *const command = "sffn-bench trace";
    char option[] = "--trace";
    if (argc > 0 && (strcmp(argv[0], "--help") == 0))
        return layer_options_parse(&o, command, help_trace, &defaults, NULL, 0, 1, argv) == 1 ? 0
                                                                                              : 1;
    if (argc == 0 || argv[0][0] == '-')
        return usage_error(command, "FILE is missing; see %s --help", command);
    char **with = malloc(((size_t)argc + 1) * sizeof *with);
    if (!with) {
        fprintf(stderr, "%s: no memory\n", command);
        return 1;
    }
    with[0] = option;
    memcpy(with + 1, argv, (size_t)argc * sizeof *with);
    const int status =
        layer_options_parse(&o, command, help_trace, &defaults, NULL, 0, argc + 1, with);
    free(with);
    if (status != 0)
        return status == 1 ? 0 : status;
    return run_command(COMMAND_TRACE, &o);
}
