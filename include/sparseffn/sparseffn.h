/** @file sparseffn.h  Includes the whole public API; declares nothing. */
#ifndef SFFN_SPARSEFFN_H
#define SFFN_SPARSEFFN_H
#include "sparseffn/active_set.h"
#include "sparseffn/calibrate.h"
#include "sparseffn/context.h"
#include "sparseffn/dtype.h"
#include "sparseffn/ffn.h"
#include "sparseffn/matmul.h"
#include "sparseffn/model.h"
#include "sparseffn/predictor.h"
#include "sparseffn/prepare.h"
#include "sparseffn/router.h"
#include "sparseffn/stats.h"
#include "sparseffn/status.h"
#include "sparseffn/train.h"
#include "sparseffn/version.h"
#endif /* SFFN_SPARSEFFN_H */
