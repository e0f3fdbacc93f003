"""Launch: makes an Engine from a model, a backend and settings. The only module that imports engine and backends.

with Body("embedded", "torch", dtype="float32").engine(EngineConfig(policy="las")) as engine: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from typing import Any, cast

from fastserve import backends
from fastserve.backends.options import DEFAULTS, OPTIONS, check_all, expanded, passed_on
from fastserve.engine.backend import Backend, Profiled, Wanted
from fastserve.engine.clock import Clock, VirtualClock, WallClock
from fastserve.engine.config import EngineConfig
from fastserve.engine.engine import Engine
from fastserve.hardware import DecodePiece, Hardware, LinearLatency, Link, Memory, PrefillFit, load_hardware
from fastserve.named_models import EMBEDDED
from fastserve.sched.config import OTHER_NAMES
from fastserve.sched.residency import RESIDENCIES

__all__ = [
    "DEFAULTS", "PLACEHOLDER", "Body", "from_pretrained", "profiled", "scripted", "wanted_of",
]  # fmt: skip

NAMED: dict[str, Any] = {"model": EMBEDDED, "backend": "torch"}
ENGINE = {*(field.name for field in fields(EngineConfig)), *OTHER_NAMES, "knobs"}
"""Names of an engine's own settings."""

PLACEHOLDER = Hardware(LinearLatency(PrefillFit(1.0, 0.0, 0.0), [DecodePiece(1, 1.0, 0.0, 0.0)]), Memory(), Link())
"""Hardware for policies that read no times: with it, nothing is measured or looked up."""


class Body:
    """A backend class and its model, loaded once: engines are made on it one after the other.

    backend: a name of fastserve.backends, module:Class or ./file.py:Class. latency: the latency model
    for policies, a preset or file (None: a stored profile, else the backend's own). options: of the backend.

    Raises ValueError for an unknown backend or option, and what loading raises.
    """

    def __init__(
        self, model: Any = EMBEDDED, backend: str = "torch", *, latency: str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        given = None if latency is None else load_hardware(latency)  # a wrong name is known before a model is loaded
        self.name = backends.checked(backend)
        check_all(options)  # before anything heavy is imported
        backends.look(self.name, model, dummy=options.get("load_format") == "dummy")
        self.kind = backends.find(backend)
        self.given = given
        load = getattr(self.kind, "load", None)
        loading, making = _keywords(load), _keywords(self.kind)
        options = passed_on(self.name, options, _options(self.kind))
        self.options = {name: value for name, value in options.items() if name in making}
        own = {name: value for name, value in options.items() if name in loading}
        if load is not None and isinstance(model, str | PathLike):
            model = load(backends.prepared(self.name, model, options), **own)
        self.model = model

    def backend(
        self, config: EngineConfig, hardware: Hardware | None = None, *, kv_bytes: int | None = None,
        host_bytes: int | None = None,
    ) -> Backend:  # fmt: skip
        """A new backend. hardware: overrides the latency, a stored profile and a measurement."""
        wanted = wanted_of(config, kv_bytes, host_bytes)
        hardware = hardware or self.given
        try:
            made = cast(Backend, self.kind(self.model, wanted, hardware, **self.options))
        except (ValueError, OSError, ImportError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(f"backend {self.name} cannot be made: {type(error).__name__}: {error}") from error
        facts: Mapping[str, Any] | None = getattr(made, "facts", None)
        if hardware is None and facts is not None:
            from fastserve.profiler.store import stored

            found = stored(facts)
            if found is not None:
                cast(Profiled, made).use(found, "a stored profile")
        return made

    def engine(
        self, config: EngineConfig, hardware: Hardware | None = None, *, clock: Clock | None = None,
        kv_bytes: int | None = None, host_bytes: int | None = None,
    ) -> Engine:  # fmt: skip
        made = self.backend(config, hardware, kv_bytes=kv_bytes, host_bytes=host_bytes)
        try:
            return Engine(made, config, clock)
        except BaseException:
            made.close()
            raise


def wanted_of(config: EngineConfig, kv_bytes: int | None = None, host_bytes: int | None = None) -> Wanted:
    """The memory request of an engine's settings."""
    return Wanted(
        config.block, config.kv_tokens, config.host_tokens, kv_bytes, host_bytes,
        RESIDENCIES[config.residency].swaps, config.max_batch, config.prefix_tokens,
        0 if config.prefix_cache == "off" else config.host_prefix_tokens,
    )  # fmt: skip


def profiled(body: Body, config: EngineConfig) -> Profiled:
    """A new backend to be profiled. ValueError for one that cannot be."""
    made = body.backend(config, PLACEHOLDER)
    if not hasattr(made, "facts"):
        raise ValueError(f"backend {body.name} cannot be profiled: its times are given, or not its own")
    return cast(Profiled, made)


def from_pretrained(
    model: str, backend: str, latency: str | PathLike[str] | None, settings: Mapping[str, Any]
) -> Engine:
    """See Engine.from_pretrained()."""
    named = {name: value for name, value in (("model", model), ("backend", backend)) if value != NAMED[name]}
    given = NAMED | expanded(named | dict(settings))
    model, backend = given.pop("model"), given.pop("backend")
    own = set(OPTIONS)
    if not given.keys() <= own | ENGINE:  # of a backend of the user's own, perhaps
        own |= set(_options(backends.find(backend)))
    config = EngineConfig.of({name: value for name, value in given.items() if name not in own})
    options = {name: value for name, value in given.items() if name in own}
    return Body(model, backend, latency=latency, **options).engine(config)


def scripted(
    config: EngineConfig, *, latency: str | PathLike[str], realtime: bool | float = False, **options: Any
) -> Engine:
    """See Engine.scripted()."""
    clock: Clock = WallClock(float(realtime)) if realtime else VirtualClock()
    return Body("scripted", "scripted", latency=latency, **options).engine(config, clock=clock)


def _options(kind: Any) -> list[str]:
    """Names of all options of a backend's class."""
    return [*_keywords(getattr(kind, "load", None)), *_keywords(kind)]


def _keywords(call: Any) -> list[str]:
    """Keyword-only parameters of a class or function: the options of a backend."""
    if call is None:
        return []
    return [name for name, one in inspect.signature(call).parameters.items() if one.kind is one.KEYWORD_ONLY]
