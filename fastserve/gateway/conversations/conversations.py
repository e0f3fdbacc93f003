"""Conversations: the gateway's part that adds to a chat what was said before, and keeps what is said."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.responses import Response

from fastserve.gateway.call import Call, Next
from fastserve.gateway.conversations import api
from fastserve.gateway.conversations.asked import FIELD, HEADER, away, checked, owner, read
from fastserve.gateway.conversations.history import Bounds, History, fitting, joined
from fastserve.gateway.conversations.kept import kept
from fastserve.gateway.conversations.settings import MEMORY, OFF, ConversationsSettings
from fastserve.gateway.conversations.store import Key, MemoryStore, Store
from fastserve.gateway.conversations.turns import Turns, shown
from fastserve.server.api.errors import ApiError

if TYPE_CHECKING:
    from fastserve.gateway.core import Core

log = logging.getLogger("fastserve.gateway")

TURNS, CUT = "X-Conversation-Turns", "X-Conversation-Cut"
CHATS = ("/v1/chat/completions", "/chat/completions", "/chat")
NOT_A_CHAT = f"{FIELD}: conversations are kept of chats: use /v1/chat/completions or /chat, or leave it out"
TOO_LONG = "{:,} bytes are more than a conversation has ({:,}): send less, or raise --conversation-max-kib"
WAIT_S = 120.0
"""Seconds for which a turn waits for the one before."""


class Conversations:
    """store: its own, if it is not the one of the settings."""

    name = "conversations"

    def __init__(self, settings: ConversationsSettings, store: Store | None = None, wait: float = WAIT_S) -> None:
        self.bounds = Bounds(settings.conversation_max_turns, round(settings.conversation_max_kib * 1024))
        self.by_header = settings.conversations is not None
        self.store = store or opened(settings)
        self.turns = Turns(self.store, wait)
        self.router: APIRouter | None = api.router_of(self.store)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        await self.store.close()

    def status(self) -> dict[str, Any]:
        where = "memory" if isinstance(self.store, MemoryStore) else "redis"
        found: dict[str, Any] = {"kept_in": where, "turns_running": len(self.turns.places)}
        if isinstance(self.store, MemoryStore):
            found |= self.store.counted()
        return found

    # -- the stage ---------------------------------------------------------------------------------------------------

    async def stage(self, call: Call, following: Next) -> Response:
        """Raises ApiError 400, 409 and 503."""
        id = self.asked(call)
        if id is None:
            return await following(call)
        fields: dict[str, Any] = call.fields or {}
        key = Key(owner(call.client if call.authenticated else None), id)
        if len(call.body) > self.bounds.size:
            if FIELD not in fields:
                return await following(call)  # an agent's, which sends all its messages itself
            raise ApiError(413, TOO_LONG.format(len(call.body), self.bounds.size), param=FIELD)
        messages: Any = fields.get("messages")
        call.rewrite(**{FIELD: None})
        call.headers = named(call.headers, key)
        if not are_messages(messages):
            return await following(call)  # the upstream says what is wrong with them
        if (fields.get("n") or 1) != 1:
            raise ApiError(400, f"n: a turn of a conversation has one answer; leave out n or {FIELD}", param="n")
        try:
            turn = await self.turns.begin(key)
        except ConnectionError as error:
            raise away(error) from error
        try:
            before = await read(self.store, key)
            whole = joined(before, messages)
            call.rewrite(messages=whole)

            async def keep(answer: Mapping[str, Any]) -> None:
                await self._keep(key, before, [*whole, answer])

            response = await following(call)
            said = {TURNS: str(0 if before is None else before.turns), HEADER: id}
            if before is not None and before.cut:
                said[CUT] = str(before.cut)
            response.headers.update({name: value for name, value in said.items() if value.isascii()})
            return await kept(response, turn, self.bounds.size, keep)
        except BaseException:
            turn.end()
            raise

    def asked(self, call: Call) -> str | None:
        """The id of its conversation; None where it has none. Raises ApiError 400."""
        told = (call.fields or {}).get(FIELD)
        chat = call.path in CHATS
        if told is None and self.by_header and chat:
            told = call.headers.get(HEADER)
        if told is None:
            return None
        if not chat:
            raise ApiError(400, NOT_A_CHAT, param=FIELD)
        return checked(told)

    async def _keep(self, key: Key, before: History | None, whole: list[Mapping[str, Any]]) -> None:
        """Not where it was deleted meanwhile. An answer that is under way is not spoilt by a store that is away."""
        now = time.time()
        messages, cut = fitting(whole, self.bounds)
        made = now if before is None else before.created
        after = History(
            id=key.id, messages=messages, cut=cut + (before.cut if before else 0), created=made, updated=now
        )
        try:
            if before is None or await self.store.get(key) is not None:
                await self.store.put(key, after.to_json())
        except ConnectionError as error:
            log.error("a turn of conversation %s is lost: %s", shown(key.id), error)


def opened(settings: ConversationsSettings) -> Store:
    """Raises MissingPackageError, ValueError."""
    where = settings.conversations or MEMORY
    ttl, most = settings.conversation_ttl_seconds, round(settings.conversations_max_mib * (1 << 20))
    if where == MEMORY:
        return MemoryStore(ttl, most)
    from fastserve.gateway.conversations.redis_store import RedisStore

    return RedisStore(where, ttl, most)


def make(gateway: Core) -> Conversations | None:
    """The gateway's part; None where conversations are off."""
    return None if gateway.config.conversations == OFF else Conversations(gateway.config)


def named(headers: Headers, key: Key) -> Headers:
    """The conversation is a program for the router and the upstream, by a name that does not tell its id."""
    name = HEADER.lower().encode()
    kept = [pair for pair in headers.raw if pair[0].lower() != name]
    return Headers(raw=[*kept, (name, key.digest.hex().encode())])


def are_messages(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages)
    )
