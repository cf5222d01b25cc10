/* ffn.c  sffn-bench ffn: one feed-forward layer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "ceilings.h"
#include "layer.h"
#include "options.h"
#include "peer_onednn.h"
#include "planted.h"
#include "report.h"
#include "sparseffn/sparseffn.h"

#define COMMAND     "sffn-bench ffn"
#define MAX_LIST    32
#define MAX_SETS    8
#define MAX_COPIES  2048.0 /* of tiny layers */
#define TILE_TOKENS 8      /* tokens for which the library reads a row once */
#define ROUNDS      3 /* dense and sparse take turns, so that a slow spell of the machine meets both */

static const char help[] =
    "Usage: " COMMAND " [OPTIONS]\n"
    "\n"
    "Times one gated feed-forward layer with random weights of which exactly the wanted share of "
    "neurons is active, beside\n"
    "the same layer dense, oneDNN, and what the memory allows. Weights are cold: so many copies of "
    "the layer are used in turn\n"
    "that they exceed four times the last-level cache, and at least 512 MiB.\n"
    "\n"
    "  --shape NAME|D,F     llama2-7b (4096,11008; default), llama2-13b (5120,13824), reglu-33m "
    "(512,2560), or d_model,d_ff\n"
    "  --dtype LIST         f32, f16, bf16, q8_0, q4_0; default q4_0\n"
    "  --density LIST       share of active neurons (of experts for router), in (0, 1]; default "
    "0.107\n"
    "  --select LIST        dense    everything runs\n"
    "                       gate     the full gate product decides; exact (default)\n"
    "                       screen   a 4-bit copy of the gate decides who reaches the full gate\n"
    "                       cascade  bit planes of the gate, one after the other, decide who "
    "reaches "
    "the full gate\n"
    "                       oracle   the active neurons are handed in\n"
    "                       router   experts of 32 neurons, chosen by a router; SiLU inside\n"
    "                       sign, low_rank: not implemented in this version\n"
    "  --bits N             cascade: bits per gate weight, 1..4; --step-bits N: of them read at a "
    "time\n"
    "  --margin X           screen and cascade: doubt that lets a neuron through, in standard "
    "deviations; these three\n"
    "                       default to the library's\n"
    "  --planted MODEL      a layer with the gate statistics of layer 3 of this GGUF model, whose "
    "recorded inputs lie beside it\n"
    "                       as layer3_inputs.f32: its real rows and inputs, combined and rotated "
    "to "
    "the shape; --density has no say\n"
    "  --tokens N           tokens per call, 1..4096; default 1\n"
    "  --threads LIST       1..512; default 1\n"
    "  --batch-path PATH    for several tokens: auto (dense from the library's crossover on, "
    "through oneDNN where there is one;\n"
    "                       default), sparse (never dense), dense (always)\n"
    "  --trace FILE         not implemented in this version\n"
    "  --repeats N          samples; default: 30 or more, up to 3 s\n"
    "  --warm               one copy of the layer, one input: as warm as the caches allow\n"
    "  --json               one JSON object per line instead of a table\n"
    "  --help               this text\n"
    "\n"
    "Lists are separated by commas; every combination is one row. Columns and JSON keys:\n"
    "  density              the share that was planted\n"
    "  let_through          share of neurons whose gate row was read; recall: share of the truly "
    "active ones among them\n"
    "  touched_bytes        weight bytes that a call read; weight_bytes: what a dense layer must "
    "read\n"
    "  effective_gbps       touched_bytes / median_ns\n"
    "  stream_gbps          reading memory in one stream with as many threads, measured in this "
    "run\n"
    "  gather_gbps          gathering pieces of this layout's size at this density, measured in "
    "this run\n"
    "  limit_fraction       touched_bytes / stream_gbps / median_ns: 1 is the memory's limit\n"
    "  gather_fraction      the same with gather_gbps for the gathered bytes\n"
    "  speedup_vs_dense     own dense path, same run; speedup_vs_onednn: oneDNN's fastest of f32, "
    "bf16, s8, same run\n"
    "  relative_error       |y - y64| / |y64|; y64 is the whole layer (router: its chosen experts) "
    "in float64 from the same\n"
    "                       packed weights, so that it holds what the quantised x and h and a "
    "wrong selection cost.\n"
    "                       The table has the error against the own dense path, too (\"vs "
    "dense\").\n";

enum select {
    SELECT_DENSE,
    SELECT_GATE,
    SELECT_SCREEN,
    SELECT_CASCADE,
    SELECT_SIGN,
    SELECT_LOW_RANK,
    SELECT_ORACLE,
    SELECT_ROUTER,
    N_SELECTS
};
static const char *const select_names[N_SELECTS] = {"dense", "gate",     "screen", "cascade",
                                                    "sign",  "low_rank", "oracle", "router"};
static const int32_t select_values[N_SELECTS] = {
    SFFN_SELECT_DENSE,  SFFN_SELECT_GATE,  SFFN_SELECT_PREDICTOR, SFFN_SELECT_PREDICTOR, -1, -1,
    SFFN_SELECT_ACTIVE, SFFN_SELECT_ROUTER};

struct options {
    const char *shape;
    uint32_t d_model, d_ff;
    int32_t dtypes[MAX_LIST];
    double densities[MAX_LIST];
    enum select selects[MAX_LIST];
    uint32_t threads[MAX_LIST];
    size_t n_dtypes, n_densities, n_selects, n_threads;
    size_t n_tokens;
    uint32_t dense_tokens; /* of the layer's config */
    uint64_t repeats;      /* 0: adaptive */
    const char *planted;   /* NULL: random weights */
    uint32_t bits, step_bits;
    float margin; /* the predictor's */
    int is_warm, as_json;
};

/* ---- command line ---- */

static int parse_shape(struct options *o, const char *text)
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
            COMMAND, "--shape is \"%s\"; expected llama2-7b, llama2-13b, reglu-33m or d_model,d_ff",
            text);
    if (parse_uint(COMMAND, "d_model of --shape", item, 1, 1u << 20, &d_model) ||
        parse_uint(COMMAND, "d_ff of --shape", rest, 2, 1u << 22, &d_ff))
        return EXIT_USAGE;
    o->d_model = (uint32_t)d_model;
    o->d_ff = (uint32_t)d_ff;
    return 0;
}

static int parse_lists(struct options *o, const char *dtypes, const char *densities,
                       const char *selects, const char *threads)
{
    char item[64];
    while (next_item(&dtypes, item, sizeof item)) {
        int32_t dtype = sffn_dtype_from_name(item);
        if (dtype < 0)
            return usage_error(COMMAND, "--dtype is \"%s\"; expected f32, f16, bf16, q8_0 or q4_0",
                               item);
        if (o->n_dtypes == MAX_LIST)
            return usage_error(COMMAND, "--dtype has more than %d items", MAX_LIST);
        o->dtypes[o->n_dtypes++] = dtype;
    }
    while (next_item(&densities, item, sizeof item)) {
        if (o->n_densities == MAX_LIST)
            return usage_error(COMMAND, "--density has more than %d items", MAX_LIST);
        if (parse_double(COMMAND, "--density", item, 1e-4, 1.0, &o->densities[o->n_densities++]))
            return EXIT_USAGE;
    }
    while (next_item(&selects, item, sizeof item)) {
        int s = 0;
        while (s < N_SELECTS && strcmp(select_names[s], item) != 0)
            s++;
        if (s == N_SELECTS)
            return usage_error(COMMAND,
                               "--select is \"%s\"; expected dense, gate, screen, cascade, sign, "
                               "low_rank, oracle or router",
                               item);
        if (select_values[s] < 0)
            return usage_error(COMMAND, "--select %s is not implemented in this version", item);
        if (o->n_selects == MAX_LIST)
            return usage_error(COMMAND, "--select has more than %d items", MAX_LIST);
        o->selects[o->n_selects++] = (enum select)s;
    }
    while (next_item(&threads, item, sizeof item)) {
        uint64_t n;
        if (o->n_threads == MAX_LIST)
            return usage_error(COMMAND, "--threads has more than %d items", MAX_LIST);
        if (parse_uint(COMMAND, "--threads", item, 1, 512, &n))
            return EXIT_USAGE;
        o->threads[o->n_threads++] = (uint32_t)n;
    }
    return 0;
}

/* 0: run, 1: help was printed, EXIT_USAGE. */
static int parse_options(struct options *o, int argc, char **argv)
{
    struct option_def defs[] = {
        {"--shape", 1, NULL},  {"--dtype", 1, NULL},      {"--density", 1, NULL},
        {"--select", 1, NULL}, {"--tokens", 1, NULL},     {"--threads", 1, NULL},
        {"--trace", 1, NULL},  {"--batch-path", 1, NULL}, {"--repeats", 1, NULL},
        {"--warm", 0, NULL},   {"--json", 0, NULL},       {"--help", 0, NULL},
        {"--bits", 1, NULL},   {"--step-bits", 1, NULL},  {"--margin", 1, NULL},
        {"--planted", 1, NULL}};
    const size_t n_defs = sizeof defs / sizeof defs[0];
#define VALUE(name, otherwise)                                                                     \
    (option_value(defs, n_defs, name) ? option_value(defs, n_defs, name) : (otherwise))
    memset(o, 0, sizeof *o);
    if (options_parse(COMMAND, argc, argv, defs, n_defs))
        return EXIT_USAGE;
    if (option_value(defs, n_defs, "--help")) {
        fputs(help, stdout);
        return 1;
    }
    if (option_value(defs, n_defs, "--trace"))
        return usage_error(COMMAND, "--trace is not implemented in this version");
    uint64_t n_tokens, bits, step_bits;
    double margin;
    const sffn_predictor_config predictor = SFFN_PREDICTOR_CONFIG_INIT;
    char library_bits[16], library_step[16], library_margin[32];
    snprintf(library_bits, sizeof library_bits, "%u", (unsigned)predictor.bits);
    snprintf(library_step, sizeof library_step, "%u", (unsigned)predictor.step_bits);
    snprintf(library_margin, sizeof library_margin, "%.9g", (double)predictor.margin);
    const char *path = VALUE("--batch-path", "auto");
    if (parse_shape(o, VALUE("--shape", "llama2-7b")) ||
        parse_lists(o, VALUE("--dtype", "q4_0"), VALUE("--density", "0.107"),
                    VALUE("--select", "gate"), VALUE("--threads", "1")) ||
        parse_uint(COMMAND, "--tokens", VALUE("--tokens", "1"), 1, 4096, &n_tokens) ||
        parse_uint(COMMAND, "--bits", VALUE("--bits", library_bits), 1, 4, &bits) ||
        parse_uint(COMMAND, "--step-bits", VALUE("--step-bits", library_step), 1, 4, &step_bits) ||
        parse_double(COMMAND, "--margin", VALUE("--margin", library_margin), 0.0, 100.0, &margin) ||
        (option_value(defs, n_defs, "--repeats") &&
         parse_uint(COMMAND, "--repeats", VALUE("--repeats", ""), 1, MAX_SAMPLES, &o->repeats)))
        return EXIT_USAGE;
    o->n_tokens = (size_t)n_tokens;
    o->bits = (uint32_t)bits;
    o->step_bits = (uint32_t)step_bits;
    o->margin = (float)margin;
    o->planted = option_value(defs, n_defs, "--planted");
    for (size_t i = 0; o->planted && i < o->n_selects; i++)
        if (o->selects[i] == SELECT_ROUTER)
            return usage_error(COMMAND, "--planted has no experts; --select router needs some");
    for (size_t i = 0; i < o->n_dtypes; i++)
        if (sffn_dtype_row_bytes(o->dtypes[i], o->d_model) == 0)
            return usage_error(COMMAND, "d_model is %u; --dtype %s needs a multiple of %zu",
                               o->d_model, sffn_dtype_name(o->dtypes[i]),
                               sffn_dtype_block_size(o->dtypes[i]));
    for (size_t i = 0; i < o->n_selects; i++)
        if (o->selects[i] == SELECT_ROUTER && o->d_ff % EXPERT_NEURONS != 0)
            return usage_error(COMMAND, "d_ff is %u; --select router needs a multiple of %u",
                               o->d_ff, EXPERT_NEURONS);
    const sffn_ffn_config defaults = SFFN_FFN_CONFIG_INIT;
    if (strcmp(path, "auto") == 0)
        o->dense_tokens = defaults.dense_tokens;
    else if (strcmp(path, "sparse") == 0)
        o->dense_tokens = 0;
    else if (strcmp(path, "dense") == 0)
        o->dense_tokens = 1;
    else
        return usage_error(COMMAND, "--batch-path is \"%s\"; expected auto, sparse or dense", path);
    o->is_warm = option_value(defs, n_defs, "--warm") != NULL;
    o->as_json = option_value(defs, n_defs, "--json") != NULL;
    return 0;
#undef VALUE
}

/* ---- one row of the report ---- */

struct copy {
    sffn_predictor *predictor;
    sffn_router *router;
    sffn_ffn *ffn;
};

struct bench {
    const struct options *o;
    sffn_context *ctx;
    struct layer layer;
    int has_layer, layer_for_router;
    struct ceilings *ceilings;
    struct peer_onednn peer;
    int has_peer, has_header;
    uint32_t n_threads;
    /* of the current row */
    enum select select;
    struct inputs inputs;
    struct copy *copies;
    size_t n_copies;
    sffn_active_set *active[MAX_SETS]; /* oracle */
    float *y, *y_dense;
};

static int fail(const struct bench *b, const char *what, sffn_status status)
{
    progress(NULL);
    fprintf(stderr, COMMAND ": %s: %s: %s\n", what, sffn_status_name(status),
            sffn_context_last_error(b->ctx));
    return 0;
}

static uint64_t cold_bytes(const struct bench *b)
{
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    const uint64_t least = (uint64_t)512
                           << 20; /* virtual machines often hide how large the cache really is */
    if (b->o->is_warm)
        return 0;
    sffn_context_get_info(b->ctx, &info);
    return info.llc_bytes * 4 > least ? info.llc_bytes * 4 : least;
}

static sffn_status forward(const struct bench *b, size_t copy, size_t set, enum select select,
                           float *y, sffn_active_set *active_out, sffn_ffn_stats *stats)
{
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = b->inputs.x + set * b->o->n_tokens * b->layer.d_model;
    args.n_tokens = b->o->n_tokens;
    args.y = y;
    args.select = select_values[select];
    args.active = select == SELECT_ORACLE ? b->active[set] : NULL;
    args.active_out = active_out;
    args.stats = stats;
    return sffn_ffn_forward(b->ctx, b->copies[copy].ffn, &args);
}

/* Copies needed so that no byte is read again before cold_bytes others were. Gathered bytes differ from input to input, streamed ones
 * don't. */
static size_t copies_wanted(const struct bench *b)
{
    const struct layer *l = &b->layer;
    const uint64_t cold = cold_bytes(b);
    if (cold == 0)
        return 1;
    const double dense = (double)l->weight_bytes, gathered = dense * b->inputs.density;
    double per_round; /* bytes between two reads of the same byte, per copy */
    switch (b->select) {
    case SELECT_ORACLE:
    case SELECT_ROUTER:
        per_round = gathered * (double)b->inputs.n_sets;
        break;
    case SELECT_GATE:
        per_round = dense / 3.0 + gathered * 2.0 / 3.0;
        break;
    case SELECT_SCREEN:
        per_round = (double)sffn_dtype_row_bytes(SFFN_Q4_0, l->d_model) * l->d_ff + gathered;
        break;
    case SELECT_CASCADE: /* the first planes, and what passed them */
        per_round = (double)l->d_model / 8.0 * b->o->step_bits * l->d_ff + gathered;
        break;
    default:
        per_round = dense;
        break;
    }
    per_round = per_round < dense ? per_round : dense;
    const double needed = ceil((double)cold / per_round),
                 wanted = needed < MAX_COPIES ? needed : MAX_COPIES;
    const double predictor_bytes = b->select == SELECT_SCREEN    ? 0.5625
                                   : b->select == SELECT_CASCADE ? b->o->bits / 8.0
                                                                 : 0.0; /* per gate weight */
    const double copy = dense + (double)l->d_ff * l->d_model * predictor_bytes;
    const double possible = floor(0.8 * (double)available_memory_bytes() / copy);
    if (possible < wanted || wanted < needed)
        fprintf(stderr,
                COMMAND ": %.0f copies of the layer are used where cold weights need %.0f\n",
                fmax(1.0, fmin(possible, wanted)), needed);
    return (size_t)(wanted < possible ? wanted : possible < 1.0 ? 1.0 : possible);
}

static int create_copy(struct bench *b, struct copy *c)
{
    const struct layer *l = &b->layer;
    sffn_weights gate = SFFN_WEIGHTS_INIT, up = SFFN_WEIGHTS_INIT, down = SFFN_WEIGHTS_INIT;
    sffn_status status;
    gate.data = l->gate;
    up.data = l->up;
    down.data = l->down;
    gate.dtype = up.dtype = down.dtype = l->dtype;
    down.layout = l->down_is_columns ? SFFN_LAYOUT_COLUMNS : SFFN_LAYOUT_ROWS;
    if (b->select == SELECT_SCREEN || b->select == SELECT_CASCADE) {
        sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
        config.kind =
            b->select == SELECT_SCREEN ? SFFN_PREDICTOR_SCREENED_GATE : SFFN_PREDICTOR_CASCADE;
        config.bits = b->o->bits;
        config.step_bits = b->o->step_bits;
        config.input_mean = b->inputs.mean;
        config.margin = b->o->margin;
        config.d_model = l->d_model;
        config.d_ff = l->d_ff;
        config.gate = gate;
        config.gate_bias = b->inputs.gate_bias;
        status = sffn_predictor_create(b->ctx, &config, &c->predictor);
        if (status != SFFN_OK)
            return fail(b, "creating the predictor", status);
    }
    if (b->select == SELECT_ROUTER) {
        sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
        config.d_model = l->d_model;
        config.n_experts = l->d_ff / EXPERT_NEURONS;
        config.block_size = EXPERT_NEURONS;
        config.weights.data = l->router;
        config.weights.dtype = l->router_dtype;
        config.bias = b->inputs.router_bias;
        status = sffn_router_create(b->ctx, &config, &c->router);
        if (status != SFFN_OK)
            return fail(b, "creating the router", status);
    }
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = l->d_model;
    config.d_ff = l->d_ff;
    config.gate = gate;
    config.up = up;
    config.down = down;
    config.gate_bias = b->inputs.gate_bias;
    config.activation = b->select == SELECT_ROUTER ? SFFN_ACT_SILU : SFFN_ACT_RELU;
    config.block_size = l->down_is_columns && sffn_dtype_block_size(l->dtype) == EXPERT_NEURONS
                            ? EXPERT_NEURONS
                            : 1;
    config.predictor = c->predictor;
    config.router = c->router;
    config.dense_tokens = b->o->dense_tokens;
    config.name = "bench";
    status = sffn_ffn_create(b->ctx, &config, &c->ffn);
    return status == SFFN_OK ? 1 : fail(b, "creating the layer", status);
}

/* Inputs, copies, and for the oracle what is truly active. */
static int row_create(struct bench *b, double density)
{
    const struct options *o = b->o;
    size_t n_sets = o->is_warm ? 1 : (size_t)(1.0 / density);
    n_sets = n_sets < 1 ? 1 : n_sets > MAX_SETS ? MAX_SETS : n_sets;
    if (o->planted ? !planted_inputs_create(&b->inputs, b->ctx, o->planted, &b->layer,
                                            o->is_warm ? 1 : MAX_SETS, o->n_tokens)
                   : !inputs_create(&b->inputs, b->ctx, &b->layer, density, n_sets, o->n_tokens,
                                    b->select == SELECT_ROUTER))
        return 0;
    const size_t wanted = copies_wanted(b), y_floats = o->n_tokens * b->layer.d_model;
    b->copies = calloc(wanted, sizeof *b->copies);
    b->y = calloc(y_floats, sizeof *b->y);
    b->y_dense = calloc(y_floats, sizeof *b->y_dense);
    if (!b->copies || !b->y || !b->y_dense) {
        fprintf(stderr, COMMAND ": no memory\n");
        return 0;
    }
    for (; b->n_copies < wanted; b->n_copies++) {
        progress("packing copy %zu of %zu", b->n_copies + 1, wanted);
        if (!create_copy(b, &b->copies[b->n_copies])) {
            b->n_copies++; /* destroys what it has */
            return 0;
        }
    }
    for (size_t s = 0; b->select == SELECT_ORACLE && s < b->inputs.n_sets; s++) {
        sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
        config.n_blocks = b->layer.d_ff;
        config.max_tokens = (uint32_t)o->n_tokens;
        sffn_status status = sffn_active_set_create(b->ctx, &config, &b->active[s]);
        if (status == SFFN_OK)
            status = forward(b, 0, s, SELECT_GATE, b->y, b->active[s], NULL);
        if (status != SFFN_OK)
            return fail(b, "finding the active neurons", status);
    }
    progress(NULL);
    return 1;
}

static void row_destroy(struct bench *b)
{
    for (size_t i = 0; i < b->n_copies; i++) {
        sffn_ffn_destroy(b->copies[i].ffn);
        sffn_predictor_destroy(b->copies[i].predictor);
        sffn_router_destroy(b->copies[i].router);
    }
    for (size_t s = 0; s < MAX_SETS; s++) {
        sffn_active_set_destroy(b->active[s]);
        b->active[s] = NULL;
    }
    free(b->copies);
    free(b->y);
    free(b->y_dense);
    b->copies = NULL;
    b->n_copies = 0;
    b->y = b->y_dense = NULL;
    inputs_destroy(&b->inputs);
}

/* ---- measuring ---- */

/* One round of samples. *turn walks over copies and inputs and goes on from round to round. */
static sffn_status measure_round(struct bench *b, enum select select, int round, size_t *turn,
                                 struct samples *samples)
{
    const uint64_t repeats = b->o->repeats;
    const size_t round_end = (size_t)(repeats * (uint64_t)(round + 1) / ROUNDS);
    const double begin = now_ns();
    progress("measuring %s, round %d of %d", select_names[select], round + 1, ROUNDS);
    for (size_t i = 0; samples->n < MAX_SAMPLES; i++) {
        const double elapsed = now_ns() - begin;
        if (repeats > 0
                ? samples->n >= round_end
                : (i >= 30 / ROUNDS && elapsed > 0.2e9) || (i >= 1 && elapsed > 3e9 / ROUNDS))
            break;
        const size_t copy = *turn % b->n_copies, set = *turn / b->n_copies % b->inputs.n_sets;
        ++*turn;
        const double start = now_ns();
        const sffn_status status = forward(b, copy, set, select, b->y, NULL, NULL);
        samples_add(samples, now_ns() - start);
        if (status != SFFN_OK)
            return status;
    }
    return SFFN_OK;
}

static int measure(struct bench *b, struct summary *own, struct summary *dense)
{
    struct samples own_samples, dense_samples;
    size_t own_turn = 0, dense_turn = 0;
    sffn_status status = SFFN_OK;
    if (!samples_init(&own_samples) || !samples_init(&dense_samples)) {
        fprintf(stderr, COMMAND ": no memory\n");
        return 0;
    }
    for (size_t i = 0; status == SFFN_OK && i < 3; i++) /* code, threads, scratch */
        status = forward(b, i % b->n_copies, 0, b->select, b->y, NULL, NULL);
    for (int round = 0; status == SFFN_OK && round < ROUNDS; round++) {
        status = measure_round(b, SELECT_DENSE, round, &dense_turn, &dense_samples);
        if (status == SFFN_OK && b->select != SELECT_DENSE)
            status = measure_round(b, b->select, round, &own_turn, &own_samples);
    }
    progress(NULL);
    *dense = samples_summary(&dense_samples);
    *own = b->select == SELECT_DENSE ? *dense : samples_summary(&own_samples);
    samples_free(&own_samples);
    samples_free(&dense_samples);
    return status == SFFN_OK ? 1 : fail(b, "running the layer", status);
}

/* Bytes of a call, mean over the inputs. */
struct traffic {
    double touched, streamed;
    double gate_gathered,
        active_gathered;               /* gate rows; up and down rows of the active neurons */
    double gate_density, active_density; /* shares of all rows, per tile of tokens */
    double active;                     /* share of neurons whose up row ran */
    double let_through;                /* share of neurons whose gate row was read */
};

static int measure_traffic(struct bench *b, struct traffic *t)
{
    const struct layer *l = &b->layer;
    const double n_sets = (double)b->inputs.n_sets,
                 tiles = (double)((b->o->n_tokens + TILE_TOKENS - 1) / TILE_TOKENS);
    const double gate_bytes = (double)l->row_bytes * l->d_ff;
    double rows = 0.0;
    int is_sparse = b->select != SELECT_DENSE;
    memset(t, 0, sizeof *t);
    for (size_t s = 0; s < b->inputs.n_sets; s++) {
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        sffn_status status = forward(b, 0, s, b->select, b->y, NULL, &stats);
        if (status != SFFN_OK)
            return fail(b, "running the layer", status);
        t->touched += (double)stats.touched_bytes / n_sets;
        t->active += (double)stats.n_active / n_sets / (double)b->o->n_tokens / l->d_ff;
        t->let_through += (double)stats.n_selected / n_sets / (double)b->o->n_tokens / l->d_ff;
        rows += (double)stats.union_active / n_sets;
        is_sparse &= stats.path == SFFN_PATH_SPARSE;
    }
    if (!is_sparse) {
        t->streamed = t->touched;
        return 1;
    }
    sffn_ffn_info info = SFFN_FFN_INFO_INIT;
    sffn_ffn_get_info(b->copies[0].ffn, &info);
    if (b->select == SELECT_GATE)
        t->streamed = gate_bytes * tiles;
    else if (b->select != SELECT_ORACLE)
        t->streamed = (double)info.selector_bytes * tiles;
    t->active_gathered = rows * 2.0 * (double)l->row_bytes;
    if (b->select == SELECT_CASCADE && b->o->n_tokens == 1) /* later planes: half of all lines */
        t->streamed = t->touched - t->active_gathered - t->let_through * gate_bytes;
    t->gate_gathered = t->touched - t->streamed - t->active_gathered;
    if (t->gate_gathered < 0.001 * t->touched) {
        if (t->gate_gathered < -0.001 * t->touched)
            fprintf(stderr, COMMAND ": the library counts %.0f bytes, %.0f were expected\n",
                    t->touched, t->touched - t->gate_gathered);
        t->gate_gathered = 0.0;
    }
    t->gate_density = t->gate_gathered / (gate_bytes * tiles);
    t->active_density = rows / (l->d_ff * tiles);
    return 1;
}

static double time_at(double bytes, double gbps)
{
    return bytes > 0.0 ? bytes / gbps : 0.0;
}

struct row {
    struct summary own, dense;
    struct traffic traffic;
    double stream_gbps, gather_gbps, ideal_ns;
    double error, error_vs_dense, recall;
};

/* The share of the truly active neurons that the selection kept, over all inputs. */
static int measure_recall(struct bench *b, double *recall)
{
    sffn_active_set *sets[2] = {NULL, NULL}; /* gate-first, selected */
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    sffn_status status = SFFN_OK;
    double sum = 0.0;
    config.n_blocks = b->layer.d_ff;
    config.max_tokens = (uint32_t)b->o->n_tokens;
    for (int i = 0; i < 2 && status == SFFN_OK; i++)
        status = sffn_active_set_create(b->ctx, &config, &sets[i]);
    for (size_t s = 0; s < b->inputs.n_sets && status == SFFN_OK; s++) {
        status = forward(b, 0, s, SELECT_GATE, b->y, sets[0], NULL);
        if (status == SFFN_OK)
            status = forward(b, 0, s, b->select, b->y, sets[1], NULL);
        for (size_t t = 0; t < b->o->n_tokens && status == SFFN_OK; t++) {
            double of_token = 0.0;
            status = sffn_active_set_recall(sets[1], sets[0], t, &of_token);
            sum += of_token;
        }
    }
    *recall = sum / (double)(b->inputs.n_sets * b->o->n_tokens);
    sffn_active_set_destroy(sets[0]);
    sffn_active_set_destroy(sets[1]);
    return status == SFFN_OK ? 1 : fail(b, "measuring the recall", status);
}

static int measure_errors(struct bench *b, struct row *row)
{
    const size_t n_checked = b->o->n_tokens < 4 ? b->o->n_tokens : 4,
                 n = n_checked * b->layer.d_model;
    sffn_active_set *chosen = NULL;
    sffn_status status = SFFN_OK;
    if (b->select == SELECT_ROUTER) {
        sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
        config.n_blocks = b->layer.d_ff / EXPERT_NEURONS;
        config.block_size = EXPERT_NEURONS;
        config.max_tokens = (uint32_t)b->o->n_tokens;
        status = sffn_active_set_create(b->ctx, &config, &chosen);
        if (status == SFFN_OK)
            status = sffn_router_select(b->ctx, b->copies[0].router, b->inputs.x, b->layer.d_model,
                                        b->o->n_tokens, NULL, 0, chosen);
    }
    if (status == SFFN_OK)
        status = forward(b, 0, 0, SELECT_DENSE, b->y_dense, NULL, NULL);
    if (status == SFFN_OK)
        status = forward(b, 0, 0, b->select, b->y, NULL, NULL);
    double *reference = malloc(n * sizeof *reference);
    int ok = status == SFFN_OK && reference &&
             layer_reference(&b->layer, &b->inputs, n_checked, chosen, reference);
    sffn_active_set_destroy(chosen);
    if (ok) {
        row->error = relative_error(b->y, reference, n);
        for (size_t i = 0; i < n; i++)
            reference[i] = (double)b->y_dense[i];
        row->error_vs_dense =
            b->select == SELECT_ROUTER ? (double)NAN : relative_error(b->y, reference, n);
        if ((b->select == SELECT_GATE || b->select == SELECT_ORACLE) &&
            !(row->error_vs_dense < 1e-5))
            fprintf(stderr, COMMAND ": select %s must equal the dense path, but differs by %.3g\n",
                    select_names[b->select], row->error_vs_dense);
    }
    free(reference);
    return ok                  ? 1
           : status != SFFN_OK ? fail(b, "running the layer", status)
                               : fail(b, "float64 reference", SFFN_ERR_OUT_OF_MEMORY);
}

static int measure_row(struct bench *b, struct row *row)
{
    struct traffic *t = &row->traffic;
    progress("measuring the memory");
    row->stream_gbps = ceilings_stream_gbps(b->ceilings, b->n_threads);
    if (!measure(b, &row->own, &row->dense) || !measure_traffic(b, t) || !measure_errors(b, row))
        return 0;
    row->recall = (double)NAN;
    if ((b->select == SELECT_SCREEN || b->select == SELECT_CASCADE) &&
        !measure_recall(b, &row->recall))
        return 0;
    progress("measuring the memory");
    row->stream_gbps =
        ceilings_stream_gbps(b->ceilings, b->n_threads); /* the best of before and after */
    const size_t block = b->select == SELECT_ROUTER ? EXPERT_NEURONS : 1;
    const double gate_gbps = t->gate_gathered > 0.0
                                 ? ceilings_gather_gbps(b->ceilings, b->n_threads,
                                                        b->layer.row_bytes * block, t->gate_density)
                                 : 0.0;
    const double active_gbps =
        t->active_gathered > 0.0
            ? ceilings_gather_gbps(b->ceilings, b->n_threads, b->layer.row_bytes * block,
                                   t->active_density)
            : 0.0;
    progress(NULL);
    const double gather_ns =
        time_at(t->gate_gathered, gate_gbps) + time_at(t->active_gathered, active_gbps);
    row->gather_gbps =
        gather_ns > 0.0 ? (t->gate_gathered + t->active_gathered) / gather_ns : (double)NAN;
    row->ideal_ns = time_at(t->streamed, row->stream_gbps) + gather_ns;
    if ((b->select == SELECT_GATE || b->select == SELECT_ORACLE) && t->streamed < t->touched &&
        fabs(t->active - b->inputs.density) > 0.001)
        fprintf(stderr, COMMAND ": density %.4g was planted, but %.4g of the neurons are active\n",
                b->inputs.density, t->active);
    return 1;
}

/* ---- reporting ---- */

static void print_header(struct bench *b, FILE *out)
{
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    sffn_context_get_info(b->ctx, &info);
    print_machine(out, &info);
    fprintf(out, "\n");
    warn_when_busy(COMMAND, info.n_cpus);
}

/* A number in a column of `width`, "-" when there is none. */
static void print_cell(int width, const char *format, double value)
{
    char text[32] = "-";
    if (isfinite(value))
        snprintf(text, sizeof text, format, value);
    printf(" %*s", width, text);
}

static void print_table_row(struct bench *b, const struct row *r)
{
    printf("%-7s %-5s %7.4f %6zu %7u %9.4f %9.4f %9.4f %6zu", select_names[b->select],
           sffn_dtype_name(b->layer.dtype), b->inputs.density, b->o->n_tokens, b->n_threads,
           r->own.median * 1e-6, r->own.min * 1e-6, r->own.max * 1e-6, r->own.n);
    print_cell(9, "%.2f", r->traffic.touched * 1e-6);
    print_cell(7, "%.1f", r->traffic.touched / r->own.median);
    print_cell(7, "%.1f", r->stream_gbps);
    print_cell(7, "%.1f", r->gather_gbps);
    print_cell(6, "%.3f", r->traffic.touched / r->stream_gbps / r->own.median);
    print_cell(6, "%.3f", r->ideal_ns / r->own.median);
    print_cell(8, "%.2fx", r->dense.median / r->own.median);
    print_cell(8, "%.2fx", b->peer.median_ns / r->own.median);
    print_cell(9, "%.2e", r->error);
    print_cell(9, "%.2e", r->error_vs_dense);
    printf("\n");
    fflush(stdout);
}

static void print_json_row(struct bench *b, const struct row *r)
{
    const struct options *o = b->o;
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    struct json j;
    char name[256];
    const char *planted = b->select == SELECT_ROUTER
                              ? "router bias at the score quantile, SiLU experts of 32"
                              : "gate bias at the gate quantile, ReLU";
    sffn_context_get_info(b->ctx, &info);
    if (o->planted)
        planted = "real rows and inputs, rotated to this shape";
    snprintf(name, sizeof name, "ffn %s %s %s density %.4g tokens %zu threads %u %s; %s%s",
             o->shape, sffn_dtype_name(b->layer.dtype), select_names[b->select], b->inputs.density,
             o->n_tokens, b->n_threads, o->is_warm ? "warm" : "cold",
             o->planted ? "" : "random bell-shaped weights, ", planted);
    json_begin(&j);
    json_string(&j, "name", name);
    json_string(&j, "shape", o->shape);
    json_uint(&j, "d_model", o->d_model);
    json_uint(&j, "d_ff", o->d_ff);
    json_string(&j, "dtype", sffn_dtype_name(b->layer.dtype));
    json_string(&j, "select", select_names[b->select]);
    json_number(&j, "density", b->inputs.density);
    json_number(&j, "let_through", r->traffic.let_through);
    json_number(&j, "recall", r->recall);
    json_uint(&j, "n_tokens", o->n_tokens);
    json_uint(&j, "n_threads", b->n_threads);
    json_string(&j, "isa", info.isa);
    json_number(&j, "median_ns", r->own.median);
    json_number(&j, "min_ns", r->own.min);
    json_number(&j, "max_ns", r->own.max);
    json_uint(&j, "repeats", r->own.n);
    json_uint(&j, "weight_bytes", b->layer.weight_bytes);
    json_uint(&j, "touched_bytes", (uint64_t)(r->traffic.touched + 0.5));
    json_number(&j, "effective_gbps", r->traffic.touched / r->own.median);
    json_number(&j, "stream_gbps", r->stream_gbps);
    json_number(&j, "gather_gbps", r->gather_gbps);
    json_number(&j, "limit_fraction", r->traffic.touched / r->stream_gbps / r->own.median);
    json_number(&j, "gather_fraction", r->ideal_ns / r->own.median);
    json_number(&j, "speedup_vs_dense", r->dense.median / r->own.median);
    json_number(&j, "speedup_vs_onednn", b->peer.median_ns / r->own.median);
    json_number(&j, "relative_error", r->error);
    json_end(&j);
}

static void print_row(struct bench *b, const struct row *r)
{
    if (b->o->as_json) {
        if (!b->has_header)
            print_header(b, stderr);
        b->has_header = 1;
        print_json_row(b, r);
        return;
    }
    if (!b->has_header) {
        print_header(b, stdout);
        printf("shape %s (%u x %u), %s weights, %s\n", b->o->shape, b->o->d_model, b->o->d_ff,
               b->o->is_warm ? "warm" : "cold",
               b->o->planted ? "real rows and inputs, rotated to this shape"
                             : "random and bell-shaped; density planted by a constant bias at the "
                               "quantile");
        printf("%u threads: %s\n\n", b->n_threads, b->peer.what);
        printf("%-7s %-5s %7s %6s %7s %9s %9s %9s %6s %9s %7s %7s %7s %6s %6s %8s %8s %9s %9s\n",
               "select", "dtype", "density", "tokens", "threads", "median ms", "min", "max", "n",
               "read MB", "GB/s", "stream", "gather", "limit", "gather", "dense", "oneDNN", "error",
               "vs dense");
    }
    b->has_header = 1;
    print_table_row(b, r);
}

/* ---- all rows ---- */

static int use_layer(struct bench *b, int32_t dtype, int for_router)
{
    if (b->has_layer && b->layer.dtype == dtype && b->layer_for_router == for_router)
        return 1;
    if (b->has_layer)
        layer_destroy(&b->layer);
    b->has_layer = b->o->planted
                       ? planted_layer_create(&b->layer, b->ctx, b->o->planted, b->o->d_model,
                                              b->o->d_ff, dtype)
                       : layer_create(&b->layer, b->o->d_model, b->o->d_ff, dtype, for_router);
    b->layer_for_router = for_router;
    return b->has_layer;
}

/* Once per thread count, before our own copies take the memory. */
static int use_peer(struct bench *b)
{
    struct inputs inputs;
    if (b->has_peer)
        return 1;
    if (!inputs_create(&inputs, b->ctx, &b->layer, 1.0, 1, b->o->n_tokens, 0))
        return 0;
    peer_onednn_measure(&b->peer, &b->layer, &inputs, b->n_threads, cold_bytes(b),
                        available_memory_bytes() / 10 * 7, b->o->repeats);
    inputs_destroy(&inputs);
    if (b->has_header && !b->o->as_json)
        printf("%u threads: %s\n", b->n_threads, b->peer.what);
    b->has_peer = 1;
    return 1;
}

static int run_rows(struct bench *b, int32_t dtype)
{
    const struct options *o = b->o;
    int all_ok = 1;
    for (size_t d = 0; d < o->n_densities; d++)
        for (size_t s = 0; s < o->n_selects; s++) {
            struct row row;
            memset(&row, 0, sizeof row);
            b->select = o->selects[s];
            if (!use_layer(b, dtype, b->select == SELECT_ROUTER) || !use_peer(b))
                return 0;
            int ok = row_create(b, o->densities[d]) && measure_row(b, &row);
            if (ok)
                print_row(b, &row);
            row_destroy(b);
            all_ok &= ok; /* a combination that the library refuses has said so; the others go on */
        }
    return all_ok;
}

int bench_ffn(int argc, char **argv)
{
    struct options o;
    struct bench b;
    int status = parse_options(&o, argc, argv);
    if (status != 0)
        return status == 1 ? 0 : status;
    memset(&b, 0, sizeof b);
    b.o = &o;
    int ok = 1, all_ok = 1;
    for (size_t t = 0; ok && t < o.n_threads; t++) {
        sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
        config.n_threads = b.n_threads = o.threads[t];
        config.use_onednn = o.n_tokens > 1 && o.dense_tokens > 0; /* the library's long prompts */
        sffn_status created = sffn_context_create(&config, &b.ctx);
        if (created != SFFN_OK) {
            fprintf(stderr, COMMAND ": %s: %s\n", sffn_status_name(created),
                    sffn_context_last_error(NULL));
            ok = 0;
            break;
        }
        if (!b.ceilings) {
            uint64_t bytes = cold_bytes(&b), most = available_memory_bytes() / 8;
            bytes = bytes > (uint64_t)512 << 20 ? bytes : (uint64_t)512 << 20;
            b.ceilings = ceilings_create(bytes < most ? bytes : most, 1);
            if (!b.ceilings) {
                fprintf(stderr, COMMAND ": no memory to measure the ceilings with\n");
                ok = 0;
            }
        }
        b.has_peer = 0;
        for (size_t d = 0; ok && d < o.n_dtypes; d++)
            all_ok &= run_rows(&b, o.dtypes[d]);
        sffn_context_destroy(b.ctx);
    }
    progress(NULL);
    if (b.has_layer)
        layer_destroy(&b.layer);
    ceilings_destroy(b.ceilings);
    return ok && all_ok ? 0 : 1;
}
