#!/usr/bin/env python3
"""Tables of what bench/run measured, as Markdown on standard output: bench/results.py FOLDER, with one folder per machine below it. Standard library only."""
import glob
import json
import math
import os
import re
import sys

HEAD = """# Results

Written by `bench/results.py` from the JSON lines in `bench/results`; `bench/run` measures and writes again. [README.md](README.md) says what the columns mean and
how the figures are taken. Medians; "±" is half the 95 % confidence interval of the median, and an interval beyond 5 % is marked with !. "limit" is what the memory
would take at its streaming rate (the best pass of the run) for the bytes that the call reads, divided by the time: 1 is the best possible. "of median" is the same
with the median pass of the stream just before and after the row, a median against a median. "gather" is "limit" with the measured rate of
gathering pieces of that size for the gathered bytes, best and median pass likewise. "error" is |y - y64| / |y64| against the whole layer in float64 from the same packed weights.
"""


def lines(path):
    """The last line of each name, except kernels, whose lines differ in other keys."""
    rows = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            rows[tuple(row.get(k) for k in ("name", "isa", "from", "n_tokens", "n_threads"))] = row
    return list(rows.values())


def number(value, form, unit=""):
    return "" if value is None or not math.isfinite(value) else format(value, form) + unit


def ms(row, key="median_ns"):
    return number(row.get(key) and row[key] * 1e-6, ".3f")


def spread(row):
    error = row.get("median_error")
    return "" if error is None else f"{100 * error:.1f} %" + (" !" if error > 0.05 else "")


def table(columns, rows):
    """columns: [(title, function of a row)]; those that are empty in every row are left out."""
    cells = [[str(get(row)) for _, get in columns] for row in rows]
    used = [i for i in range(len(columns)) if any(line[i] for line in cells)]
    print("\n| " + " | ".join(columns[i][0] for i in used) + " |\n|" + "---|" * len(used))
    for line in cells:
        print("| " + " | ".join(line[i] for i in used) + " |")


def selection(row):
    """With what differs from the defaults, which only the name holds."""
    options = re.search(r" cascade (columns \S+) bits (\d)", row.get("name", ""))
    return row["select"] + (f", {options[1]}, {options[2]} bits" if options else "")


def get(key, form=None, unit=""):
    if form is None:
        return lambda row: "" if row.get(key) is None else row[key]
    return lambda row: number(row.get(key), form, unit)


FFN = [("weights", get("dtype")), ("selection", selection), ("active", get("density", ".3f")), ("tokens", get("n_tokens")), ("threads", get("n_threads")),
       ("layer", get("trace_layer")), ("ms", ms), ("±", spread), ("min", lambda r: ms(r, "min_ns")), ("max", lambda r: ms(r, "max_ns")),
       ("MB read", lambda r: number(r["touched_bytes"] * 1e-6, ".1f")), ("GB/s", get("effective_gbps", ".1f")), ("memory GB/s", get("stream_gbps", ".1f")),
       ("limit", get("limit_fraction", ".2f")), ("of median", get("median_limit_fraction", ".2f")), ("gather", get("gather_fraction", ".2f")), ("of median", get("median_gather_fraction", ".2f")), ("own dense", get("speedup_vs_dense", ".2f", "x")),
       ("oneDNN", get("speedup_vs_onednn", ".2f", "x")), ("against first", get("speedup_vs_first", ".2f", "x")), ("recall", get("recall", ".3f")),
       ("error", get("relative_error", ".1e"))]
STAGES = [("weights", get("dtype")), ("selection", selection), ("threads", get("n_threads")), ("stage", get("stage")),
          ("µs", lambda r: number(r["median_ns"] * 1e-3, ".1f")), ("±", spread), ("share", lambda r: number(100 * r["share"], ".0f", " %")),
          ("MB read", lambda r: number(r["touched_bytes"] * 1e-6 or None, ".2f")), ("GB/s", get("effective_gbps", ".1f")), ("limit", get("limit_fraction", ".2f")),
          ("of median", get("median_limit_fraction", ".2f")), ("gather", get("gather_fraction", ".2f")), ("GFLOP/s", get("gflops", ".0f")), ("error of the layer", get("relative_error", ".1e"))]
KERNELS = [("kernel", get("name")), ("ISA", get("isa")), ("from", get("from")), ("µs", lambda r: number(r["median_ns"] * 1e-3, ".2f")), ("±", spread),
           ("GB/s", get("effective_gbps", ".1f")), ("GFLOP/s", get("gflops", ".1f")), ("limit", get("limit_fraction", ".2f")),
           ("against scalar", get("speedup_vs_scalar", ".1f", "x")), ("error", get("relative_error", ".1e"))]
COMPARE = [("ours", get("layer_dtype")), ("library", get("peer")), ("weights", get("dtype")), ("selection", get("select")), ("tokens", get("n_tokens")),
           ("threads", get("n_threads")), ("ms", ms), ("±", spread), ("min", lambda r: ms(r, "min_ns")), ("max", lambda r: ms(r, "max_ns")),
           ("GB/s", get("effective_gbps", ".1f")), ("limit", get("limit_fraction", ".2f")), ("of median", get("median_limit_fraction", ".2f")),
           ("time / our dense", get("sffn_dense_speedup", ".2f", "x")), ("time / our selection", get("sffn_select_speedup", ".2f", "x")),
           ("error", get("relative_error", ".1e")), ("version, implementation", lambda r: f"{r['version']}, {r['how']}".strip(", "))]
MEMORY = [("what", get("kind")), ("pages", get("pages")), ("threads", get("n_threads")), ("piece", lambda r: r["piece_bytes"] or ""),
          ("share", get("density", ".3g")), ("GB/s", get("gbps", ".1f")), ("best way to prefetch", get("how"))]
PARTS = [("memory", "Memory", MEMORY), ("ffn", "Gate-first over densities", FFN), ("selections", "Selections", FFN), ("stages", "Stages", STAGES),
         ("scaling", "Threads", FFN), ("trace", "Recorded masks", FFN), ("compare", "Other libraries", COMPARE), ("kernels", "Kernels", KERNELS)]


def machine_words(folder):
    words = [os.path.basename(folder)]
    try:
        with open(os.path.join(folder, "machine.json"), encoding="utf-8") as f:
            info = json.load(f)
        words.append(f"{info['n_cores']} cores, kernels {info['isa']}, last-level cache {info['llc_bytes'] / 2 ** 20:.0f} MiB")
    except (OSError, KeyError):
        pass
    try:
        with open(os.path.join(folder, "compiler.txt"), encoding="utf-8") as f:
            words.append(f.read().strip())
    except OSError:
        pass
    return words


def part_rows(folder, part):
    return [row for path in sorted(glob.glob(os.path.join(folder, part + "-*.jsonl"))) for row in lines(path)]


def fractions(rows, key):
    """The values of a key by number of threads: 0.81, 0.77 (2)."""
    by_threads = {row["n_threads"]: row[key] for row in rows if row.get(key)}
    return ", ".join(f"{by_threads[n]:.2f}" + (f" ({n})" if n > 1 else "") for n in sorted(by_threads))


def write_goals(folder):
    """What a machine's rows say of the goals, a line for each type of weights. Peers of `compare` took turns with ours; a predicted time
    is held against the fastest peer's median of that other run."""
    scaling, selections = part_rows(folder, "scaling"), part_rows(folder, "selections")
    stages, compare = part_rows(folder, "stages"), part_rows(folder, "compare")
    shape = "llama2-7b"
    cells = []
    for dtype in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        ours = [row for row in selections + scaling if row["shape"] == shape and row["dtype"] == dtype and abs(row["density"] - 0.107) < 1e-3]
        dense = [row for row in ours if row["select"] == "dense"]
        if not dense:
            continue
        mask = [row for row in ours if row["select"] == "oracle"]
        gate = [row for row in ours + part_rows(folder, "ffn") if row["select"] == "gate" and row["dtype"] == dtype and abs(row["density"] - 0.107) < 1e-3
                and row["shape"] == shape]
        stage = [row for row in stages if (row["dtype"], row["select"], row["stage"]) == (dtype, "gate", "gate")]
        peers = [dict(row) for row in compare if row["layer_dtype"] == dtype and row["peer"] != "sffn"]
        for row in peers: # where no gate took turns with the peer, its own row of that run
            run = [own for own in compare if own["peer"] == "sffn" and own["layer_dtype"] == dtype and own["select"] == "gate"
                   and (own["n_tokens"], own["n_threads"]) == (row["n_tokens"], row["n_threads"])]
            if row.get("sffn_select") != "gate":
                row["sffn_select_speedup"] = row["median_ns"] / run[0]["median_ns"] if run else None
        def fastest(n_tokens, n_threads, key):
            return min((row[key] for row in peers if (row["n_tokens"], row["n_threads"]) == (n_tokens, n_threads) and row.get(key)), default=None)
        predicted = min((row for row in selections if "real rows" in row["name"] and row["dtype"] == dtype and row["select"] in ("screen", "cascade")),
                        key=lambda row: row["median_ns"], default=None)
        peer_ns = fastest(1, 1, "median_ns")
        batches = [(n, fastest(n, 1, "sffn_select_speedup")) for n in (2, 4, 8)]
        cells.append((dtype, fractions(dense, "limit_fraction"), fractions(dense, "median_limit_fraction"), fractions(stage, "limit_fraction"),
                      fractions(stage, "median_limit_fraction"), fractions(mask, "gather_fraction"), fractions(mask, "median_gather_fraction"),
                      fractions(mask, "limit_fraction"), fractions(gate, "speedup_vs_dense"),
                      ", ".join(f"{fastest(1, n, 'sffn_select_speedup'):.1f}" + (f" ({n})" if n > 1 else "")
                                for n in sorted({row["n_threads"] for row in peers}) if fastest(1, n, "sffn_select_speedup")),
                      f"{peer_ns / predicted['median_ns']:.1f} ({selection(predicted)}, error {predicted['relative_error']:.1e})" if predicted and peer_ns else "",
                      ", ".join(f"{x:.1f} ({n})" for n, x in batches if x)))
    if cells:
        print("\nOne token unless said otherwise; in brackets the number of threads, in the last column of tokens. \"/ dense\" and \"/ peers\": how many times faster than "
              "the own dense\npath and than the fastest dense layer of another library.")
        titles = ("weights", "dense: limit", "of median", "gate stage: limit", "of median", "mask of 10.7 %: gather", "of median", "mask: limit", "gate-first / dense", "gate-first / peers",
                  "predicted / peers", "gate-first / peers, tokens")
        table([(title, lambda line, i=i: line[i]) for i, title in enumerate(titles)], cells)


def write_machine(folder):
    words = machine_words(folder)
    print(f"\n## {words[0]}\n\n{'; '.join(words[1:])}.")
    write_goals(folder)
    base = os.path.relpath(folder, os.path.join(folder, "..", ".."))
    for part, title, columns in PARTS:
        for path in sorted(glob.glob(os.path.join(folder, part + ".jsonl")) + glob.glob(os.path.join(folder, part + "-*.jsonl"))):
            rows = lines(path)
            shape = os.path.basename(path)[len(part):-len(".jsonl")].lstrip("-")
            print(f"\n### {title}{', ' + shape if shape else ''}")
            pictures = {"ffn": "speedup_gate_", "compare": "batch_", "stages": "roofline_", "scaling": "scaling_", "selections": "speedup_"}.get(part)
            for picture in sorted(glob.glob(os.path.join(folder, f"{pictures}*{shape.replace(',', 'x')}.svg"))) if pictures else []:
                name = os.path.basename(picture)
                if part != "selections" or not name.startswith("speedup_gate_"):
                    print(f"\n![{name[:-4]}]({base}/{name})")
            shown = [row for row in rows if row.get("shape", shape) == shape]
            others = [row for row in rows if row.get("shape", shape) != shape]
            if shown:
                table(columns, shown)
            if others:
                print("\nA layer with a real model's gate statistics:" if "real rows" in others[0]["name"] else f"\nShape {others[0]['shape']}:")
                table(columns, others)
    log = os.path.join(folder, "parts.log")
    if os.path.exists(log):
        last = {}
        with open(log, encoding="utf-8") as f:
            for line in f:
                entry = json.loads(line)
                last[entry["command"]] = entry
        print("\n### Commands\n\n```sh")
        for entry in last.values():
            took = f"{entry['seconds']} s, " if "seconds" in entry else ""
            print(f"{entry['command']}   # {took}{entry['date']}, {entry['commit']}")
        print("```")


def main():
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit("usage: bench/results.py FOLDER")
    print(HEAD, end="")
    if os.path.exists(os.path.join(sys.argv[1], "goals.md")):  # written by hand
        with open(os.path.join(sys.argv[1], "goals.md"), encoding="utf-8") as f:
            print("\n" + f.read(), end="")
    for folder in sorted(glob.glob(os.path.join(sys.argv[1], "*", ""))):
        if glob.glob(os.path.join(folder, "*.jsonl")):
            write_machine(folder.rstrip("/"))


main()
