#include "layer.h"

#include <float.h>
#include <math.h>

/* ---------------------------------------------------------------- layers */

static unsigned char *draw_rows(struct guarded *memory, struct rng *rng, int32_t type,
                                size_t n_rows, size_t n, double scale, size_t tail)
{
    size_t row_bytes = weight_bytes(type, n);
    unsigned char *rows = guarded_alloc(memory, n_rows * row_bytes, tail);
    float *values = malloc(n * sizeof *values);
    CHECK(values != NULL);
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t i = 0; i < n; i++)
            values[i] = (float)(rng_normal(rng) * scale);
        weight_encode(type, values, n, rows + r * row_bytes);
    }
    free(values);
    return rows;
}

static float *draw_floats(struct guarded *memory, struct rng *rng, size_t n, double mean,
                          double scale)
{
    float *values = GUARDED_FLOATS(memory, n);
    for (size_t i = 0; i < n; i++)
        values[i] = (float)(mean + scale * rng_normal(rng));
    return values;
}

static int32_t packed(const struct spec *spec, int32_t source)
{
    return spec->packed_type < 0 ? source : spec->packed_type;
}

void layer_make(struct layer *layer, const struct spec *spec, struct rng *rng)
{
    memset(layer, 0, sizeof *layer);
    layer->spec = *spec;
    struct guarded *memory = &layer->memory;
    size_t d = spec->d_model, f = spec->d_ff;
    double in_scale = 1.0 / sqrt((double)d), out_scale = 1.0 / sqrt((double)f);
    if (spec->is_gated) {
        layer->gate_source = draw_rows(memory, rng, spec->gate_type, f, d, in_scale, spec->tail);
        layer->gate = GUARDED_FLOATS(memory, f * d);
        layer->gate_packed = packed(spec, spec->gate_type);
    }
    layer->up_source = draw_rows(memory, rng, spec->up_type, f, d, in_scale, spec->tail);
    layer->up = GUARDED_FLOATS(memory, f * d);
    layer->up_packed = packed(spec, spec->up_type);
    int is_columns = spec->down_layout == SFFN_LAYOUT_COLUMNS;
    layer->down_source = draw_rows(memory, rng, spec->down_type, is_columns ? d : f,
                                   is_columns ? f : d, out_scale, spec->tail);
    layer->down = GUARDED_FLOATS(memory, f * d);
    layer->down_packed = packed(spec, spec->down_type);
    if (is_quantised(layer->down_packed) && spec->block_size != BLOCK)
        layer->down_rows = guarded_alloc(memory, f * weight_bytes(layer->down_packed, d), 0);
    if (spec->has_bias || spec->gate_shift != 0.0f) {
        double scale = spec->has_bias ? 0.3 : 0.0;
        int shifts_up =
            !spec->is_gated || (spec->activation == SFFN_ACT_DRELU && spec->gate_shift > 0.0f);
        if (spec->is_gated)
            layer->gate_bias = draw_floats(memory, rng, f, spec->gate_shift, scale);
        layer->up_bias = draw_floats(memory, rng, f, shifts_up ? spec->gate_shift : 0.0f, scale);
        layer->down_bias = draw_floats(memory, rng, d, 0.0, scale);
    }
    if (spec->has_thresholds) {
        layer->thresholds = GUARDED_FLOATS(memory, f);
        for (size_t i = 0; i < f; i++)
            layer->thresholds[i] = (float)(spec->rule_threshold * (0.5 + rng_uniform(rng)));
    }
    layer_decode(layer);

    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = spec->d_model;
    config.d_ff = spec->d_ff;
    config.gate.data = layer->gate_source;
    config.gate.dtype = spec->gate_type;
    config.up.data = layer->up_source;
    config.up.dtype = spec->up_type;
    config.down.data = layer->down_source;
    config.down.dtype = spec->down_type;
    config.down.layout = spec->down_layout;
    config.gate_bias = layer->gate_bias;
    config.up_bias = layer->up_bias;
    config.down_bias = layer->down_bias;
    config.activation = spec->activation;
    config.act_tie = spec->act_tie;
    config.act_threshold = spec->act_threshold;
    config.rule = spec->rule;
    config.rule_tie = spec->rule_tie;
    config.rule_threshold = spec->rule_threshold;
    config.rule_thresholds = layer->thresholds;
    config.storage = spec->storage;
    config.dtype = spec->packed_type;
    config.block_size = spec->block_size;
    layer->config = config;
}

/* Rows of one type -> floats after packing to another; the packed rows also go to `rows` when it is
 * not NULL. */
static void repack(const void *source, int32_t type, int32_t to, size_t n_rows, size_t n,
                   float *values, unsigned char *rows)
{
    size_t to_bytes = weight_bytes(to, n);
    unsigned char *row = malloc(to_bytes);
    CHECK(row != NULL);
    for (size_t r = 0; r < n_rows; r++) {
        weight_decode(type, (const unsigned char *)source + r * weight_bytes(type, n), n,
                      values + r * n);
        if (type != to) {
            weight_encode(to, values + r * n, n, row);
            weight_decode(to, row, n, values + r * n);
        }
        if (rows && type == to)
            memcpy(rows + r * to_bytes, (const unsigned char *)source + r * to_bytes, to_bytes);
        else if (rows)
            memcpy(rows + r * to_bytes, row, to_bytes);
    }
    free(row);
}

void layer_decode(struct layer *layer)
{
    const struct spec *spec = &layer->spec;
    size_t d = spec->d_model, f = spec->d_ff;
    if (spec->is_gated)
        repack(layer->gate_source, spec->gate_type, layer->gate_packed, f, d, layer->gate, NULL);
    repack(layer->up_source, spec->up_type, layer->up_packed, f, d, layer->up, NULL);
    if (spec->down_layout == SFFN_LAYOUT_ROWS) {
        repack(layer->down_source, spec->down_type, layer->down_packed, f, d, layer->down,
               layer->down_rows);
        return;
    }
    float *columns = malloc(f * d * sizeof *columns), *rows = malloc(f * d * sizeof *rows);
    CHECK(columns && rows);
    repack(layer->down_source, spec->down_type, spec->down_type, d, f, columns, NULL);
    for (size_t i = 0; i < f; i++)
        for (size_t j = 0; j < d; j++)
            rows[i * d + j] = columns[j * f + i];
    if (spec->block_size == BLOCK) /* lossless: the source's blocks stay */
        memcpy(layer->down, rows, f * d * sizeof *rows);
    else
        repack(rows, SFFN_F32, layer->down_packed, f, d, layer->down, layer->down_rows);
    free(columns);
    free(rows);
}

void layer_free(struct layer *layer)
{
    guarded_free(&layer->memory);
}

void layer_poison(struct layer *layer, uint32_t neuron, int parts)
{
    const struct spec *spec = &layer->spec;
    size_t d = spec->d_model, f = spec->d_ff;
    if (parts & PART_GATE)
        weight_poison(spec->gate_type,
                      layer->gate_source + neuron * weight_bytes(spec->gate_type, d), 0, d);
    if (parts & PART_UP)
        weight_poison(spec->up_type, layer->up_source + neuron * weight_bytes(spec->up_type, d), 0,
                      d);
    if (!(parts & PART_DOWN))
        return;
    if (spec->down_layout == SFFN_LAYOUT_ROWS)
        weight_poison(spec->down_type,
                      layer->down_source + neuron * weight_bytes(spec->down_type, d), 0, d);
    else
        for (size_t j = 0; j < d; j++)
            weight_poison(spec->down_type,
                          layer->down_source + j * weight_bytes(spec->down_type, f), neuron, 1);
}

sffn_ffn *layer_create(sffn_context *ctx, const struct layer *layer)
{
    sffn_ffn *ffn = NULL;
    CHECK_OK(ctx, sffn_ffn_create(ctx, &layer->config, &ffn));
    CHECK(ffn != NULL);
    return ffn;
}

float *draw_x(struct guarded *memory, struct rng *rng, size_t n_tokens, size_t d, size_t tail)
{
    unsigned char *x = guarded_alloc(memory, n_tokens * d * sizeof(float), tail);
    for (size_t i = 0; i < n_tokens * d; i++) {
        float value = rng_below(rng, 16) == 0 ? 0.0f : rng_normal(rng);
        memcpy(x + i * sizeof value, &value, sizeof value);
    }
    return (float *)(void *)x;
}

uint8_t *draw_mask(struct guarded *memory, struct rng *rng, size_t n_tokens, size_t d_ff,
                   double density)
{
    uint8_t *mask = guarded_alloc(memory, n_tokens * d_ff, 0);
    for (size_t i = 0; i < n_tokens * d_ff; i++)
        mask[i] = rng_uniform(rng) < density;
    return mask;
}

sffn_active_set *make_set(sffn_context *ctx, const uint8_t *masks, size_t n_tokens,
                          uint32_t n_blocks, uint32_t block_size)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    config.n_blocks = n_blocks;
    config.block_size = block_size;
    config.max_tokens = (uint32_t)n_tokens;
    sffn_active_set *set = NULL;
    uint8_t *blocks = malloc(n_blocks);
    CHECK(blocks != NULL);
    CHECK_OK(ctx, sffn_active_set_create(ctx, &config, &set));
    CHECK_OK(ctx, sffn_active_set_clear(set, n_tokens));
    for (size_t t = 0; t < n_tokens && masks; t++) {
        for (uint32_t b = 0; b < n_blocks; b++)
            blocks[b] = masks[(t * n_blocks + b) * block_size];
        CHECK_OK(ctx, sffn_active_set_set_mask(set, t, blocks));
    }
    free(blocks);
    return set;
}

/* ---------------------------------------------------------------- the layer in float64 */

#define TINY 1e-36 /* covers what products below the normal floats lose */

/* Largest |x - d q| in a block of 32 whose x the library quantises: d = amax / 127, q = rint(x *
 * (127 / amax)). Exactly |x - d q| <= d / 2 = amax / 254. The three roundings of d, 127 / amax and
 * the product move the point that is rounded by at most 3u * 127, and d q by u |x|: below 4u amax
 * together. amax < 2^-100 gives q = 0, an error of amax. */
static double int8_error(double amax)
{
    return amax < 0x1p-100 ? amax : amax / 254.0 + 4.0 * UNIT_ROUNDOFF * amax;
}

/* f32 sum of n products in any order, and the bias: gamma_(n+2) sum |terms|. For quantised weights
 * the sums within a block are exact integers; what is rounded is the product of the scales, its
 * product with the sum, and the sum over the n / 32 blocks: gamma_(n/32+4) sum |w| (|x| + dx). dx
 * itself is what the quantisation of x loses: sum |w| dx. */
double reference_dot(int32_t packed_type, const float *w, const float *x, size_t n, double bias,
                     double *error)
{
    const char *bytes = (const char *)x;
    double sum = bias, magnitude = fabs(bias), quantisation = 0.0;
    for (size_t b = 0; b < n; b += BLOCK) {
        double amax = 0.0, weight = 0.0;
        for (size_t i = b; i < n && i < b + BLOCK; i++) {
            double xi = load_float(bytes + i * sizeof *x);
            sum += w[i] * xi;
            magnitude += fabs(w[i] * xi);
            amax = fmax(amax, fabs(xi));
            weight += fabs(w[i]);
        }
        quantisation += weight * int8_error(amax);
    }
    if (is_quantised(packed_type))
        *error =
            quantisation + gamma_n((double)n / BLOCK + 4.0) * (magnitude + quantisation) + TINY;
    else
        *error = gamma_n((double)n + 2.0) * magnitude + TINY;
    return sum;
}

/* A value that is a threshold decision: keeps for every error / for some error. */
struct decision {
    int surely, perhaps;
};

static struct decision decide(double value, double error, double threshold, int keeps_equal)
{
    struct decision decision;
    decision.surely = keeps_equal ? value - error >= threshold : value - error > threshold;
    decision.perhaps = keeps_equal ? value + error >= threshold : value + error > threshold;
    return decision;
}

static double activate(const struct spec *spec, double g)
{
    double t = spec->act_threshold;
    switch (spec->activation) {
    case SFFN_ACT_FATRELU:
        return g > t || (g == t && spec->act_tie == SFFN_TIE_KEEP) ? g : 0.0;
    case SFFN_ACT_RELU2:
        return g > 0.0 ? g * g : 0.0;
    case SFFN_ACT_SILU:
        return g / (1.0 + exp(-g));
    case SFFN_ACT_GELU_ERF:
        return 0.5 * g * erfc(-g * M_SQRT1_2);
    case SFFN_ACT_GELU_TANH:
        return 0.5 * g * (1.0 + tanh(0.79788456080286535588 * (g + 0.044715 * g * g * g)));
    case SFFN_ACT_SHIFTED_RELU:
        return g > t ? g - t : 0.0;
    default: /* ReLU, dReLU */
        return g > 0.0 ? g : 0.0;
    }
}

/* s = act(g) with the error that dg and the function itself make. Eight roundings of max(|g|, |s|)
 * for the smooth ones. */
static double activate_error(const struct spec *spec, double g, double dg, double s,
                             struct decision *decision)
{
    double t = spec->act_threshold;
    *decision = decide(g, dg, 0.0, 0);
    switch (spec->activation) {
    case SFFN_ACT_FATRELU:
        *decision = decide(g, dg, t, spec->act_tie == SFFN_TIE_KEEP);
        return dg;
    case SFFN_ACT_RELU2:
        return 2.0 * fabs(g) * dg + dg * dg + 2.0 * UNIT_ROUNDOFF * (fabs(g) + dg) * (fabs(g) + dg);
    case SFFN_ACT_SILU:
    case SFFN_ACT_GELU_ERF:
    case SFFN_ACT_GELU_TANH: {
        double error =
            1.15 * dg + 8.0 * UNIT_ROUNDOFF * fmax(fabs(g) + dg, fabs(s)); /* |act'| < 1.13 */
        *decision = (struct decision){fabs(s) > error, 1};
        return error;
    }
    case SFFN_ACT_SHIFTED_RELU:
        *decision = decide(g, dg, t, 0);
        return dg + UNIT_ROUNDOFF * (fabs(g) + dg + t);
    default:
        return dg;
    }
}

static double threshold_of(const struct layer *layer, size_t neuron)
{
    return layer->thresholds ? layer->thresholds[neuron] : layer->spec.rule_threshold;
}

/* The values of one neuron for one token; `at` is its place in the arrays. */
static void reference_neuron(struct reference *ref, const struct layer *layer, const float *x,
                             size_t at, size_t i, int is_dense)
{
    const struct spec *spec = &layer->spec;
    size_t d = spec->d_model;
    int keeps_equal = spec->rule_tie == SFFN_TIE_KEEP;
    int32_t rule = is_dense ? SFFN_RULE_NONE : spec->rule;
    double dg, du = 0.0, u = 1.0;
    const float *decider = spec->is_gated ? layer->gate : layer->up,
                *bias = spec->is_gated ? layer->gate_bias : layer->up_bias;
    double g = reference_dot(spec->is_gated ? layer->gate_packed : layer->up_packed,
                             decider + i * d, x, d, bias ? bias[i] : 0.0, &dg);
    struct decision act, kept;
    double s = activate(spec, g), ds = activate_error(spec, g, dg, s, &act);
    ref->g[at] = g;
    if (rule == SFFN_RULE_SCORE || rule == SFFN_RULE_ABS_SCORE) {
        double either = act.surely ? ds : fabs(g) + ds; /* s may be on the other side of a jump */
        kept = decide(rule == SFFN_RULE_SCORE ? s : fabs(s), either, threshold_of(layer, i),
                      keeps_equal);
        act.surely &= kept.surely;
        act.perhaps &= kept.perhaps;
    }
    ref->surely[at] = (uint8_t)act.surely;
    ref->perhaps[at] = (uint8_t)act.perhaps;
    if (!act.perhaps)
        return; /* s = h = 0 exactly */
    ref->s[at] = s;
    ref->s_error[at] = act.surely ? ds : fabs(g) + fabs(s) + ds; /* of either side of a jump */
    if (spec->is_gated) {
        u = reference_dot(layer->up_packed, layer->up + i * d, x, d,
                          layer->up_bias ? layer->up_bias[i] : 0.0, &du);
        if (spec->activation == SFFN_ACT_DRELU)
            u = fmax(u, 0.0);
        ref->u[at] = u;
        ref->u_error[at] = du;
    }
    double es = ref->s_error[at], h = s * u;
    double dh = fabs(s) * du + fabs(u) * es + es * du;
    if (spec->is_gated)
        dh += 2.0 * UNIT_ROUNDOFF * (fabs(h) + dh) + TINY;
    if (rule == SFFN_RULE_ABS_H) {
        kept = decide(fabs(h), dh, threshold_of(layer, i), keeps_equal);
        if (!spec->is_gated) { /* one product is gate and up: the rule decides with it */
            ref->surely[at] &= (uint8_t)kept.surely;
            ref->perhaps[at] &= (uint8_t)kept.perhaps;
        }
        if (!kept.perhaps)
            return;
        if (!kept.surely)
            dh += fabs(h);
    }
    ref->h[at] = h;
    ref->h_error[at] = dh;
}

static double *doubles(struct guarded *memory, size_t n)
{
    return guarded_alloc(memory, n * sizeof(double), 0);
}

void reference_make(struct reference *ref, struct guarded *memory, const struct layer *layer,
                    const float *x, size_t n_tokens, const uint8_t *candidates, int is_dense)
{
    size_t d = layer->spec.d_model, f = layer->spec.d_ff, n = n_tokens * f;
    double **const per_neuron[] = {&ref->g,       &ref->s, &ref->s_error, &ref->u,
                                   &ref->u_error, &ref->h, &ref->h_error};
    for (size_t k = 0; k < sizeof per_neuron / sizeof per_neuron[0]; k++)
        *per_neuron[k] = doubles(memory, n);
    ref->surely = guarded_alloc(memory, n, 0);
    ref->perhaps = guarded_alloc(memory, n, 0);
    ref->y = doubles(memory, n_tokens * d);
    ref->y_error = doubles(memory, n_tokens * d);
    ref->n_tokens = n_tokens;
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t i = 0; i < f; i++)
            if (!candidates || candidates[t * f + i])
                reference_neuron(ref, layer, x + t * d, t * f + i, i, is_dense);
        reference_down(layer, ref->h + t * f, ref->h_error + t * f, ref->y + t * d,
                       ref->y_error + t * d);
    }
}

/* The error that the down product may make to h of each neuron before it multiplies the weights.
 *
 * Float types: none. Lossless blocks of 32: h is quantised like x, 32 neurons sharing amax. q8_0
 * and q4_0 rows: the library multiplies the integers q of a row with v = rint((h * inv) * d), inv
 * being at most 16256 / M, M = the token's largest |h d|. So each product h d carries an error of
 * half a step, M / 16256 / 2. Two float roundings before rint move v by at most 2u * 16256 < 0.002;
 * together below 0.51 steps. As w = d q, this is an error of 0.51 M / 16256 |q| of each product,
 * returned here as step; q is found from w / d. */
static double down_step(const struct layer *layer, const double *h, const double *h_error)
{
    const struct spec *spec = &layer->spec;
    size_t row_bytes = weight_bytes(layer->down_packed, spec->d_model);
    double largest = 0.0;
    for (size_t i = 0; i < spec->d_ff; i++) {
        double hi = fabs(h[i]) + (h_error ? h_error[i] : 0.0);
        for (size_t b = 0; hi > 0.0 && b < spec->d_model / BLOCK; b++)
            largest = fmax(largest, hi * fabs(weight_scale(layer->down_packed,
                                                           layer->down_rows + i * row_bytes, b)));
    }
    return 0.51 * largest / 16256.0;
}

void reference_down(const struct layer *layer, const double *h, const double *h_error, double *y,
                    double *y_error)
{
    const struct spec *spec = &layer->spec;
    size_t d = spec->d_model, f = spec->d_ff, n_terms = 0;
    int is_lossless = spec->block_size == BLOCK && is_quantised(layer->down_packed);
    double step = layer->down_rows ? down_step(layer, h, h_error) : 0.0, expert_error = 0.0;
    double *magnitude = calloc(d, sizeof *magnitude);
    CHECK(magnitude != NULL);
    for (size_t j = 0; j < d; j++) {
        y[j] = layer->down_bias ? layer->down_bias[j] : 0.0;
        magnitude[j] = fabs(y[j]);
        y_error[j] = TINY;
    }
    for (size_t i = 0; i < f; i++) {
        double dh = h_error ? h_error[i] : 0.0;
        if (is_lossless && i % BLOCK == 0) {
            double amax = 0.0;
            for (size_t k = i; k < i + BLOCK; k++)
                amax = fmax(amax, fabs(h[k]) + (h_error ? h_error[k] : 0.0));
            expert_error = int8_error(amax);
        }
        if (is_lossless)
            dh += expert_error;
        if (h[i] == 0.0 && dh == 0.0)
            continue; /* a skipped neuron: its row may hold NaN */
        n_terms++;
        const unsigned char *row =
            layer->down_rows ? layer->down_rows + i * weight_bytes(layer->down_packed, d) : NULL;
        for (size_t j = 0; j < d; j++) {
            double w = layer->down[i * d + j];
            double scale = row ? fabs(weight_scale(layer->down_packed, row, j / BLOCK)) : 0.0;
            double lost = fabs(w) * dh + (scale > 0.0 ? fabs(w) / scale * step : 0.0);
            y[j] += h[i] * w;
            y_error[j] += lost;
            magnitude[j] += fabs(h[i] * w) + lost;
        }
    }
    /* any order of the terms, the bias, and for integers the conversion and two scales */
    for (size_t j = 0; j < d; j++)
        y_error[j] += gamma_n((double)n_terms + 8.0) * magnitude[j];
    free(magnitude);
}

double reference_dot_variance(const float *w, const float *x, size_t n)
{
    const char *bytes = (const char *)x;
    double variance = 0.0;
    for (size_t b = 0; b < n; b += BLOCK) {
        double amax = 0.0, squares = 0.0;
        for (size_t i = b; i < b + BLOCK; i++) {
            amax = fmax(amax, fabs((double)load_float(bytes + i * sizeof *x)));
            squares += (double)w[i] * w[i];
        }
        variance += squares * (amax / 127.0) * (amax / 127.0) / 12.0;
    }
    return variance;
}

void reference_down_variance(const struct layer *layer, const double *h, double *variance)
{
    size_t d = layer->spec.d_model, row_bytes = weight_bytes(layer->down_packed, d);
    double step = down_step(layer, h, NULL) / 0.51;
    memset(variance, 0, d * sizeof *variance);
    for (size_t i = 0; i < layer->spec.d_ff; i++) {
        const unsigned char *row = layer->down_rows + i * row_bytes;
        for (size_t j = 0; h[i] != 0.0 && j < d; j++) {
            double scale = weight_scale(layer->down_packed, row, j / BLOCK);
            double q = scale != 0.0 ? layer->down[i * d + j] / scale : 0.0;
            variance[j] += q * q * step * step / 12.0;
        }
    }
}

/* -------------------------------------------------- one call and all that can be checked of it */

sffn_ffn_args result_args(struct result *result, struct guarded *memory, sffn_context *ctx,
                          const struct layer *layer, const float *x, size_t n_tokens)
{
    size_t d = layer->spec.d_model, f = layer->spec.d_ff;
    result->y = GUARDED_FLOATS(memory, n_tokens * d);
    result->h = GUARDED_FLOATS(memory, n_tokens * f);
    for (size_t i = 0; i < n_tokens * d; i++)
        result->y[i] = NAN;
    for (size_t i = 0; i < n_tokens * f; i++)
        result->h[i] = NAN;
    result->active = make_set(ctx, NULL, n_tokens, layer->spec.d_ff, 1);
    result->stats = (sffn_ffn_stats)SFFN_FFN_STATS_INIT;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = result->y;
    args.n_tokens = n_tokens;
    args.h = result->h;
    args.active_out = result->active;
    args.stats = &result->stats;
    return args;
}

void result_free(struct result *result)
{
    sffn_active_set_destroy(result->active);
    result->active = NULL;
}

static void check_members(const struct result *result, const struct layer *layer,
                          const struct reference *ref, const char *what)
{
    size_t f = layer->spec.d_ff;
    CHECK_SAYS(sffn_active_set_n_tokens(result->active) == ref->n_tokens,
               "%s: active_out has other tokens", what);
    for (size_t t = 0; t < ref->n_tokens; t++)
        for (uint32_t i = 0; i < f; i++) {
            int is_member = sffn_active_set_contains(result->active, t, i);
            size_t at = t * f + i;
            CHECK_SAYS(is_member ? ref->perhaps[at] : !ref->surely[at],
                       "%s: token %zu neuron %u is %s, g = %g", what, t, (unsigned)i,
                       is_member ? "active" : "missing", ref->g[at]);
            CHECK_SAYS(is_member || result->h[at] == 0.0f,
                       "%s: token %zu neuron %u is skipped, but h = %g", what, t, (unsigned)i,
                       (double)result->h[at]);
        }
}

static void check_counts(const struct result *result, const struct layer *layer,
                         const struct reference *ref, const uint8_t *candidates, const char *what)
{
    const struct spec *spec = &layer->spec;
    const sffn_ffn_stats *stats = &result->stats;
    size_t f = spec->d_ff, n = ref->n_tokens * f, d = spec->d_model;
    uint64_t n_selected = 0, n_active = 0, n_nonzero = 0;
    for (size_t k = 0; k < n; k++) {
        n_selected += !candidates || candidates[k];
        n_nonzero += result->h[k] != 0.0f;
    }
    for (size_t t = 0; t < ref->n_tokens; t++)
        n_active += sffn_active_set_count(result->active, t);
    CHECK_SAYS(stats->path == SFFN_PATH_SPARSE, "%s: path %d", what, (int)stats->path);
    CHECK_SAYS(stats->n_tokens == ref->n_tokens, "%s: n_tokens", what);
    CHECK_SAYS(stats->n_selected == n_selected, "%s: n_selected %llu, expected %llu", what,
               (unsigned long long)stats->n_selected, (unsigned long long)n_selected);
    CHECK_SAYS(stats->n_active == n_active, "%s: n_active %llu, but active_out has %llu", what,
               (unsigned long long)stats->n_active, (unsigned long long)n_active);
    CHECK_SAYS(stats->n_nonzero >= n_nonzero && stats->n_nonzero <= n_active,
               "%s: n_nonzero %llu, h has %llu", what, (unsigned long long)stats->n_nonzero,
               (unsigned long long)n_nonzero);
    if (spec->activation == SFFN_ACT_DRELU || spec->rule == SFFN_RULE_ABS_H)
        CHECK_SAYS(stats->n_nonzero == n_nonzero,
                   "%s: n_nonzero %llu, expected %llu: no re-compaction", what,
                   (unsigned long long)stats->n_nonzero, (unsigned long long)n_nonzero);
    if (spec->is_gated && ref->n_tokens <= 8)
        CHECK_SAYS(stats->union_active == sffn_active_set_union_count(result->active),
                   "%s: union_active %llu", what, (unsigned long long)stats->union_active);
    if (ref->n_tokens != 1 || spec->block_size != 1 || candidates)
        return;
    uint64_t bytes = stats->n_nonzero * weight_bytes(layer->down_packed, d);
    if (spec->is_gated)
        bytes +=
            f * weight_bytes(layer->gate_packed, d) + n_active * weight_bytes(layer->up_packed, d);
    else
        bytes += f * weight_bytes(layer->up_packed, d);
    CHECK_SAYS(stats->touched_bytes == bytes, "%s: touched_bytes %llu, expected %llu", what,
               (unsigned long long)stats->touched_bytes, (unsigned long long)bytes);
}

void result_check(const struct result *result, const struct layer *layer,
                  const struct reference *ref, const uint8_t *candidates, int is_dense,
                  const char *what)
{
    size_t d = layer->spec.d_model, f = layer->spec.d_ff;
    double *h = malloc(f * sizeof *h), *y = malloc(d * sizeof *y),
           *y_error = malloc(d * sizeof *y_error);
    CHECK(h && y && y_error);
    if (!is_dense) {
        check_members(result, layer, ref, what);
        check_counts(result, layer, ref, candidates, what);
    }
    for (size_t t = 0; t < ref->n_tokens; t++) {
        for (size_t i = 0; i < f; i++) {
            size_t at = t * f + i;
            h[i] = (double)result->h[at];
            CHECK_WITHIN(h[i], ref->h[at], ref->h_error[at], "%s: token %zu h[%zu]", what, t, i);
        }
        /* the down product alone, from the h that it really had: a much narrower bound than the
         * whole layer's */
        reference_down(layer, h, NULL, y, y_error);
        for (size_t j = 0; j < d; j++) {
            double got = (double)result->y[t * d + j];
            CHECK_WITHIN(got, y[j], y_error[j], "%s: token %zu y[%zu] of the h returned", what, t,
                         j);
            CHECK_WITHIN(got, ref->y[t * d + j], ref->y_error[t * d + j], "%s: token %zu y[%zu]",
                         what, t, j);
        }
    }
    free(h);
    free(y);
    free(y_error);
}
