"""replace_ffn: the FFN modules of a PyTorch model run by the library, as one operator each that torch.compile keeps."""

from __future__ import annotations

import itertools
import re
import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Union

import torch
from torch import Tensor, nn

from .. import FFN, Context, DenseReason, FFNStats, Path, Router, Storage, logger
from . import model as ours
from .._enums import parse
from .pattern import NotAnFFN, Parts, is_plain, read

# Decoder layers whose FFN is no module of its own: fc2(activation_fn(fc1(x))) in their forward.
_FLAT_LAYERS = ("OPTDecoderLayer",)
# What a class is called that should be in the report, even when it can't be replaced.
_FFN_NAMES = re.compile(r"(MLP|Mlp|FFN|FeedForward|DenseActDense|DenseGatedActDense|Experts|MoE|Moe|MoeBlock)$")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NOT_WHILE_TRAINING = "runs in libsparseffn, which computes no gradients"


@dataclass(frozen=True)
class FFNRecord:
    """One FFN module of a model: whether the library runs it, with what, and what its calls did so far."""

    name: str  #: in the model, "model.layers.0.mlp"; of the decoder layer where the FFN is no module of its own
    kind: str  #: its class
    replaced: bool
    reason: str  #: why it was not replaced, or what keeps it from being faster; "" when there is nothing to say
    activation: str = ""
    d_model: int = 0
    d_ff: int = 0
    dtype: str = ""  #: of the weights that are read: "f32", "bf16", "q8_0", ...
    borrowed_bytes: int = 0  #: weights read where PyTorch keeps them
    packed_bytes: int = 0  #: weights packed by the library: memory besides the model's own
    sparse_calls: int = 0
    dense_calls: int = 0  #: calls in which the library ran all neurons
    torch_calls: int = 0  #: calls handed back to the module's own code: long prompts
    n_tokens: int = 0  #: of the library's calls
    density: float = 0.0  #: share of the neurons that were active in them

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class FFNReport(list[FFNRecord]):
    """One FFNRecord for each FFN module of a model, in the model's order. str() is a table."""

    @property
    def replaced(self) -> list[FFNRecord]:
        return [r for r in self if r.replaced]

    @property
    def skipped(self) -> list[FFNRecord]:
        return [r for r in self if not r.replaced]

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} of {len(self)} FFN modules run in libsparseffn"]
        for r in self:
            if r.replaced:
                size = f"{r.activation} {r.dtype} {r.d_model}x{r.d_ff}, {r.borrowed_bytes / 1e6:.1f} MB in place, {r.packed_bytes / 1e6:.1f} MB packed"
                calls = f"calls: {r.sparse_calls} sparse, {r.dense_calls} dense, {r.torch_calls} PyTorch; density {r.density:.3f}"
                lines.append(f"  {r.name} ({r.kind}): {size}; {calls}" + (f" ({r.reason})" if r.reason else ""))
            else:
                lines.append(f"  {r.name} ({r.kind}): not replaced: {r.reason}")
        return "\n".join(lines)


_Places = list[tuple[dict[str, Any], str]]


class _Contexts(threading.local):
    """A context of the library per Python thread: one runs one call at a time."""

    def __init__(self, make: Callable[[], Context]) -> None:
        self.context = make()
        self.reserved: set[int] = set()


class _Layer:
    """What the operator needs of one module. ``watched`` are the tensors that were read when the layer was made, by their places in modules."""

    def __init__(self, name: str, ffn: FFN, contexts: _Contexts, original: Callable[[Tensor], Tensor], watched: _Places, torch_tokens: int) -> None:
        self.name, self.ffn, self.contexts, self.original, self.torch_tokens = name, ffn, contexts, original, torch_tokens
        self.key = next(_keys)
        self.watched = [(place, key, _state(place[key])) for place, key in watched]
        self.lock = threading.Lock()
        self.n = {"sparse": 0, "dense": 0, "torch": 0, "tokens": 0, "active": 0}

    def run(self, x: Tensor) -> Tensor:
        for place, key, state in self.watched:
            if _state(place[key]) != state:
                raise RuntimeError(f"{self.name}: weights changed since replace_ffn(); call restore_ffn(model) and replace_ffn(model) again")
        rows = x.numel() // self.ffn.d_model
        if self.torch_tokens and rows >= self.torch_tokens:
            with self.lock:
                self.n["torch"] += 1
                first = self.n["torch"] == 1
            if first:
                logger.info("%s: calls of %d tokens and more run in PyTorch", self.name, self.torch_tokens)
            with torch.no_grad():
                return self.original(x)
        if self.key not in self.contexts.reserved:
            self.ffn.reserve(self.contexts.context)
            self.contexts.reserved.add(self.key)
        y = torch.empty(x.shape, dtype=torch.float32)
        stats = FFNStats()
        # float32 rows go in and out where they are; half types are widened, d_model numbers per token
        self.ffn.forward(x.detach().to(torch.float32).reshape(rows, self.ffn.d_model), y.view(rows, self.ffn.d_model), stats=stats, context=self.contexts.context)
        with self.lock:
            self.n["sparse" if stats.way == Path.SPARSE else "dense"] += 1
            self.n["tokens"] += rows
            self.n["active"] += stats.n_nonzero
        return y.to(x.dtype)


def _state(tensor: Tensor) -> tuple[int, int]:
    """Another one once the tensor was written to, moved or replaced (not when it was written to through .data)."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


_LAYERS: weakref.WeakValueDictionary[int, _Layer] = weakref.WeakValueDictionary()
_keys = itertools.count(1)

# The operator takes x and the number of a layer of this process. It reads weights that are no arguments of it, so it is declared to depend on
# nothing that a graph could reorder: weights must not change while it is in use, which run() checks.
_library = torch.library.Library("sparseffn", "DEF")
_library.define("ffn(Tensor x, SymInt layer) -> Tensor")


@torch.library.impl(_library, "ffn", "CPU")
def _run(x: Tensor, layer: int) -> Tensor:
    found = _LAYERS.get(int(layer))
    if found is None:
        raise RuntimeError("sparseffn::ffn: this layer is of another process or of a model that was restored: compile the model again")
    return found.run(x)


@torch.library.register_fake("sparseffn::ffn", lib=_library)
def _fake(x: Tensor, layer: int) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _backward(ctx: Any, grad: Tensor) -> Any:
    raise RuntimeError(f"sparseffn::ffn: the FFN {_NOT_WHILE_TRAINING}: call restore_ffn(model) to train")


torch.library.register_autograd("sparseffn::ffn", _backward, lib=_library)


class SparseFFN(nn.Module):
    """Stands where an FFN module stood. It holds that module's parameters under their names, so state_dict() is unchanged."""

    def __init__(self, record: FFNRecord, layer: _Layer, shown: nn.Module, siblings: dict[str, nn.Module], measures: bool) -> None:
        super().__init__()
        self._modules, self._parameters, self._buffers = shown._modules, shown._parameters, shown._buffers
        self.train(False)
        self.record, self.layer, self.measures = record, layer, measures
        # in a tuple, so that they are no submodules: what restore_ffn puts back, by their names in the parent
        self.siblings = (siblings,)
        _LAYERS[layer.key] = layer

    def forward(self, x: Tensor) -> Any:
        if self.training or (x.requires_grad and torch.is_grad_enabled()):
            what = "is in training mode" if self.training else "was given an input that requires a gradient"
            cure = "call restore_ffn(model) to train" if self.training else "call it under torch.no_grad(), or restore_ffn(model) to train"
            raise RuntimeError(f"{self.record.name} {what}, but {_NOT_WHILE_TRAINING}: {cure}")
        y = torch.ops.sparseffn.ffn(x, self.layer.key)
        return (y, {}) if self.measures else y

    def __reduce__(self) -> Any:
        raise TypeError("a model whose FFNs run in libsparseffn can be neither copied nor pickled: restore_ffn(model) first, or save its state_dict()")

    def extra_repr(self) -> str:
        r = self.record
        return f"{r.activation} {r.dtype}, d_model={r.d_model}, d_ff={r.d_ff}, of {r.kind}"

    def now(self) -> FFNRecord:
        """The record with the counts of the calls so far."""
        n = self.layer.n
        density = n["active"] / max(1, n["tokens"] * self.record.d_ff)
        counts = {"sparse_calls": n["sparse"], "dense_calls": n["dense"], "torch_calls": n["torch"], "n_tokens": n["tokens"], "density": density}
        return FFNRecord(**{**asdict(self.record), **counts})


class _OurFFN(SparseFFN):
    """In place of sparseffn.torch.model.FFN, whose settings can't be changed while the library runs it."""

    activation = property(lambda self: next(iter(self.siblings[0].values())).activation)
    is_hard = property(lambda self: next(iter(self.siblings[0].values())).is_hard)
    penalty_kind = property(lambda self: next(iter(self.siblings[0].values())).penalty_kind)


class _PassOn(nn.Module):
    """Stands where the second linear layer of a flat FFN stood, and shows its parameters."""

    def __init__(self, shown: nn.Module) -> None:
        super().__init__()
        self._parameters = shown._parameters
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass
class _Found:
    """An FFN that can be replaced: its parts, what its FFN object is made with besides, and the tensors it was read from."""

    parts: Parts
    options: dict[str, Any]
    watched: _Places


def _read_ours(module: ours.FFN) -> _Found:
    parts = Parts(module.up_proj, module.down_proj, module.gate_proj, module.activation, float(module.act_threshold))
    if module.activation in ("relu", "drelu") and parts.act_threshold > 0:
        if module.activation == "drelu":
            raise NotAnFFN(f"drelu with a threshold of {parts.act_threshold:g}")
        parts.activation = "fatrelu"
    options: dict[str, Any] = {}
    if float(module.magnitude) > 0 and module.activation == "silu":
        options.update(rule="abs_score", rule_threshold=float(module.magnitude), rule_tie="keep", select="gate")
    watched: _Places = [(module._buffers, "act_threshold"), (module._buffers, "magnitude")]
    if module.router is not None:
        if not module.is_hard:
            raise NotAnFFN("its router multiplies by its scores; call hard_routing(model) first")
        if not is_plain(module.router):
            raise NotAnFFN("its router is no plain nn.Linear")
        options["router"] = {"weights": module.router.weight, "block_size": module.expert_size, "threshold": module.tau}
        watched.append((module.router._parameters, "weight"))
    return _Found(parts, options, watched)


def _read_flat(layer: nn.Module) -> _Found:
    """fc1, activation_fn and fc2 of a decoder layer, in the order in which its class is known to call them."""
    act = layer.activation_fn
    sequence = nn.Sequential(layer.fc1, act, layer.fc2).eval()
    try:
        return _Found(read(sequence), {}, [])
    finally:
        sequence.train(layer.training)


def _find(module: nn.Module) -> _Found:
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise NotAnFFN("it has forward hooks, or a forward of its own")
    if isinstance(module, ours.FFN):
        found = _read_ours(module)
    elif type(module).__name__ in _FLAT_LAYERS:
        found = _read_flat(module)
    else:
        found = _Found(read(module), {}, [])
    for what in ("gate", "up", "down"):
        linear = getattr(found.parts, what)
        if linear is None:
            continue
        weight = linear.weight
        if not is_plain(linear):
            raise NotAnFFN(f"its {what} map is no plain nn.Linear but a {type(linear).__name__} of other arithmetic, with hooks or parametrizations")
        if weight.device.type != "cpu":
            raise NotAnFFN(f"its {what} weights are on {weight.device}, expected cpu")
        if weight.dtype not in _DTYPES:
            raise NotAnFFN(f"its {what} weights are {weight.dtype}, expected float32, bfloat16 or float16")
        found.watched += [(linear._parameters, key) for key in ("weight", "bias") if linear._parameters[key] is not None]
    return found


def _bias(linear: nn.Linear | None) -> Any:
    return None if linear is None or linear.bias is None else linear.bias.detach().float().contiguous()


def _make(name: str, kind: str, found: _Found, contexts: _Contexts, options: dict[str, Any]) -> tuple[FFNRecord, FFN]:
    parts, context = found.parts, contexts.context
    settings: dict[str, Any] = {**found.options, **options}
    storage = parse(Storage, settings.setdefault("storage", "borrow" if settings.get("dtype") is None else "copy"), "storage")
    router = settings.get("router")
    if isinstance(router, dict):
        settings["router"] = Router(context, router["weights"].detach().float().contiguous(), block_size=router["block_size"], threshold=router["threshold"])
    matrices = {"up": parts.up.weight, "down": parts.down.weight}
    if parts.gate is not None:
        matrices["gate"] = parts.gate.weight
    before = context.info.weight_bytes
    ffn = FFN(
        context,
        **{k: v.detach() for k, v in matrices.items()},
        gate_bias=_bias(parts.gate),
        up_bias=_bias(parts.up),
        down_bias=_bias(parts.down),
        activation=parts.activation,
        act_threshold=parts.act_threshold,
        name=name,
        **settings,
    )
    info = ffn.info
    borrowed = sum(w.nbytes for k, w in matrices.items() if k != "down") if storage == Storage.BORROW else 0
    record = FFNRecord(
        name, kind, True,
        f"{parts.activation} has no zeros, so all neurons run; a rule, router or predictor would leave some out" if info.dense_reason == DenseReason.NO_ZEROS else "",
        parts.activation, ffn.d_model, ffn.d_ff, info.up_dtype.name.lower(), borrowed, context.info.weight_bytes - before,
    )  # fmt: skip
    return record, ffn


def _fused(module: nn.Module) -> SparseFFN | None:
    """What stands for the FFN of a module that was replaced, or of a decoder layer whose parts were."""
    module = module.fc1 if type(module).__name__ in _FLAT_LAYERS else module
    return module if isinstance(module, SparseFFN) else None


def _visit(model: nn.Module, take: Callable[[str, nn.Module], bool]) -> None:
    """Calls take for the FFN modules of a model, outermost first, and for those inside of one that it did not take."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside) and inside:
            continue
        kind = type(module).__name__
        is_ffn = isinstance(module, SparseFFN) or kind in _FLAT_LAYERS or (_FFN_NAMES.search(kind) and any(True for _ in module.children()))
        if is_ffn and name and take(name, module):
            inside += (name + ".",)


Options = Union[dict[str, Any], Callable[[str, nn.Module], dict[str, Any]]]


def replace_ffn(
    model: nn.Module,
    options: Options | None = None,
    *,
    n_threads: int | None = None,
    torch_tokens: int = 32,
    context: Callable[[], Context] | None = None,
) -> FFNReport:
    """Lets the library run the FFN modules of a model on the CPU, in place; the rest of the model stays PyTorch's.

    Replaced are modules that compute down(act(gate(x)) * up(x)) or down(act(up(x))) with plain nn.Linear layers in float32, bfloat16 or
    float16 and an activation of the library: llama, mistral, qwen, gemma, nemotron and the like in transformers, OPT's decoder layers, and
    sparseffn.torch.Llama. What a module computes is read from its code (torch.fx), not from its name. Everything else stays as it is, with
    the reason in the report and in the log (logging.getLogger("sparseffn")).

    Forward is exact: a neuron is skipped when its activation is 0. Sums are float32 in another order than PyTorch's, so y differs within the
    rounding of both; with bfloat16 weights the library rounds once, at y, where PyTorch rounds g, u, h and y.

    Memory: activations in float32 go in and out where they are (half types are widened, d_model numbers per token). Gate and up are read
    where PyTorch keeps them. Down is read by columns, so it is packed once, transposed: a third more of a gated FFN's weights, half of an
    ungated one's. ``{"storage": "copy"}`` packs all three (twice the FFN's memory; in huge pages where the system has them).

    Args:
        model: in eval mode, on the CPU; changed in place. Its state_dict() keeps its names and tensors.
        options: keyword arguments of sparseffn.FFN for all layers (storage, dtype, select, rule, rule_threshold, predictor, router,
            max_density, ...), or a function of (name, module) that returns them for one.
        n_threads: of the library's own pool; None: as many as torch.get_num_threads().
        torch_tokens: calls of at least this many tokens run PyTorch's own code, which is faster for long prompts in bfloat16; 0: none.
        context: makes the sparseffn.Context of a Python thread, instead of n_threads. Each thread that runs the model gets one.

    Returns: what was replaced and what was not, and why; ffn_report(model) gives it again, with the counts of the calls.

    Raises:
        RuntimeError: the model is in training mode. ValueError: nothing in it could be replaced; says why. TypeError, SparseffnError: options.
    The operator is torch.ops.sparseffn.ffn; torch.compile keeps it in one graph. Calls in training mode, with an input that requires a
    gradient, or after a weight was changed (but through .data, which PyTorch doesn't count), raise RuntimeError. Since 0.1.
    """
    if model.training:
        raise RuntimeError("replace_ffn: the model is in training mode, expected model.eval(); the library computes no gradients")
    if context is None:
        n = torch.get_num_threads() if n_threads is None else n_threads
        context = lambda: Context(n_threads=n)  # noqa: E731
    elif n_threads is not None:
        raise TypeError("replace_ffn: context and n_threads exclude each other")
    contexts = _Contexts(context)
    report, swaps = FFNReport(), []

    def take(name: str, module: nn.Module) -> bool:
        kind, fused = type(module).__name__, _fused(module)
        if fused is not None:
            report.append(fused.now())
            return True
        try:
            found = _find(module)
            given = options(name, module) if callable(options) else options or {}
            record, ffn = _make(name, kind, found, contexts, given)
        except NotAnFFN as e:
            report.append(FFNRecord(name, kind, False, str(e)))
            logger.warning("%s (%s) stays with PyTorch: %s", name, kind, e)
            return False
        swaps.append((name, module, found, record, ffn))
        report.append(record)
        return True

    _visit(model, take)
    if not swaps:
        words = "; ".join(f"{r.name} ({r.kind}): {r.reason or 'replaced before'}" for r in report[:3]) or "no FFN module was found in it"
        raise ValueError(f"replace_ffn: nothing to replace in this {type(model).__name__}: {words}")
    for name, module, found, record, ffn in swaps:  # nothing is changed before all of it is known to work
        if type(module).__name__ in _FLAT_LAYERS:
            siblings = {n: getattr(module, n) for n in ("fc1", "activation_fn", "fc2")}
            fc1, act, fc2 = siblings.values()
            layer = _Layer(name, ffn, contexts, lambda x, a=fc1, b=act, c=fc2: c(b(a(x))), found.watched, torch_tokens)
            module.fc1, module.activation_fn, module.fc2 = SparseFFN(record, layer, fc1, siblings, False), nn.Identity(), _PassOn(fc2)
            continue
        is_ours = isinstance(module, ours.FFN)
        original = (lambda x, m=module: m(x)[0]) if is_ours else module
        layer = _Layer(name, ffn, contexts, original, found.watched, torch_tokens)
        parent, _, attribute = name.rpartition(".")
        new = (_OurFFN if is_ours else SparseFFN)(record, layer, module, {attribute: module}, is_ours)
        setattr(model.get_submodule(parent), attribute, new)
    logger.info("%d of %d FFN modules run in libsparseffn", len(report.replaced), len(report))
    return report


def ffn_report(model: nn.Module) -> FFNReport:
    """What runs in the library and what does not, with the counts of the calls since replace_ffn(). Since 0.1."""
    report = FFNReport()

    def take(name: str, module: nn.Module) -> bool:
        fused = _fused(module)
        if fused is not None:
            report.append(fused.now())
            return True
        reason = "replace_ffn() was not called"
        try:
            _find(module)
        except NotAnFFN as e:
            reason = str(e)
        report.append(FFNRecord(name, type(module).__name__, False, reason))
        return False

    _visit(model, take)
    return report


def restore_ffn(model: nn.Module) -> int:
    """Puts the modules back that replace_ffn() took out; returns how many FFNs that were. Their weights never moved. Since 0.1."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, SparseFFN)]
    for name, module in found:
        parent = model.get_submodule(name.rpartition(".")[0])
        for attribute, original in module.siblings[0].items():
            original.train(parent.training)
            setattr(parent, attribute, original)
    return len(found)
