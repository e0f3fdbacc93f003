"""python -m experiments.agents_live --scale small

Claim (ours): what the simulator says of agents at once holds on a real engine. Synthetic agents, scaled to the embedded
model and a pool of a few of their contexts, in closed loop on the engine: each turn waits for the answer and goes on
with what the model itself has said. Interleaved pairs: fcfs, working-set and lpm on the same programs, one after the
other, each with a profile measured just before it and the simulation made from that profile. The flight log of each run
is replayed on a fresh Scheduler: same plans, same hits. What is found in the cache depends on when requests come, so
live and simulated hits are equal only as far as times are.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments._lib.case import TIMES, Case, Numbers, Point, Row, Workload, point, points, program_ratio, ratio
from experiments._lib.claim import Claim, shown
from experiments._lib.figure import COLUMN, draw, look_of
from experiments._lib.live import PAIR, Rig, here, sessions_pair
from experiments._lib.sweep import main
from fastserve.metrics.intervals import Ratio
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SCALES", "cases", "claims", "plot", "run"]

SYNTH = (
    "agents:programs={programs},gap=5,turns=lognormal:1.7,0.4,3,9,system=64,first=lognormal:5.2,0.6,64,500,"
    "add=lognormal:3.6,0.8,8,160,output=lognormal:2.6,0.6,4,48,think=lognormal:-0.7,0.8,0.1,2,people=0,forks=0,"
    "limit=1500,block=16"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    programs: int = 16
    sessions: int = 8
    pairs: int = 4
    policies: tuple[str, ...] = ("fcfs", "lpm", "working-set")
    rig: Rig


SCALES = {
    "smoke": Scale(
        programs=4, sessions=3, pairs=1, policies=("fcfs", "working-set"),
        rig=Rig(kv_tokens=1024, host_tokens=1024, calibrate_s=2.0),
    ),
    "small": Scale(rig=Rig(kv_tokens=3072, host_tokens=3072, calibrate_s=3.0)),
    "paper": Scale(programs=64, sessions=10, pairs=8, rig=Rig(kv_tokens=3072, host_tokens=3072, calibrate_s=6.0)),
}  # fmt: skip


def cases(scale: Scale) -> list[Case]:
    workload = Workload(requests=0, lengths="", synth=SYNTH.format(programs=scale.programs))
    options = asdict(scale.rig) | {"place": here(*PAIR)}
    return [
        Case(
            at={"agents": scale.sessions, "policy": label},
            workload=workload,
            settings=Settings(sessions=scale.sessions),
            policy=PolicySpec(label),
            seed=seed,
            options=options,
        )
        for seed in range(scale.pairs)
        for label in scale.policies
    ]


def run(case: Case) -> Numbers:
    return sessions_pair(case, Rig(**case.options))


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    base = point(rows, policy="fcfs")
    for mine in points(rows):
        label = str(mine.at["policy"])
        if label != "fcfs":
            where = f"{mine.at['agents']} agents, live: fcfs over {label}"
            told = program_ratio(_simulated(base), _simulated(mine))
            note = f"{len(mine.rows)} pairs, {_said(base, mine)}"
            note += "" if told is None else f"; predicted {shown(told)}"
            found.append(Claim("agents, live", f"{where}, program time", _live(base, mine), note=note))
            text = f"{where} simulated at the tempo of each live run of {label}, program time"
            note = "for the speed of a shared machine differs between the two runs of a pair"
            found.append(Claim("agents, live", text, _at_tempo(mine, "program_time_mean_s"), note=note))
            rate = ratio(mine, base, "live_programs_per_hour")
            predicted = ratio(mine, base, "sim_programs_per_hour")
            note = "" if predicted is None else f"predicted {shown(predicted)}"
            text = f"{mine.at['agents']} agents, live: programs an hour, {label} over fcfs"
            found.append(Claim("agents, live", text, rate, note=note))
        off = ratio(mine, _as_live(mine), "tempo_program_time_mean_s")
        note = f"hit rate simulated {mine.mean('tempo_hit_rate'):.3f}, live {mine.mean('live_hit_rate'):.3f}"
        found.append(Claim("agents, live", f"{label}: program time, simulated at the tempo over live", off, note=note))
        same = mine.mean("live_replayed")
        note = (
            f"{mine.mean('live_plans'):.0f} plans a run; the hits of {mine.mean('live_other_hits_share'):.0%} of the "
        )
        note += "requests are not those of the simulation, whose times differ"
        text = f"{label}: share of runs whose log is replayed plan by plan, hits included"
        found.append(Claim("agents, live", text, Ratio(same, None, None), note=note))
    return found


def _live(base: Point, mine: Point) -> Ratio | None:
    """Over pairs of runs, where there are enough for an interval."""
    return ratio(base, mine, "live_program_time_mean_s")


def _at_tempo(mine: Point, measure: str) -> Ratio | None:
    """fcfs simulated at the speed that the machine had in each live run of a policy, over that live run."""
    rows = tuple(Row(row.at, row.seed, {"live": row.numbers[f"tempo_fcfs_{measure}"]}) for row in mine.rows)
    live = tuple(Row(row.at, row.seed, {"live": row.numbers[f"live_{measure}"]}) for row in mine.rows)
    return ratio(Point(mine.at, rows), Point(mine.at, live), "live")


def _simulated(one: Point) -> Point:
    rows = tuple(Row(row.at, row.seed, row.numbers | {TIMES: row.numbers["sim_program_times"]}) for row in one.rows)
    return Point(one.at, rows)


def _as_live(one: Point) -> Point:
    """Its live time under the name of the simulated one."""
    name = "tempo_program_time_mean_s"
    rows = tuple(
        Row(row.at, row.seed, row.numbers | {name: row.numbers["live_program_time_mean_s"]}) for row in one.rows
    )
    return Point(one.at, rows)


def _said(base: Point, mine: Point) -> str:
    hits = " and ".join(f"{one.mean('live_hit_rate'):.2f}" for one in (base, mine))
    waits = " and ".join(f"{one.mean('live_p50_ttft_s'):.2f}" for one in (base, mine))
    return f"hit rates {hits}, median TTFT {waits} s"


def plot(rows: list[Row], folder: Path) -> None:
    """Program time of each run, live, and hollow beside it as predicted."""
    labels = [str(one.at["policy"]) for one in points(rows)]

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        for place, label in enumerate(labels):
            style = look_of(label)
            for of, face, shift in (("live", style.colour, -0.12), ("sim", "white", 0.12)):
                values = point(rows, policy=label).values(f"{of}_program_time_mean_s")
                axes.plot([place + shift] * len(values), values, marker=style.marker, color=style.colour,
                          markerfacecolor=face, linestyle="none")  # fmt: skip
        axes.set_xticks(range(len(labels)), labels)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("mean program time (s)\n(hollow: predicted)")

    draw(folder, "agents_live", (COLUMN, 2.4), fill)


if __name__ == "__main__":
    sys.exit(main("agents_live"))
