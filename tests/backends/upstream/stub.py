"""Stub: small servers with the APIs of llama.cpp's server, vLLM, an OpenAI-compatible one and Ollama, on real sockets.

They are models of a kind: the next token depends on all tokens before it, so that one that is asked to go on with what
it has said says what it would have said. A token is a printable ASCII byte, and its id too. What goes wrong is a hook.
"""

from __future__ import annotations

import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VOCABULARY = 300
SYSTEM = "You are a stub.\n"

Hook = Callable[["Handler", dict[str, Any], int], bool]
"""(handler, body, number of this completion from 0) -> whether it has answered itself."""


def next_token(text: bytes) -> bytes:
    return bytes([32 + zlib.crc32(text) % 95])


def rendered(messages: list[dict[str, str]], goes_on: bool = False) -> str:
    text = SYSTEM + "".join(f"[{one['role']}]{one['content']}\n" for one in messages)
    return text[:-1] if goes_on else text + "[assistant]"


class Stub(ThreadingHTTPServer):
    """api: llama, vllm, fastserve, openai or ollama. step_s: between two tokens. ends: what ends an output."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, api: str = "llama", *, slots: int = 4, context: int = 96, step_s: float = 0.0,
                 ends: bytes | None = None, key: str | None = None, port: int = 0) -> None:  # fmt: skip
        self.api = api
        self.slots = slots
        self.context = context
        self.step_s = step_s
        self.ends = ends
        self.key = key
        self.hook: Hook | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []  # completions: path and body
        self.busy = 0
        self.handlers: set[Handler] = set()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that have gone are expected."""

    def stop(self) -> None:
        """As a process that is killed: nobody listens any more, and whoever is being answered is cut off."""
        self.shutdown()
        self.server_close()
        with self.lock:
            for handler in self.handlers:
                handler.drop()

    @contextmanager
    def place(self, handler: Handler) -> Iterator[None]:
        with self.lock:
            self.handlers.add(handler)
            self.busy += 1
        try:
            yield
        finally:
            with self.lock:
                self.handlers.discard(handler)
                self.busy -= 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        stub = self.server
        if not self._allowed():
            return
        routes: dict[str, dict[str, Any]] = {
            "llama": {
                "/props": {"total_slots": stub.slots, "default_generation_settings": {
                    "n_ctx": stub.context, "params": {"temperature": 0.5, "top_k": 9, "top_p": 0.9, "min_p": 0.05,
                                                      "repeat_penalty": 1.0}}},
                "/v1/models": {"data": [{"id": "tiny", "owned_by": "llamacpp", "meta": {"n_vocab": VOCABULARY}}]},
                "/slots": [{"is_processing": i < stub.busy} for i in range(stub.slots)],
            },
            "vllm": {
                "/v1/models": {"data": [{"id": "tiny", "owned_by": "vllm", "max_model_len": stub.context}]},
                "/metrics": 'vllm:cache_config_info{block_size="16",num_gpu_blocks="40"} 1.0\n'
                            f"vllm:num_requests_running{{}} {stub.busy}.0\n",
            },
            "fastserve": {
                "/v1/models": {"data": [{"id": "tiny", "owned_by": "fastserve", "max_model_len": stub.context}]},
                "/model": {"max_batch_size": stub.slots, "vocab_size": VOCABULARY},
            },
            "openai": {"/v1/models": {"data": [{"id": "tiny"}, {"id": "other"}]}},
            "ollama": {
                "/api/version": {"version": "0.30.0"}, "/api/tags": {"models": [{"name": "tiny:latest"}]},
                "/api/ps": {"models": []},
            },
        }  # fmt: skip
        found = routes[stub.api].get(self.path)
        self.answer(200 if found is not None else 404, {"error": "no such route"} if found is None else found)

    def do_POST(self) -> None:
        stub = self.server
        if not self._allowed():
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/show":
            shown = {
                "parameters": 'temperature 0.3\nnum_ctx 96\nstop "x"',
                "model_info": {"llama.context_length": 8192},
            }
            self.answer(200, shown)
        elif self.path == "/apply-template" and stub.api == "llama":
            self.answer(200, {"prompt": rendered(body["messages"])})
        elif self.path == "/tokenize" and stub.api in ("vllm", "fastserve"):
            prompt = rendered(body["messages"], body["continue_final_message"])
            self.answer(200, {"tokens": list(prompt.encode())})
        else:
            self._completion(body)

    def _completion(self, body: dict[str, Any]) -> None:
        stub = self.server
        with stub.lock:
            number = len(stub.asked)
            stub.asked.append((self.path, body))
        with stub.place(self), suppress(OSError):
            if stub.hook is None or not stub.hook(self, body, number):
                self.complete(body)

    def _allowed(self) -> bool:
        if self.server.key is None or self.headers.get("Authorization") == f"Bearer {self.server.key}":
            return True
        self.answer(401, {"error": {"message": "who are you?"}})
        return False

    # -- answers, for hooks too ------------------------------------------------------------------------------------

    def answer(self, status: int, found: Any) -> bool:
        """True, for hooks that answer with it."""
        data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return True

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def finish_chunks(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """In the middle, as a process that is killed."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def prompt_of(self, body: dict[str, Any]) -> bytes:
        if "messages" in body:
            last = body["messages"][-1]["role"] == "assistant"
            return rendered(body["messages"], goes_on=last).encode()
        prompt = body["prompt"]
        parts = [prompt] if isinstance(prompt, str) else prompt
        return b"".join(part.encode() if isinstance(part, str) else bytes([part % 256]) for part in parts)

    def complete(self, body: dict[str, Any], most: int | None = None, *, whole: bool = True) -> None:
        """most: tokens after which it stops without an end. whole: begin and end of the answer too."""
        api = self.server.api
        text = self.prompt_of(body)
        size, limit = len(text), body.get("max_tokens") or body.get("n_predict") or body["options"]["num_predict"]
        said, reason = 0, "length"
        if whole:
            self.begin()
        while said < limit:
            token = next_token(text)
            if token == self.server.ends and not body.get("ignore_eos"):
                reason = "stop"
                break
            if most is not None and said == most:
                return
            text += token
            said += 1
            self.chunk(self.event(api, body, token, said, size))
            if self.server.step_s:
                time.sleep(self.server.step_s)
        if most is not None and said >= most and said < limit:
            return
        for event in self.last(api, body, reason, said, size):
            self.chunk(event)
        if whole:
            self.finish_chunks()

    def event(self, api: str, body: dict[str, Any], token: bytes, said: int, size: int) -> bytes:
        text = token.decode()
        if api == "llama":
            return _sse({"content": text, "tokens": [token[0]], "stop": False, "tokens_predicted": said,
                         "tokens_evaluated": size})  # fmt: skip
        if api == "ollama":
            return _line({"message": {"content": text}} if "messages" in body else {"response": text})
        choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        choice |= {"delta": {"content": text}} if "messages" in body else {"text": text}
        if body.get("return_token_ids"):
            choice["token_ids"] = [token[0]]
        return _sse({"choices": [choice]})

    def last(self, api: str, body: dict[str, Any], reason: str, said: int, size: int) -> list[bytes]:
        if api == "llama":
            kind = "limit" if reason == "length" else "eos"
            return [_sse({"content": "", "tokens": [], "stop": True, "stop_type": kind, "tokens_predicted": said,
                          "tokens_evaluated": size})]  # fmt: skip
        if api == "ollama":
            return [_line({"done": True, "done_reason": reason, "prompt_eval_count": size, "eval_count": said})]
        text: dict[str, Any] = {"delta": {}} if "messages" in body else {"text": ""}
        counted = {"prompt_tokens": size, "completion_tokens": said, "total_tokens": size + said}
        return [_sse({"choices": [{"index": 0, **text, "finish_reason": reason}]}),
                _sse({"choices": [], "usage": counted}), b"data: [DONE]\n\n"]  # fmt: skip


def _sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _line(event: Any) -> bytes:
    return json.dumps(event).encode() + b"\n"


def answer_to(prompt: bytes, tokens: int) -> str:
    """What a stub says to it."""
    text = prompt
    for _ in range(tokens):
        text += next_token(text)
    return text[len(prompt) :].decode()


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(true: Callable[[], Any], most_s: float = 30.0) -> None:
    until = time.monotonic() + most_s
    while not true():
        assert time.monotonic() < until, "it did not come to it"
        time.sleep(0.005)


SECRET = re.compile("sesame-[0-9a-f]+")
