"""Call: one request of a benchmark before it is sent. Reply: what came of it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from fastserve.workload.requests import TraceRequest
from fastserve.workload.trace import IntArray

UNFINISHED = "unfinished"
REJECTED = "rejected"
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call:
    """One request to send."""

    request: TraceRequest
    """Arrives when it is due."""
    prompt: IntArray | str
    """Token ids or text, meant to have `request.prompt` tokens."""

    @property
    def due(self) -> int:
        """ns after the start of the run: the intended arrival."""
        return self.request.arrival


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
