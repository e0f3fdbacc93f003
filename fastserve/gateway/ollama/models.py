"""What Ollama's routes tell of models: those of the upstreams, and of the gateway's own where it manages some."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from typing import Any, Final

from fastserve.gateway.asking import AnswerError
from fastserve.gateway.core import Core
from fastserve.gateway.models.part import Models
from fastserve.gateway.models.traffic import OWNER
from fastserve.gateway.ollama.answers import stamp
from fastserve.gateway.upstream import Upstream
from fastserve.http_client import HttpClientError
from fastserve.ollama_api import same_model
from fastserve.server.api.errors import ApiError

ASK_S: Final = 5.0
"""Seconds in which an upstream has to say what it knows of a model."""

ALWAYS_S: Final = 100 * 365 * 86400.0
"""Seconds from now at which a model goes that stays: clients expect a time."""

NOT_MANAGED: Final = (
    "this gateway manages no models, its upstreams do: start it with --models-dir DIR or --models FILE to load, "
    "download and delete some"
)


def managed(gateway: Core) -> Models | None:
    """The gateway's part that loads models, where it has one."""
    found = next((part for part in gateway.parts if part.name == OWNER), None)
    return found if isinstance(found, Models) else None


def known(gateway: Core, name: str) -> bool:
    """Whether the gateway manages a model of this name."""
    part = managed(gateway)
    return part is not None and name in part.registry.names


def resolved(gateway: Core, name: str) -> str:
    """The model that is meant: a tag `latest` may be there or not. The name itself where there is none."""
    there = gateway.upstreams.models()
    return next((each for each in same_model(name) if each in there or known(gateway, each)), name)


def not_found(name: str) -> ApiError:
    return ApiError(404, f"model {name!r} not found: GET /api/tags lists those there are")


async def tags(gateway: Core) -> list[dict[str, Any]]:
    """Models of GET /api/tags."""
    part = managed(gateway)
    found = {} if part is None else {each["model_id"]: _card(each["model_id"], each) for each in await part.list()}
    for name in [] if part is None else part.registry.adapters:
        found.setdefault(name, _card(name, {}))
    for name, upstreams in gateway.upstreams.models().items():
        kind = upstreams[0].kind if upstreams else ""
        found.setdefault(name, _card(name, {"backend": kind, "modified_at": stamp(gateway.started)}))
    return list(found.values())


async def loaded(gateway: Core) -> list[dict[str, Any]]:
    """Models of GET /api/ps: in memory, as far as the gateway knows. An upstream's stay as long as it is there."""
    part = managed(gateway)
    found: dict[str, dict[str, Any]] = {}
    for each in [] if part is None else await part.list():
        served = None if part is None else part.supervisor.models.get(each["model_id"])
        if each["loaded"] and part is not None and served is not None:
            found[each["model_id"]] = _running(each["model_id"], each, part.supervisor.bound(served))
    for name, upstreams in gateway.upstreams.models().items():
        if any(each.state == "healthy" and each.owner != OWNER for each in upstreams):
            about = {"backend": upstreams[0].kind, "modified_at": stamp(gateway.started)}
            found.setdefault(name, _running(name, about, -1.0))
    return list(found.values())


async def shown(gateway: Core, name: str) -> dict[str, Any]:
    """Of POST /api/show. Raises ApiError 404."""
    upstreams = gateway.upstreams.having(name)
    if not upstreams and not known(gateway, name):
        raise not_found(name)
    card = next((each for each in await tags(gateway) if each["name"] == name), _card(name, {}))
    about: Mapping[str, Any] = {}
    for upstream in upstreams:
        about = await _asked(gateway, upstream, name)
        if about:
            break
    family = card["details"]["family"] or "unknown"
    info = {"general.architecture": family, "general.basename": name}
    if about.get("max_model_len"):
        info[f"{family}.context_length"] = about["max_model_len"]
    plain = {"modelfile": "", "parameters": "", "template": "", "license": "", "modified_at": card["modified_at"],
             "details": card["details"], "model_info": info, "capabilities": ["completion"]}  # fmt: skip
    return plain | {key: value for key, value in about.items() if key in plain}


async def _asked(gateway: Core, upstream: Upstream, name: str) -> Mapping[str, Any]:
    """What the upstream says of the model: Ollama's own words, or its card in OpenAI's list. Empty if neither."""
    try:
        async with asyncio.timeout(ASK_S):
            if upstream.kind == "ollama":
                found = await gateway.asking.json(upstream, "/api/show", {"model": name})
                return found if isinstance(found, dict) else {}
            listed = await gateway.asking.json(upstream, "/v1/models")
            return next((card for card in listed["data"] if card["id"] == name), {})
    except (HttpClientError, AnswerError, TimeoutError, KeyError, TypeError):
        return {}


def _card(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": about.get("modified_at") or stamp(0.0),
        "size": about.get("size") or 0,
        "digest": hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest(),
        "details": {
            "parent_model": "",
            "format": about.get("format") or "",
            "family": about.get("backend") or "",
            "families": [about["backend"]] if about.get("backend") else None,
            "parameter_size": "",
            "quantization_level": "",
        },
    }


def _running(name: str, about: Mapping[str, Any], bound: float) -> dict[str, Any]:
    """bound: s without a request after which it goes; below 0: never."""
    left = max(0.0, bound - about.get("idle_seconds", 0.0)) if bound >= 0 else ALWAYS_S
    size = about.get("memory") or 0
    return _card(name, about) | {"expires_at": stamp(time.time() + left), "size": size, "size_vram": 0}
