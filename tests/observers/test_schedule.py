"""Schedule: rows from which every life can be told as the records tell it, and their bounds."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from fastserve.observers.live_feed import LiveFeed
from fastserve.observers.schedule import LONGEST, Kind, Schedule
from fastserve.policies.mlfq import Mlfq
from fastserve.sched.job import Job
from tests.observers.both import SWAPPING, script, simulated

NAMES = ("fcfs", "mlfq", "sj-mlfq", "las")


@pytest.mark.parametrize("name", NAMES)
def test_every_life_is_the_records_life(name: str) -> None:
    schedule = Schedule()
    records = simulated(name, script(name), SWAPPING, schedule).columns()
    of: dict[int, list[Any]] = {}
    for event in schedule.events:
        of.setdefault(event.job, []).append(event)
    checked = 0
    for row, id in enumerate(records["id"].tolist()):
        events = of[id]
        finish = records["finish"][row]
        if finish == "rejected":
            assert [event.kind for event in events] == [Kind.refused]
            continue
        assert events[0].kind is Kind.arrive and events[-1].kind is Kind.end
        assert list(schedule.texts)[events[-1].text] == finish
        assert events[-1].value == records["output_tokens"][row]
        assert sum(event.kind is Kind.leave for event in events) == records["preemptions"][row]
        assert [event.kind for event in events if event.kind in (Kind.join, Kind.leave)] == [
            Kind.leave if odd % 2 else Kind.join
            for odd in range(sum(e.kind in (Kind.join, Kind.leave) for e in events))
        ], "visits alternate"
        if finish in ("length", "stop"):
            jct = events[-1].at - events[0].at
            assert jct / 1e9 == pytest.approx(records["jct_from_arrival"][row], abs=1e-9)
            first = next(event for event in events if event.kind is Kind.prefilled)
            assert (first.at - events[0].at) / 1e9 == pytest.approx(records["ttft"][row], abs=1e-9)
            checked += 1
    assert checked > 20
    assert sum(records["preemptions"]) > 0 or name == "fcfs"


def test_nobody_shares_a_slot() -> None:
    schedule = Schedule()
    simulated("sj-mlfq", script("slots"), SWAPPING, schedule)
    holder: dict[int, int] = {}
    for event in schedule.events:
        if event.kind is Kind.join:
            assert event.value not in holder and 0 <= event.value < schedule.slots
            holder[event.value] = event.job
        elif event.kind in (Kind.leave, Kind.end):
            holder = {slot: job for slot, job in holder.items() if job != event.job}
    assert not holder


def test_levels_are_the_feeds() -> None:
    """Its moves between levels, and the level at each event, are those that watchers of the live page see."""
    schedule, feed = Schedule(), LiveFeed()
    seen: list[dict[str, Any]] = []
    feed.add(seen.append)
    simulated("mlfq", script("levels"), SWAPPING, schedule, feed)
    moves = [(event["id"], event["level"]) for event in seen if event["type"] == "level"]
    assert len(moves) > 10
    assert [(event.job, f"Q{event.level}") for event in schedule.events if event.kind is Kind.level] == moves


def test_the_document() -> None:
    schedule = Schedule()
    simulated("sj-mlfq", script("document"), SWAPPING, schedule)
    document = json.loads(json.dumps(schedule.document()))
    columns, kinds = document["columns"], document["kinds"]
    assert {len(column) for column in columns.values()} == {len(schedule.events)}
    counted = Counter(kinds[kind] for kind in columns["kind"])
    assert counted["join"] == sum(event.kind is Kind.join for event in schedule.events) > 0
    assert counted["copy"] > 0
    assert all(step >= 0 for step in columns["at"])
    assert document["cut"] is None and document["ended"] >= sum(columns["at"])
    assert document["texts"][0] == ""


def test_it_stops_at_its_bounds_and_says_when() -> None:
    whole = Schedule()
    simulated("mlfq", script("cut"), SWAPPING, whole)
    for schedule in (Schedule(most=100), Schedule(most_bytes=300)):
        simulated("mlfq", script("cut"), SWAPPING, schedule)
        assert schedule.cut is not None and schedule.ended_at is not None and schedule.cut < schedule.ended_at
        assert schedule.events == whole.events[: len(schedule.events)]
        assert len(schedule.events) <= 100 or sum(map(len, schedule.texts)) < 300 + LONGEST
        assert all(event.at <= schedule.cut for event in schedule.events if event.kind is not Kind.copy)


class Wordy(Mlfq):
    def explain(self, job: Job) -> str:
        return "Q1" + "é" * 1_000_000 + str(job.id)


def test_a_wordy_policy_is_cut_short() -> None:
    schedule = Schedule(most_bytes=2_000)
    simulated(Wordy(), script("wordy", requests=8), SWAPPING, schedule)
    assert all(len(text) <= LONGEST for text in schedule.texts)
    assert sum(len(text.encode()) for text in schedule.texts) < 2_000 + 4 * LONGEST


def test_times_do_not_go_back() -> None:
    schedule = Schedule()
    simulated("las", script("order"), SWAPPING, schedule)
    plans = [event.at for event in schedule.events if event.kind in (Kind.join, Kind.leave, Kind.prefilled, Kind.end)]
    assert all(one <= other for one, other in pairwise(plans))
