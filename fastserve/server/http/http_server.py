"""HttpServer: uvicorn, but a first signal starts the drain and says what it waits for, and a second one ends it."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType

import uvicorn

from fastserve.server.http.served import Served

log = logging.getLogger("fastserve.server")

FLUSH_S = 4.0
"""Seconds that open responses may take to reach clients that read slowly, once their requests have ended."""

GRACE_S = 6
"""Seconds after which uvicorn cancels what has not even noticed that it was cut off."""

IDLE_FLUSH_S = 0.3
"""The same where no request was running: what is still open then never was a whole request."""

TOLD_S = 5.0
"""Seconds between two lines about what is still waited for."""


class HttpServer(uvicorn.Server):
    """banner: printed when it listens."""

    def __init__(self, config: uvicorn.Config, service: Served, banner: str) -> None:
        super().__init__(config)
        self.service = service
        self.banner = banner
        self.loop: asyncio.AbstractEventLoop | None = None
        self.draining: asyncio.Task[None] | None = None
        self.flush_s = FLUSH_S

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        print(self.banner, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        hanging_up = asyncio.ensure_future(self._hang_up())
        await super().shutdown(sockets)
        hanging_up.cancel()
        if self.force_exit:  # uvicorn skips it then; durable jobs must stay queued on disk
            await self.lifespan.shutdown()

    async def _hang_up(self) -> None:
        """Whoever is still connected then is cut off, which its handler takes for a client that has left."""
        await asyncio.sleep(self.flush_s)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.draining is None and self.loop is not None:
            self.loop.call_soon_threadsafe(self._drain)
        else:
            self.should_exit = self.force_exit = True

    def _drain(self) -> None:
        if self.draining is None:
            self.draining = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        service = self.service
        running = service.load
        if running:
            log.warning("draining: %s; Ctrl-C or SIGTERM again ends now", self._waits(service.config.drain_seconds))
        else:
            log.info("draining: no request is running")
        if service.stored:
            log.info("%d durable jobs stay queued and are resumed at the next start", service.stored)
        if not running:
            self.flush_s = IDLE_FLUSH_S
        telling = asyncio.ensure_future(self._tell())
        try:
            await service.drain()
        finally:
            telling.cancel()
        self.should_exit = True

    def _waits(self, seconds: float) -> str:
        running = self.service.load
        return f"waiting for {running} running request{'s' * (running != 1)}, at most {seconds:g} s"

    async def _tell(self) -> None:
        """What is still waited for, now and then."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.service.config.drain_seconds
        while True:
            await asyncio.sleep(TOLD_S)
            if self.service.load:
                log.warning("draining: still %s", self._waits(max(0.0, round(until - loop.time()))))
