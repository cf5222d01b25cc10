/* detect_other.c  A CPU family without kernels of its own: scalar. */
#include "cpu/features.h"

uint64_t sffn_cpu_detect(void)
{
    return 0;
}
