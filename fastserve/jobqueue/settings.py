"""QueueSettings: where durable jobs are queued. A base of the server's and of the gateway's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from fastserve.jobqueue import redis_url
from fastserve.sched.checks import LONGEST_S, MOST, SHORTEST_S


def _checked(value: SecretStr) -> SecretStr:
    redis_url.checked(value.get_secret_value())
    return value


class QueueSettings(BaseSettings):
    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    # -- a queue across machines
    queue: Annotated[SecretStr, AfterValidator(_checked)] | None = None
    """redis://HOST:PORT: jobs sent to /jobs and /send_text go there, and `fastserve worker` runs them"""
    queue_jobs: Annotated[int, Field(ge=1, le=MOST)] = 10_000
    """jobs in that queue, waiting and running; more are refused with 503"""
    queue_mib: Annotated[float, Field(ge=SHORTEST_S, le=LONGEST_S, allow_inf_nan=False)] = 1024.0
    """MiB of their requests; more are refused with 503"""
    queue_hours: Annotated[float, Field(ge=SHORTEST_S, le=LONGEST_S, allow_inf_nan=False)] = 24.0
    """hours for which that queue keeps the results of jobs"""
