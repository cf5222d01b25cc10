"""prepare(): one GGUF file with neuron-major down rows from a model."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Callable

from . import _abi
from ._enums import DType, parse
from ._errors import fail
from ._lib import lib
from .context import Context
from .model import Model, _path

#: Called with what is being done, units done, units in total; a true result stops the work.
Progress = Callable[[str, int, int], Any]


def prepare(
    context: Context,
    model: Model,
    out_path: str | os.PathLike[str],
    *,
    dtype: DType | str | None = None,
    keep_embeddings: bool = True,
    act_threshold: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes ``out_path``, a GGUF v3 with the model's tensors, each down projection as rows of neurons.

    Args:
        context: runs the work.
        model: the source.
        dtype: type of all matrices; None: as they are. Vectors stay f32.
        keep_embeddings: the token embedding and output matrix are not brought below q8_0.
        act_threshold: writes fatrelu with this threshold (>= 0) in place of relu; None: what the source says.
        progress: (what, done, total) -> true to stop. What it raises stops the work and comes out of this call.

    The file appears when it is complete; an interrupted run leaves nothing.

    Raises:
        IOError_, FormatError, ShapeError, UnsupportedError, OutOfMemory, Interrupted.
    """
    raised: list[BaseException] = []

    def callback(user: Any, what: bytes | None, done: int, total: int) -> int:
        assert progress is not None
        try:
            return 1 if progress((what or b"").decode("utf-8", "replace"), done, total) else 0
        except BaseException as e:  # a KeyboardInterrupt, too: ctypes would swallow it
            raised.append(e)
            return 1

    if act_threshold is not None and not act_threshold >= 0:
        raise ValueError(f"act_threshold: {act_threshold} is not >= 0")
    config = _abi.sffn_prepare_config(
        dtype=-1 if dtype is None else parse(DType, dtype, "dtype"),
        keep_embeddings=keep_embeddings,
        act_threshold=-1.0 if act_threshold is None else act_threshold,
        progress=_abi.progress_fn(callback) if progress is not None else _abi.progress_fn(),
    )
    using, source = context._live(), model._live()
    status = lib.sffn_prepare(using.ptr, source.ptr, _path(out_path), ctypes.byref(config))
    if raised:
        raise raised[0]
    if status:
        raise fail(status, using.ptr, "sffn_prepare")
