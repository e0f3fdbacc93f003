"""make bench-engine: throughput of the live engine and of other engines on this machine, interleaved.

    python scripts/bench_engine.py            # the whole workload; half an hour where a CPU computes in bfloat16
    python scripts/bench_engine.py --quick    # its first 25 requests, one round; half an hour on two slow cores
    python scripts/bench_engine.py --resume   # resumes the newest interrupted run

Each figure is one process of scripts/bench_engine_case.py, which says what the workload is and what is equal for all:

* ours with the native kernels, and every other one between two runs of ours, so that a ratio compares neighbours in
  time: PyTorch alone, ours with weights in half the bytes (in float32), transformers' own continuous batching, and
  vLLM's CPU build where there is one (`make test-vllm` installs it; FASTSERVE_VLLM_PYTHON names another's Python). The
  order of the others turns from round to round.
* sj-mlfq against fcfs at a batch cap of 16, in turn in one process.
* the shares of the host and of the Scheduler, alone and with a thousand requests waiting.
* ours beside a process that holds one core, next to ours alone.

results/engine_bench/TIME.json is written after every process. A series that is cut off is begun again as a whole when
the run is resumed: no ratio is made of runs that are hours apart. scripts/bench_clients.py then compares SmolLM2 over
HTTP with llama.cpp's server.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_engine_case import write_model
from bench_engine_report import Series, report

from fastserve.vllm.settings import interpreter
from sim.report.provenance import provenance

ROOT = Path(__file__).parent.parent
CASE = Path(__file__).with_name("bench_engine_case.py")
OURS = "ours, native"
OTHERS: dict[str, dict[str, Any]] = {
    "PyTorch alone": {"kind": "ours", "native": "off"},
    "ours, half weights": {"kind": "ours", "weights": "half"},
    "transformers' batching": {"kind": "transformers"},
    "vllm": {"kind": "vllm"},
}
CAP = 16  # batch cap where schedulers are compared, and where the host's share is measured
NEIGHBOUR = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"


@dataclass(frozen=True)
class Run:
    """One process. series: what it is compared within."""

    series: str
    name: str
    case: dict[str, Any]
    neighbour: bool = False


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="25 requests and one round, unless given")
    add("--requests", type=int, help="the first so many of the workload's 100")
    add("--rounds", type=int, help="of the comparison and of the neighbour (default: 3)")
    add("--policy-rounds", type=int, default=5, help="of sj-mlfq against fcfs (default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of every engine (default: %(default)s)")
    add("--cap", type=int, default=64, help="batch cap of the comparison (default: %(default)s)")
    add("--dtype", action="append", choices=("bfloat16", "float32"), help="may be repeated (default: both)")
    add("--only", action="append", metavar="NAME", choices=[*OTHERS, "policy", "host", "crowd", "neighbour"],
        help="may be repeated: one of %(choices)s (default: all)")  # fmt: skip
    add("--seconds", type=float, default=20, help="of the measurement with a crowd waiting (default: %(default)s)")
    add("--waiting", type=int, default=1000, help="requests in that crowd (default: %(default)s)")
    add("--minutes", type=float, default=60, help="that one process may take (default: %(default)s)")
    add("--model", type=Path, metavar="FOLDER", help="with a config.json; random weights (default: 114M, Llama-like)")
    add("--into", type=Path, default=ROOT / "results" / "engine_bench", metavar="FOLDER", help="for the results")
    add("--resume", action="store_true", help="go on with the newest run of these settings and sources")
    return parser


def plan(options: argparse.Namespace, vllm: str | None) -> Iterator[Run]:
    """Every process, in order. vllm: the Python that has it."""
    dtypes = options.dtype or ["bfloat16", "float32"]
    native = {"kind": "ours", "cap": options.cap}
    wanted = [name for name in OTHERS if chosen(options, name) and (name != "vllm" or vllm)]
    for turn in range(options.rounds if wanted else 0):
        turned = wanted[turn % len(wanted) :] + wanted[: turn % len(wanted)]
        for dtype in dtypes:
            series = f"engines, {dtype}, {turn + 1}"
            yield Run(series, OURS, native | {"dtype": dtype})
            for name in turned:
                if "weights" in OTHERS[name] and dtype != "float32":
                    continue
                extra = {"python": vllm} if name == "vllm" else {}
                yield Run(series, name, OTHERS[name] | extra | {"cap": options.cap, "dtype": dtype})
                yield Run(series, OURS, native | {"dtype": dtype})
    first = {"dtype": dtypes[0]}
    if chosen(options, "policy"):
        yield Run("policy", "policy", first | {"kind": "alternated", "cap": CAP, "rounds": options.policy_rounds})
    if chosen(options, "host"):
        yield Run("host", "host", first | {"kind": "ours", "cap": CAP})
    if chosen(options, "crowd"):
        more = {"kind": "crowded", "cap": CAP, "seconds": options.seconds, "waiting": options.waiting}
        yield Run("crowd", "crowd", first | more)
    for turn in range(options.rounds if chosen(options, "neighbour") else 0):
        for beside in (False, True) if turn % 2 == 0 else (True, False):
            name = "beside a neighbour" if beside else "alone"
            yield Run(f"neighbour, {turn + 1}", name, native | first, neighbour=beside)


def chosen(options: argparse.Namespace, name: str) -> bool:
    return not options.only or name in options.only


class Bench:
    """done: the series that are complete."""

    def __init__(self, options: argparse.Namespace) -> None:
        options.requests = options.requests or (25 if options.quick else 100)
        options.rounds = options.rounds or (1 if options.quick else 3)
        self.options = options
        model = options.model or write_model(ROOT / "build" / "bench_engine")
        self.base = {"model": str(model), "threads": options.threads, "requests": options.requests}
        settings = {name: value for name, value in vars(options).items() if name not in ("resume", "quick", "into")}
        self.settings = json.loads(json.dumps(settings | {"sources": sources()}, default=str))
        self.done: dict[str, Series] = {}
        options.into.mkdir(parents=True, exist_ok=True)
        self.file = options.into / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.json"
        if options.resume:
            self._take_up()

    def run(self) -> int:
        began = time.monotonic()
        vllm = vllm_python() if chosen(self.options, "vllm") else None
        runs = list(plan(self.options, vllm))
        current: Series = []
        for i, run in enumerate(runs):
            if run.series in self.done:
                continue
            current.append({"name": run.name, **self.measure(run)})
            last = i + 1 == len(runs) or runs[i + 1].series != run.series
            if last:
                self.done[run.series] = current
            self._save({} if last else {run.series: current})
            if last:
                current = []
        print(f"\n{(time.monotonic() - began) / 60:.0f} minutes; {self.file}\n\n{report(self.settings, self.done)}")
        return int(any("error" in entry for series in self.done.values() for entry in series))

    def measure(self, run: Run) -> dict[str, Any]:
        """What one process measured; {"error": ...} if it failed."""
        case = self.base | run.case
        command = [case.pop("python", sys.executable), str(CASE), json.dumps(case)]
        began, at = time.monotonic(), time.time()
        with neighbour() if run.neighbour else nullcontext():
            try:
                ended = subprocess.run(
                    command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60 * self.options.minutes
                )
                said = ended.stdout.strip().splitlines()
                if ended.returncode == 0 and said:
                    got: dict[str, Any] = json.loads(said[-1])
                else:
                    got = {"error": (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]}
            except subprocess.TimeoutExpired:
                got = {"error": f"it took more than {self.options.minutes:g} minutes"}
        got |= {"at": at, "load_average": os.getloadavg()[0]}
        shown = got.get("error") or ", ".join(f"{name} {value:.4g}" for name, value in got.items()
                                              if isinstance(value, float) and name != "at")  # fmt: skip
        print(f"[{time.monotonic() - began:5.0f} s] {run.series}: {run.name}: {shown}", flush=True)
        return got

    def _save(self, partial: dict[str, Series]) -> None:
        found = {"provenance": provenance(), "settings": self.settings, "series": self.done, "partial": partial}
        self.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def _take_up(self) -> None:
        for file in sorted(self.options.into.glob("*.json"), reverse=True):
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["settings"] == self.settings:
                self.file = file
                self.done = {name: series for name, series in found["series"].items()
                             if not any("error" in entry for entry in series)}  # fmt: skip
                print(f"going on with {file}: {len(self.done)} series are there", flush=True)
                return
        print("there is no run of these settings and sources to go on with: this is a new one", flush=True)


def sources() -> str:
    """Of what is measured: runs of other sources are not gone on with."""
    files = [
        *(ROOT / "fastserve").rglob("*.py"),
        *(ROOT / "fastserve").rglob("*.[ch]pp"),
        *(ROOT / "fastserve").rglob("*.h"),
        CASE,
    ]
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that holds one core. It ends with this one, whatever becomes of that."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def vllm_python() -> str | None:
    """The Python that has vLLM; None, with one line that says why, where there is none."""
    try:
        return str(interpreter())
    except ValueError as error:
        print(f"vllm is left out: {error}", flush=True)
        return None


if __name__ == "__main__":
    sys.exit(Bench(arguments().parse_args()).run())
