"""`fastserve profile`: measures iteration times on a live engine and stores the fitted profile for its next start; or
fits it to the flight log of a run, of an engine or of vLLM under our Scheduler.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve.cli.arguments import add_model_arguments, add_settings, body_of
from fastserve.engine.config import EngineConfig
from fastserve.importing import missing

if TYPE_CHECKING:
    from fastserve.profiler.calibrate import Calibration
    from fastserve.profiler.fit import Cell, Residual


POOR = 0.10
"""Median relative error or bias of a kind of iterations above which a warning is printed."""

NOISY = 0.15
"""Mean relative deviation of similar iterations above which a warning is printed."""

REFRESH_S = 0.25

BUDGET_S = 120.0

PROFILED = ("max_batch", "kv_tokens", "host_tokens", "block_tokens")
"""Settings that a measurement depends on; max_batch is the largest batch that is measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_settings(parser, EngineConfig, PROFILED)
    parser.add_argument("--budget", type=float, metavar="S", help=f"seconds (default: {BUDGET_S:g})")
    parser.add_argument("--longest", type=int, metavar="TOKENS", help="longest context to measure (default: 2560)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="also write the profile to this file, for --latency FILE here and in the simulator, and for "
        "`fastserve vllm --profile FILE`",
    )
    parser.add_argument(
        "--from-log",
        "--vllm",
        metavar="LOG",
        help="measure nothing: fit the profile to this flight log, which an engine or `fastserve vllm` has written",
    )
    parser.add_argument(
        "--acceptance",
        metavar="FILE",
        help="with --from-log: also write here how often the guesses of that run were right, for `python -m sim "
        "--speculate K:FILE`",
    )
    parser.add_argument("--no-store", action="store_true", help="do not store it for the next start of this model")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and stores. Returns 0, with warnings for a poor fit; 2 if it cannot be measured."""
    try:
        from fastserve.profiler.acceptance import guessed_in
        from fastserve.profiler.store import store

        found, facts = _from_log(args) if args.from_log is not None else _measured(args)
    except ImportError as error:
        return _refuse(missing(error, "engine"))
    except (ValueError, OSError, MemoryError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("interrupted: nothing was stored", file=sys.stderr)
        return 130
    document = found.document() | {"warnings": warnings(found.residuals, found.machine, found.cells)}
    guesses = None
    if args.from_log is not None:
        document["log"] = args.from_log
        guesses = guessed_in(args.from_log)
    if guesses is not None:
        document["guesses"] = {**guesses._asdict(), "acceptance": guesses.acceptance.to_json()}
    elif args.acceptance is not None:
        return _refuse(f"--acceptance {args.acceptance}: nothing was guessed in {args.from_log or 'a measurement'}")
    kept = []
    try:
        if not args.no_store:
            path = store(facts(), found.hardware)
            path.with_suffix(".measured.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            kept.append(str(path))
        if args.out is not None:
            found.hardware.save(args.out)
            kept.append(args.out)
        if guesses is not None and args.acceptance is not None:
            share = json.dumps(guesses.acceptance.to_json(), indent=1)
            Path(args.acceptance).write_text(share + "\n", encoding="utf-8")
            kept.append(args.acceptance)
    except OSError as error:
        return _refuse(f"the profile was measured but cannot be kept: {error}")
    document["kept"] = kept
    print(json.dumps(document, indent=1) if args.json else text(document, found.residuals))
    return 0


def _measured(args: argparse.Namespace) -> tuple[Calibration, Callable[[], Mapping[str, Any]]]:
    """On a live engine. The second: the facts that its times depend on."""
    from fastserve.launch import profiled
    from fastserve.profiler.calibrate import calibrate
    from fastserve.profiler.load import SHORTEST

    budget = BUDGET_S if args.budget is None else args.budget
    if not budget > 0:
        raise ValueError(f"--budget {budget:g}: give seconds above 0")
    if args.longest is not None and args.longest < SHORTEST:
        raise ValueError(f"--longest {args.longest}: give tokens, at least {SHORTEST}")
    serving = EngineConfig.of({name: getattr(args, name) for name in PROFILED})
    body = body_of(args)
    bar = Bar(sys.stderr.isatty() and not args.json)
    try:
        backend = profiled(body, serving)
        found = calibrate(backend, serving, budget, longest=args.longest, report=bar)
    finally:
        bar.close()
    return found, lambda: backend.facts


def _from_log(args: argparse.Namespace) -> tuple[Calibration, Callable[[], Mapping[str, Any]]]:
    """The same from a flight log."""
    from fastserve.profiler.from_log import facts_of, profile_of

    for name in ("budget", "longest"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} is for a measurement, and --from-log measures nothing: leave one of them out")
    found = profile_of(args.from_log)
    return found, lambda: facts_of(args.from_log)


def warnings(residuals: dict[str, Residual], machine: dict[str, Any], cells: Sequence[Cell] = ()) -> list[str]:
    """Warnings about the quality of the fit, with what to do."""
    found = []
    for kind, one in residuals.items():
        if one.median > POOR or abs(one.bias) > POOR:
            found.append(
                f"{kind} iterations have a median error of {one.median:.0%} (bias {one.bias:+.0%}): simulations "
                f"with this profile will have the same error; measure for longer, on a quiet machine"
            )
        if one.noise > NOISY:
            found.append(
                f"similar {kind} iterations differ by {one.noise:.0%}: the machine is noisy, which limits any model"
            )
    unseen = [kind for kind in ("prefill", "decode", "mixed") if kind not in residuals]
    found += [f"no {kind} iteration was measured: measure for longer" for kind in unseen]
    sizes = {cell.batch for cell in cells if cell.batch}
    if len(sizes) == 1:
        found.append(
            f"every iteration that decodes has a batch of {sizes.pop()}: what another size takes is a guess; "
            "measure with several, in a flight log by more slots and requests at once"
        )
    load, cores = machine.get("load_average"), machine.get("cores")
    if load is not None and cores and load > 1.5 * cores:
        found.append(f"load average {load:.1f} on {cores} cores: other programs use this machine, measure again")
    return found


def text(document: dict[str, Any], residuals: dict[str, Residual]) -> str:
    """The document as text."""
    lines = [
        _subject(document),
        f"{document['iterations']} iterations in {document['seconds']:.0f} s",
        f"{'':10}{'iterations':>10}{'missed by':>11}{'p95':>7}{'bias':>7}{'noise':>7}",
    ]
    for kind, one in residuals.items():
        lines.append(
            f"{kind:10}{one.iterations:>10}{one.median:>11.1%}{one.p95:>7.0%}{one.bias:>+7.1%}{one.noise:>7.0%}"
        )
    shape = document["predicted_ms"]
    lines.append("; ".join(f"{name}: {ms:.2f} ms" for name, ms in shape.items()))
    link = document["hardware"]["link"]
    lines.append(
        f"copies: {link['out_bytes_per_s'] / 1e9:.1f} GB/s out, {link['in_bytes_per_s'] / 1e9:.1f} GB/s in, "
        f"{link['latency_ns'] / 1e3:.0f} us each"
        if document["copies"]
        else "copies: not measured, they are as the log's header has them"
        if "log" in document
        else "copies: not measured, there is no host pool"
    )
    if "guesses" in document:
        found = document["guesses"]
        share = found["acceptance"]
        lines.append(
            f"guesses: {found['draft_tokens']:,} verified, {found['accepted_tokens']:,} right; one is right with "
            f"probability {share['acceptance']:.3f} (deviation between jobs {share.get('spread', 0):.3f}), there are "
            f"some in {share['found']:.0%} of a job's iterations; {found['tokens_per_decode']:.2f} tokens of a job in "
            f"an iteration"
        )
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    lines += [f"stored: {path}" for path in document["kept"]]
    return "\n".join(lines)


def _subject(document: dict[str, Any]) -> str:
    """What was measured."""
    if "log" in document:
        return f"{document['log']}: {document['hardware']['latency']['kind']} model fitted to what it has run"
    from fastserve.profiler.calibrate import in_words

    machine = document["machine"]
    return f"{in_words(document)}, on {machine['cpu']} ({machine['cores']} cores)"


class Bar:
    """Progress line on stderr; disabled without a terminal. A profiler Report."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.last = 0.0

    def __call__(self, share: float, what: str) -> None:
        now = time.monotonic()
        if self.shown and now - self.last > REFRESH_S:
            self.last = now
            full = round(24 * share)
            sys.stderr.write(f"\r\x1b[K[{'#' * full}{'.' * (24 - full)}] {share:4.0%}  {what}")
            sys.stderr.flush()

    def close(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _refuse(message: str) -> int:
    print(f"fastserve profile: error: {message}", file=sys.stderr)
    return 2
