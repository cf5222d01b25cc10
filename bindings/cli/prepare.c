/* prepare.c  Converts a model to one GGUF file whose down rows lie neuron by neuron. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "args.h"
#include "cli.h"
#include "json_out.h"
#include "progress.h"

static int32_t on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    progress_update(user, what, done, total);
    return cli_interrupted();
}

static void report(const char *model_path, const char *out_path, const char *dtype,
                   uint64_t bytes_in, double seconds, int json_wanted)
{
    struct stat file;
    uint64_t bytes_out = stat(out_path, &file) == 0 ? (uint64_t)file.st_size : 0;
    if (json_wanted) {
        struct json json;
        json_begin(&json, stdout);
        json_text(&json, "name", "prepare");
        json_text(&json, "model", model_path);
        json_text(&json, "out", out_path);
        json_text(&json, "dtype", dtype);
        json_uint(&json, "bytes_in", bytes_in);
        json_uint(&json, "bytes_out", bytes_out);
        json_number(&json, "seconds", seconds);
        json_end(&json);
    } else {
        char in[32], out[32];
        printf("%s: %s, from %s of %s, %.1f s\n", out_path, cli_bytes_text(bytes_out, out),
               cli_bytes_text(bytes_in, in), model_path, seconds);
    }
}

int cmd_prepare(int argc, char **argv)
{
    const char *model_path = NULL, *out_path = NULL, *dtype = NULL;
    double act_threshold = -1.0;
    int small_embeddings = 0, json_wanted = 0;
    uint32_t n_threads = 0;
    /* clang-format off */
    const struct arg_option options[] = {
        {"--output", 'o', ARG_TEXT, &out_path, "OUT.gguf", "file to write; replaced when it exists", 0, 0},
        {"--dtype", 0, ARG_CHOICE, &dtype, "bf16|q8_0|q4_0|f16|f32", "type of the matrices; without it as they are", 0, 0},
        {"--act-threshold", 0, ARG_NUMBER, &act_threshold, "T", "write FATReLU with this threshold in place of ReLU", 0, 1e30},
        {"--small-embeddings", 0, ARG_FLAG, &small_embeddings, NULL, "bring token embedding and output below q8_0 too", 0, 0},
        {"--threads", 't', ARG_UINT, &n_threads, "N", "0: all CPUs (default)", 0, 512},
        {"--json", 0, ARG_FLAG, &json_wanted, NULL, "one JSON object on standard output", 0, 0},
    };
    const struct arg_spec spec = {"prepare MODEL -o OUT.gguf [OPTION]...",
                                  "Converts a Hugging Face folder, safetensors or GGUF file to one GGUF file that keeps the model's tensors,\n"
                                  "metadata and tokenizer, with the down matrices stored neuron by neuron.",
                                  "MODEL", &model_path, options, sizeof options / sizeof options[0],
                                  "The file is written beside OUT.gguf under another name and renamed at the end: Ctrl-C leaves nothing behind."};
    /* clang-format on */
    sffn_prepare_config config = SFFN_PREPARE_CONFIG_INIT;
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    struct progress progress;
    sffn_context *ctx;
    sffn_model *model;
    sffn_status status;
    uint64_t start_ns = cli_now_ns();
    int parsed = args_parse(&spec, argc, argv);
    if (parsed != ARGS_RUN)
        return parsed == ARGS_HELP ? CLI_OK : CLI_USAGE;
    if (out_path == NULL)
        return args_wrong("-o OUT.gguf is missing");
    cli_catch_interrupt();
    ctx = cli_context(n_threads, NULL);
    model = ctx != NULL ? cli_open_model(ctx, model_path) : NULL;
    if (model == NULL) {
        sffn_context_destroy(ctx);
        return CLI_FAILED;
    }
    sffn_model_get_info(model, &info);
    progress_begin(&progress);
    config.dtype = dtype != NULL ? sffn_dtype_from_name(dtype) : -1;
    config.keep_embeddings = !small_embeddings;
    config.act_threshold = (float)act_threshold;
    config.progress = on_progress;
    config.progress_user = &progress;
    status = sffn_prepare(ctx, model, out_path, &config);
    progress_end(&progress);
    if (status == SFFN_ERR_INTERRUPTED)
        cli_fail("interrupted; '%s' was not written", out_path);
    else if (status != SFFN_OK)
        cli_fail_status(ctx, status, NULL);
    else
        report(model_path, out_path, dtype, info.file_bytes,
               (double)(cli_now_ns() - start_ns) * 1e-9, json_wanted);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    return status == SFFN_OK ? CLI_OK : CLI_FAILED;
}
