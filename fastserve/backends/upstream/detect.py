"""Detect: which API an upstream has, by asking what only one of them answers. Waits for one that is not up yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from fastserve.backends.upstream.api import Api, Facts
from fastserve.backends.upstream.connection import AGAIN, BrokenError, Connection, UpstreamError
from fastserve.backends.upstream.llama_server import LlamaServer
from fastserve.backends.upstream.ollama import Ollama
from fastserve.backends.upstream.openai import OpenAi
from fastserve.server_kinds import OWNERS, which

log = logging.getLogger("fastserve")

APIS: Final = ("auto", "openai", "ollama")

WAIT_S: Final = 60.0
"""Seconds that a start waits for an upstream that is not there, or still loads its model."""

PAUSE_S: Final = 0.5
SAY_S: Final = 5.0


def find(
    connection: Connection, api: str, model: str | None, context: int | None = None, wait_s: float = WAIT_S
) -> tuple[Api, Facts]:
    """api: one of APIS. context: tokens for which Ollama shall make room.

    Raises ConnectionError where nobody answers, ValueError for what answers otherwise.
    """
    found: Api = waited(lambda: _which(connection, api, context), connection.address.url, wait_s)
    try:
        return found, waited(lambda: found.facts(connection, model), connection.address.url, wait_s)
    except UpstreamError as error:
        raise ValueError(f"upstream {connection.address.url}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"upstream {connection.address.url}: it answers as {found.name} does not: {error!r}; give upstream_api"
        ) from error


def waited(ask: Callable[[], Any], url: str, wait_s: float) -> Any:
    """What it returns, asked again for a while if nobody is there or the model still loads."""
    began = told = time.monotonic()
    while True:
        try:
            return ask()
        except (BrokenError, UpstreamError) as error:
            if isinstance(error, UpstreamError) and error.status not in AGAIN:
                raise
            now = time.monotonic()
            if now - began >= wait_s:
                raise ConnectionError(
                    f"upstream {url} has not answered for {wait_s:.0f} s: {error}; start it, or give another upstream"
                ) from None
            if now - told >= SAY_S or told == began:
                log.warning("waiting for upstream %s: %s", url, error)
                told = now
        time.sleep(PAUSE_S)


def _which(connection: Connection, api: str, context: int | None) -> Api:
    if api == "ollama":
        return Ollama(context)
    asking = which(ollama=api == "auto")
    path = next(asking)
    while True:
        try:
            path = asking.send(_answer(connection, path))
        except StopIteration as end:
            kind = end.value.kind
            break
    if not kind:
        raise ValueError(
            f"upstream {connection.address.url}: no API that is known here answers (OpenAI's /v1/models, llama.cpp's "
            "/props, Ollama's /api/version); is the address right?"
        )
    if kind == "llama-server":
        return LlamaServer()
    if kind == "ollama":
        return Ollama(context)
    return OpenAi(kind, extended=kind in OWNERS)


def _answer(connection: Connection, path: str) -> Any:
    """None where there is no such route. Raises for a server that refuses, or is not ready."""
    try:
        return connection.ask("GET", path)
    except UpstreamError as error:
        if error.status in (401, 403, *AGAIN):
            raise
        return None
