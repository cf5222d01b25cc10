/* rows_axpy_int_q4_0_apart.h  Body of rows_axpy_int for apart rows of q4_0, with the sums of rows_axpy_int_q4_0.h: 16 blocks of columns at a time,
 * first their v for all rows, then the quants four blocks at a time.
 *
 * 16 (or 8) rows side by side, each fetching its place in the next ones. Scattered rows of 4096, from memory, 8 instead of 16: 16.8 instead of
 * 21.7 GB/s on Zen 4. Rows that lie together, 8 at a time, while the next ones are fetched in order: no faster there, and x0.85 on Emerald
 * Rapids.
 */
#ifndef SFFN_ROWS_AXPY_INT_Q4_0_APART_H
#define SFFN_ROWS_AXPY_INT_Q4_0_APART_H
#include "kernels/isa/avx512_vnni/rows_axpy_int_q4_0.h"

enum { Q4A_STEP = 16 /* blocks */ };

/* The place of a step in a row. */
struct q4a_step {
    size_t scales, quants, count; /* offsets, blocks */
};

/* hi[k], lo[k]: dword b holds the bytes of v of rows 4k .. 4k + 3 for block b. */
KERNEL_INLINE vi q4a_v(const int R, int32_t hi[][16], int32_t lo[][16], const char *const *row, const float *scaled, const struct q4a_step *at)
{
    const vi turn = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const vi half = _mm512_set1_epi16(64);
    const __mmask16 mask = (__mmask16)(0xffffu >> (Q4A_STEP - at->count));
    vi sum = vi_zero();
    for (int k = 0; k < R / 4; k++) {
        vi v[4];
        for (int i = 0; i < 4; i++) {
            const __m256i scales = _mm256_maskz_loadu_epi16(mask, row[4 * k + i] + at->scales);
            v[i] = vi_from_vf(vf_mul(vf_set1(scaled[4 * k + i]), _mm512_cvtph_ps(scales)));
            sum = vi_add(sum, v[i]);
        }
        const vi v01 = _mm512_packs_epi32(v[0], v[1]), v23 = _mm512_packs_epi32(v[2], v[3]);
        const vi hi01 = _mm512_srai_epi16(_mm512_add_epi16(v01, half), 7), hi23 = _mm512_srai_epi16(_mm512_add_epi16(v23, half), 7);
        const vi lo01 = _mm512_sub_epi16(v01, _mm512_slli_epi16(hi01, 7)), lo23 = _mm512_sub_epi16(v23, _mm512_slli_epi16(hi23, 7));
        /* Masked stores, see q4_group_axpy(). */
        _mm512_mask_storeu_epi32(hi[k], 0xffffu, _mm512_shuffle_epi8(_mm512_packs_epi16(hi01, hi23), turn));
        _mm512_mask_storeu_epi32(lo[k], 0xffffu, _mm512_shuffle_epi8(_mm512_packs_epi16(lo01, lo23), turn));
    }
    return sum;
}

/* 64 bytes: four blocks, or `count` of them. Lane L: dword L of each, so that interleaving rows leaves the columns in their order. */
KERNEL_INLINE vi q4a_quants(const char *p, size_t count)
{
    const vi words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(words, load_words(p, 8 * count));
}

/* Four rows. next: those to fetch. */
KERNEL_INLINE void q4a_quad_axpy(struct q4_sums *s0, struct q4_sums *s1, struct q4_sums *s2, struct q4_sums *s3, const char *const *row,
                                 const uintptr_t *next, const int32_t *hi, const int32_t *lo, size_t quants, size_t count)
{
    const vi q0 = q4a_quants(row[0] + quants, count), q1 = q4a_quants(row[1] + quants, count);
    const vi q2 = q4a_quants(row[2] + quants, count), q3 = q4a_quants(row[3] + quants, count);
    const vi low01 = _mm512_unpacklo_epi8(q0, q1), high01 = _mm512_unpackhi_epi8(q0, q1);
    const vi low23 = _mm512_unpacklo_epi8(q2, q3), high23 = _mm512_unpackhi_epi8(q2, q3);
    for (int i = 0; i < 4; i++)
        vf_prefetch(next[i] + quants);
    q4_sums_add(s0, _mm512_unpacklo_epi16(low01, low23), hi, lo);
    q4_sums_add(s1, _mm512_unpackhi_epi16(low01, low23), hi + 1, lo + 1);
    q4_sums_add(s2, _mm512_unpacklo_epi16(high01, high23), hi + 2, lo + 2);
    q4_sums_add(s3, _mm512_unpackhi_epi16(high01, high23), hi + 3, lo + 3);
}

/* acc += the sums of R rows (8 or 16, a constant) over v * (q + 8) for a step's blocks; v_sum[b] += v. next: the rows to fetch. */
KERNEL_INLINE void q4a_step_axpy(const int R, int32_t *acc, int32_t *v_sum, const char *const *row, const uintptr_t *next,
                                 const float *scaled, const struct q4a_step *at)
{
    const struct q4_sums none = { vi_zero(), vi_zero(), vi_zero(), vi_zero() };
    _Alignas(64) int32_t hi[Q4_ROWS / 4][16], lo[Q4_ROWS / 4][16];
    vi_store(v_sum, vi_add(_mm512_loadu_si512(v_sum), q4a_v(R, hi, lo, row, scaled, at)));
    for (size_t part = 0; part < Q4A_STEP / 4 && 4 * part < at->count; part++) {
        const size_t count = at->count - 4 * part, quants = at->quants + 64 * part;
        struct q4_sums s0 = none, s1 = none, s2 = none, s3 = none;
        /* not a loop: compilers would copy the sums at each turn */
        q4a_quad_axpy(&s0, &s1, &s2, &s3, row, next, hi[0] + 4 * part, lo[0] + 4 * part, quants, count);
        q4a_quad_axpy(&s0, &s1, &s2, &s3, row + 4, next + 4, hi[1] + 4 * part, lo[1] + 4 * part, quants, count);
        if (R > 8) {
            q4a_quad_axpy(&s0, &s1, &s2, &s3, row + 8, next + 8, hi[2] + 4 * part, lo[2] + 4 * part, quants, count);
            q4a_quad_axpy(&s0, &s1, &s2, &s3, row + 12, next + 12, hi[3] + 4 * part, lo[3] + 4 * part, quants, count);
        }
        q4_sums_finish(&s0, acc + 128 * part);
        if (count > 1)
            q4_sums_finish(&s1, acc + 128 * part + 32);
        if (count > 2)
            q4_sums_finish(&s2, acc + 128 * part + 64);
        if (count > 3)
            q4_sums_finish(&s3, acc + 128 * part + 96);
    }
}

/* The whole steps, apart from what surrounds them: inlined there, gcc 12 allots registers that change their time by 15 % with every change of it. */
#define Q4A_WHOLE_STEP(R) \
    KERNEL_OUTLINE void q4a_whole_step_##R(int32_t *acc, int32_t *v_sum, const char *const *row, const uintptr_t *next, \
                                                  const float *scaled, size_t scales, size_t quants) \
    { \
        const struct q4a_step at = { scales, quants, Q4A_STEP }; \
        q4a_step_axpy(R, acc, v_sum, row, next, scaled, &at); \
    }
Q4A_WHOLE_STEP(8)
Q4A_WHOLE_STEP(16)
#undef Q4A_WHOLE_STEP

/* The blocks [first, first + n_blocks) of rows whose quants begin at `quants`. */
struct q4a_panel {
    size_t first, n_blocks, quants;
};

/* R rows from position r; those past n_rows repeat the last one with v = 0. */
KERNEL_INLINE void q4a_rows_axpy(const int R, int32_t *acc, int32_t *v_sum, const void *w, size_t row_bytes,
                                 const uint32_t *rows, const float *h, float inv, size_t r, size_t n_rows, const struct q4a_panel *panel)
{
    const char *row[Q4_ROWS];
    float scaled[Q4_ROWS];
    uintptr_t next[Q4_ROWS];
    for (size_t i = 0; i < (size_t)R; i++) {
        const size_t at = r + i < n_rows ? r + i : n_rows - 1, then = at + (size_t)R < n_rows ? at + (size_t)R : at;
        row[i] = row_at(w, row_bytes, rows, at);
        scaled[i] = r + i < n_rows ? h[at] * inv : 0.0f;
        next[i] = (uintptr_t)row_at(w, row_bytes, rows, then);
    }
    for (size_t block = 0; block < panel->n_blocks; block += Q4A_STEP) {
        const size_t from = panel->first + block, left = panel->n_blocks - block;
        const struct q4a_step at = { 2 * from, panel->quants + 16 * from, left < Q4A_STEP ? left : Q4A_STEP };
        for (int i = 0; block / Q4A_STEP % 2 == 0 && i < R; i++)
            vf_prefetch(next[i] + at.scales); /* a line of them is enough for two steps */
        for (int i = 0; left <= Q4A_STEP && i < R; i++)
            vf_prefetch(next[i] + at.quants + 16 * left - 1); /* which the starts of 64 bytes name only where they are lines */
        if (at.count == Q4A_STEP) {
            if (R == 16)
                q4a_whole_step_16(acc + 32 * block, v_sum + block, row, next, scaled, at.scales, at.quants);
            else
                q4a_whole_step_8(acc + 32 * block, v_sum + block, row, next, scaled, at.scales, at.quants);
        } else {
            q4a_step_axpy(R, acc + 32 * block, v_sum + block, row, next, scaled, &at);
        }
    }
}

/* Fetches the panel of a list's first rows, which nothing was ahead of, in the order in which they are read: without it 133 instead of 127 us
 * for 1178 rows on Zen 4, and x0.93 for short lists of several tokens. */
KERNEL_INLINE void q4a_fetch_first(const void *w, size_t row_bytes, const uint32_t *rows, size_t n_rows, const struct q4a_panel *panel)
{
    const size_t n = n_rows < Q4_ROWS ? n_rows : Q4_ROWS;
    for (size_t block = panel->first; block < panel->first + panel->n_blocks; block += 4) {
        for (size_t r = 0; r < n; r++) {
            const uintptr_t row = (uintptr_t)row_at(w, row_bytes, rows, r);
            if (block % 32 == 0)
                vf_prefetch(row + 2 * block);
            vf_prefetch(row + panel->quants + 16 * block);
        }
    }
}

static void rows_axpy_int_q4_0_apart_avx512_vnni(int32_t *acc, const void *w, size_t row_bytes, const uint32_t *rows, const float *h,
                                                 float inv, size_t n_rows, size_t n)
{
    const size_t total = n / 32, most = q4_panel_blocks(total);
    struct q4a_panel panel = { 0, 0, SFFN_APART_QUANTS(total) };
    for (; panel.first < total; panel.first += panel.n_blocks) {
        _Alignas(64) int32_t v_sum[Q4_PANEL];
        int32_t *const to = acc + 32 * panel.first;
        size_t r = 0;
        panel.n_blocks = total - panel.first < most ? total - panel.first : most;
        memset(v_sum, 0, sizeof v_sum);
        if (rows != NULL)
            q4a_fetch_first(w, row_bytes, rows, n_rows, &panel);
        for (; r + 8 < n_rows; r += 16)
            q4a_rows_axpy(16, to, v_sum, w, row_bytes, rows, h, inv, r, n_rows, &panel);
        if (r < n_rows)
            q4a_rows_axpy(8, to, v_sum, w, row_bytes, rows, h, inv, r, n_rows, &panel);
        for (size_t b = 0; b < panel.n_blocks; b++) {
            const vi sum = vi_set1(-8 * v_sum[b]);
            vi_accumulate(to + 32 * b, sum);
            vi_accumulate(to + 32 * b + 16, sum);
        }
    }
}

#endif /* SFFN_ROWS_AXPY_INT_Q4_0_APART_H */
