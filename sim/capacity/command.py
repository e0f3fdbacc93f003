"""python -m sim capacity TRACE --policy ... --slo ttft=1s,tpot=0.1s: the largest load that meets an objective."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fastserve.atomic_files import check_writable
from fastserve.cli.trace_arguments import told as read_as
from sim.arguments import (
    Parser,
    add_inputs,
    add_seeds,
    check_seeds,
    failed,
    guarded,
    policies_of,
    settings_of,
    source_of,
)
from sim.capacity.find import ATTAIN, HIGHEST, LOWEST, SEEDS, TOLERANCE, capacity
from sim.capacity.result import Capacity
from sim.settings import Settings
from sim.sweep.pool import add_pool
from sim.told import told_first

PROG = "python -m sim capacity"


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROG,
        description="The largest load, and rate, at which enough requests meet their objectives, for each policy, with "
        "an interval over seeds.",
        epilog=f"--slo says the objectives, and with attain=SHARE how many requests must meet all theirs ({ATTAIN:g})",
    )
    add_inputs(parser)
    search = parser.add_argument_group("what is looked for")
    search.add_argument(
        "--lowest", type=float, default=LOWEST, metavar="LOAD", help="the first load that is tried (%(default)s)"
    )
    search.add_argument(
        "--highest", type=float, default=HIGHEST, metavar="LOAD", help="no load above this is tried (%(default)s)"
    )
    search.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="SHARE", help="how closely, relative (%(default)s)"
    )
    output = parser.add_argument_group("runs and output")
    add_seeds(output, SEEDS)
    add_pool(output, "searches")
    output.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    output.add_argument("--out", metavar="DIR", help="a file a search there; a second run goes on from them")
    output.add_argument(
        "--plot",
        nargs="?",
        const="",
        metavar="DIR",
        help="draw attainment against load (into --out, else here); takes about as many runs again",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser().parse_args(given[1:] if given[:1] == ["capacity"] else given)
    return guarded(lambda: run(args), PROG)


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    check_seeds(args)
    plots = None if args.plot is None else Path(args.plot or args.out or ".")
    for path in outputs(args, plots):
        check_writable(path)
    source = source_of(args, Settings(load=1.0))
    sample = source.typical() if source.recipe is None else source.at_rate(1.0).trace(0)
    told = [*told_first(settings, sample), *read_as(sample, settings.latency)]
    if not args.json:
        print(*told, sep="\n", end="\n" if told else "", flush=True)
    found = capacity(
        source, policies_of(args), settings=settings, router=args.routers, seeds=args.seeds, lowest=args.lowest,
        highest=args.highest, tolerance=args.tolerance, jobs=args.jobs, pool=args.pool, address=args.address,
        out=args.out,
    )  # fmt: skip
    found.reading = told
    if plots is not None and not found.interrupted:
        try:
            found.curve()
        except KeyboardInterrupt:
            deliver(args, found, None)
            return failed("interrupted in the runs of the figure, which is not drawn; the loads are found", 130, PROG)
        if args.out:
            found.save(args.out)  # with the runs of the curve
    deliver(args, found, None if found.interrupted else plots)
    if not found.interrupted:
        return 0
    again = "; the same command goes on from there" if args.out else ""
    return failed(f"interrupted; {len(found.found)} of {found.planned} searches were finished{again}", 130, PROG)


def outputs(args: argparse.Namespace, plots: Path | None) -> list[Path]:
    """The output files, to be checked before the run."""
    paths = [Path(args.out) / "summary.json"] if args.out else []
    return paths if plots is None else [*paths, plots / "capacity.pdf"]


def deliver(args: argparse.Namespace, found: Capacity, plots: Path | None) -> None:
    """Draws, and prints the result even if the figure cannot be written."""
    written: list[Path] = []
    try:
        if plots is not None:
            from sim.capacity.plot import draw

            written = draw(found, plots)
    finally:
        if args.json:
            print(json.dumps(found.document(), indent=1))
        else:
            print(found.table(), end="")
        sys.stdout.flush()
    if args.out and not found.interrupted:
        written = [Path(args.out) / "summary.json", *written]
    if written:
        print(f"wrote {', '.join([str(path) for path in written])}", file=sys.stderr)
