"""Ask the routes of an application, each once, with the shortest request that it takes."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

from fastserve.deploy.routes import Route, served

KEY = "FASTSERVE_API_KEY"
"""Variable with the token, where the gateway wants one."""

USUAL: tuple[dict[str, Any], ...] = ({"path": "/health", "outputs": []}, {"path": "/v1/models", "outputs": []},
         {"path": "/v1/completions", "outputs": [{"choices": "list"}]})  # fmt: skip
"""What is asked of an application that names no routes."""

WORDS = 8
TIMEOUT_S = 120.0
BODY: dict[str, Any] = {
    "prompt": "Once upon a time",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": WORDS,
    "max_new_tokens": WORDS,
    "tokens": [1, 2, 3],
}
"""Field -> what it is asked with, of those that a route has."""


def answers(url: str, apis: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(route, what is wrong with its answer or ""). Models are asked for by the first name in /v1/models."""
    model = ""
    try:
        listed = json.loads(_send(f"{url}/v1/models", None))["data"]
        model = listed[0]["id"] if listed else ""
    except (OSError, ValueError, LookupError, TypeError) as error:
        yield "GET /v1/models", _short(error)
    for api in list(apis) or USUAL:
        route = served()[api["path"].rstrip("/") or "/"]
        if "{" in api["path"]:
            continue  # of something that there is not yet
        method = "POST" if "POST" in route.methods else "GET" if "GET" in route.methods else ""
        if method:
            yield f"{method} {api['path']}", _fault(f"{url}{api['path']}", route, method, model, api["outputs"])


def _fault(url: str, route: Route, method: str, model: str, outputs: list[dict[str, Any]]) -> str:
    body = {name: value for name, value in BODY.items() if name in route.inputs} if method == "POST" else None
    if body is not None and model and "model" in route.inputs:
        body["model"] = model
    try:
        text = _send(url, body)
        wanted = [name for each in outputs for name in each if name != "optional"]
        if not wanted:
            return ""
        found = json.loads(text)
        missing = [name for name in wanted if name not in found]
        return f"its answer has no {', '.join(missing)}" if missing else ""
    except (OSError, ValueError) as error:
        return _short(error)


def _send(url: str, body: dict[str, Any] | None) -> str:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=TIMEOUT_S) as answer:
        return str(answer.read().decode())


def _short(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code}: {error.read().decode(errors='replace')[:300]}"
    return f"{type(error).__name__}: {str(error)[:300]}"
