/* A layer of a model file with everything that selects in it: whatever opens makes a layer that runs, or is refused with a status. So the selectors'
 * keys and tensors are not only read but used: predictors of all kinds, routers, rules, plans, permuted rows. */
#include <math.h>
#include <string.h>

#include "fuzz.h"
#include "model/model.h"
#include "sparseffn/sparseffn.h"

enum { MAX_INPUTS = 4096, MAX_WEIGHTS = 1 << 16, N_TOKENS = 3 };

static int is_expected(sffn_status status)
{
    return status == SFFN_OK || status == SFFN_ERR_FORMAT || status == SFFN_ERR_UNSUPPORTED ||
           status == SFFN_ERR_INVALID_ARGUMENT || status == SFFN_ERR_SHAPE ||
           status == SFFN_ERR_NOT_FOUND;
}

static void run_layer(sffn_context *ctx, const sffn_model *model, uint32_t layer)
{
    static float x[N_TOKENS * MAX_INPUTS], y[N_TOKENS * MAX_INPUTS];
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT, own = SFFN_FFN_CONFIG_INIT;
    sffn_ffn *ffn = NULL;
    sffn_status status = sffn_model_layer_config(model, layer, &config);
    FUZZ_REQUIRE(is_expected(status));
    if (status != SFFN_OK || config.d_model > MAX_INPUTS ||
        (uint64_t)config.d_model * config.d_ff > MAX_WEIGHTS)
        return;
    own.dense_tokens = 0;
    status = sffn_ffn_create_from_model(ctx, model, layer, &own, &ffn);
    FUZZ_REQUIRE(is_expected(status) && (status == SFFN_OK) == (ffn != NULL));
    FUZZ_REQUIRE(status == SFFN_OK || sffn_context_last_error(ctx)[0] != '\0');
    for (size_t i = 0; ffn && i < N_TOKENS * (size_t)config.d_model; i++)
        x[i] = (float)((i * 37 + 11) % 101) / 50 - 1;
    for (int32_t select = SFFN_SELECT_DEFAULT; ffn && select <= SFFN_SELECT_ROUTER; select++) {
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        args.x = x;
        args.y = y;
        args.n_tokens = N_TOKENS;
        args.select = select;
        args.stats = &stats;
        status = sffn_ffn_forward(ctx, ffn, &args);
        FUZZ_REQUIRE(is_expected(status));
        FUZZ_REQUIRE(status != SFFN_OK ||
                     (stats.n_tokens == N_TOKENS && stats.n_active <= stats.n_selected &&
                      stats.n_selected <= (uint64_t)N_TOKENS * config.d_ff));
    }
    sffn_ffn_destroy(ffn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct heap *heap;
    sffn_context *ctx = fuzz_context(&heap);
    sffn_model *model = NULL;
    size_t before;
    if (size > 1 << 16)
        return 0;
    /* Scratch is the context's and grows with the largest layer; what a layer holds must go with it. */
    before = heap->live;
    if (sffn_model_open_memory(ctx, "fuzz", data, size, &model) == SFFN_OK) {
        sffn_model_info info = SFFN_MODEL_INFO_INIT;
        sffn_model_get_info(model, &info);
        for (uint32_t layer = 0; layer < info.n_layers && layer < 2; layer++)
            run_layer(ctx, model, layer);
        sffn_model_close(model);
        model = NULL;
    }
    FUZZ_REQUIRE(heap->live <= before + 64 * ((size_t)1 << 20));
    return 0;
}
