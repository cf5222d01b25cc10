/* matmul.h: config checks, ownership, decoding, argument checks. Products are in
 * tests/property/test_matmul_random.c. */
#include <math.h>

#include "check.h"
#include "guarded.h"
#include "layer.h"
#include "weights.h"

static sffn_context *ctx;
static float floats[64 * 64];
static unsigned char bytes[64 * 64 * 4];

static sffn_matmul_config config_of(uint32_t n_rows, uint32_t n_cols, int32_t dtype)
{
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = n_rows;
    config.n_cols = n_cols;
    config.weights.data = bytes;
    config.weights.dtype = dtype;
    return config;
}

static sffn_matmul *make(const sffn_matmul_config *config)
{
    sffn_matmul *matmul = NULL;
    CHECK_OK(ctx, sffn_matmul_create(ctx, config, &matmul));
    CHECK(matmul != NULL);
    return matmul;
}

static void config_errors(void **state)
{
    (void)state;
#define REFUSED(rows, cols, type, change, status, words)                                           \
    do {                                                                                           \
        sffn_matmul_config config = config_of(rows, cols, type);                                   \
        sffn_matmul *matmul = (sffn_matmul *)(uintptr_t)1;                                         \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_matmul_create(ctx, &config, &matmul), status, words);                \
        CHECK(matmul == NULL);                                                                     \
    } while (0)
    REFUSED(0, 32, SFFN_F32, (void)0, SFFN_ERR_INVALID_ARGUMENT, "n_rows 0");
    REFUSED(32, 0, SFFN_F32, (void)0, SFFN_ERR_INVALID_ARGUMENT, "n_cols 0");
    REFUSED(32, 32, SFFN_F32, config.weights.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "data NULL");
    REFUSED(32, 32, 5, (void)0, SFFN_ERR_INVALID_ARGUMENT, "dtype 5");
    REFUSED(32, 32, -1, (void)0, SFFN_ERR_INVALID_ARGUMENT, "dtype -1");
    REFUSED(32, 32, SFFN_F32, config.dtype = 5, SFFN_ERR_INVALID_ARGUMENT, "dtype 5");
    REFUSED(32, 32, SFFN_F32, config.dtype = -2, SFFN_ERR_INVALID_ARGUMENT, "dtype -2");
    REFUSED(32, 32, SFFN_F32, config.weights.layout = 2, SFFN_ERR_INVALID_ARGUMENT, "layout 2");
    REFUSED(32, 32, SFFN_F32, config.weights.layout = -1, SFFN_ERR_INVALID_ARGUMENT, "layout -1");
    REFUSED(32, 32, SFFN_F32, config.storage = 2, SFFN_ERR_INVALID_ARGUMENT, "storage 2");
    REFUSED(32, 33, SFFN_Q8_0, (void)0, SFFN_ERR_SHAPE, "33 32");
    REFUSED(32, 48, SFFN_Q4_0, (void)0, SFFN_ERR_SHAPE, "48 32");
    REFUSED(32, 33, SFFN_F32, config.dtype = SFFN_Q8_0, SFFN_ERR_SHAPE, "33 32");
    /* stored rows of 33 weights when columns are neurons */
    REFUSED(33, 32, SFFN_Q8_0, config.weights.layout = SFFN_LAYOUT_COLUMNS, SFFN_ERR_SHAPE, "33");
    REFUSED(4, 32, SFFN_F32, config.weights.row_bytes = 127, SFFN_ERR_SHAPE, "row_bytes 127 128");
    REFUSED(4, 32, SFFN_Q4_0, config.weights.row_bytes = 17, SFFN_ERR_SHAPE, "row_bytes 17 18");
    REFUSED(4, 32, SFFN_F16,
            (config.weights.layout = SFFN_LAYOUT_COLUMNS, config.weights.row_bytes = 7),
            SFFN_ERR_SHAPE, "row_bytes 7 8");
    REFUSED(4, 32, SFFN_F32,
            (config.storage = SFFN_STORAGE_BORROW, config.weights.layout = SFFN_LAYOUT_COLUMNS),
            SFFN_ERR_UNSUPPORTED, NULL);
    REFUSED(4, 32, SFFN_F32, (config.storage = SFFN_STORAGE_BORROW, config.dtype = SFFN_F16),
            SFFN_ERR_UNSUPPORTED, NULL);
    sffn_matmul_config config = config_of(32, 32, SFFN_F32);
    sffn_matmul *matmul = (sffn_matmul *)(uintptr_t)1;
    CHECK_ERROR(ctx, sffn_matmul_create(ctx, NULL, &matmul), SFFN_ERR_INVALID_ARGUMENT,
                "config NULL");
    CHECK(matmul == NULL);
    CHECK_ERROR(ctx, sffn_matmul_create(ctx, &config, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "matmul NULL");
    CHECK(sffn_matmul_create(NULL, &config, &matmul) == SFFN_ERR_INVALID_ARGUMENT);
    sffn_matmul_destroy(NULL);
}

/* Lossless blocks exist for q8_0 and q4_0 columns in whole experts of 32 only. The contract gives
 * no status. */
static void lossless_config_errors(void **state)
{
    (void)state;
#define REFUSED_LOSSLESS(rows, cols, type, change)                                                 \
    do {                                                                                           \
        sffn_matmul_config config = config_of(rows, cols, type);                                   \
        sffn_matmul *matmul = (sffn_matmul *)(uintptr_t)1;                                         \
        config.block_size = 32;                                                                    \
        config.weights.layout = SFFN_LAYOUT_COLUMNS;                                               \
        change;                                                                                    \
        CHECK_FAILS(ctx, sffn_matmul_create(ctx, &config, &matmul), "block_size");                 \
        CHECK(matmul == NULL);                                                                     \
    } while (0)
    REFUSED_LOSSLESS(64, 32, SFFN_Q8_0, config.block_size = 0);
    REFUSED_LOSSLESS(64, 32, SFFN_Q8_0, config.block_size = 2);
    REFUSED_LOSSLESS(64, 32, SFFN_Q8_0, config.block_size = 64);
    REFUSED_LOSSLESS(64, 32, SFFN_Q8_0, config.weights.layout = SFFN_LAYOUT_ROWS);
    REFUSED_LOSSLESS(64, 32, SFFN_F32, (void)0);
    REFUSED_LOSSLESS(64, 32, SFFN_BF16, (void)0);
    REFUSED_LOSSLESS(64, 32, SFFN_Q8_0, config.dtype = SFFN_Q4_0);
    REFUSED_LOSSLESS(64, 32, SFFN_F32, config.dtype = SFFN_Q8_0);
}

/* Sizes whose product does not fit are refused before anything is read. */
static void huge_sizes(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {
        {UINT32_MAX, UINT32_MAX}, {UINT32_MAX, UINT32_MAX - 31}, {UINT32_MAX - 31, 1u << 31}};
    for (size_t i = 0; i < 3; i++)
        for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
            for (int32_t layout = 0; layout < 2; layout++) {
                sffn_matmul_config config = config_of(sizes[i][0], sizes[i][1], type);
                sffn_matmul *matmul = (sffn_matmul *)(uintptr_t)1;
                config.weights.layout = layout;
                config.weights.row_bytes =
                    SIZE_MAX / 2; /* a distance of rows whose sum overflows for certain */
                CHECK_FAILS(ctx, sffn_matmul_create(ctx, &config, &matmul), NULL);
                CHECK(matmul == NULL);
            }
}

static void info(void **state)
{
    (void)state;
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        for (int32_t storage = 0; storage < 2; storage++) {
            sffn_matmul_config config = config_of(32, 64, type);
            config.storage = storage;
            sffn_matmul *matmul = make(&config);
            sffn_matmul_info got = SFFN_MATMUL_INFO_INIT;
            CHECK_OK(ctx, sffn_matmul_get_info(matmul, &got));
            CHECK(got.n_rows == 32 && got.n_cols == 64 && got.block_size == 1);
            CHECK(got.dtype == type && got.storage == storage);
            CHECK(got.weight_bytes == 32 * weight_bytes(type, 64));
            CHECK(storage ? got.row_bytes == weight_bytes(type, 64)
                          : got.row_bytes >= weight_bytes(type, 64));
            sffn_matmul_destroy(matmul);
        }
    sffn_matmul_config config = config_of(64, 5, SFFN_Q4_0);
    config.weights.layout = SFFN_LAYOUT_COLUMNS;
    config.block_size = 32; /* with lossless blocks n_cols is any number */
    sffn_matmul *matmul = make(&config);
    sffn_matmul_info got = SFFN_MATMUL_INFO_INIT;
    CHECK_OK(ctx, sffn_matmul_get_info(matmul, &got));
    CHECK(got.n_rows == 64 && got.n_cols == 5 && got.block_size == 32 &&
          got.weight_bytes == 2 * 5 * 18);
    CHECK(sffn_matmul_get_info(matmul, NULL) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_matmul_get_info(NULL, &got) == SFFN_ERR_INVALID_ARGUMENT);
    sffn_matmul_destroy(matmul);
}

/* Every source type and layout, packed to every type, decodes to what our own codecs say; sources
 * unaligned, with gaps. */
static void packs_and_decodes(void **state)
{
    (void)state;
    struct rng rng = rng_named("packs_and_decodes");
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        for (int32_t to = -1; to < SFFN_DTYPE_COUNT_; to++)
            for (int32_t layout = 0; layout < 2; layout++) {
                struct guarded memory = {0};
                uint32_t n_rows = layout || is_quantised(type) ? 64 : 37, n_cols = 96;
                if (!is_quantised(type) && !is_quantised(to))
                    n_cols = 43;
                size_t stored_rows = layout ? n_cols : n_rows, stored = layout ? n_rows : n_cols;
                size_t gap = rng_below(&rng, 2) ? 3 : 0,
                       row_bytes = weight_bytes(type, stored) + gap;
                unsigned char *source = guarded_alloc(&memory, stored_rows * row_bytes - gap, 1);
                float *values = GUARDED_FLOATS(&memory, stored),
                      *want = GUARDED_FLOATS(&memory, (size_t)n_rows * n_cols);
                for (size_t r = 0; r < stored_rows; r++) {
                    for (size_t i = 0; i < stored; i++)
                        values[i] = rng_normal(&rng);
                    weight_encode(type, values, stored, source + r * row_bytes);
                    weight_decode(type, source + r * row_bytes, stored, values);
                    for (size_t i = 0; i < stored; i++)
                        want[layout ? i * n_cols + r : r * n_cols + i] = values[i];
                }
                int32_t packed = to < 0 ? type : to;
                unsigned char *row = guarded_alloc(&memory, weight_bytes(packed, n_cols), 0);
                if (packed != type || layout) /* requantised along the row */
                    for (size_t r = 0; r < n_rows; r++) {
                        weight_encode(packed, want + r * n_cols, n_cols, row);
                        weight_decode(packed, row, n_cols, want + r * n_cols);
                    }
                sffn_matmul_config config = config_of(n_rows, n_cols, type);
                config.weights.data = source;
                config.weights.layout = layout;
                config.weights.row_bytes = gap ? row_bytes : 0;
                config.dtype = to;
                sffn_matmul *matmul = make(&config);
                memset(source, 0xFF,
                       stored_rows * row_bytes - gap); /* copied: the source may go away */
                float *got = GUARDED_FLOATS(&memory, n_cols);
                for (uint32_t r = 0; r < n_rows; r++) {
                    CHECK_OK(ctx, sffn_matmul_get_row(matmul, r, got));
                    CHECK_BITS(got, want + (size_t)r * n_cols, n_cols, "%s to %s, %s, row %u",
                               sffn_dtype_name(type), sffn_dtype_name(packed),
                               layout ? "columns" : "rows", (unsigned)r);
                }
                CHECK(sffn_matmul_get_row(matmul, n_rows, got) == SFFN_ERR_SHAPE);
                CHECK(sffn_matmul_get_row(matmul, UINT32_MAX, got) == SFFN_ERR_SHAPE);
                CHECK(sffn_matmul_get_row(matmul, 0, NULL) == SFFN_ERR_INVALID_ARGUMENT);
                CHECK(sffn_matmul_get_row(NULL, 0, got) == SFFN_ERR_INVALID_ARGUMENT);
                sffn_matmul_destroy(matmul);
                guarded_free(&memory);
            }
}

/* Lossless blocks decode to the source's own values: no second quantisation. */
static void lossless_decodes_exactly(void **state)
{
    (void)state;
    struct rng rng = rng_named("lossless_decodes_exactly");
    for (int32_t type = SFFN_Q8_0; type <= SFFN_Q4_0; type++)
        for (uint32_t n_cols = 1; n_cols < 40; n_cols += 13) {
            struct guarded memory = {0};
            uint32_t n_rows = 96;
            size_t row_bytes = weight_bytes(type, n_rows);
            unsigned char *source = guarded_alloc(&memory, n_cols * row_bytes, 1);
            float *values = GUARDED_FLOATS(&memory, n_rows),
                  *want = GUARDED_FLOATS(&memory, n_rows * n_cols);
            float *got = GUARDED_FLOATS(&memory, n_cols);
            for (uint32_t j = 0; j < n_cols; j++) {
                for (uint32_t i = 0; i < n_rows; i++)
                    values[i] = rng_normal(&rng);
                weight_encode(type, values, n_rows, source + j * row_bytes);
                weight_decode(type, source + j * row_bytes, n_rows, values);
                for (uint32_t i = 0; i < n_rows; i++)
                    want[i * n_cols + j] = values[i];
            }
            sffn_matmul_config config = config_of(n_rows, n_cols, type);
            config.weights.data = source;
            config.weights.layout = SFFN_LAYOUT_COLUMNS;
            config.block_size = 32;
            sffn_matmul *matmul = make(&config);
            for (uint32_t r = 0; r < n_rows; r++) {
                CHECK_OK(ctx, sffn_matmul_get_row(matmul, r, got));
                CHECK_BITS(got, want + r * n_cols, n_cols, "%s row %u", sffn_dtype_name(type),
                           (unsigned)r);
            }
            CHECK(sffn_matmul_get_row(matmul, n_rows, got) == SFFN_ERR_SHAPE);
            /* those have rows_axpy only */
            float *x = GUARDED_FLOATS(&memory, n_cols), *out = GUARDED_FLOATS(&memory, n_rows);
            CHECK_ERROR(ctx, sffn_matmul_rows_dot(ctx, matmul, x, n_cols, 1, NULL, out, n_rows),
                        SFFN_ERR_UNSUPPORTED, NULL);
            sffn_matmul_destroy(matmul);
            guarded_free(&memory);
        }
}

/* Borrowed rows are read in place: a change of the source is seen. */
static void borrow_reads_in_place(void **state)
{
    (void)state;
    float source[3] = {1.0f, 2.0f, 3.0f}, got[3];
    sffn_matmul_config config = config_of(1, 3, SFFN_F32);
    config.weights.data = source;
    config.storage = SFFN_STORAGE_BORROW;
    sffn_matmul *matmul = make(&config);
    source[1] = 5.0f;
    CHECK_OK(ctx, sffn_matmul_get_row(matmul, 0, got));
    CHECK_BITS(got, source, 3, "borrowed");
    sffn_matmul_destroy(matmul);
}

enum product { DOT, AXPY };

static sffn_status multiply(enum product product, const sffn_matmul *matmul, const float *in,
                            size_t in_stride, size_t n_tokens, const sffn_active_set *active,
                            float *out, size_t out_stride)
{
    return (product == DOT ? sffn_matmul_rows_dot : sffn_matmul_rows_axpy)(
        ctx, matmul, in, in_stride, n_tokens, active, out, out_stride);
}

static void argument_errors(void **state)
{
    (void)state;
    sffn_matmul_config config = config_of(64, 32, SFFN_F32);
    sffn_matmul *matmul = make(&config);
    sffn_active_set *wrong_n = make_set(ctx, NULL, 2, 65, 1),
                    *wrong_block = make_set(ctx, NULL, 2, 64, 2);
    sffn_active_set *short_set = make_set(ctx, NULL, 1, 64, 1),
                    *good = make_set(ctx, NULL, 2, 8, 8);
    float in[2 * 64] = {0}, out[2 * 64], before[2 * 64];
    for (size_t i = 0; i < 128; i++)
        out[i] = before[i] = (float)i;
    for (enum product p = DOT; p <= AXPY; p++) {
        size_t in_n = p == DOT ? 32 : 64, out_n = p == DOT ? 64 : 32;
        CHECK_ERROR(ctx, multiply(p, NULL, in, in_n, 2, NULL, out, out_n),
                    SFFN_ERR_INVALID_ARGUMENT, "matmul NULL");
        CHECK_ERROR(ctx, multiply(p, matmul, NULL, in_n, 2, NULL, out, out_n),
                    SFFN_ERR_INVALID_ARGUMENT, "NULL");
        CHECK_ERROR(ctx, multiply(p, matmul, in, in_n, 2, NULL, NULL, out_n),
                    SFFN_ERR_INVALID_ARGUMENT, "NULL");
        CHECK_ERROR(ctx, multiply(p, matmul, in, in_n, 2, wrong_n, out, out_n), SFFN_ERR_SHAPE,
                    "65 64");
        CHECK_ERROR(ctx, multiply(p, matmul, in, in_n, 2, wrong_block, out, out_n), SFFN_ERR_SHAPE,
                    "64");
        CHECK_ERROR(ctx, multiply(p, matmul, in, in_n, 2, short_set, out, out_n), SFFN_ERR_SHAPE,
                    "2 1");
        CHECK_FAILS(ctx, multiply(p, matmul, in, in_n - 1, 2, NULL, out, out_n), "stride");
        CHECK_FAILS(ctx, multiply(p, matmul, in, in_n, 2, NULL, out, out_n - 1), "stride");
        CHECK_BITS(out, before, 128, "after errors");
        CHECK_OK(ctx, multiply(p, matmul, in, in_n, 0, NULL, out, out_n));
        CHECK_OK(ctx, multiply(p, matmul, NULL, 0, 0, NULL, NULL, 0));
        CHECK_BITS(out, before, 128, "no tokens");
        CHECK_OK(ctx, multiply(p, matmul, in, in_n, 1, good, out,
                               out_n)); /* sets may have more tokens */
        for (size_t i = 0; i < 128; i++)
            out[i] = before[i];
    }
    CHECK(sffn_matmul_rows_dot(NULL, matmul, in, 32, 1, NULL, out, 64) ==
          SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_matmul_rows_axpy(NULL, matmul, in, 64, 1, NULL, out, 32) ==
          SFFN_ERR_INVALID_ARGUMENT);
    sffn_active_set *const sets[] = {wrong_n, wrong_block, short_set, good};
    for (size_t i = 0; i < 4; i++)
        sffn_active_set_destroy(sets[i]);
    sffn_matmul_destroy(matmul);
}

/* A product by hand: rows (1,2), (3,4), (5,6); x = (10,1); h = (1,10,100). */
static void products_by_hand(void **state)
{
    (void)state;
    static const float rows[] = {1, 2, 3, 4, 5, 6}, x[] = {10, 1}, h[] = {1, 10, 100};
    static const uint8_t first_and_last[] = {1, 0, 1};
    for (int32_t type = SFFN_F32; type <= SFFN_BF16; type++) {
        weight_encode(type, rows, 6, bytes);
        sffn_matmul_config config = config_of(3, 2, type);
        sffn_matmul *matmul = make(&config);
        sffn_active_set *set = make_set(ctx, first_and_last, 1, 3, 1),
                        *nobody = make_set(ctx, NULL, 1, 3, 1);
        float out[3], y[2];
        CHECK_OK(ctx, sffn_matmul_rows_dot(ctx, matmul, x, 2, 1, NULL, out, 3));
        CHECK_BITS(out, ((const float[]){12, 34, 56}), 3, "all rows");
        CHECK_OK(ctx, sffn_matmul_rows_dot(ctx, matmul, x, 2, 1, set, out, 3));
        CHECK_BITS(out, ((const float[]){12, 0, 56}), 3, "two rows");
        CHECK_OK(ctx, sffn_matmul_rows_axpy(ctx, matmul, h, 3, 1, NULL, y, 2));
        CHECK_BITS(y, ((const float[]){531, 642}), 2, "all rows");
        CHECK_OK(ctx, sffn_matmul_rows_axpy(ctx, matmul, h, 3, 1, set, y, 2));
        CHECK_BITS(y, ((const float[]){501, 602}), 2, "two rows");
        y[0] = out[0] = NAN;
        CHECK_OK(ctx, sffn_matmul_rows_axpy(ctx, matmul, h, 3, 1, nobody, y, 2));
        CHECK_BITS(y, ((const float[]){0, 0}), 2, "no row");
        CHECK_OK(ctx, sffn_matmul_rows_dot(ctx, matmul, x, 2, 1, nobody, out, 3));
        CHECK_BITS(out, ((const float[]){0, 0, 0}), 3, "no row");
        sffn_active_set_destroy(set);
        sffn_active_set_destroy(nobody);
        sffn_matmul_destroy(matmul);
    }
}

/* Every element type refuses what it can't hold and takes what it can: one weight, one row. */
static void one_by_one(void **state)
{
    (void)state;
    floats[0] = -2.5f;
    for (int32_t type = SFFN_F32; type <= SFFN_BF16; type++) {
        weight_encode(type, floats, 1, bytes);
        sffn_matmul_config config = config_of(1, 1, type);
        sffn_matmul *matmul = make(&config);
        float x = 3.0f, out = NAN;
        CHECK_OK(ctx, sffn_matmul_rows_dot(ctx, matmul, &x, 1, 1, NULL, &out, 1));
        CHECK(out == -7.5f);
        CHECK_OK(ctx, sffn_matmul_rows_axpy(ctx, matmul, &x, 1, 1, NULL, &out, 1));
        CHECK(out == -7.5f);
        sffn_matmul_destroy(matmul);
    }
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, config_errors);
    CASE(&cases, lossless_config_errors);
    CASE(&cases, huge_sizes);
    CASE(&cases, info);
    CASE(&cases, packs_and_decodes);
    CASE(&cases, lossless_decodes_exactly);
    CASE(&cases, borrow_reads_in_place);
    CASE(&cases, argument_errors);
    CASE(&cases, products_by_hand);
    CASE(&cases, one_by_one);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "matmul");
    sffn_context_destroy(ctx);
    return failed;
}
