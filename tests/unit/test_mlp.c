/* mlp.h: the loss of methods 14.12, and gradients against differences in float64. */
#include <math.h>

#include "calibrate/mlp.h"
#include "check.h"

static sffn_context *ctx;

/* 100 outputs, 10 positive, all logits 0: q = 0.1, the mean loss is ln 2 (0.1 + 0.9 * 0.105). */
static void loss_of_deja_vu(void **state)
{
    (void)state;
    const struct sffn_mlp mlp = {1, 0, 100, SFFN_HIDDEN_NONE, 0};
    float params[100] = {0}, x[1] = {1}, y[100] = {0}, scratch[200], gradient[100];
    double row_loss[1], loss;
    for (int i = 0; i < 10; i++)
        y[7 * i] = 1;
    CHECK_OK(ctx,
             sffn_mlp_gradient(ctx, &mlp, params, x, y, 1, 1, scratch, row_loss, gradient, &loss));
    CHECK_WITHIN(loss, 0.1348171, 1e-6 * 0.1348171, "weighted");
    for (int i = 0; i < 100; i++) /* w (1/2 - y) */
        CHECK_WITHIN((double)gradient[i], y[i] > 0 ? -0.5 : 0.105 / 2, 1e-7, "gradient %d", i);
    CHECK_OK(ctx,
             sffn_mlp_gradient(ctx, &mlp, params, x, y, 1, 0, scratch, row_loss, gradient, &loss));
    CHECK_WITHIN(loss, 0.69314718056, 1e-6, "plain");
}

enum { IN = 5, HIDDEN = 4, OUT = 6, N = 7 };

/* n_out times the mean loss, in double. */
static double loss_of(const struct sffn_mlp *m, const double *params, const float *x,
                      const float *y, int is_weighted)
{
    const struct sffn_mlp_parts p = sffn_mlp_parts(m);
    double mean = 0, loss = 0;
    for (int i = 0; i < N * OUT; i++)
        mean += (double)y[i] / (N * OUT);
    const double weight = is_weighted ? mean + 0.005 : 1;
    for (size_t t = 0; t < N; t++) {
        double inner[IN > HIDDEN ? IN : HIDDEN];
        const size_t n_inner = m->n_hidden ? m->n_hidden : IN;
        for (size_t i = 0; i < n_inner; i++) {
            inner[i] = m->n_hidden ? 0 : (double)x[t * IN + i];
            for (size_t j = 0; m->n_hidden && j < IN; j++)
                inner[i] += params[p.w1 + i * IN + j] * (double)x[t * IN + j];
            if (m->n_hidden && m->has_bias)
                inner[i] += params[p.b1 + i];
            if (m->hidden_activation == SFFN_HIDDEN_RELU && m->n_hidden && inner[i] < 0)
                inner[i] = 0;
            if (m->hidden_activation == SFFN_HIDDEN_TANH && m->n_hidden)
                inner[i] = tanh(inner[i]);
        }
        for (size_t k = 0; k < OUT; k++) {
            double z = m->has_bias ? params[p.b2 + k] : 0;
            const double label = (double)y[t * OUT + k];
            for (size_t i = 0; i < n_inner; i++)
                z += params[p.w2 + k * n_inner + i] * inner[i];
            const double w = label * (1 - weight) + weight;
            loss += w * (log1p(exp(z)) - z * label) / N;
        }
    }
    return loss;
}

static void gradients(void **state)
{
    (void)state;
    for (int variant = 0; variant < 16; variant++) {
        const int32_t hidden[] = {SFFN_HIDDEN_NONE, SFFN_HIDDEN_RELU, SFFN_HIDDEN_TANH,
                                  SFFN_HIDDEN_NONE};
        const struct sffn_mlp m = {IN, variant % 4 == 3 ? 0 : HIDDEN, OUT, hidden[variant % 4],
                                   variant / 4 % 2};
        const struct sffn_mlp_parts p = sffn_mlp_parts(&m);
        struct rng rng = rng_named("mlp");
        float params[100], gradient[100], x[N * IN], y[N * OUT], scratch[N * 30];
        double exact[100], row_loss[N], loss;
        CHECK(p.total <= 100 && sffn_mlp_scratch_floats(&m, N) <= N * 30);
        for (size_t i = 0; i < p.total; i++)
            exact[i] = (double)(params[i] = rng_normal(&rng));
        for (int i = 0; i < N * IN; i++)
            x[i] = rng_normal(&rng);
        for (int i = 0; i < N * OUT; i++) /* soft labels in every second variant */
            y[i] = variant < 8 ? (float)(rng_uniform(&rng) < 0.3) : (float)rng_uniform(&rng);
        CHECK_OK(ctx, sffn_mlp_gradient(ctx, &m, params, x, y, N, variant < 8, scratch, row_loss,
                                        gradient, &loss));
        CHECK_WITHIN(loss * OUT, loss_of(&m, exact, x, y, variant < 8), 1e-5, "loss %d", variant);
        for (size_t i = 0; i < p.total; i++) {
            const double step = 1e-5, at = exact[i];
            exact[i] = at + step;
            const double above = loss_of(&m, exact, x, y, variant < 8);
            exact[i] = at - step;
            const double below = loss_of(&m, exact, x, y, variant < 8);
            exact[i] = at;
            /* float sums of a few dozen numbers of size 1; the difference is good to 1e-9 */
            CHECK_WITHIN((double)gradient[i], (above - below) / (2 * step), 2e-6,
                         "variant %d parameter %zu", variant, i);
        }
    }
}

int main(void)
{
    struct cases cases = {0};
    ctx = make_context(2, NULL);
    CASE(&cases, loss_of_deja_vu);
    CASE(&cases, gradients);
    const int failed = cases_run(&cases, "mlp");
    sffn_context_destroy(ctx);
    return failed;
}
