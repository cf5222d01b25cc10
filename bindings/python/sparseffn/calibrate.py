"""What preparation learns from a model's weights and activations: thresholds, experts, predictors."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _abi
from ._arrays import F32, FloatArray, Rows, rows
from ._enums import Active, Tie, parse
from ._errors import ArgumentError, ShapeError, check
from ._lib import lib
from ._progress import Progress, Watch
from .context import Child, Context, uint32
from .ffn import FFN
from .predictor import number_or_vector
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
        scalar, vector, _keep = number_or_vector(threshold, "threshold", self.d_ff)
        activity = _abi.sffn_activity(parse(Active, kind, "kind"), parse(Tie, tie, "tie"), scalar, vector)
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

    def _describe(self) -> str:
        return f"d_model={self.d_model} d_ff={self.d_ff}"


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
