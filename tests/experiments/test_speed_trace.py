"""A run on a machine whose speed changes, simulated at the tempo that it had."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from experiments._lib.speed_trace import SpeedTrace, speed_trace_of
from fastserve.hardware import load_hardware
from fastserve.profiler.fit import Iteration, predict_ms
from fastserve.profiler.load import Meter
from fastserve.workload import synthesise
from sim.run import Contender, run_one
from sim.settings import Settings
from sim.world import World

LATENCY = load_hardware("opt-13b-a100").latency
SHAPES = [(1, 300, 0, 0), (8, 4000, 0, 0), (0, 0, 128, 128**2), (4, 900, 64, 64 * 64)]
SECOND = 10**12


def slowed(factors: list[float]) -> list[Iteration]:
    """Iterations back to back, from 5 s on, in each second that much slower than the profile says."""
    found: list[Iteration] = []
    speed = SpeedTrace(tuple(1 / factor for factor in factors))
    now = 0.0
    while now < len(factors):
        shape = SHAPES[len(found) % len(SHAPES)]
        work = predict_ms(LATENCY, Iteration(*shape, 0.0))
        ms = speed.wall_ps(round(now * SECOND), round(work * 1e9)) / 1e9
        found.append(Iteration(*shape, ms, 5.0 + now))
        now += ms / 1e3
    return found


def test_the_tempo_of_each_second_is_found_and_at_the_end_that_of_the_run() -> None:
    found = speed_trace_of(slowed([1.0, 2.0, 0.5]), LATENCY, 5.0).each
    assert found[:3] == pytest.approx((1.0, 0.5, 2.0), rel=0.03)  # one iteration in each passes into the next
    assert found[-1] == pytest.approx(3.5 / 3, rel=0.02)


def test_a_machine_that_stood_still_was_slow_in_all_these_seconds() -> None:
    """An iteration of 3.2 s in the middle of even ones: simulated at that tempo the rest comes as late as it did."""
    even = [one for one in slowed([1.0]) if one.at < 5.5]
    stood = even[-1]._replace(at=even[-1].at + even[-1].ms / 1e3, ms=3200.0)
    shift = stood.at + 3.2 - 5.0
    after = [one._replace(at=one.at + shift) for one in slowed([1.0]) if one.at + one.ms / 1e3 + shift < 9.0]
    whole = [*even, stood, *after]
    tempo = speed_trace_of(whole, LATENCY, 5.0)
    assert tempo.each[0] == pytest.approx(0.5, abs=0.05) and max(tempo.each[1:3]) < 0.02
    work = sum(predict_ms(LATENCY, one) for one in whole)
    assert tempo.wall_ps(0, round(work * 1e9)) / SECOND == pytest.approx(4.0, abs=0.06)


def test_a_second_in_which_little_ran_has_the_tempo_of_the_run() -> None:
    early = [one for one in slowed([2.0, 2.0]) if one.at < 6.0]
    cold = early[0]._replace(at=7.5, ms=100.0)  # after an idle second: tells nothing of the machine
    whole = sum(predict_ms(LATENCY, one) for one in [*early, cold]) / sum(one.ms for one in [*early, cold])
    found = speed_trace_of([*early, cold], LATENCY, 5.0).each
    assert found[0] == pytest.approx(0.5) and found[1:] == pytest.approx((whole,) * 3)


def test_iterations_of_another_clock_are_refused() -> None:
    with pytest.raises(ValueError, match="no iteration"):
        speed_trace_of([], LATENCY, 0.0)
    with pytest.raises(ValueError, match="not its clock"):
        speed_trace_of(slowed([1.0]), LATENCY, 5.5)


@pytest.mark.parametrize(
    ("at", "work", "takes"),
    [
        (0.0, 0.25, 0.5),
        (0.0, 0.5, 1.0),
        (0.5, 0.25, 0.5),
        (0.5, 1.25, 1.0),
        (1.5, 4.0, 2.0),
        (9.0, 3.0, 1.5),
        (0, 0, 0),
    ],
)
def test_work_takes_as_long_as_the_seconds_it_passes_through(at: float, work: float, takes: float) -> None:
    tempo = SpeedTrace((0.5, 2.0))
    assert tempo.wall_ps(round(at * SECOND), round(work * SECOND)) == pytest.approx(takes * SECOND, abs=2)


def test_at_its_own_tempo_a_machine_is_as_it_was() -> None:
    trace, settings = synthesise(60, rate=2.0, seed=3), Settings(max_batch=4)
    for policy in ("fcfs", "sj-mlfq"):
        plain = run_one(trace, Contender(policy), settings, 0).records
        paced = run_one(trace, Contender(policy), settings, 0, observe=SpeedTrace((1.0,)).attach).records
        for name in ("arrival", "first_token", "end", "preemptions"):
            assert paced[name].tolist() == plain[name].tolist(), (policy, name)


def test_a_slow_stretch_delays_who_is_there() -> None:
    trace = synthesise(60, rate=1.0, seed=3)
    settings, fcfs = Settings(max_batch=8), Contender("fcfs")
    plain = run_one(trace, fcfs, settings, 0).records
    slow = SpeedTrace((1.0,) * 20 + (0.25,) * 5 + (1.0,))
    paced = run_one(trace, fcfs, settings, 0, observe=slow.attach).records
    longer = paced["jct_from_arrival"] - plain["jct_from_arrival"]
    before = plain["end"] < 20.0
    assert before.any() and longer[before].tolist() == [0.0] * int(before.sum())
    during = (plain["arrival"] < 25.0) & (plain["end"] > 21.0)
    assert during.any() and (longer[during] > 0).all()


def test_a_run_tells_its_own_tempo_and_nothing_more() -> None:
    """The loop closed: a run at a known tempo, with preemptions and copies, is simulated again at the tempo that its
    iterations tell. With something wrong the same tempo does not help.
    """
    known = SpeedTrace(tuple(np.random.default_rng(5).uniform(0.7, 1.3, 300).tolist()))
    settings = Settings(max_batch=4, kv_tokens=1500)
    trace = synthesise(
        200, rate=1.4, lengths="", prompt="lognormal:4,0.6,8,256", output="lognormal:4.3,1,1,400", seed=4
    )
    meters: list[Meter] = []

    def watched(world: World) -> None:
        known.attach(world)
        meters.append(Meter())
        world.attach(meters[0])

    policy = Contender("mlfq")
    live = run_one(trace, policy, settings, 0, observe=watched).records
    assert live["preemptions"].sum() > 500 and live["stalled"].sum() > 1.0
    tempo = speed_trace_of(meters[0].iterations(), settings.hardware().latency, 0.0)
    assert tempo.each[:25] == pytest.approx(known.each[:25], rel=0.05)  # then comes an idle second

    def miss(settings: Settings, tempo: SpeedTrace) -> float:
        told = run_one(trace, policy, settings, 0, observe=tempo.attach).records
        return abs(float(told["jct_from_arrival"].mean() / live["jct_from_arrival"].mean()) - 1)

    assert miss(settings, tempo) < 0.015
    assert miss(settings.with_(max_batch=3), tempo) > 0.3
    assert miss(settings, SpeedTrace((1.0,))) > 0.03
