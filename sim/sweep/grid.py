"""The grid of a sweep: which settings and knobs vary, and the runs that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from math import prod
from typing import Any

from fastserve.policies.spec import PolicySpec, check_labels, told_apart
from fastserve.sched.checks import check_names, renamed
from fastserve.sched.keywords import literal
from sim.asked import check
from sim.parts import row
from sim.settings import OTHER_NAMES, Settings
from sim.sweep.values import HOW, MOST_RUNS, checked, is_several, listed, several

KINDS = {entry.name: str(entry.type) for entry in fields(Settings)}
"""Setting -> its type, as written."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A policy at a point: what its seeds have in common."""

    label: str
    at: dict[str, Any]
    """axis -> value, its policy's own knobs among them"""
    spec: PolicySpec
    settings: Settings


@dataclass(slots=True)
class Grid:
    """axes: of settings, in the order in which they were given, then of knobs."""

    base: Settings
    """each setting that varies at its first value"""
    axes: dict[str, list[Any]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    @property
    def labels(self) -> dict[str, str]:
        """Label -> policy, in order of appearance."""
        return {cell.label: cell.spec.name for cell in self.cells}


def given(settings: Settings | None, changes: Mapping[str, Any]) -> tuple[Settings, dict[str, list[Any]]]:
    """The settings, each axis at its first value, and the axes. Raises ValueError."""
    named = renamed(changes, OTHER_NAMES)
    check_names("a simulation", named, KINDS)
    found: dict[str, list[Any]] = {}
    for name, value in named.items():
        values = values_of(name, value)
        if values is not None:
            found[name] = values
        elif isinstance(value, str):
            named[name] = exact(name, read(name, value))
    first = {name: values[0] for name, values in found.items()}
    return (settings or Settings()).with_(**{**named, **first}), found


def values_of(name: str, value: object) -> list[Any] | None:
    """The values of a setting that was given several; None where it is one."""
    kind = KINDS[name]
    if isinstance(value, str):
        found = None if kind.startswith("tuple") else listed(name, value, lambda text: read(name, text))
    elif kind.startswith("tuple") and not (isinstance(value, list) and value and is_several(value[0])):
        found = None  # a tuple of texts is one value
    else:
        found = several(value) if is_several(value) else None
    return None if found is None else checked(name, [exact(name, one) for one in found])


def read(name: str, text: str) -> Any:
    """One value of a setting, from text. Raises ValueError for text where a number is due."""
    kind = KINDS[name]
    value = text if kind.startswith(("str", "tuple", "Router")) else literal(text)
    if isinstance(value, str) and "str" not in kind and not kind.startswith(("tuple", "Router")):
        raise ValueError(f"{name}={text!r} is no number; {HOW}")
    return value


def exact(name: str, value: Any) -> Any:
    """A number of the setting's own kind, so that 1 and 1.0 are one point."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    kind = KINDS[name]
    if kind.startswith("float"):
        return float(value)
    return int(value) if kind.startswith("int") and float(value).is_integer() else value


def grid(specs: Sequence[PolicySpec], variants: Sequence[Settings], axes: Mapping[str, list[Any]], seeds: int) -> Grid:
    """Every policy at every point, checked. variants: the settings with each router. Raises ValueError."""
    rows = _rows(specs)
    points = prod(len(values) for values in axes.values())
    runs = points * seeds * len(variants) * sum(prod(map(len, knobs.values())) for _, knobs in rows)
    if runs > MOST_RUNS:
        sizes = " x ".join([f"{len(values):,} {name}" for name, values in axes.items()])
        raise ValueError(
            f"{runs:,} runs are asked for ({sizes or 'policies and seeds'}); at most {MOST_RUNS:,} are made"
        )
    made = Grid(variants[0], dict(axes))
    for spec, knobs in rows:
        for name, values in knobs.items():
            if name in KINDS:
                raise ValueError(f"the knob {name} of {spec.title} has the name of a setting, and cannot be an axis")
            made.axes[name] = [
                *made.axes.get(name, []),
                *[value for value in values if value not in made.axes.get(name, [])],
            ]
    places = [
        (dict(zip(axes, place, strict=True)), variant.with_(**dict(zip(axes, place, strict=True))))
        for variant in variants
        for place in product(*axes.values())
    ]
    routed = any(settings.in_cluster for _, settings in places)
    for at, settings in places:
        for spec, knobs in rows:
            label = _label(spec, settings, routed, axes)
            for own in product(*knobs.values()):
                chosen = dict(zip(knobs, own, strict=True))
                one = replace(spec, knobs={**spec.knobs, **chosen})
                check([one], [settings])
                made.cells.append(Cell(label, at | chosen, one, settings))
    check_labels([_label(spec, variant, routed, axes) for variant in variants for spec, _ in rows])
    return made


def _label(spec: PolicySpec, settings: Settings, routed: bool, axes: Mapping[str, list[Any]]) -> str:
    """The name of a row, the same at every point: what varies is in the columns of the axes. routed: whether there is a
    router at any point.
    """
    if routed and not settings.in_cluster:
        settings = settings.with_(router=settings.router_spec)
    text = row(spec, settings)
    return text.removesuffix(f" ({settings.predictor})") if "predictor" in axes and spec.needs_guess else text


def _rows(specs: Sequence[PolicySpec]) -> list[tuple[PolicySpec, dict[str, list[Any]]]]:
    """Each policy without the knobs that vary, told apart from the others, and these."""
    vary = [_several(spec) for spec in specs]
    alone = [
        replace(spec, knobs={name: value for name, value in spec.knobs.items() if name not in knobs})
        for spec, knobs in zip(specs, vary, strict=True)
    ]
    apart = []
    for spec, knobs in zip(alone, vary, strict=True):
        alike = sum(other.title == spec.title and other.knobs == spec.knobs for other in alone)
        over = f"{spec.name} over {', '.join(knobs)}"
        apart.append(replace(spec, label=over) if knobs and alike > 1 and not spec.label else spec)
    return list(zip(told_apart(apart), vary, strict=True))


def _several(spec: PolicySpec) -> dict[str, list[Any]]:
    """Knobs that were given several values. A knob that is a list or tuple by default takes one as its value."""
    usual = spec.settings
    found = {}
    for name, value in spec.knobs.items():
        if isinstance(value, str):
            values = listed(name, value)
        elif isinstance(usual.get(name), list | tuple):
            values = several(value) if is_several(value) and value and is_several(value[0]) else None
        else:
            values = several(value) if is_several(value) else None
        if values is not None:
            found[name] = checked(name, values)
    return found
