"""Running totals of ended jobs, and the last RECENT of them for rates and percentiles."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from fastserve.engine.request import Output
from fastserve.server.jobs.jobs import ServedJob, cached_tokens, held_s, seconds
from fastserve.server.telemetry.hit_history import HitHistory

RECENT = 1000


class End(NamedTuple):
    """One job that has ended. Times in s; None where there was none."""

    reason: str
    at: float  # since the epoch
    tokens: int
    jct: float | None
    ttft: float | None
    tpot: float | None


class Totals:
    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.tokens = 0
        self.seconds = 0.0  # sum of completion times
        self.recomputed = 0
        self.stalled = 0.0
        self.preempted = 0.0
        self.moved = 0  # bytes between the pools
        self.held = 0.0  # s for which policies held requests back
        self.hits = HitHistory()
        self.loaded = 0  # prompt tokens that were found on the host, and loaded
        self.ends: deque[End] = deque(maxlen=RECENT)

    def ended(self, job: ServedJob, output: Output) -> None:
        record = output.record
        jct = seconds(record.get("jct_from_arrival"))
        self.reasons[output.finish_reason] += 1
        self.tokens += len(output.token_ids)
        self.seconds += jct or 0.0
        self.recomputed += int(record.get("recomputed_tokens", 0))
        self.stalled += seconds(record.get("stalled")) or 0.0
        self.preempted += seconds(record.get("preempted")) or 0.0
        self.moved += int(record.get("swapped_out_bytes", 0)) + int(record.get("swapped_in_bytes", 0))
        self.held += held_s(output)
        if record.get("service", 0) > 0:  # else it has never begun, and looked for nothing
            self.hits.add(len(output.prompt_token_ids), cached_tokens(output))
            self.loaded += int(record.get("cached_host_tokens", 0))
        ttft = seconds(record.get("ttft"))
        tpot = seconds(record.get("tpot_excl_first"))
        self.ends.append(End(output.finish_reason, job.ended or 0.0, len(output.token_ids), jct, ttft, tpot))

    @property
    def count(self) -> int:
        return self.reasons.total()

    def share(self, *reasons: str) -> float:
        """Share of the recent jobs with one of these finish reasons, 0 to 1."""
        return sum(end.reason in reasons for end in self.ends) / len(self.ends) if self.ends else 0.0

    def recent(self) -> dict[str, float]:
        """Values for alerts."""
        p99 = percentiles([end.jct for end in self.ends], 99)["p99"]
        return {"error_rate": self.share("error"), "latency_p99": p99 or 0.0}


def percentiles(values: Iterable[float | None], *at: int) -> dict[str, float | None]:
    """mean, and pNN by nearest rank, of the values that are not None."""
    there = sorted([value for value in values if value is not None])
    found: dict[str, float | None] = {"mean": sum(there) / len(there) if there else None}
    for percent in at:
        rank = max(0, -(-percent * len(there) // 100) - 1)
        found[f"p{percent}"] = there[rank] if there else None
    return found
