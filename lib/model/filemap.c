#include "model/filemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static sffn_status io_fail(const sffn_context *ctx, const char *path, const char *what, int error)
{
    struct sffn_quoted text;
    return sffn_fail(ctx, SFFN_ERR_IO, "%s: %s: %s", path, what, sffn_errno_text(error, &text));
}

/* The way out when a regular file cannot be mapped. */
static sffn_status read_all(const sffn_context *ctx, int fd, struct sffn_file *file)
{
    uint8_t *data = sffn_mem_alloc(ctx, file->bytes);
    if (!data)
        return sffn_no_memory(ctx, file->path);
    size_t done = 0;
    while (done < file->bytes) {
        const ssize_t n = pread(fd, data + done, file->bytes - done, (off_t)done);
        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            const int error = errno;
            sffn_mem_free(ctx, data, file->bytes);
            return n == 0 ? sffn_fail(ctx, SFFN_ERR_IO, "%s: the file shrank while it was read",
                                      file->path)
                          : io_fail(ctx, file->path, "read", error);
        }
    }
    file->data = data;
    file->kind = SFFN_FILE_READ;
    return SFFN_OK;
}

sffn_status sffn_file_open(const sffn_context *ctx, const char *path, size_t max_bytes,
                           struct sffn_file *file)
{
    *file = (struct sffn_file){ctx, path, NULL, 0, SFFN_FILE_BORROWED};
    /* O_NONBLOCK: opening a FIFO would wait for a writer. It means nothing for the regular files
     * that we accept. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return io_fail(ctx, path, "open", errno);
    struct stat st;
    sffn_status status = SFFN_OK;
    if (fstat(fd, &st) != 0)
        status = io_fail(ctx, path, "stat", errno);
    else if (!S_ISREG(st.st_mode))
        status = sffn_fail(ctx, SFFN_ERR_IO, "%s: not a regular file", path);
    else if (st.st_size == 0)
        status = sffn_fail(ctx, SFFN_ERR_FORMAT, "%s: offset 0: the file is empty", path);
    else if (st.st_size < 0 || (uint64_t)st.st_size > SIZE_MAX / 2)
        status = sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                           "%s: %lld bytes do not fit this process's address space", path,
                           (long long)st.st_size);
    else if ((uint64_t)st.st_size > max_bytes)
        status = sffn_fail(
            ctx, SFFN_ERR_FORMAT,
            "%s: offset %zu: the file has %lld bytes, more than a file of this kind may have", path,
            max_bytes, (long long)st.st_size);
    if (status == SFFN_OK) {
        file->bytes = (size_t)st.st_size;
        void *data = mmap(NULL, file->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = read_all(ctx, fd, file);
        } else {
            file->data = data;
            file->kind = SFFN_FILE_MAPPED;
        }
    }
    close(fd);
    return status;
}

void sffn_file_close(struct sffn_file *file)
{
    if (file->kind == SFFN_FILE_MAPPED)
        munmap((void *)(uintptr_t)file->data, file->bytes);
    else if (file->kind == SFFN_FILE_READ)
        sffn_mem_free(file->ctx, (void *)(uintptr_t)file->data, file->bytes);
    file->data = NULL;
    file->bytes = 0;
    file->kind = SFFN_FILE_BORROWED;
}

int sffn_file_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int sffn_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

sffn_status sffn_file_fail(const struct sffn_file *file, sffn_status status, uint64_t offset,
                           const char *format, ...)
{
    char text[384];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return sffn_fail(file->ctx, status, "%s: offset %llu: %s", file->path,
                     (unsigned long long)offset, text);
}

sffn_status sffn_file_fail_whole(const struct sffn_file *file, sffn_status status,
                                 const char *format, ...)
{
    char text[384];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return sffn_fail(file->ctx, status, "%s: %s", file->path, text);
}

sffn_status sffn_no_memory(const sffn_context *ctx, const char *path)
{
    return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY, "%s: the context's allocator returned NULL",
                     path);
}

const char *sffn_quote(struct sffn_quoted *out, const void *name, size_t bytes)
{
    const unsigned char *p = name;
    const size_t n = bytes < sizeof(out->text) ? bytes : sizeof(out->text) - 1;
    for (size_t i = 0; i < n; i++)
        out->text[i] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
    if (n < bytes)
        memcpy(out->text + n - 3, "...", 3);
    out->text[n] = '\0';
    return out->text;
}

const char *sffn_errno_text(int error, struct sffn_quoted *out)
{
#if defined(__GLIBC__)
    char text[128];
    const char *words = strerror_r(error, text, sizeof(text));
    snprintf(out->text, sizeof(out->text), "%s", words);
#else
    if (strerror_r(error, out->text, sizeof(out->text)) != 0)
        snprintf(out->text, sizeof(out->text), "error %d", error);
#endif
    return out->text;
}
