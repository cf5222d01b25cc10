/* plane_dot_tmpl.h  Body of plane_dot. Contract: kernels.h. Parameters: ISA, and of the ISA
 *     struct plane_sums_<isa>                     sums of one row and token
 *     plane_sums_clear_<isa>(&sums)
 *     plane_sums_add_<isa>(&sums, row, q)         a whole group: 64 bytes of the row, 512 of q
 *     plane_sums_part_<isa>(&sums, row, q, bytes) a shorter one, 4 .. 60 bytes of the row; q may be read 64 bytes past its end
 *     plane_sums_all_<isa>(&sums)                 their total, exact
 *
 * One token at a time: a row's plane is small and stays in the first-level cache for the next one.
 */
#include "kernels/tmpl/ahead.h"

static void PLAIN_KERNEL(plane_dot)(int32_t *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                                    size_t n_rows, const int8_t *q, size_t q_stride, size_t n_tokens, size_t n)
{
    const size_t whole = n / 512 * 64, part = n / 8 - whole;
    const struct ahead_plan plan = ahead_plan_of(w, row_bytes, rows, n_rows, 1, n / 8);
    for (size_t r = 0; r < n_rows; r++) {
        const char *row = row_at(w, row_bytes, rows, r);
        const struct ahead ahead = ahead_of(&plan, row, w, row_bytes, rows, r, n_rows);
        const unsigned mask = (masks != NULL ? (unsigned)masks[r] : 0xffu) & ((1u << n_tokens) - 1u);
        int is_first = 1;
        for (size_t t = 0; mask >> t != 0; t++) {
            struct PLAIN_KERNEL(plane_sums) sums;
            const int8_t *x = q + t * q_stride;
            if ((mask >> t & 1u) == 0)
                continue;
            PLAIN_KERNEL(plane_sums_clear)(&sums);
            for (size_t i = 0; i < whole; i += 64) {
                if (is_first)
                    ahead_fetch(&ahead, i, 64);
                PLAIN_KERNEL(plane_sums_add)(&sums, row + i, x + 8 * i);
            }
            if (part != 0) {
                if (is_first)
                    ahead_fetch(&ahead, whole, 64);
                PLAIN_KERNEL(plane_sums_part)(&sums, row + whole, x + 8 * whole, part);
            }
            out[r * n_tokens + t] = PLAIN_KERNEL(plane_sums_all)(&sums);
            is_first = 0;
        }
    }
}
