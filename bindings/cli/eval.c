/*
 * eval.c  What a layer's selection catches and loses, on the inputs that the dense model gives it.
 * For each token and layer, with S the neurons that the sparse call used, h the activations of the dense call:
 *   density            share of neurons that are truly active (the full gate decides)
 *   predicted density  share that the selector let through to the gate
 *   recall             share of the truly active neurons that were used
 *   CETT               || sum of h_i down_i over i not in S || / || y_dense ||: the error of what was skipped, no rounding in it
 *   relative error     || y_sparse - y_dense || / || y_dense ||, with rounding; over all tokens together
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "heldout.h"
#include "json_out.h"
#include "table.h"

struct layer_sums {
    double recall, cett; /* sums over tokens */
    double error2, y2;
    uint64_t n_tokens, n_selected, n_active, n_used, n_nonzero;
};

struct eval {
    struct llama *llama;
    int32_t select; /* of the sparse call: gate or predictor */
    sffn_active_set *used, *truth;
    float *h_dense, *h_sparse, *y_dense, *y_sparse; /* [LLAMA_MAX_BATCH][...] */
    struct layer_sums *layers;
};

/* Square of || a - b ||; b may be NULL. */
static double norm2(const float *a, const float *b, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        double value = (double)a[i] - (b != NULL ? (double)b[i] : 0.0);
        sum += value * value;
    }
    return sum;
}

struct call {
    int32_t select;
    float *y, *h;
    sffn_active_set *active;
    sffn_ffn_stats stats;
};

static sffn_status run(struct eval *e, uint32_t i, const float *x, size_t n_tokens,
                       struct call *call)
{
    static const sffn_ffn_stats no_stats = SFFN_FFN_STATS_INIT;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    call->stats = no_stats;
    args.x = x;
    args.y = call->y;
    args.h = call->h;
    args.n_tokens = n_tokens;
    args.select = call->select;
    args.active_out = call->active;
    args.stats = &call->stats;
    return sffn_ffn_forward(e->llama->ctx, e->llama->layers[i].ffn, &args);
}

/* CETT of one token: what the neurons contribute that only the dense call has. Overwrites its h. */
static sffn_status add_cett(struct eval *e, uint32_t i, size_t token, double y_norm2)
{
    const struct llama_layer *layer = &e->llama->layers[i];
    uint32_t n = layer->config.d_ff, d = layer->config.d_model;
    float *h = e->h_dense + token * n, *y = e->y_sparse + token * d;
    const float *h_sparse = e->h_sparse + token * n;
    sffn_status status = SFFN_OK;
    int has_skipped = 0;
    for (uint32_t j = 0; j < n; j++) {
        if (h_sparse[j] != 0.0f)
            h[j] = 0.0f;
        has_skipped |= h[j] != 0.0f;
    }
    if (has_skipped && y_norm2 > 0.0) {
        status = sffn_ffn_down(e->llama->ctx, layer->ffn, h, 1, NULL, y);
        e->layers[i].cett += sqrt(norm2(y, layer->config.down_bias, d) / y_norm2);
    }
    return status;
}

static sffn_status measure(struct eval *e, uint32_t i, const float *x, size_t n_tokens)
{
    struct layer_sums *sums = &e->layers[i];
    uint32_t d = e->llama->layers[i].config.d_model;
    struct call dense = {SFFN_SELECT_DENSE, e->y_dense, e->h_dense, NULL, SFFN_FFN_STATS_INIT};
    struct call exact = {SFFN_SELECT_GATE, e->y_sparse, e->h_sparse, e->truth, SFFN_FFN_STATS_INIT};
    struct call chosen = {e->select, e->y_sparse, e->h_sparse, e->used, SFFN_FFN_STATS_INIT};
    int is_exact = e->select == SFFN_SELECT_GATE;
    sffn_status status = run(e, i, x, n_tokens, &dense);
    if (status == SFFN_OK)
        status = run(e, i, x, n_tokens, &exact);
    if (status == SFFN_OK && is_exact)
        chosen = exact;
    else if (status == SFFN_OK) /* y_sparse and h_sparse are the chosen call's from here on */
        status = run(e, i, x, n_tokens, &chosen);
    for (size_t t = 0; status == SFFN_OK && t < n_tokens; t++) {
        const float *y_dense = e->y_dense + t * d;
        double recall = 1.0, y_norm2 = norm2(y_dense, NULL, d);
        if (!is_exact)
            status = sffn_active_set_recall(e->used, e->truth, t, &recall);
        sums->recall += recall;
        sums->error2 += norm2(e->y_sparse + t * d, y_dense, d);
        sums->y2 += y_norm2;
        if (status == SFFN_OK)
            status = add_cett(e, i, t, y_norm2);
    }
    sums->n_tokens += n_tokens;
    sums->n_active += exact.stats.n_active;
    sums->n_selected += chosen.stats.n_selected;
    sums->n_used += chosen.stats.n_active;
    sums->n_nonzero += chosen.stats.n_nonzero;
    return status;
}

static int on_ffn(void *user, uint32_t layer, const float *x, const float *y, size_t n_tokens)
{
    struct eval *e = user;
    sffn_status status = measure(e, layer, x, n_tokens);
    (void)y;
    return status == SFFN_OK ? 0 : cli_fail_status(e->llama->ctx, status, NULL);
}

static sffn_active_set *make_set(sffn_context *ctx, uint32_t n_blocks)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    sffn_active_set *set = NULL;
    sffn_status status;
    config.n_blocks = n_blocks;
    config.max_tokens = LLAMA_MAX_BATCH;
    status = sffn_active_set_create(ctx, &config, &set);
    if (status != SFFN_OK)
        cli_fail_status(ctx, status, NULL);
    return set;
}

/* Perplexity dense with all layers measured on the way, then perplexity sparse. */
static int run_eval(struct eval *e, const struct ids *ids, uint32_t window, int32_t bos,
                    struct perplexity *dense, struct perplexity *sparse)
{
    struct llama *m = e->llama;
    uint32_t d_ff = 0;
    int status = CLI_OK;
    for (uint32_t i = 0; i < m->info.n_layers; i++) {
        if (i != 0 && m->layers[i].config.d_ff != d_ff)
            return cli_fail("layer %u has %u neurons, expected %u as in layer 0", (unsigned)i,
                            (unsigned)m->layers[i].config.d_ff, (unsigned)d_ff);
        d_ff = m->layers[i].config.d_ff;
    }
    e->h_dense = cli_alloc(LLAMA_MAX_BATCH, d_ff * sizeof(float));
    e->h_sparse = cli_alloc(LLAMA_MAX_BATCH, d_ff * sizeof(float));
    e->y_dense = cli_alloc(LLAMA_MAX_BATCH, m->info.d_model * sizeof(float));
    e->y_sparse = cli_alloc(LLAMA_MAX_BATCH, m->info.d_model * sizeof(float));
    e->layers = cli_alloc(m->info.n_layers, sizeof *e->layers);
    e->used = make_set(m->ctx, d_ff);
    e->truth = make_set(m->ctx, d_ff);
    if (e->used == NULL || e->truth == NULL)
        status = CLI_FAILED;
    if (status == CLI_OK) {
        m->select = SFFN_SELECT_DENSE;
        m->on_ffn = on_ffn;
        m->on_ffn_user = e;
        status =
            heldout_perplexity(m, ids->data, ids->n, window, bos, "dense, layers measured", dense);
    }
    if (status == CLI_OK) {
        m->select = e->select;
        m->on_ffn = NULL;
        status = heldout_perplexity(m, ids->data, ids->n, window, bos, "sparse", sparse);
    }
    return status;
}

static void free_eval(struct eval *e)
{
    sffn_active_set_destroy(e->used);
    sffn_active_set_destroy(e->truth);
    free(e->h_dense);
    free(e->h_sparse);
    free(e->y_dense);
    free(e->y_sparse);
    free(e->layers);
}

struct row {
    double density, predicted_density, recall, cett, relative_error, bytes, dense_bytes;
};

/* Means of one layer. The bytes are those of tokens that come one by one: a batch shares the rows that it reads. */
static struct row row_of(const struct eval *e, uint32_t i)
{
    const struct layer_sums *s = &e->layers[i];
    sffn_ffn_info info = SFFN_FFN_INFO_INIT;
    double n = s->n_tokens != 0 ? (double)s->n_tokens : 1.0;
    struct row row;
    sffn_ffn_get_info(e->llama->layers[i].ffn, &info);
    row.density = (double)s->n_active / n / info.d_ff;
    row.predicted_density = (double)s->n_selected / n / info.d_ff;
    row.recall = s->recall / n;
    row.cett = s->cett / n;
    row.relative_error = s->y2 > 0.0 ? sqrt(s->error2 / s->y2) : 0.0;
    row.bytes =
        (double)s->n_nonzero / n * (double)sffn_dtype_row_bytes(info.down_dtype, info.d_model);
    if (info.is_gated)
        row.bytes +=
            (double)s->n_selected / n *
                (double)sffn_dtype_row_bytes(info.gate_dtype, info.d_model) +
            (double)s->n_used / n * (double)sffn_dtype_row_bytes(info.up_dtype, info.d_model);
    else
        row.bytes +=
            (double)s->n_selected / n * (double)sffn_dtype_row_bytes(info.up_dtype, info.d_model);
    if (e->select == SFFN_SELECT_PREDICTOR)
        row.bytes += (double)info.selector_bytes;
    row.dense_bytes = (double)info.weight_bytes;
    return row;
}

static void add_row(struct row *sum, const struct row *row, double weight)
{
    sum->density += row->density * weight;
    sum->predicted_density += row->predicted_density * weight;
    sum->recall += row->recall * weight;
    sum->cett += row->cett * weight;
    sum->relative_error += row->relative_error * weight;
    sum->bytes += row->bytes;
    sum->dense_bytes += row->dense_bytes;
}

static void json_row(struct json *json, const struct row *row)
{
    json_number(json, "density", row->density);
    json_number(json, "predicted_density", row->predicted_density);
    json_number(json, "recall", row->recall);
    json_number(json, "cett", row->cett);
    json_number(json, "relative_error", row->relative_error);
    json_number(json, "bytes", row->bytes);
    json_number(json, "dense_bytes", row->dense_bytes);
}

static void table_row(struct table *table, const char *name, const struct row *row)
{
    char bytes[32], dense[32];
    table_cell(table, "%s", name);
    table_cell(table, "%.4f", row->density);
    table_cell(table, "%.4f", row->predicted_density);
    table_cell(table, "%.4f", row->recall);
    table_cell(table, "%.3g", row->cett);
    table_cell(table, "%.3g", row->relative_error);
    table_cell(table, "%s", cli_bytes_text((uint64_t)row->bytes, bytes));
    table_cell(table, "%s", cli_bytes_text((uint64_t)row->dense_bytes, dense));
}

static void report(const struct eval *e, const char *model_path, const char *select,
                   uint32_t window, size_t n_tokens, const struct perplexity *dense,
                   const struct perplexity *sparse, int json_wanted)
{
    struct row mean = {0, 0, 0, 0, 0, 0, 0};
    uint32_t n_layers = e->llama->info.n_layers;
    for (uint32_t i = 0; i < n_layers; i++) {
        struct row row = row_of(e, i);
        add_row(&mean, &row, 1.0 / n_layers);
    }
    if (json_wanted) {
        struct json json;
        json_begin(&json, stdout);
        json_text(&json, "name", "eval");
        json_text(&json, "model", model_path);
        json_text(&json, "select", select);
        json_uint(&json, "n_tokens", n_tokens);
        json_uint(&json, "n_predicted", dense->n_predicted);
        json_uint(&json, "window", window);
        json_number(&json, "perplexity_dense", dense->value);
        json_number(&json, "perplexity_sparse", sparse->value);
        json_row(&json, &mean);
        json_array_begin(&json, "layers");
        for (uint32_t i = 0; i < n_layers; i++) {
            struct row row = row_of(e, i);
            json_object_begin(&json, NULL);
            json_uint(&json, "layer", i);
            json_row(&json, &row);
            json_object_end(&json);
        }
        json_array_end(&json);
        json_end(&json);
    } else {
        struct table table;
        char name[32];
        table_begin(&table, "lrrrrrrr");
        table_cells(&table,
                    "layer|density|predicted|recall|CETT|rel. error|bytes/token|dense bytes");
        for (uint32_t i = 0; i < n_layers; i++) {
            struct row row = row_of(e, i);
            snprintf(name, sizeof name, "%u", (unsigned)i);
            table_row(&table, name, &row);
        }
        table_row(&table, "mean; sum of bytes", &mean);
        table_end(&table, stdout, 1);
        printf("\n%zu tokens in windows of %u, selection: %s\n", n_tokens, (unsigned)window,
               select);
        printf("perplexity  dense %.4f  sparse %.4f\n", dense->value, sparse->value);
        printf("\ndensity: share of neurons that are truly active; predicted: share that the "
               "selection lets through to the gate\n"
               "recall: share of the truly active neurons that were used; CETT: |sum over the "
               "skipped neurons| / |y|, mean over tokens\n"
               "rel. error: |y sparse - y dense| / |y dense|, rounding included; bytes/token: "
               "weights read when tokens come one by one\n");
    }
}

int cmd_eval(int argc, char **argv)
{
    const char *model_path = NULL, *text_path = NULL, *tokens_path = NULL, *select = "gate",
               *isa = NULL;
    uint32_t n_tokens = 8192, window = 512, n_threads = 0;
    int json_wanted = 0, status = CLI_FAILED;
    /* clang-format off */
    const struct arg_option options[] = {
        {"--text", 0, ARG_TEXT, &text_path, "FILE", "held-out text; each window starts with the model's bos token", 0, 0},
        {"--tokens", 0, ARG_TEXT, &tokens_path, "FILE.json", "held-out token ids instead: [1, 2, ...] or {\"tokens\": [...]}", 0, 0},
        {"--n-tokens", 'n', ARG_UINT, &n_tokens, "N", "how many tokens to run, from the start; default 8192, 0: all", 0, 4294967295.0},
        {"--select", 0, ARG_CHOICE, &select, "gate|screen",
         "gate: the full gate decides, exact (default); screen: a 4-bit\ncopy of the gate decides first", 0, 0},
        {"--window", 0, ARG_UINT, &window, "N", "tokens that see each other; default 512, at most the model's\ncontext", 2, 1048576},
        {"--threads", 't', ARG_UINT, &n_threads, "N", "0: all CPUs (default)", 0, 512},
        {"--isa", 0, ARG_TEXT, &isa, "NAME", "use no kernels better than these; 'sffn info' lists them", 0, 0},
        {"--json", 0, ARG_FLAG, &json_wanted, NULL, "one JSON object on standard output", 0, 0},
    };
    const struct arg_spec spec = {"eval MODEL (--text FILE | --tokens FILE.json) [OPTION]...",
                                  "Runs a llama-architecture model over held-out text, dense and sparse, and reports per layer what the\n"
                                  "sparse selection catches, loses and reads.",
                                  "MODEL", &model_path, options, sizeof options / sizeof options[0],
                                  "The layers are measured on the inputs that the dense model gives them; bytes are those of tokens that come\n"
                                  "one by one."};
    /* clang-format on */
    struct llama_options llama_options = {0, 0, 0};
    struct eval e;
    struct ids ids = {NULL, 0, 0};
    struct perplexity dense, sparse;
    struct tokenizer *tokenizer = NULL;
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    sffn_context *ctx;
    sffn_model *model;
    int32_t bos = -1;
    int parsed = args_parse(&spec, argc, argv);
    if (parsed != ARGS_RUN)
        return parsed == ARGS_HELP ? CLI_OK : CLI_USAGE;
    if ((text_path == NULL) == (tokens_path == NULL))
        return args_wrong("expected either --text FILE or --tokens FILE.json");
    memset(&e, 0, sizeof e);
    cli_catch_interrupt();
    ctx = cli_context(n_threads, isa);
    model = ctx != NULL ? cli_open_model(ctx, model_path) : NULL;
    if (model == NULL) {
        sffn_context_destroy(ctx);
        return CLI_FAILED;
    }
    sffn_model_get_info(model, &info);
    if (info.n_context != 0 && window > info.n_context)
        window = info.n_context;
    if (tokens_path != NULL) {
        status = heldout_read_tokens(tokens_path, info.n_vocab, &ids);
    } else {
        size_t n_bytes = 0;
        char *text = cli_read_file(text_path, &n_bytes);
        tokenizer = text != NULL ? tokenizer_create(ctx, model) : NULL;
        if (tokenizer != NULL) {
            bos = tokenizer_bos(tokenizer);
            tokenizer_encode(tokenizer, text, n_bytes, 0, &ids);
            status = CLI_OK;
        }
        free(text);
    }
    if (status == CLI_OK && n_tokens != 0 && ids.n > n_tokens)
        ids.n = n_tokens;
    if (status == CLI_OK && ids.n + (bos >= 0) < 2)
        status = cli_fail("'%s' has %zu tokens, expected at least 2",
                          tokens_path != NULL ? tokens_path : text_path, ids.n);
    if (status == CLI_OK) {
        llama_options.n_positions = window;
        llama_options.has_screen = strcmp(select, "screen") == 0;
        e.select = llama_options.has_screen ? SFFN_SELECT_PREDICTOR : SFFN_SELECT_GATE;
        e.llama = llama_create(ctx, model, &llama_options);
        status = e.llama != NULL ? run_eval(&e, &ids, window, bos, &dense, &sparse) : CLI_FAILED;
    }
    if (status == CLI_OK)
        report(&e, model_path, select, window, ids.n, &dense, &sparse, json_wanted);
    free_eval(&e);
    llama_destroy(e.llama);
    tokenizer_destroy(tokenizer);
    free(ids.data);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    return status;
}
