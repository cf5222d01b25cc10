"""Matmul: one packed weight matrix and its block-sparse products."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _abi
from ._arrays import F32, FloatArray, must_not_overlap, out_rows, result, rows
from ._enums import DType, Layout, Storage, parse
from ._errors import check
from ._lib import lib
from .active_set import ActiveSet, address_of
from .context import Child, Context, uint32
from .weights import WeightsLike, as_weights


@dataclass(frozen=True)
class MatmulInfo:
    n_rows: int
    n_cols: int
    block_size: int
    dtype: DType
    storage: Storage
    weight_bytes: int  #: without padding: what a dense product must read
    row_bytes: int  #: distance of two rows in memory


class Matmul(Child):
    """A packed matrix of n_rows rows (neurons) and n_cols columns. Immutable: share it between threads and contexts.

    Args:
        context: whose memory it takes.
        weights: an array or Weights, stored [n_rows, n_cols], or [n_cols, n_rows] with ``layout="columns"``.
        layout: "rows": a neuron is a stored row; "columns": a stored column (transposed while packing).
        storage: "copy", or "borrow": the array is read in place and kept alive; change it and results change.
        dtype: packed type; None keeps the source's, bit for bit.
        block_size: 32 keeps the q8_0/q4_0 blocks of a "columns" source losslessly; rows are then active in whole
            blocks of 32, and only rows_axpy works.

    Raises:
        ArgumentError, ShapeError, UnsupportedError (borrow with another layout or type), OutOfMemory; TypeError for
        arrays that don't fit.
    """

    def __init__(
        self,
        context: Context,
        weights: WeightsLike,
        *,
        layout: Layout | str = "rows",
        storage: Storage | str = "copy",
        dtype: DType | str | None = None,
        block_size: int = 1,
    ) -> None:
        source = as_weights(weights, "weights")
        lay = parse(Layout, layout, "layout")
        n_rows, n_cols = source.shape if lay == Layout.ROWS else source.shape[::-1]
        store = parse(Storage, storage, "storage")
        config = _abi.sffn_matmul_config(
            n_rows=uint32(n_rows, "n_rows"),
            n_cols=uint32(n_cols, "n_cols"),
            weights=source.struct(lay),
            storage=store,
            dtype=-1 if dtype is None else parse(DType, dtype, "dtype"),
            block_size=uint32(block_size, "block_size"),
        )
        keep = (source,) if store == Storage.BORROW else ()
        self._create(context, "sffn_matmul_create", (ctypes.byref(config),), "sffn_matmul_destroy", keep)
        self.n_rows, self.n_cols = n_rows, n_cols

    @property
    def info(self) -> MatmulInfo:
        handle = self._live()
        s = _abi.sffn_matmul_info()
        handle.check(lib.sffn_matmul_get_info(handle.ptr, ctypes.byref(s)), "sffn_matmul_get_info")
        return MatmulInfo(
            s.n_rows, s.n_cols, s.block_size, DType(s.dtype), Storage(s.storage), s.weight_bytes, s.row_bytes
        )

    def rows_dot(
        self, x: Any, active: ActiveSet | None = None, out: Any = None, *, context: Context | None = None
    ) -> FloatArray:
        """out[t][r] = dot(row r, x[t]) for the active rows of token t, 0 for the others, whose weights are not read.

        Args:
            x: float32 [n_tokens, n_cols], any row stride and alignment, or [n_cols].
            active: n_blocks * block_size == n_rows and at least n_tokens tokens; None: all rows.
            out: float32 [n_tokens, n_rows], any row stride, overwritten; None: a new array.
            context: runs the call; default: the one that made this object.

        Returns: ``out``. Raises TypeError, ShapeError, ArgumentError, UnsupportedError, BusyError; out is untouched.
        """
        return self._product(
            "sffn_matmul_rows_dot", x, "x", self.n_cols, "n_cols", active, out, self.n_rows, "n_rows", context
        )

    def rows_axpy(
        self, h: Any, active: ActiveSet | None = None, out: Any = None, *, context: Context | None = None
    ) -> FloatArray:
        """out[t] = sum over the active rows r of h[t][r] * row r. h of inactive rows is not read.

        Args:
            h: float32 [n_tokens, n_rows], any row stride, or [n_rows].
            active, context: as in rows_dot().
            out: float32 [n_tokens, n_cols], any row stride, overwritten; None: a new array.

        Returns: ``out``. Raises as rows_dot().
        """
        return self._product(
            "sffn_matmul_rows_axpy", h, "h", self.n_rows, "n_rows", active, out, self.n_cols, "n_cols", context
        )

    def _product(
        self,
        function: str,
        source: Any,
        name: str,
        n_in: int,
        width_in: str,
        active: ActiveSet | None,
        out: Any,
        n_out: int,
        width_out: str,
        context: Context | None,
    ) -> FloatArray:
        handle, using = self._live(), self._using(context)
        a = rows(source, name, n_in, width_in, any_alignment=name == "x")
        b = out_rows(out, "out", a, n_out, width_out)
        must_not_overlap(b, "out", a, name)
        set_ptr, _held = address_of(active)
        status = getattr(lib, function)(using.ptr, handle.ptr, a.address, a.stride, a.n, set_ptr, b.address, b.stride)
        check(status, using.ptr, function)
        return result(out, b)  # type: ignore[no-any-return]

    def get_row(self, row: int, out: Any = None) -> FloatArray:
        """Row ``row`` decoded to float32 [n_cols], e.g. an embedding. Raises ShapeError when there is no such row."""
        handle = self._live()
        made = rows(
            np.empty(self.n_cols, F32) if out is None else out, "out", self.n_cols, "n_cols", n_rows=1, writable=True
        )
        handle.check(lib.sffn_matmul_get_row(handle.ptr, uint32(row, "row"), made.address), "sffn_matmul_get_row")
        return result(out, made)  # type: ignore[no-any-return]

    def _describe(self) -> str:
        info = self.info
        return f"{info.dtype.name.lower()} [{info.n_rows}, {info.n_cols}]"
