"""Authentication: bearer tokens from the settings, a token file, or an OAuth introspection endpoint (RFC 7662)."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict

import httpx

from fastserve.server.api.errors import ApiError
from fastserve.server.config import files
from fastserve.server.config.settings import FastServeConfig

PUBLIC_PATHS = ("/health", "/ping", "/page/")
"""Prefixes of paths that need no token; nor does the static page at /."""

CACHE_SECONDS = 60.0
CACHE_SIZE = 10_000
"""How long, and for how many tokens, a successful introspection is cached."""


class Auth:
    """Off when there are neither tokens nor an endpoint. Raises ValueError when the token file cannot be read."""

    def __init__(self, config: FastServeConfig) -> None:
        lines = [secret.get_secret_value() for secret in config.api_key]
        if config.api_key_file is not None:
            lines += files.tokens(config.api_key_file)
        self.clients: dict[bytes, str] = {}
        for line in lines:
            token, *rest = line.split(maxsplit=1)
            digest = _digest(token)
            self.clients[digest] = rest[0] if rest else f"client-{digest.hex()[:8]}"
        self.url = config.token_validation_url
        self.scopes = frozenset(config.required_scopes)
        # Digest -> expiry (monotonic s), client.
        self.introspected: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self.http: httpx.AsyncClient | None = None

    @property
    def on(self) -> bool:
        return bool(self.clients) or self.url is not None

    def is_open(self, path: str) -> bool:
        """Whether this path needs no token."""
        return path == "/" or path.startswith(PUBLIC_PATHS)

    async def client(self, header: str | None) -> str:
        """The client id behind an Authorization header. Raises ApiError 401, 403 or 503."""
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise ApiError(401, "a token is needed: send the header `Authorization: Bearer TOKEN`")
        digest = _digest(token)
        found = None
        for known, client in self.clients.items():  # no early exit: constant time
            if hmac.compare_digest(known, digest):
                found = client
        if found is not None:
            return found
        if self.url is None:
            raise ApiError(401, "this token is not known here")
        until, client = self.introspected.get(digest, (0.0, ""))
        return client if time.monotonic() < until else await self._introspect(token, digest)

    async def _introspect(self, token: str, digest: bytes) -> str:
        """RFC 7662. An active token is cached for CACHE_SECONDS; an inactive one is not cached."""
        assert self.url is not None
        if self.http is None:
            self.http = httpx.AsyncClient(timeout=5.0)
        try:
            response = await self.http.post(self.url, data={"token": token})
            response.raise_for_status()
            claims = response.json()
            if not isinstance(claims, dict):
                raise ValueError("the response is not a JSON object")
        except (httpx.HTTPError, ValueError) as error:
            raise ApiError(
                503, f"the token cannot be checked now: {type(error).__name__} at the validation URL", retry_after=5
            ) from error
        if claims.get("active") is not True:
            raise ApiError(401, "the validation URL says that this token is not active")
        scope = claims.get("scope") or claims.get("scopes") or ""
        missing = self.scopes - set(scope.split() if isinstance(scope, str) else map(str, scope))
        if missing:
            raise ApiError(403, f"this token lacks the scope {', '.join(sorted(missing))}")
        client = str(claims.get("client_id") or claims.get("sub") or f"client-{digest.hex()[:8]}")
        self.introspected[digest] = time.monotonic() + CACHE_SECONDS, client
        if len(self.introspected) > CACHE_SIZE:
            self.introspected.popitem(last=False)
        return client

    async def close(self) -> None:
        if self.http is not None:
            await self.http.aclose()
            self.http = None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
