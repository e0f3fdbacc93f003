"""Celery's part: one task that names a job, in one queue with ten priorities, acknowledged when the job has ended."""

from __future__ import annotations

import base64
import json
import ssl
from typing import TYPE_CHECKING, Any

from fastserve.jobqueue import redis_url

if TYPE_CHECKING:
    from celery import Celery

PREFIX = "fastserve:"
"""Of all our keys in Redis, Celery's among them."""

TASK = "fastserve.run"
QUEUE = "queue"
PRIORITIES = 10
USUAL = 5
VISIBILITY_S = 60.0
"""Seconds without a sign of life after which a worker counts as dead, and its jobs go to another."""

UNACKNOWLEDGED, UNACKNOWLEDGED_INDEX = f"{PREFIX}unacked", f"{PREFIX}unacked_index"
SEPARATOR = ":"

UNREADABLE = f"{PREFIX}unreadable"
"""The list of messages that nobody can read, the newest first; they are put aside there and looked at by nobody."""
UNREADABLE_MOST, UNREADABLE_LONGEST = 100, 1 << 16
"""How many are kept, and how many bytes of each."""

OPTIONS: dict[str, object] = {"eta": None, "expires": None, "compression": None, "timelimit": [None, None],
                              "stamps": {}, "stamped_headers": None}  # fmt: skip
"""Headers that Celery obeys and no message of ours sets -> how they are then."""


def celery(url: str, visibility_s: float = VISIBILITY_S) -> Celery:
    """Raises MissingPackageError. Nothing is connected to yet."""
    try:
        from celery import Celery
    except ModuleNotFoundError as error:
        raise redis_url.missing(error) from error
    app = Celery("fastserve", broker=url, set_as_current=False)
    app.conf.update(
        broker_transport="fastserve.jobqueue.transport:Transport",
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss:") else None,
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_priority=USUAL,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        broker_connection_timeout=redis_url.CONNECT_S,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport(visibility_s),
    )
    return app


def _transport(visibility_s: float) -> dict[str, Any]:
    """A worker that is killed holds the mutex of those that look for its messages: it lapses with them."""
    return {
        "global_keyprefix": PREFIX,
        "sep": SEPARATOR,
        "priority_steps": list(range(PRIORITIES)),
        "queue_order_strategy": "priority",
        "visibility_timeout": visibility_s,
        "unacked_restore_interval": max(0.2, visibility_s / 6),
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": max(1, round(visibility_s / 2)),
        "socket_connect_timeout": redis_url.CONNECT_S,
        "socket_timeout": redis_url.ANSWER_S,
        "socket_keepalive": True,
    }


def priority(wanted: object) -> int:
    """Of a message, 0 goes first. wanted: of a request, where 0 is usual and the smaller is the sooner."""
    return min(PRIORITIES - 1, max(0, USUAL + wanted)) if isinstance(wanted, int) else USUAL


def lists() -> list[str]:
    """Keys of the lists in which messages wait."""
    return [f"{PREFIX}{QUEUE}{SEPARATOR}{number}" if number else f"{PREFIX}{QUEUE}" for number in range(PRIORITIES)]


def job_of(message: object) -> str:
    """Id of the job that a message names, decoded as Redis holds it. Raises ValueError for one that celery() above did
    not make: whoever writes into the queue's lists by hand would else stop the worker that takes it.
    """
    parts = message if isinstance(message, dict) else {}
    headers, properties = parts.get("headers"), parts.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise ValueError("it is no JSON object with headers and properties")
    if headers.get("task") != TASK:
        raise ValueError(f"it is no message for {TASK}")
    if any(headers.get(name) not in (None, unset) for name, unset in OPTIONS.items()):
        raise ValueError("it asks Celery for more than to run a job")
    if parts.get("content-type") != "application/json" or parts.get("content-encoding") != "utf-8":
        raise ValueError("its content is not JSON in UTF-8")
    where, tag = properties.get("delivery_info"), properties.get("delivery_tag")
    if not isinstance(where, dict) or not isinstance(tag, str) or properties.get("body_encoding") != "base64":
        raise ValueError("its properties are not those of a message of this queue")
    if not all(isinstance(where.get(name), str) for name in ("exchange", "routing_key")):
        raise ValueError("it does not say where it was sent")
    try:
        (id,), named, then = json.loads(base64.b64decode(parts["body"], validate=True))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("its body is not base64 of JSON that names one job") from error
    if named != {} or not isinstance(then, dict) or any(then.values()):
        raise ValueError("its body asks for more than to run a job")
    if not isinstance(id, str) or headers.get("id") != id:
        raise ValueError("its headers and its body do not name the same job")
    return id
