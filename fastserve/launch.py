"""Launch: the way from a model, a body's name and settings to an Engine. The one module that knows engine and bodies.

with Body("embedded", "torch", dtype="float32").engine(EngineConfig(policy="las")) as engine: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from os import PathLike
from typing import Any, cast

from fastserve import backends
from fastserve.engine.backend import Backend, Profiled, Wanted
from fastserve.engine.clock import Clock, VirtualClock, WallClock
from fastserve.engine.config import EngineConfig
from fastserve.engine.engine import Engine
from fastserve.hardware import DecodePiece, Hardware, LinearLatency, Link, Memory, PrefillFit, load_hardware

DEFAULTS: dict[str, Any] = {
    "device": "auto", "dtype": "auto", "threads": None, "load_format": "auto", "max_model_len": None,
    "trust_remote_code": False, "native": "auto", "gpu_memory_utilization": 0.9,
}  # fmt: skip
"""Settings of bodies that command lines and servers have. One at its default is not handed on, so that a body that
does not know it can be chosen without naming it.
"""

PLACEHOLDER = Hardware(LinearLatency(PrefillFit(1.0, 0.0, 0.0), [DecodePiece(1, 1.0, 0.0, 0.0)]), Memory(), Link())
"""Times for a policy that reads none: nothing is measured or looked up where they are given."""


class Body:
    """A body's class and its model, loaded once: engines are made on it one after the other.

    backend: a name of fastserve.backends, module:Class or ./file.py:Class. latency: the times that policies are told, a
    preset or file (None: a stored profile, else what the body says). options: settings of the body itself.

    Raises ValueError for what it does not have, and what loading raises.
    """

    def __init__(
        self, model: Any = "embedded", backend: str = "torch", *, latency: str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        given = None if latency is None else load_hardware(latency)  # a wrong name is known before a model is loaded
        self.name = backends.checked(backend)
        self.kind = backends.find(backend)
        self.given = given
        options = {name: value for name, value in options.items() if name not in DEFAULTS or value != DEFAULTS[name]}
        load = getattr(self.kind, "load", None)
        loading, making = _keywords(load), _keywords(self.kind)
        for name in options:
            if name not in (*loading, *making):
                valid = ", ".join([*loading, *making]) or "none"
                raise ValueError(f"backend {self.name} has no setting {name}; it has {valid}")
        self.options = {name: value for name, value in options.items() if name in making}
        own = {name: value for name, value in options.items() if name in loading}
        self.model = load(model, **own) if load is not None and isinstance(model, str | PathLike) else model

    def backend(
        self, config: EngineConfig, hardware: Hardware | None = None, *, kv_bytes: int | None = None,
        host_bytes: int | None = None,
    ) -> Backend:  # fmt: skip
        """A fresh object of the body. hardware: its times, in place of the given, a stored profile or a measurement."""
        wanted = Wanted(
            config.block_tokens, config.kv_tokens, config.host_tokens, kv_bytes, host_bytes,
            config.residency in ("reactive", "proactive"), config.max_batch,
        )  # fmt: skip
        hardware = hardware or self.given
        made = cast(Backend, self.kind(self.model, wanted, hardware, **self.options))
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
        return Engine(self.backend(config, hardware, kv_bytes=kv_bytes, host_bytes=host_bytes), config, clock)


def profiled(body: Body, config: EngineConfig) -> Profiled:
    """A fresh object of the body, to be measured. ValueError for a body whose times cannot be."""
    made = body.backend(config, PLACEHOLDER)
    if not hasattr(made, "facts"):
        raise ValueError(f"backend {body.name} cannot be profiled: its times are given, or not its own")
    return cast(Profiled, made)


def on_model(
    model: Any, config: EngineConfig, *, hardware: Hardware | None = None, clock: Clock | None = None
) -> Engine:
    """An engine on a loaded model of backends.torch. hardware: its times, in place of a stored profile or a warm-up."""
    return Body(model).engine(config, hardware, clock=clock)


def scripted(
    config: EngineConfig, *, latency: str | PathLike[str], realtime: bool | float = False, **options: Any
) -> Engine:
    """See Engine.scripted()."""
    clock: Clock = WallClock(float(realtime)) if realtime else VirtualClock()
    return Body("scripted", "scripted", latency=latency, **options).engine(config, clock=clock)


def _keywords(call: Any) -> list[str]:
    """The keyword-only parameters of a class or function: a body's own settings."""
    if call is None:
        return []
    return [name for name, one in inspect.signature(call).parameters.items() if one.kind is one.KEYWORD_ONLY]
