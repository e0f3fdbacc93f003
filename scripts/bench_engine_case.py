"""One measurement of make bench-engine, in a process of its own: settings as JSON in, one JSON line out.

The workload, for every engine: 100 requests at once, prompts lognormal(4.7, 0.8) clipped to 16..512 and outputs
lognormal(3.9, 1.1) clipped to 8..512 tokens from numpy's default_rng(0), greedy, end-of-sequence ignored; a Llama-like
model of 114 million random parameters. Runs under any Python that has the engine in question; needs no fastserve
unless that is the engine.
"""

from __future__ import annotations

import json
import os
import sys
import time
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


def workload(requests: int) -> tuple[list[list[int]], list[int]]:
    """Prompts as token ids, and how many tokens each is to get."""
    rng = np.random.default_rng(0)
    prompts = np.clip(rng.lognormal(4.7, 0.8, 100).astype(int), 16, 512)[:requests]
    outputs = np.clip(rng.lognormal(3.9, 1.1, 100).astype(int), 8, 512)[:requests]
    ids = np.random.default_rng(1)
    return [ids.integers(0, 32000, n).tolist() for n in prompts], outputs.tolist()


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def summary(seconds: float, finished: list[float], tokens: int, expected: int) -> dict[str, Any]:
    """finished: seconds from the start to each request's end."""
    if tokens != expected:
        raise SystemExit(f"{tokens} tokens came instead of {expected}: the runs cannot be compared")
    return {"output_tok_s": tokens / seconds, "mean_jct_s": sum(finished) / max(1, len(finished)), "seconds": seconds}


def opened(case: dict[str, Any], policy: str, **more: Any) -> Any:
    """Our engine, warm."""
    from fastserve.engine import Engine

    engine = Engine.from_pretrained(
        case["model"], load_format="dummy", dtype=case["dtype"], threads=case["threads"], policy=policy,
        max_batch=case["cap"], token_budget=BUDGET, native=case.get("native", "auto"), **more,
    )  # fmt: skip
    generate(engine, [[1] * 40] * 4, [4] * 4)
    return engine


def generate(engine: Any, prompts: list[list[int]], outputs: list[int]) -> dict[str, Any]:
    from fastserve.engine import SamplingParams

    params = [SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True) for n in outputs]
    before = engine.snapshot()
    began = time.perf_counter()
    results = engine.generate(prompts, params)
    seconds = time.perf_counter() - began
    after = engine.snapshot()
    steps = after.steps - before.steps
    host = after.host_us * after.steps - before.host_us * before.steps
    scheduler = after.scheduler_us * after.steps - before.scheduler_us * before.steps
    return summary(
        seconds, [r.record["jct_from_arrival"] for r in results], sum(len(r.token_ids) for r in results), sum(outputs)
    ) | {
        "steps": steps,
        "host_share": host / 1e6 / seconds,
        "scheduler_share": scheduler / 1e6 / seconds,
        "preemptions": sum(r.record["preemptions"] for r in results),
    }


def ours(case: dict[str, Any]) -> dict[str, Any]:
    with opened(case, case["policy"]) as engine:
        return generate(engine, *workload(case["requests"])) | {"native": engine.settings["native"]}


def alternated(case: dict[str, Any]) -> dict[str, Any]:
    """fcfs and sj-mlfq in turn, on two engines in one process: tokens per second of each round."""
    prompts, outputs = workload(case["requests"])
    with opened(case, "fcfs") as first, opened(case, "sj-mlfq") as second:
        pair = {"fcfs": first, "sj-mlfq": second}
        rounds: dict[str, list[float]] = {name: [] for name in pair}
        preemptions = 0
        for turn in range(case["rounds"]):
            for name in sorted(pair, reverse=bool(turn % 2)):
                got = generate(pair[name], prompts, outputs)
                rounds[name].append(got["output_tok_s"])
                preemptions += got["preemptions"]
    return {"rounds": rounds, "preemptions": preemptions}


def crowded(case: dict[str, Any]) -> dict[str, Any]:
    """The Scheduler's share of an iteration at batch 16 while a thousand requests wait."""
    from fastserve.engine import SamplingParams

    with opened(case | {"cap": 16}, "sj-mlfq") as engine:
        params = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)
        for i in range(1_016):
            engine.submit([i % 32000] * 32, params)
        time.sleep(2)
        before, began = engine.snapshot(), time.perf_counter()
        time.sleep(case["seconds"])
        after, seconds = engine.snapshot(), time.perf_counter() - began
    scheduler = after.scheduler_us * after.steps - before.scheduler_us * before.steps
    host = after.host_us * after.steps - before.host_us * before.steps
    return {
        "waiting": after.waiting,
        "steps": after.steps - before.steps,
        "scheduler_share": scheduler / 1e6 / seconds,
        "host_share": host / 1e6 / seconds,
    }


def transformers_own(case: dict[str, Any]) -> dict[str, Any]:
    """transformers' continuous batching on the same modules."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(case["model"]), dtype=getattr(torch, case["dtype"]), attn_implementation="sdpa"
    ).eval()
    prompts, outputs = workload(case["requests"])
    manager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=512),
        ContinuousBatchingConfig(max_batch_tokens=BUDGET, max_requests_per_batch=case["cap"]),
    )
    manager.start()

    def run(prompts: list[list[int]], outputs: list[int]) -> dict[str, Any]:
        began = time.perf_counter()
        for prompt, n in zip(prompts, outputs, strict=True):
            manager.add_request(prompt, max_new_tokens=n, eos_token_id=-1)
        finished, tokens = [], 0
        while len(finished) < len(prompts):
            result = manager.get_result(timeout=600)
            if result is None:
                raise SystemExit("transformers' continuous batching gave no result for ten minutes, or has stopped")
            if result.is_finished():
                finished.append(time.perf_counter() - began)
                tokens += len(result.generated_tokens)
        return summary(time.perf_counter() - began, finished, tokens, sum(outputs))

    try:
        run([[1] * 40] * 4, [4] * 4)
        return run(prompts, outputs)
    finally:
        manager.stop(block=True)


def vllm(case: dict[str, Any]) -> dict[str, Any]:
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

    def run(prompts: list[list[int]], outputs: list[int]) -> dict[str, Any]:
        params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True, detokenize=False) for n in outputs]
        began = time.perf_counter()
        results = engine.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        seconds = time.perf_counter() - began
        metrics = [r.metrics for r in results if r.metrics is not None]
        start = min((m.queued_ts for m in metrics), default=0.0)
        tokens = sum(len(r.outputs[0].token_ids) for r in results)
        return summary(seconds, [m.last_token_ts - start for m in metrics], tokens, sum(outputs))

    run([[1] * 40] * 4, [4] * 4)
    return run(*workload(case["requests"]))


KINDS = {"ours": ours, "alternated": alternated, "crowded": crowded, "transformers": transformers_own, "vllm": vllm}

if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    print(json.dumps(KINDS[settings["kind"]](settings)), flush=True)
