/* wt_bf16.h  bf16 rows. */
#define WT bf16
#define WT_BYTES 2
#define wt_load(row, i) vf_from_bf16((row) + (i) * WT_BYTES)
#define wt_load_part(row, i, count) vf_from_bf16_part((row) + (i) * WT_BYTES, count)
#ifdef VF_TWO
#define wt_load_two(row, i, a, b) vf_from_bf16_two((row) + (i) * WT_BYTES, a, b)
#endif
#ifdef VF_EVEN_ODD
#define wt_load_even_odd(row, i, a, b) vf_from_bf16_even_odd((row) + (i) * WT_BYTES, a, b)
#endif
