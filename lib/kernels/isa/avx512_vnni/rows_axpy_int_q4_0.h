/* rows_axpy_int_q4_0.h  Body of rows_axpy_int for q4_0 with vpdpbusd. Contract: kernels.h.
 *
 * 16 (or 8) rows side by side, four blocks of columns at a time. v = 128 * hi + lo with both in a byte, and the bytes of four rows (a quad)
 * are interleaved, so that vpdpbusd sums over four rows inside the instruction: a dword of a register holds the bytes of columns c and
 * c + 16. With t = a byte as it is and l = its low nibble, sum v * l is the first column's sum and (sum v * t - sum v * l) / 16, which is
 * exact, the second's: that spares shifting out the high nibbles. The weights are nibble - 8; 8 * sum of v is taken off once, at the end.
 */
#ifndef SFFN_ROWS_AXPY_INT_Q4_0_H
#define SFFN_ROWS_AXPY_INT_Q4_0_H
#include "kernels/isa/avx512_vnni/quants_avx512_vnni.h"
#include "kernels/tmpl/ahead.h"

enum {
    Q4_BYTES = 18,       /* of a block */
    Q4_GROUP = 4,        /* blocks per step: 72 bytes, 36 words, 32 of them in `first` and the last 4 in words 4 .. 7 of `rest` */
    Q4_GROUP_BYTES = 72,
    Q4_ROWS = 16,        /* rows side by side */
    Q4_PANEL = 224       /* blocks: longer rows are cut into panels of columns, for the sums of v on the stack, and so that the next group
                          * of rows is what to fetch (ahead.h) */
};
_Static_assert((size_t)Q4_PANEL * Q4_BYTES <= PREFETCH_MOST_BYTES / Q4_ROWS, "a panel of Q4_ROWS rows is fetched as a whole");

/* The blocks of a panel, when a row of `total` is cut into even ones of whole lines. */
KERNEL_INLINE size_t q4_panel_blocks(size_t total)
{
    const size_t n_panels = (total + Q4_PANEL - 1) / Q4_PANEL;
    return n_panels == 0 ? 0 : ((total + n_panels - 1) / n_panels + 31) / 32 * 32;
}

/* The words of `count` blocks of a group; the others are not read. */
KERNEL_INLINE __mmask32 q4_mask(size_t count)
{
    return (__mmask32)(0xffffffffffffffffu >> (64 - Q4_BYTES / 2 * count));
}

KERNEL_INLINE vi q4_first(const char *p, size_t count)
{
    return count == Q4_GROUP ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(q4_mask(count), p);
}

KERNEL_INLINE vi q4_rest(const char *p, size_t count)
{
    if (count < Q4_GROUP)
        return _mm512_setzero_si512();
    return _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)(p + Q4_GROUP_BYTES - 16)));
}

/* The bytes of v for 8 rows: lane b, for block b, has dwords {hi of the first quad, hi of the second, lo, lo}. */
KERNEL_INLINE vi q4_v(const char *const *rows, const float *scaled, size_t offset, __mmask32 mask)
{
    /* Word 4b + r of either half: the scale of block b, word 9b, of row r; even rows from the first operand, odd ones from the second.
     * Masked loads also where the mask is full, else compilers keep these registers for the quads and spill them. */
    const vi words = _mm512_set_epi16(59, 27, 59, 27, 50, 18, 50, 18, 41, 9, 41, 9, 32, 0, 32, 0,  59, 27, 59, 27, 50, 18, 50, 18, 41, 9,
                                      41, 9, 32, 0, 32, 0);
    const vi s01 = _mm512_maskz_permutex2var_epi16(0x00003333u, _mm512_maskz_loadu_epi16(mask, rows[0] + offset), words,
                                                   _mm512_maskz_loadu_epi16(mask, rows[1] + offset));
    const vi s23 = _mm512_maskz_permutex2var_epi16(0x0000ccccu, _mm512_maskz_loadu_epi16(mask, rows[2] + offset), words,
                                                   _mm512_maskz_loadu_epi16(mask, rows[3] + offset));
    const vi s45 = _mm512_maskz_permutex2var_epi16(0x33330000u, _mm512_maskz_loadu_epi16(mask, rows[4] + offset), words,
                                                   _mm512_maskz_loadu_epi16(mask, rows[5] + offset));
    const vi s67 = _mm512_maskz_permutex2var_epi16(0xcccc0000u, _mm512_maskz_loadu_epi16(mask, rows[6] + offset), words,
                                                   _mm512_maskz_loadu_epi16(mask, rows[7] + offset));
    const vi s = _mm512_or_si512(_mm512_or_si512(s01, s23), _mm512_or_si512(s45, s67));
    const vf d0 = _mm512_cvtph_ps(_mm512_castsi512_si256(s)), d1 = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(s, 1));
    const vi v0 = vi_from_vf(vf_mul(_mm512_broadcast_f32x4(_mm_loadu_ps(scaled)), d0));
    const vi v1 = vi_from_vf(vf_mul(_mm512_broadcast_f32x4(_mm_loadu_ps(scaled + 4)), d1));
    const vi v = _mm512_packs_epi32(v0, v1);
    const vi hi = _mm512_srai_epi16(_mm512_add_epi16(v, _mm512_set1_epi16(64)), 7);
    return _mm512_packs_epi16(hi, _mm512_sub_epi16(v, _mm512_slli_epi16(hi, 7)));
}

/* The sums of one block: over l and over t, with hi and with lo. */
struct q4_sums {
    vi l_hi, l_lo, t_hi, t_lo;
};

KERNEL_INLINE void q4_sums_add(struct q4_sums *s, vi t, const int32_t *v_hi, const int32_t *v_lo)
{
    const vi l = _mm512_and_si512(t, _mm512_set1_epi8(15)), hi = vi_set1(*v_hi), lo = vi_set1(*v_lo);
    s->t_hi = _mm512_dpbusd_epi32(s->t_hi, t, hi);
    s->t_lo = _mm512_dpbusd_epi32(s->t_lo, t, lo);
    s->l_hi = _mm512_dpbusd_epi32(s->l_hi, l, hi);
    s->l_lo = _mm512_dpbusd_epi32(s->l_lo, l, lo);
}

/* v: hi of block b at v[4 * b], lo at v[4 * b + 2]. line: the rows to fetch, aligned; the prefetches are spread over the
 * work. */
KERNEL_INLINE void q4_quad_axpy(struct q4_sums *s0, struct q4_sums *s1, struct q4_sums *s2, struct q4_sums *s3, const char *const *rows,
                                const uintptr_t *line, const int32_t *v, size_t offset, size_t count)
{
    /* Lane L, words 2k and 2k + 1: words 2L and 2L + 1 of block k, whose quants are words 9k + 1 .. 9k + 8 of the row. Interleaving then
     * leaves the columns in their order. Words 32 .. 35 of the row are 36 .. 39 here. */
    const vi words = _mm512_set_epi16(39, 38, 26, 25, 17, 16, 8, 7,  37, 36, 24, 23, 15, 14, 6, 5,  31, 30, 22, 21, 13, 12, 4, 3,
                                      29, 28, 20, 19, 11, 10, 2, 1);
    const vi w0 = _mm512_permutex2var_epi16(q4_first(rows[0] + offset, count), words, q4_rest(rows[0] + offset, count));
    const vi w1 = _mm512_permutex2var_epi16(q4_first(rows[1] + offset, count), words, q4_rest(rows[1] + offset, count));
    const vi w2 = _mm512_permutex2var_epi16(q4_first(rows[2] + offset, count), words, q4_rest(rows[2] + offset, count));
    const vi w3 = _mm512_permutex2var_epi16(q4_first(rows[3] + offset, count), words, q4_rest(rows[3] + offset, count));
    const vi low01 = _mm512_unpacklo_epi8(w0, w1), high01 = _mm512_unpackhi_epi8(w0, w1);
    const vi low23 = _mm512_unpacklo_epi8(w2, w3), high23 = _mm512_unpackhi_epi8(w2, w3);
    const size_t fetch = offset / 64 * 64;
    vf_prefetch(line[0] + fetch);
    q4_sums_add(s0, _mm512_unpacklo_epi16(low01, low23), v, v + 2);
    vf_prefetch(line[1] + fetch);
    q4_sums_add(s1, _mm512_unpackhi_epi16(low01, low23), v + 4, v + 6);
    vf_prefetch(line[2] + fetch);
    q4_sums_add(s2, _mm512_unpacklo_epi16(high01, high23), v + 8, v + 10);
    vf_prefetch(line[3] + fetch);
    q4_sums_add(s3, _mm512_unpackhi_epi16(high01, high23), v + 12, v + 14);
}

KERNEL_INLINE void q4_sums_finish(const struct q4_sums *s, int32_t *acc)
{
    const vi l = _mm512_add_epi32(_mm512_slli_epi32(s->l_hi, 7), s->l_lo);
    const vi t = _mm512_add_epi32(_mm512_slli_epi32(s->t_hi, 7), s->t_lo);
    vi_accumulate(acc, l);
    vi_accumulate(acc + 16, _mm512_srai_epi32(_mm512_sub_epi32(t, l), 4));
}

/* acc[0 .. 32 * count - 1] += the sum over R rows of v * (q + 8) for `count` blocks at rows[r] + offset; v_sum += 8 * v, per block {hi, hi,
 * lo, lo}. R is 8 or 16, as a constant. */
KERNEL_INLINE void q4_group_axpy(const int R, int32_t *acc, int32_t *v_sum, const char *const *rows, const uintptr_t *line,
                                 const float *scaled, size_t offset, size_t count, __mmask32 mask)
{
    const struct q4_sums none = { vi_zero(), vi_zero(), vi_zero(), vi_zero() };
    struct q4_sums s0 = none, s1 = none, s2 = none, s3 = none;
    _Alignas(64) int32_t v[Q4_ROWS / 8][16];
    vi sum = _mm512_loadu_si512(v_sum);
    for (int o = 0; o < R / 8; o++) {
        const vi bytes = q4_v(rows + 8 * o, scaled + 8 * o, offset, mask);
        /* Masked, else compilers take the dwords from the register, one shuffle each, where loads broadcast for nothing. */
        _mm512_mask_storeu_epi32(v[o], 0xffffu, bytes);
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(8), bytes);
    }
    _mm512_storeu_si512(v_sum, sum);
    q4_quad_axpy(&s0, &s1, &s2, &s3, rows, line, v[0], offset, count);
    q4_quad_axpy(&s0, &s1, &s2, &s3, rows + 4, line + 4, v[0] + 1, offset, count);
    if (R > 8) {
        q4_quad_axpy(&s0, &s1, &s2, &s3, rows + 8, line + 8, v[1], offset, count);
        q4_quad_axpy(&s0, &s1, &s2, &s3, rows + 12, line + 12, v[1] + 1, offset, count);
    }
    q4_sums_finish(&s0, acc);
    if (count > 1)
        q4_sums_finish(&s1, acc + 32);
    if (count > 2)
        q4_sums_finish(&s2, acc + 64);
    if (count > 3)
        q4_sums_finish(&s3, acc + 96);
}

/* R rows (8 or 16) from position r; those past n_rows repeat the last one with v = 0. */
KERNEL_INLINE void q4_rows_axpy(const int R, int32_t *acc, int32_t *v_sum, const void *w, size_t row_bytes, const uint32_t *rows,
                                const float *h, float inv, size_t r, size_t n_rows, size_t n_blocks, const struct ahead_plan *plan)
{
    const char *row[Q4_ROWS];
    float scaled[Q4_ROWS];
    uintptr_t line[Q4_ROWS];
    const __mmask32 full = q4_mask(n_blocks < Q4_GROUP ? n_blocks : Q4_GROUP); /* not a constant, see q4_v() */
    size_t block = 0;
    for (int i = 0; i < R; i++) {
        const size_t at = r + (size_t)i < n_rows ? r + (size_t)i : n_rows - 1;
        row[i] = row_at(w, row_bytes, rows, at);
        scaled[i] = r + (size_t)i < n_rows ? h[at] * inv : 0.0f;
        line[i] = ahead_of(plan, row[i], w, row_bytes, rows, at, n_rows).far / 64 * 64;
    }
    for (; block + Q4_GROUP <= n_blocks; block += Q4_GROUP) {
        const size_t offset = block * Q4_BYTES;
        /* 72 bytes a row and step, in lines of 64: every eighth step has two. A line left out costs: 16.2 -> 13.4 GB/s, gathered on Zen 4. */
        if (block / Q4_GROUP % 8 == 7)
            for (int i = 0; i < R; i++)
                vf_prefetch(line[i] + offset / 64 * 64 + 64);
        q4_group_axpy(R, acc + 32 * block, v_sum + 4 * block, row, line, scaled, offset, Q4_GROUP, full);
    }
    if (block < n_blocks)
        q4_group_axpy(R, acc + 32 * block, v_sum + 4 * block, row, line, scaled, block * Q4_BYTES, n_blocks - block,
                      q4_mask(n_blocks - block));
}

static void rows_axpy_int_q4_0_avx512_vnni(int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows, const float *h, float inv,
                                           size_t n_rows, size_t n)
{
    const size_t panel = q4_panel_blocks(n / 32);
    for (size_t first = 0, n_blocks = 0; first < n / 32; first += n_blocks) {
        n_blocks = n / 32 - first < panel ? n / 32 - first : panel;
        const char *const from = (const char *)w + first * Q4_BYTES;
        int32_t *const to = acc + 32 * first;
        const struct ahead_plan plan = ahead_plan_of(from, row_bytes, rows, n_rows, n_rows > 8 ? 16 : 8, n_blocks * Q4_BYTES);
        _Alignas(64) int32_t v_sum[4 * Q4_PANEL];
        size_t r = 0;
        memset(v_sum, 0, sizeof v_sum);
        for (; r + 8 < n_rows; r += 16)
            q4_rows_axpy(16, to, v_sum, from, row_bytes, rows, h, inv, r, n_rows, n_blocks, &plan);
        if (r < n_rows)
            q4_rows_axpy(8, to, v_sum, from, row_bytes, rows, h, inv, r, n_rows, n_blocks, &plan);
        for (size_t b = 0; b < n_blocks; b++) {
            const int32_t *s = v_sum + 4 * b;
            const vi sum = vi_set1(-(128 * (s[0] + s[1]) + s[2] + s[3]));
            vi_accumulate(to + 32 * b, sum);
            vi_accumulate(to + 32 * b + 16, sum);
        }
    }
}

#endif /* SFFN_ROWS_AXPY_INT_Q4_0_H */
