"""What an FFN module computes: its matrices and its activation, read from its code and not from its name."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F


class NotAnFFN(Exception):
    """str() says what stands in the way."""


@dataclass
class Parts:
    """h = act(gate x) * (up x) or act(up x), y = down h."""

    up: nn.Linear
    down: nn.Linear
    gate: nn.Linear | None
    activation: str
    act_threshold: float = 0.0


class _Symbol(fx.Proxy):  # type: ignore[name-defined,misc]
    """A value of known element type: forwards that cast where types differ (T5's) can be read."""

    @property
    def dtype(self) -> torch.dtype:
        return self.tracer.dtype  # type: ignore[no-any-return]


class _Tracer(fx.Tracer):  # type: ignore[name-defined,misc]
    """Submodules stay calls: only the module's own forward is read."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _Reader:
    def __init__(self, module: nn.Module) -> None:
        self.module = module
        try:
            self.graph = _Tracer(next((p.dtype for p in module.parameters()), torch.float32)).trace(module)
        except Exception as e:  # whatever its code raises when it sees no tensor but a symbol
            raise NotAnFFN(f"the forward of {type(module).__name__} can't be traced: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from None

    def child(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_linear(self, node: fx.Node) -> bool:
        return isinstance(self.child(node), nn.Linear)

    def source(self, node: Any) -> Any:
        """The node behind what does nothing outside of training."""
        while isinstance(node, fx.Node):
            child = self.child(node)
            if isinstance(child, (nn.Dropout, nn.Identity)) or (node.target is F.dropout and node.kwargs.get("training") is False):
                node = node.args[0]
            else:
                break
        return node

    def linears(self, node: Any) -> list[fx.Node]:
        """The nearest linear layers upstream."""
        if not isinstance(node, fx.Node):
            return []
        if self.is_linear(node):
            return [node]
        found: list[fx.Node] = []
        for n in node.all_input_nodes:
            found += [f for f in self.linears(n) if f not in found]
        if not node.all_input_nodes:
            raise NotAnFFN("its hidden values depend on something other than linear maps of the input")
        return found

    def value(self, node: Any, root: fx.Node, x: Tensor) -> Any:
        """What the operations between root and node make of root = x."""
        node = self.source(node)
        if node is root:
            return x
        if not isinstance(node, fx.Node):
            return node
        args = fx.map_arg(node.args, lambda n: self.value(n, root, x))
        kwargs = fx.map_arg(node.kwargs, lambda n: self.value(n, root, x))
        if node.op == "call_module":
            return self.module.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        raise NotAnFFN(f"its activation uses {node.op} {node.target}")

    def function(self, node: Any) -> tuple[fx.Node, str, float]:
        """(linear layer, activation, threshold) behind a value."""
        roots = self.linears(node)
        if len(roots) != 1:
            raise NotAnFFN(f"its hidden values come from {len(roots)} linear layers, expected 1, or 2 that are multiplied")
        try:
            found = name_activation(lambda x: self.value(node, roots[0], x))
        except NotAnFFN:
            raise
        except Exception as e:
            raise NotAnFFN(f"its activation can't be evaluated: {e}") from None
        if found is None:
            raise NotAnFFN(f"its activation ({self._words(node, roots[0])}) is none of the library's")
        return roots[0], *found

    def _words(self, node: Any, root: fx.Node) -> str:
        names = []
        while isinstance(node, fx.Node) and node is not root:
            child = self.child(node)
            names.append(type(child).__name__ if child is not None else getattr(node.target, "__name__", str(node.target)))
            node = node.all_input_nodes[0]
        return " of ".join(names)


def _grid() -> Tensor:
    small = torch.linspace(-8, 8, 257, dtype=torch.float64)
    wide = torch.logspace(-6, 4, 41, dtype=torch.float64)
    return torch.cat([small, wide, -wide, torch.zeros(1, dtype=torch.float64)])


def name_activation(f: Any) -> tuple[str, float] | None:
    """The library's name and threshold of an elementwise function, from its values in float64; "identity", or None."""
    x = _grid()
    with torch.no_grad():
        y = f(x.clone())
        if not isinstance(y, Tensor) or y.shape != x.shape:
            return None
        if torch.equal(y, x):
            return "identity", 0.0
        if torch.equal(y, F.relu(x)):
            return "relu", 0.0
        if torch.equal(y, F.relu(x).square()):
            return "relu2", 0.0
        # Ways to write the same function differ by roundings of float64, or of a constant given to 10 digits.
        for name, exact in (("silu", F.silu(x)), ("gelu", F.gelu(x)), ("gelu_tanh", F.gelu(x, approximate="tanh"))):
            if bool(((y - exact).abs() <= 1e-9 * x.abs()).all()):
                return name, 0.0
        kept = y != 0
        if bool(kept.any()) and bool((y[kept] == x[kept]).all()) and float(x[kept].min()) > 0:
            t = _threshold(f, float(x[kept].min()))
            if torch.equal(y, torch.where(x >= t, x, 0.0)):
                return "fatrelu", t
    return None


def _threshold(f: Any, kept: float) -> float:
    """The smallest float32 that f, in float32, keeps, between 0 and one that it keeps: bisection over the bits."""
    low, high = 0, int(np.float32(kept).view(np.uint32)) + 1  # rounding may have gone below: one more is kept, too
    while high - low > 1:
        middle = (low + high) // 2
        value = float(np.uint32(middle).view(np.float32))
        low, high = (low, middle) if float(f(torch.tensor([value]))) != 0 else (middle, high)
    return float(np.uint32(high).view(np.float32))


def is_plain(linear: nn.Module) -> bool:
    """nn.Linear's own arithmetic, without hooks or parametrizations: no LoRA, no quantised layer."""
    hooks = linear._forward_hooks or linear._forward_pre_hooks
    return isinstance(linear, nn.Linear) and type(linear).forward is nn.Linear.forward and "forward" not in vars(linear) and not hooks and "parametrizations" not in linear._modules


def read(module: nn.Module) -> Parts:
    """The parts of a module like y = down(act(gate(x)) * up(x)) or down(act(up(x))). Raises NotAnFFN."""
    reader = _Reader(module)
    inputs = [n for n in reader.graph.nodes if n.op == "placeholder"]
    (output,) = (n for n in reader.graph.nodes if n.op == "output")
    down = reader.source(output.args[0])
    if not isinstance(down, fx.Node) or not reader.is_linear(down):
        raise NotAnFFN("its output is not that of a linear layer")
    h = reader.source(down.args[0])
    roots = reader.linears(h)
    if len(roots) == 2:
        if not (h.target in (operator.mul, torch.mul) or (h.op == "call_method" and h.target == "mul")):
            raise NotAnFFN("two linear layers are joined by something other than a product")
        found = [reader.function(a) for a in h.args]
        if found[0][1] == "identity":
            found.reverse()
        (gate, name, t), (up, other, _) = found
        if (name, other) == ("relu", "relu"):
            name = "drelu"
        elif other != "identity" or name == "identity":
            raise NotAnFFN(f"the factors of its product are {name} and {other}, expected an activation of the gate times the plain other map")
    else:
        up, name, t = reader.function(h)
        gate = None
        if name == "identity":
            raise NotAnFFN("it has no activation")
    for node in roots:
        if reader.source(node.args[0]) is not inputs[0]:
            raise NotAnFFN("its first linear layers read something other than its input")
    return Parts(reader.child(up), reader.child(down), gate and reader.child(gate), name, t)  # type: ignore[arg-type]
