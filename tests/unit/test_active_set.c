/* active_set.h, with the toy cases 14.6, 14.8 and 14.18 of methods.md. */
#include <math.h>

#include "allocator.h"
#include "check.h"
#include "guarded.h"

static sffn_context *ctx;

static sffn_active_set *make(uint32_t n_blocks, uint32_t block_size, uint32_t max_tokens)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    config.n_blocks = n_blocks;
    config.block_size = block_size;
    config.max_tokens = max_tokens;
    sffn_active_set *set = NULL;
    CHECK_OK(ctx, sffn_active_set_create(ctx, &config, &set));
    return set;
}

/* One token with the n blocks listed. */
static sffn_active_set *make_listed(uint32_t n_blocks, const uint32_t *blocks, size_t n)
{
    sffn_active_set *set = make(n_blocks, 1, 1);
    CHECK_OK(ctx, sffn_active_set_clear(set, 1));
    CHECK_OK(ctx, sffn_active_set_set_indices(set, 0, blocks, n));
    return set;
}

static void config_errors(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_blocks, block_size, max_tokens;
        const char *words;
    } table[] = {
        {0, 1, 1, "n_blocks 0"},
        {1, 0, 1, "block_size 0"},
        {1, 1, 0, "max_tokens 0"},
        {0x80000000u, 1, 1, "n_blocks 2147483648"},
        {65536, 32768, 1, "n_blocks 65536 block_size 32768"},
        {UINT32_MAX, UINT32_MAX, 1, "n_blocks 4294967295"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
        config.n_blocks = table[i].n_blocks;
        config.block_size = table[i].block_size;
        config.max_tokens = table[i].max_tokens;
        sffn_active_set *set = (sffn_active_set *)(uintptr_t)1;
        CHECK_ERROR(ctx, sffn_active_set_create(ctx, &config, &set), SFFN_ERR_INVALID_ARGUMENT,
                    table[i].words);
        CHECK(set == NULL);
    }
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    sffn_active_set *set = (sffn_active_set *)(uintptr_t)1;
    config.n_blocks = 1;
    CHECK_ERROR(ctx, sffn_active_set_create(ctx, NULL, &set), SFFN_ERR_INVALID_ARGUMENT,
                "config NULL");
    CHECK(set == NULL);
    CHECK_ERROR(ctx, sffn_active_set_create(ctx, &config, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "set NULL");
    CHECK(sffn_active_set_create(NULL, &config, &set) == SFFN_ERR_INVALID_ARGUMENT);
    set = make(1, 0x7fffffff, 1); /* the largest product, and of two factors */
    CHECK(sffn_active_set_block_size(set) == 0x7fffffff);
    sffn_active_set_destroy(set);
    sffn_active_set_destroy(NULL);
}

static void is_empty_when_new(void **state)
{
    (void)state;
    sffn_active_set *set = make(70, 32, 3);
    CHECK(sffn_active_set_n_blocks(set) == 70 && sffn_active_set_block_size(set) == 32);
    CHECK(sffn_active_set_max_tokens(set) == 3 && sffn_active_set_n_tokens(set) == 0);
    CHECK(sffn_active_set_count(set, 0) == 0 && sffn_active_set_indices(set, 0) == NULL);
    CHECK(sffn_active_set_union_count(set) == 0 && sffn_active_set_density(set) == 0.0);
    CHECK(sffn_active_set_contains(set, 0, 0) == 0);
    CHECK_OK(ctx, sffn_active_set_clear(set, 2));
    CHECK(sffn_active_set_n_tokens(set) == 2 && sffn_active_set_count(set, 1) == 0);
    CHECK(sffn_active_set_indices(set, 1) != NULL && sffn_active_set_indices(set, 2) == NULL);
    CHECK(sffn_active_set_density(set) == 0.0);
    CHECK_OK(ctx, sffn_active_set_set_all(set, 1));
    CHECK(sffn_active_set_count(set, 1) == 70 && sffn_active_set_count(set, 0) == 0 &&
          sffn_active_set_count(set, 2) == 0);
    CHECK(sffn_active_set_density(set) == 0.5 && sffn_active_set_union_count(set) == 70);
    CHECK_OK(ctx, sffn_active_set_clear(set, 3)); /* empties all */
    CHECK(sffn_active_set_n_tokens(set) == 3 && sffn_active_set_union_count(set) == 0);
    CHECK_OK(ctx, sffn_active_set_clear(set, 0));
    CHECK(sffn_active_set_n_tokens(set) == 0 && sffn_active_set_density(set) == 0.0);
    sffn_active_set_destroy(set);
}

static void bad_calls_change_nothing(void **state)
{
    (void)state;
    static const uint32_t two[] = {3, 1}, beyond[] = {0, 9, 10};
    sffn_active_set *set = make(10, 1, 2);
    CHECK_OK(ctx, sffn_active_set_clear(set, 1));
    CHECK_OK(ctx, sffn_active_set_set_indices(set, 0, two, 2));
    CHECK(sffn_active_set_clear(set, 3) == SFFN_ERR_SHAPE);
    CHECK(sffn_active_set_set_indices(set, 0, beyond, 3) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_set_indices(set, 0, NULL, 1) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_set_bitmap(set, 0, NULL) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_set_mask(set, 0, NULL) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_get_bitmap(set, 0, NULL) == SFFN_ERR_INVALID_ARGUMENT);
    /* token 1 is not there: n_tokens is 1. The contract gives no status for it. */
    uint8_t bytes[10] = {1, 1, 1};
    CHECK(sffn_active_set_set_indices(set, 1, two, 2) != SFFN_OK);
    CHECK(sffn_active_set_set_bitmap(set, 1, bytes) != SFFN_OK);
    CHECK(sffn_active_set_set_mask(set, 1, bytes) != SFFN_OK);
    CHECK(sffn_active_set_set_all(set, 1) != SFFN_OK);
    CHECK(sffn_active_set_get_bitmap(set, 1, bytes) != SFFN_OK);
    CHECK(sffn_active_set_set_indices(NULL, 0, two, 2) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_clear(NULL, 1) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_n_tokens(set) == 1 && sffn_active_set_count(set, 0) == 2);
    CHECK(sffn_active_set_contains(set, 0, 1) == 1 && sffn_active_set_contains(set, 0, 3) == 1);
    CHECK(sffn_active_set_contains(set, 0, 10) == 0 && sffn_active_set_contains(set, 1, 1) == 0);
    CHECK_OK(ctx, sffn_active_set_set_indices(set, 0, NULL, 0)); /* empty */
    CHECK(sffn_active_set_count(set, 0) == 0);
    sffn_active_set_destroy(set);
}

static void order_and_repeats(void **state)
{
    (void)state;
    static const uint32_t blocks[] = {7, 0, 7, 3, 0, 99, 3, 64, 63};
    static const uint32_t sorted[] = {0, 3, 7, 63, 64, 99};
    sffn_active_set *set = make_listed(100, blocks, 9);
    CHECK(sffn_active_set_count(set, 0) == 6);
    CHECK(memcmp(sffn_active_set_indices(set, 0), sorted, sizeof sorted) == 0);
    sffn_active_set_destroy(set);
}

/* indices, bitmap, mask and get_bitmap agree for random subsets of every size, and neighbours stay
 * alone. */
static void ways_to_set_agree(void **state)
{
    (void)state;
    struct rng rng = rng_named("ways_to_set_agree");
    struct guarded memory = {0};
    static const uint32_t sizes[] = {1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 1000};
    for (size_t k = 0; k < 300; k++) {
        uint32_t n = rng_pick(&rng, sizes);
        size_t n_bytes = (n + 7) / 8, n_active = 0;
        uint8_t *mask = guarded_alloc(&memory, n, 0), *bitmap = guarded_alloc(&memory, n_bytes, 0);
        uint8_t *back = guarded_alloc(&memory, n_bytes, 0);
        uint32_t *blocks = malloc(n * sizeof *blocks);
        CHECK(blocks != NULL);
        double density = rng_uniform(&rng) * 1.2;
        for (uint32_t b = 0; b < n; b++) {
            if (rng_uniform(&rng) >= density)
                continue;
            mask[b] = (uint8_t)(1 + rng_below(&rng, 255)); /* any non-zero byte */
            bitmap[b / 8] |= (uint8_t)(1u << b % 8);
            blocks[n_active++] = b;
        }
        uint8_t clean = bitmap[n_bytes - 1];
        for (uint32_t b = n; b < 8 * n_bytes; b++) /* bits past the end are ignored */
            bitmap[b / 8] |= (uint8_t)(1u << b % 8);
        sffn_active_set *set = make(n, 3, 4);
        CHECK_OK(ctx, sffn_active_set_clear(set, 4));
        CHECK_OK(ctx, sffn_active_set_set_all(set, 1));
        CHECK_OK(ctx, sffn_active_set_set_mask(set, 0, mask));
        CHECK_OK(ctx, sffn_active_set_set_bitmap(set, 1, bitmap));
        CHECK_OK(ctx, sffn_active_set_set_indices(set, 2, blocks, n_active));
        bitmap[n_bytes - 1] = clean;
        for (size_t t = 0; t < 3; t++) {
            CHECK(sffn_active_set_count(set, t) == n_active);
            CHECK(n_active == 0 ||
                  memcmp(sffn_active_set_indices(set, t), blocks, n_active * sizeof *blocks) == 0);
            CHECK_OK(ctx, sffn_active_set_get_bitmap(set, t, back));
            CHECK(memcmp(back, bitmap, n_bytes) == 0);
            for (uint32_t b = 0; b < n; b++)
                CHECK(sffn_active_set_contains(set, t, b) == (mask[b] != 0));
        }
        CHECK(sffn_active_set_count(set, 3) == 0 && sffn_active_set_union_count(set) == n_active);
        CHECK_WITHIN(sffn_active_set_density(set), 0.75 * (double)n_active / n, 1e-12, "density");
        sffn_active_set_destroy(set);
        free(blocks);
        guarded_free(&memory);
    }
}

static void never_allocates_after_creation(void **state)
{
    (void)state;
    struct test_allocator allocator = TEST_ALLOCATOR_INIT;
    sffn_status status;
    sffn_context *own = allocator_context(&allocator, 1, &status);
    CHECK_OK(NULL, status);
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    config.n_blocks = 500;
    config.max_tokens = 9;
    sffn_active_set *set = NULL;
    CHECK_OK(own, sffn_active_set_create(own, &config, &set));
    size_t calls = allocator.n_calls;
    uint8_t mask[500] = {0, 1, 1};
    uint32_t blocks[] = {400, 3};
    double recall;
    CHECK_OK(own, sffn_active_set_clear(set, 9));
    for (size_t t = 0; t < 9; t++) {
        CHECK_OK(own, sffn_active_set_set_all(set, t));
        CHECK_OK(own, sffn_active_set_set_mask(set, t, mask));
        CHECK_OK(own, sffn_active_set_set_bitmap(set, t, mask));
        CHECK_OK(own, sffn_active_set_set_indices(set, t, blocks, 2));
        CHECK_OK(own, sffn_active_set_recall(set, set, t, &recall));
    }
    CHECK(sffn_active_set_union_count(set) == 2 && sffn_active_set_indices(set, 8)[1] == 400);
    CHECK(allocator.n_calls == calls);
    sffn_active_set_destroy(set);
    sffn_context_destroy(own);
    CHECK(allocator.live_bytes == 0 && allocator.n_wrong == 0);
}

/* methods.md 14.6: F = 10, truly active {1,4,7}, predicted {1,4,5,9}. */
static void toy_14_6_predictor_accounting(void **state)
{
    (void)state;
    static const uint32_t active[] = {1, 4, 7}, chosen[] = {1, 4, 5, 9};
    sffn_active_set *truth = make_listed(10, active, 3), *predicted = make_listed(10, chosen, 4);
    sffn_active_set *nobody = make_listed(10, NULL, 0);
    double recall = -1.0, precision = -1.0;
    CHECK_OK(ctx, sffn_active_set_recall(predicted, truth, 0, &recall));
    CHECK_WITHIN(recall, 2.0 / 3.0, 1e-12, "recall");
    CHECK_WITHIN(1.0 - sffn_active_set_density(predicted), 0.6, 1e-12, "predicted sparsity");
    CHECK_WITHIN(1.0 - sffn_active_set_density(truth), 0.7, 1e-12, "true sparsity");
    CHECK_OK(ctx, sffn_active_set_recall(truth, predicted, 0,
                                         &precision)); /* precision is recall the other way round */
    CHECK_WITHIN(precision, 0.5, 1e-12, "precision");
    CHECK_OK(ctx, sffn_active_set_recall(predicted, nobody, 0, &recall));
    CHECK_SAYS(recall == 1.0, "0/0 is 1, not %g", recall);
    CHECK_OK(ctx, sffn_active_set_recall(nobody, truth, 0, &recall));
    CHECK_SAYS(recall == 0.0, "nothing predicted: %g", recall);

    sffn_active_set *longer = make(11, 1, 1), *blocks = make(10, 2, 1);
    CHECK_OK(ctx, sffn_active_set_clear(longer, 1));
    CHECK_OK(ctx, sffn_active_set_clear(blocks, 1));
    CHECK(sffn_active_set_recall(predicted, longer, 0, &recall) == SFFN_ERR_SHAPE);
    CHECK(sffn_active_set_recall(predicted, blocks, 0, &recall) == SFFN_ERR_SHAPE);
    CHECK(sffn_active_set_recall(NULL, truth, 0, &recall) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_recall(predicted, truth, 0, NULL) == SFFN_ERR_INVALID_ARGUMENT);
    CHECK(sffn_active_set_recall(predicted, truth, 1, &recall) != SFFN_OK); /* no such token */
    sffn_active_set *const all[] = {truth, predicted, nobody, longer, blocks};
    for (size_t i = 0; i < 5; i++)
        sffn_active_set_destroy(all[i]);
}

/* methods.md 14.8: experts of 32 neurons. */
static void toy_14_8_expert_counts(void **state)
{
    (void)state;
    static const uint32_t table[][2] = {{3072, 96},   {4096, 128},  {11008, 344},
                                        {13824, 432}, {14336, 448}, {28672, 896}};
    for (size_t i = 0; i < 6; i++) {
        CHECK(table[i][0] % 32 == 0);
        sffn_active_set *set = make(table[i][0] / 32, 32, 1);
        CHECK(sffn_active_set_n_blocks(set) == table[i][1]);
        uint32_t last = table[i][1] - 1;
        CHECK_OK(ctx, sffn_active_set_clear(set, 1));
        CHECK_OK(ctx, sffn_active_set_set_indices(set, 0, &last, 1));
        CHECK_WITHIN(sffn_active_set_density(set), 32.0 / table[i][0], 1e-12, "one expert of %u",
                     table[i][1]);
        sffn_active_set_destroy(set);
    }
}

/* methods.md 14.18: masks {0,2}, {2,3}, {2} of F = 5. */
static void toy_14_18_union(void **state)
{
    (void)state;
    static const uint32_t masks[3][2] = {{0, 2}, {2, 3}, {2, 2}};
    sffn_active_set *set = make(5, 1, 3);
    CHECK_OK(ctx, sffn_active_set_clear(set, 3));
    for (size_t t = 0; t < 3; t++)
        CHECK_OK(ctx, sffn_active_set_set_indices(set, t, masks[t], 2));
    CHECK(sffn_active_set_union_count(set) == 3); /* {0,2,3}: density 0.6, 3 rows read */
    CHECK_WITHIN(sffn_active_set_density(set), 5.0 / 15.0, 1e-12, "5 neuron-visits of 15");
    sffn_active_set_destroy(set);
}

/* 1 - (1-a)^B for independent tokens: within five standard deviations of a binomial share of n
 * neurons. */
static void toy_14_18_union_of_random_tokens(void **state)
{
    (void)state;
    enum { n = 20000 };
    static const double table[3][6] = {{0.05, 0.0975, 0.1855, 0.3366, 0.5599, 0.8063},
                                       {0.1, 0.19, 0.3439, 0.5695, 0.8147, 0.9657},
                                       {0.2, 0.36, 0.5904, 0.8322, 0.9719, 0.9992}};
    struct rng rng = rng_named("union");
    uint8_t *mask = malloc(n);
    CHECK(mask != NULL);
    for (size_t row = 0; row < 3; row++)
        for (size_t k = 0; k < 6; k++) {
            size_t n_tokens = (size_t)1 << k;
            sffn_active_set *set = make(n, 1, (uint32_t)n_tokens);
            CHECK_OK(ctx, sffn_active_set_clear(set, n_tokens));
            for (size_t t = 0; t < n_tokens; t++) {
                for (size_t i = 0; i < n; i++)
                    mask[i] = rng_uniform(&rng) < table[row][0];
                CHECK_OK(ctx, sffn_active_set_set_mask(set, t, mask));
            }
            double p = table[row][k], deviation = sqrt(p * (1.0 - p) / n);
            CHECK_WITHIN((double)sffn_active_set_union_count(set) / n, p, 5.0 * deviation + 1e-4,
                         "a %g, %zu tokens", table[row][0], n_tokens);
            sffn_active_set_destroy(set);
        }
    free(mask);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, config_errors);
    CASE(&cases, is_empty_when_new);
    CASE(&cases, bad_calls_change_nothing);
    CASE(&cases, order_and_repeats);
    CASE(&cases, ways_to_set_agree);
    CASE(&cases, never_allocates_after_creation);
    CASE(&cases, toy_14_6_predictor_accounting);
    CASE(&cases, toy_14_8_expert_counts);
    CASE(&cases, toy_14_18_union);
    CASE(&cases, toy_14_18_union_of_random_tokens);
    sffn_status status = sffn_context_create(NULL, &ctx);
    int failed = status != SFFN_OK || cases_run(&cases, "active_set");
    sffn_context_destroy(ctx);
    return failed;
}
