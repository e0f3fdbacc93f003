"""Writer: the parts of an answer that streams, written from a callback of the event loop and not by a task.

A gateway passes on some ten thousand parts a second. ASGI's send() costs a turn of a task and some five calls for each,
half of what a part costs in all; this is what uvicorn's send() does in the end. Extension of the ASGI scope: WRITER.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

WRITER = "fastserve.writer"
"""Key of scope["extensions"]."""


class Writer:
    """Between the http.response.start and the last http.response.body of one answer, which go through send()."""

    __slots__ = ("cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle

    @property
    def ready(self) -> bool:
        """Whether the answer has begun, and in a form whose parts may be written one by one."""
        cycle = self.cycle
        return bool(
            cycle.response_started and cycle.chunked_encoding and not cycle.response_complete
            and cycle.scope["method"] != "HEAD"
        )  # fmt: skip

    def write(self, data: bytes) -> bool:
        """Nothing for a client that has left. False: the client reads slowly, await drained() before more."""
        cycle = self.cycle
        if cycle.disconnected:
            return True
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return not cycle.flow.write_paused

    async def drained(self) -> None:
        if not self.cycle.disconnected:
            await self.cycle.flow.drain()


def writer_of(scope: Mapping[str, Any]) -> Writer | None:
    """None where the server has no such extension, as in tests without sockets."""
    found: Writer | None = (scope.get("extensions") or {}).get(WRITER)
    return found
