"""Kombu's transport over Redis, but for messages whose connection has been lost, and for those that nobody can read.

kombu 5.7 wants to put them back, or to acknowledge them, over a connection that is closed already; the AttributeError
that this ends in ends the worker too. Here they stay where they are: a job's end takes its message away (scripts.END),
and one whose worker is gone goes to another after the visibility timeout.

What is no message of this queue would end the worker, too, and is gone from its list by then. It is put aside.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from kombu.transport import redis
from kombu.utils.json import loads
from redis import RedisError

from fastserve.jobqueue import messages

log = logging.getLogger("fastserve.queue")

SHOWN = 80
"""Bytes of an unreadable message that the log has."""


class Client(redis.PrefixedStrictRedis):
    """Takes no message off a list that cannot be read: to kombu it is as if none had come."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        found = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name == "BRPOP" and found:
            try:
                messages.job_of(_decoded(found[1]))
            except ValueError as error:
                self._put_aside(found[1], error)
                return None
        return found

    def _put_aside(self, text: bytes, why: ValueError) -> None:
        try:
            pipe = self.pipeline()  # type: ignore[no-untyped-call]
            pipe.lpush(messages.UNREADABLE.removeprefix(messages.PREFIX), text[: messages.UNREADABLE_LONGEST])
            pipe.ltrim(messages.UNREADABLE, 0, messages.UNREADABLE_MOST - 1)  # kombu prefixes LPUSH, not this one
            pipe.execute()
        except RedisError as error:
            log.debug("it is not kept: %s", error)
        log.warning("a message of the queue cannot be read, and was put aside in %s: %s: %r", messages.UNREADABLE,
                    why, text[:SHOWN])  # fmt: skip


def _decoded(text: bytes) -> object:
    """As kombu decodes it, which makes objects of some. Raises ValueError."""
    try:
        return loads(text.decode())  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ValueError("it is not JSON") from error


class Channel(redis.Channel):
    do_restore = False

    def _get_client(self) -> Callable[..., Any]:
        super()._get_client()  # type: ignore[no-untyped-call]  # looks at redis' version
        return functools.partial(Client, global_keyprefix=self.global_keyprefix)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if self.connection is not None and not self.closed:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if self.connection is not None and not self.closed:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    Channel = Channel
