#include "layer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

/* ---- random numbers ---- */

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Mean 0, deviation `deviation`: the sum of eight 16-bit uniforms. */
static void fill_random(float *out, size_t n, float deviation, uint64_t *state)
{
    const float scale = deviation / (65536.0f * 0.81649658f); /* sqrt(8 / 12) */
    for (size_t i = 0; i < n; i++) {
        uint64_t a = next_random(state), b = next_random(state);
        int32_t sum =
            (int32_t)((a & 0xffff) + (a >> 16 & 0xffff) + (a >> 32 & 0xffff) + (a >> 48)) +
            (int32_t)((b & 0xffff) + (b >> 16 & 0xffff) + (b >> 32 & 0xffff) + (b >> 48));
        out[i] = (float)(sum - 4 * 65535) * scale;
    }
}

/* ---- weights ---- */

static uint8_t *random_matrix(size_t n_rows, size_t n_cols, int32_t dtype, float deviation,
                              uint64_t *state, const char *what)
{
    size_t row_bytes = sffn_dtype_row_bytes(dtype, n_cols);
    float *row = malloc(n_cols * sizeof *row);
    uint8_t *matrix = row_bytes > 0 ? malloc(n_rows * row_bytes) : NULL;
    if (!row || !matrix) {
        free(row);
        free(matrix);
        return NULL;
    }
    for (size_t r = 0; r < n_rows; r++) {
        if (r % 1024 == 0)
            progress("making random weights: %s %zu %%", what, 100 * r / n_rows);
        fill_random(row, n_cols, deviation, state);
        sffn_dtype_from_f32(dtype, row, n_cols, matrix + r * row_bytes);
    }
    progress(NULL);
    free(row);
    return matrix;
}

int layer_create(struct layer *l, uint32_t d_model, uint32_t d_ff, int32_t dtype, int for_router)
{
    uint64_t state = 20260101;
    const float in = 1.0f / sqrtf((float)d_model), out = 1.0f / sqrtf((float)d_ff);
    memset(l, 0, sizeof *l);
    l->d_model = d_model;
    l->d_ff = d_ff;
    l->dtype = dtype;
    l->down_is_columns = for_router;
    l->router_dtype = dtype == SFFN_Q4_0
                          ? SFFN_Q8_0
                          : dtype; /* few rows, and they decide: 4 bits would be too coarse */
    const size_t down_cols = for_router ? d_ff : d_model, down_rows = for_router ? d_model : d_ff;
    l->row_bytes = sffn_dtype_row_bytes(dtype, d_model);
    l->down_row_bytes = sffn_dtype_row_bytes(dtype, down_cols);
    l->router_row_bytes = sffn_dtype_row_bytes(l->router_dtype, d_model);
    if (l->row_bytes == 0 || l->down_row_bytes == 0 || (for_router && d_ff % EXPERT_NEURONS != 0)) {
        fprintf(stderr,
                "sffn-bench: d_model %u and d_ff %u are not possible with %s%s: expected multiples "
                "of 32\n",
                d_model, d_ff, sffn_dtype_name(dtype), for_router ? " and experts of 32" : "");
        return 0;
    }
    l->gate = random_matrix(d_ff, d_model, dtype, in, &state, "gate");
    l->up = random_matrix(d_ff, d_model, dtype, in, &state, "up");
    l->down = random_matrix(down_rows, down_cols, dtype, out, &state, "down");
    const uint32_t n_experts = d_ff / EXPERT_NEURONS;
    if (for_router)
        l->router = random_matrix(n_experts, d_model, l->router_dtype, in, &state, "router");
    if (!l->gate || !l->up || !l->down || (for_router && !l->router)) {
        fprintf(stderr, "sffn-bench: no memory for a layer of %u x %u in %s\n", d_model, d_ff,
                sffn_dtype_name(dtype));
        layer_destroy(l);
        return 0;
    }
    l->weight_bytes = 2 * (uint64_t)d_ff * l->row_bytes + (uint64_t)down_rows * l->down_row_bytes;
    l->router_bytes = for_router ? (uint64_t)n_experts * l->router_row_bytes : 0;
    return 1;
}

void layer_destroy(struct layer *l)
{
    free(l->gate);
    free(l->up);
    free(l->down);
    free(l->router);
    memset(l, 0, sizeof *l);
}

float *layer_decode(const struct layer *l, enum layer_matrix which)
{
    const size_t d_model = l->d_model, d_ff = l->d_ff;
    const int is_transposed = which == LAYER_DOWN && !l->down_is_columns;
    const uint8_t *from = which == LAYER_GATE ? l->gate : which == LAYER_UP ? l->up : l->down;
    const size_t row_bytes = which == LAYER_DOWN ? l->down_row_bytes : l->row_bytes,
                 n_stored = which == LAYER_DOWN && l->down_is_columns ? d_model : d_ff,
                 length = which == LAYER_DOWN && l->down_is_columns ? d_ff : d_model;
    enum {
        TOGETHER = 16
    }; /* rows that are transposed at a time: a cache line of each output row */
    float *out = malloc(d_model * d_ff * sizeof *out),
          *rows = malloc(TOGETHER * length * sizeof *rows);
    for (size_t r = 0; out && rows && r < n_stored; r += TOGETHER) {
        const size_t n = n_stored - r < TOGETHER ? n_stored - r : TOGETHER;
        for (size_t i = 0; i < n; i++)
            sffn_dtype_to_f32(l->dtype, from + (r + i) * row_bytes, length,
                              is_transposed ? rows + i * length : out + (r + i) * length);
        for (size_t c = 0; is_transposed && c < length; c++)
            for (size_t i = 0; i < n; i++)
                out[c * n_stored + r + i] = rows[i * length + c];
    }
    if (!rows) {
        free(out);
        out = NULL;
    }
    free(rows);
    return out;
}

/* ---- inputs ---- */

static int compare_floats_descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* A value that exactly k of the n scores exceed. Sorts them. */
static float quantile(float *scores, size_t n, size_t k)
{
    qsort(scores, n, sizeof *scores, compare_floats_descending);
    return k < n ? 0.5f * (scores[k - 1] + scores[k]) : scores[n - 1] - 0.05f;
}

static float *constant(size_t n, float value)
{
    float *v = malloc(n * sizeof *v);
    for (size_t i = 0; v && i < n; i++)
        v[i] = value;
    return v;
}

static size_t count_above(const float *scores, size_t n, float t)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += scores[i] > t;
    return count;
}

/* Draws all inputs and scales them. scores has room for n. */
static sffn_status plant(struct inputs *in, sffn_context *ctx, const sffn_matmul *deciding,
                         uint32_t d_model, size_t n, size_t k, float *scores)
{
    uint64_t state = 7;
    double active = 0.0;
    float first = 0.0f;
    fill_random(in->x, in->n_sets * in->n_tokens * d_model, 1.0f, &state);
    for (size_t i = 0; i < in->n_sets * in->n_tokens; i++) {
        float *x = in->x + i * d_model, scale = 1.0f;
        progress("planting the density: input %zu of %zu", i + 1, in->n_sets * in->n_tokens);
        sffn_status status = sffn_matmul_rows_dot(ctx, deciding, x, d_model, 1, NULL, scores, n);
        if (status != SFFN_OK)
            return status;
        float q = quantile(scores, n, k);
        if (i == 0) {
            first = q;
            if (fabsf(q) < 0.3f)
                in->n_sets = 1; /* a half of the neurons: no scale moves this quantile */
        } else if (fabsf(first) >= 0.3f && q / first > 0.5f && q / first < 2.0f) {
            scale = first / q;
        }
        for (uint32_t j = 0; j < d_model; j++)
            x[j] *= scale;
        active += (double)count_above(scores, n, first / scale);
    }
    progress(NULL);
    in->bias = -first;
    in->density = active / (double)(in->n_sets * in->n_tokens * n);
    return SFFN_OK;
}

int inputs_create(struct inputs *in, sffn_context *ctx, const struct layer *l, double density,
                  size_t wanted_sets, size_t n_tokens, int for_router)
{
    memset(in, 0, sizeof *in);
    const size_t n = for_router ? l->d_ff / EXPERT_NEURONS : l->d_ff;
    size_t k = (size_t)(density * (double)n + 0.5);
    k = k < 1 ? 1 : k > n ? n : k;
    in->n_sets = wanted_sets;
    in->n_tokens = n_tokens;
    in->x = malloc(wanted_sets * n_tokens * l->d_model * sizeof *in->x);
    float *scores = malloc(n * sizeof *scores);
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = (uint32_t)n;
    config.n_cols = l->d_model;
    config.weights.data = for_router ? l->router : l->gate;
    config.weights.dtype = for_router ? l->router_dtype : l->dtype;
    config.storage = SFFN_STORAGE_BORROW;
    sffn_matmul *deciding = NULL;
    sffn_status status =
        in->x && scores ? sffn_matmul_create(ctx, &config, &deciding) : SFFN_ERR_OUT_OF_MEMORY;
    if (status == SFFN_OK)
        status = plant(in, ctx, deciding, l->d_model, n, k, scores);
    sffn_matmul_destroy(deciding);
    free(scores);
    if (status == SFFN_OK) {
        float **bias = for_router ? &in->router_bias : &in->gate_bias;
        *bias = constant(n, in->bias);
        if (!*bias)
            status = SFFN_ERR_OUT_OF_MEMORY;
    }
    if (status != SFFN_OK) {
        fprintf(stderr, "sffn-bench: planting the density: %s: %s\n", sffn_status_name(status),
                sffn_context_last_error(ctx));
        inputs_destroy(in);
        return 0;
    }
    return 1;
}

void inputs_destroy(struct inputs *in)
{
    free(in->x);
    free(in->gate_bias);
    free(in->router_bias);
    free(in->mean);
    memset(in, 0, sizeof *in);
}

/* ---- float64 ---- */

static double dot(const float *w, const float *x, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)w[i] * (double)x[i];
    return sum;
}

int layer_reference(const struct layer *l, const struct inputs *in, size_t n_tokens,
                    const sffn_active_set *active, int is_silu, double *y)
{
    const size_t d_model = l->d_model, d_ff = l->d_ff, widest = d_ff > d_model ? d_ff : d_model;
    float *row = malloc(widest * sizeof *row);
    double *h = calloc(n_tokens * d_ff, sizeof *h);
    if (!row || !h) {
        free(row);
        free(h);
        return 0;
    }
    for (size_t i = 0; i < d_ff; i++) {
        int is_needed = 0;
        if (i % 512 == 0)
            progress("float64 reference: %zu %%", 100 * i / d_ff);
        sffn_dtype_to_f32(l->dtype, l->gate + i * l->row_bytes, d_model, row);
        for (size_t t = 0; t < n_tokens; t++) {
            double g = dot(row, in->x + t * d_model, d_model) +
                       (in->gate_bias ? (double)in->gate_bias[i] : 0.0),
                   s = is_silu ? g / (1.0 + exp(-g)) : fmax(g, 0.0);
            if (active && !sffn_active_set_contains(
                              active, t, (uint32_t)(i / sffn_active_set_block_size(active))))
                s = 0.0;
            h[t * d_ff + i] = s;
            is_needed |= s != 0.0;
        }
        if (!is_needed)
            continue;
        sffn_dtype_to_f32(l->dtype, l->up + i * l->row_bytes, d_model, row);
        for (size_t t = 0; t < n_tokens; t++)
            if (h[t * d_ff + i] != 0.0)
                h[t * d_ff + i] *= dot(row, in->x + t * d_model, d_model);
    }
    memset(y, 0, n_tokens * d_model * sizeof *y);
    for (size_t i = 0; i < (l->down_is_columns ? d_model : d_ff); i++) {
        sffn_dtype_to_f32(l->dtype, l->down + i * l->down_row_bytes,
                          l->down_is_columns ? d_ff : d_model, row);
        for (size_t t = 0; t < n_tokens; t++) {
            const double *ht = h + t * d_ff;
            double *yt = y + t * d_model;
            if (l->down_is_columns)
                for (size_t j = 0; j < d_ff; j++)
                    yt[i] += ht[j] * (double)row[j];
            else if (ht[i] != 0.0)
                for (size_t j = 0; j < d_model; j++)
                    yt[j] += ht[i] * (double)row[j];
        }
    }
    progress(NULL);
    free(row);
    free(h);
    return 1;
}

double relative_error(const float *a, const double *b, size_t n)
{
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return norm > 0.0 ? sqrt(difference / norm) : sqrt(difference);
}
