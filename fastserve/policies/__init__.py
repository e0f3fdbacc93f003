"""Shipped policies, one idea a file, and lookup by name, module:Class or ./file.py:Class."""

from __future__ import annotations

from collections.abc import Mapping
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
from fastserve.sched.keywords import keywords, made
from fastserve.sched.policy import Policy

knobs = keywords
"""The settings of a policy, or of a function that makes one."""

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


def make(policy: str | type[Policy], settings: Mapping[str, Any] | None = None) -> Policy:
    """A fresh policy, by name or of a class. Raises ValueError for an unknown name or setting, or a refused value."""
    kind = find(policy) if isinstance(policy, str) else policy
    return made(f"policy {policy if isinstance(policy, str) else policy.__name__}", kind, settings or {})
