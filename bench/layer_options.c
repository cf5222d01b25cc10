#include "layer_options.h"

#include <stdio.h>
#include <string.h>

#include "layer.h"
#include "report.h"
#include "sparseffn/sparseffn.h"

const char *const select_names[N_SELECTS] = {"dense", "gate",     "screen", "cascade",
                                             "sign",  "low_rank", "oracle", "router"};

int select_has_predictor(enum select s)
{
    return s == SELECT_SCREEN || s == SELECT_CASCADE || s == SELECT_SIGN || s == SELECT_LOW_RANK;
}

const char layer_options_help[] =
    "  --shape NAME|D,F     llama2-7b (4096,11008), llama2-13b (5120,13824), reglu-33m (512,2560), "
    "or d_model,d_ff\n"
    "  --dtype LIST         f32, f16, bf16, q8_0, q4_0\n"
    "  --density LIST       share of active neurons (of experts for router), in (0, 1]\n"
    "  --select LIST        dense     everything runs\n"
    "                       gate      the full gate product decides; exact\n"
    "                       screen    a 4-bit copy of the gate decides who reaches the full gate\n"
    "                       cascade   bit planes of the gate decide, one after the other\n"
    "                       sign      sign bits of gate and x decide (SparseInfer)\n"
    "                       low_rank  the gate's singular value decomposition decides; random "
    "weights have no low rank,\n"
    "                                 so this means something with --planted only\n"
    "                       oracle    the active neurons are handed in\n"
    "                       router    experts of 32 neurons, chosen by a router; SiLU inside\n"
    "  --bits N             cascade: bits per gate weight, 1..4; --step-bits N: of them read at a "
    "time\n"
    "  --columns X          cascade: share of the columns that a first step reads, where |x| is "
    "largest; --bits may be 0\n"
    "                       then; default 0: no such step\n"
    "  --margin X           screen and cascade: doubt that lets a neuron through, in standard "
    "deviations; these three\n"
    "                       default to the library's\n"
    "  --rank N             low_rank; default d_model / 8, in whole 32s\n"
    "  --alpha X            sign: default 1.03\n"
    "  --recall R           sign and low_rank: their threshold is set so that this share of the "
    "active neurons passes,\n"
    "                       on the inputs of the run; default 0.99\n"
    "  --planted MODEL      a layer with the gate statistics of layer 3 of this GGUF model, whose "
    "recorded inputs lie beside it\n"
    "                       as layer3_inputs.f32: its real rows and inputs, combined and rotated "
    "to the shape; --density has no say\n"
    "  --tokens LIST        tokens per call, 1..4096\n"
    "  --threads LIST       1..512\n"
    "  --batch-path PATH    for several tokens: auto (the library's default, through oneDNN where "
    "that is faster), sparse (never\n"
    "                       dense), dense (always)\n"
    "  --repeats N          samples; default: until the 95 % confidence interval of the median "
    "reaches no further than 1 % from\n"
    "                       it, at least 30 in three rounds\n"
    "  --seconds X          but no longer than this for a row; default 3\n"
    "  --cold MIB           weights are read again when this much else was read, and the ceilings "
    "are measured on as much;\n"
    "                       default: four times the last-level cache, at least 512\n"
    "  --warm               one copy of the layer, one input: as warm as the caches allow\n"
    "  --no-onednn          leave out the oneDNN baseline, which takes some seconds for each "
    "number of threads and tokens\n"
    "  --json               one JSON object per line instead of a table\n"
    "  --help               this text\n";

const char layer_keys_help[] =
    "  density              the share that was planted\n"
    "  let_through          share of neurons whose gate row was read; recall: share of the truly "
    "active ones among them\n"
    "  median_error         half the 95 % confidence interval of the median, relative to it; "
    "spread: the middle half of the\n"
    "                       samples, likewise\n"
    "  touched_bytes        weight bytes that a call read; weight_bytes: what a dense layer must "
    "read\n"
    "  effective_gbps       touched_bytes / median_ns\n"
    "  stream_gbps          reading memory in one stream with as many threads, measured in this "
    "run:\n"
    "                       the best pass; stream_median_gbps: the median pass before and "
    "after the row\n"
    "  gather_gbps          gathering pieces of this layout's size at this density, measured in "
    "this run;\n"
    "                       gather_median_gbps: likewise (not in stages)\n"
    "  limit_fraction       touched_bytes / stream_gbps / median_ns: 1 is the memory's limit; "
    "median_limit_fraction:\n"
    "                       the same with stream_median_gbps, a median against a median\n"
    "  gather_fraction      the same with gather_gbps for the gathered bytes; "
    "median_gather_fraction: "
    "with both medians\n"
    "  speedup_vs_dense     own dense path, same run; speedup_vs_onednn: oneDNN's fastest of f32, "
    "bf16, s8, same run\n"
    "  relative_error       |y - y64| / |y64|; y64 is the whole layer (router: its chosen experts; "
    "trace: the recorded neurons)\n"
    "                       in float64 from the same packed weights, so that it holds what the "
    "quantised x and h and a wrong\n"
    "                       selection cost. The table has the error against the own dense path, "
    "too (\"vs dense\").\n";

static int parse_shape(struct layer_options *o, const char *text)
{
    static const struct {
        const char *name;
        uint32_t d_model, d_ff;
    } shapes[] = {
        {"llama2-7b", 4096, 11008}, {"llama2-13b", 5120, 13824}, {"reglu-33m", 512, 2560}};
    o->shape = text;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (strcmp(shapes[i].name, text) == 0) {
            o->d_model = shapes[i].d_model;
            o->d_ff = shapes[i].d_ff;
            return 0;
        }
    char item[32], rest[32];
    uint64_t d_model, d_ff;
    const char *list = text;
    if (!strchr(text, ',') || !next_item(&list, item, sizeof item) ||
        !next_item(&list, rest, sizeof rest) || list)
        return usage_error(
            o->command,
            "--shape is \"%s\"; expected llama2-7b, llama2-13b, reglu-33m or d_model,d_ff", text);
    if (parse_uint(o->command, "d_model of --shape", item, 1, 1u << 20, &d_model) ||
        parse_uint(o->command, "d_ff of --shape", rest, 2, 1u << 22, &d_ff))
        return EXIT_USAGE;
    o->d_model = (uint32_t)d_model;
    o->d_ff = (uint32_t)d_ff;
    return 0;
}

static int too_many(const struct layer_options *o, const char *option)
{
    return usage_error(o->command, "%s has more than %d items", option, MAX_LIST);
}

static int parse_dtypes(struct layer_options *o, const char *list)
{
    char item[64];
    while (next_item(&list, item, sizeof item)) {
        const int32_t dtype = sffn_dtype_from_name(item);
        if (dtype < 0)
            return usage_error(o->command,
                               "--dtype is \"%s\"; expected f32, f16, bf16, q8_0 or q4_0", item);
        if (o->n_dtypes == MAX_LIST)
            return too_many(o, "--dtype");
        if (sffn_dtype_row_bytes(dtype, o->d_model) == 0)
            return usage_error(o->command, "d_model is %u; --dtype %s needs a multiple of %zu",
                               o->d_model, item, sffn_dtype_block_size(dtype));
        o->dtypes[o->n_dtypes++] = dtype;
    }
    return 0;
}

static int parse_selects(struct layer_options *o, const char *list)
{
    char item[64];
    while (next_item(&list, item, sizeof item)) {
        int s = 0;
        while (s < N_SELECTS && strcmp(select_names[s], item) != 0)
            s++;
        if (s == N_SELECTS)
            return usage_error(o->command,
                               "--select is \"%s\"; expected dense, gate, screen, cascade, sign, "
                               "low_rank, oracle or router",
                               item);
        if (o->n_selects == MAX_LIST)
            return too_many(o, "--select");
        if (s == SELECT_ROUTER && o->planted)
            return usage_error(o->command, "--planted has no experts; --select router needs some");
        if (s == SELECT_ROUTER && o->d_ff % EXPERT_NEURONS != 0)
            return usage_error(o->command, "d_ff is %u; --select router needs a multiple of %u",
                               o->d_ff, EXPERT_NEURONS);
        if (o->trace && s != SELECT_ORACLE && s != SELECT_DENSE)
            return usage_error(o->command,
                               "--select is \"%s\"; a trace says which neurons run, so only dense "
                               "and oracle go with it",
                               item);
        o->selects[o->n_selects++] = (enum select)s;
    }
    return 0;
}

static int parse_numbers(struct layer_options *o, const char *densities, const char *threads,
                         const char *tokens)
{
    char item[64];
    uint64_t n;
    while (next_item(&densities, item, sizeof item)) {
        if (o->n_densities == MAX_LIST)
            return too_many(o, "--density");
        if (parse_double(o->command, "--density", item, 1e-4, 1.0, &o->densities[o->n_densities++]))
            return EXIT_USAGE;
    }
    while (next_item(&threads, item, sizeof item)) {
        if (o->n_threads == MAX_LIST)
            return too_many(o, "--threads");
        if (parse_uint(o->command, "--threads", item, 1, 512, &n))
            return EXIT_USAGE;
        o->threads[o->n_threads++] = (uint32_t)n;
    }
    while (next_item(&tokens, item, sizeof item)) {
        if (o->n_tokens == MAX_LIST)
            return too_many(o, "--tokens");
        if (parse_uint(o->command, "--tokens", item, 1, 4096, &n))
            return EXIT_USAGE;
        o->tokens[o->n_tokens++] = (size_t)n;
    }
    return 0;
}

/* 1, 2, 4, ... and all cores. */
static void use_all_cores(struct layer_options *o)
{
    sffn_context *ctx;
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    info.n_cores = 1;
    if (sffn_context_create(NULL, &ctx) == SFFN_OK) {
        sffn_context_get_info(ctx, &info);
        sffn_context_destroy(ctx);
    }
    for (uint32_t n = 1; n < info.n_cores; n *= 2)
        o->threads[o->n_threads++] = n;
    o->threads[o->n_threads++] = info.n_cores;
}

static int parse_batch_path(struct layer_options *o, const char *path)
{
    const sffn_ffn_config defaults = SFFN_FFN_CONFIG_INIT;
    if (strcmp(path, "auto") == 0)
        o->dense_tokens = defaults.dense_tokens;
    else if (strcmp(path, "sparse") == 0)
        o->dense_tokens = 0;
    else if (strcmp(path, "dense") == 0)
        o->dense_tokens = 1;
    else
        return usage_error(o->command, "--batch-path is \"%s\"; expected auto, sparse or dense",
                           path);
    return 0;
}

int layer_options_parse(struct layer_options *o, const char *command, const char *help,
                        const struct layer_defaults *defaults, struct option_def *extra,
                        size_t n_extra, int argc, char **argv)
{
    struct option_def defs[32] = {
        {"--shape", 1, NULL},      {"--dtype", 1, NULL},   {"--density", 1, NULL},
        {"--select", 1, NULL},     {"--tokens", 1, NULL},  {"--threads", 1, NULL},
        {"--trace", 1, NULL},      {"--repeats", 1, NULL}, {"--seconds", 1, NULL},
        {"--batch-path", 1, NULL}, {"--warm", 0, NULL},    {"--json", 0, NULL},
        {"--help", 0, NULL},       {"--bits", 1, NULL},    {"--step-bits", 1, NULL},
        {"--margin", 1, NULL},     {"--rank", 1, NULL},    {"--alpha", 1, NULL},
        {"--recall", 1, NULL},     {"--planted", 1, NULL}, {"--no-onednn", 0, NULL},
        {"--cold", 1, NULL},       {"--columns", 1, NULL}};
    enum { N_SHARED = 23 };
    const size_t n_defs = N_SHARED + n_extra;
    for (size_t i = 0; i < n_extra; i++)
        defs[N_SHARED + i] = extra[i];
#define VALUE(name, otherwise)                                                                     \
    (option_value(defs, n_defs, name) ? option_value(defs, n_defs, name) : (otherwise))
    memset(o, 0, sizeof *o);
    o->command = command;
    if (options_parse(command, argc, argv, defs, n_defs))
        return EXIT_USAGE;
    for (size_t i = 0; i < n_extra; i++)
        extra[i].value = defs[N_SHARED + i].value;
    if (option_value(defs, n_defs, "--help")) {
        printf("%s\n%s\n%s", help, layer_options_help, layer_keys_help);
        return 1;
    }
    uint64_t bits, step_bits, rank, cold_mib = 0;
    double margin, alpha, columns;
    const sffn_predictor_config predictor = SFFN_PREDICTOR_CONFIG_INIT;
    char bits_text[16], step_text[16], margin_text[32], alpha_text[32], rank_text[32];
    o->planted = option_value(defs, n_defs, "--planted");
    if (!o->trace)
        o->trace = option_value(defs, n_defs, "--trace");
    if (parse_shape(o, VALUE("--shape", "llama2-7b")))
        return EXIT_USAGE;
    snprintf(bits_text, sizeof bits_text, "%u", (unsigned)predictor.bits);
    snprintf(step_text, sizeof step_text, "%u", (unsigned)predictor.step_bits);
    snprintf(margin_text, sizeof margin_text, "%.9g", (double)predictor.margin);
    snprintf(alpha_text, sizeof alpha_text, "%.9g", (double)predictor.alpha);
    snprintf(rank_text, sizeof rank_text, "%u", o->d_model < 256 ? 32 : o->d_model / 256 * 32);
    const char *selects = VALUE("--select", o->trace ? "oracle" : defaults->selects),
               *threads = VALUE("--threads", defaults->threads);
    if (parse_dtypes(o, VALUE("--dtype", defaults->dtypes)) || parse_selects(o, selects) ||
        parse_numbers(o, VALUE("--density", defaults->densities), threads,
                      VALUE("--tokens", defaults->tokens)) ||
        parse_double(command, "--columns", VALUE("--columns", "0"), 0.0, 1.0, &columns) ||
        parse_uint(command, "--bits", VALUE("--bits", bits_text), columns > 0 ? 0 : 1, 4, &bits) ||
        parse_uint(command, "--step-bits", VALUE("--step-bits", step_text), 1, 4, &step_bits) ||
        parse_double(command, "--margin", VALUE("--margin", margin_text), 0.0, 100.0, &margin) ||
        parse_uint(command, "--rank", VALUE("--rank", rank_text), 32, 1u << 20, &rank) ||
        parse_double(command, "--alpha", VALUE("--alpha", alpha_text), 1e-4, 1000.0, &alpha) ||
        parse_double(command, "--recall", VALUE("--recall", "0.99"), 0.01, 1.0, &o->recall) ||
        parse_double(command, "--seconds", VALUE("--seconds", "3"), 0.01, 3600.0, &o->seconds) ||
        (option_value(defs, n_defs, "--cold") &&
         parse_uint(command, "--cold", VALUE("--cold", ""), 1, 1u << 20, &cold_mib)) ||
        parse_batch_path(o, VALUE("--batch-path", "auto")) ||
        (option_value(defs, n_defs, "--repeats") &&
         parse_uint(command, "--repeats", VALUE("--repeats", ""), 1, MAX_SAMPLES, &o->repeats)))
        return EXIT_USAGE;
    if (rank % 32 != 0 || rank > o->d_model || rank > o->d_ff)
        for (size_t i = 0; i < o->n_selects; i++)
            if (o->selects[i] == SELECT_LOW_RANK)
                return usage_error(command,
                                   "--rank is %u; expected a multiple of 32 that is at most "
                                   "d_model (%u) and d_ff (%u)",
                                   (unsigned)rank, o->d_model, o->d_ff);
    if (!threads)
        use_all_cores(o);
    o->bits = (uint32_t)bits;
    o->step_bits = (uint32_t)step_bits;
    o->columns = (float)columns;
    o->margin = (float)margin;
    o->cold_bytes = cold_mib << 20;
    o->rank = (uint32_t)rank;
    o->alpha = (float)alpha;
    o->is_warm = option_value(defs, n_defs, "--warm") != NULL;
    o->as_json = option_value(defs, n_defs, "--json") != NULL;
    o->has_onednn = option_value(defs, n_defs, "--no-onednn") == NULL;
    return 0;
#undef VALUE
}
