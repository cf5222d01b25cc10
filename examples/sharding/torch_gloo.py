#!/usr/bin/env python3
"""torch_gloo.py  A feed-forward layer whose neurons are shared out over processes: torch.distributed adds the partial results.

    python examples/sharding/torch_gloo.py                            # starts two processes on this machine
    torchrun --nproc-per-node 2 examples/sharding/torch_gloo.py       # the same through torchrun, which also spans hosts

Each rank holds a slice of the neurons: rows of gate and up, columns of down. sffn_ffn takes a slice as it takes a layer, and its y is the
slice's part of the sum, so one all-reduce per layer makes the whole y. Exact: y differs from the unsharded layer's only in the order of that
sum. Needs PyTorch and numpy, PYTHONPATH=bindings/python and SPARSEFFN_LIBRARY; see README.md.
"""

from __future__ import annotations

import argparse
import json
import os

import numpy as np
import sparseffn as sf
import torch
import torch.distributed as dist
from torch import multiprocessing


def run(rank: int, ranks: int, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    gate, up = (rng.standard_normal((args.d_ff, args.d_model), dtype=np.float32) / args.d_model**0.5 for _ in range(2))
    down = rng.standard_normal((args.d_model, args.d_ff), dtype=np.float32) / args.d_ff**0.5
    bias = rng.standard_normal(args.d_model, dtype=np.float32)
    x = rng.standard_normal((args.tokens, args.d_model), dtype=np.float32)

    # Only the slice is read and packed. The bias of down stays with neuron 0, or it would be added once per rank.
    context, first = sf.Context(), args.d_ff * rank // ranks
    mine = (first, args.d_ff * (rank + 1) // ranks - first)
    part = sf.FFN(context, gate=gate, up=up, down=down, down_bias=bias, neurons=mine)
    y = torch.empty(args.tokens, args.d_model)
    part.forward(x, y)
    dist.all_reduce(y)

    if rank == 0:
        h = np.empty((args.tokens, args.d_ff), np.float32)
        whole = sf.FFN(context, gate=gate, up=up, down=down, down_bias=bias)
        expected = whole.forward(x, h=h)
        # h is the same to the bit, so two float32 sums of the same products differ by at most 2 gamma_n times the sum of their absolute values,
        # gamma_n = n u / (1 - n u), u = 2^-24; n as in README.md.
        n, u = args.d_ff + ranks + 8, 2.0**-24
        bound = 2 * n * u / (1 - n * u) * (np.abs(h).astype(np.float64) @ np.abs(down).T.astype(np.float64) + np.abs(bias))
        difference = np.abs(y.numpy().astype(np.float64) - expected)
        print(json.dumps({
            "ranks": ranks, "d_model": args.d_model, "d_ff": args.d_ff, "n_tokens": args.tokens,
            "largest_difference": float(difference.max()), "largest_share_of_bound": float((difference / bound).max()),
            # what an all-reduce adds per layer; a ring sends 2 (ranks - 1) / ranks times as much from each rank
            "all_reduce_bytes": y.numel() * y.element_size(), "sent_per_rank_bytes": 2 * (ranks - 1) * y.numel() * y.element_size() // ranks,
            "weight_bytes_per_rank": part.info.weight_bytes, "weight_bytes_unsharded": whole.info.weight_bytes,
        }))  # fmt: skip
        if (difference > bound).any():
            raise SystemExit("the sharded layer differs from the whole one by more than rounding")


def start(rank: int, ranks: int, args: argparse.Namespace, method: str) -> None:
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=ranks)
    try:
        run(rank, ranks, args)
    finally:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="processes to start; torchrun decides otherwise")
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--d-ff", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=4)
    args = parser.parse_args()
    if "RANK" in os.environ:  # torchrun
        start(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), args, "env://")
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(start, (args.ranks, args, f"file://{folder}/rendezvous"), nprocs=args.ranks)


if __name__ == "__main__":
    main()
