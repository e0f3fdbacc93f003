"""Measures against numbers worked out by hand, and against laws that must hold."""

import heapq
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.metrics.saturation import area_until, covered
from fastserve.metrics.summary import Slo, Summary, jain, largest_rate, paired_ratio, saturated, summarise
from tests.metrics.made import Columns, make_records

NAN = math.nan


def summary_of(records: Columns, horizon_s: float = 100.0, **options: object) -> Summary:
    return summarise(records, horizon_s=horizon_s, **options)  # type: ignore[arg-type]


def test_latencies_of_completed_jobs() -> None:
    found = summary_of(make_records([0, 1, 2, 3], [1, 2, 3, 10]))
    assert (found["n"], found["completed"]) == (4, 4)
    assert found["mean_jct_s"] == 4
    assert found["p50_jct_s"] == 2.5
    assert found["p95_jct_s"] == pytest.approx(8.95)  # 3 + 0.85 x 7, between the third and the fourth
    assert found["max_jct_s"] == 10
    assert found["mean_ttft_s"] == 2
    assert found["mean_s_per_token"] == pytest.approx(0.4)
    assert found["mean_slowdown"] == 4
    assert found["mean_tpot_s"] == pytest.approx(2 / 9)


def test_rejected_and_cancelled_jobs_stand_outside_latencies() -> None:
    records = make_records([0, 1, 2], [2, 0, 50], finish=["stop", "rejected", "cancelled"])
    found = summary_of(records)
    assert (found["completed"], found["rejected"], found["cancelled"], found["n"]) == (1, 1, 1, 3)
    assert found["max_jct_s"] == 2
    assert found["mean_ttft_s"] == 1


def test_unfinished_jobs_are_censored_not_dropped() -> None:
    records = make_records([0, 10], [2, 90], finish=["stop", "unfinished"], first_token=[1, NAN], output_tokens=[10, 0])
    found = summary_of(records, horizon_s=100)
    assert (found["completed"], found["unfinished"]) == (1, 1)
    assert found["max_jct_s"] == 90
    assert found["max_ttft_s"] == 90
    assert found["makespan_s"] == 100


def test_one_token_has_no_time_per_output_token() -> None:
    assert summary_of(make_records([0, 1], [1, 1], output_tokens=[1, 1]))["mean_tpot_s"] is None


def test_means_leave_out_jobs_without_a_value() -> None:
    found = summary_of(make_records([0, 1], [1, 9], finish=["stop", "unfinished"], queued=[0.5, NAN]))
    assert found["mean_queued_s"] == 0.5


def test_no_value_is_none_and_never_nan() -> None:
    for records in (make_records([], []), make_records([0], [0], finish=["rejected"]), make_records([5], [0])):
        found = summary_of(records)
        assert not [key for key, value in found.items() if isinstance(value, float) and not math.isfinite(value)]
        assert found["goodput_rps"] is None
        assert found["jain_index"] is None
        assert found["throughput_rps"] is None


def test_rates_share_a_window_that_ends_with_the_last_job() -> None:
    found = summary_of(make_records([0, 5, 10], [4, 5, 20], e2e_slo=[5, 3, 100]))
    assert (found["rate_window_s"], found["rate_drain_s"], found["makespan_s"]) == (30, 20, 30)
    assert found["throughput_rps"] == found["offered_rps"] == pytest.approx(3 / 30)
    assert found["goodput_rps"] == pytest.approx(2 / 30)
    assert found["output_tokens_per_s"] == pytest.approx(30 / 30)
    assert found["arrival_rps"] == pytest.approx(0.2)  # two gaps of 5 s


def test_a_burst_that_drains_has_a_throughput_and_no_more_goodput() -> None:
    """Fifty jobs of 1 s within a second, one at a time, each in time: one job/s is all that the machine can do."""
    arrival = np.linspace(0, 1, 50)
    records = make_records(arrival.tolist(), (np.arange(1, 51) - arrival).tolist(), e2e_slo=[100] * 50)
    found = summary_of(records)
    assert found["throughput_rps"] == found["goodput_rps"] == found["offered_rps"] == pytest.approx(1)
    assert found["arrival_rps"] == pytest.approx(49)
    at_once = summary_of(make_records([0, 0, 0, 0], [1, 2, 3, 4]))
    assert at_once["throughput_rps"] == pytest.approx(1) and at_once["arrival_rps"] is None


@given(st.data())
def test_goodput_is_never_above_throughput_nor_that_above_what_was_offered(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    times = st.lists(st.floats(0, 100), min_size=n, max_size=n)
    finish = data.draw(
        st.lists(st.sampled_from(["stop", "rejected", "unfinished", "truncated"]), min_size=n, max_size=n)
    )
    records = make_records(data.draw(times), data.draw(times), finish=finish)
    found = summarise(records, horizon_s=250, warmup_s=data.draw(st.sampled_from([0.0, 30.0])), slo=Slo(e2e_s=20))
    if found["rate_window_s"] is not None:
        assert (found["goodput_rps"] or 0.0) <= (found["throughput_rps"] or 0.0)
        if found["n"] == n:  # no warm-up: what was there before is served too
            assert (found["throughput_rps"] or 0.0) <= (found["offered_rps"] or 0.0)


def test_a_run_that_was_stopped_is_counted_until_then() -> None:
    records = make_records([0, 10], [2, 90], finish=["stop", "unfinished"], first_token=[1, 20], output_tokens=[10, 16])
    found = summary_of(records, horizon_s=100)
    assert found["rate_window_s"] == 100 and found["throughput_rps"] == pytest.approx(0.01)
    assert found["output_tokens_per_s"] == pytest.approx(0.26)


def test_tokens_count_where_they_were_delivered() -> None:
    # 10 tokens between 8 and 12 of a window that begins at 10, and 10 in it; it ends at 30.
    records = make_records([0, 10], [12, 20], first_token=[8, 25], output_tokens=[10, 10])
    assert summary_of(records, warmup_s=10)["output_tokens_per_s"] == pytest.approx((5 + 10) / 20)


def test_warm_up_is_left_out() -> None:
    found = summary_of(make_records([0, 10, 20], [100, 1, 3]), horizon_s=200, warmup_s=10)
    assert found["n"] == 2
    assert found["max_jct_s"] == 3
    assert found["offered_rps"] == pytest.approx(2 / 90) and found["arrival_rps"] == pytest.approx(0.1)
    assert found["throughput_rps"] == pytest.approx(3 / 90)  # one of them is of the warm-up
    # The long job of the warm-up is still in the system.
    assert found["mean_in_system"] == pytest.approx((90 + 1 + 3) / 90)


def test_goodput_counts_rejected_and_unfinished_as_missed() -> None:
    records = make_records(
        [0, 1, 2, 3, 4],
        [1, 5, 0, 50, 1],
        finish=["stop", "stop", "rejected", "unfinished", "cancelled"],
        e2e_slo=[2, 2, 2, 100, 2],
    )
    found = summary_of(records)
    assert found["slo_attainment"] == pytest.approx(1 / 4)
    assert found["goodput_rps"] == pytest.approx(1 / found["rate_window_s"])


def test_all_objectives_must_be_met_and_own_ones_come_first() -> None:
    records = make_records([0, 1, 2, 3], [2, 2, 2, 2], ttft_slo=[NAN, 0.5, NAN, NAN], e2e_slo=[NAN, NAN, 1, NAN])
    assert summary_of(records)["slo_attainment"] == 0  # of the two that have an objective
    assert summary_of(records, slo=Slo(ttft_s=1.0))["slo_attainment"] == pytest.approx(2 / 4)
    assert summary_of(records, slo=Slo(tpot_s=0.01))["slo_attainment"] == 0


def test_recomputed_share_and_swap() -> None:
    records = make_records(
        [0, 1],
        [1, 1],
        prompt_tokens=[80, 100],
        recomputed_tokens=[50, 0],
        swapped_out_bytes=[2**30, 2**30],
        swapped_in_bytes=[2**29, 0],
        preemptions=[3, 0],
    )
    found = summary_of(records)
    assert found["recomputed_share"] == pytest.approx(50 / 250)
    assert (found["swapped_out_gib"], found["swapped_in_gib"]) == (2, 0.5)
    assert found["preemptions_per_job"] == 1.5


def test_fairness_is_service_per_backlogged_second() -> None:
    # a: 2 jobs x 120 tokens of service in the union [0, 6]; b: 120 in [0, 3]; equal rates, so perfectly fair.
    fair = make_records([0, 2, 0], [4, 4, 3], client=["a", "a", "b"])
    assert summary_of(fair)["jain_index"] == pytest.approx(1.0)
    starved = make_records([0, 0], [3, 50], client=["a", "b"], finish=["stop", "unfinished"], first_token=[1, NAN])
    assert summary_of(starved)["jain_index"] == pytest.approx(0.5)
    assert summary_of(make_records([0, 0], [3, 3], client=["a", ""]))["jain_index"] is None


def test_jain() -> None:
    assert jain([1, 1, 1]) == pytest.approx(1)
    assert jain([1, 0, 0, 0]) == pytest.approx(0.25)
    assert jain([]) is None
    assert jain([0, 0]) is None


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30), st.booleans()), min_size=1, max_size=40),
    st.integers(50, 100),
)
def test_littles_law(jobs: list[tuple[int, int, bool]], horizon: int) -> None:
    records = make_records(
        [float(arrival) for arrival, _, _ in jobs],
        [float(took if done else horizon - arrival) for arrival, took, done in jobs],
        finish=["stop" if done else "unfinished" for _, _, done in jobs],
    )
    found = summary_of(records, horizon_s=float(horizon))
    makespan, inside = found["makespan_s"], found["mean_in_system"]
    assert makespan is not None
    residence = float(records["jct_from_arrival"].sum())
    if makespan > 0:
        assert inside is not None
        assert inside * makespan == pytest.approx(residence)
    else:
        assert inside is None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), min_size=1, max_size=20), st.integers(-5, 40))
def test_area_and_cover_agree_with_counting(intervals: list[tuple[int, int]], until: int) -> None:
    begin = np.array([float(start) for start, _ in intervals])
    end = begin + np.array([float(length) for _, length in intervals])
    ticks = np.arange(-10, 60) + 0.5  # every interval is a union of whole unit cells, whose centres these are
    inside = [int(np.count_nonzero((begin <= tick) & (tick < end))) for tick in ticks]
    assert covered(begin, end) == np.count_nonzero(inside)
    expected = sum(count for tick, count in zip(ticks, inside, strict=True) if tick < until)
    assert area_until(begin, end, np.array([float(until)]))[0] == expected


def queue(load: float, slots: int, n: int, seed: int) -> Columns:
    """A first-come-first-served queue with Poisson arrivals and exponential service times of mean 1."""
    random = np.random.default_rng(seed)
    arrival = np.cumsum(random.exponential(1 / (load * slots), n))
    free = [0.0] * slots
    jct = np.empty(n)
    for i, service in enumerate(random.exponential(1.0, n)):
        end = max(heapq.heappop(free), arrival[i]) + service
        heapq.heappush(free, end)
        jct[i] = end - arrival[i]
    return make_records(arrival.tolist(), jct.tolist())


@pytest.mark.parametrize("slots", [1, 16])
@pytest.mark.parametrize("seed", range(3))
def test_saturation_is_seen_and_not_imagined(slots: int, seed: int) -> None:
    assert saturated(queue(1.4, slots, 2000, seed), horizon_s=1e6) is True
    assert saturated(queue(0.7, slots, 2000, seed), horizon_s=1e6) is False


def test_saturation_needs_enough_arrivals() -> None:
    assert saturated(queue(1.4, 1, 49, 0), horizon_s=1e6) is None


def test_paired_ratio_of_one_seed_has_no_interval() -> None:
    assert paired_ratio([3.0], [2.0]) == (1.5, None, None)


def test_pairing_removes_what_seeds_have_in_common() -> None:
    baseline = [1.0, 10.0, 100.0, 5.0, 50.0]
    mean, low, high = paired_ratio(baseline, [value / 2 for value in baseline])
    assert (mean, low, high) == pytest.approx((2, 2, 2))


def test_the_interval_holds_the_ratio_and_repeats() -> None:
    baseline, other = [2.0, 2.2, 1.9, 2.1, 2.4], [1.0, 1.3, 0.8, 1.1, 1.2]
    found = paired_ratio(baseline, other)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high
    assert found == paired_ratio(baseline, other)


@pytest.mark.parametrize(("baseline", "other"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([NAN], [1.0])])
def test_paired_ratio_refuses_what_has_no_ratio(baseline: list[float], other: list[float]) -> None:
    with pytest.raises(ValueError, match="A paired ratio needs"):
        paired_ratio(baseline, other)


def test_largest_rate_finds_the_crossing() -> None:
    assert largest_rate(lambda rate: rate * rate, 9.0, 0.5, 20.0, tolerance=1e-4) == pytest.approx(3.0, rel=1e-3)


def test_largest_rate_takes_the_first_of_several_crossings() -> None:
    # Above the objective from 2 to 6, below it again after: a collapse that spares short jobs.
    found = largest_rate(lambda rate: 5.0 if 2 <= rate <= 6 else 1.0, 3.0, 1.0, 10.0)
    assert found == pytest.approx(2.0, rel=0.02)
    assert found is not None
    assert found < 2


def test_largest_rate_says_when_there_is_no_crossing() -> None:
    assert largest_rate(lambda rate: 1.0, 2.0, 1.0, 10.0) == math.inf
    assert largest_rate(lambda rate: 3.0, 2.0, 1.0, 10.0) is None
    assert largest_rate(lambda rate: None if rate > 4 else 1.0, 2.0, 1.0, 10.0) == pytest.approx(4.0, rel=0.02)
    with pytest.raises(ValueError, match="0 < low < high"):
        largest_rate(lambda rate: 1.0, 2.0, 10.0, 1.0)
