/* dense_onednn.h  Dense matrix products through oneDNN: long prompts, and the baseline of the benchmarks.
 *
 * The library is loaded at run time, at the first call of any function here, and stays loaded; it brings an OpenMP runtime with it. Without it,
 * or when not built in, everything answers 0 or NULL. oneDNN reads its own environment variables (DNNL_VERBOSE, ONEDNN_MAX_CPU_ISA, ...).
 */
#ifndef SFFN_DENSE_ONEDNN_H
#define SFFN_DENSE_ONEDNN_H
#include <stddef.h>
#include <stdint.h>

/* 1: built in, found at run time, and its engine works. Thread-safe. */
int sffn_onednn_available(void);
/* "2.6.3"; "" without oneDNN. Static storage. */
const char *sffn_onednn_version(void);

/* Threads of the calling thread's next calls (an OpenMP setting, per calling thread, which the caller's own OpenMP code shares when it uses the
 * same runtime). Returns the previous number, to be put back afterwards; 0 when nothing was set. */
int sffn_onednn_set_threads(int n_threads);

/* c[i][j] = beta * c[i][j] + sum_l a[i][l] * b[j][l], i < m, j < n, l < k; with b_is_kn b[l][j] instead. Rows are lda, ldb, ldc elements
 * apart. Returns 1, or 0 with c undefined. Thread-safe; oneDNN allocates inside. oneDNN's sums are not promised to be the same for every number of threads, m or n. */
int sffn_onednn_sgemm(int b_is_kn, size_t m, size_t n, size_t k, const float *a, size_t lda,
                      const float *b, size_t ldb, float beta, float *c, size_t ldc);

/* dst[i][j] = sum_l src[i][l] * weights[j][l], i < m (tokens), j < n (rows), l < k (columns); everything packed tightly. */
enum sffn_onednn_kind {
    SFFN_ONEDNN_F32 = 0,  /* f32 x f32 -> f32 */
    SFFN_ONEDNN_BF16 = 1, /* bf16 x bf16 -> f32 */
    SFFN_ONEDNN_S8S8 = 2, /* s8 x s8 -> s32 */
    SFFN_ONEDNN_U8S8 = 3  /* u8 (src) x s8 -> s32 */
};
struct sffn_onednn;
/* Copies the weights [n][k] into the layout that oneDNN prefers for this m and the thread count set now; in huge pages where the system gives
 * them. NULL when oneDNN has no implementation, or no memory. Objects may be created on several threads at once. */
struct sffn_onednn *sffn_onednn_create(int kind, size_t m, size_t n, size_t k, const void *weights);
/* Returns 1, or 0 with dst undefined. src and dst 64-byte aligned for speed. One run at a time per object. */
int sffn_onednn_run(struct sffn_onednn *matmul, const void *src, void *dst);
/* NULL is a no-op. */
void sffn_onednn_destroy(struct sffn_onednn *matmul);
/* oneDNN's name of the implementation, "brg:avx512_core_bf16"; as long as the object. */
const char *sffn_onednn_name(const struct sffn_onednn *matmul);
/* Bytes of the weights as oneDNN stores them. */
size_t sffn_onednn_weight_bytes(const struct sffn_onednn *matmul);

#endif /* SFFN_DENSE_ONEDNN_H */
