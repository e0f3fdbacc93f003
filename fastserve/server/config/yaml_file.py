"""Settings file: YAML, with or without the `serving:` tree of other servers, read into {field: (key, value)}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fastserve.sched.checks import nearest
from fastserve.server.config.dialect import Dialect


class Sheet(NamedTuple):
    """Content of a settings file."""

    values: dict[str, tuple[str, Any]]  # field -> (key, value)
    on: tuple[str, ...]  # switches that are on
    idle: dict[str, str]  # keys without effect -> why


def read(path: Path, known: Iterable[str], dialect: Dialect) -> Sheet:
    """Raises ValueError with the file name."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config file {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"config file {path} is not UTF-8 text: {error}") from error
    if tree is None:
        tree = {}
    if isinstance(tree, dict) and "serving" in tree:
        if len(tree) > 1:
            other = next(str(key) for key in tree if key != "serving")
            raise ValueError(f"config file {path}: {other!r} stands beside `serving:`; move it inside")
        tree = tree["serving"] or {}
    if not isinstance(tree, dict):
        raise ValueError(f"config file {path} must hold keys and values, not {type(tree).__name__}")
    tree_of = dialect.tree
    keys = _keys(known, dialect)
    leaves = dict(_leaves(tree, "", keys))
    off = tuple(switch.removesuffix("enabled") for switch in tree_of.switches if leaves.get(switch) is False)
    found: dict[str, tuple[str, Any]] = {}
    idle: dict[str, str] = {}
    for key, value in leaves.items():
        why = tree_of.idle.get(key) or tree_of.idle.get(f"{key.partition('.')[0]}.")
        if key in tree_of.fixed:
            only, reason = tree_of.fixed[key]
            if value != only:
                raise ValueError(f"config file {path}: {key}={value}: {reason}")
        elif key in tree_of.switches:
            if not isinstance(value, bool):
                raise ValueError(f"config file {path}: {key}={value!r} must be true or false")
            if field := tree_of.switches[key]:
                found[field] = (key, value)
        elif why:
            idle[key] = why
        elif not key.startswith(off):
            field = tree_of.keys.get(key) or dialect.aliases.get(key, key)
            if field not in known:
                raise ValueError(f"config file {path}: there is no key {key!r}{nearest(key, keys)}")
            found[field] = (key, dialect.convert(key, value))
    on = tuple(switch for switch in tree_of.switches if leaves.get(switch) is True)
    return Sheet(found, on, idle)


def _leaves(tree: Mapping[Any, Any], above: str, keys: list[str]) -> Iterable[tuple[str, Any]]:
    """(dotted key, value); a mapping is gone into where the tree has a group of that name."""
    groups = {key[: at + 1] for key in keys for at, letter in enumerate(key) if letter == "."}
    for key, value in tree.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and f"{path}." in groups:
            yield from _leaves(value, f"{path}.", keys)
        else:
            yield path, value


def _keys(known: Iterable[str], dialect: Dialect) -> list[str]:
    tree = dialect.tree
    return [*tree.keys, *tree.switches, *tree.fixed, *tree.idle, *known, *dialect.aliases]
