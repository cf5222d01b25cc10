/* What the operating system can refuse: mapping, reading, writing, syncing, renaming. The calls
 * are exchanged at link time (--wrap); glibc gives some of them other names for 64-bit offsets. */
#include <errno.h>
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#include <cmocka.h>

#include "build.h"

/* What the next calls do. */
static struct {
    int no_mmap;    /* fail with this errno */
    int pread_kind; /* 1: one byte at a time, with interruptions; 2: end of file; 3: EIO */
    int write_kind; /* 1: three bytes at a time, with interruptions; 2: ENOSPC after a while */
    int fail_fstat, fail_fsync, fail_rename, fail_close;
    unsigned calls;
} os;

#define BOTH(type, name, parameters, arguments, body)                                              \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        body;                                                                                      \
        return __real_##name arguments;                                                            \
    }

static int refuses(int flag)
{
    if (flag)
        errno = flag;
    return flag;
}

#define MMAP_PARAMETERS (void *at, size_t n, int protection, int flags, int fd, off_t offset)
#define MMAP_ARGUMENTS  (at, n, protection, flags, fd, offset)
#define MMAP_BODY                                                                                  \
    if (fd >= 0 && refuses(os.no_mmap))                                                            \
    return MAP_FAILED
BOTH(void *, mmap, MMAP_PARAMETERS, MMAP_ARGUMENTS, MMAP_BODY)
BOTH(void *, mmap64, MMAP_PARAMETERS, MMAP_ARGUMENTS, MMAP_BODY)

static int pread_acts(size_t *n)
{
    os.calls++;
    if (os.pread_kind == 1) {
        *n = *n ? 1 : 0;
        return refuses(os.calls % 3 == 0 ? EINTR : 0) ? -1 : 1;
    }
    if (os.pread_kind == 2)
        return 0;
    if (os.pread_kind == 3)
        return refuses(EIO), -1;
    return 1;
}
#define PREAD_PARAMETERS (int fd, void *to, size_t n, off_t at)
#define PREAD_ARGUMENTS  (fd, to, n, at)
#define PREAD_BODY                                                                                 \
    const int act = pread_acts(&n);                                                                \
    if (act <= 0)                                                                                  \
    return act
BOTH(ssize_t, pread, PREAD_PARAMETERS, PREAD_ARGUMENTS, PREAD_BODY)
BOTH(ssize_t, pread64, PREAD_PARAMETERS, PREAD_ARGUMENTS, PREAD_BODY)

#define FSTAT_BODY                                                                                 \
    if (refuses(os.fail_fstat))                                                                    \
    return -1
BOTH(int, fstat, (int fd, struct stat *st), (fd, st), FSTAT_BODY)
BOTH(int, fstat64, (int fd, void *st), (fd, st), FSTAT_BODY)

BOTH(int, fsync, (int fd), (fd), if (refuses(os.fail_fsync)) return -1)
BOTH(int, rename, (const char *from, const char *to), (from, to),
     if (refuses(os.fail_rename)) return -1)

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    const int status = __real_close(fd);
    return refuses(os.fail_close) ? -1 : status;
}

ssize_t __real_write(int fd, const void *data, size_t n);
ssize_t __wrap_write(int fd, const void *data, size_t n);
ssize_t __wrap_write(int fd, const void *data, size_t n)
{
    if (fd > 2 && os.write_kind) {
        os.calls++;
        if (os.write_kind == 1 && os.calls % 2 && refuses(EINTR))
            return -1;
        if (os.write_kind == 2 && os.calls > 3 && refuses(ENOSPC))
            return -1;
        n = os.write_kind == 1 && n > 333 ? 333 : n;
    }
    return __real_write(fd, data, n);
}

struct fixture {
    struct heap heap;
    sffn_context *ctx;
    size_t base;
    char folder[256], gguf[640];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct buf b = {NULL, 0, 0};
    memset(&os, 0, sizeof(os));
    f->ctx = heap_context(&f->heap, 1);
    f->base = f->heap.live;
    snprintf(f->folder, sizeof(f->folder), "%s", folder_make());
    snprintf(f->gguf, sizeof(f->gguf), "%s", path_of(f->folder, "a.gguf"));
    g_valid(&b);
    file_write(f->gguf, b.data, b.n);
    b_free(&b);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    memset(&os, 0, sizeof(os));
    assert_int_equal(f->heap.live, f->base);
    sffn_context_destroy(f->ctx);
    assert_int_equal(f->heap.live, 0);
    folder_remove(f->folder);
    free(f);
    return 0;
}

#define CHECK_ERROR(f, call, wanted, words)                                                        \
    do {                                                                                           \
        const sffn_status status_ = (call);                                                        \
        const char *error_ = sffn_context_last_error((f)->ctx);                                    \
        if (status_ != (wanted) || !strstr(error_, words))                                         \
            fail_msg("%s: %s: \"%s\", expected \"%s\"", #call, sffn_status_name(status_), error_,  \
                     words);                                                                       \
    } while (0)

static size_t n_files(const char *folder)
{
    size_t n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e = readdir(dir); e; e = readdir(dir))
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void reads_what_cannot_be_mapped(void **state)
{
    struct fixture *f = *state;
    sffn_model *m;
    assert_int_equal(sffn_model_open(f->ctx, f->gguf, &m), SFFN_OK);
    const uint64_t sum = model_walk(m);
    sffn_model_close(m);
    os.no_mmap = ENODEV;
    for (os.pread_kind = 0; os.pread_kind < 2; os.pread_kind++) {
        assert_int_equal(sffn_model_open(f->ctx, f->gguf, &m), SFFN_OK);
        assert_true(model_walk(m) == sum);
        assert_true(f->heap.live > f->base + 40000); /* it is in memory */
        sffn_model_close(m);
    }
    os.pread_kind = 2;
    CHECK_ERROR(f, sffn_model_open(f->ctx, f->gguf, &m), SFFN_ERR_IO,
                "the file shrank while it was read");
    os.pread_kind = 3;
    CHECK_ERROR(f, sffn_model_open(f->ctx, f->gguf, &m), SFFN_ERR_IO, "read: Input/output error");
    assert_null(m);
    os.pread_kind = 0;
    for (size_t k = 1;; k++) {
        heap_mark(&f->heap);
        f->heap.fail_at = k;
        const sffn_status status = sffn_model_open(f->ctx, f->gguf, &m);
        f->heap.fail_at = 0;
        if (status == SFFN_OK)
            break;
        assert_int_equal(status, SFFN_ERR_OUT_OF_MEMORY);
        assert_int_equal(f->heap.live, f->base);
    }
    sffn_model_close(m);
    os.no_mmap = 0;
    os.fail_fstat = EIO;
    CHECK_ERROR(f, sffn_model_open(f->ctx, f->gguf, &m), SFFN_ERR_IO, "stat: Input/output error");
}

static void writes_through_trouble(void **state)
{
    struct fixture *f = *state;
    sffn_model *m, *copy;
    const char *out = path_of(f->folder, "out.gguf");
    assert_int_equal(sffn_model_open(f->ctx, f->gguf, &m), SFFN_OK);
    os.write_kind = 1;
    assert_int_equal(sffn_prepare(f->ctx, m, out, NULL), SFFN_OK);
    os.write_kind = 0;
    assert_int_equal(sffn_model_open(f->ctx, out, &copy), SFFN_OK);
    model_walk(copy);
    sffn_model_close(copy);
    remove(out);

    os.write_kind = 2;
    os.calls = 0;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, NULL), SFFN_ERR_IO,
                "write: No space left on device");
    os.write_kind = 0;
    assert_int_equal(n_files(f->folder), 1);
    os.fail_fsync = EIO;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, NULL), SFFN_ERR_IO, "fsync: Input/output error");
    assert_int_equal(n_files(f->folder), 1);
    os.fail_fsync = EINVAL; /* a file system that cannot sync */
    assert_int_equal(sffn_prepare(f->ctx, m, out, NULL), SFFN_OK);
    os.fail_fsync = 0;
    remove(out);
    os.fail_rename = EXDEV;
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, NULL), SFFN_ERR_IO, "rename: ");
    os.fail_rename = 0;
    assert_int_equal(n_files(f->folder), 1);
    os.fail_close = EIO; /* a network file system tells it here */
    CHECK_ERROR(f, sffn_prepare(f->ctx, m, out, NULL), SFFN_ERR_IO, "close: Input/output error");
    os.fail_close = 0;
    assert_int_equal(n_files(f->folder), 1);
    sffn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_what_cannot_be_mapped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(writes_through_trouble, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
