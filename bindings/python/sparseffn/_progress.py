"""Progress callbacks: Python functions called by long work in the library."""

from __future__ import annotations

from typing import Any, Callable

from . import _abi
from ._errors import fail

#: Called with what is being done, units done, units in total; a true result stops the work.
Progress = Callable[[str, int, int], Any]


class Watch:
    """One call's callback. ``fn`` goes to C; check() raises what the function raised, else what the library returned."""

    def __init__(self, progress: Progress | None) -> None:
        self._raised: list[BaseException] = []
        self._progress = progress
        self.fn = _abi.progress_fn() if progress is None else _abi.progress_fn(self._call)

    def _call(self, user: Any, what: bytes | None, done: int, total: int) -> int:
        assert self._progress is not None
        try:
            return 1 if self._progress((what or b"").decode("utf-8", "replace"), done, total) else 0
        except BaseException as e:  # a KeyboardInterrupt, too: ctypes would swallow it
            self._raised.append(e)
            return 1

    def check(self, status: int, context: int | None, function: str) -> None:
        if self._raised:
            raise self._raised[0]
        if status:
            raise fail(status, context, function)
