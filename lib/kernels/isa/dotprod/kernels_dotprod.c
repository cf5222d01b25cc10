/* kernels_dotprod.c  The products of int8 with Armv8.2's dot product (sdot); the rest is NEON's. */
#define ISA dotprod
#include "kernels/isa/neon/quants_neon.h"
#include "kernels/wtype/wt_q8_0.h"
#define OWN_ROWS_AXPY_INT /* adds words, not bytes: NEON's */
#define NO_BATCH_AXPY_INT
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/wtype/wt_q4_0.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/isa/neon/plane_dot_neon.h"
#include "kernels/tmpl/plane_dot_tmpl.h"
#include "kernels/isa/neon/columns_axpy_neon.h"
#include "kernels/tmpl/columns_axpy_tmpl.h"

const struct sffn_kernels sffn_kernels_dotprod = {
    .rows_dot = {
        [SFFN_Q8_0] = KERNEL_ENTRY(rows_dot_q8_0_dotprod),
        [SFFN_Q4_0] = KERNEL_ENTRY(rows_dot_q4_0_dotprod),
    },
    .blocks_axpy = {
        [SFFN_Q8_0] = KERNEL_ENTRY(blocks_axpy_q8_0_dotprod),
        [SFFN_Q4_0] = KERNEL_ENTRY(blocks_axpy_q4_0_dotprod),
    },
    .plane_dot = KERNEL_ENTRY(plane_dot_dotprod),
    .columns_axpy = KERNEL_ENTRY(columns_axpy_dotprod),
};
