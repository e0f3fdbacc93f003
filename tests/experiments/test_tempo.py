"""The clock of work: a run on a machine whose speed changes, simulated at the tempo that it had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments._tempo import Tempo, tempo_of
from fastserve.engine.fitting import Iteration, predict_ms
from fastserve.sched.latency import load_hardware
from fastserve.workload import synthesise
from sim.one import Contender, run_one
from sim.settings import Settings

LATENCY = load_hardware("opt-13b-a100").latency
SHAPES = [(1, 300, 0, 0), (8, 4000, 0, 0), (0, 0, 128, 128**2), (4, 900, 64, 64 * 64)]


def slowed(factors: list[float]) -> list[Iteration]:
    """Iterations back to back, from 5 s on, in each second that much slower than the profile says."""
    found: list[Iteration] = []
    now = 0.0
    while now < len(factors):
        shape = SHAPES[len(found) % len(SHAPES)]
        ms = factors[int(now)] * predict_ms(LATENCY, Iteration(*shape, 0.0))
        found.append(Iteration(*shape, ms, 5.0 + now))
        now += ms / 1e3
    return found


def test_the_tempo_of_each_second_is_found() -> None:
    tempo = tempo_of(slowed([1.0, 2.0, 0.5]), LATENCY, 5.0)
    assert np.diff(tempo.work)[:3] == pytest.approx([1.0, 0.5, 2.0], rel=1e-6)
    assert tempo.wall[:4].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_second_in_which_nothing_ran_goes_on_as_the_one_before() -> None:
    early = [one for one in slowed([2.0, 2.0]) if one.at < 6.0]
    late = [one._replace(at=one.at + 3.0) for one in early]
    assert np.diff(tempo_of([*early, *late], LATENCY, 5.0).work) == pytest.approx([0.5] * 4)
    with pytest.raises(ValueError, match="no iteration"):
        tempo_of([], LATENCY, 0.0)


def test_both_clocks_agree_there_and_back_and_beyond_their_end() -> None:
    tempo = Tempo(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 2.5]))
    trace = replace(synthesise(5, rate=1.0), arrival=np.array([0, 500, 1000, 1500, 3000]) * 10**6)
    work = tempo.in_work(trace).arrival / 1e9
    assert work == pytest.approx([0.0, 0.25, 0.5, 1.5, 4.5])
    wall = tempo.in_wall({"arrival": work, "first_token": work + 0.5, "end": np.full(5, 6.5)})
    assert wall["arrival"] == pytest.approx(trace.arrival / 1e9)
    assert wall["end"] == pytest.approx([4.0] * 5)
    assert wall["ttft"] == pytest.approx([1.0, 0.625, 0.25, 0.25, 0.25])
    assert wall["jct_from_arrival"] == pytest.approx(4.0 - trace.arrival / 1e9)


def test_a_machine_of_half_the_speed_gives_the_records_of_one() -> None:
    """Everything takes twice as long on it, and comes half as often."""
    trace = synthesise(40, rate=1.0, seed=3)
    slow = Tempo(np.array([0.0, 1.0]), np.array([0.0, 0.5]))
    settings, fcfs = Settings(max_batch=4), Contender("fcfs")
    there = slow.in_wall(run_one(slow.in_work(trace), fcfs, settings, 0).records)
    twice = run_one(trace.with_rate(2 * float(trace.rate)), fcfs, settings, 0).records
    assert there["jct_from_arrival"] == pytest.approx(2 * twice["jct_from_arrival"], rel=1e-6)
    assert there["arrival"] == pytest.approx(trace.arrival / 1e9, abs=1e-8)
