#include "peer.h"

#include <dlfcn.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

#define MAX_COPIES 2048u /* of tiny layers */

size_t peer_copies(const struct peer_layer *of, uint64_t bytes)
{
    uint64_t wanted = of->cold_bytes > bytes ? (of->cold_bytes + bytes - 1) / bytes : 1;
    wanted = wanted < MAX_COPIES ? wanted : MAX_COPIES;
    const uint64_t possible = of->most_bytes / bytes;
    if (wanted + 1 > possible) /* one more while they are made */
        wanted = possible > 1 ? possible - 1 : 0;
    return (size_t)wanted;
}

void *peer_load(const char *folders, const char *names)
{
    char name[256], folder[512], path[1024];
    for (const char *f = folders; next_item(&f, folder, sizeof folder);)
        for (const char *n = names; next_item(&n, name, sizeof name);) {
            glob_t found;
            void *library = NULL;
            snprintf(path, sizeof path, "%s/%s", folder, name);
            if (glob(path, 0, NULL, &found) == 0 && found.gl_pathc > 0)
                library = dlopen(found.gl_pathv[0], RTLD_NOW | RTLD_GLOBAL);
            globfree(&found);
            if (library)
                return library;
        }
    for (const char *n = names; next_item(&n, name, sizeof name);) {
        void *library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
        if (library)
            return library;
    }
    return NULL;
}

int peer_round(struct peer *peer, const struct stop_rule *rule, int round, size_t *turn,
               struct samples *samples)
{
    const double begin = now_ns();
    if (!peer->forward) {
        const size_t end = (size_t)(rule->repeats * (uint64_t)(round + 1) / ROUNDS);
        if (rule->repeats > 0)
            return samples->n >= end || peer->round(peer, end - samples->n, 1e9, samples);
        return peer->round(peer, 0, rule->seconds / ROUNDS, samples);
    }
    if (!peer->forward(peer, (*turn)++)) /* wakes its threads */
        return 0;
    for (size_t n = 0; round_goes_on(rule, round, samples, n, begin); n++) {
        const double start = now_ns();
        if (!peer->forward(peer, (*turn)++))
            return 0;
        samples_add(samples, now_ns() - start);
    }
    return 1;
}

double *peer_reference(const struct peer_layer *of, size_t n_tokens)
{
    double *y = malloc(n_tokens * of->layer->d_model * sizeof *y);
    struct inputs in;
    memset(&in, 0, sizeof in);
    in.n_sets = 1;
    in.n_tokens = of->n_tokens;
    in.x = malloc(of->n_tokens * of->layer->d_model * sizeof *in.x);
    if (y && in.x) {
        memcpy(in.x, of->x, of->n_tokens * of->layer->d_model * sizeof *in.x);
        if (layer_reference(of->layer, &in, n_tokens, NULL, 0, y)) {
            inputs_destroy(&in);
            return y;
        }
    }
    inputs_destroy(&in);
    free(y);
    return NULL;
}

void onednn_best_measure(struct onednn_best *best, const struct peer_layer *of,
                         const struct stop_rule *rule)
{
    static const char *const dtypes[] = {"f32", "bf16", "s8"};
    enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };
    /* The error shows that the baseline computes the layer; few tokens tell as much as many. */
    const size_t n_checked = of->n_tokens < 4 ? of->n_tokens : 4;
    char how[160] = "no memory", version[64] = "", times[80] = "";
    size_t used = 0;
    double error_of_best = (double)NAN, *reference = peer_reference(of, n_checked);
    struct samples samples = {NULL, 0, 0.0};
    best->median_ns = (double)NAN;
    for (int i = 0; i < N_DTYPES && reference && samples_init(&samples); i++) {
        struct peer peer;
        size_t turn = 0;
        memset(&peer, 0, sizeof peer);
        if (!peer_onednn_open(&peer, of, dtypes[i])) {
            if (!isfinite(best->median_ns))
                memcpy(how, peer.how, sizeof how);
            samples_free(&samples);
            continue;
        }
        memcpy(version, peer.version, sizeof version);
        progress("oneDNN: measuring %s", dtypes[i]);
        int ok = 1;
        for (size_t n = 0; n < 3 + peer.n_copies; n++) /* JIT, page tables, OpenMP's threads */
            ok = ok && peer.forward(&peer, turn++);
        for (int round = 0; ok && needs_round(rule, round, &samples); round++)
            ok = peer_round(&peer, rule, round, &turn, &samples);
        progress(NULL);
        const double median = samples_summary(&samples).median,
                     error = ok ? relative_error(peer.result(&peer), reference,
                                                 n_checked * of->layer->d_model)
                                : (double)NAN;
        samples_free(&samples);
        if (ok && error > 0.1) { /* not this layer: not to be compared with */
            fprintf(stderr, "sffn-bench: oneDNN %s is left out, its relative error is %.3g\n",
                    dtypes[i], error);
        } else if (ok) {
            if (used < sizeof times)
                used += (size_t)snprintf(times + used, sizeof times - used, " %s %.3f", dtypes[i],
                                         median * 1e-6);
            if (!(median >= best->median_ns)) {
                best->median_ns = median;
                error_of_best = error;
                memcpy(how, peer.how, sizeof how);
            }
        }
        peer.close(&peer);
    }
    free(reference);
    if (isfinite(best->median_ns))
        snprintf(best->what, sizeof best->what, "oneDNN %s, %.60s, error %.2g; ms:%s", version, how,
                 error_of_best, times);
    else
        snprintf(best->what, sizeof best->what, "oneDNN: %s", how);
}
