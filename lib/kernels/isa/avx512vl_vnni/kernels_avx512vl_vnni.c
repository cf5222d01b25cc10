/* kernels_avx512vl_vnni.c  The same as avx_vnni in AVX-512's encoding, for CPUs whose clock suffers from vectors of 512 bits (Cascade Lake). */
#define ISA avx512vl_vnni
#include "kernels/isa/avx_vnni/vnni_256.h"
