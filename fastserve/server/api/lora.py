"""vLLM's routes for adapters that come and go while the server runs. Off unless lora_dir names where they may be."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse, Response

from fastserve.engine.adapters import AdapterInUseError, UnknownAdapterError, check_name
from fastserve.server.api.body import BodyRoute
from fastserve.server.api.dependencies import service_of
from fastserve.server.api.errors import ApiError, error_responses
from fastserve.server.http.auth import may_administer
from fastserve.server.service import Service

log = logging.getLogger("fastserve.server")

router = APIRouter(route_class=BodyRoute, tags=["Adapters"])
REFUSALS = error_responses(400, 401, 403, 404, 503, openai=True)


class LoadAdapter(BaseModel):
    model_config = ConfigDict(extra="ignore")
    lora_name: str = ""
    """name by which requests ask for it, as their model"""
    lora_path: str = Field("", max_length=4096)
    """its folder, in PEFT's format, in that of --lora-dir or below it"""
    load_inplace: bool = False
    """must be false: unload the one of that name first"""


class UnloadAdapter(BaseModel):
    model_config = ConfigDict(extra="ignore")
    lora_name: str = ""
    """name of one that is loaded"""


@router.post("/v1/load_lora_adapter", response_class=PlainTextResponse, responses=REFUSALS)
async def load_lora_adapter(request: Request, body: LoadAdapter) -> Response:
    """Loads an adapter beside those that there are: requests may name it as their model once this has answered."""
    folder = _allowed(request)
    service = service_of(request)
    if not body.lora_name or not body.lora_path:
        raise ApiError(400, "both lora_name and lora_path must be given")
    path = _within(folder, body.lora_path)
    async with service.adapters.lock:
        _check_new(service, body)
        if not await asyncio.to_thread(path.is_dir):
            raise ApiError(404, f"there is no folder {body.lora_path!r} in that of --lora-dir", param="lora_path")
        try:
            await asyncio.to_thread(service.engine.adapters.load, body.lora_name, str(path))
        except (ValueError, OSError) as error:
            raise ApiError(400, f"the adapter {body.lora_name!r} cannot be loaded: {error}") from error
        except (RuntimeError, MemoryError) as error:
            raise ApiError(503, f"the adapter {body.lora_name!r} was not loaded: {error}") from error
        service.adapters.came()
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post(
    "/v1/unload_lora_adapter", response_class=PlainTextResponse,
    responses={**REFUSALS, 409: {"description": "Requests that have not ended use it"}},
)  # fmt: skip
async def unload_lora_adapter(request: Request, body: UnloadAdapter) -> Response:
    """Takes an adapter away that no request uses, durable jobs among them; 409 while some do."""
    _allowed(request)
    service = service_of(request)
    name = body.lora_name
    if not name:
        raise ApiError(400, "lora_name must be given", param="lora_name")
    async with service.adapters.lock:
        if used := service.adapters.users(name):
            raise ApiError(409, f"the adapter {name!r} is in use by {used} requests: unload it when they have ended, "
                                "or cancel them")  # fmt: skip
        try:
            await asyncio.to_thread(service.engine.adapters.unload, name)
        except UnknownAdapterError as error:
            raise ApiError(404, str(error), param="lora_name") from error
        except AdapterInUseError as error:
            raise ApiError(409, str(error)) from error
        except RuntimeError as error:
            raise ApiError(503, str(error)) from error
    log.info("adapter %s was unloaded", name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def _allowed(request: Request) -> Path:
    """The folder of adapters. Raises ApiError 403, or 503 for a server that shuts down."""
    service = service_of(request)
    folder = service.config.lora_dir
    if folder is None:
        raise ApiError(403, "this server loads no adapters while it runs, since that reads files of its machine: start "
                            "it with --lora-dir FOLDER to allow those of that folder")  # fmt: skip
    if not may_administer(request.scope, service.config.admin_clients):
        raise ApiError(403, "adapters are every client's: only those of --admin-clients may load and unload them")
    service.check_open(None)
    return folder


def _check_new(service: Service, body: LoadAdapter) -> None:
    try:
        check_name(body.lora_name)
    except ValueError as error:
        raise ApiError(400, str(error), param="lora_name") from None
    if body.lora_name in service.adapters.base_names:
        raise ApiError(400, f"{body.lora_name!r} is the base model's name: give the adapter another", param="lora_name")
    if body.load_inplace:
        raise ApiError(400, "load_inplace: an adapter is not replaced while it may be in use; unload it first, and "
                            "load the other then", param="load_inplace")  # fmt: skip
    if body.lora_name in service.engine.adapters.loaded:
        raise ApiError(400, f"the adapter {body.lora_name!r} is loaded already: unload it first, or give another name",
                       param="lora_name")  # fmt: skip


def _within(folder: Path, given: str) -> Path:
    """The folder of an adapter, by a path in `folder` or from there. Raises ApiError 400 for one outside, links
    followed.
    """
    top = folder.expanduser().resolve()
    try:
        path = (top / given).resolve()
        inside = path != top and path.is_relative_to(top)
    except (OSError, ValueError, RuntimeError):  # a NUL, a circle of links
        inside = False
    if not inside:
        raise ApiError(400, "lora_path: it must be a folder below that of --lora-dir", param="lora_path")
    return path
