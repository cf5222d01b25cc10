/*
 * work.h  A folder that keeps the finished parts of long work, so that an interrupted run can go on where it stopped. A file in it is either
 * whole or absent: it is written under another name and renamed.
 */
#ifndef SFFN_CLI_WORK_H
#define SFFN_CLI_WORK_H
#include <stddef.h>

struct work {
    char *folder;
};

/*
 * Opens the folder of `job`, a text that says what the work is: everything that its result depends on. is_resumed: the folder must be there and
 * hold the same job; otherwise it must not be there. CLI_FAILED after an error line.
 */
int work_open(struct work *work, const char *folder, const char *job, int is_resumed);
/* FOLDER/NAME, to be freed. */
char *work_path(const struct work *work, const char *name);
int work_has(const struct work *work, const char *name);
int work_write(const struct work *work, const char *name, const void *data, size_t bytes);
/* Contents, to be freed; NULL without an error line when there is no such file. */
char *work_read(const struct work *work, const char *name, size_t *bytes);
/* The work is done: removes the folder and what is in it. */
void work_remove(const struct work *work);
void work_close(struct work *work);
#endif /* SFFN_CLI_WORK_H */
