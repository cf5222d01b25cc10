#include "check.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

static unsigned long long n_checks;

/* ---------------------------------------------------------------- checks */

static void fail_with(const char *file, int line, const char *format, va_list args)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, args);
    print_error("%s\n", text);
    _fail(file, line);
}

void check_that(const char *file, int line, int holds, const char *format, ...)
{
    n_checks++;
    if (holds)
        return;
    va_list args;
    va_start(args, format);
    fail_with(file, line, format, args);
    va_end(args);
}

void check_text(const char *file, int line, const char *got, const char *want)
{
    check_that(file, line, got && strcmp(got, want) == 0, "\"%s\", expected \"%s\"",
               got ? got : "(NULL)", want);
}

/* Whether every blank-separated word of `words` occurs in `text`; the first that does not goes to
 * `missing`. */
static int has_words(const char *text, const char *words, char *missing, size_t size)
{
    while (*words) {
        size_t length = strcspn(words, " ");
        snprintf(missing, size, "%.*s", (int)length, words);
        if (length > 0 && !strcasestr(text, missing))
            return 0;
        words += length;
        words += strspn(words, " ");
    }
    return 1;
}

void check_status(const char *file, int line, const sffn_context *ctx, sffn_status got,
                  const char *call, sffn_status want, const char *words)
{
    const char *text = got == SFFN_OK ? "" : sffn_context_last_error(ctx);
    int is_right = want == CHECK_ANY_ERROR ? got != SFFN_OK : got == want;
    check_that(file, line, is_right, "%s: %s, expected %s; text: \"%s\"", call,
               sffn_status_name(got), want == CHECK_ANY_ERROR ? "an error" : sffn_status_name(want),
               text ? text : "(NULL)");
    if (!words)
        return;
    char missing[256] = "";
    check_that(file, line, text && has_words(text, words, missing, sizeof missing),
               "%s: the text \"%s\" has no \"%s\"", call, text ? text : "(NULL)", missing);
}

void check_within(const char *file, int line, double got, double want, double bound,
                  const char *format, ...)
{
    n_checks++;
    if (fabs(got - want) <= bound) /* false when got is NaN */
        return;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    check_that(file, line, 0, "%s: %.9g, expected %.9g; off by %.3g, bound %.3g", text, got, want,
               fabs(got - want), bound);
}

void check_bits(const char *file, int line, const float *got, const float *want, size_t n,
                const char *format, ...)
{
    n_checks += n;
    if (memcmp(got, want, n * sizeof *got) == 0)
        return;
    size_t i = 0;
    while (memcmp(got + i, want + i, sizeof *got) == 0)
        i++;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    check_that(file, line, 0, "%s: element %zu of %zu is %a, expected the bits of %a", text, i, n,
               (double)got[i], (double)want[i]);
}

/* ---------------------------------------------------------------- numbers */

double gamma_n(double n)
{
    return n * UNIT_ROUNDOFF / (1.0 - n * UNIT_ROUNDOFF);
}

float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float load_float(const void *p)
{
    float value;
    memcpy(&value, p, sizeof value);
    return value;
}

int is_finite(double v)
{
    return isfinite(v);
}

/* ---------------------------------------------------------------- random numbers */

uint64_t test_seed(void)
{
    static uint64_t seed;
    static int is_known;
    if (!is_known) {
        const char *text = getenv("SFFN_TEST_SEED");
        seed = !text                       ? 20240607u
               : strcmp(text, "time") == 0 ? (uint64_t)time(NULL)
                                           : strtoull(text, NULL, 0);
        is_known = 1;
        print_message("seed %llu (repeat with SFFN_TEST_SEED=%llu)\n", (unsigned long long)seed,
                      (unsigned long long)seed);
    }
    return seed;
}

struct rng rng_named(const char *name)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return (struct rng){test_seed() ^ hash};
}

uint64_t rng_next(struct rng *rng) /* splitmix64 */
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t rng_below(struct rng *rng, uint32_t n)
{
    return (uint32_t)((rng_next(rng) >> 32) * n >> 32);
}

double rng_uniform(struct rng *rng)
{
    return (double)(rng_next(rng) >> 11) * 0x1p-53;
}

float rng_normal(struct rng *rng)
{
    double radius = sqrt(-2.0 * log(1.0 - rng_uniform(rng)));
    return (float)(radius * cos(6.283185307179586 * rng_uniform(rng)));
}

static void *must(void *pointer)
{
    if (!pointer) {
        print_error("the test is out of memory\n");
        exit(1);
    }
    return pointer;
}

float *rng_normals(const char *name, size_t n)
{
    struct rng rng = rng_named(name);
    float *v = must(malloc(n * sizeof *v));
    for (size_t i = 0; i < n; i++)
        v[i] = rng_normal(&rng);
    return v;
}

/* ---------------------------------------------------------------- cases */

void cases_add(struct cases *cases, CMUnitTestFunction function, void *state, const char *format,
               ...)
{
    if (cases->n == cases->capacity) {
        cases->capacity = cases->capacity ? 2 * cases->capacity : 64;
        cases->tests = must(realloc(cases->tests, cases->capacity * sizeof *cases->tests));
    }
    char *name = must(malloc(160));
    va_list args;
    va_start(args, format);
    vsnprintf(name, 160, format, args);
    va_end(args);
    cases->tests[cases->n++] = (struct CMUnitTest){name, function, NULL, NULL, state};
}

struct kept {
    struct kept *next;
    max_align_t data[];
};

void *cases_keep(struct cases *cases, const void *data, size_t bytes)
{
    struct kept *kept = must(malloc(sizeof *kept + bytes));
    memcpy(kept->data, data, bytes);
    kept->next = cases->kept;
    cases->kept = kept;
    return kept->data;
}

int cases_run(struct cases *cases, const char *group)
{
    const char *filter = getenv("SFFN_TEST_FILTER"), *stride_text = getenv("SFFN_TEST_STRIDE");
    size_t stride = stride_text ? strtoul(stride_text, NULL, 10) : 1, n = 0;
    struct CMUnitTest *chosen = must(calloc(cases->n + 1, sizeof *chosen));
    for (size_t i = 0; i < cases->n; i += stride ? stride : 1)
        chosen[n++] = cases->tests[i];
    cmocka_set_test_filter(filter);
    test_seed();
    int n_failed = _cmocka_run_group_tests(group, chosen, n, NULL, NULL);
    print_message("%s: %zu cases, %llu checks, %d failed\n", group, n, n_checks, n_failed);
    for (size_t i = 0; i < cases->n; i++)
        free((void *)(uintptr_t)cases->tests[i].name);
    while (cases->kept) {
        struct kept *kept = cases->kept;
        cases->kept = kept->next;
        free(kept);
    }
    free(cases->tests);
    free(chosen);
    return n_failed != 0;
}

/* ---------------------------------------------------------------- contexts */

size_t supported_isas(const char **names, size_t capacity)
{
    size_t n = 0;
    for (size_t i = 0; sffn_isa_name(i) && n < capacity; i++)
        if (sffn_isa_is_supported(i))
            names[n++] = sffn_isa_name(i);
    return n;
}

sffn_context *make_context(uint32_t n_threads, const char *max_isa)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = n_threads;
    config.max_isa = max_isa;
    sffn_context *ctx = NULL;
    CHECK_OK(NULL, sffn_context_create(&config, &ctx));
    CHECK(ctx != NULL);
    return ctx;
}
