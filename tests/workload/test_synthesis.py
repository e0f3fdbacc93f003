"""Synthesis: the asked-for rate and laws, and streams that do not disturb each other."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve.workload import TraceError, describe, load_profile, profile_names, synthesise
from fastserve.workload.statistics import rank_correlation

N = 20_000


@pytest.mark.parametrize(
    ("arrivals", "cv"), [("poisson", 1.0), ("gamma:cv=4", 4.0), ("gamma:0.5", 0.5), ("deterministic", 0.0)]
)
def test_rate_and_cv_of_renewal_processes(arrivals: str, cv: float) -> None:
    found = describe(synthesise(N, rate=5.0, arrivals=arrivals, lengths="fixed:1"))
    # Standard errors: CV / sqrt(N) for the rate; the CV of Gamma 4 has heavier tails, hence 6 %.
    assert found.rate_rps == pytest.approx(5.0, rel=0.01 + 4 * cv / N**0.5)
    assert found.gap_cv == pytest.approx(cv, rel=0.06, abs=1e-6)


def test_on_off_bursts_alternate_with_silence() -> None:
    found = describe(synthesise(N, rate=5.0, arrivals="onoff:on=2,off=6", lengths="fixed:1"))
    assert found.rate_rps == pytest.approx(5.0, rel=0.15)
    gaps = np.diff(synthesise(N, rate=5.0, arrivals="onoff:on=2,off=6", lengths="fixed:1").arrival) / 1e9
    # Inside a burst the rate is 5 x 8 / 2 = 20 per second; the rest of the gaps are off phases, one in 8 s.
    assert np.median(gaps) == pytest.approx(np.log(2) / 20, rel=0.1)
    assert gaps[gaps > 1].sum() / gaps.sum() == pytest.approx(0.75, abs=0.06)


def test_lognormal_is_clipped_and_zipf_follows_its_law() -> None:
    trace = synthesise(N, rate=1, prompt="lognormal:3.0,1.6,4,1024", output="zipf:theta=1.2,lo=2,hi=50")
    assert trace.prompt.min() == 4
    assert trace.prompt.max() == 1024
    assert np.median(trace.prompt) == pytest.approx(np.exp(3.0), rel=0.05)
    assert (trace.output.min(), trace.output.max()) == (2, 50)
    weights = np.arange(2, 51) ** -1.2
    assert (trace.output == 2).mean() == pytest.approx(weights[0] / weights.sum(), rel=0.05)
    assert (trace.output >= 25).mean() == pytest.approx(weights[23:].sum() / weights.sum(), rel=0.08)


@pytest.mark.parametrize("name", profile_names())
def test_profiles_keep_means_and_bounds(name: str) -> None:
    profile = load_profile(name)
    trace = synthesise(N, rate=1, lengths=f"profile:{name}")
    for drawn, table in ((trace.prompt, profile.prompt), (trace.output, profile.output)):
        assert table.levels[0] == 0
        assert table.levels[-1] == 1
        assert (np.diff(table.levels) > 0).all()
        assert (np.diff(table.tokens) >= 0).all()
        assert drawn.min() >= max(1, round(table.tokens[0]))
        assert drawn.max() <= table.tokens[-1]
        # 128ths cut the body; the mean of a table is its integral.
        area = float(np.sum(np.diff(table.levels) * (table.tokens[1:] + table.tokens[:-1]) / 2))
        assert drawn.mean() == pytest.approx(area, rel=0.05)
    assert abs(rank_correlation(trace.prompt, trace.output) or 0.0) < 0.05
    if profile.max_total is not None:
        assert (trace.prompt + trace.output).max() <= profile.max_total
    assert profile.licence
    assert profile.source
    assert profile.cite


def test_the_profiles_that_the_readme_names_are_shipped() -> None:
    assert profile_names() == ["alpaca", "arena", "azure-code-2023", "azure-conv-2023", "sharegpt"]


def test_changing_one_recipe_leaves_the_other_streams_alone() -> None:
    base = synthesise(200, rate=2.0, seed=3)
    assert synthesise(200, rate=2.0, seed=3).digest() == base.digest()
    assert synthesise(200, rate=2.0, seed=4).digest() != base.digest()
    bursty = synthesise(200, rate=2.0, arrivals="gamma:cv=4", seed=3)
    assert bursty.prompt.tolist() == base.prompt.tolist()
    assert bursty.output.tolist() == base.output.tolist()
    other = synthesise(200, rate=2.0, seed=3, prompt="fixed:7")
    assert other.arrival.tolist() == base.arrival.tolist()
    assert other.output.tolist() == base.output.tolist()
    faster = synthesise(200, rate=4.0, seed=3)
    assert np.abs(2 * faster.arrival - base.arrival).max() <= 2000  # both are whole microseconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"arrivals": "weibull"},
            "use one of poisson, gamma:CV, onoff:on=10,off=30, mmpp:rates=1/5,stay=60/20, diurnal:",
        ),
        ({"arrivals": "gamma"}, "lacks cv"),
        ({"arrivals": "gamma:cv=0"}, "must be positive"),
        ({"arrivals": "poisson:3"}, "cannot place '3'"),
        ({"rate": 0.0}, "positive number of requests per second"),
        ({"rate": float("nan")}, "positive number of requests per second"),
        ({"n": 0}, "at least 1"),
        ({"lengths": "zipf:1.2,9,3"}, "lo exceeds hi"),
        ({"lengths": "fixed:0"}, "not a number of tokens"),
        ({"lengths": "fixed:nan"}, "not a finite number"),
        ({"lengths": "lognormal:1,-1,1,9"}, "sigma"),
        ({"lengths": "profile:nope"}, "shipped: alpaca, arena"),
        ({"lengths": "what"}, "or profile:NAME"),
    ],
)
def test_errors_say_what_would_be_right(options: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError) as caught:
        synthesise(**{"n": 5, "rate": 1.0, **options})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_more_requests_than_fit_in_memory_are_refused_before_they_are_drawn() -> None:
    with pytest.raises(TraceError, match="cannot synthesise 99,999,999,999 requests; ask for at most 50,000,000"):
        synthesise(n=99_999_999_999, rate=1.0)
