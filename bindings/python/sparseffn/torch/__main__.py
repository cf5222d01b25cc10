"""python -m sparseffn.torch: makes a model sparsely activated with one command.

    python -m sparseffn.torch train --model FOLDER_OR_GGUF --text book.txt more/*.xz --recipe prosparse --out runs/mine
    python -m sparseffn.torch eval --model runs/mine/model --text heldout.txt
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .data import Tokens, read_documents, tokenize
from .evaluate import evaluate, find_shift
from .files import load, load_tokenizer, save, save_gguf
from .lte import add_routers, apply_experts, balanced_groups, fit_routers, hard_routing
from .model import Llama
from .trainer import Recipe, Trainer, check_memory, prosparse_stages

RECIPES = {
    "prosparse": "ReLU in place of the model's activation, then a progressive penalty on h, then FATReLU's threshold",
    "drelu": "max(0, gate) * max(0, up), no penalty (Turbo Sparse)",
    "relu2": "the square of ReLU, no penalty",
    "lte": "experts of --expert-size neurons switched by a router; keeps the model's activation",
    "dense": "the model as it is, on the same text: the baseline to compare with",
}


def _count(text: str) -> int:
    """100M -> 100,000,000."""
    scale = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper(), 1)
    try:
        value = int(float(text[:-1] if scale > 1 else text) * scale)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 100M") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not positive")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparseffn.torch", description="Training recipes for sparse activation.")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", required=True, metavar="PATH", help="Hugging Face folder (llama architecture) or GGUF file")
    common.add_argument("--text", required=True, nargs="+", metavar="FILE", help="UTF-8 text, plain or .xz; zero bytes separate documents")
    common.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json; default: the model's own")
    common.add_argument("--context", type=_count, metavar="N", help="tokens of a window (default: the model's context, at most 1024)")
    common.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")

    t = commands.add_parser("train", parents=[common], help="train, find the threshold, export", formatter_class=argparse.RawDescriptionHelpFormatter,
                            epilog="recipes:\n" + "\n".join(f"  {name:10} {text}" for name, text in RECIPES.items()))  # fmt: skip
    t.add_argument("--recipe", required=True, choices=RECIPES)
    t.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="checkpoint, log, model/ and model.gguf; an interrupted run goes on")
    t.add_argument("--tokens", type=_count, default="100M", metavar="N", help="tokens to train on (100M)")
    t.add_argument("--batch", type=_count, default="65536", metavar="N", help="tokens per step (65536)")
    t.add_argument("--micro-batch", type=_count, metavar="N", help="windows per forward pass, when memory is short")
    t.add_argument("--lr", type=float, default=3e-4)
    t.add_argument("--penalty", choices=["l1", "l1_over_l2", "l1_down"], default="l1_over_l2", help="of prosparse (l1_over_l2; the paper's is l1)")
    t.add_argument("--peak", type=float, metavar="LAMBDA", help="of prosparse: the penalty's last factor (2, for l1 40)")
    t.add_argument("--shift-budget", type=float, default=0.01, metavar="SHARE", help="of prosparse: FATReLU may cost this share of perplexity (0.01)")
    t.add_argument("--sparsity", type=float, default=0.5, metavar="SHARE", help="of lte: experts that are off (0.5)")
    t.add_argument("--separability", type=float, default=0.02, metavar="FACTOR", help="of lte: factor of L_sep (0.02; the paper's is 0.5)")
    t.add_argument("--expert-size", type=_count, default=32, metavar="N")
    t.add_argument("--dtype", choices=["f32", "f16", "bf16", "q8_0", "q4_0"], default="q8_0", help="of the matrices in model.gguf (q8_0)")
    t.add_argument("--seed", type=int, default=0)
    t.add_argument("--seconds", type=float, default=math.inf, metavar="S", help="stop with a checkpoint after this time; the same command goes on")
    t.add_argument("--no-compile", action="store_true", help="without torch.compile")

    e = commands.add_parser("eval", parents=[common], help="perplexity and the share of zeros per layer")
    e.add_argument("--windows", type=_count, default=256, metavar="N")
    return parser


def _tokens(args: argparse.Namespace, model: Llama, tokenizer: Any) -> np.ndarray[Any, Any]:
    return tokenize(tokenizer, read_documents(args.text), model.config.bos, seed=1)


def _train(args: argparse.Namespace, model: Llama) -> int:
    tokenizer_path = args.tokenizer or args.model
    tokenizer = load_tokenizer(tokenizer_path)
    n_context = min(args.context or 1024, model.config.n_context)
    batch = max(1, args.batch // n_context)
    steps = max(1, args.tokens // (batch * n_context))
    recipe = Recipe(steps=steps, batch=batch, lr=args.lr, warmup=max(1, steps // 20), seed=args.seed)
    if args.micro_batch:
        recipe.micro_batch = args.micro_batch
    check_memory(model.config, recipe, n_context, torch.device(args.device))
    if args.recipe == "prosparse":
        model.set_activation("relu")
        peak = args.peak if args.peak is not None else 40.0 if args.penalty == "l1" else 2.0
        recipe.penalty, recipe.stages = args.penalty, prosparse_stages(steps, peak)
    elif args.recipe in ("drelu", "relu2"):
        model.set_activation(args.recipe)
    elif args.recipe == "lte":
        if not 0 < args.sparsity < 1:
            raise ValueError(f"--sparsity: {args.sparsity}, expected a number between 0 and 1")
        if not model.config.expert_size:
            groups = [balanced_groups(ffn.gate_proj.weight, args.expert_size, seed=args.seed) for ffn in model.ffns]
            apply_experts(model, groups)
            add_routers(model, args.expert_size, seed=args.seed)
        recipe.lte_steps, recipe.open_target, recipe.weight_decay = max(1, round(0.6 * steps)), 1 - args.sparsity, 0.0
        recipe.sep = args.separability
    recipe.check(model)
    ids = _tokens(args, model, tokenizer)
    held = max(2 * (n_context + 1), len(ids) // 100)
    if len(ids) < 20 * held and len(ids) < 200 * n_context:
        raise ValueError(f"text: {len(ids)} tokens; at least {200 * n_context} are needed to train on and to hold out a part")
    heldout, tokens = Tokens(ids[:held], n_context, args.device), Tokens(ids[held:], n_context, args.device)
    model.to(args.device)
    if args.recipe == "lte" and not (args.out / "checkpoint.pt").exists():
        fit_routers(model, tokens.batch(1, min(16, batch))[0], 1 - args.sparsity)
    print(f"{model.config.n_parameters / 1e6:.1f} M parameters, {len(ids):,} tokens of text, {held:,} held out; {steps} steps of {batch * n_context:,}", file=sys.stderr)
    trainer = Trainer(model, tokens, recipe, args.out, heldout=heldout, eval_every=max(1, steps // 10), compile=not args.no_compile and args.device != "cpu")
    if not trainer.run(max_seconds=args.seconds):
        print(f"stopped at step {trainer.step} of {steps}; the same command goes on", file=sys.stderr)
        return 0
    if args.recipe == "lte":
        hard_routing(model)
    result = evaluate(model, heldout)
    if args.recipe == "prosparse":
        shift, tried = find_shift(model, heldout, args.shift_budget)
        result["shift"], result["shifts"] = shift, tried
        if shift > 0:
            model.set_activation("fatrelu", shift)
    file = Path(tokenizer_path)
    has_tokenizer = file.suffix in (".gguf", ".json") or (file / "tokenizer.json").exists()
    save(model, args.out / "model", tokenizer=tokenizer_path if has_tokenizer else None)
    save_gguf(model, args.out / "model.gguf", dtype=args.dtype, tokenizer=tokenizer_path if has_tokenizer else None,
              notes=f"{args.recipe}, {steps * batch * n_context} tokens")  # fmt: skip
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"perplexity {result['perplexity']:.3f}, zeros {result['mean_zeros']:.3f}" + (f", threshold {result['shift']:.4g}" if "shift" in result else ""))
    print(f"sffn generate {args.out / 'model.gguf'} --prompt '...'", file=sys.stderr)
    return 0


def _eval(args: argparse.Namespace, model: Llama) -> int:
    ids = _tokens(args, model, load_tokenizer(args.tokenizer or args.model))
    if model.config.expert_size:
        hard_routing(model)
    model.to(args.device)
    result = evaluate(model, Tokens(ids, min(args.context or 1024, model.config.n_context), args.device), batch=8, limit=args.windows)
    print(json.dumps(result))
    return 0


def main() -> int:
    args = _parser().parse_args()
    torch.set_float32_matmul_precision("high")
    try:
        for file in args.text:
            if not Path(file).is_file():
                raise FileNotFoundError(f"text: there is no file {file}")
        try:
            torch.empty(0, device=args.device)
        except (RuntimeError, AssertionError) as e:
            raise ValueError(f"--device: {args.device!r} cannot be used: {str(e).splitlines()[0]}") from None
        model = load(args.model)
        return {"train": _train, "eval": _eval}[args.command](args, model)
    except torch.OutOfMemoryError as e:
        print(f"sparseffn.torch: {str(e).splitlines()[0]} A smaller --micro-batch needs less; the same command goes on.", file=sys.stderr)
        return 1
    except (ValueError, OSError, MemoryError, ImportError, FloatingPointError) as e:
        print(f"sparseffn.torch: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
