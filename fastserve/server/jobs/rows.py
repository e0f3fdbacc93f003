"""Rows of the job store as they are read. Each is checked: a disk, an editor or an older version may have had it."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

END_STATES = {
    "stop": "finished",
    "length": "finished",
    "truncated": "finished",
    "cancelled": "cancelled",
    "timeout": "failed",
    "error": "failed",
}
"""Finish reason -> state of a job that has ended."""


class DamagedRowError(ValueError):
    """What is wrong with a row."""


class Raw(NamedTuple):
    """A row as it stands; texts as bytes. rowid: its place, by which it is found whatever its id is."""

    rowid: int
    id: Any
    client: Any
    created: Any
    request: Any
    ended: Any
    state: Any
    answer: Any
    aged: Any


class Row(NamedTuple):
    """One durable job. ended, state and answer are None while it has not ended. Times: s since the epoch.

    aged: of the store, when it ended.
    """

    id: str
    client: str
    created: float
    request: dict[str, Any]
    ended: float | None
    state: str | None
    answer: dict[str, Any] | None
    aged: float | None


ANSWER: dict[str, type | tuple[type, ...]] = {
    "job_id": str, "text": (str, type(None)), "tokens_generated": int, "total_tokens": int, "usage": dict,
    "queue_time": (int, float), "execution_time": (int, float), "completion_time": (int, float),
    "time_to_first_token": (int, float, type(None)), "tokens_per_second": (int, float), "preemption_count": int,
    "finish_reason": str, "metadata": dict,
}  # fmt: skip
"""What a stored result must have."""


def row_of(raw: Raw) -> Row:
    """Raises DamagedRowError, which names the column."""
    created = _number("created", raw.created)
    request = _object("request", raw.request)
    ended = None if raw.ended is None else _number("ended", raw.ended)
    state = None if raw.state is None else text("state", raw.state)
    answer = None if raw.answer is None else _object("answer", raw.answer)
    if (ended is None) != (state is None):
        raise DamagedRowError("it has a time of its end and no state, or a state and no time")
    if state is not None and state not in END_STATES.values():
        raise DamagedRowError(f"its state is {state!r}")
    if state is not None:
        _check_result(answer)
    aged = raw.aged if isinstance(raw.aged, float) and 0 <= raw.aged < math.inf else None
    return Row(text("id", raw.id), text("client", raw.client), created, request, ended, state, answer, aged)


def text(name: str, value: Any) -> str:
    """A column of text. Raises DamagedRowError."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DamagedRowError(f"its {name} is not UTF-8 text: {error.reason}") from error
    if not isinstance(value, str) or (name == "id" and not value):
        raise DamagedRowError(f"its {name} is {'empty' if value in (None, '') else 'not text'}")
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DamagedRowError(f"its {name} is {value!r}, which is no time")
    return float(value)


def _object(name: str, value: Any) -> dict[str, Any]:
    written = text(name, value)
    try:
        found = json.loads(written, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DamagedRowError(f"its {name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DamagedRowError(f"its {name} is JSON, but not an object")
    return found


def _refuse(word: str) -> None:
    raise ValueError(f"it holds {word}")


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"the number {word} is too large")
    return number


def _check_result(stored: dict[str, Any] | None) -> None:
    """{"answer": a GenerateAnswer or null, "error": text or null}"""
    if stored is None:
        return
    if not {"answer", "error"} <= stored.keys():
        raise DamagedRowError("its answer lacks a part")
    answer, error = stored["answer"], stored["error"]
    if not isinstance(error, (str, type(None))):
        raise DamagedRowError("the error of its answer is not text")
    if answer is None:
        return
    if not isinstance(answer, dict):
        raise DamagedRowError("its answer is not an object")
    for name, kinds in ANSWER.items():
        if name not in answer or not isinstance(answer[name], kinds) or isinstance(answer[name], bool):
            raise DamagedRowError(f"its answer has no {name}, or one of another type")
