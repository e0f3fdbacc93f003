"""OAuth 2.0 token introspection (RFC 7662): asks an endpoint who holds a token, within bounds of time, size and number.

What the endpoint says in its own words is believed: an active token's client, or that a token is not active. Whatever
else comes (no answer, another status, a redirection, no JSON, other types) is no answer: such a request is a 503.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import OrderedDict
from typing import Any, NamedTuple

import httpx

from fastserve.server.api.errors import ApiError

EXCHANGE_S = 5.0
"""Seconds for a whole exchange, waiting for its turn included."""

AT_ONCE = 16
"""Exchanges at a time: tokens that nobody knows must not cost more."""

MAX_ANSWER = 64 << 10
"""Bytes of an answer."""

MAX_TOKEN = 8 << 10
"""Characters of a token; a longer one is not asked about."""

MAX_CLIENT = 256
"""Characters of a client's id."""

CACHE_SECONDS, REFUSED_SECONDS = 60.0, 10.0
"""How long an answer is kept: of a token that may come, and of one that may not."""

FAR = 1e12
"""Seconds since the epoch: a later end is none."""

CACHE_SIZE = 10_000
"""Answers that are kept, of either kind."""


class Verdict(NamedTuple):
    """client: of a token that may come; else status and message of the refusal. until: monotonic s."""

    until: float
    client: str
    status: int = 200
    message: str = ""


class OddAnswerError(Exception):
    """The endpoint has answered, but not as RFC 7662 says."""


class Introspection:
    """url: the endpoint. scopes: a token needs all of them."""

    def __init__(self, url: str, scopes: frozenset[str]) -> None:
        self.url = url
        self.scopes = scopes
        self.kept: dict[bool, OrderedDict[bytes, Verdict]] = {True: OrderedDict(), False: OrderedDict()}  # by client
        self.asked: dict[bytes, asyncio.Task[Verdict]] = {}  # exchanges under way, one a token
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.http: httpx.AsyncClient | None = None

    async def client(self, token: str, digest: bytes) -> str:
        """The client id. Raises ApiError 401, 403 or 503."""
        if len(token) > MAX_TOKEN:
            raise ApiError(401, f"this token is longer than {MAX_TOKEN} characters")
        found = self._kept(digest)
        if found is None:
            if digest not in self.asked:
                self.asked[digest] = asyncio.create_task(self._exchange(token, digest))
            found = await asyncio.shield(self.asked[digest])
        if found.status != 200:
            raise ApiError(found.status, found.message, retry_after=5 if found.status == 503 else None)
        return found.client

    def _kept(self, digest: bytes) -> Verdict | None:
        for kept in self.kept.values():
            found = kept.get(digest)
            if found is not None:
                if time.monotonic() < found.until:
                    return found
                del kept[digest]
        return None

    async def _exchange(self, token: str, digest: bytes) -> Verdict:
        try:
            async with asyncio.timeout(EXCHANGE_S), self.turns:
                verdict = self._verdict(await self._ask(token), digest)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OddAnswerError) as error:
            what = str(error) if isinstance(error, OddAnswerError) else type(error).__name__
            return Verdict(0.0, "", 503, f"the token cannot be checked now: {what} at the validation URL")
        finally:
            del self.asked[digest]
        kept = self.kept[verdict.status == 200]
        kept[digest] = verdict
        if len(kept) > CACHE_SIZE:
            kept.popitem(last=False)
        return verdict

    async def _ask(self, token: str) -> dict[str, Any]:
        """The claims. Raises OddAnswerError, or httpx.HTTPError."""
        if self.http is None:
            self.http = httpx.AsyncClient(timeout=EXCHANGE_S)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with self.http.stream("POST", self.url, data={"token": token}, headers=headers) as response:
            if response.status_code != 200:
                raise OddAnswerError(f"status {response.status_code}")
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise OddAnswerError("a compressed answer")
            body = bytearray()
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_ANSWER:
                    raise OddAnswerError(f"an answer of more than {MAX_ANSWER} bytes")
        try:
            claims = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise OddAnswerError("an answer that is not JSON") from error
        if not isinstance(claims, dict):
            raise OddAnswerError("an answer that is no JSON object")
        return claims

    def _verdict(self, claims: dict[str, Any], digest: bytes) -> Verdict:
        """Raises OddAnswerError for claims of other types than RFC 7662 has."""
        now = time.monotonic()
        active = _claim(claims, "active", bool)
        if active is None:
            raise OddAnswerError("an answer without `active`")
        expires = _claim(claims, "exp", int, float)
        left = math.inf if expires is None else max(0, min(expires, FAR)) - time.time()
        if not active or not left > 0:
            return Verdict(now + REFUSED_SECONDS, "", 401, "the validation URL says that this token is not active")
        scopes = _claim(claims, "scope", str, list) or _claim(claims, "scopes", str, list) or ()
        missing = self.scopes - set(scopes.split() if isinstance(scopes, str) else map(str, scopes))
        if missing:
            return Verdict(now + REFUSED_SECONDS, "", 403, f"this token lacks the scope {', '.join(sorted(missing))}")
        client = _claim(claims, "client_id", str) or _claim(claims, "sub", str) or unnamed(digest)
        if len(client) > MAX_CLIENT:
            raise OddAnswerError(f"a client id of more than {MAX_CLIENT} characters")
        return Verdict(now + min(CACHE_SECONDS, left), client)

    async def close(self) -> None:
        for task in self.asked.values():
            task.cancel()
        if self.http is not None:
            await self.http.aclose()
            self.http = None


def unnamed(digest: bytes) -> str:
    """The client id of a token that has no other."""
    return f"client-{digest.hex()[:8]}"


def _claim(claims: dict[str, Any], name: str, *types: type) -> Any:
    """None where it is not given. Raises OddAnswerError for another type."""
    value = claims.get(name)
    if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
        raise OddAnswerError(f"an answer whose `{name}` is {type(value).__name__}")
    return value
