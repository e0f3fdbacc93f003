"""Settings of the processes of an application: fields of the server's and the gateway's own configuration.

Each is checked by that configuration, so that what is deployed would start; flags are made from the fields' names, so
that there is none that the commands do not have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fastserve.deploy.application import shown
from fastserve.deploy.schema import Application, Server
from fastserve.deploy.yaml_lines import At, Document
from fastserve.sched.checks import nearest
from fastserve.server.config.http_settings import HttpSettings
from fastserve.server.config.settings import FastServeConfig

VLLM = "vllm"
"""The backend that is another server: vLLM's, with our Scheduler in it (fastserve vllm)."""

GENERATION = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_new_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "seed": "seed",
}
"""Name in generation_params -> setting of the server."""

OURS = {
    "host": "the container listens at all of its addresses",
    "port": "it is rpc_port",
    "model": "it is model.uri",
    "device": "it is model.device",
    "dtype": "it is model.dtype",
    "policy": "it stands beside settings",
    "set": "it stands beside settings",
    "backend": "it stands beside settings",
    "config": "what would stand in that file stands here",
    "api_key": "a token does not stand in a file of a deployment: api_keys names a secret that holds them",
    "api_key_file": "api_keys names the secret that holds them",
    "hf_token": "hf_token, at the top, names a secret that holds it",
    "upstream_key": "a key does not stand in a file of a deployment",
    "state_dir": "it is a volume",
    "queue": "it stands at the top",
}
"""Settings that the rest of the file says -> where."""


def server_settings(server: Server) -> dict[str, Any]:
    """Field of FastServeConfig -> value, without what depends on where it runs (model's folder, host, port)."""
    model = server.model
    found: dict[str, Any] = {}
    if model.device != "auto":
        found["device"] = model.device
    if model.dtype is not None:
        found["dtype"] = model.dtype
    if server.policy is not None:
        found["policy"] = server.policy
    if server.set:
        found["set"] = server.set
    if server.backend not in ("torch", VLLM):
        found["backend"] = server.backend
    for name, value in model.generation_params.items():
        found[GENERATION[name]] = value
    if model.generation_params.keys() - {"seed"}:
        found["defaults_for"] = "all"
    return found | server.settings


def faults(document: Document, app: Application) -> list[str]:
    """What the servers and the gateway would refuse."""
    found: list[str] = []
    for index, server in enumerate(app.servers):
        at: At = ("servers", index)
        below = (*at, "model", "generation_params")
        bad = [
            document.fault((*below, name), f"there is no generation parameter {name!r}{nearest(name, GENERATION)}")
            for name in server.model.generation_params
            if name not in GENERATION
        ]
        bad += _names(document, FastServeConfig, (*at, "settings"), server.settings)
        if not bad:
            origin = {
                "device": (*at, "model", "device"),
                "dtype": (*at, "model", "dtype"),
                **{GENERATION[name]: (*below, name) for name in server.model.generation_params},
                **{name: (*at, name) for name in ("policy", "set", "backend")},
                **{name: (*at, "settings", name) for name in server.settings},
            }
            bad = refused(document, FastServeConfig, server_settings(server), origin, at)
        found += bad
    return found + _gateway_faults(document, app)


def _gateway_faults(document: Document, app: Application) -> list[str]:
    from fastserve.gateway.config.settings import GatewayConfig

    at: At = ("gateway", "settings")
    bad = _names(document, GatewayConfig, at, app.gateway.settings)
    if bad:
        return bad
    origin: dict[str, At] = {"router": ("router", "name"), "router_set": ("router", "set")}
    origin |= {name: (*at, name) for name in app.gateway.settings}
    settings: dict[str, Any] = {"router_set": app.router.set} | app.gateway.settings
    if app.router.name is not None:
        settings["router"] = app.router.name
    return refused(document, GatewayConfig, settings, origin, ("router",))


def _names(document: Document, kind: type[HttpSettings], at: At, settings: Mapping[str, Any]) -> list[str]:
    known = kind.model_fields
    found = []
    for name in settings:
        if name in OURS:
            found.append(document.fault((*at, name), f"{shown((*at, name))}: {OURS[name]}"))
        elif kind.dialect.aliases.get(name, name) not in known:
            found.append(document.fault((*at, name), f"there is no setting {name!r}{nearest(name, known)}"))
    return found


def refused(
    document: Document, kind: type[HttpSettings], settings: Mapping[str, Any], origin: Mapping[str, At], at: At
) -> list[str]:
    """What this configuration says of these settings. origin: where each comes from; at: of what none of them is."""
    try:
        alone(kind)(**settings)
    except ValidationError as error:
        found = []
        for each in error.errors(include_url=False, include_context=False):
            what = each["msg"].removeprefix("Value error, ")
            named = re.findall(r"\w+", what)[:3]  # what is wrong with several together names the one that it is about
            where = next((origin[name] for name in [*map(str, each["loc"][:1]), *named] if name in origin), at)
            value = each["input"] if isinstance(each["input"], str | int | float) else None
            told = f"{shown(where)}{f'={value}' if value is not None and str(value) not in what else ''}"
            found.append(document.fault(where, f"{told}: {what[:1].lower()}{what[1:]}"))
        return found
    except ValueError as error:
        return [document.fault(at, str(error))]
    return []


def alone(kind: type[HttpSettings]) -> type[HttpSettings]:
    """The configuration as it is with nothing but what is given: no environment, no .env, no file."""

    class Alone(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, **_: Any) -> Any:
            return (init_settings,)

    return Alone


def flags(kind: type[HttpSettings], settings: Mapping[str, Any]) -> list[str]:
    """Settings as flags of the command, in the order given. Raises KeyError for one that it does not have."""
    words: list[str] = []
    for given, value in settings.items():
        name = kind.dialect.aliases.get(given, given)
        field = kind.model_fields[name]
        flag = f"--{given.replace('_', '-')}"
        if value is None:
            continue
        if field.annotation is bool:
            words.append(flag if value else f"--no-{given.replace('_', '-')}")
        elif isinstance(value, Mapping):
            words += [word for key, each in value.items() for word in (flag, f"{key}={_text(each)}")]
        elif isinstance(value, list | tuple):
            words += [word for each in value for word in (flag, _text(each))]
        else:
            words += [flag, _text(value)]
    return words


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
