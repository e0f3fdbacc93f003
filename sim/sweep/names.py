"""What the numbers of a run depend on, as its name in a folder: workload, policy, settings, the source of it all."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastserve.policies.spec import PolicySpec
from fastserve.predictors.own import Own
from fastserve.routers.spec import RouterSpec
from fastserve.workload.seeds import SeedSource
from sim.report.provenance import fingerprint
from sim.settings import Settings
from sim.sweep.folder import Workload
from sim.sweep.grid import Cell
from sim.sweep.store import digest

HOUSE = ("fastserve", "sim")
"""Packages that fingerprint() reads."""


def workload_of(source: SeedSource) -> Workload:
    """Of equal name for equal requests, whatever file they came from: of a trace or recipe, and how seeds are taken."""
    typical = source.typical()
    about = source.recipe and str(source.recipe)
    name = digest([about, source.how, typical.digest()])
    return Workload(name, about or f"{source.jobs:,} requests of {typical.name}, seeds by {source.how}")


class Names:
    """Of the runs of one workload."""

    def __init__(self, source: SeedSource, seeds: Sequence[int]) -> None:
        drawn = source if source.rate else source.at_rate(1.0)
        self.workload = workload_of(source)
        self._seeds = {seed: drawn.trace(seed).digest() for seed in seeds}
        self._first = seeds[0]
        self._source = fingerprint()
        self._cells: dict[int, str] = {}

    def name(self, cell: Cell, seed: int) -> str:
        if id(cell) not in self._cells:
            self._cells[id(cell)] = digest([_policy(cell.spec), _settings(cell.settings)])
        return digest(
            [self._cells[id(cell)], self.workload.name, self._seeds[seed], self._seeds[self._first], seed, self._source]
        )


def _policy(spec: PolicySpec) -> list[Any]:
    return [spec.path, {name: repr(value) for name, value in spec.knobs.items()}, own_source(spec.kind)]


def _settings(settings: Settings) -> list[Any]:
    """With what their files hold."""
    plain = asdict(settings.with_(router=None))
    router = settings.router
    if isinstance(router, RouterSpec):
        plain["router"] = [router.path, {name: repr(value) for name, value in router.knobs.items()}]
        plain["router"].append(own_source(router.kind))
    machines = [settings.of_replica(number).hardware().to_json() for number in range(len(settings.replica) or 1)]
    guesses = settings.guesses
    return [plain, machines, guesses and guesses.about, _predictor(settings.predictor)]


def own_source(kind: object) -> list[str]:
    """Digests of the source of a class or function that is nobody's of this house: of its module, and of those of the
    classes below it; of what has no file, its own text. What these import is not looked at.
    """
    bases = inspect.getmro(kind) if isinstance(kind, type) else (kind,)
    found = {}
    for one in bases:
        module = str(getattr(one, "__module__", ""))
        if module == "builtins" or module == "abc" or module.partition(".")[0] in HOUSE:
            continue
        found[f"{module}:{getattr(one, '__qualname__', '')}"] = digest(_text(one, module))
    return [f"{name} {text}" for name, text in found.items()]


def _text(thing: object, module: str) -> str:
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        if path is not None:
            return Path(path).read_text(encoding="utf-8")
        return inspect.getsource(thing)  # type: ignore[arg-type]
    except (OSError, TypeError):  # nothing says whether it has changed: what it is made of does
        codes = [getattr(value, "__code__", None) for value in vars(thing).values()] if isinstance(thing, type) else []
        codes.append(getattr(thing, "__code__", None))
        return repr([(code.co_code, code.co_consts, code.co_names) for code in codes if code is not None])


def _predictor(text: str) -> list[str]:
    """The source of one's own."""
    from fastserve import predictors

    made = predictors.make(text) if text != predictors.TRACE else None
    return own_source(type(made.made)) if isinstance(made, Own) else []
