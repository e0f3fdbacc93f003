"""Stub server with given delays and no model, to measure the overhead of a client.

    python -m fastserve.bench.stub --port 9000 --ttft-ms 20 --tpot-ms 5

It serves the routes of all request formats, one token an event; a character of text is a token. Standard library only:
it must not be slower than the client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

TEXT_CHUNK = {"id": "cmpl-0", "object": "text_completion", "created": 0, "model": "stub"}
CHAT_CHUNK = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "stub"}
STATUS = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Behaviour for one request. Times in seconds."""

    ttft: float = 0.0
    tpot: float = 0.0
    tokens: int | None = None
    """Output tokens; None: stop_after, else the request's limit."""
    status: int = 200
    """Other than 200: only an error in OpenAI's format."""
    breaks_after: int | None = None
    """Close the connection after so many tokens."""
    error_after: int | None = None
    """End with an error event after so many tokens."""
    cached: int | None = None
    """Prompt tokens that it says were found in a cache."""
    hangs: bool = False
    """No response, until the client disconnects."""


@dataclass(slots=True)
class ReceivedRequest:
    """A request, as received."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    left: bool = False
    """The client disconnected before its response was complete."""


@dataclass(slots=True)
class Stub:
    """answer: called for each request with its number, from 0, and its body."""

    answer: Callable[[int, dict[str, Any]], Behaviour] = field(default=lambda number, body: Behaviour())
    owned_by: str = "stub"
    """`fastserve`: clients treat it as our own server."""
    max_model_len: int = 1 << 20
    seen: list[ReceivedRequest] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    """Programs that clients have said to be over."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> asyncio.Server:
        """A listening server; port 0 is a free one (see `address`)."""
        return await asyncio.start_server(self._connection, host, port, backlog=4096)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and await self._request(head, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # disconnect, or the event loop is closing: Python 3.11 reports that as an error otherwise
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _request(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handles one request. Returns whether the connection stays open."""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "DELETE" and path.startswith(PROGRAMS):
            self.over.append(unquote(path.removeprefix(PROGRAMS)))
            self._whole(writer, 200, {"program": self.over[-1], "released": True})
            await writer.drain()
            return True
        if method != "POST":
            self._whole(writer, *self._look(path), body=method != "HEAD")
            await writer.drain()
            return True
        body = json.loads(data)
        if path == "/tokenize":
            self._whole(writer, 200, {"count": len(body["prompt"])})
        elif path not in EVENTS and path != NOBATCH:
            self._whole(writer, *self._look(path))
        else:
            return await self._answer(ReceivedRequest(path, headers, body, left=True), writer)
        await writer.drain()
        return True

    async def _answer(self, seen: ReceivedRequest, writer: asyncio.StreamWriter) -> bool:
        self.seen.append(seen)
        lives = await self._generate(seen, self.answer(len(self.seen) - 1, seen.body), writer)
        await writer.drain()
        seen.left = False
        return lives

    def _look(self, path: str) -> tuple[int, Any]:
        if path == "/v1/models":
            entry = {"id": "stub", "object": "model", "owned_by": self.owned_by, "max_model_len": self.max_model_len}
            return 200, {"object": "list", "data": [entry]}
        if path in ("/health", "/health/ready"):
            return 200, {"status": "healthy"}
        if path == "/model":
            return 200, {"vocab_size": 257, "eos": [256], "device": "none", "max_batch_size": 1 << 20}
        return 404, {"error": {"message": f"no route {path}", "type": "NotFoundError", "param": None, "code": 404}}

    @staticmethod
    def _whole(writer: asyncio.StreamWriter, status: int, answer: Any, body: bool = True) -> None:
        data = json.dumps(answer).encode()
        head = f"HTTP/1.1 {status} {STATUS[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        writer.write(head.encode() + b"\r\n\r\n" + (data if body else b""))

    async def _generate(self, seen: ReceivedRequest, how: Behaviour, writer: asyncio.StreamWriter) -> bool:
        if how.hangs:
            await asyncio.Event().wait()
        if how.status != 200:
            message = {
                "message": f"the stub answers {how.status}",
                "type": "StubError",
                "param": None,
                "code": how.status,
            }
            self._whole(writer, how.status, {"error": message})
            return True
        body = seen.body
        allowed = body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_new_tokens") or 16
        tokens = how.tokens or min(body.get("stop_after") or allowed, allowed)
        prompt = body["prompt"] if "prompt" in body else "".join([message["content"] for message in body["messages"]])
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": tokens,
            "total_tokens": len(prompt) + tokens,
        } | ({} if how.cached is None else {"prompt_tokens_details": {"cached_tokens": how.cached}})
        ids = bool(body.get("return_token_ids"))
        if seen.path == NOBATCH:
            await asyncio.sleep(how.ttft + how.tpot * (tokens - 1))
            answer = {"text": "x" * tokens, "tokens_generated": tokens, "usage": usage, "finish_reason": "length"}
            self._whole(writer, 200, answer | {"time_to_first_token": how.ttft, "preemption_count": 0})
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        events = EVENTS[seen.path]
        loop = asyncio.get_running_loop()
        due = loop.time() + how.ttft
        for at in range(tokens):
            if how.breaks_after == at:
                writer.close()
                return False
            if how.error_after == at:
                writer.write(chunked({"error": {"message": "the stub fails here", "type": "StubError"}}) + b"0\r\n\r\n")
                return True
            await asyncio.sleep(due - loop.time())
            if writer.is_closing():
                return False
            writer.write(events(at, tokens, ids))
            due += how.tpot
        if events is native:
            final = {"text": "", "token": "", "is_final": True, "final": True, "finish_reason": "length"}
            writer.write(chunked(final | {"tokens_generated": tokens, "usage": usage, "preemption_count": 0}))
        else:
            if body.get("stream_options", {}).get("include_usage"):
                writer.write(chunked((CHAT_CHUNK if events is chat else TEXT_CHUNK) | {"choices": [], "usage": usage}))
            writer.write(chunked(b"[DONE]"))
        writer.write(b"0\r\n\r\n")
        return True


def chunked(event: Any) -> bytes:
    """One event as one chunk of a chunked body."""
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    data = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def completion(at: int, tokens: int, ids: bool) -> bytes:
    reason = "length" if at == tokens - 1 else None
    choice = {"index": 0, "text": "x", "logprobs": None, "finish_reason": reason}
    choice |= {"token_ids": [120]} if ids else {}
    return chunked(TEXT_CHUNK | {"choices": [choice]})


def chat(at: int, tokens: int, ids: bool) -> bytes:
    """The first event is preceded by a chunk with the role and no token."""
    reason = "length" if at == tokens - 1 else None
    role = (
        chunked(CHAT_CHUNK | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        if at == 0
        else b""
    )
    return role + chunked(CHAT_CHUNK | {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": reason}]})


def native(at: int, tokens: int, ids: bool) -> bytes:
    event = {"text": "x", "token": "x", "job_id": "0", "tokens_generated": at + 1, "is_final": False}
    return chunked(event | ({"token_ids": [120]} if ids else {}))


EVENTS = {"/v1/completions": completion, "/v1/chat/completions": chat, "/generate/stream": native}
NOBATCH = "/v1/generate_nobatch"
PROGRAMS = "/programs/"


def address(server: asyncio.Server) -> str:
    """http://host:port of a listening server."""
    host, port = server.sockets[0].getsockname()[:2]
    return f"http://{host}:{port}"


async def serve(stub: Stub, port: int) -> None:
    async with await stub.start(port=port) as server:
        print(address(server), flush=True)
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastserve.bench.stub", description=__doc__, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which is printed first")
    parser.add_argument("--ttft-ms", type=float, default=20.0)
    parser.add_argument("--tpot-ms", type=float, default=5.0)
    parser.add_argument("--own", action="store_true", help="report owned_by=fastserve, as this package's own server")
    args = parser.parse_args()
    how = Behaviour(ttft=args.ttft_ms / 1e3, tpot=args.tpot_ms / 1e3)
    stub = Stub(lambda number, body: how, owned_by="fastserve" if args.own else "stub")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(stub, args.port))


if __name__ == "__main__":
    main()
