/* generate.c  Text from a llama-architecture model, with the feed-forward layers dense or sparse. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "heldout.h"
#include "json_out.h"
#include "sampler.h"
#include "table.h"
#include "utf8.h"

enum { DEFAULT_TOKENS = 64, DEFAULT_CONTEXT = 512, MAX_WINDOW = 4096 };
#define NOT_SAID UINT32_MAX

struct request {
    const char *model_path, *prompt, *ffn, *select, *perplexity_path, *isa;
    uint32_t n_tokens, n_threads;
    double temperature;
    uint64_t seed;
    int json_wanted, ignores_end, no_bos;
    char *perplexity_text; /* of perplexity_path */
    size_t n_perplexity_bytes;
    struct selections selections; /* what --select says; none without it */
};

/* What was measured in one stretch of llama_eval() calls. */
struct measure {
    uint64_t n_tokens, ns, ffn_ns;
    struct llama_layer_stats *layers, sum;
};

struct result {
    struct ids prompt, generated;
    char *text; /* of the generated tokens, valid UTF-8 */
    size_t n_text, text_capacity;
    struct measure in, out, held; /* prompt, generation, perplexity */
    struct perplexity perplexity;
};

static void measure_begin(struct llama *m)
{
    memset(m->stats, 0, m->info.n_layers * sizeof *m->stats);
    m->ffn_ns = 0;
}

static void measure_end(const struct llama *m, uint64_t n_tokens, uint64_t ns,
                        struct measure *measure)
{
    measure->n_tokens = n_tokens;
    measure->ns = ns;
    measure->ffn_ns = m->ffn_ns;
    measure->layers = cli_alloc(m->info.n_layers, sizeof *measure->layers);
    memcpy(measure->layers, m->stats, m->info.n_layers * sizeof *measure->layers);
    for (uint32_t i = 0; i < m->info.n_layers; i++) {
        measure->sum.n_tokens += m->stats[i].n_tokens;
        measure->sum.n_active += m->stats[i].n_active;
        measure->sum.touched_bytes += m->stats[i].touched_bytes;
        measure->sum.n_dense += m->stats[i].n_dense;
        if (m->stats[i].n_dense != 0)
            measure->sum.dense_reason = m->stats[i].dense_reason;
    }
}

/* Prints what is complete; in JSON mode only collects. */
static void put_text(struct result *r, struct utf8_stream *stream, const char *bytes, size_t n,
                     int is_end, int prints)
{
    size_t written;
    cli_grow(&r->text, &r->text_capacity, r->n_text + 3 * (n + 4), 1);
    written = utf8_stream_put(stream, bytes, n, is_end, r->text + r->n_text);
    if (prints) {
        fwrite(r->text + r->n_text, 1, written, stdout);
        fflush(stdout);
    }
    r->n_text += written;
}

static int generate(struct llama *m, struct tokenizer *tokenizer, const struct request *q,
                    struct result *r)
{
    struct sampler sampler = {q->temperature, q->seed};
    struct utf8_stream stream = {{0}, 0};
    float *logits = cli_alloc(m->info.n_vocab, sizeof *logits);
    uint64_t start_ns = cli_now_ns();
    int status;
    llama_reset(m);
    measure_begin(m);
    status = llama_eval(m, r->prompt.data, r->prompt.n, 1, logits);
    measure_end(m, r->prompt.n, cli_now_ns() - start_ns, &r->in);
    if (!q->json_wanted)
        fwrite(q->prompt, 1, strlen(q->prompt), stdout);
    measure_begin(m);
    start_ns = cli_now_ns();
    while (status == CLI_OK && r->generated.n < q->n_tokens && !cli_interrupted()) {
        const char *bytes;
        size_t n_bytes;
        int32_t id;
        if (r->generated.n != 0) /* the last token's logits are there already before the first */
            status = llama_eval(m, &r->generated.data[r->generated.n - 1], 1, 1, logits);
        if (status != CLI_OK)
            break;
        id = sampler_pick(&sampler, logits, m->info.n_vocab);
        if (!q->ignores_end && tokenizer_is_end(tokenizer, id))
            break;
        ids_add(&r->generated, id);
        n_bytes = tokenizer_decode(tokenizer, id, &bytes);
        put_text(r, &stream, bytes, n_bytes, 0, !q->json_wanted);
    }
    measure_end(m, m->n_past - r->prompt.n, cli_now_ns() - start_ns, &r->out);
    put_text(r, &stream, "", 0, 1, !q->json_wanted);
    if (!q->json_wanted)
        fputc('\n', stdout);
    free(logits);
    return status;
}

static int measure_perplexity(struct llama *m, struct tokenizer *tokenizer, const struct request *q,
                              uint32_t window, struct result *r)
{
    struct ids ids = {NULL, 0, 0};
    int status;
    tokenizer_encode(tokenizer, q->perplexity_text, q->n_perplexity_bytes, 0, &ids);
    if (ids.n < 2)
        status = cli_fail("'%s' has %zu tokens, expected at least 2", q->perplexity_path, ids.n);
    else
        status = heldout_perplexity(m, ids.data, ids.n, window, tokenizer_bos(tokenizer),
                                    "perplexity", &r->perplexity);
    free(ids.data);
    return status;
}

/* ---------------------------------------------------------------- reporting */

static double ratio(double a, double b)
{
    return b > 0.0 ? a / b : NAN;
}

static double per_second(const struct measure *m)
{
    return ratio((double)m->n_tokens, (double)m->ns * 1e-9);
}

/* The stretch that density and shares are taken from: generation if there was any, else the prompt, else the held-out text. */
static const struct measure *main_measure(const struct result *r)
{
    return r->out.n_tokens != 0 ? &r->out : r->in.n_tokens != 0 ? &r->in : &r->held;
}

static double density_of(const struct llama_layer_stats *sum, uint32_t d_ff)
{
    return ratio((double)sum->n_active, (double)sum->n_tokens * d_ff);
}

static int has_plan(const sffn_model *model)
{
    return sffn_model_meta_count(model, "sffn.plan") != 0;
}

static void print_json(const struct llama *m, const struct request *q, const struct result *r)
{
    const struct measure *measure = main_measure(r);
    struct json json;
    json_begin(&json, stdout);
    json_text(&json, "name", "generate");
    json_text(&json, "model", q->model_path);
    json_text(&json, "ffn", q->ffn);
    json_text(&json, "select",
              strcmp(q->ffn, "dense") == 0 ? "dense"
              : q->select != NULL          ? q->select
              : has_plan(m->model)         ? "plan"
                                           : "gate");
    json_uint(&json, "n_prompt", r->prompt.n);
    json_uint(&json, "n_generated", r->generated.n);
    json_array_begin(&json, "tokens");
    for (size_t i = 0; i < r->generated.n; i++)
        json_int(&json, NULL, r->generated.data[i]);
    json_array_end(&json);
    json_text_n(&json, "text", r->text != NULL ? r->text : "", r->n_text);
    json_number(&json, "tokens_per_second", per_second(&r->out));
    json_number(&json, "prompt_tokens_per_second", per_second(&r->in));
    json_number(&json, "ffn_share", ratio((double)measure->ffn_ns, (double)measure->ns));
    json_number(&json, "density", density_of(&measure->sum, m->info.d_ff));
    json_number(&json, "dense_share",
                ratio((double)measure->sum.n_dense, (double)measure->sum.n_tokens));
    json_number(&json, "perplexity", q->perplexity_path != NULL ? r->perplexity.value : NAN);
    json_number(&json, "bytes_per_token",
                ratio((double)measure->sum.touched_bytes, (double)measure->n_tokens));
    json_array_begin(&json, "layers");
    for (uint32_t i = 0; measure->layers != NULL && i < m->info.n_layers; i++) {
        const struct llama_layer_stats *layer = &measure->layers[i];
        json_object_begin(&json, NULL);
        json_uint(&json, "layer", i);
        json_number(&json, "density", density_of(layer, m->info.d_ff));
        json_number(&json, "bytes_per_token",
                    ratio((double)layer->touched_bytes, (double)layer->n_tokens));
        json_number(&json, "ns_per_token", ratio((double)layer->ns, (double)layer->n_tokens));
        json_object_end(&json);
    }
    json_array_end(&json);
    json_end(&json);
}

/* On standard error: standard output has the text. */
static void print_text(const struct llama *m, const struct request *q, const struct result *r)
{
    const struct measure *measure = main_measure(r);
    char bytes[32];
    fputc('\n', stderr);
    if (r->in.n_tokens != 0)
        fprintf(stderr, "prompt       %6zu tokens  %9.1f tokens/s\n", r->prompt.n,
                per_second(&r->in));
    if (r->out.n_tokens != 0)
        fprintf(stderr, "generation   %6zu tokens  %9.1f tokens/s\n", r->generated.n,
                per_second(&r->out));
    if (measure->n_tokens != 0) {
        const struct llama_layer_stats *sum = &measure->sum;
        /* Sparse layers of a model without zeros run dense, whatever was asked for. */
        if (strcmp(q->ffn, "dense") != 0 && sum->n_dense != 0 && sum->n_dense == sum->n_tokens)
            fprintf(stderr, "FFN          dense (%s), ", sffn_dense_reason_name(sum->dense_reason));
        else
            fprintf(stderr, "FFN          %s, ", q->ffn);
        fprintf(stderr, "%.1f %% of the time, density %.4f, %s of weights read per token\n",
                100.0 * ratio((double)measure->ffn_ns, (double)measure->ns),
                density_of(sum, m->info.d_ff),
                cli_bytes_text(sum->touched_bytes / measure->n_tokens, bytes));
    }
    if (q->perplexity_path != NULL)
        fprintf(stderr, "perplexity   %.4f over %llu tokens of %s, %.1f tokens/s\n",
                r->perplexity.value, (unsigned long long)r->perplexity.n_predicted,
                q->perplexity_path,
                ratio((double)r->perplexity.n_predicted, (double)r->perplexity.ns * 1e-9));
}

/* ---------------------------------------------------------------- the command */

/* Prompt and generated tokens must fit into the context; without -n as many as do. */
static int plan_positions(struct request *q, struct result *r, const struct tokenizer *tokenizer,
                          uint32_t context, uint32_t *n_positions)
{
    uint64_t positions;
    if (tokenizer_adds_bos(tokenizer) && !q->no_bos)
        ids_add(&r->prompt, tokenizer_bos(tokenizer));
    tokenizer_encode(tokenizer, q->prompt, strlen(q->prompt), 1, &r->prompt);
    if (r->prompt.n == 0)
        return cli_fail("the prompt is empty, expected some text to start from");
    if (q->n_tokens == NOT_SAID) {
        uint64_t left = r->prompt.n < context ? context - r->prompt.n : 1;
        q->n_tokens = left < DEFAULT_TOKENS ? (uint32_t)left : DEFAULT_TOKENS;
    }
    positions = r->prompt.n + (uint64_t)q->n_tokens;
    if (positions > context)
        return cli_fail("%zu prompt tokens and %u to generate need %llu positions, expected at "
                        "most the model's context, %u",
                        r->prompt.n, (unsigned)q->n_tokens, (unsigned long long)positions,
                        (unsigned)context);
    *n_positions = (uint32_t)positions;
    return CLI_OK;
}

static int run(struct request *q, sffn_context *ctx, const sffn_model *model,
               struct tokenizer *tokenizer)
{
    struct llama_options options = {0, SFFN_DENSE_TOKENS_AUTO, NULL};
    struct result r;
    struct llama *m = NULL;
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    uint32_t window, context;
    int32_t select = SFFN_SELECT_DEFAULT;
    int status = CLI_OK;
    memset(&r, 0, sizeof r);
    sffn_model_get_info(model, &info);
    context = info.n_context != 0 ? info.n_context : DEFAULT_CONTEXT;
    window = context < MAX_WINDOW ? context : MAX_WINDOW;
    if (q->prompt != NULL)
        status = plan_positions(q, &r, tokenizer, context, &options.n_positions);
    if (q->perplexity_path != NULL && window > options.n_positions)
        options.n_positions = window;
    if (q->selections.n != 0 && !selection_is_own(&q->selections.data[0], &select))
        options.selection = &q->selections.data[0];
    if (status == CLI_OK) {
        m = llama_create(ctx, model, &options);
        status = m != NULL ? CLI_OK : CLI_FAILED;
    }
    if (status == CLI_OK) {
        m->select = strcmp(q->ffn, "dense") == 0 ? SFFN_SELECT_DENSE
                    : options.selection != NULL  ? SFFN_SELECT_PREDICTOR
                                                 : select;
        for (uint32_t i = 0; q->selections.n != 0 && status == CLI_OK && i < info.n_layers; i++)
            status = selection_check_own(&q->selections.data[0], i, m->layers[i].ffn);
        if (status == CLI_OK && q->prompt != NULL)
            status = generate(m, tokenizer, q, &r);
    }
    if (status == CLI_OK && q->perplexity_path != NULL) {
        measure_begin(m);
        status = measure_perplexity(m, tokenizer, q, window, &r);
        measure_end(m, r.perplexity.n_predicted, r.perplexity.ns, &r.held);
    }
    if (status == CLI_OK && q->json_wanted)
        print_json(m, q, &r);
    else if (status == CLI_OK)
        print_text(m, q, &r);
    free(r.prompt.data);
    free(r.generated.data);
    free(r.text);
    free(r.in.layers);
    free(r.out.layers);
    free(r.held.layers);
    llama_destroy(m);
    return status;
}

/* --select: one selection that can be made without activations. */
static int take_selection(struct request *q)
{
    int32_t own;
    if (selections_add(&q->selections, q->select, 0, 0) != CLI_OK)
        return CLI_USAGE;
    if (q->selections.n > 1)
        return args_wrong("--select %s is a list, expected one selection", q->select);
    if (selection_is_fitted(&q->selections.data[0]) &&
        !selection_is_own(&q->selections.data[0], &own))
        return args_wrong(
            "'%s' is made from activations: 'sffn prepare' does that, and --select plan uses it",
            q->select);
    return CLI_OK;
}

int cmd_generate(int argc, char **argv)
{
    struct request q = {.ffn = "sparse", .n_tokens = NOT_SAID};
    char notes[2048];
    /* clang-format off */
    const struct arg_option options[] = {
        {"--prompt", 'p', ARG_TEXT, &q.prompt, "TEXT", "text to continue; control tokens such as <s> are recognised in it", 0, 0},
        {"--n-tokens", 'n', ARG_UINT, &q.n_tokens, "N", "how many tokens to generate; default 64, or what the context\nhas room for", 0, 1048576},
        {"--ffn", 0, ARG_CHOICE, &q.ffn, "dense|sparse", "how the feed-forward layers run; default sparse", 0, 0},
        {"--select", 0, ARG_TEXT, &q.select, "SEL", "sparse: who decides which neurons run, see below. Default: the\nmodel's own selector, else gate", 0, 0},
        {"--threads", 't', ARG_UINT, &q.n_threads, "N", "0: all CPUs (default)", 0, 512},
        {"--temperature", 0, ARG_NUMBER, &q.temperature, "T", "0: always the most likely token (default)", 0, 100},
        {"--seed", 0, ARG_UINT64, &q.seed, "S", "of the random numbers; default 0", 0, 0},
        {"--perplexity", 0, ARG_TEXT, &q.perplexity_path, "FILE", "also measure the perplexity of a text, in windows of the context", 0, 0},
        {"--ignore-eos", 0, ARG_FLAG, &q.ignores_end, NULL, "go on after a token that ends the text", 0, 0},
        {"--no-bos", 0, ARG_FLAG, &q.no_bos, NULL, "start with the prompt itself, without the model's bos token", 0, 0},
        {"--isa", 0, ARG_ISA, &q.isa, "NAME", "use no kernels better than these; 'sffn info' lists them", 0, 0},
        {"--json", 0, ARG_FLAG, &q.json_wanted, NULL, "one JSON object on standard output, and no text", 0, 0},
    };
    const struct arg_spec spec = {"generate MODEL --prompt TEXT [OPTION]...",
                                  "Continues a text with a llama-architecture GGUF model. The text goes to standard output, figures to\n"
                                  "standard error.",
                                  "MODEL", &q.model_path, options, sizeof options / sizeof options[0],
                                  notes};
    /* clang-format on */
    struct tokenizer *tokenizer;
    sffn_context *ctx;
    sffn_model *model;
    int status = CLI_FAILED, parsed;
    snprintf(notes, sizeof notes,
             SELECTION_HEADLINE "%s%s\n\nDensity, FFN share and bytes are of the generated tokens. "
                                "Perplexity windows start "
                                "with the model's bos token.",
             selection_own_help, selection_help);
    parsed = args_parse(&spec, argc, argv);
    if (parsed != ARGS_RUN)
        return parsed == ARGS_HELP ? CLI_OK : CLI_USAGE;
    if (q.prompt == NULL && q.perplexity_path == NULL)
        return args_wrong("expected --prompt TEXT, --perplexity FILE, or both");
    if (q.select != NULL && strcmp(q.ffn, "dense") == 0)
        return args_wrong("--select %s is for --ffn sparse, not dense", q.select);
    if (q.select != NULL && take_selection(&q) != CLI_OK) {
        selections_free(&q.selections);
        return CLI_USAGE;
    }
    if (q.perplexity_path != NULL) { /* before anything takes time */
        q.perplexity_text = cli_read_text(q.perplexity_path, &q.n_perplexity_bytes);
        if (q.perplexity_text == NULL) {
            selections_free(&q.selections);
            return CLI_FAILED;
        }
    }
    cli_catch_interrupt();
    ctx = cli_context(q.n_threads, q.isa);
    model = ctx != NULL ? cli_open_model(ctx, q.model_path) : NULL;
    tokenizer = model != NULL ? tokenizer_create(ctx, model) : NULL;
    if (tokenizer != NULL)
        status = run(&q, ctx, model, tokenizer);
    tokenizer_destroy(tokenizer);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    selections_free(&q.selections);
    free(q.perplexity_text);
    return status;
}
