"""The real vLLM engine: greedy answers with our Scheduler inside are those of unmodified vLLM, whatever it preempts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.vllm import serving
from tests.vllm.cases import HERE, Case

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not serving.runs(), reason=serving.NO_ENGINE),
]

POLICIES = ["fcfs", "srpt", "sjf", "las", "mlfq", "sj-mlfq", HERE + "Rotate", HERE + "Chaos"]
USUAL = Case(seed=1, slots=4, rows=16, blocks=400, budget=2048, requests=60, gap=45)

Serve = Callable[[Case], dict[str, Any]]


class Worker:
    """One engine in a process of its own, and what unmodified vLLM answered there."""

    def __init__(self, drafts: int) -> None:
        command = [sys.executable, "-m", "tests.vllm.engine", "--drafts", str(drafts)]
        self.process = subprocess.Popen(
            command,
            cwd=serving.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=serving.environment(),
        )
        self.plain: dict[str, dict[str, Any]] = {}
        assert self._read() == {}, "the engine did not start"

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the engine's process has ended: {self.process.poll()}"
        return json.loads(line)

    def serve(self, case: Case) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = self._read()
        assert not answer.get("error"), f"{case}\n{answer['error']}"
        return answer

    def same(self, case: Case) -> dict[str, Any]:
        """The case's answers, after comparing them with unmodified vLLM's, which is never short of memory or rows."""
        base = case.but(
            policy="plain", knobs={}, leave="park", slots=16, rows=16, blocks=400, budget=2048, prefix=False,
            watermark=0.0, aborts=0.0, resets=0.0, drafts=0, guesses="right",
        )  # fmt: skip
        if str(base) not in self.plain:
            self.plain[str(base)] = self.serve(base)
        want = self.plain[str(base)]["tokens"]
        answer = self.serve(case)
        for id, tokens in answer["tokens"].items():
            assert tokens == (want[id][: len(tokens)] if id in answer["aborted"] else want[id]), f"{case}: {id} differs"
        assert set(answer["reasons"]) | set(answer["aborted"]) == set(want)
        assert answer["leaked"] == 0
        return answer

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    one = Worker(0)
    yield one
    one.close()


@pytest.mark.parametrize("blocks", [400, 18], ids=["roomy", "short"])
@pytest.mark.parametrize("prefix", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize("leave", ["park", "recompute"])
@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_are_those_of_unmodified_vllm(
    worker: Worker, policy: str, leave: str, prefix: bool, blocks: int
) -> None:
    answer = worker.same(USUAL.but(policy=policy, leave=leave, prefix=prefix, blocks=blocks, visit=0))
    if policy.startswith(HERE) or policy == "las":
        assert answer["counts"]["left"] > 100


@pytest.mark.parametrize("policy", ["fcfs", "sj-mlfq", HERE + "Chaos"])
@pytest.mark.parametrize(
    "case",
    [
        {"budget": 24}, {"budget": 64}, {"rows": 4}, {"rows": 5}, {"shared": 96, "prefix": True}, {"stops": True},
        {"talks": True, "prefix": True}, {"aborts": 0.05}, {"resets": 0.02, "prefix": True},
        {"blocks": 18, "watermark": 0.1}, {"guesses": "bad"},
    ],
    ids=str,
)  # fmt: skip
def test_so_they_are_with(worker: Worker, policy: str, case: dict[str, Any]) -> None:
    worker.same(USUAL.but(requests=40, policy=policy, **case))


@pytest.mark.parametrize("hook", ["rank", "arrive", "alarm", "depart"])
def test_a_policy_that_breaks_takes_nobody_with_it(worker: Worker, hook: str) -> None:
    knobs = {"hook": hook, "after": 20}
    answer = worker.same(USUAL.but(requests=40, policy=HERE + "Breaks", knobs=knobs))
    assert answer["counts"]["policy_failed"] == 1


def test_some_answers_end_with_a_stop_token(worker: Worker) -> None:
    answer = worker.same(USUAL.but(requests=40, policy="srpt", stops=True))
    assert "stop" in answer["reasons"].values()


def test_drafts(worker: Worker) -> None:
    """n-gram speculation wants an engine of its own; one at a time."""
    worker.close()
    other = Worker(3)
    try:
        for policy in ("fcfs", "srpt", "sj-mlfq", HERE + "Chaos"):
            for leave in ("park", "recompute"):
                for blocks in (400, 18):
                    other.same(USUAL.but(requests=40, policy=policy, leave=leave, blocks=blocks, drafts=3))
    finally:
        other.close()
