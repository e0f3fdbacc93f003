"""Where KV lives that no running job needs at once: three strategies over one ledger.

The KV of a job that left stays parked on the device while the next iteration does not need the room. Then it leaves
coldest first: it is forgotten (recompute), or copied to the host while the step waits (reactive), or copied out ahead
of need and fetched back ahead of need, beside the running iterations (proactive; FastServe's section on KV management).
Where the host has no room, parked KV is forgotten. Nothing is ever lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastserve.sched.errors import PolicyError
from fastserve.sched.job import COMING, HOST, LEAVING, NOWHERE, Job
from fastserve.sched.kv import Ledger
from fastserve.sched.plan import Copy, Plan
from fastserve.sched.policy import Policy
from fastserve.sched.ranking import Ranking

RESIDENCIES = ("recompute", "reactive", "proactive", "defer")
ORDERS = ("policy", "reverse", "lru")


class Moves:
    """What a plan asks of the link, while it is made."""

    __slots__ = ("clear", "drop", "load", "park", "prefetch")

    def __init__(self) -> None:
        self.load: list[Copy] = []
        self.clear: list[Copy] = []
        self.park: list[Copy] = []
        self.drop: list[Job] = []
        self.prefetch: list[Copy] = []


class Residency:
    """swaps: evicted KV goes to the host. ahead: it goes, and comes back, before it must.

    reserve: blocks to keep idle for arrivals. quota: how many of the best waiting jobs are looked at for prefetching.
    order: who leaves first: as the policy's coldest() says, the worst rank, or the least recently served.
    """

    __slots__ = ("ahead", "ledger", "order", "policy", "quota", "ranking", "reserve", "swaps")

    def __init__(
        self, ledger: Ledger, ranking: Ranking, swaps: bool, ahead: bool, reserve: int, quota: int, order: str
    ) -> None:
        self.ledger = ledger
        self.ranking = ranking
        self.policy = ranking.policy
        self.swaps = swaps
        self.ahead = ahead
        self.reserve = reserve
        self.quota = quota
        self.order = order

    def make_room(self, plan: Plan, room: int) -> int:
        """Fills the plan's load, clear, park, drop and prefetch. room: device blocks that the members leave over.

        Returns by how many blocks the members may grow before this would answer otherwise.
        """
        ledger = self.ledger
        moves = Moves()
        free = self._fill(plan, moves, room - ledger.cold)
        if moves.load or moves.clear or moves.park or moves.drop or moves.prefetch:
            plan.moves = True
            plan.load = moves.load
            plan.clear = moves.clear
            plan.park = moves.park
            plan.drop = moves.drop
            plan.prefetch = moves.prefetch
        return free

    def _fill(self, plan: Plan, moves: Moves, free: int) -> int:
        ledger = self.ledger
        leaving = ledger.leaving
        for job in plan.left:
            free -= ledger.held(job)
        for job in plan.joined:
            place = job.place
            if place is NOWHERE:
                continue
            held = ledger.held(job)
            if place is HOST:
                moves.load.append(Copy(job, held, False))
                continue
            free += held
            if place is LEAVING:
                leaving -= held
            elif place is COMING:
                assert job.copy is not None
                moves.load.append(job.copy)
        host = ledger.host - ledger.hosted if self.swaps else 0
        if free < 0:
            free, leaving, host = self._evict(plan, moves, free, leaving, host)
        if not self.ahead:
            return free
        soon = free + leaving
        if soon < self.reserve:
            soon, host = self._park_ahead(plan, moves, soon, host)
        elif ledger.away and not moves.park:
            free -= self._prefetch(plan, moves, free - self.reserve)
            soon = free + leaving
        if soon >= self.reserve and (ledger.parked or plan.left):
            return min(free, soon - self.reserve)
        return free

    def _evict(self, plan: Plan, moves: Moves, free: int, leaving: int, host: int) -> tuple[int, int, int]:
        """The step needs the room: it waits for copies out, then parked KV goes, then prefetches give way."""
        ledger = self.ledger
        joined = plan.joined
        for copy in ledger.copies:
            if copy.out and not copy.orphan and copy.job not in joined:
                moves.clear.append(copy)
                free += copy.blocks
                leaving -= copy.blocks
                if free >= 0:
                    return free, leaving, host
        parked = [job for job in ledger.parked if job not in joined]
        parked += plan.left
        for job in self._coldest(parked):
            held = ledger.held(job)
            free += held
            if held <= host:
                host -= held
                copy = Copy(job, held, True)
                moves.park.append(copy)
                moves.clear.append(copy)
            else:
                moves.drop.append(job)
            if free >= 0:
                return free, leaving, host
        for copy in ledger.copies:
            if not copy.out and copy not in moves.load:
                moves.clear.append(copy)
                free += copy.blocks
                if free >= 0:
                    return free, leaving, host
        raise RuntimeError("the running jobs need more blocks than the device has; this is a bug in the Scheduler")

    def _park_ahead(self, plan: Plan, moves: Moves, soon: int, host: int) -> tuple[int, int]:
        ledger = self.ledger
        if host < 1:
            return soon, host
        gone = {copy.job for copy in moves.park}
        gone.update(moves.drop)
        gone.update(plan.joined)
        parked = [job for job in ledger.parked if job not in gone]
        parked += [job for job in plan.left if job not in gone]
        if not parked:
            return soon, host
        for job in self._coldest(parked):
            held = ledger.held(job)
            if held <= host:
                host -= held
                soon += held
                moves.park.append(Copy(job, held, True))
                if soon >= self.reserve:
                    break
        return soon, host

    def _prefetch(self, plan: Plan, moves: Moves, spare: int) -> int:
        """The best waiting jobs come back while there is room beyond the reserve. Returns the blocks taken."""
        taken = 0
        looked = 0
        for _, _, _, job in self.ranking.queue():
            if looked == self.quota or spare <= taken:
                break
            if job in plan.joined:
                continue
            looked += 1
            if job.place is HOST:
                held = self.ledger.held(job)
                if held > spare - taken:
                    break
                moves.prefetch.append(Copy(job, held, False))
                taken += held
        return taken

    def _coldest(self, parked: list[Job]) -> Iterable[Job]:
        if len(parked) < 2:
            return parked
        if self.order == "lru":
            return sorted(parked, key=_last_served)
        policy = self.policy
        if self.order == "reverse" or type(policy).coldest is Policy.coldest:
            return sorted(parked, key=self._warmth(), reverse=True)
        try:
            order = list(policy.coldest(list(parked)))
        except (Exception, SystemExit) as error:
            raise PolicyError(policy, "coldest", None, error) from error
        if len(order) != len(parked) or set(order) != set(parked):
            raise PolicyError(
                policy, "coldest", None, f"named {len(order)} of {len(parked)} parked jobs; name each of them once"
            )
        return order

    def _warmth(self) -> Callable[[Job], tuple[object, bool, int, int]]:
        """(rank, waits, arrival, id); the stored rank of a waiting job of a settled policy is current."""
        ranking = self.ranking

        def warmth(job: Job) -> tuple[object, bool, int, int]:
            if ranking.settled and not job.running and job.queue is not None and job.entry is not None:
                return job.entry[0], True, job.arrival, job.id
            return ranking.entry_of(job)[0], not job.running, job.arrival, job.id

        return warmth


def _last_served(job: Job) -> tuple[int, int, int]:
    return job.last_served, job.arrival, job.id
