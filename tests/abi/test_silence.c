/* The library writes nothing to standard output or standard error, whatever happens; its words go
 * to the log callback and to sffn_context_last_error(). */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "check.h"
#include "layer.h"
#include "threads.h"

static int n_lines, n_bad_lines;

static void log_line(void *user, int32_t level, const char *text)
{
    n_lines++;
    n_bad_lines += user != &n_lines || level < SFFN_LOG_ERROR || level > SFFN_LOG_DEBUG || !text ||
                   strchr(text, '\n') != NULL;
}

/* Good calls and bad ones of every kind. oneDNN runs on one thread: its OpenMP threads would
 * outlive main(), which LeakSanitizer does not survive. */
static void make_noise(uint32_t n_threads, int32_t use_onednn)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    sffn_context *ctx = NULL;
    config.max_isa = "nonsense";
    (void)sffn_context_create(&config, &ctx);
    (void)sffn_context_create(NULL, NULL);
    config.max_isa = NULL;
    config.n_threads = n_threads;
    config.use_onednn = use_onednn;
    config.log = log_line;
    config.log_user = &n_lines;
    if (sffn_context_create(&config, &ctx) != SFFN_OK)
        return;
    struct rng rng = {1};
    struct spec spec = SPEC_INIT(64, 96, SFFN_Q8_0);
    struct layer layer;
    layer_make(&layer, &spec, &rng);
    sffn_ffn *ffn = NULL;
    layer.config.rule = 99;
    (void)sffn_ffn_create(ctx, &layer.config, &ffn);
    layer.config.rule = SFFN_RULE_NONE;
    (void)sffn_ffn_create(ctx, &layer.config, &ffn);
    enum { T = 40 };
    float *x = draw_x(&layer.memory, &rng, T, 64, 0), *y = GUARDED_FLOATS(&layer.memory, T * 64);
    x[0] = NAN;
    x[64] = INFINITY;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = x;
    args.y = y;
    for (int32_t select = -1; select <= 6; select++)
        for (args.n_tokens = 0; args.n_tokens <= T; args.n_tokens += 20) {
            args.select = select;
            (void)sffn_ffn_forward(ctx, ffn, &args);
        }
    sffn_model *model = NULL;
    (void)sffn_model_open(ctx, "/nonexistent/model.gguf", &model);
    (void)sffn_model_open(ctx, "/dev/null", &model);
    (void)sffn_model_open(ctx, "/", &model);
    sffn_model_close(model);
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    layer_free(&layer);
}

static void silence(void **state)
{
    (void)state;
    FILE *file = tmpfile();
    CHECK(file != NULL);
    fflush(NULL);
    int out = dup(1), err = dup(2);
    CHECK(out >= 0 && err >= 0);
    dup2(fileno(file), 1);
    dup2(fileno(file), 2);
    make_noise(3, 0);
    make_noise(1, 1);
    fflush(NULL);
    off_t size = lseek(fileno(file), 0, SEEK_END);
    dup2(out, 1);
    dup2(err, 2);
    close(out);
    close(err);
    char text[256] = "";
    CHECK(pread(fileno(file), text, sizeof text - 1, 0) >= 0);
    CHECK_SAYS(size == 0, "%lld bytes were written: %s", (long long)size, text);
    fclose(file);
    CHECK_SAYS(n_bad_lines == 0, "%d of %d log lines are malformed", n_bad_lines, n_lines);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, silence);
    return cases_run(&cases, "silence");
}
