"""SentSince: what was sent to a replica after its view was true, and is not in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job

MOST = 10_000
"""Requests that are remembered of each replica: more than any view misses."""


class Sent(NamedTuple):
    """Sums over requests. prompt: tokens that the replica had to compute when it was sent; expected: output tokens."""

    requests: int
    prompt: int
    expected: int


class _Parcel(NamedTuple):
    when: int  # ns
    prompt: int
    expected: int


class SentSince:
    """A sender that adds this to an old view does not send everybody to the replica that was idle a second ago. It is
    exact as long as nothing that was sent since has ended since.
    """

    def __init__(self) -> None:
        self.now = 0  # ns: the time of the last thing that the router was told, arrivals included
        self.sent: dict[int, deque[_Parcel]] = {}  # replica -> what may be missing in its view, in order of time; who
        # is not here misses nothing

    def note(self, job: Job, replica: int, now: int, prompt: int) -> None:
        """prompt: tokens of it that the replica has to compute."""
        self.now = max(self.now, now)
        parcels = self.sent.get(replica)
        if parcels is None:
            parcels = self.sent[replica] = deque(maxlen=MOST)
        parcels.append(_Parcel(now, prompt, job.guess or 0))

    def missing(self, views: Sequence[ReplicaView], job: Job) -> list[tuple[int, Sent]]:
        """When `job` is routed, of each view in which something is missing: its index, and that."""
        self.now = max(self.now, job.arrival)
        found: list[tuple[int, Sent]] = []
        for replica in list(self.sent):
            index = min(replica, len(views) - 1)  # they are in the order of their numbers: it is not behind that
            while index >= 0 and views[index].replica > replica:
                index -= 1
            if index < 0 or views[index].replica != replica:
                continue
            parcels = self.sent[replica]
            told = self.now - views[index].age
            while parcels and parcels[0].when <= told:
                parcels.popleft()
            if parcels:
                prompt, expected = sum([one.prompt for one in parcels]), sum([one.expected for one in parcels])
                found.append((index, Sent(len(parcels), prompt, expected)))
            else:
                del self.sent[replica]
        return found

    def forget(self, replica: int) -> None:
        self.sent.pop(replica, None)
