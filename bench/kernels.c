/* kernels.c  sffn-bench kernels: each kernel for each type and ISA through public calls, from the cache and from memory. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "ceilings.h"
#include "layer.h"
#include "options.h"
#include "report.h"
#include "rotation.h"

#define COMMAND  "sffn-bench kernels"
#define MAX_LIST 16

static const char help[] =
    "Usage: " COMMAND " [OPTIONS]\n"
    "\n"
    "Times the library's kernels through the public calls that are little else: products of a "
    "matrix with rows of --cols weights,\n"
    "as large as half of the L2 cache (from \"cache\") or as four times the last-level cache, at "
    "least 512 MiB (from \"memory\").\n"
    "\n"
    "  rows_dot     sffn_matmul_rows_dot(), all rows; rows_axpy: sffn_matmul_rows_axpy(), all "
    "rows\n"
    "  blocks_axpy  the same with lossless blocks of 32 neurons, q8_0 and q4_0\n"
    "  plane_dot    a cascade of one step of two bits: a plane of the gate's upper bits times x\n"
    "  count_signs  a sign predictor\n"
    "  quantize_x   rows_dot of one row: x to blocks of 32 int8, and the call itself\n"
    "  threshold    sffn_active_set_set_values(), |v| > t, of which a tenth passes; top_k: the "
    "tenth that is largest\n"
    "\n"
    "  --ops LIST           of the above; default all\n"
    "  --dtype LIST         f32, f16, bf16, q8_0, q4_0; default all\n"
    "  --isa LIST           names as in sffn info; default all that this CPU runs\n"
    "  --cols N             weights of a row, a multiple of 32; default 4096\n"
    "  --tokens LIST        1..8; default 1\n"
    "  --threads N          1..512; default 1\n"
    "  --from LIST          cache, memory; default both\n"
    "  --cold MIB           what is read between two reads of the same weights; default: four "
    "times the last-level cache, at\n"
    "                       least 512\n"
    "  --repeats N          samples; default: until the 95 % confidence interval of the median "
    "reaches no further than 1 % from\n"
    "                       it, at least 30 in three rounds\n"
    "  --seconds X          but no longer than this for a row; default 0.5\n"
    "  --json               one JSON object per line instead of a table\n"
    "  --help               this text\n"
    "\n"
    "JSON keys: name (the kernel's, as in sffn info), op, dtype, isa, from, n_rows, n_cols, "
    "n_tokens, n_threads, median_ns, min_ns,\n"
    "max_ns, median_error, spread, repeats, touched_bytes, effective_gbps, stream_gbps, "
    "limit_fraction (from memory), gflops (two\n"
    "for each weight and token), speedup_vs_scalar (in the same run), relative_error (against "
    "float64 from the same packed\n"
    "weights; plane_dot: the two bits against the gate; null where there is nothing to "
    "compare).\n";

enum op {
    OP_ROWS_DOT,
    OP_ROWS_AXPY,
    OP_BLOCKS_AXPY,
    OP_PLANE_DOT,
    OP_COUNT_SIGNS,
    OP_QUANTIZE_X,
    OP_THRESHOLD,
    OP_TOP_K,
    N_OPS
};
static const char *const op_names[N_OPS] = {"rows_dot",    "rows_axpy",  "blocks_axpy", "plane_dot",
                                            "count_signs", "quantize_x", "threshold",   "top_k"};

struct kernel_options {
    enum op ops[N_OPS];
    int32_t dtypes[MAX_LIST];
    const char *isas[MAX_LIST];
    uint64_t tokens[MAX_LIST];
    int from_memory[2];
    size_t n_ops, n_dtypes, n_isas, n_tokens, n_from;
    uint32_t n_cols, n_threads;
    uint64_t cold_bytes; /* 0: by the size of the cache */
    struct stop_rule rule;
    int as_json;
};

/* ---- command line ---- */

static int parse_isas(struct kernel_options *o, const char *list)
{
    char item[64];
    for (size_t i = 0; !list && sffn_isa_name(i) && o->n_isas < MAX_LIST; i++)
        if (sffn_isa_is_supported(i))
            o->isas[o->n_isas++] = sffn_isa_name(i);
    while (list && next_item(&list, item, sizeof item)) {
        size_t i = 0;
        while (sffn_isa_name(i) && strcmp(sffn_isa_name(i), item) != 0)
            i++;
        if (!sffn_isa_name(i) || !sffn_isa_is_supported(i))
            return usage_error(COMMAND,
                               "--isa is \"%s\"; expected a name that sffn info lists for this CPU",
                               item);
        if (o->n_isas == MAX_LIST)
            return usage_error(COMMAND, "--isa has more than %d items", MAX_LIST);
        o->isas[o->n_isas++] = sffn_isa_name(i);
    }
    return 0;
}

static int parse_lists(struct kernel_options *o, const char *ops, const char *dtypes,
                       const char *tokens, const char *from)
{
    char item[64];
    while (next_item(&ops, item, sizeof item)) {
        int op = 0;
        while (op < N_OPS && strcmp(op_names[op], item) != 0)
            op++;
        if (op == N_OPS || o->n_ops == N_OPS)
            return usage_error(COMMAND, "--ops has \"%s\"; see " COMMAND " --help", item);
        o->ops[o->n_ops++] = (enum op)op;
    }
    while (next_item(&dtypes, item, sizeof item)) {
        const int32_t dtype = sffn_dtype_from_name(item);
        if (dtype < 0)
            return usage_error(COMMAND, "--dtype is \"%s\"; expected f32, f16, bf16, q8_0 or q4_0",
                               item);
        if (o->n_dtypes == MAX_LIST)
            return usage_error(COMMAND, "--dtype has more than %d items", MAX_LIST);
        o->dtypes[o->n_dtypes++] = dtype;
    }
    while (next_item(&tokens, item, sizeof item)) {
        if (o->n_tokens == MAX_LIST)
            return usage_error(COMMAND, "--tokens has more than %d items", MAX_LIST);
        if (parse_uint(COMMAND, "--tokens", item, 1, 8, &o->tokens[o->n_tokens++]))
            return EXIT_USAGE;
    }
    while (next_item(&from, item, sizeof item)) {
        const int is_memory = strcmp(item, "memory") == 0;
        if ((!is_memory && strcmp(item, "cache") != 0) || o->n_from == 2)
            return usage_error(COMMAND, "--from is \"%s\"; expected cache, memory or both", item);
        o->from_memory[o->n_from++] = is_memory;
    }
    return 0;
}

/* 0: run, 1: help was printed, EXIT_USAGE. */
static int parse_options(struct kernel_options *o, int argc, char **argv)
{
    struct option_def defs[] = {
        {"--ops", 1, NULL},    {"--dtype", 1, NULL},   {"--isa", 1, NULL},  {"--cols", 1, NULL},
        {"--tokens", 1, NULL}, {"--threads", 1, NULL}, {"--from", 1, NULL}, {"--repeats", 1, NULL},
        {"--cold", 1, NULL},   {"--seconds", 1, NULL}, {"--json", 0, NULL}, {"--help", 0, NULL}};
    const size_t n_defs = sizeof defs / sizeof defs[0];
#define VALUE(name, otherwise)                                                                     \
    (option_value(defs, n_defs, name) ? option_value(defs, n_defs, name) : (otherwise))
    uint64_t n_cols, n_threads, cold_mib = 0;
    memset(o, 0, sizeof *o);
    if (options_parse(COMMAND, argc, argv, defs, n_defs))
        return EXIT_USAGE;
    if (option_value(defs, n_defs, "--help")) {
        fputs(help, stdout);
        return 1;
    }
    if (parse_lists(o,
                    VALUE("--ops", "rows_dot,rows_axpy,blocks_axpy,plane_dot,count_signs,"
                                   "quantize_x,threshold,top_k"),
                    VALUE("--dtype", "f32,f16,bf16,q8_0,q4_0"), VALUE("--tokens", "1"),
                    VALUE("--from", "cache,memory")) ||
        parse_isas(o, option_value(defs, n_defs, "--isa")) ||
        parse_uint(COMMAND, "--cols", VALUE("--cols", "4096"), 32, 1u << 20, &n_cols) ||
        parse_uint(COMMAND, "--threads", VALUE("--threads", "1"), 1, 512, &n_threads) ||
        parse_double(COMMAND, "--seconds", VALUE("--seconds", "0.5"), 0.01, 3600.0,
                     &o->rule.seconds) ||
        (option_value(defs, n_defs, "--cold") &&
         parse_uint(COMMAND, "--cold", VALUE("--cold", ""), 1, 1u << 20, &cold_mib)) ||
        (option_value(defs, n_defs, "--repeats") &&
         parse_uint(COMMAND, "--repeats", VALUE("--repeats", ""), 1, MAX_SAMPLES,
                    &o->rule.repeats)))
        return EXIT_USAGE;
    if (n_cols % 32 != 0)
        return usage_error(COMMAND, "--cols is %u; expected a multiple of 32", (unsigned)n_cols);
    o->cold_bytes = cold_mib << 20;
    o->n_cols = (uint32_t)n_cols;
    o->n_threads = (uint32_t)n_threads;
    o->as_json = option_value(defs, n_defs, "--json") != NULL;
    return 0;
#undef VALUE
}

/* ---- one kernel ---- */

struct kernel_run {
    const struct kernel_options *o;
    enum op op;
    int32_t dtype;
    int from_memory;
    size_t n_tokens;
    uint32_t n_rows;
    sffn_context *ctx, *owner;
    struct rotation *rotation;
    sffn_matmul *matmul;
    sffn_predictor *predictor;
    sffn_active_set *active; /* quantize_x: one row; threshold, top_k: the result */
    uint8_t *rows;           /* the source */
    float *x, *h, *out;      /* [n_tokens] of n_cols, n_rows, the longer of both */
    double bytes, flops;
};

static int fail(const struct kernel_run *k, const char *what, sffn_status status)
{
    const char *owner = k->owner ? sffn_context_last_error(k->owner) : "";
    progress(NULL);
    fprintf(stderr, COMMAND ": %s: %s: %s\n", what, sffn_status_name(status),
            owner[0] ? owner : sffn_context_last_error(k->ctx));
    return 0;
}

static int reads_weights(enum op op)
{
    return op != OP_THRESHOLD && op != OP_TOP_K && op != OP_QUANTIZE_X;
}

/* Values of a uniform distribution in -1..1; the next numbers of xorshift64. */
static void fill(float *v, size_t n, uint64_t *state)
{
    for (size_t i = 0; i < n; i++) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        v[i] = (float)(int32_t)(uint32_t)(*state >> 32) * 0x1p-31f;
    }
}

/* The source matrix: rows, or for blocks_axpy columns. */
static sffn_status make_rows(struct kernel_run *k, sffn_weights *w)
{
    const int is_columns = k->op == OP_BLOCKS_AXPY;
    const size_t n = is_columns ? k->o->n_cols : k->n_rows,
                 length = is_columns ? k->n_rows : k->o->n_cols,
                 bytes = sffn_dtype_row_bytes(k->dtype, length);
    float *row = malloc(length * sizeof *row);
    uint64_t state = 88172645463325252u;
    k->rows = malloc(n * bytes);
    for (size_t r = 0; row && k->rows && r < n; r++) {
        if (r < 64) { /* the others repeat them: drawing takes longer than measuring */
            fill(row, length, &state);
            sffn_dtype_from_f32(k->dtype, row, length, k->rows + r * bytes);
        } else {
            memcpy(k->rows + r * bytes, k->rows + r % 64 * bytes, bytes);
        }
    }
    free(row);
    w->data = k->rows;
    w->dtype = k->dtype;
    w->layout = is_columns ? SFFN_LAYOUT_COLUMNS : SFFN_LAYOUT_ROWS;
    return row && k->rows ? SFFN_OK : SFFN_ERR_OUT_OF_MEMORY;
}

static sffn_status make_objects(struct kernel_run *k)
{
    sffn_weights weights = SFFN_WEIGHTS_INIT;
    sffn_active_set_config set = SFFN_ACTIVE_SET_CONFIG_INIT;
    set.n_blocks = k->n_rows;
    set.max_tokens = (uint32_t)k->n_tokens;
    sffn_status status = SFFN_OK;
    if (!reads_weights(k->op)) {
        status = sffn_active_set_create(k->ctx, &set, &k->active);
        if (status == SFFN_OK)
            status = sffn_active_set_clear(k->active, k->n_tokens);
        if (k->op != OP_QUANTIZE_X || status != SFFN_OK)
            return status;
        for (size_t t = 0; t < k->n_tokens; t++)
            sffn_active_set_set_indices(k->active, t, &(uint32_t){0}, 1);
    }
    status = make_rows(k, &weights);
    if (status != SFFN_OK)
        return status;
    if (k->op == OP_PLANE_DOT || k->op == OP_COUNT_SIGNS) {
        sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
        config.kind = k->op == OP_PLANE_DOT ? SFFN_PREDICTOR_CASCADE : SFFN_PREDICTOR_SIGN;
        config.bits = config.step_bits = 2;
        config.d_model = k->o->n_cols;
        config.d_ff = k->n_rows;
        config.gate = weights;
        status = sffn_predictor_create(k->owner, &config, &k->predictor);
        k->bytes = status == SFFN_OK ? (double)sffn_predictor_weight_bytes(k->predictor) : 0.0;
    } else {
        sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
        sffn_matmul_info info = SFFN_MATMUL_INFO_INIT;
        config.n_rows = k->n_rows;
        config.n_cols = k->o->n_cols;
        config.weights = weights;
        config.block_size = k->op == OP_BLOCKS_AXPY ? 32 : 1;
        status = sffn_matmul_create(k->owner, &config, &k->matmul);
        if (status == SFFN_OK)
            status = sffn_matmul_get_info(k->matmul, &info);
        k->bytes = (double)info.weight_bytes;
    }
    k->flops = 2.0 * k->n_rows * k->o->n_cols * (double)k->n_tokens;
    if (k->op == OP_QUANTIZE_X) {
        k->bytes = (double)(k->o->n_cols * sizeof(float) * k->n_tokens);
        k->flops = 0.0;
    }
    return status;
}

static void kernel_destroy(struct kernel_run *k)
{
    sffn_matmul_destroy(k->matmul);
    sffn_predictor_destroy(k->predictor);
    sffn_active_set_destroy(k->active);
    sffn_context_destroy(k->ctx);
    sffn_context_destroy(k->owner);
    rotation_destroy(k->rotation);
    free(k->rows);
    free(k->x);
    free(k->h);
    free(k->out);
}

static size_t weights_of_op_bits(const struct kernel_run *k)
{
    if (k->op == OP_PLANE_DOT)
        return 2 * k->o->n_cols;
    if (k->op == OP_COUNT_SIGNS)
        return k->o->n_cols;
    return 8 * sffn_dtype_row_bytes(k->dtype, k->o->n_cols);
}

static int kernel_create(struct kernel_run *k, const char *isa, uint64_t l2_bytes,
                         uint64_t cold_bytes)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    const uint64_t row_bytes = weights_of_op_bits(k) / 8;
    const uint64_t wanted = k->from_memory ? (uint64_t)32 << 20 : l2_bytes / 2;
    uint64_t n_rows = wanted / row_bytes / 32 * 32;
    k->n_rows = (uint32_t)(n_rows < 32 ? 32 : n_rows);
    if (!reads_weights(k->op))
        k->n_rows = k->op == OP_QUANTIZE_X ? 32 : k->o->n_cols; /* as many values as columns */
    config.n_threads = k->o->n_threads;
    config.max_isa = isa;
    k->rotation = rotation_create();
    if (!k->rotation || sffn_context_create(&config, &k->ctx) != SFFN_OK) {
        fprintf(stderr, COMMAND ": %s\n", sffn_context_last_error(NULL));
        return 0;
    }
    config.n_threads = 1;
    config.allocator = rotation_allocator(k->rotation);
    if (sffn_context_create(&config, &k->owner) != SFFN_OK) {
        fprintf(stderr, COMMAND ": %s\n", sffn_context_last_error(NULL));
        return 0;
    }
    const size_t longer = k->n_rows > k->o->n_cols ? k->n_rows : k->o->n_cols;
    k->x = malloc(k->n_tokens * k->o->n_cols * sizeof *k->x);
    k->h = malloc(k->n_tokens * k->n_rows * sizeof *k->h);
    k->out = malloc(k->n_tokens * longer * sizeof *k->out);
    sffn_status status = k->x && k->h && k->out ? make_objects(k) : SFFN_ERR_OUT_OF_MEMORY;
    if (status != SFFN_OK)
        return fail(k, "making the weights", status);
    uint64_t state = 362436069;
    fill(k->x, k->n_tokens * k->o->n_cols, &state);
    fill(k->h, k->n_tokens * k->n_rows, &state);
    if (k->from_memory) {
        const uint64_t bytes = rotation_bytes(k->rotation),
                       possible = available_memory_bytes() * 6 / 10;
        uint64_t copies = bytes > 0 ? cold_bytes / bytes + 1 : 1;
        copies = copies * bytes > possible ? possible / bytes : copies;
        if (!rotation_copy(k->rotation, copies < 1 ? 1 : (size_t)copies))
            return fail(k, "copying the weights", SFFN_ERR_OUT_OF_MEMORY);
    }
    return 1;
}

static sffn_status call(struct kernel_run *k)
{
    const size_t n_cols = k->o->n_cols, n_rows = k->n_rows;
    sffn_value_rule rule = SFFN_VALUE_RULE_INIT;
    sffn_status status = SFFN_OK;
    switch (k->op) {
    case OP_ROWS_DOT:
    case OP_QUANTIZE_X:
        return sffn_matmul_rows_dot(k->ctx, k->matmul, k->x, n_cols, k->n_tokens, k->active, k->out,
                                    n_rows);
    case OP_ROWS_AXPY:
    case OP_BLOCKS_AXPY:
        return sffn_matmul_rows_axpy(k->ctx, k->matmul, k->h, n_rows, k->n_tokens, NULL, k->out,
                                     n_cols);
    case OP_PLANE_DOT:
    case OP_COUNT_SIGNS:
        return sffn_predictor_predict(k->ctx, k->predictor, k->x, n_cols, k->n_tokens, k->out,
                                      n_rows, NULL);
    default:
        rule.kind = k->op == OP_TOP_K ? SFFN_VALUE_TOP_K : SFFN_VALUE_ABS_ABOVE;
        rule.threshold = 0.9f; /* of values in -1..1 */
        rule.k = k->n_rows / 10;
        for (size_t t = 0; t < k->n_tokens && status == SFFN_OK; t++)
            status = sffn_active_set_set_values(k->active, t, k->h + t * n_rows, n_rows, &rule);
        return status;
    }
}

static int measure(struct kernel_run *k, struct summary *summary)
{
    struct samples samples;
    const struct stop_rule *rule = &k->o->rule;
    sffn_status status = SFFN_OK;
    /* A call of a microsecond is timed in groups: the clock would show in it. */
    size_t group = 1;
    if (!samples_init(&samples))
        return fail(k, "measuring", SFFN_ERR_OUT_OF_MEMORY);
    for (int i = 0; i < 5 && status == SFFN_OK; i++) {
        const double start = now_ns();
        status = call(k);
        const double ns = now_ns() - start;
        group = k->from_memory || ns > 20e3 ? 1 : (size_t)(20e3 / (ns + 1.0)) + 1;
    }
    for (int round = 0; status == SFFN_OK && needs_round(rule, round, &samples); round++) {
        const double begin = now_ns();
        for (size_t n = 0; status == SFFN_OK && round_goes_on(rule, round, &samples, n, begin);
             n++) {
            if (!rotation_next(k->rotation)) {
                fprintf(stderr, COMMAND ": the system does not move pages (mremap)\n");
                exit(1); /* the objects are lost */
            }
            const double start = now_ns();
            for (size_t i = 0; i < group && status == SFFN_OK; i++)
                status = call(k);
            samples_add(&samples, (now_ns() - start) / (double)group);
        }
    }
    *summary = samples_summary(&samples);
    samples_free(&samples);
    return status == SFFN_OK ? 1 : fail(k, "running the kernel", status);
}

/* Against float64 from the same weights, first token; NaN where there is nothing to compare. */
static double measure_error(struct kernel_run *k)
{
    const size_t n_cols = k->o->n_cols, n_rows = k->n_rows;
    const int is_dot = k->op == OP_ROWS_DOT || k->op == OP_PLANE_DOT,
              is_columns = k->op == OP_BLOCKS_AXPY;
    if (!is_dot && k->op != OP_ROWS_AXPY && !is_columns)
        return (double)NAN;
    const size_t n_stored = is_columns ? n_cols : n_rows, length = is_columns ? n_rows : n_cols,
                 bytes = sffn_dtype_row_bytes(k->dtype, length), n_out = is_dot ? n_rows : n_cols;
    float *row = malloc(length * sizeof *row);
    double *exact = calloc(n_out, sizeof *exact), error = (double)NAN;
    for (size_t r = 0; row && exact && r < n_stored; r++) {
        sffn_dtype_to_f32(k->dtype, k->rows + r * bytes, length, row);
        for (size_t j = 0; j < length; j++)
            if (is_dot)
                exact[r] += (double)row[j] * (double)k->x[j];
            else if (is_columns)
                exact[r] += (double)row[j] * (double)k->h[j];
            else
                exact[j] += (double)row[j] * (double)k->h[r];
    }
    if (row && exact && call(k) == SFFN_OK)
        error = relative_error(k->out, exact, n_out);
    free(row);
    free(exact);
    return error;
}

/* ---- rows ---- */

struct table {
    const struct kernel_options *o;
    struct ceilings *ceilings;
    uint64_t l2_bytes, cold_bytes;
    double stream_gbps; /* NaN from the cache */
    int has_header;
};

static const char *find_kernel(const struct kernel_run *k, const char *prefix)
{
    for (size_t i = 0; i < sffn_context_n_kernels(k->ctx); i++) {
        const char *name = sffn_context_kernel_name(k->ctx, i);
        if (name && strncmp(name, prefix, strlen(prefix)) == 0)
            return name;
    }
    return NULL;
}

/* The name of the kernel that this context uses, from its table. Its matrices are copies, which have the scales of q4_0 apart where there are
 * kernels for that. */
static const char *kernel_name(const struct kernel_run *k, char *text, size_t size)
{
    const int is_int = sffn_dtype_block_size(k->dtype) > 1;
    char prefix[64], apart[80];
    switch (k->op) {
    case OP_ROWS_AXPY:
        snprintf(prefix, sizeof prefix, "%s_axpy_%s%s_", k->n_tokens > 1 ? "batch" : "rows",
                 is_int ? "int_" : "", sffn_dtype_name(k->dtype));
        break;
    case OP_ROWS_DOT:
    case OP_BLOCKS_AXPY:
        snprintf(prefix, sizeof prefix, "%s_%s_", op_names[k->op], sffn_dtype_name(k->dtype));
        break;
    default:
        snprintf(prefix, sizeof prefix, "%s_", op_names[k->op]);
        break;
    }
    snprintf(apart, sizeof apart, "%sapart_", prefix);
    const char *name = find_kernel(k, apart);
    if (!name || strstr(name, "_scalar"))
        name = find_kernel(k, prefix);
    if (name)
        return name;
    snprintf(text, size, "%.*s", (int)strlen(prefix) - 1, prefix);
    return text;
}

static void print_row(struct table *table, const struct kernel_run *k, const char *isa,
                      const struct summary *s, double scalar_ns, double error)
{
    const struct kernel_options *o = table->o;
    const double stream_gbps = table->stream_gbps;
    char text[96], name[128];
    const double gflops = k->flops > 0.0 ? k->flops / s->median : (double)NAN,
                 gbps = k->bytes > 0.0 ? k->bytes / s->median : (double)NAN,
                 limit = k->from_memory && reads_weights(k->op) ? gbps / stream_gbps : (double)NAN;
    const char *from = k->from_memory ? "memory" : "cache",
               *dtype = reads_weights(k->op) ? sffn_dtype_name(k->dtype) : NULL;
    snprintf(name, sizeof name, "%s", kernel_name(k, text, sizeof text));
    warn_when_noisy(COMMAND, name, s);
    if (!o->as_json) {
        if (!table->has_header)
            printf("%-34s %-12s %-6s %8s %6s %6s %7s %12s %12s %12s %6s %8s %8s %6s %8s %9s\n",
                   "kernel", "ISA", "from", "rows", "cols", "tokens", "threads", "median us", "min",
                   "max", "+-", "GB/s", "GFLOP/s", "limit", "scalar", "error");
        table->has_header = 1;
        printf("%-34s %-12s %-6s %8u %6u %6zu %7u %12.3f %12.3f %12.3f", name, isa, from, k->n_rows,
               o->n_cols, k->n_tokens, o->n_threads, s->median * 1e-3, s->min * 1e-3,
               s->max * 1e-3);
        print_cell(6, "%.3f", s->error);
        print_cell(8, "%.1f", gbps);
        print_cell(8, "%.1f", gflops);
        print_cell(6, "%.3f", limit);
        print_cell(8, "%.2fx", scalar_ns / s->median);
        print_cell(9, "%.2e", error);
        printf("\n");
        fflush(stdout);
        return;
    }
    struct json j;
    json_begin(&j);
    json_string(&j, "name", name);
    json_string(&j, "op", op_names[k->op]);
    json_string(&j, "dtype", dtype);
    json_string(&j, "isa", isa);
    json_string(&j, "from", from);
    json_uint(&j, "n_rows", k->n_rows);
    json_uint(&j, "n_cols", o->n_cols);
    json_uint(&j, "n_tokens", k->n_tokens);
    json_uint(&j, "n_threads", o->n_threads);
    json_summary(&j, s);
    json_uint(&j, "touched_bytes", (uint64_t)k->bytes);
    json_number(&j, "effective_gbps", gbps);
    json_number(&j, "stream_gbps", stream_gbps);
    json_number(&j, "limit_fraction", limit);
    json_number(&j, "gflops", gflops);
    json_number(&j, "speedup_vs_scalar", scalar_ns / s->median);
    json_number(&j, "relative_error", error);
    json_end(&j);
}

/* One operation on one type, on every ISA; the weakest first, so that the others have scalar to compare with. */
static int run_isas(struct table *table, enum op op, int32_t dtype, int from_memory,
                    size_t n_tokens)
{
    const struct kernel_options *o = table->o;
    double scalar_ns = (double)NAN;
    int all_ok = 1;
    for (size_t i = 0; i < o->n_isas; i++) {
        struct kernel_run k;
        struct summary summary;
        memset(&k, 0, sizeof k);
        k.o = o;
        k.op = op;
        k.dtype = dtype;
        k.from_memory = from_memory;
        k.n_tokens = n_tokens;
        progress("%s %s %s", op_names[op], sffn_dtype_name(dtype), o->isas[i]);
        const int ok = kernel_create(&k, o->isas[i], table->l2_bytes, table->cold_bytes) &&
                       measure(&k, &summary);
        progress(NULL);
        if (ok) {
            if (strcmp(o->isas[i], "scalar") == 0)
                scalar_ns = summary.median;
            print_row(table, &k, o->isas[i], &summary, scalar_ns,
                      from_memory ? (double)NAN : measure_error(&k));
        }
        kernel_destroy(&k);
        all_ok &= ok;
    }
    return all_ok;
}

static int run_op(struct table *table, enum op op, int from_memory, size_t n_tokens)
{
    const struct kernel_options *o = table->o;
    if (from_memory && !reads_weights(op))
        return 1; /* their data lie in the cache always */
    progress("measuring the memory");
    table->stream_gbps =
        from_memory ? ceilings_stream_gbps(table->ceilings, o->n_threads) : (double)NAN;
    if (op == OP_PLANE_DOT || op == OP_COUNT_SIGNS || op == OP_THRESHOLD || op == OP_TOP_K)
        return run_isas(table, op, SFFN_F32, from_memory, n_tokens);
    if (op == OP_QUANTIZE_X)
        return run_isas(table, op, SFFN_Q8_0, from_memory, n_tokens);
    int all_ok = 1;
    for (size_t d = 0; d < o->n_dtypes; d++)
        if (op != OP_BLOCKS_AXPY || sffn_dtype_block_size(o->dtypes[d]) == 32)
            all_ok &= run_isas(table, op, o->dtypes[d], from_memory, n_tokens);
    return all_ok;
}

int bench_kernels(int argc, char **argv)
{
    struct kernel_options o;
    struct table table = {&o, NULL, 0, 0, (double)NAN, 0};
    sffn_context *ctx;
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    int status = parse_options(&o, argc, argv), wants_memory = 0, all_ok = 1;
    if (status != 0)
        return status == 1 ? 0 : status;
    if (sffn_context_create(NULL, &ctx) != SFFN_OK ||
        sffn_context_get_info(ctx, &info) != SFFN_OK) {
        fprintf(stderr, COMMAND ": %s\n", sffn_context_last_error(NULL));
        return 1;
    }
    print_machine(o.as_json ? stderr : stdout, &info);
    fprintf(o.as_json ? stderr : stdout, "\n\n");
    warn_when_busy(COMMAND, info.n_cpus);
    table.l2_bytes = info.l2_bytes ? info.l2_bytes : (uint64_t)512 << 10;
    table.cold_bytes =
        info.llc_bytes * 4 > (uint64_t)512 << 20 ? info.llc_bytes * 4 : (uint64_t)512 << 20;
    if (o.cold_bytes)
        table.cold_bytes = o.cold_bytes;
    sffn_context_destroy(ctx);
    for (size_t f = 0; f < o.n_from; f++)
        wants_memory |= o.from_memory[f];
    if (wants_memory) {
        const uint64_t most = available_memory_bytes() / 8;
        table.ceilings =
            ceilings_create((size_t)(table.cold_bytes < most ? table.cold_bytes : most), 1);
        if (!table.ceilings) {
            fprintf(stderr, COMMAND ": no memory to measure the ceilings with\n");
            return 1;
        }
    }
    for (size_t p = 0; p < o.n_ops; p++)
        for (size_t f = 0; f < o.n_from; f++)
            for (size_t t = 0; t < o.n_tokens; t++)
                all_ok &= run_op(&table, o.ops[p], o.from_memory[f], (size_t)o.tokens[t]);
    ceilings_destroy(table.ceilings);
    return all_ok ? 0 : 1;
}
