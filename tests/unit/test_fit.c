/* calibrate.h: experts by balanced k-means, low-rank factors of a gate, and their errors. */
#include <math.h>

#include "check.h"

static sffn_context *ctx;

static float *normals(const char *name, size_t n)
{
    struct rng rng = rng_named(name);
    float *v = malloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = rng_normal(&rng);
    return v;
}

static int32_t stop_at(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    CHECK(done < total);
    return done == *(const uint64_t *)user;
}

/* ---- experts ---- */

static sffn_cluster_config cluster_config(const float *rows, uint32_t n, uint32_t d, uint32_t size)
{
    sffn_cluster_config config = SFFN_CLUSTER_CONFIG_INIT;
    config.weights.data = rows;
    config.n_rows = n;
    config.n_cols = d;
    config.group_size = size;
    return config;
}

/* methods 14.9, from any seed. */
static void cluster_toys(void **state)
{
    (void)state;
    static const float a[4] = {0, 1, 10, 11}, b[4] = {0, 1, 2, 10}, c[6] = {11, 0, 1, 12, 0.5f, 10};
    for (uint64_t seed = 0; seed < 50; seed++) {
        uint32_t p[6];
        double cost;
        sffn_cluster_config config = cluster_config(a, 4, 1, 2);
        config.normalize = 0;
        config.seed = seed;
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
        CHECK(p[0] == 0 && p[1] == 1 && p[2] == 2 && p[3] == 3 && cost == 1);
        config.weights.data = b;
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
        CHECK(p[0] == 0 && p[1] == 1 && p[2] == 2 && p[3] == 3 && cost == 32.5);
        config.weights.data = c;
        config.n_rows = 6;
        config.group_size = 3;
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
        CHECK(p[0] == 0 && p[1] == 3 && p[2] == 5 && p[3] == 1 && p[4] == 2 && p[5] == 4);
        CHECK(cost == 2.5);
        config.group_size = 6; /* one expert, and experts of one neuron */
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, NULL));
        for (uint32_t i = 0; i < 6; i++)
            CHECK(p[i] == i);
        config.group_size = 1;
        CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
        for (uint32_t i = 0; i < 6; i++)
            CHECK(p[i] == i);
        CHECK(cost == 0);
    }
}

static double cost_of(const float *rows, size_t n, size_t d, size_t size, const uint32_t *p)
{
    double cost = 0;
    for (size_t e = 0; e < n; e += size)
        for (size_t j = 0; j < d; j++) {
            double mean = 0;
            for (size_t i = e; i < e + size; i++)
                mean += (double)rows[p[i] * d + j] / (double)size;
            for (size_t i = e; i < e + size; i++)
                cost += pow((double)rows[p[i] * d + j] - mean, 2);
        }
    return cost;
}

/* Well separated groups of equal size, scattered: they are found again; whatever the threads. */
static void planted_experts(void **state)
{
    (void)state;
    enum { N = 192, DIM = 24, SIZE = 16 };
    float *centers = normals("centers", N / SIZE * DIM), *rows = normals("rows", N * DIM);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < DIM; j++)
            rows[i * DIM + j] = 0.1f * rows[i * DIM + j] + centers[i * 7 % N / SIZE * DIM + j];
    uint32_t p[N], again[N];
    double cost, cost_again;
    sffn_cluster_config config = cluster_config(rows, N, DIM, SIZE);
    config.normalize = 0;
    CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
    CHECK_WITHIN(cost, cost_of(rows, N, DIM, SIZE, p), 1e-9 * cost, "cost");
    for (size_t i = 0; i < N; i++) {
        CHECK_SAYS(p[i] * 7 % N / SIZE == p[i / SIZE * SIZE] * 7 % N / SIZE, "row %u",
                   (unsigned)p[i]);
        CHECK(i % SIZE == 0 || p[i] > p[i - 1]);
        CHECK(i % SIZE != 0 || i == 0 || p[i] > p[i - SIZE]);
    }
    for (uint32_t n_threads = 2; n_threads <= 9; n_threads++) {
        sffn_context *other = make_context(n_threads, NULL);
        CHECK_OK(other, sffn_cluster_neurons(other, &config, again, &cost_again));
        CHECK(memcmp(p, again, sizeof p) == 0 && cost == cost_again);
        sffn_context_destroy(other);
    }
    free(centers), free(rows);
}

/* Rows without structure: a permutation, cheaper than random groups; rounds help; bf16 is read. */
static void experts_of_random_rows(void **state)
{
    (void)state;
    enum { N = 240, DIM = 64, SIZE = 8 };
    float *rows = normals("unstructured", N * DIM);
    uint16_t *halves = malloc(N * DIM * sizeof *halves);
    CHECK(sffn_dtype_from_f32(SFFN_BF16, rows, N * DIM, halves) == SFFN_OK);
    CHECK(sffn_dtype_to_f32(SFFN_BF16, halves, N * DIM, rows) == SFFN_OK);
    for (size_t i = 0; i < DIM; i++)
        rows[5 * DIM + i] = rows[6 * DIM + i] = rows[7 * DIM + i] = 0; /* no direction, and equal */
    CHECK(sffn_dtype_from_f32(SFFN_BF16, rows, N * DIM, halves) == SFFN_OK);
    sffn_cluster_config config = cluster_config(rows, N, DIM, SIZE);
    uint32_t p[N], q[N];
    double start, cost, first = 0;
    config.max_rounds = 0;
    CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &start));
    config.max_rounds = 30;
    CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, p, &cost));
    CHECK(cost < start);
    for (size_t i = 0; i < N; i++) { /* of unit rows, in the order of the file */
        double norm = 0;
        for (size_t j = 0; j < DIM; j++)
            norm += pow((double)rows[i * DIM + j], 2);
        for (size_t j = 0; j < DIM && norm > 0; j++)
            rows[i * DIM + j] = (float)((double)rows[i * DIM + j] / sqrt(norm));
        q[i] = (uint32_t)i;
    }
    first = cost_of(rows, N, DIM, SIZE, q);
    CHECK(cost < 0.9 * first);
    CHECK_WITHIN(cost, cost_of(rows, N, DIM, SIZE, p), 1e-6 * cost, "cost of unit rows");
    uint8_t seen[N] = {0};
    for (size_t i = 0; i < N; i++)
        CHECK(p[i] < N && !seen[p[i]]++);
    config.weights.data = halves;
    config.weights.dtype = SFFN_BF16;
    CHECK_OK(ctx, sffn_cluster_neurons(ctx, &config, q, NULL));
    CHECK(memcmp(p, q, sizeof p) == 0);
    free(rows), free(halves);
}

static void cluster_errors(void **state)
{
    (void)state;
    float rows[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint32_t p[4] = {9, 9, 9, 9};
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_cluster_config config = cluster_config(rows, 4, 2, 2);                                \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_cluster_neurons(ctx, &config, p, NULL), status, words);              \
        CHECK(p[0] == 9 && p[3] == 9);                                                             \
    } while (0)
    uint64_t stop = 0;
    REFUSED(config.weights.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "weights.data NULL");
    REFUSED(config.n_cols = 0, SFFN_ERR_INVALID_ARGUMENT, "n_cols 0");
    REFUSED(config.group_size = 0, SFFN_ERR_INVALID_ARGUMENT, "group_size 0");
    REFUSED(config.group_size = 3, SFFN_ERR_SHAPE, "group_size 3 4");
    REFUSED(config.normalize = 2, SFFN_ERR_INVALID_ARGUMENT, "normalize 2");
    REFUSED(config.weights.row_bytes = 4, SFFN_ERR_SHAPE, "row_bytes 4 8");
    REFUSED((config.progress = stop_at, config.progress_user = &stop), SFFN_ERR_INTERRUPTED,
            "experts 0");
    stop = 1;
    REFUSED((config.progress = stop_at, config.progress_user = &stop), SFFN_ERR_INTERRUPTED,
            "experts 1");
    rows[5] = NAN;
    REFUSED((void)config, SFFN_ERR_INVALID_ARGUMENT, "weights[2][1] nan");
    sffn_cluster_config config = cluster_config(rows, 4, 2, 2);
    CHECK_ERROR(ctx, sffn_cluster_neurons(ctx, &config, NULL, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "permutation NULL");
    CHECK_ERROR(ctx, sffn_cluster_neurons(ctx, NULL, p, NULL), SFFN_ERR_INVALID_ARGUMENT, "NULL");
    CHECK(sffn_cluster_neurons(NULL, &config, p, NULL) == SFFN_ERR_INVALID_ARGUMENT);
#undef REFUSED
}

/* ---- factors ---- */

/* A gate of rank 3 in bf16 comes back from 3 factors; a smaller rank loses what it must. */
static void svd(void **state)
{
    (void)state;
    enum { N = 40, DIM = 24, R = 3 };
    float w[N * DIM], w1[R * DIM], w2[N * R];
    uint16_t halves[N * DIM];
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < DIM; j++) /* orthogonal patterns of length 1, times 3, 2, 1 */
            w[i * DIM + j] = (float)((i % 4 == j % 3) * (3 - (int)(j % 3)));
    CHECK(sffn_dtype_from_f32(SFFN_BF16, w, N * DIM, halves) == SFFN_OK);
    sffn_svd_config config = SFFN_SVD_CONFIG_INIT;
    config.weights.data = halves;
    config.weights.dtype = SFFN_BF16;
    config.n_rows = N;
    config.n_cols = DIM;
    double captured;
    for (uint32_t rank = 1; rank <= R; rank++) {
        config.rank = rank;
        CHECK_OK(ctx, sffn_fit_svd(ctx, &config, w1, w2, &captured));
        double error = 0, total = 0, lost = 0;
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < DIM; j++) {
                double v = (double)w[i * DIM + j];
                total += v * v;
                lost += j % 3 >= rank ? v * v : 0;
                for (size_t l = 0; l < rank; l++)
                    v -= (double)w2[i * rank + l] * w1[l * DIM + j];
                error += v * v;
            }
        CHECK_WITHIN(error, lost, 1e-5 * total, "rank %u", (unsigned)rank);
        CHECK_WITHIN(captured, 1 - lost / total, 1e-5, "rank %u", (unsigned)rank);
    }
#define REFUSED(change, status, words)                                                             \
    do {                                                                                           \
        sffn_svd_config c = config;                                                                \
        change;                                                                                    \
        CHECK_ERROR(ctx, sffn_fit_svd(ctx, &c, w1, w2, NULL), status, words);                      \
    } while (0)
    float moment[DIM * DIM] = {0};
    moment[DIM + 1] = NAN;
    REFUSED(c.rank = 0, SFFN_ERR_INVALID_ARGUMENT, "rank 0");
    REFUSED(c.rank = 25, SFFN_ERR_INVALID_ARGUMENT, "rank 25 24");
    REFUSED(c.weights.data = NULL, SFFN_ERR_INVALID_ARGUMENT, "weights.data NULL");
    REFUSED(c.n_rows = 0, SFFN_ERR_INVALID_ARGUMENT, "n_rows 0");
    REFUSED(c.weights.dtype = SFFN_Q8_0, SFFN_ERR_SHAPE, "24 32");
    REFUSED(c.second_moment = moment, SFFN_ERR_INVALID_ARGUMENT, "second_moment[1][1] nan");
    halves[3 * DIM + 2] = 0x7fc0;
    REFUSED((void)c, SFFN_ERR_INVALID_ARGUMENT, "weights[3][2] nan");
    CHECK_ERROR(ctx, sffn_fit_svd(ctx, &config, NULL, w2, NULL), SFFN_ERR_INVALID_ARGUMENT, "w1");
    CHECK_ERROR(ctx, sffn_fit_svd(ctx, &config, w1, NULL, NULL), SFFN_ERR_INVALID_ARGUMENT, "w2");
    CHECK(sffn_fit_svd(NULL, &config, w1, w2, NULL) == SFFN_ERR_INVALID_ARGUMENT);
#undef REFUSED
}

int main(void)
{
    struct cases cases = {0};
    ctx = make_context(1, NULL);
    CASE(&cases, cluster_toys);
    CASE(&cases, planted_experts);
    CASE(&cases, experts_of_random_rows);
    CASE(&cases, cluster_errors);
    CASE(&cases, svd);
    const int failed = cases_run(&cases, "fit");
    sffn_context_destroy(ctx);
    return failed;
}
