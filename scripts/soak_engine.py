"""Soak test of the engine: random requests with cancels, then a check for leaks.

    python scripts/soak_engine.py --scripted 100000 --embedded 5000

Exits 1 if a pool is not empty, a thread is left, a request did not end, or memory grew.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastserve.engine.engine import Engine
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Handle
from fastserve.sched.job import NEVER

AT_ONCE = 64


@dataclass
class Result:
    """leaks: what was left, in words; empty when all is well. growth: bytes a request, over the second half."""

    requests: int
    seconds: float
    ends: Counter[str]
    preemptions: int
    growth: float
    leaks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ends = ", ".join([f"{count} {reason}" for reason, count in sorted(self.ends.items())])
        leaks = "; ".join(self.leaks) or "nothing leaked"
        return (f"{self.requests} requests in {self.seconds:.1f} s ({ends}), {self.preemptions} preemptions, "
                f"{self.growth:+.0f} bytes a request: {leaks}")  # fmt: skip


def soak(engine: Engine, requests: int, *, longest: int = 200, seed: int = 0, most_growth: float = 2000.0) -> Result:
    """Sends them, about AT_ONCE at a time, cancels a third at random moments, closes the engine and looks.

    longest: tokens of a prompt; outputs are shorter. most_growth: bytes a request that memory may grow by, once warm.
    """
    threads = threading.active_count() - 1  # the engine's own runs already
    began = time.perf_counter()
    ends: Counter[str] = Counter()
    half = 0
    live: list[Handle] = []
    for i, (prompt, params, cancel) in enumerate(_crowd(engine.vocab_size, requests, longest, seed)):
        handle = engine.submit(prompt, params, client=f"c{i % 5}")
        live.append(handle)
        if cancel < 0.1:
            handle.cancel()
        elif cancel < 0.3:
            live[int(cancel * 1e6) % len(live)].cancel()
        if len(live) >= AT_ONCE:
            ends.update([old.result(600).finish_reason for old in live[: AT_ONCE // 4]])
            del live[: AT_ONCE // 4]
        if i == requests // 2:
            half = memory()
    ends.update([old.result(600).finish_reason for old in live])
    live.clear()
    growth = (memory() - half) / max(1, requests - requests // 2)
    preemptions = engine.counters["preemptions"]
    leaks = left_over(engine)
    engine.close()
    if threading.active_count() > threads:
        leaks.append(f"{threading.active_count() - threads} threads more than before")
    if ends.total() != requests:
        leaks.append(f"{requests - ends.total()} requests did not end")
    if growth > most_growth:
        leaks.append(f"memory grew by {growth:.0f} bytes a request")
    return Result(requests, time.perf_counter() - began, ends, preemptions, growth, leaks)


def left_over(engine: Engine) -> list[str]:
    """What an idle engine still holds, in words. One more request sees the last copies land."""
    engine.submit([1], SamplingParams(max_tokens=4)).result(60)
    leaks: list[str] = engine.inbox.ask(lambda: _held(engine)).result(60)
    return leaks


def _held(engine: Engine) -> list[str]:
    loop, scheduler = engine.loop, engine.loop.scheduler
    ledger, alarms = scheduler.ledger, scheduler.alarms
    held = {
        "requests": len(loop.requests),
        "jobs": len(scheduler.live),
        "seats": len(loop.observers.seats()),
        "trails": len(loop.recorder.trails),
        "prefetches of the recorder": len(loop.recorder.fetched),
        "device blocks": ledger.used + ledger.cold,
        "host blocks": ledger.hosted,
        "deadlines": len(engine.input_processor.slos),
        "requests that count for the queue": engine.input_processor.outstanding,
        "alarms": sum([alarms.next_served() < NEVER, alarms.next_tokens() < NEVER, alarms.next_waited() < NEVER]),
    }
    backend: Any = loop.backend
    held |= {f"{what} of the body": count for what, count in backend.held().items()}
    return [f"{count} {what} are left" for what, count in held.items() if count]


def _crowd(
    vocabulary: int, requests: int, longest: int, seed: int
) -> Iterator[tuple[list[int], SamplingParams, float]]:
    rng = random.Random(seed)
    for i in range(requests):
        prompt = [rng.randrange(32, min(127, vocabulary)) for _ in range(rng.randint(1, longest))]
        tokens = min(longest, 1 + int(rng.expovariate(8 / longest)))
        params = SamplingParams(max_tokens=tokens, seed=i, stop=rng.choice([(), ("e",)]), ignore_eos=True)
        yield prompt, params, rng.random()


def memory() -> int:
    """Bytes of this process that are in memory, garbage collected first; 0 where the system does not say."""
    gc.collect()
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0


def engines(scripted: int, embedded: int) -> Iterator[tuple[str, Engine, int, int]]:
    """Name, engine, requests, and the longest prompt: on a model each preemption costs real time."""
    tight: dict[str, Any] = {"policy": "sj-mlfq", "max_batch": 8, "visit": 0, "keep_records": 100}
    for residency in ("proactive", "recompute"):
        if scripted:
            settings = {"kv_tokens": 800, "host_tokens": 3200, "residency": residency, **tight}
            yield f"scripted, {residency}", Engine.scripted(**settings), scripted // 2, 200
        if embedded:
            settings = {
                "kv_tokens": 256,
                "host_tokens": 1200,
                "residency": residency,
                "latency": "opt-13b-a100",
                **tight,
            }
            yield f"embedded, {residency}", Engine.from_pretrained("embedded", **settings), embedded // 2, 40


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="soak_engine.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--scripted", type=int, default=100_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--embedded", type=int, default=5_000, metavar="N", help="default: %(default)s")
    args = parser.parse_args(argv)
    failed = False
    for name, engine, requests, longest in engines(args.scripted, args.embedded):
        result = soak(engine, requests, longest=longest)
        print(f"{name}: {result}", flush=True)
        failed = failed or bool(result.leaks)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
