"""Which conversation a request means, and its history.

Whose it is: with tokens on, the token's client's; nobody else's key can be equal, so that an id alone opens nothing.
Without tokens whoever knows the id has the conversation, as there is nobody to tell apart: then ids are not listed
whole, and one that cannot be guessed comes from POST /conversations.
"""

from __future__ import annotations

from typing import Any

from fastserve.gateway.conversations.history import History
from fastserve.gateway.conversations.store import Key, Store
from fastserve.server.api.errors import ApiError
from fastserve.server.api.program_names import name_of

FIELD, HEADER = "session_id", "X-Session-Id"
AWAY_S = 5.0
"""Seconds after which a request may find the store again that was away."""


def owner(client: str | None) -> str:
    """Whose conversations a request sees. client: of its token, None without one."""
    return "" if client is None else f"client {client}"


def checked(id: Any) -> str:
    """Raises ApiError 400."""
    try:
        found = name_of(id)
    except ValueError as error:
        raise ApiError(400, f"{FIELD}: {error}", param=FIELD) from None
    if found is None or not found.isprintable():
        raise ApiError(400, f"{FIELD}: it must have a character, and printable ones alone", param=FIELD)
    return found


async def read(store: Store, key: Key) -> History | None:
    """Raises ApiError 503."""
    try:
        data = await store.get(key)
    except ConnectionError as error:
        raise away(error) from error
    return None if data is None else History.from_json(data)


def away(error: Exception) -> ApiError:
    return ApiError(503, f"the conversation cannot be read: {error}", retry_after=AWAY_S)
