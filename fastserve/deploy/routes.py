"""The routes that a deployment serves, and the fields of their requests and answers: read off the routes themselves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from fastapi.routing import APIRoute
from pydantic import BaseModel

from fastserve.deploy.schema import Api
from fastserve.deploy.yaml_lines import At
from fastserve.sched.checks import nearest
from fastserve.server.api import compat, native, openai, programs
from fastserve.server.telemetry import monitor

OPTIONAL = "optional"
"""Beside the name of an input: whether a client may leave it out."""

EXAMPLES = ("/v1/chat/completions", "/v1/completions", "/generate", "/generate/stream", "/chat", "/jobs", "/v1/models")
"""Of many routes those that are named first where a path is none."""


class Route(NamedTuple):
    """needed: fields of the request that it cannot do without. Empty inputs or outputs: not described, not checked."""

    methods: tuple[str, ...]
    inputs: tuple[str, ...]
    needed: tuple[str, ...]
    outputs: tuple[str, ...]


@cache
def served() -> dict[str, Route]:
    """Path -> route."""
    found: dict[str, Route] = {}
    for router in (openai.router, native.router, compat.router, programs.router, monitor.router):
        for route in router.routes:
            if isinstance(route, APIRoute):
                found.setdefault(route.path, _route(route))
    return found


def _route(route: APIRoute) -> Route:
    body = route.body_field.field_info.annotation if route.body_field is not None else None
    fields = body.model_fields if isinstance(body, type) and issubclass(body, BaseModel) else {}
    query = route.dependant.query_params
    answer: Any = route.response_model or route.responses.get(200, {}).get("model")
    return Route(
        tuple(sorted(route.methods or ())),
        (*(field.alias or name for name, field in fields.items()), *(each.alias for each in query)),
        tuple(name for name, field in fields.items() if field.is_required()),
        _keys(answer),
    )


def _keys(answer: Any) -> tuple[str, ...]:
    if isinstance(answer, type) and issubclass(answer, BaseModel):
        return tuple(answer.model_fields)
    return tuple(get_type_hints(answer)) if hasattr(answer, "__total__") else ()


def faults(api: Api) -> Iterator[tuple[At, str]]:
    """(where below this api, what is wrong)"""
    routes = served()
    path = api.path.rstrip("/") or "/"
    if path not in routes:
        others = sorted(set(routes) - set(EXAMPLES))
        yield (
            ("path",),
            (
                f"path={api.path}: nobody serves it{nearest(path, routes).rstrip('?')}; there are "
                f"{', '.join((*EXAMPLES, *others))}"
            ),
        )
        return
    route = routes[path]
    given: set[str] = set()
    for key, entries, known in (("inputs", api.inputs, route.inputs), ("outputs", api.outputs, route.outputs)):
        for index, entry in enumerate(entries):
            names = [name for name in entry if name != OPTIONAL]
            if len(names) != 1 or not isinstance(entry[names[0]], str):
                yield (key, index), f"{key}[{index}]: give one name with its type, as {{prompt: str}}"
                continue
            name = names[0]
            given.add(name)
            if known and name not in known:
                yield (key, index, name), f"{key}[{index}]: {path} has no {key[:-1]} {name!r}{nearest(name, known)}"
            elif key == "inputs" and name in route.needed and entry.get(OPTIONAL) is True:
                yield (key, index, name), f"{key}[{index}]: {name} is not optional at {path}"
    missing = [name for name in route.needed if name not in given]
    if api.inputs and missing:
        yield ("inputs",), f"inputs: {path} does not answer without {', '.join(missing)}"
