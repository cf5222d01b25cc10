"""Model: tensors, metadata and FFN layers of a model file."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Union

import numpy as np

from . import _abi
from ._arrays import FloatArray
from ._enums import Activation, DType, FileFormat, Layout, MetaKind, Rule, Select, Tie
from ._errors import NotFound
from ._lib import lib
from .active_set import foreign_array
from .context import Child, Context, probe, uint32
from .ffn import FFN
from .predictor import Predictor
from .router import Router
from .weights import Tensor, Weights, row_bytes

MetaValue = Union[int, float, bool, str, list[Any], None]

_PLAIN = {DType.F32: np.float32, DType.F16: np.float16, DType.BF16: np.uint16}


@dataclass(frozen=True)
class ModelInfo:
    """Hyper-parameters; 0, None or "" when the file does not say."""

    format: FileFormat
    architecture: str
    name: str
    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    n_context: int
    rms_norm_eps: float
    rope_theta: float
    activation: Activation | None
    act_threshold: float
    act_tie: Tie
    is_tied: bool  #: no output matrix of its own
    rope_is_permuted: bool  #: q and k rows are in GGUF's llama order
    n_tensors: int
    file_bytes: int
    n_meta: int


@dataclass(frozen=True)
class Layer:
    """What a file says of one FFN layer. The fields are FFN's parameters; arrays are views of the mapped file."""

    up: Weights
    down: Weights
    gate: Weights | None
    down_layout: Layout
    gate_bias: FloatArray | None
    up_bias: FloatArray | None
    down_bias: FloatArray | None
    activation: Activation
    act_threshold: float
    act_tie: Tie
    rule: Rule
    rule_threshold: float | FloatArray
    rule_tie: Tie
    rule_k: int
    rule_m: int
    rule_sparsity: float
    block_size: int
    name: str | None

    def parameters(self) -> dict[str, Any]:
        """``FFN(context, **layer.parameters())`` makes the layer."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Metadata(Mapping[str, MetaValue]):
    """The file's metadata, read on access: int, float, bool, str, or a list of them. KeyError: NotFound."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._kinds: dict[str, tuple[MetaKind, MetaKind, int]] | None = None

    def _read_kinds(self) -> dict[str, tuple[MetaKind, MetaKind, int]]:
        if self._kinds is None:
            handle = self._model._live()
            found: dict[str, tuple[MetaKind, MetaKind, int]] = {}
            key = ctypes.c_char_p()
            kind, element = ctypes.c_int32(), ctypes.c_int32()
            n = ctypes.c_uint64()
            out = [ctypes.byref(v) for v in (key, kind, element, n)]
            while True:
                status = probe(lib.sffn_model_get_meta, handle.ptr, len(found), *out)
                if status == NotFound.STATUS:
                    break
                handle.check(status, "sffn_model_get_meta")
                name = (key.value or b"").decode("utf-8", "surrogateescape")
                if name in found:
                    raise RuntimeError(f"the library lists the metadata key {name!r} twice")
                found[name] = (MetaKind(kind.value), MetaKind(element.value), n.value)
            self._kinds = found
        return self._kinds

    def __getitem__(self, key: str) -> MetaValue:
        entry = self._read_kinds().get(key)
        if entry is None:
            raise NotFound(f"no metadata key {key!r}")
        kind, element, n = entry
        name = key.encode("utf-8", "surrogateescape")
        if kind == MetaKind.ARRAY:
            return [self._one(name, element, i) for i in range(n)]
        return self._one(name, kind, 0)

    def _one(self, key: bytes, kind: MetaKind, index: int) -> MetaValue:
        model = self._model
        handle = model._live()
        if kind in (MetaKind.INT, MetaKind.BOOL):
            integer = ctypes.c_int64()
            handle.check(lib.sffn_model_get_int(handle.ptr, key, index, ctypes.byref(integer)), "sffn_model_get_int")
            return bool(integer.value) if kind == MetaKind.BOOL else integer.value
        if kind == MetaKind.FLOAT:
            real = ctypes.c_double()
            handle.check(lib.sffn_model_get_float(handle.ptr, key, index, ctypes.byref(real)), "sffn_model_get_float")
            return real.value
        if kind == MetaKind.STRING:
            text, n = ctypes.c_void_p(), ctypes.c_size_t()
            status = lib.sffn_model_get_string(handle.ptr, key, index, ctypes.byref(text), ctypes.byref(n))
            handle.check(status, "sffn_model_get_string")
            return (
                ctypes.string_at(text.value, n.value).decode("utf-8", "surrogateescape")
                if n.value and text.value
                else ""
            )
        return None  # null, or an array inside an array

    def __iter__(self) -> Iterator[str]:
        return iter(self._read_kinds())

    def __len__(self) -> int:
        return len(self._read_kinds())

    def __repr__(self) -> str:
        return f"<sparseffn.Metadata {len(self)} keys>"


class Tensors(Mapping[str, Tensor]):
    """The file's tensors by GGUF name (or the file's own name); data are read-only views. KeyError: NotFound."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getitem__(self, name: str) -> Tensor:
        model = self._model
        handle = model._live()
        info = _abi.sffn_tensor_info()
        if not isinstance(name, str) or "\0" in name:  # C would see the part before the zero
            raise NotFound(f"no tensor {name!r}")
        key = name.encode("utf-8", "surrogateescape")
        status = probe(lib.sffn_model_find_tensor, handle.ptr, key, ctypes.byref(info))
        handle.check(status, "sffn_model_find_tensor")
        return _tensor(info, handle)

    def __iter__(self) -> Iterator[str]:
        model = self._model
        handle = model._live()
        info = _abi.sffn_tensor_info()
        for index in range(model.info.n_tensors):
            handle.check(lib.sffn_model_get_tensor(handle.ptr, index, ctypes.byref(info)), "sffn_model_get_tensor")
            yield _text(info.name)

    def __len__(self) -> int:
        return self._model.info.n_tensors

    def __repr__(self) -> str:
        return f"<sparseffn.Tensors {len(self)}>"


class Model(Child):
    """A memory-mapped GGUF file, a safetensors file, or a Hugging Face folder. Immutable: share it between threads.

    Views of it (tensors, layers, borrowed FFNs) keep the mapping alive, also after close().

    Args:
        context: whose memory and log it takes.
        path: the file or folder.

    Raises:
        IOError_ (an OSError), FormatError (path, offset, reason), UnsupportedError, OutOfMemory.
    """

    def __init__(self, context: Context, path: str | os.PathLike[str]) -> None:
        self._create(context, "sffn_model_open", (_path(path),), "sffn_model_close")
        self.path = os.fspath(path)

    @property
    def info(self) -> ModelInfo:
        handle = self._live()
        s = _abi.sffn_model_info()
        handle.check(lib.sffn_model_get_info(handle.ptr, ctypes.byref(s)), "sffn_model_get_info")
        values = {field.name: getattr(s, field.name) for field in fields(ModelInfo)}
        values.update(
            format=FileFormat(s.format),
            architecture=_text(s.architecture),
            name=_text(s.name),
            activation=None if s.activation < 0 else Activation(s.activation),
            act_tie=Tie(s.act_tie),
            is_tied=bool(s.is_tied),
            rope_is_permuted=bool(s.rope_is_permuted),
        )
        return ModelInfo(**values)

    @property
    def tensors(self) -> Tensors:
        """Mapping of names to Tensor."""
        return Tensors(self)

    @property
    def metadata(self) -> Metadata:
        """Mapping of GGUF keys to values."""
        return Metadata(self)

    @property
    def n_layers(self) -> int:
        return self.info.n_layers

    def layer(self, layer: int) -> Layer:
        """What the file says of one FFN layer.

        Raises NotFound (layer or tensor), ShapeError (sizes contradict the metadata), UnsupportedError.
        """
        handle = self._live()
        c = _abi.sffn_ffn_config()
        status = lib.sffn_model_layer_config(handle.ptr, uint32(layer, "layer"), ctypes.byref(c))
        handle.check(status, "sffn_model_layer_config")
        down_shape = (c.d_model, c.d_ff) if c.down.layout == Layout.COLUMNS else (c.d_ff, c.d_model)
        up = _weights(c.up, (c.d_ff, c.d_model), handle)
        down = _weights(c.down, down_shape, handle)
        assert up is not None and down is not None
        thresholds = _floats(c.rule_thresholds, c.d_ff, handle)
        return Layer(
            up=up,
            down=down,
            gate=_weights(c.gate, (c.d_ff, c.d_model), handle),
            down_layout=Layout(c.down.layout),
            gate_bias=_floats(c.gate_bias, c.d_ff, handle),
            up_bias=_floats(c.up_bias, c.d_ff, handle),
            down_bias=_floats(c.down_bias, c.d_model, handle),
            activation=Activation(c.activation),
            act_threshold=c.act_threshold,
            act_tie=Tie(c.act_tie),
            rule=Rule(c.rule),
            rule_threshold=c.rule_threshold if thresholds is None else thresholds,
            rule_tie=Tie(c.rule_tie),
            rule_k=c.rule_k,
            rule_m=c.rule_m,
            rule_sparsity=c.rule_sparsity,
            block_size=c.block_size,
            name=None if c.name is None else _text(c.name),
        )

    def plan(self, layer: int) -> Select:
        """How the file says this layer should run; Select.DEFAULT when it does not. Raises NotFound, FormatError."""
        handle = self._live()
        select = ctypes.c_int32()
        status = lib.sffn_model_layer_plan(handle.ptr, uint32(layer, "layer"), ctypes.byref(select))
        handle.check(status, "sffn_model_layer_plan")
        return Select(select.value)

    def permutation(self, layer: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
        """uint32 [d_ff]: the file's neuron i was neuron permutation[i] before preparation.

        Raises NotFound (never permuted), FormatError, ShapeError.
        """
        handle = self._live()
        name = f"blk.{uint32(layer, 'layer')}.ffn_up.weight"
        order = np.empty(self.tensors[name].shape[0], np.uint32)
        status = lib.sffn_model_layer_permutation(handle.ptr, layer, order.ctypes.data)
        handle.check(status, "sffn_model_layer_permutation")
        return order

    def predictor(self, layer: int, *, margin: float | None = None, context: Context | None = None) -> Predictor:
        """The layer's predictor from the file; a screened gate with the layer's own threshold when the file has none.

        ``margin`` asks for the screened gate in any case. Raises FormatError, ShapeError, UnsupportedError.
        """
        using = self.context if context is None else context
        config = self._predictor_config(layer) if margin is None else None
        if config is not None:
            return Predictor._from_config(using, config)
        found = self.layer(layer)
        # The gate score of an ungated layer is its up projection.
        gate, bias = (found.up, found.up_bias) if found.gate is None else (found.gate, found.gate_bias)
        threshold = found.act_threshold if found.activation in (Activation.FATRELU, Activation.SHIFTED_RELU) else 0.0
        margin = 1.5 if margin is None else margin
        return Predictor(using, gate, gate_bias=bias, threshold=threshold, margin=margin)

    def router(self, layer: int, *, context: Context | None = None) -> Router:
        """The layer's router. Raises NotFound when it has none, FormatError, ShapeError, UnsupportedError."""
        handle = self._live()
        config = _abi.sffn_router_config()
        status = lib.sffn_model_layer_router_config(handle.ptr, uint32(layer, "layer"), ctypes.byref(config))
        handle.check(status, "sffn_model_layer_router_config")
        return Router._from_config(self.context if context is None else context, config)

    def _predictor_config(self, layer: int) -> _abi.sffn_predictor_config | None:
        handle = self._live()
        config = _abi.sffn_predictor_config()
        status = probe(
            lib.sffn_model_layer_predictor_config, handle.ptr, uint32(layer, "layer"), ctypes.byref(config)
        )
        if status == NotFound.STATUS and layer < self.n_layers:
            return None
        handle.check(status, "sffn_model_layer_predictor_config")
        return config

    def ffn(self, layer: int, *, context: Context | None = None, **parameters: Any) -> FFN:
        """The FFN of one layer with the selector and the plan of the file, ready to run.

        ``parameters`` are FFN's and come before what the file says: ``model.ffn(0, storage="borrow")`` reads gate and
        up in the mapped file, ``model.ffn(0, predictor=p)`` or ``router=``, ``select=`` replace the plan.
        Raises as layer(), predictor(), router() and FFN().
        """
        values = self.layer(layer).parameters()
        if values["name"] is None:
            values["name"] = f"blk.{layer}"
        if not {"predictor", "router", "select"} & parameters.keys():
            values.update(self._selector(layer, context))
        values.update(parameters)
        return FFN(self.context if context is None else context, **values)

    def _selector(self, layer: int, context: Context | None) -> dict[str, Any]:
        """What the plan names; without one, what there is."""
        plan = self.plan(layer)
        values: dict[str, Any] = {"select": plan}
        if plan in (Select.DEFAULT, Select.PREDICTOR) and self._predictor_config(layer) is not None:
            values["predictor"] = self.predictor(layer, context=context)
        elif plan == Select.ROUTER:
            values["router"] = self.router(layer, context=context)
        elif plan == Select.DEFAULT:
            try:
                values["router"] = self.router(layer, context=context)
            except NotFound:
                pass
        return values

    def _describe(self) -> str:
        info = self.info
        return f"{info.name!r} n_layers={info.n_layers} d_model={info.d_model} d_ff={info.d_ff}"


def _path(path: str | os.PathLike[str]) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("path: contains a zero byte")
    return name


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "surrogateescape")


def _tensor(info: _abi.sffn_tensor_info, keep: object) -> Tensor:
    shape = tuple(info.dims[i] for i in range(info.n_dims))
    dtype = DType(info.dtype) if info.dtype >= 0 else None
    raw = foreign_array(info.data, info.bytes, keep) if info.data and info.bytes else np.empty(0, np.uint8)
    data: np.ndarray[Any, np.dtype[Any]] = raw
    if dtype is not None:
        plain = _PLAIN.get(dtype)
        if plain is not None:
            data = raw.view(plain).reshape(shape)
        else:
            data = raw.reshape(*shape[:-1], row_bytes(dtype, shape[-1]))
    return Tensor(_text(info.name), _text(info.file_name), _text(info.type_name), dtype, shape, data)


def _weights(w: _abi.sffn_weights, shape: tuple[int, int], keep: object) -> Weights | None:
    if not w.data:
        return None
    dtype = DType(w.dtype)
    packed = row_bytes(dtype, shape[1])
    distance = w.row_bytes or packed
    raw = foreign_array(w.data, (shape[0] - 1) * distance + packed, keep)
    matrix = np.lib.stride_tricks.as_strided(raw, (shape[0], packed), (distance, 1), writeable=False)
    plain = _PLAIN.get(dtype)
    return Weights(matrix if plain is None else matrix.view(plain), dtype, shape)


def _floats(address: int | None, n: int, keep: object) -> FloatArray | None:
    return foreign_array(address, 4 * n, keep).view(np.float32) if address else None
