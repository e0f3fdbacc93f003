"""Values written as text mean the same wherever --set is read: the simulator, check, ab, generate and serve."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pydantic")

from fastserve.cli.check import setting
from fastserve.policies.literal import literal
from fastserve.server.config.aliases import pairs
from sim.__main__ import literal as literal_of_sim

TABLE: list[tuple[str, Any]] = [
    ("yes", True), ("No", False), ("true", True), ("FALSE", False), ("True", True), ("False", False),
    ("1", 1), ("0", 0), ("-2", -2), ("0.5", 0.5), ("1e-3", 1e-3), ("1_000", 1000), ("None", None), ("[1, 2]", [1, 2]),
    ("(1, 2)", (1, 2)), ("{'a': 1}", {"a": 1}), ("'no'", "no"), ("unbounded", "unbounded"), ("none", "none"),
    ("on", "on"), ("off", "off"), ("", ""), ("a=b", "a=b"), ("1 +", "1 +"), ("f(1)", "f(1)"), ("inf", "inf"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), TABLE)
def test_one_rule(text: str, value: Any) -> None:
    read = [literal(text), literal_of_sim(text), setting(f"key={text}")[1], pairs([f"key={text}"])["key"]]
    assert read == [value] * 4
    assert {type(found) for found in read} == {type(value)}  # 1 == True


def test_a_key_may_have_dashes() -> None:
    assert setting("num-queues=3") == ("num_queues", 3)
    assert pairs(["num-queues=3"]) == {"num_queues": 3}


@pytest.mark.parametrize("text", ["key", "=1"])
def test_no_pair(text: str) -> None:
    with pytest.raises(ValueError, match="--set"):
        setting(text)
    with pytest.raises(ValueError, match="KEY=VALUE"):
        pairs([text])
