/* Random matrices of every type: rows_dot and rows_axpy over active sets of any block size, from
 * one neuron to a whole expert of thousands, against float64 with derived bounds; lossless blocks
 * of 32; tokens; strides; NaN in rows that are not active. */
#include <math.h>
#include <stdio.h>

#include "check.h"
#include "layer.h"

enum { MAX_ISAS = 16 };

static sffn_context *contexts[MAX_ISAS];
static size_t n_isas;

/* Mean of error squared over its variance, for quantised weights: about 1 when only the documented
 * roundings happen. */
struct spread {
    double sum;
    size_t n;
};
static struct spread dot_spread, axpy_spread;

static void spread_add(struct spread *spread, double error, double variance)
{
    if (variance > 0.0) {
        spread->sum += error * error / variance;
        spread->n++;
    }
}

static void spread_check(const struct spread *spread, const char *what)
{
    CHECK_SAYS(spread->n < 500 || spread->sum < 1.3 * (double)spread->n,
               "%s: %zu errors have %.2f times the variance of the documented roundings", what,
               spread->n, spread->sum / (double)spread->n);
}

struct shape {
    int32_t type;
    uint32_t block_size; /* of the active set */
    int is_lossless;
};

/* A matrix as the `down` of a layer that has nothing else worth looking at: its reference and
 * poison are what we need. */
static void matrix_make(struct layer *layer, const struct shape *shape, struct rng *rng)
{
    static const uint32_t any_n[] = {1, 3, 7, 16, 33, 65, 96, 130}, block_n[] = {32, 64, 96, 256},
                          counts[] = {1, 2, 5, 9};
    struct spec spec = SPEC_INIT(0, 0, SFFN_F32);
    int has_blocks = is_quantised(shape->type) && !shape->is_lossless;
    spec.is_gated = 0;
    spec.down_type = shape->type;
    spec.d_model = has_blocks ? rng_pick(rng, block_n) : rng_pick(rng, any_n); /* columns */
    spec.d_ff = shape->block_size > 1000 ? 2 * shape->block_size
                                         : shape->block_size * rng_pick(rng, counts); /* rows */
    if (shape->block_size == 1)
        spec.d_ff = 1 + rng_below(rng, 140);
    if (shape->is_lossless) {
        spec.down_layout = SFFN_LAYOUT_COLUMNS;
        spec.block_size = BLOCK;
    }
    if (shape->block_size > 1000)
        spec.d_model = has_blocks ? 32 : 20;
    spec.tail = rng_below(rng, 4);
    layer_make(layer, &spec, rng);
}

static sffn_matmul *matrix_create(const struct layer *layer, int32_t storage)
{
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = layer->spec.d_ff;
    config.n_cols = layer->spec.d_model;
    config.weights = layer->config.down;
    config.block_size = layer->spec.block_size;
    config.storage = storage;
    sffn_matmul *matmul = NULL;
    CHECK_OK(contexts[0], sffn_matmul_create(contexts[0], &config, &matmul));
    return matmul;
}

/* The rows that a mask leaves out become NaN in a second matrix. With lossless blocks these are
 * whole experts. */
static void poison_inactive(struct layer *layer, const uint8_t *mask, size_t n_tokens)
{
    size_t f = layer->spec.d_ff, d = layer->spec.d_model;
    for (uint32_t i = 0; i < f; i++) {
        int is_needed = 0;
        for (size_t t = 0; t < n_tokens; t++)
            is_needed |= mask[t * f + i];
        if (is_needed)
            continue;
        if (layer->spec.down_layout == SFFN_LAYOUT_ROWS)
            layer_poison(layer, i, PART_DOWN);
        else
            for (size_t j = 0; j < d; j++)
                weight_poison(layer->spec.down_type,
                              layer->down_source + j * weight_bytes(layer->spec.down_type, f), i,
                              1);
    }
}

static void check_dot(sffn_context *ctx, const sffn_matmul *matmul, const struct layer *layer,
                      const float *x, size_t n_tokens, const uint8_t *mask,
                      const sffn_active_set *set, float *out)
{
    size_t f = layer->spec.d_ff, d = layer->spec.d_model;
    for (size_t i = 0; i < n_tokens * f; i++)
        out[i] = NAN;
    CHECK_OK(ctx, sffn_matmul_rows_dot(ctx, matmul, x, d, n_tokens, set, out, f));
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < f; i++) {
            double error, got = (double)out[t * f + i];
            if (set && !mask[t * f + i]) {
                CHECK_SAYS(got == 0.0, "token %zu: inactive row %zu gives %g", t, i, got);
                continue;
            }
            const float *x_t = (const float *)(const void *)((const char *)x + t * d * sizeof *x);
            double want =
                reference_dot(layer->down_packed, layer->down + i * d, x_t, d, 0.0, &error);
            CHECK_WITHIN(got, want, error, "token %zu row %zu", t, i);
            if (is_quantised(layer->down_packed))
                spread_add(&dot_spread, got - want,
                           reference_dot_variance(layer->down + i * d, x_t, d));
        }
}

static void check_axpy(sffn_context *ctx, const sffn_matmul *matmul, const struct layer *layer,
                       const float *h, size_t n_tokens, const uint8_t *mask,
                       const sffn_active_set *set, float *y)
{
    size_t f = layer->spec.d_ff, d = layer->spec.d_model;
    double *active_h = malloc(f * sizeof *active_h), *want = malloc(3 * d * sizeof *want);
    CHECK(active_h && want);
    for (size_t i = 0; i < n_tokens * d; i++)
        y[i] = NAN;
    CHECK_OK(ctx, sffn_matmul_rows_axpy(ctx, matmul, h, f, n_tokens, set, y, d));
    for (size_t t = 0; t < n_tokens; t++) {
        int n_active = 0;
        for (size_t i = 0; i < f; i++) {
            active_h[i] = set && !mask[t * f + i] ? 0.0 : (double)h[t * f + i];
            n_active += active_h[i] != 0.0;
        }
        reference_down(layer, active_h, NULL, want, want + d);
        if (layer->down_rows)
            reference_down_variance(layer, active_h, want + 2 * d);
        for (size_t j = 0; j < d; j++) {
            CHECK_WITHIN((double)y[t * d + j], want[j], want[d + j], "token %zu y[%zu]", t, j);
            if (layer->down_rows)
                spread_add(&axpy_spread, (double)y[t * d + j] - want[j], want[2 * d + j]);
            CHECK_SAYS(n_active > 0 || y[t * d + j] == 0.0f,
                       "token %zu: nobody is active, y[%zu] = %g", t, j, (double)y[t * d + j]);
        }
    }
    free(active_h);
    free(want);
}

static void products(void **state)
{
    const struct shape *shape = *state;
    static const double densities[] = {0.0, 0.1, 0.5, 1.0};
    static const size_t counts[] = {1, 1, 2, 7, 8, 9, 20};
    char name[96];
    snprintf(name, sizeof name, "%s %u %d", sffn_dtype_name(shape->type),
             (unsigned)shape->block_size, shape->is_lossless);
    struct rng rng = rng_named(name);
    int n_rounds = shape->block_size > 1000 ? 4 : 24;
    dot_spread = axpy_spread = (struct spread){0};
    for (int round = 0; round < n_rounds; round++) {
        struct layer layer;
        matrix_make(&layer, shape, &rng);
        size_t f = layer.spec.d_ff, d = layer.spec.d_model,
               n_tokens = shape->block_size > 1000 ? 2 : rng_pick(&rng, counts);
        float *x = draw_x(&layer.memory, &rng, n_tokens, d, rng_below(&rng, 4)),
              *h = draw_x(&layer.memory, &rng, n_tokens, f, 0);
        float *out = GUARDED_FLOATS(&layer.memory, n_tokens * f),
              *y = GUARDED_FLOATS(&layer.memory, n_tokens * d);
        uint8_t *mask = draw_mask(&layer.memory, &rng, n_tokens, f, densities[round % 4]);
        for (size_t i = 0; i < n_tokens * f; i++)
            mask[i] = mask[i / shape->block_size * shape->block_size];
        sffn_active_set *set = make_set(contexts[0], mask, n_tokens,
                                        (uint32_t)(f / shape->block_size), shape->block_size);
        sffn_matmul *matmul = matrix_create(&layer, SFFN_STORAGE_COPY);
        for (size_t i = 0; i < n_isas; i++) {
            if (!shape->is_lossless) {
                check_dot(contexts[i], matmul, &layer, x, n_tokens, mask, NULL, out);
                check_dot(contexts[i], matmul, &layer, x, n_tokens, mask, set, out);
            }
            check_axpy(contexts[i], matmul, &layer, h, n_tokens, mask, NULL, y);
            check_axpy(contexts[i], matmul, &layer, h, n_tokens, mask, set, y);
        }
        sffn_matmul_destroy(matmul);
        /* the same with NaN in rows nobody needs and in h of inactive rows, borrowed where the
         * layout allows */
        poison_inactive(&layer, mask, n_tokens);
        for (size_t i = 0; i < n_tokens * f; i++)
            h[i] = mask[i] ? h[i] : NAN;
        matmul =
            matrix_create(&layer, layer.spec.down_layout == SFFN_LAYOUT_ROWS ? SFFN_STORAGE_BORROW
                                                                             : SFFN_STORAGE_COPY);
        for (size_t i = 0; i < n_isas; i++) {
            if (!shape->is_lossless)
                check_dot(contexts[i], matmul, &layer, x, n_tokens, mask, set, out);
            check_axpy(contexts[i], matmul, &layer, h, n_tokens, mask, set, y);
        }
        sffn_matmul_destroy(matmul);
        sffn_active_set_destroy(set);
        layer_free(&layer);
    }
    spread_check(&dot_spread, "rows_dot");
    spread_check(&axpy_spread, "rows_axpy");
}

/* A non-finite h of an active row makes all of y NaN for quantised rows, and reaches y through IEEE
 * rules for float rows. */
static void bad_h(void **state)
{
    int32_t type = *(const int32_t *)*state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct rng rng = rng_named(sffn_dtype_name(type));
    for (size_t k = 0; k < 3; k++) {
        struct shape shape = {type, 1, 0};
        struct layer layer;
        matrix_make(&layer, &shape, &rng);
        size_t f = layer.spec.d_ff, d = layer.spec.d_model;
        float *h = draw_x(&layer.memory, &rng, 3, f, 0), *y = GUARDED_FLOATS(&layer.memory, 3 * d);
        float *clean = GUARDED_FLOATS(&layer.memory, 3 * d);
        sffn_matmul *matmul = matrix_create(&layer, SFFN_STORAGE_COPY);
        for (size_t i = 0; i < n_isas; i++) {
            CHECK_OK(contexts[i],
                     sffn_matmul_rows_axpy(contexts[i], matmul, h, f, 3, NULL, clean, d));
            float kept = h[f];
            h[f] = bad[k]; /* row 0 of token 1 */
            CHECK_OK(contexts[i], sffn_matmul_rows_axpy(contexts[i], matmul, h, f, 3, NULL, y, d));
            h[f] = kept;
            for (size_t j = 0; j < d; j++) {
                float w = layer.down[j], got = y[d + j];
                if (is_quantised(type) || k == 0)
                    CHECK_SAYS(isnan(got), "h %g: y[%zu] = %g", (double)bad[k], j, (double)got);
                else
                    CHECK_SAYS(w == 0.0f ? isnan(got) : got == bad[k] * w,
                               "h %g, w %g: y[%zu] = %g", (double)bad[k], (double)w, j,
                               (double)got);
            }
            CHECK_BITS(y, clean, d, "token 0");
            CHECK_BITS(y + 2 * d, clean + 2 * d, d, "token 2");
        }
        sffn_matmul_destroy(matmul);
        layer_free(&layer);
    }
}

/* Sizes of h from denormal to huge in one product: the bound holds at every scale, and nothing
 * overflows silently. */
static void extreme_scales(void **state)
{
    int32_t type = *(const int32_t *)*state;
    static const float scales[] = {1e-38f, 1e-20f, 1e-6f, 1.0f, 1e6f, 1e20f};
    struct rng rng = rng_named(sffn_dtype_name(type));
    for (size_t k = 0; k < sizeof scales / sizeof scales[0]; k++) {
        struct shape shape = {type, 1, 0};
        struct layer layer;
        matrix_make(&layer, &shape, &rng);
        size_t f = layer.spec.d_ff, d = layer.spec.d_model;
        float *h = draw_x(&layer.memory, &rng, 1, f, 0), *x = draw_x(&layer.memory, &rng, 1, d, 0);
        for (size_t i = 0; i < f; i++)
            h[i] *= scales[k];
        for (size_t j = 0; j < d; j++)
            x[j] *= scales[k];
        float *out = GUARDED_FLOATS(&layer.memory, f), *y = GUARDED_FLOATS(&layer.memory, d);
        sffn_matmul *matmul = matrix_create(&layer, SFFN_STORAGE_COPY);
        for (size_t i = 0; i < n_isas; i++) {
            check_dot(contexts[i], matmul, &layer, x, 1, NULL, NULL, out);
            check_axpy(contexts[i], matmul, &layer, h, 1, NULL, NULL, y);
        }
        sffn_matmul_destroy(matmul);
        layer_free(&layer);
    }
}

/* Thousands of rows whose integer sums are as large as they get: q = +-127 or -8, h all alike.
 * int32 must not overflow. */
static void largest_integer_sums(void **state)
{
    int32_t type = *(const int32_t *)*state;
    enum { ROWS = 40000, COLS = 32, TOKENS = 8 };
    struct spec spec = SPEC_INIT(COLS, ROWS, SFFN_F32);
    struct rng rng = rng_named("largest");
    struct layer layer;
    spec.is_gated = 0;
    spec.down_type = type;
    layer_make(&layer, &spec, &rng);
    size_t row_bytes = weight_bytes(type, COLS);
    float ones[COLS];
    for (size_t j = 0; j < COLS; j++)
        ones[j] = -1.0f;
    for (size_t r = 0; r < ROWS; r++)
        weight_encode(type, ones, COLS, layer.down_source + r * row_bytes);
    layer_decode(&layer);
    float *h = GUARDED_FLOATS(&layer.memory, TOKENS * ROWS),
          *y = GUARDED_FLOATS(&layer.memory, TOKENS * COLS);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t r = 0; r < ROWS; r++)
            h[t * ROWS + r] = t % 3 == 1 ? -1.0f : 1.0f;
    sffn_matmul *matmul = matrix_create(&layer, SFFN_STORAGE_COPY);
    for (size_t i = 0; i < n_isas; i++)
        for (size_t tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1)
            check_axpy(contexts[i], matmul, &layer, h, tokens, NULL, NULL, y);
    for (size_t t = 0; t < TOKENS; t++)
        CHECK(t % 3 == 1 ? y[t * COLS] > 39000.0f : y[t * COLS] < -39000.0f);
    sffn_matmul_destroy(matmul);
    layer_free(&layer);
}

/* "No allocation after the first call of a larger n_cols" is in tests/fault. Here: sums of many
 * calls into a strided output. */
static void strides(void **state)
{
    int32_t type = *(const int32_t *)*state;
    enum { T = 3, GAP = 5 };
    struct rng rng = rng_named(sffn_dtype_name(type));
    struct shape shape = {type, 1, 0};
    struct layer layer;
    matrix_make(&layer, &shape, &rng);
    size_t f = layer.spec.d_ff, d = layer.spec.d_model;
    float *x = draw_x(&layer.memory, &rng, T, d, 0),
          *wide_x = GUARDED_FLOATS(&layer.memory, T * (d + GAP) - GAP);
    float *out = GUARDED_FLOATS(&layer.memory, T * f),
          *wide_out = GUARDED_FLOATS(&layer.memory, T * (f + GAP) - GAP);
    for (size_t i = 0; i < T * (d + GAP) - GAP; i++)
        wide_x[i] = NAN;
    for (size_t t = 0; t < T; t++)
        memcpy(wide_x + t * (d + GAP), x + t * d, d * sizeof *x);
    sffn_matmul *matmul = matrix_create(&layer, SFFN_STORAGE_COPY);
    CHECK_OK(contexts[0], sffn_matmul_rows_dot(contexts[0], matmul, x, d, T, NULL, out, f));
    CHECK_OK(contexts[0], sffn_matmul_rows_dot(contexts[0], matmul, wide_x, d + GAP, T, NULL,
                                               wide_out, f + GAP));
    for (size_t t = 0; t < T; t++) {
        CHECK_BITS(wide_out + t * (f + GAP), out + t * f, f, "rows_dot, token %zu", t);
        for (size_t i = f; t + 1 < T && i < f + GAP; i++)
            CHECK(wide_out[t * (f + GAP) + i] == 0.0f); /* the gap is untouched */
    }
    float *wide_y = GUARDED_FLOATS(&layer.memory, T * (d + GAP) - GAP),
          *y = GUARDED_FLOATS(&layer.memory, T * d);
    CHECK_OK(contexts[0], sffn_matmul_rows_axpy(contexts[0], matmul, out, f, T, NULL, y, d));
    CHECK_OK(contexts[0], sffn_matmul_rows_axpy(contexts[0], matmul, wide_out, f + GAP, T, NULL,
                                                wide_y, d + GAP));
    for (size_t t = 0; t < T; t++) {
        CHECK_BITS(wide_y + t * (d + GAP), y + t * d, d, "rows_axpy, token %zu", t);
        for (size_t j = d; t + 1 < T && j < d + GAP; j++)
            CHECK(wide_y[t * (d + GAP) + j] == 0.0f);
    }
    sffn_matmul_destroy(matmul);
    layer_free(&layer);
}

int main(void)
{
    static int32_t types[] = {SFFN_F32, SFFN_F16, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
    static const uint32_t block_sizes[] = {1, 8, 32, 2816};
    struct cases cases = {0};
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++) {
        const char *name = sffn_dtype_name(type);
        for (size_t b = 0; b < 4; b++) {
            struct shape shape = {type, block_sizes[b], 0};
            cases_add(&cases, products, cases_keep(&cases, &shape, sizeof shape), "%s blocks of %u",
                      name, (unsigned)block_sizes[b]);
        }
        if (is_quantised(type)) {
            for (size_t b = 2; b < 4; b++) {
                struct shape shape = {type, block_sizes[b], 1};
                cases_add(&cases, products, cases_keep(&cases, &shape, sizeof shape),
                          "%s lossless, blocks of %u", name, (unsigned)block_sizes[b]);
            }
            cases_add(&cases, largest_integer_sums, &types[type], "largest_integer_sums %s", name);
        }
        cases_add(&cases, bad_h, &types[type], "bad_h %s", name);
        cases_add(&cases, extreme_scales, &types[type], "extreme_scales %s", name);
        cases_add(&cases, strides, &types[type], "strides %s", name);
    }
    const char *isas[MAX_ISAS];
    n_isas = supported_isas(isas, MAX_ISAS);
    for (size_t i = 0; i < n_isas; i++) {
        sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
        config.max_isa = isas[i];
        config.n_threads = 1 + (uint32_t)i % 3;
        if (sffn_context_create(&config, &contexts[i]) != SFFN_OK)
            return 1;
    }
    int failed = cases_run(&cases, "matmul_random");
    for (size_t i = 0; i < n_isas; i++)
        sffn_context_destroy(contexts[i]);
    return failed;
}
