"""The policies that come with the testbed, one idea a file. Any other is named by import path, module:Class."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

from fastserve.policies.fcfs import Fcfs
from fastserve.policies.fixed_priority import FixedPriority
from fastserve.policies.las import Las
from fastserve.policies.mlfq import Mlfq
from fastserve.policies.shortest import Sjf, Srpt
from fastserve.policies.skip_join import SkipJoinMlfq
from fastserve.sched.policy import Policy

POLICIES: dict[str, type[Policy]] = {
    "fcfs": Fcfs,
    "fixed-priority": FixedPriority,
    "las": Las,
    "mlfq": Mlfq,
    "sj-mlfq": SkipJoinMlfq,
    "sjf": Sjf,
    "srpt": Srpt,
}


def find(name: str) -> type[Policy]:
    """The class behind a name of the table or an import path module:Class; the current folder is importable.

    Raises ValueError with what was looked for and what there is.
    """
    if name in POLICIES:
        return POLICIES[name]
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise ValueError(f"no policy {name!r}; there are {', '.join(POLICIES)}, or give your own as module:Class")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ValueError(f"policy {name!r}: no module {module_name!r} in {here} or on the Python path") from None
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Policy)):
        mine = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Policy)]
        what = "is no subclass of fastserve.Policy" if found is not None else "does not exist"
        raise ValueError(f"policy {name!r}: {class_name} {what}; {module_name} has {', '.join(mine) or 'no policies'}")
    return found


def knobs(policy: type[Policy]) -> dict[str, Any]:
    """The settings of a policy: its constructor's keywords with their defaults, those of its bases included."""
    found: dict[str, Any] = {}
    for base in policy.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is None or base is object:
            continue
        if inspect.isfunction(constructor):
            parameters = list(inspect.signature(constructor).parameters.values())[1:]
        else:  # compiled: only the class still knows
            parameters = list(inspect.signature(base).parameters.values())
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, None if parameter.default is parameter.empty else parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def make(name: str, settings: dict[str, Any] | None = None) -> Policy:
    """A fresh policy. Raises ValueError for an unknown name or setting, or a value that the policy refuses."""
    policy = find(name)
    settings = settings or {}
    valid = knobs(policy)
    for key in settings:
        if key not in valid:
            raise ValueError(f"policy {name} has no setting {key!r}; it has {', '.join(valid) or 'none'}")
    try:
        return policy(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"policy {name}: {error}") from error
