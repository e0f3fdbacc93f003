"""Which optional facts of a job a policy reads: seen in its source, so that nobody has to declare them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

from fastserve.sched.policy import Policy

FACTS: Final = {"client": "client", "priority": "priority", "slo": "deadline", "guess": "guess"}
"""What a trace may say of a request -> the attribute of Job that carries it."""


def facts_read(kind: type[Policy] | Callable[[], Policy]) -> frozenset[str] | None:
    """Of FACTS, those that a class (or the module of a factory function) may read; None if its source is not at hand.

    The class's module counts, those of its bases, and what these import from beside them. More may be found than is
    read; less, only by a policy that hides an attribute's name from its source.
    """
    bases = [base for base in kind.__mro__ if base not in (Policy, object)] if isinstance(kind, type) else [kind]
    names: set[str] = set()
    for module in _with_neighbours([sys.modules.get(getattr(base, "__module__", "")) for base in bases]):
        found = _attributes(_source(module))
        if found is None:
            return None
        names |= found
    return frozenset(fact for fact, attribute in FACTS.items() if attribute in names)


def _with_neighbours(todo: list[ModuleType | None]) -> Iterator[ModuleType | None]:
    """These modules, and those in the same folder from which they import; None for one that is not known."""
    seen: set[str] = set()
    while todo:
        module = todo.pop()
        if module is None:
            yield None
            continue
        if module.__name__ in seen:
            continue
        seen.add(module.__name__)
        yield module
        if module.__name__.partition(".")[0] == "fastserve":
            continue  # a shipped policy uses others only as its bases
        for value in list(vars(module).values()):
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            beside = sys.modules.get(name) if isinstance(name, str) else None
            if beside is not None and _folder(beside) == _folder(module):
                todo.append(beside)


def _folder(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).parent if file else None


def _source(module: ModuleType | None) -> str | None:
    """Its text; of a compiled module that of the file beside it, if it is there."""
    file = getattr(module, "__file__", None)
    if not file:
        return None
    path = Path(file)
    if path.suffix != ".py":
        path = path.with_name(path.name.partition(".")[0] + ".py")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


@cache
def _attributes(text: str | None) -> frozenset[str] | None:
    """Names of attributes that this source reads, as job.client or by getattr() and attrgetter()."""
    if text is None:
        return None
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return None
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for node in nodes:
        name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and name in ("getattr", "attrgetter"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return frozenset(found)
