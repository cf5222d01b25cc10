/* peer_torch.c  The layer through PyTorch, in another process: bench/peer_torch.py. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "peer.h"

struct run {
    pid_t process;
    FILE *to, *from;
    char folder[64], weights[96], y_path[96];
    size_t n_y;
    float *y;
};

/* The helper lies in the source tree beside the build folder, or with the installed program. */
static int find_helper(char *path, size_t size)
{
    static const char *const places[] = {"../../bench/peer_torch.py",
                                         "../share/sparseffn/peer_torch.py"};
    char program[512];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(program, '/');
    for (size_t i = 0; slash && i < sizeof places / sizeof places[0]; i++) {
        snprintf(path, size, "%.*s/%s", (int)(slash - program), program, places[i]);
        if (access(path, R_OK) == 0)
            return 1;
    }
    return 0;
}

static int write_weights(const struct run *r, const struct peer_layer *of)
{
    const size_t matrix = (size_t)of->layer->d_ff * of->layer->d_model,
                 n_x = of->n_tokens * of->layer->d_model;
    FILE *f = fopen(r->weights, "wbe");
    int ok = f != NULL;
    for (int m = 0; m < 3 && ok; m++) {
        float *plain = layer_decode(of->layer, (enum layer_matrix)m);
        ok = plain && fwrite(plain, sizeof *plain, matrix, f) == matrix;
        free(plain);
    }
    ok = ok && fwrite(of->x, sizeof *of->x, n_x, f) == n_x;
    if (f)
        ok = fclose(f) == 0 && ok;
    return ok;
}

static int start(struct run *r, char *const *argv)
{
    int down[2], up[2];
    if (pipe(down) != 0)
        return 0;
    if (pipe(up) != 0) {
        close(down[0]);
        close(down[1]);
        return 0;
    }
    signal(SIGPIPE, SIG_IGN); /* a helper that dies is an error that is reported */
    r->process = fork();
    if (r->process == 0) {
        dup2(down[0], STDIN_FILENO);
        dup2(up[1], STDOUT_FILENO);
        for (int i = 0; i < 2; i++) {
            close(down[i]);
            close(up[i]);
        }
        execvp(argv[0], argv);
        _exit(127);
    }
    close(down[0]);
    close(up[1]);
    r->to = fdopen(down[1], "w");
    r->from = fdopen(up[0], "r");
    return r->process > 0 && r->to && r->from;
}

/* Its line of times, of any length. */
static int read_round(struct peer *peer, size_t n_calls, double seconds, struct samples *samples)
{
    struct run *r = peer->state;
    double ns;
    int end = ' ';
    fprintf(r->to, "round %zu %.3f\n", n_calls, seconds);
    if (fflush(r->to) != 0)
        return 0;
    while (end != '\n') {
        if (fscanf(r->from, "%lf", &ns) != 1)
            return 0;
        samples_add(samples, ns);
        end = fgetc(r->from);
    }
    return 1;
}

static const float *result(struct peer *peer)
{
    struct run *r = peer->state;
    char answer[16] = "";
    memset(r->y, 0, r->n_y * sizeof *r->y);
    fprintf(r->to, "result %s\n", r->y_path);
    fflush(r->to);
    if (!fgets(answer, sizeof answer, r->from))
        return r->y;
    FILE *f = fopen(r->y_path, "rbe");
    if (f) {
        if (fread(r->y, sizeof *r->y, r->n_y, f) != r->n_y)
            memset(r->y, 0, r->n_y * sizeof *r->y); /* shows as an error of 1 */
        fclose(f);
    }
    return r->y;
}

static void close_run(struct peer *peer)
{
    struct run *r = peer->state;
    if (r->to)
        fclose(r->to); /* the end of its input ends it */
    if (r->from)
        fclose(r->from);
    if (r->process > 0)
        waitpid(r->process, NULL, 0);
    unlink(r->weights);
    unlink(r->y_path);
    rmdir(r->folder);
    free(r->y);
    free(r);
}

int peer_torch_open(struct peer *peer, const struct peer_layer *of, const char *dtype)
{
    char helper[640], numbers[5][24], answer[128] = "";
    const uint64_t bytes =
        (uint64_t)3 * of->layer->d_ff * of->layer->d_model * (strcmp(dtype, "f32") == 0 ? 4u : 2u);
    struct run *r = calloc(1, sizeof *r);
    peer->state = r;
    if (!r || !of->python || !find_helper(helper, sizeof helper)) {
        snprintf(peer->how, sizeof peer->how,
                 of->python ? "bench/peer_torch.py is not found" : "not asked for (--python)");
        free(r);
        return 0;
    }
    peer->weight_bytes = bytes;
    peer->n_copies = peer_copies(of, bytes);
    peer->round = read_round;
    peer->result = result;
    peer->close = close_run;
    r->n_y = of->n_tokens * of->layer->d_model;
    r->y = malloc(r->n_y * sizeof *r->y);
    snprintf(r->folder, sizeof r->folder, "/tmp/sffn-bench-XXXXXX");
    snprintf(peer->how, sizeof peer->how, "no memory, or no room in /tmp");
    if (!r->y || peer->n_copies == 0 || !mkdtemp(r->folder)) {
        free(r->y);
        free(r);
        return 0;
    }
    snprintf(r->weights, sizeof r->weights, "%s/weights", r->folder);
    snprintf(r->y_path, sizeof r->y_path, "%s/y", r->folder);
    const uint64_t values[5] = {of->n_threads, of->layer->d_model, of->layer->d_ff, of->n_tokens,
                                peer->n_copies};
    for (int i = 0; i < 5; i++)
        snprintf(numbers[i], sizeof numbers[i], "%llu", (unsigned long long)values[i]);
    const char *const argv[] = {of->python, helper,     dtype,      numbers[0], numbers[1],
                                numbers[2], numbers[3], numbers[4], r->weights, NULL};
    char *words[sizeof argv / sizeof argv[0]];
    memcpy(words, argv, sizeof argv); /* execvp() changes none of them */
    int ok = write_weights(r, of) && start(r, words);
    if (ok && (!fgets(answer, sizeof answer, r->from) || strncmp(answer, "ready ", 6) != 0)) {
        snprintf(peer->how, sizeof peer->how, "%s has no torch, or it failed", of->python);
        ok = 0;
    }
    if (!ok) {
        close_run(peer);
        return 0;
    }
    snprintf(peer->version, sizeof peer->version, "%.*s", (int)strcspn(answer + 6, "\n"),
             answer + 6);
    snprintf(peer->how, sizeof peer->how, "torch.nn.functional.linear, another process");
    return 1;
}
