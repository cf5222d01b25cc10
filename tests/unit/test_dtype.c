/* dtype.h: names, sizes, and conversion against the tests' own codecs. */
#include <math.h>

#include "check.h"
#include "guarded.h"
#include "weights.h"

static const char *const names[] = {"f32", "f16", "bf16", "q8_0", "q4_0"};

static void name_table(void **state)
{
    (void)state;
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++) {
        CHECK_TEXT(sffn_dtype_name(type), names[type]);
        CHECK(sffn_dtype_from_name(names[type]) == type);
    }
    CHECK_TEXT(sffn_dtype_name(-1), "unknown");
    CHECK_TEXT(sffn_dtype_name(SFFN_DTYPE_COUNT_), "unknown");
    CHECK_TEXT(sffn_dtype_name(SFFN_DTYPE_MAX_), "unknown");
    CHECK(sffn_dtype_from_name(NULL) == -1);
    CHECK(sffn_dtype_from_name("") == -1);
    CHECK(sffn_dtype_from_name("f3") == -1);
    CHECK(sffn_dtype_from_name("f321") == -1);
    CHECK(sffn_dtype_from_name("unknown") == -1);
}

static void sizes(void **state)
{
    (void)state;
    static const size_t block[] = {1, 1, 1, 32, 32};
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++) {
        CHECK(sffn_dtype_block_size(type) == block[type]);
        CHECK(sffn_dtype_row_bytes(type, 0) == 0);
        for (size_t n = 1; n < 200; n++)
            CHECK_SAYS(sffn_dtype_row_bytes(type, n) ==
                           (n % block[type] ? 0 : weight_bytes(type, n)),
                       "%s row of %zu", names[type], n);
    }
    CHECK(sffn_dtype_block_size(-1) == 0 && sffn_dtype_block_size(5) == 0);
    CHECK(sffn_dtype_row_bytes(-1, 32) == 0 && sffn_dtype_row_bytes(99, 32) == 0);
    /* overflow: the bytes do not fit into size_t; just below it they do */
    CHECK(sffn_dtype_row_bytes(SFFN_F32, SIZE_MAX / 4 + 1) == 0);
    CHECK(sffn_dtype_row_bytes(SFFN_F32, SIZE_MAX / 4) == SIZE_MAX / 4 * 4);
    CHECK(sffn_dtype_row_bytes(SFFN_BF16, SIZE_MAX / 2 + 1) == 0);
    CHECK(sffn_dtype_row_bytes(SFFN_Q8_0, SIZE_MAX / 32 * 32) == 0);
    CHECK(sffn_dtype_row_bytes(SFFN_Q4_0, SIZE_MAX / 32 * 32) == SIZE_MAX / 32 * 18);
}

static void errors(void **state)
{
    (void)state;
    float x[64] = {0};
    unsigned char row[256];
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++) {
        CHECK(sffn_dtype_from_f32(type, NULL, 32, row) == SFFN_ERR_INVALID_ARGUMENT);
        CHECK(sffn_dtype_from_f32(type, x, 32, NULL) == SFFN_ERR_INVALID_ARGUMENT);
        CHECK(sffn_dtype_to_f32(type, NULL, 32, x) == SFFN_ERR_INVALID_ARGUMENT);
        CHECK(sffn_dtype_to_f32(type, row, 32, NULL) == SFFN_ERR_INVALID_ARGUMENT);
        CHECK(sffn_dtype_from_f32(type, NULL, 0, NULL) == SFFN_OK);
        CHECK(sffn_dtype_to_f32(type, NULL, 0, NULL) == SFFN_OK);
        int is_block = is_quantised(type);
        CHECK(sffn_dtype_from_f32(type, x, 33, row) == (is_block ? SFFN_ERR_SHAPE : SFFN_OK));
        CHECK(sffn_dtype_to_f32(type, row, 33, x) == (is_block ? SFFN_ERR_SHAPE : SFFN_OK));
    }
    for (int32_t type = -1; type <= SFFN_DTYPE_COUNT_; type += SFFN_DTYPE_COUNT_ + 1) {
        CHECK(sffn_dtype_from_f32(type, x, 32, row) == SFFN_ERR_INVALID_ARGUMENT);
        CHECK(sffn_dtype_to_f32(type, row, 32, x) == SFFN_ERR_INVALID_ARGUMENT);
    }
}

/* Values that are hard to round: ordinary, tiny, huge, ties, halves, zeros of both signs. */
static float hard_value(struct rng *rng, size_t kind)
{
    switch (kind % 8) {
    case 0:
        return rng_normal(rng) * 1e-3f;
    case 1:
        return rng_normal(rng) * 1e-7f; /* f16 scales become denormal or 0 */
    case 2:
        return rng_normal(rng) * 1e5f;
    case 3:
        return (float)rng_below(rng, 17) - 8.0f; /* ties for the largest value */
    case 4:
        return ((float)rng_below(rng, 255) - 127.0f) / 2.0f; /* halves for q8_0 */
    case 5:
        return rng_below(rng, 2) ? 0.0f : -0.0f;
    default:
        return rng_normal(rng);
    }
}

static void round_trip(void **state)
{
    int32_t type = *(const int32_t *)*state;
    struct rng rng = rng_named(names[type]);
    struct guarded memory = {0};
    for (size_t k = 0; k < 400; k++) {
        size_t n = is_quantised(type) ? 32 * (1 + rng_below(&rng, 4)) : 1 + rng_below(&rng, 70);
        size_t bytes = weight_bytes(type, n);
        float *x = GUARDED_FLOATS(&memory, n), *decoded = GUARDED_FLOATS(&memory, n),
              *want = GUARDED_FLOATS(&memory, n);
        unsigned char *row = guarded_alloc(&memory, bytes, k % 5),
                      *expected = guarded_alloc(&memory, bytes, 0);
        for (size_t i = 0; i < n; i++)
            x[i] = hard_value(&rng, k);
        if (k % 8 == 4)
            x[rng_below(&rng, (uint32_t)n)] = 63.5f; /* makes d = 0.5, so that x / d has halves */
        weight_encode(type, x, n, expected);
        CHECK(sffn_dtype_from_f32(type, x, n, row) == SFFN_OK);
        for (size_t i = 0; i < bytes; i++)
            CHECK_SAYS(row[i] == expected[i], "%s: kind %zu, byte %zu of %zu is %d, expected %d",
                       names[type], k % 8, i, bytes, row[i], expected[i]);
        CHECK(sffn_dtype_to_f32(type, row, n, decoded) == SFFN_OK);
        weight_decode(type, row, n, want);
        CHECK_BITS(decoded, want, n, "%s decoded", names[type]);
        guarded_free(&memory);
    }
}

/* All 65536 bit patterns decode exactly, and encode back to themselves. */
static void all_16_bit_patterns(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint16_t half = (uint16_t)bits, back;
        float value;
        CHECK(sffn_dtype_to_f32(SFFN_F16, &half, 1, &value) == SFFN_OK);
        float want = float_of_f16(half);
        CHECK_SAYS(isnan(want) ? isnan(value) : memcmp(&value, &want, 4) == 0, "f16 %04x", bits);
        CHECK(sffn_dtype_from_f32(SFFN_F16, &value, 1, &back) == SFFN_OK);
        CHECK_SAYS(isnan(want) ? (back & 0x7fff) > 0x7c00 : back == half,
                   "f16 %04x came back as %04x", bits, back);

        CHECK(sffn_dtype_to_f32(SFFN_BF16, &half, 1, &value) == SFFN_OK);
        want = float_of_bf16(half);
        CHECK_SAYS(memcmp(&value, &want, 4) == 0 || isnan(want), "bf16 %04x", bits);
        CHECK(sffn_dtype_from_f32(SFFN_BF16, &value, 1, &back) == SFFN_OK);
        CHECK_SAYS(isnan(want) ? (back & 0x7fff) > 0x7f80 : back == half,
                   "bf16 %04x came back as %04x", bits, back);
    }
}

/* The point half-way to the next value rounds to even, and its float neighbours to their sides. */
static void half_ways(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7bff; bits++) { /* finite f16 below the largest */
        float low = float_of_f16((uint16_t)bits), high = float_of_f16((uint16_t)(bits + 1));
        float half = low + (high - low) / 2.0f;
        float x[3] = {nextafterf(half, 0.0f), half, nextafterf(half, INFINITY)};
        uint16_t got[3];
        CHECK(sffn_dtype_from_f32(SFFN_F16, x, 3, got) == SFFN_OK);
        CHECK_SAYS(got[0] == bits && got[1] == bits + (bits & 1) && got[2] == bits + 1,
                   "f16 around %04x: %04x %04x %04x", bits, got[0], got[1], got[2]);
    }
    for (uint32_t bits = 0; bits < 0x7f7f; bits++) { /* finite bf16 below the largest */
        uint32_t f32[3] = {bits << 16 | 0x7fff, bits << 16 | 0x8000, bits << 16 | 0x8001};
        float x[3];
        uint16_t got[3];
        memcpy(x, f32, sizeof x);
        CHECK(sffn_dtype_from_f32(SFFN_BF16, x, 3, got) == SFFN_OK);
        CHECK_SAYS(got[0] == bits && got[1] == bits + (bits & 1) && got[2] == bits + 1,
                   "bf16 around %04x", bits);
    }
    static const float edges[] = {65504.0f, 65519.996f, 65520.0f, 1e30f,
                                  INFINITY, -INFINITY,  -65520.0f};
    static const uint16_t want[] = {0x7bff, 0x7bff, 0x7c00, 0x7c00, 0x7c00, 0xfc00, 0xfc00};
    uint16_t got[7];
    CHECK(sffn_dtype_from_f32(SFFN_F16, edges, 7, got) == SFFN_OK);
    for (size_t i = 0; i < 7; i++)
        CHECK_SAYS(got[i] == want[i], "f16 of %g is %04x", (double)edges[i], got[i]);
}

/* The block layouts by hand: element j in the low and j + 16 in the high half of byte j. */
static void blocks_by_hand(void **state)
{
    (void)state;
    float x[32], back[32];
    unsigned char q4[18], q8[34];
    for (int i = 0; i < 32; i++)
        x[i] = (float)(i % 16) - 8.0f;
    CHECK(sffn_dtype_from_f32(SFFN_Q4_0, x, 32, q4) == SFFN_OK);
    CHECK(q4[0] == 0x00 && q4[1] == 0x3c); /* d = -8 / -8 = 1 */
    for (int j = 0; j < 16; j++)
        CHECK(q4[2 + j] == (j | j << 4));
    CHECK(sffn_dtype_to_f32(SFFN_Q4_0, q4, 32, back) == SFFN_OK);
    CHECK_BITS(back, x, 32, "q4_0");
    x[0] = 127.0f;
    CHECK(sffn_dtype_from_f32(SFFN_Q8_0, x, 32, q8) == SFFN_OK);
    CHECK(q8[0] == 0x00 && q8[1] == 0x3c);
    for (int i = 0; i < 32; i++)
        CHECK((int8_t)q8[2 + i] == (int)x[i]);
}

int main(void)
{
    static int32_t types[] = {SFFN_F32, SFFN_F16, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
    struct cases cases = {0};
    CASE(&cases, name_table);
    CASE(&cases, sizes);
    CASE(&cases, errors);
    for (int32_t type = 0; type < SFFN_DTYPE_COUNT_; type++)
        cases_add(&cases, round_trip, &types[type], "round_trip %s", names[type]);
    CASE(&cases, all_16_bit_patterns);
    CASE(&cases, half_ways);
    CASE(&cases, blocks_by_hand);
    return cases_run(&cases, "dtype");
}
