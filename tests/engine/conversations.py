"""Conversations under memory pressure on the torch body: tokens with and without a prefix cache are equal.

    python -m tests.engine.conversations --runs 200

goes on beyond the runs of the ordinary tests. In each run four conversations of three turns behind a common beginning
repeat all that was said, policy, residency, batching, pool and unit are drawn, some turns are cancelled, and where it
says so steps fail or run out of memory, and drafts, right and wrong ones, are verified. Every token is compared with
that of the request alone, and blocks are audited at each boundary.

A prefill behind a cached prefix sums in another order than one that computes all, so in float32 a logit may differ in
its last digits, and a draw at the very edge between two tokens then falls on the other side: once in some ten thousand.
Where a token differs, its logits must agree to ROUNDING, else the run fails; such requests are counted.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Request
from fastserve.policies import POLICIES
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from tests.backends.torch.families import VOCABULARY
from tests.backends.torch.stage import BLOCK, GREEDY, Stage, alone, by_request, forced, tiny
from tests.engine.oracle import Oracle
from tests.sched.worlds import MS

TOKENS, TURNS, TALKS = 12, 3, 4
ROUNDING = 2e-5  # of logits whose standard deviation is 1.7
NAMES = (*POLICIES, "chaos", "stranger")
FAULTS = ("", "", "", "out of memory", "failing copies", "cancels")


@dataclass
class Case:
    """One run. salts: of each conversation. unit: tokens; None is without a cache."""

    seed: int
    policy: str
    residency: str
    batching: str
    unit: int | None
    fault: str = ""
    salts: tuple[str, ...] = ("",) * TALKS
    tier: int = 0  # tokens of units on the host
    drafts: int = 0  # the most of a job in an iteration, right and wrong ones


def drawn(i: int) -> SamplingParams:
    """Greedy and sampled in turns."""
    if i % 2:
        return GREEDY
    return SamplingParams(
        max_tokens=TOKENS, temperature=0.7 + 0.1 * (i % 7), top_k=(0, 20)[i % 2], top_p=(1.0, 0.9, 0.95)[i % 3],
        repetition_penalty=(1.0, 1.2)[i % 4 // 2], presence_penalty=(0.0, 0.5)[i % 5 == 0], seed=1000 + i,
    ).resolved({})  # fmt: skip


class Failing:
    """A mover whose copies fail now and then, when they are waited for or asked about."""

    def __init__(self, mover: Any, rng: random.Random) -> None:
        self.mover = mover
        self.rng = rng
        self.failed = 0

    def copy_out(self, device_blocks: list[int], host_blocks: list[int]) -> Any:
        return self._perhaps(self.mover.copy_out(device_blocks, host_blocks))

    def copy_in(self, host_blocks: list[int], device_blocks: list[int]) -> Any:
        return self._perhaps(self.mover.copy_in(host_blocks, device_blocks))

    def _perhaps(self, passage: Any) -> Any:
        if self.rng.random() < 0.2:
            self.failed += 1
            return Broken(passage)
        return passage


class Broken:
    def __init__(self, passage: Any) -> None:
        self.passage = passage

    def done(self) -> bool:
        self.wait()
        return True

    def wait(self) -> None:
        self.passage.wait()
        raise OSError("the copy failed, as asked")


class Run:
    """What came of a case."""

    def __init__(self, model: Any, case: Case) -> None:
        rng = random.Random(f"conversations {case.seed}")
        self.model = model
        self.case = case
        self.found: dict[int, int] = {}  # tokens, by request
        self.loaded = 0  # tokens of units from the host
        biggest = -(-(13 + 8 + (TURNS - 1) * (TOKENS + 3) + TOKENS + case.drafts) // BLOCK)
        options: dict[str, Any] = {} if case.unit is None else {"prefix_cache": "on", "prefix_tokens": case.unit}
        if case.tier:
            options["host_prefix_tokens"] = case.tier
        self.stage = Stage(
            model, case.policy, biggest + rng.choice([2, 6, 20]), 3 * biggest, residency=case.residency,
            batching=case.batching, max_batch=3, speculate=f"ngram:{case.drafts}" if case.drafts else "off", **options,
        )  # fmt: skip
        if self.stage.backend.drafting is not None:
            self.stage.backend.drafting.proposer = Oracle(self._truth, case.seed)
        self._faults(rng)
        self._talk(rng)

    def _truth(self, job: Job) -> list[int]:
        return alone_(self.model, self.stage.requests[job.id].prompt, job.id)

    def _faults(self, rng: random.Random) -> None:
        backend, faults = self.stage.backend, random.Random(rng.random())
        step, follow = backend._step, backend.blocks.follow
        self.failing = Failing(backend.blocks.mover, faults)
        if self.case.fault == "failing copies":
            backend.blocks.mover = self.failing

        def watched(plan: Plan) -> int:
            self.loaded += sum([copy.blocks * BLOCK for copy in plan.load if copy.units is not None])
            for job, tokens in plan.found.items():
                self.found.setdefault(job.id, tokens)
            return follow(plan)

        def scarce(plan: Plan, drafts: Any) -> Any:
            if len(plan.work) > 1 and faults.random() < 0.03:
                raise RuntimeError("can't allocate memory, as asked")
            return step(plan, drafts)

        backend.blocks.follow = watched  # type: ignore[method-assign]
        if self.case.fault == "out of memory":
            backend._step = scarce  # type: ignore[method-assign]

    def _talk(self, rng: random.Random) -> None:
        stage = self.stage
        system = [rng.randrange(VOCABULARY) for _ in range(rng.choice([8, 12, 13]))]
        talks = [[*system, *[rng.randrange(VOCABULARY) for _ in range(rng.randrange(2, 9))]] for _ in range(TALKS)]
        for _ in range(TURNS):
            now = stage.clock.now()
            turn = []
            for i, talk in enumerate(talks):
                id = len(stage.requests)
                turn.append(stage.add(list(talk), drawn(id), at=now + i * MS, salt=self.case.salts[i]))
                if self.case.fault == "cancels" and rng.random() < 0.3:
                    stage.cancel(id, now + rng.randrange(40) * MS)
            stage.go()
            for talk, request in zip(talks, turn, strict=True):
                said = alone_(self.model, request.prompt, request.job.id)  # a failed turn is not what goes on
                talk += said + [rng.randrange(VOCABULARY) for _ in range(3)]
        self.tokens = [request.tokens for request in stage.requests]
        self.preemptions = sum(stage.preemptions)
        self.oom = stage.loop.counters["oom"]
        self.failed = stage.loop.counters["failed_steps"]
        assert not any(stage.backend.held().values())
        stage.play(self.failed)

    def check(self) -> None:
        """Tokens are those of each request alone, as far as it came; all of them where nothing has ended it."""
        self.on_the_edge = 0
        assert self.failed == 0 or self.case.fault == "failing copies", f"{self.case}: {self.failed} steps failed"
        for request in self.stage.requests:
            wanted = alone_(self.model, request.prompt, request.job.id)
            ended = request.finish_reason
            if request.tokens != wanted[: len(request.tokens)]:
                self._look_closer(request, wanted)
            if ended != "length":
                assert (ended, bool(self.case.fault)) in (("error", True), ("cancelled", True)), f"{self.case}: {ended}"

    def _look_closer(self, request: Request, wanted: list[int]) -> None:
        at = next(i for i, (a, b) in enumerate(zip(request.tokens, wanted, strict=False)) if a != b)
        seen = by_request(self.stage)[request.job.id][: at + 1]
        apart = (seen - forced(self.model, request.prompt, request.tokens[: at + 1])).abs().max().item()
        assert apart <= ROUNDING, f"{self.case}: request {request.job.id}, token {at}: logits {apart:.2g} apart"
        self.on_the_edge += 1


_ALONE: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}


def alone_(model: Any, prompt: list[int], i: int) -> list[int]:
    """The tokens of request i with this prompt, alone and without a cache."""
    key = id(model), i, tuple(prompt)
    if key not in _ALONE:
        _ALONE[key] = alone(model, prompt, drawn(i))
    return _ALONE[key]


def case_of(seed: int) -> Case:
    rng = random.Random(f"case {seed}")
    salts = tuple([rng.choice(["", "", "red", "blue"]) for _ in range(TALKS)])
    case = Case(
        seed, rng.choice(NAMES), rng.choice(["recompute", "reactive", "proactive"]),
        rng.choice(["mixed", "chunked", "prefill-first"]), rng.choice([BLOCK, BLOCK, 2 * BLOCK]), rng.choice(FAULTS),
        salts,
    )  # fmt: skip
    return replace(case, tier=rng.choice([0, 40, 120, 1000]), drafts=rng.choice([0, 0, 1, 3, 6]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine.conversations", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--native", default="off", help="auto: with the compiled attention (its tokens differ by none)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    total: Counter[str] = Counter()
    bad = 0
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model = tiny(Path(folder), native=args.native)
        for seed in range(args.first, args.first + args.runs):
            case = case_of(seed)
            _ALONE.clear()
            try:
                run = Run(model, case)
                run.check()
            except Exception as error:
                bad += 1
                print(f"DIFFERS: {case}: {type(error).__name__} {str(error)[:500]}", flush=True)
                continue
            total["runs"] += 1
            total["requests"] += len(run.tokens)
            total["tokens"] += sum(map(len, run.tokens))
            total["prompt tokens"] += sum([len(request.prompt) for request in run.stage.requests])
            total["found"] += sum(run.found.values())
            total["loaded"] += run.loaded
            total["preemptions"] += run.preemptions
            total["out of memory"] += run.oom
            total["failed steps"] += run.failed
            total["drafts"] += run.stage.backend.drafted
            total["drafts that were right"] += run.stage.backend.accepted
            total["on the edge"] += run.on_the_edge
            total[f"with {case.fault or 'no fault'}"] += 1
    print(dict(total), f"{bad} runs differ, {time.process_time() - began:.0f} s of CPU")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
