/* Prints what a default context chose on this CPU: the ISA, then one kernel a line. For
 * tests/qemu.sh and for bug reports. */
#include <stdio.h>

#include "sparseffn/sparseffn.h"

int main(void)
{
    sffn_context *ctx = NULL;
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    if (sffn_context_create(NULL, &ctx) != SFFN_OK ||
        sffn_context_get_info(ctx, &info) != SFFN_OK) {
        fprintf(stderr, "%s\n", sffn_context_last_error(ctx));
        return 1;
    }
    printf("isa %s\nfeatures %s\n", info.isa, info.cpu_features);
    for (size_t i = 0; i < sffn_context_n_kernels(ctx); i++)
        printf("%s\n", sffn_context_kernel_name(ctx, i));
    sffn_context_destroy(ctx);
    return 0;
}
