#include "planted.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* v := R v: always the same signs, then the transform. */
static void rotate(float *v, size_t n)
{
    uint64_t state = 11;
    const float scale = 1.0f / sqrtf((float)n);
    for (size_t i = 0; i < n; i++)
        v[i] = next_random(&state) & 1 ? -v[i] * scale : v[i] * scale;
    for (size_t half = 1; half < n; half *= 2)
        for (size_t i = 0; i < n; i += 2 * half)
            for (size_t j = i; j < i + half; j++) {
                const float a = v[j], b = v[j + half];
                v[j] = a + b;
                v[j + half] = a - b;
            }
}

static size_t stride_of(const sffn_weights *w, size_t n)
{
    return w->row_bytes ? w->row_bytes : sffn_dtype_row_bytes(w->dtype, n);
}

/* One row of `n` real weights in block r % n_blocks of a rotated row. */
static void planted_row(const sffn_weights *from, size_t real_rows, size_t n, size_t r, float *row,
                        size_t d_model)
{
    const size_t n_blocks = d_model / n, real = r / n_blocks % real_rows;
    memset(row, 0, d_model * sizeof *row);
    sffn_dtype_to_f32(from->dtype, (const uint8_t *)from->data + real * stride_of(from, n), n,
                      row + r % n_blocks * n);
    rotate(row, d_model);
}

/* Norms of the down vectors of all real neurons. */
static int down_norms(const sffn_weights *down, size_t n_neurons, size_t n, double *norms)
{
    const int is_columns = down->layout == SFFN_LAYOUT_COLUMNS;
    const size_t n_rows = is_columns ? n : n_neurons, n_cols = is_columns ? n_neurons : n;
    float *row = malloc(n_cols * sizeof *row);
    if (!row)
        return 0;
    memset(norms, 0, n_neurons * sizeof *norms);
    for (size_t r = 0; r < n_rows; r++) {
        sffn_dtype_to_f32(down->dtype, (const uint8_t *)down->data + r * stride_of(down, n_cols),
                          n_cols, row);
        for (size_t j = 0; j < n_cols; j++)
            norms[is_columns ? j : r] += (double)row[j] * (double)row[j];
    }
    for (size_t i = 0; i < n_neurons; i++)
        norms[i] = sqrt(norms[i]);
    free(row);
    return 1;
}

static void random_row(float *row, size_t n, double norm, uint64_t *state)
{
    double sum = 0;
    for (size_t j = 0; j < n; j++) {
        const uint64_t a = next_random(state);
        row[j] = (float)((int)(a & 0xffff) + (int)(a >> 16 & 0xffff) + (int)(a >> 32 & 0xffff) +
                         (int)(a >> 48) - 2 * 65535);
        sum += (double)row[j] * (double)row[j];
    }
    for (size_t j = 0; j < n; j++)
        row[j] *= (float)(norm / sqrt(sum));
}

static int fill_layer(struct layer *l, const sffn_ffn_config *real)
{
    float *row = malloc(l->d_model * sizeof *row);
    double *norms = malloc(real->d_ff * sizeof *norms);
    uint64_t state = 12;
    const int ok = row && norms && down_norms(&real->down, real->d_ff, real->d_model, norms);
    for (size_t r = 0; ok && r < l->d_ff; r++) {
        if (r % 512 == 0)
            progress("planting real rows: %zu %%", 100 * r / l->d_ff);
        planted_row(&real->gate, real->d_ff, real->d_model, r, row, l->d_model);
        sffn_dtype_from_f32(l->dtype, row, l->d_model, l->gate + r * l->row_bytes);
        planted_row(&real->up, real->d_ff, real->d_model, r, row, l->d_model);
        sffn_dtype_from_f32(l->dtype, row, l->d_model, l->up + r * l->row_bytes);
        random_row(row, l->d_model, norms[r / (l->d_model / real->d_model) % real->d_ff], &state);
        sffn_dtype_from_f32(l->dtype, row, l->d_model, l->down + r * l->row_bytes);
    }
    progress(NULL);
    free(row);
    free(norms);
    return ok;
}

int planted_layer_create(struct layer *l, sffn_context *ctx, const char *path, uint32_t d_model,
                         uint32_t d_ff, int32_t dtype)
{
    sffn_model *model = NULL;
    sffn_ffn_config real = SFFN_FFN_CONFIG_INIT;
    memset(l, 0, sizeof *l);
    sffn_status status = sffn_model_open(ctx, path, &model);
    if (status == SFFN_OK)
        status = sffn_model_layer_config(model, PLANTED_LAYER, &real);
    if (status != SFFN_OK) {
        fprintf(stderr, "sffn-bench: --planted: %s: %s\n", sffn_status_name(status),
                sffn_context_last_error(ctx));
        sffn_model_close(model);
        return 0;
    }
    l->d_model = d_model;
    l->d_ff = d_ff;
    l->dtype = dtype;
    l->row_bytes = l->down_row_bytes = sffn_dtype_row_bytes(dtype, d_model);
    l->weight_bytes = 3 * (uint64_t)d_ff * l->row_bytes;
    int ok = (d_model & (d_model - 1)) == 0 && d_model >= real.d_model && l->row_bytes > 0;
    if (!ok) {
        fprintf(stderr,
                "sffn-bench: --planted: d_model is %u; expected a power of two and at least %u\n",
                d_model, real.d_model);
    } else {
        l->gate = malloc(d_ff * l->row_bytes);
        l->up = malloc(d_ff * l->row_bytes);
        l->down = malloc(d_ff * l->row_bytes);
        ok = l->gate && l->up && l->down && fill_layer(l, &real);
        if (!ok)
            fprintf(stderr, "sffn-bench: no memory for a planted layer of %u x %u in %s\n", d_model,
                    d_ff, sffn_dtype_name(dtype));
    }
    sffn_model_close(model);
    if (!ok)
        layer_destroy(l);
    return ok;
}

/* The recorded inputs beside the model: [*n_real][n]. */
static float *read_inputs(const char *model, size_t n, size_t *n_real)
{
    char path[4096];
    const char *slash = strrchr(model, '/');
    const int folder = slash ? (int)(slash - model) + 1 : 0;
    const int length =
        snprintf(path, sizeof path, "%.*slayer%d_inputs.f32", folder, model, PLANTED_LAYER);
    FILE *f = length > 0 && (size_t)length < sizeof path ? fopen(path, "rb") : NULL;
    const size_t most = 1024;
    float *x = f ? malloc(most * n * sizeof *x) : NULL;
    *n_real = x ? fread(x, n * sizeof *x, most, f) : 0;
    if (f)
        fclose(f);
    if (*n_real == 0) {
        fprintf(stderr, "sffn-bench: --planted: %s: no rows of %zu floats could be read\n", path,
                n);
        free(x);
        return NULL;
    }
    return x;
}

static size_t real_width(sffn_context *ctx, const char *path)
{
    sffn_model *model = NULL;
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    if (sffn_model_open(ctx, path, &model) == SFFN_OK)
        sffn_model_get_info(model, &info);
    sffn_model_close(model);
    return info.d_model;
}

/* The share of positive gates over all inputs. */
static sffn_status measure_density(struct inputs *in, sffn_context *ctx, const struct layer *l)
{
    const size_t n_inputs = in->n_sets * in->n_tokens;
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    sffn_matmul *gate = NULL;
    size_t active = 0;
    config.n_rows = l->d_ff;
    config.n_cols = l->d_model;
    config.weights.data = l->gate;
    config.weights.dtype = l->dtype;
    config.storage = SFFN_STORAGE_BORROW;
    float *g = malloc(l->d_ff * sizeof *g);
    sffn_status status = g ? sffn_matmul_create(ctx, &config, &gate) : SFFN_ERR_OUT_OF_MEMORY;
    for (size_t i = 0; i < n_inputs && status == SFFN_OK; i++) {
        status = sffn_matmul_rows_dot(ctx, gate, in->x + i * l->d_model, l->d_model, 1, NULL, g,
                                      l->d_ff);
        for (size_t r = 0; r < l->d_ff; r++)
            active += g[r] > 0;
    }
    in->density = (double)active / (double)(n_inputs * l->d_ff);
    sffn_matmul_destroy(gate);
    free(g);
    return status;
}

int planted_inputs_create(struct inputs *in, sffn_context *ctx, const char *model,
                          const struct layer *l, size_t n_sets, size_t n_tokens)
{
    size_t n_real;
    const size_t n = real_width(ctx, model);
    memset(in, 0, sizeof *in);
    if (n == 0)
        return 0;
    float *real = read_inputs(model, n, &n_real);
    if (!real)
        return 0;
    const size_t n_blocks = l->d_model / n;
    in->n_sets = n_sets;
    in->n_tokens = n_tokens;
    in->x = calloc(n_sets * n_tokens * l->d_model, sizeof *in->x);
    in->mean = calloc(l->d_model, sizeof *in->mean);
    sffn_status status = in->x && in->mean ? SFFN_OK : SFFN_ERR_OUT_OF_MEMORY;
    for (size_t i = 0; status == SFFN_OK && i < n_sets * n_tokens; i++) {
        float *x = in->x + i * l->d_model;
        for (size_t b = 0; b < n_blocks; b++) /* a full round of tokens, then others side by side */
            memcpy(x + b * n, real + (i * n_blocks + b * (1 + i * n_blocks / n_real)) % n_real * n,
                   n * sizeof *x);
        rotate(x, l->d_model);
    }
    for (size_t t = 0; status == SFFN_OK && t < n_real; t++)
        for (size_t j = 0; j < n_blocks * n; j++)
            in->mean[j] += real[t * n + j % n] / (float)n_real;
    free(real);
    if (status == SFFN_OK) {
        rotate(in->mean, l->d_model);
        status = measure_density(in, ctx, l);
    }
    if (status != SFFN_OK) {
        fprintf(stderr, "sffn-bench: planted inputs: %s: %s\n", sffn_status_name(status),
                sffn_context_last_error(ctx));
        inputs_destroy(in);
    }
    return status == SFFN_OK;
}
