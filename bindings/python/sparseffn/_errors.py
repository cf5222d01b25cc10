"""Exceptions: one class per status code of ``status.h``, each also of the built-in kind that fits."""

from __future__ import annotations

from typing import Any, ClassVar

from ._lib import lib


class SparseffnError(Exception):
    """A call of the library failed; ``str()`` is the library's text: the argument, its value, what was expected.

    Attributes:
        status: the status code, e.g. 11.
        name: its name, e.g. ``"SFFN_ERR_SHAPE"``.
    """

    #: The status code that a subclass stands for.
    STATUS: ClassVar[int] = -1
    status: int
    name: str

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.status = self.STATUS if status is None else status
        self.name = lib.sffn_status_name(self.status).decode()

    def __str__(self) -> str:  # KeyError and OSError would print something else
        return self.text

    def __reduce__(self) -> tuple[type[SparseffnError], tuple[Any, ...]]:
        return type(self), (self.text,) if self.status == self.STATUS else (self.text, self.status)


class ArgumentError(SparseffnError, ValueError):
    """A value out of range or unknown (SFFN_ERR_INVALID_ARGUMENT)."""

    STATUS = 10


class ShapeError(SparseffnError, ValueError):
    """Sizes that don't fit each other (SFFN_ERR_SHAPE)."""

    STATUS = 11


class DTypeError(SparseffnError, TypeError):
    """A weight type that the operation does not take (SFFN_ERR_DTYPE)."""

    STATUS = 12


class UnsupportedError(SparseffnError, NotImplementedError):
    """Legal, but not built in or not implemented for this combination (SFFN_ERR_UNSUPPORTED)."""

    STATUS = 13


class OutOfMemory(SparseffnError, MemoryError):
    """No memory (SFFN_ERR_OUT_OF_MEMORY)."""

    STATUS = 20


class ThreadError(SparseffnError, RuntimeError):
    """The operating system refused a thread (SFFN_ERR_THREAD)."""

    STATUS = 21


class BusyError(SparseffnError, RuntimeError):
    """Another thread's call is running in this context: use one Context per thread (SFFN_ERR_BUSY)."""

    STATUS = 22


class NotReservedError(SparseffnError, RuntimeError):
    """This context has no scratch for the layer: call ``FFN.reserve(context)`` first (SFFN_ERR_NOT_RESERVED)."""

    STATUS = 23


class IOError_(SparseffnError, OSError):
    """A file could not be opened, mapped, read or written (SFFN_ERR_IO)."""

    STATUS = 30


class FormatError(SparseffnError, ValueError):
    """A file is malformed; the text has the offset and the reason (SFFN_ERR_FORMAT)."""

    STATUS = 31


class NotFound(SparseffnError, KeyError):
    """No tensor, layer or key of that name (SFFN_ERR_NOT_FOUND)."""

    STATUS = 32


class Interrupted(SparseffnError, RuntimeError):
    """A progress callback asked to stop (SFFN_ERR_INTERRUPTED)."""

    STATUS = 40


class InternalError(SparseffnError, RuntimeError):
    """A bug in the library; please report it (SFFN_ERR_INTERNAL)."""

    STATUS = 50


BY_STATUS: dict[int, type[SparseffnError]] = {
    cls.STATUS: cls
    for cls in (
        ArgumentError,
        ShapeError,
        DTypeError,
        UnsupportedError,
        OutOfMemory,
        ThreadError,
        BusyError,
        NotReservedError,
        IOError_,
        FormatError,
        NotFound,
        Interrupted,
        InternalError,
    )
}


def error(status: int, text: str) -> SparseffnError:
    """The exception for a status; an unknown one (a newer library) gives the base class."""
    cls = BY_STATUS.get(status)
    return cls(text) if cls is not None else SparseffnError(text, status)


def last_error(context: int | None) -> str:
    """The text of the last call that failed with the context at this address; None: of a failed Context creation."""
    text: bytes | None = lib.sffn_context_last_error(context)
    return text.decode("utf-8", "replace") if text else ""


def fail(status: int, context: int | None, function: str) -> SparseffnError:
    """The exception for a call of ``function`` that returned ``status`` != 0."""
    if status == BusyError.STATUS:
        # The other thread's call may be writing the context's text at this moment.
        return BusyError(f"{function}: another thread's call is running in this Context; use one Context per thread")
    return error(status, last_error(context) or f"{function} failed with {lib.sffn_status_name(status).decode()}")


def check(status: int, context: int | None, function: str) -> None:
    """Raises the exception of a failed call. ``context`` is the address of the context that holds the text."""
    if status:
        raise fail(status, context, function)
