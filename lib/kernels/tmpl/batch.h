/* batch.h  What the bodies of batch_axpy and batch_axpy_int share: tokens in groups of 8, 4, 2 and 1, whose accumulators have names, never
 * arrays. After a vec_<isa>.h, for BATCH_TOKENS. */
#ifndef SFFN_TMPL_BATCH_H
#define SFFN_TMPL_BATCH_H

_Static_assert(BATCH_TOKENS == 4 || BATCH_TOKENS == 8, "what is written out below");

/* op(t) for each t < T, a constant: 1, 2, 4 or 8. */
#define BATCH_EACH(op) \
    op(0) if (T > 1) { op(1) } if (T > 2) { op(2) op(3) } if (T > 4) { op(4) op(5) op(6) op(7) }

/* run(T) for the next T of n_left tokens; n_done = T. */
#define BATCH_GROUP(n_left, n_done, run)                   \
    do {                                                   \
        if (BATCH_TOKENS == 8 && (n_left) == BATCH_TOKENS) { \
            n_done = BATCH_TOKENS;                         \
            run(BATCH_TOKENS);                             \
        } else if ((n_left) >= 4) {                        \
            n_done = 4;                                    \
            run(4);                                        \
        } else if ((n_left) >= 2) {                        \
            n_done = 2;                                    \
            run(2);                                        \
        } else {                                           \
            n_done = 1;                                    \
            run(1);                                        \
        }                                                  \
    } while (0)

#endif /* SFFN_TMPL_BATCH_H */
