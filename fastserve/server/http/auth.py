"""Authentication: bearer tokens from the settings, a token file, or an introspection endpoint."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, unquote

from fastserve.server.api.errors import ApiError
from fastserve.server.config import files
from fastserve.server.config.http_settings import HttpSettings
from fastserve.server.http.introspection import Introspection, unnamed

PUBLIC_PATHS = ("/health", "/ping", "/page/")
"""Prefixes of paths that need no token; nor does the static page at /."""

SPOKEN = "x-fastserve-client"
ANYBODY = "*"
"""Name of the client of a token that speaks for others, a gateway's: whose request it is stands in the header SPOKEN,
percent-encoded. Without one it is the gateway's own, which may do all, as without authentication.
"""
LONGEST = 1024
"""Characters of that header."""


def spoken(client: str) -> bytes:
    """The header's line."""
    return f"{SPOKEN}: {quote(client, errors='replace')[:LONGEST]}\r\n".encode("latin-1")


def may_administer(scope: Mapping[str, Any], admin_clients: Collection[str]) -> bool:
    """Whether the client of a request may change what is everybody's: these may, and all where there are no tokens. A
    gateway that speaks for itself counts as without.
    """
    client = scope["state"].get("client")
    return client is None or client in admin_clients


class Auth:
    """Off when there are neither tokens nor an endpoint. Raises ValueError when the token file cannot be read."""

    def __init__(self, config: HttpSettings) -> None:
        lines = [secret.get_secret_value() for secret in config.api_key]
        if config.api_key_file is not None:
            lines += files.tokens(config.api_key_file)
        self.clients: dict[bytes, str] = {}
        for line in lines:
            token, *rest = line.split(maxsplit=1)
            digest = _digest(token)
            self.clients[digest] = rest[0] if rest else unnamed(digest)
        url = config.token_validation_url
        self.introspection = None if url is None else Introspection(url, frozenset(config.required_scopes))

    @property
    def on(self) -> bool:
        return bool(self.clients) or self.introspection is not None

    def is_open(self, path: str) -> bool:
        """Whether this path needs no token."""
        return path == "/" or path.startswith(PUBLIC_PATHS)

    async def client(self, header: str | None, named: str | None = None) -> str | None:
        """The client id behind an Authorization header; None for a gateway itself. named: the header SPOKEN.

        Raises ApiError 401, 403 or 503.
        """
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise ApiError(401, "a token is needed: send the header `Authorization: Bearer TOKEN`")
        digest = _digest(token)
        found = None
        for known, client in self.clients.items():  # no early exit: constant time
            if hmac.compare_digest(known, digest):
                found = client
        if found == ANYBODY:
            return None if named is None else unquote(named[:LONGEST]) or "default"
        if found is not None:
            return found
        if self.introspection is None:
            raise ApiError(401, "this token is not known here")
        return await self.introspection.client(token, digest)

    async def close(self) -> None:
        if self.introspection is not None:
            await self.introspection.close()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
