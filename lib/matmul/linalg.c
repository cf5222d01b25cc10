#include "matmul/linalg.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "base/random.h"
#include "matmul/rows.h"

sffn_status sffn_progress_report(const sffn_context *ctx, sffn_progress_fn progress, void *user,
                                 const char *what, uint64_t done, uint64_t total)
{
    if (progress && progress(user, what, done, total) != 0)
        return sffn_fail(ctx, SFFN_ERR_INTERRUPTED,
                         "%s: stopped by the progress callback at %llu "
                         "of %llu",
                         what, (unsigned long long)done, (unsigned long long)total);
    return SFFN_OK;
}

/* ---- products ---- */

struct gemm {
    const struct sffn_kernels *k;
    size_t m, n, depth;
    const float *a, *b;
    float *c;
    size_t lda, ldb, ldc;
    float alpha;
    int accumulate;
};

#define B_BYTES                                                                                    \
    ((size_t)256 << 10) /* of b that stay in the second-level cache while all of a passes */
#define NN_COLUMNS 256
#define NN_ROWS    128 /* NN_ROWS * NN_COLUMNS floats of b are 128 KiB */

static void nt_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct gemm *g = arg;
    float out[64 * SFFN_TILE_TOKENS];
    size_t i0 = 0, i1 = g->m, j0 = 0, j1 = g->n;
    if (g->m >= g->n) /* the longer side is shared out; no sum depends on its neighbours */
        sffn_share(g->m, ith, nth, &i0, &i1);
    else
        sffn_share(g->n, ith, nth, &j0, &j1);
    size_t block = B_BYTES / (g->depth * sizeof(float) + 1);
    block = block < 8 ? 8 : block > 64 ? 64 : block;
    for (size_t j = j0; j < j1; j += block) {
        const size_t n_rows = j1 - j < block ? j1 - j : block;
        for (size_t i = i0; i < i1; i += SFFN_TILE_TOKENS) {
            const size_t n = i1 - i < SFFN_TILE_TOKENS ? i1 - i : SFFN_TILE_TOKENS;
            const struct sffn_x x = {.x = g->a + i * g->lda, .x_stride = g->lda};
            g->k->rows_dot[SFFN_F32].fn(out, g->b + j * g->ldb, g->ldb * sizeof(float), NULL, NULL,
                                        n_rows, &x, n, g->depth);
            for (size_t t = 0; t < n; t++)
                for (size_t r = 0; r < n_rows; r++)
                    g->c[(i + t) * g->ldc + j + r] = out[r * n + t];
        }
    }
}

/* A panel of b is added to every row of c before the next is read; an element's sum runs over l in ascending order whatever the panels. */
static void nn_phase(void *arg, uint32_t phase, uint32_t ith, uint32_t nth)
{
    (void)phase;
    const struct gemm *g = arg;
    size_t i0 = 0, i1 = g->m, j0 = 0, j1 = g->n;
    if (g->m >= g->n)
        sffn_share(g->m, ith, nth, &i0, &i1);
    else
        sffn_share(g->n, ith, nth, &j0, &j1);
    for (size_t j = j0; j < j1; j += NN_COLUMNS) {
        const size_t n = j1 - j < NN_COLUMNS ? j1 - j : NN_COLUMNS;
        for (size_t i = i0; !g->accumulate && i < i1; i++)
            memset(g->c + i * g->ldc + j, 0, n * sizeof(float));
        for (size_t l = 0; l < g->depth; l += NN_ROWS) {
            const size_t depth = g->depth - l < NN_ROWS ? g->depth - l : NN_ROWS;
            for (size_t i = i0; i < i1; i++) {
                float scaled[NN_ROWS];
                for (size_t r = 0; r < depth; r++)
                    scaled[r] = g->alpha * g->a[i * g->lda + l + r];
                g->k->rows_axpy[SFFN_F32].fn(g->c + i * g->ldc + j, g->b + l * g->ldb + j,
                                             g->ldb * sizeof(float), NULL, scaled, depth, 0, n);
            }
        }
    }
}

static sffn_status run_gemm(sffn_context *ctx, struct gemm *g, sffn_phase_fn phase)
{
    if (g->m == 0 || g->n == 0)
        return SFFN_OK;
    const sffn_status status = sffn_context_enter(ctx);
    if (status == SFFN_OK) {
        g->k = sffn_context_kernels(ctx);
        sffn_context_run_phases(ctx, 1, phase, g);
        sffn_context_leave(ctx);
    }
    return status;
}

sffn_status sffn_gemm_nt(sffn_context *ctx, size_t m, size_t n, size_t k, const float *a,
                         size_t lda, const float *b, size_t ldb, float *c, size_t ldc)
{
    struct gemm g = {.m = m, .n = n, .depth = k, .a = a, .b = b, .c = c};
    g.lda = lda;
    g.ldb = ldb;
    g.ldc = ldc;
    return run_gemm(ctx, &g, nt_phase);
}

sffn_status sffn_gemm_nn(sffn_context *ctx, size_t m, size_t n, size_t k, float alpha,
                         const float *a, size_t lda, const float *b, size_t ldb, int accumulate,
                         float *c, size_t ldc)
{
    struct gemm g = {.m = m, .n = n, .depth = k, .a = a, .b = b, .c = c};
    g.lda = lda;
    g.ldb = ldb;
    g.ldc = ldc;
    g.alpha = alpha;
    g.accumulate = accumulate;
    return run_gemm(ctx, &g, nn_phase);
}

void sffn_transpose(size_t rows, size_t columns, const float *in, float *out)
{
    for (size_t i0 = 0; i0 < rows;
         i0 += 32) /* 32 x 32 floats: both sides stay in the first-level cache */
        for (size_t j0 = 0; j0 < columns; j0 += 32)
            for (size_t i = i0; i < rows && i < i0 + 32; i++)
                for (size_t j = j0; j < columns && j < j0 + 32; j++)
                    out[j * rows + i] = in[i * columns + j];
}

/* ---- symmetric eigenproblem ---- */

static double dot(size_t n, const double *a, const double *b)
{
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0; /* four chains, so that the additions overlap */
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    for (; i < n; i++)
        s0 += a[i] * b[i];
    return s0 + s1 + (s2 + s3);
}

static void axpy(size_t n, double s, const double *x, double *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += s * x[i];
}

/* Householder reduction to tridiagonal form. H_k = I - beta v v' clears row k right of its neighbour; v, with beta in place of its unused
 * entry k, stays in row k. Everything goes along rows. */
static void tridiagonalise(size_t n, double *a, double *diagonal, double *off)
{
    for (size_t k = 0; k + 1 < n; k++) {
        double *v = a + k * n;
        const size_t m = n - k - 1;
        const double x0 = v[k + 1], norm = sqrt(dot(m, v + k + 1, v + k + 1));
        diagonal[k] = v[k];
        off[k + 1] = x0 > 0 ? -norm : norm;
        v[k] = 0; /* beta */
        if (m == 1 || norm == 0) {
            off[k + 1] = m == 1 ? x0 : 0;
            continue;
        }
        v[k + 1] = x0 - off[k + 1];
        const double beta = 1 / (norm * (norm + fabs(x0)));
        v[k] = beta;
        double *p = diagonal + k + 1; /* not in use yet */
        for (size_t i = k + 1; i < n; i++)
            p[i - k - 1] = beta * dot(m, a + i * n + k + 1, v + k + 1);
        axpy(m, -0.5 * beta * dot(m, p, v + k + 1), v + k + 1, p);
        for (size_t i = k + 1; i < n; i++) {
            axpy(m, -v[i], p, a + i * n + k + 1);
            axpy(m, -p[i - k - 1], v + k + 1, a + i * n + k + 1);
        }
    }
    diagonal[n - 1] = a[n * n - 1];
    off[0] = 0;
}

/* a becomes H_{n-2} .. H_0, whose rows the QL rotations turn into eigenvectors. The product grows from the last factor, whose support is the
 * lower right corner; row k is only overwritten when its v has been used. */
static void expand_reflections(size_t n, double *a)
{
    for (size_t k = n; k-- > 0;) {
        double *v = a + k * n;
        if (k + 1 < n && v[k] != 0)
            for (size_t i = k + 1; i < n; i++)
                axpy(n - k - 1, -v[k] * dot(n - k - 1, a + i * n + k + 1, v + k + 1), v + k + 1,
                     a + i * n + k + 1);
        memset(v, 0, n * sizeof(*v));
        v[k] = 1;
        for (size_t i = k + 1; i < n; i++)
            a[i * n + k] = 0;
    }
}

/* Implicit QL with Wilkinson's shift. */
static int tridiagonal_ql(size_t n, double *d, double *e, double *z)
{
    memmove(e, e + 1, (n - 1) * sizeof(*e)); /* e[i]: between i and i + 1 */
    e[n - 1] = 0;
    for (size_t l = 0; l < n; l++) {
        for (int iteration = 0;; iteration++) {
            size_t m = l;
            while (m + 1 < n && !(fabs(e[m]) <= 0x1p-53 * (fabs(d[m]) + fabs(d[m + 1]))))
                m++;
            if (m == l)
                break;
            if (iteration == 60)
                return 0;
            double g = (d[l + 1] - d[l]) / (2 * e[l]), r = hypot(g, 1);
            g = d[m] - d[l] + e[l] / (g + copysign(r, g));
            double s = 1, c = 1, p = 0;
            int underflows = 0;
            for (size_t i = m; i-- > l;) {
                double f = s * e[i];
                const double b = c * e[i];
                e[i + 1] = r = hypot(f, g);
                if (r == 0) {
                    d[i + 1] -= p;
                    e[m] = 0;
                    underflows = 1;
                    break;
                }
                s = f / r;
                c = g / r;
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                double *zi = z + i * n, *zj = zi + n;
                for (size_t k = 0; k < n; k++) {
                    f = zj[k];
                    zj[k] = s * zi[k] + c * f;
                    zi[k] = c * zi[k] - s * f;
                }
            }
            if (underflows)
                continue;
            d[l] -= p;
            e[l] = g;
            e[m] = 0;
        }
    }
    return 1;
}

int sffn_eigen_symmetric(size_t n, double *a, double *values, double *work)
{
    if (n == 0)
        return 1;
    double *off = work;
    for (size_t i = 0; i < n * n; i++)
        if (!isfinite(a[i]))
            return 0;
    tridiagonalise(n, a, values, off);
    expand_reflections(n, a);
    if (!tridiagonal_ql(n, values, off, a))
        return 0;
    for (size_t i = 0; i < n; i++) { /* n is small beside n^3: plain selection */
        size_t best = i;
        for (size_t j = i + 1; j < n; j++)
            if (values[j] > values[best])
                best = j;
        if (best == i)
            continue;
        const double v = values[i];
        values[i] = values[best];
        values[best] = v;
        for (size_t k = 0; k < n; k++) {
            const double t = a[i * n + k];
            a[i * n + k] = a[best * n + k];
            a[best * n + k] = t;
        }
    }
    return 1;
}

/* ---- low rank ---- */

#define PANEL 32

static double norm_of(const float *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)v[i] * v[i];
    return sqrt(sum);
}

/* before[i]: the norm of vector i before anything was taken from it. A vector of which nothing is left becomes zero. */
static void orthonormalise_panel(float *panel, size_t count, size_t n, const double *before)
{
    for (size_t i = 0; i < count; i++) {
        float *v = panel + i * n;
        for (int pass = 0; pass < 2; pass++)
            for (size_t j = 0; j < i; j++) {
                const float *u = panel + j * n;
                double s = 0;
                for (size_t l = 0; l < n; l++)
                    s += (double)u[l] * v[l];
                for (size_t l = 0; l < n; l++)
                    v[l] -= (float)s * u[l];
            }
        const double norm = norm_of(v, n);
        /* What is left of a dependent vector is rounding noise. */
        const float scale = norm > 1e-5 * before[i] ? (float)(1 / norm) : 0.0f;
        for (size_t l = 0; l < n; l++)
            v[l] *= scale;
    }
}

/* Block Gram-Schmidt, twice, on the rows of q [count][n]. coefficients: [PANEL][count]. */
static sffn_status orthonormalise(sffn_context *ctx, float *q, size_t count, size_t n,
                                  float *coefficients)
{
    sffn_status status = SFFN_OK;
    for (size_t first = 0; first < count && status == SFFN_OK; first += PANEL) {
        const size_t m = count - first < PANEL ? count - first : PANEL;
        float *panel = q + first * n;
        double before[PANEL];
        for (size_t i = 0; i < m; i++)
            before[i] = norm_of(panel + i * n, n);
        for (int pass = 0; pass < 2 && first > 0 && status == SFFN_OK; pass++) {
            status = sffn_gemm_nt(ctx, m, first, n, panel, n, q, n, coefficients, count);
            if (status == SFFN_OK)
                status =
                    sffn_gemm_nn(ctx, m, n, first, -1.0f, coefficients, count, q, n, 1, panel, n);
        }
        orthonormalise_panel(panel, m, n, before);
    }
    return status;
}

static sffn_status check_finite(const sffn_context *ctx, const char *what, const char *part,
                                const float *v, size_t rows, size_t columns)
{
    for (size_t i = 0; i < rows * columns; i++)
        if (!isfinite(v[i]))
            return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "%s: %s[%zu][%zu] is %g; expected a finite number", what, part,
                             i / columns, i % columns, (double)v[i]);
    return SFFN_OK;
}

/* Memory of a factorisation: l vectors of the left space, their images in the right, the small matrix. */
struct low_rank_scratch {
    size_t l, bytes;
    float *q, *qt;  /* [l][rows], and transposed */
    float *t, *tc;  /* [l][columns]: q W, and that times the second moment */
    float *g;       /* [l][l] */
    double *eigen;  /* [l][l] */
    double *values; /* [3 l] */
};

static int low_rank_layout(const struct sffn_low_rank *job, struct low_rank_scratch *s, char *base)
{
    const struct {
        void **where;
        size_t count, size;
    } parts[] = {{(void **)&s->q, job->rows, sizeof(float)},
                 {(void **)&s->qt, job->rows, sizeof(float)},
                 {(void **)&s->t, job->columns, sizeof(float)},
                 {(void **)&s->tc, job->second_moment ? job->columns : 0, sizeof(float)},
                 {(void **)&s->g, s->l > PANEL ? s->l : PANEL, sizeof(float)},
                 {(void **)&s->eigen, s->l, sizeof(double)},
                 {(void **)&s->values, 3, sizeof(double)}};
    size_t used = 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        size_t bytes;
        if (base)
            *parts[i].where = base + used;
        if (!sffn_checked_mul(parts[i].count, s->l * parts[i].size, &bytes) ||
            !sffn_checked_round_up(bytes, 64, &bytes) || !sffn_checked_add(used, bytes, &used))
            return 0;
    }
    s->bytes = used;
    return 1;
}

/* t = q W, tc = t C. */
static sffn_status project(sffn_context *ctx, const struct sffn_low_rank *job,
                           const struct low_rank_scratch *s)
{
    const size_t d = job->columns;
    const sffn_status status =
        sffn_gemm_nn(ctx, s->l, d, job->rows, 1.0f, s->q, job->rows, job->w, d, 0, s->t, d);
    if (status != SFFN_OK || !job->second_moment)
        return status;
    return sffn_gemm_nt(ctx, s->l, d, d, s->t, d, job->second_moment, d, s->tc, d);
}

/* An orthonormal basis of (nearly) the best left space, in s->q. */
static sffn_status find_range(sffn_context *ctx, const struct sffn_low_rank *job,
                              const struct low_rank_scratch *s, int is_exact)
{
    const size_t n = job->rows, d = job->columns;
    struct sffn_random random = {job->seed};
    sffn_status status;
    if (is_exact && d <= n) {
        sffn_transpose(n, d, job->w, s->q);
        return orthonormalise(ctx, s->q, s->l, n, s->g);
    }
    for (size_t i = 0; i < s->l * n; i++)
        s->q[i] = is_exact ? i % n == i / n : sffn_random_normal(&random);
    if (is_exact)
        return SFFN_OK;
    enum { ITERATIONS = 4 };
    for (uint64_t i = 0; i < ITERATIONS; i++) {
        status = sffn_progress_report(ctx, job->progress, job->progress_user, job->what, i,
                                      ITERATIONS + 1);
        if (status == SFFN_OK)
            status = project(ctx, job, s);
        if (status == SFFN_OK)
            status = sffn_gemm_nt(ctx, s->l, n, d, job->second_moment ? s->tc : s->t, d, job->w, d,
                                  s->q, n);
        if (status == SFFN_OK)
            status = orthonormalise(ctx, s->q, s->l, n, s->g);
        if (status != SFFN_OK)
            return status;
    }
    return sffn_progress_report(ctx, job->progress, job->progress_user, job->what, ITERATIONS,
                                ITERATIONS + 1);
}

/* The sum of (W C) .* W: what all ranks together would capture. s->tc is free. */
static sffn_status total_energy(sffn_context *ctx, const struct sffn_low_rank *job,
                                const struct low_rank_scratch *s, double *energy)
{
    sffn_status status = SFFN_OK;
    const size_t d = job->columns;
    double sum = 0;
    for (size_t i = 0; i < job->rows && status == SFFN_OK; i += s->l) {
        const size_t n = job->rows - i < s->l ? job->rows - i : s->l;
        const float *w = job->w + i * d, *v = w;
        if (job->second_moment) {
            status = sffn_gemm_nt(ctx, n, d, d, w, d, job->second_moment, d, s->tc, d);
            v = s->tc;
        }
        for (size_t j = 0; j < n * d && status == SFFN_OK; j++)
            sum += (double)w[j] * v[j];
    }
    *energy = sum;
    return status;
}

/* Rayleigh-Ritz inside the basis, then the factors. */
static sffn_status rotate(sffn_context *ctx, const struct sffn_low_rank *job,
                          const struct low_rank_scratch *s, float *w1, float *w2, double *captured)
{
    const size_t l = s->l, r = job->rank, n = job->rows, d = job->columns;
    double total = 0, kept = 0;
    sffn_status status = project(ctx, job, s);
    if (status == SFFN_OK)
        status = sffn_gemm_nt(ctx, l, l, d, job->second_moment ? s->tc : s->t, d, s->t, d, s->g, l);
    if (status != SFFN_OK)
        return status;
    for (size_t i = 0; i < l; i++)
        for (size_t j = 0; j < l; j++)
            s->eigen[i * l + j] = 0.5 * ((double)s->g[i * l + j] + s->g[j * l + i]);
    if (!sffn_eigen_symmetric(l, s->eigen, s->values, s->values + l))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: the factorisation overflows: the values are too large for float",
                         job->what);
    for (size_t i = 0; i < r * l; i++)
        s->g[i] = (float)s->eigen[i];
    status = sffn_gemm_nn(ctx, r, d, l, 1.0f, s->g, l, s->t, d, 0, w1, d);
    sffn_transpose(l, n, s->q, s->qt);
    if (status == SFFN_OK)
        status = sffn_gemm_nt(ctx, n, r, l, s->qt, l, s->g, l, w2, r);
    if (status == SFFN_OK && captured)
        status = total_energy(ctx, job, s, &total);
    for (size_t j = 0; j < r; j++)
        kept += s->values[j] > 0 ? s->values[j] : 0;
    if (captured)
        *captured = total > kept ? kept / total : 1;
    return status;
}

sffn_status sffn_low_rank_factors(sffn_context *ctx, const struct sffn_low_rank *job, float *w1,
                                  float *w2, double *captured)
{
    enum { OVERSAMPLE = 32 };
    const size_t smaller = job->rows < job->columns ? job->rows : job->columns;
    if (job->rank == 0 || job->rank > smaller)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "%s: rank is %zu; a %zu x %zu matrix has ranks 1..%zu", job->what,
                         job->rank, job->rows, job->columns, smaller);
    sffn_status status = check_finite(ctx, job->what, "weights", job->w, job->rows, job->columns);
    if (status == SFFN_OK && job->second_moment)
        status = check_finite(ctx, job->what, "second_moment", job->second_moment, job->columns,
                              job->columns);
    if (status != SFFN_OK)
        return status;
    const int is_exact = smaller <= SFFN_LOW_RANK_EXACT || smaller - job->rank <= OVERSAMPLE;
    struct low_rank_scratch s = {.l = is_exact ? smaller : job->rank + OVERSAMPLE};
    char *scratch = low_rank_layout(job, &s, NULL) ? sffn_mem_alloc(ctx, s.bytes) : NULL;
    if (!scratch)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "%s: the allocator returned NULL for %zu bytes", job->what, s.bytes);
    low_rank_layout(job, &s, scratch);
    status = find_range(ctx, job, &s, is_exact);
    if (status == SFFN_OK)
        status = rotate(ctx, job, &s, w1, w2, captured);
    sffn_mem_free(ctx, scratch, s.bytes);
    return status;
}
