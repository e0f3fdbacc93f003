"""LiveView: what a router sees of a simulated replica, worked out when it asks."""

from __future__ import annotations

from fastserve.routers.view import ReplicaView
from fastserve.sched.job import NEVER
from sim.cluster.books import Moment
from sim.cluster.replica import Replica


class Clock:
    """now: ns, the time at which something is routed. turn: how many have been routed."""

    __slots__ = ("now", "turn")

    def __init__(self) -> None:
        self.now = 0
        self.turn = 0


class LiveView(ReplicaView):
    """of: the replica, a new one when it has come back. delay: ns by which it is old. What the sender counts itself the
    cluster writes here; all else is properties in the place of fields, so that a router which goes by its own counts
    costs no look at any replica. Good during Router.route() only, as the contract has it.
    """

    __slots__ = ("clock", "delay", "kv", "measured", "of", "turn", "work")

    def __init__(self, of: Replica, name: str, weight: float, clock: Clock, delay: int) -> None:
        self.of = of
        self.clock = clock
        self.delay = delay
        self.replica = of.number
        self.name = name
        self.weight = weight
        self.healthy = True
        self.outstanding = 0
        self.outstanding_tokens = 0
        self.source = "load"
        self.turn = -1  # of the choice for which `work` was looked at
        self.work = (0, 0)
        self.measured = -1  # the same for `kv`
        self.kv: tuple[int | None, int] = (None, 0)

    def _moment(self) -> Moment:
        return self.of.moment(self.clock.now - self.delay)

    def _at(self, moment: Moment) -> int:
        """ns: when what it tells was true; of a replica that was not there yet, its first."""
        return max(self.clock.now - self.delay, moment.at) if self.delay else self.clock.now

    @property
    def age(self) -> int:  # type: ignore[override]
        return self.clock.now - self._at(self._moment()) if self.delay else 0

    @property
    def waiting(self) -> int:  # type: ignore[override]
        if self.delay:
            moment = self._moment()
            return moment.waiting + moment.boxed
        return self.of.waiting

    @property
    def running(self) -> int:  # type: ignore[override]
        return self._moment().running if self.delay else self.of.running

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.of.scheduler.slots

    def _looked(self) -> tuple[int, int]:
        """Once for each choice."""
        clock = self.clock
        if self.turn != clock.turn:
            self.turn = clock.turn
            if self.delay:
                moment = self._moment()
                self.work = moment.work(self._at(moment))
            else:
                moments = self.of.moments
                self.work = (moments[0] if moments else self.of.moment(clock.now)).work(clock.now)
        return self.work

    @property
    def queued_tokens(self) -> int:  # type: ignore[override]
        return self._looked()[0]

    @property
    def expected_tokens(self) -> int:  # type: ignore[override]
        return self._looked()[1]

    def _room(self) -> tuple[int | None, int]:
        """Once for each choice."""
        if self.measured != self.clock.turn:
            self.measured = self.clock.turn
            moment = self._moment()
            self.kv = moment.room(self._at(moment))
        return self.kv

    @property
    def free_tokens(self) -> int | None:  # type: ignore[override]
        return self._room()[0]

    @property
    def pool_tokens(self) -> int | None:  # type: ignore[override]
        ledger = self.of.scheduler.ledger
        return None if ledger.blocks >= NEVER else ledger.blocks * ledger.block

    @property
    def cached_tokens(self) -> int:  # type: ignore[override]
        return self._room()[1]
