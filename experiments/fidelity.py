"""python -m experiments.fidelity --scale small [--json | --doubts | --table] [--backend NAME]

Claim: the simulator tells what the live engine does. The same policy object, trace, pools and settings, on the embedded
model in this process and in the simulator, whose prediction is made before the live run from a profile made just then.

For each cell, a policy at a load under a residency, several paired runs: errors of mean, p50, p95 and p99 completion
time, of the time to the first token and of preemptions. Three things tell where an error comes from: the same trace
live once more ("again": the machine's noise), the same profile at the tempo that the machine had in each second of the
live run ("tempo": what is left is what the simulator decides), and a model fitted to the live run's own times
("hindsight": a machine that stays as it was on average). --doubts asks whether the tempo makes anything agree: the
same simulations with one thing wrong. --backend asks the same of another backend, with fewer cells and a folder of
its own (experiments/fidelity_NAME.py), or of our Scheduler inside vLLM (experiments/fidelity_vllm.py); --table prints
a row for each that has been run. docs/fidelity.md explains.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from experiments._lib.case import Case, Numbers, Row, Workload, points, to_json
from experiments._lib.claim import Claim
from experiments._lib.errors import COMPARED, document, spread, table
from experiments._lib.fault_injection import inject_faults, shown
from experiments._lib.fidelity_figures import plot
from experiments._lib.live import PAIR, Rig, again, here, pair, plan
from experiments._lib.sweep import finished, has_run, load, main, show, sweep
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

__all__ = ["SCALES", "cases", "claims", "joined", "plan", "plot", "run"]

POLICIES = ("fcfs", "mlfq", "sj-mlfq", "srpt")
LOADS = (0.5, 0.8, 0.95, 1.2)
RESIDENCIES = ("recompute", "reactive", "proactive")
RUNS = {
    "torch": "fidelity", "llamacpp": "fidelity_llamacpp", "onnx": "fidelity_onnx",
    "upstream": "fidelity_upstream", "vllm": "fidelity_vllm",
}  # fmt: skip
"""Backend -> the experiment that is its run, with a folder of its own."""
SCRIPTED = "scripted"
AGAIN: dict[str, str | int | float] = {"again": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run. cells: (policy, load, residency)."""

    cells: tuple[tuple[str, float, str], ...]
    pairs: int = 5
    """paired runs of each cell, each on its own draw of the workload"""
    requests: int = 400
    prompt: str = "lognormal:3.2,0.6,8,128"
    output: str = "lognormal:3.4,1.0,1,256"
    rig: Rig
    """without load and residency, which the cells bring"""


_SMALL = (
    *[(policy, load, "proactive") for load in (0.8, 0.95) for policy in POLICIES],
    ("sj-mlfq", 0.95, "recompute"),
    ("sj-mlfq", 0.95, "reactive"),
    *[(policy, load, "proactive") for load in (0.5, 1.2) for policy in ("fcfs", "sj-mlfq")],
)
SCALES = {
    "smoke": Scale(
        cells=(("fcfs", 0.8, "proactive"), ("sj-mlfq", 0.8, "proactive")),
        pairs=3,
        requests=40,
        output="lognormal:2.0,0.9,1,48",
        rig=Rig(kv_tokens=1024, host_tokens=4096, calibrate_s=4.0),
    ),
    "small": Scale(cells=_SMALL, rig=Rig()),
    "paper": Scale(
        cells=tuple((p, load, r) for load in LOADS for r in RESIDENCIES for p in POLICIES), requests=1000, rig=Rig()
    ),
}


def cases(scale: Scale) -> list[Case]:
    """Pair by pair, all cells of a pair after each other: a drift of the machine meets all. fcfs runs twice."""
    workload = Workload(requests=scale.requests, lengths="", prompt=scale.prompt, output=scale.output)
    place = here(*PAIR)
    found = []
    for seed in range(scale.pairs):
        for policy, share, residency in scale.cells:
            at: dict[str, str | int | float] = {"policy": policy, "load": share, "residency": residency}
            for more in ({}, AGAIN) if policy == "fcfs" else ({},):
                rig = replace(scale.rig, load=share, residency=residency, again=bool(more), place=place)
                found.append(
                    Case(
                        at=at | more, workload=workload, settings=Settings(load=share), policy=PolicySpec(policy),
                        seed=seed, options=asdict(rig),
                    )
                )  # fmt: skip
    return found


def run(case: Case) -> Numbers:
    rig = Rig(**case.options)
    return again(case, rig) if rig.again else pair(case, rig)


def joined(rows: list[Row]) -> list[Row]:
    """Numbers of a second live run beside those of the first: each is a case of its own, so that a kill costs one."""
    seconds = {(_cell_of(row), row.seed): row.numbers for row in rows if row.at.keys() >= AGAIN.keys()}
    firsts = [row for row in rows if not row.at.keys() >= AGAIN.keys()]
    return [Row(row.at, row.seed, row.numbers | seconds.get((_cell_of(row), row.seed), {})) for row in firsts]


def _cell_of(row: Row) -> tuple[Any, ...]:
    return tuple(row.at[name] for name in ("policy", "load", "residency"))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--doubts", action="store_true", help="simulate the live runs again with one thing wrong")
    parser.add_argument("--table", action="store_true", help="print a row for each backend whose run is complete")
    parser.add_argument(
        "--backend", choices=(*RUNS, SCRIPTED), default="torch", help="what runs live (default: %(default)s)"
    )


def special(args: argparse.Namespace) -> bool:
    """--json, --doubts, --table and another --backend."""
    if args.table:
        print(table([finished(name, args.scale) for name in RUNS.values() if has_run(name, args.scale)]))
        return True
    if args.backend == SCRIPTED:
        raise ValueError("backend scripted takes the modelled times and makes the simulator's records: nothing is left "
                         "to compare, and tests/engine/test_same_brain.py holds it")  # fmt: skip
    experiment = RUNS[args.backend]
    if args.doubts:
        if experiment != "fidelity":
            raise ValueError("--doubts simulates runs of --backend torch again")
        print(shown(inject_faults(sweep(experiment, args.scale))))
    if args.json:
        told = getattr(load(experiment), "told", document)
        print(json.dumps(to_json(told(sweep(experiment, args.scale))), indent=1))
    elif experiment != "fidelity":
        show(args, experiment)
    return bool(args.json or args.doubts or experiment != "fidelity")


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for cell in points(rows):
        name = f"{cell.at['policy']}, load {cell.at['load']}, {cell.at['residency']}"
        for of, (_, _, what) in COMPARED.items():
            if (ours := spread(cell, of)) is not None:
                found.append(Claim("fidelity", f"{name}: mean JCT, {what} over live (median, range)", ours))
    return found


if __name__ == "__main__":
    sys.exit(main("fidelity"))
