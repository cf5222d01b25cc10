"""Context: threads, memory, chosen kernels, log."""

from __future__ import annotations

import ctypes
import json
import logging
import threading
from dataclasses import dataclass, fields
from typing import Any, Callable, Union

from . import _abi
from ._enums import HugePages, StatsFormat, parse
from ._errors import check, fail, last_error
from ._handle import Handle, Object, generation
from ._lib import lib

#: The library's log goes here unless a Context is told otherwise; silent until the program configures logging.
logger = logging.getLogger("sparseffn")
logger.addHandler(logging.NullHandler())

_LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG}


class _Expected(threading.local):
    """True while this thread makes a call that may fail in the normal course of things: nothing for the log."""

    failure = False


_expected = _Expected()


def probe(function: Callable[..., int], *args: Any) -> int:
    """Calls a function whose failure is an answer and not an error, and returns its status."""
    _expected.failure = True
    try:
        return function(*args)
    finally:
        _expected.failure = False


LogTarget = Union[logging.Logger, Callable[[int, str], None], None]


@dataclass(frozen=True)
class ContextInfo:
    """What a Context got. Sizes in bytes; 0 means unknown or none."""

    isa: str  #: strongest ISA in use, "avx512_vnni"
    cpu_features: str  #: of this CPU, space separated
    n_threads: int  #: per call
    n_cpus: int  #: that this process may use
    n_cores: int
    n_numa_nodes: int
    l1d_bytes: int
    l2_bytes: int
    llc_bytes: int  #: of one last-level cache
    page_bytes: int
    huge_page_bytes: int  #: 0: none, or the context does not ask for them
    weight_bytes: int  #: packed weights alive that were made with this context
    weight_huge_bytes: int  #: of these, in huge pages
    scratch_bytes: int
    has_hwloc: bool  #: topology comes from hwloc
    has_onednn: bool  #: asked for, built in and found


def read_struct(cls: type[Any], struct: Any) -> Any:
    """A frozen dataclass from the struct's fields of the same names: text decoded, flags as bool."""
    values = {}
    for field in fields(cls):
        value = getattr(struct, field.name)
        if field.type == "str":
            value = (value or b"").decode("utf-8", "replace")
        elif field.type == "bool":
            value = bool(value)
        values[field.name] = value
    return cls(**values)


def _log_callback(target: LogTarget) -> Any:
    if target is None:
        return _abi.log_fn()

    def callback(user: Any, level: int, text: bytes | None) -> None:
        if _expected.failure:
            return
        line = (text or b"").decode("utf-8", "replace")
        if isinstance(target, logging.Logger):
            target.log(_LEVELS.get(level, logging.INFO), "%s", line)
        else:
            target(level, line)

    return _abi.log_fn(callback)


class Context(Object):
    """Everything that a call needs besides the layer: kernels for this CPU, threads, scratch memory.

    Objects made with one context may be used with any other. One context runs one call at a time; while a call runs
    (the GIL is free then) another thread's call with the same context raises BusyError: use one Context per thread.

    Args:
        n_threads: threads per call, 1..512, but never more than the CPUs this process may use; 0: as many as these. Results do not depend on it.
        max_isa: cap, a name of ``isas()``: "scalar", "avx2", ...; None: the best this CPU runs.
        huge_pages: "auto" or "off", for packed weights.
        bind_threads: bind the pool's threads to one core each.
        spin_us: how long idle pool threads stay awake before they sleep, microseconds; within a call they stay awake longer (context.h).
        collect_stats: measure the time of the stages of FFN.forward (``FFNStats.*_ns``), and count by layer: see stats().
        stats_recall_every: with collect_stats, check every n-th token's selection against the whole gate; 0: never.
        use_onednn: long dense calls (FFN's dense_tokens) go through oneDNN where built in and found. It brings OpenMP threads of its own.
        log: a logging.Logger (default: the logger "sparseffn"), a function of (level 0..3 = error..debug, text), or
            None for none. It may be called from any thread.

    Raises:
        ArgumentError: a value out of range, an unknown ISA. OutOfMemory, ThreadError.
    """

    def __init__(
        self,
        n_threads: int = 1,
        *,
        max_isa: str | None = None,
        huge_pages: HugePages | str = "auto",
        bind_threads: bool = False,
        spin_us: int = 50,
        collect_stats: bool = False,
        stats_recall_every: int = 0,
        use_onednn: bool = False,
        log: LogTarget = logger,
    ) -> None:
        callback = _log_callback(log)
        config = _abi.sffn_context_config(
            n_threads=uint32(n_threads, "n_threads"),
            max_isa=None if max_isa is None else max_isa.encode(),
            huge_pages=parse(HugePages, huge_pages, "huge_pages"),
            bind_threads=bind_threads,
            spin_us=uint32(spin_us, "spin_us"),
            collect_stats=collect_stats,
            stats_recall_every=uint32(stats_recall_every, "stats_recall_every"),
            use_onednn=use_onednn,
            log=callback,
        )
        ptr = ctypes.c_void_p()
        status = lib.sffn_context_create(ctypes.byref(config), ctypes.byref(ptr))
        if status:
            raise fail(status, None, "sffn_context_create")
        assert ptr.value is not None
        # The callback lives as long as the C context, which may outlive this object.
        self._handle = Handle(ptr.value, lib.sffn_context_destroy, keep=(callback,))
        self._has_pool = self.info.n_threads > 1

    def _live(self) -> Handle:
        handle = super()._live()
        if handle.born != generation() and self._has_pool:
            raise RuntimeError(
                "this Context was made before os.fork() and its threads are not in the child process: "
                "make a Context there"
            )
        return handle

    @property
    def info(self) -> ContextInfo:
        """What this context got. Walks the process's memory map to count huge pages: not for the hot path."""
        handle = self._live()
        struct = _abi.sffn_context_info()
        check(lib.sffn_context_get_info(handle.ptr, ctypes.byref(struct)), handle.ptr, "sffn_context_get_info")
        info: ContextInfo = read_struct(ContextInfo, struct)
        return info

    def stats(self) -> dict[str, Any]:
        """What each layer did in this context since it was made or reset; needs ``collect_stats=True``.

        {"version", "unregistered_calls", "layers": [...]}, and of each layer "name", "d_ff", "calls" (by path),
        "dense_reasons", "tokens", "widened", "neurons" (tokens * d_ff), "selected", "active", "nonzero", "weight_bytes", "seconds" (by stage, and "total"), and
        "sampled": "tokens", "true", "selected", "hits", "recall", "precision" (None without samples). Layers appear when
        they are made with this context, or reserved with FFN.reserve(). Raises UnsupportedError.
        """
        stats: dict[str, Any] = json.loads(self._stats_text(StatsFormat.JSON))
        return stats

    def stats_prometheus(self) -> str:
        """The same as Prometheus's text exposition format, for a /metrics endpoint. Raises UnsupportedError."""
        return self._stats_text(StatsFormat.PROMETHEUS)

    def reset_stats(self) -> None:
        """Sets all counters to 0. Raises UnsupportedError; BusyError while another thread's call runs."""
        handle = self._live()
        check(lib.sffn_context_reset_stats(handle.ptr), handle.ptr, "sffn_context_reset_stats")

    def _stats_text(self, kind: StatsFormat) -> str:
        handle = self._live()
        needed = ctypes.c_size_t()
        status = lib.sffn_context_write_stats(handle.ptr, kind, None, 0, ctypes.byref(needed))
        check(status, handle.ptr, "sffn_context_write_stats")
        room = needed.value + needed.value // 2  # counters may grow between the two calls
        buffer = ctypes.create_string_buffer(room)
        status = lib.sffn_context_write_stats(handle.ptr, kind, buffer, room, None)
        check(status, handle.ptr, "sffn_context_write_stats")
        return buffer.value.decode()

    @property
    def kernels(self) -> list[str]:
        """Names of the chosen kernels: "rows_dot_q8_0_avx512_vnni", ..."""
        handle = self._live()
        return [
            (lib.sffn_context_kernel_name(handle.ptr, i) or b"").decode()
            for i in range(lib.sffn_context_n_kernels(handle.ptr))
        ]

    @property
    def last_error(self) -> str:
        """The words of the last call that failed with this context; "" when none has."""
        return last_error(self._live().ptr)

    def __repr__(self) -> str:
        if self.closed:
            return "<sparseffn.Context closed>"
        info = self.info
        return f"<sparseffn.Context isa={info.isa} n_threads={info.n_threads}>"


class Child(Object):
    """Base of the objects that a Context makes.

    Attributes:
        context: the Context it was made with, and the default of every ``context=`` argument.
    """

    context: Context

    def _create(
        self, context: Context, function: str, args: tuple[Any, ...], destroy: str, keep: tuple[Any, ...] = ()
    ) -> None:
        """Calls ``function(context, *args, &ptr)`` and owns what it made."""
        if not isinstance(context, Context):
            raise TypeError(f"context: expected a sparseffn.Context, got {type(context).__name__}")
        owner = context._live()
        ptr = ctypes.c_void_p()
        check(getattr(lib, function)(owner.ptr, *args, ctypes.byref(ptr)), owner.ptr, function)
        assert ptr.value is not None
        self.context = context
        self._handle = Handle(ptr.value, getattr(lib, destroy), owner, keep)

    def _using(self, context: Context | None) -> Handle:
        return (self.context if context is None else context)._live()

    def __repr__(self) -> str:
        name = f"sparseffn.{type(self).__name__}"
        return f"<{name} closed>" if self.closed else f"<{name} {self._describe()}>"

    def _describe(self) -> str:
        return ""


def uint32(value: int, name: str) -> int:
    """ctypes would wrap silently. Raises ValueError outside 0 .. 2^32 - 1, TypeError for what is no integer."""
    value = value.__index__()
    if not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{name}: {value} is outside 0 .. 2^32 - 1")
    return value


def isas() -> dict[str, bool]:
    """The ISAs built into the library, weakest first, and whether this CPU runs them."""
    found: dict[str, bool] = {}
    index = 0
    while name := lib.sffn_isa_name(index):
        found[name.decode()] = bool(lib.sffn_isa_is_supported(index))
        index += 1
    return found
