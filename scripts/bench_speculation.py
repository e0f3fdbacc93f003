"""What speculation wins and costs: one engine without and one with it, in turn in one process, on the same requests.

    python scripts/bench_speculation.py --model smollm2 --batch 1 8 32 --text copied
    python scripts/bench_speculation.py --model smollm2 --batch 1 8 32 --text fresh      # nothing to be won
    python scripts/bench_speculation.py --shape 1b --device cuda --right 0.9             # random weights, given guesses

copied: the model is asked to repeat a text, and has said its beginning; fresh: questions. --right: in place of n-grams
guesses that are the tokens that were said without speculation, each with this probability: what verifying costs and
yields at that acceptance, whatever the weights. Ratios are without over with, of pairs of neighbours in time, with
their intervals (fastserve.metrics.intervals).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from fastserve.metrics.intervals import Ratio, paired_ratio
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import Job
from fastserve.speculation.proposer import Ask

TEXT = (
    "The old harbour of the town lies between two hills. In spring the boats go out before dawn, and the women mend "
    "the nets on the quay. A lighthouse was built in 1873 by an engineer from Lyon, who had never seen the sea before "
    "he came."
)
QUESTIONS = (
    "Write a story about a fox.", "Explain how rain forms.", "List ten cities in Europe.", "What is a prime number?",
    "Tell me about the moon landing.", "How do I bake bread?", "Describe a forest in autumn.", "Why is the sky blue?",
)  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "max_position_embeddings": 8192},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
             "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 4096, "max_position_embeddings": 2048},
}  # fmt: skip


class Given:
    """A Proposer that was told what will be said, and errs on purpose."""

    def __init__(self, right: float, vocabulary: int) -> None:
        self.right = right
        self.vocabulary = vocabulary
        self.dice = random.Random(0)
        self.said: dict[tuple[int, ...], list[int]] = {}

    def propose(self, asks: Sequence[Ask]) -> list[Sequence[int]]:
        found: list[Sequence[int]] = []
        for ask in asks:
            coming = self.said.get(tuple(ask.prompt), [])[len(ask.tokens) :][: ask.most]
            wrong = [self.dice.randrange(self.vocabulary) for _ in coming]
            found.append([a if self.dice.random() < self.right else b for a, b in zip(coming, wrong, strict=True)])
        return found

    def verified(self, job: Job, accepted: int) -> None:
        pass

    def forget(self, job: Job) -> None:
        pass

    def reset(self) -> None:
        pass

    def latency(self, max_batch: int) -> None:
        return None

    def held(self) -> int:
        return 0

    def close(self) -> None:
        pass


def prompts_of(kind: str, batch: int, tokenizer: Any, vocabulary: int) -> list[list[int]]:
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        dice = random.Random(0)
        return [[dice.randrange(vocabulary) for _ in range(200 + i % 7)] for i in range(batch)]

    def chat(text: str) -> list[int]:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        return list(ids["input_ids"] if hasattr(ids, "keys") else ids)

    if kind == "fresh":
        return [chat(QUESTIONS[i % len(QUESTIONS)] + " " * (i // len(QUESTIONS))) for i in range(batch)]
    asked = chat(f"Repeat this text, word by word:\n{TEXT}\n{TEXT}")
    return [asked + tokenizer.encode(TEXT[: 20 + i], add_special_tokens=False) for i in range(batch)]


def told(ratio: Ratio) -> str:
    interval = "" if ratio.low is None else f" ({ratio.low:.3f} to {ratio.high:.3f})"
    return f"{ratio.mean:.3f}{interval}"


def case(args: argparse.Namespace, model: Any, batch: int) -> dict[str, Any]:
    prompts = prompts_of(args.text, batch, model.tokenizer, model.vocab_size)
    params = [
        SamplingParams(max_tokens=args.tokens, temperature=args.temperature, seed=i, ignore_eos=True)
        for i in range(batch)
    ]
    room = batch * (max(map(len, prompts)) + args.tokens + 64)
    config = EngineConfig(
        policy=PolicySpec("fcfs"), max_batch=batch, kv_tokens=room, host_tokens=0, prefix_cache="off", batching="mixed"
    )
    engines: dict[str, Engine] = {how: Body(model, speculate=how).engine(config) for how in ("off", args.how)}
    given = Given(args.right, model.vocab_size) if args.right is not None else None
    if given is not None:
        engines[args.how].loop.backend.drafting.proposer = given  # type: ignore[attr-defined]
    cpu: dict[str, list[float]] = {how: [] for how in engines}
    wall: dict[str, list[float]] = {how: [] for how in engines}
    said: dict[str, list[list[int]]] = {}
    for turn in range(args.repeats + 1):  # the first one warms up
        for how in ("off", args.how) if turn % 2 == 0 else (args.how, "off"):
            began, began_cpu = time.perf_counter(), time.process_time()
            outputs = engines[how].generate(prompts, params)
            if turn:
                cpu[how].append(time.process_time() - began_cpu)
                wall[how].append(time.perf_counter() - began)
            said[how] = [output.token_ids for output in outputs]
            if given is not None and how == "off":
                given.said = dict(zip(map(tuple, prompts), said[how], strict=True))
    counters = engines[args.how].counters
    drafted, accepted = counters["draft_tokens"], counters["accepted_tokens"]
    steps = {how: engine.loop.steps for how, engine in engines.items()}
    for engine in engines.values():
        engine.close()
    same = sum(a == b for a, b in zip(said["off"], said[args.how], strict=True))
    tokens = batch * args.tokens
    found = {
        "batch": batch, "tok/s off": tokens * args.repeats / sum(wall["off"]),
        "tok/s on": tokens * args.repeats / sum(wall[args.how]), "cpu": cpu, "wall": wall,
        "ratio of time": paired_ratio(wall["off"], wall[args.how])._asdict(),
        "ratio of cpu": paired_ratio(cpu["off"], cpu[args.how])._asdict(),
        "drafted": drafted, "accepted": accepted, "steps": steps, "same": same,
    }  # fmt: skip
    print(
        f"batch {batch:3}: {found['tok/s off']:7.1f} -> {found['tok/s on']:7.1f} tok/s; time "
        f"{told(paired_ratio(wall['off'], wall[args.how]))}, CPU time "
        f"{told(paired_ratio(cpu['off'], cpu[args.how]))}; {accepted} of {drafted} drafts right, steps "
        f"{steps['off']} -> {steps[args.how]}, {same} of {batch} outputs the same",
        flush=True,
    )
    return found


def loaded(args: argparse.Namespace, folder: Path) -> Any:
    from fastserve.backends.torch.model import load_model

    if args.shape is None:
        return load_model(args.model, device=args.device, dtype=args.dtype)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "rope_theta": 5e5,
              "tie_word_embeddings": False, "eos_token_id": None, "bos_token_id": None,
              **SHAPES[args.shape]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return load_model(folder, device=args.device, dtype=args.dtype, load_format="dummy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape, in place of a model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--how", default="ngram:4")
    parser.add_argument("--text", choices=("copied", "fresh"), default="copied")
    parser.add_argument("--right", type=float)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = loaded(args, Path(folder))
        print(f"{model.name} on {model.device}, {model.dtype}, {args.how}, {args.text}, right {args.right}", flush=True)
        found = [case(args, model, batch) for batch in args.batch]
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
