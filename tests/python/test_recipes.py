"""sparseffn.torch: losses, training, resuming, export. Skipped without PyTorch and safetensors."""

from __future__ import annotations

import json
import lzma
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sparseffn as sf

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import sparseffn.torch as st  # noqa: E402
from sparseffn.torch.trainer import prosparse_stages  # noqa: E402

TINY = {"d_model": 32, "d_ff": 96, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "n_vocab": 64, "n_context": 32}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    yield
    torch.set_num_threads(before)


def tiny(**changes):
    return st.Llama(st.ModelConfig(**{**TINY, **changes})).initialise(3)


def text(n=6000, seed=5):
    """A Markov chain over 64 tokens: each is followed by one of 4, so that about ln 4 nats can be learnt."""
    rng = np.random.default_rng(seed)
    follows = np.random.default_rng(1).integers(0, 64, (64, 4))
    ids = [0]
    for choice in rng.integers(0, 4, n - 1):
        ids.append(int(follows[ids[-1], choice]))
    return np.array(ids, np.uint16)


# Values of the papers


def test_lte_values():
    scores = torch.tensor([[0.9, 0.1, 0.7, 0.2]], dtype=torch.float64)
    eff, sep = st.lte_losses(scores)
    assert math.isclose(eff, 0.3375, rel_tol=1e-6) and math.isclose(sep, 12.152778, rel_tol=1e-6)
    assert math.isclose(1.0 * eff + 0.5 * sep, 6.413889, rel_tol=1e-6)
    # Four experts of one neuron with h = 1: their outputs are the columns of W_down.
    model = tiny(d_model=2, d_ff=4, n_heads=1, n_kv_heads=1, head_dim=2, activation="relu")
    st.add_routers(model, 1)
    ffn = model.ffns[0]
    with torch.no_grad():
        ffn.gate_proj.weight.copy_(torch.tensor([[1.0, 0.0]] * 4))
        ffn.up_proj.weight.copy_(torch.tensor([[1.0, 0.0]] * 4))
        ffn.down_proj.weight.copy_(torch.tensor([[1.0, 10.0, 0.0, 0.0], [0.0, 0.0, 2.0, 30.0]]))
        ffn.router.weight.copy_(torch.stack([torch.logit(scores[0].float()), torch.zeros(4)], 1))
    x = torch.tensor([[1.0, 0.0]])
    y, measures = ffn(x)
    assert torch.allclose(y, torch.tensor([[1.9, 7.4]]), rtol=1e-6) and measures["open"] == 0.5
    st.hard_routing(model)
    assert torch.equal(ffn(x)[0], torch.tensor([[1.0, 2.0]]))  # not multiplied by the scores
    with torch.no_grad():
        ffn.router.weight.zero_()
    assert torch.equal(ffn(x)[0], torch.zeros(1, 2))  # a logit of 0 is inactive


def test_activations():
    g, u = torch.tensor([1.0, -1.0, 2.0, -0.5]), torch.tensor([-2.0, 3.0, 4.0, -1.0])
    ffn = tiny(activation="drelu").ffns[0]
    for projection, value in ((ffn.gate_proj, g), (ffn.up_proj, u)):  # hooks that replace the products
        projection.register_forward_hook(lambda *_, value=value: value)

    def h(name, threshold=0.0):
        ffn.activation = name
        ffn.act_threshold.fill_(threshold)
        return ffn.hidden(torch.zeros(32)).tolist()

    assert h("drelu") == [0, 0, 8, 0] and h("relu") == [-2, 0, 8, 0] and h("fatrelu", 1.5) == [0, 0, 8, 0]
    assert h("fatrelu", 1.0) == [-2, 0, 8, 0] and h("relu2") == [-2, 0, 16, 0]  # a gate equal to the threshold stays


def test_schedule_of_a_run():
    stages = prosparse_stages(1000, 0.5)
    assert [end for end, _ in stages] == sorted({end for end, _ in stages}) and stages[-1] == (1000, 0.5)
    recipe = st.Recipe(steps=1000, penalty="l1", stages=stages)
    assert recipe.lambda_at(400) == 0 and recipe.lambda_at(401) == 0.0125 and recipe.lambda_at(1000) == 0.5


# Gradients


@pytest.mark.parametrize("kind", st.PENALTIES)
def test_penalty_gradient(kind):
    h = torch.randn(5, 16, dtype=torch.float64) * (torch.rand(5, 16) > 0.5) + 0.1
    w = torch.randn(8, 16, dtype=torch.float64)
    inputs = (h.requires_grad_(), w.requires_grad_(kind == "l1_down"))
    assert torch.autograd.gradcheck(lambda h, w: st.penalty(kind, h, w), inputs, eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_lte_gradient(eps):
    scores = torch.tensor([[0.9, 0.1, 0.7, 0.2], [0.6, 0.45, 0.999, 0.001]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: st.lte_losses(g, 0.5, eps), (scores,), eps=1e-7, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recipe", ["l1", "l1_over_l2", "l1_down", "lte"])
def test_gradient_of_the_whole_loss(recipe, tmp_path):
    """Along random directions, against central differences. Their error: eps^2 times a third derivative, and the rounding
    of the loss, 2^-52 * 4 / 1e-5 = 1e-10; kinks of the ReLU lie closer than 1e-5 with a chance of one in thousands."""
    model = tiny(activation="silu" if recipe == "lte" else "relu").double()
    r = st.Recipe(steps=4, batch=4, penalty="" if recipe == "lte" else recipe, stages=[] if recipe == "lte" else [(1, 0.7)], eta=0.5)
    if recipe == "lte":
        st.add_routers(model, 8)
        model.double()
        r.lte_steps = 4
    tokens = st.Tokens(text(1000), 32)
    trainer = st.Trainer(model, tokens, r, tmp_path, quiet=True)
    x, y = tokens.batch(1, 4)

    def loss():
        return trainer._loss(2, x, y)[0]

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        direction = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in parameters]
        length = math.sqrt(sum(float(d.square().sum()) for d in direction))
        eps, values = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(parameters, direction):
                    p.add_(d, alpha=sign * eps / length)
                values.append(float(loss()))
                for p, d in zip(parameters, direction):
                    p.sub_(d, alpha=sign * eps / length)
        numeric = (values[0] - values[1]) / (2 * eps)
        exact = sum(float((a * d).sum()) for a, d in zip(gradients, direction)) / length
        scale = math.sqrt(sum(float(a.square().sum()) for a in gradients))
        assert abs(numeric - exact) <= 1e-6 * scale


# Training


def test_sparsity_rises_and_the_loss_stays(tmp_path):
    """The penalty zeroes at least another tenth of h, and costs at most 0.1 nats of the plain model's loss."""
    tokens, found = st.Tokens(text(), 32), {}
    for name, penalty, stages in (("plain", "", []), ("prosparse", "l1_over_l2", prosparse_stages(160, 8.0, dense=0.3))):
        model = tiny(activation="relu")
        recipe = st.Recipe(steps=160, batch=16, lr=5e-3, warmup=10, penalty=penalty, stages=stages)
        st.Trainer(model, tokens, recipe, tmp_path / name, log_every=40, quiet=True).run()
        found[name] = st.evaluate(model, st.Tokens(text(2000, seed=6), 32), limit=32)
    assert found["plain"]["loss"] < 2.5  # ln 64 is 4.16: it has learnt
    assert found["prosparse"]["mean_zeros"] >= found["plain"]["mean_zeros"] + 0.1
    assert found["prosparse"]["loss"] <= found["plain"]["loss"] + 0.1
    lines = [json.loads(line) for line in (tmp_path / "prosparse" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [40, 80, 120, 160] and lines[-1]["lambda"] == 8.0
    assert {"loss", "zeros", "l1", "penalty", "tokens_per_s", "lr", "seconds", "tokens"} <= lines[-1].keys()


def test_shift_respects_its_budget():
    model = tiny(activation="relu")
    tokens = st.Tokens(text(2000), 32)
    t, tried = st.find_shift(model, tokens, 0.02, limit=16, steps=3)
    by = {r["threshold"]: r for r in tried}
    assert t in by and by[t]["perplexity"] <= 1.02 * by[0.0]["perplexity"] and by[t]["mean_zeros"] >= by[0.0]["mean_zeros"]
    assert all(ffn.act_threshold == 0 for ffn in model.ffns)
    with pytest.raises(ValueError, match="'silu', expected relu or fatrelu"):
        st.find_shift(tiny(), tokens)


@pytest.mark.parametrize("kind", ["prosparse", "lte"])
def test_resume_is_exact(kind, tmp_path):
    """6 steps in one run, and 3 + 3 with a checkpoint between (in LTE on both sides of the switch): the same bits."""

    def make(out):
        model = tiny(activation="relu" if kind == "prosparse" else "silu")
        recipe = st.Recipe(steps=6, batch=8, micro_batch=4, warmup=2)
        if kind == "lte":
            st.add_routers(model, 8)
            recipe.lte_steps, recipe.open_target = 4, 0.5
        else:
            recipe.penalty, recipe.stages = "l1", [(2, 0.0), (3, 0.1), (6, 0.2)]
        return model, st.Trainer(model, st.Tokens(text(700), 32), recipe, out, log_every=1, quiet=True)

    whole, trainer = make(tmp_path / "whole")
    assert trainer.run() is True
    for stop in (3, 5, 6):
        model, trainer = make(tmp_path / "parts")

        class Enough(Exception):
            pass

        def until(line, stop=stop, trainer=trainer):
            if line["step"] == stop:
                trainer.save()
                raise Enough

        with pytest.raises(Enough):
            trainer.run(on_log=until)
    for (name, a), b in zip(whole.named_parameters(), model.parameters()):
        assert torch.equal(a, b), name
    other, _ = make(tmp_path / "other")
    with pytest.raises(ValueError, match="another recipe, steps = 6, not 7"):
        changed = st.Recipe(**{**trainer.recipe.__dict__, "steps": 7})
        st.Trainer(other, trainer.tokens, changed, tmp_path / "parts", quiet=True)


def test_batches_depend_on_the_step_alone():
    tokens = st.Tokens(np.arange(0, 1000, dtype=np.uint16), 32)
    a = [tokens.batch(s, 7) for s in (1, 2, 9, 40)]
    again = [st.Tokens(np.arange(0, 1000, dtype=np.uint16), 32).batch(s, 7) for s in (40, 9, 2, 1)]
    for (x, y), (p, q) in zip(a, reversed(again)):
        assert torch.equal(x, p) and torch.equal(y, q) and torch.equal(x[:, 1:], y[:, :-1])
    epoch = torch.cat([tokens.batch(s, tokens.n_windows)[0] for s in (1,)])
    assert len(epoch.flatten().unique()) == tokens.n_windows * 32  # every token once


# LTE's groups


def test_balanced_groups():
    """Three tight clusters in directions, 4 rows each, shuffled: found again; a size that does not divide is refused."""
    g = torch.Generator().manual_seed(1)
    centres = torch.eye(3, 8)
    label = torch.arange(12) % 3
    rows = centres[label] + 0.01 * torch.randn(12, 8, generator=g)
    groups = st.balanced_groups(rows, 4)
    assert sorted(groups.flatten().tolist()) == list(range(12))
    assert all(len(label[group].unique()) == 1 for group in groups)
    with pytest.raises(ValueError, match="5"):
        st.balanced_groups(rows, 5)


def test_experts_keep_the_output_and_fitted_routers_choose(tmp_path):
    model = tiny()
    x = st.Tokens(text(1000), 32).batch(1, 4)[0]
    before = model(x)
    st.apply_experts(model, [st.balanced_groups(ffn.gate_proj.weight, 8) for ffn in model.ffns])
    # the sum over d_ff runs in another order
    assert torch.allclose(model(x), before, atol=1e-5)
    st.add_routers(model, 8)
    st.fit_routers(model, x, 0.5)
    st.hard_routing(model)
    _, measures = model(x, x)
    assert 0.2 < float(measures["open"].mean()) < 0.8


# Export


def gamma(n):
    """The usual bound of n roundings of binary32."""
    return n * 2.0**-24 / (1 - n * 2.0**-24)


@pytest.mark.parametrize("activation, threshold", [("relu", 0.0), ("fatrelu", 0.01), ("drelu", 0.0), ("relu2", 0.0), ("silu", 0.0)])
@pytest.mark.parametrize("through", ["folder", "gguf"])
def test_exported_layers_give_what_torch_gives(activation, threshold, through, ctx, tmp_path, rng):
    """Dense and exact-sparse, against torch in float64 on the same weights. Both g and u are sums of d_model products and
    h of a few more roundings (squared: twice), y of d_ff more; a gate this close to the threshold may fall on either side."""
    model = tiny(activation=activation, act_threshold=threshold)
    st.save(model, tmp_path / "hf", dtype=torch.float32)
    path = tmp_path / "hf"
    if through == "gguf":
        with sf.Model(ctx, path) as source:
            sf.prepare(ctx, source, tmp_path / "m.gguf")
        path = tmp_path / "m.gguf"
    x = rng.standard_normal((5, TINY["d_model"])).astype(np.float32)
    with sf.Model(ctx, path) as exported:
        for i, ffn in enumerate(st.load(tmp_path / "hf").double().ffns):
            exact = ffn(torch.from_numpy(x).double())[0].detach().numpy()
            gate, up, down = (p.weight.detach().abs().numpy() for p in (ffn.gate_proj, ffn.up_proj, ffn.down_proj))
            g_size, u_size = np.abs(x) @ gate.T, np.abs(x) @ up.T
            s_size = g_size**2 if activation == "relu2" else g_size
            d, f = TINY["d_model"], TINY["d_ff"]
            # SiLU's slope is at most 1.1 and its own evaluation costs a few roundings
            bound = 1.1 * gamma(4 * d + f + 32) * (s_size * u_size) @ down.T
            g = (torch.from_numpy(x).double() @ ffn.gate_proj.weight.T).detach().numpy()
            near = np.abs(g - threshold) <= gamma(d) * g_size
            bound += (near * (g_size * u_size)) @ down.T
            layer = exported.ffn(i)
            assert layer.info.activation.name.lower() == activation
            for select in ("dense", "gate"):
                y = layer.forward(x, select=select)
                assert (np.abs(y - exact) <= bound).all(), select


def test_exported_router(ctx, tmp_path, rng):
    """The router's tensors, and a layer run with it, are hard mode."""
    model = tiny(d_ff=128)
    st.add_routers(model, 32, tau=0.5)
    st.hard_routing(model)
    st.save(model, tmp_path, dtype=torch.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["lte_expert_size"], config["lte_threshold"]) == (32, 0.5)
    again = st.load(tmp_path)
    for a, b in zip(model.parameters(), again.parameters()):
        assert torch.equal(a, b)
    st.hard_routing(again)
    x = rng.standard_normal((6, 32)).astype(np.float32)
    with sf.Model(ctx, tmp_path) as exported:
        for i, ffn in enumerate(again.ffns):
            weights = exported.tensors[f"model.layers.{i}.mlp.router.weight"].data
            router = sf.Router(ctx, weights, block_size=32, threshold=0.5)
            y = exported.ffn(i, router=router).forward(x)
            expected = ffn(torch.from_numpy(x))[0].detach().numpy()
            # two float32 computations of sums of 32 and 128 products
            size = np.abs(x) @ ffn.gate_proj.weight.detach().abs().numpy().T * (np.abs(x) @ ffn.up_proj.weight.detach().abs().numpy().T)
            assert (np.abs(y - expected) <= 2.2 * gamma(4 * 32 + 128 + 32) * size @ ffn.down_proj.weight.detach().abs().numpy().T).all()


def test_router_in_gguf(ctx, tmp_path, rng):
    """The file's plan runs the layers through their routers, and torch reads them back."""
    pytest.importorskip("gguf")
    model = tiny(d_ff=128)
    st.add_routers(model, 32, tau=0.4)
    st.hard_routing(model)
    st.save_gguf(model, tmp_path / "m.gguf", dtype=None)
    again = st.load(tmp_path / "m.gguf")
    assert again.config.expert_size == 32 and abs(again.config.router_threshold - 0.4) < 1e-7
    for (name, a), b in zip(model.named_parameters(), again.parameters()):
        assert torch.equal(a, b), name
    x = rng.standard_normal((6, 32)).astype(np.float32)
    with sf.Model(ctx, tmp_path / "m.gguf") as exported:
        for i, ffn in enumerate(model.ffns):
            assert exported.plan(i).name == "ROUTER"
            expected = ffn(torch.from_numpy(x))[0].detach().numpy()
            size = np.abs(x) @ ffn.gate_proj.weight.detach().abs().numpy().T * (np.abs(x) @ ffn.up_proj.weight.detach().abs().numpy().T)
            bound = 2.2 * gamma(4 * 32 + 128 + 32) * size @ ffn.down_proj.weight.detach().abs().numpy().T
            assert (np.abs(exported.ffn(i).forward(x) - expected) <= bound).all()


def test_gguf_is_read_back(ctx, tmp_path):
    model = tiny(activation="fatrelu", act_threshold=0.02)
    st.save(model, tmp_path / "hf", dtype=torch.float32)
    with sf.Model(ctx, tmp_path / "hf") as source:
        sf.prepare(ctx, source, tmp_path / "m.gguf")
    pytest.importorskip("gguf")
    again = st.load(tmp_path / "m.gguf")
    assert again.config.activation == "fatrelu" and abs(again.config.act_threshold - 0.02) < 1e-8
    for (name, a), b in zip(model.named_parameters(), again.parameters()):
        assert torch.equal(a, b), name


def test_perplexity_of_the_program(tmp_path):
    """`sffn eval` on the exported model: its logits, through the perplexity, are torch's. Both are float32; a loss of 4 is
    a sum of a few hundred roundings per token, so 1e-4 relative is generous and a wrong order of heads is far outside."""
    program = Path(os.environ.get("SPARSEFFN_LIBRARY", "")).parents[1] / "bindings" / "cli" / "sffn"
    if not program.exists():
        pytest.skip(f"there is no {program}")
    model = tiny(activation="relu", n_layers=3)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)  # away from uniform logits
    st.save(model, tmp_path / "hf", dtype=torch.float32)
    ids = text(32 * 8, seed=9)
    (tmp_path / "ids.json").write_text(json.dumps(ids.tolist()))
    command = [program, "eval", tmp_path / "hf", "--tokens", tmp_path / "ids.json", "--window", "32", "--timed", "0", "--json", "-t", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(run.stdout.splitlines()[0])
    x = torch.from_numpy(ids.astype(np.int64)).view(8, 32)
    with torch.no_grad():
        logits = model(x)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 64), x[:, 1:].reshape(-1))
    values = {k: v for k, v in result.items() if "perplexity" in k}
    assert values, result.keys()
    for name, value in values.items():
        assert math.isclose(value, math.exp(float(loss)), rel_tol=1e-4), name


# The program


@pytest.fixture
def folder(tmp_path):
    """A tiny model with a tokenizer of single bytes, and a text."""
    tokenizers = pytest.importorskip("tokenizers")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(sorted(level.alphabet()))}, []))
    tokenizer.pre_tokenizer = level
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    st.save(tiny(n_vocab=256, d_ff=64), tmp_path / "m", tokenizer=tmp_path / "tokenizer.json")
    words = np.random.default_rng(3).choice(["sun ", "moon ", "water ", "stone "], 4000)
    (tmp_path / "text.txt").write_text("".join(words))
    return tmp_path


def program(*words):
    from sparseffn.torch import __main__ as main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sparseffn.torch", *map(str, words)])
        return main.main()


@pytest.mark.parametrize("recipe", ["prosparse", "drelu", "relu2", "lte", "dense"])
def test_one_command(recipe, folder, ctx, capsys):
    options = ["--recipe", recipe, "--out", folder / "out", "--tokens", "4K", "--batch", "256", "--expert-size", "16", "--device", "cpu"]
    assert program("train", "--model", folder / "m", "--text", folder / "text.txt", *options) == 0
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["perplexity"] < 256 and f"perplexity {result['perplexity']:.3f}" in capsys.readouterr().out
    with sf.Model(ctx, folder / "out" / "model.gguf") as exported:
        expected = {"prosparse": "FATRELU" if result.get("shift") else "RELU", "lte": "SILU", "dense": "SILU"}.get(recipe, recipe.upper())
        assert exported.info.activation.name == expected and exported.ffn(0).forward(np.ones(32, np.float32)).shape == (32,)
    assert program("eval", "--model", folder / "out" / "model", "--text", folder / "text.txt", "--device", "cpu", "--windows", "4") == 0
    assert json.loads(capsys.readouterr().out)["windows"] == 4


def test_the_command_says_what_is_wrong(folder, capsys):
    def fails(words, **changes):
        options = {"--model": folder / "m", "--text": folder / "text.txt", "--recipe": "dense", "--out": folder / "x", "--device": "cpu", **changes}
        assert program("train", *(word for pair in options.items() for word in pair)) == 1
        err = capsys.readouterr().err
        assert err.startswith("sparseffn.torch: ") and err.count("\n") == 1 and words in err, err

    (folder / "short.txt").write_text("sun moon " * 30)
    fails("text: 271 tokens; at least 6400 are needed", **{"--text": folder / "short.txt"})
    fails("there is no file", **{"--text": folder / "none.txt"})
    (folder / "latin1.txt").write_bytes("Müll ".encode("latin-1") * 2000)
    fails("latin1.txt is not UTF-8 text", **{"--text": folder / "latin1.txt"})
    (folder / "cut.xz").write_bytes(lzma.compress(b"sun moon " * 9000)[:40])
    fails("cut.xz is not UTF-8 text, plain or .xz", **{"--text": folder / "cut.xz"})
    fails("--sparsity: 2.0", **{"--recipe": "lte", "--sparsity": "2"})
    fails("don't fit", **{"--micro-batch": "7", "--batch": "256"})
    fails("--device: 'warp' cannot be used", **{"--device": "warp"})
    # 16 bytes per parameter, and per token of 2 layers 2 * (12 * 32 + 8 * 64) floats and the logits
    fails("GB are needed on cpu for 3125000000 windows of 32 tokens", **{"--batch": "100G"})
    fails("a smaller micro_batch needs less: ", **{"--batch": "100G"})
    (folder / "m" / "model.safetensors").write_bytes((folder / "m" / "model.safetensors").read_bytes()[:999])
    fails("model.safetensors is not a safetensors file, or a part of one", **{})
    config = (folder / "m" / "config.json").read_text()
    for change, words in (
        (config.replace('"llama"', '"gpt_neox"'), "architecture 'gpt_neox' is not supported, expected one of llama"),
        (config.replace('"intermediate_size": 64', '"intermediate_size": 64000000000'), "G parameters; reading them takes"),
        (config[:-20], "config.json is not JSON"),
    ):
        (folder / "m" / "config.json").write_text(change)
        fails(words)
    fails("there is no", **{"--model": folder / "none"})
    assert not (folder / "x").exists() or not list((folder / "x").iterdir())


# What is refused


def test_refused(tmp_path):
    model = tiny()
    ids = text(1000)
    with pytest.raises(ValueError, match="text: 40 tokens are too few, at least 66"):
        st.Tokens(ids[:40], 32)
    with pytest.raises(ValueError, match="windows of 64 tokens, the model's context is 32"):
        st.Trainer(model, st.Tokens(ids, 64), st.Recipe(steps=1), tmp_path)
    with pytest.raises(ValueError, match="is it the model's tokenizer"):
        st.Trainer(tiny(n_vocab=32), st.Tokens(ids, 32), st.Recipe(steps=1), tmp_path)
    with pytest.raises(MemoryError, match="a smaller micro_batch needs less"):
        st.Trainer(model, st.Tokens(ids, 32), st.Recipe(steps=1, batch=10**9), tmp_path)
    with pytest.raises(ValueError, match="penalty 'l3'"):
        st.Recipe(steps=1, penalty="l3", stages=[(1, 0.1)]).check(model)
    with pytest.raises(ValueError, match="expected one of l1, l1_over_l2, l1_down"):
        st.penalty("l3", torch.ones(2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="activation: 'gelu'"):
        tiny(activation="gelu")
    st.save(model, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    for change, words in (
        ({"model_type": "gpt2"}, "architecture 'gpt2' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "RoPE scaling"),
        ({"attention_bias": True}, "attention_bias"),
        ({"intermediate_size": 64}, r"mlp.gate_proj.weight is \[96, 32\]"),
        ({"num_hidden_layers": 3}, "lacks 9 tensors, for example layers.2"),
    ):
        (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=words):
            st.load(tmp_path / "hf")
    with pytest.raises(FileNotFoundError, match="there is no"):
        st.load(tmp_path / "nothing")
