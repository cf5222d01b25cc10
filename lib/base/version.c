#include "sparseffn/version.h"
#include "sparseffn/status.h"

#define STRING_(x) #x
#define STRING(x)  STRING_(x)

uint32_t sffn_version(void)
{
    return SFFN_VERSION_MAJOR * 10000u + SFFN_VERSION_MINOR * 100u + SFFN_VERSION_PATCH;
}

const char *sffn_version_string(void)
{
    return STRING(SFFN_VERSION_MAJOR) "." STRING(SFFN_VERSION_MINOR) "." STRING(SFFN_VERSION_PATCH);
}

uint32_t sffn_abi_version(void)
{
    return SFFN_ABI_VERSION;
}

const char *sffn_status_name(sffn_status status)
{
    switch (status) {
#define NAME(s)                                                                                    \
    case s:                                                                                        \
        return #s
        NAME(SFFN_OK);
        NAME(SFFN_ERR_INVALID_ARGUMENT);
        NAME(SFFN_ERR_SHAPE);
        NAME(SFFN_ERR_DTYPE);
        NAME(SFFN_ERR_UNSUPPORTED);
        NAME(SFFN_ERR_OUT_OF_MEMORY);
        NAME(SFFN_ERR_THREAD);
        NAME(SFFN_ERR_BUSY);
        NAME(SFFN_ERR_NOT_RESERVED);
        NAME(SFFN_ERR_IO);
        NAME(SFFN_ERR_FORMAT);
        NAME(SFFN_ERR_NOT_FOUND);
        NAME(SFFN_ERR_INTERRUPTED);
        NAME(SFFN_ERR_INTERNAL);
#undef NAME
    case SFFN_STATUS_MAX_:
        break;
    }
    return "SFFN_ERR_UNKNOWN";
}
