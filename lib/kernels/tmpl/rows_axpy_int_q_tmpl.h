/* rows_axpy_int_q_tmpl.h  Body of rows_axpy_int for q8_0 and q4_0. Contract: kernels.h. Parameters: instantiate_q.h, and for each type
 *     vf quants_scales_<s>(p)                      the scales of VF_LEN blocks
 *     AXPY_BLOCKS_<type>                           blocks that axpy_part_<s> does at a time; divides VF_LEN
 *     axpy_part_<s>(P, acc, rows, offset, v, sum)  acc[0 ..] += sum over 2 * P rows of v * q for the blocks at rows[r] + offset, where
 *                                                  v[p * VF_LEN + b] holds v of rows 2p (low half) and 2p + 1 for block b; sum[b]: of all rows
 *
 * Rows go in pairs: 16-bit v of two rows make the dword that a multiply-add of words wants, so a sum over two rows happens inside the
 * instruction, and a group of 2 * P rows loads and stores acc once. v comes first, VF_LEN blocks at a time, lane b for block b.
 */
#define AXPY_PAIRS 4

KERNEL_INLINE void KERNEL(axpy_step)(const int P, int32_t *acc, const char *const *rows, size_t offset, const float *scaled,
                                     const struct ahead *ahead, size_t parts)
{
    int32_t v[AXPY_PAIRS * VF_LEN], sum[VF_LEN];
    vi total = vi_zero();
    for (int p = 0; p < P; p++) {
        const vi even = vi_from_vf(vf_mul(vf_set1(scaled[2 * p]), KERNEL(quants_scales)(rows[2 * p] + offset)));
        const vi odd = vi_from_vf(vf_mul(vf_set1(scaled[2 * p + 1]), KERNEL(quants_scales)(rows[2 * p + 1] + offset)));
        vi_store(v + p * VF_LEN, vi_pair16(even, odd));
        total = vi_add(total, vi_add(even, odd));
    }
    vi_store(sum, total);
    for (size_t part = 0; part < parts; part++) {
        const size_t block = part * KERNEL_JOIN2(AXPY_BLOCKS, WT);
        if (ahead != NULL) {
            /* Each part fetches its share of the rows' next STEP_BYTES. */
            for (size_t r = part * 2 * (size_t)P / parts; r < (part + 1) * 2 * (size_t)P / parts; r++)
                ahead_fetch(ahead + r, offset, STEP_BYTES);
        }
        KERNEL(axpy_part)(P, acc + 32 * block, rows, offset + block * WT_BLOCK_BYTES, v + block, sum + block);
    }
}

/* The last blocks, in padded copies: up to VF_LEN - 1 blocks of 2 * P rows. */
KERNEL_INLINE void KERNEL(axpy_tail)(const int P, int32_t *acc, const char *const *rows, size_t offset, const float *scaled,
                                     const struct ahead *ahead, size_t blocks)
{
    char padded[2 * AXPY_PAIRS][STEP_BYTES];
    const char *copies[2 * AXPY_PAIRS];
    int32_t sums[32 * VF_LEN];
    const size_t parts = (blocks + KERNEL_JOIN2(AXPY_BLOCKS, WT) - 1) / KERNEL_JOIN2(AXPY_BLOCKS, WT);
    memset(padded, 0, sizeof padded);
    for (int r = 0; r < 2 * P; r++) {
        ahead_fetch(ahead + r, offset, STEP_BYTES);
        memcpy(padded[r], rows[r] + offset, blocks * WT_BLOCK_BYTES);
        copies[r] = padded[r];
    }
    memset(sums, 0, sizeof sums);
    memcpy(sums, acc, 32 * blocks * sizeof *acc);
    KERNEL(axpy_step)(P, sums, copies, 0, scaled, NULL, parts);
    memcpy(acc, sums, 32 * blocks * sizeof *acc);
}

/* 2 * P rows from position r; those past n_rows repeat the last one with v = 0. */
KERNEL_INLINE void KERNEL(axpy_group)(const int P, int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows,
                                      const float *h, float inv, size_t r, size_t n_rows, size_t n_blocks,
                                      const struct ahead_plan *plan)
{
    const char *row[2 * AXPY_PAIRS];
    float scaled[2 * AXPY_PAIRS];
    struct ahead ahead[2 * AXPY_PAIRS];
    size_t block = 0;
    for (int i = 0; i < 2 * P; i++) {
        const size_t at = r + (size_t)i < n_rows ? r + (size_t)i : n_rows - 1;
        row[i] = row_at(w, row_bytes, rows, at);
        scaled[i] = r + (size_t)i < n_rows ? h[at] * inv : 0.0f;
        ahead[i] = ahead_of(plan, row[i], w, row_bytes, rows, at, n_rows);
    }
    for (; block + VF_LEN <= n_blocks; block += VF_LEN)
        KERNEL(axpy_step)(P, acc + 32 * block, row, block * WT_BLOCK_BYTES, scaled, ahead, VF_LEN / KERNEL_JOIN2(AXPY_BLOCKS, WT));
    if (block < n_blocks)
        KERNEL(axpy_tail)(P, acc + 32 * block, row, block * WT_BLOCK_BYTES, scaled, ahead, n_blocks - block);
}

static void KERNEL(rows_axpy_int)(int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                  float inv, size_t n_rows, size_t n)
{
    const struct ahead_plan plan = ahead_plan_of(w, row_bytes, rows, n_rows, 2 * AXPY_PAIRS, n / 32 * WT_BLOCK_BYTES);
    size_t r = 0;
    for (; r + 2 * AXPY_PAIRS <= n_rows; r += 2 * AXPY_PAIRS)
        KERNEL(axpy_group)(AXPY_PAIRS, acc, w, row_bytes, rows, h, inv, r, n_rows, n / 32, &plan);
    for (; r < n_rows; r += 2)
        KERNEL(axpy_group)(1, acc, w, row_bytes, rows, h, inv, r, n_rows, n / 32, &plan);
}

#undef AXPY_PAIRS
