"""``python -m sparseffn info [--json] [--threads N] [--max-isa NAME]``: what this installation is and got."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

import numpy

from . import Context, SparseffnError, __version__, isas, library_path, library_version


def _info(arguments: argparse.Namespace) -> None:
    with Context(arguments.threads, max_isa=arguments.max_isa) as context:
        facts: dict[str, Any] = {
            "package_version": __version__,
            "library_version": library_version,
            "library_path": library_path,
            "python_version": sys.version.split()[0],
            "numpy_version": numpy.__version__,
            **asdict(context.info),
            "isas": [name for name, is_supported in isas().items() if is_supported],
            "kernels": context.kernels,
        }
    if arguments.json:
        print(json.dumps(facts))
        return
    for key, value in facts.items():
        if key == "kernels":
            print("kernels:")
            print("".join(f"  {name}\n" for name in value), end="")
        else:
            print(f"{key + ':':<20}{' '.join(value) if isinstance(value, list) else value}")


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 when the library refuses; a wrong usage exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m sparseffn", description="Python binding of libsparseffn")
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="versions, CPU features, kernels, topology, page sizes")
    info.add_argument("--json", action="store_true", help="one object on one line")
    info.add_argument("--threads", type=int, default=1, help="threads per call, 0: all (default 1)")
    info.add_argument("--max-isa", help="cap of the ISA")
    arguments = parser.parse_args(argv)
    try:
        _info(arguments)
    except (SparseffnError, ValueError) as e:
        print(f"sparseffn: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
