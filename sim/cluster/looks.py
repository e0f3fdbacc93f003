"""Looks: what replicas are like at the time of a choice, filled into the views: when a router asks, or before it does.

The fields of a view are in three groups, each worked out at once: how many wait and run (and how old that is), how much
work there is, how much room. A router that goes by its own counts asks for none, and then nobody is looked at. One that
has asked for a group of all views that it was offered will do so again: from then on they are filled in before it is
asked, as plain data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastserve.routers.view import ReplicaView
from fastserve.sched.job import NEVER
from sim.cluster.replica import Replica

COUNTS: Final = 0
WORK: Final = 1
ROOM: Final = 2
FIELDS: Final = (
    ("waiting", "running", "age"),
    ("queued_tokens", "expected_tokens"),
    ("free_tokens", "cached_tokens"),
)
GROUPS: Final = {field: group for group, fields in enumerate(FIELDS) for field in fields}


class Looks:
    """Of one cluster. replicas: by number, as they are now. delay: ns by which views are old."""

    def __init__(self, replicas: list[Replica], delay: int) -> None:
        self.replicas = replicas
        self.delay = delay
        self.now = 0  # ns: of this choice
        self.offered = 0  # views in it
        self.counts = self.work = self.room = False  # groups that are filled in before the router is asked
        self.asked: list[list[ReplicaView]] = [[], [], []]  # by group: views that were filled in when it asked
        self.lazy = self.eager = False  # whether there are any of the one kind, and the other

    def begin(self, now: int, views: Sequence[ReplicaView]) -> None:
        """Of what was filled in for the choice before, nothing is good any more."""
        self.now = now
        if self.lazy:
            self._learn()
        self.offered = len(views)
        if self.eager:
            if not self.delay and self.work and not self.counts and not self.room:
                self._works(now, views)
                return
            for view in views:
                if self.counts:
                    self._counted(view)
                if self.work or self.room:
                    self._worked(view, self.work, self.room)

    def _learn(self) -> None:
        self.lazy = False
        for group, asked in enumerate(self.asked):
            if asked and len(asked) == self.offered:
                self.eager = True
                self.counts = self.counts or group == COUNTS
                self.work = self.work or group == WORK
                self.room = self.room or group == ROOM
            else:
                for view in asked:
                    for field in FIELDS[group]:
                        delattr(view, field)
            asked.clear()

    def ask(self, view: ReplicaView, group: int) -> None:
        """The router wants a field of this group, and it is not filled in."""
        self.lazy = True
        self.asked[group].append(view)
        if group == COUNTS:
            self._counted(view)
        else:
            self._worked(view, group == WORK, group == ROOM)

    def _counted(self, view: ReplicaView) -> None:
        replica = self.replicas[view.replica]
        if self.delay:
            at = self.now - self.delay
            moment = replica.moment(at)
            view.waiting = moment.waiting + moment.boxed
            view.running = moment.running
            view.age = self.now - (moment.at if moment.at > at else at)  # one that was not there yet: its first
        else:
            running = replica.running
            view.running = running
            view.waiting = len(replica.scheduler.live) + len(replica.box.box) - running
            view.age = 0

    def _worked(self, view: ReplicaView, work: bool, room: bool) -> None:
        at = self.now - self.delay
        moment = self.replicas[view.replica].moment(at)
        if moment.at > at:
            at = moment.at
        done = moment.passed(at)
        if work:
            view.queued_tokens, view.expected_tokens = moment.work(done)
        if room:
            view.free_tokens, view.cached_tokens = moment.room(done)

    def _works(self, now: int, views: Sequence[ReplicaView]) -> None:
        """As _worked() of each, where views are not old."""
        replicas = self.replicas
        everybody = len(views) == len(replicas)  # by number, as the views are
        for index, view in enumerate(views):
            replica = replicas[index if everybody else view.replica]
            moments = replica.moments
            moment = moments[0] if moments else replica.moment(now)
            view.queued_tokens, view.expected_tokens = moment.work(moment.passed(now) if moment.k else 0)


def pool_of(replica: Replica) -> int | None:
    """Tokens of its KV pool; None: it has no bound."""
    ledger = replica.scheduler.ledger
    return None if ledger.blocks >= NEVER else ledger.blocks * ledger.block
