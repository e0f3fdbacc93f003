"""--models-dir DIR: what in a folder is a model, and its name. Nothing outside of it is one.

DIR/small/config.json            small          torch
DIR/owner/name/config.json       owner/name     torch (as a pull leaves it)
DIR/exported/*.onnx              exported       onnx
DIR/tiny.gguf                    tiny           llamacpp where it is installed, else torch
DIR/owner/name/q4.gguf           owner/name:q4.gguf
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastserve.gateway.models.entry import Entry, check_name

log = logging.getLogger("fastserve.gateway")

CONFIG: Final = "config.json"
GGUF: Final = ".gguf"
DEPTH: Final = 2
MOST: Final = 1000
"""Entries of a folder that are looked at."""


def scan(root: Path, told: set[str] | None = None) -> dict[str, Entry]:
    """Models by name. told: what was complained of already, so that it is said once.

    Raises OSError where the folder cannot be read.
    """
    told = set() if told is None else told
    real = root.resolve(strict=True)
    found: dict[str, Entry] = {}
    for entry in _below(real, real, DEPTH, told):
        found.setdefault(entry.name, entry)
    return dict(sorted(found.items()))


def _below(folder: Path, root: Path, depth: int, told: set[str]) -> Iterator[Entry]:
    for path in sorted(folder.iterdir())[:MOST]:
        if path.name.startswith("."):
            continue
        if not path.resolve().is_relative_to(root):
            _say(told, f"{path} leads out of {root}, so it is not served: name it in --models FILE")
            continue
        name = "/".join(path.relative_to(root).parts)
        try:
            yield from _models(path, name, root, depth, told)
        except OSError as error:
            _say(told, f"{path} cannot be read: {error.strerror}")
        except ValueError as error:
            _say(told, str(error))


def _models(path: Path, name: str, root: Path, depth: int, told: set[str]) -> Iterator[Entry]:
    if path.is_file():
        if path.suffix == GGUF:
            single = name.count("/") < DEPTH
            own = name.removesuffix(GGUF) if single else ":".join(name.rsplit("/", 1))
            yield _entry(own, path, "llamacpp" if find_spec("llama_cpp") else "torch", root)
        return
    if not path.is_dir():
        return
    if any(path.glob("*.onnx")):
        yield _entry(name, path, "onnx", root)
    elif (path / CONFIG).is_file():
        yield _entry(name, path, "", root)
    elif not path.is_symlink():  # one to a folder above would be gone round and round
        ggufs = [each for each in sorted(path.glob(f"*{GGUF}")) if each.resolve().is_relative_to(root)]
        if depth == 1:
            for each in ggufs:
                yield from _models(each, f"{name}/{each.name}", root, 0, told)
        else:
            yield from _below(path, root, depth - 1, told)


def _entry(name: str, path: Path, backend: str, root: Path) -> Entry:
    return Entry(check_name(name, str(root)), str(path), backend, origin="folder", place=path)


def _say(told: set[str], line: str) -> None:
    if line not in told:
        told.add(line)
        log.warning("%s", line)
