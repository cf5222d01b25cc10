/* The schedule of ProSparse's L1 factor (arXiv 2402.13516, section 3.2). */
#include "sparseffn/train.h"

#include <math.h>

static int are_in_order(const sffn_prosparse_stage *stages, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!(stages[i].lambda >= 0.0) || isinf(stages[i].lambda))
            return 0;
        if (i > 0 && (stages[i].end_step <= stages[i - 1].end_step ||
                      stages[i].lambda < stages[i - 1].lambda))
            return 0;
    }
    return 1;
}

sffn_status sffn_prosparse_lambda(const sffn_prosparse_stage *stages, size_t n_stages,
                                  uint64_t step, double *lambda)
{
    if (stages == NULL || n_stages == 0 || lambda == NULL || !are_in_order(stages, n_stages))
        return SFFN_ERR_INVALID_ARGUMENT;
    size_t i = 0;
    while (i < n_stages - 1 && step > stages[i].end_step)
        i++;
    const sffn_prosparse_stage *s = &stages[i];
    if (i <= 1 || step >= s->end_step) { /* constant, and exact at the end of each stage */
        *lambda = s->lambda;
        return SFFN_OK;
    }
    const double pi = 3.14159265358979323846;
    const double length = (double)(s->end_step - s[-1].end_step);
    /* (1 - cos(pi u)) / 2 = sin(pi u / 2)^2, which keeps its digits at the flat start */
    const double root = sin(0.5 * pi * ((double)(step - s[-1].end_step) / length));
    *lambda = s[-1].lambda + root * root * (s->lambda - s[-1].lambda);
    return SFFN_OK;
}
