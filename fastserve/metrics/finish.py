"""How a job finished: the words of the `finish` column, and the five classes that every job of a run is in once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["completed", "rejected", "truncated", "cancelled", "unfinished"]
OUTCOMES: tuple[Outcome, ...] = ("completed", "rejected", "truncated", "cancelled", "unfinished")
"""Each job of a run is one of these; their numbers sum to the run's jobs."""

COMPLETED = ("stop", "length")
"""Ended by its own token, or by the max_tokens that it asked for."""
TRUNCATED = ("truncated", "timeout", "error")
"""Lost its place though it had not come to its end: it outgrew the KV pool, its time was over, its step failed."""


GAVE_UP = "gave_up"
"""Cancelled, because its client would not wait any longer for its first token."""


def outcome_of(word: str) -> Outcome:
    """The class of one word. A word of somebody's own is the reason of a cancel (Handle.cancel)."""
    if word in COMPLETED:
        return "completed"
    if word in TRUNCATED:
        return "truncated"
    return "rejected" if word == "rejected" else "unfinished" if word == "unfinished" else "cancelled"


def is_outcome(finish: NDArray[Any], outcome: Outcome) -> NDArray[np.bool_]:
    """Which rows of a `finish` column are of this class."""
    words = [word for word in set(finish.tolist()) if outcome_of(word) == outcome]
    return np.isin(finish, words) if words else np.zeros(len(finish), dtype=bool)


def truncations(finish: NDArray[Any]) -> dict[str, int]:
    """How many were truncated, by word."""
    words = finish[is_outcome(finish, "truncated")].tolist()
    return {word: words.count(word) for word in TRUNCATED if word in words}


def same_work(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    """Whether neither of two runs of the same requests completed what the other truncated. Records of both, with `id`
    and `finish`. Who truncates more has less to do and looks quicker by it, so that there is no ratio of the two.
    """
    return not any(
        cut and cut & _ids(whole, "completed")
        for cut, whole in ((_ids(one, "truncated"), other), (_ids(other, "truncated"), one))
    )


def _ids(records: Mapping[str, NDArray[Any]], outcome: Outcome) -> set[int]:
    return set(records["id"][is_outcome(records["finish"], outcome)].tolist())
