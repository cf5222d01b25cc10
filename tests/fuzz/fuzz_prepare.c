/* Whatever opens can be prepared, or is refused with a status; and what was written opens again
 * with as many tensors. The first byte chooses the type and how the embeddings are kept; the
 * rest is the model file. Writes one file under $TMPDIR, /dev/shm or /tmp. */
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "model/model.h"

/* Every layer gets a plan, a rule with thresholds, a predictor and the reverse order of its neurons. */
static sffn_prepare_layer *make_layers(const sffn_model *model, uint32_t n_layers)
{
    const sffn_prepare_layer init = SFFN_PREPARE_LAYER_INIT;
    const sffn_predictor_config predictor_init = SFFN_PREDICTOR_CONFIG_INIT;
    sffn_prepare_layer *layers = calloc(n_layers, sizeof(*layers));
    for (uint32_t i = 0; i < n_layers; i++) {
        char name[64];
        sffn_tensor_info up = SFFN_TENSOR_INFO_INIT;
        snprintf(name, sizeof(name), "blk.%u.ffn_up.weight", (unsigned)i);
        const size_t n = sffn_model_find_tensor(model, name, &up) == SFFN_OK && up.dims[0] < 65536
                             ? (size_t)up.dims[0]
                             : 1;
        uint32_t *order = calloc(n, sizeof(*order));
        float *thresholds = calloc(n, sizeof(*thresholds));
        sffn_predictor_config *predictor = calloc(1, sizeof(*predictor));
        for (size_t j = 0; j < n; j++)
            order[j] = (uint32_t)(n - 1 - j);
        *predictor = predictor_init;
        predictor->d_ff = (uint32_t)n;
        predictor->d_model = model->info.d_model;
        predictor->thresholds = thresholds;
        layers[i] = init;
        layers[i].plan = SFFN_SELECT_PREDICTOR;
        layers[i].rule = SFFN_RULE_SCORE;
        layers[i].rule_thresholds = thresholds;
        layers[i].permutation = order;
        layers[i].predictor = predictor;
    }
    return layers;
}

static void free_layers(sffn_prepare_layer *layers, uint32_t n_layers)
{
    for (uint32_t i = 0; layers && i < n_layers; i++) {
        free((void *)(uintptr_t)layers[i].permutation);
        free((void *)(uintptr_t)layers[i].rule_thresholds);
        free((void *)(uintptr_t)layers[i].predictor);
    }
    free(layers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path[300];
    struct heap *heap;
    sffn_context *ctx = fuzz_context(&heap);
    const size_t before = heap->live;
    sffn_model *model = NULL, *again = NULL;
    if (size < 1 || size > 1 << 16)
        return 0;
    if (!path[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(path, sizeof(path), "%s/sffn-fuzz-%ld.gguf",
                 base                            ? base
                 : access("/dev/shm", W_OK) == 0 ? "/dev/shm"
                                                 : "/tmp",
                 (long)getpid());
    }
    if (sffn_model_open_memory(ctx, "fuzz", data + 1, size - 1, &model) == SFFN_OK) {
        sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
        config.dtype = data[0] % 6 - 1;
        config.keep_embeddings = data[0] / 6 % 2;
        config.act_threshold = data[0] / 12 % 2 ? 0.5f : -1.0f;
        sffn_prepare_layer *layers = NULL;
        if (data[0] / 24 % 2 && model->info.n_layers <= model->parts.n_tensors) {
            config.layers = layers = make_layers(model, model->info.n_layers);
            config.n_layers = model->info.n_layers;
            config.command = "fuzz";
        }
        const sffn_status status = sffn_prepare(ctx, model, path, &config);
        free_layers(layers, config.n_layers);
        FUZZ_REQUIRE(status != SFFN_ERR_OUT_OF_MEMORY && status != SFFN_ERR_INTERNAL &&
                     status != SFFN_ERR_IO);
        /* A type can grow eightfold (q4_0 to f32), in the chunk and in a tile of floats. */
        FUZZ_REQUIRE(heap->peak - before <= FUZZ_BOUND(size) * 4);
        if (status == SFFN_OK) {
            const sffn_status opened = sffn_model_open(ctx, path, &again);
            if (opened != SFFN_OK)
                fprintf(stderr, "%s\n", sffn_context_last_error(ctx));
            FUZZ_REQUIRE(opened == SFFN_OK &&
                         again->parts.n_tensors <=
                             model->parts.n_tensors + 3 * (size_t)config.n_layers);
            model_walk(again);
            sffn_model_close(again);
            unlink(path);
        }
        sffn_model_close(model);
    }
    FUZZ_REQUIRE(heap->live == before);
    return 0;
}
