"""ServedJob: one request, in memory while it runs and for a while after. JobRegistry: all of them by id."""

from __future__ import annotations

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastserve.engine.request import Handle, Output
from fastserve.server.api.piece_queue import PieceQueue

STATES = ("queued", "running", "preempted", "finished", "cancelled", "failed")
END_STATES = {
    "stop": "finished",
    "length": "finished",
    "truncated": "finished",
    "cancelled": "cancelled",
    "timeout": "failed",
    "error": "failed",
}
"""Finish reason -> state of a job that has ended."""


def new_id() -> str:
    """A unique id, across processes."""
    return secrets.token_hex(12)


class Scheduling(NamedTuple):
    """Arguments of Engine.submit() for policies. Times in s from the arrival."""

    program: str = ""
    priority: int = 0
    deadline_s: float | None = None
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None


@dataclass(slots=True, eq=False)
class ServedJob:
    """One request to the engine. Times in s since the epoch."""

    id: str
    client: str
    kind: str  # generate, chat, completion, chat completion or job
    model: str
    prompt_tokens: int
    metadata: dict[str, Any]
    durable: bool = False
    created: float = field(default_factory=time.time)
    handle: Handle | None = None  # None before it is submitted, and once it has ended
    ended: float | None = None
    state: str = "queued"  # final state; see current_state
    answer: dict[str, Any] | None = None  # a GenerateAnswer, once ended
    output: Output | None = None  # set at its end, cleared when its group has it
    error: str | None = None
    attempts: int = 0  # of a durable job: failed steps

    def cancel(self, reason: str = "cancelled") -> None:
        """No effect on a job that has ended."""
        if self.handle is not None:
            self.handle.cancel(reason)

    @property
    def current_state(self) -> str:
        return self.state if self.handle is None else self.handle.state


class Group:
    """The jobs of one HTTP request, one for each choice, and the queue of their output pieces."""

    def __init__(self) -> None:
        self.jobs: list[ServedJob] = []
        self.outputs: dict[int, Output] = {}  # by choice
        self.queue = PieceQueue()

    @property
    def ended(self) -> bool:
        return len(self.outputs) == len(self.jobs)

    def cancel(self) -> None:
        for choice, job in enumerate(self.jobs):
            if choice not in self.outputs:
                job.cancel()

    async def wait(self) -> bool:
        """True when all have ended, False when the client has disconnected before."""
        while not self.ended and not self.queue.disconnected:
            await self.queue.get()
        return self.ended


class JobRegistry:
    """Jobs by id: live ones, and ended ones for `hours`, at most `keep` durable ones and `keep` others."""

    def __init__(self, keep: int, hours: float) -> None:
        self.keep = keep
        self.seconds = hours * 3600
        self.jobs: dict[str, ServedJob] = {}  # in order of arrival
        self.engine_ids: dict[int, str] = {}  # engine's id of a live job -> job id
        self._ended: dict[bool, OrderedDict[str, float]] = {True: OrderedDict(), False: OrderedDict()}  # by durable

    def add(self, job: ServedJob) -> None:
        self.jobs[job.id] = job
        if job.handle is not None:
            self.engine_ids[job.handle.id] = job.id
        if job.ended is not None:
            self._ended[job.durable][job.id] = job.ended

    def end(self, job: ServedJob) -> list[ServedJob]:
        """Records that it has ended; returns the jobs that are dropped for it."""
        assert job.ended is not None
        self._ended[job.durable][job.id] = job.ended
        return [dropped for ended in self._ended.values() for dropped in self._prune(ended, job.ended)]

    def visible_to(self, client: str | None) -> Iterator[ServedJob]:
        """Newest first. client: only that client's jobs; None: all."""
        return (job for job in reversed(self.jobs.values()) if client is None or job.client == client)

    def _prune(self, ended: OrderedDict[str, float], now: float) -> Iterator[ServedJob]:
        while ended:
            oldest, at = next(iter(ended.items()))
            if len(ended) <= self.keep and at > now - self.seconds:
                return
            del ended[oldest]
            yield self.jobs.pop(oldest)


def answer_of(job: ServedJob, output: Output, backend: str) -> dict[str, Any]:
    """A GenerateAnswer."""
    record = output.record
    generated = len(output.token_ids)
    queued = seconds(record.get("queued")) or 0.0
    queued += seconds(record.get("preempted")) or 0.0
    took = seconds(record.get("jct_from_arrival"))
    if took is None:  # it never began; or it was truncated, and has no completion time but a time for which it ran
        took = max(0.0, (job.ended or job.created) - job.created)
        queued = min(queued, took) if generated else took
    total = job.prompt_tokens + generated
    return {
        "job_id": job.id,
        "request_id": job.id,
        "text": output.text,
        "generated_text": output.text,
        "tokens_generated": generated,
        "total_tokens": total,
        "usage": {"prompt_tokens": job.prompt_tokens, "completion_tokens": generated, "total_tokens": total},
        "queue_time": queued,
        "execution_time": max(0.0, took - queued),
        "completion_time": took,
        "generation_time": took,
        "time_to_first_token": seconds(record.get("ttft")),
        "tokens_per_second": generated / took if took > 0 else 0.0,
        "preemption_count": int(record.get("preemptions", 0)),
        "finish_reason": output.finish_reason,
        "metadata": {**job.metadata, "model_name": job.model, "backend": backend},
    }


def seconds(value: Any) -> float | None:
    """A time of a record; None where it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)
