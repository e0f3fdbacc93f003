"""What a folder with an ONNX model holds, as our own export tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastserve.models.folder import ModelNotFoundError

MANIFEST: Final = "fastserve.json"
"""Of a folder of our own export."""

GRAPH: Final = "model.onnx"
OWN: Final = "fastserve"
"""The kind of our own export."""

GENAI: Final = "genai"
"""The kind of what onnxruntime-genai's builder writes."""


@dataclass(frozen=True, slots=True)
class Exported:
    """kind: `fastserve` for our own export, `genai` for one of onnxruntime-genai's builder. window: of its widest
    sliding window, 0 without one: a slot must have that much room. quantize: of its weights.
    """

    path: Path
    name: str
    kind: str
    graph: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    max_model_len: int
    vocab_size: int
    eos_ids: frozenset[int]
    suppress: tuple[int, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    quantize: str = "none"
    made_of: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.path / self.graph


def read_own(path: Path) -> Exported:
    """A folder that has a MANIFEST. Raises ModelNotFoundError for one that is damaged."""
    try:
        told = json.loads((path / MANIFEST).read_bytes())
        for name, size in told["files"].items():
            if (path / name).stat().st_size != size:
                raise ModelNotFoundError(f"The file {name} of {path} is cut short or changed: export the model again.")
        return Exported(
            path, told["name"], told["kind"], GRAPH, told["layers"], told["heads"], told["kv_heads"], told["head_dim"],
            told["window"], told["max_model_len"], told["vocab_size"], frozenset(told["eos_ids"]),
            tuple(told["suppress"]), told["defaults"], told["parameters"], told["quantize"],
            {"made_of": told["made_of"], "versions": told["versions"]},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ModelNotFoundError):
            raise
        raise ModelNotFoundError(
            f"The {MANIFEST} of {path} cannot be used ({error!r}): export the model again."
        ) from error
