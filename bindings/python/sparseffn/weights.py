"""Weights: matrices as a file or an engine has them, and conversion between types."""

from __future__ import annotations

from typing import Any, Union

import numpy as np

from . import _abi
from ._arrays import F32, FloatArray, view
from ._enums import DType, Layout, parse
from ._errors import ShapeError, error
from ._lib import lib

Array = np.ndarray[Any, np.dtype[Any]]

_PLAIN = {DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16 or uint16"}


def block_size(dtype: DType | str) -> int:
    """Elements per block: 1, or 32 for the quantised types."""
    return int(lib.sffn_dtype_block_size(parse(DType, dtype, "dtype")))


def row_bytes(dtype: DType | str, n: int) -> int:
    """Bytes of a row of n elements. Raises ShapeError when n is not a multiple of the type's block."""
    kind = parse(DType, dtype, "dtype")
    found = int(lib.sffn_dtype_row_bytes(kind, n)) if n >= 0 else 0
    if found == 0 and n != 0:
        raise ShapeError(f"n: a row of {kind.name.lower()} is a multiple of {block_size(kind)} elements, not {n}")
    return found


def _natural(array: Array) -> DType | None:
    """The type that an array's own dtype means; None when it could be any (raw bytes) or is no weight type."""
    dtype = array.dtype
    if not dtype.isnative:
        return None
    if dtype == np.float32:
        return DType.F32
    if dtype == np.float16:
        return DType.F16
    if dtype == np.uint16 or dtype.name == "bfloat16":  # ml_dtypes.bfloat16, without importing it
        return DType.BF16
    return None


class Weights:
    """A matrix of any weight type in memory that somebody else owns; made without a copy.

    Args:
        data: a 2-dimensional array of float32, float16, bfloat16 (ml_dtypes, or uint16 with its bits) with adjacent
            elements in a row and any distance of rows; or raw uint8 bytes, [rows, bytes of a row] or flat, with
            ``dtype`` (and ``shape`` when flat).
        dtype: "f32", "f16", "bf16", "q8_0", "q4_0"; needed for raw bytes. uint16 may be "f16", too.
        shape: (stored rows, elements of a stored row); needed for flat bytes.

    Attributes:
        array: the numpy view; 2-dimensional, of bytes for raw data.
        dtype: a DType.
        shape: (stored rows, elements of a stored row).
        row_bytes: distance of two rows in bytes.

    Raises:
        TypeError: element type or strides. ShapeError: sizes.
    """

    __slots__ = ("array", "dtype", "shape", "row_bytes")

    def __init__(
        self, data: Any, dtype: DType | str | None = None, shape: tuple[int, int] | None = None, name: str = "data"
    ) -> None:
        array = view(data, name)
        wanted = None if dtype is None else parse(DType, dtype, "dtype")
        raw = array.dtype in (np.uint8, np.int8)
        natural = _natural(array)
        if raw:
            if wanted is None:
                raise TypeError(f"{name}: raw bytes need dtype='q8_0', 'q4_0', ...")
            kind = wanted
        elif array.dtype == np.uint16 and wanted in (DType.F16, DType.BF16):
            kind = wanted
        elif natural is None:
            raise TypeError(
                f"{name}: expected float32, float16, bfloat16, uint16 (bf16 bits) or uint8 (raw), got {array.dtype}"
            )
        elif wanted is not None and wanted != natural:
            expected = _PLAIN.get(wanted, "uint8 (raw blocks)")
            raise TypeError(f"{name}: expected {expected} for dtype {wanted.name.lower()!r}, got {array.dtype}")
        else:
            kind = natural
        if shape is not None:
            shape = (int(shape[0]), int(shape[1]))
            if min(shape) < 0:
                raise ShapeError(f"{name}: shape {list(shape)} is negative")
        if raw and array.ndim == 1:
            if shape is None:
                raise ShapeError(f"{name}: flat bytes need shape=(rows, columns)")
            packed = row_bytes(kind, shape[1])
            if array.size != shape[0] * packed:
                raise ShapeError(
                    f"{name}: {kind.name.lower()} of shape {list(shape)} takes {shape[0]} x {packed} bytes, "
                    f"got {array.size}"
                )
            if array.size > 1 and array.strides[0] != 1:
                raise TypeError(f"{name}: expected adjacent bytes, got a stride of {array.strides[0]}")
            array = array.reshape(shape[0], packed)
        if array.ndim != 2:
            raise ShapeError(f"{name}: expected a matrix, got {array.ndim} dimensions")
        if raw and shape is None:
            elements = lib.sffn_dtype_block_size(kind)
            block = lib.sffn_dtype_row_bytes(kind, elements)
            if array.shape[1] % block:
                raise ShapeError(
                    f"{name}: rows of {array.shape[1]} bytes are no whole {kind.name.lower()} blocks of {block}"
                )
            shape = (array.shape[0], array.shape[1] // block * elements)
        elif shape is None:
            shape = (array.shape[0], array.shape[1])
        need = row_bytes(kind, shape[1])
        if array.shape[0] != shape[0] or array.shape[1] * array.itemsize != need:
            raise ShapeError(
                f"{name}: expected shape [{shape[0]}, {need // array.itemsize}] for {list(shape)} of "
                f"{kind.name.lower()}, got {list(array.shape)}"
            )
        distance = need
        if array.size:
            if array.shape[1] > 1 and array.strides[1] != array.itemsize:
                raise TypeError(
                    f"{name}: expected rows of adjacent elements (C order), got strides of {array.strides} bytes"
                )
            if array.shape[0] > 1:
                distance = array.strides[0]
                if distance < need:
                    raise TypeError(
                        f"{name}: expected rows at least {need} bytes apart, got strides of {array.strides} bytes"
                    )
        self.array = array
        self.dtype = kind
        self.shape = shape
        self.row_bytes = distance

    @property
    def address(self) -> int:
        """Where the first element lies."""
        return int(self.array.ctypes.data)

    @property
    def nbytes(self) -> int:
        """Bytes without gaps between rows."""
        return int(self.array.nbytes)

    def struct(self, layout: Layout = Layout.ROWS) -> _abi.sffn_weights:
        """The C struct; valid while this object lives."""
        return _abi.sffn_weights(self.address, int(self.dtype), int(layout), self.row_bytes)

    def __repr__(self) -> str:
        return f"<sparseffn.Weights {self.dtype.name.lower()} {list(self.shape)}>"


class Tensor:
    """A tensor of a model file. ``data`` is a read-only view of the mapped file and keeps it open.

    Attributes:
        name: GGUF's name, "blk.0.ffn_gate.weight"; file_name: the name in the file.
        type_name: "F32", "Q4_K", ... as the file's format calls it.
        dtype: a DType, or None for a type that the library has no kernels for.
        shape: slowest dimension first, in elements.
        data: numpy view: float32, float16, uint16 (bf16 bits), or uint8 [..., bytes of a row] for blocks.
    """

    __slots__ = ("name", "file_name", "type_name", "dtype", "shape", "data")

    def __init__(
        self, name: str, file_name: str, type_name: str, dtype: DType | None, shape: tuple[int, ...], data: Array
    ) -> None:
        self.name = name
        self.file_name = file_name
        self.type_name = type_name
        self.dtype = dtype
        self.shape = shape
        self.data = data

    def weights(self) -> Weights:
        """The matrix for FFN, Matmul, ... Raises TypeError for a type without kernels, ShapeError for no matrix."""
        if self.dtype is None:
            raise TypeError(f"{self.name}: type {self.type_name} has no kernels")
        if len(self.shape) != 2:
            raise ShapeError(f"{self.name}: expected a matrix, got shape {list(self.shape)}")
        return Weights(self.data, self.dtype, (self.shape[0], self.shape[1]), self.name)

    def numpy(self) -> FloatArray:
        """The values as float32, in memory of their own. Raises TypeError for a type without kernels."""
        if self.dtype is None:
            raise TypeError(f"{self.name}: type {self.type_name} has no kernels")
        flat = self.data.reshape(-1, self.data.shape[-1])
        columns = self.shape[-1]
        return dequantize(Weights(flat, self.dtype, (flat.shape[0], columns), self.name)).reshape(self.shape)

    def __repr__(self) -> str:
        return f"<sparseffn.Tensor {self.name!r} {self.type_name} {list(self.shape)}>"


WeightsLike = Union[Weights, Tensor, Any]


def as_weights(obj: WeightsLike, name: str) -> Weights:
    if isinstance(obj, Weights):
        return obj
    if isinstance(obj, Tensor):
        return obj.weights()
    return Weights(obj, name=name)


def quantize(array: Any, dtype: DType | str) -> Weights:
    """Converts a float32 matrix [rows, columns], any row stride, to a weight type, in new memory.

    f16 and bf16 round to nearest even; q8_0 and q4_0 give ggml's blocks, so ``columns`` must be a multiple of 32.
    Raises TypeError, ShapeError.
    """
    kind = parse(DType, dtype, "dtype")
    source = as_weights(array, "array")
    if source.dtype != DType.F32:
        raise TypeError(f"array: expected float32, got {source.array.dtype}")
    n_rows, n_cols = source.shape
    packed = row_bytes(kind, n_cols)
    out = np.empty((n_rows, packed), np.uint8)
    for i in range(n_rows):
        status = lib.sffn_dtype_from_f32(
            kind, source.address + i * source.row_bytes, n_cols, out.ctypes.data + i * packed
        )
        if status:
            raise error(status, f"array: row {i} could not be converted to {kind.name.lower()}")
    plain = {DType.F32: np.float32, DType.F16: np.float16, DType.BF16: np.uint16}.get(kind)
    return Weights(out if plain is None else out.view(plain), kind, (n_rows, n_cols))


def dequantize(weights: WeightsLike, out: Any = None) -> FloatArray:
    """Decodes weights exactly to float32 [rows, columns]; into ``out`` (adjacent columns, any row stride) when given.

    Raises TypeError, ShapeError.
    """
    source = as_weights(weights, "weights")
    n_rows, n_cols = source.shape
    target = np.empty((n_rows, n_cols), F32) if out is None else view(out, "out", writable=True)
    wanted = Weights(target, DType.F32, (n_rows, n_cols), "out")
    for i in range(n_rows):
        status = lib.sffn_dtype_to_f32(
            source.dtype, source.address + i * source.row_bytes, n_cols, wanted.address + i * wanted.row_bytes
        )
        if status:
            raise error(status, f"weights: row {i} could not be decoded")
    return target
