/* peer.h  The same dense layer through other libraries: y = W_down (relu(W_gate x) * (W_up x)).
 *
 * Peers are loaded at run time. One that is missing says so in `how`. Weights are cold as our own: copies in turn.
 */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H
#include <stddef.h>
#include <stdint.h>

#include "layer.h"
#include "report.h"

struct peer_layer {
    const struct layer *layer;
    const float *x; /* [n_tokens][d_model] */
    size_t n_tokens;
    uint32_t n_threads;
    uint64_t cold_bytes, most_bytes; /* copies together: at least, at most */
    /* comma-separated, where libraries are looked for before the system's places; NULL */
    const char *folders;
    const char *python; /* an interpreter that has torch */
};

struct peer {
    char version[64];
    char how[160]; /* the implementation, or why there is none */
    uint64_t weight_bytes;
    size_t n_copies;
    void *state;
    /* One call in this process; 0: failed. NULL: the peer runs elsewhere, and `round` adds at most n_calls samples, for about so many seconds. */
    int (*forward)(struct peer *peer, size_t turn);
    int (*round)(struct peer *peer, size_t n_calls, double seconds, struct samples *samples);
    const float *(*result)(struct peer *peer); /* y[n_tokens][d_model] of the last call */
    void (*close)(struct peer *peer);
};

/* peer is zeroed before. Returns 0 with `how` filled and nothing to close. */
typedef int (*peer_open_fn)(struct peer *peer, const struct peer_layer *of, const char *dtype);
int peer_onednn_open(struct peer *peer, const struct peer_layer *of,
                     const char *dtype); /* f32, bf16, s8 */
int peer_openblas_open(struct peer *peer, const struct peer_layer *of, const char *dtype); /* f32 */
int peer_ggml_open(
    struct peer *peer, const struct peer_layer *of,
    const char *dtype); /* f32, f16, bf16, q8_0, q4_0; "q8_0 repacked", "q4_0 repacked" */
int peer_torch_open(struct peer *peer, const struct peer_layer *of,
                    const char *dtype); /* f32, bf16 */

/* Copies of so many bytes that are cold and fit; 0: not even one fits. */
size_t peer_copies(const struct peer_layer *of, uint64_t bytes);
/* dlopen of one of the folders' files, or of the plain name; names is a comma-separated list, in which
 * '*' stands for anything in a folder. NULL: none. */
void *peer_load(const char *folders, const char *names);
/* One round of samples by the stop rule; *turn goes on from round to round. 0: failed. */
int peer_round(struct peer *peer, const struct stop_rule *rule, int round, size_t *turn,
               struct samples *samples);

/* The fastest type of oneDNN, for the column beside our own times. */
struct onednn_best {
    double median_ns; /* NaN when there is none */
    char what
        [192]; /* "oneDNN 2.6.3, brg:avx512_core_vnni, error 0.008; ms: f32 15.7 bf16 7.81 s8 2.98"; or why there is none */
};
void onednn_best_measure(struct onednn_best *best, const struct peer_layer *of,
                         const struct stop_rule *rule);
/* y of the dense layer without bias, in float64, of the first few tokens. NULL: no memory. To be freed. */
double *peer_reference(const struct peer_layer *of, size_t n_tokens);

#endif /* BENCH_PEER_H */
