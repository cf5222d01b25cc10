/* mask_trace.h  Reads the activation masks that `sffn eval --record FILE` writes: which neurons of each layer were active for each token. */
#ifndef BENCH_MASK_TRACE_H
#define BENCH_MASK_TRACE_H
#include <stddef.h>
#include <stdint.h>

struct mask_trace {
    uint32_t n_layers, d_ff;
    uint64_t n_tokens;
    uint8_t *masks; /* [n_tokens][n_layers][(d_ff + 7) / 8] */
};

/* 0: an error line that begins with `command` has been printed, and the trace is empty. */
int mask_trace_read(struct mask_trace *m, const char *command, const char *path);
void mask_trace_free(struct mask_trace *m);
/* Fills the bitmap of a layer of d_ff neurons, at least the trace's: a wider layer holds the masks of following tokens side by side. */
void mask_trace_fill(const struct mask_trace *m, uint32_t layer, uint64_t token, uint32_t d_ff,
                     uint8_t *bitmap);

#endif /* BENCH_MASK_TRACE_H */
