"""SamplingParams: ranges, defaults of the model, and no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from fastserve.engine.params import SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", 2.0),
        ("min_tokens", -1),
        ("min_tokens", None),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", 1.01),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.5),
        ("presence_penalty", None),
        ("frequency_penalty", -2.5),
        ("seed", 1 << 64),
        ("seed", -(1 << 63) - 1),
        ("seed", 1.0),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", 3),
        ("stop", b"a"),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", 3),
        ("stop_token_ids", "3"),
        ("include_stop", 1),
        ("ignore_eos", "no"),
        ("logprobs", -1),
        ("logprobs", True),
        ("stop_after", 0),
        ("guess", 0),
    ],
)
def test_a_value_outside_its_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}="):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", None),
        ("temperature", 0),
        ("top_k", -1),
        ("top_p", 1),
        ("min_p", 1),
        ("seed", -1),
        ("seed", (1 << 64) - 1),
        ("logprobs", 0),
        ("repetition_penalty", 0.5),
    ],
)
def test_borders_are_inside(field: str, value: Any) -> None:
    assert getattr(SamplingParams(**{field: value}), field) == value


def test_min_tokens_must_fit() -> None:
    with pytest.raises(ValueError, match="min_tokens=9 is above max_tokens=8"):
        SamplingParams(max_tokens=8, min_tokens=9)
    with pytest.raises(ValueError, match="min_tokens=9 is above stop_after=4"):
        SamplingParams(max_tokens=None, min_tokens=9, stop_after=4)


def test_one_stop_is_a_tuple_of_one_and_the_whole_is_hashable() -> None:
    one = SamplingParams(stop="ab", stop_token_ids=[3, 4])
    assert one.stop == ("ab",) and one.stop_token_ids == (3, 4)
    assert one == SamplingParams(stop=["ab"], stop_token_ids=(3, 4))
    assert hash(one) == hash(SamplingParams(stop=("ab",), stop_token_ids=(3, 4)))


def test_the_callers_values_come_before_the_models() -> None:
    defaults = {"temperature": 0.6, "top_k": 20, "top_p": None, "max_new_tokens": 7, "do_sample": True}
    params = SamplingParams(temperature=0.0, seed=3, stop="x").resolved(defaults)
    assert (params.temperature, params.top_k, params.top_p) == (0.0, 20, 1.0)
    assert (params.min_p, params.repetition_penalty) == (0.0, 1.0)
    assert (params.max_tokens, params.seed, params.stop) == (16, 3, ("x",))
    assert params.resolved({"temperature": 0.1}) == params


def test_a_bad_default_of_the_model_is_said_to_be_its_own() -> None:
    with pytest.raises(ValueError, match=r"generation_config: top_p=1\.5"):
        SamplingParams().resolved({"top_p": 1.5})
    assert SamplingParams(top_p=0.5).resolved({"top_p": 1.5}).top_p == 0.5


def test_names() -> None:
    assert {"temperature", "stop_after", "skip_special_tokens"} <= SamplingParams.names()


def test_no_torch_is_imported() -> None:
    heavy = "torch", "numpy", "transformers"
    code = f"import sys, fastserve.engine.params; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
