/*
 * eval.c  What selections catch, lose, read and cost, layer by layer, on the inputs that the dense model gives the layers; and what
 * that does to the model's perplexity. measure.h defines the figures.
 */
#include "eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "mask_file.h"

struct run {
    struct eval *e;
    struct measure measure;
    struct mask_file *mask; /* NULL: none */
    size_t point;           /* that before_ffn() applies */
};

/* ---------------------------------------------------------------- dense, with all layers measured */

static sffn_status on_ffn(void *user, uint32_t layer, const sffn_ffn_args *args)
{
    struct run *run = user;
    struct eval *e = run->e;
    const struct llama_layer *l = &e->llama->layers[layer];
    sffn_status status =
        measure_begin(&run->measure, l->ffn, args->x, args->select_x, args->n_tokens);
    for (size_t i = 0; status == SFFN_OK && i < e->selections.n; i++)
        status = measure_add(&run->measure, NULL, &e->points[i].selectors, layer,
                             l->config.down_bias, &e->points[i].sums[layer]);
    if (status == SFFN_OK && run->mask != NULL &&
        mask_file_add(run->mask, layer, run->measure.truth) != CLI_OK)
        status = SFFN_ERR_INTERRUPTED;
    return status;
}

static int run_dense(struct run *run, const struct ids *ids, int32_t bos)
{
    struct llama *m = run->e->llama;
    int status;
    m->select = SFFN_SELECT_DENSE;
    m->on_ffn = on_ffn;
    m->on_ffn_user = run;
    status = heldout_perplexity(m, ids->data, ids->n, run->e->window, bos, "dense, layers measured",
                                &run->e->dense);
    m->on_ffn = NULL;
    return status;
}

/* ---------------------------------------------------------------- with a selection */

static sffn_status before_ffn(void *user, uint32_t layer, sffn_ffn_args *args)
{
    struct run *run = user;
    return selector_run(run->e->llama->ctx, &run->e->points[run->point].selectors, layer, args);
}

static int run_sparse(struct run *run, const struct ids *ids, int32_t bos, size_t point)
{
    struct llama *m = run->e->llama;
    char what[48];
    int status;
    run->point = point;
    m->before_ffn = before_ffn;
    m->before_ffn_user = run;
    snprintf(what, sizeof what, "%.40s", run->e->points[point].selection->text);
    status = heldout_perplexity(m, ids->data, ids->n, run->e->window, bos, what,
                                &run->e->points[point].perplexity);
    m->before_ffn = NULL;
    return status;
}

/* ---------------------------------------------------------------- time */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median time of each layer over tokens that come one by one, as in generation. */
static int time_layers(struct llama *m, const struct ids *ids, uint32_t n, double *ns)
{
    uint32_t n_layers = m->info.n_layers;
    double *times = cli_alloc((size_t)n * n_layers, sizeof *times);
    int status = CLI_OK;
    llama_reset(m);
    for (uint32_t t = 0; status == CLI_OK && t < n; t++) {
        memset(m->stats, 0, n_layers * sizeof *m->stats);
        status = llama_eval(m, &ids->data[t], 1, 0, NULL);
        for (uint32_t i = 0; i < n_layers; i++)
            times[(size_t)i * n + t] = (double)m->stats[i].ns;
        if (status == CLI_OK && cli_interrupted())
            status = cli_fail("interrupted");
    }
    for (uint32_t i = 0; status == CLI_OK && i < n_layers; i++) {
        qsort(times + (size_t)i * n, n, sizeof *times, by_value);
        ns[i] = times[(size_t)i * n + n / 2];
    }
    free(times);
    return status;
}

static int run_times(struct run *run, const struct ids *ids)
{
    struct eval *e = run->e;
    struct llama *m = e->llama;
    uint32_t n = e->n_timed, n_layers = m->info.n_layers;
    double *ns = cli_alloc(n_layers, sizeof *ns);
    int status;
    m->select = SFFN_SELECT_DENSE;
    status = time_layers(m, ids, n, e->dense_ns);
    m->before_ffn = before_ffn;
    m->before_ffn_user = run;
    for (size_t p = 0; status == CLI_OK && p < e->selections.n; p++) {
        run->point = p;
        status = time_layers(m, ids, n, ns);
        for (uint32_t i = 0; i < n_layers; i++) {
            e->points[p].rows[i].ns = ns[i];
            e->points[p].rows[i].dense_ns = e->dense_ns[i];
        }
    }
    m->before_ffn = NULL;
    free(ns);
    return status;
}

/* ---------------------------------------------------------------- all of it */

static void add_row(struct measure_row *sum, const struct measure_row *row, double weight)
{
    sum->density += row->density * weight;
    sum->predicted_density += row->predicted_density * weight;
    sum->down_density += row->down_density * weight;
    sum->recall += row->recall * weight;
    sum->precision += row->precision * weight;
    sum->cett += row->cett * weight;
    sum->relative_error += row->relative_error * weight;
    sum->bytes += row->bytes;
    sum->dense_bytes += row->dense_bytes;
    sum->ns += row->ns;
    sum->dense_ns += row->dense_ns;
}

static int create_points(struct eval *e)
{
    struct llama *m = e->llama;
    uint32_t n_layers = m->info.n_layers;
    const sffn_ffn_config **configs = cli_alloc(n_layers, sizeof *configs);
    int status = CLI_OK;
    e->points = cli_alloc(e->selections.n, sizeof *e->points);
    e->dense_ns = cli_alloc(n_layers, sizeof *e->dense_ns);
    for (uint32_t i = 0; status == CLI_OK && i < n_layers; i++) {
        configs[i] = &m->layers[i].config;
        if (configs[i]->d_ff != configs[0]->d_ff)
            status = cli_fail("layer %u has %u neurons, expected %u as in layer 0", (unsigned)i,
                              (unsigned)configs[i]->d_ff, (unsigned)configs[0]->d_ff);
    }
    for (size_t p = 0; status == CLI_OK && p < e->selections.n; p++) {
        e->points[p].selection = &e->selections.data[p];
        e->points[p].sums = cli_alloc(n_layers, sizeof *e->points[p].sums);
        e->points[p].rows = cli_alloc(n_layers, sizeof *e->points[p].rows);
        for (uint32_t i = 0; status == CLI_OK && i < n_layers; i++)
            status = selection_check_own(e->points[p].selection, i, m->layers[i].ffn);
        if (status != CLI_OK)
            break;
        status = selectors_create(m->ctx, e->points[p].selection, configs, n_layers,
                                  LLAMA_MAX_BATCH, &e->points[p].selectors);
    }
    free(configs);
    return status;
}

static int run_eval(struct eval *e, const struct ids *ids, int32_t bos, const char *record_path)
{
    struct llama *m = e->llama;
    struct mask_file mask;
    struct run run;
    int status = create_points(e);
    memset(&mask, 0, sizeof mask);
    memset(&run, 0, sizeof run);
    run.e = e;
    if (status == CLI_OK)
        status = measure_create(&run.measure, m->ctx, m->info.d_model, m->layers[0].config.d_ff,
                                LLAMA_MAX_BATCH);
    if (status == CLI_OK && record_path != NULL) {
        run.mask = &mask;
        status = mask_file_create(&mask, record_path, m->info.n_layers, m->layers[0].config.d_ff,
                                  LLAMA_MAX_BATCH);
    }
    if (status == CLI_OK)
        status = run_dense(&run, ids, bos);
    if (status == CLI_OK && record_path != NULL)
        status = mask_file_finish(&mask);
    for (size_t p = 0; status == CLI_OK && p < e->selections.n; p++) {
        for (uint32_t i = 0; i < m->info.n_layers; i++)
            measure_row(&e->points[p].sums[i], m->layers[i].ffn, &e->points[p].selectors.layers[i],
                        &e->points[p].rows[i]);
        if (!e->points[p].selection->is_curve)
            status = run_sparse(&run, ids, bos, p);
    }
    if (status == CLI_OK && e->n_timed != 0)
        status = run_times(&run, ids);
    for (size_t p = 0; status == CLI_OK && p < e->selections.n; p++)
        for (uint32_t i = 0; i < m->info.n_layers; i++)
            add_row(&e->points[p].mean, &e->points[p].rows[i], 1.0 / m->info.n_layers);
    measure_free(&run.measure);
    mask_file_free(&mask);
    return status;
}

static void free_eval(struct eval *e)
{
    for (size_t p = 0; e->points != NULL && p < e->selections.n; p++) {
        selectors_free(&e->points[p].selectors);
        free(e->points[p].sums);
        free(e->points[p].rows);
    }
    free(e->points);
    free(e->dense_ns);
    llama_destroy(e->llama);
    selections_free(&e->selections);
}

struct request {
    const char *model_path, *text_path, *tokens_path, *isa, *record_path, *report_folder;
    struct arg_list selects;
    uint32_t n_tokens, window, n_threads, n_timed;
    int json_wanted;
};

/* The ids of --text or --tokens, cut to --n-tokens. */
static int read_ids(const struct request *q, sffn_context *ctx, const sffn_model *model,
                    struct ids *ids, int32_t *bos)
{
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    sffn_model_get_info(model, &info);
    *bos = -1;
    if (q->tokens_path != NULL) {
        if (heldout_read_tokens(q->tokens_path, info.n_vocab, ids) != CLI_OK)
            return CLI_FAILED;
    } else if (heldout_read_text(q->text_path, ctx, model, ids, bos) != CLI_OK) {
        return CLI_FAILED;
    }
    if (q->n_tokens != 0 && ids->n > q->n_tokens)
        ids->n = q->n_tokens;
    if (ids->n + (*bos >= 0) < 2)
        return cli_fail("'%s' has %zu tokens, expected at least 2",
                        q->tokens_path != NULL ? q->tokens_path : q->text_path, ids->n);
    return CLI_OK;
}

static int run_request(struct request *q, struct eval *e, sffn_context *ctx,
                       const sffn_model *model, int argc, char **argv)
{
    struct llama_options options = {0, 0, NULL};
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    struct ids ids = {NULL, 0, 0};
    int32_t bos;
    int status;
    sffn_model_get_info(model, &info);
    if (info.n_context != 0 && q->window > info.n_context)
        q->window = info.n_context;
    status = read_ids(q, ctx, model, &ids, &bos);
    if (status == CLI_OK) {
        e->model_path = q->model_path;
        e->text_path = q->tokens_path != NULL ? q->tokens_path : q->text_path;
        e->window = q->window;
        e->n_tokens = ids.n;
        e->n_timed = q->n_timed;
        if (e->n_timed > q->window)
            e->n_timed = q->window;
        if (e->n_timed > ids.n)
            e->n_timed = (uint32_t)ids.n;
        options.n_positions = q->window;
        e->llama = llama_create(ctx, model, &options);
        status = e->llama != NULL ? run_eval(e, &ids, bos, q->record_path) : CLI_FAILED;
    }
    free(ids.data);
    if (status == CLI_OK && q->report_folder != NULL)
        status = eval_write_report(e, q->report_folder, argc, argv);
    if (status == CLI_OK && q->json_wanted)
        eval_print_json(e);
    else if (status == CLI_OK)
        eval_print_table(e);
    return status;
}

int cmd_eval(int argc, char **argv)
{
    struct request q = {.n_tokens = 8192, .window = 512, .n_timed = 64};
    char notes[2048];
    /* clang-format off */
    const struct arg_option options[] = {
        {"--text", 0, ARG_TEXT, &q.text_path, "FILE", "held-out text; each window starts with the model's bos token", 0, 0},
        {"--tokens", 0, ARG_TEXT, &q.tokens_path, "FILE.json", "held-out token ids instead: [1, 2, ...] or {\"tokens\": [...]}", 0, 0},
        {"--n-tokens", 'n', ARG_UINT, &q.n_tokens, "N", "how many tokens to run, from the start; default 8192, 0: all", 0, 4294967295.0},
        {"--select", 0, ARG_LIST, &q.selects, "SEL", "a selection to measure, see below; may be given several times;\ndefault plan, or gate when the file has none", 0, 0},
        {"--window", 0, ARG_UINT, &q.window, "N", "tokens that see each other; default 512, at most the model's\ncontext", 2, 1048576},
        {"--timed", 0, ARG_UINT, &q.n_timed, "N", "run N tokens one by one to time the layers; default 64, 0: no times", 0, 1048576},
        {"--report", 0, ARG_TEXT, &q.report_folder, "DIR", "write DIR/index.html, with plots; selections with a knob also get\na curve over its usual values", 0, 0},
        {"--record", 0, ARG_TEXT, &q.record_path, "FILE", "write which neurons were truly active, for each token and layer", 0, 0},
        {"--threads", 't', ARG_UINT, &q.n_threads, "N", "0: all CPUs (default)", 0, 512},
        {"--isa", 0, ARG_ISA, &q.isa, "NAME", "use no kernels better than these; 'sffn info' lists them", 0, 0},
        {"--json", 0, ARG_FLAG, &q.json_wanted, NULL, "one JSON object per selection on standard output, a line each", 0, 0},
    };
    const struct arg_spec spec = {"eval MODEL (--text FILE | --tokens FILE.json) [OPTION]...",
                                  "Runs a llama-architecture model over held-out text, dense and sparse, and reports per layer what the\n"
                                  "sparse selections catch, lose, read and cost.",
                                  "MODEL", &q.model_path, options, sizeof options / sizeof options[0], notes};
    /* clang-format on */
    struct eval e;
    sffn_context *ctx;
    sffn_model *model;
    int32_t own;
    int status = CLI_OK, parsed;
    snprintf(
        notes, sizeof notes,
        SELECTION_HEADLINE
        "%s%s\n\nThe layers are measured on the inputs that the dense model gives them; bytes are "
        "those of tokens that come\none by one.",
        selection_own_help, selection_help);
    parsed = args_parse(&spec, argc, argv);
    if (parsed != ARGS_RUN)
        return parsed == ARGS_HELP ? CLI_OK : CLI_USAGE;
    if ((q.text_path == NULL) == (q.tokens_path == NULL))
        return args_wrong("expected either --text FILE or --tokens FILE.json");
    memset(&e, 0, sizeof e);
    for (size_t i = 0; status == CLI_OK && i < q.selects.n; i++)
        status = selections_add(&e.selections, q.selects.items[i], q.report_folder != NULL, 0);
    for (size_t i = 0; status == CLI_OK && i < e.selections.n; i++)
        if (selection_is_fitted(&e.selections.data[i]) &&
            !selection_is_own(&e.selections.data[i], &own))
            status = args_wrong("'%s' is made from activations: 'sffn prepare' does that, and "
                                "--select plan measures it",
                                e.selections.data[i].text);
    if (status != CLI_OK) {
        selections_free(&e.selections);
        return status;
    }
    cli_catch_interrupt();
    ctx = cli_context(q.n_threads, q.isa);
    model = ctx != NULL ? cli_open_model(ctx, q.model_path) : NULL;
    if (model != NULL && q.selects.n == 0)
        selections_add(&e.selections,
                       sffn_model_meta_count(model, "sffn.plan") != 0 ? "plan" : "gate",
                       q.report_folder != NULL, 0);
    status = model != NULL ? run_request(&q, &e, ctx, model, argc, argv) : CLI_FAILED;
    free_eval(&e);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    return status;
}
