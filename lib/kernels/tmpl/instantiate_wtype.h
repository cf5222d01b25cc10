/* instantiate_wtype.h  The bodies for the wt_<type>.h included before, which it forgets. */
#include "kernels/tmpl/rows_dot_tmpl.h"
#include "kernels/tmpl/rows_axpy_tmpl.h"
#include "kernels/tmpl/batch_axpy_tmpl.h"
#undef WT
#undef WT_BYTES
#undef wt_load
#undef wt_load_part
#undef wt_load_two
#undef wt_load_even_odd
