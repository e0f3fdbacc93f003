"""The part that looks names up: new addresses become upstreams, and upstreams whose address is gone are removed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter

from fastserve.gateway.call import Stage
from fastserve.gateway.core import Core

log = logging.getLogger("fastserve.gateway")

NAME: Final = "discovery"
NO_ADDRESS: Final = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
"""Of getaddrinfo: the name has none, for now. Other failures say nothing of the name, and nothing is changed then."""


class Discovery:
    """Event loop only, but for the look-up itself. found: url that was given -> the upstreams that came of it."""

    name = NAME
    router: APIRouter | None = None
    stage: Stage | None = None

    def __init__(self, gateway: Core, urls: Iterable[str], interval: float) -> None:
        self.gateway, self.interval = gateway, interval
        self.found: dict[str, set[str]] = {url: set() for url in urls}
        self.faults: dict[str, str] = {}
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for url in self.found:
            await self.look(url)
        self.task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    def status(self) -> dict[str, Any]:
        return {url: {"upstreams": sorted(names), "fault": self.faults.get(url)} for url, names in self.found.items()}

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            for url in self.found:
                await self.look(url)

    async def look(self, url: str) -> None:
        """Makes the upstreams of this name what its addresses are."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        try:
            addresses = await addresses_of(parts.hostname, parts.port or 80)
        except OSError as error:
            if self.faults.get(url) != str(error):
                log.warning("%s cannot be looked up (%s); its upstreams stay", url, error)
            self.faults[url] = str(error)
            return
        self.faults.pop(url, None)
        for name in self.found[url] - addresses.keys():
            self.found[url].discard(name)
            with contextlib.suppress(KeyError):  # somebody else has removed it
                self.gateway.upstreams.remove(name)
                log.info("upstream %s is gone: %s has that address no more", name, url)
        for name in sorted(addresses.keys() - self.found[url]):
            with contextlib.suppress(ValueError):  # it is there already, by hand or by another name
                self.gateway.upstreams.add(addresses[name], name=name, owner=NAME)
                self.found[url].add(name)
                log.info("upstream %s has come: an address of %s", name, url)


async def addresses_of(host: str, port: int) -> dict[str, str]:
    """ADDRESS:PORT -> URL; empty where the name has none. Raises OSError where that cannot be known."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in NO_ADDRESS:
            return {}
        raise
    each = sorted({str(address[0]) for *_, address in found})
    return {f"{ip}:{port}": f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}" for ip in each}


def make(gateway: Core) -> Discovery | None:
    config = gateway.config
    return Discovery(gateway, config.discover, config.discover_interval) if config.discover else None
