#include "wrap.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>

static atomic_int is_armed;
static atomic_size_t calls[WRAP_COUNT], n_failed;
static enum wrapped failing_kind;
static size_t failing_call;
static int keeps_failing;

void wrap_begin(enum wrapped kind, size_t fail_at, int fails_on)
{
    for (int k = 0; k < WRAP_COUNT; k++)
        calls[k] = 0;
    n_failed = 0;
    failing_kind = kind;
    failing_call = fail_at;
    keeps_failing = fails_on;
    is_armed = 1;
}

size_t wrap_end(void)
{
    is_armed = 0;
    return n_failed;
}

size_t wrap_calls(enum wrapped kind)
{
    return calls[kind];
}

static int fails(enum wrapped kind)
{
    if (!is_armed)
        return 0;
    size_t call = atomic_fetch_add(&calls[kind], 1);
    if (kind != failing_kind || call < failing_call || (call > failing_call && !keeps_failing))
        return 0;
    n_failed++;
    return 1;
}

/* The linker turns malloc into __wrap_malloc and __real_malloc into malloc. */
#define WRAP(result, name, parameters, arguments, kind, failure)                                   \
    result __real_##name parameters;                                                               \
    result __wrap_##name parameters;                                                               \
    result __wrap_##name parameters                                                                \
    {                                                                                              \
        if (fails(kind)) {                                                                         \
            errno = ENOMEM;                                                                        \
            return failure;                                                                        \
        }                                                                                          \
        return __real_##name arguments;                                                            \
    }
WRAP(void *, malloc, (size_t n), (n), WRAP_MALLOC, NULL)
WRAP(void *, calloc, (size_t n, size_t size), (n, size), WRAP_MALLOC, NULL)
WRAP(void *, realloc, (void *p, size_t n), (p, n), WRAP_MALLOC, NULL)
WRAP(void *, aligned_alloc, (size_t alignment, size_t n), (alignment, n), WRAP_MALLOC, NULL)
WRAP(int, posix_memalign, (void **p, size_t alignment, size_t n), (p, alignment, n), WRAP_MALLOC,
     ENOMEM)
WRAP(void *, mmap, (void *at, size_t n, int prot, int flags, int fd, int64_t offset),
     (at, n, prot, flags, fd, offset), WRAP_MMAP, MAP_FAILED)
WRAP(void *, mmap64, (void *at, size_t n, int prot, int flags, int fd, int64_t offset),
     (at, n, prot, flags, fd, offset), WRAP_MMAP, MAP_FAILED)
WRAP(int, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg),
     (thread, attr, run, arg), WRAP_THREAD, EAGAIN)
