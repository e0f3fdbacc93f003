"""Scheduled: what a request of any route may tell the scheduler and the prefix cache."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from fastserve.server.api.fields import Text
from fastserve.server.api.program_names import ProgramFields, inner
from fastserve.server.config.ranges import Seconds, Tokens

URGENT = 1 << 31
"""Bound of priorities, either way."""

MAX_SALT = 128
NOT_IN_SALT = "@/\\\0"
"""vLLM's rules, for a salt that is right here is right there."""


def _salt(value: Any) -> Any:
    if value is not None and not (
        isinstance(value, str) and 1 <= len(value) <= MAX_SALT and not any(sign in value for sign in NOT_IN_SALT)
    ):
        raise ValueError(f"it must be text of 1 to {MAX_SALT} characters, without '@', '/', '\\' or NUL")
    return value


Salt = Annotated[Text | None, BeforeValidator(_salt)]


class Scheduled(ProgramFields):
    """Fields for the scheduler on native and OpenAI's routes. Null means not given."""

    priority: Annotated[int, Field(ge=-URGENT, lt=URGENT)] | None = None
    """smaller is more urgent, for policies that use it"""
    guess: Tokens | None = None
    """predicted output length, for policies that need one"""
    deadline_s: Seconds | None = None
    """seconds from its arrival to its end: an objective for policies, not enforced"""
    ttft_slo_s: Seconds | None = None
    """seconds from its arrival to its first token; without deadline_s, the deadline for policies"""
    tpot_slo_s: Seconds | None = None
    """seconds for each later token"""
    cache_salt: Salt = None
    """prompts share KV only with those of the same salt: a secret keeps others from finding out what was asked"""

    @model_validator(mode="after")
    def _hints(self) -> Scheduled:
        """Dynamo's agent_hints say what is not said in our words; there more is more urgent."""
        hints = inner(self.nvext, ("agent_hints",))
        for name, least in (("priority", 1 - URGENT), ("osl", 1)):
            value = inner(hints, (name,))
            if value is None:
                continue
            if type(value) is not int or not least <= value < URGENT:
                raise ValueError(f"nvext.agent_hints.{name} must be a whole number from {least:,} to {URGENT - 1:,}")
            if name == "priority" and self.priority is None:
                self.priority = -value
            elif name == "osl" and self.guess is None:
                self.guess = value
        return self

    @property
    def brings(self) -> str:
        """The tool whose result the prompt brings, where its messages say it."""
        return ""
