"""FFN: one feed-forward layer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from . import _abi
from ._arrays import FloatArray, Rows, must_not_overlap, out_rows, result, rows, vector
from ._enums import Activation, DenseReason, DType, Layout, Path, Rule, Select, SelectorInput, Storage, Tie, parse
from ._errors import ShapeError, UnsupportedError, check
from ._lib import lib
from .active_set import ActiveSet, address_of
from .context import Child, Context, read_struct, uint32
from .predictor import Predictor, number_or_vector
from .router import Router
from .weights import WeightsLike, as_weights


class FFNStats(_abi.sffn_ffn_stats):
    """What one call of FFN.forward did; make one, pass it as ``stats=``, use it again. n_* are summed over tokens.

    Attributes:
        n_tokens: tokens of the call.
        n_selected: neurons let through to the gate (all of them in gate-first and dense).
        n_active: neurons whose up row was needed; n_nonzero: neurons whose down row was needed.
        union_active: up rows really read, each once per up to 8 tokens.
        touched_bytes: weight bytes read, selector included.
        select_ns, gate_ns, up_ns, down_ns, total_ns: 0 unless the context was made with collect_stats=True.
        n_widened: tokens whose selection exceeded max_density, so that the gate looked at all neurons instead.
        d_ff: neurons of the layer.
    """

    n_tokens: int
    n_selected: int
    n_active: int
    n_nonzero: int
    union_active: int
    touched_bytes: int
    select_ns: int
    gate_ns: int
    up_ns: int
    down_ns: int
    total_ns: int
    n_widened: int
    d_ff: int = 0

    @property
    def way(self) -> Path:
        """Which way the call went: Path.SPARSE, DENSE, DENSE_ONEDNN."""
        return Path(int(self.path))

    @property
    def why_dense(self) -> DenseReason:
        """Why the call ran dense; DenseReason.NOT when it did not."""
        return DenseReason(int(self.dense_reason))

    @property
    def selected_by(self) -> Select:
        """Who decided which neurons run; never Select.DEFAULT."""
        return Select(int(self.select))

    @property
    def density(self) -> float:
        """n_active / (n_tokens * d_ff); 0 before the first call."""
        return self.n_active / max(1, self.n_tokens * self.d_ff)

    def as_dict(self) -> dict[str, Any]:
        """All fields, with ``path``, ``select`` and ``dense_reason`` as names, and ``density``."""
        values = {name: getattr(self, name) for name, *_ in _abi.sffn_ffn_stats._fields_ if name != "struct_size"}
        values["path"] = self.way.name.lower()
        values["select"] = self.selected_by.name.lower()
        values["dense_reason"] = self.why_dense.name.lower()
        values["d_ff"] = self.d_ff
        values["density"] = self.density
        return values

    def __repr__(self) -> str:
        return f"<sparseffn.FFNStats {' '.join(f'{k}={v}' for k, v in self.as_dict().items())}>"


@dataclass(frozen=True)
class FFNInfo:
    d_model: int
    d_ff: int
    is_gated: bool
    activation: Activation
    rule: Rule
    has_predictor: bool
    has_router: bool
    gate_dtype: DType | None  #: None when ungated
    up_dtype: DType
    down_dtype: DType
    act_threshold: float
    weight_bytes: int  #: what the dense layer must read
    selector_bytes: int  #: what the predictor or router reads
    select_input: SelectorInput  #: of the predictor or router: what to hand in as select_x
    select: Select  #: who decides for one token by default
    dense_reason: DenseReason  #: why such a call runs dense
    dense_tokens: int  #: default calls run dense from this many tokens on; 1: all do, 0: none does, however long
    max_density: float  #: selections of a larger share make the gate look at all neurons


@dataclass(frozen=True)
class LayerStats:
    """What a layer did in a context since it was made or Context.reset_stats(): sums over all calls."""

    calls_sparse: int
    calls_dense: int
    calls_onednn: int
    n_tokens: int
    n_selected: int  #: this and the next two as in FFNStats; over n_tokens * d_ff they are densities
    n_active: int
    n_nonzero: int
    touched_bytes: int  #: weight bytes read, selector included
    select_ns: int
    gate_ns: int
    up_ns: int
    down_ns: int
    check_ns: int  #: of the checks for sampled recall
    total_ns: int
    sampled_tokens: int  #: whose selection was checked
    sampled_true: int
    sampled_selected: int
    sampled_hits: int
    recall: float  #: sampled_hits / sampled_true; 1 when there is none
    precision: float  #: sampled_hits / sampled_selected; 1 when there is none
    dense_asked: int  #: dense calls by DenseReason: calls_dense + calls_onednn in all
    dense_plan: int
    dense_no_zeros: int
    dense_many_tokens: int
    n_widened: int  #: as in FFNStats


class FFN(Child):
    """One layer: g = gate x + gate_bias, s = act(g), u = up x + up_bias, h = s * u, y = down h + down_bias.

    Ungated: g = up x + up_bias, h = s = act(g). Immutable: share it between threads and contexts.

    Args:
        context: whose memory it takes; its scratch is reserved for the layer.
        up: an array or Weights [d_ff, d_model]; fixes both sizes.
        down: [d_model, d_ff] as engines and PyTorch store it, or [d_ff, d_model] with ``down_layout="rows"``.
        gate: [d_ff, d_model]; None: ungated.
        gate_bias, up_bias: float32 [d_ff]; down_bias: float32 [d_model]; or None; copied.
        activation: "relu", "fatrelu", "relu2", "drelu", "silu", "gelu", "gelu_tanh", "shifted_relu".
        act_threshold: t of fatrelu and shifted_relu, >= 0; act_tie: "keep" or "drop" when g == t (fatrelu).
        rule: "none"; "score", "abs_score", "abs_h": keep a neuron when s, |s|, |h| > rule_threshold; "top_k_score",
            "top_k_h": the rule_k largest |s| or |h| of a token, among equals the lowest neuron; "block_top_k_score",
            "block_top_k_h": the same of every rule_m neurons; "statistical_score", "statistical_h": above
            mean + std * normal_quantile(rule_sparsity) of the token's |s| or |h|.
        rule_threshold: a float, or float32 [d_ff] per neuron; copied. rule_tie: "drop" or "keep" at equality.
        storage: "copy", or "borrow": gate and up (and down when stored in rows) are read in place and kept alive.
        dtype: packed type of all three; None: each keeps its own.
        block_size: 32 keeps q8_0/q4_0 blocks of a "columns" down losslessly; experts of 32k neurons only.
        predictor, router: one of them, or none (gate-first exact); borrowed and kept alive.
        max_density: when a selection exceeds this share of the neurons, the gate looks at all of them; 1: never.
        dense_tokens: batches of at least this many tokens run dense, through oneDNN when the context uses it; 0: never.
            None: never because of their number, and dense layers go through oneDNN where that was measured to be faster.
        name: for error texts and the log.
        select: the layer's plan, what a call's "default" means: "dense", "gate", "predictor", "router".
        neurons: (first, n): only these neurons of the layer, for layers spread over processes (examples/sharding). Arrays
            are the whole layer's, predictor and router the slice's own. Add up the y of all slices; down_bias is
            in that of neuron 0.

    Raises:
        ArgumentError, ShapeError, DTypeError, UnsupportedError, OutOfMemory; TypeError for arrays that don't fit.
    """

    def __init__(
        self,
        context: Context,
        *,
        up: WeightsLike,
        down: WeightsLike,
        gate: WeightsLike | None = None,
        down_layout: Layout | str = "columns",
        gate_bias: Any = None,
        up_bias: Any = None,
        down_bias: Any = None,
        activation: Activation | str = "relu",
        act_threshold: float = 0.0,
        act_tie: Tie | str = "keep",
        rule: Rule | str = "none",
        rule_threshold: Any = 0.0,
        rule_tie: Tie | str = "drop",
        rule_k: int = 0,
        rule_m: int = 0,
        rule_sparsity: float = 0.0,
        storage: Storage | str = "copy",
        dtype: DType | str | None = None,
        block_size: int = 1,
        predictor: Predictor | None = None,
        router: Router | None = None,
        max_density: float = 1.0,
        dense_tokens: int | None = None,
        name: str | None = None,
        select: Select | str = "default",
        neurons: tuple[int, int] | None = None,
    ) -> None:
        up_w, down_w = as_weights(up, "up"), as_weights(down, "down")
        gate_w = None if gate is None else as_weights(gate, "gate")
        layout = parse(Layout, down_layout, "down_layout")
        d_ff, d_model = up_w.shape
        if gate_w is not None and gate_w.shape != up_w.shape:
            raise ShapeError(f"gate: expected shape [{d_ff}, {d_model}], as up, got {list(gate_w.shape)}")
        wanted = (d_model, d_ff) if layout == Layout.COLUMNS else (d_ff, d_model)
        if down_w.shape != wanted:
            raise ShapeError(
                f"down: expected shape {list(wanted)} for down_layout={layout.name.lower()!r}, got {list(down_w.shape)}"
            )
        gate_bias_ptr, gate_bias = vector(gate_bias, "gate_bias", d_ff, "d_ff")
        up_bias_ptr, up_bias = vector(up_bias, "up_bias", d_ff, "d_ff")
        down_bias_ptr, down_bias = vector(down_bias, "down_bias", d_model, "d_model")
        threshold, thresholds_ptr, thresholds = number_or_vector(rule_threshold, "rule_threshold", d_ff)
        store = parse(Storage, storage, "storage")
        selectors = [_selector(predictor, Predictor, "predictor"), _selector(router, Router, "router")]
        config = _abi.sffn_ffn_config(
            d_model=uint32(d_model, "d_model"),
            d_ff=uint32(d_ff, "d_ff"),
            up=up_w.struct(),
            down=down_w.struct(layout),
            gate_bias=gate_bias_ptr,
            up_bias=up_bias_ptr,
            down_bias=down_bias_ptr,
            activation=parse(Activation, activation, "activation"),
            act_tie=parse(Tie, act_tie, "act_tie"),
            act_threshold=act_threshold,
            rule=parse(Rule, rule, "rule"),
            rule_tie=parse(Tie, rule_tie, "rule_tie"),
            rule_threshold=threshold,
            rule_thresholds=thresholds_ptr,
            rule_k=uint32(rule_k, "rule_k"),
            rule_m=uint32(rule_m, "rule_m"),
            rule_sparsity=rule_sparsity,
            storage=store,
            dtype=-1 if dtype is None else parse(DType, dtype, "dtype"),
            block_size=uint32(block_size, "block_size"),
            max_density=max_density,
            dense_tokens=0xFFFFFFFF if dense_tokens is None else uint32(dense_tokens, "dense_tokens"),
            name=None if name is None else name.encode(),
            select=parse(Select, select, "select"),
        )
        if gate_w is not None:
            config.gate = gate_w.struct()
        if neurons is not None:
            first, d_ff = uint32(neurons[0], "neurons[0]"), uint32(neurons[1], "neurons[1]")
            using = context._live()
            status = lib.sffn_ffn_config_slice(using.ptr, ctypes.byref(config), first, d_ff)
            check(status, using.ptr, "sffn_ffn_config_slice")
        config.predictor = selectors[0].ptr if selectors[0] else None
        config.router = selectors[1].ptr if selectors[1] else None
        keep = [s for s in selectors if s is not None]
        arrays = [gate_w, up_w, down_w] if store == Storage.BORROW else []
        self._create(context, "sffn_ffn_create", (ctypes.byref(config),), "sffn_ffn_destroy", (*keep, *arrays))
        self.d_model, self.d_ff = d_model, d_ff
        selector = router if router is not None else predictor
        self._select_width = d_model if selector is None else selector.d_model
        # (n_blocks, block_size) that the layer's selector chooses from.
        self._selector_blocks = (
            (router.n_experts, router.block_size)
            if router is not None
            else (d_ff, 1)
            if predictor is not None
            else None
        )

    @property
    def info(self) -> FFNInfo:
        handle = self._live()
        s = _abi.sffn_ffn_info()
        handle.check(lib.sffn_ffn_get_info(handle.ptr, ctypes.byref(s)), "sffn_ffn_get_info")
        return FFNInfo(
            s.d_model,
            s.d_ff,
            bool(s.is_gated),
            Activation(s.activation),
            Rule(s.rule),
            bool(s.has_predictor),
            bool(s.has_router),
            None if s.gate_dtype < 0 else DType(s.gate_dtype),
            DType(s.up_dtype),
            DType(s.down_dtype),
            s.act_threshold,
            s.weight_bytes,
            s.selector_bytes,
            SelectorInput(s.select_input),
            Select(s.select),
            DenseReason(s.dense_reason),
            s.dense_tokens,
            s.max_density,
        )

    def stats(self, context: Context | None = None) -> LayerStats:
        """The layer's counters in a context made with collect_stats. Raises UnsupportedError, NotFound (not reserved)."""
        handle, using = self._live(), self._using(context)
        s = _abi.sffn_layer_stats()
        status = lib.sffn_context_get_layer_stats(using.ptr, handle.ptr, ctypes.byref(s))
        check(status, using.ptr, "sffn_context_get_layer_stats")
        found: LayerStats = read_struct(LayerStats, s)
        return found

    def reserve(self, context: Context) -> None:
        """Takes the scratch that forward needs in a context other than the one the layer was made with."""
        handle, using = self._live(), self._using(context)
        check(lib.sffn_ffn_reserve(using.ptr, handle.ptr), using.ptr, "sffn_ffn_reserve")

    def query_scratch(self, context: Context | None = None) -> int:
        """Bytes of scratch that forward needs with a context's thread count."""
        handle, using = self._live(), self._using(context)
        return int(lib.sffn_ffn_query_scratch(using.ptr, handle.ptr))

    def forward(
        self,
        x: Any,
        out: Any = None,
        *,
        select: Select | str = Select.DEFAULT,
        active: ActiveSet | None = None,
        select_x: Any = None,
        h: Any = None,
        active_out: ActiveSet | None = None,
        stats: FFNStats | None = None,
        context: Context | None = None,
    ) -> FloatArray:
        """Runs the layer. Bit-identical for any number of threads and any grouping of tokens into sparse calls.

        Args:
            x: float32 [n_tokens, d_model], any row stride and alignment, or [d_model] for one token.
            out: float32 like x, any row stride, overwritten, not overlapping x; None: a new array.
            select: who decides which neurons run: "default" (active, else the predictor, else the router, else the
                gate), "dense", "gate", "predictor", "router", "active".
            active: a selection made earlier, n_blocks * block_size == d_ff and at least n_tokens tokens.
            select_x: input of the predictor or router when it is not x: [n_tokens, its d_model].
            h: float32 [n_tokens, d_ff] to write h to, 0 where skipped, any row stride.
            active_out: a set of d_ff blocks of size 1 that receives the neurons whose up row was needed.
            stats: receives what the call did.
            context: runs the call; default: the one that made the layer. Another one needs ``reserve(context)`` first.

        Returns: ``out``.

        Raises:
            TypeError, ShapeError, ArgumentError: arguments; out is untouched.
            UnsupportedError: a selector that the layer does not have.
            NotReservedError: see reserve(). BusyError: another thread's call is running in the context.
        """
        handle, using = self._live(), self._using(context)
        a = rows(x, "x", self.d_model, "d_model", any_alignment=True)
        b = out_rows(out, "out", a, self.d_model, "d_model")
        must_not_overlap(b, "out", a, "x")
        active_ptr, _active = address_of(active)
        active_out_ptr, _active_out = address_of(active_out, "active_out")
        args = _abi.sffn_ffn_args(
            x=a.address,
            x_stride=a.stride,
            y=b.address,
            y_stride=b.stride,
            n_tokens=a.n,
            select=parse(Select, select, "select"),
            active=active_ptr,
            active_out=active_out_ptr,
        )
        hr: Rows | None = None
        if select_x is not None:
            sx = rows(
                select_x, "select_x", self._select_width, "the selector's d_model", n_rows=a.n, any_alignment=True
            )
            args.select_x, args.select_x_stride = sx.address, sx.stride
            must_not_overlap(b, "out", sx, "select_x")
        if h is not None:
            hr = rows(h, "h", self.d_ff, "d_ff", n_rows=a.n, writable=True)
            must_not_overlap(hr, "h", a, "x")
            must_not_overlap(hr, "h", b, "out")
            args.h, args.h_stride = hr.address, hr.stride
        if stats is not None:
            if not isinstance(stats, FFNStats):
                raise TypeError(f"stats: expected an FFNStats, got {type(stats).__name__}")
            stats.d_ff = self.d_ff
            args.stats = ctypes.addressof(stats)
        check(lib.sffn_ffn_forward(using.ptr, handle.ptr, ctypes.byref(args)), using.ptr, "sffn_ffn_forward")
        return result(out, b)  # type: ignore[no-any-return]

    def __call__(self, x: Any) -> FloatArray:
        """forward(x)."""
        return self.forward(x)

    # The stages alone. Rows are tightly packed here: [n_tokens, ...] without gaps.

    def select(self, select_x: Any, active: ActiveSet | None = None, *, context: Context | None = None) -> ActiveSet:
        """The layer's predictor or router alone: its input [n_tokens, d_model] -> the blocks it keeps.

        Returns ``active``, or a new set. Raises UnsupportedError when the layer has no selector.
        """
        handle, using = self._live(), self._using(context)
        a = rows(select_x, "select_x", self._select_width, "the selector's d_model", tight=True)
        if active is None:
            if self._selector_blocks is None:
                raise UnsupportedError("select: this layer has neither a predictor nor a router")
            n_blocks, block_size = self._selector_blocks
            active = ActiveSet(
                self.context if context is None else context, n_blocks, block_size=block_size, max_tokens=max(1, a.n)
            )
        ptr, _held = address_of(active)
        check(lib.sffn_ffn_select(using.ptr, handle.ptr, a.address, a.n, ptr), using.ptr, "sffn_ffn_select")
        return active

    def gate(
        self,
        x: Any,
        active: ActiveSet | None = None,
        *,
        out: Any = None,
        active_out: ActiveSet | None = None,
        context: Context | None = None,
    ) -> tuple[FloatArray, ActiveSet]:
        """x -> s [n_tokens, d_ff], zeros where skipped or dropped by the rule, and the surviving neurons.

        Args:
            x: float32 [n_tokens, d_model] without gaps, or [d_model].
            active: the neurons or blocks to compute; None: all.
            out, active_out: receive s and the survivors (d_ff blocks of size 1); None: new ones.
        """
        handle, using = self._live(), self._using(context)
        a = rows(x, "x", self.d_model, "d_model", tight=True)
        b = out_rows(out, "out", a, self.d_ff, "d_ff", tight=True)
        must_not_overlap(b, "out", a, "x")
        in_ptr, _in = address_of(active)
        if active_out is None:
            active_out = ActiveSet(self.context if context is None else context, self.d_ff, max_tokens=max(1, a.n))
        out_ptr, _out = address_of(active_out, "active_out")
        status = lib.sffn_ffn_gate(using.ptr, handle.ptr, a.address, a.n, in_ptr, b.address, out_ptr)
        check(status, using.ptr, "sffn_ffn_gate")
        return result(out, b), active_out

    def up(
        self, x: Any, s: Any, active: ActiveSet | None = None, *, out: Any = None, context: Context | None = None
    ) -> FloatArray:
        """x and s [n_tokens, d_ff] -> h = s * u for the given neurons (None: all), zeros elsewhere."""
        handle, using = self._live(), self._using(context)
        a = rows(x, "x", self.d_model, "d_model", tight=True)
        c = rows(s, "s", self.d_ff, "d_ff", n_rows=a.n, tight=True)
        b = out_rows(out, "out", a, self.d_ff, "d_ff", tight=True)
        must_not_overlap(b, "out", a, "x")
        must_not_overlap(b, "out", c, "s")
        ptr, _held = address_of(active)
        status = lib.sffn_ffn_up(using.ptr, handle.ptr, a.address, c.address, a.n, ptr, b.address)
        check(status, using.ptr, "sffn_ffn_up")
        return result(out, b)  # type: ignore[no-any-return]

    def down(
        self, h: Any, active: ActiveSet | None = None, *, out: Any = None, context: Context | None = None
    ) -> FloatArray:
        """h [n_tokens, d_ff] -> y [n_tokens, d_model], from the given neurons (None: all)."""
        handle, using = self._live(), self._using(context)
        a = rows(h, "h", self.d_ff, "d_ff", tight=True)
        b = out_rows(out, "out", a, self.d_model, "d_model", tight=True)
        must_not_overlap(b, "out", a, "h")
        ptr, _held = address_of(active)
        check(lib.sffn_ffn_down(using.ptr, handle.ptr, a.address, a.n, ptr, b.address), using.ptr, "sffn_ffn_down")
        return result(out, b)  # type: ignore[no-any-return]

    def _describe(self) -> str:
        info = self.info
        names = f"activation={info.activation.name.lower()} {info.up_dtype.name.lower()}"
        return f"d_model={info.d_model} d_ff={info.d_ff} {names}"


def _selector(obj: Any, kind: type[Child], name: str) -> Any:
    if obj is None:
        return None
    if not isinstance(obj, kind):
        raise TypeError(f"{name}: expected a {kind.__name__}, got {type(obj).__name__}")
    return obj._live()
