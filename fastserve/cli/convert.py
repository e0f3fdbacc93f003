"""`fastserve convert`: a model in another format, for another backend, and how far its logits are from torch's."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from fastserve.backends.converters import FORMATS, converter
from fastserve.importing import extra
from fastserve.named_models import NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help=f"{', '.join(NAMES)}, a folder, a Hugging Face id, a GGUF file (as for --model)"
    )
    kinds = "; ".join(f"{name}: {one.about}, {', '.join(one.types)}" for name, one in FORMATS.items())
    parser.add_argument("--to", choices=tuple(FORMATS), default="gguf", help="format (default: gguf)")
    parser.add_argument(
        "--quantize", metavar="TYPE", help=f"type of the weights, by default the first of {kinds}".replace("%", "%%")
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="PATH", help="what to write (default: a name of its own here)"
    )
    parser.add_argument(
        "--source", type=Path, metavar="FOLDER",
        help="a checkout of llama.cpp, for its script (default: the sources of the installed version, fetched once)",
    )  # fmt: skip
    parser.add_argument("--no-check", action="store_true", help="do not compare logits with those of the torch backend")


def run(args: argparse.Namespace) -> int:
    """Converts and compares. Returns 0; 1 for a file whose logits are another model's; 2 if it cannot be made."""
    try:
        made = converter(args.to, args.quantize)(args.model, args.out, args.quantize, args.source)
    except ImportError as error:
        return _refuse(str(error))
    except (ValueError, OSError, MemoryError) as error:
        return _refuse(str(error))
    print(f"{made}: {_size(made) / 1e6:,.1f} MB")
    if args.no_check:
        return 0
    if find_spec("torch") is None:
        print(f"not compared: that takes torch ({extra('engine')})")
        return 0
    from fastserve.cli.convert_check import distance

    try:
        found = distance(args.model, str(made), FORMATS[args.to].backend)
    except (ValueError, OSError, MemoryError, ImportError) as error:
        print(f"not compared: {error}", file=sys.stderr)
        return 0
    print(found)
    if found.wrong:
        print("fastserve convert: error: these logits are another model's, so do not use it", file=sys.stderr)
        return 1
    return 0


def _size(made: Path) -> int:
    return sum(one.stat().st_size for one in ([made] if made.is_file() else made.rglob("*")) if one.is_file())


def _refuse(message: str) -> int:
    print(f"fastserve convert: error: {message}", file=sys.stderr)
    return 2
