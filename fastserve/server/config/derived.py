"""Server settings derived from the fields of EngineConfig, so that each is defined once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, Field, create_model

from fastserve.engine.config import EngineConfig
from fastserve.sched.config import SchedulerConfig, describe

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
