/* instantiate.h  Every body of tmpl/ x every weight type, for the ISA being compiled.
 * Include after tmpl/kernel.h and a vec_<isa>.h, with ISA defined as the row's name. The integer bodies (*_q_tmpl.h) are included by the
 * ISAs that have the primitives for them.
 */
#include "kernels/tmpl/ahead.h"

#include "kernels/wtype/wt_f32.h"
#include "kernels/tmpl/instantiate_wtype.h"
#include "kernels/wtype/wt_f16.h"
#include "kernels/tmpl/instantiate_wtype.h"
#include "kernels/wtype/wt_bf16.h"
#include "kernels/tmpl/instantiate_wtype.h"

#include "kernels/tmpl/quantize_x_tmpl.h"
#include "kernels/tmpl/threshold_tmpl.h"
#include "kernels/tmpl/activate_tmpl.h"
#include "kernels/tmpl/signs_tmpl.h"
