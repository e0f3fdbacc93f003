"""The server's settings that are an engine's: made of EngineConfig's fields, so that each is written down once."""

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
"""Fields of EngineConfig that a server has under the same name. Its policy and knobs are `policy` and `set` here."""


def derived(name: str, base: type[M], names: Iterable[str]) -> type[M]:
    """base with more fields: EngineConfig's types, defaults and help. Their checks are EngineConfig's own."""
    hints, texts = get_type_hints(EngineConfig), describe(EngineConfig)
    own = {field.name: field for field in fields(EngineConfig)}
    made: Any = {each: (hints[each], Field(own[each].default, description=texts[each])) for each in names}
    model: type[M] = create_model(name, __base__=base, __module__=__name__, **made)
    return model
