"""Exports that were made elsewhere: folders of onnxruntime-genai's builder, whose caches change in place as ours do.

Others, such as optimum's, give back caches that are longer than those that they were given: each step copies all of
them, and rows of different lengths are padded. They are refused; the model that they were made of is exported here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from fastserve.backends.onnx.folder import GENAI, Exported
from fastserve.models.folder import ModelNotFoundError

CONFIG: Final = "genai_config.json"
SAMPLING: Final = ("temperature", "top_k", "top_p", "repetition_penalty")


def read_foreign(path: Path) -> Exported:
    """Raises ModelNotFoundError for a folder that is of no layout known here, or whose configuration is damaged."""
    if not (path / CONFIG).is_file():
        raise ModelNotFoundError(
            f"The folder {path} holds an ONNX model whose layout is not known here: it has neither the manifest of our "
            f"own exports nor the {CONFIG} of onnxruntime-genai's builder. Exports of optimum cannot be served, since "
            "their caches do not change in place: give the model that it was made of, which is exported here."
        )
    try:
        told = json.loads((path / CONFIG).read_bytes())
        model: dict[str, Any] = told["model"]
        decoder: dict[str, Any] = model["decoder"]
        search: dict[str, Any] = told.get("search", {})
        ends = model["eos_token_id"]
        found = Exported(
            path, path.name, GENAI, decoder["filename"], decoder["num_hidden_layers"], decoder["num_attention_heads"],
            decoder["num_key_value_heads"], decoder["head_size"], _window(decoder), model["context_length"],
            model["vocab_size"], frozenset([ends] if isinstance(ends, int) else ends),
            defaults={name: search[name] for name in SAMPLING if name in search} if search.get("do_sample") else {},
            made_of={"files": {each.name: each.stat().st_size for each in sorted(path.glob("*.onnx*"))}},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFoundError(f"The {CONFIG} of {path} cannot be used: {error!r}.") from error
    if not found.file.is_file():
        raise ModelNotFoundError(f"The {CONFIG} of {path} names {found.graph}, which is not there.")
    return found


def _window(decoder: dict[str, Any]) -> int:
    sliding = decoder.get("sliding_window") or {}
    size = sliding.get("window_size", 0)
    return size if isinstance(size, int) and size > 0 else 0
