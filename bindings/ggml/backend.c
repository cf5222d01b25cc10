/* backend.c  The ggml backend: claims the nodes of feed-forward layers, and runs each layer as one call of libsparseffn on ggml's threads.
 *
 * It is an accelerator on host memory, like ggml's BLAS backend: its buffers are the CPU's, so nothing is copied. The scheduler asks about one operation at a
 * time. The down product can be judged from its sources; gate and up are claimed when they belong to a layer whose down product was whole when it was last seen
 * (the scheduler asks for them again after it). Whatever arrives and is not a whole layer goes to a CPU backend of our own, so a wrong guess costs time, not results.
 *
 * A call of the library is a list of phases that never wait. Each becomes a GGML_OP_CUSTOM node of a small graph that the CPU backend computes: its threads run
 * the phases, its barrier stands between them, and no thread is added to the process.
 */
#include <stdlib.h>
#include <string.h>

#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#include "layers.h"
#include "sffn_ggml.h"

struct run { /* one call of the library */
    struct layer *layer;
    const sffn_ffn *ffn;
    sffn_ffn_args args;
    sffn_ffn_stats stats;
    uint32_t n_phases;
    sffn_status status;
};

struct phase {
    sffn_context *ctx;
    struct run *run;
    uint32_t number;
};

/* A match in the graph that is being computed. */
struct place {
    struct ffn_match match;
    struct layer *layer;
    int at; /* node of y */
    size_t first_run, n_runs;
};

struct buffer {
    void *data;
    size_t bytes;
};

struct instance {
    ggml_backend_t cpu; /* computes the phases, and what is not a whole layer */
    sffn_context *ctx;
    uint32_t n_threads;
    unsigned reserved; /* layers_generation() that has scratch in ctx, for n_threads */
    struct buffer places, runs, phases, is_inner, graph;
};

static ggml_backend_dev_t cpu_device(void)
{
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

/* ---- computing ---- */

static void run_phase(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    const struct phase *p = user;
    (void)dst;
    const sffn_status status = sffn_ffn_forward_phase(p->ctx, p->run->ffn, &p->run->args, p->number,
                                                      (uint32_t)ith, (uint32_t)nth);
    if (ith == 0 && p->number == 0)
        p->run->status = status; /* every phase of every thread has the same */
}

/* Memory for n elements, kept from call to call; NULL: out of memory. */
static void *room(struct buffer *b, size_t n, size_t size)
{
    if (b->bytes < n * size) {
        free(b->data);
        b->bytes = 2 * n * size;
        b->data = malloc(b->bytes);
        if (!b->data)
            b->bytes = 0;
    }
    return b->data;
}

static int index_of(struct ggml_cgraph *graph, const struct ggml_tensor *node, int before)
{
    for (int i = before - 1; i >= 0; i--)
        if (ggml_graph_node(graph, i) == node)
            return i;
    return -1;
}

/* All that the match replaces is in this graph, and nobody else reads it. Marks it. */
static int take_inner(struct ggml_cgraph *graph, const struct place *place, char *is_inner)
{
    int at[MATCH_MAX_INNER];
    for (int i = 0; i < place->match.n_inner; i++) {
        at[i] = index_of(graph, place->match.inner[i], place->at);
        if (at[i] < 0 || ggml_node_get_use_count(graph, at[i]) != 1)
            return 0;
    }
    for (int i = 0; i < place->match.n_inner; i++)
        is_inner[at[i]] = 1;
    return 1;
}

/* The calls that a match stands for: one, or one per token and expert of a mixture. 0: an expert that does not exist. */
static int make_runs(const struct place *place, struct run *runs, size_t *n_nodes)
{
    const struct ffn_match *m = &place->match;
    const sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    const sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    for (size_t i = 0; i < place->n_runs; i++) {
        struct run *run = &runs[place->first_run + i];
        const size_t token = i / (size_t)m->n_used, slot = i % (size_t)m->n_used;
        int32_t expert = 0;
        run->layer = place->layer;
        run->args = args;
        run->stats = stats;
        run->args.stats = &run->stats;
        if (m->ids) {
            expert = *(const int32_t *)(const void *)((const char *)m->ids->data +
                                                      token * m->ids->nb[1] + slot * m->ids->nb[0]);
            if (expert < 0 || expert >= m->n_experts)
                return 0;
            run->args.x =
                (const float *)(const void *)((const char *)m->x->data + token * m->x->nb[2]);
            run->args.y =
                (float *)(void *)((char *)m->y->data + token * m->y->nb[2] + slot * m->y->nb[1]);
            run->args.n_tokens = 1;
        } else {
            run->args.x = m->x->data;
            run->args.x_stride = m->x->nb[1] / sizeof(float);
            run->args.y = m->y->data;
            run->args.y_stride = m->y->nb[1] / sizeof(float);
            run->args.n_tokens = (size_t)m->n_tokens;
        }
        run->ffn = place->layer->experts[expert];
        run->n_phases = sffn_ffn_n_phases(run->ffn, &run->args);
        if (run->n_phases == 0)
            return 0;
        *n_nodes += run->n_phases;
    }
    return 1;
}

static int overlaps(const struct ggml_tensor *a, const struct ggml_tensor *b)
{
    const char *pa = a->data, *pb = b->data;
    return pa < pb + ggml_nbytes(b) && pb < pa + ggml_nbytes(a);
}

/* The layers in the graph that are whole, with their calls. -1: out of memory. */
static int find_places(struct instance *in, struct ggml_cgraph *graph, size_t *n_runs,
                       size_t *n_nodes)
{
    const int n = ggml_graph_n_nodes(graph);
    struct place *places = room(&in->places, (size_t)n, sizeof *places);
    char *is_inner = room(&in->is_inner, (size_t)n, 1);
    int n_places = 0;
    const char *reason;
    if (!places || !is_inner)
        return -1;
    memset(is_inner, 0, (size_t)n);
    *n_runs = *n_nodes = 0;
    for (int i = 0; i < n; i++) {
        struct ggml_tensor *node = ggml_graph_node(graph, i);
        struct place *place = &places[n_places];
        if ((node->op != GGML_OP_MUL_MAT && node->op != GGML_OP_MUL_MAT_ID) ||
            !match_ffn(node, &place->match, &reason))
            continue;
        place->layer = layers_find(&place->match);
        place->at = i;
        place->first_run = *n_runs;
        place->n_runs =
            place->match.ids ? (size_t)(place->match.n_tokens * place->match.n_used) : 1;
        /* graph_optimize() has asked for x to live until y is there; other schedulers may not listen. */
        if (!place->layer || overlaps(place->match.x, node) || !take_inner(graph, place, is_inner))
            continue;
        *n_runs += place->n_runs;
        n_places++;
    }
    struct run *runs = room(&in->runs, *n_runs + 1, sizeof *runs);
    if (!runs)
        return -1;
    for (int i = 0; i < n_places; i++)
        if (!make_runs(&places[i], runs, n_nodes))
            return 0; /* rather the whole graph in ggml than a part of it wrong */
    return n_places;
}

static void count(const struct run *run)
{
    atomic_fetch_add(&run->layer->n_calls, 1);
    atomic_fetch_add(&run->layer->n_tokens, run->stats.n_tokens);
    atomic_fetch_add(&run->layer->n_active, run->stats.n_active);
}

/* The graph with phases in the place of layers. */
static struct ggml_cgraph *replace(struct instance *in, struct ggml_context *ctx,
                                   struct ggml_cgraph *graph, int n_places, size_t size,
                                   struct phase *phases)
{
    const struct place *place = in->places.data;
    const char *is_inner = in->is_inner.data;
    struct run *runs = in->runs.data;
    struct ggml_cgraph *out = ggml_new_graph_custom(ctx, size, false);
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        if (n_places == 0 || i != place->at) {
            if (!is_inner[i])
                ggml_graph_add_node(out, ggml_graph_node(graph, i));
            continue;
        }
        for (size_t r = place->first_run; r < place->first_run + place->n_runs; r++)
            for (uint32_t number = 0; number < runs[r].n_phases; number++) {
                *phases = (struct phase){in->ctx, &runs[r], number};
                struct ggml_tensor *node = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, NULL, 0,
                                                          run_phase, GGML_N_TASKS_MAX, phases++);
                node->flags |= GGML_TENSOR_FLAG_COMPUTE;
                ggml_graph_add_node(out, node);
            }
        place++, n_places--;
    }
    return out;
}

static enum ggml_status graph_compute(ggml_backend_t backend, struct ggml_cgraph *graph)
{
    struct instance *in = backend->context;
    size_t n_runs, n_nodes;
    const unsigned generation = layers_generation();
    if (in->reserved != generation && layers_reserve(in->ctx, in->n_threads))
        in->reserved = generation;
    const int n_places = in->reserved == generation ? find_places(in, graph, &n_runs, &n_nodes) : 0;
    if (n_places < 0)
        return GGML_STATUS_ALLOC_FAILED;
    if (n_places == 0)
        return ggml_backend_graph_compute(in->cpu, graph);
    const size_t size = n_nodes + (size_t)ggml_graph_n_nodes(graph);
    const size_t bytes =
        (n_nodes + 1) * ggml_tensor_overhead() + ggml_graph_overhead_custom(size, false);
    struct phase *phases = room(&in->phases, n_nodes, sizeof *phases);
    void *memory = room(&in->graph, bytes, 1);
    if (!phases || !memory)
        return GGML_STATUS_ALLOC_FAILED;
    struct ggml_context *ctx = ggml_init((struct ggml_init_params){bytes, memory, true});
    if (!ctx)
        return GGML_STATUS_ALLOC_FAILED;
    struct ggml_cgraph *out = replace(in, ctx, graph, n_places, size, phases);
    enum ggml_status status = ggml_backend_graph_compute(in->cpu, out);
    ggml_free(ctx);
    const struct run *runs = in->runs.data;
    for (size_t r = 0; r < n_runs && status == GGML_STATUS_SUCCESS; r++) {
        if (runs[r].status != SFFN_OK) {
            log_line(GGML_LOG_LEVEL_ERROR, "%s", sffn_context_last_error(in->ctx));
            status = GGML_STATUS_FAILED;
        }
        count(&runs[r]);
    }
    return status;
}

/* x is free for others after the last product that reads it, but here it is read until y is written. */
static void graph_optimize(ggml_backend_t backend, struct ggml_cgraph *graph,
                           struct ggml_backend_graph_optimize_params *params)
{
    struct ffn_match m;
    const char *reason;
    (void)backend;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        struct ggml_tensor *node = ggml_graph_node(graph, i);
        if ((node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID) &&
            match_ffn(node, &m, &reason) && layers_find(&m))
            params->add_alloc_dep(params->user_data, m.x, node);
    }
}

/* ---- the backend ---- */

static const char *backend_name(ggml_backend_t backend)
{
    (void)backend;
    return "SparseFFN";
}

static void backend_free(ggml_backend_t backend)
{
    struct instance *in = backend->context;
    ggml_backend_free(in->cpu);
    layers_close();
    sffn_context_destroy(in->ctx);
    free(in->places.data);
    free(in->runs.data);
    free(in->phases.data);
    free(in->is_inner.data);
    free(in->graph.data);
    free(in);
    free(backend);
}

static void *cpu_proc(const char *name)
{
    ggml_backend_dev_t cpu = cpu_device();
    return cpu ? ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), name) : NULL;
}

static void set_n_threads(ggml_backend_t backend, int n_threads)
{
    struct instance *in = backend->context;
    ggml_backend_set_n_threads_t set =
        (ggml_backend_set_n_threads_t)cpu_proc("ggml_backend_set_n_threads");
    if (n_threads < 1 || n_threads > 512)
        return;
    if (set)
        set(in->cpu, n_threads);
    if ((uint32_t)n_threads > in->n_threads) {
        in->n_threads = (uint32_t)n_threads;
        in->reserved = 0;
    }
}

static void set_abort_callback(ggml_backend_t backend, ggml_abort_callback callback, void *data)
{
    struct instance *in = backend->context;
    ggml_backend_set_abort_callback_t set =
        (ggml_backend_set_abort_callback_t)cpu_proc("ggml_backend_set_abort_callback");
    if (set)
        set(in->cpu, callback, data);
}

static ggml_guid_t guid(void)
{
    static ggml_guid bytes = {0x5f, 0x66, 0x66, 0x6e, 0x2d, 0x67, 0x67, 0x6d,
                              0x6c, 0x2d, 0x62, 0x61, 0x63, 0x6b, 0x65, 0x6e};
    return &bytes;
}

static const struct ggml_backend_i backend_functions = {
    .get_name = backend_name,
    .free = backend_free,
    .graph_compute = graph_compute,
    .graph_optimize = graph_optimize,
};

static ggml_backend_t init_backend(ggml_backend_dev_t device, const char *params)
{
    struct instance *in = calloc(1, sizeof *in);
    ggml_backend_t backend = calloc(1, sizeof *backend);
    (void)params;
    if (!in || !backend || !layers_open()) {
        free(in);
        free(backend);
        return NULL;
    }
    in->n_threads = GGML_DEFAULT_N_THREADS;
    in->cpu = cpu_device() ? ggml_backend_dev_init(cpu_device(), NULL) : NULL;
    if (!in->cpu || sffn_context_create(NULL, &in->ctx) != SFFN_OK) {
        log_line(GGML_LOG_LEVEL_ERROR, "%s",
                 in->cpu ? sffn_context_last_error(NULL) : "ggml's CPU backend is not loaded");
        if (in->cpu)
            ggml_backend_free(in->cpu);
        layers_close();
        free(in);
        free(backend);
        return NULL;
    }
    *backend = (struct ggml_backend){guid(), backend_functions, device, in};
    return backend;
}

/* ---- the device: what it takes ---- */

static const char *device_name(ggml_backend_dev_t device)
{
    (void)device;
    return "SparseFFN";
}

static const char *device_description(ggml_backend_dev_t device)
{
    (void)device;
    return "feed-forward layers from the neurons that matter (libsparseffn)";
}

static void device_memory(ggml_backend_dev_t device, size_t *free_bytes, size_t *total_bytes)
{
    (void)device;
    *free_bytes = *total_bytes = 0; /* host memory: the CPU device reports it */
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t device)
{
    (void)device;
    return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

static void device_props(ggml_backend_dev_t device, struct ggml_backend_dev_props *props)
{
    memset(props, 0, sizeof *props);
    props->name = device_name(device);
    props->description = device_description(device);
    props->type = device_type(device);
    props->caps.buffer_from_host_ptr = true;
    props->caps.mmap_support = true;
}

static ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t device)
{
    (void)device;
    return ggml_backend_cpu_buffer_type();
}

static ggml_backend_buffer_t device_buffer_from_host_ptr(ggml_backend_dev_t device, void *data,
                                                         size_t bytes, size_t max_tensor_bytes)
{
    (void)device;
    (void)max_tensor_bytes;
    return ggml_backend_cpu_buffer_from_ptr(data, bytes);
}

static bool device_supports_buft(ggml_backend_dev_t device, ggml_backend_buffer_type_t type)
{
    (void)device;
    return cpu_device() && ggml_backend_dev_supports_buft(cpu_device(), type);
}

/* A down product: takes it when the whole layer is there and ready. */
static bool takes_down(struct ggml_tensor *node)
{
    struct ffn_match m;
    const char *reason;
    if (!match_ffn(node, &m, &reason)) {
        if (is_weight(node->src[0]))
            layers_refuse(node->src[0], reason);
        return false;
    }
    if (m.n_tokens >= settings.dense_from)
        return false;
    struct layer *layer = layers_pack(&m);
    if (!layer || !layer->experts)
        return false;
    atomic_store(&layer->is_whole, 1);
    return true;
}

static bool device_supports_op(ggml_backend_dev_t device, const struct ggml_tensor *op)
{
    (void)device;
    switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true;
    case GGML_OP_MUL_MAT:
    case GGML_OP_MUL_MAT_ID:
    case GGML_OP_GLU:
    case GGML_OP_UNARY:
    case GGML_OP_SQR:
    case GGML_OP_MUL:
    case GGML_OP_ADD:
        break;
    default:
        return false;
    }
    const struct ggml_tensor *product = match_part(op);
    if (!product || !device_supports_buft(device, product->src[0]->buffer->buft))
        return false;
    /* First as a down product: what was said of weights at this address may be about a model that is gone. */
    if (product == op && takes_down((struct ggml_tensor *)op))
        return true;
    /* A mixture's products have n_used columns per token. */
    const int64_t n_tokens = product->op == GGML_OP_MUL_MAT_ID ? op->ne[2] : tokens_of(op);
    return n_tokens < settings.dense_from && layers_has_inner(product->src[0]);
}

static const struct ggml_backend_device_i device_functions = {
    .get_name = device_name,
    .get_description = device_description,
    .get_memory = device_memory,
    .get_type = device_type,
    .get_props = device_props,
    .init_backend = init_backend,
    .get_buffer_type = device_buffer_type,
    .buffer_from_host_ptr = device_buffer_from_host_ptr,
    .supports_op = device_supports_op,
    .supports_buft = device_supports_buft,
};

/* ---- the registration ---- */

static const char *reg_name(ggml_backend_reg_t reg)
{
    (void)reg;
    return "SparseFFN";
}

static size_t reg_device_count(ggml_backend_reg_t reg)
{
    (void)reg;
    return 1;
}

static ggml_backend_dev_t reg_device(ggml_backend_reg_t reg, size_t index)
{
    static struct ggml_backend_device device;
    device.iface = device_functions;
    device.reg = reg;
    return index == 0 ? &device : NULL;
}

static void *reg_proc_address(ggml_backend_reg_t reg, const char *name)
{
    (void)reg;
    if (strcmp(name, "ggml_backend_set_n_threads") == 0)
        return (void *)set_n_threads;
    if (strcmp(name, "ggml_backend_set_abort_callback") == 0)
        return (void *)set_abort_callback;
    if (strcmp(name, "sffn_ggml_report") == 0)
        return (void *)sffn_ggml_report;
    return NULL;
}

/* ggml's structures change between versions without a change of GGML_BACKEND_API_VERSION, so only the one this was built for will do. */
static int is_right_ggml(void)
{
    if (strcmp(ggml_version(), SFFN_GGML_VERSION) == 0)
        return 1;
    log_line(GGML_LOG_LEVEL_ERROR,
             "this backend was built for ggml %s, and this is ggml %s: build it against the "
             "headers and libraries of this version "
             "(bindings/ggml/README.md)",
             SFFN_GGML_VERSION, ggml_version());
    return 0;
}

GGML_BACKEND_API int ggml_backend_score(void);
GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void);

int ggml_backend_score(void)
{
    return is_right_ggml();
}

ggml_backend_reg_t ggml_backend_init(void)
{
    static struct ggml_backend_reg reg = {
        .api_version = GGML_BACKEND_API_VERSION,
        .iface = {.get_name = reg_name,
                  .get_device_count = reg_device_count,
                  .get_device = reg_device,
                  .get_proc_address = reg_proc_address},
    };
    if (!is_right_ggml())
        return NULL;
    settings_read();
    log_line(
        GGML_LOG_LEVEL_INFO,
        "libsparseffn %s; batches of %lld tokens and more run dense in ggml (SFFN_GGML_DENSE_FROM)",
        sffn_version_string(), (long long)settings.dense_from);
    return &reg;
}
