/* kernels_avx2.c  Every op with AVX2. */
#define ISA avx2
#include "kernels/isa/avx2/quants_avx2.h"
#include "kernels/tmpl/instantiate.h"
#include "kernels/wtype/wt_q8_0.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/wtype/wt_q4_0.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/wtype/wt_q4_0_apart.h"
#include "kernels/tmpl/instantiate_q.h"
#include "kernels/isa/avx2/plane_dot_avx2.h"
#include "kernels/tmpl/plane_dot_tmpl.h"
#include "kernels/isa/avx2/columns_axpy_avx2.h"
#include "kernels/tmpl/columns_axpy_tmpl.h"

const struct sffn_kernels sffn_kernels_avx2 = {
    .rows_dot = {
        [SFFN_F32] = KERNEL_ENTRY(rows_dot_f32_avx2),
        [SFFN_F16] = KERNEL_ENTRY(rows_dot_f16_avx2),
        [SFFN_BF16] = KERNEL_ENTRY(rows_dot_bf16_avx2),
        [SFFN_Q8_0] = KERNEL_ENTRY(rows_dot_q8_0_avx2),
        [SFFN_Q4_0] = KERNEL_ENTRY(rows_dot_q4_0_avx2),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(rows_dot_q4_0_apart_avx2),
    },
    .rows_axpy = {
        [SFFN_F32] = KERNEL_ENTRY(rows_axpy_f32_avx2),
        [SFFN_F16] = KERNEL_ENTRY(rows_axpy_f16_avx2),
        [SFFN_BF16] = KERNEL_ENTRY(rows_axpy_bf16_avx2),
    },
    .batch_axpy = {
        [SFFN_F32] = KERNEL_ENTRY(batch_axpy_f32_avx2),
        [SFFN_F16] = KERNEL_ENTRY(batch_axpy_f16_avx2),
        [SFFN_BF16] = KERNEL_ENTRY(batch_axpy_bf16_avx2),
    },
    .rows_axpy_int = {
        [SFFN_Q8_0] = KERNEL_ENTRY(rows_axpy_int_q8_0_avx2),
        [SFFN_Q4_0] = KERNEL_ENTRY(rows_axpy_int_q4_0_avx2),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(rows_axpy_int_q4_0_apart_avx2),
    },
    .batch_axpy_int = {
        [SFFN_Q8_0] = KERNEL_ENTRY(batch_axpy_int_q8_0_avx2),
        [SFFN_Q4_0] = KERNEL_ENTRY(batch_axpy_int_q4_0_avx2),
        [SFFN_W_Q4_0_APART] = KERNEL_ENTRY(batch_axpy_int_q4_0_apart_avx2),
    },
    .blocks_axpy = {
        [SFFN_Q8_0] = KERNEL_ENTRY(blocks_axpy_q8_0_avx2),
        [SFFN_Q4_0] = KERNEL_ENTRY(blocks_axpy_q4_0_avx2),
    },
    .quantize_x = KERNEL_ENTRY(quantize_x_avx2),
    .threshold = KERNEL_ENTRY(threshold_avx2),
    .activate = KERNEL_ENTRY(activate_avx2),
    .pack_signs = KERNEL_ENTRY(pack_signs_avx2),
    .count_signs = KERNEL_ENTRY(count_signs_avx2),
    .plane_dot = KERNEL_ENTRY(plane_dot_avx2),
    .columns_axpy = KERNEL_ENTRY(columns_axpy_avx2),
};
