"""Routes of models that come and go, under the paths of llama-server's router, of a model manager, and of LocalAI."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from fastserve.gateway.core import Core, gateway_of
from fastserve.gateway.models import adapters
from fastserve.gateway.models.access import check_manager
from fastserve.gateway.models.events import TooManyWatchersError
from fastserve.gateway.models.hub import HubError
from fastserve.gateway.models.jobs import Job, TooManyJobsError
from fastserve.gateway.models.models_file import ModelsFileError
from fastserve.gateway.models.part import BusyError, Models
from fastserve.gateway.models.pull import PullError
from fastserve.gateway.models.registry import UnknownModelError
from fastserve.gateway.models.supervisor import RETRY_S, AllBusyError, LoadFailedError
from fastserve.gateway.models.traffic import OWNER
from fastserve.server.api.errors import ApiError, Json

router = APIRouter(tags=["Models that come and go"])

WAIT_S: Final = 600.0
"""The longest that ?wait waits; the job goes on."""


class Named(BaseModel):
    """Which model, under the names that clients of other servers give it."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: str = Field(
        min_length=1, max_length=200, validation_alias=AliasChoices("model_id", "model", "id", "name", "model_name")
    )


class Load(Named):
    """wait: true, to be answered when it is loaded."""

    wait: bool = False


class Unload(Named):
    """force: true ends its requests with an error."""

    force: bool = False


def make(gateway: Core) -> Models | None:
    """The part, where the settings ask for it. Raises ValueError."""
    if not gateway.config.models_on:
        return None
    try:
        return Models(gateway, router)
    except OSError as error:
        raise ModelsFileError(f"--models-dir {gateway.config.models_dir}: {error}") from error


def models_of(request: Request) -> Models:
    """The part of this gateway, for handlers."""
    found: object = next(part for part in gateway_of(request).parts if part.name == OWNER)
    assert isinstance(found, Models)
    return found


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What goes wrong with models, as HTTP has it."""
    try:
        yield
    except UnknownModelError as error:
        raise ApiError(404, str(error), param="model") from error
    except BusyError as error:
        raise ApiError(409, str(error)) from error
    except AllBusyError as error:
        raise ApiError(503, str(error), retry_after=RETRY_S) from error
    except (TooManyJobsError, TooManyWatchersError) as error:
        raise ApiError(429 if getattr(error, "of_client", False) else 503, str(error), retry_after=RETRY_S) from error
    except LoadFailedError as error:
        raise ApiError(500, str(error)) from error  # not 503: waiting is no cure of it
    except (HubError, PullError) as error:
        raise ApiError(503, str(error)) from error
    except ValueError as error:
        raise ApiError(400, str(error)) from error


def client_of(request: Request) -> str:
    """Whose jobs these are: the token's client, else the address."""
    client = request.scope["state"].get("client")
    return str(client) if client is not None else (request.client.host if request.client else "default")


# -- jobs ------------------------------------------------------------------------------------------------------------


@router.post("/models/load", status_code=202, response_model=None)
async def load(body: Load, request: Request, wait: bool = False) -> Response:
    """Loads a model, and downloads it before if it is one of the hub. Answers at once with a job, or waits for it."""
    job = _begin(request, body.model_id)
    if wait or body.wait:
        await asyncio.wait([job.task], timeout=WAIT_S)
        if job.state == "failed":
            raise ApiError(503, job.message)
    return Json(job.shown(), 202 if job.running else 200, {"Location": f"/models/jobs/{job.id}"})


@router.post("/models/apply", response_model=None)
async def apply(body: Named, request: Request) -> Response:
    """The same as LocalAI has it: {"uuid", "status": where to ask}."""
    job = _begin(request, body.model_id)
    return Json({"uuid": job.id, "status": str(request.url.replace(path=f"/models/jobs/{job.id}", query=""))})


@router.get("/models/jobs")
async def list_jobs(request: Request) -> dict[str, Any]:
    return {"jobs": [job.shown() for job in models_of(request).jobs.by_id.values() if _own(request, job)]}


@router.get("/models/jobs/{job_id}")
async def show_job(job_id: str, request: Request) -> dict[str, Any]:
    return _job(request, job_id).shown()


@router.delete("/models/jobs/{job_id}")
async def cancel_job(job_id: str, request: Request) -> dict[str, Any]:
    """Ends a load, and its download unless others wait for the same; what has come of it is gone on with later."""
    job = _job(request, job_id)
    models_of(request).jobs.cancel(job)
    await asyncio.wait([job.task], timeout=1)
    return job.shown()


def _begin(request: Request, model: str) -> Job:
    models = models_of(request)
    if not models.known(model):
        check_manager(request)  # to load what is there is what any request for it does
    with told():
        models.check(model)
        return models.jobs.begin(model, client_of(request))


def _own(request: Request, job: Job) -> bool:
    return not gateway_of(request).auth.on or job.client == client_of(request)


def _job(request: Request, job_id: str) -> Job:
    job = models_of(request).jobs.by_id.get(job_id)
    if job is None or not _own(request, job):
        raise ApiError(404, f"there is no job {job_id[:64]!r}: it may be long ended")
    return job


# -- models ------------------------------------------------------------------------------------------------------------


@router.post("/models/unload")
async def unload(body: Unload, request: Request) -> dict[str, Any]:
    check_manager(request)
    models = models_of(request)
    with told():
        was = await models.unload(body.model_id, force=body.force)
        return {"success": True, "was_loaded": was, **await models.status_of(body.model_id)}


@router.get("/models/search/{query:path}")
async def search(query: str, request: Request, limit: int = 5) -> dict[str, Any]:
    """Models of the hub by words in their names, the most downloaded first."""
    models = models_of(request)
    if not gateway_of(request).config.models_pull:
        raise ApiError(403, "the hub is switched off here (--no-models-pull)")
    with told():
        found = await models.search(query, limit)
    return {"query": query, "models": found, "results": found}


@router.get("/models/{model_id:path}/status")
async def status(model_id: str, request: Request) -> dict[str, Any]:
    with told():
        return await models_of(request).status_of(model_id)


@router.get("/models/{model_id:path}/events", response_model=None)
async def events(model_id: str, request: Request) -> Response:
    """Server-sent events: state, progress (bytes of a download), log (lines of its process)."""
    check_manager(request)
    with told():
        stream = await models_of(request).watch(model_id)

    async def lines() -> AsyncIterator[bytes]:
        async for event in stream:
            if event.kind == "alive":
                yield b": alive\n\n"
            else:
                yield f"event: {event.kind}\ndata: {json.dumps(event.data)}\n\n".encode()

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.delete("/models/{model_id:path}")
async def delete(model_id: str, request: Request) -> dict[str, Any]:
    """Takes a downloaded model from the disk."""
    check_manager(request)
    with told():
        await models_of(request).delete(model_id)
    return {"success": True, "model_id": model_id}


# -- adapters ----------------------------------------------------------------------------------------------------------


@router.post("/v1/load_lora_adapter", response_model=None)
async def load_adapter(body: adapters.LoadAdapter, request: Request) -> Response:
    """As vLLM has it; with `base_model` where there are several models."""
    check_manager(request)
    with told():
        return await adapters.load(models_of(request), body)


@router.post("/v1/unload_lora_adapter", response_model=None)
async def unload_adapter(body: adapters.UnloadAdapter, request: Request) -> Response:
    check_manager(request)
    with told():
        return await adapters.unload(models_of(request), body)
