"""Routes of programs and of the prefix cache: one that has ended, and one that is emptied, by our and others' names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from fastserve.server.api.body import BodyRoute
from fastserve.server.api.dependencies import service_of
from fastserve.server.api.errors import ApiError, error_responses
from fastserve.server.api.fields import MAX_NAME
from fastserve.server.api.program_names import name_of, read_by
from fastserve.server.api.unknown_fields import check_query
from fastserve.server.service import Service

Answer = TypeVar("Answer")

router = APIRouter(route_class=BodyRoute, tags=["Programs and prefixes"])
REFUSALS = error_responses(400, 401, 503)
RESETS = error_responses(400, 401, 403, 503)


class Release(BaseModel):
    model_config = ConfigDict(extra="forbid")
    program_id: Annotated[str | None, read_by(name_of)] = Field(validation_alias=AliasChoices("program_id", "program"))


class Released(TypedDict):
    program_id: str
    released: bool


class Ended(TypedDict):
    program: str
    ended: bool


class Success(TypedDict):
    success: bool


class Emptied(TypedDict):
    emptied: bool
    forgotten_tokens: int


@router.post("/programs/release", responses=REFUSALS)
async def release(request: Request, body: Release) -> Released:
    """ThunderAgent's name for DELETE /programs/{program}."""
    if body.program_id is None:
        raise ApiError(400, "program_id: it is empty; name the program that has ended")
    return {"program_id": body.program_id, "released": await _end(request, body.program_id)}


@router.delete("/programs/{program:path}", responses=REFUSALS)
async def end_program(request: Request, program: str) -> Ended:
    """Nothing of this program follows: what is kept for it may go. Its requests that live go on; a later one of this
    name is a program of its own."""
    if len(program) > MAX_NAME:
        raise ApiError(400, f"the program's name has {len(program)} characters; at most {MAX_NAME} are known")
    return {"program": program, "ended": await _end(request, program)}


async def _end(request: Request, name: str) -> bool:
    """Whether there was such a program."""
    service = service_of(request)
    client = request.scope["state"].get("client")
    program = service.programs.ended(client, name)
    if not program:  # a subagent's session: the program goes on
        return True
    return bool(await _ask(service, partial(service.engine.end_program, program)))


@router.post("/reset_prefix_cache", responses=RESETS)
async def reset_prefix_cache(
    request: Request,
    reset_running_requests: Annotated[
        bool, Query(description="also what running requests hold: they compute it again")
    ] = False,
    reset_external: Annotated[bool, Query(description="also what is on the host")] = False,
) -> Success:
    """vLLM's name for DELETE /prefix_cache, which always empties the host's part too."""
    check_query(request, ("reset_running_requests", "reset_external"))
    await _empty(request)
    return {"success": True}


@router.delete("/prefix_cache", responses=RESETS)
async def empty_prefix_cache(request: Request) -> Emptied:
    """Nothing that is in the prefix cache is found from here on; requests that run keep their own KV."""
    return {"emptied": True, "forgotten_tokens": await _empty(request)}


async def _empty(request: Request) -> int:
    """Tokens that have gone."""
    service = service_of(request)
    client = request.scope["state"].get("client")
    if client is not None and client not in service.config.admin_clients:
        raise ApiError(403, "the prefix cache is every client's: only those of --admin-clients may empty it")
    return int(await _ask(service, service.engine.reset_prefix_cache))


async def _ask(service: Service, call: Callable[[], Answer]) -> Answer:
    """The engine answers between two iterations. Raises ApiError 503 where it has stopped."""
    service.check_open(None)
    try:
        return await asyncio.to_thread(call)
    except RuntimeError as error:
        raise ApiError(503, str(error)) from error
