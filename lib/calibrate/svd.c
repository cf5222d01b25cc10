/* svd.c  Low-rank factors of a gate; the work is in matmul/linalg.c. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "calibrate/fit.h"
#include "matmul/linalg.h"
#include "matmul/matmul.h"

sffn_status sffn_decode_weights(sffn_context *ctx, const char *what, const sffn_weights *weights,
                                uint32_t n_rows, uint32_t n_cols, float **out, size_t *bytes)
{
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    struct sffn_pack_plan plan;
    config.n_rows = n_rows;
    config.n_cols = n_cols;
    config.weights = *weights;
    config.dtype = SFFN_F32;
    *out = NULL;
    sffn_status status = sffn_pack_plan(ctx, what, &config, &plan);
    if (status != SFFN_OK)
        return status;
    if (sffn_checked_mul(plan.row_bytes, n_rows, bytes))
        *out = sffn_mem_alloc(ctx, *bytes);
    if (!*out)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "%s: the allocator returned NULL for %u x %u floats", what,
                         (unsigned)n_rows, (unsigned)n_cols);
    status = sffn_pack(ctx, &config, &plan, (uint8_t *)*out, plan.row_bytes);
    for (size_t i = 0; i < (size_t)n_rows * n_cols && status == SFFN_OK; i++)
        if (!isfinite((*out)[i]))
            status = sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                               "%s: weights[%zu][%zu] is %g; expected a finite number", what,
                               i / n_cols, i % n_cols, (double)(*out)[i]);
    if (status != SFFN_OK) {
        sffn_mem_free(ctx, *out, *bytes);
        *out = NULL;
    }
    return status;
}

sffn_status sffn_fit_svd(sffn_context *ctx, const sffn_svd_config *config, float *w1, float *w2,
                         double *captured)
{
    if (!ctx || !w1 || !w2)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         !ctx ? "ctx"
                         : w1 ? "w2"
                              : "w1");
    sffn_svd_config c = SFFN_SVD_CONFIG_INIT;
    size_t bytes = 0;
    float *w = NULL;
    sffn_status status = sffn_config_copy(ctx, "sffn_svd_config", &c, sizeof(c), config);
    if (status == SFFN_OK)
        status = sffn_decode_weights(ctx, "svd", &c.weights, c.n_rows, c.n_cols, &w, &bytes);
    if (status != SFFN_OK)
        return status;
    const struct sffn_low_rank job = {.what = "svd",
                                      .rows = c.n_rows,
                                      .columns = c.n_cols,
                                      .rank = c.rank,
                                      .w = w,
                                      .second_moment = c.second_moment,
                                      .seed = c.seed,
                                      .progress = c.progress,
                                      .progress_user = c.progress_user};
    status = sffn_low_rank_factors(ctx, &job, w1, w2, captured);
    sffn_mem_free(ctx, w, bytes);
    return status;
}
