"""Prompts that are alike as far as the trace says, and what goes on with an answer."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve.workload import Trace
from fastserve.workload.content import content
from fastserve.workload.prompts import Dialogue, TracePrompts, continued, tokens_of
from fastserve.workload.seeds import recipe_of
from tests.engine.test_play_sessions import AGENTS, chain
from tests.engine.test_playback import talks


def test_prompts_are_alike_as_far_as_the_trace_says() -> None:
    trace = talks()
    prompts = TracePrompts(trace, 32, 127)
    found = [prompts.of(row).tolist() for row in range(len(trace))]
    assert [len(prompt) for prompt in found] == trace.prompt.tolist()
    first, other, later = found[0], found[1], found[6]
    assert first[:48] == other[:48]
    assert first[48:64] != other[48:64]
    assert later[:100] == first  # the end of the prompt, too, is what the next turn repeats
    assert {token for prompt in found for token in prompt} == set(range(32, 127))
    assert TracePrompts(trace, 32, 127).of(7).tolist() == found[7]
    assert TracePrompts(trace, 32, 127, seed=1).of(7).tolist()[:16] != found[7][:16]


def test_equal_units_are_equal_tokens_and_other_units_are_not() -> None:
    """Of agents with forks: two prompts begin alike exactly as far as the content says."""
    trace = recipe_of(AGENTS).trace(1)
    shared = content(trace, 64)
    assert shared is not None
    prompts = TracePrompts(trace, 100, 1000)
    for row in range(1, len(trace), 3):
        one, other = prompts.of(row), prompts.of(row - 1)
        n = min(len(one), len(other))
        alike = int(np.argmin(np.append(one[:n] == other[:n], False)))
        pair = zip(shared.prompt(row), shared.prompt(row - 1), strict=False)
        units = next((i for i, (a, b) in enumerate(pair) if a != b), min(len(one), len(other)) // 64)
        assert units * 64 <= alike < (units + 1) * 64, row


def test_without_block_ids_nothing_is_alike() -> None:
    trace = Trace("plain", "", np.zeros(2, np.int64), np.array([500, 500]), np.array([1, 1]))
    prompts = TracePrompts(trace, 0, 50)
    one, other = prompts.of(0), prompts.of(1)
    assert 0 < int((one == other).sum()) < 40


def test_an_answer_stands_where_the_trace_has_it() -> None:
    trace = chain([40, 80, 130], [33, 40, 10])
    prompts = TracePrompts(trace, 0, 9)
    dialogue = Dialogue(trace, prompts)
    first = tokens_of(dialogue.make(0)).tolist()
    dialogue.answered(0, [77] * 33)
    second = dialogue.make(1)
    assert tokens_of(second).tolist() == [*first, *[77] * 33, *prompts.of(1)[73:].tolist()]
    assert [(len(part.text), part.answered) for part in second] == [(40, False), (33, True), (7, False)]
    dialogue.answered(1, None)  # nobody tells what it said
    third = tokens_of(dialogue.make(2)).tolist()
    assert third == [*tokens_of(second).tolist(), *prompts.of(2)[80:].tolist()]
    assert (dialogue.replaced, dialogue.untold) == (1, 1)


def test_a_shorter_answer_makes_a_shorter_prompt() -> None:
    trace = chain([40, 80], [33, 5])
    dialogue = Dialogue(trace, TracePrompts(trace, 0, 9))
    dialogue.make(0)
    dialogue.answered(0, [77] * 20)
    assert len(tokens_of(dialogue.make(1))) == 80 - 13


def test_an_answer_may_be_text() -> None:
    trace = chain([40, 80], [33, 5])
    dialogue = Dialogue(trace, TracePrompts(trace, 0, 9))
    dialogue.make(0)
    dialogue.answered(0, "so it is")
    assert dialogue.make(1)[1] == ("so it is", True)


def test_recorded_text_is_the_trace_s_whatever_was_answered() -> None:
    trace = chain([40, 80, 130], [33, 40, 10])
    prompts = TracePrompts(trace, 0, 9)
    recorded = Dialogue(trace, prompts, recorded=True)
    for row in range(3):
        parts = recorded.make(row)
        assert tokens_of(parts).tolist() == prompts.of(row).tolist()
        recorded.answered(row, [77] * 20)
    assert [(len(part.text), part.answered) for part in parts] == [
        (40, False), (33, True), (7, False), (40, True), (10, False),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_who_goes_on_with_whom(seed: int) -> None:
    """A turn after a join goes on with the caller, not with its subagents, which begin anew; so does a summary."""
    trace = recipe_of(AGENTS).trace(seed)
    assert trace.after is not None
    found = continued(trace, content(trace, trace.block_size))
    joins = [row for row, before in enumerate(trace.after) if len(before) > 1]
    assert joins
    for row in joins:
        assert found[row] == min(trace.after[row])
    anew = [row for row, before in enumerate(trace.after) if before and found[row] < 0]
    assert anew
    for row in anew:
        assert all(trace.prompt[row] < trace.prompt[other] + trace.output[other] or trace.prompt[row] < 700
                   for other in trace.after[row])  # fmt: skip
