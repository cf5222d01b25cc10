"""sparseffn: the feed-forward layers of language models, reading only the weights of the neurons that matter.

A ctypes binding of libsparseffn: numpy arrays and CPU torch tensors go in and out without copies.

    import numpy as np, sparseffn as sf
    with sf.Context(n_threads=2) as ctx, sf.Model(ctx, "model.gguf") as model:
        y = model.ffn(0).forward(np.ones(model.info.d_model, np.float32))

Objects: Context, ActiveSet, Matmul, Predictor, Router, FFN, Model, Calibration; prepare() writes model files. Objects made with a
Context are immutable (but ActiveSet) and may be shared between threads; a Context runs one call at a time, so use one
per thread. Calls drop the GIL. Errors are subclasses of SparseffnError and of the built-in exception that fits;
arrays that don't fit raise TypeError (element type, strides) or ShapeError (sizes).
"""

from __future__ import annotations

from ._enums import (
    Activation,
    Active,
    Decision,
    DenseReason,
    DType,
    ExpertScore,
    FileFormat,
    FitStart,
    HiddenActivation,
    HugePages,
    Layout,
    LogLevel,
    MetaKind,
    Path,
    PredictorKind,
    RouterRule,
    Rule,
    Select,
    SelectorInput,
    Storage,
    Tie,
    ValueRule,
    Weighting,
)
from ._errors import (
    ArgumentError,
    BusyError,
    DTypeError,
    FormatError,
    InternalError,
    Interrupted,
    IOError_,
    NotFound,
    NotReservedError,
    OutOfMemory,
    ShapeError,
    SparseffnError,
    ThreadError,
    UnsupportedError,
)
from ._lib import lib as _lib
from ._lib import path as library_path
from ._prepare import PrepareLayer, prepare
from ._train import prosparse_lambda
from ._version import __version__
from .active_set import ActiveSet, normal_quantile
from .calibrate import (
    Activity,
    Calibration,
    CalibrationInfo,
    FitResult,
    LowRank,
    Measured,
    RouterWeights,
    SelectorReport,
    Threshold,
    cluster_neurons,
    fit_low_rank,
    fit_router,
    fit_svd,
)
from .context import Context, ContextInfo, isas, logger
from .ffn import FFN, FFNInfo, FFNStats, LayerStats
from .matmul import Matmul, MatmulInfo
from .model import Layer, Metadata, Model, ModelInfo, Tensors
from .predictor import Predictor, PredictorInfo
from .router import Router, RouterInfo
from .weights import Tensor, Weights, block_size, dequantize, quantize, row_bytes

#: Version of the loaded library, "0.1.0"; ``__version__`` is this package's.
library_version: str = _lib.sffn_version_string().decode()

__all__ = [
    "Activation",
    "Active",
    "ActiveSet",
    "Activity",
    "ArgumentError",
    "BusyError",
    "Calibration",
    "CalibrationInfo",
    "Context",
    "ContextInfo",
    "DType",
    "DTypeError",
    "Decision",
    "DenseReason",
    "ExpertScore",
    "FFN",
    "FFNInfo",
    "FFNStats",
    "FileFormat",
    "FitResult",
    "FitStart",
    "FormatError",
    "HiddenActivation",
    "HugePages",
    "IOError_",
    "InternalError",
    "Interrupted",
    "Layer",
    "LayerStats",
    "Layout",
    "LogLevel",
    "LowRank",
    "Matmul",
    "MatmulInfo",
    "Measured",
    "MetaKind",
    "Metadata",
    "Model",
    "ModelInfo",
    "NotFound",
    "NotReservedError",
    "OutOfMemory",
    "Path",
    "Predictor",
    "PredictorInfo",
    "PredictorKind",
    "PrepareLayer",
    "Router",
    "RouterInfo",
    "RouterRule",
    "RouterWeights",
    "Rule",
    "Select",
    "SelectorInput",
    "SelectorReport",
    "ShapeError",
    "SparseffnError",
    "Storage",
    "Tensor",
    "Tensors",
    "ThreadError",
    "Threshold",
    "Tie",
    "UnsupportedError",
    "ValueRule",
    "Weighting",
    "Weights",
    "__version__",
    "block_size",
    "cluster_neurons",
    "dequantize",
    "fit_low_rank",
    "fit_router",
    "fit_svd",
    "isas",
    "library_path",
    "library_version",
    "logger",
    "normal_quantile",
    "prepare",
    "prosparse_lambda",
    "quantize",
    "row_bytes",
]
