/* kernels_avx512.c  The templates at 16 lanes. The integer ops stay with AVX2: without VNNI wider vectors gain nothing there, and no fast
 * AVX-512 core lacks VNNI. */
#define ISA avx512
#include "kernels/isa/avx512/vec_avx512.h"
#include "kernels/tmpl/instantiate.h"

const struct sffn_kernels sffn_kernels_avx512 = {
    .rows_dot = {
        [SFFN_F32] = KERNEL_ENTRY(rows_dot_f32_avx512),
        [SFFN_F16] = KERNEL_ENTRY(rows_dot_f16_avx512),
        [SFFN_BF16] = KERNEL_ENTRY(rows_dot_bf16_avx512),
    },
    .rows_axpy = {
        [SFFN_F32] = KERNEL_ENTRY(rows_axpy_f32_avx512),
        [SFFN_F16] = KERNEL_ENTRY(rows_axpy_f16_avx512),
        [SFFN_BF16] = KERNEL_ENTRY(rows_axpy_bf16_avx512),
    },
    .batch_axpy = {
        [SFFN_F32] = KERNEL_ENTRY(batch_axpy_f32_avx512),
        [SFFN_F16] = KERNEL_ENTRY(batch_axpy_f16_avx512),
        [SFFN_BF16] = KERNEL_ENTRY(batch_axpy_bf16_avx512),
    },
    .quantize_x = KERNEL_ENTRY(quantize_x_avx512),
    .threshold = KERNEL_ENTRY(threshold_avx512),
    .activate = KERNEL_ENTRY(activate_avx512),
    .pack_signs = KERNEL_ENTRY(pack_signs_avx512),
    .count_signs = KERNEL_ENTRY(count_signs_avx512),
};
