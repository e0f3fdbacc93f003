"""Shipped policies, one idea a file, and lookup by name, module:Class or ./file.py:Class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any

from fastserve.importing import class_of
from fastserve.policies.atlas import Atlas
from fastserve.policies.cachewise import CacheWise
from fastserve.policies.concur import Concur
from fastserve.policies.continuum import Continuum
from fastserve.policies.deepest_first import DeepestFirst
from fastserve.policies.fcfs import Fcfs
from fastserve.policies.fixed_priority import FixedPriority
from fastserve.policies.las import Las
from fastserve.policies.lpm import Lpm
from fastserve.policies.mlfq import Mlfq
from fastserve.policies.plas import Plas
from fastserve.policies.priority import Priority
from fastserve.policies.program_fcfs import ProgramFcfs
from fastserve.policies.shortest import Sjf, Srpt
from fastserve.policies.skip_join import SkipJoinMlfq
from fastserve.policies.thunder import Thunder
from fastserve.policies.working_set import WorkingSet
from fastserve.sched.checks import check_names
from fastserve.sched.policy import Policy

POLICIES: dict[str, type[Policy]] = {
    "fcfs": Fcfs,
    "fixed-priority": FixedPriority,
    "las": Las,
    "mlfq": Mlfq,
    "priority": Priority,
    "sj-mlfq": SkipJoinMlfq,
    "sjf": Sjf,
    "srpt": Srpt,
    # by program
    "program-fcfs": ProgramFcfs,
    "plas": Plas,
    "atlas": Atlas,
    "deepest-first": DeepestFirst,
    "continuum": Continuum,
    "thunder": Thunder,
    "concur": Concur,
    "working-set": WorkingSet,
    # by what the prefix cache holds
    "lpm": Lpm,
    "cachewise": CacheWise,
}


def find(name: str) -> type[Policy]:
    """The class behind a name of the table, module:Class or ./file.py:Class; the current folder is importable.

    Raises ValueError with what was looked for and what there is.
    """
    return POLICIES[name] if name in POLICIES else class_of("policy", name, Policy, ", ".join(POLICIES))


def knobs(policy: type[Policy] | Callable[[], Policy]) -> dict[str, Any]:
    """The settings of a policy: its constructor's keywords with their defaults, those of its bases included; of a
    function that makes one, the function's.
    """
    found: dict[str, Any] = {}
    if not isinstance(policy, type):
        try:
            shown = inspect.signature(policy).parameters.values()
        except (TypeError, ValueError):  # it shows none
            return found
        named = (one for one in shown if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))
        return {one.name: _default(one) for one in named}
    for base in policy.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is None or base is object:
            continue
        if inspect.isfunction(constructor):
            parameters = list(inspect.signature(constructor).parameters.values())[1:]
        else:  # compiled: only the class still knows
            parameters = list(inspect.signature(base).parameters.values())
        fields = getattr(base, "__dataclass_fields__", {}).values()
        made = {one.name: one.default_factory() for one in fields if one.default_factory is not MISSING}
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, made.get(parameter.name, _default(parameter)))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _default(parameter: inspect.Parameter) -> Any:
    return None if parameter.default is parameter.empty else parameter.default


def make(policy: str | type[Policy], settings: Mapping[str, Any] | None = None) -> Policy:
    """A fresh policy, by name or of a class. Raises ValueError for an unknown name or setting, or a refused value."""
    kind = find(policy) if isinstance(policy, str) else policy
    owner = f"policy {policy if isinstance(policy, str) else policy.__name__}"
    settings = settings or {}
    check_names(owner, settings, knobs(kind))
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{owner}: {error}") from error
