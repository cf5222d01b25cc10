#!/usr/bin/env python3
"""measure.py  What the library makes of the bundled model: predictors, and speed. Writes results/predictors.json and results/speed.json for results.py.

    python3 examples/training/measure.py predictors --sffn build/bindings/cli/sffn --text corpus/train-*.xz     some minutes; a busy machine changes nothing
    python3 examples/training/measure.py speed      --sffn build/bindings/cli/sffn --text corpus/train-*.xz     needs a machine with nothing else to do

TEXT calibrates and trains the predictors; recall, error and perplexity are measured on examples/models/heldout.json, which no run has seen.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "models"
MODEL, HELDOUT = MODELS / "reglu-33m.gguf", MODELS / "heldout.json"
PROMPT = "The function returns"

# What `sffn eval --select` measures without preparation, and what `sffn prepare --predictor` makes from the text. Those that are not exact get a threshold
# for 99 % recall on it, or for what recall= says.
UNTRAINED = ["gate", "screen", "sign"]
PREPARED = ["mlp,rank=128,recall=0.92", "cascade", "low_rank,rank=128", "svd,rank=128", "mlp,rank=128", "mlp,rank=64"]


def run(sffn: Path, *args: Any) -> list[dict[str, Any]]:
    """The JSON lines of one sffn command; its progress stays on standard error."""
    print("sffn", *args, file=sys.stderr, flush=True)
    done = subprocess.run([sffn, *map(str, args), "--json"], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def sample_text(files: list[Path], folder: str, n_documents: int, n_characters: int) -> Path:
    """The beginnings of documents spread evenly over the text, with empty lines between them."""
    documents: list[str] = []
    for file in files:
        data = file.read_bytes()
        text = (lzma.decompress(data) if file.suffix == ".xz" else data).decode("utf-8")
        documents += [d for d in text.split("\0") if d.strip()]
    picked = documents[:: max(1, len(documents) // n_documents)][:n_documents]
    out = Path(folder) / "sample.txt"
    out.write_text("\n\n".join(d[:n_characters] for d in picked), encoding="utf-8")
    return out


def prepare(args: argparse.Namespace, text: Path, out: Path, *more: str) -> dict[str, Any]:
    return run(args.sffn, "prepare", MODEL, "-o", out, "--calibrate", text, "--samples", args.samples, *more)[0]


def predictors(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Predictors that the result file has already are kept: the same command goes on after an interruption, and with what was added to the lists."""
    out = args.out / "predictors.json"
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"samples": args.samples, "tokens": args.tokens, "predictors": {}}
    if (result["samples"], result["tokens"]) != (args.samples, args.tokens):
        sys.exit(f"measure.py: {out} was made with {result['samples']} samples and {result['tokens']} tokens; remove it, or ask for the same")
    found = result["predictors"]
    text = sample_text(args.text, folder, 60, 600)

    def keep(spec: str, line: dict[str, Any]) -> None:
        found[spec] = {k: v for k, v in line.items() if k not in ("name", "model", "select")}
        out.write_text(json.dumps(result, indent=1) + "\n")

    if missing := [spec for spec in UNTRAINED if spec not in found]:
        for line in run(args.sffn, "eval", MODEL, "--tokens", HELDOUT, "-n", args.tokens, "--timed", 0, *(word for spec in missing for word in ("--select", spec))):
            keep(line["select"], line)
    for spec in PREPARED:
        if spec not in found:
            file = Path(folder) / "predictor.gguf"
            prepare(args, text, file, "--plan", "predictor", "--predictor", spec)
            keep(spec, run(args.sffn, "eval", file, "--tokens", HELDOUT, "-n", args.tokens, "--select", "plan", "--timed", 0)[0])
    return result


def speed(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    text = sample_text(args.text, folder, 60, 600)
    files = {"cascade": Path(folder) / "cascade.gguf", "plan": Path(folder) / "plan.gguf"}
    prepare(args, text, files["cascade"], "--plan", "predictor", "--predictor", "cascade")
    plan = prepare(args, text, files["plan"], "--predictor", "screen", "--predictor", "cascade", "--predictor", "mlp,rank=64")
    ways: list[tuple[str, Path, list[str]]] = [
        ("dense", MODEL, ["--ffn", "dense"]),
        ("gate", MODEL, ["--select", "gate"]),
        ("screen", MODEL, ["--select", "screen"]),
        ("cascade", files["cascade"], []),
        ("plan", files["plan"], []),
    ]
    rows = []
    for threads in args.threads:
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in ways}
        for _ in range(args.rounds):  # in turn, so that a change of the machine's pace hits all
            for name, file, more in ways:
                rounds[name] += run(args.sffn, "generate", file, "--prompt", PROMPT, "-n", 200, "--ignore-eos", "--threads", threads, *more)
        for name, found in rounds.items():
            ffn_us = [sum(layer["ns_per_token"] for layer in r["layers"]) / 1e3 for r in found]
            rows.append({
                "select": name, "threads": threads, "rounds": len(found), "ffn_us": statistics.median(ffn_us), "ffn_us_min": min(ffn_us), "ffn_us_max": max(ffn_us),
                "tokens_per_second": statistics.median(r["tokens_per_second"] for r in found), "ffn_share": statistics.median(r["ffn_share"] for r in found),
                "density": found[0]["density"], "bytes_per_token": found[0]["bytes_per_token"], "same_tokens": found[0]["tokens"] == rounds["dense"][0]["tokens"],
            })  # fmt: skip
    found = run(args.sffn, "info")[0]
    info = {key: found[key] for key in ("version", "isa", "n_cpus", "llc_bytes")}
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown")
    return {"cpu": cpu, "info": info, "plan": [layer["plan"] for layer in plan["layers"]], "load": os.getloadavg()[0], "ways": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["predictors", "speed"])
    parser.add_argument("--sffn", type=Path, required=True, metavar="FILE", help="the program, of a release build")
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help="what the model was trained on, plain or .xz")
    parser.add_argument("--samples", type=int, default=8192, metavar="N", help="inputs per layer that predictors are trained on (8192)")
    parser.add_argument("--tokens", type=int, default=4096, metavar="N", help="predictors: of the held-out text (4096)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="speed: (1 2)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="speed: the median counts (7)")
    parser.add_argument("-o", "--out", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {"predictors": predictors, "speed": speed}[args.what](args, folder)
    file = args.out / f"{args.what}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{file} written; `python3 examples/training/results.py` puts it into RESULTS.md", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
