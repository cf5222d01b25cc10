/* Whatever opens can be prepared, or is refused with a status; and what was written opens again
 * with as many tensors. The first byte chooses the type and how the embeddings are kept; the
 * rest is the model file. Writes one file under $TMPDIR, /dev/shm or /tmp. */
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "model/model.h"

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
        const sffn_status status = sffn_prepare(ctx, model, path, &config);
        FUZZ_REQUIRE(status != SFFN_ERR_OUT_OF_MEMORY && status != SFFN_ERR_INTERNAL &&
                     status != SFFN_ERR_IO);
        /* A type can grow eightfold (q4_0 to f32), in the chunk and in a tile of floats. */
        FUZZ_REQUIRE(heap->peak - before <= FUZZ_BOUND(size) * 4);
        if (status == SFFN_OK) {
            const sffn_status opened = sffn_model_open(ctx, path, &again);
            if (opened != SFFN_OK)
                fprintf(stderr, "%s\n", sffn_context_last_error(ctx));
            FUZZ_REQUIRE(opened == SFFN_OK && again->parts.n_tensors <= model->parts.n_tensors);
            model_walk(again);
            sffn_model_close(again);
            unlink(path);
        }
        sffn_model_close(model);
    }
    FUZZ_REQUIRE(heap->live == before);
    return 0;
}
