"""Call: one request of a benchmark. Reply: its response, as measured."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from fastserve.metrics.finish import GAVE_UP
from fastserve.workload.requests import TraceRequest
from fastserve.workload.trace import IntArray

UNFINISHED = "unfinished"
REJECTED = "rejected"
CANCELLED = "cancelled"
TRUNCATED = "truncated"


Messages = list[dict[str, str]]
"""Of a chat: role and content."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call:
    """One request to send."""

    request: TraceRequest
    """Arrives when it is due."""
    prompt: IntArray | str | Messages
    """Token ids, text or a chat's messages, meant to have `request.prompt` tokens."""
    tool: str = ""
    """Whose result the prompt brings."""
    calls: str = ""
    """The tool that the answer calls, as the trace knows beforehand."""

    @property
    def due(self) -> int:
        """ns after the start of the run: the intended arrival."""
        return self.request.arrival


@dataclass(slots=True, eq=False, repr=False)
class Reply:
    """Filled while the response arrives; an interrupted one is partial. Times: perf_counter ns."""

    sent: int = 0
    """When the client started to send it (connecting included); 0 before."""
    stamps: array[int] = field(default_factory=lambda: array("q"))
    """Arrival of each event that carries tokens."""
    closed: int = 0
    """When the exchange was over; 0 before."""
    status: int = 0
    """HTTP status; 0: no response."""
    finish: str = ""
    """stop, length, truncated, cancelled, gave_up, rejected, unfinished, as in metrics.finish; "" while in progress."""
    error: str = ""
    asked: int = 0
    """Output tokens that the request allowed at least; 0: not known."""
    prompt_tokens: int | None = None
    """The server's count, None where it reports none; likewise the next two."""
    output_tokens: int | None = None
    preemptions: int | None = None
    cached_tokens: int | None = None
    """Of the prompt, found in a prefix cache."""
    held_s: float | None = None
    """How long the server's policy held it back."""
    streamed: bool = True
    text: list[str] | None = None
    """The output text, where it is kept."""
    token_ids: list[int] = field(default_factory=list)
    """Of the output, where the server tells them."""

    @property
    def tokens(self) -> int:
        """Output tokens: the server's count, else events."""
        return len(self.stamps) if self.output_tokens is None else self.output_tokens

    @property
    def completed(self) -> bool:
        return self.finish not in ("", UNFINISHED, REJECTED, CANCELLED, GAVE_UP, TRUNCATED)

    @property
    def truncated(self) -> bool:
        """The server cut it short, in an answer that is whole otherwise."""
        return self.finish == TRUNCATED

    def fail(self, error: str, finish: str = UNFINISHED) -> None:
        """Records a failure; only the first one is kept."""
        if not self.error:
            self.error, self.finish = error, finish
