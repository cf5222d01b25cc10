"""The regularisers of ProSparse and LTE, one layer each. Means over tokens, so that the factors don't depend on the batch."""

from __future__ import annotations

import torch
from torch import Tensor

#: Kinds of penalty() on h.
PENALTIES = ("l1", "l1_over_l2", "l1_down")

_TINY = 1e-12


def penalty(kind: str, h: Tensor, w_down: Tensor) -> Tensor:
    """One number for h [...][d_ff]; ``w_down`` is [d_model][d_ff].

    l1           mean of |h_i|: ProSparse's norm divided by d_ff. A model can escape part of it: h / c and c * W_down
                 give the same y with less penalty.
    l1_over_l2   mean over tokens of ||h||_1 / (sqrt(d_ff) ||h||_2), in [1/sqrt(d_ff), 1]: does not change when h is
                 scaled. For n equal active neurons it is sqrt(n / d_ff). A token without active neurons counts 0.
    l1_down      mean of |h_i| * ||W_down column i||: the size of what a neuron adds to y. h / c and c * W_down cost the same.

    Computed in float32 at least: ||h||_2 squared leaves the range of f16.
    """
    a = h.abs() if h.dtype == torch.float64 else h.float().abs()
    if kind == "l1":
        return a.mean()
    if kind == "l1_over_l2":
        # The square root's derivative is infinite at 0; below _TINY the token counts as empty.
        norm = (a.square().sum(-1) + _TINY).sqrt()
        return (a.sum(-1) / norm).mean() / a.shape[-1] ** 0.5
    if kind == "l1_down":
        column = w_down.to(a.dtype).square().sum(0).add(_TINY).sqrt()
        return (a * column).mean()
    raise ValueError(f"penalty: {kind!r}, expected one of {', '.join(PENALTIES)}")


def lte_losses(scores: Tensor, tau: float = 0.5, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """(L_eff, L_sep) of one layer's scores G [...][n_experts]: the means of G^2 and of 1 / ((G - tau)^2 + eps).

    The paper's L_sep has eps = 0 and a pole at G = tau, where a score passes on its way to the other side: one step
    there throws all weights. With eps > 0 the term is at most 1/eps and its slope at most 0.65 eps^-1.5 (at
    |G - tau| = sqrt(eps/3)); training uses 0.01, a hundredth of what matters: scores settle at |G - tau| > 0.3, where
    eps changes the term by a tenth.
    """
    return scores.square().mean(), ((scores - tau).square() + eps).reciprocal().mean()
