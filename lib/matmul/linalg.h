/* linalg.h  Dense float products and factorisations, for preparation: not for forward.
 *
 * Products run on the context's threads through its kernels; each call enters the context and leaves it again. Results have the same bits for
 * any number of threads, but not on every ISA. Matrices are row-major, ld* elements from row to row.
 */
#ifndef SFFN_LINALG_H
#define SFFN_LINALG_H
#include "sparseffn/context.h"

/* c[i][j] = sum_l a[i][l] * b[j][l], i < m, j < n, l < k: rows of a times rows of b. */
sffn_status sffn_gemm_nt(sffn_context *ctx, size_t m, size_t n, size_t k, const float *a,
                         size_t lda, const float *b, size_t ldb, float *c, size_t ldc);
/* c[i][j] (+)= alpha * sum_l a[i][l] * b[l][j]; accumulate 0 overwrites c. */
sffn_status sffn_gemm_nn(sffn_context *ctx, size_t m, size_t n, size_t k, float alpha,
                         const float *a, size_t lda, const float *b, size_t ldb, int accumulate,
                         float *c, size_t ldc);
/* out[j][i] = in[i][j], i < rows, j < columns, tightly packed. */
void sffn_transpose(size_t rows, size_t columns, const float *in, float *out);

/* Eigenvalues, largest first, and eigenvectors of a symmetric matrix, in double: a [n][n] becomes the eigenvectors, one per row. `work` holds
 * 2 n doubles. Returns 0 when the iteration does not converge (a NaN or infinity in a). One thread. */
int sffn_eigen_symmetric(size_t n, double *a, double *values, double *work);

/* The rank-r map W ~ w2 w1 with the least mean |(W - w2 w1) x|^2 for inputs of second moment C = E[x x'], or with the least Frobenius error when
 * second_moment is NULL. w2 has orthonormal columns U, w1 = U' W: no inverse of C is needed, so C may be singular.
 * Exact (to float rounding) when min(rows, columns) <= SFFN_LOW_RANK_EXACT; else subspace iteration from a seeded start (Halko, Martinsson,
 * Tropp 2011, arXiv:0909.4061), whose error is close to the least.
 *   w [rows][columns], second_moment [columns][columns] symmetric, w1 [rank][columns], w2 [rows][rank], all tight
 *   captured: |U' W|^2 / |W|^2 in the same norm, or NULL
 * SFFN_ERR_INVALID_ARGUMENT: a rank of 0 or over min(rows, columns), NaN or infinity in w or second_moment. `what` names the matrix in texts.
 */
#define SFFN_LOW_RANK_EXACT 1024
struct sffn_low_rank {
    const char *what;
    size_t rows, columns, rank;
    const float *w, *second_moment;
    uint64_t seed;
    sffn_progress_fn progress; /* NULL: none */
    void *progress_user;
};
sffn_status sffn_low_rank_factors(sffn_context *ctx, const struct sffn_low_rank *job, float *w1,
                                  float *w2, double *captured);

/* Reports progress; SFFN_ERR_INTERRUPTED with words when the callback asks to stop. */
sffn_status sffn_progress_report(const sffn_context *ctx, sffn_progress_fn progress, void *user,
                                 const char *what, uint64_t done, uint64_t total);

#endif /* SFFN_LINALG_H */
