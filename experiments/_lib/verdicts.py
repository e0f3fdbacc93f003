"""What was reproduced, from the claims of the references: the tally, the verdicts by figure, and reasons as notes.

Made for experiments/README.md and the table on the front page; everything is counted, nothing typed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

VERDICTS = ("yes", "close", "no", "open")
PAPER, ARTIFACT = "the paper's parameters", "the artifact's parameters"
UNAGED, OTHER = "the paper's, without ageing", "no parameters of FastServe's"
"""whose parameters the policy has that a number is about"""
FASTSERVE = {
    "Fig. 11": "rate, mean below 0.3 s per token",
    "Fig. 12": "rate, P95 below 0.3 s per token",
    "Fig. 13": "rate at which 95 % meet an objective",
    "Fig. 14": "rate with 64 and 128 slots",
    "Fig. 16": "largest gain over ratios of lengths",
    "Fig. 17a": "rate, by what becomes of preempted KV",
    "Fig. 17b": "share of the time spent swapping",
    "v1": "largest gains in completion time",
    "headline": "the same live, on our engine",
}
"""Figures of FastServe's papers, in their order, and what each compares."""
AGENTS = {
    "agent-sched-bench": "coding agents under schedulers for programs",
    "store or admission": "host memory for contexts, against holding agents back",
    "ThunderAgent": "programs an hour",
    "CONCUR": "holding agents back by the hit rate",
    "thrash curve": "throughput over agents at once",
    "Continuum": "pinning contexts between turns",
    "Autellix": "programs of short contexts",
    "SAGA": "what a better order of eviction would find",
}
"""Works on agents (2025 and 2026), and what each compares."""


class Compared(NamedTuple):
    """A published number beside ours."""

    experiment: str
    figure: str
    text: str
    published: str
    shown: str
    verdict: str
    whose: str
    """PAPER, ARTIFACT, UNAGED or OTHER"""
    notes: tuple[int, ...]
    """of the reasons, from 1; none where they agree"""


class Verdicts(NamedTuple):
    """All published numbers in the order of the figures, and the reasons by number."""

    rows: list[Compared]
    reasons: list[str]


def verdicts(found: Mapping[str, Mapping[str, Any]]) -> Verdicts:
    """Of references by experiment. A reason gets the number of its first use."""
    order = [*FASTSERVE, *AGENTS]
    named = [(name, claim) for name, known in found.items() for claim in known["claims"] if claim["published"]]
    named.sort(key=lambda one: order.index(_figure(one[1])) if _figure(one[1]) in order else len(order))
    apart = _apart([claim["why"] for _, claim in named])
    numbers: dict[str, int] = {}
    rows = []
    for name, claim in named:
        why = apart[claim["why"]] if claim["verdict"] != "yes" else []
        notes = tuple(numbers.setdefault(one, len(numbers) + 1) for one in why)
        figure = _figure(claim)
        rows.append(
            Compared(name, figure, claim["text"], claim["published"], claim["shown"], claim["verdict"],
                     _whose(figure, claim["text"]), notes)
        )  # fmt: skip
    return Verdicts(rows, list(numbers))


def _apart(texts: Iterable[str]) -> dict[str, list[str]]:
    """Each text as the reasons that it is made of: clauses, joined where they occur together in every text."""
    clauses = {text: text.split("; ") if text else [] for text in texts}
    within = {
        clause: tuple(text for text in clauses if clause in clauses[text])
        for each in clauses.values()
        for clause in each
    }
    return {
        text: ["; ".join(group) for _, group in groupby(each, key=within.__getitem__)] for text, each in clauses.items()
    }


def _figure(claim: Mapping[str, Any]) -> str:
    """Without the mark of the numbers that the paper gives as a range."""
    return str(claim["figure"]).partition(", range")[0]


def _whose(figure: str, text: str) -> str:
    if figure in AGENTS:
        return OTHER
    return ARTIFACT if "(artifact)" in text else UNAGED if "(no aging)" in text else PAPER


def counted(rows: Iterable[Compared]) -> str:
    """3 yes, 2 no"""
    found = Counter(row.verdict for row in rows)
    return ", ".join(f"{found[verdict]}\N{NO-BREAK SPACE}{verdict}" for verdict in VERDICTS if found[verdict])


def tally(rows: Sequence[Compared]) -> list[str]:
    """The lines of a table: by whose parameters, how many published numbers there are and how ours compare."""
    lines = ["", "compared with | numbers | yes | close | no | open", "--- | ---: | ---: | ---: | ---: | ---:"]
    groups = {
        f"FastServe, with {PAPER}": [row for row in rows if row.whose == PAPER],
        f"FastServe, with {ARTIFACT}": [row for row in rows if row.whose == ARTIFACT],
        f"FastServe, with {UNAGED}": [row for row in rows if row.whose == UNAGED],
        f"{len({row.figure for row in rows if row.whose == OTHER})} works on agents": [
            row for row in rows if row.whose == OTHER
        ],
        "**all**": list(rows),
    }
    for title, mine in groups.items():
        found = Counter(row.verdict for row in mine)
        if mine:
            lines.append(" | ".join([title, str(len(mine)), *(str(found[verdict]) for verdict in VERDICTS)]))
    return lines


def by_figure(rows: Sequence[Compared]) -> list[str]:
    """The lines of two tables, FastServe's figures and the works on agents: how each came out, and the reasons."""
    papers = [row for row in rows if row.whose != OTHER]
    works = [row for row in rows if row.whose == OTHER]
    lines = []
    if papers:
        lines += ["", f"FastServe's figure | gain | with {PAPER} | with {ARTIFACT} | why not"]
        lines += ["--- | --- | --- | --- | ---"]
        for figure, mine in _figures(papers):
            paper = "; ".join(part for part in (_with(mine, PAPER), _unaged(mine)) if part)
            cells = [_linked(figure), FASTSERVE.get(figure, ""), paper, _with(mine, ARTIFACT), _notes(mine)]
            lines.append(" | ".join(cells))
    if works:
        lines += ["", "works on agents | what is compared | verdicts | why not", "--- | --- | --- | ---"]
        lines += [
            " | ".join([_linked(work), AGENTS.get(work, ""), counted(mine), _notes(mine)])
            for work, mine in _figures(works)
        ]
    return lines


def _figures(rows: Sequence[Compared]) -> list[tuple[str, list[Compared]]]:
    return [
        (figure, [row for row in rows if row.figure == figure]) for figure in dict.fromkeys(row.figure for row in rows)
    ]


def _linked(figure: str) -> str:
    return f"[{figure}](#{anchor(figure)})"


def _notes(rows: Iterable[Compared]) -> str:
    return noted(sorted({note for row in rows for note in row.notes}))


def _with(rows: Iterable[Compared], *whose: str) -> str:
    return counted(row for row in rows if row.whose in whose)


def _unaged(rows: Iterable[Compared]) -> str:
    found = _with(rows, UNAGED)
    return f"without ageing {found}" if found else ""


def numbers_of(rows: Sequence[Compared], figure: str) -> list[str]:
    """A figure's section: its numbers, those of each set of parameters in a table of their own."""
    lines = ["", f"### {figure}"]
    names = dict.fromkeys(row.experiment for row in rows if row.figure == figure)
    lines += ["", f"From {', '.join(f'[`{name}`](#{name})' for name in names)}."]
    for whose in (PAPER, ARTIFACT, UNAGED, OTHER):
        mine = [row for row in rows if row.figure == figure and row.whose == whose]
        if mine:
            title = "" if whose == OTHER else f" with {whose}"
            lines += ["", f"what{title} | published | ours | agrees? | why not", "--- | --- | --- | --- | ---"]
            lines += [" | ".join([row.text, row.published, row.shown, row.verdict, noted(row.notes)]) for row in mine]
    return lines


def reasons(found: Sequence[str]) -> list[str]:
    """A numbered list."""
    return ["", *(f"{number}. {reason[:1].upper()}{reason[1:]}." for number, reason in enumerate(found, 1))]


def noted(notes: Iterable[int]) -> str:
    return ", ".join(f"[{note}](#reasons)" for note in notes)


def anchor(heading: str) -> str:
    """The link that a code host makes of a heading."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")
