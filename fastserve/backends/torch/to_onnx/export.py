"""Export: the files of a model for the onnx backend, written from the model that the torch backend loads."""

from __future__ import annotations

import json
import logging
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from fastserve.backends.torch.model import Model, load_model
from fastserve.backends.torch.quiet import quiet
from fastserve.backends.torch.source import folder_for_others
from fastserve.backends.torch.to_onnx.manifest import MANIFEST
from fastserve.backends.torch.to_onnx.tidy import tidy
from fastserve.backends.torch.to_onnx.trace import Traced
from fastserve.backends.torch.verify import RefusedModelError, one_line

GRAPH: Final = "model.onnx"
WEIGHTS: Final = "model.onnx.data"
PROBE: Final = "probe.npz"

PROMPTS: Final = 4
LONG: Final = 24
TOLD: Final = 6
"""The logits of the last so many tokens of each prompt are kept."""


def export(name: str, folder: Path, facts: Mapping[str, Any], trust_remote_code: bool) -> None:
    """Writes the folder, which must not be there. facts: for its manifest. Raises what load_model() raises, and
    RefusedModelError for a model that cannot be exported.
    """
    source = folder_for_others(name)  # transformers' modules, which the embedded model's are not
    model = load_model(source, device="cpu", dtype="float32", native="off", trust_remote_code=trust_remote_code)
    folder.mkdir()
    probe = _probe(model)
    np.savez(folder / PROBE, tokens=probe["tokens"], logits=probe["logits"])
    told = {
        "name": name, "kind": "fastserve", "layers": model.layers, "heads": model.heads, "kv_heads": model.kv_heads,
        "head_dim": model.head_dim, "window": _window(model), "max_model_len": model.max_model_len,
        "vocab_size": model.vocab_size, "eos_ids": sorted(model.eos_ids), "suppress": list(model.suppress),
        "defaults": dict(model.defaults), "parameters": model.parameters, "quantize": "none",
    }  # fmt: skip
    with quiet(True):
        model.config.save_pretrained(folder)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(folder)
    try:
        _write(model, folder)
    except Exception as error:
        raise RefusedModelError(name, f"it cannot be exported to ONNX: {one_line(_first(error))}") from error
    files = {each.name: each.stat().st_size for each in sorted(folder.iterdir())}
    text = json.dumps({**told, **facts, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _write(model: Model, folder: Path) -> None:
    traced = Traced(model.module, model.max_model_len).eval()
    layers, room = range(model.layers), 16

    def caches(slots: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        shape = (slots, model.kv_heads, room, model.head_dim)
        return [(torch.zeros(shape), torch.zeros(shape)) for _ in layers]

    def places(*numbers: int) -> torch.Tensor:
        return torch.tensor(numbers)

    def short(*numbers: int) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int32)

    rows, decodes, chunk, wanted, width = (
        torch.export.Dim(it) for it in ("rows", "decodes", "chunk", "wanted", "room")
    )
    given = {
        "tokens": (places(1, 2, 3, 4, 5), {0: rows}),
        "positions": (places(4, 6, 5, 6, 7), {0: rows}),
        "decode_rows": (places(0, 1), {0: decodes}),
        "chunk_rows": (places(2, 3, 4), {0: chunk}),
        "order": (places(0, 1, 2, 3, 4), {0: rows}),
        "wanted": (places(0, 1, 4), {0: wanted}),
        "decode_last": (short(4, 6), {0: decodes}),
        "decode_longest": (torch.tensor(7, dtype=torch.int32), {}),
        "chunk_last": (short(7), {}),
        "chunk_longest": (torch.tensor(8, dtype=torch.int32), {}),
    }
    parts = {
        "decode": (caches(2), [({0: decodes, 2: width},) * 2] * model.layers),
        "chunk": (caches(1), [({2: width},) * 2] * model.layers),
    }
    both = [*given.values(), *parts.values()]
    names = {part: [f"{part}_%s.{i}.{x}" for i in layers for x in "kv"] for part in parts}
    with _silence():
        program: Any = torch.onnx.export(
            traced, tuple(value for value, _ in both), dynamo=True, verbose=False,
            dynamic_shapes=tuple(sizes for _, sizes in both),
            input_names=[*given, *(name % "past" for part in parts for name in names[part])],
            output_names=["logits", *(name % "present" for part in parts for name in names[part])],
        )  # fmt: skip
        tidy(program.model)
        program.save(folder / GRAPH, external_data=True)


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter tells of each node that it looks at, with where it was asked to."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _probe(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    """Random prompts and what the model's own forward pass says to them: at every load the same is asked for."""
    module = model.module
    dice = random.Random(0)
    barred = {*model.eos_ids, *model.suppress}
    plain = [token for token in range(min(model.vocab_size, 10_000)) if token not in barred]
    length = min(LONG, model.max_model_len)
    ids = [[dice.choice(plain) for _ in range(length)] for _ in range(PROMPTS)]
    module.set_attn_implementation("eager")
    with torch.inference_mode():
        logits = module(input_ids=torch.tensor(ids), use_cache=False).logits[:, -TOLD:].float()
    return {"tokens": np.array(ids), "logits": logits.numpy()}


def _window(model: Model) -> int:
    """Of the widest sliding window that ends before the longest context does; 0 without one."""
    window = getattr(model.config.get_text_config(decoder=True), "sliding_window", None)
    return window if window is not None and window < model.max_model_len else 0


def _first(error: BaseException) -> BaseException:
    """What an export failed with first: its own errors are long reports."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
