#!/usr/bin/env python3
"""heldout.py  Token ids for `sffn eval --tokens`: windows spread evenly over a held-out text, as examples/models/heldout.json has them.

    PYTHONPATH=bindings/python python3 examples/training/heldout.py corpus/heldout.xz --tokenizer MODEL/tokenizer.json -o examples/models/heldout.json
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from sparseffn.torch.data import read_documents, tokenize
from sparseffn.torch.files import load_tokenizer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", nargs="+", metavar="TEXT", help="UTF-8, plain or .xz; zero bytes separate documents")
    parser.add_argument("--tokenizer", required=True, metavar="FILE", help="tokenizer.json, a folder that has one, or a GGUF file")
    parser.add_argument("--bos", type=int, default=0, metavar="ID", help="put before each document (0)")
    parser.add_argument("--window", type=int, default=512, metavar="N", help="tokens of a window (512)")
    parser.add_argument("--windows", type=int, default=16, metavar="N", help="how many (16)")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    ids = tokenize(load_tokenizer(args.tokenizer), read_documents(args.text), args.bos, seed=1)
    n = len(ids) // args.window
    if n < args.windows:
        print(f"heldout.py: the text has {len(ids)} tokens, which is {n} windows of {args.window}; {args.windows} were asked for", file=sys.stderr)
        return 1
    picked = ids[: n * args.window].reshape(n, args.window)[:: n // args.windows][: args.windows]
    args.out.write_text("[\n" + textwrap.fill(", ".join(str(i) for i in picked.flatten()), 130) + "\n]\n")
    print(f"{args.out}: {picked.size} of {len(ids)} tokens, {args.windows} windows of {args.window}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
