"""python -m sim sweep TRACE --policy ... --load 0.5:1.1:0.1: policies over a grid, as a table and curves."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from fastserve.atomic_files import check_writable
from fastserve.cli.trace_arguments import told as read_as
from fastserve.policies.spec import PolicySpec
from sim.arguments import (
    POLICIES,
    Group,
    Parser,
    add_inputs,
    add_seeds,
    check_seeds,
    failed,
    guarded,
    settings_of,
    source_of,
)
from sim.asked import routed
from sim.sweep.found import Found
from sim.sweep.grid import KINDS, given, grid, values_of
from sim.sweep.pool import add_pool
from sim.sweep.result import Sweep, drawn
from sim.sweep.run import swept
from sim.sweep.table import measures
from sim.sweep.values import HOW
from sim.told import told_first

PROG = "python -m sim sweep"
SEEDS = 5


class SeveralAction(argparse.Action):
    """--NAME and --no-NAME; both make an axis."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        no = [f"--no-{option[2:]}" for option in option_strings]
        super().__init__([*option_strings, *no], dest, nargs=0, default=options["default"], help=options["help"])

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        value = not str(option_string).startswith("--no-")
        before = getattr(namespace, self.dest)
        several = isinstance(before, list) or (isinstance(before, bool) and before is not self.default)
        found = [*(before if isinstance(before, list) else [before])] if several else []
        setattr(namespace, self.dest, [*found, value] if found and value not in found else value)


class Several:
    """A group of settings each of which takes one value or several."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def add_argument(self, *flags: str, **options: Any) -> None:
        name = options.get("dest") or flags[0].removeprefix("--").replace("-", "_")
        if options.get("action") is argparse.BooleanOptionalAction:
            options["action"] = SeveralAction
        elif name in KINDS and "action" not in options:
            choices = options.pop("choices", None)
            if choices is not None:
                options["metavar"] = "|".join(choices)
            options["type"] = _reader(name, options.pop("type", str))
        self.group.add_argument(*flags, **options)


def _reader(name: str, one: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            several = values_of(name, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        if several is not None:
            return several
        try:
            return one(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {WORDS.get(one, 'valid')}; {HOW}") from None

    return read


WORDS: dict[Any, str] = {int: "a whole number", float: "a number"}


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROG,
        description="Replay a trace under scheduling policies at each point of a grid of settings, over seeds. A "
        "setting that is given several values is an axis: --load 0.5:1.1:0.1 (both ends included), --max-batch 8,16; "
        "so is a knob of a policy: --policy mlfq --set ratio=2,4.",
        epilog="Ctrl-C keeps what is finished, and the same command with the same --out goes on from there; "
        "docs/sweep.md shows it all",
    )
    add_inputs(made, lambda group: cast("Group", Several(group)))
    output = made.add_argument_group("runs and output")
    add_seeds(output, SEEDS)
    output.add_argument(
        "--out", metavar="DIR",
        help="a folder: a file per run as soon as it is done, summaries.csv, summary.json and the curves; a second "
        "sweep into it computes only what is new (without it nothing is kept)",
    )  # fmt: skip
    output.add_argument(
        "--show",
        metavar="COLUMN,...",
        help="what the table and the curves show: measures of the summary, groups of them, all",
    )
    output.add_argument(
        "--plot",
        nargs="?",
        const="",
        metavar="DIR",
        help="draw the curves there (with --out they are in it, else here)",
    )
    output.add_argument(
        "--keep-records", action="store_true", help="with --out: the records of every run too, for Sweep.records()"
    )
    output.add_argument("--report", metavar="FILE", help="one HTML page to look at: tables, curves, crossings")
    output.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    add_pool(output, "runs", "all cores for large sweeps")
    return made


def main(arguments: Sequence[str]) -> int:
    """arguments: the word sweep first. Exit code: 1 where a policy broke at some point, 130 after Ctrl-C."""
    args = parser().parse_args(list(arguments)[1:])
    return guarded(lambda: run(args), PROG)


def run(args: argparse.Namespace) -> int:
    check_seeds(args)
    several = {name: getattr(args, name) for name in KINDS if isinstance(getattr(args, name, None), list)}
    axes = {name: values for name, values in several.items() if not KINDS[name].startswith("tuple")}
    for name, values in axes.items():
        setattr(args, name, values[0])
    base, axes = given(settings_of(args), axes)
    specs = args.policies or [PolicySpec(name) for name in POLICIES]
    made = grid(specs, routed(base, args.routers), axes, args.seeds)
    measures(Found({}, {}, {}), args.show)
    folder = _plots(args)
    if args.out:
        check_writable(Path(args.out) / "summary.json")
    if folder is not None:
        check_writable(folder / "curves.pdf")
    if args.report:
        check_writable(Path(args.report))
    source = source_of(args, base)
    sample = source.typical() if source.recipe is None else source.at_rate(1.0).trace(0)
    first = [*read_as(sample, base.latency), *told_first(base, sample)]
    if not args.json:
        print(*first, sep="\n", flush=True)
    sweep = swept(
        source, made, range(args.seeds),
        out=args.out, pool=args.pool, jobs=args.jobs, address=args.address, progress=True,
        keep_records=args.keep_records,
    )  # fmt: skip
    return deliver(args, sweep, folder)


def deliver(args: argparse.Namespace, sweep: Sweep, folder: Path | None) -> int:
    """Prints the result, even if it cannot be drawn."""
    written: list[Path] = []
    try:
        if folder is not None and sweep.rows and sweep.axis is not None:
            written = sweep.plot(folder, drawn(sweep, args.show))
        elif args.plot is not None and sweep.rows:
            print("no curves: nothing that varies is a number with two values or more", file=sys.stderr)
        if args.report and sweep.rows:
            print(f"wrote {sweep.report(args.report, args.show)}", file=sys.stderr)
    finally:
        print(
            json.dumps(sweep.document(), indent=1) if args.json else sweep.table(args.show),
            end="\n" if args.json else "",
        )
        sys.stdout.flush()
    if args.out or written:
        files = [path.name for path in written if path.suffix == ".png"]
        more = f", {', '.join(files)} (and .pdf)" if files else ""
        at = Path(args.out or folder or ".")
        kept = "summaries.csv, summary.json" if args.out and not sweep.interrupted else ""
        print(f"wrote {at}: {kept}{more}".replace(": ,", ":"), file=sys.stderr)
    if sweep.interrupted:
        done = f"{len(sweep.rows)} of {sweep.runs_planned} runs are finished"
        on = f"kept in {args.out}; the same command goes on from there" if args.out else "shown above; --out keeps them"
        return failed(f"interrupted; {done}, and {on}", 130, PROG)
    if sweep.failed:
        return failed(f"{len(sweep.failed)} of {sweep.runs_planned} runs failed. {sweep.failed[0]}", 1, PROG)
    return 0


def _plots(args: argparse.Namespace) -> Path | None:
    """Where curves are drawn: they are with --out, unless --plot names another folder."""
    where = args.plot or args.out
    return Path(where) if where else Path() if args.plot is not None else None
