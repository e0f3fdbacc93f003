"""The one modelled link and the one order of a plan's copies."""

from __future__ import annotations

import random

import pytest

from fastserve.sched.job import NEVER, Copy, Job
from fastserve.sched.link import ModelledLink, carry
from fastserve.sched.plan import Moves, Plan


def copy(blocks: int, out: bool, id: int = 0) -> Copy:
    return Copy(Job(id, 0, 10, 10), blocks, out)


def link(duplex: bool = True) -> ModelledLink:
    """A block takes 10 ns out and 20 ns in, each copy 5 ns more."""
    return ModelledLink(lambda blocks, out: 5 + blocks * (10 if out else 20), duplex)


class Book:
    """A carrier that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[Copy, ...]]] = []

    def send(self, copy: Copy) -> None:
        self.told.append(("send", (copy,)))

    def wait(self, copies: object) -> None:
        self.told.append(("wait", tuple(copies)))  # type: ignore[arg-type]


def plan_of(now: int = 0, **moves: list[Copy]) -> Plan:
    asked = Moves()
    for name, copies in moves.items():
        setattr(asked, name, copies)
    plan = Plan(now, {}, moves=asked)
    return plan


def test_the_order_of_a_plans_copies() -> None:
    """What makes room goes first, and loads start when the room is clear; one that is under way is not sent again."""
    old, park, fresh, under_way, ahead = copy(1, True), copy(2, True), copy(3, False), copy(4, False), copy(5, False)
    under_way.job.copy = under_way
    book = Book()
    carry(plan_of(park=[park], clear=[old, park], load=[fresh, under_way], prefetch=[ahead]), book)
    assert book.told == [
        ("send", (park,)), ("wait", (old, park)), ("send", (fresh,)), ("wait", (fresh, under_way)), ("send", (ahead,)),
    ]  # fmt: skip


def test_first_come_first_served_in_each_direction() -> None:
    way = link()
    copies = [copy(1, True), copy(2, True), copy(1, False), copy(1, False)]
    ends = [way.transfer(one).end for one in copies]
    assert ends == [15, 40, 25, 50]
    assert [way.ends(one) for one in copies] == ends
    assert way.next_end() == 15
    assert way.landed(14) == []
    assert way.landed(40) == [copies[0], copies[2], copies[1]]
    assert way.landed(40) == []
    assert way.landed(50) == [copies[3]]
    assert way.next_end() == NEVER


def test_without_duplex_both_directions_share_a_channel() -> None:
    way = link(duplex=False)
    assert [way.transfer(copy(1, out)).end for out in (True, False, True)] == [15, 40, 55]


def test_the_stall_is_until_what_the_step_needs_has_ended() -> None:
    """Room first: the load starts when the park has ended, though its direction is free; no prefetch is waited for."""
    way = link()
    park, load, ahead = copy(3, True), copy(1, False), copy(9, False)
    assert way.follow(plan_of(1000, park=[park], clear=[park], load=[load], prefetch=[ahead])) == 35 + 25
    assert [way.ends(one) for one in (park, load, ahead)] == [1035, 1060, 1245]
    assert way.follow(plan_of(1100)) == 0
    ahead.job.copy = ahead
    assert way.follow(plan_of(1100, load=[ahead])) == 145


def test_what_is_forgotten_never_lands_and_still_takes_its_time() -> None:
    way = link()
    way.transfer(copy(1, True))
    way.forget()
    assert way.landed(NEVER) == []
    assert way.transfer(copy(1, True)).end == 30


@pytest.mark.parametrize("duplex", [True, False])
def test_copies_land_by_their_ends_and_none_twice(duplex: bool) -> None:
    rng = random.Random(int(duplex))
    way = link(duplex)
    ends: dict[Copy, int] = {}
    told: list[Copy] = []
    for _ in range(300):
        way.now += rng.randrange(60)
        one = copy(rng.randrange(5), rng.random() < 0.5)
        ends[one] = way.transfer(one).end
        told += way.landed(way.now)
        assert all(ends[one] <= way.now for one in told)
    told += way.landed(NEVER)
    assert len(told) == len(set(told)) == 300
    for out in (True, False):
        mine = [one for one in told if one.out is out]
        assert mine == [one for one in ends if one.out is out]
