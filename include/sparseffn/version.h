/** @file version.h  The only place where versions are written; meson.build reads them from here. */
#ifndef SFFN_VERSION_H
#define SFFN_VERSION_H
#include <stdint.h>

#if defined(SFFN_STATIC)
#define SFFN_API
#elif defined(_WIN32)
#if defined(SFFN_BUILDING)
#define SFFN_API __declspec(dllexport)
#else
#define SFFN_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define SFFN_API __attribute__((visibility("default")))
#else
#define SFFN_API
#endif

#define SFFN_VERSION_MAJOR 0
#define SFFN_VERSION_MINOR 1
#define SFFN_VERSION_PATCH 0
/** ABI major: the number in the SONAME. Grows only when a function or a struct stops being compatible. */
#define SFFN_ABI_VERSION 0

#ifdef __cplusplus
extern "C" {
#endif
/** major * 10000 + minor * 100 + patch of the library that is loaded. Since 0.1. */
SFFN_API uint32_t sffn_version(void);
/** "0.1.0" of the library that is loaded; static storage. Since 0.1. */
SFFN_API const char *sffn_version_string(void);
/** ABI major of the library that is loaded: compare with SFFN_ABI_VERSION before anything else. Since 0.1. */
SFFN_API uint32_t sffn_abi_version(void);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_VERSION_H */
