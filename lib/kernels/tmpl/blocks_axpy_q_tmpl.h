/* blocks_axpy_q_tmpl.h  Body of blocks_axpy for q8_0 and q4_0. Contract: kernels.h. Parameters: instantiate_q.h.
 *
 * A row is a dot product per block with the same 32 inputs, so VF_LEN blocks give one vector of y.
 */
static void KERNEL(blocks_axpy)(float *y, const void *w, size_t row_bytes, const uint32_t *blocks, const struct sffn_x *h,
                                size_t n_blocks, size_t n)
{
    const struct ahead_plan plan = ahead_plan_of(w, row_bytes, blocks, n_blocks, 1, n * WT_BLOCK_BYTES);
    for (size_t e = 0; e < n_blocks; e++) {
        const char *row = row_at(w, row_bytes, blocks, e);
        const struct ahead ahead = ahead_of(&plan, row, w, row_bytes, blocks, e, n_blocks);
        const int8_t *q = h->q + 32 * e;
        const vf d = vf_set1(h->d[e]);
        struct KERNEL(quants) quants;
        size_t j = 0;
        for (; j + VF_LEN <= n; j += VF_LEN) {
            const char *p = row + j * WT_BLOCK_BYTES;
            vf scales;
            vi dot;
            KERNEL(quants_load)(&quants, &scales, p);
            ahead_fetch(&ahead, j * WT_BLOCK_BYTES, STEP_BYTES);
            dot = KERNEL(quants_dot_same)(&quants, q, h->sum[e] * KERNEL_JOIN2(QUANTS_OFFSET, WT));
            vf_store(y + j, vf_fma(vf_from_vi(dot), vf_mul(scales, d), vf_load(y + j)));
        }
        if (j < n) {
            vf scales;
            vi dot;
            KERNEL(quants_load_part)(&quants, &scales, row + j * WT_BLOCK_BYTES, n - j);
            dot = KERNEL(quants_dot_same)(&quants, q, h->sum[e] * KERNEL_JOIN2(QUANTS_OFFSET, WT));
            vf_store_part(y + j, vf_fma(vf_from_vi(dot), vf_mul(scales, d), vf_load_part(y + j, n - j)), n - j);
        }
    }
}
