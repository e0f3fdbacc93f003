"""Converters of models, by the format that they write; each is imported when it is asked for.

A converter is a function (model, out, quantize, source) -> Path: a model by name, the path to write or None for a usual
one, a type of weights or None, where the converter's own sources are, or None. It raises ValueError for what it cannot
do and OSError where nothing can be written, and what it writes appears whole.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

Convert = Callable[[str, Path | None, str | None, Path | None], Path]


class Format(NamedTuple):
    """where: of its converter. backend: runs it. about: for people. types: of weights, the first is the usual one."""

    where: str
    backend: str
    about: str
    types: tuple[str, ...]


FORMATS: Final[dict[str, Format]] = {
    "gguf": Format(
        "fastserve.backends.llamacpp.convert:convert", "llamacpp", "a file of llama.cpp's",
        ("f16", "f32", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
         "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
    ),
    "onnx": Format(
        "fastserve.backends.onnx.convert:convert", "onnx", "a folder of ONNX Runtime's", ("none", "int8", "int4")
    ),
}  # fmt: skip


def converter(format: str, quantize: str | None) -> Convert:
    """The function. ValueError for a format or a type that is none, ImportError for what it needs and is not there."""
    if format not in FORMATS:
        raise ValueError(f"no format is called {format!r}: give {', '.join(FORMATS)}")
    types = FORMATS[format].types
    if quantize is not None and quantize not in types:
        raise ValueError(f"quantize={quantize!r} is no type of weights in {format}: give {', '.join(types)}")
    where, _, name = FORMATS[format].where.partition(":")
    try:
        found: Convert = getattr(import_module(where), name)
    except ModuleNotFoundError as error:
        if error.name is None or not where.startswith(error.name):
            raise
        raise ValueError(f"this version converts nothing to {format}") from None
    return found
