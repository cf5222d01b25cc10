"""prepare(): one GGUF file with neuron-major down rows, and the selectors of its layers, from a model."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Mapping, Sequence

import numpy as np

from . import _abi
from ._arrays import vector
from ._enums import (
    Decision,
    DType,
    HiddenActivation,
    PredictorKind,
    RouterRule,
    Rule,
    Select,
    SelectorInput,
    Tie,
    Weighting,
    parse,
)
from ._errors import ShapeError
from ._lib import lib
from ._progress import Progress, Watch
from .context import Context, uint32
from .model import Model, _path
from .predictor import number_or_vector
from .weights import as_weights

_ENUMS: dict[str, type[IntEnum]] = {
    "kind": PredictorKind,
    "decision": Decision,
    "tie": Tie,
    "hidden_activation": HiddenActivation,
    "dtype": DType,
    "input": SelectorInput,
    "rule": RouterRule,
    "weighting": Weighting,
}


#: Fields of the C structs that are no parameters here: the layer's own, what a file cannot hold, and counts of rows.
_NOT_GIVEN = {"struct_size", "d_model", "d_ff", "gate", "gate_bias", "callback", "callback_user", "n_layers", "thresholds"}
_NOT_GIVEN |= {"n_experts", "n_hidden"}


@dataclass
class PrepareLayer:
    """What was found out about one layer, in the order of the source's neurons.

    Args:
        plan: "default" (not said), "dense", "gate", "predictor", "router".
        rule, rule_tie, rule_k, rule_m, rule_sparsity: as of FFN; rule_threshold: a float, or float32 [d_ff].
        predictor: a mapping with the parameters of Predictor, but gate and gate_bias, which are the layer's, callback and
            n_layers: ``{"kind": "screened_gate", "margin": 1.0}``. None: no predictor.
        router: a mapping with the parameters of Router. None: no router.
        permutation: integers [d_ff]: new neuron i is the source's permutation[i]. None: as they are.
    """

    plan: Select | str = "default"
    rule: Rule | str = "none"
    rule_tie: Tie | str = "drop"
    rule_threshold: Any = 0.0
    rule_k: int = 0
    rule_m: int = 0
    rule_sparsity: float = 0.0
    predictor: Mapping[str, Any] | None = None
    router: Mapping[str, Any] | None = None
    permutation: Any = None


def _fill(config: Any, what: str, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[Any]:
    """Sets the fields; ``shapes`` has those of arrays. Returns what must live as long as the config."""
    known = {name for name, *_ in config._fields_} - _NOT_GIVEN
    keep: list[Any] = []
    for given, value in values.items():
        name = "hidden_activation" if given == "hidden" else given
        if name not in known or given == "hidden_activation":
            raise TypeError(f"{what}: no parameter {given!r}")
        if name == "threshold" and hasattr(config, "thresholds"):
            config.threshold, config.thresholds, kept = number_or_vector(value, f"{what}.threshold", config.d_ff)
            keep.append(kept)
        elif name in shapes and len(shapes[name]) == 1:
            address, kept = vector(value, f"{what}.{name}", shapes[name][0], "its length")
            setattr(config, name, address)
            keep.append(kept)
        elif name in shapes:
            if value is None:
                continue
            matrix = as_weights(value, f"{what}.{name}")
            if matrix.shape != shapes[name]:
                raise ShapeError(f"{what}.{name}: expected shape {list(shapes[name])}, got {list(matrix.shape)}")
            setattr(config, name, matrix.struct())
            keep.append(matrix)
        elif name in _ENUMS:
            setattr(config, name, -1 if value is None else parse(_ENUMS[name], value, f"{what}.{name}"))
        elif isinstance(getattr(config, name), float):
            setattr(config, name, float(value))
        else:
            setattr(config, name, uint32(value, f"{what}.{name}"))
    return keep


def _rows(matrix: Any, name: str) -> int:
    return 0 if matrix is None else as_weights(matrix, name).shape[0]


def _predictor(what: str, values: Mapping[str, Any], d_model: int, d_ff: int) -> tuple[Any, list[Any]]:
    rank = _rows(values.get("w1"), f"{what}.w1") or int(values.get("rank", 0))
    config = _abi.sffn_predictor_config(d_model=d_model, d_ff=d_ff, rank=rank)
    shapes: dict[str, tuple[int, ...]] = {"w1": (rank, d_model), "w2": (d_ff, rank), "b1": (rank,), "b2": (d_ff,)}
    shapes["input_mean"] = (d_model,)
    return config, _fill(config, what, values, shapes)


def _router(what: str, values: Mapping[str, Any], d_model: int) -> tuple[Any, list[Any]]:
    n_experts = _rows(values.get("weights"), f"{what}.weights")
    n_hidden = _rows(values.get("hidden_weights"), f"{what}.hidden_weights")
    config = _abi.sffn_router_config(d_model=d_model, n_experts=n_experts, n_hidden=n_hidden)
    shapes: dict[str, tuple[int, ...]] = {
        "weights": (n_experts, n_hidden or d_model),
        "bias": (n_experts,),
        "hidden_weights": (n_hidden, d_model),
        "hidden_bias": (n_hidden,),
    }
    return config, _fill(config, what, values, shapes)


def _layers(model: Model, layers: Sequence[PrepareLayer]) -> tuple[Any, list[Any]]:
    """The C array, and what it points to."""
    array = (_abi.sffn_prepare_layer * len(layers))()
    keep: list[Any] = []
    d_model = model.info.d_model
    for i, layer in enumerate(layers):
        what = f"layers[{i}]"
        name = f"blk.{i}.ffn_up.weight"
        d_ff = model.tensors[name].shape[0] if name in model.tensors else model.info.d_ff
        threshold, thresholds, kept = number_or_vector(layer.rule_threshold, f"{what}.rule_threshold", d_ff)
        keep.append(kept)
        array[i] = _abi.sffn_prepare_layer(
            plan=parse(Select, layer.plan, f"{what}.plan"),
            rule=parse(Rule, layer.rule, f"{what}.rule"),
            rule_tie=parse(Tie, layer.rule_tie, f"{what}.rule_tie"),
            rule_threshold=threshold,
            rule_thresholds=thresholds,
            rule_k=uint32(layer.rule_k, f"{what}.rule_k"),
            rule_m=uint32(layer.rule_m, f"{what}.rule_m"),
            rule_sparsity=layer.rule_sparsity,
        )
        if layer.predictor is not None:
            config, kept = _predictor(f"{what}.predictor", layer.predictor, d_model, d_ff)
            array[i].predictor = ctypes.addressof(config)
            keep += [config, kept]
        if layer.router is not None:
            config, kept = _router(f"{what}.router", layer.router, d_model)
            array[i].router = ctypes.addressof(config)
            keep += [config, kept]
        if layer.permutation is not None:
            order = np.ascontiguousarray(layer.permutation)
            if order.shape != (d_ff,) or order.dtype.kind not in "iu":
                raise ShapeError(f"{what}.permutation: expected {d_ff} integers, got {order.dtype} {list(order.shape)}")
            order = np.where(order < 0, 0xFFFFFFFF, order).astype(np.uint32)  # out of range stays out of range
            array[i].permutation = order.ctypes.data
            keep.append(order)
    return array, keep


def prepare(
    context: Context,
    model: Model,
    out_path: str | os.PathLike[str],
    *,
    dtype: DType | str | None = None,
    keep_embeddings: bool = True,
    act_threshold: float | None = None,
    progress: Progress | None = None,
    layers: Sequence[PrepareLayer] | None = None,
    command: str | None = None,
    notes: str | None = None,
) -> None:
    """Writes ``out_path``, a GGUF v3 with the model's tensors, each down projection as rows of neurons.

    Args:
        context: runs the work.
        model: the source.
        dtype: type of all matrices; None: as they are, q8_0 for types without kernels. Vectors stay f32.
        keep_embeddings: the token embedding and output matrix are not brought below q8_0.
        act_threshold: writes fatrelu with this threshold (>= 0) in place of relu; None: what the source says.
        progress: (what, done, total) -> true to stop. What it raises stops the work and comes out of this call.
        layers: one PrepareLayer per layer; they replace all selectors, rules and plans that the source has. None: the
            source's are carried over.
        command, notes: how the file was made, and anything else worth knowing; None: what the source says.

    The file appears when it is complete; an interrupted run leaves nothing.

    Raises:
        ArgumentError, IOError_, FormatError, ShapeError, UnsupportedError, OutOfMemory, Interrupted; TypeError and
        ValueError for layers that don't fit.
    """
    if act_threshold is not None and not act_threshold >= 0:
        raise ValueError(f"act_threshold: {act_threshold} is not >= 0")
    watch = Watch(progress)
    array, _keep = (None, None) if layers is None else _layers(model, layers)
    config = _abi.sffn_prepare_config(
        dtype=-1 if dtype is None else parse(DType, dtype, "dtype"),
        keep_embeddings=keep_embeddings,
        act_threshold=-1.0 if act_threshold is None else act_threshold,
        progress=watch.fn,
        layers=None if array is None else ctypes.addressof(array),
        n_layers=0 if array is None else len(array),
        command=None if command is None else command.encode(),
        notes=None if notes is None else notes.encode(),
    )
    using, source = context._live(), model._live()
    status = lib.sffn_prepare(using.ptr, source.ptr, _path(out_path), ctypes.byref(config))
    watch.check(status, using.ptr, "sffn_prepare")
