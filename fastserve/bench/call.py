"""Call: one request of a benchmark before it is sent. Reply: what came of it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from fastserve.metrics.records import NO_SLO, Slo
from fastserve.workload.trace import IntArray

UNFINISHED = "unfinished"
REJECTED = "rejected"
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Call:
    """One request to send."""

    index: int
    """Dense from 0, in order of `due`."""
    due: int
    """ns after the start of the run: the intended arrival."""
    prompt: IntArray | str
    """Token ids or text."""
    prompt_tokens: int
    """How many tokens it was meant to have."""
    output_tokens: int
    """How many tokens the answer shall have: the truth, which a scheduler must not see."""
    limit: int
    """max_tokens where the truth is hidden: the same for everybody, or the client's own. At least `output_tokens`."""
    client: str = ""
    program: str = ""
    priority: int | None = None
    guess: int | None = None
    """A predictor's output tokens."""
    slo: Slo = NO_SLO
    """Objectives (TTFT, TPOT, end to end) in s; NaN where there is none."""


@dataclass(slots=True, eq=False, repr=False)
class Reply:
    """Filled while the answer comes in: an interrupted one is there as far as it got. Times: perf_counter ns."""

    sent: int = 0
    """When it was handed to the socket; 0 before. A connection may still have had to be made."""
    stamps: array[int] = field(default_factory=lambda: array("q"))
    """When each event that carries tokens came."""
    closed: int = 0
    """When nothing more could come; 0 before."""
    status: int = 0
    """HTTP status; 0: there was no answer."""
    finish: str = ""
    """stop, length, cancelled, rejected, unfinished, in the sense of fastserve.metrics.records; "" while it is open."""
    error: str = ""
    prompt_tokens: int | None = None
    """As the server counted; None where it did not say. So the next two."""
    output_tokens: int | None = None
    preemptions: int | None = None
    streamed: bool = True
    text: list[str] | None = None
    """The answer's text, where it is kept."""

    @property
    def tokens(self) -> int:
        """Output tokens: the server's count, else events."""
        return len(self.stamps) if self.output_tokens is None else self.output_tokens

    @property
    def completed(self) -> bool:
        return self.finish not in ("", UNFINISHED, REJECTED, CANCELLED)

    def fail(self, why: str, finish: str = UNFINISHED) -> None:
        """It has failed; the first failure stays."""
        if not self.error:
            self.error, self.finish = why, finish
