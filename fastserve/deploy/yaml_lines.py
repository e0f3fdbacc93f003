"""YAML as plain values, with the line of each key and item, so that what is wrong is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

At: TypeAlias = tuple[str | int, ...]
"""Where a value stands: ("servers", 0, "model", "uri")."""

MOST_VALUES = 20_000
"""Of a file, what anchors repeat counted again: far more than an application has, and no time to read."""

MOST_BYTES = 256 << 10
"""Of a file: a parser of YAML reads some 100 KB a second."""

MERGE = "<<"


class Document(NamedTuple):
    """lines: of keys and items, from 1."""

    path: Path
    value: Any
    lines: dict[At, int]

    def line(self, at: At) -> int:
        """Of the nearest that the file has: of what is missing, where it belongs."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)

    def fault(self, at: At, what: str) -> str:
        """One line of an error message."""
        return f"{self.path}, line {self.line(at)}: {what}"


def read(path: Path) -> Document:
    """Raises ValueError, with file and line, for what is not YAML, says a key twice, or is too large."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"{path} has more than {MOST_BYTES >> 10} KiB, which is no application")
        text = data.decode("utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        reader = _Reader(path, loader)
        return Document(path, None if root is None else reader.value(root, ()), reader.lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where} is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be an application") from error


class _Reader:
    def __init__(self, path: Path, loader: yaml.SafeLoader) -> None:
        self.path, self.loader = path, loader
        self.lines: dict[At, int] = {}
        self.left = MOST_VALUES

    def value(self, node: yaml.Node, at: At) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"{self.path} has more than {MOST_VALUES:,} values, which is no application")
        self.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self.loader.construct_object(node)
        self._no_key_twice(node)
        self.loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key, item in node.value:
            name = self._name(key)
            self.lines[(*at, name)] = key.start_mark.line + 1
            found[name] = self.value(item, (*at, name))
        return found

    def _no_key_twice(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name, line = self._name(key), key.start_mark.line + 1
            if name in seen and name != MERGE:
                raise ValueError(f"{self.path}, line {line}: {name} is given twice, first in line {seen[name]}")
            seen[name] = line

    def _name(self, key: yaml.Node) -> str:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{self.path}, line {key.start_mark.line + 1}: a key must be a word")
        return str(key.value)
