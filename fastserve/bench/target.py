"""Discovery of the server under test, before a run: models, context, vocabulary, token counts."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastserve.bench.api_formats import error_message

OWNER = "fastserve"
"""`owned_by` in the /v1/models of our own server."""


class TargetError(Exception):
    """The server cannot be queried; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Facts that a server reports about itself."""

    models: tuple[str, ...] = ()
    own: bool = False
    """It is this package's server, which supports stop_after."""
    max_model_len: int | None = None
    vocab_size: int | None = None
    backend: str | None = None
    """The body of our own server's engine."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All settings of our own server's engine; `knobs` are its policy's, and `derived` what that makes of them."""


class TargetClient:
    """Queries to a server, one at a time."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, timeout_s: float = 10.0) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        self.timeout_s = timeout_s
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, body: Any = None) -> Any:
        """GET, or POST with a body. None if there is no such route or its response is not JSON.

        Raises TargetError if there is no connection, or if a token is needed.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self.headers)
        try:
            with self._opener.open(request, timeout=self.timeout_s) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (401, 403):
                    raise TargetError(f"{self.url} refuses the request: {_error_of(error)}; give --api-key") from None
            return None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise TargetError(f"no connection to {self.url} ({reason}); is the server running?") from None
        except ValueError:
            return None

    def probe(self, wait_s: float = 0.0) -> Target:
        """Queries the server; waits up to wait_s until it is reachable. Raises TargetError."""
        until = time.monotonic() + wait_s
        while True:
            try:
                listed = self.ask("/v1/models")
                break
            except TargetError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.2)
        entries = listed.get("data") if isinstance(listed, dict) else None
        entries = [entry for entry in entries or () if isinstance(entry, dict)]
        own = any(entry.get("owned_by") == OWNER for entry in entries)
        about = self.ask("/model") if own else None
        about = about if isinstance(about, dict) else {}
        health = self.ask("/health") if own else None
        lengths = [entry["max_model_len"] for entry in entries if isinstance(entry.get("max_model_len"), int)]
        detailed = self.ask("/stats/detailed") if own else None
        settings = detailed.get("settings") if isinstance(detailed, dict) else None
        vocab = about.get("vocab_size")
        return Target(
            models=tuple([str(entry["id"]) for entry in entries if "id" in entry]),
            own=own,
            max_model_len=min(lengths, default=None),
            vocab_size=vocab if isinstance(vocab, int) else None,
            backend=health.get("backend_type") if isinstance(health, dict) else None,
            settings=settings if isinstance(settings, dict) else {},
        )

    def counts(self, model: str | None, text: str) -> int | None:
        """Number of tokens of a text by POST /tokenize; None where the server has no such route."""
        answer = self.ask("/tokenize", {"prompt": text} if model is None else {"model": model, "prompt": text})
        count = answer.get("count") if isinstance(answer, dict) else None
        return count if isinstance(count, int) else None


def _error_of(error: urllib.error.HTTPError) -> str:
    try:
        return f"HTTP {error.code}, {error_message(json.loads(error.read()))}"
    except (ValueError, OSError):
        return f"HTTP {error.code}"
