"""What Ollama's routes tell of models: those of the upstreams, and of the gateway's own where it manages some."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

import httpx

from fastserve.gateway.core import Core
from fastserve.gateway.ollama.answers import stamp
from fastserve.gateway.upstream import Upstream
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


class Managed(Protocol):
    """The gateway's part `models`, as far as it matters here. Names are those of requests."""

    def known(self, name: str) -> bool: ...
    def list(self) -> list[dict[str, Any]]:
        """name, state (unloaded, starting, ready ...), size (bytes or None), backend, memory, idle_at (s since the
        epoch, None for never), modified (s since the epoch) of each."""
        ...

    async def load(self, name: str, client: str) -> None: ...
    async def unload(self, name: str) -> None: ...
    def keep(self, name: str, seconds: float) -> None:
        """How long it stays without a request; infinite: always."""
        ...

    def pull(self, name: str, client: str) -> AsyncIterator[Mapping[str, Any]]:
        """completed and total, in bytes, until it is there."""
        ...

    async def delete(self, name: str) -> None: ...


def managed(gateway: Core) -> Managed | None:
    found: Any = next((part for part in gateway.parts if part.name == "models"), None)
    return found


def resolved(gateway: Core, name: str) -> str:
    """The model that is meant: a tag `latest` may be there or not. The name itself where there is none."""
    there, part = gateway.upstreams.models(), managed(gateway)
    known = [each for each in same_model(name) if each in there or (part is not None and part.known(each))]
    return known[0] if known else name


def not_found(name: str) -> ApiError:
    return ApiError(404, f"model {name!r} not found: GET /api/tags lists those there are")


def tags(gateway: Core) -> list[dict[str, Any]]:
    """Models of GET /api/tags."""
    part = managed(gateway)
    found = {} if part is None else {each["name"]: _card(each["name"], each) for each in part.list()}
    for name, upstreams in gateway.upstreams.models().items():
        found.setdefault(name, _card(name, {"backend": upstreams[0].kind, "modified": gateway.started}))
    return list(found.values())


def loaded(gateway: Core) -> list[dict[str, Any]]:
    """Models of GET /api/ps: in memory, as far as the gateway knows. An upstream's stay as long as it is there."""
    part = managed(gateway)
    own = [] if part is None else part.list()
    found = {each["name"]: _running(each) for each in own if each.get("state") == "ready"}
    for name, upstreams in gateway.upstreams.models().items():
        if any(each.state == "healthy" and not each.owner for each in upstreams):
            found.setdefault(name, _running({"name": name, "backend": upstreams[0].kind}))
    return list(found.values())


async def shown(gateway: Core, name: str) -> dict[str, Any]:
    """Of POST /api/show. Raises ApiError 404."""
    part = managed(gateway)
    upstreams = gateway.upstreams.having(name)
    if not upstreams and (part is None or not part.known(name)):
        raise not_found(name)
    card = next((each for each in tags(gateway) if each["name"] == name), _card(name, {}))
    about: dict[str, Any] = {}
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
    headers = {"Authorization": f"Bearer {upstream.key.get_secret_value()}"} if upstream.key else {}
    http = gateway.proxy.http
    try:
        if upstream.kind == "ollama":
            url = f"{upstream.url}/api/show"
            answer = await http.post(url, json={"model": name}, headers=headers, timeout=ASK_S)
            found = answer.json() if answer.status_code == 200 else {}
            return found if isinstance(found, dict) else {}
        answer = await http.get(f"{upstream.url}/v1/models", headers=headers, timeout=ASK_S)
        return next((card for card in answer.json()["data"] if card["id"] == name), {})
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return {}


def _card(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": stamp(about.get("modified") or 0.0),
        "size": about.get("size") or 0,
        "digest": hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "gguf" if about.get("backend") == "llamacpp" else "",
            "family": about.get("backend") or "",
            "families": [about["backend"]] if about.get("backend") else None,
            "parameter_size": "",
            "quantization_level": "",
        },
    }


def _running(about: Mapping[str, Any]) -> dict[str, Any]:
    ends = about.get("idle_at") or time.time() + ALWAYS_S
    size = about.get("memory") or 0
    return _card(about["name"], about) | {"expires_at": stamp(ends), "size": size, "size_vram": 0}
