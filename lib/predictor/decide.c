/* decide.c  Decisions that need all scores of a token first: where to cut, and the list of what lies above. */
#include "predictor/selector.h"

/* The tokens are shared out: finding one cut is too short to be divided. */
static void find_cuts(const struct sffn_selector *s, const struct sffn_selection *run)
{
    uint32_t *counts = (uint32_t *)(run->scratch.own + run->ith * run->scratch.own_bytes);
    for (size_t t = run->ith; t < run->n_tokens; t += run->nth)
        run->scratch.cuts[t] = sffn_top_k(run->scores + t * run->scores_stride, 0, s->n_rows,
                                          s->top_k, 0, counts, counts + SFFN_TOP_K_COUNTS);
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
            const uint32_t key = sffn_float_key(run->scores[t * run->scores_stride + row]);
            mask |= (unsigned)sffn_cut_keeps(cut, key, row) << t;
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
    return sffn_selector_decides_later(s)
               ? (SFFN_TOP_K_COUNTS + (size_t)s->n_rows) * sizeof(uint32_t)
               : 0;
}
