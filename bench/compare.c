/* compare.c  sffn-bench compare: the same layer through other libraries, beside ours. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "layer_run.h"
#include "peer.h"

#define COMMAND "sffn-bench compare"

static const char help[] =
    "Usage: " COMMAND " [OPTIONS]\n"
    "\n"
    "Times the same layer dense through other libraries beside this one, taking turns: oneDNN "
    "(f32, bf16, s8), OpenBLAS (sgemv, for\n"
    "several tokens sgemm), PyTorch (f32, bf16; another process) and ggml (f32, f16, bf16, q8_0, "
    "q4_0; plain, and repacked where it\n"
    "does that). A peer is compared with our layer of the nearest type: s8 with q8_0. Peers that "
    "are missing are skipped with a word.\n"
    "All weights are cold. Lists are separated by commas; every combination is a group of rows. "
    "Defaults: shape llama2-7b, dtype\n"
    "f32,bf16,q8_0,q4_0, density 0.107, select gate,cascade,oracle, tokens 1, threads 1.\n"
    "\n"
    "  --peers LIST         of onednn, openblas, torch, ggml; default all\n"
    "  --libraries LIST     folders with libopenblas or libggml-base and libggml-cpu, before the "
    "system's places; the wheel of\n"
    "                       llama-cpp-python has the latter in llama_cpp/lib\n"
    "  --python PROGRAM     an interpreter that has torch\n"
    "\n"
    "Columns and JSON keys: peer (\"sffn\": ours), version, how: its implementation; dtype: of the "
    "peer's weights, layer_dtype: of\n"
    "ours; sffn_dense_ns and sffn_select_ns: our dense path and the first selection, in turns "
    "with the peer, and their quotients\n"
    "with median_ns: sffn_dense_speedup, sffn_select_speedup. relative_error of a peer holds what "
    "its type costs against our weights\n"
    "(s8: rounded once more; down rows of q8_0 and q4_0 along the other direction). The others are "
    "those of sffn-bench ffn:\n";

static const struct {
    const char *name;
    peer_open_fn open;
    const char *dtype;       /* the peer's */
    const char *layer_dtype; /* ours */
} peers[] = {
    {"onednn", peer_onednn_open, "f32", "f32"},
    {"openblas", peer_openblas_open, "f32", "f32"},
    {"torch", peer_torch_open, "f32", "f32"},
    {"ggml", peer_ggml_open, "f32", "f32"},
    {"ggml", peer_ggml_open, "f16", "f16"},
    {"onednn", peer_onednn_open, "bf16", "bf16"},
    {"torch", peer_torch_open, "bf16", "bf16"},
    {"ggml", peer_ggml_open, "bf16", "bf16"},
    {"onednn", peer_onednn_open, "s8", "q8_0"},
    {"ggml", peer_ggml_open, "q8_0", "q8_0"},
    {"ggml", peer_ggml_open, "q8_0 repacked", "q8_0"},
    {"ggml", peer_ggml_open, "q4_0", "q4_0"},
    {"ggml", peer_ggml_open, "q4_0 repacked", "q4_0"},
};
enum { N_PEERS = sizeof peers / sizeof peers[0] };

struct compare {
    const struct layer_options *o;
    struct workbench w;
    const char *names, *libraries, *python;
    int has_header;
    size_t n_tokens;
    uint32_t n_threads;
};

struct row {
    const char *peer, *dtype, *select;
    const char *version, *how;
    struct summary time, dense, selected;
    double weight_bytes, touched_bytes, stream_gbps, error;
};

/* ---- reporting ---- */

static void print_row(struct compare *c, const struct layer_run *own, const struct row *r)
{
    const struct layer_options *o = c->o;
    const char *layer_dtype = sffn_dtype_name(c->w.layer.dtype);
    FILE *out = o->as_json ? stderr : stdout;
    if (!c->has_header) {
        sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
        layer_run_info(own, &info);
        print_machine(out, &info);
        fprintf(out, "\n");
        warn_when_busy(COMMAND, info.n_cpus);
        if (!o->as_json)
            printf("shape %s (%u x %u), %s weights\n\n%-9s %-14s %-8s %6s %7s %10s %10s %10s %6s "
                   "%6s %7s %6s %10s %10s %9s  %s\n",
                   o->shape, o->d_model, o->d_ff, o->is_warm ? "warm" : "cold", "peer", "dtype",
                   "select", "tokens", "threads", "median ms", "min", "max", "n", "+-", "GB/s",
                   "limit", "our dense", select_names[o->selects[0]], "error", "how");
    }
    c->has_header = 1;
    warn_when_noisy(COMMAND, r->peer, &r->time);
    if (!o->as_json) {
        printf("%-9s %-14s %-8s %6zu %7u %10.4f %10.4f %10.4f %6zu", r->peer, r->dtype, r->select,
               c->n_tokens, c->n_threads, r->time.median * 1e-6, r->time.min * 1e-6,
               r->time.max * 1e-6, r->time.n);
        print_cell(6, "%.3f", r->time.error);
        print_cell(7, "%.1f", r->touched_bytes / r->time.median);
        print_cell(6, "%.3f", r->touched_bytes / r->stream_gbps / r->time.median);
        print_cell(10, "%.2fx", r->time.median / r->dense.median);
        print_cell(10, "%.2fx", r->time.median / r->selected.median);
        print_cell(9, "%.2e", r->error);
        printf("  %s%s%s\n", r->version, r->version[0] ? ", " : "", r->how);
        fflush(stdout);
        return;
    }
    const double stream_median_gbps = ceilings_stream_median_gbps(c->w.ceilings, c->n_threads);
    struct json j;
    char name[256];
    snprintf(name, sizeof name, "compare %s %s %s %s tokens %zu threads %u %s", r->peer, o->shape,
             r->dtype, r->select, c->n_tokens, c->n_threads, o->is_warm ? "warm" : "cold");
    json_begin(&j);
    json_string(&j, "name", name);
    json_string(&j, "peer", r->peer);
    json_string(&j, "version", r->version);
    json_string(&j, "how", r->how);
    json_string(&j, "shape", o->shape);
    json_uint(&j, "d_model", o->d_model);
    json_uint(&j, "d_ff", o->d_ff);
    json_string(&j, "dtype", r->dtype);
    json_string(&j, "layer_dtype", layer_dtype);
    json_string(&j, "select", r->select);
    json_number(&j, "density", strcmp(r->select, "dense") == 0 ? 1.0 : own->density);
    json_uint(&j, "n_tokens", c->n_tokens);
    json_uint(&j, "n_threads", c->n_threads);
    json_summary(&j, &r->time);
    json_uint(&j, "weight_bytes", (uint64_t)r->weight_bytes);
    json_uint(&j, "touched_bytes", (uint64_t)(r->touched_bytes + 0.5));
    json_number(&j, "effective_gbps", r->touched_bytes / r->time.median);
    json_number(&j, "stream_gbps", r->stream_gbps);
    json_number(&j, "stream_median_gbps", stream_median_gbps);
    json_number(&j, "limit_fraction", r->touched_bytes / r->stream_gbps / r->time.median);
    json_number(&j, "median_limit_fraction",
                r->touched_bytes / stream_median_gbps / r->time.median);
    json_string(&j, "sffn_select", select_names[o->selects[0]]);
    json_number(&j, "sffn_dense_ns", r->dense.median);
    json_number(&j, "sffn_select_ns", r->selected.median);
    json_number(&j, "sffn_dense_speedup", r->time.median / r->dense.median);
    json_number(&j, "sffn_select_speedup", r->time.median / r->selected.median);
    json_number(&j, "relative_error", r->error);
    json_end(&j);
}

/* ---- measuring ---- */

/* Our dense path, our selection, and the peer if there is one, in turns. */
static int take_turns(struct layer_run *own, struct peer *peer, struct row *r)
{
    const struct layer_options *o = own->w->o;
    const struct stop_rule rule = {o->repeats, o->seconds};
    struct samples samples[3] = {{NULL, 0, 0.0}, {NULL, 0, 0.0}, {NULL, 0, 0.0}};
    sffn_status status = SFFN_OK;
    size_t turn = 0;
    int ok = samples_init(&samples[0]) && samples_init(&samples[1]) && samples_init(&samples[2]);
    for (size_t i = 0; ok && peer && peer->forward && i < 3 + peer->n_copies; i++)
        ok = peer->forward(peer, turn++); /* code, page tables, threads */
    for (int round = 0, goes_on = 1; ok && status == SFFN_OK && goes_on; round++) {
        const enum select turns[2] = {SELECT_DENSE, own->select};
        for (int i = 0; i < 2 && status == SFFN_OK; i++) {
            progress("measuring %s, round %d", select_names[turns[i]], round + 1);
            status =
                layer_run_forward(own, 0, turns[i], own->y, NULL, NULL); /* wakes the threads */
            const double begin = now_ns();
            for (size_t n = 0;
                 status == SFFN_OK && round_goes_on(&rule, round, &samples[i], n, begin); n++)
                status = layer_run_sample(own, turns[i], &samples[i], NULL);
        }
        if (peer) {
            progress("measuring the peer, round %d", round + 1);
            ok = peer_round(peer, &rule, round, &turn, &samples[2]);
        }
        goes_on = needs_round(&rule, round + 1, &samples[0]) |
                  needs_round(&rule, round + 1, &samples[1]) |
                  (peer && needs_round(&rule, round + 1, &samples[2]));
    }
    progress(NULL);
    r->dense = samples_summary(&samples[0]);
    r->selected = samples_summary(&samples[1]);
    r->time = samples_summary(&samples[2]);
    for (int i = 0; i < 3; i++)
        samples_free(&samples[i]);
    if (status != SFFN_OK)
        return layer_run_fail(own, "running the layer", status);
    return ok;
}

/* Ours: the dense path and every selection. The first selection stays to take turns with the peers. */
static int run_own(struct compare *c, struct layer_run *first)
{
    const struct layer_options *o = c->o;
    int all_ok = 1;
    for (size_t s = 0; s < o->n_selects; s++) {
        struct layer_run other, *run = s == 0 ? first : &other;
        struct traffic t;
        struct errors errors;
        struct row r = {.peer = "sffn",
                        .dtype = sffn_dtype_name(c->w.layer.dtype),
                        .select = select_names[o->selects[s]],
                        .version = sffn_version_string(),
                        .how = ""};
        progress("measuring the memory");
        ceilings_stream_gbps(c->w.ceilings, c->n_threads);
        const int ok = layer_run_create(run, &c->w, o->selects[s], o->densities[0], 0, c->n_tokens,
                                        c->n_threads, 0) &&
                       take_turns(run, NULL, &r) && layer_run_traffic(run, &t) &&
                       layer_run_errors(run, &errors);
        if (ok) {
            sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
            sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
            sffn_context_get_info(run->ctx, &info);
            progress("measuring the memory");
            r.stream_gbps = ceilings_stream_gbps(c->w.ceilings, c->n_threads);
            progress(NULL);
            r.how = info.isa;
            r.weight_bytes = (double)c->w.layer.weight_bytes;
            if (s == 0) {
                struct row dense = r;
                struct layer_run as_dense = *run;
                struct errors dense_errors;
                as_dense.select = SELECT_DENSE;
                dense.select = "dense";
                dense.time = r.dense;
                all_ok &=
                    layer_run_forward(run, 0, SELECT_DENSE, run->y, NULL, &stats) == SFFN_OK &&
                    layer_run_errors(&as_dense, &dense_errors);
                dense.touched_bytes = (double)stats.touched_bytes;
                dense.error = dense_errors.reference;
                print_row(c, run, &dense);
            }
            r.time = r.selected;
            if (s > 0) /* it took no turns with the first selection */
                r.selected.median = (double)NAN;
            r.touched_bytes = t.touched;
            r.error = errors.reference;
            if (run->select != SELECT_DENSE)
                print_row(c, run, &r);
        }
        if (s > 0)
            layer_run_destroy(run);
        else if (!ok)
            return 0; /* nothing to take turns with */
        all_ok &= ok;
    }
    return all_ok;
}

static int is_wanted(const struct compare *c, const char *name)
{
    char item[32];
    for (const char *list = c->names; next_item(&list, item, sizeof item);)
        if (strcmp(item, name) == 0)
            return 1;
    return 0;
}

static void run_peer(struct compare *c, struct layer_run *own, int i, const float *x,
                     const double *reference, size_t n_checked)
{
    const struct peer_layer of = {&c->w.layer,
                                  x,
                                  c->n_tokens,
                                  c->n_threads,
                                  workbench_cold_bytes(&c->w),
                                  available_memory_bytes() / 10 * 7,
                                  c->libraries,
                                  c->python};
    struct peer peer;
    memset(&peer, 0, sizeof peer);
    progress("%s %s", peers[i].name, peers[i].dtype);
    const int is_open = peers[i].open(&peer, &of, peers[i].dtype);
    progress(NULL);
    if (!is_open) {
        fprintf(stderr, COMMAND ": %s %s is skipped: %s\n", peers[i].name, peers[i].dtype,
                peer.how);
        return;
    }
    struct row r = {.peer = peers[i].name,
                    .dtype = peers[i].dtype,
                    .select = "dense",
                    .version = peer.version,
                    .how = peer.how,
                    .weight_bytes = (double)peer.weight_bytes,
                    .touched_bytes = (double)peer.weight_bytes};
    if (!take_turns(own, &peer, &r)) {
        fprintf(stderr, COMMAND ": %s %s is left out: a call failed\n", peers[i].name,
                peers[i].dtype);
    } else {
        r.error = relative_error(peer.result(&peer), reference, n_checked * c->w.layer.d_model);
        progress("measuring the memory");
        r.stream_gbps = ceilings_stream_gbps(c->w.ceilings, c->n_threads);
        progress(NULL);
        if (r.error > 0.2) /* not this layer: not to be compared with */
            fprintf(stderr, COMMAND ": %s %s is left out, its relative error is %.3g\n",
                    peers[i].name, peers[i].dtype, r.error);
        else
            print_row(c, own, &r);
    }
    peer.close(&peer);
}

static int run_group(struct compare *c, int32_t dtype)
{
    const size_t n_checked = c->n_tokens < 4 ? c->n_tokens : 4;
    struct layer_run own;
    if (!workbench_use_layer(&c->w, dtype, 0))
        return 0;
    memset(&own, 0, sizeof own);
    int ok = run_own(c, &own);
    if (own.ffn && own.inputs.x) {
        const struct peer_layer of = {&c->w.layer, own.inputs.x, c->n_tokens, c->n_threads, 0,
                                      0,           NULL,         NULL};
        double *reference = peer_reference(&of, n_checked);
        ok &= reference != NULL;
        for (int i = 0; reference && i < N_PEERS; i++)
            if (is_wanted(c, peers[i].name) &&
                strcmp(peers[i].layer_dtype, sffn_dtype_name(dtype)) == 0)
                run_peer(c, &own, i, own.inputs.x, reference, n_checked);
        free(reference);
    }
    layer_run_destroy(&own);
    return ok;
}

int bench_compare(int argc, char **argv)
{
    static const struct layer_defaults defaults = {"f32,bf16,q8_0,q4_0", "0.107",
                                                   "gate,cascade,oracle", "1", "1"};
    struct option_def extra[] = {
        {"--peers", 1, NULL}, {"--libraries", 1, NULL}, {"--python", 1, NULL}};
    struct layer_options o;
    struct compare c;
    char item[32];
    const int status = layer_options_parse(&o, COMMAND, help, &defaults, extra, 3, argc, argv);
    if (status != 0)
        return status == 1 ? 0 : status;
    memset(&c, 0, sizeof c);
    c.o = &o;
    c.names = extra[0].value ? extra[0].value : "onednn,openblas,torch,ggml";
    c.libraries = extra[1].value;
    c.python = extra[2].value;
    for (const char *list = c.names; next_item(&list, item, sizeof item);) {
        int is_known = 0;
        for (int i = 0; i < N_PEERS; i++)
            is_known |= strcmp(peers[i].name, item) == 0;
        if (!is_known)
            return usage_error(
                COMMAND, "--peers has \"%s\"; expected onednn, openblas, torch or ggml", item);
    }
    if (o.trace || o.planted)
        return usage_error(COMMAND, "%s has no meaning here: peers run dense",
                           o.trace ? "--trace" : "--planted");
    if (o.n_densities != 1)
        return usage_error(COMMAND, "--density is a list; expected one number");
    for (size_t s = 0; s < o.n_selects; s++)
        if (o.selects[s] == SELECT_ROUTER)
            return usage_error(
                COMMAND, "--select router has another layer than the peers; see sffn-bench ffn");
    int ok = workbench_create(&c.w, &o);
    for (size_t d = 0; ok && d < o.n_dtypes; d++)
        for (size_t t = 0; t < o.n_tokens; t++)
            for (size_t th = 0; th < o.n_threads; th++) {
                c.n_tokens = o.tokens[t];
                c.n_threads = o.threads[th];
                ok &= run_group(&c, o.dtypes[d]);
            }
    progress(NULL);
    workbench_destroy(&c.w);
    return ok ? 0 : 1;
}
