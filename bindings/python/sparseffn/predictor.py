"""Predictor: which neurons will be active?"""

from __future__ import annotations

import ctypes
from typing import Any

from . import _abi
from ._arrays import FloatArray, Rows, must_not_overlap, out_rows, result, rows, vector
from ._enums import PredictorKind, parse
from ._errors import check
from ._lib import lib
from .active_set import ActiveSet, address_of
from .context import Child, Context, uint32
from .weights import WeightsLike, as_weights


class Predictor(Child):
    """Scores every neuron of a layer cheaply and lets through those that may be active. Immutable: share it.

    "screened_gate" keeps a 4-bit copy of the gate; neuron i passes when score_i + margin * e_i * ||x|| > threshold_i,
    e_i being the root mean square error of row i's copy. Its input is the layer's own x; no training.

    Args:
        context: whose memory it takes.
        gate: an array or Weights [d_ff, d_model], d_model a multiple of 32, not q4_0; only read here.
        gate_bias: float32 [d_ff], or None; copied.
        threshold: a float, or float32 [d_ff] per neuron (copied); use the layer's own gate threshold.
        margin: >= 0, in standard deviations of the 4-bit error; 0: the bare score decides.

    Raises:
        ArgumentError, ShapeError, UnsupportedError, OutOfMemory; TypeError for arrays that don't fit.
    """

    def __init__(
        self,
        context: Context,
        gate: WeightsLike,
        *,
        gate_bias: Any = None,
        threshold: Any = 0.0,
        margin: float = 1.5,
        kind: PredictorKind | str = "screened_gate",
    ) -> None:
        source = as_weights(gate, "gate")
        d_ff, d_model = source.shape
        bias, _bias = vector(gate_bias, "gate_bias", d_ff, "d_ff")
        scalar, vec, _vec = number_or_vector(threshold, "threshold", d_ff)
        config = _abi.sffn_predictor_config(
            kind=parse(PredictorKind, kind, "kind"),
            d_model=uint32(d_model, "d_model"),
            d_ff=uint32(d_ff, "d_ff"),
            gate=source.struct(),
            gate_bias=bias,
            threshold=scalar,
            thresholds=vec,
            margin=margin,
        )
        self._create(context, "sffn_predictor_create", (ctypes.byref(config),), "sffn_predictor_destroy")
        self.d_model, self.d_ff = d_model, d_ff

    @property
    def weight_bytes(self) -> int:
        """Bytes that one prediction reads."""
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

        Returns: ``active``. Raises TypeError, ShapeError, ArgumentError, BusyError; outputs are untouched.
        """
        return select_with(
            self, "sffn_predictor_predict", self.d_model, self.d_ff, "d_ff", 1, x, active, scores, context
        )

    def scores(self, x: Any, out: Any = None, *, context: Context | None = None) -> FloatArray:
        """The scores alone, float32 [n_tokens, d_ff]; arguments as in predict()."""
        return scores_with(self, "sffn_predictor_predict", self.d_model, self.d_ff, "d_ff", x, out, context)

    def _describe(self) -> str:
        return f"d_model={self.d_model} d_ff={self.d_ff}"


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
) -> ActiveSet:
    """The call that predictors and routers share."""
    handle, using = self._live(), self._using(context)
    a = rows(x, "x", n_in, "d_model", any_alignment=True)
    b = None if scores is None else out_rows(scores, "scores", a, n_out, width)
    if b is not None:
        must_not_overlap(b, "scores", a, "x")
    if active is None:
        owner = self.context if context is None else context
        active = ActiveSet(owner, n_out, block_size=block_size, max_tokens=max(1, a.n))
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
