"""python -m sim.trace: describe, convert, synthesise and rescale traces.

    python -m sim.trace describe TRACE...                       statistics
    python -m sim.trace convert TRACE OUT --format mooncake     another format, a window, the first N
    python -m sim.trace synthesise OUT -n 1000 --rate 5.53      arrivals and lengths from distributions
    python -m sim.trace synthesise OUT --synth agents:          programs of turns
    python -m sim.trace rescale TRACE OUT --rate 8              the same gaps, stretched

OUT may be - for the standard output. Errors are one line on stderr, exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final, NoReturn

from fastserve.cli.trace_arguments import add_reading, beyond_context, reading_of, tell, too_long
from fastserve.hardware import load_hardware
from fastserve.workload import Trace, TraceError, describe, profile_names, read_trace, synthesise, write_trace
from fastserve.workload.arrivals import EXAMPLES
from fastserve.workload.seeds import recipe_of
from fastserve.workload.statistics import Description, Lengths, Programs, Promised, Times
from fastserve.workload.synthesis import Synthesis
from fastserve.workload.write import FORMATS, lines

DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in fields(Synthesis)}
OTHERWISE: Final = {"n": "num_requests"}
"""Key of a synthetic workload -> the flag that says the same, where it has another name."""


class _Parser(argparse.ArgumentParser):
    """Errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows the options)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 when something in the command or in a file is wrong."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "describe":
            _describe(args)
        elif args.command == "synthesise":
            _write(_synthesised(args), args)
        else:
            trace = _read(args, args.trace)
            _write(trace, args)
            tell(trace)
        sys.stdout.flush()
    except (TraceError, ValueError, FileNotFoundError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output, such as head, has exited
        _silence_stdout()
    except OSError as error:
        print(f"standard output: cannot be written ({error.strerror})", file=sys.stderr)
        _silence_stdout()
        return 2
    return 0


def _synthesised(args: argparse.Namespace) -> Trace:
    given: dict[str, Any] = {
        key: value for key in DEFAULTS if (value := getattr(args, OTHERWISE.get(key, key))) is not None
    }
    if args.synth is not None:
        for key in given:
            flag = OTHERWISE.get(key, key).replace("_", "-")
            raise TraceError(f"--synth holds the {flag} too; give --{flag} without --synth, or {key}= within it")
        return recipe_of(args.synth).trace(args.seed)
    if args.rate is None:
        raise TraceError("give --rate R (requests/s), or a whole workload with --synth")
    return synthesise(given.pop("n", DEFAULTS["n"]), seed=args.seed, **given)


def _silence_stdout() -> None:
    """Discards the buffer: the interpreter would flush it at exit and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m sim.trace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    command = commands.add_parser("describe", help="count, rate, burstiness, lengths, clients, dropped rows")
    command.add_argument("traces", nargs="+", metavar="TRACE")
    command.add_argument("--json", action="store_true", help="one JSON document, a list with one entry per trace")
    command.add_argument(
        "--latency", metavar="NAME", help="a machine: says which requests its model's context cannot hold"
    )
    _add_reading(command)

    command = commands.add_parser("convert", help="write a trace in our format or in Mooncake's")
    command.add_argument("trace", metavar="TRACE")
    _add_writing(command)
    _add_reading(command)

    command = commands.add_parser("rescale", help="stretch the gaps of a trace to a rate")
    command.add_argument("trace", metavar="TRACE")
    _add_writing(command)
    _add_reading(command, rate_required=True)

    command = commands.add_parser("synthesise", help="a trace from an arrival process and a distribution of lengths")
    _add_writing(command)
    command.add_argument(
        "-n", "--num-requests", "--num-prompts", type=int, metavar="N", help=f"(default: {DEFAULTS['n']})"
    )
    command.add_argument("--rate", "--request-rate", type=float, metavar="R", help="requests/s")
    command.add_argument(
        "--synth",
        metavar="SPEC",
        help="all of it in one, as python -m sim takes it: n=1000,rate=2,... or agents:programs=36,turns=...,think=... "
        "(fastserve/workload/agents.py lists the keys)",
    )
    command.add_argument("--arrivals", metavar="SPEC", help=f"{EXAMPLES} (default: {DEFAULTS['arrivals']})")
    command.add_argument(
        "--lengths",
        metavar="SPEC",
        help="prompt and output tokens: lognormal:MU,SIGMA,LO,HI, zipf:THETA,LO,HI, fixed:N or profile:NAME with NAME "
        f"one of {', '.join(profile_names())} (default: {DEFAULTS['lengths']})",
    )
    command.add_argument("--prompt", metavar="SPEC", help="distribution of prompt lengths alone")
    command.add_argument("--output", metavar="SPEC", help="distribution of output lengths alone")
    command.add_argument("--priorities", metavar="SPEC", help="PRIORITY:SHARE, ... as 0:0.8/1:0.15/2:0.05")
    command.add_argument("--clients", metavar="SPEC", help="zipf:n=20,s=1.1: client k of n sends a share as k^-s")
    command.add_argument(
        "--classes", metavar="SPEC", help="NAME:SHARE:OBJECTIVES, ... as chat:0.7:ttft=1s,tpot=0.1s/batch:0.3:e2e=60s"
    )
    command.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return parser


def _add_reading(command: argparse.ArgumentParser, rate_required: bool = False) -> None:
    group = command.add_argument_group("reading")
    add_reading(group)
    group.add_argument("--from", dest="start_s", type=float, default=0.0, metavar="S", help="window start (default: 0)")
    group.add_argument("--for", dest="duration_s", type=float, metavar="S", help="window length (default: to the end)")
    group.add_argument("--num-requests", "--num-prompts", type=int, metavar="N", help="the first N rows of the window")
    group.add_argument(
        "--rate",
        "--request-rate",
        type=float,
        required=rate_required,
        metavar="R",
        help="stretch the gaps to R requests/s",
    )
    group.add_argument("--arrivals", metavar="SPEC", help="arrivals of a set of lengths (default: poisson)")
    group.add_argument(
        "--lengths", metavar="SPEC", help="lengths of client rates that have none, e.g. profile:sharegpt"
    )
    group.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")


def _add_writing(command: argparse.ArgumentParser) -> None:
    command.add_argument("out", metavar="OUT")
    command.add_argument("--format", choices=FORMATS, default="ours", help="(default: %(default)s)")


def _read(args: argparse.Namespace, path: str) -> Trace:
    keys = ["rate", "arrivals", "lengths", "seed", "start_s", "duration_s", "num_requests"]
    return read_trace(path, **reading_of(args), **{key: getattr(args, key) for key in keys})


def _write(trace: Trace, args: argparse.Namespace) -> None:
    if args.out == "-":
        for line in lines(trace, args.format):
            print(line)
        return
    write_trace(trace, args.out, args.format)
    note = f"; dropped {_counts(trace.dropped)}" if trace.dropped else ""
    print(f"{args.out}: {len(trace):,} requests at {trace.rate:.4g} requests/s{note}", file=sys.stderr)


def _describe(args: argparse.Namespace) -> None:
    traces = [_read(args, path) for path in args.traces]
    if args.json:
        found = [_document(trace, args.latency) for trace in traces]
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    print("\n\n".join(_page(trace, describe(trace), args.latency) for trace in traces))


def _document(trace: Trace, latency: str | None) -> dict[str, object]:
    reading = None if trace.reading is None else asdict(trace.reading)
    beyond: dict[str, object] = {}
    if latency is not None:
        beyond = {"context": load_hardware(latency).context, "beyond_context": too_long(trace, latency)}
    return {"name": trace.name, "source": trace.source, **asdict(describe(trace)), **beyond, "reading": reading}


def _page(trace: Trace, found: Description, latency: str | None) -> str:
    def number(value: float | None, places: int = 2) -> str:
        return "-" if value is None else f"{value:,.{places}f}"

    page = [
        f"{trace.name}   ({trace.source})",
        f"  requests     {found.n:,} in {found.span_s:,.1f} s, {number(found.rate_rps, 3)} requests/s",
        f"  gaps         CV {number(found.gap_cv)}, D(10) {number(found.dispersion_10s, 1)}, "
        f"busiest minute {number(found.peak_60s)} x the mean"
        + (f", hour {number(found.peak_3600s)} x" if found.peak_3600s is not None else ""),
        f"  tokens       {'mean':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}",
    ]
    for side, tokens in (("prompt", found.prompt), ("output", found.output)):
        cells = (tokens.mean, tokens.p50, tokens.p90, tokens.p99, tokens.max)
        page.append(f"    {side:<11}" + "".join(f"{cell:>9,.0f}" for cell in cells))
    page.append(f"  rank corr.   {number(found.rank_correlation)} between prompt and output")
    if found.clients is None:
        page.append("  clients      not recorded")
    else:
        shares = ", ".join(f"{100 * rows / found.n:.0f}" for rows in list(found.clients.values())[:5])
        largest = f", the largest send {shares} % of the requests" if shares else ""
        page.append(f"  clients      {len(found.clients):,}{largest}{_unnamed(found.without_client)}")
    if found.priorities is not None:
        page += _wrapped(f"priorities {_shares(found.priorities, found.n)}; the smaller, the more urgent")
    if found.classes is not None:
        page += _classes(found.classes, found.n)
    if found.programs is not None:
        page.append(f"  programs     {found.programs:,}{_unnamed(found.without_program)}")
    if found.sessions is not None:
        page += _sessions(found.sessions)
    if found.block_ids is not None:
        page.append(f"  blocks       {found.block_ids:,} distinct ids of {trace.block_size} tokens")
    if found.unlimited_hit_rate is not None:
        share = 100 * found.unlimited_hit_rate
        page.append(f"  cache        an unlimited prefix cache would find {share:.1f} % of the prompt tokens")
    page.append(f"  dropped      {_counts(found.dropped) or 'none'}")
    if trace.reading is not None:
        page += [line for text in trace.reading.lines() for line in _wrapped(text)]
    if latency is not None:
        page += _wrapped(beyond_context(trace, latency) or f"context every request fits the model of {latency}")
    page.append(f"  digest       {found.digest}")
    return "\n".join(page)


def _shares(counts: Mapping[Any, int], n: int) -> str:
    told = [f"{name} {100 * rows / n:.3g} %" for name, rows in list(counts.items())[:8]]
    return ", ".join(told) + (f" and {len(counts) - 8:,} others" if len(counts) > 8 else "")


def _classes(found: Mapping[str, Promised], n: int) -> list[str]:
    """A line per class of service, and what its requests are promised."""
    lines: list[str] = []
    for name, of in list(found.items())[:8]:
        spans = {"ttft": of.ttft_s, "tpot": of.tpot_s, "e2e": of.e2e_s}
        told = [f"{key} {'-'.join(f'{time:g}' for time in sorted(set(span)))} s" for key, span in spans.items() if span]
        what = "classes" if name or len(found) > 1 else "objectives"
        lines.append(
            f"  {'' if lines else what:<13}{name or ('of no class' if len(found) > 1 else 'all')}: "
            f"{100 * of.n / n:.3g} %, {', '.join(told) or 'no objectives'}"
        )
    return lines + ([f"{'':<15}and {len(found) - 8:,} other classes"] if len(found) > 8 else [])


def _sessions(found: Programs) -> list[str]:
    """Lines on the programs of a trace whose requests wait for one another."""

    def line(what: str, of: Lengths | Times | None) -> list[str]:
        if of is None:
            return []
        cells = (of.mean, of.p50, of.p90, of.p99, of.max)
        places = 1 if isinstance(of, Times) else 0
        return [f"    {what:<11}" + "".join(f"{cell:>9,.{places}f}" for cell in cells)]

    lines = line("turns", found.turns) + line("1st prompt", found.first_prompt) + line("growth", found.growth)
    lines += line("think, s", found.think)
    if found.shrinking:
        lines.append(f"    {100 * found.shrinking:.1f} % of the turns have a shorter prompt than the one before")
    parts = []
    if found.forks or found.joins:
        parts.append(f"{found.forks:,} forks, {found.joins:,} joins")
    if found.tools:
        most = ", ".join(f"{name} {n:,}" for name, n in list(found.tools.items())[:5])
        parts.append(f"tools {most}" + (f" and {len(found.tools) - 5:,} others" if len(found.tools) > 5 else ""))
    return lines + ([f"    {'; '.join(parts)}"] if parts else [])


def _unnamed(requests: int) -> str:
    return f"; {requests:,} requests unnamed" if requests else ""


def _wrapped(text: str) -> list[str]:
    """A sentence of a reading, its first word as a heading where it is one of the page's."""
    head, _, rest = text.partition(" ")
    if head not in ("read", "ignored", "priorities"):
        head, rest = "note", text
    return textwrap.wrap(rest, 118, initial_indent=f"  {head:<13}", subsequent_indent=" " * 15, break_long_words=False)


def _counts(dropped: dict[str, int]) -> str:
    return ", ".join(f"{rows:,} {reason}" for reason, rows in dropped.items())


if __name__ == "__main__":
    sys.exit(main())
