"""--models FILE: JSON or YAML, names -> paths, or -> {path, backend, options, base_model, lora}.

"*": {backend: torch, options: {max_batch: 8}}      # for all
small: ./models/small                                # a path alone
big: {path: Qwen/Qwen2.5-0.5B-Instruct, options: {dtype: float32}, lora: {sql: ./adapters/sql}}
chemistry: {base_model: big, path: ./adapters/chemistry}
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from fastserve.gateway.models.entry import Entry, check_name, check_options
from fastserve.sched.checks import renamed, unknown

ALL: Final = "*"
KEYS: Final = ("path", "backend", "options", "base_model", "lora")
OTHERS: Final = {
    "model": "path", "model_id": "path", "model_path": "path", "backend_type": "backend", "base": "base_model",
    "adapters": "lora", "lora_adapters": "lora",
}  # fmt: skip
"""Other key -> key."""
MOST_BYTES: Final = 4 << 20


class ModelsFileError(ValueError):
    """The file cannot be used; the message names it, and what to change."""


def read(path: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    """(entries by name, options for all). Adapters stand in their base's entry. Raises ModelsFileError."""
    try:
        return _entries(_tree(path), path)
    except OSError as error:
        raise ModelsFileError(f"models file {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelsFileError(f"models file {path}: {error}") from error


def _tree(path: Path) -> dict[Any, Any]:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    text = path.read_text(encoding="utf-8")
    try:
        tree = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg}, line {error.lineno}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(tree, dict) and set(tree) == {"models"}:
        tree = tree["models"]
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ValueError(f"it must hold names and their models, not {type(tree).__name__}")
    return tree


def _entries(tree: dict[Any, Any], path: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    defaults = _defaults(tree.get(ALL, {}))
    made: dict[str, Entry] = {}
    upon: dict[str, tuple[str, str]] = {}  # adapter -> (base, its path)
    for name, value in tree.items():
        if name == ALL:
            continue
        check_name(name, "a name")
        given = _keys(name, value)
        where = given.get("path")
        if not isinstance(where, str) or not where.strip():
            raise ValueError(f"{name} has no path: give a folder, a file or an id of the hub")
        if (base := given.get("base_model")) is not None:
            for key in ("backend", "options", "lora"):
                if key in given:
                    raise ValueError(f"{name} is an adapter of {base}, so {key} stands there")
            upon[name] = (str(base), _located(where, path))
        else:
            backend = given.get("backend") or ""
            if not isinstance(backend, str):
                raise ValueError(f"{name}: backend must be a name")
            made[name] = Entry(
                name, _located(where, path), backend, check_options(given.get("options") or {}, name),
                _adapters(name, given.get("lora"), path),
            )  # fmt: skip
    for name, (base, where) in upon.items():
        if base not in made:
            raise ValueError(unknown(f"{name}: there is no base_model", base, made).replace("; it has", "; there are"))
        made[base] = replace(made[base], adapters=made[base].adapters | {name: where})
    _check_once(made)
    return made, defaults


def _defaults(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f'"{ALL}" must be {{backend, options}}')
    found = renamed(given, OTHERS)
    for key in found:
        if key not in ("backend", "options"):
            raise ValueError(f'"{ALL}", for all models, takes backend and options, not {key}')
    return check_options(found.get("options") or {}, ALL) | (
        {"backend": str(found["backend"])} if found.get("backend") else {}
    )


def _keys(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"path": value}
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a path, or {{{', '.join(KEYS)}}}")
    found = renamed({str(key): item for key, item in value.items()}, OTHERS)
    for key in found:
        if key not in KEYS:
            raise ValueError(unknown(f"{name} has no key", key, KEYS, OTHERS))
    return found


def _adapters(name: str, given: Any, path: Path) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(each, str) and each for each in given.values()):
        raise ValueError(f"{name}: lora must be NAME: PATH, an adapter each")
    return {check_name(each, f"{name}, lora"): _located(where, path) for each, where in given.items()}


def _located(where: str, file: Path) -> str:
    """A path relative to the file becomes a whole one; ids of the hub and names such as smollm2 stay."""
    found = Path(where).expanduser()
    if found.is_absolute():
        return str(found)
    beside = file.resolve().parent / found
    return str(beside) if where.startswith(".") or beside.exists() else where


def _check_once(made: dict[str, Entry]) -> None:
    names = set(made)
    for entry in made.values():
        for adapter in entry.adapters:
            if adapter in names:
                raise ValueError(f"{adapter} is named twice: an adapter needs a name of its own")
            names.add(adapter)
