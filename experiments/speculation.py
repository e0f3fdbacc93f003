"""python -m experiments.speculation --scale small

Question: what do guesses of next tokens win, by batch and by load; what is won by making fewer of them where the batch
is large; and should the quanta of skip-join count tokens or time, when an iteration yields several?

A guess is right with a given probability, jobs differing by a standard deviation, drawn from the seed by job and token,
so that all rows meet the same. "always" verifies 4 guesses of every job in every iteration, "as pays" as many as the
machine's own times and what was right so far say (speculation.control). batch: a burst under fcfs, so that the batch is
always full; its tokens/s. load: sj-mlfq, batch cap 16, in units of what fcfs sustains without guesses. quanta: the same
with quanta that count time or tokens, guesses as pays or none, in units of what fcfs sustains with as many guesses.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.case import At, Case, Row, Workload, points, ratio
from experiments._lib.claim import Claim, compared
from experiments._lib.figure import PAGE, draw, plain_log
from experiments._lib.sweep import main
from fastserve.policies.spec import PolicySpec
from sim.report.style import BLACK, BLUE, GREEN, ORANGE, Look
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 4
WAYS = {
    "none": Look(BLACK, "o", "-"),
    "always": Look(ORANGE, "s", "--"),
    "as pays": Look(BLUE, "^", "-"),
}
QUANTA = {"time": Look(BLACK, "o", "-"), "tokens": Look(GREEN, "v", "--")}
MEASURES = (("mean_jct_s", "mean JCT"), ("p99_jct_s", "P99 JCT"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers across all rows"""
    requests: int = 200
    """of a run"""
    lengths: str = "sharegpt"
    """profile of lengths"""
    machines: tuple[str, ...] = ("opt-13b-a100", "roofline:llama-3-8b/a100-80g")
    """of the batches; the first one of all else"""
    batches: tuple[int, ...] = (1, 8, 64, 256)
    """batch caps"""
    acceptances: tuple[float, ...] = (0.3, 0.6, 0.9)
    """of the batches; the middle one of all else"""
    spread: float = 0.2
    """between jobs, where an acceptance has room for it"""
    loads: tuple[float, ...] = (0.3, 0.6, 0.9, 1.2)
    """in units of what fcfs sustains without guesses"""
    pressures: tuple[float, ...] = (0.8, 1.0, 1.3)
    """of the quanta: in units of what fcfs sustains with the same guesses"""
    cv: float = 2.0
    """of the gaps between arrivals"""

    @property
    def usual(self) -> float:
        return self.acceptances[len(self.acceptances) // 2]


SCALES = {
    "smoke": Scale(
        seeds=2, requests=40, machines=("opt-13b-a100",), batches=(1, 128), acceptances=(0.6,), loads=(0.9,),
        pressures=(1.0,),
    ),
    "small": Scale(),
    "paper": Scale(
        seeds=10, requests=3000, batches=(1, 2, 4, 8, 16, 32, 64, 128, 256), acceptances=(0.1, 0.3, 0.6, 0.8, 0.9),
        loads=(0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.6),
        pressures=(0.7, 0.8, 0.9, 1.0, 1.1, 1.3),
    ),
}  # fmt: skip


def guessing(way: str, p: float, spread: float) -> str | None:
    """The setting `speculate`."""
    return None if way == "none" else f"{'fixed:' if way == 'always' else ''}{MOST}:{p:g}:{min(spread, p / 2):g}"


def cases(scale: Scale) -> list[Case]:
    return [*_batches(scale), *_loads(scale)]


def _batches(scale: Scale) -> list[Case]:
    """All requests at once: so many in the batch until the end of the burst."""
    found = []
    for machine in scale.machines:
        for batch in scale.batches:
            burst = Workload(requests=max(scale.requests, 2 * batch), lengths=f"profile:{scale.lengths}")
            plain = Settings(latency=machine, kv_tokens="unlimited", max_batch=batch, token_budget=2048, rate=1e6)
            for p in scale.acceptances:
                for way in WAYS:
                    at: At = {"part": "batch", "machine": machine, "batch": batch, "p": p, "guesses": way}
                    settings = plain.with_(speculate=guessing(way, p, scale.spread))
                    found += [Case(at=at, workload=burst, settings=settings, seed=seed) for seed in range(scale.seeds)]
    return found


def _loads(scale: Scale) -> list[Case]:
    found: list[Case] = []
    workload = Workload(requests=scale.requests, arrivals=f"gamma:cv={scale.cv:g}", lengths=f"profile:{scale.lengths}")
    plain = Settings(latency=scale.machines[0], max_batch=16)
    ways = {way: plain.with_(speculate=guessing(way, scale.usual, scale.spread)) for way in WAYS}

    def add(at: At, settings: Settings, rate: float, quanta: str) -> None:
        policy = PolicySpec("sj-mlfq", {"quanta": quanta})
        paced = settings.with_(rate=rate)
        found.extend(
            Case(at=at, workload=workload, settings=paced, policy=policy, seed=seed) for seed in range(scale.seeds)
        )

    for load in scale.loads:
        for way, settings in ways.items():
            add({"part": "load", "load": load, "guesses": way}, settings, load * workload.sustained_rate(plain), "time")
    for load in scale.pressures:
        for way in ("none", "as pays"):
            rate = load * workload.sustained_rate(ways[way])
            for quanta in QUANTA:
                add({"part": "quanta", "load": load, "guesses": way, "quanta": quanta}, ways[way], rate, quanta)
    return found


def claims(rows: list[Row]) -> list[Claim]:
    return [*_by_batch(rows), *_by_load(rows), *_by_quanta(rows)]


def _by_batch(rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows, part="batch", guesses="as pays"):
        where = {name: mine.at[name] for name in ("machine", "batch", "p")}
        text = "{machine}, batch {batch}, acceptance {p}: tokens/s, ".format(**where)
        for way, over in (("as pays", "none"), ("as pays", "always")):
            one, other = (points(rows, part="batch", guesses=each, **where)[0] for each in (way, over))
            gain = ratio(one, other, "output_tokens_per_s")
            note = f"{one.mean('tokens_per_decode'):.2f} tokens a job and iteration"
            found.append(Claim("speculation by batch", f"{text}{way} over {over}", gain, note=note))
    return found


def _by_load(rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows, part="load", guesses="as pays"):
        for way in ("none", "always"):
            other = points(rows, part="load", load=mine.at["load"], guesses=way)[0]
            for measure, name in MEASURES:
                gain, mark = compared(other, mine, measure)
                text = f"load {mine.at['load']:g}: {name}, guesses {way} over as pays"
                found.append(Claim("speculation by load", text, gain, note=mark))
    return found


def _by_quanta(rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows, part="quanta", quanta="tokens"):
        where = {name: mine.at[name] for name in ("load", "guesses")}
        other = points(rows, part="quanta", quanta="time", **where)[0]
        for measure, name in MEASURES:
            gain, mark = compared(other, mine, measure)
            text = "load {load}, guesses {guesses}: ".format(**where)
            found.append(Claim("quanta", f"{text}{name}, quanta of time over quanta of tokens", gain, note=mark))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    machines = list(dict.fromkeys(str(row.at["machine"]) for row in rows if row.at["part"] == "batch"))
    shares = sorted({float(row.at["p"]) for row in rows if row.at["part"] == "batch"})
    size = (PAGE, 1.2 + 1.7 * len(machines))
    draw(folder, "speculation_batch", size, lambda figure: _draw_batches(figure, rows, machines, shares))
    draw(folder, "speculation_load", (PAGE, 2.6), lambda figure: _draw_loads(figure, rows))


def _draw_batches(figure: Figure, rows: list[Row], machines: list[str], shares: list[float]) -> None:
    grid: Any = figure.subplots(len(machines), len(shares), squeeze=False, sharex=True, sharey="row")
    for line, machine in zip(grid, machines, strict=True):
        for axes, p in zip(line, shares, strict=True):
            for way in ("always", "as pays"):
                gains = []
                for mine in points(rows, part="batch", machine=machine, p=p, guesses=way):
                    plain = points(rows, part="batch", machine=machine, p=p, guesses="none", batch=mine.at["batch"])[0]
                    gain = ratio(mine, plain, "output_tokens_per_s")
                    gains.append((float(mine.at["batch"]), gain))
                _line(axes, gains, WAYS[way], f"{MOST} guesses, {way}")
            axes.set_xscale("log", base=2)
            axes.set_xticks([batch for batch, _ in gains], [f"{batch:g}" for batch, _ in gains])
            axes.set_title(f"{machine.removeprefix('roofline:')},\nacceptance {p:g}")
    figure.supxlabel("batch", fontsize=8)
    figure.supylabel("tokens/s over no guesses", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)


def _draw_loads(figure: Figure, rows: list[Row]) -> None:
    panels: Any = figure.subplots(1, 3)
    for axes, (measure, name) in zip(panels, MEASURES, strict=False):
        for way, style in WAYS.items():
            shown = points(rows, part="load", guesses=way)
            loads = [float(one.at["load"]) for one in shown]
            axes.plot(loads, [one.mean(measure) for one in shown], color=style.colour, marker=style.marker,
                      linestyle=style.dash, label=f"guesses: {way}")  # fmt: skip
        axes.set_yscale("log")
        plain_log(axes.yaxis)
        axes.set_xlabel("load")
        axes.set_ylabel(f"{name} (s)")
    panels[0].legend(fontsize=6)
    for way, style in (("none", WAYS["none"]), ("as pays", WAYS["as pays"])):
        gains = []
        for mine in points(rows, part="quanta", guesses=way, quanta="tokens"):
            other = points(rows, part="quanta", guesses=way, quanta="time", load=mine.at["load"])[0]
            gains.append((float(mine.at["load"]), compared(other, mine, "mean_jct_s")[0]))
        _line(panels[2], gains, style, f"guesses: {way}")
    panels[2].set_xlabel("load, of what is sustained so")
    panels[2].set_ylabel("mean JCT: time / tokens")
    panels[2].legend(fontsize=6)


def _line(axes: Axes, gains: list[tuple[float, Any]], style: Look, label: str) -> None:
    """Ratios with their intervals, and a line at 1."""
    there = [(x, gain) for x, gain in gains if gain is not None]
    means = [gain.mean for _, gain in there]
    error = [[mean - (gain.low or mean) for mean, (_, gain) in zip(means, there, strict=True)],
             [(gain.high or mean) - mean for mean, (_, gain) in zip(means, there, strict=True)]]  # fmt: skip
    axes.errorbar([x for x, _ in there], means, yerr=error, color=style.colour, marker=style.marker, markersize=3,
                  linestyle=style.dash, label=label)  # fmt: skip
    axes.axhline(1, color="#777777", linewidth=0.6)


if __name__ == "__main__":
    sys.exit(main("speculation"))
