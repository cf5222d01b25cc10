/* bad_files.h  Hand-made wrong files: one per known hole of model-file parsers (ecosystem.md E.2) and per rule of the two formats. */
#ifndef TEST_MODEL_BAD_FILES_H
#define TEST_MODEL_BAD_FILES_H
#include "build.h"

struct bad_file {
    const char *name;
    void (*make)(struct buf *b);
    sffn_status status;
    const char *words; /* part of the error text */
};
extern const struct bad_file bad_files[];
extern const size_t n_bad_files;

#endif /* TEST_MODEL_BAD_FILES_H */
