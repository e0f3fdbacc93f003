"""Faults: what befalls replicas in the course of a run, as `--fail 2@30:back@60` and `--drain` say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from fastserve.sched.job import Job

FAIL: Final = "fail"
DRAIN: Final = "drain"
BACK: Final = "back"
FORM: Final = "REPLICA@SECONDS, or REPLICA@SECONDS:back@SECONDS"


class Fault(NamedTuple):
    """at: ns. what: FAIL, DRAIN or BACK. replica: its number."""

    at: int
    what: str
    replica: int


def faults_of(fail: Sequence[str], drain: Sequence[str], replicas: int) -> tuple[Fault, ...]:
    """By time. Raises ValueError for what cannot be read, or cannot happen."""
    found = [fault for what, texts in ((FAIL, fail), (DRAIN, drain)) for text in texts for fault in _parsed(what, text)]
    found.sort()
    up = dict.fromkeys(range(replicas), "")
    for at, what, replica in found:
        if replica not in up:
            raise ValueError(f"{what} {replica}@{at / 1e9:g}: there are replicas 0 to {replicas - 1}")
        was = up[replica]
        if (what == BACK) != bool(was) and not (was == DRAIN and what == FAIL):
            state = f"is away since its {was}" if was else "has not been away"
            raise ValueError(f"{what} {replica}@{at / 1e9:g}: replica {replica} {state} by then")
        up[replica] = "" if what == BACK else what
    return tuple(found)


def _parsed(what: str, text: str) -> list[Fault]:
    first, _, rest = text.partition(":")
    try:
        number, at = first.split("@")
        found = [Fault(_ns(at), what, int(number))]
        if rest:
            word, back = rest.split("@")
            if word != BACK or _ns(back) <= found[0].at:
                raise ValueError
            found.append(Fault(_ns(back), BACK, int(number)))
    except ValueError:
        raise ValueError(f"{what}={text!r}: give {FORM}, the second one later") from None
    return found


def _ns(text: str) -> int:
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise ValueError
    return round(seconds * 1e9)


def afresh(job: Job) -> Job:
    """The same request for another Scheduler: nothing of it has been computed."""
    return Job(
        job.id, job.arrival, job.prompt, job.limit, job.client, job.program, job.priority, job.deadline, job.guess,
        job.ids, job.tool, job.final,
    )  # fmt: skip
