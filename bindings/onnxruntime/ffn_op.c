/* ffn_op.c  The ONNX Runtime operator sparseffn.FFN: one feed-forward layer as one node, on the session's threads. See README.md. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ort_abi.h"
#include "sparseffn/sparseffn.h"

enum { IN_X, IN_UP, IN_DOWN, IN_GATE, IN_GATE_BIAS, IN_UP_BIAS, IN_DOWN_BIAS, N_INPUTS };
enum { OUT_Y, OUT_STATS, N_OUTPUTS };
enum { STAT_PATH, STAT_TOKENS, STAT_NONZERO, STAT_BYTES, STAT_DENSE_REASON, N_STATS };
enum { MAX_DIMS = 16, MAX_TEXT = 256 };
static const char *const input_names[N_INPUTS] = {"x",         "up",      "down",     "gate",
                                                  "gate_bias", "up_bias", "down_bias"};

/* A context runs one call at a time, a session any number: each call that runs beside others has a stream of its own. */
struct stream {
    struct stream *next;
    int is_busy;
    const OrtApi *api;
    sffn_context *ctx;
    const OrtKernelContext *call; /* the call whose threads ctx uses */
};

struct kernel {
    const OrtApi *api;
    sffn_ffn *ffn;
    struct stream *streams; /* the last one made the layer */
    pthread_mutex_t mutex;
    uint32_t n_threads;
    uint32_t d_model;
    char name[MAX_TEXT];
};

static OrtStatus *fail(const OrtApi *api, int code, const char *format, ...)
{
    char text[2 * MAX_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return api->CreateStatus(code, text);
}

static OrtStatus *fail_status(const OrtApi *api, sffn_status status, const sffn_context *ctx)
{
    const int code = status < SFFN_ERR_UNSUPPORTED    ? ORT_INVALID_ARGUMENT
                     : status == SFFN_ERR_UNSUPPORTED ? ORT_NOT_IMPLEMENTED
                                                      : ORT_FAIL;
    return fail(api, code, "sparseffn.FFN: %s: %s", sffn_status_name(status),
                sffn_context_last_error(ctx));
}

/* --- streams --- */

struct task {
    void (*fn)(void *arg, uint32_t i);
    void *arg;
};

static void run_task(void *user, size_t i)
{
    const struct task *task = user;
    task->fn(task->arg, (uint32_t)i);
}

/* sffn_parallel_for_fn: on the threads of the session, which promises no two at the same time, as we need none. */
static void run_on_session(void *user, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
    const struct stream *stream = user;
    struct task task = {fn, arg};
    OrtStatus *status = stream->api->KernelContext_ParallelFor(stream->call, run_task, n, 0, &task);
    if (status) { /* nothing was started */
        stream->api->ReleaseStatus(status);
        for (uint32_t i = 0; i < n; i++)
            fn(arg, i);
    }
}

static struct stream *make_stream(const OrtApi *api, uint32_t n_threads, OrtStatus **status)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    if (!stream) {
        *status = fail(api, ORT_FAIL, "sparseffn.FFN: out of memory");
        return NULL;
    }
    stream->api = api;
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = n_threads;
    config.parallel_for = run_on_session;
    config.parallel_for_user = stream;
    const sffn_status found = sffn_context_create(&config, &stream->ctx);
    if (found != SFFN_OK) {
        *status = fail_status(api, found, NULL);
        free(stream);
        return NULL;
    }
    return stream;
}

static struct stream *take_stream(struct kernel *kernel, OrtStatus **status)
{
    pthread_mutex_lock(&kernel->mutex);
    struct stream *stream = kernel->streams;
    while (stream && stream->is_busy)
        stream = stream->next;
    if (stream)
        stream->is_busy = 1;
    pthread_mutex_unlock(&kernel->mutex);
    if (stream)
        return stream;
    stream = make_stream(kernel->api, kernel->n_threads, status);
    if (!stream)
        return NULL;
    const sffn_status found = sffn_ffn_reserve(stream->ctx, kernel->ffn);
    if (found != SFFN_OK) {
        *status = fail_status(kernel->api, found, stream->ctx);
        sffn_context_destroy(stream->ctx);
        free(stream);
        return NULL;
    }
    stream->is_busy = 1;
    pthread_mutex_lock(&kernel->mutex);
    stream->next = kernel->streams;
    kernel->streams = stream;
    pthread_mutex_unlock(&kernel->mutex);
    return stream;
}

static void give_stream(struct kernel *kernel, struct stream *stream)
{
    pthread_mutex_lock(&kernel->mutex);
    stream->is_busy = 0;
    pthread_mutex_unlock(&kernel->mutex);
}

/* --- reading the node --- */

/* Attributes that the node leaves out keep their defaults. A failed look-up is how ONNX Runtime says that one is not there. */
static int64_t int_attribute(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                             int64_t fallback)
{
    int64_t value = fallback;
    OrtStatus *status = api->KernelInfoGetAttribute_int64(info, name, &value);
    if (!status)
        return value;
    api->ReleaseStatus(status);
    return fallback;
}

static float float_attribute(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                             float fallback)
{
    float value = fallback;
    OrtStatus *status = api->KernelInfoGetAttribute_float(info, name, &value);
    if (!status)
        return value;
    api->ReleaseStatus(status);
    return fallback;
}

static const char *text_attribute(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                                  const char *fallback, char out[MAX_TEXT])
{
    size_t size = MAX_TEXT;
    OrtStatus *status = api->KernelInfoGetAttribute_string(info, name, out, &size);
    if (!status)
        return out;
    api->ReleaseStatus(status);
    return fallback;
}

struct choice {
    const char *name;
    int32_t value;
};
static const struct choice layouts[] = {
    {"linear", SFFN_LAYOUT_ROWS}, {"matmul", SFFN_LAYOUT_COLUMNS}, {NULL, 0}};
static const struct choice storages[] = {
    {"copy", SFFN_STORAGE_COPY}, {"borrow", SFFN_STORAGE_BORROW}, {NULL, 0}};
static const struct choice ties[] = {{"drop", SFFN_TIE_DROP}, {"keep", SFFN_TIE_KEEP}, {NULL, 0}};
static const struct choice selects[] = {{"default", SFFN_SELECT_DEFAULT},
                                        {"dense", SFFN_SELECT_DENSE},
                                        {"gate", SFFN_SELECT_GATE},
                                        {NULL, 0}};

static OrtStatus *choose(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                         const struct choice *choices, const char *fallback, int32_t *out)
{
    char text[MAX_TEXT], expected[MAX_TEXT] = "";
    const char *found = text_attribute(api, info, name, fallback, text);
    for (const struct choice *c = choices; c->name; c++) {
        if (strcmp(c->name, found) == 0) {
            *out = c->value;
            return NULL;
        }
        const size_t used = strlen(expected);
        snprintf(expected + used, sizeof(expected) - used, "%s%s", used ? ", " : "", c->name);
    }
    return fail(api, ORT_INVALID_ARGUMENT,
                "sparseffn.FFN: attribute %s is \"%.64s\"; expected one of %s", name, found,
                expected);
}

/* A named value of the library: an activation, a rule or a type. */
static OrtStatus *named(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                        const char *fallback, int32_t (*value_of)(const char *), int32_t *out)
{
    char text[MAX_TEXT];
    const char *found = text_attribute(api, info, name, fallback, text);
    *out = value_of(found);
    if (*out >= 0)
        return NULL;
    return fail(api, ORT_INVALID_ARGUMENT,
                "sparseffn.FFN: attribute %s is \"%.64s\", which is no name of the library", name,
                found);
}

/* A constant input: data NULL when the node has none. */
struct constant {
    const void *data;
    int32_t dtype;
    size_t n_dims;
    int64_t dims[MAX_DIMS];
};

static OrtStatus *read_shape(const OrtApi *api, const OrtValue *value, int *type, size_t *n_dims,
                             int64_t dims[MAX_DIMS])
{
    OrtTensorTypeAndShapeInfo *info;
    OrtStatus *status = api->GetTensorTypeAndShape(value, &info);
    if (status)
        return status;
    status = api->GetTensorElementType(info, type);
    if (!status)
        status = api->GetDimensionsCount(info, n_dims);
    if (!status && *n_dims > MAX_DIMS)
        status = fail(api, ORT_INVALID_ARGUMENT,
                      "sparseffn.FFN: %zu dimensions; at most %d are read", *n_dims, MAX_DIMS);
    if (!status)
        status = api->GetDimensions(info, dims, *n_dims);
    api->ReleaseTensorTypeAndShapeInfo(info);
    return status;
}

static OrtStatus *read_constant(const OrtApi *api, const OrtKernelInfo *info, size_t index,
                                struct constant *out)
{
    memset(out, 0, sizeof(*out));
    size_t n_inputs, size = MAX_TEXT;
    char name[MAX_TEXT] = "?";
    OrtStatus *status = api->KernelInfo_GetInputCount(info, &n_inputs);
    if (status || index >= n_inputs)
        return status;
    status = api->KernelInfo_GetInputName(info, index, name, &size);
    if (status) /* longer than MAX_TEXT: there all the same */
        api->ReleaseStatus(status);
    else if (!name[0])
        return NULL;
    int is_constant = 0, type;
    const OrtValue *value = NULL;
    status = api->KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value);
    if (!status && !is_constant)
        status = fail(api, ORT_INVALID_ARGUMENT,
                      "sparseffn.FFN: input %s is computed in the graph; expected an initializer, "
                      "which is packed once",
                      input_names[index]);
    if (!status)
        status = read_shape(api, value, &type, &out->n_dims, out->dims);
    if (status)
        return status;
    out->dtype = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT      ? SFFN_F32
                 : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16  ? SFFN_F16
                 : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 ? SFFN_BF16
                                                                  : -1;
    if (out->dtype < 0)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "sparseffn.FFN: input %s has ONNX element type %d; expected float (1), float16 "
                    "(10) or bfloat16 (16)",
                    input_names[index], type);
    void *data;
    status = api->GetTensorMutableData((OrtValue *)value, &data); /* only read here */
    out->data = data;
    return status;
}

static void *transpose(const void *data, size_t n_rows, size_t n_cols, size_t size)
{
    char *out = malloc(n_rows * n_cols * size);
    enum { TILE = 32 }; /* a tile's lines stay in the first-level cache */
    for (size_t r0 = 0; out && r0 < n_rows; r0 += TILE)
        for (size_t c0 = 0; c0 < n_cols; c0 += TILE)
            for (size_t r = r0; r < n_rows && r < r0 + TILE; r++)
                for (size_t c = c0; c < n_cols && c < c0 + TILE; c++)
                    memcpy(out + (c * n_rows + r) * size,
                           (const char *)data + (r * n_cols + c) * size, size);
    return out;
}

/*
 * One of gate, up and down: [neurons][d_model] (down: [d_model][neurons]), or the other way round with layout "matmul". The library takes
 * gate and up by rows only: where they lie by columns, *owned is a transposed copy, which the caller frees.
 */
static OrtStatus *read_matrix(const OrtApi *api, const OrtKernelInfo *info, size_t index,
                              int32_t layout, sffn_weights *out, uint32_t sizes[2], void **owned)
{
    struct constant c;
    OrtStatus *status = read_constant(api, info, index, &c);
    if (status || !c.data)
        return status;
    if (c.n_dims != 2 || c.dims[0] < 1 || c.dims[1] < 1 || c.dims[0] > UINT32_MAX ||
        c.dims[1] > UINT32_MAX)
        return fail(
            api, ORT_INVALID_ARGUMENT,
            "sparseffn.FFN: input %s has %zu dimensions; expected a matrix that is not empty",
            input_names[index], c.n_dims);
    out->data = c.data;
    out->dtype = c.dtype;
    out->layout = (index == IN_DOWN) != (layout == SFFN_LAYOUT_COLUMNS) ? SFFN_LAYOUT_COLUMNS
                                                                        : SFFN_LAYOUT_ROWS;
    const int is_rows = out->layout == SFFN_LAYOUT_ROWS;
    const uint32_t d_ff = (uint32_t)c.dims[!is_rows], d_model = (uint32_t)c.dims[is_rows];
    if (!sizes[0]) {
        sizes[0] = d_ff;
        sizes[1] = d_model;
    } else if (sizes[0] != d_ff || sizes[1] != d_model) {
        return fail(
            api, ORT_INVALID_ARGUMENT,
            "sparseffn.FFN: input %s is [%lld, %lld], so d_ff = %u and d_model = %u; up has %u "
            "and %u",
            input_names[index], (long long)c.dims[0], (long long)c.dims[1], d_ff, d_model, sizes[0],
            sizes[1]);
    }
    if (index != IN_DOWN && !is_rows) {
        *owned = transpose(c.data, d_model, d_ff, c.dtype == SFFN_F32 ? 4 : 2);
        if (!*owned)
            return fail(api, ORT_FAIL, "sparseffn.FFN: out of memory");
        out->data = *owned;
        out->layout = SFFN_LAYOUT_ROWS;
    }
    return NULL;
}

static OrtStatus *read_bias(const OrtApi *api, const OrtKernelInfo *info, size_t index, uint32_t n,
                            const float **out)
{
    struct constant c;
    OrtStatus *status = read_constant(api, info, index, &c);
    if (status || !c.data)
        return status;
    if (c.dtype != SFFN_F32 || c.n_dims != 1 || c.dims[0] != (int64_t)n)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "sparseffn.FFN: input %s: expected float [%u], got %s with %zu dimensions",
                    input_names[index], n, sffn_dtype_name(c.dtype), c.n_dims);
    *out = c.data;
    return NULL;
}

static OrtStatus *read_node(const OrtApi *api, const OrtKernelInfo *info, sffn_ffn_config *config,
                            void *owned[2])
{
    int32_t layout;
    uint32_t sizes[2] = {0, 0};
    OrtStatus *status = choose(api, info, "layout", layouts, "linear", &layout);
    if (!status)
        status = choose(api, info, "storage", storages, "copy", &config->storage);
    if (!status)
        status = choose(api, info, "select", selects, "default", &config->select);
    if (!status)
        status = choose(api, info, "act_tie", ties, "keep", &config->act_tie);
    if (!status)
        status = choose(api, info, "rule_tie", ties, "drop", &config->rule_tie);
    if (!status)
        status =
            named(api, info, "activation", "relu", sffn_activation_from_name, &config->activation);
    if (!status)
        status = named(api, info, "rule", "none", sffn_rule_from_name, &config->rule);
    char dtype[MAX_TEXT];
    if (!status && *text_attribute(api, info, "dtype", "", dtype))
        status = named(api, info, "dtype", "", sffn_dtype_from_name, &config->dtype);
    if (!status)
        status = read_matrix(api, info, IN_UP, layout, &config->up, sizes, &owned[0]);
    if (!status)
        status = read_matrix(api, info, IN_DOWN, layout, &config->down, sizes, NULL);
    if (!status)
        status = read_matrix(api, info, IN_GATE, layout, &config->gate, sizes, &owned[1]);
    if (!status && config->storage == SFFN_STORAGE_BORROW && owned[0])
        status =
            fail(api, ORT_INVALID_ARGUMENT,
                 "sparseffn.FFN: attribute storage is \"borrow\"; expected \"copy\" with layout "
                 "\"matmul\", whose gate and up have no rows of neurons");
    if (!status)
        status = read_bias(api, info, IN_GATE_BIAS, sizes[0], &config->gate_bias);
    if (!status)
        status = read_bias(api, info, IN_UP_BIAS, sizes[0], &config->up_bias);
    if (!status)
        status = read_bias(api, info, IN_DOWN_BIAS, sizes[1], &config->down_bias);
    const int64_t dense_tokens = int_attribute(api, info, "dense_tokens", config->dense_tokens);
    if (!status && (dense_tokens < 0 || dense_tokens > UINT32_MAX))
        status = fail(api, ORT_INVALID_ARGUMENT,
                      "sparseffn.FFN: attribute dense_tokens is %lld; expected 0 (never) or more",
                      (long long)dense_tokens);
    config->dense_tokens = (uint32_t)dense_tokens;
    config->d_ff = sizes[0];
    config->d_model = sizes[1];
    config->act_threshold = float_attribute(api, info, "act_threshold", 0.0f);
    config->rule_threshold = float_attribute(api, info, "rule_threshold", 0.0f);
    return status;
}

/* --- the operator --- */

static void destroy_kernel(void *op_kernel)
{
    struct kernel *kernel = op_kernel;
    if (!kernel)
        return;
    sffn_ffn_destroy(kernel->ffn);
    while (kernel->streams) {
        struct stream *next = kernel->streams->next;
        sffn_context_destroy(kernel->streams->ctx);
        free(kernel->streams);
        kernel->streams = next;
    }
    pthread_mutex_destroy(&kernel->mutex);
    free(kernel);
}

/* One line per node, and a warning for those that cannot gain anything. */
static void tell(const struct kernel *kernel, const OrtKernelInfo *info)
{
    const OrtLogger *logger;
    sffn_ffn_info ffn = SFFN_FFN_INFO_INIT;
    sffn_context_info ctx = SFFN_CONTEXT_INFO_INIT;
    OrtStatus *status = kernel->api->KernelInfo_GetLogger(info, &logger);
    sffn_ffn_get_info(kernel->ffn, &ffn);
    sffn_context_get_info(kernel->streams->ctx, &ctx);
    if (!status) {
        const int has_zeros = ffn.dense_reason != SFFN_DENSE_NO_ZEROS;
        char text[2 * MAX_TEXT];
        snprintf(text, sizeof(text),
                 "sparseffn.FFN %.100s: %s %s, d_model %u, d_ff %u, %.1f MB packed%s", kernel->name,
                 sffn_activation_name(ffn.activation), sffn_dtype_name(ffn.up_dtype), ffn.d_model,
                 ffn.d_ff, (double)ctx.weight_bytes / 1e6,
                 has_zeros ? "" : "; this activation has no zeros, so all neurons run: set a rule");
        status = kernel->api->Logger_LogMessage(
            logger, has_zeros ? ORT_LOGGING_LEVEL_INFO : ORT_LOGGING_LEVEL_WARNING, text, __FILE__,
            __LINE__, __func__);
    }
    if (status)
        kernel->api->ReleaseStatus(status);
}

static OrtStatus *make_kernel(const OrtApi *api, const OrtKernelInfo *info, sffn_ffn_config *config,
                              void **out)
{
    const int64_t n_threads = int_attribute(api, info, "n_threads", 0);
    if (n_threads < 0 || n_threads > 512)
        return fail(
            api, ORT_INVALID_ARGUMENT,
            "sparseffn.FFN: attribute n_threads is %lld; expected 0 (CPUs of this process) to 512",
            (long long)n_threads);
    OrtStatus *status;
    struct kernel *kernel = calloc(1, sizeof(*kernel));
    if (!kernel)
        return fail(api, ORT_FAIL, "sparseffn.FFN: out of memory");
    kernel->api = api;
    kernel->n_threads = (uint32_t)n_threads;
    kernel->d_model = config->d_model;
    pthread_mutex_init(&kernel->mutex, NULL);
    size_t size = sizeof(kernel->name);
    status = api->KernelInfo_GetNodeName(info, kernel->name, &size);
    if (status) { /* too long */
        api->ReleaseStatus(status);
        status = NULL;
    }
    if (!kernel->name[0])
        strcpy(kernel->name, "ffn");
    config->name = kernel->name;
    kernel->streams = make_stream(api, kernel->n_threads, &status);
    if (kernel->streams) {
        const sffn_status found = sffn_ffn_create(kernel->streams->ctx, config, &kernel->ffn);
        if (found != SFFN_OK)
            status = fail_status(api, found, kernel->streams->ctx);
    }
    if (status) {
        destroy_kernel(kernel);
        return status;
    }
    tell(kernel, info);
    *out = kernel;
    return NULL;
}

static OrtStatus *create_kernel(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                                void **out)
{
    (void)op;
    *out = NULL;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    void *owned[2] = {NULL, NULL};
    OrtStatus *status = read_node(api, info, &config, owned);
    if (!status)
        status = make_kernel(api, info, &config, out);
    free(owned[0]);
    free(owned[1]);
    return status;
}

static OrtStatus *compute(void *op_kernel, OrtKernelContext *context)
{
    struct kernel *kernel = op_kernel;
    const OrtApi *api = kernel->api;
    const OrtValue *x;
    OrtValue *y, *stats_value = NULL;
    int64_t dims[MAX_DIMS];
    const int64_t n_stats = N_STATS;
    int64_t *stats_out = NULL;
    size_t n_dims, n_tokens = 1, n_outputs;
    int type;
    void *x_data, *y_data;
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;

    OrtStatus *status = api->KernelContext_GetInput(context, IN_X, &x);
    if (!status)
        status = read_shape(api, x, &type, &n_dims, dims);
    if (status)
        return status;
    if (n_dims == 0 || dims[n_dims - 1] != (int64_t)kernel->d_model)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "sparseffn.FFN %.100s: the last dimension of x is %lld; expected d_model = %u",
                    kernel->name, n_dims ? (long long)dims[n_dims - 1] : 0, kernel->d_model);
    for (size_t i = 0; i + 1 < n_dims; i++)
        n_tokens *= (size_t)dims[i];
    status = api->KernelContext_GetOutput(context, OUT_Y, dims, n_dims, &y);
    if (!status)
        status = api->GetTensorMutableData((OrtValue *)x, &x_data); /* only read here */
    if (!status)
        status = api->GetTensorMutableData(y, &y_data);
    if (!status)
        status = api->KernelContext_GetOutputCount(context, &n_outputs);
    if (!status && n_outputs > OUT_STATS)
        status = api->KernelContext_GetOutput(context, OUT_STATS, &n_stats, 1, &stats_value);
    if (!status && stats_value) {
        void *data;
        status = api->GetTensorMutableData(stats_value, &data);
        stats_out = data;
    }
    if (status)
        return status;

    struct stream *stream = take_stream(kernel, &status);
    if (!stream)
        return status;
    stream->call = context;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x_data;
    args.y = y_data;
    args.n_tokens = n_tokens;
    args.stats = stats_out ? &stats : NULL;
    const sffn_status found = sffn_ffn_forward(stream->ctx, kernel->ffn, &args);
    if (found != SFFN_OK)
        status = fail_status(api, found, stream->ctx);
    give_stream(kernel, stream);
    if (stats_out) {
        stats_out[STAT_PATH] = stats.path;
        stats_out[STAT_TOKENS] = (int64_t)stats.n_tokens;
        stats_out[STAT_NONZERO] = (int64_t)stats.n_nonzero;
        stats_out[STAT_BYTES] = (int64_t)stats.touched_bytes;
        stats_out[STAT_DENSE_REASON] = stats.dense_reason;
    }
    return status;
}

static const char *name_of(const OrtCustomOp *op)
{
    (void)op;
    return "FFN";
}

static const char *provider_of(const OrtCustomOp *op)
{
    (void)op;
    return NULL; /* CPU */
}

static size_t count_inputs(const OrtCustomOp *op)
{
    (void)op;
    return N_INPUTS;
}

static int input_type(const OrtCustomOp *op, size_t index)
{
    (void)op;
    return index == IN_UP || index == IN_DOWN || index == IN_GATE
               ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
               : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

static int input_need(const OrtCustomOp *op, size_t index)
{
    (void)op;
    return index <= IN_DOWN ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

static int input_memory(const OrtCustomOp *op, size_t index)
{
    (void)op;
    (void)index;
    return 0; /* the provider's own */
}

static size_t count_outputs(const OrtCustomOp *op)
{
    (void)op;
    return N_OUTPUTS;
}

static int output_type(const OrtCustomOp *op, size_t index)
{
    (void)op;
    return index == OUT_Y ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

static int output_need(const OrtCustomOp *op, size_t index)
{
    (void)op;
    return index == OUT_Y ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

static int first_version(const OrtCustomOp *op)
{
    (void)op;
    return 1;
}

static int last_version(const OrtCustomOp *op)
{
    (void)op;
    return INT32_MAX;
}

/* No InferOutputShapeFn: ONNX Runtime 1.17 reads a NULL type before it calls one when an optional input in the middle is left out. */
static const OrtCustomOp ffn_op = {
    .version = ORT_API_VERSION,
    .GetName = name_of,
    .GetExecutionProviderType = provider_of,
    .GetInputType = input_type,
    .GetInputTypeCount = count_inputs,
    .GetOutputType = output_type,
    .GetOutputTypeCount = count_outputs,
    .KernelDestroy = destroy_kernel,
    .GetInputCharacteristic = input_need,
    .GetOutputCharacteristic = output_need,
    .GetInputMemoryType = input_memory,
    .CreateKernelV2 = create_kernel,
    .KernelComputeV2 = compute,
    .GetStartVersion = first_version,
    .GetEndVersion = last_version,
};

static pthread_mutex_t domain_mutex = PTHREAD_MUTEX_INITIALIZER;
static OrtCustomOpDomain *domain; /* shared by all sessions of the process */

/* What ONNX Runtime looks for: SessionOptions.register_custom_ops_library() in Python, RegisterCustomOpsLibrary_V2() in C. */
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options,
                                                                    const OrtApiBase *base);
OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base)
{
    const OrtApi *api = base->GetApi(ORT_API_VERSION);
    if (!api) { /* version 1 can say why */
        char text[MAX_TEXT];
        snprintf(
            text, sizeof(text),
            "sparseffn.FFN: ONNX Runtime %.32s has no C API of version %d; expected 1.%d or later",
            base->GetVersionString(), ORT_API_VERSION, ORT_API_VERSION);
        return base->GetApi(1)->CreateStatus(ORT_NOT_IMPLEMENTED, text);
    }
    OrtStatus *status = NULL;
    pthread_mutex_lock(&domain_mutex);
    if (!domain) {
        status = api->CreateCustomOpDomain("sparseffn", &domain);
        if (!status)
            status = api->CustomOpDomain_Add(domain, &ffn_op);
        if (status && domain) {
            api->ReleaseCustomOpDomain(domain);
            domain = NULL;
        }
    }
    pthread_mutex_unlock(&domain_mutex);
    return status ? status : api->AddCustomOpDomain(options, domain);
}
