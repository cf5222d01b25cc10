#!/usr/bin/env python3
"""What tests/unit/test_cascade.c expects of layer 3 of examples/models/reglu-33m.gguf, computed without the library.

    python3 golden_cascade.py [MODEL]     the GGUF file, or the Hugging Face folder that it was made of

For each (bits, step_bits): neurons let through, recall, and relative error of y, over the 64 recorded tokens, with the default margin.
"""
import os
import sys

import numpy as np

import screens

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/models")
FACTOR = {1: 1.9, 2: 1.7, 3: 1.3, 4: 1.0}
MARGIN = 1.5


def main():
    _, tensors = screens.llama_float64.read_model(sys.argv[1] if len(sys.argv) > 1 else os.path.join(MODELS, "reglu-33m.gguf"))
    w = {k: screens.stored(tensors[f"model.layers.3.mlp.{k}_proj.weight"], "q8_0") for k in ("gate", "up")}
    down = screens.stored(np.ascontiguousarray(tensors["model.layers.3.mlp.down_proj.weight"].T), "q8_0")
    x = np.fromfile(os.path.join(MODELS, "layer3_inputs.f32"), "<f4").reshape(-1, 512)
    mean = x.mean(0)
    g = x @ w["gate"].T
    h = np.maximum(g, 0) * (x @ w["up"].T)
    for bits, step in ((3, 1), (3, 2), (4, 2), (2, 2), (4, 4)):
        steps = [min(step, bits - done) for done in range(0, bits, step)]
        keep = np.ones(g.shape, bool)
        for k, approx in zip(np.cumsum(steps), screens.planes(w["gate"], steps)):
            rounded = screens.round_x(x - mean, 0)
            error = np.sqrt(((w["gate"] - approx) ** 2).mean(1))
            ratio = np.sqrt((w["gate"] ** 2).mean() / (error ** 2).mean())
            doubt = np.linalg.norm(x - mean, axis=1) + ratio * np.linalg.norm(x - mean - rounded, axis=1)
            keep &= rounded @ approx.T + w["gate"] @ mean + MARGIN * FACTOR[k] * doubt[:, None] * error > 0
        missed = (h * ~keep) @ down
        print(f"bits {bits} step {step}: let through {keep.mean():.4f}, recall {(keep & (g > 0)).sum() / (g > 0).sum():.4f}, "
              f"error {np.sqrt((missed ** 2).sum() / ((h @ down) ** 2).sum()):.4f}")


if __name__ == "__main__":
    main()
