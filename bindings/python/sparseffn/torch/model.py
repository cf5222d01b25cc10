"""A llama-architecture decoder whose FFN shows what a sparsity recipe needs: h, its zeros and, with LTE, the experts' scores."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import lte_losses, penalty

#: Names of the activations, as in config.json's hidden_act.
ACTIVATIONS = ("silu", "relu", "fatrelu", "drelu", "relu2")


@dataclass
class ModelConfig:
    """Sizes and constants; the names in brackets are config.json's."""

    d_model: int  # hidden_size
    d_ff: int  # intermediate_size
    n_layers: int  # num_hidden_layers
    n_heads: int  # num_attention_heads
    n_kv_heads: int  # num_key_value_heads
    n_vocab: int  # vocab_size
    n_context: int = 512  # max_position_embeddings
    head_dim: int = 0  # 0: d_model / n_heads
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    is_tied: bool = True  # tie_word_embeddings
    activation: str = "silu"  # hidden_act
    act_threshold: float = 0.0  # hidden_act_param, for fatrelu
    expert_size: int = 0  # neurons per LTE expert; 0: no router
    router_threshold: float = 0.5  # tau
    bos: int = 0  # id that starts a document

    def __post_init__(self) -> None:
        self.head_dim = self.head_dim or self.d_model // self.n_heads
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation: {self.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
        if self.n_heads % self.n_kv_heads or self.head_dim % 2:
            raise ValueError(f"n_heads {self.n_heads}, n_kv_heads {self.n_kv_heads}, head_dim {self.head_dim} don't fit")
        if self.expert_size and self.d_ff % self.expert_size:
            raise ValueError(f"d_ff {self.d_ff} is no multiple of expert_size {self.expert_size}")

    @property
    def n_parameters(self) -> int:
        attention = self.d_model * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        layer = attention + 3 * self.d_model * self.d_ff + 2 * self.d_model
        if self.expert_size:
            layer += self.d_ff // self.expert_size * self.d_model
        return self.n_layers * layer + self.d_model * (1 + self.n_vocab * (1 if self.is_tied else 2))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class RMSNorm(nn.Module):
    def __init__(self, n: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in Hugging Face's order: element i turns with element i + head_dim/2."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = c.n_heads, c.n_kv_heads, c.head_dim
        self.q_proj = nn.Linear(c.d_model, c.n_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.d_model, c.n_kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.d_model, c.n_kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.n_heads * c.head_dim, c.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.n_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.n_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.n_kv_heads, self.head_dim).transpose(1, 2)
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = self.n_heads // self.n_kv_heads
        if repeat > 1:
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class FFN(nn.Module):
    """h = act(gate) * up, y = down(h). With a router, h of expert e is scaled by its score (soft) or by 0 and 1 (hard).

    ``measures`` of the last call holds what the loss and the log need, as tensors with gradients where they have any:
    penalty, zeros (share of h that is 0), l1 (mean |h|), and with a router: eff, sep, open (share of experts above tau).
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.activation = c.activation
        self.gate_proj = nn.Linear(c.d_model, c.d_ff, bias=False)
        self.up_proj = nn.Linear(c.d_model, c.d_ff, bias=False)
        self.down_proj = nn.Linear(c.d_ff, c.d_model, bias=False)
        self.register_buffer("act_threshold", torch.tensor(float(c.act_threshold)), persistent=False)
        # |s| below this is dropped (post-hoc magnitude thresholds); 0: nothing is
        self.register_buffer("magnitude", torch.tensor(0.0), persistent=False)
        self.expert_size, self.tau = c.expert_size, c.router_threshold
        self.router = nn.Linear(c.d_model, c.d_ff // c.expert_size, bias=False) if c.expert_size else None
        self.is_hard = False
        self.penalty_kind = ""  # "": none is computed
        self.lte_eps = 0.01

    def scores(self, x: Tensor) -> Tensor:
        """The gate's score s [tokens][d_ff]; times up (dReLU: its positive part) it is h."""
        g = self.gate_proj(x)
        if self.activation == "silu":
            s = F.silu(g)
            return s * (s.abs() >= self.magnitude.to(s.dtype))
        if self.activation == "relu2":
            return F.relu(g).square()
        return F.relu(g) * (g >= self.act_threshold.to(g.dtype))  # threshold 0: relu and drelu

    def hidden(self, x: Tensor) -> Tensor:
        u = self.up_proj(x)
        return self.scores(x) * (F.relu(u) if self.activation == "drelu" else u)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.hidden(x)
        measures: dict[str, Tensor] = {}
        if self.router is not None:
            logits = self.router(x).float() if x.dtype != torch.float64 else self.router(x)
            if self.is_hard:  # logit(tau) is compared: the test that the library makes
                gate = (logits > math.log(self.tau / (1 - self.tau))).to(h.dtype)
                measures["open"] = gate.detach().float().mean()
            else:
                scores = torch.sigmoid(logits)
                measures["eff"], measures["sep"] = lte_losses(scores, self.tau, self.lte_eps)
                measures["open"] = (scores.detach() > self.tau).float().mean()
                gate = scores.to(h.dtype)
            h = h.unflatten(-1, (-1, self.expert_size)).mul(gate.unsqueeze(-1)).flatten(-2)
        measures["zeros"] = (h.detach() == 0).float().mean()
        measures["l1"] = h.detach().abs().float().mean()
        if self.penalty_kind:
            measures["penalty"] = penalty(self.penalty_kind, h, self.down_proj.weight)
        return self.down_proj(h), measures


class Layer(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.mlp = FFN(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        y, measures = self.mlp(self.post_attention_layernorm(x))
        return x + y, measures


def _token_loss(x: Tensor, w: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(x, w)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide.flatten(0, 1), targets.flatten())


class Llama(nn.Module):
    """forward(tokens [b][t]) gives logits [b][t][n_vocab]; forward(tokens, targets) gives (loss, measures).

    ``measures`` maps a name to one value per layer. Parameter names are Hugging Face's without "model.".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.n_vocab, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.d_model, config.n_vocab, bias=False)
        if config.is_tied:
            self.lm_head.weight = self.embed_tokens.weight
        self.token_loss: Any = _token_loss
        frequency = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).double() / config.head_dim)
        angle = torch.outer(torch.arange(config.n_context).double(), frequency)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def initialise(self, seed: int = 0) -> Llama:
        """GPT-2's initialisation: normal with 0.02, the two projections into the residual smaller by sqrt(2 n_layers)."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.dim() < 2:
                    p.fill_(1.0)
                    continue
                std = 0.02 / math.sqrt(2 * self.config.n_layers) if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                p.copy_(torch.randn(p.shape, generator=generator) * std)
        return self

    @property
    def ffns(self) -> list[FFN]:
        return [layer.mlp for layer in self.layers]  # type: ignore[misc]

    def set_activation(self, name: str, threshold: float = 0.0) -> None:
        """Replaces the activation of all layers; the weights stay."""
        if name not in ACTIVATIONS:
            raise ValueError(f"activation: {name!r}, expected one of {', '.join(ACTIVATIONS)}")
        self.config.activation, self.config.act_threshold = name, threshold
        for ffn in self.ffns:
            ffn.activation = name
            ffn.act_threshold.fill_(threshold)

    def features(self, tokens: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """The normalised state before the output matrix, and the measures."""
        t = tokens.shape[1]
        x = self.embed_tokens(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        cos, sin = self.cos[:t], self.sin[:t]
        measures: dict[str, list[Tensor]] = {}
        for layer in self.layers:
            x, found = layer(x, cos, sin)
            for name, value in found.items():
                measures.setdefault(name, []).append(value)
        return self.norm(x), measures

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Any:
        x, measures = self.features(tokens)
        if targets is None:
            return self.lm_head(x)
        loss = self.token_loss(x, self.lm_head.weight, targets)
        return loss, {name: torch.stack(values) for name, values in measures.items()}

    def compile_parts(self) -> None:
        """torch.compile on the layer and on the loss: one compilation serves all layers, whatever their number."""
        for layer in self.layers:
            layer.compile()
        self.token_loss = torch.compile(_token_loss)
