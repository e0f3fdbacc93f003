"""The draft of a plan is forgotten with it."""

from __future__ import annotations

from fastserve.engine import Engine, SamplingParams


def test_plans_that_find_nothing_leave_nothing_behind() -> None:
    """A job without a unit of its own, or none that is there, must not be reckoned with for ever."""
    with Engine.scripted(max_batch=4) as engine:
        for number in range(100):
            prompt = f"{number:3}" if number % 2 else f"{number:3} " * 20
            engine.submit(prompt, SamplingParams(max_tokens=2, ignore_eos=True)).result()
        sharing = engine.loop.scheduler.sharing
        assert sharing is not None
        assert len(sharing.draft._changes) <= 4 and len(sharing.draft._paths) <= 4
