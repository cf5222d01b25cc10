/* kernels_avx_vnni.c  The integer ops with VNNI in vectors of 256 bits (Alder Lake, Zen 5 and their successors, with and without AVX-512). */
#define ISA avx_vnni
#include "kernels/isa/avx_vnni/vnni_256.h"
