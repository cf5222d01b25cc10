/* status.h and version.h. */
#include <stdio.h>
#include <unistd.h>

#include "check.h"
#include "tiny_gguf.h"

static void names(void **state)
{
    (void)state;
#define NAMED(value)                                                                               \
    {                                                                                              \
        value, #value                                                                              \
    }
    static const struct {
        sffn_status value;
        const char *name;
    } table[] = {
        NAMED(SFFN_OK),
        NAMED(SFFN_ERR_INVALID_ARGUMENT),
        NAMED(SFFN_ERR_SHAPE),
        NAMED(SFFN_ERR_DTYPE),
        NAMED(SFFN_ERR_UNSUPPORTED),
        NAMED(SFFN_ERR_OUT_OF_MEMORY),
        NAMED(SFFN_ERR_THREAD),
        NAMED(SFFN_ERR_BUSY),
        NAMED(SFFN_ERR_NOT_RESERVED),
        NAMED(SFFN_ERR_IO),
        NAMED(SFFN_ERR_FORMAT),
        NAMED(SFFN_ERR_NOT_FOUND),
        NAMED(SFFN_ERR_INTERRUPTED),
        NAMED(SFFN_ERR_INTERNAL),
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        CHECK_TEXT(sffn_status_name(table[i].value), table[i].name);
}

static void values_are_abi(void **state)
{
    (void)state;
    static const int pinned[] = {0, 10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 40, 50};
    static const sffn_status values[] = {SFFN_OK,
                                         SFFN_ERR_INVALID_ARGUMENT,
                                         SFFN_ERR_SHAPE,
                                         SFFN_ERR_DTYPE,
                                         SFFN_ERR_UNSUPPORTED,
                                         SFFN_ERR_OUT_OF_MEMORY,
                                         SFFN_ERR_THREAD,
                                         SFFN_ERR_BUSY,
                                         SFFN_ERR_NOT_RESERVED,
                                         SFFN_ERR_IO,
                                         SFFN_ERR_FORMAT,
                                         SFFN_ERR_NOT_FOUND,
                                         SFFN_ERR_INTERRUPTED,
                                         SFFN_ERR_INTERNAL};
    for (size_t i = 0; i < sizeof pinned / sizeof pinned[0]; i++)
        CHECK((int)values[i] == pinned[i]);
    /* every other value up to 100 is unknown */
    size_t known = 0;
    for (int v = -5; v <= 100; v++)
        known += strcmp(sffn_status_name((sffn_status)v), "SFFN_ERR_UNKNOWN") != 0;
    CHECK(known == sizeof pinned / sizeof pinned[0]);
    CHECK_TEXT(sffn_status_name(SFFN_STATUS_MAX_), "SFFN_ERR_UNKNOWN");
}

static void version(void **state)
{
    (void)state;
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", SFFN_VERSION_MAJOR, SFFN_VERSION_MINOR,
             SFFN_VERSION_PATCH);
    CHECK_TEXT(sffn_version_string(), text);
    CHECK(sffn_version() ==
          SFFN_VERSION_MAJOR * 10000 + SFFN_VERSION_MINOR * 100 + SFFN_VERSION_PATCH);
    CHECK(sffn_abi_version() == SFFN_ABI_VERSION);
}

static int32_t stop(void *user, const char *what, uint64_t done, uint64_t total)
{
    int *calls = user;
    ++*calls;
    return what && done <= total ? 7 : 0;
}

/* The statuses of files and long work, each once; those of threads and contexts are in test_ffn and
 * tests/fault. */
static void statuses_of_files(void **state)
{
    (void)state;
    char path[64], out[80];
    CHECK(tiny_gguf_write(path, 64, 32));
    snprintf(out, sizeof out, "%s.out", path);
    sffn_context *ctx = make_context(1, NULL);
    sffn_model *model = (sffn_model *)(uintptr_t)1, *good = NULL;
    CHECK_ERROR(ctx, sffn_model_open(ctx, "/nonexistent/model.gguf", &model), SFFN_ERR_IO,
                "/nonexistent/model.gguf");
    CHECK(model == NULL);
    model = (sffn_model *)(uintptr_t)1;
    CHECK_ERROR(ctx, sffn_model_open(ctx, "/proc/self/exe", &model), SFFN_ERR_FORMAT,
                "/proc/self/exe");
    CHECK(model == NULL);
    CHECK_ERROR(ctx, sffn_model_open(ctx, NULL, &model), SFFN_ERR_INVALID_ARGUMENT, "path NULL");
    CHECK_OK(ctx, sffn_model_open(ctx, path, &good));
    sffn_tensor_info tensor = SFFN_TENSOR_INFO_INIT;
    int64_t number;
    CHECK_ERROR(ctx, sffn_model_find_tensor(good, "blk.7.nose", &tensor), SFFN_ERR_NOT_FOUND,
                "blk.7.nose");
    CHECK_ERROR(ctx, sffn_model_get_tensor(good, 3, &tensor), SFFN_ERR_NOT_FOUND, "3");
    CHECK_ERROR(ctx, sffn_model_get_int(good, "general.architecture", 0, &number), SFFN_ERR_DTYPE,
                "general.architecture");
    CHECK_ERROR(ctx, sffn_model_get_int(good, "llama.nothing", 0, &number), SFFN_ERR_NOT_FOUND,
                "llama.nothing");
    CHECK_OK(ctx, sffn_model_get_int(good, "llama.feed_forward_length", 0, &number));
    CHECK(number == 32);
    sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
    int calls = 0;
    config.progress = stop;
    config.progress_user = &calls;
    CHECK_ERROR(ctx, sffn_prepare(ctx, good, out, &config), SFFN_ERR_INTERRUPTED, NULL);
    CHECK(calls == 1 && access(out, F_OK) != 0); /* nothing half done is left */
    CHECK_ERROR(ctx, sffn_prepare(ctx, good, "/nonexistent/out.gguf", NULL), SFFN_ERR_IO,
                "/nonexistent");
    sffn_model_close(good);
    sffn_model_close(NULL);
    sffn_context_destroy(ctx);
    unlink(path);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, names);
    CASE(&cases, values_are_abi);
    CASE(&cases, version);
    CASE(&cases, statuses_of_files);
    return cases_run(&cases, "status");
}
