/* kernels_neon.c  Every op with NEON, part of each AArch64 CPU. */
#define ISA neon
#include "kernels/isa/neon/quants_neon.h"
#include "kernels/tmpl/instantiate.h"
#include "kernels/wtype/wt_q8_0.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/wtype/wt_q4_0.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/isa/neon/plane_dot_neon.h"
#include "kernels/tmpl/plane_dot_tmpl.h"
#include "kernels/isa/neon/columns_axpy_neon.h"
#include "kernels/tmpl/columns_axpy_tmpl.h"

const struct sffn_kernels sffn_kernels_neon = {
    .rows_dot = {
        [SFFN_F32] = KERNEL_ENTRY(rows_dot_f32_neon),
        [SFFN_F16] = KERNEL_ENTRY(rows_dot_f16_neon),
        [SFFN_BF16] = KERNEL_ENTRY(rows_dot_bf16_neon),
        [SFFN_Q8_0] = KERNEL_ENTRY(rows_dot_q8_0_neon),
        [SFFN_Q4_0] = KERNEL_ENTRY(rows_dot_q4_0_neon),
    },
    .rows_axpy = {
        [SFFN_F32] = KERNEL_ENTRY(rows_axpy_f32_neon),
        [SFFN_F16] = KERNEL_ENTRY(rows_axpy_f16_neon),
        [SFFN_BF16] = KERNEL_ENTRY(rows_axpy_bf16_neon),
    },
    .batch_axpy = {
        [SFFN_F32] = KERNEL_ENTRY(batch_axpy_f32_neon),
        [SFFN_F16] = KERNEL_ENTRY(batch_axpy_f16_neon),
        [SFFN_BF16] = KERNEL_ENTRY(batch_axpy_bf16_neon),
    },
    .rows_axpy_int = {
        [SFFN_Q8_0] = KERNEL_ENTRY(rows_axpy_int_q8_0_neon),
        [SFFN_Q4_0] = KERNEL_ENTRY(rows_axpy_int_q4_0_neon),
    },
    .batch_axpy_int = {
        [SFFN_Q8_0] = KERNEL_ENTRY(batch_axpy_int_q8_0_neon),
        [SFFN_Q4_0] = KERNEL_ENTRY(batch_axpy_int_q4_0_neon),
    },
    .blocks_axpy = {
        [SFFN_Q8_0] = KERNEL_ENTRY(blocks_axpy_q8_0_neon),
        [SFFN_Q4_0] = KERNEL_ENTRY(blocks_axpy_q4_0_neon),
    },
    .quantize_x = KERNEL_ENTRY(quantize_x_neon),
    .threshold = KERNEL_ENTRY(threshold_neon),
    .activate = KERNEL_ENTRY(activate_neon),
    .pack_signs = KERNEL_ENTRY(pack_signs_neon),
    .count_signs = KERNEL_ENTRY(count_signs_neon),
    .plane_dot = KERNEL_ENTRY(plane_dot_neon),
    .columns_axpy = KERNEL_ENTRY(columns_axpy_neon),
};
