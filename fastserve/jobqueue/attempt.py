"""Attempt: one job's request to a server or gateway, sent again as long as that is worth it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httpx

log = logging.getLogger("fastserve.queue")

ATTEMPTS = 5
"""A job fails after so many answers of 5xx, or connections that were lost while it ran."""

PATIENCE_S = 3600.0
"""Seconds for which it waits for a server that cannot be reached, or takes nothing (429, 503)."""

LONGEST_S = 3600.0
"""Seconds in which a server must have answered; a server's own bound (--request-timeout) is usually shorter."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
MOST_BYTES = 4 << 20
"""Of an answer."""

MOST_TOLD = 1000
"""Characters of a server's error that are kept."""

BUSY = (429, 503)


class Ended(NamedTuple):
    """answer: of the server, where state is finished; else error says why not."""

    state: str
    answer: dict[str, Any] | None = None
    error: str = ""


Failed = Callable[[], Awaitable[int]]
"""Counts a failed attempt of this job, in any worker; returns how many there are."""


class Attempt:
    """url: of the server or gateway. key: its token. pause_s: the first pause; each is up to twice the last."""

    def __init__(self, url: str, key: str = "", *, pause_s: float = FIRST_PAUSE_S, patience_s: float = PATIENCE_S,
                 connections: int = 100) -> None:  # fmt: skip
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/")
        self.pause_s = pause_s
        self.patience_s = patience_s
        self.stopping = asyncio.Event()
        self.http = httpx.AsyncClient(
            headers={**headers, "Content-Type": "application/json"},
            timeout=httpx.Timeout(LONGEST_S, connect=10, pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    async def run(self, id: str, body: bytes, failed: Failed, kept: bool = True) -> Ended | None:
        """Until it has an answer, or there is none to be had. Cancelling it closes the connection, and with it the
        request at the server. kept: a cache on the way may keep the answer. None: stop() came while it waited."""
        waiting_since = None
        pauses = 0
        while True:
            try:
                status, content, wait = await self._post(id, body, kept)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                status, said, wait = 0, f"{self.url} cannot be reached: {error}", 0.0
            except httpx.HTTPError as error:
                status, said, wait = 599, f"the connection to {self.url} was lost: {error or type(error).__name__}", 0.0
            else:
                if status == 200:
                    return _answer(content, self.url)
                said = _error(status, content)
                if status == 413 and len(content) > MOST_BYTES:
                    return Ended("failed", None, f"the answer is larger than {MOST_BYTES:,} bytes, which is not kept")
            if status == 0 or status in BUSY:
                waiting_since = time.monotonic() if waiting_since is None else waiting_since
                if time.monotonic() - waiting_since > self.patience_s:
                    return Ended("failed", None, f"{said} (for {self.patience_s:g} s)")
            elif status < 500:
                return Ended("failed", None, said)
            else:
                waiting_since = None
                attempts = await failed()
                if attempts >= ATTEMPTS:
                    return Ended("failed", None, f"{said} (attempt {attempts} of {ATTEMPTS})")
            if pauses == 0:
                log.warning("job %s: %s; it is sent again", id, said)
            if await self._stopped_within(max(wait, self._pause(pauses))):
                return None
            pauses += 1

    def stop(self) -> None:
        """Nothing is sent again from here on."""
        self.stopping.set()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return False
        return True

    def _pause(self, pauses: int) -> float:
        longest: float = min(LONGEST_PAUSE_S, self.pause_s * 2 ** min(pauses, 16))
        return longest * random.uniform(0.5, 1)

    async def _post(self, id: str, body: bytes, kept: bool) -> tuple[int, bytes, float]:
        """Status, content, Retry-After in s. An answer that is too long counts as 413, with some of it."""
        async with self.http.stream(
            "POST",
            f"{self.url}/generate",
            content=body,
            headers={"X-Request-Id": id} | ({} if kept else {"Cache-Control": "no-store"}),
        ) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    return 413, bytes(content), 0.0
            after = response.headers.get("retry-after", "")
            return response.status_code, bytes(content), min(60.0, float(after)) if after.isdecimal() else 0.0

    async def close(self) -> None:
        await self.http.aclose()


def _answer(content: bytes, url: str) -> Ended:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        return Ended("failed", None, f"{url}/generate answered something else than this project's servers do")
    return Ended("finished", found)


def _error(status: int, content: bytes) -> str:
    """What the server said, in either format of errors."""
    said: Any = content[:MOST_TOLD].decode("utf-8", "replace")
    try:
        found = json.loads(content)
        if isinstance(found, dict):
            said = found.get("detail") or found.get("error") or said
            said = said.get("message", said) if isinstance(said, dict) else said
            if isinstance(said, list):  # faults of a body
                said = "; ".join([str(each["msg"]) for each in said if isinstance(each, dict) and "msg" in each])
    except (ValueError, RecursionError):
        pass
    text = said if isinstance(said, str) else json.dumps(said)
    return f"HTTP {status}: {text[:MOST_TOLD]}"
