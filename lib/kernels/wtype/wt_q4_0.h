/* wt_q4_0.h  Blocks of 32: f16 scale, 16 bytes of nibbles, byte j = element j | element j + 16 << 4. quants_*_q4_0. */
#define WT q4_0
#define WT_BLOCK_BYTES 18
#define WT_SCALE_STEP WT_BLOCK_BYTES
#define WT_IS_APART 0
