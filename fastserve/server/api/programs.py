"""Routes of programs and of the prefix cache: one that has ended, and one that is emptied, by our and others' names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from fastserve.server.api.body import BodyRoute
from fastserve.server.api.dependencies import service_of
from fastserve.server.api.errors import ApiError, error_responses
from fastserve.server.api.program_names import name_of, read_by
from fastserve.server.api.unknown_fields import check_query
from fastserve.server.http.auth import may_administer
from fastserve.server.service import Service

Answer = TypeVar("Answer")

router = APIRouter(route_class=BodyRoute, tags=["Programs and prefixes"])
REFUSALS = error_responses(400, 401, 503)
RESETS = error_responses(400, 401, 403, 503)


EMPTY = "it is empty; name the program that has ended"


class Release(BaseModel):
    model_config = ConfigDict(extra="forbid")
    program_id: Annotated[str | None, read_by(name_of)] = Field(validation_alias=AliasChoices("program_id", "program"))

    @model_validator(mode="before")
    @classmethod
    def _once(cls, body: Any) -> Any:
        if isinstance(body, dict) and {"program_id", "program"} <= body.keys():
            raise ValueError("program_id and program are one field: send one of them")
        return body


class Released(TypedDict):
    program_id: str
    released: bool


class Over(TypedDict):
    program: str
    released: bool


class Success(TypedDict):
    success: bool


class Emptied(TypedDict):
    emptied: bool


@router.post("/programs/release", responses=REFUSALS)
async def release(request: Request, body: Release) -> Released:
    """ThunderAgent's name for DELETE /programs/{program}."""
    if body.program_id is None:
        raise ApiError(400, f"program_id: {EMPTY}")
    return {"program_id": body.program_id, "released": await _end(request, body.program_id)}


@router.delete("/programs/{program:path}", responses=REFUSALS)
async def end_program(request: Request, program: str) -> Over:
    """Nothing of this program follows: what is kept for it may go. Its requests that live go on; a later one of this
    name is a program of its own."""
    try:
        name = name_of(program)
    except ValueError as error:
        raise ApiError(400, f"the program's name: {error}") from None
    if name is None:
        raise ApiError(400, f"the program's name: {EMPTY}")
    return {"program": name, "released": await _end(request, name)}


async def _end(request: Request, name: str) -> bool:
    """True: the engine need not know a program to be told that nothing of it follows."""
    service = service_of(request)
    program = service.programs.ended(request.scope["state"].get("client"), name)
    if program:  # else it was a subagent's session, whose program goes on
        await _ask(service, partial(service.engine.end_program, program))
    return True


@router.post("/reset_prefix_cache", responses=RESETS)
async def reset_prefix_cache(
    request: Request,
    reset_running_requests: Annotated[
        bool, Query(description="must be false: requests that run keep their KV")
    ] = False,
    reset_external: Annotated[bool, Query(description="also what is on the host: it always goes, too")] = False,
) -> Success:
    """vLLM's name for DELETE /prefix_cache. `success` is false while requests hold some of it: ask again later."""
    check_query(request, ("reset_running_requests", "reset_external"))
    if reset_running_requests:
        raise ApiError(400, "reset_running_requests: requests that run keep their KV; leave it out, and ask again once "
                            "they have ended", param="reset_running_requests")  # fmt: skip
    return {"success": await _empty(request)}


@router.delete("/prefix_cache", responses=RESETS)
async def empty_prefix_cache(request: Request) -> Emptied:
    """What no request holds is forgotten. `emptied` is false while live requests hold some, which others still find."""
    return {"emptied": await _empty(request)}


async def _empty(request: Request) -> bool:
    """Whether nothing is left."""
    service = service_of(request)
    if not may_administer(request.scope, service.config.admin_clients):
        raise ApiError(403, "the prefix cache is every client's: only those of --admin-clients may empty it")
    return await _ask(service, service.engine.reset_prefix_cache)


async def _ask(service: Service, call: Callable[[], Answer]) -> Answer:
    """The engine answers between two iterations. Raises ApiError 503 where it has stopped."""
    service.check_open(None)
    try:
        return await asyncio.to_thread(call)
    except RuntimeError as error:
        raise ApiError(503, str(error)) from error
