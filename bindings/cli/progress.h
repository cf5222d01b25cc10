/* progress.h  Progress on standard error: a bar on a terminal, else a line every few seconds. */
#ifndef SFFN_CLI_PROGRESS_H
#define SFFN_CLI_PROGRESS_H
#include <stdint.h>

struct progress {
    int is_terminal, bar_is_shown;
    uint64_t start_ns, last_ns;
};
void progress_begin(struct progress *progress);
void progress_update(struct progress *progress, const char *what, uint64_t done, uint64_t total);
/* Removes the bar. */
void progress_end(struct progress *progress);
#endif /* SFFN_CLI_PROGRESS_H */
