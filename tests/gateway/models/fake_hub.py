"""A hub on 127.0.0.1, as huggingface_hub 2.4 calls it: what a repository has, its files by range, and the search.

HF_ENDPOINT names it; it is what tests download from, with huggingface_hub's own code.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40
CHUNK = 1 << 16


class FakeHub:
    """repos: OWNER/NAME -> file -> content. locked: repository -> status and error code of its answers. bytes_per_s:
    of a file, None for no bound. asked: every request, as METHOD PATH. ranges: of those with one. tokens: that came.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.locked: dict[str, tuple[int, str]] = {}
        self.bytes_per_s: float | None = None
        self.asked: list[str] = []
        self.ranges: list[tuple[str, str]] = []
        self.sent = 0
        self.tokens: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, to: BaseHTTPRequestHandler, body: bool) -> None:
        parts = urlsplit(to.path)
        path = unquote(parts.path)
        self.asked.append(f"{to.command} {path}")
        if token := to.headers.get("Authorization"):
            self.tokens.add(token)
        if path == "/api/models":
            return self._json(to, self._found(parse_qs(parts.query)))
        repo, _, rest = path.removeprefix("/api/models/").lstrip("/").partition("/")
        name, _, rest = rest.partition("/")
        repo = f"{repo}/{name}"
        if repo in self.locked:
            status, code = self.locked[repo]
            return self._json(to, {"error": code}, status, {"X-Error-Code": code})
        if repo not in self.repos:
            return self._json(to, {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if rest.startswith("tree/"):
            return self._json(to, self._tree(repo))
        if rest.startswith("resolve/"):
            return self._file(to, repo, rest.split("/", 2)[2], body)
        siblings = [{"rfilename": each} for each in self.repos[repo]]
        return self._json(to, {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": []})

    def _found(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        words = query.get("search", [""])[0].lower()
        names = [name for name in self.repos if words in name.lower()]
        return [
            {"_id": name, "id": name, "modelId": name, "downloads": 9, "likes": 1, "gated": False, "tags": ["gguf"]}
            for name in names[: int(query.get("limit", ["5"])[0])]
        ]

    def _tree(self, repo: str) -> list[dict[str, Any]]:
        tree = []
        for name, content in self.repos[repo].items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": etag(content)[:40]}
            if _large(name):
                entry["lfs"] = {"oid": etag(content), "size": len(content), "pointerSize": 134}
            tree.append(entry)
        return tree

    def _file(self, to: BaseHTTPRequestHandler, repo: str, name: str, body: bool) -> None:
        content = self.repos[repo].get(name)
        if content is None:
            return self._json(to, {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        begin = 0
        if (given := to.headers.get("Range")) and body:
            self.ranges.append((name, given))
            begin = int(given.removeprefix("bytes=").rstrip("-"))
        tag = etag(content) if _large(name) else etag(content)[:40]
        to.send_response(206 if begin else 200)
        to.send_header("X-Repo-Commit", COMMIT)
        to.send_header("ETag", f'"{tag}"')
        if begin:
            to.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        to.send_header("Content-Length", str(len(content) - begin))
        to.end_headers()
        if not body:
            return None
        for at in range(begin, len(content), CHUNK):
            part = content[at : at + CHUNK]
            try:
                to.wfile.write(part)
            except OSError:
                to.close_connection = True
                return None
            self.sent += len(part)
            if self.bytes_per_s:
                time.sleep(len(part) / self.bytes_per_s)
        return None

    def _json(
        self, to: BaseHTTPRequestHandler, value: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        data = json.dumps(value).encode()
        to.send_response(status)
        to.send_header("Content-Type", "application/json")
        to.send_header("Content-Length", str(len(data)))
        for name, each in (headers or {}).items():
            to.send_header(name, each)
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(data)


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _large(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin"))


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join(5)
