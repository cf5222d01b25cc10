/* dense_onednn.c  The only file that knows oneDNN. Versions 2 and 3 differ in how memory is described and matmuls are made; see "v2 and v3". */
#include "ffn/dense_onednn.h"
#include "ffn/onednn_config.h" /* generated: SFFN_HAVE_ONEDNN is 0 or 1 */

#if SFFN_HAVE_ONEDNN
#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/memory.h"

#if DNNL_VERSION_MAJOR != 2 && DNNL_VERSION_MAJOR != 3
#error "oneDNN 2 or 3 is needed: build with -Donednn=disabled"
#endif

/* Every function that is used, by name: loaded, never linked. */
#define FUNCTIONS(F)                                                                               \
    F(dnnl_version)                                                                                \
    F(dnnl_engine_create)                                                                          \
    F(dnnl_stream_create)                                                                          \
    F(dnnl_stream_destroy)                                                                         \
    F(dnnl_stream_wait)                                                                            \
    F(dnnl_sgemm)                                                                                  \
    F(dnnl_memory_create)                                                                          \
    F(dnnl_memory_destroy)                                                                         \
    F(dnnl_memory_set_data_handle)                                                                 \
    F(dnnl_memory_desc_get_size)                                                                   \
    F(dnnl_primitive_desc_query)                                                                   \
    F(dnnl_primitive_desc_query_md)                                                                \
    F(dnnl_primitive_desc_destroy)                                                                 \
    F(dnnl_reorder_primitive_desc_create)                                                          \
    F(dnnl_primitive_create)                                                                       \
    F(dnnl_primitive_execute)                                                                      \
    F(dnnl_primitive_destroy)                                                                      \
    VERSION_FUNCTIONS(F)
#if DNNL_VERSION_MAJOR == 2
#define VERSION_FUNCTIONS(F)                                                                       \
    F(dnnl_memory_desc_init_by_tag) F(dnnl_matmul_desc_init) F(dnnl_primitive_desc_create)
#else
#define VERSION_FUNCTIONS(F)                                                                       \
    F(dnnl_memory_desc_create_with_tag)                                                            \
    F(dnnl_memory_desc_destroy) F(dnnl_matmul_primitive_desc_create)
#endif

static struct {
#define POINTER(name) __typeof__(name) *name;
    FUNCTIONS(POINTER)
#undef POINTER
    void (*omp_set_num_threads)(int);
    int (*omp_get_max_threads)(void);
    dnnl_engine_t engine;
    char version[32];
    int is_available;
} lib;
static pthread_once_t lib_once = PTHREAD_ONCE_INIT;

/* dlsym returns an object pointer, which ISO C does not convert to a function pointer: POSIX says their bytes are the same. */
static int load_symbol(void *handle, const char *name, void *function, size_t size)
{
    void *symbol = dlsym(handle, name);
    if (!symbol || size != sizeof symbol)
        return 0;
    memcpy(function, &symbol, size);
    return 1;
}

#define STRING_(x) #x
#define STRING(x)  STRING_(x)

static void load(void)
{
    void *handle = dlopen("libdnnl.so." STRING(DNNL_VERSION_MAJOR), RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return;
    int ok = 1;
#define LOAD(name) ok &= load_symbol(handle, #name, &lib.name, sizeof lib.name);
    FUNCTIONS(LOAD)
#undef LOAD
    if (!ok)
        return;
    const dnnl_version_t *v = lib.dnnl_version();
    if (v->major != DNNL_VERSION_MAJOR ||
        lib.dnnl_engine_create(&lib.engine, dnnl_cpu, 0) != dnnl_success)
        return;
    snprintf(lib.version, sizeof lib.version, "%d.%d.%d", v->major, v->minor, v->patch);
    /* Through oneDNN's handle: its own OpenMP runtime, whichever else the process may have. Builds without OpenMP have none. */
    load_symbol(handle, "omp_set_num_threads", &lib.omp_set_num_threads,
                sizeof lib.omp_set_num_threads);
    load_symbol(handle, "omp_get_max_threads", &lib.omp_get_max_threads,
                sizeof lib.omp_get_max_threads);
    lib.is_available = 1;
}

int sffn_onednn_available(void)
{
    return pthread_once(&lib_once, load) == 0 && lib.is_available;
}

const char *sffn_onednn_version(void)
{
    return sffn_onednn_available() ? lib.version : "";
}

int sffn_onednn_set_threads(int n_threads)
{
    if (n_threads < 1 || !sffn_onednn_available() || !lib.omp_set_num_threads ||
        !lib.omp_get_max_threads)
        return 0;
    int before = lib.omp_get_max_threads();
    lib.omp_set_num_threads(n_threads);
    return before;
}

int sffn_onednn_sgemm(int b_is_kn, size_t m, size_t n, size_t k, const float *a, size_t lda,
                      const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    return sffn_onednn_available() &&
           lib.dnnl_sgemm('N', b_is_kn ? 'N' : 'T', (dnnl_dim_t)m, (dnnl_dim_t)n, (dnnl_dim_t)k,
                          1.0f, a, (dnnl_dim_t)lda, b, (dnnl_dim_t)ldb, beta, c,
                          (dnnl_dim_t)ldc) == dnnl_success;
}

/* ---- v2 and v3 ---- */
#if DNNL_VERSION_MAJOR == 2
/* A memory descriptor is a struct, handed over by pointer. */
typedef const dnnl_memory_desc_t *md_ref;
struct md {
    dnnl_memory_desc_t value;
};

static int md_init(struct md *md, size_t rows, size_t cols, dnnl_data_type_t type,
                   dnnl_format_tag_t tag)
{
    const dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)cols};
    return lib.dnnl_memory_desc_init_by_tag(&md->value, 2, dims, type, tag) == dnnl_success;
}

static void md_free(struct md *md)
{
    (void)md;
}

static md_ref md_get(const struct md *md)
{
    return &md->value;
}

static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, md_ref src, md_ref weights, md_ref dst)
{
    dnnl_matmul_desc_t desc;
    dnnl_status_t status = lib.dnnl_matmul_desc_init(&desc, src, weights, NULL, dst);
    return status == dnnl_success
               ? lib.dnnl_primitive_desc_create(pd, &desc, NULL, lib.engine, NULL)
               : status;
}
#else
/* A memory descriptor is an opaque handle that has to be destroyed. */
typedef const_dnnl_memory_desc_t md_ref;
struct md {
    dnnl_memory_desc_t value;
};

static int md_init(struct md *md, size_t rows, size_t cols, dnnl_data_type_t type,
                   dnnl_format_tag_t tag)
{
    const dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)cols};
    return lib.dnnl_memory_desc_create_with_tag(&md->value, 2, dims, type, tag) == dnnl_success;
}

static void md_free(struct md *md)
{
    if (md->value)
        lib.dnnl_memory_desc_destroy(md->value);
}

static md_ref md_get(const struct md *md)
{
    return md->value;
}

static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, md_ref src, md_ref weights, md_ref dst)
{
    return lib.dnnl_matmul_primitive_desc_create(pd, lib.engine, src, weights, NULL, dst, NULL);
}
#endif

/* ---- matmul ---- */

struct sffn_onednn {
    dnnl_stream_t stream;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    dnnl_memory_t src, weights, dst;
    void *packed;
    size_t packed_bytes;
    const char *name;
};

static int reorder(const struct sffn_onednn *m, md_ref from_md, const void *from, md_ref to_md)
{
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_memory_t source = NULL;
    /* oneDNN's handles are not const; a reorder only reads its source. */
    int ok = lib.dnnl_memory_create(&source, from_md, lib.engine, (void *)(uintptr_t)from) ==
                 dnnl_success &&
             lib.dnnl_reorder_primitive_desc_create(&desc, from_md, lib.engine, to_md, lib.engine,
                                                    NULL) == dnnl_success &&
             lib.dnnl_primitive_create(&primitive, desc) == dnnl_success;
    if (ok) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, m->weights}};
        ok = lib.dnnl_primitive_execute(primitive, m->stream, 2, args) == dnnl_success &&
             lib.dnnl_stream_wait(m->stream) == dnnl_success;
    }
    if (primitive)
        lib.dnnl_primitive_destroy(primitive);
    if (desc)
        lib.dnnl_primitive_desc_destroy(desc);
    if (source)
        lib.dnnl_memory_destroy(source);
    return ok;
}

static int build(struct sffn_onednn *m, const struct md *src, const struct md *plain,
                 const struct md *any, const struct md *dst, const void *weights)
{
    if (matmul_desc(&m->desc, md_get(src), md_get(any), md_get(dst)) != dnnl_success)
        return 0;
    md_ref packed_md = lib.dnnl_primitive_desc_query_md(m->desc, dnnl_query_weights_md, 0);
    if (!packed_md)
        return 0;
    m->packed_bytes = lib.dnnl_memory_desc_get_size(packed_md);
    m->packed = sffn_pages_alloc(m->packed_bytes, 1);
    if (!m->packed)
        return 0;
    if (lib.dnnl_primitive_desc_query(m->desc, dnnl_query_impl_info_str, 0, (void *)&m->name) !=
        dnnl_success)
        m->name = "unknown";
    return lib.dnnl_stream_create(&m->stream, lib.engine, dnnl_stream_default_flags) ==
               dnnl_success &&
           lib.dnnl_memory_create(&m->src, md_get(src), lib.engine, DNNL_MEMORY_NONE) ==
               dnnl_success &&
           lib.dnnl_memory_create(&m->dst, md_get(dst), lib.engine, DNNL_MEMORY_NONE) ==
               dnnl_success &&
           lib.dnnl_memory_create(&m->weights, packed_md, lib.engine, m->packed) == dnnl_success &&
           reorder(m, md_get(plain), weights, packed_md) &&
           lib.dnnl_primitive_create(&m->primitive, m->desc) == dnnl_success;
}

struct sffn_onednn *sffn_onednn_create(int kind, size_t m, size_t n, size_t k, const void *weights)
{
    static const struct {
        dnnl_data_type_t src, weights, dst;
    } types[] = {{dnnl_f32, dnnl_f32, dnnl_f32},
                 {dnnl_bf16, dnnl_bf16, dnnl_f32},
                 {dnnl_s8, dnnl_s8, dnnl_s32},
                 {dnnl_u8, dnnl_s8, dnnl_s32}};
    if (kind < 0 || (size_t)kind >= sizeof types / sizeof types[0] || !weights ||
        !sffn_onednn_available())
        return NULL;
    struct sffn_onednn *matmul = calloc(1, sizeof *matmul);
    if (!matmul)
        return NULL;
    struct md src, plain, any, dst;
    memset(&src, 0, sizeof src);
    plain = any = dst = src;
    /* oneDNN's weights are [k][n]: ours, [n][k], are those with the axes swapped. */
    int ok = md_init(&src, m, k, types[kind].src, dnnl_ab) &&
             md_init(&plain, k, n, types[kind].weights, dnnl_ba) &&
             md_init(&any, k, n, types[kind].weights, dnnl_format_tag_any) &&
             md_init(&dst, m, n, types[kind].dst, dnnl_ab) &&
             build(matmul, &src, &plain, &any, &dst, weights);
    md_free(&src);
    md_free(&plain);
    md_free(&any);
    md_free(&dst);
    if (!ok) {
        sffn_onednn_destroy(matmul);
        return NULL;
    }
    return matmul;
}

int sffn_onednn_run(struct sffn_onednn *matmul, const void *src, void *dst)
{
    if (lib.dnnl_memory_set_data_handle(matmul->src, (void *)(uintptr_t)src) != dnnl_success ||
        lib.dnnl_memory_set_data_handle(matmul->dst, dst) != dnnl_success)
        return 0;
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, matmul->src},
                                    {DNNL_ARG_WEIGHTS, matmul->weights},
                                    {DNNL_ARG_DST, matmul->dst}};
    return lib.dnnl_primitive_execute(matmul->primitive, matmul->stream, 3, args) == dnnl_success &&
           lib.dnnl_stream_wait(matmul->stream) == dnnl_success;
}

void sffn_onednn_destroy(struct sffn_onednn *matmul)
{
    if (!matmul)
        return;
    if (matmul->primitive)
        lib.dnnl_primitive_destroy(matmul->primitive);
    if (matmul->src)
        lib.dnnl_memory_destroy(matmul->src);
    if (matmul->dst)
        lib.dnnl_memory_destroy(matmul->dst);
    if (matmul->weights)
        lib.dnnl_memory_destroy(matmul->weights);
    if (matmul->stream)
        lib.dnnl_stream_destroy(matmul->stream);
    if (matmul->desc)
        lib.dnnl_primitive_desc_destroy(matmul->desc);
    sffn_pages_free(matmul->packed, matmul->packed_bytes);
    free(matmul);
}

const char *sffn_onednn_name(const struct sffn_onednn *matmul)
{
    return matmul->name;
}

size_t sffn_onednn_weight_bytes(const struct sffn_onednn *matmul)
{
    return matmul->packed_bytes;
}

#else /* without oneDNN */

int sffn_onednn_available(void)
{
    return 0;
}

const char *sffn_onednn_version(void)
{
    return "";
}

int sffn_onednn_set_threads(int n_threads)
{
    (void)n_threads;
    return 0;
}

int sffn_onednn_sgemm(int b_is_kn, size_t m, size_t n, size_t k, const float *a, size_t lda,
                      const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    (void)b_is_kn, (void)m, (void)n, (void)k, (void)a, (void)lda, (void)b, (void)ldb, (void)beta,
        (void)c, (void)ldc;
    return 0;
}

struct sffn_onednn *sffn_onednn_create(int kind, size_t m, size_t n, size_t k, const void *weights)
{
    (void)kind, (void)m, (void)n, (void)k, (void)weights;
    return NULL;
}

int sffn_onednn_run(struct sffn_onednn *matmul, const void *src, void *dst)
{
    (void)matmul, (void)src, (void)dst;
    return 0;
}

void sffn_onednn_destroy(struct sffn_onednn *matmul)
{
    (void)matmul;
}

const char *sffn_onednn_name(const struct sffn_onednn *matmul)
{
    (void)matmul;
    return "";
}

size_t sffn_onednn_weight_bytes(const struct sffn_onednn *matmul)
{
    (void)matmul;
    return 0;
}
#endif
