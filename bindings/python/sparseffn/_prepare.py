"""prepare(): one GGUF file with neuron-major down rows from a model."""

from __future__ import annotations

import ctypes
import os

from . import _abi
from ._enums import DType, parse
from ._lib import lib
from ._progress import Progress, Watch
from .context import Context
from .model import Model, _path


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
    if act_threshold is not None and not act_threshold >= 0:
        raise ValueError(f"act_threshold: {act_threshold} is not >= 0")
    watch = Watch(progress)
    config = _abi.sffn_prepare_config(
        dtype=-1 if dtype is None else parse(DType, dtype, "dtype"),
        keep_embeddings=keep_embeddings,
        act_threshold=-1.0 if act_threshold is None else act_threshold,
        progress=watch.fn,
    )
    using, source = context._live(), model._live()
    status = lib.sffn_prepare(using.ptr, source.ptr, _path(out_path), ctypes.byref(config))
    watch.check(status, using.ptr, "sffn_prepare")
