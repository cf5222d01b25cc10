#!/usr/bin/env python3
"""Which training-free estimate of the gate costs the fewest bytes? Prints the tables of SCREENS.md.

    OPENBLAS_NUM_THREADS=1 python3 screens.py ../../../shared/models/reglu-30m
    OPENBLAS_NUM_THREADS=1 python3 screens.py ANOTHER_MODEL --tokens FILE.json --defaults    # the library's margins alone

Real layer inputs x [tokens][512] of all layers of reglu-30m. Limits are set on 2,048 calibration tokens so that 0.99 of the truly active
neurons are let through, everything printed is measured on 1,024 others. "Active" means: the gate in the named storage type is positive.
With --defaults nothing is fitted to the model but the mean of its inputs: the library's own margins, which were set on the calibration tokens of
reglu-30m, decide on the 1,024 others.

Bytes count everything a token reads: planes or codes, scales, 8 bytes per row and step (scale, error, base), the full gate rows of those
let through, up and down rows of those truly active. "ratio" divides them by what gate-first exact reads.

"columns" is a copy in 2 bits of which a token reads a share of the columns only, those where the centred x is largest.

A screen of b bits codes a row as scale * (2 u - (2^b - 1)), u in [0, 2^b): its upper k bits are a screen of k bits. A step list [2, 1] reads two
bits of every row, then a third bit of the rows that are still in doubt.
"""
import argparse
import itertools
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../tests/reference"))
import llama_float64  # noqa: E402

N_LAYERS, D, N_TEST, N_CAL = 6, 512, 1024, 2048
ELEMENT_BYTES = {"f32": 4.0, "bf16": 2.0, "q8_0": 1.0625, "q4_0": 0.5625}
BEST_STEP = {1: 1.0, 2: 0.996, 3: 0.586, 4: 0.335}  # of a normal distribution, in standard deviations


def load(model_dir, token_file=None):
    """Returns per layer a dict: gate, up [F][D], down [D][F], test, cal [tokens][D]."""
    model = llama_float64.load_model(model_dir, np.float32)
    tokens = np.array(llama_float64.read_tokens(token_file or os.path.join(model_dir, "heldout_tokens.json")))
    layers = [{k: w[k] for k in ("gate", "up", "down")} for w in model["layers"]]
    for name, part in (("test", tokens[:N_TEST]), ("cal", tokens[16384:16384 + N_CAL])):
        for layer, (x, _, _) in zip(layers, llama_float64.ffn_inputs_outputs(model, part.reshape(-1, 512))):
            layer[name] = x.reshape(-1, D)
    return layers


# ---------------------------------------------------------------- storage types

def q8_0(w):
    """Codes [-127, 127] and the f16 scale of each weight's block of 32."""
    b = w.reshape(-1, 32)
    d = np.abs(b).max(1, keepdims=True) / 127
    q = np.rint(b / np.where(d == 0, 1, d))
    return q.reshape(w.shape), np.repeat(d.astype(np.float16).astype(np.float32).reshape(len(w), -1), 32, 1)


def q4_0(w):
    """Codes [0, 15] of code - 8, and scales as above."""
    b = w.reshape(-1, 32)
    extreme = b[np.arange(len(b)), np.abs(b).argmax(1)][:, None]
    d = extreme / -8
    q = np.clip(np.floor(b / np.where(d == 0, 1, d) + 8.5), 0, 15)
    return q.reshape(w.shape), np.repeat(d.astype(np.float16).astype(np.float32).reshape(len(w), -1), 32, 1)


def stored(w, dtype):
    """The gate as the type keeps it."""
    if dtype == "q8_0":
        q, d = q8_0(w)
        return q * d
    if dtype == "q4_0":
        q, d = q4_0(w)
        return (q - 8) * d
    return w


# ---------------------------------------------------------------- screens: [approximate gate of each step]

def blocks(w, bits, block, weight=None):
    """Centred codes with one scale per block: the one of 24 that leaves the least (weighted) square error, refitted once."""
    half = 2 ** (bits - 1)
    b = w.reshape(len(w), -1, block)
    v = np.ones((1, w.shape[1] // block, block)) if weight is None else weight.reshape(1, -1, block)
    least, best = np.full(b.shape[:2], np.inf), np.zeros(b.shape)
    for f in np.linspace(0.35, 1.1, 24):
        d = np.abs(b).max(2, keepdims=True) * f / half
        q = np.clip(np.floor(b / np.where(d == 0, 1, d)), -half, half - 1) + 0.5
        error = (v * (q * d - b) ** 2).sum(2)
        best[error < least] = q[error < least]
        least = np.minimum(least, error)
    d = (v * best * b).sum(2) / (v * best * best).sum(2)
    return [(best * d[..., None]).reshape(w.shape).astype(np.float32)]


def gptq(w, bits, block, second_moment):
    """The same codes, each column's error passed on to the later columns through the inputs' second moment."""
    n, half = w.shape[1], 2 ** (bits - 1)
    h = second_moment + np.eye(n) * 0.01 * np.trace(second_moment) / n
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    w, out = w.astype(np.float64).copy(), np.zeros(w.shape)
    for first in range(0, n, block):
        b, v = w[:, first:first + block], 1 / np.diag(u)[first:first + block] ** 2
        least, best = np.full(len(w), np.inf), np.zeros(len(w))
        for f in np.linspace(0.3, 1.1, 24):
            d = np.abs(b).max(1) * f / half
            q = np.clip(np.floor(b / d[:, None]), -half, half - 1) + 0.5
            error = (v * (q * d[:, None] - b) ** 2).sum(1)
            best[error < least] = d[error < least]
            least = np.minimum(least, error)
        for j in range(first, first + block):
            out[:, j] = (np.clip(np.floor(w[:, j] / best), -half, half - 1) + 0.5) * best
            w[:, j:] -= np.outer((w[:, j] - out[:, j]) / u[j, j], u[j, j:])
    return [out.astype(np.float32)]


def planes(w, steps):
    """One scale per row and step. Codes: the distance of 13 that leaves the least error."""
    bits, ends = sum(steps), np.cumsum(steps)
    half, rms = 2 ** (bits - 1), np.sqrt((w * w).mean(1))

    def prefix(q, k):
        level = 2 * np.floor((q + half) / 2 ** (bits - k)) - (2 ** k - 1)
        return level * ((level * w).sum(1) / (level * level).sum(1))[:, None]

    least, codes = np.full(len(w), np.inf), np.zeros(w.shape)
    for f in np.linspace(0.8, 1.4, 13):
        q = np.clip(np.floor(w / (rms * BEST_STEP[bits] * f)[:, None]), -half, half - 1)
        error = ((prefix(q, bits) - w) ** 2).mean(1)
        codes[error < least] = q[error < least]
        least = np.minimum(least, error)
    return [prefix(codes, k).astype(np.float32) for k in ends]


class Columns:
    """A step that reads only the columns where |x| is largest; codes: the approximate gate of all columns."""

    def __init__(self, w, share):
        self.codes, self.share = planes(w, [2])[0], share

    def pick(self, x):
        n = int(np.ceil(self.share * x.shape[1]))
        picked = np.zeros(x.shape, bool)
        np.put_along_axis(picked, np.argpartition(-np.abs(x), n - 1, axis=1)[:, :n], True, 1)
        return picked


def own_bits(w, dtype, ends, row_scale):
    """The upper bits of the gate's own codes; levels are the mean of the codes that share them. row_scale: the first step has one scale per row."""
    (q, d), bits, zero = (q8_0(w), 8, 0) if dtype == "q8_0" else (q4_0(w), 4, 8)
    u, out = q + 128 if dtype == "q8_0" else q, []
    for i, k in enumerate(ends):
        upper, level = np.floor(u / 2 ** (bits - k)), np.zeros(w.shape)
        for v in np.unique(upper):
            level[upper == v] = (q[upper == v] - zero).mean()
        scale = np.sign(d) * np.abs(d).mean(1, keepdims=True) if row_scale and i == 0 else d
        out.append((level * scale).astype(np.float32))
    return out


# ---------------------------------------------------------------- measuring

def round_x(x, block):
    """int8 with one scale per block of 32, or per token (block 0)."""
    b = x.reshape(-1, block or x.shape[1])
    d = np.abs(b).max(1, keepdims=True) / 127
    return (np.rint(b / np.where(d == 0, 1, d)) * d).reshape(x.shape).astype(np.float32)


def limits_for(z, active, recalls):
    """One limit per step, so that a share recalls[k] of all active ones is still there after step k. None: impossible."""
    keep, limits = np.ones(active.shape, bool), []
    for score, recall in zip(z, recalls):
        v, wanted = score[active & keep], int(recall * active.sum())
        if wanted > len(v):
            return None
        limits.append(np.partition(v, len(v) - wanted)[len(v) - wanted])
        keep &= score >= limits[-1]
    return limits


def step_costs(keep_shares, bytes_):
    """bytes_: of step 0 for all, of the later ones, and of the gate row at last."""
    return bytes_[0] + sum(p * b for p, b in zip(keep_shares, bytes_[1:]))


def in_deviations(step, gate, x, base, x_block):
    """Scores of one step in standard deviations of what blurs them, the unit of sffn_predictor_config.margin."""
    if not isinstance(step, Columns):
        return (round_x(x, x_block) @ step.T + base) / np.sqrt(((gate - step) ** 2).mean(1)) / np.linalg.norm(x, axis=1, keepdims=True)
    picked, error, row = step.pick(x), ((gate - step.codes) ** 2).mean(1), (gate ** 2).mean(1)
    blur = error * (x * x * picked).sum(1, keepdims=True) + row * (x * x * ~picked).sum(1, keepdims=True)
    return ((round_x(x, x_block) * picked) @ step.codes.T + base) / np.sqrt(blur)


def shares(z, limits):
    keep, out = np.ones(z[0].shape, bool), []
    for score, limit in zip(z, limits):
        keep = keep & (score >= limit)
        out.append(keep.mean())
    return keep, out


def measure(layers, dtype, screen, bytes_, centred, x_block, margins=None):
    """Means over the layers: (bytes / dense, ratio, recall, error of y, let through after each step, margins), and the rows of the layers."""
    e, rows = ELEMENT_BYTES[dtype], []
    n_steps = len(bytes_)
    for layer in layers:
        gate, mean = stored(layer["gate"], dtype), layer["cal"].mean(0) if centred else np.zeros(D, np.float32)
        approx = screen(gate, layer)
        z, active = {}, {}
        for part in ("cal", "test"):
            x = layer[part]
            g = x @ gate.T
            active[part] = g > 0
            z[part] = [in_deviations(a, gate, x - mean, gate @ mean, x_block) for a in approx]
        best = margins and (0, [-m for m in margins])
        for firsts in [] if margins else itertools.product((0.993, 0.995, 0.997, 0.9985), repeat=n_steps - 1):
            recalls = list(firsts) + [0.9903]
            if sorted(recalls, reverse=True) != recalls or len(set(recalls)) < n_steps:
                continue
            limits = limits_for(z["cal"], active["cal"], recalls)
            if limits is not None:
                cost = step_costs(shares(z["cal"], limits)[1], bytes_ + [dtype_rest(dtype, bytes_)])
                if best is None or cost < best[0]:
                    best = cost, limits
        keep, p = shares(z["test"], best[1])
        a, recall = active["test"].mean(), (keep & active["test"]).sum() / active["test"].sum()
        h = np.maximum(g, 0) * (layer["test"] @ layer["up"].T)
        y, missed = h @ layer["down"].T, (h * ~keep) @ layer["down"].T
        total = step_costs(p, bytes_ + [dtype_rest(dtype, bytes_)]) + 2 * e * a * recall
        rows.append([total, e * (1 + 2 * a), recall, np.sqrt((missed ** 2).sum() / (y ** 2).sum())] + p + [-v for v in best[1]])
    r = np.array(rows)
    return r[:, 0].mean() / 3 / e, r[:, 0].sum() / r[:, 1].sum(), r[:, 2].mean(), r[:, 3].mean(), r[:, 4:4 + n_steps].mean(0), r[:, 4 + n_steps:], r


NESTED_REST = {}  # dtype -> bytes of the gate that a nested cascade has not read before its last step


def dtype_rest(dtype, bytes_):
    return NESTED_REST.get((dtype, tuple(bytes_)), ELEMENT_BYTES[dtype])


def report(layers, name, dtype, screen, bytes_, centred=True, x_block=0):
    dense, ratio, recall, error, p, margins, _ = measure(layers, dtype, screen, bytes_, centred, x_block)
    print(f"| {name} | {dtype} | {' '.join(f'{b:.3f}' for b in bytes_)} | {dense:.3f} | {ratio:.3f} | {recall:.4f} | {error:.4f} | "
          f"{' '.join(f'{v:.3f}' for v in p)} | {' '.join(f'{v:.2f}' for v in margins.max(0))} |", flush=True)


MARGIN, PLANE_FACTORS, COLUMN_FACTORS = 1.5, {1: 1.9, 2: 1.7, 3: 1.3, 4: 1.0}, {True: 1.7, False: 1.45}  # lib/predictor/cascade.c


def with_defaults(layers):
    """The library's margins: (type, step_bits, bits, column_share) of what it is told to be used with."""
    row = 8 / D
    print("| gate | bits, step_bits, column_share | ratio | wide | recall (worst layer) | error of y (worst) | let through |")
    print("|---|---|---|---|---|---|---|")
    for dtype, bits, step, share in (("f32", 3, 1, 0), ("bf16", 3, 1, 0), ("bf16", 3, 2, 0), ("bf16", 4, 2, 0), ("q8_0", 3, 1, 0), ("q8_0", 3, 2, 0), ("q8_0", 3, 3, 0.4),
                                     ("q4_0", 3, 1, 0), ("q4_0", 3, 2, 0),
                                     ("q4_0", 0, 0, 0.4), ("q4_0", 0, 0, 0.5)):
        steps = [min(step, bits - done) for done in range(0, bits, step)] if step else []
        margins = [MARGIN * COLUMN_FACTORS[bits > 0]] * (share > 0) + [MARGIN * PLANE_FACTORS[k] for k in np.cumsum(steps)]
        bytes_ = [share / 4 + row] * (share > 0) + [s / 8 + row for s in steps]
        _, ratio, _, _, p, _, r = measure(layers, dtype, lambda w, _, s=steps, c=share: ([Columns(w, c)] if c else []) + (planes(w, s) if s else []),
                                          bytes_, True, 0, margins)
        overhead = row * (1 + sum(p[:-1]))
        print(f"| {dtype} | {bits}, {step}, {share} | {ratio:.3f} | {ratio - overhead * len(r) / r[:, 1].sum():.3f} | {r[:, 2].mean():.3f} ({r[:, 2].min():.3f}) | "
              f"{r[:, 3].mean():.3f} ({r[:, 3].max():.3f}) | {' '.join(f'{v:.3f}' for v in p)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model_dir")
    parser.add_argument("--tokens", help="token ids of the model, 18,432 or more; default heldout_tokens.json in its folder")
    parser.add_argument("--defaults", action="store_true", help="only the library's own margins")
    options = parser.parse_args()
    layers = load(options.model_dir, options.tokens)
    if options.defaults:
        return with_defaults(layers)
    row = 8 / D
    print("| screen | gate | bytes per weight and step | of dense | ratio | recall | error of y | let through | largest margin |")
    print("|---|---|---|---|---|---|---|---|---|")
    for bits in (2, 3, 4):
        for block in (32, 128):
            for centred in (False, True):
                report(layers, f"{bits} bits, blocks of {block}, x {'centred' if centred else 'as it is'}", "bf16",
                       lambda w, _, b=bits, s=block: blocks(w, b, s), [bits / 8 + 2 / block + row], centred, 32)
    report(layers, "2 bits, blocks of 128, error weighted by the inputs' variance, x centred", "bf16",
           lambda w, layer: blocks(w, 2, 128, layer["cal"].var(0)), [2 / 8 + 2 / 128 + row], True, 32)
    report(layers, "2 bits, blocks of 128, GPTQ, x centred", "bf16",
           lambda w, layer: gptq(w, 2, 128, np.cov(layer["cal"].T)), [2 / 8 + 2 / 128 + row], True, 32)
    for steps in ([1], [2], [3], [4]):
        report(layers, f"planes {steps}", "bf16", lambda w, _, s=steps: planes(w, s), [s / 8 + row for s in steps])
    report(layers, "planes [1, 1, 1], x as it is", "bf16", lambda w, _: planes(w, [1, 1, 1]), [1 / 8 + row] * 3, False)
    for dtype in ELEMENT_BYTES:
        for steps in ([1, 1], [2, 1], [2, 2], [1, 1, 1], [1, 1, 1, 1]):
            report(layers, f"planes {steps}", dtype, lambda w, _, s=steps: planes(w, s), [s / 8 + row for s in steps])
    for dtype, share, steps in (("q4_0", 0.4, []), ("q4_0", 0.5, []), ("q4_0", 0.6, []), ("q4_0", 0.3, [2]), ("q8_0", 0.3, [3]), ("q8_0", 0.4, [3]),
                                ("bf16", 0.4, [4])):
        report(layers, f"columns {share}{f', planes {steps}' if steps else ''}", dtype, lambda w, _, c=share, s=steps: [Columns(w, c)] + (planes(w, s) if s else []),
               [share / 4 + row] + [s / 8 + row for s in steps])
    # The gate stored in planes: the last step reads only what is left of the row.
    for dtype, ends, rest in (("q8_0", [2, 4], 0.5), ("q4_0", [2], 0.3125), ("q4_0", [1, 2], 0.25)):
        bytes_ = [ends[0] / 8 + row] + [(b - a) / 8 + 2 / 32 + row for a, b in zip(ends, ends[1:])]
        NESTED_REST[dtype, tuple(bytes_)] = rest
        report(layers, f"own bits, planes {ends}, then the rest", dtype,
               lambda w, _, t=dtype, k=ends: own_bits(w, t, k, True), bytes_)
    return with_defaults(layers)


if __name__ == "__main__":
    main()
