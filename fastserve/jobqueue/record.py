"""QueuedJob: one job of the queue, as the routes of servers and gateways show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import TypedDict

from fastserve.jobqueue.states import ENDED, TASK_STATES, TaskState

FIELDS = ("client", "model", "state", "created", "started", "ended", "error", "figures", "metadata")
"""Of its hash, what is shown."""

FIGURES = ("prompt_tokens", "tokens_generated", "preemptions", "cached_tokens", "held_s", "reason")


MOST_TASKS = 1000
"""Tasks that one list shows: each comes with its result."""


class Task(TypedDict):
    """A job in Celery's terms. result: the text when it succeeded, the error message when it failed."""

    task_id: str
    status: TaskState
    result: str | None


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """Times: s since the epoch. position: among those that wait, 1 is next by arrival; None once it has begun."""

    id: str
    client: str
    model: str
    state: str
    created: float
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] | None = None
    position: int | None = None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    def summary(self) -> dict[str, Any]:
        """As one of GET /jobs."""
        return {
            "job_id": self.id, "kind": "job", "state": self.state, "durable": True, "client": self.client,
            "model": self.model, "created": self.created, "ended": self.ended,
            "prompt_tokens": self.figures.get("prompt_tokens", 0),
            "tokens_generated": self.figures.get("tokens_generated", 0),
            "preemptions": self.figures.get("preemptions", 0),
            "cached_tokens": self.figures.get("cached_tokens", 0),
            "held_s": self.figures.get("held_s", 0.0),
            "queue_level": None, "position": self.position, "reason": self.figures.get("reason"),
            "error": self.error, "metadata": dict(self.metadata),
        }  # fmt: skip

    def view(self) -> dict[str, Any]:
        """As GET /jobs/{job_id} has it."""
        return {**self.summary(), "result": None if self.answer is None else dict(self.answer)}

    def task(self) -> Task:
        result = self.error if self.answer is None else self.answer.get("text")
        return {"task_id": self.id, "status": TASK_STATES[self.state], "result": result}


def read(id: str, values: list[bytes | None], answer: bytes | None = None, place: int | None = None) -> QueuedJob:
    """values: of FIELDS. place: counted from 0."""
    given = {name: value.decode("utf-8", "replace") for name, value in zip(FIELDS, values, strict=True) if value}
    return QueuedJob(
        id, given.get("client", ""), given.get("model", ""), given.get("state", "failed"),
        float(given.get("created", 0)), _time(given.get("started")), _time(given.get("ended")), given.get("error"),
        _object(given.get("figures")), _object(given.get("metadata")),
        None if answer is None else _object(answer.decode("utf-8", "replace")), None if place is None else place + 1,
    )  # fmt: skip


def answered(id: str, answer: Mapping[str, Any], created: float, now: float) -> dict[str, Any]:
    """A server's answer to /generate as this job's: with its id, and with the time that it has waited here."""
    took = max(0.0, now - created)
    ran = answer.get("execution_time")
    ran = ran if isinstance(ran, (int, float)) else 0.0
    tokens = answer.get("tokens_generated")
    return {
        **answer, "job_id": id, "request_id": id, "queue_time": max(0.0, took - ran), "completion_time": took,
        "generation_time": took,
        "tokens_per_second": tokens / took if isinstance(tokens, int) and took > 0 else 0.0,
    }  # fmt: skip


def figures(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What lists show of an answer: FIGURES."""
    made, total = answer.get("tokens_generated", 0), answer.get("total_tokens", 0)
    known = {
        "prompt_tokens": total - made if isinstance(total, int) and isinstance(made, int) else 0,
        "tokens_generated": made,
        "preemptions": answer.get("preemption_count", 0),
        "cached_tokens": answer.get("cached_tokens", 0),
        "held_s": answer.get("held_s", 0.0),
        "reason": answer.get("finish_reason"),
    }
    return {name: known[name] for name in FIGURES}


def packed(value: Any) -> str:
    """As JSON, short; a lone surrogate of a client's text stays an escape."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text


def _time(text: str | None) -> float | None:
    return None if text is None else float(text)


def _object(text: str | None) -> dict[str, Any]:
    """Empty for what is none: somebody else may write into this Redis, and its jobs should still be listed."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
