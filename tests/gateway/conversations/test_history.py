"""History of a conversation: what a turn joins, and what is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.gateway.conversations.history import Bounds, History, fitting, joined
from fastserve.server.api.errors import encoded

Said = dict[str, Any]


def said(role: str, content: str = "x") -> Said:
    return {"role": role, "content": content}


def history(*messages: Said) -> History:
    return History(id="a", messages=messages, created=1.0, updated=2.0)


ORDER, Q1, A1, Q2, A2, Q3 = (
    said("system", "be brief"), said("user", "q1"), said("assistant", "a1"), said("user", "q2"),
    said("assistant", "a2"), said("user", "q3"),
)  # fmt: skip


def test_a_turn_joins_what_was_said() -> None:
    assert joined(None, [ORDER, Q1]) == [ORDER, Q1]
    assert joined(history(ORDER, Q1, A1), [Q2]) == [ORDER, Q1, A1, Q2]
    other = said("developer", "be long")
    assert joined(history(ORDER, Q1, A1), [other, Q2]) == [other, Q1, A1, Q2]


def test_a_client_that_sends_everything_is_believed() -> None:
    assert joined(history(ORDER, Q1, A1), [Q2, A2, Q3]) == [Q2, A2, Q3]


def test_the_oldest_turns_are_cut_whole() -> None:
    everything = [ORDER, Q1, A1, Q2, A2, Q3]
    size = sum(len(encoded(message)) + 1 for message in everything)
    assert fitting(everything, Bounds(9, size)) == (everything, 0)
    assert fitting(everything, Bounds(9, size - 1)) == ([ORDER, Q2, A2, Q3], 2)
    assert fitting(everything, Bounds(2, size)) == ([ORDER, Q2, A2, Q3], 2)
    assert fitting(everything, Bounds(1, size)) == ([ORDER, Q3], 4)
    small = len(encoded(ORDER)) + len(encoded(Q3)) + 2
    assert fitting(everything, Bounds(9, small)) == ([ORDER, Q3], 4)
    assert fitting(everything, Bounds(9, small - 1)) == ([ORDER], 5), "a turn that is too long alone goes too"
    assert fitting(everything, Bounds(9, 3)) == ([], 6), "and instructions that are"


def test_results_of_tools_go_with_their_turn() -> None:
    turn = [Q1, said("assistant", ""), said("tool", "8"), A1, Q2]
    assert fitting(turn, Bounds(1, 1 << 20)) == ([Q2], 4)
    begins = [A1, Q2, A2]
    assert fitting(begins, Bounds(9, len(encoded(Q2)) + len(encoded(A2)) + 2)) == ([Q2, A2], 1)


def test_very_many_messages_are_cut_in_one_pass() -> None:
    class Counted(dict[str, Any]):
        looks = 0

        def __getitem__(self, name: str) -> Any:
            Counted.looks += 1
            return super().__getitem__(name)

    many = [Counted(said("user")) for _ in range(3000)]
    kept, cut = fitting(many, Bounds(10, 1 << 20))
    assert (len(kept), cut) == (10, 2990) and Counted.looks < 5 * len(many)


def test_json_there_and_back() -> None:
    before = history(ORDER, said("user", "é\ud800"))
    after = History.from_json(before.to_json())
    head = json.loads(before.to_json().split(b"\n")[0])
    assert head == before.summary() and head["turns"] == 1 and head["messages"] == 2
    assert list(after.messages) == list(before.messages) and after.turns == 1 and after.created == 1.0
