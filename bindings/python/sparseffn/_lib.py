"""Finds and loads the shared library, checks its ABI, declares its functions.

Order of search: the file that the environment variable SPARSEFFN_LIBRARY names; beside this package; the system's
(ctypes.util.find_library, then the standard names through the dynamic linker). Any failure is an ImportError that
says what was tried.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from pathlib import Path
from typing import Any

from . import _abi

__all__ = ["lib", "path"]


def _names() -> list[str]:
    if sys.platform == "win32":
        return [f"sparseffn-{_abi.ABI_VERSION}.dll", "sparseffn.dll"]
    if sys.platform == "darwin":
        return [f"libsparseffn.{_abi.ABI_VERSION}.dylib", "libsparseffn.dylib"]
    return [f"libsparseffn.so.{_abi.ABI_VERSION}", "libsparseffn.so"]


def _open(name: str, why: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as e:
        raise ImportError(f"sparseffn: cannot load {name!r} ({why}): {e}") from e


def _load() -> tuple[ctypes.CDLL, str]:
    chosen = os.environ.get("SPARSEFFN_LIBRARY")
    if chosen:
        return _open(chosen, "from the environment variable SPARSEFFN_LIBRARY"), chosen
    here = Path(__file__).resolve().parent
    for name in _names():
        if (here / name).is_file():
            return _open(str(here / name), "beside the package"), str(here / name)
    found = ctypes.util.find_library("sparseffn")
    tried = ([found] if found else []) + _names()
    for name in tried:
        try:
            return ctypes.CDLL(name), name
        except OSError:
            continue
    raise ImportError(
        f"sparseffn: the shared library was not found: SPARSEFFN_LIBRARY is not set, none of {', '.join(_names())} "
        f"is in {here}, and the system has none of {', '.join(tried)}. Install libsparseffn, or set SPARSEFFN_LIBRARY "
        "to the path of the file (in a build tree: build/lib/libsparseffn.so)."
    )


def _declare(cdll: ctypes.CDLL, path: str) -> ctypes.CDLL:
    try:
        version = cdll.sffn_abi_version
    except AttributeError:
        raise ImportError(f"sparseffn: {path!r} is no libsparseffn: it has no function sffn_abi_version") from None
    version.restype, version.argtypes = ctypes.c_uint32, []
    if version() != _abi.ABI_VERSION:
        raise ImportError(
            f"sparseffn: this package speaks ABI version {_abi.ABI_VERSION} of libsparseffn, but {path!r} has ABI "
            f"version {version()}: install the package and the library of the same release"
        )
    for name, (restype, argtypes) in _abi.FUNCTIONS.items():
        try:
            function: Any = getattr(cdll, name)
        except AttributeError:
            raise ImportError(
                f"sparseffn: {path!r} has no function {name}: the library is older than this package"
            ) from None
        function.restype, function.argtypes = restype, argtypes
    return cdll


_cdll, path = _load()
#: The loaded library with every prototype declared. A call drops the GIL.
lib: Any = _declare(_cdll, path)
