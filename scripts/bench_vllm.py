"""What our Scheduler costs inside vLLM, a step, against vLLM's own scheduling.

    make bench-vllm
    build/vllm/bin/python scripts/bench_vllm.py --pairs 8 --policy sj-mlfq

vLLM's real scheduler classes with a made-up runner: CPU time of schedule() and update_from_output() together, us of the
process's one thread; or Python's bytecode instructions, which are the same each time (--instructions). Plain and ours
take turns in one process, so that what else runs on the machine meets both; the ratio has a 95 % interval over the
pairs (fastserve/metrics/intervals.py). Requests come all at once, 32 tokens each, and decode; the first steps are not
counted. A settled policy without preemptions should stay below 1.10.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from fastserve.metrics.intervals import paired_ratio
from tests.vllm import ours
from tests.vllm.api import Api, real
from tests.vllm.cases import Arrival, Case

SIZES = ((64, 128), (256, 768))
POLICIES = ("fcfs", "srpt", "sj-mlfq")
WARM, STEPS = 40, 150
PROMPT = 32  # tokens


class Cost(NamedTuple):
    step: float  # us of CPU time, or bytecode instructions
    left: float  # preemptions a step


Meter = Callable[..., tuple[float, Any]]


def cpu(call: Callable[..., Any], *facts: Any) -> tuple[float, Any]:
    """us of CPU time, and what the call returns."""
    began = time.thread_time_ns()
    found = call(*facts)
    return (time.thread_time_ns() - began) / 1e3, found


def bytecode(call: Callable[..., Any], *facts: Any) -> tuple[float, Any]:
    """Bytecode instructions of Python, and what the call returns: alike each time."""
    count = 0

    def trace(frame: FrameType, event: str, told: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        found = call(*facts)
    finally:
        sys.settrace(None)
    return count, found


def measure(api: Api, case: Case, meter: Meter) -> Cost:
    """One scheduler, from the arrival of all its requests on."""
    rng = random.Random(case.seed)
    with tempfile.TemporaryDirectory() as folder:
        own = api.AsyncScheduler if case.ahead else api.Scheduler
        run = ours.begin(case, Path(folder), lambda *facts: api.make(case, *facts), own, logs=False)
        scheduler = run.scheduler
        for number in range(case.requests):
            most = rng.randrange(150, 300)
            prompt = [rng.randrange(60, 1000) for _ in range(PROMPT)]
            scheduler.add_request(api.request(Arrival(1, str(number), prompt, most, {"guess": most}, ""), case))
        spent = 0.0
        began_at = 0
        flying: deque[tuple[Any, Any]] = deque()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            for step in range(WARM + STEPS):
                if step == WARM:
                    spent, began_at = 0.0, left_of(scheduler)
                took, asked = (meter if step >= WARM else cpu)(scheduler.schedule)
                spent += took
                flying.appendleft((asked, answer(api, scheduler, asked)))
                if case.ahead and len(flying) < 2:
                    continue
                run.now += 10_000_000
                asked, told = flying.pop()
                took, _ = (meter if step >= WARM else cpu)(scheduler.update_from_output, asked, told)
                spent += took
        finally:
            gc.enable()
            gc.unfreeze()
        cost = Cost(spent / STEPS, (left_of(scheduler) - began_at) / STEPS)
        scheduler.shutdown()
    return cost


def answer(api: Api, scheduler: Any, asked: Any) -> Any:
    """A token for each request whose prefill is complete."""
    ids = list(asked.num_scheduled_tokens)
    tokens = [[] if scheduler.requests[id].is_prefill_chunk else [7] for id in ids]
    return api.ModelRunnerOutput(ids, {id: at for at, id in enumerate(ids)}, tokens)


def left_of(scheduler: Any) -> int:
    counts: dict[str, int] = getattr(scheduler, "counts", {})
    return counts.get("left", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--policy", action="append", help=f"by default {', '.join(POLICIES)}")
    parser.add_argument("--leave", choices=("park", "recompute"), default="park")
    parser.add_argument("--instructions", action="store_true", help="count bytecode instead: one pair, no interval")
    parser.add_argument("--running", type=int, choices=[size[0] for size in SIZES], help="only this size")
    args = parser.parse_args()
    api = real()
    names = (
        "vLLM",
        "running of live",
        "policy",
        "vLLM alone, us",
        "with ours, us",
        "ratio",
        "95 % interval",
        "left a step",
    )
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for ahead in (False, True):
        for slots, live in [size for size in SIZES if args.running in (None, size[0])]:
            base = Case(seed=3, slots=slots, rows=min(1024, live), blocks=40_000, budget=8192, prefix=True, ahead=ahead,
                        v2=ahead, requests=live, leave=args.leave)  # fmt: skip
            for policy in args.policy or POLICIES:
                if args.instructions:
                    row(api, base, policy, 1, bytecode)
                else:
                    row(api, base, policy, args.pairs, cpu)


def row(api: Api, base: Case, policy: str, pairs: int, meter: Meter) -> None:
    plain: list[float] = []
    mine: list[Cost] = []
    for number in range(pairs):
        order = [base.but(seed=number), base.but(seed=number, policy=policy)]
        for case in order if number % 2 else order[::-1]:
            cost = measure(api, case, meter)
            if case.ours:
                mine.append(cost)
            else:
                plain.append(cost.step)
    ratio = paired_ratio([cost.step for cost in mine], plain)
    interval = "-" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    kind = "async" if base.ahead else "sync"
    print(
        f"| {kind} | {base.slots} of {base.requests} | {policy} | {statistics.mean(plain):.0f} | "
        f"{statistics.mean(cost.step for cost in mine):.0f} | {ratio.mean:.3f} | {interval} | "
        f"{statistics.mean(cost.left for cost in mine):.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
