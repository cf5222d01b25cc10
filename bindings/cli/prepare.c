/*
 * prepare.c  Converts a model to one GGUF file whose down rows lie neuron by neuron; with a text, also finds out which rule and which selection
 * each layer is to use. That is long work: its finished parts are kept in OUT.gguf.work until the file is there.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "args.h"
#include "cli.h"
#include "collect.h"
#include "heldout.h"
#include "json_out.h"
#include "prepare_job.h"
#include "progress.h"
#include "table.h"

enum { MIN_TOKENS = 64 }; /* fewer say nothing about a layer */

struct result {
    struct prepared_layer *layers; /* NULL: nothing was calibrated */
    uint32_t n_layers;
    double cett; /* of the rules; negative: no such target */
};

static int32_t on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    progress_update(user, what, done, total);
    return cli_interrupted();
}

/* ---------------------------------------------------------------- reports */

static void print_json(const struct prepare_request *q, const struct result *r, uint64_t bytes_in,
                       uint64_t bytes_out, double seconds)
{
    struct json json;
    json_begin(&json, stdout);
    json_text(&json, "name", "prepare");
    json_text(&json, "model", q->model_path);
    json_text(&json, "out", q->out_path);
    json_text(&json, "dtype", q->dtype);
    json_uint(&json, "bytes_in", bytes_in);
    json_uint(&json, "bytes_out", bytes_out);
    json_number(&json, "seconds", seconds);
    json_number(&json, "cett", r->cett >= 0.0 ? r->cett : NAN);
    json_array_begin(&json, "layers");
    for (uint32_t i = 0; r->layers != NULL && i < r->n_layers; i++) {
        const struct prepared_layer *layer = &r->layers[i];
        json_object_begin(&json, NULL);
        json_uint(&json, "layer", i);
        json_text(&json, "plan", layer->candidates[layer->chosen].name);
        json_text(&json, "rule", sffn_rule_name(layer->rule));
        json_number(&json, "rule_threshold",
                    layer->rule_thresholds != NULL ? layer->rule_value : NAN);
        json_number(&json, "rule_k", layer->rule_k != 0 ? layer->rule_k : NAN);
        json_number(&json, "rule_m", layer->rule_m != 0 ? layer->rule_m : NAN);
        json_number(&json, "rule_sparsity",
                    layer->rule_sparsity > 0.0f ? layer->rule_sparsity : NAN);
        json_number(&json, "rule_cett", layer->rule_cett);
        json_number(&json, "rule_density", layer->rule_density);
        json_array_begin(&json, "candidates");
        for (uint32_t c = 0; c < layer->n_candidates; c++) {
            const struct candidate *candidate = &layer->candidates[c];
            json_object_begin(&json, NULL);
            json_text(&json, "select", candidate->name);
            json_number(&json, "predicted_density", candidate->predicted_density);
            json_number(&json, "recall", candidate->recall);
            json_number(&json, "relative_error", candidate->error);
            json_number(&json, "bytes", candidate->bytes);
            json_number(&json, "ns", candidate->ns);
            json_bool(&json, "is_chosen", candidate->is_chosen);
            json_object_end(&json);
        }
        json_array_end(&json);
        json_object_end(&json);
    }
    json_array_end(&json);
    json_end(&json);
}

static const char *why(const struct prepare_request *q, const struct prepared_layer *layer,
                       const struct candidate *c)
{
    if (strcmp(q->plan, "auto") != 0)
        return c->is_chosen ? "asked for" : "";
    if (c->is_chosen)
        return "chosen: the fastest within the error";
    if (c->error > q->max_error)
        return "too wrong";
    return c->ns < layer->candidates[layer->chosen].ns ? "no faster than noise" : "slower";
}

static void print_layers(const struct prepare_request *q, const struct result *r)
{
    struct table table;
    table_begin(&table, "rlrrrrrl");
    table_cells(&table, "layer|selection|let through|recall|rel. error|bytes/token|us|");
    for (uint32_t i = 0; i < r->n_layers; i++)
        for (uint32_t c = 0; c < r->layers[i].n_candidates; c++) {
            const struct candidate *candidate = &r->layers[i].candidates[c];
            char bytes[32];
            if (c == 0)
                table_cell(&table, "%u", (unsigned)i);
            else
                table_cell(&table, "%s", "");
            table_cell(&table, "%s", candidate->name);
            table_cell(&table, "%.4f", candidate->predicted_density);
            table_cell(&table, "%.4f", candidate->recall);
            table_cell(&table, "%.3g", candidate->error);
            table_cell(&table, "%s", cli_bytes_text((uint64_t)candidate->bytes, bytes));
            table_cell(&table, "%.1f", candidate->ns * 1e-3);
            table_cell(&table, "%s", why(q, &r->layers[i], candidate));
        }
    table_end(&table, stdout, 1);
    printf("\nrel. error: of y, against the full gate with the same rule; us: median of single "
           "tokens, caches emptied before each\n");
    if (!isnan(r->layers[0].rule_value)) {
        printf("\n");
        table_begin(&table, "rrrr");
        table_cell(&table, "%s", "layer");
        table_cell(&table, "%s",
                   r->layers[0].rule_thresholds != NULL ? "threshold"
                   : r->layers[0].rule_k != 0           ? "k"
                                                        : "sparsity");
        table_cells(&table, "density|CETT");
        for (uint32_t i = 0; i < r->n_layers; i++) {
            table_cell(&table, "%u", (unsigned)i);
            table_cell(&table, "%.4g", r->layers[i].rule_value);
            table_cell(&table, "%.4f", r->layers[i].rule_density);
            table_cell(&table, "%.4f", r->layers[i].rule_cett);
        }
        table_end(&table, stdout, 1);
        printf("\nrule %s", q->rule);
        if (r->cett >= 0.0)
            printf(" for a CETT of %.4g", r->cett);
        printf("\n");
    }
    printf("\n");
}

/* ---------------------------------------------------------------- with a text */

/* What the result depends on, a line each: a work folder made for another job must not be used. */
static char *describe_job(const struct prepare_request *q, const sffn_model_info *info,
                          const struct ids *ids)
{
    enum { SIZE = 8192 };
    char *text = cli_alloc(SIZE, 1);
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a of the tokens */
    size_t n;
    for (size_t i = 0; i < ids->n; i++)
        hash = (hash ^ (uint32_t)ids->data[i]) * UINT64_C(0x100000001b3);
    n = (size_t)snprintf(text, SIZE,
                         "sffn %s %zu\nmodel %s, %llu bytes\ndtype %s\nact-threshold "
                         "%g\nsmall-embeddings %d\ntokens %zu, %016llx\nwindow "
                         "%u\nsamples %u\nseed %llu\nrule %s\ntarget-cett %g\ntarget-density "
                         "%g\ntarget-ppl %g\nplan %s\nmax-error %g\nisa %s\n",
                         sffn_version_string(), sizeof(struct prepared_layer), q->model_path,
                         (unsigned long long)info->file_bytes, q->dtype != NULL ? q->dtype : "kept",
                         q->act_threshold, q->small_embeddings, ids->n, (unsigned long long)hash,
                         (unsigned)q->window, (unsigned)q->n_samples, (unsigned long long)q->seed,
                         q->rule, q->target_cett, q->target_density, q->target_ppl, q->plan,
                         q->max_error, q->isa != NULL ? q->isa : "best");
    for (size_t p = 0; p < q->predictors.n && n < SIZE; p++)
        n += (size_t)snprintf(text + n, SIZE - n, "predictor %s\n", q->predictors.data[p].text);
    return text;
}

/* The command without what does not change the file. */
static char *describe_command(int argc, char **argv)
{
    size_t n = 5, at;
    char *text;
    for (int i = 0; i < argc; i++)
        n += strlen(argv[i]) + 3;
    text = cli_alloc(n, 1);
    at = (size_t)sprintf(text, "sffn");
    for (int i = 0; i < argc; i++) {
        int is_plain = argv[i][0] != '\0' && strpbrk(argv[i], " \t\n'\"\\$&|;<>()*?#`") == NULL;
        if (strcmp(argv[i], "--resume") == 0 || strcmp(argv[i], "--json") == 0)
            continue;
        if (strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--output") == 0) {
            i++;
            continue;
        }
        at += (size_t)sprintf(text + at, is_plain ? " %s" : " '%s'", argv[i]);
    }
    return text;
}

/* The calibration text, and behind it the tenth that a perplexity target is checked on. */
static void split_text(const struct prepare_request *q, const struct ids *ids,
                       size_t *n_calibration)
{
    size_t n_windows = ids->n / q->window, n_held = n_windows / 10;
    *n_calibration = ids->n;
    if (q->target_ppl < 0.0)
        return;
    if (n_held == 0)
        n_held = 1;
    *n_calibration = n_windows > 1 ? (n_windows - n_held) * q->window : ids->n / 2;
}

static int calibrate(const struct prepare_request *q, struct llama *m, const struct work *work,
                     const struct ids *ids, int32_t bos, struct result *r)
{
    struct collect_options options = {ids->data,    0,       q->window,      bos,
                                      q->n_samples, q->seed, q->select_input};
    struct progress *progress = q->progress_user;
    int status;
    split_text(q, ids, &options.n_tokens);
    status = collect_inputs(m, work, &options);
    r->cett = q->target_cett;
    if (status == CLI_OK && q->target_ppl >= 0.0) {
        struct validation text = {ids->data + options.n_tokens, ids->n - options.n_tokens,
                                  q->window, bos};
        status = prepare_find_cett(q, m, work, &text, &r->cett);
    }
    r->n_layers = m->info.n_layers;
    r->layers = cli_alloc(r->n_layers, sizeof *r->layers);
    progress_begin(progress);
    for (uint32_t i = 0; status == CLI_OK && i < r->n_layers; i++) {
        progress_update(progress, "rules and plans of the layers", i, r->n_layers);
        status = prepare_layer(q, m, i, work, r->cett, &r->layers[i]);
        if (status == CLI_OK && cli_interrupted())
            status = CLI_FAILED;
    }
    progress_end(progress);
    return status;
}

/* Writes a file from `model`; r->layers NULL: what the model says is carried over. */
static int write_file(const struct prepare_request *q, sffn_context *ctx, const sffn_model *model,
                      const char *path, int is_converted, const struct llama *m,
                      const struct result *r, const char *command)
{
    sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
    static const sffn_prepare_layer no_layer = SFFN_PREPARE_LAYER_INIT;
    sffn_prepare_layer *layers = NULL;
    struct progress progress;
    sffn_status status;
    progress_begin(&progress);
    if (!is_converted) {
        config.dtype = q->dtype != NULL ? sffn_dtype_from_name(q->dtype) : -1;
        config.act_threshold = (float)q->act_threshold;
    }
    config.keep_embeddings = !q->small_embeddings;
    config.progress = on_progress;
    config.progress_user = &progress;
    if (r != NULL) {
        layers = cli_alloc(r->n_layers, sizeof *layers);
        for (uint32_t i = 0; i < r->n_layers; i++) {
            const struct prepared_layer *from = &r->layers[i];
            const struct candidate *chosen = &from->candidates[from->chosen];
            sffn_ffn_config ffn;
            layers[i] = no_layer;
            layers[i].plan = chosen->plan;
            ffn = m->layers[i].config; /* the rule that the source has, unless there is a new one */
            prepared_rule(from, &ffn);
            layers[i].rule = ffn.rule;
            layers[i].rule_tie = ffn.rule_tie;
            layers[i].rule_threshold = ffn.rule_threshold;
            layers[i].rule_thresholds = ffn.rule_thresholds;
            layers[i].rule_k = ffn.rule_k;
            layers[i].rule_m = ffn.rule_m;
            layers[i].rule_sparsity = ffn.rule_sparsity;
            if (from->fitted.has_predictor)
                layers[i].predictor = &from->fitted.predictor;
            if (from->fitted.has_router) {
                layers[i].router = &from->fitted.router;
                layers[i].permutation = from->fitted.arrays[FIT_PERMUTATION];
            }
        }
        config.layers = layers;
        config.n_layers = r->n_layers;
        config.command = command;
    }
    status = sffn_prepare(ctx, model, path, &config);
    progress_end(&progress);
    free(layers);
    if (status == SFFN_ERR_INTERRUPTED)
        return CLI_FAILED; /* the caller says what is kept */
    if (status != SFFN_OK)
        return cli_fail_status(ctx, status, NULL);
    return CLI_OK;
}

/* Selectors that somebody named must fit all layers; the default, which comes first, is left out where it does not. A target brings a rule, and with it zeros. */
static int check_predictors(const struct prepare_request *q, const struct llama *m)
{
    int has_rule = q->target_cett >= 0.0 || q->target_density >= 0.0 || q->target_ppl >= 0.0,
        status = CLI_OK;
    for (uint32_t i = 0; i < m->info.n_layers; i++)
        for (size_t p = q->n_default_predictors; status == CLI_OK && p < q->predictors.n; p++) {
            sffn_ffn_config config = m->layers[i].config;
            if (has_rule)
                config.rule = SFFN_RULE_ABS_H;
            status = fit_check(&q->predictors.data[p], i, &config);
        }
    return status;
}

/* From the converted model in the work folder. */
static int run_steps(const struct prepare_request *q, sffn_context *ctx, const struct work *work,
                     const char *base_path, const struct ids *ids, int32_t bos, struct result *r,
                     const char *command)
{
    struct llama_options options = {0, 0, NULL};
    sffn_model *base = cli_open_model(ctx, base_path);
    struct llama *m = NULL;
    int status;
    options.n_positions = q->window;
    m = base != NULL ? llama_create(ctx, base, &options) : NULL;
    status = m != NULL ? check_predictors(q, m) : CLI_FAILED;
    if (status != CLI_OK && !q->is_resumed && !cli_interrupted())
        work_remove(work); /* nothing is lost, and the right command needs no --resume */
    if (status == CLI_OK)
        status = calibrate(q, m, work, ids, bos, r);
    if (status == CLI_OK)
        status = write_file(q, ctx, base, q->out_path, 1, m, r, command);
    llama_destroy(m);
    sffn_model_close(base);
    return status;
}

/* The converted model is called after its source: the file says that it was made from it. */
static void base_name(const char *path, char *out, size_t size)
{
    size_t end = strlen(path), start;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/';)
        start--;
    snprintf(out, size, "%.*s", (int)(end - start), path + start);
    if (out[0] == '\0' || out[0] == '.' || out[0] == '/')
        snprintf(out, size, "model");
}

static int run_calibrated(struct prepare_request *q, sffn_context *ctx, const sffn_model *model,
                          struct result *r, const char *command)
{
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    struct work work = {NULL};
    struct ids ids = {NULL, 0, 0};
    int32_t bos = -1;
    struct progress progress;
    char *job = NULL, *base_path = NULL, *folder, base[256];
    int status;
    sffn_model_get_info(model, &info);
    if (info.n_context != 0 && q->window > info.n_context)
        q->window = info.n_context;
    q->progress = on_progress;
    q->progress_user = &progress;
    status = q->tokens_path != NULL ? heldout_read_tokens(q->tokens_path, info.n_vocab, &ids)
                                    : heldout_read_text(q->text_path, ctx, model, &ids, &bos);
    if (status == CLI_OK && q->n_tokens != 0 && ids.n > q->n_tokens)
        ids.n = q->n_tokens;
    if (status == CLI_OK && ids.n < MIN_TOKENS)
        status = cli_fail("'%s' has %zu tokens, expected at least %d to calibrate with",
                          q->tokens_path != NULL ? q->tokens_path : q->text_path, ids.n,
                          (int)MIN_TOKENS);
    if (status != CLI_OK) {
        free(ids.data);
        return status;
    }
    base_name(q->model_path, base, sizeof base);
    folder = cli_alloc(strlen(q->out_path) + 6, 1);
    sprintf(folder, "%s.work", q->out_path);
    job = describe_job(q, &info, &ids);
    status = work_open(&work, folder, job, q->is_resumed);
    if (status == CLI_OK) {
        base_path = work_path(&work, base);
        if (!work_has(&work, base))
            status = write_file(q, ctx, model, base_path, 0, NULL, NULL, NULL);
        if (status == CLI_OK)
            status = run_steps(q, ctx, &work, base_path, &ids, bos, r, command);
        if (status == CLI_OK)
            work_remove(&work);
        else if (cli_interrupted())
            cli_fail("interrupted; '%s' keeps what is done, the same command with --resume goes on",
                     folder);
    }
    work_close(&work);
    free(folder);
    free(job);
    free(base_path);
    free(ids.data);
    return status;
}

/* ---------------------------------------------------------------- the command */

static int run(struct prepare_request *q, int argc, char **argv)
{
    uint64_t start_ns = cli_now_ns();
    struct result r = {NULL, 0, -1.0};
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    sffn_context *ctx = cli_context(q->n_threads, q->isa);
    sffn_model *model = ctx != NULL ? cli_open_model(ctx, q->model_path) : NULL;
    int status = CLI_FAILED;
    if (model != NULL) {
        char *command = describe_command(argc, argv);
        sffn_model_get_info(model, &info);
        if (q->text_path != NULL || q->tokens_path != NULL) {
            status = run_calibrated(q, ctx, model, &r, command);
        } else {
            status = write_file(q, ctx, model, q->out_path, 0, NULL, NULL, NULL);
            if (status != CLI_OK && cli_interrupted())
                cli_fail("interrupted; '%s' was not written", q->out_path);
        }
        free(command);
    }
    if (status == CLI_OK) {
        struct stat file;
        double seconds = (double)(cli_now_ns() - start_ns) * 1e-9;
        uint64_t bytes_out = stat(q->out_path, &file) == 0 ? (uint64_t)file.st_size : 0;
        char in[32], out[32];
        if (q->json_wanted) {
            print_json(q, &r, info.file_bytes, bytes_out, seconds);
        } else {
            if (r.layers != NULL)
                print_layers(q, &r);
            printf("%s: %s, from %s of %s, %.1f s\n", q->out_path, cli_bytes_text(bytes_out, out),
                   cli_bytes_text(info.file_bytes, in), q->model_path, seconds);
        }
    }
    for (uint32_t i = 0; r.layers != NULL && i < r.n_layers; i++)
        prepared_layer_free(&r.layers[i]);
    free(r.layers);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    return status;
}

/* Whether two paths are one file: a symbolic or hard link, too. */
static int is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Which of them a layer can use: list_candidates(). */
static const char *const default_predictors[] = {"screen", "cascade,bits=0,columns=0.5"};
enum { N_DEFAULTS = sizeof default_predictors / sizeof default_predictors[0] };

/* Combinations that make no sense. */
static int check_request(struct prepare_request *q, int has_calibration_option)
{
    int n_targets = (q->target_cett >= 0.0) + (q->target_density >= 0.0) + (q->target_ppl >= 0.0);
    int has_text = q->text_path != NULL || q->tokens_path != NULL, status = CLI_OK;
    if (q->out_path == NULL)
        return args_wrong("-o OUT.gguf is missing");
    if (is_same_file(q->model_path, q->out_path))
        return args_wrong("-o %s is the model itself, expected another file: the source is kept",
                          q->out_path);
    if (q->text_path != NULL && q->tokens_path != NULL)
        return args_wrong("expected either --calibrate TEXT or --tokens FILE.json, not both");
    if (has_calibration_option && !has_text)
        return args_wrong("targets, rules, predictors, plans and --resume need a text: --calibrate "
                          "TEXT or --tokens FILE.json");
    if (n_targets > 1)
        return args_wrong("expected one of --target-cett, --target-density and --target-ppl");
    if (q->rule != NULL && n_targets == 0)
        return args_wrong(
            "--rule %s needs a target: --target-cett, --target-density or --target-ppl", q->rule);
    if (q->plan != NULL && strcmp(q->plan, "predictor") == 0 && q->predictor_texts.n != 1)
        return args_wrong("--plan predictor needs one --predictor");
    if (q->predictor_texts.n != 0 && q->plan != NULL &&
        (strcmp(q->plan, "dense") == 0 || strcmp(q->plan, "gate") == 0))
        return args_wrong("--predictor is for --plan predictor, router and auto, not %s", q->plan);
    if (q->expert_size != 0 && q->plan != NULL && strcmp(q->plan, "auto") != 0 &&
        strcmp(q->plan, "router") != 0)
        return args_wrong("--experts is for --plan router and --plan auto, not %s", q->plan);
    if (q->rule == NULL)
        q->rule = "cett";
    if (q->plan == NULL)
        q->plan = "auto";
    for (size_t i = 0; status == CLI_OK && i < q->predictor_texts.n; i++)
        status = selections_add(&q->predictors, q->predictor_texts.items[i], 0, 1);
    for (uint32_t i = 0; status == CLI_OK && q->predictor_texts.n == 0 && i < N_DEFAULTS &&
                         strcmp(q->plan, "auto") == 0;
         i++) {
        status = selections_add(&q->predictors, default_predictors[i], 0, 1);
        q->n_default_predictors++;
    }
    if (status == CLI_OK &&
        (q->expert_size != 0 || (strcmp(q->plan, "router") == 0 && q->predictors.n == 0))) {
        char text[64];
        snprintf(text, sizeof text, "router,size=%u",
                 (unsigned)(q->expert_size != 0 ? q->expert_size : 32));
        status = selections_add(&q->predictors, text, 0, 1);
    }
    for (size_t i = 0; status == CLI_OK && i < q->predictors.n; i++)
        if (!selection_is_predictor(&q->predictors.data[i]))
            return args_wrong(
                "--predictor is '%s', which is no predictor; --plan gate lets the gate decide",
                q->predictors.data[i].kind);
    for (size_t i = 0; status == CLI_OK && i < q->predictors.n; i++) {
        int32_t input = selection_input(&q->predictors.data[i]);
        if (input == SFFN_INPUT_FFN)
            continue;
        if (q->select_input != SFFN_INPUT_FFN && q->select_input != input)
            return args_wrong("'%s' reads another input than the predictor before it, expected one "
                              "input besides the FFN's own",
                              q->predictors.data[i].text);
        q->select_input = input;
    }
    if (status == CLI_OK && q->predictors.n > MAX_CANDIDATES - 3)
        return args_wrong("%zu predictors, expected at most %d", q->predictors.n,
                          MAX_CANDIDATES - 3);
    if (status == CLI_OK && strcmp(q->plan, "auto") != 0 && q->predictors.n > 1)
        return args_wrong("--predictor %s is a list, expected one for --plan %s",
                          q->predictor_texts.items[0], q->plan);
    if (status == CLI_OK && q->predictors.n == 1 && strcmp(q->plan, "auto") != 0 &&
        (strcmp(q->predictors.data[0].kind, "router") == 0) != (strcmp(q->plan, "router") == 0))
        return args_wrong("--predictor %s does not fit --plan %s", q->predictors.data[0].text,
                          q->plan);
    return status;
}

int cmd_prepare(int argc, char **argv)
{
    struct prepare_request q = {.act_threshold = -1.0,
                                .target_cett = -1.0,
                                .target_density = -1.0,
                                .target_ppl = -1.0,
                                .max_error = -1.0,
                                .window = 512,
                                .n_samples = 2048};
    char notes[4096];
    /* clang-format off */
    const struct arg_option options[] = {
        {"--output", 'o', ARG_TEXT, &q.out_path, "OUT.gguf", "file to write; replaced when it exists", 0, 0},
        {"--dtype", 0, ARG_CHOICE, &q.dtype, "bf16|q8_0|q4_0|f16|f32", "type of the matrices; without it as they are, q8_0 for Q4_1, Q5_x, Qx_K", 0, 0},
        {"--act-threshold", 0, ARG_NUMBER, &q.act_threshold, "T", "write FATReLU with this threshold in place of ReLU", 0, 1e30},
        {"--small-embeddings", 0, ARG_FLAG, &q.small_embeddings, NULL, "bring token embedding and output below q8_0 too", 0, 0},
        {"--calibrate", 0, ARG_TEXT, &q.text_path, "TEXT", "a text to find rules and plans with: what follows needs it", 0, 0},
        {"--tokens", 0, ARG_TEXT, &q.tokens_path, "FILE.json", "the same as token ids: [1, 2, ...] or {\"tokens\": [...]}", 0, 0},
        {"--n-tokens", 'n', ARG_UINT, &q.n_tokens, "N", "how many tokens of it to run; default 0: all", 0, 4294967295.0},
        {"--window", 0, ARG_UINT, &q.window, "N", "tokens that see each other; default 512", 2, 1048576},
        {"--samples", 0, ARG_UINT, &q.n_samples, "N", "inputs kept per layer, drawn at random; default 2048", 64, 1048576},
        {"--seed", 0, ARG_UINT64, &q.seed, "S", "of the draw; default 0", 0, 0},
        {"--target-cett", 0, ARG_NUMBER, &q.target_cett, "X", "drop neurons up to this error per layer", 0, 1},
        {"--target-density", 0, ARG_NUMBER, &q.target_density, "X", "drop neurons until this share is left", 0, 1},
        {"--target-ppl", 0, ARG_NUMBER, &q.target_ppl, "P", "drop neurons until the perplexity has grown by P per cent", 0, 1000},
        {"--rule", 0, ARG_CHOICE, &q.rule, "cett|abs_h|cats|chess|top_k_h|top_k_score|block_top_k_h|block_top_k_score|statistical_h|statistical_score",
         "what a target drops by, see below; default cett", 0, 0},
        {"--plan", 0, ARG_CHOICE, &q.plan, "auto|dense|gate|predictor|router", "who decides which neurons run; default auto: per layer the fastest on\n"
         "this machine within the error", 0, 0},
        {"--predictor", 0, ARG_LIST, &q.predictor_texts, "SEL", "a predictor to consider, see below; may be given several times;\ndefault screen (not for a q4_0 gate) and\ncascade,bits=0,columns=0.5, where a layer allows them", 0, 0},
        {"--experts", 0, ARG_UINT, &q.expert_size, "N", "also consider experts of N neurons and a router for them: the same\nas --predictor router,size=N", 1, 65536},
        {"--max-error", 0, ARG_NUMBER, &q.max_error, "X", "relative error of y that a selection may add; default 0.01", 0, 1},
        {"--resume", 0, ARG_FLAG, &q.is_resumed, NULL, "go on with what an interrupted run left in OUT.gguf.work", 0, 0},
        {"--threads", 't', ARG_UINT, &q.n_threads, "N", "0: all CPUs (default)", 0, 512},
        {"--isa", 0, ARG_ISA, &q.isa, "NAME", "use no kernels better than these; 'sffn info' lists them", 0, 0},
        {"--json", 0, ARG_FLAG, &q.json_wanted, NULL, "one JSON object on standard output", 0, 0},
    };
    const struct arg_spec spec = {"prepare MODEL -o OUT.gguf [OPTION]...",
                                  "Converts a Hugging Face folder, safetensors or GGUF file to one GGUF file that keeps the model's tensors,\n"
                                  "metadata and tokenizer, with the down matrices stored neuron by neuron. With a text, it also gives each layer\n"
                                  "a rule that drops weak neurons and the selection that runs fastest here.",
                                  "MODEL", &q.model_path, options, sizeof options / sizeof options[0], notes};
    /* clang-format on */
    int status, parsed, has_calibration_option;
    snprintf(
        notes, sizeof notes,
        "Rules: cett |h| against one error per layer, a threshold per neuron; abs_h |h| and "
        "cats |s| against one threshold\n"
        "per layer; chess |s| with a threshold per neuron. These compare a token's neurons, by |h| "
        "or by |s|: top_k keeps\nthe k largest, block_top_k the k largest of every 32, statistical "
        "those above mean + z std, "
        "z from a share to drop.\n\n" SELECTION_HEADLINE "%s\n%s\n\nThe file is written "
        "beside OUT.gguf under another name and renamed at the end. With "
        "a text, finished parts are kept\nin OUT.gguf.work until then: Ctrl-C or a crash "
        "loses nothing that was done.",
        selection_help, selection_fitted_help);
    parsed = args_parse(&spec, argc, argv);
    if (parsed != ARGS_RUN)
        return parsed == ARGS_HELP ? CLI_OK : CLI_USAGE;
    has_calibration_option = q.target_cett >= 0.0 || q.target_density >= 0.0 ||
                             q.target_ppl >= 0.0 || q.max_error >= 0.0 || q.rule != NULL ||
                             q.plan != NULL || q.predictor_texts.n != 0 || q.is_resumed ||
                             q.n_tokens != 0;
    if (q.max_error < 0.0)
        q.max_error = 0.01;
    status = check_request(&q, has_calibration_option);
    if (status == CLI_OK) {
        cli_catch_interrupt();
        status = run(&q, argc, argv);
    }
    selections_free(&q.predictors);
    return status;
}
