"""How a trace is read, for every command that takes one: the flags, and what is told of the reading."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from fastserve.hardware import load_hardware

if TYPE_CHECKING:
    from fastserve.workload import Trace

WIDTH = 100
UNITS = ("s", "ms", "us", "ns")
"""Those of workload.reader.parse, which a command line that only shows its help should not import."""


def add_reading(parser: argparse._ActionsContainer) -> None:
    """--columns, --time-unit and --lenient."""
    parser.add_argument(
        "--columns",
        metavar="SPEC",
        help="which column is what, where names are not recognised: arrival=ts:ms,prompt=a+b,output=c; "
        "priority= leaves one out",
    )
    parser.add_argument("--time-unit", choices=UNITS, help="unit of the arrivals, where the file does not tell")
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="drop and count invalid rows, up to 5 %%, instead of stopping at the first",
    )


def reading_of(args: argparse.Namespace) -> dict[str, Any]:
    """These flags as read_trace() takes them."""
    return {"columns": args.columns, "time_unit": args.time_unit, "lenient": args.lenient}


def told(trace: Trace, machine: str | None = None) -> list[str]:
    """What was read as what, for the lines above a result. machine: a latency model's name, for its context."""
    lines = [] if trace.reading is None else trace.reading.lines()
    longer = None if machine is None else beyond_context(trace, machine)
    return [
        part
        for line in lines + ([longer] if longer else [])
        for part in textwrap.wrap(f"{trace.name}: {line}", WIDTH, subsequent_indent="  ", break_long_words=False)
    ]


def tell(trace: Trace) -> None:
    """The same on stderr, for a command whose output is for another program."""
    for line in told(trace):
        print(line, file=sys.stderr)
    sys.stderr.flush()


def too_long(trace: Trace, machine: str) -> int:
    """Requests whose prompt and output exceed the context of the machine's model; 0 where that is not known."""
    from fastserve.workload.requests import outputs_of

    context = load_hardware(machine).context
    if context is None:
        return 0
    lengths = zip(trace.prompt.tolist(), outputs_of(trace), strict=True)
    return sum(prompt + output > context for prompt, output in lengths)


def beyond_context(trace: Trace, machine: str) -> str | None:
    """A sentence where there are such requests."""
    found = too_long(trace, machine)
    if not found:
        return None
    return (
        f"{found:,} of {len(trace):,} requests are longer than the context of {machine}'s model, "
        f"{load_hardware(machine).context:,} tokens: the modelled machine serves them, the model could not"
    )
