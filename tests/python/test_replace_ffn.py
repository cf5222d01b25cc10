"""replace_ffn: FFN modules of transformers models and of our own run by the library. Skipped without PyTorch; transformers' models without it."""

from __future__ import annotations

import copy
import logging
import threading

import numpy as np
import pytest
import sparseffn as sf

torch = pytest.importorskip("torch")

import sparseffn.torch as st  # noqa: E402
from sparseffn.torch.pattern import NotAnFFN, name_activation, read  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

D, FF, VOCAB = 64, 160, 128
U32, U16 = 2.0**-24, {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(11)
    yield
    torch.set_num_threads(before)


def gamma(n):
    return n * U32 / (1 - n * U32)


class MLP(nn.Module):
    """Llama's: down(act(gate(x)) * up(x))."""

    def __init__(self, act=None, bias=False, dtype=torch.float32):
        super().__init__()
        self.gate_proj = nn.Linear(D, FF, bias=bias, dtype=dtype)
        self.up_proj = nn.Linear(D, FF, bias=bias, dtype=dtype)
        self.down_proj = nn.Linear(FF, D, bias=bias, dtype=dtype)
        self.act_fn = act or nn.ReLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class UngatedMLP(nn.Module):
    def __init__(self, act=None, bias=True, dtype=torch.float32):
        super().__init__()
        self.fc1 = nn.Linear(D, FF, bias=bias, dtype=dtype)
        self.fc2 = nn.Linear(FF, D, bias=bias, dtype=dtype)
        self.act = act or nn.ReLU()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.fc2(self.act(self.fc1(x))))


class Holder(nn.Module):
    """A model of two FFNs in a row, each on a residual."""

    def __init__(self, *ffns):
        super().__init__()
        self.layers = nn.ModuleList(ffns)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def bounds(module, x):
    """y in float64, and how far the library's y and PyTorch's may be from it, per element.

    g and u are sums of d products and a bias, y of d_ff and a bias, in float32: gamma of their number times the sums of absolute values; a
    few roundings more for act and products. relu2 squares (so its size is G^2 and its error counts twice), SiLU's and GELU's slopes are at
    most 1.13. A gate within its error of FATReLU's threshold may fall on either side. PyTorch rounds g, act(g), u, h and y to the tensor's
    type, its unit roundoff u16; the library only y.
    """
    parts = read(module)
    u16 = U16[x.dtype]
    x64 = x.double().reshape(-1, D)

    def sizes(linear, v, size):
        w = linear.weight.detach().double()
        b = 0 if linear.bias is None else linear.bias.detach().double()
        return v @ w.T + b, size @ w.T.abs() + (0 if linear.bias is None else b.abs())

    gate = parts.gate or parts.up
    g, big_g = sizes(gate, x64, x64.abs())
    act = {"relu": F.relu, "relu2": lambda v: F.relu(v) ** 2, "silu": F.silu, "gelu": F.gelu,
           "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"), "fatrelu": lambda v: torch.where(v >= parts.act_threshold, v, 0.0),
           "drelu": F.relu}[parts.activation]  # fmt: skip
    h, big_h = act(g), big_g**2 if parts.activation == "relu2" else big_g
    if parts.gate is not None:
        u, big_u = sizes(parts.up, x64, x64.abs())
        h, big_h = h * (F.relu(u) if parts.activation == "drelu" else u), big_h * big_u
    y, _ = sizes(parts.down, h, h.abs())
    _, big_y = sizes(parts.down, h, big_h)
    n = 4 * D + FF + 32
    ours = 1.13 * gamma(n) * big_y + u16 * y.abs()
    theirs = 1.13 * (gamma(n) + (1 + u16) ** 6 - 1) * big_y + u16 * y.abs()
    if parts.activation == "fatrelu":
        w = parts.down.weight.detach().double().abs()
        for k, rounding in (("ours", 0.0), ("theirs", u16)):
            near = ((g - parts.act_threshold).abs() <= (gamma(n) + rounding) * big_g).double()
            if k == "ours":
                ours = ours + (near * big_h) @ w.T
            else:
                theirs = theirs + (near * big_h) @ w.T
    return y, ours * 1.01, theirs * 1.01  # second-order terms; y itself is rounded from a value this far off


def check(original, ours, x):
    """The library's y against float64 and against PyTorch's, each within its bound."""
    with torch.no_grad():
        expected, result = original(x), ours(x)
    assert result.dtype == x.dtype and result.shape == expected.shape
    y, bound, theirs = bounds(original, x)
    found = result.double().reshape(-1, D)
    assert ((found - y).abs() <= bound).all()
    assert ((found - expected.double().reshape(-1, D)).abs() <= bound + theirs).all()


class Relu2(nn.Module):
    def forward(self, x):
        return torch.square(F.relu(x))


ACTIVATIONS = [nn.ReLU(), Relu2(), nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.Threshold(0.1, 0.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("kind", [MLP, UngatedMLP])
def test_forward_is_the_modules(kind, act, dtype):
    model = Holder(kind(act, bias=True, dtype=dtype), kind(act, dtype=dtype)).eval()
    originals = list(model.layers)
    report = st.replace_ffn(model, torch_tokens=0)
    assert [r.replaced for r in report] == [True, True] and [r.d_ff for r in report] == [FF, FF]
    for original, ours in zip(originals, model.layers):
        for shape in ((1, D), (D,), (2, 7, D), (33, D), (0, D)):
            x = torch.randn(shape, dtype=torch.float32).to(dtype)
            check(original, ours, x)


def test_names_of_activations():
    known = {"identity": lambda x: x, "relu": F.relu, "relu2": lambda x: F.relu(x).pow(2), "silu": lambda x: x * torch.sigmoid(x), "gelu": F.gelu}
    for name, f in known.items():
        assert name_activation(f) == (name, 0.0)
    assert name_activation(nn.Threshold(0.01, 0.0))[0] == "fatrelu"
    t = name_activation(lambda x: torch.where(x >= 0.25, x, 0.0))
    assert t == ("fatrelu", 0.25)  # kept when equal
    assert name_activation(nn.Threshold(0.25, 0.0)) == ("fatrelu", float(np.nextafter(np.float32(0.25), np.float32(1))))  # dropped when equal
    for f in (torch.tanh, nn.LeakyReLU(), nn.ReLU6(), nn.Hardswish(), lambda x: x * torch.sigmoid(1.702 * x), lambda x: F.relu(x - 0.1), lambda x: x[:3]):
        assert name_activation(f) is None


class Odd(nn.Module):
    """FFNs that the library does not compute."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = nn.Linear(D, FF), nn.Linear(D, FF), nn.Linear(FF, D)

    def forward(self, x):
        if self.kind == "sum":
            return self.c(F.relu(self.a(x)) + self.b(x))
        if self.kind == "no activation":
            return self.c(self.a(x))
        if self.kind == "bilinear":
            return self.c(self.a(x) * self.b(x))
        if self.kind == "tanh":
            return self.c(torch.tanh(self.a(x)))
        if self.kind == "scaled":
            return 2 * self.c(F.relu(self.a(x)))
        if self.kind == "normed":
            return self.c(F.relu(self.a(x / x.norm())))
        if self.kind == "branch":
            return self.c(F.relu(self.a(x))) if x.sum() > 0 else x
        raise AssertionError


@pytest.mark.parametrize(
    "kind, words",
    [("sum", "joined by something other than a product"), ("no activation", "no activation"), ("bilinear", "factors of its product are identity and identity"),
     ("tanh", r"its activation \(tanh\) is none of the library's"), ("scaled", "output is not that of a linear layer"),
     ("normed", "read something other than its input"), ("branch", "can't be traced")],
)  # fmt: skip
def test_what_is_not_an_ffn(kind, words):
    with pytest.raises(NotAnFFN, match=words):
        read(Odd(kind).eval())


def test_functional_forms_are_read():
    class Forms(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.form = form
            self.up, self.gate, self.down = nn.Linear(D, FF), nn.Linear(D, FF), nn.Linear(FF, D)

        def forward(self, x):
            x = F.dropout(x, 0.1, training=self.training)
            if self.form == "up first":
                h = self.up(x).mul(F.silu(self.gate(x)))
            elif self.form == "drelu":
                h = torch.relu(self.gate(x)) * self.up(x).relu()
            else:
                g = self.up(x)
                h = g * torch.sigmoid(g)
            return self.down(h)

    parts = [read(Forms(form).eval()) for form in ("up first", "drelu", "self-gated")]
    assert [p.activation for p in parts] == ["silu", "drelu", "silu"] and parts[2].gate is None
    module = Forms("up first").eval()
    assert read(module).up is module.up and read(module).gate is module.gate
    with pytest.raises(NotAnFFN, match="read something other than its input"):
        read(Forms("up first").train())


def test_report_and_reasons(caplog):
    lora = MLP()
    lora.up_proj.register_forward_hook(lambda *_: None)
    double, odd, hooked = MLP().double(), MLP(nn.Tanh()), MLP()
    hooked.register_forward_pre_hook(lambda *_: None)
    silu, own = MLP(nn.SiLU()), MLP()
    own.forward = lambda x: x
    model = Holder(MLP(), lora, double, odd, hooked, silu, own).eval()
    assert [r.reason for r in st.ffn_report(model)][0] == "replace_ffn() was not called"
    with caplog.at_level(logging.INFO, "sparseffn"):
        report = st.replace_ffn(model)
    assert [r.replaced for r in report] == [True, False, False, False, False, True, False]
    for record, words in zip(report, ("", "up map is no plain nn.Linear", "torch.float64", "Tanh", "hooks", "silu has no zeros", "forward of its own")):
        assert words in record.reason
    assert model.layers[1] is lora and [r.name for r in report] == [f"layers.{i}" for i in range(7)]
    assert sum("stays with PyTorch" in m for m in caplog.messages) == 5 and "2 of 7 FFN modules run in libsparseffn" in caplog.messages
    assert "layers.3 (MLP): not replaced: its activation (Tanh)" in str(report)
    first = report[0]
    # up and gate in place; down transposed into memory of its own, rows possibly padded
    assert first.borrowed_bytes == 2 * 4 * D * FF and first.packed_bytes == 4 * D * FF and (first.dtype, first.activation) == ("f32", "relu")
    x = torch.randn(3, D)
    with torch.no_grad():
        model.layers[0](x)
        model.layers[0](x[:1])
        model.layers[5](x)
        with caplog.at_level(logging.INFO, "sparseffn"):
            model.layers[0](torch.randn(40, D))
            model.layers[0](torch.randn(40, D))
    assert caplog.messages[-1] == "layers.0: calls of 32 tokens and more run in PyTorch"
    now = st.ffn_report(model)
    assert (now[0].sparse_calls, now[0].dense_calls, now[0].torch_calls, now[0].n_tokens) == (2, 0, 2, 4) and 0 < now[0].density < 1
    assert (now[5].sparse_calls, now[5].dense_calls, now[5].density) == (0, 1, 1.0)
    assert "calls: 2 sparse, 0 dense, 2 PyTorch" in str(now)
    with pytest.raises(ValueError, match="nothing to replace in this Holder: layers.0 .MLP.: replaced before"):
        st.replace_ffn(model)
    with pytest.raises(ValueError, match="nothing to replace in this Linear: no FFN module was found in it"):
        st.replace_ffn(nn.Linear(2, 2).eval())


def test_long_prompts_run_in_pytorch_or_not():
    model = Holder(MLP()).eval()
    original, x = model.layers[0], torch.randn(2, 40, D)
    st.replace_ffn(model, torch_tokens=64)
    with torch.no_grad():
        assert torch.equal(model.layers[0](x), original(x))  # its own code
        check(original, model.layers[0], x[0])
    st.restore_ffn(model)
    st.replace_ffn(model, torch_tokens=0)
    check(original, model.layers[0], x)
    now = st.ffn_report(model)[0]
    assert (now.sparse_calls, now.dense_calls, now.torch_calls) == (1, 0, 0)
    st.restore_ffn(model)
    st.replace_ffn(model, {"dense_tokens": 64}, torch_tokens=0)
    check(original, model.layers[0], x)
    now = st.ffn_report(model)[0]
    assert (now.sparse_calls, now.dense_calls, now.torch_calls) == (0, 1, 0)


def test_training_is_refused_and_restore_is_the_way_back():
    model = Holder(MLP(bias=True), UngatedMLP())
    with pytest.raises(RuntimeError, match=r"replace_ffn: the model is in training mode, expected model.eval\(\)"):
        st.replace_ffn(model)
    model.eval()
    before, names, modules = model(torch.ones(2, D)).detach(), list(model.state_dict()), list(model.layers)
    st.replace_ffn(model)
    assert list(model.state_dict()) == names and all(a is b for a, b in zip(model.state_dict(keep_vars=True).values(), model.parameters()))
    x = torch.ones(2, D, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"layers.0 was given an input that requires a gradient.*torch.no_grad\(\), or restore_ffn\(model\) to train"):
        model(x)
    with torch.inference_mode():
        model(x)
    model.train()
    with pytest.raises(RuntimeError, match=r"layers.0 is in training mode.*restore_ffn\(model\) to train"):
        model(x.detach())
    for copying in (copy.deepcopy, lambda m: torch.save(m, "/dev/null")):
        with pytest.raises(TypeError, match=r"neither copied nor pickled: restore_ffn\(model\) first"):
            copying(model)
    assert st.restore_ffn(model) == 2 and st.restore_ffn(model) == 0
    assert all(a is b for a, b in zip(model.layers, modules)) and all(m.training for m in model.modules())
    model(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(model.eval()(torch.ones(2, D)), before)


def test_gradient_through_the_operator_alone():
    model = Holder(MLP()).eval()
    st.replace_ffn(model)
    y = torch.ops.sparseffn.ffn(torch.ones(2, D, requires_grad=True), model.layers[0].layer.key)
    with pytest.raises(RuntimeError, match=r"computes no gradients: call restore_ffn\(model\) to train"):
        y.sum().backward()


@pytest.mark.parametrize(
    "change",
    [lambda m: m.gate_proj.weight.mul_(2), lambda m: m.down_proj.bias.add_(1), lambda m: m.to(torch.bfloat16),
     lambda m: m.load_state_dict({k: v.clone() for k, v in m.state_dict().items()}),
     lambda m: setattr(m.up_proj, "weight", nn.Parameter(torch.zeros(FF, D)))],
    ids=["in place", "bias", "type", "load_state_dict", "another parameter"],
)  # fmt: skip
def test_changed_weights_are_noticed(change):
    """Gate and up are read in place, down is a copy: going on would mix old weights with new ones."""
    model = Holder(MLP(bias=True)).eval()
    st.replace_ffn(model)
    x = torch.ones(1, D)
    with torch.no_grad():
        model(x)
        change(model.layers[0])
        with pytest.raises(RuntimeError, match=r"layers.0: weights changed since replace_ffn\(\); call restore_ffn"):
            model(x)
        st.restore_ffn(model)
        st.replace_ffn(model)
        model(x.to(next(model.parameters()).dtype))


def test_options():
    model = Holder(MLP(nn.SiLU()), MLP()).eval()
    originals = list(model.layers)
    asked = []

    def options(name, module):
        asked.append((name, module))
        return {"rule": "abs_score", "rule_threshold": 0.1} if name == "layers.0" else {"dtype": "q8_0"}

    report = st.replace_ffn(model, options, n_threads=2)
    assert asked == [("layers.0", originals[0]), ("layers.1", originals[1])]
    assert report[0].reason == "" and (report[1].dtype, report[1].borrowed_bytes) == ("q8_0", 0) and report[1].packed_bytes >= 3 * D * FF * 34 // 32
    x = torch.randn(4, D)
    with torch.no_grad():
        gate = originals[0].gate_proj(x)
        s = F.silu(gate)
        expected = originals[0].down_proj(s * (s.abs() > 0.1) * originals[0].up_proj(x))
        assert not ((s.abs() - 0.1).abs() < 1e-6).any()  # no score at the threshold, where rounding would decide
        y = model.layers[0](x)
    big = x.abs() @ originals[0].gate_proj.weight.abs().T * (x.abs() @ originals[0].up_proj.weight.abs().T) @ originals[0].down_proj.weight.abs().T
    assert ((y - expected).abs() <= 2 * 1.13 * gamma(4 * D + FF + 32) * big).all()
    assert 0 < st.ffn_report(model)[0].density < 1
    st.restore_ffn(model)
    st.replace_ffn(model, {"storage": "copy"})
    check(originals[1], model.layers[1], x)
    st.restore_ffn(model)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bogus'"):
        st.replace_ffn(model, {"bogus": 1})
    with pytest.raises(sf.UnsupportedError):
        st.replace_ffn(model, {"storage": "borrow", "dtype": "q8_0"})
    assert list(model.layers) == originals  # a call that fails changes nothing
    with pytest.raises(TypeError, match="context and n_threads exclude each other"):
        st.replace_ffn(model, n_threads=1, context=sf.Context)
    made = []

    def make():
        made.append(sf.Context(max_isa="scalar"))
        return made[-1]

    st.replace_ffn(model, context=make)
    check(originals[1], model.layers[1], x)
    assert len(made) == 1


def test_rows_and_threads():
    """The same bits alone, in a batch, strided, and from two threads at once."""
    model = Holder(MLP()).eval()
    st.replace_ffn(model, torch_tokens=0)
    ffn, x = model.layers[0], torch.randn(5, 3, D)
    with torch.no_grad():
        y = ffn(x)
        assert torch.equal(ffn(x.transpose(0, 1)), y.transpose(0, 1))
        assert torch.equal(torch.stack([ffn(r) for r in x.reshape(-1, D)]), y.reshape(-1, D))
    found, errors = [], []

    def work():
        try:
            with torch.no_grad():
                found.extend(bool(torch.equal(ffn(x), y)) for _ in range(50))
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and len(found) == 150 and all(found)
    assert st.ffn_report(model)[0].n_tokens == (1 + 1 + 150) * 15 + 15


def test_operator():
    model = Holder(MLP(dtype=torch.bfloat16)).eval()
    st.replace_ffn(model)
    key = model.layers[0].layer.key
    for x in (torch.randn(2, 3, D).bfloat16(), torch.randn(D).bfloat16(), torch.empty(0, D).bfloat16()):
        torch.library.opcheck(torch.ops.sparseffn.ffn.default, (x, key), test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"))
    with torch.device("meta"):
        assert torch.ops.sparseffn.ffn(torch.empty(4, D), key).shape == (4, D)
    st.restore_ffn(model)
    with pytest.raises(RuntimeError, match="compile the model again"):
        torch.ops.sparseffn.ffn(torch.ones(1, D), key)


def compiled(model, *args, **kwargs):
    """y of the compiled model, and how often the operator is in each of its graphs. A graph break is an error."""
    torch._dynamo.reset()
    graphs = []

    def backend(gm, inputs):
        graphs.append(sum(str(n.target).startswith("sparseffn.ffn") for n in gm.graph.nodes))
        return gm

    with torch.no_grad():
        y = torch.compile(model, backend=backend, fullgraph=True)(*args, **kwargs)
        again = torch.compile(model, backend="aot_eager", fullgraph=True)(*args, **kwargs)
    return y, again, graphs


def test_compile_keeps_the_operator():
    model = Holder(MLP(), UngatedMLP(), MLP()).eval()
    st.replace_ffn(model)
    x = torch.randn(2, 5, D)
    with torch.no_grad():
        eager = model(x)
    y, again, graphs = compiled(model, x)
    assert graphs == [3] and torch.equal(y, eager) and torch.equal(again, eager)


# Our own model


@pytest.mark.parametrize("activation, threshold", [("relu", 0.0), ("fatrelu", 0.05), ("drelu", 0.0), ("relu2", 0.0), ("silu", 0.0)])
def test_our_llama(activation, threshold):
    config = st.ModelConfig(d_model=D, d_ff=FF, n_layers=2, n_heads=4, n_kv_heads=2, n_vocab=VOCAB, n_context=16, activation=activation, act_threshold=threshold)
    model = st.Llama(config).initialise(3).eval()
    originals = model.ffns
    if activation == "silu":
        for ffn in originals:
            ffn.magnitude.fill_(1e-4)
    x = torch.randn(2, 5, D)
    with torch.no_grad():
        expected = [ffn(x)[0] for ffn in originals]
        report = st.replace_ffn(model)
        found = [ffn(x) for ffn in model.ffns]
    assert [r.activation for r in report] == [activation] * 2
    for (y, measures), e, ffn in zip(found, expected, originals):
        wide = copy.deepcopy(ffn).double()
        g, u = (x.abs().double() @ p.weight.detach().double().abs().T for p in (wide.gate_proj, wide.up_proj))
        w, n = wide.down_proj.weight.detach().double().abs().T, gamma(4 * D + FF + 32)
        bound = 2 * 1.13 * n * ((g * g * u if activation == "relu2" else g * u) @ w)
        with torch.no_grad():
            score = wide.scores(x.double())
            plain = wide.gate_proj(x.double())
        close = (score.abs() - 1e-4).abs() <= n * g if activation == "silu" else (plain - threshold).abs() <= n * g
        bound += 2 * (close * g * u) @ w  # a score at its threshold
        assert measures == {} and ((y - e).abs() <= bound).all()
    tokens = torch.randint(0, VOCAB, (2, 8))
    with torch.no_grad():
        assert model(tokens).shape == (2, 8, VOCAB)
    if activation != "silu":
        with pytest.raises(AttributeError):
            model.set_activation("relu")
        st.restore_ffn(model)
        model.set_activation("relu")
        st.replace_ffn(model)
    model.ffns[0].act_threshold.fill_(0.5)
    with torch.no_grad(), pytest.raises(RuntimeError, match="changed since replace_ffn"):
        model(tokens)


def test_our_llama_with_routers():
    config = st.ModelConfig(d_model=D, d_ff=FF, n_layers=1, n_heads=4, n_kv_heads=2, n_vocab=VOCAB, n_context=16)
    model = st.Llama(config).initialise(3)
    st.add_routers(model, 32)
    model.eval()
    with pytest.raises(ValueError, match=r"call hard_routing\(model\) first"):
        st.replace_ffn(model)
    st.hard_routing(model)
    original, x = model.ffns[0], torch.randn(6, D)
    with torch.no_grad():
        expected = original(x)[0]
        report = st.replace_ffn(model)
        y = model.ffns[0](x)[0]
        open_share = float((original.router(x) > 0).float().mean())
    big = x.abs() @ original.gate_proj.weight.abs().T * (x.abs() @ original.up_proj.weight.abs().T) @ original.down_proj.weight.abs().T
    assert ((y - expected).abs() <= 2 * 1.13 * gamma(4 * D + FF + 32) * big).all()
    assert report[0].reason == "" and abs(st.ffn_report(model)[0].density - open_share) < 1e-6


# transformers


def hf(kind, **changes):
    transformers = pytest.importorskip("transformers")
    common = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB, "max_position_embeddings": 64}
    settings = {
        "Llama": {"intermediate_size": FF, "num_key_value_heads": 2, "hidden_act": "relu"},
        "Mistral": {"intermediate_size": FF, "num_key_value_heads": 2, "hidden_act": "silu"},
        "Gemma": {"intermediate_size": FF, "num_key_value_heads": 2, "head_dim": 16},
        "Nemotron": {"intermediate_size": FF, "num_key_value_heads": 2},
        "GPTNeoX": {"intermediate_size": FF, "hidden_act": "relu"},
        "OPT": {"ffn_dim": FF, "word_embed_proj_dim": D},
    }[kind]
    config = getattr(transformers, f"{kind}Config")(**{**common, **settings, **changes})
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def ffn_of(layer):
    """The layer's FFN as a function of the FFN's input, as it was before it was replaced."""
    if hasattr(layer, "fc1"):
        return nn.Sequential(layer.fc1, layer.activation_fn, layer.fc2)
    return layer.mlp


def layers_of(model):
    inner = model.model if hasattr(model, "model") else model.gpt_neox
    return inner.decoder.layers if hasattr(inner, "decoder") else inner.layers


MODELS = [("Llama", "relu"), ("Mistral", "silu"), ("Gemma", "gelu_tanh"), ("Nemotron", "relu2"), ("GPTNeoX", "relu"), ("OPT", "relu")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind, activation", MODELS)
def test_transformers(kind, activation, dtype):
    """Every FFN on the inputs that it really gets, greedy text, state_dict, and the way back."""
    model = hf(kind).to(dtype)
    ids = torch.randint(3, VOCAB, (2, 9))
    originals, inputs = [ffn_of(layer) for layer in layers_of(model)], {}
    for i, ffn in enumerate(originals):
        first = ffn[0] if isinstance(ffn, nn.Sequential) else ffn
        first.register_forward_pre_hook(lambda m, args, i=i: inputs.__setitem__(i, args[0].detach()))
    with torch.no_grad():
        expected = model(ids).logits
        text = model.generate(ids, max_new_tokens=8, do_sample=False)
    for ffn in originals:
        (ffn[0] if isinstance(ffn, nn.Sequential) else ffn)._forward_pre_hooks.clear()
    names = list(model.state_dict())
    report = st.replace_ffn(model)
    assert [(r.replaced, r.activation, r.d_model, r.d_ff) for r in report] == [(True, activation, D, FF)] * 2
    assert list(model.state_dict()) == names
    for i, (layer, original) in enumerate(zip(layers_of(model), originals)):
        check(original, layer.fc1 if hasattr(layer, "fc1") else layer.mlp, inputs[i])
    with torch.no_grad():
        logits = model(ids).logits
        ours = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert logits.shape == expected.shape and all(r.sparse_calls + r.dense_calls >= 9 for r in st.ffn_report(model))
    if dtype == torch.float32:
        # Greedy text may differ only where two tokens are as good as equal; errors of 1e-5 in the logits are far above float32 roundings here.
        top = expected[:, -1].topk(2).values
        assert (logits - expected).abs().max() < 1e-5 or (top[:, 0] - top[:, 1] < 1e-5).any()
        assert torch.equal(ours[:, :10], text[:, :10])
    assert st.restore_ffn(model) == 2
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected)


def test_transformers_compile():
    model = hf("Llama")
    st.replace_ffn(model)
    ids = torch.randint(3, VOCAB, (1, 9))
    with torch.no_grad():
        eager = model(ids, use_cache=False).logits
    y, again, graphs = compiled(model, ids, use_cache=False)
    assert graphs == [2] and torch.allclose(y.logits, eager, atol=1e-6) and torch.allclose(again.logits, eager, atol=1e-6)


def test_t5_and_experts():
    transformers = pytest.importorskip("transformers")
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(d_model=D, d_ff=FF, num_layers=1, num_heads=4, d_kv=16, vocab_size=VOCAB, dropout_rate=0.0)).eval()
    report = st.replace_ffn(t5)
    assert [(r.kind, r.activation) for r in report] == [("T5DenseActDense", "relu")] * 2
    config = transformers.MixtralConfig(hidden_size=D, intermediate_size=FF, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCAB, num_local_experts=2)
    model = transformers.MixtralForCausalLM(config).eval()
    with pytest.raises(ValueError, match="nothing to replace in this MixtralForCausalLM: model.layers.0.mlp"):
        st.replace_ffn(model)
