/* rows_dot_q_tmpl.h  Body of rows_dot for q8_0 and q4_0. Contract: kernels.h. Parameters: instantiate_q.h.
 *
 * VF_LEN blocks at a time: decoded once for all tokens of the row, one lane per block, so a (row, token) has a single accumulator
 * whose additions depend on n alone. The blocks past the last full step are padded with zeros in a copy.
 */

/* Copies of every token's last blocks, padded to VF_LEN blocks. */
struct KERNEL(x_tail) {
    int8_t q[SFFN_TILE_TOKENS][32 * VF_LEN];
    float d[SFFN_TILE_TOKENS][VF_LEN];
    int32_t sum[SFFN_TILE_TOKENS][VF_LEN];
};

static void KERNEL(x_tail_fill)(struct KERNEL(x_tail) *tail, const struct sffn_x *x, size_t n_tokens, size_t first_block,
                                size_t count)
{
    memset(tail, 0, sizeof *tail);
    for (size_t t = 0; t < n_tokens; t++) {
        const size_t block = t * (x->q_stride / 32) + first_block;
        memcpy(tail->q[t], x->q + 32 * block, 32 * count);
        memcpy(tail->d[t], x->d + block, count * sizeof *x->d);
        memcpy(tail->sum[t], x->sum + block, count * sizeof *x->sum);
    }
}

/* T = the number of tokens as a constant. */
KERNEL_INLINE void KERNEL(dot_row)(const size_t T, float *out, const char *row, const struct ahead *ahead,
                                   const struct sffn_x *x, const struct KERNEL(x_tail) *tail, const uint8_t *token,
                                   size_t n_blocks)
{
    vf acc[SFFN_TILE_TOKENS];
    struct KERNEL(quants) w;
    size_t block = 0, t;
    for (t = 0; t < T; t++)
        acc[t] = vf_zero();
    for (; block + VF_LEN <= n_blocks; block += VF_LEN) {
        const char *p = row + block * WT_BLOCK_BYTES;
        const uintptr_t line = ahead_at(ahead, block * WT_BLOCK_BYTES);
        const vf scales = KERNEL(quants_scales)(p);
        KERNEL(quants_load)(&w, p);
        for (size_t k = 0; k < STEP_BYTES; k += 64)
            vf_prefetch(line + k);
        for (t = 0; t < T; t++) {
            const size_t at = token[t] * (x->q_stride / 32) + block;
            const vi dot = KERNEL(quants_dot)(&w, x->q + 32 * at, x->sum + at);
            acc[t] = vf_fma(vf_from_vi(dot), vf_mul(scales, vf_load(x->d + at)), acc[t]);
        }
    }
    if (block < n_blocks) {
        char padded[STEP_BYTES];
        vf scales;
        memset(padded, 0, sizeof padded);
        memcpy(padded, row + block * WT_BLOCK_BYTES, (n_blocks - block) * WT_BLOCK_BYTES);
        scales = KERNEL(quants_scales)(padded);
        KERNEL(quants_load)(&w, padded);
        for (t = 0; t < T; t++) {
            const vi dot = KERNEL(quants_dot)(&w, tail->q[token[t]], tail->sum[token[t]]);
            acc[t] = vf_fma(vf_from_vi(dot), vf_mul(scales, vf_load(tail->d[token[t]])), acc[t]);
        }
    }
    for (t = 0; t < T; t++)
        out[token[t]] = vf_sum(acc[t]);
}

static void KERNEL(rows_dot)(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                             size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    const size_t n_blocks = n / 32;
    struct KERNEL(x_tail) tail;
    if (n_blocks % VF_LEN != 0)
        KERNEL(x_tail_fill)(&tail, x, n_tokens, n_blocks - n_blocks % VF_LEN, n_blocks % VF_LEN);
    for (size_t r = 0; r < n_rows; r++, out += n_tokens) {
        const char *row = row_at(w, row_bytes, rows, r);
        const struct ahead ahead = ahead_of(row, w, row_bytes, rows, r, n_rows, 1, n_blocks * WT_BLOCK_BYTES);
        struct row_tokens t;
        row_tokens_of(&t, masks, r, n_tokens);
        switch (t.count) {
        case 1:
            KERNEL(dot_row)(1, out, row, &ahead, x, &tail, t.token, n_blocks);
            break;
        case 2:
            KERNEL(dot_row)(2, out, row, &ahead, x, &tail, t.token, n_blocks);
            break;
        case 3:
            KERNEL(dot_row)(3, out, row, &ahead, x, &tail, t.token, n_blocks);
            break;
        case 4:
            KERNEL(dot_row)(4, out, row, &ahead, x, &tail, t.token, n_blocks);
            break;
        case 5:
            KERNEL(dot_row)(5, out, row, &ahead, x, &tail, t.token, n_blocks);
            break;
        case 6:
            KERNEL(dot_row)(6, out, row, &ahead, x, &tail, t.token, n_blocks);
            break;
        case 7:
            KERNEL(dot_row)(7, out, row, &ahead, x, &tail, t.token, n_blocks);
            break;
        case 8:
            KERNEL(dot_row)(8, out, row, &ahead, x, &tail, t.token, n_blocks);
            break;
        default:
            break;
        }
    }
}
