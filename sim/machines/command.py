"""python -m sim.machines: which machines there are, what one is, and how to make one's own.

python -m sim.machines list                                        models, devices, presets
python -m sim.machines show roofline:llama-3.3-70b/h100*8          sizes, pool, link, times
python -m sim.machines make OUT.json --config config.json --device h100 --tp 4
python -m sim.machines make OUT.json --points measured.csv         times as measured
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fastserve.atomic_files import check_writable
from fastserve.hardware import load_hardware
from sim.arguments import Parser, guarded
from sim.machines.listing import listed, listing
from sim.machines.making import add_making, made
from sim.machines.showing import BATCHES, CONTEXT, showing, shown


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sim.machines",
        description="The modelled machines: which there are, what one is, and how to make one of your own.",
        epilog="docs/machines.md tells what the numbers mean, how far they are off, and has the keys of the JSON",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | show | make")
    every = commands.add_parser("list", help="models, devices and presets, with what they come from")
    every.add_argument("--sources", action="store_true", help="where each number stands")
    every.add_argument("--json", action="store_true", help="as one JSON document")
    one = commands.add_parser("show", help="sizes, pool, link and times of one that --latency takes")
    one.add_argument("name", help="a preset, roofline:MODEL/DEVICE, or a JSON file")
    one.add_argument(
        "--context", type=int, default=CONTEXT, metavar="N", help="tokens of each decoding job (%(default)s)"
    )
    one.add_argument(
        "--batch", default=",".join(map(str, BATCHES)), metavar="N,N", help="decoding jobs at once (%(default)s)"
    )
    one.add_argument("--json", action="store_true", help="as one JSON document")
    add_making(commands.add_parser("make", help="write a JSON file that --latency takes"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser().parse_args(given[1:] if given[:1] == ["machines"] else given)
    return guarded(lambda: run(args), "python -m sim.machines")


def run(args: argparse.Namespace) -> int:
    if args.command == "list":
        print(json.dumps(listed(), indent=1) if args.json else listing(args.sources), end="\n" if args.json else "")
    elif args.command == "show":
        if args.context < 1:
            raise ValueError(f"--context {args.context}: give at least 1")
        found = shown(load_hardware(args.name), args.context, _batches(args.batch))
        print(json.dumps(found, indent=1) if args.json else showing(found), end="\n" if args.json else "")
    else:
        path = Path(args.out)
        check_writable(path)
        hardware, told = made(args)
        hardware.save(path)
        print(*told, f"wrote {path}; use it with --latency {path}", sep="\n", file=sys.stderr)
        print(showing(shown(hardware)), end="")
    return 0


def _batches(text: str) -> list[int]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = [0]
    if min(batches) < 1:
        raise ValueError(f"--batch {text}: give whole numbers above 0 with commas between, such as 1,8,32")
    return batches
