#include "prepare/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/context.h"

static sffn_status set(struct sffn_gguf_writer *w, sffn_status status)
{
    if (w->status == SFFN_OK)
        w->status = status;
    return w->status;
}

static sffn_status io_fail(struct sffn_gguf_writer *w, const char *path, const char *what)
{
    struct sffn_quoted text;
    const int error = errno;
    return set(
        w, sffn_fail(w->ctx, SFFN_ERR_IO, "%s: %s: %s", path, what, sffn_errno_text(error, &text)));
}

void sffn_gguf_write_init(struct sffn_gguf_writer *w, const sffn_context *ctx, const char *path)
{
    memset(w, 0, sizeof(*w));
    w->ctx = ctx;
    w->path = path;
    w->fd = -1;
}

/* ---- header ---- */

static void put(struct sffn_gguf_writer *w, const void *data, size_t bytes)
{
    if (w->status != SFFN_OK)
        return;
    size_t need;
    if (!sffn_checked_add(w->head_bytes, bytes, &need) || need > SIZE_MAX / 4) {
        set(w, sffn_no_memory(w->ctx, w->path));
        return;
    }
    if (need > w->head_capacity) {
        size_t capacity = w->head_capacity ? w->head_capacity : 4096;
        while (capacity < need)
            capacity *= 2;
        uint8_t *head = sffn_mem_alloc(w->ctx, capacity);
        if (!head) {
            set(w, sffn_no_memory(w->ctx, w->path));
            return;
        }
        if (w->head_bytes)
            memcpy(head, w->head, w->head_bytes);
        sffn_mem_free(w->ctx, w->head, w->head_capacity);
        w->head = head;
        w->head_capacity = capacity;
    }
    if (bytes)
        memcpy(w->head + w->head_bytes, data, bytes);
    w->head_bytes = need;
}

void sffn_gguf_put_u32(struct sffn_gguf_writer *w, uint32_t value)
{
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                              (uint8_t)(value >> 24)};
    put(w, bytes, sizeof(bytes));
}

static void put_u64(struct sffn_gguf_writer *w, uint64_t value)
{
    sffn_gguf_put_u32(w, (uint32_t)value);
    sffn_gguf_put_u32(w, (uint32_t)(value >> 32));
}

void sffn_gguf_put_text(struct sffn_gguf_writer *w, const char *text, size_t bytes)
{
    put_u64(w, bytes);
    put(w, text, bytes);
}

static void put_key(struct sffn_gguf_writer *w, const char *key)
{
    sffn_gguf_put_text(w, key, strlen(key));
    w->n_metas++;
}

void sffn_gguf_write_u32(struct sffn_gguf_writer *w, const char *key, uint32_t value)
{
    put_key(w, key);
    sffn_gguf_put_u32(w, SFFN_GGUF_U32);
    sffn_gguf_put_u32(w, value);
}

void sffn_gguf_write_f32(struct sffn_gguf_writer *w, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    put_key(w, key);
    sffn_gguf_put_u32(w, SFFN_GGUF_F32);
    sffn_gguf_put_u32(w, bits);
}

void sffn_gguf_write_bool(struct sffn_gguf_writer *w, const char *key, int value)
{
    const uint8_t byte = value != 0;
    put_key(w, key);
    sffn_gguf_put_u32(w, SFFN_GGUF_BOOL);
    put(w, &byte, 1);
}

void sffn_gguf_write_text(struct sffn_gguf_writer *w, const char *key, const char *text,
                          size_t bytes)
{
    put_key(w, key);
    sffn_gguf_put_u32(w, SFFN_GGUF_STRING);
    sffn_gguf_put_text(w, text, bytes);
}

void sffn_gguf_write_raw(struct sffn_gguf_writer *w, const char *key, const void *raw, size_t bytes)
{
    put_key(w, key);
    put(w, raw, bytes);
}

void sffn_gguf_write_array(struct sffn_gguf_writer *w, const char *key, uint32_t kind, uint64_t n)
{
    put_key(w, key);
    sffn_gguf_put_u32(w, SFFN_GGUF_ARRAY);
    sffn_gguf_put_u32(w, kind);
    put_u64(w, n);
}

void sffn_gguf_write_tensor(struct sffn_gguf_writer *w, const char *name,
                            const struct sffn_tensor_type *type, uint32_t n_dims,
                            const uint64_t *dims, uint64_t bytes)
{
    sffn_gguf_put_text(w, name, strlen(name));
    sffn_gguf_put_u32(w, n_dims);
    for (uint32_t i = n_dims; i > 0; i--)
        put_u64(w, dims[i - 1]);
    sffn_gguf_put_u32(w, (uint32_t)type->ggml);
    put_u64(w, w->data_bytes);
    w->n_tensors++;
    if (!sffn_checked_add_u64(w->data_bytes, bytes, &w->data_bytes) ||
        !sffn_checked_add_u64(w->data_bytes, SFFN_GGUF_WRITE_ALIGNMENT - 1, &w->data_bytes))
        set(w, sffn_fail(w->ctx, SFFN_ERR_SHAPE, "%s: the sum of the tensors' sizes overflows",
                         w->path));
    w->data_bytes &= ~(uint64_t)(SFFN_GGUF_WRITE_ALIGNMENT - 1);
}

/* ---- file ---- */

static sffn_status write_all(struct sffn_gguf_writer *w, const uint8_t *data, size_t bytes)
{
    while (bytes) {
        const ssize_t n = write(w->fd, data, bytes < ((size_t)1 << 30) ? bytes : (size_t)1 << 30);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return io_fail(w, w->temporary, "write");
        data += n;
        bytes -= (size_t)n;
    }
    return SFFN_OK;
}

static sffn_status open_temporary(struct sffn_gguf_writer *w)
{
    w->temporary_bytes = strlen(w->path) + 48;
    w->temporary = sffn_mem_alloc(w->ctx, w->temporary_bytes);
    if (!w->temporary)
        return set(w, sffn_no_memory(w->ctx, w->path));
    /* O_EXCL never follows somebody else's link; 0666 leaves the rights to the umask, as for any
     * new file. */
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        snprintf(w->temporary, w->temporary_bytes, "%s.%ld.%llx.tmp", w->path, (long)getpid(),
                 (unsigned long long)sffn_now_ns() & 0xffffffu);
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd >= 0)
            return SFFN_OK;
        if (errno != EEXIST)
            break;
    }
    const sffn_status status = io_fail(w, w->path, "create a temporary file beside it");
    sffn_mem_free(w->ctx, w->temporary, w->temporary_bytes);
    w->temporary = NULL;
    return status;
}

sffn_status sffn_gguf_write_begin(struct sffn_gguf_writer *w)
{
    static const uint8_t zeros[SFFN_GGUF_WRITE_ALIGNMENT];
    if (w->status != SFFN_OK || open_temporary(w) != SFFN_OK)
        return w->status;
    uint8_t header[24] = {'G', 'G', 'U', 'F', 3}; /* the counts are known only now */
    for (int i = 0; i < 8; i++) {
        header[8 + i] = (uint8_t)(w->n_tensors >> (8 * i));
        header[16 + i] = (uint8_t)(w->n_metas >> (8 * i));
    }
    sffn_status status = write_all(w, header, sizeof(header));
    if (status == SFFN_OK)
        status = write_all(w, w->head, w->head_bytes);
    const size_t pad =
        (SFFN_GGUF_WRITE_ALIGNMENT - (sizeof(header) + w->head_bytes) % SFFN_GGUF_WRITE_ALIGNMENT) %
        SFFN_GGUF_WRITE_ALIGNMENT;
    return status == SFFN_OK ? write_all(w, zeros, pad) : status;
}

sffn_status sffn_gguf_write_data(struct sffn_gguf_writer *w, const void *data, size_t bytes)
{
    if (w->status != SFFN_OK)
        return w->status;
    w->written += bytes;
    return write_all(w, data, bytes);
}

sffn_status sffn_gguf_write_pad(struct sffn_gguf_writer *w)
{
    static const uint8_t zeros[SFFN_GGUF_WRITE_ALIGNMENT];
    const size_t over = (size_t)(w->written % SFFN_GGUF_WRITE_ALIGNMENT);
    return sffn_gguf_write_data(w, zeros, over ? SFFN_GGUF_WRITE_ALIGNMENT - over : 0);
}

/* The new name must survive a power failure too. What a file system cannot do here is no reason
 * to fail. */
static void sync_folder(struct sffn_gguf_writer *w)
{
    char *end = strrchr(w->temporary, '/');
    if (end == w->temporary)
        end++;
    if (end)
        *end = '\0';
    const int fd = open(end ? w->temporary : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

sffn_status sffn_gguf_write_finish(struct sffn_gguf_writer *w)
{
    if (w->status != SFFN_OK)
        return w->status;
    if (w->written != w->data_bytes)
        return set(w, sffn_fail(w->ctx, SFFN_ERR_INTERNAL,
                                "%s: %llu bytes of tensors written, %llu announced", w->path,
                                (unsigned long long)w->written, (unsigned long long)w->data_bytes));
    if (fsync(w->fd) != 0 && errno != EINVAL && errno != EROFS)
        return io_fail(w, w->temporary, "fsync");
    const int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0)
        return io_fail(w, w->temporary, "close");
    if (rename(w->temporary, w->path) != 0)
        return io_fail(w, w->path, "rename");
    sync_folder(w);
    sffn_mem_free(w->ctx, w->temporary, w->temporary_bytes);
    w->temporary = NULL;
    return SFFN_OK;
}

void sffn_gguf_write_close(struct sffn_gguf_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    if (w->temporary)
        (void)unlink(w->temporary);
    sffn_mem_free(w->ctx, w->temporary, w->temporary_bytes);
    sffn_mem_free(w->ctx, w->head, w->head_capacity);
    w->fd = -1;
    w->temporary = NULL;
    w->head = NULL;
}
