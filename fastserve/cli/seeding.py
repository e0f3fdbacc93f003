"""Where the requests of each seed come from: --synth and --resample, for every command that takes a trace."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve.workload import Trace
    from fastserve.workload.seeds import SeedSource

HOW = ("blocks", "windows", "pairs")
"""workload.seeds.RESAMPLES, which a command line that only shows its help should not import."""

OF_FILES = {
    "columns": "columns", "time_unit": "time-unit", "lenient": "lenient", "start": "from", "duration": "for",
    "arrivals": "arrivals", "lengths": "lengths",
}  # fmt: skip
"""How a file is read: destination -> flag."""


def add_seeding(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--synth",
        metavar="SPEC",
        help="a synthetic workload instead of a trace, each seed a draw of its own: n=1000,rate=2,arrivals=gamma:cv=4,"
        "lengths=profile:azure-conv-2023, prompt= and output= for one side, priorities=, clients=, "
        "classes= (recipes: python -m sim.trace synthesise --help); "
        "or agents:programs=36,turns=lognormal:2.9,0.6,4,60,... (keys: fastserve/workload/agents.py)",
    )
    parser.add_argument(
        "--resample",
        choices=HOW,
        default=HOW[0],
        help="how seeds other than 0 take their requests from a trace: blocks of successive ones put together (block "
        "bootstrap), other windows of it (--num-requests long, else its equal parts), or pairs (re-pairing: the same "
        "arrivals, the requests behind them permuted) (default: %(default)s)",
    )


def source_from(
    args: argparse.Namespace,
    read: Callable[[int | None], Trace],
    *,
    num_requests: int | None = None,
    seeds: int = 1,
) -> SeedSource:
    """What --synth or the trace file says. read: reads args.trace, its first so many rows or all.

    Raises ValueError for both or neither, and for flags that the one given cannot have; TraceError.
    """
    from fastserve.workload.seeds import source_of

    if args.synth is None and args.trace is None:
        raise ValueError("give a trace file, or a synthetic workload: --synth n=1000,rate=2")
    if args.synth is not None:
        if args.trace is not None:
            raise ValueError(f"--synth {args.synth} and the trace {args.trace}: give one of the two")
        odd = [flag for name, flag in OF_FILES.items() if getattr(args, name, None)]
        if odd:
            raise ValueError(f"--{odd[0]} is about reading a trace file: a synthetic workload has all in --synth")
        return source_of(None, args.synth, num_requests=num_requests)
    trace = read(None if args.resample == "windows" else num_requests)
    return source_of(trace, resample=args.resample, num_requests=num_requests, seeds=seeds)
