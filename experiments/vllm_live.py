"""python -m experiments.vllm_live --scale small

Claim (ours): a policy that wins in the simulator wins inside vLLM, as its clients see it. vLLM's own server with our
Scheduler in it (`fastserve vllm`) against the same server as it is, under its own fcfs, with the same rows and slots:
srpt, which is told each output's length, and skip-join MLFQ in the variant of the released code, which is told none.

The CPU build, on the embedded model, with one thread; outputs with a heavy tail, given by max_tokens and ignore_eos.
Requests come over HTTP in open loop; what is preempted is parked, its KV kept. With 4 slots arrivals are Poisson. With
16 they come in bursts (Gamma, cv 4): of Poisson arrivals no queue forms at a load of 0.9 in so short a run, so that
every order is the same (1.00 in the simulation). Loads are in units of what fcfs sustains in the simulation with a
profile from the flight log of vLLM under our fcfs, measured first; what the simulator predicts with that one profile
stands beside each ratio. Contenders take turns (A B C, then C B A), a server each time. It needs a Python that has
vLLM: FASTSERVE_VLLM_PYTHON, or `make test-vllm`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.case import Case, Numbers, Point, Row, Workload, point, points, ratio
from experiments._lib.claim import Claim, ends, shown
from experiments._lib.figure import PAGE, cells, draw, legend, look_of, plain_log
from experiments._lib.sweep import main
from experiments._lib.vllm_served import OWN, ServedRig, here, replayed
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

__all__ = ["SCALES", "cases", "claims", "plan", "plot", "run"]

POLICIES = {
    OWN: PolicySpec("fcfs"),
    "srpt": PolicySpec("srpt"),
    "sj-mlfq (artifact)": PolicySpec("sj-mlfq", {"preset": "artifact"}),
    "las": PolicySpec("las"),
}
"""By label; what the first is simulated as."""
GUESS = {label: "oracle" if spec.needs_guess else "none" for label, spec in POLICIES.items()}
MEASURED = {"mean_jct_s": "mean JCT", "p95_jct_s": "p95 JCT"}
USES = ("vllm_served.py",)
START_S, REQUEST_S = 20, 0.2
"""For plan(): s that a server takes to start, and for each request of a run over the root of its slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A workload on so many slots, and how often it is drawn."""

    slots: int
    load: float
    requests: int
    draws: int
    arrivals: str = "poisson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    places: tuple[Place, ...]
    policies: tuple[str, ...] = (OWN, "srpt", "sj-mlfq (artifact)")
    turns: int = 2
    """servers of each contender with so many slots; the draws are dealt out to them"""
    prompt: str = "lognormal:3.2,0.6,8,128"
    output: str = "lognormal:2.5,1.8,1,1024"
    rig: ServedRig = field(default_factory=ServedRig)


BURSTS = "gamma:cv=4"
SCALES = {
    "smoke": Scale(
        places=(Place(slots=4, load=0.85, requests=30, draws=1),), turns=1, output="lognormal:2.0,1.6,1,200",
        rig=ServedRig(burst=40),
    ),
    "small": Scale(
        places=(
            Place(slots=4, load=0.9, requests=140, draws=5),
            Place(slots=16, load=0.9, requests=260, draws=4, arrivals=BURSTS),
        )
    ),
    "paper": Scale(
        places=tuple(
            Place(slots=slots, load=load, requests=200 * slots, draws=8, arrivals=arrivals)
            for slots in (4, 16) for load in (0.7, 0.8, 0.9) for arrivals in ("poisson", BURSTS)
        ),
        policies=tuple(POLICIES),
    ),
}  # fmt: skip


def cases(scale: Scale) -> list[Case]:
    """By number of slots, turn by turn; a contender's runs of one turn follow each other, on one server."""
    place = here()
    found = []
    for slots in dict.fromkeys(one.slots for one in scale.places):
        for turn in range(scale.turns):
            for label in scale.policies if turn % 2 == 0 else scale.policies[::-1]:
                rig = replace(scale.rig, slots=slots, life=turn, place=place)
                for number, one in enumerate(scale.places):
                    draws = range(one.draws)[turn :: scale.turns] if one.slots == slots else ()
                    found += [_case(scale, one, label, rig, 1000 * number + 2 * draw) for draw in draws]
    return found


def _case(scale: Scale, one: Place, label: str, rig: ServedRig, seed: int) -> Case:
    """seed: also of the prompts, so that no two runs on a server begin alike; an odd one is the warm-up's."""
    workload = Workload(
        requests=one.requests, arrivals=one.arrivals, lengths="", prompt=scale.prompt, output=scale.output
    )
    at: dict[str, str | int | float] = {
        "slots": one.slots, "arrivals": one.arrivals, "load": one.load, "policy": label, "guess": GUESS[label],
    }  # fmt: skip
    return Case(
        at=at, workload=workload, settings=Settings(load=one.load), policy=POLICIES[label], seed=seed,
        options=asdict(rig),
    )  # fmt: skip


def run(case: Case) -> Numbers:
    return replayed(case, ServedRig(**case.options))


def plan(left: Sequence[Case]) -> str:
    """A sentence on the runs ahead."""
    starts = len({(case.at["policy"], case.options["slots"], case.options["life"]) for case in left})
    seconds = START_S * starts + sum(
        REQUEST_S * case.workload.requests / float(case.at["slots"]) ** 0.5 for case in left
    )
    return (
        f"{len(left)} live runs on {starts} servers of vLLM, one after the other: about {seconds / 60:.0f} minutes "
        f"(load average now {os.getloadavg()[0]:.1f}). A killed run goes on where it was, less the live run under way"
    )


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows):
        if mine.at["policy"] == OWN:
            continue
        releases = ", ".join(sorted({str(row.numbers.get("vllm")) for row in mine.rows}))
        base = _base(rows, mine)
        for measure, name in MEASURED.items():
            told = ratio(base, mine, f"sim_{measure}")
            note = f"{len(mine.rows)} pairs" + ("" if told is None else f"; predicted {shown(told)}")
            if measure == "mean_jct_s":
                note += f"; {mine.mean('live_preemptions_per_job'):.2f} preemptions a request, guess {mine.at['guess']}"
                note += f"; vLLM {releases}"
            text = f"{_where(mine)}: {name}, vLLM's fcfs over {mine.at['policy']}, live"
            found.append(Claim("vLLM, live", text, ratio(base, mine, f"live_{measure}"), note=note))
        text = f"{_where(mine)}: tokens/s, {mine.at['policy']} over vLLM's fcfs, live"
        found.append(Claim("vLLM, live", text, ratio(mine, base, "live_output_tokens_per_s")))
    return found


def _base(rows: list[Row], mine: Point) -> Point:
    return point(rows, **{name: mine.at[name] for name in ("slots", "arrivals", "load")}, policy=OWN)


def _where(one: Point) -> str:
    how = "" if one.at["arrivals"] == "poisson" else ", in bursts"
    return f"{one.at['slots']} slots, load {one.at['load']}{how}"


def plot(rows: list[Row], folder: Path) -> None:
    """Gains over vLLM's fcfs with their intervals, the prediction hollow; and the completion times of all jobs."""
    bases = points(rows, policy=OWN)
    labels = [label for label in dict.fromkeys(str(row.at["policy"]) for row in rows) if label != OWN]

    def gains(figure: Figure) -> None:
        for axes, base in zip(cells(figure, len(bases), sharey=True), bases, strict=True):
            for start, measure in ((0.0, "mean_jct_s"), (len(labels) + 0.5, "p95_jct_s")):
                for number, label in enumerate(labels):
                    mine = next(one for one in _beside(rows, base) if one.at["policy"] == label)
                    _draw_gain(axes, start + number, base, mine, measure)
            axes.axhline(1, color="#777777", linewidth=0.6)
            middle = (len(labels) - 1) / 2
            axes.set_xticks([middle, len(labels) + 0.5 + middle], ["mean JCT", "p95 JCT"])
            axes.set_xlim(-0.7, 2 * len(labels) + 0.2)
            axes.set_title(_where(base))
        figure.supylabel("vLLM's fcfs over policy\n(hollow: predicted)", fontsize=8)
        legend(figure, figure.axes[0])

    def times(figure: Figure) -> None:
        panels = cells(figure, len(bases), sharey=True)
        for axes, base in zip(panels, bases, strict=True):
            for one in _beside(rows, base):
                _draw_times(axes, one)
            axes.set_xscale("log")
            axes.set_yscale("log")
            plain_log(axes.xaxis)
            axes.set_xlabel("job completion time (s)")
            axes.set_title(_where(base))
        panels[0].set_ylabel("share of jobs that take longer")
        legend(figure, panels[0])

    draw(folder, "gains", (PAGE, 2.6 * -(-len(bases) // 3)), gains)
    draw(folder, "times", (PAGE, 2.6 * -(-len(bases) // 3)), times)


def _beside(rows: list[Row], base: Point) -> list[Point]:
    return points(rows, **{name: base.at[name] for name in ("slots", "arrivals", "load")})


def _draw_gain(axes: Any, at: float, base: Point, mine: Point, measure: str) -> None:
    label = str(mine.at["policy"])
    style = look_of(label)
    for of, face, shift in (("live", style.colour, -0.12), ("sim", "white", 0.12)):
        gain = ratio(base, mine, f"{of}_{measure}")
        if gain is not None:
            axes.plot([at + shift], [gain.mean], marker=style.marker, color=style.colour, markerfacecolor=face,
                      linestyle="none", label=label if of == "live" else None)  # fmt: skip
            axes.plot([at + shift] * 2, ends(gain), color=style.colour, linewidth=0.8)


def _draw_times(axes: Any, one: Point) -> None:
    label = str(one.at["policy"])
    style = look_of("fcfs" if label == OWN else label)
    jct = np.sort(np.concatenate([row.numbers["live_jct"] for row in one.rows]))
    longer = 1 - np.arange(len(jct)) / len(jct)
    axes.plot(jct, longer, color=style.colour, linestyle=style.dash, marker=style.marker, markevery=[],
              label="vLLM's fcfs" if label == OWN else label)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("vllm_live"))
