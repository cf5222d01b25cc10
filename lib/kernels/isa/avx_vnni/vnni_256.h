/* vnni_256.h  The rows avx_vnni and avx512vl_vnni of the ISA table: AVX2's integer ops with VNNI; the others come from avx2. Parameter: ISA. */
#include "kernels/isa/avx2/quants_avx2.h"
#include "kernels/wtype/wt_q8_0.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/wtype/wt_q4_0.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/wtype/wt_q4_0_apart.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/isa/avx_vnni/plane_dot_vnni_256.h"
#include "kernels/tmpl/plane_dot_tmpl.h"
#include "kernels/isa/avx_vnni/columns_axpy_vnni_256.h"
#include "kernels/tmpl/columns_axpy_tmpl.h"

const struct sffn_kernels PLAIN_KERNEL(sffn_kernels) = {
    .rows_dot = {
        [SFFN_Q8_0] = KERNEL_ENTRY(PLAIN_KERNEL(rows_dot_q8_0)),
        [SFFN_Q4_0] = KERNEL_ENTRY(PLAIN_KERNEL(rows_dot_q4_0)),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(PLAIN_KERNEL(rows_dot_q4_0_apart)),
    },
    .rows_axpy_int = {
        [SFFN_Q8_0] = KERNEL_ENTRY(PLAIN_KERNEL(rows_axpy_int_q8_0)),
        [SFFN_Q4_0] = KERNEL_ENTRY(PLAIN_KERNEL(rows_axpy_int_q4_0)),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(PLAIN_KERNEL(rows_axpy_int_q4_0_apart)),
    },
    .batch_axpy_int = {
        [SFFN_Q8_0] = KERNEL_ENTRY(PLAIN_KERNEL(batch_axpy_int_q8_0)),
        [SFFN_Q4_0] = KERNEL_ENTRY(PLAIN_KERNEL(batch_axpy_int_q4_0)),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(PLAIN_KERNEL(batch_axpy_int_q4_0_apart)),
    },
    .blocks_axpy = {
        [SFFN_Q8_0] = KERNEL_ENTRY(PLAIN_KERNEL(blocks_axpy_q8_0)),
        [SFFN_Q4_0] = KERNEL_ENTRY(PLAIN_KERNEL(blocks_axpy_q4_0)),
    },
    .plane_dot = KERNEL_ENTRY(PLAIN_KERNEL(plane_dot)),
    .columns_axpy = KERNEL_ENTRY(PLAIN_KERNEL(columns_axpy)),
};
