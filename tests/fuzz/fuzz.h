/* fuzz.h  What the targets share: one context whose allocator counts, and the bound that opening
 * a file must keep. */
#ifndef TEST_FUZZ_H
#define TEST_FUZZ_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The same as in tests/model/test_model.c. */
#define FUZZ_BOUND(n) (65536 + 48 * (size_t)(n))

#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Made at the first call, kept for ever. */
static inline sffn_context *fuzz_context(struct heap **heap)
{
    static struct heap counted;
    static sffn_context *ctx;
    if (!ctx)
        ctx = heap_context(&counted, 1);
    heap_mark(&counted);
    *heap = &counted;
    return ctx;
}

#endif /* TEST_FUZZ_H */
