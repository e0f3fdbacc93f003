"""Copies between device and host: the one order in which a plan's copies go, and the one modelled link.

It stands beside the brain because check_policy's scripted machine needs it too; bodies and the simulator use this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from fastserve.sched.job import NEVER, Copy
from fastserve.sched.plan import Plan, Transfer


class Carrier(Protocol):
    """What carries copies, on a modelled clock or for real."""

    def send(self, copy: Copy) -> None:
        """Starts it, behind all of its direction that were sent before."""
        ...

    def wait(self, copies: Sequence[Copy]) -> None:
        """These have ended before anything that is sent later starts."""
        ...


def carry(plan: Plan, link: Carrier) -> None:
    """A plan's copies, in order: those out, of units and of jobs; then the room that the step needs must be clear; into
    it what the step loads, which it waits for; prefetches queue behind. The step starts after the last wait.
    """
    for copy in plan.store:
        link.send(copy)
    for copy in plan.park:
        link.send(copy)
    link.wait(plan.clear)
    for copy in plan.load:
        if copy.job.copy is not copy:  # else it is under way since an earlier plan
            link.send(copy)
    link.wait(plan.load)
    for copy in plan.prefetch:
        link.send(copy)


class ModelledLink:
    """Copies are served first come, first served: one channel per direction, or one for both without duplex.

    copy_ns: (blocks, out) -> ns of a copy alone on the link. A transfer's end is fixed when it is asked for, so that a
    body can look ahead; what has landed is told by comparing times.
    """

    def __init__(self, copy_ns: Callable[[int, bool], int], duplex: bool = True) -> None:
        self.copy_ns = copy_ns
        self.duplex = duplex
        self.now = 0  # ns: what is sent does not start before
        self.free_at = {True: 0, False: 0}  # by direction: ns, when its channel has nothing left to do
        self.moving: deque[Transfer] = deque()  # not yet told as landed, by end
        self.sent: Callable[[Transfer], object] | None = None  # told of every transfer

    def follow(self, plan: Plan) -> int:
        """Starts the plan's copies. Returns ns until those that its step needs have ended."""
        self.now = plan.now
        carry(plan, self)
        return self.now - plan.now

    def send(self, copy: Copy) -> None:
        self.transfer(copy)

    def transfer(self, copy: Copy) -> Transfer:
        """Asks for the copy; its times are known from here on."""
        out = copy.out
        start = max(self.now, self.free_at[out])
        end = start + self.copy_ns(copy.blocks, out)
        self.free_at[out] = end
        if not self.duplex:
            self.free_at[not out] = end
        transfer = Transfer(copy, start, end)
        moving = self.moving
        if not moving or moving[-1].end <= end:
            moving.append(transfer)
        else:
            place = next(i for i, other in enumerate(moving) if other.end > end)
            moving.insert(place, transfer)
        if self.sent is not None:
            self.sent(transfer)
        return transfer

    def wait(self, copies: Sequence[Copy]) -> None:
        for copy in copies:
            self.now = max(self.now, self.ends(copy))

    def ends(self, copy: Copy) -> int:
        """ns: when a copy that is on its way will have ended."""
        return next(transfer.end for transfer in self.moving if transfer.copy is copy)

    def next_end(self) -> int:
        return self.moving[0].end if self.moving else NEVER

    def landed(self, now: int) -> list[Copy]:
        """The copies that have ended by `now`, in that order; each is told once."""
        moving = self.moving
        done = []
        while moving and moving[0].end <= now:
            done.append(moving.popleft().copy)
        return done

    def forget(self) -> None:
        """Nothing is under way any more. What has been sent still occupies the channels."""
        self.moving.clear()
