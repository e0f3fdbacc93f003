"""The real vLLM engine on a tiny model that is made on the spot: one start, and a fresh scheduler for each case.

    python -m tests.vllm.engine [--drafts N]    # reads a Case as JSON a line, and answers with a line

Clocks are virtual, as in drive.py, so that each run is the same again. The answer: {"tokens": {id: [...]}, "reasons":
{id: ...}, "preempted": ..., "counts": ..., "free": blocks, "error": text or null}.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.vllm import ours
from tests.vllm.api import ENVIRONMENT, LLAMA
from tests.vllm.cases import MODEL_LENGTH, Arrival, Case
from tests.vllm.drive import IDLE
from tests.vllm.runner import cost

STOPS = list(range(7, 47))  # of a vocabulary of 1000: some answers end with one
BLOCK = 32  # tokens: the least that CPU attention takes


def model(folder: Path, loops: bool) -> None:
    """Seeded weights, wide enough that greedy answers differ from step to step; or so narrow that they fall into loops,
    where n-gram drafts are right.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**LLAMA, "initializer_range": 0.02 if loops else 0.15})
    transformers.AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder)


class Engine:
    """drafts: n-gram speculation of so many tokens; a case whose `drafts` is 0 is served without."""

    def __init__(self, folder: Path, drafts: int) -> None:
        from vllm import EngineArgs, LLMEngine

        model(folder, loops=drafts > 0)
        speculation = {"method": "ngram", "num_speculative_tokens": drafts, "prompt_lookup_max": 3}
        self.engine: Any = LLMEngine.from_engine_args(EngineArgs(
            model=str(folder), skip_tokenizer_init=True, enforce_eager=True, dtype="float32", block_size=BLOCK,
            max_model_len=MODEL_LENGTH, max_num_seqs=64, max_num_batched_tokens=2048, enable_prefix_caching=True,
            disable_log_stats=True, async_scheduling=False, speculative_config=speculation if drafts else None,
        ))  # fmt: skip
        self.core = self.engine.engine_core.engine_core
        self.config = self.core.vllm_config
        self.pools = self.core.scheduler.kv_cache_config
        self.number = 0

    def scheduler(self, case: Case, settings: dict[str, Any], kind: Any) -> Any:
        """A fresh one in the place of the last, as EngineCore makes it."""
        config, old = copy.copy(self.config), self.core.scheduler
        config.scheduler_config = copy.copy(config.scheduler_config)
        config.cache_config = copy.copy(config.cache_config)
        limits = config.scheduler_config
        limits.max_num_seqs, limits.max_num_active_seqs, limits.watermark = case.rows, case.slots, case.watermark
        limits.max_num_batched_tokens = limits.max_num_scheduled_tokens = case.budget
        config.cache_config.enable_prefix_caching = case.prefix
        pools = copy.copy(self.pools)
        pools.num_blocks = config.cache_config.num_gpu_blocks = min(case.blocks, self.pools.num_blocks)
        config.additional_config = settings
        made = kind(
            vllm_config=config, kv_cache_config=pools, structured_output_manager=old.structured_output_manager,
            block_size=old.block_size, hash_block_size=old.hash_block_size, log_stats=False,
        )  # fmt: skip
        made.finished_req_ids |= old.finished_req_ids
        self.core.scheduler = made
        return made

    def run(self, case: Case) -> dict[str, Any]:
        from vllm.v1.core.sched.scheduler import Scheduler

        self.number += 1
        with tempfile.TemporaryDirectory() as folder, ours.watched() as said:
            run = ours.begin(case, Path(folder), lambda settings, kind: self.scheduler(case, settings, kind), Scheduler)
            tokens, reasons, aborted = self._serve(case, run)
            counted = {id: len(made) for id, made in tokens.items() if id in reasons}
            told = ours.end(run, {f"{self.number}.{id}": n for id, n in counted.items()}, said) if case.ours else {}
        pool = run.scheduler.kv_cache_manager.block_pool
        return {
            "tokens": tokens, "reasons": reasons, "aborted": sorted(aborted), "preempted": run.preempted,
            "leaked": pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(), **told,
        }  # fmt: skip

    def _serve(self, case: Case, run: Any) -> tuple[dict[str, list[int]], dict[str, str], set[str]]:
        from vllm import SamplingParams

        scheduler, engine = run.scheduler, self.engine
        rng = random.Random(case.seed + 1)
        todo: list[Arrival] = case.arrivals()[::-1]
        tokens: dict[str, list[int]] = {}
        reasons: dict[str, str] = {}
        aborted: set[str] = set()
        inner, update = scheduler.schedule, scheduler.update_from_output

        def schedule(*args: Any) -> Any:
            asked = inner(*args)
            run.preempted += len(asked.preempted_req_ids or ())
            return asked

        def update_from_output(asked: Any, answer: Any) -> Any:
            run.now += cost(asked) or IDLE
            return update(asked, answer)

        scheduler.schedule, scheduler.update_from_output = schedule, update_from_output
        if not case.drafts:
            scheduler.update_draft_token_ids = lambda drafts: None
        while todo or engine.has_unfinished_requests():
            if not engine.has_unfinished_requests():
                run.now = max(run.now, todo[-1].at)
            while todo and todo[-1].at <= run.now:
                told = todo.pop()
                params = SamplingParams(
                    max_tokens=told.most, temperature=0, ignore_eos=True, detokenize=False,
                    stop_token_ids=STOPS if case.stops else None, extra_args={**told.extra, "at": told.at},
                )  # fmt: skip
                engine.add_request(f"{self.number}.{told.id}", {"prompt_token_ids": told.prompt}, params)
                tokens[told.id] = []
            if case.aborts and rng.random() < case.aborts:
                live = sorted(set(tokens) - set(reasons) - aborted)
                if live:
                    aborted.add(rng.choice(live))
                    engine.abort_request([f"{self.number}.{id}" for id in sorted(aborted)])
            if case.resets and rng.random() < case.resets:
                assert scheduler.reset_prefix_cache(reset_running_requests=True)
            for output in engine.step():
                id = output.request_id.partition(".")[2].partition("-")[0]
                tokens[id] = list(output.outputs[0].token_ids)
                if output.finished:
                    reasons[id] = str(output.outputs[0].finish_reason)
        engine.step()  # tells the runner of the last ends
        return tokens, reasons, aborted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafts", type=int, default=0)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # vLLM writes to stdout, too
    os.dup2(2, 1)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Path(folder), args.drafts)
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            try:
                answer = engine.run(Case.of(line))
            except Exception:
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
