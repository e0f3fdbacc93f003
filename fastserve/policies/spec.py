"""PolicySpec: policy, arguments and label. Every command and driver makes its policies from one, a new object for each
run; its error messages are here and in policies/__init__.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from fastserve.importing import absolute, address
from fastserve.policies import find, knobs, make
from fastserve.policies.reads import FACTS, facts_read
from fastserve.sched.errors import PolicyError
from fastserve.sched.keywords import argument, guarded
from fastserve.sched.policy import MUST_RANK, Policy

T = TypeVar("T")

PolicyLike: TypeAlias = "str | type[Policy] | Callable[[], Policy] | PolicySpec"
"""Accepted by Python interfaces as a policy."""

PROVIDED = frozenset({"guess"})
"""Policy.needs that a driver can provide."""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """policy: a name of the table, module:Class, ./file.py:Class, a class, or a function that makes a policy.

    Raises ValueError for anything else.
    """

    policy: str | type[Policy] | Callable[[], Policy]
    knobs: Mapping[str, Any] = field(default_factory=dict)
    """keywords of the policy's constructor"""
    label: str = ""
    """label in tables; empty: the name of the policy"""

    def __post_init__(self) -> None:
        policy: object = self.policy
        if isinstance(policy, Policy):
            name = type(policy).__name__
            raise ValueError(f"give the class {name} and not an object of it: each run needs a fresh one")
        fits = issubclass(policy, Policy) if isinstance(policy, type) else isinstance(policy, str) or callable(policy)
        if not fits:
            raise ValueError(
                f"{policy!r} is no policy: give a name, module:Class, a subclass of fastserve.Policy, a PolicySpec"
            )

    @classmethod
    def of(cls, policy: object, knobs: Mapping[str, Any] | None = None) -> PolicySpec:
        """From anything in PolicyLike; knobs are added to those of a spec."""
        spec = policy if isinstance(policy, PolicySpec) else cls(policy)  # type: ignore[arg-type]
        return replace(spec, knobs={**spec.knobs, **knobs}) if knobs else spec

    def with_argument(self, text: str) -> PolicySpec:
        """A copy with one more argument, KEY=VALUE. Raises ValueError."""
        key, value = argument(text)
        return replace(self, knobs={**self.knobs, key: value})

    @property
    def name(self) -> str:
        """Display name: as given, or the class name."""
        return self.policy if isinstance(self.policy, str) else getattr(self.policy, "__name__", repr(self.policy))

    @property
    def title(self) -> str:
        return self.label or self.name

    @property
    def path(self) -> str:
        """Importable name for find(), if there is one."""
        return absolute(self.policy) if isinstance(self.policy, str) else address(self.policy)

    @property
    def kind(self) -> type[Policy] | Callable[[], Policy]:
        """Its class or factory. Raises ValueError, also for exceptions of the user's module."""
        name = self.policy
        return self._guarded(lambda: find(name)) if isinstance(name, str) else name

    @property
    def needs_guess(self) -> bool:
        return "guess" in getattr(self.kind, "needs", ())

    @property
    def settings(self) -> dict[str, Any]:
        """Its keywords with their defaults; of a function those that it shows."""
        return knobs(self.kind)

    @property
    def in_effect(self) -> dict[str, Any]:
        """Each of its keywords: as given, else as its preset has it, else its default."""
        found = self.settings
        chosen = self.knobs.get("preset", found.get("preset"))
        presets = getattr(self.kind, "presets", {})
        preset = presets.get(chosen, {}) if isinstance(presets, Mapping) and isinstance(chosen, str) else {}
        return found | dict(preset) | dict(self.knobs)

    def told(self, policy: Policy) -> dict[str, Any]:
        """All settings of `policy`, for results: in_effect, and under "derived" what it makes of them on the machine
        that it is bound to. policy: a fresh() one. Raises PolicyError.
        """
        hook: object = policy.derived_settings
        try:
            derived = dict(hook()) if callable(hook) else {}
        except Exception as error:
            raise PolicyError(policy, "derived_settings", None, error) from error
        return self.in_effect | ({"derived": derived} if derived else {})

    def fresh(self) -> Policy:
        """A new policy for one run. Raises ValueError for an unknown name or setting, and what its code raises."""
        kind = self.policy
        made: object = self._guarded(
            lambda: make(kind, self.knobs) if isinstance(kind, str | type) else kind(**self.knobs)
        )
        if not isinstance(made, Policy):
            raise ValueError(f"policy {self.name} has made {made!r}, which is no fastserve.Policy")
        return made

    def check(self, *, guesses: str = "") -> None:
        """Validates before a run. Raises ValueError.

        guesses: where nobody guesses output lengths, what to say that there is: "oracle or constant:TOKENS".
        """
        if not isinstance(self.kind, type):
            return  # what a function makes is known when it is called
        policy = self.fresh()
        if type(policy).rank is Policy.rank and type(policy).waiting is Policy.waiting:
            raise ValueError(f"policy {self.name} {MUST_RANK}")
        unknown = policy.needs - PROVIDED
        if unknown:
            raise ValueError(f"policy {self.name} needs {', '.join(sorted(unknown))}, which no driver provides")
        if guesses and "guess" in policy.needs:
            raise ValueError(
                f"policy {self.name} needs a guess of each output's length: choose a predictor, --predictor {guesses}"
            )

    def _guarded(self, make: Callable[[], T]) -> T:
        return guarded(f"policy {self.name}", make)

    def __reduce__(self) -> tuple[Any, ...]:
        """A class from a file is pickled as its path: other processes cannot import its module."""
        policy = address(self.policy) if _of_file(self.policy) else self.policy
        return PolicySpec, (policy, dict(self.knobs), self.label)


def told_by(settings: Mapping[str, Any]) -> dict[str, Any]:
    """PolicySpec.told(), from the settings of an engine."""
    derived = settings.get("derived")
    return dict(settings.get("knobs", {})) | ({"derived": derived} if derived else {})


def _of_file(policy: object) -> bool:
    return isinstance(policy, type) and address(policy) != f"{policy.__module__}:{policy.__qualname__}"


def told_apart(specs: Sequence[PolicySpec]) -> list[PolicySpec]:
    """The specs, where those of equal name without a label are labelled by the arguments in which they differ."""
    found = []
    for spec in specs:
        alike = [other.knobs for other in specs if not other.label and other.name == spec.name]
        own = [
            f"{key}={value}"
            for key, value in spec.knobs.items()
            if any(key not in knobs or knobs[key] != value for knobs in alike)
        ]
        found.append(spec if spec.label or not own else replace(spec, label=f"{spec.name} {' '.join(own)}"))
    return found


def facts_told(
    specs: Sequence[PolicySpec], labels: Sequence[str], facts: Collection[str]
) -> dict[str, dict[str, list[str]]]:
    """Where policies and what a trace tells of its requests (Trace.facts) do not meet: fact -> labels, for the settings
    of a result. "unread": who does not look at it. "missing": who does, though the trace does not tell it, or alike of
    all its requests; of a guess the predictor answers for. Without what is empty.
    """
    unread: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for spec, label in zip(specs, labels, strict=True):
        read = facts_read(spec.kind)
        if read is None:
            continue
        for fact in FACTS:
            if fact in facts and fact not in read:
                unread.setdefault(fact, []).append(label)
            elif fact not in facts and fact in read and fact != "guess":
                missing.setdefault(fact, []).append(label)
    return {name: found for name, found in (("unread", unread), ("missing", missing)) if found}


def check_labels(labels: Sequence[str]) -> None:
    """Raises ValueError for two rows of equal label."""
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two rows have the label {label!r}: give them labels")
