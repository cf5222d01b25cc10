/* stats.c  sffn-bench stats: what counting costs. The same layer and input in two contexts, one of which collects statistics, call by call in
 * turn; the difference of the medians is what is printed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "layer.h"
#include "options.h"
#include "report.h"
#include "sparseffn/sparseffn.h"

#define COMMAND "sffn-bench stats"

static const char help[] =
    "Usage: " COMMAND " [OPTIONS]\n"
    "\n"
    "Times a gate-first layer without and with statistics (sffn_context_config.collect_stats), "
    "call by call in turn, and\n"
    "prints by how much statistics slow it down. Small layers show the most: a call's cost is the "
    "same for any size.\n"
    "\n"
    "  --shape D,F       d_model,d_ff; default 512,2304, the bundled model's, and 4096,11008\n"
    "  --threads N       1..512; default 1\n"
    "  --recall-every N  also check every N-th token against the whole gate (stats_recall_every); "
    "default 0: none\n"
    "  --repeats N       pairs of calls; default 20000 for the small shape, 1000 for the large "
    "one\n"
    "  --json            one JSON object per line\n"
    "  --help            this text\n";

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* [0] without, [1] with statistics. */
struct pair {
    sffn_context *ctx[2];
    sffn_ffn *ffn[2];
    double *ns[2];
};

static sffn_status pair_create(struct pair *p, const struct layer *l, uint32_t n_threads,
                               uint32_t recall_every)
{
    sffn_status status = SFFN_OK;
    for (int i = 0; status == SFFN_OK && i < 2; i++) {
        sffn_context_config context = SFFN_CONTEXT_CONFIG_INIT;
        sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
        context.n_threads = n_threads;
        context.collect_stats = i;
        context.stats_recall_every = i ? recall_every : 0;
        status = sffn_context_create(&context, &p->ctx[i]);
        config.d_model = l->d_model;
        config.d_ff = l->d_ff;
        config.gate.data = l->gate;
        config.up.data = l->up;
        config.down.data = l->down;
        config.gate.dtype = config.up.dtype = config.down.dtype = l->dtype;
        config.down.layout = SFFN_LAYOUT_ROWS;
        config.storage = SFFN_STORAGE_BORROW; /* the same memory for both */
        if (status == SFFN_OK)
            status = sffn_ffn_create(p->ctx[i], &config, &p->ffn[i]);
    }
    return status;
}

static void pair_destroy(struct pair *p)
{
    for (int i = 0; i < 2; i++) {
        sffn_ffn_destroy(p->ffn[i]);
        sffn_context_destroy(p->ctx[i]);
        free(p->ns[i]);
    }
}

static sffn_status time_pair(struct pair *p, const float *x, float *y, size_t repeats)
{
    sffn_status status = SFFN_OK;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = y;
    args.n_tokens = 1;
    args.select = SFFN_SELECT_GATE;
    for (size_t r = 0; status == SFFN_OK && r < repeats + 20; r++)
        for (size_t k = 0; status == SFFN_OK && k < 2; k++) {
            const size_t i = (r + k) % 2; /* neither is always the one that finds warm caches */
            const double start = now_ns();
            status = sffn_ffn_forward(p->ctx[i], p->ffn[i], &args);
            if (r >= 20)
                p->ns[i][r - 20] = now_ns() - start;
        }
    for (int i = 0; i < 2; i++)
        qsort(p->ns[i], repeats, sizeof(double), by_value);
    return status;
}

static int run_shape(uint32_t d_model, uint32_t d_ff, uint32_t n_threads, uint32_t recall_every,
                     size_t repeats, int as_json)
{
    struct pair p = {{NULL, NULL}, {NULL, NULL}, {NULL, NULL}};
    struct layer layer;
    float *x = calloc(2 * (size_t)d_model, sizeof *x);
    uint64_t state = 3;
    if (!x || !layer_create(&layer, d_model, d_ff, SFFN_Q8_0, 0)) {
        free(x);
        return 1;
    }
    for (uint32_t j = 0; j < d_model; j++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[j] = (float)(state >> 40) / 8388608.0f - 1.0f;
    }
    p.ns[0] = calloc(repeats, sizeof(double));
    p.ns[1] = calloc(repeats, sizeof(double));
    sffn_status status = p.ns[0] && p.ns[1] ? pair_create(&p, &layer, n_threads, recall_every)
                                            : SFFN_ERR_OUT_OF_MEMORY;
    if (status == SFFN_OK)
        status = time_pair(&p, x, x + d_model, repeats);
    if (status != SFFN_OK) {
        fprintf(stderr, COMMAND ": %s\n", sffn_status_name(status));
    } else {
        const double off = p.ns[0][repeats / 2], on = p.ns[1][repeats / 2];
        if (as_json)
            printf("{\"name\":\"stats\",\"d_model\":%u,\"d_ff\":%u,\"dtype\":\"q8_0\",\"n_"
                   "threads\":%u,"
                   "\"recall_every\":%u,\"repeats\":%zu,\"off_ns\":%.0f,\"on_ns\":%.0f,\"cost\":%."
                   "5f}\n",
                   d_model, d_ff, n_threads, recall_every, repeats, off, on, on / off - 1);
        else
            printf(
                "%5u x %-6u q8_0, %u threads, %zu pairs: %.2f us without, %.2f us with statistics: "
                "%+.2f %%\n",
                d_model, d_ff, n_threads, repeats, off / 1e3, on / 1e3, 100 * (on / off - 1));
    }
    pair_destroy(&p);
    layer_destroy(&layer);
    free(x);
    return status != SFFN_OK;
}

int bench_stats(int argc, char **argv)
{
    struct option_def defs[] = {{"--shape", 1, NULL},        {"--threads", 1, NULL},
                                {"--recall-every", 1, NULL}, {"--repeats", 1, NULL},
                                {"--json", 0, NULL},         {"--help", 0, NULL}};
    const size_t n_defs = sizeof defs / sizeof defs[0];
    uint64_t n_threads = 1, recall_every = 0, repeats = 0, d_model = 0, d_ff = 0;
    const char *value;
    if (options_parse(COMMAND, argc, argv, defs, n_defs))
        return EXIT_USAGE;
    if (option_value(defs, n_defs, "--help")) {
        fputs(help, stdout);
        return 0;
    }
    if ((value = option_value(defs, n_defs, "--shape")) != NULL) {
        char item[32], rest[32];
        const char *list = value;
        if (!strchr(value, ',') || !next_item(&list, item, sizeof item) ||
            !next_item(&list, rest, sizeof rest) || list)
            return usage_error(COMMAND, "--shape is \"%s\"; expected d_model,d_ff", value);
        if (parse_uint(COMMAND, "d_model of --shape", item, 32, 1u << 16, &d_model) ||
            parse_uint(COMMAND, "d_ff of --shape", rest, 1, 1u << 18, &d_ff))
            return EXIT_USAGE;
        if (d_model % 32)
            return usage_error(COMMAND, "d_model is %u; q8_0 needs a multiple of 32",
                               (unsigned)d_model);
    }
    if (((value = option_value(defs, n_defs, "--threads")) != NULL &&
         parse_uint(COMMAND, "--threads", value, 1, 512, &n_threads)) ||
        ((value = option_value(defs, n_defs, "--recall-every")) != NULL &&
         parse_uint(COMMAND, "--recall-every", value, 0, UINT32_MAX, &recall_every)) ||
        ((value = option_value(defs, n_defs, "--repeats")) != NULL &&
         parse_uint(COMMAND, "--repeats", value, 1, 1u << 24, &repeats)))
        return EXIT_USAGE;
    const int as_json = option_value(defs, n_defs, "--json") != NULL;
    if (d_model)
        return run_shape((uint32_t)d_model, (uint32_t)d_ff, (uint32_t)n_threads,
                         (uint32_t)recall_every, repeats ? (size_t)repeats : 1000, as_json);
    const int failed = run_shape(512, 2304, (uint32_t)n_threads, (uint32_t)recall_every,
                                 repeats ? (size_t)repeats : 20000, as_json);
    return failed ? failed
                  : run_shape(4096, 11008, (uint32_t)n_threads, (uint32_t)recall_every,
                              repeats ? (size_t)repeats : 1000, as_json);
}
