"""ActiveSet: the neurons or blocks that each token computes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _abi
from ._arrays import FloatArray, vector, view
from ._enums import Tie, ValueRule, parse
from ._errors import ShapeError
from ._lib import lib
from .context import Child, Context, uint32


class ActiveSet(Child):
    """For each token a subset of ``n_blocks`` blocks of ``block_size`` consecutive neurons (1: single neurons).

    Mutable: one thread while it is written, any number of readers afterwards. All memory is taken here. A new set
    has no tokens; methods take ``token`` < ``n_tokens``.

    Args:
        context: whose memory it takes.
        n_blocks: > 0.
        block_size: neurons per block, > 0.
        max_tokens: most tokens it can hold, > 0.
        has_weights: a weight per token and block travels with the selection, see set_weights().

    Raises:
        ArgumentError: a zero size, or n_blocks * block_size over 2^31 - 1. OutOfMemory.
    """

    def __init__(
        self, context: Context, n_blocks: int, *, block_size: int = 1, max_tokens: int = 1, has_weights: bool = False
    ) -> None:
        config = _abi.sffn_active_set_config(
            n_blocks=uint32(n_blocks, "n_blocks"),
            block_size=uint32(block_size, "block_size"),
            max_tokens=uint32(max_tokens, "max_tokens"),
            has_weights=int(has_weights),
        )
        self._create(context, "sffn_active_set_create", (ctypes.byref(config),), "sffn_active_set_destroy")
        self._n_blocks, self._block_size, self._max_tokens = int(n_blocks), int(block_size), int(max_tokens)

    @classmethod
    def from_mask(cls, context: Context, mask: Any, *, block_size: int = 1) -> ActiveSet:
        """A set from a bool or uint8 array [n_tokens, n_blocks], or [n_blocks] for one token."""
        array = np.atleast_2d(view(mask, "mask"))
        if array.ndim != 2:
            raise ShapeError(f"mask: expected [n_tokens, n_blocks], got {list(array.shape)}")
        made = cls(context, array.shape[1], block_size=block_size, max_tokens=max(1, array.shape[0]))
        made.clear(array.shape[0])
        for token, row in enumerate(array):
            made.set_mask(token, row)
        return made

    @property
    def has_weights(self) -> bool:
        """Made with weights."""
        handle = self._live()
        return bool(lib.sffn_active_set_has_weights(handle.ptr))

    def set_weights(self, token: int, weights: Any) -> None:
        """What multiplies h of each block's neurons in a layer that is handed this set: float32 [n_blocks], copied.

        clear() makes them 1. Raises ArgumentError (made without weights), TypeError, ShapeError.
        """
        address, _weights = vector(weights, "weights", self._n_blocks, "n_blocks")
        handle = self._live()
        status = lib.sffn_active_set_set_weights(handle.ptr, _index(token, "token"), address)
        handle.check(status, "sffn_active_set_set_weights")

    def weights(self, token: int = 0) -> FloatArray:
        """The weights of one token, float32 [n_blocks]; a copy. Raises ShapeError: no such token, made without weights."""
        handle = self._live()
        address = lib.sffn_active_set_weights(handle.ptr, _index(token, "token"))
        if not address:
            raise ShapeError(f"token: {token} of a set with {self.n_tokens} tokens, has_weights {self.has_weights}")
        return foreign_array(address, self._n_blocks * 4, handle).view(np.float32).copy()

    @property
    def n_blocks(self) -> int:
        return self._n_blocks

    @property
    def block_size(self) -> int:
        """Neurons per block."""
        return self._block_size

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    @property
    def n_tokens(self) -> int:
        handle = self._live()
        return int(lib.sffn_active_set_n_tokens(handle.ptr))

    def __len__(self) -> int:
        return self.n_tokens

    def clear(self, n_tokens: int = 1) -> None:
        """Sets the number of tokens and empties every token's subset. Raises ShapeError over max_tokens."""
        handle = self._live()
        handle.check(lib.sffn_active_set_clear(handle.ptr, _index(n_tokens, "n_tokens")), "sffn_active_set_clear")

    def set_indices(self, token: int, blocks: npt.NDArray[np.uint32] | Iterable[int]) -> None:
        """Replaces a token's subset by the blocks listed, in any order; repeats count once.

        A uint32 array of adjacent elements is read in place; of other integers a uint32 list is made.
        Raises ArgumentError (an index >= n_blocks; the set stays as it was), ShapeError (no such token).
        """
        if isinstance(blocks, np.ndarray) or not isinstance(blocks, Iterable):
            array = view(blocks, "blocks")
            if array.dtype.kind not in "iu":
                raise TypeError(f"blocks: expected integers, got {array.dtype}")
        else:
            array = np.array(list(blocks), dtype=object)
        if array.ndim != 1:
            raise ShapeError(f"blocks: expected a list of indices, got shape {list(array.shape)}")
        if array.dtype != np.uint32 or array.strides[0] != 4 or not array.flags.aligned:
            if array.size and (min(array) < 0 or max(array) > 0xFFFFFFFF):
                raise ValueError("blocks: an index is outside 0 .. 2^32 - 1")
            array = np.ascontiguousarray(array, np.uint32)
        handle = self._live()
        status = lib.sffn_active_set_set_indices(handle.ptr, _index(token, "token"), array.ctypes.data, array.size)
        handle.check(status, "sffn_active_set_set_indices")

    def set_bitmap(self, token: int, bitmap: Any) -> None:
        """Replaces a token's subset from bits: block b is bit b % 8 of byte b // 8; uint8 [(n_blocks + 7) // 8].

        Raises TypeError, ShapeError.
        """
        array = _bytes(bitmap, "bitmap", (self._n_blocks + 7) // 8, (np.uint8,))
        handle = self._live()
        status = lib.sffn_active_set_set_bitmap(handle.ptr, _index(token, "token"), array.ctypes.data)
        handle.check(status, "sffn_active_set_set_bitmap")

    def set_mask(self, token: int, mask: Any) -> None:
        """Replaces a token's subset from bool or uint8 [n_blocks]: not 0 is active. Raises TypeError, ShapeError."""
        array = _bytes(mask, "mask", self._n_blocks, (np.bool_, np.uint8))
        handle = self._live()
        status = lib.sffn_active_set_set_mask(handle.ptr, _index(token, "token"), array.ctypes.data)
        handle.check(status, "sffn_active_set_set_mask")

    def set_all(self, token: int) -> None:
        """All blocks of one token."""
        handle = self._live()
        handle.check(lib.sffn_active_set_set_all(handle.ptr, _index(token, "token")), "sffn_active_set_set_all")

    def set_values(
        self,
        token: int,
        values: Any,
        kind: ValueRule | str = "abs_above",
        *,
        threshold: Any = 0.0,
        tie: Tie | str = "drop",
        k: int = 0,
        m: int = 0,
        sparsity: float = 0.0,
    ) -> None:
        """Replaces a token's subset by the blocks whose value passes a rule. NaN always passes, so that it is seen.

        With the inputs x of a linear layer as values, ``Matmul(weight.T).rows_axpy(x, active)`` is that layer, sparse.

        Args:
            token: < n_tokens.
            values: float32 [n_blocks], one per block.
            kind: "above": v > threshold; "abs_above": |v| > threshold (CATS, CHESS, CETT, TEAL); "top_k": the k largest
                |v|, among equals the lowest index (Q-Sparse); "block_top_k": k of every m consecutive ones, and of
                those left over at the end; "statistical_top_k": v > mean + std * normal_quantile(sparsity).
            threshold: a float, or float32 [n_blocks]. tie: "drop" or "keep" at equality.
            k: 0 keeps none. m: >= k and > 0. sparsity: share to drop, in (0, 1).

        Raises:
            ArgumentError: a number out of range; the set stays as it was. ShapeError, TypeError.
        """
        address, array = vector(values, "values", self._n_blocks, "n_blocks")
        if address is None:
            raise TypeError("values: expected float32, got None")
        rule = _abi.sffn_value_rule(
            kind=parse(ValueRule, kind, "kind"),
            tie=parse(Tie, tie, "tie"),
            k=uint32(k, "k"),
            m=uint32(m, "m"),
            sparsity=sparsity,
        )
        thresholds: Any = None
        if hasattr(threshold, "__float__") and not getattr(threshold, "shape", ()):
            rule.threshold = float(threshold)
        else:
            rule.thresholds, thresholds = vector(threshold, "threshold", self._n_blocks, "n_blocks")
        handle = self._live()
        status = lib.sffn_active_set_set_values(
            handle.ptr, _index(token, "token"), address, array.size, ctypes.byref(rule)
        )
        handle.check(status, "sffn_active_set_set_values")

    def set_slice(self, whole: ActiveSet, first_block: int) -> None:
        """All tokens of ``whole``, cut down to its blocks from ``first_block`` on: as many as this set has.

        What a layer made of a part of the neurons (``FFN(neurons=...)``) gets handed in. Weights come along.
        Raises ShapeError, ArgumentError; the set stays as it was.
        """
        handle = self._live()
        ptr, _held = address_of(whole, "whole")
        status = lib.sffn_active_set_set_slice(handle.ptr, ptr, _index(first_block, "first_block"))
        handle.check(status, "sffn_active_set_set_slice")

    def count(self, token: int = 0) -> int:
        """Active blocks of one token; 0 when there is no such token."""
        handle = self._live()
        return int(lib.sffn_active_set_count(handle.ptr, _index(token, "token")))

    def indices(self, token: int = 0, *, copy: bool = True) -> npt.NDArray[np.uint32]:
        """The active blocks of one token, ascending, as uint32.

        ``copy=False`` gives a read-only view of the set's own memory: it keeps the set alive, but its contents change
        with the set. Raises ShapeError when there is no such token.
        """
        handle = self._live()
        token = _index(token, "token")
        address = lib.sffn_active_set_indices(handle.ptr, token)
        n = lib.sffn_active_set_count(handle.ptr, token)
        if not address:
            if token < lib.sffn_active_set_n_tokens(handle.ptr):
                return np.empty(0, np.uint32)
            raise ShapeError(f"token: {token} of a set with {self.n_tokens} tokens")
        array = foreign_array(address, n * 4, handle).view(np.uint32)
        return array.copy() if copy else array

    def contains(self, token: int, block: int) -> bool:
        """True when the block is active for the token; False also out of range."""
        handle = self._live()
        return bool(lib.sffn_active_set_contains(handle.ptr, _index(token, "token"), uint32(block, "block")))

    def bitmap(self, token: int = 0, out: Any = None) -> npt.NDArray[np.uint8]:
        """A token's subset as bits, uint8 [(n_blocks + 7) // 8]; see set_bitmap()."""
        n = (self._n_blocks + 7) // 8
        array = np.empty(n, np.uint8) if out is None else _bytes(out, "out", n, (np.uint8,), writable=True)
        handle = self._live()
        status = lib.sffn_active_set_get_bitmap(handle.ptr, _index(token, "token"), array.ctypes.data)
        handle.check(status, "sffn_active_set_get_bitmap")
        return array if out is None else out

    def mask(self, token: int | None = None) -> npt.NDArray[np.bool_]:
        """A token's subset as bool [n_blocks]; without ``token`` of all, [n_tokens, n_blocks]. A new array."""
        if token is None:
            found = np.zeros((self.n_tokens, self._n_blocks), np.bool_)
            for t in range(len(found)):
                found[t] = self.mask(t)
            return found
        return np.unpackbits(self.bitmap(token), count=self._n_blocks, bitorder="little").view(np.bool_)

    @property
    def union_count(self) -> int:
        """Number of blocks that at least one token has."""
        handle = self._live()
        return int(lib.sffn_active_set_union_count(handle.ptr))

    @property
    def density(self) -> float:
        """Mean over tokens of active / n_blocks, in [0, 1]; 0 without tokens."""
        handle = self._live()
        return float(lib.sffn_active_set_density(handle.ptr))

    def recall(self, truth: ActiveSet, token: int = 0) -> float:
        """Share of ``truth``'s blocks that this set has, for one token; 1 when truth is empty. Raises ShapeError."""
        handle, other = self._live(), truth._live()
        value = ctypes.c_double()
        status = lib.sffn_active_set_recall(handle.ptr, other.ptr, _index(token, "token"), ctypes.byref(value))
        handle.check(status, "sffn_active_set_recall")
        return value.value

    def _describe(self) -> str:
        sizes = f"n_tokens={self.n_tokens} n_blocks={self._n_blocks} block_size={self._block_size}"
        return f"{sizes} density={self.density:.4f}"


def normal_quantile(p: float) -> float:
    """Phi^-1(p) of the standard normal distribution; infinite at 0 and 1, NaN outside.

    TEAL's threshold for a sparsity p of values with mean 0 and standard deviation sigma is
    ``sigma * normal_quantile(0.5 + p / 2)``.
    """
    return float(lib.sffn_normal_quantile(p))


def foreign_array(address: int, n_bytes: int, keep: object) -> npt.NDArray[np.uint8]:
    """A read-only uint8 array on the library's memory that keeps ``keep`` alive."""
    buffer = (ctypes.c_uint8 * n_bytes).from_address(address)
    buffer.keep = keep  # type: ignore[attr-defined]
    return np.frombuffer(memoryview(buffer).toreadonly(), np.uint8)


def address_of(active: ActiveSet | None, name: str = "active") -> tuple[int | None, Any]:
    """The C set's address, and the handle to hold during the call."""
    if active is None:
        return None, None
    if not isinstance(active, ActiveSet):
        raise TypeError(f"{name}: expected an ActiveSet, got {type(active).__name__}")
    handle = active._live()
    return handle.ptr, handle


def _index(value: int, name: str) -> int:
    value = value.__index__()
    if value < 0:
        raise ValueError(f"{name}: {value} is negative")
    return value


def _bytes(
    obj: Any, name: str, n: int, dtypes: tuple[type, ...], writable: bool = False
) -> np.ndarray[Any, np.dtype[Any]]:
    array = view(obj, name, writable)
    if array.dtype not in dtypes:
        raise TypeError(f"{name}: expected {' or '.join(np.dtype(d).name for d in dtypes)}, got {array.dtype}")
    if array.shape != (n,):
        raise ShapeError(f"{name}: expected shape [{n}], got {list(array.shape)}")
    if n > 1 and array.strides[0] != 1:
        raise TypeError(f"{name}: expected adjacent bytes, got a stride of {array.strides[0]}")
    return array
