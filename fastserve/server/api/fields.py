"""Types of request fields that several routes share, each with one validation message."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Handler

from fastserve.sched.checks import LONGEST_S, SHORTEST_S
from fastserve.server.jobs.jobs import Scheduling

Token = Annotated[int, Field(ge=0, lt=1 << 31)]
MAX_DEPTH = 64
"""Nesting of metadata: JSON encoders have recursion limits."""
MAX_BYTES = 16 << 10
"""Size of metadata as JSON: it is stored as long as its job."""


def expecting(what: str) -> WrapValidator:
    """One validation message for a field of several types, instead of one for each type."""

    def check(value: Any, handler: Handler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise ValueError(f"it must be {what}") from error

    return WrapValidator(check)


def _unicode(value: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("it contains a lone surrogate, which is not valid Unicode text")
    return value


def _json(value: dict[str, Any]) -> dict[str, Any]:
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


def not_tiny(value: float) -> float:
    """Seconds that are more than 0 and less than the shortest time there is would count as 0."""
    if 0 < value < SHORTEST_S:
        raise ValueError(f"it must be 0 or at least a nanosecond ({SHORTEST_S:g})")
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
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False), AfterValidator(not_tiny)]


class Scheduled(BaseModel):
    """Scheduling fields of every request, on native and OpenAI's routes. Null means not given."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    priority: Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)] | None = None
    """smaller is more urgent, for policies that use it"""
    program: Name | None = None
    """session or agent run that it belongs to; also by the header X-Session-Affinity"""
    deadline_s: Seconds | None = None
    """seconds from its arrival to its end: an objective for policies, not enforced"""
    ttft_slo_s: Seconds | None = None
    """seconds from its arrival to its first token; without deadline_s, the deadline for policies"""
    tpot_slo_s: Seconds | None = None
    """seconds for each later token"""

    def scheduling(self, session: str) -> Scheduling:
        """session: from the header, for a request without a program."""
        return Scheduling(
            self.program or session, self.priority or 0, self.deadline_s, self.ttft_slo_s, self.tpot_slo_s
        )
