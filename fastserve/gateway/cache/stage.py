"""CacheStage: where calls meet the cache. Part of a gateway with --cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from fastserve.cache_folder import cache_folder
from fastserve.gateway.cache import canonical, entry
from fastserve.gateway.cache.entry import Entry
from fastserve.gateway.cache.guarded import ANSWER_S, Guarded
from fastserve.gateway.cache.metrics import CacheMetrics
from fastserve.gateway.cache.settings import LOCAL, CacheSettings
from fastserve.gateway.call import Call, Next, Stage, closed, leave
from fastserve.gateway.wire.passed import BrokenOffError
from fastserve.server.api.errors import ApiError

if TYPE_CHECKING:
    from fastserve.gateway.cache.store import Store
    from fastserve.gateway.core import Core

MOST_BYTES = 4 << 20
"""Of an answer that is kept."""

MOST_RECORDING = 64 << 20
"""Of streams that are being recorded; further ones are not."""

Outcome = Literal["hit", "miss", "bypass"]


class CacheStage:
    """gateway: whose upstreams serve the models."""

    name = "cache"

    def __init__(self, gateway: Core, store: Store, scope: str) -> None:
        self.gateway = gateway
        self.store = Guarded(store)
        self.scope = scope
        self.counts: dict[Outcome, int] = {"hit": 0, "miss": 0, "bypass": 0}
        self.stored = 0
        self.held = {"entries": 0, "bytes": 0}
        self.recording = 0
        self.identities: dict[str, str] = {}
        self.flights: dict[bytes, asyncio.Future[Entry | None]] = {}  # of plain requests
        self.stage: Stage | None = self.pass_through
        self.router: APIRouter | None = APIRouter(tags=["Cache"])
        self.router.add_api_route("/gateway/cache", self.show, methods=["GET"])
        self.router.add_api_route("/gateway/cache", self.empty, methods=["DELETE"])
        self._look: asyncio.Task[None] | None = None
        gateway.telemetry.registry.register(CacheMetrics(self.status))

    # -- a part of the gateway -------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._look = asyncio.create_task(self._looks())

    async def stop(self) -> None:
        if self._look is not None:
            self._look.cancel()
        await self.store.close()

    def status(self) -> dict[str, Any]:
        return {
            "kind": self.store.store.name, "scope": self.scope, "hits": self.counts["hit"],
            "misses": self.counts["miss"], "bypassed": self.counts["bypass"], "stored": self.stored,
            "dropped": self.store.dropped, "errors": self.store.errors, **self.held,
        }  # fmt: skip

    async def show(self) -> dict[str, Any]:
        """What the cache holds, and what it was good for."""
        await self._count()
        return self.status()

    async def empty(self, request: Request) -> dict[str, Any]:
        """Forgets all answers, of all clients."""
        gateway = self.gateway
        if gateway.auth.on and request.scope["state"].get("client") not in gateway.config.admin_clients:
            raise ApiError(403, "the cache is every client's: with tokens only those of --admin-clients may empty it")
        if not await self.store.clear():
            raise ApiError(503, "the cache does not answer; see the log", retry_after=5)
        return await self.show()

    async def _looks(self) -> None:
        while True:
            await self._count()
            await asyncio.sleep(5)

    async def _count(self) -> None:
        if (held := await self.store.held()) is not None:
            self.held = held._asdict()

    # -- calls -----------------------------------------------------------------------------------------------------

    async def pass_through(self, call: Call, following: Next) -> Response:
        control = _words(call.headers.get("cache-control", ""))
        asked = canonical.asked(call.path, call.fields)
        model = call.model or self.gateway.default_model
        if asked is None or not model or "no-store" in control:
            return self._told(await following(call), "bypass", call.path in canonical.FAMILIES)
        scope = "" if self.scope == "shared" else f"{int(call.authenticated)}:{call.client}"

        known = self._identity(model)

        def key_now() -> bytes:
            """What serves a model that has never been loaded is known once it answers."""
            return canonical.key(asked, model, known or self._identity(model), scope)

        try:
            key = key_now()
        except RecursionError:
            return self._told(await following(call), "bypass")
        oldest = _oldest(control)
        if oldest > 0 and (hit := await self._found(key, oldest)) is not None:
            return hit
        flight = None if asked.stream else self.flights.get(key)
        if flight is not None and oldest > 0:  # the same is on its way: if that fails, each goes on by itself
            kept = await asyncio.shield(flight)
            if kept is not None:
                self.counts["hit"] += 1
                return entry.replayed(kept, 0.0)
        if asked.stream:
            return self._told(self._recorded(await following(call), key_now), "miss")
        own = asyncio.get_running_loop().create_future()
        self.flights.setdefault(key, own)
        kept = None
        try:
            response, kept = await self._kept(await following(call), key_now)
            return self._told(response, "miss")
        finally:
            if self.flights.get(key) is own:
                del self.flights[key]
            own.set_result(kept)

    async def _found(self, key: bytes, oldest: float) -> Response | None:
        found = await self.store.get(key)
        if found is None or found[1] > oldest:
            return None
        self.counts["hit"] += 1
        return entry.replayed(*found)

    async def _kept(self, response: Response, key_now: Callable[[], bytes]) -> tuple[Response, Entry | None]:
        """A whole answer, and what is kept of it, where it is complete."""
        key = key_now()
        if not self._may_keep(response, "application/json"):
            return response, None
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > MOST_BYTES:
            return response, None
        try:
            body = await _beginning(response)
        except BrokenOffError as error:
            raise ApiError(502, str(error)) from error
        if body is None:
            return response, None
        kept = entry.plain("application/json", body)
        self._keep(key, kept)
        plain = Response(body, response.status_code)
        plain.raw_headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
        plain.raw_headers.append((b"content-length", b"%d" % len(body)))
        return plain, kept

    def _recorded(self, response: Response, key_now: Callable[[], bytes]) -> Response:
        """A stream, recorded as it passes; kept when it has ended well."""
        if isinstance(response, StreamingResponse) and self._may_keep(response, "text/event-stream"):
            response.body_iterator = self._recording(response.body_iterator, key_now())
        return response

    async def _recording(self, parts: AsyncIterable[Any], key: bytes) -> AsyncIterator[Any]:
        record: bytearray | None = bytearray()
        held = 0
        try:
            async for part in parts:
                if record is not None:
                    data = part.encode() if isinstance(part, str) else bytes(part)
                    if held + len(data) > MOST_BYTES or self.recording + len(data) > MOST_RECORDING:
                        record = None
                        self.recording -= held
                        held = 0
                    else:
                        record += data
                        held += len(data)
                        self.recording += len(data)
                yield part
            if record is not None:
                self._keep(key, entry.streamed("text/event-stream", bytes(record)))
        finally:
            self.recording -= held
            await closed(parts)

    def _keep(self, key: bytes, kept: Entry | None) -> None:
        if kept is not None:
            self.stored += 1
            self.store.put(key, kept)

    def _may_keep(self, response: Response, kind: str) -> bool:
        said = response.headers
        return (
            response.status_code == 200
            and said.get("content-type", "").startswith(kind)
            and said.get("content-encoding", "identity") == "identity"
            and not {"no-store", "private"} & _words(said.get("cache-control", "")).keys()
        )

    def _told(self, response: Response, outcome: Outcome, counts: bool = True) -> Response:
        if counts:
            self.counts[outcome] += 1
            response.headers["X-Cache"] = outcome
        return response

    def _identity(self, model: str) -> str:
        """What serves the model, as far as it says: other software behind the same name is another model.

        Of a model that nothing serves now, what it was.
        """
        kinds = {each.kind for each in self.gateway.upstreams.having(model) if model in each.models}
        if kinds:
            self.identities[model] = ",".join(sorted(kinds))
        return self.identities.get(model, "")


async def _beginning(response: Response) -> bytes | None:
    """The whole body; None for one that is too long to be kept, which is then passed on as it comes."""
    if not isinstance(response, StreamingResponse):
        return bytes(response.body) if len(response.body) <= MOST_BYTES else None
    parts = response.body_iterator
    body = bytearray()
    ended = False
    try:
        async for each in parts:
            body += each.encode() if isinstance(each, str) else each
            if len(body) > MOST_BYTES:
                response.body_iterator = _with_rest(bytes(body), parts)
                ended = True
                return None
    finally:
        if not ended:
            await leave(response)
    return bytes(body)


async def _with_rest(first: bytes, parts: AsyncIterable[Any]) -> AsyncIterator[Any]:
    try:
        yield first
        async for each in parts:
            yield each
    finally:
        await closed(parts)


def part(gateway: Core) -> CacheStage | None:
    """For app.PARTS. Raises ValueError or MissingPackageError."""
    config = gateway.config
    return None if config.cache is None else CacheStage(gateway, store_of(config), config.cache_scope)


def store_of(config: CacheSettings) -> Store:
    """Raises ValueError or MissingPackageError."""
    assert config.cache is not None
    if config.cache == "memory":
        from fastserve.gateway.cache.memory import MemoryStore

        return MemoryStore(config.cache_size, config.cache_ttl)
    if config.cache == "disk":
        import sqlite3

        from fastserve.gateway.cache.disk import DiskStore

        folder = config.cache_dir or cache_folder() / "answers"
        try:
            return DiskStore(folder, config.cache_size, config.cache_ttl)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"the cache's folder {folder} cannot be used: {error}; give another --cache-dir"
            ) from error
    from fastserve.gateway.cache.redis import RedisStore

    url = LOCAL if config.cache == "redis" else config.cache
    return RedisStore(url, config.cache_size, config.cache_ttl, ANSWER_S)


def _words(header: str) -> dict[str, str]:
    """Cache-Control: directive -> its value."""
    found = {}
    for each in header.split(","):
        name, _, value = each.strip().partition("=")
        if name:
            found[name.lower()] = value.strip('"')
    return found


def _oldest(control: dict[str, str]) -> float:
    """The age in s up to which an answer will do; 0 for a fresh one."""
    if "no-cache" in control:
        return 0.0
    most = control.get("max-age", "")
    return float(most) if most.isdecimal() and len(most) < 12 else float("inf")
