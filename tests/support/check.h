/* check.h  CMocka and what every test here needs: counted checks, error expectations, the seed,
 * tables of cases.
 *
 * Checks may only be made on the main thread: a failing one leaves the test by longjmp. */
#ifndef TEST_CHECK_H
#define TEST_CHECK_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "sparseffn/sparseffn.h"

#if defined(__GNUC__)
#define TEST_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define TEST_PRINTF(fmt, args)
#endif

/* ---------------------------------------------------------------- checks */

#define CHECK(condition)           check_that(__FILE__, __LINE__, (condition) != 0, "%s", #condition)
/* The same with words of our own: CHECK_SAYS(a < b, "token %zu", t). */
#define CHECK_SAYS(condition, ...) check_that(__FILE__, __LINE__, (condition) != 0, __VA_ARGS__)
#define CHECK_TEXT(got, want)      check_text(__FILE__, __LINE__, got, want)
/* call returns SFFN_OK; the context's words are printed when it does not. ctx may be NULL. */
#define CHECK_OK(ctx, call)        check_status(__FILE__, __LINE__, ctx, call, #call, SFFN_OK, NULL)
/* call fails with `status` and the last error of ctx contains every one of the words, in any case:
 * "d_model 33". */
#define CHECK_ERROR(ctx, call, status, words)                                                      \
    check_status(__FILE__, __LINE__, ctx, call, #call, status, words)
/* call fails somehow, and says why: where the contract names no status. */
#define CHECK_FAILS(ctx, call, words)                                                              \
    check_status(__FILE__, __LINE__, ctx, call, #call, CHECK_ANY_ERROR, words)
#define CHECK_ANY_ERROR SFFN_STATUS_MAX_
/* |got - want| <= bound; got must be a number. */
#define CHECK_WITHIN(got, want, bound, ...)                                                        \
    check_within(__FILE__, __LINE__, got, want, bound, __VA_ARGS__)
/* n floats with equal bits. */
#define CHECK_BITS(got, want, n, ...) check_bits(__FILE__, __LINE__, got, want, n, __VA_ARGS__)

void check_that(const char *file, int line, int holds, const char *format, ...) TEST_PRINTF(4, 5);
void check_text(const char *file, int line, const char *got, const char *want);
void check_status(const char *file, int line, const sffn_context *ctx, sffn_status got,
                  const char *call, sffn_status want, const char *words);
void check_within(const char *file, int line, double got, double want, double bound,
                  const char *format, ...) TEST_PRINTF(6, 7);
void check_bits(const char *file, int line, const float *got, const float *want, size_t n,
                const char *format, ...) TEST_PRINTF(6, 7);

/* ---------------------------------------------------------------- numbers */

#define UNIT_ROUNDOFF 0x1p-24 /* of float */

/* gamma_n = n u / (1 - n u): the relative error of n float roundings in a row (Higham). */
double gamma_n(double n);
/* Float with these bits. */
float float_of_bits(uint32_t bits);
/* Reads and writes floats at any alignment. */
float load_float(const void *p);
int is_finite(double v);

/* ---------------------------------------------------------------- random numbers */

struct rng {
    uint64_t state;
};
/* The seed of this run: SFFN_TEST_SEED (a number, or "time"), else a fixed one. Printed once. */
uint64_t test_seed(void);
/* Numbers that depend on the seed and on `name` only, so that leaving out other cases changes
 * nothing. */
struct rng rng_named(const char *name);
uint64_t rng_next(struct rng *rng);
/* In [0, n). */
uint32_t rng_below(struct rng *rng, uint32_t n);
/* In [0, 1). */
double rng_uniform(struct rng *rng);
/* Standard normal. */
float rng_normal(struct rng *rng);
/* n of them, of a generator with this name; free() takes them back. */
float *rng_normals(const char *name, size_t n);
/* One of the n numbers of a table. */
#define rng_pick(rng, table)                                                                       \
    ((table)[rng_below(rng, (uint32_t)(sizeof(table) / sizeof((table)[0])))])

/* ---------------------------------------------------------------- cases */

/* A growing table of tests with formatted names; `state` arrives as *state of the test and must
 * live until the run. */
struct cases {
    struct CMUnitTest *tests;
    size_t n, capacity;
    struct kept *kept;
};
void cases_add(struct cases *cases, CMUnitTestFunction function, void *state, const char *format,
               ...) TEST_PRINTF(4, 5);
/* A copy of `data` for a state, freed after the run. */
void *cases_keep(struct cases *cases, const void *data, size_t bytes);
/* Runs all, prints how many checks were made, frees the table. SFFN_TEST_FILTER (a glob) chooses;
 * SFFN_TEST_STRIDE=n runs every n-th case, for slow machines. Returns the exit status of main(). */
int cases_run(struct cases *cases, const char *group);

#define CASE(cases, function) cases_add(cases, function, NULL, "%s", #function)

/* ---------------------------------------------------------------- contexts */

/* The ISAs that this machine runs, as names for max_isa, weakest first; returns how many. */
size_t supported_isas(const char **names, size_t capacity);
/* A context with n_threads threads of its own and max_isa (NULL: best). Fails the test when there
 * is none. */
sffn_context *make_context(uint32_t n_threads, const char *max_isa);

#endif /* TEST_CHECK_H */
