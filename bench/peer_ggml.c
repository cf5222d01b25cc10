/* peer_ggml.c  The layer through ggml's CPU backend, one graph a call, as llama.cpp runs it. Functions of its public headers, found by name. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"
#include "sparseffn/dtype.h"

#define MAX_COPIES 2048u
#define N_MATRICES 3

struct init_params { /* ggml_init_params */
    size_t mem_size;
    void *mem_buffer;
    _Bool no_alloc;
};
enum { GGML_F32 = 0, GGML_F16 = 1, GGML_Q4_0 = 2, GGML_Q8_0 = 8, GGML_BF16 = 30 }; /* ggml_type */

/* Opaque here: contexts, tensors, graphs, backends, buffers and their types, registries, allocators. */
struct api {
    void *(*init)(struct init_params);
    void (*free)(void *);
    void *(*new_tensor_2d)(void *, int, int64_t, int64_t);
    void *(*mul_mat)(void *, void *, void *);
    void *(*relu)(void *, void *);
    void *(*mul)(void *, void *, void *);
    void *(*new_graph)(void *);
    void (*build_forward_expand)(void *, void *);
    size_t (*tensor_overhead)(void);
    size_t (*graph_overhead)(void);
    const char *(*version)(void); /* NULL in older ones */
    void (*log_set)(void (*)(int, const char *, void *), void *);
    void (*backend_free)(void *);
    void *(*backend_get_device)(void *);
    void *(*dev_backend_reg)(void *);
    void *(*reg_get_proc_address)(void *, const char *);
    _Bool (*dev_supports_op)(void *, const void *);
    const char *(*buft_name)(void *);
    void *(*alloc_ctx_tensors)(void *, void *);
    void (*buffer_free)(void *);
    void (*tensor_set)(void *, const void *, size_t, size_t);
    void (*tensor_get)(const void *, void *, size_t, size_t);
    int (*graph_compute)(void *, void *);
    void *(*gallocr_new)(void *);
    _Bool (*gallocr_alloc_graph)(void *, void *);
    void (*gallocr_free)(void *);
    void *(*cpu_init)(void);
    void *(*cpu_buffer_type)(void);
    void (*cpu_set_n_threads)(void *, int);
    void (*threadpool_params_init)(void *, int);
    void *(*threadpool_new)(void *);
    void (*threadpool_free)(void *);
    void (*cpu_set_threadpool)(void *, void *);
};

struct copy {
    void *weights_ctx, *graph_ctx, *buffer, *graph, *output;
};

struct run {
    struct api ggml;
    size_t n_tokens, d_model, d_ff;
    void *backend, *threadpool, *buft, *gallocr, *x_ctx, *x_buffer, *x;
    void *matrices[N_MATRICES]; /* as ggml stores them, for the copies */
    size_t matrix_bytes[N_MATRICES];
    struct copy *copies;
    void *last_output;
    float *y;
};

static int load(struct api *a, const struct peer_layer *of)
{
    /* In this order: each needs those before. ggml's own file is needed by none of the functions here. */
    void *base = peer_load(of->folders, "libggml-base.so*,libggml-base.so,libggml-base.so.0"),
         *cpu = base ? peer_load(of->folders, "libggml-cpu.so*,libggml-cpu.so,libggml-cpu.so.0")
                     : NULL;
    if (!base || !cpu)
        return 0;
    const struct {
        void *library;
        const char *name;
        void *function;
        int may_lack;
    } wanted[] = {
        {base, "ggml_init", &a->init, 0},
        {base, "ggml_free", &a->free, 0},
        {base, "ggml_new_tensor_2d", &a->new_tensor_2d, 0},
        {base, "ggml_mul_mat", &a->mul_mat, 0},
        {base, "ggml_relu", &a->relu, 0},
        {base, "ggml_mul", &a->mul, 0},
        {base, "ggml_new_graph", &a->new_graph, 0},
        {base, "ggml_build_forward_expand", &a->build_forward_expand, 0},
        {base, "ggml_tensor_overhead", &a->tensor_overhead, 0},
        {base, "ggml_graph_overhead", &a->graph_overhead, 0},
        {base, "ggml_version", &a->version, 1},
        {base, "ggml_log_set", &a->log_set, 0},
        {base, "ggml_backend_free", &a->backend_free, 0},
        {base, "ggml_backend_get_device", &a->backend_get_device, 0},
        {base, "ggml_backend_dev_backend_reg", &a->dev_backend_reg, 0},
        {base, "ggml_backend_reg_get_proc_address", &a->reg_get_proc_address, 0},
        {base, "ggml_backend_dev_supports_op", &a->dev_supports_op, 0},
        {base, "ggml_backend_buft_name", &a->buft_name, 0},
        {base, "ggml_backend_alloc_ctx_tensors_from_buft", &a->alloc_ctx_tensors, 0},
        {base, "ggml_backend_buffer_free", &a->buffer_free, 0},
        {base, "ggml_backend_tensor_set", &a->tensor_set, 0},
        {base, "ggml_backend_tensor_get", &a->tensor_get, 0},
        {base, "ggml_backend_graph_compute", &a->graph_compute, 0},
        {base, "ggml_gallocr_new", &a->gallocr_new, 0},
        {base, "ggml_gallocr_alloc_graph", &a->gallocr_alloc_graph, 0},
        {base, "ggml_gallocr_free", &a->gallocr_free, 0},
        {base, "ggml_backend_cpu_buffer_type", &a->cpu_buffer_type, 0},
        {base, "ggml_threadpool_params_init", &a->threadpool_params_init, 0},
        {cpu, "ggml_backend_cpu_init", &a->cpu_init, 0},
        {cpu, "ggml_backend_cpu_set_n_threads", &a->cpu_set_n_threads, 0},
        {cpu, "ggml_threadpool_new", &a->threadpool_new, 0},
        {cpu, "ggml_threadpool_free", &a->threadpool_free, 0},
        {cpu, "ggml_backend_cpu_set_threadpool", &a->cpu_set_threadpool, 0},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        void *symbol = dlsym(wanted[i].library, wanted[i].name);
        memcpy(wanted[i].function, &symbol, sizeof symbol); /* POSIX's way to a function pointer */
        if (!symbol && !wanted[i].may_lack)
            return 0;
    }
    return 1;
}

static void log_nothing(int level, const char *text,
                        void *user) /* it reports every tensor that it repacks */
{
    (void)level, (void)text, (void)user;
}

static int forward(struct peer *peer, size_t turn)
{
    struct run *r = peer->state;
    struct copy *c = &r->copies[turn % peer->n_copies];
    r->last_output = c->output;
    return r->ggml.graph_compute(r->backend, c->graph) == 0;
}

static const float *result(struct peer *peer)
{
    struct run *r = peer->state;
    r->ggml.tensor_get(r->last_output, r->y, 0, r->n_tokens * r->d_model * sizeof *r->y);
    return r->y;
}

static void close_run(struct peer *peer)
{
    struct run *r = peer->state;
    const struct api *a = &r->ggml;
    for (size_t i = 0; r->copies && i < MAX_COPIES + 1u && r->copies[i].weights_ctx; i++) {
        if (r->copies[i].buffer)
            a->buffer_free(r->copies[i].buffer);
        a->free(r->copies[i].weights_ctx);
        if (r->copies[i].graph_ctx)
            a->free(r->copies[i].graph_ctx);
    }
    if (r->gallocr)
        a->gallocr_free(r->gallocr);
    if (r->x_buffer)
        a->buffer_free(r->x_buffer);
    if (r->x_ctx)
        a->free(r->x_ctx);
    if (r->backend)
        a->backend_free(r->backend);
    if (r->threadpool)
        a->threadpool_free(r->threadpool);
    for (int m = 0; m < N_MATRICES; m++)
        free(r->matrices[m]);
    free(r->copies);
    free(r->y);
    free(r);
}

/* One copy of the weights in buffers of this type, and its graph. 0: the type does not take the products, or no memory. */
static int create_copy(struct run *r, void *buft, int type, struct copy *c)
{
    const struct api *a = &r->ggml;
    const int64_t d_model = (int64_t)r->d_model, d_ff = (int64_t)r->d_ff;
    const struct init_params weights = {4 * a->tensor_overhead(), NULL, 1},
                             graph = {16 * a->tensor_overhead() + a->graph_overhead(), NULL, 1};
    void *w[N_MATRICES];
    c->weights_ctx = a->init(weights);
    c->graph_ctx = a->init(graph);
    if (!c->weights_ctx || !c->graph_ctx)
        return 0;
    for (int m = 0; m < N_MATRICES; m++)
        w[m] = m == LAYER_DOWN ? a->new_tensor_2d(c->weights_ctx, type, d_ff, d_model)
                               : a->new_tensor_2d(c->weights_ctx, type, d_model, d_ff);
    c->buffer = a->alloc_ctx_tensors(c->weights_ctx, buft);
    if (!c->buffer)
        return 0;
    void *gate = a->mul_mat(c->graph_ctx, w[LAYER_GATE], r->x),
         *up = a->mul_mat(c->graph_ctx, w[LAYER_UP], r->x),
         *h = a->mul(c->graph_ctx, a->relu(c->graph_ctx, gate), up);
    c->output = a->mul_mat(c->graph_ctx, w[LAYER_DOWN], h);
    void *device = a->backend_get_device(r->backend);
    if (!a->dev_supports_op(device, gate) || !a->dev_supports_op(device, c->output))
        return 0;
    for (int m = 0; m < N_MATRICES; m++)
        a->tensor_set(w[m], r->matrices[m], 0, r->matrix_bytes[m]);
    c->graph = a->new_graph(c->graph_ctx);
    a->build_forward_expand(c->graph, c->output);
    return a->gallocr_alloc_graph(r->gallocr,
                                  c->graph); /* all graphs share the memory between products */
}

/* Rows in ggml's type; q8_0 and q4_0 blocks are ggml's, so gate and up of the same type go over bit for bit. */
static int make_matrices(struct run *r, const struct layer *l, int32_t dtype)
{
    for (int m = 0; m < N_MATRICES; m++) {
        const size_t n = m == LAYER_DOWN ? r->d_model : r->d_ff,
                     k = m == LAYER_DOWN ? r->d_ff : r->d_model,
                     bytes = sffn_dtype_row_bytes(dtype, k);
        const uint8_t *same = l->dtype != dtype ? NULL
                              : m == LAYER_GATE ? l->gate
                              : m == LAYER_UP   ? l->up
                                                : NULL;
        r->matrix_bytes[m] = n * bytes;
        r->matrices[m] = bytes > 0 ? malloc(n * bytes) : NULL;
        float *plain = r->matrices[m] && !same ? layer_decode(l, (enum layer_matrix)m) : NULL;
        if (!r->matrices[m] || (!same && !plain))
            return 0;
        if (same)
            memcpy(r->matrices[m], same, n * bytes);
        for (size_t i = 0; plain && i < n; i++)
            sffn_dtype_from_f32(dtype, plain + i * k, k, (uint8_t *)r->matrices[m] + i * bytes);
        free(plain);
    }
    return 1;
}

/* The backend with its own threads, and x. */
static int create_backend(struct run *r, const struct peer_layer *of)
{
    const struct api *a = &r->ggml;
    /* ggml_threadpool_params is a structure of a few hundred bytes that grows. */
    static _Alignas(64) char params[8192];
    const struct init_params one = {2 * a->tensor_overhead(), NULL, 1};
    r->backend = a->cpu_init();
    a->threadpool_params_init(params, (int)of->n_threads);
    r->threadpool = a->threadpool_new(params);
    r->x_ctx = a->init(one);
    if (!r->backend || !r->threadpool || !r->x_ctx)
        return 0;
    a->cpu_set_n_threads(r->backend, (int)of->n_threads);
    a->cpu_set_threadpool(r->backend, r->threadpool);
    r->x = a->new_tensor_2d(r->x_ctx, GGML_F32, (int64_t)r->d_model, (int64_t)r->n_tokens);
    r->x_buffer = a->alloc_ctx_tensors(r->x_ctx, a->cpu_buffer_type());
    r->gallocr = a->gallocr_new(a->cpu_buffer_type());
    if (!r->x_buffer || !r->gallocr)
        return 0;
    a->tensor_set(r->x, of->x, 0, r->n_tokens * r->d_model * sizeof *of->x);
    return 1;
}

/* The first copy: in plain memory, or in the first of the CPU's other kinds of memory that takes it, where weights are repacked. */
static int create_first(struct run *r, struct peer *peer, int type, int is_repacked)
{
    const struct api *a = &r->ggml;
    if (!is_repacked) {
        r->buft = a->cpu_buffer_type();
        return create_copy(r, r->buft, type, &r->copies[0]);
    }
    void **(*get_extra)(void *) = NULL;
    void *device = a->backend_get_device(r->backend),
         *symbol = a->reg_get_proc_address(a->dev_backend_reg(device),
                                           "ggml_backend_dev_get_extra_bufts");
    memcpy(&get_extra, &symbol, sizeof symbol);
    for (void **buft = get_extra ? get_extra(device) : NULL; buft && *buft; buft++) {
        struct copy *c = &r->copies[0];
        if (create_copy(r, *buft, type, c)) {
            r->buft = *buft;
            return 1;
        }
        if (c->buffer)
            a->buffer_free(c->buffer);
        a->free(c->weights_ctx);
        a->free(c->graph_ctx);
        memset(c, 0, sizeof *c);
    }
    snprintf(peer->how, sizeof peer->how, "this ggml does not repack the type here");
    return 0;
}

int peer_ggml_open(struct peer *peer, const struct peer_layer *of, const char *dtype)
{
    const char *space = strchr(dtype, ' ');
    char type_name[16];
    snprintf(type_name, sizeof type_name, "%.*s", (int)(space ? space - dtype : 15), dtype);
    const int32_t own = sffn_dtype_from_name(type_name);
    const int type = own == SFFN_F32    ? GGML_F32
                     : own == SFFN_F16  ? GGML_F16
                     : own == SFFN_BF16 ? GGML_BF16
                     : own == SFFN_Q8_0 ? GGML_Q8_0
                                        : GGML_Q4_0;
    struct run *r = calloc(1, sizeof *r);
    peer->state = r;
    snprintf(peer->how, sizeof peer->how, "libggml-base and libggml-cpu are not found");
    if (!r || !load(&r->ggml, of)) {
        free(r);
        return 0;
    }
    r->ggml.log_set(log_nothing, NULL);
    r->n_tokens = of->n_tokens;
    r->d_model = of->layer->d_model;
    r->d_ff = of->layer->d_ff;
    snprintf(peer->version, sizeof peer->version, "%s", r->ggml.version ? r->ggml.version() : "");
    snprintf(peer->how, sizeof peer->how, "no memory");
    peer->forward = forward;
    peer->result = result;
    peer->close = close_run;
    int ok = make_matrices(r, of->layer, own);
    for (int m = 0; m < N_MATRICES; m++)
        peer->weight_bytes += r->matrix_bytes[m];
    const size_t n = ok ? peer_copies(of, peer->weight_bytes) : 0;
    r->y = malloc(r->n_tokens * r->d_model * sizeof *r->y);
    r->copies = calloc(MAX_COPIES + 2u, sizeof *r->copies);
    ok = ok && n > 0 && r->y && r->copies && create_backend(r, of) &&
         create_first(r, peer, type, space != NULL);
    for (size_t i = 1; ok && i < n; i++)
        ok = create_copy(r, r->buft, type, &r->copies[i]);
    peer->n_copies = n;
    if (!ok) {
        close_run(peer);
        return 0;
    }
    for (int m = 0; m < N_MATRICES; m++) {
        free(r->matrices[m]);
        r->matrices[m] = NULL;
    }
    snprintf(peer->how, sizeof peer->how, "%s", r->ggml.buft_name(r->buft));
    return 1;
}
