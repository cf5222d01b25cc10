/* 05_input_sparsity.c  Any linear layer, y = W x, reading only the weights of the inputs that matter.
 *
 * TEAL (arXiv:2408.14690) drops inputs below a threshold, Q-Sparse (arXiv:2407.10969) keeps the k largest. Both before any product: an input that is
 * dropped saves its column of W. So W is packed with inputs as rows, and y is the sum of x_j times row j.
 */
#include "example.h"

enum { N_IN = 1024, N_OUT = 768 };

int main(void)
{
    sffn_context *ctx;
    must(NULL, sffn_context_create(NULL, &ctx));
    float *weights = random_floats(N_OUT * N_IN, 1.0f / sqrtf(N_IN)), x[N_IN], y[N_OUT],
          dense[N_OUT];
    float *uniform =
        random_floats(8 * N_IN, 1.0f / sqrtf(8)); /* sums of eight are as good as normal */
    for (int j = 0; j < N_IN; j++) {
        x[j] = 0;
        for (int i = 0; i < 8; i++)
            x[j] += uniform[8 * j + i];
    }

    /* W as frameworks store it, [n_out][n_in], is the transposed matrix by columns: the library turns it while it packs. */
    sffn_matmul *linear;
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    config.n_rows = N_IN;
    config.n_cols = N_OUT;
    config.weights.data = weights;
    config.weights.layout = SFFN_LAYOUT_COLUMNS;
    must(ctx, sffn_matmul_create(ctx, &config, &linear));
    must(ctx, sffn_matmul_rows_axpy(ctx, linear, x, N_IN, 1, NULL, dense, N_OUT));

    sffn_active_set *active;
    sffn_active_set_config set_config = SFFN_ACTIVE_SET_CONFIG_INIT;
    set_config.n_blocks = N_IN;
    must(ctx, sffn_active_set_create(ctx, &set_config, &active));
    must(ctx, sffn_active_set_clear(active, 1));

    /* Half of the inputs by each rule. TEAL takes its threshold from calibration data; these inputs are N(0, 1), and the quantile is known. */
    sffn_value_rule rules[3] = {SFFN_VALUE_RULE_INIT, SFFN_VALUE_RULE_INIT, SFFN_VALUE_RULE_INIT};
    const char *const names[3] = {"TEAL, |x| > t", "Q-Sparse, top 512", "Block Q-Sparse, 8 of 16"};
    rules[0].kind = SFFN_VALUE_ABS_ABOVE;
    rules[0].threshold = (float)sffn_normal_quantile(0.5 + 0.5 / 2);
    rules[1].kind = SFFN_VALUE_TOP_K;
    rules[1].k = N_IN / 2;
    rules[2].kind = SFFN_VALUE_BLOCK_TOP_K;
    rules[2].k = 8;
    rules[2].m = 16;
    int is_right = 1;
    for (int r = 0; r < 3; r++) {
        must(ctx, sffn_active_set_set_values(active, 0, x, N_IN, &rules[r]));
        must(ctx, sffn_matmul_rows_axpy(ctx, linear, x, N_IN, 1, active, y, N_OUT));
        /* The same in double, over the inputs kept. A float sum of n terms is wrong by n * 2^-24 of their magnitudes at most. */
        for (int i = 0; i < N_OUT; i++) {
            double sum = 0, magnitude = 0;
            for (uint32_t j = 0; j < N_IN; j++) {
                if (sffn_active_set_contains(active, 0, j)) {
                    sum += (double)weights[i * N_IN + j] * x[j];
                    magnitude += fabs((double)weights[i * N_IN + j] * x[j]);
                }
            }
            is_right &= fabs(y[i] - sum) <= N_IN * 0x1p-24 * magnitude;
        }
        const size_t n_kept = sffn_active_set_count(active, 0);
        printf("%-24s %zu of %d inputs, relative error of y %.3f\n", names[r], n_kept, N_IN,
               relative_difference(y, dense, N_OUT));
        is_right &= r == 0 ? n_kept > N_IN * 0.45 && n_kept < N_IN * 0.55 : n_kept == N_IN / 2;
    }
    sffn_active_set_destroy(active);
    sffn_matmul_destroy(linear);
    sffn_context_destroy(ctx);
    free(weights), free(uniform);
    return is_right ? 0 : 1;
}
