#!/usr/bin/env python3
"""pack.py  Puts what run.py needs into folders p1, p2, ... of at most a given size, for a machine that takes only so much at a time.

    python3 examples/training/pack.py FILE... -o examples/training/data --limit-mb 28

A file that does not fit into the rest of a folder is cut; run.py stage joins it again. NAME=FILE gives a file another name.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--limit-mb", type=float, default=28, metavar="MB", help="MiB per folder (default 28)")
    args = parser.parse_args()
    limit = int(args.limit_mb * (1 << 20))
    for old in args.out.glob("p[0-9]*"):
        shutil.rmtree(old)
    part, room = 0, 0

    def next_part() -> Path:
        nonlocal part, room
        part, room = part + 1, limit - 4096
        folder = args.out / f"p{part}"
        folder.mkdir(parents=True)
        return folder

    folder = next_part()
    for item in args.files:
        name, _, file = item.rpartition("=")
        data = Path(file).read_bytes()
        name = name or Path(file).name
        if len(data) <= room:
            (folder / name).write_bytes(data)
            room -= len(data)
            continue
        pieces = 0
        while data:
            if room < 1 << 20:
                folder = next_part()
            (folder / f"{name}.{pieces:02}").write_bytes(data[:room])
            data, room, pieces = data[room:], room - len(data[:room]), pieces + 1
        (folder / f"{name}.last").write_text(f"{name} {pieces}\n")
    for i in range(1, part + 1):
        files = sorted((args.out / f"p{i}").iterdir())
        print(f"p{i}: {sum(f.stat().st_size for f in files):>11,} bytes  {' '.join(f.name for f in files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
