/* kernel.h  What every kernel body needs: inlining, names, row addresses. Included by vec_<isa>.h. */
#ifndef SFFN_TMPL_KERNEL_H
#define SFFN_TMPL_KERNEL_H
#include "kernels/kernels.h"
#include <string.h>

/* Bodies are written once with a constant number of tokens or rows, and must be inlined to become that. */
#if defined(_MSC_VER)
#define KERNEL_INLINE static __forceinline
#define KERNEL_OUTLINE static __declspec(noinline)
#elif defined(__GNUC__)
#define KERNEL_INLINE static inline __attribute__((always_inline))
#define KERNEL_OUTLINE static __attribute__((noinline))
#else
#define KERNEL_INLINE static inline
#define KERNEL_OUTLINE static
#endif

/* KERNEL(rows_dot) is rows_dot_f16_avx2 in an instantiation with WT f16 and ISA avx2; PLAIN_KERNEL(threshold) is threshold_avx2. */
#define KERNEL_JOIN3_(a, b, c) a##_##b##_##c
#define KERNEL_JOIN3(a, b, c) KERNEL_JOIN3_(a, b, c)
#define KERNEL_JOIN2_(a, b) a##_##b
#define KERNEL_JOIN2(a, b) KERNEL_JOIN2_(a, b)
#define KERNEL(op) KERNEL_JOIN3(op, WT, ISA)
#define PLAIN_KERNEL(op) KERNEL_JOIN2(op, ISA)
/* A table entry: the function and its own name. */
#define KERNEL_ENTRY_(fn) { fn, #fn }
#define KERNEL_ENTRY(fn) KERNEL_ENTRY_(fn)

KERNEL_INLINE const char *row_at(const void *w, size_t row_bytes, const uint32_t *rows, size_t r)
{
    return (const char *)w + (rows != NULL ? (size_t)rows[r] : r) * row_bytes;
}

/* How many tokens a mask has, of up to 8. */
KERNEL_INLINE unsigned count_tokens(unsigned mask)
{
    mask = (mask & 0x55u) + (mask >> 1 & 0x55u);
    mask = (mask & 0x33u) + (mask >> 2 & 0x33u);
    return (mask & 0x0fu) + (mask >> 4);
}

/* The tokens of a row: their numbers, and how many. */
struct row_tokens {
    size_t count;
    uint8_t token[SFFN_TILE_TOKENS];
};

KERNEL_INLINE void row_tokens_of(struct row_tokens *t, unsigned mask, size_t n_tokens)
{
    t->count = 0;
    for (size_t i = 0; i < n_tokens; i++) {
        t->token[t->count] = (uint8_t)i;
        t->count += mask >> i & 1u;
    }
}

#endif /* SFFN_TMPL_KERNEL_H */
