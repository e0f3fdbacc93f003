"""The values of an axis: exact steps, both ends, and what is said of a slip of the pen."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from fastserve.policies.spec import PolicySpec
from sim.settings import Settings
from sim.sweep.grid import given, grid


def axis(**changes: Any) -> list[Any]:
    return next(iter(given(None, changes)[1].values()))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("0.5:1.1:0.1", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]),
        ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),
        ("1.1:0.9:-0.1", [1.1, 1.0, 0.9]),
        ("0.5:1:0.2", [0.5, 0.7, 0.9]),
        ("0.5,0.7,0.9", [0.5, 0.7, 0.9]),
        ("0.1:0.3:0.1, 0.9", [0.1, 0.2, 0.3, 0.9]),
        ("0.5:0.5:1", [0.5]),
        ([0.5, 1], [0.5, 1.0]),
        ((0.7,), [0.7]),
        (np.linspace(0.5, 1.0, 3), [0.5, 0.75, 1.0]),
    ],
)
def test_values(asked: object, found: list[float]) -> None:
    """Equal to the number that one would type, and to what a list gives."""
    assert axis(load=asked) == found
    assert all(type(value) is float for value in axis(load=asked))


def test_whole_numbers_stay_whole() -> None:
    assert axis(max_batch="8:24:8") == [8, 16, 24] == axis(max_batch=range(8, 25, 8))
    assert all(type(value) is int for value in axis(max_batch=np.array([8, 16])))


def test_words_and_switches() -> None:
    assert axis(batching="mixed,chunked") == ["mixed", "chunked"]
    assert axis(kv_tokens="5000,unlimited") == [5000, "unlimited"]
    assert axis(duplex=[True, False]) == [True, False]
    assert axis(predictor="oracle,lognormal:0.5") == ["oracle", "lognormal:0.5"]


def test_one_value_is_no_axis() -> None:
    settings, axes = given(
        Settings(max_batch=4), {"load": "0.9", "replica": ("weight=2", "weight=1"), "slo": "ttft=1,e2e=9"}
    )
    assert axes == {}
    assert (settings.load, settings.max_batch, settings.slo) == (0.9, 4, "ttft=1s,e2e=9s")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("1:0:0.1", r"load=1:0:0.1: no value, .* never lead from 1 to 0; try 0:1:0.1"),
        ("0.5:1:0", r"a step of 0 never comes to 1; several values are written START:STOP:STEP"),
        ("0:1:0.000001", r"load=0:1:0.000001: that is 1,000,001 values, and an axis has at most 1,000"),
        ("0:1:1e-9999999", r"far more values, and an axis has at most 1,000"),
        ("0.5,", "there is an empty value in it"),
        ("0.5,fast", "load='fast' is no number; several values"),
        ("0.5:1", "load='0.5:1' is no number"),
        ("1e999999:1e999999:1", "is no number"),
        ("0.5,0.50", "load: 0.5 is given twice"),
        ([], "load: no value is given"),
        (range(10**9), "load: more than 1,000 values are given"),
    ],
)
def test_slips(asked: object, said: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=said):
        given(None, {"load": asked})
    assert time.process_time() - began < 1


def test_an_unknown_setting_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"no setting 'loads'; it has .*max_batch.*did you mean load\?"):
        given(None, {"loads": "0.5,0.7"})


def made(policies: list[Any], **changes: Any) -> Any:
    settings, axes = given(None, changes)
    return grid([PolicySpec.of(policy) for policy in policies], [settings], axes, 5)


def test_knobs_vary_for_their_policy_alone() -> None:
    found = made(["fcfs", PolicySpec("mlfq", {"ratio": (2, 4)})], load="0.5,0.9")
    assert found.axes == {"load": [0.5, 0.9], "ratio": [2, 4]}
    assert [(cell.label, cell.at) for cell in found.cells[:3]] == [
        ("fcfs", {"load": 0.5}),
        ("mlfq", {"load": 0.5, "ratio": 2}),
        ("mlfq", {"load": 0.5, "ratio": 4}),
    ]
    assert len(found.cells) == 6
    assert found.cells[2].spec.knobs == {"ratio": 4}


def test_rows_of_one_policy_are_told_apart() -> None:
    two = made([PolicySpec("mlfq", {"ratio": "2:4:2"}), PolicySpec("mlfq", {"eta": 2}), "mlfq"], load="0.5,0.9")
    assert list(two.labels) == ["mlfq over ratio", "mlfq eta=2", "mlfq"]
    with pytest.raises(ValueError, match="two rows have the label 'mlfq'"):
        made(["mlfq", "mlfq"])


def test_a_row_has_one_name_at_every_point() -> None:
    """A policy that goes by a predictor names it, unless that varies; replicas bring a router in."""
    assert list(made(["srpt"], load="0.5,0.9").labels) == ["srpt (oracle)"]
    assert list(made(["srpt"], predictor="oracle,lognormal:0.5").labels) == ["srpt"]
    assert list(made(["fcfs"], replicas="1,2").labels) == ["round-robin + fcfs"]


def test_a_grid_that_is_too_large_is_refused_before_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"4,000,000 runs are asked for \(1,000 visit x 800 load.* at most 100,000"):
        made(["fcfs"], visit="1:1000:1", load=list(np.arange(1, 801) / 1000))


def test_a_point_that_cannot_be_is_told_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="max_batch=0 must be at least 1"):
        made(["fcfs"], max_batch="0:4:1")
    with pytest.raises(ValueError, match="policy mlfq has no setting 'ration'"):
        made([PolicySpec("mlfq", {"ration": [2, 4]})])
