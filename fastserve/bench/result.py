"""Result: the measurements of a run, as records with the columns of a simulated run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastserve.bench.call import CANCELLED, REJECTED, TRUNCATED, UNFINISHED, Call, Reply
from fastserve.metrics.finish import GAVE_UP
from fastserve.metrics.records import COLUMNS, Columns
from fastserve.metrics.sessions import measured
from fastserve.metrics.summary import Slo, Summary, summarise, with_not_arrived
from fastserve.workload.session import Sessions

Loop = Literal["open", "closed", "capped", "sessions"]

LATE_NS = 10_000_000
"""p99 dispatch lag above which a run is reported as late."""

UNKNOWN = (
    "recomputed_tokens", "cached_host_tokens", "evicted_tokens", "overruled", "draft_tokens", "accepted_tokens",
    "swapped_out_bytes", "swapped_in_bytes",
)  # fmt: skip
"""Integer columns unknown to a client: always 0."""

MORE_COLUMNS: dict[str, str] = {
    "sent": "f8",  # s after the start: when it was sent
    "lag": "f8",  # s from when it was due (and, with max_concurrency, had a slot) to its send
    "latency_from_send": "f8",  # s; nan if it was not completed
    "ttft_from_send": "f8",  # s; nan without a token
    "asked_tokens": "i8",  # requested output length
    "events": "i8",  # that carried tokens
    "status": "i8",  # HTTP; 0 without an answer
    "error": "O",
}
"""Beside records.COLUMNS: name -> numpy kind."""


@dataclass(slots=True, eq=False, repr=False)
class Sample:
    """A call that was sent, and its reply. Times: perf_counter ns."""

    call: Call
    arrival: int
    """Start of its completion time: when it was due; in a closed loop, when its slot became free."""
    ready: int
    """Earliest time at which it could be sent."""
    reply: Reply = field(default_factory=Reply)

    @property
    def lag(self) -> int:
        return self.reply.sent - self.ready

    @property
    def first(self) -> int | None:
        return self.reply.stamps[0] if self.reply.stamps else None

    @property
    def last(self) -> int:
        """The last token of a complete response; of any other, when the exchange was over."""
        whole = self.reply.completed or self.reply.truncated
        return self.reply.stamps[-1] if whole and self.reply.stamps else self.reply.closed


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Result:
    """One run. Times: perf_counter ns; in records, seconds since `started`."""

    samples: list[Sample]
    """Of the calls that were sent, in their order."""
    planned: int
    """Number of calls in the schedule."""
    started: int
    ended: int
    """When the last response ended or was aborted."""
    date: float
    """Of `started`, s since the epoch."""
    loop: Loop
    """open: calls are sent when due. capped: when due and a slot is free. closed: when a slot is free. sessions: when
    what they wait for was answered."""
    max_concurrency: int | None = None
    interrupted: bool = False
    sessions: Sessions | None = None
    """Of a run of sessions, as it has left them."""

    @property
    def abandoned(self) -> int:
        """Requests that never came, because one before them was not completed."""
        return 0 if self.sessions is None else len(self.sessions.abandoned)

    @property
    def completed(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.reply.completed]

    @property
    def truncated(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.reply.truncated]

    @property
    def duration_s(self) -> float:
        """From the start of the schedule to the last end."""
        return (self.ended - self.started) / 1e9

    def lags_ms(self) -> NDArray[np.float64]:
        """Dispatch lag of each call that was sent."""
        return np.array([sample.lag for sample in self.samples if sample.reply.sent], float) / 1e6

    @property
    def late(self) -> bool:
        """Whether the p99 dispatch lag is above 10 ms: the offered load was not the scheduled one."""
        lags = self.lags_ms()
        return bool(len(lags)) and float(np.percentile(lags, 99)) > LATE_NS / 1e6

    def columns(self) -> Columns:
        """One row per call sent: the columns of fastserve.metrics.records, then MORE_COLUMNS.

        Values unknown to a client are NaN; counts are 0 (see UNKNOWN; preemptions too, unless the server reports them).
        A request that failed during its response is `unfinished`: its time so far is a lower bound.
        """
        rows = [self._row(sample) for sample in self.samples]
        kinds = COLUMNS | MORE_COLUMNS
        if self.sessions is not None:  # by id: sent in another order
            rows.sort(key=lambda row: row["id"])
            turns = self.sessions.turns
            for row in rows:
                row["turn"] = turns[row["id"]]
        return {name: np.array([row[name] for row in rows], dtype=kind) for name, kind in kinds.items()}

    def summary(self, slo: Slo | None = None) -> Summary:
        """metrics.summarise() over the records, from intended arrivals; None for values unknown to a client. Of a run
        of sessions with the measures of programs.
        """
        if self.sessions is not None:
            found = self.measured(slo)[0]
        else:
            found = summarise(self.columns(), horizon_s=self.duration_s, slo=slo)
            found = with_not_arrived(found, self.planned - len(self.samples))
        unknown = [
            "recomputed_tokens", "recomputed_share", "cached_host_tokens", "host_hit_rate", "swapped_out_gib",
            "swapped_in_gib", "evicted_tokens", "evicted_share", "draft_tokens", "accepted_tokens",
        ]  # fmt: skip
        if not self.knows("preemptions"):
            unknown.append("preemptions_per_job")
        if not self.knows("cached_tokens"):
            unknown += ["cached_tokens", "hit_rate"]
        if not self.knows("held_s"):
            unknown += ["held_mean_s", "held_max_s"]
        return found | dict.fromkeys(unknown)

    def programs(self) -> Columns:
        """A row per program that has begun (metrics.programs.PROGRAM_COLUMNS). ValueError without sessions."""
        return self.measured()[1]

    def measured(self, slo: Slo | None = None) -> tuple[Summary, Columns]:
        """Of a run of sessions: all measures, and the table of programs."""
        sessions = self.sessions
        if sessions is None:
            raise ValueError("this run had no sessions, and so it has no programs")
        return measured(
            self.columns(), sessions.names, sessions.members, sessions.abandoned, horizon_s=self.duration_s,
            at_once=sessions.settings.sessions, after=sessions.repeats, slo=slo,
        )  # fmt: skip

    @property
    def knows_preemptions(self) -> bool:
        return self.knows("preemptions")

    def knows(self, what: Literal["preemptions", "cached_tokens", "held_s"]) -> bool:
        """Whether the server has told it of every completed request."""
        return bool(self.samples) and all(getattr(sample.reply, what) is not None for sample in self.completed)

    def count(self, which: Callable[[Sample], bool]) -> int:
        return sum([which(sample) for sample in self.samples])

    def _row(self, sample: Sample) -> dict[str, Any]:
        request, reply = sample.call.request, sample.reply
        finish = reply.finish or UNFINISHED
        first, last, tokens = sample.first, sample.last, reply.tokens
        ended = reply.completed or finish in (CANCELLED, GAVE_UP, TRUNCATED)
        jct = nan if finish in (REJECTED, TRUNCATED) else (last - sample.arrival) / 1e9
        gaps = np.diff(np.frombuffer(reply.stamps, np.int64)) if len(reply.stamps) > 1 else None
        prompt = request.prompt if reply.prompt_tokens is None else reply.prompt_tokens
        known = dict.fromkeys(COLUMNS, nan) | {
            "id": request.id,
            "arrival": (sample.arrival - self.started) / 1e9,
            "prompt_tokens": prompt,
            "output_tokens": tokens,
            "finish": finish,
            "first_token": nan if first is None else (first - self.started) / 1e9,
            "end": (last - self.started) / 1e9 if ended or finish == REJECTED else nan,
            "jct_from_arrival": jct,
            "ttft": nan if first is None else (first - sample.arrival) / 1e9,
            "s_per_token": jct / tokens if tokens else nan,
            "tpot_excl_first": _tpot(sample) if ended else nan,
            "largest_gap": nan if gaps is None else float(gaps.max()) / 1e9,
            "preemptions": reply.preemptions or 0,
            "cached_tokens": reply.cached_tokens or 0,
            "held_s": nan if reply.held_s is None else reply.held_s,
            "turn": 0,
            **dict.fromkeys(UNKNOWN, 0),
            "client": request.client,
            "program": request.program,
            "priority": request.priority,
            "slo_class": request.slo_class,
            **dict(zip(("ttft_slo", "tpot_slo", "e2e_slo"), request.slo.seconds(), strict=True)),
        }
        return known | {
            "sent": (reply.sent - self.started) / 1e9 if reply.sent else nan,
            "lag": sample.lag / 1e9 if reply.sent else nan,
            "latency_from_send": (last - reply.sent) / 1e9 if reply.completed else nan,
            "ttft_from_send": nan if first is None else (first - reply.sent) / 1e9,
            "asked_tokens": request.output,
            "events": len(reply.stamps),
            "status": reply.status,
            "error": reply.error,
        }


def _tpot(sample: Sample) -> float:
    """s per token after the first; NaN below two tokens, or without streaming."""
    reply, first = sample.reply, sample.first
    if first is None or reply.tokens < 2 or not reply.streamed:
        return nan
    return (sample.last - first) / 1e9 / (reply.tokens - 1)
