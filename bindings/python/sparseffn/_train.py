"""prosparse_lambda(): the schedule of ProSparse's regulariser."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

from . import _abi
from ._errors import ArgumentError
from ._lib import lib


def prosparse_lambda(stages: Sequence[tuple[int, float]], step: int) -> float:
    """The factor of the L1 penalty at training step ``step``.

    Args:
        stages: (end step, factor) of each stage, stage 0 first. Steps are accumulated and ascend; factors never fall.
        step: 1 is the first one.

    Constant in the stages 0 and 1, half a sine wave in each later one, constant behind the last.

    Raises:
        ArgumentError (a ValueError): the stages are out of order, or a number is negative.
    """
    before: tuple[int, float] | None = None
    for i, (end, factor) in enumerate(stages):
        if not (math.isfinite(factor) and factor >= 0 and end >= 0):
            raise ArgumentError(f"stages[{i}]: ({end}, {factor}), expected an end step and a finite factor >= 0")
        if before is not None and (end <= before[0] or factor < before[1]):
            raise ArgumentError(f"stages[{i}]: ({end}, {factor}) after {before}: steps must ascend, factors must not fall")
        before = (end, factor)
    if before is None or step < 0:
        raise ArgumentError(f"expected at least one stage and a step >= 0, got {len(stages)} stages and step {step}")
    table = (_abi.sffn_prosparse_stage * len(stages))(*stages)
    out = ctypes.c_double()
    status = lib.sffn_prosparse_lambda(table, len(stages), step, ctypes.byref(out))
    if status:
        raise ArgumentError(f"sffn_prosparse_lambda: status {status}")
    return out.value
