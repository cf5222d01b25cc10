/* instantiate_q_wtype.h  The integer bodies for the wt_<type>.h included before, which it forgets. */
#define STEP_BYTES ((size_t)VF_LEN * WT_BLOCK_BYTES)
#include "kernels/tmpl/rows_dot_q_tmpl.h"
#include "kernels/tmpl/blocks_axpy_q_tmpl.h"
#include "kernels/tmpl/rows_axpy_int_q_tmpl.h"
#undef STEP_BYTES
#undef WT
#undef WT_BLOCK_BYTES
