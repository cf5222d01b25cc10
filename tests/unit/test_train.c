/* train.h */
#include <math.h>

#include "check.h"

/* The published schedules, in accumulated steps. */
static const sffn_prosparse_stage model_7b[] = {{5000, 0.0},   {6000, 5e-3},  {10000, 5e-2},
                                                {12000, 5e-2}, {16000, 2e-1}, {16500, 2e-1}};
static const sffn_prosparse_stage model_13b[] = {{5500, 0.0},   {6750, 5e-3},  {10750, 1e-2},
                                                 {11000, 1e-2}, {15000, 2e-2}, {16000, 2e-2}};
static const sffn_prosparse_stage model_1b[] = {
    {10000, 0.0}, {15000, 1e-3}, {20000, 5e-3}, {25000, 5e-3}, {35000, 5e-2}};

#define STAGES(table) table, sizeof(table) / sizeof((table)[0])

static double at(const sffn_prosparse_stage *stages, size_t n, uint64_t step)
{
    double lambda = -1.0;
    CHECK(sffn_prosparse_lambda(stages, n, step, &lambda) == SFFN_OK);
    return lambda;
}

static void published_values(void **state)
{
    (void)state;
    /* written with at least 9 digits: half a unit of the last is at most 5e-9 of the value */
    static const struct {
        const sffn_prosparse_stage *stages;
        size_t n;
        uint64_t step;
        double lambda;
    } table[] = {
        {STAGES(model_7b), 0, 0.0},
        {STAGES(model_7b), 5000, 0.0},
        {STAGES(model_7b), 5001, 0.005},
        {STAGES(model_7b), 6000, 0.005},
        {STAGES(model_7b), 6001, 0.00500000694},
        {STAGES(model_7b), 7000, 0.0115900974},
        {STAGES(model_7b), 8000, 0.0275},
        {STAGES(model_7b), 9000, 0.0434099026},
        {STAGES(model_7b), 10000, 0.05},
        {STAGES(model_7b), 12000, 0.05},
        {STAGES(model_7b), 13000, 0.0719669914},
        {STAGES(model_7b), 14000, 0.125},
        {STAGES(model_7b), 15000, 0.1780330086},
        {STAGES(model_7b), 16000, 0.2},
        {STAGES(model_7b), 16500, 0.2},
        {STAGES(model_7b), UINT64_MAX, 0.2},
        {STAGES(model_13b), 5501, 0.005},
        {STAGES(model_13b), 6750, 0.005},
        {STAGES(model_13b), 8750, 0.0075},
        {STAGES(model_13b), 10750, 0.01},
        {STAGES(model_13b), 11000, 0.01},
        {STAGES(model_13b), 13000, 0.015},
        {STAGES(model_13b), 15000, 0.02},
        {STAGES(model_13b), 16000, 0.02},
        {STAGES(model_1b), 10001, 0.001},
        {STAGES(model_1b), 15000, 0.001},
        {STAGES(model_1b), 16250, 0.00158578644},
        {STAGES(model_1b), 17500, 0.003},
        {STAGES(model_1b), 20000, 0.005},
        {STAGES(model_1b), 25000, 0.005},
        {STAGES(model_1b), 27500, 0.0115900974},
        {STAGES(model_1b), 30000, 0.0275},
        {STAGES(model_1b), 35000, 0.05},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const double got = at(table[i].stages, table[i].n, table[i].step);
        CHECK_SAYS(fabs(got - table[i].lambda) <= 5e-9 * table[i].lambda,
                   "step %llu: %.12g, expected %.12g", (unsigned long long)table[i].step, got,
                   table[i].lambda);
    }
}

/* The paper's fit of sparsity against the last peak, at the peaks that the schedule ends with. */
static void sparsity_fit(void **state)
{
    (void)state;
    static const struct {
        double peak, percent;
    } fit[] = {{0.2, 88.932}, {0.1, 86.429}, {0.05, 83.985}};
    for (size_t i = 0; i < sizeof fit / sizeof fit[0]; i++) {
        const sffn_prosparse_stage stages[] = {{10, 0.0}, {20, 0.01}, {30, fit[i].peak}};
        const double lambda = at(STAGES(stages), 30);
        CHECK(fabs(100.0 - exp(-1.76 * pow(lambda, 0.30) + 3.49) - fit[i].percent) <= 5e-4);
    }
}

static void shape(void **state)
{
    (void)state;
    double before = 0.0;
    for (uint64_t t = 0; t <= 17000; t++) {
        const double lambda = at(STAGES(model_7b), t);
        CHECK(lambda >= before); /* never falls */
        before = lambda;
    }
    /* point symmetry of a stage; each value has an error of a few units in the last place */
    for (uint64_t k = 0; k <= 4000; k++) {
        const double sum = at(STAGES(model_7b), 12000 + k) + at(STAGES(model_7b), 16000 - k);
        CHECK(fabs(sum - 0.25) <= 1e-15);
    }
    /* one stage, and stage 0 with a factor of its own */
    const sffn_prosparse_stage one[] = {{7, 0.25}};
    CHECK(at(one, 1, 0) == 0.25 && at(one, 1, 7) == 0.25 && at(one, 1, 8) == 0.25);
    /* steps beyond what a double counts exactly */
    const sffn_prosparse_stage late[] = {
        {UINT64_MAX - 3, 0.0}, {UINT64_MAX - 2, 0.5}, {UINT64_MAX, 1.0}};
    CHECK(at(late, 3, UINT64_MAX - 3) == 0.0 && at(late, 3, UINT64_MAX - 2) == 0.5);
    CHECK(fabs(at(late, 3, UINT64_MAX - 1) - 0.75) <= 1e-15 && at(late, 3, UINT64_MAX) == 1.0);
}

static void refused(void **state)
{
    (void)state;
    const sffn_prosparse_stage falls[] = {{1, 0.0}, {2, 0.5}, {3, 0.4}};
    const sffn_prosparse_stage stands[] = {{1, 0.0}, {1, 0.5}};
    const sffn_prosparse_stage back[] = {{5, 0.0}, {4, 0.5}};
    const sffn_prosparse_stage negative[] = {{1, -0.1}};
    const sffn_prosparse_stage endless[] = {{1, 0.0}, {2, INFINITY}};
    const sffn_prosparse_stage none[] = {{1, 0.0}, {2, NAN}};
    double lambda = 42.0;
#define REFUSED(call) CHECK(call == SFFN_ERR_INVALID_ARGUMENT && lambda == 42.0)
    REFUSED(sffn_prosparse_lambda(STAGES(falls), 1, &lambda));
    REFUSED(sffn_prosparse_lambda(STAGES(stands), 1, &lambda));
    REFUSED(sffn_prosparse_lambda(STAGES(back), 1, &lambda));
    REFUSED(sffn_prosparse_lambda(STAGES(negative), 1, &lambda));
    REFUSED(sffn_prosparse_lambda(STAGES(endless), 1, &lambda));
    REFUSED(sffn_prosparse_lambda(STAGES(none), 1, &lambda));
    REFUSED(sffn_prosparse_lambda(NULL, 3, 1, &lambda));
    REFUSED(sffn_prosparse_lambda(model_7b, 0, 1, &lambda));
    CHECK(sffn_prosparse_lambda(STAGES(model_7b), 1, NULL) == SFFN_ERR_INVALID_ARGUMENT);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, published_values);
    CASE(&cases, sparsity_fit);
    CASE(&cases, shape);
    CASE(&cases, refused);
    return cases_run(&cases, "train");
}
