/* wt_q8_0.h  Blocks of 32: f16 scale, 32 x int8. The ISA decodes VF_LEN blocks at a time: quants_*_q8_0. */
#define WT q8_0
#define WT_BLOCK_BYTES 34
#define WT_SCALE_STEP WT_BLOCK_BYTES
#define WT_IS_APART 0
