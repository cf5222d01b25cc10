#!/usr/bin/env python3
"""run.py  The runs behind RESULTS.md, on one GPU.

    python3 examples/training/run.py stage                      copies examples/training/data/* to the work folder
    python3 examples/training/run.py small   --seconds 540      the bundled model and its ablation, from scratch
    python3 examples/training/run.py export NAME                the weights of one finished run of 'small'
    python3 examples/training/run.py smollm2 --seconds 540      SmolLM2-135M: ProSparse, LTE at 50 % and 70 %, and what needs no training

Each command stops in time and goes on where it stopped when it is given again; it ends with 'all runs are done' or 'run again'. The work folder is
$SFFN_WORK (/tmp/sffn-work), results go to $OUT (the work folder without it). --tiny runs the same code on sizes for a CPU.

Data, made by make_corpus.py and pack.py: train-NN.xz, heldout.xz, tokenizer-small.json, libsparseffn.so, python.zip (the package sparseffn of the same
tree), smollm2.gguf (in parts .00, .01, ...).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("SFFN_WORK", "/tmp/sffn-work"))
OUT = Path(os.environ.get("OUT", WORK / "out"))
DATA = WORK / "data"

# A package that was packed together with the library comes before the one of this tree: their ABI is the same.
sys.path.insert(0, str(DATA / "python" if (DATA / "python").exists() else HERE.parents[1] / "bindings" / "python"))
os.environ.setdefault("SPARSEFFN_LIBRARY", str(DATA / "libsparseffn.so"))


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def stage() -> int:
    """Gathers what several transfers bring; parts of a file are joined when the last one is here."""
    DATA.mkdir(parents=True, exist_ok=True)
    for file in sorted((HERE / "data").rglob("*")):
        if file.is_file():
            shutil.copyfile(file, DATA / file.name)
    for last in DATA.glob("*.last"):
        name, n = last.read_text().split()
        parts = [DATA / f"{name}.{i:02}" for i in range(int(n))]
        if all(part.exists() for part in parts):
            with open(DATA / name, "wb") as out:
                for part in parts:
                    out.write(part.read_bytes())
    if (DATA / "python.zip").exists():
        shutil.unpack_archive(DATA / "python.zip", DATA / "python")
    for file in sorted(f for f in DATA.iterdir() if f.is_file()):
        print(f"{file.stat().st_size:>12,}  {file.name}")
    return 0


def get_tokens(name: str, tokenizer: Any, bos: int, n_context: int, device: str, limit: int = 0) -> tuple[Any, Any]:
    """Training and held-out tokens; tokenised once and kept in the work folder."""
    import numpy as np
    from sparseffn.torch import Tokens, tokenize
    from sparseffn.torch.data import read_documents

    found = []
    for part, files in (("train", sorted(DATA.glob("train-*.xz"))), ("heldout", [DATA / "heldout.xz"])):
        cache = WORK / f"{name}-{part}.npy"
        if not cache.exists():
            documents = read_documents(files)
            if limit:
                documents = documents[:: max(1, len(documents) // limit)]
            ids = tokenize(tokenizer, documents, bos, seed=1)
            np.save(cache.with_suffix(".part.npy"), ids)
            os.replace(cache.with_suffix(".part.npy"), cache)
            say(f"{name} {part}: {sum(len(d.encode()) for d in documents):,} bytes, {len(ids):,} tokens")
        found.append(Tokens(np.load(cache), n_context, device))
    return found[0], found[1]


def export(folder: Path) -> int:
    """Copies a model to $OUT, without its tokenizer, which is in the data folder already."""
    if not folder.is_dir():
        print(f"there is no {folder}: has this run ended?", file=sys.stderr)
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.name != "tokenizer.json":
            shutil.copyfile(file, OUT / file.name)
    return 0


class Plan:
    """The runs of one command: results by name, kept in the work folder; what is done is not repeated."""

    def __init__(self, name: str, seconds: float) -> None:
        self.folder = WORK / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name, self.seconds = name, seconds
        self.file = self.folder / "results.json"
        self.results: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - STARTED)

    def keep(self, name: str, result: Any) -> None:
        self.results[name] = result
        self.file.write_text(json.dumps(self.results))

    def write(self) -> None:
        """All results and curves in one file of $OUT."""
        OUT.mkdir(parents=True, exist_ok=True)
        curves = {}
        for log in sorted(self.folder.glob("*/log.jsonl")):
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            by_step = {line["step"]: line for line in lines}  # a resumed run may have written a step twice
            steps = sorted(by_step)
            every = max(1, len(steps) // 200)
            curves[log.parent.name] = [by_step[s] for i, s in enumerate(steps) if i % every == 0 or i == len(steps) - 1 or "heldout_perplexity" in by_step[s]]
        text = json.dumps({"plan": self.name, "results": self.results, "curves": curves})
        (OUT / f"{self.name}.json").write_text(text)


def train(plan: Plan, name: str, model: Any, tokens: Any, heldout: Any, recipe: Any, device: str, **options: Any) -> bool:
    """True when the run is complete (now or before)."""
    from sparseffn.torch import Trainer

    if plan.left < 40 and not name.startswith("tiny"):
        return False
    trainer = Trainer(model, tokens, recipe, plan.folder / name, heldout=heldout, eval_every=max(1, recipe.steps // 8), log_every=max(1, min(20, recipe.steps // 8)),
                      compile=device == "cuda", **options)  # fmt: skip
    say(f"{name}: from step {trainer.step} to {recipe.steps}")
    return trainer.run(max_seconds=plan.left - 30)


def reset_compiler() -> None:
    import torch

    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(model: Any, heldout: Any, limit: int) -> dict[str, Any]:
    """Perplexity and zeros; with a ReLU also the shift for a budget of 1 % and a few thresholds."""
    from sparseffn.torch import evaluate, find_shift

    result = {"dense": evaluate(model, heldout, limit=limit)}
    if model.config.activation == "relu":
        shift, tried = find_shift(model, heldout, 0.01, limit=limit, steps=4)
        result["shift"], result["shifts"] = shift, tried
    return result


def small(plan: Plan, device: str, tiny: bool, only: str = "") -> bool:
    import torch
    from sparseffn.torch import Llama, ModelConfig, Recipe, save
    from sparseffn.torch.files import load_tokenizer
    from sparseffn.torch.trainer import prosparse_stages

    tokenizer = load_tokenizer(DATA / "tokenizer-small.json")
    base = ModelConfig(d_model=512, d_ff=2560, n_layers=6, n_heads=8, n_kv_heads=4, n_vocab=tokenizer.get_vocab_size(), n_context=512, activation="relu")
    steps, batch, limit = 4000, 128, 512
    if tiny:
        base = ModelConfig(d_model=32, d_ff=64, n_layers=2, n_heads=2, n_kv_heads=1, n_vocab=base.n_vocab, n_context=32, activation="relu")
        steps, batch, limit = 20, 4, 8
    tokens, heldout = get_tokens("small", tokenizer, base.bos, base.n_context, device, limit=64 if tiny else 0)
    trunk = round(0.4 * steps)
    recipe = Recipe(steps=steps, batch=batch, lr=2e-3, warmup=steps // 16, seed=1)

    def penalised(kind: str, stages: list[tuple[int, float]]) -> Any:
        r = copy.copy(recipe)
        r.penalty, r.stages = kind, stages
        return r

    # The trunk: plain ReLU to the end of stage 0. All ReLU runs branch off it, so that their difference is the regulariser alone.
    runs: list[tuple[str, str, Any, bool]] = [
        ("silu", "silu", recipe, False),
        ("relu", "relu", recipe, True),
        ("prosparse-scale-free-2", "relu", penalised("l1_over_l2", prosparse_stages(steps, 2.0)), True),
        ("prosparse-l1", "relu", penalised("l1", prosparse_stages(steps, 40.0)), True),
        ("fixed-l1", "relu", penalised("l1", [(trunk, 0.0), (steps, 40.0)]), True),
        ("prosparse-scale-free-6", "relu", penalised("l1_over_l2", prosparse_stages(steps, 6.0)), True),
    ]
    if only:
        runs = [run for run in runs if run[0] in only.split(",")]
    trunk_file = plan.folder / "trunk" / "checkpoint.pt"

    class StopAt(Exception):
        pass

    if not trunk_file.exists() or torch.load(trunk_file, map_location="cpu", weights_only=True)["step"] < trunk:
        model = Llama(base).initialise(1).to(device)
        from sparseffn.torch import Trainer

        trainer = Trainer(model, tokens, recipe, plan.folder / "trunk", compile=device == "cuda", log_every=max(1, min(20, steps // 8)))

        def halt(line: dict[str, Any]) -> None:
            if line["step"] >= trunk or plan.left < 30:
                trainer.save()
                raise StopAt

        say(f"trunk: from step {trainer.step} to {trunk}")
        try:
            trainer.run(on_log=halt)
        except StopAt:
            pass
        if trainer.step < trunk:
            return False
        reset_compiler()
    for name, activation, r, branches in runs:
        if name in plan.results:
            continue
        config = copy.copy(base)
        config.activation = activation
        model = Llama(config).initialise(1).to(device)
        start = {"start": trunk_file} if branches else {}
        if not train(plan, name, model, tokens, heldout, r, device, **start):
            return False
        plan.keep(name, measure(model, heldout, limit))
        found = plan.results[name]
        say(f"{name}: perplexity {found['dense']['perplexity']:.3f}, zeros {found['dense']['mean_zeros']:.4f}, shift {found.get('shift')}")
        save(model, plan.folder / name / "hf", tokenizer=DATA / "tokenizer-small.json", shard_bytes=(16 << 20) - 65536)
        reset_compiler()
    if only:
        return export(plan.folder / runs[-1][0] / "hf") == 0
    # What goes back: of the ProSparse models within 2 % of plain ReLU's perplexity the sparsest, else the best one.
    plain = plan.results["relu"]["dense"]["perplexity"]
    candidates = [name for name in plan.results if name.startswith("prosparse")]
    close = [n for n in candidates if plan.results[n]["dense"]["perplexity"] <= 1.02 * plain]
    chosen = max(close, key=lambda n: plan.results[n]["dense"]["mean_zeros"]) if close else min(candidates, key=lambda n: plan.results[n]["dense"]["perplexity"])
    say(f"chosen: {chosen}")
    plan.keep("chosen", chosen)
    return export(plan.folder / chosen / "hf") == 0


def expert_use(model: Any, tokens: Any) -> dict[str, float]:
    """How much the routers look at the token: shares of experts that are open for under 1 % and for over 99 % of the tokens, and the spread of the rest."""
    import torch

    found: list[Any] = []
    hooks = [ffn.router.register_forward_hook(lambda _, args, out: found.append((out > 0).flatten(0, -2).float().mean(0))) for ffn in model.ffns]
    with torch.no_grad():
        model.features(tokens)
    for hook in hooks:
        hook.remove()
    f = torch.cat(found)
    return {"never": float((f < 0.01).float().mean()), "always": float((f > 0.99).float().mean()), "variance": float((f * (1 - f)).mean())}


def smollm2(plan: Plan, device: str, tiny: bool, only: str = "") -> bool:
    import torch
    from sparseffn.torch import Recipe, add_routers, apply_experts, balanced_groups, evaluate, fit_routers, hard_routing, load, magnitude_thresholds
    from sparseffn.torch.files import load_tokenizer
    from sparseffn.torch.trainer import prosparse_stages

    source = DATA / ("tiny" if tiny else "smollm2.gguf")
    tokenizer = load_tokenizer(DATA / "tokenizer-small.json" if tiny else source)
    original = load(source)
    n_context = 32 if tiny else 1024
    steps, batch, micro, limit = (20, 4, 2, 8) if tiny else (480, 64, 32, 96)
    for key in ("cos", "sin"):
        setattr(original, key, getattr(original, key)[:n_context].clone())
    original.config.n_context = n_context
    tokens, heldout = get_tokens("smollm2", tokenizer, original.config.bos, n_context, device, limit=64 if tiny else 0)
    expert_size = 8 if tiny else 32
    recipe = Recipe(steps=steps, batch=batch, micro_batch=micro, lr=3e-4, warmup=steps // 10, seed=1)

    def fresh() -> Any:
        return copy.deepcopy(original).to(device)

    def done(name: str, model: Any, extra: dict[str, Any] | None = None) -> None:
        plan.keep(name, {**measure(model, heldout, limit), **(extra or {})})
        found = plan.results[name]["dense"]
        say(f"{name}: perplexity {found['perplexity']:.3f}, zeros {found['mean_zeros']:.4f}")

    if "original" not in plan.results and not only:
        done("original", fresh())
    if "silu" not in plan.results and not only:
        model = fresh()
        if not train(plan, "silu", model, tokens, heldout, recipe, device):
            return False
        done("silu", model)
        reset_compiler()
        # What needs no training, on the same dense baseline: magnitude thresholds (CATS), and experts with fitted routers (MoEfication).
        model = fresh()
        model.load_state_dict(torch.load(plan.folder / "silu" / "checkpoint.pt", map_location=device, weights_only=True)["model"])
        for percent in (50, 70, 90):
            magnitude_thresholds(model, tokens, percent / 100, batch=2 if tiny else 8)
            done(f"magnitude-{percent}", model)
        magnitude_thresholds(model, tokens, 0)
        apply_experts(model, groups(plan, model, expert_size, "silu-groups"))
        for percent in (50, 70):
            add_routers(model, expert_size)
            model.to(device)
            for ffn in model.ffns:
                ffn.is_hard = False
            fit_routers(model, tokens.batch(1, 2 if tiny else 16)[0], 1 - percent / 100)
            hard_routing(model)
            done(f"post-hoc-experts-{percent}", model)
    if "prosparse" not in plan.results and not only:
        model = fresh()
        model.set_activation("relu")
        r = copy.copy(recipe)
        r.penalty, r.stages = "l1_over_l2", prosparse_stages(steps, 2.0, dense=0.3)
        if not train(plan, "prosparse", model, tokens, heldout, r, device):
            return False
        done("prosparse", model)
        reset_compiler()
    # sep 0.5 is the paper's. With fitted routers it saturates all scores within tens of steps, before the task has a say: see RESULTS.md.
    for percent, sep in ((50, 0.02), (70, 0.02), (50, 0.5), (70, 0.5)):
        name = f"lte-{percent}" if sep == 0.02 else f"lte-{percent}-sep-{sep}"
        if name in plan.results or (only and name not in only.split(",")):
            continue
        model = fresh()
        apply_experts(model, groups(plan, model, expert_size, "groups"))
        add_routers(model, expert_size)
        model.to(device)
        checkpoint = plan.folder / name / "checkpoint.pt"
        if not checkpoint.exists():
            fit_routers(model, tokens.batch(1, 2 if tiny else 16)[0], 1 - percent / 100)
        r = copy.copy(recipe)
        r.lte_steps, r.open_target, r.weight_decay, r.eta, r.sep = round(0.6 * steps), 1 - percent / 100, 0.0, 0.3, sep
        if not train(plan, name, model, tokens, heldout, r, device):
            return False
        hard_routing(model)
        done(name, model, {"hard": evaluate(model, heldout, limit=limit), "experts": expert_use(model, heldout.batch(1, 2 if tiny else 16)[0])})
        say(f"{name}: {plan.results[name]['experts']}")
        reset_compiler()
    return True


def groups(plan: Plan, model: Any, size: int, name: str) -> Any:
    """The experts of each layer; the same for all runs that start from the same weights."""
    import torch
    from sparseffn.torch import balanced_groups

    file = plan.folder / f"{name}.pt"
    if not file.exists():
        torch.save([balanced_groups(ffn.gate_proj.weight, size) for ffn in model.ffns], file)
        say(f"{name}: balanced k-means")
    return torch.load(file, weights_only=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["stage", "small", "smollm2", "export"])
    parser.add_argument("run", nargs="?", help="export: the run of 'small' whose weights go to $OUT")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop with a checkpoint after this time (default: never)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="these runs alone (of smollm2: those of LTE); of small the last one's weights go to $OUT")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU, to try the script")
    args = parser.parse_args()
    if args.what == "stage":
        return stage()
    if args.what == "export":
        return export(WORK / "small" / str(args.run) / "hf")
    missing = [n for n in ("heldout.xz", "tokenizer-small.json", *(["smollm2.gguf"] if args.what == "smollm2" and not args.tiny else [])) if not (DATA / n).exists()]
    if missing or not list(DATA.glob("train-*.xz")):
        print(f"{DATA} lacks {', '.join(missing) or 'train-*.xz'}: see the head of this file", file=sys.stderr)
        return 1
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    say(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}")
    plan = Plan(args.what, args.seconds)
    try:
        is_done = small(plan, device, args.tiny, args.only) if args.what == "small" else smollm2(plan, device, args.tiny, args.only)
    finally:
        plan.write()
    print("all runs are done" if is_done else "run again: the same command goes on from the checkpoints", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
