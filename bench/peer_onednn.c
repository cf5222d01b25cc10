#include "peer_onednn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ffn/dense_onednn.h"
#include "report.h"

#define MAX_COPIES 2048u /* of tiny layers */

/* Weights of one matrix as oneDNN gets them: [n][k]. */
struct source {
    size_t n, k;
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
    float bias;
    struct source gate, up, down;
    struct copy *copies;
    size_t n_copies;
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

/* Decodes a matrix of stored rows and hands it over as [n][k]; transposed when stored the other way round. */
static int make_source(struct source *s, int kind, const uint8_t *stored, size_t row_bytes,
                       int32_t dtype, size_t n, size_t k, int is_transposed)
{
    const size_t stored_rows = is_transposed ? k : n, stored_cols = is_transposed ? n : k,
                 bytes = element_bytes(kind);
    float *row = malloc((n > k ? n : k) * sizeof *row), *plain = NULL;
    s->n = n;
    s->k = k;
    s->data = malloc(n * k * bytes);
    s->scales = malloc(n * sizeof *s->scales);
    if (is_transposed)
        plain = malloc(n * k * sizeof *plain);
    int ok = row && s->data && s->scales && (plain || !is_transposed);
    for (size_t r = 0; ok && r < stored_rows; r++) {
        sffn_dtype_to_f32(dtype, stored + r * row_bytes, stored_cols, row);
        if (!is_transposed)
            s->scales[r] = convert_row(kind, row, k, (char *)s->data + r * k * bytes);
        else
            for (size_t c = 0; c < stored_cols; c++)
                plain[c * k + r] = row[c];
    }
    for (size_t r = 0; ok && is_transposed && r < n; r++)
        s->scales[r] = convert_row(kind, plain + r * k, k, (char *)s->data + r * k * bytes);
    free(row);
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
                float gf = (float)gi[i] * r->gate.scales[i] * r->x_scale[t] + r->bias;
                float uf = (float)ui[i] * r->up.scales[i] * r->x_scale[t];
                h[i] = gf > 0.0f ? gf * uf : 0.0f;
            }
        } else {
            for (size_t i = 0; i < r->d_ff; i++) {
                float gf = g[i] + r->bias;
                h[i] = gf > 0.0f ? gf * u[i] : 0.0f;
            }
        }
    }
}

static int forward(struct run *r, const struct copy *c)
{
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

static int run_create(struct run *r, const struct layer *l, uint64_t cold_bytes,
                      uint64_t most_bytes)
{
    const size_t bytes = element_bytes(r->kind), layer_bytes = 3 * r->d_model * r->d_ff * bytes;
    r->x_typed = aligned(r->n_tokens * r->d_model * bytes);
    r->h_typed = aligned(r->n_tokens * r->d_ff * bytes);
    r->g = aligned(r->n_tokens * r->d_ff * sizeof(float));
    r->u = aligned(r->n_tokens * r->d_ff * sizeof(float));
    r->h = aligned(r->n_tokens * r->d_ff * sizeof(float));
    r->y = aligned(r->n_tokens * r->d_model * sizeof(float));
    r->x_scale = malloc(r->n_tokens * sizeof(float));
    r->h_scale = malloc(r->n_tokens * sizeof(float));
    size_t wanted =
        cold_bytes > layer_bytes ? (size_t)((cold_bytes + layer_bytes - 1) / layer_bytes) : 1;
    wanted = wanted < MAX_COPIES ? wanted : MAX_COPIES;
    if ((wanted + 1) * layer_bytes > most_bytes)
        wanted = most_bytes / layer_bytes > 1 ? (size_t)(most_bytes / layer_bytes) - 1 : 0;
    r->copies = calloc(wanted + 1, sizeof *r->copies);
    if (wanted == 0 || !r->x_typed || !r->h_typed || !r->g || !r->u || !r->h || !r->y ||
        !r->x_scale || !r->h_scale || !r->copies ||
        !make_source(&r->gate, r->kind, l->gate, l->row_bytes, l->dtype, r->d_ff, r->d_model, 0) ||
        !make_source(&r->up, r->kind, l->up, l->row_bytes, l->dtype, r->d_ff, r->d_model, 0) ||
        !make_source(&r->down, r->kind, l->down, l->down_row_bytes, l->dtype, r->d_model, r->d_ff,
                     !l->down_is_columns))
        return 0;
    for (size_t i = 0; i < wanted; i++) {
        struct copy *c = &r->copies[i];
        progress("oneDNN baseline: copy %zu of %zu", i + 1, wanted);
        c->gate = sffn_onednn_create(r->kind, r->n_tokens, r->d_ff, r->d_model, r->gate.data);
        c->up = sffn_onednn_create(r->kind, r->n_tokens, r->d_ff, r->d_model, r->up.data);
        c->down = sffn_onednn_create(r->kind, r->n_tokens, r->d_model, r->d_ff, r->down.data);
        r->n_copies = i + 1; /* to be destroyed, complete or not */
        if (!c->gate || !c->up || !c->down)
            return 0;
    }
    return 1;
}

static void run_destroy(struct run *r)
{
    for (size_t i = 0; i < r->n_copies; i++) {
        sffn_onednn_destroy(r->copies[i].gate);
        sffn_onednn_destroy(r->copies[i].up);
        sffn_onednn_destroy(r->copies[i].down);
    }
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
}

/* Median time of one type; NaN when oneDNN has no implementation of it here. */
static double measure(struct run *r, uint64_t repeats, struct samples *samples)
{
    samples->n = 0;
    samples->total_ns = 0.0;
    for (size_t i = 0; i < 3 + r->n_copies; i++) /* JIT, page tables, OpenMP's threads */
        if (!forward(r, &r->copies[i % r->n_copies]))
            return (double)NAN;
    const double begin = now_ns();
    for (size_t i = 0; samples->n < MAX_SAMPLES; i++) {
        const double elapsed = now_ns() - begin;
        if (repeats > 0 ? i >= repeats : (i >= 30 && elapsed > 0.5e9) || (i >= 3 && elapsed > 3e9))
            break;
        const double start = now_ns();
        if (!forward(r, &r->copies[i % r->n_copies]))
            return (double)NAN;
        samples_add(samples, now_ns() - start);
    }
    return samples_summary(samples).median;
}

void peer_onednn_measure(struct peer_onednn *result, const struct layer *l, const struct inputs *in,
                         uint32_t n_threads, uint64_t cold_bytes, uint64_t most_bytes,
                         uint64_t repeats)
{
    static const struct {
        int kind;
        const char *name;
    } kinds[] = {{SFFN_ONEDNN_F32, "f32"}, {SFFN_ONEDNN_BF16, "bf16"}, {SFFN_ONEDNN_S8S8, "s8"}};
    enum { N_KINDS = sizeof kinds / sizeof kinds[0] };
    double medians[N_KINDS], errors[N_KINDS];
    char names[N_KINDS][64] = {"", "", ""};
    struct samples samples;
    result->median_ns = (double)NAN;
    if (!sffn_onednn_available()) {
        snprintf(result->what, sizeof result->what,
                 "oneDNN: not built in, or not found at run time");
        return;
    }
    /* The error shows that the baseline computes the layer; few tokens tell as much as many. */
    const size_t n_checked = in->n_tokens < 4 ? in->n_tokens : 4;
    struct inputs plain = *in;
    plain.gate_bias = NULL;
    double *reference = malloc(n_checked * l->d_model * sizeof *reference);
    if (!reference || !samples_init(&samples) ||
        !layer_reference(l, &plain, n_checked, NULL, reference)) {
        free(reference);
        snprintf(result->what, sizeof result->what, "oneDNN: no memory");
        return;
    }
    const int threads_before = sffn_onednn_set_threads((int)n_threads);
    int best = -1;
    for (int i = 0; i < N_KINDS; i++) {
        struct run r = {.kind = kinds[i].kind,
                        .n_tokens = in->n_tokens,
                        .d_model = l->d_model,
                        .d_ff = l->d_ff,
                        .x = in->x};
        medians[i] = errors[i] = (double)NAN;
        if (run_create(&r, l, cold_bytes, most_bytes)) {
            progress("oneDNN baseline: measuring %s", kinds[i].name);
            snprintf(names[i], sizeof names[i], "%.63s", sffn_onednn_name(r.copies[0].gate));
            medians[i] = measure(&r, repeats, &samples);
            errors[i] = relative_error(r.y, reference, n_checked * l->d_model);
        }
        progress(NULL);
        run_destroy(&r);
        if (errors[i] > 0.1) { /* not this layer: not to be compared with */
            fprintf(stderr, "sffn-bench: oneDNN %s is left out, its relative error is %.3g\n",
                    kinds[i].name, errors[i]);
            medians[i] = (double)NAN;
        }
        if (isfinite(medians[i]) && (best < 0 || medians[i] < medians[best]))
            best = i;
    }
    if (threads_before > 0)
        sffn_onednn_set_threads(threads_before);
    samples_free(&samples);
    free(reference);
    if (best < 0) {
        snprintf(result->what, sizeof result->what,
                 "oneDNN %s: no implementation here, or no memory", sffn_onednn_version());
        return;
    }
    result->median_ns = medians[best];
    size_t used = (size_t)snprintf(result->what, sizeof result->what,
                                   "oneDNN %s, %s, error %.2g; ms:", sffn_onednn_version(),
                                   names[best], errors[best]);
    for (int i = 0; i < N_KINDS && used < sizeof result->what; i++)
        if (isfinite(medians[i]))
            used += (size_t)snprintf(result->what + used, sizeof result->what - used, " %s %.3f",
                                     kinds[i].name, medians[i] * 1e-6);
}
