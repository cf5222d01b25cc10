/* plane_dot_tmpl.h  Body of plane_dot. Contract: kernels.h. Parameters: ISA, and of the ISA, with bits a constant,
 *     struct plane_sums_<isa>                              sums of one row and token
 *     plane_sums_clear_<isa>(&sums)
 *     plane_sums_group_<isa>(bits, &sums, row, q, stride)  64 bytes of the row: code b of byte k belongs to q[b * stride + k]
 *     PLANE_GROUPS                                         how many groups fit the sums, a power of two, until
 *     plane_sums_flush_<isa>(&sums)                        makes room for as many; or neither: all fit
 *     plane_sums_all_<isa>(bits, &sums)                    their total, exact
 *
 * One token at a time: a row's plane is small and stays in the first-level cache for the next one.
 */
#include "kernels/tmpl/ahead.h"

KERNEL_INLINE int32_t PLAIN_KERNEL(plane_row)(const unsigned bits, const char *row, const struct ahead *ahead, const int8_t *q, size_t bytes)
{
    struct PLAIN_KERNEL(plane_sums) sums;
    size_t i = 0;
    PLAIN_KERNEL(plane_sums_clear)(&sums);
    for (; i + 64 <= bytes; i += 64) {
        vf_prefetch((i < ahead->split ? ahead->near : ahead->far) + i);
        PLAIN_KERNEL(plane_sums_group)(bits, &sums, row + i, q + 8 / bits * i, 64);
#ifdef PLANE_GROUPS
        if ((i / 64 + 1) % PLANE_GROUPS == 0)
            PLAIN_KERNEL(plane_sums_flush)(&sums);
#endif
    }
    if (i < bytes) {
        char padded[64]; /* what lies behind a part of q meets zeros */
        vf_prefetch((i < ahead->split ? ahead->near : ahead->far) + i);
        memset(padded, 0, sizeof padded);
        memcpy(padded, row + i, bytes - i);
        PLAIN_KERNEL(plane_sums_group)(bits, &sums, padded, q + 8 / bits * i, bytes - i);
    }
    return PLAIN_KERNEL(plane_sums_all)(bits, &sums);
}

KERNEL_INLINE void PLAIN_KERNEL(plane_rows)(const unsigned bits, int32_t *out, const void *w, size_t row_bytes, const uint32_t *rows,
                                            const uint8_t *masks, size_t n_rows, const int8_t *q, size_t q_stride, size_t n_tokens, size_t bytes)
{
    const struct ahead_plan plan = ahead_plan_of(w, row_bytes, rows, n_rows, 1, bytes);
    for (size_t r = 0; r < n_rows; r++) {
        const char *row = row_at(w, row_bytes, rows, r);
        const struct ahead ahead = ahead_of(&plan, row, w, row_bytes, rows, r, n_rows);
        const unsigned mask = (masks != NULL ? (unsigned)masks[r] : 0xffu) & ((1u << n_tokens) - 1u);
        for (size_t t = 0; mask >> t != 0; t++)
            if ((mask >> t & 1u) != 0)
                out[r * n_tokens + t] = PLAIN_KERNEL(plane_row)(bits, row, &ahead, q + t * q_stride, bytes);
    }
}

static void PLAIN_KERNEL(plane_dot)(int32_t *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                                    size_t n_rows, const int8_t *q, size_t q_stride, size_t n_tokens, size_t n, unsigned bits)
{
    if (bits == 1)
        PLAIN_KERNEL(plane_rows)(1, out, w, row_bytes, rows, masks, n_rows, q, q_stride, n_tokens, n / 8);
    else
        PLAIN_KERNEL(plane_rows)(2, out, w, row_bytes, rows, masks, n_rows, q, q_stride, n_tokens, n / 4);
}
