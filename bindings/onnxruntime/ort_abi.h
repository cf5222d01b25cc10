/** @file ort_abi.h  The part of ONNX Runtime's C ABI that the operator uses. No package that carries the whole header is needed. */
#ifndef SFFN_ORT_ABI_H
#define SFFN_ORT_ABI_H
#include <stddef.h>
#include <stdint.h>
/*
 * The PyPI package onnxruntime holds the library without headers, and Debian 12 has neither. ONNX Runtime's table of functions only ever grows
 * at its end, by its own rule ("NEVER remove or rearrange the members", onnxruntime/core/session/onnxruntime_c_api.cc, which also asserts the
 * place of each version's last function), so a few members at their places are a contract that can be declared here. Names are
 * ONNX Runtime's own. Version 17 of the API came with ONNX Runtime 1.17, in January 2024.
 */
#define ORT_API_VERSION 17

/* NULL: success. Owned by who receives it; what is returned to ONNX Runtime becomes its own. */
typedef struct OrtStatus OrtStatus;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtLogger OrtLogger;
struct OrtCustomOp;

/* Enums of the C ABI are ints. */
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_NOT_IMPLEMENTED = 9 };
enum { ORT_LOGGING_LEVEL_INFO = 1, ORT_LOGGING_LEVEL_WARNING = 2 };
enum {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0, /* as an input's type: any */
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16
};
enum { INPUT_OUTPUT_REQUIRED = 0, INPUT_OUTPUT_OPTIONAL = 1 };

typedef void (*ort_unused)(void);

/* Version 1 has members 0 to 101, 2: to 118, ... 13: to 224, 14: to 238, 15: to 254, 16: to 265, 17: to 275. */
typedef struct OrtApi {
    OrtStatus *(*CreateStatus)(int code, const char *text);
    ort_unused unused_1[25];
    OrtStatus *(*CreateCustomOpDomain)(const char *domain, OrtCustomOpDomain **out);
    OrtStatus *(*CustomOpDomain_Add)(OrtCustomOpDomain *domain, const struct OrtCustomOp *op);
    OrtStatus *(*AddCustomOpDomain)(OrtSessionOptions *options, OrtCustomOpDomain *domain);
    ort_unused unused_29[22];
    OrtStatus *(*GetTensorMutableData)(OrtValue *value, void **out);
    ort_unused unused_52[8];
    OrtStatus *(*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *info, int *out);
    OrtStatus *(*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo *info, size_t *out);
    OrtStatus *(*GetDimensions)(const OrtTensorTypeAndShapeInfo *info, int64_t *dims,
                                size_t n_dims);
    ort_unused unused_63[2];
    OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *value, OrtTensorTypeAndShapeInfo **out);
    ort_unused unused_66[19];
    OrtStatus *(*KernelInfoGetAttribute_float)(const OrtKernelInfo *info, const char *name,
                                               float *out);
    OrtStatus *(*KernelInfoGetAttribute_int64)(const OrtKernelInfo *info, const char *name,
                                               int64_t *out);
    OrtStatus *(*KernelInfoGetAttribute_string)(const OrtKernelInfo *info, const char *name,
                                                char *out, size_t *size);
    OrtStatus *(*KernelContext_GetInputCount)(const OrtKernelContext *context, size_t *out);
    OrtStatus *(*KernelContext_GetOutputCount)(const OrtKernelContext *context, size_t *out);
    OrtStatus *(*KernelContext_GetInput)(const OrtKernelContext *context, size_t index,
                                         const OrtValue **out);
    OrtStatus *(*KernelContext_GetOutput)(OrtKernelContext *context, size_t index,
                                          const int64_t *dims, size_t n_dims, OrtValue **out);
    ort_unused unused_92[1];
    void (*ReleaseStatus)(OrtStatus *status);
    ort_unused unused_94[5];
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *info);
    ort_unused unused_100[1];
    void (*ReleaseCustomOpDomain)(OrtCustomOpDomain *domain);
    ort_unused unused_102[128];
    OrtStatus *(*KernelInfo_GetInputCount)(const OrtKernelInfo *info, size_t *out);
    ort_unused unused_231[1];
    OrtStatus *(*KernelInfo_GetInputName)(const OrtKernelInfo *info, size_t index, char *out,
                                          size_t *size);
    ort_unused unused_233[11];
    OrtStatus *(*KernelInfo_GetNodeName)(const OrtKernelInfo *info, char *out, size_t *size);
    OrtStatus *(*KernelInfo_GetLogger)(const OrtKernelInfo *info, const OrtLogger **out);
    ort_unused unused_246[1];
    OrtStatus *(*Logger_LogMessage)(const OrtLogger *logger, int level, const char *text,
                                    const char *file, int line, const char *function);
    ort_unused unused_248[1];
    OrtStatus *(*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo *info, size_t index,
                                                    int *is_constant, const OrtValue **out);
    ort_unused unused_250[24];
    OrtStatus *(*KernelContext_ParallelFor)(const OrtKernelContext *context,
                                            void (*fn)(void *user, size_t i), size_t n,
                                            size_t n_batches, void *user);
    ort_unused unused_275[1];
} OrtApi;

#define ORT_AT(member, index)                                                                      \
    _Static_assert(offsetof(OrtApi, member) == (index) * sizeof(ort_unused), #member)
ORT_AT(GetTensorMutableData, 51);
ORT_AT(KernelInfoGetAttribute_float, 85);
ORT_AT(ReleaseCustomOpDomain, 101);
ORT_AT(KernelInfo_GetInputCount, 230);
ORT_AT(KernelInfoGetConstantInput_tensor, 249);
ORT_AT(KernelContext_ParallelFor, 274);
_Static_assert(sizeof(OrtApi) == 276 * sizeof(ort_unused), "OrtApi of version 17");

typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

/* As of version 17: ONNX Runtime reads no further when .version says so. NULL members are left out or take their defaults. */
typedef struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const struct OrtCustomOp *op, const OrtApi *api,
                          const OrtKernelInfo *info);
    const char *(*GetName)(const struct OrtCustomOp *op);
    const char *(*GetExecutionProviderType)(const struct OrtCustomOp *op);
    int (*GetInputType)(const struct OrtCustomOp *op, size_t index);
    size_t (*GetInputTypeCount)(const struct OrtCustomOp *op);
    int (*GetOutputType)(const struct OrtCustomOp *op, size_t index);
    size_t (*GetOutputTypeCount)(const struct OrtCustomOp *op);
    void (*KernelCompute)(void *kernel, OrtKernelContext *context);
    void (*KernelDestroy)(void *kernel);
    int (*GetInputCharacteristic)(const struct OrtCustomOp *op, size_t index);
    int (*GetOutputCharacteristic)(const struct OrtCustomOp *op, size_t index);
    int (*GetInputMemoryType)(const struct OrtCustomOp *op, size_t index);
    int (*GetVariadicInputMinArity)(const struct OrtCustomOp *op);
    int (*GetVariadicInputHomogeneity)(const struct OrtCustomOp *op);
    int (*GetVariadicOutputMinArity)(const struct OrtCustomOp *op);
    int (*GetVariadicOutputHomogeneity)(const struct OrtCustomOp *op);
    OrtStatus *(*CreateKernelV2)(const struct OrtCustomOp *op, const OrtApi *api,
                                 const OrtKernelInfo *info, void **kernel);
    OrtStatus *(*KernelComputeV2)(void *kernel, OrtKernelContext *context);
    OrtStatus *(*InferOutputShapeFn)(const struct OrtCustomOp *op, OrtShapeInferContext *context);
    int (*GetStartVersion)(const struct OrtCustomOp *op);
    int (*GetEndVersion)(const struct OrtCustomOp *op);
} OrtCustomOp;
#endif /* SFFN_ORT_ABI_H */
