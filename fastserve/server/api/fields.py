"""Types of request fields that several routes share, each with one sentence for whatever does not fit."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Handler

from fastserve.server.jobs.jobs import Scheduling

Token = Annotated[int, Field(ge=0, lt=1 << 31)]
DEEPEST = 64
"""Levels of metadata: what is kept must be writable by every JSON encoder that it may meet."""
LARGEST = 16 << 10
"""Bytes of metadata as JSON: it is kept for as long as its job is."""


def expecting(what: str) -> WrapValidator:
    """One sentence for a field of several types, instead of a complaint for each of them."""

    def check(value: Any, handler: Handler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise ValueError(f"it must be {what}") from error

    return WrapValidator(check)


def _unicode(value: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("it holds half of a surrogate pair, which is no text")
    return value


def _json(value: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(value, allow_nan=False))  # ValueError for what JSON cannot carry back
    if size > LARGEST:
        raise ValueError(f"it is {size} bytes of JSON; at most {LARGEST} are kept")
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)
                 if isinstance(item, (dict, list))]  # fmt: skip
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    return value


Text = Annotated[str, AfterValidator(_unicode)]
Name = Annotated[Text, Field(max_length=256)]
Prompt = Annotated[
    Annotated[str, Field(min_length=1), AfterValidator(_unicode)] | Annotated[list[Token], Field(min_length=1)],
    expecting("text of at least one character, or a list of at least one token id"),
]
Tokens = Annotated[int, Field(ge=1, lt=1 << 31)]
Stop = Annotated[
    Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=64)],
    expecting("text of at least one character, or a list of at most 64 of them"),
]
Metadata = Annotated[dict[str, Any], AfterValidator(_json)]
Seconds = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]


class Scheduled(BaseModel):
    """Fields that every request has, on native and OpenAI's routes: what a policy may look at. Null means not given."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    priority: Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)] | None = None
    """smaller is more urgent, where the policy looks at it"""
    program: Name | None = None
    """the session or agent run that it belongs to; the header X-Session-Affinity says it too"""
    deadline_s: Seconds | None = None
    """seconds from its arrival within which it should have ended: a goal for policies, never enforced"""
    ttft_slo_s: Seconds | None = None
    """seconds from its arrival to its first token; without deadline_s, the deadline that a policy sees"""
    tpot_slo_s: Seconds | None = None
    """seconds for each later token"""

    def scheduling(self, session: str) -> Scheduling:
        """session: of the header, for a request that names no program."""
        return Scheduling(
            self.program or session, self.priority or 0, self.deadline_s, self.ttft_slo_s, self.tpot_slo_s
        )
