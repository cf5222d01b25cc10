#!/usr/bin/env python3
"""Prints what quickstart measured, for somebody who sees this library for the first time.

    quickstart_table.py PROMPT DENSE SPARSE [EVAL]

DENSE and SPARSE hold the lines of `sffn generate --json`, one per round; EVAL the line of `sffn eval --json`, where there is one.
Exits with 1 when dense and sparse generated different tokens.
"""
import json
import statistics
import sys
import textwrap


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def median(rounds, key, layer=None):
    return statistics.median((r if layer is None else r["layers"][layer])[key] for r in rounds)


def percent(share):
    return f"{100 * share:.1f} %"


def table(header, rows):
    """Right-aligned columns."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    rule = "  " + "  ".join("-" * width for width in widths)
    lines = ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in cells]
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def main():
    prompt = sys.argv[1]
    dense, sparse, *evals = (read_lines(path) for path in sys.argv[2:])
    tokens = dense[0]["tokens"]
    is_same = all(r["tokens"] == tokens for r in dense + sparse)

    print(f"\n{textwrap.fill(prompt + dense[0]['text'], 100, initial_indent='  ', subsequent_indent='  ')}\n")
    if is_same:
        print(f"  Dense and sparse generated the same {len(tokens)} tokens.\n")
    else:
        print("  DENSE AND SPARSE GENERATED DIFFERENT TOKENS. Sparse:\n")
        print(textwrap.fill(prompt + sparse[0]["text"], 100, initial_indent="  ", subsequent_indent="  "))

    rows = []
    sums = [0.0] * 4
    n_layers = len(dense[0]["layers"])
    for layer in range(n_layers):
        bytes_read = [median(r, "bytes_per_token", layer) for r in (dense, sparse)]
        ns = [median(r, "ns_per_token", layer) for r in (dense, sparse)]
        rows.append(row_of(str(layer), median(sparse, "density", layer), bytes_read, ns))
        sums = [a + b for a, b in zip(sums, bytes_read + ns)]
    rows.append(row_of("all", median(sparse, "density"), sums[:2], sums[2:]))
    for line in table(("layer", "active", "kB dense", "kB sparse", "bytes saved", "us dense", "us sparse", "faster"), rows):
        print(line)
    print(textwrap.indent(textwrap.dedent(f"""
        active       share of the layer's neurons that did anything for a token; the others were exactly zero
        kB           weights of the feed-forward layer read for one token
        us           microseconds spent in the layer for one token, median of {len(dense)} rounds
        """), "  "))

    speeds = [median(r, "tokens_per_second") for r in (dense, sparse)]
    shares = [median(r, "ffn_share") for r in (dense, sparse)]
    lines = [("whole model", "dense", "sparse"),
             ("tokens per second", *(f"{v:.0f}" for v in speeds)),
             ("feed-forward layers, share of the time", *(percent(v) for v in shares))]
    for (held_out,) in evals:
        lines.append((f"perplexity of {held_out['n_predicted']} held-out tokens",
                      *(f"{held_out[key]:.3f}" for key in ("perplexity_dense", "perplexity_sparse"))))
    for name, *values in lines:
        print(f"  {name:42}" + "".join(f"{value:>12}" for value in values))
    print("\n" + textwrap.fill(explanation(sparse[0], bool(evals)), 104, initial_indent="  ", subsequent_indent="  "))
    return 0 if is_same else 1


def explanation(sparse, has_perplexity):
    if sparse["dense_share"] == 1:
        return ("Every layer ran dense, both times, so the times differ by noise alone: `sffn inspect MODEL` says why. "
                "SiLU and GELU have no zeros; `sffn prepare MODEL --calibrate TEXT` finds thresholds for them.")
    if sparse["select"] != "gate":
        return "Which neurons run is predicted, as the file's plan says: `sffn eval` measures what that leaves out."
    return ("Sparse left nothing out that counts: the gate is computed in full, and only neurons whose activation is zero are skipped."
            + (" Perplexity (lower is better) may differ in the last digits, by rounding." if has_perplexity else ""))


def row_of(name, density, bytes_read, ns):
    return (name, percent(density), f"{bytes_read[0] / 1e3:.0f}", f"{bytes_read[1] / 1e3:.0f}",
            percent(1 - bytes_read[1] / bytes_read[0]), f"{ns[0] / 1e3:.1f}", f"{ns[1] / 1e3:.1f}", f"{ns[0] / ns[1]:.2f}x")


if __name__ == "__main__":
    sys.exit(main())
