#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

enum { BAR_WIDTH = 30 };

void progress_begin(struct progress *progress)
{
    memset(progress, 0, sizeof *progress);
    progress->is_terminal = isatty(STDERR_FILENO);
    progress->start_ns = progress->last_ns = cli_now_ns();
}

void progress_update(struct progress *progress, const char *what, uint64_t done, uint64_t total)
{
    uint64_t now_ns = cli_now_ns();
    /* A redraw costs more than a unit of work may: 10 a second; in a log file one line in 5 seconds. */
    uint64_t interval_ns = progress->is_terminal ? 100000000u : 5000000000u;
    double seconds, share = total != 0 ? (double)done / (double)total : 0.0;
    if (now_ns - progress->last_ns < interval_ns)
        return;
    progress->last_ns = now_ns;
    if (share > 1.0)
        share = 1.0;
    if (!progress->is_terminal) {
        fprintf(stderr, "%.0f %% %s\n", share * 100.0, what);
        return;
    }
    fprintf(stderr, "\r[");
    for (int i = 0; i < BAR_WIDTH; i++)
        fputc(i < (int)(share * BAR_WIDTH) ? '#' : '.', stderr);
    seconds = (double)(now_ns - progress->start_ns) * 1e-9;
    fprintf(stderr, "] %3.0f %% %.0f s", share * 100.0, seconds);
    /* Too early, the rest is a wild guess. */
    if (share > 0.01 && seconds > 1.0)
        fprintf(stderr, ", %.0f s left", seconds / share * (1.0 - share));
    fprintf(stderr, "  %.40s\033[K", what);
    fflush(stderr);
    progress->bar_is_shown = 1;
}

void progress_end(struct progress *progress)
{
    if (progress->bar_is_shown)
        fputs("\r\033[K", stderr);
    progress->bar_is_shown = 0;
}
