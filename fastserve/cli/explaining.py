"""--explain: whose lives to tell, by number or by what is notable of them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from fastserve.metrics.columns import Columns
from fastserve.metrics.notable import DIFFERS, NONE, PREEMPTED, SLOWEST, WORDS, Notable, notable, ranked

Which = int | str
"""A job's number, or one of WORDS."""

WORDED = {SLOWEST: "slowest", PREEMPTED: "most preempted", DIFFERS: "policies differ most"}


def add_explain(parser: argparse._ActionsContainer, then: str, what: str = "job") -> None:
    """then: where the lives are told."""
    parser.add_argument(
        "--explain",
        action="append",
        default=[],
        metavar="WHICH",
        help=f"tell a {what}'s life: its number, or {', '.join(WORDS[:-1])} or {WORDS[-1]}; may be repeated; {then}",
    )


def which(given: Iterable[str], jobs: int, rows: int, what: str = "job") -> list[Which]:
    """As asked for, each once. jobs: how many there are; rows: policies. Raises ValueError."""
    found: dict[Which, None] = {}
    for text in given:
        try:
            one: Which = int(text)
        except ValueError:
            one = text.replace("_", "-")
            if one not in WORDS:
                raise ValueError(
                    f"--explain {text}: give a {what}'s number, or {', '.join(WORDS[:-1])} or {WORDS[-1]}"
                ) from None
            if one == DIFFERS and rows < 2:
                raise ValueError(f"--explain {text}: there is one policy; give two or more, which may differ") from None
        if isinstance(one, int) and not 0 <= one < jobs:
            raise ValueError(f"--explain {one}: there is no such {what}; they are 0 to {jobs - 1}")
        found[one] = None
    return list(found)


class Picked(NamedTuple):
    """asked: a number or a word. job: None where there is none. heading: what is told before its life; empty of a
    number, which says it itself.
    """

    asked: Which
    job: int | None
    heading: str


def picked(asked: Iterable[Which], runs: Mapping[str, Columns], what: str = "job") -> list[Picked]:
    """runs: label -> records of the same requests."""
    found = []
    for one in asked:
        if isinstance(one, int):
            found.append(Picked(one, one, ""))
            continue
        job = next(iter(ranked(one, runs)), None)
        if job is None:
            found.append(Picked(one, None, f"{one}: {NONE[one]}"))
        else:
            turn = f" (turn {job.turn} of {job.program})" if job.turn else ""
            found.append(Picked(one, job.id, f"{one}: {what} {job.id}{turn}, {job.words()}"))
    return found


def stories(chosen: Iterable[Picked], told: Callable[[int], str]) -> str:
    """Each job's life once, under what was asked. told: a job's life under each policy."""
    parts: list[str] = []
    done: set[int] = set()
    for one in chosen:
        if one.job in done:
            parts.append(f"{one.heading} (told above)\n" if one.heading else "")
            continue
        life = "" if one.job is None else told(one.job)
        done |= set() if one.job is None else {one.job}
        parts.append("\n".join([part for part in (one.heading and one.heading + "\n", life) if part]))
    return "\n".join([part for part in parts if part])


def worth(runs: Mapping[str, Columns], width: int, explain: str = "--explain") -> list[str]:
    """One line, which may wrap, that names the jobs worth a look; none of a single job."""
    by: dict[str, list[Notable]] = {}
    for job in notable(runs):
        by.setdefault(" and ".join([WORDED[reason.word] for reason in job.why]), []).append(job)
    if not by:
        return []
    parts = [
        f"{why} {', '.join([f'{first.id} ({first.words()})', *[str(job.id) for job in others]])}"
        for why, (first, *others) in by.items()
    ]
    text = f"worth a look with {explain}: {'; '.join(parts)}"
    return textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
