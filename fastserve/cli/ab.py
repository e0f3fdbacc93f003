"""`fastserve ab`: live A/B comparison of policies: one trace, alternating order (A B, B A), compared pairwise.

Each run has a `fastserve serve` of its own and comes over HTTP; --offline: each has an engine in this process;
--backend vllm: each has a vLLM server.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve import predictors
from fastserve.atomic_files import OutputError, check_writable
from fastserve.backends.options import SECRETS
from fastserve.cli.ab_looks import Looks
from fastserve.cli.ab_programs import program_notes, program_rows, save_programs
from fastserve.cli.ab_vllm import VLLM, add_vllm, check_vllm, vllm_body
from fastserve.cli.arguments import (
    ENGINE_FLAGS,
    SLO_HELP,
    add_model_arguments,
    add_observer_arguments,
    add_rows,
    add_settings,
    body_of,
    flags,
    loading,
    options_of,
)
from fastserve.cli.explaining import add_explain
from fastserve.cli.profile import Bar
from fastserve.cli.seeding import add_seeding, source_from
from fastserve.cli.session_arguments import add_sessions, check_programs, sessions_of
from fastserve.cli.trace_arguments import add_reading, reading_of, tell
from fastserve.compare.contender import Contender, Server, VllmItself, its_own, lined_up
from fastserve.compare.subprocess_server import OURS
from fastserve.engine.config import EngineConfig
from fastserve.importing import missing
from fastserve.policies.in_words import fact_lines, policy_in_words
from fastserve.policies.spec import PolicySpec

if TYPE_CHECKING:
    from fastserve.compare.compare import Body, Comparison
    from fastserve.workload import Trace
    from fastserve.workload.seeds import SeedSource

REST = "the trace is --trace FILE; vLLM's own flags go behind --, with --backend vllm"
"""See fastserve.__main__."""

SHARES = (10, 25, 50, 75, 90, 95, 99)
"""Printed percentiles of the completion times."""


OBJECTIVES = (("TTFT p99", "p99_ttft_s"), ("goodput/s", "goodput_rps"), ("SLOs met", "slo_attainment"))
"""Heading and measure of the columns that there are where requests have objectives."""


class Lines:
    """Progress without a terminal: a line at the start of each run. A compare.Report."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, share: float, what: str) -> None:
        run = what.partition(", ")[0]
        if run != self.last:
            self.last = run
            print(run, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--trace", metavar="FILE", help="trace file; the format is detected")
    add_seeding(parser)
    add_reading(parser)
    add_rows(parser, Server)
    add(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="runs of each; at least 4 for an interval (default: %(default)s)",
    )
    add("--offline", action="store_true", help="run on engines in this process, without HTTP")
    add(
        "--start-timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="timeout of a server's start (default: %(default)g)",
    )
    add("--num-requests", type=int, metavar="N", help="use the first N requests of the trace")
    add("--rate", type=float, metavar="R", help="requests/s; the gaps of the trace are scaled")
    add(
        "--load",
        type=float,
        metavar="X",
        help="rate relative to what fcfs sustains, measured by one run with all requests at once",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="seed of the first round; round i has the requests of seed + i (0)",
    )
    add(
        "--predictor",
        default="oracle",
        metavar="NAME",
        help="output lengths for policies that need a guess: oracle, lognormal:SIGMA, constant:TOKENS, trace (its own "
        "column guess) or your own as module:Class (default: %(default)s)",
    )
    add("--slo", metavar="TEXT", help=SLO_HELP)
    add("--json", action="store_true", help="print one JSON document and nothing else")
    add("--out", metavar="FILE", help="write the document with every job's times there; scripts/draw_ab.py draws it")
    add_sessions(parser.add_argument_group("programs: requests of a trace that wait for the answers to others"))
    engine = parser.add_argument_group("engine")
    add_settings(engine, EngineConfig, ENGINE_FLAGS)
    engine.add_argument(
        "--latency", help="times for the policies: a preset, roofline or file (default: a stored profile)"
    )
    add_model_arguments(engine, also=(VLLM,))
    add_vllm(parser)
    looking = parser.add_argument_group(
        "what to look at, with --offline (the first run of each row; iterations: of the first)"
    )
    add_observer_arguments(looking)
    add_explain(looking, "under each policy")


def run(args: argparse.Namespace) -> int:
    """Prints the comparison. Returns 0, 1 if a run failed, 2 for invalid arguments, 130 after Ctrl-C."""
    try:
        from fastserve.compare.compare import CompareError, compare
        from fastserve.metrics.slo import Slo
        from fastserve.workload.requests import guesses_of
    except ImportError as error:
        return _refuse(missing(error, "server,bench"))
    failed = 0
    looks: Looks | None = None
    shown = sys.stderr.isatty()
    bar: Bar | Lines = Bar(shown and not args.json) if shown or args.json else Lines()
    try:
        coming = sessions_of(args)
        coming.check_rate(rate=args.rate, load=args.load)
        slo = None if args.slo is None else Slo.parse(args.slo)
        contenders = lined_up(_contenders(args))
        check_vllm(args, contenders)
        if args.load is not None and any(isinstance(one, Server) for one in contenders):
            raise ValueError("--load is relative to what fcfs sustains on our own server: give --rate with --url")
        if not args.offline and (args.timeline or args.iterations or args.observer or args.explain):
            raise ValueError("--timeline, --iterations, --explain and --observer need --offline: a server has its own")
        if not predictors.check(args.predictor):
            raise ValueError(f"--predictor {args.predictor}: give {predictors.KNOWN} or your own as module:Class")
        source = source_from(
            args, lambda rows: _read(args, rows), num_requests=args.num_requests, seeds=args.seed + args.rounds
        )
        if args.predictor == predictors.TRACE:
            predictors.make(args.predictor, 0, guesses_of(source.typical()))  # before anything is started
        sample = source.typical() if source.recipe is None else source.trace(args.seed)
        check_programs(args, coming.in_sessions(sample))
        if args.programs_csv:
            check_writable(Path(args.programs_csv))
        if not args.json:
            tell(source.typical())
            if coming.in_sessions(sample):
                print(textwrap.fill(coming.told(sample), 100, subsequent_indent="  "), file=sys.stderr)
            print(_first(args, contenders), file=sys.stderr, flush=True)
        looks = Looks(args, contenders, source.jobs) if args.offline else None
        body = _servers(args) if looks is None else _engine(args, source, looks)
        found = compare(
            body, source, contenders, rounds=args.rounds, rate=args.rate, load=args.load, seed=args.seed, slo=slo,
            report=bar,
        )  # fmt: skip
    except ImportError as error:
        return _refuse(missing(error, "server,bench"))
    except (ValueError, OSError, MemoryError, OutputError) as error:
        return _refuse(str(error))
    except CompareError as error:
        print(f"fastserve ab: {error}", file=sys.stderr)
        if error.found is None:
            return 1
        found, failed = error.found, 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        bar.close()
        if looks is not None:
            looks.close()
    try:
        if args.out is not None:
            Path(args.out).write_text(json.dumps(found.document(jobs=True)) + "\n", encoding="utf-8")
        if args.programs_csv:
            save_programs(Path(args.programs_csv), found)
    except OSError as error:
        return _refuse(f"{args.out} cannot be written: {error.strerror}")
    except OutputError as error:
        return _refuse(str(error))
    if args.json:
        print(json.dumps(found.document() | ({} if looks is None else looks.document(found)), indent=1))
    else:
        print(text(found) if looks is None else f"{text(found)}\n{looks.text(found)}".rstrip())
    for warning in found.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    if found.interrupted:
        why = "a run failed" if failed else "interrupted"
        rounds = found.settings["rounds"]
        print(f"{why}: {rounds} of {args.rounds} rounds are whole, and all above is from these", file=sys.stderr)
        return failed or 130
    return 0


def _contenders(args: argparse.Namespace) -> list[Contender]:
    second = PolicySpec("sj-mlfq")
    if args.backend == VLLM:
        return its_own(args.policies or [VllmItself(), second])
    return args.policies or [PolicySpec("fcfs"), second]


def _first(args: argparse.Namespace, contenders: Sequence[Contender]) -> str:
    """The message before the first run."""
    if not args.offline:
        own = any(not isinstance(one, Server) for one in contenders)
        kind = "vLLM" if args.backend == VLLM else "a server"
        return f"starting {kind} with {args.model} for each run: some seconds each" if own else "asking the servers"
    return loading(args, ", ".join(one.title for one in contenders))


def _read(args: argparse.Namespace, num_requests: int | None) -> Trace:
    from fastserve.workload import read_trace

    rate = 1.0 if args.rate is None and args.load is not None else args.rate
    return read_trace(args.trace, **reading_of(args), rate=rate, num_requests=num_requests)


def _engine(args: argparse.Namespace, source: SeedSource, looks: Looks) -> Body:
    from fastserve.compare.offline import EngineBody
    from fastserve.compare.trace import check_fits

    body = body_of(args, latency=args.latency)
    longest = getattr(body.model, "max_model_len", None)
    coming = sessions_of(args)
    if longest is not None and not coming.in_sessions(source.typical()):
        known = source if source.rate else source.at_rate(1.0)
        for number in range(args.rounds):  # before anything is measured
            check_fits(known.trace(args.seed + number), longest, getattr(body.model, "name", args.model))
    return EngineBody(
        body, {name: getattr(args, name) for name in ENGINE_FLAGS}, looks.of, args.predictor, coming=coming,
        recorded=args.own_answers,
    )  # fmt: skip


def _servers(args: argparse.Namespace) -> Body:
    if args.backend == VLLM:
        return vllm_body(args)
    from fastserve.compare.http import HttpBody

    about = {name: getattr(args, name) for name in ("model", "backend", "latency", *ENGINE_FLAGS)} | options_of(args)
    about = {name: value for name, value in about.items() if name not in SECRETS}
    words = []
    for name, value in about.items():
        flag = flags(name)[0]
        if isinstance(value, tuple):
            words += [word for each in value for word in (flag, each)]
        elif value is not None:
            words += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    for name in SECRETS:  # they stand neither in a list of processes nor in a result
        if getattr(args, name) is not None:
            os.environ[f"{OURS}{name.upper()}"] = getattr(args, name)
    return HttpBody(
        words, about, start_s=args.start_timeout, predictor=args.predictor, coming=sessions_of(args),
        own_answers=args.own_answers,
    )  # fmt: skip


def text(found: Comparison) -> str:
    """Settings, ratios, and the distribution of completion times as text."""
    from fastserve.metrics.intervals import resampled
    from fastserve.metrics.slo import Slo, attained

    document = found.document()
    lines = textwrap.wrap(
        ", ".join(f"{name} {_figure(value)}" for name, value in document["settings"].items()
                  if value is not None and name not in ("unread", "missing", "resampled", "samples")),
        width=100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    programs = program_rows(document)
    if programs:
        lines += [*_columns(programs), *program_notes(found)]
    keys = ("mean_jct_s", "p95_jct_s", "output_tokens_per_s")
    more = [column for column in OBJECTIVES if column[1] in found.measures]
    rows = [["policy", "mean JCT s", "p95", "p99", "TTFT s", "tok/s", *(title for title, _ in more),
             "gain: mean JCT", "p95", "tok/s"]]  # fmt: skip
    for label, means in document["means"].items():
        ratios = document["ratios"].get(label)
        times = ("mean_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s")
        mine = ["-" if means[key] is None else f"{means[key]:.3f}" for key in times]
        mine.append("-" if (speed := means["output_tokens_per_s"]) is None else f"{speed:.0f}")
        mine += ["-" if means[key] is None else f"{means[key]:.3f}" for _, key in more]
        gains = ["1"] * 3 if ratios is None else [_shown(_gain(key, ratios[key])) for key in keys]
        rows.append([label, *mine, *gains])
    lines += _columns(rows)
    if document["ratios"]:
        lines.append(f"gain: how many times better than {found.labels[0]}; above 1 the row is better")
    settings = document["settings"]
    lines += fact_lines(settings)
    for label, knobs in document["policies"].items():
        own = policy_in_words(knobs)
        lines += textwrap.wrap(f"{label}: {own}", width=100, subsequent_indent="  ") if own else []
    fewest = min(len(found.values(label, "mean_jct_s")) for label in found.labels)
    if len(found.labels) > 1:
        said = resampled(fewest, settings.get("resampled", ""), settings.get("samples")).replace("seeds", "rounds")
        lines += textwrap.wrap(said, width=100, subsequent_indent="  ")
    if more:
        lines.append("SLOs met: share of the requests with objectives that met them; goodput: such requests a second")
        shares = {label: means["slo_attainment"] for label, means in document["means"].items()}
        lines += [verdict] if (verdict := attained(Slo.parse(settings.get("slo") or Slo()), shares)) else []
    lines.append("tok/s: output tokens over the time from the first arrival to the last end, drain included")
    lines.append("completion times (s) below which so many percent of the jobs ended, all rounds together:")
    table = [["policy", *(f"{share} %" for share in SHARES)]]
    table += [[label, *(f"{value:.3f}" for value in found.percentiles(label, SHARES))] for label in document["means"]]
    return "\n".join([*lines, *_columns(table)])


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _gain(key: str, ratio: dict[str, float | None] | None) -> dict[str, float | None] | None:
    """Of times the baseline over the row, as the document has it; of a rate the row over the baseline."""
    if ratio is None or not key.endswith("_per_s"):
        return ratio
    turned = {end: None if value is None else 1 / value for end, value in ratio.items()}
    return {"mean": turned["mean"], "low": turned["high"], "high": turned["low"]}


def _shown(ratio: dict[str, float | None] | None) -> str:
    if ratio is None:
        return "-"
    if ratio["low"] is None:
        return f"{ratio['mean']:.2f}"
    return f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]  # fmt: skip


def _refuse(message: str) -> int:
    print(f"fastserve ab: error: {message}", file=sys.stderr)
    return 2
