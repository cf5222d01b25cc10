/* decide.c  Decisions that need all scores of a token first: where to cut, and the list of what lies above. */
#include <string.h>

#include "predictor/selector.h"

#define N_BUCKETS 2048

/* Floats in the order of integers; -0 equals 0, and NaN is the largest, so that it is seen. */
static uint32_t key_of(float v)
{
    uint32_t bits;
    if (v != v)
        return UINT32_MAX;
    v += 0.0f; /* -0 becomes 0 */
    memcpy(&bits, &v, sizeof(bits));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The k-th largest key, by the upper 11 bits, the next 11, the last 10. Among equal scores the lowest rows are kept. */
static struct sffn_cut cut_top_k(const float *scores, uint32_t n, uint32_t k, uint32_t *counts)
{
    static const struct {
        unsigned shift, bits;
    } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    struct sffn_cut cut = {0, n};
    uint32_t known = 0; /* the bits of cut.key that are found */
    if (k >= n)
        return cut;
    for (size_t d = 0; d < sizeof(digits) / sizeof(*digits); d++) {
        const uint32_t mask = (1u << digits[d].bits) - 1;
        memset(counts, 0, N_BUCKETS * sizeof(*counts));
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t key = key_of(scores[i]);
            if (((key ^ cut.key) & known) == 0)
                counts[key >> digits[d].shift & mask]++;
        }
        uint32_t bucket = mask;
        while (counts[bucket] < k)
            k -= counts[bucket--];
        cut.key |= bucket << digits[d].shift;
        known |= mask << digits[d].shift;
    }
    for (uint32_t i = 0; i < n; i++)
        if (key_of(scores[i]) == cut.key && --k == 0) {
            cut.last = i;
            break;
        }
    return cut;
}

/* The tokens are shared out: finding one cut is too short to be divided. */
static void find_cuts(const struct sffn_selector *s, const struct sffn_selection *run)
{
    uint32_t *counts = (uint32_t *)(run->scratch.own + run->ith * run->scratch.own_bytes);
    for (size_t t = run->ith; t < run->n_tokens; t += run->nth)
        run->scratch.cuts[t] =
            cut_top_k(run->scores + t * run->scores_stride, s->n_rows, s->top_k, counts);
}

static void keep_above_cuts(const struct sffn_selector *s, const struct sffn_selection *run)
{
    size_t first, last;
    sffn_share(s->n_rows, run->ith, run->nth, &first, &last);
    struct sffn_segment *segment = &run->list->segments[run->ith];
    segment->start = first * run->expand;
    segment->n = 0;
    for (size_t row = first; row < last; row++) {
        unsigned mask = 0;
        for (size_t t = 0; t < run->n_tokens; t++) {
            const struct sffn_cut cut = run->scratch.cuts[t];
            const uint32_t key = key_of(run->scores[t * run->scores_stride + row]);
            mask |= (unsigned)(key > cut.key || (key == cut.key && row <= cut.last)) << t;
        }
        sffn_select_append(run, run->list, segment, (uint32_t)row, mask);
    }
}

int sffn_selector_decides_later(const struct sffn_selector *s)
{
    return s->decision != SFFN_DECIDE_THRESHOLD;
}

void sffn_selector_add_decision(struct sffn_selector *s)
{
    if (!sffn_selector_decides_later(s))
        return;
    sffn_selector_add_step(s, find_cuts);
    sffn_selector_add_step(s, keep_above_cuts);
}

size_t sffn_decide_own_bytes(const struct sffn_selector *s)
{
    return sffn_selector_decides_later(s) ? N_BUCKETS * sizeof(uint32_t) : 0;
}
