/* cascade.c  The gate's upper bits, some of them at a time, each step only for the neurons that the ones before could not rule out.
 *
 * A first step may come before the planes: a copy in 2 bits of which a token reads only the columns where |x| is large (columns.h). Half of the
 * columns hold nine tenths of a normal distribution's squares, so that 2 bits of half of them tell much more than 1 bit of all.
 *
 * Row i is coded with `bits` bits per weight: u in [0, 2^bits), weight = scale * (2u - (2^bits - 1)), so that the upper k bits of u are the
 * code of a k-bit row whose levels are again centred, and planes nest: with U_k the sum of (upper k bits) * q over the row,
 * U_(k+b) = 2^b U_k + (sum of (next b bits) * q). Those are integers. One scale per row serves all its blocks, and one scale per token
 * all of x: what that costs in precision is measured and part of the doubt.
 *
 * x is centred before it is rounded: the mean of real inputs holds much of their energy in a few columns, and W * mean is known exactly.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "base/fp16.h"
#include "predictor/columns.h"
#include "predictor/predictor.h"

#define MAX_BITS    4
#define COLUMN_BITS 2
#define Q_SLACK     64   /* what plane_dot may read behind q */
#define CHUNK_ROWS  2048 /* rows on their way through the steps, for one token; fewer for several */

/* What a step reads of a row beside its planes. bf16: the scale is rounded before it is used, the error is rounded up. */
struct row_terms {
    float base; /* gate_bias + w . mean */
    uint16_t scale, error;
};

struct sffn_cascade {
    uint32_t bits, step_bits, n_steps;
    /* Of each step in turn: its bits by twos, the most significant first, and a single one if it is left over. A plane of two bits, [n_rows][n_inputs * 2
     * / 8], takes the room of two planes of one bit, and the time of one. */
    uint8_t *planes;
    size_t bit_bytes, owned_bytes; /* of one row and bit */
    struct row_terms *rows;        /* [n_steps][n_rows] */
    float *mean;                   /* [n_inputs] */
    /* The error of a score made with rounded x, in units of the row's own error: how many times ||x - rounded x|| counts. */
    float rounding[MAX_BITS];
    /* The first step that reads columns; n_columns 0: there is none. */
    uint32_t n_columns;
    uint8_t *codes;
    size_t codes_bytes;
    struct row_terms *code_rows; /* [n_rows] */
    float code_rounding;
};

/* ---- creation ---- */

struct build {
    const struct sffn_cascade *c;
    const sffn_predictor_config *config;
    size_t src_bytes;
    float *scratch;      /* [nth][2 * d_model] */
    double *row_squares; /* [d_ff]: mean square of the row */
    uint32_t *bad;       /* [nth]: first row + 1 that is not finite, or 0 */
};

static uint16_t to_bf16(float v, int up)
{
    uint32_t bits = sffn_f32_bits(v);
    bits += up ? 0xffffu : 0x7fffu + (bits >> 16 & 1);
    return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t v)
{
    return sffn_f32_from_bits((uint32_t)v << 16);
}

/* The best scale for the upper `k` of `bits` bits, in the sense of least squares, and the mean square error that it leaves. Sums in lanes,
 * which compilers can keep in vectors. */
static double fit(const float *w, const uint8_t *u, size_t n, uint32_t k, uint32_t bits,
                  double squares, double *error)
{
    double wls[8] = {0}, wl = 0, ll = 0;
    int32_t lls[8] = {0}; /* at most 15^2 * 2^20 / 8 */
    const int odd = (1 << k) - 1, shift = (int)(bits - k);
    for (size_t j = 0; j < n; j += 8) /* n is a multiple of 32 */
        for (size_t i = 0; i < 8; i++) {
            const int32_t level = 2 * (u[j + i] >> shift) - odd;
            wls[i] += (double)w[j + i] * level;
            lls[i] += level * level;
        }
    for (size_t i = 0; i < 8; i++) {
        wl += wls[i];
        ll += lls[i];
    }
    const double scale = from_bf16(to_bf16((float)(wl / ll), 0));
    const double left = squares - 2 * scale * wl + scale * scale * ll;
    *error = left > 0 ? left / (double)n : 0;
    return scale;
}

#define BINS_PER_RMS 128
#define N_BINS                                                                                     \
    (4 *                                                                                           \
     BINS_PER_RMS) /* what is larger than 4 root mean squares has the largest code in any case */

/* The distance of codes that leaves the least error, among 13 around the best one of a normal distribution. The codes' levels are symmetric, so
 * a histogram of |w| tells it: the row is read once, not 13 times. */
static double best_step(const float *w, size_t n, uint32_t bits, double rms)
{
    /* in standard deviations of a normal distribution */
    static const double normal[MAX_BITS + 1] = {0, 1, 0.996, 0.586, 0.335};
    const float inv = (float)(BINS_PER_RMS / rms);
    const int half = 1 << (bits - 1);
    uint32_t counts[N_BINS + 1] = {0};
    double tail = 0, best = rms * normal[bits], most = 0;
    if (bits == 1)
        return best;
    for (size_t j = 0; j < n; j++) {
        const float v = fabsf(w[j]) * inv;
        counts[v < (float)N_BINS ? (int32_t)v : N_BINS]++;
        tail += v < (float)N_BINS ? 0 : (double)v;
    }
    for (int i = 0; i < 13; i++) {
        const double step = normal[bits] * (0.8 + 0.05 * i), bins = step * BINS_PER_RMS;
        double wl = tail * (2 * half - 1),
               ll = (double)counts[N_BINS] * (2 * half - 1) * (2 * half - 1);
        for (int b = 0; b < N_BINS; b++) {
            const int m = (int)((b + 0.5) / bins), level = 2 * (m < half ? m : half - 1) + 1;
            wl += (b + 0.5) * level * counts[b];
            ll += (double)level * level * counts[b];
        }
        /* What the best scale leaves of the squares is least where this is largest. */
        if (wl * wl > most * ll) {
            most = wl * wl / ll;
            best = rms * step;
        }
    }
    return best;
}

/* Codes of a row. They do not depend on how many bits a step reads, so that the last step's score is the same for any. */
static void quantise(const float *w, size_t n, uint32_t bits, double rms, uint8_t *u)
{
    const float inv = (float)(1 / best_step(w, n, bits, rms)), half = (float)(1 << (bits - 1)),
                top = 2 * half - 1;
    for (size_t j = 0; j < n; j++) {
        float v = w[j] * inv + half;
        v = v > 0 ? v : 0; /* also when a row is so small that inv overflowed */
        v = v < top ? v : top;
        u[j] = (uint8_t)(int32_t)v;
    }
}

/* The bits that a step reads: [*first, *end), counted from the most significant one. */
static void step_range(const struct sffn_cascade *c, uint32_t step, uint32_t *first, uint32_t *end)
{
    *first = step * c->step_bits;
    *end = *first + c->step_bits < c->bits ? *first + c->step_bits : c->bits;
}

/* How many bits the plane that begins at bit `first` has, in a step that ends before bit `end`. */
static uint32_t plane_bits(uint32_t first, uint32_t end)
{
    return end - first < 2 ? 1 : 2;
}

static uint8_t *plane_row(const struct sffn_cascade *c, size_t n_rows, uint32_t first,
                          uint32_t bits, size_t row)
{
    return c->planes + (first * n_rows + bits * row) * c->bit_bytes;
}

/* `bits` bits of the codes from bit `shift` on, in the order that plane_dot wants. */
static void pack_plane(const uint8_t *u, size_t n, uint32_t shift, uint32_t bits, uint8_t *row)
{
    const uint32_t mask = bits == 1 ? 0x01010101u : 0x03030303u;
    const size_t total = n / 8 * bits, per_byte = 8 / bits;
    for (size_t first = 0; first < total; first += 64) {
        const size_t bytes = total - first < 64 ? total - first : 64;
        for (size_t i = 0; i < bytes; i += 4) {
            uint32_t four = 0;
            for (size_t b = 0; b < per_byte; b++) {
                uint32_t codes;
                memcpy(&codes, u + first * per_byte + b * bytes + i, sizeof(codes));
                four |= (codes >> shift & mask) << b * bits;
            }
            memcpy(row + first + i, &four, sizeof(four));
        }
    }
}

/* Returns 0 when a weight is not finite. */
static int build_row(const struct build *b, uint32_t r, const float *w, uint8_t *u)
{
    const struct sffn_cascade *c = b->c;
    const size_t n = b->config->d_model;
    double base = b->config->gate_bias ? (double)b->config->gate_bias[r] : 0, squares = 0;
    double bases[8] = {0}, lanes[8] = {0};
    for (size_t j = 0; j < n; j += 8)
        for (size_t i = 0; i < 8; i++) {
            const double v = (double)w[j + i];
            bases[i] += v * (double)c->mean[j + i];
            lanes[i] += v * v;
        }
    for (size_t i = 0; i < 8; i++) {
        base += bases[i];
        squares += lanes[i];
    }
    if (!isfinite(squares))
        return 0;
    b->row_squares[r] = squares / (double)n;
    if (squares > 0 && c->bits) /* no bits: columns alone */
        quantise(w, n, c->bits, sqrt(squares / (double)n), u);
    else
        memset(u, 0, n);
    for (uint32_t s = 0; s < c->n_steps; s++) {
        uint32_t first, end;
        step_range(c, s, &first, &end);
        double error = 0;
        const double scale = squares > 0 ? fit(w, u, n, end, c->bits, squares, &error) : 0;
        c->rows[(size_t)s * b->config->d_ff + r] = (struct row_terms){
            (float)base, to_bf16((float)scale, 0), to_bf16((float)sqrt(error), 1)};
        for (uint32_t bits; first < end; first += bits) {
            bits = plane_bits(first, end);
            pack_plane(u, n, c->bits - first - bits, bits,
                       plane_row(c, b->config->d_ff, first, bits, r));
        }
    }
    if (c->n_columns) {
        double error = 0, scale = 0;
        if (squares > 0) {
            quantise(w, n, COLUMN_BITS, sqrt(squares / (double)n), u);
            scale = fit(w, u, n, COLUMN_BITS, COLUMN_BITS, squares, &error);
        }
        sffn_columns_store(c->codes, b->config->d_ff, b->config->d_model, r, u);
        c->code_rows[r] = (struct row_terms){(float)base, to_bf16((float)scale, 0),
                                             to_bf16((float)sqrt(error), 1)};
    }
    return 1;
}

/* A thread's share of the rows, whole groups of those whose codes share bytes. */
static void share_rows(size_t n_rows, uint32_t ith, uint32_t nth, size_t *first, size_t *last)
{
    const size_t group = SFFN_COLUMNS_ROWS;
    sffn_share((n_rows + group - 1) / group, ith, nth, first, last);
    *first *= group;
    *last = *last * group < n_rows ? *last * group : n_rows;
}

static void build_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct build *b = arg;
    const size_t n = b->config->d_model;
    float *w = b->scratch + ith * 2 * n;
    size_t first, last;
    share_rows(b->config->d_ff, ith, nth, &first, &last);
    for (size_t r = first; r < last; r++) {
        sffn_dtype_to_f32(b->config->gate.dtype,
                          (const uint8_t *)b->config->gate.data + r * b->src_bytes, n, w);
        if (!build_row(b, (uint32_t)r, w, (uint8_t *)(w + n)) && !b->bad[ith])
            b->bad[ith] = (uint32_t)r + 1;
    }
}

/* How much the rounding of x weighs beside the rows' own errors. */
static float measure_rounding(const struct row_terms *rows, const double *row_squares,
                              size_t n_rows)
{
    double weights = 0, errors = 0;
    for (size_t r = 0; r < n_rows; r++) {
        const double e = from_bf16(rows[r].error);
        weights += row_squares[r];
        errors += e * e;
    }
    return errors > 0 ? (float)sqrt(weights / errors) : 0;
}

/* The share as a number of columns, rounded up; but what is larger than a whole number by the rounding of a float is that number, so that the
 * share which sffn_predictor_get_info() tells means the same columns again. */
static uint32_t wanted_columns(const sffn_predictor_config *config)
{
    const double wanted = ceil((double)config->column_share * config->d_model * (1 - 0x1p-23));
    return wanted < config->d_model ? (uint32_t)wanted : config->d_model;
}

static sffn_status check_config(sffn_context *ctx, const sffn_predictor_config *config)
{
    if (!(config->column_share >= 0 && config->column_share <= 1))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "cascade: column_share is %g; expected a number in [0, 1]",
                         (double)config->column_share);
    if (config->bits < (config->column_share > 0 ? 0 : 1) || config->bits > MAX_BITS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "cascade: bits is %u; expected 1..%d%s",
                         (unsigned)config->bits, MAX_BITS,
                         config->bits ? "" : ", or a column_share besides");
    if (config->bits > 0 && (config->step_bits < 1 || config->step_bits > MAX_BITS))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "cascade: step_bits is %u; expected 1..%d",
                         (unsigned)config->step_bits, MAX_BITS);
    if (config->decision != SFFN_DECIDE_THRESHOLD)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "cascade: decision is %d; its steps decide by SFFN_DECIDE_THRESHOLD",
                         (int)config->decision);
    if (config->d_model % 32 || config->d_model > SFFN_PLANE_INPUTS_MAX)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "cascade: d_model is %u; expected a multiple of 32 up to %u",
                         (unsigned)config->d_model, SFFN_PLANE_INPUTS_MAX);
    if (wanted_columns(config) > SFFN_COLUMNS_MAX)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "cascade: column_share is %g of d_model %u; expected at most %u columns",
                         (double)config->column_share, (unsigned)config->d_model, SFFN_COLUMNS_MAX);
    for (uint32_t j = 0; config->input_mean && j < config->d_model; j++)
        if (!isfinite(config->input_mean[j]))
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "cascade: input_mean[%u] is %g; expected a finite number", (unsigned)j,
                             (double)config->input_mean[j]);
    sffn_matmul_config m = SFFN_MATMUL_CONFIG_INIT;
    struct sffn_pack_plan plan;
    m.n_rows = config->d_ff;
    m.n_cols = config->d_model;
    m.weights = config->gate;
    const sffn_status status = sffn_pack_plan(ctx, "cascade", &m, &plan);
    if (status == SFFN_OK && config->gate.layout != SFFN_LAYOUT_ROWS)
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "cascade: gate.layout must be SFFN_LAYOUT_ROWS");
    return status;
}

static sffn_status build(sffn_context *ctx, struct sffn_cascade *c,
                         const sffn_predictor_config *config)
{
    const uint32_t nth = sffn_context_n_threads(ctx);
    const size_t n = config->d_model, scratch_bytes = (size_t)nth * 2 * n * sizeof(float);
    struct build b = {.c = c, .config = config};
    sffn_status status = SFFN_OK;
    b.src_bytes = config->gate.row_bytes ? config->gate.row_bytes
                                         : sffn_dtype_row_bytes(config->gate.dtype, n);
    b.scratch = sffn_mem_alloc(ctx, scratch_bytes);
    b.row_squares = sffn_mem_alloc(ctx, config->d_ff * sizeof(double));
    b.bad = sffn_mem_alloc_zero(ctx, nth * sizeof(uint32_t));
    if (!b.scratch || !b.row_squares || !b.bad)
        status =
            sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                      "the allocator returned NULL for %zu bytes to make a cascade", scratch_bytes);
    if (status == SFFN_OK)
        status = sffn_context_enter(ctx);
    if (status == SFFN_OK) {
        sffn_context_run_phases(ctx, 1, build_phase, &b);
        sffn_context_leave(ctx);
        for (uint32_t i = 0; i < nth && status == SFFN_OK; i++)
            if (b.bad[i])
                status = sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                                   "cascade: row %u of the gate has a weight that is not finite",
                                   (unsigned)(b.bad[i] - 1));
    }
    for (uint32_t s = 0; status == SFFN_OK && s < c->n_steps; s++)
        c->rounding[s] =
            measure_rounding(c->rows + (size_t)s * config->d_ff, b.row_squares, config->d_ff);
    if (status == SFFN_OK && c->n_columns)
        c->code_rounding = measure_rounding(c->code_rows, b.row_squares, config->d_ff);
    sffn_mem_free(ctx, b.scratch, scratch_bytes);
    sffn_mem_free(ctx, b.row_squares, config->d_ff * sizeof(double));
    sffn_mem_free(ctx, b.bad, nth * sizeof(uint32_t));
    return status;
}

sffn_status sffn_cascade_init(sffn_context *ctx, struct sffn_predictor *p,
                              const sffn_predictor_config *config)
{
    struct sffn_selector *s = &p->selector;
    sffn_status status = check_config(ctx, config);
    if (status != SFFN_OK)
        return status;
    struct sffn_cascade *c = s->cascade = sffn_mem_alloc_zero(ctx, sizeof(*c));
    if (!c)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "the allocator returned NULL for a cascade");
    c->bits = config->bits;
    c->step_bits = config->step_bits < c->bits ? config->step_bits : c->bits;
    c->n_steps = c->bits ? (c->bits + c->step_bits - 1) / c->step_bits : 0;
    c->bit_bytes = config->d_model / 8;
    if (config->column_share > 0) {
        c->n_columns = wanted_columns(config);
        c->codes_bytes = sffn_columns_bytes(config->d_ff, config->d_model);
    }
    if (!sffn_checked_mul(c->bit_bytes * c->bits, config->d_ff, &c->owned_bytes) ||
        (c->n_columns && !c->codes_bytes))
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "cascade: its planes are too large");
    c->mean = sffn_mem_alloc_zero(ctx, config->d_model * sizeof(float));
    if (c->bits) {
        c->planes = sffn_mem_alloc_weights(ctx, c->owned_bytes);
        c->rows = sffn_mem_alloc(ctx, (size_t)c->n_steps * config->d_ff * sizeof(*c->rows));
    }
    if (c->n_columns) {
        c->codes = sffn_mem_alloc_weights(ctx, c->codes_bytes);
        c->code_rows = sffn_mem_alloc(ctx, config->d_ff * sizeof(*c->code_rows));
    }
    if (!c->mean || (c->bits && (!c->planes || !c->rows)) ||
        (c->n_columns && (!c->codes || !c->code_rows)))
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for %zu bytes of a cascade",
                         c->owned_bytes + c->codes_bytes);
    if (c->n_columns)
        memset(c->codes, 0, c->codes_bytes);
    if (config->input_mean)
        memcpy(c->mean, config->input_mean, config->d_model * sizeof(float));
    s->scorer.margin = config->margin;
    sffn_selector_add_step(s, sffn_select_cascade);
    return build(ctx, c, config);
}

void sffn_cascade_fini(const sffn_context *ctx, struct sffn_selector *s)
{
    struct sffn_cascade *c = s->cascade;
    if (!c)
        return;
    sffn_mem_free_weights(ctx, c->planes, c->owned_bytes);
    sffn_mem_free(ctx, c->rows, (size_t)c->n_steps * s->n_rows * sizeof(*c->rows));
    sffn_mem_free_weights(ctx, c->codes, c->codes_bytes);
    sffn_mem_free(ctx, c->code_rows, s->n_rows * sizeof(*c->code_rows));
    sffn_mem_free(ctx, c->mean, s->n_inputs * sizeof(float));
    sffn_mem_free(ctx, c, sizeof(*c));
}

void sffn_cascade_get_bits(const struct sffn_selector *s, uint32_t *bits, uint32_t *step_bits,
                           float *column_share)
{
    *column_share = (float)s->cascade->n_columns / (float)s->n_inputs;
    *bits = s->cascade->bits;
    *step_bits = s->cascade->step_bits;
}

/* ---- prediction ---- */

/* The margin is meant for scores of four bits. Coarser ones take more standard deviations to keep the same share of the active neurons, since
 * more of these lie within the error; measured, bench/research/SCREENS.md. */
static const float margin_factor[MAX_BITS + 1] = {0, 1.9f, 1.7f, 1.3f, 1.0f};
/* Of the step with columns: when planes follow, which miss some more, and when they don't. */
static const float column_factor[2] = {1.7f, 1.45f};

/* One token's x, centred and rounded: x - mean is about scale * q. */
struct rounded {
    float scale, norm,
        lost; /* ||x - mean||, and the norm of what rounding lost; NaN when x is not finite */
    int32_t sum;
};

/* Sums in 16 lanes, which compilers can keep in vectors, of up to 16 values at a time. */
static struct rounded round_x(const float *x, const float *mean, size_t n, int8_t *q)
{
    const float to_integer =
        0x1.8p23f; /* v + this - this is v, rounded to nearest even, for |v| < 2^22 */
    float max[16] = {0}, squares[16] = {0}, lost[16] = {0}, v[16];
    int32_t sums[16] = {0};
    struct rounded r = {0, 0, 0, 0};
    float amax = 0;
    double norm = 0, loss = 0;
    for (size_t j = 0; j < n; j += 16) {                        /* n is a multiple of 32 */
        memcpy(v, (const char *)x + j * sizeof(*v), sizeof(v)); /* any address */
        for (size_t i = 0; i < 16; i++) {
            const float a = v[i] - mean[j + i];
            max[i] = fabsf(a) > max[i] ? fabsf(a) : max[i];
            squares[i] += a * a;
        }
    }
    for (size_t i = 0; i < 16; i++) {
        amax = max[i] > amax ? max[i] : amax;
        norm += (double)squares[i];
    }
    r.norm = (float)sqrt(norm);
    if (!(r.norm <= FLT_MAX)) { /* also any NaN */
        r.scale = r.norm = r.lost = NAN;
        memset(q, 0, n);
        return r;
    }
    const float inv = amax < 0x1p-100f ? 0 : 127.0f / amax;
    r.scale = inv == 0 ? 0 : amax / 127.0f;
    for (size_t j = 0; j < n; j += 16) {
        memcpy(v, (const char *)x + j * sizeof(*v), sizeof(v));
        for (size_t i = 0; i < 16; i++) {
            const float a = v[i] - mean[j + i], rounded = (a * inv + to_integer) - to_integer;
            const float rest = a - rounded * r.scale;
            lost[i] += rest * rest;
            q[j + i] = (int8_t)(int32_t)rounded;
            sums[i] += (int32_t)rounded;
        }
    }
    for (size_t i = 0; i < 16; i++) {
        loss += (double)lost[i];
        r.sum += sums[i];
    }
    r.lost = (float)sqrt(loss);
    return r;
}

/* One thread's scratch. */
struct scratch {
    int32_t dots[CHUNK_ROWS], codes[CHUNK_ROWS]; /* [row][token] */
    uint32_t listed[CHUNK_ROWS];                 /* rows, and which tokens need them */
    uint8_t masks[CHUNK_ROWS];
    /* With one token: what the scores may be at most, and the positions that stay. */
    float upper[CHUNK_ROWS];
    uint32_t kept[CHUNK_ROWS];
    /* [SFFN_TILE_TOKENS][n_inputs], and Q_SLACK; then what the step with columns needs */
    int8_t q[];
};

/* Of the step with columns. */
struct column_scratch {
    int32_t sums[SFFN_COLUMNS_BLOCK];
    uint8_t masks[SFFN_COLUMNS_BLOCK];
    uint32_t columns[]; /* [SFFN_TILE_TOKENS][n_columns rounded up], and as many int8 factors */
};

static size_t rounded_columns(const struct sffn_cascade *c)
{
    return (c->n_columns + SFFN_COLUMNS_STEP - 1) / SFFN_COLUMNS_STEP * SFFN_COLUMNS_STEP;
}

/* Behind q, in one thread's scratch. */
static size_t column_scratch_offset(const struct sffn_selector *s)
{
    return (sizeof(struct scratch) + (size_t)SFFN_TILE_TOKENS * s->n_inputs + Q_SLACK + 63) &
           ~(size_t)63;
}

size_t sffn_cascade_own_bytes(const struct sffn_selector *s)
{
    if (!s->cascade)
        return 0;
    return column_scratch_offset(s) +
           (s->cascade->n_columns
                ? sizeof(struct column_scratch) + SFFN_TILE_TOKENS * rounded_columns(s->cascade) *
                                                      (sizeof(uint32_t) + sizeof(int8_t))
                : 0);
}

uint64_t sffn_cascade_row_bytes(const struct sffn_selector *s, uint32_t step)
{
    const struct sffn_cascade *c = s->cascade;
    uint32_t first, end;
    if (step == SFFN_CASCADE_COLUMNS) /* four codes to a byte */
        return (c->n_columns + 3) / 4 + sizeof(*c->rows) + (s->scorer.limits ? sizeof(float) : 0);
    step_range(c, step, &first, &end);
    return (end - first) * c->bit_bytes + sizeof(*c->rows) + (s->scorer.limits ? sizeof(float) : 0);
}

uint64_t sffn_cascade_first_bytes(const struct sffn_selector *s)
{
    return s->n_rows * sffn_cascade_row_bytes(s, s->cascade->n_columns ? SFFN_CASCADE_COLUMNS : 0);
}

/* The rows of a step: [first, first + n), or the first n that own lists. */
struct chunk {
    size_t first, n;
    int is_list;
};

static uint32_t row_of(const struct scratch *own, const struct chunk *chunk, size_t i)
{
    return chunk->is_list ? own->listed[i] : (uint32_t)(chunk->first + i);
}

/* own->codes: the sums of codes that the steps up to this one have read. */
static void sum_planes(const struct sffn_selector *s, const struct sffn_selection *run,
                       struct scratch *own, uint32_t step, const struct chunk *chunk)
{
    const struct sffn_cascade *c = s->cascade;
    const size_t n_tokens = run->n_tokens;
    const uint8_t *masks = chunk->is_list && n_tokens > 1
                               ? own->masks
                               : NULL; /* one token needs every row that is listed */
    uint32_t first, end;
    step_range(c, step, &first, &end);
    for (uint32_t bits; first < end; first += bits) {
        bits = plane_bits(first, end);
        run->k->plane_dot.fn(
            first ? own->dots : own->codes,
            plane_row(c, s->n_rows, first, bits, chunk->is_list ? 0 : chunk->first),
            bits * c->bit_bytes, chunk->is_list ? own->listed : NULL, masks, chunk->n, own->q,
            s->n_inputs, n_tokens, s->n_inputs, bits);
        for (size_t i = 0; first && i < chunk->n; i++)
            for (size_t t = 0; t < n_tokens; t++)
                if (!masks || masks[i] >> t & 1)
                    own->codes[i * n_tokens + t] =
                        own->codes[i * n_tokens + t] * (1 << bits) + own->dots[i * n_tokens + t];
    }
}

/* A row's score, and what it may be at most. */
static float score_of(const struct row_terms *r, const struct rounded *x, int32_t codes,
                      int32_t odd, float doubt, float *upper)
{
    /* exact: below 2^53 */
    const float level = (float)(2.0 * codes - (double)odd * x->sum);
    const float score = r->base + from_bf16(r->scale) * (x->scale * level);
    *upper = score + doubt * from_bf16(r->error);
    return score;
}

/* Keeps those of rows that one token may need in own's list. Returns how many. */
static size_t keep_for_one(const struct sffn_selector *s, const struct sffn_selection *run,
                           struct scratch *own, const struct rounded *x,
                           const struct row_terms *terms, const struct chunk *chunk, int32_t odd,
                           float doubt)
{
    uint32_t *kept = own->kept;
    size_t n_kept = 0;
    for (size_t i = 0; i < chunk->n; i++) {
        const uint32_t row = row_of(own, chunk, i);
        const float score = score_of(&terms[row], x, own->codes[i], odd, doubt, &own->upper[i]);
        if (run->scores)
            run->scores[row] = score;
    }
    if (s->scorer.limits)
        for (size_t i = 0; i < chunk->n; i++) {
            kept[n_kept] = (uint32_t)i;
            n_kept +=
                (size_t)sffn_score_passes(&s->scorer, row_of(own, chunk, i), own->upper[i], 0);
        }
    else
        n_kept = run->k->threshold.fn(kept, own->upper, 0, chunk->n, s->scorer.limit,
                                      s->scorer.keep_equal, 0);
    for (size_t i = 0; i < n_kept; i++) {
        own->listed[i] = row_of(own, chunk, kept[i]);
        own->codes[i] = own->codes[kept[i]];
        own->masks[i] = 1;
    }
    return n_kept;
}

/* The same for several tokens, each of which may need some. */
static size_t keep_for_some(const struct sffn_selector *s, const struct sffn_selection *run,
                            struct scratch *own, const struct rounded *x,
                            const struct row_terms *terms, const struct chunk *chunk, int32_t odd,
                            const float *doubt)
{
    const size_t n_tokens = run->n_tokens;
    size_t n_kept = 0;
    for (size_t i = 0; i < chunk->n; i++) {
        const uint32_t row = row_of(own, chunk, i);
        const unsigned wanted = chunk->is_list ? own->masks[i] : (1u << n_tokens) - 1;
        unsigned mask = 0;
        for (size_t t = 0; t < n_tokens; t++) {
            float upper;
            if (!(wanted >> t & 1))
                continue;
            const float score =
                score_of(&terms[row], &x[t], own->codes[i * n_tokens + t], odd, doubt[t], &upper);
            if (run->scores)
                run->scores[t * run->scores_stride + row] = score;
            mask |= (unsigned)sffn_score_passes(&s->scorer, row, upper, 0) << t;
        }
        if (!mask)
            continue;
        own->listed[n_kept] = row;
        own->masks[n_kept] = (uint8_t)mask;
        memmove(own->codes + n_kept * n_tokens, own->codes + i * n_tokens,
                n_tokens * sizeof(*own->codes));
        n_kept++;
    }
    return n_kept;
}

/* One step; the rows that stay are own's new list. Returns how many. */
static size_t run_step(const struct sffn_selector *s, const struct sffn_selection *run,
                       struct scratch *own, const struct rounded *x, uint32_t step,
                       const struct chunk *chunk)
{
    const struct sffn_cascade *c = s->cascade;
    const struct row_terms *terms = c->rows + (size_t)step * s->n_rows;
    float doubt[SFFN_TILE_TOKENS];
    uint32_t first, end;
    step_range(c, step, &first, &end);
    for (size_t t = 0; t < run->n_tokens; t++)
        doubt[t] =
            s->scorer.margin * margin_factor[end] * (x[t].norm + c->rounding[step] * x[t].lost);
    sum_planes(s, run, own, step, chunk);
    return run->n_tokens == 1 ? keep_for_one(s, run, own, x, terms, chunk, (1 << end) - 1, doubt[0])
                              : keep_for_some(s, run, own, x, terms, chunk, (1 << end) - 1, doubt);
}

/* A chunk through all steps, and to the result. */
static void run_steps(const struct sffn_selector *s, const struct sffn_selection *run,
                      struct scratch *own, const struct rounded *x, struct chunk chunk,
                      struct sffn_segment *kept)
{
    for (uint32_t step = 0; step < s->cascade->n_steps; step++) {
        chunk.is_list |= step > 0;
        if (run->later_bytes && chunk.is_list)
            *run->later_bytes += chunk.n * sffn_cascade_row_bytes(s, step);
        chunk.n = run_step(s, run, own, x, step, &chunk);
    }
    for (size_t i = 0; run->list && i < chunk.n; i++)
        sffn_select_append(run, run->list, kept, own->listed[i], own->masks[i]);
}

/* The step with columns for rows [first, last) of one block. Rows that pass for token t get bit t in own->masks. */
static void run_columns(const struct sffn_selector *s, const struct sffn_selection *run,
                        struct column_scratch *own, const struct rounded *x,
                        const struct sffn_picked *picked, size_t first, size_t last)
{
    const struct sffn_cascade *c = s->cascade;
    memset(own->masks, 0, last - first);
    for (size_t t = 0; t < run->n_tokens; t++) {
        /* What was not read, and what rounding lost, blur the score in proportion to the row itself, not to its error. */
        const float rest = x[t].scale * sqrtf((float)picked[t].rest),
                    unread = rest * rest + x[t].lost * x[t].lost,
                    read = x[t].norm > rest ? x[t].norm * x[t].norm - rest * rest : 0,
                    doubt = s->scorer.margin * column_factor[c->n_steps == 0] *
                            sqrtf(read + c->code_rounding * c->code_rounding * unread);
        /* SFFN_COLUMNS_MAX: fits */
        const int32_t all_odd = ((1 << COLUMN_BITS) - 1) * picked[t].sum;
        sffn_columns_sums(run->k, c->codes, s->n_rows, s->n_inputs, &picked[t], (uint32_t)first,
                          (uint32_t)last, own->sums);
        for (size_t row = first, n; row < last; row += n) {
            const struct row_terms *r = &c->code_rows[row];
            float score[SFFN_COLUMNS_ROWS], upper[SFFN_COLUMNS_ROWS];
            n = last - row < SFFN_COLUMNS_ROWS ? last - row : SFFN_COLUMNS_ROWS;
            for (size_t i = 0; i < n; i++) { /* plain, so that compilers can use vectors */
                const int32_t level = 2 * own->sums[row - first + i] - all_odd;
                score[i] = r[i].base + from_bf16(r[i].scale) * (x[t].scale * (float)level);
                upper[i] = score[i] + doubt * from_bf16(r[i].error);
            }
            if (run->scores)
                memcpy(run->scores + t * run->scores_stride + row, score, n * sizeof(*score));
            for (size_t i = 0; i < n; i++)
                own->masks[row - first + i] |=
                    (uint8_t)(sffn_score_passes(&s->scorer, row + i, upper[i], 0) << t);
        }
    }
    if (run->later_bytes) /* a prediction of one token is counted already */
        *run->later_bytes +=
            (run->n_tokens - 1) * (last - first) * sffn_cascade_row_bytes(s, SFFN_CASCADE_COLUMNS);
}

static void select_by_columns(const struct sffn_selector *s, const struct sffn_selection *run,
                              struct scratch *own, const struct rounded *x, size_t first,
                              size_t last, struct sffn_segment *kept)
{
    struct column_scratch *columns =
        (struct column_scratch *)(void *)((char *)own + column_scratch_offset(s));
    const size_t room = rounded_columns(s->cascade);
    struct sffn_picked picked[SFFN_TILE_TOKENS];
    for (size_t t = 0; t < run->n_tokens; t++) {
        picked[t].columns = columns->columns + t * room;
        picked[t].q = (int8_t *)(columns->columns + SFFN_TILE_TOKENS * room) + t * room;
        sffn_columns_pick(own->q + t * s->n_inputs, s->n_inputs, s->cascade->n_columns, &picked[t]);
    }
    for (size_t end; first < last; first = end) {
        end = (first / SFFN_COLUMNS_BLOCK + 1) * SFFN_COLUMNS_BLOCK;
        end = end < last ? end : last;
        run_columns(s, run, columns, x, picked, first, end);
        for (size_t row = first, n = 0; row < end; n = 0) {
            for (; row < end && n < CHUNK_ROWS / run->n_tokens; row++) {
                own->listed[n] = (uint32_t)row;
                own->masks[n] = columns->masks[row - first];
                n += own->masks[n] != 0;
            }
            const struct chunk chunk = {0, n, 1};
            run_steps(s, run, own, x, chunk, kept);
        }
    }
}

void sffn_select_cascade(const struct sffn_selector *s, const struct sffn_selection *run)
{
    struct scratch *own =
        (struct scratch *)(void *)(run->scratch.own + run->ith * run->scratch.own_bytes);
    struct rounded x[SFFN_TILE_TOKENS];
    size_t first, last;
    for (size_t t = 0; t < run->n_tokens; t++)
        x[t] = round_x(
            (const float *)(const void *)((const char *)run->x + t * run->x_stride * sizeof(float)),
            s->cascade->mean, s->n_inputs, own->q + t * s->n_inputs);
    if (s->cascade->n_columns)
        share_rows(s->n_rows, run->ith, run->nth, &first, &last);
    else
        sffn_share(s->n_rows, run->ith, run->nth, &first, &last);
    struct sffn_segment kept = {first * run->expand, 0};
    if (s->cascade->n_columns)
        select_by_columns(s, run, own, x, first, last, &kept);
    else
        for (size_t most = CHUNK_ROWS / run->n_tokens; first < last; first += most) {
            const struct chunk chunk = {first, last - first < most ? last - first : most, 0};
            run_steps(s, run, own, x, chunk, &kept);
        }
    if (run->list)
        run->list->segments[run->ith] = kept;
}
