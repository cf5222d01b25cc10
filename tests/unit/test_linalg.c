/* linalg.h: products against float64, eigenpairs by their definition, low-rank factors of matrices
 * with known spectra, the same bits for any number of threads. */
#include <math.h>

#include "check.h"
#include "matmul/linalg.h"

static sffn_context *ctx;

static void products(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1},    {3, 5, 7},      {9, 1, 33},    {1, 70, 300},
                                       {65, 9, 129}, {17, 300, 260}, {40, 40, 1000}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const size_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        float *a = rng_normals("a", m * k), *b = rng_normals("b", n * k);
        float *bt = malloc(n * k * sizeof *bt), *c = malloc(m * n * sizeof *c);
        float *d = malloc(m * n * sizeof *d);
        for (size_t i = 0; i < m * n; i++)
            d[i] = 1;
        sffn_transpose(n, k, b, bt);
        CHECK_OK(ctx, sffn_gemm_nt(ctx, m, n, k, a, k, b, k, c, n));
        CHECK_OK(ctx, sffn_gemm_nn(ctx, m, n, k, 0.5f, a, k, bt, n, 1, d, n));
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                double sum = 0, size = 0;
                for (size_t l = 0; l < k; l++) {
                    sum += (double)a[i * k + l] * b[j * k + l];
                    size += fabs((double)a[i * k + l] * b[j * k + l]);
                }
                CHECK_WITHIN((double)c[i * n + j], sum, gamma_n((double)k) * size, "nt %zu", s);
                CHECK_WITHIN((double)d[i * n + j], 1 + 0.5 * sum,
                             gamma_n((double)k + 1) * (1 + size), "nn %zu", s);
            }
        free(a), free(b), free(bt), free(c), free(d);
    }
}

/* |A v - lambda v| and |v_i . v_j - delta| are a few n u |A| for a backward stable method. */
static void eigenpairs(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, 4, 17, 100};
    for (size_t s = 0; s < 2 * sizeof sizes / sizeof *sizes; s++) {
        const size_t n = sizes[s / 2];
        struct rng rng = rng_named("eigen");
        double *a = calloc(n * n, sizeof *a), *v = malloc(n * n * sizeof *v);
        double *values = malloc(n * sizeof *values), *work = malloc(2 * n * sizeof *work);
        double size = 0, trace = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++) /* every second matrix has blocks and equal values */
                a[i * n + j] = a[j * n + i] =
                    s % 2 ? (double)(i / 3 == j / 3) : (double)rng_normal(&rng);
        for (size_t i = 0; i < n * n; i++)
            size += a[i] * a[i];
        for (size_t i = 0; i < n; i++)
            trace += a[i * n + i];
        memcpy(v, a, n * n * sizeof *v);
        CHECK(sffn_eigen_symmetric(n, v, values, work));
        const double bound = 32 * (double)n * 0x1p-53 * (sqrt(size) + 1);
        for (size_t e = 0; e < n; e++) {
            trace -= values[e];
            CHECK(e == 0 || values[e] <= values[e - 1]);
            for (size_t i = 0; i < n; i++) {
                double av = -values[e] * v[e * n + i], dot = -(double)(e == i);
                for (size_t j = 0; j < n; j++) {
                    av += a[i * n + j] * v[e * n + j];
                    dot += v[e * n + j] * v[i * n + j];
                }
                CHECK_WITHIN(av, 0.0, bound, "residual, n %zu", n);
                CHECK_WITHIN(dot, 0.0, bound, "orthogonality, n %zu", n);
            }
        }
        CHECK_WITHIN(trace, 0.0, bound, "trace, n %zu", n);
        free(a), free(v), free(values), free(work);
    }
    double nan_matrix[1] = {NAN}, value, work[2];
    CHECK(!sffn_eigen_symmetric(1, nan_matrix, &value, work));
}

static double error_of(size_t n, size_t d, size_t r, const float *w, const float *w1,
                       const float *w2)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++) {
            double v = (double)w[i * d + j];
            for (size_t l = 0; l < r; l++)
                v -= (double)w2[i * r + l] * w1[l * d + j];
            sum += v * v;
        }
    return sum;
}

/* W = sum of s_k u_k v_k' with unit coordinate vectors u, v: singular values s in any order. */
static void known_spectrum(void **state)
{
    (void)state;
    enum { N = 9, D = 6, R = 3 };
    static const float s[D] = {3, 0.5f, 7, 1, 0, 5};
    float w[N * D] = {0}, w1[R * D], w2[N * R];
    for (size_t k = 0; k < D; k++)
        w[(N - 1 - k) * D + k] = s[k];
    struct sffn_low_rank job = {.what = "test", .rows = N, .columns = D, .rank = R, .w = w};
    double captured;
    CHECK_OK(ctx, sffn_low_rank_factors(ctx, &job, w1, w2, &captured));
    CHECK_WITHIN(error_of(N, D, R, w, w1, w2), 1.25, 1e-4, "least error");
    CHECK_WITHIN(captured, 83.0 / 84.25, 1e-5, "captured");
    /* inputs live in coordinates 1 and 3 only: rank 2 is enough for them, whatever else W holds */
    float c[D * D] = {0};
    c[1 * D + 1] = 4;
    c[3 * D + 3] = 0.25f;
    job.second_moment = c;
    job.rank = 2;
    CHECK_OK(ctx, sffn_low_rank_factors(ctx, &job, w1, w2, &captured));
    CHECK_WITHIN(captured, 1.0, 1e-5, "captured of rank 2");
    for (size_t i = 0; i < N; i++)
        for (size_t j = 1; j < D; j += 2) /* columns 1 and 3; 5 is outside */
            if (j != 5)
                CHECK_WITHIN((double)(w2[i * 2] * w1[j] + w2[i * 2 + 1] * w1[D + j]),
                             (double)w[i * D + j], 1e-5, "row %zu column %zu", i, j);
    job.rank = D + 1;
    CHECK_ERROR(ctx, sffn_low_rank_factors(ctx, &job, w1, w2, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "rank 7 1..6");
    job.rank = 2;
    w[13] = NAN;
    CHECK_ERROR(ctx, sffn_low_rank_factors(ctx, &job, w1, w2, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "weights[2][1] nan");
    w[13] = 0;
    c[7] = INFINITY;
    CHECK_ERROR(ctx, sffn_low_rank_factors(ctx, &job, w1, w2, NULL), SFFN_ERR_INVALID_ARGUMENT,
                "second_moment[1][1] inf");
}

static int32_t stop_at(void *user, const char *what, uint64_t done, uint64_t total)
{
    CHECK_TEXT(what, "test");
    return done == *(uint64_t *)user && done < total;
}

/* Larger than SFFN_LOW_RANK_EXACT: the iteration. A rank 8 matrix plus noise of 1/1000. */
static void subspace_iteration(void **state)
{
    (void)state;
    enum { N = 1100, D = 1030, R = 8 };
    float *u = rng_normals("u", N * R), *v = rng_normals("v", R * D), *w = rng_normals("w", N * D);
    float *w1 = malloc(R * D * sizeof *w1), *w2 = malloc(N * R * sizeof *w2);
    double noise = 0;
    for (size_t i = 0; i < N * D; i++) {
        w[i] *= 1e-3f;
        noise += (double)w[i] * w[i];
    }
    CHECK_OK(ctx, sffn_gemm_nn(ctx, N, D, R, 1.0f, u, R, v, D, 1, w, D));
    struct sffn_low_rank job = {.what = "test", .rows = N, .columns = D, .rank = R, .w = w};
    CHECK_OK(ctx, sffn_low_rank_factors(ctx, &job, w1, w2, NULL));
    CHECK(error_of(N, D, R, w, w1, w2) <= noise); /* the best rank 8 map is at least as good */
    float *again1 = malloc(R * D * sizeof *w1), *again2 = malloc(N * R * sizeof *w2);
    for (uint32_t n_threads = 2; n_threads <= 9; n_threads += 7) {
        sffn_context *other = make_context(n_threads, NULL);
        CHECK_OK(other, sffn_low_rank_factors(other, &job, again1, again2, NULL));
        CHECK_BITS(again1, w1, R * D, "w1, %u threads", (unsigned)n_threads);
        CHECK_BITS(again2, w2, N * R, "w2, %u threads", (unsigned)n_threads);
        sffn_context_destroy(other);
    }
    uint64_t stop = 2;
    job.progress = stop_at;
    job.progress_user = &stop;
    CHECK_ERROR(ctx, sffn_low_rank_factors(ctx, &job, w1, w2, NULL), SFFN_ERR_INTERRUPTED,
                "test 2");
    free(u), free(v), free(w), free(w1), free(w2), free(again1), free(again2);
}

int main(void)
{
    struct cases cases = {0};
    ctx = make_context(1, NULL);
    CASE(&cases, products);
    CASE(&cases, eigenpairs);
    CASE(&cases, known_spectrum);
    CASE(&cases, subspace_iteration);
    const int failed = cases_run(&cases, "linalg");
    sffn_context_destroy(ctx);
    return failed;
}
