"""Saturation: how often queues of known load are marked, and what else looks like one and is none."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve.metrics.saturation import Floats, flow, saturated, saturated_flow
from tests.metrics.made import make_records


def lindley(arrival: Floats, service: Floats) -> Floats:
    """Ends of the jobs of one server, first come first served."""
    work = np.cumsum(service)
    ends: Floats = np.maximum.accumulate(arrival - work + service) + work
    return ends


def several(arrival: Floats, service: Floats, servers: int) -> Floats:
    """The same for several servers; repetitions x jobs."""
    free = np.zeros((len(arrival), servers))
    end = np.empty_like(arrival)
    for job in range(arrival.shape[1]):
        free[:, 0] = np.maximum(free[:, 0], arrival[:, job]) + service[:, job]
        end[:, job] = free[:, 0]
        free.sort(axis=1)
    return end


def marked_md1(load: float, n: int, reps: int) -> int:
    count = 0
    for seed in range(reps):
        arrival = np.cumsum(np.random.default_rng(seed).exponential(1 / load, n))
        count += saturated_flow(arrival, lindley(arrival, np.ones(n)))
    return count


def marked_mmc(load: float, n: int, reps: int, servers: int) -> int:
    rng = np.random.default_rng(3)
    arrival = np.cumsum(rng.exponential(1 / (load * servers), (reps, n)), axis=1)
    end = several(arrival, rng.exponential(1.0, (reps, n)), servers)
    return sum(map(saturated_flow, arrival, end))


@pytest.mark.parametrize(("load", "n", "most"), [(0.9, 2000, 0), (0.98, 2000, 3), (0.99, 2000, 5), (0.98, 20_000, 1)])
def test_false_alarms_are_rare(load: float, n: int, most: int) -> None:
    """Of 100 (of 40 long ones), with the seeds that are drawn here; docs/statistics.md has the shares."""
    assert marked_md1(load, n, 100 if n == 2000 else 40) <= most
    if n == 2000:
        assert marked_mmc(load, n, 100, 8) <= most + 2


def test_two_percent_too_many_are_seen_in_a_long_run() -> None:
    assert marked_md1(1.02, 20_000, 30) >= 27
    assert marked_mmc(1.02, 20_000, 20, 4) >= 14
    assert marked_md1(1.04, 20_000, 10) == 10


def test_a_rate_that_rises_above_capacity_is_seen_and_one_that_falls_is_not() -> None:
    """Poisson arrivals whose rate goes from one value to another, to one server of rate 1."""

    def run(first: float, last: float, seed: int) -> bool:
        n = 20_000
        flow_time = np.cumsum(np.random.default_rng(seed).exponential(1.0, n))
        slope = (last - first) * (first + last) / 2 / n
        arrival = (np.sqrt(first**2 + 2 * slope * flow_time) - first) / slope
        return saturated_flow(arrival, lindley(arrival, np.ones(n)))

    assert sum(run(0.5, 1.3, seed) for seed in range(10)) >= 7
    assert not any(run(0.5, 0.95, seed) or run(1.3, 0.5, seed) for seed in range(10))


def test_bursts_are_noise() -> None:
    """On for 100 s and off for 100 s: the backlog of a burst is no drift."""
    for seed in range(10):
        t = np.cumsum(np.random.default_rng(seed).exponential(1 / 1.8, 5000))
        arrival = t + 100 * np.floor(t / 100)
        assert not saturated_flow(arrival, lindley(arrival, np.ones(5000)))


def test_an_empty_system_that_fills_is_not_saturated() -> None:
    """No queue at all: everybody stays as long as everybody."""
    for n, inside in ((200, 10), (500, 50), (2000, 50)):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            arrival = np.cumsum(rng.exponential(1 / inside, n))
            assert not saturated_flow(arrival, arrival + rng.exponential(1.0, n))
            assert not saturated_flow(arrival, arrival + 1.0)


@pytest.mark.parametrize("load", [0.5, 0.9, 0.99, 1.0])
def test_a_clockwork_is_not_saturated(load: float) -> None:
    for n in (50, 500, 5000):
        arrival = np.arange(n) / load
        assert saturated_flow(arrival, lindley(arrival, np.ones(n))) is False


def test_a_closed_loop_is_not_saturated() -> None:
    """Ten at a time: who leaves is followed by another at once."""
    service = np.random.default_rng(0).exponential(1.0, (1, 2000))
    end = several(np.zeros((1, 2000)), service, 10)
    arrival = np.sort(end[0] - service[0])
    assert not saturated_flow(arrival, end[0])


def test_who_was_rejected_never_was_in_the_system() -> None:
    rng = np.random.default_rng(2)
    arrival = np.cumsum(rng.exponential(1 / 1.3, 300))
    jct = lindley(arrival, np.ones(300)) - arrival
    alone = make_records(arrival.tolist(), jct.tolist())
    assert saturated(alone, horizon_s=1e3) is True
    times = np.sort(np.concatenate((arrival, rng.uniform(0, arrival[-1], 3000))))
    kept = np.isin(times, arrival)
    mixed = make_records(times.tolist(), [0.0] * len(times), finish=np.where(kept, "stop", "rejected").tolist())
    mixed["jct_from_arrival"][kept] = jct
    mixed["end"][kept] = times[kept] + jct
    assert saturated(mixed, horizon_s=1e3) is True


def test_the_flows_of_a_saturated_queue() -> None:
    arrival = np.cumsum(np.random.default_rng(4).exponential(1 / 1.25, 5000))
    found = flow(arrival, lindley(arrival, np.ones(5000)), float(arrival[200]))
    assert found.arrivals == pytest.approx(1.25, abs=0.05) and found.departures == pytest.approx(1.0, abs=5e-3)
    assert found.grows and found.z > 5
