"""Runs the cases of an experiment, stores each result, resumes a killed run; the command line of every experiment.

results/EXPERIMENT/RUN-ID/cases/*.json   one file a case, written whole as soon as the case is done
results/EXPERIMENT/RUN-ID/run.json       settings and provenance
results/EXPERIMENT/RUN-ID/summary.json   all rows and claims; written last, so a folder that has one is complete
results/EXPERIMENT/RUN-ID/*.pdf, *.png   the figures

A run-id is the hash of the scale's settings, the cases (their traces included), the source text of the simulator and
the part of the experiment's own source that can change a number. A second run therefore recomputes nothing, and a
changed scheduler recomputes everything.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments._lib.case import Case, Numbers, Row, simulate, to_json
from experiments._lib.claim import Claim
from fastserve.atomic_files import OutputError
from fastserve.formats import check, stamp
from fastserve.workload import TraceError
from sim.report.provenance import fingerprint, provenance
from sim.sweep.pool import POOLS, add_pool, computed
from sim.sweep.progress import progress
from sim.sweep.store import Cases, digest, write

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
SCALES = ("smoke", "small", "paper")
LIVE = (
    "agents_live", "batching_gain", "fidelity", "fidelity_llamacpp", "fidelity_onnx",
    "fidelity_upstream", "fidelity_vllm", "in_front_of", "live_headline", "routers_live", "vllm_live",
)  # fmt: skip
"""experiments on the live engine: results depend on the machine, so they run only by name and are not checked"""
PRESENTING = ("plot", "claims", "published", "plan", "joined", "told", "gains", "_steady")
"""functions of an experiment that only present results: editing them reruns nothing"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A complete run of one experiment at one scale."""

    experiment: str
    scale: str
    folder: Path
    rows: list[Row]
    seconds: float
    """wall time of all its cases, added up"""

    @property
    def claims(self) -> list[Claim]:
        found: list[Claim] = load(self.experiment).claims(self.rows)
        return found


class IncompleteError(Exception):
    """There is no complete run of the current source and settings; the message says what to run."""


def load(experiment: str) -> ModuleType:
    """The module experiments/EXPERIMENT.py: SCALES, cases(), claims(), plot(), perhaps run(); and its docstring.

    Optional: plan(cases), a sentence printed before they run, joined(rows), a transformation of its rows, and USES, the
    files of _lib that its numbers depend on beyond case.py.
    """
    return importlib.import_module(f"experiments.{experiment}")


def names() -> list[str]:
    """All deterministic experiments, by file name: not those of LIVE."""
    shared = {"__init__", "__main__", "check", "table", *LIVE}
    found = (path.stem for path in (ROOT / "experiments").glob("*.py"))
    return sorted(name for name in found if not name.startswith("_") and name not in shared)


def run_id(experiment: str, scale: str, cases: Sequence[Case]) -> str:
    """16 hexadecimal digits: equal if and only if the results must be equal."""
    module = load(experiment)
    own = hashlib.sha256()
    here = Path(__file__).parent
    used: Sequence[str] = getattr(module, "USES", ())
    for path in (Path(str(module.__file__)), here / "case.py", *[here / name for name in used]):
        own.update(_computing(path).encode())
    key = [experiment, to_json(module.SCALES[scale]), [to_json(case) for case in cases], fingerprint(), own.hexdigest()]
    return digest(key, 16)


def _computing(path: Path) -> str:
    """The AST of a file without docstrings, comments and presenting functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = []
    for node in tree.body:
        presents = isinstance(node, ast.FunctionDef) and (node.name in PRESENTING or node.name.startswith("_draw"))
        if not presents and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            kept.append(ast.dump(node))
    return "\n".join(kept)


def case_id(case: Case) -> str:
    """Name of a case's file within its run."""
    return digest(to_json(case))


def compute(experiment: str, case: Case) -> tuple[Numbers, float]:
    """Runs one case, in any process or machine: its numbers, and the seconds it took."""
    began = time.perf_counter()
    numbers = getattr(load(experiment), "run", simulate)(case)
    return to_json(numbers), time.perf_counter() - began


def sweep(
    experiment: str, scale: str, *, jobs: int | None = None, pool: str = "local", address: str | None = None
) -> Outcome:
    """Runs the missing cases. pool: local processes, or ray or dask by way of joblib. OutputError, TraceError."""
    module = load(experiment)
    settings = module.SCALES[scale]
    cases: list[Case] = module.cases(settings)
    folder = RESULTS / experiment / run_id(experiment, scale, cases)
    wanted = {case_id(case): case for case in cases}
    if len(wanted) < len(cases):
        raise ValueError(f"{experiment}: {len(cases) - len(wanted)} of its cases are there twice")
    there = folder / "summary.json"
    if not there.exists():
        about = stamp("sweep") | {
            "experiment": experiment,
            "scale": scale,
            "settings": to_json(settings),
            "provenance": provenance(),
        }
        write(folder / "run.json", about)
        store = Cases(folder)
        missing = {name: wanted[name] for name in store.missing(wanted)}
        plan: Callable[[Sequence[Case]], str] | None = getattr(module, "plan", None)
        if plan is not None and missing:
            print(f"{experiment}: {plan(list(missing.values()))}", file=sys.stderr, flush=True)
        results = _computed(experiment, missing, jobs, pool, address)
        for name, (numbers, seconds) in progress(results, experiment, len(cases), len(cases) - len(missing)):
            kept = {"at": to_json(wanted[name].at), "seed": wanted[name].seed, "numbers": numbers, "seconds": seconds}
            store.write(name, kept)
        entries = [store.read(name) for name in wanted]
        total = sum(entry.pop("seconds") for entry in entries)
        write(there, about | {"seconds": total, "rows": entries}, indent=None)
    # Read from this folder: the source, and with it the run-id, may have changed during the run.
    outcome = _read(experiment, scale, there)
    if not list(folder.glob("*.pdf")) or _older(folder, Path(str(module.__file__))):
        module.plot(outcome.rows, folder)
    return outcome


def finished(experiment: str, scale: str) -> Outcome:
    """The complete run of the current source. Raises IncompleteError, which says whether it is missing or stale."""
    module = load(experiment)
    folder = RESULTS / experiment / run_id(experiment, scale, module.cases(module.SCALES[scale]))
    path = folder / "summary.json"
    if not path.exists():
        others = [other for other in (RESULTS / experiment).glob("*/summary.json") if _scale(other) == scale]
        why = "is stale: the source or the settings have changed since" if others else "is missing"
        raise IncompleteError(
            f"The {scale} run of {experiment} {why}. Run: python -m experiments.{experiment} --scale {scale}"
        )
    return _read(experiment, scale, path)


def has_run(experiment: str, scale: str) -> bool:
    """Whether finished() would return."""
    try:
        finished(experiment, scale)
    except IncompleteError:
        return False
    return True


def _read(experiment: str, scale: str, summary: Path) -> Outcome:
    found = json.loads(summary.read_text(encoding="utf-8"))
    check("sweep", found, summary)
    rows = [Row(row["at"], row["seed"], row["numbers"]) for row in found["rows"]]
    joined: Callable[[list[Row]], list[Row]] | None = getattr(load(experiment), "joined", None)
    return Outcome(experiment, scale, summary.parent, rows if joined is None else joined(rows), found["seconds"])


def _older(folder: Path, source: Path) -> bool:
    return min(path.stat().st_mtime for path in folder.glob("*.pdf")) < source.stat().st_mtime


def _scale(summary: Path) -> str:
    try:
        return str(json.loads((summary.parent / "run.json").read_text(encoding="utf-8"))["scale"])
    except (OSError, ValueError, KeyError):
        return ""


def _computed(
    experiment: str, cases: dict[str, Case], jobs: int | None, pool: str, address: str | None
) -> Iterator[tuple[str, tuple[Numbers, float]]]:
    live = experiment in LIVE
    if live and pool != "local":
        raise ValueError(f"{experiment} measures this machine's live engine: leave --pool {pool} out")
    yield from computed(partial(compute, experiment), cases, jobs=1 if live else jobs, pool=pool, address=address)


def main(experiment: str, arguments: Sequence[str] | None = None) -> int:
    """python -m experiments.EXPERIMENT."""
    module = load(experiment)
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{experiment}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",  # an experiment's own --backend is no longer the old name of --pool
    )
    add_options(parser)
    extra: Callable[[argparse.ArgumentParser], None] | None = getattr(module, "add_options", None)
    if extra is not None:
        extra(parser)
    args = parser.parse_args(arguments)
    return guarded(lambda: show(args, experiment))


class Moved(argparse.Action):
    """The old name of --pool, taken for one release: --backend is the backend of an engine, in every command."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values not in POOLS:
            parser.error(f"--backend {values}: a pool of processes is --pool {'|'.join(POOLS)} now")
        print(f"{parser.prog}: warning: --backend {values} is called --pool {values} now", file=sys.stderr)
        namespace.pool = values


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every experiment."""
    parser.add_argument("--scale", choices=SCALES, default="small", help="smoke: seconds; small: minutes; paper: hours")
    add_pool(parser, "cases")
    parser.add_argument("--backend", action=Moved, help=argparse.SUPPRESS)


def show(args: argparse.Namespace, experiment: str) -> int:
    """Runs one experiment and prints its claims."""
    special = getattr(load(experiment), "special", None)
    if special is not None and special(args):
        return 0
    outcome = sweep(experiment, args.scale, jobs=args.jobs, pool=args.pool, address=args.address)
    print(f"{experiment} ({args.scale}, {len(outcome.rows)} cases, {outcome.seconds:.0f} s of computing)")
    for claim in outcome.claims:
        print(f"  {claim}")
    print(f"  figures and rows: {os.path.relpath(outcome.folder)}")
    return 0


def guarded(work: Callable[[], int]) -> int:
    """Exit code of `work`; user errors are one line on stderr."""
    try:
        return work()
    except KeyboardInterrupt:
        print("interrupted; finished cases are kept, and the same command resumes from there", file=sys.stderr)
        return 130
    except (OutputError, TraceError, ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
