"""What no order of service can change, and which order is best: a batch of one, preemption for nothing."""

from __future__ import annotations

import random
from heapq import heappop, heappush
from typing import Any

import numpy as np
import pytest

from fastserve.metrics.records import Columns
from fastserve.policies import POLICIES, make
from tests.sched.worlds import COARSE, build, workload
from tests.theory.single_server import SECOND, Queue, mean_jct, poisson

EVERYBODY = sorted(POLICIES)


def iterations(seed: int, n: int = 120) -> Queue:
    """Jobs of as many one-second iterations as they have outputs, the prefill being the first; load about 0.9."""
    rng = np.random.default_rng(seed)
    output = [int(size) for size in np.minimum(60, 1 + rng.geometric(1 / 6, n))]
    return Queue(poisson(rng, n, 7.5e9), [1] * n, output)


def shortest_remaining(queue: Queue) -> list[int]:
    """ns: when each job ends if each iteration goes to the job with the fewest left; ties to who ran, then who came."""
    n = len(queue.arrival)
    end = [0] * n
    ready: list[tuple[int, int, int]] = []  # (iterations left, 0 if it ran last, id)
    clock = came = 0
    while came < n or ready:
        if not ready:
            clock = max(clock, queue.arrival[came])
        while came < n and queue.arrival[came] <= clock:
            heappush(ready, (queue.output[came], 1, came))
            came += 1
        left, _, job = heappop(ready)
        clock += SECOND
        ready = sorted((other, 1, id) for other, _, id in ready)
        if left > 1:
            heappush(ready, (left - 1, 0, job))
        else:
            end[job] = clock
    return end


@pytest.mark.parametrize("seed", range(20))
def test_srpt_has_the_least_mean_jct(seed: int) -> None:
    """With perfect guesses and iterations of one length no order beats SRPT, on any seed; fcfs is always worse."""
    queue = iterations(seed)
    best = mean_jct(queue.serve(make("srpt")))
    fcfs = mean_jct(queue.serve(make("fcfs")))
    assert best < fcfs
    for name in EVERYBODY:
        assert best <= mean_jct(queue.serve(make(name))) + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_srpt_is_the_textbook_algorithm(seed: int) -> None:
    queue = iterations(seed)
    ends = queue.serve(make("srpt"))["end"]
    assert [round(end * SECOND) for end in ends] == shortest_remaining(queue)


@pytest.mark.parametrize("seed", range(4))
def test_no_order_changes_the_work(seed: int) -> None:
    """Work conservation: the same makespan and the same service for every policy, with prefills of any length."""
    rng = np.random.default_rng(100 + seed)
    n = 100
    prompt = [int(tokens) for tokens in rng.integers(1, 40, n)]
    output = [int(tokens) for tokens in rng.integers(1, 30, n)]
    queue = Queue(poisson(rng, n, 38e9), prompt, output)
    busy = sum(prompt) + sum(output) - n  # s
    makespans = set()
    for name in EVERYBODY:
        columns = queue.serve(make(name))
        makespans.add(round(float(columns["end"].max()) * SECOND))
        assert round(float(columns["service"].sum())) == busy
    assert len(makespans) == 1
    assert makespans.pop() > busy * SECOND  # it was not one single busy period


def test_equal_jobs_at_once() -> None:
    """The last end is the sum of all sizes for everybody; fcfs ends one job after the other."""
    queue = Queue([0] * 8, [3] * 8, [5] * 8)
    for name in EVERYBODY:
        ends = np.sort(queue.serve(make(name))["end"])
        assert ends[-1] == 8 * (3 + 4)
        assert name != "fcfs" or list(ends) == [7 * (i + 1) for i in range(8)]


def same(ours: Columns, theirs: Columns) -> bool:
    return all(np.array_equal(ours[name], theirs[name], equal_nan=ours[name].dtype.kind == "f") for name in ours)


@pytest.mark.parametrize("batching", ["chunked", "mixed", "prefill-first", "static"])
@pytest.mark.parametrize("memory", ["unlimited", "recompute", "reactive", "proactive"])
def test_one_infinite_quantum_is_fcfs(batching: str, memory: str) -> None:
    """Every field of every record, with shortages and cancels. No two arrive at once: fcfs has no turns."""
    displaced = 0
    for seed in range(3):
        rng = random.Random(seed)
        work = workload(rng, 80, True, 8, cancels=True)
        work.arrival = [at + i for i, at in enumerate(work.arrival)]
        biggest = max(-(-(p + o) // 16) for p, o in zip(work.prompt, work.output, strict=True))
        options: dict[str, Any] = {
            "max_batch": 8,
            "batching": batching,
            "device_blocks": None if memory == "unlimited" else biggest + 1,
            "host_blocks": biggest,
            "residency": "proactive" if memory == "unlimited" else memory,
            "visit": 0,
        }
        fcfs, _ = build(make("fcfs"), work, COARSE, options)
        mlfq, _ = build(make("mlfq", {"levels": 1, "q1": 1e8, "alpha": 0.0}), work, COARSE, options)
        fcfs.run()
        mlfq.run()
        assert same(fcfs.recorder.columns(), mlfq.recorder.columns())
        displaced += fcfs.recorder.leaves
    assert (displaced > 0) == (memory != "unlimited")
