/* stages.c  sffn-bench stages: where the time of a layer goes, and how near each stage is to what the memory allows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "layer_run.h"

#define COMMAND "sffn-bench stages"

static const char help[] =
    "Usage: " COMMAND " [OPTIONS]\n"
    "\n"
    "Times the stages of one feed-forward layer inside whole calls with cold weights, from the "
    "library's own statistics (waiting\n"
    "included): select (predictor or router), gate (rule and compaction included), up, down "
    "(reduction included), other (planning,\n"
    "handing a set in, waking threads), and total, as the caller sees it. Gate and up are one "
    "stage, divided by the work of all\n"
    "threads in it; in dense calls they are not told apart.\n"
    "Lists are separated by commas; every combination gives the rows of its stages. Defaults: "
    "shape llama2-7b, dtype q4_0, density\n"
    "0.107, select dense,gate,cascade, tokens 1, threads 1. oneDNN plays no part.\n"
    "\n"
    "Columns and JSON keys: stage; share: of the total; touched_bytes, effective_gbps, "
    "limit_fraction and gather_fraction are the\n"
    "stage's own; flops: two for each weight and token; gflops = flops / median_ns; relative_error "
    "is that of the whole layer.\n"
    "The others are those of sffn-bench ffn:\n";

enum stage { STAGE_SELECT, STAGE_GATE, STAGE_UP, STAGE_DOWN, STAGE_OTHER, STAGE_TOTAL, N_STAGES };

struct stage_row {
    const char *name;
    struct summary time;
    double bytes, gathered_bytes, gather_gbps, flops;
};

struct stages {
    const struct layer_options *o;
    struct workbench w;
    int has_header;
};

/* ---- measuring ---- */

static int measure_times(struct layer_run *run, struct stage_row rows[N_STAGES])
{
    const struct layer_options *o = run->w->o;
    const struct stop_rule rule = {o->repeats, o->seconds};
    struct samples samples[N_STAGES];
    sffn_status status = SFFN_OK;
    int ok = 1;
    for (int i = 0; i < N_STAGES; i++)
        ok &= samples_init(&samples[i]);
    for (int i = 0; ok && status == SFFN_OK && i < 3; i++) /* code, threads, scratch */
        status = layer_run_forward(run, 0, run->select, run->y, NULL, NULL);
    struct samples *total = &samples[STAGE_TOTAL];
    for (int round = 0; ok && status == SFFN_OK && needs_round(&rule, round, total); round++) {
        const double begin = now_ns();
        progress("measuring %s, round %d", select_names[run->select], round + 1);
        for (size_t n = 0; status == SFFN_OK && round_goes_on(&rule, round, total, n, begin); n++) {
            sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
            const double before = total->total_ns;
            status = layer_run_sample(run, run->select, total, &stats);
            const double of[4] = {(double)stats.select_ns, (double)stats.gate_ns,
                                  (double)stats.up_ns, (double)stats.down_ns};
            double other = total->total_ns - before;
            for (int i = 0; i < 4; i++) {
                samples_add(&samples[STAGE_SELECT + i], of[i]);
                other -= of[i];
            }
            samples_add(&samples[STAGE_OTHER], fmax(other, 0.0));
        }
    }
    progress(NULL);
    for (int i = 0; i < N_STAGES; i++) {
        if (ok)
            rows[i].time = samples_summary(&samples[i]);
        samples_free(&samples[i]);
    }
    if (!ok)
        status = SFFN_ERR_OUT_OF_MEMORY;
    return status == SFFN_OK ? 1 : layer_run_fail(run, "running the layer", status);
}

/* Bytes of a weight as the selector stores it, to count its operations. */
static double selector_weight_bytes(const struct layer_run *run)
{
    switch (run->select) {
    case SELECT_SCREEN:
        return 18.0 / 32.0;
    case SELECT_LOW_RANK:
        return 34.0 / 32.0;
    case SELECT_ROUTER:
        return (double)run->w->layer.router_row_bytes / run->w->layer.d_model;
    default: /* one bit */
        return 1.0 / 8.0;
    }
}

static void fill_traffic(struct layer_run *run, const struct traffic *t,
                         struct stage_row rows[N_STAGES])
{
    const struct layer *l = &run->w->layer;
    const double n_tokens = (double)run->n_tokens,
                 product = 2.0 * l->d_model * l->d_ff * n_tokens; /* of one whole matrix */
    if (!t->is_sparse) {
        rows[STAGE_GATE].bytes = t->touched * 2.0 / 3.0;
        rows[STAGE_GATE].flops = 2.0 * product;
        rows[STAGE_DOWN].bytes = t->touched / 3.0;
        rows[STAGE_DOWN].flops = product;
    } else {
        const double active_gbps = layer_run_active_gbps(run, t);
        rows[STAGE_SELECT].bytes = t->selector;
        rows[STAGE_SELECT].flops = 2.0 * t->selector / selector_weight_bytes(run) * n_tokens;
        rows[STAGE_GATE].bytes = t->touched - t->selector - t->active_gathered;
        rows[STAGE_GATE].flops = product * t->let_through;
        rows[STAGE_GATE].gathered_bytes = t->gate_gathered;
        rows[STAGE_GATE].gather_gbps = layer_run_gate_gbps(run, t);
        for (int i = STAGE_UP; i <= STAGE_DOWN; i++) {
            rows[i].bytes = rows[i].gathered_bytes = 0.5 * t->active_gathered;
            rows[i].gather_gbps = active_gbps;
            rows[i].flops = product * t->active;
        }
    }
    for (int i = 0; i < STAGE_OTHER; i++) {
        rows[STAGE_TOTAL].bytes += rows[i].bytes;
        rows[STAGE_TOTAL].gathered_bytes += rows[i].gathered_bytes;
        rows[STAGE_TOTAL].flops += rows[i].flops;
    }
    /* The rate at which the sum of the gathers could be done. */
    double ns = 0.0;
    for (int i = 0; i < STAGE_OTHER; i++)
        if (rows[i].gathered_bytes > 0.0)
            ns += rows[i].gathered_bytes / rows[i].gather_gbps;
    if (ns > 0.0)
        rows[STAGE_TOTAL].gather_gbps = rows[STAGE_TOTAL].gathered_bytes / ns;
}

/* ---- reporting ---- */

static void print_stage(const struct stages *s, const struct layer_run *run,
                        const struct stage_row *r, double total_ns, double stream_gbps,
                        double error)
{
    const struct layer_options *o = s->o;
    const struct layer *l = &run->w->layer;
    const double gather_gbps = r->gathered_bytes > 0.0 ? r->gather_gbps : (double)NAN,
                 gather_ns = r->gathered_bytes > 0.0 ? r->gathered_bytes / r->gather_gbps : 0.0,
                 ideal_ns = (r->bytes - r->gathered_bytes) / stream_gbps + gather_ns,
                 stream_median_gbps = ceilings_stream_median_gbps(run->w->ceilings, run->n_threads),
                 ns = r->bytes > 0.0 ? r->time.median : (double)NAN;
    if (!o->as_json) {
        printf("%-8s %-5s %7.4f %6zu %7u %-8s %10.4f %10.4f %10.4f", select_names[run->select],
               sffn_dtype_name(l->dtype), run->density, run->n_tokens, run->n_threads, r->name,
               r->time.median * 1e-6, r->time.min * 1e-6, r->time.max * 1e-6);
        print_cell(6, "%.3f", r->time.median / total_ns);
        print_cell(9, "%.2f", r->bytes > 0.0 ? r->bytes * 1e-6 : (double)NAN);
        print_cell(7, "%.1f", r->bytes / ns);
        print_cell(7, "%.1f", stream_gbps);
        print_cell(7, "%.1f", gather_gbps);
        print_cell(6, "%.3f", r->bytes / stream_gbps / ns);
        print_cell(6, "%.3f", ideal_ns / ns);
        print_cell(8, "%.1f", r->flops / ns);
        print_cell(9, "%.2e", error);
        printf("\n");
        fflush(stdout);
        return;
    }
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    struct json j;
    char name[256], options[64];
    sffn_context_get_info(run->ctx, &info);
    layer_run_options(run, options, sizeof options);
    snprintf(name, sizeof name, "stages %s %s %s %s%s density %.4g tokens %zu threads %u %s%s",
             r->name, o->shape, sffn_dtype_name(l->dtype), select_names[run->select], options,
             run->density, run->n_tokens, run->n_threads, o->is_warm ? "warm" : "cold",
             o->planted ? "; " PLANTED_WORDS : "");
    json_begin(&j);
    json_string(&j, "name", name);
    json_string(&j, "stage", r->name);
    json_string(&j, "shape", o->shape);
    json_uint(&j, "d_model", o->d_model);
    json_uint(&j, "d_ff", o->d_ff);
    json_string(&j, "dtype", sffn_dtype_name(l->dtype));
    json_string(&j, "select", select_names[run->select]);
    json_number(&j, "density", run->density);
    json_uint(&j, "n_tokens", run->n_tokens);
    json_uint(&j, "n_threads", run->n_threads);
    json_string(&j, "isa", info.isa);
    json_summary(&j, &r->time);
    json_number(&j, "share", r->time.median / total_ns);
    json_uint(&j, "touched_bytes", (uint64_t)(r->bytes + 0.5));
    json_number(&j, "effective_gbps", r->bytes / ns);
    json_number(&j, "stream_gbps", stream_gbps);
    json_number(&j, "stream_median_gbps", stream_median_gbps);
    json_number(&j, "gather_gbps", gather_gbps);
    json_number(&j, "limit_fraction", r->bytes / stream_gbps / ns);
    json_number(&j, "median_limit_fraction", r->bytes / stream_median_gbps / ns);
    json_number(&j, "gather_fraction", ideal_ns / ns);
    json_number(&j, "flops", r->flops);
    json_number(&j, "gflops", r->flops / ns);
    json_number(&j, "relative_error", error);
    json_end(&j);
}

static void print_stages(struct stages *s, const struct layer_run *run, const struct traffic *t,
                         const struct stage_row rows[N_STAGES], double stream_gbps, double error)
{
    const struct layer_options *o = s->o;
    if (!s->has_header) {
        sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
        layer_run_info(run, &info);
        print_machine(o->as_json ? stderr : stdout, &info);
        fprintf(o->as_json ? stderr : stdout, "\n");
        warn_when_busy(COMMAND, info.n_cpus);
        if (!o->as_json)
            printf("shape %s (%u x %u), %s weights\n\n%-8s %-5s %7s %6s %7s %-8s %10s %10s %10s "
                   "%6s %9s %7s %7s %7s %6s %6s %8s %9s\n",
                   o->shape, o->d_model, o->d_ff, o->is_warm ? "warm" : "cold", "select", "dtype",
                   "density", "tokens", "threads", "stage", "median ms", "min", "max", "share",
                   "read MB", "GB/s", "stream", "gather", "limit", "gather", "GFLOP/s", "error");
        s->has_header = 1;
    }
    warn_when_noisy(COMMAND, select_names[run->select], &rows[STAGE_TOTAL].time);
    for (int i = 0; i < N_STAGES; i++) {
        const int is_absent =
            (i == STAGE_SELECT && !(t->selector > 0.0)) || (i == STAGE_UP && !t->is_sparse);
        if (!is_absent)
            print_stage(s, run, &rows[i], rows[STAGE_TOTAL].time.median, stream_gbps, error);
    }
}

static int run_row(struct stages *s, int32_t dtype, enum select select, double density,
                   uint32_t trace_layer, size_t n_tokens, uint32_t n_threads)
{
    static const char *const names[N_STAGES] = {"select", "gate", "up", "down", "other", "total"};
    struct layer_run run;
    struct stage_row rows[N_STAGES];
    struct traffic t;
    struct errors errors;
    memset(rows, 0, sizeof rows);
    if (!workbench_use_layer(&s->w, dtype, select == SELECT_ROUTER))
        return 0;
    progress("measuring the memory");
    ceilings_stream_gbps(s->w.ceilings, n_threads);
    const int ok =
        layer_run_create(&run, &s->w, select, density, trace_layer, n_tokens, n_threads, 1) &&
        measure_times(&run, rows) && layer_run_traffic(&run, &t) && layer_run_errors(&run, &errors);
    if (ok) {
        progress("measuring the memory");
        const double stream_gbps = ceilings_stream_gbps(s->w.ceilings, n_threads);
        fill_traffic(&run, &t, rows);
        for (int i = 0; i < N_STAGES; i++)
            rows[i].name = i == STAGE_GATE && !t.is_sparse ? "gate+up" : names[i];
        progress(NULL);
        print_stages(s, &run, &t, rows, stream_gbps, errors.reference);
    }
    layer_run_destroy(&run);
    return ok;
}

int bench_stages(int argc, char **argv)
{
    static const struct layer_defaults defaults = {"q4_0", "0.107", "dense,gate,cascade", "1", "1"};
    struct layer_options o;
    struct stages s;
    int status = layer_options_parse(&o, COMMAND, help, &defaults, NULL, 0, argc, argv);
    if (status != 0)
        return status == 1 ? 0 : status;
    memset(&s, 0, sizeof s);
    s.o = &o;
    int ok = workbench_create(&s.w, &o);
    const size_t n_masks = !ok ? 0 : o.trace ? s.w.trace.n_layers : o.n_densities;
    /* A combination that the library refuses has said so; the others go on. */
    for (size_t d = 0; d < o.n_dtypes; d++) /* types first, so that a layer is made once */
        for (size_t to = 0; to < o.n_tokens; to++)
            for (size_t m = 0; m < n_masks; m++)
                for (size_t e = 0; e < o.n_selects; e++)
                    for (size_t th = 0; th < o.n_threads; th++)
                        ok &= run_row(&s, o.dtypes[d], o.selects[e], o.trace ? 1.0 : o.densities[m],
                                      o.trace ? (uint32_t)m : 0, o.tokens[to], o.threads[th]);
    progress(NULL);
    workbench_destroy(&s.w);
    return ok ? 0 : 1;
}
