"""Types of request fields that several routes share, each with one validation message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    FailFast,
    Field,
    ValidationError,
    WrapValidator,
)
from pydantic import ValidatorFunctionWrapHandler as Handler

from fastserve.server.api.errors import MAX_FAULTS

Token = Annotated[int, Field(ge=0, lt=1 << 31)]
MAX_DEPTH = 64
"""Nesting of metadata: JSON encoders have recursion limits."""
MAX_BYTES = 16 << 10
"""Size of metadata as JSON: it is stored as long as its job."""

MAX_NAME = 256
"""Characters of a client's, user's or program's name."""


MUST_BE = "it must be"


def expecting(what: str) -> WrapValidator:
    """One validation message for a field of several types, instead of one for each type: `what`, unless the value is of
    a right type and a validator of ours has said what is wrong with it.
    """

    def check(value: Any, handler: Handler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            faults = [fault["ctx"]["error"] for fault in error.errors() if fault["type"] == "value_error"]
            ours = [str(fault) for fault in faults if not str(fault).startswith(MUST_BE)]
            raise ValueError(ours[0] if ours else f"{MUST_BE} {what}") from error

    return WrapValidator(check)


def few_unknown(fields: Any, model: type[BaseModel]) -> tuple[Any, int]:
    """(fields with at most MAX_FAULTS unknown ones, how many more there were): each one costs an error of 1 KB."""
    if not isinstance(fields, dict) or model.model_config.get("extra") != "forbid":
        return fields, 0
    known = names_of(model)
    unknown = [name for name in fields if name not in known]
    if len(unknown) <= MAX_FAULTS:
        return fields, 0
    left_out = set(unknown[MAX_FAULTS:])
    return {name: value for name, value in fields.items() if name not in left_out}, len(left_out)


@cache
def names_of(model: type[BaseModel]) -> frozenset[str]:
    """All names that fields of this model have in JSON."""

    def names() -> Iterator[str]:
        for name, field in model.model_fields.items():
            if isinstance(field.validation_alias, AliasChoices):
                yield from map(str, field.validation_alias.choices)
            else:
                yield name if field.validation_alias is None else str(field.validation_alias)

    return frozenset(names())


def _unicode(value: Any) -> Any:
    if isinstance(value, str) and (fault := lone_surrogate(value)) is not None:
        raise ValueError(fault)
    return value


def lone_surrogate(text: str) -> str | None:
    """What is wrong with text that JSON can carry and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"it contains the lone surrogate \\u{ord(text[error.start]):04x} at character {error.start}, half of a "
            "character beyond U+FFFF: send both halves, or the character itself"
        )
    return None


def kept_json(value: dict[str, Any]) -> dict[str, Any]:
    """Metadata, which is kept as long as its job. Raises ValueError for what is too large, too deep or no JSON."""
    size = len(json.dumps(value, allow_nan=False))  # ValueError for NaN and infinity
    if size > MAX_BYTES:
        raise ValueError(f"it is {size} bytes of JSON; at most {MAX_BYTES} are kept")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)
                 if isinstance(item, (dict, list))]  # fmt: skip
    if level:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    return value


class FirstFault(FailFast):
    """Validation of a list stops at the first wrong element."""

    __hash__ = object.__hash__  # unions of types hash their members


Text = Annotated[str, BeforeValidator(_unicode)]
Name = Annotated[Text, Field(max_length=MAX_NAME)]
ModelName = Annotated[Text, Field(max_length=1024)]
Word = Annotated[str, Field(min_length=1), BeforeValidator(_unicode)]
Prompt = Annotated[
    Word | Annotated[list[int], FirstFault(), Field(min_length=1)],
    expecting("text of at least one character, or a list of at least one token id"),
]
Stop = Annotated[
    Word | Annotated[list[Word], FirstFault(), Field(max_length=64)],
    expecting("text of at least one character, or a list of at most 64 of them"),
]
Metadata = Annotated[dict[str, Any], AfterValidator(kept_json)]
