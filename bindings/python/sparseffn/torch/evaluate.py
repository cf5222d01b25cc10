"""Held-out perplexity, densities, and thresholds found on held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .data import Tokens
from .model import Llama


def _autocast(device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


@torch.no_grad()
def evaluate(model: Llama, tokens: Tokens, *, batch: int = 32, limit: int = 256, forward: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Perplexity over at most ``limit`` windows from the start of the text, and the share of zeros of h per layer.

    Returns loss, perplexity, zeros [n_layers], mean_zeros, l1 [n_layers], and with a router open [n_layers].
    """
    was = model.training
    model.eval()
    total, count = 0.0, 0
    sums: dict[str, torch.Tensor] = {}
    for x, y in tokens.in_order(batch, limit):
        with _autocast(x.device):
            loss, measures = (forward or model)(x, y)
        total += float(loss) * len(x)
        count += len(x)
        for name, value in measures.items():
            sums[name] = sums.get(name, 0) + value.detach().double() * len(x)
    model.train(was)
    loss = total / count
    result: dict[str, Any] = {"loss": loss, "perplexity": math.exp(loss), "windows": count}
    result.update({name: (value / count).tolist() for name, value in sums.items() if name in ("zeros", "l1", "open")})
    result["mean_zeros"] = sum(result["zeros"]) / len(result["zeros"])
    return result


def _set_threshold(model: Llama, t: float) -> None:
    for ffn in model.ffns:
        ffn.act_threshold.fill_(t)


def find_shift(
    model: Llama, tokens: Tokens, budget: float = 0.01, *, start: float = 0.01, steps: int = 6, **options: Any
) -> tuple[float, list[dict[str, Any]]]:
    """FATReLU's threshold: the largest t whose perplexity is at most (1 + budget) times that of t = 0.

    Doubles or halves from ``start`` until the budget is enclosed, then bisects ``steps`` times in log t. Returns t (0.0
    when even tiny ones break the budget) and all that was tried; the model is left with the threshold it came with.
    """
    if model.config.activation not in ("relu", "fatrelu"):
        raise ValueError(f"find_shift: activation {model.config.activation!r}, expected relu or fatrelu")
    tried: list[dict[str, Any]] = []

    def at(t: float) -> float:
        _set_threshold(model, t)
        tried.append({"threshold": t, **evaluate(model, tokens, **options)})
        return float(tried[-1]["perplexity"])

    try:
        allowed = at(0.0) * (1 + budget)
        low, high = 0.0, math.inf
        t = start
        for _ in range(40):
            if at(t) <= allowed:
                low = t
                t *= 2
            else:
                high = t
                t /= 2
            if low > 0 and high < math.inf or t < 1e-7 or t > 1e4:
                break
        if low == 0 or high == math.inf:
            return low, sorted(tried, key=lambda r: float(r["threshold"]))
        for _ in range(steps):
            t = math.sqrt(low * high)
            low, high = (t, high) if at(t) <= allowed else (low, t)
        return low, sorted(tried, key=lambda r: float(r["threshold"]))
    finally:
        _set_threshold(model, model.config.act_threshold)


@torch.no_grad()
def magnitude_thresholds(model: Llama, tokens: Tokens, sparsity: float, *, batch: int = 8) -> None:
    """Sets per layer the threshold on |SiLU(g)| below which a neuron is dropped, at that quantile of one batch (CATS).

    ``sparsity`` 0 takes the thresholds away.
    """
    if model.config.activation != "silu":
        raise ValueError(f"magnitude_thresholds: activation {model.config.activation!r}, expected silu")
    for ffn in model.ffns:
        ffn.magnitude.fill_(0.0)
    if sparsity <= 0:
        return
    x, _ = next(iter(tokens.in_order(batch, batch)))
    hooks = []
    for ffn in model.ffns:

        def fit(module: Any, args: Any) -> None:
            values = module.scores(args[0]).abs().float().flatten().sort().values
            module.magnitude.fill_(float(values[int(sparsity * (len(values) - 1))]))

        hooks.append(ffn.register_forward_pre_hook(fit))
    try:
        with _autocast(x.device):
            model.features(x)
    finally:
        for hook in hooks:
            hook.remove()
