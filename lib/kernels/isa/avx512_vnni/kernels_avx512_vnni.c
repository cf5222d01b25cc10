/* kernels_avx512_vnni.c  The integer ops with VNNI; the float ones come from avx512. */
#define ISA avx512_vnni
#include "kernels/isa/avx512_vnni/quants_avx512_vnni.h"
#include "kernels/isa/avx512_vnni/dot_together.h"
#include "kernels/wtype/wt_q8_0.h"
#include "kernels/tmpl/instantiate_q.h"
#define OWN_ROWS_AXPY_INT
#include "kernels/wtype/wt_q4_0.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/isa/avx512_vnni/rows_axpy_int_q4_0.h"
#include "kernels/wtype/wt_q4_0_apart.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/isa/avx512_vnni/rows_axpy_int_q4_0_apart.h"
#include "kernels/isa/avx512_vnni/plane_dot_avx512_vnni.h"
#include "kernels/tmpl/plane_dot_tmpl.h"
#include "kernels/isa/avx512_vnni/columns_axpy_avx512_vnni.h"
#include "kernels/tmpl/columns_axpy_tmpl.h"

const struct sffn_kernels sffn_kernels_avx512_vnni = {
    .rows_dot = {
        [SFFN_Q8_0] = KERNEL_ENTRY(rows_dot_q8_0_avx512_vnni),
        [SFFN_Q4_0] = KERNEL_ENTRY(rows_dot_q4_0_avx512_vnni),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(rows_dot_q4_0_apart_avx512_vnni),
    },
    .rows_axpy_int = {
        [SFFN_Q8_0] = KERNEL_ENTRY(rows_axpy_int_q8_0_avx512_vnni),
        [SFFN_Q4_0] = KERNEL_ENTRY(rows_axpy_int_q4_0_avx512_vnni),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(rows_axpy_int_q4_0_apart_avx512_vnni),
    },
    .batch_axpy_int = {
        [SFFN_Q8_0] = KERNEL_ENTRY(batch_axpy_int_q8_0_avx512_vnni),
        [SFFN_Q4_0] = KERNEL_ENTRY(batch_axpy_int_q4_0_avx512_vnni),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(batch_axpy_int_q4_0_apart_avx512_vnni),
    },
    .blocks_axpy = {
        [SFFN_Q8_0] = KERNEL_ENTRY(blocks_axpy_q8_0_avx512_vnni),
        [SFFN_Q4_0] = KERNEL_ENTRY(blocks_axpy_q4_0_avx512_vnni),
    },
    .plane_dot = KERNEL_ENTRY(plane_dot_avx512_vnni),
    .columns_axpy = KERNEL_ENTRY(columns_axpy_avx512_vnni),
};
