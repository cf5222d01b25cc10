/* instantiate_q.h  The integer bodies for the wt_q8_0.h, wt_q4_0.h or wt_q4_0_apart.h included before, which it forgets; OWN_ROWS_AXPY_INT
 * leaves rows_axpy_int to the ISA, NO_BATCH_AXPY_INT batch_axpy_int to a weaker one. Apart rows have no blocks_axpy, and their functions that
 * load are (&w, &scales, scale, quants) and (.., count).
 * For ISAs whose vectors have a compile-time size. They provide in quants_<isa>.h, with <s> = <type>_<isa>:
 *     struct quants_<s>                        VF_LEN decoded blocks
 *     quants_load_<s>(&w, &scales, p)          from VF_LEN whole blocks at p, and their scales, lane b that of block b; reads nothing else
 *     quants_load_part_<s>(.., p, count)       the same from count < VF_LEN blocks, the others being zero
 *     quants_arrange_<s>(to, from)             32 * VF_LEN int8 of x, in the order that quants_dot wants
 *     QUANTS_OFFSET_<type>                     what quants_load adds to the weights: 8 or 128, or 0
 *     vi quants_dot_<s>(&w, q, offset)         lane b: sum of w * q over block b, exact; offset[b]: QUANTS_OFFSET times the sum of q
 *     vi quants_dot_same_<s>(&w, q, offset)    the same against one block of q, not arranged, for all
 * and what rows_axpy_int_q_tmpl.h and batch_axpy_int_q_tmpl.h ask for.
 */
#include "kernels/tmpl/ahead.h"

#define STEP_BYTES ((size_t)VF_LEN * WT_BLOCK_BYTES)
/* VF_LEN blocks, or `count` of them; quants: how far behind the first one's scale their quants start, where they are apart. */
#if WT_IS_APART
#define QUANTS_LOAD(w, scales, row, block, quants) \
    KERNEL(quants_load)(w, scales, (row) + (block) * WT_SCALE_STEP, (row) + (quants) + (block) * (WT_BLOCK_BYTES - WT_SCALE_STEP))
#define QUANTS_LOAD_PART(w, scales, row, block, quants, count) \
    KERNEL(quants_load_part)(w, scales, (row) + (block) * WT_SCALE_STEP, (row) + (quants) + (block) * (WT_BLOCK_BYTES - WT_SCALE_STEP), count)
#else
#define QUANTS_LOAD(w, scales, row, block, quants) KERNEL(quants_load)(w, scales, (row) + (block) * WT_BLOCK_BYTES)
#define QUANTS_LOAD_PART(w, scales, row, block, quants, count) KERNEL(quants_load_part)(w, scales, (row) + (block) * WT_BLOCK_BYTES, count)
#endif
#include "kernels/tmpl/rows_dot_q_tmpl.h"
#if !WT_IS_APART
#include "kernels/tmpl/blocks_axpy_q_tmpl.h"
#endif
#ifndef OWN_ROWS_AXPY_INT
#include "kernels/tmpl/rows_axpy_int_q_tmpl.h"
#endif
#ifndef NO_BATCH_AXPY_INT
#include "kernels/tmpl/batch_axpy_int_q_tmpl.h"
#endif
#undef STEP_BYTES
#undef QUANTS_LOAD
#undef QUANTS_LOAD_PART
#undef WT
#undef WT_BLOCK_BYTES
#undef WT_SCALE_STEP
#undef WT_IS_APART
