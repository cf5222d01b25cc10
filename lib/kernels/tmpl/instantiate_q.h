/* instantiate_q.h  The integer bodies x both quantised types, for ISAs whose vectors have a compile-time size and that provide, for each
 * type, in a quants_<isa>.h:
 *     struct quants_<type>                                   VF_LEN decoded blocks
 *     quants_load_<type>(&w, p)                              from VF_LEN whole blocks at p; reads nothing outside them
 *     vf quants_scales_<type>(p)                             their scales, lane b that of block b
 *     vi quants_dot_<type>(&w, q, sum)                       lane b: sum of w * q over block b, exact; sum[b] is that of q
 *     vi quants_dot_same_<type>(&w, q, sum)                  the same against one block of q for all
 *     AXPY_BLOCKS_<type> and axpy_*_<type>                   see rows_axpy_int_q_tmpl.h
 */
#include "kernels/wtype/wt_q8_0.h"
#include "kernels/tmpl/instantiate_q_wtype.h"
#include "kernels/wtype/wt_q4_0.h"
#include "kernels/tmpl/instantiate_q_wtype.h"
