"""KEY=VALUE means the same wherever --set is read: the simulator, check, ab, generate and serve."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from fastserve.sched.keywords import argument, literal

TABLE: list[tuple[str, Any]] = [
    ("yes", True), ("No", False), ("true", True), ("FALSE", False), ("True", True), ("False", False),
    ("1", 1), ("0", 0), ("-2", -2), ("0.5", 0.5), ("1e-3", 1e-3), ("1_000", 1000), ("None", None), ("[1, 2]", [1, 2]),
    ("(1, 2)", (1, 2)), ("{'a': 1}", {"a": 1}), ("'no'", "no"), ("unbounded", "unbounded"), ("none", "none"),
    ("on", "on"), ("off", "off"), ("", ""), ("a=b", "a=b"), ("1 +", "1 +"), ("f(1)", "f(1)"), ("inf", "inf"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), TABLE)
def test_what_a_value_means(text: str, value: Any) -> None:
    for read in (literal(text), argument(f"key={text}")[1]):
        assert read == value
        assert type(read) is type(value)  # 1 == True


def test_a_key_may_have_dashes() -> None:
    assert argument("num-queues=3") == ("num_queues", 3)
    assert argument(" num-queues = 3 ") == ("num_queues", 3)


@pytest.mark.parametrize("text", ["key", "=1", ""])
def test_no_pair(text: str) -> None:
    with pytest.raises(ValueError, match=f"write it as KEY=VALUE, not '{text}'"):
        argument(text)


@pytest.mark.parametrize("text", ["yes", "0.5", "[1, 2]", "unbounded", "a=b"])
def test_every_command_reads_it_alike(text: str) -> None:
    pytest.importorskip("pydantic")
    from fastserve.cli import ab, check, generate
    from fastserve.cli.arguments import policy_of
    from fastserve.server.config.forms import pairs
    from sim.__main__ import parser

    def parsed(add: Any, *words: str) -> argparse.Namespace:
        found = argparse.ArgumentParser()
        add(found)
        return found.parse_args([*words, "--set", f"some-key={text}"])

    read = [
        parser().parse_args(["t", "--policy", "las", "--set", f"some-key={text}"]).policies[0].knobs,
        parsed(ab.add_arguments, "--trace", "t", "--policy", "las").policies[0].knobs,
        policy_of(parsed(check.add_arguments, "las")).knobs,
        policy_of(parsed(generate.add_arguments)).knobs,
        pairs([f"some-key={text}"]),
    ]
    assert read == [{"some_key": literal(text)}] * 5
