"""ServedJob: one request, in memory while it runs and for a while after. JobRegistry: all of them by id."""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

from fastserve.engine.request import Handle, Output
from fastserve.server.api.piece_queue import PieceQueue

STATES = ("queued", "running", "preempted", "finished", "cancelled", "failed")


class Scheduling(NamedTuple):
    """Arguments of Engine.submit() for policies and the prefix cache. Times in s from the arrival.

    program, cache_salt: with the client in them where there are tokens, see Programs.
    """

    program: str = ""
    priority: int = 0
    deadline_s: float | None = None
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    tool: str = ""
    calls: str = ""
    final: bool = False
    cache_salt: str = ""
    adapter: str = ""


def pack(value: Any) -> bytes:
    """As JSON: parsed, a client's data may take twenty times the bytes that it sent."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def unpack(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogatepass"))


OVERHEAD = 2048
"""Bytes that a job takes beside its prompt, metadata and result: measured, with its places in tables."""

TOKEN_BYTES = 48
"""Bytes of a token of a prompt while its job lives: the engine has it as an integer, in two lists."""

REPEATED = ("generated_text", "request_id")
"""What of an answer repeats another part of it, and is not kept."""


def weight_of(prompt_tokens: int) -> int:
    """Bytes of a new job, metadata aside."""
    return OVERHEAD + TOKEN_BYTES * prompt_tokens


class ServedJob:
    """One request to the engine. Times in s since the epoch.

    Metadata and answer are kept packed, so that a job costs what it weighs.
    """

    __slots__ = (
        "_answer", "_metadata", "adapter", "attempts", "client", "created", "durable", "ended", "error", "handle", "id",
        "kind", "model", "output", "prompt_tokens", "started", "state", "stored",
    )  # fmt: skip

    def __init__(
        self, id: str, client: str, kind: str, model: str, prompt_tokens: int, metadata: dict[str, Any],
        durable: bool = False, created: float | None = None, adapter: str = "",
    ) -> None:  # fmt: skip
        self.id = id
        self.client = client
        self.kind = kind  # generate, chat, completion, chat completion or job
        self.model = model  # as its client calls it: an adapter's name where it has one
        self.adapter = adapter  # empty: the base model
        self.prompt_tokens = prompt_tokens
        self._metadata = pack(metadata) if metadata else b""
        self.durable = durable
        now = time.time()
        self.created = now if created is None else created
        self.started = time.monotonic() - max(0.0, now - self.created)  # the clock may be set while it lives
        self.handle: Handle | None = None  # None before it is submitted, and once it has ended
        self.ended: float | None = None
        self.state = "queued"  # final state; see current_state
        self._answer = b""
        self.output: Output | None = None  # set at its end, cleared when its group has it
        self.error: str | None = None
        self.attempts = 0  # of a durable job: failed steps
        self.stored = 0  # bytes of the request of a durable job that may be tried again

    @property
    def metadata(self) -> dict[str, Any]:
        """The client's own data, a fresh copy."""
        found: dict[str, Any] = unpack(self._metadata) if self._metadata else {}
        return found

    @property
    def answer(self) -> dict[str, Any] | None:
        """A GenerateAnswer, once it has ended; a fresh copy."""
        if not self._answer:
            return None
        found: dict[str, Any] = unpack(self._answer)
        found["generated_text"], found["request_id"] = found["text"], found["job_id"]
        found = {"cached_tokens": 0, "held_s": 0.0} | found  # one of an earlier version does not say
        found["metadata"] = self.metadata | found["metadata"]
        return found

    @answer.setter
    def answer(self, answer: dict[str, Any] | None) -> None:
        if answer is None:
            self._answer = b""
            return
        own = self.metadata
        kept = {name: value for name, value in answer.items() if name not in REPEATED}
        kept["metadata"] = {name: value for name, value in answer["metadata"].items() if own.get(name, own) != value}
        self._answer = pack(kept)

    @property
    def kept_answer(self) -> dict[str, Any] | None:
        """What of the answer is stored: all that its metadata and its other parts do not say. The setter takes it."""
        found: dict[str, Any] | None = unpack(self._answer) if self._answer else None
        return found

    def end(self, state: str, error: str | None) -> None:
        """Sets its end, at now; never before it was created, however the clock was set meanwhile."""
        self.ended = self.created + (time.monotonic() - self.started)
        self.state, self.error = state, error

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory."""
        texts = len(self.client) + len(self.error or "") + len(self.model)
        live = weight_of(self.prompt_tokens if self.ended is None else 0)
        return live + self.stored + len(self._metadata) + len(self._answer) + texts

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
    """Jobs by id: live ones, and ended ones for `hours`, at most `keep` durable ones and `keep` others; of all of them
    together at most `bytes_kept`, for which ended ones go: others before durable ones, the oldest first.

    Ages are of time.monotonic().
    """

    def __init__(self, keep: int, hours: float, bytes_kept: float = math.inf) -> None:
        self.keep = keep
        self.seconds = hours * 3600
        self.bytes_kept = bytes_kept
        self.bytes = 0  # what all of them weigh
        self.live_bytes = 0  # what those weigh that have not ended
        self.jobs: dict[str, ServedJob] = {}  # in order of arrival
        self.engine_ids: dict[int, str] = {}  # engine's id of a live job -> job id
        self._weights: dict[str, int] = {}
        self._ended: dict[bool, OrderedDict[str, float]] = {False: OrderedDict(), True: OrderedDict()}  # by durable

    def add(self, job: ServedJob, age_s: float = 0.0) -> None:
        """age_s: of its end, where it has ended."""
        self.jobs[job.id] = job
        if job.handle is not None:
            self.engine_ids[job.handle.id] = job.id
        self._weigh(job)
        if job.ended is not None:
            self._ended[job.durable][job.id] = time.monotonic() - age_s

    def end(self, job: ServedJob) -> list[ServedJob]:
        """Records that it has ended; returns the jobs that are dropped for it."""
        self._weigh(job)
        self._ended[job.durable][job.id] = time.monotonic()
        return self.expire()

    def expire(self) -> list[ServedJob]:
        """Drops what is too old, too many or too much, and returns it."""
        now = time.monotonic()
        dropped = [job for ended in self._ended.values() for job in self._prune(ended, now)]
        for ended in self._ended.values():
            while ended and self.bytes > self.bytes_kept:
                dropped.append(self._drop(ended))
        return dropped

    def has_room(self, weight: int) -> bool:
        """Whether a new job of this weight may come, if those that have ended go for it."""
        return self.live_bytes + weight <= self.bytes_kept

    def visible_to(self, client: str | None) -> Iterator[ServedJob]:
        """Newest first. client: only that client's jobs; None: all."""
        return (job for job in reversed(self.jobs.values()) if client is None or job.client == client)

    def _prune(self, ended: OrderedDict[str, float], now: float) -> Iterator[ServedJob]:
        while ended:
            at = next(iter(ended.values()))
            if len(ended) <= self.keep and at > now - self.seconds:
                return
            yield self._drop(ended)

    def _drop(self, ended: OrderedDict[str, float]) -> ServedJob:
        """The one that ended first."""
        oldest, _ = ended.popitem(last=False)
        self.bytes -= self._weights.pop(oldest)
        return self.jobs.pop(oldest)

    def _weigh(self, job: ServedJob) -> None:
        """A job that lives or has just ended. An ended one's weight does not change any more."""
        was, weighs = self._weights.get(job.id, 0), job.weight
        lived = job.id in self._weights
        self._weights[job.id] = weighs
        self.bytes += weighs - was
        if lived:
            self.live_bytes -= was
        if job.ended is None:
            self.live_bytes += weighs


def answer_of(job: ServedJob, output: Output, backend: str, estimates: bool = False) -> dict[str, Any]:
    """A GenerateAnswer. estimates: as Traits has it; its usage then is what was counted, where that is known."""
    record = output.record
    generated = len(output.token_ids)
    queued = seconds(record.get("queued")) or 0.0
    queued += seconds(record.get("preempted")) or 0.0
    took = seconds(record.get("jct_from_arrival"))
    if took is None:  # it never began; or it was truncated, and has no completion time but a time for which it ran
        took = max(0.0, (job.ended or job.created) - job.created)
        queued = min(queued, took) if generated else took
    total = job.prompt_tokens + generated
    usage: dict[str, Any] = {"prompt_tokens": job.prompt_tokens, "completion_tokens": generated, "total_tokens": total}
    if estimates:
        prompt, made = output.counted or (job.prompt_tokens, generated)
        usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        usage |= {"estimated": True} if output.counted is None else {}
    return {
        "job_id": job.id,
        "request_id": job.id,
        "text": output.text,
        "generated_text": output.text,
        "tokens_generated": generated,
        "total_tokens": total,
        "usage": usage,
        "queue_time": queued,
        "execution_time": max(0.0, took - queued),
        "completion_time": took,
        "generation_time": took,
        "time_to_first_token": seconds(record.get("ttft")),
        "tokens_per_second": generated / took if took > 0 else 0.0,
        "preemption_count": int(record.get("preemptions", 0)),
        "cached_tokens": cached_tokens(output),
        "held_s": held_s(output),
        "finish_reason": output.finish_reason,
        "metadata": {**job.metadata, "model_name": job.model, "backend": backend},
    }


def cached_tokens(output: Output) -> int:
    """Of its prompt, found in the prefix cache when it first joined."""
    return output.cached_tokens


def held_s(output: Output) -> float:
    """Seconds for which its policy has held it back."""
    return seconds(output.record.get("held_s")) or 0.0


def seconds(value: Any) -> float | None:
    """A time of a record; None where it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)
