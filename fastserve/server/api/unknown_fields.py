"""What is said of a field that a native request does not have: what it has, and which of it was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from fastapi import Request
from pydantic import BaseModel

from fastserve.sched.checks import unknown
from fastserve.server.api.errors import MAX_FAULTS, InvalidBody
from fastserve.server.api.fields import names_of

EXTRA = "extra_forbidden"
"""Pydantic's name for this kind of error."""

LONGEST = 100
"""Characters of a name that are looked at: a client may send megabytes."""


def explained(fault: Mapping[str, Any], model: type[BaseModel]) -> Mapping[str, Any]:
    """A validation error of this model; that of an unknown field says which fields there are."""
    if fault["type"] != EXTRA:
        return fault
    *where, name = fault["loc"]
    owner = _model_at(model, where)
    if owner is None:
        return fault
    lacks = f"{'.'.join(map(str, where)) or 'the request'} has no field"
    said = unknown(lacks, str(name)[:LONGEST], owner.model_fields, sorted(names_of(owner)))
    return {**fault, "msg": said}


def check_query(request: Request, valid: tuple[str, ...]) -> None:
    """Raises InvalidBody for a parameter of the query that is none of these."""
    faults = [
        {"loc": ("query", name), "msg": unknown("the query has no field", name[:LONGEST], valid), "type": EXTRA}
        for name in list(request.query_params)[:MAX_FAULTS]
        if name not in valid
    ]
    if faults:
        raise InvalidBody(faults)


def _model_at(model: type[BaseModel], where: list[Any]) -> type[BaseModel] | None:
    """The model within this one at these fields and places of lists."""
    kind: Any = model
    for part in where:
        if isinstance(part, str):
            field = kind.model_fields.get(part) if _is_model(kind) else None
            if field is None:
                return None
            kind = field.annotation
        else:
            kind = next(iter(get_args(kind)), None)
    return kind if _is_model(kind) else None


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
