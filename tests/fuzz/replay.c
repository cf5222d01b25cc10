/* Runs a fuzz target over files and folders of files, without libFuzzer: `replay [-m N]
 * PATH...`. -m also runs N changed copies of each, always the same ones: cut, with bytes
 * changed, doubled or exchanged. */
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static size_t n_inputs;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* An exact copy, so that a look beyond the end is seen by the sanitizer. */
static void run(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
    n_inputs++;
}

static void run_changed(const uint8_t *data, size_t n, unsigned n_copies)
{
    uint64_t state = 0x9e3779b97f4a7c15u + n;
    uint8_t *copy = malloc(n + 1);
    for (unsigned i = 0; i < n_copies && n; i++) {
        memcpy(copy, data, n);
        size_t length = n;
        for (unsigned changes = 1 + next_random(&state) % 4; changes; changes--) {
            const size_t at = next_random(&state) % n;
            switch (next_random(&state) % 5) {
            case 0:
                copy[at] = (uint8_t)next_random(&state);
                break;
            case 1:
                copy[at] ^= (uint8_t)(1u << next_random(&state) % 8);
                break;
            case 2:
                copy[at] = next_random(&state) % 2 ? 0xff : 0;
                break;
            case 3:
                copy[at] = copy[next_random(&state) % n];
                break;
            default:
                length = at;
            }
        }
        run(copy, length);
    }
    free(copy);
}

static int run_path(const char *path, unsigned n_copies)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return fprintf(stderr, "%s: not found\n", path), 1;
    if (S_ISDIR(st.st_mode)) {
        struct dirent **entries;
        const int n = scandir(path, &entries, NULL, alphasort);
        int failed = n < 0;
        for (int i = 0; i < n; i++) {
            char name[1024];
            snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
            if (entries[i]->d_name[0] != '.')
                failed |= run_path(name, n_copies);
            free(entries[i]);
        }
        if (n >= 0)
            free(entries);
        return failed;
    }
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc((size_t)st.st_size + 1);
    const size_t n = file ? fread(data, 1, (size_t)st.st_size, file) : 0;
    if (!file)
        return free(data), fprintf(stderr, "%s: cannot be opened\n", path), 1;
    fclose(file);
    run(data, n);
    run_changed(data, n, n_copies);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    int failed = 0, i = 1;
    unsigned n_copies = 0;
    if (argc > 2 && strcmp(argv[1], "-m") == 0) {
        n_copies = (unsigned)atoi(argv[2]);
        i = 3;
    }
    for (; i < argc; i++)
        failed |= run_path(argv[i], n_copies);
    printf("%zu inputs\n", n_inputs);
    return failed || n_inputs == 0;
}
