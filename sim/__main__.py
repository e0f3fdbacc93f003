"""python -m sim TRACE --policy ... : replay a trace and print the table of completion times."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fastserve.atomic_files import check_writable
from fastserve.cli.explaining import add_explain, which, worth
from fastserve.cli.trace_arguments import told as read_as
from fastserve.hardware import presets
from fastserve.metrics.notable import notable
from fastserve.observers.named import check_apart, find
from fastserve.routers.spec import RouterSpec
from sim.arguments import (
    Parser,
    add_by,
    add_inputs,
    add_seeds,
    add_show,
    check_seeds,
    failed,
    guarded,
    policies_of,
    settings_of,
    source_of,
)
from sim.asked import check
from sim.cluster.settings import ROUTER
from sim.cluster.told import routers_told
from sim.inspect import Inspection
from sim.lives import Lives
from sim.notable import first_seed
from sim.replay import Observe, Result, replay
from sim.report.columns import shown
from sim.report.document import check_out, write_programs
from sim.report.groups import check_told, kinds
from sim.report.layout import WIDTH
from sim.report.page import Schedules
from sim.told import told_first

COMMANDS = {
    "describe": "sim.trace",
    "sweep": "sim.sweep.command",
    "capacity": "sim.capacity.command",
    "machines": "sim.machines.command",
}
"""A first word -> the module whose main(arguments) does it, the word among them; imported when it is asked for."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sim",
        description="Replay a trace of requests under scheduling policies, and compare their job completion times.",
        epilog=f"latency presets: {', '.join(presets())}, roofline:MODEL/DEVICE, or a JSON file "
        "(python -m sim.machines list); "
        "python -m sim describe TRACE tells what is in a trace, python -m sim sweep --help draws curves over a "
        "range of settings, python -m sim capacity --help finds the largest load for an objective",
    )
    add_inputs(parser)
    output = parser.add_argument_group("runs and output")
    add_seeds(output)
    add_show(output)
    add_by(output)
    output.add_argument(
        "--processes", type=int, metavar="N", help="worker processes (default: all cores for large runs)"
    )
    output.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    output.add_argument("--out", metavar="DIR", help="write run.json, records.parquet and summary.json there")
    output.add_argument("--csv", action="store_true", help="with --out: records.csv too")
    output.add_argument("--programs-csv", metavar="FILE", help="write a row per program, of runs of sessions")
    output.add_argument(
        "--plot", nargs="?", const="", metavar="DIR", help="draw the JCT CDF and bars (into --out, else here)"
    )
    output.add_argument(
        "--report", metavar="FILE", help="one HTML page to look at: table, curves, and the schedules of the first seed"
    )
    output.add_argument(
        "--timeline", metavar="FILE", help="Chrome trace of the first seed, a group per policy, for ui.perfetto.dev"
    )
    output.add_argument(
        "--iterations", metavar="FILE", help="a row per stretch of iterations (CSV) of the first policy and seed"
    )
    output.add_argument(
        "--route-log",
        metavar="FILE",
        help="what the first router saw and chose, first policy and seed; it can be replayed",
    )
    add_explain(output, "under each policy, first seed (in the --json document: explain)")
    output.add_argument(
        "--observer", action="append", default=[], metavar="MODULE:CLASS", help="your own, made fresh for each run"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS and not Path(given[0]).exists():
        of_command: Callable[[Sequence[str]], int] = importlib.import_module(COMMANDS[given[0]]).main
        return of_command(given)
    args = parser().parse_args(given)
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    check_seeds(args)
    if args.processes is not None and args.processes < 1:
        raise ValueError(f"--processes {args.processes}: give at least 1")
    shown(args.show)
    kinds(args.by)
    specs = policies_of(args)
    check(specs, [settings.with_(router=router) for router in args.routers or [None]])
    routers = args.routers or [RouterSpec(ROUTER)]
    closeup = Inspection(
        _path(args.timeline), _path(args.iterations), (), args.observer, _path(args.route_log), routers[0],
        rows=len(specs) * len(routers),
    )  # fmt: skip
    check_apart(args.timeline, args.iterations, args.programs_csv, args.route_log, args.report)
    schedules = Schedules(beside=closeup.observe) if args.report else None
    if args.route_log and not (settings.in_cluster or args.routers):
        raise ValueError("--route-log: there is no router here; give --replicas or --router")
    for name in args.observer:
        find(name)
    if args.out:
        check_out(Path(args.out))
    for path in outputs(args):
        check_writable(path)
    source = source_of(args, settings)
    lives = Lives(which(args.explain, source.jobs, len(specs) * len(routers)), closeup)
    closeup.jobs = lives.numbers
    sample = source.typical() if source.recipe is None else source.at_rate(1.0).trace(0)
    check_told(args.by, sample)
    first, reading = told_first(settings, sample), read_as(sample, settings.latency)
    if settings.in_cluster or args.routers:
        first += routers_told(routers, settings, sample)
    if args.programs_csv and not settings.in_sessions(sample):
        raise ValueError(
            "--programs-csv: no program of this trace waits for anything; --sessions N makes one of each request"
        )
    if not args.json:
        print(*first, *reading, sep="\n", flush=True)

    def runs(seeds: int, look: Observe) -> Result:
        return replay(
            source, specs, router=args.routers, seeds=seeds, settings=settings, processes=args.processes, observe=look
        )

    result = runs(args.seeds, closeup.observe if schedules is None else schedules.observe)
    result.schedules = schedules
    result.reading = [*reading, *first]
    lives.choose(result, lambda look: runs(1, look))
    deliver(args, result, closeup, lives)
    if not result.interrupted:
        return 0
    done = sum([not run.settings.get("interrupted") for run in result.runs])
    part = ", the last one only in part (its unfinished jobs are censored)" if done < len(result.runs) else ""
    what = ", and what is shown and written is from these" if result.runs else ", and nothing is written"
    return failed(f"interrupted; {done} of {result.planned} runs were finished{part}{what}", 130)


def outputs(args: argparse.Namespace) -> list[Path]:
    """The output files, to be checked before the run."""
    paths = [Path(args.out) / "summary.json"] if args.out else []
    if args.plot is not None:
        paths.append(_plots(args) / "jct_cdf.pdf")
    files = (args.timeline, args.iterations, args.programs_csv, args.route_log, args.report)
    return paths + [Path(name) for name in files if name]


def deliver(args: argparse.Namespace, result: Result, closeup: Inspection, lives: Lives) -> None:
    """Writes the files, and prints the result even if they cannot be written."""
    written: list[Path] = []
    remarks: list[str] = []
    try:
        if result.runs:
            files, remarks = closeup.write()
            written += files
            written += result.save(args.out, args.csv) if args.out else []
            written += [write_programs(Path(args.programs_csv), result.runs)] if args.programs_csv else []
            written += result.plot(_plots(args), args.by) if args.plot is not None else []
            written += [result.report(args.report, args.show)] if args.report else []
    finally:
        show(args, result, lives)
    for remark in remarks:
        print(remark, file=sys.stderr)
    if written:
        print(f"wrote {', '.join([str(path) for path in written])}", file=sys.stderr)


def show(args: argparse.Namespace, result: Result, lives: Lives) -> None:
    """On stdout: the table, the jobs worth a look and the lives asked for, or with --json one document of these."""
    records = first_seed(result.runs, result.settings)
    if args.json:
        told = {"notable": [job.document() for job in notable(records)]} | lives.document()
        print(json.dumps(result.document(args.by) | told, indent=1))
    else:
        print(result.table(args.show, args.by), end="")
        for line in worth(records, WIDTH):
            print(line)
        if args.explain:
            print(f"\n{lives.text()}", end="")
    sys.stdout.flush()


def _plots(args: argparse.Namespace) -> Path:
    return Path(args.plot or args.out or ".")


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


if __name__ == "__main__":
    sys.exit(main())
