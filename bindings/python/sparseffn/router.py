"""Router: which experts of a layer compute a token?"""

from __future__ import annotations

import ctypes
from typing import Any

from . import _abi
from ._arrays import FloatArray, vector
from ._enums import RouterRule, parse
from ._lib import lib
from .active_set import ActiveSet
from .context import Child, Context, uint32
from .predictor import scores_with, select_with
from .weights import WeightsLike, as_weights


class Router(Child):
    """Keeps expert e when sigmoid(score_e) > threshold (LTE, arXiv:2402.06126). Immutable: share it.

    Args:
        context: whose memory it takes.
        weights: an array or Weights [n_experts, d_model]; copied.
        bias: float32 [n_experts], or None; copied.
        block_size: neurons per expert.
        threshold: in (0, 1); 0.5 means score > 0.

    Raises:
        ArgumentError, ShapeError, OutOfMemory; TypeError for arrays that don't fit.
    """

    def __init__(
        self,
        context: Context,
        weights: WeightsLike,
        *,
        bias: Any = None,
        block_size: int = 32,
        threshold: float = 0.5,
        rule: RouterRule | str = "sigmoid",
    ) -> None:
        source = as_weights(weights, "weights")
        n_experts, d_model = source.shape
        bias_ptr, _bias = vector(bias, "bias", n_experts, "n_experts")
        config = _abi.sffn_router_config(
            d_model=uint32(d_model, "d_model"),
            n_experts=uint32(n_experts, "n_experts"),
            block_size=uint32(block_size, "block_size"),
            rule=parse(RouterRule, rule, "rule"),
            threshold=threshold,
            weights=source.struct(),
            bias=bias_ptr,
        )
        self._create(context, "sffn_router_create", (ctypes.byref(config),), "sffn_router_destroy")
        self.d_model, self.n_experts, self.block_size = d_model, n_experts, int(block_size)

    @property
    def weight_bytes(self) -> int:
        """Bytes that one selection reads."""
        handle = self._live()
        return int(lib.sffn_router_weight_bytes(handle.ptr))

    def select(
        self, x: Any, active: ActiveSet | None = None, *, scores: Any = None, context: Context | None = None
    ) -> ActiveSet:
        """Keeps, for each token, the experts that the rule selects. A NaN score keeps its expert.

        Args:
            x: float32 [n_tokens, d_model], any row stride and alignment, or [d_model]: the router's own input.
            active: of n_experts blocks of block_size, max_tokens >= n_tokens; overwritten. None: a new set.
            scores: float32 [n_tokens, n_experts] to write the scores (before the sigmoid) to, or None.

        Returns: ``active``. Raises TypeError, ShapeError, ArgumentError, BusyError; outputs are untouched.
        """
        return select_with(
            self,
            "sffn_router_select",
            self.d_model,
            self.n_experts,
            "n_experts",
            self.block_size,
            x,
            active,
            scores,
            context,
        )

    def scores(self, x: Any, out: Any = None, *, context: Context | None = None) -> FloatArray:
        """The scores alone, before the sigmoid, float32 [n_tokens, n_experts]; arguments as in select()."""
        return scores_with(self, "sffn_router_select", self.d_model, self.n_experts, "n_experts", x, out, context)

    def _describe(self) -> str:
        return f"d_model={self.d_model} n_experts={self.n_experts} block_size={self.block_size}"
