"""What the front page, README.md, says was found: two pictures and a table, from the references, between markers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._lib.case import Row, points
from experiments._lib.claim import curve as published_curve
from experiments._lib.committed_rows import committed
from experiments._lib.figure import curve, draw, legend, look_of, plain_log
from experiments._lib.sweep import ROOT
from experiments._lib.verdicts import OTHER, Compared, Verdicts, counted
from fastserve.atomic_files import atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

README = ROOT / "README.md"
BEGIN = "<!-- begin: written by python -m experiments.table from results/reference -->"
END = "<!-- end -->"


class Picture(NamedTuple):
    """A picture in docs/img: the experiment whose committed rows it shows, what it is, and what it says."""

    experiment: str
    shows: str
    says: str


PICTURES = {
    "front-rate": Picture(
        "jct_vs_rate",
        "Mean seconds per output token over requests per second, ours and published",
        "In a burst, skip-join MLFQ keeps the time per token low up to twice the rate, as published. Mean completion "
        "times get no better there.",
    ),
    "front-agents": Picture(
        "agents",
        "Programs an hour over coding agents at once, under five policies",
        "Agents thrash once their contexts outgrow the KV pool, MLFQ or not. Holding whole programs back gets up to "
        "3 times as much done.",
    ),
}
SIZE = (4.2, 2.9)  # inches: two of them side by side fill a page of 840 pixels, with letters that can be read
PANEL = "ShareGPT OPT-13B"
PUBLISHED = ("fcfs", "sj-mlfq")
RATES = (1.1, 5.4)  # requests/s: to where the published skip-join MLFQ has crossed 0.3 s


class Line(NamedTuple):
    """A line of the table: a claim by its experiment and text, and what a newcomer reads instead."""

    experiment: str
    text: str
    said: str


LINES = (
    Line("jct_vs_rate", f"{PANEL}: rate at mean 0.3 s/token, sj-mlfq over fcfs", "rate, mean below 0.3 s per token"),
    Line("jct_vs_rate", f"{PANEL}, steady state instead of a burst: rate at mean 0.3 s/token, sj-mlfq over fcfs",
         "the same in steady state, no burst"),
    Line("jct_vs_rate", f"{PANEL}: rate at P95 0.3 s/token, sj-mlfq over fcfs", "rate, P95 below 0.3 s per token"),
    Line("goodput", "P95 goodput at 5x, sj-mlfq over fcfs", "rate at which 95 % meet an objective"),
    Line("batch_cap", "batch cap 64, 1,600 requests: rate at mean 0.25 s/token, sj-mlfq over fcfs",
         "rate with 64 slots instead of 16"),
    Line("length_ratio", "largest gain in mean s/token at load 1.5, fcfs over sj-mlfq", "largest gain in s per token"),
    Line("kv_policies", "rate at mean 0.3 s/token, proactive over recompute, visit 0",
         "rate, swapping over recomputing"),
    Line("burstiness", "largest gain in mean JCT, orca over sj-mlfq", "largest gain in completion time"),
)  # fmt: skip
"""With the paper's parameters; one a figure, and two of the first, which the protocol decides."""


def block(told: Verdicts) -> str:
    """What stands between the markers: the pictures, the table, and how all numbers came out."""
    chosen = [(_row(told, line), line.said) for line in LINES]
    lines = [
        BEGIN,
        images(),
        "",
        "FastServe's figure: gain of skip-join MLFQ | published | ours | verdict",
        "--- | ---: | ---: | ---",
        *(f"{row.figure}: {said} | {row.published} | {_short(row.shown)} | {row.verdict}" for row, said in chosen),
        "",
        _all(told.rows),
        END,
    ]
    return "\n".join(lines)


def images(root: str = "") -> str:
    """Both pictures side by side, in a table, with what they say. root: the repository, from the page's folder."""
    shown = " | ".join(f"![{one.shows}]({root}docs/img/{name}.png)" for name, one in PICTURES.items())
    return "\n".join([shown, " | ".join("---" for _ in PICTURES), " | ".join(one.says for one in PICTURES.values())])


def with_block(page: str, told: Verdicts) -> str:
    """The page with what was found between its markers. ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README} has no {BEGIN} with an {END} after it")
    return before + block(told) + after


def write(told: Verdicts) -> None:
    """Draws the pictures and renews the page. OutputError, ValueError."""
    pictures(ROOT / "docs" / "img")
    text = with_block(README.read_text(encoding="utf-8"), told)
    with atomically(README) as draft:
        draft.write_text(text, encoding="utf-8")


def pictures(folder: Path) -> None:
    """Draws both from the committed rows of the small scale, as PNG."""
    for name, (experiment, *_) in PICTURES.items():
        found = committed(experiment, "small")
        if found is None:
            raise ValueError(f"the rows of {experiment} are not committed: python -m experiments.check --accept")
        draw(folder, name, SIZE, partial(FILLS[name], rows=found.outcome.rows), ("png",))


def _rate(figure: Figure, rows: list[Row]) -> None:
    """Seconds per token over the rate, in a burst, with the published points."""
    axes: Any = figure.subplots()
    for label in ("fcfs", "sj-mlfq", "sj-mlfq (artifact)"):
        found = points(rows, panel=PANEL, protocol="burst", policy=label)
        curve(axes, [one for one in found if "load" in one.at], "rate", "mean_s_per_token", label)
        if label in PUBLISHED:
            there = published_curve("Fig. 11", PANEL, label)
            axes.plot(there.rates, there.values, color=look_of(label).colour, linestyle=":", marker=".", linewidth=1,
                      markersize=5, label=f"{label}, published", zorder=1)  # fmt: skip
    axes.axhline(0.3, color="#777777", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlim=RATES, xlabel="requests per second", ylabel="mean s per output token")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.set_title("a burst of 400 requests: up to twice the rate below 0.3 s")
    legend(figure, axes, 3)


def _agents(figure: Figure, rows: list[Row]) -> None:
    """Programs an hour over agents at once, of the recorded coding agents."""
    axes: Any = figure.subplots()
    for label in ("fcfs", "sj-mlfq", "lpm", "thunder", "working-set"):
        found = points(rows, part="curve", trace="recorded", policy=label)
        curve(axes, found, "agents", "programs_per_hour", label)
    axes.set(ylim=(0, None), xlabel="coding agents at once", ylabel="programs an hour")
    axes.set_xticks(sorted({int(row.at["agents"]) for row in rows if row.at["part"] == "curve"}))
    axes.set_title("agents thrash once their contexts outgrow the KV pool")
    legend(figure, axes, 3)


FILLS = {"front-rate": _rate, "front-agents": _agents}


def _row(told: Verdicts, line: Line) -> Compared:
    """The first number with this text: where there are several, the others are of the paper's range."""
    for row in told.rows:
        if (row.experiment, row.text) == (line.experiment, line.text):
            return row
    raise ValueError(f"{line.experiment} claims nothing like {line.text!r}: mend LINES in {Path(__file__).name}")


def _short(shown: str) -> str:
    """Without the note in brackets, and in one line."""
    return shown.partition(" (")[0].replace(" ", "\N{NO-BREAK SPACE}")


def _all(rows: Sequence[Compared]) -> str:
    """One sentence on all numbers, and where they are."""
    parts = []
    for who, mine in (
        ("FastServe's papers", [row for row in rows if row.whose != OTHER]),
        ("works on agents", [row for row in rows if row.whose == OTHER]),
    ):
        if mine:
            parts.append(f"of {len(mine)} numbers of {who}: {counted(mine)}")
    said = "; ".join(parts)
    return (
        f"{said[:1].upper()}{said[1:]}. [Each beside ours, and why](experiments/README.md); close: our interval misses "
        "the published number by less than 15 %."
    )
