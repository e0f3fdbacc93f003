"""Routes of conversations: a new id, the list of one's own, one of them whole, and its end."""

from __future__ import annotations

import json
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from typing_extensions import TypedDict

from fastserve.gateway.conversations.asked import away, checked, owner, read
from fastserve.gateway.conversations.store import Key, Store
from fastserve.server.api.errors import ApiError, error_responses

MOST_LISTED = 1000
LETTERS = 4
"""Letters of an id that a list shows where there are no tokens: who knows an id has the conversation."""


class NewConversation(TypedDict):
    session_id: str


class ConversationSummary(TypedDict):
    """Times: s since the epoch. cut: messages that were left out so far."""

    session_id: str
    turns: int
    messages: int
    bytes: int
    cut: int
    created: float
    updated: float


class ConversationList(TypedDict):
    conversations: list[ConversationSummary]


class Conversation(TypedDict):
    session_id: str
    turns: int
    messages: list[dict[str, Any]]
    bytes: int
    cut: int
    created: float
    updated: float


class Deleted(TypedDict):
    session_id: str
    deleted: bool


def router_of(store: Store) -> APIRouter:
    router = APIRouter(tags=["Conversations"])

    def key_of(request: Request, id: str) -> Key:
        return Key(owner(request.scope["state"].get("client")), checked(id))

    @router.post("/conversations", status_code=201, responses=error_responses(401))
    async def new_conversation() -> NewConversation:
        """An id that nobody guesses; the conversation begins with its first turn."""
        return {"session_id": secrets.token_urlsafe(24)}

    @router.get("/conversations", responses=error_responses(401, 503))
    async def list_conversations(
        request: Request, limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100
    ) -> ConversationList:
        """The client's own, the newest first. Without tokens ids are shortened."""
        client = request.scope["state"].get("client")
        try:
            found = await store.of(owner(client), limit)
        except ConnectionError as error:
            raise away(error) from error
        listed = [{**json.loads(each.line), "bytes": each.size} for each in found]
        if client is None:
            listed = [{**each, "session_id": f"{each['session_id'][:LETTERS]}…"} for each in listed]
        return {"conversations": listed}  # type: ignore[typeddict-item]

    @router.get("/conversations/{session_id:path}", responses=error_responses(401, 404, 503))
    async def get_conversation(request: Request, session_id: Annotated[str, Path()]) -> Conversation:
        """Its messages, and how many were cut."""
        key = key_of(request, session_id)
        history = await read(store, key)
        if history is None:
            raise unknown()
        size = len(history.to_json())
        return {**history.summary(), "bytes": size, "messages": list(history.messages)}  # type: ignore[typeddict-item]

    @router.delete("/conversations/{session_id:path}", responses=error_responses(401, 404, 503))
    async def delete_conversation(request: Request, session_id: Annotated[str, Path()]) -> Deleted:
        """A turn that is under way is answered and not kept."""
        key = key_of(request, session_id)
        try:
            deleted = await store.delete(key)
        except ConnectionError as error:
            raise away(error) from error
        if not deleted:
            raise unknown()
        return {"session_id": session_id, "deleted": True}

    return router


def unknown() -> ApiError:
    return ApiError(404, "there is no such conversation: it has ended, or was never kept here")
