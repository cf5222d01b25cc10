/* peer_openblas.c  The layer through OpenBLAS: cblas_sgemv for one token, cblas_sgemm for several. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/memory.h"
#include "peer.h"

/* CBLAS's values. */
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

/* Most builds count in 32 bits; numpy's and scipy's own count in 64 and rename everything. */
typedef void sgemv32(int, int, int, int, float, const float *, int, const float *, int, float,
                     float *, int);
typedef void sgemv64(int, int, int64_t, int64_t, float, const float *, int64_t, const float *,
                     int64_t, float, float *, int64_t);
typedef void sgemm32(int, int, int, int, int, int, float, const float *, int, const float *, int,
                     float, float *, int);
typedef void sgemm64(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                     const float *, int64_t, float, float *, int64_t);

struct run {
    sgemv32 *sgemv;
    sgemm32 *sgemm;
    sgemv64 *sgemv_64;
    sgemm64 *sgemm_64;
    size_t n_tokens, d_model, d_ff;
    const float *x;
    float **copies; /* gate, up, down in one block each */
    float *g, *u, *y;
};

/* out[n_tokens][n] = in[n_tokens][k] times w[n][k] transposed */
static void product(const struct run *r, const float *w, size_t n, size_t k, const float *in,
                    float *out)
{
    const int n32 = (int)n, k32 = (int)k, t32 = (int)r->n_tokens;
    const int64_t n64 = (int64_t)n, k64 = (int64_t)k, t64 = (int64_t)r->n_tokens;
    if (r->n_tokens == 1 && r->sgemv)
        r->sgemv(ROW_MAJOR, NO_TRANS, n32, k32, 1.0f, w, k32, in, 1, 0.0f, out, 1);
    else if (r->n_tokens == 1)
        r->sgemv_64(ROW_MAJOR, NO_TRANS, n64, k64, 1.0f, w, k64, in, 1, 0.0f, out, 1);
    else if (r->sgemm)
        r->sgemm(ROW_MAJOR, NO_TRANS, TRANS, t32, n32, k32, 1.0f, in, k32, w, k32, 0.0f, out, n32);
    else
        r->sgemm_64(ROW_MAJOR, NO_TRANS, TRANS, t64, n64, k64, 1.0f, in, k64, w, k64, 0.0f, out,
                    n64);
}

static int forward(struct peer *peer, size_t turn)
{
    struct run *r = peer->state;
    const float *gate = r->copies[turn % peer->n_copies], *up = gate + r->d_ff * r->d_model,
                *down = up + r->d_ff * r->d_model;
    product(r, gate, r->d_ff, r->d_model, r->x, r->g);
    product(r, up, r->d_ff, r->d_model, r->x, r->u);
    for (size_t i = 0; i < r->n_tokens * r->d_ff; i++)
        r->g[i] = r->g[i] > 0.0f ? r->g[i] * r->u[i] : 0.0f;
    product(r, down, r->d_model, r->d_ff, r->g, r->y);
    return 1;
}

static const float *result(struct peer *peer)
{
    return ((struct run *)peer->state)->y;
}

static void close_run(struct peer *peer)
{
    struct run *r = peer->state;
    for (size_t i = 0; i < peer->n_copies; i++)
        sffn_pages_free(r->copies[i], (size_t)peer->weight_bytes);
    free(r->copies);
    free(r->g);
    free(r->u);
    free(r->y);
    free(r);
}

/* A function pointer from dlsym(), by the detour that POSIX asks for. */
static void find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
}

static int find_functions(struct run *r, struct peer *peer, const struct peer_layer *of)
{
    void (*set_threads)(int) = NULL;
    char *(*get_config)(void) = NULL;
    void *library = peer_load(of->folders, "libopenblas.so.0,libopenblas.so,libscipy_openblas*.so,"
                                           "libopenblas*.so*");
    if (!library)
        return 0;
    find(library, "cblas_sgemv", &r->sgemv);
    find(library, "cblas_sgemm", &r->sgemm);
    find(library, "openblas_set_num_threads", &set_threads);
    find(library, "openblas_get_config", &get_config);
    if (!r->sgemv || !r->sgemm) {
        find(library, "scipy_cblas_sgemv64_", &r->sgemv_64);
        find(library, "scipy_cblas_sgemm64_", &r->sgemm_64);
        find(library, "scipy_openblas_set_num_threads64_", &set_threads);
        find(library, "scipy_openblas_get_config64_", &get_config);
        r->sgemv = NULL;
        r->sgemm = NULL;
        if (!r->sgemv_64 || !r->sgemm_64)
            return 0;
    }
    if (set_threads)
        set_threads((int)of->n_threads);
    if (get_config)
        snprintf(peer->version, sizeof peer->version, "%s", get_config());
    return set_threads != NULL;
}

static int create_copies(struct run *r, struct peer *peer, const struct peer_layer *of)
{
    const size_t matrix = r->d_ff * r->d_model, n = peer_copies(of, peer->weight_bytes);
    r->copies = calloc(n + 1, sizeof *r->copies);
    r->g = malloc(r->n_tokens * r->d_ff * sizeof *r->g);
    r->u = malloc(r->n_tokens * r->d_ff * sizeof *r->u);
    r->y = malloc(r->n_tokens * r->d_model * sizeof *r->y);
    if (n == 0 || !r->copies || !r->g || !r->u || !r->y)
        return 0;
    for (size_t i = 0; i < n; i++) {
        r->copies[i] = sffn_pages_alloc((size_t)peer->weight_bytes, 1);
        if (!r->copies[i])
            return 0;
        peer->n_copies = i + 1;
        for (int m = 0; m < 3 && i == 0; m++) {
            float *plain = layer_decode(of->layer, (enum layer_matrix)m);
            if (!plain)
                return 0;
            memcpy(r->copies[0] + (size_t)m * matrix, plain, matrix * sizeof *plain);
            free(plain);
        }
        if (i > 0)
            memcpy(r->copies[i], r->copies[0], (size_t)peer->weight_bytes);
    }
    return 1;
}

int peer_openblas_open(struct peer *peer, const struct peer_layer *of, const char *dtype)
{
    (void)dtype; /* it has only this one */
    struct run *r = calloc(1, sizeof *r);
    peer->state = r;
    snprintf(peer->how, sizeof peer->how, "libopenblas is not found");
    if (!r || !find_functions(r, peer, of)) {
        free(r);
        return 0;
    }
    r->n_tokens = of->n_tokens;
    r->d_model = of->layer->d_model;
    r->d_ff = of->layer->d_ff;
    r->x = of->x;
    peer->weight_bytes = 3 * sizeof(float) * (uint64_t)r->d_ff * r->d_model;
    peer->forward = forward;
    peer->result = result;
    peer->close = close_run;
    if (!create_copies(r, peer, of)) {
        snprintf(peer->how, sizeof peer->how, "no memory");
        close_run(peer);
        return 0;
    }
    snprintf(peer->how, sizeof peer->how, "%s", r->n_tokens == 1 ? "cblas_sgemv" : "cblas_sgemm");
    return 1;
}
