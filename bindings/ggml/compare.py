"""The same prompts through llama.cpp as it is and with the backend, in one process: are the tokens the same, and how fast are they?

  compare.py BACKEND.so MODEL.gguf [--tokens IDS.json | --prompt TEXT] [-n 64] [--prompts 4] [--threads 1 2] [--rounds 3] [--check]

Both contexts read the same weights, and rounds alternate. The stock engine decodes greedily; the other follows its text and says which token it would have taken. With
--check the exit status is 1 unless that is always the same one, and the library runs all layers. The environment variables of README.md apply.
"""

import argparse
import ctypes
import json
import os
import statistics
import sys
import time

import numpy as np

import llama_cpp as L


def load_backend(path):
    """ggml_backend_load() of the ggml that llama_cpp uses."""
    ggml = ctypes.CDLL(os.path.join(os.path.dirname(L.__file__), "lib", "libggml.so"))
    ggml.ggml_backend_load.restype = ctypes.c_void_p
    if not ggml.ggml_backend_load(os.path.abspath(path).encode()):
        sys.exit(f"{path} was refused; see ggml's log above")
    return ctypes.CDLL(os.path.abspath(path))


def report(backend):
    backend.sffn_ggml_report.restype = ctypes.c_size_t
    size = backend.sffn_ggml_report(None, ctypes.c_size_t(0)) + 1
    text = ctypes.create_string_buffer(size)
    backend.sffn_ggml_report(text, ctypes.c_size_t(size))
    return json.loads(text.value)


class Stream:
    """A context of the model, decoding greedily."""

    def __init__(self, model, n_ctx, n_threads):
        params = L.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_threads = params.n_threads_batch = n_threads
        self.context = L.llama_init_from_model(model, params)
        if not self.context:
            sys.exit("llama.cpp made no context")
        self.n_vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))

    def decode(self, ids):
        array = (L.llama_token * len(ids))(*ids)
        if L.llama_decode(self.context, L.llama_batch_get_one(array, len(ids))) != 0:
            sys.exit("llama_decode failed")
        return np.ctypeslib.as_array(L.llama_get_logits_ith(self.context, -1), (self.n_vocab,))

    def generate(self, prompt, n, n_threads, text=None):
        """Tokens taken, seconds per token, and how far the first two logits were apart. The text goes on with `text`, or with the tokens taken."""
        L.llama_memory_clear(L.llama_get_memory(self.context), True)
        L.llama_set_n_threads(self.context, n_threads, n_threads)
        logits = self.decode(prompt)
        spent, tokens, gaps = 0.0, [], []
        for i in range(n):
            tokens.append(int(logits.argmax()))
            second, first = np.partition(logits, -2)[-2:]
            gaps.append(float(first - second))
            start = time.perf_counter()
            logits = self.decode([text[i] if text else tokens[i]])
            spent += time.perf_counter() - start
        return tokens, spent / n, gaps


def tokenize(model, text):
    ids = (L.llama_token * (len(text) + 8))()
    data = text.encode()
    n = L.llama_tokenize(L.llama_model_get_vocab(model), data, len(data), ids, len(ids), True, False)
    return list(ids[:n])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend")
    parser.add_argument("model")
    parser.add_argument("--tokens", help="JSON list of token ids; prompts are taken from its beginning")
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--prompts", type=int, default=4, help="how many prompts of 32 ids from --tokens")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--report", action="store_true", help="print the backend's report")
    parser.add_argument("--no-repack", action="store_true", help="use_extra_bufts = false")
    parser.add_argument("-v", "--verbose", action="store_true")
    args = parser.parse_args()

    quiet = L.llama_log_callback(lambda level, text, user: args.verbose and sys.stderr.write(text.decode(errors="replace")))
    loud = L.llama_log_callback(
        lambda level, text, user: sys.stderr.write(text.decode(errors="replace")) if args.verbose or text.startswith(b"sparseffn") else None
    )
    L.llama_log_set(quiet, None)
    L.llama_backend_init()
    params = L.llama_model_default_params()
    if args.no_repack:
        params.use_extra_bufts = False
    model = L.llama_model_load_from_file(args.model.encode(), params)
    if not model:
        sys.exit(f"llama.cpp does not load {args.model} (-v shows why)")
    if args.tokens:
        with open(args.tokens) as file:
            ids = json.load(file)
        ids = ids["tokens"] if isinstance(ids, dict) else ids
        prompts = [ids[i * 512 : i * 512 + 32] for i in range(args.prompts)]
    else:
        prompts = [tokenize(model, text) for text in args.prompt or ["The capital of France is"]]
    n_ctx = max(map(len, prompts)) + args.n + 8

    stock = Stream(model, n_ctx, max(args.threads))  # a context has the backends that were there when it was made
    L.llama_log_set(loud, None)
    backend = load_backend(args.backend)
    ours = Stream(model, n_ctx, max(args.threads))
    n_tokens, differing = 0, []
    for n_threads in args.threads:
        seconds = {"stock": [], "backend": []}
        for _ in range(args.rounds):
            for prompt in prompts:
                expected, stock_time, gaps = stock.generate(prompt, args.n, n_threads)
                tokens, time_, _ = ours.generate(prompt, args.n, n_threads, expected)
                seconds["stock"].append(stock_time)
                seconds["backend"].append(time_)
                n_tokens += args.n
                differing += [gap for token, other, gap in zip(tokens, expected, gaps) if token != other]
        rates = {name: 1 / statistics.median(s) for name, s in seconds.items()}
        print(
            f"{n_threads} threads: "
            + ", ".join(f"{name} {rates[name]:.1f} tokens/s ({1 / max(s):.1f} to {1 / min(s):.1f})" for name, s in seconds.items())
            + f", {rates['backend'] / rates['stock']:.2f}x"
        )
    state = report(backend)
    sparse = [layer for layer in state["layers"] if layer["path"] == "sparse" and layer.get("n_calls")]
    for layer in state["layers"]:
        if layer["path"] != "sparse":
            print(f"{layer['name']}: dense in ggml: {layer['reason']}")
    density = statistics.mean(layer["density"] for layer in sparse) if sparse else 0
    print(
        f"{len(sparse)} of {len(state['layers'])} layers run by the library, {state['packed_bytes'] / 1e6:.1f} MB packed, "
        f"{100 * density:.1f} % of the neurons active"
    )
    print(
        f"{n_tokens - len(differing)} of {n_tokens} tokens are the same"
        + (f"; where they differ, the stock's first two logits were at most {max(differing):.3f} apart" if differing else "")
    )
    if args.report:
        print(json.dumps(state, indent=1))
    L.llama_free(ours.context)
    L.llama_free(stock.context)
    L.llama_model_free(model)
    return 0 if not args.check or (not differing and len(sparse) == len(state["layers"])) else 1


if __name__ == "__main__":
    sys.exit(main())
