"""Learn To be Efficient (arXiv 2402.06126): neurons in experts of one size, a linear router per layer, two stages.

Stage 1 scales each expert by its score and trains model and router; stage 2 freezes the router and switches experts by
score > tau. The routers' start is fitted, not random: see fit_routers().
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import Context, cluster_neurons
from .model import Llama


def balanced_groups(rows: Tensor, size: int, seed: int = 0) -> Tensor:
    """Indices [n/size][size] of groups of exactly ``size`` rows: the library's balanced k-means (sffn_cluster_neurons).

    The rows [n][d] are the neurons' input weights: gate rows of a gated FFN, up rows otherwise. Raises ShapeError (a
    ValueError) when ``size`` does not divide n.
    """
    with Context() as context:
        permutation, _ = cluster_neurons(context, rows.detach().float().cpu().contiguous(), group_size=size, seed=seed)
    return torch.from_numpy(permutation.astype("int64")).view(-1, size)


@torch.no_grad()
def apply_experts(model: Llama, groups: list[Tensor]) -> None:
    """Moves the neurons of each layer so that a group is a contiguous range, in gate, up and down alike."""
    for ffn, group in zip(model.ffns, groups):
        order = group.flatten().to(ffn.gate_proj.weight.device)
        ffn.gate_proj.weight.copy_(ffn.gate_proj.weight[order])
        ffn.up_proj.weight.copy_(ffn.up_proj.weight[order])
        ffn.down_proj.weight.copy_(ffn.down_proj.weight[:, order])


@torch.no_grad()
def add_routers(model: Llama, expert_size: int = 32, tau: float = 0.5, seed: int = 0) -> None:
    """Gives each FFN a router with small random weights: all scores start near 0.5."""
    c = model.config
    if c.d_ff % expert_size:
        raise ValueError(f"expert_size: d_ff {c.d_ff} is no multiple of {expert_size}")
    if not 0 < tau < 1:
        raise ValueError(f"tau: {tau}, expected a number between 0 and 1")
    c.expert_size, c.router_threshold = expert_size, tau
    g = torch.Generator().manual_seed(seed)
    for ffn in model.ffns:
        ffn.expert_size, ffn.tau = expert_size, tau
        router = nn.Linear(c.d_model, c.d_ff // expert_size, bias=False)
        router.weight.copy_(torch.randn(router.weight.shape, generator=g) * 0.02)
        ffn.router = router.to(ffn.gate_proj.weight.device)


def hard_routing(model: Llama) -> None:
    """Stage 2: routers frozen, experts on or off."""
    for ffn in model.ffns:
        assert ffn.router is not None
        ffn.is_hard = True
        ffn.router.weight.requires_grad_(False)


@torch.no_grad()
def _ffn_inputs(model: Llama, tokens: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [ffn.register_forward_pre_hook(lambda _, args: found.append(args[0].detach().flatten(0, -2).float())) for ffn in model.ffns]
    try:
        model.features(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def fit_routers(model: Llama, tokens: Tensor, keep: float, ridge: float = 1e-2) -> None:
    """Fits each router in closed form: ridge regression of +2 (an expert among the ``keep`` share with the largest output)
    and -2 (the others) on the FFN's inputs. Without further training this is a post-hoc router in the sense of MoEfication.

    A random router starts stage 1 with every expert at half its output, which first has to be unlearnt; this one starts with
    scores of about 0.88 and 0.12. What an expert puts out is measured as sum |h_i| ||W_down column i||.
    """
    routed = [ffn.router for ffn in model.ffns]
    try:
        for ffn in model.ffns:
            ffn.router = None
        inputs = _ffn_inputs(model, tokens)
    finally:
        for ffn, router in zip(model.ffns, routed):
            ffn.router = router
    for ffn, x in zip(model.ffns, inputs):
        assert ffn.router is not None
        size = ffn.down_proj.weight.float().norm(dim=0)
        out = (ffn.hidden(x).abs() * size).unflatten(-1, (-1, ffn.expert_size)).sum(-1)
        k = max(1, round(keep * out.shape[1]))
        target = torch.full_like(out, -2.0).scatter_(1, out.topk(k, dim=1).indices, 2.0)
        gram = x.T @ x
        gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        ffn.router.weight.copy_(torch.linalg.solve(gram, x.T @ target).T)
