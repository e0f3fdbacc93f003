"""Entry: one complete answer as its upstream sent it, and its replay under a new id."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

from starlette.responses import Response, StreamingResponse

from fastserve.server.http.ids import new_id

ENDINGS = ("stop", "length", "tool_calls", "function_call", "content_filter", "eos")
"""Reasons to end with which an answer is complete."""

PIECE = 1 << 14
"""Bytes of a replayed stream that are sent at once, to the end of an event."""

IDS = ("id", "job_id", "request_id")
EVENT = b"\n\n"
DONE = b"data: [DONE]"
ERROR = b'"error"'
COMMENT = re.compile(rb"(?m)^:.*\n\n?")
DIGEST = 16


class Entry(NamedTuple):
    """id, created: as they stand in the body, to be replaced; "" and 0 where there are none."""

    content_type: str
    id: str
    created: int
    body: bytes

    def packed(self) -> bytes:
        """With a digest in front: what has changed since is no entry."""
        head = json.dumps([self.content_type, self.id, self.created]).encode()
        data = head + b"\n" + self.body
        return hashlib.blake2b(data, digest_size=DIGEST).digest() + data

    @property
    def is_stream(self) -> bool:
        return self.content_type.startswith("text/event-stream")


def unpacked(value: bytes) -> Entry | None:
    """None for what is damaged."""
    digest, data = value[:DIGEST], value[DIGEST:]
    if hashlib.blake2b(data, digest_size=DIGEST).digest() != digest:
        return None
    head, _, body = data.partition(b"\n")
    content_type, id, created = json.loads(head)
    return Entry(content_type, id, created, body)


def plain(content_type: str, body: bytes) -> Entry | None:
    """Of a whole answer; None where it is not a complete, successful one."""
    found = _object(body)
    if found is None or not _complete(found):
        return None
    return Entry(content_type, _id(found), _created(found), body)


def streamed(content_type: str, body: bytes) -> Entry | None:
    """Of all bytes of a stream of events; None where it has not ended, or not well."""
    body = body.replace(b"\r\n", b"\n")
    if body.startswith(b":") or b"\n:" in body:
        body = COMMENT.sub(b"", body)
    if not body.endswith(EVENT):
        return None
    events = body[: -len(EVENT)].rsplit(EVENT, 3)
    if events[-1] == DONE:
        events.pop()
    elif b"is_final" not in events[-1]:
        return None
    last = [_data(event) for event in events[-2:]]
    if not last or last[-1] is None:
        return None
    if last[-1].get("choices") == [] and len(last) > 1:  # the one with the usage comes after the last token's
        last.pop()
    end = last[-1]
    if end is None or not _complete(end):
        return None
    if ERROR in body and any(_failed(event) for event in body.split(EVENT) if ERROR in event):
        return None
    return Entry(content_type, _id(end), _created(end), body)


def replayed(entry: Entry, age: float) -> Response:
    """age: s."""
    headers = {"X-Cache": "hit", "Age": str(max(0, int(age)))}
    body = entry.body
    if entry.id:
        prefix, dash, _ = entry.id.rpartition("-")
        body = body.replace(json.dumps(entry.id).encode(), json.dumps(f"{prefix}{dash}{new_id()}").encode())
    if entry.created:
        now = b"%d" % time.time()
        body = re.sub(rb'("created": ?)%d\b' % entry.created, rb"\g<1>" + now, body)
    if entry.is_stream:
        headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # as streams of our servers have it
        return StreamingResponse(_pieces(body), headers=headers, media_type=entry.content_type)
    return Response(body, headers=headers, media_type=entry.content_type)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for piece in pieces(body):
        yield piece


def pieces(body: bytes) -> Iterator[bytes]:
    """Cut at the ends of events."""
    at = 0
    while at < len(body):
        end = body.find(EVENT, min(at + PIECE, len(body)))
        end = len(body) if end < 0 else end + len(EVENT)
        yield body[at:end]
        at = end


def _complete(answer: dict[str, Any]) -> bool:
    if "error" in answer and answer["error"] is not None:
        return False
    choices = answer.get("choices")
    if choices is None:
        return answer.get("finish_reason") in ENDINGS
    return (
        isinstance(choices, list)
        and len(choices) == 1
        and isinstance(choices[0], dict)
        and choices[0].get("finish_reason") in ENDINGS
    )


def _id(answer: dict[str, Any]) -> str:
    return next((found for name in IDS if isinstance(found := answer.get(name), str) and len(found) >= 8), "")


def _created(answer: dict[str, Any]) -> int:
    found = answer.get("created")
    return found if type(found) is int and found > 0 else 0


def _failed(event: bytes) -> bool:
    """Whether it is an error's, after which its server went on."""
    found = _data(event)
    return found is not None and found.get("error") is not None


def _data(event: bytes) -> dict[str, Any] | None:
    return _object(event.removeprefix(b"data:")) if event.startswith(b"data:") else None


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
