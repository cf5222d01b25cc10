/* detect_arm.c  Asks the OS what this AArch64 core has. */
#include "cpu/features.h"
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#include <sys/types.h>

static uint64_t has(const char *name, uint64_t bit)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0 ? bit : 0;
}
#endif

uint64_t sffn_cpu_detect(void)
{
#if defined(__linux__)
    return sffn_cpu_from_hwcap(getauxval(AT_HWCAP), getauxval(AT_HWCAP2));
#elif defined(__APPLE__)
    return SFFN_CPU_NEON | has("hw.optional.arm.FEAT_DotProd", SFFN_CPU_DOTPROD) |
           has("hw.optional.arm.FEAT_I8MM", SFFN_CPU_I8MM) |
           has("hw.optional.arm.FEAT_BF16", SFFN_CPU_ARM_BF16);
#else
    return SFFN_CPU_NEON; /* part of the base architecture */
#endif
}
