"""Groups of jobs: who is in which, the same for all runs, and that what the groups have sums to what the run has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fastserve.metrics.groups import KINDS, By, group_summaries, grouping, horizon_of
from fastserve.metrics.slo import Slo
from fastserve.metrics.summary import summarise
from tests.metrics.made import Columns, make_records

NAN = float("nan")


def records(n: int = 40, **columns: Sequence[object]) -> Columns:
    rng = np.random.default_rng(n)
    arrival = np.sort(rng.uniform(0, 50, n))
    return make_records(arrival.tolist(), rng.uniform(0.5, 9.0, n).tolist(), **columns)


@pytest.mark.parametrize(
    ("text", "by"),
    [
        ("client", By("client", 10)),
        (" Client:3", By("client", 3)),
        ("length", By("length", 4)),
        ("prompt:8", By("prompt", 8)),
        ("length:log2", By("length", None)),
    ],
)
def test_what_it_is_written_as(text: str, by: By) -> None:
    assert By.parse(text) == by and By.parse(by) is by


@pytest.mark.parametrize("text", ["", "clients", "client:0", "client:101", "client:x", "priority:log2", "length:-1"])
def test_what_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"^by: .*(did you mean|there are no groups|write )"):
        By.parse(text)


def test_the_clients_with_the_most_jobs_over_all_runs_then_the_nameless_then_the_rest() -> None:
    one = records(10, client=["a"] * 4 + ["b"] * 3 + ["c"] * 2 + [""])
    other = records(10, client=["c"] * 6 + ["b"] * 3 + ["d"])
    groups = grouping("client:2", [one, other])
    assert list(groups.names) == ["c", "b", "no client", "the other 2 clients"] and groups.rest
    assert [int(rows.sum()) for rows in groups.rows(one)] == [2, 3, 1, 4]
    assert [int(rows.sum()) for rows in groups.rows(other)] == [6, 3, 0, 1]
    assert groups.about == "by client: the 2 clients with the most jobs, and the others together"
    assert grouping("client", [one]).about == "by client: all clients"


def test_priorities_go_by_their_number_and_copies_of_a_program_are_one() -> None:
    priority = [2, 2, 2, 0, 0, -1, 10, 10, 10, 10]
    assert list(grouping("priority", [records(10, priority=priority)]).names) == ["-1", "0", "2", "10"]
    program = ["p", "p#1", "p#2", "q", "q", "r", "r", "r", "r", "r"]
    assert list(grouping("program", [records(10, program=program)]).names) == ["r", "p", "q"]


@pytest.mark.parametrize("kind", ["client", "program", "priority", "class"])
def test_a_run_that_tells_nothing_of_it_is_refused(kind: str) -> None:
    table = records(5)
    with pytest.raises(ValueError, match=f"no job of this run tells its {kind}"):
        grouping(kind, [table])
    table.pop("slo_class", None)  # older records
    with pytest.raises(ValueError, match="no classes to group by"):
        grouping("class", [table])


def test_lengths_are_cut_into_parts_of_equally_many() -> None:
    output = [*range(1, 101)]
    table = records(100, output_tokens=output)
    groups = grouping("length", [table])
    assert list(groups.names) == ["1-25 tokens", "26-50 tokens", "51-75 tokens", "76-100 tokens"]
    assert [int(rows.sum()) for rows in groups.rows(table)] == [25] * 4
    assert "in 4 parts of about equally many jobs" in groups.about
    alike = records(6, output_tokens=[7] * 6)
    assert list(grouping("length:5", [alike]).names) == ["7 tokens"]
    few = records(6, output_tokens=[1, 1, 1, 1, 9, 9])
    assert list(grouping("length", [few]).names) == ["1 token", "2-9 tokens"]


def test_or_between_powers_of_two() -> None:
    table = records(6, prompt_tokens=[3, 15, 16, 40, 1024, 5000])
    groups = grouping("prompt:log2", [table])
    assert list(groups.names)[:3] == ["3-15 tokens", "16-31 tokens", "32-63 tokens"]
    assert groups.names[-1] == "4,096-5,000 tokens"
    assert [int(rows.sum()) for rows in groups.rows(table)] == [2, 1, 1, 0, 0, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "class"])
def test_what_the_groups_have_sums_to_what_the_run_has(kind: str) -> None:
    rng = np.random.default_rng(3)
    finish = [["stop", "length", "rejected", "truncated", "cancelled", "unfinished"][i] for i in rng.integers(0, 6, 40)]
    table = records(
        finish=finish, client=[*"abcd"] * 10, program=[*"pq"] * 20, priority=[0, 1, 2, 5] * 10,
        output_tokens=rng.integers(1, 300, 40).tolist(), prompt_tokens=rng.integers(1, 300, 40).tolist(),
    )  # fmt: skip
    slo, horizon = Slo(e2e_s=5.0), 80.0
    whole = summarise(table, horizon_s=horizon, warmup_s=8.0, slo=slo)
    parts = group_summaries(table, grouping(kind, [table]), horizon_s=horizon, warmup_s=8.0, slo=slo)
    assert len(parts) > 1
    for key in ("n", "completed", "rejected", "truncated", "cancelled", "unfinished", "throughput_rps", "goodput_rps",
                "output_tokens_per_s", "offered_rps", "arrival_rps", "mean_in_system"):  # fmt: skip
        assert sum(float(part[key] or 0) for part in parts) == pytest.approx(float(whole[key] or 0)), key
    for key in ("mean_jct_s", "mean_ttft_s"):
        counted = [float(part["completed"] or 0) + float(part["unfinished"] or 0) for part in parts]
        means = [float(part[key] or 0) for part in parts]
        assert np.average(means, weights=counted) == pytest.approx(float(whole[key] or 0)), key
    assert all(part["rate_window_s"] == whole["rate_window_s"] and part["saturated"] is None for part in parts)


def test_the_horizon_is_in_the_records() -> None:
    table = records(4, finish=["stop", "stop", "unfinished", "stop"])
    until = table["arrival"][2] + table["jct_from_arrival"][2]
    assert horizon_of(table) == pytest.approx(max(until, np.nanmax(table["end"])))
    assert horizon_of({name: column[:0] for name, column in table.items()}) == 0.0
