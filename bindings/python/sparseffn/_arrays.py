"""Arrays in and out without copies.

Anything that shares its memory is taken: numpy arrays, CPU torch tensors (torch is never imported here), objects
with ``__array_interface__`` or ``__dlpack__``, and buffers. What does not fit is a TypeError (element type, strides,
read-only) or a ShapeError (sizes) that names the argument and what was expected; nothing is copied behind the scenes.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._errors import ArgumentError, ShapeError

F32 = np.dtype(np.float32)
FloatArray = npt.NDArray[np.float32]


class Rows(NamedTuple):
    """Rows of floats in somebody's memory. ``array`` keeps them alive."""

    array: np.ndarray[Any, np.dtype[Any]]
    address: int
    n: int  # rows
    stride: int  # elements from one row to the next
    is_1d: bool  # given as a single row


def _name_of(obj: object) -> str:
    kind = type(obj)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def is_torch(obj: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.Tensor)


def _from_torch(tensor: Any, name: str, writable: bool) -> np.ndarray[Any, np.dtype[Any]]:
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise TypeError(f"{name}: expected a tensor on the CPU, got one on {tensor.device}")
    if tensor.requires_grad:
        if writable:
            raise TypeError(f"{name}: expected a tensor that requires no gradient, since the library writes into it")
        tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # numpy has no such type: the same bits as uint16
        return np.asarray(tensor.view(torch.int16).numpy()).view(np.uint16)
    try:
        return np.asarray(tensor.numpy())
    except (TypeError, RuntimeError) as e:
        raise TypeError(f"{name}: this tensor has no numpy view: {e}") from e


def view(obj: Any, name: str, writable: bool = False) -> np.ndarray[Any, np.dtype[Any]]:
    """A numpy array on the memory of ``obj``, never a copy. Raises TypeError."""
    if type(obj) is np.ndarray:
        array = obj
    elif isinstance(obj, np.ndarray) or hasattr(obj, "__array_interface__"):
        array = np.asarray(obj)
    elif is_torch(obj):
        array = _from_torch(obj, name, writable)
    elif hasattr(obj, "__dlpack__"):
        try:
            array = np.from_dlpack(obj)
        except (BufferError, RuntimeError, TypeError, ValueError) as e:
            raise TypeError(f"{name}: {_name_of(obj)} gives no CPU array through DLPack: {e}") from e
    else:
        try:
            array = np.asarray(memoryview(obj))
        except TypeError:
            raise TypeError(
                f"{name}: expected a numpy array, a CPU tensor, or another object that shares its memory "
                f"(__array_interface__, __dlpack__, buffer), got {_name_of(obj)}"
            ) from None
    if writable and not array.flags.writeable:
        raise TypeError(f"{name}: expected a writable array, this one is read-only")
    return array


def _check_f32(array: np.ndarray[Any, np.dtype[Any]], name: str, must_align: bool) -> None:
    if array.dtype != F32:
        raise TypeError(f"{name}: expected float32, got {array.dtype}")
    if must_align and not array.flags.aligned:
        raise TypeError(f"{name}: expected an array aligned to 4 bytes")


def rows(
    obj: Any,
    name: str,
    n_cols: int,
    width: str,
    n_rows: int | None = None,
    writable: bool = False,
    any_alignment: bool = False,
    tight: bool = False,
) -> Rows:
    """Float32 rows of ``n_cols``, any row stride unless ``tight``; a 1-dimensional array is a single row.

    ``width`` is what ``n_cols`` is called in messages, ``n_rows`` the number that must be there (None: any).
    """
    array = view(obj, name, writable)
    _check_f32(array, name, not any_alignment)
    shape = array.shape
    n = 1 if len(shape) == 1 else shape[0] if len(shape) == 2 else -1
    if n < 0 or shape[-1] != n_cols or n_rows not in (None, n):
        tokens = "n_tokens" if n_rows is None else str(n_rows)
        single = f"[{n_cols}] or " if n_rows in (None, 1) else ""
        raise ShapeError(f"{name}: expected shape {single}[{tokens}, {n_cols}] ({width} = {n_cols}), got {list(shape)}")
    stride = n_cols
    if array.size:
        if n_cols > 1 and array.strides[-1] != 4:
            raise TypeError(
                f"{name}: expected rows of adjacent floats (C order), got strides of {array.strides} bytes; "
                "numpy.ascontiguousarray() makes such a copy"
            )
        if n > 1:
            distance = array.strides[0]
            if distance % 4 or distance < 4 * n_cols:
                raise TypeError(
                    f"{name}: expected rows at least {4 * n_cols} bytes apart, a multiple of 4, got strides of "
                    f"{array.strides} bytes"
                )
            if tight and distance != 4 * n_cols:
                raise TypeError(f"{name}: expected rows without gaps, got strides of {array.strides} bytes")
            stride = distance // 4
    return Rows(array, array.ctypes.data, n, stride, len(shape) == 1)


def out_rows(obj: Any, name: str, like: Rows, n_cols: int, width: str, tight: bool = False) -> Rows:
    """Rows to write for each row of ``like``: ``obj``, or a new array of the same dimensions when it is None."""
    if obj is None:
        array = np.empty(n_cols if like.is_1d else (like.n, n_cols), F32)
        return Rows(array, array.ctypes.data, like.n, n_cols, like.is_1d)
    return rows(obj, name, n_cols, width, n_rows=like.n, writable=True, tight=tight)


def must_not_overlap(out: Rows, out_name: str, source: Rows, source_name: str) -> None:
    if np.may_share_memory(out.array, source.array) and np.shares_memory(out.array, source.array):
        raise ArgumentError(f"{out_name}: must not overlap {source_name}")


def vector(obj: Any, name: str, n: int, width: str) -> tuple[int | None, Any]:
    """Address of ``n`` adjacent float32 (None for None) and the array that keeps them alive."""
    if obj is None:
        return None, None
    array = view(obj, name)
    _check_f32(array, name, True)
    if array.shape != (n,):
        raise ShapeError(f"{name}: expected shape [{n}] ({width} = {n}), got {list(array.shape)}")
    if n > 1 and array.strides[0] != 4:
        raise TypeError(f"{name}: expected adjacent floats, got a stride of {array.strides[0]} bytes")
    return array.ctypes.data, array


def result(given: Any, made: Rows) -> Any:
    """What a method with ``out=`` returns: the caller's own object, or the new array."""
    return made.array if given is None else given
