"""States of a job, and what task queues call them."""

from __future__ import annotations

from typing import Literal

TaskState = Literal["PENDING", "STARTED", "SUCCESS", "FAILURE", "REVOKED"]

TASK_STATES: dict[str, TaskState] = {
    "queued": "PENDING",
    "running": "STARTED",
    "preempted": "STARTED",
    "finished": "SUCCESS",
    "failed": "FAILURE",
    "cancelled": "REVOKED",
}
"""State of a job -> status of a task, in Celery's terms."""

ENDED = ("finished", "failed", "cancelled")
