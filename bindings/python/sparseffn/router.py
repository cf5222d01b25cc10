"""Router: which experts of a layer compute a token?"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from . import _abi
from ._arrays import FloatArray, vector
from ._enums import DType, RouterRule, SelectorInput, Weighting, parse
from ._errors import ShapeError
from ._lib import lib
from .active_set import ActiveSet
from .context import Child, Context, uint32
from .predictor import scores_with, select_with
from .weights import WeightsLike, as_weights


@dataclass(frozen=True)
class RouterInfo:
    """What a Router is."""

    d_model: int
    n_experts: int
    block_size: int
    n_hidden: int  #: 0: linear
    dtype: DType
    rule: RouterRule
    threshold: float  #: of "sigmoid"; 0 otherwise
    top_k: int  #: of "top_k"; 0 otherwise
    mass: float  #: of "mass"; 0 otherwise
    weighting: Weighting
    normalize_input: bool
    input: SelectorInput
    weight_bytes: int  #: that one selection reads


class Router(Child):
    """Scores the experts of a layer and keeps some of them. Immutable: share it.

    Rules: "sigmoid" keeps expert e when sigmoid(score_e) > threshold (LTE, arXiv:2402.06126); "top_k" the ``top_k``
    largest scores (MoE, MoEfication); "mass" the smallest number of experts whose softmax adds up to ``mass`` (PrunePath).

    Args:
        context: whose memory it takes.
        weights: an array or Weights [n_experts, d_model], or [n_experts, n_hidden] with hidden_weights; copied.
        bias: float32 [n_experts], or None; copied.
        block_size: neurons per expert.
        threshold: in (0, 1); 0.5 means score > 0.
        top_k: 1 .. n_experts.
        mass: in (0, 1].
        hidden_weights: an array or Weights [n_hidden, d_model]: scores = weights tanh(hidden_weights x + hidden_bias) + bias.
        hidden_bias: float32 [n_hidden], or None; copied.
        normalize_input: x counts as x / ||x||.
        weighting: "none", "sigmoid", "softmax" or "softmax_selected": what multiplies an expert's output (MoE only).
        input: which tensor it reads; only remembered.

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
        top_k: int = 0,
        mass: float = 0.9,
        hidden_weights: WeightsLike | None = None,
        hidden_bias: Any = None,
        normalize_input: bool = False,
        weighting: Weighting | str = "none",
        input: SelectorInput | str = "ffn",
        rule: RouterRule | str = "sigmoid",
    ) -> None:
        source = as_weights(weights, "weights")
        n_experts, d_model = source.shape
        hidden = None if hidden_weights is None else as_weights(hidden_weights, "hidden_weights")
        n_hidden = 0
        if hidden is not None:
            n_hidden, d_model = hidden.shape
            if source.shape[1] != n_hidden:
                raise ShapeError(f"weights: expected [n_experts, {n_hidden}], got {list(source.shape)}")
        elif hidden_bias is not None:
            raise TypeError("hidden_bias without hidden_weights")
        hidden_bias_ptr, _hidden_bias = vector(hidden_bias, "hidden_bias", n_hidden, "n_hidden")
        bias_ptr, _bias = vector(bias, "bias", n_experts, "n_experts")
        config = _abi.sffn_router_config(
            d_model=uint32(d_model, "d_model"),
            n_experts=uint32(n_experts, "n_experts"),
            block_size=uint32(block_size, "block_size"),
            rule=parse(RouterRule, rule, "rule"),
            threshold=threshold,
            weights=source.struct(),
            bias=bias_ptr,
            top_k=uint32(top_k, "top_k"),
            mass=mass,
            n_hidden=uint32(n_hidden, "n_hidden"),
            hidden_bias=hidden_bias_ptr,
            normalize_input=int(normalize_input),
            weighting=parse(Weighting, weighting, "weighting"),
            input=parse(SelectorInput, input, "input"),
        )
        if hidden is not None:
            config.hidden_weights = hidden.struct()
        self._make(context, config)

    @classmethod
    def _from_config(cls, context: Context, config: _abi.sffn_router_config) -> Router:
        made = cls.__new__(cls)
        made._make(context, config)
        return made

    def _make(self, context: Context, config: _abi.sffn_router_config) -> None:
        self._create(context, "sffn_router_create", (ctypes.byref(config),), "sffn_router_destroy")
        self.d_model, self.n_experts = int(config.d_model), int(config.n_experts)
        self.block_size = int(config.block_size)
        self._is_weighted = config.weighting != Weighting.NONE

    @property
    def info(self) -> RouterInfo:
        """What it is, as it was packed."""
        handle = self._live()
        i = _abi.sffn_router_info()
        handle.check(lib.sffn_router_get_info(handle.ptr, ctypes.byref(i)), "sffn_router_get_info")
        return RouterInfo(
            d_model=i.d_model,
            n_experts=i.n_experts,
            block_size=i.block_size,
            n_hidden=i.n_hidden,
            dtype=DType(i.dtype),
            rule=RouterRule(i.rule),
            threshold=i.threshold,
            top_k=i.top_k,
            mass=i.mass,
            weighting=Weighting(i.weighting),
            normalize_input=bool(i.normalize_input),
            input=SelectorInput(i.input),
            weight_bytes=i.weight_bytes,
        )

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
            active: of n_experts blocks of block_size, max_tokens >= n_tokens, with weights when this router weighs its
                experts; overwritten. None: a new set.
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
            self._is_weighted,
        )

    def scores(self, x: Any, out: Any = None, *, context: Context | None = None) -> FloatArray:
        """The scores alone, before the sigmoid, float32 [n_tokens, n_experts]; arguments as in select()."""
        return scores_with(self, "sffn_router_select", self.d_model, self.n_experts, "n_experts", x, out, context)

    def _describe(self) -> str:
        return f"d_model={self.d_model} n_experts={self.n_experts} block_size={self.block_size}"
