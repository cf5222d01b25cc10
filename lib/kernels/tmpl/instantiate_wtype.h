/* instantiate_wtype.h  The bodies for the wt_<type>.h included before, which it forgets. */
#define wt_load_each(row, i, a, b) (*(a) = wt_load(row, i), *(b) = wt_load(row, (i) + VF_LEN))
#ifndef wt_load_two
#define wt_load_two wt_load_each
#endif
#include "kernels/tmpl/rows_dot_tmpl.h"
#include "kernels/tmpl/rows_axpy_tmpl.h"
#include "kernels/tmpl/batch_axpy_tmpl.h"
#undef WT
#undef WT_BYTES
#undef wt_load
#undef wt_load_part
#undef wt_load_each
#undef wt_load_two
#undef wt_load_even_odd
