"""peer_torch.py  The other end of peer_torch.c: the layer through PyTorch, measured here because Python cannot be loaded into a C program without ado.

    peer_torch.py DTYPE THREADS D_MODEL D_FF N_TOKENS N_COPIES FILE

FILE holds, as float32 without gaps, gate [d_ff][d_model], up [d_ff][d_model], down [d_model][d_ff] and x [n_tokens][d_model]. The first line of output is
"ready VERSION". Then a line of input asks for something, and a line of output answers:

    round N SECONDS   nanoseconds of N calls (N 0: as many as fit into SECONDS, at least two), the first call of the round left out
    result PATH       "ok", with y [n_tokens][d_model] of the last call in that file, as float32
"""
import sys
import time

import torch


def main():
    dtype = getattr(torch, {"f32": "float32", "bf16": "bfloat16"}[sys.argv[1]])
    threads, d_model, d_ff, n_tokens, n_copies = map(int, sys.argv[2:7])
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    matrix = d_model * d_ff
    data = torch.from_file(sys.argv[7], size=3 * matrix + n_tokens * d_model)
    gate = data[:matrix].view(d_ff, d_model).to(dtype)
    up = data[matrix:2 * matrix].view(d_ff, d_model).to(dtype)
    down = data[2 * matrix:3 * matrix].view(d_model, d_ff).to(dtype)
    x = data[3 * matrix:].view(n_tokens, d_model).to(dtype)
    copies = [(gate.clone(), up.clone(), down.clone()) for _ in range(n_copies)]
    del gate, up, down
    linear, relu = torch.nn.functional.linear, torch.relu
    turn, y = 0, None

    def call():
        nonlocal turn, y
        gate, up, down = copies[turn % n_copies]
        turn += 1
        y = linear(relu(linear(x, gate)) * linear(x, up), down)

    for _ in range(2 + n_copies):
        call()
    print("ready", torch.__version__, flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "round":
            times, wanted, end = [], int(words[1]), time.perf_counter() + float(words[2])
            call()
            while len(times) < wanted if wanted else len(times) < 2 or time.perf_counter() < end:
                start = time.perf_counter_ns()
                call()
                times.append(time.perf_counter_ns() - start)
            print(*times, flush=True)
        else:
            with open(words[1], "wb") as f:
                f.write(bytes(y.float().contiguous().untyped_storage()))  # tensors have numpy() only where NumPy is
            print("ok", flush=True)


main()
