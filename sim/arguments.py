"""Flags that several commands of `python -m sim` share (trace, seeds, policies, settings, cluster), what is made of
them, and how a command ends.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import fields
from typing import NoReturn, TypeAlias

from fastserve.atomic_files import OutputError
from fastserve.cli.arguments import add_rows, add_settings
from fastserve.cli.seeding import add_seeding, source_from
from fastserve.cli.trace_arguments import add_reading, reading_of
from fastserve.metrics.groups import KINDS
from fastserve.policies.spec import PolicySpec, told_apart
from fastserve.routers import RouterError
from fastserve.sched.errors import ObserverError, PolicyError
from fastserve.workload import Trace, TraceError, read_trace
from fastserve.workload.seeds import SeedSource
from sim.cluster.arguments import add_cluster
from sim.cluster.settings import FIELDS as CLUSTER
from sim.replay import RunError, told
from sim.report.columns import ALL, DEFAULT, NAMED, WIDER
from sim.settings import OTHER_NAMES, Settings

POLICIES = ("fcfs", "sj-mlfq")
"""What is compared where nobody names a policy."""


class Parser(argparse.ArgumentParser):
    """Errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists everything)\n")


Group: TypeAlias = "argparse._ArgumentGroup"


def add_inputs(parser: argparse.ArgumentParser, settings: Callable[[Group], Group] = lambda group: group) -> None:
    """TRACE, policies, settings, cluster and how the trace is read: all that a run is of, but its seeds.

    settings: wraps the groups of settings, for a command that takes them otherwise.
    """
    parser.add_argument("trace", nargs="?", help="trace file; the format is detected")
    add_seeding(parser)
    add_rows(parser.add_argument_group("policies (repeat for several)"))
    one = [field.name for field in fields(Settings) if field.name not in CLUSTER]
    add_settings(settings(parser.add_argument_group("settings")), Settings, one, others=OTHER_NAMES)
    add_cluster(settings(parser.add_argument_group("several replicas behind a router")))
    trace = parser.add_argument_group("trace")
    trace.add_argument("--num-requests", "--num-prompts", type=int, metavar="N", help="use the first N rows")
    trace.add_argument(
        "--from", dest="start", type=float, default=0.0, metavar="S", help="use the rows from this second on (all)"
    )
    trace.add_argument("--for", dest="duration", type=float, metavar="S", help="use this many seconds")
    add_reading(trace)
    trace.add_argument(
        "--arrivals",
        metavar="SPEC",
        help="for lengths without arrivals: poisson, gamma:cv=4, mmpp:rates=1/5,stay=60/20, ... (sim.trace synthesise)",
    )
    trace.add_argument(
        "--lengths", metavar="SPEC", help="for client rates without lengths: profile:sharegpt, lognormal:..., zipf:..."
    )


def add_seeds(parser: argparse._ActionsContainer, default: int = 1) -> None:
    parser.add_argument(
        "--seeds",
        type=int,
        default=default,
        metavar="N",
        help="seeds 0 to N-1, from 4 on with an interval; seed 0 of a trace is the trace as it is (%(default)s)",
    )


def add_show(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--show",
        metavar="COLUMN[,...]",
        help=f"columns of the table: measures by name, or groups of them: {', '.join([DEFAULT, WIDER, ALL, *NAMED])}",
    )


def add_by(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--by",
        metavar="KIND[,...]",
        help=f"a table per group of requests: by {', '.join(KINDS)}; client:20 are the twenty largest and the rest, "
        "length:8 eight parts of equally many, length:log2 powers of two",
    )


def settings_of(args: argparse.Namespace) -> Settings:
    """All but the router, of which there may be several."""
    return Settings(**{field.name: getattr(args, field.name) for field in fields(Settings) if field.name != "router"})


def policies_of(args: argparse.Namespace, default: Sequence[str] = POLICIES) -> list[PolicySpec]:
    """The rows, told apart."""
    return told_apart(args.policies or [PolicySpec(name) for name in default])


def check_seeds(args: argparse.Namespace) -> None:
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: give at least 1")


def source_of(args: argparse.Namespace, settings: Settings) -> SeedSource:
    """Where each seed takes its requests: --synth, or the trace file. Raises ValueError, TraceError."""
    return source_from(args, lambda rows: read(args, settings, rows), num_requests=args.num_requests, seeds=args.seeds)


def read(args: argparse.Namespace, settings: Settings, num_requests: int | None) -> Trace:
    """The trace file, its first so many rows or all."""
    return read_trace(
        args.trace,
        **reading_of(args),
        rate=settings.rate or (1.0 if settings.load else None),
        arrivals=args.arrivals,
        lengths=args.lengths,
        start_s=args.start,
        duration_s=args.duration,
        num_requests=num_requests,
    )


def guarded(work: Callable[[], int], prog: str = "python -m sim") -> int:
    """Exit code of `work`: 1 for a policy, router or observer that broke, 2 for what was given wrongly, each with one
    line on stderr.
    """
    try:
        return work()
    except (PolicyError, RouterError, ObserverError) as error:
        return failed(told(error), 1, prog)
    except RunError as error:
        return failed(str(error), 1, prog)
    except BrokenExecutor:
        return failed("a worker process died, perhaps for want of memory; try --processes 1", 1, prog)
    except BrokenPipeError:  # the reader, such as head, has gone; what is still in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (TraceError, ValueError, OSError, OutputError) as error:
        return failed(str(error), 2, prog)
    except KeyboardInterrupt:
        return failed("interrupted before any run had begun", 130, prog)


def failed(why: str, status: int, prog: str = "python -m sim") -> int:
    print(f"{prog}: {' '.join(why.split())}", file=sys.stderr)
    return status
