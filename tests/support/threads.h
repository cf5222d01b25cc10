/* threads.h  Every way in which a caller may lend its threads to a forward call. */
#ifndef TEST_THREADS_H
#define TEST_THREADS_H
#include "check.h"

enum threading {
    THREADING_POOL,            /* the context's own */
    THREADING_FOR_REVERSED,    /* parallel_for that runs serially, last index first */
    THREADING_FOR_THREADS,     /* parallel_for with a new thread for each index */
    THREADING_PHASES_SHUFFLED, /* phases, the ith in random order on one thread */
    THREADING_PHASES_THREADS,  /* phases on real threads with a barrier between them */
    THREADING_SPMD,            /* one SPMD call on real threads with the caller's barrier */
    THREADING_COUNT
};
extern const char *const threading_names[THREADING_COUNT];

/* A context for this kind of threading with n threads. */
sffn_context *threading_context(enum threading kind, uint32_t n, const char *max_isa);
/* Runs a forward call with n threads; for callers' threads the layer is reserved here. Returns the
 * first failing status. */
sffn_status threading_forward(enum threading kind, uint32_t n, struct rng *rng, sffn_context *ctx,
                              const sffn_ffn *ffn, const sffn_ffn_args *args);

void parallel_for_reversed(void *user, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);
void parallel_for_threads(void *user, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);

/* Runs fn(arg, i) for i in [0, n) on n threads of their own and waits for them. Returns 0 when a
 * thread can't be made. */
int run_threads(uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);

#endif /* TEST_THREADS_H */
