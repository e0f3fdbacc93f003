"""The policy of programs that docs/policies.md shows is run as written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from fastserve.sched.conformance import check_policy
from fastserve.sched.policy import Policy
from tests.sched.closed import ClosedInbox
from tests.sched.sharing import Answers
from tests.sched.worlds import MS, Work, build, hardware

DOCS = Path(__file__).parents[2] / "docs" / "policies.md"


def shown() -> type[Policy]:
    """The class as the page has it."""
    blocks = DOCS.read_text(encoding="utf-8").split("```python\n")[1:]
    text = next(block.partition("```")[0] for block in blocks if "OldestThatFit" in block)
    names: dict[str, Any] = {}
    exec(compile(text, str(DOCS), "exec"), names)
    kind = names["OldestThatFit"]
    assert issubclass(kind, Policy)
    return kind


class Oldest(Policy):
    settled = True

    def rank(self, job: Any) -> Any:
        return job.arrival


def talks(programs: int = 12, turns: int = 5) -> Work:
    """Conversations whose contexts grow from 300 to 1,200 tokens, each turn 20 ms after the last answer."""
    rng = random.Random(7)
    work = Work([], [], [], 64, [], ids=[], answers=[], after={}, told=True, names=[])
    assert work.ids is not None and work.answers is not None and work.after is not None and work.names is not None
    for program in range(programs):
        for turn in range(turns):
            id = len(work.prompt)
            work.arrival.append(program * MS)
            work.prompt.append(300 + turn * 220 + rng.randrange(16))
            work.output.append(rng.randint(10, 60))
            work.ids.append([1000 * program + unit for unit in range(work.prompt[-1] // 16)])
            work.answers.append([])
            work.names.append(f"talk-{program}")
            if turn:
                work.after[id - 1] = [(id, 20 * MS)]
    return work


def run(kind: type[Policy]) -> dict[str, Any]:
    work = talks()
    options: dict[str, Any] = {"max_batch": 8, "device_blocks": 200, "host_blocks": 0, "residency": "recompute",
                               "prefix_cache": "on", "prefix_tokens": 16}  # fmt: skip
    world, _ = build(kind(), work, hardware(False), options, body=lambda *facts: Answers(*facts, work))
    assert isinstance(world.inbox, ClosedInbox)
    world.run()
    return dict(world.recorder.columns())


def test_it_keeps_the_contract() -> None:
    assert "keeps the contract" in str(check_policy(shown()))


def test_it_holds_programs_back_and_ends_sooner() -> None:
    ours, theirs = run(shown()), run(Oldest)
    for columns in (ours, theirs):
        assert set(columns["finish"]) == {"stop"}
    assert (ours["held_s"] > 0).sum() > 5 and not ours["overruled"].any() and not theirs["held_s"].any()
    assert ours["cached_tokens"].sum() > 1.5 * theirs["cached_tokens"].sum()
    assert np.max(ours["end"]) < 0.95 * np.max(theirs["end"])
