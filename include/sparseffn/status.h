/** @file status.h  Status codes. Values are part of the ABI: numbered with gaps, never reused. */
#ifndef SFFN_STATUS_H
#define SFFN_STATUS_H
#include "sparseffn/version.h"
#ifdef __cplusplus
extern "C" {
#endif
/**
 * What every fallible function returns. The words that name the argument, its value and what was expected
 * are in sffn_context_last_error().
 */
typedef enum sffn_status {
    SFFN_OK = 0,
    SFFN_ERR_INVALID_ARGUMENT = 10, /**< NULL pointer, unknown struct_size or enum value, number out of range */
    SFFN_ERR_SHAPE = 11,            /**< sizes of two objects don't fit each other */
    SFFN_ERR_DTYPE = 12,            /**< a weight type that this operation does not take */
    SFFN_ERR_UNSUPPORTED = 13,      /**< legal, but not built in or not implemented for this combination */
    SFFN_ERR_OUT_OF_MEMORY = 20,    /**< the context's allocator returned NULL */
    SFFN_ERR_THREAD = 21,           /**< the operating system refused a thread */
    SFFN_ERR_BUSY = 22,             /**< another call is running in this context: use one context per concurrent call */
    SFFN_ERR_NOT_RESERVED = 23,     /**< this context has no scratch for this layer: call sffn_ffn_reserve() first */
    SFFN_ERR_IO = 30,               /**< the operating system could not open, map, read or write a file */
    SFFN_ERR_FORMAT = 31,           /**< a file's content is malformed; the text has the offset and the reason */
    SFFN_ERR_NOT_FOUND = 32,        /**< no tensor or key of that name */
    SFFN_ERR_INTERRUPTED = 40,      /**< a progress or abort callback asked to stop */
    SFFN_ERR_INTERNAL = 50,         /**< a bug in this library; please report it */
    SFFN_STATUS_MAX_ = 0x7fffffff
} sffn_status;

/** "SFFN_ERR_SHAPE"; "SFFN_ERR_UNKNOWN" for a value this library does not know. Static storage. Since 0.1. */
SFFN_API const char *sffn_status_name(sffn_status status);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_STATUS_H */
