"""Arrivals whose rate changes: MMPP against its closed forms, the day against its curve."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from fastserve.workload import TraceError, synthesise
from fastserve.workload.arrivals import uneven
from fastserve.workload.synthesis import Synthesis
from fastserve.workload.trace import NS

RATE, STAY = (2.0, 12.0), (30.0, 10.0)  # the mean rate is (2 * 30 + 12 * 10) / 40 = 4.5
MEAN = 4.5


def arrivals(spec: str, n: int, rate: float, seed: int = 0) -> np.ndarray:
    return synthesise(n, rate=rate, arrivals=spec, lengths="fixed:1", seed=seed).arrival / NS


def dispersion(times: np.ndarray, window: float) -> float:
    """Variance over mean of the counts in full windows (the index of dispersion for counts)."""
    counts = np.bincount((times // window).astype(int))[:-1]
    return float(counts.var() / counts.mean())


def expected_dispersion(window: float, rates: tuple[float, float] = RATE) -> float:
    """Of a two-state MMPP: Heffes and Lucantoni 1986, equation for I(t)."""
    (a, b), (out_a, out_b) = rates, (1 / STAY[0], 1 / STAY[1])
    both = out_a + out_b
    far = 2 * (a - b) ** 2 * out_a * out_b / (both**2 * (a * out_b + b * out_a))
    return 1 + far * (1 - (1 - np.exp(-both * window)) / (both * window))


@pytest.mark.parametrize("spec", ["mmpp:rates=2/12,stay=30/10", "mmpp:rates=1/6,stay=30/10", "mmpp:1/6,30/10"])
def test_mmpp_has_the_rate_and_the_dispersion_of_its_closed_form(spec: str) -> None:
    times = arrivals(spec, 400_000, MEAN)
    # A count of n arrivals has variance I(inf) * n, here 14 * n: 0.6 % is one standard error.
    assert len(times) / times[-1] == pytest.approx(MEAN, rel=0.02)
    for window in (1.0, 10.0, 100.0):
        assert dispersion(times, window) == pytest.approx(expected_dispersion(window), rel=0.12), window
    assert expected_dispersion(100.0) > 8, "a Poisson process has 1"


def test_mmpp_spends_its_time_in_the_states_as_asked() -> None:
    times = arrivals("mmpp:rates=0/1/20,stay=10/10/5", 200_000, (10 + 100) / 25)
    seconds = np.bincount(times.astype(int))
    # Silence is two fifths of the time; seconds that a change of state cuts are fewer than a tenth.
    assert (seconds == 0).mean() == pytest.approx(0.4 + 0.4 * np.exp(-1), abs=0.05)
    assert (seconds > 8).mean() == pytest.approx(0.2, abs=0.03)
    busy = seconds > 8
    bursts = np.count_nonzero(busy[1:] & ~busy[:-1])
    assert bursts * 25 == pytest.approx(len(seconds), rel=0.12), "one in 25 s"


def test_the_day_follows_its_curve_and_keeps_its_mean() -> None:
    period, peak = 1000.0, 3.0
    times = arrivals(f"diurnal:period={period:g},peak={peak:g}", 500_000, 5.0)
    days = times[times < 100 * period]
    assert len(days) / (100 * period) == pytest.approx(5.0, rel=0.01)
    hours = np.bincount(((days % period) // (period / 100)).astype(int), minlength=100) / len(days) * 100
    assert hours.max() == pytest.approx(peak, rel=0.03), "of the mean"
    top = int(hours.argmax())
    assert 0 < top < 50, "it begins where the rate is the mean one, on its way up"
    assert hours[0] == pytest.approx(1.0, abs=0.08)
    assert hours[2] > hours[0] > hours[-3]
    # Its logarithm is a cosine: peak and trough are as far from exp(k) / I0(k)'s k as that says.
    k = np.log(hours.max() / hours[(top + 50) % 100]) / 2
    assert np.exp(k) / np.i0(k) == pytest.approx(peak, rel=0.05)


def test_a_day_without_a_peak_is_the_steady_process_itself() -> None:
    steady = arrivals("poisson", 5000, 2.0, seed=3)
    assert np.abs(arrivals("diurnal:period=60,peak=1", 5000, 2.0, seed=3) - steady).max() < 1e-5
    assert np.abs(arrivals("mmpp:rates=3/3,stay=5/7", 5000, 2.0, seed=3) - steady).max() < 1e-5


@pytest.mark.parametrize("peak", [1.0, 1.5, 2.0, 10.0, 100.0])
def test_any_height_of_a_day_keeps_the_mean(peak: float) -> None:
    times = arrivals(f"diurnal:period=100,peak={peak:g}", 100_000, 10.0)
    days = times[times < 9500]
    assert len(days) / 9500 == pytest.approx(10.0, rel=0.02)
    count = 2000 if peak > 10 else 200
    bins = np.bincount((days % 100 / 100 * count).astype(int), minlength=count)
    # Some 475 in the mean (of the highest peak 4750 in its bin): the largest of 200 is three standard errors above.
    assert bins.max() / bins.mean() == pytest.approx(peak, rel=0.17)


def test_the_same_seed_has_the_same_steady_arrivals_under_each() -> None:
    """Common random numbers: a later arrival of the steady process is a later one of each that is made of it."""
    for spec in ("onoff:on=10,off=30", "mmpp:rates=1/5,stay=60/20", "diurnal:period=600,peak=3"):
        one, other = (synthesise(500, rate=2.0, arrivals=spec, seed=seed) for seed in (1, 2))
        assert one.digest() == synthesise(500, rate=2.0, arrivals=spec, seed=1).digest() != other.digest()
        assert one.prompt.tolist() == synthesise(500, rate=2.0, seed=1).prompt.tolist()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mmpp:rates=1/2/3,stay=1/2", "3 rates and 2 stays"),
        ("mmpp:rates=5,stay=60", "two or more"),
        ("mmpp:rates=-1/2,stay=1/2", "must not be negative"),
        ("mmpp:rates=0/0,stay=1/2", "one must be above 0"),
        ("mmpp:rates=nan/1,stay=1/2", "is not finite"),
        ("mmpp:rates=1/inf,stay=1/2", "is not finite"),
        ("mmpp:rates=1/x,stay=1/2", "no numbers with / between them; write mmpp:rates=1/5,stay=60/20"),
        ("mmpp:rates=1/5,stay=0/20", "stay in 'mmpp:rates=1/5,stay=0/20' must be positive"),
        ("mmpp:rates=1/5,stay=1e-9/1e-9", "ask for longer ones"),
        ("onoff:on=1e-9,off=1e-9", "ask for longer ones"),
        ("gamma:cv=1/2", "is not a number"),
        ("diurnal:period=3600,peak=0.5", "the rate at the peak over the mean rate, from 1 (no change) to 100"),
        ("diurnal:period=3600,peak=101", "from 1 (no change) to 100"),
        ("diurnal:period=nan", "is not a finite number"),
        ("diurnal:period=1e30", "at most 1e+09"),
        ("diurnal:period=0", "must be positive"),
    ],
)
def test_nonsense_is_told(spec: str, says: str) -> None:
    began = time.process_time()
    with pytest.raises(TraceError) as caught:
        synthesise(1000, rate=1.0, arrivals=spec)
    assert says in str(caught.value)
    assert time.process_time() - began < 5, "said before anything large is made"


def test_recipes_with_lists_are_read_within_a_whole_workload() -> None:
    text = "n=7,arrivals=mmpp:rates=1/5,stay=60/20,rate=2,lengths=fixed:3"
    found = Synthesis.parse(text)
    assert (found.arrivals, found.rate, found.n) == ("mmpp:rates=1/5,stay=60/20", 2.0, 7)
    assert Synthesis.parse(str(found)) == found
    assert Synthesis.parse("arrivals=diurnal:period=86400,peak=3,rate=1").arrivals == "diurnal:period=86400,peak=3"


@pytest.mark.parametrize(
    ("spec", "n", "asked", "came", "said"),
    [
        ("diurnal:period=600,peak=1.8", 1500, 1.887, 2.05, "1.2 of its periods.*period=795 or n=1,132"),
        ("diurnal", 300, 1.9, 1.9, "0.0018 of its periods"),
        ("diurnal:period=600", 1132, 1.887, 1.9, ""),
        ("onoff", 200, 1.9, 3.8, "came at 3.8 requests/s where 1.9 were asked for"),
        ("mmpp", 200, 1.9, 2.0, ""),
        ("poisson", 20, 1.9, 3.0, ""),
    ],
)
def test_a_rate_that_has_not_evened_out_is_told(spec: str, n: int, asked: float, came: float, said: str) -> None:
    found = uneven(spec, n, asked, came)
    assert re.search(said, found)
    assert bool(found) == bool(said)
