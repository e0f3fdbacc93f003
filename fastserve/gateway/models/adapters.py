"""LoRA adapters by request, as vLLM's clients load them: passed to the model's process, remembered for its next one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import Response

from fastserve.gateway.asking import AnswerError
from fastserve.gateway.models.entry import Entry, check_name
from fastserve.gateway.models.part import Models
from fastserve.gateway.models.served_model import State
from fastserve.http_client import HttpClientError
from fastserve.server.api.errors import ApiError

ANSWER_S: Final = 60.0
"""s in which a server has to load an adapter."""


class LoadAdapter(BaseModel):
    """lora_path: below --models-dir."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    lora_name: str = Field(min_length=1, max_length=200)
    lora_path: str = Field(min_length=1, max_length=1000)
    base_model: str | None = Field(None, validation_alias=AliasChoices("base_model", "base_model_name", "model"))


class UnloadAdapter(BaseModel):
    model_config = ConfigDict(extra="ignore")

    lora_name: str = Field(min_length=1, max_length=200)


async def load(models: Models, body: LoadAdapter) -> Response:
    """Loads the model, too. Raises ValueError, and what supervisor.ready() raises."""
    name = check_name(body.lora_name, "lora_name")
    if name in models.registry.names:
        raise ValueError(f"the name {name!r} is taken: unload it first, or choose another")
    path = _below(models.folder, body.lora_path)
    entry = _base(models, body.base_model)
    async with models.supervisor.held(entry.name):
        answer = await _post(models, entry, "load", {"lora_name": name, "lora_path": str(path)})
    if answer.status_code == 200:
        models.registry.add_adapter(entry.name, name, str(path))
        models.traffic.also(entry, name, there=True)
        models.offer()
    return answer


async def unload(models: Models, body: UnloadAdapter) -> Response:
    found = models.registry.find(body.lora_name)
    if not found.adapter or not models.registry.drop_adapter(found.adapter):
        raise ValueError(f"{body.lora_name} was not loaded by a request: take it out of --models FILE")
    models.offer()
    models.traffic.also(found.entry, found.adapter, there=False)
    served = models.supervisor.models.get(found.entry.name)
    if served is None or served.state is not State.READY:
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed.")
    return await _post(models, found.entry, "unload", {"lora_name": body.lora_name})


def _below(folder: Path | None, text: str) -> Path:
    """A request says no other path than one of a folder that is there to be served."""
    if folder is None:
        raise ValueError("adapters come from --models-dir by request: start with one, or name it in --models FILE")
    path = (folder / text).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.exists():
        raise ValueError(f"lora_path={text[:100]!r} is nothing below --models-dir")
    return path


def _base(models: Models, given: str | None) -> Entry:
    if given is not None:
        return models.registry.find(given).entry
    entries = list(models.registry.entries.values())
    if len(entries) != 1:
        raise ValueError("there are several models: say which one the adapter is for, as base_model")
    return entries[0]


async def _post(models: Models, entry: Entry, what: str, body: dict[str, str]) -> Response:
    upstream = models.traffic.upstreams.get(entry.name)
    if upstream is None:
        raise ApiError(503, "the model's server is going: try again", retry_after=1)
    try:
        async with asyncio.timeout(ANSWER_S):
            status, answer = await models.gateway.asking.answer(upstream, f"/v1/{what}_lora_adapter", body)
    except (TimeoutError, HttpClientError, AnswerError) as error:
        raise ApiError(503, f"the model's server did not answer ({type(error).__name__}): try again") from error
    return Response(answer, status, media_type="application/json" if answer[:1] == b"{" else "text/plain")
