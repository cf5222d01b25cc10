/* peer_onednn.c  The layer through oneDNN: f32, bf16, and s8 with a scale per row and token. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ffn/dense_onednn.h"
#include "peer.h"

/* Weights of one matrix as oneDNN gets them: [n][k]. */
struct source {
    void *data;
    float *scales; /* s8: value = q * scales[row] */
};

struct copy {
    struct sffn_onednn *gate, *up, *down;
};

struct run {
    int kind;
    size_t n_tokens, d_model, d_ff;
    const float *x; /* [n_tokens][d_model] */
    int threads_before;
    struct source gate, up, down;
    struct copy *copies;
    void *x_typed, *h_typed;
    float *g, *u, *h, *y; /* g and u hold s32 products for s8 */
    float *x_scale, *h_scale;
};

static size_t element_bytes(int kind)
{
    return kind == SFFN_ONEDNN_F32 ? 4 : kind == SFFN_ONEDNN_BF16 ? 2 : 1;
}

static uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* One row of floats as the kind wants it. Returns the scale of s8. */
static float convert_row(int kind, const float *from, size_t n, void *to)
{
    if (kind == SFFN_ONEDNN_F32) {
        memcpy(to, from, n * sizeof *from);
    } else if (kind == SFFN_ONEDNN_BF16) {
        uint16_t *out = to;
        for (size_t i = 0; i < n; i++)
            out[i] = to_bf16(from[i]);
    } else {
        int8_t *out = to;
        float most = 0.0f;
        for (size_t i = 0; i < n; i++)
            most = fmaxf(most, fabsf(from[i]));
        const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
        for (size_t i = 0; i < n; i++)
            out[i] = (int8_t)lrintf(from[i] * inverse);
        return most / 127.0f;
    }
    return 1.0f;
}

static int make_source(struct source *s, int kind, const struct layer *l, enum layer_matrix which)
{
    const size_t n = which == LAYER_DOWN ? l->d_model : l->d_ff,
                 k = which == LAYER_DOWN ? l->d_ff : l->d_model, bytes = element_bytes(kind);
    float *plain = layer_decode(l, which);
    s->data = malloc(n * k * bytes);
    s->scales = malloc(n * sizeof *s->scales);
    const int ok = plain && s->data && s->scales;
    for (size_t r = 0; ok && r < n; r++)
        s->scales[r] = convert_row(kind, plain + r * k, k, (char *)s->data + r * k * bytes);
    free(plain);
    return ok;
}

static void source_free(struct source *s)
{
    free(s->data);
    free(s->scales);
    memset(s, 0, sizeof *s);
}

/* h = relu(g + bias) * u in floats; products of s8 are integers until here. */
static void activate(struct run *r)
{
    for (size_t t = 0; t < r->n_tokens; t++) {
        float *g = r->g + t * r->d_ff, *u = r->u + t * r->d_ff, *h = r->h + t * r->d_ff;
        if (r->kind == SFFN_ONEDNN_S8S8) {
            const int32_t *gi = (const int32_t *)(const void *)g,
                          *ui = (const int32_t *)(const void *)u;
            for (size_t i = 0; i < r->d_ff; i++) {
                float gf = (float)gi[i] * r->gate.scales[i] * r->x_scale[t];
                float uf = (float)ui[i] * r->up.scales[i] * r->x_scale[t];
                h[i] = gf > 0.0f ? gf * uf : 0.0f;
            }
        } else {
            for (size_t i = 0; i < r->d_ff; i++) {
                float gf = g[i];
                h[i] = gf > 0.0f ? gf * u[i] : 0.0f;
            }
        }
    }
}

static int forward(struct peer *peer, size_t turn)
{
    struct run *r = peer->state;
    const struct copy *c = &r->copies[turn % peer->n_copies];
    const size_t bytes = element_bytes(r->kind);
    for (size_t t = 0; t < r->n_tokens; t++)
        r->x_scale[t] = convert_row(r->kind, r->x + t * r->d_model, r->d_model,
                                    (char *)r->x_typed + t * r->d_model * bytes);
    if (!sffn_onednn_run(c->gate, r->x_typed, r->g) || !sffn_onednn_run(c->up, r->x_typed, r->u))
        return 0;
    activate(r);
    for (size_t t = 0; t < r->n_tokens; t++)
        r->h_scale[t] = convert_row(r->kind, r->h + t * r->d_ff, r->d_ff,
                                    (char *)r->h_typed + t * r->d_ff * bytes);
    if (!sffn_onednn_run(c->down, r->h_typed, r->y))
        return 0;
    if (r->kind == SFFN_ONEDNN_S8S8)
        for (size_t t = 0; t < r->n_tokens; t++) {
            float *y = r->y + t * r->d_model;
            for (size_t i = 0; i < r->d_model; i++) {
                int32_t product;
                memcpy(&product, &y[i], sizeof product);
                y[i] = (float)product * r->down.scales[i] * r->h_scale[t];
            }
        }
    return 1;
}

static void *aligned(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static int create_copies(struct peer *peer, const struct peer_layer *of)
{
    struct run *r = peer->state;
    const struct layer *l = of->layer;
    const size_t bytes = element_bytes(r->kind), widest = r->d_ff * sizeof(float);
    r->x_typed = aligned(r->n_tokens * r->d_model * bytes);
    r->h_typed = aligned(r->n_tokens * r->d_ff * bytes);
    r->g = aligned(r->n_tokens * widest);
    r->u = aligned(r->n_tokens * widest);
    r->h = aligned(r->n_tokens * widest);
    r->y = aligned(r->n_tokens * r->d_model * sizeof(float));
    r->x_scale = malloc(r->n_tokens * sizeof(float));
    r->h_scale = malloc(r->n_tokens * sizeof(float));
    peer->weight_bytes = 3 * r->d_model * r->d_ff * bytes;
    const size_t wanted = peer_copies(of, peer->weight_bytes);
    r->copies = calloc(wanted + 1, sizeof *r->copies);
    if (wanted == 0 || !r->x_typed || !r->h_typed || !r->g || !r->u || !r->h || !r->y ||
        !r->x_scale || !r->h_scale || !r->copies ||
        !make_source(&r->gate, r->kind, l, LAYER_GATE) ||
        !make_source(&r->up, r->kind, l, LAYER_UP) ||
        !make_source(&r->down, r->kind, l, LAYER_DOWN)) {
        snprintf(peer->how, sizeof peer->how, "no memory");
        return 0;
    }
    for (size_t i = 0; i < wanted; i++) {
        struct copy *c = &r->copies[i];
        progress("oneDNN: copy %zu of %zu", i + 1, wanted);
        c->gate = sffn_onednn_create(r->kind, r->n_tokens, r->d_ff, r->d_model, r->gate.data);
        c->up = sffn_onednn_create(r->kind, r->n_tokens, r->d_ff, r->d_model, r->up.data);
        c->down = sffn_onednn_create(r->kind, r->n_tokens, r->d_model, r->d_ff, r->down.data);
        peer->n_copies = i + 1; /* to be destroyed, complete or not */
        if (!c->gate || !c->up || !c->down) {
            snprintf(peer->how, sizeof peer->how, "no implementation here, or no memory");
            return 0;
        }
    }
    snprintf(peer->how, sizeof peer->how, "%s", sffn_onednn_name(r->copies[0].gate));
    struct source *sources[3] = {&r->gate, &r->up, &r->down};
    for (int i = 0; i < 3; i++) { /* only their scales are still needed */
        free(sources[i]->data);
        sources[i]->data = NULL;
    }
    return 1;
}

static void close_run(struct peer *peer)
{
    struct run *r = peer->state;
    for (size_t i = 0; i < peer->n_copies; i++) {
        sffn_onednn_destroy(r->copies[i].gate);
        sffn_onednn_destroy(r->copies[i].up);
        sffn_onednn_destroy(r->copies[i].down);
    }
    if (r->threads_before > 0)
        sffn_onednn_set_threads(r->threads_before);
    source_free(&r->gate);
    source_free(&r->up);
    source_free(&r->down);
    free(r->copies);
    free(r->x_typed);
    free(r->h_typed);
    free(r->g);
    free(r->u);
    free(r->h);
    free(r->y);
    free(r->x_scale);
    free(r->h_scale);
    free(r);
}

static const float *result(struct peer *peer)
{
    return ((struct run *)peer->state)->y;
}

int peer_onednn_open(struct peer *peer, const struct peer_layer *of, const char *dtype)
{
    struct run *r = calloc(1, sizeof *r);
    peer->state = r;
    snprintf(peer->version, sizeof peer->version, "%s", sffn_onednn_version());
    if (!r || !sffn_onednn_available()) {
        snprintf(peer->how, sizeof peer->how, "not built in, or not found at run time");
        free(r);
        return 0;
    }
    r->kind = strcmp(dtype, "f32") == 0    ? SFFN_ONEDNN_F32
              : strcmp(dtype, "bf16") == 0 ? SFFN_ONEDNN_BF16
                                           : SFFN_ONEDNN_S8S8;
    r->n_tokens = of->n_tokens;
    r->d_model = of->layer->d_model;
    r->d_ff = of->layer->d_ff;
    r->x = of->x;
    r->threads_before = sffn_onednn_set_threads((int)of->n_threads);
    peer->forward = forward;
    peer->result = result;
    peer->close = close_run;
    const int ok = create_copies(peer, of);
    progress(NULL);
    if (!ok)
        close_run(peer);
    return ok;
}
