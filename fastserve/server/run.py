"""FastServeServer: the server process. Holds port and state folder, loads the model, serves; drains on SIGTERM.

Importing this module imports neither fastapi nor torch nor the engine: start.py refuses what it can before they are,
and what is loaded is said.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from fastserve.backends.loading import loading
from fastserve.backends.options import MODELS, OPTIONS, SECRETS
from fastserve.importing import MissingPackageError, extra
from fastserve.named_models import untrained_note
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http import logs
from fastserve.server.http.listener import StartError
from fastserve.server.start import Prepared, prepared, state_folder

if TYPE_CHECKING:
    from fastserve.engine import Engine

__all__ = ["FastServeServer", "StartError", "make_engine", "state_folder"]

GIB = 1 << 30


class FastServeServer:
    """FastServeServer(FastServeConfig(model_name=..., port=...)).run()"""

    def __init__(self, config: FastServeConfig | None = None) -> None:
        self.config = config or FastServeConfig()

    def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C, then drains. Raises StartError."""
        logs.set_up(self.config.log_level, self.config.log_format)
        with prepared(self.config) as held:
            config = held.config
            print(
                loading(config.model, config.backend, config.policy, config.device, measures=config.latency is None),
                file=sys.stderr, flush=True,
            )  # fmt: skip
            try:
                import fastserve.server.app  # what is not installed is known before the model is loaded
                import fastserve.server.http.process  # noqa: F401
            except ModuleNotFoundError as error:
                raise StartError(f"{error.name} is not installed; {extra('server')}") from error
            try:
                engine = make_engine(config)
            except (ValueError, OSError, ImportError, MemoryError) as error:
                raise StartError(f"model {config.model}: {error}") from error
            with engine:
                _serve(engine, held)


def _serve(engine: Engine, held: Prepared) -> None:
    from fastserve.server.app import create_app
    from fastserve.server.http.process import serve

    config = held.config
    for observer in held.observers:
        engine.attach(observer)
    try:
        app = create_app(engine, config, held.store)
    except (ValueError, MissingPackageError) as error:
        raise StartError(str(error)) from error
    note = untrained_note(config.model, "fastserve serve") if config.backend in MODELS else ""
    serve(app, app.state.service, held.listener, [engine.start_line(), *([note] if note else [])])


def make_engine(config: FastServeConfig) -> Engine:
    """The engine that these settings describe. Raises ValueError or OSError."""
    from fastserve.launch import Body

    if config.hf_token is not None:
        os.environ.setdefault("HF_TOKEN", config.hf_token.get_secret_value())
    options = {name: getattr(config, name) for name in OPTIONS}
    options |= {name: key.get_secret_value() for name in SECRETS if (key := options[name]) is not None}
    body = Body(config.model, config.backend, latency=config.latency, **options)
    kv, host = (None if gib is None else int(gib * GIB) for gib in (config.kv_cache_gib, config.host_cache_gib))
    return body.engine(config.engine(), kv_bytes=kv, host_bytes=host)
