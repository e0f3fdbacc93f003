"""kept: a response that passes on byte for byte while the answer in it is collected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from fastserve.gateway.call import closed
from fastserve.gateway.conversations.collected import Collector
from fastserve.gateway.conversations.turns import Turn

Keep = Callable[[Mapping[str, Any]], Awaitable[None]]


async def kept(response: Response, turn: Turn, most: int, keep: Keep) -> Response:
    """The same response. most: bytes of an answer. keep(message) is awaited once, before the last of a complete answer
    is passed on; the turn ends with the response, or with its last reference.
    """
    collector = Collector(response.headers.get("content-type", "").startswith("text/event-stream"), most)
    if response.status_code != 200:
        turn.end()
    elif isinstance(response, StreamingResponse):
        response.body_iterator = _passed(response.body_iterator, turn, collector, keep)
    else:
        collector.feed(bytes(response.body))
        await _end(collector, keep)
        turn.end()
    return response


async def _passed(parts: Any, turn: Turn, collector: Collector, keep: Keep) -> AsyncIterator[bytes]:
    """Of a stream that breaks nothing is kept, nor of one that its client leaves."""
    told = False
    try:
        async for part in parts:
            data = part.encode() if isinstance(part, str) else bytes(part)
            collector.feed(data)
            if collector.over and not told:
                told = True
                await _end(collector, keep)
            yield data
        if not told:
            await _end(collector, keep)
    finally:
        turn.end()
        await closed(parts)


async def _end(collector: Collector, keep: Keep) -> None:
    message = collector.end()
    if message is not None:
        await keep(message)
