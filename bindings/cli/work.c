#include "work.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

static const char job_name[] = "job.txt";

char *work_path(const struct work *work, const char *name)
{
    size_t n = strlen(work->folder) + strlen(name) + 2;
    char *path = cli_alloc(n, 1);
    snprintf(path, n, "%s/%s", work->folder, name);
    return path;
}

int work_has(const struct work *work, const char *name)
{
    struct stat file;
    char *path = work_path(work, name);
    int found = stat(path, &file) == 0;
    free(path);
    return found;
}

int work_write(const struct work *work, const char *name, const void *data, size_t bytes)
{
    char *path = work_path(work, name), *part = cli_alloc(strlen(path) + 6, 1);
    FILE *file;
    int failed;
    sprintf(part, "%s.part", path);
    file = fopen(part, "wb");
    failed = file == NULL || (bytes != 0 && fwrite(data, bytes, 1, file) != 1) ||
             fflush(file) != 0 || fsync(fileno(file)) != 0;
    if (file != NULL)
        failed |= fclose(file) != 0;
    if (!failed)
        failed = rename(part, path) != 0;
    if (failed)
        cli_fail("cannot write '%s': %s", path, strerror(errno));
    free(path);
    free(part);
    return failed ? CLI_FAILED : CLI_OK;
}

char *work_read(const struct work *work, const char *name, size_t *bytes)
{
    char *path, *data;
    if (!work_has(work, name))
        return NULL;
    path = work_path(work, name);
    data = cli_read_file(path, bytes);
    free(path);
    return data;
}

/* The first line in which two texts differ. */
static void first_difference(const char **a, const char **b)
{
    for (;;) {
        size_t n = strcspn(*a, "\n");
        if (strncmp(*a, *b, n) != 0 || (*b)[n] != (*a)[n] || (*a)[n] == '\0')
            return;
        *a += n + 1;
        *b += n + 1;
    }
}

static int check_job(const struct work *work, const char *job)
{
    size_t bytes = 0;
    char *text = work_read(work, job_name, &bytes);
    const char *was = text, *is = job;
    int status = CLI_OK;
    if (text == NULL)
        return work_write(work, job_name, job, strlen(job)); /* killed before anything was done */
    if (strcmp(text, job) != 0) {
        first_difference(&was, &is);
        status = cli_fail("'%s' holds another run: it has '%.*s', this one '%.*s'; repeat that "
                          "command with --resume, or remove the folder",
                          work->folder, (int)strcspn(was, "\n"), was, (int)strcspn(is, "\n"), is);
    }
    free(text);
    return status;
}

int work_open(struct work *work, const char *folder, const char *job, int is_resumed)
{
    work->folder = cli_alloc(strlen(folder) + 1, 1);
    strcpy(work->folder, folder);
    if (mkdir(folder, 0777) == 0) {
        if (is_resumed) {
            rmdir(folder);
            return cli_fail("there is no '%s' to resume, expected what an interrupted run leaves",
                            folder);
        }
        return work_write(work, job_name, job, strlen(job));
    }
    if (errno != EEXIST)
        return cli_fail("cannot make the folder '%s': %s", folder, strerror(errno));
    if (!is_resumed)
        return cli_fail("'%s' is there: an earlier run was interrupted; --resume goes on with it, "
                        "or remove the folder",
                        folder);
    return check_job(work, job);
}

void work_remove(const struct work *work)
{
    DIR *folder = opendir(work->folder);
    const struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        char *path;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        path = work_path(work, entry->d_name);
        unlink(path);
        free(path);
    }
    if (folder != NULL)
        closedir(folder);
    rmdir(work->folder);
}

void work_close(struct work *work)
{
    free(work->folder);
    work->folder = NULL;
}
