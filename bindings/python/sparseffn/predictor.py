"""Predictor: which neurons will be active?"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from . import _abi
from ._arrays import FloatArray, Rows, must_not_overlap, out_rows, result, rows, vector
from ._enums import Decision, DType, HiddenActivation, PredictorKind, SelectorInput, Tie, parse
from ._errors import ShapeError, check
from ._lib import lib
from .active_set import ActiveSet, address_of
from .context import Child, Context, uint32
from .weights import Weights, WeightsLike, as_weights


#: Writes the scores of one token: fn(x, scores), float32 [d_model] and float32 [n_layers * d_ff].
ScoreFunction = Callable[[FloatArray, FloatArray], None]


@dataclass(frozen=True)
class PredictorInfo:
    """What a Predictor is."""

    kind: PredictorKind
    d_model: int
    d_ff: int
    n_layers: int
    rank: int  #: 0: no hidden layer
    dtype: DType | None  #: packed type of what makes the scores; None: no weights
    hidden_activation: HiddenActivation
    decision: Decision
    tie: Tie
    threshold: float  #: of all neurons
    has_thresholds: bool  #: per neuron instead
    top_k: int  #: rounded up to its multiple
    margin: float
    input: SelectorInput
    weight_bytes: int  #: that one prediction reads; cascade: in its first step
    alpha: float  #: of "sign"; 0 otherwise
    bits: int  #: cascade; 0 otherwise
    step_bits: int
    column_share: float


class Predictor(Child):
    """Scores every neuron of a layer cheaply and lets through those that may be active. Immutable: share it.

    The kinds, and what they take:

    - "screened_gate": ``gate``, ``gate_bias``, ``margin``. A 4-bit copy of the gate; neuron i passes when
      score_i + margin * e_i * ||x|| > threshold_i, e_i being the root mean square error of row i's copy. No training.
    - "low_rank": ``w1``, ``w2``, ``b1``, ``b2``, ``hidden``, ``dtype``, ``n_layers``. score = w2 act(w1 x + b1) + b2
      (Deja Vu, PowerInfer, NimbleEdge; several layers at once: ShadowLLM).
    - "gate_svd": ``gate``, ``gate_bias``, ``rank``, ``dtype``. The best map of this rank in the gate's place. No training.
    - "sign": ``gate``, ``alpha``. One bit per gate weight; a neuron passes unless more than alpha times as many products
      gate_ij * x_j are negative as are not (SparseInfer). No training.
    - "cascade": ``gate``, ``gate_bias``, ``margin``, ``bits``, ``step_bits``, ``input_mean``, ``column_share``. Bit planes of the gate, step after
      step for the neurons still in doubt; ``step_bits=1`` reads the fewest bytes, 2 takes less time. No training.
    - "callback": ``callback``, ``d_model``, ``d_ff``, ``n_layers``. A Python function makes the scores.

    Args:
        context: whose memory it takes.
        gate: an array or Weights [d_ff, d_model]; only read here. Screened: d_model a multiple of 32, not q4_0.
        gate_bias: float32 [d_ff] added to the scores, or None; copied.
        decision: "threshold" or "top_k": the ``top_k`` largest scores, the lowest neurons among equals.
        tie: "drop" or "keep", for a score that equals its threshold.
        threshold: a float, or float32 [n_layers * d_ff] per neuron (copied). For copies of the gate use the layer's own.
        margin: >= 0, in standard deviations of the 4-bit error; 0: the bare score decides.
        top_k: 1 .. d_ff, rounded up to a multiple of ``top_k_multiple``.
        w1, w2: arrays or Weights [rank, d_model] and [n_layers * d_ff, rank]; copied.
        b1, b2: float32 [rank] and [n_layers * d_ff], or None; copied.
        hidden: "none", "relu" or "tanh" between w1 and w2.
        rank: of the SVD; a multiple of 32 for q8_0 and q4_0.
        dtype: packed type of w1 and w2; None keeps theirs, SVD: q8_0.
        alpha: of the sign bits, in (0, 1000], taken to four decimals; larger keeps more.
        bits, step_bits: of the cascade's copy, 1 .. 4, and how many of them a step reads, 1 .. 4 (``bits`` or more: one step).
        input_mean: float32 [d_model], the mean of the cascade's inputs, or None for zero; copied.
        column_share: of the cascade: above 0, a first step that reads a 2-bit copy, and of that only this share of the columns, where
            the input is largest. ``bits`` may be 0 then.
        n_layers: more than 1: one call scores all of them, see predict_layers().
        callback: fn(x, scores), which writes ``scores`` (NaN, which lets through, until written). Both arrays are only
            valid during the call. It runs once per token on one thread of the call, with the GIL. An exception goes to
            sys.unraisablehook, and what is not written passes.
        input: which tensor it reads; only remembered.

    Raises:
        ArgumentError, ShapeError, UnsupportedError, OutOfMemory; TypeError for arrays that don't fit and for missing ones.
    """

    def __init__(
        self,
        context: Context,
        gate: WeightsLike | None = None,
        *,
        gate_bias: Any = None,
        decision: Decision | str = "threshold",
        tie: Tie | str = "drop",
        threshold: Any = 0.0,
        margin: float = 1.5,
        top_k: int = 0,
        top_k_multiple: int = 1,
        w1: WeightsLike | None = None,
        w2: WeightsLike | None = None,
        b1: Any = None,
        b2: Any = None,
        hidden: HiddenActivation | str = "none",
        rank: int = 0,
        dtype: DType | str | None = None,
        bits: int = 3,
        step_bits: int = 2,
        input_mean: Any = None,
        column_share: float = 0.0,
        n_layers: int = 1,
        alpha: float = 1.03,
        callback: ScoreFunction | None = None,
        d_model: int | None = None,
        d_ff: int | None = None,
        input: SelectorInput | str = "ffn",
        kind: PredictorKind | str = "screened_gate",
    ) -> None:
        kind = parse(PredictorKind, kind, "kind")
        config = _abi.sffn_predictor_config(
            kind=kind,
            decision=parse(Decision, decision, "decision"),
            tie=parse(Tie, tie, "tie"),
            margin=margin,
            alpha=alpha,
            top_k=uint32(top_k, "top_k"),
            top_k_multiple=uint32(top_k_multiple, "top_k_multiple"),
            n_layers=uint32(n_layers, "n_layers"),
            rank=uint32(rank, "rank"),
            hidden_activation=parse(HiddenActivation, hidden, "hidden"),
            dtype=-1 if dtype is None else parse(DType, dtype, "dtype"),
            input=parse(SelectorInput, input, "input"),
            bits=uint32(bits, "bits"),
            step_bits=uint32(step_bits, "step_bits"),
            column_share=column_share,
        )
        keep: tuple[Any, ...] = ()
        if kind == PredictorKind.LOW_RANK:
            first, second = _needed(w1, "w1", kind), _needed(w2, "w2", kind)
            (config.rank, d_model), (n_rows, _) = first.shape, second.shape
            if second.shape[1] != config.rank or n_layers == 0 or n_rows % n_layers:
                raise ShapeError(
                    f"w2: expected [n_layers * d_ff, {config.rank}] with n_layers = {n_layers}, got {list(second.shape)}"
                )
            d_ff = n_rows // n_layers
            config.w1, config.w2 = first.struct(), second.struct()
        elif kind == PredictorKind.CALLBACK:
            if callback is None or d_model is None or d_ff is None:
                raise TypeError("kind 'callback' needs callback, d_model and d_ff")
            config.callback = _score_callback(callback)
            keep = (config.callback,)
        else:
            source = _needed(gate, "gate", kind)
            d_ff, d_model = source.shape
            config.gate = source.struct()
        config.d_model, config.d_ff = uint32(d_model, "d_model"), uint32(d_ff, "d_ff")
        n_scores = int(n_layers) * int(d_ff)
        config.gate_bias, _gate_bias = vector(gate_bias, "gate_bias", int(d_ff), "d_ff")
        config.input_mean, _input_mean = vector(input_mean, "input_mean", int(d_model), "d_model")
        config.b1, _b1 = vector(b1, "b1", int(config.rank), "rank")
        config.b2, _b2 = vector(b2, "b2", n_scores, "n_layers * d_ff")
        config.threshold, config.thresholds, _vec = number_or_vector(threshold, "threshold", n_scores)
        self._make(context, config, keep)

    @classmethod
    def _from_config(cls, context: Context, config: _abi.sffn_predictor_config) -> Predictor:
        made = cls.__new__(cls)
        made._make(context, config)
        return made

    def _make(self, context: Context, config: _abi.sffn_predictor_config, keep: tuple[Any, ...] = ()) -> None:
        self._create(context, "sffn_predictor_create", (ctypes.byref(config),), "sffn_predictor_destroy", keep)
        self.d_model, self.d_ff, self.n_layers = int(config.d_model), int(config.d_ff), int(config.n_layers)

    @property
    def info(self) -> PredictorInfo:
        """What it is, as it was packed."""
        handle = self._live()
        i = _abi.sffn_predictor_info()
        handle.check(lib.sffn_predictor_get_info(handle.ptr, ctypes.byref(i)), "sffn_predictor_get_info")
        return PredictorInfo(
            kind=PredictorKind(i.kind),
            d_model=i.d_model,
            d_ff=i.d_ff,
            n_layers=i.n_layers,
            rank=i.rank,
            dtype=None if i.dtype < 0 else DType(i.dtype),
            hidden_activation=HiddenActivation(i.hidden_activation),
            decision=Decision(i.decision),
            tie=Tie(i.tie),
            threshold=i.threshold,
            has_thresholds=bool(i.has_thresholds),
            top_k=i.top_k,
            margin=i.margin,
            input=SelectorInput(i.input),
            weight_bytes=i.weight_bytes,
            alpha=i.alpha,
            bits=i.bits,
            step_bits=i.step_bits,
            column_share=i.column_share,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes that one prediction reads; a cascade's first step."""
        handle = self._live()
        return int(lib.sffn_predictor_weight_bytes(handle.ptr))

    def predict(
        self, x: Any, active: ActiveSet | None = None, *, scores: Any = None, context: Context | None = None
    ) -> ActiveSet:
        """Keeps, for each token, the neurons that pass.

        Args:
            x: float32 [n_tokens, d_model], any row stride, or [d_model].
            active: of d_ff blocks of size 1, max_tokens >= n_tokens; overwritten. None: a new set.
            scores: float32 [n_tokens, d_ff] to write the scores to, any row stride, or None.

        Returns: ``active``. Raises TypeError, ShapeError, ArgumentError, BusyError; UnsupportedError when it scores
        several layers; outputs are untouched.
        """
        return select_with(
            self, "sffn_predictor_predict", self.d_model, self.d_ff, "d_ff", 1, x, active, scores, context
        )

    def predict_layers(
        self, x: Any, active: Sequence[ActiveSet] | None = None, *, context: Context | None = None
    ) -> list[ActiveSet]:
        """The selections of all layers in one call; hand the l-th to layer l. Arguments and errors as in predict()."""
        handle, using = self._live(), self._using(context)
        a = rows(x, "x", self.d_model, "d_model", any_alignment=True)
        if active is None:
            owner = self.context if context is None else context
            active = [ActiveSet(owner, self.d_ff, max_tokens=max(1, a.n)) for _ in range(self.n_layers)]
        sets = list(active)
        if len(sets) != self.n_layers:
            raise ShapeError(f"active: expected {self.n_layers} sets, got {len(sets)}")
        held = [address_of(s, f"active[{i}]") for i, s in enumerate(sets)]
        pointers = (ctypes.c_void_p * len(sets))(*(address for address, _ in held))
        function = "sffn_predictor_predict_layers"
        check(getattr(lib, function)(using.ptr, handle.ptr, a.address, a.stride, a.n, pointers), using.ptr, function)
        return sets

    def scores(self, x: Any, out: Any = None, *, context: Context | None = None) -> FloatArray:
        """The scores alone, float32 [n_tokens, n_layers * d_ff]; arguments as in predict()."""
        width = "d_ff" if self.n_layers == 1 else "n_layers * d_ff"
        n = self.n_layers * self.d_ff
        return scores_with(self, "sffn_predictor_predict", self.d_model, n, width, x, out, context)

    def _describe(self) -> str:
        layers = "" if self.n_layers == 1 else f" n_layers={self.n_layers}"
        return f"d_model={self.d_model} d_ff={self.d_ff}{layers}"


def _needed(obj: WeightsLike | None, name: str, kind: PredictorKind) -> Weights:
    if obj is None:
        raise TypeError(f"{name}: kind {kind.name.lower()!r} needs it")
    return as_weights(obj, name)


def _score_callback(function: ScoreFunction) -> Any:
    """The C callback, which shows the two vectors as arrays."""
    floats = ctypes.c_float

    def call(_user: int | None, x: int, n_x: int, scores: int, n_scores: int) -> None:
        a = np.frombuffer((floats * n_x).from_address(x), np.float32)
        a.flags.writeable = False
        function(a, np.frombuffer((floats * n_scores).from_address(scores), np.float32))

    return _abi.predictor_callback(call)


def number_or_vector(value: Any, name: str, n: int) -> tuple[float, int | None, Any]:
    """A threshold: (the number, None, None), or (0, address of the vector, what keeps it alive)."""
    if hasattr(value, "__float__") and not getattr(value, "shape", ()):
        return float(value), None, None
    address, keep = vector(value, name, n, "d_ff")
    return 0.0, address, keep


def select_with(
    self: Child,
    function: str,
    n_in: int,
    n_out: int,
    width: str,
    block_size: int,
    x: Any,
    active: ActiveSet | None,
    scores: Any,
    context: Context | None,
    has_weights: bool = False,
) -> ActiveSet:
    """The call that predictors and routers share."""
    handle, using = self._live(), self._using(context)
    a = rows(x, "x", n_in, "d_model", any_alignment=True)
    b = None if scores is None else out_rows(scores, "scores", a, n_out, width)
    if b is not None:
        must_not_overlap(b, "scores", a, "x")
    if active is None:
        owner = self.context if context is None else context
        active = ActiveSet(owner, n_out, block_size=block_size, max_tokens=max(1, a.n), has_weights=has_weights)
    set_ptr, _held = address_of(active)
    _call(function, using.ptr, handle.ptr, a, b, set_ptr)
    return active


def scores_with(
    self: Child, function: str, n_in: int, n_out: int, width: str, x: Any, out: Any, context: Context | None
) -> FloatArray:
    handle, using = self._live(), self._using(context)
    a = rows(x, "x", n_in, "d_model", any_alignment=True)
    b = out_rows(out, "out", a, n_out, width)
    must_not_overlap(b, "out", a, "x")
    _call(function, using.ptr, handle.ptr, a, b, None)
    return result(out, b)  # type: ignore[no-any-return]


def _call(function: str, context: int, ptr: int, x: Rows, scores: Rows | None, active: int | None) -> None:
    address, stride = (None, 0) if scores is None else (scores.address, scores.stride)
    check(getattr(lib, function)(context, ptr, x.address, x.stride, x.n, address, stride, active), context, function)
