#define IS_OURS(data, size) 1
#include "fuzz_model.inc"
