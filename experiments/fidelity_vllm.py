"""python -m experiments.fidelity --backend vllm --scale small [--json]

Claim: the simulator tells what our Scheduler does inside vLLM. The same policy, trace, rows and pool, in vLLM (its CPU
build, a small model with seeded weights) and in the simulator, whose prediction is made before the live run from a
profile made just then, from vLLM's flight log. Beside it vLLM's own fcfs, which is simulated as ours.

For each cell, a policy with so many slots, several paired runs; what "again", "tempo" and "hindsight" are is told in
experiments/fidelity.py and docs/fidelity.md. Each flight log is replayed, and compared with a twin that is told
arrivals, lengths and step times alone. It needs a Python that has vLLM: FASTSERVE_VLLM_PYTHON, or `make test-vllm`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from experiments._lib.case import Case, Numbers, Row, Workload, point, points, ratio
from experiments._lib.claim import Claim
from experiments._lib.errors import COMPARED, document, same_order, spread
from experiments._lib.fidelity_figures import plot
from experiments._lib.sweep import Outcome, main
from experiments._lib.vllm_pair import OWN, VllmRig, again, here, pair, plan, simulated
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

__all__ = ["SCALES", "cases", "claims", "joined", "plan", "plot", "run", "told"]

POLICIES = (OWN, "fcfs", "srpt", "sj-mlfq")
AGAIN: dict[str, str | int | float] = {"again": 1}
ROWS_PER_SLOT = 16
USES = ("vllm_pair.py", "vllm_worker.py", "speed_trace.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run. Heavy-tailed outputs, prompts that are short beside them."""

    slots: tuple[int, ...] = (4, 16)
    pairs: int = 3
    """paired runs of each cell, each on its own draw of the workload"""
    requests: int = 200
    prompt: str = "lognormal:3.2,0.6,8,128"
    output: str = "lognormal:3.0,1.4,1,600"
    rig: VllmRig
    """without slots, rows and place, which the cells bring"""


SCALES = {
    "smoke": Scale(
        slots=(4,), pairs=1, requests=40, output="lognormal:2.0,1.2,1,100",
        rig=VllmRig(hidden=128, layers=2, max_model_len=512, most_rows=64, calibrate_s=2.0),
    ),
    "small": Scale(rig=VllmRig()),
    "paper": Scale(slots=(4, 8, 16), pairs=5, requests=1000, rig=VllmRig()),
}  # fmt: skip


def cases(scale: Scale) -> list[Case]:
    """Pair by pair, all cells of a pair after each other: a drift of the machine meets all. fcfs runs twice."""
    workload = Workload(requests=scale.requests, lengths="", prompt=scale.prompt, output=scale.output)
    place = here()
    found = []
    for seed in range(scale.pairs):
        for slots in scale.slots:
            for policy in POLICIES:
                at: dict[str, str | int | float] = {"policy": policy, "slots": slots}
                for more in ({}, AGAIN) if policy == "fcfs" else ({},):
                    rig = replace(scale.rig, slots=slots, rows=ROWS_PER_SLOT * slots, again=bool(more), place=place)
                    found.append(
                        Case(
                            at=at | more, workload=workload, settings=Settings(load=rig.load), seed=seed,
                            policy=PolicySpec("fcfs" if policy == OWN else policy), options=asdict(rig),
                        )
                    )  # fmt: skip
    return found


def run(case: Case) -> Numbers:
    rig = VllmRig(**case.options)
    return again(case, rig) if rig.again else pair(case, rig)


def joined(rows: list[Row]) -> list[Row]:
    """Numbers of a second live run beside those of the first."""
    seconds = {(row.at["policy"], row.at["slots"], row.seed): row.numbers for row in rows if "again" in row.at}
    firsts = [row for row in rows if "again" not in row.at]
    return [
        Row(row.at, row.seed, row.numbers | seconds.get((row.at["policy"], row.at["slots"], row.seed), {}))
        for row in firsts
    ]


def told(outcome: Outcome) -> dict[str, Any]:
    """The --json document: that of fidelity, and what replays and twins say."""
    cells = points(outcome.rows)
    ours = [row for cell in cells for row in cell.rows if cell.at["policy"] != OWN]
    return document(outcome) | {
        "pairs_in_the_live_order": {of: same_order(cells, of) for of in ("sim", "tempo")},
        "gains_over_vllm": gains(outcome),
        "replays": {
            "plans": sum(row.numbers["live_plans"] for row in ours),
            "reproduced": all(row.numbers["live_replayed"] for row in ours),
            "differences": [row.numbers["replay"] for row in ours if row.numbers["replay"]],
        },
        "twins": [
            {**row.at, "seed": row.seed, "plans": row.numbers.get("twin_plans"), "alike": row.numbers.get("twin_alike"),
             "why": row.numbers.get("twin")}
            for row in ours
        ],
    }  # fmt: skip


def gains(outcome: Outcome) -> list[dict[str, Any]]:
    """Mean JCT of vLLM's own fcfs over that of each policy, [mean, low, high]: live, at the tempo of each run,
    predicted, and steady: the same traces all on one machine that does not change, that of the first profile. Each live
    run meets another machine.
    """
    rows = [Row(row.at, row.seed, row.numbers | steady) for row, steady in _steady(outcome)]
    found = []
    for mine in points(rows):
        if mine.at["policy"] != OWN:
            base = point(rows, **(mine.at | {"policy": OWN}))
            each = {of: ratio(base, mine, f"{of}_mean_jct_s") for of in ("live", "tempo", "sim", "steady")}
            found.append({**mine.at, **{of: None if gain is None else list(gain) for of, gain in each.items()}})
    return found


def _steady(outcome: Outcome) -> Iterator[tuple[Row, Numbers]]:
    """Each row with its trace simulated by the first profile of its slots. FileNotFoundError where that is not here."""
    known = {(case.at["policy"], case.at["slots"], case.seed): case for case in cases(SCALES[outcome.scale])}
    first = {row.at["slots"]: row.numbers["profile"] for row in reversed(outcome.rows)}
    for row in outcome.rows:
        case = known[row.at["policy"], row.at["slots"], row.seed]
        run = simulated(case, VllmRig(**case.options), row.numbers["rate"], first[row.at["slots"]])
        yield row, {"steady_mean_jct_s": run.summary["mean_jct_s"]}


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for cell in points(rows):
        name = f"{cell.at['policy']}, {cell.at['slots']} slots"
        for of, (_, _, what) in COMPARED.items():
            if (ours := spread(cell, of)) is not None:
                found.append(Claim("fidelity", f"vLLM, {name}: mean JCT, {what} over live (median, range)", ours))
    return found


if __name__ == "__main__":
    sys.exit(main("fidelity_vllm"))
