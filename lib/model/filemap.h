/* filemap.h  A file as read-only memory, and the words for what is wrong in it.
 *
 * Regular files only, mapped MAP_PRIVATE. Where the system refuses to map one (some network and
 * FUSE file systems) or cannot map at all, it is read into memory of the context's allocator
 * instead: same contents, no sharing, no SIGBUS. A mapping can change while we read it, so
 * parsers fetch a size once, check it, and use the checked copy. */
#ifndef SFFN_FILEMAP_H
#define SFFN_FILEMAP_H
#include <stddef.h>
#include <stdint.h>
#include "base/context.h"

enum sffn_file_kind { SFFN_FILE_BORROWED = 0, SFFN_FILE_MAPPED = 1, SFFN_FILE_READ = 2 };

struct sffn_file {
    const sffn_context *ctx;
    const char *path; /* borrowed; for error texts */
    const uint8_t *data;
    size_t bytes;
    int kind; /* enum sffn_file_kind */
};

/* `path` must outlive the file. Fails with SFFN_ERR_FORMAT when the file has more than
 * max_bytes. */
sffn_status sffn_file_open(const sffn_context *ctx, const char *path, size_t max_bytes,
                           struct sffn_file *file);
void sffn_file_close(struct sffn_file *file);
/* 1: a directory, 0: anything else, including nothing. */
int sffn_file_is_folder(const char *path);
/* 1: there is a file of that name. */
int sffn_file_exists(const char *path);

/* "PATH: offset 123: reason" as the context's error; returns status. */
sffn_status sffn_file_fail(const struct sffn_file *file, sffn_status status, uint64_t offset,
                           const char *format, ...) SFFN_PRINTF(4, 5);
/* "PATH: reason": the fault has no place. */
sffn_status sffn_file_fail_whole(const struct sffn_file *file, sffn_status status,
                                 const char *format, ...) SFFN_PRINTF(3, 4);
sffn_status sffn_no_memory(const sffn_context *ctx, const char *path);

/* A name from a file made fit for an error text: at most 63 bytes, everything outside printable
 * ASCII becomes '?'. Returns `out`. */
struct sffn_quoted {
    char text[64];
};
const char *sffn_quote(struct sffn_quoted *out, const void *name, size_t bytes);
/* The system's words for an errno value, thread-safe. */
const char *sffn_errno_text(int error, struct sffn_quoted *out);

/* Little-endian loads, on any host and at any alignment. */
static inline uint16_t sffn_load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t sffn_load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t sffn_load_u64(const uint8_t *p)
{
    return (uint64_t)sffn_load_u32(p) | (uint64_t)sffn_load_u32(p + 4) << 32;
}

#endif /* SFFN_FILEMAP_H */
