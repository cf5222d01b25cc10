/* rows.h  Products of a matrix with the listed rows, shared by sffn_matmul and sffn_ffn. Nothing here allocates or waits.
 *
 * Tokens are processed in tiles of up to SFFN_TILE_TOKENS. A list names rows in ascending order, with one mask bit per token of the
 * tile and, where a stage produced them, values [position][n_tokens]. Every share of the rows, or piece of one, has its own segment,
 * so the concatenation of the segments is the same list whatever the number of threads. */
#ifndef SFFN_ROWS_H
#define SFFN_ROWS_H
#include <stdatomic.h>

#include "active_set/active_set.h"
#include "kernels/kernels.h"
#include "matmul/matmul.h"

struct sffn_segment {
    size_t start, n;
};

struct sffn_list {
    uint32_t *rows; /* NULL: row r is at position r */
    uint8_t *masks; /* NULL: every token needs every row */
    float *values;  /* [position][n_tokens], 0 for tokens that are not in the mask; or NULL */
    struct sffn_segment *segments;
    uint32_t n_segments;
};

/* Walks the stretches of positions that hold list entries [first, last) in list order.
 * struct sffn_walk w = sffn_walk_begin(list, first, last); while (sffn_walk_next(&w)) use w.start, w.n */
struct sffn_walk {
    const struct sffn_list *list;
    size_t first, last, passed;
    uint32_t segment;
    size_t start, n; /* the current stretch */
};
static inline struct sffn_walk sffn_walk_begin(const struct sffn_list *list, size_t first,
                                               size_t last)
{
    struct sffn_walk w = {list, first, last, 0, 0, 0, 0};
    return w;
}
int sffn_walk_next(struct sffn_walk *walk);
size_t sffn_list_count(const struct sffn_list *list);
/* A list as the next stage reads it: with one token every listed row is its row, and masks need no reading. */
static inline struct sffn_list sffn_list_input(const struct sffn_list *list, size_t n_tokens)
{
    struct sffn_list in = *list;
    if (n_tokens == 1)
        in.masks = NULL;
    return in;
}

/* Thread ith's share [*first, *last) of n entries. */
void sffn_share(size_t n, uint32_t ith, uint32_t nth, size_t *first, size_t *last);

/* How many pieces of a thread's share have been taken, on a cache line of its own. */
struct sffn_turn {
    _Alignas(64) atomic_uint taken;
};

/* A phase's work in n pieces: each thread takes those of its share, then what others have left of theirs, so that none waits long for the
 * slowest. Which thread did a piece must be nowhere to be seen.
 * struct sffn_deal d = sffn_deal_begin(turns, n, ith, nth); while (sffn_deal_next(&d)) do piece d.piece */
struct sffn_deal {
    struct sffn_turn *turns; /* NULL: every thread keeps to its share */
    size_t n;
    uint32_t ith, nth;
    uint32_t owner;     /* whose share it is: how many threads further */
    size_t taken;       /* of this thread's own, when nobody takes others' */
    size_t piece, last; /* the piece, and where its share ends */
};
/* turns: [nth], each 0 when the phase begins; or NULL. */
static inline struct sffn_deal sffn_deal_begin(struct sffn_turn *turns, size_t n, uint32_t ith,
                                               uint32_t nth)
{
    struct sffn_deal d = {n > nth ? turns : NULL, n, ith, nth, 0, 0, 0, 0};
    return d;
}
int sffn_deal_next(struct sffn_deal *deal);

/* Into how many pieces each thread's share of `bytes` is cut, `most` or 1: pieces are long enough for the hardware to follow, and to have more than
 * begins and ends of lists. */
#define SFFN_PIECE_BYTES 65536
#define SFFN_MOST_PIECES 4
static inline uint32_t sffn_pieces_per_thread(uint64_t bytes, uint32_t most, uint32_t nth)
{
    return nth == 1 || bytes < (uint64_t)nth * most * SFFN_PIECE_BYTES ? 1 : most;
}

/* Walks the stretches of a list that a thread gets when its rows, of row_bytes, are dealt out so.
 * struct sffn_dealt d = sffn_dealt_begin(list, row_bytes, turns, ith, nth); while (sffn_dealt_next(&d)) use d.walk.start, d.walk.n */
struct sffn_dealt {
    size_t n_rows;
    struct sffn_deal deal;
    struct sffn_walk walk;
};
struct sffn_dealt sffn_dealt_begin(const struct sffn_list *list, size_t row_bytes,
                                   struct sffn_turn *turns, uint32_t ith, uint32_t nth);
int sffn_dealt_next(struct sffn_dealt *dealt);

/* x of a tile for sffn_rows_dot(): quantised into scratch (sffn_x_scratch_bytes) when the weights want that, else as it is, or on cache lines of
 * its own there. Quantised and not, it may lie in one scratch at the same time. */
size_t sffn_x_scratch_bytes(size_t n);
struct sffn_x sffn_x_prepare(const struct sffn_kernels *k, const float *x, size_t x_stride,
                             size_t n_tokens, size_t n, int wants_q8, void *scratch);

/* out[i * n_tokens + t] = dot of the i-th row of [start, start + n) with x[t], for the tokens in its mask. */
void sffn_rows_dot(const struct sffn_kernels *k, const struct sffn_matmul *m,
                   const struct sffn_list *list, size_t start, size_t n, const struct sffn_x *x,
                   size_t n_tokens, float *out);

/* ---- y = sum of h * row, in two phases with a barrier between them ----
 *
 * q8_0, q4_0: each thread sums its pieces of the list in exact integers, so the order does not matter.
 * Others: the rows are cut into SFFN_PARTITIONS ranges of neurons whatever the number of threads; each is summed in ascending order
 * and the partitions are added in order. With many threads the columns of a partition are several pieces.
 */
#define SFFN_PARTITIONS 16

struct sffn_axpy_scratch {
    /* Tokens are a little more than that apart (rows.c, token_stride()). */
    float *partial;    /* [SFFN_TILE_TOKENS][SFFN_PARTITIONS][n_cols] */
    int32_t *acc;      /* [nth][SFFN_TILE_TOKENS][n_cols] */
    int64_t *sum;      /* the same: what acc had to hand over before it could overflow */
    uint32_t *has_sum; /* [nth]: 0: nothing was handed over */
    float *gather_h;   /* [nth][SFFN_GATHER_ROWS] */
    uint32_t *gather_rows;
    int8_t *hq; /* lossless blocks: [nth][n_blocks of a partition][32], with d and sum */
    float *hq_d;
    int32_t *hq_sum;
    /* [nth][SFFN_TILE_TOKENS]: the largest |h * row scale| a thread saw; NaN or infinite when one
     * was */
    float *h_max;
};
#define SFFN_GATHER_ROWS 1024

/* Rows handled for all tokens of a tile before the next ones. When each token needs some of its own, few are needed twice, and long lists, of which
 * the kernels fetch each row ahead, count for more than what stays in the second-level cache (8 tokens of 10.7 % each, q8_0 on Zen 4: 1.25
 * times as fast with 2 MiB as with 512 KiB). */
static inline size_t sffn_gather_rows(const struct sffn_matmul *m, const struct sffn_list *list)
{
    const size_t fit = 2097152u / (m->stride + 1);
    return !list->masks || fit > SFFN_GATHER_ROWS ? SFFN_GATHER_ROWS : fit < 64 ? 64 : fit;
}

/* Bytes of scratch for a matrix of this shape; with base, also fills *s. All sizes are multiples of 64. */
size_t sffn_axpy_scratch_layout(int32_t dtype, uint32_t block_size, uint32_t n_rows,
                                uint32_t n_cols, uint32_t nth, struct sffn_axpy_scratch *s,
                                void *base);
/* max(a, b) in which NaN wins. */
static inline float sffn_max_nan(float a, float b)
{
    return b > a || b != b ? b : a;
}
/* Every h on its way to down passes here, or through note_all() (ffn/gate_up.c), which does the same for arrays: folds |h * row scale| into the
 * thread's h_max, and returns h, or 0 where the row is zero and has no scale to fold h into. */
static inline float sffn_axpy_note(const struct sffn_matmul *m, uint32_t row, float h, float *h_max)
{
    if (!m->row_scale_max)
        return h;
    const float v = m->row_scale_max[row] * h;
    *h_max = sffn_max_nan(*h_max, v < 0 ? -v : v);
    return m->row_scale_max[row] == 0 ? 0 : h;
}
void sffn_axpy_accumulate(const struct sffn_kernels *k, const struct sffn_matmul *m,
                          const struct sffn_list *list, size_t n_tokens,
                          const struct sffn_axpy_scratch *s, struct sffn_turn *turns, uint32_t ith,
                          uint32_t nth);
/* y[t] = bias + the sum; bias NULL: none. */
void sffn_axpy_reduce(const struct sffn_matmul *m, size_t n_tokens,
                      const struct sffn_axpy_scratch *s, const float *bias, float *y,
                      size_t y_stride, uint32_t ith, uint32_t nth);

/* The first position of ascending v[0 .. n-1] whose value is >= key, or n. */
size_t sffn_lower_bound(const uint32_t *v, size_t n, uint32_t key);
/* Writes thread ith's part of the list of a tile's active rows: set tokens [token, token + n_tokens). list->rows and ->masks have room for
 * n_rows entries; one segment per thread. */
void sffn_list_from_set(const sffn_active_set *set, size_t token, size_t n_tokens, uint32_t n_rows,
                        struct sffn_list *list, uint32_t ith, uint32_t nth);

#endif /* SFFN_ROWS_H */
