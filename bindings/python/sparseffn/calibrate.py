"""What preparation learns from a model's weights and activations: thresholds, experts, predictors."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _abi
from ._arrays import F32, FloatArray, Rows, rows
from ._enums import Active, ExpertScore, FitStart, HiddenActivation, Tie, parse
from ._errors import ArgumentError, ShapeError, check
from ._lib import lib
from ._progress import Progress, Watch
from .context import Child, Context, uint32
from .ffn import FFN
from .predictor import Predictor, number_or_vector
from .router import Router
from .weights import WeightsLike, as_weights


@dataclass(frozen=True)
class CalibrationInfo:
    """Sizes of a calibration: n_tokens were added, n_samples kept, n_eval are measured; ``bytes`` of memory held."""

    d_model: int
    d_ff: int
    select_d_model: int
    n_samples: int
    n_eval: int
    n_tokens: int
    bytes: int


@dataclass(frozen=True)
class Measured:
    """What dropping the inactive neurons does to a layer, over n_tokens.

    Attributes:
        density: active / (tokens * d_ff); of elements of x for "input".
        cett: mean over tokens of ||what was dropped|| / ||y without bias||; max_cett: of one token.
        relative_error: sqrt(sum of squared errors of y / sum of squared y), bias included.
    """

    n_tokens: int
    density: float
    cett: float
    max_cett: float
    relative_error: float


class Threshold(NamedTuple):
    """A found threshold: T of the kind, t_i per neuron (None for "input"), the tie rule, and what it does."""

    kind: Active
    tie: Tie
    threshold: float
    thresholds: FloatArray | None
    measured: Measured


@dataclass(frozen=True)
class SelectorReport:
    """How well a selector finds the active neurons: recall and precision over all tokens together.

    ``density`` is what it lets through, ``true_density`` what is active; cett, max_cett and relative_error are of y
    when exactly what is not let through is dropped.
    """

    n_tokens: int
    true_density: float
    density: float
    recall: float
    precision: float
    cett: float
    max_cett: float
    relative_error: float


@dataclass(frozen=True)
class FitResult:
    """What a fit reached: held-out recall before and after training, at ``density`` let through above ``threshold``."""

    n_train: int
    n_held_out: int
    n_epochs: int
    label_density: float
    density: float
    start_recall: float
    recall: float
    loss: float
    threshold: float


@dataclass(frozen=True)
class Activity:
    """Which neurons count as active: value above threshold, see Calibration.measure(). The default: s is not zero."""

    kind: Active | str = "score"
    threshold: Any = 0.0
    tie: Tie | str = "drop"

    def _struct(self, d_ff: int) -> tuple[_abi.sffn_activity, Any]:
        scalar, vector, keep = number_or_vector(self.threshold, "threshold", d_ff)
        kind, tie = parse(Active, self.kind, "kind"), parse(Tie, self.tie, "tie")
        return _abi.sffn_activity(kind, tie, scalar, vector), keep


class LowRank(NamedTuple):
    """Weights of a low-rank predictor: w1 [rank, d], w2 [d_ff, rank], biases or None, and what the fit reached."""

    w1: FloatArray
    w2: FloatArray
    b1: FloatArray | None
    b2: FloatArray | None
    result: FitResult


class RouterWeights(NamedTuple):
    """Weights of a router: hidden [n_experts, d] of an MLP or None, weight [n_experts, d or n_experts]."""

    hidden: FloatArray | None
    weight: FloatArray
    result: FitResult


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name, *_ in struct._fields_ if name != "struct_size"}


class Calibration(Child):
    """A bounded sample of one layer's inputs, and measurements on it. One thread at a time.

    Args:
        context: whose memory it takes.
        ffn: the layer; kept alive. Its post-gate rule and selectors are not looked at.
        max_samples: tokens kept; of more, a uniform random sample stays.
        eval_samples: of these, how many thresholds and measurements look at.
        select_d_model: width of the selector's own input, kept beside x; 0: selectors see x.
        keep_second_moment: keeps the mean of x x' over all tokens.
        seed: of the sample.

    Raises:
        ArgumentError, OutOfMemory.
    """

    def __init__(
        self,
        context: Context,
        ffn: FFN,
        *,
        max_samples: int = 4096,
        eval_samples: int = 512,
        select_d_model: int = 0,
        keep_second_moment: bool = False,
        seed: int = 0,
    ) -> None:
        layer = ffn._live()
        config = _abi.sffn_calibration_config(
            ffn=layer.ptr,
            max_samples=uint32(max_samples, "max_samples"),
            eval_samples=uint32(eval_samples, "eval_samples"),
            select_d_model=uint32(select_d_model, "select_d_model"),
            keep_second_moment=keep_second_moment,
            seed=seed & 0xFFFFFFFFFFFFFFFF,
        )
        args = (ctypes.byref(config),)
        self._create(context, "sffn_calibration_create", args, "sffn_calibration_destroy", (layer,))
        info = self.info
        self.d_model, self.d_ff, self.select_d_model = info.d_model, info.d_ff, info.select_d_model

    @property
    def info(self) -> CalibrationInfo:
        """Sizes and counts."""
        handle, info = self._live(), _abi.sffn_calibration_info()
        handle.check(lib.sffn_calibration_get_info(handle.ptr, ctypes.byref(info)), "sffn_calibration_get_info")
        return CalibrationInfo(**_fields(info))

    def add(self, x: Any, select_x: Any = None, *, context: Context | None = None) -> None:
        """Streams tokens in: float32 x [n_tokens, d_model], select_x [n_tokens, select_d_model], any row strides.

        What is kept does not depend on how the tokens are cut into calls. Raises ArgumentError for NaN and infinity.
        """
        handle, using = self._live(), self._using(context)
        a = rows(x, "x", self.d_model, "d_model")
        b = Rows(a.array, 0, 0, 0, False)
        if select_x is not None:
            if not self.select_d_model:
                raise ShapeError("select_x: this calibration has select_d_model 0")
            b = rows(select_x, "select_x", self.select_d_model, "select_d_model", n_rows=a.n)
        status = lib.sffn_calibration_add(
            using.ptr, handle.ptr, a.address, a.stride, b.address or None, b.stride, a.n
        )
        check(status, using.ptr, "sffn_calibration_add")

    def samples(self) -> tuple[FloatArray, FloatArray | None]:
        """Copies of the sampled x [n_samples, d_model] and of the selector's inputs (None without)."""
        handle, n = self._live(), self.info.n_samples
        x = np.empty((n, self.d_model), F32)
        select_x = np.empty((n, self.select_d_model), F32) if self.select_d_model else None
        address = None if select_x is None else select_x.ctypes.data
        status = lib.sffn_calibration_get_samples(handle.ptr, x.ctypes.data, address)
        handle.check(status, "sffn_calibration_get_samples")
        return x, select_x

    def second_moment(self, *, context: Context | None = None) -> FloatArray:
        """Mean of x x' over all tokens, [d_model, d_model]. Raises UnsupportedError when it was not kept."""
        handle, using = self._live(), self._using(context)
        out = np.empty((self.d_model, self.d_model), F32)
        status = lib.sffn_calibration_get_second_moment(using.ptr, handle.ptr, out.ctypes.data)
        check(status, using.ptr, "sffn_calibration_get_second_moment")
        return out

    def measure(
        self,
        kind: Active | str = "score",
        threshold: Any = 0.0,
        *,
        tie: Tie | str = "drop",
        context: Context | None = None,
    ) -> Measured:
        """Density and errors when what does not pass is dropped.

        Args:
            kind: "score", "h", "contribution", "chess", "gate", "input".
            threshold: T (t_i = T / c_i), or float32 [d_ff] t_i themselves.
            tie: "drop" or "keep" at equality.
        """
        handle, using = self._live(), self._using(context)
        activity, _keep = Activity(kind, threshold, tie)._struct(self.d_ff)
        measured = _abi.sffn_measured()
        status = lib.sffn_calibration_measure(
            using.ptr, handle.ptr, ctypes.byref(activity), ctypes.byref(measured)
        )
        check(status, using.ptr, "sffn_calibration_measure")
        return Measured(**_fields(measured))

    def find_threshold(
        self,
        kind: Active | str = "contribution",
        *,
        target_cett: float | None = None,
        target_density: float | None = None,
        progress: Progress | None = None,
        context: Context | None = None,
    ) -> Threshold:
        """The largest T whose mean CETT is at most target_cett, or the T that leaves target_density. One is given.

        "contribution" gives the thresholds of CETT for FFN(rule="abs_h"), "chess" and "score" those of CHESS and CATS
        for rule="abs_score", "gate" the threshold of FATReLU, "input" TEAL's (target_density only).
        """
        handle, using = self._live(), self._using(context)
        what, watch = parse(Active, kind, "kind"), Watch(progress)
        config = _abi.sffn_threshold_config(
            kind=what,
            target_cett=-1.0 if target_cett is None else target_cett,
            target_density=-1.0 if target_density is None else target_density,
            progress=watch.fn,
        )
        activity, measured = _abi.sffn_activity(), _abi.sffn_measured()
        thresholds = None if what is Active.INPUT else np.empty(self.d_ff, F32)
        status = lib.sffn_calibration_find_threshold(
            using.ptr,
            handle.ptr,
            ctypes.byref(config),
            ctypes.byref(activity),
            None if thresholds is None else thresholds.ctypes.data,
            ctypes.byref(measured),
        )
        watch.check(status, using.ptr, "sffn_calibration_find_threshold")
        return Threshold(what, Tie(activity.tie), activity.threshold, thresholds, Measured(**_fields(measured)))

    def measure_selector(
        self, selector: Predictor | Router, activity: Activity | None = None, *, context: Context | None = None
    ) -> SelectorReport:
        """Recall, precision, density and errors of a predictor or router; ``activity``: what counts as active."""
        handle, using = self._live(), self._using(context)
        predictor, router, _held = _selector(selector)
        report, what = _abi.sffn_selector_report(), (activity or Activity())._struct(self.d_ff)
        status = lib.sffn_calibration_measure_selector(
            using.ptr, handle.ptr, predictor, router, ctypes.byref(what[0]), ctypes.byref(report)
        )
        check(status, using.ptr, "sffn_calibration_measure_selector")
        return SelectorReport(**_fields(report))

    def selector_threshold(
        self,
        selector: Predictor | Router,
        recall: float,
        activity: Activity | None = None,
        *,
        per_neuron: bool = False,
        context: Context | None = None,
    ) -> float | FloatArray:
        """The largest threshold of the selector's scores that lets through ``recall`` of the active neurons.

        With ``per_neuron`` one for each neuron, float32 [d_ff] (predictors). A router's is one of the logit.
        """
        handle, using = self._live(), self._using(context)
        predictor, router, _held = _selector(selector)
        what = (activity or Activity())._struct(self.d_ff)
        scalar, vector = ctypes.c_float(), np.empty(self.d_ff, F32) if per_neuron else None
        status = lib.sffn_calibration_selector_threshold(
            using.ptr,
            handle.ptr,
            predictor,
            router,
            ctypes.byref(what[0]),
            recall,
            ctypes.byref(scalar),
            None if vector is None else vector.ctypes.data,
            None,
        )
        check(status, using.ptr, "sffn_calibration_selector_threshold")
        return scalar.value if vector is None else vector

    def selector_margin(
        self, predictor: Predictor, recall: float, activity: Activity | None = None, *, context: Context | None = None
    ) -> float:
        """The smallest margin of a screened gate, with its own thresholds, that reaches ``recall``."""
        handle, using = self._live(), self._using(context)
        ptr, router, _held = _selector(predictor)
        what, margin = (activity or Activity())._struct(self.d_ff), ctypes.c_float()
        status = lib.sffn_calibration_selector_threshold(
            using.ptr, handle.ptr, ptr, router, ctypes.byref(what[0]), recall, None, None, ctypes.byref(margin)
        )
        check(status, using.ptr, "sffn_calibration_selector_threshold")
        return margin.value

    def _describe(self) -> str:
        return f"d_model={self.d_model} d_ff={self.d_ff}"


def _selector(selector: Predictor | Router) -> tuple[int | None, int | None, Any]:
    """Addresses of the predictor and of the router, one of them None, and what keeps the object alive."""
    if not isinstance(selector, (Predictor, Router)):
        raise TypeError(f"selector: expected a sparseffn.Predictor or Router, got {type(selector).__name__}")
    handle = selector._live()
    return (handle.ptr, None, handle) if isinstance(selector, Predictor) else (None, handle.ptr, handle)


def cluster_neurons(
    context: Context,
    weights: WeightsLike,
    *,
    group_size: int = 32,
    normalize: bool = True,
    max_rounds: int = 30,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.uint32], float]:
    """Balanced k-means: experts of exactly ``group_size`` neurons from the rows of the gate (up when ungated).

    Args:
        weights: an array or Weights [d_ff, d_model], any type; group_size divides d_ff.
        normalize: rows are scaled to length 1 first.
        max_rounds: of improvement by swaps; ends earlier when hardly any row moves.

    Returns: (permutation, cost): permutation[new position] = neuron, for ``gate[permutation]``; cost is the sum of
    squared distances to the experts' means. The same for any number of threads.

    Raises:
        ShapeError: group_size does not divide d_ff. ArgumentError: NaN. Interrupted.
    """
    source, using, watch = as_weights(weights, "weights"), context._live(), Watch(progress)
    n, d = source.shape
    config = _abi.sffn_cluster_config(
        weights=source.struct(),
        n_rows=uint32(n, "d_ff"),
        n_cols=uint32(d, "d_model"),
        group_size=uint32(group_size, "group_size"),
        normalize=normalize,
        max_rounds=uint32(max_rounds, "max_rounds"),
        seed=seed & 0xFFFFFFFFFFFFFFFF,
        progress=watch.fn,
    )
    permutation, cost = np.empty(n, np.uint32), ctypes.c_double()
    status = lib.sffn_cluster_neurons(
        using.ptr, ctypes.byref(config), permutation.ctypes.data, ctypes.byref(cost)
    )
    watch.check(status, using.ptr, "sffn_cluster_neurons")
    return permutation, cost.value


def fit_svd(
    context: Context,
    weights: WeightsLike,
    rank: int,
    *,
    second_moment: Any = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[FloatArray, FloatArray, float]:
    """The best map of a rank: (w1 [rank, d_model], w2 [d_ff, rank], captured) with weights ~ w2 @ w1.

    Args:
        weights: the gate, an array or Weights [d_ff, d_model], any type.
        second_moment: float32 [d_model, d_model], Calibration.second_moment(): the loss is then that on such inputs.

    ``captured`` is the share of the squared norm that stays. w2 has orthonormal columns.
    """
    source, using, watch = as_weights(weights, "weights"), context._live(), Watch(progress)
    n, d = source.shape
    moment = None if second_moment is None else rows(second_moment, "second_moment", d, "d_model", n_rows=d, tight=True)
    config = _abi.sffn_svd_config(
        weights=source.struct(),
        n_rows=uint32(n, "d_ff"),
        n_cols=uint32(d, "d_model"),
        rank=uint32(rank, "rank"),
        second_moment=None if moment is None else moment.address,
        seed=seed & 0xFFFFFFFFFFFFFFFF,
        progress=watch.fn,
    )
    if not 0 < rank <= min(n, d):
        raise ArgumentError(f"rank: {rank} is outside 1 .. {min(n, d)}")
    w1, w2, captured = np.empty((rank, d), F32), np.empty((n, rank), F32), ctypes.c_double()
    status = lib.sffn_fit_svd(
        using.ptr, ctypes.byref(config), w1.ctypes.data, w2.ctypes.data, ctypes.byref(captured)
    )
    watch.check(status, using.ptr, "sffn_fit_svd")
    return w1, w2, captured.value


def fit_low_rank(
    calibration: Calibration,
    rank: int,
    *,
    hidden: HiddenActivation | str = "none",
    bias: bool = False,
    activity: Activity | None = None,
    start: FitStart | str = "auto",
    batch_size: int = 256,
    max_epochs: int = 20,
    patience: int = 5,
    learning_rate: float = 0.001,
    weight_decay: float = 0.01,
    density: float | None = None,
    stop_recall: float = 0.999,
    seed: int = 0,
    progress: Progress | None = None,
    context: Context | None = None,
) -> LowRank:
    """Trains a low-rank predictor on a calibration's samples: weighted cross-entropy as in Deja Vu, AdamW.

    Args:
        rank: of the hidden layer; hidden: "none" (Deja Vu), "relu" (PowerInfer), "tanh".
        activity: what is to be predicted; None: s is not zero.
        start: "prior" is the gate's SVD (input x, hidden none or relu), "auto" takes it where it exists.
        max_epochs: 0 returns the start; patience: epochs without better held-out recall before it stops.
        density: budget at which recall is taken; None: twice the labels' density.

    Returns the weights with the best held-out recall, for Predictor(kind="low_rank").

    Raises:
        ArgumentError: fewer than 40 samples, nothing active, outputs that diverge. Interrupted.
    """
    handle, using, watch = calibration._live(), calibration._using(context), Watch(progress)
    what = (activity or Activity())._struct(calibration.d_ff)
    config = _abi.sffn_low_rank_config(
        rank=uint32(rank, "rank"),
        hidden_activation=parse(HiddenActivation, hidden, "hidden"),
        has_bias=bias,
        activity=what[0],
        start=parse(FitStart, start, "start"),
        batch_size=uint32(batch_size, "batch_size"),
        max_epochs=uint32(max_epochs, "max_epochs"),
        patience=uint32(patience, "patience"),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        density=density or 0.0,
        stop_recall=stop_recall,
        seed=seed & 0xFFFFFFFFFFFFFFFF,
        progress=watch.fn,
    )
    d = calibration.select_d_model or calibration.d_model
    w1, w2 = np.empty((rank, d), F32), np.empty((calibration.d_ff, rank), F32)
    b1, b2 = (np.empty(rank, F32), np.empty(calibration.d_ff, F32)) if bias else (None, None)
    result = _abi.sffn_fit_result()
    status = lib.sffn_fit_low_rank(
        using.ptr,
        handle.ptr,
        ctypes.byref(config),
        w1.ctypes.data,
        w2.ctypes.data,
        None if b1 is None else b1.ctypes.data,
        None if b2 is None else b2.ctypes.data,
        ctypes.byref(result),
    )
    watch.check(status, using.ptr, "sffn_fit_low_rank")
    return LowRank(w1, w2, b1, b2, FitResult(**_fields(result)))


def fit_router(
    calibration: Calibration,
    block_size: int = 32,
    *,
    permutation: Any = None,
    score: ExpertScore | str = "sum_h",
    mlp: bool = False,
    normalize_input: bool = False,
    start: FitStart | str = "auto",
    batch_size: int = 256,
    max_epochs: int = 30,
    patience: int = 5,
    learning_rate: float = 0.01,
    weight_decay: float = 0.0,
    density: float = 0.2,
    stop_recall: float = 0.999,
    seed: int = 0,
    progress: Progress | None = None,
    context: Context | None = None,
) -> RouterWeights:
    """Trains a router for experts of ``block_size`` neurons of a dense layer (MoEfication).

    Args:
        permutation: uint32 [d_ff] from cluster_neurons(); None: the layer's own order.
        score: "sum_h" or "sum_contribution" of an expert's neurons is what is predicted.
        mlp: Linear - tanh - Linear instead of one linear map; normalize_input: x is scaled to length 1.
        start: "prior" are the experts' mean rows of the gate; with max_epochs=0 the router without training.
        density: share of the experts at which recall is taken.

    Raises:
        ShapeError: block_size does not divide d_ff. ArgumentError: as fit_low_rank(). Interrupted.
    """
    handle, using, watch = calibration._live(), calibration._using(context), Watch(progress)
    order = None
    if permutation is not None:
        order = np.ascontiguousarray(permutation, np.uint32)
        if order.shape != (calibration.d_ff,):
            raise ShapeError(f"permutation: expected shape [{calibration.d_ff}] (d_ff), got {list(order.shape)}")
    config = _abi.sffn_router_fit_config(
        block_size=uint32(block_size, "block_size"),
        permutation=None if order is None else order.ctypes.data,
        score=parse(ExpertScore, score, "score"),
        is_mlp=mlp,
        normalize_input=normalize_input,
        start=parse(FitStart, start, "start"),
        batch_size=uint32(batch_size, "batch_size"),
        max_epochs=uint32(max_epochs, "max_epochs"),
        patience=uint32(patience, "patience"),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        density=density,
        stop_recall=stop_recall,
        seed=seed & 0xFFFFFFFFFFFFFFFF,
        progress=watch.fn,
    )
    d, n = calibration.select_d_model or calibration.d_model, calibration.d_ff // max(1, block_size)
    hidden = np.empty((n, d), F32) if mlp else None
    weight = np.empty((n, n if mlp else d), F32)
    result = _abi.sffn_fit_result()
    status = lib.sffn_fit_router(
        using.ptr,
        handle.ptr,
        ctypes.byref(config),
        None if hidden is None else hidden.ctypes.data,
        weight.ctypes.data,
        ctypes.byref(result),
    )
    watch.check(status, using.ptr, "sffn_fit_router")
    return RouterWeights(hidden, weight, FitResult(**_fields(result)))
