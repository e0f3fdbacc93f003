"""FastServeServer: a process that serves. It binds its port first, loads the model, serves, drains and ends."""

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

from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from fastserve.server.app import create_app
from fastserve.server.config import sources
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.service import Service
from fastserve.server.telemetry import logs

log = logging.getLogger("fastserve.server")

GIB = 1 << 30
LOCAL = ("127.0.0.1", "localhost", "::1")


class StartError(RuntimeError):
    """The server could not start; the message is for its user."""


class FastServeServer:
    """FastServeServer(FastServeConfig(model_name=..., port=...)).run()"""

    def __init__(self, config: FastServeConfig | None = None) -> None:
        self.config = config or FastServeConfig()

    def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C and drained. Raises StartError."""
        config = self.config
        logs.set_up(config.log_level, config.log_format)
        for warning in sources.strays(config.config):
            log.warning(warning)
        with _bound(config.host, config.port) as listener:
            port = listener.getsockname()[1]
            if config.state_dir is None:
                config = config.model_copy(update={"state_dir": state_folder(port)})
            try:
                engine = make_engine(config)
            except (ValueError, OSError, ImportError, MemoryError) as error:
                raise StartError(f"model {config.model}: {error}") from error
            with engine:
                try:
                    app = create_app(engine, config)
                except ValueError as error:
                    raise StartError(str(error)) from error
                service: Service = app.state.service
                try:
                    listener.listen()
                except OSError as error:  # two that were bound to one port: who listens first has it
                    raise StartError(_taken(config.host, port, error)) from error
                if config.host not in LOCAL and not service.auth.on:
                    log.warning(
                        "anybody who reaches %s may use this server: set --api-key, or listen at 127.0.0.1", config.host
                    )
                host = f"[{config.host}]" if ":" in config.host else config.host
                server = _Server(
                    uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=5),
                    service,
                    f"{engine.start_line()}\n{advice(config)}serving at http://{host}:{port} "
                    f"(page /, documentation /docs, metrics {config.metrics_endpoint})",
                )
                with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                    runner.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    """The first signal drains, the second ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service, greeting: str) -> None:
        super().__init__(config)
        self.service = service
        self.greeting = greeting
        self.loop: asyncio.AbstractEventLoop | None = None
        self.draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        print(self.greeting, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would leave the app as it is: durable jobs must be left queued on disk
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.draining is None and self.loop is not None:
            self.loop.call_soon_threadsafe(self._drain)
        else:
            self.should_exit = self.force_exit = True

    def _drain(self) -> None:
        if self.draining is None:
            self.draining = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        log.info("draining: at most %g s for the requests under way", self.service.config.drain_seconds)
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
    names = (
        "policy", "max_batch", "batching", "token_budget", "residency", "visit", "kv_tokens", "host_tokens",
        "predictor", "queue_capacity", "flight_log", "seed",
    )  # fmt: skip
    serving: dict[str, Any] = {name: getattr(config, name) for name in names} | {"knobs": config.knobs}
    chosen = EngineConfig.of(serving)
    body = Body(
        config.model, config.backend, latency=config.latency, gpu_memory_utilization=config.gpu_memory_utilization,
        **loading,
    )  # fmt: skip
    kv, host = (None if gib is None else int(gib * GIB) for gib in (config.kv_cache_gib, config.host_cache_gib))
    return body.engine(chosen, kv_bytes=kv, host_bytes=host)


def advice(config: FastServeConfig) -> str:
    """For the embedded model: what it is, and how to serve a real one."""
    if config.model != "embedded":
        return ""
    return (
        "the embedded model is untrained: it writes seeded nonsense, for trying things out; a real one: "
        "fastserve serve --model Qwen/Qwen2.5-0.5B-Instruct\n"
    )


def state_folder(port: int) -> Path:
    """The user's own, one for each port."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "fastserve" / f"port-{port}"


def _bound(host: str, port: int) -> socket.socket:
    """Bound and not yet listening: a port that is taken is known before the model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise StartError(_taken(host, port, error)) from error
    return found


def _taken(host: str, port: int, error: OSError) -> str:
    return f"cannot listen at {host} port {port}: {error.strerror or error}; another --port, or 0 for a free one"
