#include "collect.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "progress.h"

static const char state_name[] = "collected.txt"; /* windows done, rows kept, "done" */

struct collect {
    struct llama *llama;
    FILE **files; /* per layer, then per layer for the selectors' input when that is kept */
    uint32_t n_files;
    const uint8_t *is_kept; /* of the tokens in llama_eval() now */
    size_t position;        /* of the batch's first token in is_kept */
    int error;
};

static void layer_name(uint32_t layer, int is_select, char out[40])
{
    snprintf(out, 40, "%s-%u.f32", is_select ? "select-inputs" : "inputs", (unsigned)layer);
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static sffn_status on_ffn(void *user, uint32_t layer, const sffn_ffn_args *args)
{
    struct collect *c = user;
    uint32_t d = c->llama->info.d_model, n_layers = c->llama->info.n_layers;
    for (size_t t = 0; t < args->n_tokens; t++)
        if (c->is_kept[c->position + t] &&
            (fwrite(args->x + t * d, sizeof(float) * d, 1, c->files[layer]) != 1 ||
             (c->n_files > n_layers && fwrite(args->select_x + t * d, sizeof(float) * d, 1,
                                              c->files[n_layers + layer]) != 1)))
            c->error = errno;
    if (layer + 1 == n_layers)
        c->position += args->n_tokens;
    return c->error != 0 ? SFFN_ERR_INTERRUPTED : SFFN_OK;
}

static int write_state(const struct work *work, size_t windows, size_t rows, int is_done)
{
    char text[64];
    snprintf(text, sizeof text, "%zu %zu %s\n", windows, rows, is_done ? "done" : "more");
    return work_write(work, state_name, text, strlen(text));
}

static int read_state(const struct work *work, size_t *windows, size_t *rows)
{
    size_t bytes = 0;
    char *text = work_read(work, state_name, &bytes), word[8] = "";
    *windows = *rows = 0;
    if (text != NULL && sscanf(text, "%zu %zu %7s", windows, rows, word) != 3)
        *windows = *rows = 0;
    free(text);
    return strcmp(word, "done") == 0;
}

/* Opens the files of all layers and cuts what was written after the state. */
static int open_files(struct collect *c, const struct work *work, size_t rows)
{
    for (uint32_t i = 0; i < c->n_files; i++) {
        uint32_t n_layers = c->llama->info.n_layers;
        char name[40], *path;
        off_t bytes = (off_t)(rows * c->llama->info.d_model * sizeof(float));
        int failed;
        layer_name(i % n_layers, i >= n_layers, name);
        path = work_path(work, name);
        c->files[i] = fopen(path, rows != 0 ? "r+b" : "w+b");
        failed = c->files[i] == NULL || ftruncate(fileno(c->files[i]), bytes) != 0 ||
                 fseek(c->files[i], 0, SEEK_END) != 0;
        if (failed)
            cli_fail("cannot write '%s': %s", path, strerror(errno));
        free(path);
        if (failed)
            return CLI_FAILED;
    }
    return CLI_OK;
}

static int flush_files(const struct collect *c)
{
    for (uint32_t i = 0; i < c->n_files; i++)
        if (fflush(c->files[i]) != 0 || fsync(fileno(c->files[i])) != 0)
            return cli_fail("cannot write the inputs of layer %u: %s",
                            (unsigned)(i % c->llama->info.n_layers), strerror(errno));
    return CLI_OK;
}

static int run_windows(struct collect *c, const struct work *work, const struct collect_options *o,
                       size_t windows_done, size_t rows)
{
    size_t extra = o->bos >= 0 ? 1 : 0, per_window = o->window - extra;
    size_t n_windows = (o->n_tokens + per_window - 1) / per_window;
    uint64_t state = o->seed, total = o->n_tokens + n_windows * extra, seen = 0,
             wanted = o->n_samples;
    uint64_t last_flush_ns = cli_now_ns();
    uint8_t *is_kept = cli_alloc(o->window, 1);
    int32_t *input = cli_alloc(o->window, sizeof *input);
    struct progress progress;
    int status = CLI_OK;
    c->is_kept = is_kept;
    progress_begin(&progress);
    for (size_t w = 0; status == CLI_OK && w < n_windows; w++) {
        size_t begin = w * per_window, length = 0, kept = 0;
        size_t taken = o->n_tokens - begin < per_window ? o->n_tokens - begin : per_window;
        if (extra)
            input[length++] = o->bos;
        memcpy(input + length, o->tokens + begin, taken * sizeof *input);
        length += taken;
        /* Each token is taken with probability wanted / left: exactly n_samples in the end, uniformly. */
        for (size_t t = 0; t < length; t++, seen++) {
            is_kept[t] = next_random(&state) % (total - seen) < wanted;
            wanted -= is_kept[t];
            kept += is_kept[t];
        }
        if (w < windows_done)
            continue;
        c->position = 0;
        if (kept != 0) {
            llama_reset(c->llama);
            status = llama_eval(c->llama, input, length, 0, NULL);
        }
        if (c->error != 0)
            status = cli_fail("cannot write the layers' inputs: %s", strerror(c->error));
        rows += kept;
        progress_update(&progress, "collecting activations", begin + taken, o->n_tokens);
        if (status == CLI_OK && (cli_interrupted() || w + 1 == n_windows ||
                                 cli_now_ns() - last_flush_ns > 2000000000u)) {
            status = flush_files(c);
            if (status == CLI_OK)
                status = write_state(work, w + 1, rows, w + 1 == n_windows);
            last_flush_ns = cli_now_ns();
        }
        if (status == CLI_OK && cli_interrupted())
            status = CLI_FAILED;
    }
    progress_end(&progress);
    free(is_kept);
    free(input);
    return status;
}

int collect_inputs(struct llama *m, const struct work *work, const struct collect_options *options)
{
    struct collect c = {m, NULL, m->info.n_layers, NULL, 0, 0};
    int32_t *own_inputs; /* of the layers, put back at the end */
    size_t windows, rows;
    int status;
    if (read_state(work, &windows, &rows))
        return CLI_OK;
    if (options->select_input != SFFN_INPUT_FFN)
        c.n_files *= 2;
    own_inputs = cli_alloc(m->info.n_layers, sizeof *own_inputs);
    for (uint32_t i = 0; i < m->info.n_layers; i++) {
        own_inputs[i] = m->layers[i].select_input;
        m->layers[i].select_input = options->select_input;
    }
    c.files = cli_alloc(c.n_files, sizeof *c.files);
    status = open_files(&c, work, rows);
    m->select = SFFN_SELECT_DENSE;
    m->on_ffn = on_ffn;
    m->on_ffn_user = &c;
    if (status == CLI_OK)
        status = run_windows(&c, work, options, windows, rows);
    m->on_ffn = NULL;
    for (uint32_t i = 0; i < c.n_files; i++)
        if (c.files[i] != NULL)
            fclose(c.files[i]);
    for (uint32_t i = 0; i < m->info.n_layers; i++)
        m->layers[i].select_input = own_inputs[i];
    free(own_inputs);
    free(c.files);
    return status;
}

float *collect_read(const struct work *work, uint32_t layer, int is_select, uint32_t d_model,
                    size_t *n)
{
    char name[40];
    size_t bytes = 0, row = d_model * sizeof(float);
    float *x;
    layer_name(layer, is_select, name);
    x = (float *)(void *)work_read(work, name, &bytes);
    if (x == NULL || bytes == 0 || bytes % row != 0) {
        cli_fail(
            "'%s/%s' has %zu bytes, expected a multiple of %zu; remove the folder and start again",
            work->folder, name, bytes, row);
        free(x);
        return NULL;
    }
    *n = bytes / row;
    return x;
}
