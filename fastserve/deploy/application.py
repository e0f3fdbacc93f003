"""An application from its YAML file; what is wrong with it in one line each, with the line of the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fastserve.deploy import yaml_lines
from fastserve.deploy.schema import Application, slug
from fastserve.deploy.yaml_lines import At, Document
from fastserve.sched.checks import nearest

SECRETS = ("api_key", "api_keys", "hf_token", "upstream_key", "queue", "url")
"""Keys whose value never stands in a message: somebody may have written the secret itself there."""


class ApplicationError(ValueError):
    """What is wrong with a file, one line each."""


def read(path: Path) -> tuple[Application, Document]:
    """Names are filled in. Raises ApplicationError (or ValueError for what is not YAML)."""
    document = yaml_lines.read(path)
    if not isinstance(document.value, dict):
        raise ApplicationError(document.fault((), "an application has keys: servers, apis, ..."))
    try:
        app = Application.model_validate(document.value)
    except ValidationError as error:
        faults = sorted(error.errors(include_url=False), key=lambda each: document.line(tuple(each["loc"])))
        raise ApplicationError("\n".join(dict.fromkeys(_fault(document, each) for each in faults))) from error
    servers = [
        server.model_copy(update={"name": server.name or slug(server.model.uri.partition("@")[0])})
        for server in app.servers
    ]
    return app.model_copy(update={"name": app.name or slug(path.stem), "servers": servers}), document


def shown(at: At) -> str:
    """servers[0].model.uri"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
    return text.removeprefix(".")


def _fault(document: Document, error: ErrorDetails) -> str:
    at, what = tuple(error["loc"]), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = _keys(at[:-1])
        inside = f" in {shown(at[:-1])}" if at[:-1] else ""
        return document.fault(at, f"there is no key {at[-1]!r}{inside}{nearest(str(at[-1]), known)}")
    if error["type"] == "missing":
        inside = f" in {shown(at[:-1])}" if at[:-1] else ""
        return document.fault(at, f"{at[-1]} is missing{inside}")
    value = error["input"]
    short = isinstance(value, str | int | float) and len(str(value)) < 60 and at[-1] not in SECRETS
    said = short and re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", what) is not None
    what = what[:1].lower() + what[1:] if what[1:2].islower() else what
    return document.fault(at, f"{shown(at)}{f'={value}' if short and not said else ''}: {what}")


def _keys(at: At) -> list[str]:
    """The keys that the mapping there may have."""
    model: Any = Application
    for part in at:
        if isinstance(part, str):
            model = next(_models(model.model_fields[_field(model, part)].annotation), Application)
    return [field.alias or name for name, field in model.model_fields.items()]


def _field(model: type[BaseModel], key: str) -> str:
    return next((name for name, field in model.model_fields.items() if key in (name, field.alias)), key)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
