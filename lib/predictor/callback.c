/* The caller makes the scores; the library decides. */
#include <math.h>

#include "base/context.h"
#include "predictor/predictor.h"

static void call(const struct sffn_selector *s, const struct sffn_selection *run)
{
    for (size_t t = 0; run->ith == 0 && t < run->n_tokens; t++) {
        float *scores = run->scores + t * run->scores_stride;
        for (uint32_t i = 0; i < s->n_rows; i++)
            scores[i] = NAN; /* what is not written is not judged */
        s->callback(s->callback_user, run->x + t * run->x_stride, s->n_inputs, scores, s->n_rows);
    }
}

sffn_status sffn_callback_init(sffn_context *ctx, struct sffn_predictor *p,
                               const sffn_predictor_config *c)
{
    if (!c->callback)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "predictor: callback is NULL");
    p->selector.callback = c->callback;
    p->selector.callback_user = c->callback_user;
    p->selector.decides_later = 1;
    sffn_selector_add_step(&p->selector, call);
    return SFFN_OK;
}
