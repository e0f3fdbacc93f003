"""Slots follow random plans: whoever decodes is in the first ones, and every row stays its own."""

from __future__ import annotations

import gc
import random
import sys

import numpy as np
import pytest

from fastserve.backends.onnx.arrays import Arrays
from fastserve.backends.onnx.slots import Slots
from fastserve.sched.job import Copy, Job
from fastserve.sched.plan import Moves, Plan


def filled(slots: Slots, job: Job, length: int) -> None:
    """Writes its number and the place into each new row, as a call of the graph would."""
    slot, first = slots.places[job], slots.lengths[slots.places[job]]
    for number, array in enumerate(slots.arrays.all):
        array[slot, :, first:length] = job.id + np.arange(first, length)[:, None] / 1000 + number
    slots.wrote(job, length)


def whole(slots: Slots, job: Job) -> bool:
    slot = slots.places[job]
    length = slots.lengths[slot]
    rows = np.arange(length)[:, None] / 1000
    return all(
        np.allclose(array[slot, :, :length], job.id + rows + number) for number, array in enumerate(slots.arrays.all)
    )


@pytest.mark.parametrize("seed", range(6))
def test_whoever_decodes_is_in_front_and_every_row_stays_its_own(seed: int) -> None:
    dice = random.Random(seed)
    slots = Slots(Arrays(2, 2, 8, 64, 2, 4), 256)
    jobs: dict[Job, int] = {}  # tokens that each should have
    away: dict[Job, int] = {}
    for number in range(200):
        moves = Moves()
        if jobs and dice.random() < 0.3:
            job = dice.choice(list(jobs))
            moves.park.append(Copy(job, 1, True))
            away[job] = jobs.pop(job)
        elif jobs and dice.random() < 0.2:
            job = dice.choice(list(jobs))
            moves.drop.append(job)
            jobs.pop(job)
        if away and dice.random() < 0.3:
            job = dice.choice([each for each in away if each not in {copy.job for copy in moves.park}] or list(away))
            if job not in {copy.job for copy in moves.park}:
                moves.load.append(Copy(job, 1, False))
                jobs[job] = away.pop(job)
        gone = [dice.choice(list(jobs))] if jobs and dice.random() < 0.1 else []
        for job in gone:
            jobs.pop(job)
            moves.load = [copy for copy in moves.load if copy.job is not job]
            moves.park = [copy for copy in moves.park if copy.job is not job]
            moves.drop = [each for each in moves.drop if each is not job]
        new = Job(number, 0, dice.randrange(1, 20)) if len(jobs) < 12 and dice.random() < 0.5 else None
        decoding = [job for job in jobs if job not in gone and jobs[job] < 60 and dice.random() < 0.6]
        plan = Plan(0, {}, gone, prefill=[(new, new.prompt)] if new else [], moves=moves)
        slots.follow(plan, decoding)
        assert sorted(slots.places[job] for job in decoding) == list(range(len(decoding)))
        for job in decoding:
            jobs[job] += 1
            filled(slots, job, jobs[job])
        if new:
            filled(slots, new, new.prompt)
            jobs[new] = new.prompt
        assert {job: slots.lengths[slot] for job, slot in slots.places.items()} == jobs
        assert {job: rows.shape[2] for job, rows in slots.away.items()} == away
        assert all(whole(slots, job) for job in jobs)
        assert {copy.job for copy in slots.landed()} == {copy.job for copy in (*moves.park, *moves.load)}
    slots.reset()
    assert not slots.places and not slots.away and sum(slots.arrays.touched) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux shows them")
def test_memory_is_taken_by_what_is_written() -> None:
    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    rows = np.ones((16, 4, 1024, 64), np.float32)
    gc.collect()
    before = resident()
    arrays = Arrays(8, 4, 64, 8192, 64, 8192)  # 8 GiB of room
    assert resident() - before < 1 << 24
    for slot in range(4):
        arrays.put(slot, rows)
    held = resident() - before
    assert 4 * rows.nbytes <= held < 5 * rows.nbytes
    arrays.give_back([64] * 64)
    assert resident() - before < rows.nbytes
    assert (arrays.take(3, 64) == 1).all()


def test_what_cannot_be_mapped_is_a_shortage_of_memory() -> None:
    with pytest.raises(MemoryError, match="cannot be mapped"):
        Arrays(1, 1, 64, 1 << 50, 1 << 10, 1 << 50)
