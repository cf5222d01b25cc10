"""The enums of the C headers. Every parameter that takes one also takes its name as a string: ``"relu"``."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar


class DType(IntEnum):
    """Type of weights. The quantised ones are ggml's blocks of 32, bit for bit."""

    F32 = 0
    F16 = 1
    BF16 = 2
    Q8_0 = 3
    Q4_0 = 4


class Layout(IntEnum):
    """How a matrix lies in memory: a neuron is one stored row, or one stored column."""

    ROWS = 0
    COLUMNS = 1


class Storage(IntEnum):
    """COPY packs into the context's memory; BORROW reads the caller's array in place and keeps it alive."""

    COPY = 0
    BORROW = 1


class HugePages(IntEnum):
    """Whether packed weights ask for 2 MiB pages."""

    AUTO = 0
    OFF = 1


class Activation(IntEnum):
    """act() of the gate score; see ffn.h for the formulas. ``"gelu"`` means GELU_ERF."""

    RELU = 0
    FATRELU = 1
    RELU2 = 2
    DRELU = 3
    SILU = 4
    GELU_ERF = 5
    GELU_TANH = 6
    SHIFTED_RELU = 7


class Rule(IntEnum):
    """Post-gate rule: a further test that drops neurons."""

    NONE = 0
    SCORE = 1
    ABS_SCORE = 2
    ABS_H = 3
    TOP_K_SCORE = 4
    TOP_K_H = 5
    BLOCK_TOP_K_SCORE = 6
    BLOCK_TOP_K_H = 7
    STATISTICAL_SCORE = 8
    STATISTICAL_H = 9


class Tie(IntEnum):
    """What happens when a value equals its threshold."""

    DROP = 0
    KEEP = 1


class ValueRule(IntEnum):
    """How ActiveSet.set_values() decides which values are kept."""

    ABOVE = 0
    ABS_ABOVE = 1
    TOP_K = 2
    BLOCK_TOP_K = 3
    STATISTICAL_TOP_K = 4


class Select(IntEnum):
    """Who decides which neurons run, per call."""

    DEFAULT = 0
    DENSE = 1
    GATE = 2
    PREDICTOR = 3
    ROUTER = 4
    ACTIVE = 5


class Path(IntEnum):
    """Which way a call went."""

    SPARSE = 0
    DENSE = 1
    DENSE_ONEDNN = 2


class DenseReason(IntEnum):
    """Why a call ran dense, or would."""

    NOT = 0
    ASKED = 1
    PLAN = 2
    NO_ZEROS = 3
    MANY_TOKENS = 4


class StatsFormat(IntEnum):
    """Texts of a context's statistics."""

    JSON = 0
    PROMETHEUS = 1


class Decision(IntEnum):
    """How scores become a selection."""

    THRESHOLD = 0
    TOP_K = 1


class PredictorKind(IntEnum):
    """How a predictor scores neurons."""

    SCREENED_GATE = 0
    LOW_RANK = 1
    GATE_SVD = 2
    SIGN = 3
    CALLBACK = 4
    CASCADE = 5


class HiddenActivation(IntEnum):
    """Between the two linear maps of a low-rank predictor."""

    NONE = 0
    RELU = 1
    TANH = 2


class SelectorInput(IntEnum):
    """Which tensor a selector reads; only remembered, for the engine to know what to hand in."""

    FFN = 0
    RESIDUAL = 1
    LAYER = 2
    LAYER_NORM = 3
    FIRST_LAYER = 4


class RouterRule(IntEnum):
    """How a router decides."""

    SIGMOID = 0
    TOP_K = 1
    MASS = 2


class Weighting(IntEnum):
    """What multiplies the output of an expert."""

    NONE = 0
    SIGMOID = 1
    SOFTMAX = 2
    SOFTMAX_SELECTED = 3


class Active(IntEnum):
    """What a calibration compares with a threshold; see calibrate.h for the scales."""

    SCORE = 0
    H = 1
    CONTRIBUTION = 2
    CHESS = 3
    GATE = 4
    INPUT = 5


class FitStart(IntEnum):
    """Where the training of a predictor or router starts: PRIOR is the gate's SVD, or the experts' mean rows."""

    AUTO = 0
    RANDOM = 1
    PRIOR = 2


class ExpertScore(IntEnum):
    """What an expert's neurons add up to, as the label of a router."""

    SUM_H = 0
    SUM_CONTRIBUTION = 1


class FileFormat(IntEnum):
    """What a model was opened from."""

    GGUF = 0
    SAFETENSORS = 1
    HF_FOLDER = 2


class LogLevel(IntEnum):
    """Levels of the log function."""

    ERROR = 0
    WARNING = 1
    INFO = 2
    DEBUG = 3


class MetaKind(IntEnum):
    """Kinds of metadata values."""

    NONE = 0
    INT = 1
    FLOAT = 2
    BOOL = 3
    STRING = 4
    ARRAY = 5


EnumT = TypeVar("EnumT", bound=IntEnum)
_ALIASES: dict[tuple[type[IntEnum], str], str] = {(Activation, "GELU"): "GELU_ERF"}


def parse(kind: type[EnumT], value: EnumT | str | int, name: str) -> EnumT:
    """The enum member that ``value`` names. Raises ValueError with the choices, TypeError for other types."""
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        key = value.upper()
        key = _ALIASES.get((kind, key), key)
        if key in kind.__members__:
            return kind.__members__[key]
    elif isinstance(value, int) and not isinstance(value, (bool, IntEnum)):
        if value in kind.__members__.values():
            return kind(value)
    else:
        raise TypeError(f"{name}: expected sparseffn.{kind.__name__} or its name, got {type(value).__name__}")
    choices = ", ".join(repr(m.name.lower()) for m in kind)
    raise ValueError(f"{name}: {value!r} is none of {choices}")
