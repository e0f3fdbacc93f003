"""python -m experiments.in_front_of --scale small

Claim (ours): a policy in front of a server that one cannot change wins what it wins inside an engine, as far as the
server lets go of a slot at once; a policy that needs no preemption wins most of it.

The same requests, at the same times, by backend `upstream` in front of llama.cpp's server (package xllamacpp) with
SmolLM2 and 1, 2, 4 or 8 slots. `own queue` passes everything on as it comes and leaves the order to the server, which
is first come, first served: what one has without anything in front. The arrival rate is `load` times what the server
does with all slots full, measured once for each number of slots; at small scale 4, a burst and its drain, whose ratios
a machine that others use disturbs less. At smoke scale the server is our own with modelled
times. Completion and first token count from the arrival; every run is one of real time, so only ratios within a seed
mean anything.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from experiments._lib.case import Case, Numbers, Point, Row, Workload, point, points, ratio
from experiments._lib.claim import Claim
from experiments._lib.figure import PAGE, cells, draw, look_of
from experiments._lib.sweep import main
from experiments._lib.upstream_server import server
from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.engine.playback import play
from fastserve.hardware import Hardware
from fastserve.launch import Body, profiled
from fastserve.metrics.summary import summarise
from fastserve.policies.spec import PolicySpec
from fastserve.profiler.calibrate import calibrate
from fastserve.workload import Trace, synthesise
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SCALES", "cases", "claims", "plan", "plot", "run"]

USES = ("upstream_server.py",)
OWN = "own queue"
POLICIES: dict[str, tuple[PolicySpec, str | None]] = {
    OWN: (PolicySpec("fcfs"), None),
    "fcfs": (PolicySpec("fcfs"), None),
    "sjf": (PolicySpec("sjf"), "client"),
    "srpt": (PolicySpec("srpt"), "client"),
    "sj-mlfq": (PolicySpec("sj-mlfq"), None),
    "las": (PolicySpec("las"), None),
}
"""Label -> policy, and where its guesses come from: of sjf and srpt they are the true lengths."""
PROFILE_S = {"llama.cpp": 10.0, "scripted": 2.0}
VISIT = 8
"""A visit lasts this many times what a return costs: at most an eighth of the time goes into returns."""
EVERYTHING = 512
"""Requests that are passed on at once where the server's own queue orders them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    slots: tuple[int, ...] = (1, 2, 4, 8)
    policies: tuple[str, ...] = tuple(POLICIES)
    requests: int = 400
    seeds: int = 5
    load: float = 0.9
    prompt: str = "lognormal:3.5,0.6,8,128"
    output: str = "lognormal:2.8,1.2,1,256"
    server: str = "llama.cpp"
    """llama.cpp, or scripted: our own with modelled times"""


SCALES = {
    "smoke": Scale(
        slots=(1, 2), policies=(OWN, "fcfs", "srpt"), requests=16, seeds=1, server="scripted",
        output="lognormal:2.0,1.2,1,64",
    ),
    "small": Scale(policies=(OWN, "fcfs", "srpt", "sj-mlfq"), requests=30, seeds=2, load=4.0),
    "paper": Scale(),
}  # fmt: skip


def cases(scale: Scale) -> list[Case]:
    workload = Workload(requests=scale.requests, lengths="", prompt=scale.prompt, output=scale.output)
    return [
        Case(
            at={"slots": slots, "policy": label}, workload=workload, settings=Settings(load=scale.load),
            policy=POLICIES[label][0], seed=seed, options={"server": scale.server},
        )
        for slots in scale.slots for seed in range(scale.seeds) for label in scale.policies
    ]  # fmt: skip


def plan(cases: list[Case]) -> str:
    return f"{len(cases)} runs in real time, of {cases[0].workload.requests} requests each"


def body_of(kind: str, slots: int, places: int) -> Body:
    """In front of a server of so many slots, of whom it is told that there are so many places."""
    return Body("scripted" if kind == "scripted" else None, "upstream", upstream=server(kind, slots).url,
                upstream_slots=places, max_model_len=1024)  # fmt: skip


def config_of(label: str, slots: int) -> EngineConfig:
    policy, predictor = POLICIES[label]
    return EngineConfig(
        policy=policy, predictor=predictor, max_batch=slots, keep_records=None, batching="mixed",
        token_budget=1 << 20, visit=VISIT,
    )  # fmt: skip


@lru_cache
def machine_of(kind: str, slots: int) -> Hardware:
    """Its times as `fastserve profile` measures them from outside."""
    config = config_of("fcfs", slots)
    return calibrate(profiled(body_of(kind, slots, slots), config), config, PROFILE_S[kind], longest=256).hardware


def front(kind: str, slots: int, label: str) -> Engine:
    """An engine in front of it."""
    places = EVERYTHING if label == OWN else slots
    return body_of(kind, slots, places).engine(config_of(label, places), machine_of(kind, slots))


@lru_cache
def rate_of(kind: str, slots: int, workload: Workload) -> float:
    """Requests/s that it completes with all of its slots full."""
    trace = synthesise(max(12, 4 * slots), rate=1000.0, lengths=workload.lengths, prompt=workload.prompt,
                       output=workload.output, seed=99)  # fmt: skip
    with front(kind, slots, "fcfs") as engine:
        began = time.perf_counter()
        play(engine, trace, max_model_len=engine.max_model_len)
        return len(trace) / (time.perf_counter() - began)


def run(case: Case) -> Numbers:
    kind, slots, label = case.options["server"], int(case.at["slots"]), str(case.at["policy"])
    load = case.settings.load
    assert load is not None
    rate = load * rate_of(kind, slots, case.workload)
    trace: Trace = case.workload.trace(rate, case.seed)
    with front(kind, slots, label) as engine:
        records = play(engine, trace, seed=case.seed, max_model_len=engine.max_model_len)
        preemptions = engine.counters["preemptions"]
    numbers = dict(summarise(records, horizon_s=float(records["end"].max())))
    kept = ("mean_jct_s", "p95_jct_s", "mean_ttft_s", "p95_ttft_s", "completed", "output_tokens_per_s")
    return {name: numbers.get(name) for name in kept} | {"rate": rate, "preemptions": preemptions}


MEASURES = {"mean_jct_s": "mean JCT", "mean_ttft_s": "mean first token", "p95_jct_s": "p95 JCT"}


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows):
        if mine.at["policy"] == OWN:
            continue
        base = point(rows, **(mine.at | {"policy": OWN}))
        for measure, name in MEASURES.items():
            text = f"{mine.at['slots']} slots: {name}, the server's own queue over {mine.at['policy']}"
            note = f"{mine.mean('preemptions'):.0f} preemptions" if mine.mean("preemptions") else ""
            found.append(Claim("in front of", text, ratio(base, mine, measure), note=note))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    """Gain over the server's own queue, by its slots."""
    policies = [label for label in POLICIES if label != OWN and points(rows, policy=label)]
    slots = sorted({int(row.at["slots"]) for row in rows})

    def fill(figure: Figure) -> None:
        for axes, measure in zip(cells(figure, len(MEASURES), sharey=True), MEASURES, strict=True):
            for label in policies:
                gains = [_gain(rows, many, label, measure) for many in slots]
                style = look_of(label)
                axes.plot(slots, gains, color=style.colour, marker=style.marker, label=label, linewidth=0.9)
            axes.axhline(1, color="#777777", linewidth=0.6)
            axes.set_xscale("log", base=2)
            axes.set_xticks(slots, [str(many) for many in slots])
            axes.set_title(MEASURES[measure])
        figure.supxlabel("slots of the server", fontsize=8)
        figure.supylabel("its own queue over the policy", fontsize=8)
        axes.legend(fontsize=6)

    draw(folder, "in_front_of", (PAGE, 2.6), fill)


def _gain(rows: list[Row], slots: int, label: str, measure: str) -> float:
    base: Point = point(rows, slots=slots, policy=OWN)
    found = ratio(base, point(rows, slots=slots, policy=label), measure)
    return float("nan") if found is None else found.mean


if __name__ == "__main__":
    sys.exit(main("in_front_of"))
