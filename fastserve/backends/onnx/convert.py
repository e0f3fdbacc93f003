"""Converts a model to a folder of our own export, with its weights as they are or in fewer bits."""

from __future__ import annotations

import shutil
from pathlib import Path

from fastserve import backends
from fastserve.backends.onnx.folder import Exported
from fastserve.backends.onnx.layouts import read_folder
from fastserve.backends.onnx.quantise import check_can, quantise, whole
from fastserve.models.made_folder import make_folder


def convert(model: str, out: Path | None, quantize: str | None, source: Path | None = None) -> Path:
    """See backends.converters. out: the folder to write, by default one of the model's name here. source: not used.

    FileExistsError where something is in its place already.
    """
    exported = read_folder(Path(backends.prepared("onnx", model, {})))
    kind = quantize or "none"
    check_can(exported, kind)
    stem = Path(model).name.partition(":")[0].removesuffix(".gguf") or "model"
    home = out or Path(f"{stem}-onnx" if kind == "none" else f"{stem}-onnx-{kind}")
    if home.exists():
        raise FileExistsError(f"{home} is there already: remove it, or name another folder with --out")
    make_folder(home, lambda folder: _write(exported, kind, folder), whole)
    return home


def _write(exported: Exported, quantize: str, folder: Path) -> None:
    if quantize == "none":
        shutil.copytree(exported.path, folder)
    else:
        quantise(exported, quantize, folder)
