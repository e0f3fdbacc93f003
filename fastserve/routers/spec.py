"""RouterSpec: router and arguments. Every command and body makes its router from one, a new object for each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

from fastserve.importing import absolute, address
from fastserve.routers import find, make
from fastserve.routers.router import MUST_ROUTE, Router
from fastserve.sched.keywords import argument, guarded, keywords

RouterLike: TypeAlias = "str | type[Router] | Callable[[], Router] | RouterSpec"
"""Accepted by Python interfaces as a router."""

PROVIDED = frozenset({"guess", "prefixes"})
"""Router.needs that a body can provide."""


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """router: a name of the table, module:Class, ./file.py:Class, a class, or a function that makes a router.

    Raises ValueError for anything else.
    """

    router: str | type[Router] | Callable[[], Router]
    knobs: Mapping[str, Any] = field(default_factory=dict)
    """keywords of the router's constructor"""

    def __post_init__(self) -> None:
        router: object = self.router
        if isinstance(router, Router):
            name = type(router).__name__
            raise ValueError(f"give the class {name} and not an object of it: each run needs a fresh one")
        fits = issubclass(router, Router) if isinstance(router, type) else isinstance(router, str) or callable(router)
        if not fits:
            raise ValueError(
                f"{router!r} is no router: give a name, module:Class, a subclass of fastserve.Router, a RouterSpec"
            )

    @classmethod
    def of(cls, router: object, knobs: Mapping[str, Any] | None = None) -> RouterSpec:
        """From anything in RouterLike; knobs are added to those of a spec."""
        spec = router if isinstance(router, RouterSpec) else cls(router)  # type: ignore[arg-type]
        return replace(spec, knobs={**spec.knobs, **knobs}) if knobs else spec

    def with_argument(self, text: str) -> RouterSpec:
        """A copy with one more argument, KEY=VALUE. Raises ValueError."""
        key, value = argument(text)
        return replace(self, knobs={**self.knobs, key: value})

    @property
    def name(self) -> str:
        """Display name: as given, or the class name."""
        return self.router if isinstance(self.router, str) else getattr(self.router, "__name__", repr(self.router))

    @property
    def path(self) -> str:
        """Importable name for find(), if there is one."""
        return absolute(self.router) if isinstance(self.router, str) else address(self.router)

    @property
    def kind(self) -> type[Router] | Callable[[], Router]:
        """Its class or factory. Raises ValueError, also for exceptions of the user's module."""
        name = self.router
        return guarded(f"router {self.name}", lambda: find(name)) if isinstance(name, str) else name

    @property
    def needs(self) -> frozenset[str]:
        """Router.needs of its class; of a function what the router that it makes needs."""
        kind = self.kind
        needs: frozenset[str] = (self.fresh() if not isinstance(kind, type) else cast("type[Router]", kind)).needs
        return needs

    @property
    def settings(self) -> dict[str, Any]:
        """Its keywords: as given, else their defaults; of a function those that it shows."""
        return keywords(self.kind) | dict(self.knobs)

    def fresh(self) -> Router:
        """A new router for one run. Raises ValueError, also for exceptions of the user's code."""
        kind = self.router
        made: object = guarded(
            f"router {self.name}",
            lambda: make(kind, self.knobs) if isinstance(kind, str | type) else kind(**self.knobs),
        )
        if not isinstance(made, Router):
            raise ValueError(f"router {self.name} has made {made!r}, which is no fastserve.Router")
        return made

    def check(self) -> None:
        """Validates before a run. Raises ValueError."""
        router = self.fresh()
        if type(router).route is Router.route:
            raise ValueError(f"router {self.name} {MUST_ROUTE}")
        unknown = frozenset(router.needs) - PROVIDED
        if unknown:
            raise ValueError(
                f"router {self.name} needs {', '.join(sorted(unknown))}, which nobody provides; "
                f"there is {', '.join(sorted(PROVIDED))}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A class from a file is pickled as its path: other processes cannot import its module."""
        router = self.router
        of_file = isinstance(router, type) and address(router) != f"{router.__module__}:{router.__qualname__}"
        return RouterSpec, (address(router) if of_file else router, dict(self.knobs))
