"""Lifetimes: who keeps a C object alive, and when it is destroyed.

A Handle owns one C object. What the C object borrows (its context, a predictor, a mapped file, arrays) is listed in
``keep`` and held by the finalizer, not only by the Python object: the finalizer registry is global, so even when a
whole cycle of objects is collected at once, borrowers are destroyed before what they borrow. ``close()`` of a Python
object only drops its reference; the C object goes when nobody needs it any more.
"""

from __future__ import annotations

import os
import weakref
from types import TracebackType
from typing import Any, Callable, TypeVar

from ._errors import fail

SelfT = TypeVar("SelfT", bound="Object")

# Grows in every forked child: C objects of the parent have no threads there and are left to the parent.
_generation = 0


def _after_fork() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def generation() -> int:
    return _generation


def _release(destroy: Callable[[int], None], ptr: int, keep: tuple[Any, ...], born: int) -> None:
    if born == _generation:
        destroy(ptr)


class Handle:
    """Owner of one C object at address ``ptr``; ``owner`` is the handle of the context that made it."""

    __slots__ = ("ptr", "owner", "born", "__weakref__")

    def __init__(
        self, ptr: int, destroy: Callable[[int], None], owner: Handle | None = None, keep: tuple[Any, ...] = ()
    ) -> None:
        self.ptr = ptr
        self.owner = owner
        self.born = _generation
        finalizer = weakref.finalize(self, _release, destroy, ptr, (owner, *keep), _generation)
        # At exit a daemon thread may still be inside a call: leave the memory to the operating system.
        finalizer.atexit = False

    def check(self, status: int, function: str) -> None:
        """Raises for a failed call without a context argument: its text is in the context that made the object."""
        if status:
            raise fail(status, (self.owner or self).ptr, function)


class Object:
    """Base of all wrappers: a context manager around a Handle."""

    _handle: Handle | None = None

    def _live(self) -> Handle:
        """The handle. Callers hold it during the C call, so that a concurrent close() can't free what is in use."""
        handle = self._handle
        if handle is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return handle

    @property
    def closed(self) -> bool:
        """True after close(); any other use then raises ValueError."""
        return self._handle is None

    def close(self) -> None:
        """Lets go of the C object. It is freed at once, or when the last object that borrows it goes. Idempotent."""
        self._handle = None

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} is memory of this process and can be neither pickled nor copied")

    def __enter__(self: SelfT) -> SelfT:
        self._live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
