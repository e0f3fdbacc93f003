"""Kombu's transport over Redis, but for what it does with messages when their connection has been lost.

kombu 5.7 wants to put them back, or to acknowledge them, over a connection that is closed already; the AttributeError
that this ends in ends the worker too. Here they stay where they are: a job's end takes its message away (scripts.END),
and one whose worker is gone goes to another after the visibility timeout.
"""

from __future__ import annotations

from kombu.transport import redis


class Channel(redis.Channel):
    do_restore = False

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if self.connection is not None and not self.closed:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if self.connection is not None and not self.closed:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    Channel = Channel
