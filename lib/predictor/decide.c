/* decide.c  Decisions that are steps of their own, because they need all scores of a token: where to cut, what lies above, and the
 * weights of what was kept. */
#include <math.h>
#include <string.h>

#include "predictor/selector.h"

#define N_BUCKETS 2048

/* exp(score - max), the unnormalised softmax; NaN has no share, and infinite scores share alike. */
static double softmax_share(float score, float max)
{
    return score == max ? 1.0 : score != score ? 0.0 : exp((double)score - max);
}

static float max_score(const float *scores, uint32_t n)
{
    float max = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        max = scores[i] > max ? scores[i] : max;
    return max;
}

static double softmax_total(const float *scores, uint32_t n, float max)
{
    double total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += softmax_share(scores[i], max);
    return total;
}

/* The largest scores whose softmax shares add up to `target`; the one that crosses it is kept. Like sffn_top_k(), digit by digit of the key
 * and without a sort, but over sums of shares. `sums` holds N_BUCKETS numbers. */
static struct sffn_cut cut_mass(const float *scores, uint32_t n, float max, double target,
                                double *sums)
{
    static const struct {
        unsigned shift, bits;
    } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    struct sffn_cut cut = {0, n};
    uint32_t known = 0; /* the bits of cut.key that are found */
    for (size_t d = 0; d < sizeof(digits) / sizeof(*digits); d++) {
        const uint32_t mask = (1u << digits[d].bits) - 1;
        memset(sums, 0, N_BUCKETS * sizeof(*sums));
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t key = sffn_float_key(scores[i]);
            if (((key ^ cut.key) & known) == 0)
                sums[key >> digits[d].shift & mask] += softmax_share(scores[i], max);
        }
        uint32_t bucket = mask;
        while (bucket > 0 && sums[bucket] < target)
            target -= sums[bucket--];
        cut.key |= bucket << digits[d].shift;
        known |= mask << digits[d].shift;
    }
    for (uint32_t i = 0; i < n && target > 0; i++)
        if (sffn_float_key(scores[i]) == cut.key) {
            target -= softmax_share(scores[i], max);
            cut.end = i + 1;
        }
    return cut;
}

static struct sffn_cut find_cut(const struct sffn_selector *s, const float *scores, uint8_t *own)
{
    const uint32_t n = s->n_rows / s->n_groups;
    const struct sffn_cut all = {0, n};
    if (s->rule == SFFN_SELECT_TOP_K) {
        uint32_t *counts = (uint32_t *)own;
        return sffn_top_k(scores, 0, n, s->top_k, 0, counts, counts + SFFN_TOP_K_COUNTS);
    }
    const float max = max_score(scores, n);
    const double total = softmax_total(scores, n, max);
    /* Without a single number to compare there is nothing to drop. */
    return s->mass < 1 && total > 0 ? cut_mass(scores, n, max, s->mass * total, (double *)own)
                                    : all;
}

/* Tokens and groups are shared out: finding one cut is too short to be divided. */
static void find_cuts(const struct sffn_selector *s, const struct sffn_selection *run)
{
    uint8_t *own = run->scratch.own + run->ith * run->scratch.own_bytes;
    const size_t n = s->n_rows / s->n_groups;
    for (size_t i = run->ith; i < run->n_tokens * s->n_groups; i += run->nth) {
        const float *scores =
            run->scores + i / s->n_groups * run->scores_stride + i % s->n_groups * n;
        run->scratch.cuts[i] = find_cut(s, scores, own);
    }
}

/* Row `first` + i of the group that begins at row `first`. */
static int is_kept(const struct sffn_selector *s, const struct sffn_selection *run, size_t t,
                   uint32_t group, size_t first, size_t i)
{
    const float score = run->scores[t * run->scores_stride + first + i];
    if (s->rule == SFFN_SELECT_THRESHOLD)
        return sffn_score_passes(&s->scorer, first + i, score, 0);
    return sffn_cut_keeps(run->scratch.cuts[t * s->n_groups + group], sffn_float_key(score), i);
}

/* The weights of one token's experts: 0 for those that were not kept. Routers have one group. */
static void weigh(const struct sffn_selector *s, const struct sffn_selection *run, size_t t)
{
    const float *scores = run->scores + t * run->scores_stride;
    float *weights = run->scratch.weights + t * s->n_rows;
    float max = -INFINITY;
    double total = 0;
    if (s->weighting == SFFN_WEIGHTING_SOFTMAX) {
        max = max_score(scores, s->n_rows);
        total = softmax_total(scores, s->n_rows, max);
    } else if (s->weighting == SFFN_WEIGHTING_SOFTMAX_SELECTED) {
        for (uint32_t e = 0; e < s->n_rows; e++)
            if (is_kept(s, run, t, 0, 0, e) && scores[e] > max)
                max = scores[e];
        for (uint32_t e = 0; e < s->n_rows; e++)
            if (is_kept(s, run, t, 0, 0, e))
                total += softmax_share(scores[e], max);
    }
    for (uint32_t e = 0; e < s->n_rows; e++) {
        if (!is_kept(s, run, t, 0, 0, e))
            weights[e] = 0;
        else if (scores[e] != scores[e])
            weights[e] = scores[e];
        else if (s->weighting == SFFN_WEIGHTING_SIGMOID)
            weights[e] = (float)(1 / (1 + exp(-(double)scores[e])));
        else
            weights[e] = (float)(softmax_share(scores[e], max) / total);
    }
}

static void keep(const struct sffn_selector *s, const struct sffn_selection *run)
{
    size_t first, last;
    sffn_share(s->n_rows, run->ith, run->nth, &first, &last);
    struct sffn_segment *segment = &run->list->segments[run->ith];
    segment->start = first * run->expand;
    segment->n = 0;
    const size_t n = s->n_rows / s->n_groups;
    for (uint32_t group = (uint32_t)(first / n); group * n < last; group++) {
        const size_t begin = group * n, end = begin + n < last ? begin + n : last;
        for (size_t row = begin > first ? begin : first; row < end; row++) {
            unsigned mask = 0;
            for (size_t t = 0; t < run->n_tokens; t++)
                mask |= (unsigned)is_kept(s, run, t, group, begin, row - begin) << t;
            sffn_select_append(run, run->list, segment, (uint32_t)row, mask);
        }
    }
    for (size_t t = run->ith; s->weighting && t < run->n_tokens; t += run->nth)
        weigh(s, run, t);
}

void sffn_selector_add_decision(struct sffn_selector *s)
{
    if (!s->decides_later)
        return;
    if (s->rule != SFFN_SELECT_THRESHOLD)
        sffn_selector_add_step(s, find_cuts);
    sffn_selector_add_step(s, keep);
}

size_t sffn_decide_own_bytes(const struct sffn_selector *s)
{
    switch (s->rule) {
    case SFFN_SELECT_TOP_K:
        return (SFFN_TOP_K_COUNTS + (size_t)(s->n_rows / s->n_groups)) * sizeof(uint32_t);
    case SFFN_SELECT_MASS:
        return N_BUCKETS * sizeof(double);
    case SFFN_SELECT_THRESHOLD:
        break;
    }
    return 0;
}
