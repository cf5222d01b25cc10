"""python -m sparseffn.torch.speed: an FFN in PyTorch against the same module after replace_ffn(), in one run, as JSON.

    python -m sparseffn.torch.speed --shape llama2-7b --dtype bf16,f32 --density 0.107 --threads 1,2

One module like a llama's MLP (ReLU, gated) with random weights, whose gate is made so that the share --density of the neurons is active.
Weights are cold: several copies of the module take turns, so that more than twice the last-level cache is read between two uses of one, unless
--copies says otherwise. PyTorch and the library take turns round by round. Prints one object per line:

    name, shape, d_model, d_ff, dtype, storage, density, n_tokens, n_threads, copies, repeats, isa, torch
    torch_median_ns, torch_min_ns, torch_max_ns     PyTorch's module, eager, or compiled with --compile
    median_ns, min_ns, max_ns                       the same call after replace_ffn(), the operator's cost in Python included
    speedup_vs_torch                                torch_median_ns / median_ns
    weight_bytes, packed_bytes                      of one module; and what the library packed besides
    relative_error, torch_relative_error            ||y - y64|| / ||y64||, y64 computed in float64 with the same weights
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import Context
from .replace import ffn_report, replace_ffn

SHAPES = {"llama2-7b": (4096, 11008), "llama2-13b": (5120, 13824), "smollm2-135m": (576, 1536), "smollm2-1.7b": (2048, 8192), "opt-6.7b": (4096, 16384)}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class MLP(nn.Module):
    """As transformers' LlamaMLP, with ReLU."""

    def __init__(self, d_model: int, d_ff: int, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.device("meta"):
            self.gate_proj = nn.Linear(d_model, d_ff, bias=False, dtype=dtype)
            self.up_proj = nn.Linear(d_model, d_ff, bias=False, dtype=dtype)
            self.down_proj = nn.Linear(d_ff, d_model, bias=False, dtype=dtype)
        self.act_fn = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def make_module(d_model: int, d_ff: int, dtype: torch.dtype, density: float, seed: int) -> tuple[MLP, Tensor]:
    """A module, and the direction that all of its inputs share: each gate row has a part along it, so that gates are normal with
    a mean that leaves the share ``density`` of them positive."""
    generator = torch.Generator().manual_seed(seed)
    module = MLP(d_model, d_ff, dtype)
    for name, linear in (("gate", module.gate_proj), ("up", module.up_proj), ("down", module.down_proj)):
        w = torch.randn(linear.weight.shape, generator=generator) / math.sqrt(linear.in_features)
        if name == "gate":
            direction = torch.nn.functional.normalize(torch.randn(d_model, generator=generator), dim=0)
            w -= torch.outer(w @ direction, direction)
            # x = noise (norm 1 per element) + sqrt(d_model) direction: gates are N(mean, 1)
            mean = math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * density - 1, dtype=torch.float64))) if density < 1 else 8.0
            w += mean / math.sqrt(d_model) * direction
        linear.weight = nn.Parameter(w.to(dtype), requires_grad=False)
    return module.eval(), direction


def inputs(direction: Tensor, n_tokens: int, dtype: torch.dtype, seed: int) -> Tensor:
    noise = torch.randn(n_tokens, len(direction), generator=torch.Generator().manual_seed(seed))
    noise -= torch.outer(noise @ direction, direction)
    return (noise + math.sqrt(len(direction)) * direction).to(dtype)


def reference(module: MLP, x: Tensor) -> tuple[Tensor, float]:
    """y in float64, and the density of its gates; in pieces, since a float64 copy of all weights may not fit."""
    y, active = torch.zeros(x.shape, dtype=torch.float64), 0
    for part in torch.arange(module.gate_proj.out_features).split(1024):
        gate, up, down = module.gate_proj.weight[part], module.up_proj.weight[part], module.down_proj.weight[:, part]
        g = x.double() @ gate.double().T
        active += int((g > 0).sum())
        y += (g.clamp(min=0) * (x.double() @ up.double().T)) @ down.double().T
    return y, active / (len(x) * module.gate_proj.out_features)


def measure(calls: dict[str, Callable[[int], Any]], n_copies: int, repeats: int) -> dict[str, list[int]]:
    """Nanoseconds of each call, taking turns; call(i) uses copy i."""
    times: dict[str, list[int]] = {name: [] for name in calls}
    for round_ in range(-n_copies, repeats):  # the first ones warm up threads, caches of code and PyTorch's own choices
        for name, call in calls.items():
            for i in range(n_copies):
                start = time.perf_counter_ns()
                call(i)
                if round_ >= 0:
                    times[name].append(time.perf_counter_ns() - start)
    return times


@torch.no_grad()
def run(shape: str, dtype: str, density: float, n_tokens: int, n_threads: int, args: argparse.Namespace) -> dict[str, Any]:
    d_model, d_ff = SHAPES[shape] if shape in SHAPES else (int(n) for n in shape.split(","))
    torch.set_num_threads(n_threads)
    kind = DTYPES[dtype]
    with Context() as probe:
        isa, cache = probe.info.isa, probe.info.llc_bytes
    weight_bytes = 3 * d_model * d_ff * kind.itemsize
    touched = weight_bytes * (1 / 3 + 2 / 3 * density)
    n_copies = args.copies or max(2, math.ceil(2 * cache / touched))
    made = [make_module(d_model, d_ff, kind, density, seed) for seed in range(n_copies)]
    xs = [inputs(direction, n_tokens, kind, 100 + i) for i, (_, direction) in enumerate(made)]
    holder = nn.ModuleList(m for m, _ in made).eval()
    plain: list[Any] = [m for m, _ in made]
    exact, found_density = reference(plain[0], xs[0])
    if args.compile:
        plain = [torch.compile(m) for m in plain]
    theirs = plain[0](xs[0])
    report = replace_ffn(holder, {"storage": args.storage}, n_threads=n_threads, torch_tokens=0)
    ours = list(holder)
    y = ours[0](xs[0])
    times = measure({"torch": lambda i: plain[i](xs[i]), "ours": lambda i: ours[i](xs[i])}, n_copies, args.repeats)

    def error(found: Tensor) -> float:
        return float((found.double() - exact).norm() / exact.norm())

    torch_ns, ns = statistics.median(times["torch"]), statistics.median(times["ours"])
    return {
        "name": "torch_ffn", "shape": shape, "d_model": d_model, "d_ff": d_ff, "dtype": dtype, "storage": args.storage, "density": round(found_density, 4),
        "n_tokens": n_tokens, "n_threads": n_threads, "copies": n_copies, "repeats": args.repeats, "isa": isa,
        "torch": torch.__version__ + (" compiled" if args.compile else ""),
        "torch_median_ns": round(torch_ns), "torch_min_ns": min(times["torch"]), "torch_max_ns": max(times["torch"]),
        "median_ns": round(ns), "min_ns": min(times["ours"]), "max_ns": max(times["ours"]), "speedup_vs_torch": round(torch_ns / ns, 3),
        "weight_bytes": weight_bytes, "packed_bytes": report[0].packed_bytes, "path": "sparse" if ffn_report(holder)[0].sparse_calls else "dense",
        "relative_error": error(y), "torch_relative_error": error(theirs),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sparseffn.torch.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama2-7b", help=f"D,F or one of {', '.join(SHAPES)}")
    parser.add_argument("--dtype", default="bf16,f32", help="of " + ", ".join(DTYPES))
    parser.add_argument("--density", default="0.107", help="shares of active neurons")
    parser.add_argument("--tokens", default="1", help="per call")
    parser.add_argument("--threads", default="1", help="of PyTorch, and of the library")
    parser.add_argument("--storage", default="borrow", choices=("borrow", "copy"), help="as in replace_ffn")
    parser.add_argument("--copies", type=int, default=0, help="modules that take turns; 0: enough for cold weights")
    parser.add_argument("--repeats", type=int, default=11, help="timed uses of each copy")
    parser.add_argument("--compile", action="store_true", help="PyTorch's side through torch.compile")
    args = parser.parse_args()
    try:
        if args.shape not in SHAPES and len([int(n) for n in args.shape.split(",")]) != 2:
            raise ValueError
    except ValueError:
        parser.error(f"--shape: {args.shape!r}, expected D,F or one of {', '.join(SHAPES)}")
    for dtype in args.dtype.split(","):
        if dtype not in DTYPES:
            parser.error(f"--dtype: {dtype!r}, expected some of {', '.join(DTYPES)}")
    for threads in args.threads.split(","):
        for dtype in args.dtype.split(","):
            for density in args.density.split(","):
                for tokens in args.tokens.split(","):
                    print(json.dumps(run(args.shape, dtype, float(density), int(tokens), int(threads), args)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
