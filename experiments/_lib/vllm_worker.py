"""The process that has vLLM: one engine on a small model with seeded weights, a fresh scheduler for each run.

vllm_pair.py starts it with the Python that has vLLM. Commands come as JSON lines and are answered by one each; what
vLLM prints goes to stderr. A run is in real time and in this process: requests are handed in between steps, as vLLM's
core does it, and times are those that its client sees. The scheduler is made as vLLM's core makes it: vLLM's own with a
stop-watch, or ours by the name that --scheduler-cls has.
"""

from __future__ import annotations

import copy
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler

BLOCK = 32
"""tokens: CPU attention asks for a multiple of it"""


def model_folder(folder: Path, about: dict[str, Any]) -> Path:
    """A Llama of these measures with random weights, made once."""
    path = folder / "-".join(f"{key}{value}" for key, value in sorted(about.items()))
    if not (path / "config.json").exists():
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(LlamaConfig(**about)).to(torch.float32)
        draft = path.with_name(path.name + ".draft")
        made.save_pretrained(draft)
        draft.rename(path)
    return path


class Metered(VllmScheduler):  # type: ignore[misc]
    """vLLM's own, which notes each step as profiler.fit.Iteration has it: [batch, context, tokens, squared, ms, s]."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noted: list[list[float]] = []
        self.began = self.ended = 0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        now = time.monotonic_ns()
        self.began = self.ended or now  # what the host does between two steps belongs to the second
        output = super().schedule(*args, **kwargs)
        shape = [0, 0, 0, 0]
        for id, tokens in output.num_scheduled_tokens.items():
            request = self.requests[id]
            start = request.num_computed_tokens - tokens
            if tokens == 1 and request.num_output_tokens and start == request.num_tokens - 1:
                shape[0] += 1
                shape[1] += request.num_tokens
            else:
                shape[2] += tokens
                shape[3] += (start + tokens) ** 2 - start**2
        self.shape = shape
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        now = time.monotonic_ns()
        if scheduler_output.num_scheduled_tokens:
            self.noted.append([*self.shape, (now - self.began) / 1e6, self.began / 1e9])
        self.ended = now if self.get_num_unfinished_requests() else 0
        return outputs


class Server:
    """start: settings of EngineArgs, and `model`, measures of a Llama."""

    def __init__(self, start: dict[str, Any], folder: Path) -> None:
        self.vocabulary = start["model"]["vocab_size"]
        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                **{**start, "model": str(model_folder(folder, start["model"]))}, skip_tokenizer_init=True,
                enforce_eager=True, dtype="float32", block_size=BLOCK, disable_log_stats=True,
            )
        )  # fmt: skip
        self.core = self.engine.engine_core.engine_core
        self.config = self.core.vllm_config
        self.kv = self.core.scheduler.kv_cache_config
        self.number = 0

    def swap(self, ask: dict[str, Any]) -> Any:
        """The scheduler of a run. ask: rows, slots; fastserve, the settings of ours, or null for vLLM's own."""
        old = self.core.scheduler
        config = copy.copy(self.config)
        config.scheduler_config = copy.copy(config.scheduler_config)
        config.scheduler_config.max_num_seqs = ask["rows"]
        config.scheduler_config.max_num_active_seqs = ask["slots"]
        ours = ask["fastserve"]
        config.additional_config = {} if ours is None else {"fastserve": ours}
        make: Any = Metered
        if ours is not None:
            from fastserve.vllm import scheduler

            make = scheduler
        self.core.scheduler = make(
            vllm_config=config, kv_cache_config=copy.copy(self.kv), block_size=old.block_size,
            hash_block_size=old.hash_block_size, structured_output_manager=old.structured_output_manager,
            log_stats=False,
        )  # fmt: skip
        self.core.scheduler.finished_req_ids |= old.finished_req_ids
        return self.core.scheduler

    def close_log(self) -> None:
        """Ends the flight log: the last step is committed first."""
        self.engine.step()
        self.core.scheduler.shutdown()

    def add(self, prompt: int, output: int, rng: random.Random) -> str:
        self.number += 1
        ids = [rng.randrange(3, self.vocabulary) for _ in range(prompt)]
        self.engine.add_request(
            str(self.number), {"prompt_token_ids": ids},
            SamplingParams(
                max_tokens=output, temperature=0, ignore_eos=True, detokenize=False, extra_args={"guess": output}
            ),
        )  # fmt: skip
        return str(self.number)

    def run(self, ask: dict[str, Any]) -> dict[str, Any]:
        """requests: [arrival, prompt, output] by arrival, s. Answers [first token, end, tokens] of each, s from the
        beginning of the run, which is origin_s of the clock.
        """
        scheduler = self.swap(ask)
        rng = random.Random(ask["seed"])
        requests: Sequence[Sequence[Any]] = ask["requests"]
        found: dict[str, list[float]] = {}
        names: list[str] = []
        begin = time.monotonic_ns()
        while len(names) < len(requests) or self.engine.has_unfinished_requests():
            now = (time.monotonic_ns() - begin) / 1e9
            if not self.engine.has_unfinished_requests() and requests[len(names)][0] > now:
                time.sleep(requests[len(names)][0] - now)
                continue
            while len(names) < len(requests) and requests[len(names)][0] <= now:
                _, prompt, output = requests[len(names)]
                names.append(self.add(prompt, output, rng))
            outputs = self.engine.step()
            now = (time.monotonic_ns() - begin) / 1e9
            for told in outputs:
                own = found.setdefault(told.request_id, [now, now, 0])
                own[1:] = now, len(told.outputs[0].token_ids)
        self.close_log()
        return {
            "requests": [found[name] for name in names], "origin_s": begin / 1e9,
            "steps": getattr(scheduler, "noted", None), "counts": dict(getattr(scheduler, "counts", ())),
        }  # fmt: skip

    def load(self, ask: dict[str, Any]) -> dict[str, Any]:
        """phases: lists of (prompt, output), each handed in at once and served to its end, in turn until `seconds` are
        over; at least `least` of them.
        """
        scheduler = self.swap(ask)
        rng = random.Random(ask["seed"])
        began, done = time.monotonic(), 0
        while done < ask["least"] or time.monotonic() - began < ask["seconds"]:
            for prompt, output in ask["phases"][done % len(ask["phases"])]:
                self.add(prompt, output, rng)
            while self.engine.has_unfinished_requests():
                self.engine.step()
            done += 1
        self.close_log()
        return {"phases": done, "steps": getattr(scheduler, "noted", None)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server = None
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            if ask["do"] == "start":
                import vllm

                server = Server(ask["engine"], Path(ask["folder"]))
                answer = {"vllm": vllm.__version__, "pool_blocks": server.kv.num_blocks}
            else:
                assert server is not None
                answer = server.run(ask) if ask["do"] == "run" else server.load(ask)
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
