"""QueueSettings: what a server or gateway is told about the queue of its jobs."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from fastserve.jobqueue import redis_url
from fastserve.sched.checks import LONGEST_S, MOST, SHORTEST_S


def _checked(value: SecretStr) -> SecretStr:
    redis_url.checked(value.get_secret_value())
    return value


Count = Annotated[int, Field(ge=1, le=MOST)]
Positive = Annotated[float, Field(ge=SHORTEST_S, le=LONGEST_S, allow_inf_nan=False)]


class QueueSettings(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    queue: Annotated[SecretStr, AfterValidator(_checked)] | None = None
    """redis://HOST:PORT: jobs sent to /jobs and /send_text go there, and `fastserve worker` runs them"""
    queue_jobs: Count = 10_000
    """jobs in that queue, waiting and running; more are refused with 503"""
    queue_mib: Positive = 1024.0
    """MiB of their requests; more are refused with 503"""
    queue_hours: Positive = 24.0
    """hours for which that queue keeps the results of jobs"""
