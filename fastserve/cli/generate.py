"""`fastserve generate`: generates text for prompts, on a live engine in this process."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastserve.atomic_files import OutputError
from fastserve.cli.arguments import (
    ENGINE_FLAGS,
    adapter_of,
    add_adapter,
    add_model_arguments,
    add_observer_arguments,
    add_policy,
    add_sampling_arguments,
    add_settings,
    loading,
    options_of,
    policy_of,
    sampling_of,
)
from fastserve.cli.conversation import chat_ids
from fastserve.cli.explaining import Picked, Which, add_explain, picked, stories, which
from fastserve.engine.config import POLICY, EngineConfig
from fastserve.importing import missing
from fastserve.observers.lives import Lives

if TYPE_CHECKING:
    from fastserve.engine import Engine, Output, SamplingParams

OWN = ("predictor", "seed", "flight_log")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--prompt", action="append", metavar="TEXT", help="a prompt; may be repeated (default: each line of stdin)")
    add("--token-ids", action="store_true", help="prompts are token ids, separated by spaces or commas")
    add("--chat", action="store_true", help="put each prompt into the model's chat template, as the user's message")
    add("--json", action="store_true", help="print one JSON object a prompt, with tokens and record, and nothing else")
    add_sampling_arguments(parser.add_argument_group("sampling"), max_tokens=64)
    engine = parser.add_argument_group("engine")
    add_policy(engine, default=POLICY.name)
    add_settings(engine, EngineConfig, (*ENGINE_FLAGS, *OWN))
    engine.add_argument(
        "--latency", help="what the policy is told of the machine: a preset, roofline or file (default: measured)"
    )
    add_model_arguments(engine)
    add_adapter(engine)
    looking = parser.add_argument_group("what to look at")
    add_observer_arguments(looking)
    add_explain(looking, "prompts count from 0 (with --json: in its object)", "prompt")


def run(args: argparse.Namespace) -> int:
    """Prints the outputs. Returns 0; 1 if a request failed; 2 for invalid arguments."""
    from fastserve.engine import Engine, SamplingParams
    from fastserve.observers.named import chosen

    try:
        texts = args.prompt if args.prompt is not None else [line.rstrip("\n") for line in sys.stdin]
        if not texts:
            raise ValueError("there is no prompt: give --prompt, or lines on stdin")
        params = SamplingParams(**sampling_of(args))
        asked = Asked(which(args.explain, len(texts), 1, "prompt"), Lives(), policy_of(args).name)
        observers = chosen(args.timeline, args.iterations, args.observer)
        observers += [asked.lives] if asked.which else []
        settings = {name: getattr(args, name) for name in (*OWN, *ENGINE_FLAGS, "latency")} | options_of(args)
        print(loading(args), file=sys.stderr, flush=True)
        engine = Engine.from_pretrained(args.model, backend=args.backend, policy=policy_of(args), **settings)
    except ImportError as error:
        return _refuse(missing(error, "engine"))
    except (ValueError, OSError, MemoryError, OutputError) as error:
        return _refuse(str(error))
    with engine:
        print(engine.start_line(), file=sys.stderr)
        for observer in observers:
            engine.attach(observer)
        try:
            prompts = [_prompt(engine, text, args) for text in texts]
            answer = _json if args.json else _stream
            return answer(engine, prompts, params, asked, adapter_of(args, engine))
        except ValueError as error:
            return _refuse(str(error))
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130


class Asked(NamedTuple):
    """Whose lives to tell, and all lives. A live run cannot be made again once it is known which is the slowest."""

    which: list[Which]
    lives: Lives
    policy: str

    def picked(self, outputs: Sequence[Output]) -> list[Picked]:
        records = [output.record for output in outputs if output.record]
        names = ("id", "finish", "jct_from_arrival", "preemptions")
        columns = {name: np.array([record[name] for record in records]) for name in names}
        return picked(self.which, {self.policy: columns}, "prompt")

    def text(self, outputs: Sequence[Output]) -> str:
        return stories(self.picked(outputs), lambda id: self.lives.told[id].text(self.policy))


def _prompt(engine: Engine, text: str, args: argparse.Namespace) -> str | list[int]:
    if args.token_ids:
        try:
            return [int(word) for word in text.replace(",", " ").split()]
        except ValueError:
            raise ValueError(f"{text!r} is not a list of token ids") from None
    if args.chat:
        return chat_ids(engine, [{"role": "user", "content": text}])
    return text


def _stream(engine: Engine, prompts: list[str | list[int]], params: SamplingParams, asked: Asked, adapter: str) -> int:
    """Streams the outputs in the order of the prompts, token ids without a tokenizer; then the explanation."""
    handles = [engine.submit(prompt, params, beyond_capacity=True, adapter=adapter) for prompt in prompts]
    failed = 0
    outputs = []
    for i, handle in enumerate(handles):
        if len(handles) > 1:
            print(f"--- {i}")
        for piece in handle:
            said = (
                piece.text if engine.tokenizer is not None else "" if piece.token_id is None else f"{piece.token_id} "
            )
            print(said, end="", flush=True)
        print()
        output = handle.result()
        outputs.append(output)
        if output.error is not None:
            failed += 1
            print(f"request {output.id}: {output.error}", file=sys.stderr)
        if output.finish_reason == "truncated":
            text = f"request {output.id}: truncated after {len(output.token_ids)} tokens: it outgrew the KV pool"
            print(f"{text}; give more --kv-tokens", file=sys.stderr)
    if asked.which:
        print(f"\n{asked.text(outputs)}", end="")
    return int(failed > 0)


def _json(engine: Engine, prompts: list[str | list[int]], params: SamplingParams, asked: Asked, adapter: str) -> int:
    outputs = engine.generate(prompts, params, adapter)
    wanted = {one.job for one in asked.picked(outputs)}
    for output in outputs:
        story = asked.lives.told.get(output.id) if output.id in wanted else None
        told = {} if story is None else {"explain": [line.document() for line in story.told()]}
        print(json.dumps(_plain(output, engine.info.backend) | told))
    return int(any(output.error is not None for output in outputs))


def _plain(output: Output, backend: str) -> dict[str, Any]:
    """As JSON; NaN becomes null."""
    record = {name: None if isinstance(value, float) and math.isnan(value) else value
              for name, value in output.record.items()}  # fmt: skip
    return {"id": output.id, "text": output.text, "token_ids": output.token_ids, "finish_reason": output.finish_reason,
            "prompt_tokens": len(output.prompt_token_ids), "seed": output.seed, "error": output.error,
            "record": record, "backend": backend}  # fmt: skip


def _refuse(message: str) -> int:
    print(f"fastserve generate: error: {message}", file=sys.stderr)
    return 2
