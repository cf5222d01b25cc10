/* rows_dot_tmpl.h  Body of rows_dot for f32, f16 and bf16 rows. Contract: kernels.h.
 * Parameters: ISA, WT, WT_BYTES, wt_load, wt_load_part, VF_LEN, VF_TOKENS (1 .. 4), vf_*.
 *
 * Each (row, token) has four accumulators, whatever the number of tokens, so its bits depend on n alone: four chains hide the latency of
 * the multiply-add. Tokens beyond VF_TOKENS find the row in the cache. Named accumulators, never arrays: SVE vectors have no
 * compile-time size.
 */

/* T = n_tokens as a constant; x1 .. x3 are not read when T does not reach them. */
KERNEL_INLINE void KERNEL(dot_tokens)(int T, float *out0, float *out1, float *out2, float *out3, const char *row,
                                      const struct ahead *ahead, int fetch, const float *x0, const float *x1, const float *x2,
                                      const float *x3, size_t n)
{
    vf a0 = vf_zero(), a1 = vf_zero(), a2 = vf_zero(), a3 = vf_zero();
    vf b0 = vf_zero(), b1 = vf_zero(), b2 = vf_zero(), b3 = vf_zero();
    vf c0 = vf_zero(), c1 = vf_zero(), c2 = vf_zero(), c3 = vf_zero();
    vf d0 = vf_zero(), d1 = vf_zero(), d2 = vf_zero(), d3 = vf_zero();
    size_t i = 0;
    for (; i + 4 * VF_LEN <= n; i += 4 * VF_LEN) {
        const vf w0 = wt_load(row, i), w1 = wt_load(row, i + VF_LEN);
        const vf w2 = wt_load(row, i + 2 * VF_LEN), w3 = wt_load(row, i + 3 * VF_LEN);
        if (fetch) {
            const uintptr_t line = ahead_at(ahead, i * WT_BYTES);
            for (size_t k = 0; k < 4 * VF_LEN * WT_BYTES; k += 64)
                vf_prefetch(line + k);
        }
        a0 = vf_fma(w0, vf_load(x0 + i), a0);
        a1 = vf_fma(w1, vf_load(x0 + i + VF_LEN), a1);
        a2 = vf_fma(w2, vf_load(x0 + i + 2 * VF_LEN), a2);
        a3 = vf_fma(w3, vf_load(x0 + i + 3 * VF_LEN), a3);
        if (T > 1) {
            b0 = vf_fma(w0, vf_load(x1 + i), b0);
            b1 = vf_fma(w1, vf_load(x1 + i + VF_LEN), b1);
            b2 = vf_fma(w2, vf_load(x1 + i + 2 * VF_LEN), b2);
            b3 = vf_fma(w3, vf_load(x1 + i + 3 * VF_LEN), b3);
        }
        if (T > 2) {
            c0 = vf_fma(w0, vf_load(x2 + i), c0);
            c1 = vf_fma(w1, vf_load(x2 + i + VF_LEN), c1);
            c2 = vf_fma(w2, vf_load(x2 + i + 2 * VF_LEN), c2);
            c3 = vf_fma(w3, vf_load(x2 + i + 3 * VF_LEN), c3);
        }
        if (T > 3) {
            d0 = vf_fma(w0, vf_load(x3 + i), d0);
            d1 = vf_fma(w1, vf_load(x3 + i + VF_LEN), d1);
            d2 = vf_fma(w2, vf_load(x3 + i + 2 * VF_LEN), d2);
            d3 = vf_fma(w3, vf_load(x3 + i + 3 * VF_LEN), d3);
        }
    }
    for (; i + VF_LEN <= n; i += VF_LEN) {
        const vf w0 = wt_load(row, i);
        a0 = vf_fma(w0, vf_load(x0 + i), a0);
        if (T > 1)
            b0 = vf_fma(w0, vf_load(x1 + i), b0);
        if (T > 2)
            c0 = vf_fma(w0, vf_load(x2 + i), c0);
        if (T > 3)
            d0 = vf_fma(w0, vf_load(x3 + i), d0);
    }
    if (i < n) {
        const vf w1 = wt_load_part(row, i, n - i);
        a1 = vf_fma(w1, vf_load_part(x0 + i, n - i), a1);
        if (T > 1)
            b1 = vf_fma(w1, vf_load_part(x1 + i, n - i), b1);
        if (T > 2)
            c1 = vf_fma(w1, vf_load_part(x2 + i, n - i), c1);
        if (T > 3)
            d1 = vf_fma(w1, vf_load_part(x3 + i, n - i), d1);
    }
    *out0 = vf_sum(vf_add(vf_add(a0, a1), vf_add(a2, a3)));
    if (T > 1)
        *out1 = vf_sum(vf_add(vf_add(b0, b1), vf_add(b2, b3)));
    if (T > 2)
        *out2 = vf_sum(vf_add(vf_add(c0, c1), vf_add(c2, c3)));
    if (T > 3)
        *out3 = vf_sum(vf_add(vf_add(d0, d1), vf_add(d2, d3)));
}

static void KERNEL(rows_dot)(float *out, const void *w, size_t row_bytes, const uint32_t *rows, const uint8_t *masks,
                             size_t n_rows, const struct sffn_x *x, size_t n_tokens, size_t n)
{
    for (size_t r = 0; r < n_rows; r++, out += n_tokens) {
        const char *row = row_at(w, row_bytes, rows, r);
        const struct ahead ahead = ahead_of(row, w, row_bytes, rows, r, n_rows, 1, n * WT_BYTES);
        struct row_tokens t;
        row_tokens_of(&t, masks != NULL ? masks[r] : 0xffu, n_tokens);
        for (size_t k = 0; k < t.count; k += VF_TOKENS) {
            const size_t left = t.count - k;
            const uint8_t *token = t.token + k;
            float *const o0 = out + token[0];
            const float *const x0 = x->x + token[0] * x->x_stride;
            if (left == 1) {
                KERNEL(dot_tokens)(1, o0, NULL, NULL, NULL, row, &ahead, k == 0, x0, NULL, NULL, NULL, n);
                continue;
            }
            float *const o1 = out + token[1];
            const float *const x1 = x->x + token[1] * x->x_stride;
            if (left == 2 || VF_TOKENS == 2) {
                KERNEL(dot_tokens)(2, o0, o1, NULL, NULL, row, &ahead, k == 0, x0, x1, NULL, NULL, n);
                continue;
            }
            float *const o2 = out + token[2];
            const float *const x2 = x->x + token[2] * x->x_stride;
            if (left == 3 || VF_TOKENS == 3) {
                KERNEL(dot_tokens)(3, o0, o1, o2, NULL, row, &ahead, k == 0, x0, x1, x2, NULL, n);
                continue;
            }
            KERNEL(dot_tokens)(4, o0, o1, o2, out + token[3], row, &ahead, k == 0, x0, x1, x2,
                               x->x + token[3] * x->x_stride, n);
        }
    }
}
