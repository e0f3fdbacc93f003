"""Server settings derived from the fields of EngineConfig and from backends' options, so that each is defined once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, create_model

from fastserve.backends.options import OPTIONS, Option, check
from fastserve.engine.config import EngineConfig
from fastserve.sched.config import SchedulerConfig, describe
from fastserve.server.config import forms
from fastserve.server.config.ranges import Share

M = TypeVar("M", bound=BaseModel)

SCHEDULER = tuple(field.name for field in fields(SchedulerConfig))
ENGINE = (*SCHEDULER, "kv_tokens", "host_tokens", "predictor", "flight_log", "seed")
"""Fields of EngineConfig with the same name in the server. Policy and knobs are `policy` and `set` here."""


def derived(name: str, base: type[M], names: Iterable[str]) -> type[M]:
    """base with additional fields: types, defaults and help from EngineConfig, which also validates them."""
    hints, texts = get_type_hints(EngineConfig), describe(EngineConfig)
    own = {field.name: field for field in fields(EngineConfig)}
    made: Any = {each: (hints[each], Field(own[each].default, description=texts[each])) for each in names}
    model: type[M] = create_model(name, __base__=base, __module__=__name__, **made)
    return model


def with_options(name: str, base: type[M]) -> type[M]:
    """base with a field for each option of backends."""
    made: Any = {
        each: (_annotation(each, option), Field(option.default, description=option.help))
        for each, option in OPTIONS.items()
    }
    model: type[M] = create_model(name, __base__=base, __module__=__name__, **made)
    return model


def _checked(name: str, value: str) -> str:
    check(name, value)
    return value


def _annotation(name: str, option: Option) -> Any:
    kind: Any = option.kind
    if option.choices:
        kind = Literal[option.choices]
    elif option.secret:
        kind = SecretStr
    elif option.parse is not None:
        kind = Annotated[str, AfterValidator(partial(_checked, name))]
    elif kind is int:
        kind = Annotated[int, Field(ge=option.least, le=option.most)]
    elif kind is float:
        kind = Share
    elif kind is tuple:
        kind = Annotated[tuple[str, ...], BeforeValidator(forms.words)]
    return kind | None if option.default is None else kind
