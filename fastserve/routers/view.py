"""ReplicaView: what is known of one replica when a request is routed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Source: TypeAlias = Literal["load", "metrics", "counted"]
"""Who told the fields of a view: a replica's GET /load or the simulator's Scheduler, a replica's Prometheus metrics, or
nobody, so that they are the sender's own counts.
"""


@dataclass(slots=True)
class ReplicaView:
    """Data; the body fills it. A router reads it during route() only, keeps none and changes none.

    `outstanding` and `outstanding_tokens` are the sender's own counts and always true. All others were true `age` ns
    ago; nothing that was sent since is in them.
    """

    replica: int  # its number, the same for as long as the run lasts; not its place among the views
    name: str
    weight: float = 1.0  # its share of the requests beside the others; > 0
    healthy: bool = True  # views that are offered to route() are
    outstanding: int = 0  # requests sent there that have not ended
    outstanding_tokens: int = 0  # prompt + guess of these, in tokens
    waiting: int = 0  # requests there without a place in the batch
    running: int = 0  # with one
    slots: int | None = None  # places in its batch; None: not known
    queued_tokens: int = 0  # prompt tokens that it still has to compute
    expected_tokens: int = 0  # output tokens still to come of its requests, by guesses
    free_tokens: int | None = None  # of its KV pool, in use by nobody and empty; None: not known
    pool_tokens: int | None = None  # of its KV pool, in all; None: not known
    cached_tokens: int = 0  # of its KV pool, in use by nobody and remembered: given up when others need the room
    age: int = 0  # ns since the fields other than outstanding and outstanding_tokens were true; 0: they are
    source: Source = "load"

    @property
    def used_tokens(self) -> int | None:
        """KV tokens that its requests hold; None: not known."""
        if self.pool_tokens is None or self.free_tokens is None:
            return None
        return self.pool_tokens - self.free_tokens - self.cached_tokens
