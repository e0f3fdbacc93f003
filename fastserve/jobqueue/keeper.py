"""Keeper: puts jobs back into the queue whose message was lost.

A worker takes a message off its list and notes it as not acknowledged in two steps; one that is killed between them
takes the message with it, and so does an answer of Redis that never arrives. The job itself stays in Redis, so it is
sent again. Of two messages for one job, the second finds it running or ended.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from fastserve.jobqueue import messages, redis_url
from fastserve.jobqueue.messages import PREFIX

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger("fastserve.queue")

MOST = 100_000
"""Messages that one look reads; there are hardly more than jobs in the queue."""


class Keeper:
    """A thread that looks every look_s seconds; of all workers one at a time. grace_s: what is younger is let be."""

    def __init__(self, url: str, celery: Celery, look_s: float, grace_s: float) -> None:
        from redis import Redis

        self.redis: Any = Redis.from_url(
            url, socket_timeout=redis_url.ANSWER_S, socket_connect_timeout=redis_url.CONNECT_S
        )
        self.celery = celery
        self.look_s = look_s
        self.grace_s = grace_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fastserve-queue-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(redis_url.ANSWER_S * 2)
        self.redis.close()

    def _run(self) -> None:
        while not self._stopped.wait(self.look_s):
            try:
                self.look()
            except Exception as error:  # Redis is gone, or full: the worker says so
                log.debug("no look at the queue: %s", error)

    def look(self) -> int:
        """Sends the lost ones again; returns how many. Raises redis' and kombu's errors."""
        lists = messages.lists()
        pipe = self.redis.pipeline(transaction=True)
        pipe.zcard(f"{PREFIX}pending").hlen(messages.UNACKNOWLEDGED)
        for key in lists:
            pipe.llen(key)
        pending, *there = pipe.execute()
        if pending <= sum(there):
            return 0
        if not self.redis.set(f"{PREFIX}keeper", "1", nx=True, px=max(1, round(self.look_s * 900))):
            return 0
        sent = self._named()
        seconds, microseconds = self.redis.time()
        before = seconds + microseconds / 1e6 - self.grace_s
        lost = [id.decode() for id in self.redis.zrangebyscore(f"{PREFIX}pending", "-inf", before)]
        lost = [id for id in lost if id not in sent and not self.redis.exists(f"{PREFIX}lease:{id}")]
        for id in lost:
            place = self.redis.hget(f"{PREFIX}job:{id}", "priority") or b""
            self.celery.send_task(
                messages.TASK, (id,), task_id=id, retry=False,
                priority=int(place) if place.isdigit() else messages.USUAL,
            )  # fmt: skip
        if lost:
            log.warning("%d jobs had lost their place in the queue and were put back: %s", len(lost),
                        ", ".join(lost[:5]))  # fmt: skip
        return len(lost)

    def _named(self) -> set[str]:
        """Ids of the jobs that some message names. A worker puts aside what cannot be read."""
        pipe = self.redis.pipeline(transaction=True)
        for key in messages.lists():
            pipe.lrange(key, 0, MOST)
        pipe.hvals(messages.UNACKNOWLEDGED)
        *waiting, taken = pipe.execute()
        found = {_named(text) for texts in waiting for text in texts} | {_named(text, held=True) for text in taken}
        return found - {""}


def _named(text: bytes, held: bool = False) -> str:
    """held: by a worker, with where it was sent. "" where it cannot be read."""
    try:
        found = json.loads(text)
        return messages.job_of(found[0] if held else found)
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
