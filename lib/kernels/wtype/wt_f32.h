/* wt_f32.h  f32 rows. */
#define WT f32
#define WT_BYTES 4
#define wt_load(row, i) vf_load((const float *)(const void *)(row) + (i))
#define wt_load_part(row, i, count) vf_load_part((const float *)(const void *)(row) + (i), count)
