"""What the live prefix cache costs where nothing is shared, and gains where conversations repeat what was said.

    python scripts/bench_prefix.py                      # the embedded model, five pairs; some minutes
    python scripts/bench_prefix.py --body scripted      # the engine alone, without a model

Both with the cache on and off, in turns, on one loaded model; requests per second of CPU time (threads of the model
included), so that a neighbour on the machine changes little. alone: prompts at random, none begins like another.
conversations: each turn repeats all that was said, and comes when the last answer has been read.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from statistics import fmean as mean
from typing import Any, NamedTuple

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.clock import VirtualClock
from fastserve.engine.config import EngineConfig
from fastserve.hardware import load_hardware
from fastserve.launch import Body
from fastserve.metrics.intervals import paired_ratio

LETTERS = range(32, 127)


class Measured(NamedTuple):
    requests_per_s: float  # of CPU time
    hit_rate: float
    scheduler_us: float  # an iteration, wall
    tokens: list[list[int]]


def alone(engine: Engine, rng: random.Random, requests: int, context: int) -> list[list[int]]:
    prompts = [rng.choices(LETTERS, k=rng.randrange(context // 8, context // 2)) for _ in range(requests)]
    params = SamplingParams(max_tokens=context // 16, temperature=0, ignore_eos=True)
    return [output.token_ids for output in engine.generate(prompts, params)]


def conversations(engine: Engine, rng: random.Random, requests: int, context: int) -> list[list[int]]:
    turns = 8
    talks = [rng.choices(LETTERS, k=context // 8) for _ in range(max(1, requests // turns))]
    answer = context // 32
    params = SamplingParams(max_tokens=answer, temperature=0, ignore_eos=True)
    said = []
    for _ in range(turns):
        outputs = engine.generate(talks, params)
        said += [output.token_ids for output in outputs]
        more = context * 3 // 4 // turns - answer
        talks = [[*talk, *o.token_ids, *rng.choices(LETTERS, k=more)] for talk, o in zip(talks, outputs, strict=True)]
    return said


def measured(make: Callable[[str], Engine], cache: str, work: Any, seed: int, requests: int, context: int) -> Measured:
    with make(cache) as engine:
        began = time.process_time()
        tokens = work(engine, random.Random(seed), requests, context)
        took = time.process_time() - began
        records = engine.records()
        snapshot = engine.snapshot()
    hits = float(records["cached_tokens"].sum() / records["prompt_tokens"].sum())
    return Measured(len(tokens) / took, hits, snapshot.scheduler_us, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--body", default="torch", choices=["torch", "scripted"])
    parser.add_argument("--context", type=int, help="tokens that the longest request may take (by default the model's)")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    body = Body("scripted" if args.body == "scripted" else args.model, args.body)

    def make(cache: str) -> Engine:
        config = EngineConfig.of({"policy": "fcfs", "max_batch": 16, "prefix_cache": cache, "keep_records": None})
        clock = VirtualClock() if args.body == "scripted" else None
        return body.engine(config, load_hardware("opt-13b-a100"), clock=clock)

    with make("off") as engine:
        context = args.context or engine.max_model_len
    print(f"{args.body}, context {context}, {args.requests} requests, {args.pairs} pairs")
    for work in (alone, conversations):
        measured(make, "on", work, 0, 8, context)
        pairs = []
        for seed in range(args.pairs):
            order = ("on", "off") if seed % 2 else ("off", "on")
            found = {cache: measured(make, cache, work, seed, args.requests, context) for cache in order}
            assert args.body == "scripted" or found["on"].tokens == found["off"].tokens, "tokens differ"
            pairs.append(found)
        ratio = paired_ratio([p["on"].requests_per_s for p in pairs], [p["off"].requests_per_s for p in pairs])
        spread = "" if ratio is None or ratio.low is None else f" [{ratio.low:.3f}, {ratio.high:.3f}]"
        hits, on, off = ([getattr(pair[cache], name) for pair in pairs] for cache, name in
                         (("on", "hit_rate"), ("on", "scheduler_us"), ("off", "scheduler_us")))  # fmt: skip
        print(f"{work.__name__}: requests per CPU-s, on / off: {ratio.mean if ratio else float('nan'):.3f}{spread}; "
              f"hit rate {mean(hits):.3f}; scheduler {mean(on):.0f} us an iteration, off {mean(off):.0f}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
