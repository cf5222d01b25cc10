/* wt_q4_0_apart.h  Apart rows (kernels.h): 2 bytes of scale per block, `quants` bytes behind them 16 bytes of nibbles. quants_*_q4_0_apart. */
#define WT q4_0_apart
#define WT_BLOCK_BYTES 18
#define WT_SCALE_STEP 2 /* from one block's scale to the next */
#define WT_IS_APART 1
