"""Who is held back, in the feed and in explanations: from when, why, until when."""

from __future__ import annotations

from typing import Any

from fastserve.engine import Engine, SamplingParams
from fastserve.observers.explain import Explanation
from fastserve.observers.lives import Lives
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy

SHORT = SamplingParams(max_tokens=2, ignore_eos=True)


class Gate(Policy):
    """Holds back all of "b" until somebody says that a program is over."""

    def arrive(self, job: Job) -> None:
        if job.program == "b":
            self.hold(job)
            self.wake(job, waited=10**9)

    def ended(self, program: str) -> None:
        for job in list(self.jobs):
            self.release(job)

    def alarm(self, job: Job, why: str) -> None:
        self.wake(job, waited=10**9)

    def rank(self, job: Job) -> int:
        return job.arrival

    def explain(self, job: Job) -> str:
        return f"its {self.context(job):,} tokens do not fit" if job.program == "b" else "in turn"


def run(*observers: Any, watch: list[dict[str, Any]] | None = None) -> Job:
    with Engine.scripted(policy=Gate, max_batch=2, realtime=10.0) as engine:
        for observer in observers:
            engine.attach(observer)
        if watch is not None:
            engine.add_watcher(watch.append)
        held = engine.submit("b" * 1200, SHORT, program="b")
        engine.submit("a" * 20, SHORT, program="a").result()
        assert engine.snapshot().held == 1 and not held.done
        engine.end_program("a")
        held.result()
        return held._request.job


def test_an_explanation_says_why_and_for_how_long() -> None:
    told, lives = Explanation(0), Lives()
    job = run(told, lives)
    assert lives.told[0].text("gate") == told.text("gate")
    arrived, released, joined, *_, ended = [line.what for line in told.told()]
    assert arrived == "arrived: prompt of 1,200 tokens; held back: its 1,200 tokens do not fit; 0 others run, 0 wait"
    assert released.startswith("held back no longer, after ") and released.endswith("; its 1,200 tokens do not fit")
    assert joined.startswith("joined slot") and "held back" not in joined and "overruled" not in joined
    assert "held back" in ended and job.held > 0 and not job.overruled


def test_the_feed_says_it_once_each() -> None:
    events: list[dict[str, Any]] = []
    job = run(watch=events)
    held = [event for event in events if event["id"] == 0]
    assert [event["type"] for event in held][:4] == ["arrive", "hold", "release", "join"]
    assert held[0]["level"] == "held back", "without what follows the colon"
    assert held[1]["level"] == "held back: its 1,200 tokens do not fit"
    assert held[2]["held_s"] == job.held / 1e9 and held[3]["found"] == 0
    assert [event["type"] for event in events].count("hold") == 1


class Shut(Policy):
    """Holds everybody back and never wakes."""

    def arrive(self, job: Job) -> None:
        self.hold(job)

    def rank(self, job: Job) -> int:
        return job.arrival


def test_who_is_overruled_is_told_so() -> None:
    told = Explanation(0)
    with Engine.scripted(policy=Shut, max_batch=2) as engine:
        engine.attach(told)
        engine.submit("a", SHORT).result()
    lines = [line.what for line in told.told()]
    assert any("overruled" in line for line in lines if line.startswith("joined"))
    assert not any(line.startswith("held back no longer") for line in lines)
