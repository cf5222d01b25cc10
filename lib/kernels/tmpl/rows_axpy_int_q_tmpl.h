/* rows_axpy_int_q_tmpl.h  Body of rows_axpy_int for q8_0 and q4_0. Contract: kernels.h. Parameters: instantiate_q.h, and for each type
 *     vf quants_scales_<s>(p)                      the scales of VF_LEN blocks
 *     AXPY_PAIRS_<type>                            pairs of rows side by side, 8 at most
 *     AXPY_BLOCKS_<type>                           blocks that axpy_part_<s> does at a time; divides VF_LEN
 *     axpy_part_<s>(P, acc, rows, offset, v, sum)  acc[0 ..] += sum over 2 * P rows of v * q for the blocks (apart: their quants) at
 *                                                  rows[r] + offset, where v[p * VF_LEN + b] holds v of rows 2p (low half) and 2p + 1 for
 *                                                  block b; sum[b]: of all rows
 *
 * Rows go in pairs: 16-bit v of two rows make the dword that a multiply-add of words wants, so a sum over two rows happens inside the
 * instruction, and a group of 2 * P rows loads and stores acc once. v comes first, VF_LEN blocks at a time, lane b for block b.
 */
#define GROUP_PAIRS KERNEL_JOIN2(AXPY_PAIRS, WT)
#define PART_BLOCKS KERNEL_JOIN2(AXPY_BLOCKS, WT)
#define QUANTS_STEP ((size_t)(WT_IS_APART ? WT_BLOCK_BYTES - WT_SCALE_STEP : WT_BLOCK_BYTES)) /* from one block's quants to the next one's */

/* scales, quants: offsets of the step's first block in a row, the same where a block holds both. */
KERNEL_INLINE void KERNEL(axpy_step)(const int P, int32_t *acc, const char *const *rows, size_t scales, size_t quants, const float *scaled,
                                     const struct ahead *ahead, size_t fetched, size_t parts)
{
    int32_t v[GROUP_PAIRS * VF_LEN], sum[VF_LEN];
    vi total = vi_zero();
    for (int p = 0; p < P; p++) {
        const vi even = vi_from_vf(vf_mul(vf_set1(scaled[2 * p]), KERNEL(quants_scales)(rows[2 * p] + scales)));
        const vi odd = vi_from_vf(vf_mul(vf_set1(scaled[2 * p + 1]), KERNEL(quants_scales)(rows[2 * p + 1] + scales)));
        vi_store(v + p * VF_LEN, vi_pair16(even, odd));
        total = vi_add(total, vi_add(even, odd));
    }
    vi_store(sum, total);
    for (size_t part = 0; part < parts; part++) {
        const size_t block = part * PART_BLOCKS;
        if (ahead != NULL) {
            /* Each part fetches its share of the rows' next STEP_BYTES. */
            for (size_t r = part * 2 * (size_t)P / parts; r < (part + 1) * 2 * (size_t)P / parts; r++)
                ahead_fetch(ahead + r, fetched, STEP_BYTES);
        }
        KERNEL(axpy_part)(P, acc + 32 * block, rows, quants + block * QUANTS_STEP, v + block, sum + block);
    }
}

/* The last blocks, in padded copies: up to VF_LEN - 1 blocks of 2 * P rows. */
KERNEL_INLINE void KERNEL(axpy_tail)(const int P, int32_t *acc, const char *const *rows, size_t scales, size_t quants, const float *scaled,
                                     const struct ahead *ahead, size_t fetched, size_t blocks)
{
    const size_t copied_quants = WT_IS_APART ? VF_LEN * WT_SCALE_STEP : 0;
    char padded[2 * GROUP_PAIRS][STEP_BYTES];
    const char *copies[2 * GROUP_PAIRS];
    int32_t sums[32 * VF_LEN];
    memset(padded, 0, sizeof padded);
    for (int r = 0; r < 2 * P; r++) {
        ahead_fetch(ahead + r, fetched, STEP_BYTES);
        if (WT_IS_APART)
            memcpy(padded[r], rows[r] + scales, blocks * WT_SCALE_STEP);
        memcpy(padded[r] + copied_quants, rows[r] + quants, blocks * QUANTS_STEP);
        copies[r] = padded[r];
    }
    memset(sums, 0, sizeof sums);
    memcpy(sums, acc, 32 * blocks * sizeof *acc);
    KERNEL(axpy_step)(P, sums, copies, 0, copied_quants, scaled, NULL, 0, (blocks + PART_BLOCKS - 1) / PART_BLOCKS);
    memcpy(acc, sums, 32 * blocks * sizeof *acc);
}

/* 2 * P rows from position r; those past n_rows repeat the last one with v = 0. */
KERNEL_INLINE void KERNEL(axpy_group)(const int P, int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows,
                                      const float *h, float inv, size_t r, size_t n_rows, size_t n_blocks,
                                      const struct ahead_plan *plan)
{
    const char *row[2 * GROUP_PAIRS];
    float scaled[2 * GROUP_PAIRS];
    struct ahead ahead[2 * GROUP_PAIRS];
    size_t block = 0;
    for (int i = 0; i < 2 * P; i++) {
        const size_t at = r + (size_t)i < n_rows ? r + (size_t)i : n_rows - 1;
        row[i] = row_at(w, row_bytes, rows, at);
        scaled[i] = r + (size_t)i < n_rows ? h[at] * inv : 0.0f;
        ahead[i] = ahead_of(plan, row[i], w, row_bytes, rows, at, n_rows);
    }
    for (; block < n_blocks; block += VF_LEN) {
        const size_t scales = block * WT_SCALE_STEP, fetched = block * WT_BLOCK_BYTES;
        const size_t quants = WT_IS_APART ? SFFN_APART_QUANTS(n_blocks) + block * QUANTS_STEP : scales;
        if (n_blocks - block >= VF_LEN)
            KERNEL(axpy_step)(P, acc + 32 * block, row, scales, quants, scaled, ahead, fetched, VF_LEN / PART_BLOCKS);
        else
            KERNEL(axpy_tail)(P, acc + 32 * block, row, scales, quants, scaled, ahead, fetched, n_blocks - block);
    }
}

static void KERNEL(rows_axpy_int)(int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                  float inv, size_t n_rows, size_t n)
{
    const struct ahead_plan plan = ahead_plan_of(w, row_bytes, rows, n_rows, 2 * GROUP_PAIRS, n / 32 * WT_BLOCK_BYTES);
    size_t r = 0;
    for (; r + 2 * GROUP_PAIRS <= n_rows; r += 2 * GROUP_PAIRS)
        KERNEL(axpy_group)(GROUP_PAIRS, acc, w, row_bytes, rows, h, inv, r, n_rows, n / 32, &plan);
    if (GROUP_PAIRS > 4 && r + 8 <= n_rows) {
        KERNEL(axpy_group)(4, acc, w, row_bytes, rows, h, inv, r, n_rows, n / 32, &plan);
        r += 8;
    }
    for (; r < n_rows; r += 2)
        KERNEL(axpy_group)(1, acc, w, row_bytes, rows, h, inv, r, n_rows, n / 32, &plan);
}

#undef GROUP_PAIRS
#undef PART_BLOCKS
#undef QUANTS_STEP
