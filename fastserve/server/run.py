"""FastServeServer: the server process. Binds the port, loads the model, serves; on SIGTERM drains and exits."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from fastserve.atomic_files import OutputError
from fastserve.engine import Engine
from fastserve.launch import Body
from fastserve.observers.named import chosen
from fastserve.server.app import create_app
from fastserve.server.config import sources
from fastserve.server.config.addresses import is_local
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http_protocol import bounded
from fastserve.server.service import Service
from fastserve.server.telemetry import logs

log = logging.getLogger("fastserve.server")

GIB = 1 << 30


class StartError(RuntimeError):
    """The server could not start; the message is shown to the user."""


class FastServeServer:
    """FastServeServer(FastServeConfig(model_name=..., port=...)).run()"""

    def __init__(self, config: FastServeConfig | None = None) -> None:
        self.config = config or FastServeConfig()

    def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C, then drains. Raises StartError."""
        config = self.config
        logs.set_up(config.log_level, config.log_format)
        for warning in sources.strays(FastServeConfig.model_fields, config.config):
            log.warning(warning)
        with _bind(config.host, config.port) as listener:
            port = listener.getsockname()[1]
            if config.state_dir is None:
                config = config.model_copy(update={"state_dir": state_folder(port)})
            try:
                observers = chosen(config.timeline, config.iterations, config.observer)
            except (OutputError, ValueError) as error:
                raise StartError(str(error)) from error
            try:
                engine = make_engine(config)
            except (ValueError, OSError, ImportError, MemoryError) as error:
                raise StartError(f"model {config.model}: {error}") from error
            with engine:
                for observer in observers:
                    engine.attach(observer)
                try:
                    app = create_app(engine, config)
                except ValueError as error:
                    raise StartError(str(error)) from error
                service: Service = app.state.service
                try:
                    listener.listen()
                except OSError as error:  # two processes may bind one port; the second one fails here
                    raise StartError(_cannot_listen(config.host, port, error)) from error
                if not is_local(config.host) and not service.auth.on:
                    log.warning(
                        "anybody who reaches %s may use this server: set --api-key, or listen at 127.0.0.1", config.host
                    )
                host = f"[{config.host}]" if ":" in config.host else config.host
                server = _Server(
                    uvicorn.Config(
                        app,
                        http=bounded(config),
                        ws="none",
                        log_config=None,
                        access_log=False,
                        lifespan="on",
                        proxy_headers=False,
                        timeout_graceful_shutdown=5,
                    ),
                    service,
                    f"{engine.start_line()}\n{embedded_note(config)}serving at http://{host}:{port} "
                    f"(page /, documentation /docs, metrics {config.metrics_endpoint})",
                )  # fmt: skip
                with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                    runner.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    """The first signal starts the drain, the second exits at once."""

    def __init__(self, config: uvicorn.Config, service: Service, banner: str) -> None:
        super().__init__(config)
        self.service = service
        self.banner = banner
        self.loop: asyncio.AbstractEventLoop | None = None
        self.draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        print(self.banner, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn skips it then; durable jobs must stay queued on disk
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.draining is None and self.loop is not None:
            self.loop.call_soon_threadsafe(self._drain)
        else:
            self.should_exit = self.force_exit = True

    def _drain(self) -> None:
        if self.draining is None:
            self.draining = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        log.info("draining: at most %g s for the requests in flight", self.service.config.drain_seconds)
        await self.service.drain()
        self.should_exit = True


def make_engine(config: FastServeConfig) -> Engine:
    """The engine that these settings describe. Raises ValueError or OSError."""

    if config.hf_token is not None:
        os.environ.setdefault("HF_TOKEN", config.hf_token.get_secret_value())
    loading: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("device", "dtype", "load_format", "max_model_len", "trust_remote_code", "native", "threads")
    }
    body = Body(
        config.model, config.backend, latency=config.latency, gpu_memory_utilization=config.gpu_memory_utilization,
        **loading,
    )  # fmt: skip
    kv, host = (None if gib is None else int(gib * GIB) for gib in (config.kv_cache_gib, config.host_cache_gib))
    return body.engine(config.engine(), kv_bytes=kv, host_bytes=host)


def embedded_note(config: FastServeConfig) -> str:
    """A note for users of the embedded model; empty for any other."""
    if config.model != "embedded" or config.backend != "torch":
        return ""
    return (
        "the embedded model is untrained: it writes seeded nonsense, for trying things out; a real one: "
        "fastserve serve --model Qwen/Qwen2.5-0.5B-Instruct\n"
    )


def state_folder(port: int) -> Path:
    """The default state_dir: in the user's home, one for each port."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "fastserve" / f"port-{port}"


def _bind(host: str, port: int) -> socket.socket:
    """Bound and not yet listening, so that a port in use is found before the model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise StartError(_cannot_listen(host, port, error)) from error
    return found


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    return f"cannot listen at {host} port {port}: {error.strerror or error}; another --port, or 0 for a free one"
